"""Certificates for tests, made by openssl."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


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


OPENSSL_CONFIG = """
[req]
prompt = no
distinguished_name = name
[name]
CN = yaim test
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
subjectAltName = IP:127.0.0.1
"""


def make_certificates(directory: Path) -> Certificates:
    (directory / "openssl.cnf").write_text(OPENSSL_CONFIG)

    def make(name: str, kind: str, *options: str) -> Path:
        command = (
            *("openssl", "req", "-x509", "-config", "openssl.cnf", "-extensions", kind),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem", *options),
        )
        subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=30)
        return directory / f"{name}.pem"

    return Certificates(
        ca=make("ca", "ca"),
        stranger=make("stranger", "ca"),
        leaf=make("leaf", "leaf", "-CA", "ca.pem", "-CAkey", "ca.key"),
        key=directory / "leaf.key",
    )
