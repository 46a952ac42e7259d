"""The TCP check against servers that misbehave, over real sockets."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.checks.elsewhere import attempt_where
from tests.checks.stopwatch import Stopwatch
from tests.checks.web_server import ignoring
from yaim.checks.tcp import (
    GOODBYE_S,
    MAX_ANSWER_BYTES,
    TcpAddress,
    TcpCheck,
    check_tcp,
    tcp_address,
)
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.config_keys import InvalidValue

PATIENT_S = 30.0
IMPATIENT_S = 0.3
"""The bound on an attempt that is expected to be answered, and on one that is not."""
PARTLY_S = 2.0
"""The bound on an attempt that is expected to get a part of an answer."""
SLACK_S = 0.5
NOT_CONNECTED = CannotTell("no answer within 0.3 s: not connected")
NOTHING_RECEIVED = CannotTell("no answer within 0.3 s: connected, nothing received")
CONNECTED = Healthy("connected")
EXPECTED = Healthy("the answer is as expected")


def attempt(check: TcpCheck, timeout_s: float = PATIENT_S) -> Verdict:
    """One attempt, which must keep within its bound."""
    watch = Stopwatch()
    verdict = check_tcp(check, timeout_s)
    assert watch.took_s() < timeout_s + SLACK_S
    return verdict


# --- servers -------------------------------------------------------------------------------------

Answer = Callable[[socket.socket, "Server"], None]


class Server:
    """Answers one connection, then notes what comes until the end of that."""

    def __init__(self, answer: Answer, host: str) -> None:
        self._answer = answer
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.address = TcpAddress(host, self._listener.getsockname()[1])
        self.got = b""
        self.was_reset = False
        self.sent_bytes = 0
        self.is_closing = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, as it does with its one connection."""
        return not self._thread.is_alive()

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(PATIENT_S)
            try:
                self._answer(connection, self)
                while part := connection.recv(65536):
                    self.got += part
            except OSError as error:
                self.was_reset = isinstance(error, ConnectionResetError | BrokenPipeError)

    def close(self) -> None:
        self.is_closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENT_S)


def wait_until(is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENT_S
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


@contextmanager
def serving(answer: Answer, host: str = "127.0.0.1") -> Iterator[Server]:
    server = Server(answer, host)
    try:
        yield server
    finally:
        server.close()


def sends(*parts: bytes, every_s: float = 0.0) -> Answer:
    def answer(connection: socket.socket, server: Server) -> None:
        for part in parts:
            server.is_closing.wait(every_s)
            connection.sendall(part)

    return answer


def sends_and_ends(content: bytes) -> Answer:
    def answer(connection: socket.socket, server: Server) -> None:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)

    return answer


def echoes(connection: socket.socket, server: Server) -> None:
    server.got = connection.recv(65536)
    connection.sendall(server.got)


def drips(connection: socket.socket, server: Server) -> None:
    while not server.is_closing.wait(0.02):
        connection.sendall(b"x")


def waits(_: socket.socket, server: Server) -> None:
    server.is_closing.wait(PATIENT_S)


def floods(connection: socket.socket, server: Server) -> None:
    """Sends 64 MiB."""
    for _ in range(1024):
        connection.sendall(b"x" * 65536)
        server.sent_bytes += 65536


def resets(connection: socket.socket, server: Server) -> None:
    server.is_closing.wait(0.05)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    connection.close()


def sends_and_resets(content: bytes) -> Answer:
    def answer(connection: socket.socket, _: Server) -> None:
        connection.sendall(content)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.close()

    return answer


def reads_nothing_and_sends(content: bytes) -> Answer:
    """The kernel resets the connection, as there is something that was not read."""

    def answer(connection: socket.socket, _: Server) -> None:
        connection.recv(65536, socket.MSG_PEEK)
        connection.sendall(content)
        connection.close()

    return answer


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    def resources() -> tuple[set[int | None], set[str]]:
        """Threads and file descriptors."""
        threads = {each.ident for each in threading.enumerate()}
        return threads, {each.name for each in Path("/proc/self/fd").iterdir()}

    threads, descriptors = resources()
    yield
    assert resources()[0] <= threads  # one of an earlier test may still have been about to end
    assert resources()[1] <= descriptors


