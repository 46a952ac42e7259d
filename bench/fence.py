"""The figures of the kernel fence: how late it ends, and what a renewal costs.

    python -m bench.fence [--rounds 5] [--json FILE]

**The end.** A process gives addresses a deadline and ends at once: nobody is alive. A client pings
them each millisecond. Lateness is from the deadline to the arrival of the last answer; it may be
a millisecond less than nothing.

**A renewal** with 1000 IPv4 and 1000 IPv6 addresses held: of the fence itself, and of a real helper
from the coordinator's command to the event that it has been done, over the helper's socket, with
fence and without (`fence: off`), in turn.

Printed are the medians over the rounds, with the least and the most. The exit status is 1 if a
median misses its bound.
"""

import argparse
import json
import logging
import os
import select
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from queue import SimpleQueue

from yaim_helper.kernel.fence import FENCE_GRACE_S, Fence, Ruleset, TooLate

from bench.figures import machine
from bench.helper import INTERFACE, adds_of, expect, running_helper
from yaim.core.actions import RenewAddresses
from yaim.core.events import AddressAdded, AddressesRenewed, Event, HelperReady
from yaim.core.model import Address, Boottime
from yaim.host.boottime import boottime
from yaim.lab.links import put_address, set_state
from yaim.lab.namespaces import LabError, Namespace, run
from yaim.managers.helper.client import HelperClient

LIVES_S = (0.1, 0.6, 1.5)
BEFORE_S, AFTER_S = 0.3, 0.5
"""How long it pings before the last renewal, and after the deadline."""
PING_EVERY_S = 0.001
COUNT = 1000
RENEWALS = 50
"""The renewals in each round, of the fence itself; and of a helper a tenth of them."""
LIFE_S = 600.0
MOST_TRIES = 5
TABLE = "yaim-1"
VIPS: dict[int, Address] = {4: ip_address("192.0.2.11"), 6: ip_address("2001:db8::11")}
POOL = tuple(
    ip_address(first) + number for first in ("10.0.0.1", "fd00::1") for number in range(COUNT)
)
OWN = (("192.0.2.1/24", "2001:db8::1/64"), ("192.0.2.2/24", "2001:db8::2/64"))
"""The node's own addresses, and the client's."""
_ALL = f"{COUNT} IPv4 and {COUNT} IPv6 addresses renewed"
BOUNDS: dict[str, tuple[str, float | None]] = {
    **{
        f"IPv{version}: last answer after a deadline {life_s * 1000:.0f} ms away": (
            "ms",
            FENCE_GRACE_S * 1000,
        )
        for version in VIPS
        for life_s in LIVES_S
    },
    f"{_ALL} by the fence itself": ("ms", 2.0),
    f"{_ALL}, from command to reply": ("ms", None),
    "the same with `fence: off`": ("ms", None),
}
"""What is measured, in which unit, and what its median may be at most."""
Figures = dict[str, list[float]]


def linked(stack: ExitStack) -> tuple[Namespace, Namespace]:
    """A node and a client, with a cable between them."""
    node = stack.enter_context(closing(Namespace.new()))
    client = stack.enter_context(closing(Namespace.new()))
    with node.entered():
        put = ("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0")
        run((*put, "netns", client.path), pass_fds=(client.fd,))
    for namespace, own in zip((node, client), OWN, strict=True):
        set_state("eth0", "up", namespace)
        for address in own:
            put_address(address, "eth0", namespace)
    return node, client


# --- the end -----------------------------------------------------------------------------------


class Pinger:
    """Pings the two addresses from the client's namespace, and notes when answers come."""

    def __init__(self, client: Namespace) -> None:
        with client.entered():
            self._sockets = {
                4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
                6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
            }
        self._requests = {4: _echo(8), 6: _echo(128)}
        self.last_at = dict.fromkeys(VIPS, 0.0)
        """When the last answer came, by IP version: CLOCK_BOOTTIME."""
        self.longest_s = dict.fromkeys(VIPS, 0.0)
        """The longest time between two answers, so far."""

    def close(self) -> None:
        for each in self._sockets.values():
            each.close()

    def run(self, until: float) -> None:
        """Pings until that instant of CLOCK_BOOTTIME."""
        next_at: float = boottime()
        while (now := boottime()) < until:
            if now >= next_at:
                for version, address in VIPS.items():
                    self._sockets[version].sendto(self._requests[version], (str(address), 0))
                next_at = max(next_at + PING_EVERY_S, now)
            wait_s = max(0.0, next_at - boottime())
            for ready in select.select(list(self._sockets.values()), (), (), wait_s)[0]:
                packet = ready.recv(256)
                version = 4 if ready is self._sockets[4] else 6
                if packet[20 if version == 4 else 0] == (0 if version == 4 else 129):
                    at, before = boottime(), self.last_at[version]
                    self.last_at[version] = at
                    if before:
                        self.longest_s[version] = max(self.longest_s[version], at - before)


def _echo(kind: int) -> bytes:
    """An echo request; the kernel adds ICMPv6's checksum, not ICMP's."""
    checksum = ~0x0800 & 0xFFFF if kind == 8 else 0
    return struct.pack("!BBHHH", kind, 0, checksum, 0, 0)


def measure_end(figures: Figures) -> None:
    for life_s in LIVES_S:
        with ExitStack() as stack:
            node, client = linked(stack)
            for address in VIPS.values():
                put_address(f"{address}/{address.max_prefixlen}", "eth0", node)
            pinger = stack.enter_context(closing(Pinger(client)))
            last = LastRenewal(node, life_s)
            stack.callback(last.end)
            pinger.run(boottime() + BEFORE_S)
            if not all(pinger.last_at.values()):
                raise LabError("what the fence lets answer does not answer")
            deadline = last.made()
            pinger.run(deadline + AFTER_S)
            for version, at in pinger.last_at.items():
                name = f"IPv{version}: last answer after a deadline {life_s * 1000:.0f} ms away"
                figures[name].append((at - deadline) * 1000)


