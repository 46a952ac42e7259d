"""The end of addresses: at their deadlines, when a deadline comes nearer, and when the policy does
not allow them any more. Only the last of these resets connections: after a deadline another node
may have the address.

What is ended is on record before and after. An address that cannot be removed is tried again and
again; the kernel removes it by its lifetime.
"""

import math
from collections.abc import Callable, Collection, Iterable
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
from yaim_helper.held.reset import RESET_WITHIN_S, Reset, Resets
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.kernel.netlink import Found
from yaim_helper.owners import Owner
from yaim_helper.policy.rules import Policy
from yaim_helper.protocol import Address
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
        resets: Resets,
        start: Callable[[Callable[[], None]], None] = lambda job: job(),
        fences: Fences | None = None,
    ) -> None:
        """`start` has done what may wait for the kernel."""
        self._kernel = kernel
        self._inventory = inventory
        self._left_overs = left_overs
        self._renewal = renewal
        self._recorder = recorder
        self._resets = resets
        self._start = start
        self._fences = fences

    def end_over(
        self, now: float, why: str = "the deadline has passed", allowed_by: Policy | None = None
    ) -> None:
        """Removes what has outlived its deadline. `allowed_by`: its connections are reset, as far
        as this policy lets them."""
        over = [each for each in self._inventory if now >= each.deadline and now >= each.retry_at]
        self._end(over, why, allowed_by)

    def obey(self, policy: Policy) -> None:
        """Removes at once what a new policy does not allow."""
        before, self._inventory.policy = self._inventory.policy, policy
        now = boottime()
        self.end_over(now)
        for holding in self._inventory:
            if holding.owner.uid not in policy.users:
                holding.deadline = min(holding.deadline, now)
        self.end_over(now, "its user is not in the policy any more", before)
        for holding in self._inventory:
            place = (holding.interface.name, holding.address, holding.prefix)
            if not any(rule.allows(*place) for rule in policy.rules):
                holding.deadline = min(holding.deadline, now)
        self.end_over(now, "no rule allows it any more", before)

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

    def _end(
        self, holdings: Collection[Holding], why: str, allowed_by: Policy | None = None
    ) -> None:
        for holding in holdings:
            self._inventory.leave(holding)
            holding.retry_at = math.inf
        awaited = {each.owner for each in holdings if self._is_to_be_reset(each, allowed_by)}
        self._mute({each.owner for each in holdings} - awaited)
        if holdings:
            self._start(partial(self._take_off, holdings, why, allowed_by if awaited else None))

    def _is_to_be_reset(self, holding: Holding, allowed_by: Policy | None) -> bool:
        place = holding.interface.name, holding.address, holding.prefix
        return allowed_by is not None and self._resets.is_allowed(allowed_by, *place)

    def _mute(self, owners: Iterable[Owner]) -> None:
        """At its deadline it is so by itself; not if that has come nearer, or the host slept."""
        if self._fences is not None:
            for owner in owners:
                with suppress(KernelError):
                    self._fences.enforce(owner)

    def _take_off(self, holdings: Iterable[Holding], why: str, allowed_by: Policy | None) -> None:
        # Others were removed by request, or added anew, while this waited.
        holdings = [each for each in holdings if self._inventory.has(each)]
        host = self._host_for(holdings)
        resets: dict[Address, Reset] = {}
        if allowed_by is not None:
            for holding in holdings:
                self._recorder.note([holding.own("expire", f"{why}: removing")])
            resets = self._reset(holdings, host, allowed_by)
        for holding in holdings:
            if allowed_by is None:
                self._recorder.note([holding.own("expire", f"{why}: removing")])
            reset = resets.get(holding.address)
            try:
                outcome = take_off(holding, self._inventory, host, reset)
            except KernelError as error:
                holding.retry_at = boottime() + RETRY_REMOVAL_S
                self._recorder.note([holding.own("expire", f"cannot remove it: {error.reason}")])
            else:
                self._inventory.note_expired(holding)
                told = reset.told if reset is not None else {}
                self._recorder.note([{**holding.own("expire", outcome), **told}])
            self._resets.give_back(holding.address, reset, host)

    def _reset(
        self, holdings: Iterable[Holding], host: Host, allowed_by: Policy
    ) -> dict[Address, Reset]:
        """They answer until the reset is out, and no longer than their fence had let them."""
        ours: dict[Address, list[Found]] = {}
        for each in holdings:
            with suppress(KernelError):
                ours[each.address] = list(filter(each.is_it, host.places(each.address)))
        owners = {each.owner for each in holdings}
        untils = {each: self._fences.until(each) if self._fences else None for each in owners}
        resets = self._resets.reset(ours, host, allowed_by, boottime() + RESET_WITHIN_S)
        self._resets.take_s()  # It is no user's.
        self._mute(owners)
        now = boottime()
        for holding in holdings:
            holding.deadline = min(untils[holding.owner] or now, now)
        return resets

    def _host_for(self, holdings: Collection[Holding]) -> Host:
        return Host(self._kernel, {each.address for each in holdings})
