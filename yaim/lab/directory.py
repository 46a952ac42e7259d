"""The directory of a lab, where temporary files are. It is made with a lock, and deleted when
nobody holds that any more."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from yaim.host.ownership import what_others_can_change
from yaim.lab.namespaces import LabError

_PREFIX = "yaim-lab-"
"""How the name of every lab's directory begins."""


def sweep() -> None:
    """Deletes what labs that were killed have left; nothing of another user with such a name."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            lock = _lock(directory)
        except OSError:
            continue
        is_ours = os.fstat(lock).st_uid == os.geteuid()
        os.close(lock)
        if is_ours:
            shutil.rmtree(directory, ignore_errors=True)


def new_directory() -> tuple[Path, int]:
    """Makes the directory and its lock, which is held before the directory has a name that `sweep`
    of another lab looks for. Raises LabError."""
    if fault := what_others_can_change(Path(tempfile.gettempdir())):
        raise LabError(f"{fault}, or set TMPDIR to another directory")
    made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}"))
    lock = _lock(made)
    return made.rename(made.with_name(made.name.removeprefix("."))), lock


def _lock(directory: Path) -> int:
    """Takes the lock of a directory, as long as this process lives or until it is closed. Raises
    OSError if somebody else has it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
