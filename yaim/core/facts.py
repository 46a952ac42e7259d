"""Questions about the state that several decisions ask. Reads; changes nothing.

Facts(state, now) answers for the state as it is at each call: within a step that is the draft, with
all that has happened so far.
"""

from dataclasses import replace

from yaim.core.deadline import least_life_s
from yaim.core.elsewhere import NOTHING
from yaim.core.model import (
    NO_CONTROL,
    Address,
    Boottime,
    Control,
    Mark,
    Node,
    NodeName,
    Order,
    Place,
    PoolEntry,
    Revision,
    address_order,
)
from yaim.core.placement import version_of
from yaim.core.state.addresses import Phase
from yaim.core.state.health import Health
from yaim.core.state.lease import Lease
from yaim.core.state.state import Draft, OwnMarks, State

ABSENT_KEY = Revision(0)
"""The revision that etcd gives a key that does not exist."""
KNOWS_CONTROL = 4
"""The version of the placement (yaim/core/placement.py) whose nodes understand the keys below
control/, and marks that were handed over."""
_MAYBE_HERE = frozenset({Phase.ADDING, Phase.UP, Phase.UNKNOWN})


class Facts:
    __slots__ = ("now", "own_marks", "state")

    def __init__(self, state: Draft | State, now: Boottime) -> None:
        self.state = state
        self.now = now
        self.own_marks = state.own_marks
        """Our marks as they were last looked for; kept for the next step."""

    # --- our lease, name and marks -----------------------------------------------------------

    @property
    def me(self) -> NodeName:
        return self.state.settings.node

    def life_s(self) -> float:
        """How much longer addresses may stay; 0 or less: not at all."""
        return self.state.lease.life_s(self.now)

    def ttl_s(self) -> int:
        return self.state.lease.ttl_s(self.state.settings)

    def lease_to_add_with(self) -> Lease | None:
        """Returns the lease, if it has life enough left for an address to be added."""
        return self.state.lease.current if self.has_life_to_add() else None

    def has_life_to_add(self) -> bool:
        return self.life_s() >= least_life_s(is_fenced=self.state.lease.is_fenced)

    def advertised(self) -> Node | None:
        """Returns what stands in etcd under our name."""
        view = self.state.cluster.view
        return view.nodes.get(self.state.settings.node) if view is not None else None

    def my_node(self) -> Node | None:
        """Returns our advertisement, if it is of this lease."""
        node, lease = self.advertised(), self.state.lease.current
        return node if node is not None and lease is not None and node.lease == lease.id else None

    def others_under_our_name(self) -> Node | None:
        """Returns what stands under our name and is not of our lease."""
        view, name = self.state.cluster.view, self.me
        if view is None or self.my_node() is not None:
            return None
        return view.stray_nodes.get(name) or view.nodes.get(name)

    def replaced(self) -> Revision:
        """Returns the revision of what stands under our name, is not of our lease, and is written
        over: a copy of our advertisement under another lease, or one without any, which is
        nobody's. 0: nothing."""
        view, helper = self.state.cluster.view, self.state.host.helper
        if view is None:
            return ABSENT_KEY
        stray, node = view.stray_nodes.get(self.me), view.nodes.get(self.me)
        if stray is not None:
            return stray.revision
        if node is None or helper is None or node.advertisement.session != helper.session:
            return ABSENT_KEY
        return node.revision

    def keeps_name(self) -> bool:
        """Whether what looks like another host's under our name is to be written over: our lease
        lives, we have advertised ourselves under it, and no yaim writes over a live advertisement.
        So somebody has put it there by hand, or has deleted ours there while another host waited
        for the name. Two such hosts would write over each other for ever: so only some times in a
        row, and then this is another host's.

        Never two: a write of either depends on its own advertisement standing there, and marks of
        the other are under its own lease, so each removes what it holds as long as the other's
        stands there, and nobody claims that before its mark is gone."""
        lease = self.state.lease.current
        if lease is None or self.life_s() <= 0:
            return False
        return self.state.advertised.keeps_name_under(lease.id)

    def may_adopt(self, node: Node) -> bool:
        """Whether what stands under our name with our session, and another lease than ours, is an
        earlier life's, so that its lease becomes ours. Only as long as we have no lease, or have
        written no advertisement and have no mark: no lease of ours is dropped that bears one. After
        that somebody has copied it, by hand. And only a lease that etcd may have granted for our
        ttl (LeaseState.after_kept): one that ends much later would leave what we hold to nobody
        when we are dead.

        Never two, whatever is adopted or not. What we add has the deadline of the lease that its
        mark is under, for as long as etcd has told us that it keeps that. What is not adopted is
        written over under our own lease. Marks under the other lease are not ours then: their
        addresses are removed here, and nobody else claims them before etcd deletes them. And an
        earlier life, if it were alive, would fail at its next write, which depends on its
        advertisement; its helper's connection is ours by now."""
        lease = self.state.lease
        is_first = lease.current is None or self.state.advertised.known_under is None
        return is_first and not self.my_marks() and node.lease != lease.not_adopted

    def is_mine(self, mark: Mark) -> bool:
        lease = self.state.lease.current
        return lease is not None and mark.lease == lease.id and mark.holder == self.me

    def my_marks(self) -> tuple[Mark, ...]:
        """Returns our marks, in the order of their addresses."""
        return self._own_marks().marks

    def my_addresses(self) -> frozenset[Address]:
        """Returns the addresses that have our mark."""
        return self._own_marks().addresses

    def _own_marks(self) -> OwnMarks:
        view, lease, found = self.state.cluster.view, self.state.lease.current, self.own_marks
        if view is None or lease is None:
            return _NO_MARKS
        if found.view is not view or found.lease != lease.id:
            me, id_ = self.me, lease.id
            mine = [m for m in view.marks.values() if m.lease == id_ and m.holder == me]
            mine.sort(key=lambda mark: address_order(mark.address))
            addresses = frozenset(mark.address for mark in mine)
            self.own_marks = found = OwnMarks(view, id_, tuple(mine), addresses)
        return found

    # --- what operators have asked for --------------------------------------------------------

    @property
    def control(self) -> Control:
        view = self.state.cluster.view
        return view.control if view is not None else NO_CONTROL

    def all_know_control(self) -> bool:
        """Whether no node lives that does not understand handed-over marks and what is below
        control/."""
        view = self.state.cluster.view
        return view is not None and version_of(view.nodes) >= KNOWS_CONTROL

    def drain(self) -> Order | None:
        """Returns the order to give up what others can hold; None: there is none."""
        return self.control.drains.get(self.me)

    def is_ordered(self, address: Address, node: NodeName) -> bool:
        """Whether an operator wants the address on that node: it is pinned or to move there."""
        orders = (each.get(address) for each in (self.control.moves, self.control.pins))
        return any(order is not None and order.node == node for order in orders)

    def is_no_member(self) -> bool:
        """Whether nobody is told that we have been here and have not been stopped."""
        member = self.control.members.get(self.me)
        return member is None or member.is_stopped

    def first_seen(self) -> str:
        """What our member key says; empty: it is not there."""
        member = self.control.members.get(self.me)
        return member.first_seen if member is not None else ""

    # --- our health ---------------------------------------------------------------------------

    def health(self) -> Health:
        """Returns the health as it counts now: of the checks, and of the means to act on it."""
        health = self.state.health.judged
        if health is None:
            return Health(False, "not checked yet")
        if self.state.host.is_helper_missed(self.now):
            return replace(health, is_healthy=False, reason="the helper is not there")
        return health

    def may_keep(self) -> bool:
        """Whether we are unhealthy and may hold on to what nobody else could hold."""
        return (
            self.state.settings.keeps_when_all_unhealthy
            and self.state.health.judged is not None
            and not self.health().is_healthy
        )

    def awaits_others(self) -> bool:
        """Whether an unhealthy node does not know yet what the others are."""
        if not self.may_keep():
            return False
        node = self.my_node()
        is_told = node is not None and not node.advertisement.is_healthy
        return is_told and not self.state.advertised.knows_others

    # --- what is on our interfaces ------------------------------------------------------------

    def down(self) -> frozenset[str]:
        """Returns those of our interfaces that cannot carry an address now."""
        return self.state.host.down(self.state.settings.interface)

    def maybe_here(self) -> frozenset[Address]:
        """Returns what is on our interface because of us, or may be."""
        known = self.state.addresses.known
        return frozenset(a for a, each in known.items() if each.phase in _MAYBE_HERE)

    def can_reset(self) -> bool:
        """Whether connections are to be ended at all, and the helper can do that."""
        helper = self.state.host.helper
        wants = self.state.settings.resets_connections
        return wants and helper is not None and helper.resets.can_reset

    def why_connections_stay(self) -> str:
        """Returns why the helper that is there, or was last, resets none, although it is to; empty
        if it does or is not to."""
        helper = self.state.host.helper_before
        wants = self.state.settings.resets_connections
        return helper.why_no_reset if wants and helper is not None else ""

    def is_elsewhere(self) -> frozenset[Address]:
        """Returns what is not to be added, as some node, perhaps this one, has it for another
        reason."""
        others = self.state.elsewhere.everywhere if self.state.cluster.view is not None else NOTHING
        present = self.state.elsewhere.present
        if not others and not present:
            return frozenset()
        return frozenset(others.keys() | present.keys()) - self.maybe_here()

    def has_removed_all(self) -> bool:
        addresses = self.state.addresses
        return all(known.phase is Phase.ABSENT for known in addresses.known.values()) and all(
            addresses.is_absent(mark.address) for mark in self.my_marks()
        )

    def is_stuck(self) -> bool:
        """Whether something of ours stays on the interface long after its deadline, and something
        has gone, which does not wait for it then."""
        addresses = self.state.addresses
        has_gone = any(addresses.is_absent(mark.address) for mark in self.my_marks())
        return addresses.look.reported_at is not None and has_gone

    def is_leaving(self) -> bool:
        """Whether we are still advertised as healthy and are not: then everything is removed first
        and released all together."""
        node = self.my_node()
        return (
            node is not None
            and node.advertisement.is_healthy
            and self.state.health.judged is not None
            and not self.health().is_healthy
            and not self.may_keep()
        )

    def has_withdrawn(self) -> bool:
        """Whether we are stopping and nothing of ours is left but the lease."""
        stopping = self.state.ending.stopping
        if stopping is None or self.state.writing.under_way is not None:
            return False
        if not self.has_removed_all():
            return False
        return stopping.is_withdrawn or (self.my_node() is None and not self.my_marks())

    # --- what is left to others ----------------------------------------------------------------

    def declined(self) -> frozenset[Address]:
        """Returns what is not to be given to us because of its prefix length. What we hold stays:
        nodes that get the same wrong netmask in the same instant would hand it to each other, and
        none would take it."""
        forbidden = self.state.refusals.forbidden
        return frozenset(forbidden.keys() - self.my_addresses()) if forbidden else frozenset()

    def refused(self) -> frozenset[Address]:
        refusals = self.state.refusals
        return self.declined().union(refusals.refused, refusals.too_many)

    # --- where addresses go ----------------------------------------------------------------------

    def where(self, address: Address) -> Place:
        """Returns where an address of the pool should be, as its entry and our settings have it."""
        return self._should_be(address, self._entry(address))

    def _entry(self, address: Address) -> PoolEntry | None:
        view = self.state.cluster.view
        return view.pool.get(address) if view is not None else None

    def _should_be(self, address: Address, entry: PoolEntry | None) -> Place:
        settings = self.state.settings
        interface, altnames = settings.interface, self.state.host.altnames
        is_ipv4 = address.version == 4
        prefix_length = settings.prefix_length_4 if is_ipv4 else settings.prefix_length_6
        if entry is not None and entry.interface is not None:
            interface = entry.interface
        if entry is not None and entry.prefix_length is not None:
            prefix_length = entry.prefix_length
        return Place(altnames.get(interface, interface), prefix_length)

    def group_of(self, address: Address) -> tuple[str, int]:
        """Returns what an address has in common with those that the same thing hinders."""
        return self.where(address).interface, address.version

    def is_at(self, address: Address) -> Place | None:
        """Returns where it is or was, as far as we know."""
        known = self.state.addresses.known.get(address)
        return known.place if known is not None else None

    def place_for(self, address: Address, down: frozenset[str]) -> Place | None:
        """Returns where an address of the pool is put, or stays; None: nowhere. It stays where it
        is while its entry cannot be understood, or it cannot be where it should be. `down`:
        interfaces."""
        entry, known = self._entry(address), self.state.addresses.known.get(address)
        here = known.place if known is not None else None
        should: Place | None = self._should_be(address, entry)
        has_failed = known is not None and known.could_not_be_at == should
        if (entry is not None and entry.fault) or (
            known is not None and has_failed and self.now < known.stays_until
        ):
            should = here
        is_up = should is not None and should.interface not in down
        if should is not None and is_up and (should == here or self._is_allowed(should, address)):
            return should
        return here if here is not None and here.interface not in down else None

    def _is_allowed(self, place: Place, address: Address) -> bool:
        helper = self.state.host.helper
        if address in self.state.refusals.forbidden:
            return False
        return helper is None or any(
            address in network for network in helper.networks.get(place.interface, ())
        )


_NO_MARKS = OwnMarks()
