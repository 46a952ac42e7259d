"""The model world: some hosts, one etcd, virtual time and the checker.

Everything that happens follows from the scenario. Each host draws its chances from a generator of
its own, so that a fault left out changes little for the others.
"""

from collections.abc import Callable, Mapping
from random import Random

from tests.sim.check import Checker, eligible, why_not_even
from tests.sim.etcd import WITHOUT_END_S, ModelEtcd, Refuses
from tests.sim.faults import Fault, Scenario, apply
from tests.sim.helper import SWEPT_AFTER_S
from tests.sim.host import Host
from tests.sim.orders import Ask, Command, nothing_more
from tests.sim.timeline import Timeline, address
from yaim.core.facts import KNOWS_CONTROL
from yaim.core.model import Address, ClusterView, NodeName, Place, PoolEntry
from yaim.core.placement import schema_of, version_of

LOOKS_AGAIN_S = 0.5
"""Who waits until no node has an address."""
ETCD_TIMEOUT_PER_TTL = 1 / 3
"""The same as in yaim/dcs/etcd/parts.py."""


class World:
    def __init__(
        self,
        scenario: Scenario,
        *,
        is_told: bool = False,
        is_recorded: bool = False,
        make_checker: "Callable[[World], Checker]" = Checker,
    ) -> None:
        self.scenario = scenario
        self.timeline = Timeline(is_told=is_told)
        self.is_recorded = is_recorded
        self.steps = 0
        self.is_healed = False
        self.loss = scenario.loss
        """The share of messages that get lost or go astray, everywhere and always."""
        self.etcd_timeout_s = scenario.ttl_s * ETCD_TIMEOUT_PER_TTL
        self.granted_s = max(scenario.ttl_s, scenario.min_ttl_s)
        self.random = Random(f"{scenario.seed} world")
        self.hosts: dict[NodeName, Host] = {}
        self.checker = make_checker(self)
        self.etcd = ModelEtcd(
            self.timeline,
            scenario.min_ttl_s,
            self._etcd_changed,
            self.checker.mark_made,
            self.checker.mark_deleted,
            self.checker.cover_gone,
        )
        for number in range(scenario.addresses):
            self.etcd.put_entry(PoolEntry(address(10 + number)))
        for number in range(1, scenario.nodes + 1):
            host = Host(self, number)
            self.hosts[host.name] = host
            self.timeline.later(self.random.uniform(0, 1), host.start)
        for fault in scenario.faults:
            self.timeline.later(fault.at, lambda fault=fault: self._fault(fault))  # type: ignore[misc]

    def host(self, number: int) -> Host:
        hosts = list(self.hosts.values())
        return hosts[number % len(hosts)]

    def entry(self, number: int) -> Address | None:
        """Some address of the pool."""
        pool = sorted(self.etcd.pool)
        return pool[number % len(pool)] if pool else None

    def _etcd_changed(self, view: ClusterView) -> None:
        self.checker.etcd_changed(view.nodes)
        for host in self.hosts.values():
            host.wire.watched(view)

    def _fault(self, fault: Fault) -> None:
        apply(self, fault)

    def order(self, ask: Ask, after_s: float) -> None:
        """An operator looks at what stands there, and gives an order that arrives after so long."""
        control = self.etcd.view().control

        def arrive() -> None:
            if self.is_healed or not self.etcd.is_up:
                return
            is_done = self.etcd.order(ask(control), control.revision)
            self.checker.counts["orders" if is_done else "orders that came to nothing"] += 1

        self.timeline.later(after_s, arrive)

    def command(self, command: Command) -> None:
        """An operator gives an order, and nothing goes wrong."""
        if not self.etcd.order(command, self.etcd.view().control.revision):
            raise AssertionError(f"not done: {command}")

    def heal(self) -> None:
        """The faults end."""
        self.timeline.tell("world", "the faults end")
        self.is_healed = True
        self.loss = 0.0
        if not self.etcd.is_up:
            self.etcd.elect_now()
        self.etcd.fill(0.0, Refuses.NOTHING)
        self.etcd.put_wrong()
        self.command(nothing_more(self.etcd.view().control))
        self.etcd.mend_entries()
        for host in self.hosts.values():
            host.heal()
        self._revoke_copies()
        self.uncover()

    def _revoke_copies(self) -> None:
        """What was copied to a lease without end, and its host has been booted since, looks like
        another host's; its log says so."""
        for name, node in list(self.etcd.nodes.items()):
            has_end = self.etcd.leases[node.lease].ttl_s < WITHOUT_END_S
            if not has_end and node.advertisement.session != self.hosts[name].session:
                self.etcd.lose_leases(node.lease)

    def uncover(self) -> None:
        """People delete what was put over a holder's mark, when no node has the address."""
        covers = [mark for mark in self.etcd.stray_marks.values() if mark.is_over_another]
        for mark in covers:
            if not any(host.may_have(mark.address) for host in self.hosts.values()):
                self.etcd.delete_stray_mark(mark.address)
        if covers:
            self.timeline.later(LOOKS_AGAIN_S, self.uncover)

    def swept_within_s(self) -> float:
        """How long what no record tells of may stay on an interface, which nobody removes: with a
        fence until the end of its long lifetime, muted."""
        are_there = any(
            host.kernel.unrecorded & host.kernel.by_fenced for host in self.hosts.values()
        )
        return self.scenario.broom_s * 1.125 + SWEPT_AFTER_S if are_there else 0.0

    def who_waits(self) -> tuple[NodeName, ...]:
        """Returns those that have become unhealthy again and again."""
        nodes = self.etcd.nodes.values()
        return tuple(sorted(node.name for node in nodes if node.advertisement.waits_s))

    def why_not_settled(self) -> str | None:
        """What is missing until every address is held, evenly, and nobody has a reason to move
        one."""
        holder = {a: names[0] for a, names in self.checker.holders().items()}
        may_hold = eligible(self)
        for each in sorted(may_hold.keys() | holder.keys()):
            mark = self.etcd.marks.get(each)
            if each not in may_hold:
                return f"{each} is on {holder[each]} and not in the pool"
            if not may_hold[each]:
                continue
            if each not in holder:
                return f"{each} is on no node"
            if holder[each] not in may_hold[each]:
                return f"{each} is on {holder[each]}, which may not hold it"
            if mark is None or mark.holder != holder[each]:
                return f"{each} is on {holder[each]}, and the mark is {mark}"
            if (why_not := self._why_elsewhere(each, holder[each])) is not None:
                return why_not
        for name in self.hosts:
            node = self.etcd.nodes.get(name)
            if node is None or not node.advertisement.is_healthy:
                return f"{name} is not advertised as healthy"
            if node.advertisement.session != self.hosts[name].session:
                return f"{name} waits for the lease of its earlier life to end"
            if node.advertisement.down:
                return f"{name} says that an interface is down"
            if node.advertisement.present:
                return f"{name} says that it has {len(node.advertisement.present)} addresses itself"
            if node.advertisement.refused:
                return f"{name} leaves {len(node.advertisement.refused)} addresses to others"
        if (why_not := self._why_not_preferred(holder, may_hold)) is not None:
            return why_not
        return self._why_not_even(holder, self._preferred(may_hold))

    def _why_not_preferred(
        self, holder: Mapping[Address, NodeName], may_hold: Mapping[Address, frozenset[NodeName]]
    ) -> str | None:
        """Who may take what its entry prefers to be there gets it, also if all is even without."""
        control, waiting = self.etcd.orders.control(), frozenset(self.who_waits())
        if version_of(self.etcd.nodes) < KNOWS_CONTROL or control.pause is not None:
            return None
        for each, name in sorted(holder.items()):
            if each in control.pins or each in control.moves:
                continue
            able = may_hold[each] - waiting - control.drains.keys()
            preferred = able & self.etcd.pool[each].prefer
            if preferred and name not in preferred:
                return f"{each} is on {name}, and its entry prefers {', '.join(sorted(preferred))}"
        return None

    def _preferred(
        self, may_hold: Mapping[Address, frozenset[NodeName]]
    ) -> Mapping[Address, frozenset[NodeName]]:
        """Of those that may hold each address the ones that its entry prefers, if there are any: to
        be level nothing goes from these. A pin comes before."""
        if version_of(self.etcd.nodes) < KNOWS_CONTROL:
            return may_hold
        return {a: names & self.etcd.pool[a].prefer or names for a, names in may_hold.items()}

    def _why_not_even(
        self, holder: Mapping[Address, NodeName], may_hold: Mapping[Address, frozenset[NodeName]]
    ) -> str | None:
        """What all understand is even for itself; the rest beside that, which stays for it."""
        lowest = schema_of(self.etcd.nodes)
        shared = {a for a in holder if self.etcd.pool[a].schema <= lowest}
        beside = {a: frozenset({holder[a]}) if a in shared else may_hold[a] for a in holder}
        return why_not_even(
            {a: holder[a] for a in shared}, {a: may_hold[a] for a in may_hold if a in shared}
        ) or why_not_even(holder, beside)

    def _why_elsewhere(self, address: Address, holder: NodeName) -> str | None:
        """If an address is not where its entry and its holder's settings have it."""
        entry, settings = self.etcd.pool[address], self.hosts[holder].settings
        interface = entry.interface or settings.interface
        should = Place(interface, entry.prefix_length or settings.prefix_length_4)
        place = self.hosts[holder].kernel.places[address]
        return f"{address} is on {place}, not on {should}" if place != should else None
