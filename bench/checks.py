"""The figures of docs/checks.md: how long it takes until a failure counts, for each way of failing.

    python -m bench.checks [--rounds 5] [--json FILE]

Real servers on loopback, each checked every second with a timeout of one second and two tries. In
each round a service fails at a random moment between two checks; measured is the time from just
before it is made to fail until the coordinator is told that the check has failed. Printed are the
median and the most of the rounds. The exit status is 1 if one took longer than interval and timeout
together.
"""

import argparse
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory

from bench.figures import machine
from tests.checks.pgbouncer_server import APP, MONITOR, pooling
from tests.checks.postgres_server import PASSWORD, Installation, Server, installed, running
from yaim.checks.http import HttpCheck
from yaim.checks.kinds import KINDS
from yaim.checks.pgbouncer import PgbouncerCheck
from yaim.checks.postgres import MaxLag, PostgresCheck
from yaim.checks.run import CheckPlan, CheckRunner
from yaim.checks.shell import ShellCheck, check_shell
from yaim.checks.tcp import TcpAddress, TcpCheck
from yaim.checks.transport.libpq import LibpqError, Session, connect
from yaim.config_keys import KeyGroup
from yaim.core.events import CheckAnswered
from yaim.host.boottime import boottime
from yaim.lab.namespaces import enter_private_network

INTERVAL_S = 1.0
TIMEOUT_S = 1.0
RETRY_NUM = 1
RETRY_AFTER_S = 0.1
PATIENT_S = 60.0


