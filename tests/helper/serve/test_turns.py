"""A server without a process of its own, turn by turn: what the kernel seldom does to it."""

import errno
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import ITIMER_REAL
from types import SimpleNamespace
from typing import NoReturn

import pytest
from yaim_helper import clock
from yaim_helper.held.batch import Batch
from yaim_helper.held.fencing import Fencing
from yaim_helper.held.holdings import Holdings
from yaim_helper.held.leftovers import LeftOvers
from yaim_helper.held.reset import NO_RESETTING, RESET_WITHIN_S, Resetting
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.owners import Peer
from yaim_helper.policy.read import read_policy
from yaim_helper.protocol import read_request
from yaim_helper.record.log import AuditLog
from yaim_helper.record.past import Past
from yaim_helper.record.recorder import Recorder
from yaim_helper.record.stamps import boot_id, session
from yaim_helper.serve.asked import DISK_HANGS, Asked
from yaim_helper.serve.connections import MAX_UNDER_WAY, Connection
from yaim_helper.serve.disposal import Disposal
from yaim_helper.serve.floods import TokenBucket
from yaim_helper.serve.reports import SUMMARY_EVERY_S
from yaim_helper.serve.server import Server
from yaim_helper.serve.sources import Sources

from tests.helper.holdings import Slow
from tests.helper.network import boottime, is_readable
from tests.helper.process import (
    Client,
    Message,
    add,
    deadline_in,
    essence,
    policy,
    read_records,
)
from yaim.lab.namespaces import Namespace


@dataclass(frozen=True, slots=True)
class Served:
    server: Server
    recorder: Recorder
    path: Path
    audit_log: Path

    @contextmanager
    def client(self) -> Iterator[Client]:
        with Client(self.path) as client:
            self.server.turn(0)
            assert self.ask(client, "hello", version=1, cluster="test", node="n1")["result"] == "ok"
            # That a segment has begun is news, but none of what is asked from now on.
            assert self.recorder.drain(20.0)
            self.server.turn(0)
            yield client

    def ask(self, client: Client, op: str, **fields: object) -> Message:
        number = client.send(op, **fields)
        while not is_answered(client):
            self.server.turn(0.01)
        return client.receive(number)

    def records(self) -> list[Message]:
        assert self.recorder.drain(20.0)
        return read_records(self.audit_log)


def is_answered(client: Client) -> bool:
    return is_readable(client.socket)


@pytest.fixture
def served(network: Namespace, tmp_path: Path) -> Iterator[Served]:
    with serving(network, tmp_path) as served:
        yield served


@contextmanager
def serving(
    network: Namespace, tmp_path: Path, resetting: Resetting = NO_RESETTING
) -> Iterator[Served]:
    """The test is in the network namespace, too."""
    file = tmp_path / "helper.yml"
    file.write_text(policy(tmp_path / "audit"))
    read = read_policy(file)
    path = tmp_path / "helper.sock"
    with network.entered(), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        recorder = Recorder(AuditLog(read.audit_log, read.sha256), read.sha256)
        server = Server(listener, read, recorder, Disposal(), resetting=resetting)
        yield Served(server, recorder, path, read.audit_log)
        recorder.close()


def fail(*_: object) -> NoReturn:
    raise KernelError(errno.ENOBUFS, "No buffer space available")


