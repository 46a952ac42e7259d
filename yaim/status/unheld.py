"""Why nobody holds an address: for people, in the words of the nodes where they tell it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from yaim.core.eligibility import Eligibility, each_of, joined
from yaim.core.model import ClusterView, Mark, Node, NodeName, PoolEntry, presence

REMOVE = "not by yaim ({}): remove it there"
TAKES_NOTHING = (
    "takes nothing until its checks have answered, its helper is there, and its kernel has told"
    " which addresses the host has"
)
_FULL = "holds as many as its helper allows (max-addresses in helper.yml)"
_MOST_NAMES = 10
_MOST_KINDS, _MOST_REASONS = 400, 10
"""How many kinds of nodes that cannot hold an address are asked why, and how many reasons are
shown."""


class Unheld:
    """Asks the nodes of one view."""

    def __init__(
        self,
        cluster: str,
        view: ClusterView,
        counts: Mapping[NodeName, int],
        *,
        is_store_full: bool,
    ) -> None:
        """`cluster` is the prefix of the cluster's keys. `counts`: how many each node holds."""
        self._cluster = cluster
        self._view = view
        self._is_store_full = is_store_full
        self._present = presence(view.nodes)
        self._nodes = _Nodes(view.nodes.values(), counts)

    def why(self, entry: PoolEntry) -> str:
        """The reason, such as `unhealthy: db1, db2; excluded: db3`."""
        if present := self._present.get(entry.address):
            return "; ".join(
                f"on {name} already, {REMOVE.format(where)}" for name, where in present
            )
        if entry.fault:
            return f"its entry is wrong: {entry.fault}"
        if entry.address in self._view.stray_marks:
            return "its mark counts as none: see the stray key"
        if (mark := self._view.marks.get(entry.address)) is not None:
            return self._why_not_in_force(mark)
        if (name := self._nodes.ready(entry)) is not None:
            full = "; etcd is full, and may not let it" if self._is_store_full else ""
            return f"{name} may hold it and has not taken it yet{full}"
        names = self._nodes.reasons(entry)
        if not names:
            return "there is no node" + (
                "; etcd is full: none can join" if self._is_store_full else ""
            )
        return "; ".join(f"{reason}: {_listed(each)}" for reason, each in names.items())

    def _why_not_in_force(self, mark: Mark) -> str:
        """Marks of a node that has lost its lease stand for up to a ttl."""
        node = self._view.nodes.get(mark.holder)
        lease = f"is advertised under {node.lease:x}" if node is not None else "is not advertised"
        return (
            f"marked by {mark.holder} under lease {mark.lease:x}, and {mark.holder} {lease}: should"
            f" that not pass within the ttl, delete {self._cluster}ips/{mark.address}/marked when"
            " no node has the address"
        )


class _Nodes:
    """The nodes in order; those that wait are last. Nodes that say the same of themselves are asked
    once."""

    def __init__(self, nodes: Iterable[Node], counts: Mapping[NodeName, int]) -> None:
        self.nodes = sorted(nodes, key=lambda node: (node.is_waiting, node.name))
        self._eligibility = Eligibility(self.nodes)
        told = [node.advertisement for node in self.nodes]
        self._is_full = tuple(
            each.capacity is not None and counts.get(node.name, 0) >= each.capacity
            for node, each in zip(self.nodes, told, strict=True)
        )
        self._taking = joined(
            1 << number
            for number, each in enumerate(told)
            if each.takes and not self._is_full[number]
        )
        alike: dict[object, list[int]] = {}
        for number, each in enumerate(told):
            key = each.is_healthy and (
                each.interface,
                tuple(each.networks.items()),
                each.refused,
                each.down,
                each.missing,
                each.schema,
                each.takes,
                self._is_full[number],
            )
            alike.setdefault(key, []).append(number)
        self._alike = tuple(alike.values())

    def ready(self, entry: PoolEntry) -> NodeName | None:
        """The first node that may take the address."""
        able = self._eligibility.able(entry) & self._taking
        return self.nodes[next(each_of(able))].name if able else None

    def reasons(self, entry: PoolEntry) -> dict[str, list[NodeName]]:
        """Why no node may take the address: each reason with its nodes."""
        found: dict[str, list[int]] = {}
        for_all = replace(entry, exclude=frozenset())
        for numbers in self._alike[:_MOST_KINDS]:
            node, others = self.nodes[numbers[0]], numbers
            if entry.exclude and node.advertisement.is_healthy:
                excluded = {n for n in numbers if self.nodes[n].name in entry.exclude}
                others = [n for n in numbers if n not in excluded]
                if excluded:
                    found.setdefault("excluded", []).extend(excluded)
            if others:
                takes = node.advertisement.takes
                why = node.why_not(for_all) or (_FULL if takes else TAKES_NOTHING)
                found.setdefault(why, []).extend(others)
        in_order = sorted((sorted(numbers), reason) for reason, numbers in found.items())
        told = {reason: numbers for numbers, reason in in_order[:_MOST_REASONS]}
        further = [n for numbers, _ in in_order[_MOST_REASONS:] for n in numbers]
        further += [n for numbers in self._alike[_MOST_KINDS:] for n in numbers]
        if further:
            told["for other reasons"] = sorted(further)
        return {reason: [self.nodes[n].name for n in each] for reason, each in told.items()}


def _listed(names: list[NodeName]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
