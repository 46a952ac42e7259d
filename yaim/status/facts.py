"""What `yaim status` and `yaim doctor` tell of a cluster: facts, made from a view of it.

Reads nothing and shows nothing (yaim/cli/status.py does).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from sys import maxsize

from yaim.core.model import ClusterView, Fence, Node, NodeName, address_order, presence
from yaim.dcs.etcd.full import NO_SPACE
from yaim.dcs.expiry import Expiry, ending
from yaim.status.unheld import REMOVE, Unheld
from yaim.text import shell_word

PRESSING_WITHIN = timedelta(days=7)
_NO_LEASE = "counts as no {}, as it has no lease: delete it"
_OVER_ANOTHER = (
    "counts as no mark, as somebody has put it over another one: delete it when no node has the"
    " address"
)
_NO_NAME = "counts as no node, as no node can have this name: delete it"


class Condition(IntEnum):
    """How the cluster is; also the exit status."""

    HEALTHY = 0
    """Every address is held by a node that may hold it, and no node has one that something else has
    put there; every node is healthy, every pool entry is right, no key is a stray, no certificate
    for etcd ends within a week, and etcd has raised no alarm."""
    DEGRADED = 1
    UNREACHABLE = 2


@dataclass(frozen=True, slots=True)
class AddressStatus:
    address: str
    holder: str | None
    reason: str = ""
    """Why nobody holds it; or why its holder may not hold it, but keeps it, as nobody else may hold
    it either."""
    present: tuple[tuple[str, str], ...] = ()
    """The nodes on which something other than yaim has put the address, and where."""

    @property
    def complaint(self) -> str:
        return "; ".join(
            f"{self.address} is on {name} already, {REMOVE.format(where)}"
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
    """The node becomes unhealthy again and again, and waits so long before it takes addresses that
    others can hold. The cluster is healthy all the same."""
    takes: bool = True
    """If not, the node keeps what it holds, until its checks have answered, its helper is there,
    and the kernel has told which addresses the host has."""
    refused: tuple[str, ...] = ()
    """Addresses of the pool that the node leaves to others, because its helper did not add them, or
    has no place for them. The cluster is healthy all the same, if others hold them."""
    fence: Fence | None = None
    """Whether a fence in its kernel is in force; None: not told, as by an older yaim. The cluster
    is healthy all the same."""
    connections_stay: str = ""
    """Why the node resets no connections when an address moves, though it is set to. The cluster is
    healthy all the same."""


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    what: str
    """The file that the certificate is in, or the endpoint that has shown it."""
    subject: str
    expires: datetime
    days_left: int
    """It is less than 0 if the certificate has expired."""
    is_pressing: bool


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    cluster: str
    """The prefix of the cluster's keys."""
    addresses: tuple[AddressStatus, ...]
    nodes: tuple[NodeStatus, ...]
    wrong_entries: tuple[tuple[str, str], ...]
    """The name of each, and what is wrong with it."""
    certificates: tuple[CertificateStatus, ...] = ()
    alarms: tuple[str, ...] = ()
    """Alarms of etcd's own: NOSPACE, CORRUPT."""
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
    """What a view of the cluster amounts to. A mark counts if it stands under the lease under which
    its holder is advertised."""
    holders: dict[str, NodeName] = {}
    for mark in view.marks.values():
        node = view.nodes.get(mark.holder)
        if mark.address in view.pool and node is not None and node.lease == mark.lease:
            holders[str(mark.address)] = mark.holder
    addresses = []
    everywhere, told = presence(view.nodes), frozenset(alarms)
    unheld = Unheld(cluster, view, is_store_full=NO_SPACE in told)
    for address, entry in sorted(view.pool.items(), key=lambda item: address_order(item[0])):
        holder = holders.get(str(address))
        present = tuple((str(name), where) for name, where in everywhere.get(address, ()))
        if holder is not None:
            reason = view.nodes[holder].why_not(entry) or ""
        else:
            reason = unheld.why(entry)
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
                node.advertisement.fence,
                node.advertisement.connections_stay,
            )
            for name, node in sorted(view.nodes.items())
        ),
        tuple((wrong.name, wrong.reason) for wrong in view.wrong),
        certificates,
        tuple(sorted(told)),
        strays_of(cluster, view),
    )


def _reason(cluster: str, node: Node) -> str:
    """Why a node is unhealthy. If what stands there is no advertisement, also what is to be
    done."""
    told = node.advertisement
    if told.schema < maxsize:
        return told.reason
    return (
        f"{told.reason}: if it is no newer yaim's, etcdctl lease revoke {node.lease:x}, under which"
        f" {shell_word(f'{cluster}nodes/{node.name}')} stands"
    )


def strays_of(cluster: str, view: ClusterView) -> tuple[tuple[str, str], ...]:
    """Keys that count for nothing, and why."""
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
