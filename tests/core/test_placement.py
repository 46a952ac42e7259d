"""Placement against a naive oracle that tries every assignment, and against its first version."""

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.clusters import random_cluster, windows
from yaim.core import placement_v1
from yaim.core.model import (
    SCHEMA,
    Address,
    Advertisement,
    ClusterView,
    LeaseId,
    Mark,
    Node,
    NodeName,
    PoolEntry,
    Revision,
    is_in_force,
)
from yaim.core.placement import (
    VERSION,
    Placement,
    counted,
    counted_marks,
    is_alike,
    place,
    schema_of,
    version_of,
)
from yaim.dcs.etcd.keys import Keys, KeyValue

NETWORK = ip_network("192.0.2.0/24")


def address(number: int) -> Address:
    return ip_address(f"192.0.2.{number}")


def node(
    name: str,
    refused: frozenset[Address] = frozenset(),
    is_healthy: bool = True,
    waits_s: float = 0.0,
    present: frozenset[Address] = frozenset(),
    takes: bool = True,
) -> Node:
    return Node(
        NodeName(name),
        Advertisement(
            is_healthy=is_healthy,
            reason="",
            interface="eth0",
            networks={"eth0": (NETWORK,)},
            refused=refused,
            session="",
            version="",
            waits_s=waits_s,
            present=dict.fromkeys(present, "eth0, /24"),
            takes=takes,
            placement=VERSION,
            schema=SCHEMA,
        ),
        LeaseId(1),
        Revision(1),
    )


def spread(pool: list[PoolEntry], nodes: list[Node], held: dict[Address, str]) -> Placement:
    return place(
        {entry.address: entry for entry in pool},
        {each.name: each for each in nodes},
        {a: Mark(a, NodeName(name), LeaseId(1), Revision(1)) for a, name in held.items()},
    )


def entries(count: int) -> list[PoolEntry]:
    return [PoolEntry(address(number)) for number in range(1, count + 1)]


def counts(placement: Placement) -> list[int]:
    return sorted(Counter(placement.values()).values(), reverse=True)


def test_nine_addresses_on_four_nodes_are_3_2_2_2_and_never_3_3_3_0() -> None:
    """The Go original gives ceil to every node."""
    nodes = [node(name) for name in "abcd"]
    held = {address(number): "abc"[number % 3] for number in range(1, 10)}
    placed = spread(entries(9), nodes, held)
    assert counts(placed) == [3, 2, 2, 2]
    assert sum(placed[a] != name for a, name in held.items()) == 2


def test_three_addresses_on_three_nodes_are_not_kept_by_one() -> None:
    held = {address(number): "a" for number in range(1, 4)}
    assert counts(spread(entries(3), [node(name) for name in "abc"], held)) == [1, 1, 1]


def test_what_is_held_evenly_is_not_moved() -> None:
    held = {address(1): "b", address(2): "a", address(3): "b", address(4): "a", address(5): "a"}
    assert dict(spread(entries(5), [node("a"), node("b")], held)) == held


def test_the_addresses_of_a_failed_node_are_spread_and_no_other_moves() -> None:
    held = {address(number): "abc"[number % 3] for number in range(1, 7)}
    placed = spread(entries(6), [node("a"), node("b", is_healthy=False), node("c")], held)
    assert counts(placed) == [3, 3]
    assert all(placed[a] == name for a, name in held.items() if name != "b")


def test_a_mark_of_an_earlier_life_does_not_count_as_held() -> None:
    stale = {address(1): Mark(address(1), NodeName("a"), LeaseId(99), Revision(1))}
    crowded = {address(2): "a", address(3): "a"}
    marks = {a: Mark(a, NodeName(name), LeaseId(1), Revision(1)) for a, name in crowded.items()}
    placed = place(
        {entry.address: entry for entry in entries(3)},
        {each.name: each for each in (node("a"), node("b"))},
        {**stale, **marks},
    )
    assert placed[address(1)] == "b"


def test_an_address_that_nobody_may_hold_is_left_out() -> None:
    pool = [PoolEntry(ip_address("203.0.113.1")), PoolEntry(address(1))]
    assert dict(spread(pool, [node("a")], {})) == {address(1): "a"}


def test_nobody_is_the_first_choice_for_every_address() -> None:
    nodes = [node(name) for name in "abcd"]
    placed = {n: spread([PoolEntry(address(n))], nodes, {})[address(n)] for n in range(1, 40)}
    assert set(placed.values()) == set("abcd")


