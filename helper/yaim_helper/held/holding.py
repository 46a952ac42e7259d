"""One address that the helper has put on an interface: for whom, until when, and how long the
kernel keeps it by itself.

Decides nothing and touches nothing. The promise that it serves is in helper/PROTOCOL.md: the
address is off the interface at most 0.2 s after its deadline.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from yaim_helper.kernel.addresses import Assignment, Interface
from yaim_helper.kernel.lifetimes import EARLY_S, SWEEP_AGAIN_S, last_extension_s
from yaim_helper.kernel.netlink import Found
from yaim_helper.owners import Owner
from yaim_helper.protocol import Address
from yaim_helper.record.entries import Entry, own

EXTEND_BEFORE_S = 0.5
"""The time between an extension of the lifetime, if the deadline allows one, and the instant at
which the kernel would remove the address."""
WOKEN_WITHIN_S = 0.05
"""How late the clock may wake the helper for the last extension, which is not possible any more a
moment later. The look at what is on the interface, which comes first, is part of this time."""
EXTEND_RETRY_S = 0.1
"""An extension by less than this is not worth making. After this time a failed one is repeated."""


@dataclass(eq=False, slots=True)
class Holding:
    """An address that the helper has put on an interface. All instants are of CLOCK_BOOTTIME."""

    address: Address
    interface: Interface
    prefix: int
    label: str
    owner: Owner
    deadline: float
    life_s: float
    """How far away the deadline was when the coordinator handed it over."""
    created: int | None = None
    """The kernel's stamp of when the address was put there. None: its lifetime was set, and it was
    not read back yet."""
    created_before: int | None = None
    """The value of `created` before the lifetime was set."""
    kernel_until: float = 0.0
    """The kernel does not remove the address before this instant; 0: that is not known."""
    extend_at: float = math.inf
    """When to set its lifetime anew, if no renewal comes before."""
    is_leaving: bool = False
    """It is to be removed, and is not renewed any more."""
    retry_at: float = 0.0
    """When its removal, which has failed, is repeated."""
    is_missing: bool = False
    """With a fence: it was not there, and not put back, when that was last looked at."""
    is_fenced: bool = False
    """Whether the fence keeps it from answering after its deadline."""
    failure: str = ""
    """Why its lifetime could not be set the last time; empty: it could."""

    def own(self, op: str, outcome: str) -> Entry:
        """Returns the record's entry about something that the helper did of itself."""
        place = self.address, self.interface.name, self.owner
        return own(op, *place, outcome, *(self.fenced_until or (None, None)))

    @property
    def fenced_until(self) -> tuple[bool, float] | None:
        """Returns what the record tells of the fence: it is in force for the address until the
        deadline. None: it is not."""
        return (True, self.deadline) if self.is_fenced else None

    def assignment(self, lifetime: int, *, is_there: bool) -> Assignment:
        """Returns what the kernel is asked for; lifetime in seconds."""
        place = self.interface, self.address, self.prefix
        return Assignment(*place, self.label, lifetime, is_there)

    def is_at(self, place: Found) -> bool:
        """Whether the place has the same interface and prefix length."""
        return (place.index, place.prefix) == (self.interface.index, self.prefix)

    def is_in_way(self, place: Found) -> bool:
        """Whether the kernel takes the address at that place for this one."""
        is_here = place.index == self.interface.index
        return is_here and (place.prefix == self.prefix or self.address.version == 6)

    def is_it(self, place: Found) -> bool:
        """Whether the helper has put the address at that place, and nobody changed it since."""
        is_same = self.created in (None, place.created)
        return is_same and self.is_at(place) and place.is_like_ours

    def is_taken(self, places: Iterable[Found]) -> bool:
        """Whether an address of somebody else is in the place of this one."""
        return any(self.is_in_way(each) and not self.is_it(each) for each in places)

    def plan_sweep(self, now: float) -> None:
        """Sets `extend_at` where there is a fence: long before the kernel would remove the
        address."""
        self.extend_at = max(self.kernel_until - SWEEP_AGAIN_S, now + EXTEND_RETRY_S)

    def plan_extension(self, now: float) -> None:
        """Sets `extend_at` to some time before the kernel would remove the address. The last time
        is when the deadline allows a lifetime of 1 s only."""
        last = self.deadline - last_extension_s(self.life_s) - WOKEN_WITHIN_S
        next_at = min(last, max(self.kernel_until - EXTEND_BEFORE_S, now + EXTEND_RETRY_S))
        is_worth_it = next_at + 1 - EARLY_S >= self.kernel_until + EXTEND_RETRY_S
        self.extend_at = next_at if next_at > now and is_worth_it else math.inf
