"""A helper that is lost, restarted, or finds an address missing."""

from dataclasses import replace
from ipaddress import ip_address

from tests.core.play import (
    LEASE,
    ME,
    NETWORKS,
    SESSION,
    TTL_S,
    A,
    B,
    Play,
    advertised,
    advertisement,
    helper_ready,
    holding,
    mark,
    node,
    requests,
    several,
    started,
    view,
    writes,
)
from yaim.core.actions import (
    AddAddress,
    AdvertiseNode,
    GrantLease,
    KeepLease,
    Level,
    LookForAddresses,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
    RenewAddresses,
)
from yaim.core.deadline import HELPER_GRACE_S
from yaim.core.events import (
    AddressAdded,
    AddressesObserved,
    AddressesRenewed,
    AddressesSeen,
    AddressGone,
    AddressRefused,
    AddressRemoved,
    CheckAnswered,
    ClusterChanged,
    ClusterRead,
    HelperLost,
    HelperReady,
    LeaseFailed,
    LeaseKept,
    NodeAdvertised,
)
from yaim.core.model import (
    Boottime,
    Place,
    frozen_mapping,
)
from yaim.core.refusals import (
    Cause,
)
from yaim.core.state.addresses import ADD_RETRY_S
from yaim.core.state.lease import RETRY_ALIVE_S
from yaim.core.state.retry import RETRY_MIN_S


def test_a_restarted_helper_gets_every_address_anew() -> None:
    play = holding(A)
    play.settle(play.tell(HelperLost("it hung up")))
    play.now += 0.2
    add, write = play.tell(helper_ready())
    assert isinstance(write, AdvertiseNode) and write.advertisement.takes
    assert isinstance(add, AddAddress)
    assert add == AddAddress(add.request, A, "eth0", 32, play.state.addresses.known[A].deadline)


def test_an_answer_of_the_helpers_earlier_life_does_not_count() -> None:
    play = holding(A)
    play.tell(HelperLost("it hung up"))
    play.tell(helper_ready())
    play.tell(AddressRemoved(2, A))
    assert not any(isinstance(each, ReleaseMarks) for each in play.tell(play.unhealthy()))


def test_a_helper_that_stays_away_costs_the_node_its_addresses() -> None:
    play = holding(A)
    deadline = play.deadline()
    play.settle(play.tell(HelperLost("no answer within 2 s")))
    for _ in range(2):
        play.after(1.0, play.kept())
    play.now = max(play.now, deadline + HELPER_GRACE_S)
    assert LookForAddresses() in play.tell()
    (write,) = writes(play.after(0.1, AddressesSeen(frozenset())))
    assert isinstance(write, AdvertiseNode)
    assert not write.advertisement.is_healthy
    assert write.release == (mark(A, 4),)


def test_a_node_without_its_helper_says_at_once_that_it_takes_nothing_until_it_is_back() -> None:
    """For up to 2 s it was given what it could not add."""
    play = started()
    play.settle(play.tell(HelperLost("it hung up")))
    assert advertised(play) == replace(advertisement(), takes=False)
    play.now += 0.5
    play.settle(play.tell(helper_ready()))
    assert advertised(play) == advertisement()


def test_a_node_with_a_check_that_was_added_says_that_it_takes_nothing_until_it_has_answered() -> (
    None
):
    """It was given its share of what a failed node had held, and took none of it for a minute."""
    play = holding(A)
    several(play, "service", "slow")
    assert advertised(play) == replace(advertisement(), takes=False)
    assert play.state.held == (A,)
    play.settle(play.after(0.5, play.answer("slow", True)))
    assert advertised(play).takes and play.state.held == (A,)


def test_what_is_here_or_down_is_said_also_while_a_check_has_not_answered() -> None:
    play = holding(A)
    several(play, "service", "slow")
    (write,) = play.tell(AddressesObserved(frozen_mapping({B: (Place("eth0", 24),)})))
    assert isinstance(write, AdvertiseNode) and set(write.advertisement.present) == {B}
    assert write.advertisement.is_healthy and not write.advertisement.takes


def test_an_address_missing_from_the_interface_is_added_again() -> None:
    play = holding(A)
    play.after(1.0)
    play.tell(play.kept())
    (add,) = play.tell(AddressesRenewed(frozenset({A})))
    assert isinstance(add, AddAddress)


