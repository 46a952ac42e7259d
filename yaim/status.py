"""`yaim status`: who holds what, as etcd tells it."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from sys import maxsize

from yaim.core.eligibility import Eligibility, each_of, joined
from yaim.core.model import (
    ClusterView,
    Mark,
    Node,
    NodeName,
    PoolEntry,
    Presence,
    address_order,
    presence,
)
from yaim.dcs.etcd.expiry import Expiry, ending
from yaim.dcs.etcd.full import NO_SPACE, remedy_for
from yaim.text import MOST_LAST, columns, parsable, shell_word, shortened

PRESSING_WITHIN = timedelta(days=7)
_REMOVE = "not by yaim ({}): remove it there"
_NO_LEASE = "counts as no {}, as it has no lease: delete it"
_OVER_ANOTHER = (
    "counts as no mark, as somebody has put it over another one: delete it when no node has the"
    " address"
)
_NO_NAME = "counts as no node, as no node can have this name: delete it"
_TAKES_NOTHING = (
    "takes nothing until its checks have answered, its helper is there, and its kernel has told"
    " which addresses the host has"
)
_MOST_NAMES = 10
_MOST_KINDS, _MOST_REASONS = 400, 10
"""Of nodes that cannot hold an address: how many kinds are asked why, and what is told of it."""
_NOBODY_JOINS = (
    "While etcd is full a node without a lease cannot join, and one that cannot write there what it"
    " can hold has withdrawn: neither is listed here."
)


class Condition(IntEnum):
    """Also the exit status."""

    HEALTHY = 0
    """Every address is held by a node that may hold it, and is on no node for another reason; every
    node is healthy, every pool entry is right, no key is a stray, no certificate for etcd ends
    within a week, and etcd has raised no alarm."""
    DEGRADED = 1
    UNREACHABLE = 2


@dataclass(frozen=True, slots=True)
class AddressStatus:
    address: str
    holder: str | None
    reason: str = ""
    """Why nobody holds it; or why its holder may not, which keeps it as nobody else may either."""
    present: tuple[tuple[str, str], ...] = ()
    """The nodes that have it for another reason than yaim, and where."""

    @property
    def complaint(self) -> str:
        return "; ".join(
            f"{self.address} is on {name} already, {_REMOVE.format(where)}"
            for name, where in self.present
        )


@dataclass(frozen=True, slots=True)
class NodeStatus:
    name: str
    is_healthy: bool
    reason: str
    address_count: int
    version: str
    waits_s: float = 0.0
    """It becomes unhealthy again and again, and waits so long before it takes addresses that others
    can hold. The cluster is healthy all the same."""
    takes: bool = True
    """If not, it keeps what it holds, until its checks have answered, its helper is there, and the
    kernel has told which addresses the host has."""
    refused: tuple[str, ...] = ()
    """Addresses of the pool that it leaves to others, as its helper did not add them, or has no
    place for them. The cluster is healthy all the same, if others hold them."""


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    what: str
    """The file that it is in, or the endpoint that has shown it."""
    subject: str
    expires: datetime
    days_left: int
    """Less than 0: it has expired."""
    is_pressing: bool


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    cluster: str
    """The prefix of its keys."""
    addresses: tuple[AddressStatus, ...]
    nodes: tuple[NodeStatus, ...]
    wrong_entries: tuple[tuple[str, str], ...]
    """Name and reason."""
    certificates: tuple[CertificateStatus, ...] = ()
    alarms: tuple[str, ...] = ()
    """etcd's own: NOSPACE, CORRUPT."""
    strays: tuple[tuple[str, str], ...] = ()
    """Keys that count for nothing and are to be deleted, and why."""

    @property
    def condition(self) -> Condition:
        is_healthy = (
            self.nodes
            and not self.wrong_entries
            and not self.strays
            and all(
                each.holder is not None and not each.reason and not each.present
                for each in self.addresses
            )
            and all(each.is_healthy for each in self.nodes)
            and not any(each.is_pressing for each in self.certificates)
            and not self.alarms
        )
        return Condition.HEALTHY if is_healthy else Condition.DEGRADED


