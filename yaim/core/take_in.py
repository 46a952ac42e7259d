"""What each event means: to which parts of the state it goes, and which coupling it sets off."""

from dataclasses import replace
from typing import assert_never

from yaim.core.actions import (
    AdvertiseNode,
    Level,
    Outcome,
    ReleaseMarks,
    WithdrawNode,
    Write,
    to_release,
)
from yaim.core.couplings import (
    change_settings,
    finish,
    forget_lease,
    hear,
    leave_to_others,
    leave_unsettled,
    see,
)
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
    ProblemsObserved,
    RestartRequested,
    SettingsChanged,
    StopRequested,
    WindowObserved,
    WriteFailed,
)
from yaim.core.history import hear_added, hear_removed, note_joined, note_stopped
from yaim.core.model import Address, Boottime, ClusterView, Node, Place, Revision, address_order
from yaim.core.refusals import REFUSED_FOR_S, Cause, Refusal
from yaim.core.state.addresses import AddressState, Phase
from yaim.core.state.lease import Lease
from yaim.core.state.past import BACK
from yaim.core.state.refusals import EXPIRED_AT_MOST
from yaim.core.turn import Turn
from yaim.core.wording import listed


def take_in(turn: Turn, event: Event) -> None:
    match event:
        case CheckAnswered():
            turn.health = turn.health.after_answer(event, turn.settings, turn.tell)
        case ClusterRead(view):
            _take_read(turn, view)
        case ClusterReadFailed(reason):
            turn.cluster = turn.cluster.after_read_failed(
                reason, turn.facts.me, turn.now, turn.tell
            )
        case ClusterChanged(view):
            hear(turn, view)
        case LeaseKept():
            _take_lease(turn, event)
        case LeaseGone(lease):
            if turn.lease.current is not None and turn.lease.current.id == lease:
                _take_loss(turn, turn.lease.current)
            forget_lease(turn)
        case LeaseFailed(reason):
            turn.lease = turn.lease.after_failed(reason, turn.facts.me, turn.now, turn.tell)
            if turn.ending.stopping is not None and turn.ending.stopping.is_withdrawn:
                forget_lease(turn)
        case LeaseRevoked():
            forget_lease(turn)
        case NodeAdvertised(request, node):
            _take_advertised(turn, request, node)
        case NodeNotAdvertised(request):
            if (write := _end_write(turn, request)) is not None:
                leave_unsettled(turn, to_release(write))
        case NodeWithdrawn(request, revision):
            _take_withdrawn(turn, request, revision)
        case MarksClaimed():
            _take_claimed(turn, event)
        case MarksReleased():
            _take_released(turn, event)
        case WriteFailed():
            _take_write_failed(turn, event)
        case HelperReady():
            _take_helper(turn, event)
        case ProblemsObserved(source, problems):
            turn.problems = turn.problems.after_told(source, problems)
        case HelperLost(reason):
            if turn.host.helper is not None:
                turn.tell(Level.WARNING, f"the helper is lost: {reason}")
                turn.host = turn.host.after_lost(turn.now)
        case AddressAdded():
            _take_added(turn, event)
        case AddressRefused():
            _take_refused(turn, event)
        case AddressFailed():
            _take_failed(turn, event)
        case AddressRemoved():
            _take_removed(turn, event)
        case AddressesRenewed():
            _take_renewed(turn, event)
        case AddressGone(address, place):
            _take_gone(turn, address, place)
        case AddressesSeen(present):
            turn.addresses = turn.addresses.after_look(present, turn.now, turn.tell)
            _leave_after_look(turn)
        case LookFailed(reason):
            turn.addresses = turn.addresses.after_look_ended(reason, turn.now)
            _leave_after_look(turn)
        case LinksObserved():
            _take_links(turn, event)
        case AddressesObserved():
            _take_host_addresses(turn, event)
        case ClockJumped(by_s):
            turn.tell(
                Level.WARNING,
                f"the clock was set forward by {by_s:.1f} s: this host may have been paused",
            )
            turn.lease = turn.lease.after_clock_jump(by_s, turn.now)
        case SettingsChanged(settings):
            change_settings(turn, settings)
        case WindowObserved(is_open):
            turn.levelling = turn.levelling.after_window(is_open, turn.tell)
        case StopRequested(reason):
            if turn.ending.stopping is None:
                turn.tell(Level.INFO, f"stopping: {reason}")
                note_stopped(turn, reason)
                turn.ending = turn.ending.after_stop_asked(reason, turn.now)
        case RestartRequested(reason):
            if turn.ending.stopping is None:
                turn.ending = turn.ending.leaves(reason)
                if not turn.addresses.look.is_pending:
                    finish(turn, Outcome.LEFT, reason)
        case _:
            assert_never(event)


