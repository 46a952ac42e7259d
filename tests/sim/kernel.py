"""A model of a host's kernel: its addresses, and how late it removes those whose lifetime is over.

Lifetimes are whole seconds. helper/PROTOCOL.md bounds the lateness; here it is anything up to that
bound, and often the bound itself.
"""

from typing import TYPE_CHECKING

from yaim.core.model import Address

if TYPE_CHECKING:
    from tests.sim.host import Host

EARLY_S = 0.02
ACT_WITHIN_S = 0.1
"""From the helper's look at its clock to the effect."""


def lateness_s(lifetime_s: int, life_s: float) -> float:
    """By how much at most an address is removed late, as helper/PROTOCOL.md reckons; written down
    here once more, so that the helper's own arithmetic is put to the test."""
    return lifetime_s / 8 + min(max(0.4 * life_s, 1.4), 2.5) + ACT_WITHIN_S


class ModelKernel:
    def __init__(self, host: "Host") -> None:
        self._host = host
        self.ours: dict[Address, float] = {}
        """What the helper has put there, and when it goes, on the host's clock."""
        self.foreign: set[Address] = set()
        """The host's own copies, with another prefix length."""

    def put(self, address: Address, lifetime_s: int, life_s: float) -> None:
        """Add the address, or set its lifetime anew. `life_s` is what the helper reckons with."""
        late_s = lateness_s(lifetime_s, life_s)
        share = self._host.random.random() * 1.5
        is_new = address not in self.ours
        ends_at = self._host.clock() + lifetime_s - EARLY_S + min(share, 1.0) * (late_s + EARLY_S)
        self.ours[address] = ends_at
        if is_new:
            self._host.world.checker.appeared(self._host, address)
            self._watch(address)

    def delete(self, address: Address) -> bool:
        """Whether it was there."""
        if self.ours.pop(address, None) is None:
            return False
        self._host.world.checker.disappeared(self._host, address)
        self._host.address_is_gone(address)
        return True

    def clear(self) -> None:
        """The host is switched off."""
        for address in list(self.ours):
            self.delete(address)
        self.foreign.clear()

    def _watch(self, address: Address) -> None:
        """Wait for the end of its life, which may have been put off by then."""
        ends_at = self.ours[address]

        def look() -> None:
            if address not in self.ours:
                return
            if self.ours[address] <= ends_at:
                self._host.tell(f"the kernel removes {address}: its lifetime is over")
                self.delete(address)
            else:
                self._watch(address)

        self._host.at(ends_at, look)
