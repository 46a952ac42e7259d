"""What systemd is told of the coordinator: a socket of the test stands where systemd's would. With
a real systemd: tests/deb."""

import math
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.core.play import mark, settings, view
from yaim.core.model import NodeName, frozen_mapping
from yaim.core.state.addresses import Addresses, AddressState, Phase
from yaim.core.state.cluster import Cluster
from yaim.core.state.health import Health, HealthState
from yaim.core.state.state import State
from yaim.host.boottime import boottime
from yaim.host.sd_notify import ServiceManager, health_word, status_of

POOL = tuple(ip_address(f"192.0.2.{n}") for n in range(10, 16))
OTHER = NodeName("n2")


@dataclass(frozen=True, slots=True)
class Manager:
    path: Path
    socket: socket.socket

    def told(self) -> list[str]:
        texts = []
        try:
            while True:
                texts.append(self.socket.recv(4096).decode())
        except BlockingIOError:
            return texts


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        path = tmp_path / "notify"
        listener.bind(str(path))
        listener.setblocking(False)
        yield Manager(path, listener)


def holding(count: int) -> State:
    """n1 has that many of the pool, n2 the next one."""
    marks = [mark(address, 5) for address in POOL[:count]]
    others = [mark(POOL[count], 6, OTHER)] if count < len(POOL) else []
    return replace(
        State(settings()),
        health=HealthState(judged=Health(True, "answers")),
        cluster=Cluster(view=view(9, POOL, marks=(*marks, *others))),
        addresses=Addresses(frozen_mapping({a: AddressState(Phase.UP) for a in POOL[:count]})),
    )


def test_it_is_ready_with_its_first_turn_and_says_what_is_new(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path)})
    start = State(settings())
    told.tell(start)
    assert manager.told() == ["READY=1\nSTATUS=n1 starting, holds 0; etcd has not been read"]
    told.tell(start)
    told.tell(replace(start, next_request=7))
    assert manager.told() == []
    told.tell(holding(2))
    assert manager.told() == [f"STATUS={status_of(holding(2))}"]


def test_what_there_is_no_room_for_is_sent_with_what_comes_next(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path)})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                sender.sendto(b"filler", str(manager.path))
    told.tell(State(settings()))
    told.tell(holding(2))
    assert set(manager.told()) == {"filler"}
    told.tell(holding(2))
    told.tell(holding(2))
    assert manager.told() == [f"READY=1\nSTATUS={status_of(holding(2))}"]


def test_the_status_tells_who_holds_what() -> None:
    assert status_of(holding(2)) == (
        "n1 healthy, holds 2 (192.0.2.10, 192.0.2.11) of 6; n2: 1 (192.0.2.12);"
        " nobody: 3 (192.0.2.13, 192.0.2.14, 192.0.2.15)"
    )
    assert status_of(holding(0)).startswith("n1 healthy, holds 0 of 6; n2: 1 (192.0.2.10)")


def test_a_name_in_etcd_is_not_taken_for_an_assignment(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path)})
    name = NodeName("n2\nSTOPPING=1")
    marks = (mark(POOL[0], 5, name),)
    told.tell(replace(State(settings()), cluster=Cluster(view=view(9, POOL, marks=marks))))
    (text,) = manager.told()
    assert "n2?STOPPING=1" in text
    assert [line.partition("=")[0] for line in text.split("\n")] == ["READY", "STATUS"]


def test_without_a_file_left_to_open_it_goes_on(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path)})
    with no_files_left():
        told.tell(holding(1))
    told.tell(holding(1))
    assert manager.told() == [f"READY=1\nSTATUS={status_of(holding(1))}"]


@contextmanager
def no_files_left() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_of_many_the_first_are_told() -> None:
    many = tuple(ip_address(f"192.0.2.{n}") for n in range(1, 101))
    state = replace(holding(0), cluster=Cluster(view=view(9, many)))
    assert status_of(state) == (
        "n1 healthy, holds 0 of 100; nobody: 100 (192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4,"
        " 192.0.2.5, 192.0.2.6, 192.0.2.7, 192.0.2.8, ...)"
    )


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (State(settings()), "starting"),
        (holding(1), "healthy"),
        (replace(holding(1), health=HealthState(waits_s=10.0)), "waiting"),
        (replace(holding(1), health=HealthState(judged=Health(False, "refused"))), "unhealthy"),
    ],
)
def test_a_word_says_how_a_node_is(state: State, word: str) -> None:
    assert health_word(state) == word


def test_a_watchdog_is_fed_four_times_as_often_as_it_asks_for(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "4000000000"})
    told.tell(holding(1))
    told.tell(holding(1))
    assert [each.endswith("WATCHDOG=1") for each in manager.told()] == [True]
    assert 900 < told.next_at() - boottime() <= 1000


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid() + 1)},
    ],
)
def test_a_watchdog_of_nobody_or_of_another_is_not_fed(
    environment: dict[str, str], manager: Manager
) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path), **environment})
    told.tell(holding(1))
    assert not [each for each in manager.told() if "WATCHDOG" in each]
    assert told.next_at() == math.inf


def test_who_is_not_there_does_no_harm(tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "none")}).tell(holding(1))
    ServiceManager({}).tell(holding(1))


def test_a_manager_in_the_abstract_namespace_is_told() -> None:
    name = f"yaim-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).tell(holding(1))
        assert listener.recv(1000).startswith(b"READY=1\n")
