"""`yaim status`: who holds what, as etcd tells it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from yaim.core.model import ClusterView, NodeName, PoolEntry, address_order, present_on
from yaim.etcd.certificates import Expiry, ending
from yaim.etcd.full import NO_SPACE, remedy_for
from yaim.tables import columns

PRESSING_WITHIN = timedelta(days=7)
_REMOVE = "not by yaim ({}): remove it there"
_NOBODY_JOINS = (
    "While etcd is full a node without a lease cannot join, and one that cannot write there what it"
    " can hold has withdrawn: neither is listed here."
)


class Condition(IntEnum):
    """Also the exit status."""

    HEALTHY = 0
    """Every address is held by a node that may hold it, and is on no node for another reason; every
    node is healthy, every pool entry is right, no certificate for etcd ends within a week, and etcd
    has raised no alarm."""
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
    """If not, it keeps what it holds, until its checks have answered and its helper is there."""
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

    @property
    def condition(self) -> Condition:
        is_healthy = (
            self.nodes
            and not self.wrong_entries
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
    told = frozenset(alarms)
    for address, entry in sorted(view.pool.items(), key=lambda item: address_order(item[0])):
        holder = holders.get(str(address))
        present = tuple((str(name), where) for name, where in present_on(address, view.nodes))
        if holder is not None:
            reason = view.nodes[holder].why_not(entry) or ""
        else:
            reason = _why_nobody(entry, view, is_etcd_full=NO_SPACE in told)
        addresses.append(AddressStatus(str(address), holder, reason, present))
    return ClusterStatus(
        cluster,
        tuple(addresses),
        tuple(
            NodeStatus(
                name,
                node.advertisement.is_healthy,
                node.advertisement.reason,
                sum(holder == name for holder in holders.values()),
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
    )


def certificates_of(expiries: tuple[Expiry, ...], now: datetime) -> tuple[CertificateStatus, ...]:
    pressing = ending(expiries, now, PRESSING_WITHIN)
    return tuple(
        CertificateStatus(
            each.what, each.subject, each.not_after, each.days_left(now), each in pressing
        )
        for each in expiries
    )


def _why_nobody(entry: PoolEntry, view: ClusterView, *, is_etcd_full: bool) -> str:
    """As in `unhealthy: db1, db2; excluded: db3`."""
    if present := present_on(entry.address, view.nodes):
        return "; ".join(f"on {name} already, {_REMOVE.format(where)}" for name, where in present)
    if entry.fault:
        return f"its entry is wrong: {entry.fault}"
    names: dict[str, list[NodeName]] = {}
    ready_first = sorted(view.nodes.items(), key=lambda item: (item[1].is_waiting, item[0]))
    for name, node in ready_first:
        reason = node.why_not(entry)
        if reason is None and not node.advertisement.takes:
            reason = "takes nothing until its checks have answered and its helper is there"
        if reason is None:
            full = "; etcd is full, and may not let it" if is_etcd_full else ""
            return f"{name} may hold it and has not taken it yet{full}"
        names.setdefault(reason, []).append(name)
    if not names:
        return "there is no node" + ("; etcd is full: none can join" if is_etcd_full else "")
    return "; ".join(f"{reason}: {', '.join(each)}" for reason, each in names.items())


def as_json(status: ClusterStatus) -> str:
    return json.dumps(
        {
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
        },
        indent=2,
    )


def as_table(status: ClusterStatus) -> str:
    lines = [f"Cluster {status.cluster} is {status.condition.name.lower()}.", ""]
    lines += [f"etcd has raised the alarm {each}: {remedy_for(each)}" for each in status.alarms]
    lines += [_NOBODY_JOINS] if NO_SPACE in status.alarms else []
    lines += [""] if status.alarms else []
    lines += columns(
        ("ADDRESS", "HOLDER"),
        [(each.address, _holder(each)) for each in status.addresses],
    )
    lines += [each.complaint for each in status.addresses if each.holder and each.present]
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
    if status.certificates:
        rows = [
            (each.what, each.subject, f"{each.expires:%Y-%m-%d}", _days_left(each))
            for each in status.certificates
        ]
        lines += ["", *columns(("CERTIFICATE", "OF", "EXPIRES", "DAYS LEFT"), rows)]
    if not status.addresses and not status.nodes:
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
