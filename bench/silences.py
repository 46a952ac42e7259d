"""What the fence changes for a cluster and its clients: with it and without (`fence: off`).

    python -m bench.silences [--rounds 5] [--only leader|lock|rest] [--json FILE]

**leader**: etcd's leader is killed, at ttl 3000, with three members and their default election
time-out: the longest silence that a client sees at any of six addresses on three nodes. It
pings each every 10 ms; a gap reaches from the last ping that was answered to the next one.

**lock**: something holds the kernel's routing lock (RTNL) for 10 s, in another network namespace. A
client pings an address each millisecond, which a real helper holds and which is renewed every half
second for 3 s: the longest silence. Then the lock is held again, helper and whoever renews stop
(SIGSTOP), and it is measured when the last answer came, from the deadline on.

**rest**: how much of a processor helper and coordinator take at rest, REST_S each.

Printed are the medians over the rounds, with the least and the most. The exit status is 1 if a
median misses its bound.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from bench.fence import VIPS, Figures, Pinger, linked, report
from bench.figures import machine
from bench.helper import connected, expect_ok, running_helper
from bench.outages import MANY, cpu_s, kill_leader, started, suffer
from tests.routing_lock import routing_lock_held
from yaim.core.actions import AddAddress, RenewAddresses
from yaim.core.model import Boottime
from yaim.host.boottime import boottime
from yaim.lab.cluster import Lab
from yaim.lab.etcd import EtcdPlan
from yaim.lab.namespaces import LabError, enter_private_network
from yaim.lab.plan import LabPlan, pool_of
from yaim.lab.wait import wait_until
from yaim.managers.helper.messages import command, write_request

FENCES = ("auto", "off")
LEADER_TTL_MS = 3000
LOCKED_S = 10.0
LIFE_S = 3.0
RENEW_EVERY_S = 0.5
REST_S = 60.0
FEW = pool_of(6)
BOUNDS: dict[str, tuple[str, float | None]] = {
    "leader killed: longest client gap": ("ms", 20.0),
    "leader killed, fence: off: longest client gap": ("ms", None),
    "lock held for 10 s, IPv4: longest silence": ("ms", 50.0),
    "lock held for 10 s, IPv6: longest silence": ("ms", 50.0),
    "lock held, all frozen, IPv4: last answer after the deadline": ("ms", 50.0),
    "lock held, all frozen, IPv6: last answer after the deadline": ("ms", 50.0),
    **{
        f"{role}, {len(pool)} addresses, fence: {fence}": ("%", None)
        for pool in (FEW, MANY)
        for fence in FENCES
        for role in ("helper", "coordinator")
    },
}
"""What is measured, in which unit, and what its median may be at most."""


def measure_leader(figures: Figures, fence: str) -> None:
    """One lab and one fault."""
    plan = LabPlan(ttl_ms=LEADER_TTL_MS, etcd=EtcdPlan(members=3), helper_settings={"fence": fence})
    with Lab(plan) as lab:
        started(lab)
        expect_fences(lab, fence)
        outcome = suffer(lab, kill_leader)
    if outcome.overlap_s:
        raise LabError(f"overlap {outcome.overlap_s:.3f} s")
    told = "" if fence == "auto" else f", fence: {fence}"
    figures[f"leader killed{told}: longest client gap"].append(outcome.gap_s * 1000)


def expect_fences(lab: Lab, fence: str) -> None:
    if lab.has_fences != (fence == "auto"):
        raise LabError(f"fence: {fence}, and in force: {lab.has_fences}\n{lab.logs()}")


# --- the routing lock --------------------------------------------------------------------------


class Renewing:
    """Adds the addresses and renews them, in a thread of its own, until it is stopped."""

    def __init__(self, path: Path) -> None:
        self.deadline = Boottime(0.0)
        """The last one that the helper has been asked for."""
        self._is_over = threading.Event()
        self._is_added = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(path,), daemon=True)
        self._thread.start()
        if not self._is_added.wait(20.0):
            raise LabError("the helper does not add the addresses")

    def _run(self, path: Path) -> None:
        with connected(path) as connection:
            for number, address in enumerate(VIPS.values(), 2):
                self.deadline = Boottime(boottime() + LIFE_S)
                prefix = address.max_prefixlen
                add = AddAddress(number, address, "eth0", prefix, self.deadline)
                expect_ok(connection, write_request(number, command(add, "")))
            self._is_added.set()
            number = 100
            while not self._is_over.wait(RENEW_EVERY_S):
                number += 1
                self.deadline = Boottime(boottime() + LIFE_S)
                renewal = command(RenewAddresses(self.deadline), "")
                expect_ok(connection, write_request(number, renewal))

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()


def measure_lock(figures: Figures) -> None:
    with ExitStack() as stack:
        node, client = linked(stack)
        # Not in /tmp, which may be no disk.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        rules = [{"interface": "eth0", "networks": ["192.0.2.0/24", "2001:db8::/64"]}]
        pid, path = stack.enter_context(running_helper(node, directory, {"rules": rules}))
        wait_until(path.exists, 20.0, "the helper to listen")
        renewing = Renewing(path)
        pinger = stack.enter_context(closing(Pinger(client)))
        pinger.run(boottime() + 1.0)
        pinger.longest_s = dict.fromkeys(VIPS, 0.0)
        with routing_lock_held():
            pinger.run(boottime() + LOCKED_S)
        for version, silence_s in pinger.longest_s.items():
            name = f"lock held for {LOCKED_S:g} s, IPv{version}: longest silence"
            figures[name].append(silence_s * 1000)
        pinger.run(boottime() + 1.0)
        with routing_lock_held():
            pinger.run(boottime() + 1.0)
            renewing.stop()
            os.kill(pid, signal.SIGSTOP)
            try:
                pinger.run(renewing.deadline + 1.0)
            finally:
                os.kill(pid, signal.SIGKILL)
        for version, at in pinger.last_at.items():
            name = f"lock held, all frozen, IPv{version}: last answer after the deadline"
            figures[name].append((at - renewing.deadline) * 1000)


# --- at rest -----------------------------------------------------------------------------------


def measure_rest(figures: Figures, count: int, fence: str) -> None:
    """One node that has all of the addresses."""
    pool = FEW if count == len(FEW) else MANY
    settings: dict[str, object] = {"fence": fence, "max-addresses": 1000}
    plan = LabPlan(
        nodes=1,
        pool=pool,
        ttl_ms=5000,
        ping_every_ms=60_000,
        helper_settings={**settings, "commands-per-second": 1000},
    )
    with Lab(plan) as lab:
        started(lab)
        expect_fences(lab, fence)
        (node,) = lab.nodes.values()
        time.sleep(5.0)
        roles = ("helper", "coordinator")
        pids = dict(zip(roles, node.processes(*roles), strict=True))
        before, since = {role: cpu_s(pid) for role, pid in pids.items()}, time.monotonic()
        time.sleep(REST_S)
        took_s = time.monotonic() - since
        for role, pid in pids.items():
            share = (cpu_s(pid) - before[role]) / took_s
            figures[f"{role}, {count} addresses, fence: {fence}"].append(share * 100)


# --- all of it ---------------------------------------------------------------------------------


def leader(figures: Figures) -> None:
    for fence in FENCES:
        measure_leader(figures, fence)


def rest(figures: Figures) -> None:
    for pool in (FEW, MANY):
        for fence in FENCES:
            measure_rest(figures, len(pool), fence)


PARTS: dict[str, Callable[[Figures], None]] = {
    "leader": leader,
    "lock": measure_lock,
    "rest": rest,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=tuple(PARTS))
    parser.add_argument("--json", type=Path, help="write all values to this file, too")
    options = parser.parse_args()
    enter_private_network()
    for line in machine():
        print(line)
    figures: Figures = defaultdict(list)
    for number in range(1, options.rounds + 1):
        for part in (options.only,) if options.only else PARTS:
            print(f"round {number} of {options.rounds}, {part} ...", flush=True)
            PARTS[part](figures)
    is_good = report(figures, BOUNDS)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))
    return 0 if is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench: {error}")
