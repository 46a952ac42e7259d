"""Whole stories of one node, as transcripts: what happened, and what the core then asked for."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from time import process_time

import pytest

from yaim.core.actions import (
    Action,
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    End,
    GrantLease,
    KeepLease,
    Level,
    LookForAddresses,
    Outcome,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
    RenewAddresses,
    Report,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.allowlist import Rule
from yaim.core.bounds import MOST_ADDRESSES
from yaim.core.deadline import HELPER_GRACE_S, LONGEST_LEAST_TTL_S, all_over_at, deadline_of
from yaim.core.events import (
    AddressAdded,
    AddressesObserved,
    AddressesRenewed,
    AddressesSeen,
    AddressFailed,
    AddressGone,
    AddressOnInterface,
    AddressRefused,
    AddressRemoved,
    CheckAnswered,
    ClockJumped,
    ClusterChanged,
    ClusterRead,
    ClusterReadFailed,
    Event,
    HelperLost,
    HelperReady,
    LeaseFailed,
    LeaseGone,
    LeaseKept,
    LeaseRevoked,
    LinksObserved,
    LookFailed,
    MarksClaimed,
    MarksReleased,
    NodeAdvertised,
    NodeNotAdvertised,
    NodeWithdrawn,
    RestartRequested,
    SettingsChanged,
    StopRequested,
    WriteFailed,
)
from yaim.core.model import (
    SCHEMA,
    Address,
    Advertisement,
    Boottime,
    ClusterView,
    LeaseId,
    Mark,
    Node,
    NodeName,
    Place,
    PoolEntry,
    Revision,
    WrongEntry,
    frozen_mapping,
)
from yaim.core.overdue import LOOK_AGAIN_S, REPORT_AFTER_S
from yaim.core.placement import VERSION
from yaim.core.refusals import (
    FAILED_FOR_S,
    REFUSED_FOR_S,
    Cause,
    Refusal,
)
from yaim.core.settings import CheckSettings, Settings
from yaim.core.state.state import Local, Phase, State
from yaim.core.step import (
    ADD_RETRY_S,
    EXPIRED_AT_MOST,
    KERNEL_PATIENCE_S,
    MOST_TOLD,
    NAME_PATIENCE_S,
    ORPHAN_PATIENCE_S,
    OVERWRITE_EVERY_S,
    OVERWRITES_AT_MOST,
    READ_EVERY_S,
    RETRY_ALIVE_S,
    RETRY_MAX_S,
    RETRY_MIN_S,
    STOP_WITHIN_S,
    step,
)

A, B = ip_address("192.0.2.10"), ip_address("192.0.2.11")
V6 = ip_address("2001:db8::10")
ME, OTHER = NodeName("n1"), NodeName("n2")
LEASE, OTHERS_LEASE = LeaseId(0x11), LeaseId(0x22)
SESSION = "boot-1:4026531840"
NETWORKS = frozen_mapping({"eth0": (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64"))})
TTL_S = 3
FAILED = Refusal(Cause.FAILED, Boottime(1e3), Boottime(1e6))


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
) -> ClusterView:
    return ClusterView(
        Revision(revision),
        frozen_mapping({address: PoolEntry(address) for address in pool}),
        frozen_mapping({each.name: each for each in nodes}),
        frozen_mapping({each.address: each for each in marks}),
        wrong,
    )


class Play:
    """One core, told things at chosen instants. Answers with its actions, but for the reports."""

    def __init__(self) -> None:
        self.state = State(settings(), own_addresses=frozen_mapping({}))
        self.now = 1000.0
        self.reports: list[Report] = []
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
        return [each for each in actions if not isinstance(each, Report)]

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
            seen = self.state.view.revision + 1 if self.state.view is not None else 1
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
                case ReleaseMarks(request, marks):
                    gone = frozenset(each.address for each in marks)
                    events.append(MarksReleased(request, gone, Revision(seen)))
                case KeepLease():
                    events.append(self.kept())
                case LookForAddresses():
                    events.append(AddressesSeen(frozenset()))
        return self.tell(*events) if events else []

    def kept(self, lease: LeaseId = LEASE) -> LeaseKept:
        return LeaseKept(lease, TTL_S, Boottime(self.now))

    def deadline(self) -> Boottime:
        """Of a keepalive sent now."""
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


def requests(actions: list[Action]) -> list[type[Action]]:
    return [type(action) for action in actions]


def test_a_node_reads_leases_advertises_claims_and_adds_in_this_order() -> None:
    play = Play()
    assert play.tell() == [ReadCluster()]
    assert play.tell(helper_ready()) == []
    assert play.tell(ClusterRead(view(1, (A, V6)))) == [GrantLease(TTL_S)]
    assert play.tell(play.healthy()) == []
    assert play.tell(play.kept()) == [AdvertiseNode(1, advertisement(), LEASE, Revision(0), ())]
    assert play.tell(NodeAdvertised(1, node(ME, LEASE, 2))) == [
        ClaimMarks(2, (A, V6), LEASE, Revision(2))
    ]
    claimed = MarksClaimed(2, (mark(A, 3), mark(V6, 3)), frozenset(), Revision(3))
    assert play.tell(claimed) == [
        AddAddress(3, A, "eth0", 32, play.deadline()),
        AddAddress(4, V6, "eth0", 128, play.deadline()),
    ]
    assert play.tell(AddressAdded(3, A), AddressAdded(4, V6)) == []
    assert play.state.held == (A, V6)


def test_nothing_is_claimed_before_the_first_check_has_answered() -> None:
    play = Play()
    play.tell(helper_ready(), ClusterRead(view(1, (A,))))
    assert play.tell(play.kept()) == []


def test_an_unhealthy_node_is_advertised_and_claims_nothing() -> None:
    play = Play()
    play.tell()
    play.tell(helper_ready(), ClusterRead(view(1, (A,))), play.unhealthy())
    (advertise,) = play.tell(play.kept())
    assert isinstance(advertise, AdvertiseNode)
    assert not advertise.advertisement.is_healthy
    assert play.tell(NodeAdvertised(advertise.request, node(ME, LEASE, 2, False))) == []


def test_every_keepalive_hands_on_a_deadline_counted_from_its_sending() -> None:
    play = holding(A)
    (keep,) = play.after(1.0)
    assert keep == KeepLease(LEASE)
    sent_at = Boottime(play.now)
    play.now += 0.4
    assert play.tell(LeaseKept(LEASE, TTL_S, sent_at)) == [
        RenewAddresses(deadline_of(sent_at, TTL_S))
    ]


def test_a_keepalive_answered_late_does_not_shorten_the_deadline() -> None:
    play = holding(A)
    play.after(1.0)
    play.tell(play.kept())
    before = play.state.lease
    late = LeaseKept(LEASE, TTL_S, Boottime(play.now - 1.5))
    play.tell(late)
    assert play.state.lease == before


def test_with_little_life_left_the_lease_is_kept_before_anything_is_added() -> None:
    play = started()
    play.now += 0.8
    actions = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert requests(actions) == [KeepLease, ClaimMarks]
    assert play.tell(MarksClaimed(2, (mark(A, 4),), frozenset(), Revision(4))) == []
    assert play.tell(play.kept()) == [AddAddress(3, A, "eth0", 32, play.deadline())]


def test_an_address_is_removed_before_its_mark_is_released() -> None:
    play = holding(A, B)
    both = (mark(A, 4), mark(B, 4))
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 5))
    (remove,) = play.tell(ClusterChanged(view(5, (A, B), nodes, both)))
    assert isinstance(remove, RemoveAddress)
    assert play.tell() == []
    given_up = next(each for each in both if each.address == remove.address)
    (release,) = play.tell(AddressRemoved(remove.request, remove.address))
    assert release == ReleaseMarks(remove.request + 1, (given_up,), Revision(2))
    gone = frozenset({given_up.address})
    assert play.tell(MarksReleased(release.request, gone, Revision(6))) == []
    assert len(play.state.held) == 1


def test_an_unhealthy_node_removes_all_and_then_releases_all_in_one_write() -> None:
    play = holding(A, B)
    first = play.state.next_request
    assert play.tell(play.unhealthy()) == [RemoveAddress(first, A), RemoveAddress(first + 1, B)]
    assert play.tell(AddressRemoved(first, A)) == []
    (write,) = play.tell(AddressRemoved(first + 1, B))
    assert write == AdvertiseNode(
        first + 2,
        advertisement(is_healthy=False),
        LEASE,
        Revision(2),
        (mark(A, 4), mark(B, 4)),
    )


def test_a_check_that_does_not_answer_in_time_counts_as_unhealthy() -> None:
    play = holding(A)
    play.tell(play.healthy(for_s=0.5))
    assert requests(play.after(0.6)) == [RemoveAddress]


def several(play: Play, *names: str, is_any_enough: bool = False) -> None:
    """From now on the node's checks are these."""
    checks = tuple(CheckSettings(name) for name in names)
    play.settle(
        play.tell(SettingsChanged(replace(settings(), checks=checks, is_any_enough=is_any_enough)))
    )


def test_with_several_checks_nothing_is_taken_or_given_up_until_they_have_answered() -> None:
    play = holding(A)
    several(play, "database", "web")
    assert not advertised(play).takes
    me = (Node(ME, advertised(play), LEASE, Revision(5)),)
    assert play.tell(ClusterChanged(view(5, (A, B), me, (mark(A, 4),)))) == []
    assert play.tell(play.answer("database", True)) == []
    assert play.state.held == (A,)
    (write,) = play.tell(play.answer("web", True))
    assert isinstance(write, AdvertiseNode)
    assert (write.advertisement.is_healthy, write.advertisement.reason) == (True, "database, web")
    assert write.advertisement.takes
    told = Node(ME, write.advertisement, LEASE, Revision(6))
    assert requests(play.tell(NodeAdvertised(write.request, told))) == [ClaimMarks]


def test_a_sighup_that_changes_the_checks_costs_no_address() -> None:
    play = holding(A)
    several(play, "service", "web")
    assert play.tell() == []
    several(play, "database")
    assert play.tell() == []
    assert play.tell(play.unhealthy()) == []
    assert play.state.held == (A,)
    accepts = play.answer("database", True, "accepts connections")
    assert requests(play.tell(accepts)) == [AdvertiseNode]
    assert play.state.held == (A,)


def test_all_that_fails_is_told_as_the_reason_also_when_that_changes() -> None:
    play = started()
    several(play, "database", "web", "proxy")
    refused = play.answer("database", False, "connection refused")
    (write,) = play.tell(refused, play.answer("proxy", False, "HTTP 503, expected 200"))
    assert isinstance(write, AdvertiseNode)
    reason = "database: connection refused; proxy: HTTP 503, expected 200"
    assert write.advertisement.reason == reason
    assert play.said(Level.WARNING) == [
        "check database: unhealthy: connection refused",
        "check proxy: unhealthy: HTTP 503, expected 200",
        "unhealthy: database, proxy",
    ]
    told = Node(ME, write.advertisement, LEASE, Revision(5))
    play.tell(NodeAdvertised(write.request, told))
    assert play.tell(refused, play.answer("web", True)) == []
    (write,) = play.tell(play.answer("database", True))
    assert isinstance(write, AdvertiseNode)
    assert write.advertisement.reason == "proxy: HTTP 503, expected 200"
    assert len(play.said(Level.WARNING)) == 3


def test_the_reason_of_a_healthy_node_follows_its_checks() -> None:
    play = started()
    several(play, "database", "web", is_any_enough=True)
    (write,) = play.tell(play.answer("database", True), play.answer("web", True))
    assert isinstance(write, AdvertiseNode)
    assert play.said(Level.INFO)[-1] == "healthy: database, web"
    told = Node(ME, write.advertisement, LEASE, Revision(5))
    play.tell(NodeAdvertised(write.request, told))
    assert play.tell(play.answer("database", True), play.answer("web", True)) == []
    (write,) = play.tell(play.answer("web", False, "HTTP 503"))
    assert isinstance(write, AdvertiseNode)
    assert write.advertisement.reason == "database; failing: web: HTTP 503"


def test_an_only_check_is_told_once() -> None:
    play = holding(A)
    play.tell(play.unhealthy(), play.healthy(), play.unhealthy())
    play.tell(play.unhealthy())
    assert play.said(Level.WARNING) == ["unhealthy: HTTP 503"]


def test_the_check_that_has_not_answered_in_time_is_named() -> None:
    play = holding(A)
    several(play, "database", "web")
    play.tell(play.answer("database", True), play.answer("web", True, for_s=0.5))
    silent_from = play.now + 0.5
    play.after(0.4, play.answer("database", True))
    assert play.wake_at == silent_from
    assert requests(play.after(0.1)) == [RemoveAddress]
    assert play.said(Level.WARNING) == [
        "check web: unhealthy: has not answered in time",
        "unhealthy: web",
    ]


def test_a_new_check_that_never_answers_counts_as_failed_in_its_time() -> None:
    play = holding(A)
    checks = (CheckSettings("service"), CheckSettings("web", answers_within_s=0.5))
    play.tell(SettingsChanged(replace(settings(), checks=checks)))
    play.tell(play.healthy())
    silent_until = play.now + 0.5
    assert play.after(0.4) == []
    assert play.wake_at == silent_until
    assert requests(play.after(0.1)) == [RemoveAddress]
    assert play.said(Level.WARNING)[-1] == "unhealthy: web"


def test_a_sighup_leaves_a_check_time_for_the_attempt_under_way_and_the_next() -> None:
    """A changed check throws away what the attempt under way finds."""
    play = holding(A)
    old, new = (CheckSettings("service", answers_within_s=s) for s in (0.2, 0.3))
    play.tell(SettingsChanged(replace(settings(), checks=(old,))))
    play.tell(play.healthy(for_s=0.1))
    play.tell(SettingsChanged(replace(settings(), checks=(new,))))
    assert play.after(0.4) == []
    assert requests(play.after(0.2)) == [RemoveAddress]


def test_a_sighup_leaves_that_time_also_to_a_check_that_has_not_answered_yet() -> None:
    play = holding(A)
    old, new = (CheckSettings("web", answers_within_s=s) for s in (0.2, 0.3))
    play.tell(SettingsChanged(replace(settings(), checks=(old,))))
    play.tell(SettingsChanged(replace(settings(), checks=(new,))))
    assert play.after(0.4) == []
    assert requests(play.after(0.2)) == [RemoveAddress]


def test_an_answer_that_comes_late_with_a_step_that_comes_late_counts() -> None:
    play = holding(A)
    play.tell(play.healthy(for_s=0.5))
    play.now += 0.6
    assert play.tell(play.healthy()) == []


def test_an_address_that_leaves_the_pool_is_removed_and_released() -> None:
    play = holding(A)
    me = (node(ME, LEASE, 2),)
    (remove,) = play.tell(ClusterChanged(view(5, (), me, (mark(A, 4),))))
    assert isinstance(remove, RemoveAddress)
    assert requests(play.tell(AddressRemoved(remove.request, A))) == [ReleaseMarks]


def test_an_address_whose_mark_is_another_nodes_is_removed_at_once() -> None:
    """In the Go original a mark by another node never evicts a local address."""
    play = holding(A)
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 5))
    stolen = mark(A, 6, OTHER, OTHERS_LEASE)
    (remove,) = play.tell(ClusterChanged(view(6, (A,), nodes, (stolen,))))
    assert isinstance(remove, RemoveAddress)
    assert play.tell(AddressRemoved(remove.request, A)) == []


def test_a_mark_of_ours_under_another_lease_is_not_ours() -> None:
    play = holding(A)
    old = mark(A, 6, ME, LeaseId(0x99))
    (remove,) = play.tell(ClusterChanged(view(6, (A,), (node(ME, LEASE, 2),), (old,))))
    assert isinstance(remove, RemoveAddress)


