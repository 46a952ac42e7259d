"""The shell check: a command that ends with status 0."""

import os
import pwd
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from yaim.checks.transport.command import Command, Ended, Process, StatusLost
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.config_keys import Fault, InvalidValue, required, text
from yaim.text import printable

USER_INSTEAD_OF_ROOT = "yaim"
"""Where the coordinator runs as root, commands do not."""

_EXPECTED = "a command: text for /bin/sh -c, or a list of the program and its arguments"
_read_text = text(r"[^\0]*", f"{_EXPECTED}, without a NUL character")


def command(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str) and value.strip():
        return _read_text(value)
    if isinstance(value, list) and value and value[0]:
        return tuple(_read_text(each) for each in value)
    raise InvalidValue(_EXPECTED)


@dataclass(frozen=True, slots=True)
class ShellCheck:
    """The command runs as the user that the coordinator runs as (as `yaim` if that is root), which
    it cannot change (no_new_privs: sudo does not work), in the directory /, with PATH and LANG as
    in yaim/checks/transport/command.py and no other variables, an empty standard input and
    umask 022."""

    command: str | tuple[str, ...] = required(
        "command that ends with status 0 if the service is healthy: text for /bin/sh -c, or a list",
        command,
    )

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong with keys together."""
        yield from ()

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("/bin/sh", "-c", self.command) if isinstance(self.command, str) else self.command


_lock = threading.Lock()
_left: dict[ShellCheck, Command] = {}
"""Commands that could not be killed, at most one for each check."""


def check_shell(
    check: ShellCheck, timeout_s: float, user_instead_of_root: str = USER_INSTEAD_OF_ROOT
) -> Verdict:
    """Runs the command once, and kills it when its time is up."""
    until = time.monotonic() + timeout_s
    living = _still_living(check)
    if living:
        return CannotTell(f"not started: {_unkillable(living)}, of an earlier check")
    try:
        user = _user(user_instead_of_root)
        with closing(Command(check.arguments, *user)) as started:
            ended = started.wait(until)
    except _NoUser as error:
        return CannotTell(str(error))
    except StatusLost:
        return CannotTell("its exit status was lost: yaim was started with SIGCHLD ignored?")
    except OSError as error:
        return CannotTell(printable(f"it cannot be started: {error.strerror}"))
    with _lock:
        _left[check] = started
    if ended is not None:
        return _judge(check, ended)
    found = f"no end within {timeout_s:.2g} s"
    living = _still_living(check)
    if living:
        found += f", and {_unkillable(living)}"
    line = _first_line(started.output)
    return CannotTell(printable(f"{found}: {line}" if line else found))


def _judge(check: ShellCheck, ended: Ended) -> Verdict:
    if ended.status == 0:
        # And nothing of its output, which may be another one each time.
        return Healthy("exit status 0")
    if ended.status > 0:
        found = f"exit status {ended.status}, expected 0"
    else:
        found = f"killed by {_signal(-ended.status)}"
    line = _first_line(ended.output)
    if ended.status in (126, 127) and not isinstance(check.command, str):
        program = check.command[0]
        start, is_there, why = line.partition(f": exec: {program}: ")
        if is_there and start.startswith("yaim: "):
            # The shell that should have become the program (command.py).
            why = {"Permission denied": "not executable"}.get(why, why)
            return Unhealthy(printable(f"{program}: {why}"))
    return Unhealthy(printable(f"{found}: {line or 'it wrote nothing'}"))


def _first_line(output: bytes) -> str:
    lines = output.decode(errors="replace").splitlines()
    return next((each.strip() for each in lines if each.strip()), "")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _still_living(check: ShellCheck) -> list[Process]:
    """What is left of this check's last command. Forgets the commands of which nothing is left."""
    with _lock:
        for each, command in list(_left.items()):
            living = command.living()
            if not living:
                del _left[each]
            elif each == check:
                return living
    return []


def _unkillable(living: list[Process]) -> str:
    first = min(living, key=lambda each: each.pid)
    return printable(f"process {first.pid} ({first.name[:16]}) cannot be killed")


class _NoUser(Exception):
    """There is no user to run commands as; the text says what to do."""


def _user(instead_of_root: str) -> tuple[int | None, int | None]:
    """The user to become; None: the command runs as this process does."""
    if os.geteuid() != 0:
        return None, None
    try:
        found = pwd.getpwnam(instead_of_root)
    except KeyError:
        raise _NoUser(
            f"not started: there is no user {instead_of_root} to run it as"
            f" (adduser --system --group {instead_of_root})"
        ) from None
    return found.pw_uid, found.pw_gid
