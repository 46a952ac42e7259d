"""What goes wrong, as data: drawn from a seed before anything runs, so that some of it can be left
out to find what matters.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, TypeAlias

from tests.sim.etcd import NO_LEASE, NOBODY, WITHOUT_END_S, Refuses
from tests.sim.orders import (
    Ask,
    drain,
    move,
    nothing_more,
    pause,
    pin,
    resume,
    undrain,
    unpin,
    weigh,
)
from tests.sim.timeline import address
from yaim.core.model import Address, LeaseId, NodeName, PoolEntry, WrongEntry
from yaim.core.settings import Rebalance, Window

if TYPE_CHECKING:
    from tests.sim.world import World

NIGHT = Window(120, 240)
START_S = 3.0
"""Faults begin after this long."""


@dataclass(frozen=True, slots=True)
class Fault:
    at: float
    kind: str
    """A key of KINDS."""
    host: int
    """Modulo the number of hosts; as all the rest, of no meaning to some kinds."""
    seconds: float
    number: int
    """A number to choose anything else by."""

    def __str__(self) -> str:
        return f"{self.at:8.3f}  {self.kind} (host {self.host}, {self.seconds:g} s, {self.number})"


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that a run follows from."""

    seed: int
    nodes: int
    addresses: int
    ttl_s: int
    min_ttl_s: int
    """That etcd grants."""
    loss: float
    keeps: bool
    """An unhealthy node keeps what no other could hold."""
    faults: tuple[Fault, ...]
    faults_end_at: float
    flap_max_wait_s: float = 0.0
    rise: int = 1
    """The `rise` of the check of the service."""
    fenced: frozenset[int] = frozenset()
    """The numbers of the hosts whose helpers begin with a fence."""
    broom_s: int = 60
    """The lifetimes that those give their addresses."""
    leaving: frozenset[int] = frozenset()
    """The numbers of the hosts that begin with `connections: leave`."""
    without_resets: frozenset[int] = frozenset()
    """The numbers of the hosts whose kernels, or helpers, end no connections."""
    rebalance: tuple[tuple[Rebalance | Window, float], ...] = ()
    """What each host's settings begin with, and its delay; none: all level at once."""

    def __str__(self) -> str:
        rebalance = ", ".join(f"{each} ({delay_s:g} s)" for each, delay_s in self.rebalance)
        return (
            f"seed {self.seed}: {self.nodes} nodes, {self.addresses} addresses, ttl {self.ttl_s} s"
            f" (etcd's least: {self.min_ttl_s} s), {self.loss:.1%} of messages lost or astray,"
            f" who flaps waits at most {self.flap_max_wait_s:g} s,"
            f" fences on {sorted(self.fenced)}, brooms of {self.broom_s} s,"
            f" rebalance {rebalance or 'auto'},"
            f" {len(self.faults)} faults until {self.faults_end_at:.1f} s"
        )


