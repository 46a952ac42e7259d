"""Why an address is where it is, and why not elsewhere: the rules of the placement
(yaim/core/placement.py), in their order, in words. Pure.

What decides is the placement itself; here it is only told which of its rules it was.
"""

from collections import Counter
from dataclasses import dataclass

from yaim.core.model import (
    Address,
    ClusterView,
    Node,
    NodeName,
    PoolEntry,
    is_in_force,
    present_on,
)
from yaim.core.placement import counted, counted_marks, place, version_of
from yaim.status.of_node import is_known, missing
from yaim.status.orders import FOLLOWS_CONTROL
from yaim.status.unheld import REMOVE, TAKES_NOTHING

_NO_ROOM = "the nodes that could hold it hold as many as their helpers allow (max-addresses)"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one node."""

    node: str
    is_holder: bool
    is_target: bool
    """The address is to be here."""
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    address: str
    holder: str | None
    target: str | None
    """The node that is to hold it; None: no node can."""
    reason: str
    """Why it is to be there, or nowhere."""
    nodes: tuple[Verdict, ...]


class Unknown(Exception):
    """There is no such address or node; the text says which."""


def explain(view: ClusterView, address: Address, only: NodeName | None = None) -> Explanation:
    """`only`: the node that is asked about; None: all. Raises Unknown."""
    entry = view.pool.get(address)
    if entry is None:
        raise Unknown(f"{address} is not in the pool (yaim pool list)")
    if only is not None and not is_known(only, view):
        raise Unknown(f"there is no node {only} (yaim node list)")
    asked = _Asked(view, entry)
    names = [only] if only is not None else sorted(view.nodes.keys() | missing(view).keys())
    return Explanation(
        str(address),
        asked.holder,
        asked.target,
        asked.why_there(),
        tuple(
            Verdict(name, name == asked.holder, name == asked.target, asked.why_not(name))
            for name in names
        ),
    )


class _Asked:
    """One address of a view, and what the placement makes of it."""

    def __init__(self, view: ClusterView, entry: PoolEntry) -> None:
        self._view, self._entry, self._control = view, entry, view.control
        address = entry.address
        self._placed = place(view.pool, counted(view), counted_marks(view), view.control)
        self.target: NodeName | None = self._placed.get(address)
        mark = view.marks.get(address)
        is_held = mark is not None and is_in_force(mark, view.nodes)
        self.holder = mark.holder if mark is not None and is_held else None
        self._loads = Counter(self._placed.values())
        self._is_steered = version_of(view.nodes) >= FOLLOWS_CONTROL
        able = {name for name, node in view.nodes.items() if not self._cannot(node)}
        steady = {name for name in able if not self._waits(view.nodes[name])}
        kept = {self.holder} & able if self.holder is not None else set[NodeName]()
        here = kept or {name for name in able if name not in self._control.drains} or able
        self._eligible = steady or here
        """Those among which orders, preference and the numbers decide."""

    def why_there(self) -> str:
        target = self.target
        if target is None:
            return self._why_nowhere()
        if not self._eligible:
            return "no node can hold it as its entry says: its holder keeps it as it is"
        waits = self._waits(self._view.nodes[target])
        if target not in self._eligible:
            return f"{_NO_ROOM}, though {target} {waits}" if waits else _NO_ROOM
        if waits:
            return f"no other node can hold it, though {target} {waits}"
        if len(self._eligible) == 1:
            return "no other node can take it now"
        rule, nodes = self._rule()
        if rule:
            return rule if target in nodes else f"{rule}, which has no room for it (max-addresses)"
        if target == self.holder:
            return f"its holder keeps it, as nothing would be more even otherwise: {self._shares()}"
        return f"that is most even, with the fewest moves: {self._shares()}"

    def why_not(self, name: NodeName) -> str:
        """Why the address is not to be on this node; on its target, why it is."""
        node = self._view.nodes.get(name)
        if name == self.target:
            there = self.why_there()
            return there if name == self.holder else f"is to hold it: {there}"
        if node is None:
            return "is not there"
        if why := self._cannot(node):
            return why
        if self.target is None:
            return self._full(node) or "could hold it"
        if name not in self._eligible:
            return f"{self._waits(node)}, and another node can hold it"
        rule, nodes = self._rule()
        if rule and name not in nodes:
            return rule
        return self._full(node) or f"to move it here would make nothing more even: {self._shares()}"

    def _why_nowhere(self) -> str:
        if self._eligible:
            return _NO_ROOM
        if there := present_on(self._entry.address, self._view.nodes):
            return "; ".join(f"on {name} already, {REMOVE.format(where)}" for name, where in there)
        return "no node can hold it"

    def _cannot(self, node: Node) -> str:
        """Why the node could not have the address, whatever the others do; empty if it could."""
        if why := node.why_not(self._entry):
            return why
        if node.name == self.holder:
            return ""
        if there := present_on(self._entry.address, self._view.nodes):
            return "; ".join(
                f"it is on {name} already, {REMOVE.format(where)}" for name, where in there
            )
        return "" if node.advertisement.takes else TAKES_NOTHING

    def _waits(self, node: Node) -> str:
        """Why others go before it; empty if they do not."""
        if node.name in self._control.drains and self._is_steered:
            order = self._control.drains[node.name]
            by = f" by {order.by}" if order.by else ""
            return f"is drained{by}" + (f" ({order.reason})" if order.reason else "")
        if node.advertisement.is_drained and self._is_steered:
            return ""  # it was, until a moment ago: only the control keys count
        return "is flapping" if node.is_waiting else ""

    def _rule(self) -> tuple[str, frozenset[NodeName]]:
        """The order or preference that decides among the nodes that could, and for which nodes, as
        long as they have room; empty: the numbers do."""
        if not self._is_steered:
            return "", frozenset()
        address, control = self._entry.address, self._control
        move, pin = control.moves.get(address), control.pins.get(address)
        if move is not None and move.node in self._eligible:
            return f"an operator has asked to move it to {move.node}", frozenset({move.node})
        if pin is not None and pin.node in self._eligible:
            return f"it is pinned to {pin.node}", frozenset({pin.node})
        holder = self.holder
        if control.pause is not None and holder is not None and holder in self._eligible:
            return "the cluster is paused: it stays where it is", frozenset({holder})
        if preferred := sorted(self._entry.prefer & self._eligible):
            return f"its entry prefers {' or '.join(preferred)}", frozenset(preferred)
        return "", frozenset()

    def _full(self, node: Node) -> str:
        capacity = node.advertisement.capacity
        if not self._is_steered or capacity is None or self._loads[node.name] < capacity:
            return ""
        return f"is to hold {capacity} addresses already, as many as its helper allows"

    def _shares(self) -> str:
        """How many each of the nodes is to hold, among which the numbers decide."""
        return ", ".join(
            f"{name} {self._loads[name]}{self._weight(name)}" for name in sorted(self._eligible)
        )

    def _weight(self, name: NodeName) -> str:
        weight = self._control.weights.get(name)
        return f" (weight {weight.weight})" if weight is not None and self._is_steered else ""


def in_words(found: Explanation) -> str:
    """The first line: where it is, where it is to be, and why."""
    held = f"{found.address} is held by {found.holder or 'nobody'}"
    if found.target is None:
        return f"{held}, and is to be on no node: {found.reason}"
    if found.target == found.holder:
        return f"{held}, and is to stay there: {found.reason}"
    return f"{held}, and is to go to {found.target}: {found.reason}"
