"""The events of the history, as values: what nodes have done, and what operators have asked for.

Reads bytes into values, and writes them. Knows no store, like records.py. Does no I/O.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from yaim.core.model import (
    Address,
    NodeName,
    Revision,
    address_order,
    frozen_mapping,
)
from yaim.dcs.operate import HistoryEvent
from yaim.dcs.orders import (
    MOST_BY,
    MOST_REASON,
    TIME,
    VERSION,
    read_node_name,
    written_time,
)
from yaim.dcs.records import NotUnderstood, read_address
from yaim.text import printable

MOST_ADDRESSES, MOST_NODES = 200, 400
"""Of how many addresses one event tells: then 2000 of them have room in one read (MAX_BYTES of
yaim/dcs/etcd/keys.py). What tells of more becomes several. And of how many nodes."""
_MOST_BYTES, _MOST_KIND = 128 * 1024, 40
_NOBODY = ""
"""In place of a node's name: the addresses that come from none and go to none."""


def parts_of(event: HistoryEvent) -> Iterator[HistoryEvent]:
    """The event in as many as it takes for its addresses."""
    addresses = sorted(event.addresses, key=address_order)
    for start in range(0, max(len(addresses), 1), MOST_ADDRESSES):
        yield replace(event, addresses=tuple(addresses[start : start + MOST_ADDRESSES]))


def write_event(event: HistoryEvent) -> bytes:
    """The value of an event that is a part (parts_of). Its revision is not in it."""
    by_node: dict[str, list[str]] = {}
    for address in event.addresses:
        by_node.setdefault(event.by_node.get(address, _NOBODY), []).append(str(address))
    told = {
        "version": VERSION,
        "at": written_time(event.at),
        "kind": event.kind[:_MOST_KIND],
        "nodes": event.nodes[:MOST_NODES],
        "addresses": by_node,
        "reason": printable(event.reason, MOST_REASON),
        "by": printable(event.by, MOST_BY),
    }
    return json.dumps(told).encode()


def read_event(value: bytes, revision: Revision) -> HistoryEvent:
    """Raises NotUnderstood."""
    if len(value) > _MOST_BYTES:
        raise NotUnderstood(f"its value has {len(value)} bytes, more than {_MOST_BYTES}")
    try:
        read = json.loads(value)
        if read["version"] != VERSION or not TIME.fullmatch(read["at"]):
            raise NotUnderstood("its version or its time is none that this yaim knows")
        by_node = _read_addresses(read["addresses"])
        return HistoryEvent(
            at=datetime.strptime(read["at"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC),
            kind=printable(str(read["kind"]), _MOST_KIND),
            nodes=tuple(map(read_node_name, read["nodes"][:MOST_NODES])),
            addresses=tuple(sorted(by_node, key=address_order)),
            by_node=frozen_mapping(
                {address: node for address, node in by_node.items() if node is not None}
            ),
            reason=printable(str(read["reason"]), MOST_REASON),
            by=printable(str(read["by"]), MOST_BY),
            revision=revision,
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise NotUnderstood(f"it is no event: {printable(str(error))}") from None


def _read_addresses(read: Mapping[str, list[str]]) -> dict[Address, NodeName | None]:
    return {
        read_address(text): None if name == _NOBODY else read_node_name(name)
        for name, addresses in read.items()
        for text in addresses
    }
