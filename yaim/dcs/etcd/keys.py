"""The keys of a cluster in etcd, and the cluster as they tell it. Does no I/O.

    <namespace>/<cluster>/
        ips/<address>           empty, or JSON options; put by people
        ips/<address>/marked    the holder's node name, under the holder's lease; and if it was
                                handed over, a space and the version of the key
        nodes/<name>            JSON advertisement, under the node's lease
        control/                what operators have asked for, each a JSON object:
            guard               who has given the last command; each command compares and puts it
            drain/<name>        its existence is the drain, whatever the value
            pause               the same
            pin/<address>       with a node
            weight/<name>       with a weight
            move/<address>      with a node; for a minute; whoever follows it deletes it
            member/<name>       that a node has been there; put by the node, without a lease
        timeline/               events of the history, which no decision is taken by:
            <life>/<n>          by one writer, in its order, under a lease that nobody keeps alive
            lost/<name>/<life>  the same, put by whoever sees first that a node is lost

What ends by itself (`--for 2h`) stands under a lease that nobody keeps alive. What the values say
is read and written by yaim/dcs/records.py, orders.py and history.py.

A mark or an advertisement without a lease belongs to no node: every node writes its own under its
lease, so somebody has put it there by hand, or over one that had a lease. It is kept apart
(ClusterView's strays). So is an advertisement under a name that no node can have, and a mark that
was put over another one: nodes put a mark only where there is none, and change one only by handing
over their own (yaim/dcs/etcd/transactions.py). Such a one says its key's version, which no put by
hand does: so it is known to stand there with the will of the holder before.

A key below ips/ that names no address becomes a WrongEntry, and one below control/ that cannot be
understood one of Control.wrong.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias

from yaim.core.model import (
    Address,
    Advertisement,
    ClusterView,
    Control,
    Key,
    LeaseId,
    Mark,
    Member,
    Move,
    Node,
    NodeName,
    Order,
    Pin,
    PoolEntry,
    Revision,
    Value,
    Weight,
    WrongEntry,
    frozen_mapping,
)
from yaim.core.placement import version_of
from yaim.dcs.orders import (
    is_node_name,
    read_member,
    read_move,
    read_node_name,
    read_order,
    read_pin,
    read_weight,
)
from yaim.dcs.records import (
    UNREADABLE,
    NotUnderstood,
    read_address,
    read_node,
    read_pool_entry,
)

MAX_KEYS, MAX_BYTES = 20_000, 16 * 1024 * 1024
"""The most that is read of all that stands below control/, ips/ and nodes/. 2000 addresses with
their marks and 400 nodes, each of which refuses a thousand of them, are half of it; and to read as
much every few seconds costs no keepalive."""
_MAX_NAME_BYTES = 800
_KINDS = ("control", "ips", "nodes")
"""In the order of their keys."""
NOBODYS = "yaim has no such key; expected ips/<address>"
"""What is said of a key below the prefix that is of no kind."""
_MOST_SHOWN_OF_HOLDER, _MOST_SHOWN_OF_NAME = 60, 200
"""The bytes or characters that are shown of a name that is too long."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key's value with etcd's bookkeeping."""

    value: bytes
    lease: int
    create_revision: int
    mod_revision: int
    version: int = 1
    """How often the key has been put since it was created."""


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

    def control(self, what: str, which: Address | NodeName | str = "") -> bytes:
        """A key below control/: of what kind, and of which address or node."""
        path = f"{what}/{which}" if which else what
        return f"{self.prefix}control/{path}".encode(errors="surrogateescape")

    def guard(self) -> bytes:
        return self.control("guard")

    def move(self, address: Address) -> bytes:
        return self.control("move", address)

    def member(self, name: NodeName) -> bytes:
        return self.control("member", name)

    def event(self, life: int, name: str) -> bytes:
        """The key of a writer's event, `life` being the lease that it writes under."""
        return f"{self.prefix}timeline/{life:x}/{name}".encode()

    def lost(self, name: NodeName, life: int) -> bytes:
        """The key of the event that a node is lost, `life` being the node's lease."""
        path = f"{self.prefix}timeline/lost/{name}/{life:x}"
        return path.encode(errors="surrogateescape")

    def timeline(self) -> tuple[bytes, bytes]:
        """The key range of the history."""
        return _range(f"{self.prefix}timeline/")

    def watched(self) -> tuple[bytes, bytes]:
        """The key range that has all of `ranges`, and the history not."""
        ranges = self.ranges()
        return ranges[0][0], ranges[-1][1]

    def all(self) -> tuple[bytes, bytes]:
        """The first key and the range end of everything below the prefix (etcd API, key ranges)."""
        return _range(self.prefix)

    def ranges(self) -> tuple[tuple[bytes, bytes], ...]:
        """The key ranges that belong to yaim: what else stands below the prefix need not be
        read."""
        return tuple(_range(f"{self.prefix}{kind}/") for kind in _KINDS)

    def gaps(self) -> tuple[tuple[bytes, bytes], ...]:
        """The key ranges below the prefix in which yaim puts nothing."""
        start, end = self.all()
        rooms = sorted([*self.ranges(), self.timeline()])
        starts = [start, *(after for _, after in rooms)]
        return tuple(zip(starts, [*(before for before, _ in rooms), end], strict=True))

    def with_nobodys(self, view: ClusterView, found: Iterable[bytes]) -> ClusterView:
        """The view that also tells of keys in the gaps, which are nobody's."""
        names = {key.decode(errors="surrogateescape").removeprefix(self.prefix) for key in found}
        if not names:
            return view
        wrong = {each.name: each for each in view.control.wrong}
        for name in names:
            wrong[name] = WrongEntry(_cut(name), NOBODYS)
        sorted_wrong = tuple(wrong[name] for name in sorted(wrong))
        return replace(view, control=replace(view.control, wrong=sorted_wrong))

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
        self._control = _Control()

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
            is_stray = not pair.lease or not is_node_name(name)
            advertisement, written_at = (UNREADABLE, None) if is_stray else read_node(pair.value)
            node = Node(
                NodeName(name),
                advertisement,
                LeaseId(pair.lease),
                Revision(pair.mod_revision),
                written_at,
            )
            (self._stray_nodes if is_stray else self._nodes).put(node.name, node)
        elif kind == "control":
            self._control.put(name, pair)
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
        elif kind == "control":
            self._control.delete(name)
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
            self._control.all(),
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
        return read_node(self._pairs[key].value)[0]

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
        holder, is_over_another = _read_holder(pair)
        mark = Mark(
            address,
            holder,
            LeaseId(pair.lease),
            Revision(pair.mod_revision),
            is_over_another,
            1 if is_over_another else pair.version,
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


class _Control:
    """What stands below control/, key by key. As long as nothing changes, it is the same object."""

    def __init__(self) -> None:
        self._guard: Revision | None = None
        self._pause: Order | None = None
        self._drains = _Part[NodeName, Order]()
        self._pins = _Part[Address, Pin]()
        self._moves = _Part[Address, Move]()
        self._weights = _Part[NodeName, Weight]()
        self._members = _Part[NodeName, Member]()
        self._wrong = _Part[str, WrongEntry]()
        self._kinds: Mapping[str, _Kind] = {
            "drain": (self._drains, read_node_name, read_order),
            "pin": (self._pins, read_address, read_pin),
            "move": (self._moves, read_address, read_move),
            "weight": (self._weights, read_node_name, read_weight),
            "member": (self._members, read_node_name, read_member),
        }
        self._told: Control | None = Control()

    def put(self, name: str, pair: KeyValue) -> None:
        self.delete(name)
        revision = Revision(pair.mod_revision)
        try:
            if name == "guard":
                self._guard = revision
            elif name == "pause":
                self._pause = read_order(pair.value, revision)
            else:
                what, _, which = name.partition("/")
                if what not in self._kinds:
                    known = "guard, pause, drain/, member/, move/, pin/ or weight/"
                    raise NotUnderstood(f"this yaim does not know it; expected {known}")
                part, read_name, read_value = self._kinds[what]
                part.put(read_name(which), read_value(pair.value, revision))
        except NotUnderstood as error:
            told = f"control/{name}"
            self._wrong.put(told, WrongEntry(_cut(told), str(error)))

    def delete(self, name: str) -> None:
        self._told = None
        self._wrong.drop(f"control/{name}")
        if name == "guard":
            self._guard = None
        elif name == "pause":
            self._pause = None
        else:
            what, _, which = name.partition("/")
            try:
                if what in self._kinds:
                    part, read_name, _ = self._kinds[what]
                    part.drop(read_name(which))
            except NotUnderstood:
                return

    def all(self) -> Control:
        if self._told is None:
            wrong = self._wrong.all()
            self._told = Control(
                self._guard or Revision(0),
                self._drains.all(),
                self._pause,
                self._pins.all(),
                self._moves.all(),
                self._weights.all(),
                self._members.all(),
                tuple(wrong[name] for name in sorted(wrong)),
            )
        return self._told


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
    if slash and rest.isdigit():
        raise NotUnderstood(
            f'a prefix length is no part of the key: put ips/{text} with {{"prefix": {rest}}}'
            f" (yaim pool add {text} --prefix {rest})"
        )
    if slash and rest != "marked":
        raise NotUnderstood("expected ips/<address> or ips/<address>/marked")
    return read_address(text), bool(slash)


_Kind: TypeAlias = tuple[_Part[Any, Any], Callable[[str], Any], Callable[[bytes, Revision], object]]
"""What there is of a kind below control/, and how its name and its value are read."""


def written_holder(node: NodeName, version: int) -> bytes:
    """The value of a mark that is put as this version of its key."""
    name = node.encode(errors="surrogateescape")
    return name if version == 1 else b"%b %d" % (name, version)


def _read_holder(pair: KeyValue) -> tuple[NodeName, bool]:
    """The node that a mark names, and whether somebody has put it over another one. A value that
    is longer than any name is nobody's name."""
    value, is_over_another = pair.value, pair.create_revision != pair.mod_revision
    name, _, version = value.partition(b" ")
    if is_over_another and version == b"%d" % pair.version:
        value, is_over_another = name, False
    if len(value) > _MAX_NAME_BYTES:
        value = value[:_MOST_SHOWN_OF_HOLDER] + b"..."
    return NodeName(value.decode(errors="backslashreplace")), is_over_another


def _cut(name: str) -> str:
    return name if len(name) <= _MOST_SHOWN_OF_NAME else f"{name[:_MOST_SHOWN_OF_NAME]}..."
