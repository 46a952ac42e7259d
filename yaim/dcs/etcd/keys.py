"""The keys of a cluster in etcd, and how they are read and written.

    <namespace>/<cluster>/
        ips/<address>           empty, or JSON options; put by people
        ips/<address>/marked    the holder's node name, under the holder's lease
        nodes/<name>            JSON advertisement, under the node's lease

A mark or an advertisement without a lease is no node's: every node writes its own under its lease,
so somebody has put it there by hand, or over one that had a lease. It is kept apart (ClusterView's
strays), and so is an advertisement under a name that no node can have, and a mark that was put over
another one: nodes of all versions put one only where none is (yaim/dcs/etcd/store.py), and
never again.

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
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address, ip_network
from itertools import islice
from math import inf
from sys import maxsize
from typing import Generic

from yaim.core import bounds
from yaim.core.model import (
    SCHEMA,
    Address,
    Advertisement,
    ClusterView,
    Key,
    LeaseId,
    Mark,
    Network,
    Node,
    NodeName,
    PoolEntry,
    Revision,
    Value,
    WrongEntry,
    frozen_mapping,
)
from yaim.core.placement import version_of

OPTIONS = ("interface", "prefix", "exclude", "prefer")
"""Of an entry of ips/. Beside them `critical` lists those that nobody may ignore."""
_INTERFACE = r"[^\s/:%]{1,127}"
_NODE_NAME = re.compile(r"[^\s/\ud800-\udfff]{1,200}")
"""As `nodename` in yaim.yml. 200 characters, so that names stay within a line. A surrogate
stands for a byte that is not UTF-8 (PEP 383)."""
_MAX_NAME_BYTES = 800
_KINDS = ("ips", "nodes")
MAX_KEYS, MAX_BYTES = 20_000, 16 * 1024 * 1024
"""Of all that stands below ips/ and nodes/. 2000 addresses with their marks and 400 nodes, each of
which refuses a thousand of them, are half of it; and to read as much every few seconds costs no
keepalive."""
MAX_VALUE_BYTES = 1024 * 1024
"""Of a key. No advertisement is longer (yaim/core/bounds.py), and etcd takes 1.5 MiB."""
_SHOWN, _LISTED = 60, 8
"""Of what is wrong, in a complaint about it: characters of each, and how many."""
_SHOWN_NAME = 200
"""Characters of the key that it stands under."""


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
        return f"{self.prefix}nodes/{name}".encode(errors="surrogateescape")

    def all(self) -> tuple[bytes, bytes]:
        """First key and range end of everything below the prefix (etcd: API, key ranges)."""
        return _range(self.prefix)

    def ranges(self) -> tuple[tuple[bytes, bytes], ...]:
        """The same of what is yaim's: what else stands below the prefix need not be read."""
        return tuple(_range(f"{self.prefix}{kind}/") for kind in _KINDS)

    def view(self, pairs: Mapping[bytes, KeyValue], revision: int) -> ClusterView:
        """The cluster as these keys tell it."""
        reading = Reading(self)
        for key, pair in sorted(pairs.items()):
            reading.put(key, pair)
        return reading.view(revision)


def _range(prefix: str) -> tuple[bytes, bytes]:
    """All keys that begin so; it ends with a slash."""
    start = prefix.encode()
    return start, start[:-1] + bytes([start[-1] + 1])


