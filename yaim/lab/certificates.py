"""Certificates for the lab and the tests, made by openssl; good for two days."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CONFIG = """
[req]
prompt = no
distinguished_name = name
[name]
CN = {name}
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True, slots=True)
class Certificate:
    cert: Path
    key: Path


class Authority:
    """A CA; what it makes is in its directory."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._name = name
        self.cert = self._make(name, "ca", "").cert

    def issue(self, name: str, addresses: Iterable[str]) -> Certificate:
        """For these IP addresses, as a server and as a client. The same name again replaces the
        files."""
        names = ", ".join(f"IP:{address}" for address in addresses)
        signed = ("-CA", f"{self._name}.pem", "-CAkey", f"{self._name}.key")
        return self._make(name, "leaf", f"subjectAltName = {names}\n", *signed)

    def _make(self, name: str, kind: str, more: str, *options: str) -> Certificate:
        config = self._directory / f"{name}.cnf"
        config.write_text(_CONFIG.format(name=name) + more)
        command = (
            *("openssl", "req", "-x509", "-config", f"{name}.cnf", "-extensions", kind),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem", *options),
        )
        subprocess.run(command, cwd=self._directory, check=True, capture_output=True, timeout=30)
        return Certificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
