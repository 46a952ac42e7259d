"""The lease under which this node's advertisement and marks stand in etcd.

Owns the lease, its deadline and the requests that keep it. Until when addresses may stay under it
is reckoned in yaim/core/deadline.py; which lease of an earlier life is adopted: yaim/core/facts.py.
"""

from dataclasses import dataclass, field, replace

from yaim.core.actions import KeepLease, LeaseAction, Level, Tell
from yaim.core.deadline import (
    FENCE_SPARES_S,
    LONGEST_LEAST_TTL_S,
    deadline_of,
    keepalive_every_s,
)
from yaim.core.events import LeaseKept
from yaim.core.model import NEVER, Boottime, LeaseId, NodeName
from yaim.core.settings import Settings
from yaim.core.state.retry import RETRY_MAX_S, Retry
from yaim.core.state.wake import soonest

RETRY_ALIVE_S = 0.2
"""The longest pause after a failed keepalive while the lease has life left: etcd elects a new
leader within 1 to 2 s, and then each moment counts."""
FENCED_RETRY_ALIVE_S = 0.1
"""The same where a fence is in force, which is to outlast a silence of etcd by 0.2 s only."""


@dataclass(frozen=True, slots=True)
class Lease:
    id: LeaseId
    ttl_s: int
    deadline: Boottime
    """Until then addresses may stay on the interface under this lease."""


