"""What the coordinator remembers between two steps: values only, put together from its parts.

Each part is in a file of its own, with its fields and with the verbs that return a new value of it:
`after_...` an event, `asked` when something was asked for, `at` or another verb when time has
passed, and `wake_at`, which says when that is needed next. Everything that can be read off etcd,
the helper or the checks is kept as it was last seen, with what we know to have changed since.
"""

from dataclasses import dataclass, field

from yaim.core.model import Address, ClusterView, LeaseId, Mark
from yaim.core.settings import Settings
from yaim.core.state.addresses import Addresses
from yaim.core.state.advertised import Advertised
from yaim.core.state.cluster import Cluster
from yaim.core.state.elsewhere import Elsewhere
from yaim.core.state.health import HealthState
from yaim.core.state.host import Host
from yaim.core.state.lease import LeaseState
from yaim.core.state.left import Left
from yaim.core.state.levelling import Levelling
from yaim.core.state.past import Past
from yaim.core.state.placed import Placed
from yaim.core.state.problems import Problems
from yaim.core.state.refusals import Refusals
from yaim.core.state.stopping import Ending
from yaim.core.state.takeover import Takeover
from yaim.core.state.write import Writing


@dataclass(frozen=True, slots=True)
class OwnMarks:
    """Our marks in a view: found once, as long as view and lease are the same."""

    view: ClusterView | None = None
    lease: LeaseId | None = None
    marks: tuple[Mark, ...] = ()
    """The marks in the order of their addresses."""
    addresses: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True)
class State:
    settings: Settings
    lease: LeaseState = field(default_factory=LeaseState)
    cluster: Cluster = field(default_factory=Cluster)
    placed: Placed = field(default_factory=Placed)
    advertised: Advertised = field(default_factory=Advertised)
    writing: Writing = field(default_factory=Writing)
    takeover: Takeover = field(default_factory=Takeover)
    addresses: Addresses = field(default_factory=Addresses)
    host: Host = field(default_factory=Host)
    refusals: Refusals = field(default_factory=Refusals)
    elsewhere: Elsewhere = field(default_factory=Elsewhere)
    health: HealthState = field(default_factory=HealthState)
    ending: Ending = field(default_factory=Ending)
    left: Left = field(default_factory=Left)
    levelling: Levelling = field(default_factory=Levelling)
    problems: Problems = field(default_factory=Problems)
    past: Past = field(default_factory=Past)
    next_request: int = 1
    """The number of the next action that has one."""
    own_marks: OwnMarks = field(default_factory=OwnMarks, compare=False, repr=False)

    @property
    def held(self) -> tuple[Address, ...]:
        """The addresses that are on our interface, as far as we know."""
        return self.addresses.held


class Draft:
    """A state that a step is changing: the same parts, each replaced as a whole."""

    __slots__ = (
        "addresses",
        "advertised",
        "cluster",
        "elsewhere",
        "ending",
        "health",
        "host",
        "lease",
        "left",
        "levelling",
        "next_request",
        "own_marks",
        "past",
        "placed",
        "problems",
        "refusals",
        "settings",
        "takeover",
        "writing",
    )

    def __init__(self, state: State) -> None:
        self.settings = state.settings
        self.lease = state.lease
        self.cluster = state.cluster
        self.placed = state.placed
        self.problems = state.problems
        self.past = state.past
        self.advertised = state.advertised
        self.writing = state.writing
        self.takeover = state.takeover
        self.addresses = state.addresses
        self.host = state.host
        self.refusals = state.refusals
        self.elsewhere = state.elsewhere
        self.health = state.health
        self.ending = state.ending
        self.left = state.left
        self.levelling = state.levelling
        self.next_request = state.next_request
        self.own_marks = state.own_marks

    def state(self) -> State:
        return State(
            self.settings,
            self.lease,
            self.cluster,
            self.placed,
            self.advertised,
            self.writing,
            self.takeover,
            self.addresses,
            self.host,
            self.refusals,
            self.elsewhere,
            self.health,
            self.ending,
            self.left,
            self.levelling,
            self.problems,
            self.past,
            self.next_request,
            self.own_marks,
        )
