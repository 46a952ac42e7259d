"""The files of the record: its directory, the segments in it, and the marker beside them.

Opens, makes and reads them; what they contain is written by log.py. All but the first function take
the open directory, so that nobody can put another one in its place.
"""

import fcntl
import json
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from yaim_helper.record.chain import MARKER, segment_name, segment_number
from yaim_helper.record.entries import Entry
from yaim_helper.record.past import Past
from yaim_helper.record.stamps import boot_id, session

SEGMENT_BYTES = 4 << 20
"""The bytes after which a segment is followed by the next; it may be longer by what is written
together."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_APPENDED = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""Not blocking: what is no file after all must not hold the helper up."""
_MARKER = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MOST_READ = 2 * SEGMENT_BYTES
"""How many bytes of the record are read at the start."""
_MOST_MARKED = 1 << 20


def locked(directory: Path) -> int:
    """Returns the directory, open and locked: two helpers would each remove what the other renews.
    Raises OSError; BlockingIOError: another process has locked it."""
    opened = os.open(directory, _DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        raise
    return opened


def is_at(path: Path, directory: int) -> bool:
    """Whether the directory is still the one at this path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(directory))
    except OSError:
        return False


def numbers(directory: int) -> list[int]:
    """Returns the numbers of the segments that there are, in order. Raises OSError."""
    names = os.listdir(directory)
    return sorted(filter(None, map(segment_number, names)))


def opened(directory: int, number: int) -> int:
    """Returns a segment, open to append to it. Raises OSError."""
    file = os.open(segment_name(number), _APPENDED, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(0, "is not a file", segment_name(number))
    return file


def made(directory: int, number: int) -> int:
    """Returns a new segment, whose name is on the disk. Raises OSError: then there is none."""
    name = segment_name(number)
    file = os.open(name, _APPENDED | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
    try:
        os.fsync(directory)
    except OSError:
        os.close(file)
        with suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise
    return file


def loss(directory: int, number: int, file: int, size: int) -> str | None:
    """Returns what somebody has done to a segment since the helper wrote it: the open file, and how
    many bytes it has; None: nothing."""
    try:
        found = os.stat(segment_name(number), dir_fd=directory)
    except OSError:
        return "it is gone"
    if not os.path.samestat(found, os.fstat(file)):
        return "another file is in its place"
    if found.st_size != size:
        return f"it has {found.st_size} bytes instead of {size}"
    return None


def read_past(directory: int, segments: Sequence[int]) -> Past:
    """Returns what the last of these segments tells; where that has no beginning yet, also what
    those before it tell."""
    here, left_to_read = (boot_id(), session()), list(segments)
    past, texts, left = Past(*here), list[bytes](), _MOST_READ
    while left_to_read and left and not (past.is_whole or past.is_of_another_boot):
        text = _end_of(directory, left_to_read.pop(), left)
        texts.insert(0, text)
        left -= len(text)
        past = Past(*here)
        for each in texts:
            past.read(each)
    return past


def _end_of(directory: int, number: int, most: int) -> bytes:
    """Returns the last bytes of a segment; nothing if it cannot be read."""
    try:
        file = os.open(segment_name(number), _READ, dir_fd=directory)
        with os.fdopen(file, "rb", buffering=0):
            return os.pread(file, most, max(0, os.fstat(file).st_size - most))
    except OSError:
        return b""


def opened_marker(directory: int) -> tuple[int, bytes]:
    """Returns the marker, open, and what is in it. Raises OSError."""
    file = os.open(MARKER, _MARKER, 0o600, dir_fd=directory)
    return file, os.pread(file, _MOST_MARKED, 0)


def read_marker(found: bytes) -> Entry | None:
    """Returns what an earlier life has left in the marker; None: nothing that can be read."""
    try:
        earlier = json.loads(found)
        json.dumps(earlier, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return earlier if isinstance(earlier, dict) else None
