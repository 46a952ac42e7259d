"""Reading helper.yml again while the helper serves (SIGHUP), and what a new policy ends.

A file that cannot be used leaves the old policy in force.
"""

from yaim_helper.policy.read import read_policy
from yaim_helper.policy.rules import Policy, PolicyError, shown_fence


def read_again(old: Policy) -> Policy:
    """Returns the policy as its file tells it now. Raises PolicyError if the file cannot be used,
    or wants what only a new start can bring."""
    policy = read_policy(old.path)
    if policy.audit_log != old.audit_log:
        raise PolicyError(
            f"{old.path}: audit-log: is {old.audit_log} until the helper is started anew;"
            " restart it, or put that back"
        )
    if policy.is_fence_wanted != old.is_fence_wanted:
        raise PolicyError(
            f"{old.path}: fence: is {shown_fence(old)} until the helper is started anew;"
            " restart it, or put that back"
        )
    return policy


def why_it_ends(uid: int, policy: Policy, old: Policy) -> str | None:
    """Returns why a connection of this user is ended by a new policy; None: it is not."""
    if uid not in policy.users:
        return "its user is not in the policy any more"
    if policy.rules != old.rules:
        # The reply to hello tells the new ones.
        return "the rules have changed"
    if policy.max_addresses != old.max_addresses:
        return "max-addresses has changed"
    return None
