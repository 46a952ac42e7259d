"""Marks that are handed over by name, members and moves, in a real etcd."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from tests.dcs.etcd.conftest import EtcdServer
from tests.dcs.etcd.test_store import A, B, Desk, Member, advertisement
from yaim.core.actions import (
    AdvertiseNode,
    ClaimMarks,
    Heir,
    ReadCluster,
    ReleaseMarks,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.events import (
    ClusterRead,
    LeaseRevoked,
    MarksClaimed,
    MarksReleased,
    NodeAdvertised,
    NodeWithdrawn,
)
from yaim.core.model import (
    NO_CONTROL,
    Address,
    Control,
    LeaseId,
    Mark,
    NodeName,
    Order,
    Pin,
    Revision,
    frozen_mapping,
)
from yaim.dcs.etcd.keys import Keys
from yaim.dcs.etcd.transactions import MAX_OPS
from yaim.dcs.orders import write_order, write_pin

ME, OTHER = NodeName("db1"), NodeName("db2")


@pytest.fixture
def desks(etcd: EtcdServer, keys: Keys) -> Iterator[tuple[Desk, Desk]]:
    both = Desk(etcd.url, keys, ME), Desk(etcd.url, keys, OTHER)
    yield both
    for desk in both:
        desk.client.close()


def heirs_of(heir: Heir, *addresses: Address) -> dict[Address, Heir]:
    return dict.fromkeys(addresses, heir)


def heir_of(member: Member, name: NodeName = OTHER) -> Heir:
    return Heir(name, member.lease)


def marks_of(desk: Desk) -> dict[Address, Mark]:
    return dict(desk.ask(ReadCluster(), ClusterRead).view.marks)


def again(member: Member) -> None:
    """The node writes its advertisement anew."""
    action = AdvertiseNode(9, advertisement("HTTP 204"), member.lease, member.advertised, ())
    member.advertised = member.desk.ask(action, NodeAdvertised).node.revision


def test_a_mark_is_handed_over_and_all_read_it_as_the_heirs(desks: tuple[Desk, Desk]) -> None:
    me, other = Member(desks[0], (A, B)), Member(desks[1])
    marks = me.claim(A, B).marks
    asked = ReleaseMarks(4, marks, me.advertised, heirs_of(heir_of(other), A))
    released = me.desk.ask(asked, MarksReleased)
    handed = Mark(A, OTHER, other.lease, released.revision, version=2)
    assert released == MarksReleased(4, frozenset({A, B}), released.revision, (handed,))
    assert marks_of(other.desk) == {A: handed}
    assert me.desk.client.read_all(*me.desk.keys.all())[0][me.desk.keys.mark(A)].value == b"db2 2"


def test_a_mark_goes_from_node_to_node_and_back(desks: tuple[Desk, Desk]) -> None:
    members = [Member(desks[0], (A,)), Member(desks[1])]
    (mark,) = members[0].claim(A).marks
    for number in range(5):
        from_, to = members[number % 2], members[(number + 1) % 2]
        heir = Heir((OTHER, ME)[number % 2], to.lease)
        asked = ReleaseMarks(4, (mark,), from_.advertised, {A: heir})
        (mark,) = from_.desk.ask(asked, MarksReleased).handed
        assert mark.version == number + 2
        assert marks_of(to.desk) == {A: mark}
    last = ReleaseMarks(5, (mark,), members[1].advertised)
    assert members[1].desk.ask(last, MarksReleased).addresses == {A}
    assert members[0].claim(A).marks[0].version == 1


def test_what_was_handed_over_ends_with_the_heirs_lease_and_not_with_the_old_holders(
    desks: tuple[Desk, Desk],
) -> None:
    me, other = Member(desks[0], (A,)), Member(desks[1])
    asked = ReleaseMarks(4, me.claim(A).marks, me.advertised, {A: heir_of(other)})
    me.desk.ask(asked, MarksReleased)
    me.desk.ask(RevokeLease(me.lease), LeaseRevoked)
    assert set(marks_of(other.desk)) == {A}
    other.desk.ask(RevokeLease(other.lease), LeaseRevoked)
    assert marks_of(other.desk) == {}


def test_an_heir_that_has_advertised_itself_anew_gets_it_all_the_same(
    desks: tuple[Desk, Desk],
) -> None:
    me, other = Member(desks[0], (A,)), Member(desks[1])
    marks, heir = me.claim(A).marks, heir_of(other)
    again(other)
    released = me.desk.ask(ReleaseMarks(4, marks, me.advertised, {A: heir}), MarksReleased)
    assert marks_of(other.desk) == {A: Mark(A, OTHER, other.lease, released.revision, version=2)}


@pytest.mark.parametrize("what", ["lease", "gone"])
def test_an_heir_without_the_lease_that_we_know_gets_nothing_and_the_mark_is_deleted(
    desks: tuple[Desk, Desk], what: str
) -> None:
    me, other = Member(desks[0], (A,)), Member(desks[1])
    marks, heir = me.claim(A).marks, heir_of(other)
    if what == "lease":
        heir = Heir(OTHER, me.lease)
    else:
        other.desk.ask(RevokeLease(other.lease), LeaseRevoked)
    released = me.desk.ask(ReleaseMarks(4, marks, me.advertised, {A: heir}), MarksReleased)
    assert (released.addresses, released.handed) == (frozenset({A}), ())
    assert marks_of(me.desk) == {}


def test_a_lease_that_etcd_does_not_know_is_not_put_under(desks: tuple[Desk, Desk]) -> None:
    """The whole transaction would fail, which must not be."""
    me = Member(desks[0], (A, B))
    Member(desks[1])
    marks = me.claim(A, B).marks
    heir = Heir(OTHER, LeaseId(0x1234))
    released = me.desk.ask(ReleaseMarks(4, marks, me.advertised, {A: heir}), MarksReleased)
    assert (released.addresses, released.handed) == (frozenset({A, B}), ())


def test_a_handover_that_was_long_on_its_way_does_nothing(desks: tuple[Desk, Desk]) -> None:
    """Sent before our advertisement was rewritten; or of a mark that is another one by now."""
    me, other = Member(desks[0], (A,)), Member(desks[1])
    marks, before = me.claim(A).marks, me.advertised
    again(me)
    asked = ReleaseMarks(4, marks, before, {A: heir_of(other)})
    assert me.desk.ask(asked, MarksReleased).addresses == frozenset()
    assert marks_of(me.desk) == {A: marks[0]}
    me.desk.ask(ReleaseMarks(5, marks, me.advertised), MarksReleased)
    (now,) = me.claim(A).marks
    late = me.desk.ask(ReleaseMarks(7, marks, me.advertised, {A: heir_of(other)}), MarksReleased)
    assert (late.addresses, late.handed) == (frozenset(), ())
    assert marks_of(me.desk) == {A: now}


def test_a_handover_that_comes_twice_is_made_once(desks: tuple[Desk, Desk]) -> None:
    me, other = Member(desks[0], (A,)), Member(desks[1])
    asked = ReleaseMarks(4, me.claim(A).marks, me.advertised, {A: heir_of(other)})
    (handed,) = me.desk.ask(asked, MarksReleased).handed
    assert me.desk.ask(asked, MarksReleased).addresses == frozenset()
    assert marks_of(me.desk) == {A: handed}


def test_a_mark_that_was_handed_over_is_claimed_by_nobody(desks: tuple[Desk, Desk]) -> None:
    me, other = Member(desks[0], (A,)), Member(desks[1])
    asked = ReleaseMarks(4, me.claim(A).marks, me.advertised, {A: heir_of(other)})
    me.desk.ask(asked, MarksReleased)
    assert me.claim(A).lost == other.claim(A).lost == {A}


def test_what_is_put_over_a_mark_that_was_handed_over_is_no_nodes(
    desks: tuple[Desk, Desk],
) -> None:
    me, other = Member(desks[0], (A,)), Member(desks[1])
    asked = ReleaseMarks(4, me.claim(A).marks, me.advertised, {A: heir_of(other)})
    me.desk.ask(asked, MarksReleased)
    me.desk.client.put(me.desk.keys.mark(A), b"db2 2", other.lease)
    view = me.desk.ask(ReadCluster(), ClusterRead).view
    assert (set(view.marks), set(view.stray_marks)) == (set(), {A})
    assert view.stray_marks[A].is_over_another


def test_three_hundred_marks_are_handed_over(desks: tuple[Desk, Desk]) -> None:
    """More than etcd takes in one transaction (128 operations)."""
    pool = tuple(ip_address(f"198.51.{n // 256}.{n % 256}") for n in range(300))
    me, other = Member(desks[0], pool), Member(desks[1])
    marks = me.claim(*pool).marks
    asked = ReleaseMarks(4, marks, me.advertised, heirs_of(heir_of(other), *pool))
    released = me.desk.ask(asked, MarksReleased)
    assert released.addresses == set(pool)
    assert marks_of(me.desk) == {mark.address: mark for mark in released.handed}
    assert len({mark.revision for mark in released.handed}) == -(-300 // MAX_OPS), "transactions"


def test_a_full_etcd_takes_a_handover_and_a_member(
    etcd: EtcdServer, desks: tuple[Desk, Desk]
) -> None:
    me, other = Member(desks[0], (A,)), Member(desks[1])
    marks = me.claim(A).marks
    etcd.stop()
    etcd.add_options("--quota-backend-bytes=1")
    etcd.start()
    me.desk.ask(ReadCluster(), ClusterRead)
    joining = AdvertiseNode(3, advertisement(), me.lease, me.advertised, (), joins=True)
    me.advertised = me.desk.ask(joining, NodeAdvertised).node.revision
    asked = ReleaseMarks(4, marks, me.advertised, {A: heir_of(other)})
    (handed,) = me.desk.ask(asked, MarksReleased).handed
    assert marks_of(me.desk) == {A: handed}
    me.desk.ask(WithdrawNode(5, me.lease, me.advertised, (), is_stopped=True), NodeWithdrawn)


# --- moves and members ---------------------------------------------------------------------------


def test_a_move_is_over_with_the_claim_and_with_the_handover(desks: tuple[Desk, Desk]) -> None:
    me, other = Member(desks[0], (A, B)), Member(desks[1])
    value = write_pin(Pin(OTHER, Order()))
    for address in (A, B):
        me.desk.client.put(me.desk.keys.move(address), value)
    claim = ClaimMarks(2, (A,), me.lease, me.advertised, moved=frozenset({A}))
    (mark,) = me.desk.ask(claim, MarksClaimed).marks
    assert set(me.desk.ask(ReadCluster(), ClusterRead).view.control.moves) == {B}
    me.desk.client.put(me.desk.keys.move(A), value)
    heirs, moved = {A: heir_of(other)}, frozenset({A})
    asked = ReleaseMarks(4, (mark,), me.advertised, heirs, moved)
    assert me.desk.ask(asked, MarksReleased).handed
    assert set(me.desk.ask(ReadCluster(), ClusterRead).view.control.moves) == {B}


def test_an_order_that_was_given_meanwhile_is_not_deleted_by_who_did_not_know_it(
    desks: tuple[Desk, Desk],
) -> None:
    me, other = Member(desks[0], (A, B)), Member(desks[1])
    for address in (A, B):
        me.desk.client.put(me.desk.keys.move(address), write_pin(Pin(NodeName("db3"), Order())))
    marks = me.claim(A, B).marks
    asked = ReleaseMarks(4, marks, me.advertised, heirs_of(heir_of(other), A, B))
    assert len(me.desk.ask(asked, MarksReleased).handed) == 2
    assert set(me.desk.ask(ReadCluster(), ClusterRead).view.control.moves) == {A, B}


def test_a_move_stays_where_neither_a_claim_nor_a_handover_was_made(
    desks: tuple[Desk, Desk],
) -> None:
    me, other = Member(desks[0], (A,)), Member(desks[1])
    (mark,) = me.claim(A).marks
    me.desk.client.put(me.desk.keys.move(A), write_pin(Pin(OTHER, Order())))
    moved = frozenset({A})
    claim = ClaimMarks(3, (A,), other.lease, other.advertised, moved)
    assert other.desk.ask(claim, MarksClaimed).lost == {A}
    heir = Heir(OTHER, me.lease)
    me.desk.ask(ReleaseMarks(4, (mark,), me.advertised, {A: heir}, moved), MarksReleased)
    assert set(me.desk.ask(ReadCluster(), ClusterRead).view.control.moves) == {A}


def test_a_node_is_a_member_from_its_first_advertisement_and_after_its_end(
    desks: tuple[Desk, Desk],
) -> None:
    desk = desks[0]
    me = Member(desk)
    assert desk.ask(ReadCluster(), ClusterRead).view.control == NO_CONTROL
    joining = AdvertiseNode(3, advertisement(), me.lease, me.advertised, (), joins=True)
    me.advertised = desk.ask(joining, NodeAdvertised).node.revision
    (joined,) = desk.ask(ReadCluster(), ClusterRead).view.control.members.values()
    assert (joined.is_stopped, joined.version) == (False, "0.1.0")
    assert joined.first_seen == joined.at != ""
    first = "2026-01-01T00:00:00Z"
    stopping = WithdrawNode(5, me.lease, me.advertised, (), is_stopped=True, first_seen=first)
    desk.ask(stopping, NodeWithdrawn)
    desk.ask(RevokeLease(me.lease), LeaseRevoked)
    view = desk.ask(ReadCluster(), ClusterRead).view
    assert not view.nodes
    (stopped,) = view.control.members.values()
    assert (stopped.first_seen, stopped.is_stopped, stopped.version) == (first, True, "0.1.0")


def test_a_node_that_only_withdraws_is_a_member_as_before(desks: tuple[Desk, Desk]) -> None:
    desk = desks[0]
    me = Member(desk)
    joining = AdvertiseNode(3, advertisement(), me.lease, me.advertised, (), joins=True)
    me.advertised = desk.ask(joining, NodeAdvertised).node.revision
    desk.ask(WithdrawNode(5, me.lease, me.advertised, ()), NodeWithdrawn)
    (member,) = desk.ask(ReadCluster(), ClusterRead).view.control.members.values()
    assert not member.is_stopped


def test_an_advertisement_tells_when_it_was_written_and_is_read_as_it_was_answered(
    desks: tuple[Desk, Desk],
) -> None:
    me = Member(desks[0])
    action = AdvertiseNode(3, advertisement("HTTP 204"), me.lease, me.advertised, ())
    node = me.desk.ask(action, NodeAdvertised).node
    (read,) = me.desk.ask(ReadCluster(), ClusterRead).view.nodes.values()
    assert (read, read.written_at) == (node, node.written_at)
    assert node.written_at is not None


def test_what_operators_ask_for_is_told_by_the_watch(desks: tuple[Desk, Desk]) -> None:
    desk = desks[0]
    desk.client.put(desk.keys.control("drain", ME), write_order(Order("root@db1")))
    seen = desk.view_where(lambda view: bool(view.control.drains)).control
    order = Order("root@db1", revision=seen.drains[ME].revision)
    assert seen == Control(drains=frozen_mapping({ME: order}))
    desk.client.put(desk.keys.guard(), b"{}")
    seen = desk.view_where(lambda view: view.control.revision > Revision(0)).control
    assert seen.revision > order.revision
