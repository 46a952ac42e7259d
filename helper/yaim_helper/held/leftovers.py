"""What an earlier life of the helper has left on the interfaces, and for whom.

Which addresses are the helper's? Lifetimes are a sign and no proof: the host may give its own
addresses the same. What this life has put there is known by the kernel's stamp of when it was put
there. Who puts it there anew, or gives it lifetimes that the helper never gives, makes it the
host's. What an earlier life has left is what the record of this boot and network namespace says it
has put on this interface with this prefix length, and what looks like it at the start, unless it
was put there after the last entry on record. (An intent is on disk before its effect, so a whole
record tells of all until then.) All else is foreign: not removed, not taken over, not listed.

Where the record may have lost something, or a life may have written elsewhere, because an address
was put there after the last entry on record, what looks like the helper's at the start is in doubt.
It is left alone, too, but a request to remove it fails until its lifetime is over, so that nobody
takes for absent what an earlier life may have left. The kernel removes that by its deadline.

What remains: in the milliseconds between a look and what is done, the host may put its own in the
place of the helper's; then that gets a lifetime, or is removed. So may it between two lives of the
helper, on the same interface, with the same prefix length and such lifetimes.
"""

from collections.abc import Container

from yaim_helper.clock import STAMPS_LATE_S, boottime, since_stamp_s
from yaim_helper.held.host import Host
from yaim_helper.held.inventory import Inventory
from yaim_helper.held.refusals import MAX_DEADLINE_S
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.kernel.lifetimes import lateness_s
from yaim_helper.kernel.netlink import Found, Identity
from yaim_helper.owners import Owner
from yaim_helper.protocol import Address
from yaim_helper.record.entries import FOUND_GONE, REMOVED, Entry, own
from yaim_helper.record.recorder import Recorder

DONE_WITHIN_S, ADDED_WITHIN_S = 0.1, 5.0
"""How long after the last entry on record an effect may come that no entry tells of yet; and how
long after an intent without a result."""


class LeftOvers:
    """What was found by one look at the start."""

    def __init__(self, kernel: Kernel, recorder: Recorder, inventory: Inventory) -> None:
        """Raises KernelError if the kernel does not tell what is there."""
        self._kernel = kernel
        self._recorder = recorder
        self._inventory = inventory
        self._left: dict[Identity, Owner] = {}
        """What an earlier life has left, as it was found at the start, and for whom."""
        self._doubtful: dict[Identity, float] = {}
        """What may be such, and until when: then it has gone, or somebody renews it."""
        self._take_stock()

    def _take_stock(self) -> None:
        """Looks at what is there and on record. Raises KernelError."""
        now = boottime()
        past = self._recorder.past
        for place in self._kernel.addresses():
            if place.valid_s is None or not place.is_like_ours:
                continue
            recorded = past.places.get(str(place.address), {})
            here = self._kernel.name(place.index), place.prefix
            is_awaited = past.is_awaited(str(place.address), here)
            # Who asked for it may have found it there, and who had it then is not told.
            owner = recorded.get(here) if past.is_whole or not is_awaited else None
            done_s = ADDED_WITHIN_S if is_awaited else DONE_WITHIN_S
            # The time in which the host was suspended since the record counts on one side only:
            # that is for more doubt.
            age_s = since_stamp_s(place.created)
            is_told = age_s - STAMPS_LATE_S > now - past.known_until
            if owner is not None and age_s + done_s >= now - past.last_at:
                self._left[place.identity] = owner
            elif recorded or not past.is_whole or not is_told:
                life_s = 1 + place.valid_s * 1.125 + lateness_s(MAX_DEADLINE_S)
                self._doubtful[place.identity] = now + life_s

    def owner_of(self, place: Found) -> Owner | None:
        """Returns for whom an earlier life has left the address at that place; None: it has not."""
        return self._left.get(place.identity) if place.is_like_ours else None

    def is_doubtful(self, place: Found) -> bool:
        """Whether an earlier life may have left the address at that place."""
        return place.is_like_ours and boottime() < self._doubtful.get(place.identity, 0.0)

    def is_helpers(self, place: Found) -> bool:
        """Whether the helper has put the address at that place, in this life or an earlier one."""
        holding = self._inventory.get(place.address)
        if holding is not None and holding.is_it(place):
            return True
        return self.owner_of(place) is not None

    @property
    def is_empty(self) -> bool:
        """Whether an earlier life has surely left nothing that is there still, and not taken
        over."""
        return not self.owners() and not self._doubtful

    def copies(self, address: Address, host: Host) -> list[Entry]:
        """Returns where on this host the address is and not because of the helper, as a reply tells
        it. Raises KernelError."""
        return [
            {
                "address": str(address),
                "interface": self._kernel.name(each.index),
                "prefix": each.prefix,
            }
            for each in host.places(address)
            if not self.is_helpers(each)
        ]

    def listed(self, host: Host) -> list[tuple[Found, Owner | None]]:
        """Returns what an earlier life has left and nobody has taken over, and for whom; None: it
        may have left that. Raises KernelError."""
        places = list(host.all_places())
        there = {each.identity for each in places}
        self._left = {each: owner for each, owner in self._left.items() if each in there}
        self._doubtful = {each: until for each, until in self._doubtful.items() if each in there}
        return [
            (each, self.owner_of(each))
            for each in places
            if self._inventory.get(each.address) is None
            and (self.owner_of(each) or self.is_doubtful(each))
        ]

    def owners(self) -> dict[Address, Owner]:
        """Returns what an earlier life has left and nobody has taken over, as it was found at the
        start, and for whom."""
        return {
            address: owner
            for (address, *_), owner in self._left.items()
            if self._inventory.get(address) is None
        }

    def remove_all(
        self, host: Host, why: str, only: Container[Address] | None = None
    ) -> list[Address]:
        """Removes what nobody has taken over (None: any), because its deadline is not known and
        came nearer, or is over. What is in doubt stays. Returns what surely has gone. Raises
        KernelError if the kernel does not tell what is there."""
        removed = []
        for place, owner in self.listed(host):
            if owner is None or (only is not None and place.address not in only):
                continue
            name = self._kernel.name(place.index)
            entry = own("expire", place.address, name, owner, f"{why}: removing")
            self._recorder.note([entry])
            try:
                was_there = host.delete(place.index, place.address, place.prefix)
            except KernelError as error:
                outcome = f"cannot remove it: {error.reason}"
            else:
                outcome = REMOVED if was_there else FOUND_GONE
                removed.append(place.address)
            self._recorder.note([{**entry, "outcome": outcome}])
        return removed
