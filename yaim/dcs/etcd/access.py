"""Where etcd is and how to get in; the files for that, read anew whenever asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from yaim.host.password_file import PasswordFileError, read_password


class EtcdError(Exception):
    """etcd could not be reached, did not answer in time, or refused. Says which endpoint, or which
    file."""


class EtcdUnreachable(EtcdError):
    """No endpoint has answered."""

    def __init__(self, complaints: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{each}: {why}" for each, why in complaints.items()))
        self.complaints = complaints
        """Endpoint to what is wrong with it."""


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """As the configuration says it."""

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
    """What the files of an EtcdAccess hold."""

    password: str | None = field(default=None, repr=False)
    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


def read_secrets(access: EtcdAccess) -> Secrets:
    """Raises EtcdError that names the file."""
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
