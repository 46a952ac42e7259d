"""What a node knows of its cluster: the pool, the nodes and who holds what.

Values only; nothing here decides or acts. The keys in etcd that these are read from are described
in yaim/etcd/schema.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import NewType, TypeAlias, TypeVar

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

NodeName = NewType("NodeName", str)
LeaseId = NewType("LeaseId", int)
Revision = NewType("Revision", int)
"""A revision of etcd's key-value store: grows with every change to any key."""
Boottime = NewType("Boottime", float)
"""Seconds of CLOCK_BOOTTIME on this host; comparable with no other host's."""

Key = TypeVar("Key")
Value = TypeVar("Value")


def frozen_mapping(mapping: Mapping[Key, Value]) -> Mapping[Key, Value]:
    """A read-only copy."""
    return MappingProxyType(dict(mapping))


def address_order(address: Address) -> tuple[int, int]:
    """Sort key: IPv4 before IPv6, then by number."""
    return address.version, int(address)


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """An address that is to be held by some node, with its options."""

    address: Address
    interface: str | None = None
    """Holders put it on this interface instead of their configured one."""
    prefix_length: int | None = None
    exclude: frozenset[NodeName] = frozenset()
    """Nodes that must not hold it."""
    prefer: frozenset[NodeName] = frozenset()
    """Nodes to favour when the address needs a holder and several nodes hold equally few."""


@dataclass(frozen=True, slots=True)
class WrongEntry:
    """A key below ips/ that is not an address yaim will hold, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Advertisement:
    """What a node tells the others about itself."""

    is_healthy: bool
    reason: str
    """Why it is healthy or not, for people."""
    interface: str
    networks: Mapping[str, tuple[Network, ...]]
    """Interface to the networks that its helper allows there."""
    refused: frozenset[Address]
    """Addresses that its helper lately would not add; others should take them."""
    session: str
    """Which boot and network namespace the node's addresses live in; given by its helper."""
    version: str
    down: frozenset[str] = frozenset()
    """Interfaces that are down or have no carrier."""
    waits_s: float = 0.0
    """How long it waits, since it has become healthy again, before it takes what others can hold,
    because it becomes unhealthy again and again; 0: it does not wait."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node's advertisement as it stands in etcd."""

    name: NodeName
    advertisement: Advertisement
    lease: LeaseId
    revision: Revision
    """Of the last change (etcd's mod_revision)."""

    @property
    def is_waiting(self) -> bool:
        return self.advertisement.waits_s > 0

    def can_hold(self, entry: PoolEntry) -> bool:
        """Whether this node may be given the address."""
        return self.why_not(entry) is None

    def why_not(self, entry: PoolEntry) -> str | None:
        """Why this node may not be given the address; None if it may."""
        advertisement = self.advertisement
        if not advertisement.is_healthy:
            return "unhealthy"
        if self.name in entry.exclude:
            return "excluded"
        interface = entry.interface or advertisement.interface
        if interface in advertisement.down:
            return f"{interface} is down"
        networks = advertisement.networks.get(interface, ())
        if not any(entry.address in network for network in networks):
            return f"not allowed on {interface} by the helper"
        if entry.address in advertisement.refused:
            return "refused by the helper (its log says why)"
        return None


@dataclass(frozen=True, slots=True)
class Mark:
    """The claim of a node on an address, as it stands in etcd."""

    address: Address
    holder: NodeName
    lease: LeaseId
    revision: Revision
    """Of its creation (etcd's create_revision)."""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Everything below the cluster's prefix at one revision."""

    revision: Revision
    pool: Mapping[Address, PoolEntry] = field(default_factory=lambda: frozen_mapping({}))
    nodes: Mapping[NodeName, Node] = field(default_factory=lambda: frozen_mapping({}))
    marks: Mapping[Address, Mark] = field(default_factory=lambda: frozen_mapping({}))
    wrong: tuple[WrongEntry, ...] = ()

    def with_node(self, node: Node) -> "ClusterView":
        """The view after this node's advertisement was written."""
        return replace(
            self,
            revision=max(self.revision, node.revision),
            nodes=frozen_mapping({**self.nodes, node.name: node}),
        )

    def with_marks(self, marks: tuple[Mark, ...], revision: Revision) -> "ClusterView":
        """The view after these marks were written."""
        return replace(
            self,
            revision=max(self.revision, revision),
            marks=frozen_mapping({**self.marks, **{mark.address: mark for mark in marks}}),
        )

    def without_marks(self, addresses: frozenset[Address], revision: Revision) -> "ClusterView":
        """The view after these marks were deleted."""
        return replace(
            self,
            revision=max(self.revision, revision),
            marks=frozen_mapping({a: m for a, m in self.marks.items() if a not in addresses}),
        )
