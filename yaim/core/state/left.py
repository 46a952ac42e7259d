"""TCP connections that an address may have left here: which addresses these are, and what has
become of the connections of those that went.

Does not know who holds an address now: yaim/core/decide/orders.py decides what is cleared, and when
(docs/decisions.md, Connections).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from yaim.core.actions import Level, Tell
from yaim.core.events import AddressRemoved
from yaim.core.model import Address, address_order
from yaim.core.wording import some


@dataclass(frozen=True, slots=True)
class Left:
    addresses: frozenset[Address] = field(default_factory=frozenset)
    """The addresses that have been here in this life, or were when the helper was ready, but for
    those that went after a complete reset and those that were cleared."""
    ended: tuple[AddressRemoved, ...] = ()
    """What was removed and not reported yet, of what had connections."""

    def with_here(self, addresses: Iterable[Address]) -> "Left":
        """These are on our interface, or may be."""
        new = self.addresses.union(addresses)
        return self if len(new) == len(self.addresses) else replace(self, addresses=new)

    def after_removed(self, event: AddressRemoved) -> "Left":
        """The helper has removed it, and perhaps reset its connections."""
        addresses = self.addresses - {event.address} if event.left == 0 else self.addresses
        is_told = event.reset or event.left
        return Left(addresses, (*self.ended, event) if is_told else self.ended)

    def asked(self, address: Address) -> "Left":
        """What it has left is cleared, once: nothing is lost if that fails."""
        return replace(self, addresses=self.addresses - {address})

    def reporting(self, tell: Tell) -> "Left":
        """Reports in one line what this step has heard of."""
        if not self.ended:
            return self
        removed = sorted(self.ended, key=lambda each: address_order(each.address))
        names = some(str(each.address) for each in removed)
        reset = sum(each.reset for each in removed)
        left = sum(each.left or 0 for each in removed)
        is_or_are, s = ("is" if len(removed) == 1 else "are"), "s" * (reset != 1)
        could_not = f", {left} could not be" if left else ""
        was_or_were = "was" if reset == 1 else "were"
        tell(
            Level.INFO,
            f"{names} {is_or_are} off: {reset} connection{s} {was_or_were} reset{could_not}",
        )
        return replace(self, ended=())
