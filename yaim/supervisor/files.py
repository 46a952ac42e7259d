"""Files that the supervisor, which is root, makes or opens: the PID file, the log, locks.

Never follows a link, and never opens what others than root could have put there.
"""

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from yaim.host.ownership import fault_of, what_others_can_change
from yaim.supervisor.error import SuperviseError

LOCKED_WITHIN_S = 5.0
"""A start waits for another one for so long."""
_MOST_OF_A_PID = 32


class PidFile:
    """The file of the daemon's process id. It is locked when this is made, so that a stale file
    does no harm, and written when this is entered. Only root can read it: whoever can read a file
    can lock it (flock(2))."""

    def __init__(self, path: Path) -> None:
        """Raises SuperviseError."""
        self._path = path
        self.file = os.fdopen(opened(path, os.O_RDWR, 0o600, "--pid-file"), "r+", errors="replace")
        found = self.file.read(_MOST_OF_A_PID)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SuperviseError(f"{path}: process {found.strip()} is running already") from None
        if re.fullmatch(r"[0-9]*\n?", found) is None:
            raise SuperviseError(
                f"{path}: is no PID file, and stays: name another with --pid-file, or move it away"
            )
        os.fchmod(self.file.fileno(), 0o600)

    def __enter__(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.file.write(f"{os.getpid()}\n")
        self.file.flush()

    def __exit__(self, *_: object) -> None:
        """Removes the file, but not one that another process has put in its place."""
        with suppress(OSError):
            if os.path.samestat(self._path.lstat(), os.fstat(self.file.fileno())):
                self._path.unlink()


def opened(path: Path, how: int, mode: int, flag: str) -> int:
    """Opens a file of root's, which is made if it is not there; never through a link. Raises
    SuperviseError."""
    flags = how | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        # Who can write there can move a log away. It is no link, and it has no other name.
        is_log = bool(how & os.O_APPEND)
        if fault := what_others_can_change(path.parent, may_be_groups=is_log):
            raise SuperviseError(f"{path}: {fault}; or name another with {flag}")
        opened = os.open(path, flags, mode)
    except OSError as error:
        is_link = error.errno == errno.ELOOP and path.is_symlink()
        why = "is a link, which is not followed" if is_link else error.strerror
        raise SuperviseError(f"{path}: {why}; name another with {flag}") from None
    status = os.fstat(opened)
    # A device as /dev/null can be written by all, and be a log.
    is_device = stat.S_ISCHR(status.st_mode) and is_log
    fault = None if is_device else fault_of(path, status)
    if not is_device and not stat.S_ISREG(status.st_mode):
        fault = f"{path}: is not a regular file"
    elif not is_device and status.st_nlink != 1:
        fault = f"{path}: has other names, too, perhaps that of another's file (hard links)"
    if fault is not None:
        os.close(opened)
        raise SuperviseError(f"{fault}; or name another with {flag}")
    os.set_blocking(opened, True)
    return opened


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file that only root can read: whoever else could read it could hold its
    lock for ever (flock(2)). Raises SuperviseError."""
    with os.fdopen(opened(path, os.O_RDWR, 0o600, "--helper-socket"), "r+") as file:
        give_up_at = time.monotonic() + LOCKED_WITHIN_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    told = f"another process holds a lock on it: end that (fuser {path} names it)"
                    raise SuperviseError(f"{path}: {told}") from None
            time.sleep(0.1)
        yield
