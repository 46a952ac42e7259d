"""What a share costs a node: by weights, up to capacities, and rounded as a proportion should be.

Pure numbers; nothing here knows an address. Minimised is, in this order: how much is beyond the
capacities; what is on nodes that are to be spared; by how much nodes miss their shares, rounded
down or up; and the sum of load ** 2 / weight. All are convex in the load of each node, so each is a
cost of the next thing that only grows, and one whole number holds them all: the later ones together
are always smaller than one unit of an earlier one.

The last alone is the method of Webster (divisors 1, 3, 5, ...: the next thing goes where
weight / (2 * load + 1) is the largest). It may give a node more than its share rounded up, or less
than its share rounded down: hence the third. Source: Balinski, Young: "Fair Representation" (1982).
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

from yaim.core.eligibility import Nodes, each_of


@dataclass(frozen=True, slots=True)
class Cost:
    """What a node's things cost: the next one at least as much as the last."""

    scale: int = 1
    steps: tuple[tuple[int, int], ...] = ()
    """From which load on the next thing costs how much more."""

    def of_next(self, load: int) -> int:
        """Returns what one more costs a node with this load."""
        cost = (2 * load + 1) * self.scale
        for start, more in self.steps:
            if load >= start:
                cost += more
        return cost


@dataclass(frozen=True, slots=True)
class Share:
    """What a node is to have, compared with others."""

    weight: int = 1
    capacity: int | None = None
    """The most that it can have; None: no limit."""


def costs_of(
    nodes: Sequence[Share], things: Sequence[Nodes], spared: Nodes = 0
) -> list[Cost] | None:
    """Returns the cost of each node; None: that is the square of its load.

    `things`: the nodes that each of them may be on. `spared`: nodes that are to have as little as
    possible.
    """
    count = len(things)
    limits = [
        None if each.capacity is None or each.capacity >= count else each.capacity for each in nodes
    ]
    weights = [each.weight for each in nodes]
    has_weights = len(set(weights)) > 1
    if not has_weights and not spared and limits.count(None) == len(limits):
        return None
    common = lcm(*weights) if has_weights else 1
    tier = count * count * common + 1
    to_spare, beyond = tier * (2 * count + 1), tier * (2 * count + 1) ** 2
    rounded = _rounded(weights, limits, things, common) if has_weights and not spared else {}
    costs = []
    for number, limit in enumerate(limits):
        steps = [(bound, tier) for bound in rounded.get(number, ())]
        if spared >> number & 1:
            steps.append((0, to_spare))
        if limit is not None:
            steps.append((limit, beyond))
        costs.append(Cost(common // weights[number] if has_weights else 1, tuple(steps)))
    return costs


def _rounded(
    weights: Sequence[int], limits: Sequence[int | None], things: Sequence[Nodes], common: int
) -> dict[int, tuple[int, int]]:
    """Returns the shares of the nodes, rounded down and up, if all things may be on the same ones
    but for those that may be on one only.

    The shares are in proportion to the weights, but no less than what may be nowhere else, and no
    more than what there is room for: then the others share the rest. All in units of 1 / `common`
    of a thing, so that all are whole numbers.
    """
    free = Counter(things)
    fixed = {nodes: free.pop(nodes) for nodes in list(free) if not nodes & (nodes - 1)}
    if len(free) != 1:
        return {}
    (sharing, count), *_ = free.items()
    nodes = list(each_of(sharing))
    least = {n: fixed.get(1 << n, 0) * common for n in nodes}
    total = count * common + sum(least.values())
    most = {n: total if (limit := limits[n]) is None else limit * common for n in nodes}
    most = {n: max(most[n], least[n]) for n in nodes}
    if total > sum(most.values()):
        return {}

    def filled(level: int) -> int:
        return sum(min(max(level * weights[n], least[n]), most[n]) for n in nodes)

    # The levels at which a node begins or ends to have more with a higher level.
    bends = sorted({bound[n] // weights[n] for bound in (least, most) for n in nodes})
    level = bends[bisect_right(bends, total, key=filled) - 1]
    rising = [n for n in nodes if least[n] <= level * weights[n] < most[n]]
    rest, together = total - filled(level), sum(weights[n] for n in rising)
    shares = {}
    for n in nodes:
        share, parts = min(max(level * weights[n], least[n]), most[n]), common
        if n in rising:
            share, parts = share * together + rest * weights[n], common * together
        shares[n] = share // parts, -(-share // parts)
    return shares
