"""When a command of an operator is done, blocked, put off or overtaken."""

from dataclasses import replace

from tests.steer.clusters import at, cluster, control, held, name, node
from yaim.core.model import ClusterView, Revision, frozen_mapping
from yaim.dcs.operate import Change, SetDrain, SetMove, SetPin
from yaim.steer.applied import target_of
from yaim.steer.plan import Going, Staying
from yaim.steer.requests import Drain, Goal, asked
from yaim.steer.wait import BLOCKED_S, PUT_OFF_S, Blocked, Finished, GoingOn, Overtaken, Wait

N1, N2, N3 = name(1), name(2), name(3)
FOLLOWED = tuple(node(n, followed=9) for n in (1, 2, 3))
DRAIN = Change("drain", (SetDrain(N1),))


def drained(now: str, followed: int = 9) -> ClusterView:
    nodes = tuple(node(n, followed=followed, is_drained=n == 1) for n in (1, 2, 3))
    return cluster(now, nodes, control(drains=(1,), revision=9))


def wait_for_drain() -> Wait:
    goal = asked(Drain((N1,)), cluster("112233")).goal
    return Wait(DRAIN, goal, Revision(9))


def test_a_drain_is_done_when_all_have_followed_and_others_hold_all() -> None:
    wait = wait_for_drain().after(drained("112233", followed=0), 1.0)
    assert isinstance(wait.progress, GoingOn)
    assert wait.progress.silent == (N1, N2, N3)
    assert [each.source for each in wait.progress.left] == [N1, N1]
    wait = wait.after(drained("322233", followed=0), 1.1)
    assert wait.progress == GoingOn((), (N1, N2, N3)) or isinstance(wait.progress, GoingOn)
    assert wait.after(drained("232233"), 1.2).progress == Finished()


def test_a_drain_is_not_done_while_an_address_is_with_nobody() -> None:
    wait = wait_for_drain().after(drained("032233"), 1.0)
    assert wait.progress == GoingOn((Going(at(1), None, N2),), ())


def test_what_only_the_drained_node_can_hold_blocks_it_at_once_with_the_reason() -> None:
    nodes = (
        node(1, followed=9, is_drained=True),
        node(2, is_healthy=False),
        node(3, is_healthy=False),
    )
    view = cluster("1", nodes, control(drains=(1,), revision=9))
    wait = Wait(DRAIN, Goal(drained=frozenset({N1})), Revision(9)).after(view, 1.0)
    assert wait.progress == Blocked((Staying(at(1), N1, "unhealthy: n2, n3"),))


def test_what_is_blocked_is_told_after_a_while_though_something_else_hangs() -> None:
    nodes = (
        node(1, followed=9, is_drained=True),
        node(2, followed=9, refused=[at(1)]),
    )
    view = cluster("11", nodes, control(drains=(1,), revision=9))
    wait = Wait(DRAIN, Goal(drained=frozenset({N1})), Revision(9)).after(view, 1.0)
    assert isinstance(wait.progress, GoingOn)
    wait = wait.after(view, 1.0 + BLOCKED_S)
    assert wait.progress == Blocked(
        (Staying(at(1), N1, "refused by the helper (its log says why): n2"),)
    )


def test_a_drain_that_somebody_takes_back_is_waited_for_no_more() -> None:
    view = cluster("112233", FOLLOWED, control(revision=11))
    assert wait_for_drain().after(view, 1.0).progress == Overtaken("n1 is not drained any more")


def test_if_the_heir_fails_another_one_is_waited_for() -> None:
    nodes = (
        node(1, followed=9, is_drained=True),
        node(2, followed=9, is_healthy=False),
        node(3, followed=9),
    )
    view = cluster("112233", nodes, control(drains=(1,), revision=9))
    wait = wait_for_drain().after(view, 1.0)
    assert isinstance(wait.progress, GoingOn)
    assert {each.target for each in wait.progress.left} == {N3}
    assert wait.after(held(view, "333333"), 2.0).progress == Finished()


def test_a_node_that_has_died_need_not_follow() -> None:
    view = cluster("232233", FOLLOWED[1:], control(drains=(1,), revision=9))
    assert wait_for_drain().after(view, 1.0).progress == Finished()


