"""A file by which anybody on this host can ask for all checks at once (`yaim check --now`), as
Patroni's callbacks do when a role changes: who opens it, asks.

Nothing else can be asked for, nothing is answered, and nothing is taken from anybody: the file is
empty, and nobody may write to it. inotify(7) tells that it was opened; the kernel keeps one such
event, however often that was. So nobody can have this process wait in the kernel, where SIGKILL
does not end it. On a Unix socket that takes passing a file along whose close hangs (before Linux
6.16); on a FIFO, writing to it from memory whose page fault hangs, as the writer has the pipe's
mutex meanwhile (anon_pipe_write() in fs/pipe.c), without which nobody reads or closes it.

Then all checks are made, and again each ROUND_S for SETTLES_S, as what has changed may take a
moment to show: Patroni calls back when PostgreSQL is promoted, and some milliseconds or more later
it is the primary. However many ask, it is no more often than that.

As long as this process lives, it has a lock for writing on the file (F_SETLK, fcntl(2)). By that
others see that somebody looks. It cannot be forged, as it takes a descriptor for writing.
"""

import ctypes
import errno
import fcntl
import logging
import os
import select
import stat
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

NAME = "now"
DIRECTORY = "yaim-check"
"""How the name of the directory begins that the unit has systemd make (RuntimeDirectory=)."""
ROUND_S, SETTLES_S = 0.2, 2.0
_ROUNDS = 1 + round(SETTLES_S / ROUND_S)
_IN_OPEN = 0x20
"""include/uapi/linux/inotify.h"""
_EVENTS_SIZE = 4096
_libc = ctypes.CDLL(None, use_errno=True)


def path_of(value: str, environment: Mapping[str, str]) -> Path | None:
    """Returns the file's path, for a value of check-trigger; None: there is to be none."""
    if value == "off":
        return None
    if value != "auto":
        return Path(value)
    directories = map(Path, environment.get("RUNTIME_DIRECTORY", "").split(":"))
    return next((each / NAME for each in directories if each.name.startswith(DIRECTORY)), None)


class CheckTrigger:
    """Is there from its construction on. If it cannot, it says so; the node works without."""

    def __init__(self, path: Path, make_checks: Callable[[], None]) -> None:
        """`make_checks` does not block."""
        self._make_checks = make_checks
        try:
            self._file, self._events = _watched(path)
        except OSError as error:
            told = error.strerror or error
            logger.warning("check-trigger: checks cannot be asked for at %s: %s", path, told)
            return
        threading.Thread(target=self._work, name="asked for checks", daemon=True).start()

    def _work(self) -> None:
        rounds = 0
        while True:
            if self._is_asked(waits=not rounds):
                logger.debug("asked for all checks")
                rounds = _ROUNDS
            if rounds:
                self._make_checks()
                rounds -= 1
            time.sleep(ROUND_S)

    def _is_asked(self, *, waits: bool) -> bool:
        poll = select.poll()
        poll.register(self._events, select.POLLIN)
        # A shortage of memory, for example, is none that must end the coordinator.
        with suppress(OSError):
            return bool(poll.poll(None if waits else 0) and os.read(self._events, _EVENTS_SIZE))
        return False


def _watched(path: Path) -> tuple[int, int]:
    """Makes the file and returns its descriptor, which has the lock, and inotify's. The lock comes
    when the opening is seen, and others can open it only then. Raises OSError."""
    with suppress(FileNotFoundError):
        _remove_earlier(path)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    events = _called(_libc.inotify_init1, os.O_CLOEXEC | os.O_NONBLOCK)
    _called(_libc.inotify_add_watch, events, os.fsencode(path), _IN_OPEN)
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.fchmod(file, 0o444)
    return file, events


def _remove_earlier(path: Path) -> None:
    """Removes what an earlier life has left; raises OSError if it is anything else."""
    there = path.lstat()
    if not stat.S_ISREG(there.st_mode) or there.st_size or there.st_uid != os.geteuid():
        raise FileExistsError(errno.EEXIST, "something else is there: remove it, or name a path")
    with path.open("rb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            told = "another coordinator has it: give each a path of its own"
            raise FileExistsError(errno.EEXIST, told) from None
    path.unlink()


def _called(function: Callable[..., int], *arguments: object) -> int:
    if (result := function(*arguments)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
