"""The socket by which checks are asked for at once."""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from yaim.checks.now import ROUND_S, SETTLES_S, CheckSocket, path_of

PATIENT_S = 20.0


class Asked:
    """Counts how often checks are asked for."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self) -> None:
        self.at.append(time.monotonic())

    def reaches(self, count: int) -> bool:
        give_up_at = time.monotonic() + PATIENT_S
        while len(self.at) < count and time.monotonic() < give_up_at:
            time.sleep(0.005)
        return len(self.at) >= count


def count_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.settimeout(PATIENT_S)
        yield made


def test_the_word_asks_for_the_checks_at_once(tmp_path: Path, sender: socket.socket) -> None:
    asked, path = Asked(), tmp_path / "s"
    CheckSocket(path, asked)
    sent_at = time.monotonic()
    sender.sendto(b"check", str(path))
    assert asked.reaches(1)
    assert asked.at[0] - sent_at < ROUND_S


def test_everybody_on_the_host_may_ask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        CheckSocket(tmp_path / "s", Asked())
    finally:
        os.umask(before)
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("more", [0, 8])
def test_the_checks_are_made_again_for_a_while_and_however_many_ask_no_more_often(
    more: int, tmp_path: Path, sender: socket.socket
) -> None:
    """What has changed may take a moment to show."""
    asked, path, rounds = Asked(), tmp_path / "s", 1 + round(SETTLES_S / ROUND_S)
    CheckSocket(path, asked)
    sender.connect(str(path))
    sender.send(b"check")
    assert asked.reaches(1)
    for _ in range(more):
        sender.send(b"check")
    rounds += 1 if more else 0
    assert asked.reaches(rounds)
    assert all(later - earlier >= ROUND_S for earlier, later in pairwise(asked.at))
    time.sleep(2.5 * ROUND_S)
    assert len(asked.at) == rounds
    sender.send(b"check")
    assert asked.reaches(rounds + 1)


@pytest.mark.parametrize("said", [b"", b"chec", b"check\n", b"checks", b"stop", b"check" * 20_000])
def test_nothing_else_can_be_asked_for(said: bytes, tmp_path: Path, sender: socket.socket) -> None:
    asked, path = Asked(), tmp_path / "s"
    CheckSocket(path, asked)
    sender.sendto(said, str(path))
    time.sleep(2 * ROUND_S)
    assert not asked.at
    sender.sendto(b"check", str(path))
    assert asked.reaches(1)


def test_a_flood_asks_for_five_rounds_a_second_and_costs_little(
    tmp_path: Path, sender: socket.socket
) -> None:
    """The thread of the listener sleeps; the senders wait."""
    asked, path, is_over = Asked(), tmp_path / "s", threading.Event()
    CheckSocket(path, asked)

    def flood() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as flooding:
            flooding.connect(str(path))
            flooding.settimeout(0.1)
            while not is_over.is_set():
                with suppress(TimeoutError):
                    flooding.send(b"check")

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for each in threads:
        each.start()
    began, before = time.monotonic(), time.process_time()
    time.sleep(10 * ROUND_S)
    took_s, used_s = time.monotonic() - began, time.process_time() - before
    is_over.set()
    for each in threads:
        each.join()
    assert 2 <= len(asked.at) <= took_s / ROUND_S + 2
    assert used_s < 0.5 * took_s


def test_files_that_are_passed_along_change_nothing(tmp_path: Path, sender: socket.socket) -> None:
    """Linux refuses them since 6.16; before, it closes them."""
    asked, path = Asked(), tmp_path / "s"
    CheckSocket(path, asked)
    sender.connect(str(path))
    open_before = count_open()
    with suppress(PermissionError):
        socket.send_fds(sender, [b"other"], [0] * 200)
    sender.send(b"check")
    assert asked.reaches(1)
    assert count_open() == open_before


def test_a_socket_that_an_earlier_life_has_left_is_replaced(
    tmp_path: Path, sender: socket.socket
) -> None:
    first, second, path = Asked(), Asked(), tmp_path / "s"
    CheckSocket(path, first)
    CheckSocket(path, second)
    sender.sendto(b"check", str(path))
    assert second.reaches(1) and not first.at


@pytest.mark.parametrize(
    ("there", "told"), [("file", "Address already in use"), ("", "No such file or directory")]
)
def test_where_it_cannot_listen_it_says_so_and_touches_nothing(
    there: str, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "directory" / "s"
    if there:
        path.parent.mkdir()
        path.write_text("mine")
    CheckSocket(path, Asked())
    expected = f"check-socket: cannot listen at {path}: {told}"
    assert caplog.record_tuples == [("yaim.checks.now", logging.WARNING, expected)]
    assert not there or path.read_text() == "mine"


def test_it_listens_where_the_key_or_systemd_says() -> None:
    made = {"RUNTIME_DIRECTORY": "/run/other:/run/yaim-check@web"}
    assert path_of("auto", made) == Path("/run/yaim-check@web/check.sock")
    assert path_of("auto", {}) is None
    assert path_of("auto", {"RUNTIME_DIRECTORY": "/run/other"}) is None
    assert path_of("off", made) is None
    assert path_of("/run/a", made) == Path("/run/a")
