"""What stands in etcd under the prefix, from the bytes that a fuzzer makes: arbitrary keys and
values, and right ones with something wrong in them, put and deleted while a node is at work.

They go all the way: parser, view, the core's step, `yaim status`, log lines. Each check is told by
raw keys and values, so that it shares nothing with the parser.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address, ip_network
from time import thread_time
from typing import Any

from tests.fuzz.packets import Bytes, spliced
from yaim.core.actions import (
    Action,
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    KeepLease,
    ReleaseMarks,
    Report,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.events import (
    AddressAdded,
    CheckAnswered,
    ClusterChanged,
    ClusterRead,
    Event,
    HelperReady,
    LeaseKept,
    MarksClaimed,
    NodeAdvertised,
)
from yaim.core.model import (
    Address,
    Advertisement,
    Boottime,
    ClusterView,
    LeaseId,
    Mark,
    NodeName,
    Revision,
    frozen_mapping,
)
from yaim.core.placement import VERSION, version_of
from yaim.core.settings import Settings
from yaim.core.state.host import Host
from yaim.core.state.state import State
from yaim.core.step import step
from yaim.dcs.etcd.keys import Keys, KeyValue, Reading, written_holder
from yaim.dcs.records import MAX_VALUE_BYTES, write_advertisement
from yaim.host import logs
from yaim.status.as_json import as_json
from yaim.status.facts import status_of
from yaim.status.table import as_table

ME, LEASE, OTHER = NodeName("n1"), LeaseId(0x11), LeaseId(0x22)
KEYS = Keys.of("/service/", "yaim")
PREFIX = KEYS.prefix.encode()
NETWORK, SESSION = ip_network("192.0.2.0/24"), "boot:1"
POOL: tuple[Address, ...] = tuple(ip_address("192.0.2.10") + number for number in range(4))
NOW = datetime(2026, 12, 1, 9, 30, 0, 0, UTC)
LATEST = Revision(20)
"""What is put by the fuzzer comes after."""
TAKES_AT_MOST_S = 2.0
"""The most processor time for one input."""
SHOWN_AT_MOST = 400_000
"""Characters of status or log, for one input."""

Pairs = dict[bytes, KeyValue]

_KEYS = (
    *(f"ips/{each}" for each in POOL),
    *(f"ips/{each}/marked" for each in POOL),
    *("ips/192.0.2.77", "ips/192.0.2.77/marked", "ips/2001:db8::1", "ips/192.0.2.010", "ips/x"),
    *("ips/", "ips/192.0.2.10/", "ips/192.0.2.10/marked/x", "ips/::ffff:192.0.2.10", "ips"),
    *("ips/224.0.0.1", "ips/0.0.0.0", "ips/fe80::1%eth0", "ips/" + "9" * 300),
    *("nodes/n1", "nodes/n2", "nodes/n3", "nodes/", "nodes", "nodes/n2/x", "nodes/n2\n\x1b[2J"),
    *("nodes/" + "n" * 2000, "nodes/é\u202e", "", "x", "/", "//", "config", "nodes/\x85"),
    *("control/guard", "control/pause", "control/drain/n1", "control/drain/n2", "control/drain/n9"),
    *(f"control/{each}/{POOL[0]}" for each in ("pin", "move")),
    *(f"control/{each}/{POOL[1]}" for each in ("pin", "move")),
    *("control/weight/n1", "control/weight/n2", "control/member/n1", "control/member/n3"),
    *("control/pin/x", "control/drain/\x1b[2J", "control/", "control", "control/weight/a b"),
    *("control/other/n1", "control/drain/" + "n" * 2000, "timeline/1/1"),
)
_LEASES = (LEASE, OTHER, 0x33, 0, 0, 1, -1, 2**63 - 1)
_REVISIONS = (1, 5, LATEST, LATEST + 1, LATEST + 9, 0, -1, 2**63 - 2)
_WORDS: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 32, 33, 129, 1.5, 1e308, float("inf"), float("nan")),
    *(2**63, 10**400, "", "n1", "n2", "eth0", "lo", "x" * 3000, "a\nb\x1b[31m", "\u202e", "\ud800"),
    *("192.0.2.10", "192.0.2.0/24", "0.0.0.0/0", "::/0", "2001:db8::1", "192.0.2.999", SESSION),
    *([], {}, [[]], ["n1", "n2"], ["192.0.2.10"], [None], {"eth0": ["192.0.2.0/24"]}, {"": [""]}),
    *({"192.0.2.10": "eth9\n, /24"}, {"192.0.2.11": {}}, {"eth0": None}, [{}], ["eth0"]),
)
_OPTIONS = ("interface", "prefix", "exclude", "prefer", "critical", "x", "a\nb")
_ORDERED = ("node", "weight", "by", "reason", "at", "until", "stopped", "first_seen", "yaim")
_ORDERS: tuple[Any, ...] = (
    *("n1", "n2", "n3", 1, 2, 100, 101, True, False, "2026-12-01T09:30:00Z"),
    *_WORDS,
)
_NESTED = (
    *(b"[" * 3000, b'{"a":' * 3000, b"1" * 5000, b"\xff\xfe", b"n1", b"n2", b"", b" ", b"null"),
    *(b"n1 2", b"n2 2", b"n2 7", b"n2 1"),
)


def advertised(**changes: Any) -> Advertisement:
    told: dict[str, Any] = {
        "is_healthy": True,
        "reason": "HTTP 200",
        "interface": "eth0",
        "networks": frozen_mapping({"eth0": (NETWORK,)}),
        "refused": frozenset(),
        "session": "boot:2",
        "version": "1",
        "placement": VERSION,
    }
    return Advertisement(**told | changes)


@dataclass
class Node:
    """A node at work, and what stands in etcd."""

    state: State
    pairs: Pairs
    now: float
    actions: list[Action] = field(default_factory=list)

    def tell(self, *events: Event) -> list[Action]:
        """Its actions, also those of the steps that follow at once."""
        done: list[Action] = []
        for _ in range(4):
            self.now += 0.001
            taken = step(self.state, events, Boottime(self.now))
            self.state, events = taken.state, ()
            done += taken.actions
            if taken.wake_at is None or taken.wake_at > self.now:
                break
        self.actions += done
        return done


def _last(actions: Iterable[Action], kind: type[Any]) -> Any:
    return [each for each in actions if isinstance(each, kind)][-1]


@cache
def _at_work() -> tuple[State, Mapping[bytes, KeyValue], float]:
    """n1 holds two addresses of four, n2 the others."""
    settings = Settings(ME, "eth0", 32, 128, 5, 1.0, "1")
    pairs = {KEYS.pool_entry(address): KeyValue(b"", 0, 1, 1) for address in POOL}
    pairs[KEYS.node(NodeName("n2"))] = KeyValue(write_advertisement(advertised()), OTHER, 2, 2)
    for address in POOL[2:]:
        pairs[KEYS.mark(address)] = KeyValue(b"n2", OTHER, 3, 3)
    node = Node(State(settings, host=Host(own=frozen_mapping({}))), pairs, 1000.0)
    node.tell()
    node.tell(
        HelperReady(SESSION, (("eth0", (NETWORK,)),), ()),
        CheckAnswered("service", True, "", Boottime(1e9)),
    )
    view = KEYS.view(pairs, 3)
    done = node.tell(ClusterRead(view), LeaseKept(LEASE, 5, Boottime(node.now)))
    advertise = _last(done, AdvertiseNode)
    told = write_advertisement(advertise.advertisement)
    pairs[KEYS.node(ME)] = KeyValue(told, LEASE, 4, 4)
    mine = KEYS.view(pairs, 4).nodes[ME]
    claim = _last(node.tell(NodeAdvertised(advertise.request, mine)), ClaimMarks)
    assert set(claim.addresses) == set(POOL[:2]), claim
    _claimed(node, claim, 5)
    assert len(node.state.held) == 2
    node.tell(ClusterChanged(KEYS.view(pairs, LATEST)))
    return node.state, frozen_mapping(pairs), node.now


def _claimed(node: Node, claim: ClaimMarks, revision: int) -> None:
    """Claims the addresses as etcd does it; and the helper adds them."""
    marks = []
    for address in claim.addresses:
        key = KEYS.mark(address)
        if key not in node.pairs and KEYS.pool_entry(address) in node.pairs:
            node.pairs[key] = KeyValue(ME.encode(), LEASE, revision, revision)
            marks.append(Mark(address, ME, LEASE, Revision(revision)))
    lost = frozenset(claim.addresses) - {mark.address for mark in marks}
    told = MarksClaimed(claim.request, tuple(marks), lost, Revision(revision))
    adds = [each for each in node.tell(told) if isinstance(each, AddAddress)]
    node.tell(*(AddressAdded(each.request, each.address) for each in adds))


# --- from bytes to keys and values -----------------------------------------------------------


def _key(bytes_: Bytes) -> bytes:
    match bytes_.byte() % 8:
        case 0:
            return PREFIX + bytes_.take(bytes_.byte() % 32)
        case 1:
            return PREFIX + b"nodes/" + bytes_.take(bytes_.byte() % 32)
        case 2:
            short = Bytes(bytes_.take(bytes_.byte() % 16))
            return PREFIX + spliced(bytes_.one_of(_KEYS).encode(), short)
        case _:
            return PREFIX + str(bytes_.one_of(_KEYS)).encode()


def _value(bytes_: Bytes) -> bytes:
    kind = bytes_.byte() % 8
    if kind == 0:
        return bytes_.take(bytes_.byte())
    if kind in (1, 2):
        nested: bytes = bytes_.one_of(_NESTED)
        return nested
    if kind == 3:
        order = {bytes_.one_of(_ORDERED): bytes_.one_of(_ORDERS) for _ in range(bytes_.byte() % 6)}
        return json.dumps({"version": 1, **order}).encode()
    if kind == 4:
        options = {bytes_.one_of(_OPTIONS): bytes_.one_of(_WORDS) for _ in range(bytes_.byte() % 4)}
        return json.dumps(options).encode()
    right = advertised(session=bytes_.one_of(("boot:2", SESSION)))
    told = json.loads(write_advertisement(right))
    names = tuple(sorted(told))
    for _ in range(bytes_.byte() % 4):
        told[bytes_.one_of((*names, "x"))] = bytes_.one_of(_WORDS)
    text = json.dumps(told).encode()
    return spliced(text, Bytes(bytes_.take(6))) if kind == 5 else text


@dataclass(frozen=True)
class Outcome:
    before: State
    stood: Mapping[bytes, KeyValue]
    """What stood in etcd when the node was told."""
    view: ClusterView
    node: Node
    table: str
    json: str
    log: str
    took_s: float


def outcome(data: bytes) -> Outcome:
    """Raises whatever the code under test raises."""
    began = thread_time()
    state, pairs, now = _at_work()
    node = Node(state, dict(pairs), now)
    reading = Reading(KEYS)
    reading.replace(node.pairs)
    bytes_, revision = Bytes(data), int(LATEST)
    while bytes_:
        revision += 1
        key, what = _key(bytes_), bytes_.byte()
        if what % 8 == 0:
            node.pairs.pop(key, None)
            reading.delete(key)
            continue
        lease, created = bytes_.one_of(_LEASES), bytes_.one_of(_REVISIONS)
        pair = KeyValue(
            _value(bytes_), lease, created, max(created, revision), bytes_.one_of((1, 2, 7))
        )
        node.pairs[key] = pair
        reading.put(key, pair)
        if what % 8 == 1:
            node.tell(ClusterChanged(reading.view(revision)))
    view = reading.view(revision + 1)
    # What was told on the way is checked by the raw keys of that instant, so only by this one.
    before, stood = node.state, dict(node.pairs)
    node.actions.clear()
    node.tell(ClusterRead(view))
    for claim in [each for each in node.actions if isinstance(each, ClaimMarks)]:
        _claimed(node, claim, revision + 2)
    status = status_of(KEYS.prefix, view, alarms=("NOSPACE",) if revision % 2 else (), now=NOW)
    table, as_json_ = as_table(status), as_json(status)
    log = "\n".join(_logged(each.text) for each in node.actions if isinstance(each, Report))
    return Outcome(before, stood, view, node, table, as_json_, log, thread_time() - began)


@cache
def _handler() -> logging.Handler:
    """The log's handler as the coordinator has it."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        logs.start(logging.INFO, {})
        return root.handlers[0]
    finally:
        root.handlers = handlers


