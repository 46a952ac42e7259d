"""What helper/PROTOCOL.md says of requests, written anew and as plainly as can be.

Shares nothing with the code under test; slow, and meant to be read beside that page.
"""

import json
from ipaddress import IPv6Address
from typing import Any

_KEYS = {
    "hello": {"id", "version", "cluster", "node"},
    "add": {"id", "interface", "address", "prefix", "label", "deadline_ns"},
    "remove": {"id", "address", "connections"},
    "renew": {"id", "deadline_ns"},
    "list": {"id", "after"},
    "announce": {"id", "address"},
    "clear": {"id", "address"},
}
_MOST = {"id": 2**53, "version": 2**53, "prefix": 128, "deadline_ns": 2**63 - 1}
_LABEL = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")


class _No(Exception):
    """Not a request."""


def meaning(packet: bytes) -> dict[str, Any] | None:
    """The JSON object that a packet is, with what goes without saying, if that is a request; else
    None."""
    try:
        message = json.loads(packet.decode(), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError, _No):
        return None
    if len(packet) > 1024 or not isinstance(message, dict):
        return None
    op = message.get("op")
    if op == "remove":
        message.setdefault("connections", "leave")
    if not isinstance(op, str) or op not in _KEYS or message.keys() != _KEYS[op] | {"op"}:
        return None
    return message if all(_is_right(key, value) for key, value in message.items()) else None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _No
    return dict(pairs)


def _is_right(key: str, value: Any) -> bool:
    if key in _MOST:
        return type(value) is int and 0 <= value <= _MOST[key]
    if not isinstance(value, str):
        return False
    match key:
        case "address":
            return is_canonical(value)
        case "after":
            return value == "" or is_canonical(value)
        case "connections":
            return value in ("reset", "leave")
        case "label":
            return len(value) <= 13 and set(value) <= _LABEL
        case "interface":
            return (
                1 <= len(value) <= 15
                and value not in (".", "..")
                and not any(each in "/:%" or each.isspace() for each in value)
                and _is_text(value)
            )
        case "cluster":
            return 1 <= len(value) <= 255 and all(" " <= each <= "~" for each in value)
        case "node":
            return 1 <= len(value) <= 255 and _is_text(value)
    return key == "op"


def _is_text(value: str) -> bool:
    """Whether it has no control characters, and only what UTF-8 can say (no lone surrogates)."""
    return not any(
        ord(each) < 32 or ord(each) == 127 or 0xD800 <= ord(each) <= 0xDFFF for each in value
    )


def is_canonical(text: str) -> bool:
    """RFC 5952 for IPv6; and it is not IPv4 written as IPv6."""
    if ":" not in text:
        return _is_ipv4(text)
    try:
        number = int(IPv6Address(text))
    except ValueError:
        return False
    return number >> 32 != 0xFFFF and text == _rfc_5952(number)


def _is_ipv4(text: str) -> bool:
    parts = text.split(".")
    return len(parts) == 4 and all(each in {str(number) for number in range(256)} for each in parts)


def _rfc_5952(number: int) -> str:
    groups = [f"{number >> shift & 0xFFFF:x}" for shift in range(112, -1, -16)]
    for length in range(8, 1, -1):
        for start in range(9 - length):
            if groups[start : start + length] == ["0"] * length:
                return f"{':'.join(groups[:start])}::{':'.join(groups[start + length :])}"
    return ":".join(groups)