def test_a_deleted_mark_is_claimed_anew_only_after_the_address_is_removed() -> None:
    play = holding(A)
    (remove,) = play.tell(ClusterChanged(view(5, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(remove, RemoveAddress)
    assert requests(play.tell(AddressRemoved(remove.request, A))) == [ClaimMarks]


def test_when_etcd_is_silent_addresses_stay_until_the_deadline_and_no_longer() -> None:
    play = holding(A)
    deadline = play.deadline()
    play.after(1.0)
    assert play.after(1.0, LeaseFailed("no answer in time")) == []
    play.now = deadline - 0.01
    assert not any(isinstance(each, RemoveAddress) for each in play.tell())
    play.now = deadline
    assert requests(play.tell()) == [RemoveAddress]


def test_after_an_outage_the_same_addresses_are_added_again() -> None:
    play = holding(A)
    play.after(1.0)
    play.tell(LeaseFailed("no answer in time"))
    (remove, keep) = play.after(1.8)
    assert isinstance(remove, RemoveAddress) and keep == KeepLease(LEASE)
    play.tell(AddressRemoved(remove.request, A))
    (add,) = play.tell(play.kept())
    assert isinstance(add, AddAddress)
    assert add == AddAddress(add.request, A, "eth0", 32, play.deadline())


def test_what_is_not_seen_when_deadline_and_grace_are_over_is_believed_gone() -> None:
    play = holding(A)
    deadline = play.deadline()
    play.settle(play.tell(HelperLost("it hung up")))
    play.after(1.0)
    play.tell(LeaseKept(LEASE, TTL_S, Boottime(play.now)))
    assert play.tell(play.unhealthy()) == []
    play.now = deadline + HELPER_GRACE_S - 0.01
    assert LookForAddresses() not in play.tell()
    play.now = deadline + HELPER_GRACE_S
    assert requests(play.tell()) == [LookForAddresses]
    (write,) = play.after(0.1, AddressesSeen(frozenset({B})))
    assert isinstance(write, AdvertiseNode)
    assert write.release == (mark(A, 4),)


def overdue() -> Play:
    """An unhealthy node without a helper, which keeps its lease. It has just asked to look for A
    and B, whose deadlines are over."""
    play = holding(A, B)
    deadline = play.deadline()
    play.tell(HelperLost("no answer within 2 s"), play.unhealthy())
    play.after(1.0, play.kept())
    play.after(1.0, play.kept())
    play.now = deadline + HELPER_GRACE_S
    assert play.tell() == [LookForAddresses()]
    return play


def writes(actions: list[Action]) -> list[Action]:
    written = AdvertiseNode | ReleaseMarks | WithdrawNode | ClaimMarks
    return [each for each in actions if isinstance(each, written)]


def test_an_address_that_a_kernel_keeps_after_its_deadline_keeps_its_mark_and_lease() -> None:
    """It holds its routing lock: neither the helper nor the kernel itself can remove it."""
    play = overdue()
    for _ in range(20):
        actions = play.after(0.1, play.kept(), AddressesSeen(frozenset({A, B})))
        assert not writes(actions)
        assert LookForAddresses() in play.after(LOOK_AGAIN_S)
    assert play.state.lease is not None and play.state.lease.deadline > play.now
    assert play.state.local[A].phase is Phase.UP
    (write,) = writes(play.tell(AddressesSeen(frozenset())))
    assert isinstance(write, AdvertiseNode)
    assert {each.address for each in write.release} == {A, B}


def test_what_is_gone_does_not_wait_for_long_for_what_a_kernel_keeps() -> None:
    """Found in a review: one address that could not be removed kept all others on nobody."""
    play = overdue()
    asked: list[Action] = []
    for _ in range(20):
        asked += play.after(0.1, play.kept(), AddressesSeen(frozenset({A})))
        asked += play.after(LOOK_AGAIN_S)
    (write,) = writes(asked)
    assert play.now >= play.state.local[A].deadline + HELPER_GRACE_S + REPORT_AFTER_S
    assert isinstance(write, AdvertiseNode)
    assert not write.advertisement.is_healthy
    assert [each.address for each in write.release] == [B]


def test_what_a_kernel_keeps_after_the_deadline_is_told_once_and_again_each_minute() -> None:
    play = overdue()
    play.tell(AddressesSeen(frozenset({A})))
    told = play.said(Level.WARNING)
    for second in range(70):
        play.now += 1.0
        play.settle(play.tell(AddressesSeen(frozenset({A}))) and [])
        said = play.said(Level.WARNING)[len(told) :]
        assert len(said) == (1 if second < 60 else 2)
    assert said[0].startswith("still on the interface 1 s after the deadline: 192.0.2.10; neither")
    assert said[1].startswith("still on the interface 61 s after the deadline")
    play.tell(AddressesSeen(frozenset()))
    assert play.said(Level.INFO)[-1] == "nothing is on the interface after its deadline any more"


def test_a_kernel_that_does_not_tell_its_addresses_changes_nothing_and_is_told() -> None:
    play = overdue()
    assert not writes(play.after(0.5, play.kept()))
    assert "RTNL" not in " ".join(play.said(Level.WARNING))
    assert play.wake_at is not None and play.wake_at <= play.now + REPORT_AFTER_S
    for _ in range(30):
        actions = play.after(1.0, play.kept())
        assert not writes(actions) and LookForAddresses() not in actions
    assert play.state.local[A].phase is Phase.UP
    (said,) = [text for text in play.said(Level.WARNING) if "RTNL" in text]
    assert said.startswith(
        "still on the interface 2 s after the deadline: 192.0.2.10, 192.0.2.11; perhaps"
    )


def test_a_look_that_fails_says_nothing_and_is_made_again() -> None:
    play = overdue()
    assert not writes(play.tell(LookFailed("No buffer space available")))
    assert play.state.local[A].phase is Phase.UP
    assert play.wake_at == play.now + LOOK_AGAIN_S
    assert LookForAddresses() in play.after(LOOK_AGAIN_S, play.kept())
    play.tell(LookFailed("No buffer space available"))
    play.after(REPORT_AFTER_S)
    assert "No buffer space available" in play.said(Level.WARNING)[-1]


def test_a_look_does_not_count_for_what_was_granted_since_it_was_asked_for() -> None:
    """The helper is back and may have added it anew: perhaps just after the look."""
    play = overdue()
    assert play.state.lease is not None
    deadline = play.state.lease.deadline
    play.tell(helper_ready(AddressOnInterface(A, deadline)))
    play.now = deadline + HELPER_GRACE_S
    play.tell(AddressesSeen(frozenset()))
    assert play.state.local[B].phase is Phase.ABSENT
    assert play.state.local[A].phase is not Phase.ABSENT


def test_while_a_look_is_under_way_no_other_is_asked_for() -> None:
    play = overdue()
    actions = [each for _ in range(20) for each in play.after(0.1, play.kept())]
    assert LookForAddresses() not in actions


def test_many_overdue_addresses_are_told_in_a_short_line() -> None:
    pool = tuple(ip_address(f"192.0.2.{number}") for number in range(10, 110))
    play = holding(*pool)
    play.tell(HelperLost("it hung up"))
    play.after(TTL_S + REPORT_AFTER_S)
    play.tell()
    said = play.said(Level.WARNING)[-1]
    assert "192.0.2.10, 192.0.2.11, 192.0.2.12, 192.0.2.13 and 96 more" in said


@pytest.mark.parametrize(
    ("asked", "outcome"),
    [
        (RestartRequested("got SIGUSR1"), Outcome.LEFT),
        (StopRequested("got SIGTERM"), Outcome.NOT_RELEASED),
    ],
)
def test_while_a_look_is_under_way_the_lease_is_kept_also_by_who_is_to_end(
    asked: Event, outcome: Outcome
) -> None:
    """Its process cannot end before, as it waits in the kernel."""
    play = overdue()
    actions = play.tell(asked)
    for _ in range(12):
        actions += play.after(1.0, play.kept())
    assert not any(isinstance(each, End) for each in actions) and not writes(actions)
    assert actions.count(KeepLease(LEASE)) > 10
    actions = play.after(0.5, AddressesSeen(frozenset({A, B})))
    (end,) = [each for each in actions if isinstance(each, End)]
    assert end.outcome is outcome


def test_a_node_that_stops_releases_nothing_that_a_kernel_keeps() -> None:
    play = overdue()
    play.tell(StopRequested("got SIGTERM"))
    actions = [
        each
        for _ in range(60)
        for each in play.after(0.1, play.kept(), AddressesSeen(frozenset({A})))
    ]
    assert not writes(actions)
    (end,) = [each for each in actions if isinstance(each, End)]
    assert end.outcome is Outcome.NOT_RELEASED


def test_a_lost_lease_means_that_everything_is_removed_and_nothing_released() -> None:
    play = holding(A)
    play.after(1.0)
    actions = play.tell(LeaseGone(LEASE))
    assert requests(actions) == [RemoveAddress, ReadCluster]
    (remove, _) = actions
    assert isinstance(remove, RemoveAddress)
    assert play.tell(AddressRemoved(remove.request, A)) == []
    assert requests(play.tell(ClusterRead(view(9, (A,))))) == [GrantLease]


def beside_another(*addresses: Address) -> Play:
    """A node that holds A of the pool, another one holds the rest."""
    play = holding(A)
    play.tell(ClusterChanged(beside(6, *addresses)))
    assert play.state.held == (A,)
    return play


def beside(revision: int, *addresses: Address) -> ClusterView:
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 5))
    theirs = tuple(mark(address, 6, OTHER, OTHERS_LEASE) for address in addresses)
    return view(revision, (A, *addresses), nodes, (mark(A, 4), *theirs))


NEW_LEASE, OTHERS_NEW_LEASE = LeaseId(0x33), LeaseId(0x44)


def back(play: Play, seen: ClusterView) -> list[Action]:
    """Its lease is lost, this is what it reads, and it is advertised under a new lease; what it
    then does."""
    actions = play.tell(LeaseGone(LEASE))
    for each in actions:
        if isinstance(each, RemoveAddress):
            play.tell(AddressRemoved(each.request, each.address))
    assert play.tell(ClusterRead(seen)) == [GrantLease(TTL_S)]
    advertise = play.tell(play.kept(NEW_LEASE))[-1]
    assert isinstance(advertise, AdvertiseNode)
    revision = seen.revision + 1
    return play.tell(NodeAdvertised(advertise.request, node(ME, NEW_LEASE, revision)))


def test_an_advertisement_that_has_gone_makes_the_node_ask_for_its_lease_before_it_writes() -> None:
    play = beside_another(B)
    actions = play.tell(ClusterChanged(view(7, (A, B))))
    assert requests(actions) == [KeepLease, RemoveAddress]
    assert requests(play.after(0.01, play.kept())) == [AdvertiseNode]


def test_an_advertisement_that_was_deleted_is_written_anew_also_when_etcd_is_slow() -> None:
    play = beside_another(B)
    play.tell(ClusterChanged(view(7, (A, B))))
    late = LeaseKept(LEASE, TTL_S, Boottime(play.now))
    assert requests(play.after(1.0, late)) == [AdvertiseNode, KeepLease]


def test_after_a_loss_of_all_leases_what_was_ours_is_claimed_at_once_and_nothing_else() -> None:
    play = beside_another(B)
    _, remove = play.tell(ClusterChanged(view(7, (A, B))))
    assert isinstance(remove, RemoveAddress)
    play.tell(AddressRemoved(remove.request, A))
    (claim,) = back(play, view(7, (A, B)))
    assert isinstance(claim, ClaimMarks)
    assert claim == ClaimMarks(claim.request, (A,), NEW_LEASE, Revision(8))
    claimed = MarksClaimed(claim.request, (mark(A, 9, ME, NEW_LEASE),), frozenset(), Revision(9))
    assert requests(play.tell(claimed)) == [AddAddress]
    assert play.state.loss is not None
    until = play.state.loss.until
    assert until == all_over_at(Boottime(play.now), TTL_S)
    play.now = until - 0.01
    play.tell(play.kept(NEW_LEASE), ClusterRead(play.state.view or view(1)))
    assert not any(isinstance(each, ClaimMarks) for each in play.tell())
    assert play.wake_at == until
    play.now = until
    (late,) = play.tell()
    assert isinstance(late, ClaimMarks) and late.addresses == (B,)


def test_after_a_loss_others_get_back_what_was_theirs_and_nothing_moves() -> None:
    play = beside_another(B)
    (claim,) = back(play, view(7, (A, B)))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(
        MarksClaimed(claim.request, (mark(A, 9, ME, NEW_LEASE),), frozenset(), Revision(9))
    )
    assert isinstance(add, AddAddress)
    play.tell(AddressAdded(add.request, A))
    nodes = (node(ME, NEW_LEASE, 8), node(OTHER, OTHERS_NEW_LEASE, 10))
    marks = (mark(A, 9, ME, NEW_LEASE), mark(B, 11, OTHER, OTHERS_NEW_LEASE))
    assert play.tell(ClusterChanged(view(11, (A, B), nodes, marks))) == []
    assert play.state.loss is not None
    play.now = play.state.loss.until
    assert not {RemoveAddress, ClaimMarks} & set(requests(play.tell(play.kept(NEW_LEASE))))


def test_after_a_loss_what_was_ours_is_claimed_whoever_is_to_hold_it() -> None:
    """A new node without any address is there first: by placement it should have one of ours."""
    play = holding(A, B)
    _, remove, other = play.tell(ClusterChanged(view(7, (A, B))))
    assert isinstance(remove, RemoveAddress) and isinstance(other, RemoveAddress)
    play.tell(AddressRemoved(remove.request, A), AddressRemoved(other.request, B))
    (claim,) = back(play, view(7, (A, B), (node(OTHER, OTHERS_LEASE, 7),)))
    assert set(play.state.target.values()) == {ME, OTHER}
    assert isinstance(claim, ClaimMarks) and claim.addresses == (A, B)
    marks = (mark(A, 9, ME, NEW_LEASE), mark(B, 9, ME, NEW_LEASE))
    assert requests(play.tell(MarksClaimed(claim.request, marks, frozenset(), Revision(9)))) == [
        AddAddress,
        AddAddress,
    ]


def test_after_our_lease_alone_was_revoked_what_others_have_taken_is_theirs() -> None:
    play = beside_another(B)
    taken = (mark(A, 7, OTHER, OTHERS_LEASE), mark(B, 6, OTHER, OTHERS_LEASE))
    there = view(7, (A, B), (node(OTHER, OTHERS_LEASE, 5),), taken)
    assert back(play, there) == []
    assert play.state.ours == frozenset()


def test_after_a_loss_what_a_holder_with_a_lease_releases_is_claimed_at_once() -> None:
    play = beside_another(B)
    taken = (mark(A, 7, OTHER, OTHERS_LEASE), mark(B, 6, OTHER, OTHERS_LEASE))
    other = node(OTHER, OTHERS_LEASE, 5)
    back(play, view(7, (A, B), (other,), taken))
    (given,) = (a for a, name in play.state.target.items() if name == ME)
    kept = tuple(each for each in taken if each.address != given)
    nodes = (node(ME, NEW_LEASE, 8), other)
    (claim,) = play.tell(ClusterChanged(view(9, (A, B), nodes, kept)))
    assert isinstance(claim, ClaimMarks) and claim.addresses == (given,)


def test_after_a_loss_what_others_lose_with_their_leases_is_not_claimed_at_once() -> None:
    """An administrator revokes one lease after the other."""
    play = beside_another(B)
    taken = (mark(A, 7, OTHER, OTHERS_LEASE), mark(B, 6, OTHER, OTHERS_LEASE))
    back(play, view(7, (A, B), (node(OTHER, OTHERS_LEASE, 5),), taken))
    assert play.tell(ClusterChanged(view(9, (A, B), (node(ME, NEW_LEASE, 8),)))) == []


def test_after_a_lease_that_ended_in_its_time_everything_is_claimed_at_once() -> None:
    """Whoever had the rest: it had ended for it too, or is marked."""
    play = beside_another(B)
    play.now = play.deadline()
    remove, keep = play.tell()
    assert isinstance(remove, RemoveAddress) and keep == KeepLease(LEASE)
    play.tell(AddressRemoved(remove.request, A))
    (claim,) = back(play, view(7, (A, B)))
    assert isinstance(claim, ClaimMarks) and claim.addresses == (A, B)
    assert play.said(Level.WARNING)[-1] == "etcd has lost our lease: giving up all addresses"


def test_after_a_loss_a_pool_that_is_put_back_gives_each_node_what_was_its_own() -> None:
    play = beside_another(B)
    assert back(play, view(1)) == []
    (claim,) = play.after(0.1, ClusterChanged(view(5, (A, B), (node(ME, NEW_LEASE, 2),))))
    assert isinstance(claim, ClaimMarks) and claim.addresses == (A,)


def test_after_a_loss_what_was_to_be_released_is_not_ours() -> None:
    """The release may have been done, and another node have claimed it, before the loss."""
    play = holding(A, B)
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 5))
    (remove,) = play.tell(ClusterChanged(view(5, (A, B), nodes, (mark(A, 4), mark(B, 4)))))
    assert isinstance(remove, RemoveAddress)
    (release,) = play.tell(AddressRemoved(remove.request, remove.address))
    assert isinstance(release, ReleaseMarks)
    assert play.state.ours == {A, B} - {remove.address}
    play.tell(WriteFailed(release.request, "no answer in time"))
    play.tell(ClusterChanged(view(6, (A, B), nodes, (mark(A, 4), mark(B, 4)))))
    assert play.state.ours == {A, B} - {remove.address}


