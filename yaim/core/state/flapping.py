"""How long a node that becomes unhealthy again and again waits before it takes addresses.

Each handover costs clients their connections. So a node whose service comes and goes must not drag
addresses back and forth: its first recovery is believed at once, each further one only after a
wait, twice as long each time. A wait is over early for what no other node can hold
(yaim/core/placement.py); nothing goes without a holder because of it.

The model is BGP's damping of flapping routes (RFC 2439), with a count instead of a decaying figure:
an administrator can tell beforehand how long a node will wait. Falls are forgotten after a time of
health that begins with the end of the wait, not with the recovery: a service that fails under load
has shown nothing as long as it has none. A restart forgets them, too.
"""

from dataclasses import dataclass, replace

from yaim.core.model import Boottime

FIRST_WAIT_S = 10.0
"""The wait after the second recovery."""
FORGET_S = 600.0
"""After so long a time of unbroken health the next fall is the first one again."""
MAX_DOUBLINGS = 20


@dataclass(frozen=True, slots=True)
class Flaps:
    """Whether the node is healthy, and how often it has ceased to be of late."""

    is_healthy: bool | None = None
    """None: not known yet. Whatever comes first is neither a fall nor a recovery."""
    falls: int = 0
    recovered_at: Boottime = Boottime(0.0)

    def wait_s(self, max_wait_s: float) -> float:
        """Returns how long the node waits, counted from the last recovery."""
        if self.falls < 2:
            return 0.0
        return min(FIRST_WAIT_S * (1 << min(self.falls - 2, MAX_DOUBLINGS)), max_wait_s)

    def waits_until(self, max_wait_s: float) -> Boottime:
        return Boottime(self.recovered_at + self.wait_s(max_wait_s))

    def after(self, is_healthy: bool, now: Boottime, max_wait_s: float) -> "Flaps":
        """`is_healthy`: as the node is found now."""
        if is_healthy == self.is_healthy:
            return self
        if self.is_healthy is None:
            return replace(self, is_healthy=is_healthy)
        if is_healthy:
            return replace(self, is_healthy=True, recovered_at=now)
        is_forgotten = now >= self.waits_until(max_wait_s) + FORGET_S
        return replace(self, is_healthy=False, falls=1 if is_forgotten else self.falls + 1)
