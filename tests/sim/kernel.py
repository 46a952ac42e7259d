"""A model of a host's kernel: its addresses, and how late it removes those whose lifetime is over.

Lifetimes are whole seconds. helper/PROTOCOL.md bounds the lateness; here it is anything up to that
bound, and often the bound itself.

While the routing lock (RTNL) is held nothing changes. What was asked for waits, and is done when
the lock is free: a request of the helper's within a moment, with the lifetime that it came with;
what the kernel itself removes before or after that.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from yaim.core.model import Address, Place

if TYPE_CHECKING:
    from tests.sim.host import Host

EARLY_S = 0.02
ACT_WITHIN_S = 0.1
"""The time from the helper's look at its clock to the effect."""
GOT_WITHIN_S = 0.03
"""The time from when the lock is free until who has waited has had it."""


class Stuck(Exception):
    """The request waits for the routing lock; who has made it can do nothing until it is done."""


def lateness_s(lifetime_s: int, life_s: float) -> float:
    """How late an address is removed at most, as helper/PROTOCOL.md reckons; written down here once
    more, so that the helper's own arithmetic is put to the test."""
    return lifetime_s / 8 + min(max(0.4 * life_s, 1.4), 2.5) + ACT_WITHIN_S


class ModelKernel:
    def __init__(self, host: "Host") -> None:
        self._host = host
        self.ours: dict[Address, float] = {}
        """What the helper has put there, and when it goes, on the host's clock."""
        self.places: dict[Address, Place] = {}
        """Where each of these is."""
        self.unrecorded: set[Address] = set()
        """Those of `ours` that no record tells of any more."""
        self.foreign: set[Address] = set()
        """The host's own copies, with another prefix length."""
        self.faded: set[Address] = set()
        """Those of them that look like the helper's by now."""
        self.held_until = 0.0
        """Somebody has the routing lock until then, in the world's time."""
        self._waiting: list[tuple[float, Callable[[], object]]] = []
        """Who waits for the lock: what they do, and how long after it is free."""
        self.under_way: set[Address] = set()
        """What a request that waits for the lock is to put there."""

    @property
    def is_held(self) -> bool:
        return self._host.world.timeline.now < self.held_until

    def hold(self, seconds: float) -> None:
        timeline = self._host.world.timeline
        self.held_until = max(self.held_until, timeline.now + seconds)
        timeline.later(seconds, self._let_in)

    def release(self) -> None:
        self.held_until = min(self.held_until, self._host.world.timeline.now)
        self._let_in()

    def when_free(self, after_s: float, what: Callable[[], object]) -> None:
        """So long after the lock is free. Should somebody have it again by then: who has waited
        goes first."""
        self._waiting.append((after_s, what))
        self._let_in()

    def _let_in(self) -> None:
        if not self.is_held:
            waiting, self._waiting = self._waiting, []
            for after_s, what in waiting:
                self._host.deliver(after_s, what)

    def put(self, address: Address, place: Place, lifetime_s: int, life_s: float) -> None:
        """Add the address, or set its lifetime anew. `life_s` is what the helper reckons with.
        Raises Stuck: then it is done in any case, later, whatever becomes of the helper."""
        if self.is_held:
            self._host.tell(f"the kernel holds its lock: adding {address} waits")
            self.under_way.add(address)
            helper, under_way = self._host.helper, self.under_way

            def put_late() -> None:
                if self.under_way is not under_way:
                    return  # The host was switched off.
                self.under_way.discard(address)
                self._host.tell(f"the kernel does what it was asked for before: adds {address}")
                self._put(address, place, lifetime_s, life_s)
                self._host.end_stuck(helper, is_alarm_over=True)

            self.when_free(self._soon_s(), put_late)
            raise Stuck
        self._put(address, place, lifetime_s, life_s)

    def _soon_s(self) -> float:
        return self._host.random.uniform(0.0, GOT_WITHIN_S)

    def _put(self, address: Address, place: Place, lifetime_s: int, life_s: float) -> None:
        if self.places.get(address, place) != place:
            raise AssertionError(f"{address} is on {self.places[address]}, and put on {place}")
        late_s = lateness_s(lifetime_s, life_s)
        share = self._host.random.random() * 1.5
        is_new = address not in self.ours
        ends_at = self._host.clock() + lifetime_s - EARLY_S + min(share, 1.0) * (late_s + EARLY_S)
        self.ours[address] = ends_at
        self.places[address] = place
        if is_new:
            self._host.world.checker.appeared(self._host, address)
            self._watch(address)

    def take_off(self, address: Address) -> bool:
        """Whether it was there. Raises Stuck: then it is still to be done."""
        if self.is_held:
            self._host.tell(f"the kernel holds its lock: removing {address} waits")
            helper = self._host.helper
            self.when_free(
                self._soon_s(), lambda: self._host.end_stuck(helper, is_alarm_over=False)
            )
            raise Stuck
        return self.delete(address)

    def delete(self, address: Address) -> bool:
        """Whether it was there. By whoever has the lock."""
        if self.ours.pop(address, None) is None:
            return False
        self.unrecorded.discard(address)
        self._host.world.checker.disappeared(self._host, address)
        self._host.address_is_gone(address, self.places.pop(address))
        return True

    def add_foreign(self, address: Address) -> None:
        if address not in self.foreign:
            self.foreign.add(address)
            self._host.tell(f"somebody adds {address}, not by yaim")
            self._host.tell_own()

    def fade(self, address: Address) -> None:
        if address in self.foreign and address not in self.faded:
            self.faded.add(address)
            self._host.tell(f"{address}, which is there not by yaim, gets a helper's lifetimes")

    def delete_foreign(self, address: Address) -> None:
        if address in self.foreign:
            self.foreign.remove(address)
            self.faded.discard(address)
            self._host.tell(f"somebody removes {address}, which was not there by yaim")
            self._host.foreign_is_gone(address)
            self._host.tell_own()

    def clear(self) -> None:
        """The host is switched off."""
        for address in list(self.ours):
            self.delete(address)
        self.foreign.clear()
        self.faded.clear()
        self.unrecorded.clear()
        self.under_way = set()
        self._waiting.clear()
        self.held_until = 0.0

    def _watch(self, address: Address) -> None:
        """Wait for the end of its life, which may have been put off by then."""
        ends_at = self.ours[address]

        def look() -> None:
            if address not in self.ours:
                return
            if self.is_held:
                self.when_free(2 * self._soon_s(), look)
            elif self.ours[address] <= ends_at:
                self._host.tell(f"the kernel removes {address}: its lifetime is over")
                self.delete(address)
            else:
                self._watch(address)

        self._host.at(ends_at, look)
