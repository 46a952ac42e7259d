"""The core's hands in etcd: carries out its actions and reports what the watch sees.

Three threads: one for the lease, so that a keepalive never waits behind anything; one for reads
and writes, in the order given; one for the watch. Results go to `post` as events.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from math import inf
from queue import SimpleQueue
from time import monotonic
from typing import Any, TypeAlias, assert_never

import etcd3.etcdrpc as rpc

from yaim.core.actions import (
    AdvertiseNode,
    ClaimMarks,
    GrantLease,
    KeepLease,
    ReadCluster,
    ReleaseMarks,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.events import (
    ClusterChanged,
    ClusterRead,
    ClusterReadFailed,
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
from yaim.core.model import Address, ClusterView, LeaseId, Mark, Node, NodeName, Revision
from yaim.etcd.access import EtcdAccess, EtcdError
from yaim.etcd.client import EtcdClient, EtcdLease, read_pair
from yaim.etcd.connection import EtcdLeaseNotFound
from yaim.etcd.schema import Keys, KeyValue, write_advertisement
from yaim.etcd.survey import Survey

MAX_OPS = 125
"""Addresses in one transaction. etcd takes 128 operations, to which it counts the conditions of the
nested transaction with the most: two; and there may be one operation more, on the advertisement."""
WATCH_PAUSE_MIN_S = 0.1
WATCH_PAUSE_MAX_S = 2.0
"""A watch that has ended is made anew after this long, doubling from the one to the other as long
as it does not last."""
WATCH_WAITS_S = 5.0
"""When etcd cannot be read, at most, for some other request to succeed."""
WATCH_LATE_S = 1.0
"""A watch that has not told this much later what a read has told is made anew, at the next
read."""

logger = logging.getLogger(__name__)

LeaseAction: TypeAlias = GrantLease | KeepLease | RevokeLease
Request: TypeAlias = ReadCluster | AdvertiseNode | WithdrawNode | ClaimMarks | ReleaseMarks
EtcdAction: TypeAlias = LeaseAction | Request


class EtcdStore:
    """Started by its construction. `submit` never blocks."""

    def __init__(
        self, client: EtcdClient, keys: Keys, node: NodeName, post: Callable[[Event], None]
    ) -> None:
        self._client = client
        self._keys = keys
        self._node = node
        self._post = post
        self._survey = Survey(client)
        client.keep_refreshed()
        self._mirror = _Mirror(keys)
        self._has_answered = threading.Event()
        """Set by every answer of etcd's: a watch that waits for it need not wait any longer."""
        self._lease_actions: SimpleQueue[LeaseAction] = SimpleQueue()
        self._requests: SimpleQueue[Request] = SimpleQueue()
        for name, work in (
            ("etcd-lease", self._work_on_lease),
            ("etcd-requests", self._work_on_requests),
            ("etcd-watch", self._work_on_watch),
        ):
            threading.Thread(target=work, name=name, daemon=True).start()

    def submit(self, action: EtcdAction) -> None:
        match action:
            case GrantLease() | KeepLease() | RevokeLease():
                self._lease_actions.put(action)
            case ReadCluster() | AdvertiseNode() | WithdrawNode() | ClaimMarks() | ReleaseMarks():
                self._requests.put(action)
            case _:
                assert_never(action)

    def use(self, access: EtcdAccess) -> None:
        """From now on reach etcd this way, if it works."""
        self._client.use(access)

    # --- the lease -------------------------------------------------------------------------

    def _work_on_lease(self) -> None:
        while True:
            self._post(self._do_with_lease(self._lease_actions.get()))

    def _do_with_lease(self, action: LeaseAction) -> Event:
        event = self._ask_about_lease(action)
        if isinstance(event, LeaseFailed):
            self._survey.soon()
        else:
            self._has_answered.set()
        return event

    def _ask_about_lease(self, action: LeaseAction) -> Event:
        try:
            match action:
                case GrantLease(ttl_s):
                    return _kept(self._client.grant(ttl_s))
                case KeepLease(lease):
                    return _kept(self._client.keep(lease))
                case RevokeLease(lease):
                    self._client.revoke(lease)
                    return LeaseRevoked(lease)
                case _:
                    assert_never(action)
        except EtcdLeaseNotFound:
            if isinstance(action, GrantLease):
                return LeaseFailed("etcd lost the lease while granting it")
            return LeaseGone(action.lease)
        except EtcdError as error:
            return LeaseFailed(str(error))

    # --- reads and writes ------------------------------------------------------------------

    def _work_on_requests(self) -> None:
        while True:
            request = self._requests.get()
            try:
                event = self._do(request)
                self._has_answered.set()
            except EtcdError as error:
                self._survey.soon()
                if isinstance(request, ReadCluster):
                    event = ClusterReadFailed(str(error))
                else:
                    event = WriteFailed(request.request, str(error))
            self._post(event)

    def _do(self, request: Request) -> Event:
        match request:
            case ReadCluster():
                return ClusterRead(self._read())
            case AdvertiseNode():
                return self._advertise(request)
            case WithdrawNode():
                return self._withdraw(request)
            case ClaimMarks():
                return self._claim(request)
            case ReleaseMarks():
                return self._release(request)
            case _:
                assert_never(request)

    def _read(self) -> ClusterView:
        """Also looks whether the watch still tells what happens."""
        if self._mirror.is_watch_behind:
            self._client.leave_endpoint("its watch does not tell what is read")
        known = self._mirror.revision
        pairs, revision = self._client.read_all(*self._keys.all())
        return self._mirror.replace(pairs, revision, is_newer_than=known)

    def _advertise(self, request: AdvertiseNode) -> Event:
        key = self._keys.node(self._node)
        same = _compare_mod_revision(key, request.replaces)
        *others, last = _chunks(request.release) or [()]
        for marks in others:
            self._transact([same], [self._deletion(mark) for mark in marks])
        put = rpc.RequestOp()
        put.request_put.key = key
        put.request_put.value = write_advertisement(request.advertisement)
        put.request_put.lease = request.lease
        answer = self._transact([same], [put, *(self._deletion(mark) for mark in last)])
        if not answer.succeeded:
            return NodeNotAdvertised(request.request)
        revision = Revision(answer.header.revision)
        node = Node(self._node, request.advertisement, request.lease, revision)
        return NodeAdvertised(request.request, node)

    def _withdraw(self, request: WithdrawNode) -> Event:
        key = self._keys.node(self._node)
        same = _compare_mod_revision(key, request.advertised)
        delete = rpc.RequestOp()
        delete.request_delete_range.key = key
        *others, last = _chunks(request.release) or [()]
        is_done = True
        for marks in others:
            answer = self._transact([same], [self._deletion(mark) for mark in marks])
            is_done = is_done and answer.succeeded
        answer = self._transact([same], [delete, *(self._deletion(mark) for mark in last)])
        if is_done and answer.succeeded:
            return NodeWithdrawn(request.request)
        return WriteFailed(request.request, "our advertisement was changed")

    def _release(self, request: ReleaseMarks) -> Event:
        same = _compare_mod_revision(self._keys.node(self._node), request.advertised)
        released: list[Mark] = []
        revision = 0
        for marks in _chunks(request.marks):
            answer = self._transact([same], [self._deletion(mark) for mark in marks])
            revision = answer.header.revision
            if answer.succeeded:
                released += _done(marks, answer)
        addresses = frozenset(mark.address for mark in released)
        return MarksReleased(request.request, addresses, Revision(revision))

    def _claim(self, request: ClaimMarks) -> Event:
        advertised = _compare_mod_revision(self._keys.node(self._node), request.advertised)
        marks: list[Mark] = []
        revision = 0
        for addresses in _chunks(request.addresses):
            answer = self._transact(
                [advertised], [self._claiming(address, request.lease) for address in addresses]
            )
            revision = answer.header.revision
            if answer.succeeded:
                marks += [
                    Mark(address, self._node, request.lease, Revision(revision))
                    for address in _done(addresses, answer)
                ]
        lost = frozenset(request.addresses) - {mark.address for mark in marks}
        return MarksClaimed(request.request, tuple(marks), lost, Revision(revision))

    def _claiming(self, address: Address, lease: LeaseId) -> Any:
        """Mark the address, if it is in the pool and unmarked."""
        unmarked = rpc.Compare(
            key=self._keys.mark(address),
            target=rpc.Compare.CREATE,
            result=rpc.Compare.EQUAL,
            create_revision=0,
        )
        in_pool = rpc.Compare(
            key=self._keys.pool_entry(address),
            target=rpc.Compare.CREATE,
            result=rpc.Compare.GREATER,
            create_revision=0,
        )
        put = rpc.RequestOp()
        put.request_put.key = self._keys.mark(address)
        put.request_put.value = self._node.encode()
        put.request_put.lease = lease
        return _if([unmarked, in_pool], put)

    def _deletion(self, mark: Mark) -> Any:
        """Delete the mark, if it is still the same one."""
        key = self._keys.mark(mark.address)
        same = rpc.Compare(
            key=key,
            target=rpc.Compare.CREATE,
            result=rpc.Compare.EQUAL,
            create_revision=mark.revision,
        )
        delete = rpc.RequestOp()
        delete.request_delete_range.key = key
        return _if([same], delete)

    def _transact(self, compare: Iterable[Any], operations: Iterable[Any]) -> Any:
        return self._client.transact(rpc.TxnRequest(compare=compare, success=operations))

    # --- the watch -------------------------------------------------------------------------

    def _work_on_watch(self) -> None:
        """Read everything, then follow the changes; from the start again when that breaks."""
        pause_s = WATCH_PAUSE_MIN_S
        while not self._client.is_closed.is_set():
            self._has_answered.clear()
            try:
                self._post(ClusterChanged(self._read()))
            except EtcdError:
                # The core's own requests fail likewise, are reported, and go on until etcd answers.
                self._has_answered.wait(WATCH_WAITS_S)
                continue
            began = monotonic()
            error = self._watch()
            if monotonic() > began + WATCH_PAUSE_MAX_S:
                pause_s = WATCH_PAUSE_MIN_S
            self._client.is_closed.wait(pause_s * random.uniform(0.5, 1.0))
            if pause_s < WATCH_PAUSE_MAX_S <= 2 * pause_s:
                logger.warning(
                    "the watch on etcd ends again and again, changes are seen a few seconds later:"
                    " %s",
                    error,
                )
            pause_s = min(2 * pause_s, WATCH_PAUSE_MAX_S)

    def _watch(self) -> EtcdError:
        """Follow the changes until that is impossible; why it is."""
        try:
            for answer in self._client.watch(*self._keys.all(), self._mirror.watch_from()):
                if answer.events:
                    self._post(ClusterChanged(self._mirror.apply(answer)))
        except EtcdError as error:
            return error
        finally:
            self._mirror.watch_ended()
        raise AssertionError("a watch has no end of its own")


