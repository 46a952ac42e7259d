"""Writes to etcd that are lost, in doubt, or answered late."""

from tests.core.play import (
    LEASE,
    ME,
    OTHER,
    OTHERS_LEASE,
    A,
    B,
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
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
)
from yaim.core.events import (
    AddressRemoved,
    ClusterChanged,
    ClusterRead,
    MarksClaimed,
    MarksReleased,
    NodeNotAdvertised,
    WriteFailed,
)
from yaim.core.model import (
    Revision,
)


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
    assert again == ReleaseMarks(again.request, release.marks, release.advertised)
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
    assert play.state.cluster.is_stale
