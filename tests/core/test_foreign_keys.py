"""What others put into etcd: advertisements and marks that are no node's."""

from dataclasses import replace

import pytest

from tests.core.play import (
    LEASE,
    ME,
    NEW_LEASE,
    OTHERS_LEASE,
    TTL_S,
    A,
    Play,
    advertisement,
    helper_ready,
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
    End,
    GrantLease,
    KeepLease,
    Level,
    Outcome,
    ReleaseMarks,
    RemoveAddress,
)
from yaim.core.deadline import LONGEST_LEAST_TTL_S, all_over_at
from yaim.core.events import (
    ClusterChanged,
    ClusterRead,
    LeaseGone,
    LeaseKept,
    MarksReleased,
    NodeAdvertised,
)
from yaim.core.model import (
    Boottime,
    ClusterView,
    LeaseId,
    Mark,
    Node,
    NodeName,
    Revision,
    frozen_mapping,
)
from yaim.core.state.advertised import OVERWRITE_EVERY_S, OVERWRITES_AT_MOST
from yaim.core.state.cluster import READ_EVERY_S


def test_a_copy_of_our_advertisement_under_another_lease_does_not_make_us_drop_ours() -> None:
    """Red team: it adopted a lease of a million seconds, and no add was granted any more."""
    play = holding(A)
    copied = node(ME, OTHERS_LEASE, 9)
    actions = play.tell(ClusterChanged(view(9, (A,), (copied,), (mark(A, 4),))))
    assert KeepLease(LEASE) in actions
    assert play.state.lease.current is not None and play.state.lease.current.id == LEASE
    writes = [each for each in play.tell(play.kept()) if isinstance(each, AdvertiseNode)]
    assert [(each.lease, each.replaces) for each in writes] == [(LEASE, 9)]


@pytest.mark.parametrize("longer_s", [LONGEST_LEAST_TTL_S + 1, 3600, 1_000_000])
def test_a_lease_that_etcd_cannot_have_granted_for_our_ttl_is_not_adopted(longer_s: int) -> None:
    """Red team: of a node that died after that its addresses were nowhere for an hour."""
    play = Play()
    play.tell()
    there = view(7, (A,), (node(ME, OTHERS_LEASE, 2),))
    assert play.tell(helper_ready(), play.healthy(), ClusterRead(there)) == [
        KeepLease(OTHERS_LEASE)
    ]
    endless = LeaseKept(OTHERS_LEASE, longer_s, Boottime(play.now))
    assert play.tell(endless) == [GrantLease(TTL_S)]
    assert "does not adopt lease 22" in play.said(Level.ERROR)[0]
    (write,) = play.tell(play.kept())
    assert isinstance(write, AdvertiseNode)
    assert (write.lease, write.replaces) == (LEASE, 2)


def test_a_lease_as_long_as_etcds_least_ttl_can_be_is_adopted() -> None:
    play = Play()
    play.tell()
    there = view(7, (A,), (node(ME, OTHERS_LEASE, 2),))
    play.tell(helper_ready(), play.healthy(), ClusterRead(there))
    play.tell(LeaseKept(OTHERS_LEASE, LONGEST_LEAST_TTL_S, Boottime(play.now)))
    assert play.state.lease.current is not None and play.state.lease.current.id == OTHERS_LEASE


def not_ours(revision: int) -> Node:
    """What looks like another host's advertisement under our name."""
    told = advertisement(session="")
    return replace(node(ME, OTHERS_LEASE, revision), advertisement=told)


def written_over(play: Play, revision: int) -> list[tuple[LeaseId, Revision]]:
    """What is written when another host's advertisement stands there, as soon as etcd has kept our
    lease: under which lease, over which revision."""
    play.tell(ClusterChanged(view(revision, (A,), (not_ours(revision),))))
    writes = [each for each in play.tell(play.kept()) if isinstance(each, AdvertiseNode)]
    return [(each.lease, each.replaces) for each in writes]


def test_what_is_put_over_our_advertisement_is_written_over_once_a_second() -> None:
    """Red team: one key, and all addresses of a node were gone until somebody deleted it."""
    play = holding(A)
    assert written_over(play, 9) == [(LEASE, 9)]
    play.tell(NodeAdvertised(play.state.next_request - 1, node(ME, LEASE, 10)))
    assert written_over(play, 11) == []
    writes = [
        each
        for each in play.after(OVERWRITE_EVERY_S, play.kept())
        if isinstance(each, AdvertiseNode)
    ]
    assert [(each.lease, each.replaces) for each in writes] == [(LEASE, 11)]


def test_hosts_that_fight_for_a_name_do_not_for_ever() -> None:
    play = holding(A)
    for number in range(OVERWRITES_AT_MOST):
        assert written_over(play, 9 + 2 * number) == [(LEASE, 9 + 2 * number)]
        request = play.state.next_request - 1
        play.tell(NodeAdvertised(request, node(ME, LEASE, 10 + 2 * number)))
        play.after(OVERWRITE_EVERY_S, play.kept())
    assert written_over(play, 99) == []
    ends: list[End] = []
    while not ends:
        ends = [each for each in play.after(1.0, play.kept()) if isinstance(each, End)]
    assert ends[0].outcome is Outcome.NAME_TAKEN
    assert f"etcdctl lease revoke {OTHERS_LEASE:x}" in ends[0].reason


