"""A model of a host's kernel: its addresses, how late it removes those whose lifetime is over, and
which of them answer.

Lifetimes are whole seconds. helper/PROTOCOL.md bounds the lateness; here it is anything up to that
bound, and often the bound itself.

While the routing lock (RTNL) is held nothing changes. What was asked for waits, and is done when
the lock is free: a request of the helper's within a moment, with the lifetime that it came with;
what the kernel itself removes before or after that.

What is on an interface answers, unless the fence (tests/sim/fence.py) has muted it. No lock of the
routing code concerns that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.sim.fence import NOTICED_WITHIN_S, ModelRuleset
from yaim.core.model import Address, Place

if TYPE_CHECKING:
    from tests.sim.host import Host

EARLY_S = 0.02
ACT_WITHIN_S = 0.1
"""The time from the helper's look at its clock to the effect."""
NOT_ALL_ENDED = 0.1
"""How often the time is over before all connections have ended."""
GOT_WITHIN_S = 0.03
"""The time from when the lock is free until who has waited has had it."""


class Stuck(Exception):
    """The request waits for the routing lock; who has made it can do nothing until it is done."""


def lateness_s(lifetime_s: int, life_s: float) -> float:
    """How late an address is removed at most, as helper/PROTOCOL.md reckons; written down here once
    more, so that the helper's own arithmetic is put to the test."""
    return lifetime_s / 8 + min(max(0.4 * life_s, 1.4), 2.5) + ACT_WITHIN_S


@dataclass(slots=True)
class Resets:
    """What became of the connections that were to end."""

    reset: int = 0
    left: int = 0


class ModelKernel:
    def __init__(self, host: "Host") -> None:
        self._host = host
        self.ours: dict[Address, float] = {}
        """What the helper has put there, and when it goes, on the host's clock."""
        self.places: dict[Address, Place] = {}
        """Where each of these is."""
        self.ruleset = ModelRuleset(host)
        self.answering: dict[Address, None] = {}
        """Those of `ours` that answer."""
        self.by_fenced: set[Address] = set()
        """Those of `ours` that a helper with a fence has put there."""
        self.connections: set[Address] = set()
        """The addresses with TCP connections to this host. Clients connect to all that answers."""
        self.is_bare = False
        """Somebody has flushed the ruleset, and no helper has made that good yet."""
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
                self.set_lifetime(address, place, lifetime_s, life_s)
                self._host.end_stuck(helper, is_alarm_over=True)

            self.when_free(self.soon_s(), put_late)
            raise Stuck
        self.set_lifetime(address, place, lifetime_s, life_s)

    def soon_s(self) -> float:
        return self._host.random.uniform(0.0, GOT_WITHIN_S)

    def set_lifetime(
        self,
        address: Address,
        place: Place,
        lifetime_s: int,
        life_s: float,
        *,
        is_fenced: bool = False,
    ) -> None:
        """By whoever has the lock."""
        if self.places.get(address, place) != place:
            raise AssertionError(f"{address} is on {self.places[address]}, and put on {place}")
        late_s = lateness_s(lifetime_s, life_s)
        share = self._host.random.random() * 1.5
        before = self.ours.get(address)
        ends_at = self._host.clock() + lifetime_s - EARLY_S + min(share, 1.0) * (late_s + EARLY_S)
        self.ours[address] = ends_at
        self.places[address] = place
        self.by_fenced.discard(address)
        if is_fenced:
            self.by_fenced.add(address)
            self._host.world.checker.put_with_fence(self._host, address)
        if before is None:
            self.judge()
        if before is None or ends_at < before:
            self._watch(address)

    def take_off(self, address: Address, resets: Resets | None = None) -> bool:
        """Whether it was there. Raises Stuck: then it is still to be done. `resets`: its
        connections end before."""
        if self.is_held:
            self._host.tell(f"the kernel holds its lock: removing {address} waits")
            helper = self._host.helper
            self.when_free(self.soon_s(), lambda: self._host.end_stuck(helper, is_alarm_over=False))
            raise Stuck
        return self.delete(address, is_by_helper=True, resets=resets)

    def delete(
        self, address: Address, *, is_by_helper: bool = False, resets: Resets | None = None
    ) -> bool:
        """Whether it was there. By whoever has the lock."""
        if self.ours.pop(address, None) is None:
            return False
        if resets is not None:
            self._reset(address, resets)
        self.unrecorded.discard(address)
        self.by_fenced.discard(address)
        self.judge()
        self._host.address_is_gone(address, self.places.pop(address))
        if not is_by_helper:
            self._host.deliver(GOT_WITHIN_S / 10, self._host.note_change)
        return True

    # --- connections -----------------------------------------------------------------------

    def _reset(self, address: Address, resets: Resets) -> None:
        """The address's route is gone already: no client comes back here."""
        if address not in self.connections:
            return
        self._host.world.checker.reset(self._host, address)
        self._host.tell(f"the connections of {address} are reset")
        resets.reset += 1
        if self._host.chances_of_connections.random() < NOT_ALL_ENDED:
            resets.left += 1
        else:
            self.connections.remove(address)

    def clear_connections(self, address: Address) -> None:
        """Of an address that is not here."""
        if address in self.connections:
            self._host.world.checker.counts["connections cleared"] += 1
            self._host.tell(f"what is left of the connections of {address} is cleared")
            self.connections.remove(address)

    # --- what answers ----------------------------------------------------------------------

    def judge(self) -> None:
        """Tells the checker which addresses have begun to answer, or have ceased to."""
        checker = self._host.world.checker
        for address in [*self.ours]:
            if self.ruleset.answers(address):
                if address not in self.answering:
                    self.answering[address] = None
                    self.connections.add(address)
                    checker.appeared(self._host, address)
            elif address in self.answering:
                del self.answering[address]
                checker.disappeared(self._host, address)
                checker.muted(self._host, address)
        for address in [*self.answering]:
            if address not in self.ours:
                del self.answering[address]
                checker.disappeared(self._host, address)

    def is_bare_at(self, address: Address) -> bool:
        """Whether a flush has taken its fence away, and nobody has made that good yet. What no
        record tells of nobody can."""
        was_fenced = address in self.by_fenced and not self.ruleset.is_fenced(address)
        return was_fenced and (self.is_bare or address in self.unrecorded)

    def flush(self) -> None:
        """Somebody flushes the ruleset: nft flush ruleset."""
        if self.ruleset.names():
            self._host.tell("somebody flushes the ruleset")
            self.ruleset.flush()
            self.is_bare = True
            self.judge()
            soon_s = self._host.random.uniform(0.0, NOTICED_WITHIN_S)
            self._host.deliver(soon_s, self._host.see_flush)

    # --- what is not the helper's ------------------------------------------------------------

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
        self.ruleset.flush()
        self.connections.clear()
        self.is_bare = False
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
                self.when_free(2 * self.soon_s(), look)
            elif self.ours[address] <= ends_at:
                self._host.tell(f"the kernel removes {address}: its lifetime is over")
                self.delete(address)
            else:
                self._watch(address)

        self._host.at(ends_at, look)
