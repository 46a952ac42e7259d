"""An etcd without space left."""

from dataclasses import replace

from tests.core.play import (
    HERE,
    LEASE,
    ME,
    NETWORKS,
    OTHER,
    OTHERS_LEASE,
    SESSION,
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
    started,
    view,
    writes,
)
from yaim.core.actions import (
    Action,
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    End,
    GrantLease,
    KeepLease,
    Outcome,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
    RenewAddresses,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.events import (
    AddressAdded,
    AddressesObserved,
    AddressGone,
    AddressRefused,
    AddressRemoved,
    ClusterChanged,
    ClusterRead,
    HelperReady,
    LeaseGone,
    LinksObserved,
    MarksClaimed,
    NodeAdvertised,
    NodeWithdrawn,
    SettingsChanged,
    StopRequested,
    WriteFailed,
)
from yaim.core.model import (
    ClusterView,
    Place,
    PoolEntry,
    Revision,
    frozen_mapping,
)
from yaim.core.refusals import (
    Cause,
)
from yaim.core.state.retry import RETRY_MAX_S


def refused_as_full(play: Play, write: Action) -> list[Action]:
    """What follows, when the next attempt is due and a read has shown that nothing has changed."""
    assert isinstance(write, AdvertiseNode | WithdrawNode | ReleaseMarks)
    assert ReadCluster() in play.tell(WriteFailed(write.request, "no space", is_full=True))
    known = play.state.cluster.view
    assert known is not None
    play.now += RETRY_MAX_S
    return play.tell(play.kept(), ClusterRead(known))


def failed_under_a_full_etcd() -> tuple[Play, Action]:
    """A node that has held two addresses, after its check has failed: its next write."""
    play = holding(A, B)
    removes = [each for each in play.tell(play.unhealthy()) if isinstance(each, RemoveAddress)]
    (write,) = play.tell(*(AddressRemoved(each.request, each.address) for each in removes))
    assert isinstance(write, AdvertiseNode) and not write.advertisement.is_healthy
    (withdraw,) = refused_as_full(play, write)
    return play, withdraw


def test_a_full_etcd_does_not_keep_a_failed_node_advertised() -> None:
    """Found in use: it removed its addresses, and stayed advertised as healthy, with its marks."""
    play, withdraw = failed_under_a_full_etcd()
    assert isinstance(withdraw, WithdrawNode)
    assert withdraw == WithdrawNode(withdraw.request, LEASE, Revision(2), (mark(A, 4), mark(B, 4)))
    keep, anew = play.tell(NodeWithdrawn(withdraw.request, Revision(9)))
    assert keep == KeepLease(LEASE)
    unhealthy = advertisement(is_healthy=False)
    assert anew == AdvertiseNode(withdraw.request + 1, unhealthy, LEASE, Revision(0), ())
    (again,) = refused_as_full(play, anew)
    assert isinstance(again, AdvertiseNode)
    assert again == replace(anew, request=again.request)


def test_a_node_that_withdrew_from_a_full_etcd_takes_its_share_when_all_is_well_again() -> None:
    play, withdraw = failed_under_a_full_etcd()
    assert isinstance(withdraw, WithdrawNode)
    _, anew = play.tell(NodeWithdrawn(withdraw.request, Revision(9)))
    assert isinstance(anew, AdvertiseNode)
    ill = node(ME, LEASE, 10, is_healthy=False)
    (well,) = play.tell(play.kept(), NodeAdvertised(anew.request, ill), play.healthy())
    assert isinstance(well, AdvertiseNode) and well.advertisement.is_healthy
    (claim,) = play.tell(NodeAdvertised(well.request, node(ME, LEASE, 11)))
    assert isinstance(claim, ClaimMarks) and claim.addresses == (A, B)


def test_an_etcd_that_refuses_deletions_too_gets_no_more_keepalives_of_a_failed_node() -> None:
    play, withdraw = failed_under_a_full_etcd()
    later = refused_as_full(play, withdraw)
    assert requests(later) == [AdvertiseNode]
    assert requests(play.after(0.9)) == []
    actions = play.tell(play.healthy())
    assert KeepLease(LEASE) in actions, "well again before the lease has ended"


def test_a_lease_that_a_full_etcd_let_end_is_followed_by_a_new_one() -> None:
    play, withdraw = failed_under_a_full_etcd()
    (write,) = refused_as_full(play, withdraw)
    assert isinstance(write, AdvertiseNode)
    play.tell(WriteFailed(write.request, "no space", is_full=True))
    actions = play.after(TTL_S + 0.5, ClusterRead(view(12, (A, B))))
    assert KeepLease(LEASE) in actions
    assert GrantLease(TTL_S) in [
        *play.tell(LeaseGone(LEASE)),
        *play.tell(ClusterRead(view(12, (A, B)))),
    ]


def test_a_link_that_goes_down_makes_a_node_withdraw_from_a_full_etcd() -> None:
    play = holding(A)
    play.tell(LinksObserved(frozenset({"lo", "eth0"})))
    remove, write = play.tell(LinksObserved(frozenset({"lo"})))
    assert isinstance(remove, RemoveAddress) and isinstance(write, AdvertiseNode)
    play.tell(AddressRemoved(remove.request, A))
    (withdraw,) = refused_as_full(play, write)
    assert withdraw == WithdrawNode(write.request + 1, LEASE, Revision(2), (mark(A, 4),))


def test_what_moves_is_released_before_a_full_etcd_is_told_anything_new() -> None:
    play = holding(A, B)
    play.tell(LinksObserved(frozenset({"lo", "eth0"})))
    (write,) = play.tell(SettingsChanged(replace(settings(), version="0.2.0")))
    less = view(8, (A,), (node(ME, LEASE, 2),), (mark(A, 4), mark(B, 4)))
    assert isinstance(write, AdvertiseNode)
    (remove,) = play.tell(ClusterChanged(less))
    assert isinstance(remove, RemoveAddress)
    play.tell(AddressRemoved(remove.request, B))
    _, release = refused_as_full(play, write)
    assert isinstance(release, ReleaseMarks)
    assert release == ReleaseMarks(release.request, (mark(B, 4),), Revision(2))


def test_what_is_to_move_and_a_full_etcd_does_not_release_stays_until_it_does() -> None:
    play = holding(A, B)
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 5))
    both = (mark(A, 4), mark(B, 4))
    (remove,) = play.tell(ClusterChanged(view(5, (A, B), nodes, both)))
    assert isinstance(remove, RemoveAddress)
    (release,) = play.tell(AddressRemoved(remove.request, remove.address))
    assert isinstance(release, ReleaseMarks)
    add, _, told = refused_as_full(play, release)
    assert isinstance(add, AddAddress) and add.address == remove.address
    assert isinstance(told, AdvertiseNode) and told.advertisement == advertisement()
    play.tell(AddressAdded(add.request, add.address))
    again = play.tell(NodeAdvertised(told.request, node(ME, LEASE, 9)))
    assert requests(again) == [RemoveAddress]


