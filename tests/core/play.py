"""One node, told things at chosen instants: what the tests of the core have in common."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

from yaim.core.actions import (
    Action,
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    KeepLease,
    Level,
    LookForAddresses,
    Note,
    ReleaseMarks,
    RemoveAddress,
    Report,
    WithdrawNode,
)
from yaim.core.deadline import deadline_of
from yaim.core.events import (
    CANNOT_RESET,
    HAS_NO_FENCE,
    AddressAdded,
    AddressesSeen,
    AddressFailed,
    AddressOnInterface,
    AddressRefused,
    AddressRemoved,
    CheckAnswered,
    ClusterChanged,
    ClusterRead,
    Event,
    HelperReady,
    LeaseKept,
    MarksClaimed,
    MarksReleased,
    NodeAdvertised,
    SettingsChanged,
)
from yaim.core.model import (
    NO_CONTROL,
    SCHEMA,
    Address,
    Advertisement,
    Boottime,
    ClusterView,
    Control,
    LeaseId,
    Mark,
    Member,
    Node,
    NodeName,
    Place,
    PoolEntry,
    Revision,
    WrongEntry,
    frozen_mapping,
)
from yaim.core.placement import VERSION
from yaim.core.refusals import (
    Cause,
    Refusal,
)
from yaim.core.settings import CheckSettings, Settings
from yaim.core.state.addresses import AddressState, Phase
from yaim.core.state.host import Host
from yaim.core.state.state import State
from yaim.core.step import step

A, B = ip_address("192.0.2.10"), ip_address("192.0.2.11")
V6 = ip_address("2001:db8::10")
ME, OTHER = NodeName("n1"), NodeName("n2")
LEASE, OTHERS_LEASE = LeaseId(0x11), LeaseId(0x22)
SESSION = "boot-1:4026531840"
NETWORKS = frozen_mapping({"eth0": (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64"))})
TTL_S = 3
FIRST_SEEN = "2026-12-01T09:30:00Z"


def settings() -> Settings:
    return Settings(
        node=ME,
        interface="eth0",
        prefix_length_4=32,
        prefix_length_6=128,
        ttl_s=TTL_S,
        interval_s=1.0,
        version="0.1.0",
    )


def advertisement(is_healthy: bool = True, session: str = SESSION) -> Advertisement:
    return Advertisement(
        is_healthy=is_healthy,
        reason="HTTP 200" if is_healthy else "HTTP 503",
        interface="eth0",
        networks=NETWORKS,
        refused=frozenset(),
        session=session,
        version="0.1.0",
        placement=VERSION,
        schema=SCHEMA,
        fence=HAS_NO_FENCE,
        connections_stay=CANNOT_RESET.reason,
        ttl_s=TTL_S,
    )


def node(name: NodeName, lease: LeaseId, revision: int, is_healthy: bool = True) -> Node:
    session = SESSION if name == ME else "boot-9:1"
    return Node(name, advertisement(is_healthy, session), lease, Revision(revision))


def mark(address: Address, revision: int, name: NodeName = ME, lease: LeaseId = LEASE) -> Mark:
    return Mark(address, name, lease, Revision(revision))


def view(
    revision: int,
    pool: tuple[Address, ...] = (),
    nodes: tuple[Node, ...] = (),
    marks: tuple[Mark, ...] = (),
    wrong: tuple[WrongEntry, ...] = (),
    control: Control = NO_CONTROL,
) -> ClusterView:
    """The nodes are members."""
    members = {each.name: Member(FIRST_SEEN, False, "") for each in nodes}
    return ClusterView(
        Revision(revision),
        frozen_mapping({address: PoolEntry(address) for address in pool}),
        frozen_mapping({each.name: each for each in nodes}),
        frozen_mapping({each.address: each for each in marks}),
        wrong,
        control=replace(control, members=frozen_mapping(members)),
    )


class Play:
    """One core, told things at chosen instants. Answers with its actions, but for reports and
    notes."""

    def __init__(self) -> None:
        self.state = State(settings(), host=Host(own=frozen_mapping({})))
        self.now = 1000.0
        self.reports: list[Report] = []
        self.notes: list[Note] = []
        self.wake_at: float | None = None

    def tell(self, *events: Event) -> list[Action]:
        before = self.state
        taken = step(self.state, events, Boottime(self.now))
        assert step(before, events, Boottime(self.now)) == taken
        self.state = taken.state
        self.wake_at = taken.wake_at
        actions = list(taken.actions)
        if taken.wake_at == self.now:
            # What the lease needs came first.
            taken = step(self.state, (), Boottime(self.now))
            self.state = taken.state
            self.wake_at = taken.wake_at
            actions += taken.actions
        assert taken.wake_at is None or taken.wake_at > self.now
        self.reports += [each for each in actions if isinstance(each, Report)]
        self.notes += [each for each in actions if isinstance(each, Note)]
        return [each for each in actions if not isinstance(each, Report | Note)]

    def after(self, seconds: float, *events: Event) -> list[Action]:
        self.now += seconds
        return self.tell(*events)

    def said(self, level: Level) -> list[str]:
        return [report.text for report in self.reports if report.level is level]

    def healthy(self, for_s: float = 1e6) -> CheckAnswered:
        return CheckAnswered("service", True, "HTTP 200", Boottime(self.now + for_s))

    def unhealthy(self) -> CheckAnswered:
        return CheckAnswered("service", False, "HTTP 503", Boottime(self.now + 1e6))

    def answer(
        self, check: str, is_healthy: bool, reason: str = "HTTP 200", for_s: float = 1e6
    ) -> CheckAnswered:
        return CheckAnswered(check, is_healthy, reason, Boottime(self.now + for_s))

    def settle(self, actions: list[Action]) -> None:
        """All is done as it was asked for, until nothing is left to do."""
        while actions:
            actions = self.do(actions)

    def do(self, actions: list[Action]) -> list[Action]:
        """These are done as they were asked for; what is asked for then."""
        events: list[Event] = []
        for action in actions:
            seen = (
                self.state.cluster.view.revision + 1 if self.state.cluster.view is not None else 1
            )
            match action:
                case RemoveAddress(request, address):
                    events.append(AddressRemoved(request, address))
                case AddAddress(request=request, address=address):
                    events.append(AddressAdded(request, address))
                case AdvertiseNode(request, advertised, lease):
                    mine = Node(ME, advertised, lease, Revision(seen))
                    events.append(NodeAdvertised(request, mine))
                case ClaimMarks(request, addresses):
                    marks = tuple(mark(each, seen) for each in addresses)
                    events.append(MarksClaimed(request, marks, frozenset(), Revision(seen)))
                case ReleaseMarks(request, marks, heirs=heirs):
                    gone = frozenset(each.address for each in marks)
                    handed = tuple(
                        Mark(
                            *(each.address, heirs[each.address].node, heirs[each.address].lease),
                            Revision(seen),
                            version=each.version + 1,
                        )
                        for each in marks
                        if each.address in heirs
                    )
                    events.append(MarksReleased(request, gone, Revision(seen), handed))
                case KeepLease():
                    events.append(self.kept())
                case LookForAddresses():
                    events.append(AddressesSeen(frozenset()))
        return self.tell(*events) if events else []

    def kept(self, lease: LeaseId = LEASE) -> LeaseKept:
        return LeaseKept(lease, TTL_S, Boottime(self.now))

    def deadline(self) -> Boottime:
        """The deadline of a keepalive sent now."""
        return deadline_of(Boottime(self.now), TTL_S)


def helper_ready(*addresses: AddressOnInterface) -> HelperReady:
    return HelperReady(SESSION, tuple(NETWORKS.items()), addresses)


def started(pool: tuple[Address, ...] = (A,)) -> Play:
    """A node that is advertised as healthy in an otherwise empty cluster, and has claimed nothing
    yet: the pool comes with the next view."""
    play = Play()
    play.tell()
    play.tell(helper_ready(), ClusterRead(view(1)), play.healthy())
    play.tell(play.kept())
    request = play.state.next_request - 1
    play.tell(NodeAdvertised(request, node(ME, LEASE, 2)))
    return play


def holding(*addresses: Address) -> Play:
    """A node that holds these addresses, which are the whole pool."""
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, addresses, (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    marks = tuple(mark(address, 4) for address in claim.addresses)
    adds = play.tell(MarksClaimed(claim.request, marks, frozenset(), Revision(4)))
    for add in adds:
        assert isinstance(add, AddAddress)
        play.tell(AddressAdded(add.request, add.address))
    assert set(play.state.held) == set(addresses)
    return play


def adding(play: Play, address: Address, request: int) -> None:
    """From now on an add of this address is under way, and nothing is known of others."""
    known = frozen_mapping({address: AddressState(Phase.ADDING, request)})
    play.state = replace(play.state, addresses=replace(play.state.addresses, known=known))


def refusing(play: Play, refused: Mapping[Address, Refusal]) -> None:
    """From now on these are refused, and no others."""
    refusals = replace(play.state.refusals, refused=frozen_mapping(refused))
    play.state = replace(play.state, refusals=refusals)


def requests(actions: list[Action]) -> list[type[Action]]:
    return [type(action) for action in actions]


def several(play: Play, *names: str, is_any_enough: bool = False) -> None:
    """From now on the node's checks are these."""
    checks = tuple(CheckSettings(name) for name in names)
    play.settle(
        play.tell(SettingsChanged(replace(settings(), checks=checks, is_any_enough=is_any_enough)))
    )


