"""Marks that go, come and change: what a node does with the address."""

from tests.core.play import (
    LEASE,
    ME,
    OTHER,
    OTHERS_LEASE,
    A,
    holding,
    mark,
    node,
    requests,
    view,
)
from yaim.core.actions import (
    AddAddress,
    ClaimMarks,
    KeepLease,
    ReleaseMarks,
    RemoveAddress,
)
from yaim.core.events import (
    AddressRemoved,
    ClusterChanged,
    LeaseFailed,
)
from yaim.core.model import (
    LeaseId,
)


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
