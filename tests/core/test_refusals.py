"""What the helper refuses or cannot do: who is told, and when it is tried again."""

from dataclasses import replace
from ipaddress import ip_network

from tests.core.play import (
    LEASE,
    ME,
    NETWORKS,
    SESSION,
    V6,
    A,
    B,
    holding,
    mark,
    node,
    settings,
    started,
    view,
)
from yaim.core.actions import (
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    Level,
    ReleaseMarks,
    RemoveAddress,
)
from yaim.core.allowlist import Rule
from yaim.core.bounds import MOST_ADDRESSES
from yaim.core.events import (
    AddressAdded,
    AddressesRenewed,
    AddressFailed,
    AddressOnInterface,
    AddressRefused,
    AddressRemoved,
    ClusterChanged,
    HelperReady,
    MarksClaimed,
    NodeAdvertised,
    SettingsChanged,
)
from yaim.core.model import (
    Boottime,
    PoolEntry,
    Revision,
    frozen_mapping,
)
from yaim.core.refusals import (
    Cause,
)
from yaim.core.state.addresses import ADD_RETRY_S
from yaim.core.state.refusals import EXPIRED_AT_MOST


def test_an_address_that_the_helper_refuses_is_left_to_other_nodes() -> None:
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 4),), frozenset(), Revision(4)))
    assert isinstance(add, AddAddress)
    refused = AddressRefused(add.request, A, "no rule allows it", Cause.NOT_ALLOWED)
    remove, write = play.tell(refused)
    assert isinstance(remove, RemoveAddress) and isinstance(write, AdvertiseNode)
    assert write.advertisement.refused == frozenset({A})
    told = replace(node(ME, LEASE, 5), advertisement=write.advertisement)
    assert play.tell(NodeAdvertised(write.request, told)) == []
    (release,) = play.tell(AddressRemoved(remove.request, A))
    assert release == ReleaseMarks(write.request + 1, (mark(A, 4),), Revision(5))
    why = "the helper refused it: no rule allows it"
    assert play.said(Level.ERROR) == [f"leaves {A} to other nodes: {why}"]


def test_a_refusal_that_passes_is_tried_again() -> None:
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 4),), frozenset(), Revision(4)))
    assert isinstance(add, AddAddress)
    assert play.tell(AddressRefused(add.request, A, "too late", Cause.EXPIRED)) == []
    (again,) = play.after(0.15)
    assert isinstance(again, AddAddress)
    assert again == replace(add, request=again.request)


def test_an_add_that_failed_is_removed_before_the_mark_is_released() -> None:
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 4),), frozenset(), Revision(4)))
    assert isinstance(add, AddAddress)
    remove, _ = play.tell(AddressFailed(add.request, A, "no such device"))
    assert isinstance(remove, RemoveAddress)
    assert remove == RemoveAddress(remove.request, A)


def test_sighup_lets_refused_addresses_be_tried_again() -> None:
    play = started()
    play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    play.tell(MarksClaimed(2, (mark(A, 4),), frozenset(), Revision(4)))
    play.tell(AddressRefused(3, A, "no rule allows it", Cause.NOT_ALLOWED))
    assert A in play.state.refusals.refused
    play.tell(SettingsChanged(settings()))
    assert A not in play.state.refusals.refused


def test_an_add_that_is_refused_for_its_deadline_again_and_again_is_left_to_others() -> None:
    """Red team: the node was healthy, and its addresses were nowhere."""
    play = started()
    play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    request = play.state.next_request - 1
    actions = play.tell(MarksClaimed(request, (mark(A, 4),), frozenset(), Revision(4)))
    for _ in range(EXPIRED_AT_MOST):
        (add,) = [each for each in actions if isinstance(each, AddAddress)]
        assert not play.state.refusals.refused
        play.tell(AddressRefused(add.request, A, "the deadline is too far away", Cause.EXPIRED))
        actions = play.after(ADD_RETRY_S, play.kept())
    assert A in play.state.refusals.refused
    assert "leaves 192.0.2.10 to other nodes" in play.said(Level.ERROR)[0]


def test_an_add_that_is_refused_for_its_deadline_now_and_then_is_not_left_to_others() -> None:
    play = started()
    play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    request = play.state.next_request - 1
    actions = play.tell(MarksClaimed(request, (mark(A, 4),), frozenset(), Revision(4)))
    for number in range(3 * EXPIRED_AT_MOST):
        (add,) = [each for each in actions if isinstance(each, AddAddress)]
        if number % 2:
            play.tell(AddressAdded(add.request, A))
            actions = play.after(ADD_RETRY_S, play.kept(), AddressesRenewed(frozenset({A})))
        else:
            play.tell(AddressRefused(add.request, A, "the deadline is too near", Cause.EXPIRED))
            actions = play.after(ADD_RETRY_S, play.kept())
    assert not play.state.refusals.refused


def test_what_is_refused_beyond_what_others_are_told_costs_nothing_that_is_held() -> None:
    """Red team: the advertisement was longer than what is read, and written again for ever."""
    play = holding(A, B)
    allows = ip_network("2001:db8::/64")
    rules = (Rule("eth0", (*NETWORKS["eth0"], allows), frozenset({32, 128})),)
    up = tuple(AddressOnInterface(each, Boottime(play.now + 2)) for each in (A, B))
    play.tell(HelperReady(SESSION, tuple(NETWORKS.items()), up, rules=rules))
    view_ = play.state.cluster.view
    assert view_ is not None
    bad = {V6 + number: PoolEntry(V6 + number, prefix_length=1) for number in range(8200)}
    pool = frozen_mapping({**view_.pool, **bad})
    seen = replace(view_, revision=Revision(9), pool=pool)
    actions = play.tell(ClusterChanged(seen))
    advertised = 0
    for _ in range(20):
        advertised += sum(isinstance(each, AdvertiseNode) for each in actions)
        assert not any(isinstance(each, ClaimMarks | RemoveAddress) for each in actions)
        actions = play.do(actions) or play.after(0.2, play.kept())
    assert advertised == 1
    assert play.state.held == (A, B)
    told = [text for text in play.said(Level.ERROR) if "tells the others of" in text]
    assert len(told) == 1 and "refuses 8200 addresses of the pool" in told[0]
    mine = play.state.cluster.view
    assert mine is not None and len(mine.nodes[ME].advertisement.refused) == MOST_ADDRESSES
