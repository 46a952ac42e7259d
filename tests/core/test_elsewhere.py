"""Addresses that some host has for another reason than yaim."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.core.play import (
    HERE,
    LEASE,
    ME,
    OTHER,
    OTHERS_LEASE,
    A,
    B,
    Play,
    advertisement,
    helper_ready,
    holding,
    mark,
    node,
    requests,
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
from yaim.core.events import (
    AddressesObserved,
    AddressGone,
    AddressRefused,
    AddressRemoved,
    ClusterChanged,
    ClusterRead,
    LinksObserved,
    MarksClaimed,
    NodeAdvertised,
    SettingsChanged,
)
from yaim.core.model import (
    Address,
    Advertisement,
    LeaseId,
    Node,
    NodeName,
    Place,
    Revision,
    frozen_mapping,
)
from yaim.core.refusals import (
    REFUSED_FOR_S,
    Cause,
)
from yaim.core.state.addresses import ADD_RETRY_S
from yaim.core.state.host import KERNEL_PATIENCE_S
from yaim.core.state.state import State

HERE_AS_TOLD = frozen_mapping({A: "eth0, /24"})


def having(name: NodeName, lease: LeaseId, revision: int, *addresses: Address) -> Node:
    """A node that has these addresses for another reason."""
    known = node(name, lease, revision)
    present = frozen_mapping(dict.fromkeys(addresses, "eth0, /24"))
    return replace(known, advertisement=replace(known.advertisement, present=present))


def test_what_is_here_already_is_said_before_its_mark_is_given_back() -> None:
    """It was handed to the next node, which put it on its interface, too."""
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 4),), frozenset(), Revision(4)))
    assert isinstance(add, AddAddress)
    reason = "192.0.2.10 is on this host already"
    refused = AddressRefused(add.request, A, reason, Cause.FOREIGN)
    remove, write = play.tell(AddressesObserved(HERE), refused)
    assert isinstance(remove, RemoveAddress) and isinstance(write, AdvertiseNode)
    assert write.advertisement.present == {A: "eth0, /24"}
    assert play.tell(AddressRemoved(remove.request, A)) == []
    told = replace(node(ME, LEASE, 5), advertisement=write.advertisement)
    (release,) = play.tell(NodeAdvertised(write.request, told))
    assert release == ReleaseMarks(write.request + 1, (mark(A, 4),), Revision(5))


def test_an_address_that_the_kernel_has_told_of_is_never_claimed() -> None:
    play = started()
    (write,) = play.tell(AddressesObserved(HERE))
    assert isinstance(write, AdvertiseNode)
    told = replace(node(ME, LEASE, 3), advertisement=write.advertisement)
    play.tell(NodeAdvertised(write.request, told))
    assert play.tell(ClusterChanged(view(4, (A,), (told,)))) == []
    (warning,) = play.said(Level.WARNING)
    assert warning.startswith("192.0.2.10 is here already, not by yaim (eth0, /24)")


def test_what_another_node_has_for_another_reason_is_not_claimed_until_it_has_gone() -> None:
    play = started()
    nodes = (node(ME, LEASE, 2), having(OTHER, OTHERS_LEASE, 3, A))
    assert play.tell(ClusterChanged(view(3, (A,), nodes))) == []
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 4, is_healthy=False))
    (claim,) = play.tell(ClusterChanged(view(4, (A,), nodes)))
    assert isinstance(claim, ClaimMarks)


def test_an_unhealthy_node_says_what_it_has_for_another_reason() -> None:
    play = started()
    play.settle(play.tell(play.unhealthy()))
    (write,) = play.tell(AddressesObserved(HERE))
    assert isinstance(write, AdvertiseNode) and not write.advertisement.is_healthy
    assert write.advertisement.present == {A: "eth0, /24"}


def test_what_is_claimed_and_not_added_is_given_back_when_another_node_has_it() -> None:
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    nodes = (node(ME, LEASE, 2), having(OTHER, OTHERS_LEASE, 4, A))
    play.tell(ClusterChanged(view(4, (A,), nodes)))
    claimed = MarksClaimed(claim.request, (mark(A, 5),), frozenset(), Revision(5))
    (remove,) = play.tell(claimed)
    assert isinstance(remove, RemoveAddress)
    (release,) = play.tell(AddressRemoved(remove.request, A))
    assert release == ReleaseMarks(remove.request + 1, (mark(A, 5),), Revision(2))


def test_what_is_held_stays_when_it_comes_to_another_node_for_another_reason() -> None:
    play = holding(A)
    nodes = (node(ME, LEASE, 2), having(OTHER, OTHERS_LEASE, 5, A))
    assert play.tell(ClusterChanged(view(5, (A,), nodes, (mark(A, 4),)))) == []
    assert play.said(Level.WARNING) == [
        f"{A}, which this node holds, is on n2, too, not by yaim (eth0, /24): remove it there"
    ]
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 6))
    assert play.tell(ClusterChanged(view(6, (A,), nodes, (mark(A, 4),)))) == []
    assert play.said(Level.INFO)[-1] == f"{A} is on no node any more that yaim has not put it on"


def test_a_second_copy_of_what_is_held_is_told_at_once_and_again_when_it_stays() -> None:
    play = holding(A)
    (write,) = play.tell(AddressesObserved(HERE))
    assert isinstance(write, AdvertiseNode) and write.advertisement.present == {A: "eth0, /24"}
    told = replace(node(ME, LEASE, 5), advertisement=write.advertisement)
    assert play.tell(NodeAdvertised(write.request, told)) == []
    assert play.state.held == (A,)
    at_once = f"a second copy of {A}, which this node holds, is here, not by yaim (eth0, /24)"
    assert play.said(Level.WARNING)[-1].startswith(at_once)
    (remove, *_) = play.tell(play.unhealthy())
    assert isinstance(remove, RemoveAddress)
    play.tell(AddressRemoved(remove.request, A))
    assert play.said(Level.WARNING)[-1].startswith(f"{A} is here already, not by yaim")
    assert play.state.elsewhere.present == {A: "eth0, /24"}


def test_what_the_helper_says_is_here_counts_until_it_goes_also_after_a_sighup() -> None:
    """It looks like the helper's, and is another cluster's."""
    play = started()
    play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    play.tell(MarksClaimed(2, (mark(A, 4),), frozenset(), Revision(4)))
    play.tell(AddressRefused(3, A, "it is held for cluster other of uid 7", Cause.FOREIGN))
    play.tell(SettingsChanged(settings()), helper_ready())
    assert play.state.elsewhere.present == {A: "its helper says so"}
    play.after(2 * REFUSED_FOR_S)
    assert play.state.elsewhere.present == {A: "its helper says so"}, (
        "forgotten with time, and others add it"
    )
    play.tell(AddressGone(A))
    assert play.state.elsewhere.present == {} and not play.state.refusals.refused


def test_what_went_while_the_helper_was_asked_is_tried_again_at_once() -> None:
    """Its refusal came after the news that its reason was gone, and stood for an hour."""
    play = started()
    play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2),))))
    play.tell(MarksClaimed(2, (mark(A, 4),), frozenset(), Revision(4)))
    play.tell(AddressGone(A))
    assert play.tell(AddressRefused(3, A, "it is on this host already", Cause.FOREIGN)) == []
    assert requests(play.after(ADD_RETRY_S)) == [AddAddress]


def test_of_addresses_outside_the_pool_those_are_told_that_the_helper_would_be_asked_for() -> None:
    """So that it is known by the time that one of them joins the pool."""
    play = started()
    far = ip_address("198.51.100.1")
    own = {each: (Place("eth0", 24),) for each in (A, B, far)}
    (write,) = play.tell(AddressesObserved(frozen_mapping(own)))
    assert isinstance(write, AdvertiseNode)
    assert write.advertisement.present.keys() == {A, B}


def restarted(told: Advertisement) -> Play:
    """A next life, which finds this advertisement and has adopted its lease."""
    play = Play()
    play.state = State(settings())
    play.tell()
    found = replace(node(ME, LEASE, 2), advertisement=told)
    play.tell(helper_ready(), ClusterRead(view(2, (A, B), (found,))), play.healthy())
    play.tell(play.kept())
    return play


UP = LinksObserved(frozenset({"lo", "eth0"}))
BEFORE = replace(advertisement(), present=HERE_AS_TOLD, down=frozenset({"eth0"}))


def test_what_an_earlier_life_knew_to_be_here_is_said_until_it_goes() -> None:
    """It looks like the helper's by now. The restarted node took it back, and another added it."""
    play = restarted(BEFORE)
    (write,) = play.tell(UP, AddressesObserved(frozen_mapping({}), HERE))
    assert isinstance(write, AdvertiseNode) and write.advertisement.present == HERE_AS_TOLD
    play.settle([write])
    assert play.tell(AddressGone(A, Place("eth0", 32))) == []
    (write,) = play.tell(AddressGone(A, Place("eth0", 24)))
    assert isinstance(write, AdvertiseNode) and write.advertisement.present == {}


