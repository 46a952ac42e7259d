"""Certificates and keys for etcd: whether they can be used, and until when.

Works on what the files held when they were read (Secrets), never on the files: they may be replaced
at any time, one after the other. A key that does not belong to its certificate can be such a moment
and does not last then; reading both anew is what helps.

Dates and names are taken out of the certificates by hand (RFC 5280 section 4.1, X.690 for DER): the
public part of Python's ssl tells them of verified peers only, and so of nothing that has expired.
"""

import base64
import os
import re
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from yaim.dcs.etcd.access import EtcdAccess, EtcdError, Secrets
from yaim.text import printable

WARN_WITHIN = timedelta(days=30)


class TlsFileError(EtcdError):
    """A file that TLS cannot be done with."""

    def __init__(self, key: str, path: Path, expected: str) -> None:
        super().__init__(f"{key} {path}: expected {expected}")
        self.key = key
        """The configuration key that names the file."""
        self.path = path
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Certificate:
    """What people want to know of one. Names may hold anything that can be printed."""

    subject: str
    """The common name; all there is, where that is missing."""
    issuer: str
    not_before: datetime
    not_after: datetime
    hosts: tuple[str, ...]
    """DNS names and IP addresses that it is for."""

    def why_not_valid(self, now: datetime) -> str | None:
        if now > self.not_after:
            return f"has expired on {self.not_after:%Y-%m-%d}"
        if now < self.not_before:
            return f"is not valid before {self.not_before:%Y-%m-%d} (here it is {now:%Y-%m-%d})"
        return None


@dataclass(frozen=True, slots=True)
class Expiry:
    """When a certificate ends."""

    what: str
    """Key and path of the file that it is in, or the endpoint that has shown it."""
    subject: str
    not_after: datetime
    """UTC."""

    def days_left(self, now: datetime) -> int:
        """Whole days; less than 0 once it has expired."""
        return (self.not_after - now) // timedelta(days=1)


# --- whether the files can be used ---------------------------------------------------------


def check_secrets(access: EtcdAccess, secrets: Secrets) -> None:
    """Raises TlsFileError, the first of `faults`."""
    for fault in faults(access, secrets):
        raise fault


def faults(access: EtcdAccess, secrets: Secrets) -> Iterator[TlsFileError]:
    """All that keeps these certificates and keys from being used, be they valid at the moment or
    not."""
    if access.ca_file is not None and secrets.ca is not None:
        yield from _certificate_faults("etcd-ca-file", access.ca_file, secrets.ca)
    if access.cert_file is None or access.key_file is None:
        return
    if secrets.cert is None or secrets.key is None:
        return
    of_certificate = list(_certificate_faults("etcd-cert-file", access.cert_file, secrets.cert))
    yield from of_certificate
    expected = _key_fault(secrets.key)
    if expected is None and not of_certificate:
        try:
            _load_pair(_context(), secrets.cert, secrets.key)
        except ssl.SSLError as error:
            expected = "a private key that is whole: it is damaged"
            if "MISMATCH" in str(error.reason) or "NO_CERTIFICATE_ASSIGNED" in str(error.reason):
                expected = (
                    f"the key of the certificate in etcd-cert-file {access.cert_file}, found that"
                    " of another (is one of the two just being replaced?)"
                )
    if expected is not None:
        yield TlsFileError("etcd-key-file", access.key_file, expected)


def client_context(access: EtcdAccess, secrets: Secrets) -> ssl.SSLContext:
    """Trusts and shows what gRPC would. Raises TlsFileError."""
    check_secrets(access, secrets)
    context = _context()
    if secrets.ca is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=_ascii(secrets.ca))
    if secrets.cert is not None and secrets.key is not None:
        _load_pair(context, secrets.cert, secrets.key)
    return context


def _context() -> ssl.SSLContext:
    """As lenient as gRPC's, whatever the host's OpenSSL and Python are set to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    return context


def _certificate_faults(key: str, path: Path, content: bytes) -> Iterator[TlsFileError]:
    if not _PEM_CERTIFICATE.search(content):
        expected = "certificates in PEM form (-----BEGIN CERTIFICATE-----), found none"
        yield TlsFileError(key, path, expected)
        return
    try:
        _context().load_verify_locations(cadata=_ascii(content))
    except ssl.SSLError:
        yield TlsFileError(key, path, "certificates that are whole: one of them is damaged")


def _key_fault(content: bytes) -> str | None:
    """What is expected instead, as far as it shows without the certificate."""
    if b"PRIVATE KEY-----" not in content:
        return "a private key in PEM form (-----BEGIN PRIVATE KEY-----), found none"
    if b"ENCRYPTED" in content:
        return "a private key without a password: there is nobody to ask for it"
    return None


def _load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Raises ssl.SSLError, or EtcdError if it cannot be tried here. Python's function wants paths;
    the content does not leave memory for that. With a password given, it asks nobody for one."""
    try:
        with _in_memory(cert) as cert_path, _in_memory(key) as key_path:
            context.load_cert_chain(cert_path, key_path, password="")
    except ssl.SSLError:
        raise
    except OSError as error:
        raise EtcdError(f"cannot look at the client certificate: {error}") from error


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """The path of a file that has this content, for this process only."""
    fd = os.memfd_create("tls")
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{fd}"


