"""Runs a command within a time limit and leaves nothing of it behind.

The command is the first process of a session and process group of its own. When it has ended, or
its time is up, SIGKILL ends its group; when its time is up, or something still holds its output,
also the rest of its session and its descendants. What is not found: a process that has left the
session and lost its parent, and one that has left the group and the output when the command ends
by itself. systemd ends these with the unit.

Should this process be killed itself, a guard, a shell that waits for that, does the same to the
group and the session.
"""

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

KEPT_BYTES = 4096
"""The bytes of the output that are kept; what comes after is thrown away."""
FLOOD_PAUSE_S = 0.01
"""The time between reads of what is thrown away, a pipe's content each: a command that never stops
writing waits for us most of the time, and costs nobody a processor."""
KILLED_WITHIN_S = 0.1
"""A process that lives longer than this after SIGKILL is taken not to end at all: it waits for a
device or for a file system that does not answer."""
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}

_GATE = 'read -r go && exec "$@" </dev/null'
"""This shell program holds the command back until the guard knows its group."""
_GUARD = 'read -r group; read -r over || { kill -KILL -- "-$group"; pkill -KILL -s "$group"; }'


@dataclass(frozen=True, slots=True)
class Ended:
    status: int
    """The exit status; if negative, the number of the signal that killed the command."""
    output: bytes
    """The beginning of its standard output and error together."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process as /proc shows it."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    started: int
    """When the process was started, in the kernel's ticks: no other process with that id has the
    same."""

    @property
    def is_dead(self) -> bool:
        return self.state in ("Z", "X")


class StatusLost(Exception):
    """Somebody else has taken the command's exit status, or SIGCHLD is ignored."""


class Command:
    """A command that is started by its construction, and is to be closed. Two threads must not use
    it at once."""

    def __init__(self, arguments: Sequence[str], user_id: int | None, group_id: int | None) -> None:
        """Without a user the command runs as ours. Raises OSError; a command that is not there ends
        with 127."""
        as_user: tuple[str, ...] = ()
        if user_id is not None:
            as_user = (f"--reuid={user_id}", f"--regid={group_id}", "--init-groups")
        bounds = ("setpriv", "--pdeathsig=KILL", "--no-new-privs", *as_user, "--")
        with ExitStack() as stack:
            self._guard = _Child(("/bin/sh", "-c", _GUARD), subprocess.DEVNULL)
            stack.callback(self._guard.kill)
            gate = ("/bin/sh", "-c", _GATE, "yaim")
            self._main = _Child((*bounds, *gate, *arguments), subprocess.PIPE)
            stack.callback(self._main.kill)
            self._guard.tell(b"%d\n" % self._main.pid)
            self._main.tell(b"\n")
            stack.pop_all()
        self._output = b""
        self._family: dict[int, Process] = {}
        """Every process of the command that was found when it had to be looked for."""

    def wait(self, until: float) -> Ended | None:
        """Waits for the end of the command until then, by time.monotonic(); None if it has not
        ended by then. Raises StatusLost."""
        listened = [self._main.pidfd, self._main.output]
        while self._main.pidfd in listened:
            left_s = until - time.monotonic()
            if left_s <= 0:
                break
            ready = _ready(listened, left_s)
            if self._main.pidfd in ready:
                break
            if self._main.output in ready:
                if not self._read():
                    listened.remove(self._main.output)
                elif len(self._output) == KEPT_BYTES:
                    _ready([self._main.pidfd], min(left_s, FLOOD_PAUSE_S))
        try:
            status = self._main.status()
        except ChildProcessError as error:
            raise StatusLost from error
        if status is None:
            return None
        try:
            self._read()
        except BlockingIOError:
            pass
        return Ended(status, self._output)

    @property
    def output(self) -> bytes:
        """The beginning of what the command has written so far."""
        return self._output

    def close(self) -> None:
        """Kills what is left of the command. Takes a little more than twice KILLED_WITHIN_S at
        most."""
        give_up_at = time.monotonic() + KILLED_WITHIN_S
        if not self._main.has_ended():
            # While it lives, its children are known as such.
            self._kill_family()
        self._main.kill_group()
        self._main.reap(KILLED_WITHIN_S)
        while self._may_have_left_something() and self._kill_family():
            if time.monotonic() > give_up_at:
                break
            threading.Event().wait(0.005)
        self._main.close()
        self._guard.kill()

    def living(self) -> list[Process]:
        """The processes of the closed command that SIGKILL did not end."""
        self._main.process.poll()
        now = filter(None, map(_process, self._family))
        return [
            each
            for each in now
            if not each.is_dead and each.started == self._family[each.pid].started
        ]

    def _read(self) -> bytes:
        """Reads some output, without waiting; nothing if the output has ended. Raises
        BlockingIOError."""
        read = os.read(self._main.output, 65536)
        self._output += read[: KEPT_BYTES - len(self._output)]
        return read

    def _may_have_left_something(self) -> bool:
        """Whether the command may have left something besides daemons. For nearly all commands the
        answer is no, and costs next to nothing."""
        if self._family or self._main.has_group():
            return True
        try:
            return self._read() != b"" and self._read() != b""
        except BlockingIOError:
            return True  # somebody can still write

    def _kill_family(self) -> bool:
        """Kills what is left, and returns whether something of it was still alive."""
        living = [each for each in self._find_family() if not each.is_dead]
        for each in living:
            self._family[each.pid] = each
            try:
                os.kill(each.pid, signal.SIGKILL)
            except OSError:
                pass  # it has gone; or it shows again as living
        return bool(living)

    def _find_family(self) -> Iterator[Process]:
        """The processes of the command's session, their descendants, and what was found before."""
        children: dict[int, list[Process]] = {}
        members = []
        for each in _processes():
            children.setdefault(each.parent, []).append(each)
            known = self._family.get(each.pid)
            if each.session == self._main.pid or (known and known.started == each.started):
                members.append(each)
        seen = set()
        while members:
            each = members.pop()
            if each.pid not in seen:
                seen.add(each.pid)
                members += children.get(each.pid, [])
                yield each