def status_of(
    cluster: str,
    view: ClusterView,
    certificates: tuple[CertificateStatus, ...] = (),
    alarms: Iterable[str] = (),
) -> ClusterStatus:
    """What a view of the cluster amounts to. A mark counts if its holder's lease is the one that
    its advertisement has."""
    holders: dict[str, NodeName] = {}
    for mark in view.marks.values():
        node = view.nodes.get(mark.holder)
        if mark.address in view.pool and node is not None and node.lease == mark.lease:
            holders[str(mark.address)] = mark.holder
    addresses = []
    everywhere, asked = presence(view.nodes), _Asked(view.nodes.values())
    told = frozenset(alarms)
    for address, entry in sorted(view.pool.items(), key=lambda item: address_order(item[0])):
        holder = holders.get(str(address))
        present = tuple((str(name), where) for name, where in everywhere.get(address, ()))
        if holder is not None:
            reason = view.nodes[holder].why_not(entry) or ""
        else:
            full = NO_SPACE in told
            reason = _why_nobody(cluster, entry, view, everywhere, asked, is_etcd_full=full)
        addresses.append(AddressStatus(str(address), holder, reason, present))
    counts = Counter(holders.values())
    return ClusterStatus(
        cluster,
        tuple(addresses),
        tuple(
            NodeStatus(
                name,
                node.advertisement.is_healthy,
                _reason(cluster, node),
                counts[name],
                node.advertisement.version,
                node.advertisement.waits_s,
                node.advertisement.takes,
                tuple(
                    str(address)
                    for address in sorted(node.advertisement.refused, key=address_order)
                    if address in view.pool
                ),
            )
            for name, node in sorted(view.nodes.items())
        ),
        tuple((wrong.name, wrong.reason) for wrong in view.wrong),
        certificates,
        tuple(sorted(told)),
        strays_of(cluster, view),
    )


def _reason(cluster: str, node: Node) -> str:
    """And what is to be done about what is no advertisement (schema.py)."""
    told = node.advertisement
    if told.schema < maxsize:
        return told.reason
    return (
        f"{told.reason}: if it is no newer yaim's, etcdctl lease revoke {node.lease:x}, under which"
        f" {shell_word(f'{cluster}nodes/{node.name}')} stands"
    )


def strays_of(cluster: str, view: ClusterView) -> tuple[tuple[str, str], ...]:
    """Keys that are no node's, and why."""
    nodes = tuple(
        (f"{cluster}nodes/{name}", _NO_NAME if node.lease else _NO_LEASE.format("node"))
        for name, node in sorted(view.stray_nodes.items())
    )
    marks = sorted(view.stray_marks.values(), key=lambda mark: address_order(mark.address))
    return nodes + tuple(
        (
            f"{cluster}ips/{mark.address}/marked",
            _OVER_ANOTHER if mark.is_over_another else _NO_LEASE.format("mark"),
        )
        for mark in marks
    )


def certificates_of(expiries: tuple[Expiry, ...], now: datetime) -> tuple[CertificateStatus, ...]:
    pressing = ending(expiries, now, PRESSING_WITHIN)
    return tuple(
        CertificateStatus(
            each.what, each.subject, each.not_after, each.days_left(now), each in pressing
        )
        for each in expiries
    )


