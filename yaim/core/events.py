"""What the core is told. Each event names something that has happened.

A `request` number is that of the action which is being answered; the core ignores answers to
requests that it has given up on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from yaim.core.allowlist import Rule
from yaim.core.model import (
    Address,
    Boottime,
    ClusterView,
    Fence,
    LeaseId,
    Mark,
    Network,
    Node,
    Place,
    Resets,
    Revision,
    frozen_mapping,
)
from yaim.core.refusals import Cause
from yaim.core.settings import Settings


@dataclass(frozen=True, slots=True)
class CheckAnswered:
    """One check has answered."""

    check: str
    """Its name."""
    is_healthy: bool
    reason: str
    valid_until: Boottime
    """Without a newer answer by then the check counts as failed."""


@dataclass(frozen=True, slots=True)
class ClusterRead:
    """A full, linearizable read of the cluster's prefix was made, as ReadCluster asked."""

    view: ClusterView


@dataclass(frozen=True, slots=True)
class ClusterReadFailed:
    reason: str


@dataclass(frozen=True, slots=True)
class ClusterChanged:
    """The watch has seen a change."""

    view: ClusterView


@dataclass(frozen=True, slots=True)
class LeaseKept:
    """A lease was granted or refreshed."""

    lease: LeaseId
    ttl_s: int
    """The TTL that was granted; etcd may grant more than was asked."""
    sent_at: Boottime
    """The instant just before the request was sent."""


@dataclass(frozen=True, slots=True)
class LeaseGone:
    """etcd does not know this lease (any more)."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class LeaseFailed:
    """No answer to a grant, keepalive or revoke, or an error."""

    reason: str


@dataclass(frozen=True, slots=True)
class LeaseRevoked:
    lease: LeaseId


@dataclass(frozen=True, slots=True)
class NodeAdvertised:
    """The advertisement was written; marks that it was to release are gone."""

    request: int
    node: Node


@dataclass(frozen=True, slots=True)
class NodeNotAdvertised:
    """The advertisement was not written: somebody else's stands under our name, or ours was
    changed. Some of the marks that were to be released may have been released already."""

    request: int


@dataclass(frozen=True, slots=True)
class NodeWithdrawn:
    """Our advertisement and the marks that were to be released are gone."""

    request: int
    revision: Revision


@dataclass(frozen=True, slots=True)
class MarksClaimed:
    """A claim was settled: these marks are ours; those addresses went to others or left."""

    request: int
    marks: tuple[Mark, ...]
    lost: frozenset[Address]
    revision: Revision


@dataclass(frozen=True, slots=True)
class MarksReleased:
    """The marks of these addresses were ours and are deleted, or handed over. The others that were
    to be released may be as they were, or not there any more."""

    request: int
    addresses: frozenset[Address]
    revision: Revision
    handed: tuple[Mark, ...] = ()
    """The marks of those among these addresses that were handed over, as they stand there now."""


@dataclass(frozen=True, slots=True)
class WriteFailed:
    """A write to etcd was refused or not answered: it may or may not have been done."""

    request: int
    reason: str
    is_full: bool = False
    """etcd has no space left (NOSPACE). The write may have been done all the same, but not later
    than now: the next read tells."""


@dataclass(frozen=True, slots=True)
class AddressOnInterface:
    """An address of ours that the helper has on record, with its deadline."""

    address: Address
    deadline: Boottime


HAS_NO_FENCE = Fence(False, "the helper is too old to have one")
"""The fence of a helper that does not tell of any."""
CANNOT_RESET = Resets(False, "the helper is too old to end connections")
"""What a helper can that does not tell whether it can end connections."""


@dataclass(frozen=True, slots=True)
class HelperReady:
    """The helper has accepted us. What was asked of it before is done before what is asked after,
    or not at all."""

    session: str
    networks: tuple[tuple[str, tuple[Network, ...]], ...]
    """Each interface with the networks that are allowed there."""
    addresses: tuple[AddressOnInterface, ...]
    left_over: frozenset[Address] = frozenset()
    """The addresses that an earlier life of the helper has left on our interfaces."""
    places: Mapping[Address, Place] = field(default_factory=lambda: frozen_mapping({}))
    """The place of each of these addresses."""
    rules: tuple[Rule, ...] = ()
    """The rules of its allowlist; empty: it does not tell them."""
    fence: Fence = HAS_NO_FENCE
    resets: Resets = CANNOT_RESET
    capacity: int | None = None
    """The most addresses that it holds; None: it does not tell."""


@dataclass(frozen=True, slots=True)
class ProblemsObserved:
    """What is wrong on this host and does not show otherwise, by who tells it. This is told after
    each change, and replaces what the same source has told before."""

    source: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HelperLost:
    """The connection is gone, or the helper does not answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class AddressAdded:
    request: int
    address: Address


