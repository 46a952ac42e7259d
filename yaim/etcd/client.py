"""Calls to etcd, one endpoint at a time.

Uses the generated gRPC stubs of the etcd3 package, on channels of our own: that package's client
knows one endpoint only, and its watcher spins when the endpoint is gone (python-etcd3 #258, #1227).

Endpoints are tried in random order. A call that fails because of its endpoint moves on to the
next one and raises EtcdError; repeating it is the caller's decision, because whether a write was
done is then unknown.
"""

import random
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar
from urllib.parse import urlsplit

import etcd3.etcdrpc as rpc
import grpc

from yaim.etcd.access import EtcdAccess, EtcdError, read_secrets
from yaim.etcd.schema import KeyValue

Answer = TypeVar("Answer")

_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
)
_CHANGE_ENDPOINT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
)
_AUTHENTICATE_ANEW = ("invalid auth token", "auth: revision in header is old")


class EtcdLeaseNotFound(EtcdError):
    """The lease is not known to etcd (any more)."""


class _Connection:
    """A channel to one endpoint, with its stubs and its authentication token."""

    def __init__(self, access: EtcdAccess, endpoint: str) -> None:
        self.endpoint = endpoint
        self.token: str | None = None
        url = urlsplit(endpoint)
        if url.scheme == "https":
            self._channel = grpc.secure_channel(url.netloc, _credentials(access), _CHANNEL_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(url.netloc, _CHANNEL_OPTIONS)
        self.kv = rpc.KVStub(self._channel)
        self.lease = rpc.LeaseStub(self._channel)
        self.watch = rpc.WatchStub(self._channel)
        self.auth = rpc.AuthStub(self._channel)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("token", self.token),) if self.token is not None else ()

    def close(self) -> None:
        """Ends all calls on the channel."""
        self._channel.close()


def _credentials(access: EtcdAccess) -> Any:
    secrets = read_secrets(access)
    return grpc.ssl_channel_credentials(secrets.ca, secrets.key, secrets.cert)


