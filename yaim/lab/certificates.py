"""Certificates for the lab's etcd, made by trustme.

trustme is imported only here, and only when an etcd with TLS is asked for: it need not be there for
any other lab.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from yaim.lab.namespaces import LabError


@dataclass(frozen=True, slots=True)
class Certificate:
    """The files of a certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """A CA. The files that it makes are in its directory."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        """Raises LabError if trustme is missing."""
        try:
            import trustme
        except ImportError as error:
            raise LabError(
                "an etcd with TLS needs trustme: apt-get install python3-trustme"
            ) from error
        self._directory = directory
        self._authority = trustme.CA(organization_name=f"yaim lab {name}")
        self.cert = directory / f"{name}.pem"
        self._authority.cert_pem.write_to_path(str(self.cert))

    def issue(self, name: str, addresses: Iterable[str]) -> Certificate:
        """Makes a certificate for these IP addresses, as a server and as a client. The same name
        again replaces the files."""
        issued = self._authority.issue_cert(*addresses, common_name=f"yaim lab {name}")
        made = Certificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        issued.private_key_pem.write_to_path(str(made.key))
        (chain,) = issued.cert_chain_pems
        chain.write_to_path(str(made.cert))
        return made
