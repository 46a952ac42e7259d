"""Certificates for tests, made by openssl: with other dates, weak keys and keys with a password,
which trustme cannot make."""

import os
import ssl
import subprocess
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


@dataclass(frozen=True)
class Certificates:
    """Files with certificates and their keys."""

    ca: Path
    stranger: Path
    """Another CA."""
    leaf: Path
    """A certificate for 127.0.0.1, as a server and as a client, signed by `ca`."""
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
        """Makes another certificate and its key; signed by `ca` if by no other. It is valid for
        two days, beginning in `in_days`, which may be negative."""
        ca, ca_key = signed_by or (self.ca, self.ca_key)
        options = (*new_key, "-CA", str(ca), "-CAkey", str(ca_key))
        return make(ca.parent, name, "leaf", *options, in_days=in_days, hosts=hosts, usage=usage)

    def make_ca(self, name: str, *, in_days: int = 0) -> tuple[Path, Path]:
        return make(self.ca.parent, name, "ca", *EC_KEY, in_days=in_days)

    def encrypted_key(self, *form: str) -> Path:
        """A copy of `key` with a password."""
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


def make(
    directory: Path,
    name: str,
    kind: str,
    *options: str,
    in_days: int = 0,
    hosts: str = "IP:127.0.0.1",
    usage: str = "serverAuth, clientAuth",
) -> tuple[Path, Path]:
    """Makes a certificate of a kind, `ca` or `leaf`, and its key. It is valid for two days,
    beginning in `in_days`, which may be negative. Not every openssl in use lets both dates be
    chosen, hence libfaketime; without its shared memory, which it would leave behind."""
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
