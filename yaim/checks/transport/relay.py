"""Stands between libpq and its server, and hands on no more bytes than are allowed.

libpq takes a message in whole, however long it says that it is, and reads on as long as more is
there: what is bounded between its calls is not bounded. So its socket is exchanged for one end of a
socket pair, under the same number (dup2). What the server sends comes to it in pieces, counted. TLS
is between libpq and the server as before; what counts is what is on the wire.
"""

import os
import re
import select
import socket
import time

PIECE_BYTES = 4096
"""The bytes that libpq gets at once. Some of what it does with them takes longer the more there was
before: it compares a ParameterStatus with all others."""
LOGIN_PIECE_BYTES = 512
"""Until libpq is logged in, it waits for room for what it sends, and for nothing else. This is too
little to ask for so many answers that the socket pair is full; and all that it has sent goes to the
server before it gets more."""
_ITERATIONS = re.compile(rb"R.{4}\0\0\0\x0br=[^,]*,s=[^,]*,i=([^,]*)", re.DOTALL)
"""Finds the number of iterations in SCRAM's server-first-message (RFC 5802), in an
AuthenticationSASLContinue (PostgreSQL: Message Formats)."""
_FEW_ITERATIONS = re.compile(rb"[0-9]{0,6}")
"""Matches a number that is less than a million, or the beginning of one. libpq knows no limit,
takes what strtol() takes, hashes 2^31 times if it is told to (for half an hour), and cannot be
ended."""
_KEPT_BYTES = 4096
"""The bytes that are kept of what was handed on since libpq has sent something: it takes no longer
message then (2000)."""


class TooMuch(Exception):
    """The server sends more than is allowed."""


class TooExpensive(Exception):
    """The server asks for more work than a login takes: libpq would hash the password for very
    long."""


class Relay:
    """Stands between libpq and the server. To be closed after libpq has closed its end."""

    def __init__(self, allowed_bytes: int) -> None:
        """`allowed_bytes` may come from each server until the login."""
        self._login_bytes = self._left_bytes = allowed_bytes
        self._server: socket.socket | None = None
        self._ours: socket.socket | None = None
        self._inode = 0
        """The inode of libpq's end."""
        self._unsent = b""
        self._has_ended = False
        self._is_login = True
        self._last = b""

    def allow(self, more_bytes: int) -> None:
        """Allows this number of bytes from now on, after the login."""
        self._left_bytes = more_bytes
        self._is_login = False

    def step_between(self, descriptor: int) -> None:
        """If it is not there: libpq goes on to other hosts, and from TLS to none. Not before libpq
        has looked who is at the other end of a Unix socket, and has sent something."""
        if self._is_between(descriptor):
            return
        self.close()
        self._server = socket.socket(fileno=os.dup(descriptor))
        self._server.setblocking(False)
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._ours.setblocking(False)
            theirs.setblocking(False)
            os.dup2(theirs.fileno(), descriptor, inheritable=False)
        self._inode = os.fstat(descriptor).st_ino
        self._unsent, self._has_ended, self._last = b"", False, b""
        self._left_bytes = self._login_bytes

    def wait(self, descriptor: int, events: int, ends_at: float) -> int:
        """What libpq's end is ready for; 0 if it is for nothing by then. Raises TooMuch and
        TooExpensive."""
        while (left_s := ends_at - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(descriptor, events)
            if not self._is_between(descriptor):
                return dict(poll.poll(left_s * 1000)).get(descriptor, 0)
            ready = dict(poll.poll(0)).get(descriptor, 0)
            self._take_from_libpq()
            if ready:
                return ready
            assert self._server is not None and self._ours is not None
            is_reading = bool(events & select.POLLIN) and not self._unsent and not self._has_ended
            if self._unsent:
                poll.register(self._server, select.POLLOUT)
            elif is_reading:
                poll.register(self._server, select.POLLIN)
            found = dict(poll.poll(left_s * 1000))
            if is_reading and self._server.fileno() in found:
                self._take_from_server()
        return 0

    def close(self) -> None:
        """Ends. What libpq has sent last still goes to the server."""
        if self._ours is not None:
            self._take_from_libpq()
            self._ours.close()
        if self._server is not None:
            self._server.close()
        self._server = self._ours = None

    def _is_between(self, descriptor: int) -> bool:
        return self._ours is not None and os.fstat(descriptor).st_ino == self._inode

    def _take_from_libpq(self) -> None:
        """Sends as much as the server takes."""
        assert self._server is not None and self._ours is not None
        try:
            while self._unsent or (read := self._ours.recv(65536)):
                self._unsent = self._unsent or read
                self._last = b""
                self._unsent = self._unsent[self._server.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = b""  # what the server has said before it went can still be read

    def _take_from_server(self) -> None:
        assert self._server is not None and self._ours is not None
        try:
            piece_bytes = LOGIN_PIECE_BYTES if self._is_login else PIECE_BYTES
            read = self._server.recv(min(piece_bytes, self._left_bytes + 1))
        except BlockingIOError:
            return
        except OSError:
            read = b""
        self._left_bytes -= len(read)
        if self._left_bytes < 0:
            raise TooMuch
        if not read:
            self._has_ended = True
            self._ours.shutdown(socket.SHUT_WR)
            return
        if self._is_login:
            self._last = (self._last + read)[-_KEPT_BYTES:]
            if not all(map(_FEW_ITERATIONS.fullmatch, _ITERATIONS.findall(self._last))):
                raise TooExpensive
        self._ours.sendall(read)
