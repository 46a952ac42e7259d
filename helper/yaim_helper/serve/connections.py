"""The connections of those who ask: what comes on one, and its replies; who may connect.

Decides nothing about addresses. What a client passes along besides its words is not taken: such a
packet is looked at (MSG_PEEK), stays where it is, and is over with its connection (disposal.py).
"""

import math
import select
import socket
import struct
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from yaim_helper.clock import boottime
from yaim_helper.owners import Owner, Peer
from yaim_helper.protocol import (
    MAX_REQUEST_BYTES,
    Hello,
    Malformed,
    Request,
    read_request,
    write_reply,
)
from yaim_helper.serve.asked import Asked

MAX_BATCH = 64
"""Requests of one connection that are taken in in one turn."""
MAX_UNDER_WAY = 128
"""The most requests without replies: a peer that has sent as many is not read for a while."""
MAX_CONNECTIONS_OF_USER = 8
MAX_CONNECTIONS = 64

_SO_PASSRIGHTS = 83
"""include/uapi/asm-generic/socket.h, since Linux 6.16."""


class Ending(NamedTuple):
    """Says that a connection is over, and why if the helper ends it."""

    reason: str | None
    what: str = "hung-up"
    """The kind under which it is counted if there are many (floods.py)."""


@dataclass(eq=False, slots=True)
class Connection:
    socket: socket.socket
    peer: Peer
    opened_at: float
    cluster: str | None = None
    """Set by its hello."""
    last_id: int = -1
    asked: deque[Asked] = field(default_factory=deque)
    """The requests to which no reply was sent yet, in order."""
    look_at: float = math.inf
    """When more of that can be done, if nothing comes before."""
    ending: Ending | None = None
    """Nothing more is read; it ends when all that was asked before is done."""
    takes_replies: bool = True
    is_closed: bool = False
    """Set by another thread (disposal.py)."""

    @property
    def room(self) -> int:
        """How many further requests may be taken in. What was asked behind a hello that was
        refused is over before another hello is taken in."""
        return MAX_UNDER_WAY - len(self.asked) if self.cluster or not self.asked else 0

    @property
    def owner(self) -> Owner | None:
        """The owner for whom it asks; None: it has not said hello, or that was refused."""
        return Owner(self.peer.uid, self.cluster) if self.cluster is not None else None

    def receive(self) -> Request:
        """Returns the next request. Raises BlockingIOError: nothing has come; EOFError; OSError;
        Malformed."""
        packet, flags = _received(self.socket, MAX_REQUEST_BYTES + 1, socket.MSG_PEEK)
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Malformed("too long, or with file descriptors")
        if not packet:
            raise EOFError
        # It is the first still: nobody else reads here.
        _received(self.socket, 1, 0)
        request = read_request(packet)
        if request.id <= self.last_id:
            raise Malformed("its id is not larger than the one before")
        if isinstance(request, Hello) is not (self.cluster is None):
            raise Malformed("hello comes first, and once")
        self.last_id = request.id
        if isinstance(request, Hello):
            self.cluster = request.cluster
        return request

    def refuse_hello(self) -> None:
        """Nothing that was asked behind the hello is done; another hello may come."""
        self.cluster = None

    def reply(self) -> None:
        """Sends the replies, in order, up to the first request that has none yet. Raises OSError,
        also if the peer does not take its replies: then it gets no more."""
        try:
            while self.asked and (reply := self.asked[0].reply) is not None:
                request = self.asked.popleft().request
                if self.takes_replies:
                    self.socket.send(write_reply(request.id, reply))
        except OSError:
            self.takes_replies = False
            raise

    def is_gone(self) -> bool:
        """Whether the peer has closed its end, and not only stopped receiving."""
        hang_up = select.poll()
        hang_up.register(self.socket, 0)
        return any(events & select.POLLHUP for _, events in hang_up.poll(0))

    def shut_down(self) -> bool:
        """Ends the connection for the peer. What it has sent and was not read stays unread. Returns
        whether there is nothing of that: then nothing is dropped with the connection."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
            # Each packet, also an empty one, comes with who sent it; the end does not.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            packet, flags = _received(self.socket, 1, socket.MSG_PEEK)
            return not packet and not flags & socket.MSG_CTRUNC
        return False


def refuse_descriptors(to: socket.socket) -> None:
    """Has the kernel refuse file descriptors that somebody passes along to this socket, or to a
    connection that this listener will have, if it can (since Linux 6.16)."""
    with suppress(OSError):
        to.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


def accepted(listener: socket.socket) -> Connection:
    """Returns a new connection. Raises OSError; BlockingIOError: there is none."""
    connection, _ = listener.accept()
    connection.setblocking(False)
    # It may have been begun before its listener refused them.
    refuse_descriptors(connection)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return Connection(connection, Peer(*struct.unpack("3i", credentials)), boottime())


def why_no_room(
    peer: Peer,
    users: Collection[int],
    others: Collection[Connection],
    waiting: Collection[Connection] = (),
) -> str | None:
    """Returns why there may be no further connection of this peer; None: there may. `waiting`: the
    connections that have ended and are not closed yet."""
    if peer.uid not in users:
        return "its user is not in the policy"
    its = sum(each.peer.uid == peer.uid for each in (*others, *waiting))
    if its >= MAX_CONNECTIONS_OF_USER:
        return f"its user has {MAX_CONNECTIONS_OF_USER} connections already"
    if len(others) >= MAX_CONNECTIONS:
        return f"there are {MAX_CONNECTIONS} connections already"
    return None


def _received(from_: socket.socket, size: int, how: int) -> tuple[bytes, int]:
    """Returns the next packet, or so much of it, and flags. Raises OSError.

    There is no room for what came along with it: with MSG_PEEK that only sets MSG_CTRUNC, as the
    kernel gives back references that it has just taken, and none is the last (unix_peek_fds and
    scm_recv in Linux).

    If a peer has gone without having read all replies, the kernel says so first, once, and then
    gives what it had sent.
    """
    try:
        packet, _, flags, _ = from_.recvmsg(size, 0, how)
    except ConnectionResetError:
        return _received(from_, size, how)
    return packet, flags
