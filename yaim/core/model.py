"""What a node knows of its cluster: the pool, the nodes and who holds what.

Values only; nothing here decides or acts. The keys in etcd that these are read from are described
in yaim/dcs/etcd/keys.py.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import NewType, TypeAlias, TypeVar

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

SCHEMA = 2
"""The version of the keys and values in etcd that this code knows (yaim/dcs/etcd/keys.py)."""

NodeName = NewType("NodeName", str)
LeaseId = NewType("LeaseId", int)
Revision = NewType("Revision", int)
"""A revision of etcd's key-value store: grows with every change to any key."""
Boottime = NewType("Boottime", float)
"""Seconds of CLOCK_BOOTTIME on this host; comparable with no other host's."""

NEVER = Boottime(0.0)
"""An instant before all others: the time of what has never happened, or waits for nothing."""

Key = TypeVar("Key")
Value = TypeVar("Value")


def frozen_mapping(mapping: Mapping[Key, Value]) -> Mapping[Key, Value]:
    """A read-only copy."""
    return MappingProxyType(thawed(mapping))


def thawed(mapping: Mapping[Key, Value]) -> dict[Key, Value]:
    """A copy that can be changed. (dict() asks a read-only mapping key by key, and so each address
    for its hash, which takes a hundred times as long.)"""
    return mapping.copy() if isinstance(mapping, MappingProxyType) else dict(mapping)


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
    """One of these nodes is to have it, if one can. (To nodes that know no version 4 of the
    placement: those to favour when it needs a holder and several nodes hold equally few.)"""
    fault: str = ""
    """Why its options cannot be understood. What they say is not known then: the holder of the
    address keeps it as it is, and nobody else is given it."""
    schema: int = 1
    """The lowest version of the schema (yaim/dcs/etcd/keys.py) that a node must know to understand
    this entry."""


@dataclass(frozen=True, slots=True)
class WrongEntry:
    """A key below ips/ that is not an address yaim will hold, or has options that are wrong."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Place:
    """The interface and prefix length with which an address is on a host, or is to be."""

    interface: str
    prefix_length: int

    def __str__(self) -> str:
        return f"{self.interface}, /{self.prefix_length}"


@dataclass(frozen=True, slots=True)
class Fence:
    """Whether the kernel of a host has a fence: then an address answers nothing after its deadline,
    whoever is dead, frozen or behind the kernel's routing lock (helper/PROTOCOL.md)."""

    is_in_force: bool
    reason: str = ""
    """Why not, for people; empty if it is in force."""


