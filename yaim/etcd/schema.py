"""The keys of a cluster in etcd, and how they are read and written.

    <namespace>/<cluster>/
        ips/<address>           empty, or JSON options; put by people
        ips/<address>/marked    the holder's node name, under the holder's lease
        nodes/<name>            JSON advertisement, under the node's lease

What cannot be understood is never acted on: an entry of ips/ that names no address becomes a
WrongEntry, one whose options are wrong an entry with a fault, and an advertisement that is none
counts as that of an unhealthy node. An option that is not known here, because it is misspelt or a
newer yaim's, is ignored and told; unless the entry lists it as critical: then that is its fault.

Versions of this, as nodes advertise them (`schema`; none: 1):
    1   An entry of ips/ with an option that is not known is wrong as a whole.
    2   Such an option is ignored, unless `critical` lists it.
Keys and values of a version stay readable for the others: what an advertisement tells more is
ignored by older ones, and what it does not tell has a default. An entry is none for nodes whose
version does not understand it, and the others know which these are (yaim/core/placement.py).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network
from math import inf
from sys import maxsize
from typing import Generic

from yaim.core.model import (
    SCHEMA,
    Address,
    Advertisement,
    ClusterView,
    Key,
    LeaseId,
    Mark,
    Node,
    NodeName,
    PoolEntry,
    Revision,
    Value,
    WrongEntry,
    frozen_mapping,
)

OPTIONS = ("interface", "prefix", "exclude", "prefer")
"""Of an entry of ips/. Beside them `critical` lists those that nobody may ignore."""
_INTERFACE = r"[^\s/:%]{1,127}"


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key's value with etcd's bookkeeping."""

    value: bytes
    lease: int
    create_revision: int
    mod_revision: int


class NotUnderstood(ValueError):
    """A key or value that is not of the form described above; the text says why."""


class NotKnown(NotUnderstood):
    """It may be of a newer version."""


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
        reading = Reading(self)
        for key, pair in sorted(pairs.items()):
            reading.put(key, pair)
        return reading.view(revision)


class Reading:
    """The cluster as its keys tell it, brought up to date key by key. What has not changed is not
    read again, and is the same object in the next view."""

    def __init__(self, keys: Keys) -> None:
        self._prefix = keys.prefix
        self._pairs: dict[bytes, KeyValue] = {}
        self._pool = _Part[Address, PoolEntry]()
        self._nodes = _Part[NodeName, Node]()
        self._marks = _Part[Address, Mark]()
        self._wrong = _Part[str, WrongEntry]()

    def replace(self, pairs: Mapping[bytes, KeyValue]) -> bool:
        """These are all keys; whether that changes anything."""
        gone = self._pairs.keys() - pairs.keys()
        new = [(key, pair) for key, pair in pairs.items() if self._pairs.get(key) != pair]
        for key in gone:
            self.delete(key)
        for key, pair in new:
            self.put(key, pair)
        return bool(gone or new)

    def put(self, key: bytes, pair: KeyValue) -> None:
        self._pairs[key] = pair
        kind, name = self._name(key)
        if kind == "nodes":
            self._nodes.put(
                NodeName(name),
                Node(
                    NodeName(name),
                    _read_advertisement(pair.value),
                    LeaseId(pair.lease),
                    Revision(pair.mod_revision),
                ),
            )
        elif kind == "ips":
            self._forget(name)
            try:
                address, is_mark = _read_pool_name(name)
                if is_mark:
                    holder = NodeName(pair.value.decode(errors="backslashreplace"))
                    mark = Mark(
                        address, holder, LeaseId(pair.lease), Revision(pair.create_revision)
                    )
                    self._marks.put(address, mark)
                else:
                    entry, complaint = _read_pool_entry(address, pair.value)
                    self._pool.put(address, entry)
                    if complaint:
                        self._wrong.put(name, WrongEntry(name, complaint))
            except NotUnderstood as error:
                self._wrong.put(name, WrongEntry(name, str(error)))

    def delete(self, key: bytes) -> None:
        self._pairs.pop(key, None)
        kind, name = self._name(key)
        if kind == "nodes":
            self._nodes.drop(NodeName(name))
        elif kind == "ips":
            self._forget(name)

    def view(self, revision: int) -> ClusterView:
        wrong = self._wrong.all()
        return ClusterView(
            Revision(revision),
            self._pool.all(),
            self._nodes.all(),
            self._marks.all(),
            tuple(wrong[name] for name in sorted(wrong)),
        )

    def _name(self, key: bytes) -> tuple[str, str]:
        """What kind of thing a key is about, and which."""
        path = key.decode(errors="backslashreplace").removeprefix(self._prefix)
        kind, _, name = path.partition("/")
        return kind, name

    def _forget(self, name: str) -> None:
        """What the key below ips/ told before."""
        self._wrong.drop(name)
        try:
            address, is_mark = _read_pool_name(name)
        except NotUnderstood:
            return
        if is_mark:
            self._marks.drop(address)
        else:
            self._pool.drop(address)


