"""Whether libpq can use the files that the keys ca-file, cert-file and key-file name.

libpq itself looks at them only when it connects. What cannot be read, or told from here, is left to
it.
"""

import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

from yaim.keys import Fault

_NOT_ITS_KEY = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""OpenSSL's reasons; the second one if not even the kind of key is the same."""


def faults_of_files(
    prefix: str, ca: Path | None, cert: Path | None, key: Path | None, key_password: str
) -> Iterator[Fault]:
    """Raises nothing. The password is "" if there is none."""
    if ca is not None and not _has_certificates(ca):
        yield Fault(f"{prefix}ca-file", "certificates in PEM")
    if cert is None or key is None:
        return
    if not _has_certificates(cert):
        yield Fault(f"{prefix}cert-file", "certificates in PEM")
    elif (expected := _wrong_with(key, cert, key_password, prefix)) is not None:
        yield Fault(f"{prefix}key-file", expected, f"{prefix}cert-file")


def _has_certificates(file: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        return False
    except OSError:
        pass
    return True


def _wrong_with(key: Path, cert: Path, password: str, prefix: str) -> str | None:
    """What is expected of the key; None if it is good, or nothing can be told."""
    is_asked = False

    def ask() -> str:
        nonlocal is_asked
        is_asked = True
        return password

    try:
        if _others_can_read(key):
            return "a file that only its owner can read (0600), or of root with group read (0640)"
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, ask)
    except ssl.SSLError as error:
        if error.reason in _NOT_ITS_KEY:
            return f"the key of {prefix}cert-file"
        if is_asked:
            return f"a key without a passphrase, or with sslpassword in {prefix}conn-url"
    except (OSError, ValueError):
        pass
    return None


def _others_can_read(key: Path) -> bool:
    """libpq's rule (initialize_SSL in fe-secure-openssl.c)."""
    found = key.stat()
    refused = stat.S_IRWXG | stat.S_IRWXO
    if found.st_uid == 0:
        refused = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
    return bool(found.st_mode & refused)
