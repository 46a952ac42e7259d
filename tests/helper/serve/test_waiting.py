"""A server with a fence, turn by turn, while the kernel keeps those waiting who ask it for
addresses: as it does when its routing lock (RTNL) is held."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from yaim_helper.held.batch import Batch
from yaim_helper.held.fencing import begin
from yaim_helper.jobs import RoutingThread
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.kernel.links import Links
from yaim_helper.neighbours.conflicts import Sighting
from yaim_helper.policy.read import read_policy
from yaim_helper.protocol import Address, Remove
from yaim_helper.record.log import AuditLog
from yaim_helper.record.recorder import Recorder
from yaim_helper.serve.asked import (
    GIVE_UP_AFTER_S,
    GIVE_UP_AT_LATEST_S,
    HUNG_UP,
    KERNEL_WAITS,
    Asked,
)
from yaim_helper.serve.disposal import Disposal
from yaim_helper.serve.floods import TokenBucket
from yaim_helper.serve.server import LINKS_EVERY_S, Server

from tests.helper.holdings import fail
from tests.helper.network import INTERFACE, boottime, is_readable, present, wait_for
from tests.helper.process import (
    OK_ABSENT,
    OK_PRESENT,
    Client,
    Message,
    add,
    deadline_in,
    policy,
    read_records,
)
from yaim.lab.namespaces import Namespace

V4, OTHER, THIRD = "192.0.2.10", "192.0.2.11", "192.0.2.12"
WAITS = {"result": "failed", "errno": None, "reason": KERNEL_WAITS.reason}


@dataclass(frozen=True)
class Fenced:
    server: Server
    recorder: Recorder
    path: Path
    audit_log: Path
    routing: RoutingThread
    answers: threading.Event
    """Otherwise the kernel keeps who asks it waiting."""
    asked: threading.Event
    """It was asked since this was cleared."""

    @contextmanager
    def client(self, cluster: str = "test") -> Iterator[Client]:
        with Client(self.path) as client:
            number = client.send("hello", version=1, cluster=cluster, node="n1")
            assert self.reply(client, number)["result"] == "ok"
            yield client

    def until(self, condition: Callable[[], object], what: str) -> None:
        def is_so() -> object:
            self.server.turn(0.01)
            return condition()

        wait_for(is_so, what)

    def reply(self, client: Client, number: int) -> Message:
        self.until(lambda: is_answered(client), "a reply")
        return client.receive(number)

    def ask(self, client: Client, op: str, **fields: object) -> Message:
        return self.reply(client, client.send(op, **fields))

    def add(self, client: Client, address: str) -> Message:
        return self.ask(client, "add", **add(address))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Meanwhile the kernel keeps who asks it waiting."""
        self.answers.clear()
        try:
            yield
        finally:
            self.answers.set()
            self.until(lambda: self.routing.may_ask_kernel, "all jobs are done")

    @contextmanager
    def waiting_too_long(self) -> Iterator[None]:
        """The same, and what waits is given up in the time in which it always is."""
        with pytest.MonkeyPatch.context() as patch:
            give_up(patch, GIVE_UP_AFTER_S, GIVE_UP_AT_LATEST_S)
            with self.waiting():
                yield

    def begin(self, client: Client, op: str, **fields: object) -> int:
        """It is under way now, and the kernel is asked for it."""
        self.asked.clear()
        number = client.send(op, **fields)
        self.until(self.asked.is_set, "the kernel is asked")
        return number

    def results(self) -> list[tuple[str, str, object]]:
        """What is on record of adds and removals: which, what came of it, and whether fenced."""
        assert self.recorder.drain(20.0)
        return [
            (each["op"], each["address"], each.get("code", each["outcome"]))
            for each in read_records(self.audit_log)
            if each["type"] == "result" and each["op"] in ("add", "remove")
        ]


def give_up(patch: pytest.MonkeyPatch, after_s: float, at_latest_s: float) -> None:
    patch.setattr("yaim_helper.serve.asked.GIVE_UP_AFTER_S", after_s)
    patch.setattr("yaim_helper.serve.asked.GIVE_UP_AT_LATEST_S", at_latest_s)


