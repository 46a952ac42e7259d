"""What the coordinator remembers between two steps.

Values only. Everything that can be read off etcd, the helper or the checks is kept as it was last
seen, with what we know to have changed since laid over it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from operator import attrgetter

from yaim.core.actions import AdvertiseNode, ClaimMarks, ReleaseMarks, WithdrawNode
from yaim.core.allowlist import Rule
from yaim.core.model import (
    Address,
    Boottime,
    ClusterView,
    LeaseId,
    Mark,
    Network,
    Node,
    NodeName,
    Place,
    Presence,
    Revision,
    frozen_mapping,
)
from yaim.core.overdue import Look
from yaim.core.refusals import Refusal, Trial
from yaim.core.settings import Settings
from yaim.core.state.flapping import Flaps
from yaim.core.state.health import Checked, Health

NEVER = Boottime(0.0)


class Phase(Enum):
    """What we know of an address on our own interface."""

    UNKNOWN = "unknown"
    ADDING = "adding"
    UP = "up"
    REMOVING = "removing"
    ABSENT = "absent"
    """Confirmed by the helper; or its last deadline and the helper's grace have passed, and then it
    was looked for and not found (yaim/core/overdue.py)."""


@dataclass(frozen=True, slots=True)
class Local:
    """An address on our interface. One that is not recorded is as good as UNKNOWN."""

    phase: Phase
    request: int = 0
    """Of the add or remove under way; answers to others are out of date."""
    deadline: Boottime = NEVER
    """The latest that was ever handed on with it."""
    retry_at: Boottime = NEVER
    has_gone: bool = False
    """While this add was under way the address has gone from some place on this host."""
    place: Place | None = None
    """Where it is, or was; None: not known."""
    to: Place | None = None
    """Where the add under way puts it, from wherever it is."""
    could_not_be_at: Place | None = None
    """Where it was to be put, elsewhere than it is, and that did not succeed."""
    stays_until: Boottime = NEVER
    """Then that is tried again."""
    failure: str = ""
    """Why it could not be removed, as last reported."""
    expired: int = 0
    """How often in a row the helper has refused it for its deadline."""


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
    rules: tuple[Rule, ...] = ()


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


@dataclass(frozen=True, slots=True)
class Full:
    """etcd has refused a write for want of space (its alarm NOSPACE)."""

    is_deletion_refused: bool
    """It has refused also what only deletes, as old versions do."""


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
    """The placement for `target_of`."""
    target_of: ClusterView | None = None
    """The view that the placement was made for; None: there is none."""
    is_target_put_off: bool = False
    """The step before had to see to the lease first, and made no placement."""
    lease: Lease | None = None
    reported_ttls_s: tuple[int, int] = (0, 0)
    """Asked for and granted, where they differed."""
    may_adopt: bool = True
    """An earlier life of this node may have left a lease, marks and addresses that are ours again:
    until that is known, what is on the interface stays, within its deadlines."""
    adopting: LeaseId | None = None
    """The lease of an earlier life that is being kept for the first time: is it one to adopt?"""
    not_adopted: LeaseId | None = None
    """One that was not."""
    known_under: LeaseId | None = None
    """The lease under which we have last written an advertisement in this life: what stands under
    our name is ours, as long as we have that lease. None: we have written none."""
    overwrites: int = 0
    """How often in a row we have written over what looked like another host's."""
    overwritten_at: Boottime = NEVER
    """The last time that we have written over anything under our name."""
    has_advertised: bool = False
    """We have written our advertisement under this lease: writes of an earlier life fail now."""
    unconfirmed_before: Revision = Revision(0)
    """Marks of ours that are older than this, our first advertisement under this lease, are an
    earlier life's, and no view since has shown them: its last write may have deleted them just
    before. 0: all are confirmed."""
    knows_others: bool = False
    """etcd has told us what the others are since we were advertised as unhealthy."""
    orphans: Mapping[Address, Boottime] = field(default_factory=lambda: frozen_mapping({}))
    """What bore another node's mark until its lease ended, and until when it is not claimed."""
    strays: Mapping[Address, Boottime] = field(default_factory=lambda: frozen_mapping({}))
    """What bears a mark without a lease that was put where none was, and until when that counts
    like any other."""
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
    helper_before: Helper | None = None
    """The last that was there."""
    helper_lost_at: Boottime | None = None
    local: Mapping[Address, Local] = field(default_factory=lambda: frozen_mapping({}))
    left_over: Mapping[Address, Place | None] = field(default_factory=lambda: frozen_mapping({}))
    """What an earlier life of the helper left on our interfaces, and nobody has looked at yet; and
    where it is."""
    links_up: frozenset[str] | None = None
    """The interfaces that are up and have a carrier; None: not told yet."""
    links_down: frozenset[str] | None = None
    """Those that are there, and not up; None: not told."""
    altnames: Mapping[str, str] = field(default_factory=lambda: frozen_mapping({}))
    """Further names of interfaces to the name."""
    own_addresses: Mapping[Address, tuple[Place, ...]] | None = None
    """What is on this host and cannot be the helper's; None: not told yet."""
    others: Mapping[Address, tuple[Place, ...]] = field(default_factory=lambda: frozen_mapping({}))
    """What was on this host besides, when that was told."""
    present_before: Mapping[Address, str] | None = None
    """What an earlier life of this node said that it has for another reason than yaim, and has not
    gone since. None: not known yet."""
    present: Mapping[Address, str] = field(default_factory=lambda: frozen_mapping({}))
    """What we are to say that we have for another reason than yaim, and where."""
    present_of: tuple[object, ...] = ()
    """What that was reckoned from."""
    everywhere: Presence = field(default_factory=lambda: frozen_mapping({}))
    """What the nodes of `everywhere_of` have for another reason than yaim."""
    everywhere_of: Mapping[NodeName, Node] | None = None
    told_present: Mapping[Address, str] = field(default_factory=lambda: frozen_mapping({}))
    """What was last reported of pool addresses that are somewhere for another reason than yaim."""
    kernel_due: Boottime = NEVER
    """Until then the first advertisement waits for what the kernel tells of links and addresses."""
    distrusted_before: Boottime = NEVER
    """The host may have been paused until then: a keepalive sent before says nothing."""
    refused: Mapping[Address, Refusal] = field(default_factory=lambda: frozen_mapping({}))
    """Addresses that our helper would not add, and we leave to others."""
    forbidden: Mapping[Address, Place] = field(default_factory=lambda: frozen_mapping({}))
    """What our helper would refuse because of its prefix length, and where it should be."""
    forbidden_of: tuple[object, ...] = ()
    """What that was reckoned from."""
    told_refused: Mapping[Address, str] = field(default_factory=lambda: frozen_mapping({}))
    """Why, as last reported, of what was not added since."""
    trial: Trial = field(default_factory=Trial)
    most: int | None = None
    """How many addresses our helper takes, as far as it has shown; None: it has not."""
    given_back: frozenset[Address] = frozenset()
    """What we have had removed since: the kernel may yet tell that it has gone."""
    too_many: frozenset[Address] = frozenset()
    """Addresses of the pool that we leave to others because of that."""
    told_cut: frozenset[str] = frozenset()
    """What of our advertisement is more than others are told, as last reported (bounds.py)."""
    failing_for_s: float = 0.0
    """How long what our helper could not add is left to others: the longer the more often."""
    failing_until: Boottime = NEVER
    lease_call: Call = field(default_factory=Call)
    read_call: Call = field(default_factory=Call)
    write_call: Call = field(default_factory=Call)
    look: Look = field(default_factory=Look)
    write: Write | None = None
    """The one under way."""
    in_doubt: frozenset[Mark] = frozenset()
    """Marks whose release was asked for and not answered: it may be done at any time yet."""
    unsettled: frozenset[Mark] = frozenset()
    """Marks whose release was asked for and answered, but it is not known whether they are there.
    That can change no more: the next read tells."""
    full: Full | None = None
    """None: the last that etcd was to write for us it has not refused as full."""
    next_request: int = 1
    name_taken_since: Boottime | None = None
    stopping: Stopping | None = None
    leaving: str | None = None
    """Why all is to be left to the next process, as soon as the look under way is over."""
    is_ended: bool = False

    @property
    def held(self) -> tuple[Address, ...]:
        """The addresses that are on our interface, as far as we know."""
        return tuple(a for a, local in self.local.items() if local.phase is Phase.UP)


def changed(state: State, changes: Mapping[str, object]) -> State:
    """As dataclasses.replace does it, in a quarter of the time: a step makes some copies, each of
    all that is known."""
    copy = object.__new__(State)
    for put, value in zip(_PUT, _values_of(state), strict=True):
        put(copy, value)
    for name, value in changes.items():
        object.__setattr__(copy, name, value)
    return copy


_NAMES = tuple(each.name for each in fields(State))
_values_of = attrgetter(*_NAMES)
_PUT = tuple(vars(State)[name].__set__ for name in _NAMES)
