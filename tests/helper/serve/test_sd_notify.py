"""What systemd is told: a helper beside a socket of a test that stands where systemd's would."""

import json
import math
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from yaim_helper.serve.sd_notify import ServiceManager

from tests.helper.network import INTERFACE, boottime, wait_for
from tests.helper.process import ANSWER_WITHIN_S, Helper, refused, running, started
from yaim.lab.namespaces import Namespace

FILLER = "filler"


@dataclass(frozen=True, slots=True)
class Manager:
    path: Path
    socket: socket.socket

    def told(self) -> list[str]:
        """The assignments that have come by now."""
        lines: list[str] = []
        try:
            while True:
                lines += self.socket.recv(4096).decode().split("\n")
        except BlockingIOError:
            return lines

    def fill(self) -> None:
        """Fills the socket until it takes no more (net.unix.max_dgram_qlen)."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    sender.sendto(FILLER.encode(), str(self.path))

    def wait_until_told(self, text: str) -> None:
        texts: list[str] = []

        def is_told() -> bool:
            texts.extend(self.told())
            return text in texts

        wait_for(is_told, f"{text} was told: {texts}")

    def around(self, *further: str) -> tuple[str, ...]:
        """What stands in front of a command that this manager starts."""
        return ("env", f"NOTIFY_SOCKET={self.path}", *further)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        path = tmp_path / "notify"
        listener.bind(str(path))
        path.chmod(0o777)
        tmp_path.chmod(0o755)
        listener.setblocking(False)
        yield Manager(path, listener)


def test_what_is_held_is_told(network: Namespace, tmp_path: Path, manager: Manager) -> None:
    around = manager.around("WATCHDOG_USEC=400000")
    with running(network, tmp_path, around=around) as helper:
        manager.wait_until_told("READY=1")
        with helper.greeted("pg") as client:
            client.add("192.0.2.10")
            manager.wait_until_told(
                f"STATUS=holds 1 of at most 64 addresses: 192.0.2.10 on {INTERFACE} for pg"
            )
            for number in range(11, 30):
                client.add(f"192.0.2.{number}")
            first = ", ".join(f"192.0.2.{n} on {INTERFACE} for pg" for n in range(10, 26))
            manager.wait_until_told(f"STATUS=holds 20 of at most 64 addresses: {first}, 4 more")
        # There is room for what comes then.
        manager.told()
        helper.process.terminate()
        manager.wait_until_told("STOPPING=1")
        assert helper.process.wait(ANSWER_WITHIN_S) == 0


def test_a_helper_that_waits_says_that_it_is_alive(
    network: Namespace, tmp_path: Path, manager: Manager
) -> None:
    around = manager.around("WATCHDOG_USEC=400000")
    with running(network, tmp_path, around=around) as helper:
        manager.wait_until_told("WATCHDOG=1")
        manager.wait_until_told("WATCHDOG=1")
        with helper.stopped():
            manager.told()
            time.sleep(0.5)
            assert manager.told() == []
        manager.wait_until_told("WATCHDOG=1")


def test_an_empty_allowlist_is_told(network: Namespace, tmp_path: Path, manager: Manager) -> None:
    config = json.dumps({"users": [0], "rules": [], "audit-log": str(tmp_path / "audit")})
    with running(network, tmp_path, config=config, around=manager.around()) as helper:
        manager.wait_until_told(f"STATUS=refuses every address: {tmp_path}/helper.yml has no rules")
        with helper.greeted() as client:
            assert refused(client.add("192.0.2.10")) == "not-allowed"
        assert "rules: none, so every address is refused; add one" in helper.log.read_text()


def test_a_file_that_is_not_in_force_is_told(
    network: Namespace, tmp_path: Path, manager: Manager
) -> None:
    with (
        running(network, tmp_path, around=manager.around()) as helper,
        helper.greeted() as client,
    ):
        (tmp_path / "helper.yml").write_text("nonsense")
        os.kill(helper.pid, signal.SIGHUP)
        wait_for(lambda: "rules_differ" in client.list(), "it has looked")
        manager.wait_until_told(
            f"STATUS={tmp_path}/helper.yml could not be used when it was read again: correct it"
            " (yaim-helper policy check), then systemctl reload yaim-helper; holds 0 of at most 64"
            " addresses"
        )


def test_one_that_cannot_start_says_why_and_does_not_end_at_once(
    network: Namespace, tmp_path: Path, manager: Manager
) -> None:
    began = boottime()
    with started(network, tmp_path, config="users: [", around=manager.around()) as helper:
        manager.wait_until_told("STATUS=" + helper_says(helper))
        assert helper.process.wait(ANSWER_WITHIN_S) == 78
    assert boottime() - began >= 2.0


def helper_says(helper: Helper) -> str:
    wait_for(lambda: helper.log.read_text().endswith("\n"), "it says why")
    return helper.log.read_text().removeprefix("yaim-helper: ").strip()


def test_a_status_is_sent_when_it_is_another_one(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path)})
    for text in ("one", "one", "two\nlines", "\udc00" + "x" * 2000):
        told.tell_status(text)
    assert manager.told() == ["STATUS=one", "STATUS=two; lines", "STATUS=?" + "x" * 999]


def test_what_there_is_no_room_for_is_sent_with_what_comes_next(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path)})
    manager.fill()
    told.tell_status("one")
    told.tell_status("two")
    told.tell_ready()
    assert set(manager.told()) == {FILLER}
    told.tell_alive()
    told.tell_alive()
    assert manager.told() == ["STATUS=two", "READY=1"]


def test_a_manager_in_the_abstract_namespace_is_told() -> None:
    name = f"yaim-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).tell_ready()
        assert listener.recv(100) == b"READY=1"


def test_who_does_not_listen_does_no_harm(tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "none")}).tell_ready()


@pytest.mark.parametrize(
    ("environment", "is_watched"),
    [
        ({"WATCHDOG_USEC": "80000000"}, True),
        ({"WATCHDOG_USEC": "80000000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "80000000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "often"}, False),
        ({}, False),
    ],
)
def test_a_watchdog_is_fed_four_times_as_often_as_it_asks_for(
    environment: dict[str, str], is_watched: bool, manager: Manager
) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(manager.path), **environment})
    before = boottime()
    told.tell_alive()
    after = boottime()
    told.tell_alive()
    assert manager.told() == ["WATCHDOG=1"] * is_watched
    if is_watched:
        assert before <= told.next_at() - 20.0 <= after
    else:
        assert told.next_at() == math.inf