def _logged(text: str) -> str:
    record = logging.LogRecord("yaim.coordinator.loop", logging.INFO, "", 0, "%s", (text,), None)
    handler = _handler()
    filtered = handler.filter(record)
    return handler.format(filtered if isinstance(filtered, logging.LogRecord) else record)


# --- what must hold ----------------------------------------------------------------------------


def is_bounded(found: Outcome) -> None:
    """Checks that the outcome is bounded in time and in what comes out."""
    assert found.took_s < TAKES_AT_MOST_S, found.took_s
    assert max(map(len, (found.table, found.json, found.log))) <= SHOWN_AT_MOST
    json.loads(found.json)


def is_read_the_same_at_once(found: Outcome) -> None:
    """Key by key, as a watch tells it, or all together."""
    assert KEYS.view(found.stood, found.view.revision) == found.view


def acts_on_its_own_only(found: Outcome) -> None:
    """Claims what is in the pool and unmarked, releases what is marked by it, adds what is."""
    before = found.before.lease.current
    deadline = before.deadline if before is not None else 0.0
    for action in found.node.actions:
        match action:
            case ClaimMarks(addresses=addresses, lease=lease):
                assert lease == LEASE, action
                for each in addresses:
                    assert KEYS.pool_entry(each) in found.stood, action
                    assert KEYS.mark(each) not in found.stood, action
            case AdvertiseNode(lease=lease, release=marks):
                assert lease == LEASE, action
                _are_mine(found, marks)
            case WithdrawNode(release=marks):
                _are_mine(found, marks)
            case ReleaseMarks(marks=marks, heirs=heirs):
                _are_mine(found, marks)
                for heir in heirs.values():
                    pair = found.stood[KEYS.node(heir.node)]
                    assert heir.lease == pair.lease, action
                    assert heir.node != ME and heir.lease, action
            case AddAddress(address=address, deadline=until):
                mark = found.node.pairs[KEYS.mark(address)]
                assert mark.lease == LEASE and mark.value in _mine(mark), action
                assert until <= deadline, action
            case _:
                pass


