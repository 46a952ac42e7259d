"""Clusters for the tests of what is told of one."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

from yaim.core.model import (
    Advertisement,
    ClusterView,
    Fence,
    LeaseId,
    Mark,
    Node,
    NodeName,
    PoolEntry,
    Revision,
    WrongEntry,
    frozen_mapping,
)
from yaim.dcs.expiry import Expiry
from yaim.status.facts import ClusterStatus, certificates_of, status_of

CLUSTER = "/service/yaim/"
LEASES = {"db1": 1, "db2": 2}


def node(name: str, reason: str = "HTTP 200", is_healthy: bool = True) -> Node:
    return Node(
        NodeName(name),
        Advertisement(
            is_healthy=is_healthy,
            reason=reason,
            interface="eth0",
            networks=frozen_mapping({"eth0": (ip_network("0.0.0.0/0"), ip_network("::/0"))}),
            refused=frozenset(),
            session="",
            version="1.0",
            fence=Fence(True),
        ),
        LeaseId(LEASES[name]),
        Revision(1),
    )


def waiting(name: str) -> Node:
    return replace(node(name), advertisement=replace(node(name).advertisement, waits_s=40.0))


def fenced(name: str, fence: Fence | None) -> Node:
    return replace(node(name), advertisement=replace(node(name).advertisement, fence=fence))


def having(name: str, address: str) -> Node:
    """Not by yaim."""
    present = frozen_mapping({ip_address(address): "eth0, /24"})
    return replace(node(name), advertisement=replace(node(name).advertisement, present=present))


def mark(address: str, holder: str, lease: int | None = None) -> Mark:
    number = LeaseId(LEASES[holder] if lease is None else lease)
    return Mark(ip_address(address), NodeName(holder), number, Revision(1))


def view(
    pool: tuple[str, ...],
    nodes: tuple[Node, ...],
    marks: tuple[Mark, ...],
    wrong: tuple[WrongEntry, ...] = (),
) -> ClusterView:
    return ClusterView(
        Revision(7),
        frozen_mapping({ip_address(each): PoolEntry(ip_address(each)) for each in pool}),
        frozen_mapping({each.name: each for each in nodes}),
        frozen_mapping({each.address: each for each in marks}),
        wrong,
    )


POOL = ("192.0.2.10", "2001:db8::1", "192.0.2.9")
NODES = (node("db2"), node("db1"))
MARKS = (mark("192.0.2.9", "db1"), mark("192.0.2.10", "db2"), mark("2001:db8::1", "db1"))
WELL = view(POOL, NODES, MARKS)
UNHELD = view(POOL, NODES, MARKS[1:])
UNHEALTHY = view(POOL, (node("db1"), node("db2", "Connection refused", False)), MARKS)
WRONG = view(POOL, NODES, MARKS, (WrongEntry("192.0.2.09", "not an address"),))
STALE = view(POOL, NODES, (*MARKS[1:], mark("192.0.2.9", "db1", lease=99)))
FLAPPING = view(POOL, (node("db1"), waiting("db2")), MARKS)
ELSEWHERE = view(POOL, (node("db1"), having("db2", "192.0.2.9")), MARKS)
OF_NOBODY = view(POOL, NODES[:1], MARKS)
EMPTY = view((), (), ())
NO_NODES = view(POOL, (), ())
NO_ADDRESSES = view((), NODES, ())


# --- certificates --------------------------------------------------------------------------------

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def expiry(what: str, subject: str, **left: float) -> Expiry:
    return Expiry(what, subject, NOW + timedelta(**left))


def made(
    seen: ClusterView, alarms: Iterable[str] = (), lost: Mapping[NodeName, datetime] | None = None
) -> ClusterStatus:
    return status_of(CLUSTER, seen, (), alarms, lost, now=NOW)


def with_certificates(*expiries: Expiry) -> ClusterStatus:
    return status_of(CLUSTER, WELL, certificates_of(expiries, NOW), now=NOW)


CERTIFICATES = (
    expiry("etcd-ca-file /etc/ca.pem", "CA\n", days=400, hours=1),
    expiry("https://etcd1:2379", "etcd1", days=6, hours=1),
    expiry("https://etcd2:2379", "etcd2", hours=-1),
)


def unhealthy() -> Advertisement:
    return replace(node("db1").advertisement, is_healthy=False, reason="x" * 100_000)
