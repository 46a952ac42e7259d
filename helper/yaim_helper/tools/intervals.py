"""One time in which a node held an address: as it is found in the end, and while it goes on.

Holds what is known of it; history.py says what the record tells. Reads no files.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from yaim_helper.tools.coverage import Interval
from yaim_helper.tools.records import Micros

GRACE_US = 200_000
"""Without the fence an address may outlive its deadline by so much."""
FENCE_GRACE_US = 50_000
"""With it, it may answer for so much longer."""
BROOM_US = 71_500_000
"""An address that is fenced may lie muted on an interface for so long after its deadline: its
lifetime in the kernel is 60 s, which ends late by an eighth and 4 s at most."""
FOREVER: Micros = 2**62
Owner: TypeAlias = tuple[int, str]


@dataclass(frozen=True, slots=True)
class HeldInterval:
    """The time from when an address came to a node until it went."""

    address: str
    node: str
    possible: Interval
    """The first instant at which it may have answered, and the last."""
    sure: tuple[Interval, ...]
    """The parts of it in which it surely did."""
    ended: str
    """How it is known to have ended."""
    muted: Interval | None = None
    """The time after that in which it may have been on the interface, and answered nothing."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What ends the answers of an address that nobody renews."""

    grace: Micros
    """They end so long after the deadline at most."""
    is_fence: bool
    """Whether the address may lie muted on the interface afterwards."""

    def or_(self, other: "Guard") -> "Guard":
        """Returns what holds as long as it is not known which of the two does."""
        return Guard(max(self.grace, other.grace), self.is_fence or other.is_fence)


LIFETIME = Guard(GRACE_US, False)
FENCE = Guard(FENCE_GRACE_US, True)
BROOM = Guard(BROOM_US, True)
"""Lifetimes as they are under a fence, which is not in force."""


@dataclass(slots=True)
class OpenInterval:
    """An interval that goes on, as far as the record is read."""

    address: str
    possible_from: Micros
    guard: Guard
    lost_until: Micros = 0
    """When its fence was made anew the last time. It was not in force for some time before."""
    may_be_done: bool = False
    """Whether an add that has failed may be done still, with the deadline of a later renewal."""
    live_until: Micros | None = None
    """Until when it surely answers by the fence of a life that is over; None: it is not left by
    one, or is not fenced."""
    before: "OpenInterval | None" = None
    """The one that may lie muted on the interface, if this one was only asked for since."""
    answered_until: Micros | None = None
    """The deadline that was in force when removing it began."""
    sure: list[Interval] = field(default_factory=list)
    sure_from: Micros | None = None
    """Since when it is surely there; None: at present that is not sure."""
    proven_at: Micros = 0
    """The last instant at which it surely was there, if it is sure."""
    removal_at: Micros | None = None
    """When removing it may have begun."""
    is_only_asked_for: bool = False
    """All that is known is an add, which may be refused."""
    adds: int = 0
    """Adds without results."""
    asked_by: Owner | None = None
    """Whose add was the last, and the latest deadline of those without results."""
    asked_until: Micros = 0
    owner: Owner | None = None
    place: tuple[str, int] | None = None
    deadline: Micros | None = None
    """The latest deadline; None: it is not known."""
    is_renewed: bool = False
    """Whether this life of the helper holds it."""
    is_renewal_to_come: bool = False
    """Whether it may have been renewed, and that is not told yet."""
    deadline_told: Micros | None = None
    """Its own deadline, as it was told last."""
    policy: str = ""
    """The policy in force when it was last known to be there."""

    def prove(self, at: Micros) -> None:
        """Takes in that it was there then, or until removing it began; and before, if that was
        sure."""
        if self.removal_at is not None:
            at = min(at, self.removal_at)
        if self.sure_from is not None:
            self.proven_at = max(self.proven_at, at)

    def begin_sure(self, at: Micros) -> None:
        """Takes in that it is there from now on, whatever was before."""
        if self.sure_from is None:
            self.sure_from = self.proven_at = at
        self.proven_at = max(self.proven_at, at)

    def doubt(self) -> None:
        """Takes in that nothing is sure since it was proven the last time."""
        if self.sure_from is not None and self.proven_at > self.sure_from:
            self.sure.append((self.sure_from, self.proven_at))
        self.sure_from = None

    def is_until(self, deadline: Micros | None) -> None:
        """Takes in a deadline; a later one that is known already stays."""
        if deadline is not None and self.deadline is not None:
            self.deadline = max(self.deadline, deadline)
        else:
            self.deadline = None

    @property
    def bound(self) -> Micros:
        """The instant at which it answers no more, if it is not renewed."""
        if self.deadline is None:
            return FOREVER
        return max(self.deadline + self.guard.grace, self.lost_until)

    @property
    def off_at(self) -> Micros:
        """The instant at which it is off the interface, if it is not renewed."""
        if self.deadline is None or not self.guard.is_fence:
            return self.bound
        return max(self.deadline + BROOM_US, self.bound)

    @property
    def is_final(self) -> bool:
        """Whether no renewal has made its deadline later than is told."""
        return not self.is_renewal_to_come and not self.may_be_done
