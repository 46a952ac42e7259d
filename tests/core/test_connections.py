"""TCP connections: reset when an address goes on purpose, cleared once another node has it."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from tests.core.play import (
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
    advertised,
    advertisement,
    helper_ready,
    holding,
    mark,
    node,
    settings,
    started,
    view,
)
from yaim.core.actions import Action, AdvertiseNode, ClearConnections, Level, RemoveAddress
from yaim.core.allowlist import Rule
from yaim.core.bounds import MOST_WHY
from yaim.core.events import (
    AddressFailed,
    AddressOnInterface,
    AddressRemoved,
    ClusterChanged,
    ClusterRead,
    HelperLost,
    HelperReady,
    LeaseFailed,
    LeaseGone,
    LinksObserved,
    RestartRequested,
    SettingsChanged,
    StopRequested,
)
from yaim.core.model import (
    Address,
    ClusterView,
    LeaseId,
    Mark,
    Node,
    Resets,
    Revision,
    frozen_mapping,
)
from yaim.core.state.left import Left

pytestmark = pytest.mark.quick

CAN = Resets(True)


def ready(*addresses: AddressOnInterface, resets: Resets = CAN) -> HelperReady:
    return replace(helper_ready(*addresses), resets=resets)


def on_record(play: Play, *addresses: Address) -> tuple[AddressOnInterface, ...]:
    return tuple(AddressOnInterface(each, play.deadline()) for each in addresses)


def able(*addresses: Address, resets: Resets = CAN) -> Play:
    """A node that holds these addresses, with a helper that can reset."""
    play = holding(*addresses)
    play.tell(ready(*on_record(play, *addresses), resets=resets))
    return play


def removals(actions: list[Action]) -> dict[Address, bool]:
    """Which addresses are removed, and whether their connections are reset."""
    return {each.address: each.resets for each in actions if isinstance(each, RemoveAddress)}


def cleared(actions: list[Action]) -> list[Address]:
    return [each.address for each in actions if isinstance(each, ClearConnections)]


def of_others(revision: int, *addresses: Address, lease: LeaseId = OTHERS_LEASE) -> ClusterView:
    """Another node has marked these, which are the pool."""
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3))
    marks = tuple(mark(each, revision, OTHER, lease) for each in addresses)
    return view(revision, addresses, nodes, marks)


def lose_lease(play: Play, *addresses: Address) -> None:
    """The lease is gone, and then the addresses are off."""
    actions = play.tell(LeaseGone(LEASE))
    assert removals(actions) == dict.fromkeys(addresses, False)
    play.tell(
        *(AddressRemoved(a.request, a.address) for a in actions if isinstance(a, RemoveAddress))
    )


# --- reset -----------------------------------------------------------------------------------


def test_an_unhealthy_node_resets_what_it_removes() -> None:
    play = able(A, B)
    assert removals(play.tell(play.unhealthy())) == {A: True, B: True}


def test_a_stop_resets() -> None:
    assert removals(able(A).tell(StopRequested("got SIGTERM"))) == {A: True}


def test_what_leaves_the_pool_is_reset() -> None:
    play = able(A)
    marks = (mark(A, 4),)
    assert removals(play.tell(ClusterChanged(view(9, (), (node(ME, LEASE, 2),), marks)))) == {
        A: True
    }


def test_what_another_node_is_to_hold_is_reset() -> None:
    play = able(A, B)
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 9))
    seen = view(9, (A, B), nodes, (mark(A, 4), mark(B, 4)))
    (resets,) = removals(play.tell(ClusterChanged(seen))).values()
    assert resets


def test_what_is_on_a_link_that_is_down_is_reset() -> None:
    assert removals(able(A).tell(LinksObserved(frozenset({"lo"})))) == {A: True}


def test_what_has_no_mark_any_more_is_reset() -> None:
    play = able(A)
    seen = view(9, (A,), (node(ME, LEASE, 2),))
    assert removals(play.tell(ClusterChanged(seen))) == {A: True}


def test_a_lost_lease_resets_nothing() -> None:
    lose_lease(able(A, B), A, B)


def test_nothing_is_reset_when_our_advertisement_goes_with_our_marks() -> None:
    """The watch tells of a lost lease before the lease's own request does."""
    play = able(A, B)
    seen = view(9, (A, B))
    assert removals(play.tell(ClusterChanged(seen))) == {A: False, B: False}