class Reading:
    """The cluster as its keys tell it, brought up to date key by key. What has not changed is not
    read again, and is the same object in the next view."""

    def __init__(self, keys: Keys) -> None:
        self._prefix = keys.prefix
        self._pairs: dict[bytes, KeyValue] = {}
        self._bytes = 0
        self._pool = _Part[Address, PoolEntry]()
        self._nodes = _Part[NodeName, Node]()
        self._marks = _Part[Address, Mark]()
        self._stray_nodes = _Part[NodeName, Node]()
        """Their advertisements not read."""
        self._strays_read: tuple[Mapping[NodeName, Node], Mapping[NodeName, Node]] = ({}, {})
        """What they were read from, and read."""
        self._stray_marks = _Part[Address, Mark]()
        self._wrong = _Part[str, WrongEntry]()
        self._wrong_told: tuple[Mapping[str, WrongEntry], tuple[WrongEntry, ...]] = ({}, ())
        """In the order of their names, and what that was made from."""

    def replace(self, pairs: Mapping[bytes, KeyValue]) -> bool:
        """These are all keys; whether that changes anything."""
        pairs = {key: pair for key, pair in pairs.items() if self.counts(key)}
        gone = self._pairs.keys() - pairs.keys()
        new = [(key, pair) for key, pair in pairs.items() if self._pairs.get(key) != pair]
        for key in gone:
            self.delete(key)
        for key, pair in new:
            self.put(key, pair)
        return bool(gone or new)

    def put(self, key: bytes, pair: KeyValue) -> None:
        kind, name = self._name(key)
        if kind not in _KINDS:
            return
        self._bytes += len(key) + len(pair.value) - self._size(key)
        self._pairs[key] = pair
        if kind == "nodes":
            self._forget_node(NodeName(name))
            is_stray = not pair.lease or not _NODE_NAME.fullmatch(name)
            node = Node(
                NodeName(name),
                _UNREADABLE if is_stray else _read_advertisement(pair.value),
                LeaseId(pair.lease),
                Revision(pair.mod_revision),
            )
            (self._stray_nodes if is_stray else self._nodes).put(node.name, node)
        elif kind == "ips":
            self._forget(name)
            try:
                address, is_mark = _read_pool_name(name)
                if is_mark:
                    self._put_mark(address, pair)
                else:
                    entry, complaint = _read_pool_entry(address, pair.value)
                    self._pool.put(address, entry)
                    if complaint:
                        self._wrong.put(name, WrongEntry(name, complaint))
            except NotUnderstood as error:
                self._wrong.put(name, WrongEntry(_cut(name), str(error)))

    def delete(self, key: bytes) -> None:
        self._bytes -= self._size(key)
        self._pairs.pop(key, None)
        kind, name = self._name(key)
        if kind == "nodes":
            self._forget_node(NodeName(name))
        elif kind == "ips":
            self._forget(name)

    def view(self, revision: int) -> ClusterView:
        wrong = self._wrong.all()
        if wrong is not self._wrong_told[0]:
            self._wrong_told = wrong, tuple(wrong[name] for name in sorted(wrong))
        return ClusterView(
            Revision(revision),
            self._pool.all(),
            self._nodes.all(),
            self._marks.all(),
            self._wrong_told[1],
            self._strays(),
            self._stray_marks.all(),
        )

    def _strays(self) -> Mapping[NodeName, Node]:
        """What is no node's. To older nodes it is one, and only then does it matter what it says
        (placement.counted): it may be of any length, and as much as there is room for."""
        strays = self._stray_nodes.all()
        if not strays or version_of(self._nodes.all()) >= 3:
            return strays
        before, read = self._strays_read
        if before is not strays:
            read = frozen_mapping(
                {
                    name: read[name]
                    if before.get(name) is stray
                    else replace(stray, advertisement=self._told_by(name))
                    for name, stray in strays.items()
                }
            )
            self._strays_read = strays, read
        return read

    def _told_by(self, name: NodeName) -> Advertisement:
        key = f"{self._prefix}nodes/{name}".encode(errors="surrogateescape")
        return _read_advertisement(self._pairs[key].value)

    def counts(self, key: bytes) -> bool:
        """Whether the view tells anything of the key."""
        return self._name(key)[0] in _KINDS

    @property
    def is_too_much(self) -> bool:
        """What stands there, to go on reading it."""
        return len(self._pairs) > MAX_KEYS or self._bytes > MAX_BYTES

    def _size(self, key: bytes) -> int:
        """Of what is known of it."""
        pair = self._pairs.get(key)
        return len(key) + len(pair.value) if pair is not None else 0

    def _put_mark(self, address: Address, pair: KeyValue) -> None:
        is_over_another = pair.create_revision != pair.mod_revision
        mark = Mark(
            address,
            _read_holder(pair.value),
            LeaseId(pair.lease),
            Revision(pair.mod_revision),
            is_over_another,
        )
        is_stray = not pair.lease or is_over_another
        (self._stray_marks if is_stray else self._marks).put(address, mark)

    def _forget_node(self, name: NodeName) -> None:
        self._nodes.drop(name)
        self._stray_nodes.drop(name)

    def _name(self, key: bytes) -> tuple[str, str]:
        """What kind of thing a key is about, and which: never the same for two keys."""
        path = key.decode(errors="surrogateescape").removeprefix(self._prefix)
        kind, slash, name = path.partition("/")
        return (kind if slash else "", name)

    def _forget(self, name: str) -> None:
        """What the key below ips/ told before."""
        self._wrong.drop(name)
        try:
            address, is_mark = _read_pool_name(name)
        except NotUnderstood:
            return
        if is_mark:
            self._marks.drop(address)
            self._stray_marks.drop(address)
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
        raise NotUnderstood(f"{_shown(text)} is not an IPv4 or IPv6 address") from None
    if address.version == 6 and (address.scope_id is not None or address.ipv4_mapped is not None):
        raise NotUnderstood(f"{_shown(text)}: an address with a scope, or IPv4 written as IPv6")
    if str(address) != text:
        raise NotUnderstood(f"{text!r} is not written as {str(address)!r}, its canonical form")
    if address.is_multicast or address.is_unspecified or text == "255.255.255.255":
        raise NotUnderstood(f"{text} is not the address of a host")
    return address


