"""What it costs clients when operators move addresses: `move`, `drain`, a maintenance of each node.

    python -m bench.steering [--rounds 5] [--json FILE]

A lab with three nodes and seven addresses, ttl 5000; a client pings each address every 4 ms, so a
gap is up to 8 ms longer than the address was away. In each round:

- `yaim move`: an address goes to a node that has fewer, to and fro.
- `yaim drain`, then `yaim undrain`, of one node.
- A maintenance of each node in turn: drain it, stop it, start it, undrain it. The moves are counted
  against the fewest that there can be: what the node had goes, and its share comes back.
- For comparison, a drain as it is without a hand-over by name: the node is stopped.

Printed are medians over all, with the least and the most. A move's gap is that of the address; a
drain's the longest of its addresses. "Off" is how long an address was on no node's interface, as
the kernels tell it. "Command" is how long the command took, with the start of Python. "A put in
etcd" is what one transaction costs here.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from yaim.core.model import Address
from yaim.lab.cluster import Lab
from yaim.lab.namespaces import LabError, enter_private_network
from yaim.lab.plan import LabPlan, even_counts, pool_of
from yaim.lab.wait import wait_until

ADDRESSES, NODES, MOVES, PUTS = 7, 3, 4, 20
SHARE_MORE = 3
"""The most addresses that a node has when all is level."""
LOOK_ON_S = 0.5
BOUNDS: dict[str, tuple[str, float | None]] = {
    "move: gap": ("ms", 30.0),
    "move: off": ("ms", None),
    "move: command": ("s", None),
    "drain: longest gap": ("ms", 30.0),
    "drain: longest off": ("ms", None),
    "drain: command": ("s", None),
    "undrain: longest gap": ("ms", 30.0),
    "drain of two at once: longest gap": ("ms", 30.0),
    "drain of two at once: moves beyond the fewest": ("", 0.0),
    "maintenance of each node: longest gap": ("ms", 50.0),
    "maintenance of each node: moves beyond the fewest": ("", 0.0),
    "a node is stopped: longest gap": ("ms", None),
    "a put in etcd": ("ms", None),
    "overlap in all": ("s", 0.0),
}
"""What is measured, in which unit, and what its median may be at most."""


class Round:
    """One lab, and what was measured in it."""

    def __init__(self, lab: Lab, figures: dict[str, list[float]]) -> None:
        self._lab = lab
        self._figures = figures

    def run(self) -> None:
        lab = self._lab
        started = time.monotonic()
        for node in lab.nodes.values():
            node.start()
        self._wait_until_level()
        wait_until(self._is_answered, 20.0, "all addresses to answer")
        self._put()
        for _ in range(MOVES):
            self._move()
        self._drain("n1")
        self._drain_two("n1", "n2")
        self._maintain()
        self._stop("n2")
        lab.record.update()
        self._note("overlap in all", lab.overlap_s(lab.plan.pool, started, time.monotonic()))

    def _put(self) -> None:
        """What no yaim is about."""
        for _ in range(PUTS):
            started = time.monotonic()
            self._lab.etcd.put(b"/bench", b"")
            self._note("a put in etcd", (time.monotonic() - started) * 1000)

    def _move(self) -> None:
        """From a node that has one more than another, to that."""
        held = self._held()
        source = next(name for name in held if len(held[name]) == SHARE_MORE)
        target = next(name for name in held if len(held[name]) < SHARE_MORE)
        address = held[source][0]
        since = time.monotonic()
        took_s, gaps = self._see(lambda: self.yaim("move", str(address), target))
        self._note("move: gap", gaps[address] * 1000)
        self._note("move: off", self._longest_off_s(since) * 1000)
        self._note("move: command", took_s)

    def _drain(self, name: str) -> None:
        since = time.monotonic()
        took_s, gaps = self._see(lambda: self.yaim("drain", name))
        self._note("drain: longest gap", max(gaps.values()) * 1000)
        self._note("drain: longest off", self._longest_off_s(since) * 1000)
        self._note("drain: command", took_s)
        _, gaps = self._see(lambda: self.yaim("undrain", name))
        self._note("undrain: longest gap", max(gaps.values()) * 1000)
        self._wait_until_level()

    def _drain_two(self, *names: str) -> None:
        since, fewest = time.monotonic(), sum(len(self._held()[name]) for name in names)
        _, gaps = self._see(lambda: self.yaim("drain", *names))
        self._note("drain of two at once: longest gap", max(gaps.values()) * 1000)
        self._note("drain of two at once: moves beyond the fewest", self._moves(since) - fewest)
        self.yaim("undrain", *names)
        self._wait_until_level()

    def _maintain(self) -> None:
        """Each node in turn, as it is done at three in the morning."""
        lab, beyond, longest = self._lab, 0, 0.0
        for name, node in lab.nodes.items():
            had, since = len(self._held()[name]), time.monotonic()
            self.yaim("drain", name)
            node.stop()
            node.start()
            lab.wait_until_started()
            wait_until(partial(self._lives, name), 20.0, f"{name} to be back")
            self.yaim("undrain", name)
            self._wait_until_level()
            gaps = self._gaps(since)
            longest = max(longest, *gaps.values())
            has = len(self._held()[name])
            beyond += self._moves(since) - had - has
        self._note("maintenance of each node: longest gap", longest * 1000)
        self._note("maintenance of each node: moves beyond the fewest", beyond)

    def _stop(self, name: str) -> None:
        lab = self._lab
        since = time.monotonic()
        lab.nodes[name].stop()
        lab.wait_until_held(by=[each for each in lab.nodes if each != name])
        time.sleep(LOOK_ON_S)
        self._note("a node is stopped: longest gap", max(self._gaps(since).values()) * 1000)

    # --- what is seen ------------------------------------------------------------------------

    def yaim(self, *arguments: str) -> None:
        """Gives a command, and waits until it is done."""
        config = self._lab.directory / "n1" / "yaim.yml"
        done = subprocess.run(
            (sys.executable, "-P", "-m", "yaim", *arguments, "--yes", "--config", str(config)),
            capture_output=True,
            text=True,
            timeout=90,
        )
        if done.returncode:
            raise LabError(f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")

    def _see(self, act: Callable[[], None]) -> tuple[float, dict[Address, float]]:
        """How long it took, and the gaps of each address."""
        since = time.monotonic()
        act()
        took_s = time.monotonic() - since
        time.sleep(LOOK_ON_S)
        return took_s, self._gaps(since)

    def _gaps(self, since: float) -> dict[Address, float]:
        lab, now = self._lab, time.monotonic()
        lab.record.update()
        return {each: lab.record.longest_gap_s(each, since, now) for each in lab.plan.pool}

    def _longest_off_s(self, since: float) -> float:
        off = self._lab.record.uncovered(set(self._lab.plan.pool), since, time.monotonic())
        return max((each.length_s for each in off), default=0.0)

    def _moves(self, since: float) -> int:
        self._lab.record.update()
        return self._lab.record.moves(set(self._lab.plan.pool), since, time.monotonic())

    def _held(self) -> dict[str, list[Address]]:
        held: dict[str, list[Address]] = {name: [] for name in self._lab.nodes}
        for address, names in self._lab.holders().items():
            for name in names:
                held[name].append(address)
        return held

    def _lives(self, name: str) -> bool:
        return name in self._lab.view().nodes

    def _wait_until_level(self) -> None:
        self._lab.wait_until_held(counts=even_counts(ADDRESSES, NODES, NODES))

    def _is_answered(self) -> bool:
        self._lab.record.update()
        return self._lab.record.answering(self._lab.plan.pool, within_s=0.03) == ADDRESSES

    def _note(self, name: str, value: float) -> None:
        self._figures[name].append(value)


def table(figures: dict[str, list[float]]) -> tuple[list[str], bool]:
    """The lines, and whether each median is within its bound."""
    width, is_good = max(map(len, figures)), True
    lines = [f"{'':{width}}  {'median':>9}  {'least':>8}  {'most':>8}  {'bound':>8}"]
    for name in (each for each in BOUNDS if each in figures):
        values, (unit, bound) = figures[name], BOUNDS[name]
        median = statistics.median(values)
        is_met = bound is None or median <= bound
        is_good = is_good and is_met
        low, high = min(values), max(values)
        shown = [f"{each:.{2 if unit == 's' else 0}f}" for each in (median, low, high)]
        lines.append(
            f"{name:{width}}  {shown[0]:>6} {unit:2}  {shown[1]:>8}  {shown[2]:>8}"
            f"  {'' if bound is None else f'{bound:g}':>8}" + ("" if is_met else "  MISSED")
        )
    return lines, is_good


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all values to this file, too")
    options = parser.parse_args(None if arguments is None else list(arguments))
    enter_private_network()
    figures: dict[str, list[float]] = defaultdict(list)
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds} ...", flush=True)
        plan = LabPlan(nodes=NODES, pool=pool_of(ADDRESSES), ttl_ms=5000, ping_every_ms=4)
        with Lab(plan) as lab:
            Round(lab, figures).run()
    lines, is_good = table(figures)
    print("\n".join(["", *lines]))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))
    return 0 if is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench: {error}")
