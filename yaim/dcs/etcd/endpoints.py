"""Which of etcd's endpoints is used, and when it is left for another.

One connection is in use at a time. What may be repeated without harm (reads, keepalives) is asked
of another endpoint, too, when there is no answer after some patience, and goes through all of them
before it fails; the connection that answers first is the one in use from then on, and the one
before is left: what waits on it fails. A write is sent once; after a failure it is unknown whether
it was done. An endpoint of another cluster than the one that has answered is not used.

A keepalive is urgent: what is left of the lease may be little. So each endpoint is asked again and
again, also one that has failed, until one answers or the time is over. What stands in the way of an
earlier request is not known: a follower waits for a leader that is dead, a connection for its next
retransmission, which TCP puts off for ever longer. So a later request may be answered long before,
and over a new connection before one over an old.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

import etcd3.etcdrpc as rpc
import grpc

from yaim.core.model import Boottime
from yaim.dcs.etcd.access import Credentials, EtcdError, EtcdUnreachable
from yaim.dcs.etcd.connection import (
    BREAKS_KEEPALIVES_OFF,
    CANCELLED_BY_PROXY,
    ETCD_HAS_ANSWERED,
    NO_ANSWER,
    NO_TOKEN,
    Connection,
    metadata_of,
    plain,
    refusal,
)
from yaim.host.boottime import boottime

logger = logging.getLogger(__name__)

TELL_AGAIN_AFTER_S = 60.0
PATIENCE_S = 0.2
"""How long an endpoint may take to answer before another one is asked, too."""
URGENT_SHARE = 0.1
"""What is urgent is asked once more after this share of the time-out: after 0.1 s with a ttl of
3000."""


@dataclass(frozen=True, slots=True)
class Call:
    pick: Callable[[Connection], Any]
    """Chooses a call of the connection."""
    request: Any = field(repr=False)
    token: str = field(default=NO_TOKEN, repr=False)
    is_repeatable: bool = False
    is_urgent: bool = False
    """Whether no endpoint is to be waited for, once one has not answered in time."""
    patience_s: float = PATIENCE_S
    fault_of: Callable[[Any], str | None] = lambda _: None
    """Says what is wrong with an answer: then it counts as none, and another endpoint is asked."""


STATUS = Call(lambda connection: connection.status, rpc.StatusRequest(), is_repeatable=True)
"""A status request. A member that has no leader does not answer it."""
KEEPS_LEASES = Call(
    lambda connection: connection.keep, rpc.LeaseKeepAliveRequest(ID=0), is_repeatable=True
)
"""A keepalive of no lease. etcd answers that there is none; its grpc-proxy does not answer.

That one keeps a lease itself, at times of its own, and answers a client with what etcd answers
next, be it to a keepalive sent before the client's: no deadline can be counted from that. It is
known by what it does with a stream of one request, which has ended: it breaks it off."""


@dataclass(frozen=True, slots=True)
class Answer:
    message: Any
    sent_at: Boottime
    """The instant just before the request was sent that was answered."""
    connection: Connection
    unanswered: tuple[Connection, ...]
    """The other connections over which the request had been sent."""


@dataclass(frozen=True, slots=True)
class _Try:
    """A request sent to one endpoint."""

    connection: Connection
    sent_at: Boottime
    future: Any
    """The call's gRPC future; None if it could not be sent."""

    @property
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE if self.future is None else self.future.code()

    @property
    def details(self) -> str:
        if self.connection.left_because is not None:
            return self.connection.left_because
        return "" if self.future is None else plain(self.future)


class _Rounds:
    """The endpoints in turn, each at most once in a pause: one that fails at once does not keep the
    next one waiting, and is not asked without end."""

    def __init__(self, credentials: Credentials, order: list[str], pause_s: float) -> None:
        self.pause_s = pause_s
        self._credentials = credentials
        self._asked_at = dict.fromkeys(order, -inf)
        """The one that was asked last is the last."""

    def note(self, endpoint: str) -> None:
        """The endpoint is asked now."""
        self._asked_at.pop(endpoint, None)
        self._asked_at[endpoint] = monotonic()

    def next(self, among: Sequence[Connection]) -> Connection | None:
        """Returns a connection to the endpoint whose turn it is: one of these if it is new, or
        another one. None: all have been asked just now."""
        now = monotonic()
        for endpoint, asked_at in self._asked_at.items():
            if now < asked_at + self.pause_s:
                continue
            new = [c for c in among if c.endpoint == endpoint and now < c.opened_at + PATIENCE_S]
            return new[-1] if new else Connection(self._credentials, endpoint)
        return None


