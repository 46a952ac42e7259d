"""What operators have asked for, and what is kept of each node (core.model.Control), as values.

Reads bytes into values of the core, and writes them. Knows no store, like records.py. Does no I/O.

A drain and a pause are there if their keys are, whatever the values say: somebody has wanted them.
What needs a value to mean anything, and has one that cannot be understood, raises NotUnderstood,
and counts for nothing. Of what is for people only, that which is of another form is left out.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from yaim.core.model import Member, Move, NodeName, Order, Pin, Revision, Weight
from yaim.dcs.records import NotUnderstood
from yaim.text import printable

VERSION = 1
"""Of all these values. One of a later version is not understood."""
MOST_WEIGHT = 100
MOST_BY, MOST_REASON = 100, 300
"""How many characters of these are written, and read."""
_MOST_BYTES = 16 * 1024
"""The longest value that is read."""
_NODE_NAME = re.compile(r"[^\s/\ud800-\udfff]{1,200}")
"""The names that `nodename` in yaim.yml permits. 200 characters, so that names stay within a line.
A surrogate stands for a byte that is not UTF-8 (PEP 383)."""
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
"""As written_time() writes it."""


# --- what operators have asked for ---------------------------------------------------------------


def write_order(order: Order) -> bytes:
    """The value of a drain or a pause. Its revision is not in it: that is the store's."""
    return _written(_to_write(order))


def write_pin(pin: Pin | Move) -> bytes:
    """The value of a pin or a move."""
    return _written({**_to_write(pin.order), "node": pin.node})


def write_weight(weight: Weight) -> bytes:
    return _written({**_to_write(weight.order), "weight": weight.weight})


def read_order(value: bytes, revision: Revision) -> Order:
    """The drain or pause, with as much as its value tells."""
    try:
        return _order_of(_read(value), revision)
    except NotUnderstood:
        return Order(revision=revision)


def read_pin(value: bytes, revision: Revision) -> Pin:
    read = _read(value)
    return Pin(_node_of(read), _order_of(read, revision))


def read_move(value: bytes, revision: Revision) -> Move:
    read = _read(value)
    return Move(_node_of(read), _order_of(read, revision))


def read_weight(value: bytes, revision: Revision) -> Weight:
    read = _read(value)
    weight = read.get("weight")
    # type(), because True is an int too.
    if not (type(weight) is int and 1 <= weight <= MOST_WEIGHT):
        raise NotUnderstood(f"its weight is {_quoted(weight)}, expected 1 to {MOST_WEIGHT}")
    return Weight(weight, _order_of(read, revision))


def _to_write(order: Order) -> dict[str, object]:
    return {
        "version": VERSION,
        "by": printable(order.by, MOST_BY),
        "reason": printable(order.reason, MOST_REASON),
        "at": order.at,
        "until": order.until,
    }


def _order_of(read: Mapping[str, object], revision: Revision) -> Order:
    return Order(
        by=_text(read, "by", MOST_BY),
        reason=_text(read, "reason", MOST_REASON),
        at=_time(read, "at"),
        until=_time(read, "until"),
        revision=revision,
    )


def _node_of(read: Mapping[str, object]) -> NodeName:
    node = read.get("node")
    if not isinstance(node, str):
        raise NotUnderstood(f"its node is {_quoted(node)}, expected a name")
    return read_node_name(node)


# --- nodes that have been there ------------------------------------------------------------------


def write_member(member: Member) -> bytes:
    return _written(
        {
            "version": VERSION,
            "first_seen": member.first_seen,
            "stopped": member.is_stopped,
            "at": member.at,
            "yaim": member.version,
        }
    )


def read_member(value: bytes, revision: Revision) -> Member:
    """The revision does not matter: nobody compares it."""
    del revision
    read = _read(value)
    stopped = read.get("stopped")
    if not isinstance(stopped, bool):
        raise NotUnderstood(f"its stopped is {_quoted(stopped)}, expected true or false")
    return Member(
        first_seen=_time(read, "first_seen"),
        is_stopped=stopped,
        at=_time(read, "at"),
        version=_text(read, "yaim", MOST_BY),
    )


# --- what they have in common --------------------------------------------------------------------


def read_node_name(text: str) -> NodeName:
    if not _NODE_NAME.fullmatch(text):
        raise NotUnderstood(f"{_quoted(text)} is no name that a node can have")
    return NodeName(text)


def is_node_name(text: str) -> bool:
    return _NODE_NAME.fullmatch(text) is not None


def written_time(at: datetime) -> str:
    """RFC 3339, in UTC and with seconds: `2026-12-01T09:30:00Z`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _written(values: Mapping[str, object]) -> bytes:
    return json.dumps(values).encode()


def _read(value: bytes) -> Mapping[str, object]:
    if len(value) > _MOST_BYTES:
        raise NotUnderstood(f"its value has {len(value)} bytes, more than {_MOST_BYTES}")
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        raise NotUnderstood("its value is no JSON object") from None
    if not isinstance(read, dict):
        raise NotUnderstood("its value is no JSON object")
    version = read.get("version")
    if type(version) is not int or version != VERSION:
        raise NotUnderstood(f"its version is {_quoted(version)}, this yaim knows {VERSION}")
    return read


def _text(read: Mapping[str, object], key: str, most: int) -> str:
    text = read.get(key, "")
    return printable(text, most) if isinstance(text, str) else ""


def _time(read: Mapping[str, object], key: str) -> str:
    text = read.get(key, "")
    return text if isinstance(text, str) and TIME.fullmatch(text) else ""


def _quoted(what: object) -> str:
    text = repr(what)
    return text if len(text) <= 60 else f"{text[:60]}..."