def test_an_orphan_goes_to_a_preferred_node_where_loads_are_equal() -> None:
    for number in range(1, 20):
        entry = PoolEntry(address(number), prefer=frozenset({NodeName("c")}))
        assert spread([entry], [node(name) for name in "abcd"], {})[entry.address] == "c"


def test_an_excluded_node_gets_nothing() -> None:
    entry = PoolEntry(address(1), exclude=frozenset({NodeName("a")}))
    assert spread([entry], [node("a"), node("b")], {address(1): "a"}) == {address(1): "b"}


def test_a_chain_of_moves_is_made_where_no_single_move_helps() -> None:
    """a is full of what only a and b may hold, b of what anybody may hold, c is empty."""
    only_ab = [PoolEntry(address(n), exclude=frozenset({NodeName("c")})) for n in (1, 2, 3)]
    anywhere = [PoolEntry(address(n), exclude=frozenset({NodeName("a")})) for n in (4, 5)]
    held = {**{e.address: "a" for e in only_ab}, **{e.address: "b" for e in anywhere}}
    placed = spread(only_ab + anywhere, [node(name) for name in "abc"], held)
    assert counts(placed) == [2, 2, 1]


def test_a_node_that_waits_gets_nothing_and_keeps_nothing_that_another_can_hold() -> None:
    nodes = [node("a"), node("b", waits_s=20.0), node("c")]
    assert counts(spread(entries(6), nodes, {})) == [3, 3]
    placed = spread(entries(6), nodes, {address(n): "b" for n in range(1, 7)})
    assert counts(placed) == [3, 3] and "b" not in placed.values()


def test_a_node_that_waits_holds_what_no_other_can() -> None:
    """Excluded, refused, unhealthy: whatever keeps the others from it."""
    only_b = PoolEntry(address(1), exclude=frozenset({NodeName("a")}))
    nodes = [node("a"), node("b", waits_s=20.0), node("c", is_healthy=False)]
    assert spread([only_b, *entries(3)[1:]], nodes, {}) == {
        address(1): "b",
        address(2): "a",
        address(3): "a",
    }


def test_where_all_wait_they_share_what_nobody_holds_and_take_nothing_from_each_other() -> None:
    nodes = [node(name, waits_s=20.0) for name in "ab"]
    assert counts(spread(entries(6), nodes, {})) == [3, 3]
    held = {address(n): "a" for n in range(1, 5)}
    placed = spread(entries(6), nodes, held)
    assert placed == {**held, address(5): "b", address(6): "b"}


def test_when_its_wait_is_over_a_node_gets_its_share() -> None:
    held = {address(n): "a" for n in range(1, 5)}
    assert dict(spread(entries(4), [node("a"), node("b", waits_s=20.0)], held)) == held
    assert counts(spread(entries(4), [node("a"), node("b")], held)) == [2, 2]


def test_what_a_node_has_for_another_reason_nobody_takes_and_its_holder_keeps() -> None:
    """Also where that node is unhealthy."""
    has_it = frozenset({address(1)})
    nodes = [node("a"), node("b", present=has_it), node("c", is_healthy=False, present=has_it)]
    assert spread(entries(1), nodes, {}) == {}
    assert spread(entries(1), nodes[::2], {}) == {}
    held = {address(n): "a" for n in range(1, 4)}
    assert spread(entries(3), nodes, held)[address(1)] == "a"
    assert spread(entries(1), nodes, {address(1): "c"}) == {}


def test_a_node_that_takes_nothing_now_keeps_what_it_holds_and_gets_nothing() -> None:
    nodes = [node("a", takes=False), node("b")]
    held = {address(1): "a", address(2): "a", address(3): "b"}
    assert spread(entries(3), nodes, held) == held
    placed = spread(entries(7), nodes, held)
    assert placed == {address(n): "a" if n < 3 else "b" for n in range(1, 8)}
    assert spread(entries(2), nodes[:1], {address(1): "a"}) == {address(1): "a"}