def is_answered(client: Client) -> bool:
    return is_readable(client.socket)


@pytest.fixture
def fenced(network: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fenced]:
    """The test is in the network namespace, too, and is the loop. Neither the host's disk nor a
    routing lock that others hold decides: nothing is given up but where a test wants it."""
    monkeypatch.setattr(os, "fdatasync", lambda _file: None)
    give_up(monkeypatch, 20.0, 30.0)
    file = tmp_path / "helper.yml"
    file.write_text(policy(tmp_path / "audit", fence="auto"))
    read = read_policy(file)
    path = tmp_path / "helper.sock"
    with network.entered(), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        recorder = Recorder(AuditLog(read.audit_log, read.sha256), read.sha256)
        fencing = begin(is_wanted=True)
        routing = RoutingThread()
        server = Server(listener, read, recorder, Disposal(), fencing, routing)
        answers, asked = threading.Event(), threading.Event()
        answers.set()

        @contextmanager
        def asking() -> Iterator[None]:
            with routing.asking():
                asked.set()
                assert answers.wait(60.0)
                yield

        server._holdings._kernel._asking = asking
        yield Fenced(server, recorder, path, read.audit_log, routing, answers, asked)
        answers.set()
        routing.close()
        recorder.close()


# --- given up, and done all the same -------------------------------------------------------------


def test_what_the_kernel_keeps_waiting_has_failed_after_a_second_and_is_done_and_on_record(
    network: Namespace, fenced: Fenced
) -> None:
    with fenced.client() as client:
        assert fenced.add(client, OTHER) == OK_ABSENT
        with fenced.waiting_too_long():
            began = boottime()
            number = fenced.begin(client, "add", **add(V4))
            behind = client.send("remove", address=OTHER)
            assert fenced.reply(client, number) == WAITS
            assert GIVE_UP_AFTER_S <= boottime() - began < GIVE_UP_AFTER_S + 1.0
            assert fenced.results() == [("add", OTHER, "ok")]
            assert fenced.reply(client, behind) == WAITS
            assert fenced.results() == [("add", OTHER, "ok")]
        assert fenced.results() == [
            ("add", OTHER, "ok"),
            ("add", V4, "ok"),
            ("remove", OTHER, "ok"),
        ]
        assert present(network) == [f"{INTERFACE} {V4}/32"]
        assert fenced.add(client, V4) == OK_PRESENT
        assert not is_answered(client), "each has one reply"


def test_what_comes_behind_what_waits_is_not_given_up_later_for_that(fenced: Fenced) -> None:
    """Each waited a second for the kernel, one after the other: the third one had no reply within
    the 2 s that a coordinator waits, and the helper counted as lost."""
    with fenced.client() as client:
        with fenced.waiting_too_long():
            asked = [fenced.begin(client, "add", **add(V4))]
            began = boottime()
            for address in (OTHER, THIRD):
                asked.append(client.send("remove", address=address))
                for _ in range(3):
                    fenced.server.turn(0.01)
            renewal = client.send("renew", deadline_ns=deadline_in(600))
            assert [fenced.reply(client, each) for each in asked] == [WAITS] * 3
            assert fenced.reply(client, renewal)["result"] == "ok"
            assert boottime() - began < GIVE_UP_AT_LATEST_S + 0.3
        assert fenced.results() == [
            ("add", V4, "ok"),
            ("remove", OTHER, "ok"),
            ("remove", THIRD, "ok"),
        ]


def test_a_renewal_passes_what_waits_and_its_reply_comes_behind(fenced: Fenced) -> None:
    with fenced.client() as client:
        assert fenced.add(client, V4) == OK_ABSENT
        (it,) = fenced.server._holdings.inventory
        with fenced.waiting():
            number = fenced.begin(client, "remove", address=OTHER)
            far = deadline_in(600)
            renewal = client.send("renew", deadline_ns=far)
            fenced.until(lambda: it.deadline == far / 1e9, "it is renewed")
            assert not is_answered(client)
        assert fenced.reply(client, number) == OK_ABSENT
        assert fenced.reply(client, renewal)["result"] == "ok"