@dataclass(frozen=True, slots=True)
class LeaseState:
    current: Lease | None = None
    """The lease that etcd has told us to be ours."""
    retry: Retry = field(default_factory=Retry)
    """Grants, keepalives and revocations."""
    reported_ttls_s: tuple[int, int] = (0, 0)
    """The TTL that was asked for and the one that was granted, when they last differed."""
    may_adopt: bool = True
    """An earlier life of this node may have left a lease, marks and addresses that are ours again.
    Until that is known, what is on the interface stays, but not beyond its deadline."""
    adopting: LeaseId | None = None
    """The lease of an earlier life that was asked for and has not been answered yet."""
    not_adopted: LeaseId | None = None
    """A lease under our name that was looked at and not adopted."""
    distrusted_before: Boottime = NEVER
    """The host may have been paused until then: a keepalive sent before says nothing."""
    is_fenced: bool = False
    """Whether the last helper that was there has told of a fence: the deadline allows for its grace
    (yaim/core/deadline.py)."""

    def life_s(self, now: Boottime) -> float:
        """How much longer addresses may stay; 0 or less: not at all."""
        return self.current.deadline - now if self.current is not None else 0.0

    def ttl_s(self, settings: Settings) -> int:
        return self.current.ttl_s if self.current is not None else settings.ttl_s

    def asked(self, action: LeaseAction) -> "LeaseState":
        is_adoption = isinstance(action, KeepLease) and self.current is None
        adopting = action.lease if isinstance(action, KeepLease) and is_adoption else self.adopting
        return replace(self, retry=self.retry.asked(), adopting=adopting)

    def made_due(self, now: Boottime) -> "LeaseState":
        return replace(self, retry=self.retry.made_due(now))

    def after_kept(
        self, event: LeaseKept, settings: Settings, now: Boottime, tell: Tell
    ) -> "LeaseState":
        longest_s = max(settings.ttl_s, LONGEST_LEAST_TTL_S)
        if event.lease == self.adopting and event.ttl_s > longest_s:
            tell(
                Level.ERROR,
                f"does not adopt lease {event.lease:x}: its ttl of {event.ttl_s} s is more than"
                f" etcd grants for ours ({longest_s} s): ours is shorter now, or somebody else has"
                " put our advertisement there",
            )
            return replace(
                self,
                adopting=None,
                not_adopted=event.lease,
                may_adopt=False,
                retry=Retry(due=now),
            )
        interval_s = settings.interval_s
        every_s = keepalive_every_s(interval_s, event.ttl_s, is_fenced=self.is_fenced)
        due = event.sent_at + every_s
        deadline = deadline_of(event.sent_at, event.ttl_s)
        if self.is_fenced:
            deadline = Boottime(deadline + FENCE_SPARES_S)
        if event.sent_at < self.distrusted_before:
            due = deadline = now
        reported_ttls_s = self.reported_ttls_s
        if self.current is not None and self.current.id == event.lease:
            deadline = max(deadline, self.current.deadline)
        else:
            tell(Level.INFO, f"has lease {event.lease:x} of {event.ttl_s} s")
            reported_ttls_s = self._reported_ttl(settings.ttl_s, event.ttl_s, tell)
        return replace(
            self,
            current=Lease(event.lease, event.ttl_s, deadline),
            retry=self.retry.after_answer(due, "our lease is kept again", tell),
            reported_ttls_s=reported_ttls_s,
            adopting=None,
            may_adopt=False,
        )

    def _reported_ttl(self, asked_s: int, granted_s: int, tell: Tell) -> tuple[int, int]:
        """Reports each pair of different TTLs once."""
        if granted_s == asked_s or self.reported_ttls_s == (asked_s, granted_s):
            return self.reported_ttls_s
        if self.may_adopt:
            text = (
                f"the lease of this node's earlier life has a ttl of {granted_s} s, which"
                f" counts instead of {asked_s} s; a stop and a start, not a restart, ask etcd for a"
                " new one"
            )
        else:
            text = (
                f"etcd grants no lease shorter than {granted_s} s (its election timeout is long):"
                f" ttl counts as {granted_s} s, not {asked_s} s"
            )
        tell(Level.WARNING, text)
        return asked_s, granted_s

    def after_failed(self, reason: str, node: NodeName, now: Boottime, tell: Tell) -> "LeaseState":
        longest_s = FENCED_RETRY_ALIVE_S if self.is_fenced else RETRY_ALIVE_S
        if self.life_s(now) <= 0:
            longest_s = RETRY_MAX_S
        why = f"our lease is not kept: {reason}"
        return replace(self, retry=self.retry.after_failure(now, node, why, tell, longest_s))

    def with_fence(self, now: Boottime, *, is_fenced: bool) -> "LeaseState":
        """Reckons the deadline anew, and makes a keepalive due, if a fence is in force from now on
        or is not any more. What is over stays over, until a keepalive says otherwise."""
        if is_fenced == self.is_fenced:
            return self
        lease, by_s = self.current, FENCE_SPARES_S if is_fenced else -FENCE_SPARES_S
        if lease is not None and lease.deadline > now:
            lease = replace(lease, deadline=Boottime(lease.deadline + by_s))
        changed = replace(self, current=lease, is_fenced=is_fenced)
        return changed if self.retry.failures else changed.made_due(now)

    def after_clock_jump(self, by_s: float, now: Boottime) -> "LeaseState":
        """The deadline comes nearer by what the host may have slept, and etcd has to tell whether
        the lease is still there."""
        lease = self.current
        if lease is not None:
            lease = replace(lease, deadline=Boottime(lease.deadline - by_s))
        return replace(self, current=lease, retry=self.retry.made_due(now), distrusted_before=now)

    def after_gone(self, now: Boottime) -> "LeaseState":
        return replace(self, current=None, adopting=None, may_adopt=False, retry=Retry(due=now))

    def adopting_anew(self) -> "LeaseState":
        """The advertisement under our name is an earlier life's: its lease is to become ours."""
        return replace(self, current=None, may_adopt=True)

    def adopting_nothing(self) -> "LeaseState":
        """There is nothing of an earlier life to adopt."""
        return replace(self, may_adopt=False) if self.may_adopt else self

    def wake_at(self, now: Boottime) -> float:
        deadline = self.current.deadline if self.current is not None else NEVER
        return soonest(now, (self.retry.due, deadline))