def test_what_a_full_etcd_has_refused_may_be_done_and_is_not_used_before_a_read() -> None:
    """A member that notices while it applies a write does that, and then answers so."""
    play = holding(A)
    (remove,) = play.tell(play.unhealthy())
    assert isinstance(remove, RemoveAddress)
    (write,) = play.tell(AddressRemoved(remove.request, A))
    assert isinstance(write, AdvertiseNode)
    refused = WriteFailed(write.request, "no space", is_full=True)
    assert play.tell(refused, play.healthy()) == [ReadCluster()]
    same = view(5, (A,), (node(ME, LEASE, 2),), (mark(A, 4),))
    (add,) = play.tell(ClusterRead(same))
    assert isinstance(add, AddAddress)


def test_a_node_that_is_to_keep_stays_in_a_full_etcd_as_it_is() -> None:
    play = holding(A)
    keeps = replace(settings(), keeps_when_all_unhealthy=True)
    play.tell(SettingsChanged(keeps))
    (write,) = play.tell(play.unhealthy())
    assert requests(refused_as_full(play, write)) == [RenewAddresses, AdvertiseNode]
    assert play.state.held == (A,)


def test_stopping_withdraws_from_a_full_etcd() -> None:
    play = holding(A)
    (remove,) = play.tell(StopRequested("got SIGTERM"))
    assert isinstance(remove, RemoveAddress)
    (write,) = play.tell(AddressRemoved(remove.request, A))
    assert isinstance(write, AdvertiseNode) and write.release == (mark(A, 4),)
    (withdraw,) = refused_as_full(play, write)
    assert withdraw == WithdrawNode(write.request + 1, LEASE, Revision(2), (mark(A, 4),))
    assert play.tell(NodeWithdrawn(write.request + 1, Revision(9))) == [RevokeLease(LEASE)]


