"""A host that was paused, or whose clock was set."""

from tests.core.play import (
    LEASE,
    A,
    holding,
    requests,
)
from yaim.core.actions import (
    AddAddress,
    KeepLease,
    Level,
    ReadCluster,
    RemoveAddress,
    RenewAddresses,
)
from yaim.core.events import (
    AddressRemoved,
    ClockJumped,
    LeaseGone,
)


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