# --- the keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        ("127.0.0.1:5432", "127.0.0.1", 5432),
        ("db1.example:1", "db1.example", 1),
        ("[::1]:65535", "::1", 65535),
        ("[2001:DB8:0::1]:6432", "2001:db8::1", 6432),
    ],
)
def test_an_address_is_host_and_port(value: str, host: str, port: int) -> None:
    assert tcp_address(value) == TcpAddress(host, port)
    assert tcp_address(str(tcp_address(value))) == TcpAddress(host, port)


@pytest.mark.parametrize(
    "value",
    [
        *("", "db1", "db1:", ":5432", "5432", "db1:0", "db1:65536", "db1:http", "db1:-1"),
        *("db1:1_0", "db1:٣", "::1:5432", "[::1]", "[::1:5432", "[db1]:5432", "[]:1", "[::1]x:1"),
        *("tcp://db1:1", "db 1:1", "a@b:1", "\udc80:1", ["db1:1"], None),
    ],
)
def test_what_is_no_address_is_refused(value: Any) -> None:
    expected = r"host:port, or \[IPv6 address\]:port, with a port from 1"
    with pytest.raises(InvalidValue, match=expected):
        tcp_address(value)


# --- the answer is judged ------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connecting_is_enough_if_nothing_is_expected(host: str) -> None:
    with serving(sends(), host) as server:
        assert attempt(TcpCheck(server.address)) == CONNECTED
    assert server.got == b""


def test_what_is_to_be_sent_is_sent_in_utf_8() -> None:
    with serving(sends()) as server:
        assert attempt(TcpCheck(server.address, send="läuft?\r\n")) == CONNECTED
        wait_until(lambda: server.has_ended)
    assert server.got == "läuft?\r\n".encode()


def test_the_expected_answer_is_healthy() -> None:
    with serving(echoes) as server:
        assert attempt(TcpCheck(server.address, "say läuft", "läuft")) == EXPECTED


def test_a_server_that_speaks_first_is_listened_to() -> None:
    with serving(sends(b"220 mail ESMTP\r\n")) as server:
        assert attempt(TcpCheck(server.address, expect="220 ")) == EXPECTED


def test_an_answer_in_pieces_is_put_together() -> None:
    with serving(sends(b"+", b"PO", b"NG\r", b"\n", every_s=0.03)) as server:
        assert attempt(TcpCheck(server.address, "PING\r\n", "+PONG\r\n")) == EXPECTED


def test_another_answer_is_unhealthy_and_told() -> None:
    with serving(sends_and_ends(b"-LOADING\r\n")) as server:
        assert attempt(TcpCheck(server.address, "PING\r\n", "+PONG")) == Unhealthy(
            r"the answer does not contain '+PONG': b'-LOADING\r\n'"
        )


def test_another_answer_of_a_server_that_waits_for_more_is_told() -> None:
    with serving(sends(b"-LOADING\r\n")) as server:
        assert attempt(TcpCheck(server.address, "PING\r\n", "+PONG"), PARTLY_S) == CannotTell(
            r"no answer within 2 s that contains '+PONG': b'-LOADING\r\n'"
        )


def test_an_answer_without_end_is_cut_off_and_judged() -> None:
    with serving(floods) as server:
        assert attempt(TcpCheck(server.address, expect="y")) == Unhealthy(
            f"the answer does not contain 'y': {b'x' * 80!r}"
        )
    assert server.sent_bytes < 32 * 1024 * 1024


@pytest.mark.parametrize(("before", "verdict"), [(2, Healthy), (1, Unhealthy)])
def test_what_comes_after_the_most_that_is_read_is_not_looked_at(
    before: int, verdict: type[Verdict]
) -> None:
    with serving(sends_and_ends(b"x" * (MAX_ANSWER_BYTES - before) + b"up")) as server:
        assert type(attempt(TcpCheck(server.address, expect="up"))) is verdict


