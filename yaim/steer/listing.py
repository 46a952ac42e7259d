"""`yaim pool list` and `yaim node list`: what is there, as rows. Pure."""

from dataclasses import dataclass

from yaim.core.model import Address, ClusterView, NodeName, PoolEntry, address_order
from yaim.steer.applied import holders_of
from yaim.steer.blocked import counts
from yaim.steer.requests import known_nodes
from yaim.text import columns, parsable


@dataclass(frozen=True, slots=True)
class PoolRow:
    address: Address
    holder: NodeName | None
    entry: PoolEntry
    pinned: NodeName | None


@dataclass(frozen=True, slots=True)
class NodeRow:
    name: NodeName
    state: str
    """`healthy`, `unhealthy`; `stopped` or `missing` for one that is not there."""
    is_drained: bool
    is_waiting: bool
    addresses: int
    weight: int
    since: str
    """When it joined, or was stopped. Empty: not known; of one that is missing, `yaim status` tells
    it, as far as the history does."""
    version: str


def pool_rows(view: ClusterView) -> tuple[PoolRow, ...]:
    holders, pins = holders_of(view), view.control.pins
    return tuple(
        PoolRow(a, holders.get(a), view.pool[a], pins[a].node if a in pins else None)
        for a in sorted(view.pool, key=address_order)
    )


def node_rows(view: ClusterView) -> tuple[NodeRow, ...]:
    has, control = counts(holders_of(view), view.nodes), view.control
    names = sorted({*known_nodes(view), *control.drains, *control.weights})
    return tuple(_node_row(view, name, has[name]) for name in names)


def _node_row(view: ClusterView, name: NodeName, count: int) -> NodeRow:
    node, member = view.nodes.get(name), view.control.members.get(name)
    if node is not None:
        state = "healthy" if node.advertisement.is_healthy else "unhealthy"
    elif member is None:
        state = "never seen"
    else:
        state = "stopped" if member.is_stopped else "missing"
    is_drained = name in view.control.drains
    weight = view.control.weights.get(name)
    version = node.advertisement.version if node is not None else ""
    return NodeRow(
        name,
        state,
        is_drained,
        node is not None and node.is_waiting and not node.advertisement.is_drained,
        count,
        weight.weight if weight is not None else 1,
        member.at if member is not None and state != "missing" else "",
        version or (member.version if member is not None else ""),
    )


def pool_lines(view: ClusterView) -> list[str]:
    rows = [
        (str(row.address), row.holder or "- nobody -", row.pinned or "", _options(row.entry))
        for row in pool_rows(view)
    ]
    lines = columns(("ADDRESS", "HOLDER", "PINNED TO", "OPTIONS"), rows)
    if view.wrong:
        wrong = [(each.name, each.reason) for each in view.wrong]
        lines += ["", *columns(("WRONG POOL ENTRY", "REASON"), wrong)]
    return lines


def _options(entry: PoolEntry) -> str:
    if entry.fault:
        return f"wrong: {entry.fault}"
    words = [f"interface {entry.interface}"] if entry.interface else []
    words += [f"prefix {entry.prefix_length}"] if entry.prefix_length else []
    words += [f"prefer {', '.join(sorted(entry.prefer))}"] if entry.prefer else []
    words += [f"exclude {', '.join(sorted(entry.exclude))}"] if entry.exclude else []
    return "; ".join(words)


def node_lines(view: ClusterView) -> list[str]:
    rows = [
        (
            row.name,
            row.state + ", drained" * row.is_drained + ", waits (flapping)" * row.is_waiting,
            str(row.addresses),
            str(row.weight),
            row.since or "-",
            row.version or "-",
        )
        for row in node_rows(view)
    ]
    return columns(("NODE", "STATE", "ADDRESSES", "WEIGHT", "SINCE", "VERSION"), rows)


def pool_as_json(view: ClusterView) -> dict[str, object]:
    return {
        "addresses": [
            {
                "address": str(row.address),
                "holder": _text(row.holder),
                "pinned_to": _text(row.pinned),
                "interface": _text(row.entry.interface),
                "prefix": row.entry.prefix_length,
                "prefer": [parsable(each) for each in sorted(row.entry.prefer)],
                "exclude": [parsable(each) for each in sorted(row.entry.exclude)],
                "fault": _text(row.entry.fault or None),
            }
            for row in pool_rows(view)
        ],
        "wrong": [
            {"entry": parsable(each.name), "reason": parsable(each.reason)} for each in view.wrong
        ],
    }


def nodes_as_json(view: ClusterView) -> list[dict[str, object]]:
    return [
        {
            "name": parsable(row.name),
            "state": row.state.replace(" ", "-"),
            "drained": row.is_drained,
            "waits": row.is_waiting,
            "address_count": row.addresses,
            "weight": row.weight,
            "since": row.since or None,
            "version": _text(row.version or None),
        }
        for row in node_rows(view)
    ]


def _text(text: str | None) -> str | None:
    return None if text is None else parsable(text)