def test_an_advertisement_that_stays_for_a_while_ends_a_fight() -> None:
    play = holding(A)
    for number in range(3 * OVERWRITES_AT_MOST):
        assert written_over(play, 9 + 2 * number) == [(LEASE, 9 + 2 * number)]
        request = play.state.next_request - 1
        play.tell(NodeAdvertised(request, node(ME, LEASE, 10 + 2 * number)))
        for _ in range(11):
            play.after(1.0, play.kept())


def test_who_has_lost_its_lease_waits_for_another_host_of_its_name() -> None:
    play = holding(A)
    play.tell(LeaseGone(LEASE))
    play.tell(ClusterRead(view(9, (A,))))
    play.tell(LeaseKept(NEW_LEASE, TTL_S, Boottime(play.now)))
    play.tell(ClusterChanged(view(10, (A,), (not_ours(10),))))
    actions = play.after(2.0, LeaseKept(NEW_LEASE, TTL_S, Boottime(play.now + 2.0)))
    assert AdvertiseNode not in requests(actions)
    assert play.state.advertised.name_taken_since is not None


def test_what_stands_under_our_name_without_a_lease_is_written_over() -> None:
    play = holding(A)
    stray = node(ME, LeaseId(0), 9)
    seen = replace(view(9, (A,), (), (mark(A, 4),)), stray_nodes=frozen_mapping({ME: stray}))
    play.tell(ClusterChanged(seen))
    writes = [each for each in play.tell(play.kept()) if isinstance(each, AdvertiseNode)]
    assert [(each.lease, each.replaces) for each in writes] == [(LEASE, 9)]


def covered(revision: int, changed: int) -> ClusterView:
    """A mark without a lease stands over that of A's holder, or where none was."""
    stray = Mark(A, NodeName("nobody"), LeaseId(0), Revision(changed))
    seen = view(revision, (A,), (node(ME, LEASE, 2),))
    return replace(seen, stray_marks=frozen_mapping({A: stray}))


NOBODY_HAS_IT_AFTER_S = all_over_at(Boottime(0.0), TTL_S) + 2 * READ_EVERY_S


def test_a_mark_without_a_lease_is_deleted_when_nobody_can_have_its_address_any_more() -> None:
    """Red team: it blocked its address for ever."""
    play = started()
    assert play.tell(ClusterChanged(covered(3, 3))) == []
    until = play.now + NOBODY_HAS_IT_AFTER_S
    while play.now < until - 1.0:
        actions = play.after(1.0, play.kept())
        assert not {ReleaseMarks, ClaimMarks} & set(requests(actions))
        assert "no node's" in play.said(Level.WARNING)[0]
    play.now = until + 0.001
    (release,) = [each for each in play.tell(play.kept()) if isinstance(each, ReleaseMarks)]
    assert [(each.address, each.lease, each.revision) for each in release.marks] == [(A, 0, 3)]
    actions = play.tell(MarksReleased(release.request, frozenset({A}), Revision(4)))
    assert [each.addresses for each in actions if isinstance(each, ClaimMarks)] == [(A,)]


def test_a_mark_without_a_lease_that_was_put_anew_is_waited_for_anew() -> None:
    """Between the two somebody may have had the address, with a mark of his own."""
    play = started()
    play.tell(ClusterChanged(covered(3, 3)))
    play.now += NOBODY_HAS_IT_AFTER_S - 0.1
    play.tell(play.kept(), ClusterChanged(covered(5, 5)))
    actions = play.after(NOBODY_HAS_IT_AFTER_S - 0.1, play.kept())
    assert not {ReleaseMarks, ClaimMarks} & set(requests(actions))


@pytest.mark.parametrize("lease", [0, LEASE, OTHERS_LEASE])
def test_a_mark_that_was_put_over_another_one_is_never_deleted_and_its_address_never_claimed(
    lease: int,
) -> None:
    """Red team: a node that could read nothing, and kept its lease, had the address as well."""
    play = started()
    over = Mark(A, ME, LeaseId(lease), Revision(3), is_over_another=True)
    seen = replace(view(3, (A,), (node(ME, LEASE, 2),)), stray_marks=frozen_mapping({A: over}))
    actions = play.tell(ClusterChanged(seen))
    for _ in range(100):
        assert not {AddAddress, ClaimMarks, ReleaseMarks} & set(requests(actions))
        actions = play.after(1.0, play.kept(), ClusterChanged(seen))
    (told,) = play.said(Level.WARNING)
    assert told.startswith(f"somebody has put a mark over another one's, of {A}: nobody takes")
    seen = view(4, (A,), (node(ME, LEASE, 2),))
    assert ClaimMarks in requests(play.tell(ClusterChanged(seen)))


def test_whose_mark_was_put_another_one_over_removes_its_address() -> None:
    play = holding(A)
    over = Mark(A, ME, LEASE, Revision(9), is_over_another=True)
    seen = replace(view(9, (A,), (node(ME, LEASE, 2),)), stray_marks=frozen_mapping({A: over}))
    actions = play.tell(ClusterChanged(seen))
    assert [each.address for each in actions if isinstance(each, RemoveAddress)] == [A]
    assert f"removes {A}: somebody has put another mark over ours" in play.said(Level.INFO)