@pytest.mark.parametrize("content", [b"\0\xff\x1b[2J\r\n" * 1000, "läuft ‮".encode()])
@pytest.mark.parametrize("expected", ["\x1b[2J?", "x" * 1000])
def test_the_reason_is_short_and_can_be_printed(content: bytes, expected: str) -> None:
    with serving(sends_and_ends(content)) as server:
        verdict = attempt(TcpCheck(server.address, expect=expected))
    assert isinstance(verdict, Unhealthy)
    assert verdict.reason.isprintable()
    assert len(verdict.reason) <= 160


# --- no answer -----------------------------------------------------------------------------------


def test_a_refused_connection_cannot_tell() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = TcpAddress("127.0.0.1", bound.getsockname()[1])
        assert attempt(TcpCheck(address)) == CannotTell(f"{address}: Connection refused")


def test_a_host_that_cannot_be_reached_cannot_tell() -> None:
    assert attempt(TcpCheck(TcpAddress("192.0.2.1", 1))) == CannotTell(
        "192.0.2.1:1: Network is unreachable"
    )


def test_a_port_at_which_nobody_accepts_cannot_tell_in_time() -> None:
    with ignoring("127.0.0.1") as port:
        assert attempt(TcpCheck(TcpAddress("127.0.0.1", port)), IMPATIENT_S) == NOT_CONNECTED


def test_a_server_that_says_nothing_cannot_tell_in_time() -> None:
    with serving(sends()) as server:
        assert attempt(TcpCheck(server.address, expect="up"), IMPATIENT_S) == NOTHING_RECEIVED


def test_a_server_that_never_ends_its_answer_cannot_tell_in_time() -> None:
    with serving(drips) as server:
        verdict = attempt(TcpCheck(server.address, expect="up"), PARTLY_S)
    assert isinstance(verdict, CannotTell)
    assert verdict.reason.startswith("no answer within 2 s that contains 'up': b'xxxx")


def test_a_server_that_reads_nothing_cannot_tell_in_time() -> None:
    with serving(waits) as server:
        check = TcpCheck(server.address, send="x" * 50_000_000)
        assert attempt(check, IMPATIENT_S) == NOTHING_RECEIVED


def test_a_connection_that_is_closed_without_an_answer_cannot_tell() -> None:
    with serving(sends_and_ends(b"")) as server:
        assert attempt(TcpCheck(server.address, expect="up")) == CannotTell(
            f"{server.address}: it closed the connection without an answer"
        )


def test_a_connection_that_is_reset_cannot_tell() -> None:
    with serving(resets) as server:
        reset = CannotTell(f"{server.address}: Connection reset by peer")
        assert attempt(TcpCheck(server.address, expect="up")) == reset


@pytest.mark.parametrize("resets_behind", [sends_and_resets, reads_nothing_and_sends])
@pytest.mark.parametrize("question", ["PING\r\n", "PING\r\n" * 1_000_000], ids=["short", "long"])
def test_an_answer_counts_though_the_connection_is_reset_behind_it(
    resets_behind: Callable[[bytes], Answer], question: str
) -> None:
    """Which of connecting, sending and reading fails then is chance, but for a long text."""
    for _ in range(10):
        with serving(resets_behind(b"+PONG\r\n")) as server:
            assert attempt(TcpCheck(server.address, question, "+PONG")) == EXPECTED
        with serving(resets_behind(b"-LOADING\r\n")) as server:
            reset = ("Connection reset by peer", "Broken pipe")
            verdict = attempt(TcpCheck(server.address, question, "+PONG"))
            assert verdict in [CannotTell(f"{server.address}: {each}") for each in reset]


@pytest.mark.parametrize("answer", [resets, sends_and_ends(b"")])
def test_a_connection_that_is_closed_at_once_is_one(answer: Answer) -> None:
    with serving(answer) as server:
        assert attempt(TcpCheck(server.address)) == CONNECTED