@dataclass(frozen=True, slots=True)
class AddressRefused:
    """The helper did not add the address, and it is not on the interface because of us."""

    request: int
    address: Address
    reason: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class AddressFailed:
    """An add or remove went wrong: whether the address is on the interface is unknown."""

    request: int
    address: Address
    reason: str


@dataclass(frozen=True, slots=True)
class AddressRemoved:
    """Confirmed: the address is not on the interface."""

    request: int
    address: Address
    reset: int = 0
    """How many of its TCP connections were ended before; the peers have got a reset."""
    left: int | None = None
    """How many were to be ended and are there still; None: none were ended, as nobody asked for it,
    or the helper does not do that for this address, or in the place where it was."""


@dataclass(frozen=True, slots=True)
class AddressesRenewed:
    """The new deadline is in force for all that we hold, but for these."""

    missing: frozenset[Address]


@dataclass(frozen=True, slots=True)
class AddressGone:
    """The kernel tells that the address has left an interface of this host, whoever removed it."""

    address: Address
    place: Place | None = None
    """The place that it has left; None: not known."""


@dataclass(frozen=True, slots=True)
class AddressesSeen:
    """The answer to LookForAddresses: all addresses on this host that look like the helper's.
    Nothing that was asked of the kernel before can put another one there."""

    present: frozenset[Address]


@dataclass(frozen=True, slots=True)
class LookFailed:
    """The kernel did not tell its addresses."""

    reason: str


@dataclass(frozen=True, slots=True)
class LinksObserved:
    """The interfaces of this host that are up and have a carrier. This is told at the start and
    after each change."""

    up: frozenset[str]
    down: frozenset[str] | None = None
    """The interfaces that exist and are not up; None: not told."""
    altnames: Mapping[str, str] = field(default_factory=lambda: frozen_mapping({}))
    """Further names of interfaces, each with the name that the kernel shows."""


@dataclass(frozen=True, slots=True)
class AddressesObserved:
    """The addresses on this host's interfaces that cannot be the helper's, which gives every
    address a finite lifetime and no preferred one. This is told at the start, after LinksObserved,
    and after each change."""

    own: Mapping[Address, tuple[Place, ...]]
    others: Mapping[Address, tuple[Place, ...]] = field(default_factory=lambda: frozen_mapping({}))
    """The addresses that looked like the helper's then: a change of these alone is not told."""


@dataclass(frozen=True, slots=True)
class ClockJumped:
    """The wall clock was set forward. Perhaps the host was paused, which CLOCK_BOOTTIME does not
    count: then so much more time has passed than we know of."""

    by_s: float


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    settings: Settings


@dataclass(frozen=True, slots=True)
class WindowObserved:
    """Whether the window of the settings is open by the wall clock. This is told at the start, if
    there is one, and after each change."""

    is_open: bool


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Hand everything over and end."""

    reason: str


@dataclass(frozen=True, slots=True)
class RestartRequested:
    """End at once and leave everything as it is to the next process, which is about to start."""

    reason: str


Event: TypeAlias = (
    CheckAnswered
    | ClusterRead
    | ClusterReadFailed
    | ClusterChanged
    | LeaseKept
    | LeaseGone
    | LeaseFailed
    | LeaseRevoked
    | NodeAdvertised
    | NodeNotAdvertised
    | NodeWithdrawn
    | MarksClaimed
    | MarksReleased
    | WriteFailed
    | HelperReady
    | HelperLost
    | ProblemsObserved
    | AddressAdded
    | AddressRefused
    | AddressFailed
    | AddressRemoved
    | AddressesRenewed
    | AddressGone
    | AddressesSeen
    | LookFailed
    | LinksObserved
    | AddressesObserved
    | ClockJumped
    | SettingsChanged
    | WindowObserved
    | StopRequested
    | RestartRequested
)
