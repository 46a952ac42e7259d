"""A lease that is lost, and an etcd whose data was replaced: what is claimed again, and when."""

from dataclasses import replace

import pytest

from tests.core.play import (
    LEASE,
    ME,
    NEW_LEASE,
    OTHER,
    OTHERS_LEASE,
    OTHERS_NEW_LEASE,
    TTL_S,
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
    Action,
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    End,
    GrantLease,
    KeepLease,
    Level,
    Outcome,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
)
from yaim.core.deadline import all_over_at
from yaim.core.events import (
    AddressAdded,
    AddressesSeen,
    AddressRemoved,
    ClusterChanged,
    ClusterRead,
    LeaseFailed,
    LeaseGone,
    LeaseKept,
    MarksClaimed,
    NodeAdvertised,
    StopRequested,
    WriteFailed,
)
from yaim.core.model import (
    Address,
    Boottime,
    ClusterView,
    Revision,
)


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
    assert play.state.takeover.loss is not None
    until = play.state.takeover.loss.until
    assert until == all_over_at(Boottime(play.now), TTL_S)
    play.now = until - 0.01
    play.tell(play.kept(NEW_LEASE), ClusterRead(play.state.cluster.view or view(1)))
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
    assert play.state.takeover.loss is not None
    play.now = play.state.takeover.loss.until
    assert not {RemoveAddress, ClaimMarks} & set(requests(play.tell(play.kept(NEW_LEASE))))


def test_after_a_loss_what_was_ours_is_claimed_whoever_is_to_hold_it() -> None:
    """A new node without any address is there first: by placement it should have one of ours."""
    play = holding(A, B)
    _, remove, other = play.tell(ClusterChanged(view(7, (A, B))))
    assert isinstance(remove, RemoveAddress) and isinstance(other, RemoveAddress)
    play.tell(AddressRemoved(remove.request, A), AddressRemoved(other.request, B))
    (claim,) = back(play, view(7, (A, B), (node(OTHER, OTHERS_LEASE, 7),)))
    assert set(play.state.placed.target.values()) == {ME, OTHER}
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
    assert play.state.takeover.ours == frozenset()


def test_after_a_loss_what_a_holder_with_a_lease_releases_is_claimed_at_once() -> None:
    play = beside_another(B)
    taken = (mark(A, 7, OTHER, OTHERS_LEASE), mark(B, 6, OTHER, OTHERS_LEASE))
    other = node(OTHER, OTHERS_LEASE, 5)
    back(play, view(7, (A, B), (other,), taken))
    (given,) = (a for a, name in play.state.placed.target.items() if name == ME)
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
    assert play.state.takeover.ours == {A, B} - {remove.address}
    play.tell(WriteFailed(release.request, "no answer in time"))
    play.tell(ClusterChanged(view(6, (A, B), nodes, (mark(A, 4), mark(B, 4)))))
    assert play.state.takeover.ours == {A, B} - {remove.address}


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
    assert play.state.takeover.loss is not None
    assert play.state.takeover.loss.released == frozenset()
    assert B not in play.state.takeover.ours


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
    assert play.state.cluster.view == view(1, (B,))


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
    assert play.state.takeover.loss is not None
    play.now = play.state.takeover.loss.until
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
    assert play.state.cluster.view == view(1, (B,))


def test_an_answer_older_than_what_the_watch_has_told_meanwhile_is_no_wiped_etcd() -> None:
    play = started()
    assert ReadCluster() in play.after(5.0, play.kept())
    me = (node(ME, LEASE, 2),)
    play.tell(ClusterChanged(view(8, (), me)))
    play.tell(ClusterRead(view(7, (A,), me)))
    assert play.state.cluster.view == view(8, (), me)


def test_an_older_view_does_not_replace_a_newer_one() -> None:
    play = holding(A)
    assert play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),)))) == []
    assert play.state.held == (A,)
