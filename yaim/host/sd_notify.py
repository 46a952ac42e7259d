"""What the service manager is told, if it wants to know: that the coordinator is at work, what is
held by whom, and that its loop is not stuck. Nothing waits for it, and nothing fails with it: what
it has no room for is sent with what comes next.

Sources: sd_notify(3), sd_watchdog_enabled(3).
"""

import math
import os
import socket
from collections import defaultdict
from collections.abc import Iterable, Mapping
from operator import is_not

from yaim.core.model import Address, NodeName
from yaim.core.state.state import State
from yaim.host.boottime import boottime
from yaim.text import printable

_MOST_BYTES = 1000
"""Of a status."""
_MOST_LISTED = 8
"""Addresses of a node that are told one by one."""


class ServiceManager:
    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        to = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + to[1:] if to.startswith("@") else to
        """With "@": in the abstract namespace (unix(7))."""
        self._every_s = _watchdog_s(environment) / 4 if to else math.inf
        self._alive_at = -math.inf
        """When it was last told so."""
        self._told: tuple[object, ...] = ()
        """What the status told last was made from."""
        self._status = ""
        self._unsent: dict[str, str] = {}
        """Assignments."""

    def tell(self, state: State) -> None:
        """After each turn of the loop, and at `next_at` at the latest."""
        if not self._address:
            return
        if not self._told:
            self._unsent["READY"] = "1"
        health = state.health
        told = (state.cluster.view, state.addresses.known, health.judged, health.waits_s)
        if len(told) != len(self._told) or any(map(is_not, told, self._told)):
            self._told = told
            # Names come from etcd: what ends a line would be taken for another assignment.
            line = printable(status_of(state), most=None)
            status = line.encode(errors="replace")[:_MOST_BYTES].decode(errors="ignore")
            if status != self._status:
                self._status = status
                self._unsent["STATUS"] = status
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
    """Within which it wants to hear that this process is alive; infinite if it does not."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    is_ours = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
    if not (is_ours and microseconds.isascii() and microseconds.isdigit() and int(microseconds)):
        return math.inf
    return int(microseconds) / 1e6


def health_word(state: State) -> str:
    """One that waits is healthy, too."""
    if state.health.waits_s:
        return "waiting"
    if state.health.judged is None:
        return "starting"
    return "healthy" if state.health.judged.is_healthy else "unhealthy"


def status_of(state: State) -> str:
    """For people, one line: how this node is, what it holds, what the others do."""
    node, view = state.settings.node, state.cluster.view
    own = f"{node} {health_word(state)}, holds {_listed(state.held)}"
    if view is None:
        return f"{own}; etcd has not been read"
    others: defaultdict[NodeName, list[Address]] = defaultdict(list)
    for address, mark in view.marks.items():
        if mark.holder != node:
            others[mark.holder].append(address)
    nobody = [address for address in view.pool if address not in view.marks]
    return "; ".join(
        (
            f"{own} of {len(view.pool)}",
            *(f"{name}: {_listed(others[name])}" for name in sorted(others)),
            *([f"nobody: {_listed(nobody)}"] if nobody else []),
        )
    )


def _listed(addresses: Iterable[Address]) -> str:
    """How many, and the first."""
    ordered = sorted(addresses, key=lambda each: (each.version, each))
    first = [str(each) for each in ordered[:_MOST_LISTED]]
    more = ["..."] if len(ordered) > len(first) else []
    return f"{len(ordered)} ({', '.join([*first, *more])})" if first else "0"