def test_a_lease_that_is_not_kept_resets_nothing() -> None:
    play = able(A)
    play.tell(LeaseFailed("no answer"))
    assert removals(play.after(TTL_S)) == {A: False}


def test_a_stop_without_a_live_lease_resets_nothing() -> None:
    play = able(A)
    play.now += TTL_S
    assert removals(play.tell(StopRequested("got SIGTERM"))) == {A: False}


def test_a_restart_removes_nothing() -> None:
    assert removals(able(A).tell(RestartRequested("got SIGUSR1"))) == {}


def test_what_another_node_has_marked_is_not_reset() -> None:
    play = able(A)
    assert removals(play.tell(ClusterChanged(of_others(9, A)))) == {A: False}


def test_what_somebody_has_put_another_mark_over_is_not_reset() -> None:
    play = able(A)
    seen = view(9, (A,), (node(ME, LEASE, 2),), (mark(A, 4),))
    over = Mark(A, OTHER, LeaseId(0), seen.revision, is_over_another=True)
    seen = replace(seen, marks=frozen_mapping({}), stray_marks=frozen_mapping({A: over}))
    assert removals(play.tell(ClusterChanged(seen))) == {A: False}


def test_with_leave_nothing_is_reset() -> None:
    play = able(A)
    play.tell(SettingsChanged(replace(settings(), resets_connections=False)))
    assert removals(play.tell(play.unhealthy())) == {A: False}


def test_a_reload_to_reset_counts_at_once() -> None:
    play = able(A)
    play.tell(SettingsChanged(replace(settings(), resets_connections=False)))
    play.tell(SettingsChanged(settings()))
    assert removals(play.tell(play.unhealthy())) == {A: True}


def test_a_helper_that_cannot_reset_is_not_asked_to() -> None:
    assert removals(holding(A).tell(StopRequested("got SIGTERM"))) == {A: False}
    play = able(A, resets=Resets(False, "no CONFIG_INET_DIAG_DESTROY"))
    assert removals(play.tell(StopRequested("got SIGTERM"))) == {A: False}


def test_a_helper_that_was_updated_is_asked_to_reset() -> None:
    play = able(A, resets=Resets(False, "old"))
    play.tell(HelperLost("it hung up"))
    play.tell(ready(*on_record(play, A)))
    assert removals(play.tell(play.unhealthy())) == {A: True}


def test_what_may_not_be_here_is_not_reset() -> None:
    """The helper was started anew, and does not know of it."""
    play = able(A)
    actions = play.tell(HelperLost("it hung up"), ready(), play.unhealthy())
    assert removals(actions) == {A: False}


def test_a_removal_that_failed_is_tried_again_with_a_reset() -> None:
    play = able(A)
    (remove,) = [each for each in play.tell(play.unhealthy()) if isinstance(each, RemoveAddress)]
    play.tell(AddressFailed(remove.request, A, "no buffer space"))
    assert removals(play.after(1.0)) == {A: True}


def test_a_removal_that_failed_is_tried_again_without_one_if_the_lease_is_over() -> None:
    play = able(A)
    (remove,) = [each for each in play.tell(play.unhealthy()) if isinstance(each, RemoveAddress)]
    play.tell(AddressFailed(remove.request, A, "no buffer space"), LeaseGone(LEASE))
    assert removals(play.after(1.0)) == {A: False}


# --- what is told ----------------------------------------------------------------------------


def reset(play: Play, *counts: tuple[int, int]) -> None:
    """The node is unhealthy, and its helper tells how many were reset and left of each address."""
    removes = [each for each in play.tell(play.unhealthy()) if isinstance(each, RemoveAddress)]
    play.tell(
        *(
            AddressRemoved(each.request, each.address, *count)
            for each, count in zip(removes, counts, strict=True)
        )
    )


