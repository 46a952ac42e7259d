"""Moves that would only make the spread more even, or follow a preference, can be put off."""

from dataclasses import replace
from itertools import product

import pytest

from tests.core.play import (
    LEASE,
    ME,
    OTHER,
    OTHERS_LEASE,
    A,
    B,
    Play,
    holding,
    mark,
    node,
    requests,
    settings,
    view,
)
from yaim.core.actions import ClaimMarks, Level, ReleaseMarks, RemoveAddress
from yaim.core.events import ClusterChanged, SettingsChanged, StopRequested, WindowObserved
from yaim.core.model import Address, Node, PoolEntry, frozen_mapping
from yaim.core.placement_v1 import place as place_as_before
from yaim.core.settings import Rebalance, Window

pytestmark = pytest.mark.quick

NIGHT = Window(22 * 60, 4 * 60)
BOTH = mark(A, 4), mark(B, 4)


def put_off(rebalance: Rebalance | Window = Rebalance.NEVER, delay_s: float = 0.0) -> Play:
    """A node with these settings that holds A and B, the whole pool, alone."""
    play = holding(A, B)
    changed = replace(settings(), rebalance=rebalance, rebalance_delay_s=delay_s)
    play.settle(play.tell(SettingsChanged(changed)))
    return play


def joined(play: Play, *nodes: Node, seen: int = 5) -> list[type]:
    """What is asked for when another node, healthy unless told otherwise, is there."""
    other = nodes or (node(OTHER, OTHERS_LEASE, seen),)
    now = view(seen, (A, B), (node(ME, LEASE, 2), *other), BOTH)
    return requests(play.tell(ClusterChanged(now)))


def moved(play: Play) -> set[Address]:
    return {A, B} - set(play.state.held)


def test_unless_told_otherwise_a_node_shares_at_once_with_one_that_joins() -> None:
    assert joined(put_off(Rebalance.AUTO)) == [RemoveAddress]


def test_who_never_levels_keeps_what_it_holds_and_says_so_once() -> None:
    play = put_off()
    assert joined(play) == []
    (target,) = {a for a, name in play.state.placed.target.items() if name == OTHER}
    assert joined(play, seen=6) == []
    told = f"{target}: to be held by other nodes, to be level; stays here as rebalance is never"
    assert play.said(Level.INFO).count(told) == 1


def test_a_delay_counts_from_when_a_move_is_due_and_wakes_the_core_at_its_end() -> None:
    play = put_off(Rebalance.AUTO, delay_s=1.5)
    assert joined(play) == []
    assert "stays here for 1.5 s" in play.said(Level.INFO)[-1]
    due_at = play.now + 1.5
    play.settle(play.after(1.0, play.kept()))
    assert play.wake_at == due_at
    assert moved(play) == set()
    play.now = due_at
    assert requests(play.tell()) == [RemoveAddress]


def test_a_delay_begins_anew_when_the_move_was_not_due_for_a_while() -> None:
    play = put_off(Rebalance.AUTO, delay_s=1.0)
    joined(play)
    play.now += 0.9
    joined(play, node(OTHER, OTHERS_LEASE, 6, is_healthy=False), seen=6)
    assert joined(play, seen=7) == []
    assert RemoveAddress not in requests(play.after(0.9, play.kept()))
    assert RemoveAddress in requests(play.after(0.2))


def test_a_window_that_was_not_told_of_is_closed() -> None:
    assert joined(put_off(NIGHT)) == []


def test_when_the_window_opens_what_was_put_off_is_moved() -> None:
    play = put_off(NIGHT)
    joined(play)
    assert "as rebalance is 22:00-04:00" in play.said(Level.INFO)[-1]
    assert requests(play.tell(WindowObserved(is_open=True))) == [RemoveAddress]
    assert "the window of rebalance is open" in play.said(Level.INFO)


def test_a_move_that_was_begun_is_finished_though_the_window_closes() -> None:
    play = put_off(NIGHT)
    play.tell(WindowObserved(is_open=True))
    assert joined(play) == [RemoveAddress]
    play.tell(WindowObserved(is_open=False))
    (going,) = _going(play)
    play.settle([RemoveAddress(play.state.next_request - 1, going)])
    assert len(moved(play)) == 1
    assert play.state.cluster.view is not None
    assert len(play.state.cluster.view.marks) == 1


def _going(play: Play) -> list[Address]:
    return [a for a in (A, B) if not play.state.addresses.is_up(a)]


def test_the_window_means_nothing_to_who_never_or_always_levels() -> None:
    never, auto = put_off(), put_off(Rebalance.AUTO)
    never.tell(WindowObserved(is_open=True))
    auto.tell(WindowObserved(is_open=False))
    assert (joined(never), joined(auto)) == ([], [RemoveAddress])


def test_a_delay_goes_on_top_of_the_window() -> None:
    play = put_off(NIGHT, delay_s=1.0)
    play.tell(WindowObserved(is_open=True))
    assert joined(play) == []
    assert RemoveAddress in requests(play.after(1.0, play.kept()))