def draw(seed: int, only: tuple[str, ...] = ()) -> Scenario:
    """The scenario of a seed: most are short, with the shortest ttl; one in ten is long. Every
    other seed has some kinds of faults only, and so more of each (swarm testing: Groce and
    others, 2012). `only`: of these kinds. What concerns fences is drawn apart, so that a cluster
    without any is what it was before there were any."""
    random = Random(f"{seed} faults")
    is_long = seed % 10 == 9
    length_s = random.uniform(15.0, 40.0) if is_long else random.uniform(3.0, 9.0)
    nodes = random.choice((2, 2, 3, 3, 4, 5))
    calm = random.choice((1.0, 1.0, 3.0))
    some = tuple(k for k in KINDS if seed % 2 or random.random() < 0.3) or tuple(KINDS)
    kinds = tuple(k for k in only if k in KINDS) or some
    weights = [KINDS[kind][0] for kind in kinds]
    faults: list[Fault] = []
    at = START_S
    host = 0
    while True:
        at += calm * random.choice((0.003, 0.05, 0.3, 0.8, 1.5))
        if at >= START_S + length_s:
            break
        if random.random() < 0.5:
            host = random.randrange(nodes)
        kind = random.choices(kinds, weights)[0]
        seconds = random.choice((0.05, 0.3, 1.0, 2.2, 3.5, 6.0))
        faults.append(Fault(round(at, 3), kind, host, seconds, random.randrange(1000)))
    fenced, broom_s, more = _draw_fences(seed, nodes, length_s, only)
    leaving, without_resets, switched = _draw_connections(seed, nodes, length_s, only)
    more += switched
    rebalance, turns = _draw_rebalance(seed, nodes, length_s)
    asked = _draw_orders(seed, nodes, length_s, only)
    faults = sorted([*faults, *more, *turns, *asked], key=lambda fault: fault.at)
    return Scenario(
        seed,
        nodes,
        addresses=random.randint(1, 8),
        ttl_s=random.choice((3, 5, 10)) if is_long else 3,
        min_ttl_s=random.choice((2, 2, 2, 4)),
        loss=random.choice((0.0, 0.003, 0.02)),
        keeps=random.random() < 0.3,
        faults=tuple(faults),
        faults_end_at=START_S + length_s,
        # Shorter than the faults last, or longer than the run.
        flap_max_wait_s=random.choice((0.0, 1.0, 3.0, 60.0)),
        rise=random.choice((1, 1, 2)),
        fenced=fenced,
        broom_s=broom_s,
        leaving=leaving,
        without_resets=without_resets,
        rebalance=rebalance,
    )


def _draw_fences(
    seed: int, nodes: int, length_s: float, only: tuple[str, ...]
) -> tuple[frozenset[int], int, list[Fault]]:
    """Which hosts have a fence: none, all, or some; the lifetimes of their addresses; and the
    faults that concern fences."""
    random = Random(f"{seed} fences")
    share = random.choice((0.0, 0.0, 0.5, 1.0, 1.0))
    fenced = frozenset(n for n in range(1, nodes + 1) if random.random() < share)
    broom_s = random.choice((4, 60, 60))
    kinds = tuple(k for k in FENCE_KINDS if not only or k in only)
    count = random.choice((0, 1, 2, 4, 8)) if fenced and kinds else 0
    faults = []
    weights = [FENCE_KINDS[kind][0] for kind in kinds]
    for _ in range(count):
        at = START_S + random.uniform(0.0, length_s)
        kind = random.choices(kinds, weights)[0]
        seconds = random.choice((0.03, 0.3, 1.0, 2.2, 3.5, 6.0))
        host = random.randrange(nodes)
        faults.append(Fault(round(at, 3), kind, host, seconds, random.randrange(1000)))
    return fenced, broom_s, faults


def _draw_connections(
    seed: int, nodes: int, length_s: float, only: tuple[str, ...]
) -> tuple[frozenset[int], frozenset[int], list[Fault]]:
    """Which hosts leave connections as they are, and which can do nothing else; and the faults that
    concern connections. Drawn apart, as what concerns fences is."""
    random = Random(f"{seed} connections")
    share = random.choice((0.0, 0.0, 0.2))
    leaving = frozenset(n for n in range(1, nodes + 1) if random.random() < share)
    without_resets = frozenset(n for n in range(1, nodes + 1) if random.random() < share)
    kinds = tuple(k for k in CONNECTION_KINDS if not only or k in only)
    count = random.choice((0, 0, 0, 1, 2)) if kinds else 0
    faults = []
    for _ in range(count):
        at = round(START_S + random.uniform(0.0, length_s), 3)
        faults.append(Fault(at, random.choice(kinds), random.randrange(nodes), 0.0, 0))
    return leaving, without_resets, faults


