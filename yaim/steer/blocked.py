"""Why a node is not to be given an address: in words, for people. Pure."""

from collections import Counter
from collections.abc import Mapping

from yaim.core.model import Address, ClusterView, Node, NodeName, PoolEntry, present_on
from yaim.core.placement import Placement
from yaim.status.of_node import missing

_MOST_NAMES = 10
TAKES_NOTHING = "takes nothing until its checks have answered and its helper is there"


class Obstacles:
    """Asks the nodes of one view, with the placement that is made of it."""

    def __init__(self, view: ClusterView, target: Placement) -> None:
        self._view = view
        self._loads = Counter(target.values())

    def why_not(self, name: NodeName, address: Address) -> str | None:
        """Why this node is not to be given the address; None: nothing speaks against it."""
        node, entry = self._view.nodes.get(name), self._view.pool.get(address)
        if entry is None:
            return "the address is not in the pool"
        if node is None:
            return "not there"
        return self._why_not(node, entry)

    def _why_not(self, node: Node, entry: PoolEntry) -> str | None:
        if reason := node.why_not(entry):
            return reason
        for name, where in present_on(entry.address, self._view.nodes):
            return f"the address is on {name} already, not by yaim ({where})"
        told = node.advertisement
        if not told.takes:
            return TAKES_NOTHING
        if (order := self._view.control.drains.get(node.name)) is not None:
            return f"drained{f' by {order.by}' if order.by else ''}"
        if told.is_drained:
            return "drained until a moment ago"
        if node.is_waiting:
            return "waits, as it flaps"
        if told.capacity is not None and self._loads[node.name] >= told.capacity:
            return f"has no room: its helper holds {told.capacity} at most"
        return None

    def elsewhere(self, address: Address, besides: NodeName | None) -> str:
        """Why no other node is to be given the address: each reason with its nodes."""
        found: dict[str, list[NodeName]] = {}
        for name in sorted(self._view.nodes):
            if name != besides and (reason := self.why_not(name, address)):
                found.setdefault(reason, []).append(name)
        if names := [name for name in sorted(missing(self._view)) if name != besides]:
            found["not there"] = names
        if found:
            return "; ".join(f"{reason}: {_listed(names)}" for reason, names in found.items())
        return "there is no other node" if len(self._view.nodes) < 2 else "no other node takes it"


def counts(
    holders: Mapping[Address, NodeName], nodes: Mapping[NodeName, Node]
) -> Counter[NodeName]:
    """How many addresses each node has; nodes without any, too."""
    return Counter(dict.fromkeys(sorted(nodes), 0) | Counter(holders.values()))


def _listed(names: list[NodeName]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
