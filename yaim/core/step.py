"""The coordinator's decisions: step(state, events, now) -> new state, actions, next wake-up.

Decides; never acts. No clock, no randomness, no logging.

Level-triggered: events only change what is known; then, once, what should be is compared with
what is, and the differences become actions. Losing an event delays, but does not harm.

The rules that everything else serves:
1. An address is ours only if its mark bears our name and our lease.
2. Claim, then add. Remove, confirmed, then release. What we know nothing of is removed before
   its mark is released.
3. Nothing is added without a live deadline; every keepalive hands on a new one.
4. Unhealthy: remove all, then release all marks and change the advertisement in one transaction;
   what cannot be removed keeps its mark, and the rest waits for it only until that is told
   (overdue.py). Stopping: the same, then delete the advertisement.
5. Every write depends on the advertisement that we know, and a new life writes its own before it
   adds anything: what an earlier life has sent, and is still on its way, fails. What it has done
   just before shows in the next view: only then is anything added for a mark of that life.
6. An address that should be elsewhere on this host (its entry or our settings have changed) is put
   there by one add, which takes it from where it is, and keeps its mark. Until that is done, what
   counts is where it is: that link has to be up.
7. An etcd that is full takes deletions only: full_etcd.py says what a node does then that cannot
   hold what it is advertised for.
8. A lease lost although it was kept in time may be one of many: what was ours is claimed again at
   once; what others may still have on their interfaces is left to them until their deadlines.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import count
from types import MappingProxyType
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
    LookForAddresses,
    Outcome,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
    RenewAddresses,
    Report,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.allowlist import complaint, forbidden
from yaim.core.bounds import bounded, cut
from yaim.core.deadline import (
    KEEPALIVES_PER_TTL,
    LONGEST_LEAST_TTL_S,
    MIN_LIFE_S,
    all_over_at,
    deadline_of,
)
from yaim.core.elsewhere import NOTHING, complaints, is_told_by, still_there, to_advertise
from yaim.core.events import (
    AddressAdded,
    AddressesObserved,
    AddressesRenewed,
    AddressesSeen,
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
    LookFailed,
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
from yaim.core.full_etcd import after_refusal, can_hold_any, refuses_deletions, takes_deletions
from yaim.core.links import all_names, networks_by_all_names
from yaim.core.model import (
    SCHEMA,
    Address,
    Advertisement,
    Boottime,
    ClusterView,
    Mark,
    Node,
    NodeName,
    Place,
    Revision,
    address_order,
    frozen_mapping,
    is_in_force,
    presence,
    thawed,
)
from yaim.core.overdue import LOOK_AGAIN_S, Look, overdue_since, report
from yaim.core.placement import VERSION, counted, counted_marks, is_alike, place, version_of
from yaim.core.refusals import (
    FAILED_FOR_AT_MOST_S,
    FAILED_FOR_S,
    REFUSED_FOR_S,
    Cause,
    Refusal,
    Trial,
    beyond,
    next_overdue,
    on_trial,
    sooner,
)
from yaim.core.settings import CheckSettings
from yaim.core.state.health import OVERDUE, Checked, Health, after_answer, at, judge
from yaim.core.state.state import (
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
    changed,
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
KERNEL_PATIENCE_S = 1.0
"""How long the first advertisement waits for what the kernel tells of links and addresses."""
UNTOLD = Boottime(float("inf"))
"""In place of that instant: it has passed, and the kernel has not told."""
ADD_RETRY_S = 0.1
EXPIRED_AT_MOST = 10
"""How often in a row the helper may refuse an address for its deadline."""
MOST_TOLD = 10
"""Of what is found wrong at once, in the log."""
MOVE_RETRY_S = 60.0
"""How long an address stays where it is that our helper would not put where it should be."""
REMOVE_RETRY_S = 1.0
HELPER_PATIENCE_S = 2.0
"""A helper that comes back within this (a restart) does not change what we advertise."""
STOP_WITHIN_S = 5.0
PLACEMENT_TAKES_S = 0.1
"""At most, up to sizes well beyond 1000 addresses and 50 nodes (bench/placement.py). A keepalive
that is due within this is sent before it."""
ABSENT = Local(Phase.ABSENT)
ABSENT_KEY = Revision(0)
"""The revision that etcd gives a key that does not exist."""
NAME_PATIENCE_S = 3.0
"""How much longer than two TTLs another host's advertisement may stand under our name. Two,
because a new leader of etcd's starts every lease, also a dead host's, at its full TTL."""

OVERWRITE_EVERY_S = 1.0
OVERWRITES_AT_MOST, OVERWRITES_OVER_S = 10, 10.0
"""How often what others put under our name is written over; what looks like another host's so often
in a row: until ours has stood for so long."""


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
        self._own_records: dict[Address, Local] = {}
        self._own_local: Mapping[Address, Local] | None = None
        """`_own_records` as the state has them, once this turn has recorded something."""
        self._known_marks: tuple[ClusterView, Lease, tuple[Mark, ...]] | None = None
        """Our marks in this view under this lease."""

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
                self._change(read_call=call, is_view_stale=False, unsettled=frozenset())
                if is_other_history:
                    self._change(
                        view=None, seen=self.state.read_after, unconfirmed_before=Revision(0)
                    )
                self._hear(view)
                if self.state.unconfirmed_before or self._awaits_others():
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
                write = self._end_write(request)
                if write is not None:
                    self._leave_unsettled(_to_release(write))
            case NodeWithdrawn(request, revision):
                self._take_withdrawn(request, revision)
            case MarksClaimed(request, marks, lost, revision):
                if self._end_write(request) is not None:
                    if self.state.view is not None:
                        self._see(self.state.view.with_marks(marks, revision))
                    if marks:
                        self._change(full=None)
                    if lost:
                        self._report(Level.INFO, f"did not get {_listed(lost)}: taken or gone")
                        self._distrust_view()
            case MarksReleased(request, addresses, revision):
                write = self._end_write(request)
                if isinstance(write, ReleaseMarks):
                    if self.state.view is not None:
                        self._see(self.state.view.without_marks(addresses, revision))
                    others = frozenset(m for m in write.marks if m.address not in addresses)
                    if others:
                        self._leave_unsettled(others)
            case WriteFailed(request, reason, is_full):
                if self.state.write is not None and self.state.write.request == request:
                    self._take_unknown_outcome(self.state.write, reason, is_full)
            case HelperReady():
                self._take_helper(event)
            case HelperLost(reason):
                if self.state.helper is not None:
                    self._report(Level.WARNING, f"the helper is lost: {reason}")
                    self._change(helper=None, helper_lost_at=self.now)
            case AddressAdded(request, address):
                local = self._under_way(request, address, Phase.ADDING)
                if local is not None:
                    up = replace(local, phase=Phase.UP, place=local.to, to=None, expired=0)
                    self._record(address, up)
                    is_moved = local.place not in (None, local.to)
                    where = f" on {local.to}; it was on {local.place}" if is_moved else ""
                    self._report(Level.INFO, f"holds {address}{where}")
                    self._take_success(address)
            case AddressRefused():
                self._take_refused(event)
            case AddressFailed():
                self._take_failed(event)
            case AddressRemoved(request, address):
                if (local := self._under_way(request, address, Phase.REMOVING)) is not None:
                    self._record(address, Local(Phase.ABSENT, place=local.place))
            case AddressesRenewed(missing):
                for address in sorted(missing, key=address_order):
                    local = self.state.local.get(address)
                    if local is not None and local.phase is Phase.UP:
                        self._report(Level.WARNING, f"{address} was missing from the interface")
                        self._record(address, replace(local, phase=Phase.UNKNOWN))
            case AddressGone(address, place):
                self._take_gone(address, place)
            case AddressesSeen(present):
                self._take_seen(present)
            case LookFailed(reason):
                self._end_look(reason)
            case LinksObserved():
                self._take_links(event)
            case AddressesObserved(own, others):
                self._take_own(own)
                self._change(others=others)
            case ClockJumped(by_s):
                self._take_clock_jump(by_s)
            case SettingsChanged(settings):
                self._take_checks(settings.checks)
                retried = {
                    a: replace(known, stays_until=NEVER) for a, known in self.state.local.items()
                }
                self._change(
                    settings=settings,
                    local=frozen_mapping(retried),
                    refused=self._foreign(),
                    trial=Trial(tried=self.state.trial.tried),
                    most=None,
                    failing_for_s=0.0,
                    failing_until=NEVER,
                )
            case StopRequested(reason):
                if self.state.stopping is None:
                    self._report(Level.INFO, f"stopping: {reason}")
                    give_up_at = Boottime(self.now + STOP_WITHIN_S)
                    self._change(stopping=Stopping(reason, give_up_at))
            case RestartRequested(reason):
                if self.state.stopping is None and not self.state.look.is_pending:
                    self._finish(Outcome.LEFT, reason)
                elif self.state.stopping is None:
                    self._change(leaving=reason)
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
        longest_s = max(self.state.settings.ttl_s, LONGEST_LEAST_TTL_S)
        if event.lease == self.state.adopting and event.ttl_s > longest_s:
            self._report(
                Level.ERROR,
                f"does not adopt lease {event.lease:x}: its ttl of {event.ttl_s} s is more than"
                f" etcd grants for ours ({longest_s} s): ours is shorter now, or somebody else has"
                " put our advertisement there",
            )
            call = Call(due=self.now)
            self._change(adopting=None, not_adopted=event.lease, may_adopt=False, lease_call=call)
            return
        self._change(adopting=None)
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

    def _take_gone(self, address: Address, place: Place | None) -> None:
        """What has left another place than ours is the host's own, or was there before."""
        local = self.state.local.get(address)
        is_ours = local is not None and (None in (place, local.place) or place == local.place)
        if local is not None and local.phase is Phase.UP and is_ours:
            self._report(Level.WARNING, f"{address} has gone from the interface")
            self._record(address, replace(local, phase=Phase.UNKNOWN))
        elif local is not None and local.phase is Phase.ADDING:
            self._record(address, replace(local, has_gone=True))
        refusal = self.state.refused.get(address)
        if refusal is not None and refusal.cause is Cause.FOREIGN:
            self._refuse_no_more({address})
        said = (self.state.present_before or {}).get(address)
        if said is not None and (place is None or is_told_by(said, place)):
            before = {
                a: s for a, s in thawed(self.state.present_before or {}).items() if a != address
            }
            self._change(present_before=frozen_mapping(before))
        if address in self.state.given_back:
            # Told late. It was counted while it was here: then its place is not one more.
            self._change(given_back=self.state.given_back - {address})
        elif local is None and self.state.most is not None and self._could_be_added(address):
            # Perhaps another cluster's, for which our helper works, too: then there is a place.
            # Not for one of the host's own, which is still here as was told last.
            own = (self.state.own_addresses or {}).get(address, ())
            if not any(place in (None, each) for each in own):
                self._change(most=self.state.most + 1)

    def _could_be_added(self, address: Address) -> bool:
        helper = self.state.helper
        networks = helper.networks.values() if helper is not None else ()
        return any(address in network for each in networks for network in each)

    def _take_links(self, event: LinksObserved) -> None:
        down = self._down()
        before = {self._why_down(interface) for interface in down}
        has_new_names = event.altnames != self.state.altnames
        self._change(links_up=event.up, links_down=event.down, altnames=event.altnames)
        if has_new_names:
            self._report_altnames()
        for interface in sorted(self._down()):
            if (why := self._why_down(interface)) not in before:
                self._report(Level.WARNING, why)
        for interface in sorted(down - self._down()):
            self._report(Level.INFO, f"{interface} is up")
            # What could not be added there may have failed because of that.
            self._refuse_no_more(
                a
                for a, refusal in self.state.refused.items()
                if refusal.cause.is_tried and self._where(a).interface == interface
            )

    def _take_own(self, own: Mapping[Address, tuple[Place, ...]]) -> None:
        """What the host has on an interface decides on what may be added there; and that it has
        IPv6 again shows by its own address."""
        before = self.state.own_addresses
        self._change(own_addresses=own)
        if before is None or not self.state.refused:
            return
        changed = {
            (place.interface, address.version)
            for address in before.keys() | own.keys()
            for place in set(before.get(address, ())) ^ set(own.get(address, ()))
        }
        refused = {
            address: sooner(refusal, self.now)
            if refusal.cause.is_tried and self._group(address) in changed
            else refusal
            for address, refusal in self.state.refused.items()
        }
        if refused != self.state.refused:
            self._change(refused=frozen_mapping(refused), trial=Trial(tried=self.state.trial.tried))

    def _group(self, address: Address) -> tuple[str, int]:
        """What hinders one of a group hinders all of them, mostly."""
        return self._where(address).interface, address.version

    def _take_success(self, address: Address) -> None:
        """Whatever hindered it has gone, also for the others that it hindered."""
        state = self.state
        if address in state.told_refused:
            told = {a: why for a, why in state.told_refused.items() if a != address}
            self._change(told_refused=frozen_mapping(told))
        cause = state.trial.tried.get(address)
        if cause is not None:
            self._change(trial=Trial(tried=state.trial.tried))
            self._refuse_no_more(
                a
                for a, refusal in self.state.refused.items()
                if refusal.cause is cause and self._group(a) == self._group(address)
            )
        if state.most is not None:
            self._change(most=max(state.most, self._count_here()))

    def _count_here(self) -> int:
        """Of our helper's places, those that we surely take."""
        return sum(each.phase in (Phase.UP, Phase.REMOVING) for each in self._taking().values())

    def _taking(self) -> dict[Address, Local]:
        """Of what our helper has a place for, or may have."""
        full = {a for a, r in self.state.refused.items() if r.cause is Cause.LIMIT}
        return {
            address: local
            for address, local in self.state.local.items()
            if local.phase is not Phase.ABSENT and address not in full
        }

    def _refuse_no_more(self, addresses: Iterable[Address]) -> None:
        over = set(addresses)
        if over:
            refused = {a: r for a, r in self.state.refused.items() if a not in over}
            self._change(refused=frozen_mapping(refused))

    def _take_advertised(self, request: int, node: Node) -> None:
        write = self._end_write(request)
        view = self.state.view
        if not isinstance(write, AdvertiseNode) or view is None:
            return
        if not self.state.has_advertised and view.revision < node.revision and self._my_marks():
            due = replace(self.state.read_call, due=self.now)
            self._change(unconfirmed_before=node.revision, read_call=due)
        before = view.nodes.get(node.name)
        if before is None or before.advertisement.is_healthy:
            self._change(knows_others=False)
        self._change(has_advertised=True, known_under=node.lease, full=None)
        released = frozenset(mark.address for mark in write.release)
        self._see(view.with_node(node).without_marks(released, node.revision))
        word = "healthy" if node.advertisement.is_healthy else "unhealthy"
        self._report(Level.INFO, f"advertised as {word}{', waiting' if node.is_waiting else ''}")
        if self._awaits_others():
            # Whether others are healthy counts from now on, when they see that we are not.
            self._change(read_call=replace(self.state.read_call, due=self.now))

    def _take_withdrawn(self, request: int, revision: Revision) -> None:
        """When we are stopping, that was the last; otherwise we advertise ourselves anew."""
        write, view, stopping = self._end_write(request), self.state.view, self.state.stopping
        if not isinstance(write, WithdrawNode):
            return
        if stopping is not None:
            self._change(stopping=replace(stopping, is_withdrawn=True))
            return
        self._change(has_advertised=False)
        if view is not None:
            released = frozenset(mark.address for mark in write.release)
            view = view.without_node(self.state.settings.node, revision)
            self._see(view.without_marks(released, revision))

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
            place = event.places.get(on_interface.address)
            local[on_interface.address] = Local(Phase.UP, deadline=deadline, place=place)
        helper = Helper(event.session, frozen_mapping(dict(event.networks)), event.rules)
        if self.state.helper_before is None or self.state.helper_before.networks != helper.networks:
            self._change(most=None)
        self._change(
            helper=helper,
            helper_before=helper,
            helper_lost_at=None,
            local=frozen_mapping(local),
            left_over=frozen_mapping({a: event.places.get(a) for a in event.left_over}),
            refused=self._foreign(),
        )

    def _take_seen(self, present: frozenset[Address]) -> None:
        """What was overdue when the look was asked for and is not there is gone (overdue.py)."""
        local = dict(self.state.local)
        for address, known in self.state.local.items():
            is_in_time = overdue_since(known.deadline) > self.state.look.asked_at
            if known.phase is Phase.ABSENT or is_in_time or address in present:
                continue
            if known.phase is Phase.UP:
                self._report(Level.WARNING, f"lost {address}: its deadline has passed")
            local[address] = Local(Phase.ABSENT, place=known.place)
        self._change(local=frozen_mapping(local))
        self._end_look("")

    def _end_look(self, failure: str) -> None:
        due = Boottime(self.now + LOOK_AGAIN_S)
        look = replace(self.state.look, is_pending=False, due=due, failure=failure)
        self._change(look=look)
        if self.state.leaving is not None and self.state.stopping is None:
            self._finish(Outcome.LEFT, self.state.leaving)

    def _take_refused(self, event: AddressRefused) -> None:
        local = self._under_way(event.request, event.address, Phase.ADDING)
        if local is None:
            return
        # Nothing was done: what an add before this one has put there may be there still.
        retry_at = Boottime(self.now + ADD_RETRY_S)
        unknown = replace(local, phase=Phase.UNKNOWN, retry_at=retry_at, has_gone=False)
        expired = local.expired + 1 if event.cause is Cause.EXPIRED else 0
        self._record(event.address, replace(unknown, expired=expired))
        if event.cause is Cause.EXPIRED:
            self._take_expired(event, local)
            return
        if event.cause is Cause.FOREIGN and local.has_gone:
            return
        if not self._stays(event.address, local, event.reason):
            refusal = Refusal(event.cause, self.now, Boottime(self.now + REFUSED_FOR_S))
            self._leave_to_others(event.address, refusal, f"the helper refused it: {event.reason}")

    def _take_expired(self, event: AddressRefused, local: Local) -> None:
        """Once that says nothing, as the command may have come late. Again and again it is our
        lease, or this host, that is not fit to hold anything."""
        is_late = local.expired + 1 < EXPIRED_AT_MOST
        if is_late or self._stays(event.address, local, event.reason):
            return
        self._record(event.address, replace(self.state.local[event.address], expired=0))
        self._take_failing()
        refusal = Refusal(Cause.FAILED, self.now, self.state.failing_until)
        why = f"the helper has refused it {EXPIRED_AT_MOST} times: {event.reason}"
        self._leave_to_others(event.address, refusal, why)

    def _take_failed(self, event: AddressFailed) -> None:
        removing = self._under_way(event.request, event.address, Phase.REMOVING)
        if removing is not None:
            retry_at = Boottime(self.now + REMOVE_RETRY_S)
            failed = replace(removing, retry_at=retry_at, failure=event.reason)
            self._record(event.address, failed)
            if event.reason != removing.failure:
                self._report(Level.ERROR, f"cannot remove {event.address}: {event.reason}")
        adding = self._under_way(event.request, event.address, Phase.ADDING)
        if adding is not None:
            self._record(event.address, replace(adding, phase=Phase.UNKNOWN))
        if adding is not None and not self._stays(event.address, adding, event.reason):
            self._take_failing()
            refusal = Refusal(Cause.FAILED, self.now, self.state.failing_until)
            self._leave_to_others(event.address, refusal, f"cannot add it: {event.reason}")

    def _stays(self, address: Address, adding: Local, why: str) -> bool:
        """Whether the add that did not succeed was to put the address elsewhere: then it is on the
        interface where it was, or comes back there."""
        here, to = adding.place, adding.to
        if here is None or to is None or here == to:
            return False
        self._report(Level.ERROR, f"{address} stays on {here}: cannot put it on {to}: {why}")
        local = replace(
            self.state.local[address],
            to=None,
            retry_at=self.now,
            could_not_be_at=to,
            stays_until=Boottime(self.now + MOVE_RETRY_S),
        )
        self._record(address, local)
        return True

    def _take_failing(self) -> None:
        """What has gone wrong may pass soon, or not: all that fails together is tried again
        together, after pauses that double."""
        state = self.state
        if self.now < state.failing_until:
            return
        is_again = state.failing_for_s and self.now < state.failing_until + FAILED_FOR_AT_MOST_S
        for_s = min(2 * state.failing_for_s, FAILED_FOR_AT_MOST_S) if is_again else FAILED_FOR_S
        self._change(failing_for_s=for_s, failing_until=Boottime(self.now + for_s))

    def _take_unknown_outcome(self, write: Write, reason: str, is_for_want_of_space: bool) -> None:
        """The write may yet be done: what it was to release must not be used again. One that etcd
        has refused because it is full is done by now, or never."""
        marks = _to_release(write)
        call = self._failed(self.state.write_call, f"cannot write to etcd: {reason}")
        self._change(write=None, write_call=call)
        if is_for_want_of_space:
            self._change(full=after_refusal(self.state.full, write))
        else:
            self._change(in_doubt=self.state.in_doubt | marks)
            marks = frozenset()
        self._leave_unsettled(marks)

    def _leave_to_others(self, address: Address, refusal: Refusal, why: str) -> None:
        state = self.state
        tried = {a: cause for a, cause in state.trial.tried.items() if a != address}
        share = _share(state.settings.node, int(self.now))
        trial = replace(state.trial, tried=frozen_mapping(tried)).after_a_refusal(self.now, share)
        self._change(
            refused=frozen_mapping(thawed(state.refused) | {address: refusal}), trial=trial
        )
        if refusal.cause is Cause.LIMIT:
            self._change(most=self._count_here())
        elif address in state.trial.tried:
            self._put_off(address, refusal)
        if state.told_refused.get(address) != why:
            self._change(told_refused=frozen_mapping({**state.told_refused, address: why}))
            self._report(Level.ERROR, f"leaves {address} to other nodes: {why}")

    def _put_off(self, address: Address, refusal: Refusal) -> None:
        """One was tried for all that the same hinders."""
        refused = {
            a: replace(r, until=max(r.until, refusal.until))
            if r.cause is refusal.cause and self._group(a) == self._group(address)
            else r
            for a, r in self.state.refused.items()
        }
        self._change(refused=frozen_mapping(refused))

    def _hear(self, view: ClusterView) -> None:
        """etcd has told this view: nothing in it is our own reckoning."""
        self._see(view)
        if self.state.view is not view:
            return
        if view.revision >= self.state.unconfirmed_before:
            self._change(unconfirmed_before=Revision(0))
        node = self._my_node()
        if node is not None and not node.advertisement.is_healthy:
            self._change(knows_others=True)

    def _see(self, view: ClusterView) -> None:
        """Take a view for the present one, unless a newer is known."""
        before = self.state.view
        if before is not None and view.revision < before.revision:
            return
        if before is None and view.revision < self.state.seen:
            self._take_other_history()
        had_node = self._my_node() is not None
        self._report_wrong(before, view)
        self._change(
            view=view,
            seen=Revision(0),
            in_doubt=frozenset(m for m in self.state.in_doubt if view.marks.get(m.address) == m),
        )
        self._remember(before)
        self._note_orphans(before)
        self._note_strays(before)
        if had_node and self._my_node() is None and not self.state.lease_call.failures:
            # Is our lease gone with our advertisement?
            self._change(lease_call=replace(self.state.lease_call, due=self.now))

    def _report_wrong(self, before: ClusterView | None, view: ClusterView) -> None:
        if before is not None and before.wrong is view.wrong:
            return
        known = {wrong.name: wrong for wrong in before.wrong} if before is not None else {}
        new = [wrong for wrong in view.wrong if known.get(wrong.name) != wrong]
        for wrong in new[:MOST_TOLD]:
            self._report(Level.WARNING, f"wrong pool entry {wrong.name!r}: {wrong.reason}")
        if len(new) > MOST_TOLD:
            more = len(new) - MOST_TOLD
            self._report(Level.WARNING, f"and {more} more wrong pool entries: yaim status")

    def _note_strays(self, before: ClusterView | None) -> None:
        """What stands in etcd without a lease is no node's: every node writes under its lease. A
        stray advertisement holds and takes nothing.

        A mark that was put over another one (is_over_another) is nobody's, also not of the node
        that it names, and whatever its lease: the holder of the other one may have the address.
        When it sees that, it removes it; but one that can neither read nor watch keeps its lease,
        and the address, for as long as that lasts, and nobody can know. So no node deletes such a
        mark, nor claims the address while it stands there: people do that, who can look.

        A mark without a lease that was put where none was is deleted by whoever is to hold its
        address. What was there before it has gone in one of these ways, and none leaves the address
        on a node. Its holder has deleted it, when it had removed the address. Or it went with its
        lease, and the address by its deadline, before that; with a lease that was revoked, or lost
        with all others, when the holder learns of it, a TTL later at the latest, for which this
        waits. Or somebody has deleted it by hand: that is outside of what yaim promises
        (docs/reliability.md), and yet the holder has time for two reads. All that counts from when
        we first see the mark as it stands, and only that one is deleted, by its mod_revision: what
        is put there later is waited for anew. Then the address is free, and claimed like any other.

        Nodes of older versions leave a mark without a lease where it is, for ever. That needs no
        version of its own: in the placement a mark counts as its holder does (counted_marks)."""
        view = self.state.view
        if view is None:
            return
        if not view.stray_nodes and not view.stray_marks and not self.state.strays:
            return
        known = before.stray_nodes if before is not None else {}
        new = sorted(view.stray_nodes.keys() - known.keys())
        if new:
            what = f"what is advertised in etcd as {_some(new)} is no node's, as it has no lease"
            self._report(Level.WARNING, f"{what} or no name: yaim status tells which key to delete")
        until = Boottime(all_over_at(self.now, self._ttl_s()) + 2 * READ_EVERY_S)
        strays: dict[Address, Boottime] = {}
        new_marks: list[str] = []
        new_over: list[str] = []
        for address, mark in sorted(view.stray_marks.items(), key=lambda it: address_order(it[0])):
            is_same = before is not None and before.stray_marks.get(address) == mark
            if not mark.is_over_another:
                strays[address] = self.state.strays.get(address, until) if is_same else until
            if not is_same and address in view.pool:
                (new_over if mark.is_over_another else new_marks).append(str(address))
        if new_marks:
            self._report(
                Level.WARNING,
                f"no node's, as it has no lease, is the mark of {_some(new_marks)}:"
                f" whoever is to hold the address deletes it in {until - self.now:.1f} s",
            )
        if new_over:
            self._report(
                Level.WARNING,
                f"somebody has put a mark over another one's, of {_some(new_over)}: nobody takes"
                " the address until that is deleted, when no node has it: yaim status",
            )
        self._change(strays=frozen_mapping(strays))

    def _remember(self, before: ClusterView | None) -> None:
        """Note what is ours, for the case that our lease is lost, and after a loss what is released
        by those who have a lease."""
        view, loss = self.state.view, self.state.loss
        if view is None:
            return
        has_node = self.state.has_advertised and self._my_node() is not None
        ours: frozenset[Address] = frozenset()
        if loss is not None or not has_node:
            ours = frozenset(a for a in self.state.ours if a not in view.marks)
        if has_node:
            leaving = {mark.address for mark in self._leaving()}
            ours |= {mark.address for mark in self._my_marks()} - leaving
        if loss is not None:
            released = frozenset(
                mark.address for mark in _gone(before, view) if is_in_force(mark, view.nodes)
            )
            marked = view.marks.keys() | view.stray_marks.keys()
            loss = replace(loss, released=(loss.released | released) - marked)
        self._change(ours=ours if ours != self.state.ours else self.state.ours, loss=loss)

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
        for mark in _gone(before, view):
            had_lease = before is not None and is_in_force(mark, before.nodes)
            is_lost = mark.address not in view.marks and not is_in_force(mark, view.nodes)
            if had_lease and is_lost and mark.holder != self.state.settings.node:
                orphans[mark.address] = Boottime(self.now + ORPHAN_PATIENCE_S)
        if orphans != self.state.orphans:
            self._change(orphans=frozen_mapping(orphans))

    def _leave_unsettled(self, marks: frozenset[Mark]) -> None:
        """These are not used before a read has told whether they are there."""
        self._change(unsettled=self.state.unsettled | marks)
        self._distrust_view()

    def _distrust_view(self) -> None:
        self._change(is_view_stale=True, read_call=replace(self.state.read_call, due=self.now))

    def _forget_lease(self) -> None:
        """With the lease went our marks, and perhaps all of etcd's history: start afresh."""
        view = self.state.view
        self._change(
            seen=view.revision if view is not None else self.state.seen,
            lease=None,
            adopting=None,
            may_adopt=False,
            has_advertised=False,
            unconfirmed_before=Revision(0),
            view=None,
            target=frozen_mapping({}),
            target_of=None,
            in_doubt=frozenset(),
            unsettled=frozenset(),
            lease_call=Call(due=self.now),
            read_call=replace(self.state.read_call, due=self.now),
        )

    # --- what follows ----------------------------------------------------------------------

    def reconcile(self) -> None:
        self._forget_absent()
        self._look()
        self._judge()
        self._note_flaps()
        self._end_loss()
        self._check_name()
        self._sweep()
        self._note_present()
        if not self._place():
            return
        self._note_forbidden()
        self._try_again()
        self._note_limit()
        places = self._wanted()
        wanted = frozenset(places)
        self._remove_all_but(wanted)
        self._add(places)
        self._renew()
        self._write(wanted)
        self._keep_lease()
        self._read()
        self._end_if_done()

    def _forget_absent(self) -> None:
        """What is off our interface and of no concern to us; and refusals that are over."""
        mine = {mark.address for mark in self._my_marks()}
        local = {
            address: known
            for address, known in self.state.local.items()
            if known.phase is not Phase.ABSENT or address in mine or self.now < known.retry_at
        }
        refused = {
            a: r
            for a, r in self.state.refused.items()
            if r.until > self.now or r.cause is not Cause.LIMIT
        }
        if local != self.state.local or refused != self.state.refused:
            given_back = self.state.given_back | (self.state.local.keys() - local.keys())
            self._change(
                local=frozen_mapping(local),
                refused=frozen_mapping(refused),
                given_back=given_back if self.state.most is not None else frozenset(),
            )

    def _look(self) -> None:
        """Look for what has outlived its deadline and the helper's grace, until it is gone."""
        overdue, look = self._overdue(), self.state.look
        if not overdue:
            if look.reported_at is not None:
                self._report(Level.INFO, "nothing is on the interface after its deadline any more")
            if not look.is_pending:
                self._change(look=Look())
            elif look.reported_at is not None:
                self._change(look=replace(look, reported_at=None))
            return
        if self.now >= look.reports_at(overdue_since(min(overdue.values()))):
            self._report(Level.WARNING, report(look, overdue, self.now))
            look = replace(look, reported_at=self.now)
        if not look.is_pending and self.now >= look.due:
            look = replace(look, is_pending=True, asked_at=self.now)
            self.actions.append(LookForAddresses())
        self._change(look=look)

    def _overdue(self) -> dict[Address, Boottime]:
        """What should be off our interface by now, for all that was granted, and its deadline."""
        return {
            address: known.deadline
            for address, known in self.state.local.items()
            if known.phase is not Phase.ABSENT and self.now >= overdue_since(known.deadline)
        }

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
            if self.now >= self.state.overwritten_at + OVERWRITES_OVER_S:
                self._change(overwrites=0)
        elif node.advertisement.session == helper.session and self._may_adopt(node):
            # Our own, of an earlier life: adopt it.
            self._change(name_taken_since=None, lease=None, may_adopt=True, has_advertised=False)
        elif node.advertisement.session == helper.session:
            self._change(name_taken_since=None, may_adopt=False)
        elif self._keeps_name():
            self._change(name_taken_since=None)
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
                f"another live host is advertised as {node.name}: give this one another nodename"
                f" (or, if there is no such host: etcdctl lease revoke {node.lease:x}, under which"
                f" the key nodes/{node.name} stands)",
            )

    def _keeps_name(self) -> bool:
        """Whether what looks like another host's under our name is to be written over: our lease
        lives, we have advertised ourselves under it, and no yaim writes over a live advertisement.
        So somebody has put it there by hand, or has deleted ours there while another host waited
        for the name. Two such hosts would write over each other for ever: so only some times in a
        row, and then this is another host's.

        Never two: a write of either depends on its own advertisement standing there, and marks of
        the other are under its own lease, so each removes what it holds as long as the other's
        stands there, and nobody claims that before its mark is gone."""
        lease, state = self.state.lease, self.state
        is_ours = lease is not None and state.known_under == lease.id and self._life_s() > 0
        return is_ours and state.overwrites < OVERWRITES_AT_MOST

    def _may_adopt(self, node: Node) -> bool:
        """Whether what stands under our name with our session, and another lease than ours, is an
        earlier life's, so that its lease becomes ours. Only as long as we have no lease, or have
        written no advertisement and have no mark: no lease of ours is dropped that bears one. After
        that somebody has copied it, by hand. And only a lease that etcd may have granted for our
        ttl (_take_lease): one that ends much later would leave what we hold to nobody when we are
        dead.

        Never two, whatever is adopted or not. What we add has the deadline of the lease that its
        mark is under, for as long as etcd has told us that it keeps that. What is not adopted is
        written over under our own lease. Marks under the other lease are not ours then: their
        addresses are removed here, and nobody else claims them before etcd deletes them. And an
        earlier life, if it were alive, would fail at its next write, which depends on its
        advertisement; its helper's connection is ours by now."""
        is_first = self.state.lease is None or self.state.known_under is None
        return is_first and not self._my_marks() and node.lease != self.state.not_adopted

    def _replaced(self) -> Revision:
        """Of what stands under our name and is not of our lease, and is written over: a copy of our
        advertisement under another lease, or one without any, which is nobody's. 0: nothing."""
        view, helper, name = self.state.view, self.state.helper, self.state.settings.node
        if view is None:
            return ABSENT_KEY
        stray, node = view.stray_nodes.get(name), view.nodes.get(name)
        if stray is not None:
            return stray.revision
        if node is None or helper is None or node.advertisement.session != helper.session:
            return ABSENT_KEY
        return node.revision

    def _others_under_our_name(self) -> Node | None:
        """What stands there, and is not of our lease."""
        view, name = self.state.view, self.state.settings.node
        if view is None or self._my_node() is not None:
            return None
        return view.stray_nodes.get(name) or view.nodes.get(name)

    def _note_overwrite(self, write: Write) -> None:
        other, helper = self._others_under_our_name(), self.state.helper
        if not isinstance(write, AdvertiseNode) or other is None:
            return
        is_foreign = helper is not None and other.advertisement.session != helper.session
        overwrites = self.state.overwrites + (1 if is_foreign and other.lease else 0)
        if overwrites != self.state.overwrites:
            self._report(
                Level.WARNING,
                f"somebody has put another advertisement under our name, under lease"
                f" {other.lease:x}: writes our own again ({overwrites} of {OVERWRITES_AT_MOST})",
            )
        self._change(overwrites=overwrites, overwritten_at=self.now)

    def _name_limit(self) -> Boottime:
        since = self.state.name_taken_since or NEVER
        return Boottime(since + 2 * self.state.settings.ttl_s + NAME_PATIENCE_S)

    def _place(self) -> bool:
        """Make the placement for the present view, if it may be another one than before. That takes
        long in a large cluster, so what the lease needs goes first, in a step of its own: False,
        and the next step follows at once. Once only: nothing puts a decision off for long."""
        view, before = self.state.view, self.state.target_of
        if view is not None and (before is None or not is_alike(before, view)):
            if not self.state.is_target_put_off and self._keep_ahead():
                self._change(is_target_put_off=True)
                return False
            self._note_version(before, view)
            self._change(target=place(view.pool, counted(view), counted_marks(view)))
        self._change(target_of=view, is_target_put_off=False)
        return True

    def _note_version(self, before: ClusterView | None, view: ClusterView) -> None:
        nodes = counted(view)
        version = version_of(nodes)
        if version == (version_of(counted(before)) if before is not None else VERSION):
            return
        older = [name for name, node in nodes.items() if node.advertisement.placement < VERSION]
        why = f"as {_some(sorted(older))} know{'s' * (len(older) == 1)} no newer one"
        if not older:
            why = "as all nodes know it now"
        self._report(Level.INFO, f"shares addresses by version {version} of the placement, {why}")

    def _keep_ahead(self) -> bool:
        """Hand on the lease's deadline, and send the keepalive that is due soon, before something
        that takes long; whether there was anything to be done."""
        if self.state.lease is None or self.state.stopping is not None:
            return False
        decided = len(self.actions)
        self._renew()
        call = self.state.lease_call
        if not call.failures and self.now < call.due <= self.now + PLACEMENT_TAKES_S:
            self._change(lease_call=replace(call, due=self.now))
        self._keep_lease()
        return len(self.actions) > decided

    def _wanted(self) -> Mapping[Address, Place]:
        """The addresses that should be on our interface now, and where."""
        state = self.state
        if state.stopping is not None or self._life_s() <= 0:
            return {}
        on_trial = frozenset[Address]()
        if state.health is None:
            wanted = {mark.address for mark in self._my_marks()}
        elif self._health().is_healthy:
            on_trial = self._on_trial()
            wanted = self._assigned() | on_trial
        elif self._may_keep():
            wanted = self._kept()
        else:
            wanted = set()
        down = self._down()
        # Of what others cannot be told that we refuse it (bounds.py), it may be given to us.
        refused = self._refused() - on_trial
        left = refused | self._is_elsewhere() | {m.address for m in self._leaving()}
        places = {address: self._place_for(address, down) for address in wanted - left}
        return {address: place for address, place in places.items() if place is not None}

    def _assigned(self) -> set[Address]:
        """What the placement gives us; after a loss instead of what nobody has marked only what was
        ours, whoever is to hold it, and what we have seen released."""
        view, node, loss = self.state.view, self._my_node(), self.state.loss
        assigned = {a for a, name in self.state.target.items() if name == self.state.settings.node}
        if refuses_deletions(self.state.full):
            assigned |= self._immovable()
        if loss is None:
            return assigned
        if view is None or node is None:
            return set()
        ours = {a for a in self.state.ours & view.pool.keys() if node.can_hold(view.pool[a])}
        return ours | {a for a in assigned if a in view.marks or a in loss.released}

    def _immovable(self) -> set[Address]:
        """What we have marked and could hold. A full etcd would not let others have it."""
        view, node = self.state.view, self._my_node()
        if view is None or node is None:
            return set()
        held = {mark.address for mark in self._my_marks()} & view.pool.keys()
        return {address for address in held if node.can_hold(view.pool[address])}

    def _kept(self) -> set[Address]:
        """What an unhealthy node goes on holding: all, until it knows what the others are; then
        what none of them could hold. In doubt nothing goes, and nothing that goes comes back."""
        view, node = self.state.view, self._my_node()
        if view is None or node is None:
            return set()
        held = {mark.address for mark in self._my_marks() if mark.address in view.pool}
        if node.advertisement.is_healthy or self._awaits_others():
            return held
        others = [each for each in view.nodes.values() if each.name != node.name]
        present = self.state.everywhere
        going = {
            a
            for a in held
            if a not in present and any(other.can_take(view.pool[a]) for other in others)
        }
        if self.state.is_view_stale:
            going &= {
                a
                for a, local in self.state.local.items()
                if local.phase in (Phase.REMOVING, Phase.ABSENT)
            }
        return held - going

    def _awaits_others(self) -> bool:
        """Whether an unhealthy node does not know yet what the others are."""
        node = self._my_node()
        is_told = node is not None and not node.advertisement.is_healthy
        return self._may_keep() and is_told and not self.state.knows_others

    def _sweep(self) -> None:
        """What an earlier life has left of the pool's addresses is on our interface, who knows
        until when. Other addresses may be another cluster's."""
        view, left_over = self.state.view, self.state.left_over
        if view is None or not left_over:
            return
        deadline = Boottime(self.now + self._ttl_s())
        unknown = {
            address: Local(Phase.UNKNOWN, deadline=deadline, place=left_over[address])
            for address in sorted(left_over, key=address_order)
            if address in view.pool and address not in self.state.local
        }
        local = frozen_mapping(thawed(self.state.local) | unknown)
        self._change(left_over=frozen_mapping({}), local=local)

    def _note_present(self) -> None:
        """What we have for another reason than yaim, and what others say so of."""
        state, view = self.state, self.state.view
        self._expect_kernel()
        foreign = frozenset(self._foreign())
        pool = frozenset(view.pool if view is not None else ())
        networks = state.helper.networks if state.helper is not None else frozen_mapping({})
        before = self._said_before()
        present_of = (state.own_addresses, before, foreign, pool, networks)
        if present_of != state.present_of:
            own = state.own_addresses or {}
            present = to_advertise(own, before, foreign, pool, networks)
            self._change(present=present, present_of=present_of)
        if view is None:
            return
        if self.state.everywhere_of is not view.nodes:
            self._change(everywhere=presence(view.nodes), everywhere_of=view.nodes)
        phases = {address: local.phase for address, local in self.state.local.items()}
        held = frozenset(a for a, phase in phases.items() if phase in (Phase.UP, Phase.REMOVING))
        me, everywhere = state.settings.node, self.state.everywhere
        told = complaints(view, everywhere, me, self.state.present, held)
        for address, phase in phases.items():
            if phase in (Phase.ADDING, Phase.UNKNOWN):
                # Soon it is held, or it is not.
                told.pop(address, None)
                if address in state.told_present:
                    told[address] = state.told_present[address]
        for address in sorted(told.keys() | state.told_present.keys(), key=address_order):
            if address not in told:
                self._report(
                    Level.INFO, f"{address} is on no node any more for another reason than yaim"
                )
            elif told[address] != state.told_present.get(address):
                self._report(Level.WARNING, told[address])
        if told != state.told_present:
            self._change(told_present=frozen_mapping(told))

    def _said_before(self) -> Mapping[Address, str]:
        """What our earlier life said that it has for another reason, and may be here yet."""
        state, node = self.state, self._my_node()
        before = state.present_before
        if before is None:
            if node is None or state.has_advertised:
                return NOTHING
            before = node.advertisement.present
        if state.own_addresses is not None:
            before = still_there(before, state.others)
        if before != state.present_before:
            self._change(present_before=frozen_mapping(before))
        return before

    def _note_forbidden(self) -> None:
        """What our helper would refuse because of its prefix length: said before it has to be."""
        state, view, helper = self.state, self.state.view, self.state.helper
        if view is None or helper is None:
            return
        reckoned_from = view.pool, state.settings, state.altnames, helper.rules
        if reckoned_from == state.forbidden_of:
            return
        pool = [address for address, entry in view.pool.items() if not entry.fault]
        found = forbidden(pool, self._where, helper.rules)
        if found and found != state.forbidden:
            self._report(Level.ERROR, complaint(found))
        self._change(forbidden=frozen_mapping(found), forbidden_of=reckoned_from)

    def _declined(self) -> frozenset[Address]:
        """What is not to be given to us because of its prefix length. What we hold stays: nodes
        that get the same wrong netmask in the same instant would hand it to each other, and none
        would take it."""
        return frozenset(self.state.forbidden.keys() - {m.address for m in self._my_marks()})

    def _refused(self) -> frozenset[Address]:
        return self._declined().union(self.state.refused, self.state.too_many)

    def _expect_kernel(self) -> None:
        state = self.state
        if state.own_addresses is not None or state.kernel_due == UNTOLD:
            return
        if state.kernel_due == NEVER:
            self._change(kernel_due=Boottime(self.now + KERNEL_PATIENCE_S))
        elif self.now >= state.kernel_due:
            self._report(
                Level.WARNING,
                f"the kernel has not told within {KERNEL_PATIENCE_S:g} s which addresses are on"
                " this host: takes nothing until it has",
            )
            self._change(kernel_due=UNTOLD)

    def _foreign(self) -> Mapping[Address, Refusal]:
        """What the helper said is here for another reason. That is known until it goes: a new try
        would have to take back what others are told, and one of them could take the address."""
        found = {a: r for a, r in self.state.refused.items() if r.cause is Cause.FOREIGN}
        return frozen_mapping(found)

    def _try_again(self) -> None:
        state, view = self.state, self.state.view
        if view is None or self.now < state.trial.next_at:
            return
        unplaced = self._refused_alone(view)
        unheld = unplaced - view.marks.keys()
        tried = on_trial(state.refused, state.too_many, unheld)
        if not tried and (overdue := next_overdue(state.refused, unplaced, self.now)):
            tried = frozen_mapping({overdue: state.refused[overdue].cause})
            self._refuse_no_more(tried)
        if tried:
            share = _share(state.settings.node, int(self.now))
            # What has succeeded stays until our advertisement takes its refusal back.
            succeeded = {
                a: cause
                for a, cause in state.trial.tried.items()
                if a not in state.target and state.local.get(a, ABSENT).phase is Phase.UP
            }
            tried = frozen_mapping(succeeded | thawed(tried))
            self._change(trial=state.trial.of(tried, self.now, share))

    def _refused_alone(self, view: ClusterView) -> set[Address]:
        """What no node is to hold, and this one could, but for the refusal."""
        state, node = self.state, self._my_node()
        refused = state.too_many | state.refused.keys()
        if not refused or node is None:
            return set()
        told = replace(node.advertisement, refused=frozenset[Address]())
        willing, elsewhere, down = (
            replace(node, advertisement=told),
            self._is_elsewhere(),
            self._down(),
        )
        return {
            address
            for address in (refused & view.pool.keys()) - state.target.keys() - elsewhere
            if willing.can_hold(view.pool[address]) and self._place_for(address, down) is not None
        }

    def _on_trial(self) -> frozenset[Address]:
        """What we try to hold although we are advertised to refuse it, as no other node can."""
        view, node, tried = self.state.view, self._my_node(), self.state.trial.tried
        if not tried or view is None or node is None or self.state.loss is not None:
            return frozenset()
        willing = replace(
            node, advertisement=replace(node.advertisement, refused=frozenset[Address]())
        )
        return frozenset(
            a
            for a in tried
            if a in view.pool
            and a not in self.state.target
            and (a not in view.marks or self._is_mine(view.marks[a]))
            and willing.can_hold(view.pool[a])
        )

    def _note_limit(self) -> None:
        """How many our helper takes it has shown by a refusal: what is more is left to others."""
        view, local = self.state.view, self.state.local
        mine = {mark.address for mark in self._my_marks()}
        self._refuse_no_more(
            a
            for a, refusal in self.state.refused.items()
            if refusal.cause is Cause.LIMIT
            and a not in mine
            and local.get(a, ABSENT).phase is Phase.ABSENT
        )
        state, too_many = self.state, frozenset[Address]()
        if state.most is not None and view is not None:
            on_trial = {a for a in state.trial.tried if local.get(a, ABSENT).phase is not Phase.UP}
            here = (self._taking().keys() | mine) - state.refused.keys() - on_trial
            others = view.pool.keys() - here - state.refused.keys()
            too_many = beyond(state.most, here, others, view.marks, state.too_many)
            if not too_many and not state.refused and 2 * len(here) <= state.most:
                self._change(most=None)
        if too_many != state.too_many:
            self._change(too_many=too_many)

    def _maybe_here(self) -> frozenset[Address]:
        """What is on our interface because of us, or may be."""
        maybe = (Phase.ADDING, Phase.UP, Phase.UNKNOWN)
        return frozenset(a for a, local in self.state.local.items() if local.phase in maybe)

    def _is_elsewhere(self) -> frozenset[Address]:
        """What is not to be added, as some node, perhaps this one, has it for another reason."""
        others = self.state.everywhere if self.state.view is not None else NOTHING
        found = frozenset(others.keys() | self.state.present.keys())
        return found - self._maybe_here() if found else found

    def _remove_all_but(self, wanted: frozenset[Address]) -> None:
        if self.state.helper is None or (self.state.may_adopt and self.state.stopping is None):
            return
        mine = {mark.address for mark in self._my_marks()}
        requests = count(self.state.next_request)
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
            request = next(requests)
            self._record(
                address,
                replace(
                    local,
                    phase=Phase.REMOVING,
                    request=request,
                    to=None,
                    retry_at=Boottime(self.now + self._ttl_s()),
                ),
            )
            self.actions.append(RemoveAddress(request, address))
        self._change(next_request=next(requests))

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
        interface = (self._is_at(address) or self._where(address)).interface
        if interface in self._down():
            return self._why_down(interface)
        if self.state.has_advertised and self._my_node() is None:
            return "our advertisement has gone from etcd"
        if address in view.stray_marks:
            return "somebody has put another mark over ours"
        mark = view.marks.get(address)
        if mark is None or not self._is_mine(mark):
            return "its mark is not ours" + (f" but {mark.holder}'s" if mark else "")
        target = state.target.get(address)
        return f"{target} is to hold it" if target else "this node is not eligible"

    def _add(self, places: Mapping[Address, Place]) -> None:
        if self.state.helper is None or not self.state.has_advertised:
            return
        unconfirmed_before = self.state.unconfirmed_before
        mine = {m.address for m in self._my_marks() if m.revision >= unconfirmed_before}
        retry_at = Boottime(self.now + ADD_RETRY_S)
        requests = count(self.state.next_request)
        for address in sorted(places.keys() & mine, key=address_order):
            local, place = self.state.local.get(address, Local(Phase.UNKNOWN)), places[address]
            is_elsewhere = local.phase is Phase.UP and local.place not in (None, place)
            is_missing = local.phase in (Phase.UNKNOWN, Phase.ABSENT)
            if self.now < local.retry_at or not (is_missing or is_elsewhere):
                continue
            lease = self._lease_to_add_with()
            if lease is None:
                break
            request = next(requests)
            adding = Local(
                Phase.ADDING,
                request,
                max(lease.deadline, local.deadline),
                retry_at,
                place=place if local.phase is Phase.ABSENT else local.place,
                to=place,
                could_not_be_at=local.could_not_be_at,
                stays_until=local.stays_until,
                expired=local.expired,
            )
            self._record(address, adding)
            where = place.interface, place.prefix_length
            self.actions.append(AddAddress(request, address, *where, lease.deadline))
        self._change(next_request=next(requests))

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
            self._change(local=frozen_mapping(thawed(self.state.local) | renewed))

    def _lease_to_add_with(self) -> Lease | None:
        """The lease, if it has life enough left; if not, a keepalive is made due, unless one has
        just failed."""
        if self._life_s() >= MIN_LIFE_S:
            return self.state.lease
        if not self.state.lease_call.failures:
            self._change(lease_call=replace(self.state.lease_call, due=self.now))
        return None

    def _place_for(self, address: Address, down: frozenset[str]) -> Place | None:
        """Where an address of the pool is put, or stays; None: nowhere. It stays where it is while
        its entry cannot be understood, or it cannot be where it should be. `down`: interfaces."""
        view, local = self.state.view, self.state.local.get(address)
        entry = view.pool.get(address) if view is not None else None
        here = self._is_at(address)
        should: Place | None = self._where(address)
        has_failed = local is not None and local.could_not_be_at == should
        if (entry is not None and entry.fault) or (
            local is not None and has_failed and self.now < local.stays_until
        ):
            should = here
        is_up = should is not None and should.interface not in down
        if should is not None and is_up and (should == here or self._is_allowed(should, address)):
            return should
        return here if here is not None and here.interface not in down else None

    def _is_at(self, address: Address) -> Place | None:
        """Where it is or was, as far as we know."""
        local = self.state.local.get(address)
        return local.place if local is not None else None

    def _is_allowed(self, place: Place, address: Address) -> bool:
        helper = self.state.helper
        if address in self.state.forbidden:
            return False
        return helper is None or any(
            address in network for network in helper.networks.get(place.interface, ())
        )

    def _where(self, address: Address) -> Place:
        """Where an address of the pool should be, as its entry and our settings have it."""
        settings, view = self.state.settings, self.state.view
        entry = view.pool.get(address) if view is not None else None
        interface, altnames = settings.interface, self.state.altnames
        is_ipv4 = address.version == 4
        prefix_length = settings.prefix_length_4 if is_ipv4 else settings.prefix_length_6
        if entry is not None and entry.interface is not None:
            interface = entry.interface
        if entry is not None and entry.prefix_length is not None:
            prefix_length = entry.prefix_length
        return Place(altnames.get(interface, interface), prefix_length)

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
        elif self._life_s() <= 0 or (
            self._is_leaving() and not self._has_removed_all() and not self._is_stuck()
        ):
            write = None
        elif takes_deletions(state.full):
            write = self._giving_up() or self._release(wanted) or self._advertising()
            write = write or self._claim(wanted)
        else:
            write = self._advertising() or self._release(wanted) or self._claim(wanted)
        if write is not None:
            self._note_overwrite(write)
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
        is_etcd_full = takes_deletions(self.state.full)
        if node is not None and (marks or is_etcd_full) and self.state.is_view_stale:
            return None
        if node is not None and marks and not is_etcd_full:
            stopped = replace(node.advertisement, is_healthy=False, reason="stopping")
            return AdvertiseNode(
                self.state.next_request, stopped, lease.id, node.revision, release=marks
            )
        advertised = node.revision if node is not None else self._replaced()
        return WithdrawNode(self.state.next_request, lease.id, advertised, marks)

    def _has_too_much(self) -> bool:
        """Whether we can hold nothing of what others leave to us, for what they know of us."""
        advertising, node, view = self._advertising(), self._my_node(), self.state.view
        if node is None or view is None or not self._has_removed_all():
            return False
        if self._may_keep() and self._kept():
            return False
        told = advertising.advertisement if advertising is not None else node.advertisement
        pool = tuple(view.pool.values())
        truly = replace(node, advertisement=told)
        if can_hold_any(truly, pool):
            given = [e for e in pool if self.state.target.get(e.address) == node.name]
            return bool(given) and not any(truly.can_hold(entry) for entry in given)
        return can_hold_any(node, pool) or bool(self._my_marks())

    def _giving_up(self) -> WithdrawNode | None:
        """etcd is full: what we are advertised for and cannot hold, we take back by deletion."""
        lease, node = self.state.lease, self._my_node()
        if lease is None or node is None or self.state.is_view_stale or not self._has_too_much():
            return None
        self._report(
            Level.WARNING,
            "etcd is full: withdraws, because it cannot say there that it can hold nothing",
        )
        return WithdrawNode(self.state.next_request, lease.id, node.revision, self._my_marks())

    def _lets_lease_end(self) -> bool:
        """etcd is so full that it refuses deletions, too."""
        return refuses_deletions(self.state.full) and self._has_too_much()

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
        if not is_checked and present is None:
            return None
        if not self.state.has_advertised and self._awaits_kernel():
            return None
        if helper is not None:
            session = helper.session
            networks = networks_by_all_names(helper.networks, self.state.altnames)
        elif present is not None:
            session, networks = present.advertisement.session, present.advertisement.networks
        else:
            return None
        health, settings = self._health(), self.state.settings
        desired = Advertisement(
            is_healthy=health.is_healthy,
            reason=health.reason,
            interface=self.state.altnames.get(settings.interface, settings.interface),
            networks=networks,
            refused=self._refused(),
            session=session,
            version=settings.version,
            down=all_names(self._down(), self.state.altnames),
            missing=self._missing(),
            waits_s=self.state.waits_s,
            present=self.state.present,
            placement=VERSION,
            schema=SCHEMA,
        )
        if present is not None:
            told = present.advertisement
            if self.state.links_up is None and not self.state.has_advertised:
                # What an earlier life knew.
                desired = replace(desired, down=told.down, missing=told.missing)
            if not is_checked:
                desired = replace(
                    desired,
                    is_healthy=told.is_healthy,
                    reason=told.reason,
                    waits_s=told.waits_s,
                )
        takes = is_checked and helper is not None and self.state.own_addresses is not None
        desired = replace(desired, takes=takes or not desired.is_healthy)
        whole, desired = desired, bounded(desired)
        release: tuple[Mark, ...] = ()
        replaces = self._replaced()
        other = self._others_under_our_name()
        if other is not None and self.now < self.state.overwritten_at + OVERWRITE_EVERY_S:
            return None
        if other is not None and other.lease and self._keeps_name():
            replaces = other.revision
        if present is not None:
            replaces = present.revision
            is_told = present.advertisement == desired and self.state.has_advertised
            if is_told and self.state.full is None:
                return None
            if not desired.is_healthy and (self._has_removed_all() or self._is_stuck()):
                release = tuple(m for m in self._my_marks() if self._is_absent(m.address))
        self._report_cut(whole)
        return AdvertiseNode(self.state.next_request, desired, lease.id, replaces, release)

    def _report_cut(self, whole: Advertisement) -> None:
        """What is more than others are told."""
        complaints = cut(whole)
        for what in sorted(complaints.keys() - self.state.told_cut):
            self._report(Level.ERROR, complaints[what])
        self._change(told_cut=frozenset(complaints))

    def _awaits_kernel(self) -> bool:
        """Nobody is to give us an address that is here already, or on a link that is down."""
        state = self.state
        is_expected = self.now < state.kernel_due < UNTOLD
        return state.own_addresses is None and is_expected

    def _release(self, wanted: frozenset[Address]) -> ReleaseMarks | None:
        node = self._my_node()
        view = self.state.view
        if self.state.is_view_stale or node is None or view is None:
            return None
        # What is here for another reason the others have to know first (elsewhere.py).
        untold = self.state.present.keys() - node.advertisement.present.keys()
        marks = tuple(
            mark
            for mark in self._my_marks()
            if mark.address not in wanted
            and self._is_absent(mark.address)
            and mark.address not in untold
        )
        marks += tuple(
            view.stray_marks[address]
            for address, until in self.state.strays.items()
            if address in wanted
            and self.now >= until
            and self.state.local.get(address, ABSENT).phase is Phase.ABSENT
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
            and address not in view.stray_marks
            and self.now >= self.state.orphans.get(address, NEVER)
            and self.state.local.get(address, ABSENT).phase is Phase.ABSENT
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
        elif self._lets_lease_end():
            return
        elif state.lease is not None:
            action = KeepLease(state.lease.id)
        elif state.view is None or state.helper is None:
            return
        else:
            node = self._advertised()
            is_ours = node is not None and node.advertisement.session == state.helper.session
            if node is None or (is_ours and not self._may_adopt(node)):
                if state.stopping is not None:
                    return
                action = GrantLease(state.settings.ttl_s)
            elif is_ours:
                self._report(Level.INFO, f"adopts lease {node.lease:x} of this node's earlier life")
                action = KeepLease(node.lease)
                self._change(adopting=node.lease)
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
        if self.now >= stopping.give_up_at and not self.state.look.is_pending:
            self._finish(
                Outcome.NOT_RELEASED,
                f"{stopping.reason}; not everything could be released: others take over when "
                "the lease expires",
            )
        elif self._is_refused_the_last_write():
            self._finish(
                Outcome.NOT_RELEASED,
                f"{stopping.reason}; etcd is full and refuses deletions, too: others take over when"
                " the lease expires",
            )
        elif (
            self.state.lease is None
            and not self.state.lease_call.is_pending
            and not self._may_have_left_something()
            and self._has_removed_all()
        ):
            self._finish(Outcome.STOPPED, stopping.reason)

    def _is_refused_the_last_write(self) -> bool:
        """Whether a full etcd does not let us withdraw, though we have removed everything."""
        is_idle = self.state.write is None and self._has_removed_all()
        return refuses_deletions(self.state.full) and is_idle and self._my_node() is not None

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
        if state.is_target_put_off:
            return self.now
        times: list[float] = [
            state.lease_call.due,
            state.read_call.due,
            state.write_call.due,
            *(overdue_since(local.deadline) for local in state.local.values()),
            *(local.retry_at for local in state.local.values()),
            *(refusal.until for refusal in state.refused.values()),
            state.overwritten_at + OVERWRITE_EVERY_S,
            state.trial.next_at if state.refused or state.too_many else NEVER,
            state.kernel_due if self._awaits_kernel() else NEVER,
            *state.orphans.values(),
            *state.strays.values(),
        ]
        if overdue := self._overdue():
            times += [state.look.due, state.look.reports_at(overdue_since(min(overdue.values())))]
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
        view, lease, known = self.state.view, self.state.lease, self._known_marks
        if view is None or lease is None:
            return ()
        if known is None or known[0] is not view or known[1] is not lease:
            me = self.state.settings.node
            mine = [m for m in view.marks.values() if m.lease == lease.id and m.holder == me]
            mine.sort(key=lambda mark: address_order(mark.address))
            self._known_marks = known = view, lease, tuple(mine)
        return known[2]

    def _leaving(self) -> frozenset[Mark]:
        """Marks of ours whose release is under way or in doubt."""
        write = self.state.write
        leaving = self.state.in_doubt | self.state.unsettled
        return leaving | (_to_release(write) if write is not None else frozenset())

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

    def _is_stuck(self) -> bool:
        """Whether something of ours stays on the interface long after its deadline, and something
        has gone, which does not wait for it then."""
        has_gone = any(self._is_absent(mark.address) for mark in self._my_marks())
        return self.state.look.reported_at is not None and has_gone

    def _may_keep(self) -> bool:
        """Whether we are unhealthy and may hold on to what nobody else could hold."""
        return (
            self.state.settings.keeps_when_all_unhealthy
            and self.state.health is not None
            and not self._health().is_healthy
        )

    def _report_altnames(self) -> None:
        helper, altnames = self.state.helper, self.state.altnames
        interface = self.state.settings.interface
        if interface in altnames:
            self._report(Level.INFO, f"{interface} is another name of {altnames[interface]}")
        for name in sorted(altnames.keys() & (helper.networks.keys() if helper else ())):
            self._report(
                Level.ERROR,
                f"the helper's allowlist has {name}, another name of {altnames[name]}, which allows"
                f" nothing: write {altnames[name]} in helper.yml",
            )

    def _why_down(self, interface: str) -> str:
        if interface in self._missing():
            return f"there is no {interface} on this host"
        return f"{interface} is down or has no carrier"

    def _missing(self) -> frozenset[str]:
        """Those of our interfaces that are not there."""
        there = self.state.links_down
        return self._down() - there if there is not None else frozenset()

    def _down(self) -> frozenset[str]:
        """Our interfaces that cannot carry an address now."""
        helper, up = self.state.helper, self.state.links_up
        if up is None:
            return frozenset()
        ours = {self.state.settings.interface, *(helper.networks if helper is not None else ())}
        if self.state.altnames:
            ours = {self.state.altnames.get(name, name) for name in ours}
        return frozenset(ours - up)

    def _has_withdrawn(self) -> bool:
        """Whether we are stopping and nothing of ours is left but the lease."""
        stopping = self.state.stopping
        if stopping is None or self.state.write is not None or not self._has_removed_all():
            return False
        return stopping.is_withdrawn or (self._my_node() is None and not self._my_marks())

    # --- changing the state ----------------------------------------------------------------

    def _change(self, **changes: object) -> None:
        for name, value in changes.items():
            if getattr(self.state, name) is not value:
                self.state = changed(self.state, changes)
                return

    def _record(self, address: Address, local: Local) -> None:
        """A thousand addresses are recorded in one copy, which is this turn's own."""
        if self.state.local is not self._own_local:
            self._own_records = thawed(self.state.local)
            self._own_local = MappingProxyType(self._own_records)
            self._change(local=self._own_local)
        self._own_records[address] = local

    def _under_way(self, request: int, address: Address, phase: Phase) -> Local | None:
        """The record of an address, if this request is the one that it waits for."""
        local = self.state.local.get(address)
        if local is None or local.request != request or local.phase is not phase:
            return None
        return local

    def _end_write(self, request: int) -> Write | None:
        """The write under way, if this is its number; it is answered now."""
        write = self.state.write
        if write is None or write.request != request:
            return None
        if self.state.full is None or not isinstance(write, ReleaseMarks | WithdrawNode):
            call = self._answered(self.state.write_call, self.now, "etcd takes writes again")
            self._change(write_call=call)
        self._change(write=None)
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


def _gone(before: ClusterView | None, view: ClusterView) -> list[Mark]:
    """The marks of the one that are not in the other. More may be among them: what has not changed
    is the same object in both, and in the same order, where etcd has told both."""
    if before is None or before.marks is view.marks:
        return []
    gone = []
    present = iter(view.marks.values())
    expected = next(present, None)
    for mark in before.marks.values():
        if mark is not expected:
            gone.append(mark)
            if expected is None or expected.address is not mark.address:
                continue
        expected = next(present, None)
    return gone


def _to_release(write: Write) -> frozenset[Mark]:
    match write:
        case ReleaseMarks(marks=marks) | AdvertiseNode(release=marks) | WithdrawNode(release=marks):
            return frozenset(marks)
        case ClaimMarks():
            return frozenset()
        case _:
            assert_never(write)


def _some(names: Iterable[str]) -> str:
    """The first, and how many more."""
    all_ = tuple(names)
    more = f" and {len(all_) - MOST_TOLD} more" if len(all_) > MOST_TOLD else ""
    return ", ".join(all_[:MOST_TOLD]) + more


def _listed(addresses: Iterable[Address]) -> str:
    return ", ".join(str(address) for address in sorted(addresses, key=address_order))