def test_after_a_loss_an_unhealthy_node_claims_nothing() -> None:
    play = beside_another(B)
    play.tell(LeaseGone(LEASE), play.unhealthy())
    play.tell(ClusterRead(view(7, (A, B))))
    (advertise,) = (
        each for each in play.tell(play.kept(NEW_LEASE)) if isinstance(each, AdvertiseNode)
    )
    mine = node(ME, NEW_LEASE, 8, is_healthy=False)
    assert ClaimMarks not in requests(play.tell(NodeAdvertised(advertise.request, mine)))


def test_a_view_from_before_a_loss_makes_nothing_ours_and_nothing_released() -> None:
    play = beside_another(B)
    play.tell(LeaseGone(LEASE))
    play.tell(ClusterChanged(beside(7, B)))
    play.tell(LeaseGone(LEASE))
    play.tell(ClusterRead(view(8, (A, B))))
    assert play.state.loss is not None
    assert play.state.loss.released == frozenset()
    assert B not in play.state.ours


def test_a_node_that_loses_its_lease_while_stopping_ends() -> None:
    play = beside_another(B)
    (remove,) = play.tell(StopRequested("got SIGTERM"))
    assert isinstance(remove, RemoveAddress)
    gone = play.tell(LeaseGone(LEASE), AddressRemoved(remove.request, A))
    assert gone == [End(Outcome.STOPPED, "got SIGTERM")]


def test_a_wiped_etcd_is_believed_although_its_revision_is_lower() -> None:
    play = holding(A)
    play.after(1.0)
    play.tell(LeaseGone(LEASE))
    play.tell(ClusterRead(view(1, (B,))))
    assert play.state.view == view(1, (B,))


@pytest.mark.parametrize("is_read_first", [True, False])
def test_after_a_wipe_that_is_learnt_of_after_the_deadline_others_may_still_have_theirs(
    is_read_first: bool,
) -> None:
    """They may have been kept after our last keepalive, before etcd failed."""
    play = beside_another(B)
    assert ReadCluster in requests(play.after(5.0, LeaseFailed("down")))
    restored = view(1, (A, B))
    if is_read_first:
        play.tell(ClusterRead(restored))
    play.tell(LeaseGone(LEASE))
    play.tell(ClusterRead(restored))
    advertise = play.tell(play.kept(NEW_LEASE))[-1]
    assert isinstance(advertise, AdvertiseNode)
    assert play.tell(NodeAdvertised(advertise.request, node(ME, NEW_LEASE, 2))) == []
    assert play.state.loss is not None
    play.now = play.state.loss.until
    assert ClaimMarks in requests(play.tell(play.kept(NEW_LEASE)))


def test_a_wiped_etcd_that_a_read_tells_first_makes_the_node_ask_for_its_lease_at_once() -> None:
    play = holding(A)
    assert ReadCluster() in play.after(5.0)
    play.tell(play.kept(), AddressesSeen(frozenset()))
    actions = play.after(0.01, ClusterRead(view(1, (A,))))
    assert requests(actions) == [KeepLease, RemoveAddress]


def test_a_wiped_etcd_is_believed_also_by_a_node_without_a_lease() -> None:
    """Found by simulation: with no lease to lose, it held on to the old view for ever."""
    play = Play()
    play.tell()
    elsewhere = replace(node(ME, OTHERS_LEASE, 2), advertisement=advertisement(session="boot-9:1"))
    play.tell(helper_ready(), ClusterRead(view(70, (A,), (elsewhere,))))
    assert ReadCluster() in play.after(5.0)
    assert play.tell(ClusterRead(view(1, (B,)))) == [GrantLease(TTL_S)]
    assert play.state.view == view(1, (B,))


def test_an_answer_older_than_what_the_watch_has_told_meanwhile_is_no_wiped_etcd() -> None:
    play = started()
    assert ReadCluster() in play.after(5.0, play.kept())
    me = (node(ME, LEASE, 2),)
    play.tell(ClusterChanged(view(8, (), me)))
    play.tell(ClusterRead(view(7, (A,), me)))
    assert play.state.view == view(8, (), me)


def test_an_older_view_does_not_replace_a_newer_one() -> None:
    play = holding(A)
    assert play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),)))) == []
    assert play.state.held == (A,)


def test_a_restarted_coordinator_adopts_its_lease_and_keeps_its_addresses() -> None:
    """Found by simulation: it writes its advertisement anew before it adds anything, so that a
    release that its earlier life has sent, and that is still on its way, fails."""
    play = Play()
    play.tell()
    left = AddressOnInterface(A, Boottime(play.now + 2.0))
    assert play.tell(helper_ready(left)) == []
    assert play.state.held == (A,)
    there = view(7, (A, B), (node(ME, LEASE, 2),), (mark(A, 4), mark(B, 4)))
    assert play.tell(ClusterRead(there)) == [KeepLease(LEASE)]
    assert play.tell(play.kept()) == [
        RenewAddresses(play.deadline()),
        AdvertiseNode(1, replace(advertisement(), takes=False), LEASE, Revision(2), ()),
    ]
    mine = Node(ME, replace(advertisement(), takes=False), LEASE, Revision(8))
    assert play.tell(NodeAdvertised(1, mine)) == [ReadCluster()]
    assert play.state.held == (A,)
    assert play.tell(ClusterRead(replace(there, revision=Revision(8), nodes={ME: mine}))) == [
        AddAddress(2, B, "eth0", 32, play.deadline())
    ]
    (write,) = play.tell(play.healthy(), AddressAdded(2, B))
    assert write == AdvertiseNode(3, advertisement(), LEASE, Revision(8), ())
    assert set(play.state.held) == {A, B}


def adopting(*held: Address) -> tuple[Play, ClusterView]:
    """A new life that has adopted the lease and the marks of A and B, and has just written its
    advertisement; what it had read before. The helper has these on record."""
    play = Play()
    play.tell()
    left = (AddressOnInterface(address, Boottime(play.now + 2.0)) for address in held)
    there = view(7, (A, B), (node(ME, LEASE, 2),), (mark(A, 4), mark(B, 4)))
    play.tell(helper_ready(*left), play.healthy(), ClusterRead(there))
    write = play.tell(play.kept())[-1]
    assert isinstance(write, AdvertiseNode)
    assert play.tell(NodeAdvertised(write.request, node(ME, LEASE, 9))) == [ReadCluster()]
    return play, there


def test_what_an_earlier_life_has_released_just_before_our_advertisement_is_not_added() -> None:
    """Found by simulation: its release was done between our read and our advertisement."""
    play, _ = adopting(A)
    seen = view(9, (A, B), (node(ME, LEASE, 9),), (mark(A, 4),))
    (claim,) = play.tell(ClusterChanged(seen))
    assert isinstance(claim, ClaimMarks) and claim.addresses == (B,)
    assert play.state.held == (A,)


def test_a_view_from_before_our_advertisement_does_not_show_what_an_earlier_life_has_done() -> None:
    """Neither one that the watch tells late, nor a read that was under way."""
    play = Play()
    play.tell()
    there = view(7, (A, B), (node(ME, LEASE, 2),), (mark(A, 4), mark(B, 4)))
    play.tell(helper_ready(), play.healthy(), ClusterRead(there))
    play.now += 5.0
    write, read = play.tell(play.kept())
    assert isinstance(write, AdvertiseNode) and read == ReadCluster()
    assert play.tell(NodeAdvertised(write.request, node(ME, LEASE, 9))) == []
    before = replace(there, revision=Revision(8))
    assert play.tell(ClusterChanged(before)) == []
    assert play.tell(ClusterRead(before)) == [ReadCluster()]
    mine = frozen_mapping({ME: node(ME, LEASE, 9)})
    adds = play.tell(ClusterRead(replace(there, revision=Revision(9), nodes=mine)))
    assert requests(adds) == [AddAddress, AddAddress]


def test_a_view_that_the_watch_told_before_the_answer_to_our_advertisement_is_enough() -> None:
    play = Play()
    play.tell()
    there = view(7, (A,), (node(ME, LEASE, 2),), (mark(A, 4),))
    play.tell(helper_ready(), play.healthy(), ClusterRead(there))
    (write,) = play.tell(play.kept())
    assert isinstance(write, AdvertiseNode)
    play.tell(ClusterChanged(view(9, (A,), (node(ME, LEASE, 9),), (mark(A, 4),))))
    (add,) = play.tell(NodeAdvertised(write.request, node(ME, LEASE, 9)))
    assert isinstance(add, AddAddress)


def test_a_restored_etcd_is_not_waited_with_until_its_revisions_have_caught_up() -> None:
    play, there = adopting()
    assert play.tell(ClusterReadFailed("no leader")) == []
    play.now += 0.3
    assert ReadCluster() in play.tell(play.kept())
    (add, *_) = play.tell(ClusterRead(replace(there, revision=Revision(5))))
    assert isinstance(add, AddAddress)


def test_what_an_earlier_life_may_have_left_is_removed_before_its_mark_is_released() -> None:
    """The helper was restarted too and has nothing on record, but the kernel may."""
    play = Play()
    play.tell()
    there = view(7, (A,), (node(ME, LEASE, 2),), (mark(A, 4),))
    play.tell(helper_ready(), play.unhealthy(), ClusterRead(there))
    (remove,) = play.tell(play.kept())
    assert remove == RemoveAddress(1, A)
    (write,) = play.tell(AddressRemoved(1, A))
    assert isinstance(write, AdvertiseNode)
    assert write.release == (mark(A, 4),)


def test_an_address_left_by_an_earlier_life_without_a_mark_is_removed() -> None:
    play = Play()
    play.tell()
    play.tell(helper_ready(AddressOnInterface(A, Boottime(play.now + 2.0))))
    actions = play.tell(ClusterRead(view(7, (A,))))
    assert requests(actions) == [RemoveAddress, GrantLease]


def test_an_earlier_lease_that_is_gone_is_replaced_by_a_new_one() -> None:
    play = Play()
    play.tell()
    play.tell(helper_ready(), ClusterRead(view(7, (A,), (node(ME, LEASE, 2),))))
    assert requests(play.tell(LeaseGone(LEASE))) == [ReadCluster]
    assert play.tell(ClusterRead(view(8, (A,)))) == [GrantLease(TTL_S)]


def test_a_second_live_node_of_the_same_name_is_refused() -> None:
    play = Play()
    play.tell()
    elsewhere = replace(node(ME, OTHERS_LEASE, 2), advertisement=advertisement(session="boot-9:1"))
    assert play.tell(helper_ready(), ClusterRead(view(7, (A,), (elsewhere,)))) == []
    (end,) = [each for each in play.after(2 * TTL_S + NAME_PATIENCE_S) if isinstance(each, End)]
    assert end.outcome is Outcome.NAME_TAKEN
    assert "n1" in end.reason and "nodename" in end.reason


def test_after_a_reboot_the_earlier_advertisement_is_waited_for_to_expire() -> None:
    play = Play()
    play.tell()
    before = replace(node(ME, OTHERS_LEASE, 2), advertisement=advertisement(session="boot-0:1"))
    play.tell(helper_ready(), ClusterRead(view(7, (A,), (before,))))
    play.now += 2.0
    assert GrantLease(TTL_S) in play.tell(ClusterChanged(view(8, (A,))))


def test_a_claim_that_was_lost_is_not_repeated_on_the_same_view() -> None:
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    lost = MarksClaimed(claim.request, (), frozenset({A}), Revision(4))
    assert play.tell(lost) == [ReadCluster()]
    assert play.tell() == []
    taken = view(4, (A,), (node(ME, LEASE, 2),), (mark(A, 4, OTHER, OTHERS_LEASE),))
    assert play.tell(ClusterRead(taken)) == []


def test_a_mark_whose_release_is_under_way_is_not_used_again() -> None:
    """Found by simulation: the mark still stands in our view, and is deleted a moment later."""
    play = holding(A, B)
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 5))
    both = (mark(A, 4), mark(B, 4))
    (remove,) = play.tell(ClusterChanged(view(5, (A, B), nodes, both)))
    assert isinstance(remove, RemoveAddress)
    assert requests(play.tell(AddressRemoved(remove.request, remove.address))) == [ReleaseMarks]
    other_gone = view(6, (A, B), (node(ME, LEASE, 2),), both)
    assert play.tell(ClusterChanged(other_gone)) == []


def test_a_mark_whose_release_is_in_doubt_is_not_used_again() -> None:
    """The release may be done at any time yet; the address would then be up without a mark."""
    play = holding(A, B)
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 5))
    both = (mark(A, 4), mark(B, 4))
    (remove,) = play.tell(ClusterChanged(view(5, (A, B), nodes, both)))
    assert isinstance(remove, RemoveAddress)
    (release,) = play.tell(AddressRemoved(remove.request, remove.address))
    assert isinstance(release, ReleaseMarks)
    assert play.tell(WriteFailed(release.request, "no answer in time")) == [ReadCluster()]
    alone = view(6, (A, B), (node(ME, LEASE, 2),), both)
    play.now += 0.2
    (again,) = play.tell(ClusterRead(alone))
    assert isinstance(again, ReleaseMarks)
    assert again == replace(release, request=again.request)
    released = frozenset({remove.address})
    (claim,) = play.tell(MarksReleased(again.request, released, Revision(7)))
    assert isinstance(claim, ClaimMarks)


def test_what_could_not_be_released_is_used_again_only_when_a_read_has_told_that_it_is_there() -> (
    None
):
    """More marks than one transaction takes: the first ones may be gone, although the advertisement
    was not written."""
    play = holding(A, B)
    removes = [each for each in play.tell(play.unhealthy()) if isinstance(each, RemoveAddress)]
    (write,) = play.tell(*(AddressRemoved(each.request, each.address) for each in removes))
    assert isinstance(write, AdvertiseNode) and len(write.release) == 2
    actions = play.tell(NodeNotAdvertised(write.request), play.healthy())
    assert requests(actions) == [ReadCluster]
    rest = play.tell(ClusterRead(view(7, (A, B), (node(ME, LEASE, 6),), (mark(B, 4),))))
    assert [each.address for each in rest if isinstance(each, AddAddress)] == [B]


def test_a_mark_that_was_not_the_one_to_be_released_is_not_used_before_a_read() -> None:
    play = holding(A, B)
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 5))
    both = (mark(A, 4), mark(B, 4))
    (remove,) = play.tell(ClusterChanged(view(5, (A, B), nodes, both)))
    assert isinstance(remove, RemoveAddress)
    (release,) = play.tell(AddressRemoved(remove.request, remove.address))
    assert isinstance(release, ReleaseMarks)
    alone = view(6, (A, B), (node(ME, LEASE, 2),), both)
    actions = play.tell(
        ClusterChanged(alone), MarksReleased(release.request, frozenset(), Revision(6))
    )
    assert requests(actions) == [ReadCluster]
    assert requests(play.tell(ClusterRead(alone))) == [AddAddress]


def refused_as_full(play: Play, write: Action) -> list[Action]:
    """What follows, when the next attempt is due and a read has shown that nothing has changed."""
    assert isinstance(write, AdvertiseNode | WithdrawNode | ReleaseMarks)
    assert ReadCluster() in play.tell(WriteFailed(write.request, "no space", is_full=True))
    known = play.state.view
    assert known is not None
    play.now += RETRY_MAX_S
    return play.tell(play.kept(), ClusterRead(known))


def failed_under_a_full_etcd() -> tuple[Play, Action]:
    """A node that has held two addresses, after its check has failed: its next write."""
    play = holding(A, B)
    removes = [each for each in play.tell(play.unhealthy()) if isinstance(each, RemoveAddress)]
    (write,) = play.tell(*(AddressRemoved(each.request, each.address) for each in removes))
    assert isinstance(write, AdvertiseNode) and not write.advertisement.is_healthy
    (withdraw,) = refused_as_full(play, write)
    return play, withdraw


def test_a_full_etcd_does_not_keep_a_failed_node_advertised() -> None:
    """Found in use: it removed its addresses, and stayed advertised as healthy, with its marks."""
    play, withdraw = failed_under_a_full_etcd()
    assert isinstance(withdraw, WithdrawNode)
    assert withdraw == WithdrawNode(withdraw.request, LEASE, Revision(2), (mark(A, 4), mark(B, 4)))
    keep, anew = play.tell(NodeWithdrawn(withdraw.request, Revision(9)))
    assert keep == KeepLease(LEASE)
    unhealthy = advertisement(is_healthy=False)
    assert anew == AdvertiseNode(withdraw.request + 1, unhealthy, LEASE, Revision(0), ())
    (again,) = refused_as_full(play, anew)
    assert isinstance(again, AdvertiseNode)
    assert again == replace(anew, request=again.request)


