"""Marks that are handed over by name: to whom, and what the two nodes make of it."""

from dataclasses import replace

import pytest

from tests.core.play import (
    FIRST_SEEN,
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
    requests,
    started,
    view,
)
from yaim.core.actions import (
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    Heir,
    Level,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
)
from yaim.core.events import (
    AddressAdded,
    AddressRemoved,
    ClusterChanged,
    ClusterRead,
    MarksClaimed,
    MarksReleased,
    NodeAdvertised,
    WriteFailed,
)
from yaim.core.model import (
    Address,
    ClusterView,
    Control,
    LeaseId,
    Mark,
    Move,
    Node,
    NodeName,
    Order,
    Revision,
    frozen_mapping,
)

pytestmark = pytest.mark.quick

BOTH = mark(A, 4), mark(B, 4)
THIRD = NodeName("n3")


def drained(*names: NodeName, revision: int = 5) -> Control:
    order = Order("root@db1", "new disk")
    return Control(Revision(revision), drains=frozen_mapping(dict.fromkeys(names, order)))


def cluster(
    revision: int, *others: Node, control: Control | None = None, marks: tuple[Mark, ...] = BOTH
) -> ClusterView:
    """This node, others, and the pool of A and B."""
    nodes = node(ME, LEASE, 2), *others
    return view(revision, (A, B), nodes, marks, control=control or Control())


def release_of_all(play: Play, seen: ClusterView) -> ReleaseMarks:
    """What is asked for when both addresses are off."""
    removes = [each for each in play.tell(ClusterChanged(seen)) if isinstance(each, RemoveAddress)]
    assert [each.address for each in removes] == [A, B]
    answers = [AddressRemoved(each.request, each.address) for each in removes]
    (release,) = play.tell(*answers)
    assert isinstance(release, ReleaseMarks)
    return release


def other(revision: int = 3) -> Node:
    return node(OTHER, OTHERS_LEASE, revision)


def test_a_drained_node_hands_all_over_by_name_in_one_write_before_it_says_anything() -> None:
    play = holding(A, B)
    release = release_of_all(play, cluster(5, other(), control=drained(ME)))
    heir = Heir(OTHER, OTHERS_LEASE)
    assert release == ReleaseMarks(
        release.request, BOTH, Revision(2), frozen_mapping({A: heir, B: heir})
    )
    handed = tuple(Mark(a, OTHER, OTHERS_LEASE, Revision(6), version=2) for a in (A, B))
    (told,) = play.tell(MarksReleased(release.request, frozenset({A, B}), Revision(6), handed))
    assert isinstance(told, AdvertiseNode)
    advertisement = told.advertisement
    assert advertisement.is_drained and advertisement.waits_s and advertisement.control == 5
    assert play.state.cluster.view is not None
    assert play.state.cluster.view.marks == {A: handed[0], B: handed[1]}
    assert play.said(Level.INFO)[-2:] == [
        f"removes {each}: n2 is to hold it (this node is drained by root@db1: new disk)"
        for each in (A, B)
    ]


def test_nothing_is_handed_over_before_its_removal_is_confirmed() -> None:
    play = holding(A, B)
    removes = play.tell(ClusterChanged(cluster(5, other(), control=drained(ME))))
    assert requests(removes) == [RemoveAddress, RemoveAddress]
    first = removes[0]
    assert isinstance(first, RemoveAddress)
    (release,) = play.tell(AddressRemoved(first.request, A))
    assert isinstance(release, ReleaseMarks)
    assert release.marks == (mark(A, 4),) and release.heirs.keys() == {A}


def unfit(what: str) -> Node:
    it = other()
    told = it.advertisement
    changed = {
        "unhealthy": replace(told, is_healthy=False),
        "takes nothing": replace(told, takes=False),
        "refuses": replace(told, refused=frozenset({A, B})),
        "older": replace(told, placement=3),
        "waits": replace(told, waits_s=10.0),
    }
    return replace(it, advertisement=changed[what])


@pytest.mark.parametrize("what", ["waits", "older"])
def test_to_who_waits_or_does_not_understand_nothing_is_handed_over(what: str) -> None:
    """Either takes what nobody else can hold, by a claim."""
    play = holding(A, B)
    control = drained(ME)
    seen = cluster(5, unfit(what), control=control)
    seen = replace(
        seen,
        pool=frozen_mapping({a: replace(e, exclude=frozenset({ME})) for a, e in seen.pool.items()}),
    )
    assert release_of_all(play, seen).heirs == {}


