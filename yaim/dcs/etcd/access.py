"""Where etcd is and what it takes to get in. Reads the files for that anew whenever it is asked;
never asks etcd."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from yaim.host.password_file import PasswordFileError, read_password


class EtcdError(Exception):
    """etcd could not be reached, did not answer in time, or refused; or a file is wrong. The text
    names the endpoint or the file."""


class EtcdUnreachable(EtcdError):
    """No endpoint has answered."""

    def __init__(self, complaints: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{each}: {why}" for each, why in complaints.items()))
        self.complaints = complaints
        """What is wrong with each endpoint."""


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """The part of the configuration that tells where etcd is and how to get in."""

    endpoints: tuple[str, ...]
    """URLs, http or https, with a port."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    """Instead of `password`."""
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the files of an EtcdAccess held when they were read."""

    password: str | None = field(default=None, repr=False)
    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """All that it takes to get in."""

    access: EtcdAccess
    secrets: Secrets


def read_secrets(access: EtcdAccess) -> Secrets:
    """Reads the files. Raises EtcdError that names the file."""
    password = access.password
    if access.password_file is not None:
        try:
            password = read_password(access.password_file)
        except PasswordFileError as error:
            raise EtcdError(
                f"etcd-password-file {access.password_file}: expected {error}"
            ) from error
    return Secrets(
        password,
        *(
            _read(path) if path is not None else None
            for path in (access.ca_file, access.cert_file, access.key_file)
        ),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EtcdError(f"cannot read {path}: {error.strerror}") from error