class _Child:
    """A process of ours, in a session of its own."""

    def __init__(self, arguments: Sequence[str], output: int) -> None:
        self.process = subprocess.Popen(
            arguments,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=ENVIRONMENT,
            umask=0o022,
            start_new_session=True,
        )
        self.pid = self.process.pid
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:
            self.process.kill()
            self.process.communicate()
            raise
        if self.process.stdout is not None:
            self.output = self.process.stdout.fileno()
            os.set_blocking(self.output, False)

    def tell(self, line: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line)
        except BrokenPipeError:
            pass  # its status tells why it has ended

    def has_ended(self) -> bool:
        return bool(_ready([self.pidfd], 0))

    def status(self) -> int | None:
        """The exit status; None: the process has not ended. An ended process stays a zombie. Raises
        ChildProcessError."""
        found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def kill_group(self) -> None:
        """Sends a signal to the group, which may be done only before the process is reaped: nobody
        else can have its number until then."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def has_group(self) -> bool:
        """Whether other processes of the group are there after this one was reaped, perhaps as
        zombies."""
        try:
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                pass  # we are the first process of a container, and inherit orphans
        except ChildProcessError:
            pass
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def reap(self, within_s: float) -> None:
        _ready([self.pidfd], within_s)
        self.process.poll()

    def close(self) -> None:
        os.close(self.pidfd)
        for each in (self.process.stdin, self.process.stdout):
            if each is not None:
                each.close()

    def kill(self) -> None:
        self.kill_group()
        self.reap(KILLED_WITHIN_S)
        self.close()


def _ready(descriptors: Sequence[int], within_s: float) -> set[int]:
    poll = select.poll()
    for each in descriptors:
        poll.register(each, select.POLLIN)
    return {each for each, _ in poll.poll(max(0.0, within_s) * 1000)}


def _processes() -> Iterator[Process]:
    for each in Path("/proc").iterdir():
        if each.name.isdecimal() and (found := _process(int(each.name))):
            yield found


def _process(pid: int) -> Process | None:
    try:
        start, _, rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")
    except OSError:
        return None  # it has gone, or is none of our business
    fields = rest.decode().split()
    return Process(
        pid=pid,
        name=start.partition(b"(")[2].decode(errors="replace"),
        state=fields[0],
        parent=int(fields[1]),
        session=int(fields[3]),
        started=int(fields[19]),
    )
