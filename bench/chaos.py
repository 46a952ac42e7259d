"""Chaos in network namespaces: a random fault every few seconds, watched from outside.

    python -m bench.chaos [--minutes 3] [--seed S] [--ttl 5000] [--json FILE] [--keep DIRECTORY]

Five nodes, three etcd members, 20 addresses, interval 1000. A client asks on the wire every 20 ms
who answers for each address (yaim/lab/wire.py) and pings it every 50 ms, and every node's kernel
address events are recorded. The same seed gives the same faults at the same times; what follows
from them is up to the machine.

Exit status 1 if two nodes answered for an address at once; if one was on interfaces of two nodes,
and the nodes have no fence; if none answered for longer than may be; or if the addresses are not
all held and spread evenly soon after the last fault.
"""

import argparse
import heapq
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from itertools import count
from pathlib import Path

from bench.account import (
    Incident,
    Uncovered,
    expected,
    is_beyond_bound,
    longest_gaps,
    uncovered,
)
from bench.evidence import evidence
from bench.faults import KINDS, Disturbs, Fault, Stage, Steps, Target, plan, resources
from yaim.lab.cluster import Lab
from yaim.lab.etcd import EtcdPlan
from yaim.lab.namespaces import LabError, enter_private_network
from yaim.lab.plan import LabPlan, even_counts, pool_of
from yaim.lab.record import Interval

POOL = (*pool_of(14), *(ip_address("2001:db8::11") + number for number in range(6)))
INTERVAL_MS = 1000
PING_EVERY_MS = 50
PROBE_EVERY_MS = 20
FLAP_MAX_WAIT_MS = 5000
"""So short that a node whose service flaps takes part again soon, and in the end has its share."""
START_WITHIN_S = 60.0
STILL_S = 1.0
"""If no ping is sent for so long, the machine has stood still for everybody."""
STOOD_STILL = "(the machine stood still)"
SILENT_S = 120.0
"""The observer, if it writes nothing for so long, sees nothing."""
MOST_EVIDENCE = 3
"""The most intervals in which something was wrong that are shown with evidence."""


def settle_s(ttl_ms: int) -> float:
    """How long a node must have been well to be expected to have taken what nobody holds: the ttl,
    until the lease of the one that had it ends; 0.5 s, until etcd notices; 3 s for a new leader of
    etcd, which extends all leases by a second; 1.5 s to claim and to add on a busy machine."""
    return ttl_ms / 1000 + 5.0


def even_within_s(ttl_ms: int) -> float:
    """After the last fault."""
    return 2 * ttl_ms / 1000 + FLAP_MAX_WAIT_MS / 1000 + 10.0


@dataclass(frozen=True, slots=True)
class Report:
    """All there is to say. Seconds are summed over the addresses."""

    seed: int
    minutes: float
    ttl_ms: int
    faults: Mapping[str, int]
    """Kind to how many happened."""
    skipped: int
    has_fences: bool
    wire_overlap_s: float
    """Two nodes answered for an address."""
    interfaces_overlap_s: float
    """It was on interfaces of two nodes, muted or not."""
    muted_s: float
    """It was on an interface, and the node did not answer for it."""
    uncovered: Uncovered
    expected_share: float
    """The part of the time in which addresses could be expected to be held."""
    stood_still_s: float
    """Seconds in which the machine had no time for the observer either."""
    moves: int
    longest_gap_s: Mapping[str, float]
    """Kind of fault to the longest time without an answer to the client."""
    even_after_s: float | None
    """The time from the end of the last fault until all was held and spread evenly; None: not in
    time."""
    evidence: Sequence[str]
    """What happened around what must not be."""

    @property
    def overlap_s(self) -> float:
        """What must not be."""
        if self.has_fences:
            return self.wire_overlap_s
        return max(self.wire_overlap_s, self.interfaces_overlap_s)

    @property
    def is_good(self) -> bool:
        return not (self.overlap_s or self.uncovered.beyond_bound_s or self.even_after_s is None)

    def _happened(self) -> int:
        return sum(times for kind, times in self.faults.items() if kind != STOOD_STILL)

    def lines(self) -> list[str]:
        """Two tables in Markdown."""
        even = "no" if self.even_after_s is None else f"after {self.even_after_s:.1f} s"
        bound = f"after {settle_s(self.ttl_ms):g} s"
        summary = [
            ("figure", "value"),
            ("minutes", f"{self.minutes:g}"),
            ("seed", f"{self.seed}"),
            ("ttl", f"{self.ttl_ms} ms"),
            ("faults (and skipped)", f"{self._happened()} ({self.skipped})"),
            ("fence in force", "yes" if self.has_fences else "no"),
            ("overlap on the wire", f"{self.wire_overlap_s:.1f} s"),
            ("overlap on interfaces, muted or not", f"{self.interfaces_overlap_s:.1f} s"),
            ("muted on an interface", f"{self.muted_s:.1f} s"),
            ("uncovered, in all", f"{self.uncovered.in_all_s:.1f} s"),
            (
                "uncovered while a node and etcd were well",
                f"{self.uncovered.while_expected_s:.1f} s",
            ),
            (f"the same, {bound}", f"{self.uncovered.beyond_bound_s:.1f} s"),
            ("share of time that a node and etcd were well", f"{self.expected_share:.0%}"),
            ("time that the machine stood still", f"{self.stood_still_s:.1f} s"),
            ("moves", f"{self.moves}"),
            ("held and even at the end", even),
        ]
        kinds = sorted(self.faults.keys() | self.longest_gap_s.keys())
        faults = [
            ("fault", "times", "longest client gap"),
            *(
                (kind, str(self.faults.get(kind, "")), _gap(self.longest_gap_s.get(kind, 0.0)))
                for kind in kinds
            ),
        ]
        return [*_table(summary), "", *_table(faults)]


