"""What is known of a time at which something was wrong with an address: what had been done to the
nodes, what the kernels told, and what helpers and coordinators have written down."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain
from pathlib import Path

from bench.account import Incident
from yaim.lab.cluster import Lab
from yaim.lab.record import Interval

BEFORE_S, AFTER_S = 20.0, 3.0
"""How much around that time."""
MOST_LINES = 200

Told = tuple[float, str]
"""When, in seconds of CLOCK_MONOTONIC, and what."""


def evidence(lab: Lab, incidents: Sequence[Incident], interval: Interval) -> list[str]:
    """First what was done and what the kernels told, then what the nodes' logs and records say of
    it; each in order. Times are seconds after the interval's beginning."""
    start, end = interval.start - BEFORE_S, interval.end + AFTER_S
    changes = [c for c in lab.record.changes if c.address == interval.address]
    told: list[Told] = [
        (c.at, f"{c.node} kernel: {'has it' if c.is_there else 'has it no longer'}")
        for c in changes
    ]
    for incident in incidents:
        if incident.start < end and incident.end > start:
            where = "etcd" if incident.is_of_etcd else " ".join(sorted(incident.nodes))
            what = f"{where}: {incident.kind} {incident.address or ''}".rstrip()
            told += [(incident.start, f"FAULT {what}"), (incident.end, f"over: {what}")]
    written: list[Told] = []
    for name in _holders_around(lab, interval):
        directory = lab.nodes[name].directory
        written += ((at, f"{name} log: {text}") for at, text in _log(directory / "log"))
        written += (
            (at, f"{name} audit: {text}")
            for at, text in _audit(directory / "audit", str(interval.address))
        )
    shown = [*sorted(told), *sorted(written)]
    return [
        f"--- {interval.address}: wrong for {interval.length_s:.3f} s",
        *[f"{at - interval.start:+9.3f} {text}" for at, text in shown if start <= at <= end][
            :MOST_LINES
        ],
    ]


def _holders_around(lab: Lab, interval: Interval) -> list[str]:
    """The nodes that had it in that time, or last before it, or first after it."""
    changes = [c for c in lab.record.changes if c.address == interval.address]
    before = [c.node for c in changes if c.at <= interval.start][-3:]
    during = [c.node for c in changes if interval.start <= c.at <= interval.end]
    after = [c.node for c in changes if c.at >= interval.end][:2]
    return sorted({*before, *during, *after})


def _log(file: Path) -> Iterator[Told]:
    offset = time.monotonic() - time.time()
    for line in _lines(file):
        with suppress(ValueError):
            time_told, _, text = line.partition(" ")
            yield datetime.fromisoformat(time_told).timestamp() + offset, text


def _audit(directory: Path, address: str) -> Iterator[Told]:
    offset = time.monotonic() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for line in chain.from_iterable(map(_lines, sorted(directory.glob("audit-*.jsonl")))):
        with suppress(ValueError, KeyError):
            record = json.loads(line)
            if record.get("address") != address and record.get("type") not in _OF_ALL:
                continue
            told = {k: v for k, v in record.items() if k not in _NOT_TOLD}
            yield record["boottime_ns"] / 1e9 + offset, json.dumps(told)


_OF_ALL = ("start", "gap", "fence")
_NOT_TOLD = ("v", "boot_id", "host", "policy", "time", "boottime_ns", "address", "prev", "hash")


def _lines(file: Path) -> Iterable[str]:
    return file.read_text(errors="replace").splitlines() if file.exists() else ()
