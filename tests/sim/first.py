"""Real time for what is held against a model: who acts a little later than the other, differs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

NICE = -10
"""nice(2): as the helper has it by its unit."""


@contextmanager
def going_first() -> Iterator[None]:
    """This thread, and what it starts, goes before others, where that is permitted."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
