"""A model of etcd: linearizable, with leases as etcd treats them (server/lease/lessor.go).

No TTL below a minimum. What has expired goes at the next scan, twice a second; until then a
keepalive of it is not answered, and it can still bear keys. A new leader starts every lease at its
full TTL, and a little more. Without a leader nothing is answered and nothing expires.

Full (NOSPACE), it grants no lease. What else it refuses depends: see Refuses. Some of the writes
that it refuses are done all the same (server/etcdserver/apply, quotaApplierV3).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from typing import assert_never

from tests.sim.orders import Command, Orders
from tests.sim.timeline import Timeline
from yaim.core.actions import (
    AdvertiseNode,
    ClaimMarks,
    EtcdAction,
    GrantLease,
    Heir,
    KeepLease,
    Note,
    ReadCluster,
    ReleaseMarks,
    RevokeLease,
    WithdrawNode,
    only_deletes,
)
from yaim.core.events import (
    ClusterRead,
    Event,
    LeaseFailed,
    LeaseGone,
    LeaseKept,
    LeaseRevoked,
    MarksClaimed,
    MarksReleased,
    NodeAdvertised,
    NodeNotAdvertised,
    NodeWithdrawn,
    WriteFailed,
)
from yaim.core.model import (
    Address,
    Advertisement,
    Boottime,
    ClusterView,
    LeaseId,
    Mark,
    Member,
    Node,
    NodeName,
    PoolEntry,
    Revision,
    WrongEntry,
    frozen_mapping,
)

SCAN_EVERY_S = 0.5
EXTENDED_S = 1.0
"""What a new leader adds to each TTL: an election timeout."""
DONE_ONE_IN = 5
"""One in so many of the writes that a full etcd refuses is done, the first among them. Fewer are
really, but these are enough to see what comes of it."""
NO_LEASE = LeaseId(0)
NOBODY = NodeName("nobody")
WITHOUT_END_S = 1_000_000
"""The TTL of a lease of somebody else's."""


class Refuses(Enum):
    """What a full etcd refuses, besides leases."""

    NOTHING = "nothing"
    """What stands in nested transactions takes no space."""
    PUTS = "puts"
    """Should that be mended one day."""
    WRITES = "writes"
    """Before 3.4.20 and 3.5.7: every transaction, when it is full to its last byte."""


@dataclass(slots=True)
class ModelLease:
    ttl_s: int
    expires_at: float


