"""What is known of this host: its helper, its interfaces, and the addresses that are not yaim's.

Owns what helper and kernel tell. Which addresses yaim has here is in yaim/core/state/addresses.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from yaim.core.actions import Level, Tell
from yaim.core.allowlist import Rule
from yaim.core.events import (
    CANNOT_RESET,
    HAS_NO_FENCE,
    AddressesObserved,
    HelperReady,
    LinksObserved,
)
from yaim.core.model import NEVER, Address, Boottime, Fence, Network, Place, Resets, frozen_mapping
from yaim.core.state.wake import FOREVER, soonest

HELPER_PATIENCE_S = 2.0
"""A helper that comes back within this time (a restart) changes nothing in what we advertise."""
KERNEL_PATIENCE_S = 1.0
"""How long the first advertisement waits until the kernel has told links and addresses."""
UNTOLD = Boottime(FOREVER)
"""The value of `kernel_due` when that time has passed and the kernel has told nothing."""


@dataclass(frozen=True, slots=True)
class Helper:
    session: str
    networks: Mapping[str, tuple[Network, ...]]
    """What it allows on which interface."""
    rules: tuple[Rule, ...] = ()
    fence: Fence = HAS_NO_FENCE
    resets: Resets = CANNOT_RESET
    capacity: int | None = None
    """The most addresses that it holds; None: it does not tell."""

    @property
    def why_no_reset(self) -> str:
        """Why it resets no connections, for people; empty if it resets those of some addresses."""
        if self.rules and not any(rule.resets for rule in self.rules):
            return "helper.yml says reset-connections: false"
        return self.resets.reason


@dataclass(frozen=True, slots=True)
class Host:
    helper: Helper | None = None
    helper_before: Helper | None = None
    """The last helper that was there, or is."""
    helper_lost_at: Boottime | None = None
    links_up: frozenset[str] | None = None
    """The interfaces that are up and have a carrier; None: not told yet."""
    links_down: frozenset[str] | None = None
    """The interfaces that are there, and not up; None: not told."""
    altnames: Mapping[str, str] = field(default_factory=lambda: frozen_mapping({}))
    """Further names of interfaces, each with the name that the kernel shows."""
    own: Mapping[Address, tuple[Place, ...]] | None = None
    """The addresses on this host that cannot be the helper's; None: not told yet."""
    others: Mapping[Address, tuple[Place, ...]] = field(default_factory=lambda: frozen_mapping({}))
    """The other addresses on this host when `own` was told, but for those that have gone since."""
    kernel_due: Boottime = NEVER
    """Until then the first advertisement waits for what the kernel tells."""

    def after_ready(self, event: HelperReady) -> "Host":
        networks = frozen_mapping(dict(event.networks))
        helper = Helper(
            event.session, networks, event.rules, event.fence, event.resets, event.capacity
        )
        return replace(self, helper=helper, helper_before=helper, helper_lost_at=None)

    def after_lost(self, now: Boottime) -> "Host":
        return replace(self, helper=None, helper_lost_at=now)

    def after_links(self, event: LinksObserved) -> "Host":
        return replace(self, links_up=event.up, links_down=event.down, altnames=event.altnames)

    def after_addresses(self, event: AddressesObserved) -> "Host":
        return replace(self, own=event.own, others=event.others)

    def after_gone(self, address: Address, place: Place | None) -> "Host":
        """An address that looked like the helper's has left this place; None: not known which. Of
        several places it may have left any then, and counts as being in all of them."""
        there = self.others.get(address)
        if there is None or (place is None and len(there) > 1):
            return self
        left = tuple(each for each in there if place not in (None, each))
        others = {a: places for a, places in self.others.items() if a != address}
        if left:
            others[address] = left
        return replace(self, others=frozen_mapping(others))

    def at(self, now: Boottime, tell: Tell) -> "Host":
        """Waits for the kernel, and says so once when it has waited long enough."""
        if self.own is not None or self.kernel_due == UNTOLD:
            return self
        if self.kernel_due == NEVER:
            return replace(self, kernel_due=Boottime(now + KERNEL_PATIENCE_S))
        if now < self.kernel_due:
            return self
        tell(
            Level.WARNING,
            f"the kernel has not told within {KERNEL_PATIENCE_S:g} s which addresses are on"
            " this host: takes nothing until it has",
        )
        return replace(self, kernel_due=UNTOLD)

    def awaits_kernel(self, now: Boottime) -> bool:
        """Whether the first advertisement still waits: nobody is to give us an address that is here
        already, or on a link that is down."""
        return self.own is None and now < self.kernel_due < UNTOLD

    def is_helper_missed(self, now: Boottime) -> bool:
        """Whether the helper has been away for so long that it counts."""
        lost_at = self.helper_lost_at
        return self.helper is None and (lost_at is None or now >= lost_at + HELPER_PATIENCE_S)

    def down(self, interface: str) -> frozenset[str]:
        """Returns those of our interfaces that cannot carry an address now. `interface`: the one of
        the settings; the others are those on which the helper allows something."""
        if self.links_up is None:
            return frozenset()
        ours = {interface, *(self.helper.networks if self.helper is not None else ())}
        if self.altnames:
            ours = {self.altnames.get(name, name) for name in ours}
        return frozenset(ours - self.links_up)

    def missing(self, interface: str) -> frozenset[str]:
        """Returns those of our interfaces that do not exist."""
        if self.links_down is None:
            return frozenset()
        return self.down(interface) - self.links_down

    def why_down(self, name: str, interface: str) -> str:
        if name in self.missing(interface):
            return f"there is no {name} on this host"
        return f"{name} is down or has no carrier"

    def could_add(self, address: Address) -> bool:
        """Whether the helper allows the address on some interface."""
        networks = self.helper.networks.values() if self.helper is not None else ()
        return any(address in network for each in networks for network in each)

    def has_own(self, address: Address, place: Place | None) -> bool:
        """Whether the host has this address in this place, and not by yaim; None: anywhere."""
        own = (self.own or {}).get(address, ())
        return any(place in (None, each) for each in own)

    def report_fence(self, fence: Fence, tell: Tell) -> None:
        """Tells of the helper's fence, once: when a helper is there first, and when it changes."""
        if self.helper_before is not None and self.helper_before.fence == fence:
            return
        if fence.is_in_force:
            tell(Level.INFO, "a fence in the kernel is in force")
            return
        level = Level.INFO if fence == HAS_NO_FENCE else Level.WARNING
        tell(level, f"no fence in the kernel is in force: {fence.reason}")

    def report_resets(self, before: Helper | None, tell: Tell) -> None:
        """Tells, when a helper is there first and when that changes, why no connections are
        reset."""
        why = self.helper.why_no_reset if self.helper is not None else ""
        if why and (before is None or before.why_no_reset != why):
            level = Level.INFO if why == CANNOT_RESET.reason else Level.WARNING
            tell(level, f"no connections are reset when an address moves: {why}")

    def report_altnames(self, interface: str, tell: Tell) -> None:
        altnames, helper = self.altnames, self.helper
        if interface in altnames:
            tell(Level.INFO, f"{interface} is another name of {altnames[interface]}")
        for name in sorted(altnames.keys() & (helper.networks.keys() if helper else ())):
            tell(
                Level.ERROR,
                f"the helper's allowlist has {name}, another name of {altnames[name]}, which allows"
                f" nothing: write {altnames[name]} in helper.yml",
            )

    def wake_at(self, now: Boottime) -> float:
        lost_at = self.helper_lost_at
        return soonest(
            now,
            (
                self.kernel_due if self.awaits_kernel(now) else NEVER,
                lost_at + HELPER_PATIENCE_S if lost_at is not None else NEVER,
            ),
        )
