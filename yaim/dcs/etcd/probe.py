"""One look at an endpoint: what it answers to the first bytes of gRPC, with and without TLS.

Goes the way gRPC goes, with a socket and Python's ssl: connect, TLS handshake with ALPN h2, HTTP/2
preface (RFC 9113 section 3.4), which an HTTP/2 server answers with SETTINGS. Each function makes
one connection, within the target's time. What the answers mean is diagnose.py's.
"""

import socket
import ssl
import time
from collections.abc import Callable
from errno import ECONNREFUSED, EHOSTUNREACH, ENETUNREACH
from typing import Any, TypeVar
from urllib.parse import urlsplit

from yaim.host.name_lookup import look_up

Result = TypeVar("Result")

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""The HTTP/2 preface with empty SETTINGS."""
_FRAME_HEADER_BYTES = 9


class EndpointFault(Exception):
    """What is wrong with the endpoint, in words."""


class NotTls(Exception):
    """The answer to a TLS handshake was something else, or nothing before the connection ended."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer


def is_settings(answer: bytes) -> bool:
    return len(answer) >= _FRAME_HEADER_BYTES and answer[3:9] == b"\4\0\0\0\0\0"


def _may_become_settings(answer: bytes) -> bool:
    return len(answer) < _FRAME_HEADER_BYTES and answer[3:4] in (b"", b"\4")


def is_tls(answer: bytes) -> bool:
    """Whether an answer begins as a TLS handshake record or an alert does."""
    return answer[:2] in (b"\x15\x03", b"\x16\x03")


# --- one connection each -------------------------------------------------------------------


def answer_in_plaintext(target: "Target") -> bytes:
    with target.connect() as wire:
        wire.send(_PREFACE)
        return _first_bytes(wire.receive)


def answer_in_tls(target: "Target", context: ssl.SSLContext) -> tuple[bytes, str | None]:
    """The answer, and the protocol chosen by ALPN. Raises NotTls, ssl.SSLError, EndpointFault."""
    with target.connect() as wire:
        tls = _Tls(wire, context, target.host)
        tls.send(_PREFACE)
        answer = _first_bytes(tls.receive)
        tls.end()
        return answer, tls.protocol


def is_for_peers(target: "Target", context: ssl.SSLContext) -> bool:
    """Whether it answers as etcd does to its peers, and to nobody else."""
    answer = b""
    try:
        with target.connect() as wire:
            tls = _Tls(wire, context, target.host)
            tls.send(b"GET /members HTTP/1.0\r\n\r\n")
            while b'"peerURLs"' not in answer:
                more = tls.receive()
                if not more:
                    return False
                answer += more
    except (ssl.SSLError, NotTls, EndpointFault):
        return False
    return True


def speaks_tls(target: "Target") -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with target.connect() as wire:
            _Tls(wire, context, target.host)
    except ssl.SSLError:
        pass
    except (NotTls, EndpointFault):
        return False
    return True


def certificate_of(target: "Target", context: ssl.SSLContext) -> bytes | None:
    """The certificate that the server shows (DER), trusted or not; None if it shows none. Changes
    the context."""
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with target.connect() as wire:
            tls = _Tls(wire, context, target.host)
            tls.end()
            return tls.certificate()
    except (EndpointFault, NotTls, ssl.SSLError):
        return None


def _first_bytes(receive: Callable[[], bytes]) -> bytes:
    """Returns as many bytes as it takes to tell SETTINGS, or what there is until the other side
    ends or falls silent. Raises EndpointFault if there is nothing."""
    answer = b""
    while _may_become_settings(answer):
        try:
            more = receive()
        except EndpointFault:
            if answer:
                break
            raise
        if not more:
            break
        answer += more
    return answer


