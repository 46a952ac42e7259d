"""The keys of the configuration that say where etcd is and how to get in."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from yaim.config_keys import (
    Fault,
    InvalidValue,
    both_or_neither,
    key,
    readable_file,
    several,
    text,
    url,
)

CLIENT_PORT = 2379


def endpoint(value: Any) -> str:
    """Reads a URL without a path; without a port it gets etcd's client port."""
    try:
        parts = urlsplit(url(value))
        has_more = parts.query or parts.fragment or "@" in parts.netloc
        if parts.path in ("", "/") and not has_more:
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            return f"{parts.scheme}://{host}:{parts.port or CLIENT_PORT}"
    except InvalidValue:
        pass
    raise InvalidValue(
        "URLs like http://192.0.2.1:2379 or https://etcd1:2379, without path, user or password"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdSettings:
    dcs_endpoints: tuple[str, ...] = key(
        "etcd's URLs; tried in random order", several(endpoint), ("http://127.0.0.1:2379",)
    )
    etcd_user: str | None = key("etcd user", text())
    etcd_password: str | None = key("the etcd user's password", text(), secret=True)
    etcd_password_file: Path | None = key("file with the etcd user's password", readable_file)
    etcd_ca_file: Path | None = key("CA certificates that etcd's must be signed by", readable_file)
    etcd_cert_file: Path | None = key("client certificate for etcd", readable_file)
    etcd_key_file: Path | None = key("key of the client certificate for etcd", readable_file)

    def faults(self) -> Iterator[Fault]:
        yield from both_or_neither(self, "", "etcd-user", "etcd-password")
        yield from both_or_neither(self, "", "etcd-cert-file", "etcd-key-file")
        if not any(each.startswith("https://") for each in self.dcs_endpoints):
            # Without TLS these files would be ignored, and somebody thinks that they are not.
            # Endpoints of both kinds are fine: so it is while a cluster of etcd is moved to TLS.
            expected = (
                f"https:// in dcs-endpoints as well ({', '.join(self.dcs_endpoints)}: no TLS)"
            )
            for name in ("etcd-ca-file", "etcd-cert-file", "etcd-key-file"):
                if getattr(self, name.replace("-", "_")) is not None:
                    yield Fault(name, expected, "dcs-endpoints")