def test_who_asks_another_is_answered_meanwhile(fenced: Fenced) -> None:
    with fenced.client() as client, fenced.client("other") as other:
        with fenced.waiting():
            number = fenced.begin(client, "add", **add(V4))
            reply = fenced.ask(other, "list", after="")
            assert reply == {"result": "ok", "addresses": [], "more": False}
            assert fenced.ask(other, "renew", deadline_ns=deadline_in(9))["result"] == "ok"
            refused = fenced.add(other, "198.51.100.1")
            assert refused["result"] == "refused", "that it may not is known at once"
        assert fenced.reply(client, number) == OK_ABSENT


def test_a_list_behind_what_waits_tells_of_it(fenced: Fenced) -> None:
    with fenced.client() as client:
        with fenced.waiting():
            number = fenced.begin(client, "add", **add(V4))
            listed = client.send("list", after="")
            for _ in range(5):
                fenced.server.turn(0.01)
            assert not is_answered(client)
        assert fenced.reply(client, number) == OK_ABSENT
        addresses = fenced.reply(client, listed)["addresses"]
        assert [each["address"] for each in addresses] == [V4]


def test_a_list_that_came_together_with_an_add_tells_of_it(fenced: Fenced) -> None:
    with fenced.client() as client:
        asked = [client.send("add", **add(V4)), client.send("list", after="")]
        assert fenced.reply(client, asked[0]) == OK_ABSENT
        addresses = fenced.reply(client, asked[1])["addresses"]
        assert [each["address"] for each in addresses] == [V4]


def test_what_is_to_be_removed_is_mute_while_its_removal_waits(fenced: Fenced) -> None:
    fences = fenced.server._holdings.fencing.fences
    assert fences is not None
    with fenced.client() as client:
        assert fenced.add(client, V4) == OK_ABSENT
        assert fenced.add(client, OTHER) == OK_ABSENT
        with fenced.waiting():
            number = fenced.begin(client, "remove", address=V4)
            client.send("renew", deadline_ns=deadline_in(600))
            (table,) = fences._fenced.values()
            fenced.until(lambda: [str(each) for each in table.muted] == [V4], "it is mute")
        assert fenced.reply(client, number) == OK_PRESENT
        assert fences._leaving == {}


