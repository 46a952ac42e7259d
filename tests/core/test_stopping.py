"""Stops and restarts: what is handed over, and what is left."""

from dataclasses import replace

from tests.core.play import (
    FIRST_SEEN,
    LEASE,
    ME,
    A,
    B,
    Play,
    advertisement,
    helper_ready,
    holding,
    mark,
    node,
    requests,
    view,
)
from yaim.core.actions import (
    AdvertiseNode,
    End,
    KeepLease,
    Outcome,
    RemoveAddress,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.events import (
    AddressOnInterface,
    AddressRemoved,
    ClusterRead,
    ClusterReadFailed,
    HelperLost,
    LeaseRevoked,
    NodeAdvertised,
    NodeWithdrawn,
    RestartRequested,
    StopRequested,
    WriteFailed,
)
from yaim.core.model import (
    Boottime,
    Node,
    Revision,
)
from yaim.core.state.stopping import STOP_WITHIN_S


def test_a_restart_leaves_everything_as_it_is() -> None:
    play = holding(A, B)
    left = End(Outcome.LEFT, "got SIGUSR1")
    assert play.tell(RestartRequested("got SIGUSR1"), play.unhealthy()) == [left]
    assert play.tell(play.unhealthy()) == []


def test_a_restart_is_refused_by_a_node_that_is_stopping() -> None:
    play = holding(A)
    assert requests(play.tell(StopRequested("got SIGTERM"))) == [RemoveAddress]
    assert play.tell(RestartRequested("got SIGUSR1")) == []


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
    assert withdraw == WithdrawNode(number + 1, LEASE, Revision(9), (), True, FIRST_SEEN)
    assert play.tell(NodeWithdrawn(number + 1, Revision(10))) == [RevokeLease(LEASE)]
    assert play.tell(LeaseRevoked(LEASE)) == [End(Outcome.STOPPED, "got SIGTERM")]
    assert play.tell(play.healthy()) == []


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
    assert withdraw == WithdrawNode(3, LEASE, Revision(8), (), True, FIRST_SEEN)
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
