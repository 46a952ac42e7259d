"""Whether the window of `rebalance` is open, by the wall clock, which the core does not have.

It is looked at in each step, and at least every LOOK_EVERY_S: so a clock that is set, a change of
daylight saving time or of the time zone, and the end of a suspend are heeded.
"""

import math
import time

from yaim.core.events import WindowObserved
from yaim.core.settings import Rebalance, Window

LOOK_EVERY_S = 30.0


class WindowWatch:
    def __init__(self) -> None:
        self._told: bool | None = None
        """None: nothing yet, or there was no window."""

    def look(self, rebalance: Rebalance | Window) -> list[WindowObserved]:
        """Returns what there is to tell."""
        is_open = _is_open(rebalance)
        if is_open == self._told:
            return []
        self._told = is_open
        return [] if is_open is None else [WindowObserved(is_open)]


def next_look_s(rebalance: Rebalance | Window) -> float:
    """Returns in how many seconds it is to be looked at again; infinity: there is no window."""
    return LOOK_EVERY_S if isinstance(rebalance, Window) else math.inf


def _is_open(rebalance: Rebalance | Window) -> bool | None:
    if not isinstance(rebalance, Window):
        return None
    time.tzset()
    now = time.localtime()
    return rebalance.is_open_at(60 * now.tm_hour + now.tm_min)
