"""`yaim history`: events chosen, as lines and as JSON. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime

from yaim.core.model import Address, NodeName, address_order
from yaim.dcs.operate import HistoryEvent
from yaim.text import parsable, shortened

_MOST_NAMED = 8
_MOST_REASON = 300


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which events are wanted; empty: all of them."""

    nodes: frozenset[NodeName] = frozenset()
    addresses: frozenset[Address] = frozenset()
    kinds: frozenset[str] = frozenset()

    def has(self, event: HistoryEvent) -> bool:
        named = {*event.nodes, *event.by_node.values()}
        return (
            (not self.nodes or not self.nodes.isdisjoint(named))
            and (not self.addresses or not self.addresses.isdisjoint(event.addresses))
            and (not self.kinds or event.kind in self.kinds)
        )


def moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def event_line(event: HistoryEvent) -> str:
    """`2026-12-01T03:00:00Z  n2  held  192.0.2.11 (from n1), 192.0.2.12: handed over by n1`"""
    addresses = sorted(event.addresses, key=address_order)
    words = [_address(event, each) for each in addresses[:_MOST_NAMED]]
    words += [f"{len(addresses) - _MOST_NAMED} more"] if len(addresses) > _MOST_NAMED else []
    text = f"{moment(event.at)}  {', '.join(event.nodes) or '-':10}  {event.kind:11}"
    text += f"  {', '.join(words)}" if words else ""
    text += f"{':' if words else ' '} {event.reason}" if event.reason else ""
    text += f"{'' if words or event.reason else ' '} (by {event.by})" if event.by else ""
    return shortened(text.rstrip(), 2000)


def _address(event: HistoryEvent, address: Address) -> str:
    other = event.by_node.get(address)
    if other is None:
        return str(address)
    return f"{address} ({'to' if event.kind in _GIVEN else 'from'} {other})"


_GIVEN = frozenset({"released", "move", "pin"})
"""Kinds of events whose other node is the one that an address goes to."""


def event_as_json(event: HistoryEvent) -> dict[str, object]:
    return {
        "time": moment(event.at),
        "revision": event.revision,
        "kind": parsable(event.kind),
        "nodes": [parsable(each) for each in event.nodes],
        "addresses": [
            {"address": str(each), "other": _text(event.by_node.get(each))}
            for each in sorted(event.addresses, key=address_order)
        ],
        "reason": parsable(event.reason[:_MOST_REASON]),
        "by": _text(event.by or None),
    }


def _text(text: str | None) -> str | None:
    return None if text is None else parsable(text)
