"""A relay passes on, delays, swallows, and resets what it has robbed."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from yaim.lab.relay import Relay

ADDRESS, TARGET, PORT = "127.0.0.2", "127.0.0.3", 2379
WITHIN_S = 20.0


@pytest.fixture
def target() -> Iterator[None]:
    """Sends everything back."""
    with socket.create_server((TARGET, PORT)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(connection,), daemon=True).start()

        def echo(connection: socket.socket) -> None:
            with connection:
                while data := receive(connection):
                    connection.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def receive(connection: socket.socket) -> bytes:
    """Nothing at its end, and if it is reset."""
    try:
        return connection.recv(65536)
    except ConnectionError:
        return b""


@pytest.fixture
def relay(target: None, tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(ADDRESS, TARGET, PORT, tmp_path / "log")
    yield relay
    relay.close()


@pytest.fixture
def connection(relay: Relay) -> Iterator[socket.socket]:
    with socket.create_connection((ADDRESS, PORT), timeout=WITHIN_S) as connection:
        yield connection


def test_all_is_passed_on_in_order_also_when_the_delay_changes(
    relay: Relay, connection: socket.socket
) -> None:
    sent = [b"%4d" % number for number in range(100)]
    for number, each in enumerate(sent):
        if number in (20, 60):
            relay.delay(0.2 if number == 20 else 0.0, 0.1)
        connection.sendall(each)
    received = b""
    while len(received) < 400:
        received += connection.recv(65536)
    assert received == b"".join(sent)


def test_a_delay_each_way_adds_up(relay: Relay, connection: socket.socket) -> None:
    """And is no longer than that, but for what a busy machine adds to some."""
    relay.delay(0.3, 0.2)
    took: list[float] = []
    while not took or (min(took) >= 1.0 and len(took) < 20):
        start = time.monotonic()
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        took.append(time.monotonic() - start)
    assert 0.5 <= min(took) < 1.0, took


@pytest.mark.parametrize("way", ["there", "back"])
def test_what_is_swallowed_never_comes_and_the_connection_ends_when_that_does(
    relay: Relay, connection: socket.socket, way: str
) -> None:
    relay.swallow([way])
    connection.sendall(b"x")
    with socket.create_connection((ADDRESS, PORT), timeout=0.5) as another:
        another.sendall(b"y")
        with pytest.raises(TimeoutError):
            another.recv(1)
    relay.restore()
    assert receive(connection) == b""
    with socket.create_connection((ADDRESS, PORT), timeout=WITHIN_S) as another:
        another.sendall(b"z")
        assert another.recv(1) == b"z"


def test_a_connection_ends_with_its_target(relay: Relay, connection: socket.socket) -> None:
    connection.sendall(b"x")
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b"x"
    assert receive(connection) == b""