class Target:
    """An endpoint, and the time within which everything with it must be done."""

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        url = urlsplit(endpoint)
        self.is_tls = url.scheme == "https"
        self.netloc = url.netloc
        self.host = url.hostname or ""
        self._port = url.port or 2379
        self._timeout_s = timeout_s
        self._ends_at = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """The seconds that are left, more than 0. Raises TimeoutError if none are."""
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    @property
    def within(self) -> str:
        return f"within {self._timeout_s:.2g} s"

    def connect(self) -> "_Wire":
        """Connects to the first of the endpoint's addresses that takes the connection. Raises
        EndpointFault."""
        addresses = self._look_up()
        failures: list[str] = []
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            try:
                share_s = self.left_s / (len(addresses) - number)
                return _Wire(_connected((family, kind, protocol), address, share_s), self)
            except OSError as error:
                failures.append(self._why_not_connected(error, address[0]))
        raise EndpointFault("; ".join(dict.fromkeys(failures)))

    def _why_not_connected(self, error: OSError, address: str) -> str:
        if isinstance(error, TimeoutError):
            return (
                f"{address} takes no connection {self.within}: is the host up, and does no firewall"
                " drop it?"
            )
        if error.errno == ECONNREFUSED:
            return (
                f"{address} refuses the connection: does etcd run there, and is this address and"
                " port in its --listen-client-urls?"
            )
        if error.errno in (EHOSTUNREACH, ENETUNREACH):
            return f"there is no way to {address} ({error.strerror}): see ip route, ip neighbour"
        return f"cannot connect to {address}: {error.strerror or error}"

    def _look_up(self) -> list[Any]:
        """The endpoint's addresses. Raises EndpointFault."""
        try:
            return look_up(self.host, self._port, self._ends_at - time.monotonic())
        except TimeoutError:
            why = f"no answer {self.within}"
        except OSError as error:
            why = str(error.strerror)
        raise EndpointFault(f"the name {self.host} cannot be looked up ({why}): see getent hosts")


def _connected(kind: tuple[int, int, int], address: Any, timeout_s: float) -> socket.socket:
    """A connected socket. Raises OSError."""
    connection = socket.socket(*kind)
    try:
        connection.settimeout(timeout_s)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


class _Wire:
    """A connection that is bound by its target's time."""

    def __init__(self, connection: socket.socket, target: Target) -> None:
        self._connection = connection
        self._target = target

    def __enter__(self) -> "_Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, data: bytes) -> None:
        """Sends what it can: if the other side is gone already, what it has said before can still
        be received."""
        try:
            self._connection.settimeout(self._target.left_s)
            self._connection.sendall(data)
        except OSError:
            pass

    def receive(self) -> bytes:
        """The next bytes; none if the other side has ended. Raises EndpointFault if it is
        silent."""
        try:
            self._connection.settimeout(self._target.left_s)
            return self._connection.recv(16384)
        except TimeoutError:
            raise EndpointFault(
                f"takes connections, but does not answer {self._target.within}: etcd is stopped or"
                " overloaded, or this is not its client port (usually 2379)"
            ) from None
        except OSError:
            return b""


class _Tls:
    """TLS over a wire; the construction does the handshake. Each method raises NotTls,
    ssl.SSLError and EndpointFault."""

    def __init__(self, wire: _Wire, context: ssl.SSLContext, host: str) -> None:
        self._wire = wire
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._has_heard = False
        self._do(self._object.do_handshake)

    @property
    def protocol(self) -> str | None:
        return self._object.selected_alpn_protocol()

    def certificate(self) -> bytes | None:
        """The server's certificate (DER)."""
        return self._object.getpeercert(binary_form=True)

    def send(self, data: bytes) -> None:
        self._do(lambda: self._object.write(data))

    def receive(self) -> bytes:
        """The next bytes; none if the other side has ended."""
        try:
            return self._do(lambda: self._object.read(16384))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def end(self) -> None:
        """Says that it is the end, and does not wait for the same from the other side."""
        try:
            self._object.unwrap()
        except ssl.SSLError:
            pass
        self._flush()

    def _do(self, operation: Callable[[], Result]) -> Result:
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                self._flush()
                self._hear()
            finally:
                self._flush()

    def _flush(self) -> None:
        if self._out.pending:
            self._wire.send(self._out.read())

    def _hear(self) -> None:
        data = self._wire.receive()
        if not self._has_heard and not is_tls(data):
            raise NotTls(data)
        self._has_heard = True
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
