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
from yaim.dcs.etcd.access import EtcdAccess, EtcdError
from yaim.dcs.etcd.client import EtcdClient, EtcdLease, read_pair
from yaim.dcs.etcd.connection import EtcdFull, EtcdLeaseNotFound, too_much
from yaim.dcs.etcd.keys import MAX_BYTES, MAX_KEYS, Keys, KeyValue, Reading, write_advertisement
from yaim.dcs.etcd.survey import Survey

MAX_OPS = 125
"""Addresses in one transaction. etcd takes 128 operations, to which it counts the conditions of the
nested transaction with the most: two; and there may be one operation more, on the advertisement."""
WATCH_PAUSE_MIN_S = 0.1
WATCH_PAUSE_MAX_S = 2.0
"""A watch that has ended is made anew after this long, doubling from the one to the other as long
as it does not last."""
WATCH_WAITS_S = 5.0
"""When etcd cannot be read, at most, for some other request to succeed."""
VIEWS_AT_ONCE = 25
VIEW_EVERY_S, VIEWS_SHARE = 0.02, 0.2
"""After so many changes in quick succession the next ones are taken in together: a view each 0.02 s
and for a fifth of the time at most. Meanwhile etcd keeps them, and nothing waits here."""
WATCH_LATE_S = 1.0
"""A watch that has not told this much later what a read has told is made anew, at the next
read."""

WATCH_ANSWERS_AT_MOST = 2000
"""Answers of a watch in one second. A watch that tells more would cost a processor: it is left, and
what is read has to do meanwhile."""

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
        self._gone: tuple[LeaseId | None, float] = None, inf
        """The lease that was last said to be gone, and when."""
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
            gone, since = self._gone
            if gone == action.lease and self._mirror.was_shown(action.lease, since):
                # Asked about at once, and again and again, it would keep a processor busy.
                return LeaseFailed(
                    f"etcd says that lease {action.lease:x} is gone, and shows what stands under it"
                )
            self._gone = action.lease, monotonic()
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
                    is_full = isinstance(error, EtcdFull)
                    event = WriteFailed(request.request, str(error), is_full)
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
        known, sent_at = self._mirror.revision, monotonic()
        pairs, revision = self._client.read_ranges(*self._keys.ranges())
        return self._mirror.replace(pairs, revision, is_newer_than=known, sent_at=sent_at)

    # More marks than one transaction takes go in several, each under the same guard, with the
    # advertisement in the last. Should one fail, the answer tells nothing of those before it: what
    # they may have released the core does not use until a read has told, and what they have claimed
    # it learns by that read. Until then it has none of that on its interface.

    def _advertise(self, request: AdvertiseNode) -> Event:
        key = self._keys.node(self._node)
        same = _compare_mod_revision(key, request.replaces)
        *others, last = _chunks(request.release) or [()]
        if not self._delete_in_parts(same, others)[2]:
            return NodeNotAdvertised(request.request)
        put = rpc.RequestOp()
        put.request_put.key = key
        put.request_put.value = write_advertisement(request.advertisement)
        put.request_put.lease = request.lease
        # In a nested transaction: etcd counts no space for what is in one, so that it takes this,
        # and claims, also when it is full.
        answer = self._transact([same], [_if([], put), *(self._deletion(mark) for mark in last)])
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
        if self._delete_in_parts(same, others)[2]:
            answer = self._transact([same], [delete, *(self._deletion(mark) for mark in last)])
            if answer.succeeded:
                return NodeWithdrawn(request.request, Revision(answer.header.revision))
        return WriteFailed(request.request, "our advertisement was changed")

    def _release(self, request: ReleaseMarks) -> Event:
        same = _compare_mod_revision(self._keys.node(self._node), request.advertised)
        addresses, revision, _ = self._delete_in_parts(same, _chunks(request.marks))
        return MarksReleased(request.request, addresses, revision)

    def _delete_in_parts(
        self, same: Any, parts: Iterable[Sequence[Mark]]
    ) -> tuple[frozenset[Address], Revision, bool]:
        """Which of the marks were still the same ones, and are deleted; the revision of the last
        answer; and whether the guard has held for all parts: after one for which it has not,
        nothing more is asked."""
        released: list[Mark] = []
        revision, is_ours = 0, True
        for marks in parts:
            answer = self._transact([same], [self._deletion(mark) for mark in marks])
            revision, is_ours = answer.header.revision, answer.succeeded
            if not is_ours:
                break
            released += _done(marks, answer)
        return frozenset(mark.address for mark in released), Revision(revision), is_ours

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
        """Mark the address, if it is in the pool and unmarked. Nothing else ever puts a mark: one
        whose mod_revision is not its create_revision somebody else has put (schema.py)."""
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
        """Delete the mark, if it is still the same one, and nobody has put another over it."""
        key = self._keys.mark(mark.address)
        same = _compare_mod_revision(key, mark.revision)
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
        since, answers = monotonic(), 0
        try:
            next_at = monotonic()
            for answer in self._client.watch(*self._keys.all(), self._mirror.watch_from()):
                answers += 1
                if monotonic() >= since + 1.0:
                    since, answers = monotonic(), 0
                elif answers > WATCH_ANSWERS_AT_MOST:
                    return EtcdError(
                        f"more than {WATCH_ANSWERS_AT_MOST} changes in a second below"
                        f" {self._keys.prefix}: find out who writes there"
                    )
                if not self._mirror.apply(answer):
                    continue
                began = monotonic()
                self._post(ClusterChanged(self._mirror.view()))
                took_s = monotonic() - began
                next_at = max(next_at, began - VIEWS_AT_ONCE * VIEW_EVERY_S)
                next_at += max(VIEW_EVERY_S, took_s / VIEWS_SHARE)
                self._client.is_closed.wait(max(0.0, next_at - monotonic()))
        except EtcdError as error:
            return error
        finally:
            self._mirror.watch_ended()
        raise AssertionError("a watch has no end of its own")


