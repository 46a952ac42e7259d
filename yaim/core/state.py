"""What the coordinator remembers between two steps.

Values only. Everything that can be read off etcd, the helper or the checks is kept as it was last
seen, with what we know to have changed since laid over it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from yaim.core.actions import AdvertiseNode, ClaimMarks, ReleaseMarks, WithdrawNode
from yaim.core.flapping import Flaps
from yaim.core.health import Checked, Health
from yaim.core.model import (
    Address,
    Boottime,
    ClusterView,
    LeaseId,
    Mark,
    Network,
    NodeName,
    Revision,
    frozen_mapping,
)
from yaim.core.settings import Settings

NEVER = Boottime(0.0)


class Phase(Enum):
    """What we know of an address on our own interface."""

    UNKNOWN = "unknown"
    ADDING = "adding"
    UP = "up"
    REMOVING = "removing"
    ABSENT = "absent"
    """Confirmed by the helper, or its last deadline and the helper's grace have passed."""


@dataclass(frozen=True, slots=True)
class Local:
    """An address on our interface. One that is not recorded is as good as UNKNOWN."""

    phase: Phase
    request: int = 0
    """Of the add or remove under way; answers to others are out of date."""
    deadline: Boottime = NEVER
    """The latest that was ever handed on with it."""
    retry_at: Boottime = NEVER


@dataclass(frozen=True, slots=True)
class Lease:
    id: LeaseId
    ttl_s: int
    deadline: Boottime


@dataclass(frozen=True, slots=True)
class Loss:
    """etcd has lost our lease although it was kept in time, and perhaps those of all nodes: until
    they have learnt of it they have their addresses."""

    until: Boottime
    """Then all have learnt of it, or their deadlines have passed."""
    released: frozenset[Address] = frozenset()
    """What we have seen a holder with a lease release since, and nobody has marked again."""


@dataclass(frozen=True, slots=True)
class Helper:
    session: str
    networks: Mapping[str, tuple[Network, ...]]


@dataclass(frozen=True, slots=True)
class Call:
    """A kind of request of which one at most is under way."""

    is_pending: bool = False
    due: Boottime = NEVER
    failures: int = 0
    """In a row."""
    failing_since: Boottime = NEVER
    reported_at: Boottime = NEVER
    """The last report that it fails."""
    pause_s: float = 0.0
    """The present one, after a failure."""


Write = AdvertiseNode | WithdrawNode | ClaimMarks | ReleaseMarks


@dataclass(frozen=True, slots=True)
class Stopping:
    reason: str
    give_up_at: Boottime
    is_withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class State:
    settings: Settings
    view: ClusterView | None = None
    seen: Revision = Revision(0)
    """Of the last view, where there is none at present: a lower one is of another etcd history."""
    is_view_stale: bool = False
    """Something was refused that the view said could be done: claim nothing until a new read."""
    read_after: Revision = Revision(0)
    """What we had seen when the read under way was asked for: an older answer is that of another
    etcd history (wiped or restored), and the truth."""
    target: Mapping[Address, NodeName] = field(default_factory=lambda: frozen_mapping({}))
    """The placement for `view`."""
    lease: Lease | None = None
    reported_ttls_s: tuple[int, int] = (0, 0)
    """Asked for and granted, where they differed."""
    may_adopt: bool = True
    """An earlier life of this node may have left a lease, marks and addresses that are ours again:
    until that is known, what is on the interface stays, within its deadlines."""
    has_advertised: bool = False
    """We have written our advertisement under this lease: writes of an earlier life fail now."""
    unconfirmed_before: Revision = Revision(0)
    """Marks of ours that are older than this, our first advertisement under this lease, are an
    earlier life's, and no view since has shown them: its last write may have deleted them just
    before. 0: all are confirmed."""
    orphans: Mapping[Address, Boottime] = field(default_factory=lambda: frozen_mapping({}))
    """What bore another node's mark until its lease ended, and until when it is not claimed."""
    ours: frozenset[Address] = frozenset()
    """What bore our mark when our advertisement last stood in etcd, but for what we were to release
    and what others have marked since."""
    loss: Loss | None = None
    """None: no lease was lost lately, or it had ended in its time."""
    checks: Mapping[str, Checked] = field(default_factory=lambda: frozen_mapping({}))
    """Name to what is known of it; a check that has not answered yet is not here."""
    awaited: Mapping[str, Boottime] = field(default_factory=lambda: frozen_mapping({}))
    """Name to when a check that has not answered yet counts as failed."""
    health: Health | None = None
    """As the checks have it. None: they have not answered yet; keep what is held, take nothing."""
    flaps: Flaps = field(default_factory=Flaps)
    waits_s: float = 0.0
    """How long the present wait of a node is that becomes unhealthy again and again; 0: none."""
    helper: Helper | None = None
    helper_lost_at: Boottime | None = None
    local: Mapping[Address, Local] = field(default_factory=lambda: frozen_mapping({}))
    left_over: frozenset[Address] = frozenset()
    """What an earlier life of the helper left on our interfaces, and nobody has looked at yet."""
    links_up: frozenset[str] | None = None
    """The interfaces that are up and have a carrier; None: not told yet."""
    distrusted_before: Boottime = NEVER
    """The host may have been paused until then: a keepalive sent before says nothing."""
    refused: Mapping[Address, Boottime] = field(default_factory=lambda: frozen_mapping({}))
    """Addresses that our helper would not add, and until when we leave them to others."""
    failing_for_s: float = 0.0
    """How long what our helper could not add is left to others: the longer the more often."""
    failing_until: Boottime = NEVER
    lease_call: Call = field(default_factory=Call)
    read_call: Call = field(default_factory=Call)
    write_call: Call = field(default_factory=Call)
    write: Write | None = None
    """The one under way."""
    in_doubt: frozenset[Mark] = frozenset()
    """Marks whose release was asked for and not answered: it may be done at any time yet."""
    next_request: int = 1
    name_taken_since: Boottime | None = None
    stopping: Stopping | None = None
    is_ended: bool = False

    @property
    def held(self) -> tuple[Address, ...]:
        """The addresses that are on our interface, as far as we know."""
        return tuple(a for a, local in self.local.items() if local.phase is Phase.UP)
