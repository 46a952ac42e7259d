"""Placement against a naive oracle that tries every assignment."""

from collections import Counter
from ipaddress import ip_address, ip_network
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from yaim.core.model import (
    Address,
    Advertisement,
    LeaseId,
    Mark,
    Node,
    NodeName,
    PoolEntry,
    Revision,
)
from yaim.core.placement import Placement, place

NETWORK = ip_network("192.0.2.0/24")


def address(number: int) -> Address:
    return ip_address(f"192.0.2.{number}")


def node(
    name: str,
    refused: frozenset[Address] = frozenset(),
    is_healthy: bool = True,
    waits_s: float = 0.0,
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
        able = [each for each in nodes if each.can_hold(entry)]
        ready = [each for each in able if each.advertisement.waits_s == 0]
        holder = [each for each in able if each.name == held.get(entry.address)]
        if able:
            choices[entry.address] = [each.name for each in ready or holder or able]
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