@pytest.mark.parametrize(
    "others", [{}, {A: (Place("eth0", 32),)}, {B: (Place("eth0", 24),)}], ids=str
)
def test_what_has_gone_since_an_earlier_life_said_it_is_said_no_more(
    others: dict[Address, tuple[Place, ...]],
) -> None:
    play = restarted(BEFORE)
    (write,) = play.tell(UP, AddressesObserved(frozen_mapping({}), frozen_mapping(others)))
    assert isinstance(write, AdvertiseNode) and write.advertisement.present == {}


@pytest.mark.parametrize("place", [Place("eth0", 24), None], ids=str)
def test_what_goes_before_it_is_known_what_an_earlier_life_said_is_not_said_any_more(
    place: Place | None,
) -> None:
    """Found by the simulation: nobody held it as long as this node lived."""
    play = Play()
    play.state = State(settings())
    play.tell(UP, AddressesObserved(frozen_mapping({}), HERE), AddressGone(A, place))
    found = replace(node(ME, LEASE, 2), advertisement=BEFORE)
    play.tell(helper_ready(), ClusterRead(view(2, (A, B), (found,))), play.healthy())
    (write,) = play.tell(play.kept())
    assert isinstance(write, AdvertiseNode) and write.advertisement.present == {}


def test_of_several_places_the_others_are_said_on() -> None:
    places = frozen_mapping({A: (Place("eth0", 24), Place("eth1", 24))})
    play = restarted(BEFORE)
    play.tell(UP, AddressesObserved(frozen_mapping({}), places))
    assert play.state.host.after_gone(A, None).others == places
    play.tell(AddressGone(A, Place("eth1", 24)))
    assert play.state.host.others == HERE
    assert play.state.elsewhere.present == HERE_AS_TOLD


