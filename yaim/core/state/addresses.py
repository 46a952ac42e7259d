"""What is known of the addresses on this node's interfaces, and what was asked of the helper.

Owns the phase, place and latest deadline of each address, and the look for those that are overdue.
Does not know which node should hold an address.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from yaim.core.actions import AddAddress, Level, RemoveAddress, Tell
from yaim.core.deadline import HELPER_GRACE_S
from yaim.core.events import HelperReady
from yaim.core.model import (
    NEVER,
    Address,
    Boottime,
    Place,
    frozen_mapping,
    thawed,
)
from yaim.core.overdue import LOOK_AGAIN_S, Look, overdue_since, report
from yaim.core.state.wake import FOREVER, soonest

ADD_RETRY_S = 0.1
"""How long after an add was asked for the next one for the same address is."""
REMOVE_RETRY_S = 1.0
MOVE_RETRY_S = 60.0
"""How long an address stays where it is after the helper could not put it where it should be."""


class Phase(Enum):
    """What is known of an address on our own interface."""

    UNKNOWN = "unknown"
    ADDING = "adding"
    UP = "up"
    REMOVING = "removing"
    ABSENT = "absent"
    """Confirmed by the helper; or its last deadline and the helper's grace have passed, and then it
    was looked for and not found, or a fence keeps it from answering (yaim/core/overdue.py)."""


@dataclass(frozen=True, slots=True)
class AddressState:
    """An address on our interface. One of which nothing is recorded is as good as UNKNOWN."""

    phase: Phase
    request: int = 0
    """The number of the add or remove under way; answers to others are out of date."""
    deadline: Boottime = NEVER
    """The latest deadline that was ever handed on with it."""
    retry_at: Boottime = NEVER
    """Nothing is asked for it again before."""
    has_gone: bool = False
    """While the add was under way the address has gone from some place on this host."""
    place: Place | None = None
    """The place where it is, or was; None: not known."""
    to: Place | None = None
    """The place where the add under way puts it, from wherever it is."""
    could_not_be_at: Place | None = None
    """The place to which the helper could not move it."""
    stays_until: Boottime = NEVER
    """The time when that move is tried again."""
    failure: str = ""
    """Why it could not be removed, as last reported."""
    expired: int = 0
    """How often in a row the helper has refused it because of its deadline."""
    is_fenced: bool = False
    """Whether a fence keeps it from answering after its deadline, wherever it lies."""
    resets: bool = False
    """Whether the removal under way resets its connections."""

    def after_added(self) -> "AddressState":
        return replace(self, phase=Phase.UP, place=self.to, to=None, expired=0)

    def after_removed(self) -> "AddressState":
        return AddressState(Phase.ABSENT, place=self.place)

    def after_refused(self, now: Boottime, expired: int) -> "AddressState":
        """The helper has done nothing: what an earlier add has put there may be there still."""
        return replace(
            self,
            phase=Phase.UNKNOWN,
            retry_at=Boottime(now + ADD_RETRY_S),
            has_gone=False,
            expired=expired,
        )

    def after_add_failed(self) -> "AddressState":
        return replace(self, phase=Phase.UNKNOWN)

    def after_removal_failed(self, reason: str, now: Boottime) -> "AddressState":
        return replace(self, retry_at=Boottime(now + REMOVE_RETRY_S), failure=reason)

    def after_move_failed(self, now: Boottime) -> "AddressState":
        """It is on the interface where it was, or comes back there."""
        return replace(
            self,
            to=None,
            retry_at=now,
            could_not_be_at=self.to,
            stays_until=Boottime(now + MOVE_RETRY_S),
        )

    def after_gone(self) -> "AddressState":
        return replace(self, phase=Phase.UNKNOWN)

    def after_gone_while_added(self) -> "AddressState":
        return replace(self, has_gone=True)


NOT_KNOWN = AddressState(Phase.UNKNOWN)
ABSENT = AddressState(Phase.ABSENT)
RENEWED = frozenset({Phase.ADDING, Phase.UP, Phase.UNKNOWN})
"""The phases that a renewal counts for. The helper may have an address on record, and renew it, of
which we know nothing."""


@dataclass(frozen=True, slots=True)
class Addresses:
    known: Mapping[Address, AddressState] = field(default_factory=lambda: frozen_mapping({}))
    """The addresses of which something is known."""
    left_over: Mapping[Address, Place | None] = field(default_factory=lambda: frozen_mapping({}))
    """The addresses that an earlier life of the helper has left on our interfaces, as far as nobody
    has looked at them yet, and their places."""
    look: Look = field(default_factory=Look)
    is_fenced: bool = False
    """Whether the helper has a fence: then what is added is in it."""
    has_later_deadlines: bool = False
    """The helper may have later deadlines on record than the lease allows, because it has no fence
    any more: an earlier one is to be handed on, once."""

    @property
    def held(self) -> tuple[Address, ...]:
        """The addresses that are on our interface, as far as we know."""
        return tuple(a for a, known in self.known.items() if known.phase is Phase.UP)

    def names(self) -> frozenset[Address]:
        """Returns all addresses of which something is known."""
        return frozenset(thawed(self.known))

    def phase(self, address: Address) -> Phase:
        known = self.known.get(address)
        return known.phase if known is not None else Phase.UNKNOWN

    def is_up(self, address: Address) -> bool:
        return self.phase(address) is Phase.UP

    def is_absent(self, address: Address) -> bool:
        """Whether the address is confirmed off our interface."""
        return self.phase(address) is Phase.ABSENT

    def is_free(self, address: Address) -> bool:
        """Whether the address cannot be on our interface: it is absent, or was never asked for."""
        return self.known.get(address, ABSENT).phase is Phase.ABSENT

    def under_way(self, request: int, address: Address, phase: Phase) -> AddressState | None:
        """Returns what is known of the address, if this request is the one that it waits for."""
        known = self.known.get(address)
        if known is None or known.request != request or known.phase is not phase:
            return None
        return known

    def overdue(self, now: Boottime) -> dict[Address, Boottime]:
        """Returns what should be off our interface by now, each address with its deadline."""
        return {
            address: known.deadline
            for address, known in self.known.items()
            if now >= known.deadline + HELPER_GRACE_S and known.phase is not Phase.ABSENT
        }

    # --- after an event ---------------------------------------------------------------------

    def after_ready(self, event: HelperReady) -> "Addresses":
        """An address that the helper has on record is up. Others that we thought we had are
        unknown: the helper may have been restarted, and the kernel still have the address."""
        now_known = {
            address: known if known.phase is Phase.ABSENT else replace(known, phase=Phase.UNKNOWN)
            for address, known in self.known.items()
        }
        for recorded in event.addresses:
            before = now_known.get(recorded.address)
            deadline = max(recorded.deadline, before.deadline if before else NEVER)
            place = event.places.get(recorded.address)
            is_fenced = event.fence.is_in_force
            now_known[recorded.address] = AddressState(
                Phase.UP, deadline=deadline, place=place, is_fenced=is_fenced
            )
        return replace(
            self,
            known=frozen_mapping(now_known),
            left_over=frozen_mapping({a: event.places.get(a) for a in event.left_over}),
            is_fenced=event.fence.is_in_force,
        )

    def after_fence_lost(self) -> "Addresses":
        return replace(self, has_later_deadlines=True)

    def after_deadlines(self, now: Boottime, tell: Tell) -> "Addresses":
        """What a fence keeps is as good as gone with its deadline and the grace (overdue.py)."""
        over = [a for a in self.overdue(now) if self.known[a].is_fenced]
        if not over:
            return self
        now_known = thawed(self.known)
        for address in over:
            known = self.known[address]
            if known.phase is Phase.UP:
                tell(Level.WARNING, f"lost {address}: its deadline has passed")
            now_known[address] = AddressState(Phase.ABSENT, place=known.place)
        return replace(self, known=frozen_mapping(now_known))

    def after_look(self, present: frozenset[Address], now: Boottime, tell: Tell) -> "Addresses":
        """An address that was overdue when the look was asked for, and was not seen, is gone
        (overdue.py)."""
        now_known = thawed(self.known)
        for address, known in self.known.items():
            is_in_time = overdue_since(known.deadline) > self.look.asked_at
            if known.phase is Phase.ABSENT or is_in_time or address in present:
                continue
            if known.phase is Phase.UP:
                tell(Level.WARNING, f"lost {address}: its deadline has passed")
            now_known[address] = AddressState(Phase.ABSENT, place=known.place)
        return replace(self, known=frozen_mapping(now_known)).after_look_ended("", now)

    def after_look_ended(self, failure: str, now: Boottime) -> "Addresses":
        due = Boottime(now + LOOK_AGAIN_S)
        return replace(self, look=replace(self.look, is_pending=False, due=due, failure=failure))

    def after_settings(self) -> "Addresses":
        """An address that could not be moved is tried again at once."""
        retried = {a: replace(known, stays_until=NEVER) for a, known in self.known.items()}
        return replace(self, known=frozen_mapping(retried))

    # --- with time --------------------------------------------------------------------------

    def forgetting(self, mine: frozenset[Address], now: Boottime) -> "Addresses":
        """Forgets what is off our interface and of no concern to us. `mine`: has our mark."""
        over = [
            address
            for address, known in self.known.items()
            if known.phase is Phase.ABSENT and address not in mine and now >= known.retry_at
        ]
        if not over:
            return self
        kept = thawed(self.known)
        for address in over:
            del kept[address]
        return replace(self, known=frozen_mapping(kept))

    def reporting_overdue(
        self, overdue: Mapping[Address, Boottime], now: Boottime, tell: Tell
    ) -> "Addresses":
        """Reports what is overdue, and once that it is not any more. `overdue`: see above."""
        look = self.look
        if overdue:
            if now < look.reports_at(overdue_since(min(overdue.values()))):
                return self
            tell(Level.WARNING, report(look, overdue, now))
            return replace(self, look=replace(look, reported_at=now))
        if look.reported_at is not None:
            tell(Level.INFO, "nothing is on the interface after its deadline any more")
        if not look.is_pending:
            return self if look == Look() else replace(self, look=Look())
        return replace(self, look=replace(look, reported_at=None))

    def is_look_due(self, now: Boottime) -> bool:
        return not self.look.is_pending and now >= self.look.due

    def asked_look(self, now: Boottime) -> "Addresses":
        first = self.look.first_asked_at
        first = now if first is None else first
        look = replace(self.look, is_pending=True, asked_at=now, first_asked_at=first)
        return replace(self, look=look)

    def swept(self, found: Mapping[Address, AddressState]) -> "Addresses":
        """`found`: the left-over addresses that are treated as unknown from now on."""
        known = frozen_mapping(thawed(self.known) | dict(found)) if found else self.known
        return replace(self, known=known, left_over=frozen_mapping({}))

    # --- when something is asked for --------------------------------------------------------

    def asked(
        self, actions: Sequence[AddAddress | RemoveAddress], now: Boottime, ttl_s: int
    ) -> "Addresses":
        """The helper was asked for these. An address that was unknown to us is an earlier life's,
        whose deadlines are over within a TTL of its end."""
        now_known = thawed(self.known)
        for action in actions:
            known = now_known.get(action.address)
            match action:
                case RemoveAddress():
                    before = known or replace(NOT_KNOWN, deadline=Boottime(now + ttl_s))
                    now_known[action.address] = replace(
                        before,
                        phase=Phase.REMOVING,
                        request=action.request,
                        to=None,
                        retry_at=Boottime(now + ttl_s),
                        resets=action.resets,
                    )
                case AddAddress():
                    before = known or NOT_KNOWN
                    to = Place(action.interface, action.prefix_length)
                    now_known[action.address] = AddressState(
                        Phase.ADDING,
                        action.request,
                        max(action.deadline, before.deadline),
                        Boottime(now + ADD_RETRY_S),
                        place=to if before.phase is Phase.ABSENT else before.place,
                        to=to,
                        could_not_be_at=before.could_not_be_at,
                        stays_until=before.stays_until,
                        expired=before.expired,
                        is_fenced=self.is_fenced,
                    )
        return replace(self, known=frozen_mapping(now_known))

    def needs_renewal(self, deadline: Boottime) -> bool:
        """Whether something is on our interface, or soon is, with an earlier deadline; or with a
        later one, if that is no longer allowed."""
        return any(
            (known.deadline < deadline or (self.has_later_deadlines and known.deadline > deadline))
            and known.phase in (Phase.ADDING, Phase.UP)
            for known in self.known.values()
        )

    def asked_renewal(self, deadline: Boottime) -> "Addresses":
        renewed = {
            address: replace(known, deadline=deadline)
            for address, known in self.known.items()
            if known.phase in RENEWED and known.deadline < deadline
        }
        known = frozen_mapping(thawed(self.known) | renewed)
        return replace(self, known=known, has_later_deadlines=False)

    def wake_at(self, now: Boottime) -> float:
        first, first_overdue = FOREVER, FOREVER
        for known in self.known.values():
            gone_at = known.deadline + HELPER_GRACE_S
            if now < gone_at < first:
                first = gone_at
            elif gone_at <= now and gone_at < first_overdue and known.phase is not Phase.ABSENT:
                first_overdue = gone_at
            if now < known.retry_at < first:
                first = known.retry_at
        if first_overdue == FOREVER:
            return first
        reports_at = self.look.reports_at(Boottime(first_overdue))
        return min(first, soonest(now, (self.look.due, reports_at)))
