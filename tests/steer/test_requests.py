"""What the requests of operators come to on a view of the cluster."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.steer.clusters import at, cluster, control, name, node
from yaim.core.model import NodeName, PoolEntry, frozen_mapping
from yaim.dcs.operate import (
    Change,
    ForgetMember,
    RemoveDrain,
    RemoveMove,
    RemovePause,
    RemovePin,
    RemovePoolEntry,
    RemoveWeight,
    SetDrain,
    SetMove,
    SetPause,
    SetPin,
    SetPoolEntry,
    SetWeight,
)
from yaim.steer.plan import Going, Share, Staying
from yaim.steer.requests import (
    AddToPool,
    Asked,
    Drain,
    Forget,
    Goal,
    MoveTo,
    Pause,
    PinTo,
    RemoveFromPool,
    Request,
    Resume,
    SetInPool,
    Undrain,
    Unpin,
    Weigh,
    asked,
)

N1, N2, N3 = name(1), name(2), name(3)
THREE = cluster("112233")


def routes(found: Asked) -> dict[str, str]:
    """The moves of the plan: address to `n1 n2`."""
    return {str(each.address): f"{each.source} {each.target}" for each in found.plan.moves}


# --- drains --------------------------------------------------------------------------------------


def test_a_drain_moves_what_the_node_has_and_nothing_else() -> None:
    found = asked(Drain((N1,), "new disk", 7200), THREE)
    assert found.change == Change("drain", (SetDrain(N1, "new disk"),), for_s=7200)
    assert {each.source for each in found.plan.moves} == {N1}
    assert found.plan.shares == (
        Share(N1, 2, 0, "drained"),
        Share(N2, 2, 3, ""),
        Share(N3, 2, 3, ""),
    )
    assert found.goal == Goal(drained=frozenset({N1}), moved=frozenset({at(1), at(2)}))
    assert (found.refusals, found.warnings, found.already, found.plan.stays) == ((), (), (), ())


def test_several_nodes_are_drained_at_once_and_nothing_moves_twice() -> None:
    found = asked(Drain((N2, N1)), THREE)
    assert found.change.puts == (SetDrain(N1), SetDrain(N2))
    assert routes(found) == {
        "192.0.2.1": "n1 n3",
        "192.0.2.2": "n1 n3",
        "192.0.2.3": "n2 n3",
        "192.0.2.4": "n2 n3",
    }


def test_what_would_be_left_to_drained_nodes_only_refuses_a_drain() -> None:
    view = cluster("12", (node(1), node(2, is_healthy=False)))
    found = asked(Drain((N1,)), view)
    assert found.refusals == ("192.0.2.1, 192.0.2.2 would stay on n1: unhealthy: n2",)
    assert found.hint == "--force does it all the same"


def test_a_forced_drain_tells_what_stays_and_why() -> None:
    view = cluster("1", (node(1), node(2)), control(drains=(2,)))
    found = asked(Drain((N1,), is_forced=True), view)
    assert found.refusals == ()
    assert found.change.puts == (SetDrain(N1),)
    assert (found.hint, found.warnings) == ("", ())
    assert found.plan.stays == (Staying(at(1), N1, "drained by alice@db9: n2"),)


def test_all_nodes_are_not_drained_without_force() -> None:
    assert len(asked(Drain((N1, N2, N3)), THREE).refusals) == 3


def test_what_stays_on_another_drained_node_since_before_refuses_nothing() -> None:
    entries = {1: PoolEntry(at(1), exclude=frozenset({N2, N3}))}
    view = cluster("123", control=control(drains=(1,)), entries=entries)
    assert asked(Drain((N2,)), view).refusals == ()


def test_a_node_that_is_drained_already_stays_so_and_is_waited_for() -> None:
    view = replace(THREE, control=control(drains=(1,)))
    found = asked(Drain((N1,)), view)
    assert not found.is_change
    assert found.already == (
        "n1 is drained already since 2026-12-01T03:00:00Z, by alice@db9: new disk",
    )
    assert found.goal.drained == {N1}
    assert found.goal.moved == {at(1), at(2)}


def test_a_new_reason_or_end_replaces_the_drain_that_stands() -> None:
    view = replace(THREE, control=control(drains=(1,)))
    assert asked(Drain((N1,), "fans"), view).change.puts == (SetDrain(N1, "fans"),)
    assert asked(Drain((N1,), for_s=60), view).change.for_s == 60


def test_a_node_that_is_not_there_can_be_drained_for_when_it_comes_back() -> None:
    view = replace(THREE, control=control(members={9: False}))
    found = asked(Drain((name(9),)), view)
    assert found.change.puts == (SetDrain(name(9)),)
    assert found.warnings == ("n9 is not there now: it is drained when it comes back",)


@pytest.mark.parametrize(
    "request_",
    [
        Drain((name(9),)),
        Undrain((name(9),)),
        Weigh(name(9), 2),
        MoveTo(at(1), name(9)),
        PinTo(at(1), name(9)),
        PinTo(at(1), name(9), is_forced=True),
    ],
)
def test_a_name_that_nobody_has_is_refused(request_: Request) -> None:
    found = asked(request_, THREE)
    assert found.refusals == ("no node is called n9: there are n1, n2, n3",)
    assert not found.is_change


def test_after_an_undrain_the_node_shares_again_though_it_advertises_that_it_waits() -> None:
    nodes = (node(1, is_drained=True), node(2), node(3))
    view = cluster("223333", nodes, control(drains=(1,)))
    found = asked(Undrain((N1,)), view)
    assert found.change == Change("undrain", deletes=(RemoveDrain(N1),))
    assert [(each.source, each.target) for each in found.plan.moves] == [(N3, N1), (N3, N1)]
    assert found.goal == Goal(moved=frozenset(each.address for each in found.plan.moves))


def test_why_something_is_taken_back_is_kept_for_the_history() -> None:
    view = replace(THREE, control=control(drains=(1,)))
    assert asked(Undrain((N1,), "disk is new"), view).change == Change(
        "undrain", deletes=(RemoveDrain(N1),), reason="disk is new"
    )


def test_an_undrain_of_what_is_not_drained_is_done_already() -> None:
    found = asked(Undrain((N1,)), THREE)
    assert (found.is_change, found.already) == (False, ("n1 is not drained",))


# --- older nodes ---------------------------------------------------------------------------------

OLDER = cluster("112233", (node(1), node(2), node(3, placement=3)))
TOLD_OLDER = ("n3 has an older yaim (1.4), which would not follow: upgrade it first, or stop it",)


@pytest.mark.parametrize(
    "request_",
    [Drain((N1,)), Pause(), MoveTo(at(1), N2), PinTo(at(1), N2), Weigh(N1, 2)],
)
def test_what_an_older_node_would_not_follow_is_refused(request_: Request) -> None:
    assert asked(request_, OLDER).refusals == TOLD_OLDER


@pytest.mark.parametrize(
    ("request_", "deletes"),
    [
        (Undrain((N1,)), (RemoveDrain(N1),)),
        (Resume(), (RemovePause(),)),
        (Unpin((at(1),)), (RemovePin(at(1)),)),
        (Weigh(N1, 1), (RemoveWeight(N1),)),
        (Forget(name(9)), (ForgetMember(name(9)),)),
        (RemoveFromPool((at(3),)), (RemovePoolEntry(at(3)),)),
    ],
)
def test_what_is_taken_back_is_so_with_an_older_node_too(
    request_: Request, deletes: tuple[object, ...]
) -> None:
    standing = control(drains=(1,), pins={1: 1}, weights={1: 3}, members={9: False}, is_paused=True)
    found = asked(request_, replace(OLDER, control=standing))
    assert (found.refusals, found.change.deletes) == ((), deletes)


# --- pause ---------------------------------------------------------------------------------------


def test_a_pause_ends_after_an_hour_unless_it_is_said() -> None:
    assert asked(Pause("vacuum"), THREE).change == Change(
        "pause", (SetPause("vacuum"),), for_s=3600
    )
    assert asked(Pause(for_s=60), THREE).change.for_s == 60


def test_a_pause_while_it_is_paused_renews_it_only_if_something_is_said() -> None:
    view = replace(THREE, control=control(is_paused=True))
    assert asked(Pause(), view).already == (
        "it is paused already since 2026-12-01T03:00:00Z, by alice@db9: new disk",
    )
    assert asked(Pause(for_s=60), view).is_change


def test_resume_moves_what_the_pause_has_kept() -> None:
    view = cluster("111133", control=control(is_paused=True))
    found = asked(Resume(), view)
    assert found.change == Change("resume", deletes=(RemovePause(),))
    assert {(each.source, each.target) for each in found.plan.moves} == {(N1, N2)}
    assert asked(Resume(), THREE).already == ("it is not paused",)


# --- moves ---------------------------------------------------------------------------------------


def test_a_move_that_leaves_all_level_is_made() -> None:
    found = asked(MoveTo(at(1), N2, "load"), cluster("1123"))
    assert found.change == Change("move", (SetMove(at(1), N2, "load"),))
    assert routes(found) == {"192.0.2.1": "n1 n2"}
    assert found.goal.placed == {at(1): N2}


def test_a_move_that_is_not_level_is_refused_and_says_what_would_go_back() -> None:
    found = asked(MoveTo(at(1), N2), THREE)
    assert found.refusals == (
        "that would not be level, so that 192.0.2.3 from n2 to n1 would go, too: --swap does both"
        " at once; `yaim pin 192.0.2.1 n2` keeps it there",
    )
    assert not found.is_change


def test_a_swap_moves_one_the_other_way_in_the_same_transaction() -> None:
    found = asked(MoveTo(at(1), N2, is_swapped=True), THREE)
    assert found.change.puts == (SetMove(at(1), N2), SetMove(at(3), N1))
    assert routes(found) == {"192.0.2.1": "n1 n2", "192.0.2.3": "n2 n1"}
    assert found.goal.placed == {at(1): N2, at(3): N1}


def test_while_it_is_paused_a_move_need_not_be_level() -> None:
    found = asked(MoveTo(at(1), N2), replace(THREE, control=control(is_paused=True)))
    assert routes(found) == {"192.0.2.1": "n1 n2"}


def test_an_address_that_is_there_already_is_not_moved() -> None:
    found = asked(MoveTo(at(1), N1), THREE)
    assert (found.is_change, found.already) == (False, ("192.0.2.1 is on n1 already",))


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (
            cluster("1123", (node(1), node(2, is_healthy=False), node(3))),
            "n2 cannot take 192.0.2.1: unhealthy",
        ),
        (
            replace(cluster("1133"), control=control(drains=(2,))),
            "n2 cannot take 192.0.2.1: drained by alice@db9: `yaim undrain n2` first",
        ),
        (
            cluster("1123", (node(1), node(2, waits_s=40), node(3))),
            "n2 cannot take 192.0.2.1: waits, as it flaps",
        ),
        (
            cluster("1123", (node(1), node(2, refused=[at(1)]), node(3))),
            "n2 cannot take 192.0.2.1: refused by the helper (its log says why)",
        ),
        (
            cluster("1123", entries={1: PoolEntry(at(1), exclude=frozenset({N2}))}),
            "n2 cannot take 192.0.2.1: excluded",
        ),
        (
            replace(cluster("1123"), control=control(pins={1: 1})),
            "192.0.2.1 is pinned to n1 and would go back: `yaim unpin 192.0.2.1` first",
        ),
        (
            cluster("1123", entries={1: PoolEntry(at(1), prefer=frozenset({N1}))}),
            "192.0.2.1 prefers n1 and would go back: `yaim pin 192.0.2.1 n2` keeps it on n2",
        ),
    ],
)
def test_a_move_that_cannot_be_or_would_not_last_is_refused(view: object, reason: str) -> None:
    assert asked(MoveTo(at(1), N2), view).refusals == (reason,)  # type: ignore[arg-type]


def test_a_node_that_is_known_and_not_there_takes_nothing() -> None:
    view = replace(THREE, control=control(members={9: False}))
    assert asked(MoveTo(at(1), name(9)), view).refusals == ("n9 is not there now",)


@pytest.mark.parametrize(
    "request_", [MoveTo(at(99), N1), PinTo(at(99), N1), Unpin((at(99),)), SetInPool((at(99),), {})]
)
def test_what_is_not_in_the_pool_is_refused(request_: Request) -> None:
    assert asked(request_, THREE).refusals == (
        "192.0.2.99 is not in the pool: `yaim pool list` shows what is, `yaim pool add` adds it",
    )


# --- pins and weights ----------------------------------------------------------------------------


def test_a_pin_moves_the_address_and_levels_the_rest_around_it() -> None:
    found = asked(PinTo(at(1), N2, "licence", 86400), THREE)
    assert found.change == Change("pin", (SetPin(at(1), N2, "licence"),), for_s=86400)
    assert routes(found) == {"192.0.2.1": "n1 n2", "192.0.2.3": "n2 n1"}
    assert found.goal == Goal(placed=frozen_mapping({at(1): N2}), moved=frozenset({at(1), at(3)}))


def test_a_pin_to_a_node_that_cannot_hold_it_waits_only_with_force() -> None:
    view = cluster("1133", (node(1), node(2, is_healthy=False), node(3)))
    assert asked(PinTo(at(1), N2), view).refusals == ("n2 cannot take 192.0.2.1: unhealthy",)
    forced = asked(PinTo(at(1), N2, is_forced=True), view)
    assert forced.change.puts == (SetPin(at(1), N2),)
    assert forced.warnings == ("the pin waits: n2 cannot take 192.0.2.1: unhealthy",)


def test_a_pin_that_stands_is_so_already_and_another_one_is_replaced() -> None:
    view = replace(THREE, control=control(pins={1: 1}))
    assert asked(PinTo(at(1), N1), view).already == (
        "192.0.2.1 is pinned to n1 already since 2026-12-01T03:00:00Z, by alice@db9: new disk",
    )
    assert asked(PinTo(at(1), N2), view).warnings == (
        "it replaces the pin to n1 since 2026-12-01T03:00:00Z, by alice@db9: new disk",
    )


def test_unpin_levels_again() -> None:
    view = cluster("1123", control=control(pins={1: 1, 2: 1}))
    found = asked(Unpin((at(2), at(1), at(3))), view)
    assert found.change.deletes == (RemovePin(at(1)), RemovePin(at(2)))
    assert found.already == ("192.0.2.3 is not pinned",)


def test_a_weight_moves_what_a_larger_share_is() -> None:
    found = asked(Weigh(N1, 2), cluster("11223344", [node(n) for n in (1, 2, 3, 4)]))
    assert found.change == Change("weight", (SetWeight(N1, 2, ""),), reason="weight 2")


def test_weight_one_is_what_all_have() -> None:
    assert asked(Weigh(N1, 1), THREE).already == ("n1 has the weight 1 already",)
    heavy = replace(THREE, control=control(weights={1: 3}))
    assert asked(Weigh(N1, 1), heavy).change == Change(
        "weight", deletes=(RemoveWeight(N1),), reason="weight 1"
    )
    assert asked(Weigh(N1, 3), heavy).already == ("n1 has the weight 3 already",)


def test_weight_zero_is_a_drain() -> None:
    assert asked(Weigh(N1, 0), THREE).refusals == (
        "a node with weight 0 is a drained one: say `yaim drain n1`",
    )


# --- the pool ------------------------------------------------------------------------------------


def test_addresses_are_added_and_placed() -> None:
    found = asked(AddToPool((at(8), at(7)), {"prefer": ["n1"]}), THREE)
    options = {"prefer": ["n1"]}
    assert found.change == Change(
        "pool-add", (SetPoolEntry(at(7), options), SetPoolEntry(at(8), options))
    )
    assert {each.source for each in found.plan.moves if each.address in (at(7), at(8))} == {None}
    assert found.refusals == ()


def test_an_address_that_is_in_the_pool_is_so_already_if_its_options_are_the_same() -> None:
    found = asked(AddToPool((at(1),)), THREE)
    assert (found.is_change, found.already) == (False, ("192.0.2.1 is in the pool already",))
    other = asked(AddToPool((at(1),), {"prefer": ["n1"]}), THREE)
    assert other.refusals == (
        "192.0.2.1 is in the pool already, with other options: `yaim pool set 192.0.2.1` changes"
        " them",
    )


def test_an_address_that_no_node_may_hold_is_refused_unless_it_is_forced() -> None:
    strange = ip_address("198.51.100.1")
    reason = "198.51.100.1: no node may hold it: not allowed on eth0 by the helper: n1, n2, n3"
    found = asked(AddToPool((strange,)), THREE)
    assert (found.refusals, found.is_change) == ((reason,), False)
    assert found.hint == "--force does it all the same"
    assert asked(AddToPool((strange,), is_forced=True), THREE).warnings == (reason,)


def test_a_node_that_is_unwell_now_still_tells_what_it_may_hold() -> None:
    view = cluster("1", (node(1, is_healthy=False),))
    assert asked(AddToPool((at(2),)), view).refusals == ()


def test_without_any_node_an_address_is_added_with_a_word_of_warning() -> None:
    view = replace(THREE, nodes=frozen_mapping({}))
    assert asked(AddToPool((at(9),)), view).warnings == (
        "no node is there: nobody tells whether it may hold this",
    )


def test_what_is_on_a_host_already_is_told() -> None:
    view = cluster("1", (node(1), node(2, present={at(9): "eth1, /24"})))
    assert asked(AddToPool((at(9),)), view).warnings == (
        "192.0.2.9 is on n2 already, not by yaim (eth1, /24): nobody takes it until it is removed"
        " there",
    )


def test_names_of_nodes_that_are_not_known_are_told() -> None:
    found = asked(AddToPool((at(9),), {"exclude": ["n77"]}), THREE)
    assert found.warnings == ("no node is called n77",)


def test_options_are_set_one_by_one_and_an_empty_one_is_taken_away() -> None:
    entry = PoolEntry(at(1), prefer=frozenset({N1}), prefix_length=24)
    view = cluster("112233", entries={1: entry})
    found = asked(SetInPool((at(1),), {"prefer": None, "exclude": ["n2"]}), view)
    assert found.change == Change(
        "pool-set", (SetPoolEntry(at(1), {"prefix": 24, "exclude": ["n2"]}),)
    )
    same = asked(SetInPool((at(1),), {"prefix": 24}), view)
    assert (same.is_change, same.already) == (False, ("192.0.2.1 is so already",))


def test_an_address_leaves_the_pool_with_its_pin_and_its_move() -> None:
    view = replace(THREE, control=control(pins={1: 1}, moves={1: 1}))
    found = asked(RemoveFromPool((at(1), at(99))), view)
    assert found.change == Change(
        "pool-remove", deletes=(RemovePoolEntry(at(1)), RemovePin(at(1)), RemoveMove(at(1)))
    )
    assert found.warnings == (
        "192.0.2.1: whoever is connected there loses it, and nobody answers",
        "the pin of 192.0.2.1 goes with it",
    )
    assert found.already == ("192.0.2.99 is not in the pool",)
    assert found.goal.gone == {at(1)}
    assert Going(at(1), N1, None) in found.plan.moves


# --- nodes ---------------------------------------------------------------------------------------


def test_a_node_that_lives_is_not_forgotten() -> None:
    assert asked(Forget(N1), THREE).refusals == (
        "n1 is there, and would be back at once: stop yaim on it first",
    )


def test_what_is_asked_of_a_forgotten_node_goes_with_it() -> None:
    view = replace(THREE, control=control(drains=(9,), weights={9: 2}, members={9: False}))
    found = asked(Forget(name(9)), view)
    assert found.change == Change("node-forget", deletes=(ForgetMember(name(9)),))
    assert found.warnings == ("its drain goes with it", "its weight goes with it")
    assert asked(Forget(NodeName("x")), view).already == ("no node x is known",)
