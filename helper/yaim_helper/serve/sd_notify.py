"""What the service manager is told, if it wants to know: that the helper serves, what it holds, and
that it is not stuck. Nothing waits for it, and nothing fails with it: what it has no room for is
sent with what comes next.

Sources: sd_notify(3), sd_watchdog_enabled(3).
"""

import math
import os
import socket
from collections.abc import Mapping

from yaim_helper.clock import boottime

_MOST_BYTES = 1000
"""The most bytes of a status line."""


class ServiceManager:
    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._to = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + self._to[1:] if self._to.startswith("@") else self._to
        """"@" means: in the abstract namespace (unix(7))."""
        self._every_s = _watchdog_s(environment) / 4 if self._to else math.inf
        self._alive_at = -math.inf
        """When it was told the last time that the helper is at work."""
        self._status = ""
        self._unsent: dict[str, str] = {}
        """Assignments that are not sent yet."""

    @property
    def is_there(self) -> bool:
        return bool(self._to)

    def tell_ready(self) -> None:
        self._send("READY", "1")

    def tell_stopping(self) -> None:
        self._send("STOPPING", "1")

    def tell_status(self, status: str) -> None:
        """Tells people one line. It is sent when it is another one than before."""
        if status != self._status:
            self._status = status
            line = status.replace("\n", "; ").encode(errors="replace")[:_MOST_BYTES]
            self._send("STATUS", line.decode(errors="ignore"))

    def tell_alive(self) -> None:
        """Tells that the helper is at work, if that is due. This should be called at `next_at` at
        the latest."""
        now = boottime()
        if now >= self.next_at():
            self._alive_at = now
            self._send("WATCHDOG", "1")
        elif self._unsent:
            self._send_all()

    def next_at(self) -> float:
        return self._alive_at + self._every_s if self._every_s < math.inf else math.inf

    def _send(self, name: str, value: str) -> None:
        if self._to:
            self._unsent[name] = value
            self._send_all()

    def _send_all(self) -> None:
        text = "\n".join(f"{name}={value}" for name, value in self._unsent.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), self._address)
        except OSError:
            return
        self._unsent.clear()


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Returns the seconds within which it wants to hear that this process is at work; infinite: it
    does not want to."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    is_ours = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
    if not (is_ours and microseconds.isascii() and microseconds.isdigit() and int(microseconds)):
        return math.inf
    return int(microseconds) / 1e6
