"""Certificates and keys for etcd: whether they can be used, and until when.

Works on what the files held when they were read (Secrets), never on the files: they may be replaced
at any time, one after the other. A key that does not belong to its certificate can be such a moment
and does not last then; reading both anew is what helps.

Python's ssl tells dates and names of verified peers only, and so of nothing that has expired. A
short process of its own reads them (x509.py), with the library `cryptography`. The coordinator
never loads that: it takes 8 MB, and bytes that a stranger has sent are better read elsewhere.
"""

import base64
import json
import logging
import os
import re
import selectors
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

from yaim.dcs.etcd.access import EtcdAccess, EtcdError, Secrets
from yaim.dcs.expiry import Expiry
from yaim.text import printable

logger = logging.getLogger(__name__)

READ_WITHIN_S = 10.0
"""How long the process that reads certificates may take: a tenth of a second, if the host is not
busy."""
MAX_BYTES = 4 * 1024 * 1024
"""The most that is read at once. All CAs that a Debian trusts have 0.2 MB."""
MOST_ANSWERED = 4 * MAX_BYTES
"""The most bytes that are taken from that process."""
_PEM_CERTIFICATE = re.compile(
    rb"-----BEGIN (X509 |)CERTIFICATE-----([^-]*(?:-(?!----)[^-]*)*)-----END \1CERTIFICATE-----"
)
"""There are no five dashes within, so that many beginnings without an end cost no more than one."""


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
    """What people want to know of a certificate. Names may hold anything that can be printed."""

    subject: str
    """The common name; all parts of the name, where that is missing."""
    issuer: str
    not_before: datetime
    not_after: datetime
    hosts: tuple[str, ...]
    """The DNS names and IP addresses that it is for."""

    def why_not_valid(self, now: datetime) -> str | None:
        if now > self.not_after:
            return f"has expired on {self.not_after:%Y-%m-%d}"
        if now < self.not_before:
            return f"is not valid before {self.not_before:%Y-%m-%d} (here it is {now:%Y-%m-%d})"
        return None


# --- whether the files can be used ---------------------------------------------------------


def check_secrets(access: EtcdAccess, secrets: Secrets) -> None:
    """Raises the first of `faults`, a TlsFileError."""
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
    """A context that trusts and shows what gRPC would. Raises TlsFileError."""
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
    """A context as lenient as gRPC's, whatever the host's OpenSSL and Python are set to."""
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
    """What is expected in place of this key, as far as it shows without the certificate; None if
    nothing is wrong."""
    if b"PRIVATE KEY-----" not in content:
        return "a private key in PEM form (-----BEGIN PRIVATE KEY-----), found none"
    if b"ENCRYPTED" in content:
        return "a private key without a password: there is nobody to ask for it"
    return None


def _load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Loads a certificate with its key. Raises ssl.SSLError, or EtcdError if that cannot be tried.

    Python's function wants paths; the content does not leave memory for that. Because a password is
    given, it asks nobody for one."""
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
    """The content without what is not ASCII: texts around the certificates may be in any
    language."""
    return pem.decode("ascii", "ignore")


# --- until when ----------------------------------------------------------------------------


def expiries(access: EtcdAccess, secrets: Secrets) -> tuple[Expiry, ...]:
    """The ends of each CA certificate and of the client's own one. What cannot be read is left
    out."""
    in_ca = [(f"etcd-ca-file {access.ca_file}", each) for each in certificates_in(secrets.ca)]
    own = certificates_in(secrets.cert)[:1]
    in_cert = [(f"etcd-cert-file {access.cert_file}", each) for each in own]
    return tuple(Expiry(what, each.subject, each.not_after) for what, each in in_ca + in_cert)


# --- reading certificates ------------------------------------------------------------------


def certificates_in(pem: bytes | None) -> list[Certificate]:
    """The certificates in a file's content that can be read."""
    ders = []
    for match in _PEM_CERTIFICATE.finditer(pem or b""):
        try:
            ders.append(base64.b64decode(match[2]))
        except ValueError:
            continue
    return [each for each in read_certificates(ders) if each is not None]


def read_certificates(ders: Sequence[bytes]) -> list[Certificate | None]:
    """The certificates, each in DER, in the same order; None for one that cannot be read.

    Has them read by a process of its own (x509.py), for which it waits READ_WITHIN_S at most. If
    that process fails, which is logged, none can be read.
    """
    unread: list[Certificate | None] = [None] * len(ders)
    if not ders:
        return unread
    if sum(map(len, ders)) > MAX_BYTES:
        logger.warning("certificates are not read: there are more than %d bytes", MAX_BYTES)
        return unread
    try:
        told = json.loads(_answer(json.dumps([base64.b64encode(der).decode() for der in ders])))
        found = [None if each is None else _from_json(each) for each in told]
        if len(found) != len(ders):
            raise ValueError(f"{len(ders)} were asked for, {len(found)} answered")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        logger.warning("certificates are not read: %s", printable(str(error)))
        return unread
    return found


def _answer(asked: str) -> str:
    """Returns the last line that x509.py writes. It is not trusted: the time and the bytes that it
    is given are bounded here. Raises OSError, ValueError."""
    with subprocess.Popen(
        (sys.executable, "-I", "-W", "ignore", "-m", "yaim.dcs.etcd.x509"),
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
    ) as process:
        try:
            told = _exchange(process, memoryview(asked.encode()))
        finally:
            process.kill()
    last = told.decode(errors="replace").rstrip().rpartition("\n")[2]
    if not last.endswith("]"):
        raise ValueError(last or "their reader has ended")
    return last


def _exchange(process: subprocess.Popen[bytes], asked: memoryview) -> bytes:
    """Writes what is asked and reads what is answered, until that ends. Raises OSError."""
    to, answers = process.stdin, process.stdout
    assert to is not None and answers is not None
    os.set_blocking(to.fileno(), False)
    told = bytearray()
    give_up_at = monotonic() + READ_WITHIN_S
    with selectors.DefaultSelector() as selector:
        selector.register(to, selectors.EVENT_WRITE)
        selector.register(answers, selectors.EVENT_READ)
        while len(told) <= MOST_ANSWERED:
            ready = [key.fileobj for key, _ in selector.select(max(0.0, give_up_at - monotonic()))]
            if not ready:
                raise TimeoutError(f"their reader has not answered within {READ_WITHIN_S:g} s")
            if to in ready:
                try:
                    asked = asked[os.write(to.fileno(), asked) :]
                except BrokenPipeError:  # it has ended before, and perhaps said why
                    asked = asked[:0]
                if not asked:
                    selector.unregister(to)
                    to.close()
            if answers in ready:
                part = os.read(answers.fileno(), 1 << 16)
                if not part:
                    return bytes(told)
                told += part
    raise OSError(f"their reader has written more than {MOST_ANSWERED} bytes")


def _from_json(told: dict[str, Any]) -> Certificate:
    """What x509.py has written. Raises KeyError, TypeError, ValueError if it is something else."""
    before, after = (datetime.fromisoformat(told[each]) for each in ("not_before", "not_after"))
    if before.tzinfo is None or after.tzinfo is None:
        raise ValueError("a date without a time zone")
    subject, issuer = str(told["subject"]), str(told["issuer"])
    return Certificate(subject, issuer, before, after, tuple(map(str, told["hosts"])))
