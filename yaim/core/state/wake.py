"""When the next step is due. Each part of the state says it for itself by `wake_at`."""

from collections.abc import Iterable

FOREVER = float("inf")


def soonest(now: float, times: Iterable[float]) -> float:
    """Returns the first of these times that is still to come; infinity, if there is none."""
    return min((time for time in times if time > now), default=FOREVER)