def writes(actions: list[Action]) -> list[Action]:
    written = AdvertiseNode | ReleaseMarks | WithdrawNode | ClaimMarks
    return [each for each in actions if isinstance(each, written)]


NEW_LEASE, OTHERS_NEW_LEASE = LeaseId(0x33), LeaseId(0x44)
HERE = frozen_mapping({A: (Place("eth0", 24),)})


def refused(play: Play, cause: Cause, *addresses: Address) -> None:
    """The helper refuses these addresses, which are the pool; nothing is left to do then but to
    wait."""
    nodes = {} if play.state.cluster.view is None else play.state.cluster.view.nodes
    seen = play.state.cluster.view.revision if play.state.cluster.view is not None else 0
    (claim,) = play.tell(ClusterChanged(view(seen + 1, addresses, tuple(nodes.values()))))
    assert isinstance(claim, ClaimMarks)
    refuse(play, cause, claim)


def refuse(play: Play, cause: Cause, claim: Action, takes: int = 0) -> None:
    """What follows from a claim, with a helper that adds so many of the addresses only."""
    assert isinstance(claim, ClaimMarks)
    revision = Revision(
        play.state.cluster.view.revision + 1 if play.state.cluster.view is not None else 1
    )
    marks = tuple(mark(each, revision) for each in claim.addresses)
    adds = play.tell(MarksClaimed(claim.request, marks, frozenset(), revision))
    events: list[Event] = []
    for number, add in enumerate(adds):
        if isinstance(add, AddAddress):
            no = AddressRefused(add.request, add.address, "no", cause)
            if cause is Cause.FAILED:
                no = AddressFailed(add.request, add.address, "no")  # type: ignore[assignment]
            events.append(AddressAdded(add.request, add.address) if number < takes else no)
    play.settle(play.tell(*events))


def next_claim(play: Play, within_s: float) -> ClaimMarks | None:
    """Returns the next claim, with everything before it done as it was asked for; None: none in
    time."""
    until = play.now + within_s
    while play.now < until:
        actions = play.after(0.1)
        while actions:
            for action in actions:
                if isinstance(action, ClaimMarks):
                    play.settle([each for each in actions if each is not action])
                    return action
            actions = play.do(actions)
    return None


POOL = tuple(ip_address(f"192.0.2.{number}") for number in range(10, 16))


def full() -> Play:
    """The helper takes four of the six addresses of the pool, and no other node is there."""
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, POOL, (node(ME, LEASE, 2),))))
    refuse(play, Cause.LIMIT, claim, takes=4)
    assert len(play.state.held) == 4
    assert play.state.refusals.too_many == set(POOL[4:]) and not play.state.refusals.refused
    return play


def advertised(play: Play) -> Advertisement:
    assert play.state.cluster.view is not None
    return play.state.cluster.view.nodes[ME].advertisement