@pytest.mark.parametrize("what", ["unhealthy", "takes nothing", "refuses"])
def test_what_nobody_else_can_hold_stays_on_a_drained_node(what: str) -> None:
    play = holding(A, B)
    actions = play.tell(ClusterChanged(cluster(5, unfit(what), control=drained(ME))))
    assert RemoveAddress not in requests(actions) and set(play.state.held) == {A, B}


@pytest.mark.parametrize("to", [OTHER, THIRD])
def test_an_order_to_move_it_is_done_with_the_hand_over_to_that_node_only(to: NodeName) -> None:
    """The third node can hold nothing: the other one gets both, as this one is drained."""
    play = holding(A, B)
    third = node(THIRD, LeaseId(0x33), 4, is_healthy=False)
    control = replace(drained(ME), moves=frozen_mapping({A: Move(to)}))
    release = release_of_all(play, cluster(5, other(), third, control=control))
    assert release.heirs.keys() == {A, B}
    assert release.moved == ({A} if to == OTHER else frozenset())


def test_an_order_to_move_it_here_is_done_with_the_claim() -> None:
    play = started()
    control = Control(Revision(5), moves=frozen_mapping({A: Move(ME), B: Move(THIRD)}))
    (claim,) = play.tell(ClusterChanged(cluster(5, control=control, marks=())))
    assert isinstance(claim, ClaimMarks)
    assert claim.addresses == (A, B) and claim.moved == {A}


def test_a_hand_over_of_unknown_outcome_is_asked_for_again_and_its_mark_not_used() -> None:
    play = holding(A, B)
    seen = cluster(5, other(), control=drained(ME))
    release = release_of_all(play, seen)
    assert play.tell(WriteFailed(release.request, "no answer in time")) == [ReadCluster()]
    play.now += 0.2
    (again,) = play.tell(ClusterRead(replace(seen, revision=Revision(6))))
    assert again == replace(release, request=release.request + 1)


def test_what_was_not_handed_over_as_it_was_no_more_the_same_is_read_anew() -> None:
    play = holding(A, B)
    release = release_of_all(play, cluster(5, other(), control=drained(ME)))
    actions = play.tell(MarksReleased(release.request, frozenset({A}), Revision(6)))
    assert ReadCluster in requests(actions) and ReleaseMarks not in requests(actions)


def test_an_answer_that_comes_late_hides_nothing_that_etcd_has_told_since() -> None:
    """The heir has handed it back already: nobody else could add it."""
    play = holding(A, B)
    release = release_of_all(play, cluster(5, other(), control=drained(ME)))
    back = Mark(A, ME, LEASE, Revision(8), version=3)
    theirs = tuple(Mark(a, OTHER, OTHERS_LEASE, Revision(6), version=2) for a in (A, B))
    play.tell(ClusterChanged(cluster(8, other(), marks=(back, theirs[1]))))
    (add, *_) = play.tell(
        MarksReleased(release.request, frozenset({A, B}), Revision(6), handed=theirs)
    )
    assert isinstance(add, AddAddress) and add.address == A
    assert play.state.cluster.view is not None
    assert play.state.cluster.view.marks == {A: back, B: theirs[1]}


# --- the heir --------------------------------------------------------------------------------


def inherited(address: Address, revision: int) -> Mark:
    return Mark(address, ME, LEASE, Revision(revision), version=2)


def test_an_heir_adds_what_it_finds_marked_for_it_under_its_own_deadline() -> None:
    play = started()
    play.tell(ClusterChanged(cluster(5, other(), marks=(mark(A, 3, OTHER, OTHERS_LEASE),))))
    seen = cluster(6, other(), marks=(inherited(A, 6),))
    number = play.state.next_request
    add, *_ = play.tell(ClusterChanged(seen))
    assert add == AddAddress(number, A, "eth0", 32, play.deadline())


def test_an_heir_that_does_not_want_it_makes_sure_that_it_is_not_there_and_gives_it_on() -> None:
    play = started()
    seen = cluster(
        5, other(), control=drained(ME), marks=(inherited(A, 5), mark(B, 4, OTHER, OTHERS_LEASE))
    )
    (remove,) = play.tell(ClusterChanged(seen))
    assert isinstance(remove, RemoveAddress) and remove.address == A
    (release,) = play.tell(AddressRemoved(remove.request, A))
    assert isinstance(release, ReleaseMarks)
    assert release.marks == (inherited(A, 5),) and release.heirs.keys() == {A}


