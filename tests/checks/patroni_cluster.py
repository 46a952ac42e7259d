"""A real cluster of Patroni's for tests: an etcd, a primary, and a replica whose REST API speaks
TLS and wants a client certificate."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from urllib.request import Request, urlopen

from tests.certificates import Certificates
from tests.checks.postgres_server import children
from yaim.lab.namespaces import DIES_WITH_US

PATIENT_S = 120.0
LOOP_S = 2
"""How often Patroni looks after PostgreSQL."""
CALLBACKS = ("on_role_change", "on_start", "on_stop", "on_restart")
_ETCD = "http://127.0.0.1:12379"
_PEER = "http://127.0.0.1:12380"
_AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--")


class Node:
    """Patroni and its PostgreSQL."""

    def __init__(
        self, directory: Path, number: int, files: "Files | None" = None, callback: str = ""
    ) -> None:
        """Its REST API speaks TLS if there are files for that. `callback`: a command, of Patroni's
        on_role_change and others."""
        self.port = 18000 + number
        self.url = f"http{'s' if files else ''}://127.0.0.1:{self.port}"
        self.directory = directory / f"n{number}"
        self.directory.mkdir(mode=0o700)
        _give_to_postgres(self.directory)
        self.data = self.directory / "data"
        self._settings = directory / f"n{number}.yml"
        self._settings.write_text(json.dumps(self._configured(number, files, callback)))
        self._log = directory / f"n{number}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def _configured(self, number: int, files: "Files | None", callback: str) -> object:
        """JSON is YAML, too."""
        tls = {
            "certfile": str(files.leaf),
            "keyfile": str(files.key),
            "cafile": str(files.ca),
            "verify_client": "required",
        } if files else {}  # fmt: skip
        programs = max(
            Path("/usr/lib/postgresql").glob("*/bin"), key=lambda each: int(each.parent.name)
        )
        listen = f"127.0.0.1:{15430 + number}"
        api = f"127.0.0.1:{self.port}"
        return {
            "scope": "test",
            "name": f"n{number}",
            "restapi": {"listen": api, "connect_address": api, **tls},
            "etcd3": {"host": _ETCD.removeprefix("http://")},
            "bootstrap": {
                "dcs": {"ttl": 20, "loop_wait": LOOP_S, "retry_timeout": 3},
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}],
            },
            "postgresql": {
                "listen": listen,
                "connect_address": listen,
                "data_dir": str(self.data),
                "bin_dir": str(programs),
                "callbacks": dict.fromkeys(CALLBACKS, callback) if callback else {},
                "pgpass": str(self.directory / "pgpass"),
                "authentication": {
                    "superuser": {"username": "postgres"},
                    "replication": {"username": "replicator"},
                },
                "parameters": {
                    "unix_socket_directories": str(self.directory),
                    "fsync": "off",
                    "max_connections": 20,
                    "shared_buffers": "16MB",
                },
                "pg_hba": ["local all all trust", "host all,replication all 127.0.0.1/32 trust"],
            },
        }

    def start(self) -> None:
        """Starts Patroni in a PID namespace, with which PostgreSQL ends, too. The kernel forgets
        with whom a process dies when that changes its user."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                (
                    *DIES_WITH_US,
                    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
                    *(*_AS_POSTGRES[:-1], *DIES_WITH_US[1:], "patroni", str(self._settings)),
                ),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def told(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def patronis(self) -> list[int]:
        """Process ids."""
        return _running(str(self._settings))

    def postgres(self) -> list[int]:
        """Likewise; the postmaster first."""
        postmaster = _running(f"-D\0{self.data}\0")
        return [*postmaster, *(child for each in postmaster for child in children(each))]

    def replaying(self) -> list[int]:
        """The process that replays what comes from the primary. (Patroni ends a pause of that.)"""
        return [each for each in self.postgres() if b": startup " in _command(each)]

    def crash(self) -> None:
        """PostgreSQL."""
        killed = self.postgres()
        for each in killed:
            try:
                os.kill(each, signal.SIGKILL)
            except ProcessLookupError:
                pass  # with the postmaster
        wait_until(lambda: not set(killed).intersection(self.postgres()))

    def sql(self, sql: str) -> None:
        """Runs it as the superuser."""
        subprocess.run(
            (
                *(*_AS_POSTGRES, "psql", "-h", str(self.directory), "-p", str(self.port - 2570)),
                *("-X", "-q", "-c", sql, "postgres"),
            ),
            cwd=self.directory,
            check=True,
            capture_output=True,
            timeout=PATIENT_S,
        )

    def switch_over(self, leader: str, candidate: str) -> None:
        """Asks this node for it, and returns when Patroni says that it is done; plaintext only."""
        body = json.dumps({"leader": leader, "candidate": candidate}).encode()
        request = Request(f"{self.url}/switchover", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=PATIENT_S) as answer:
            assert b"Successfully" in answer.read()

    def last_loop(self) -> int:
        """When Patroni was in touch with etcd last; plaintext only."""
        with urlopen(Request(f"{self.url}/patroni"), timeout=PATIENT_S) as answer:
            return int(json.load(answer)["dcs_last_seen"])


class Files:
    """Certificates that user postgres can read."""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        self.ca, self.leaf, self.key = (
            Path(shutil.copy(each, directory))
            for each in (certificates.ca, certificates.leaf, certificates.key)
        )
        _give_to_postgres(self.ca, self.leaf, self.key)


@contextmanager
def running(certificates: Certificates | None, callback: str = "") -> Iterator[tuple[Node, Node]]:
    """Primary and replica. Without certificates nothing speaks TLS: Patroni itself has none for a
    switchover. In `callback` {} is the number of the node."""
    directory = Path(mkdtemp(prefix="yaim-patroni-", dir="/tmp"))
    directory.chmod(0o755)
    nodes: list[Node] = []
    etcd = subprocess.Popen(
        (
            *(*DIES_WITH_US, "etcd", f"--data-dir={directory / 'etcd'}"),
            *(f"--listen-client-urls={_ETCD}", f"--advertise-client-urls={_ETCD}"),
            *(f"--listen-peer-urls={_PEER}", f"--initial-advertise-peer-urls={_PEER}"),
            f"--initial-cluster=default={_PEER}",
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        primary = Node(directory, 1, callback=callback.format(1))
        files = Files(directory, certificates) if certificates else None
        replica = Node(directory, 2, files, callback.format(2))
        for node in (primary, replica):
            nodes.append(node)
            node.start()
            wait_until(lambda node=node: _takes_connections(node), node.told)  # type: ignore[misc]
        yield primary, replica
    finally:
        for node in nodes:
            node.stop()
        etcd.kill()
        etcd.wait()
        shutil.rmtree(directory, ignore_errors=True)


def wait_until(is_so: Callable[[], bool], explain: Callable[[], str] = str) -> None:
    give_up_at = time.monotonic() + PATIENT_S
    while not is_so():
        assert time.monotonic() < give_up_at, explain()
        time.sleep(0.05)


@contextmanager
def frozen(processes: list[int]) -> Iterator[None]:
    """The processes are frozen for as long as the block takes."""
    assert processes
    try:
        for each in processes:
            os.kill(each, signal.SIGSTOP)
        yield
    finally:
        for each in processes:
            os.kill(each, signal.SIGCONT)


def _takes_connections(node: Node) -> bool:
    try:
        node.sql("SELECT 1")
    except subprocess.CalledProcessError:
        return False
    return True


def _running(command: str) -> list[int]:
    """The processes of user postgres whose command line has this in it."""
    processes = sorted(int(each.name) for each in Path("/proc").glob("[0-9]*"))
    return [each for each in processes if command.encode() in _command(each)]


def _command(process: int) -> bytes:
    """Returns the command line of a process of user postgres; nothing if it is not there, or not
    that user's."""
    directory = Path(f"/proc/{process}")
    try:
        if directory.stat().st_uid == pwd.getpwnam("postgres").pw_uid:
            return (directory / "cmdline").read_bytes()
    except OSError:
        pass
    return b""


def _give_to_postgres(*paths: Path) -> None:
    user = pwd.getpwnam("postgres")
    for each in paths:
        os.chown(each, user.pw_uid, user.pw_gid)
