"""Waiting for what others do."""

import time
from collections.abc import Callable

from yaim.lab.namespaces import LabError


def wait_until(
    is_so: Callable[[], bool],
    within_s: float,
    what: str,
    explain: Callable[[], str] = lambda: "",
) -> None:
    """Waits until this is so. Raises LabError when the time is over."""
    give_up_at = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() >= give_up_at:
            raise LabError(f"waited {within_s:g} s in vain for {what}\n{explain()}")
        time.sleep(0.05)
