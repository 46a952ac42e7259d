"""When and where a record is made: the time on two clocks, this boot, and this network namespace.

Reads clocks and /proc; writes nothing.
"""

import time
from datetime import UTC, datetime
from pathlib import Path

from yaim_helper.record.entries import Entry


def now() -> Entry:
    """Returns the time of a record, on both clocks."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="microseconds"),
        "boottime_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    }


def boot_id() -> str:
    """Returns the identity of this boot of the host (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def session() -> str:
    """Returns the identity of this boot and network namespace (helper/PROTOCOL.md)."""
    return f"{boot_id()}:{Path('/proc/self/ns/net').stat().st_ino}"
