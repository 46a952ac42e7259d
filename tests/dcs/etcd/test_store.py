"""The core's actions carried out in a real etcd."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from queue import SimpleQueue
from typing import Any, TypeVar

import pytest

from tests.dcs.etcd.conftest import PATIENT_S, EtcdServer
from yaim.core.actions import (
    AdvertiseNode,
    ClaimMarks,
    GrantLease,
    KeepLease,
    ReadCluster,
    ReleaseMarks,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.events import (
    ClusterChanged,
    ClusterRead,
    ClusterReadFailed,
    Event,
    LeaseFailed,
    LeaseGone,
    LeaseKept,
    LeaseRevoked,
    MarksClaimed,
    MarksReleased,
    NodeAdvertised,
    NodeNotAdvertised,
    NodeWithdrawn,
    WriteFailed,
)
from yaim.core.model import (
    Address,
    Advertisement,
    ClusterView,
    LeaseId,
    Mark,
    NodeName,
    Revision,
    frozen_mapping,
)
from yaim.dcs.etcd.access import EtcdAccess, EtcdError
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.keys import MAX_BYTES, Keys
from yaim.dcs.etcd.mirror import WATCH_LATE_S
from yaim.dcs.etcd.store import (
    VIEW_EVERY_S,
    VIEWS_AT_ONCE,
    EtcdAction,
    EtcdStore,
)
from yaim.dcs.etcd.transactions import MAX_OPS
from yaim.host.boottime import boottime
from yaim.lab.wait import wait_until

A, B = ip_address("192.0.2.10"), ip_address("192.0.2.11")
ME = NodeName("db1")
Kind = TypeVar("Kind", bound=Event)


def advertisement(reason: str = "HTTP 200") -> Advertisement:
    return Advertisement(
        is_healthy=True,
        reason=reason,
        interface="eth0",
        networks=frozen_mapping({"eth0": (ip_network("192.0.2.0/24"),)}),
        refused=frozenset(),
        session="boot:1",
        version="0.1.0",
    )


class Desk:
    """A store, and what it has posted."""

    def __init__(
        self, url: str, keys: Keys, node: NodeName = ME, *, kind: type[EtcdClient] = EtcdClient
    ) -> None:
        self.keys = keys
        self.client = kind(EtcdAccess((url,)), PATIENT_S)
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._view: ClusterView | None = None
        self.views = 0
        """That the watch has told."""
        self.store = EtcdStore(self.client, keys, node, self._events.put)

    def wait_for(self, kind: type[Kind], is_it: Callable[[Kind], bool] = lambda _: True) -> Kind:
        """The next event of this kind; others are passed over."""
        while True:
            event = self._events.get(timeout=2 * PATIENT_S)
            if isinstance(event, ClusterChanged):
                self._view = event.view
                self.views += 1
            if isinstance(event, kind) and is_it(event):
                return event

    def ask(self, action: EtcdAction, kind: type[Kind]) -> Kind:
        self.store.submit(action)
        return self.wait_for(kind)

    def view_where(self, is_it: Callable[[ClusterView], bool]) -> ClusterView:
        """The last view of the watch, or the next one, that is as wanted."""
        if self._view is not None and is_it(self._view):
            return self._view
        return self.wait_for(ClusterChanged, lambda event: is_it(event.view)).view


@pytest.fixture
def desk(etcd: EtcdServer, keys: Keys) -> Iterator[Desk]:
    desk = Desk(etcd.url, keys)
    yield desk
    desk.client.close()


class Member:
    """A node with a lease and an advertisement."""

    def __init__(self, desk: Desk, pool: tuple[Address, ...] = ()) -> None:
        for address in pool:
            desk.client.put(desk.keys.pool_entry(address), b"")
        self.desk = desk
        self.marks: tuple[Mark, ...] = ()
        self.lease = desk.ask(GrantLease(60), LeaseKept).lease
        action = AdvertiseNode(1, advertisement(), self.lease, Revision(0), ())
        self.advertised = desk.ask(action, NodeAdvertised).node.revision

    def claim(self, *addresses: Address) -> MarksClaimed:
        action = ClaimMarks(2, addresses, self.lease, self.advertised)
        return self.desk.ask(action, MarksClaimed)


def test_an_address_put_with_etcdctl_joins_the_pool_and_leaves_it_again(
    desk: Desk, etcd: EtcdServer
) -> None:
    etcd.ctl("put", "/service/yaim/ips/192.0.2.10", "")
    assert A in desk.view_where(lambda view: bool(view.pool)).pool
    etcd.ctl("del", "--prefix", "/service/yaim/ips/192.0.2.10")
    assert desk.view_where(lambda view: not view.pool).marks == {}


def test_a_lease_is_granted_with_the_instant_before_it_was_asked_for(desk: Desk) -> None:
    before = boottime()
    kept = desk.ask(GrantLease(60), LeaseKept)
    assert kept.ttl_s == 60
    assert before <= kept.sent_at <= boottime()
    again = desk.ask(KeepLease(kept.lease), LeaseKept)
    assert again.lease == kept.lease and again.sent_at > kept.sent_at
    assert desk.ask(RevokeLease(kept.lease), LeaseRevoked) == LeaseRevoked(kept.lease)
    assert desk.ask(KeepLease(kept.lease), LeaseGone) == LeaseGone(kept.lease)
    assert desk.ask(RevokeLease(kept.lease), LeaseGone) == LeaseGone(kept.lease)


def test_a_claim_gets_what_is_in_the_pool_and_unmarked(desk: Desk, keys: Keys) -> None:
    me = Member(desk, (A, B))
    desk.client.put(keys.mark(B), b"db2")
    elsewhere = ip_address("192.0.2.99")
    claimed = me.claim(A, B, elsewhere)
    revision = claimed.revision
    assert claimed == MarksClaimed(
        2, (Mark(A, ME, me.lease, revision),), frozenset({B, elsewhere}), revision
    )
    view = desk.ask(ReadCluster(), ClusterRead).view
    assert view.marks[A] == Mark(A, ME, me.lease, revision)
    assert view.stray_marks[B].holder == "db2"


def test_a_claim_with_an_outdated_advertisement_gets_nothing(desk: Desk, keys: Keys) -> None:
    me = Member(desk, (A,))
    changed = AdvertiseNode(5, advertisement("HTTP 204"), me.lease, me.advertised, ())
    desk.ask(changed, NodeAdvertised)
    claimed = me.claim(A)
    assert (claimed.marks, claimed.lost) == ((), frozenset({A}))


def test_a_claim_with_a_lease_that_is_gone_fails(desk: Desk, keys: Keys) -> None:
    me = Member(desk, (A,))
    desk.client.revoke(me.lease)
    desk.client.put(keys.node(ME), b"{}")
    _, revision = desk.client.read_all(*keys.all())
    action = ClaimMarks(2, (A,), me.lease, Revision(revision))
    assert "lease not found" in desk.ask(action, WriteFailed).reason


def test_two_nodes_that_claim_the_same_address_get_it_once(
    desk: Desk, etcd: EtcdServer, keys: Keys
) -> None:
    other = Desk(etcd.url, keys, NodeName("db2"))
    me, rival = Member(desk, (A,)), Member(other)
    got = [me.claim(A).marks, rival.claim(A).marks]
    assert sorted(len(marks) for marks in got) == [0, 1]
    other.client.close()


def test_a_name_that_is_taken_is_not_advertised(desk: Desk, keys: Keys) -> None:
    desk.client.put(keys.node(ME), b"somebody else's")
    lease = desk.ask(GrantLease(60), LeaseKept).lease
    action = AdvertiseNode(1, advertisement(), lease, Revision(0), ())
    assert desk.ask(action, NodeNotAdvertised) == NodeNotAdvertised(1)


def test_an_unhealthy_advertisement_and_all_releases_are_one_revision(
    desk: Desk, keys: Keys
) -> None:
    me = Member(desk, (A, B))
    marks = me.claim(A, B).marks
    unhealthy = replace(advertisement("HTTP 503"), is_healthy=False)
    done = desk.ask(AdvertiseNode(3, unhealthy, me.lease, me.advertised, marks), NodeAdvertised)
    seen = desk.view_where(lambda view: view.revision >= done.node.revision)
    assert not seen.marks
    assert seen.revision == done.node.revision
    assert seen.nodes[ME].advertisement == unhealthy


def test_a_released_mark_is_gone_and_anothers_is_left_alone(desk: Desk, keys: Keys) -> None:
    me = Member(desk, (A, B))
    marks = me.claim(A, B).marks
    desk.client.delete(keys.mark(B))
    desk.client.put(keys.mark(B), b"db2")
    released = desk.ask(ReleaseMarks(4, marks, me.advertised), MarksReleased)
    assert released.addresses == frozenset({A})
    view = desk.ask(ReadCluster(), ClusterRead).view
    assert {a: m.holder for a, m in view.stray_marks.items()} == {B: "db2"}


def test_a_release_that_was_sent_before_the_advertisement_was_rewritten_does_nothing(
    desk: Desk,
) -> None:
    """It may be of an earlier life of the coordinator, say, and long on its way."""
    me = Member(desk, (A,))
    marks = me.claim(A).marks
    again = AdvertiseNode(5, advertisement(), me.lease, me.advertised, ())
    desk.ask(again, NodeAdvertised)
    assert desk.ask(ReleaseMarks(6, marks, me.advertised), MarksReleased).addresses == frozenset()
    assert desk.ask(WithdrawNode(7, me.lease, me.advertised, marks), WriteFailed).request == 7
    assert set(desk.ask(ReadCluster(), ClusterRead).view.marks) == {A}


def test_withdrawing_deletes_advertisement_and_marks(desk: Desk, keys: Keys) -> None:
    me = Member(desk, (A, B))
    marks = me.claim(A, B).marks
    action = WithdrawNode(5, me.lease, me.advertised, marks)
    withdrawn = desk.ask(action, NodeWithdrawn)
    view = desk.ask(ReadCluster(), ClusterRead).view
    assert withdrawn == NodeWithdrawn(5, view.revision)
    assert (view.nodes, view.marks, set(view.pool)) == ({}, {}, {A, B})


def test_a_revoked_lease_takes_advertisement_and_marks_with_it(desk: Desk, keys: Keys) -> None:
    me = Member(desk, (A, B))
    me.claim(A, B)
    desk.view_where(lambda view: len(view.marks) == 2)
    desk.ask(RevokeLease(me.lease), LeaseRevoked)
    view = desk.view_where(lambda view: not view.nodes)
    assert view.marks == {}


def test_three_hundred_addresses_are_claimed_and_released(desk: Desk, keys: Keys) -> None:
    """More than etcd takes in one transaction (128 operations)."""
    pool = tuple(ip_address(f"198.51.{n // 256}.{n % 256}") for n in range(300))
    me = Member(desk, pool)
    marks = me.claim(*pool).marks
    assert {mark.address for mark in marks} == set(pool)
    assert len({mark.revision for mark in marks}) == 3, "transactions"
    unhealthy = replace(advertisement("HTTP 503"), is_healthy=False)
    desk.ask(AdvertiseNode(3, unhealthy, me.lease, me.advertised, marks), NodeAdvertised)
    assert desk.ask(ReadCluster(), ClusterRead).view.marks == {}


class ChangedMeanwhile(EtcdClient):
    """Somebody changes the advertisement after the first transaction with many releases."""

    change: Callable[[], object] | None = None

    def transact(self, request: Any) -> Any:
        answer = super().transact(request)
        if self.change is not None and len(request.success) > 1:
            change, self.change = self.change, None
            change()
        return answer


@pytest.mark.parametrize("kind", [AdvertiseNode, WithdrawNode, ReleaseMarks])
def test_after_a_transaction_that_finds_another_advertisement_nothing_more_is_released(
    etcd: EtcdServer, keys: Keys, kind: type[EtcdAction]
) -> None:
    desk = Desk(etcd.url, keys, kind=ChangedMeanwhile)
    assert isinstance(desk.client, ChangedMeanwhile)
    pool = tuple(ip_address(f"198.51.{n // 256}.{n % 256}") for n in range(300))
    me = Member(desk, pool)
    marks = me.claim(*pool).marks
    desk.client.change = lambda: desk.client.put(keys.node(ME), b"{}", me.lease)
    if kind is AdvertiseNode:
        unhealthy = replace(advertisement("HTTP 503"), is_healthy=False)
        desk.ask(AdvertiseNode(3, unhealthy, me.lease, me.advertised, marks), NodeNotAdvertised)
    elif kind is WithdrawNode:
        desk.ask(WithdrawNode(3, me.lease, me.advertised, marks), WriteFailed)
    else:
        answer = desk.ask(ReleaseMarks(3, marks, me.advertised), MarksReleased)
        assert answer.addresses == {mark.address for mark in marks[:MAX_OPS]}
    view = desk.ask(ReadCluster(), ClusterRead).view
    assert set(view.marks.values()) == set(marks[MAX_OPS:])
    assert view.nodes[ME].advertisement.reason == "its advertisement cannot be read"
    desk.client.close()


@pytest.mark.parametrize("kind", [ClaimMarks, AdvertiseNode, ReleaseMarks])
def test_of_several_transactions_of_which_one_is_not_answered_a_read_tells_what_is_done(
    etcd: EtcdServer, keys: Keys, kind: type[EtcdAction]
) -> None:
    def fail() -> None:
        raise EtcdError("no answer in time")

    desk = Desk(etcd.url, keys, kind=ChangedMeanwhile)
    assert isinstance(desk.client, ChangedMeanwhile)
    pool = tuple(ip_address(f"198.51.{n // 256}.{n % 256}") for n in range(300))
    me = Member(desk, pool)
    marks = () if kind is ClaimMarks else me.claim(*pool).marks
    desk.client.change = fail
    action: EtcdAction = ClaimMarks(3, pool, me.lease, me.advertised)
    if kind is AdvertiseNode:
        action = AdvertiseNode(3, advertisement("HTTP 503"), me.lease, me.advertised, marks)
    elif kind is ReleaseMarks:
        action = ReleaseMarks(3, marks, me.advertised)
    assert desk.ask(action, WriteFailed) == WriteFailed(3, "no answer in time")
    view = desk.ask(ReadCluster(), ClusterRead).view
    there = pool[:MAX_OPS] if kind is ClaimMarks else pool[MAX_OPS:]
    assert set(view.marks) == set(there)
    assert {mark.lease for mark in view.marks.values()} == {me.lease}
    assert view.nodes[ME].revision == me.advertised
    desk.client.close()


@pytest.fixture
def full(etcd: EtcdServer, desk: Desk) -> Member:
    """A node that holds two addresses in an etcd that is full to its last byte."""
    me = Member(desk, (A, B))
    me.marks = me.claim(A, B).marks
    etcd.stop()
    etcd.add_options("--quota-backend-bytes=1")
    etcd.start()
    desk.ask(ReadCluster(), ClusterRead)
    return me


def test_a_full_etcd_takes_keepalives_and_reads_and_no_new_lease(full: Member) -> None:
    desk = full.desk
    assert "etcd is full" in desk.ask(GrantLease(10), LeaseFailed).reason
    assert desk.ask(KeepLease(full.lease), LeaseKept).lease == full.lease
    assert set(desk.ask(ReadCluster(), ClusterRead).view.marks) == {A, B}


def test_a_full_etcd_takes_what_is_in_a_nested_transaction(full: Member) -> None:
    desk, unhealthy = full.desk, replace(advertisement("HTTP 503"), is_healthy=False)
    desk.ask(GrantLease(10), LeaseFailed)
    action = AdvertiseNode(3, unhealthy, full.lease, full.advertised, full.marks[:1])
    full.advertised = desk.ask(action, NodeAdvertised).node.revision
    assert full.claim(A).marks[0].address == A
    released = desk.ask(ReleaseMarks(4, full.marks[1:], full.advertised), MarksReleased)
    assert released.addresses == {B}
    desk.ask(WithdrawNode(5, full.lease, full.advertised, ()), NodeWithdrawn)


class Counted(EtcdClient):
    """A client for which it is as if etcd counted every write, as it does a put."""

    is_full = False

    def transact(self, request: Any) -> Any:
        if self.is_full:
            self.put(b"/service/other", b"")
        return super().transact(request)


def test_what_is_refused_for_want_of_space_is_told_from_other_failures(
    etcd: EtcdServer, keys: Keys
) -> None:
    desk = Desk(etcd.url, keys, kind=Counted)
    assert isinstance(desk.client, Counted)
    me = Member(desk, (A, B))
    marks = me.claim(A, B).marks
    etcd.stop()
    etcd.add_options("--quota-backend-bytes=1")
    etcd.start()
    desk.ask(ReadCluster(), ClusterRead)
    desk.client.is_full = True
    for action in (
        AdvertiseNode(3, advertisement("HTTP 204"), me.lease, me.advertised, ()),
        ClaimMarks(4, (A,), me.lease, me.advertised),
        ReleaseMarks(5, marks, me.advertised),
        WithdrawNode(6, me.lease, me.advertised, marks),
    ):
        answer = desk.ask(action, WriteFailed)
        assert answer.request == action.request
        assert answer.is_full and "etcd is full (`etcdctl alarm list`)" in answer.reason
    desk.client.close()


def test_without_etcd_every_request_is_answered_with_its_failure(
    desk: Desk, etcd: EtcdServer
) -> None:
    etcd.stop()
    lease = LeaseId(1)
    assert "127.0.0.1" in desk.ask(ReadCluster(), ClusterReadFailed).reason
    assert desk.ask(KeepLease(lease), LeaseFailed).reason
    assert desk.ask(GrantLease(5), LeaseFailed).reason
    assert desk.ask(ClaimMarks(7, (A,), lease, Revision(1)), WriteFailed).request == 7
    assert desk.ask(ReleaseMarks(8, (), Revision(1)), MarksReleased).request == 8


def test_the_watch_goes_on_after_etcd_was_restarted(desk: Desk, etcd: EtcdServer) -> None:
    desk.wait_for(ClusterChanged)
    etcd.stop()
    etcd.start()
    etcd.ctl("put", "/service/yaim/ips/192.0.2.10", "")
    assert A in desk.view_where(lambda view: bool(view.pool)).pool


def test_a_watch_that_waits_goes_on_as_soon_as_etcd_answers_anything(
    desk: Desk, etcd: EtcdServer
) -> None:
    """Found by chaos: a node that was back took what was handed to it a second later."""
    desk.wait_for(ClusterChanged)
    etcd.stop()
    desk.ask(ReadCluster(), ClusterReadFailed)
    etcd.start()
    for _ in range(10):
        # The first ones may still fail.
        desk.store.submit(ReadCluster())
    desk.wait_for(ClusterRead)
    etcd.ctl("put", "/service/yaim/ips/192.0.2.10", "")
    assert A in desk.view_where(lambda view: bool(view.pool)).pool


class Deaf(EtcdClient):
    """Its first watch goes on and tells nothing."""

    watches = 0

    def watch(self, start: bytes, end: bytes, revision: int) -> Iterator[Any]:
        self.watches += 1
        is_deaf = self.watches == 1
        for answer in super().watch(start, end, revision):
            if not is_deaf:
                yield answer


class Hearing(Deaf):
    """Its watches tell everything."""

    watches = 1


def test_a_watch_that_has_fallen_silent_is_made_anew_when_reads_show_it(
    etcd: EtcdServer, keys: Keys
) -> None:
    desk = Desk(etcd.url, keys, kind=Deaf)
    wait_until(lambda: watches(desk) == 1, PATIENT_S, "the watch")
    etcd.ctl("put", "/service/yaim/ips/192.0.2.10", "")
    assert A in desk.ask(ReadCluster(), ClusterRead).view.pool
    time.sleep(WATCH_LATE_S + 0.1)
    desk.ask(ReadCluster(), ClusterRead)
    wait_until(lambda: watches(desk) == 2, PATIENT_S, "the watch to be made anew")
    etcd.ctl("put", "/service/yaim/ips/192.0.2.11", "")
    desk.view_where(lambda view: B in view.pool)
    assert watches(desk) == 2
    desk.client.close()


def test_a_watch_that_tells_what_is_read_stays(etcd: EtcdServer, keys: Keys) -> None:
    desk = Desk(etcd.url, keys, kind=Hearing)
    wait_until(lambda: watches(desk) == 2, PATIENT_S, "the watch")
    for _ in range(4):
        etcd.ctl("put", "/service/yaim/ips/192.0.2.10", "")
        desk.ask(ReadCluster(), ClusterRead)
        time.sleep(WATCH_LATE_S / 2)
    assert watches(desk) == 2
    desk.client.close()


def watches(desk: Desk) -> int:
    assert isinstance(desk.client, Deaf)
    return desk.client.watches


def test_a_compaction_does_not_hide_changes(desk: Desk, etcd: EtcdServer) -> None:
    desk.wait_for(ClusterChanged)
    for _ in range(10):
        etcd.ctl("put", "/elsewhere", "")
    etcd.ctl("compact", "5")
    etcd.ctl("put", "/service/yaim/ips/192.0.2.10", "")
    assert A in desk.view_where(lambda view: bool(view.pool)).pool


# --- what others put there -----------------------------------------------------------------------


def test_a_mark_without_a_lease_is_deleted_if_it_is_the_one_that_was_seen(
    desk: Desk, keys: Keys
) -> None:
    me = Member(desk, (A, B))
    marks = me.claim(A).marks
    desk.ask(ReleaseMarks(3, marks, me.advertised), MarksReleased)
    for address in (A, B):
        desk.client.put(keys.mark(address), b"nobody")
    seen = desk.view_where(lambda view: len(view.stray_marks) == 2).stray_marks
    assert not any(mark.is_over_another for mark in seen.values())
    desk.client.put(keys.mark(B), b"nobody")
    released = desk.ask(ReleaseMarks(4, tuple(seen.values()), me.advertised), MarksReleased)
    assert released.addresses == {A}
    assert me.claim(A, B).lost == {B}


def test_what_was_put_over_a_mark_its_holder_neither_has_nor_deletes(
    desk: Desk, keys: Keys
) -> None:
    me = Member(desk, (A, B))
    marks = me.claim(A, B).marks
    desk.client.put(keys.mark(A), b"nobody")
    desk.client.put(keys.mark(B), str(ME).encode(), me.lease)
    seen = desk.view_where(lambda view: len(view.stray_marks) == 2)
    assert not seen.marks
    assert all(mark.is_over_another for mark in seen.stray_marks.values())
    assert not desk.ask(ReleaseMarks(3, marks, me.advertised), MarksReleased).addresses
    assert me.claim(A, B).lost == {A, B}


def test_puts_to_a_key_that_is_not_yaims_are_no_views(desk: Desk, keys: Keys) -> None:
    """Red team: each was one, and was placed."""
    desk.wait_for(ClusterChanged)
    for _ in range(200):
        desk.client.put(keys.prefix.encode() + b"ipz/x", b"")
    desk.client.put(keys.pool_entry(A), b"")
    told = desk.wait_for(ClusterChanged)
    assert A in told.view.pool
    assert desk.views < 5


def test_many_changes_in_quick_succession_are_few_views_and_the_last_is_told(
    desk: Desk, keys: Keys
) -> None:
    desk.wait_for(ClusterChanged)
    pool = [ip_address("198.51.0.0") + number + 1 for number in range(1000)]
    began = time.monotonic()
    for start in range(0, len(pool), 100):
        for address in pool[start : start + 100]:
            desk.client.put(keys.pool_entry(address), b"")
    desk.view_where(lambda view: len(view.pool) == len(pool))
    most = VIEWS_AT_ONCE + (time.monotonic() - began) / VIEW_EVERY_S
    assert desk.views <= most + 2


def test_more_keys_than_are_read_are_told_in_plain_words(
    desk: Desk, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yaim.dcs.etcd.client.MAX_KEYS", 3)
    for number in range(4):
        desk.client.put(f"{keys.prefix}ips/x{number}".encode(), b"")
    for _ in range(2):  # the second time by their number only
        failed = desk.ask(ReadCluster(), ClusterReadFailed)
        said = (
            "reading /service/yaim/control/, /service/yaim/ips/ and /service/yaim/nodes/:"
            " there are more than 3 keys"
        )
        assert said in failed.reason
    desk.client.delete(f"{keys.prefix}ips/x1".encode())
    assert len(desk.ask(ReadCluster(), ClusterRead).view.wrong) == 3


def test_more_bytes_than_are_read_are_told_in_plain_words_and_cost_no_keepalive(
    desk: Desk, keys: Keys
) -> None:
    me = Member(desk)
    for number in range(17):
        desk.client.put(f"{keys.prefix}ips/x{number:02}".encode(), b"x" * 1_040_000)
    for _ in range(2):  # the second time in small pages
        failed = desk.ask(ReadCluster(), ClusterReadFailed)
        assert f"there are more than {MAX_BYTES} bytes: delete what is not yaim's" in failed.reason
        assert desk.ask(KeepLease(me.lease), LeaseKept).lease == me.lease
    desk.client.delete(f"{keys.prefix}ips/x01".encode())
    for _ in range(2):
        view = desk.ask(ReadCluster(), ClusterRead).view
        assert (len(view.wrong), len(view.nodes)) == (16, 1)


def test_what_is_not_yaims_below_the_prefix_is_not_read(desk: Desk, keys: Keys) -> None:
    """Red team: 17 keys of 1 MiB, and no node could read its own any more."""
    Member(desk)
    for number in range(17):
        desk.client.put(f"{keys.prefix}ipz/x{number}".encode(), b"x" * 1_040_000)
    assert desk.ask(ReadCluster(), ClusterRead).view.nodes.keys() == {ME}
