"""Why an endpoint cannot be used: gRPC's own words are poor, and differ from version to version.

Goes the way gRPC goes, with a socket and Python's ssl: connect, TLS handshake with ALPN h2, HTTP/2
preface (RFC 9113 section 3.4), which an HTTP/2 server answers with SETTINGS. One connection; one
or two more only where the answer to the first was strange. Asks etcd nothing, so it knows nothing
of users and permissions; etcd says in plain words itself what is wrong with these.
"""

import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from errno import ECONNREFUSED, EHOSTUNREACH, ENETUNREACH
from typing import Any, TypeVar
from urllib.parse import urlsplit

from yaim.dcs.etcd.access import EtcdAccess, EtcdError, EtcdUnreachable, read_secrets
from yaim.dcs.etcd.certificates import (
    Certificate,
    Expiry,
    certificates_in,
    client_context,
    expiries,
    read_certificate,
)
from yaim.host.name_lookup import look_up

Result = TypeVar("Result")

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""With empty SETTINGS."""
_FRAME_HEADER_BYTES = 9

# SSLCertVerificationError.verify_code: X509_V_ERR_* of OpenSSL's x509_vfy.h
_V_ERR_NOT_YET_VALID = 9
_V_ERR_EXPIRED = 10
_V_ERR_NOT_SIGNED_BY_OURS = (2, 7, 18, 19, 20, 21)
_V_ERR_PURPOSE = 26
_V_ERR_OTHER_HOST = (62, 64)


class _Found(Exception):
    """What is wrong."""


class _NotTls(Exception):
    """The answer to a TLS handshake was something else, or nothing before the connection ended."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer


def explain(endpoint: str, access: EtcdAccess, timeout_s: float) -> str | None:
    """Why gRPC with etcd is impossible at this endpoint, to be put behind its URL and a colon, or
    None if nothing is found to be wrong. Takes `timeout_s` at most; a server that is slower than
    that is what is wrong."""
    target = _Target(endpoint, timeout_s)
    try:
        if target.is_tls:
            _examine_tls(target, access)
        else:
            _examine_plaintext(target)
    except (_Found, EtcdError) as found:
        return str(found)
    return None


def explain_all(error: EtcdError, access: EtcdAccess, timeout_s: float) -> str:
    """The same for a request that has failed at all endpoints; what they said where nothing else is
    found. In at most `timeout_s` for each."""
    if not isinstance(error, EtcdUnreachable):
        return str(error)
    return "; ".join(
        f"{endpoint}: {explain(endpoint, access, timeout_s) or complaint}"
        for endpoint, complaint in error.complaints.items()
    )


def server_expiries(access: EtcdAccess, timeout_s: float) -> tuple[Expiry, ...]:
    """Of the certificates that the endpoints show, be they valid or not; none for those that show
    none within the time."""

    def expiry(endpoint: str) -> Expiry | None:
        try:
            context = client_context(access, read_secrets(access))
        except EtcdError:
            return None
        certificate = _certificate_of(_Target(endpoint, timeout_s), context)
        if certificate is None:
            return None
        return Expiry(endpoint, certificate.subject, certificate.not_after)

    endpoints = [each for each in access.endpoints if urlsplit(each).scheme == "https"]
    with ThreadPoolExecutor(max(len(endpoints), 1)) as at_once:
        return tuple(each for each in at_once.map(expiry, endpoints) if each is not None)


def all_expiries(access: EtcdAccess, timeout_s: float) -> tuple[Expiry, ...]:
    """Of our files and of the endpoints, as far as they can be had; none where TLS is not used."""
    if not any(urlsplit(each).scheme == "https" for each in access.endpoints):
        return ()
    try:
        ours = expiries(access, read_secrets(access))
    except EtcdError:
        ours = ()
    return ours + server_expiries(access, timeout_s)


# --- what the answers mean -----------------------------------------------------------------


def _examine_plaintext(target: "_Target") -> None:
    """Raises _Found."""
    answer = _answer_in_plaintext(target)
    if _is_settings(answer):
        return
    if _is_tls(answer) or (not answer and _speaks_tls(target)):
        raise _Found(f"speaks TLS: use https://{target.netloc} in dcs-endpoints")
    raise _Found(_not_etcd(answer))


