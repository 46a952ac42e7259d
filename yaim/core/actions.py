"""What the core asks for. Each is an order to one adapter, to be carried out in the order given.

Whatever bears a `request` number is answered with exactly one event bearing the same number, also
when it fails; lease requests and reads by exactly one of their events.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from yaim.core.model import Address, Advertisement, Boottime, LeaseId, Mark, Revision


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

    Only if what is advertised under our name is the one of revision `replaces` (0: nothing is).
    Every address of `release` must have been confirmed off the interface before.
    """

    request: int
    advertisement: Advertisement
    lease: LeaseId
    replaces: Revision
    release: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class WithdrawNode:
    """Delete our advertisement and `release`, in one transaction, if it is still the one of
    revision `advertised`. To others that looks like the end of our lease, so marks that they are to
    claim at once are released before.

    Every address of `release` must have been confirmed off the interface before.
    """

    request: int
    lease: LeaseId
    advertised: Revision
    release: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class ClaimMarks:
    """Mark each address that is in the pool and unmarked, if our advertisement still stands."""

    request: int
    addresses: tuple[Address, ...]
    lease: LeaseId
    advertised: Revision


@dataclass(frozen=True, slots=True)
class ReleaseMarks:
    """Delete these marks, each if it is still the one that we made, if our advertisement still
    stands. Those without a lease, which are nobody's, each if it is unchanged.

    Every address must have been confirmed off the interface before.
    """

    request: int
    marks: tuple[Mark, ...]
    advertised: Revision


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


@dataclass(frozen=True, slots=True)
class RenewAddresses:
    """Hand on a new deadline for all that the helper holds for us."""

    deadline: Boottime


@dataclass(frozen=True, slots=True)
class LookForAddresses:
    """Look which addresses are on this host's interfaces, when nothing that was to be put there is
    under way in the kernel any more. Answered by AddressesSeen or LookFailed: not before the kernel
    lets go of its routing lock, which may take long."""


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


@dataclass(frozen=True, slots=True)
class End:
    """The last action: the coordinator is done."""

    outcome: Outcome
    reason: str


HelperAction: TypeAlias = AddAddress | RemoveAddress | RenewAddresses
"""An order to the helper, which manages the addresses of this host."""
LeaseAction: TypeAlias = GrantLease | KeepLease | RevokeLease
Write: TypeAlias = AdvertiseNode | WithdrawNode | ClaimMarks | ReleaseMarks
EtcdAction: TypeAlias = LeaseAction | ReadCluster | Write

Action: TypeAlias = HelperAction | EtcdAction | LookForAddresses | Report | End
