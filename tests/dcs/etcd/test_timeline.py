"""What nodes write into the history, in a real etcd."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest

from tests.dcs.etcd.conftest import PATIENT_S, EtcdServer
from tests.dcs.etcd.test_store import Desk, Member
from yaim.core.actions import KeepLease, Kind, Note, ReadCluster, RevokeLease
from yaim.core.events import ClusterRead, LeaseKept, LeaseRevoked
from yaim.core.model import LeaseId, NodeName, frozen_mapping
from yaim.dcs.etcd.access import EtcdAccess, EtcdUnreachable
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.keys import Keys
from yaim.dcs.etcd.operate import EtcdOperations
from yaim.dcs.etcd.timeline import LEASE_S, MOST_WAITING, Timeline, tidy
from yaim.dcs.operate import HistoryEvent

A, B = ip_address("192.0.2.10"), ip_address("192.0.2.11")
N1, N2 = NodeName("n1"), NodeName("n2")
LOST = Note(Kind.LOST, N2, reason="its lease has ended", life=LeaseId(0xABC))


@pytest.fixture
def make(etcd: EtcdServer, keys: Keys) -> Iterator[Callable[[], Timeline]]:
    clients: list[EtcdClient] = []

    def one() -> Timeline:
        clients.append(EtcdClient(EtcdAccess((etcd.url,)), PATIENT_S))
        return Timeline(clients[-1], keys)

    yield one
    for each in clients:
        each.close()


@pytest.fixture
def timeline(make: Callable[[], Timeline]) -> Timeline:
    return make()


@pytest.fixture
def history(client: EtcdClient, keys: Keys) -> Callable[[], list[HistoryEvent]]:
    return lambda: EtcdOperations(lambda: client, keys).history(None, None, 10_000)


History = Callable[[], list[HistoryEvent]]


def test_what_a_node_notes_is_in_the_history(timeline: Timeline, history: History) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    timeline.note(Note(Kind.JOINED, N1))
    by_node = frozen_mapping({B: N2})
    timeline.note(Note(Kind.HELD, N1, (B, A), by_node, "handed over by n2"))
    timeline.finish(PATIENT_S)
    joined, held = history()
    assert held == HistoryEvent(
        held.at, "held", (N1,), (A, B), by_node, "handed over by n2", "", held.revision
    )
    assert (joined.kind, joined.nodes, joined.addresses) == ("joined", (N1,), ())
    assert before <= joined.at <= held.at and joined.revision < held.revision


def test_of_a_lost_node_all_tell_and_one_line_stays(
    make: Callable[[], Timeline], history: History
) -> None:
    several = [make() for _ in range(3)]
    for each in several:
        each.note(LOST)
    for each in several:
        each.finish(PATIENT_S)
    (event,) = history()
    assert (event.kind, event.nodes, event.reason) == ("lost", (N2,), "its lease has ended")
    several[0].note(Note(Kind.LOST, N2, life=LeaseId(0xDEF)))
    several[0].finish(PATIENT_S)
    assert len(history()) == 2


def test_events_stand_under_a_lease_that_lasts_longer_than_they_are_to(
    timeline: Timeline, etcd: EtcdServer, client: EtcdClient, keys: Keys
) -> None:
    for _ in range(2):
        timeline.note(Note(Kind.JOINED, N1))
    timeline.note(LOST)
    timeline.finish(PATIENT_S)
    pairs, _ = client.read_all(*keys.timeline())
    (lease,) = {pair.lease for pair in pairs.values()}
    assert f"granted with TTL({LEASE_S}s)" in etcd.ctl("lease", "timetolive", f"{lease:x}")
    assert len(etcd.ctl("lease", "list").splitlines()) == 2


def test_a_lease_of_the_history_that_was_revoked_is_taken_anew(
    timeline: Timeline, history: History, client: EtcdClient, keys: Keys
) -> None:
    timeline.note(Note(Kind.JOINED, N1))
    timeline.finish(PATIENT_S)
    (pair,) = client.read_all(*keys.timeline())[0].values()
    client.revoke(pair.lease)
    timeline.note(Note(Kind.STOPPED, N1))
    timeline.finish(PATIENT_S)
    assert [event.kind for event in history()] == ["stopped"]


def test_an_event_of_many_addresses_is_told_in_several(
    timeline: Timeline, history: History
) -> None:
    addresses = tuple(ip_address(f"198.51.{n // 256}.{n % 256}") for n in range(500))
    timeline.note(Note(Kind.HELD, N1, addresses))
    timeline.finish(PATIENT_S)
    assert tuple(each for event in history() for each in event.addresses) == addresses


def test_beyond_the_bound_the_oldest_are_deleted(
    timeline: Timeline, history: History, client: EtcdClient, keys: Keys
) -> None:
    for number in range(6):
        timeline.note(Note(Kind.HEALTHY, N1, reason=f"{number}"))
    timeline.finish(PATIENT_S)
    tidy(client, keys, most=6)
    assert len(history()) == 6
    tidy(client, keys, most=2)
    assert [event.reason for event in history()] == ["4", "5"]


class Stuck(EtcdClient):
    """Its transactions wait until they may go."""

    def __init__(self, access: EtcdAccess, timeout_s: float) -> None:
        super().__init__(access, timeout_s)
        self.may_go, self.is_there = threading.Event(), threading.Event()

    def transact(self, request: Any) -> Any:
        self.is_there.set()
        assert self.may_go.wait(PATIENT_S)
        return super().transact(request)


def test_of_more_than_can_wait_the_oldest_are_dropped(
    etcd: EtcdServer, keys: Keys, history: History
) -> None:
    client = Stuck(EtcdAccess((etcd.url,)), PATIENT_S)
    timeline = Timeline(client, keys)
    timeline.note(Note(Kind.HEALTHY, N1, reason="first"))
    assert client.is_there.wait(PATIENT_S)
    for number in range(MOST_WAITING + 10):
        timeline.note(Note(Kind.HEALTHY, N1, reason=f"{number}"))
    client.may_go.set()
    timeline.finish(PATIENT_S)
    told = [event.reason for event in history()]
    assert told == ["first", *(f"{number}" for number in range(10, MOST_WAITING + 10))]
    client.close()


class Lossy(EtcdClient):
    """The answer to its first transaction is lost."""

    is_lost = False

    def transact(self, request: Any) -> Any:
        answer = super().transact(request)
        if not self.is_lost:
            self.is_lost = True
            raise EtcdUnreachable({"http://127.0.0.1:2379": "no answer in time"})
        return answer


def test_an_event_whose_answer_was_lost_is_written_once(
    etcd: EtcdServer, keys: Keys, history: History
) -> None:
    client = Lossy(EtcdAccess((etcd.url,)), PATIENT_S)
    timeline = Timeline(client, keys, again_s=0.01)
    timeline.note(Note(Kind.HEALTHY, N1))
    timeline.note(Note(Kind.UNHEALTHY, N1))
    timeline.finish(PATIENT_S)
    assert [event.kind for event in history()] == ["healthy", "unhealthy"]
    client.close()


def test_what_etcd_refuses_is_dropped_and_told_once(
    etcd: EtcdServer, make: Callable[[], Timeline], caplog: pytest.LogCaptureFixture
) -> None:
    etcd.stop()
    etcd.add_options("--quota-backend-bytes=1")
    etcd.start()
    timeline = make()
    for _ in range(3):
        timeline.note(Note(Kind.HEALTHY, N1))
    timeline.finish(PATIENT_S)
    told = [each.getMessage() for each in caplog.records if each.name.endswith("timeline")]
    assert len([each for each in told if "the history in etcd is not written: " in each]) == 1
    assert "etcd is full" in told[0]


# --- within a store ------------------------------------------------------------------------------


def test_a_store_writes_what_is_noted_and_its_lease_is_known_as_before(
    etcd: EtcdServer, keys: Keys, history: History
) -> None:
    """A lease of a week that is taken beside must not lengthen what is believed of ours."""
    desk = Desk(etcd.url, keys)
    me = Member(desk)
    desk.store.submit(Note(Kind.JOINED, N1))
    desk.store._timeline.finish(PATIENT_S)
    granted = desk.client._granted
    assert granted is not None and granted.id == me.lease
    assert desk.ask(KeepLease(me.lease), LeaseKept).ttl_s == 60
    assert [event.kind for event in history()] == ["joined"]
    desk.client.close()


def test_what_a_node_notes_last_is_written_before_it_ends(
    etcd: EtcdServer, keys: Keys, history: History
) -> None:
    desk = Desk(etcd.url, keys)
    me = Member(desk)
    desk.store.submit(Note(Kind.STOPPED, N1, reason="asked to stop"))
    desk.ask(RevokeLease(me.lease), LeaseRevoked)
    assert [event.kind for event in history()] == ["stopped"]
    desk.client.close()


def test_events_of_the_history_are_no_views(etcd: EtcdServer, keys: Keys) -> None:
    desk = Desk(etcd.url, keys)
    Member(desk)
    desk.ask(ReadCluster(), ClusterRead)
    before = desk.views
    for _ in range(50):
        desk.store.submit(Note(Kind.HEALTHY, N1))
    desk.store._timeline.finish(PATIENT_S)
    desk.ask(ReadCluster(), ClusterRead)
    assert desk.views <= before + 3
    desk.client.close()