class EtcdClient:
    """Thread-safe. Every call but `watch` is bounded by `timeout_s`."""

    def __init__(self, access: EtcdAccess, timeout_s: float) -> None:
        self._access = access
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._endpoints = random.sample(access.endpoints, len(access.endpoints))
        self._connection: _Connection | None = None

    def read_all(self, start: bytes, end: bytes) -> tuple[dict[bytes, KeyValue], int]:
        """A linearizable read of a key range, with its revision."""
        request = rpc.RangeRequest(key=start, range_end=end)
        answer = self._call(lambda c, how: c.kv.Range(request, **how))
        return {pair.key: read_pair(pair) for pair in answer.kvs}, answer.header.revision

    def read_all_from_any(self, start: bytes, end: bytes) -> tuple[dict[bytes, KeyValue], int]:
        """The same, from the first endpoint that answers."""
        for _ in self._access.endpoints[1:]:
            try:
                return self.read_all(start, end)
            except EtcdError:
                continue
        return self.read_all(start, end)

    def put(self, key: bytes, value: bytes) -> None:
        self._call(lambda c, how: c.kv.Put(rpc.PutRequest(key=key, value=value), **how))

    def delete(self, key: bytes) -> None:
        self._call(lambda c, how: c.kv.DeleteRange(rpc.DeleteRangeRequest(key=key), **how))

    def transact(self, request: Any) -> Any:
        """A TxnRequest; its TxnResponse."""
        return self._call(lambda c, how: c.kv.Txn(request, **how))

    def grant(self, ttl_s: int) -> tuple[int, int]:
        """A new lease: its id and the TTL granted, in seconds."""
        answer = self._call(
            lambda c, how: c.lease.LeaseGrant(rpc.LeaseGrantRequest(TTL=ttl_s), **how)
        )
        return answer.ID, answer.TTL

    def keep(self, lease: int) -> int:
        """Refresh a lease; the TTL granted. Raises EtcdLeaseNotFound if it is gone."""

        def keep_once(connection: _Connection, how: dict[str, Any]) -> Any:
            request = rpc.LeaseKeepAliveRequest(ID=lease)
            answers = connection.lease.LeaseKeepAlive(iter([request]), **how)
            try:
                return next(answers)
            finally:
                answers.cancel()

        ttl_s: int = self._call(keep_once).TTL
        if ttl_s <= 0:
            raise EtcdLeaseNotFound(f"lease {lease:x} is gone")
        return ttl_s

    def revoke(self, lease: int) -> None:
        self._call(lambda c, how: c.lease.LeaseRevoke(rpc.LeaseRevokeRequest(ID=lease), **how))

    def watch(self, start: bytes, end: bytes, revision: int) -> Iterator[Any]:
        """The WatchResponses for a key range from a revision on, without end.

        Raises EtcdError when the connection or the watch ends.
        """
        connection = self._connect()
        request = rpc.WatchRequest()
        request.create_request.key = start
        request.create_request.range_end = end
        request.create_request.start_revision = revision
        requests: SimpleQueue[Any] = SimpleQueue()
        requests.put(request)
        try:
            self._authenticate(connection)
            answers = connection.watch.Watch(
                iter(requests.get, None), metadata=connection.metadata()
            )
            try:
                for answer in answers:
                    if answer.canceled:
                        connection.token = None
                        raise EtcdError(
                            f"{connection.endpoint}: watch cancelled"
                            f" ({answer.cancel_reason or 'compacted'})"
                        )
                    yield answer
            finally:
                answers.cancel()
        except (grpc.RpcError, ValueError) as error:
            raise self._failure(connection, error) from error
        finally:
            requests.put(None)

    def close(self) -> None:
        """End all calls. A later call connects anew."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _call(self, make: Callable[[_Connection, dict[str, Any]], Answer]) -> Answer:
        connection = self._connect()
        for is_last_try in (False, True):
            try:
                self._authenticate(connection)
                how = {"timeout": self._timeout_s, "metadata": connection.metadata()}
                return make(connection, how)
            except (grpc.RpcError, ValueError, StopIteration) as error:
                # ValueError: another thread's call has failed and closed the channel.
                if not is_last_try and _details(error).endswith(_AUTHENTICATE_ANEW):
                    connection.token = None
                    continue
                raise self._failure(connection, error) from error
        raise AssertionError("unreachable")

    def _connect(self) -> _Connection:
        with self._lock:
            if self._connection is None:
                self._connection = _Connection(self._access, self._endpoints[0])
            return self._connection

    def _authenticate(self, connection: _Connection) -> None:
        """Get a token, if a user is configured and there is none yet.

        Sent as plain metadata: gRPC's call credentials refuse to work without TLS.
        """
        if self._access.user is None or connection.token is not None:
            return
        request = rpc.AuthenticateRequest(
            name=self._access.user, password=read_secrets(self._access).password or ""
        )
        connection.token = connection.auth.Authenticate(request, timeout=self._timeout_s).token

    def _failure(self, connection: _Connection, error: Exception) -> EtcdError:
        """What to raise for a failed call; leaves the endpoint if that is to blame."""
        code = error.code() if isinstance(error, grpc.RpcError) else grpc.StatusCode.UNAVAILABLE
        if code in _CHANGE_ENDPOINT:
            self._leave(connection)
        text = _details(error)
        if code is grpc.StatusCode.NOT_FOUND and "lease not found" in text:
            return EtcdLeaseNotFound(text)
        return EtcdError(f"{connection.endpoint}: {text}")

    def _leave(self, connection: _Connection) -> None:
        with self._lock:
            if self._connection is connection:
                self._connection = None
                self._endpoints.append(self._endpoints.pop(0))
        connection.close()


def read_pair(pair: Any) -> KeyValue:
    """A KeyValue of etcd's API as ours."""
    return KeyValue(pair.value, pair.lease, pair.create_revision, pair.mod_revision)


def _details(error: Exception) -> str:
    if isinstance(error, grpc.RpcError):
        code, text = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return "no answer in time"
        return text or str(code)
    if isinstance(error, StopIteration):
        return "the stream ended without an answer"
    return str(error)
