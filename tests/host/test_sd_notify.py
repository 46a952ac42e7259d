"""What systemd is told of the coordinator: a socket of the test stands where systemd's would. With
a real systemd: tests/deb."""

import math
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from yaim.host.boottime import boottime
from yaim.host.sd_notify import ServiceManager

STARTING, HOLDING = "n1 starting, holds 0", "n1 healthy, holds 2 of 6"


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


def line(text: str) -> Callable[[], str]:
    """What makes the status."""
    return lambda: text


def test_it_is_ready_with_its_first_turn_and_says_what_is_new(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path)})
    told.tell(line(STARTING))
    assert manager.told() == [f"READY=1\nSTATUS={STARTING}"]
    told.tell(line(STARTING))
    told.tell(line(STARTING))
    assert manager.told() == []
    told.tell(line(HOLDING))
    assert manager.told() == [f"STATUS={HOLDING}"]


def test_what_there_is_no_room_for_is_sent_with_what_comes_next(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path)})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                sender.sendto(b"filler", str(manager.path))
    told.tell(line(STARTING))
    told.tell(line(HOLDING))
    assert set(manager.told()) == {"filler"}
    told.tell(line(HOLDING))
    told.tell(line(HOLDING))
    assert manager.told() == [f"READY=1\nSTATUS={HOLDING}"]


def test_a_name_in_etcd_is_not_taken_for_an_assignment(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path)})
    told.tell(line("n1 starting, holds 0 of 6; n2\nSTOPPING=1: 1 (192.0.2.10)"))
    (text,) = manager.told()
    assert "n2?STOPPING=1" in text
    assert [line.partition("=")[0] for line in text.split("\n")] == ["READY", "STATUS"]


def test_without_a_file_left_to_open_it_goes_on(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path)})
    with no_files_left():
        told.tell(line(HOLDING))
    told.tell(line(HOLDING))
    assert manager.told() == [f"READY=1\nSTATUS={HOLDING}"]


@contextmanager
def no_files_left() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_watchdog_is_fed_four_times_as_often_as_it_asks_for(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "4000000000"})
    told.tell(line(HOLDING))
    told.tell(line(HOLDING))
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
    told.tell(line(HOLDING))
    assert not [each for each in manager.told() if "WATCHDOG" in each]
    assert told.next_at() == math.inf


def test_where_nobody_wants_to_know_no_status_is_made() -> None:
    def refuse() -> str:
        raise AssertionError

    ServiceManager({}).tell(refuse)


def test_who_is_not_there_does_no_harm(tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "none")}).tell(line(HOLDING))
    ServiceManager({}).tell(line(HOLDING))


def test_a_manager_in_the_abstract_namespace_is_told() -> None:
    name = f"yaim-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).tell(line(HOLDING))
        assert listener.recv(1000).startswith(b"READY=1\n")