def _draw_rebalance(
    seed: int, nodes: int, length_s: float
) -> tuple[tuple[tuple[Rebalance | Window, float], ...], list[Fault]]:
    """With every third seed: which hosts put levelling off, and when their windows open and
    close."""
    random = Random(f"{seed} rebalance")
    if random.random() < 2 / 3:
        return (), []
    kinds = Rebalance.AUTO, Rebalance.NEVER, NIGHT, NIGHT
    drawn = tuple((random.choice(kinds), random.choice((0.0, 0.0, 0.4, 2.0))) for _ in range(nodes))
    turns = [
        Fault(
            round(START_S + random.uniform(0.0, length_s), 3),
            "window turned",
            random.randrange(nodes),
            0.0,
            0,
        )
        for _ in range(random.choice((0, 2, 6)))
    ]
    return drawn, turns


def _draw_orders(seed: int, nodes: int, length_s: float, only: tuple[str, ...]) -> list[Fault]:
    """With every other seed: what operators ask for, now and then two at once. Drawn apart."""
    random = Random(f"{seed} orders")
    kinds = tuple(k for k in ORDER_KINDS if not only or k in only)
    if not kinds or (random.random() < 0.5 and not only):
        return []
    weights = [ORDER_KINDS[kind][0] for kind in kinds]
    found: list[Fault] = []
    for _ in range(random.choice((1, 3, 6, 12))):
        at = START_S + random.uniform(0.0, length_s)
        if found and random.random() < 0.3:
            at = found[-1].at + random.choice((0.0, 0.002, 0.01))
        kind = random.choices(kinds, weights)[0]
        seconds = random.choice((0.05, 0.3, 1.0, 2.2, 3.5, 6.0))
        host, number = random.randrange(nodes), random.randrange(1000)
        found.append(Fault(round(at, 3), kind, host, seconds, number))
    return found


def apply(world: "World", fault: Fault) -> None:
    """It happens now."""
    if world.timeline.is_told:
        name = world.host(fault.host).name
        world.timeline.tell("FAULT", f"{fault.kind} ({name}, {fault.seconds:g} s, {fault.number})")
    kinds = KINDS | FENCE_KINDS | CONNECTION_KINDS | REBALANCE_KINDS | ORDER_KINDS
    _, happen = kinds[fault.kind]
    happen(world, fault)


# --- the coordinator, the helper ---------------------------------------------------------------


def _coordinator_killed(world: "World", fault: Fault) -> None:
    host = world.host(fault.host)
    host.crash_coordinator()
    host.deliver(fault.seconds, host.start_coordinator)


def _coordinator_stopped(world: "World", fault: Fault) -> None:
    """SIGTERM; it is started again when it has ended, as after a maintenance."""
    world.host(fault.host).stop_coordinator()


def _coordinator_restarted(world: "World", fault: Fault) -> None:
    world.host(fault.host).restart_coordinator()


def _coordinator_frozen(world: "World", fault: Fault) -> None:
    world.host(fault.host).freeze_coordinator(fault.seconds)


def _helper_killed(world: "World", fault: Fault) -> None:
    host = world.host(fault.host)
    host.crash_helper()
    host.deliver(fault.seconds, host.start_helper)


def _helper_frozen(world: "World", fault: Fault) -> None:
    world.host(fault.host).freeze_helper(fault.seconds)


def _both_killed(world: "World", fault: Fault) -> None:
    _coordinator_killed(world, fault)
    _helper_killed(world, replace(fault, seconds=fault.seconds * (0.2, 1, 2)[fault.number % 3]))