class ModelEtcd:
    def __init__(
        self,
        timeline: Timeline,
        min_ttl_s: int,
        on_change: Callable[[ClusterView], None],
        on_mark_made: Callable[[Mark], None],
        on_mark_deleted: Callable[[Mark], None],
        on_cover_gone: Callable[[], None],
    ) -> None:
        self._timeline = timeline
        self._min_ttl_s = min_ttl_s
        self._on_change = on_change
        self._on_mark_made = on_mark_made
        self._on_mark_deleted = on_mark_deleted
        self._on_cover_gone = on_cover_gone
        self.revision = 1
        self.pool: dict[Address, PoolEntry] = {}
        self.wrong: tuple[WrongEntry, ...] = ()
        self.nodes: dict[NodeName, Node] = {}
        self.marks: dict[Address, Mark] = {}
        self.stray_nodes: dict[NodeName, Node] = {}
        self.stray_marks: dict[Address, Mark] = {}
        """The marks without a lease, or put over another one."""
        self.orders = Orders()
        """What stands below control/."""
        self._control = self.orders.control()
        self.leases: dict[LeaseId, ModelLease] = {}
        self._last_lease = 0x100
        self.down_until = 0.0
        """Until then it has no leader, or is frozen."""
        self._full_until = 0.0
        self._refuses = Refuses.NOTHING
        self._refused = 0
        """Writes, since it is full."""
        self._view: ClusterView | None = None
        self._scan()

    @property
    def is_up(self) -> bool:
        return self._timeline.now >= self.down_until

    def expires_at(self, lease: LeaseId) -> float:
        """Before this instant etcd does not delete the keys of the lease."""
        known = self.leases.get(lease)
        return known.expires_at if known is not None else -inf

    def view(self) -> ClusterView:
        if self._view is None:
            self._view = ClusterView(
                Revision(self.revision),
                frozen_mapping(self.pool),
                frozen_mapping(self.nodes),
                frozen_mapping(self.marks),
                self.wrong,
                frozen_mapping(self.stray_nodes),
                frozen_mapping(self.stray_marks),
                self._control,
            )
        return self._view

    # --- what goes wrong in etcd ------------------------------------------------------------

    def lose_leader(self, seconds: float) -> None:
        """No leader for so long, and then another one."""
        self.down_until = max(self.down_until, self._timeline.now + seconds)
        self._timeline.later(seconds, self._elect)

    def freeze(self, seconds: float) -> None:
        """All of it, as with SIGSTOP: it goes on with what it had, and the same leader."""
        self.down_until = max(self.down_until, self._timeline.now + seconds)

    def fill(self, seconds: float, refuses: Refuses) -> None:
        """No space for so long."""
        self._full_until = self._timeline.now + seconds
        self._refuses = refuses
        self._refused = 0

    def _why_full(self, action: EtcdAction) -> str | None:
        """Why the request is refused, if it is because there is no space."""
        if self._timeline.now >= self._full_until:
            return None
        is_refused = isinstance(action, GrantLease)
        if isinstance(action, AdvertiseNode | WithdrawNode | ClaimMarks | ReleaseMarks):
            is_refused = self._refuses is Refuses.WRITES or (
                self._refuses is Refuses.PUTS and not only_deletes(action)
            )
        return "database space exceeded" if is_refused else None

    def elect_now(self) -> None:
        self.down_until = self._timeline.now
        self._elect()

    def _elect(self) -> None:
        if not self.is_up:
            return
        self._timeline.tell("etcd", "a new leader: all leases start anew")
        for lease in self.leases.values():
            lease.expires_at = self._timeline.now + lease.ttl_s + EXTENDED_S

    def lose_leases(self, *some: LeaseId) -> None:
        """These, or else all of them, in one instant: revoked, or not in the data that etcd was
        started with."""
        lost = some or tuple(self.leases)
        self._delete([mark for mark in self.marks.values() if mark.lease in lost])
        self._uncover(lost)
        self.nodes = {name: node for name, node in self.nodes.items() if node.lease not in lost}
        self.orders.end(*lost)
        for lease in lost:
            del self.leases[lease]
        self._changed()

    def wipe(self) -> None:
        """A new etcd in which somebody has put the same pool: revisions start anew."""
        self.lose_leases()
        self.marks.clear()
        self.stray_nodes.clear()
        self.stray_marks.clear()
        self.orders = Orders()
        self.revision = len(self.pool)
        self._changed()

    def _scan(self) -> None:
        now = self._timeline.now
        if self.is_up:
            for number in [n for n, lease in self.leases.items() if lease.expires_at <= now]:
                self._timeline.tell("etcd", f"lease {number:x} has expired")
                self._drop_lease(number)
        self._timeline.later(SCAN_EVERY_S, self._scan)

    # --- by hand ---------------------------------------------------------------------------

    def put_entry(self, entry: PoolEntry) -> None:
        self.pool[entry.address] = entry
        self._changed()

    def mend_entries(self) -> None:
        """Those that no node can hold as they are."""
        for entry in list(self.pool.values()):
            if entry.fault or entry.interface == "eth9":
                self.put_entry(replace(entry, fault="", interface=None))

    def delete_entry(self, address: Address) -> None:
        if self.pool.pop(address, None) is not None:
            self._changed()

    def put_wrong(self, *wrong: WrongEntry) -> None:
        self.wrong = wrong
        self._changed()

    def put_mark(
        self, address: Address, holder: NodeName = NOBODY, lease: LeaseId = NO_LEASE
    ) -> None:
        """A mark; perhaps over another one. Without a lease, or a live one."""
        is_over_another = address in self.marks or address in self.stray_marks
        mark = Mark(address, holder, lease, Revision(self.revision + 1), is_over_another)
        self.marks.pop(address, None)
        self.stray_marks.pop(address, None)
        if is_over_another or not lease:
            self.stray_marks[address] = mark
        else:
            self.marks[address] = mark
        self._changed()

    def delete_stray_mark(self, address: Address) -> None:
        if self.stray_marks.pop(address, None) is not None:
            self._changed()

    def put_stray_node(self, name: NodeName, advertisement: Advertisement) -> None:
        """An advertisement without a lease; perhaps over another one."""
        self.nodes.pop(name, None)
        revision = Revision(self.revision + 1)
        self.stray_nodes[name] = Node(name, advertisement, NO_LEASE, revision)
        self._changed()

    def delete_stray_nodes(self) -> None:
        self.stray_nodes.clear()
        self._changed()

    def copy_node(self, name: NodeName, ttl_s: int, session: str | None = None) -> None:
        """What it advertises somebody puts under another lease, perhaps as if another host did."""
        self._last_lease += 1
        number = LeaseId(self._last_lease)
        self.leases[number] = ModelLease(ttl_s, self._timeline.now + ttl_s)
        revision = Revision(self.revision + 1)
        told = self.nodes[name].advertisement
        told = replace(told, session=told.session if session is None else session)
        self.nodes[name] = Node(name, told, number, revision)
        self._changed()

    # --- by operators ----------------------------------------------------------------------

    def order(self, command: Command, seen: Revision) -> bool:
        """Carries out a command of one who has seen the guard at this revision. Whether it is done:
        another one may have been first, or there is no space for what it puts."""
        lease = None
        if command.for_s is not None:
            self._last_lease += 1
            lease = LeaseId(self._last_lease)
            ends_at = self._timeline.now + command.for_s
            self.leases[lease] = ModelLease(int(command.for_s) + 1, ends_at)
        return self.order_under(command, seen, lease)

    def order_under(self, command: Command, seen: Revision, lease: LeaseId | None) -> bool:
        """The same, with a lease that it is to stand under."""
        is_full = self._timeline.now < self._full_until and bool(command.puts)
        if self.orders.guard != seen or is_full:
            return False
        self.orders.guard = Revision(self.revision + 1)
        for key, value in command.with_revision(self.orders.guard).puts:
            self.orders.put(key, value, lease)
        for key in command.deletes:
            self.orders.delete(key)
        self._timeline.tell("etcd", f"is asked for: {command}")
        self._changed()
        return True

    # --- requests --------------------------------------------------------------------------

    def do(self, action: EtcdAction, me: NodeName, sent_at: Boottime) -> Event | None:
        """Carry out a request; its answer, None if it has to wait."""
        why_full = self._why_full(action)
        if why_full is None:
            return self._do(action, me, sent_at)
        if isinstance(action, GrantLease | KeepLease | RevokeLease | ReadCluster | Note):
            return LeaseFailed(why_full)
        self._refused += 1
        if self._refused % DONE_ONE_IN == 1:
            self._do(action, me, sent_at)
        return WriteFailed(action.request, why_full, is_full=True)

    def _do(self, action: EtcdAction, me: NodeName, sent_at: Boottime) -> Event | None:
        match action:
            case ReadCluster():
                return ClusterRead(self.view())
            case GrantLease(ttl_s):
                self._last_lease += 1
                number = LeaseId(self._last_lease)
                granted_s = max(ttl_s, self._min_ttl_s)
                self.leases[number] = ModelLease(granted_s, self._timeline.now + granted_s)
                return LeaseKept(number, granted_s, sent_at)
            case KeepLease(number):
                lease = self.leases.get(number)
                if lease is None:
                    return LeaseGone(number)
                if lease.expires_at <= self._timeline.now:
                    return None
                lease.expires_at = self._timeline.now + lease.ttl_s
                return LeaseKept(number, lease.ttl_s, sent_at)
            case RevokeLease(number):
                if number not in self.leases:
                    return LeaseGone(number)
                self._drop_lease(number)
                return LeaseRevoked(number)
            case AdvertiseNode():
                return self._advertise(action, me)
            case WithdrawNode():
                if not self._stands(me, action.advertised):
                    return WriteFailed(action.request, "our advertisement was changed")
                node = self.nodes.pop(me, None) or self.stray_nodes.pop(me, None)
                if action.is_stopped:
                    self._join(me, action.first_seen, is_stopped=True)
                if self._delete(action.release) or node is not None or action.is_stopped:
                    self._changed()
                return NodeWithdrawn(action.request, Revision(self.revision))
            case ClaimMarks():
                return self._claim(action, me)
            case ReleaseMarks():
                return self._release(action, me)
            case Note():
                raise AssertionError("nothing that counts stands in the history")
            case _:
                assert_never(action)

    def _release(self, action: ReleaseMarks, me: NodeName) -> Event:
        """Deletes marks, and hands over those whose heirs have the lease that they had."""
        if not self._stands(me, action.advertised):
            return MarksReleased(action.request, frozenset(), Revision(self.revision))
        heirs = {
            mark: heir
            for mark in action.marks
            if (heir := action.heirs.get(mark.address)) is not None
            and self._is_heir(heir)
            and self._is_same(mark)
        }
        if any(heir.lease not in self.leases for heir in heirs.values()):
            return WriteFailed(action.request, "lease not found")
        released = self._delete(action.marks)
        handed = tuple(
            self._mark(mark.address, heir.node, heir.lease, action.moved, mark.version + 1)
            for mark, heir in heirs.items()
        )
        if released:
            self._changed()
        return MarksReleased(action.request, released, Revision(self.revision), handed)

    def _is_heir(self, heir: Heir) -> bool:
        node = self.nodes.get(heir.node)
        return node is not None and node.lease == heir.lease

    def _is_same(self, mark: Mark) -> bool:
        known = self.marks.get(mark.address)
        return known is not None and known.revision == mark.revision

    def _join(self, me: NodeName, first_seen: str, *, is_stopped: bool) -> None:
        at = f"{self._timeline.now:.3f}"
        self.orders.put(("member", me), Member(first_seen or at, is_stopped, at))

    def _advertise(self, action: AdvertiseNode, me: NodeName) -> Event:
        if not self._stands(me, action.replaces):
            return NodeNotAdvertised(action.request)
        if action.lease not in self.leases:
            return WriteFailed(action.request, "lease not found")
        self._delete(action.release)
        if action.joins:
            self._join(me, action.first_seen, is_stopped=False)
        revision = Revision(self.revision + 1)
        node = Node(me, action.advertisement, action.lease, revision)
        self.nodes[me] = node
        self.stray_nodes.pop(me, None)
        self._changed()
        return NodeAdvertised(action.request, node)

    def _claim(self, action: ClaimMarks, me: NodeName) -> Event:
        if not self._stands(me, action.advertised):
            lost = frozenset(action.addresses)
            return MarksClaimed(action.request, (), lost, Revision(self.revision))
        marked = self.marks.keys() | self.stray_marks.keys()
        free = [a for a in action.addresses if a in self.pool and a not in marked]
        if free and action.lease not in self.leases:
            return WriteFailed(action.request, "lease not found")
        marks = tuple(self._mark(each, me, action.lease, action.moved) for each in free)
        if marks:
            self._changed()
        lost = frozenset(action.addresses) - {mark.address for mark in marks}
        return MarksClaimed(action.request, marks, lost, Revision(self.revision))

    def _stands(self, me: NodeName, revision: Revision) -> bool:
        """Whether the node's advertisement is that of this revision; 0: there is none."""
        node = self.nodes.get(me) or self.stray_nodes.get(me)
        return revision == (node.revision if node is not None else 0)

    # --- changes ---------------------------------------------------------------------------

    def _mark(
        self,
        address: Address,
        holder: NodeName,
        lease: LeaseId,
        moved: frozenset[Address],
        version: int = 1,
    ) -> Mark:
        """A claim, or with a higher version what is handed over; either may end a move."""
        how = f"is marked by {holder}" if version == 1 else f"is handed over to {holder}"
        self._timeline.tell("etcd", f"{address} {how}")
        mark = Mark(address, holder, lease, Revision(self.revision + 1), version=version)
        self.marks[address] = mark
        if address in moved:
            self.orders.delete(("move", address))
        self._on_mark_made(mark)
        return mark

    def _delete(self, marks: tuple[Mark, ...] | list[Mark]) -> frozenset[Address]:
        """Those of the marks that are still the same; told before they are gone."""
        same = []
        for mark in marks:
            stray = self.stray_marks.get(mark.address)
            if stray is not None and stray.revision == mark.revision:
                del self.stray_marks[mark.address]
                same.append(mark.address)
            known = self.marks.get(mark.address)
            if known is not None and known.revision == mark.revision:
                self._timeline.tell("etcd", f"the mark of {known.holder} on {mark.address} goes")
                self._on_mark_deleted(known)
                del self.marks[mark.address]
                same.append(mark.address)
        return frozenset(same)

    def _drop_lease(self, number: LeaseId) -> None:
        del self.leases[number]
        marks = [mark for mark in self.marks.values() if mark.lease == number]
        nodes = [name for name, node in self.nodes.items() if node.lease == number]
        self._delete(marks)
        is_uncovered = self._uncover((number,)) | self.orders.end(number)
        for name in nodes:
            del self.nodes[name]
        if marks or nodes or is_uncovered:
            self._changed()

    def _uncover(self, lost: tuple[LeaseId, ...]) -> bool:
        """What stands under these leases over another mark goes with them; whether any does."""
        gone = [address for address, mark in self.stray_marks.items() if mark.lease in lost]
        for address in gone:
            self._on_cover_gone()
            del self.stray_marks[address]
        return bool(gone)

    def _changed(self) -> None:
        self.revision += 1
        if (control := self.orders.control()) != self._control:
            self._control = control
        self._view = None
        self._on_change(self.view())


def with_options(entry: PoolEntry, exclude: frozenset[NodeName]) -> PoolEntry:
    return replace(entry, exclude=exclude)
