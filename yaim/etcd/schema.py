"""The keys of a cluster in etcd, and how they are read and written.

    <namespace>/<cluster>/
        ips/<address>           empty, or JSON options; put by people
        ips/<address>/marked    the holder's node name, under the holder's lease
        nodes/<name>            JSON advertisement, under the node's lease

What cannot be understood is never acted on: a wrong entry of ips/ becomes a WrongEntry, and an
advertisement that is none counts as that of an unhealthy node.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from math import inf

from yaim.core.model import (
    Address,
    Advertisement,
    ClusterView,
    LeaseId,
    Mark,
    Node,
    NodeName,
    PoolEntry,
    Revision,
    WrongEntry,
    frozen_mapping,
)


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key's value with etcd's bookkeeping."""

    value: bytes
    lease: int
    create_revision: int
    mod_revision: int


class NotUnderstood(ValueError):
    """A key or value that is not of the form described above; the text says why."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The key names of one cluster."""

    prefix: str
    """With a slash at both ends."""

    @classmethod
    def of(cls, namespace: str, cluster: str) -> "Keys":
        """`/service/` and `yaim`, however they are written with slashes: /service/yaim/."""
        parts = [part for part in f"{namespace}/{cluster}".split("/") if part]
        return cls("/" + "".join(f"{part}/" for part in parts))

    def pool_entry(self, address: Address) -> bytes:
        return f"{self.prefix}ips/{address}".encode()

    def mark(self, address: Address) -> bytes:
        return f"{self.prefix}ips/{address}/marked".encode()

    def node(self, name: NodeName) -> bytes:
        return f"{self.prefix}nodes/{name}".encode()

    def all(self) -> tuple[bytes, bytes]:
        """First key and range end of everything below the prefix (etcd: API, key ranges)."""
        start = self.prefix.encode()
        return start, start[:-1] + bytes([start[-1] + 1])

    def view(self, pairs: Mapping[bytes, KeyValue], revision: int) -> ClusterView:
        """The cluster as these keys tell it."""
        pool: dict[Address, PoolEntry] = {}
        marks: dict[Address, Mark] = {}
        nodes: dict[NodeName, Node] = {}
        wrong: list[WrongEntry] = []
        for key, pair in sorted(pairs.items()):
            path = key.decode(errors="backslashreplace").removeprefix(self.prefix)
            kind, _, name = path.partition("/")
            if kind == "nodes":
                nodes[NodeName(name)] = Node(
                    NodeName(name),
                    _read_advertisement(pair.value),
                    LeaseId(pair.lease),
                    Revision(pair.mod_revision),
                )
            elif kind == "ips":
                try:
                    address, is_mark = _read_pool_name(name)
                    if is_mark:
                        marks[address] = Mark(
                            address,
                            NodeName(pair.value.decode(errors="backslashreplace")),
                            LeaseId(pair.lease),
                            Revision(pair.create_revision),
                        )
                    else:
                        pool[address] = _read_pool_entry(address, pair.value)
                except NotUnderstood as error:
                    wrong.append(WrongEntry(name, str(error)))
        return ClusterView(
            Revision(revision),
            frozen_mapping(pool),
            frozen_mapping(nodes),
            frozen_mapping(marks),
            tuple(wrong),
        )


def read_address(text: str) -> Address:
    """An address that can be held, in canonical form."""
    try:
        address = ip_address(text)
    except ValueError:
        raise NotUnderstood(f"{text!r} is not an IPv4 or IPv6 address") from None
    if address.version == 6 and (address.scope_id is not None or address.ipv4_mapped is not None):
        raise NotUnderstood(f"{text!r}: an address with a scope, or IPv4 written as IPv6")
    if str(address) != text:
        raise NotUnderstood(f"{text!r} is not written as {str(address)!r}, its canonical form")
    if address.is_multicast or address.is_unspecified or text == "255.255.255.255":
        raise NotUnderstood(f"{text} is not the address of a host")
    return address


def _read_pool_name(name: str) -> tuple[Address, bool]:
    """The address that a key below ips/ is about, and whether the key is its mark."""
    text, slash, rest = name.partition("/")
    if slash and rest != "marked":
        raise NotUnderstood("expected ips/<address> or ips/<address>/marked")
    return read_address(text), bool(slash)


def _read_pool_entry(address: Address, value: bytes) -> PoolEntry:
    if not value.strip():
        return PoolEntry(address)
    try:
        options = json.loads(value)
    except (ValueError, RecursionError):
        raise NotUnderstood("its value is neither empty nor a JSON object") from None
    if not isinstance(options, dict):
        raise NotUnderstood("its value is neither empty nor a JSON object")
    unknown = options.keys() - {"interface", "prefix", "exclude", "prefer"}
    if unknown:
        raise NotUnderstood(
            f"unknown option {min(unknown)!r}: expected interface, prefix, exclude, prefer"
        )
    interface, prefix = options.get("interface"), options.get("prefix")
    if interface is not None and not isinstance(interface, str):
        raise NotUnderstood(f"interface is {interface!r}, expected a name")
    if prefix is not None and not (type(prefix) is int and 1 <= prefix <= address.max_prefixlen):
        raise NotUnderstood(f"prefix is {prefix!r}, expected 1 to {address.max_prefixlen}")
    return PoolEntry(
        address,
        interface,
        prefix,
        exclude=_read_names(options, "exclude"),
        prefer=_read_names(options, "prefer"),
    )


def _read_names(options: Mapping[str, object], key: str) -> frozenset[NodeName]:
    names = options.get(key, [])
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise NotUnderstood(f"{key} is {names!r}, expected a node name or a list of them")
    return frozenset(NodeName(name) for name in names)


def write_advertisement(advertisement: Advertisement) -> bytes:
    return json.dumps(
        {
            "healthy": advertisement.is_healthy,
            "reason": advertisement.reason,
            "interface": advertisement.interface,
            "networks": {
                interface: [str(network) for network in networks]
                for interface, networks in advertisement.networks.items()
            },
            "refused": sorted(str(address) for address in advertisement.refused),
            "session": advertisement.session,
            "version": advertisement.version,
            "down": sorted(advertisement.down),
            "waits_s": advertisement.waits_s,
        },
        sort_keys=True,
    ).encode()


def _read_seconds(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value < inf:
        raise NotUnderstood(f"{value!r} is no time in seconds")
    return float(value)


def _read_advertisement(value: bytes) -> Advertisement:
    try:
        read = json.loads(value)
        return Advertisement(
            is_healthy=read["healthy"] is True,
            reason=str(read["reason"]),
            interface=str(read["interface"]),
            networks=frozen_mapping(
                {
                    str(interface): tuple(ip_network(network) for network in networks)
                    for interface, networks in read["networks"].items()
                }
            ),
            refused=frozenset(ip_address(address) for address in read["refused"]),
            session=str(read["session"]),
            version=str(read["version"]),
            down=frozenset(str(interface) for interface in read.get("down", ())),
            waits_s=_read_seconds(read.get("waits_s", 0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return Advertisement(
            is_healthy=False,
            reason="its advertisement cannot be read",
            interface="",
            networks=frozen_mapping({}),
            refused=frozenset(),
            session="",
            version="",
        )
