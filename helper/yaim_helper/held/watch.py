"""Where there is a fence: what is on the interfaces is looked at when the kernel tells of a change,
and renewals are done from memory. So a renewal never waits for the kernel's routing lock.
"""

from collections.abc import Iterable

from yaim_helper.clock import boottime
from yaim_helper.held.fences import Fences
from yaim_helper.held.host import Host
from yaim_helper.held.inventory import Inventory
from yaim_helper.held.leftovers import LeftOvers
from yaim_helper.held.refusals import refusal_of_deadline
from yaim_helper.held.renewal import Renewal
from yaim_helper.kernel.address_news import AddressNews
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.owners import Owner
from yaim_helper.protocol import MAX_LISTED, Address, Ok, Reply
from yaim_helper.record.entries import Entry

LOOK_AGAIN_S = 0.5
"""What is missing, or was not told, is looked at again after this time, with a renewal."""


class Watch:
    """Knows what the last looks have found."""

    def __init__(
        self,
        kernel: Kernel,
        inventory: Inventory,
        left_overs: LeftOvers,
        renewal: Renewal,
        fences: Fences,
    ) -> None:
        self._kernel = kernel
        self._inventory = inventory
        self._left_overs = left_overs
        self._renewal = renewal
        self._fences = fences
        self.news = AddressNews()
        self._changed: set[Address] = set()
        """What is to be looked at."""
        self._looked_at = 0.0
        self._copies: dict[Address, list[Entry]] = {}
        """Where addresses are, too, and not because of the helper."""

    # --- what the kernel tells -------------------------------------------------------------------

    def hear(self) -> None:
        """Notes what has changed and is not what the helper itself has done."""
        changes = self.news.read()
        if changes is None:
            self._changed |= self._inventory.by_address.keys() | self._inventory.all_expired()
            return
        for place, is_there in changes:
            holding = self._inventory.get(place.address)
            if holding is None:
                is_told = place.address in self._copies
                is_ours = not is_told and place.address not in self._inventory.all_expired()
            elif is_there:
                is_ours = holding.is_it(place)
            else:
                is_ours = holding.is_leaving
            if not is_ours:
                self._changed.add(place.address)

    @property
    def is_look_due(self) -> bool:
        return bool(self._changed)

    def look(self) -> None:
        """Looks at what has changed, and puts back what is missing."""
        changed, self._changed = self._changed, set()
        self._looked_at = boottime()
        holdings = [
            each
            for each in self._inventory
            if each.address in changed and not each.is_leaving and self._looked_at < each.deadline
        ]
        host = Host(self._kernel, changed, self._left_overs.is_helpers)
        try:
            missing = set(self._renewal.extend(holdings, host))
            for each in holdings:
                each.is_missing = each.address in missing
            for address in changed:
                self._note_copies(address, host)
        except KernelError:
            for each in holdings:
                each.is_missing = True

    def _note_copies(self, address: Address, host: Host) -> None:
        copies = self._left_overs.copies(address, host)
        self._copies.pop(address, None)
        if copies:
            self._copies[address] = copies

    # --- renewals --------------------------------------------------------------------------------

    def renew(self, owner: Owner, deadline: float) -> Reply:
        """Gives all addresses of the owner another deadline. What has outlived its deadline is
        over, and stays muted. Raises KernelError."""
        now = boottime()
        refused = refusal_of_deadline(deadline - now, needs_lifetime=False)
        if refused is not None:
            return refused
        living = self._fences.renew(owner, deadline)
        holdings = [each for each in self._inventory if not each.is_leaving and each.owner == owner]
        if len(holdings) != len(living):
            # What is not in its fence yet keeps its deadline.
            holdings = [each for each in holdings if each.address in living]
        for each in holdings:
            each.deadline = deadline
            each.life_s = deadline - now
        missing = [each.address for each in holdings if each.is_missing]
        if missing and now >= self._looked_at + LOOK_AGAIN_S:
            self._changed.update(missing)
        expired = self._inventory.expired(owner)
        missing += [each for each in expired if each not in missing]
        copies = self._copies_of([*(each.address for each in holdings), *expired])
        return Ok({"missing": [str(each) for each in missing[:MAX_LISTED]], **copies})

    def _copies_of(self, addresses: Iterable[Address]) -> dict[str, list[Entry]]:
        if not self._copies:
            return {}
        copies = [copy for each in addresses for copy in self._copies.get(each, ())]
        return {"copies": copies[:MAX_LISTED]} if copies else {}
