"""Clusters of any size, and random ones."""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from random import Random

from yaim.core.model import (
    SCHEMA,
    Address,
    Advertisement,
    ClusterView,
    LeaseId,
    Mark,
    Network,
    Node,
    NodeName,
    PoolEntry,
    Revision,
    frozen_mapping,
)
from yaim.core.placement import VERSION

V4, V6 = IPv4Network("10.0.0.0/16"), IPv6Network("2001:db8::/64")


def address(number: int) -> Address:
    return ip_address("10.0.0.1") + number


def address_6(number: int) -> Address:
    return ip_address("2001:db8::1") + number


def name(number: int) -> NodeName:
    return NodeName(f"n{number:02}")


def node(
    number: int,
    networks: tuple[Network, ...] = (V4, V6),
    *,
    interface: str = "eth0",
    refused: Iterable[Address] = (),
    down: Iterable[str] = (),
    is_healthy: bool = True,
    waits_s: float = 0.0,
    present: Iterable[Address] = (),
    placement: int = VERSION,
    schema: int = SCHEMA,
) -> Node:
    told = Advertisement(
        is_healthy=is_healthy,
        reason="",
        interface=interface,
        networks=frozen_mapping({"eth0": networks, "eth1": networks[:1]}),
        refused=frozenset(refused),
        session="",
        version="",
        down=frozenset(down),
        waits_s=waits_s,
        present=dict.fromkeys(present, "eth9, /24"),
        placement=placement,
        schema=schema,
    )
    return Node(name(number), told, LeaseId(number + 1), Revision(1))


def view(
    pool: Iterable[PoolEntry],
    nodes: Iterable[Node],
    holder: Callable[[int], int | None] = lambda _: None,
    revision: int = 1,
) -> ClusterView:
    """`holder`: of the nth address, as a node's number."""
    entries = tuple(pool)
    marks = {
        entry.address: Mark(entry.address, name(held), LeaseId(held + 1), Revision(1))
        for number, entry in enumerate(entries)
        if (held := holder(number)) is not None
    }
    return ClusterView(
        Revision(revision),
        frozen_mapping({entry.address: entry for entry in entries}),
        frozen_mapping({each.name: each for each in nodes}),
        frozen_mapping(marks),
    )


def entries(count: int) -> list[PoolEntry]:
    return [PoolEntry(address(number)) for number in range(count)]


def excluding(count: int, nodes: int, excluded: int, seed: int = 1) -> list[PoolEntry]:
    """Each address excludes so many nodes of its own."""
    chance = Random(seed)
    return [
        PoolEntry(
            address(number), exclude=frozenset(map(name, chance.sample(range(nodes), excluded)))
        )
        for number in range(count)
    ]


def random_cluster(chance: Random, most_nodes: int = 12, most_addresses: int = 60) -> ClusterView:
    """Whatever can be odd: families, networks, exclusions, refusals, links, health, who waits. But
    nothing is present for another reason, of which the first placement knew nothing."""
    count, nodes = chance.randrange(most_addresses), chance.randint(1, most_nodes)
    names = [name(number) for number in range(nodes)]
    addresses = [address(n) if chance.random() < 0.8 else address_6(n) for n in range(count)]
    kind, share = chance.choice(("all", "some", "two", "ring")), chance.random()

    def excluded(number: int) -> frozenset[NodeName]:
        at = chance.randrange(nodes) if kind == "two" else number * nodes // count
        kept = {names[at], names[(at + 1) % nodes], *([names[(at + 3) % nodes]] * (kind == "ring"))}
        match kind:
            case "all":
                return frozenset()
            case "some":
                return frozenset(each for each in names if chance.random() < share)
        return frozenset(names) - kept

    refusing = chance.choice((0.0, 0.1, 0.6))
    return view(
        [
            PoolEntry(
                each,
                interface=chance.choice((None, None, None, "eth1")),
                exclude=excluded(number),
                prefer=frozenset(each for each in names if chance.random() < 0.1),
            )
            for number, each in enumerate(addresses)
        ],
        [
            node(
                number,
                chance.choice(((V4, V6), (V4, V6), (V4,), (ip_network("10.0.0.0/27"), V6))),
                interface=chance.choice(("eth0", "eth0", "eth1")),
                refused=[each for each in addresses if chance.random() < refusing],
                down=chance.choice(((), (), (), ("eth1",))),
                is_healthy=chance.random() > 0.1,
                waits_s=chance.choice((0.0, 0.0, 0.0, 10.0)),
            )
            for number in range(nodes)
        ],
        chance.choice(
            (
                lambda number: 0,
                lambda number: chance.choice((None, *range(nodes), nodes)),
                lambda number: min(nodes - 1, int(chance.expovariate(1))),
            )
        ),
    )


def windows(seed: int, nodes: int, addresses: int) -> ClusterView:
    """Each address may be on some nodes in a row, and the first of these has it. The rows overlap,
    so that most of what is moved moves others."""
    chance = Random(seed)
    width = min(chance.choice((2, 3, 4, 6)), nodes - 1)
    first = [
        int((number / addresses) ** chance.choice((1, 2, 3)) * (nodes - width))
        for number in range(addresses)
    ]
    names = [name(number) for number in range(nodes)]
    return view(
        [
            PoolEntry(address(number), exclude=frozenset(names[:at] + names[at + width :]))
            for number, at in enumerate(first)
        ],
        [node(number) for number in range(nodes)],
        first.__getitem__,
    )
