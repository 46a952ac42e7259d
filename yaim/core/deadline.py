"""The deadline: until when an address may stay on this host's interface.

etcd gives a mark to nobody else before the granted TTL has passed since it received the last
keepalive; it received it after we sent it. So everything counts from the instant just before the
keepalive was sent, on this host's own clock, less a margin.

The contract with the helper (helper/PROTOCOL.md): an address is off the interface at most
HELPER_GRACE_S after the deadline that went with it, whatever happens to either process.
"""

from yaim.core.model import Boottime

HELPER_GRACE_S = 0.2
"""How long an address may outlive its deadline."""

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

KEEPALIVES_PER_TTL = 3.75
"""How often at least a lease is kept in its TTL. More than three times: with the shortest TTL an
address is off the interface 1.3 s after the last keepalive (helper/PROTOCOL.md)."""


def deadline_of(sent_at: Boottime, granted_ttl_s: int) -> Boottime:
    """Returns the deadline for a keepalive (or grant) sent at `sent_at`, answered with this TTL."""
    return Boottime(sent_at + granted_ttl_s * (1 - CLOCK_DRIFT) - MARGIN_S)


def all_over_at(learnt_at: Boottime, granted_ttl_s: int) -> Boottime:
    """Returns when all addresses under leases of this TTL are off every interface, if etcd has lost
    the leases by `learnt_at`: it has answered no keepalive that was sent later."""
    return Boottime(learnt_at + granted_ttl_s * (1 + CLOCK_DRIFT) + HELPER_GRACE_S)
