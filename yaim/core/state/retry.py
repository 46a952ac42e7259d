"""When a request to etcd is due, and when one that failed is sent and reported again.

Owns the pauses after failures. Knows nothing of what the requests are for.
"""

from dataclasses import dataclass, replace
from hashlib import blake2b

from yaim.core.actions import Level, Tell
from yaim.core.model import NEVER, Boottime, NodeName

RETRY_MIN_S = 0.1
RETRY_MAX_S = 2.0
"""A failed request to etcd is repeated after a pause, which doubles from the one to the other. Each
node makes half of the pause at least and all of it at most, so that nodes do not come in step."""
REPORT_EVERY_S = 60.0
"""A failure that goes on is reported again after this long."""


@dataclass(frozen=True, slots=True)
class Retry:
    """One kind of request, of which at most one is under way."""

    is_pending: bool = False
    due: Boottime = NEVER
    failures: int = 0
    """How many requests in a row have failed."""
    failing_since: Boottime = NEVER
    reported_at: Boottime = NEVER
    """When the failure was last reported."""
    pause_s: float = 0.0
    """The length of the present pause, before it is shortened for this node."""

    def asked(self) -> "Retry":
        return replace(self, is_pending=True)

    def made_due(self, now: Boottime) -> "Retry":
        return replace(self, due=now)

    def after_answer(self, due: float, again: str, tell: Tell) -> "Retry":
        """`again`: what to report if requests had failed before."""
        if self.failures:
            tell(Level.INFO, again)
        return Retry(due=Boottime(due))

    def after_failure(
        self, now: Boottime, node: NodeName, what: str, tell: Tell, longest_s: float = RETRY_MAX_S
    ) -> "Retry":
        """`what`: what has failed, and why. `longest_s`: the longest pause."""
        since, reported_at = self.failing_since, self.reported_at
        if not self.failures:
            tell(Level.WARNING, what)
            since = reported_at = now
        elif now >= reported_at + REPORT_EVERY_S:
            tell(Level.WARNING, f"{what} (for {now - since:.0f} s now)")
            reported_at = now
        pause_s = min(max(RETRY_MIN_S, 2 * self.pause_s), longest_s)
        return Retry(
            due=Boottime(now + pause_s * share_of(node, self.failures)),
            failures=self.failures + 1,
            failing_since=since,
            reported_at=reported_at,
            pause_s=pause_s,
        )


def share_of(node: NodeName, number: int) -> float:
    """Returns which share of a pause a node makes, between a half and all of it: another one for
    each node and number."""
    drawn = int.from_bytes(blake2b(f"{node} {number}".encode(), digest_size=4).digest())
    return 0.5 + drawn / 2**33
