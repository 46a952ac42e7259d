"""The coordinator's decisions: step(state, events, now) -> new state, actions, next wake-up.

Decides; never acts. No clock, no randomness, no logging.

Level-triggered: events only change what is known; then, once, what should be is compared with
what is, and the differences become actions. Losing an event delays, but does not harm.

The rules that everything else serves:
1. An address is ours only if its mark bears our name and our lease.
2. Claim, then add. Remove, confirmed, then release. What we know nothing of is removed before
   its mark is released.
3. Nothing is added without a live deadline; every keepalive hands on a new one.
4. Unhealthy: remove all, then release all marks and change the advertisement in one transaction.
   Stopping: the same, then delete the advertisement.
5. Every write depends on the advertisement that we know, and a new life writes its own before it
   adds anything: what an earlier life has sent, and is still on its way, fails. What it has done
   just before shows in the next view: only then is anything added for a mark of that life.
6. A lease lost although it was kept in time may be one of many: what was ours is claimed again at
   once; what others may still have on their interfaces is left to them until their deadlines.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import assert_never

from yaim.core.actions import (
    Action,
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    End,
    GrantLease,
    KeepLease,
    Level,
    Outcome,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
    RenewAddresses,
    Report,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.deadline import (
    HELPER_GRACE_S,
    KEEPALIVES_PER_TTL,
    MIN_LIFE_S,
    all_over_at,
    deadline_of,
)
from yaim.core.events import (
    AddressAdded,
    AddressesRenewed,
    AddressFailed,
    AddressGone,
    AddressRefused,
    AddressRemoved,
    CheckAnswered,
    ClockJumped,
    ClusterChanged,
    ClusterRead,
    ClusterReadFailed,
    Event,
    HelperLost,
    HelperReady,
    LeaseFailed,
    LeaseGone,
    LeaseKept,
    LeaseRevoked,
    LinksObserved,
    MarksClaimed,
    MarksReleased,
    NodeAdvertised,
    NodeNotAdvertised,
    NodeWithdrawn,
    RestartRequested,
    SettingsChanged,
    StopRequested,
    WriteFailed,
)
from yaim.core.health import OVERDUE, Checked, Health, after_answer, at, judge
from yaim.core.model import (
    Address,
    Advertisement,
    Boottime,
    ClusterView,
    Mark,
    Node,
    NodeName,
    Revision,
    address_order,
    frozen_mapping,
)
from yaim.core.placement import is_in_force, place
from yaim.core.settings import CheckSettings
from yaim.core.state import (
    NEVER,
    Call,
    Helper,
    Lease,
    Local,
    Loss,
    Phase,
    State,
    Stopping,
    Write,
)

READ_EVERY_S = 5.0
"""The bound on how long a lost watch event goes unnoticed."""
RETRY_MIN_S = 0.1
RETRY_MAX_S = 2.0
"""A failed request to etcd is repeated after this long, doubling from the one to the other; less
up to a half of it, so that nodes do not come in step."""
RETRY_ALIVE_S = 0.2
"""No longer for a keepalive while the lease has life left: etcd elects a new leader within 1 to
2 s, and then each moment counts."""
REPORT_EVERY_S = 60.0
"""What goes on failing is reported again after this long."""
ORPHAN_PATIENCE_S = 0.2
"""How much later than its lease's end another node's address is claimed. A lease may end before its
time: revoked by hand, or by a leader of etcd's that stood still and takes all for expired (etcd
issue 15247). Its holder learns of it by the watch and removes the address within this."""
REFUSED_FOR_S = 3600.0
"""How long an address that our helper would not add is left to other nodes. Long, because each
new try may move it here and back again; a new helper and a SIGHUP try again at once."""
FAILED_FOR_S = 10.0
"""The same for one that it could not add, the first time."""
ADD_RETRY_S = 0.1
REMOVE_RETRY_S = 1.0
HELPER_PATIENCE_S = 2.0
"""A helper that comes back within this (a restart) does not change what we advertise."""
STOP_WITHIN_S = 5.0
ABSENT_KEY = Revision(0)
"""The revision that etcd gives a key that does not exist."""
NAME_PATIENCE_S = 3.0
"""How much longer than two TTLs another host's advertisement may stand under our name. Two,
because a new leader of etcd's starts every lease, also a dead host's, at its full TTL."""


@dataclass(frozen=True, slots=True)
class Step:
    state: State
    actions: tuple[Action, ...]
    """To be carried out in this order."""
    wake_at: Boottime | None
    """Step again then, without events, if nothing has happened before."""


def step(state: State, events: Sequence[Event], now: Boottime) -> Step:
    """Take in what has happened, in this order. `now` must not run backwards."""
    turn = _Turn(state, now)
    for event in events:
        if not turn.state.is_ended:
            turn.take_in(event)
    if not turn.state.is_ended:
        turn.reconcile()
    return Step(turn.state, tuple(turn.actions), turn.wake_at())


class _Turn:
    """One step: the state as it becomes, and the actions as they are decided."""

    def __init__(self, state: State, now: Boottime) -> None:
        self.state = state
        self.now = now
        self.actions: list[Action] = []

    # --- what has happened -----------------------------------------------------------------

    def take_in(self, event: Event) -> None:
        match event:
            case CheckAnswered():
                self._take_answer(event)
            case ClusterRead(view):
                is_other_history = view.revision < self.state.read_after
                if self.state.read_call.failures or is_other_history:
                    self._change(lease_call=replace(self.state.lease_call, due=self.now))
                due = self.now + READ_EVERY_S
                call = self._answered(self.state.read_call, due, "etcd can be read again")
                self._change(read_call=call, is_view_stale=False)
                if is_other_history:
                    self._change(
                        view=None, seen=self.state.read_after, unconfirmed_before=Revision(0)
                    )
                self._hear(view)
                if self.state.unconfirmed_before:
                    # It was asked for too early.
                    self._change(read_call=replace(self.state.read_call, due=self.now))
            case ClusterReadFailed(reason):
                call = self._failed(self.state.read_call, f"cannot read etcd: {reason}")
                self._change(read_call=call)
            case ClusterChanged(view):
                self._hear(view)
            case LeaseKept():
                self._take_lease(event)
            case LeaseGone(lease):
                if self.state.lease is not None and self.state.lease.id == lease:
                    self._take_loss(self.state.lease)
                self._forget_lease()
            case LeaseFailed(reason):
                longest_s = RETRY_ALIVE_S if self._life_s() > 0 else RETRY_MAX_S
                why = f"our lease is not kept: {reason}"
                call = self._failed(self.state.lease_call, why, longest_s)
                self._change(lease_call=call)
                if self.state.stopping is not None and self.state.stopping.is_withdrawn:
                    self._forget_lease()
            case LeaseRevoked():
                self._forget_lease()
            case NodeAdvertised(request, node):
                self._take_advertised(request, node)
            case NodeNotAdvertised(request):
                if self._end_write(request) is not None:
                    self._distrust_view()
            case NodeWithdrawn(request):
                if self._end_write(request) is not None and self.state.stopping is not None:
                    self._change(stopping=replace(self.state.stopping, is_withdrawn=True))
            case MarksClaimed(request, marks, lost, revision):
                if self._end_write(request) is not None:
                    if self.state.view is not None:
                        self._see(self.state.view.with_marks(marks, revision))
                    if lost:
                        self._report(Level.INFO, f"did not get {_listed(lost)}: taken or gone")
                        self._distrust_view()
            case MarksReleased(request, addresses, revision):
                write = self._end_write(request)
                if isinstance(write, ReleaseMarks):
                    if self.state.view is not None:
                        self._see(self.state.view.without_marks(addresses, revision))
                    if addresses != {mark.address for mark in write.marks}:
                        self._distrust_view()
            case WriteFailed(request, reason):
                if self.state.write is not None and self.state.write.request == request:
                    self._take_unknown_outcome(self.state.write, reason)
            case HelperReady():
                self._take_helper(event)
            case HelperLost(reason):
                if self.state.helper is not None:
                    self._report(Level.WARNING, f"the helper is lost: {reason}")
                    self._change(helper=None, helper_lost_at=self.now)
            case AddressAdded(request, address):
                local = self._under_way(request, address, Phase.ADDING)
                if local is not None:
                    self._record(address, replace(local, phase=Phase.UP))
                    self._report(Level.INFO, f"holds {address}")
            case AddressRefused():
                self._take_refused(event)
            case AddressFailed():
                self._take_failed(event)
            case AddressRemoved(request, address):
                if self._under_way(request, address, Phase.REMOVING) is not None:
                    self._record(address, Local(Phase.ABSENT))
            case AddressesRenewed(missing):
                for address in sorted(missing, key=address_order):
                    local = self.state.local.get(address)
                    if local is not None and local.phase is Phase.UP:
                        self._report(Level.WARNING, f"{address} was missing from the interface")
                        self._record(address, replace(local, phase=Phase.UNKNOWN))
            case AddressGone(address):
                local = self.state.local.get(address)
                if local is not None and local.phase is Phase.UP:
                    self._report(Level.WARNING, f"{address} has gone from the interface")
                    self._record(address, replace(local, phase=Phase.UNKNOWN))
            case LinksObserved(up):
                self._take_links(up)
            case ClockJumped(by_s):
                self._take_clock_jump(by_s)
            case SettingsChanged(settings):
                self._take_checks(settings.checks)
                self._change(
                    settings=settings,
                    refused=frozen_mapping({}),
                    failing_for_s=0.0,
                    failing_until=NEVER,
                )
            case StopRequested(reason):
                if self.state.stopping is None:
                    self._report(Level.INFO, f"stopping: {reason}")
                    give_up_at = Boottime(self.now + STOP_WITHIN_S)
                    self._change(stopping=Stopping(reason, give_up_at))
            case RestartRequested(reason):
                if self.state.stopping is None:
                    self._finish(Outcome.LEFT, reason)
            case _:
                assert_never(event)

    def _take_answer(self, event: CheckAnswered) -> None:
        """Late answers of checks that are no longer made do not count."""
        for check in self.state.settings.checks:
            if check.name == event.check:
                before = self.state.checks.get(check.name)
                answer = event.is_healthy, event.reason, event.valid_until
                self._note_check(check.name, after_answer(check, before, *answer))

    def _take_checks(self, checks: tuple[CheckSettings, ...]) -> None:
        """What the present answers say stays until those that are asked for now must have come,
        which may have to wait for an attempt that is under way."""
        before_s = {check.name: check.answers_within_s for check in self.state.settings.checks}
        known, awaited = {}, {}
        for check in checks:
            until = self.now + before_s.get(check.name, 0.0) + check.answers_within_s
            checked = self.state.checks.get(check.name)
            if checked is None:
                awaited[check.name] = Boottime(until)
            else:
                until = max(checked.valid_until, until)
                known[check.name] = replace(at(checked, self.now), valid_until=Boottime(until))
        self._change(checks=frozen_mapping(known), awaited=frozen_mapping(awaited))

    def _note_check(self, name: str, checked: Checked) -> None:
        """That of an only check is told as the node's health."""
        before = self.state.checks.get(name)
        is_change = before is None or before.is_healthy != checked.is_healthy
        if is_change and len(self.state.settings.checks) > 1:
            self._report_health(f"check {name}: ", checked.is_healthy, checked.reason)
        self._change(checks=frozen_mapping({**self.state.checks, name: checked}))

    def _report_health(self, what: str, is_healthy: bool, reason: str) -> None:
        level = Level.INFO if is_healthy else Level.WARNING
        self._report(level, f"{what}{'healthy' if is_healthy else 'unhealthy'}: {reason}")

    def _take_lease(self, event: LeaseKept) -> None:
        every_s = min(self.state.settings.interval_s, event.ttl_s / KEEPALIVES_PER_TTL)
        due = event.sent_at + every_s
        deadline = deadline_of(event.sent_at, event.ttl_s)
        if event.sent_at < self.state.distrusted_before:
            due = deadline = self.now
        before = self.state.lease
        if before is not None and before.id == event.lease:
            deadline = max(deadline, before.deadline)
        else:
            self._report(Level.INFO, f"has lease {event.lease:x} of {event.ttl_s} s")
            self._report_ttl(event.ttl_s)
        call = self._answered(self.state.lease_call, due, "our lease is kept again")
        lease = Lease(event.lease, event.ttl_s, deadline)
        # One that has gone from etcd did not go with the lease: it is to be written anew.
        has_advertised = self.state.has_advertised and self._my_node() is not None
        self._change(lease=lease, lease_call=call, may_adopt=False, has_advertised=has_advertised)

    def _report_ttl(self, granted_s: int) -> None:
        """Once for each pair of what is asked for and what is in force."""
        state, asked_s = self.state, self.state.settings.ttl_s
        if granted_s == asked_s or state.reported_ttls_s == (asked_s, granted_s):
            return
        self._change(reported_ttls_s=(asked_s, granted_s))
        if state.may_adopt:
            text = (
                f"the lease of this node's earlier life has a ttl of {granted_s} s, which"
                f" counts instead of {asked_s} s; a stop and a start, not a restart, ask etcd for a"
                " new one"
            )
        else:
            text = (
                f"etcd grants no lease shorter than {granted_s} s (its election timeout is long):"
                f" ttl counts as {granted_s} s, not {asked_s} s"
            )
        self._report(Level.WARNING, text)

    def _take_loss(self, lease: Lease) -> None:
        """A lease that has ended in its time has ended for us only: what others have is marked. One
        that was kept in time was revoked, or etcd is not the one that it was: then others may have
        lost theirs in the same instant."""
        if self._life_s() <= 0 or self.state.stopping is not None:
            self._report(Level.WARNING, "etcd has lost our lease: giving up all addresses")
            self._change(ours=frozenset())
            return
        loss = Loss(all_over_at(self.now, lease.ttl_s))
        self._report(
            Level.WARNING,
            "etcd has lost our lease although it was kept in time (revoked by hand, or etcd's data"
            " replaced): giving up all addresses; claims again at once what was ours"
            f" ({len(self.state.ours)}), and what others may still have in"
            f" {loss.until - self.now:.1f} s",
        )
        self._change(loss=loss)

    def _take_other_history(self) -> None:
        """What others have on their interfaces need not be marked any more. That counts also where
        our own lease has ended in its time: theirs may have been kept after ours."""
        if self.state.loss is not None or self.state.stopping is not None:
            return
        loss = Loss(all_over_at(self.now, self._ttl_s()))
        self._report(
            Level.WARNING,
            "etcd's data was replaced: claims what other nodes may still have in"
            f" {loss.until - self.now:.1f} s",
        )
        self._change(loss=loss)

    def _take_clock_jump(self, by_s: float) -> None:
        """Our deadline comes nearer by what the host may have slept, and etcd has to tell whether
        the lease is still there."""
        self._report(
            Level.WARNING,
            f"the clock was set forward by {by_s:.1f} s: this host may have been paused",
        )
        lease, call = self.state.lease, self.state.lease_call
        if lease is not None:
            lease = replace(lease, deadline=Boottime(lease.deadline - by_s))
        call = replace(call, due=self.now)
        self._change(lease=lease, lease_call=call, distrusted_before=self.now)

    def _take_links(self, up: frozenset[str]) -> None:
        down = self._down()
        self._change(links_up=up)
        for interface in sorted(self._down() - down):
            self._report(Level.WARNING, f"{interface} is down or has no carrier")
        for interface in sorted(down - self._down()):
            self._report(Level.INFO, f"{interface} is up")
            # What could not be added there may have failed because of that.
            refused = {
                address: until
                for address, until in self.state.refused.items()
                if self._where(address)[0] != interface
            }
            self._change(refused=frozen_mapping(refused))

    def _take_advertised(self, request: int, node: Node) -> None:
        write = self._end_write(request)
        view = self.state.view
        if not isinstance(write, AdvertiseNode) or view is None:
            return
        if not self.state.has_advertised and view.revision < node.revision and self._my_marks():
            due = replace(self.state.read_call, due=self.now)
            self._change(unconfirmed_before=node.revision, read_call=due)
        self._change(has_advertised=True)
        released = frozenset(mark.address for mark in write.release)
        self._see(view.with_node(node).without_marks(released, node.revision))
        word = "healthy" if node.advertisement.is_healthy else "unhealthy"
        self._report(Level.INFO, f"advertised as {word}{', waiting' if node.is_waiting else ''}")
        if self._may_keep():
            # Whether others are healthy counts from now on, when they see that we are not.
            self._distrust_view()

    def _take_helper(self, event: HelperReady) -> None:
        """What the helper has on record is up; what else we thought we had is unknown: the helper
        may have been restarted, and the kernel still have the address."""
        self._report(Level.INFO, "the helper is ready")
        local = {
            address: known if known.phase is Phase.ABSENT else replace(known, phase=Phase.UNKNOWN)
            for address, known in self.state.local.items()
        }
        for on_interface in event.addresses:
            before = local.get(on_interface.address)
            deadline = max(on_interface.deadline, before.deadline if before else NEVER)
            local[on_interface.address] = Local(Phase.UP, deadline=deadline)
        self._change(
            helper=Helper(event.session, frozen_mapping(dict(event.networks))),
            helper_lost_at=None,
            local=frozen_mapping(local),
            left_over=event.left_over,
            refused=frozen_mapping({}),
        )

    def _take_refused(self, event: AddressRefused) -> None:
        local = self._under_way(event.request, event.address, Phase.ADDING)
        if local is None:
            return
        # Nothing was done: what an add before this one has put there may be there still.
        retry_at = Boottime(self.now + ADD_RETRY_S)
        self._record(event.address, replace(local, phase=Phase.UNKNOWN, retry_at=retry_at))
        if event.is_lasting:
            until = Boottime(self.now + REFUSED_FOR_S)
            self._leave_to_others(event.address, until, f"the helper refused it: {event.reason}")

    def _take_failed(self, event: AddressFailed) -> None:
        removing = self._under_way(event.request, event.address, Phase.REMOVING)
        if removing is not None:
            retry_at = Boottime(self.now + REMOVE_RETRY_S)
            self._record(event.address, replace(removing, retry_at=retry_at))
            self._report(Level.ERROR, f"cannot remove {event.address}: {event.reason}")
        adding = self._under_way(event.request, event.address, Phase.ADDING)
        if adding is not None:
            self._record(event.address, replace(adding, phase=Phase.UNKNOWN))
            self._take_failing()
            until = self.state.failing_until
            self._leave_to_others(event.address, until, f"cannot add it: {event.reason}")

    def _take_failing(self) -> None:
        """What has gone wrong may pass soon, or not: all that fails together is tried again
        together, after pauses that double."""
        state = self.state
        if self.now < state.failing_until:
            return
        is_again = state.failing_for_s and self.now < state.failing_until + REFUSED_FOR_S
        for_s = min(2 * state.failing_for_s, REFUSED_FOR_S) if is_again else FAILED_FOR_S
        self._change(failing_for_s=for_s, failing_until=Boottime(self.now + for_s))

    def _take_unknown_outcome(self, write: Write, reason: str) -> None:
        """The write may yet be done: what it was to release must not be used again."""
        in_doubt = self.state.in_doubt | _to_release(write)
        call = self._failed(self.state.write_call, f"cannot write to etcd: {reason}")
        self._change(write=None, write_call=call, in_doubt=in_doubt)
        self._distrust_view()

    def _leave_to_others(self, address: Address, until: Boottime, why: str) -> None:
        self._change(refused=frozen_mapping({**self.state.refused, address: until}))
        self._report(Level.ERROR, f"leaves {address} to other nodes (SIGHUP tries again): {why}")

    def _hear(self, view: ClusterView) -> None:
        """etcd has told this view: nothing in it is our own reckoning."""
        self._see(view)
        if self.state.view is view and view.revision >= self.state.unconfirmed_before:
            self._change(unconfirmed_before=Revision(0))

    def _see(self, view: ClusterView) -> None:
        """Take a view for the present one, unless a newer is known."""
        before = self.state.view
        if before is not None and view.revision < before.revision:
            return
        if before is None and view.revision < self.state.seen:
            self._take_other_history()
        had_node = self._my_node() is not None
        for wrong in view.wrong:
            if before is None or wrong not in before.wrong:
                self._report(Level.WARNING, f"wrong pool entry {wrong.name!r}: {wrong.reason}")
        self._change(
            view=view,
            seen=Revision(0),
            target=place(view.pool, view.nodes, view.marks),
            in_doubt=frozenset(m for m in self.state.in_doubt if view.marks.get(m.address) == m),
        )
        self._remember(before)
        self._note_orphans(before)
        if had_node and self._my_node() is None and not self.state.lease_call.failures:
            # Is our lease gone with our advertisement?
            self._change(lease_call=replace(self.state.lease_call, due=self.now))

    def _remember(self, before: ClusterView | None) -> None:
        """Note what is ours, for the case that our lease is lost, and after a loss what is released
        by those who have a lease."""
        view, loss = self.state.view, self.state.loss
        if view is None:
            return
        ours = frozenset(a for a in self.state.ours if a not in view.marks)
        if self.state.has_advertised and self._my_node() is not None:
            leaving = {mark.address for mark in self._leaving()}
            held = {m.address for m in view.marks.values() if self._is_mine(m)} - leaving
            ours = frozenset(held) if loss is None else ours | held
        if loss is not None:
            released = frozenset(
                mark.address
                for mark in (before.marks.values() if before is not None else ())
                if is_in_force(mark, view.nodes)
            )
            released = frozenset(a for a in loss.released | released if a not in view.marks)
            loss = replace(loss, released=released)
        self._change(ours=ours, loss=loss)

    def _note_orphans(self, before: ClusterView | None) -> None:
        """What other nodes have lost together with their advertisement: by the end of their lease.
        Whoever releases or withdraws has removed its addresses, and does both one after the
        other."""
        view = self.state.view
        if view is None:
            return
        orphans = {
            address: until
            for address, until in self.state.orphans.items()
            if until > self.now and address not in view.marks
        }
        for mark in before.marks.values() if before is not None else ():
            had_lease = before is not None and is_in_force(mark, before.nodes)
            is_lost = mark.address not in view.marks and not is_in_force(mark, view.nodes)
            if had_lease and is_lost and mark.holder != self.state.settings.node:
                orphans[mark.address] = Boottime(self.now + ORPHAN_PATIENCE_S)
        if orphans != self.state.orphans:
            self._change(orphans=frozen_mapping(orphans))

    def _distrust_view(self) -> None:
        self._change(is_view_stale=True, read_call=replace(self.state.read_call, due=self.now))

    def _forget_lease(self) -> None:
        """With the lease went our marks, and perhaps all of etcd's history: start afresh."""
        view = self.state.view
        self._change(
            seen=view.revision if view is not None else self.state.seen,
            lease=None,
            may_adopt=False,
            has_advertised=False,
            unconfirmed_before=Revision(0),
            view=None,
            target=frozen_mapping({}),
            in_doubt=frozenset(),
            lease_call=Call(due=self.now),
            read_call=replace(self.state.read_call, due=self.now),
        )

    # --- what follows ----------------------------------------------------------------------

    def reconcile(self) -> None:
        self._expire()
        self._judge()
        self._note_flaps()
        self._end_loss()
        self._check_name()
        self._sweep()
        wanted = self._wanted()
        self._remove_all_but(wanted)
        self._add(wanted)
        self._renew()
        self._write(wanted)
        self._keep_lease()
        self._read()
        self._end_if_done()

    def _expire(self) -> None:
        """What has outlived its deadline and the helper's grace is gone: that is the contract."""
        mine = {mark.address for mark in self._my_marks()}
        local = {}
        for address, known in self.state.local.items():
            if known.phase is Phase.ABSENT:
                if address in mine or self.now < known.retry_at:
                    local[address] = known
            elif self.now < known.deadline + HELPER_GRACE_S:
                local[address] = known
            else:
                if known.phase is Phase.UP:
                    self._report(Level.WARNING, f"lost {address}: its deadline has passed")
                local[address] = Local(Phase.ABSENT)
        refused = {a: until for a, until in self.state.refused.items() if until > self.now}
        if local != self.state.local or refused != self.state.refused:
            self._change(local=frozen_mapping(local), refused=frozen_mapping(refused))

    def _judge(self) -> None:
        """What the checks amount to, once for all that has happened."""
        self._await_first_answers()
        for name, checked in self.state.checks.items():
            if (now := at(checked, self.now)) != checked:
                self._note_check(name, now)
        before, health = self.state.health, judge(self.state.settings, self.state.checks)
        if health is not None and (before is None or before.is_healthy != health.is_healthy):
            # Why a check has failed was told already, where there are several.
            self._report_health("", health.is_healthy, ", ".join(health.checks) or health.reason)
        if health != before:
            self._change(health=health)

    def _await_first_answers(self) -> None:
        awaited = {
            check.name: self.state.awaited.get(
                check.name, Boottime(self.now + check.answers_within_s)
            )
            for check in self.state.settings.checks
            if check.name not in self.state.checks
        }
        if awaited != self.state.awaited:
            self._change(awaited=frozen_mapping(awaited))
        for name, until in awaited.items():
            if self.now >= until:
                self._note_check(name, Checked(False, OVERDUE, until))

    def _note_flaps(self) -> None:
        """Whether we wait now: we are healthy, and have not been again and again."""
        state, max_wait_s = self.state, self.state.settings.flap_max_wait_s
        if state.stopping is not None:
            return
        flaps = state.flaps
        if state.health is not None:
            flaps = flaps.after(self._health().is_healthy, self.now, max_wait_s)
        is_waiting = flaps.is_healthy and self.now < flaps.waits_until(max_wait_s)
        waits_s = flaps.wait_s(max_wait_s) if is_waiting else 0.0
        if waits_s and not state.waits_s:
            self._report(
                Level.WARNING,
                f"was unhealthy {flaps.falls} times of late: waits {waits_s:g} s before it takes"
                " addresses that other nodes can hold",
            )
        elif state.waits_s and not waits_s and flaps.is_healthy:
            self._report(Level.INFO, "has waited long enough: takes addresses again")
        self._change(flaps=flaps, waits_s=waits_s)

    def _end_loss(self) -> None:
        if self.state.loss is not None and self.now >= self.state.loss.until:
            self._report(Level.INFO, "claims also what other nodes had before our lease was lost")
            self._change(loss=None)
            self._remember(None)

    def _check_name(self) -> None:
        """Whose advertisement stands under our name, and since when if it is another host's."""
        node, helper, lease = self._advertised(), self.state.helper, self.state.lease
        if node is None and self.state.view is not None:
            self._change(may_adopt=False)
        if node is None or helper is None or (lease is not None and node.lease == lease.id):
            self._change(name_taken_since=None)
        elif node.advertisement.session == helper.session:
            # Our own, of an earlier life: adopt it. A lease of our own bears no marks yet.
            self._change(name_taken_since=None, lease=None, may_adopt=True, has_advertised=False)
        elif self.state.name_taken_since is None:
            self._change(may_adopt=False)
            self._report(
                Level.WARNING,
                f"another host is advertised as {node.name}: waiting for its lease to expire",
            )
            self._change(name_taken_since=self.now)
        elif self.now >= self._name_limit():
            self._finish(
                Outcome.NAME_TAKEN,
                f"another live host is advertised as {node.name}: give this one another nodename",
            )

    def _name_limit(self) -> Boottime:
        since = self.state.name_taken_since or NEVER
        return Boottime(since + 2 * self.state.settings.ttl_s + NAME_PATIENCE_S)

    def _wanted(self) -> frozenset[Address]:
        """The addresses that should be on our interface now."""
        state = self.state
        if state.stopping is not None or self._life_s() <= 0:
            return frozenset()
        if state.health is None:
            wanted = {mark.address for mark in self._my_marks()}
        elif self._health().is_healthy:
            wanted = self._assigned()
        elif self._may_keep():
            wanted = self._kept()
        else:
            wanted = set()
        down = self._down()
        return frozenset(
            address
            for address in wanted
            - state.refused.keys()
            - {mark.address for mark in self._leaving()}
            if not down or self._where(address)[0] not in down
        )

    def _assigned(self) -> set[Address]:
        """What the placement gives us; after a loss instead of what nobody has marked only what was
        ours, whoever is to hold it, and what we have seen released."""
        view, node, loss = self.state.view, self._my_node(), self.state.loss
        assigned = {a for a, name in self.state.target.items() if name == self.state.settings.node}
        if loss is None:
            return assigned
        if view is None or node is None:
            return set()
        ours = {a for a in self.state.ours & view.pool.keys() if node.can_hold(view.pool[a])}
        return ours | {a for a in assigned if a in view.marks or a in loss.released}

    def _kept(self) -> set[Address]:
        """What an unhealthy node goes on holding: all, until it knows for sure what the others are;
        then what none of them could hold."""
        view, node = self.state.view, self._my_node()
        if view is None or node is None:
            return set()
        held = {mark.address for mark in self._my_marks() if mark.address in view.pool}
        if node.advertisement.is_healthy or self.state.is_view_stale:
            return held
        others = [each for each in view.nodes.values() if each.name != node.name]
        return {a for a in held if not any(other.can_hold(view.pool[a]) for other in others)}

    def _sweep(self) -> None:
        """What an earlier life has left of the pool's addresses is on our interface, who knows
        until when. Other addresses may be another cluster's."""
        view, left_over = self.state.view, self.state.left_over
        if view is None or not left_over:
            return
        deadline = Boottime(self.now + self._ttl_s())
        unknown = {
            address: Local(Phase.UNKNOWN, deadline=deadline)
            for address in sorted(left_over, key=address_order)
            if address in view.pool and address not in self.state.local
        }
        self._change(left_over=frozenset(), local=frozen_mapping({**self.state.local, **unknown}))

    def _remove_all_but(self, wanted: frozenset[Address]) -> None:
        if self.state.helper is None or (self.state.may_adopt and self.state.stopping is None):
            return
        mine = {mark.address for mark in self._my_marks()}
        for address in sorted(mine | self.state.local.keys(), key=address_order):
            if address in wanted and address in mine:
                continue
            local = self.state.local.get(address)
            if local is None:
                # Of an earlier life, whose deadlines were within a TTL of that life's end.
                local = Local(Phase.UNKNOWN, deadline=Boottime(self.now + self._ttl_s()))
            if local.phase is Phase.ABSENT:
                continue
            if local.phase is Phase.REMOVING and self.now < local.retry_at:
                continue
            if local.phase is Phase.UP:
                self._report(Level.INFO, f"removes {address}: {self._why_not(address)}")
            request = self._next_request()
            self._record(
                address,
                replace(
                    local,
                    phase=Phase.REMOVING,
                    request=request,
                    retry_at=Boottime(self.now + self._ttl_s()),
                ),
            )
            self.actions.append(RemoveAddress(request, address))

    def _why_not(self, address: Address) -> str:
        """Why an address is not wanted here, for the log."""
        state = self.state
        view = state.view
        if state.stopping is not None:
            return "stopping"
        if state.lease is None:
            return "there is no lease"
        if self._life_s() <= 0:
            return "the lease is not kept"
        if not self._health().is_healthy:
            return "unhealthy"
        if view is None or address not in view.pool:
            return "not in the pool"
        interface, _ = self._where(address)
        if interface in self._down():
            return f"{interface} is down or has no carrier"
        if self.state.has_advertised and self._my_node() is None:
            return "our advertisement has gone from etcd"
        mark = view.marks.get(address)
        if mark is None or not self._is_mine(mark):
            return "its mark is not ours" + (f" but {mark.holder}'s" if mark else "")
        target = state.target.get(address)
        return f"{target} is to hold it" if target else "this node is not eligible"

    def _add(self, wanted: frozenset[Address]) -> None:
        if self.state.helper is None or not self.state.has_advertised:
            return
        unconfirmed_before = self.state.unconfirmed_before
        mine = {m.address for m in self._my_marks() if m.revision >= unconfirmed_before}
        for address in sorted(wanted & mine, key=address_order):
            local = self.state.local.get(address, Local(Phase.UNKNOWN))
            if local.phase not in (Phase.UNKNOWN, Phase.ABSENT) or self.now < local.retry_at:
                continue
            lease = self._lease_to_add_with()
            if lease is None:
                return
            request = self._next_request()
            self._record(
                address,
                Local(
                    Phase.ADDING,
                    request,
                    max(lease.deadline, local.deadline),
                    retry_at=Boottime(self.now + ADD_RETRY_S),
                ),
            )
            interface, prefix_length = self._where(address)
            self.actions.append(
                AddAddress(request, address, interface, prefix_length, lease.deadline)
            )

    def _renew(self) -> None:
        """Hand on the lease's deadline, if there is anything on our interface without it. What we
        know nothing of the helper may have on record, and renew as well."""
        lease = self.state.lease
        if lease is None or self.state.helper is None or self._life_s() <= 0:
            return
        renewed = {
            address: replace(local, deadline=lease.deadline)
            for address, local in self.state.local.items()
            if local.phase in (Phase.ADDING, Phase.UP, Phase.UNKNOWN)
            and local.deadline < lease.deadline
        }
        if any(local.phase is not Phase.UNKNOWN for local in renewed.values()):
            self.actions.append(RenewAddresses(lease.deadline))
            self._change(local=frozen_mapping({**self.state.local, **renewed}))

    def _lease_to_add_with(self) -> Lease | None:
        """The lease, if it has life enough left; if not, a keepalive is made due, unless one has
        just failed."""
        if self._life_s() >= MIN_LIFE_S:
            return self.state.lease
        if not self.state.lease_call.failures:
            self._change(lease_call=replace(self.state.lease_call, due=self.now))
        return None

    def _where(self, address: Address) -> tuple[str, int]:
        """Interface and prefix length for an address of the pool."""
        settings, view = self.state.settings, self.state.view
        entry = view.pool.get(address) if view is not None else None
        interface = settings.interface
        is_ipv4 = address.version == 4
        prefix_length = settings.prefix_length_4 if is_ipv4 else settings.prefix_length_6
        if entry is not None and entry.interface is not None:
            interface = entry.interface
        if entry is not None and entry.prefix_length is not None:
            prefix_length = entry.prefix_length
        return interface, prefix_length

    def _write(self, wanted: frozenset[Address]) -> None:
        """Start the one write to etcd that matters most, if none is under way."""
        state = self.state
        if state.write is not None or self.now < state.write_call.due:
            return
        if state.lease is None or state.view is None:
            return
        write: Write | None
        if state.stopping is not None:
            write = self._withdrawal()
        elif self._life_s() <= 0 or (self._is_leaving() and not self._has_removed_all()):
            write = None
        else:
            write = self._advertising() or self._release(wanted) or self._claim(wanted)
        if write is not None:
            ours = self.state.ours - {mark.address for mark in _to_release(write)}
            self._change(write=write, next_request=write.request + 1, ours=ours)
            self.actions.append(write)

    def _withdrawal(self) -> AdvertiseNode | WithdrawNode | None:
        """First all marks are released by a node that says that it is unhealthy, then the
        advertisement goes: both at once would look like a lease's end. (Not by ReleaseMarks, which
        leaves the advertisement as it is: should it be done late, the next life would not notice.)
        """
        lease, stopping = self.state.lease, self.state.stopping
        if lease is None or stopping is None or stopping.is_withdrawn:
            return None
        if not self._has_removed_all():
            return None
        node = self._my_node()
        marks = self._my_marks()
        if node is None and not marks:
            return None
        if node is not None and marks:
            if self.state.is_view_stale:
                return None
            stopped = replace(node.advertisement, is_healthy=False, reason="stopping")
            return AdvertiseNode(
                self.state.next_request, stopped, lease.id, node.revision, release=marks
            )
        advertised = node.revision if node is not None else ABSENT_KEY
        return WithdrawNode(self.state.next_request, lease.id, advertised, marks)

    def _advertising(self) -> AdvertiseNode | None:
        lease, helper = self.state.lease, self.state.helper
        present = self._my_node()
        is_checked = self.state.health is not None
        if lease is None or self.state.name_taken_since is not None:
            return None
        lease_call = self.state.lease_call
        is_asked = lease_call.is_pending or self.now >= lease_call.due
        if present is None and self.state.has_advertised and is_asked:
            # It has gone from etcd, perhaps with the lease: the keepalive will tell.
            return None
        if not is_checked and (present is None or self.state.has_advertised):
            return None
        if helper is not None:
            session, networks = helper.session, helper.networks
        elif present is not None:
            session, networks = present.advertisement.session, present.advertisement.networks
        else:
            return None
        health, settings = self._health(), self.state.settings
        desired = Advertisement(
            is_healthy=health.is_healthy,
            reason=health.reason,
            interface=settings.interface,
            networks=networks,
            refused=frozenset(self.state.refused),
            session=session,
            version=settings.version,
            down=self._down(),
            waits_s=self.state.waits_s,
        )
        release: tuple[Mark, ...] = ()
        replaces = ABSENT_KEY
        if present is not None:
            replaces = present.revision
            if not is_checked:
                told = present.advertisement
                desired = replace(
                    desired,
                    is_healthy=told.is_healthy,
                    reason=told.reason,
                    waits_s=told.waits_s,
                )
            if present.advertisement == desired and self.state.has_advertised:
                return None
            if not desired.is_healthy and self._has_removed_all():
                release = self._my_marks()
        return AdvertiseNode(self.state.next_request, desired, lease.id, replaces, release)

    def _release(self, wanted: frozenset[Address]) -> ReleaseMarks | None:
        node = self._my_node()
        if self.state.is_view_stale or node is None:
            return None
        marks = tuple(
            mark
            for mark in self._my_marks()
            if mark.address not in wanted and self._is_absent(mark.address)
        )
        if not marks:
            return None
        return ReleaseMarks(self.state.next_request, marks, node.revision)

    def _claim(self, wanted: frozenset[Address]) -> ClaimMarks | None:
        view, lease, node = self.state.view, self.state.lease, self._my_node()
        if view is None or lease is None or node is None:
            return None
        if self.state.is_view_stale or self.state.helper is None or not self.state.has_advertised:
            return None
        free = tuple(
            address
            for address in sorted(wanted, key=address_order)
            if address not in view.marks
            and self.now >= self.state.orphans.get(address, NEVER)
            and self.state.local.get(address, Local(Phase.ABSENT)).phase is Phase.ABSENT
        )
        if not free:
            return None
        self._lease_to_add_with()
        return ClaimMarks(self.state.next_request, free, lease.id, node.revision)

    def _keep_lease(self) -> None:
        state = self.state
        if state.lease_call.is_pending:
            return
        action: Action
        if state.lease is not None and self._has_withdrawn():
            action = RevokeLease(state.lease.id)
        elif self.now < state.lease_call.due:
            return
        elif self._life_s() <= 0 and state.read_call.failures:
            # Nothing is to be lost any more: it is enough that reads are tried again.
            return
        elif state.lease is not None:
            action = KeepLease(state.lease.id)
        elif state.view is None or state.helper is None:
            return
        else:
            node = self._advertised()
            if node is None:
                if state.stopping is not None:
                    return
                action = GrantLease(state.settings.ttl_s)
            elif node.advertisement.session == state.helper.session:
                self._report(Level.INFO, f"adopts lease {node.lease:x} of this node's earlier life")
                action = KeepLease(node.lease)
            else:
                return
        self._change(lease_call=replace(state.lease_call, is_pending=True))
        self.actions.append(action)

    def _read(self) -> None:
        call = self.state.read_call
        state = self.state
        is_needed = state.stopping is None or state.is_view_stale or state.may_adopt
        if not call.is_pending and self.now >= call.due and is_needed:
            seen = self.state.view.revision if self.state.view is not None else Revision(0)
            self._change(read_call=replace(call, is_pending=True), read_after=seen)
            self.actions.append(ReadCluster())

    def _end_if_done(self) -> None:
        stopping = self.state.stopping
        if stopping is None or self.state.is_ended:
            return
        if self.now >= stopping.give_up_at:
            self._finish(
                Outcome.NOT_RELEASED,
                f"{stopping.reason}; not everything could be released: others take over when "
                "the lease expires",
            )
        elif (
            self.state.lease is None
            and not self.state.lease_call.is_pending
            and not self._may_have_left_something()
            and self._has_removed_all()
        ):
            self._finish(Outcome.STOPPED, stopping.reason)

    def _may_have_left_something(self) -> bool:
        """Whether an earlier life may have left a lease that is ours to end, and etcd answers."""
        return self.state.may_adopt and (
            self.state.view is not None or self.state.read_call.is_pending
        )

    def _finish(self, outcome: Outcome, reason: str) -> None:
        self.actions.append(End(outcome, reason))
        self._change(is_ended=True)

    def wake_at(self) -> Boottime | None:
        state = self.state
        if state.is_ended:
            return None
        times: list[float] = [
            state.lease_call.due,
            state.read_call.due,
            state.write_call.due,
            *(local.deadline + HELPER_GRACE_S for local in state.local.values()),
            *(local.retry_at for local in state.local.values()),
            *state.refused.values(),
            *state.orphans.values(),
        ]
        if state.lease is not None:
            times.append(state.lease.deadline)
        if state.loss is not None:
            times.append(state.loss.until)
        times.extend(checked.valid_until for checked in state.checks.values())
        times.extend(state.awaited.values())
        if state.waits_s:
            times.append(state.flaps.waits_until(state.settings.flap_max_wait_s))
        if state.helper_lost_at is not None:
            times.append(state.helper_lost_at + HELPER_PATIENCE_S)
        if state.name_taken_since is not None:
            times.append(self._name_limit())
        if state.stopping is not None:
            times.append(state.stopping.give_up_at)
        return min((Boottime(time) for time in times if time > self.now), default=None)

    # --- what is known ---------------------------------------------------------------------

    def _life_s(self) -> float:
        """How much longer addresses may stay; 0 or less: not at all."""
        return self.state.lease.deadline - self.now if self.state.lease is not None else 0.0

    def _ttl_s(self) -> int:
        lease = self.state.lease
        return lease.ttl_s if lease is not None else self.state.settings.ttl_s

    def _health(self) -> Health:
        """Health as it counts now: of the checks, and of the means to act on it."""
        health = self.state.health
        if health is None:
            return Health(False, "not checked yet")
        lost_at = self.state.helper_lost_at
        if self.state.helper is None and (
            lost_at is None or self.now >= lost_at + HELPER_PATIENCE_S
        ):
            return replace(health, is_healthy=False, reason="the helper is not there")
        return health

    def _advertised(self) -> Node | None:
        """What stands in etcd under our name."""
        view = self.state.view
        return view.nodes.get(self.state.settings.node) if view is not None else None

    def _my_node(self) -> Node | None:
        """Our advertisement, if it is of this lease."""
        node, lease = self._advertised(), self.state.lease
        return node if node is not None and lease is not None and node.lease == lease.id else None

    def _is_mine(self, mark: Mark) -> bool:
        lease = self.state.lease
        return (
            lease is not None and mark.lease == lease.id and mark.holder == self.state.settings.node
        )

    def _my_marks(self) -> tuple[Mark, ...]:
        view = self.state.view
        if view is None:
            return ()
        mine = (mark for mark in view.marks.values() if self._is_mine(mark))
        return tuple(sorted(mine, key=lambda mark: address_order(mark.address)))

    def _leaving(self) -> frozenset[Mark]:
        """Marks of ours whose release is under way or in doubt."""
        write = self.state.write
        return self.state.in_doubt | (_to_release(write) if write is not None else frozenset())

    def _is_absent(self, address: Address) -> bool:
        """Whether the address is confirmed off our interface."""
        local = self.state.local.get(address)
        return local is not None and local.phase is Phase.ABSENT

    def _has_removed_all(self) -> bool:
        return all(local.phase is Phase.ABSENT for local in self.state.local.values()) and all(
            self._is_absent(mark.address) for mark in self._my_marks()
        )

    def _is_leaving(self) -> bool:
        """Whether we are still advertised as healthy and are not: then everything is removed first
        and released all together."""
        node = self._my_node()
        return (
            node is not None
            and node.advertisement.is_healthy
            and self.state.health is not None
            and not self._health().is_healthy
            and not self._may_keep()
        )

    def _may_keep(self) -> bool:
        """Whether we are unhealthy and may hold on to what nobody else could hold."""
        return (
            self.state.settings.keeps_when_all_unhealthy
            and self.state.health is not None
            and not self._health().is_healthy
        )

    def _down(self) -> frozenset[str]:
        """Our interfaces that cannot carry an address now."""
        helper, up = self.state.helper, self.state.links_up
        if up is None:
            return frozenset()
        ours = {self.state.settings.interface, *(helper.networks if helper is not None else ())}
        return frozenset(ours - up)

    def _has_withdrawn(self) -> bool:
        """Whether we are stopping and nothing of ours is left but the lease."""
        stopping = self.state.stopping
        if stopping is None or self.state.write is not None or not self._has_removed_all():
            return False
        return stopping.is_withdrawn or (self._my_node() is None and not self._my_marks())

    # --- changing the state ----------------------------------------------------------------

    def _change(self, **changes: object) -> None:
        if any(getattr(self.state, name) is not value for name, value in changes.items()):
            self.state = replace(self.state, **changes)  # type: ignore[arg-type]

    def _record(self, address: Address, local: Local) -> None:
        self._change(local=frozen_mapping({**self.state.local, address: local}))

    def _under_way(self, request: int, address: Address, phase: Phase) -> Local | None:
        """The record of an address, if this request is the one that it waits for."""
        local = self.state.local.get(address)
        if local is None or local.request != request or local.phase is not phase:
            return None
        return local

    def _next_request(self) -> int:
        request = self.state.next_request
        self._change(next_request=request + 1)
        return request

    def _end_write(self, request: int) -> Write | None:
        """The write under way, if this is its number; it is answered now."""
        write = self.state.write
        if write is None or write.request != request:
            return None
        call = self._answered(self.state.write_call, self.now, "etcd takes writes again")
        self._change(write=None, write_call=call)
        return write

    def _answered(self, call: Call, due: float, again: str) -> Call:
        if call.failures:
            self._report(Level.INFO, again)
        return Call(due=Boottime(due))

    def _failed(self, call: Call, what: str, longest_s: float = RETRY_MAX_S) -> Call:
        since, reported_at = call.failing_since, call.reported_at
        if not call.failures:
            self._report(Level.WARNING, what)
            since = reported_at = self.now
        elif self.now >= reported_at + REPORT_EVERY_S:
            self._report(Level.WARNING, f"{what} (for {self.now - since:.0f} s now)")
            reported_at = self.now
        pause_s = min(max(RETRY_MIN_S, 2 * call.pause_s), longest_s)
        share = _share(self.state.settings.node, call.failures)
        return Call(
            due=Boottime(self.now + pause_s * share),
            failures=call.failures + 1,
            failing_since=since,
            reported_at=reported_at,
            pause_s=pause_s,
        )

    def _report(self, level: Level, text: str) -> None:
        self.actions.append(Report(level, text))


def _share(node: NodeName, failures: int) -> float:
    """How much of a pause a node makes, from a half to all: different for each node and failure."""
    number = int.from_bytes(blake2b(f"{node} {failures}".encode(), digest_size=4).digest())
    return 0.5 + number / 2**33


def _to_release(write: Write) -> frozenset[Mark]:
    match write:
        case ReleaseMarks(marks=marks) | AdvertiseNode(release=marks) | WithdrawNode(release=marks):
            return frozenset(marks)
        case ClaimMarks():
            return frozenset()
        case _:
            assert_never(write)


def _listed(addresses: Iterable[Address]) -> str:
    return ", ".join(str(address) for address in sorted(addresses, key=address_order))
