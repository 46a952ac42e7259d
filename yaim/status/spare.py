"""Whether the cluster can lose any one node, as far as it is a matter of numbers: helpers tell how
many addresses they hold at most (max-addresses). Pure.

Addresses that the same nodes can hold are looked at together, and all addresses together. That
finds no want where there is none, and most wants: not one that only some of several such groups
have in common.
"""

from collections import Counter
from dataclasses import dataclass

from yaim.core.eligibility import Eligibility, Nodes, each_of, joined
from yaim.core.model import ClusterView, NodeName


@dataclass(frozen=True, slots=True)
class Want:
    """Without that node the others hold fewer addresses than there are."""

    lost: NodeName
    addresses: int
    """How many there are that one of the others can hold."""
    places: int
    """How many the others hold at most."""


def want(view: ClusterView) -> Want | None:
    """The node whose loss would leave most addresses to nobody; None: the others could hold all,
    whichever is lost. Of a single node nothing is told: it has no others."""
    nodes = [node for _, node in sorted(view.nodes.items())]
    able = [node for node in nodes if node.advertisement.is_healthy]
    if len(able) < 2 or all(node.advertisement.capacity is None for node in able):
        return None
    eligibility = Eligibility(able)
    kinds = Counter(eligibility.able(entry) for entry in view.pool.values())
    kinds.pop(0, None)
    capacities = [node.advertisement.capacity for node in able]

    def places(among: Nodes) -> int | None:
        """None: as many as there are."""
        total = 0
        for number in each_of(among):
            capacity = capacities[number]
            if capacity is None:
                return None
            total += capacity
        return total

    worst: Want | None = None
    for number, node in enumerate(able):
        left = Counter[Nodes]()
        for among, count in kinds.items():
            if others := among & ~(1 << number):
                left[others] += count
        if not left:
            continue
        for among, count in [*left.items(), (joined(left), left.total())]:
            room = places(among)
            short = 0 if room is None else count - room
            if short > 0 and (worst is None or short > worst.addresses - worst.places):
                worst = Want(node.name, count, count - short)
    return worst