@dataclass(frozen=True, slots=True)
class Case:
    """A service that is well, and a way to make it fail."""

    kind: str
    failure: str
    settings: KeyGroup
    fail: Callable[[], object]
    mend: Callable[[], object]

    @property
    def name(self) -> str:
        return f"{self.kind}: {self.failure}"

    @property
    def plan(self) -> CheckPlan:
        kind = KINDS[self.kind]
        if self.kind == "shell":
            kind = replace(kind, attempt=partial(check_shell, user_instead_of_root="nobody"))
        return CheckPlan(
            self.name, kind, self.settings, INTERVAL_S, TIMEOUT_S, RETRY_NUM, RETRY_AFTER_S
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    took_s: float
    found: str


def suffer(case: Case, rounds: int) -> list[Outcome]:
    told: SimpleQueue[tuple[float, CheckAnswered]] = SimpleQueue()
    runner = CheckRunner((case.plan,), lambda answer: told.put((boottime(), answer)))
    try:
        outcomes = []
        for _ in range(rounds):
            _next(case, told, is_healthy=True)
            time.sleep(random.uniform(0.0, INTERVAL_S))
            _drain(told)
            began = boottime()
            case.fail()
            at, answer = _next(case, told, is_healthy=False)
            outcomes.append(Outcome(at - began, answer.reason))
            case.mend()
        return outcomes
    finally:
        runner.use(())


def _next(
    case: Case, told: SimpleQueue[tuple[float, CheckAnswered]], *, is_healthy: bool
) -> tuple[float, CheckAnswered]:
    give_up_at = time.monotonic() + PATIENT_S
    while True:
        try:
            at, answer = told.get(timeout=max(0.0, give_up_at - time.monotonic()))
        except Empty:
            word = "healthy" if is_healthy else "unhealthy"
            raise SystemExit(f"bench: {case.name}: not {word} within {PATIENT_S} s") from None
        if answer.is_healthy == is_healthy:
            return at, answer


def _drain(told: SimpleQueue[tuple[float, CheckAnswered]]) -> None:
    while not told.empty():
        told.get()


# --- http and tcp ----------------------------------------------------------------------------


class WebService:
    """Behaves as it is told."""

    def __init__(self) -> None:
        self.behaviour = "well"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._is_over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._is_over.set()
        self._listener.close()

    def behave(self, behaviour: str) -> Callable[[], None]:
        def change() -> None:
            self.behaviour = behaviour

        return change

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
        behaviour = self.behaviour
        try:
            with connection:
                connection.settimeout(PATIENT_S)
                connection.recv(65536)
                match behaviour:
                    case "well":
                        connection.sendall(head + b"Content-Length: 4\r\n\r\nwell")
                    case "answers 503":
                        connection.sendall(head.replace(b"200 OK", b"503 Oh no") + b"\r\n")
                    case "breaks off":
                        connection.sendall(head + b"Content-Length: 9\r\n\r\nwel")
                    case "takes the connection and is silent":
                        self._is_over.wait(PATIENT_S)
                    case "drips its header" | "drips its body":
                        end = b"\r\n" if behaviour == "drips its body" else b""
                        connection.sendall(head + end)
                        while not self._is_over.wait(0.02):
                            connection.sendall(b"x")
                    case "sends a body without end":
                        connection.sendall(head + b"\r\n")
                        while not self._is_over.is_set():
                            connection.sendall(b"x" * 65536)
        except OSError:
            pass  # the client has gone


class Process:
    """A web server in a process of its own, to be killed and stopped."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(self.port)),
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def web_cases(stack: ExitStack, directory: Path) -> Iterator[Case]:
    service = stack.enter_context(closing(WebService()))
    settings = HttpCheck(f"http://127.0.0.1:{service.port}/", expected_response_contains="well")
    for behaviour in (
        "answers 503",
        "breaks off",
        "takes the connection and is silent",
        "drips its header",
        "drips its body",
        "sends a body without end",
    ):
        yield Case("http", behaviour, settings, service.behave(behaviour), service.behave("well"))
    process = stack.enter_context(closing(Process(directory)))
    address = TcpAddress("127.0.0.1", process.port)
    checks: dict[str, KeyGroup] = {
        "http": HttpCheck(f"http://{address}/"),
        "tcp": TcpCheck(address, send="GET / HTTP/1.0\r\n\r\n", expect="200"),
    }
    for kind, check in checks.items():
        yield Case(kind, "killed", check, process.close, process.start)
        yield frozen(kind, check, process.send)


def frozen(kind: str, check: KeyGroup, send: Callable[[int], object]) -> Case:
    stop, go_on = partial(send, signal.SIGSTOP), partial(send, signal.SIGCONT)
    return Case(kind, "frozen (SIGSTOP)", check, stop, go_on)


# --- postgres --------------------------------------------------------------------------------


class Crowd:
    """Takes all the connections that a server gives."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stack = ExitStack()

    def come(self) -> None:
        give_up_at = time.monotonic() + PATIENT_S
        try:
            while True:
                self._stack.enter_context(connect(self._server.local, give_up_at))
        except LibpqError:
            pass

    def leave(self) -> None:
        self._stack.close()


class Lock:
    """Locks a table that the check's query reads."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stack = ExitStack()
        server.sql("CREATE TABLE checked (id int)")

    def take(self) -> None:
        give_up_at = time.monotonic() + PATIENT_S
        session = self._stack.enter_context(connect(self._server.local, give_up_at))
        session.query("BEGIN")
        session.query("LOCK TABLE checked")

    def release(self) -> None:
        self._stack.close()


def postgres_cases(stack: ExitStack, installation: Installation) -> Iterator[Case]:
    server = stack.enter_context(running(installation.new(), superuser_reserved_connections="0"))
    check = PostgresCheck(server.url)
    yield Case("postgres", "killed", check, server.stop, server.start)
    yield frozen("postgres", check, server.send_to_all)
    postmaster = frozen("postgres", check, server.send)
    yield replace(postmaster, failure="only the postmaster frozen")
    crowd = Crowd(server)
    yield Case("postgres", "out of connections", check, crowd.come, crowd.leave)
    lock = Lock(server)
    yield Case(
        "postgres",
        "the query waits for a lock",
        replace(check, query="SELECT count(*) FROM checked"),
        lock.take,
        lock.release,
    )
    yield Case(
        "postgres",
        "another password",
        check,
        partial(server.sql, "ALTER ROLE postgres PASSWORD 'another'"),
        partial(server.sql, f"ALTER ROLE postgres PASSWORD '{PASSWORD}'"),
    )
    standby = stack.enter_context(running(installation.new_standby(server)))

    def fall_behind() -> None:
        standby.sql("SELECT pg_wal_replay_pause()")
        server.sql("INSERT INTO checked SELECT generate_series(1, 30000)")

    yield Case(
        "postgres",
        "a standby falls behind",
        PostgresCheck(standby.url, role="standby", max_lag=MaxLag(500_000, is_time=False)),
        fall_behind,
        partial(standby.sql, "SELECT pg_wal_replay_resume()"),
    )


def pgbouncer_cases(stack: ExitStack, installation: Installation) -> Iterator[Case]:
    server = stack.enter_context(running(installation.new()))
    pooler = stack.enter_context(pooling(server, "pooler"))
    server.sql(f"CREATE ROLE {APP} LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    place = f"host=127.0.0.1 port={pooler.port} password={PASSWORD}"
    console = PgbouncerCheck(f"{place} user={MONITOR}")
    query = PgbouncerCheck(f"{place} user={APP} dbname=app", query="SELECT 1")

    def suspend() -> None:
        admin = stack.enter_context(pooler.session())
        admins.append(admin)
        admin.query("SUSPEND")

    admins: list[Session] = []
    for what, check in (("console", console), ("query", query)):
        yield Case(
            "pgbouncer",
            f"its database is paused ({what})",
            check,
            partial(pooler.admin, "PAUSE app"),
            partial(pooler.admin, "RESUME app"),
        )
        suspended = f"suspended ({what})"
        yield Case("pgbouncer", suspended, check, suspend, lambda: admins.pop().query("RESUME"))
        killed = Case("pgbouncer", "killed", check, pooler.stop, pooler.start)
        yield replace(killed, failure=f"killed ({what})")
        yield replace(frozen("pgbouncer", check, pooler.send), failure=f"frozen ({what})")
    yield Case("pgbouncer", "its server is killed (query)", query, server.stop, server.start)


# --- shell -----------------------------------------------------------------------------------


def shell_cases(directory: Path) -> Iterator[Case]:
    """The commands run as nobody if this runs as root. While the file is not there all is well."""
    directory.chmod(0o755)
    for number, (failure, command) in enumerate(
        {
            "exit status 1": "exit 1",
            "hangs": "sleep 1000",
            "hangs, with SIGTERM ignored": "trap '' TERM; sleep 1000",
            "hangs, with processes in the background": "sleep 1000 & sleep 1000 & wait",
            "writes without end": "yes",
        }.items()
    ):
        flag = directory / f"flag{number}"
        yield Case(
            "shell",
            failure,
            ShellCheck(f"test ! -e {flag} || {{ {command}; }}"),
            flag.touch,
            flag.unlink,
        )


# --- all -------------------------------------------------------------------------------------


def measure(rounds: int) -> dict[str, list[Outcome]]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="yaim-bench-")))
        installation = stack.enter_context(installed())
        outcomes = {}
        for case in chain(
            web_cases(stack, directory),
            postgres_cases(stack, installation),
            pgbouncer_cases(stack, installation),
            shell_cases(directory),
        ):
            outcomes[case.name] = suffer(case, rounds)
            print(f"{case.name}: {line(outcomes[case.name])}", flush=True)
        return outcomes


def line(outcomes: list[Outcome]) -> str:
    took = [each.took_s for each in outcomes]
    return f"{statistics.median(took):.2f} s, at most {max(took):.2f} s; {outcomes[-1].found}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all values to this file, too")
    options = parser.parse_args()
    enter_private_network()
    for each in machine():
        print(each)
    bound_s = INTERVAL_S + TIMEOUT_S
    print(f"\nUntil a failure counts, interval + timeout {bound_s:.1f} s; median and most:\n")
    outcomes = measure(options.rounds)
    late = [name for name, all_ in outcomes.items() if any(each.took_s > bound_s for each in all_)]
    for name in late:
        print(f"later than {bound_s:.1f} s: {name}")
    if options.json is not None:
        found = {name: [each.took_s for each in all_] for name, all_ in outcomes.items()}
        options.json.write_text(json.dumps(found, indent=2))
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
