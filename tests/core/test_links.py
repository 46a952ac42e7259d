"""Interfaces that go down and come up."""

from dataclasses import replace

from tests.core.play import (
    LEASE,
    ME,
    NETWORKS,
    SESSION,
    A,
    B,
    advertisement,
    holding,
    mark,
    node,
    refusing,
    started,
    view,
)
from yaim.core.actions import (
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    ReleaseMarks,
    RemoveAddress,
)
from yaim.core.events import (
    AddressAdded,
    AddressFailed,
    AddressRemoved,
    ClusterChanged,
    HelperReady,
    LinksObserved,
    MarksClaimed,
    MarksReleased,
    NodeAdvertised,
)
from yaim.core.model import (
    Boottime,
    ClusterView,
    PoolEntry,
    Revision,
    frozen_mapping,
)
from yaim.core.refusals import (
    Cause,
    Refusal,
)

FAILED = Refusal(Cause.FAILED, Boottime(1e3), Boottime(1e6))


def test_an_interface_that_goes_down_costs_the_node_the_addresses_on_it_at_once() -> None:
    play = holding(A)
    play.tell(LinksObserved(frozenset({"lo", "eth0"})))
    advertised = replace(advertisement(), down=frozenset({"eth0"}))
    remove, write = play.tell(LinksObserved(frozenset({"lo"})))
    assert isinstance(remove, RemoveAddress)
    assert write == AdvertiseNode(remove.request + 1, advertised, LEASE, Revision(2), ())
    assert play.tell(AddressRemoved(remove.request, A)) == []
    now = replace(node(ME, LEASE, 5), advertisement=advertised)
    (release,) = play.tell(NodeAdvertised(write.request, now))
    assert release == ReleaseMarks(write.request + 1, (mark(A, 4),), Revision(5))
    assert play.tell(MarksReleased(release.request, frozenset({A}), Revision(6))) == []
    (write,) = play.tell(LinksObserved(frozenset({"lo", "eth0"})))
    assert isinstance(write, AdvertiseNode) and write.advertisement.down == frozenset()
    (claim,) = play.tell(NodeAdvertised(write.request, node(ME, LEASE, 7)))
    assert isinstance(claim, ClaimMarks)


def test_what_could_not_be_added_is_tried_again_when_the_interface_is_up_again() -> None:
    """Found by chaos: adds that met an interface going down kept the addresses away for an hour."""
    play = started()
    play.tell(LinksObserved(frozenset({"eth0"})))
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 4),), frozenset(), Revision(4)))
    assert isinstance(add, AddAddress)
    play.tell(LinksObserved(frozenset()), AddressFailed(add.request, A, "eth0 is down"))
    assert set(play.state.refusals.refused) == {A}
    play.tell(LinksObserved(frozenset({"eth0"})))
    assert not play.state.refusals.refused


def test_an_interface_that_comes_up_lets_only_what_goes_there_be_tried_again() -> None:
    play = started()
    networks = {**NETWORKS, "eth1": NETWORKS["eth0"]}
    play.tell(HelperReady(SESSION, tuple(networks.items()), ()))
    play.tell(LinksObserved(frozenset({"eth0"})))
    refusing(play, {A: FAILED})
    play.tell(LinksObserved(frozenset({"eth0", "eth1"})))
    assert set(play.state.refusals.refused) == {A}


def test_an_address_on_another_interface_stays_when_one_goes_down() -> None:
    play = started()
    networks = {**NETWORKS, "eth1": NETWORKS["eth0"]}
    play.tell(LinksObserved(frozenset({"eth0", "eth1"})))
    play.tell(HelperReady(SESSION, tuple(networks.items()), ()))
    wide = replace(advertisement(), networks=frozen_mapping(networks))
    mine = replace(node(ME, LEASE, 3), advertisement=wide)
    play.tell(NodeAdvertised(play.state.next_request - 1, mine))
    entries = frozen_mapping({A: PoolEntry(A), B: PoolEntry(B, interface="eth1")})
    (claim,) = play.tell(
        ClusterChanged(ClusterView(Revision(4), entries, frozen_mapping({ME: mine})))
    )
    assert isinstance(claim, ClaimMarks)
    for add in play.tell(
        MarksClaimed(claim.request, (mark(A, 5), mark(B, 5)), frozenset(), Revision(5))
    ):
        assert isinstance(add, AddAddress)
        play.tell(AddressAdded(add.request, add.address))
    removals = [
        each
        for each in play.tell(LinksObserved(frozenset({"eth1"})))
        if isinstance(each, RemoveAddress)
    ]
    assert [each.address for each in removals] == [A]
