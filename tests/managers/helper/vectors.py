"""The test vectors of the protocol (helper/vectors.json), and the actions that they are about."""

import json
from ipaddress import ip_address
from pathlib import Path

from yaim.core.actions import (
    AddAddress,
    ClearConnections,
    HelperAction,
    RemoveAddress,
    RenewAddresses,
)
from yaim.core.model import Boottime

VECTORS = json.loads((Path(__file__).parents[3] / "helper" / "vectors.json").read_text())
REQUESTS = {each["name"]: each["packet"].encode() for each in VECTORS["requests"]}
V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
DEADLINE = Boottime(1234.567890123)
ADD, REMOVE = AddAddress(11, V4, "eth0", 32, DEADLINE), RemoveAddress(13, V4)
ADD_V6, RENEW = AddAddress(12, V6, "eth0", 128, DEADLINE), RenewAddresses(DEADLINE)
RESET, CLEAR = RemoveAddress(14, V4, resets=True), ClearConnections(V4)
ACTIONS: dict[str, HelperAction] = {
    "add, IPv4": ADD,
    "add, IPv6, no label": ADD_V6,
    "remove": REMOVE,
    "remove, with a reset": RESET,
    "clear": CLEAR,
    "renew": RENEW,
}
MALFORMED: tuple[tuple[HelperAction, bytes], ...] = (
    (REMOVE, b""),
    (REMOVE, b"removed"),
    (REMOVE, b'{"id": 3, "reason": "\xff", "result": "failed"}'),
    (REMOVE, b'["ok"]'),
    (REMOVE, b'{"id": 3, "result": "ok", "was": "absent"} {}'),
    (REMOVE, b'{"id": 3}'),
    (REMOVE, b'{"id": 99, "result": "ok", "was": "absent"}'),
    (REMOVE, b"[" * 60000),
    (ADD, b'{"id": 3, "result": "done"}'),
    (ADD, b'{"id": 3, "result": "refused", "reason": "no code"}'),
    (ADD, b'{"id": 3, "result": "refused", "code": "limit"}'),
    (ADD, b'{"id": 3, "result": "failed", "errno": 1}'),
    (RENEW, b"{}"),
    (RENEW, b'{"id": 3, "result": "done"}'),
    (RENEW, b'{"id": 3, "result": "refused"}'),
    (RENEW, b'{"id": 3, "result": "ok"}'),
    (RENEW, b'{"id": 3, "result": "ok", "missing": 1}'),
    (RENEW, b'{"id": 3, "result": "ok", "missing": ["192.0.2"]}'),
)
"""Replies to requests with the id 3 that are none of the protocol, and the actions asked for."""