def test_what_was_handed_to_an_earlier_life_is_added_only_when_a_view_has_shown_it_since() -> None:
    """That one's last write may have released it, just before ours."""
    play = started()
    written = node(ME, LEASE, 9)
    play.state = replace(
        play.state, advertised=replace(play.state.advertised, unconfirmed_before=Revision(9))
    )
    seen = view(8, (A,), (node(ME, LEASE, 2), other()), (inherited(A, 8),))
    assert AddAddress not in requests(play.tell(ClusterChanged(seen)))
    shown = view(9, (A,), (written, other()), (inherited(A, 8),))
    assert AddAddress in requests(play.tell(ClusterRead(shown)))


def test_a_mark_handed_to_another_lease_of_this_node_is_not_its_own() -> None:
    play = started()
    foreign = replace(inherited(A, 6), lease=OTHERS_LEASE)
    actions = play.tell(
        ClusterChanged(cluster(6, other(), marks=(foreign, mark(B, 4, OTHER, OTHERS_LEASE))))
    )
    assert AddAddress not in requests(actions)


def test_beside_an_older_node_what_was_handed_over_is_given_back_and_not_handed_on() -> None:
    play = holding(A)
    told = replace(other().advertisement, placement=3, is_healthy=False)
    older = replace(other(), advertisement=told)
    seen = view(6, (A,), (node(ME, LEASE, 2), older), (inherited(A, 6),))
    (remove,) = play.tell(ClusterChanged(seen))
    assert isinstance(remove, RemoveAddress)
    (release,) = play.tell(AddressRemoved(remove.request, A))
    assert release == ReleaseMarks(remove.request + 1, (inherited(A, 6),), Revision(2))
    (claim,) = play.tell(MarksReleased(release.request, frozenset({A}), Revision(7)))
    assert isinstance(claim, ClaimMarks) and claim.addresses == (A,)


# --- what only people want to know -----------------------------------------------------------


def test_a_problem_is_told_when_nothing_is_under_way() -> None:
    play = holding(A, B)
    (remove, *_) = play.tell(ClusterChanged(cluster(5, other(), control=drained(ME))))
    assert isinstance(remove, RemoveAddress)
    assert AdvertiseNode not in requests(play.tell())


def test_a_new_node_is_noted_as_a_member_and_a_known_one_keeps_when_it_was_first_seen() -> None:
    play = started()
    assert play.state.cluster.view is not None
    (told, *_) = play.tell(ClusterChanged(view(3, (), (node(ME, LEASE, 2),))), play.unhealthy())
    assert isinstance(told, AdvertiseNode) and not told.joins
    play.tell(NodeAdvertised(told.request, node(ME, LEASE, 4, is_healthy=False)))
    forgotten = view(5, (), (node(ME, LEASE, 4, is_healthy=False),))
    members = frozen_mapping({ME: replace(forgotten.control.members[ME], is_stopped=True)})
    forgotten = replace(forgotten, control=replace(forgotten.control, members=members))
    (told,) = play.tell(ClusterChanged(forgotten), play.healthy())
    assert isinstance(told, AdvertiseNode) and told.joins and told.first_seen == FIRST_SEEN


def test_an_order_is_echoed_by_who_has_nothing_to_do_for_it() -> None:
    play = holding(A)
    control = Control(Revision(7), pause=Order())
    seen = view(7, (A,), (node(ME, LEASE, 2), other()), (mark(A, 4),), control=control)
    (told,) = play.tell(ClusterChanged(seen))
    assert isinstance(told, AdvertiseNode) and told.advertisement.control == 7


def test_an_order_is_not_echoed_before_what_was_claimed_is_on_the_interface() -> None:
    play = started()
    seen = view(7, (A,), (node(ME, LEASE, 2),), control=Control(Revision(7)))
    (claim,) = play.tell(ClusterChanged(seen))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 8),), frozenset(), Revision(8)))
    assert isinstance(add, AddAddress)
    (told,) = play.tell(AddressAdded(add.request, A))
    assert isinstance(told, AdvertiseNode) and told.advertisement.control == 7
