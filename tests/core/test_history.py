"""What a node writes into the history. No decision waits for it."""

from dataclasses import replace

import pytest

from tests.core.play import (
    LEASE,
    ME,
    OTHER,
    OTHERS_LEASE,
    A,
    B,
    Play,
    holding,
    mark,
    node,
    started,
    view,
)
from yaim.core.actions import Action, AddAddress, ClaimMarks, Kind, Level, Note, RemoveAddress
from yaim.core.events import (
    AddressAdded,
    AddressRemoved,
    ClusterChanged,
    MarksClaimed,
    StopRequested,
)
from yaim.core.model import (
    Address,
    ClusterView,
    Control,
    Mark,
    Member,
    Move,
    NodeName,
    Order,
    Revision,
    frozen_mapping,
)

pytestmark = pytest.mark.quick


def noted(play: Play, kind: Kind) -> list[Note]:
    return [each for each in play.notes if each.kind is kind]


def held(*addresses: Address, reason: str, by: NodeName | None = None) -> Note:
    by_node = {each: by for each in addresses if by is not None}
    return Note(Kind.HELD, ME, addresses, frozen_mapping(by_node), reason)


def took(play: Play, seen: ClusterView) -> None:
    """It claims what it can, and adds that; all at once."""
    (claim,) = [each for each in play.tell(ClusterChanged(seen)) if isinstance(each, ClaimMarks)]
    marks = tuple(mark(each, 20) for each in claim.addresses)
    add(play, play.tell(MarksClaimed(claim.request, marks, frozenset(), Revision(20))))


def add(play: Play, actions: list[Action]) -> None:
    adds = [each for each in actions if isinstance(each, AddAddress)]
    play.tell(*(AddressAdded(each.request, each.address) for each in adds))


def test_a_node_notes_that_it_has_joined_once_and_what_it_holds_in_one_line() -> None:
    play = started()
    took(play, view(5, (A, B), (node(ME, LEASE, 2),)))
    assert noted(play, Kind.JOINED) == [Note(Kind.JOINED, ME, reason="yaim 0.1.0")]
    assert noted(play, Kind.HELD) == [held(A, B, reason="claimed: nobody had it")]


def test_who_takes_over_notes_from_whom_and_why() -> None:
    play = started()
    nodes = node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3)
    play.tell(ClusterChanged(view(5, (A,), nodes, (mark(A, 4, OTHER, OTHERS_LEASE),))))
    play.tell(ClusterChanged(view(6, (A,), nodes[:1])))
    play.now += 0.3
    play.settle(play.tell(play.kept()))
    why = "taken over from n2, whose lease has ended"
    assert noted(play, Kind.HELD) == [held(A, reason=why, by=OTHER)]
    ended = Note(Kind.LOST, OTHER, reason="its lease has ended", life=OTHERS_LEASE)
    assert noted(play, Kind.LOST) == [ended]


def test_an_heir_notes_who_has_handed_over_and_who_has_asked_for_it() -> None:
    play = started()
    nodes = node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3)
    asked = Control(Revision(5), moves=frozen_mapping({A: Move(ME, Order("root@db1"))}))
    before = view(5, (A,), nodes, (mark(A, 4, OTHER, OTHERS_LEASE),), control=asked)
    play.tell(ClusterChanged(before))
    inherited = Mark(A, ME, LEASE, Revision(6), version=2)
    add(play, play.tell(ClusterChanged(view(6, (A,), nodes, (inherited,)))))
    why = "moved by root@db1; handed over by n2"
    assert noted(play, Kind.HELD) == [held(A, reason=why, by=OTHER)]


def test_who_gives_up_notes_to_whom_and_why_in_the_words_of_the_log() -> None:
    play = holding(A)
    nodes = node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3)
    asked = Control(Revision(5), drains=frozen_mapping({ME: Order("root@db1", "new disk")}))
    (remove,) = play.tell(ClusterChanged(view(5, (A,), nodes, (mark(A, 4),), control=asked)))
    assert isinstance(remove, RemoveAddress) and not noted(play, Kind.RELEASED)
    play.tell(AddressRemoved(remove.request, A))
    why = "n2 is to hold it (this node is drained by root@db1: new disk)"
    by_node = frozen_mapping({A: OTHER})
    assert noted(play, Kind.RELEASED) == [Note(Kind.RELEASED, ME, (A,), by_node, why)]
    assert f"removes {A}: {why}" in play.said(Level.INFO)


def test_a_mark_that_somebody_deletes_is_told_as_that() -> None:
    play = holding(A)
    play.tell(ClusterChanged(view(5, (A,), (node(ME, LEASE, 2),))))
    assert f"removes {A}: its mark was deleted, not by this node" in play.said(Level.INFO)


def test_changes_of_health_are_noted_with_the_reason_and_each_once() -> None:
    play = started()
    play.tell(play.unhealthy())
    play.tell(play.unhealthy())
    play.tell(play.healthy())
    assert noted(play, Kind.UNHEALTHY) == [Note(Kind.UNHEALTHY, ME, reason="HTTP 503")]
    assert noted(play, Kind.HEALTHY) == [Note(Kind.HEALTHY, ME, reason="HTTP 200")]


def test_a_stop_is_noted_once_with_the_reason() -> None:
    play = holding(A)
    play.tell(StopRequested("got SIGTERM"))
    play.tell(StopRequested("got SIGTERM"))
    assert noted(play, Kind.STOPPED) == [Note(Kind.STOPPED, ME, reason="got SIGTERM")]


def test_a_node_that_was_stopped_is_not_noted_as_lost() -> None:
    play = started()
    nodes = node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3)
    play.tell(ClusterChanged(view(5, (), nodes)))
    gone = view(6, (), nodes[:1])
    members = frozen_mapping({**gone.control.members, OTHER: Member("", True, "")})
    gone = replace(gone, control=replace(gone.control, members=members))
    play.tell(ClusterChanged(gone))
    assert noted(play, Kind.LOST) == []


def test_when_all_leases_go_at_once_nobody_is_noted_as_lost() -> None:
    play = started()
    nodes = node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3)
    play.tell(ClusterChanged(view(5, (), nodes)))
    play.tell(ClusterChanged(view(6)))
    assert noted(play, Kind.LOST) == []


def test_nothing_is_remembered_of_addresses_that_have_left_the_pool() -> None:
    play = started()
    both = mark(A, 3, OTHER, OTHERS_LEASE), mark(B, 3, OTHER, OTHERS_LEASE)
    nodes = node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3)
    play.tell(ClusterChanged(view(5, (A, B), nodes, both)))
    play.tell(ClusterChanged(view(6, (), nodes)))
    assert play.state.past.unmarked == {}
    play.tell(ClusterChanged(view(7, (A, B), nodes, both)))
    play.tell(ClusterChanged(view(8, (A, B), nodes)))
    assert play.state.past.unmarked.keys() == {A, B}
    play.tell(ClusterChanged(view(9, (A,), nodes, (mark(A, 9, OTHER, OTHERS_LEASE),))))
    play.tell(ClusterChanged(view(10, (A,), nodes)))
    assert play.state.past.unmarked.keys() == {A}
