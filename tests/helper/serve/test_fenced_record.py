"""What a helper with a fence records, and what its judge makes of it: what was answered on the
wire meanwhile lies between what is surely and what is possibly so."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from yaim_helper.protocol import Address
from yaim_helper.record.chain import MARKER
from yaim_helper.tools.coverage import Interval
from yaim_helper.tools.history import History
from yaim_helper.tools.intervals import HeldInterval
from yaim_helper.tools.records import open_chain
from yaim_helper.tools.verify import Verification

from tests.helper.client import V4, V6, Client, Pings, neighbour, pinging
from tests.helper.network import boottime, wait_for
from tests.helper.process import Client as Asker
from tests.helper.process import (
    deadline_in,
    policy,
    running,
)
from yaim.lab.namespaces import Namespace

LOST_S = 0.02
"""For so long requests may be lost that are sent when an address answers."""
ROUNDING_S = 0.002
"""What the record tells of two clocks differs by less."""


@pytest.fixture
def client(network: Namespace) -> Iterator[Client]:
    with neighbour(network) as client:
        yield client


class Judged(NamedTuple):
    """What the record of one helper tells, in seconds of CLOCK_BOOTTIME."""

    intervals: list[HeldInterval]
    ahead_us: int
    """By how much the wall clock was ahead."""

    def of(self, interval: Interval) -> tuple[float, float]:
        start, end = ((each - self.ahead_us) / 1e6 for each in interval)
        return start, end

    def about(self, address: Address) -> list[HeldInterval]:
        return [each for each in self.intervals if each.address == str(address)]


def judged(audit_log: Path) -> Judged:
    findings: list[object] = []
    verification = Verification(open_chain(audit_log), findings.append)
    history = History("here")
    ahead_us = 0
    for record in verification.records():
        ahead_us = record.at - record.boottime_ns // 1000
        history.take(record)
    history.finish(verification.marker)
    assert findings == []
    return Judged(history.intervals, ahead_us)


def agrees(found: Judged, pings: Pings, address: Address) -> None:
    """Whatever was answered was possible; what is sure was answered; what was muted was not."""
    intervals = found.about(address)
    possible = [found.of(each.possible) for each in intervals]
    for at in pings.answered[address]:
        assert any(a - ROUNDING_S <= at <= b + ROUNDING_S for a, b in possible), (at, possible)
    for start, end in (found.of(part) for each in intervals for part in each.sure):
        if end - start >= LOST_S:
            assert pings.longest_silence_s(address, start, end) < LOST_S, (start, end)
    for start, end in (found.of(each.muted) for each in intervals if each.muted is not None):
        assert not [at for at in pings.answered[address] if start < at < end - ROUNDING_S]


def put(asks: Asker, address: Address, life_s: float) -> None:
    """Asks again while the kernel does not answer: others may hold its routing lock."""
    while (reply := asks.add(str(address), deadline_ns=deadline_in(life_s)))["result"] != "ok":
        assert reply["result"] == "failed"


def take_off(asks: Asker, address: Address) -> None:
    while (reply := asks.remove(str(address)))["result"] != "ok":
        assert reply["result"] == "failed"


def renew_for(asks: Asker, seconds: float, life_s: float) -> float:
    """Renews again and again, and returns the last deadline."""
    until = boottime() + seconds
    while True:
        deadline = deadline_in(life_s)
        assert asks.renew(deadline)["result"] == "ok"
        if boottime() >= until:
            return deadline / 1e9
        time.sleep(0.1)


def sure_s(found: Judged, address: Address) -> float:
    parts = [found.of(part) for each in found.about(address) for part in each.sure]
    return sum(b - a for a, b in parts)


def test_what_a_frozen_helper_held_is_judged_as_it_was_answered(
    network: Namespace, tmp_path: Path, client: Client
) -> None:
    config = policy(tmp_path / "audit", fence="auto")
    with pinging(network, V4, V6) as pings, running(network, tmp_path, config=config) as helper:
        with helper.greeted() as asks:
            put(asks, V4, 2.0)
            put(asks, V6, 20.0)
            until = renew_for(asks, 0.8, 1.0)
            with helper.stopped():
                time.sleep(until + 0.6 - boottime())
            wait_for(lambda: not asks.list()["addresses"], "what is over is removed")
            put(asks, V4, 9.0)
            # It is nearer, and counts for both.
            put(asks, V6, 1.0)
            with helper.stopped():
                time.sleep(1.5)
            wait_for(lambda: len(asks.list()["addresses"]) == 1, "what is over is removed")
            time.sleep(0.3)
            take_off(asks, V4)
        assert helper.end() == 0
        time.sleep(0.1)
    found = judged(tmp_path / "audit")
    for each in (V4, V6):
        agrees(found, pings, each)
    assert [each.muted is not None for each in found.about(V6)] == [True, True]
    assert found.of(found.about(V4)[0].possible)[1] < until + 0.06
    assert sure_s(found, V4) > 2.0


def test_what_is_held_through_a_restart_is_judged_as_it_was_answered(
    network: Namespace, tmp_path: Path, client: Client
) -> None:
    """One address is taken over in time; what was added last had the nearest deadline, and the
    renewal before it does not count."""
    config = policy(tmp_path / "audit", fence="auto")
    with pinging(network, V4, V6) as pings:
        with running(network, tmp_path, config=config) as first, first.greeted() as asks:
            put(asks, V4, 2.0)
            renew_for(asks, 0.5, 9.0)
            put(asks, V6, 3.0)
            nearest = boottime() + 3.0
            first.wait_until_written()
            first.end(signal.SIGKILL)
        with running(network, tmp_path, config=config) as second, second.greeted() as asks:
            time.sleep(max(0.0, nearest + 0.3 - boottime()))
            put(asks, V4, 9.0)
            last = renew_for(asks, 0.5, 2.0)
            second.wait_until_written()
            second.end(signal.SIGKILL)
        with running(network, tmp_path, config=config) as third, third.greeted() as asks:
            put(asks, V4, 9.0)
            assert boottime() < last, "too slow: it was to be taken over in time"
            time.sleep(max(0.0, last + 0.3 - boottime()))
            take_off(asks, V4)
            assert third.end() == 0
    found = judged(tmp_path / "audit")
    for each in (V4, V6):
        agrees(found, pings, each)
    for each in (V4, V6):
        ends = [found.of(part)[1] for held in found.about(each) for part in held.sure]
        assert not [end for end in ends if nearest + 0.01 < end < nearest + 0.25]
    assert max(b - a for a, b in map(found.of, found.about(V4)[-1].sure)) > 1.5


def test_the_marker_tells_until_when_the_fence_lets_addresses_answer_at_least(
    network: Namespace, tmp_path: Path
) -> None:
    """It is written before the renewal is done: what is in force then, or a nearer deadline."""
    config = policy(tmp_path / "audit", fence="auto")
    with running(network, tmp_path, config=config) as helper, helper.greeted() as asks:
        put(asks, V4, 30.0)
        (before,) = [each["deadline_ns"] for each in asks.list()["addresses"]]
        for life_s, is_nearer in ((60.0, False), (10.0, True)):
            deadline = deadline_in(life_s)
            assert asks.renew(deadline)["result"] == "ok"
            helper.wait_until_written()
            (owner,) = json.loads((tmp_path / "audit" / MARKER).read_bytes())["owners"]
            expected = (deadline, deadline) if is_nearer else (deadline, before)
            assert (owner["deadline_ns"], owner["live_ns"]) == expected
