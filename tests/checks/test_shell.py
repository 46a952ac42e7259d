"""The shell check with commands that misbehave, and what is left of them."""

import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.checks.postgres_server import children
from tests.checks.stopwatch import Stopwatch
from yaim.checks.shell import ShellCheck, check_shell, command
from yaim.checks.transport.command import KILLED_WITHIN_S
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.config_keys import InvalidValue

PATIENT_S = 30.0
IMPATIENT_S = 0.3
PARTLY_S = 2.0
"""The bound on an attempt whose command is expected to come so far."""
SLACK_S = 0.5
NO_END = CannotTell("no end within 0.3 s")
WELL = Healthy("exit status 0")
LONG = f"98765.{time.time_ns()}"
"""Seconds; by it the processes of a test are found, and not those of another run."""
USER = "nobody"
"""Instead of the user yaim, whom a machine that runs tests need not have."""


def attempt(command: str | tuple[str, ...], timeout_s: float = PATIENT_S) -> Verdict:
    """One attempt, which must keep within its bound."""
    watch = Stopwatch()
    verdict = check_shell(ShellCheck(command), timeout_s, USER)
    assert watch.took_s() < timeout_s + SLACK_S
    return verdict


def command_lines() -> Iterator[tuple[int, bytes]]:
    """Yields the command lines of all processes, with their ids; zombies have none."""
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield int(each.parent.name), each.read_bytes()
        except OSError:
            pass


def long_ones() -> int:
    return sum(LONG.encode() in each for _, each in command_lines())


def kill_long_ones() -> int:
    """Returns how many there were. A process that is just about to become a command shows no
    arguments: one more may be found later."""
    found = [pid for pid, line in command_lines() if LONG.encode() in line]
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return len(found)


def comes(is_so: Callable[[], bool]) -> bool:
    give_up_at = time.monotonic() + PATIENT_S
    while time.monotonic() < give_up_at:
        if is_so():
            return True
        time.sleep(0.01)
    return False


def resources() -> tuple[set[int | None], set[str], set[int]]:
    """Threads, file descriptors and children of this process."""
    return (
        {each.ident for each in threading.enumerate()},
        {each.name for each in Path("/proc/self/fd").iterdir()},
        set(children(os.getpid())),
    )


@pytest.fixture(autouse=True)
def nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Killed processes of a busy machine have longer than usual to end."""
    monkeypatch.setattr("yaim.checks.transport.command.KILLED_WITHIN_S", PATIENT_S)
    threads, descriptors, processes = resources()
    yield
    now = resources()
    assert now[0] <= threads  # one of an earlier test may have ended
    assert now[1] <= descriptors
    assert now[2] <= processes
    assert long_ones() == 0


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A directory that the command may write to."""
    for each in (*tmp_path.parents[:-2], tmp_path):
        each.chmod(0o777 if each is tmp_path else 0o755)
    return tmp_path


# --- the key -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["pg_isready -q", "exit 1; # ä", ["true"], ["echo", "", "a,b"]])
def test_a_command_is_text_or_a_list(value: Any) -> None:
    assert command(value) == (value if isinstance(value, str) else tuple(value))


@pytest.mark.parametrize("value", ["", " ", [], ["", "x"], "a\0b", ["a", "b\0"], "\udc80", 7, None])
def test_what_is_no_command_is_refused(value: Any) -> None:
    with pytest.raises(InvalidValue, match="a command: text for /bin/sh -c, or a list"):
        command(value)