def test_what_is_to_be_removed_is_not_defended_after_its_deadline_while_that_waits(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its coordinator counts it as gone then, and lets others have it: they are not told that it is
    here, however often the others are renewed."""
    defended: list[Address] = []
    holdings = fenced.server._holdings
    monkeypatch.setattr(holdings._announcer, "defend", defended.append)
    with fenced.client() as client:
        assert fenced.add(client, OTHER) == OK_ABSENT
        deadline_ns = deadline_in(1.5)
        assert fenced.ask(client, "add", **add(V4, deadline_ns=deadline_ns)) == OK_ABSENT
        it = holdings.inventory.get(ip_address(V4))
        assert it is not None
        with fenced.waiting_too_long():
            fenced.begin(client, "add", **add(THIRD))
            client.send("remove", address=V4)
            renewal = client.send("renew", deadline_ns=deadline_in(600))
            fenced.until(lambda: is_answered(client), "the add has failed")
            fenced.until(lambda: boottime() > deadline_ns / 1e9 + 0.2, "it is over")
            conflict = Sighting(ip_address(V4), INTERFACE, b"\2\0\0\0\0\7")
            monkeypatch.setattr(holdings.defence.sightings, "read", lambda: [conflict])
            fenced.until(holdings.defence.links.mac_addresses, "all links are known")
            holdings.hear()
            fenced.server.turn(0)
            assert (defended, it.is_leaving) == ([], True)
            assert it.deadline == deadline_ns / 1e9
            monkeypatch.setattr(holdings.defence.sightings, "read", list)
        assert renewal


def test_there_is_an_end_to_what_of_one_user_waits(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yaim_helper.serve.execution.MAX_BEGUN", 2)
    begun = fenced.server._execution._begun
    with fenced.client("1") as one, fenced.client("2") as two, fenced.client("3") as three:
        with fenced.waiting():
            others = Asked(Remove(1, ip_address(V4)), boottime())
            begun[others] = 65534
            first = fenced.begin(one, "remove", address=V4)
            second = two.send("add", **add(OTHER))
            fenced.until(lambda: len(begun) == 3, "both wait")
            began = boottime()
            assert fenced.add(three, THIRD) == WAITS
            assert fenced.ask(three, "remove", address=THIRD) == WAITS
            assert fenced.ask(three, "list", after="")["result"] == "ok"
            assert boottime() - began < GIVE_UP_AFTER_S / 2
            assert len(begun) == 3
            assert fenced.results() == [("add", THIRD, "failed"), ("remove", THIRD, "failed")]
            del begun[others]
        assert fenced.reply(one, first) == fenced.reply(two, second) == OK_ABSENT
        fences = fenced.server._holdings.fencing.fences
        assert fences is not None and fences._leaving == {}
        assert fenced.add(three, THIRD) == OK_ABSENT


# --- what happens meanwhile ----------------------------------------------------------------------


def test_after_a_pause_adds_that_wait_are_not_done(
    network: Namespace, fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their deadlines do not count any more. What waits for removal is removed."""
    with fenced.client() as client, fenced.client("other") as other:
        assert fenced.add(client, V4) == OK_ABSENT
        with fenced.waiting():
            fenced.begin(client, "remove", address=V4)
            other.send("add", **add(OTHER))
            fenced.until(lambda: len(fenced.server._execution._begun) == 2, "both wait")
            with monkeypatch.context() as patched:
                patched.setattr(fenced.server._jumps, "take_s", lambda: 5.0)
                fenced.server.turn(0)
            assert client.is_hung_up() and other.is_hung_up()
        assert present(network) == []
        assert fenced.results() == [
            ("add", V4, "ok"),
            ("remove", V4, "ok"),
            ("add", OTHER, "record"),
        ]
        last = read_records(fenced.audit_log)[-1]
        assert (last["outcome"], last["reason"]) == ("refused", HUNG_UP.reason)


@pytest.mark.parametrize("in_s", [90.0, 110.0])
def test_the_deadline_of_an_add_that_is_just_being_done_is_drawn_nearer(
    network: Namespace, fenced: Fenced, monkeypatch: pytest.MonkeyPatch, in_s: float
) -> None:
    """The kernel was asked for it before the pause, and answers afterwards."""
    with fenced.client() as client:
        deadline_ns = deadline_in(in_s)
        with fenced.waiting():
            fenced.begin(client, "add", **add(V4, deadline_ns=deadline_ns))
            with monkeypatch.context() as patched:
                patched.setattr(fenced.server._jumps, "take_s", lambda: 100.0)
                fenced.server.turn(0)
        if in_s < 100:
            assert (fenced.server._holdings.deadlines(), present(network)) == ({}, [])
        else:
            (deadline,) = fenced.server._holdings.deadlines().values()
            assert deadline == pytest.approx(deadline_ns / 1e9 - 100)


@pytest.mark.parametrize("change", [{"rules": ()}, {"users": (65534,)}, {}])
def test_an_add_that_is_just_being_done_heeds_a_new_policy(
    network: Namespace, fenced: Fenced, change: dict[str, tuple[int, ...]]
) -> None:
    """What is held was ended when that came."""
    with fenced.client() as client:
        holdings = fenced.server._holdings
        with fenced.waiting():
            number = fenced.begin(client, "add", **add(V4))
            holdings.obey(replace(holdings.policy, **change))  # type: ignore[arg-type]
        reply = fenced.reply(client, number)
        fenced.until(lambda: len(holdings) == (not change), "it has ended")
        assert reply["result"] == ("failed" if change else "ok")
        assert present(network) == ([] if change else [f"{INTERFACE} {V4}/32"])


def test_what_was_begun_goes_on_when_its_connection_ends(
    network: Namespace, fenced: Fenced
) -> None:
    with fenced.client() as client:
        assert fenced.add(client, OTHER) == OK_ABSENT
        with fenced.waiting_too_long():
            fenced.begin(client, "add", **add(V4))
            client.send("remove", address=OTHER)
            fenced.until(lambda: len(fenced.server._execution._begun) == 2, "both wait")
            client.socket.close()
            fenced.until(lambda: not fenced.server._connections, "its end is seen")
            assert fenced.results() == [("add", OTHER, "ok")]
    assert present(network) == [f"{INTERFACE} {V4}/32"]
    assert fenced.results()[1:] == [("add", V4, "ok"), ("remove", OTHER, "ok")]


def test_what_is_held_is_not_told_while_the_kernel_is_asked(fenced: Fenced) -> None:
    """An add may come behind it, whose intent comes before."""
    execution = fenced.server._execution

    def described() -> list[str] | None:
        told = execution.describe(fenced.server._connections)
        return None if told is None else [row[0] for e in told for row in e["addresses"]]

    with fenced.client() as client:
        assert fenced.add(client, OTHER) == OK_ABSENT
        assert described() == [OTHER]
        with fenced.waiting_too_long():
            number = fenced.begin(client, "add", **add(V4))
            assert described() is None
            assert fenced.reply(client, number) == WAITS
            assert described() is None, "it goes on"
        assert described() == [OTHER, V4]
        with fenced.waiting():
            number = fenced.begin(client, "remove", address=V4)
            assert described() is None, "the kernel is asked"
        assert fenced.reply(client, number) == OK_PRESENT
        assert described() == [OTHER]


def test_what_is_held_is_not_told_by_a_job_before_an_add_behind_it(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its intent is on record, also when it was given up for its coordinator."""
    execution, delete = fenced.server._execution, Kernel.delete
    told: list[object] = []

    def telling(kernel: Kernel, index: int, address: Address, prefix: int) -> bool:
        told.append(execution.describe(fenced.server._connections))
        return delete(kernel, index, address, prefix)

    with fenced.client("1") as one, fenced.client("2") as two:
        assert fenced.add(one, V4) == OK_ABSENT
        monkeypatch.setattr(Kernel, "delete", telling)
        with fenced.waiting_too_long():
            number = fenced.begin(one, "remove", address=V4)
            assert fenced.add(two, OTHER) == WAITS
            assert fenced.reply(one, number) == WAITS
        assert told == [None]
        assert fenced.ask(one, "remove", address=OTHER)["result"] == "ok"
        assert ("add", OTHER, "record") in fenced.results(), "it came too late, and was not done"
        assert fenced.add(two, OTHER) == OK_ABSENT
        assert fenced.ask(two, "remove", address=OTHER) == OK_PRESENT
        assert len(told) == 2 and told[1] is not None, "no add is behind that one"


def test_what_fails_in_a_job_has_failed_and_no_more(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fenced.client() as client:
        with monkeypatch.context() as patched:
            patched.setattr(Kernel, "addresses", fail)
            reply = fenced.add(client, V4)
        assert reply["reason"] == "No buffer space available"
        assert fenced.add(client, V4) == OK_ABSENT


def test_a_job_that_raises_ends_the_server(fenced: Fenced, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: object) -> None:
        raise KeyError("whatever")

    with fenced.client() as client:
        monkeypatch.setattr(Kernel, "addresses", raises)
        client.send("add", **add(V4))
        with pytest.raises(KeyError, match="whatever"):
            fenced.until(lambda: False, "nothing")


def test_the_time_that_a_job_takes_is_its_users(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses, spend_more = Kernel.addresses, TokenBucket.spend_more
    spent: list[tuple[float, int]] = []

    def slow(*given: object) -> object:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return addresses(*given)  # type: ignore[arg-type]

    def spending(bucket: TokenBucket, took_s: float, count: int) -> None:
        spent.append((took_s, count))
        spend_more(bucket, took_s, count)

    with fenced.client() as client:
        monkeypatch.setattr(Kernel, "addresses", slow)
        monkeypatch.setattr(TokenBucket, "spend_more", spending)
        assert fenced.add(client, V4) == OK_ABSENT
        assert [count for took_s, count in spent if took_s >= 0.02] == [1]
        fenced.server._spend(4711, 1.0, 1)
        assert (1.0, 1) not in spent, "one who is in the policy no more"


# --- what the kernel tells -----------------------------------------------------------------------


def test_what_somebody_removes_is_put_back_in_a_turn(network: Namespace, fenced: Fenced) -> None:
    with fenced.client() as client:
        assert fenced.add(client, V4) == OK_ABSENT
        network.run("ip", "address", "delete", f"{V4}/32", "dev", INTERFACE)
        fenced.until(lambda: present(network), "it is back")


def test_a_fence_that_somebody_flushes_is_made_anew_in_a_turn(
    network: Namespace, fenced: Fenced
) -> None:
    """Also while the kernel keeps others waiting."""
    tables = fenced.server._holdings.fencing.tables
    assert tables is not None
    with fenced.client() as client:
        assert fenced.add(client, V4) == OK_ABSENT
        with fenced.waiting():
            number = fenced.begin(client, "add", **add(OTHER))
            network.run("nft", "flush", "ruleset")
            began = boottime()
            fenced.until(tables.names, "it is there")
            assert boottime() - began < 0.5
        assert fenced.reply(client, number) == OK_ABSENT


def test_all_links_are_asked_for_in_a_job_and_not_read_before(
    network: Namespace, fenced: Fenced
) -> None:
    holdings = fenced.server._holdings
    links = holdings.defence.links
    fenced.until(links.mac_addresses, "all are known")
    asking = links._asking

    @contextmanager
    def waits() -> Iterator[None]:
        with asking():
            fenced.asked.set()
            assert fenced.answers.wait(60.0)
            yield

    links._asking = waits
    links._knows_all = False
    with fenced.waiting():
        fenced.asked.clear()
        network.run("ip", "link", "set", INTERFACE, "mtu", "1400")
        fenced.until(fenced.asked.is_set, "they are asked for")
        assert holdings.waits_for_links
        began = time.thread_time()
        until = boottime() + 10 * LINKS_EVERY_S
        turns = 0
        while boottime() < until:
            fenced.server.turn(0.05)
            turns += 1
        assert turns < 30, "the loop is not woken for them again and again"
        assert time.thread_time() - began < 5 * LINKS_EVERY_S
        with fenced.client() as client:
            assert fenced.ask(client, "renew", deadline_ns=deadline_in(9))["result"] == "ok"
    fenced.until(links.mac_addresses, "all are known again")
    assert not holdings.waits_for_links
    assert isinstance(links, Links)


def test_a_helper_does_not_start_without_a_look(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kernel, "addresses", fail)
    server = fenced.server
    with pytest.raises(KernelError):
        Server(server._listener, server._holdings.policy, fenced.recorder, Disposal())


def test_what_could_not_be_removed_is_not_renewed_any_more(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its coordinator counts it as gone with the deadline that it had."""
    with fenced.client("1") as one:
        assert fenced.add(one, V4) == OK_ABSENT
        assert fenced.add(one, OTHER) == OK_ABSENT
        inventory = fenced.server._holdings.inventory
        before = inventory.by_address[ip_address(V4)].deadline
        with monkeypatch.context() as patched:
            patched.setattr(Batch, "remove", fail)
            assert fenced.ask(one, "remove", address=V4)["result"] == "failed"
        assert fenced.ask(one, "renew", deadline_ns=deadline_in(90))["result"] == "ok"
        assert inventory.by_address[ip_address(V4)].deadline == before
        assert inventory.by_address[ip_address(V4)].is_leaving
        assert inventory.by_address[ip_address(OTHER)].deadline > before