def test_a_node_that_withdrew_from_a_full_etcd_takes_its_share_when_all_is_well_again() -> None:
    play, withdraw = failed_under_a_full_etcd()
    assert isinstance(withdraw, WithdrawNode)
    _, anew = play.tell(NodeWithdrawn(withdraw.request, Revision(9)))
    assert isinstance(anew, AdvertiseNode)
    ill = node(ME, LEASE, 10, is_healthy=False)
    (well,) = play.tell(play.kept(), NodeAdvertised(anew.request, ill), play.healthy())
    assert isinstance(well, AdvertiseNode) and well.advertisement.is_healthy
    (claim,) = play.tell(NodeAdvertised(well.request, node(ME, LEASE, 11)))
    assert isinstance(claim, ClaimMarks) and claim.addresses == (A, B)


def test_an_etcd_that_refuses_deletions_too_gets_no_more_keepalives_of_a_failed_node() -> None:
    play, withdraw = failed_under_a_full_etcd()
    later = refused_as_full(play, withdraw)
    assert requests(later) == [AdvertiseNode]
    assert requests(play.after(0.9)) == []
    actions = play.tell(play.healthy())
    assert KeepLease(LEASE) in actions, "well again before the lease has ended"


def test_a_lease_that_a_full_etcd_let_end_is_followed_by_a_new_one() -> None:
    play, withdraw = failed_under_a_full_etcd()
    (write,) = refused_as_full(play, withdraw)
    assert isinstance(write, AdvertiseNode)
    play.tell(WriteFailed(write.request, "no space", is_full=True))
    actions = play.after(TTL_S + 0.5, ClusterRead(view(12, (A, B))))
    assert KeepLease(LEASE) in actions
    assert GrantLease(TTL_S) in [
        *play.tell(LeaseGone(LEASE)),
        *play.tell(ClusterRead(view(12, (A, B)))),
    ]


def test_a_link_that_goes_down_makes_a_node_withdraw_from_a_full_etcd() -> None:
    play = holding(A)
    play.tell(LinksObserved(frozenset({"lo", "eth0"})))
    remove, write = play.tell(LinksObserved(frozenset({"lo"})))
    assert isinstance(remove, RemoveAddress) and isinstance(write, AdvertiseNode)
    play.tell(AddressRemoved(remove.request, A))
    (withdraw,) = refused_as_full(play, write)
    assert withdraw == WithdrawNode(write.request + 1, LEASE, Revision(2), (mark(A, 4),))


def test_what_moves_is_released_before_a_full_etcd_is_told_anything_new() -> None:
    play = holding(A, B)
    play.tell(LinksObserved(frozenset({"lo", "eth0"})))
    (write,) = play.tell(SettingsChanged(replace(settings(), version="0.2.0")))
    less = view(8, (A,), (node(ME, LEASE, 2),), (mark(A, 4), mark(B, 4)))
    assert isinstance(write, AdvertiseNode)
    (remove,) = play.tell(ClusterChanged(less))
    assert isinstance(remove, RemoveAddress)
    play.tell(AddressRemoved(remove.request, B))
    _, release = refused_as_full(play, write)
    assert isinstance(release, ReleaseMarks)
    assert release == ReleaseMarks(release.request, (mark(B, 4),), Revision(2))


def test_what_is_to_move_and_a_full_etcd_does_not_release_stays_until_it_does() -> None:
    play = holding(A, B)
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 5))
    both = (mark(A, 4), mark(B, 4))
    (remove,) = play.tell(ClusterChanged(view(5, (A, B), nodes, both)))
    assert isinstance(remove, RemoveAddress)
    (release,) = play.tell(AddressRemoved(remove.request, remove.address))
    assert isinstance(release, ReleaseMarks)
    add, _, told = refused_as_full(play, release)
    assert isinstance(add, AddAddress) and add.address == remove.address
    assert isinstance(told, AdvertiseNode) and told.advertisement == advertisement()
    play.tell(AddressAdded(add.request, add.address))
    again = play.tell(NodeAdvertised(told.request, node(ME, LEASE, 9)))
    assert requests(again) == [RemoveAddress]


def test_what_a_full_etcd_has_refused_may_be_done_and_is_not_used_before_a_read() -> None:
    """A member that notices while it applies a write does that, and then answers so."""
    play = holding(A)
    (remove,) = play.tell(play.unhealthy())
    assert isinstance(remove, RemoveAddress)
    (write,) = play.tell(AddressRemoved(remove.request, A))
    assert isinstance(write, AdvertiseNode)
    refused = WriteFailed(write.request, "no space", is_full=True)
    assert play.tell(refused, play.healthy()) == [ReadCluster()]
    same = view(5, (A,), (node(ME, LEASE, 2),), (mark(A, 4),))
    (add,) = play.tell(ClusterRead(same))
    assert isinstance(add, AddAddress)


def test_a_node_that_is_to_keep_stays_in_a_full_etcd_as_it_is() -> None:
    play = holding(A)
    keeps = replace(settings(), keeps_when_all_unhealthy=True)
    play.tell(SettingsChanged(keeps))
    (write,) = play.tell(play.unhealthy())
    assert requests(refused_as_full(play, write)) == [RenewAddresses, AdvertiseNode]
    assert play.state.held == (A,)


def test_stopping_withdraws_from_a_full_etcd() -> None:
    play = holding(A)
    (remove,) = play.tell(StopRequested("got SIGTERM"))
    assert isinstance(remove, RemoveAddress)
    (write,) = play.tell(AddressRemoved(remove.request, A))
    assert isinstance(write, AdvertiseNode) and write.release == (mark(A, 4),)
    (withdraw,) = refused_as_full(play, write)
    assert withdraw == WithdrawNode(write.request + 1, LEASE, Revision(2), (mark(A, 4),))
    assert play.tell(NodeWithdrawn(write.request + 1, Revision(9))) == [RevokeLease(LEASE)]


def test_stopping_does_not_wait_for_an_etcd_that_refuses_deletions_too() -> None:
    play = holding(A)
    (remove,) = play.tell(StopRequested("got SIGTERM"))
    assert isinstance(remove, RemoveAddress)
    (write,) = play.tell(AddressRemoved(remove.request, A))
    (withdraw,) = refused_as_full(play, write)
    assert isinstance(withdraw, WithdrawNode)
    actions = play.tell(WriteFailed(withdraw.request, "no space", is_full=True))
    (end,) = [each for each in actions if isinstance(each, End)]
    assert end.outcome is Outcome.NOT_RELEASED and "etcd is full" in end.reason


def test_a_claim_of_unknown_outcome_is_settled_by_the_next_read() -> None:
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    assert play.tell(WriteFailed(claim.request, "no answer in time")) == [ReadCluster()]
    done = view(4, (A,), (node(ME, LEASE, 2),), (mark(A, 4),))
    (add,) = play.tell(ClusterRead(done))
    assert isinstance(add, AddAddress)


def test_a_changed_advertisement_is_read_anew_before_it_is_written_again() -> None:
    play = holding(A)
    first, *_ = play.tell(play.unhealthy())
    assert isinstance(first, RemoveAddress)
    (write,) = play.tell(AddressRemoved(first.request, A))
    assert isinstance(write, AdvertiseNode)
    play.tell(NodeNotAdvertised(write.request))
    assert play.state.is_view_stale


def test_a_restarted_helper_gets_every_address_anew() -> None:
    play = holding(A)
    play.settle(play.tell(HelperLost("it hung up")))
    play.now += 0.2
    add, write = play.tell(helper_ready())
    assert isinstance(write, AdvertiseNode) and write.advertisement.takes
    assert isinstance(add, AddAddress)
    assert add == AddAddress(add.request, A, "eth0", 32, play.state.local[A].deadline)


def test_an_answer_of_the_helpers_earlier_life_does_not_count() -> None:
    play = holding(A)
    play.tell(HelperLost("it hung up"))
    play.tell(helper_ready())
    play.tell(AddressRemoved(2, A))
    assert not any(isinstance(each, ReleaseMarks) for each in play.tell(play.unhealthy()))


def test_a_helper_that_stays_away_costs_the_node_its_addresses() -> None:
    play = holding(A)
    deadline = play.deadline()
    play.settle(play.tell(HelperLost("no answer within 2 s")))
    for _ in range(2):
        play.after(1.0, play.kept())
    play.now = max(play.now, deadline + HELPER_GRACE_S)
    assert LookForAddresses() in play.tell()
    (write,) = writes(play.after(0.1, AddressesSeen(frozenset())))
    assert isinstance(write, AdvertiseNode)
    assert not write.advertisement.is_healthy
    assert write.release == (mark(A, 4),)


def test_a_node_without_its_helper_says_at_once_that_it_takes_nothing_until_it_is_back() -> None:
    """For up to 2 s it was given what it could not add."""
    play = started()
    play.settle(play.tell(HelperLost("it hung up")))
    assert advertised(play) == replace(advertisement(), takes=False)
    play.now += 0.5
    play.settle(play.tell(helper_ready()))
    assert advertised(play) == advertisement()


def test_a_node_with_a_check_that_was_added_says_that_it_takes_nothing_until_it_has_answered() -> (
    None
):
    """It was given its share of what a failed node had held, and took none of it for a minute."""
    play = holding(A)
    several(play, "service", "slow")
    assert advertised(play) == replace(advertisement(), takes=False)
    assert play.state.held == (A,)
    play.settle(play.after(0.5, play.answer("slow", True)))
    assert advertised(play).takes and play.state.held == (A,)


def test_what_is_here_or_down_is_said_also_while_a_check_has_not_answered() -> None:
    play = holding(A)
    several(play, "service", "slow")
    (write,) = play.tell(AddressesObserved(frozen_mapping({B: (Place("eth0", 24),)})))
    assert isinstance(write, AdvertiseNode) and set(write.advertisement.present) == {B}
    assert write.advertisement.is_healthy and not write.advertisement.takes


def test_an_address_that_the_helper_refuses_is_left_to_other_nodes() -> None:
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 4),), frozenset(), Revision(4)))
    assert isinstance(add, AddAddress)
    refused = AddressRefused(add.request, A, "no rule allows it", Cause.NOT_ALLOWED)
    remove, write = play.tell(refused)
    assert isinstance(remove, RemoveAddress) and isinstance(write, AdvertiseNode)
    assert write.advertisement.refused == frozenset({A})
    told = replace(node(ME, LEASE, 5), advertisement=write.advertisement)
    assert play.tell(NodeAdvertised(write.request, told)) == []
    (release,) = play.tell(AddressRemoved(remove.request, A))
    assert release == ReleaseMarks(write.request + 1, (mark(A, 4),), Revision(5))
    why = "the helper refused it: no rule allows it"
    assert play.said(Level.ERROR) == [f"leaves {A} to other nodes: {why}"]


HERE = frozen_mapping({A: (Place("eth0", 24),)})
HERE_AS_TOLD = frozen_mapping({A: "eth0, /24"})
NOTHING_OWN = AddressesObserved(frozen_mapping({}))


def having(name: NodeName, lease: LeaseId, revision: int, *addresses: Address) -> Node:
    """A node that has these addresses for another reason."""
    known = node(name, lease, revision)
    present = frozen_mapping(dict.fromkeys(addresses, "eth0, /24"))
    return replace(known, advertisement=replace(known.advertisement, present=present))


def test_what_is_here_already_is_said_before_its_mark_is_given_back() -> None:
    """It was handed to the next node, which put it on its interface, too."""
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 4),), frozenset(), Revision(4)))
    assert isinstance(add, AddAddress)
    reason = "192.0.2.10 is on this host already"
    refused = AddressRefused(add.request, A, reason, Cause.FOREIGN)
    remove, write = play.tell(AddressesObserved(HERE), refused)
    assert isinstance(remove, RemoveAddress) and isinstance(write, AdvertiseNode)
    assert write.advertisement.present == {A: "eth0, /24"}
    assert play.tell(AddressRemoved(remove.request, A)) == []
    told = replace(node(ME, LEASE, 5), advertisement=write.advertisement)
    (release,) = play.tell(NodeAdvertised(write.request, told))
    assert release == ReleaseMarks(write.request + 1, (mark(A, 4),), Revision(5))


def test_an_address_that_the_kernel_has_told_of_is_never_claimed() -> None:
    play = started()
    (write,) = play.tell(AddressesObserved(HERE))
    assert isinstance(write, AdvertiseNode)
    told = replace(node(ME, LEASE, 3), advertisement=write.advertisement)
    play.tell(NodeAdvertised(write.request, told))
    assert play.tell(ClusterChanged(view(4, (A,), (told,)))) == []
    (warning,) = play.said(Level.WARNING)
    assert warning.startswith("192.0.2.10 is here already, not by yaim (eth0, /24)")


def test_what_another_node_has_for_another_reason_is_not_claimed_until_it_has_gone() -> None:
    play = started()
    nodes = (node(ME, LEASE, 2), having(OTHER, OTHERS_LEASE, 3, A))
    assert play.tell(ClusterChanged(view(3, (A,), nodes))) == []
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 4, is_healthy=False))
    (claim,) = play.tell(ClusterChanged(view(4, (A,), nodes)))
    assert isinstance(claim, ClaimMarks)


def test_an_unhealthy_node_says_what_it_has_for_another_reason() -> None:
    play = started()
    play.settle(play.tell(play.unhealthy()))
    (write,) = play.tell(AddressesObserved(HERE))
    assert isinstance(write, AdvertiseNode) and not write.advertisement.is_healthy
    assert write.advertisement.present == {A: "eth0, /24"}


def test_what_is_claimed_and_not_added_is_given_back_when_another_node_has_it() -> None:
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    nodes = (node(ME, LEASE, 2), having(OTHER, OTHERS_LEASE, 4, A))
    play.tell(ClusterChanged(view(4, (A,), nodes)))
    claimed = MarksClaimed(claim.request, (mark(A, 5),), frozenset(), Revision(5))
    (remove,) = play.tell(claimed)
    assert isinstance(remove, RemoveAddress)
    (release,) = play.tell(AddressRemoved(remove.request, A))
    assert release == ReleaseMarks(remove.request + 1, (mark(A, 5),), Revision(2))


def test_what_is_held_stays_when_it_comes_to_another_node_for_another_reason() -> None:
    play = holding(A)
    nodes = (node(ME, LEASE, 2), having(OTHER, OTHERS_LEASE, 5, A))
    assert play.tell(ClusterChanged(view(5, (A,), nodes, (mark(A, 4),)))) == []
    assert play.said(Level.WARNING) == [
        f"{A}, which this node holds, is on n2, too, not by yaim (eth0, /24): remove it there"
    ]
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 6))
    assert play.tell(ClusterChanged(view(6, (A,), nodes, (mark(A, 4),)))) == []
    assert play.said(Level.INFO)[-1] == f"{A} is on no node any more for another reason than yaim"


def test_a_second_copy_of_what_is_held_is_told_at_once_and_again_when_it_stays() -> None:
    play = holding(A)
    (write,) = play.tell(AddressesObserved(HERE))
    assert isinstance(write, AdvertiseNode) and write.advertisement.present == {A: "eth0, /24"}
    told = replace(node(ME, LEASE, 5), advertisement=write.advertisement)
    assert play.tell(NodeAdvertised(write.request, told)) == []
    assert play.state.held == (A,)
    at_once = f"a second copy of {A}, which this node holds, is here, not by yaim (eth0, /24)"
    assert play.said(Level.WARNING)[-1].startswith(at_once)
    (remove, *_) = play.tell(play.unhealthy())
    assert isinstance(remove, RemoveAddress)
    play.tell(AddressRemoved(remove.request, A))
    assert play.said(Level.WARNING)[-1].startswith(f"{A} is here already, not by yaim")
    assert play.state.present == {A: "eth0, /24"}


def test_what_the_helper_says_is_here_counts_until_it_goes_also_after_a_sighup() -> None:
    """It looks like the helper's, and is another cluster's."""
    play = started()
    play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    play.tell(MarksClaimed(2, (mark(A, 4),), frozenset(), Revision(4)))
    play.tell(AddressRefused(3, A, "it is held for cluster other of uid 7", Cause.FOREIGN))
    play.tell(SettingsChanged(settings()), helper_ready())
    assert play.state.present == {A: "its helper says so"}
    play.after(2 * REFUSED_FOR_S)
    assert play.state.present == {A: "its helper says so"}, "forgotten with time, and others add it"
    play.tell(AddressGone(A))
    assert play.state.present == {} and not play.state.refused


def test_what_went_while_the_helper_was_asked_is_tried_again_at_once() -> None:
    """Its refusal came after the news that its reason was gone, and stood for an hour."""
    play = started()
    play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    play.tell(MarksClaimed(2, (mark(A, 4),), frozenset(), Revision(4)))
    play.tell(AddressGone(A))
    assert play.tell(AddressRefused(3, A, "it is on this host already", Cause.FOREIGN)) == []
    assert requests(play.after(ADD_RETRY_S)) == [AddAddress]


