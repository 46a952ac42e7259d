"""`yaim status`: who holds what, as etcd tells it."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from yaim.core.model import ClusterView, NodeName, PoolEntry, address_order
from yaim.etcd.certificates import Expiry, ending
from yaim.tables import columns

PRESSING_WITHIN = timedelta(days=7)


class Condition(IntEnum):
    """Also the exit status."""

    HEALTHY = 0
    """Every address is held, every node is healthy, every pool entry is right, and no certificate
    for etcd ends within a week."""
    DEGRADED = 1
    UNREACHABLE = 2


@dataclass(frozen=True, slots=True)
class AddressStatus:
    address: str
    holder: str | None
    reason: str = ""
    """Why nobody holds it."""


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

    @property
    def condition(self) -> Condition:
        is_healthy = (
            self.nodes
            and not self.wrong_entries
            and all(each.holder is not None for each in self.addresses)
            and all(each.is_healthy for each in self.nodes)
            and not any(each.is_pressing for each in self.certificates)
        )
        return Condition.HEALTHY if is_healthy else Condition.DEGRADED


def status_of(
    cluster: str, view: ClusterView, certificates: tuple[CertificateStatus, ...] = ()
) -> ClusterStatus:
    """What a view of the cluster amounts to. A mark counts if its holder's lease is the one that
    its advertisement has."""
    holders: dict[str, NodeName] = {}
    for mark in view.marks.values():
        node = view.nodes.get(mark.holder)
        if mark.address in view.pool and node is not None and node.lease == mark.lease:
            holders[str(mark.address)] = mark.holder
    addresses = []
    for address, entry in sorted(view.pool.items(), key=lambda item: address_order(item[0])):
        holder = holders.get(str(address))
        reason = "" if holder is not None else _why_nobody(entry, view)
        addresses.append(AddressStatus(str(address), holder, reason))
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
            )
            for name, node in sorted(view.nodes.items())
        ),
        tuple((wrong.name, wrong.reason) for wrong in view.wrong),
        certificates,
    )


def certificates_of(expiries: tuple[Expiry, ...], now: datetime) -> tuple[CertificateStatus, ...]:
    pressing = ending(expiries, now, PRESSING_WITHIN)
    return tuple(
        CertificateStatus(
            each.what, each.subject, each.not_after, each.days_left(now), each in pressing
        )
        for each in expiries
    )


def _why_nobody(entry: PoolEntry, view: ClusterView) -> str:
    """As in `unhealthy: db1, db2; excluded: db3`."""
    names: dict[str, list[NodeName]] = {}
    ready_first = sorted(view.nodes.items(), key=lambda item: (item[1].is_waiting, item[0]))
    for name, node in ready_first:
        reason = node.why_not(entry)
        if reason is None:
            return f"{name} may hold it and has not taken it yet"
        names.setdefault(reason, []).append(name)
    if not names:
        return "there is no node"
    return "; ".join(f"{reason}: {', '.join(each)}" for reason, each in names.items())


def as_json(status: ClusterStatus) -> str:
    return json.dumps(
        {
            "status": status.condition.name.lower(),
            "cluster": status.cluster,
            "addresses": [
                {"address": each.address, "holder": each.holder, "reason": each.reason}
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
        },
        indent=2,
    )


def as_table(status: ClusterStatus) -> str:
    lines = [f"Cluster {status.cluster} is {status.condition.name.lower()}.", ""]
    lines += columns(
        ("ADDRESS", "HOLDER"),
        [(each.address, each.holder or f"- nobody - ({each.reason})") for each in status.addresses],
    )
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


def _health(node: NodeStatus) -> str:
    if node.is_healthy and node.waits_s:
        return f"healthy, waits {node.waits_s:g} s (flapping)"
    return "healthy" if node.is_healthy else "unhealthy"


def _days_left(certificate: CertificateStatus) -> str:
    days_left = str(certificate.days_left) if certificate.days_left >= 0 else "expired"
    return f"{days_left} (renew it)" if certificate.is_pressing else days_left
