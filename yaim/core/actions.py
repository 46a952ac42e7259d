"""What the core asks for. Each action is an order to one adapter.

The order in which the actions of one step are carried out:
1. Those for the manager (HelperAction) first, all together and in the order given. Then a renewal
   reaches the helper without waiting for etcd, and additions go out in one batch.
2. All others in the order given. What has to wait for an address (the release of its mark) is asked
   for only when the helper's answer is there, in a later step.
3. End is always the last action of a step, and no step follows it.

An action with a `request` number is answered with exactly one event of the same number, also when
it fails; a lease request or a read is answered with exactly one of the events that it names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TypeAlias, assert_never

from yaim.core.model import (
    Address,
    Advertisement,
    Boottime,
    LeaseId,
    Mark,
    NodeName,
    Revision,
    frozen_mapping,
)


@dataclass(frozen=True, slots=True)
class ReadCluster:
    """Answered by ClusterRead or ClusterReadFailed."""


@dataclass(frozen=True, slots=True)
class GrantLease:
    """Answered by LeaseKept or LeaseFailed."""

    ttl_s: int


@dataclass(frozen=True, slots=True)
class KeepLease:
    """Answered by LeaseKept, LeaseGone or LeaseFailed."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class RevokeLease:
    """Answered by LeaseRevoked, LeaseGone or LeaseFailed."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class AdvertiseNode:
    """Write the advertisement under the lease and delete `release`, all in one transaction.

    It is done only if the advertisement under our name has the revision `replaces` (0: there is
    none).
    Every address of `release` must have been confirmed off the interface before.
    """

    request: int
    advertisement: Advertisement
    lease: LeaseId
    replaces: Revision
    release: tuple[Mark, ...]
    joins: bool = False
    """Whether to note the node as a member (Control.members), too: at the first advertisement of a
    life."""
    first_seen: str = ""
    """What its member key says already; empty: it was not there."""


@dataclass(frozen=True, slots=True)
class WithdrawNode:
    """Delete our advertisement and `release`, in one transaction, if the advertisement still has
    the revision `advertised`, and note the member as stopped if `is_stopped`. To other nodes that
    looks like the end of our lease, so marks that they are to claim at once are released before.

    Every address of `release` must have been confirmed off the interface before.
    """

    request: int
    lease: LeaseId
    advertised: Revision
    release: tuple[Mark, ...]
    is_stopped: bool = False
    first_seen: str = ""
    """What our member key says."""


@dataclass(frozen=True, slots=True)
class ClaimMarks:
    """Mark each address that is in the pool and unmarked, if our advertisement still stands."""

    request: int
    addresses: tuple[Address, ...]
    lease: LeaseId
    advertised: Revision
    moved: frozenset[Address] = frozenset()
    """Those with an order to move them here (Control.moves), which is deleted with the claim."""


@dataclass(frozen=True, slots=True)
class Heir:
    """The node that a mark is handed over to."""

    node: NodeName
    lease: LeaseId
    """Under which it is advertised, as far as we know."""


@dataclass(frozen=True, slots=True)
class ReleaseMarks:
    """Delete these marks, if our advertisement still stands: each of our own if it is still the one
    that we made, and each without a lease, which is no node's, if it is unchanged. A mark of our
    own that has an heir is made the heir's instead, under the heir's lease, if the heir is still
    advertised under that; otherwise it is deleted like the others.

    Every address must have been confirmed off the interface before.
    """

    request: int
    marks: tuple[Mark, ...]
    advertised: Revision
    heirs: Mapping[Address, Heir] = field(default_factory=lambda: frozen_mapping({}))
    moved: frozenset[Address] = frozenset()
    """Those with an order to move them to their heir, which is deleted with the hand-over. Another
    order for the address stays: whoever gets it now has not followed that."""


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Put the address on the interface. Its mark must be ours, under a lease that outlives
    `deadline`."""

    request: int
    address: Address
    interface: str
    prefix_length: int
    deadline: Boottime


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    """Take the address off the interface. Must be confirmed (AddressRemoved) before its mark is
    released."""

    request: int
    address: Address
    resets: bool = False
    """Whether its TCP connections end with a reset before. Only of a helper that can do that."""


