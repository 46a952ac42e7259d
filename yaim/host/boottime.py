"""This host's clock for deadlines: monotonic, and running on while the host is suspended."""

import time

from yaim.core.model import Boottime


def boottime() -> Boottime:
    """Now, in seconds of CLOCK_BOOTTIME (clock_gettime(2))."""
    return Boottime(time.clock_gettime(time.CLOCK_BOOTTIME))
