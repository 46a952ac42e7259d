"""Whole stories of one node, as transcripts: what happened, and what the core then asked for."""

from tests.core.play import (
    LEASE,
    ME,
    OTHER,
    OTHERS_LEASE,
    TTL_S,
    V6,
    A,
    B,
    Play,
    advertisement,
    helper_ready,
    holding,
    mark,
    node,
    requests,
    started,
    view,
)
from yaim.core.actions import (
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    GrantLease,
    KeepLease,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
    RenewAddresses,
)
from yaim.core.deadline import deadline_of
from yaim.core.events import (
    AddressAdded,
    AddressRemoved,
    ClusterChanged,
    ClusterRead,
    LeaseKept,
    MarksClaimed,
    MarksReleased,
    NodeAdvertised,
)
from yaim.core.model import (
    Boottime,
    Revision,
)


def test_a_node_reads_leases_advertises_claims_and_adds_in_this_order() -> None:
    play = Play()
    assert play.tell() == [ReadCluster()]
    assert play.tell(helper_ready()) == []
    assert play.tell(ClusterRead(view(1, (A, V6)))) == [GrantLease(TTL_S)]
    assert play.tell(play.healthy()) == []
    assert play.tell(play.kept()) == [
        AdvertiseNode(1, advertisement(), LEASE, Revision(0), (), joins=True)
    ]
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
    before = play.state.lease.current
    late = LeaseKept(LEASE, TTL_S, Boottime(play.now - 1.5))
    play.tell(late)
    assert play.state.lease.current == before


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