def test_an_older_node_need_not_follow() -> None:
    view = cluster("12", (node(1, followed=9), node(2, placement=3)), control(revision=9))
    wait = Wait(Change("resume"), Goal(), Revision(9)).after(view, 1.0)
    assert wait.progress == Finished()


MOVE = Change("move", (SetMove(at(1), N2),))
MOVED = Goal(placed=frozen_mapping({at(1): N2}))


def test_a_move_is_done_when_the_address_is_there() -> None:
    asked_for = control(moves={1: 2}, revision=9)
    wait = Wait(MOVE, MOVED, Revision(9)).after(cluster("1123", FOLLOWED, asked_for), 1.0)
    assert wait.progress == GoingOn((Going(at(1), N1, N2),), ())
    claimed = cluster("2123", FOLLOWED, control(revision=9))
    assert wait.after(claimed, 1.1).progress == Finished()


def test_a_move_that_has_lapsed_is_blocked() -> None:
    view = cluster("1123", FOLLOWED, control(revision=9))
    assert Wait(MOVE, MOVED, Revision(9)).after(view, 1.0).progress == Blocked(
        (Staying(at(1), N1, "n2: what was asked for has lapsed"),)
    )


def test_a_move_to_a_node_that_fails_meanwhile_is_blocked_with_the_reason() -> None:
    nodes = (FOLLOWED[0], node(2, followed=9, is_healthy=False), FOLLOWED[2])
    view = cluster("1123", nodes, control(moves={1: 2}, revision=9))
    progress = Wait(MOVE, MOVED, Revision(9)).after(view, 1.0).progress
    assert progress == Blocked((Staying(at(1), N1, "n2: unhealthy"),))


def test_a_pin_or_move_that_somebody_changes_is_overtaken() -> None:
    pin = Change("pin", (SetPin(at(1), N2),))
    view = cluster("1123", FOLLOWED, control(pins={1: 3}, moves={1: 3}, revision=9))
    assert Wait(pin, MOVED, Revision(9)).after(view, 1.0).progress == Overtaken(
        "192.0.2.1 is not pinned to n2 any more"
    )
    assert Wait(MOVE, MOVED, Revision(9)).after(view, 1.0).progress == Overtaken(
        "192.0.2.1 is to go to n3 now"
    )


def test_what_nodes_put_off_is_told_when_nothing_moves_any_more() -> None:
    goal = Goal(moved=frozenset({at(1), at(2)}))
    view = cluster("1112", FOLLOWED, control(revision=9))
    wait = Wait(Change("undrain"), goal, Revision(9)).after(view, 1.0)
    assert isinstance(wait.progress, GoingOn)
    wait = wait.after(view, 1.0 + PUT_OFF_S / 2)
    assert isinstance(wait.progress, GoingOn)
    wait = wait.after(view, 1.0 + PUT_OFF_S)
    assert isinstance(wait.progress, Finished)
    assert [each.source for each in wait.progress.later] == [N1]


def test_what_still_moves_is_not_put_off() -> None:
    goal = Goal(moved=frozenset({at(1), at(2), at(3)}))
    view = cluster("111111", FOLLOWED, control(revision=9))
    wait = Wait(Change("undrain"), goal, Revision(9)).after(view, 1.0)
    wait = wait.after(held(view, "211111"), PUT_OFF_S)
    wait = wait.after(held(view, "211111"), 1.0 + PUT_OFF_S)
    assert isinstance(wait.progress, GoingOn)


def test_a_removed_address_is_gone_when_its_mark_is() -> None:
    goal = Goal(gone=frozenset({at(2)}))
    view = cluster("12", FOLLOWED, control(revision=9))
    left = replace(view, pool=frozen_mapping({at(1): view.pool[at(1)]}))
    wait = Wait(Change("pool-remove"), goal, Revision(9)).after(left, 1.0)
    assert wait.progress == GoingOn((Going(at(2), N2, None),), ())
    gone = replace(left, marks=frozen_mapping({at(1): view.marks[at(1)]}))
    assert wait.after(gone, 1.1).progress == Finished()


def test_nodes_that_are_drained_no_more_share_at_once_whoever_has_said_so_yet() -> None:
    """Otherwise what goes to the first of them goes on to the next ones."""
    nodes = (node(1), node(2, is_drained=True), node(3))
    half = cluster("333333", nodes, control())
    told = cluster("333333", control=control())
    assert target_of(half) == target_of(told)
