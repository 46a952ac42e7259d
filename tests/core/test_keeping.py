"""All nodes are unhealthy, and the last holder keeps its addresses."""

from dataclasses import replace

from tests.core.play import (
    LEASE,
    ME,
    OTHER,
    OTHERS_LEASE,
    TTL_S,
    A,
    B,
    Play,
    advertisement,
    holding,
    mark,
    node,
    requests,
    settings,
    view,
    writes,
)
from yaim.core.actions import (
    Action,
    AdvertiseNode,
    KeepLease,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
)
from yaim.core.events import (
    AddressRemoved,
    ClusterChanged,
    ClusterRead,
    LinksObserved,
    NodeAdvertised,
    SettingsChanged,
    WriteFailed,
)
from yaim.core.model import (
    Address,
    Revision,
)


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
