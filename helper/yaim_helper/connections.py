"""Those who ask: a connection each, what comes on it, and how much of it.

Decides nothing about addresses.
"""

import socket
import struct
from dataclasses import dataclass

from yaim_helper.clock import boottime
from yaim_helper.entries import Owner, Peer
from yaim_helper.protocol import (
    MAX_REQUEST_BYTES,
    Hello,
    Malformed,
    Reply,
    Request,
    read_request,
    write_reply,
)

MAX_BATCH = 64
"""Requests of one connection that are taken in one turn."""


@dataclass(eq=False, slots=True)
class Connection:
    socket: socket.socket
    peer: Peer
    opened_at: float
    cluster: str | None = None
    """Set by its hello."""
    last_id: int = -1

    @property
    def owner(self) -> Owner | None:
        """None before its hello, and if that was refused."""
        return Owner(self.peer.uid, self.cluster) if self.cluster is not None else None

    def receive(self) -> Request:
        """Raises BlockingIOError: nothing has come; EOFError; OSError; Malformed."""
        packet, _, flags, _ = self.socket.recvmsg(MAX_REQUEST_BYTES + 1)
        if not packet:
            raise EOFError
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Malformed("too long, or with file descriptors")
        request = read_request(packet)
        if request.id <= self.last_id:
            raise Malformed("its id is not larger than the one before")
        if isinstance(request, Hello) is not (self.cluster is None):
            raise Malformed("hello comes first, and once")
        self.last_id = request.id
        if isinstance(request, Hello):
            self.cluster = request.cluster
        return request

    def reply(self, request: Request, reply: Reply) -> None:
        """Raises OSError, also if the peer does not take its replies."""
        self.socket.send(write_reply(request.id, reply))


def accepted(listener: socket.socket) -> Connection:
    """Raises OSError."""
    connection, _ = listener.accept()
    connection.setblocking(False)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return Connection(connection, Peer(*struct.unpack("3i", credentials)), boottime())


@dataclass(slots=True)
class Allowance:
    """How many commands a user may send without waiting (a token bucket)."""

    per_second: int
    left: float
    at: float

    def take(self, now: float) -> bool:
        self.left = min(self.per_second, self.left + (now - self.at) * self.per_second)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True
