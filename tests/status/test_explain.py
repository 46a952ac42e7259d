"""Why an address is where it is: what is told is what the placement does."""

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest

from tests.status.clusters import CLUSTER, NOW, node, view
from tests.status.test_as_json import objects, strict
from tests.status.test_problems import BY, HERE, changed
from yaim.cli.explain import as_table
from yaim.core.model import (
    NO_CONTROL,
    Address,
    ClusterView,
    Control,
    LeaseId,
    Mark,
    Move,
    Node,
    NodeName,
    Pin,
    PoolEntry,
    Revision,
    Weight,
    frozen_mapping,
)
from yaim.core.placement import place
from yaim.status.as_json import explanation_as_json, unexplained
from yaim.status.explain import Explanation, Unknown, explain, in_words

N1, N2, N3 = (NodeName(f"n{number}") for number in (1, 2, 3))
ADDRESSES = tuple(ip_address(f"192.0.2.{number}") for number in range(1, 7))
FIRST = ADDRESSES[0]
SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schemas/explain-1.json").read_text())


def there(name: NodeName, **told: object) -> Node:
    lease = LeaseId(int(name[1:]))
    made = changed(node("db1"), placement=4, **told)
    return replace(made, name=name, lease=lease)


def held(address: Address, holder: NodeName) -> Mark:
    return Mark(address, holder, LeaseId(int(holder[1:])), Revision(1))