def _examine_tls(target: "_Target", access: EtcdAccess) -> None:
    """Raises _Found, EtcdError."""
    secrets = read_secrets(access)
    context = client_context(access, secrets)
    try:
        answer, protocol = _answer_in_tls(target, context)
    except _NotTls as error:
        plaintext = _answer_in_plaintext(target)
        if _is_settings(plaintext):
            raise _Found(
                f"speaks no TLS: use http://{target.netloc} in dcs-endpoints, or let etcd use TLS"
                " (--cert-file, --key-file, https in --listen-client-urls)"
            ) from None
        raise _Found(_not_etcd(plaintext or error.answer)) from None
    except ssl.SSLCertVerificationError as error:
        certificate = _certificate_of(target, context)
        raise _Found(_why_not_trusted(error, certificate, target.host, access)) from None
    except ssl.SSLError as error:
        own = next(iter(certificates_in(secrets.cert)), None)
        raise _Found(_why_refused(error, own, access)) from None
    if not _is_settings(answer):
        if not answer and _is_for_peers(target, context):
            raise _Found(
                "is etcd's port for its peers: name the one for clients in dcs-endpoints (it is in"
                " etcd's --advertise-client-urls, usually 2379)"
            )
        raise _Found(_not_etcd(answer))
    if protocol != "h2":
        raise _Found(
            "speaks TLS, but does not offer HTTP/2 in it (ALPN h2): this is not etcd's client port"
        )


def _not_etcd(answer: bytes) -> str:
    ending = "this is not etcd's client port (usually 2379)"
    if not answer:
        return f"closes the connection without an answer: {ending}, or etcd is just ending"
    if answer.startswith(b"HTTP/1"):
        return f"speaks HTTP/1 only, like a web server or etcd's port for metrics: {ending}"
    shown = "".join(chr(each) if 32 <= each < 127 else "?" for each in answer[:20])
    return f"does not speak HTTP/2, its answer begins with {shown!r}: {ending}"


def _why_not_trusted(
    error: ssl.SSLCertVerificationError,
    certificate: Certificate | None,
    host: str,
    access: EtcdAccess,
) -> str:
    why_not_valid = certificate and certificate.why_not_valid(datetime.now(UTC))
    hosts = ", ".join(certificate.hosts) if certificate else "others"
    code = error.verify_code
    if code in (_V_ERR_EXPIRED, _V_ERR_NOT_YET_VALID):
        if why_not_valid is not None:
            return f"etcd's certificate {why_not_valid}: give etcd a new one, or set the clock"
        return (
            "a CA certificate above etcd's certificate is not valid now: renew it (etcd-ca-file"
            f" {access.ca_file or 'is not set'})"
        )
    if code in _V_ERR_OTHER_HOST:
        return (
            f"etcd's certificate is for {hosts or 'no host at all'}, not for {host}: use a name of"
            " the certificate in dcs-endpoints, or give etcd a certificate with this one"
        )
    if code in _V_ERR_NOT_SIGNED_BY_OURS:
        by = f" but by {certificate.issuer!r}" if certificate else ""
        if access.ca_file is None:
            return (
                f"etcd's certificate is not signed by a CA that this host trusts{by}: set"
                " etcd-ca-file to a file with that CA's certificate"
            )
        return (
            f"etcd's certificate is not signed by a CA in etcd-ca-file {access.ca_file}{by}: put"
            " that CA's certificate there or, if it is an intermediate CA, into etcd's --cert-file"
        )
    if code == _V_ERR_PURPOSE:
        return (
            "etcd's certificate is not for servers: give etcd one whose extended key usage has"
            " serverAuth"
        )
    return f"etcd's certificate cannot be trusted: {error.verify_message}"


def _why_refused(error: ssl.SSLError, own: Certificate | None, access: EtcdAccess) -> str:
    """A TLS alert about certificates means ours: about its own etcd has nothing to complain."""
    reason = str(error.reason or "unknown reason").replace("_", " ").lower()
    _, is_alert, alert = reason.rpartition("alert ")
    if not is_alert:
        return f"the TLS handshake fails: {reason}"
    if "certificate" not in alert and alert != "unknown ca":
        return (
            f"etcd breaks off the TLS handshake (alert {alert}): its log says why; do the TLS"
            " versions and its --cipher-suites fit?"
        )
    if access.cert_file is None:
        return (
            f"etcd wants a client certificate (alert {alert}): set etcd-cert-file and etcd-key-file"
        )
    why_not_valid = own and own.why_not_valid(datetime.now(UTC))
    if why_not_valid is not None:
        return (
            f"etcd refuses the client certificate (alert {alert}): that in etcd-cert-file"
            f" {access.cert_file} {why_not_valid}"
        )
    return (
        f"etcd refuses the client certificate in etcd-cert-file {access.cert_file} (alert {alert}):"
        " is it signed by the CA of etcd's --trusted-ca-file, and does its extended key usage have"
        " clientAuth?"
    )


def _is_settings(answer: bytes) -> bool:
    return len(answer) >= _FRAME_HEADER_BYTES and answer[3:9] == b"\4\0\0\0\0\0"


def _may_become_settings(answer: bytes) -> bool:
    return len(answer) < _FRAME_HEADER_BYTES and answer[3:4] in (b"", b"\4")


def _is_tls(answer: bytes) -> bool:
    """A handshake record or an alert."""
    return answer[:2] in (b"\x15\x03", b"\x16\x03")