def test_a_second_copy_does_not_cost_a_node_what_it_holds() -> None:
    nodes = [node("a", present=frozenset({address(1)})), node("b")]
    held = {address(1): "a"}
    assert spread(entries(1), nodes, held) == held


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[PoolEntry], list[Node], dict[Address, str]]:
    addresses = [address(number) for number in range(1, draw(st.integers(0, 6)) + 1)]
    names = "abcd"[: draw(st.integers(1, 4))]
    some_addresses = st.frozensets(st.sampled_from(addresses) if addresses else st.nothing())
    nodes = [
        node(
            name,
            refused=draw(some_addresses),
            is_healthy=draw(st.integers(0, 9)) > 0,
            waits_s=draw(st.sampled_from((0.0, 0.0, 10.0))),
            present=draw(some_addresses) if draw(st.integers(0, 3)) == 0 else frozenset(),
            takes=draw(st.integers(0, 3)) > 0,
        )
        for name in names
    ]
    held = {
        a: name
        for a in addresses
        if (name := draw(st.sampled_from([*names, "gone", None]))) is not None
    }
    return [PoolEntry(a) for a in addresses], nodes, held


@given(clusters())
@settings(max_examples=400)
def test_spread_and_moves_are_the_best_that_exist(
    cluster: tuple[list[PoolEntry], list[Node], dict[Address, str]],
) -> None:
    pool, nodes, held = cluster

    def cost(placement: Placement) -> tuple[int, int]:
        loads = Counter(placement.values())
        may_stay = {a: name for a, name in held.items() if name in choices.get(a, ())}
        moves = sum(placement[a] != name for a, name in may_stay.items())
        return sum(load * load for load in loads.values()), moves

    choices: dict[Address, list[NodeName]] = {}
    for entry in pool:
        able = [
            each
            for each in nodes
            if each.can_take(entry)
            or (each.can_hold(entry) and each.name == held.get(entry.address))
        ]
        ready = [each for each in able if each.advertisement.waits_s == 0]
        holder = [each for each in able if each.name == held.get(entry.address)]
        if any(entry.address in each.advertisement.present for each in nodes):
            ready, able = [], holder
        if able:
            choices[entry.address] = [each.name for each in ready or holder or able]
        elif keepers := [
            n for n in nodes if n.name == held.get(entry.address) and n.can_keep(entry)
        ]:
            choices[entry.address] = [keepers[0].name]
    best = min(cost(dict(zip(choices, names, strict=True))) for names in product(*choices.values()))
    placed = spread(pool, nodes, held)
    assert placed.keys() == choices.keys()
    assert all(placed[a] in names for a, names in choices.items())
    assert cost(placed) == best


@given(clusters())
@settings(max_examples=200)
def test_once_placed_nothing_moves_any_more(
    cluster: tuple[list[PoolEntry], list[Node], dict[Address, str]],
) -> None:
    pool, nodes, held = cluster
    placed = spread(pool, nodes, held)
    assert spread(pool, nodes, {a: str(name) for a, name in placed.items()}) == placed


@pytest.mark.parametrize("seed", range(150))
def test_the_answer_is_as_good_as_that_of_the_first_version(seed: int) -> None:
    """Which looks for the best chain among all steps, again and again, and does not know that what
    no node can hold stays where it is, nor that a preference decides more than ties."""
    seen = random_cluster(Random(seed))
    pool = {
        a: replace(e, prefer=frozenset())
        for a, e in seen.pool.items()
        if any(n.can_hold(e) for n in seen.nodes.values())
    }
    seen = replace(seen, pool=pool)
    placed = place(seen.pool, seen.nodes, seen.marks)
    before = placement_v1.place(seen.pool, seen.nodes, seen.marks)
    assert placed.keys() == before.keys()
    assert all(seen.nodes[name].can_hold(seen.pool[a]) for a, name in placed.items())
    assert cost_in(seen, placed) == cost_in(seen, before)


@pytest.mark.parametrize("seed", range(100))
def test_the_answer_is_as_good_where_each_move_makes_others(seed: int) -> None:
    seen = windows(seed, 3 + seed % 10, 40)
    placed = place(seen.pool, seen.nodes, seen.marks)
    before = placement_v1.place(seen.pool, seen.nodes, seen.marks)
    assert cost_in(seen, placed) == cost_in(seen, before)


@pytest.mark.parametrize("seed", range(60))
def test_there_is_an_answer_where_a_circle_of_moves_was_found(seed: int) -> None:
    """The search went on with what it had left half done, which ended the coordinators of all
    nodes: in 1 of 20 of these."""
    seen = windows(seed, 50, 1000)
    assert len(place(seen.pool, seen.nodes, seen.marks)) == 1000


def cost_in(seen: ClusterView, placement: Placement) -> tuple[int, int]:
    """Sum of squared loads, and moves. What its holder cannot keep moves in each answer."""
    loads = Counter(placement.values())
    moves = sum(
        mark.address in placement and placement[mark.address] != mark.holder
        for mark in seen.marks.values()
    )
    return sum(load * load for load in loads.values()), moves