def test_new_settings_count_at_once() -> None:
    play = put_off()
    joined(play)
    assert requests(play.tell(SettingsChanged(settings()))) == [RemoveAddress]


def test_a_preference_is_followed_only_where_levelling_is_allowed() -> None:
    for rebalance, expected in ((Rebalance.NEVER, set()), (Rebalance.AUTO, {B})):
        play = put_off(rebalance)
        now = view(5, (A, B), (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 5)), BOTH)
        target = frozen_mapping({A: ME, B: OTHER})
        play.state = replace(play.state, placed=replace(play.state.placed, target=target, view=now))
        play.settle(play.tell(ClusterChanged(now)))
        assert moved(play) == expected


def test_an_orphan_is_claimed_at_once_by_who_never_levels() -> None:
    play = put_off()
    c = A + 10
    now = view(5, (A, B, c), (node(ME, LEASE, 2),), BOTH)
    (claim,) = play.tell(ClusterChanged(now))
    assert isinstance(claim, ClaimMarks) and claim.addresses == (c,)


@pytest.mark.parametrize("what", ["exclude", "out of the pool", "another's mark", "unhealthy"])
def test_what_this_node_may_not_hold_goes_at_once(what: str) -> None:
    play = put_off()
    joined(play)
    nodes = node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 5)
    now = view(6, (A, B), nodes, BOTH)
    if what == "exclude":
        entry = PoolEntry(A, exclude=frozenset({ME}))
        now = replace(now, pool=frozen_mapping({A: entry, B: PoolEntry(B)}))
    elif what == "out of the pool":
        now = view(6, (B,), nodes, BOTH)
    elif what == "another's mark":
        now = view(6, (A, B), nodes, (mark(A, 6, OTHER, OTHERS_LEASE), mark(B, 4)))
    events = (ClusterChanged(now), *((play.unhealthy(),) if what == "unhealthy" else ()))
    gone = {each.address for each in play.tell(*events) if isinstance(each, RemoveAddress)}
    assert gone == ({A, B} if what == "unhealthy" else {A})


def test_a_node_that_stops_drains_though_it_never_levels() -> None:
    play = put_off()
    joined(play)
    gone = [each for each in play.tell(StopRequested("SIGTERM")) if isinstance(each, RemoveAddress)]
    assert {each.address for each in gone} == {A, B}


def test_a_node_that_waits_leaves_its_addresses_to_those_that_do_not_flap() -> None:
    play = put_off()
    me = node(ME, LEASE, 2)
    waiting = replace(me, advertisement=replace(me.advertisement, waits_s=10.0))
    now = view(5, (A, B), (waiting, node(OTHER, OTHERS_LEASE, 5)), BOTH)
    gone = [each for each in play.tell(ClusterChanged(now)) if isinstance(each, RemoveAddress)]
    assert {each.address for each in gone} == {A, B}


def test_beside_an_older_version_the_holder_decides_all_the_same() -> None:
    """The older one places as it always did; what is marked it does not claim."""
    other = node(OTHER, OTHERS_LEASE, 5)
    older = replace(other, advertisement=replace(other.advertisement, placement=1, schema=1))
    play = put_off()
    assert joined(play, older) == []
    view_ = play.state.cluster.view
    assert view_ is not None
    as_before = place_as_before(view_.pool, view_.nodes, view_.marks)
    assert sorted(as_before.values()) == [ME, OTHER] and set(play.state.held) == {A, B}
    assert joined(put_off(Rebalance.AUTO), older) == [RemoveAddress]


def test_what_has_gone_anyway_is_released_and_not_put_back() -> None:
    play = put_off()
    play.settle(play.tell(play.unhealthy()))
    assert play.state.held == ()
    play = put_off(Rebalance.AUTO)
    (removal,) = [joined(play)]
    assert removal == [RemoveAddress]
    (going,) = _going(play)
    never = replace(settings(), rebalance=Rebalance.NEVER)
    play.tell(SettingsChanged(never))
    actions = play.do([RemoveAddress(play.state.next_request - 1, going)])
    assert requests(actions) == [ReleaseMarks]


@pytest.mark.parametrize(
    ("window", "open_at", "closed_at"),
    [
        (Window(120, 240), (120, 239), (119, 240)),
        (Window(1320, 240), (1320, 1439, 0, 239), (240, 1319)),
        (Window(0, 1439), (0, 1438), (1439,)),
        (Window(1439, 0), (1439,), (0, 1438)),
    ],
)
def test_a_window_has_its_start_and_not_its_end_and_may_span_midnight(
    window: Window, open_at: tuple[int, ...], closed_at: tuple[int, ...]
) -> None:
    assert all(map(window.is_open_at, open_at)) and not any(map(window.is_open_at, closed_at))


def test_a_window_and_the_times_outside_of_it_make_a_day() -> None:
    for start, end in product((0, 1, 719, 1439), repeat=2):
        if start != end:
            inside = [Window(start, end).is_open_at(each) for each in range(1440)]
            outside = [Window(end, start).is_open_at(each) for each in range(1440)]
            assert [not each for each in inside] == outside
