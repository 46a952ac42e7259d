"""Certificates for the lab and the tests, made by openssl."""

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

OPENSSL_CONFIG = """
[req]
prompt = no
distinguished_name = name
[name]
CN = yaim test {name}
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = {usage}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {hosts}
"""
EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
FAKETIME = "/usr/$LIB/faketime/libfaketime.so.1"
RSA_KEY = ("-newkey", "rsa:2048")
WEAK_RSA_KEY = ("-newkey", "rsa:1024")


@dataclass(frozen=True, slots=True)
class Certificate:
    cert: Path
    key: Path


class Authority:
    """A CA; what it makes is in its directory."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self.cert, self._key = make(directory, name, "ca", *EC_KEY)

    def issue(self, name: str, addresses: Iterable[str]) -> Certificate:
        """For these IP addresses, as a server and as a client. The same name again replaces the
        files."""
        hosts = ", ".join(f"IP:{address}" for address in addresses)
        signed_by = ("-CA", str(self.cert), "-CAkey", str(self._key))
        return Certificate(*make(self._directory, name, "leaf", *EC_KEY, *signed_by, hosts=hosts))


def make(
    directory: Path,
    name: str,
    kind: str,
    *options: str,
    in_days: int = 0,
    hosts: str = "IP:127.0.0.1",
    usage: str = "serverAuth, clientAuth",
) -> tuple[Path, Path]:
    """A certificate of a kind, `ca` or `leaf`, and its key. Valid for two days, beginning in
    `in_days`, which may be negative: not every openssl in use lets both dates be chosen, hence
    libfaketime; without its shared memory, which it would leave behind."""
    config, certificate, key = (directory / f"{name}.{each}" for each in ("cnf", "pem", "key"))
    config.write_text(OPENSSL_CONFIG.format(name=name, hosts=hosts, usage=usage))
    clock = {"LD_PRELOAD": FAKETIME, "FAKETIME": f"{in_days:+}d", "FAKETIME_DISABLE_SHM": "1"}
    subprocess.run(
        (
            *("openssl", "req", "-x509", "-config", str(config), "-extensions", kind, "-nodes"),
            *("-days", "2", "-keyout", str(key), "-out", str(certificate), *options),
        ),
        env={**os.environ, **(clock if in_days else {})},
        check=True,
        capture_output=True,
        timeout=30,
    )
    return certificate, key