@pytest.mark.parametrize("seed", range(30))
def test_the_answer_does_not_depend_on_the_order_in_which_anything_was_read(seed: int) -> None:
    chance = Random(seed)
    seen = random_cluster(chance)
    placed = place(seen.pool, seen.nodes, seen.marks)
    for _ in range(3):
        pool = dict(chance.sample(list(seen.pool.items()), len(seen.pool)))
        nodes = dict(chance.sample(list(seen.nodes.items()), len(seen.nodes)))
        marks = dict(chance.sample(list(seen.marks.items()), len(seen.marks)))
        assert place(pool, nodes, marks) == placed


@pytest.mark.parametrize("seed", range(30))
def test_what_was_claimed_and_moved_in_part_comes_to_the_same_spread(seed: int) -> None:
    """Nodes carry a placement out one after the other, and compute it anew each time."""
    chance = Random(seed)
    seen = random_cluster(chance)
    placed = place(seen.pool, seen.nodes, seen.marks)
    spread = cost_in(seen, placed)[0]
    held = {a: mark for a, mark in seen.marks.items() if is_in_force(mark, seen.nodes)}
    for address_, name_ in chance.sample(list(placed.items()), len(placed) // 2):
        lease = seen.nodes[name_].lease
        held[address_] = Mark(address_, name_, lease, Revision(2))
    assert cost_in(seen, place(seen.pool, seen.nodes, held))[0] == spread


def test_while_a_node_of_an_older_version_is_alive_the_answer_is_that_versions() -> None:
    seen = random_cluster(Random(5), most_nodes=9)
    (name_, older), *_ = seen.nodes.items()
    told = replace(older.advertisement, placement=1)
    nodes = dict(seen.nodes) | {name_: replace(older, advertisement=told)}
    before = placement_v1.place(seen.pool, nodes, seen.marks)
    assert place(seen.pool, seen.nodes, seen.marks) != before
    assert place(seen.pool, nodes, seen.marks) == before


def test_a_node_of_a_newer_version_makes_no_difference() -> None:
    seen = random_cluster(Random(5))
    nodes = {
        name: replace(each, advertisement=replace(each.advertisement, placement=VERSION + 1))
        for name, each in seen.nodes.items()
    }
    assert place(seen.pool, nodes, seen.marks) == place(seen.pool, seen.nodes, seen.marks)


def test_an_older_node_counts_what_is_present_and_the_others_take_none_of_it() -> None:
    """It does not know that nobody is to have it. Were it left out of the reckoning, each would
    wait for the other to take something else."""
    older = node("a")
    older = replace(older, advertisement=replace(older.advertisement, placement=1))
    has_one = node("b", present=frozenset({address(2), address(3)}))
    held = {address(1): "a", address(3): "a"}
    placed = spread(entries(6), [older, has_one], held)
    as_the_older_has_it = spread(entries(6), [older, node("b")], held)
    assert placed == {
        **{a: name for a, name in as_the_older_has_it.items() if a != address(2)},
        address(3): "a",
    }


@pytest.mark.parametrize("seed", range(60))
def test_what_a_node_understands_it_places_as_those_do_that_understand_more(seed: int) -> None:
    """There are three versions, the last one yet to come. A node takes no notice of entries that it
    does not understand, so for the others they must make no difference to what it does
    understand."""
    chance = Random(seed)
    seen = random_cluster(chance)
    nodes = {}
    for name, each in seen.nodes.items():
        version = chance.choice((1, 2, 2, 3))
        told = replace(each.advertisement, placement=version, schema=version)
        nodes[name] = replace(each, advertisement=replace(told, is_healthy=True))
    pool = {a: replace(entry, schema=chance.choice((1, 1, 2, 3))) for a, entry in seen.pool.items()}
    highest = max(each.advertisement.schema for each in nodes.values())
    placed = place(pool, nodes, seen.marks)
    for schema in {1, 2} - set(range(schema_of(nodes))):
        understood = {
            a: entry
            for a, entry in pool.items()
            if entry.schema <= schema or entry.schema > highest
        }
        marks = {a: mark for a, mark in seen.marks.items() if a in understood}
        assert {a: n for a, n in placed.items() if a in understood} == place(
            understood, nodes, marks
        )
    for a, entry in pool.items():
        able = {each.name for each in nodes.values() if each.can_hold(entry)}
        assert placed[a] in able if able else a not in placed or placed[a] == seen.marks[a].holder


def test_an_advertisement_that_cannot_be_read_lowers_no_version() -> None:
    """A newer node's, or what somebody has put there by hand."""
    keys = Keys.of("service", "yaim")
    strange = keys.view({keys.node(NodeName("z")): KeyValue(b"{", 1, 1, 1)}, 1).nodes
    assert (version_of(strange), schema_of(strange)) == (VERSION, SCHEMA)


def test_what_only_a_newer_node_understands_goes_to_it_and_stays_put_where_there_is_none() -> None:
    """It lists an option as critical that is not known here: perhaps it is only misspelt."""
    entry = PoolEntry(address(1), fault="critical", schema=SCHEMA + 1)
    pool = [entry, *entries(4)[1:]]
    held = {address(1): "a", address(2): "a"}
    assert spread(pool, [node("a"), node("b")], held) == {
        address(1): "a",
        address(2): "a",
        address(3): "b",
        address(4): "b",
    }
    newer = node("c")
    told = replace(newer.advertisement, schema=SCHEMA + 1, placement=VERSION + 1)
    newer = replace(newer, advertisement=told)
    assert address(1) not in spread(pool, [node("a"), node("b"), newer], held)


def with_stray(stray: Node, *nodes: Node) -> ClusterView:
    """A healthy advertisement that has no lease."""
    pool = {entry.address: entry for entry in entries(4)}
    return ClusterView(
        Revision(1),
        pool,
        {each.name: each for each in nodes},
        stray_nodes={stray.name: replace(stray, lease=LeaseId(0))},
    )


def versioned(one: Node, placement: int) -> Node:
    return replace(one, advertisement=replace(one.advertisement, placement=placement))


def test_what_is_advertised_without_a_lease_is_given_nothing() -> None:
    """Red team: it took its share for ever."""
    seen = with_stray(versioned(node("zz"), 1), versioned(node("a"), 3), versioned(node("b"), 3))
    assert Counter(place(seen.pool, counted(seen), seen.marks).values()) == {"a": 2, "b": 2}
    assert version_of(counted(seen)) == 3


def test_as_long_as_an_older_node_counts_it_in_what_has_no_lease_counts_for_all() -> None:
    """Else what the one leaves to it the other would leave to nobody."""
    for older in (1, 2):
        others = versioned(node("a"), 3), versioned(node("b"), older)
        seen = with_stray(versioned(node("zz"), 3), *others)
        assert counted(seen).keys() == {"a", "b", "zz"}
        stray = Mark(address(1), NodeName("zz"), LeaseId(0), Revision(1))
        seen = replace(seen, stray_marks={address(1): stray})
        as_older_nodes_read_it = {**seen.nodes, **seen.stray_nodes}, seen.stray_marks
        placed = place(seen.pool, counted(seen), counted_marks(seen))
        assert placed == place(seen.pool, *as_older_nodes_read_it)
        assert placed[address(1)] == "zz"


def test_a_name_that_is_not_utf_8_ends_no_placement() -> None:
    """A key of somebody's, beside an older node to which it is a node."""
    for older in (1, 2):
        others = versioned(node("a"), 3), versioned(node("b"), older)
        seen = with_stray(versioned(node(b"\xff".decode(errors="surrogateescape")), 3), *others)
        assert set(place(seen.pool, counted(seen), seen.marks)) == set(seen.pool)


def test_a_mark_that_was_put_over_another_one_counts_for_all_as_it_does_for_older_nodes() -> None:
    """Else they would not agree on the rest. Nobody claims its address."""
    nodes = {NodeName(name): versioned(node(name), 3) for name in ("a", "b")}
    over = Mark(address(1), NodeName("b"), LeaseId(7), Revision(4), is_over_another=True)
    pool = {entry.address: entry for entry in entries(4)}
    seen = ClusterView(Revision(4), pool, nodes, stray_marks={address(1): over})
    assert counted_marks(seen) == {address(1): over}
    assert place(pool, counted(seen), counted_marks(seen))[address(1)] == "b"
    without_lease = replace(over, lease=LeaseId(0))
    seen = replace(seen, stray_marks={address(1): without_lease})
    assert counted_marks(seen) == {}


def test_a_placement_is_made_anew_when_what_has_no_lease_has_come_or_gone() -> None:
    seen = with_stray(node("zz"), node("a"))
    assert not is_alike(seen, replace(seen, stray_nodes={}))
    assert is_alike(seen, replace(seen, revision=Revision(2)))