# --- etcd: reads and the lease --------------------------------------------------------------------


def _take_read(turn: Turn, view: ClusterView) -> None:
    is_other_history = turn.cluster.is_other_history(view)
    if turn.cluster.read.failures or is_other_history:
        turn.lease = turn.lease.made_due(turn.now)
    turn.cluster = turn.cluster.after_read(view, turn.now, turn.tell)
    turn.writing = turn.writing.after_read()
    if is_other_history:
        turn.advertised = turn.advertised.after_other_history()
    hear(turn, view)
    if turn.advertised.unconfirmed_before or turn.facts.awaits_others():
        # It was asked for too early.
        turn.cluster = turn.cluster.read_soon(turn.now)


def _take_lease(turn: Turn, event: LeaseKept) -> None:
    is_there, before = turn.facts.my_node() is not None, turn.lease.current
    turn.lease = turn.lease.after_kept(event, turn.settings, turn.now, turn.tell)
    if turn.lease.current is not before:
        turn.advertised = turn.advertised.after_lease_kept(is_there=is_there)


def _take_loss(turn: Turn, lease: Lease) -> None:
    is_in_time = turn.facts.life_s() <= 0 or turn.ending.stopping is not None
    turn.takeover = turn.takeover.after_lease_gone(
        lease, turn.now, turn.tell, is_in_time=is_in_time
    )


# --- etcd: writes ---------------------------------------------------------------------------------


def _end_write(turn: Turn, request: int) -> Write | None:
    """Returns the write under way, if this is its number; it is answered now."""
    write = turn.writing.write_of(request)
    if write is not None:
        turn.writing = turn.writing.after_answer(write, turn.now, turn.tell)
    return write


def _take_advertised(turn: Turn, request: int, node: Node) -> None:
    write, view = _end_write(turn, request), turn.cluster.view
    if not isinstance(write, AdvertiseNode) or view is None:
        return
    is_newer = view.revision < node.revision
    is_first = not turn.advertised.is_written and is_newer and bool(turn.facts.my_marks())
    if is_first:
        turn.cluster = turn.cluster.read_soon(turn.now)
    before = view.nodes.get(node.name)
    if turn.advertised.known_under is None:
        note_joined(turn)
    turn.advertised = turn.advertised.after_written(node, before, is_first=is_first)
    turn.writing = turn.writing.after_space()
    released = frozenset(mark.address for mark in write.release)
    see(turn, view.with_node(node).without_marks(released, node.revision))
    told = node.advertisement
    # The watch may have been first: then what stood there before is not known any more.
    is_same = (
        before is not None
        and before.revision < node.revision
        and told == replace(before.advertisement, control=told.control, problems=told.problems)
    )
    word = "healthy" if told.is_healthy else "unhealthy"
    how = ", drained" if told.is_drained else ", waiting" if node.is_waiting else ""
    turn.tell(Level.DEBUG if is_same else Level.INFO, f"advertised as {word}{how}")
    if turn.facts.awaits_others():
        # Whether others are healthy counts from now on, when they see that we are not.
        turn.cluster = turn.cluster.read_soon(turn.now)


def _take_withdrawn(turn: Turn, request: int, revision: Revision) -> None:
    """When we are stopping, that was the last; otherwise we advertise ourselves anew."""
    write, view = _end_write(turn, request), turn.cluster.view
    if not isinstance(write, WithdrawNode):
        return
    if turn.ending.stopping is not None:
        turn.ending = turn.ending.after_withdrawn(turn.ending.stopping)
        return
    turn.advertised = turn.advertised.after_withdrawn()
    if view is not None:
        released = frozenset(mark.address for mark in write.release)
        view = view.without_node(turn.facts.me, revision)
        see(turn, view.without_marks(released, revision))


def _take_claimed(turn: Turn, event: MarksClaimed) -> None:
    if _end_write(turn, event.request) is None:
        return
    if turn.cluster.view is not None:
        see(turn, turn.cluster.view.with_marks(event.marks, event.revision))
    if event.marks:
        turn.writing = turn.writing.after_space()
    if event.lost:
        turn.tell(Level.INFO, f"did not get {listed(event.lost)}: taken or gone")
        turn.cluster = turn.cluster.distrusted(turn.now)