def test_of_addresses_outside_the_pool_those_are_told_that_the_helper_would_be_asked_for() -> None:
    """So that it is known by the time that one of them joins the pool."""
    play = started()
    far = ip_address("198.51.100.1")
    own = {each: (Place("eth0", 24),) for each in (A, B, far)}
    (write,) = play.tell(AddressesObserved(frozen_mapping(own)))
    assert isinstance(write, AdvertiseNode)
    assert write.advertisement.present.keys() == {A, B}


def restarted(told: Advertisement) -> Play:
    """A next life, which finds this advertisement and has adopted its lease."""
    play = Play()
    play.state = State(settings())
    play.tell()
    found = replace(node(ME, LEASE, 2), advertisement=told)
    play.tell(helper_ready(), ClusterRead(view(2, (A, B), (found,))), play.healthy())
    play.tell(play.kept())
    return play


UP = LinksObserved(frozenset({"lo", "eth0"}))
BEFORE = replace(advertisement(), present=HERE_AS_TOLD, down=frozenset({"eth0"}))


def test_what_an_earlier_life_knew_to_be_here_is_said_until_it_goes() -> None:
    """It looks like the helper's by now. The restarted node took it back, and another added it."""
    play = restarted(BEFORE)
    (write,) = play.tell(UP, AddressesObserved(frozen_mapping({}), HERE))
    assert isinstance(write, AdvertiseNode) and write.advertisement.present == HERE_AS_TOLD
    play.settle([write])
    assert play.tell(AddressGone(A, Place("eth0", 32))) == []
    (write,) = play.tell(AddressGone(A, Place("eth0", 24)))
    assert isinstance(write, AdvertiseNode) and write.advertisement.present == {}


@pytest.mark.parametrize(
    "others", [{}, {A: (Place("eth0", 32),)}, {B: (Place("eth0", 24),)}], ids=str
)
def test_what_has_gone_since_an_earlier_life_said_it_is_said_no_more(
    others: dict[Address, tuple[Place, ...]],
) -> None:
    play = restarted(BEFORE)
    (write,) = play.tell(UP, AddressesObserved(frozen_mapping({}), frozen_mapping(others)))
    assert isinstance(write, AdvertiseNode) and write.advertisement.present == {}


def test_what_the_helper_of_an_earlier_life_said_to_be_here_is_said_until_it_goes() -> None:
    said = {A: "its helper says so"}
    play = restarted(replace(BEFORE, present=frozen_mapping(said)))
    (write,) = play.tell(UP, AddressesObserved(frozen_mapping({}), HERE))
    assert isinstance(write, AdvertiseNode) and write.advertisement.present == said


def test_while_the_kernel_does_not_tell_what_an_earlier_life_knew_stays_said() -> None:
    """Others took what it had, and gave it addresses for a link that is down."""
    play = restarted(BEFORE)
    (write,) = (a for a in play.after(KERNEL_PATIENCE_S) if isinstance(a, AdvertiseNode))
    told = write.advertisement
    assert (told.present, told.down, told.takes) == (HERE_AS_TOLD, frozenset({"eth0"}), False)
    play.settle([write])
    (again,) = play.tell(UP, AddressesObserved(HERE))
    assert isinstance(again, AdvertiseNode)
    told = again.advertisement
    assert (told.present, told.down, told.takes) == (HERE_AS_TOLD, frozenset(), True)


def test_the_first_advertisement_waits_a_second_at_most_for_what_the_kernel_tells() -> None:
    def until_it_is_advertised() -> Play:
        play = Play()
        play.state = State(settings())
        play.tell()
        play.tell(helper_ready(), ClusterRead(view(1)), play.healthy())
        assert play.tell(play.kept()) == []
        return play

    play = until_it_is_advertised()
    (write,) = play.tell(AddressesObserved(HERE))
    assert isinstance(write, AdvertiseNode) and set(write.advertisement.present) == {A}
    play = until_it_is_advertised()
    assert play.wake_at is not None and play.wake_at <= play.now + KERNEL_PATIENCE_S
    writes = [each for each in play.after(KERNEL_PATIENCE_S) if isinstance(each, AdvertiseNode)]
    assert [write.advertisement.takes for write in writes] == [False]
    assert any("the kernel has not told" in text for text in play.said(Level.WARNING))


def test_a_refusal_that_passes_is_tried_again() -> None:
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 4),), frozenset(), Revision(4)))
    assert isinstance(add, AddAddress)
    assert play.tell(AddressRefused(add.request, A, "too late", Cause.EXPIRED)) == []
    (again,) = play.after(0.15)
    assert isinstance(again, AddAddress)
    assert again == replace(add, request=again.request)


def test_an_add_that_failed_is_removed_before_the_mark_is_released() -> None:
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 4),), frozenset(), Revision(4)))
    assert isinstance(add, AddAddress)
    remove, _ = play.tell(AddressFailed(add.request, A, "no such device"))
    assert isinstance(remove, RemoveAddress)
    assert remove == RemoveAddress(remove.request, A)


def test_sighup_lets_refused_addresses_be_tried_again() -> None:
    play = started()
    play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    play.tell(MarksClaimed(2, (mark(A, 4),), frozenset(), Revision(4)))
    play.tell(AddressRefused(3, A, "no rule allows it", Cause.NOT_ALLOWED))
    assert A in play.state.refused
    play.tell(SettingsChanged(settings()))
    assert A not in play.state.refused


def test_an_address_missing_from_the_interface_is_added_again() -> None:
    play = holding(A)
    play.after(1.0)
    play.tell(play.kept())
    (add,) = play.tell(AddressesRenewed(frozenset({A})))
    assert isinstance(add, AddAddress)


def test_an_address_that_somebody_deleted_is_added_again_at_once() -> None:
    play = holding(A)
    (add,) = play.after(0.2, AddressGone(A))
    assert isinstance(add, AddAddress)
    assert play.tell(AddressGone(A)) == []
    assert play.said(Level.WARNING) == [f"{A} has gone from the interface"]


def test_an_address_that_somebody_deletes_again_and_again_is_not_added_at_once_each_time() -> None:
    play = holding(A)
    play.now += 0.2
    play.tell(play.kept())
    (add,) = play.tell(AddressGone(A))
    assert isinstance(add, AddAddress)
    assert play.tell(AddressAdded(add.request, A), AddressGone(A)) == []
    assert play.wake_at == play.now + ADD_RETRY_S
    assert requests(play.after(ADD_RETRY_S)) == [AddAddress]


def test_while_etcd_does_not_answer_an_address_that_goes_does_not_hurry_keepalives() -> None:
    """Found by review: the kernel removes addresses before the lease ends, and each failure led to
    the next keepalive at once."""
    play = holding(A)
    play.after(1.0)
    play.now += 0.7
    play.tell(LeaseFailed("refused"), AddressGone(A))
    assert play.after(RETRY_MIN_S) == [KeepLease(LEASE)]
    assert play.tell(LeaseFailed("refused")) == []
    assert play.wake_at is not None
    assert RETRY_MIN_S <= play.wake_at - play.now <= RETRY_ALIVE_S


def test_an_address_that_goes_because_we_remove_it_is_not_added_again() -> None:
    play = holding(A)
    (remove,) = play.tell(ClusterChanged(view(5, (), (node(ME, LEASE, 2),), (mark(A, 4),))))
    assert isinstance(remove, RemoveAddress)
    assert play.tell(AddressGone(A)) == []


def test_an_interface_that_goes_down_costs_the_node_the_addresses_on_it_at_once() -> None:
    play = holding(A)
    play.tell(LinksObserved(frozenset({"lo", "eth0"})))
    advertised = replace(advertisement(), down=frozenset({"eth0"}))
    remove, write = play.tell(LinksObserved(frozenset({"lo"})))
    assert isinstance(remove, RemoveAddress)
    assert write == AdvertiseNode(remove.request + 1, advertised, LEASE, Revision(2), ())
    assert play.tell(AddressRemoved(remove.request, A)) == []
    now = replace(node(ME, LEASE, 5), advertisement=advertised)
    (release,) = play.tell(NodeAdvertised(write.request, now))
    assert release == ReleaseMarks(write.request + 1, (mark(A, 4),), Revision(5))
    assert play.tell(MarksReleased(release.request, frozenset({A}), Revision(6))) == []
    (write,) = play.tell(LinksObserved(frozenset({"lo", "eth0"})))
    assert isinstance(write, AdvertiseNode) and write.advertisement.down == frozenset()
    (claim,) = play.tell(NodeAdvertised(write.request, node(ME, LEASE, 7)))
    assert isinstance(claim, ClaimMarks)


def test_what_could_not_be_added_is_tried_again_when_the_interface_is_up_again() -> None:
    """Found by chaos: adds that met an interface going down kept the addresses away for an hour."""
    play = started()
    play.tell(LinksObserved(frozenset({"eth0"})))
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 4),), frozenset(), Revision(4)))
    assert isinstance(add, AddAddress)
    play.tell(LinksObserved(frozenset()), AddressFailed(add.request, A, "eth0 is down"))
    assert set(play.state.refused) == {A}
    play.tell(LinksObserved(frozenset({"eth0"})))
    assert not play.state.refused


def test_an_interface_that_comes_up_lets_only_what_goes_there_be_tried_again() -> None:
    play = started()
    networks = {**NETWORKS, "eth1": NETWORKS["eth0"]}
    play.tell(HelperReady(SESSION, tuple(networks.items()), ()))
    play.tell(LinksObserved(frozenset({"eth0"})))
    play.state = replace(play.state, refused=frozen_mapping({A: FAILED}))
    play.tell(LinksObserved(frozenset({"eth0", "eth1"})))
    assert set(play.state.refused) == {A}


def test_what_could_not_be_added_is_tried_again_after_growing_pauses() -> None:
    play = started()
    pauses = []
    for _ in range(4):
        play.state = replace(play.state, local=frozen_mapping({A: Local(Phase.ADDING, 77)}))
        play.tell(AddressFailed(77, A, "the disk is full"))
        pauses.append(play.state.refused[A].until - play.now)
        play.after(pauses[-1] + 1)
        assert not play.state.refused
    assert pauses == [FAILED_FOR_S * factor for factor in (1, 2, 4, 8)]
    play.after(REFUSED_FOR_S)
    play.state = replace(play.state, local=frozen_mapping({A: Local(Phase.ADDING, 77)}))
    play.tell(AddressFailed(77, A, "the disk is full"))
    assert play.state.refused[A].until - play.now == FAILED_FOR_S


def refused(play: Play, cause: Cause, *addresses: Address) -> None:
    """By the helper, with these addresses as the pool; nothing is left to do then but to wait."""
    nodes = {} if play.state.view is None else play.state.view.nodes
    seen = play.state.view.revision if play.state.view is not None else 0
    (claim,) = play.tell(ClusterChanged(view(seen + 1, addresses, tuple(nodes.values()))))
    assert isinstance(claim, ClaimMarks)
    refuse(play, cause, claim)


def refuse(play: Play, cause: Cause, claim: Action, takes: int = 0) -> None:
    """What follows from a claim, with a helper that adds so many of the addresses only."""
    assert isinstance(claim, ClaimMarks)
    revision = Revision(play.state.view.revision + 1 if play.state.view is not None else 1)
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
    """With everything before it done as it was asked for."""
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


@pytest.mark.parametrize(
    "cause", [Cause.NOT_ALLOWED, Cause.PRIMARY, Cause.OTHER, Cause.FAILED, Cause.LIMIT]
)
def test_what_no_other_node_can_hold_is_tried_again_every_few_seconds(cause: Cause) -> None:
    """It stayed unheld for an hour."""
    play = started()
    refused(play, cause, A)
    for _ in range(5):
        before = play.now
        claim = next_claim(play, 10.0)
        assert claim is not None and claim.addresses == (A,)
        assert 0.9 <= play.now - before <= 8.2
        refuse(play, cause, claim)
    errors = play.said(Level.ERROR)
    assert len(errors) == 1, "once, however often it is tried"


def test_what_another_node_holds_is_not_tried_again_soon() -> None:
    """Each try could move it here and back again."""
    play = started()
    refused(play, Cause.NOT_ALLOWED, A)
    seen = play.state.view
    assert seen is not None
    nodes = (*seen.nodes.values(), node(OTHER, OTHERS_LEASE, 9))
    theirs = mark(A, 10, OTHER, OTHERS_LEASE)
    play.settle(play.tell(ClusterChanged(view(seen.revision + 5, (A,), nodes, (theirs,)))))
    assert next_claim(play, 60.0) is None
    assert set(play.state.refused) == {A}


def test_an_address_of_the_hosts_own_that_comes_to_the_interface_lets_it_be_tried_again() -> None:
    """IPv6 was switched on again, say."""
    play = started()
    refused(play, Cause.FAILED, V6)
    known = play.state.refused[V6]
    link_local = ip_address("fe80::1")
    play.settle(play.after(1.0))
    on_another = {link_local: (Place("eth1", 64),)}
    play.settle(play.tell(AddressesObserved(frozen_mapping(on_another))))
    of_another_version = {**on_another, ip_address("198.51.100.1"): (Place("eth0", 24),)}
    play.settle(play.tell(AddressesObserved(frozen_mapping(of_another_version))))
    assert play.state.refused == {V6: known}
    here = {**of_another_version, link_local: (Place("eth0", 64),)}
    play.settle(play.after(0.9))
    play.settle(play.after(0.2, AddressesObserved(frozen_mapping(here))))
    play.settle(play.after(0.1))
    assert play.state.held == (V6,)


def test_of_what_a_host_could_not_add_one_is_tried_for_all() -> None:
    play = started()
    play.state = replace(
        play.state,
        refused=frozen_mapping(
            {a: Refusal(Cause.FAILED, Boottime(play.now - 20), Boottime(play.now)) for a in (A, B)}
        ),
    )
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3))
    theirs = (mark(A, 3, OTHER, OTHERS_LEASE), mark(B, 3, OTHER, OTHERS_LEASE))
    play.tell(ClusterChanged(view(4, (A, B), nodes, theirs)))
    assert set(play.state.refused) == {B}
    play.state = replace(play.state, local=frozen_mapping({A: Local(Phase.ADDING, 77)}))
    play.tell(AddressAdded(77, A))
    assert not play.state.refused


def test_what_another_node_is_trying_is_not_taken_for_held_by_it() -> None:
    """Found by simulation: refused no more because its time was over, it was placed, and other
    addresses moved to level that."""
    play = started()
    over = Refusal(Cause.FAILED, Boottime(play.now - 20), Boottime(play.now))
    play.state = replace(play.state, refused=frozen_mapping({A: over}))
    both = []
    for name, lease in ((ME, LEASE), (OTHER, OTHERS_LEASE)):
        told = replace(advertisement(), refused=frozenset({A}))
        both.append(Node(name, told, lease, Revision(3)))
    theirs = (mark(A, 4, OTHER, OTHERS_LEASE),)
    play.tell(ClusterChanged(view(4, (A,), tuple(both), theirs)))
    assert set(play.state.refused) == {A}


def test_of_what_a_host_still_cannot_add_the_others_are_put_off_with_the_one_that_was_tried() -> (
    None
):
    play = started()
    until = Boottime(play.now)
    both = {a: Refusal(Cause.FAILED, Boottime(play.now - 20), until) for a in (A, B)}
    play.state = replace(
        play.state, refused=frozen_mapping(both), failing_for_s=10.0, failing_until=until
    )
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3))
    theirs = (mark(A, 3, OTHER, OTHERS_LEASE), mark(B, 3, OTHER, OTHERS_LEASE))
    play.tell(ClusterChanged(view(4, (A, B), nodes, theirs)))
    play.state = replace(play.state, local=frozen_mapping({A: Local(Phase.ADDING, 77)}))
    play.tell(AddressFailed(77, A, "the disk is full"))
    assert {a: r.until - play.now for a, r in play.state.refused.items()} == {A: 20.0, B: 20.0}


POOL = tuple(ip_address(f"192.0.2.{number}") for number in range(10, 16))


def full() -> Play:
    """The helper takes four of the six addresses of the pool, and no other node is there."""
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, POOL, (node(ME, LEASE, 2),))))
    refuse(play, Cause.LIMIT, claim, takes=4)
    assert len(play.state.held) == 4
    assert play.state.too_many == set(POOL[4:]) and not play.state.refused
    return play


def test_what_a_limit_keeps_away_is_taken_when_there_are_places() -> None:
    """16 addresses stayed unheld for an hour with 34 of 64 places in use."""
    play = full()
    seen = play.state.view
    assert seen is not None
    rest = tuple(seen.pool.keys() - {POOL[0]})
    changed = ClusterChanged(replace(seen, revision=Revision(50), pool=view(1, rest).pool))
    play.settle(play.tell(changed))
    assert len(play.state.held) == 4 and POOL[0] not in play.state.held
    assert len(play.state.too_many) == 1