@dataclass(frozen=True, slots=True)
class RenewAddresses:
    """Hand on a new deadline for all that the helper holds for us."""

    deadline: Boottime


@dataclass(frozen=True, slots=True)
class ClearConnections:
    """End what is left of the TCP connections of an address that is off all interfaces of this host
    and marked by another node, without a word to the peers. Only of a helper that can reset. There
    is no answer: what is left if it fails ends as any dead connection does."""

    address: Address


@dataclass(frozen=True, slots=True)
class LookForAddresses:
    """Look which addresses are on this host's interfaces, as soon as the kernel has finished all
    changes that it was asked for before. Answered by AddressesSeen or LookFailed, but not before
    the kernel lets go of its routing lock (RTNL), which may take long."""


class Level(Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Report:
    """A decision, for the log."""

    level: Level
    text: str


class Outcome(Enum):
    """How the coordinator ends."""

    STOPPED = "stopped"
    NOT_RELEASED = "not released"
    """Stopped, but others must wait for the lease to expire."""
    LEFT = "left"
    """Lease, marks and addresses are left to the next process on this host."""
    NAME_TAKEN = "name taken"


class Kind(StrEnum):
    """What a line of the history is about."""

    JOINED = "joined"
    STOPPED = "stopped"
    LOST = "lost"
    """The lease of another node has ended."""
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    HELD = "held"
    """Addresses are on this node's interfaces."""
    RELEASED = "released"
    """Addresses are off this node's interfaces."""


@dataclass(frozen=True, slots=True)
class Note:
    """Write an event into the history in etcd. There is no answer, and nothing depends on it: one
    that cannot be written is lost."""

    kind: Kind
    node: NodeName
    addresses: tuple[Address, ...] = ()
    by_node: Mapping[Address, NodeName] = field(default_factory=lambda: frozen_mapping({}))
    """The node that each address comes from or is to go to, where that is known."""
    reason: str = ""
    life: LeaseId = LeaseId(0)
    """The lease of a lost node: several nodes tell of it, and one line of them stays."""


@dataclass(frozen=True, slots=True)
class End:
    """The last action: the coordinator is done."""

    outcome: Outcome
    reason: str


HelperAction: TypeAlias = AddAddress | RemoveAddress | RenewAddresses | ClearConnections
"""An order to the helper, which manages the addresses of this host."""
LeaseAction: TypeAlias = GrantLease | KeepLease | RevokeLease
Write: TypeAlias = AdvertiseNode | WithdrawNode | ClaimMarks | ReleaseMarks
"""A transaction in etcd. One at most is under way."""
EtcdAction: TypeAlias = LeaseAction | ReadCluster | Write | Note

Action: TypeAlias = HelperAction | EtcdAction | LookForAddresses | Report | End

Tell: TypeAlias = Callable[[Level, str], None]
"""Adds a line for the log to the actions of the step that is under way."""


def only_deletes(write: Write) -> bool:
    """Whether etcd takes it also when it has no space left (yaim/core/full_etcd.py)."""
    match write:
        case ReleaseMarks(heirs=heirs):
            return not heirs
        case WithdrawNode(is_stopped=is_stopped):
            return not is_stopped
        case AdvertiseNode() | ClaimMarks():
            return False
        case _:
            assert_never(write)


def to_release(write: Write) -> tuple[Mark, ...]:
    """Returns the marks that a write deletes."""
    match write:
        case ReleaseMarks(marks=marks) | AdvertiseNode(release=marks) | WithdrawNode(release=marks):
            return marks
        case ClaimMarks():
            return ()
        case _:
            assert_never(write)
