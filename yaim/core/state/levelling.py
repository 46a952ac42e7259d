"""Moves that would only make the spread more even, or follow a preference, and since when they are
due here (yaim/core/decide/levelling.py says which these are).

Owns whether the window is open, which an adapter tells: the core has no wall clock. Such a move
breaks connections though nothing has failed, so `rebalance` and `rebalance-delay` may put it off.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from yaim.core.actions import Level, Tell
from yaim.core.model import Address, Boottime, address_order, frozen_mapping
from yaim.core.settings import Rebalance, Settings
from yaim.core.state.wake import FOREVER, soonest
from yaim.core.wording import some


@dataclass(frozen=True, slots=True)
class Levelling:
    is_window_open: bool = False
    """Of no meaning unless the settings have a window; not told yet: it is closed."""
    due: Mapping[Address, Boottime] = field(default_factory=lambda: frozen_mapping({}))
    """The addresses that are here and would move, and since when that is so without a break."""

    def after_window(self, is_open: bool, tell: Tell) -> "Levelling":
        if is_open != self.is_window_open:
            tell(Level.INFO, f"the window of rebalance is {'open' if is_open else 'closed'}")
        return replace(self, is_window_open=is_open)

    def is_allowed(self, settings: Settings) -> bool:
        """Whether such moves may be made at this time of day."""
        is_auto = settings.rebalance is Rebalance.AUTO
        return is_auto or (settings.rebalance is not Rebalance.NEVER and self.is_window_open)

    def put_off(self, settings: Settings, now: Boottime) -> frozenset[Address]:
        """Returns what stays here for now."""
        is_allowed, delay_s = self.is_allowed(settings), settings.rebalance_delay_s
        return frozenset(
            a for a, since in self.due.items() if not is_allowed or now < since + delay_s
        )

    def at(
        self, moves: frozenset[Address], settings: Settings, now: Boottime, tell: Tell
    ) -> "Levelling":
        """`moves`: the addresses that would move now. The first of a row is told."""
        if moves == self.due.keys():
            return self
        new = replace(self, due=frozen_mapping({a: self.due.get(a, now) for a in moves}))
        if not self.due and (stays := new.put_off(settings, now)):
            tell(
                Level.INFO,
                f"{some(map(str, sorted(stays, key=address_order)))}: {_why(new, settings)}",
            )
        return new

    def wake_at(self, now: Boottime, settings: Settings) -> float:
        if not self.is_allowed(settings):
            return FOREVER
        return soonest(now, (since + settings.rebalance_delay_s for since in self.due.values()))


def _why(levelling: Levelling, settings: Settings) -> str:
    until = f"for {settings.rebalance_delay_s:g} s"
    if not levelling.is_allowed(settings):
        until = f"as rebalance is {settings.rebalance}"
    return f"to be held by other nodes, to be level; stays here {until}"
