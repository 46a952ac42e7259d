"""Notices that the host has been away without CLOCK_BOOTTIME counting it: a virtual machine that
was paused, or taken back to a snapshot.

All that can be seen of it is that somebody sets the wall clock forward afterwards. An ordinary
correction of the clock looks the same; it costs no more than a question to etcd, if it is shorter
than the lease.
"""

import ctypes
import math
import os
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from yaim.host.boottime import boottime

JUMP_S = 0.05
"""A smaller correction is none that could end a lease."""
READ_WITHIN_S = 0.001

_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2
_TFD_CLOEXEC = os.O_CLOEXEC
_FAR_AWAY = struct.pack("@qqqq", 0, 0, 1 << 40, 0)
"""A struct itimerspec with no interval, and a time long after this host's end."""


@dataclass(frozen=True, slots=True)
class Reading:
    """CLOCK_BOOTTIME, CLOCK_REALTIME and CLOCK_BOOTTIME again, in seconds, read in this order."""

    before: float
    wall: float
    after: float


def read_clocks() -> Reading:
    return Reading(boottime(), time.clock_gettime(time.CLOCK_REALTIME), boottime())


class Clocks:
    """Knows how far the wall clock is ahead of CLOCK_BOOTTIME, and whether that has grown."""

    def __init__(self, read: Callable[[], Reading] = read_clocks) -> None:
        self._read = read
        self._ahead_s = math.inf
        """Infinite: not known yet."""

    def jump_s(self) -> float:
        """Returns how far the wall clock was set forward since it was last asked; 0 if it was not,
        or by so little that it has to add up first.

        Having been stopped between two readings never looks like a jump: it makes the wall clock
        seem less ahead than it is, which is not remembered.
        """
        reading = self._read()
        ahead_s = reading.wall - reading.after
        if ahead_s - self._ahead_s > JUMP_S:
            jump_s, self._ahead_s = ahead_s - self._ahead_s, ahead_s
            return jump_s
        if reading.after - reading.before < READ_WITHIN_S:
            self._ahead_s = min(self._ahead_s, ahead_s)
        return 0.0


def watch_clock(wake: Callable[[], None]) -> None:
    """Calls `wake` whenever the wall clock is set, from a thread of its own (timerfd_create(2):
    TFD_TIMER_CANCEL_ON_SET). Raises OSError."""
    libc = ctypes.CDLL("libc.so.6", use_errno=True)
    timer = libc.timerfd_create(time.CLOCK_REALTIME, _TFD_CLOEXEC)
    if timer < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
    if libc.timerfd_settime(timer, flags, _FAR_AWAY, None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd_settime")

    def work() -> None:
        while True:
            try:
                os.read(timer, 8)
            except OSError:
                # ECANCELED: the clock was set.
                wake()

    threading.Thread(target=work, name="clock", daemon=True).start()
