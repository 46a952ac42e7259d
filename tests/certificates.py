"""Certificates for tests, made by openssl."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from yaim.lab.certificates import EC_KEY, make


@dataclass(frozen=True)
class Certificates:
    """Files with certificates and their keys."""

    ca: Path
    stranger: Path
    """Another CA."""
    leaf: Path
    """For 127.0.0.1, as a server and as a client, signed by `ca`."""
    key: Path
    ca_key: Path

    def make_leaf(
        self,
        name: str,
        *,
        hosts: str = "IP:127.0.0.1",
        usage: str = "serverAuth, clientAuth",
        in_days: int = 0,
        new_key: tuple[str, ...] = EC_KEY,
        signed_by: tuple[Path, Path] | None = None,
    ) -> tuple[Path, Path]:
        """Another one, and its key; signed by `ca` if by no other. Valid for two days, beginning in
        `in_days`, which may be negative."""
        ca, ca_key = signed_by or (self.ca, self.ca_key)
        options = (*new_key, "-CA", str(ca), "-CAkey", str(ca_key))
        return make(ca.parent, name, "leaf", *options, in_days=in_days, hosts=hosts, usage=usage)

    def make_ca(self, name: str, *, in_days: int = 0) -> tuple[Path, Path]:
        return make(self.ca.parent, name, "ca", *EC_KEY, in_days=in_days)

    def encrypted_key(self, *form: str) -> Path:
        """`key` with a password."""
        file = self.key.with_name("encrypted.key")
        command = ("openssl", "pkey", "-in", str(self.key), "-out", str(file), *form)
        command += ("-aes256", "-passout", "pass:x")
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        return file

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.leaf, self.key)
        return context

    def server_that_asks_for_a_certificate(self) -> ssl.SSLContext:
        context = self.server()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.ca)
        return context


def make_certificates(directory: Path) -> Certificates:
    ca, ca_key = make(directory, "ca", "ca", *EC_KEY)
    stranger, _ = make(directory, "stranger", "ca", *EC_KEY)
    leaf, key = directory / "leaf.pem", directory / "leaf.key"
    made = Certificates(ca, stranger, leaf, key, ca_key)
    made.make_leaf("leaf")
    return made
