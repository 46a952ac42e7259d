"""Looking a host name up within a time limit."""

import errno
import socket
import threading
from typing import Any


def look_up(host: str, port: int, within_s: float) -> list[Any]:
    """getaddrinfo(3) for TCP, given up in time. Raises OSError.

    The system's resolver knows no time limit but its own: the thread that waits for it lives on
    until then.
    """
    kind = socket.SOCK_STREAM
    try:
        return socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, ValueError):
        pass
    found: list[Any] = []
    failed: list[OSError] = []

    def wait() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=kind))
        except OSError as error:
            failed.append(error)
        except ValueError:
            failed.append(socket.gaierror(socket.EAI_NONAME, "it cannot be one"))

    thread = threading.Thread(target=wait, name="look-up", daemon=True)
    thread.start()
    thread.join(within_s)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(errno.ETIMEDOUT, "its host name cannot be looked up in time")
    return found
