"""A channel to one endpoint of etcd, and what its failures mean."""

import re
from collections.abc import Iterator
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import etcd3.etcdrpc as rpc
import grpc

from yaim.dcs.etcd.access import Credentials, EtcdError
from yaim.dcs.etcd.full import REMEDY_FOR_FULL
from yaim.dcs.etcd.keys import MAX_BYTES
from yaim.text import printable

NO_ANSWER = "no answer in time"
NO_TOKEN = ""
"""What stands in place of a token where etcd wants none."""

_WANTS_LEADER = ("hasleader", "true")
"""The metadata of every request: a member that has no leader says so at once instead of waiting for
one (etcd's clientv3.WithRequireLeader)."""
_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", MAX_BYTES),
)
_HANDSHAKE = re.compile(r"(?i)handshake failed.*?SSL routines:[^:]*:([A-Z _]+)")
"""What gRPC says of it, by BoringSSL or by OpenSSL. What is to be done diagnose.py knows."""
_NOT_CONNECTED = re.compile(
    r"failed to connect to all addresses; last error: .*?: ipv[46]:\S+: "
    r"(?:Failed to connect to remote host: )?(.+)"
)
_TOLD_AT_MOST = 500
"""The most characters of etcd's own words that a message quotes."""
CANCELLED_BY_PROXY = "context canceled"
BREAKS_KEEPALIVES_OFF = (
    "breaks keepalives off, as etcd's grpc-proxy does, which cannot be used: name etcd's members"
    " themselves in dcs-endpoints"
)
ETCD_HAS_ANSWERED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
)
"""The codes of etcd's own answers: another endpoint would not answer otherwise."""


class EtcdLeaseNotFound(EtcdError):
    """etcd does not know the lease (any more)."""


class EtcdLoginFailed(EtcdError):
    """User or password is wrong."""


class EtcdAuthIsOff(EtcdError):
    """etcd does not want us to authenticate."""


class EtcdFull(EtcdError):
    """etcd has no space left for anything new."""


class EtcdTooMuch(EtcdError):
    """There are more bytes than are read."""


class EtcdPermissionDenied(EtcdError):
    """The user's roles do not permit it."""


class EtcdTokenRefused(EtcdError):
    """etcd wants us to authenticate, for the first time or anew."""


class Connection:
    """A channel to one endpoint, with its calls."""

    def __init__(self, credentials: Credentials, endpoint: str) -> None:
        self.endpoint = endpoint
        self.opened_at = monotonic()
        self.left_because: str | None = None
        """Why the channel was closed; None while it is in use."""
        url, secrets = urlsplit(endpoint), credentials.secrets
        if url.scheme == "https":
            tls = grpc.ssl_channel_credentials(secrets.ca, secrets.key, secrets.cert)
            self._channel = grpc.secure_channel(url.netloc, tls, _CHANNEL_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(url.netloc, _CHANNEL_OPTIONS)
        kv, lease = rpc.KVStub(self._channel), rpc.LeaseStub(self._channel)
        self.range, self.put, self.delete, self.transact = kv.Range, kv.Put, kv.DeleteRange, kv.Txn
        self.grant, self.revoke = lease.LeaseGrant, lease.LeaseRevoke
        # It is a stream; but one request and one answer look the same on the wire.
        self.keep = self._channel.unary_unary(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            request_serializer=rpc.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=rpc.LeaseKeepAliveResponse.FromString,
        )
        self.watch = rpc.WatchStub(self._channel).Watch
        auth = rpc.AuthStub(self._channel)
        self.authenticate, self.user = auth.Authenticate, auth.UserGet
        maintenance = rpc.MaintenanceStub(self._channel)
        self.status, self.alarm = maintenance.Status, maintenance.Alarm

    def leave(self, because: str) -> None:
        """Ends all calls on the channel. They fail for this reason."""
        if self.left_because is None:
            self.left_because = because
        self._channel.close()


def metadata_of(token: str) -> tuple[tuple[str, str], ...]:
    return (_WANTS_LEADER, ("token", token)) if token else (_WANTS_LEADER,)


def plain(error: Any) -> str:
    """The reason why a call has failed, in few words."""
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED or "Endpoint closing" in text:
        return NO_ANSWER
    if failed := _HANDSHAKE.search(text):
        return f"the TLS handshake fails: {failed[1].lower().replace('_', ' ')}"
    if failed := _NOT_CONNECTED.search(text):
        return failed[1]
    return printable(text, most=_TOLD_AT_MOST) or str(code)


def refusal(endpoint: str, code: grpc.StatusCode, details: str, request: Any) -> EtcdError:
    """The error for what etcd itself has answered, with what to do about it."""
    said = f"{endpoint}: {details}"
    if code is grpc.StatusCode.NOT_FOUND and "lease not found" in details:
        return EtcdLeaseNotFound(said)
    if details.endswith("authentication is not enabled"):
        return EtcdAuthIsOff(said)
    if details.endswith("user name is empty"):
        return EtcdTokenRefused(f"{said}: set etcd-user and etcd-password")
    if details.endswith(("invalid auth token", "auth: revision in header is old")):
        return EtcdTokenRefused(said)
    if "authentication failed" in details:
        return EtcdLoginFailed(f"{said}: check etcd-user and etcd-password")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return EtcdTooMuch(f"{endpoint}: {_about(request)}: {too_much(f'{MAX_BYTES} bytes')}")
    if "database space exceeded" in details:
        return EtcdFull(f"{said}: {REMEDY_FOR_FULL}")
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return EtcdPermissionDenied(
            f"{said} ({_about(request)}): the role of etcd-user needs readwrite for all keys of"
            " the cluster"
        )
    return EtcdError(said)


def too_much(most: str) -> str:
    """The complaint that there is more than `most`, which is the most that is read at once."""
    return (
        f"there are more than {most}: delete what is not yaim's (etcdctl get --prefix --keys-only)"
    )


def _about(request: Any) -> str:
    """The keys that a request is about, in words."""
    if isinstance(request, rpc.RangeRequest):
        return f"reading {shown(request.key)} to {shown(request.range_end)}"
    if isinstance(request, rpc.TxnRequest):
        keys = [shown(key) for key in _written(request)]
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        return f"writing {keys[0]}{more}" if keys else "a transaction"
    if isinstance(request, (rpc.PutRequest, rpc.DeleteRangeRequest)):
        return f"writing {shown(request.key)}"
    return type(request).__name__


def _written(request: Any) -> Iterator[bytes]:
    """The keys that a transaction may write to."""
    for operation in request.success:
        if operation.HasField("request_txn"):
            yield from _written(operation.request_txn)
        elif operation.HasField("request_put"):
            yield operation.request_put.key
        elif operation.HasField("request_delete_range"):
            yield operation.request_delete_range.key


def shown(key: bytes) -> str:
    return key.decode(errors="backslashreplace")
