"""Those who ask: a connection each, what comes on it, and how much of it.

Decides nothing about addresses. What a client passes along besides its words is not taken, and
never makes the helper wait.
"""

import os
import socket
import struct
from array import array
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from yaim_helper.addresses import ACT_WITHIN_S, act_within
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
MAX_CONNECTIONS_OF_USER = 8
MAX_CONNECTIONS = 64
WEIGHT = 2
"""Nobody keeps the helper busy for more than one second in so many, if others have work for it."""
REST_S = 0.05
"""Who has sent too much is not read for at least so long: then what has come is taken together."""

_SO_PASSRIGHTS = 83
"""include/uapi/asm-generic/socket.h, since Linux 6.16."""
_MAX_PASSED = 253
"""File descriptors with one packet (unix(7), SCM_MAX_FD)."""
_ROOM = socket.CMSG_SPACE(_MAX_PASSED * array("i").itemsize) + socket.CMSG_SPACE(12)

Ancillary: TypeAlias = list[tuple[int, int, bytes]]
"""Level, type and data of what came along with a packet (cmsg(3))."""


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
        packet, ancillary, flags = _received(self.socket)
        _let_go(ancillary)
        if ancillary or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Malformed("too long, or with file descriptors")
        if not packet:
            raise EOFError
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

    def close(self) -> None:
        """What it has sent and was not read stays unread; but what it passed along is let go."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
            # With each packet, also an empty one, comes who sent it; with the end does not.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            while ancillary := _received(self.socket)[1]:
                _let_go(ancillary)
        self.socket.close()


def refuse_descriptors(listener: socket.socket) -> None:
    """Who passes file descriptors along on a connection gets an error, where the kernel can do
    that (since Linux 6.16). Connections that were begun before are as they were."""
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


def accepted(listener: socket.socket) -> Connection:
    """Raises OSError; BlockingIOError: there is none."""
    connection, _ = listener.accept()
    connection.setblocking(False)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return Connection(connection, Peer(*struct.unpack("3i", credentials)), boottime())


def why_no_room(peer: Peer, users: Collection[int], others: Collection[Connection]) -> str | None:
    """Why there may be no further connection of this peer; None: there may."""
    if peer.uid not in users:
        return "its user is not in the policy"
    if sum(each.peer.uid == peer.uid for each in others) >= MAX_CONNECTIONS_OF_USER:
        return f"its user has {MAX_CONNECTIONS_OF_USER} connections already"
    if len(others) >= MAX_CONNECTIONS:
        return f"there are {MAX_CONNECTIONS} connections already"
    return None


def _received(from_: socket.socket) -> tuple[bytes, Ancillary, int]:
    """The next packet, what came along with it, flags. Raises OSError.

    Of a peer that is gone without having read all replies, the kernel says so first, once, and then
    gives what it had sent.
    """
    try:
        packet, ancillary, flags, _ = from_.recvmsg(
            MAX_REQUEST_BYTES + 1, _ROOM, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return _received(from_)
    return packet, ancillary, flags


def _let_go(ancillary: Ancillary) -> None:
    """Close the file descriptors that were passed along, without waiting for anything.

    The last to close a socket waits until all is sent if SO_LINGER says so, and closing a file may
    ask its file system: how long that takes is up to the sender. (If the kernel were to discard
    them, the helper would wait as well.) Should it wait all the same, it ends: another begins soon.
    """
    passed = list(_descriptors(ancillary))
    if not passed:
        return
    with act_within(ACT_WITHIN_S):
        for fd in passed:
            try:
                each = socket.socket(fileno=fd)
            except OSError:
                os.close(fd)
                continue
            with each:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("2i", 0, 0))


def _descriptors(ancillary: Ancillary) -> Iterator[int]:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            yield from array("i", data)


@dataclass(slots=True)
class Allowance:
    """How much a user may send without waiting (a token bucket)."""

    per_second: int
    left: float
    at: float

    def whole(self, now: float) -> int:
        """Packets that may be read now."""
        self.left = min(self.per_second, self.left + (now - self.at) * self.per_second)
        self.at = now
        return int(self.left)

    def spend(self, count: int, took_s: float = 0.0) -> None:
        """So many packets, or as many as may be sent in WEIGHT times the processor time that they
        took."""
        self.left -= max(count, took_s * self.per_second * WEIGHT)

    def rest_until(self) -> float:
        """When there is a whole one again, and it is worth looking."""
        return self.at + max(REST_S, (1 - self.left) / self.per_second)
