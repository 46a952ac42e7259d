"""The TCP check: connect, perhaps send something, and look for something in the answer."""

import errno
import ipaddress
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.config_keys import Fault, InvalidValue, key, required, text, whole
from yaim.host.name_lookup import look_up
from yaim.text import printable

MAX_ANSWER_BYTES = 64 * 1024
"""The most bytes that are looked at; what comes after them is not."""
GOODBYE_S = 0.1
"""The server has so long to close the connection, too: it would be reset if something came after
our end, which servers log, and MySQL counts."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def tcp_address(value: Any) -> TcpAddress:
    form = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[^\s:/@\[\]]+)):(?P<port>[0-9]+)")
    found = form.fullmatch(value) if isinstance(value, str) else None
    try:
        if found:
            port = whole(1, 65535)(found["port"])
            if found["ipv6"]:
                return TcpAddress(str(ipaddress.IPv6Address(found["ipv6"])), port)
            return TcpAddress(text()(found["host"]), port)
    except ValueError:
        pass
    raise InvalidValue("host:port, or [IPv6 address]:port, with a port from 1 to 65535")


@dataclass(frozen=True, slots=True)
class TcpCheck:
    address: TcpAddress = required("host:port that takes connections", tcp_address)
    send: str | None = key("text that is sent after connecting", text())
    expect: str | None = key("text that the service's answer contains", text())
    """Without this key it is enough that the connection is made, which the kernel does also for a
    process that hangs."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong with keys together."""
        yield from ()


def check_tcp(check: TcpCheck, timeout_s: float) -> Verdict:
    """Makes one attempt, on a new connection. `timeout_s` bounds everything together."""
    until = time.monotonic() + timeout_s
    answer = bytearray()
    so_far = "not connected"
    try:
        with _connect(check.address, until) as connection:
            so_far = "connected, nothing received"
            if check.expect is None:
                _send(connection, check.send, until)
            else:
                _ask(connection, check.send, check.expect.encode(), answer, until)
            _say_goodbye(connection, until)
    except TimeoutError:
        no_answer = f"no answer within {timeout_s:.2g} s"
        if answer:
            found = f"{no_answer} that contains {check.expect!r}: {_start(answer)}"
            return CannotTell(printable(found))
        return CannotTell(f"{no_answer}: {so_far}")
    except socket.gaierror as error:
        why = f"its host name cannot be looked up: {error.strerror}"
        return CannotTell(printable(f"{check.address}: {why}"))
    except OSError as error:
        return CannotTell(printable(f"{check.address}: {error.strerror or error}"))
    return _judge(check, bytes(answer))


def _judge(check: TcpCheck, answer: bytes) -> Verdict:
    if check.expect is None:
        return Healthy("connected")
    if check.expect.encode() in answer:
        return Healthy("the answer is as expected")
    if not answer:
        why = "it closed the connection without an answer"
        return CannotTell(printable(f"{check.address}: {why}"))
    return Unhealthy(printable(f"the answer does not contain {check.expect!r}: {_start(answer)}"))


def _start(answer: bytes | bytearray) -> str:
    return repr(bytes(answer[:80]))


def _connect(address: TcpAddress, until: float) -> socket.socket:
    """Connects to the first address of the host that takes the connection; an address that is
    silent leaves time for the others. Raises OSError."""
    failure: OSError = OSError("the host name has no address")
    addresses = look_up(address.host, address.port, _left_s(until))
    for number, (family, kind, protocol, _, found) in enumerate(addresses):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(_left_s(until) / (len(addresses) - number))
            connection.connect(found)
            if connection.getsockname()[:2] == found[:2]:
                # Where nobody listens, and the port is one of those for outgoing connections.
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        except ConnectionResetError:
            # It was connected, and perhaps answered.
            return connection
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


def _send(connection: socket.socket, text: str | None, until: float) -> None:
    if text is not None:
        connection.settimeout(_left_s(until))
        connection.sendall(text.encode())


def _ask(
    connection: socket.socket, text: str | None, expected: bytes, answer: bytearray, until: float
) -> None:
    """Sends the text. A server that reads no more may have answered already; what it sent before
    its kernel reset the connection can still be read."""
    try:
        _send(connection, text, until)
    except ConnectionError:
        _read(connection, expected, answer, until)
        if expected not in answer:
            raise
    else:
        _read(connection, expected, answer, until)


def _read(connection: socket.socket, expected: bytes, answer: bytearray, until: float) -> None:
    """Reads until the text is found, or the answer ends, or is too long."""
    while expected not in answer and len(answer) < MAX_ANSWER_BYTES:
        connection.settimeout(_left_s(until))
        part = connection.recv(MAX_ANSWER_BYTES - len(answer))
        if not part:
            return
        answer += part


def _say_goodbye(connection: socket.socket, until: float) -> None:
    """Ends the connection. What has been found stands, whatever happens here."""
    until = min(until, time.monotonic() + GOODBYE_S)
    ignored_bytes = 0
    try:
        connection.shutdown(socket.SHUT_WR)
        while ignored_bytes < MAX_ANSWER_BYTES:
            connection.settimeout(_left_s(until))
            part = connection.recv(MAX_ANSWER_BYTES)
            if not part:
                return
            ignored_bytes += len(part)
    except OSError:
        pass


def _left_s(until: float) -> float:
    """The time that is left. Raises TimeoutError if there is none."""
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
