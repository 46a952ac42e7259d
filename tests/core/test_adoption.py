"""What an earlier life of the node has left: its lease, its marks, its addresses."""

from dataclasses import replace

from tests.core.play import (
    FIRST_SEEN,
    LEASE,
    ME,
    TTL_S,
    A,
    B,
    Play,
    advertisement,
    helper_ready,
    mark,
    node,
    requests,
    view,
)
from yaim.core.actions import (
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    GrantLease,
    KeepLease,
    ReadCluster,
    RemoveAddress,
    RenewAddresses,
)
from yaim.core.events import (
    AddressAdded,
    AddressOnInterface,
    AddressRemoved,
    ClusterChanged,
    ClusterRead,
    ClusterReadFailed,
    LeaseGone,
    NodeAdvertised,
)
from yaim.core.model import (
    Address,
    Boottime,
    ClusterView,
    Node,
    Revision,
    frozen_mapping,
)


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
        AdvertiseNode(
            *(1, replace(advertisement(), takes=False), LEASE, Revision(2), ()), True, FIRST_SEEN
        ),
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