class _Part(Generic[Key, Value]):
    """A part of the view; copied for the next view only if it has changed since the last one."""

    def __init__(self) -> None:
        self._now: dict[Key, Value] = {}
        self._told: Mapping[Key, Value] | None = frozen_mapping(self._now)

    def put(self, key: Key, value: Value) -> None:
        self._now[key] = value
        self._told = None

    def drop(self, key: Key) -> None:
        if self._now.pop(key, None) is not None:
            self._told = None

    def all(self) -> Mapping[Key, Value]:
        if self._told is None:
            self._told = frozen_mapping(self._now)
        return self._told


@lru_cache(maxsize=65536)
def read_address(text: str) -> Address:
    """An address that can be held, in canonical form: for one text always the same object, so that
    looking it up compares no numbers."""
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


def _read_pool_entry(address: Address, value: bytes) -> tuple[PoolEntry, str]:
    """And what is wrong with it, if anything."""
    try:
        options = _read_options(value)
        entry = _entry_with(address, options)
    except NotUnderstood as error:
        told = f"{error}; its holder keeps it as it is, and no other node takes it"
        schema = SCHEMA + 1 if isinstance(error, NotKnown) else 1
        return PoolEntry(address, fault=str(error), schema=schema), told
    unknown = sorted(options.keys() - {*OPTIONS, "critical"})
    if not unknown:
        return entry, ""
    words = f"unknown option{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))}"
    return entry, f"{words}: ignored; expected {', '.join(OPTIONS)}"


def _read_options(value: bytes) -> dict[str, object]:
    if not value.strip():
        return {}
    try:
        options = json.loads(value)
    except (ValueError, RecursionError):
        raise NotUnderstood("its value is neither empty nor a JSON object") from None
    if not isinstance(options, dict):
        raise NotUnderstood("its value is neither empty nor a JSON object")
    return options


def _entry_with(address: Address, options: Mapping[str, object]) -> PoolEntry:
    critical = sorted(_read_names(options, "critical", "an option") - {*OPTIONS})
    if critical:
        raise NotKnown(f"{critical[0]!r} is critical, and this version does not know it")
    interface, prefix = options.get("interface"), options.get("prefix")
    if interface is not None and not (
        isinstance(interface, str) and re.fullmatch(_INTERFACE, interface)
    ):
        raise NotUnderstood(f"interface is {interface!r}, expected a name")
    # type(), because True is an int too.
    if prefix is not None and not (type(prefix) is int and 1 <= prefix <= address.max_prefixlen):
        raise NotUnderstood(f"prefix is {prefix!r}, expected 1 to {address.max_prefixlen}")
    return PoolEntry(
        address,
        interface,
        prefix,
        exclude=_read_names(options, "exclude"),
        prefer=_read_names(options, "prefer"),
        schema=1 if options.keys() <= {*OPTIONS} else 2,
    )


def _read_names(
    options: Mapping[str, object], key: str, what: str = "a node name"
) -> frozenset[NodeName]:
    names = options.get(key, [])
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise NotUnderstood(f"{key} is {names!r}, expected {what} or a list of them")
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
            "missing": sorted(advertisement.missing),
            "waits_s": advertisement.waits_s,
            "takes": advertisement.takes,
            "present": {str(address): where for address, where in advertisement.present.items()},
            "placement": advertisement.placement,
            "schema": advertisement.schema,
        },
        sort_keys=True,
    ).encode()


def _read_seconds(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value < inf:
        raise NotUnderstood(f"{value!r} is no time in seconds")
    return float(value)


def _read_version(value: object) -> int:
    if type(value) is not int or value < 1:
        raise NotUnderstood(f"{value!r} is no version")
    return value


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
            missing=frozenset(str(interface) for interface in read.get("missing", ())),
            waits_s=_read_seconds(read.get("waits_s", 0)),
            takes=read.get("takes", True) is not False,
            present=frozen_mapping(
                {ip_address(a): str(where) for a, where in read.get("present", {}).items()}
            ),
            placement=_read_version(read.get("placement", 1)),
            schema=_read_version(read.get("schema", 1)),
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
            # Whatever it knows: what cannot be read here is of a newer version, or no node's.
            placement=maxsize,
            schema=maxsize,
        )
