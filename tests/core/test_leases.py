"""Leases of another length than was asked for."""

from tests.core.play import (
    LEASE,
    ME,
    NEW_LEASE,
    TTL_S,
    A,
    Play,
    helper_ready,
    mark,
    node,
    view,
)
from yaim.core.actions import (
    GrantLease,
    Level,
)
from yaim.core.events import (
    ClusterRead,
    LeaseFailed,
    LeaseGone,
    LeaseKept,
)
from yaim.core.model import (
    Boottime,
)


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
    assert play.state.lease.current is not None and play.state.lease.current.id == NEW_LEASE
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