def _gap(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds else "-"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *body = (
        f"| {' | '.join(f'{cell:{w}}' for cell, w in zip(row, widths, strict=True))} |"
        for row in rows
    )
    return [head, f"|{'|'.join('-' * (width + 2) for width in widths)}|", *body]


@dataclass(slots=True)
class _Running:
    """A fault that has begun."""

    fault: Fault
    stage: Stage
    steps: Steps
    start: float


class Chaos:
    """Lets the faults happen to a lab; what has happened is in `incidents`."""

    def __init__(self, lab: Lab, faults: Sequence[Fault]) -> None:
        self._lab = lab
        self._faults = faults
        self._due: list[tuple[float, int, _Running]] = []
        """When each that is under way goes on."""
        self._numbers = count()
        self.incidents: list[Incident] = []
        self.skipped = 0

    def run(self) -> None:
        """Plays the faults, and returns when the last one is over."""
        start = time.monotonic()
        for fault in self._faults:
            self._go_on_until(start + fault.at_s)
            late_s = time.monotonic() - start - fault.at_s
            if late_s > STILL_S:
                # Not all at once that should have happened one by one.
                start += late_s
            self._begin(fault)
        while self._due:
            self._go_on_until(self._due[0][0])

    def _go_on_until(self, until: float) -> None:
        while True:
            now = time.monotonic()
            self._lab.record.update()
            if now - self._lab.record.last_sent_at() > SILENT_S:
                raise LabError("the observer is silent")
            if self._due and self._due[0][0] <= now:
                _, _, running = heapq.heappop(self._due)
                self._step(running)
            elif now >= until:
                return
            else:
                next_at = min(until, self._due[0][0] if self._due else until)
                time.sleep(min(0.5, max(0.0, next_at - now)))

    def _begin(self, fault: Fault) -> None:
        stage = Stage(self._lab, fault)
        running = _Running(fault, stage, fault.kind.act(stage), time.monotonic())
        wanted = resources(fault.kind, fault.node)
        if any(wanted & resources(r.fault.kind, r.fault.node) for _, _, r in self._due):
            # Another one has lasted longer than planned.
            self.skipped += 1
            return
        try:
            self._step(running)
        except LabError:
            self.skipped += 1

    def _step(self, running: _Running) -> None:
        try:
            wait_s = next(running.steps)
        except StopIteration:
            self.incidents.append(_incident(running, self._lab.nodes, time.monotonic()))
        else:
            heapq.heappush(self._due, (time.monotonic() + wait_s, next(self._numbers), running))


def _incident(running: _Running, nodes: Mapping[str, object], end: float) -> Incident:
    fault = running.fault
    kind = fault.kind
    is_everywhere = kind.target is Target.ALL_SERVICES
    return Incident(
        kind.text,
        running.start,
        end,
        frozenset(nodes) if is_everywhere else frozenset({fault.node} - {""}),
        kind.target is Target.ETCD,
        running.stage.address,
        {
            Disturbs.NEVER: None,
            Disturbs.AT_ITS_START: running.start,
            Disturbs.WHILE_IT_LASTS: end,
        }[kind.disturbs],
    )


def run(minutes: float, seed: int, ttl_ms: int, keep: Path | None = None) -> Report:
    """Raises LabError if the lab itself does not work."""
    lab_plan = LabPlan(
        nodes=5,
        pool=POOL,
        interval_ms=INTERVAL_MS,
        ttl_ms=ttl_ms,
        ping_every_ms=PING_EVERY_MS,
        probe_every_ms=PROBE_EVERY_MS,
        etcd=EtcdPlan(members=3),
        settings={"flap-max-wait": FLAP_MAX_WAIT_MS},
    )
    with Lab(lab_plan) as lab:
        try:
            return _run_in(lab, minutes, seed)
        finally:
            if keep is not None:
                # All but etcd's data.
                but = shutil.ignore_patterns("member")
                shutil.copytree(lab.directory, keep, dirs_exist_ok=True, ignore=but)


def _run_in(lab: Lab, minutes: float, seed: int) -> Report:
    ttl_ms, nodes = lab.plan.ttl_ms, list(lab.nodes)
    for node in lab.nodes.values():
        node.start()
    counts = even_counts(len(POOL), len(nodes), len(nodes))
    lab.wait_until_held(counts=counts, within_s=START_WITHIN_S)
    since = time.monotonic()
    chaos = Chaos(lab, plan(seed, minutes, nodes))
    chaos.run()
    last = time.monotonic()
    even_after_s: float | None = None
    trouble: list[str] = []
    try:
        lab.wait_until_held(counts=counts, within_s=even_within_s(ttl_ms))
        even_after_s = time.monotonic() - last
    except LabError as error:
        trouble = str(error).splitlines()
    time.sleep(2.0)
    until = time.monotonic()
    lab.wait_for_answers_until(until)
    return _report(lab, chaos, minutes, seed, (since, until), even_after_s, trouble)


def _report(
    lab: Lab,
    chaos: Chaos,
    minutes: float,
    seed: int,
    whole: tuple[float, float],
    even_after_s: float | None,
    trouble: Sequence[str],
) -> Report:
    since, until = whole
    record, pool = lab.record, set(POOL)
    settle = settle_s(lab.plan.ttl_ms)
    silences = record.silences(STILL_S, since, until)
    still = [
        Incident(STOOD_STILL, start, end, frozenset(lab.nodes), True, None, end)
        for start, end in silences
    ]
    incidents = [*chaos.incidents, *still]
    due = expected(incidents, lab.nodes, whole, settle)
    has_fences = lab.has_fences
    on_the_wire = record.wire_overlaps(pool, since, until)
    on_interfaces = record.overlaps(pool, since, until)
    alone = record.unanswered(pool, since, until)
    wrong = [
        *on_the_wire,
        *(() if has_fences else on_interfaces),
        *(interval for interval in alone if is_beyond_bound(interval, incidents, due, settle)),
    ]
    gaps = longest_gaps(
        (gap for address in POOL for gap in record.gaps(address, since, until)),
        record.changes,
        incidents,
        settle,
        slack_s=2 * PING_EVERY_MS / 1000 + 0.1,
    )
    _write_evidence(lab, incidents, gaps)
    return Report(
        seed,
        minutes,
        lab.plan.ttl_ms,
        dict(Counter(incident.kind for incident in incidents)),
        chaos.skipped,
        has_fences,
        sum(interval.length_s for interval in on_the_wire),
        sum(interval.length_s for interval in on_interfaces),
        sum(interval.length_s for interval in record.muted(pool, since, until)),
        uncovered(alone, incidents, due, settle),
        sum(end - start for start, end in due) / (until - since),
        sum(end - start for start, end in silences),
        record.moves(pool, since, until),
        {kind: gap.length_s for kind, gap in gaps.items()},
        even_after_s,
        [
            *trouble,
            *(
                line
                for interval in wrong[:MOST_EVIDENCE]
                for line in evidence(lab, incidents, interval)
            ),
        ],
    )


def _write_evidence(lab: Lab, incidents: Sequence[Incident], gaps: Mapping[str, Interval]) -> None:
    """Into the lab's directory: all that was done, and what happened around the longest gaps."""
    done = [f"{i.start:.3f} {i.end:.3f} {i.kind} {' '.join(i.nodes)}" for i in incidents]
    (lab.directory / "faults").write_text("\n".join(done))
    told = [
        line
        for kind, gap in sorted(gaps.items())
        for line in (f"=== {kind}", *evidence(lab, incidents, gap))
    ]
    (lab.directory / "longest-gaps").write_text("\n".join(told))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--ttl", type=int, default=5000, help="in milliseconds")
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")
    parser.add_argument("--keep", type=Path, help="copy all logs and records to this directory")
    options = parser.parse_args()
    enter_private_network()
    print(
        f"{len(KINDS)} kinds of faults for {options.minutes:g} minutes;"
        f" the same again: --seed {options.seed} --ttl {options.ttl}",
        flush=True,
    )
    report = run(options.minutes, options.seed, options.ttl, options.keep)
    for line in (*report.evidence, "", *report.lines()):
        print(line)
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(report), indent=2))
    return 0 if report.is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"chaos: {error}")