def _take_released(turn: Turn, event: MarksReleased) -> None:
    write = _end_write(turn, event.request)
    if not isinstance(write, ReleaseMarks):
        return
    view = turn.cluster.view
    # What etcd has told since knows of it, and perhaps of what came after.
    if view is not None and view.revision < event.revision:
        view = view.without_marks(event.addresses, event.revision)
        see(turn, view.with_marks(event.handed, event.revision) if event.handed else view)
    others = frozenset(m for m in write.marks if m.address not in event.addresses)
    if others:
        leave_unsettled(turn, others)


def _take_write_failed(turn: Turn, event: WriteFailed) -> None:
    write = turn.writing.write_of(event.request)
    if write is not None:
        turn.writing = turn.writing.after_failed(
            write, event.reason, event.is_full, turn.facts.me, turn.now, turn.tell
        )
        turn.cluster = turn.cluster.distrusted(turn.now)


# --- the helper -----------------------------------------------------------------------------------


def _take_helper(turn: Turn, event: HelperReady) -> None:
    turn.tell(Level.INFO, "the helper is ready")
    before = turn.host.helper_before
    turn.host.report_fence(event.fence, turn.tell)
    was_fenced, is_fenced = turn.lease.is_fenced, event.fence.is_in_force
    turn.lease = turn.lease.with_fence(turn.now, is_fenced=is_fenced)
    turn.addresses = turn.addresses.after_ready(event)
    turn.left = turn.left.with_here(each.address for each in event.addresses)
    if was_fenced and not is_fenced:
        turn.addresses = turn.addresses.after_fence_lost()
    turn.host = turn.host.after_ready(event)
    now_there = turn.host.helper
    if turn.settings.resets_connections:
        turn.host.report_resets(before, turn.tell)
    has_other_networks = before is None or (
        now_there is not None and before.networks != now_there.networks
    )
    turn.refusals = turn.refusals.after_ready(has_other_networks=has_other_networks)


def _take_added(turn: Turn, event: AddressAdded) -> None:
    known = turn.addresses.under_way(event.request, event.address, Phase.ADDING)
    if known is None:
        return
    turn.record(event.address, known.after_added())
    hear_added(turn, event.address, BACK)
    turn.left = turn.left.with_here((event.address,))
    is_moved = known.place not in (None, known.to)
    where = f" on {known.to}; it was on {known.place}" if is_moved else ""
    turn.tell(Level.INFO, f"holds {event.address}{where}")
    turn.refusals = turn.refusals.after_added(event.address, turn.facts.group_of, turn.addresses)


def _take_removed(turn: Turn, event: AddressRemoved) -> None:
    known = turn.addresses.under_way(event.request, event.address, Phase.REMOVING)
    if known is None:
        return
    turn.record(event.address, known.after_removed())
    hear_removed(turn, event.address)
    turn.left = turn.left.after_removed(event)


def _take_refused(turn: Turn, event: AddressRefused) -> None:
    known = turn.addresses.under_way(event.request, event.address, Phase.ADDING)
    if known is None:
        return
    is_expired = event.cause is Cause.EXPIRED
    expired = known.expired + 1 if is_expired else 0
    turn.record(event.address, known.after_refused(turn.now, expired))
    if is_expired:
        _take_expired(turn, event, known)
        return
    if event.cause is Cause.FOREIGN and known.has_gone:
        return
    if not _stays(turn, event.address, known, event.reason):
        refusal = Refusal(event.cause, turn.now, Boottime(turn.now + REFUSED_FOR_S))
        why = f"the helper refused it: {event.reason}"
        leave_to_others(turn, event.address, refusal, why)


def _take_expired(turn: Turn, event: AddressRefused, before: AddressState) -> None:
    """Once that says nothing, as the command may have come late. Again and again it is our lease,
    or this host, that is not fit to hold anything."""
    is_late = before.expired + 1 < EXPIRED_AT_MOST
    if is_late or _stays(turn, event.address, before, event.reason):
        return
    turn.record(event.address, replace(turn.addresses.known[event.address], expired=0))
    turn.refusals = turn.refusals.after_failing(turn.now)
    refusal = Refusal(Cause.FAILED, turn.now, turn.refusals.failing_until)
    why = f"the helper has refused it {EXPIRED_AT_MOST} times: {event.reason}"
    leave_to_others(turn, event.address, refusal, why)


