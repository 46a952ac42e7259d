"""A host that was paused, suspended, or whose clock was set."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from yaim_helper.clock import LEAST_JUMP_S, ClockSet, Jumps, Timer

from tests.helper.network import INTERFACE, boottime, capturing, is_readable, present, shown
from tests.helper.process import (
    DEPRECATED,
    OK_ABSENT,
    Client,
    Helper,
    add,
    deadline_in,
    essence,
    leave,
    refused,
    running,
)
from yaim.lab.namespaces import Namespace

V4, V6 = "192.0.2.10", "2001:db8::10"
FAKETIME = "/usr/$LIB/faketime/libfaketime.so.1"
"""ld.so(8) knows what $LIB is."""


# --- jumps -------------------------------------------------------------------------------------


def taken(*readings: tuple[float, float, float]) -> list[float]:
    """What each of these readings of both clocks is taken for."""
    left = iter(readings)
    jumps = Jumps(lambda: next(left))
    return [round(jumps.take_s(), 6) for _ in readings]


def tight(now: float, offset: float) -> tuple[float, float, float]:
    return now, now + offset, now


def test_a_clock_that_runs_with_the_other_does_not_jump() -> None:
    assert taken(*(tight(now, 1000.0) for now in (1.0, 2.0, 3600.0))) == [0.0] * 3


def test_a_jump_forward_is_told_once() -> None:
    readings = tight(1.0, 1000.0), tight(2.0, 1003.0), tight(3.0, 1003.0), tight(4.0, 1003.1)
    assert taken(*readings) == [0.0, 3.0, 0.0, 0.1]


def test_a_jump_backward_is_none_but_the_way_back_is_one() -> None:
    readings = tight(1.0, 1000.0), tight(2.0, 900.0), tight(3.0, 900.0), tight(4.0, 1000.0)
    assert taken(*readings) == [0.0, 0.0, 0.0, 100.0]


def test_small_jumps_add_up() -> None:
    readings = [tight(n, 1000.0 + 0.02 * n) for n in range(6)]
    assert LEAST_JUMP_S == 0.05
    assert taken(*readings) == [0.0, 0.0, 0.0, 0.06, 0.0, 0.0]


@pytest.mark.parametrize("before_wall_s", [0.0, 1.5, 3.0])
def test_to_be_stopped_between_the_readings_is_no_jump(before_wall_s: float) -> None:
    stopped = 10.0, 1010.0 + before_wall_s, 13.0
    assert taken(tight(1.0, 1000.0), stopped, tight(14.0, 1000.0)) == [0.0] * 3
    assert taken(stopped, tight(14.0, 1000.0), tight(15.0, 1000.0)) == [0.0] * 3


def test_a_jump_is_seen_also_by_who_was_stopped_between_the_readings() -> None:
    stopped_before = 10.0, 1063.0, 13.0
    stopped_after = 10.0, 1060.0, 13.0
    assert taken(tight(1.0, 1000.0), stopped_before, tight(14.0, 1050.0)) == [0.0, 50.0, 0.0]
    assert taken(tight(1.0, 1000.0), stopped_after, tight(14.0, 1050.0)) == [0.0, 47.0, 3.0]


def test_the_clocks_of_this_host_do_not_jump() -> None:
    jumps = Jumps()
    assert [jumps.take_s() for _ in range(1000)] == [0.0] * 1000


# --- timers ------------------------------------------------------------------------------------


def test_a_timer_is_readable_from_its_instant_on_until_it_is_set_anew() -> None:
    timer = Timer()
    assert not is_readable(timer)
    at = boottime() + 0.05
    timer.set(at)
    assert is_readable(timer, 20.0)
    assert boottime() >= at
    assert is_readable(timer)
    timer.set(boottime() + 60.0)
    assert not is_readable(timer)
    timer.set(-1.0)
    assert is_readable(timer)


def fdinfo(timer: Timer | ClockSet) -> str:
    return Path(f"/proc/self/fdinfo/{timer.fileno()}").read_text()


def test_the_kernel_is_asked_to_tell_when_the_clock_is_set() -> None:
    """More cannot be tried: there is one such clock for all of the machine."""
    clock_set = ClockSet()
    assert "clockid: 0\n" in fdinfo(clock_set)
    assert "settime flags: 03\n" in fdinfo(clock_set)
    assert "clockid: 7\n" in fdinfo(Timer())
    clock_set.take()
    assert not is_readable(clock_set)


def test_what_the_kernel_refuses_is_an_error() -> None:
    timer = Timer()
    os.close(timer.fileno())
    with pytest.raises(OSError) as raised:
        timer.set(1.0)
    assert raised.value.errno == errno.EBADF


def test_a_timer_that_the_kernel_does_not_make_is_an_error() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="timerfd_create: Too many open files"):
            Timer()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# --- what the helper does ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Paused:
    """A helper for which the host's wall clock can be set."""

    helper: Helper
    offset: Path

    def set_clock(self, ahead_s: float) -> None:
        """Sets the clock by so much ahead of the machine's. It counts at once: it is read with each
        look at the clock."""
        new = self.offset.with_suffix(".new")
        new.write_text(f"{ahead_s:+f}\n")
        new.rename(self.offset)

    def jumps(self) -> list[float]:
        return [each["jump_s"] for each in self.helper.records() if each["type"] == "clock"]

    def own_doings(self) -> list[tuple[str, str]]:
        return [
            (each["address"], each["outcome"])
            for each in essence(self.helper.records())
            if each["type"] == "own"
        ]


@pytest.fixture
def paused(network: Namespace, tmp_path: Path) -> Iterator[Paused]:
    with paused_in(network, tmp_path) as paused:
        yield paused


