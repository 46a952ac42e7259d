"""The file by which checks are asked for at once."""

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from yaim.checks.now import ROUND_S, SETTLES_S, CheckTrigger, path_of

PATIENT_S = 20.0
ROOT = Path(__file__).parents[2]
NOBODY = 65534
COORDINATOR = f"""
import logging, os, sys, time
from pathlib import Path
from yaim.checks.now import CheckTrigger
os.setuid({NOBODY})
logging.basicConfig(format="%(message)s", stream=sys.stdout)
CheckTrigger(Path(sys.argv[1]), lambda: print("asked", flush=True))
print("ready", flush=True)
time.sleep(100)
"""


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


def ask(path: Path) -> None:
    path.read_bytes()


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts one without privileges in a process of its own, as locks are those of a process."""
    let_others_in(tmp_path)
    os.chown(tmp_path, NOBODY, NOBODY)
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = (sys.executable, "-c", COORDINATOR, str(tmp_path / "now"))
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate(timeout=PATIENT_S)


def let_others_in(directory: Path) -> None:
    for each in (*directory.parents[:-2], directory):
        each.chmod(0o755)


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().rstrip()


def test_who_opens_it_asks_for_the_checks_at_once(tmp_path: Path) -> None:
    asked, path = Asked(), tmp_path / "now"
    CheckTrigger(path, asked)
    asked_at = time.monotonic()
    ask(path)
    assert asked.reaches(1)
    assert asked.at[0] - asked_at < ROUND_S


def test_a_shell_asks_without_a_command(tmp_path: Path) -> None:
    asked, path = Asked(), tmp_path / "now"
    CheckTrigger(path, asked)
    subprocess.run(("sh", "-c", f": <{path}"), check=True)
    assert asked.reaches(1)


def test_everybody_may_open_it_and_nobody_write_to_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        CheckTrigger(tmp_path / "now", Asked())
    finally:
        os.umask(before)
    assert (tmp_path / "now").stat().st_mode & 0o7777 == 0o444


def test_nothing_else_asks(tmp_path: Path) -> None:
    asked, path = Asked(), tmp_path / "now"
    CheckTrigger(path, asked)
    path.stat()
    list(tmp_path.iterdir())
    (tmp_path / "other").touch()
    os.close(os.open(path, os.O_PATH))
    time.sleep(2 * ROUND_S)
    assert not asked.at


@pytest.mark.parametrize("more", [0, 8])
def test_the_checks_are_made_again_for_a_while_and_however_many_ask_no_more_often(
    more: int, tmp_path: Path
) -> None:
    """What has changed may take a moment to show."""
    asked, path, rounds = Asked(), tmp_path / "now", 1 + round(SETTLES_S / ROUND_S)
    CheckTrigger(path, asked)
    ask(path)
    assert asked.reaches(1)
    for _ in range(more):
        ask(path)
    rounds += 1 if more else 0
    assert asked.reaches(rounds)
    assert all(later - earlier >= ROUND_S for earlier, later in pairwise(asked.at))
    time.sleep(2.5 * ROUND_S)
    assert len(asked.at) == rounds
    ask(path)
    assert asked.reaches(rounds + 1)


def test_a_flood_asks_for_five_rounds_a_second_and_costs_nothing(
    tmp_path: Path, coordinator: Callable[[], subprocess.Popen[str]]
) -> None:
    """The kernel keeps one event, and the process sleeps."""
    asked = coordinator()
    assert says(asked) == "ready"
    is_over = threading.Event()

    def flood() -> None:
        while not is_over.is_set():
            os.close(os.open(tmp_path / "now", os.O_RDONLY))

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for each in threads:
        each.start()
    try:
        assert says(asked) == "asked"
        began, before = time.monotonic(), used_s(asked)
        rounds = 10
        for _ in range(rounds):
            assert says(asked) == "asked"
        took_s, took_of_processor_s = time.monotonic() - began, used_s(asked) - before
    finally:
        is_over.set()
        for each in threads:
            each.join()
    assert took_s > (rounds - 0.5) * ROUND_S
    assert took_of_processor_s < 0.1 * took_s


def used_s(process: subprocess.Popen[str]) -> float:
    """Returns how many seconds of a processor it has had (proc_pid_stat(5))."""
    words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_many_who_keep_it_open_and_locked_change_nothing(
    tmp_path: Path, coordinator: Callable[[], subprocess.Popen[str]]
) -> None:
    """Nor do they when it is killed and started again: it makes another file."""
    path = tmp_path / "now"
    keeping = """