def test_a_server_that_was_stopped_is_noticed_by_what_it_does_not_answer() -> None:
    """Its kernel goes on taking connections for it."""
    script = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(b"up")
    connection.close()
"""
    with subprocess.Popen((sys.executable, "-c", script), stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            address = TcpAddress("127.0.0.1", int(server.stdout.readline()))
            assert attempt(TcpCheck(address, expect="up")) == EXPECTED
            server.send_signal(signal.SIGSTOP)
            assert attempt(TcpCheck(address, expect="up"), IMPATIENT_S) == NOTHING_RECEIVED
            assert attempt(TcpCheck(address)) == CONNECTED
        finally:
            server.kill()


def test_a_connection_to_itself_is_none() -> None:
    """Where nobody listens, the kernel may choose the very port as ours."""
    ports = Path("/proc/sys/net/ipv4/ip_local_port_range")
    before = ports.read_text()
    ports.write_text("40000 40000")
    try:
        check = TcpCheck(TcpAddress("127.0.0.1", 40000), "up", "up")
        assert attempt(check) == CannotTell("127.0.0.1:40000: Connection refused")
    finally:
        ports.write_text(before)


# --- how it leaves -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected", "is_found"),
    [
        (answer, expected, expected is None or expected.encode() in text)
        for expected in (None, "e", "x")
        for answer, text in (
            (sends(), b""),
            (sends(b"hello"), b"hello"),
            (sends(b"hello", every_s=0.03), b"hello"),
            (sends(b"x" * 50_000), b"x"),
        )
    ],
)
def test_the_server_sees_an_orderly_end(
    answer: Answer, expected: str | None, is_found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it does not take too long for its own."""
    monkeypatch.setattr("yaim.checks.tcp.GOODBYE_S", 300 * GOODBYE_S)
    with serving(answer) as server:
        check = TcpCheck(server.address, "hello", expected)
        verdict = attempt(check, PATIENT_S if is_found else IMPATIENT_S)
        wait_until(lambda: server.has_ended)
    assert isinstance(verdict, Healthy) == is_found
    assert not (is_found and server.was_reset)


def test_a_server_that_does_not_close_is_not_waited_for() -> None:
    with serving(waits) as server:
        started = time.monotonic()
        assert attempt(TcpCheck(server.address)) == CONNECTED
        assert time.monotonic() - started < 1.0


# --- names ---------------------------------------------------------------------------------------


HOSTS = "::1 db1.example\n127.0.0.2 db1.example\n127.0.0.1 db1.example\n"


def test_an_address_that_refuses_is_followed_by_the_next(tmp_path: Path) -> None:
    with serving(sends()) as server:
        address = f"db1.example:{server.address.port}"
        assert attempt_where("/etc/hosts", HOSTS, "tcp", address, tmp_path) == CONNECTED


def test_all_addresses_of_a_name_are_tried_within_the_bound(tmp_path: Path) -> None:
    with ignoring("127.0.0.1", "127.0.0.2", "::1") as port:
        address = f"db1.example:{port}"
        assert (
            attempt_where("/etc/hosts", HOSTS, "tcp", address, tmp_path, IMPATIENT_S)
            == NOT_CONNECTED
        )


RESOLVER = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"


def test_a_name_server_that_does_not_answer_is_waited_for_within_the_bound(tmp_path: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 53))
        verdict = attempt_where(
            "/etc/resolv.conf", RESOLVER, "tcp", "db1.example:1", tmp_path, IMPATIENT_S
        )
    assert verdict == NOT_CONNECTED


def test_a_name_that_cannot_be_looked_up_is_told(tmp_path: Path) -> None:
    """Nobody listens at port 53."""
    assert attempt_where(
        "/etc/resolv.conf", RESOLVER, "tcp", "db1.example:1", tmp_path
    ) == CannotTell(
        "db1.example:1: its host name cannot be looked up: Temporary failure in name resolution"
    )
