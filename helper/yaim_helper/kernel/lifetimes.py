"""How long a lifetime the kernel may be given, so that an address is gone in time: arithmetic only.

The reasons and the measurements behind these numbers are in helper/PROTOCOL.md. Has no clock: all
functions take seconds that are left to a deadline.
"""

from math import ceil, floor

GRACE_S = 0.2
"""How long after its deadline an address may still be there (helper/PROTOCOL.md)."""
ACT_WITHIN_S = GRACE_S / 2
"""The part of the grace that is kept for the time from reading the clock to the effect."""
EARLY_S = 0.02
"""How much before its lifetime's end the kernel may remove an address
(ADDRCONF_TIMER_FUZZ_MINUS)."""
_ROUNDING_S = 1e-7

BROOM_S = 60
"""With a fence: the lifetime only sweeps away what both processes have left."""
SWEEP_AGAIN_S = 30.0
"""With a fence: a lifetime is set anew when so much of it is left."""


def lateness_s(life_s: float) -> float:
    """Returns by how much the kernel may be late in removing an address, besides 1/8 of its
    lifetime. It is more where the deadline was farther away when it was handed over."""
    return min(max(0.4 * life_s, 1.4), 2.5)


def lifetime_s(left_s: float, life_s: float) -> int:
    """Returns the largest lifetime after which the kernel has surely removed the address when the
    deadline and the grace have passed; 0: there is none. `left_s` and `life_s`: the seconds to the
    deadline, now and when it was handed over. The reasons are in helper/PROTOCOL.md."""
    return max(0, floor((left_s + GRACE_S - ACT_WITHIN_S - lateness_s(life_s)) / 1.125))


def last_extension_s(life_s: float) -> float:
    """Returns the seconds to the deadline at which a lifetime of 1 s can be given for the last
    time."""
    return 1.125 + lateness_s(life_s) - GRACE_S + ACT_WITHIN_S + _ROUNDING_S


def broom_s(left_s: float) -> int:
    """Returns the lifetime of an address that a fence keeps from answering too long: never so short
    that it ends before the deadline does. 0: the deadline is over."""
    return max(BROOM_S, ceil(left_s) + 1) if left_s > 0 else 0