@pytest.mark.parametrize(
    ("count", "line"),
    [
        ((12, 0), "192.0.2.10 is off: 12 connections were reset"),
        ((1, 0), "192.0.2.10 is off: 1 connection was reset"),
        ((12, 3), "192.0.2.10 is off: 12 connections were reset, 3 could not be"),
        ((0, 3), "192.0.2.10 is off: 0 connections were reset, 3 could not be"),
    ],
)
def test_a_reset_is_told(count: tuple[int, int], line: str) -> None:
    play = able(A)
    reset(play, count)
    assert line in play.said(Level.INFO)
    assert "removes 192.0.2.10: unhealthy" in play.said(Level.INFO)


def test_what_is_removed_together_is_told_in_one_line() -> None:
    play = able(A, B)
    reset(play, (2, 0), (3, 1))
    told = [text for text in play.said(Level.INFO) if " off: " in text]
    assert told == ["192.0.2.10, 192.0.2.11 are off: 5 connections were reset, 1 could not be"]


def test_where_there_were_no_connections_nothing_is_told_of_them() -> None:
    play = able(A, B)
    reset(play, (0, 0), (4, 0))
    told = [text for text in play.said(Level.INFO) if " off: " in text]
    assert told == ["192.0.2.11 is off: 4 connections were reset"]


STAY = "no connections are reset when an address moves: "


def told_of_resets(play: Play) -> list[tuple[Level, str]]:
    return [
        (each.level, each.text.removeprefix(STAY))
        for each in play.reports
        if each.text.startswith(STAY)
    ]


def test_why_a_helper_cannot_reset_is_told_once() -> None:
    play = holding(A)
    old = [(Level.INFO, "the helper is too old to end connections")]
    assert told_of_resets(play) == old
    cannot = Resets(False, "no CONFIG_INET_DIAG_DESTROY")
    for _ in range(2):
        play.tell(HelperLost("it hung up"))
        play.tell(ready(*on_record(play, A), resets=cannot))
    assert told_of_resets(play) == [*old, (Level.WARNING, cannot.reason)]
    play.tell(ready(*on_record(play, A)))
    assert told_of_resets(play) == [*old, (Level.WARNING, cannot.reason)]


@pytest.mark.parametrize("is_any", [True, False])
def test_rules_that_let_nothing_be_reset_are_told(is_any: bool) -> None:
    networks = (ip_network("192.0.2.0/24"),)
    rules = tuple(Rule("eth0", networks, frozenset({32}), each) for each in (False, is_any))
    play = Play()
    play.tell(replace(HelperReady(SESSION, tuple(NETWORKS.items()), (), rules=rules), resets=CAN))
    says = [(Level.WARNING, "helper.yml says reset-connections: false")]
    assert told_of_resets(play) == ([] if is_any else says)


def test_the_other_nodes_are_told_why_connections_stay() -> None:
    play = started()
    assert advertised(play).connections_stay == "the helper is too old to end connections"
    play.settle(play.tell(ready(resets=Resets(False, "x" * 1000))))
    assert advertised(play).connections_stay == "x" * MOST_WHY
    play.settle(play.tell(HelperLost("it hung up")))
    assert advertised(play).connections_stay == "x" * MOST_WHY
    play.settle(play.tell(SettingsChanged(replace(settings(), resets_connections=False))))
    assert advertised(play).connections_stay == ""
    play.settle(play.tell(SettingsChanged(settings()), ready()))
    assert advertised(play).connections_stay == ""


def test_a_new_life_repeats_why_connections_stay_until_its_helper_is_there() -> None:
    told = replace(advertisement(), connections_stay="the kernel cannot")
    play = Play()
    play.tell()
    mine = Node(ME, told, LEASE, Revision(2))
    actions = play.tell(ClusterRead(view(9, (A,), (mine,))), play.kept(), play.healthy())
    (write,) = [each for each in actions if isinstance(each, AdvertiseNode)]
    assert write.advertisement.connections_stay == "the kernel cannot"


def test_with_leave_nobody_needs_to_know_what_the_helper_can() -> None:
    play = Play()
    play.state = replace(play.state, settings=replace(settings(), resets_connections=False))
    play.tell(helper_ready())
    assert told_of_resets(play) == []


# --- clear -----------------------------------------------------------------------------------


