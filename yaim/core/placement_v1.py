"""Version 1 of the placement, as all nodes did it that advertise none (yaim/core/placement.py).

Keep what is held, give each orphan to its least loaded eligible node, and then, as long
as a chain of moves makes the spread more even (or as even with fewer moves), make the best one.
That is a minimum-cost flow with the cost (sum of squared loads, moves): chains are its
cost-reducing paths. All steps are looked for anew for each chain: with hundreds of addresses to
move that takes seconds.
"""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b

from yaim.core.model import (
    Address,
    Mark,
    Node,
    NodeName,
    PoolEntry,
    address_order,
    frozen_mapping,
    is_in_force,
)


@lru_cache(maxsize=65536)
def tie_break(address: Address, node: NodeName) -> bytes:
    """Returns a stable order of nodes, another one for each address."""
    return blake2b(f"{address} {node}".encode(errors="backslashreplace"), digest_size=8).digest()


def place(
    pool: Mapping[Address, PoolEntry],
    nodes: Mapping[NodeName, Node],
    marks: Mapping[Address, Mark],
) -> Mapping[Address, NodeName]:
    """Returns the holder that each address of the pool should have; none if no node is eligible.

    Of chains that are equally good the order of the marks decides: that of their keys, as all
    nodes read them.
    """
    in_order = sorted(marks.values(), key=lambda mark: f"{mark.address}/")
    held = {mark.address: mark.holder for mark in in_order if is_in_force(mark, nodes)}
    eligible = {
        entry.address: _eligible(entry, nodes, held.get(entry.address))
        for entry in sorted(pool.values(), key=lambda entry: address_order(entry.address))
    }
    home = {a: holder for a, holder in held.items() if holder in eligible.get(a, ())}
    spread = _Spread(eligible, home)
    for address in sorted(
        (address for address, names in eligible.items() if names and address not in home),
        key=lambda address: (len(eligible[address]), address_order(address)),
    ):
        spread.put(
            address,
            min(
                eligible[address],
                key=lambda name: (
                    spread.loads[name],
                    name not in pool[address].prefer,
                    tie_break(address, name),
                ),
            ),
        )
    while spread.improve():
        pass
    return frozen_mapping(spread.holder)


def _eligible(
    entry: PoolEntry, nodes: Mapping[NodeName, Node], holder: NodeName | None
) -> tuple[NodeName, ...]:
    able = sorted(name for name, node in nodes.items() if node.can_hold(entry))
    ready = tuple(name for name in able if not nodes[name].is_waiting)
    if ready:
        return ready
    return (holder,) if holder in able else tuple(able)


class _Spread:
    """A placement in the making."""

    def __init__(
        self, eligible: Mapping[Address, tuple[NodeName, ...]], home: Mapping[Address, NodeName]
    ) -> None:
        self._eligible = eligible
        self._home = home
        self.loads: dict[NodeName, int] = {}
        for names in eligible.values():
            for name in names:
                self.loads.setdefault(name, 0)
        self.holder: dict[Address, NodeName] = {}
        self._moved = 0
        for address, name in home.items():
            self.put(address, name)

    def put(self, address: Address, name: NodeName) -> None:
        """Give the address to the node, taking it from where it is."""
        home = self._home.get(address)
        before = self.holder.get(address)
        if before is not None:
            self.loads[before] -= 1
            self._moved -= home is not None and before != home
        self.holder[address] = name
        self.loads[name] += 1
        self._moved += home is not None and name != home

    def improve(self) -> bool:
        """Make the best chain of moves, if there is one that improves anything.

        Of a chain from node u to node v, the sum of squared loads changes by
        2 * (load(v) - load(u) + 1). Shortest paths by Bellman and Ford: the cost of a step can be
        -1, an address going home, but no cycle is negative.
        """
        if (
            not self._moved
            and max(self.loads.values(), default=0) - min(self.loads.values(), default=0) <= 1
        ):
            return False
        steps = self._steps()
        best = {name: (-load, 0) for name, load in self.loads.items()}
        came_by: dict[NodeName, tuple[NodeName, Address]] = {}
        relaxed = True
        while relaxed:
            relaxed = False
            for (source, target), (cost, _, address) in steps.items():
                through = best[source][0], best[source][1] + cost
                if through < best[target]:
                    best[target] = through
                    came_by[target] = source, address
                    relaxed = True
        gain, end = min(
            ((self.loads[name] + 1 + load, moves), name) for name, (load, moves) in best.items()
        )
        if gain >= (0, 0):
            return False
        while end in came_by:
            source, address = came_by[end]
            self.put(address, end)
            end = source
        return True

    def _steps(self) -> dict[tuple[NodeName, NodeName], tuple[int, bytes, Address]]:
        """Returns for each two nodes the address that is cheapest to hand from one to the other:
        (moves, tie-break, address)."""
        steps: dict[tuple[NodeName, NodeName], tuple[int, bytes, Address]] = {}
        for address, source in self.holder.items():
            home = self._home.get(address)
            for target in self._eligible[address]:
                if target == source:
                    continue
                cost = 0 if home is None else (target != home) - (source != home)
                known = steps.get((source, target))
                if known is not None and known[0] < cost:
                    continue
                step = cost, tie_break(address, target), address
                if known is None or step[:2] < known[:2]:
                    steps[source, target] = step
        return steps
