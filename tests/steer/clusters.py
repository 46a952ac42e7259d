"""Clusters for the tests of operators' commands: nodes n1, n2 ... that may hold 192.0.2.0/24."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

from yaim.core.model import (
    SCHEMA,
    Address,
    Advertisement,
    ClusterView,
    Control,
    LeaseId,
    Mark,
    Member,
    Move,
    Node,
    NodeName,
    Order,
    Pin,
    PoolEntry,
    Revision,
    Weight,
    frozen_mapping,
)
from yaim.core.placement import VERSION

NETWORK = ip_network("192.0.2.0/24")


def at(number: int) -> Address:
    return ip_address("192.0.2.0") + number


def name(number: int) -> NodeName:
    return NodeName(f"n{number}")


def node(
    number: int,
    *,
    is_healthy: bool = True,
    placement: int = VERSION,
    followed: int = 0,
    is_drained: bool = False,
    waits_s: float = 0.0,
    takes: bool = True,
    capacity: int | None = None,
    refused: Iterable[Address] = (),
    present: Mapping[Address, str] | None = None,
) -> Node:
    told = Advertisement(
        is_healthy=is_healthy,
        reason="",
        interface="eth0",
        networks=frozen_mapping({"eth0": (NETWORK,)}),
        refused=frozenset(refused),
        session="",
        version="1.4",
        placement=placement,
        schema=SCHEMA,
        control=Revision(followed),
        is_drained=is_drained,
        waits_s=waits_s or 86400.0 * is_drained,
        takes=takes,
        capacity=capacity,
        present=frozen_mapping(present or {}),
    )
    return Node(name(number), told, LeaseId(number), Revision(1))


def cluster(
    held: str,
    nodes: Iterable[Node] = (),
    control: Control | None = None,
    entries: Mapping[int, PoolEntry] | None = None,
) -> ClusterView:
    """`held`: the nodes that hold 192.0.2.1, .2 and so on, such as `112233`; 0: nobody."""
    there = tuple(nodes) or (node(1), node(2), node(3))
    pool = {at(n): PoolEntry(at(n)) for n in range(1, len(held) + 1)}
    pool |= {at(n): entry for n, entry in (entries or {}).items()}
    marks = {
        at(n): Mark(at(n), name(int(each)), LeaseId(int(each)), Revision(1))
        for n, each in enumerate(held, 1)
        if each != "0"
    }
    return ClusterView(
        Revision(7),
        frozen_mapping(pool),
        frozen_mapping({each.name: each for each in there}),
        frozen_mapping(marks),
        control=control or Control(revision=Revision(5)),
    )


def held(view: ClusterView, now: str) -> ClusterView:
    """The same, with the addresses on these nodes."""
    return replace(view, marks=cluster(now, view.nodes.values()).marks)


ORDER = Order("alice@db9", "new disk", "2026-12-01T03:00:00Z")


def control(
    drains: Iterable[int] = (),
    pins: Mapping[int, int] | None = None,
    moves: Mapping[int, int] | None = None,
    weights: Mapping[int, int] | None = None,
    members: Mapping[int, bool] | None = None,
    is_paused: bool = False,
    revision: int = 5,
) -> Control:
    """`members`: whether each is stopped."""
    return Control(
        Revision(revision),
        frozen_mapping({name(n): ORDER for n in drains}),
        ORDER if is_paused else None,
        frozen_mapping({at(a): Pin(name(n), ORDER) for a, n in (pins or {}).items()}),
        frozen_mapping({at(a): Move(name(n), ORDER) for a, n in (moves or {}).items()}),
        frozen_mapping({name(n): Weight(w, ORDER) for n, w in (weights or {}).items()}),
        frozen_mapping(
            {
                name(n): Member("2026-11-01T00:00:00Z", stopped, "2026-11-30T00:00:00Z", "1.4")
                for n, stopped in (members or {}).items()
            }
        ),
    )