# --- the status is judged ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "verdict"),
    [
        ("true", WELL),
        (("true",), WELL),
        ("echo well; echo very well >&2", WELL),
        (("test", "a b", "=", "a b"), WELL),
        ("false | true && exit 3", Unhealthy("exit status 3, expected 0: it wrote nothing")),
        (("false",), Unhealthy("exit status 1, expected 0: it wrote nothing")),
        ("echo; echo ' ill '; exit 2", Unhealthy("exit status 2, expected 0: ill")),
        ("echo ill >&2; echo well; exit 2", Unhealthy("exit status 2, expected 0: ill")),
        ("kill -SEGV $$", Unhealthy("killed by SIGSEGV: it wrote nothing")),
        ("kill -KILL $$", Unhealthy("killed by SIGKILL: it wrote nothing")),
        ("kill -40 $$", Unhealthy("killed by signal 40: it wrote nothing")),
        (("no-such-program", "x"), Unhealthy("no-such-program: not found")),
        (("/nonexistent/x",), Unhealthy("/nonexistent/x: not found")),
        (("/",), Unhealthy("/: not executable")),
        (("sh", "-c", "exit 127"), Unhealthy("exit status 127, expected 0: it wrote nothing")),
    ],
)
def test_the_exit_status_is_judged(command: str | tuple[str, ...], verdict: Verdict) -> None:
    assert attempt(command) == verdict


@pytest.mark.parametrize(
    "output", [r"\033[2J\007\r\200\377", r"x\0\n", "x" * 100_000, r"\342\200\256evil"]
)
def test_the_reason_is_short_and_can_be_printed_whatever_the_command_writes(output: str) -> None:
    reason = attempt(f"printf '{output}'; exit 1").reason
    assert reason.isprintable()
    assert len(reason) <= 160


def test_a_command_that_is_too_long_cannot_tell() -> None:
    assert attempt(("echo", "x" * 200_000)) == CannotTell(
        "it cannot be started: Argument list too long"
    )


# --- the time is up ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        f"sleep {LONG}",
        ("sleep", LONG),
        f"trap '' TERM INT HUP; sleep {LONG}; sleep {LONG}",
        f"sleep {LONG} & sleep {LONG} | sleep {LONG}",
        f"exec >/dev/null 2>&1; sleep {LONG}; true",
        f"timeout {LONG} sleep {LONG}; true",
        f"set -m 2>/dev/null; sleep {LONG} & sleep {LONG}; true",
        f"setsid --wait sleep {LONG}; true",
        f"kill -STOP $$; sleep {LONG}",
        f"sleep {LONG} & kill -STOP 0",
        f"while true; do (sleep {LONG} &) ; sleep 0.01; done",
        "while true; do :; done",
    ],
)
def test_a_command_that_does_not_end_cannot_tell_in_time(command: str | tuple[str, ...]) -> None:
    """And nothing of it is left, which is asserted after each test here."""
    assert attempt(command, IMPATIENT_S) == NO_END


def test_of_a_command_that_does_not_end_the_first_line_so_far_is_told() -> None:
    command = f"echo; echo waiting for lock; echo more; sleep {LONG}"
    assert attempt(command, PARTLY_S) == CannotTell("no end within 2 s: waiting for lock")


def test_a_command_without_end_of_output_costs_little() -> None:
    before = os.times()
    assert attempt(("yes",), PARTLY_S) == CannotTell("no end within 2 s: y")
    spent_s = sum(now - then for now, then in zip(os.times()[:4], before[:4], strict=True))
    assert spent_s < 0.4 * PARTLY_S


def test_a_command_with_much_output_is_not_held_up() -> None:
    assert attempt("head --bytes=4M /dev/zero; echo; exit 3") == Unhealthy(
        f"exit status 3, expected 0: {'?' * 160}"[:160]
    )


def test_a_command_that_reads_finds_the_end() -> None:
    assert attempt("cat") == WELL


# --- it ends, and something of it does not -------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        f"sleep {LONG} & exit 0",
        f"(sleep {LONG} &) ; exit 0",
        f"sleep {LONG} >/dev/null 2>&1 & exit 0",
        f"trap '' TERM HUP; sleep {LONG} & exit 0",
        f"timeout {LONG} sleep {LONG} & sleep 0.1",
        f"set -m 2>/dev/null; sleep {LONG} & sleep 0.1",
    ],
)
def test_what_a_command_leaves_in_the_background_is_killed(command: str) -> None:
    assert attempt(command) == WELL


