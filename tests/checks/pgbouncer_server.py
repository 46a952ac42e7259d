"""Real pgbouncers for tests, in front of a real PostgreSQL. As root they run as user postgres, and
they are killed at the end, also when this process dies."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.certificates import Certificates
from tests.checks.postgres_server import (
    PASSWORD,
    PATIENT_S,
    Server,
    as_postgres,
    free_port,
    give_to_postgres,
    wait_until,
)
from yaim.checks.transport.libpq import LibpqError, Session, connect
from yaim.lab.namespaces import DIES_WITH_US

ADMIN = "admin"
MONITOR = "monitor"
"""May look at the console, and no more."""
APP = "app"
"""May use the databases: "app", and those that do not work: "down" and "gone"."""


class Pgbouncer:
    def __init__(self, postgres: Server, directory: Path) -> None:
        self._postgres = postgres
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **options: str) -> None:
        assert self._process is None
        place = f"host=127.0.0.1 port={self._postgres.port}"
        given = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": str(self.directory),
            "auth_type": "scram-sha-256",
            "auth_file": str(self.directory / "users"),
            "admin_users": ADMIN,
            "stats_users": MONITOR,
            "logfile": str(self.directory / "log"),
            "server_login_retry": "1",
            "query_wait_timeout": "3",
            **options,
        }
        ini = [
            "[databases]",
            f"app = {place} dbname=postgres",
            "down = host=127.0.0.1 port=1 dbname=postgres",
            f"gone = {place} dbname=nowhere",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in given.items()),
        ]
        (self.directory / "ini").write_text("\n".join(ini) + "\n")
        users = (ADMIN, MONITOR, APP)
        (self.directory / "users").write_text("".join(f'"{u}" "{PASSWORD}"\n' for u in users))
        self._process = subprocess.Popen(
            (*as_postgres(), *DIES_WITH_US, "pgbouncer", str(self.directory / "ini")),
            cwd=self.directory,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def answers() -> bool:
            assert self._process is not None and self._process.poll() is None
            try:
                return bool(self.admin("SHOW VERSION"))
            except LibpqError:
                return False

        wait_until(answers)

    def options(self, user: str, dbname: str) -> dict[str, str]:
        place = {"host": "127.0.0.1", "port": str(self.port)}
        return {**place, "user": user, "dbname": dbname, "password": PASSWORD}

    @contextmanager
    def session(self, user: str = ADMIN, dbname: str = "pgbouncer") -> Iterator[Session]:
        with connect(self.options(user, dbname), time.monotonic() + PATIENT_S) as session:
            yield session

    def admin(self, command: str) -> list[tuple[str | None, ...]]:
        with self.session() as session:
            return session.query(command)

    @property
    def version(self) -> int:
        """Such as 11800."""
        with self.session() as session:
            return session.server_version

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> None:
        assert self._process is not None
        self._process.wait(PATIENT_S)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


@contextmanager
def pooling(postgres: Server, name: str, **options: str) -> Iterator[Pgbouncer]:
    """Started, and stopped at the end."""
    directory = postgres.directory / name
    directory.mkdir()
    give_to_postgres(directory)
    pgbouncer = Pgbouncer(postgres, directory)
    try:
        pgbouncer.start(**options)
        yield pgbouncer
    finally:
        pgbouncer.stop()
        shutil.rmtree(directory)


def with_client_tls(postgres: Server, certificates: Certificates) -> dict[str, str]:
    """Options for start(): copies of the certificates that pgbouncer may read."""
    options = {"client_tls_sslmode": "require"}
    for option, file in {
        "client_tls_cert_file": certificates.leaf,
        "client_tls_key_file": certificates.key,
    }.items():
        copied = postgres.directory / f"pgbouncer-{file.name}"
        shutil.copy(file, copied)
        copied.chmod(0o600)
        give_to_postgres(copied)
        options[option] = str(copied)
    return options
