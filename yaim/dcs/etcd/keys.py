"""The keys of a cluster in etcd, and the cluster as they tell it. Does no I/O.

    <namespace>/<cluster>/
        ips/<address>           empty, or JSON options; put by people
        ips/<address>/marked    the holder's node name, under the holder's lease
        nodes/<name>            JSON advertisement, under the node's lease

What the values say is read and written by yaim/dcs/records.py.

A mark or an advertisement without a lease belongs to no node: every node writes its own under its
lease, so somebody has put it there by hand, or over one that had a lease. It is kept apart
(ClusterView's strays). So is an advertisement under a name that no node can have, and a mark that
was put over another one: nodes of all versions put a mark only where there is none
(yaim/dcs/etcd/transactions.py), and never change it.

A key below ips/ that names no address becomes a WrongEntry.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic

from yaim.core.model import (
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
from yaim.core.placement import version_of
from yaim.dcs.records import (
    UNREADABLE,
    NotUnderstood,
    read_address,
    read_advertisement,
    read_pool_entry,
)

MAX_KEYS, MAX_BYTES = 20_000, 16 * 1024 * 1024
"""The most that is read of all that stands below ips/ and nodes/. 2000 addresses with their marks
and 400 nodes, each of which refuses a thousand of them, are half of it; and to read as much every
few seconds costs no keepalive."""
_NODE_NAME = re.compile(r"[^\s/\ud800-\udfff]{1,200}")
"""The names that `nodename` in yaim.yml permits. 200 characters, so that names stay within a line.
A surrogate stands for a byte that is not UTF-8 (PEP 383)."""
_MAX_NAME_BYTES = 800
_KINDS = ("ips", "nodes")
_MOST_SHOWN_OF_HOLDER, _MOST_SHOWN_OF_NAME = 60, 200
"""The bytes or characters that are shown of a name that is too long."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key's value with etcd's bookkeeping."""

    value: bytes
    lease: int
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Keys:
    """The key names of one cluster."""

    prefix: str
    """It has a slash at both ends."""

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
        """The first key and the range end of everything below the prefix (etcd API, key ranges)."""
        return _range(self.prefix)

    def ranges(self) -> tuple[tuple[bytes, bytes], ...]:
        """The key ranges that belong to yaim: what else stands below the prefix need not be
        read."""
        return tuple(_range(f"{self.prefix}{kind}/") for kind in _KINDS)

    def view(self, pairs: Mapping[bytes, KeyValue], revision: int) -> ClusterView:
        """The cluster as these keys tell it."""
        reading = Reading(self)
        for key, pair in sorted(pairs.items()):
            reading.put(key, pair)
        return reading.view(revision)


