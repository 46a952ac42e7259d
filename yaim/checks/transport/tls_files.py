"""The files that a check does TLS with: looked at when the configuration is read, and before each
attempt, as they may have been replaced since."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from yaim.config_keys import Fault


class TlsFiles(Protocol):
    """What a check with TLS files has to have."""

    @property
    def ca_file(self) -> Path | None: ...
    @property
    def cert_file(self) -> Path | None: ...
    @property
    def key_file(self) -> Path | None: ...


class InvalidFile(Exception):
    """A file that TLS cannot be done with; the text says what is wrong."""

    def __init__(self, told: str, key: str = "", expected: str = "") -> None:
        """`key` is the end of the name of the file's key, `expected` what that key takes."""
        super().__init__(told)
        self.key = key
        self.expected = expected


def file_faults(files: TlsFiles, prefix: str) -> Iterator[Fault]:
    """Faults of files that are there. `prefix` is that of the keys' names: http-."""
    try:
        for each in invalid_files(files):
            yield Fault(prefix + each.key, each.expected.format(prefix=prefix))
    except OSError:
        pass  # it has gone since it was opened


def invalid_files(files: TlsFiles) -> Iterator[InvalidFile]:
    """Yields the files that TLS cannot be done with. Raises OSError."""
    ca, cert, key = files.ca_file, files.cert_file, files.key_file
    for file in (ca, cert, key):
        if file is not None:
            file.open("rb").close()
    if ca is not None and not has_certificates(ca):
        yield InvalidFile(f"no CA certificates are in {ca}", "ca-file", "certificates in PEM")
    if cert is None or key is None:
        return
    told = f"no client certificate with its key: {cert}, {key}"
    if not has_certificates(cert):
        yield InvalidFile(told, "cert-file", "certificates in PEM")
        return
    expected = "the key of {prefix}cert-file, without a passphrase"

    def no_password() -> str:
        """Is asked for the key's password. Without this OpenSSL would ask for it at the
        terminal."""
        raise InvalidFile(
            f"the client certificate's key has a password: {key}", "key-file", expected
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, no_password)
    except InvalidFile as error:
        yield error
    except ssl.SSLError as error:
        why = error.reason or ""
        if why == "KEY_VALUES_MISMATCH":
            yield InvalidFile(f"not the client certificate's key: {key}", "key-file", expected)
        elif why.endswith(("_TOO_SMALL", "_TOO_WEAK")):
            in_words = why.replace("_", " ").lower()
            yield InvalidFile(
                f"OpenSSL does not take the client certificate ({in_words}): {cert}",
                "cert-file",
                f"a certificate that OpenSSL takes (not: {in_words})",
            )
        else:
            yield InvalidFile(told, "key-file", expected)


def has_certificates(file: Path) -> bool:
    """Whether there are certificates in the file, and all of them can be read. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError:
        return False
    return context.cert_store_stats()["x509"] > 0