def test_stopping_does_not_wait_for_an_etcd_that_refuses_deletions_too() -> None:
    play = holding(A)
    (remove,) = play.tell(StopRequested("got SIGTERM"))
    assert isinstance(remove, RemoveAddress)
    (write,) = play.tell(AddressRemoved(remove.request, A))
    (withdraw,) = refused_as_full(play, write)
    assert isinstance(withdraw, WithdrawNode)
    actions = play.tell(WriteFailed(withdraw.request, "no space", is_full=True))
    (end,) = [each for each in actions if isinstance(each, End)]
    assert end.outcome is Outcome.NOT_RELEASED and "etcd is full" in end.reason


def test_in_a_full_etcd_no_mark_goes_before_others_know_that_the_address_is_here() -> None:
    play = holding(A, B)
    gone, here = AddressGone(A, Place("eth0", 32)), AddressesObserved(HERE)
    play.now += 0.5
    (add,) = [a for a in play.tell(play.kept(), gone) if isinstance(a, AddAddress)]
    refusal = AddressRefused(add.request, A, "192.0.2.10 is on this host already", Cause.FOREIGN)
    remove, write = play.tell(here, refusal)
    assert isinstance(remove, RemoveAddress)
    play.tell(AddressRemoved(remove.request, A))
    (again,) = writes(refused_as_full(play, write))
    assert isinstance(again, AdvertiseNode)
    assert again.advertisement.present == {A: "eth0, /24"}


def test_who_holds_nothing_any_more_withdraws_from_a_full_etcd_though_it_could_hold_something() -> (
    None
):
    """Its link is down: what it held there was left to it for as long as etcd was full."""
    play = started()
    networks = {**NETWORKS, "eth1": NETWORKS["eth0"]}
    play.tell(LinksObserved(frozenset({"eth0", "eth1"})))
    play.tell(HelperReady(SESSION, tuple(networks.items()), ()))
    wide = replace(advertisement(), networks=frozen_mapping(networks))
    mine = replace(node(ME, LEASE, 3), advertisement=wide)
    play.tell(NodeAdvertised(play.state.next_request - 1, mine))
    theirs = replace(node(OTHER, OTHERS_LEASE, 3), advertisement=wide)
    seen = ClusterView(
        Revision(4),
        frozen_mapping({A: PoolEntry(A), B: PoolEntry(B, interface="eth1")}),
        frozen_mapping({ME: mine, OTHER: theirs}),
        frozen_mapping({B: mark(B, 3, OTHER, OTHERS_LEASE)}),
    )
    (claim,) = play.tell(ClusterChanged(seen))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 5),), frozenset(), Revision(5)))
    assert isinstance(add, AddAddress)
    play.tell(AddressAdded(add.request, A))
    remove, write = play.tell(LinksObserved(frozenset({"eth1"})))
    assert isinstance(remove, RemoveAddress)
    play.tell(AddressRemoved(remove.request, A))
    (withdraw,) = refused_as_full(play, write)
    assert isinstance(withdraw, WithdrawNode) and withdraw.release == (mark(A, 5),)
