"""Tells the service manager, if it wants to know, that the coordinator is at work, how the node is,
and that the loop is not stuck. Nothing waits for the service manager, and nothing fails with it:
what it has no room for is sent with what comes next.

Sources: sd_notify(3), sd_watchdog_enabled(3).
"""

import math
import os
import socket
from collections.abc import Callable, Mapping

from yaim.host.boottime import boottime
from yaim.text import printable

_MOST_BYTES = 1000
"""A longer status is cut off."""


class ServiceManager:
    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        to = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + to[1:] if to.startswith("@") else to
        """A name that begins with "@" is one of the abstract namespace (unix(7))."""
        self._every_s = _watchdog_s(environment) / 4 if to else math.inf
        self._alive_at = -math.inf
        """When the service manager was last told that the loop is not stuck."""
        self._is_ready_told = False
        self._status = ""
        self._unsent: dict[str, str] = {}
        """Variables and their values, as sd_notify(3) has them."""

    def tell(self, status: Callable[[], str]) -> None:
        """Must be called after each turn of the loop, and at `next_at` at the latest. `status`
        makes a line that says how the node is; it is not asked where nobody wants to know."""
        if not self._address:
            return
        if not self._is_ready_told:
            self._is_ready_told = True
            self._unsent["READY"] = "1"
        # Names come from etcd: what ends a line would be taken for another assignment.
        line = printable(status(), most=None)
        told = line.encode(errors="replace")[:_MOST_BYTES].decode(errors="ignore")
        if told != self._status:
            self._status = told
            self._unsent["STATUS"] = told
        if boottime() >= self.next_at():
            self._alive_at = boottime()
            self._unsent["WATCHDOG"] = "1"
        if self._unsent:
            self._send()

    def next_at(self) -> float:
        return self._alive_at + self._every_s if self._every_s < math.inf else math.inf

    def _send(self) -> None:
        text = "\n".join(f"{name}={value}" for name, value in self._unsent.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), self._address)
        except OSError:
            return
        self._unsent.clear()


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """The time within which the service manager wants to hear that this process is alive; infinite
    if it does not want that."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    is_ours = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
    if not (is_ours and microseconds.isascii() and microseconds.isdigit() and int(microseconds)):
        return math.inf
    return int(microseconds) / 1e6
