"""The figures of the README: what a client sees when nodes fail, and how long it takes.

    python -m bench.figures [--rounds 5] [--json FILE]

Each round builds a fresh lab (three nodes, six addresses, interval 1000, ttl 3000, a ping to each
address every 10 ms; every 20 ms it is asked on the wire who answers for each, and every node's
kernel address events are recorded) and lets everything happen once; and another one for the
restarts, with ttl 5000, the default. Printed are the medians over the rounds, with the least and
the most. A gap reaches from the last ping that was answered to the next one, so it is up to 20 ms
longer than the address was away. Overlap: two nodes answered for an address (and without a fence:
it was on interfaces of both).
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

from yaim.lab.cluster import Lab
from yaim.lab.namespaces import LabError, enter_private_network, run
from yaim.lab.network import LAN
from yaim.lab.plan import LabPlan, even_counts, pool_of
from yaim.lab.wait import wait_until

AWAY_S = 20.0
"""How long processes stay killed or stopped."""
BOUNDS: dict[str, tuple[str, float | None]] = {
    "start: all addresses held after": ("s", 3.0),
    "service fails: longest client gap": ("ms", 50.0),
    "node stops: longest client gap": ("ms", 50.0),
    "power off: longest client gap": ("s", 3.5),
    "kill -9 of all, for 20 s: overlap": ("s", 0.0),
    "kill -9 of all, for 20 s: longest client gap": ("s", 3.5),
    "SIGSTOP of all, for 20 s: overlap": ("s", 0.0),
    "SIGSTOP of all, for 20 s: longest client gap": ("s", 3.5),
    "overlap on interfaces, muted or not, in all": ("s", None),
    "address deleted by hand: back after": ("ms", 100.0),
    "interface down: all addresses held after": ("ms", 100.0),
    "coordinator killed and restarted: longest client gap": ("ms", 0.0),
    "helper killed and restarted: longest client gap": ("ms", 0.0),
    "both killed and restarted: longest client gap": ("ms", 0.0),
    "SIGUSR1, both started anew: longest client gap": ("ms", 0.0),
    "moves by all of these restarts": ("", 0.0),
    "coordinator frozen for 20 s: longest client gap": ("s", 5.5),
}
"""What is measured, in which unit, and what its median may be at most."""


class Round:
    """One lab, and what was measured in it."""

    def __init__(self, lab: Lab, figures: dict[str, list[float]]) -> None:
        self._lab = lab
        self._figures = figures

    def run(self) -> None:
        lab = self._lab
        n1, n2, n3 = lab.nodes.values()
        started = time.monotonic()
        for node in lab.nodes.values():
            node.start()
        lab.wait_until_held()
        first = {change.address: change.at for change in reversed(lab.record.changes)}
        self._note("start: all addresses held after", max(first.values()) - started)
        lab.wait_until_held(counts=[2, 2, 2])

        gap_s, _ = self._see(n1.break_service, ["n2", "n3"])
        self._note("service fails: longest client gap", gap_s * 1000)
        self._see(n1.mend_service, list(lab.nodes))

        gap_s, _ = self._see(n2.stop, ["n1", "n3"])
        self._note("node stops: longest client gap", gap_s * 1000)
        self._see(n2.start, list(lab.nodes))

        def power_off() -> None:
            n3.cut()
            n3.kill()
            # A host without power has no addresses. This one has some still, which are mute.
            for address in held_by_n3:
                n3.namespace.run("ip", "address", "del", f"{address}/32", "dev", LAN.interface)

        held_by_n3 = [address for address, names in lab.holders().items() if names == [n3.name]]
        gap_s, _ = self._see(power_off, ["n1", "n2"])
        self._note("power off: longest client gap", gap_s)
        n3.connect()
        self._see(n3.start, list(lab.nodes))

        gap_s, overlap_s = self._see(n1.kill, ["n2", "n3"], AWAY_S)
        self._note("kill -9 of all, for 20 s: overlap", overlap_s)
        self._note("kill -9 of all, for 20 s: longest client gap", gap_s)
        self._see(n1.start, list(lab.nodes))

        everything = ("supervisor", "coordinator", "helper")
        freeze = time.monotonic()
        gap_s, _ = self._see(lambda: n2.signal(signal.SIGSTOP, *everything), ["n1", "n3"], AWAY_S)
        self._see(lambda: n2.signal(signal.SIGCONT, *everything), list(lab.nodes), 2.0)
        overlap_s = lab.overlap_s(lab.plan.pool, freeze, time.monotonic())
        self._note("SIGSTOP of all, for 20 s: overlap", overlap_s)
        self._note("SIGSTOP of all, for 20 s: longest client gap", gap_s)
        whole = set(lab.plan.pool), started, time.monotonic()
        self._note("overlap on interfaces, muted or not, in all", lab.record.overlap_s(*whole))

    def run_restarts(self) -> None:
        lab = self._lab
        for node in lab.nodes.values():
            node.start()
        lab.wait_until_held(counts=[2, 2, 2])
        n1, n2, n3 = lab.nodes.values()
        self._note("address deleted by hand: back after", self._delete_one() * 1000)

        since = time.monotonic()
        for name, roles in (
            ("coordinator", ("coordinator",)),
            ("helper", ("helper",)),
            ("both", ("coordinator", "helper")),
        ):
            gap_s, _ = self._see(partial(n1.signal, signal.SIGKILL, *roles), list(lab.nodes), 11.0)
            self._note(f"{name} killed and restarted: longest client gap", gap_s * 1000)
        gap_s, _ = self._see(partial(n2.signal, signal.SIGUSR1, "supervisor"), list(lab.nodes), 5.0)
        self._note("SIGUSR1, both started anew: longest client gap", gap_s * 1000)
        moves = lab.record.moves(set(lab.plan.pool), since, time.monotonic())
        self._note("moves by all of these restarts", moves)

        lost = [address for address, (name,) in lab.holders().items() if name == n1.name]
        since = time.monotonic()
        n1.namespace.run("ip", "link", "set", LAN.interface, "down")
        lab.wait_until_held(by=["n2", "n3"], within_s=30.0)
        taken = {c.address: c.at for c in lab.record.changes if c.is_there and c.at >= since}
        self._note(
            "interface down: all addresses held after",
            (max(taken[address] for address in lost) - since) * 1000,
        )
        self._see(
            lambda: n1.namespace.run("ip", "link", "set", LAN.interface, "up"), list(lab.nodes)
        )
        gap_s, _ = self._see(
            partial(n3.signal, signal.SIGSTOP, "coordinator"), ["n1", "n2"], AWAY_S
        )
        self._note("coordinator frozen for 20 s: longest client gap", gap_s)

    def _delete_one(self) -> float:
        """Seconds until an address that somebody deletes is back."""
        lab = self._lab
        ((address, (name,)), *_) = lab.holders().items()
        since = time.monotonic()
        node = lab.nodes[name]
        node.namespace.run("ip", "addr", "del", f"{address}/32", "dev", LAN.interface)

        def came_and_went() -> list[float]:
            lab.record.update()
            changes = lab.record.changes
            return [each.at for each in changes if each.address == address and each.at >= since]

        wait_until(lambda: len(came_and_went()) >= 2, 10.0, f"{address} to be back")
        gone, back, *_ = came_and_went()
        return back - gone

    def _see(
        self, act: Callable[[], object], by: Sequence[str], at_least_s: float = 1.0
    ) -> tuple[float, float]:
        """Let it happen, wait until these nodes hold everything and some more: the longest gap and
        the overlap."""
        lab = self._lab
        since = time.monotonic()
        act()
        counts = even_counts(len(lab.plan.pool), len(by), len(lab.nodes))
        lab.wait_until_held(by=by, counts=counts, within_s=30.0)
        time.sleep(max(1.0, since + at_least_s - time.monotonic()))
        lab.record.update()
        now = time.monotonic()
        gaps = [lab.record.longest_gap_s(address, since, now) for address in lab.plan.pool]
        return max(gaps), lab.overlap_s(lab.plan.pool, since, now)

    def _note(self, name: str, value: float) -> None:
        self._figures[name].append(value)


def spreads() -> list[str]:
    """How nine addresses are spread on three nodes, and then on four."""
    with Lab(LabPlan(nodes=4, pool=pool_of(9))) as lab:
        *three, fourth = lab.nodes.values()
        seen = []
        for nodes in (three, [fourth]):
            for node in nodes:
                node.start()
            lab.wait_until_held()
            time.sleep(3.0)
            seen.append("/".join(str(count) for count in lab.counts() if count))
        return seen


def machine() -> list[str]:
    packages = ("grpcio", "protobuf", "etcd3", "pyroute2")
    return [
        f"{os.cpu_count()} processors, Linux {platform.release()}",
        f"Python {platform.python_version()}",
        run(("etcd", "--version")).splitlines()[0],
        ", ".join(f"{name} {version(name)}" for name in packages),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all values to this file, too")
    options = parser.parse_args()
    enter_private_network()
    figures: dict[str, list[float]] = defaultdict(list)
    for line in machine():
        print(line)
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds} ...", flush=True)
        with Lab(LabPlan()) as lab:
            Round(lab, figures).run()
        with Lab(LabPlan(ttl_ms=5000)) as lab:
            Round(lab, figures).run_restarts()
    width = max(map(len, figures))
    print(f"\n{'':{width}}  {'median':>9}  {'least':>8}  {'most':>8}  {'bound':>8}")
    is_good = True
    for name, values in figures.items():
        unit, bound = BOUNDS[name]
        median = statistics.median(values)
        is_met = bound is None or median <= bound
        is_good = is_good and is_met
        row = [
            f"{number:.{0 if unit == 'ms' else 2}f}"
            for number in (median, min(values), max(values))
        ]
        print(
            f"{name:{width}}  {row[0]:>6} {unit:2}  {row[1]:>8}  {row[2]:>8}"
            f"  {'' if bound is None else f'{bound:g}':>8}" + ("" if is_met else "  MISSED")
        )
    on_three, on_four = spreads()
    is_good = is_good and (on_three, on_four) == ("3/3/3", "3/2/2/2")
    print(f"\n9 addresses on 3 nodes: {on_three}; on 4 nodes: {on_four}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))
    return 0 if is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench: {error}")