class _Asked:
    """The nodes, those that wait last. What says the same of itself is asked once."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = sorted(nodes, key=lambda node: (node.is_waiting, node.name))
        self._eligibility = Eligibility(self.nodes)
        told = [node.advertisement for node in self.nodes]
        self._taking = joined(1 << number for number, each in enumerate(told) if each.takes)
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
            )
            alike.setdefault(key, []).append(number)
        self._alike = tuple(alike.values())

    def ready(self, entry: PoolEntry) -> NodeName | None:
        """The first that may take it."""
        able = self._eligibility.able(entry) & self._taking
        return self.nodes[next(each_of(able))].name if able else None

    def reasons(self, entry: PoolEntry) -> dict[str, list[NodeName]]:
        """Why none may."""
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
                found.setdefault(node.why_not(for_all) or _TAKES_NOTHING, []).extend(others)
        in_order = sorted((sorted(numbers), reason) for reason, numbers in found.items())
        told = {reason: numbers for numbers, reason in in_order[:_MOST_REASONS]}
        further = [n for numbers, _ in in_order[_MOST_REASONS:] for n in numbers]
        further += [n for numbers in self._alike[_MOST_KINDS:] for n in numbers]
        if further:
            told["for other reasons"] = sorted(further)
        return {reason: [self.nodes[n].name for n in each] for reason, each in told.items()}


def _why_nobody(
    cluster: str,
    entry: PoolEntry,
    view: ClusterView,
    everywhere: Presence,
    asked: _Asked,
    *,
    is_etcd_full: bool,
) -> str:
    """As in `unhealthy: db1, db2; excluded: db3`."""
    if present := everywhere.get(entry.address):
        return "; ".join(f"on {name} already, {_REMOVE.format(where)}" for name, where in present)
    if entry.fault:
        return f"its entry is wrong: {entry.fault}"
    if entry.address in view.stray_marks:
        return "its mark counts as none: see the stray key"
    if (mark := view.marks.get(entry.address)) is not None:
        return _why_not_in_force(cluster, mark, view)
    if (name := asked.ready(entry)) is not None:
        full = "; etcd is full, and may not let it" if is_etcd_full else ""
        return f"{name} may hold it and has not taken it yet{full}"
    names = asked.reasons(entry)
    if not names:
        return "there is no node" + ("; etcd is full: none can join" if is_etcd_full else "")
    return "; ".join(f"{reason}: {_listed(each)}" for reason, each in names.items())


def _why_not_in_force(cluster: str, mark: Mark, view: ClusterView) -> str:
    """Of a node that has lost its lease, such marks stand for up to a ttl."""
    node = view.nodes.get(mark.holder)
    lease = f"is advertised under {node.lease:x}" if node is not None else "is not advertised"
    return (
        f"marked by {mark.holder} under lease {mark.lease:x}, and {mark.holder} {lease}: should"
        f" that not pass within the ttl, delete {cluster}ips/{mark.address}/marked when no node has"
        " the address"
    )


def _listed(names: list[NodeName]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def as_json(status: ClusterStatus) -> str:
    """Keys that are not UTF-8 as a shell reads them."""
    told: dict[str, object] = {
        "status": status.condition.name.lower(),
        "cluster": status.cluster,
        "addresses": [
            {
                "address": each.address,
                "holder": each.holder,
                "reason": each.reason,
                "present": [{"node": name, "where": where} for name, where in each.present],
            }
            for each in status.addresses
        ],
        "nodes": [
            {
                "name": each.name,
                "healthy": each.is_healthy,
                "reason": each.reason,
                "addresses": each.address_count,
                "version": each.version,
                "waits_s": each.waits_s,
                "takes": each.takes,
                "refused": list(each.refused),
            }
            for each in status.nodes
        ],
        "wrong_entries": [
            {"entry": name, "reason": reason} for name, reason in status.wrong_entries
        ],
        "certificates": [
            {
                "where": each.what,
                "subject": each.subject,
                "expires": each.expires.isoformat(),
                "days_left": each.days_left,
                "pressing": each.is_pressing,
            }
            for each in status.certificates
        ],
        "etcd_alarms": list(status.alarms),
        "stray_keys": [
            {"key": key if parsable(key) == key else shell_word(key), "reason": reason}
            for key, reason in status.strays
        ],
    }
    return json.dumps(_parsable(told), indent=2)


def _parsable(value: object) -> object:
    """All text in it."""
    match value:
        case str():
            return parsable(value)
        case list():
            return [_parsable(each) for each in value]
        case dict():
            return {name: _parsable(each) for name, each in value.items()}
        case _:
            return value


def as_table(status: ClusterStatus) -> str:
    lines = [f"Cluster {status.cluster} is {status.condition.name.lower()}.", ""]
    lines += [f"etcd has raised the alarm {each}: {remedy_for(each)}" for each in status.alarms]
    lines += [_NOBODY_JOINS] if NO_SPACE in status.alarms else []
    lines += [""] if status.alarms else []
    lines += columns(
        ("ADDRESS", "HOLDER"),
        [(each.address, _holder(each)) for each in status.addresses],
    )
    lines += [
        shortened(each.complaint, MOST_LAST)
        for each in status.addresses
        if each.holder and each.present
    ]
    lines.append("")
    lines += columns(
        ("NODE", "HEALTH", "ADDRESSES", "REASON"),
        [
            (
                each.name,
                _health(each),
                str(each.address_count),
                each.reason,
            )
            for each in status.nodes
        ],
    )
    if status.wrong_entries:
        lines += ["", *columns(("WRONG POOL ENTRY", "REASON"), status.wrong_entries)]
    if status.strays:
        keys = [(shell_word(key), reason) for key, reason in status.strays]
        lines += ["", *columns(("STRAY KEY", "REASON"), keys)]
    if status.certificates:
        rows = [
            (each.what, each.subject, f"{each.expires:%Y-%m-%d}", _days_left(each))
            for each in status.certificates
        ]
        lines += ["", *columns(("CERTIFICATE", "OF", "EXPIRES", "DAYS LEFT"), rows)]
    if not any((status.addresses, status.nodes, status.wrong_entries, status.strays)):
        lines += ["", "Nothing is there: are dcs-namespace and dcs-clustername right?"]
    return "\n".join(lines)


def _holder(address: AddressStatus) -> str:
    holder = address.holder or "- nobody -"
    return f"{holder} ({address.reason})" if address.reason else holder


def _health(node: NodeStatus) -> str:
    if not node.is_healthy:
        return "unhealthy"
    words = ["healthy"]
    if node.waits_s:
        words.append(f"waits {node.waits_s:g} s (flapping)")
    if not node.takes:
        words.append("takes nothing for now")
    if count := len(node.refused):
        words.append(f"refuses {count} address{'es' * (count > 1)} (its log says why)")
    return ", ".join(words)


def _days_left(certificate: CertificateStatus) -> str:
    days_left = str(certificate.days_left) if certificate.days_left >= 0 else "expired"
    return f"{days_left} (renew it)" if certificate.is_pressing else days_left
