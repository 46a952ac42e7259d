"""The model etcd held against a real one: the same requests get the same answers.

Random sequences of what nodes and people ask are given to both; the real one is asked through
yaim's own EtcdStore. Lease ids differ, and revisions by a constant: after every request answers
and full views must be equal otherwise. Leases run in real time, which the model's clock follows.

Not compared: what a request that fails says besides its reason, how long answers take, and what
clocks showed.
"""

import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from math import inf
from queue import SimpleQueue
from random import Random
from typing import TypeVar, assert_never

import etcd3.etcdrpc as rpc
import pytest

from tests.dcs.etcd.conftest import BY_DEFAULT, EtcdServer
from tests.sim.etcd import EXTENDED_S, NO_LEASE, NOBODY, SCAN_EVERY_S, ModelEtcd, Refuses
from tests.sim.first import going_first
from tests.sim.orders import move
from tests.sim.timeline import Timeline, address
from yaim.core.actions import (
    AdvertiseNode,
    ClaimMarks,
    GrantLease,
    Heir,
    KeepLease,
    Note,
    ReadCluster,
    ReleaseMarks,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.events import (
    ClusterChanged,
    ClusterRead,
    Event,
    LeaseFailed,
    LeaseGone,
    LeaseKept,
    LeaseRevoked,
    MarksClaimed,
    MarksReleased,
    NodeAdvertised,
    NodeNotAdvertised,
    NodeWithdrawn,
    WriteFailed,
)
from yaim.core.model import (
    Address,
    Advertisement,
    Boottime,
    ClusterView,
    LeaseId,
    Mark,
    Member,
    Move,
    Node,
    NodeName,
    Order,
    PoolEntry,
    Revision,
    WrongEntry,
    frozen_mapping,
)
from yaim.dcs.etcd.access import EtcdAccess
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.keys import Keys
from yaim.dcs.etcd.store import EtcdAction, EtcdStore
from yaim.dcs.etcd.transactions import compare_mod_revision, put_of
from yaim.host.boottime import boottime

SEQUENCES = 30
OPERATIONS = 40
NODES = tuple(NodeName(f"n{number}") for number in (1, 2, 3))
ADDRESSES = tuple(address(number) for number in range(10, 15))
WRONG = WrongEntry("192.0.2.010", "'192.0.2.010' is not an IPv4 or IPv6 address")
MIN_TTL_S = 2
"""The least TTL of an etcd with its default election timeout of 1 s: one and a half of that, in
whole seconds."""
NEVER_GRANTED = LeaseId(7)
ANSWER_WITHIN_S = 20.0
GONE_WITHIN_S = 30.0
BUSY_S = 1.0
"""What a busy machine may add to anything."""

T = TypeVar("T")


# --- the two worlds --------------------------------------------------------------------------


class RealNode:
    """A node's EtcdStore, and what it has posted."""

    def __init__(self, url: str, keys: Keys, name: NodeName) -> None:
        self._events: SimpleQueue[Event] = SimpleQueue()
        self.watched: ClusterView | None = None
        client = EtcdClient(EtcdAccess((url,)), ANSWER_WITHIN_S / 2)
        self._store = EtcdStore(client, keys, name, self._events.put)

    def ask(self, action: EtcdAction) -> Event:
        self._store.submit(action)
        while True:
            event = self._next()
            if not isinstance(event, ClusterChanged):
                return event

    def watch_until(self, revision: int) -> ClusterView:
        """The watch's view when it has come so far."""
        while self.watched is None or self.watched.revision < revision:
            self._next()
        return self.watched

    def _next(self) -> Event:
        event = self._events.get(timeout=ANSWER_WITHIN_S)
        match event:
            case ClusterChanged(view):
                self.watched = without_clocks(view)
            case ClusterRead(view):
                return ClusterRead(without_clocks(view))
            case NodeAdvertised(request, node):
                return NodeAdvertised(request, replace(node, written_at=None))
        return event


def without_clocks(view: ClusterView) -> ClusterView:
    nodes = {name: replace(node, written_at=None) for name, node in view.nodes.items()}
    control = replace(
        view.control,
        members=frozen_mapping(
            {
                name: Member("", member.is_stopped, "")
                for name, member in view.control.members.items()
            }
        ),
        moves=frozen_mapping(
            {each: Move(move.node, Order()) for each, move in view.control.moves.items()}
        ),
    )
    return replace(view, nodes=frozen_mapping(nodes), control=control)


class RealEtcd:
    """The nodes of a cluster, and somebody with etcdctl."""

    def __init__(self, server: EtcdServer) -> None:
        self.server = server
        self.keys = Keys.of("/service/", "yaim")
        self.client = EtcdClient(EtcdAccess((server.url,)), ANSWER_WITHIN_S / 2)
        self.nodes = {name: RealNode(server.url, self.keys, name) for name in NODES}

    def view(self) -> ClusterView:
        return without_clocks(self.keys.view(*self.client.read_all(*self.keys.all())))

    def put_entry(self, entry: PoolEntry) -> None:
        prefer = ",".join(f'"{name}"' for name in sorted(entry.prefer))
        value = f'{{"prefer": [{prefer}]}}' if prefer else ""
        self.client.put(self.keys.pool_entry(entry.address), value.encode())

    def order_move(self, each: Address, to: NodeName, lease: int, seen: int) -> bool:
        """An operator asks for a move, who has seen the guard at this revision."""
        guard, move = self.keys.guard(), self.keys.move(each)
        puts = [
            put_of(guard, b"{}"),
            put_of(move, f'{{"version": 1, "node": "{to}"}}'.encode(), lease),
        ]
        same = compare_mod_revision(guard, seen)
        return bool(self.client.transact(rpc.TxnRequest(compare=[same], success=puts)).succeeded)

    def clean_up(self) -> None:
        for key in self.client.read_all(*self.keys.all())[0]:
            self.client.delete(key)


@pytest.fixture(scope="module", autouse=True)
def first() -> Iterator[None]:
    with going_first():
        yield


@pytest.fixture(scope="module")
def server(first: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"), None, *BY_DEFAULT)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def nodes_and_etcd(server: EtcdServer) -> RealEtcd:
    """Once for all tests: a store's threads end with the process only."""
    return RealEtcd(server)


@pytest.fixture
def real(nodes_and_etcd: RealEtcd) -> Iterator[RealEtcd]:
    nodes_and_etcd.clean_up()
    yield nodes_and_etcd
    nodes_and_etcd.clean_up()


@dataclass
class Both:
    """The real etcd, the model, and what is what in the other."""

    real: RealEtcd
    answers: defaultdict[type[EtcdAction], set[type[Event]]] = field(
        default_factory=lambda: defaultdict(set)
    )
    """What kinds of answers there were to each kind of request."""
    leases: dict[LeaseId, LeaseId] = field(default_factory=lambda: {LeaseId(0): LeaseId(0)})
    """Those of the model in the real one."""

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.timeline = Timeline(is_told=False)
        self.model = ModelEtcd(self.timeline, MIN_TTL_S, *[lambda *_: None] * 4)
        self.offset = self.real.view().revision - self.model.revision
        """The distance of the real revisions to the model's."""

    def catch_up(self) -> None:
        """The model's clock follows."""
        self.timeline.run(max(self.timeline.now, time.monotonic() - self.began))

    def ask(self, node: NodeName, action: EtcdAction) -> Event:
        """The model's answer, after it was compared. A request that has to wait in the model has
        to in reality."""
        self.catch_up()
        answer = self.model.do(action, node, Boottime(0.0))
        before, sent_at = time.monotonic(), boottime()
        told = self.real.nodes[node].ask(self._in_real(action))
        while answer is None:
            assert time.monotonic() < before + ANSWER_WITHIN_S
            self.timeline.run(self.timeline.now + 0.05)
            answer = self.model.do(action, node, Boottime(0.0))
        if isinstance(told, LeaseKept) and isinstance(answer, LeaseKept):
            assert sent_at <= told.sent_at <= boottime()
            answer = replace(answer, sent_at=told.sent_at)
            if isinstance(action, GrantLease):
                self.leases[answer.lease] = told.lease
        self.answers[type(action)].add(type(answer))
        assert_same(self._as_real(answer), told)
        return answer

    def compare_views(self) -> None:
        assert self._view(self.model.view()) == self.real.view()

    def compare_watches(self) -> None:
        view = self._view(self.model.view())
        for name in NODES:
            assert self.real.nodes[name].watch_until(view.revision) == view

    # --- of the model, as it is in the real one --------------------------------------------

    def _lease(self, lease: LeaseId) -> LeaseId:
        return self.leases.get(lease, lease)

    def revision(self, revision: Revision) -> Revision:
        return Revision(revision + self.offset) if revision else revision

    def _mark(self, mark: Mark) -> Mark:
        lease, revision = self._lease(mark.lease), self.revision(mark.revision)
        return replace(mark, lease=lease, revision=revision)

    def _marks(self, marks: tuple[Mark, ...]) -> tuple[Mark, ...]:
        return tuple(self._mark(mark) for mark in marks)

    def _node(self, node: Node) -> Node:
        lease, revision = self._lease(node.lease), self.revision(node.revision)
        return replace(node, lease=lease, revision=revision)

    def _view(self, view: ClusterView) -> ClusterView:
        return ClusterView(
            self.revision(view.revision),
            view.pool,
            frozen_mapping({name: self._node(node) for name, node in view.nodes.items()}),
            frozen_mapping({each: self._mark(mark) for each, mark in view.marks.items()}),
            view.wrong,
            frozen_mapping({name: self._node(node) for name, node in view.stray_nodes.items()}),
            frozen_mapping({each: self._mark(mark) for each, mark in view.stray_marks.items()}),
            without_clocks(
                replace(
                    view,
                    control=replace(view.control, revision=self.revision(view.control.revision)),
                )
            ).control,
        )

    def _in_real(self, action: EtcdAction) -> EtcdAction:
        match action:
            case ReadCluster() | GrantLease():
                return action
            case KeepLease(lease) | RevokeLease(lease):
                return replace(action, lease=self._lease(lease))
            case AdvertiseNode():
                return replace(
                    action,
                    lease=self._lease(action.lease),
                    replaces=self.revision(action.replaces),
                    release=self._marks(action.release),
                )
            case WithdrawNode():
                return replace(
                    action,
                    lease=self._lease(action.lease),
                    advertised=self.revision(action.advertised),
                    release=self._marks(action.release),
                )
            case ClaimMarks():
                return replace(
                    action,
                    lease=self._lease(action.lease),
                    advertised=self.revision(action.advertised),
                )
            case ReleaseMarks():
                return replace(
                    action,
                    marks=self._marks(action.marks),
                    advertised=self.revision(action.advertised),
                    heirs=frozen_mapping(
                        {
                            each: replace(heir, lease=self._lease(heir.lease))
                            for each, heir in action.heirs.items()
                        }
                    ),
                )
            case Note():
                raise AssertionError("nobody waits for an answer")
            case _:
                assert_never(action)

    def _as_real(self, answer: Event) -> Event:
        match answer:
            case ClusterRead(view):
                return ClusterRead(self._view(view))
            case LeaseKept(lease) | LeaseGone(lease) | LeaseRevoked(lease):
                return replace(answer, lease=self._lease(lease))
            case NodeAdvertised(request, node):
                return NodeAdvertised(request, self._node(node))
            case MarksClaimed(request, marks, lost, revision):
                return MarksClaimed(request, self._marks(marks), lost, self.revision(revision))
            case MarksReleased(request, addresses, revision, handed):
                marks = self._marks(handed)
                return MarksReleased(request, addresses, self.revision(revision), marks)
            case NodeWithdrawn(revision=revision):
                return replace(answer, revision=self.revision(revision))
            case _:
                return answer


def assert_same(expected: Event, told: Event) -> None:
    """Real errors say where they happened, too."""
    if isinstance(expected, WriteFailed) and isinstance(told, WriteFailed):
        assert told.reason.endswith(expected.reason)
        told = replace(told, reason=expected.reason)
    assert told == expected


# --- random requests -------------------------------------------------------------------------


class Author:
    """Makes up requests: mostly what a node would ask now, and what it would have asked before
    something that it has not seen."""

    def __init__(self, both: Both, seed: int) -> None:
        self._both = both
        self._model = both.model
        self._random = Random(seed)
        self._request = 0
        self._leases: dict[NodeName, list[LeaseId]] = {name: [NEVER_GRANTED] for name in NODES}
        """The leases of each node, the newest last."""
        self._revisions = [Revision(0)]
        """That anything ever had."""
        self._marks: list[Mark] = []
        """All there ever were."""

    def go_on(self) -> None:
        """One more request, in both worlds."""
        node = self._random.choice(NODES)
        if self._random.random() < 0.2:
            self._by_hand()
        else:
            answer = self._both.ask(node, self._action(node))
            if isinstance(answer, LeaseKept):
                self._leases[node].append(answer.lease)
        view = self._model.view()
        self._revisions += [each.revision for each in view.nodes.values()]
        marks = (*view.marks.values(), *view.stray_marks.values())
        self._marks += [mark for mark in marks if mark not in self._marks]
        self._both.compare_views()

    def _action(self, node: NodeName) -> EtcdAction:
        self._request += 1
        lease, advertised = self._lease(node), self._revision(node)
        match self._random.randrange(14):
            case 0:
                return ReadCluster()
            case 1:
                return GrantLease(self._random.choice((60, 90)))
            case 2:
                return KeepLease(lease)
            case 3:
                return RevokeLease(lease)
            case 4 | 5 | 6:
                release = self._some_marks(node) if self._random.random() < 0.3 else ()
                told, joins = self._advertisement(node), self._random.random() < 0.3
                return AdvertiseNode(self._request, told, lease, advertised, release, joins)
            case 7:
                marks, is_stopped = self._some_marks(node), self._random.random() < 0.5
                return WithdrawNode(self._request, lease, advertised, marks, is_stopped)
            case 8 | 9 | 10:
                count = self._random.randint(1, len(ADDRESSES))
                wanted = tuple(self._random.sample(ADDRESSES, count))
                return ClaimMarks(self._request, wanted, lease, advertised, self._moved(wanted))
            case _:
                marks = self._some_marks(node) or (Mark(ADDRESSES[0], node, lease, Revision(1)),)
                moved = self._moved(tuple(mark.address for mark in marks))
                return ReleaseMarks(self._request, marks, advertised, self._heirs(marks), moved)

    def _moved(self, addresses: tuple[Address, ...]) -> frozenset[Address]:
        return frozenset(each for each in addresses if self._random.random() < 0.5)

    def _heirs(self, marks: tuple[Mark, ...]) -> Mapping[Address, Heir]:
        """Of some of these; seldom with a lease that is not there."""
        found = {}
        for mark in marks:
            node = self._random.choice(NODES)
            if mark.lease and not mark.is_over_another and self._random.random() < 0.6:
                heir = Heir(node, self._lease(node))
                known = self._model.nodes.get(node)
                if known is not None and self._random.random() < 0.8:
                    heir = Heir(node, known.lease)
                found[mark.address] = heir
        return frozen_mapping(found)

    def _lease(self, node: NodeName) -> LeaseId:
        """Its newest, seldom another one, perhaps a dead one."""
        if self._random.random() < 0.85:
            return self._leases[node][-1]
        return self._random.choice([each for leases in self._leases.values() for each in leases])

    def _revision(self, node: NodeName) -> Revision:
        """Returns the revision of its advertisement, seldom another one."""
        if self._random.random() < 0.15:
            return self._random.choice(self._revisions)
        known = self._model.nodes.get(node)
        return known.revision if known is not None else Revision(0)

    def _some_marks(self, node: NodeName) -> tuple[Mark, ...]:
        """Returns marks of different addresses; some as they are, some as they were."""
        chosen: dict[Address, Mark] = {}
        for mark in self._random.sample(self._marks, min(3, len(self._marks))):
            chosen[mark.address] = mark
        for mark in self._model.marks.values():
            if mark.holder == node and self._random.random() < 0.5:
                chosen[mark.address] = mark
        for mark in self._model.stray_marks.values():
            if self._random.random() < 0.3:
                chosen[mark.address] = mark
        return tuple(chosen.values())

    def _advertisement(self, node: NodeName) -> Advertisement:
        return Advertisement(
            is_healthy=self._random.random() < 0.7,
            reason=f"reason {self._request}",
            interface="eth0",
            networks=frozen_mapping({"eth0": (ip_network("192.0.2.0/24"),)}),
            refused=frozenset(self._random.sample(ADDRESSES, 1)),
            session=f"{node}-1",
            version="sim",
        )

    def _by_hand(self) -> None:
        model, real = self._model, self._both.real
        each = self._random.choice(ADDRESSES)
        match self._random.randrange(8):
            case 6 | 7:
                self._order_move(each)
            case 0 | 1 | 2:
                entry = PoolEntry(each, prefer=frozenset(self._random.sample(NODES, 1)))
                entry = self._random.choice((entry, PoolEntry(each)))
                model.put_entry(entry)
                real.put_entry(entry)
            case 3:
                model.delete_entry(each)
                real.client.delete(real.keys.pool_entry(each))
            case 4:
                key = f"{real.keys.prefix}ips/{WRONG.name}".encode()
                if model.wrong:
                    model.put_wrong()
                    real.client.delete(key)
                else:
                    model.put_wrong(WRONG)
                    real.client.put(key, b"")
            case _:
                holder, lease = NOBODY, NO_LEASE
                if model.leases and self._random.random() < 0.5:
                    holder = self._random.choice(NODES)
                    lease = self._random.choice(sorted(model.leases))
                real.client.put(real.keys.mark(each), holder.encode(), self._both.leases[lease])
                model.put_mark(each, holder, lease)

    def _order_move(self, each: Address) -> None:
        """Perhaps another operator was first."""
        model, real, to = self._model, self._both.real, self._random.choice(NODES)
        seen = model.view().control.revision
        if self._random.random() < 0.2:
            seen = Revision(seen + 1)
        answer = self._both.ask(to, GrantLease(90))
        assert isinstance(answer, LeaseKept)
        self._leases[to].insert(0, answer.lease)
        told = real.order_move(each, to, self._both.leases[answer.lease], self._both.revision(seen))
        assert model.order_under(move(each, to), seen, answer.lease) == told

    def end(self) -> None:
        """All leases, in both worlds: what is left of this sequence bothers no other one."""
        for node, leases in self._leases.items():
            for lease in leases:
                self._both.ask(node, RevokeLease(lease))
        # What a node has read before its watch could tell it, that does not tell: this it does.
        self._model.put_entry(PoolEntry(ADDRESSES[0]))
        self._both.real.put_entry(PoolEntry(ADDRESSES[0]))
        self._both.compare_views()


ANSWERS = {
    ReadCluster: {ClusterRead},
    GrantLease: {LeaseKept},
    KeepLease: {LeaseKept, LeaseGone},
    RevokeLease: {LeaseRevoked, LeaseGone},
    AdvertiseNode: {NodeAdvertised, NodeNotAdvertised, WriteFailed},
    WithdrawNode: {NodeWithdrawn, WriteFailed},
    ClaimMarks: {MarksClaimed, WriteFailed},
    ReleaseMarks: {MarksReleased},
}


def test_random_requests_are_answered_alike(real: RealEtcd) -> None:
    answers: defaultdict[type[EtcdAction], set[type[Event]]] = defaultdict(set)
    for seed in range(SEQUENCES):
        real.clean_up()
        both = Both(real, answers)
        author = Author(both, seed)
        for number in range(OPERATIONS):
            try:
                author.go_on()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, operation {number}: {error}") from error
        author.end()
        both.compare_watches()
    assert answers == ANSWERS, "not every kind of answer was seen"


def test_an_etcd_that_is_full_answers_alike(real: RealEtcd) -> None:
    """It is told that it was refused for want of space."""
    both = Both(real)
    name = NODES[0]
    for each in ADDRESSES[:2]:
        both.model.put_entry(PoolEntry(each))
        real.put_entry(PoolEntry(each))
    lease = Advertised.under(both, name, 60).lease
    with full(real):
        both.model.fill(inf, Refuses.NOTHING)
        refused = both.model.do(GrantLease(60), name, Boottime(0.0))
        told = real.nodes[name].ask(GrantLease(60))
        assert isinstance(refused, LeaseFailed) and isinstance(told, LeaseFailed)
        assert refused.reason in told.reason
        assert isinstance(both.ask(name, KeepLease(lease)), LeaseKept)
        revision = both.model.nodes[name].revision
        claimed = both.ask(name, ClaimMarks(2, ADDRESSES[:2], lease, revision))
        assert isinstance(claimed, MarksClaimed) and len(claimed.marks) == 2
        ill = replace(both.model.nodes[name].advertisement, is_healthy=False)
        told = both.ask(name, AdvertiseNode(3, ill, lease, revision, claimed.marks[:1]))
        assert isinstance(told, NodeAdvertised)
        both.ask(name, ReleaseMarks(4, claimed.marks[1:], told.node.revision))
        assert both.ask(name, WithdrawNode(5, lease, told.node.revision, ())) == NodeWithdrawn(
            5, both.model.view().revision
        )
        both.compare_views()
        both.ask(name, RevokeLease(lease))


@contextmanager
def full(real: RealEtcd) -> Iterator[None]:
    """More is in it than it may hold."""
    quota = "--quota-backend-bytes=1"
    try:
        real.server.stop()
        real.server.add_options(quota)
        real.server.start()
        yield
    finally:
        real.server.stop()
        real.server.add_options("--quota-backend-bytes=0")
        real.server.start()
        real.server.ctl("alarm", "disarm")


# --- leases in time --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Advertised:
    """A node with a lease."""

    both: Both
    name: NodeName
    lease: LeaseId
    at: float
    """When the lease had been granted."""
    since: float
    """Not before."""

    @classmethod
    def under(cls, both: Both, name: NodeName, ttl_s: int) -> "Advertised":
        since = time.monotonic()
        answer = both.ask(name, GrantLease(ttl_s))
        at = time.monotonic()
        assert isinstance(answer, LeaseKept)
        told = Advertisement(True, "", "eth0", frozen_mapping({}), frozenset(), "", "")
        both.ask(name, AdvertiseNode(1, told, answer.lease, Revision(0), ()))
        return cls(both, name, answer.lease, at, since)

    def keep(self) -> Event:
        return self.both.ask(self.name, KeepLease(self.lease))

    def wait_until_gone(self) -> float:
        """When it was seen to be gone in the real one."""
        give_up_at = time.monotonic() + GONE_WITHIN_S
        while self.name in self.both.real.view().nodes:
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        return time.monotonic()

    def gone_in_model(self) -> float:
        """When it goes there if nothing else happens, on the same clock."""
        model, timeline = self.both.model, self.both.timeline
        end = timeline.now + GONE_WITHIN_S
        while self.name in model.nodes:
            timeline.run(timeline.now + 0.01)
            assert timeline.now < end
        return self.both.began + timeline.now


def test_a_lease_of_less_than_the_least_ttl_gets_that(real: RealEtcd) -> None:
    answer = Both(real).ask(NODES[0], GrantLease(1))
    assert isinstance(answer, LeaseKept) and answer.ttl_s == MIN_TTL_S


def test_a_lease_that_is_not_kept_goes_after_its_ttl_and_soon_after(real: RealEtcd) -> None:
    node = Advertised.under(Both(real), NODES[0], MIN_TTL_S)
    modelled = node.gone_in_model()
    gone_at = node.wait_until_gone()
    for each in (modelled, gone_at):
        assert node.since + MIN_TTL_S <= each
    assert modelled <= node.at + MIN_TTL_S + SCAN_EVERY_S + 0.1
    assert gone_at <= node.at + MIN_TTL_S + SCAN_EVERY_S + BUSY_S


def test_a_keepalive_gives_a_full_ttl_and_after_that_the_lease_is_gone(real: RealEtcd) -> None:
    """Also in the moment when it has expired and etcd has not looked yet: the keepalive waits."""
    both = Both(real)
    kept = Advertised.under(both, NODES[0], 3)
    left = Advertised.under(both, NODES[1], MIN_TTL_S)
    wait_until(kept.since + 1.2)
    kept_at = time.monotonic()
    assert isinstance(kept.keep(), LeaseKept)
    wait_until(left.at + MIN_TTL_S + 0.01)
    assert left.keep() == LeaseGone(left.lease)
    both.catch_up()
    both.compare_views()
    assert kept.name in both.model.nodes
    modelled = kept.gone_in_model()
    gone_at = kept.wait_until_gone()
    for each in (modelled, gone_at):
        assert kept_at + 3 <= each <= kept_at + 3 + SCAN_EVERY_S + BUSY_S
    assert kept.keep() == LeaseGone(kept.lease)


def test_an_etcd_that_starts_again_gives_every_lease_its_full_ttl_and_more(
    real: RealEtcd,
) -> None:
    """A single member elects itself, as any new leader."""
    both = Both(real)
    node = Advertised.under(both, NODES[0], 3)
    wait_until(node.at + 2.0)
    both.catch_up()
    both.model.lose_leader(60.0)
    real.server.stop()
    stopped_at = time.monotonic()
    real.server.start()
    started_at = time.monotonic()
    both.catch_up()
    both.model.elect_now()
    modelled = node.gone_in_model()
    gone_at = node.wait_until_gone()
    life_s = 3 + EXTENDED_S
    assert started_at + life_s <= modelled <= started_at + life_s + SCAN_EVERY_S + 0.1
    assert stopped_at + life_s <= gone_at <= started_at + life_s + SCAN_EVERY_S + BUSY_S


def test_an_etcd_that_was_frozen_and_elects_nobody_drops_what_has_expired(real: RealEtcd) -> None:
    both = Both(real)
    node = Advertised.under(both, NODES[0], MIN_TTL_S)
    with frozen(real.server):
        both.catch_up()
        both.model.down_until = both.timeline.now + MIN_TTL_S + 1.5
        wait_until(both.began + both.model.down_until)
    modelled = node.gone_in_model()
    gone_at = node.wait_until_gone()
    thawed_at = both.began + both.model.down_until
    assert thawed_at <= modelled <= thawed_at + SCAN_EVERY_S + 0.1
    assert gone_at <= thawed_at + SCAN_EVERY_S + BUSY_S


@contextmanager
def frozen(server: EtcdServer) -> Iterator[None]:
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


def wait_until(instant: float) -> None:
    time.sleep(max(0.0, instant - time.monotonic()))
