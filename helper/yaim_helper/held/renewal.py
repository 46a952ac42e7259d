"""Giving addresses their lifetimes in the kernel: when they are added, with each renewal, and
between renewals as far as the deadline allows.

An address gets the longest lifetime that its deadline allows, and what the kernel has done is read
back. Works on what is held (inventory.py); decides neither what is held nor until when.
"""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from yaim_helper.clock import boottime
from yaim_helper.held.fences import Fences
from yaim_helper.held.holding import Holding
from yaim_helper.held.host import Host
from yaim_helper.held.inventory import Inventory
from yaim_helper.kernel.addresses import MAX_TOGETHER, Assignment, Kernel, KernelError
from yaim_helper.kernel.alarm import act_within
from yaim_helper.kernel.lifetimes import ACT_WITHIN_S, EARLY_S, broom_s, lifetime_s
from yaim_helper.neighbours.announce import Announcer
from yaim_helper.protocol import Address
from yaim_helper.record.recorder import Recorder


class Renewal:
    """Sets lifetimes and reads them back."""

    def __init__(
        self,
        kernel: Kernel,
        inventory: Inventory,
        announcer: Announcer,
        recorder: Recorder,
        tell_alive: Callable[[], None],
        fences: Fences | None = None,
    ) -> None:
        """`tell_alive` is called again and again while something takes long."""
        self._kernel = kernel
        self._inventory = inventory
        self._announcer = announcer
        self._recorder = recorder
        self._tell_alive = tell_alive
        self._fences = fences

    def extend(self, holdings: Sequence[Holding], host: Host) -> list[Address]:
        """Gives each address the longest lifetime that its deadline allows, and returns those that
        are not on their interfaces. Raises KernelError.

        An address that may not be extended any more is left as it is, and so is one that is gone
        and would be the first of its network if it were put back. What is the host's now is given
        up.
        """
        taken = [each for each in holdings if each.is_taken(host.places(each.address))]
        for each in taken:
            self._inventory.give_up(each)
        holdings = [each for each in holdings if each not in taken]
        left_off = [each for each in holdings if _is_left_off(each, host)]
        for each in left_off:
            each.extend_at = math.inf
        holdings = [each for each in holdings if each not in left_off]
        self._note_failures(holdings, self.set_lifetimes(holdings, host))
        missing = self.read_back(holdings, host)
        return [each.address for each in (*taken, *left_off, *missing)]

    def _note_failures(
        self, holdings: Sequence[Holding], failed: Mapping[Address, KernelError]
    ) -> None:
        """Tells the record why lifetimes could not be set, once as long as the reason is the
        same."""
        told = []
        for holding in holdings:
            error = failed.get(holding.address)
            failure = error.reason if error is not None else ""
            if failure and failure != holding.failure:
                told.append(holding.own("extend", f"failed: {failure}"))
            holding.failure = failure
        self._recorder.note(told)

    def set_lifetimes(self, holdings: Sequence[Holding], host: Host) -> dict[Address, KernelError]:
        """Sets the lifetimes in the kernel, each as long as its deadline allows, and returns what
        went wrong. Raises KernelError: then nothing was done."""
        failed: dict[Address, KernelError] = {}
        there = {
            each.address for each in holdings if any(map(each.is_at, host.places(each.address)))
        }
        for start in range(0, len(holdings), MAX_TOGETHER):
            together = holdings[start : start + MAX_TOGETHER]
            self._tell_alive()
            with self._in_time():
                now = boottime()
                assignments = self._assignments(together, there, now)
                try:
                    failed |= self._kernel.put(assignments)
                except KernelError as error:
                    failed |= {each.address: error for each in assignments}
            is_set = {e.address: e.lifetime_s for e in assignments if e.address not in failed}
            for holding in together:
                if (lifetime := is_set.get(holding.address)) is not None:
                    holding.kernel_until = now + lifetime - EARLY_S
                    holding.created = None
                if self._fences is None:
                    holding.plan_extension(now)
                else:
                    holding.plan_sweep(now)
        return failed

    def _in_time(self) -> AbstractContextManager[None]:
        """What is inside comes in time or never. With a fence it may be late: the address is
        muted."""
        return act_within(ACT_WITHIN_S) if self._fences is None else nullcontext()

    def _assignments(
        self, holdings: Sequence[Holding], there: Container[Address], now: float
    ) -> list[Assignment]:
        """Returns what the kernel is to be asked for: nothing where the lifetime would not grow."""
        found = []
        for holding in holdings:
            left_s = holding.deadline - now
            if self._fences is None:
                lifetime = lifetime_s(left_s, holding.life_s)
            else:
                lifetime = broom_s(left_s)
            if lifetime and now + lifetime - EARLY_S > holding.kernel_until:
                found.append(holding.assignment(lifetime, is_there=holding.address in there))
        return found

    def read_back(self, holdings: Sequence[Holding], host: Host) -> list[Holding]:
        """Returns those that are not on their interfaces as the helper has put them there, as the
        kernel tells it, and announces those that are new there. Raises KernelError."""
        host.has_changed()
        missing = []
        new = []
        for holding in holdings:
            places = host.places(holding.address)
            place = next((each for each in places if holding.is_in_way(each)), None)
            if place is None:
                missing.append(holding)
            elif holding.is_it(place):
                if place.created != holding.created_before:
                    # This is so, too, for what has gone since it was looked for, and was put there
                    # again.
                    if holding.created_before is not None:
                        told = holding.own("extend", "somebody had removed it: put back")
                        self._recorder.note([told])
                    new.append(holding)
                holding.created = holding.created_before = place.created
            elif holding.created_before is None and place.valid_s is None:
                # It is new, and the helper's. The kernel should never do this.
                host.delete(place.index, place.address, place.prefix)
                missing.append(holding)
                self._recorder.note([holding.own("extend", "had no lifetime: removed")])
            else:
                self._inventory.give_up(holding)
                missing.append(holding)
        self.announce(new)
        return missing

    def announce(self, holdings: Sequence[Holding]) -> None:
        """Begins to tell the neighbours where these addresses are, unless their deadlines have
        passed."""
        for start in range(0, len(holdings), MAX_TOGETHER):
            self._tell_alive()
            with act_within(ACT_WITHIN_S):
                now = boottime()
                for holding in holdings[start : start + MAX_TOGETHER]:
                    if now < holding.deadline:
                        self._announcer.start(holding.interface.name, holding.address, now)


def _is_left_off(holding: Holding, host: Host) -> bool:
    """Whether the address has gone, and is not put back because it would be the first of its
    network."""
    return host.would_take_others_along(
        holding.address, holding.prefix, holding.interface
    ) and not any(holding.is_at(place) for place in host.places(holding.address))