@dataclass(frozen=True, slots=True)
class Resets:
    """Whether a helper can end the TCP connections of an address, so that the peers get a reset
    (helper/PROTOCOL.md, hello)."""

    can_reset: bool
    reason: str = ""
    """Why not, for people; empty if it can."""


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
    """The boot and network namespace that the node's addresses live in; given by its helper."""
    version: str
    down: frozenset[str] = frozenset()
    """Interfaces that are down, have no carrier, or are not there."""
    missing: frozenset[str] = frozenset()
    """The interfaces among them that do not exist."""
    waits_s: float = 0.0
    """How long the node waits after its last recovery before it takes what others can hold, because
    it becomes unhealthy again and again; 0: it does not wait."""
    present: Mapping[Address, str] = field(default_factory=lambda: frozen_mapping({}))
    """The addresses that something other than yaim has put on this host, and where: nobody is to
    take them. A holder keeps them."""
    placement: int = 1
    """The highest version of the placement (yaim/core/placement.py) that it can compute."""
    schema: int = 1
    """The highest version of the schema (yaim/dcs/etcd/keys.py) that it knows."""
    takes: bool = True
    """Whether the node takes anything now. If not, it keeps what it holds: a check that was added
    has not answered yet, or its helper is being started anew."""
    fence: Fence | None = None
    """Whether its kernel has a fence; None: not told, as by older nodes. For people: no decision
    depends on it."""
    connections_stay: str = ""
    """Why it does not reset the connections of addresses that move from it, though it is set to.
    For people, too."""
    capacity: int | None = None
    """The most addresses that its helper holds; None: not told."""
    ttl_s: int = 0
    """The ttl that it is set to; 0: not told."""
    is_drained: bool = False
    """Whether it gives its addresses up because an operator has drained it (Control.drains). For
    people: the placement looks at Control, and older nodes at `waits_s`."""
    control: Revision = Revision(0)
    """The newest revision of the control keys for which this node has done all that is to be done:
    it has nothing to give up and nothing to take (Control.revision)."""
    problems: tuple[str, ...] = ()
    """What is wrong on its host and does not show otherwise, such as a file that was changed and
    not loaded. For people."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node's advertisement as it stands in etcd."""

    name: NodeName
    advertisement: Advertisement
    lease: LeaseId
    revision: Revision
    """The revision of its last change (etcd's mod_revision)."""
    written_at: float | None = field(default=None, compare=False)
    """The wall clock of its host then, in seconds since 1970; None: not told. No decision
    depends on it."""

    @property
    def is_waiting(self) -> bool:
        return self.advertisement.waits_s > 0

    def can_hold(self, entry: PoolEntry) -> bool:
        """Whether this node may have the address, as far as the node itself decides that."""
        return self.why_not(entry) is None

    def can_take(self, entry: PoolEntry) -> bool:
        """Whether this node may be given the address now, which it does not hold."""
        return self.advertisement.takes and self.can_hold(entry)

    def can_keep(self, entry: PoolEntry) -> bool:
        """Whether this node may go on holding an address that no node may be given, for example
        because of a mistake in the entry, in yaim.yml or in helper.yml. Only the node itself can
        tell whether the address is of use where it is (a link may be down): if not, it releases the
        mark. A node does not hold what it refuses, or only tries to."""
        told = self.advertisement
        is_refused = entry.address in told.refused
        return told.is_healthy and self.name not in entry.exclude and not is_refused

    def why_not(self, entry: PoolEntry) -> str | None:
        """Returns why this node may not have the address; None if it may."""
        advertisement = self.advertisement
        if not advertisement.is_healthy:
            return "unhealthy"
        if self.name in entry.exclude:
            return "excluded"
        if entry.fault:
            return f"its entry is wrong: {entry.fault}"
        if advertisement.schema < entry.schema:
            return "has an older yaim, which does not understand the entry's options"
        interface = entry.interface or advertisement.interface
        if interface in advertisement.down:
            return f"{interface} is {'missing' if interface in advertisement.missing else 'down'}"
        networks = advertisement.networks.get(interface, ())
        if not any(entry.address in network for network in networks):
            return f"not allowed on {interface} by the helper"
        if entry.address in advertisement.refused:
            return "refused by the helper (its log says why)"
        return None


Presence: TypeAlias = Mapping[Address, tuple[tuple[NodeName, str], ...]]
"""Each address that something other than yaim has put on some host, with the live nodes, healthy or
not, that have it, and where."""


def presence(nodes: Mapping[NodeName, Node]) -> Presence:
    """Returns the nodes for each such address, in the order of their names."""
    found: dict[Address, list[tuple[NodeName, str]]] = {}
    for name in sorted(name for name, node in nodes.items() if node.advertisement.present):
        for address, where in nodes[name].advertisement.present.items():
            found.setdefault(address, []).append((name, where))
    return frozen_mapping({address: tuple(each) for address, each in found.items()})


def present_on(
    address: Address, nodes: Mapping[NodeName, Node]
) -> tuple[tuple[NodeName, str], ...]:
    """Returns the same for one address. For many addresses `presence` is much faster."""
    return tuple(
        (name, node.advertisement.present[address])
        for name, node in sorted(nodes.items())
        if address in node.advertisement.present
    )


def all_present(nodes: Mapping[NodeName, Node]) -> frozenset[Address]:
    """Returns the addresses that something other than yaim has put on some live node."""
    return frozenset(presence(nodes))


@dataclass(frozen=True, slots=True)
class Mark:
    """The claim of a node on an address, as it stands in etcd."""

    address: Address
    holder: NodeName
    lease: LeaseId
    revision: Revision
    """The revision of its last change (etcd's mod_revision). That is its creation, unless its
    holder has handed it over."""
    is_over_another: bool = False
    """Somebody has put it by hand over another one, whose holder may have the address yet."""
    version: int = 1
    """How often its key has been put (etcd's version): 1, unless it has been handed over."""


def is_in_force(mark: Mark, nodes: Mapping[NodeName, Node]) -> bool:
    """Whether the mark belongs to the present life of its holder."""
    node = nodes.get(mark.holder)
    return node is not None and node.lease == mark.lease