# --- one connection each -------------------------------------------------------------------


def _answer_in_plaintext(target: "_Target") -> bytes:
    with target.connect() as wire:
        wire.send(_PREFACE)
        return _first_bytes(wire.receive)


def _answer_in_tls(target: "_Target", context: ssl.SSLContext) -> tuple[bytes, str | None]:
    """With the protocol chosen by ALPN."""
    with target.connect() as wire:
        tls = _Tls(wire, context, target.host)
        tls.send(_PREFACE)
        answer = _first_bytes(tls.receive)
        tls.end()
        return answer, tls.protocol


def _is_for_peers(target: "_Target", context: ssl.SSLContext) -> bool:
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
    except (ssl.SSLError, _NotTls, _Found):
        return False
    return True


def _speaks_tls(target: "_Target") -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with target.connect() as wire:
            _Tls(wire, context, target.host)
    except ssl.SSLError:
        pass
    except (_NotTls, _Found):
        return False
    return True


def _certificate_of(target: "_Target", context: ssl.SSLContext) -> Certificate | None:
    """What the server shows, trusted or not. Changes the context. None: it shows nothing."""
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with target.connect() as wire:
            tls = _Tls(wire, context, target.host)
            tls.end()
            return tls.certificate()
    except (_Found, _NotTls, ssl.SSLError, ValueError):
        return None


def _first_bytes(receive: Callable[[], bytes]) -> bytes:
    """As many as it takes to tell SETTINGS, or what there is until the other side ends or falls
    silent. Raises _Found if there is nothing."""
    answer = b""
    while _may_become_settings(answer):
        try:
            more = receive()
        except _Found:
            if answer:
                break
            raise
        if not more:
            break
        answer += more
    return answer


class _Target:
    """An endpoint, and until when everything with it must be done."""

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
        """More than nothing. Raises TimeoutError."""
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    @property
    def within(self) -> str:
        return f"within {self._timeout_s:.2g} s"

    def connect(self) -> "_Wire":
        """To the first of its addresses that takes the connection. Raises _Found."""
        addresses = self._look_up()
        failures: list[str] = []
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            try:
                share_s = self.left_s / (len(addresses) - number)
                return _Wire(_connected((family, kind, protocol), address, share_s), self)
            except OSError as error:
                failures.append(self._why_not_connected(error, address[0]))
        raise _Found("; ".join(dict.fromkeys(failures)))

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
        """Raises _Found."""
        try:
            return look_up(self.host, self._port, self._ends_at - time.monotonic())
        except TimeoutError:
            why = f"no answer {self.within}"
        except OSError as error:
            why = str(error.strerror)
        raise _Found(f"the name {self.host} cannot be looked up ({why}): see getent hosts")


def _connected(kind: tuple[int, int, int], address: Any, timeout_s: float) -> socket.socket:
    """Raises OSError."""
    connection = socket.socket(*kind)
    try:
        connection.settimeout(timeout_s)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


class _Wire:
    """A connection, within its target's time."""

    def __init__(self, connection: socket.socket, target: _Target) -> None:
        self._connection = connection
        self._target = target

    def __enter__(self) -> "_Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, data: bytes) -> None:
        """If the other side is gone already, what it has said before can still be received."""
        try:
            self._connection.settimeout(self._target.left_s)
            self._connection.sendall(data)
        except OSError:
            pass

    def receive(self) -> bytes:
        """Nothing: the other side has ended. Raises _Found if it is silent."""
        try:
            self._connection.settimeout(self._target.left_s)
            return self._connection.recv(16384)
        except TimeoutError:
            raise _Found(
                f"takes connections, but does not answer {self._target.within}: etcd is stopped or"
                " overloaded, or this is not its client port (usually 2379)"
            ) from None
        except OSError:
            return b""


class _Tls:
    """TLS over a wire; its handshake is done by the construction. Each method raises _NotTls,
    ssl.SSLError and _Found."""

    def __init__(self, wire: _Wire, context: ssl.SSLContext, host: str) -> None:
        self._wire = wire
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._has_heard = False
        self._do(self._object.do_handshake)

    @property
    def protocol(self) -> str | None:
        return self._object.selected_alpn_protocol()

    def certificate(self) -> Certificate:
        """The server's. Raises ValueError if it cannot be read."""
        return read_certificate(self._object.getpeercert(binary_form=True) or b"")

    def send(self, data: bytes) -> None:
        self._do(lambda: self._object.write(data))

    def receive(self) -> bytes:
        """Nothing: the other side has ended."""
        try:
            return self._do(lambda: self._object.read(16384))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def end(self) -> None:
        """Says so, and does not wait for the same from the other side."""
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
        if not self._has_heard and not _is_tls(data):
            raise _NotTls(data)
        self._has_heard = True
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
