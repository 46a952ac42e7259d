"""A record in one line that people can read, and which records somebody asked for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, TypeAlias

from yaim_helper.tools.records import Micros, Record, earlier_marker, instant, micros, printable

Network: TypeAlias = IPv4Network | IPv6Network

_AGO = re.compile(r"-?(\d{1,9}(?:\.\d{1,6})?)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_COMMON = frozenset(
    {"v", "seq", "time", "boottime_ns", "boot_id", "host", "type", "policy", "prev", "hash"}
)
_TOLD = frozenset(
    {"peer", "cluster", "uid", "op", "id", "address", "interface", "prefix", "earlier"}
    | {"outcome", "reason", "deadline_ns", "owners", "counts", "fence"}
)
"""What has a place of its own in the line."""
_OF_FENCE = {True: " (fenced)", False: " (not fenced)", None: ""}


def read_network(text: str) -> Network:
    """Returns a network; an address is one of a single address. Raises ValueError."""
    return ip_network(text)


def read_time(text: str, now: datetime) -> Micros:
    """Returns the instant of a text: ISO 8601, UTC unless it says otherwise, or as long ago as
    30s, 15m, 1.5h, 2d, 1w, also with a minus. Raises ValueError."""
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return micros(now - timedelta(**{_UNITS[ago[2]]: float(ago[1])}))
        at = datetime.fromisoformat(text)
        return micros(at if at.tzinfo is not None else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is neither a time like 2026-01-31T12:00:00Z nor a time ago like 1h"
        ) from None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records somebody asked for. What is not given lets all pass."""

    networks: tuple[Network, ...] = ()
    since: Micros | None = None
    until: Micros | None = None
    outcomes: frozenset[str] = field(default_factory=frozenset)
    types: frozenset[str] = field(default_factory=frozenset)
    clusters: frozenset[str] = field(default_factory=frozenset)

    def passes(self, record: Record) -> bool:
        return (
            (self.since is None or record.at >= self.since)
            and (self.until is None or record.at < self.until)
            and (not self.outcomes or record.fields.get("outcome") in self.outcomes)
            and (not self.types or record.type in self.types)
            and (not self.clusters or not self.clusters.isdisjoint(_clusters(record)))
            and (not self.networks or any(is_within(each, self.networks) for each in _of(record)))
        )


def is_within(address: str, networks: tuple[Network, ...]) -> bool:
    found = ip_address(address)
    return any(found in network for network in networks)


def _of(record: Record) -> list[str]:
    """Returns the addresses that a record speaks of."""
    if record.type == "held":
        return [each[0] for each in record.fields["addresses"]]
    address = record.fields.get("address")
    try:
        return [str(ip_address(address))] if isinstance(address, str) else []
    except ValueError:
        return []


def _clusters(record: Record) -> set[object]:
    match record.type:
        case "held":
            return {each[4] for each in record.fields["addresses"]}
        case "renewals":
            return {each["cluster"] for each in record.fields["owners"]}
    cluster = record.fields.get("cluster")
    return {cluster} if isinstance(cluster, str) else set()


def shown(record: Record) -> str:
    """Returns a line: time, host and number; who; what; what came of it, and why."""
    fields = record.fields
    words = [
        f"{instant(record.at)}  {record.host}  {record.seq:>7}  {record.type:<9}",
        _who(fields),
        _what(record),
        _came_of_it(record),
        *(f"{key}={fields[key]}" for key in _further(record)),
    ]
    return printable("  ".join(word for word in words if word))


def _who(fields: Mapping[str, Any]) -> str:
    peer = fields.get("peer")
    uid = peer.get("uid") if isinstance(peer, dict) else fields.get("uid")
    names = []
    if fields.get("cluster") is not None:
        names.append(f"cluster {fields['cluster']}")
    if uid is not None:
        names.append(f"uid {uid}")
    if isinstance(peer, dict):
        names.append(f"pid {peer.get('pid')}")
    return " ".join(names)


def _what(record: Record) -> str:
    fields = record.fields
    if record.type == "held":
        fences = fields.get("fence") or [None] * len(fields["addresses"])
        each = (
            f"{held[0]}/{held[2]} on {held[1]}{_OF_FENCE[is_fenced]}"
            for held, is_fenced in zip(fields["addresses"], fences, strict=True)
        )
        return ", ".join(each) or "nothing"
    if record.type == "renewals":
        return ", ".join(
            f"cluster {each['cluster']} uid {each['uid']} {each['count']} times until"
            f" {instant(record.wall(each['deadline_ns']))}{_OF_FENCE[each.get('fence')]}"
            for each in fields["owners"]
        )
    if record.type == "summary":
        return ", ".join(
            f"uid {'others' if each['uid'] is None else each['uid']} {each['count']} {each['what']}"
            for each in fields["counts"]
        )
    words = [str(fields[key]) for key in ("op", "address") if key in fields]
    if "interface" in fields:
        prefix = f"/{fields['prefix']}" if "prefix" in fields else ""
        words.append(f"{prefix} on {fields['interface']}".strip())
    return " ".join(words).replace(" /", "/")


def _came_of_it(record: Record) -> str:
    told = (record.fields.get(key) for key in ("outcome", "reason"))
    words = [str(each) for each in told if each is not None]
    if record.type == "start" and (earlier := earlier_marker(record)) is not None:
        words.append(f"the life before was there at {instant(earlier.at)}")
    fence = record.fields.get("fence")
    if record.type == "start" and fence is not None:
        words.append("with the fence" if fence["in_force"] else f"no fence: {fence['reason']}")
    deadline_ns = record.fields.get("deadline_ns")
    until = f"until {instant(record.wall(deadline_ns))}" if deadline_ns is not None else ""
    if record.type == "intent" and until:
        words.append(until)
    if record.type in ("result", "own") and fence is not None:
        words.append(f"fenced {until}".strip() if fence else "not fenced")
    return ": ".join(words)


def _further(record: Record) -> list[str]:
    held = {"addresses"} if record.type == "held" else set()
    left = record.fields.keys() - _COMMON - _TOLD - held
    return sorted(key for key in left if record.fields[key] not in (None, "", False))
