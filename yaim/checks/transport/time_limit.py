"""One bound on the time of everything that an attempt does over the network through requests, and
others on what it is sent.

requests bounds each connect and each read by itself: a server that sends a byte now and then, or a
name with many addresses, would hold it for ever. http.client bounds lines and their number, 64 KiB
and 100 in each head, and not the number of chunks.

A server may answer and close without having read the request, as those that inetd starts do. Its
kernel then resets the connection behind the answer, and whatever is done next fails: connecting,
sending or reading. What came before the reset can be read all the same, so nothing but reading ends
an attempt. Whether reading then meets the reset or an end is chance: in headers and between chunks
both are the end, and what has not come by then is missing.
"""

import errno
import http
import http.client
import io
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from yaim.host.name_lookup import look_up

MAX_INTERIM = 100
MAX_HEAD_BYTES = 256 * 1024
"""The most bytes of the status line and headers, and of all interim answers before
them."""
MAX_CODED_BYTES = 4 * 1024 * 1024
"""The most bytes of the body as it is sent: with the size of each chunk."""


class TimeLimit:
    """Shuts down the connections of an attempt when its time is up."""

    def __init__(self, seconds: float) -> None:
        self.target = ""
        """Host and port of the last connection, made or to be made."""
        self._was_reset = False
        """Whether the last connection was, before anything was read. The kernel tells it once: what
        is read then ends like an answer that is whole."""
        self._ends_at = time.monotonic() + seconds
        self._timer = threading.Timer(seconds, self._shut_down)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []

    @property
    def left_s(self) -> float:
        return self._ends_at - time.monotonic()

    @property
    def has_passed(self) -> bool:
        return self.left_s <= 0

    def __enter__(self) -> "TimeLimit":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for each in self._sockets:
                each.close()
            self._sockets.clear()

    def connect(self, host: str, port: int) -> socket.socket:
        """Connects to the first address of the host that takes the connection; an address that is
        silent leaves time for the others. Raises OSError."""
        failure: OSError = OSError("the host name has no address")
        self._was_reset = False
        addresses = look_up(host, port, self.left_s)
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            if self.has_passed:
                break  # each would take a little longer than the time that there is
            connection = socket.socket(family, kind, protocol)
            try:
                share_s = self.left_s / (len(addresses) - number)
                connection.settimeout(max(share_s, 0.001))
                connection.connect(address)
            except ConnectionResetError:
                # It was connected: nobody listening is "refused".
                self._was_reset = True
            except OSError as error:
                connection.close()
                failure = error
                continue
            connection.settimeout(max(self.left_s, 0.001))
            self._apply_to(connection)
            return connection
        raise failure

    def send(self, send: Callable[[], None]) -> None:
        """Sends. A server that reads no more may have answered already what was to be sent."""
        try:
            send()
        except ConnectionResetError:
            self._was_reset = True
        except BrokenPipeError:
            pass

    def raise_reset(self) -> None:
        """Raises ConnectionResetError if one was kept back."""
        if self._was_reset:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def _apply_to(self, connected: socket.socket) -> None:
        """Keeps a duplicate of a socket: TLS takes the original's file descriptor away."""
        duplicate = socket.socket(fileno=os.dup(connected.fileno()))
        with self._lock:
            self._sockets.append(duplicate)
        if self.has_passed:
            self._shut_down()

    def _shut_down(self) -> None:
        with self._lock:
            for each in self._sockets:
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


class _WholeLines(io.BufferedReader):
    """What a server sends, whose lines end with a line feed. http.client takes the beginning of one
    for a line when the connection ends there, and that end for the blank line behind headers."""

    _has_begun = False

    def readline(self, size: int | None = -1, /) -> bytes:
        """Reads at most `size` bytes; nothing if nothing at all came. Raises IncompleteRead, and
        forgets nothing of what came before a reset."""
        most = size if size is not None and size >= 0 else sys.maxsize
        line = bytearray()
        while len(line) < most and not line.endswith(b"\n"):
            come = self._come()[: most - len(line)]
            if not come:
                if self._has_begun or _may_begin_http(line):
                    raise http.client.IncompleteRead(bytes(line))
                break
            line += self.read(come.find(b"\n") + 1 or len(come))
        self._has_begun = True
        return bytes(line)

    def _come(self) -> bytes:
        """Reads what is there without waiting, or what comes next; nothing at the end, however it
        comes."""
        try:
            return self.peek()
        except ConnectionError:
            return b""


def _may_begin_http(cut: bytes | bytearray) -> bool:
    """What else a server says may well be no line."""
    return bool(cut) and b"HTTP/".startswith(cut[:5])


class _Bounded(io.RawIOBase):
    """A stream of which no more bytes can be read than are allowed. To close it closes the
    stream."""

    def __init__(self, stream: io.RawIOBase) -> None:
        self._stream = stream
        self._left_bytes = 0
        self._told = ""

    def allow(self, more_bytes: int, told: str) -> None:
        """Allows this number of bytes from now on; `told` says what is wrong if there are more."""
        self._left_bytes = more_bytes
        self._told = told

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._left_bytes <= 0:
            raise http.client.HTTPException(self._told)
        read: int | None = self._stream.readinto(memoryview(buffer)[: self._left_bytes])
        self._left_bytes -= read or 0
        return read

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Final(http.client.HTTPResponse):
    """Not an interim answer, like 103 (RFC 9110 section 15.2). http.client passes over 100 only,
    and over any number of it. Nor one whose headers lack their end (RFC 9112 section 8)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._received = _Bounded(self.fp.detach())
        self._received.allow(MAX_HEAD_BYTES, "the answer has more than 256 KiB of headers")
        self.fp = _WholeLines(self._received)

    def begin(self) -> None:
        try:
            super().begin()
        except http.client.IncompleteRead:
            told = "the answer broke off before the end of its headers"
            raise http.client.HTTPException(told) from None
        self._received.allow(MAX_CODED_BYTES, "the answer is longer than 4 MiB")

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM + 1):
            version, code, reason = super()._read_status()  # type: ignore[misc]
            if code == http.HTTPStatus.SWITCHING_PROTOCOLS or code >= http.HTTPStatus.OK:
                return version, code, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"got more than {MAX_INTERIM} interim answers")

    def _read_and_discard_trailer(self) -> None:
        """The last chunk is the end of the body, whether what may follow comes or not."""

    def read(self, amt: int | None = None) -> bytes:
        """Reads what has come, at most so much: http.client's own read waits for all of it, and
        forgets what it has when the connection is reset meanwhile."""
        return self.read1(-1 if amt is None else amt)


class LimitedAdapter(HTTPAdapter):
    """Makes every connection under a time limit."""

    def __init__(self, limit: TimeLimit) -> None:
        self._limit = limit
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        limit = self._limit

        class Connection(HTTPConnection):
            response_class = _Final

            def _new_conn(self) -> socket.socket:
                return limit.connect(self.host, self.port)

            def send(self, data: Any) -> None:
                if self.sock is None:
                    self.connect()
                limit.send(lambda: super(Connection, self).send(data))

        class SecureConnection(HTTPSConnection):
            response_class = _Final

            def _new_conn(self) -> socket.socket:
                return limit.connect(self.host, self.port)

            def send(self, data: Any) -> None:
                if self.sock is None:
                    self.connect()
                limit.send(lambda: super(SecureConnection, self).send(data))

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = SecureConnection

        self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}
