"""A server without a process of its own, turn by turn: what the kernel seldom does to it."""

import errno
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from yaim_helper import clock
from yaim_helper.addresses import Kernel, KernelError
from yaim_helper.audit import AuditLog
from yaim_helper.policy import read_policy
from yaim_helper.server import SUMMARY_EVERY_S, Server

from tests.helper.network import boottime
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
    path: Path
    audit_log: Path

    @contextmanager
    def client(self) -> Iterator[Client]:
        with Client(self.path) as client:
            self.server.turn(0)
            assert self.ask(client, "hello", version=1, cluster="test", node="n1")["result"] == "ok"
            yield client

    def ask(self, client: Client, op: str, **fields: object) -> Message:
        number = client.send(op, **fields)
        self.server.turn(0)
        return client.receive(number)


def is_answered(client: Client) -> bool:
    return bool(select.select([client.socket], [], [], 0)[0])


@pytest.fixture
def served(network: Namespace, tmp_path: Path) -> Iterator[Served]:
    """The test is in the network namespace, too."""
    file = tmp_path / "helper.yml"
    file.write_text(policy(tmp_path / "audit"))
    read = read_policy(file)
    path = tmp_path / "helper.sock"
    with network.entered(), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        audit = AuditLog(read.audit_log, read.sha256)
        yield Served(Server(listener, read, audit), path, read.audit_log)


def test_a_list_that_the_kernel_does_not_give_has_failed_on_record(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise KernelError(errno.ENOBUFS, "No buffer space available")

    with served.client() as client:
        monkeypatch.setattr(Kernel, "addresses", fail)
        reply = served.ask(client, "list", after="")
    failed = {"errno": errno.ENOBUFS, "reason": "No buffer space available"}
    assert reply == {"result": "failed", **failed}
    (*_, told) = essence(read_records(served.audit_log))
    del told["id"]
    assert told == {
        **{"type": "result", "cluster": "test", "op": "list", "outcome": "failed"},
        **failed,
    }


@pytest.mark.parametrize("op", ["renew", "list"])
def test_one_that_may_be_about_all_addresses_is_done_in_a_turn(served: Served, op: str) -> None:
    """The others' turn comes between."""
    fields = {"deadline_ns": deadline_in(60)} if op == "renew" else {"after": ""}
    with served.client() as client, Client(served.path) as other:
        hello = other.send("hello", version=1, cluster="other", node="n1")
        while not is_answered(other):
            served.server.turn(0.01)
        assert other.receive(hello)["result"] == "ok"
        asked = other.send("list", after="")
        numbers = [client.send(op, **fields) for _ in range(3)]
        for number in numbers:
            served.server.turn(0)
            assert client.receive(number)["result"] == "ok"
            assert not is_answered(client)
            assert is_answered(other)
        assert other.receive(asked)["result"] == "ok"


def test_who_has_spent_too_much_is_not_read(served: Served) -> None:
    (allowance,) = served.server._allowances.values()
    with served.client() as client:
        began = boottime()
        allowance.spend(0, 1.0)
        number = client.send("list", after="")
        served.server.turn(0)
        assert not is_answered(client)
        while not is_answered(client):
            served.server.turn(0.01)
        assert client.receive(number)["result"] == "ok"
        # It may have spent twice what it had, and gets that back in so many seconds.
        assert boottime() - began > 0.9


def test_renewals_are_summed_up_when_a_minute_is_over(served: Served) -> None:
    with served.client() as client:
        ask = served.ask(client, "add", **add("192.0.2.10"))
        assert ask["result"] == "ok"
        for _ in range(3):
            reply = served.ask(client, "renew", deadline_ns=deadline_in(60))
            assert reply["result"] == "ok"
        served.server._renewals.since -= SUMMARY_EVERY_S
        served.server.turn(0)
        served.server.turn(0)
    summed_up = [each for each in read_records(served.audit_log) if each["type"] == "renewals"]
    assert [each["count"] for told in summed_up for each in told["owners"]] == [3]


def test_what_tells_that_the_clock_was_set_is_taken(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer's end stands in for the setting: there is one such clock for all of the machine."""
    timer = served.server._clock_set
    clock._set(timer.fileno(), 1, 0)
    assert select.select([timer], [], [], 20.0)[0]
    served.server.turn(0)
    assert not select.select([timer], [], [], 0)[0]
