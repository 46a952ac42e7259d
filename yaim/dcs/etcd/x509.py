"""The program that reads certificates, for certificates.py: python -I -m yaim.dcs.etcd.x509

Standard input is a JSON list of certificates, each in DER as base64. Standard output is a JSON list
of the same length: an object for each certificate (`read` has its members), or null for one that
cannot be read. Both forms stay as they are: while a package is installed, the process that asks may
be of another version.

A process of its own, because it reads bytes that any server may have sent, and because the library
`cryptography` takes 8 MB and 0.1 s to import, which the coordinator is not to spend. It bounds its
own memory and time.
"""

import base64
import json
import resource
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import NameOID

from yaim.text import printable

UNREADABLE_NAME = "a name that cannot be read"
_MAX_MEMORY_BYTES = 1 << 30
_MAX_PROCESSOR_S = 10


def read(der: bytes) -> dict[str, object] | None:
    """What people want to know of a certificate; None if it cannot be read."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        return {
            "subject": _name(lambda: certificate.subject),
            "issuer": _name(lambda: certificate.issuer),
            "not_before": _utc(certificate, "not_valid_before").isoformat(),
            "not_after": _utc(certificate, "not_valid_after").isoformat(),
            "hosts": _hosts(certificate),
        }
    except Exception:  # the library's versions differ in what they raise
        return None


def _name(parse: Callable[[], x509.Name]) -> str:
    """The common name; all parts of the name, where that is missing."""
    try:
        values = {each.oid: _shown(each.value) for each in parse()}
    except (ValueError, KeyError):  # not UTF-8, or of an unknown kind
        return UNREADABLE_NAME
    return values.get(NameOID.COMMON_NAME) or ", ".join(values.values()) or "no name"


def _shown(value: str | bytes) -> str:
    text = value if isinstance(value, str) else value.decode("utf-8", "replace")
    return printable(text, most=None)


def _utc(certificate: x509.Certificate, which: str) -> datetime:
    """A date of the certificate. The library has names that end in _utc since its version 42."""
    found: datetime = getattr(certificate, f"{which}_utc", None) or getattr(certificate, which)
    return found.replace(tzinfo=UTC)


def _hosts(certificate: x509.Certificate) -> list[str]:
    """The DNS names and IP addresses that it is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [
            _shown(each.value) if isinstance(each, x509.DNSName) else str(each.value)
            for each in names
            if isinstance(each, x509.DNSName | x509.IPAddress)
        ]
    except x509.ExtensionNotFound:
        return []
    except (ValueError, KeyError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return [UNREADABLE_NAME]


def _limit(which: int, most: int) -> None:
    """Lowers a limit of this process. One that is lower already stays as it is."""
    hard = resource.getrlimit(which)[1]
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(which, (most, most))


def main() -> None:
    _limit(resource.RLIMIT_AS, _MAX_MEMORY_BYTES)
    _limit(resource.RLIMIT_CPU, _MAX_PROCESSOR_S)
    asked = json.load(sys.stdin)
    json.dump([read(base64.b64decode(each)) for each in asked], sys.stdout)


if __name__ == "__main__":
    main()
