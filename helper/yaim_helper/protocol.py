"""The messages of helper/PROTOCOL.md: bytes to requests, replies to bytes.

Trusts nothing that it reads. Does nothing and decides nothing.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Literal, NoReturn, TypeAlias, assert_never

Address: TypeAlias = IPv4Address | IPv6Address

VERSION = 1
MAX_REQUEST_BYTES = 1024
MAX_LISTED = 256
"""The most addresses in one reply."""

_MAX_ID = 2**53
INTERFACE = re.compile(r"(?!\.{1,2}$)[^\s/:%\x00-\x1f\x7f\ud800-\udfff]{1,15}")
_LABEL = re.compile(r"[A-Za-z0-9_.-]{0,13}")
_CLUSTER = re.compile(r"[ -~]{1,255}")
"""ASCII: it is in every record, and takes no more room there."""
_NODE = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,255}")


class Malformed(ValueError):
    """What has come is not a request of the protocol; the text says why."""


@dataclass(frozen=True, slots=True)
class Hello:
    id: int
    version: int
    cluster: str
    node: str


@dataclass(frozen=True, slots=True)
class Add:
    id: int
    interface: str
    address: Address
    prefix: int
    label: str
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class Remove:
    id: int
    address: Address
    connections: Literal["reset", "leave"] = "leave"
    """Whether the peers of its TCP connections are to get a reset before it goes."""

    @property
    def resets(self) -> bool:
        return self.connections == "reset"


@dataclass(frozen=True, slots=True)
class Renew:
    id: int
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class List:
    id: int
    after: Address | None


@dataclass(frozen=True, slots=True)
class Announce:
    id: int
    address: Address


@dataclass(frozen=True, slots=True)
class Clear:
    """Ends the TCP sockets of an address that has gone, without a packet."""

    id: int
    address: Address


Request: TypeAlias = Hello | Add | Remove | Renew | List | Announce | Clear


@dataclass(frozen=True, slots=True)
class Ok:
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    errno: int | None
    reason: str


Reply: TypeAlias = Ok | Refused | Failed


def read_request(packet: bytes) -> Request:
    """Returns the request that a packet is. Raises Malformed."""
    if len(packet) > MAX_REQUEST_BYTES:
        raise Malformed(f"longer than {MAX_REQUEST_BYTES} bytes")
    try:
        message = json.loads(
            packet.decode(),
            object_pairs_hook=_object,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
    except UnicodeDecodeError:
        raise Malformed("not UTF-8") from None
    except RecursionError:
        raise Malformed("nested too deeply") from None
    except Malformed:
        raise
    except ValueError:
        raise Malformed("not JSON") from None
    if not isinstance(message, dict):
        raise Malformed("not a JSON object")
    op = message.pop("op", None)
    if not isinstance(op, str) or op not in _READERS:
        raise Malformed("no known op")
    keys, make = _READERS[op]
    needed = keys.keys() - _MAY_BE_LEFT_OUT.get(op, set())
    if not needed <= message.keys() <= keys.keys():
        raise Malformed(f"{op} has the keys op, {', '.join(keys)} and no others")
    return make(**{key: keys[key](value, key) for key, value in message.items()})


def write_reply(request_id: int, reply: Reply) -> bytes:
    match reply:
        case Ok(fields):
            message = {"id": request_id, "result": "ok", **fields}
        case Refused(code, reason):
            message = {"id": request_id, "result": "refused", "code": code, "reason": reason}
        case Failed(errno, reason):
            message = {"id": request_id, "result": "failed", "errno": errno, "reason": reason}
        case _:
            assert_never(reply)
    return json.dumps(message, sort_keys=True).encode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a key occurs twice")
    return found


def _no_float(text: str) -> NoReturn:
    raise Malformed(f"{text[:20]} is not an integer")


def _int(value: Any, key: str, most: int) -> int:
    # type(), because True is an int too.
    if type(value) is not int or not 0 <= value <= most:
        raise Malformed(f"{key} is not an integer from 0 to {most}")
    return value


def _text(value: Any, key: str, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise Malformed(f"{key} is not of the form {pattern.pattern}")
    return value


def _address(value: Any, key: str) -> Address:
    if not isinstance(value, str):
        raise Malformed(f"{key} is not text")
    try:
        address = ip_address(value)
    except ValueError:
        raise Malformed(f"{key} is not an address") from None
    if isinstance(address, IPv6Address) and (
        address.scope_id is not None or address.ipv4_mapped is not None
    ):
        raise Malformed(f"{key} has a scope or is IPv4 written as IPv6")
    if str(address) != value:
        raise Malformed(f"{key} is not in canonical form")
    return address


def _address_or_empty(value: Any, key: str) -> Address | None:
    return None if value == "" else _address(value, key)


def _id(value: Any, key: str) -> int:
    return _int(value, key, _MAX_ID)


def _nanoseconds(value: Any, key: str) -> int:
    return _int(value, key, 2**63 - 1)


def _prefix(value: Any, key: str) -> int:
    return _int(value, key, 128)


def _interface(value: Any, key: str) -> str:
    return _text(value, key, INTERFACE)


def _label(value: Any, key: str) -> str:
    return _text(value, key, _LABEL)


def _cluster(value: Any, key: str) -> str:
    return _text(value, key, _CLUSTER)


def _node(value: Any, key: str) -> str:
    return _text(value, key, _NODE)


def _connections(value: Any, key: str) -> str:
    if value not in ("reset", "leave"):
        raise Malformed(f"{key} is neither reset nor leave")
    return str(value)


_READERS: dict[str, tuple[dict[str, Callable[[Any, str], Any]], Callable[..., Request]]] = {
    "hello": ({"id": _id, "version": _id, "cluster": _cluster, "node": _node}, Hello),
    "add": (
        {
            "id": _id,
            "interface": _interface,
            "address": _address,
            "prefix": _prefix,
            "label": _label,
            "deadline_ns": _nanoseconds,
        },
        Add,
    ),
    "remove": ({"id": _id, "address": _address, "connections": _connections}, Remove),
    "renew": ({"id": _id, "deadline_ns": _nanoseconds}, Renew),
    "list": ({"id": _id, "after": _address_or_empty}, List),
    "announce": ({"id": _id, "address": _address}, Announce),
    "clear": ({"id": _id, "address": _address}, Clear),
}
"""The requests: for each op its keys, how each key is read, and what the request becomes."""
_MAY_BE_LEFT_OUT: dict[str, set[str]] = {"remove": {"connections"}}
