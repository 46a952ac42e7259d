"""The keys of a check that connects by libpq: where to, as whom, and with which files."""

import ast
import re
import ssl
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yaim.checks.transport.libpq import LibpqError, effective, missing, parse
from yaim.checks.transport.tls_files import has_certificates
from yaim.config_keys import (
    MASK,
    Fault,
    InvalidValue,
    any_text,
    both_or_neither,
    key,
    readable_file,
    required,
    text,
)

_OPTION_OF: Mapping[str, str] = {
    "user": "user",
    "password": "password",
    "ca_file": "sslrootcert",
    "cert_file": "sslcert",
    "key_file": "sslkey",
}
"""The keys that libpq has an option for."""
_WITHOUT_TLS_TOO = ("disable", "allow", "prefer")
"""With these modes libpq does without TLS, also where it cannot use the client certificate."""
_NOT_ITS_KEY = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""OpenSSL's reasons; it gives the second one if not even the kind of key is the same."""


def conn_url(value: Any) -> str:
    """Reads what libpq takes, if there is a libpq to ask."""
    url = text()(value)
    if missing() is None:
        try:
            parse(url)
        except LibpqError as error:
            raise InvalidValue(f"a URL or keywords as libpq takes them ({error})") from None
    return url


def mask_conn_url(shown: str) -> str:
    """The text without the passwords: a user's, and that of a key; also if it has the quotes of
    repr."""
    if shown[:1] in ("'", '"'):
        try:
            return repr(mask_conn_url(str(ast.literal_eval(shown))))
        except (ValueError, SyntaxError):
            return MASK
    masked = re.sub(r"(://[^:/@]*:).*@", rf"\g<1>{MASK}@", shown)
    masked = re.sub(r"([?&](?:ssl)?password=)[^&]*", rf"\g<1>{MASK}", masked)
    masked = re.sub(
        r"(\b(?:ssl)?password\s*=\s*)(?:'(?:\\.|[^'\\])*'?|(?:\\.|[^\s\\&'])+)",
        rf"\g<1>{MASK}",
        masked,
        flags=re.DOTALL,
    )
    if missing() is None:
        try:
            options = parse(masked)
        except LibpqError:
            return MASK
        if {options.get("password"), options.get("sslpassword")} - {None, "", MASK}:
            return MASK
    return masked


@dataclass(frozen=True, slots=True)
class LibpqKeys:
    conn_url: str = required(
        "the server and the database, as libpq takes them: a URL, or keywords",
        conn_url,
        mask=mask_conn_url,
    )
    user: str | None = key("user to connect as", text())
    password: str | None = key("password of that user", any_text, secret=True)
    password_file: Path | None = key("file with that password", readable_file)
    ca_file: Path | None = key("CA certificates that the server's must be signed by", readable_file)
    cert_file: Path | None = key("client certificate for the server", readable_file)
    key_file: Path | None = key("key of the client certificate for the server", readable_file)

    def connection_faults(self, prefix: str) -> Iterator[Fault]:
        """Faults of these keys. `prefix` is that of their names: postgres-."""
        if (expected := missing()) is not None:
            yield Fault("checker-type", expected)
            return
        yield from both_or_neither(self, prefix, "cert-file", "key-file")
        given = parse(self.conn_url) if self.conn_url else {}
        files = (self.ca_file, self.cert_file, self.key_file)
        yield from _faults_of_files(prefix, *files, given.get("sslpassword", ""))
        if not self.conn_url:
            return
        for port in filter(None, given.get("port", "").split(",")):
            if not port.isdecimal() or not 0 < int(port) < 65536:
                yield Fault(f"{prefix}conn-url", "a port from 1 to 65535 in it")
        for name, option in _OPTION_OF.items():
            if getattr(self, name) is not None and option in given:
                expected = f"either it or {option} in {prefix}conn-url, not both"
                name = prefix + name.replace("_", "-")
                yield Fault(name, expected, f"{prefix}conn-url")
        sslmode = given.get("sslmode")
        if self.ca_file is not None and sslmode not in (None, "verify-ca", "verify-full"):
            expected = f"sslmode verify-full or verify-ca together with {prefix}ca-file"
            yield Fault(f"{prefix}conn-url", expected, f"{prefix}ca-file")
        elif self.cert_file is not None and sslmode in _WITHOUT_TLS_TOO:
            expected = f"sslmode require or stricter together with {prefix}cert-file"
            yield Fault(f"{prefix}conn-url", expected, f"{prefix}cert-file")
        try:
            effective(self.options())
        except LibpqError as error:
            yield Fault(f"{prefix}conn-url", f"options that libpq takes ({error})")

    def servers(self) -> tuple[str, ...]:
        """What libpq tries in turn: host names, addresses, directories of sockets. Empty: its
        default, which is a socket, or what the environment says."""
        if not self.conn_url or missing() is not None:
            return ()
        options = parse(self.conn_url)
        named = options.get("hostaddr") or options.get("host", "")
        return tuple(each for each in named.split(",") if each)

    def options(self) -> dict[str, str]:
        """All options of libpq that are in force. Raises LibpqError."""
        options = parse(self.conn_url)
        for name, option in _OPTION_OF.items():
            if (value := getattr(self, name)) is not None:
                options[option] = str(value)
        if self.ca_file is not None:
            options.setdefault("sslmode", "verify-full")
        elif self.cert_file is not None and effective(options).get("sslmode") in _WITHOUT_TLS_TOO:
            options["sslmode"] = "require"
        return options


def is_socket(server: str) -> bool:
    """Whether one of the servers is the directory of a Unix socket, or an abstract one."""
    return server.startswith(("/", "@"))


def _faults_of_files(
    prefix: str, ca: Path | None, cert: Path | None, key: Path | None, key_password: str
) -> Iterator[Fault]:
    """What cannot be read, or told from here, is left to libpq, which looks at the files only when
    it connects. The password is "" if there is none."""
    if ca is not None and not _may_have_certificates(ca):
        yield Fault(f"{prefix}ca-file", "certificates in PEM")
    if cert is None or key is None:
        return
    if not _may_have_certificates(cert):
        yield Fault(f"{prefix}cert-file", "certificates in PEM")
    elif (expected := _wrong_with(key, cert, key_password, prefix)) is not None:
        yield Fault(f"{prefix}key-file", expected, f"{prefix}cert-file")


def _may_have_certificates(file: Path) -> bool:
    try:
        return has_certificates(file)
    except OSError:
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
    """Whether others can read the key, by libpq's rule (initialize_SSL in fe-secure-openssl.c)."""
    found = key.stat()
    refused = stat.S_IRWXG | stat.S_IRWXO
    if found.st_uid == 0:
        refused = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
    return bool(found.st_mode & refused)
