"""Which nodes can hold each address, for all addresses of a pool at once.

Node.can_hold says the same of one node and one address (tests/core/test_eligibility.py compares the
two). For 1000 addresses and 50 nodes it would take longer than a lease lives. Here nodes are the
bits of a number, in the order given, and what many have in common is looked at once: networks that
many nodes allow, nodes that many entries exclude.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from yaim.core.model import Address, Network, Node, NodeName, PoolEntry

Nodes = int
"""A set of nodes: bit n is the nth one."""


@dataclass(frozen=True, slots=True)
class _Ranges:
    """Which nodes allow an address by their networks: the same within each range of numbers."""

    starts: list[int]
    """The starts of all ranges but the first, which begins at 0."""
    allowing: list[Nodes]


class Eligibility:
    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._bits = {node.name: 1 << number for number, node in enumerate(nodes)}
        self._refusing: dict[Address, Nodes] = {}
        for node in nodes:
            for address in node.advertisement.refused:
                self._refusing[address] = self._refusing.get(address, 0) | self._bits[node.name]
        self._ranges: dict[tuple[str | None, int], _Ranges] = {}
        self._named: dict[frozenset[NodeName], Nodes] = {frozenset(): 0}

    def able(self, entry: PoolEntry) -> Nodes:
        """Returns the nodes that can hold the address."""
        if entry.fault:
            return 0
        address = entry.address
        version = address.version
        ranges = self._ranges.get((entry.interface, version))
        if ranges is None:
            ranges = self._ranges_on(entry.interface, version)
            self._ranges[entry.interface, version] = ranges
        able = ranges.allowing[bisect_right(ranges.starts, int(address))]
        if entry.exclude:
            able &= ~self.named(entry.exclude)
        if entry.schema > 1:
            able &= self._knowing(entry.schema)
        if self._refusing:
            able &= ~self._refusing.get(address, 0)
        return able

    def named(self, names: frozenset[NodeName]) -> Nodes:
        """Returns the nodes that have one of these names."""
        known = self._named.get(names)
        if known is None:
            known = 0
            for name in names:
                known |= self._bits.get(name, 0)
            self._named[names] = known
        return known

    def _knowing(self, schema: int) -> Nodes:
        return joined(
            self._bits[node.name] for node in self._nodes if node.advertisement.schema >= schema
        )

    def _ranges_on(self, interface: str | None, version: int) -> _Ranges:
        """`interface`: the one of the entry; None: each node's own."""
        allowing: dict[Network, Nodes] = {}
        for node in self._nodes:
            told = node.advertisement
            here = interface or told.interface
            if told.is_healthy and here not in told.down:
                for network in told.networks.get(here, ()):
                    if network.version == version:
                        allowing[network] = allowing.get(network, 0) | self._bits[node.name]
        bounds = [
            (int(network.network_address), int(network.broadcast_address) + 1, nodes)
            for network, nodes in allowing.items()
        ]
        starts = sorted({bound for start, end, _ in bounds for bound in (start, end)})
        ranges = _Ranges(starts, [0] * (len(starts) + 1))
        for start, end, nodes in bounds:
            first, last = bisect_right(starts, start), bisect_right(starts, end)
            for number in range(first, last):
                ranges.allowing[number] |= nodes
        return ranges


def each_of(nodes: Nodes) -> Iterator[int]:
    """Yields the numbers of these nodes, ascending."""
    while nodes:
        lowest = nodes & -nodes
        yield lowest.bit_length() - 1
        nodes ^= lowest


def joined(sets: Iterable[Nodes]) -> Nodes:
    """Returns all nodes that are in one of these sets."""
    found = 0
    for nodes in sets:
        found |= nodes
    return found