def _are_mine(found: Outcome, marks: Iterable[Mark]) -> None:
    for mark in marks:
        pair = found.node.pairs[KEYS.mark(mark.address)]
        assert pair.lease == LEASE and pair.value in _mine(pair), mark


def _mine(pair: KeyValue) -> tuple[bytes, bytes]:
    """The values of a mark of ours: as we put it, and as it is handed over to us."""
    return ME.encode(), written_holder(ME, pair.version)


def keeps_its_own_lease(found: Outcome) -> None:
    """A node at work has one: it takes over no other."""
    for action in found.node.actions:
        if isinstance(action, KeepLease | RevokeLease):
            assert action.lease == LEASE, action
    lease = found.node.state.lease.current
    assert lease == found.before.lease.current or lease is None


def gives_nothing_to_whom_has_no_lease(found: Outcome) -> None:
    """Unless it is a node to one of an older version: what that leaves to it is left for all."""
    if version_of(found.view.nodes) < 3:
        return
    for address, name in found.node.state.placed.target.items():
        pair = found.stood.get(KEYS.node(name))
        assert pair is not None and pair.lease != 0, (address, name)


def shows_nothing_unprintable(found: Outcome) -> None:
    for line in (*found.table.split("\n"), *found.log.split("\n")):
        assert line.isprintable(), line


def tells_what_is_read(found: Outcome) -> None:
    """An advertisement that is not read as it is written would be written for ever."""
    for action in found.node.actions:
        if isinstance(action, AdvertiseNode):
            told = write_advertisement(action.advertisement)
            assert len(told) <= MAX_VALUE_BYTES
            read = KEYS.view({KEYS.node(ME): KeyValue(told, LEASE, 1, 1)}, 1).nodes[ME]
            assert read.advertisement == action.advertisement


CHECKS: tuple[Callable[[Outcome], None], ...] = (
    is_bounded,
    is_read_the_same_at_once,
    acts_on_its_own_only,
    keeps_its_own_lease,
    gives_nothing_to_whom_has_no_lease,
    shows_nothing_unprintable,
    tells_what_is_read,
)


def etcd(data: bytes) -> None:
    """All that must hold, whatever stands in etcd."""
    found = outcome(data)
    for check in CHECKS:
        check(found)
