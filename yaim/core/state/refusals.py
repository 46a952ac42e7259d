"""The addresses that this node leaves to others, as its helper would not or could not add them.

Owns what was refused, what is tried again, and how many addresses the helper has room for. When a
cause may have gone, and why, is in yaim/core/refusals.py.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from yaim.core.actions import Level, Tell
from yaim.core.model import (
    NEVER,
    Address,
    Boottime,
    ClusterView,
    NodeName,
    Place,
    frozen_mapping,
    thawed,
)
from yaim.core.refusals import (
    FAILED_FOR_AT_MOST_S,
    FAILED_FOR_S,
    Cause,
    Refusal,
    Trial,
    beyond,
    next_overdue,
    on_trial,
    sooner,
)
from yaim.core.state.addresses import Addresses, AddressState, Phase
from yaim.core.state.retry import share_of
from yaim.core.state.wake import soonest

EXPIRED_AT_MOST = 10
"""How often in a row the helper may refuse an address because of its deadline."""

Group: TypeAlias = tuple[str, int]
"""The interface and the IP version of an address. What hinders one of a group mostly hinders the
others, too."""


@dataclass(frozen=True, slots=True)
class Refusals:
    refused: Mapping[Address, Refusal] = field(default_factory=lambda: frozen_mapping({}))
    """The addresses that our helper would not add, and we leave to others."""
    told: Mapping[Address, str] = field(default_factory=lambda: frozen_mapping({}))
    """The reason that was last reported of each address that was not added since."""
    trial: Trial = field(default_factory=Trial)
    forbidden: Mapping[Address, Place] = field(default_factory=lambda: frozen_mapping({}))
    """The addresses that our helper would refuse because of their prefix length, and where they
    should be."""
    forbidden_of: tuple[object, ...] = ()
    """The values from which `forbidden` follows."""
    most: int | None = None
    """How many addresses our helper takes, as far as it has shown; None: it has not."""
    too_many: frozenset[Address] = frozenset()
    """The addresses of the pool that we leave to others because of that."""
    given_back: frozenset[Address] = frozenset()
    """The addresses that we have had removed since: the kernel may yet tell that they have gone."""
    failing_for_s: float = 0.0
    """How long what our helper could not add is left to others: the longer the more often."""
    failing_until: Boottime = NEVER

    def foreign(self) -> Mapping[Address, Refusal]:
        """Returns what the helper said that something else has put here. That is known until it
        goes: a new try would have to take back what others are told, and one of them could take the
        address."""
        found = {a: r for a, r in self.refused.items() if r.cause is Cause.FOREIGN}
        return frozen_mapping(found)

    def taking(self, addresses: Addresses) -> dict[Address, AddressState]:
        """Returns the addresses that our helper has a place for, or may have."""
        full = {a for a, r in self.refused.items() if r.cause is Cause.LIMIT}
        return {
            address: known
            for address, known in addresses.known.items()
            if known.phase is not Phase.ABSENT and address not in full
        }

    def places_taken(self, addresses: Addresses) -> int:
        """Returns how many of our helper's places we surely take."""
        taking = self.taking(addresses).values()
        return sum(each.phase in (Phase.UP, Phase.REMOVING) for each in taking)

    # --- after an event ----------------------------------------------------------------------

    def without(self, addresses: Iterable[Address]) -> "Refusals":
        """Returns the refusals but for those of these addresses."""
        over = set(addresses)
        if not over:
            return self
        refused = {a: r for a, r in self.refused.items() if a not in over}
        return replace(self, refused=frozen_mapping(refused))

    def after_ready(self, *, has_other_networks: bool) -> "Refusals":
        """A helper that was started anew is asked again; with other rules it may have more room."""
        most = None if has_other_networks else self.most
        return replace(self, refused=self.foreign(), most=most)

    def after_settings(self) -> "Refusals":
        return replace(
            self,
            refused=self.foreign(),
            trial=Trial(tried=self.trial.tried),
            most=None,
            failing_for_s=0.0,
            failing_until=NEVER,
        )

    def after_own_changed(
        self, changed: Set[Group], group_of: Callable[[Address], Group], now: Boottime
    ) -> "Refusals":
        """Addresses of the host's own have come or gone in these groups: causes may have gone."""
        refused = {
            address: sooner(refusal, now)
            if refusal.cause.is_tried and group_of(address) in changed
            else refusal
            for address, refusal in self.refused.items()
        }
        if refused == self.refused:
            return self
        return replace(self, refused=frozen_mapping(refused), trial=Trial(tried=self.trial.tried))

    def after_added(
        self, address: Address, group_of: Callable[[Address], Group], addresses: Addresses
    ) -> "Refusals":
        """What hindered this address has gone, also for the others that it hindered."""
        found = self
        if address in self.told:
            told = {a: why for a, why in self.told.items() if a != address}
            found = replace(found, told=frozen_mapping(told))
        cause = self.trial.tried.get(address)
        if cause is not None:
            found = replace(found, trial=Trial(tried=self.trial.tried)).without(
                a
                for a, refusal in self.refused.items()
                if refusal.cause is cause and group_of(a) == group_of(address)
            )
        if self.most is not None:
            found = replace(found, most=max(self.most, found.places_taken(addresses)))
        return found

    def after_gone(self, address: Address, *, is_place: bool) -> "Refusals":
        """The address has left the host. `is_place`: it was not ours, and our helper may have had a
        place for it, for another cluster."""
        found = self
        refusal = self.refused.get(address)
        if refusal is not None and refusal.cause is Cause.FOREIGN:
            found = found.without({address})
        if address in self.given_back:
            # Told late. It was counted while it was here: then its place is not one more.
            return replace(found, given_back=self.given_back - {address})
        if is_place and self.most is not None:
            return replace(found, most=self.most + 1)
        return found

    def after_failing(self, now: Boottime) -> "Refusals":
        """Lengthens the pause: what has gone wrong may pass soon, or not. All addresses that fail
        together are tried again together, after pauses that double."""
        if now < self.failing_until:
            return self
        is_again = self.failing_for_s and now < self.failing_until + FAILED_FOR_AT_MOST_S
        for_s = min(2 * self.failing_for_s, FAILED_FOR_AT_MOST_S) if is_again else FAILED_FOR_S
        return replace(self, failing_for_s=for_s, failing_until=Boottime(now + for_s))

    def leaving_to_others(
        self,
        address: Address,
        refusal: Refusal,
        why: str,
        me: NodeName,
        group_of: Callable[[Address], Group],
        addresses: Addresses,
        tell: Tell,
    ) -> "Refusals":
        now, was_tried = refusal.at, address in self.trial.tried
        tried = {a: cause for a, cause in self.trial.tried.items() if a != address}
        share = share_of(me, int(now))
        trial = replace(self.trial, tried=frozen_mapping(tried)).after_a_refusal(now, share)
        refused = frozen_mapping(thawed(self.refused) | {address: refusal})
        found = replace(self, refused=refused, trial=trial)
        if refusal.cause is Cause.LIMIT:
            found = replace(found, most=found.places_taken(addresses))
        elif was_tried:
            found = found._put_off(group_of(address), refusal, group_of)
        if self.told.get(address) != why:
            found = replace(found, told=frozen_mapping({**self.told, address: why}))
            tell(Level.ERROR, f"leaves {address} to other nodes: {why}")
        return found

    def _put_off(
        self, group: Group, refusal: Refusal, group_of: Callable[[Address], Group]
    ) -> "Refusals":
        """The address was tried for all that the same cause hinders: they wait as long."""
        refused = {
            a: replace(r, until=max(r.until, refusal.until))
            if r.cause is refusal.cause and group_of(a) == group
            else r
            for a, r in self.refused.items()
        }
        return replace(self, refused=frozen_mapping(refused))

    # --- with time ---------------------------------------------------------------------------

    def forgetting(self, now: Boottime) -> "Refusals":
        """Forgets what was refused for want of a place long ago."""
        return self.without(
            a for a, r in self.refused.items() if r.until <= now and r.cause is Cause.LIMIT
        )

    def giving_back(self, addresses: Collection[Address]) -> "Refusals":
        """The helper has removed these addresses for us."""
        given_back = self.given_back.union(addresses) if self.most is not None else frozenset()
        return replace(self, given_back=given_back)

    def trying_again(
        self,
        unplaced: Set[Address],
        marked: Set[Address],
        succeeded: Mapping[Address, Cause],
        me: NodeName,
        now: Boottime,
    ) -> "Refusals":
        """Tries again what was refused, as far as its time has come. `unplaced`: what no node is to
        hold, and this one could, but for the refusal. `succeeded`: what was tried and added; it
        stays until our advertisement takes its refusal back."""
        found = self
        tried = on_trial(self.refused, self.too_many, unplaced - marked)
        if not tried and (overdue := next_overdue(self.refused, unplaced, now)):
            tried = frozen_mapping({overdue: self.refused[overdue].cause})
            found = self.without(tried)
        if not tried:
            return found
        tried = frozen_mapping(thawed(succeeded) | thawed(tried))
        return replace(found, trial=self.trial.of(tried, now, share_of(me, int(now))))

    def with_limit(
        self, addresses: Addresses, mine: frozenset[Address], view: ClusterView | None
    ) -> "Refusals":
        """Our helper has shown by a refusal how many addresses it takes: others get the rest.
        `mine`: the addresses that have our mark."""
        found = self.without(
            a
            for a, refusal in self.refused.items()
            if refusal.cause is Cause.LIMIT and a not in mine and addresses.is_free(a)
        )
        too_many = frozenset[Address]()
        if found.most is not None and view is not None:
            tried = {a for a in found.trial.tried if addresses.phase(a) is not Phase.UP}
            here = (found.taking(addresses).keys() | mine) - found.refused.keys() - tried
            others = view.pool.keys() - here - found.refused.keys()
            too_many = beyond(found.most, here, others, view.marks, found.too_many)
            if not too_many and not found.refused and 2 * len(here) <= found.most:
                found = replace(found, most=None)
        return found if too_many == found.too_many else replace(found, too_many=too_many)

    def wake_at(self, now: Boottime) -> float:
        is_trying = self.refused or self.too_many
        untils = (refusal.until for refusal in self.refused.values())
        return soonest(now, (self.trial.next_at if is_trying else NEVER, *untils))