def test_a_full_node_says_so_of_an_address_that_joins_the_pool_and_asks_no_helper() -> None:
    play = full()
    seen = play.state.view
    assert seen is not None
    more = ip_address("192.0.2.99")
    grown = replace(seen, revision=Revision(50), pool=view(1, (*POOL, more)).pool)
    (write,) = play.tell(ClusterChanged(grown))
    assert isinstance(write, AdvertiseNode)
    assert write.advertisement.refused == {*POOL[4:], more}


def test_a_limit_that_was_raised_is_found_out_one_by_one_where_addresses_are_unheld() -> None:
    play = full()
    claim = next_claim(play, 10.0)
    assert claim is not None and claim.addresses == POOL[4:5]
    refuse(play, Cause.LIMIT, claim, takes=1)
    assert set(play.state.held) == set(POOL)


def test_an_address_of_anothers_that_goes_is_a_place() -> None:
    play = full()
    play.tell(AddressGone(ip_address("203.0.113.9")))
    assert len(play.state.too_many) == 2
    play.tell(AddressGone(ip_address("192.0.2.77")))
    assert len(play.state.too_many) == 1


def test_an_address_of_the_hosts_own_that_goes_is_no_place() -> None:
    """The helper had none for it. The node took one address too many, and gave it back."""
    play = full()
    own, place = ip_address("192.0.2.77"), Place("eth0", 24)
    play.tell(AddressesObserved({own: (place,)}))
    play.tell(AddressGone(own, place))
    assert len(play.state.too_many) == 2
    play.tell(AddressesObserved({}))
    play.tell(AddressGone(own, Place("eth0", 32)))
    assert len(play.state.too_many) == 1


def test_of_what_was_removed_for_us_that_it_has_gone_is_no_further_place() -> None:
    """The kernel's word may come after the helper's, and after the release. It was taken for one of
    another cluster's: the node took one more than there was a place for, and gave it back."""
    play = full()
    seen = play.state.view
    assert seen is not None
    gone = play.state.held[0]
    rest = tuple(a for a in POOL if a != gone)
    play.settle(
        play.tell(ClusterChanged(replace(seen, revision=Revision(50), pool=view(1, rest).pool)))
    )
    assert gone not in play.state.local
    assert len(play.state.held) == 4 and len(play.state.too_many) == 1
    play.tell(AddressGone(gone))
    assert len(play.state.too_many) == 1
    play.tell(AddressGone(gone))
    assert not play.state.too_many


def test_a_node_that_holds_few_again_forgets_the_limit() -> None:
    play = full()
    seen = play.state.view
    assert seen is not None
    small = replace(seen, revision=Revision(50), pool=view(1, POOL[:2]).pool)
    play.settle(play.tell(ClusterChanged(small)))
    assert play.state.most is None


def test_a_helper_of_the_same_rules_is_as_full_after_a_restart() -> None:
    """Otherwise each restart would move addresses here and back again."""
    play = full()
    held = tuple(AddressOnInterface(a, play.deadline()) for a in play.state.held)
    play.tell(helper_ready(*held))
    assert len(play.state.too_many) == 2
    wider = (("eth0", NETWORKS["eth0"]), ("eth1", NETWORKS["eth0"]))
    play.tell(HelperReady(SESSION, wider, held))
    assert not play.state.too_many


def test_what_cannot_be_removed_is_told_once_for_each_reason() -> None:
    """It was told each second, for ten minutes."""
    play = holding(A)
    (remove, *_) = play.tell(play.unhealthy())
    for reason in ("no buffer space", "no buffer space", "it may be the host's", "no buffer space"):
        assert isinstance(remove, RemoveAddress)
        play.tell(AddressFailed(remove.request, A, reason))
        play.now += 1.0
        (remove,) = [a for a in play.tell(play.kept()) if isinstance(a, RemoveAddress)]
    told = [text for text in play.said(Level.ERROR) if text.startswith(f"cannot remove {A}")]
    assert [text.split(": ")[1] for text in told] == [
        "no buffer space",
        "it may be the host's",
        "no buffer space",
    ]


def test_what_cannot_be_tried_now_does_not_keep_the_others_from_it() -> None:
    """Found in a review: those that were refused longest ago were tried for ever, in vain."""
    play = started()
    pool = tuple(ip_address(f"192.0.2.{number}") for number in range(10, 19))
    refused(play, Cause.OTHER, *pool)
    seen = play.state.view
    assert seen is not None
    entries = {a: PoolEntry(a, exclude=frozenset({ME})) for a in pool[:-1]}
    changed = replace(
        seen,
        revision=Revision(50),
        pool=frozen_mapping({**entries, pool[-1]: PoolEntry(pool[-1])}),
    )
    play.settle(play.tell(ClusterChanged(changed)))
    claim = next_claim(play, 10.0)
    assert claim is not None and claim.addresses == pool[-1:]


def test_a_limit_that_was_raised_is_found_out_while_something_else_is_refused() -> None:
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, POOL, (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    marks = tuple(mark(each, 4) for each in claim.addresses)
    adds = play.tell(MarksClaimed(claim.request, marks, frozenset(), Revision(4)))
    events: list[Event] = []
    for number, add in enumerate(adds):
        assert isinstance(add, AddAddress)
        cause = Cause.LIMIT if number else Cause.NOT_ALLOWED
        no = AddressRefused(add.request, add.address, "no", cause)
        events.append(AddressAdded(add.request, add.address) if 0 < number < 4 else no)
    play.settle(play.tell(*events))
    assert set(play.state.refused) == {POOL[0]} and play.state.too_many == set(POOL[4:])
    tried = next_claim(play, 10.0)
    assert tried is not None and tried.addresses == (POOL[0], POOL[4])


@pytest.mark.parametrize("then", ["nothing", "SIGHUP"])
def test_what_was_tried_and_added_stays_while_its_refusal_is_taken_back(then: str) -> None:
    """Found in a review: it was removed, and added anew when the advertisement was written."""
    play = full()
    claim = next_claim(play, 10.0)
    assert claim is not None
    revision = Revision(80)
    marks = tuple(mark(each, revision) for each in claim.addresses)
    (add,) = play.tell(MarksClaimed(claim.request, marks, frozenset(), revision))
    assert isinstance(add, AddAddress)
    actions = play.tell(AddressAdded(add.request, add.address))
    if then == "SIGHUP":
        actions += play.tell(SettingsChanged(settings()))
    actions += play.after(1.0)
    assert AdvertiseNode in requests(actions)
    assert RemoveAddress not in requests(actions)


def test_in_a_full_etcd_no_mark_goes_before_others_know_that_the_address_is_here() -> None:
    play = holding(A, B)
    gone, here = AddressGone(A, Place("eth0", 32)), AddressesObserved(HERE)
    play.now += 0.5
    (add,) = [a for a in play.tell(play.kept(), gone) if isinstance(a, AddAddress)]
    refusal = AddressRefused(add.request, A, "192.0.2.10 is on this host already", Cause.FOREIGN)
    remove, write = play.tell(here, refusal)
    assert isinstance(remove, RemoveAddress)
    play.tell(AddressRemoved(remove.request, A))
    (again,) = writes(refused_as_full(play, write))
    assert isinstance(again, AdvertiseNode)
    assert again.advertisement.present == {A: "eth0, /24"}


def test_who_holds_nothing_any_more_withdraws_from_a_full_etcd_though_it_could_hold_something() -> (
    None
):
    """Its link is down: what it held there was left to it for as long as etcd was full."""
    play = started()
    networks = {**NETWORKS, "eth1": NETWORKS["eth0"]}
    play.tell(LinksObserved(frozenset({"eth0", "eth1"})))
    play.tell(HelperReady(SESSION, tuple(networks.items()), ()))
    wide = replace(advertisement(), networks=frozen_mapping(networks))
    mine = replace(node(ME, LEASE, 3), advertisement=wide)
    play.tell(NodeAdvertised(play.state.next_request - 1, mine))
    theirs = replace(node(OTHER, OTHERS_LEASE, 3), advertisement=wide)
    seen = ClusterView(
        Revision(4),
        frozen_mapping({A: PoolEntry(A), B: PoolEntry(B, interface="eth1")}),
        frozen_mapping({ME: mine, OTHER: theirs}),
        frozen_mapping({B: mark(B, 3, OTHER, OTHERS_LEASE)}),
    )
    (claim,) = play.tell(ClusterChanged(seen))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 5),), frozenset(), Revision(5)))
    assert isinstance(add, AddAddress)
    play.tell(AddressAdded(add.request, A))
    remove, write = play.tell(LinksObserved(frozenset({"eth1"})))
    assert isinstance(remove, RemoveAddress)
    play.tell(AddressRemoved(remove.request, A))
    (withdraw,) = refused_as_full(play, write)
    assert isinstance(withdraw, WithdrawNode) and withdraw.release == (mark(A, 5),)


def test_an_address_on_another_interface_stays_when_one_goes_down() -> None:
    play = started()
    networks = {**NETWORKS, "eth1": NETWORKS["eth0"]}
    play.tell(LinksObserved(frozenset({"eth0", "eth1"})))
    play.tell(HelperReady(SESSION, tuple(networks.items()), ()))
    wide = replace(advertisement(), networks=frozen_mapping(networks))
    mine = replace(node(ME, LEASE, 3), advertisement=wide)
    play.tell(NodeAdvertised(play.state.next_request - 1, mine))
    entries = frozen_mapping({A: PoolEntry(A), B: PoolEntry(B, interface="eth1")})
    (claim,) = play.tell(
        ClusterChanged(ClusterView(Revision(4), entries, frozen_mapping({ME: mine})))
    )
    assert isinstance(claim, ClaimMarks)
    for add in play.tell(
        MarksClaimed(claim.request, (mark(A, 5), mark(B, 5)), frozenset(), Revision(5))
    ):
        assert isinstance(add, AddAddress)
        play.tell(AddressAdded(add.request, add.address))
    removals = [
        each
        for each in play.tell(LinksObserved(frozenset({"eth1"})))
        if isinstance(each, RemoveAddress)
    ]
    assert [each.address for each in removals] == [A]


def test_what_an_earlier_life_of_the_helper_has_left_of_the_pool_is_swept() -> None:
    """C is perhaps another cluster's."""
    play = Play()
    play.tell()
    left_over = frozenset({A, ip_address("192.0.2.99")})
    play.tell(HelperReady(SESSION, tuple(NETWORKS.items()), (), left_over))
    actions = play.tell(ClusterRead(view(7, (A, B))))
    assert actions == [RemoveAddress(1, A), GrantLease(TTL_S)]


def test_what_is_left_over_and_still_ours_stays() -> None:
    play = Play()
    play.tell()
    play.tell(HelperReady(SESSION, tuple(NETWORKS.items()), (), frozenset({A})))
    there = view(7, (A,), (node(ME, LEASE, 2),), (mark(A, 4),))
    assert play.tell(ClusterRead(there)) == [KeepLease(LEASE)]
    (write,) = play.tell(play.kept(), play.healthy())
    assert isinstance(write, AdvertiseNode)
    mine = node(ME, LEASE, 8)
    assert play.tell(NodeAdvertised(write.request, mine)) == [ReadCluster()]
    (add,) = play.tell(ClusterRead(view(8, (A,), (mine,), (mark(A, 4),))))
    assert isinstance(add, AddAddress)


def test_after_a_pause_longer_than_the_lease_nothing_stays_until_etcd_has_answered() -> None:
    play = holding(A)
    remove, keep = play.tell(ClockJumped(20.0))
    assert isinstance(remove, RemoveAddress) and keep == KeepLease(LEASE)
    assert play.tell(AddressRemoved(remove.request, A)) == []
    assert "paused" in play.said(Level.WARNING)[0]
    (add,) = play.after(0.01, play.kept())
    assert isinstance(add, AddAddress)


def test_a_keepalive_from_before_a_pause_does_not_count() -> None:
    play = holding(A)
    (keep,) = play.after(1.0)
    assert keep == KeepLease(LEASE)
    sent_before = play.kept()
    (remove,) = play.after(0.01, ClockJumped(20.0))
    assert isinstance(remove, RemoveAddress)
    assert play.tell(sent_before, AddressRemoved(remove.request, A)) == [KeepLease(LEASE)]
    assert requests(play.after(0.01, play.kept())) == [AddAddress]


def test_a_pause_shorter_than_the_lease_only_makes_the_node_ask_etcd() -> None:
    play = holding(A)
    assert play.tell(ClockJumped(0.5)) == [KeepLease(LEASE)]
    play.now += 0.01
    assert play.tell(play.kept()) == [RenewAddresses(play.deadline())]


def test_a_lease_that_ended_in_a_pause_is_not_waited_for() -> None:
    play = holding(A)
    play.tell(ClockJumped(20.0))
    assert requests(play.tell(LeaseGone(LEASE))) == [ReadCluster]


def keeping(*addresses: Address) -> Play:
    """A node that holds these addresses and is to keep them when all are unhealthy."""
    play = holding(*addresses)
    play.tell(SettingsChanged(replace(settings(), keeps_when_all_unhealthy=True)))
    return play


def test_the_last_holder_keeps_its_addresses_when_all_are_unhealthy() -> None:
    play = keeping(A)
    request = play.state.next_request
    write = AdvertiseNode(request, advertisement(is_healthy=False), LEASE, Revision(2), ())
    assert play.tell(play.unhealthy()) == [write]
    mine = node(ME, LEASE, 5, is_healthy=False)
    assert play.tell(NodeAdvertised(write.request, mine)) == [ReadCluster()]
    other = node(OTHER, OTHERS_LEASE, 4, is_healthy=False)
    assert play.tell(ClusterRead(view(5, (A,), (mine, other), (mark(A, 4),)))) == []
    assert play.state.held == (A,)
    (remove,) = play.tell(
        ClusterChanged(view(6, (A,), (mine, node(OTHER, OTHERS_LEASE, 6)), (mark(A, 4),)))
    )
    assert isinstance(remove, RemoveAddress)
    (release,) = play.tell(AddressRemoved(remove.request, A))
    assert isinstance(release, ReleaseMarks)


def test_what_a_node_hands_over_is_not_added_again_whoever_tells_first_that_it_is_unhealthy() -> (
    None
):
    """It was removed, added again and removed, when the watch was before the answer."""
    play = keeping(A)
    (write,) = play.tell(play.unhealthy())
    assert isinstance(write, AdvertiseNode)
    mine = node(ME, LEASE, 5, is_healthy=False)
    both = (mine, node(OTHER, OTHERS_LEASE, 4))
    (remove,) = play.tell(ClusterChanged(view(5, (A,), both, (mark(A, 4),))))
    assert isinstance(remove, RemoveAddress)
    assert play.tell(NodeAdvertised(write.request, mine)) == []
    (release,) = play.tell(AddressRemoved(remove.request, A))
    assert isinstance(release, ReleaseMarks)


def test_what_a_node_hands_over_is_not_added_again_because_it_says_something_new_of_itself() -> (
    None
):
    play = keeping(A)
    (write,) = play.tell(play.unhealthy())
    assert isinstance(write, AdvertiseNode)
    mine = node(ME, LEASE, 5, is_healthy=False)
    play.tell(NodeAdvertised(write.request, mine))
    both = (mine, node(OTHER, OTHERS_LEASE, 4))
    (remove,) = play.tell(ClusterRead(view(5, (A,), both, (mark(A, 4),))))
    assert isinstance(remove, RemoveAddress)
    (again,) = play.tell(LinksObserved(frozenset({"eth0"}), frozenset(), {"wan": "eth0"}))
    assert isinstance(again, AdvertiseNode)
    assert play.tell(AddressRemoved(remove.request, A)) == []
    changed = replace(mine, advertisement=again.advertisement, revision=Revision(6))
    (release,) = play.tell(NodeAdvertised(again.request, changed))
    assert isinstance(release, ReleaseMarks)


def test_what_a_node_hands_over_is_not_added_again_while_its_view_is_in_doubt() -> None:
    play = keeping(A, B)
    (write,) = play.tell(play.unhealthy())
    assert isinstance(write, AdvertiseNode)
    mine = node(ME, LEASE, 5, is_healthy=False)
    both = (mine, node(OTHER, OTHERS_LEASE, 4))
    play.tell(NodeAdvertised(write.request, mine))
    seen = view(5, (A, B), both, (mark(A, 4), mark(B, 4)))
    first, second = play.tell(ClusterRead(seen))
    assert isinstance(first, RemoveAddress) and isinstance(second, RemoveAddress)
    (release,) = play.tell(AddressRemoved(first.request, first.address))
    assert isinstance(release, ReleaseMarks)
    failed = WriteFailed(release.request, "no answer in time")
    assert play.tell(failed, AddressRemoved(second.request, second.address)) == [ReadCluster()]