@dataclass(frozen=True, slots=True)
class Order:
    """What all commands of an operator have in common, as it stands in etcd. For people."""

    by: str = ""
    """The user and host that gave it, such as `root@db1`."""
    reason: str = ""
    at: str = ""
    """When, and until when, in UTC (RFC 3339); empty: not told, or without end."""
    until: str = ""
    revision: Revision = Revision(0)
    """The revision of its last change (etcd's mod_revision)."""


@dataclass(frozen=True, slots=True)
class Pin:
    """The address is to be on this node, as long as that can hold it."""

    node: NodeName
    order: Order = Order()


@dataclass(frozen=True, slots=True)
class Move:
    """The address is to go to this node, once; its claim, or the hand-over to it, deletes this."""

    node: NodeName
    order: Order = Order()


@dataclass(frozen=True, slots=True)
class Weight:
    """The node's share: 1 to 100, in proportion to the others'; 1 where none is given."""

    weight: int
    order: Order = Order()


@dataclass(frozen=True, slots=True)
class Member:
    """A node that has been there, whether it lives or not."""

    first_seen: str
    is_stopped: bool
    """It was stopped on purpose."""
    at: str
    """When it joined or was stopped, in UTC (RFC 3339)."""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Control:
    """What operators have asked for: the keys below control/ (yaim/dcs/etcd/keys.py)."""

    revision: Revision = Revision(0)
    """That of the guard, which each command changes; 0: there is none."""
    drains: Mapping[NodeName, Order] = field(default_factory=lambda: frozen_mapping({}))
    """Nodes that are to hold only what no other node can."""
    pause: Order | None = None
    """Nothing moves to be level or by preference."""
    pins: Mapping[Address, Pin] = field(default_factory=lambda: frozen_mapping({}))
    moves: Mapping[Address, Move] = field(default_factory=lambda: frozen_mapping({}))
    weights: Mapping[NodeName, Weight] = field(default_factory=lambda: frozen_mapping({}))
    members: Mapping[NodeName, Member] = field(default_factory=lambda: frozen_mapping({}))
    wrong: tuple[WrongEntry, ...] = ()
    """Keys below control/ that cannot be understood, and count for nothing; each by its name below
    the prefix."""


NO_CONTROL = Control()


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Everything below the cluster's prefix at one revision."""

    revision: Revision
    pool: Mapping[Address, PoolEntry] = field(default_factory=lambda: frozen_mapping({}))
    nodes: Mapping[NodeName, Node] = field(default_factory=lambda: frozen_mapping({}))
    marks: Mapping[Address, Mark] = field(default_factory=lambda: frozen_mapping({}))
    wrong: tuple[WrongEntry, ...] = ()
    stray_nodes: Mapping[NodeName, Node] = field(default_factory=lambda: frozen_mapping({}))
    """Advertisements that are no node's: without a lease, or under a name that none can have."""
    stray_marks: Mapping[Address, Mark] = field(default_factory=lambda: frozen_mapping({}))
    """Marks that are no node's: without a lease, or put over another one."""
    control: Control = NO_CONTROL

    def with_node(self, node: Node) -> "ClusterView":
        """The view after this node's advertisement was written."""
        return replace(
            self,
            revision=max(self.revision, node.revision),
            nodes=frozen_mapping(thawed(self.nodes) | {node.name: node}),
            stray_nodes=_without(self.stray_nodes, {node.name}),
        )

    def without_node(self, name: NodeName, revision: Revision) -> "ClusterView":
        """The view after this node's advertisement was deleted."""
        return replace(
            self,
            revision=max(self.revision, revision),
            nodes=frozen_mapping({n: node for n, node in self.nodes.items() if n != name}),
        )

    def with_marks(self, marks: tuple[Mark, ...], revision: Revision) -> "ClusterView":
        """The view after these marks were written."""
        return replace(
            self,
            revision=max(self.revision, revision),
            marks=frozen_mapping(thawed(self.marks) | {mark.address: mark for mark in marks}),
            stray_marks=_without(self.stray_marks, {mark.address for mark in marks}),
        )

    def without_marks(self, addresses: frozenset[Address], revision: Revision) -> "ClusterView":
        """The view after these marks were deleted."""
        return replace(
            self,
            revision=max(self.revision, revision),
            marks=_without(self.marks, addresses),
            stray_marks=_without(self.stray_marks, addresses),
        )


def _without(mapping: Mapping[Key, Value], keys: Collection[Key]) -> Mapping[Key, Value]:
    if not any(key in mapping for key in keys):
        return mapping
    left = thawed(mapping)
    for key in keys:
        left.pop(key, None)
    return frozen_mapping(left)