def _range(prefix: str) -> tuple[bytes, bytes]:
    """All keys that begin with this prefix, which ends with a slash."""
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
        """The nodes whose advertisements are strays; these advertisements are not read."""
        self._strays_read: tuple[Mapping[NodeName, Node], Mapping[NodeName, Node]] = ({}, {})
        """The stray nodes as of the last reading of their advertisements, without them and with
        them."""
        self._stray_marks = _Part[Address, Mark]()
        self._wrong = _Part[str, WrongEntry]()
        self._wrong_told: tuple[Mapping[str, WrongEntry], tuple[WrongEntry, ...]] = ({}, ())
        """The wrong entries of the last view, and the same in the order of their names."""

    def replace(self, pairs: Mapping[bytes, KeyValue]) -> bool:
        """Takes over a full read. Returns whether it changes anything."""
        pairs = {key: pair for key, pair in pairs.items() if self.counts(key)}
        gone = self._pairs.keys() - pairs.keys()
        new = [(key, pair) for key, pair in pairs.items() if self._pairs.get(key) != pair]
        for key in gone:
            self.delete(key)
        for key, pair in new:
            self.put(key, pair)
        return bool(gone or new)

    def put(self, key: bytes, pair: KeyValue) -> None:
        kind, name = self._kind_and_name(key)
        if kind not in _KINDS:
            return
        self._bytes += len(key) + len(pair.value) - self._size(key)
        self._pairs[key] = pair
        if kind == "nodes":
            self._forget_node(NodeName(name))
            is_stray = not pair.lease or not _NODE_NAME.fullmatch(name)
            node = Node(
                NodeName(name),
                UNREADABLE if is_stray else read_advertisement(pair.value),
                LeaseId(pair.lease),
                Revision(pair.mod_revision),
            )
            (self._stray_nodes if is_stray else self._nodes).put(node.name, node)
        elif kind == "ips":
            self._forget_address(name)
            try:
                address, is_mark = _read_address_key(name)
                if is_mark:
                    self._put_mark(address, pair)
                else:
                    entry, complaint = read_pool_entry(address, pair.value)
                    self._pool.put(address, entry)
                    if complaint:
                        self._wrong.put(name, WrongEntry(name, complaint))
            except NotUnderstood as error:
                self._wrong.put(name, WrongEntry(_cut(name), str(error)))

    def delete(self, key: bytes) -> None:
        self._bytes -= self._size(key)
        self._pairs.pop(key, None)
        kind, name = self._kind_and_name(key)
        if kind == "nodes":
            self._forget_node(NodeName(name))
        elif kind == "ips":
            self._forget_address(name)

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
        """The stray nodes. Older nodes take each for a node, and only then does it matter what it
        says (placement.counted): so only then are their advertisements read, which may be of any
        length, and as many as there is room for."""
        strays = self._stray_nodes.all()
        if not strays or version_of(self._nodes.all()) >= 3:
            return strays
        before, read = self._strays_read
        if before is not strays:
            read = frozen_mapping(
                {
                    name: read[name]
                    if before.get(name) is stray
                    else replace(stray, advertisement=self._advertisement_of(name))
                    for name, stray in strays.items()
                }
            )
            self._strays_read = strays, read
        return read

    def _advertisement_of(self, name: NodeName) -> Advertisement:
        key = f"{self._prefix}nodes/{name}".encode(errors="surrogateescape")
        return read_advertisement(self._pairs[key].value)

    def counts(self, key: bytes) -> bool:
        """Whether the view tells anything of the key."""
        return self._kind_and_name(key)[0] in _KINDS

    @property
    def is_too_much(self) -> bool:
        """Whether there is more than may be read on and on."""
        return len(self._pairs) > MAX_KEYS or self._bytes > MAX_BYTES

    def _size(self, key: bytes) -> int:
        """How many bytes of the key and its value count at present; 0 if the key is not known."""
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

    def _forget_address(self, name: str) -> None:
        """Forgets what the key below ips/ with this name has told before."""
        self._wrong.drop(name)
        try:
            address, is_mark = _read_address_key(name)
        except NotUnderstood:
            return
        if is_mark:
            self._marks.drop(address)
            self._stray_marks.drop(address)
        else:
            self._pool.drop(address)

    def _kind_and_name(self, key: bytes) -> tuple[str, str]:
        """Splits a key below the prefix: what kind of thing it is about, and which. Two keys never
        have both in common."""
        path = key.decode(errors="surrogateescape").removeprefix(self._prefix)
        kind, slash, name = path.partition("/")
        return (kind if slash else "", name)


class _Part(Generic[Key, Value]):
    """A part of the view. It is copied for the next view only if it has changed since the last."""

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


def _read_address_key(name: str) -> tuple[Address, bool]:
    """The address that a key below ips/ is about, and whether the key is its mark."""
    text, slash, rest = name.partition("/")
    if slash and rest != "marked":
        raise NotUnderstood("expected ips/<address> or ips/<address>/marked")
    return read_address(text), bool(slash)


def _read_holder(value: bytes) -> NodeName:
    """The node that a mark names. A value that is longer than any name is nobody's name."""
    if len(value) > _MAX_NAME_BYTES:
        return NodeName(value[:_MOST_SHOWN_OF_HOLDER].decode(errors="backslashreplace") + "...")
    return NodeName(value.decode(errors="backslashreplace"))


def _cut(name: str) -> str:
    return name if len(name) <= _MOST_SHOWN_OF_NAME else f"{name[:_MOST_SHOWN_OF_NAME]}..."