class _Mirror:
    """The cluster's keys as last read, with the changes since. Thread-safe."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._lock = threading.Lock()
        self._pairs: dict[bytes, KeyValue] = {}
        self.revision = 0
        self._is_watching = False
        self._awaited = 0
        """A revision that a read has told and the watch has not; 0: there is none."""
        self._awaited_since = inf

    def replace(
        self, pairs: dict[bytes, KeyValue], revision: int, *, is_newer_than: int
    ) -> ClusterView:
        """Take over a full read. `is_newer_than`: our revision before the read was sent.

        A read is linearizable: if it is older than what was known before, etcd's history has been
        replaced (data wiped or restored), and the read is the truth all the same.
        """
        with self._lock:
            if revision >= self.revision or revision < is_newer_than:
                if not self._awaited and pairs != self._pairs:
                    self._awaited, self._awaited_since = revision, monotonic()
                self._pairs = pairs
                self.revision = revision
            return self._keys.view(self._pairs, self.revision)

    def watch_from(self) -> int:
        """The revision from which on the watch has to tell what happens; it begins now."""
        with self._lock:
            self._is_watching, self._awaited = True, 0
            return self.revision + 1

    def watch_ended(self) -> None:
        with self._lock:
            self._is_watching = False

    @property
    def is_watch_behind(self) -> bool:
        """Whether the watch goes on, but does not tell what has been read."""
        with self._lock:
            is_late = monotonic() > self._awaited_since + WATCH_LATE_S
            return self._is_watching and self._awaited > 0 and is_late

    def apply(self, answer: Any) -> ClusterView:
        """Take over the events of a WatchResponse."""
        with self._lock:
            known = self.revision
            if answer.header.revision >= self._awaited:
                self._awaited = 0
            for event in answer.events:
                if event.kv.mod_revision <= known:
                    continue
                if event.type == event.DELETE:
                    self._pairs.pop(event.kv.key, None)
                else:
                    self._pairs[event.kv.key] = read_pair(event.kv)
                self.revision = max(self.revision, event.kv.mod_revision)
            return self._keys.view(self._pairs, self.revision)


def _kept(lease: EtcdLease) -> LeaseKept:
    return LeaseKept(LeaseId(lease.id), lease.ttl_s, lease.sent_at)


def _chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + MAX_OPS] for start in range(0, len(items), MAX_OPS)]


def _done(items: Sequence[Any], answer: Any) -> list[Any]:
    """Those items whose nested transaction, in the same order, was carried out."""
    return [
        item
        for item, response in zip(items, answer.responses, strict=True)
        if response.response_txn.succeeded
    ]


def _if(compare: Iterable[Any], operation: Any) -> Any:
    """An operation within a transaction that is carried out on a condition of its own."""
    nested = rpc.RequestOp()
    nested.request_txn.CopyFrom(rpc.TxnRequest(compare=compare, success=[operation]))
    return nested


def _compare_mod_revision(key: bytes, revision: int) -> Any:
    return rpc.Compare(
        key=key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=revision
    )