def level(control: Control = NO_CONTROL, **told: object) -> ClusterView:
    """Three nodes with two addresses each; `told` is of n1, which has the first of them."""
    nodes = (there(N1, **told), there(N2), there(N3))
    marks = tuple(
        held(address, (N1, N2, N3)[number // 2]) for number, address in enumerate(ADDRESSES)
    )
    return replace(view(tuple(map(str, ADDRESSES)), nodes, marks), control=control)


def reasons(found: Explanation) -> dict[str, str]:
    return {each.node: each.reason for each in found.nodes}


def test_what_is_level_stays() -> None:
    found = explain(level(), FIRST)
    shares = "n1 2, n2 2, n3 2"
    keeps = f"its holder keeps it, as nothing would be more even otherwise: {shares}"
    assert in_words(found) == f"192.0.2.1 is held by n1, and is to stay there: {keeps}"
    even = f"to move it here would make nothing more even: {shares}"
    assert reasons(found) == {"n1": keeps, "n2": even, "n3": even}
    assert explain(level(), FIRST, N2).nodes == found.nodes[1:2]


def test_of_many_on_one_node_some_are_to_go() -> None:
    seen = level()
    seen = replace(seen, marks=frozen_mapping({a: held(a, N1) for a in ADDRESSES}))
    (gone, *_) = (found for a in ADDRESSES if (found := explain(seen, a)).target not in (None, N1))
    assert in_words(gone).endswith(
        f"is to go to {gone.target}: that is most even, with the fewest moves: n1 2, n2 2, n3 2"
    )


def test_a_drained_node_gives_its_addresses_to_others() -> None:
    control = Control(drains=frozen_mapping({N1: BY}))
    found = explain(level(control, is_drained=True, waits_s=86400.0), FIRST)
    assert found.target in (N2, N3)
    assert reasons(found)["n1"] == (
        "is drained by root@db1 (kernel upgrade), and another node can hold it"
    )
    alone = level(control, is_drained=True, waits_s=86400.0)
    alone = replace(alone, nodes=frozen_mapping({N1: alone.nodes[N1]}))
    assert in_words(explain(alone, FIRST)) == (
        "192.0.2.1 is held by n1, and is to stay there: no other node can hold it, though n1 is"
        " drained by root@db1 (kernel upgrade)"
    )


@pytest.mark.parametrize(
    ("control", "target", "rule"),
    [
        (
            {"moves": frozen_mapping({FIRST: Move(N2, BY)})},
            N2,
            "an operator has asked to move it to n2",
        ),
        ({"pins": frozen_mapping({FIRST: Pin(N3, BY)})}, N3, "it is pinned to n3"),
        ({"pause": BY}, N1, "the cluster is paused: it stays where it is"),
    ],
    ids=["move", "pin", "pause"],
)
def test_what_an_operator_has_asked_for_is_the_reason(
    control: dict[str, Any], target: NodeName, rule: str
) -> None:
    found = explain(level(Control(**control)), FIRST)
    assert (found.target, found.reason) == (target, rule)
    assert all(each.reason.endswith(rule) for each in found.nodes)


def test_a_pin_to_a_node_that_cannot_hold_it_does_not_count() -> None:
    seen = level(Control(pins=frozen_mapping({FIRST: Pin(N3, BY)})))
    down = there(N3, down=frozenset({"eth0"}))
    seen = replace(seen, nodes=frozen_mapping({**seen.nodes, N3: down}))
    found = explain(seen, FIRST)
    assert (found.target, reasons(found)["n3"]) == (N1, "eth0 is down")


def test_a_preference_is_the_reason() -> None:
    seen = level()
    entry = PoolEntry(FIRST, prefer=frozenset({N2, N3}), exclude=frozenset({N3}))
    seen = replace(seen, pool=frozen_mapping({**seen.pool, FIRST: entry}))
    found = explain(seen, FIRST)
    assert (found.target, found.reason) == (N2, "its entry prefers n2")
    assert reasons(found)["n3"] == "excluded"


def test_weights_are_told_with_the_shares() -> None:
    found = explain(level(Control(weights=frozen_mapping({N1: Weight(2, BY)}))), FIRST)
    assert "n1 " in found.reason and "(weight 2)" in found.reason


def test_an_address_that_is_on_a_host_already_is_to_be_on_no_node() -> None:
    seen = level(present=frozen_mapping({FIRST: "eth0, /24"}))
    marks = {a: each for a, each in seen.marks.items() if a != FIRST}
    found = explain(replace(seen, marks=frozen_mapping(marks)), FIRST)
    where = "on n1 already, not by yaim (eth0, /24): remove it there"
    assert in_words(found) == (f"192.0.2.1 is held by nobody, and is to be on no node: {where}")
    assert set(reasons(found).values()) == {f"it is {where}"}


def test_a_node_that_is_missing_is_told_as_not_there() -> None:
    seen = level(Control(members=frozen_mapping({NodeName("n9"): HERE})))
    assert reasons(explain(seen, FIRST))["n9"] == "is not there"
    assert explain(seen, FIRST, NodeName("n9")).nodes[0].reason == "is not there"


def test_unknown_addresses_and_nodes_are_refused() -> None:
    with pytest.raises(Unknown, match=r"198\.51\.100\.1 is not in the pool"):
        explain(level(), ip_address("198.51.100.1"))
    with pytest.raises(Unknown, match="there is no node x"):
        explain(level(), FIRST, NodeName("x"))


def random_view(random: Random) -> ClusterView:
    names = [NodeName(f"n{number}") for number in range(1, random.randrange(2, 6))]
    nodes = [
        there(
            name,
            is_healthy=random.random() < 0.85,
            takes=random.random() < 0.9,
            waits_s=random.choice((0.0, 0.0, 0.0, 9.0)),
            refused=frozenset(random.sample(ADDRESSES, random.choice((0, 0, 1)))),
            networks=random.choice(
                (
                    node("db1").advertisement.networks,
                    frozen_mapping({"eth0": (ip_network("192.0.2.0/30"),)}),
                )
            ),
            capacity=random.choice((None, None, 1, 3)),
            present=frozen_mapping(random.choice(({}, {}, {FIRST: "eth0, /24"}))),
        )
        for name in names
    ]
    pool = {
        address: PoolEntry(
            address,
            exclude=frozenset(random.sample(names, random.choice((0, 0, 1)))),
            prefer=frozenset(random.sample(names, random.choice((0, 0, 1)))),
        )
        for address in ADDRESSES
    }
    marks = {a: held(a, random.choice(names)) for a in ADDRESSES if random.random() < 0.8}

    def some_addresses() -> list[Address]:
        return random.sample(ADDRESSES, random.choice((0, 1, 2)))

    control = Control(
        drains=frozen_mapping(dict.fromkeys(random.sample(names, random.choice((0, 0, 1))), BY)),
        pause=random.choice((None, None, BY)),
        pins=frozen_mapping({a: Pin(random.choice(names), BY) for a in some_addresses()}),
        moves=frozen_mapping({a: Move(random.choice(names), BY) for a in some_addresses()}),
    )
    return ClusterView(
        Revision(1),
        frozen_mapping(pool),
        frozen_mapping({each.name: each for each in nodes}),
        frozen_mapping(marks),
        control=control,
    )


@pytest.mark.parametrize("seed", range(200))
def test_what_is_told_is_what_the_placement_does(seed: int) -> None:
    """Each rule that is named has had its way; and each other node has a reason why not."""
    seen = random_view(Random(seed))
    placed = place(seen.pool, seen.nodes, seen.marks, seen.control)
    for address in ADDRESSES:
        found = explain(seen, address)
        assert found.target == placed.get(address)
        assert all(each.reason for each in found.nodes)
        assert found.reason
        for rule in (
            "it is pinned to ",
            "an operator has asked to move it to ",
            "its entry prefers ",
        ):
            if found.reason.startswith(rule) and found.target is not None:
                names, comma, no_room = found.reason.removeprefix(rule).partition(", which has")
                assert (found.target in names.split(" or ")) is not bool(comma)
                assert no_room in ("", " no room for it (max-addresses)")
        if found.reason == "the cluster is paused: it stays where it is":
            assert found.target == found.holder


def test_the_table_has_a_line_for_each_node() -> None:
    control = Control(pins=frozen_mapping({FIRST: Pin(N3, BY)}))
    assert as_table(explain(level(control), FIRST)) == (
        "192.0.2.1 is held by n1, and is to go to n3: it is pinned to n3.\n"
        "\n"
        "NODE  ADDRESS  REASON\n"
        "n1    goes     it is pinned to n3\n"
        "n2    -        it is pinned to n3\n"
        "n3    comes    is to hold it: it is pinned to n3"
    )


def test_for_programs_it_is_as_the_schema_says() -> None:
    assert all(set(each["required"]) == each["properties"].keys() for each in objects(SCHEMA))
    told = json.loads(explanation_as_json(CLUSTER, explain(level(), FIRST), 7, NOW))
    jsonschema.validate(told, strict(SCHEMA))
    assert (told["holder"], told["target"], told["revision"]) == ("n1", "n1", 7)
    failed = json.loads(unexplained(CLUSTER, str(FIRST), "etcd is gone", NOW))
    jsonschema.validate(failed, strict(SCHEMA))
    assert failed.keys() == told.keys()
