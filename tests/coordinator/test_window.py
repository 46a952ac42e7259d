"""The window of `rebalance`, by a wall clock and a time zone that are set."""

import math
import time
from collections.abc import Callable, Iterator

import pytest

from yaim.coordinator.window import LOOK_EVERY_S, WindowWatch, next_look_s
from yaim.core.events import WindowObserved
from yaim.core.settings import Rebalance, Window

pytestmark = pytest.mark.quick

NIGHT = Window(2 * 60, 4 * 60)
ZONE = "CET-1CEST,M3.5.0,M10.5.0/3"
MARCH_29_2026, OCTOBER_25_2026 = 1_774_738_800, 1_792_879_200
"""Midnight of local time, on the days on which daylight saving time begins and ends."""


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Sets the wall clock, to seconds since the epoch."""
    monkeypatch.setenv("TZ", ZONE)
    localtime = time.localtime

    def set_clock(seconds: float) -> None:
        monkeypatch.setattr(time, "localtime", lambda: localtime(seconds))

    yield set_clock
    monkeypatch.undo()
    time.tzset()


def test_it_is_told_at_the_start_and_at_each_change(at: Callable[[float], None]) -> None:
    watch = WindowWatch()
    told = []
    for hour in (1.0, 1.99, 2.0, 3.99, 4.0, 26.0, 1.0):
        at(OCTOBER_25_2026 + 86_400 + 3600 + hour * 3600)
        told.append([each.is_open for each in watch.look(NIGHT)])
    assert told == [[False], [], [True], [], [False], [True], [False]]


def test_a_window_that_is_changed_is_looked_at_anew(at: Callable[[float], None]) -> None:
    at(OCTOBER_25_2026 - 3600)
    watch = WindowWatch()
    assert watch.look(Window(0, 60)) == [WindowObserved(is_open=False)]
    assert watch.look(Window(23 * 60, 0)) == [WindowObserved(is_open=True)]
    assert watch.look(Rebalance.NEVER) == []
    assert watch.look(Window(23 * 60, 0)) == [WindowObserved(is_open=True)]


def test_the_clock_on_the_wall_counts_when_daylight_saving_time_begins_and_ends(
    at: Callable[[float], None],
) -> None:
    def open_hours(midnight: int) -> float:
        """Quarters of hours in the first eight hours of a day."""
        found = 0
        for quarter in range(32):
            at(midnight + quarter * 900)
            found += WindowWatch().look(NIGHT) == [WindowObserved(is_open=True)]
        return found / 4

    assert (open_hours(MARCH_29_2026), open_hours(OCTOBER_25_2026)) == (1.0, 3.0)


def test_the_time_zone_may_change(
    at: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = WindowWatch()
    at(OCTOBER_25_2026 + 86_400 + 4 * 3600 + 600)
    assert watch.look(Window(3 * 60, 4 * 60)) == [WindowObserved(is_open=True)]
    monkeypatch.setenv("TZ", "UTC")
    assert watch.look(Window(3 * 60, 4 * 60)) == [WindowObserved(is_open=False)]
    assert watch.look(NIGHT) == [WindowObserved(is_open=True)]


def test_it_is_looked_at_twice_a_minute_where_there_is_a_window() -> None:
    assert next_look_s(NIGHT) == LOOK_EVERY_S == 30.0
    assert next_look_s(Rebalance.NEVER) == next_look_s(Rebalance.AUTO) == math.inf
