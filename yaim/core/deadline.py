"""The deadline: until when an address may answer on this host.

etcd gives a mark to nobody else before the granted TTL has passed since it received the last
keepalive; it received it after we sent it. So everything counts from the instant just before the
keepalive was sent, on this host's own clock, less a margin.

Who knows what, counts from what, and promises what:
- etcd knows the TTL, counts from the receipt of the last keepalive, and promises to give a mark to
  nobody else before TTL has passed. Its clock may run CLOCK_DRIFT faster than ours.
- This coordinator knows when it sent the last keepalive that was answered, which is before that
  receipt, and counts from there. It promises to hand on no deadline that is later than
  sent + TTL * (1 - CLOCK_DRIFT) - margin.
- The helper knows the deadline only, as an instant of the clock that both share (CLOCK_BOOTTIME).
  It promises that an address answers nothing later than the deadline and its grace, whatever
  happens to either process (helper/PROTOCOL.md). The grace is FENCE_GRACE_S if the kernel has a
  fence: then a time-out of the kernel ends all answers to the millisecond, behind no lock. It is
  HELPER_GRACE_S if not: then the address is off the interface by then, for which the kernel needs
  its routing lock, and whole seconds.
So with margin > grace an address has ceased to answer here before etcd gives its mark to somebody
else, by at least the difference, 0.05 s, with and without a fence.

Whether there is a fence is told in each HelperReady, for all that is asked of that helper. When
that changes, the deadline of the lease is reckoned anew, from the same keepalive with the margin
that holds now, before anything is handed on (LeaseState.with_fence):
- With a fence where there was none, it is later by FENCE_SPARES_S: no later than the same lease
  would have had with a fence from the start.
- Without a fence where there was one, it is earlier by as much. What was handed on before is later
  than that now. A helper that was started anew holds nothing of it: what its earlier life had put
  in the fence ends there, in the kernel, at the deadline of then. A helper that still has it on
  record is handed the earlier deadline at once (Addresses.needs_renewal), and a keepalive is sent
  at once: the next deadline is later than both.
The fence of other hosts is of no concern: `all_over_at` allows for hosts without one.
"""

from yaim.core.model import Boottime

HELPER_GRACE_S = 0.2
"""How long an address may outlive its deadline, where no fence is in force."""
FENCE_GRACE_S = 0.05
"""How long an address may answer after its deadline, where a fence is in force."""
FENCE_SPARES_S = HELPER_GRACE_S - FENCE_GRACE_S
"""How much later a deadline may be where a fence is in force."""

MARGIN_S = HELPER_GRACE_S + 0.05
CLOCK_DRIFT = 0.001
"""How much faster etcd's clock may run than ours, as a share of the TTL (NTP slews 500 ppm)."""

MIN_TTL_S = 3
"""With a shorter TTL the kernel's own removal of an address could come after the lease's end."""

MAX_TTL_S = 3600
"""No configuration asks for more, and the helper takes no deadline that is further away."""

LONGEST_LEAST_TTL_S = 75
"""No etcd grants a longer TTL than it is asked for and than this: one and a half times the longest
election timeout (etcd: maxElectionMs in embed/config.go, minTTL in etcdserver/server.go)."""

MIN_LIFE_S = 2.5
"""An address is not added with less than this left; helper/PROTOCOL.md says why so much."""
FENCED_MIN_LIFE_S = 0.3
"""The same where a fence is in force: what an add takes, and no lifetime of the kernel's."""

KEEPALIVES_PER_TTL = 3.75
"""How often at least a lease is kept in its TTL. More than three times: with the shortest TTL an
address is off the interface 1.3 s after the last keepalive (helper/PROTOCOL.md)."""
SILENCE_S, ANSWERS_AGAIN_WITHIN_S = 2.5, 0.2
"""With a fence a lease is kept so often that etcd can be silent for so long at any time, if it
answers a keepalive within the second of these times after that: what is left of the lease outlasts
both. An election with etcd's default timeout takes 1 to 2 s."""
LEAST_KEEPALIVE_S = 0.2
"""No lease is kept more often than this, however short it is."""


def deadline_of(sent_at: Boottime, granted_ttl_s: int) -> Boottime:
    """Returns the deadline for a keepalive (or grant) sent at `sent_at`, answered with this TTL,
    where no fence is in force."""
    return Boottime(sent_at + granted_ttl_s * (1 - CLOCK_DRIFT) - MARGIN_S)


def least_life_s(*, is_fenced: bool) -> float:
    """Returns how much life a lease must have left for an address to be added."""
    return FENCED_MIN_LIFE_S if is_fenced else MIN_LIFE_S


def keepalive_every_s(interval_s: float, ttl_s: int, *, is_fenced: bool) -> float:
    """Returns how long after a keepalive was sent the next one is due."""
    every_s = min(interval_s, ttl_s / KEEPALIVES_PER_TTL)
    if not is_fenced:
        return every_s
    life_s = deadline_of(Boottime(0.0), ttl_s) + FENCE_SPARES_S
    return min(every_s, max(LEAST_KEEPALIVE_S, life_s - SILENCE_S - ANSWERS_AGAIN_WITHIN_S))


def all_over_at(learnt_at: Boottime, granted_ttl_s: int) -> Boottime:
    """Returns when all addresses under leases of this TTL are off every interface, if etcd has lost
    the leases by `learnt_at`: it has answered no keepalive that was sent later."""
    return Boottime(learnt_at + granted_ttl_s * (1 + CLOCK_DRIFT) + HELPER_GRACE_S)
