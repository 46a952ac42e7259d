"""The list of the addresses that the helper holds, and of those that it does not hold any more
without their owners knowing it yet.

Keeps lists; what is on an interface is changed elsewhere (renewal.py, removal.py). When an address
leaves the list, nobody is told about it any more.
"""

import math
from collections.abc import Collection, Iterator, Mapping

from yaim_helper.held.fences import Fences
from yaim_helper.held.holding import Holding
from yaim_helper.neighbours.announce import Announcer
from yaim_helper.neighbours.defence import Defence
from yaim_helper.owners import Owner
from yaim_helper.policy.rules import Policy
from yaim_helper.protocol import Address
from yaim_helper.record.entries import TAKEN
from yaim_helper.record.recorder import Recorder


class Inventory:
    """What is held, and what has gone."""

    def __init__(
        self,
        policy: Policy,
        recorder: Recorder,
        announcer: Announcer,
        defence: Defence,
        fences: Fences | None = None,
    ) -> None:
        self.policy = policy
        """The policy in force, which says how many addresses may be held."""
        self.jumped_s = 0.0
        """By how much all deadlines were drawn nearer since the start."""
        self._recorder = recorder
        self._announcer = announcer
        self._defence = defence
        self._fences = fences
        self._held: dict[Address, Holding] = {}
        self._expired: dict[Address, Owner] = {}
        """What was removed at its deadline, or is the host's now, and the owner that does not know
        it yet."""
        self._has_changed = False

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Holding]:
        """Returns what is held, in the order in which it came."""
        return iter(self._held.values())

    @property
    def by_address(self) -> Mapping[Address, Holding]:
        return self._held

    @property
    def is_full(self) -> bool:
        return len(self._held) >= self.policy.max_addresses

    def get(self, address: Address) -> Holding | None:
        return self._held.get(address)

    def has(self, holding: Holding) -> bool:
        """Whether it is this one that is held of its address."""
        return self._held.get(holding.address) is holding

    def take_change(self) -> bool:
        """Returns whether an address has come or gone since this was asked the last time."""
        has_changed, self._has_changed = self._has_changed, False
        return has_changed

    def deadlines(self) -> dict[Owner, float]:
        """Returns the latest deadline of each owner for whom anything is held."""
        # There may be thousands: the hash of a pair takes less time than that of an owner.
        found: dict[tuple[int, str], float] = {}
        for each in self._held.values():
            key = each.owner.uid, each.owner.cluster
            if each.deadline > found.get(key, -math.inf):
                found[key] = each.deadline
        return {Owner(*key): deadline for key, deadline in found.items()}

    # --- what comes and goes -----------------------------------------------------------------

    def put(self, holding: Holding) -> None:
        """Holds an address from now on, in the place of what is held of it."""
        self._held[holding.address] = holding
        self._has_changed = True
        self._expired.pop(holding.address, None)

    def put_back(self, holding: Holding, before: Holding | None) -> None:
        """Undoes `put`: what is on the interface is held until its deadline of before."""
        if before is None:
            self.forget(holding)
            return
        self._held[before.address] = before
        if before.is_leaving and self._fences is not None:
            # It was admitted once more meanwhile.
            self._fences.mute(before.address)

    def leave(self, holding: Holding) -> None:
        """Its removal begins: from now on it is neither renewed nor announced nor defended."""
        holding.is_leaving = True
        if self._fences is not None:
            self._fences.mute(holding.address)
        self._defence.calm(holding.address)
        self._announcer.stop(holding.address)

    def forget(self, holding: Holding) -> None:
        """Does not hold an address any more, which is off the interface, or is the host's."""
        self._announcer.stop(holding.address)
        self._defence.forget(holding.address)
        del self._held[holding.address]
        self._has_changed = True
        if self._fences is not None:
            self._fences.dismiss([holding.address])

    def give_up(self, holding: Holding) -> None:
        """Does not hold an address any more that somebody else has put there anew, or changed: it
        is the host's now."""
        self.forget(holding)
        self.note_expired(holding)
        self._recorder.note([holding.own("extend", TAKEN)])

    # --- what its owner does not know yet ------------------------------------------------------

    def note_expired(self, holding: Holding) -> None:
        """Keeps for the owner that the address has gone, until the owner knows it; no more
        addresses of each user than that user could hold."""
        uid, most = holding.owner.uid, self.policy.max_addresses
        if len(self._expired) >= most:
            of_user = [address for address, owner in self._expired.items() if owner.uid == uid]
            for address in of_user[: max(0, len(of_user) + 1 - most)]:
                del self._expired[address]
        self._expired[holding.address] = holding.owner

    def expired(self, owner: Owner) -> list[Address]:
        """Returns the addresses that have gone without this owner knowing it yet."""
        return [address for address, former in self._expired.items() if former == owner]

    def all_expired(self) -> Collection[Address]:
        """Returns the addresses that have gone without their owners knowing it yet."""
        return self._expired.keys()

    def tell_gone(self, owner: Owner, address: Address) -> None:
        """The owner learns that this address has gone."""
        if self._expired.get(address) == owner:
            del self._expired[address]

    def tell_all_gone(self, owner: Owner) -> None:
        """The owner learns which addresses it has, and so that all others have gone."""
        self._expired = {a: o for a, o in self._expired.items() if o != owner}
