"""Never two, proven from the nodes' own records, and in agreement with who watched from outside."""

import json
import signal
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from yaim_helper.tools.audit import main
from yaim_helper.tools.verify import Damage

from tests.system.watch import Watch, never_two
from yaim.core.model import Address
from yaim.lab.cluster import Lab
from yaim.lab.node import LabNode

Interval: TypeAlias = tuple[float, float]

SEEN_WITHIN_S = 0.1
"""How late the watch may see what happens, if it is not held up (`Record.silences`)."""


def record_of(node: LabNode) -> Path:
    policy = yaml.safe_load((node.directory / "helper.yml").read_text())
    return Path(policy["audit-log"])


def timeline(capsys: Any, lab: Lab, *options: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    records = [str(record_of(node)) for node in lab.nodes.values()]
    status = main(["timeline", "--json", *options, *records])
    told = capsys.readouterr()
    assert told.err == "" or "intent without result" in told.err
    return status, json.loads(told.out)


def test_the_records_prove_that_no_address_was_ever_on_two_nodes(lab: Lab, capsys: Any) -> None:
    watch = Watch(lab)
    one, two, three = lab.nodes.values()
    one.break_service()
    lab.wait_until_held(by=[two.name, three.name])
    one.mend_service()
    lab.wait_until_held(counts=[2, 2, 2])
    two.signal(signal.SIGKILL, "helper")
    watch.wait_until_said("the helper has ended", [two])
    lab.wait_until_held(counts=[2, 2, 2])
    three.kill()
    lab.wait_until_held(by=[one.name, two.name])
    three.start()
    lab.wait_until_held(counts=[2, 2, 2])
    never_two(lab, watch, 1.0)
    for node in lab.nodes.values():
        assert main(["verify", str(record_of(node))]) in (0, Damage.NO_RESULT)
    asked_at = time.time()
    status, told = timeline(capsys, lab)
    assert status == 0
    names = f"{one.name}, {two.name} and {three.name}"
    assert told["verdict"].startswith(f"proven: never two, by the records of {names}, from ")
    told_until = wall(told["told"][-1])[1]
    assert told_until > asked_at - 10.0
    assert {each["address"] for each in told["addresses"]} == {str(a) for a in lab.plan.pool}
    for address in lab.plan.pool:
        (row,) = (each for each in told["addresses"] if each["address"] == str(address))
        until = wall(row["range"])[1]
        for name in lab.nodes:
            intervals = [each for each in row["spells"] if each["node"] == name]
            # On the interface it answers, or lies there muted.
            spans = [*(each["possible"] for each in intervals)]
            spans += [muted for each in intervals for muted in each["muted"]]
            possible = joined(map(wall, spans))
            sure = [wall(each) for interval in intervals for each in interval["sure"]]
            seen, at_most = seen_on(lab, name, address)
            assert is_within(seen, possible, until), (address, name)
            assert is_within(sure, at_most, until), (address, name)


def wall(interval: list[str]) -> Interval:
    start, end = (datetime.fromisoformat(each).timestamp() for each in interval)
    return start, end


def joined(intervals: Iterable[Interval]) -> list[Interval]:
    """Returns these intervals; those that touch are one."""
    found: list[Interval] = []
    for a, b in sorted(intervals):
        if found and a <= found[-1][1]:
            found[-1] = found[-1][0], max(b, found[-1][1])
        else:
            found.append((a, b))
    return found


def seen_on(lab: Lab, node: str, address: Address) -> tuple[list[Interval], list[Interval]]:
    """When the address was surely there, and when it may have been, as the watch has it; as the
    wall clock tells it. What the watch sees has happened since it looked before, which is long ago
    if the machine had no time for it."""
    lab.record.update()
    ahead = ahead_s()
    silences = lab.record.silences(SEEN_WITHIN_S / 2, 0.0, time.monotonic())
    surely: list[Interval] = []
    perhaps: list[Interval] = []
    since = None
    for change in lab.record.changes:
        if (change.node, change.address) == (node, address):
            at = change.at + ahead
            # Between two pings it looks at least once.
            held_up = (start for start, end in silences if start <= change.at <= end + 0.02)
            not_before = min(held_up, default=change.at) + ahead
            if change.is_there:
                since = not_before, at
            elif since is not None:
                perhaps.append((since[0], at))
                if since[1] < not_before:
                    surely.append((since[1], not_before))
                since = None
    if since is not None:
        perhaps.append((since[0], time.time()))
        surely.append((since[1], time.time()))
    return surely, perhaps


def ahead_s() -> float:
    """Returns how much the wall clock is ahead of CLOCK_MONOTONIC, by the reading that was least
    interrupted of some."""
    readings = [(time.monotonic(), time.time(), time.monotonic()) for _ in range(20)]
    before, wall, after = min(readings, key=lambda reading: reading[2] - reading[0])
    return wall - (before + after) / 2


def is_within(inner: list[Interval], outer: list[Interval], until: float) -> bool:
    """Whether it is within the others, as far as the record goes."""
    return all(
        any(a - SEEN_WITHIN_S <= c and min(d, until) <= b + SEEN_WITHIN_S for a, b in outer)
        for c, d in inner
        if c < until
    )