def test_what_a_lost_lease_has_left_is_cleared_once_another_node_has_the_mark() -> None:
    play = able(A, B)
    lose_lease(play, A, B)
    assert cleared(play.tell(ClusterChanged(of_others(9, A, B)))) == [A, B]
    assert cleared(play.tell(ClusterChanged(of_others(10, A, B)))) == []


def test_nothing_is_cleared_as_long_as_nobody_has_the_mark() -> None:
    play = able(A)
    lose_lease(play, A)
    seen = view(9, (A,), (node(OTHER, OTHERS_LEASE, 3),))
    assert cleared(play.tell(ClusterChanged(seen))) == []


def test_a_mark_of_a_dead_life_clears_nothing() -> None:
    play = able(A)
    lose_lease(play, A)
    assert cleared(play.tell(ClusterChanged(of_others(9, A, lease=LeaseId(0x99))))) == []


def test_a_mark_under_our_own_name_clears_nothing() -> None:
    play = able(A)
    lose_lease(play, A)
    nodes = (node(ME, OTHERS_LEASE, 3),)
    marks = (mark(A, 9, ME, OTHERS_LEASE),)
    assert cleared(play.tell(ClusterChanged(view(9, (A,), nodes, marks)))) == []


def test_nothing_is_cleared_before_the_address_is_off() -> None:
    play = able(A)
    (remove,) = [
        each
        for each in play.tell(ClusterChanged(of_others(9, A)))
        if isinstance(each, RemoveAddress)
    ]
    assert not remove.resets
    assert cleared(play.tell(ClusterChanged(of_others(10, A)))) == []
    assert cleared(play.tell(AddressRemoved(remove.request, A))) == [A]


def test_after_a_complete_reset_nothing_is_cleared() -> None:
    play = able(A)
    reset(play, (7, 0))
    assert cleared(play.tell(ClusterChanged(of_others(9, A)))) == []


def test_what_the_helper_has_not_reset_although_it_was_asked_to_is_cleared() -> None:
    play = able(A)
    (remove,) = [each for each in play.tell(play.unhealthy()) if isinstance(each, RemoveAddress)]
    assert remove.resets
    play.tell(AddressRemoved(remove.request, A))
    assert cleared(play.tell(ClusterChanged(of_others(9, A)))) == [A]


def test_what_a_reset_has_left_is_cleared() -> None:
    play = able(A)
    reset(play, (7, 1))
    assert cleared(play.tell(ClusterChanged(of_others(9, A)))) == [A]


def test_what_never_was_here_is_not_cleared() -> None:
    play = able(A)
    assert cleared(play.tell(ClusterChanged(of_others(9, A, B)))) == []


def test_what_a_helper_has_held_for_an_earlier_life_is_cleared() -> None:
    play = Play()
    play.tell()
    held = ready(*on_record(play, A))
    others = view(9, (A,), (node(OTHER, OTHERS_LEASE, 3),), (mark(A, 9, OTHER, OTHERS_LEASE),))
    actions = play.tell(held, ClusterRead(others), play.healthy())
    assert removals(actions) == {A: False} and not cleared(actions)
    (request,) = [each.request for each in actions if isinstance(each, RemoveAddress)]
    assert cleared(play.tell(AddressRemoved(request, A))) == [A]


def test_with_leave_nothing_is_cleared_before_that_changes() -> None:
    play = able(A)
    play.tell(SettingsChanged(replace(settings(), resets_connections=False)))
    lose_lease(play, A)
    assert cleared(play.tell(ClusterChanged(of_others(9, A)))) == []
    assert cleared(play.tell(SettingsChanged(settings()))) == [A]


def test_a_helper_that_cannot_is_not_asked_to_clear_and_its_successor_is() -> None:
    play = able(A, resets=Resets(False, "old"))
    lose_lease(play, A)
    assert cleared(play.tell(ClusterChanged(of_others(9, A)))) == []
    play.tell(HelperLost("it hung up"))
    assert cleared(play.tell(ClusterChanged(of_others(10, A)))) == []
    assert cleared(play.tell(ready())) == [A]


def test_what_was_cleared_is_cleared_again_only_if_it_was_here_again() -> None:
    left = Left().with_here((A, B)).asked(A)
    assert left.addresses == {B}
    assert left.with_here((A,)).addresses == {A, B}
