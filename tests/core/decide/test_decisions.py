"""Decisions are functions of the state: they return actions, and change nothing."""

from dataclasses import replace

import pytest

from tests.core.play import A, B, Play, holding, started
from yaim.core.actions import (
    Action,
    AddAddress,
    ClaimMarks,
    End,
    KeepLease,
    Level,
    Outcome,
    RemoveAddress,
    RenewAddresses,
    Report,
)
from yaim.core.decide.end import end
from yaim.core.decide.orders import adds, going, removals, renewal, to_add
from yaim.core.decide.requests import lease_request, read_request
from yaim.core.decide.wanted import wanted
from yaim.core.decide.writes import next_write
from yaim.core.events import StopRequested
from yaim.core.facts import Facts
from yaim.core.model import Boottime, Place, PoolEntry, frozen_mapping
from yaim.core.state.addresses import AddressState, Phase
from yaim.core.state.lease import Lease
from yaim.core.state.state import State
from yaim.core.state.stopping import Ending, Stopping

ETH0 = Place("eth0", 32)


def facts(play: Play, after_s: float = 0.0) -> Facts:
    """Facts about a state, which nobody can change, and not about a draft."""
    return Facts(play.state, Boottime(play.now + after_s))


def decided(found: Facts) -> list[Action]:
    """All that the decisions come to, each on its own."""
    places = wanted(found)
    lease = found.lease_to_add_with()
    missing = to_add(found, places)
    write, last = next_write(found, frozenset(places)), end(found)
    return [
        *removals(found, going(found, frozenset(places))),
        *(adds(found, missing, places, lease) if lease is not None else ()),
        *renewal(found),
        *([write.write] if write is not None else ()),
        *lease_request(found),
        *read_request(found),
        *([last] if last is not None else ()),
    ]


def stopping(play: Play) -> Play:
    play.tell(StopRequested("got SIGTERM"))
    return play


@pytest.mark.parametrize("play", [Play(), started(), holding(A, B), stopping(holding(A))])
@pytest.mark.parametrize("after_s", [0.0, 0.5, 1.0, 2.9, 20.0])
def test_the_same_state_and_instant_give_the_same_actions(play: Play, after_s: float) -> None:
    before = replace(play.state)
    first = decided(facts(play, after_s))
    assert decided(facts(play, after_s)) == first
    assert play.state == before


def test_what_is_held_is_wanted_where_it_is() -> None:
    assert wanted(facts(holding(A, B))) == {A: ETH0, B: ETH0}


def test_nothing_is_wanted_when_the_deadline_has_passed() -> None:
    assert wanted(facts(holding(A), after_s=3.0)) == {}


def test_what_is_not_wanted_is_removed_with_the_reason() -> None:
    play = holding(A)
    found = facts(play, after_s=3.0)
    assert removals(found, going(found, frozenset())) == [
        Report(Level.INFO, f"removes {A}: the lease is not kept"),
        RemoveAddress(play.state.next_request, A),
    ]


def test_what_is_missing_is_added_with_the_deadline_of_the_lease() -> None:
    play = holding(A)
    known = frozen_mapping({A: AddressState(Phase.ABSENT)})
    play.state = replace(play.state, addresses=replace(play.state.addresses, known=known))
    found = facts(play)
    lease = found.lease_to_add_with()
    assert lease is not None
    assert to_add(found, {A: ETH0}) == [A]
    assert adds(found, [A], {A: ETH0}, lease) == [
        AddAddress(play.state.next_request, A, "eth0", 32, lease.deadline)
    ]


def with_lease(state: State, lease: Lease | None) -> State:
    return replace(state, lease=replace(state.lease, current=lease))


def test_a_newer_deadline_is_handed_on_and_the_same_one_is_not() -> None:
    play = holding(A)
    assert renewal(facts(play)) == []
    lease = play.state.lease.current
    assert lease is not None
    later = replace(lease, deadline=Boottime(lease.deadline + 1.0))
    play.state = with_lease(play.state, later)
    assert renewal(facts(play)) == [RenewAddresses(later.deadline)]


def test_what_is_wanted_and_unmarked_is_claimed() -> None:
    play = holding(A)
    seen = play.state.cluster.view
    assert seen is not None
    pool = frozen_mapping({each: PoolEntry(each) for each in (A, B)})
    cluster = replace(play.state.cluster, view=replace(seen, pool=pool))
    play.state = replace(play.state, cluster=cluster)
    found = next_write(facts(play), frozenset({A, B}))
    assert found is not None
    assert isinstance(found.write, ClaimMarks)
    assert found.write.addresses == (B,)


def test_a_keepalive_is_asked_for_when_it_is_due_and_not_before() -> None:
    play = holding(A)
    lease = play.state.lease.current
    assert lease is not None
    assert lease_request(facts(play)) == []
    assert lease_request(facts(play, after_s=1.0)) == [KeepLease(lease.id)]


def test_a_node_that_stops_and_holds_nothing_ends() -> None:
    play = Play()
    ending = Ending(Stopping("got SIGTERM", Boottime(play.now + 5.0)))
    play.state = replace(play.state, ending=ending)
    assert end(facts(play)) == End(Outcome.STOPPED, "got SIGTERM")
    holds = holding(A)
    holds.state = replace(holds.state, ending=ending)
    assert end(facts(holds)) is None
