"""Which adds and renewals are refused whatever is on the host: by the rules, or by their deadline.

Pure: the caller reads the clock. What depends on the host is decided in batch.py.
"""

from yaim_helper.kernel.lifetimes import last_extension_s, lifetime_s
from yaim_helper.policy.rules import Policy
from yaim_helper.protocol import Add, Refused

MAX_DEADLINE_S = 3600.0
"""How far away a deadline may be at most."""


def refusal_of_add(
    policy: Policy, add: Add, now: float, *, is_fenced: bool = False
) -> Refused | None:
    """Returns why an add is refused; None: what is on the host decides."""
    if policy.rule_for(add) is None:
        return Refused(
            "not-allowed", f"no rule allows {add.address}/{add.prefix} on {add.interface}"
        )
    return refusal_of_deadline(add.deadline_ns / 1e9 - now, needs_lifetime=not is_fenced)


def refusal_of_deadline(life_s: float, *, needs_lifetime: bool = True) -> Refused | None:
    """Returns why a deadline that is so far away is refused; None: it can be kept.

    `needs_lifetime`: the kernel has to be given a lifetime for it. A deadline that is only later
    than the one before is kept with the lifetime that was given for that, and one that a fence
    keeps needs none.
    """
    can_be_kept = not needs_lifetime or lifetime_s(life_s, life_s) > 0
    if 0 < life_s <= MAX_DEADLINE_S and can_be_kept:
        return None
    least_s = last_extension_s(life_s) if needs_lifetime else 0.0
    within = f"from {least_s:.3f} to {MAX_DEADLINE_S:.0f} s"
    return Refused("expired", f"the deadline is {life_s:.3f} s away, and not {within}")
