"""Refusals that are tried again: when, how many, and where no other node can hold the address."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.core.play import (
    LEASE,
    ME,
    OTHER,
    OTHERS_LEASE,
    V6,
    A,
    B,
    adding,
    advertisement,
    full,
    holding,
    mark,
    next_claim,
    node,
    refuse,
    refused,
    refusing,
    requests,
    settings,
    started,
    view,
)
from yaim.core.actions import (
    AddAddress,
    AdvertiseNode,
    Level,
    RemoveAddress,
)
from yaim.core.events import (
    AddressAdded,
    AddressesObserved,
    AddressFailed,
    ClusterChanged,
    MarksClaimed,
    SettingsChanged,
)
from yaim.core.model import (
    Boottime,
    Node,
    Place,
    PoolEntry,
    Revision,
    frozen_mapping,
)
from yaim.core.refusals import (
    FAILED_FOR_S,
    REFUSED_FOR_S,
    Cause,
    Refusal,
)


def test_what_could_not_be_added_is_tried_again_after_growing_pauses() -> None:
    play = started()
    pauses = []
    for _ in range(4):
        adding(play, A, 77)
        play.tell(AddressFailed(77, A, "the disk is full"))
        pauses.append(play.state.refusals.refused[A].until - play.now)
        play.after(pauses[-1] + 1)
        assert not play.state.refusals.refused
    assert pauses == [FAILED_FOR_S * factor for factor in (1, 2, 4, 8)]
    play.after(REFUSED_FOR_S)
    adding(play, A, 77)
    play.tell(AddressFailed(77, A, "the disk is full"))
    assert play.state.refusals.refused[A].until - play.now == FAILED_FOR_S


@pytest.mark.parametrize(
    "cause", [Cause.NOT_ALLOWED, Cause.PRIMARY, Cause.OTHER, Cause.FAILED, Cause.LIMIT]
)
def test_what_no_other_node_can_hold_is_tried_again_every_few_seconds(cause: Cause) -> None:
    """It stayed unheld for an hour."""
    play = started()
    refused(play, cause, A)
    for _ in range(5):
        before = play.now
        claim = next_claim(play, 10.0)
        assert claim is not None and claim.addresses == (A,)
        assert 0.9 <= play.now - before <= 8.2
        refuse(play, cause, claim)
    errors = play.said(Level.ERROR)
    assert len(errors) == 1, "once, however often it is tried"


def test_what_another_node_holds_is_not_tried_again_soon() -> None:
    """Each try could move it here and back again."""
    play = started()
    refused(play, Cause.NOT_ALLOWED, A)
    seen = play.state.cluster.view
    assert seen is not None
    nodes = (*seen.nodes.values(), node(OTHER, OTHERS_LEASE, 9))
    theirs = mark(A, 10, OTHER, OTHERS_LEASE)
    play.settle(play.tell(ClusterChanged(view(seen.revision + 5, (A,), nodes, (theirs,)))))
    assert next_claim(play, 60.0) is None
    assert set(play.state.refusals.refused) == {A}


def test_an_address_of_the_hosts_own_that_comes_to_the_interface_lets_it_be_tried_again() -> None:
    """IPv6 was switched on again, say."""
    play = started()
    refused(play, Cause.FAILED, V6)
    known = play.state.refusals.refused[V6]
    link_local = ip_address("fe80::1")
    play.settle(play.after(1.0))
    on_another = {link_local: (Place("eth1", 64),)}
    play.settle(play.tell(AddressesObserved(frozen_mapping(on_another))))
    of_another_version = {**on_another, ip_address("198.51.100.1"): (Place("eth0", 24),)}
    play.settle(play.tell(AddressesObserved(frozen_mapping(of_another_version))))
    assert play.state.refusals.refused == {V6: known}
    here = {**of_another_version, link_local: (Place("eth0", 64),)}
    play.settle(play.after(0.9))
    play.settle(play.after(0.2, AddressesObserved(frozen_mapping(here))))
    play.settle(play.after(0.1))
    assert play.state.held == (V6,)


def test_of_what_a_host_could_not_add_one_is_tried_for_all() -> None:
    play = started()
    over = Refusal(Cause.FAILED, Boottime(play.now - 20), Boottime(play.now))
    refusing(play, {A: over, B: over})
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3))
    theirs = (mark(A, 3, OTHER, OTHERS_LEASE), mark(B, 3, OTHER, OTHERS_LEASE))
    play.tell(ClusterChanged(view(4, (A, B), nodes, theirs)))
    assert set(play.state.refusals.refused) == {B}
    adding(play, A, 77)
    play.tell(AddressAdded(77, A))
    assert not play.state.refusals.refused


def test_what_another_node_is_trying_is_not_taken_for_held_by_it() -> None:
    """Found by simulation: refused no more because its time was over, it was placed, and other
    addresses moved to level that."""
    play = started()
    over = Refusal(Cause.FAILED, Boottime(play.now - 20), Boottime(play.now))
    refusing(play, {A: over})
    both = []
    for name, lease in ((ME, LEASE), (OTHER, OTHERS_LEASE)):
        told = replace(advertisement(), refused=frozenset({A}))
        both.append(Node(name, told, lease, Revision(3)))
    theirs = (mark(A, 4, OTHER, OTHERS_LEASE),)
    play.tell(ClusterChanged(view(4, (A,), tuple(both), theirs)))
    assert set(play.state.refusals.refused) == {A}


def test_of_what_a_host_still_cannot_add_the_others_are_put_off_with_the_one_that_was_tried() -> (
    None
):
    play = started()
    until = Boottime(play.now)
    both = {a: Refusal(Cause.FAILED, Boottime(play.now - 20), until) for a in (A, B)}
    refusing(play, both)
    refusals = replace(play.state.refusals, failing_for_s=10.0, failing_until=until)
    play.state = replace(play.state, refusals=refusals)
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3))
    theirs = (mark(A, 3, OTHER, OTHERS_LEASE), mark(B, 3, OTHER, OTHERS_LEASE))
    play.tell(ClusterChanged(view(4, (A, B), nodes, theirs)))
    adding(play, A, 77)
    play.tell(AddressFailed(77, A, "the disk is full"))
    put_off_s = {a: r.until - play.now for a, r in play.state.refusals.refused.items()}
    assert put_off_s == {A: 20.0, B: 20.0}


def test_what_cannot_be_removed_is_told_once_for_each_reason() -> None:
    """It was told each second, for ten minutes."""
    play = holding(A)
    (remove, *_) = play.tell(play.unhealthy())
    for reason in ("no buffer space", "no buffer space", "it may be the host's", "no buffer space"):
        assert isinstance(remove, RemoveAddress)
        play.tell(AddressFailed(remove.request, A, reason))
        play.now += 1.0
        (remove,) = [a for a in play.tell(play.kept()) if isinstance(a, RemoveAddress)]
    told = [text for text in play.said(Level.ERROR) if text.startswith(f"cannot remove {A}")]
    assert [text.split(": ")[1] for text in told] == [
        "no buffer space",
        "it may be the host's",
        "no buffer space",
    ]


def test_what_cannot_be_tried_now_does_not_keep_the_others_from_it() -> None:
    """Found in a review: those that were refused longest ago were tried for ever, in vain."""
    play = started()
    pool = tuple(ip_address(f"192.0.2.{number}") for number in range(10, 19))
    refused(play, Cause.OTHER, *pool)
    seen = play.state.cluster.view
    assert seen is not None
    entries = {a: PoolEntry(a, exclude=frozenset({ME})) for a in pool[:-1]}
    changed = replace(
        seen,
        revision=Revision(50),
        pool=frozen_mapping({**entries, pool[-1]: PoolEntry(pool[-1])}),
    )
    play.settle(play.tell(ClusterChanged(changed)))
    claim = next_claim(play, 10.0)
    assert claim is not None and claim.addresses == pool[-1:]


@pytest.mark.parametrize("then", ["nothing", "SIGHUP"])
def test_what_was_tried_and_added_stays_while_its_refusal_is_taken_back(then: str) -> None:
    """Found in a review: it was removed, and added anew when the advertisement was written."""
    play = full()
    claim = next_claim(play, 10.0)
    assert claim is not None
    revision = Revision(80)
    marks = tuple(mark(each, revision) for each in claim.addresses)
    (add,) = play.tell(MarksClaimed(claim.request, marks, frozenset(), revision))
    assert isinstance(add, AddAddress)
    actions = play.tell(AddressAdded(add.request, add.address))
    if then == "SIGHUP":
        actions += play.tell(SettingsChanged(settings()))
    actions += play.after(1.0)
    assert AdvertiseNode in requests(actions)
    assert RemoveAddress not in requests(actions)
