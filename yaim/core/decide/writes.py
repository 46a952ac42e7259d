"""Decides which write to etcd matters most now; changes nothing.

One write at most is under way, and each depends on the advertisement that we know (rules 2, 4, 5
and 7 in yaim/core/step.py). In this order: what others have to know of us; what we give up, handed
over where that can be (heirs.py); what we claim; what only people want to know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from yaim.core.actions import (
    AdvertiseNode,
    ClaimMarks,
    Level,
    ReleaseMarks,
    Report,
    WithdrawNode,
    Write,
)
from yaim.core.decide.advertising import Advertising, advertising
from yaim.core.decide.claims import to_claim
from yaim.core.decide.echo import echo, is_at_rest
from yaim.core.decide.heirs import heirs
from yaim.core.decide.wanted import kept
from yaim.core.facts import Facts
from yaim.core.full_etcd import can_hold_any, refuses_deletions, takes_deletions
from yaim.core.model import NEVER, Address, NodeName, Revision, address_order


@dataclass(frozen=True, slots=True)
class NextWrite:
    write: Write
    report: Report | None = None
    complaints: Mapping[str, str] | None = None
    """What of the advertisement others are not told; None: the write is no new advertisement."""


def next_write(facts: Facts, wanted: frozenset[Address]) -> NextWrite | None:
    """Returns the write that is to be sent now; None: none, or one is under way."""
    state = facts.state
    if state.writing.under_way is not None or facts.now < state.writing.retry.due:
        return None
    if state.lease.current is None or state.cluster.view is None:
        return None
    if state.ending.stopping is not None:
        return _plain(_withdrawal(facts))
    is_waiting = facts.is_leaving() and not facts.has_removed_all() and not facts.is_stuck()
    if facts.life_s() <= 0 or is_waiting:
        return None
    advertised = advertising(facts, echo(facts, wanted))
    if takes_deletions(state.writing.full):
        return (
            _giving_up(facts)
            or _plain(_release(facts, wanted))
            or _advertised(advertised)
            or _plain(_claim(facts, wanted))
        )
    is_urgent = advertised is not None and not advertised.is_lazy
    return (
        (_advertised(advertised) if is_urgent else None)
        or _plain(_release(facts, wanted))
        or _plain(_claim(facts, wanted))
        or (_advertised(advertised) if is_at_rest(facts) else None)
    )


def _plain(write: Write | None) -> NextWrite | None:
    return NextWrite(write) if write is not None else None


def _advertised(found: Advertising | None) -> NextWrite | None:
    return NextWrite(found.write, complaints=found.complaints) if found is not None else None


def _withdrawal(facts: Facts) -> AdvertiseNode | WithdrawNode | None:
    """A node that stops first releases all marks and says that it is unhealthy; then its
    advertisement goes: both at once would look like a lease's end. (Not by ReleaseMarks, which
    leaves the advertisement as it is: should it be done late, the next life would not notice.)
    """
    state = facts.state
    lease, stopping = state.lease.current, state.ending.stopping
    if lease is None or stopping is None or stopping.is_withdrawn:
        return None
    if not facts.has_removed_all():
        return None
    node, marks = facts.my_node(), facts.my_marks()
    if node is None and not marks:
        return None
    is_etcd_full = takes_deletions(state.writing.full)
    if node is not None and (marks or is_etcd_full) and state.cluster.is_stale:
        return None
    if node is not None and marks and not is_etcd_full:
        stopped = replace(node.advertisement, is_healthy=False, reason="stopping")
        return AdvertiseNode(state.next_request, stopped, lease.id, node.revision, release=marks)
    advertised = node.revision if node is not None else facts.replaced()
    is_full = state.writing.full is not None
    first_seen = "" if is_full else facts.first_seen()
    return WithdrawNode(state.next_request, lease.id, advertised, marks, not is_full, first_seen)


def _giving_up(facts: Facts) -> NextWrite | None:
    """etcd is full: we delete an advertisement that says more than we can hold."""
    state, lease, node = facts.state, facts.state.lease.current, facts.my_node()
    if lease is None or node is None or state.cluster.is_stale or not has_too_much(facts):
        return None
    withdrawal = WithdrawNode(state.next_request, lease.id, node.revision, facts.my_marks())
    why = "etcd is full: withdraws, because it cannot say there that it can hold nothing"
    return NextWrite(withdrawal, Report(Level.WARNING, why))


def has_too_much(facts: Facts) -> bool:
    """Whether we can hold nothing of what others leave to us, for what they know of us."""
    state, node, view = facts.state, facts.my_node(), facts.state.cluster.view
    if node is None or view is None or not facts.has_removed_all():
        return False
    if facts.may_keep() and kept(facts):
        return False
    new = advertising(facts, Revision(0))
    told = new.write.advertisement if new is not None else node.advertisement
    pool = tuple(view.pool.values())
    truly = replace(node, advertisement=told)
    if can_hold_any(truly, pool):
        given = [e for e in pool if state.placed.target.get(e.address) == node.name]
        return bool(given) and not any(truly.can_hold(entry) for entry in given)
    return can_hold_any(node, pool) or bool(facts.my_marks())


def lets_lease_end(facts: Facts) -> bool:
    """Whether etcd is so full that it refuses deletions, too, and we are to give up something."""
    return refuses_deletions(facts.state.writing.full) and has_too_much(facts)


def _release(facts: Facts, wanted: frozenset[Address]) -> ReleaseMarks | None:
    state, node, view = facts.state, facts.my_node(), facts.state.cluster.view
    if state.cluster.is_stale or node is None or view is None:
        return None
    # The others first have to know what something else has put here (elsewhere.py).
    untold = state.elsewhere.present.keys() - node.advertisement.present.keys()
    going = facts.my_addresses() - wanted - untold
    marks = tuple(
        mark
        for mark in (facts.my_marks() if going else ())
        if mark.address in going and state.addresses.is_absent(mark.address)
    )
    inherited = heirs(facts, marks)
    marks += tuple(
        view.stray_marks[address]
        for address, until in state.takeover.strays.items()
        if address in wanted and facts.now >= until and state.addresses.is_free(address)
    )
    if not marks:
        return None
    to = {address: heir.node for address, heir in inherited.items()}
    moved = _moved(facts, to)
    return ReleaseMarks(state.next_request, marks, node.revision, inherited, moved)


def _claim(facts: Facts, wanted: frozenset[Address]) -> ClaimMarks | None:
    state = facts.state
    view, lease, node = state.cluster.view, state.lease.current, facts.my_node()
    if view is None or lease is None or node is None:
        return None
    is_prepared = state.host.helper is not None and state.advertised.is_written
    if state.cluster.is_stale or not is_prepared:
        return None
    orphans = state.takeover.orphans
    free = [a for a in to_claim(facts, wanted) if facts.now >= orphans.get(a, NEVER)]
    if not free:
        return None
    claimed = tuple(sorted(free, key=address_order))
    moved = _moved(facts, dict.fromkeys(claimed, facts.me))
    return ClaimMarks(state.next_request, claimed, lease.id, node.revision, moved)


def _moved(facts: Facts, to: Mapping[Address, NodeName]) -> frozenset[Address]:
    """Returns those that an order moves to the nodes that get them."""
    moves = facts.control.moves
    return frozenset(a for a, move in moves.items() if to.get(a) == move.node)
