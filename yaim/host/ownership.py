"""Who can change what is at a path: root alone, or others, too. What root acts on has to be root's.

Goes the way that the kernel goes (path_resolution(7)): every directory on it and every link counts,
as whoever can change one of them says what is at its end. The same as in the helper, as they share
no code; the two are held against each other.
"""

import errno
import os
import stat
from pathlib import Path

_MOST_LINKS = 40
"""The most links that the kernel follows."""


def what_others_can_change(path: Path, *, may_be_groups: bool = False) -> str | None:
    """The first place on the way to it, or itself, that others than root can change, and what to do
    about it. None: nobody else can. Raises OSError if it is not there or cannot be looked at.

    `may_be_groups`: a group may write the directory itself, as /var/log in Ubuntu: whoever makes
    something in there has to see to it that it is no link, and no other thing of root's."""
    at, left, links = Path("/"), [*reversed(path.absolute().parts[1:])], 0
    found = fault_of(at, at.lstat())
    while left and found is None:
        name = left.pop()
        if name == "..":
            # There is no link in what stands before it: this is where the kernel goes, too.
            at = at.parent
            continue
        at /= name
        status = at.lstat()
        if at.parts[1:2] == ("proc",) and at.parent.name == "fd" and not left:
            # A descriptor (proc_pid_fd(5)): what is opened is what it stands for.
            status = at.stat()
        if stat.S_ISDIR(status.st_mode) and not left and may_be_groups:
            found = fault_of(at, status, writers=stat.S_IWOTH)
        elif stat.S_ISLNK(status.st_mode) and not at.parent.stat().st_mode & stat.S_ISVTX:
            found = None  # whose it is does not matter: nobody can put another in its place
        else:
            found = fault_of(at, status)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = at.readlink()
            left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            at = Path("/") if target.is_absolute() else at.parent
    return found


def make_directory(path: Path) -> str | None:
    """Makes a directory, and those above it that are missing, but not below what others can change.
    Returns what what_others_can_change() tells of it otherwise."""
    missing, there = [], path.absolute()
    while True:
        try:
            fault = what_others_can_change(there)
            break
        except FileNotFoundError:
            missing.append(there)
            there = there.parent
    if fault is not None:
        return fault
    for each in reversed(missing):
        each.mkdir(mode=0o755, exist_ok=True)
    return what_others_can_change(path)


def fault_of(
    at: Path, status: os.stat_result, writers: int = stat.S_IWGRP | stat.S_IWOTH
) -> str | None:
    """What what_others_can_change() would tell of this place alone."""
    if status.st_uid != 0:
        chown = "chown -h root" if stat.S_ISLNK(status.st_mode) else "chown root"
        return f"{at}: belongs to uid {status.st_uid}, expected root ({chown})"
    # In a sticky directory each can change only what is his own. A link has no mode.
    is_sticky = stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_ISVTX)
    is_open = bool(status.st_mode & writers)
    if is_open and not is_sticky and not stat.S_ISLNK(status.st_mode):
        return (
            f"{at}: can be written by others than root (mode {status.st_mode & 0o7777:04o});"
            " use chmod go-w"
        )
    return None
