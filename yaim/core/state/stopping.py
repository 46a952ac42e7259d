"""How the coordinator ends: a stop hands everything over, a restart leaves everything as it is."""

from dataclasses import dataclass, replace

from yaim.core.model import NEVER, Boottime
from yaim.core.state.wake import soonest

STOP_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Stopping:
    reason: str
    give_up_at: Boottime
    is_withdrawn: bool = False
    """The advertisement has gone: nothing is left but the lease."""


@dataclass(frozen=True, slots=True)
class Ending:
    stopping: Stopping | None = None
    """None: nobody has asked this node to stop."""
    leaving: str | None = None
    """Why everything is to be left to the next process, as soon as the look under way is over."""
    is_ended: bool = False
    """End was the last action: no step follows."""

    def after_stop_asked(self, reason: str, now: Boottime) -> "Ending":
        return replace(self, stopping=Stopping(reason, Boottime(now + STOP_WITHIN_S)))

    def after_withdrawn(self, stopping: Stopping) -> "Ending":
        return replace(self, stopping=replace(stopping, is_withdrawn=True))

    def leaves(self, reason: str) -> "Ending":
        return replace(self, leaving=reason)

    def ended(self) -> "Ending":
        return replace(self, is_ended=True)

    def wake_at(self, now: Boottime) -> float:
        return soonest(now, (self.stopping.give_up_at if self.stopping is not None else NEVER,))