def test_what_the_helper_of_an_earlier_life_said_to_be_here_is_said_until_it_goes() -> None:
    said = {A: "its helper says so"}
    play = restarted(replace(BEFORE, present=frozen_mapping(said)))
    (write,) = play.tell(UP, AddressesObserved(frozen_mapping({}), HERE))
    assert isinstance(write, AdvertiseNode) and write.advertisement.present == said


def test_while_the_kernel_does_not_tell_what_an_earlier_life_knew_stays_said() -> None:
    """Others took what it had, and gave it addresses for a link that is down."""
    play = restarted(BEFORE)
    (write,) = (a for a in play.after(KERNEL_PATIENCE_S) if isinstance(a, AdvertiseNode))
    told = write.advertisement
    assert (told.present, told.down, told.takes) == (HERE_AS_TOLD, frozenset({"eth0"}), False)
    play.settle([write])
    (again,) = play.tell(UP, AddressesObserved(HERE))
    assert isinstance(again, AdvertiseNode)
    told = again.advertisement
    assert (told.present, told.down, told.takes) == (HERE_AS_TOLD, frozenset(), True)


def test_the_first_advertisement_waits_a_second_at_most_for_what_the_kernel_tells() -> None:
    def until_it_is_advertised() -> Play:
        play = Play()
        play.state = State(settings())
        play.tell()
        play.tell(helper_ready(), ClusterRead(view(1)), play.healthy())
        assert play.tell(play.kept()) == []
        return play

    play = until_it_is_advertised()
    (write,) = play.tell(AddressesObserved(HERE))
    assert isinstance(write, AdvertiseNode) and set(write.advertisement.present) == {A}
    play = until_it_is_advertised()
    assert play.wake_at is not None and play.wake_at <= play.now + KERNEL_PATIENCE_S
    writes = [each for each in play.after(KERNEL_PATIENCE_S) if isinstance(each, AdvertiseNode)]
    assert [write.advertisement.takes for write in writes] == [False]
    assert any("the kernel has not told" in text for text in play.said(Level.WARNING))