@contextmanager
def paused_in(network: Namespace, tmp_path: Path) -> Iterator[Paused]:
    offset = tmp_path / "offset"
    offset.write_text("+0\n")
    faketime = {
        "LD_PRELOAD": FAKETIME,
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        # Else a thread that waits on the monotonic clock waits too long.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }
    around = ("env", *(f"{name}={value}" for name, value in faketime.items()))
    with running(network, tmp_path, around=around) as helper:
        yield Paused(helper, offset)


def wake(client: Client) -> None:
    """The helper looks at the clock, unless it has done so already and hung up."""
    with suppress(BrokenPipeError):
        client.send("list", after="")


WHY = "the clock jumped by {:.3f} s: the host may have been paused"


def test_what_a_pause_has_outlived_is_removed_before_anything_else_is_done(
    network: Namespace, paused: Paused
) -> None:
    with paused.helper.greeted() as client, capturing(network) as capture:
        for each in (V4, V6):
            assert client.add(each, deadline_ns=deadline_in(30)) == OK_ABSENT
        with paused.helper.stopped():
            client.send("renew", deadline_ns=deadline_in(60))
            client.send("announce", address=V4)
            client.send("add", **add("192.0.2.11"))
            paused.set_clock(40)
            capture.frames()
        assert client.is_hung_up()
        assert present(network) == []
        assert capture.announced() == []
    (jump_s,) = paused.jumps()
    assert jump_s == pytest.approx(40, abs=LEAST_JUMP_S)
    assert paused.own_doings() == [
        (address, outcome)
        for address in (V4, V6)
        for outcome in (f"{WHY.format(jump_s)}: removing", "removed")
    ]
    hung_up = [each for each in paused.helper.records() if each["type"] == "hung-up"]
    assert [each["reason"] for each in hung_up] == [WHY.format(jump_s)]
    with paused.helper.greeted() as client:
        assert client.add(V4) == OK_ABSENT
        assert client.renew(deadline_in(60)) == {"result": "ok", "missing": []}


def test_every_deadline_is_nearer_by_as_much_as_the_host_was_paused(
    network: Namespace, paused: Paused
) -> None:
    deadline_ns = deadline_in(60)
    with paused.helper.greeted() as client:
        for each in (V4, V6):
            assert client.add(each, deadline_ns=deadline_ns) == OK_ABSENT
        assert all(each["valid_life_time"] > 40 for each in shown(network))
        paused.set_clock(20)
        wake(client)
        assert client.is_hung_up()
    with paused.helper.greeted() as client:
        deadlines = {each["deadline_ns"] for each in client.list()["addresses"]}
        (nearer_ns,) = {deadline_ns - each for each in deadlines}
        assert nearer_ns / 1e9 == pytest.approx(20, abs=LEAST_JUMP_S)
        assert all(each["valid_life_time"] < 35 for each in shown(network))
        assert client.renew(deadline_in(60)) == {"result": "ok", "missing": []}
        assert all(each["valid_life_time"] > 40 for each in shown(network))
    assert len(paused.jumps()) == 1


def test_what_has_no_lifetime_short_enough_after_a_pause_is_removed(
    network: Namespace, paused: Paused
) -> None:
    with paused.helper.greeted() as client:
        assert client.add(V4, deadline_ns=deadline_in(20)) == OK_ABSENT
        assert client.add(V6, deadline_ns=deadline_in(40)) == OK_ABSENT
        paused.set_clock(17.9)
        wake(client)
        assert client.is_hung_up()
        assert [each["local"] for each in shown(network)] == [V6]


def test_what_an_earlier_life_left_does_not_outlive_a_pause(
    network: Namespace, tmp_path: Path
) -> None:
    leave(network, tmp_path, f"{V4}/32")
    with paused_in(network, tmp_path) as paused, paused.helper.greeted() as client:
        paused.set_clock(20)
        wake(client)
        assert client.is_hung_up()
    assert present(network) == []
    told = [each for each in paused.helper.records() if each["type"] == "own"]
    assert [(each["uid"], each["cluster"]) for each in told] == [(0, "test")] * 2
    assert [each["outcome"] for each in told][1:] == ["removed"]


def test_what_the_host_has_deprecated_stays_when_the_clock_is_set(
    network: Namespace, tmp_path: Path
) -> None:
    """It could be an address of a router that has withdrawn its prefix, in a network that is
    allowed."""
    before, after = f"{V6}/128", f"{V4}/32"
    network.run("ip", "address", "add", before, "dev", INTERFACE, *DEPRECATED)
    with paused_in(network, tmp_path) as paused:
        network.run("ip", "address", "add", after, "dev", INTERFACE, *DEPRECATED)
        with paused.helper.greeted() as client:
            paused.set_clock(0.2)
            wake(client)
            assert client.is_hung_up()
        with paused.helper.greeted() as client:
            assert client.list()["addresses"] == []
            assert [refused(client.add(each)) for each in (V4, V6)] == ["foreign"] * 2
        assert paused.jumps() == [pytest.approx(0.2, abs=LEAST_JUMP_S)]
    assert present(network) == [f"{INTERFACE} {after}", f"{INTERFACE} {before}"]
    assert paused.own_doings() == []


def test_a_clock_that_is_set_back_changes_nothing(network: Namespace, paused: Paused) -> None:
    deadline_ns = deadline_in(60)
    with paused.helper.greeted() as client:
        assert client.add(V4, deadline_ns=deadline_ns) == OK_ABSENT
        paused.set_clock(-3600)
        (it,) = client.list()["addresses"]
        assert it["deadline_ns"] == deadline_ns
    assert paused.jumps() == []