class LastRenewal:
    """A process that has a fence let the addresses answer, and renews it once more when it is told
    to; then it has ended."""

    def __init__(self, node: Namespace, life_s: float) -> None:
        mine, its = socket.socketpair()
        self._connection = mine
        self._process = os.fork()
        if not self._process:
            status = 1
            try:
                mine.close()
                with node.entered():
                    fence = Fence(Ruleset(), TABLE)
                fence.make((), ())
                fence.admit(list(VIPS.values()), boottime() + LIFE_S)
                its.send(b"!")
                if not its.recv(1):
                    return
                deadline = boottime() + life_s
                fence.renew(deadline)
                its.send(struct.pack("d", deadline))
                status = 0
            finally:
                os._exit(status)
        its.close()
        mine.recv(1)

    def made(self) -> float:
        """Has it renewed, and waits for its end. Returns the deadline."""
        self._connection.send(b"!")
        told = self._connection.recv(8)
        self.end()
        if not told:
            raise LabError("the fence could not be renewed")
        return float(struct.unpack("d", told)[0])

    def end(self) -> None:
        """It ends when nobody is there any more to tell it to renew, if not before."""
        if self._process:
            self._connection.close()
            os.waitpid(self._process, 0)
            self._process = 0


# --- a renewal ---------------------------------------------------------------------------------


def measure_fence(figures: Figures) -> None:
    with ExitStack() as stack:
        namespace = stack.enter_context(closing(Namespace.new()))
        with namespace.entered():
            ruleset = stack.enter_context(closing(Ruleset()))
        fence = Fence(ruleset, TABLE)
        fence.make((), ())
        fence.admit(POOL, boottime() + LIFE_S)
        took_s = []
        for number in range(RENEWALS):
            began = time.monotonic()
            fence.renew(boottime() + LIFE_S + number)
            took_s.append(time.monotonic() - began)
        figures[f"{_ALL} by the fence itself"].append(statistics.median(took_s) * 1000)


def measure_helper(figures: Figures, name: str, fence: str) -> None:
    posted: SimpleQueue[Event] = SimpleQueue()

    def post(*events: Event) -> None:
        for each in events:
            posted.put(each)

    with ExitStack() as stack:
        namespace = stack.enter_context(closing(Namespace.new()))
        # Not in /tmp, which may be no disk.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        namespace.run("ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "peer")
        for each in (INTERFACE, "peer"):
            namespace.run("ip", "link", "set", each, "addrgenmode", "none", "up")
        keys = {"max-addresses": len(POOL), "fence": fence}
        _, path = stack.enter_context(running_helper(namespace, directory, keys))
        client = HelperClient(path, "bench", "node", "yaim", post)
        ready = expect(posted, HelperReady)
        if ready.fence.is_in_force != (fence == "auto"):
            raise LabError(f"the helper's fence: {ready.fence}")
        for start in range(0, len(POOL), COUNT):
            client.submit(adds_of(POOL[start : start + COUNT]))
            for _ in range(COUNT):
                expect(posted, AddressAdded)
        took_s = []
        for number in range(RENEWALS // 10):
            began = time.monotonic()
            client.submit([RenewAddresses(Boottime(boottime() + LIFE_S + 10 * (number + 1)))])
            event = expect(posted, AddressesRenewed)
            took_s.append(time.monotonic() - began)
            if event.missing:
                raise LabError(f"{len(event.missing)} addresses are missing")
        figures[name].append(statistics.median(took_s) * 1000)


# --- all of it ---------------------------------------------------------------------------------


def report(figures: Figures, bounds: dict[str, tuple[str, float | None]]) -> bool:
    """Prints the table. Returns whether all medians are within their bounds."""
    width = max(map(len, figures))
    print(f"\n{'':{width}}  {'median':>9}  {'least':>8}  {'most':>8}  {'bound':>8}")
    is_good = True
    for name, values in figures.items():
        unit, bound = bounds[name]
        median = statistics.median(values)
        is_met = bound is None or median <= bound
        is_good = is_good and is_met
        row = [f"{number:.2f}" for number in (median, min(values), max(values))]
        print(
            f"{name:{width}}  {row[0]:>6} {unit:2}  {row[1]:>8}  {row[2]:>8}"
            f"  {'' if bound is None else f'{bound:g}':>8}" + ("" if is_met else "  MISSED")
        )
    return is_good


def _in_one_of_some_tries(measure: Callable[[], None]) -> None:
    """Who gets no processor for long is too late for the fence; a helper without one ends after a
    tenth of a second."""
    for left in reversed(range(MOST_TRIES)):
        try:
            measure()
        except (LabError, TooLate) as error:
            if not left:
                raise
            print(f"once more: {str(error).splitlines()[0]}", flush=True)
        else:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all values to this file, too")
    options = parser.parse_args()
    # The client of a round goes on looking for its helper.
    logging.getLogger("yaim").setLevel(logging.CRITICAL)
    for line in machine():
        print(line)
    figures: Figures = defaultdict(list)
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds} ...", flush=True)
        measure_end(figures)
        _in_one_of_some_tries(partial(measure_fence, figures))
        for name, fence in (
            (f"{_ALL}, from command to reply", "auto"),
            ("the same with `fence: off`", "off"),
        ):
            _in_one_of_some_tries(partial(measure_helper, figures, name, fence))
    is_good = report(figures, BOUNDS)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))
    return 0 if is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench: {error}")
