"""Requests to etcd: reads, writes, leases, watches, and the state of its endpoints.

Uses the generated gRPC stubs of the etcd3 package, on channels of our own: that package's client
knows one endpoint only, and its watcher spins when the endpoint is gone (python-etcd3 #258, #1227).
How to get in is login.py's, and over which endpoint is endpoints.py's.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import etcd3.etcdrpc as rpc
import grpc

from yaim.core.deadline import LONGEST_LEAST_TTL_S
from yaim.core.model import Boottime
from yaim.dcs.etcd.access import Credentials, EtcdAccess, EtcdError, EtcdUnreachable
from yaim.dcs.etcd.believable import (
    faulty_changes,
    faulty_header,
    faulty_keepalive,
    faulty_lease,
    faulty_read,
    faulty_transaction,
)
from yaim.dcs.etcd.connection import (
    ETCD_HAS_ANSWERED,
    EtcdLeaseNotFound,
    EtcdTooMuch,
    metadata_of,
    plain,
    shown,
    too_much,
)
from yaim.dcs.etcd.endpoints import KEEPS_LEASES, STATUS, Call, Endpoints
from yaim.dcs.etcd.keys import MAX_BYTES, MAX_KEYS, KeyValue
from yaim.dcs.etcd.login import Login
from yaim.text import printable

PAGE = 16
"""The number of keys that are asked for at once beyond those that were there before; twice as many
with each further page. etcd makes the whole of an answer before it sends it, also of one that is
refused for its length: reads of 300 MiB cost it 24 GB."""
LONGEST_TTL_S = 3600
"""The TTL of a lease of which it is not known what was asked for: the longest ttl of yaim.yml."""


@dataclass(frozen=True, slots=True)
class EtcdLease:
    id: int
    ttl_s: int
    """The TTL as granted; what a keepalive tells beyond that does not count."""
    sent_at: Boottime
    """The instant just before the request was sent that etcd has answered: the TTL counts from
    here."""


class EtcdClient:
    """Thread-safe. Every call but `watch` is bounded by `timeout_s`, and by as much again where it
    has to authenticate or to connect first."""

    def __init__(
        self, access: EtcdAccess, timeout_s: float, cluster_memory_s: float | None = None
    ) -> None:
        """`cluster_memory_s`: for how long without an answer of it an etcd cluster is taken to be
        still there, so that no other one is used; three time-outs, unless given."""
        self.is_closed = threading.Event()
        self._endpoints = Endpoints(timeout_s, cluster_memory_s or 3 * timeout_s)
        self._login = Login(access, self._endpoints, self.is_closed)
        self._granted: EtcdLease | None = None
        """The lease that was granted last."""
        self._had_too_many = False
        """Whether the last read had more than MAX_KEYS."""
        self._had_too_much = False
        """Whether reads came near to MAX_BYTES of late: no page is longer than PAGE then."""
        self._counts: dict[tuple[bytes, bytes], int] = {}
        """How many keys each range had at the last read."""

    # --- requests --------------------------------------------------------------------------

    def read_all(self, start: bytes, end: bytes) -> tuple[dict[bytes, KeyValue], int]:
        """Reads a key range, linearizable. Returns its keys and the revision. Raises EtcdError if
        there is more than MAX_KEYS or MAX_BYTES."""
        return self.read_ranges((start, end))

    def read_ranges(self, *ranges: tuple[bytes, bytes]) -> tuple[dict[bytes, KeyValue], int]:
        """The same for several ranges, as of one revision. The bounds hold for all of them
        together."""
        if self._had_too_many:
            # To read as many again and again would cost keepalives.
            self._require_room_for(sum(self.count(*each)[0] for each in ranges), ranges)
        start, end = ranges[0]
        in_small = rpc.RangeRequest(key=start, range_end=end, limit=1)
        # Whoever may read in small what is read is in.
        self._login.prove_by(Call(lambda c: c.range, in_small, is_repeatable=True))
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
        """Yields all of a range in pages, as of a revision; 0: the present one, for all pages."""
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
        return self._login.call(
            Call(
                lambda c: c.range,
                request,
                is_repeatable=True,
                fault_of=lambda answer: faulty_read(answer, start, end, most, revision),
            )
        ).message

    def _require_room_for(self, keys: int, ranges: tuple[tuple[bytes, bytes], ...]) -> None:
        self._had_too_many = keys > MAX_KEYS
        if self._had_too_many:
            raise EtcdError(_too_much(ranges, f"{MAX_KEYS} keys"))

    def count(self, start: bytes, end: bytes) -> tuple[int, int]:
        """How many keys a range has, and as of which revision."""
        request = rpc.RangeRequest(key=start, range_end=end, count_only=True)
        call = Call(lambda c: c.range, request, is_repeatable=True, fault_of=faulty_header)
        answer = self._login.call(call).message
        return answer.count, answer.header.revision

    def first_keys(self, ranges: Iterable[tuple[bytes, bytes]], most: int) -> list[bytes]:
        """The first keys of each of these ranges, `most` of each, in one request."""
        request = rpc.TxnRequest()
        for start, end in ranges:
            asked = request.success.add().request_range
            asked.key, asked.range_end, asked.limit, asked.keys_only = start, end, most, True
        answer = self.transact(request)
        return [pair.key for each in answer.responses for pair in each.response_range.kvs]

    def oldest(self, start: bytes, end: bytes, most: int) -> list[bytes]:
        """The keys of a range that were created first, `most` of them, oldest first."""
        request = rpc.RangeRequest(
            key=start,
            range_end=end,
            limit=most,
            sort_order=rpc.RangeRequest.ASCEND,
            sort_target=rpc.RangeRequest.CREATE,
            keys_only=True,
        )
        answer = self._login.call(
            Call(
                lambda c: c.range,
                request,
                is_repeatable=True,
                fault_of=lambda answer: faulty_read(answer, start, end, most, 0),
            )
        ).message
        return [pair.key for pair in answer.kvs]

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        """Puts a key; under no lease if `lease` is 0."""
        request = rpc.PutRequest(key=key, value=value, lease=lease)
        self._login.call(Call(lambda c: c.put, request, fault_of=faulty_header))

    def delete(self, key: bytes) -> None:
        request = rpc.DeleteRangeRequest(key=key)
        self._login.call(Call(lambda c: c.delete, request, fault_of=faulty_header))

    def transact(self, request: Any) -> Any:
        """Sends a TxnRequest. Returns its TxnResponse."""
        return self._login.call(
            Call(
                lambda c: c.transact,
                request,
                fault_of=lambda answer: faulty_transaction(answer, request),
            )
        ).message

    def grant(self, ttl_s: int) -> EtcdLease:
        """Asks for a new lease, unless the endpoint does not keep leases. etcd may grant a longer
        TTL than it is asked for."""
        self._login.call(KEEPS_LEASES)
        request = rpc.LeaseGrantRequest(TTL=ttl_s)
        answer = self._login.call(
            Call(lambda c: c.grant, request, fault_of=lambda answer: faulty_lease(answer, ttl_s))
        )
        granted = EtcdLease(answer.message.ID, answer.message.TTL, answer.sent_at)
        self._granted = granted
        return granted

    def grant_unkept(self, ttl_s: int) -> int:
        """Returns a new lease that nobody keeps alive: what stands under it ends by itself. Which
        lease is kept, and what is known of it, does not change by that."""
        request = rpc.LeaseGrantRequest(TTL=ttl_s)
        call = Call(lambda c: c.grant, request, fault_of=lambda each: faulty_lease(each, ttl_s))
        lease: int = self._login.call(call).message.ID
        return lease

    def keep(self, lease: int) -> EtcdLease:
        """Refreshes a lease. Raises EtcdLeaseNotFound if it is gone."""
        granted = self._granted
        ttl_s = granted.ttl_s if granted is not None and granted.id == lease else LONGEST_TTL_S
        # An etcd that was started anew with a longer election timeout raises the TTL.
        longest_s = max(ttl_s, LONGEST_LEAST_TTL_S)
        answer = self._login.call_without_login(
            Call(
                lambda c: c.keep,
                rpc.LeaseKeepAliveRequest(ID=lease),
                is_repeatable=True,
                is_urgent=True,
                fault_of=lambda answer: faulty_keepalive(answer, lease, longest_s),
            )
        )
        if answer.message.TTL <= 0:
            raise EtcdLeaseNotFound(f"lease {lease:x} is gone")
        return EtcdLease(lease, min(answer.message.TTL, ttl_s), answer.sent_at)

    def revoke(self, lease: int) -> None:
        self._login.call(Call(lambda c: c.revoke, rpc.LeaseRevokeRequest(ID=lease)))

    def roles(self, user: str) -> tuple[str, ...]:
        """The roles of a user. Every user may ask that about itself."""
        request = rpc.AuthUserGetRequest(name=user)
        call = Call(lambda c: c.user, request, is_repeatable=True)
        return tuple(sorted(self._login.call(call).message.roles))

    def alarms(self) -> frozenset[str]:
        """The alarms that are raised, by etcd's names: NOSPACE, CORRUPT. Every user may ask."""
        request = rpc.AlarmRequest(action=rpc.AlarmRequest.GET)
        answer = self._login.call(Call(lambda c: c.alarm, request, is_repeatable=True)).message
        names = rpc.AlarmType.DESCRIPTOR.values_by_number
        return frozenset(
            names[each.alarm].name if each.alarm in names else f"alarm {each.alarm}"
            for each in answer.alarms
        )

    def watch(self, start: bytes, end: bytes, revision: int) -> Iterator[Any]:
        """Yields the WatchResponses for a key range from a revision on, without end. Raises
        EtcdError when the connection or the watch ends."""
        request = rpc.WatchRequest()
        request.create_request.key = start
        request.create_request.range_end = end
        request.create_request.start_revision = revision
        requests: SimpleQueue[Any] = SimpleQueue()
        requests.put(request)
        token = self._login.token()
        connection = self._endpoints.connected()
        try:
            answers = connection.watch(iter(requests.get, None), metadata=metadata_of(token))
            try:
                for answer in answers:
                    if answer.canceled:
                        # Which of many reasons is told in words only: a new token never hurts.
                        self._login.forget(token)
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
                self._login.forget(token)
            raise EtcdError(f"{connection.endpoint}: {reason}") from error
        except ValueError as error:  # left by another thread just now
            reason = connection.left_because or str(error)
            raise EtcdError(f"{connection.endpoint}: {reason}") from error
        finally:
            requests.put(None)

    def leave_endpoint(self, because: str) -> None:
        """Goes on with another endpoint than the one in use."""
        self._endpoints.leave(because)

    def close(self) -> None:
        """Ends all calls, and what goes on beside them. A later call connects anew."""
        self.is_closed.set()
        self._endpoints.leave("closed")

    # --- access and endpoints --------------------------------------------------------------

    def use(self, access: EtcdAccess) -> None:
        """Uses another access, as soon as it is found to work."""
        self._login.use(access)

    def keep_refreshed(self) -> None:
        """Looks for changed files every few seconds from now on, and when something has failed."""
        self._login.keep_refreshed()

    def refresh(self) -> bool:
        """Looks for changed files, or another access, now. Returns whether new ones are used."""
        return self._login.refresh()

    @property
    def access(self) -> EtcdAccess:
        """The access in use. Raises EtcdError if a file cannot be read."""
        return self._login.credentials().access

    def survey(self) -> dict[str, str]:
        """Asks each endpoint for its status, and whether it keeps leases. Returns what is wrong
        with those that are not all right. Raises EtcdError if a file cannot be read."""
        complaints: dict[str, str] = {}
        credentials = self._login.credentials()
        for endpoint in credentials.access.endpoints:
            access = replace(credentials.access, endpoints=(endpoint,))
            one = replace(credentials, access=access)
            complaint = self._complaint_about(one)
            if complaint is not None:
                complaints[endpoint] = complaint
        return complaints

    def _complaint_about(self, one: Credentials) -> str | None:
        """What is wrong with the only endpoint of these credentials."""
        token = self._login.last_token
        try:
            self._endpoints.call_over(one, STATUS).connection.leave("not needed")
        except EtcdUnreachable as error:
            return "; ".join(error.complaints.values())
        except EtcdError as error:
            return str(error)
        try:
            probe = self._endpoints.call_over(one, replace(KEEPS_LEASES, token=token))
            probe.connection.leave("not needed")
        except EtcdUnreachable as error:
            return "; ".join(error.complaints.values())
        except EtcdError:
            pass  # a token that is out of date says nothing of the endpoint
        return None


def read_pair(pair: Any) -> KeyValue:
    """Turns a KeyValue of etcd's API into ours."""
    return KeyValue(pair.value, pair.lease, pair.create_revision, pair.mod_revision, pair.version)


def _too_much(ranges: Iterable[tuple[bytes, bytes]], most: str) -> str:
    *others, last = (shown(start) for start, _ in ranges)
    where = f"{', '.join(others)} and {last}" if others else last
    return f"reading {where}: {too_much(most)}"
