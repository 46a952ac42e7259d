"""Certificates for tests."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from yaim.lab.certificates import Authority


@dataclass(frozen=True)
class Certificates:
    """Files with certificates and their keys."""

    ca: Path
    stranger: Path
    """Another CA."""
    leaf: Path
    """For 127.0.0.1, as a server and as a client, signed by `ca`."""
    key: Path

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
    authority = Authority(directory)
    leaf = authority.issue("leaf", ["127.0.0.1"])
    return Certificates(
        ca=authority.cert,
        stranger=Authority(directory, "stranger").cert,
        leaf=leaf.cert,
        key=leaf.key,
    )