def test_a_daemon_of_a_command_is_not_waited_for() -> None:
    """It is not found either: systemd ends it with the unit."""
    try:
        started = time.monotonic()
        assert attempt(f"setsid sh -c 'sleep {LONG} & exit' & wait") == WELL
        assert time.monotonic() - started < 2
        assert long_ones() == 1
    finally:
        assert comes(lambda: kill_long_ones() == 0)


# --- whom and what it runs as --------------------------------------------------------------------


def seen_by_command(script: str, directory: Path) -> dict[str, str]:
    """Lines `name: value` that a command writes."""
    assert attempt(f"{{ {script}; }} >{directory}/seen") == WELL
    lines = (directory / "seen").read_text().splitlines()
    return {name: value.strip() for name, _, value in (each.partition(":") for each in lines)}


def test_a_command_has_neither_privileges_nor_signals_nor_time_of_ours(public: Path) -> None:
    seen = seen_by_command("cat /proc/self/status", public)
    assert {seen[each] for each in ("Uid", "Gid")} == {"65534\t65534\t65534\t65534"}
    assert seen["Groups"] in ("", "65534")
    assert {int(seen[each], 16) for each in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert seen["NoNewPrivs"] == "1"
    assert int(seen["SigBlk"], 16) == 0
    # What Python ignores, or gRPC.
    assert int(seen["SigIgn"], 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0
    assert seen["Umask"] == "0022"


def test_a_command_has_nothing_of_our_environment(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("YAIM_ETCD_PASSWORD", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "LD_PRELOAD_"):
        monkeypatch.setenv(name, "geheim")
    seen = seen_by_command(
        "env | tr = :; echo; echo in: $(pwd); echo fd: $(ls /proc/self/fd)", public
    )
    seen.pop("_", None)
    assert seen == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PWD": "/",
        "": "",
        "in": "/",
        "fd": "0 1 2 3",  # the last is the directory itself
    }


def test_without_the_user_to_run_it_as_a_command_is_not_run() -> None:
    assert check_shell(ShellCheck("true"), PATIENT_S, "no-such-user") == CannotTell(
        "not started: there is no user no-such-user to run it as"
        " (adduser --system --group no-such-user)"
    )


# --- in a coordinator ----------------------------------------------------------------------------

ELSEWHERE = """
import os, signal, sys
from tests.checks.postgres_server import children
from tests.checks.stopwatch import Stopwatch
from tests.checks.stopwatch import Stopwatch
from yaim.checks.shell import ShellCheck, check_shell
exec(sys.argv[1])
verdict = check_shell(ShellCheck(sys.argv[2]), 20.0, "nobody")
print(type(verdict).__name__, verdict.reason, flush=True)
"""


@contextmanager
def coordinator(command: str, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that checks."""
    with subprocess.Popen(
        (sys.executable, "-P", "-c", ELSEWHERE, before, command),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def told(command: str, before: str) -> str:
    with coordinator(command, before) as process:
        answer = process.communicate(timeout=60)[0].strip()
    assert comes(lambda: long_ones() == 0)
    return answer


@pytest.mark.parametrize(
    ("command", "processes"),
    [
        (f"exec sleep {LONG}", 1),
        (f"sleep {LONG} & sleep {LONG} | sleep {LONG}", 4),
        (f"timeout {LONG} sleep {LONG}; true", 3),
        (f"trap '' HUP TERM; kill -STOP $$; sleep {LONG}", 1),
    ],
)
def test_a_command_does_not_outlive_a_coordinator_that_is_killed(
    command: str, processes: int
) -> None:
    with coordinator(command) as process:
        assert comes(lambda: long_ones() == processes + 1)  # and the coordinator itself
        process.kill()
        process.wait()
        # More than once: a process that is just about to become the command shows no arguments.
        assert comes(lambda: not any(long_ones() for _ in range(10)))


def test_an_unprivileged_coordinator_runs_it_as_itself() -> None:
    before = (
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)"
    )
    assert told("id; exit 1", before) == (
        "Unhealthy exit status 1, expected 0: uid=65534(nobody) gid=65534(nogroup)"
        " groups=65534(nogroup)"
    )
    assert told(f"timeout {LONG} sleep {LONG} & exit 0", before) == "Healthy exit status 0"


def test_a_status_that_is_lost_cannot_tell() -> None:
    """The kernel throws it away, and waitpid() would make 0 of it."""
    before = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    assert told("exit 1", before).startswith("CannotTell its exit status was lost")


def test_without_a_free_file_descriptor_it_cannot_tell() -> None:
    for limit in range(4, 14):
        before = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))"
        assert told("exit 0", before) in (
            "CannotTell it cannot be started: Too many open files",
            "Healthy exit status 0",
        )


# --- it cannot be killed -------------------------------------------------------------------------


class DeadFileSystem:
    """Whoever looks into it waits, and cannot be killed once its request has been read. (So it is
    with NFS mounts whose server has gone.)"""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self.fd},rootmode=40000,user_id=0,group_id=0,allow_other"
        subprocess.run(
            ("mount", "-i", "-t", "fuse", "-o", options, "dead", str(path)),
            pass_fds=(self.fd,),
            check=True,
        )
        self.asked = path.with_name("asked")
        """A file that is there once somebody waits who cannot be killed."""
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        """Answers the first request, in which the kernel asks who we are, and none that follows."""
        unique = struct.unpack_from("=IIQ", os.read(self.fd, 65536))[2]
        os.write(self.fd, struct.pack("=IiQII", 16 + 8, 0, unique, 7, 4))
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while not self._is_ending.is_set():
            if poll.poll(10):
                os.read(self.fd, 65536)
                self.asked.touch()

    def end(self) -> None:
        """All who wait get an error."""
        if not self._is_ending.is_set():
            self._is_ending.set()
            self._thread.join()
            os.close(self.fd)
            subprocess.run(("umount", "--lazy", str(self.path)), check=True)


@pytest.fixture
def dead(public: Path) -> Iterator[DeadFileSystem]:
    directory = public / "dead"
    directory.mkdir()
    made = DeadFileSystem(directory)
    yield made
    made.end()


@pytest.mark.parametrize(
    "end",
    ["", "; true", " & until [ -e {asked} ]; do sleep 0.1; done"],
    ids=["itself", "child", "background"],
)
def test_of_a_command_that_cannot_be_killed_no_second_one_is_started(
    dead: DeadFileSystem, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yaim.checks.transport.command.KILLED_WITHIN_S", KILLED_WITHIN_S)
    start = "" if end else "exec "
    command = f"{start}stat {dead.path}/{LONG}{end.format(asked=dead.asked)}"
    is_background = "until" in end
    first = attempt(command, PATIENT_S if is_background else PARTLY_S)
    assert long_ones() >= 1
    again = [attempt(command, IMPATIENT_S) for _ in range(3)]
    assert len(set(again)) == 1
    assert isinstance(again[0], CannotTell)
    why = again[0].reason.removeprefix("not started: ").removesuffix(", of an earlier check")
    assert why.startswith("process ") and why.endswith(" (stat) cannot be killed")
    if is_background:
        assert first == WELL
    else:
        assert first == CannotTell(f"no end within 2 s, and {why}")
    stats = [line for _, line in command_lines() if line.startswith(b"stat\0")]
    assert sum(LONG.encode() in line for line in stats) == 1
    assert attempt(f"true {command}") == WELL
    dead.end()
    assert comes(lambda: long_ones() == 0)
    assert attempt(command, IMPATIENT_S) != again[0]
    attempt(command, IMPATIENT_S)
