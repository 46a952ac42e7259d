"""`yaim plan`: what would move if something happened."""

from dataclasses import replace

from tests.steer.clusters import at, cluster, control, name, node
from yaim.core.model import Member, frozen_mapping
from yaim.steer.plan import Going, Share, Staying
from yaim.steer.show import plan_as_json, plan_lines
from yaim.steer.what_if import WhatIf, plan_for

N1, N2, N3, N4 = name(1), name(2), name(3), name(4)
THREE = cluster("112233")


def test_without_a_node_the_others_share_what_it_has() -> None:
    plan, faults = plan_for(WhatIf(without=(N1,)), THREE)
    assert faults == ()
    assert {each.source for each in plan.moves} == {N1}
    assert plan.shares == (
        Share(N1, 2, 0, "not there"),
        Share(N2, 2, 3, ""),
        Share(N3, 2, 3, ""),
    )


def test_a_new_node_is_like_most_others_and_gets_its_share() -> None:
    plan, _ = plan_for(WhatIf(with_=(N4,)), cluster("11223311"))
    assert plan.shares[-1] == Share(N4, 0, 2, "")


def test_a_node_that_is_unwell_comes_back_well() -> None:
    view = cluster("2222", (node(1, is_healthy=False, refused=[at(1)], takes=False), node(2)))
    plan, _ = plan_for(WhatIf(with_=(N1,)), view)
    assert [(each.node, each.after) for each in plan.shares] == [(N1, 2), (N2, 2)]


def test_a_drained_node_that_is_with_the_others_again_is_still_drained() -> None:
    view = cluster("2222", (node(1, is_drained=True), node(2)), control(drains=(1,)))
    assert plan_for(WhatIf(with_=(N1,)), view)[0].moves == ()


def test_addresses_and_weights_can_be_asked_for_together() -> None:
    asked = WhatIf(added=(at(8),), removed=(at(1),), weights={N1: 3}, drained=(N3,))
    plan, faults = plan_for(asked, THREE)
    assert faults == ()
    assert plan.shares[2] == Share(N3, 2, 0, "drained")
    assert sum(each.after for each in plan.shares) == 6


def test_what_nobody_could_hold_is_told() -> None:
    plan, _ = plan_for(WhatIf(without=(N1, N2, N3)), THREE)
    assert plan.stays[0] == Staying(at(1), None, "there is no other node")
    assert len(plan.stays) == 6


def test_nodes_that_should_be_there_and_are_not_are_named() -> None:
    """With two of three nodes dead, a drain of the third said only that there is no other."""
    here = Member("2026-12-01T09:00:00Z", False, "2026-12-01T09:00:00Z")
    orders = replace(control(), members=frozen_mapping({N1: here, N2: here, N3: here}))
    plan, _ = plan_for(WhatIf(drained=(N1,)), cluster("11", (node(1),), orders))
    assert {each.reason for each in plan.stays} == {"not there: n2, n3"}


def test_what_is_not_there_is_told_and_nothing_is_planned() -> None:
    asked = WhatIf(without=(N4,), removed=(at(99),), added=(at(1),))
    plan, faults = plan_for(asked, THREE)
    assert plan.moves == ()
    assert faults == (
        "no node is called n4: there are n1, n2, n3",
        "192.0.2.99 is not in the pool",
        "192.0.2.1 is in the pool already",
    )


def test_without_any_node_nobody_knows_what_another_would_be_like() -> None:
    empty = replace(THREE, nodes=frozen_mapping({}))
    assert plan_for(WhatIf(with_=(N1,)), empty)[1] == (
        "no node is there that another could be like",
    )


def test_a_plan_for_people_and_for_programs() -> None:
    plan, _ = plan_for(WhatIf(without=(N1,)), cluster("1230", (node(1), node(2), node(3))))
    moves = {each.address: each for each in plan.moves}
    assert moves[at(4)].source is None
    assert plan_lines(plan) == [
        f"192.0.2.1        n1 -> {moves[at(1)].target}",
        f"192.0.2.4        (nobody) -> {moves[at(4)].target}",
        "",
        "NODE  NOW  THEN",
        "n1    1    0     not there",
        "n2    1    2",
        "n3    1    2",
    ]
    assert plan_as_json(plan)["moves"] == [
        {"address": "192.0.2.1", "from": "n1", "to": moves[at(1)].target},
        {"address": "192.0.2.4", "from": None, "to": moves[at(4)].target},
    ]


def test_a_long_plan_says_how_much_more_there_is() -> None:
    view = cluster("1" * 240, (node(1), node(2)))
    plan, _ = plan_for(WhatIf(drained=(N1,)), view)
    assert len(plan.moves) == 240
    assert plan_lines(plan)[100] == "... and 140 more (--json has all)"
    assert Going(at(1), N1, N2) in plan.moves
