"""Requests to etcd, authenticated, in whatever way works.

Uses the generated gRPC stubs of the etcd3 package, on channels of our own: that package's client
knows one endpoint only, and its watcher spins when the endpoint is gone (python-etcd3 #258, #1227).

How to get in (`EtcdAccess` and what its files hold) may change at any time: it is used once it has
proved itself, and what was used before stays in use until then.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from queue import SimpleQueue
from time import monotonic
from typing import Any

import etcd3.etcdrpc as rpc
import grpc

from yaim.core.deadline import LONGEST_LEAST_TTL_S
from yaim.core.model import Boottime
from yaim.dcs.etcd.access import EtcdAccess, EtcdError, EtcdUnreachable, read_secrets
from yaim.dcs.etcd.believable import (
    faulty_changes,
    faulty_header,
    faulty_keepalive,
    faulty_lease,
    faulty_read,
    faulty_transaction,
    is_token,
)
from yaim.dcs.etcd.certificates import check_secrets
from yaim.dcs.etcd.connection import (
    ETCD_HAS_ANSWERED,
    NO_TOKEN,
    EtcdAuthIsOff,
    EtcdLeaseNotFound,
    EtcdLoginFailed,
    EtcdPermissionDenied,
    EtcdTokenRefused,
    EtcdTooMuch,
    Way,
    metadata_of,
    plain,
    shown,
    too_much,
)
from yaim.dcs.etcd.endpoints import KEEPS_LEASES, STATUS, Answer, Call, Endpoints
from yaim.dcs.etcd.keys import MAX_BYTES, MAX_KEYS, KeyValue
from yaim.text import printable

logger = logging.getLogger(__name__)

PAGE = 16
"""Keys that are asked for at once beyond those that were there before; twice as many with each
further page. etcd makes the whole of an answer before it sends it, also of one that is refused for
its length: reads of 300 MiB cost it 24 GB."""
LOGIN_REFRESH_S = 1.0
"""How long a request whose password is refused waits for a new one to be found."""
REFRESH_EVERY_S = 5.0
REFRESH_PAUSE_S = 0.3
"""At least, between two looks for another way in."""
LOGIN_PATIENCE_S = 1.0
"""The same as endpoints.PATIENCE_S for a password, which costs etcd some 0.1 s of a processor."""
LONGEST_TTL_S = 3600
"""Of a lease of which it is not known what was asked for: the longest ttl of yaim.yml."""


@dataclass(frozen=True, slots=True)
class EtcdLease:
    id: int
    ttl_s: int
    """As granted; what a keepalive tells beyond that does not count."""
    sent_at: Boottime
    """Just before the request was sent that etcd has answered: the TTL counts from here."""


class EtcdClient:
    """Thread-safe. Every call but `watch` is bounded by `timeout_s`, and by as much again where it
    has to authenticate or to connect first."""

    def __init__(
        self, access: EtcdAccess, timeout_s: float, cluster_memory_s: float | None = None
    ) -> None:
        """`cluster_memory_s`: for how long without an answer of it an etcd cluster is taken to be
        still there, so that no other one is used; three time-outs, unless given."""
        self._access = access
        """As it was asked for last."""
        self._way_lock = threading.Lock()
        self._complaint: tuple[Way, type[EtcdError]] | tuple[EtcdAccess, str] | None = None
        """What was said last to be not in use, and the kind of reason: in which order endpoints
        fail, and in which words, differs each time."""
        self.is_closed = threading.Event()
        self._wants_refresh = threading.Event()
        self._endpoints = Endpoints(timeout_s, cluster_memory_s or 3 * timeout_s)
        self._proof: Call | None = None
        """What is read, in small: whoever may do that is in."""
        self._token_lock = threading.Lock()
        self._token: str | None = None
        self._granted: EtcdLease | None = None
        """The last."""
        self._had_too_many = False
        """At the last read."""
        self._had_too_much = False
        """There were so many bytes that no page is longer than PAGE."""
        self._counts: dict[tuple[bytes, bytes], int] = {}
        """How many keys there were in a range."""

    # --- requests --------------------------------------------------------------------------

    def read_all(self, start: bytes, end: bytes) -> tuple[dict[bytes, KeyValue], int]:
        """A linearizable read of a key range, with its revision. Raises EtcdError if there is more
        than MAX_KEYS or MAX_BYTES."""
        return self.read_ranges((start, end))

    def read_ranges(self, *ranges: tuple[bytes, bytes]) -> tuple[dict[bytes, KeyValue], int]:
        """The same of several, as of one revision; what is too much is that in all of them."""
        if self._had_too_many:
            # To read as many again and again would cost keepalives.
            self._require_room_for(sum(self._count(each) for each in ranges), ranges)
        start, end = ranges[0]
        in_small = rpc.RangeRequest(key=start, range_end=end, limit=1)
        self._proof = Call(lambda c: c.range, in_small, is_repeatable=True)
        pairs: dict[bytes, KeyValue] = {}
        revision = size = 0
        for range_ in ranges:
            for answer in self._pages(range_, revision):
                revision = revision or answer.header.revision
                pairs |= {pair.key: read_pair(pair) for pair in answer.kvs}
                self._require_room_for(len(pairs), ranges)
                size += sum(len(pair.key) + len(pair.value) for pair in answer.kvs)
                if size > MAX_BYTES:
                    self._had_too_much = True
                    raise EtcdTooMuch(_too_much(ranges, f"{MAX_BYTES} bytes"))
        self._had_too_much = self._had_too_much and 2 * size > MAX_BYTES
        return pairs, revision

    def _pages(self, range_: tuple[bytes, bytes], revision: int) -> Iterator[Any]:
        """All of a range, as of a revision; 0: of the present one, which is that of all pages."""
        (start, end), count = range_, 0
        most = PAGE + self._counts.get(range_, 0)
        while True:
            most = PAGE if self._had_too_much else min(most, MAX_KEYS + 1)
            try:
                answer = self._read_page((start, end), most, revision)
            except EtcdTooMuch:
                self._had_too_much = True
                raise
            yield answer
            count += len(answer.kvs)
            if not answer.more:
                self._counts[range_] = count
                return
            start = max(pair.key for pair in answer.kvs) + b"\0"
            revision = revision or answer.header.revision
            most *= 2

    def _read_page(self, range_: tuple[bytes, bytes], most: int, revision: int) -> Any:
        """The first keys of a range, as of a revision."""
        start, end = range_
        request = rpc.RangeRequest(key=start, range_end=end, limit=most, revision=revision)
        return self._call(
            Call(
                lambda c: c.range,
                request,
                is_repeatable=True,
                fault_of=lambda answer: faulty_read(answer, start, end, most, revision),
            )
        ).message

    def _count(self, range_: tuple[bytes, bytes]) -> int:
        request = rpc.RangeRequest(key=range_[0], range_end=range_[1], count_only=True)
        call = Call(lambda c: c.range, request, is_repeatable=True, fault_of=faulty_header)
        count: int = self._call(call).message.count
        return count

    def _require_room_for(self, keys: int, ranges: tuple[tuple[bytes, bytes], ...]) -> None:
        self._had_too_many = keys > MAX_KEYS
        if self._had_too_many:
            raise EtcdError(_too_much(ranges, f"{MAX_KEYS} keys"))

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        """0: under no lease."""
        request = rpc.PutRequest(key=key, value=value, lease=lease)
        self._call(Call(lambda c: c.put, request, fault_of=faulty_header))

    def delete(self, key: bytes) -> None:
        request = rpc.DeleteRangeRequest(key=key)
        self._call(Call(lambda c: c.delete, request, fault_of=faulty_header))

    def transact(self, request: Any) -> Any:
        """A TxnRequest; its TxnResponse."""
        operations = tuple(request.success)
        return self._call(
            Call(
                lambda c: c.transact,
                request,
                fault_of=lambda answer: faulty_transaction(answer, operations),
            )
        ).message

    def grant(self, ttl_s: int) -> EtcdLease:
        """A new lease. etcd may grant a longer TTL than it is asked for. None is asked for where it
        could not be kept."""
        self._call(KEEPS_LEASES)
        request = rpc.LeaseGrantRequest(TTL=ttl_s)
        answer = self._call(
            Call(lambda c: c.grant, request, fault_of=lambda answer: faulty_lease(answer, ttl_s))
        )
        granted = EtcdLease(answer.message.ID, answer.message.TTL, answer.sent_at)
        self._granted = granted
        return granted

    def keep(self, lease: int) -> EtcdLease:
        """Refresh a lease. Raises EtcdLeaseNotFound if it is gone."""
        granted = self._granted
        ttl_s = granted.ttl_s if granted is not None and granted.id == lease else LONGEST_TTL_S
        # An etcd that was started anew with a longer election timeout raises the TTL.
        longest_s = max(ttl_s, LONGEST_LEAST_TTL_S)
        answer = self._call(
            Call(
                lambda c: c.keep,
                rpc.LeaseKeepAliveRequest(ID=lease),
                is_repeatable=True,
                fault_of=lambda answer: faulty_keepalive(answer, lease, longest_s),
            )
        )
        if answer.message.TTL <= 0:
            raise EtcdLeaseNotFound(f"lease {lease:x} is gone")
        return EtcdLease(lease, min(answer.message.TTL, ttl_s), answer.sent_at)

    def revoke(self, lease: int) -> None:
        self._call(Call(lambda c: c.revoke, rpc.LeaseRevokeRequest(ID=lease)))

    def alarms(self) -> frozenset[str]:
        """Those that are raised, by etcd's names: NOSPACE, CORRUPT. Everybody may ask."""
        request = rpc.AlarmRequest(action=rpc.AlarmRequest.GET)
        answer = self._call(Call(lambda c: c.alarm, request, is_repeatable=True)).message
        names = rpc.AlarmType.DESCRIPTOR.values_by_number
        return frozenset(
            names[each.alarm].name if each.alarm in names else f"alarm {each.alarm}"
            for each in answer.alarms
        )

    def watch(self, start: bytes, end: bytes, revision: int) -> Iterator[Any]:
        """The WatchResponses for a key range from a revision on, without end.

        Raises EtcdError when the connection or the watch ends.
        """
        request = rpc.WatchRequest()
        request.create_request.key = start
        request.create_request.range_end = end
        request.create_request.start_revision = revision
        requests: SimpleQueue[Any] = SimpleQueue()
        requests.put(request)
        token = self._authenticated()
        connection = self._endpoints.connected()
        try:
            answers = connection.watch(iter(requests.get, None), metadata=metadata_of(token))
            try:
                for answer in answers:
                    if answer.canceled:
                        # Which of many reasons is told in words only: a new token never hurts.
                        self._forget_token(token)
                        reason = printable(answer.cancel_reason) or "compacted"
                        raise EtcdError(
                            f"{connection.endpoint}: watch of {shown(start)} cancelled: {reason}"
                        )
                    if complaint := faulty_changes(answer, start, end, revision):
                        self._endpoints.leave_connection(connection, complaint)
                        raise EtcdError(f"{connection.endpoint}: {complaint}")
                    if answer.events:
                        revision = answer.events[-1].kv.mod_revision
                    yield answer
                # etcd does not; something between us and it may.
                raise EtcdError(f"{connection.endpoint}: the watch was ended")
            finally:
                answers.cancel()
        except grpc.RpcError as error:
            reason = connection.left_because or plain(error)
            if error.code() not in ETCD_HAS_ANSWERED:
                self._endpoints.leave_connection(connection, reason)
            else:
                self._forget_token(token)
            raise EtcdError(f"{connection.endpoint}: {reason}") from error
        except ValueError as error:  # left by another thread just now
            reason = connection.left_because or str(error)
            raise EtcdError(f"{connection.endpoint}: {reason}") from error
        finally:
            requests.put(None)

    def leave_endpoint(self, because: str) -> None:
        """Go on with another one."""
        self._endpoints.leave(because)

    def close(self) -> None:
        """End all calls, and what goes on beside them. A later call connects anew."""
        self.is_closed.set()
        self._endpoints.leave("closed")

    # --- getting in ------------------------------------------------------------------------

    def use(self, access: EtcdAccess) -> None:
        """Get in this way, as soon as `refresh` finds that it works."""
        self._access = access
        self._wants_refresh.set()

    def keep_refreshed(self) -> None:
        """`refresh` every few seconds, and when something has failed or another way in is asked
        for. In a thread of its own: it takes as long as new endpoints let it wait."""

        def work() -> None:
            while not self.is_closed.wait(REFRESH_PAUSE_S):
                self._wants_refresh.wait(REFRESH_EVERY_S)
                self._wants_refresh.clear()
                self.refresh()

        threading.Thread(target=work, name="etcd-access", daemon=True).start()

    def refresh(self) -> bool:
        """See whether there is another way in, because the files have changed or another one was
        asked for, and use it if it works. Returns whether that has happened."""
        with self._way_lock:
            access, in_use = self._access, self._endpoints.way
            if in_use is None:
                return False
            way: Way | None = None
            try:
                way = Way(access, read_secrets(access))
                if way != in_use:
                    check_secrets(access, way.secrets)
                    self._prove(way)
            except EtcdError as error:
                complaint = (access, str(error)) if way is None else (way, type(error))
                if complaint != self._complaint:
                    self._complaint = complaint
                    logger.error("the new access to etcd is not used, it does not work: %s", error)
                return False
            self._complaint = None
        if way == in_use:
            return False
        logger.info(
            "a new access to etcd is used: endpoints, password or certificates have changed"
        )
        return True

    @property
    def access(self) -> EtcdAccess:
        """The one in use."""
        return self._way().access

    def survey(self) -> dict[str, str]:
        """Ask each endpoint for its status, and whether it keeps leases: what is wrong with those
        that are not all right."""
        complaints: dict[str, str] = {}
        way = self._way()
        for endpoint in way.access.endpoints:
            one = replace(way, access=replace(way.access, endpoints=(endpoint,)))
            complaint = self._complaint_about(one)
            if complaint is not None:
                complaints[endpoint] = complaint
        return complaints

    def _complaint_about(self, way: Way) -> str | None:
        """Of the only endpoint."""
        token = self._token or NO_TOKEN
        try:
            self._endpoints.call_over(way, STATUS).connection.leave("not needed")
        except EtcdUnreachable as error:
            return "; ".join(error.complaints.values())
        except EtcdError as error:
            return str(error)
        try:
            probe = self._endpoints.call_over(way, replace(KEEPS_LEASES, token=token))
            probe.connection.leave("not needed")
        except EtcdUnreachable as error:
            return "; ".join(error.complaints.values())
        except EtcdError:
            pass  # a token that is out of date says nothing of the endpoint
        return None

    def _prove(self, way: Way) -> None:
        """Get in this way, and use it from now on. Raises EtcdError if it does not work."""

        def ask(call: Call) -> Answer:
            answer = self._endpoints.call_over(way, call)
            answer.connection.leave("not needed")
            return answer

        token = self._log_in(way, ask)
        proof = self._proof or STATUS
        answer = self._endpoints.call_over(way, replace(proof, token=token))
        with self._token_lock:
            self._endpoints.use(way, answer.connection)
            self._token = token

    def _log_in(self, way: Way, ask: Callable[[Call], Answer]) -> str:
        """A token; none where none is needed."""
        if way.access.user is None:
            return NO_TOKEN
        request = rpc.AuthenticateRequest(name=way.access.user, password=way.secrets.password or "")
        try:
            answer = ask(
                Call(
                    lambda c: c.authenticate,
                    request,
                    is_repeatable=True,
                    patience_s=LOGIN_PATIENCE_S,
                )
            )
        except EtcdAuthIsOff:
            if self._token is None:
                logger.warning("etcd-user is not needed: authentication is not enabled in etcd")
            return NO_TOKEN
        token: str = answer.message.token
        if not is_token(token):
            raise EtcdError(
                f"{answer.connection.endpoint}: answers a login with a token that is none"
            )
        return token

    def _way(self) -> Way:
        """The one in use. Raises EtcdError if a file cannot be read."""
        way = self._endpoints.way
        if way is None:
            with self._way_lock:
                way = self._endpoints.way
                if way is None:
                    access = self._access
                    way = Way(access, read_secrets(access))
                    check_secrets(way.access, way.secrets)
                    self._endpoints.use(way)
        return way

    def _authenticated(self) -> str:
        """A token, if a user is configured.

        Sent as plain metadata: gRPC's call credentials refuse to work without TLS.
        """
        way = self._way()
        if way.access.user is None:
            return NO_TOKEN
        with self._token_lock:
            if self._token is None:
                self._token = self._log_in(way, self._endpoints.call)
            return self._token

    def _forget_token(self, token: str) -> None:
        with self._token_lock:
            if self._token == token:
                self._token = None

    def _call(self, call: Call) -> Answer:
        way = self._way()
        try:
            return self._call_authenticated(call)
        except EtcdLeaseNotFound:
            raise
        except EtcdLoginFailed:
            # A new password may be in its file already; nothing has been done yet.
            if not self._comes_to_another_way_than(way):
                raise
            return self._call_authenticated(call)
        except EtcdError:
            # Perhaps because a certificate has been replaced.
            self._wants_refresh.set()
            raise

    def _comes_to_another_way_than(self, way: Way) -> bool:
        """Within a moment, because it is looked for."""
        self._wants_refresh.set()
        give_up_at = monotonic() + LOGIN_REFRESH_S
        while self._endpoints.way is way and monotonic() < give_up_at:
            self.is_closed.wait(0.02)
        return self._endpoints.way is not way

    def _call_authenticated(self, call: Call) -> Answer:
        token = self._authenticated()
        try:
            return self._endpoints.call(replace(call, token=token))
        except (EtcdTokenRefused, EtcdPermissionDenied) as error:
            # Whoever shows no token is to etcd the user whom the client certificate names.
            if isinstance(error, EtcdPermissionDenied) and token != NO_TOKEN:
                raise
            self._forget_token(token)
            return self._endpoints.call(replace(call, token=self._authenticated()))
        except EtcdUnreachable:
            # An etcd that was wiped or restored waits in vain for what an old token refers to.
            self._forget_token(token)
            raise


def read_pair(pair: Any) -> KeyValue:
    """A KeyValue of etcd's API as ours."""
    return KeyValue(pair.value, pair.lease, pair.create_revision, pair.mod_revision)


def _too_much(ranges: Iterable[tuple[bytes, bytes]], most: str) -> str:
    return f"reading {' and '.join(shown(start) for start, _ in ranges)}: {too_much(most)}"