def _take_failed(turn: Turn, event: AddressFailed) -> None:
    address, reason = event.address, event.reason
    removing = turn.addresses.under_way(event.request, address, Phase.REMOVING)
    if removing is not None:
        turn.record(address, removing.after_removal_failed(reason, turn.now))
        if reason != removing.failure:
            turn.tell(Level.ERROR, f"cannot remove {address}: {reason}")
    adding = turn.addresses.under_way(event.request, address, Phase.ADDING)
    if adding is None:
        return
    turn.record(address, adding.after_add_failed())
    if not _stays(turn, address, adding, reason):
        turn.refusals = turn.refusals.after_failing(turn.now)
        refusal = Refusal(Cause.FAILED, turn.now, turn.refusals.failing_until)
        leave_to_others(turn, address, refusal, f"cannot add it: {reason}")


def _stays(turn: Turn, address: Address, adding: AddressState, why: str) -> bool:
    """Whether the add that did not succeed was to put the address elsewhere: then it stays where it
    was for a while."""
    here, to = adding.place, adding.to
    if here is None or to is None or here == to:
        return False
    turn.tell(Level.ERROR, f"{address} stays on {here}: cannot put it on {to}: {why}")
    turn.record(address, turn.addresses.known[address].after_move_failed(turn.now))
    return True


def _take_renewed(turn: Turn, event: AddressesRenewed) -> None:
    for address in sorted(event.missing, key=address_order):
        known = turn.addresses.known.get(address)
        if known is not None and known.phase is Phase.UP:
            turn.tell(Level.WARNING, f"{address} was missing from the interface")
            turn.record(address, known.after_gone())


# --- the kernel -----------------------------------------------------------------------------------


def _take_gone(turn: Turn, address: Address, place: Place | None) -> None:
    """What has left another place than ours is the host's own, or was there before. Another
    address, which nobody has any more, may have been another cluster's, for which our helper works,
    too: then there is a place more."""
    known = turn.addresses.known.get(address)
    is_ours = known is not None and (None in (place, known.place) or place == known.place)
    if known is not None and known.phase is Phase.UP and is_ours:
        turn.tell(Level.WARNING, f"{address} has gone from the interface")
        turn.record(address, known.after_gone())
    elif known is not None and known.phase is Phase.ADDING:
        turn.record(address, known.after_gone_while_added())
    turn.elsewhere = turn.elsewhere.after_gone(address, place)
    turn.host = host = turn.host.after_gone(address, place)
    is_unknown = known is None
    is_place = is_unknown and host.could_add(address) and not host.has_own(address, place)
    turn.refusals = turn.refusals.after_gone(address, is_place=is_place)


def _leave_after_look(turn: Turn) -> None:
    """A restart that was asked for while the kernel did not answer."""
    if turn.ending.leaving is not None and turn.ending.stopping is None:
        finish(turn, Outcome.LEFT, turn.ending.leaving)


def _take_links(turn: Turn, event: LinksObserved) -> None:
    interface, before = turn.settings.interface, turn.host
    down = turn.facts.down()
    told_before = {before.why_down(each, interface) for each in down}
    turn.host = host = before.after_links(event)
    if event.altnames != before.altnames:
        host.report_altnames(interface, turn.tell)
    now_down = turn.facts.down()
    for each in sorted(now_down):
        if (why := host.why_down(each, interface)) not in told_before:
            turn.tell(Level.WARNING, why)
    for each in sorted(down - now_down):
        turn.tell(Level.INFO, f"{each} is up")
        # What could not be added there may have failed because of that.
        turn.refusals = turn.refusals.without(
            a
            for a, refusal in turn.refusals.refused.items()
            if refusal.cause.is_tried and turn.facts.where(a).interface == each
        )


def _take_host_addresses(turn: Turn, event: AddressesObserved) -> None:
    """What the host has on an interface decides on what may be added there; and that it has IPv6
    again shows by its own address."""
    before, own = turn.host.own, event.own
    turn.host = turn.host.after_addresses(event)
    if before is None or not turn.refusals.refused:
        return
    changed = {
        (place.interface, address.version)
        for address in before.keys() | own.keys()
        for place in set(before.get(address, ())) ^ set(own.get(address, ()))
    }
    turn.refusals = turn.refusals.after_own_changed(changed, turn.facts.group_of, turn.now)