import fcntl, os, sys, time
kept = [os.open(sys.argv[1], os.O_RDONLY) for _ in range(100)]
for _ in range(20):
    if os.fork() == 0:
        fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH)
        fcntl.lockf(kept[0], fcntl.LOCK_SH)
        time.sleep(100)
print("kept", flush=True)
time.sleep(100)
"""
    first = coordinator()
    assert says(first) == "ready"
    command = (sys.executable, "-c", keeping, str(path))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, user=NOBODY - 1, process_group=0
    ) as keeper:
        try:
            assert says(keeper) == "kept"
            assert says(first) == "asked"
            first.kill()
            assert first.wait(PATIENT_S) < 0
            second = coordinator()
            assert says(second) == "ready"
            ask(path)
            assert says(second) == "asked"
        finally:
            os.killpg(keeper.pid, 9)


def test_what_one_that_was_killed_has_left_is_replaced(
    tmp_path: Path, coordinator: Callable[[], subprocess.Popen[str]]
) -> None:
    """With the mode that it has when one is killed before it was ready, too."""
    path = tmp_path / "now"
    for mode in (0o400, 0o444):
        before = coordinator()
        assert says(before) == "ready"
        before.kill()
        before.wait(PATIENT_S)
        path.chmod(mode)
    after = coordinator()
    assert says(after) == "ready"
    ask(path)
    assert says(after) == "asked"


def test_a_second_coordinator_is_told_and_the_first_goes_on(
    tmp_path: Path, coordinator: Callable[[], subprocess.Popen[str]]
) -> None:
    first = coordinator()
    assert says(first) == "ready"
    other = coordinator()
    told = "another coordinator has it: give each a path of its own"
    assert says(other) == f"check-trigger: checks cannot be asked for at {tmp_path / 'now'}: {told}"
    assert says(other) == "ready"
    ask(tmp_path / "now")
    assert says(first) == "asked"


ELSE = "something else is there: remove it, or name a path"


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ("full", ELSE),
        ("another's", ELSE),
        ("link", ELSE),
        ("directory", ELSE),
        ("fifo", ELSE),
        ("socket", ELSE),
        ("nowhere", "No such file or directory"),
    ],
)
def test_where_it_cannot_be_it_says_so_and_touches_nothing(
    there: str, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, target = tmp_path / "now", tmp_path / "target"
    target.touch()
    if there == "full":
        path.write_text("mine")
    elif there == "another's":
        path.touch()
        os.chown(path, NOBODY, NOBODY)
    elif there == "link":
        path.symlink_to(target)
    elif there == "directory":
        path.mkdir()
    elif there == "fifo":
        os.mkfifo(path)
    elif there == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path = tmp_path / "nowhere" / "now"
    before = path.lstat() if path.is_symlink() or path.exists() else None
    CheckTrigger(path, Asked())
    expected = f"check-trigger: checks cannot be asked for at {path}: {told}"
    assert caplog.record_tuples == [("yaim.checks.now", logging.WARNING, expected)]
    assert before is None or path.lstat() == before
    assert target.stat().st_size == 0


def test_a_directory_that_it_may_not_write_to_is_told(tmp_path: Path) -> None:
    """As another user; root may write everywhere."""
    let_others_in(tmp_path)
    program = COORDINATOR.replace("time.sleep(100)", "")
    done = subprocess.run(
        (sys.executable, "-c", program, str(tmp_path / "now")),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENT_S,
    )
    told = f"check-trigger: checks cannot be asked for at {tmp_path / 'now'}: Permission denied"
    assert done.stdout.splitlines() == [told, "ready"]


def test_it_is_where_the_key_or_systemd_says() -> None:
    made = {"RUNTIME_DIRECTORY": "/run/other:/run/yaim-check@web"}
    assert path_of("auto", made) == Path("/run/yaim-check@web/now")
    assert path_of("auto", {}) is None
    assert path_of("auto", {"RUNTIME_DIRECTORY": "/run/other"}) is None
    assert path_of("off", made) is None
    assert path_of("/run/a", made) == Path("/run/a")