def _ascii(pem: bytes) -> str:
    """What stands around the certificates may be in any language."""
    return pem.decode("ascii", "ignore")


# --- until when ----------------------------------------------------------------------------


def expiries(access: EtcdAccess, secrets: Secrets) -> tuple[Expiry, ...]:
    """Of each CA certificate and of the client's own. What cannot be read is left out."""
    in_ca = [(f"etcd-ca-file {access.ca_file}", each) for each in certificates_in(secrets.ca)]
    own = certificates_in(secrets.cert)[:1]
    in_cert = [(f"etcd-cert-file {access.cert_file}", each) for each in own]
    return tuple(Expiry(what, each.subject, each.not_after) for what, each in in_ca + in_cert)


def ending(expiries: Iterable[Expiry], now: datetime, within: timedelta) -> list[Expiry]:
    """Those that have ended, or will within that time. One that has ended is passed over if the
    same place has another that lasts: an old CA beside the new one."""
    all_of_them = list(expiries)
    lasting = {each.what for each in all_of_them if each.not_after >= now + within}
    return [
        each
        for each in all_of_them
        if each.not_after < now + within and (each.not_after >= now or each.what not in lasting)
    ]


def warnings_of(expiries: Iterable[Expiry], now: datetime) -> list[str]:
    """What ends within 30 days, as in `etcd-cert-file /etc/yaim/db1.pem (db1): expires in 12 days
    (2026-12-04)`."""
    return [
        f"{each.what} ({each.subject}): {_when(each.days_left(now))} ({each.not_after:%Y-%m-%d})"
        for each in ending(expiries, now, WARN_WITHIN)
    ]


def _when(days_left: int) -> str:
    if days_left < 0:
        return "has expired"
    if days_left == 0:
        return "expires in less than a day"
    return f"expires in {days_left} day{'s' if days_left > 1 else ''}"


# --- reading certificates ------------------------------------------------------------------

_PEM_CERTIFICATE = re.compile(
    rb"-----BEGIN (X509 |)CERTIFICATE-----(.*?)-----END \1CERTIFICATE-----", re.DOTALL
)
_COMMON_NAME = b"\x55\x04\x03"
_SUBJECT_ALT_NAME = b"\x55\x1d\x11"
_UTC_TIME = 0x17
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87


def certificates_in(pem: bytes | None) -> list[Certificate]:
    """Those that can be read."""
    found = []
    for match in _PEM_CERTIFICATE.finditer(pem or b""):
        try:
            found.append(read_certificate(base64.b64decode(match[2])))
        except ValueError:
            continue
    return found


def read_certificate(der: bytes) -> Certificate:
    """Raises ValueError."""
    ((_, signed),) = _elements(der)
    (_, to_be_signed), *_ = _elements(signed)
    parts = _elements(to_be_signed)
    if parts and parts[0][0] == _VERSION:
        parts = parts[1:]
    _serial, _algorithm, (_, issuer), (_, validity), (_, subject), _key, *more = parts
    not_before, not_after = (_time(*each) for each in _elements(validity))
    hosts = [host for tag, content in more if tag == _EXTENSIONS for host in _hosts(content)]
    return Certificate(_name(subject), _name(issuer), not_before, not_after, tuple(hosts))


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of what comes one after the other. Raises ValueError."""
    found = []
    while der:
        if len(der) < 2 or der[0] & 0x1F == 0x1F or der[1] == 0x80:
            raise ValueError("not as in certificates")
        start, length = 2, der[1]
        if length > 0x80:
            start += length & 0x7F
            length = int.from_bytes(der[2:start], "big")
        if len(der) < start + length:
            raise ValueError("shorter than it says")
        found.append((der[0], der[start : start + length]))
        der = der[start + length :]
    return found


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= "5" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _name(rdns: bytes) -> str:
    values = {}
    for _, attributes in _elements(rdns):
        for _, attribute in _elements(attributes):
            (_, kind), (_, value) = _elements(attribute)
            values[kind] = _text(value)
    return values.get(_COMMON_NAME) or ", ".join(values.values()) or "no name"


def _hosts(extensions: bytes) -> Iterator[str]:
    ((_, listed),) = _elements(extensions)
    for _, extension in _elements(listed):
        (_, kind), *_, (_, value) = _elements(extension)
        if kind != _SUBJECT_ALT_NAME:
            continue
        ((_, names),) = _elements(value)
        for tag, name in _elements(names):
            if tag == _DNS_NAME:
                yield _text(name)
            elif tag == _IP_ADDRESS:
                yield str(ip_address(name))


def _text(value: bytes) -> str:
    return printable(value.decode("utf-8", "replace"), most=None)
