"""Looks a host name up within a time limit."""

import socket
from errno import ETIMEDOUT
from typing import Any

from yaim.host.pending import Pending

_look_ups: Pending[tuple[str, int], list[Any]] = Pending("look-up")
"""The system's resolver knows no time limit but its own."""


def look_up(host: str, port: int, within_s: float) -> list[Any]:
    """Asks getaddrinfo(3) for TCP, and gives up in time. Raises OSError."""
    kind = socket.SOCK_STREAM
    try:
        return socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, ValueError):
        pass
    try:
        found = _look_ups.wait(
            (host, port), lambda: socket.getaddrinfo(host, port, type=kind), within_s
        )
    except ValueError:
        raise socket.gaierror(socket.EAI_NONAME, "it cannot be one") from None
    if found is None:
        raise TimeoutError(ETIMEDOUT, "its host name cannot be looked up in time")
    return found