class _Mirror:
    """The cluster's keys as last read, with the changes since. Thread-safe."""

    def __init__(self, keys: Keys) -> None:
        self._lock = threading.Lock()
        self._reading = Reading(keys)
        self.revision = 0
        self._shown: tuple[frozenset[int], float] = frozenset(), 0.0
        """The leases in the last full read, and when that was sent."""
        self._is_watching = False
        self._awaited = 0
        """A revision that a read has told and the watch has not; 0: there is none."""
        self._awaited_since = inf

    def replace(
        self,
        pairs: dict[bytes, KeyValue],
        revision: int,
        *,
        is_newer_than: int,
        sent_at: float,
    ) -> ClusterView:
        """Take over a full read. `is_newer_than`: our revision before the read was sent.

        A read is linearizable: if it is older than what was known before, etcd's history has been
        replaced (data wiped or restored), and the read is the truth all the same.
        """
        with self._lock:
            self._shown = frozenset(pair.lease for pair in pairs.values()), sent_at
            if revision >= self.revision or revision < is_newer_than:
                if self._reading.replace(pairs) and not self._awaited:
                    self._awaited, self._awaited_since = revision, monotonic()
                self.revision = revision
            return self._reading.view(self.revision)

    def was_shown(self, lease: int, since: float) -> bool:
        """Whether a full read that was sent after this has told of something under the lease."""
        with self._lock:
            leases, sent_at = self._shown
            return sent_at > since and lease in leases

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

    def view(self) -> ClusterView:
        with self._lock:
            return self._reading.view(self.revision)

    def apply(self, answer: Any) -> bool:
        """Take over the events of a WatchResponse; whether one of them counts. Raises EtcdError if
        there is too much."""
        with self._lock:
            known, is_news = self.revision, False
            if answer.header.revision >= self._awaited:
                self._awaited = 0
            for event in answer.events:
                if event.kv.mod_revision <= known:
                    continue
                is_news = is_news or self._reading.counts(event.kv.key)
                if event.type == event.DELETE:
                    self._reading.delete(event.kv.key)
                else:
                    self._reading.put(event.kv.key, read_pair(event.kv))
                self.revision = max(self.revision, event.kv.mod_revision)
            if self._reading.is_too_much:
                raise EtcdError(too_much(f"{MAX_KEYS} keys or {MAX_BYTES} bytes"))
            return is_news


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
