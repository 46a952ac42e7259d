"""The end of addresses: at their deadlines, when a deadline comes nearer, and when the policy does
not allow them any more.

What is ended is on record before and after. An address that cannot be removed is tried again and
again; the kernel removes it by its lifetime.
"""

import math
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

from yaim_helper.clock import boottime
from yaim_helper.held.fences import Fences
from yaim_helper.held.holding import Holding
from yaim_helper.held.host import Host
from yaim_helper.held.inventory import Inventory
from yaim_helper.held.leftovers import LeftOvers
from yaim_helper.held.removal import take_off
from yaim_helper.held.renewal import Renewal
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.policy.rules import Policy
from yaim_helper.record.recorder import Recorder

RETRY_REMOVAL_S = 0.5
"""After this time a removal that has failed is tried again."""


class Expiry:
    """Ends what is held."""

    def __init__(
        self,
        kernel: Kernel,
        inventory: Inventory,
        left_overs: LeftOvers,
        renewal: Renewal,
        recorder: Recorder,
        start: Callable[[Callable[[], None]], None] = lambda job: job(),
        fences: Fences | None = None,
    ) -> None:
        """`start` has done what may wait for the kernel."""
        self._kernel = kernel
        self._inventory = inventory
        self._left_overs = left_overs
        self._renewal = renewal
        self._recorder = recorder
        self._start = start
        self._fences = fences

    def end_over(self, now: float, why: str = "the deadline has passed") -> None:
        """Removes what has outlived its deadline."""
        over = [each for each in self._inventory if now >= each.deadline and now >= each.retry_at]
        self._end(over, why)

    def obey(self, policy: Policy) -> None:
        """Removes at once what a new policy does not allow."""
        self._inventory.policy = policy
        now = boottime()
        self.end_over(now)
        for holding in self._inventory:
            if holding.owner.uid not in policy.users:
                holding.deadline = min(holding.deadline, now)
        self.end_over(now, "its user is not in the policy any more")
        for holding in self._inventory:
            place = (holding.interface.name, holding.address, holding.prefix)
            if not any(rule.allows(*place) for rule in policy.rules):
                holding.deadline = min(holding.deadline, now)
        self.end_over(now, "no rule allows it any more")

    def draw_deadlines_nearer(self, jump_s: float, why: str) -> None:
        """Makes all deadlines nearer by the time that the host may have been paused without any
        clock that they are counted in."""
        self._inventory.jumped_s += jump_s
        for holding in self._inventory:
            holding.deadline -= jump_s
        if self._fences is not None:
            with suppress(KernelError):
                # If it cannot be told, it is over at its deadline of before.
                self._fences.draw_nearer(jump_s)
            self.end_over(boottime(), why)
            return
        for holding in self._inventory:
            # Its lifetime in the kernel has to be shortened.
            holding.kernel_until = 0.0
        self.end_over(boottime(), why)
        left = [each for each in self._inventory if not each.is_leaving]
        with suppress(KernelError):
            self._renewal.extend(left, self._host_for(left))
        self.end_unlimited(left, why)
        with suppress(KernelError):
            self._left_overs.remove_all(Host(self._kernel, ()), why)

    def end_unlimited(self, holdings: Collection[Holding], why: str) -> None:
        """Removes those whose deadline came nearer and whose lifetime did not: none was short
        enough, or it could not be set."""
        self._end(
            [each for each in holdings if self._inventory.has(each) and not each.kernel_until], why
        )

    def _end(self, holdings: Collection[Holding], why: str) -> None:
        for holding in holdings:
            self._inventory.leave(holding)
            holding.retry_at = math.inf
        if self._fences is not None:
            # At its deadline it is so by itself; not if that has come nearer, or the host slept.
            for owner in {each.owner for each in holdings}:
                with suppress(KernelError):
                    self._fences.enforce(owner)
        if holdings:
            self._start(partial(self._take_off, holdings, why))

    def _take_off(self, holdings: Collection[Holding], why: str) -> None:
        host = self._host_for(holdings)
        for holding in holdings:
            if not self._inventory.has(holding):
                # It was removed by request, or added anew, while this waited.
                continue
            self._recorder.note([holding.own("expire", f"{why}: removing")])
            try:
                outcome = take_off(holding, self._inventory, host)
            except KernelError as error:
                holding.retry_at = boottime() + RETRY_REMOVAL_S
                self._recorder.note([holding.own("expire", f"cannot remove it: {error.reason}")])
            else:
                self._inventory.note_expired(holding)
                self._recorder.note([holding.own("expire", outcome)])

    def _host_for(self, holdings: Collection[Holding]) -> Host:
        return Host(self._kernel, {each.address for each in holdings})
