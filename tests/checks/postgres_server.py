"""Real PostgreSQL servers for tests.

Installation makes one data directory and copies it for each server: that is faster than initdb. As
root the servers run as user postgres. Each is killed with all its processes at the end, also when
this process dies.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from tests.certificates import Certificates
from yaim.checks.transport.libpq import LibpqError, connect
from yaim.lab.namespaces import DIES_WITH_US

PATIENT_S = 60.0
USER = "postgres"
"""The superuser, who needs no password at the Unix socket and this one over TCP."""
PASSWORD = "geheim"
_OPTIONS = {
    "autovacuum": "off",
    "fsync": "off",
    "jit": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "20",
    "max_wal_size": "32MB",
    "shared_buffers": "16MB",
    "wal_keep_size": "16MB",
}
_ACCESS = """
local all,replication all trust
host all,replication all 127.0.0.1/32 scram-sha-256
"""
_AS_POSTGRES = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups")


class Server:
    """One that may be started and stopped again and again. Its Unix socket is in `directory`."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self._programs = programs
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    @property
    def local(self) -> dict[str, str]:
        """libpq's options for its Unix socket."""
        place = {"host": str(self.directory), "port": str(self.port)}
        return {**place, "user": USER, "dbname": "postgres"}

    def begin(self, env: Mapping[str, str] | None = None, **options: str) -> None:
        """Start it, and do not wait."""
        assert self._process is None
        places = {"unix_socket_directories": str(self.directory), "port": str(self.port)}
        command = [str(self._programs / "postgres"), "-D", str(self.data)]
        for name, value in {**_OPTIONS, **places, **options}.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                (*as_postgres(), *DIES_WITH_US, *command),
                cwd=self.directory,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start(self, env: Mapping[str, str] | None = None, **options: str) -> None:
        self.begin(env, **options)
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        def answers() -> bool:
            assert self._process is not None and self._process.poll() is None, self.told()
            try:
                return self.sql("SELECT 1") == [("1",)]
            except LibpqError:
                return False

        wait_until(answers)

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def told(self) -> str:
        return self.log.read_text(errors="replace")

    def sql(self, sql: str) -> list[tuple[str | None, ...]]:
        """Runs it as the superuser."""
        with connect(self.local, time.monotonic() + PATIENT_S) as session:
            return session.query(sql)

    @property
    def pid(self) -> int:
        """The postmaster's."""
        assert self._process is not None
        return self._process.pid

    def processes(self) -> list[int]:
        """The postmaster first, then its children."""
        return [self.pid, *children(self.pid)]

    def process(self, kind: str) -> int:
        """The one of its children that PostgreSQL calls so."""

        def found() -> list[int]:
            return [each for each in children(self.pid) if f" {kind} " in _title(each)]

        wait_until(lambda: len(found()) == 1)
        return found()[0]

    def send(self, number: int) -> None:
        """Sends the signal to the postmaster alone: SIGINT is a fast shutdown, SIGQUIT an immediate
        one."""
        os.kill(self.pid, number)

    def send_to_all(self, number: int) -> None:
        for each in self.processes():
            try:
                os.kill(each, number)
            except ProcessLookupError:
                pass

    def stop(self, number: int = signal.SIGQUIT) -> None:
        """Stops the server, whatever state it is in: at once, unless it is to take its time."""
        process, self._process = self._process, None
        if process is None:
            return
        family = [process.pid, *children(process.pid)]
        if process.poll() is None:
            for each in reversed(family):
                _kill(each, signal.SIGCONT)
            process.send_signal(number)
            try:
                process.wait(PATIENT_S / 3)
            except subprocess.TimeoutExpired:
                family += children(process.pid)
                process.kill()
                process.wait()
        for each in family[1:]:
            if _is_postgres(each):
                _kill(each, signal.SIGKILL)


class Installation:
    """The newest server on this machine, and a data directory that is copied."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
        newest = max(found, key=lambda each: float(each.parts[-3]))
        self.programs = newest.parent
        self.major = int(newest.parts[-3])
        self._made = 0
        password = directory / "password"
        password.write_text(PASSWORD)
        give_to_postgres(directory, password)
        self._template = directory / "template"
        self.run(
            *("initdb", "-D", str(self._template), "-U", USER, "-A", "scram-sha-256"),
            *("--pwfile", str(password), "--no-sync", "--no-instructions"),
            *("--wal-segsize=1", "--encoding=UTF8", "--locale=C"),
        )
        (self._template / "pg_hba.conf").write_text(_ACCESS)

    def run(self, program: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """One of PostgreSQL's own programs, to its end."""
        done = subprocess.run(
            (*as_postgres(), str(self.programs / program), *arguments),
            cwd=self._directory,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=PATIENT_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def new(self) -> Server:
        """A server that has not been started, with a data directory of its own."""
        server = self._new_server()
        subprocess.run(("cp", "-a", str(self._template), str(server.data)), check=True)
        return server

    def new_standby(self, primary: Server) -> Server:
        """Makes a standby of a primary that runs."""
        server = self._new_server()
        self.run(
            *("pg_basebackup", "-D", str(server.data), "-R", "--no-sync", "-c", "fast"),
            *("-h", str(primary.directory), "-p", str(primary.port), "-U", USER),
        )
        return server

    def _new_server(self) -> Server:
        self._made += 1
        directory = self._directory / f"s{self._made}"
        directory.mkdir()
        give_to_postgres(directory)
        return Server(self.programs, directory)


@contextmanager
def installed() -> Iterator[Installation]:
    """An installation in a directory that user postgres can enter, with a path short enough for
    Unix sockets."""
    directory = Path(mkdtemp(prefix="yaim-pg-", dir="/tmp"))
    try:
        directory.chmod(0o755)
        yield Installation(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def running(server: Server, **options: str) -> Iterator[Server]:
    """Started, and stopped at the end."""
    try:
        server.start(None, **options)
        yield server
    finally:
        server.stop()


def as_postgres() -> tuple[str, ...]:
    """What stands in front of a command: PostgreSQL's programs refuse to run as root."""
    return _AS_POSTGRES if os.geteuid() == 0 else ()


def give_to_postgres(*paths: Path) -> None:
    if os.geteuid() == 0:
        owner = pwd.getpwnam(USER)
        for each in paths:
            os.chown(each, owner.pw_uid, owner.pw_gid)


def with_tls(server: Server, certificates: Certificates) -> dict[str, str]:
    """Options for start(): copies of the certificates that the server may read."""
    files = {
        "ssl_ca_file": certificates.ca,
        "ssl_cert_file": certificates.leaf,
        "ssl_key_file": certificates.key,
    }
    options = {"ssl": "on"}
    for option, file in files.items():
        copied = server.directory / file.name
        shutil.copy(file, copied)
        copied.chmod(0o600)
        give_to_postgres(copied)
        options[option] = str(copied)
    return options


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until(is_so: Callable[[], bool], within_s: float = PATIENT_S) -> None:
    give_up_at = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def children(pid: int) -> Sequence[int]:
    """Returns the children of a process and its threads; none of those that are gone."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            found += map(int, (thread / "children").read_text().split())
    return found


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def _is_postgres(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "postgres"
    except OSError:
        return False


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