def _both_frozen(world: "World", fault: Fault) -> None:
    """Either is continued first."""
    longer = replace(fault, seconds=fault.seconds + (0.0, 0.01, 0.5, 1.5)[fault.number // 2 % 4])
    first, second = (longer, fault) if fault.number % 2 else (fault, longer)
    _coordinator_frozen(world, first)
    _helper_frozen(world, second)


def _helper_refuses(world: "World", fault: Fault) -> None:
    host = world.host(fault.host)
    host.refuses = ("not-allowed", "limit", "not-allowed", "primary")[fault.number % 4]

    def again() -> None:
        host.refuses = None

    world.timeline.later(fault.seconds, again)


def _network_fails(world: "World", fault: Fault) -> None:
    """The kernel refuses every change of an address."""
    host = world.host(fault.host)
    host.can_change_network = False

    def again() -> None:
        host.can_change_network = True

    world.timeline.later(fault.seconds, again)


def _record_fails(world: "World", fault: Fault) -> None:
    host = world.host(fault.host)
    host.can_record = False

    def again() -> None:
        host.can_record = True

    world.timeline.later(fault.seconds, again)


def _record_purged(world: "World", fault: Fault) -> None:
    """While the helper does not run, which knows nothing then of what it has put there."""
    _helper_killed(world, fault)
    kernel = world.host(fault.host).kernel
    kernel.unrecorded |= kernel.ours.keys() | kernel.under_way
    if fault.number % 2:
        _coordinator_killed(world, fault)


def _disk_hangs(world: "World", fault: Fault) -> None:
    """The one of the helper's record."""
    host = world.host(fault.host)
    host.does_disk_hang = True
    seconds = fault.seconds * (1.0, 0.1, 0.3)[fault.number % 3]
    world.timeline.later(seconds, host.disk_answers)


def _reloaded(world: "World", fault: Fault) -> None:
    host = world.host(fault.host)
    interval_s = (0.5, 1.0, 2.0)[fault.number % 3]
    host.change_settings(interval_s, has_other_check=fault.number % 2 == 0)


def _check_added(world: "World", fault: Fault) -> None:
    """Adds a check by SIGHUP; its first answer takes its time."""
    world.host(fault.host).add_slow_check(fault.seconds)


# --- the host -----------------------------------------------------------------------------------


def _powered_off(world: "World", fault: Fault) -> None:
    host = world.host(fault.host)
    host.power_off()
    host.deliver(fault.seconds, host.start)


def _paused(world: "World", fault: Fault) -> None:
    """The wall clock is set right at once, some time later, or never."""
    host = world.host(fault.host)
    host.pause(fault.seconds)
    after_s = (0.001, 0.05, 0.5, None)[fault.number % 4]

    def set_right() -> None:
        if not world.is_healed:
            host.set_clock_forward(fault.seconds)

    if after_s is not None:
        world.timeline.later(fault.seconds, lambda: host.deliver(after_s, set_right))


def _clock_set(world: "World", fault: Fault) -> None:
    """Sets the wall clock forward, without any pause."""
    host = world.host(fault.host)
    if not host.is_paused:
        host.set_clock_forward(fault.seconds)


def _link_down(world: "World", fault: Fault) -> None:
    """Takes a carrier from a link, or sets the link down as well."""
    host = world.host(fault.host)
    interface = ("eth0", "eth0", "eth1")[fault.number // 2 % 3]
    host.set_link(interface, is_up=False, is_interface_up=fault.number % 2 == 0)

    def again() -> None:
        if not world.is_healed:
            host.set_link(interface, is_up=True, is_interface_up=True)

    world.timeline.later(fault.seconds, again)


def _routing_lock_held(world: "World", fault: Fault) -> None:
    """RTNL: no address comes or goes meanwhile, whoever wants it, nor by the end of its
    lifetime."""
    world.host(fault.host).hold_routing_lock(fault.seconds)


def _address_deleted(world: "World", fault: Fault) -> None:
    """Deletes an address by hand: ip address delete."""
    kernel = world.host(fault.host).kernel
    ours = sorted(kernel.ours)
    if ours and not kernel.is_held:
        kernel.delete(ours[fault.number % len(ours)])


def _address_foreign(world: "World", fault: Fault) -> None:
    """Somebody has added it by hand, with another prefix length, and removes it again."""
    entry = world.entry(fault.number)
    kernel = world.host(fault.host).kernel
    if entry is not None:
        kernel.add_foreign(entry)

        def again() -> None:
            if not world.is_healed:
                kernel.delete_foreign(entry)

        if fault.number % 2:
            world.timeline.later(fault.seconds / 2, lambda: kernel.fade(entry))
        world.timeline.later(fault.seconds, again)


# --- the fence ----------------------------------------------------------------------------------


def _helper_stopped_midway(world: "World", fault: Fault) -> None:
    """Between two of the steps that it makes next, or within one."""
    host = world.host(fault.host)
    host.stop_helper_midway(fault.number % 7, fault.seconds, is_killed=False)


def _helper_killed_midway(world: "World", fault: Fault) -> None:
    host = world.host(fault.host)
    host.stop_helper_midway(fault.number % 7, fault.seconds, is_killed=True)


def _ruleset_flushed(world: "World", fault: Fault) -> None:
    """nft flush ruleset; systemctl restart nftables."""
    world.host(fault.host).kernel.flush()


def _fence_switched(world: "World", fault: Fault) -> None:
    """Somebody writes `fence: off` into helper.yml, or takes that out again, and the helper is
    started anew."""
    host = world.host(fault.host)
    host.has_fence = not host.has_fence
    host.crash_helper()
    host.deliver(fault.seconds / 10, host.start_helper)


# --- connections --------------------------------------------------------------------------------


def _connections_switched(world: "World", fault: Fault) -> None:
    """Between `connections: reset` and `leave`."""
    world.host(fault.host).switch_connections()


# --- its service --------------------------------------------------------------------------------


def _sick(world: "World", fault: Fault) -> None:
    host = world.host(fault.host)
    host.sick_until = world.timeline.now + fault.seconds


def _flapping(world: "World", fault: Fault) -> None:
    host = world.host(fault.host)
    host.flapping_until = world.timeline.now + fault.seconds


def _all_flapping(world: "World", fault: Fault) -> None:
    """One after the other, or together."""
    for number, host in enumerate(world.hosts.values()):
        host.flapping_until = world.timeline.now + fault.seconds
        host.flapping_lag_s = (0.0, 0.3, 0.7)[fault.number % 3] * number


def _checks_hang(world: "World", fault: Fault) -> None:
    host = world.host(fault.host)
    host.mute_until = world.timeline.now + fault.seconds


def _all_sick(world: "World", fault: Fault) -> None:
    for host in world.hosts.values():
        host.sick_until = world.timeline.now + fault.seconds


# --- the network --------------------------------------------------------------------------------


def _cut_off(world: "World", fault: Fault) -> None:
    world.host(fault.host).wire.cut_until(world.timeline.now + fault.seconds)


def _requests_cut(world: "World", fault: Fault) -> None:
    world.host(fault.host).wire.requests_cut_until = world.timeline.now + fault.seconds


def _answers_cut(world: "World", fault: Fault) -> None:
    wire = world.host(fault.host).wire
    wire.answers_cut_until = wire.watch_cut_until = world.timeline.now + fault.seconds


def _watch_cut(world: "World", fault: Fault) -> None:
    world.host(fault.host).wire.watch_cut_until = world.timeline.now + fault.seconds


def _blind(world: "World", fault: Fault) -> None:
    """It can read nothing, as there is too much, and keeps its lease."""
    world.host(fault.host).blind(fault.seconds * (1, 3)[fault.number % 2])


def _slow(world: "World", fault: Fault) -> None:
    world.host(fault.host).wire.slow_until = world.timeline.now + fault.seconds


def _lossy(world: "World", fault: Fault) -> None:
    world.host(fault.host).wire.lossy_until = world.timeline.now + fault.seconds


# --- etcd, and people's hands in it -------------------------------------------------------------


def _leader_lost(world: "World", fault: Fault) -> None:
    world.etcd.lose_leader(fault.seconds)


def _etcd_frozen(world: "World", fault: Fault) -> None:
    world.etcd.freeze(fault.seconds)


def _etcd_full(world: "World", fault: Fault) -> None:
    world.etcd.fill(fault.seconds, tuple(Refuses)[fault.number % 3])


def _leader_moved(world: "World", fault: Fault) -> None:
    world.etcd.elect_now()


def _all_slow(world: "World", fault: Fault) -> None:
    for host in world.hosts.values():
        host.wire.slow_until = world.timeline.now + fault.seconds


def _lease_revoked(world: "World", fault: Fault) -> None:
    """One: others may take the addresses at once, and its holder does not know it at once."""
    host = world.host(fault.host)
    node = world.etcd.nodes.get(host.name)
    if node is not None and node.lease in world.etcd.leases:
        until = world.timeline.now + world.granted_s + 1.0
        host.excused_until = max(host.excused_until, until)
        world.etcd.lose_leases(node.lease)


def _leases_revoked(world: "World", fault: Fault) -> None:
    world.checker.all_leases_are_lost()
    world.etcd.lose_leases()


def _etcd_wiped(world: "World", fault: Fault) -> None:
    world.checker.all_leases_are_lost()
    world.etcd.wipe()


def _entry_added(world: "World", fault: Fault) -> None:
    if len(world.etcd.pool) < 10:
        world.etcd.put_entry(PoolEntry(address(100 + fault.number % 100)))


def _entry_deleted(world: "World", fault: Fault) -> None:
    entry = world.entry(fault.number)
    if entry is not None:
        world.etcd.delete_entry(entry)


def _entry_changed(world: "World", fault: Fault) -> None:
    """One node is excluded from it, another one favoured."""
    entry = world.entry(fault.number)
    if entry is not None:
        exclude = frozenset({world.host(fault.number // 2).name}) if fault.number % 3 else None
        prefer = frozenset({world.host(fault.number // 5).name})
        world.etcd.put_entry(PoolEntry(entry, exclude=exclude or frozenset(), prefer=prefer))


def _entry_moved(world: "World", fault: Fault) -> None:
    """Moves an entry to another interface, or another prefix length; to one that no node has; or
    changes it so that no node understands it."""
    entry = world.entry(fault.number)
    if entry is not None:
        interface = (None, "eth0", "eth1", "eth1", "eth9")[fault.number % 5]
        prefix = (None, 24)[fault.number // 5 % 2]
        typo = "a trailing comma" if fault.number // 10 % 3 == 0 else ""
        world.etcd.put_entry(PoolEntry(entry, interface, prefix, fault=typo))


def _settings_moved(world: "World", fault: Fault) -> None:
    """Another interface or netmask in yaim.yml, and SIGHUP."""
    host = world.host(fault.host)
    interface, netmask = ("eth0", "eth1")[fault.number % 2], (32, 24)[fault.number // 2 % 2]
    host.settings = replace(host.settings, interface=interface, prefix_length_4=netmask)
    host.reload()


def _interface_fails(world: "World", fault: Fault) -> None:
    """What is to go there from another one."""
    host = world.host(fault.host)
    host.fails_at = ("eth0", "eth1", "eth1")[fault.number % 3]

    def again() -> None:
        host.fails_at = ""

    world.timeline.later(fault.seconds, again)


def _entry_newer(world: "World", fault: Fault) -> None:
    """Gives an entry an option that older nodes do not know."""
    entry = world.entry(fault.number)
    if entry is not None:
        world.etcd.put_entry(replace(world.etcd.pool[entry], schema=2))


def _other_version(world: "World", fault: Fault) -> None:
    host = world.host(fault.host)
    host.change_version(is_older=not host.is_older)


def _entry_wrong(world: "World", fault: Fault) -> None:
    world.etcd.put_wrong(WrongEntry("192.0.2.010", "not in canonical form"))


def _stray_mark(world: "World", fault: Fault) -> None:
    """Puts a mark without a lease; of what nobody holds, or put over a holder's, or in its place.
    One put over another perhaps has a live lease: in the name of another node, or of the holder."""
    covered = world.entry(fault.number) if fault.number % 3 else None
    it = covered or address(100 + fault.number % 100)
    mark = world.etcd.marks.get(it)
    node = world.etcd.nodes.get(world.host(fault.host).name)
    if mark is not None and fault.number % 5 == 0:
        replace_mark(world, it)
    elif mark is None or node is None or fault.number % 2:
        cover(world, it)
    else:
        cover(world, it, node.name, node.lease)


def cover(
    world: "World", it: Address, holder: NodeName = NOBODY, lease: LeaseId = NO_LEASE
) -> None:
    """Somebody puts a mark, perhaps over another one."""
    mark = world.etcd.marks.get(it)
    if mark is not None:
        world.hosts[mark.holder].is_covered()
    world.etcd.put_mark(it, holder, lease)


def replace_mark(world: "World", it: Address) -> None:
    """Somebody deletes it, and then puts one without a lease there."""
    host = world.hosts[world.etcd.marks[it].holder]
    cover(world, it)
    world.etcd.delete_stray_mark(it)
    world.etcd.put_mark(it)
    if world.timeline.now < host.wire.blind_until:
        # That nobody promises.
        host.excused_until = max(host.excused_until, host.unmarked_until)


def _stray_node(world: "World", fault: Fault) -> None:
    """Puts a node without a lease: one that there is not, or over a node's own."""
    nodes = world.etcd.nodes
    if nodes:
        names = sorted(nodes)
        name = names[fault.number // 3 % len(names)]
        put_as = name if fault.number % 3 == 0 else NodeName(f"n0{fault.number % 2}")
        world.etcd.put_stray_node(put_as, nodes[name].advertisement)


def _node_copied(world: "World", fault: Fault) -> None:
    """Copies a node to a lease that nobody keeps, or that has no end; perhaps as if another host
    did."""
    name = world.host(fault.host).name
    if name in world.etcd.nodes:
        ttl_s = (world.granted_s, WITHOUT_END_S)[fault.number % 2]
        session = "elsewhere" if fault.number // 2 % 3 == 0 else None
        world.etcd.copy_node(name, ttl_s, session)


# --- operators ----------------------------------------------------------------------------------


def _order(world: "World", fault: Fault, ask: Ask) -> None:
    """It arrives a little later, or much; perhaps twice; and fails if another one was first."""
    world.order(ask, (0.0005, 0.002, 0.02, 0.5, 2.5)[fault.number % 5])
    if fault.number % 7 == 0:
        world.order(ask, (0.0005, 0.6)[fault.number % 2])


def _for_s(fault: Fault) -> float | None:
    """Every other order ends by itself."""
    return fault.seconds if fault.number % 2 else None


def _drained(world: "World", fault: Fault) -> None:
    """One node, two, or all."""
    names = [world.host(fault.host + n).name for n in range((1, 1, 2, 9)[fault.number // 2 % 4])]
    _order(world, fault, lambda _: drain(*dict.fromkeys(names), for_s=_for_s(fault)))


def _undrained(world: "World", fault: Fault) -> None:
    _order(world, fault, lambda control: undrain(*sorted(control.drains)[:2]))


def _pause_asked(world: "World", fault: Fault) -> None:
    _order(world, fault, lambda _: pause(_for_s(fault)))


def _resumed(world: "World", fault: Fault) -> None:
    _order(world, fault, lambda _: resume())


def _pinned(world: "World", fault: Fault) -> None:
    entry = world.entry(fault.number)
    if entry is not None:
        _order(world, fault, lambda _: pin(entry, world.host(fault.host).name, _for_s(fault)))


def _unpinned(world: "World", fault: Fault) -> None:
    entry = world.entry(fault.number)
    if entry is not None:
        _order(world, fault, lambda _: unpin(entry))


def _moved(world: "World", fault: Fault) -> None:
    entry = world.entry(fault.number)
    if entry is not None:
        _order(world, fault, lambda _: move(entry, world.host(fault.host).name, fault.seconds))


def _weighed(world: "World", fault: Fault) -> None:
    weight = (1, 2, 3, 10, 100)[fault.number % 5]
    name = str(world.host(fault.host).name)
    _order(world, fault, lambda _: weigh(_for_s(fault), **{name: weight}))


def _nothing_more_asked(world: "World", fault: Fault) -> None:
    _order(world, fault, nothing_more)


def _window_turned(world: "World", fault: Fault) -> None:
    """It opens, or closes."""
    host = world.host(fault.host)
    host.turn_window(is_open=not host.is_window_open)


Kind: TypeAlias = tuple[float, Callable[["World", Fault], None]]
"""How often, against the others, and what happens."""

KINDS: dict[str, Kind] = {
    "coordinator killed": (3, _coordinator_killed),
    "coordinator stopped": (2, _coordinator_stopped),
    "coordinator restarted": (1.5, _coordinator_restarted),
    "other version": (1.5, _other_version),
    "coordinator frozen": (3, _coordinator_frozen),
    "helper killed": (3, _helper_killed),
    "helper frozen": (3, _helper_frozen),
    "both killed": (2, _both_killed),
    "both frozen": (3, _both_frozen),
    "helper refuses": (1.5, _helper_refuses),
    "network fails": (1, _network_fails),
    "record fails": (0.5, _record_fails),
    "record purged": (0.7, _record_purged),
    "disk hangs": (1, _disk_hangs),
    "reloaded": (0.5, _reloaded),
    "check added": (1, _check_added),
    "powered off": (2, _powered_off),
    "VM paused": (1.5, _paused),
    "clock set": (0.7, _clock_set),
    "link down": (2, _link_down),
    "routing lock held": (2, _routing_lock_held),
    "address deleted": (1.5, _address_deleted),
    "address foreign": (2, _address_foreign),
    "sick": (3, _sick),
    "flapping": (2, _flapping),
    "all flapping": (1, _all_flapping),
    "checks hang": (1, _checks_hang),
    "all sick": (0.5, _all_sick),
    "cut off": (3, _cut_off),
    "requests cut": (2, _requests_cut),
    "answers cut": (2, _answers_cut),
    "watch cut": (2, _watch_cut),
    "blind": (1.5, _blind),
    "slow": (2, _slow),
    "lossy": (2, _lossy),
    "leader lost": (2, _leader_lost),
    "leader moved": (1, _leader_moved),
    "etcd frozen": (1.5, _etcd_frozen),
    "etcd full": (1.5, _etcd_full),
    "all slow": (1, _all_slow),
    "lease revoked": (0.3, _lease_revoked),
    "leases revoked": (0.7, _leases_revoked),
    "etcd wiped": (0.4, _etcd_wiped),
    "entry added": (2, _entry_added),
    "entry deleted": (1, _entry_deleted),
    "entry changed": (1.5, _entry_changed),
    "entry moved": (1.5, _entry_moved),
    "settings moved": (0.7, _settings_moved),
    "interface fails": (0.7, _interface_fails),
    "entry newer": (0.7, _entry_newer),
    "entry wrong": (0.5, _entry_wrong),
    "stray mark": (1, _stray_mark),
    "stray node": (0.5, _stray_node),
    "node copied": (0.7, _node_copied),
}

FENCE_KINDS: dict[str, Kind] = {
    "helper stopped midway": (3, _helper_stopped_midway),
    "helper killed midway": (3, _helper_killed_midway),
    "ruleset flushed": (1, _ruleset_flushed),
    "fence switched": (1, _fence_switched),
}
"""What happens only where some host has a fence."""

ORDER_KINDS: dict[str, Kind] = {
    "drained": (3, _drained),
    "undrained": (2, _undrained),
    "pause asked": (1, _pause_asked),
    "resumed": (1, _resumed),
    "pinned": (2, _pinned),
    "unpinned": (1, _unpinned),
    "moved": (3, _moved),
    "weighed": (1.5, _weighed),
    "nothing more asked": (0.5, _nothing_more_asked),
}
"""What operators ask for."""
CONNECTION_KINDS: dict[str, Kind] = {"connections switched": (1, _connections_switched)}
"""What happens to no address."""
REBALANCE_KINDS: dict[str, Kind] = {"window turned": (1, _window_turned)}
"""What happens only where some host puts levelling off."""