def test_a_list_that_the_kernel_does_not_give_has_failed_on_record(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served.client() as client:
        monkeypatch.setattr(Kernel, "addresses", fail)
        reply = served.ask(client, "list", after="")
    failed = {"errno": errno.ENOBUFS, "reason": "No buffer space available"}
    assert reply == {"result": "failed", **failed}
    (*_, told) = essence(served.records())
    del told["id"]
    assert told == {
        **{"type": "result", "cluster": "test", "op": "list", "outcome": "failed"},
        **failed,
    }


@pytest.mark.parametrize("op", ["renew", "list", "clear"])
def test_one_that_may_be_about_all_addresses_is_done_in_a_turn(served: Served, op: str) -> None:
    """The others' turn comes between."""
    fields: dict[str, dict[str, object]] = {
        "renew": {"deadline_ns": deadline_in(60)},
        "list": {"after": ""},
        "clear": {"address": "192.0.2.10"},
    }
    with served.client() as client, Client(served.path) as other:
        hello = other.send("hello", version=1, cluster="other", node="n1")
        while not is_answered(other):
            served.server.turn(0.01)
        assert other.receive(hello)["result"] == "ok"
        asked = other.send("list", after="")
        numbers = [client.send(op, **fields[op]) for _ in range(3)]
        for number in numbers:
            served.server.turn(0)
            assert client.receive(number)["result"] == ("failed" if op == "clear" else "ok")
            assert not is_answered(client)
            assert is_answered(other)
        assert other.receive(asked)["result"] == "ok"


TRIES = 5
"""On a slow machine the first address is announced again meanwhile, which sets an alarm."""


def test_what_has_nothing_to_put_or_announce_sets_no_alarm(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a flood of such requests a helper that got no processor for 0.1 s ended itself, and all
    coordinators were hung up on."""
    alarms: list[float] = []
    timers = SimpleNamespace(ITIMER_REAL=ITIMER_REAL, setitimer=lambda _, s: alarms.append(s))
    monkeypatch.setattr("yaim_helper.kernel.alarm.signal", timers)
    with served.client() as client:
        assert served.ask(client, "add", **add("192.0.2.10"))["result"] == "ok"
        assert alarms
        for _ in range(TRIES):
            alarms.clear()
            for _ in range(5):
                assert served.ask(client, "remove", address="192.0.2.11")["result"] == "ok"
                assert served.ask(client, "add", **add("198.51.100.1"))["result"] == "refused"
                assert served.ask(client, "list", after="")["result"] == "ok"
            if not alarms:
                return
    pytest.fail(f"each time alarms were set: {alarms}")


def test_what_passes_its_deadline_meanwhile_is_not_announced(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at deadlines and the announcement."""
    with served.client() as client:
        assert served.ask(client, "add", **add("192.0.2.10"))["result"] == "ok"
        announced: list[object] = []
        monkeypatch.setattr(
            "yaim_helper.neighbours.announce.Announcer._announce",
            lambda *given: announced.append(given),
        )
        monkeypatch.setattr(Holdings, "end_over", lambda *_: None)
        later = boottime() + 3600.0
        monkeypatch.setattr("yaim_helper.held.holdings.boottime", lambda: later)
        served.server.turn(0)
    assert announced == []


def test_who_has_spent_too_much_is_not_read(served: Served) -> None:
    (bucket,) = served.server._buckets.values()
    with served.client() as client:
        began = boottime()
        bucket.spend(0, 1.0)
        number = client.send("list", after="")
        served.server.turn(0)
        assert not is_answered(client)
        while not is_answered(client):
            served.server.turn(0.01)
        assert client.receive(number)["result"] == "ok"
        # It may have spent twice what it had, and gets that back in so many seconds.
        assert boottime() - began > 0.9


def test_a_connection_that_ends_when_it_is_resumed_is_not_read_any_more(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it was ready in the same turn."""
    with served.client() as client:
        client.send("add", **add("192.0.2.10"))
        served.server.turn(0)
    assert served.recorder.drain(20.0)
    (connection,) = served.server._connections
    ready = [(served.recorder, served.recorder), (connection.socket, connection)]
    monkeypatch.setattr(Sources, "ready", lambda *_: ready)
    served.server.turn(0)
    assert served.server._connections == set()
    (*_, result) = essence(served.records())
    assert (result["op"], result["outcome"]) == ("add", "ok")


def test_who_does_not_take_the_first_of_several_replies_is_hung_up_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with served.client() as client:
        for number in (10, 11):
            client.send("add", **add(f"192.0.2.{number}"))
        monkeypatch.setattr("yaim_helper.serve.connections.write_reply", fail)
        served.server.turn(0)
        assert served.recorder.drain(20.0)
        served.server.turn(0)
        assert served.server._connections == set()
    (*_, told) = essence(served.records())
    assert told["reason"] == "does not take its replies: Resource temporarily unavailable"


def test_who_has_gone_before_its_reply_is_not_told_of(served: Served) -> None:
    """That it has is not read yet then."""
    with served.client() as client:
        client.send("list", after="")
    served.server.turn(0)
    assert served.server._connections == set()
    assert [each for each in served.records() if each["type"] == "hung-up"] == []


def test_who_has_too_much_under_way_is_not_read(served: Served) -> None:
    with served.client() as client:
        (connection,) = served.server._connections
        waiting = Asked(read_request(b'{"op": "list", "id": 0, "after": ""}'), boottime())
        connection.asked.extend([waiting] * MAX_UNDER_WAY)
        client.send("list", after="")
        served.server._serve(connection)
        assert connection.last_id == 1
        connection.asked.clear()


def is_told_by_last_segment(served: Served, address: str) -> bool:
    """Whether the last segment tells of it to the next life, which believes it to tell all."""
    past = Past(boot_id(), session())
    past.read(max(served.audit_log.glob("audit-*")).read_bytes())
    return past.is_whole and address in past.places


def test_no_segment_begins_between_the_intent_of_an_add_and_its_result(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held then is not all that may be there when the helper is killed."""
    monkeypatch.setattr("yaim_helper.record.recorder.DESCRIBE_EVERY_S", 0.0)
    with served.client() as client:
        assert served.ask(client, "remove", address="192.0.2.10")["result"] == "ok"
        served.records()
        served.recorder._log._segment_bytes = served.recorder._log._size
        asked = client.send("add", **add("192.0.2.10"))
        with monkeypatch.context() as patch:
            # However quick the disk is.
            patch.setattr(Asked, "waits", lambda *_: True)
            served.server.turn(0)
        served.recorder._log._segment_bytes = 1
        for _ in range(2):
            served.recorder.note([{"type": "note"}])
            served.records()
        assert (served.recorder.number, is_told_by_last_segment(served, "192.0.2.10")) == (2, True)
        while not is_answered(client):
            served.server.turn(0.01)
        assert client.receive(asked)["result"] == "ok"
        served.recorder.note([{"type": "note"}])
        served.records()
        assert served.recorder.number > 2
        assert is_told_by_last_segment(served, "192.0.2.10")


def test_adds_wait_while_the_record_has_to_tell_what_is_held(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one always under way it never could, and whose an address is would be forgotten: no more
    than two segments are read at a start."""
    with served.client() as client:
        assert served.ask(client, "add", **add("192.0.2.10"))["result"] == "ok"
        under_way = client.send("add", **add("192.0.2.11"))
        with monkeypatch.context() as patch:
            patch.setattr(Asked, "waits", lambda *_: True)
            served.server.turn(0)
            before = served.records()
            served.recorder._log._segment_bytes = served.recorder._log._size * 4 // 5
            waits = client.send("add", **add("192.0.2.12"))
            served.server.turn(0)
            assert served.records() == before
        for each in (under_way, waits):
            while not is_answered(client):
                served.server.turn(0.01)
            assert client.receive(each)["result"] == "ok"
    assert is_told_by_last_segment(served, "192.0.2.11")
    after = served.records()[len(before) :]
    assert [
        (each["type"], each.get("address"))
        for each in after
        if each["type"] in ("intent", "result", "held")
    ] == [
        ("held", None),
        ("result", "192.0.2.11"),
        ("intent", "192.0.2.12"),
        ("result", "192.0.2.12"),
    ]


def test_an_add_does_not_wait_for_ever_for_a_segment(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yaim_helper.serve.asked.GIVE_UP_AFTER_S", 0.1)
    with served.client() as client:
        served.recorder._log._segment_bytes = 1  # always too long
        before = served.records()
        reply = served.ask(client, "add", **add("192.0.2.10"))
        assert (reply["result"], reply["reason"]) == ("failed", DISK_HANGS.reason)
    told = [each for each in served.records()[len(before) :] if each["type"] == "intent"]
    assert told == []


def test_a_connection_whose_rest_cannot_be_looked_at_is_not_taken_for_read() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection = Connection(ours, Peer(1, 0, 0), boottime())
    theirs.close()
    ours.close()
    assert not connection.shut_down()


def test_no_segment_begins_while_the_kernel_does_not_tell_what_is_there(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would seem to tell of all that an earlier life has left."""
    served.recorder.note([{"type": "note"}])
    served.records()
    served.recorder._log._segment_bytes = 1
    with monkeypatch.context() as patch:
        patch.setattr(Kernel, "addresses", fail)
        served.recorder.note([{"type": "note"}])
        served.records()
        assert served.recorder.number == 1
    served.recorder.note([{"type": "note"}])
    served.records()
    assert served.recorder.number == 2


def test_a_helper_does_not_start_if_it_cannot_tell_what_is_there(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LeftOvers, "_take_stock", lambda _: None)
    monkeypatch.setattr(Kernel, "addresses", fail)
    with pytest.raises(KernelError):
        Server(served.server._listener, served.server._holdings.policy, served.recorder, Disposal())


def test_renewals_are_summed_up_when_a_minute_is_over(served: Served) -> None:
    with served.client() as client:
        ask = served.ask(client, "add", **add("192.0.2.10"))
        assert ask["result"] == "ok"
        for _ in range(3):
            reply = served.ask(client, "renew", deadline_ns=deadline_in(60))
            assert reply["result"] == "ok"
        served.server._reports.summed_up_at -= SUMMARY_EVERY_S
        served.server.turn(0)
        served.server.turn(0)
    summed_up = [each for each in served.records() if each["type"] == "renewals"]
    assert [each["count"] for told in summed_up for each in told["owners"]] == [3]


def test_what_tells_that_the_clock_was_set_is_taken(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer's end stands in for the setting: there is one such clock for all of the machine."""
    timer = served.server._clock_set
    clock._set(timer.fileno(), 1, 0)
    assert is_readable(timer, 20.0)
    served.server.turn(0)
    assert not is_readable(timer)


@pytest.mark.parametrize("fence", ["auto", "off"])
def test_who_runs_it_is_told_why_there_is_no_fence(
    served: Served, capsys: pytest.CaptureFixture[str], fence: str
) -> None:
    """Unless it is not wanted. On record it is in any case."""
    file = served.audit_log.parent / "helper.yml"
    file.write_text(policy(served.audit_log, fence=fence))
    why = Fencing("the kernel has no nf_tables")
    server = Server(served.server._listener, read_policy(file), served.recorder, Disposal(), why)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [(each, signal.getsignal(each)) for each in numbers]
    server._is_stopping = True
    try:
        server.run()
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before:
            signal.signal(number, handler)
    told = "yaim-helper: without a fence: the kernel has no nf_tables (run: yaim doctor)\n"
    assert capsys.readouterr().err == (told if fence == "auto" else "")
    (start,) = [each for each in served.records() if each["type"] == "start"]
    assert start["fence"] == {"in_force": False, "reason": "the kernel has no nf_tables"}


# --- resets --------------------------------------------------------------------------------------


def test_the_time_that_resets_take_is_the_users(
    network: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread needs it, and is in nobody's processor time."""
    spend_more = TokenBucket.spend_more
    spent: list[float] = []

    def spending(bucket: TokenBucket, took_s: float, count: int) -> None:
        spent.append(took_s)
        spend_more(bucket, took_s, count)

    monkeypatch.setattr(TokenBucket, "spend_more", spending)
    with serving(network, tmp_path, Resetting(Slow(), "")) as served, served.client() as client:
        assert served.ask(client, "add", **add("192.0.2.10"))["result"] == "ok"
        spent.clear()
        reset = {"address": "192.0.2.10", "connections": "reset"}
        reply = served.ask(client, "remove", **reset)
        assert reply == {"result": "ok", "was": "present", "reset": 0, "left": 1}
        assert sum(spent) > RESET_WITHIN_S / 2
        spent.clear()
        assert served.ask(client, "clear", address="192.0.2.10")["left"] == 1
        assert sum(spent) > RESET_WITHIN_S / 2


def test_nothing_is_reset_before_hello(network: Namespace, tmp_path: Path) -> None:
    with (
        serving(network, tmp_path, Resetting(Slow(), "")) as served,
        served.client() as first,
        Client(served.path) as second,
    ):
        assert served.ask(first, "add", **add("192.0.2.10"))["result"] == "ok"
        served.server.turn(0)
        asked = second.send("hello", version=1, cluster="test", node="n2")
        removal = second.send("remove", address="192.0.2.10", connections="reset")
        while not is_answered(second):
            served.server.turn(0.01)
        assert second.receive(asked)["code"] == "busy"
        assert second.receive(removal)["code"] == "not-allowed"
        assert served.ask(first, "renew", deadline_ns=deadline_in(30))["missing"] == []


def test_what_is_to_be_reset_goes_though_adds_before_it_cannot_be_done(
    network: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(network, tmp_path, Resetting(Slow(), "")) as served, served.client() as client:
        assert served.ask(client, "add", **add("192.0.2.10"))["result"] == "ok"
        put_waiting = Batch._put_waiting
        failures = [KernelError(errno.ENOBUFS, "No buffer space available")]

        def fails_once(batch: Batch) -> None:
            if failures:
                raise failures.pop()
            put_waiting(batch)

        monkeypatch.setattr(Batch, "_put_waiting", fails_once)
        reply = served.ask(client, "remove", address="192.0.2.10", connections="reset")
        assert reply == {"result": "ok", "was": "present"}