def test_a_read_from_before_a_node_said_that_it_is_unhealthy_does_not_tell_of_the_others() -> None:
    play = keeping(A)
    mine, other = node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 4)
    before = view(5, (A,), (mine, other), (mark(A, 4),))
    play.tell(ClusterChanged(before))
    asked: list[Action] = []
    while ReadCluster() not in asked:
        asked = play.after(0.5, play.kept())
    (write,) = writes(play.tell(play.unhealthy()))
    assert isinstance(write, AdvertiseNode)
    mine = node(ME, LEASE, 6, is_healthy=False)
    assert play.tell(NodeAdvertised(write.request, mine)) == []
    assert play.tell(ClusterRead(before)) == [ReadCluster()]
    other = node(OTHER, OTHERS_LEASE, 6, is_healthy=False)
    assert play.tell(ClusterRead(view(6, (A,), (mine, other), (mark(A, 4),)))) == []
    assert play.state.held == (A,)


def test_a_node_that_is_to_keep_hands_over_while_another_is_healthy() -> None:
    play = keeping(A)
    (write,) = play.tell(play.unhealthy())
    mine = node(ME, LEASE, 5, is_healthy=False)
    assert isinstance(write, AdvertiseNode)
    play.tell(NodeAdvertised(write.request, mine))
    nodes = (mine, node(OTHER, OTHERS_LEASE, 4))
    (remove,) = play.tell(ClusterRead(view(5, (A,), nodes, (mark(A, 4),))))
    assert isinstance(remove, RemoveAddress)


def test_a_node_that_is_to_keep_gives_up_what_it_cannot_keep_a_lease_for() -> None:
    play = keeping(A)
    play.tell(play.unhealthy())
    assert requests(play.after(TTL_S - 0.2)) == [RemoveAddress, KeepLease]


def flapping(is_alone: bool, falls: int = 2) -> Play:
    """A node that held the pool of A and has become healthy again for so many times. The other one
    is healthy if it is not alone."""
    play = holding(A)
    other = node(OTHER, OTHERS_LEASE, 5, is_healthy=not is_alone)
    nodes = (node(ME, LEASE, 2), other)
    play.tell(ClusterChanged(view(6, (A,), nodes, (mark(A, 4),))))
    for _ in range(falls):
        play.settle(play.after(1.0, play.kept(), play.unhealthy()))
        play.settle(play.after(1.0, play.kept(), play.healthy()))
    return play


def advertised(play: Play) -> Advertisement:
    assert play.state.view is not None
    return play.state.view.nodes[ME].advertisement


def is_waiting_told(play: Play) -> list[str]:
    return [text for text in play.said(Level.WARNING) if "waits" in text]


def test_a_node_that_has_recovered_for_the_first_time_does_not_wait() -> None:
    assert advertised(flapping(is_alone=True, falls=1)).waits_s == 0


def test_a_node_that_flaps_says_so_and_leaves_addresses_to_others_until_its_wait_is_over() -> None:
    play = flapping(is_alone=False)
    assert advertised(play) == replace(advertisement(), waits_s=10.0)
    assert play.state.held == ()
    assert is_waiting_told(play) == [
        "was unhealthy 2 times of late: waits 10 s before it takes addresses that other nodes can"
        " hold"
    ]
    until = play.state.flaps.waits_until(300.0)
    assert until == play.now + 10
    play.now = until - 0.1
    play.settle(play.tell(play.kept()))
    assert play.wake_at == until
    play.now = until
    (write,) = [each for each in play.tell() if isinstance(each, AdvertiseNode)]
    assert write.advertisement == advertisement()
    assert play.said(Level.INFO)[-1] == "has waited long enough: takes addresses again"


def test_a_node_that_waits_holds_what_no_other_node_can() -> None:
    play = flapping(is_alone=True)
    assert advertised(play).waits_s == 10
    assert play.state.held == (A,)


def test_a_node_that_waits_hands_over_as_soon_as_another_one_is_healthy() -> None:
    play = flapping(is_alone=True)
    seen = play.state.view
    assert seen is not None
    recovered = {**seen.nodes, OTHER: node(OTHER, OTHERS_LEASE, seen.revision + 1)}
    there = replace(seen, revision=Revision(seen.revision + 1), nodes=frozen_mapping(recovered))
    assert requests(play.tell(ClusterChanged(there))) == [RemoveAddress]


def test_each_wait_is_twice_as_long_and_told_once() -> None:
    play = flapping(is_alone=True, falls=5)
    assert [text.split(" s ")[0].split()[-1] for text in is_waiting_told(play)] == [
        "10",
        "20",
        "40",
        "80",
    ]


def test_sighup_with_no_longest_wait_ends_a_wait_at_once() -> None:
    play = flapping(is_alone=True, falls=3)
    changed = SettingsChanged(replace(settings(), flap_max_wait_s=0.0))
    (write,) = play.tell(changed)
    assert isinstance(write, AdvertiseNode) and write.advertisement.waits_s == 0


def test_a_helper_that_is_lost_again_and_again_makes_its_node_wait() -> None:
    play = holding(A)
    for _ in range(2):
        play.settle(play.tell(HelperLost("it hung up")))
        for _ in range(6):
            play.settle(play.after(1.0, play.kept()))
        play.settle(play.tell(helper_ready()))
    assert advertised(play).waits_s == 10


def test_a_restart_ends_a_wait_with_its_first_answer() -> None:
    """It forgets what was, but does not say otherwise before it knows that it is healthy."""
    play = Play()
    play.tell()
    waiting = replace(advertisement(), waits_s=40.0)
    there = view(7, (A,), (Node(ME, waiting, LEASE, Revision(2)),), (mark(A, 4),))
    play.tell(helper_ready(), ClusterRead(there))
    write = play.tell(play.kept())[-1]
    waiting = replace(waiting, takes=False)
    assert isinstance(write, AdvertiseNode) and write.advertisement == waiting
    play.tell(NodeAdvertised(write.request, Node(ME, waiting, LEASE, Revision(8))))
    (write,) = play.tell(play.healthy())
    assert isinstance(write, AdvertiseNode)
    assert write.advertisement == advertisement()


def test_a_restarted_unhealthy_node_says_why_until_it_knows_better() -> None:
    play = Play()
    play.tell()
    there = view(7, (), (node(ME, LEASE, 2, is_healthy=False),))
    play.tell(helper_ready(), ClusterRead(there))
    write = play.tell(play.kept())[-1]
    assert isinstance(write, AdvertiseNode)
    assert write.advertisement == advertisement(is_healthy=False)


def test_a_restart_leaves_everything_as_it_is() -> None:
    play = holding(A, B)
    left = End(Outcome.LEFT, "got SIGUSR1")
    assert play.tell(RestartRequested("got SIGUSR1"), play.unhealthy()) == [left]
    assert play.tell(play.unhealthy()) == []


def test_a_restart_is_refused_by_a_node_that_is_stopping() -> None:
    play = holding(A)
    assert requests(play.tell(StopRequested("got SIGTERM"))) == [RemoveAddress]
    assert play.tell(RestartRequested("got SIGUSR1")) == []


def test_an_address_whose_new_add_was_refused_may_be_there_still() -> None:
    """The helper may have it on record from the add before, and renew it."""
    play = holding(A)
    (add,) = play.after(0.2, AddressesRenewed(frozenset({A})))
    assert isinstance(add, AddAddress)
    assert play.tell(AddressRefused(add.request, A, "too late", Cause.EXPIRED)) == []
    (remove,) = play.tell(CheckAnswered("service", False, "HTTP 503", Boottime(play.now + 10)))
    assert isinstance(remove, RemoveAddress) and remove.address == A


def test_what_the_helper_may_have_renewed_is_removed_however_long_nothing_is_known_of_it() -> None:
    """etcd is so slow that no keepalive leaves life enough to add it again."""
    play = holding(A, B)
    play.after(1.0)
    play.tell(AddressesRenewed(frozenset({A})), LeaseKept(LEASE, TTL_S, Boottime(play.now - 0.5)))
    for _ in range(2 * TTL_S):
        actions = play.after(1.0, LeaseKept(LEASE, TTL_S, Boottime(play.now + 0.5)))
        assert RenewAddresses in requests(actions)
        assert AddAddress not in requests(actions)
    removes = [each for each in play.tell(play.unhealthy()) if isinstance(each, RemoveAddress)]
    assert {each.address for each in removes} == {A, B}


def test_stopping_removes_releases_withdraws_revokes_and_ends() -> None:
    play = holding(A, B)
    first, second = play.tell(StopRequested("got SIGTERM"))
    assert isinstance(first, RemoveAddress) and isinstance(second, RemoveAddress)
    assert play.tell(StopRequested("got SIGTERM")) == []
    (release,) = play.tell(
        AddressRemoved(first.request, first.address), AddressRemoved(second.request, second.address)
    )
    number = second.request + 1
    unhealthy = replace(advertisement(False), reason="stopping")
    marks = mark(A, 4), mark(B, 4)
    assert release == AdvertiseNode(number, unhealthy, LEASE, Revision(2), marks)
    (withdraw,) = play.tell(NodeAdvertised(number, Node(ME, unhealthy, LEASE, Revision(9))))
    assert withdraw == WithdrawNode(number + 1, LEASE, Revision(9), ())
    assert play.tell(NodeWithdrawn(number + 1, Revision(10))) == [RevokeLease(LEASE)]
    assert play.tell(LeaseRevoked(LEASE)) == [End(Outcome.STOPPED, "got SIGTERM")]
    assert play.tell(play.healthy()) == []


def test_what_a_node_loses_with_its_lease_is_claimed_a_moment_later() -> None:
    """It may have ended before its time, and the holder not know it yet."""
    play = started()
    me, other = node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3)
    play.tell(ClusterChanged(view(4, (A,), (me, other), (mark(A, 4, OTHER, OTHERS_LEASE),))))
    assert play.tell(ClusterChanged(view(5, (A,), (me,)))) == []
    assert play.wake_at == play.now + ORPHAN_PATIENCE_S
    assert play.after(ORPHAN_PATIENCE_S - 0.01) == []
    assert requests(play.after(0.02)) == [ClaimMarks]


@pytest.mark.parametrize("how", ["released, then withdrawn", "released as unhealthy"])
def test_what_a_node_gives_up_is_claimed_at_once(how: str) -> None:
    play = started()
    me, other = node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3)
    play.tell(ClusterChanged(view(4, (A,), (me, other), (mark(A, 4, OTHER, OTHERS_LEASE),))))
    without = [view(5, (A,), (me, other)), view(6, (A,), (me,))]
    if how == "released as unhealthy":
        without = [view(5, (A,), (me, node(OTHER, OTHERS_LEASE, 5, is_healthy=False)))]
    assert requests(play.tell(*map(ClusterChanged, without))) == [ClaimMarks]


def test_a_node_that_holds_nothing_stops_at_once() -> None:
    play = Play()
    play.tell()
    assert play.tell(StopRequested("got SIGINT")) == []
    assert play.tell(ClusterRead(view(7, (A,)))) == [End(Outcome.STOPPED, "got SIGINT")]


def test_a_node_that_does_not_reach_etcd_and_holds_nothing_stops_at_once() -> None:
    play = Play()
    play.tell()
    play.tell(ClusterReadFailed("refused"))
    assert play.tell(StopRequested("got SIGINT")) == [End(Outcome.STOPPED, "got SIGINT")]


def test_a_node_that_is_stopped_just_after_a_restart_releases_what_its_earlier_life_held() -> None:
    """Found by review: it ended and left the lease to expire."""
    play = Play()
    play.tell()
    there = view(7, (A,), (node(ME, LEASE, 2),), (mark(A, 4),))
    left = AddressOnInterface(A, Boottime(play.now + 2.0))
    remove, keep = play.tell(helper_ready(left), ClusterRead(there), StopRequested("got SIGTERM"))
    assert isinstance(remove, RemoveAddress) and keep == KeepLease(LEASE)
    (release,) = play.tell(play.kept(), AddressRemoved(remove.request, A))
    assert isinstance(release, AdvertiseNode) and release.release == (mark(A, 4),)
    assert not release.advertisement.is_healthy
    (withdraw,) = play.tell(NodeAdvertised(2, Node(ME, release.advertisement, LEASE, Revision(8))))
    assert withdraw == WithdrawNode(3, LEASE, Revision(8), ())
    assert play.tell(NodeWithdrawn(3, Revision(9))) == [RevokeLease(LEASE)]
    assert play.tell(LeaseRevoked(LEASE)) == [End(Outcome.STOPPED, "got SIGTERM")]


def test_stopping_without_etcd_gives_up_after_a_while() -> None:
    play = holding(A)
    (remove,) = play.tell(StopRequested("got SIGTERM"))
    assert isinstance(remove, RemoveAddress)
    (release,) = play.tell(AddressRemoved(remove.request, A))
    assert isinstance(release, AdvertiseNode)
    play.tell(WriteFailed(release.request, "no answer in time"))
    (end,) = [each for each in play.after(STOP_WITHIN_S) if isinstance(each, End)]
    assert end.outcome is Outcome.NOT_RELEASED


def test_stopping_does_not_release_what_could_not_be_removed() -> None:
    play = holding(A)
    play.tell(HelperLost("it hung up"))
    assert play.tell(StopRequested("got SIGTERM")) == []
    assert play.after(1.0, play.kept()) == [KeepLease(LEASE)]


def test_a_wrong_pool_entry_is_reported_once() -> None:
    play = started()
    wrong = (WrongEntry("192.0.2.010", "not in canonical form"),)
    me = (node(ME, LEASE, 2),)
    play.tell(ClusterChanged(view(3, (), me, (), wrong)))
    play.tell(ClusterChanged(view(4, (), me, (), wrong)))
    assert play.said(Level.WARNING) == ["wrong pool entry '192.0.2.010': not in canonical form"]


def pauses_of(play: Play, failed: Event, count: int) -> list[float]:
    """Between an answer that is none and the next request."""
    pauses = []
    for _ in range(count):
        assert play.tell(failed) == []
        assert play.wake_at is not None
        pauses.append(play.wake_at - play.now)
        play.now = play.wake_at
        assert len(play.tell()) == 1
    return pauses


def test_what_fails_is_repeated_with_growing_pauses_that_differ_from_node_to_node() -> None:
    paused = []
    for name in (ME, OTHER):
        play = Play()
        play.state = replace(play.state, settings=replace(settings(), node=name))
        assert play.tell() == [ReadCluster()]
        pauses = pauses_of(play, ClusterReadFailed("no answer in time"), 7)
        for pause_s, longest_s in zip(pauses, (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0), strict=True):
            assert longest_s / 2 <= pause_s <= longest_s + 1e-6
        paused.append(pauses)
    assert not set(paused[0]) & set(paused[1])


def test_what_goes_on_failing_is_reported_each_minute_with_its_present_reason() -> None:
    """Found by review: after an hour of it the pause was a number too large to reckon with."""
    play = Play()
    play.tell()
    play.tell(ClusterReadFailed("no answer in time"))
    for _ in range(2000):
        play.after(3.0)
        play.tell(ClusterReadFailed("connection refused"))
    told = play.said(Level.WARNING)
    assert told[:3] == [
        "cannot read etcd: no answer in time",
        "cannot read etcd: connection refused (for 60 s now)",
        "cannot read etcd: connection refused (for 120 s now)",
    ]
    assert len(told) == 1 + 2000 * 3 // 60
    play.after(3.0, ClusterRead(view(1)))
    assert play.said(Level.INFO)[-1] == "etcd can be read again"


def test_a_keepalive_is_repeated_quickly_until_the_deadline_and_then_with_growing_pauses() -> None:
    play = holding(A)
    play.tell(play.healthy())
    while not play.state.lease_call.is_pending:
        play.after(0.1)
    deadline = play.state.lease.deadline if play.state.lease is not None else 0.0
    longest: list[float] = []
    while len(longest) < 20:
        play.tell(LeaseFailed("connection refused"))
        pause_s = play.state.lease_call.due - play.now
        if play.now < deadline:
            assert pause_s <= RETRY_ALIVE_S
        else:
            longest.append(play.state.lease_call.pause_s)
        play.after(pause_s)
    assert longest[:5] == [0.4, 0.8, 1.6, 2.0, 2.0]
    assert play.said(Level.WARNING)[0] == "our lease is not kept: connection refused"


def test_once_the_lease_is_over_a_read_has_to_succeed_before_it_is_kept_again() -> None:
    """One request at a time is enough to find out whether etcd is back."""
    play = holding(A)
    while not play.state.lease_call.is_pending:
        play.after(0.1)
    play.tell(LeaseFailed("connection refused"), ClusterReadFailed("connection refused"))
    while play.state.lease is not None and play.now < play.state.lease.deadline:
        play.after(0.1, LeaseFailed("connection refused"))
    play.after(HELPER_GRACE_S + 0.1)
    play.tell(AddressesSeen(frozenset()))
    asked: list[type] = []
    for _ in range(100):
        asked += requests(play.after(0.1))
        if play.state.read_call.is_pending:
            play.tell(ClusterReadFailed("connection refused"))
    assert set(asked) == {ReadCluster}
    seen = view(4, (A,), (node(ME, LEASE, 2),), (mark(A, 4),))
    assert play.tell(ClusterRead(seen)) == [KeepLease(LEASE)]


