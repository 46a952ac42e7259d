"""The clock of all deadlines, timers on it, and what tells that it stood still.

epoll's own timeout does not count the time in which the host was suspended; a timer on
CLOCK_BOOTTIME does (timerfd_create(2)). No clock counts the time in which a virtual machine was
paused, but afterwards the wall clock is put right: its jump is all that there is to see of that.
"""

import ctypes
import math
import os
import time
from collections.abc import Callable

LEAST_JUMP_S = 0.05
TIGHT_S = 0.001
"""Readings of a clock between which so much has passed say when a third was made."""

_TFD_NONBLOCK, _TFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2
_FAR_AWAY_S = 2**33
_libc = ctypes.CDLL("libc.so.6", use_errno=True)
_timerfd_create, _timerfd_settime = _libc.timerfd_create, _libc.timerfd_settime
"""Python has them from 3.13 on."""
_itimerspec = ctypes.c_long * 4
"""Interval and value, seconds and nanoseconds."""


def boottime() -> float:
    """Returns the seconds of CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


STAMPS_LATE_S = 2.0
"""The kernel's stamps of addresses are behind CLOCK_MONOTONIC by no more than this. They count in
jiffies, which begin at the boot a moment later than that clock: 0.2 s, for example."""
_STAMP_AHEAD_S = 1.0
"""A stamp is ahead of that clock by less than this, because of rounding."""
_STAMPS = 2**32
"""The number of different stamps: after 497 days they begin again."""


def since_stamp_s(stamp: int) -> float:
    """Returns how long ago an address was put there, as the kernel's stamp tells it (struct
    ifa_cacheinfo, cstamp: hundredths of a second of jiffies, which stand still while the host is
    suspended, as CLOCK_MONOTONIC does). In truth it was up to STAMPS_LATE_S later. What is older
    than stamps can tell seems younger."""
    now = time.clock_gettime(time.CLOCK_MONOTONIC) + _STAMP_AHEAD_S
    return (round(now * 100) - stamp) % _STAMPS / 100 - _STAMP_AHEAD_S


class Timer:
    """A timer that is readable from an instant of CLOCK_BOOTTIME on, until it is set to another."""

    def __init__(self) -> None:
        self._fd = _created(time.CLOCK_BOOTTIME)

    def fileno(self) -> int:
        return self._fd

    def set(self, at: float) -> None:
        _set(self._fd, max(1, math.ceil(at * 1e9)), _TFD_TIMER_ABSTIME)


class ClockSet:
    """Readable when CLOCK_REALTIME was set, and when the host wakes up, until `take` is called."""

    def __init__(self) -> None:
        self._fd = _created(time.CLOCK_REALTIME)
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        _set(self._fd, _FAR_AWAY_S * 10**9, flags)

    def fileno(self) -> int:
        return self._fd

    def take(self) -> None:
        try:
            os.read(self._fd, 8)
        except OSError:
            # ECANCELED: it was set. EAGAIN: it was not, after all.
            pass


def _created(clock: int) -> int:
    fd: int = _timerfd_create(clock, _TFD_NONBLOCK | _TFD_CLOEXEC)
    if fd < 0:
        raise _error("timerfd_create")
    return fd


def _set(fd: int, at_ns: int, flags: int) -> None:
    value = _itimerspec(0, 0, *divmod(at_ns, 10**9))
    if _timerfd_settime(fd, flags, ctypes.byref(value), None) < 0:
        raise _error("timerfd_settime")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def _readings() -> tuple[float, float, float]:
    """Returns readings of CLOCK_BOOTTIME, CLOCK_REALTIME and CLOCK_BOOTTIME, in this order."""
    return boottime(), time.clock_gettime(time.CLOCK_REALTIME), boottime()


class Jumps:
    """Finds jumps of CLOCK_REALTIME, forward, against CLOCK_BOOTTIME. Slewing (a clock that is made
    slower or faster) moves both alike."""

    def __init__(self, readings: Callable[[], tuple[float, float, float]] = _readings) -> None:
        self._readings = readings
        self._offset = math.inf
        """CLOCK_REALTIME was surely ahead by this; inf: that is not known yet."""

    def take_s(self) -> float:
        """Returns the seconds by which it has jumped since this was called the last time; 0.0: it
        has not, or by very little, which adds up. A process that is stopped between the readings
        never sees a jump because of that: the offset seems less than it is then, and such a low
        one is not remembered."""
        before, wall, after = self._readings()
        offset = wall - after
        jump_s = offset - self._offset
        if jump_s > LEAST_JUMP_S:
            self._offset = offset
            return jump_s
        if after - before < TIGHT_S:
            self._offset = min(self._offset, offset)
        return 0.0
