"""Jumps of the wall clock, on readings made up; and being woken, on a timer of the real kernel."""

import ctypes
import struct
from threading import Event

import pytest

from yaim.host.clock_jumps import Clocks, Reading, read_clocks, watch_clock
from yaim.lab.wait import wait_until

ADJ_SETOFFSET = 0x100
SIZE_OF_TIMEX = 208
TIME_IN_TIMEX = 72


def jumps(*readings: Reading) -> list[float]:
    left = list(readings)
    clocks = Clocks(lambda: left.pop(0))
    return [round(clocks.jump_s(), 3) for _ in readings]


def at(boottime: float, wall: float, took: float = 0.0) -> Reading:
    return Reading(boottime, wall, boottime + took)


def test_clocks_that_go_on_together_do_not_jump() -> None:
    assert jumps(at(10, 1010), at(11, 1011), at(500, 1500)) == [0, 0, 0]


def test_a_wall_clock_set_forward_is_a_jump_once() -> None:
    assert jumps(at(10, 1010), at(11, 1031), at(12, 1032)) == [0, 20, 0]


def test_several_jumps_are_told_each() -> None:
    assert jumps(at(10, 1010), at(11, 1031), at(12, 1033)) == [0, 20, 1]


def test_a_wall_clock_set_back_is_no_jump_and_hides_none() -> None:
    assert jumps(at(10, 1010), at(11, 911), at(12, 917)) == [0, 0, 5]


def test_small_corrections_are_a_jump_when_they_add_up() -> None:
    assert jumps(at(10, 1010), at(11, 1011.04), at(12, 1012.08)) == [0, 0, 0.08]


@pytest.mark.parametrize(
    "stopped",
    [Reading(11, 1011, 31), Reading(11, 1031, 31)],
    ids=["after the wall clock was read", "before"],
)
def test_being_stopped_between_two_readings_is_no_jump(stopped: Reading) -> None:
    assert jumps(at(10, 1010), stopped, at(32, 1032)) == [0, 0, 0]


def test_a_jump_is_found_although_the_reading_was_interrupted() -> None:
    assert jumps(at(10, 1010), Reading(11, 1031, 11.5), at(12, 1032)) == [0, 19.5, 0.5]


def test_the_real_clocks_do_not_jump() -> None:
    clocks = Clocks()
    assert {clocks.jump_s() for _ in range(1000)} == {0.0}
    assert read_clocks().before <= read_clocks().after


def test_setting_the_clock_wakes_the_watch() -> None:
    """The machine's clock, by a millionth of a second and back again: adjtimex(2). It is the same
    for tests that run beside, of which one does this, too."""
    woken = Event()
    watch_clock(woken.set)
    for seconds, microseconds in ((0, 1), (-1, 999_999)):
        wait_until(lambda: is_left_alone(woken), 30.0, "nothing to wake it")
        timex = ctypes.create_string_buffer(SIZE_OF_TIMEX)
        struct.pack_into("I", timex, 0, ADJ_SETOFFSET)
        struct.pack_into("qq", timex, TIME_IN_TIMEX, seconds, microseconds)
        assert ctypes.CDLL(None).adjtimex(timex) >= 0
        assert woken.wait(20.0)


def is_left_alone(woken: Event) -> bool:
    woken.clear()
    return not woken.wait(0.2)
