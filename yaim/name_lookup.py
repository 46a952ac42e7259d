"""Looking a host name up within a time limit."""

import socket
import threading
from errno import ETIMEDOUT
from typing import Any


class _Pending:
    """A look-up in a thread of its own. The system's resolver knows no time limit but its own: the
    thread lives on until then."""

    def __init__(self, host: str, port: int) -> None:
        self._place = host, port
        self.found: list[Any] = []
        self.failure: OSError | None = None
        self._thread = threading.Thread(target=self._wait, name="look-up", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        try:
            self.found = socket.getaddrinfo(*self._place, type=socket.SOCK_STREAM)
        except OSError as error:
            self.failure = error
        except ValueError:
            self.failure = socket.gaierror(socket.EAI_NONAME, "it cannot be one")

    def has_ended(self, within_s: float) -> bool:
        self._thread.join(within_s)
        return not self._thread.is_alive()


_lock = threading.Lock()
_pending: dict[tuple[str, int], _Pending] = {}
"""At most one for each name, however often it is asked for."""


def look_up(host: str, port: int, within_s: float) -> list[Any]:
    """getaddrinfo(3) for TCP, given up in time. Raises OSError."""
    try:
        flags = socket.AI_NUMERICHOST
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except (socket.gaierror, ValueError):
        pass
    with _lock:
        pending = _pending.get((host, port))
        if pending is None or pending.has_ended(0.0):
            pending = _pending[host, port] = _Pending(host, port)
    if not pending.has_ended(within_s):
        raise TimeoutError(ETIMEDOUT, "its host name cannot be looked up in time")
    with _lock:
        if _pending.get((host, port)) is pending:
            del _pending[host, port]
    if pending.failure is not None:
        raise pending.failure
    return pending.found
