"""Closing connections, in a thread of its own: whoever has passed something along decides how long
that takes.

What stays unread on a connection may hold file descriptors. When the connection is closed they are,
too, and whoever drops the last reference to a file does what its file system has left to do: frees
300,000 extents, or a memory file of 2 GiB, or waits as SO_LINGER says. Nothing refuses them before
Linux 6.16 (SO_PASSRIGHTS). So the server never takes such a packet, and closes no connection with
unread packets: it shuts it down, which the peer sees at once, and hands it over.

A signal ends what waits, as for SO_LINGER; what works goes on to its end, also when the process is
killed. What is not closed yet counts as a connection of its user, and with MAX_WAITING of them
nobody further is let in. Who is connected is served meanwhile.
"""

import math
import signal
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from queue import SimpleQueue

from yaim_helper import threads
from yaim_helper.clock import boottime
from yaim_helper.serve.connections import Connection

MAX_WAITING = 64
"""Connections that may wait to be closed. There may be more, as many as are let in at once."""
HURRY_AFTER_S = 0.1
_HURRY = signal.SIGUSR2


class Disposal:
    """What the server uses, from the first thread of the process."""

    def __init__(self) -> None:
        """Starts a thread. Raises RuntimeError if it may not."""
        self._queue: SimpleQueue[Connection] = SimpleQueue()
        self._waiting: deque[Connection] = deque()
        """Connections to be closed, in order; some at the front may be closed."""
        self._hurry_at = 0.0
        signal.signal(_HURRY, lambda *_: None)
        self._thread = threads.start("disposal", self._work)

    def hand_over(self, connection: Connection) -> None:
        """Ends a connection: the peer sees that at once."""
        if connection.shut_down():
            connection.socket.close()
            return
        if not self.waiting():
            self._hurry_at = boottime() + HURRY_AFTER_S
        self._waiting.append(connection)
        self._queue.put(connection)

    def waiting(self) -> Collection[Connection]:
        """Returns the connections that are not closed yet."""
        while self._waiting and self._waiting[0].is_closed:
            self._waiting.popleft()
        return self._waiting

    @property
    def is_full(self) -> bool:
        return len(self.waiting()) >= MAX_WAITING

    def next_at(self) -> float:
        """Returns when to call `hurry`."""
        return self._hurry_at if self.waiting() else math.inf

    def hurry(self, now: float) -> None:
        """Ends the wait of a close that has waited for long."""
        if now >= self.next_at():
            self._hurry_at = now + HURRY_AFTER_S
            signal.pthread_kill(self._thread.ident or 0, _HURRY)

    # --- its thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (_HURRY,))
        while True:
            connection = self._queue.get()
            with suppress(OSError):
                connection.socket.close()
            connection.is_closed = True