def _read_holder(value: bytes) -> NodeName:
    """Of a mark. Longer than any name can be, it is nobody's."""
    if len(value) > _MAX_NAME_BYTES:
        return NodeName(value[:_SHOWN].decode(errors="backslashreplace") + "...")
    return NodeName(value.decode(errors="backslashreplace"))


def _cut(name: str) -> str:
    return name if len(name) <= _SHOWN_NAME else f"{name[:_SHOWN_NAME]}..."


def _shown(what: object) -> str:
    """As Python writes it, in short."""
    text = repr(what[: 2 * _SHOWN] if isinstance(what, str) else what)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


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
    words = f"unknown option{'s' if len(unknown) > 1 else ''} {_listed(unknown)}"
    return entry, f"{words}: ignored; expected {', '.join(OPTIONS)}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(_shown, names[:_LISTED])) + more


def _read_options(value: bytes) -> dict[str, object]:
    if len(value) > MAX_VALUE_BYTES:
        raise NotUnderstood(f"its value has {len(value)} bytes, more than {MAX_VALUE_BYTES}")
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
        raise NotKnown(f"{_shown(critical[0])} is critical, and this version does not know it")
    interface, prefix = options.get("interface"), options.get("prefix")
    if interface is not None and not (
        isinstance(interface, str) and re.fullmatch(_INTERFACE, interface)
    ):
        raise NotUnderstood(f"interface is {_shown(interface)}, expected a name")
    # type(), because True is an int too.
    if prefix is not None and not (type(prefix) is int and 1 <= prefix <= address.max_prefixlen):
        raise NotUnderstood(f"prefix is {_shown(prefix)}, expected 1 to {address.max_prefixlen}")
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
        raise NotUnderstood(f"{key} is {_shown(names)}, expected {what} or a list of them")
    return frozenset(NodeName(name) for name in names)


def write_advertisement(advertisement: Advertisement) -> bytes:
    """`advertisement`: within its bounds (yaim/core/bounds.py)."""
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
        raise NotUnderstood(f"{_shown(value)} is no time in seconds")
    return float(value)


def _read_version(value: object) -> int:
    if type(value) is not int or value < 1:
        raise NotUnderstood(f"{_shown(value)} is no version")
    return value


_UNREADABLE = Advertisement(
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


@lru_cache(maxsize=65536)
def _read_host(text: object) -> Address:
    """Whichever address a host can have."""
    return ip_address(_text(text))


@lru_cache(maxsize=65536)
def _read_network(text: object) -> Network:
    return ip_network(_text(text))


def _text(value: object) -> str:
    """Of an address, or of a network: a number would be one, too, and nobody writes it so."""
    if not isinstance(value, str) or len(value) > _SHOWN:
        raise NotUnderstood(f"{_shown(value)} is no address and no network")
    return value


def _read_networks(read: Mapping[str, list[object]]) -> Mapping[str, tuple[Network, ...]]:
    """Of each interface."""
    networks: dict[str, tuple[Network, ...]] = {}
    left = bounds.MOST_NETWORKS
    for interface, each in islice(read.items(), bounds.MOST_INTERFACES):
        found = tuple(_read_network(text) for text in each[:left])
        networks[interface[: bounds.MOST_NAME]] = found
        left -= len(found)
    return frozen_mapping(networks)


def _read_interfaces(read: list[object]) -> frozenset[str]:
    """Names."""
    return frozenset(str(name)[: bounds.MOST_NAME] for name in read[: bounds.MOST_INTERFACES])


def _read_advertisement(value: bytes) -> Advertisement:
    """Of lists that are longer than a node writes them, the beginning (yaim/core/bounds.py)."""
    try:
        read = json.loads(value if len(value) <= MAX_VALUE_BYTES else b"{}")
        return Advertisement(
            is_healthy=read["healthy"] is True,
            reason=str(read["reason"])[: bounds.MOST_REASON],
            interface=str(read["interface"])[: bounds.MOST_INTERFACE],
            networks=_read_networks(read["networks"]),
            refused=frozenset(map(_read_host, read["refused"][: bounds.MOST_ADDRESSES])),
            session=str(read["session"])[: bounds.MOST_SESSION],
            version=str(read["version"])[: bounds.MOST_VERSION],
            down=_read_interfaces(read.get("down", [])),
            missing=_read_interfaces(read.get("missing", [])),
            waits_s=_read_seconds(read.get("waits_s", 0)),
            takes=read.get("takes", True) is not False,
            present=frozen_mapping(
                {
                    _read_host(address): bounds.where_in_short(str(where))
                    for address, where in islice(
                        read.get("present", {}).items(), bounds.MOST_ADDRESSES
                    )
                }
            ),
            placement=_read_version(read.get("placement", 1)),
            schema=_read_version(read.get("schema", 1)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return _UNREADABLE