def granted(ttl_s: int) -> Play:
    """A node that has asked for a lease and been given one of this TTL."""
    play = Play()
    play.tell()
    play.tell(helper_ready(), ClusterRead(view(1)), play.healthy())
    play.tell(LeaseKept(LEASE, ttl_s, Boottime(play.now)))
    return play


def test_a_lease_longer_than_asked_for_is_told_once() -> None:
    play = granted(TTL_S)
    assert play.said(Level.WARNING) == []
    play = granted(8)
    longer = (
        "etcd grants no lease shorter than 8 s (its election timeout is long): ttl counts as 8 s,"
        " not 3 s"
    )
    assert play.said(Level.WARNING) == [longer]
    play.now += 8
    play.tell(LeaseGone(LEASE))
    play.tell(ClusterRead(view(9)))
    play.tell(LeaseKept(NEW_LEASE, 8, Boottime(play.now)))
    assert play.state.lease is not None and play.state.lease.id == NEW_LEASE
    assert play.said(Level.WARNING).count(longer) == 1


def test_an_adopted_lease_of_another_ttl_is_told() -> None:
    play = Play()
    play.tell()
    play.tell(helper_ready(), ClusterRead(view(7, (A,), (node(ME, LEASE, 2),), (mark(A, 4),))))
    play.tell(LeaseKept(LEASE, 10, Boottime(play.now)))
    (told,) = play.said(Level.WARNING)
    assert told == (
        "the lease of this node's earlier life has a ttl of 10 s, which counts instead of 3 s;"
        " a stop and a start, not a restart, ask etcd for a new one"
    )


def test_a_lease_that_is_refused_is_told_with_the_reason() -> None:
    play = Play()
    play.tell()
    assert play.tell(helper_ready(), ClusterRead(view(1))) == [GrantLease(TTL_S)]
    play.tell(LeaseFailed("etcdserver: too large lease TTL"))
    assert play.said(Level.WARNING) == ["our lease is not kept: etcdserver: too large lease TTL"]


def test_the_pool_entrys_interface_and_prefix_length_are_used() -> None:
    play = started()
    entry = PoolEntry(A, interface="eth0", prefix_length=24)
    seen = replace(view(3, (), (node(ME, LEASE, 2),)), pool=frozen_mapping({A: entry}))
    (claim,) = play.tell(ClusterChanged(seen))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 4),), frozenset(), Revision(4)))
    assert add == AddAddress(claim.request + 1, A, "eth0", 24, play.deadline())


def test_the_log_tells_when_an_older_node_decides_how_addresses_are_shared() -> None:
    play = started()
    older = node(OTHER, OTHERS_LEASE, 3)
    told = replace(older.advertisement, placement=1, schema=1)
    older = replace(older, advertisement=told)
    play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2), older))))
    play.tell(ClusterChanged(view(4, (A, B), (node(ME, LEASE, 2), older))))
    play.tell(ClusterChanged(view(5, (A, B), (node(ME, LEASE, 2),))))
    assert [text for text in play.said(Level.INFO) if "version" in text] == [
        f"shares addresses by version 1 of the placement, as {OTHER} knows no newer one",
        f"shares addresses by version {VERSION} of the placement, as all nodes know it now",
    ]


# --- what others put into etcd -------------------------------------------------------------------


def test_a_copy_of_our_advertisement_under_another_lease_does_not_make_us_drop_ours() -> None:
    """Red team: it adopted a lease of a million seconds, and no add was granted any more."""
    play = holding(A)
    copied = node(ME, OTHERS_LEASE, 9)
    actions = play.tell(ClusterChanged(view(9, (A,), (copied,), (mark(A, 4),))))
    assert KeepLease(LEASE) in actions
    assert play.state.lease is not None and play.state.lease.id == LEASE
    writes = [each for each in play.tell(play.kept()) if isinstance(each, AdvertiseNode)]
    assert [(each.lease, each.replaces) for each in writes] == [(LEASE, 9)]


@pytest.mark.parametrize("longer_s", [LONGEST_LEAST_TTL_S + 1, 3600, 1_000_000])
def test_a_lease_that_etcd_cannot_have_granted_for_our_ttl_is_not_adopted(longer_s: int) -> None:
    """Red team: of a node that died after that its addresses were nowhere for an hour."""
    play = Play()
    play.tell()
    there = view(7, (A,), (node(ME, OTHERS_LEASE, 2),))
    assert play.tell(helper_ready(), play.healthy(), ClusterRead(there)) == [
        KeepLease(OTHERS_LEASE)
    ]
    endless = LeaseKept(OTHERS_LEASE, longer_s, Boottime(play.now))
    assert play.tell(endless) == [GrantLease(TTL_S)]
    assert "does not adopt lease 22" in play.said(Level.ERROR)[0]
    (write,) = play.tell(play.kept())
    assert isinstance(write, AdvertiseNode)
    assert (write.lease, write.replaces) == (LEASE, 2)


def test_a_lease_as_long_as_etcds_least_ttl_can_be_is_adopted() -> None:
    play = Play()
    play.tell()
    there = view(7, (A,), (node(ME, OTHERS_LEASE, 2),))
    play.tell(helper_ready(), play.healthy(), ClusterRead(there))
    play.tell(LeaseKept(OTHERS_LEASE, LONGEST_LEAST_TTL_S, Boottime(play.now)))
    assert play.state.lease is not None and play.state.lease.id == OTHERS_LEASE


def not_ours(revision: int) -> Node:
    """What looks like another host's advertisement under our name."""
    told = advertisement(session="")
    return replace(node(ME, OTHERS_LEASE, revision), advertisement=told)


def written_over(play: Play, revision: int) -> list[tuple[LeaseId, Revision]]:
    """What is written when another host's advertisement stands there, as soon as etcd has kept our
    lease: under which lease, over which revision."""
    play.tell(ClusterChanged(view(revision, (A,), (not_ours(revision),))))
    writes = [each for each in play.tell(play.kept()) if isinstance(each, AdvertiseNode)]
    return [(each.lease, each.replaces) for each in writes]


def test_what_is_put_over_our_advertisement_is_written_over_once_a_second() -> None:
    """Red team: one key, and all addresses of a node were gone until somebody deleted it."""
    play = holding(A)
    assert written_over(play, 9) == [(LEASE, 9)]
    play.tell(NodeAdvertised(play.state.next_request - 1, node(ME, LEASE, 10)))
    assert written_over(play, 11) == []
    writes = [
        each
        for each in play.after(OVERWRITE_EVERY_S, play.kept())
        if isinstance(each, AdvertiseNode)
    ]
    assert [(each.lease, each.replaces) for each in writes] == [(LEASE, 11)]


def test_hosts_that_fight_for_a_name_do_not_for_ever() -> None:
    play = holding(A)
    for number in range(OVERWRITES_AT_MOST):
        assert written_over(play, 9 + 2 * number) == [(LEASE, 9 + 2 * number)]
        request = play.state.next_request - 1
        play.tell(NodeAdvertised(request, node(ME, LEASE, 10 + 2 * number)))
        play.after(OVERWRITE_EVERY_S, play.kept())
    assert written_over(play, 99) == []
    ends: list[End] = []
    while not ends:
        ends = [each for each in play.after(1.0, play.kept()) if isinstance(each, End)]
    assert ends[0].outcome is Outcome.NAME_TAKEN
    assert f"etcdctl lease revoke {OTHERS_LEASE:x}" in ends[0].reason


def test_an_advertisement_that_stays_for_a_while_ends_a_fight() -> None:
    play = holding(A)
    for number in range(3 * OVERWRITES_AT_MOST):
        assert written_over(play, 9 + 2 * number) == [(LEASE, 9 + 2 * number)]
        request = play.state.next_request - 1
        play.tell(NodeAdvertised(request, node(ME, LEASE, 10 + 2 * number)))
        for _ in range(11):
            play.after(1.0, play.kept())


def test_who_has_lost_its_lease_waits_for_another_host_of_its_name() -> None:
    play = holding(A)
    play.tell(LeaseGone(LEASE))
    play.tell(ClusterRead(view(9, (A,))))
    play.tell(LeaseKept(NEW_LEASE, TTL_S, Boottime(play.now)))
    play.tell(ClusterChanged(view(10, (A,), (not_ours(10),))))
    actions = play.after(2.0, LeaseKept(NEW_LEASE, TTL_S, Boottime(play.now + 2.0)))
    assert AdvertiseNode not in requests(actions)
    assert play.state.name_taken_since is not None


def test_what_stands_under_our_name_without_a_lease_is_written_over() -> None:
    play = holding(A)
    stray = node(ME, LeaseId(0), 9)
    seen = replace(view(9, (A,), (), (mark(A, 4),)), stray_nodes=frozen_mapping({ME: stray}))
    play.tell(ClusterChanged(seen))
    writes = [each for each in play.tell(play.kept()) if isinstance(each, AdvertiseNode)]
    assert [(each.lease, each.replaces) for each in writes] == [(LEASE, 9)]


def test_an_add_that_is_refused_for_its_deadline_again_and_again_is_left_to_others() -> None:
    """Red team: the node was healthy, and its addresses were nowhere."""
    play = started()
    play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    request = play.state.next_request - 1
    actions = play.tell(MarksClaimed(request, (mark(A, 4),), frozenset(), Revision(4)))
    for _ in range(EXPIRED_AT_MOST):
        (add,) = [each for each in actions if isinstance(each, AddAddress)]
        assert not play.state.refused
        play.tell(AddressRefused(add.request, A, "the deadline is too far away", Cause.EXPIRED))
        actions = play.after(ADD_RETRY_S, play.kept())
    assert A in play.state.refused
    assert "leaves 192.0.2.10 to other nodes" in play.said(Level.ERROR)[0]


def test_an_add_that_is_refused_for_its_deadline_now_and_then_is_not_left_to_others() -> None:
    play = started()
    play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    request = play.state.next_request - 1
    actions = play.tell(MarksClaimed(request, (mark(A, 4),), frozenset(), Revision(4)))
    for number in range(3 * EXPIRED_AT_MOST):
        (add,) = [each for each in actions if isinstance(each, AddAddress)]
        if number % 2:
            play.tell(AddressAdded(add.request, A))
            actions = play.after(ADD_RETRY_S, play.kept(), AddressesRenewed(frozenset({A})))
        else:
            play.tell(AddressRefused(add.request, A, "the deadline is too near", Cause.EXPIRED))
            actions = play.after(ADD_RETRY_S, play.kept())
    assert not play.state.refused


def covered(revision: int, changed: int) -> ClusterView:
    """A mark without a lease stands over that of A's holder, or where none was."""
    stray = Mark(A, NodeName("nobody"), LeaseId(0), Revision(changed))
    seen = view(revision, (A,), (node(ME, LEASE, 2),))
    return replace(seen, stray_marks=frozen_mapping({A: stray}))


NOBODY_HAS_IT_AFTER_S = all_over_at(Boottime(0.0), TTL_S) + 2 * READ_EVERY_S


def test_a_mark_without_a_lease_is_deleted_when_nobody_can_have_its_address_any_more() -> None:
    """Red team: it blocked its address for ever."""
    play = started()
    assert play.tell(ClusterChanged(covered(3, 3))) == []
    until = play.now + NOBODY_HAS_IT_AFTER_S
    while play.now < until - 1.0:
        actions = play.after(1.0, play.kept())
        assert not {ReleaseMarks, ClaimMarks} & set(requests(actions))
        assert "no node's" in play.said(Level.WARNING)[0]
    play.now = until + 0.001
    (release,) = [each for each in play.tell(play.kept()) if isinstance(each, ReleaseMarks)]
    assert [(each.address, each.lease, each.revision) for each in release.marks] == [(A, 0, 3)]
    actions = play.tell(MarksReleased(release.request, frozenset({A}), Revision(4)))
    assert [each.addresses for each in actions if isinstance(each, ClaimMarks)] == [(A,)]


def test_a_mark_without_a_lease_that_was_put_anew_is_waited_for_anew() -> None:
    """Between the two somebody may have had the address, with a mark of his own."""
    play = started()
    play.tell(ClusterChanged(covered(3, 3)))
    play.now += NOBODY_HAS_IT_AFTER_S - 0.1
    play.tell(play.kept(), ClusterChanged(covered(5, 5)))
    actions = play.after(NOBODY_HAS_IT_AFTER_S - 0.1, play.kept())
    assert not {ReleaseMarks, ClaimMarks} & set(requests(actions))


@pytest.mark.parametrize("lease", [0, LEASE, OTHERS_LEASE])
def test_a_mark_that_was_put_over_another_one_is_never_deleted_and_its_address_never_claimed(
    lease: int,
) -> None:
    """Red team: a node that could read nothing, and kept its lease, had the address as well."""
    play = started()
    over = Mark(A, ME, LeaseId(lease), Revision(3), is_over_another=True)
    seen = replace(view(3, (A,), (node(ME, LEASE, 2),)), stray_marks=frozen_mapping({A: over}))
    actions = play.tell(ClusterChanged(seen))
    for _ in range(100):
        assert not {AddAddress, ClaimMarks, ReleaseMarks} & set(requests(actions))
        actions = play.after(1.0, play.kept(), ClusterChanged(seen))
    (told,) = play.said(Level.WARNING)
    assert told.startswith(f"somebody has put a mark over another one's, of {A}: nobody takes")
    seen = view(4, (A,), (node(ME, LEASE, 2),))
    assert ClaimMarks in requests(play.tell(ClusterChanged(seen)))


def test_whose_mark_was_put_another_one_over_removes_its_address() -> None:
    play = holding(A)
    over = Mark(A, ME, LEASE, Revision(9), is_over_another=True)
    seen = replace(view(9, (A,), (node(ME, LEASE, 2),)), stray_marks=frozen_mapping({A: over}))
    actions = play.tell(ClusterChanged(seen))
    assert [each.address for each in actions if isinstance(each, RemoveAddress)] == [A]
    assert f"removes {A}: somebody has put another mark over ours" in play.said(Level.INFO)


def test_of_many_wrong_entries_the_first_are_told_and_the_others_counted() -> None:
    """Red team: 8000 of them cost 2.8 s a view, and as many lines."""
    play = started()
    wrong = tuple(WrongEntry(f"x{number:04}", "no address") for number in range(8000))
    play.tell(ClusterChanged(view(3, (), (node(ME, LEASE, 2),), wrong=wrong)))
    assert len(play.said(Level.WARNING)) == MOST_TOLD + 1
    assert play.said(Level.WARNING)[-1] == "and 7990 more wrong pool entries: yaim status"
    began = process_time()
    again = tuple(WrongEntry(each.name, each.reason) for each in wrong)
    play.tell(ClusterChanged(view(4, (), (node(ME, LEASE, 2),), wrong=again)))
    assert process_time() - began < 0.3
    assert len(play.said(Level.WARNING)) == MOST_TOLD + 1


def test_what_is_refused_beyond_what_others_are_told_costs_nothing_that_is_held() -> None:
    """Red team: the advertisement was longer than what is read, and written again for ever."""
    play = holding(A, B)
    allows = ip_network("2001:db8::/64")
    rules = (Rule("eth0", (*NETWORKS["eth0"], allows), frozenset({32, 128})),)
    up = tuple(AddressOnInterface(each, Boottime(play.now + 2)) for each in (A, B))
    play.tell(HelperReady(SESSION, tuple(NETWORKS.items()), up, rules=rules))
    view_ = play.state.view
    assert view_ is not None
    bad = {V6 + number: PoolEntry(V6 + number, prefix_length=1) for number in range(8200)}
    pool = frozen_mapping({**view_.pool, **bad})
    seen = replace(view_, revision=Revision(9), pool=pool)
    actions = play.tell(ClusterChanged(seen))
    advertised = 0
    for _ in range(20):
        advertised += sum(isinstance(each, AdvertiseNode) for each in actions)
        assert not any(isinstance(each, ClaimMarks | RemoveAddress) for each in actions)
        actions = play.do(actions) or play.after(0.2, play.kept())
    assert advertised == 1
    assert play.state.held == (A, B)
    told = [text for text in play.said(Level.ERROR) if "tells the others of" in text]
    assert len(told) == 1 and "refuses 8200 addresses of the pool" in told[0]
    mine = play.state.view
    assert mine is not None and len(mine.nodes[ME].advertisement.refused) == MOST_ADDRESSES