def test_an_address_that_somebody_deleted_is_added_again_at_once() -> None:
    play = holding(A)
    (add,) = play.after(0.2, AddressGone(A))
    assert isinstance(add, AddAddress)
    assert play.tell(AddressGone(A)) == []
    assert play.said(Level.WARNING) == [f"{A} has gone from the interface"]


def test_an_address_that_somebody_deletes_again_and_again_is_not_added_at_once_each_time() -> None:
    play = holding(A)
    play.now += 0.2
    play.tell(play.kept())
    (add,) = play.tell(AddressGone(A))
    assert isinstance(add, AddAddress)
    assert play.tell(AddressAdded(add.request, A), AddressGone(A)) == []
    assert play.wake_at == play.now + ADD_RETRY_S
    assert requests(play.after(ADD_RETRY_S)) == [AddAddress]


def test_while_etcd_does_not_answer_an_address_that_goes_does_not_hurry_keepalives() -> None:
    """Found by review: the kernel removes addresses before the lease ends, and each failure led to
    the next keepalive at once."""
    play = holding(A)
    play.after(1.0)
    play.now += 0.7
    play.tell(LeaseFailed("refused"), AddressGone(A))
    assert play.after(RETRY_MIN_S) == [KeepLease(LEASE)]
    assert play.tell(LeaseFailed("refused")) == []
    assert play.wake_at is not None
    assert RETRY_MIN_S <= play.wake_at - play.now <= RETRY_ALIVE_S


def test_an_address_that_goes_because_we_remove_it_is_not_added_again() -> None:
    play = holding(A)
    (remove,) = play.tell(ClusterChanged(view(5, (), (node(ME, LEASE, 2),), (mark(A, 4),))))
    assert isinstance(remove, RemoveAddress)
    assert play.tell(AddressGone(A)) == []


def test_what_an_earlier_life_of_the_helper_has_left_of_the_pool_is_swept() -> None:
    """C is perhaps another cluster's."""
    play = Play()
    play.tell()
    left_over = frozenset({A, ip_address("192.0.2.99")})
    play.tell(HelperReady(SESSION, tuple(NETWORKS.items()), (), left_over))
    actions = play.tell(ClusterRead(view(7, (A, B))))
    assert actions == [RemoveAddress(1, A), GrantLease(TTL_S)]


def test_what_is_left_over_and_still_ours_stays() -> None:
    play = Play()
    play.tell()
    play.tell(HelperReady(SESSION, tuple(NETWORKS.items()), (), frozenset({A})))
    there = view(7, (A,), (node(ME, LEASE, 2),), (mark(A, 4),))
    assert play.tell(ClusterRead(there)) == [KeepLease(LEASE)]
    (write,) = play.tell(play.kept(), play.healthy())
    assert isinstance(write, AdvertiseNode)
    mine = node(ME, LEASE, 8)
    assert play.tell(NodeAdvertised(write.request, mine)) == [ReadCluster()]
    (add,) = play.tell(ClusterRead(view(8, (A,), (mine,), (mark(A, 4),))))
    assert isinstance(add, AddAddress)


def test_an_address_whose_new_add_was_refused_may_be_there_still() -> None:
    """The helper may have it on record from the add before, and renew it."""
    play = holding(A)
    (add,) = play.after(0.2, AddressesRenewed(frozenset({A})))
    assert isinstance(add, AddAddress)
    assert play.tell(AddressRefused(add.request, A, "too late", Cause.EXPIRED)) == []
    (remove,) = play.tell(CheckAnswered("service", False, "HTTP 503", Boottime(play.now + 10)))
    assert isinstance(remove, RemoveAddress) and remove.address == A


def test_what_the_helper_may_have_renewed_is_removed_however_long_nothing_is_known_of_it() -> None:
    """etcd is so slow that no keepalive leaves life enough to add it again."""
    play = holding(A, B)
    play.after(1.0)
    play.tell(AddressesRenewed(frozenset({A})), LeaseKept(LEASE, TTL_S, Boottime(play.now - 0.5)))
    for _ in range(2 * TTL_S):
        actions = play.after(1.0, LeaseKept(LEASE, TTL_S, Boottime(play.now + 0.5)))
        assert RenewAddresses in requests(actions)
        assert AddAddress not in requests(actions)
    removes = [each for each in play.tell(play.unhealthy()) if isinstance(each, RemoveAddress)]
    assert {each.address for each in removes} == {A, B}
