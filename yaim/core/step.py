"""The coordinator's decisions: step(state, events, now) -> new state, actions, next wake-up.

Decides; never acts. No clock, no randomness, no logging.

Here is the order of a step, and nothing else:
1. each event goes to the parts that it concerns (take_in.py), with the couplings (couplings.py);
2. what time has changed, and what follows from the view, is noted (upkeep.py);
3. decisions (decide/): each returns actions, which the state then remembers as asked for;
4. the first time that a part of the state waits for is when the next step is due.

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

from collections.abc import Sequence
from dataclasses import dataclass

from yaim.core.actions import Action, ClaimMarks
from yaim.core.couplings import check_name, keep_fresher_lease, note_overwrite
from yaim.core.decide.end import end
from yaim.core.decide.orders import adds, clears, going, removals, renewal, to_add
from yaim.core.decide.requests import lease_request, read_request
from yaim.core.decide.wanted import wanted
from yaim.core.decide.writes import next_write
from yaim.core.events import Event
from yaim.core.history import note_moves
from yaim.core.model import Address, Boottime, Place
from yaim.core.state.state import State
from yaim.core.take_in import take_in
from yaim.core.turn import Turn
from yaim.core.upkeep import (
    end_loss,
    forget_absent,
    judge,
    look,
    make_placement,
    note_forbidden,
    note_levelling,
    note_limit,
    note_present,
    puts_placement_off,
    sweep,
    try_again,
)


@dataclass(frozen=True, slots=True)
class Step:
    state: State
    actions: tuple[Action, ...]
    """They are carried out in the order that yaim/core/actions.py promises."""
    wake_at: Boottime | None
    """Step again then, without events, if nothing has happened before."""


def step(state: State, events: Sequence[Event], now: Boottime) -> Step:
    """Takes in what has happened, in this order. `now` must not run backwards."""
    turn = Turn(state, now)
    for event in events:
        if not turn.ending.is_ended:
            take_in(turn, event)
    if not turn.ending.is_ended:
        note_moves(turn)
        _reconcile(turn)
    return Step(turn.done(), tuple(turn.actions), turn.wake_at())


def _reconcile(turn: Turn) -> None:
    """Compares what should be with what is."""
    turn.left = turn.left.reporting(turn.tell)
    forget_absent(turn)
    look(turn)
    judge(turn)
    end_loss(turn)
    name_is_lost = check_name(turn)
    sweep(turn)
    note_present(turn)
    if name_is_lost is None and puts_placement_off(turn):
        return
    make_placement(turn)
    note_levelling(turn)
    note_forbidden(turn)
    try_again(turn)
    note_limit(turn)
    places = wanted(turn.facts)
    names = frozenset(places)
    leaving = going(turn.facts, names)
    turn.past = turn.past.asked_removals(leaving)
    turn.ask(removals(turn.facts, leaving))
    if name_is_lost is not None:
        turn.ask([name_is_lost])
        return
    _add(turn, places)
    turn.ask(renewal(turn.facts))
    turn.ask(clears(turn.facts))
    _write(turn, names)
    turn.ask(lease_request(turn.facts))
    turn.ask(read_request(turn.facts))
    if (last := end(turn.facts)) is not None:
        turn.ask([last])


def _add(turn: Turn, places: dict[Address, Place]) -> None:
    missing = to_add(turn.facts, places)
    if not missing:
        return
    lease = turn.facts.lease_to_add_with()
    if lease is None:
        keep_fresher_lease(turn)
    else:
        turn.ask(adds(turn.facts, missing, places, lease))


def _write(turn: Turn, names: frozenset[Address]) -> None:
    found = next_write(turn.facts, names)
    if found is None:
        return
    if found.report is not None:
        turn.ask([found.report])
    if found.complaints is not None:
        turn.advertised = turn.advertised.reporting_cut(found.complaints, turn.tell)
    note_overwrite(turn, found.write)
    turn.ask([found.write])
    if isinstance(found.write, ClaimMarks):
        keep_fresher_lease(turn)
