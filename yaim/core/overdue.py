"""Addresses that have outlived their deadline and the helper's grace: when one counts as gone.

Without a fence nothing is decided by the clock alone. The helper's promise rests on the kernel, and
the kernel changes no address while something else holds its routing lock (RTNL: many links or
network namespaces being removed, a network driver that resets): the helper's removal waits then,
and so does the kernel's own at the end of a lifetime. As long as an address may be on the interface
its lease and mark are kept.

With a fence it answers nothing since its deadline, wherever it lies and whoever is dead, frozen or
behind that lock: it counts as gone, and others may take it. The helper takes it off when it can,
and does not let it answer before it is added anew: what was asked before has no later deadline than
the latest that was handed on, from which this counts.

Without a fence it is looked for (LookForAddresses, yaim/host/address_look.py):
1. What the look finds stays as it is, and is looked for again.
2. What it does not find is gone, and does not come back. Nobody but the helper puts it there, and
   the helper does so only with a deadline that is a second away or more. If it has read its clock
   before the deadline and is stopped or killed since, it is in one of two places. In its own code:
   then the alarm that it has armed ends it before it acts (helper/PROTOCOL.md). Or in the kernel,
   waiting for the lock: then it gets that before the look does, which waits for the same lock
   (address_look.py).
3. While there is no answer nothing is known, and nothing changes.

A process that waits in the kernel cannot end. So as long as a look is under way the coordinator
does not either, also if it is to stop or to start anew: meanwhile it keeps its lease.

A look counts only for what was overdue when it was asked for: what was granted since has a later
deadline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from yaim.core.deadline import HELPER_GRACE_S
from yaim.core.model import Address, Boottime
from yaim.core.state.wake import FOREVER

LOOK_AGAIN_S = 0.25
"""The pause after a look that has found something, or has failed, until the next one."""
REPORT_AFTER_S = 1.0
"""An address that stays for this time after its deadline and the grace is reported, if it was
looked for during that time, too: a coordinator that was stopped itself finds all deadlines past,
and does not know yet."""
REPORT_EVERY_S = 60.0
SEVERAL = 4
"""How many addresses are named in a report."""


@dataclass(frozen=True, slots=True)
class Look:
    """The look for overdue addresses. One at most is under way; it may take long."""

    is_pending: bool = False
    asked_at: Boottime = Boottime(0.0)
    """When the last look was asked for."""
    first_asked_at: Boottime | None = None
    """When the first one was, since something is overdue. None: there was none."""
    due: Boottime = Boottime(0.0)
    failure: str = ""
    """Why the last look failed; empty: it did not."""
    reported_at: Boottime | None = None
    """When it was last reported that something is overdue; None: not yet."""

    def reports_at(self, since: Boottime) -> Boottime:
        """Returns when to report again. `since`: when the first address has become overdue."""
        if self.reported_at is None:
            if self.first_asked_at is None:
                return Boottime(FOREVER)
            return Boottime(max(since, self.first_asked_at) + REPORT_AFTER_S)
        return Boottime(self.reported_at + REPORT_EVERY_S)


def overdue_since(deadline: Boottime) -> Boottime:
    """Returns when an address with this last deadline has to be gone."""
    return Boottime(deadline + HELPER_GRACE_S)


def report(look: Look, overdue: Mapping[Address, Boottime], now: Boottime) -> str:
    """Returns the line for the log. `overdue`: the addresses with their deadlines."""
    addresses = _some(list(overdue))
    late_s = now - min(overdue.values())
    if look.is_pending:
        why = (
            "perhaps, as the kernel does not tell: its routing lock (RTNL) is held, as while many"
            " links or network namespaces are removed or a network driver resets"
        )
    elif look.failure:
        why = f"perhaps, as the kernel does not tell: {look.failure}"
    else:
        why = "neither the helper nor the kernel has removed it"
    return (
        f"still on the interface {late_s:.0f} s after the deadline: {addresses}; {why}. Lease and"
        " marks are kept until it is gone"
    )


def _some(addresses: Sequence[Address]) -> str:
    first = ", ".join(str(each) for each in addresses[:SEVERAL])
    more = len(addresses) - SEVERAL
    return f"{first} and {more} more" if more > 0 else first
