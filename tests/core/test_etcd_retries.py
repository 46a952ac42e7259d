"""Requests to etcd that fail: when they are sent again, and when that is told."""

from dataclasses import replace

from tests.core.play import (
    LEASE,
    ME,
    OTHER,
    A,
    Play,
    holding,
    mark,
    node,
    requests,
    settings,
    view,
)
from yaim.core.actions import (
    KeepLease,
    Level,
    ReadCluster,
)
from yaim.core.deadline import HELPER_GRACE_S
from yaim.core.events import (
    AddressesSeen,
    ClusterRead,
    ClusterReadFailed,
    Event,
    LeaseFailed,
)
from yaim.core.state.lease import RETRY_ALIVE_S


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
    while not play.state.lease.retry.is_pending:
        play.after(0.1)
    deadline = play.state.lease.current.deadline if play.state.lease.current is not None else 0.0
    longest: list[float] = []
    while len(longest) < 20:
        play.tell(LeaseFailed("connection refused"))
        pause_s = play.state.lease.retry.due - play.now
        if play.now < deadline:
            assert pause_s <= RETRY_ALIVE_S
        else:
            longest.append(play.state.lease.retry.pause_s)
        play.after(pause_s)
    assert longest[:5] == [0.4, 0.8, 1.6, 2.0, 2.0]
    assert play.said(Level.WARNING)[0] == "our lease is not kept: connection refused"


def test_once_the_lease_is_over_a_read_has_to_succeed_before_it_is_kept_again() -> None:
    """One request at a time is enough to find out whether etcd is back."""
    play = holding(A)
    while not play.state.lease.retry.is_pending:
        play.after(0.1)
    play.tell(LeaseFailed("connection refused"), ClusterReadFailed("connection refused"))
    while play.state.lease.current is not None and play.now < play.state.lease.current.deadline:
        play.after(0.1, LeaseFailed("connection refused"))
    play.after(HELPER_GRACE_S + 0.1)
    play.tell(AddressesSeen(frozenset()))
    asked: list[type] = []
    for _ in range(100):
        asked += requests(play.after(0.1))
        if play.state.cluster.read.is_pending:
            play.tell(ClusterReadFailed("connection refused"))
    assert set(asked) == {ReadCluster}
    seen = view(4, (A,), (node(ME, LEASE, 2),), (mark(A, 4),))
    assert play.tell(ClusterRead(seen)) == [KeepLease(LEASE)]