class Endpoints:
    """Thread-safe."""

    def __init__(self, timeout_s: float, cluster_memory_s: float) -> None:
        self._timeout_s = timeout_s
        self._cluster_memory_s = cluster_memory_s
        self._lock = threading.Lock()
        self._credentials: Credentials | None = None
        self._order: list[str] = []
        """The endpoints. The one that failed last is the last."""
        self._in_use: Connection | None = None
        self._cluster = 0
        """The id of the cluster that has answered last; 0 before any has."""
        self._cluster_answered_at = 0.0
        self._told: dict[tuple[str, str], float] = {}
        """When it was told that an endpoint was left for a reason."""

    @property
    def credentials(self) -> Credentials | None:
        """Those in use; None before the first use."""
        return self._credentials

    def use(self, credentials: Credentials, connection: Connection | None = None) -> None:
        """Gets in with these credentials from now on; over a connection that has answered, if there
        is one. What is under way over the connection before may end well."""
        with self._lock:
            before, self._in_use = self._in_use, connection
            self._credentials, self._order = credentials, _shuffled(credentials)
        if before is not None:
            timer = threading.Timer(self._timeout_s, before.leave, ["its access was replaced"])
            timer.daemon = True
            timer.start()

    def call(self, call: Call) -> Answer:
        """Makes a call with the credentials in use. Raises EtcdError."""
        if not call.is_repeatable:
            answer = self._exchange(call, [self.connected()])
            self._recognize(answer)
            return answer
        rounds = self._rounds() if call.is_urgent else None
        if rounds is not None and self._in_use is None:
            # Something has failed just before.
            call = replace(call, patience_s=rounds.pause_s)
        answer = self._exchange(call, self._tries(), rounds)
        self._recognize(answer)
        self._prefer(answer)
        return answer

    def call_over(self, credentials: Credentials, call: Call) -> Answer:
        """Makes a call over new connections, with other credentials. Which cluster is used does not
        change by that. Raises EtcdError."""
        endpoints = _shuffled(credentials)
        return self._exchange(call, (Connection(credentials, each) for each in endpoints))

    def connected(self) -> Connection:
        """The connection in use; if there is none, one to an endpoint that has a leader. Raises
        EtcdError."""
        with self._lock:
            if self._in_use is not None:
                return self._in_use
        self.call(STATUS)
        with self._lock:
            if self._in_use is None:
                raise EtcdError("the endpoint that has answered is lost again")
            return self._in_use

    def leave(self, because: str) -> None:
        """Goes on with another endpoint than the one in use."""
        with self._lock:
            connection = self._in_use
        if connection is not None:
            self.leave_connection(connection, because)

    def leave_connection(self, connection: Connection, because: str) -> None:
        with self._lock:
            is_in_use = self._in_use is connection
            if is_in_use:
                self._in_use = None
            if connection.endpoint in self._order:
                self._order.remove(connection.endpoint)
                self._order.append(connection.endpoint)
        if is_in_use:
            self._tell_leaving(connection.endpoint, because)
        connection.leave(because)

    def _tell_leaving(self, endpoint: str, because: str) -> None:
        """Logs it, the same rarely: an endpoint that is the only one is tried again and again."""
        now = monotonic()
        with self._lock:
            self._told = {
                what: at for what, at in self._told.items() if now < at + TELL_AGAIN_AFTER_S
            }
            is_told = (endpoint, because) in self._told
            if not is_told:
                self._told[endpoint, because] = now
        logger.log(
            logging.DEBUG if is_told else logging.INFO,
            "leaves etcd endpoint %s: %s",
            endpoint,
            because,
        )

    # --- an exchange -----------------------------------------------------------------------

    def _tries(self) -> Iterator[Connection]:
        """The connection in use, then a new one to each endpoint."""
        with self._lock:
            in_use, credentials, order = self._in_use, self._credentials, list(self._order)
        if credentials is None:
            raise AssertionError("no credentials")
        if in_use is not None:
            yield in_use
            # Last, in case that only its connection is dead.
            order.sort(key=lambda endpoint: endpoint == in_use.endpoint)
        for endpoint in order:
            yield Connection(credentials, endpoint)

    def _rounds(self) -> "_Rounds":
        with self._lock:
            credentials, order = self._credentials, list(self._order)
        if credentials is None:
            raise AssertionError("no credentials")
        return _Rounds(credentials, order, URGENT_SHARE * self._timeout_s)

    def _exchange(
        self,
        call: Call,
        connections: Iterable[Connection],
        rounds: "_Rounds | None" = None,
    ) -> Answer:
        """Sends a request over the first connection; if it is repeatable, over the next one when
        that fails or the patience is over, and so on, until one answers, all have failed or the
        time is over. What has not answered by then is cancelled. `rounds`: of what is urgent."""
        give_up_at = monotonic() + self._timeout_s
        ended: SimpleQueue[_Try] = SimpleQueue()
        pending: list[_Try] = []
        alive: list[Connection] = []
        complaints: dict[str, str] = {}
        untried = iter(connections)
        answered: Connection | None = None
        patience_s = call.patience_s
        is_patience_over = False
        try:
            while True:
                connection = next(untried, None) if call.is_repeatable or not alive else None
                left_s = give_up_at - monotonic()
                if rounds is not None:
                    if left_s <= 0:
                        raise self._without_answer(pending, complaints)
                    if is_patience_over:
                        patience_s = rounds.pause_s
                    if connection is None:
                        connection = rounds.next(alive)
                elif connection is None and is_patience_over and call.is_repeatable and left_s > 0:
                    # Again over the same connections, ever later: etcd may have too much to do.
                    connection = alive[0] if alive else None
                    patience_s *= 1.5
                if connection is not None:
                    if connection in alive:
                        alive.remove(connection)
                    alive.append(connection)
                    if rounds is not None:
                        rounds.note(connection.endpoint)
                    pending.append(_send(call, connection, max(left_s, call.patience_s), ended))
                if not pending:
                    raise EtcdUnreachable(complaints)
                try:
                    each = ended.get(timeout=min(patience_s, left_s) if rounds else patience_s)
                except Empty:
                    is_patience_over = True
                    continue
                is_patience_over = False
                pending.remove(each)
                complaint = self._complaint_about(each, call)
                if complaint is None:
                    answered = each.connection
                    unanswered = tuple(
                        every.connection for every in pending if every.connection is not answered
                    )
                    return Answer(each.future.result(), each.sent_at, answered, unanswered)
                complaints[each.connection.endpoint] = complaint
                self.leave_connection(each.connection, complaint)
                alive = [every for every in alive if every is not each.connection]
        finally:
            for each in pending:
                if each.future is not None:
                    each.future.cancel()
            for connection in alive:
                if connection is not answered:
                    self._drop(connection)

    def _without_answer(
        self, pending: Iterable[_Try], complaints: Mapping[str, str]
    ) -> EtcdUnreachable:
        """The error when the time is over. What has not answered by now is left."""
        silent = {each.connection.endpoint: NO_ANSWER for each in pending}
        for each in pending:
            self.leave_connection(each.connection, NO_ANSWER)
        return EtcdUnreachable({**complaints, **silent})

    def _complaint_about(self, each: _Try, call: Call) -> str | None:
        """What is wrong with the endpoint; None if it has answered. Raises EtcdError for what etcd
        itself says, because another endpoint would not say otherwise."""
        if each.code is grpc.StatusCode.OK:
            answer = each.future.result()
            return self._not_ours(answer.header.cluster_id) or call.fault_of(answer)
        is_keepalive = isinstance(call.request, rpc.LeaseKeepAliveRequest)
        if is_keepalive and each.details == CANCELLED_BY_PROXY:
            return BREAKS_KEEPALIVES_OFF
        if each.code in ETCD_HAS_ANSWERED:
            raise refusal(each.connection.endpoint, each.code, each.details, call.request)
        return each.details

    def _not_ours(self, cluster: int) -> str | None:
        """The complaint that this is another cluster than the one that has answered so far."""
        with self._lock:
            return self._other_cluster(cluster)

    def _other_cluster(self, cluster: int) -> str | None:
        """The same, with the lock held. 0: the answer does not tell its cluster, as the one about
        alarms."""
        before = self._cluster
        forgotten_at = self._cluster_answered_at + self._cluster_memory_s
        if 0 in (before, cluster) or before == cluster or monotonic() > forgotten_at:
            return None
        return f"is of another etcd cluster ({cluster:x}) than the one used ({before:x})"

    def _recognize(self, answer: Answer) -> None:
        """Uses the cluster that has answered from now on. Raises EtcdUnreachable if another thread
        has met another one meanwhile."""
        cluster = answer.message.header.cluster_id
        if not cluster:
            return
        with self._lock:
            complaint = self._other_cluster(cluster)
            if complaint is None:
                before, self._cluster = self._cluster, cluster
                self._cluster_answered_at = monotonic()
        if complaint is not None:
            self.leave_connection(answer.connection, complaint)
            raise EtcdUnreachable({answer.connection.endpoint: complaint})
        if before not in (0, cluster):
            logger.warning("etcd is another cluster (%x) than before (%x)", cluster, before)

    def _prefer(self, answer: Answer) -> None:
        """Uses the connection that has answered instead of one that has not, or of none."""
        with self._lock:
            before = self._in_use
            is_to_change = before is None or before in answer.unanswered
            if is_to_change and answer.connection.left_because is None:
                self._in_use = answer.connection
        self._drop(answer.connection)
        if is_to_change and before is not None:
            because = f"has not answered, {answer.connection.endpoint} has"
            self._tell_leaving(before.endpoint, because)
            self.leave_connection(before, because)

    def _drop(self, connection: Connection) -> None:
        """Closes the connection, unless it is the one in use."""
        with self._lock:
            is_in_use = connection is self._in_use
        if not is_in_use:
            connection.leave("not needed")


def _send(call: Call, connection: Connection, timeout_s: float, ended: SimpleQueue[_Try]) -> _Try:
    """Sends the request. The try is put into `ended` when it has ended."""
    sent_at = boottime()
    how = {"timeout": timeout_s, "metadata": metadata_of(call.token)}
    try:
        future = call.pick(connection).future(call.request, **how)
    except ValueError:  # left by another thread just now
        failed = _Try(connection, sent_at, None)
        ended.put(failed)
        return failed
    sent = _Try(connection, sent_at, future)
    future.add_done_callback(lambda _: ended.put(sent))
    return sent


def _shuffled(credentials: Credentials) -> list[str]:
    return random.sample(credentials.access.endpoints, len(credentials.access.endpoints))
