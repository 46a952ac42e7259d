"""How long something takes that has a bound, on a machine that is busy with other things."""

import time
from pathlib import Path

IN_A_PROGRAM = f"""
import sys
sys.path.append({str(Path(__file__).parents[2])!r})
from tests.checks.stopwatch import Stopwatch
"""
"""What the text of a program begins with that has a stopwatch."""
_THREADS = Path("/proc/self/task")
_SCHEDULE = "schedstat"
"""The time on a processor, and the time of waiting for one, in nanoseconds
(Documentation/scheduler/sched-stats.rst in Linux)."""


class Stopwatch:
    """Counts from now on. The time in which a thread of this process was ready to run, and other
    processes had all processors, does not count: what is measured has had no chance meanwhile."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._waited_s = _waited_s()

    def took_s(self) -> float:
        waited_s = max(0.0, _waited_s() - self._waited_s)
        return time.monotonic() - self._started - waited_s


def _waited_s() -> float:
    """Returns for how long the threads of this process have waited for a processor."""
    waited_ns = 0
    for thread in _THREADS.iterdir():
        try:
            waited_ns += int((thread / _SCHEDULE).read_text().split()[1])
        except (OSError, IndexError):
            continue  # It has ended, or the kernel does not count that.
    return waited_ns / 1e9
