"""Writing the record: helper/AUDIT.md. Lines are only ever appended, to segments in a directory.

An intent before each effect, made durable first; a result after it. Whoever is to have an effect
that adds power asks for the intent and goes no further if it cannot be written. Removing goes
ahead all the same, and a later `gap` record tells how many records are missing. Each call may take
as long as the disk does: recorder.py makes them.

What earlier lives wrote is read once, at the start (past.py). The files are opened and made by
segments.py.
"""

import ctypes
import errno
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from yaim_helper.owners import Owner
from yaim_helper.record import segments
from yaim_helper.record.chain import (
    VERSION,
    canonical,
    seal,
)
from yaim_helper.record.entries import Entry, latest, segment_lost
from yaim_helper.record.past import Past
from yaim_helper.record.segments import SEGMENT_BYTES
from yaim_helper.record.stamps import boot_id, now
from yaim_helper.stderr import tell

COMPLAIN_EVERY_S = 60.0
_NO_ROOM = os.strerror(errno.ENOSPC)
_MARKER_STEP = 512
"""The bytes by which the marker grows at once: its size seldom changes."""
_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = ctypes.CDLL(None, use_errno=True).sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class AuditError(Exception):
    """The record cannot be written."""


class AuditLog:
    """An open record. Not thread-safe."""

    def __init__(
        self, directory: Path, policy_sha256: str, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        """Raises AuditError."""
        self.path = directory
        self._segment_bytes = segment_bytes
        self._common = {
            "v": VERSION,
            "boot_id": boot_id(),
            "host": socket.gethostname(),
            "policy": policy_sha256,
        }
        self.describe_held: Callable[[], Iterable[Entry] | None] = tuple
        """What each further segment begins with: `held` records; None: that cannot be told now."""
        self._owes_held = False
        """Whether the segment had to begin without, or has become too long since."""
        self._held_at = 0
        """Where in the segment that stands, as far as this life knows."""
        self._complain_at = 0.0
        self.failure: str | None = None
        """Why nothing could be written the last time, or could not now; None: it can be."""
        self._missed = 0
        self._lost: str | None = None
        """What has happened to the segment, if it is not to be written any more."""
        self._before = 0
        self._why: str | None = None
        """The segment before, and what has happened to it."""
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            self._directory = segments.locked(directory)
            numbers = segments.numbers(self._directory)
            self._number = numbers[-1] if numbers else 0
            self._file = segments.opened(self._directory, self._number) if numbers else -1
            past = segments.read_past(self._directory, numbers)
            self._marker, marked = segments.opened_marker(self._directory)
        except FileExistsError as error:
            raise AuditError(
                f"{directory}: is a file; audit-log names a directory: move it away"
            ) from error
        except BlockingIOError as error:
            raise AuditError(f"{directory}: another yaim-helper is writing it") from error
        except OSError as error:
            name = error.filename if isinstance(error.filename, str) else ""
            raise AuditError(f"{directory / name}: {error.strerror}") from error
        self._marker_size = len(marked)
        self.earlier = segments.read_marker(marked)
        """What an earlier life has left in the marker; None: nothing that can be read."""
        self._sequence, self._head = past.sequence, past.head
        if _is_cut(past, self.earlier):
            past.is_whole = False
        self.past = past
        """What earlier lives told, when this was opened."""
        self._torn = past.torn
        """What stands in the segment behind its last record."""
        self._size = os.fstat(self._file).st_size if self._number else 0
        self._is_ended = not self._size or os.pread(self._file, 1, self._size - 1) == b"\n"
        self._is_new = self._size == len(self._torn)

    @property
    def head(self) -> tuple[int, str]:
        """The number and hash of the last record."""
        return self._sequence, self._head

    @property
    def number(self) -> int:
        """The number of the segment; 0: there is none yet."""
        return self._number

    @property
    def wants_held(self) -> bool:
        """Whether the next records should come with what is held."""
        return self._owes_held or self._is_full

    def is_too_long_with(self, more: int) -> bool:
        """Whether with so many bytes more what is held would be so far back in the segment that the
        next start might not find it (_MOST_READ)."""
        return self._size - self._held_at + more >= self._segment_bytes + self._segment_bytes // 4

    @property
    def _is_full(self) -> bool:
        return self._size >= self._segment_bytes

    def miss(self, count: int) -> None:
        """Counts records that were not handed over."""
        self._missed += count

    def write(
        self, records: Iterable[Mapping[str, Any]], *, durable: bool, stamp: Entry | None = None
    ) -> None:
        """Appends the records, with the time and policy of the stamp, or as of now. Raises
        AuditError: not all are written, or perhaps not durably; what is missing counts as missed.
        """
        records = list(records)
        if not records:
            return
        try:
            self._write(records, durable=durable, stamp=stamp or now())
        except OSError as error:
            self._missed += len(records)
            raise AuditError(f"{self.path}: {error.strerror}") from error

    def _write(self, records: list[Mapping[str, Any]], *, durable: bool, stamp: Entry) -> None:
        """Raises OSError."""
        try:
            self._go_on()
            self._append(records, stamp)
            if durable:
                os.fdatasync(self._file)
        except OSError as error:
            # A write that is cut short tells each time of another length.
            self.failure = f"{self.path}: {error.strerror if error.errno else _NO_ROOM}"
            raise
        self.failure = None

    def look(self) -> None:
        """Sees whether the record can be written (`failure`), though nothing is to be: tells of
        what is missing, if anything is, or asks the file system for room. (One in memory, without a
        limit, tells no blocks at all.)"""
        if self._missed:
            with suppress(OSError):
                self._write([], durable=True, stamp=now())
            return
        try:
            found = os.fstatvfs(self._directory)
        except OSError as error:
            # As of a disk that is gone.
            self.failure = f"{self.path}: {error.strerror}"
            return
        if found.f_flag & os.ST_RDONLY:
            self.failure = f"{self.path}: {os.strerror(errno.EROFS)}"
        elif found.f_blocks and not found.f_bavail:
            self.failure = f"{self.path}: {_NO_ROOM}"
        else:
            self.failure = None

    def try_write(
        self, records: Iterable[Mapping[str, Any]], *, durable: bool, stamp: Entry | None = None
    ) -> bool:
        """Does as `write`, for what has happened even if it cannot be written, and returns whether
        it is."""
        try:
            self.write(records, durable=durable, stamp=stamp)
        except AuditError as error:
            self._complain(str(error))
            return False
        return True

    def _complain(self, what: str) -> None:
        """Tells whoever runs the helper, once a minute at most: nobody fills their log that way."""
        now = time.monotonic()
        if now < self._complain_at:
            return
        self._complain_at = now + COMPLAIN_EVERY_S
        tell(f"{what}: nothing is added until the record can be written; make room")

    def mark(
        self,
        deadlines: Mapping[Owner, float],
        stamp: Entry,
        fenced: Mapping[Owner, float] | None = None,
    ) -> None:
        """Writes the latest deadlines, as of the stamp, into the marker. That is handed to the disk
        and not waited for, and nothing depends on it. `fenced` as in entries.latest."""
        if self._missed:
            # It would vouch for what is missing.
            return
        sequence, head = self.head
        whole = {**self._common, **stamp, "seq": sequence, "hash": head}
        whole["owners"] = latest(deadlines, fenced)
        text = canonical(whole)
        steps = -(-(len(text) + 1) // _MARKER_STEP)
        padded = text.ljust(max(steps * _MARKER_STEP, self._marker_size) - 1) + b"\n"
        try:
            os.pwrite(self._marker, padded, 0)
        except OSError:
            return
        self._marker_size = len(padded)
        _sync_file_range(self._marker, 0, 0, _SYNC_FILE_RANGE_WRITE)

    # --- writing -----------------------------------------------------------------------------

    def _append(self, records: list[Mapping[str, Any]], stamp: Entry) -> None:
        """Appends the records, and before them what else has to be told, with the same stamp.
        Raises OSError: the caller counts these records as missed; what of them was written, and
        what was missing before, is counted here."""
        first: list[Mapping[str, Any]] = []
        if self._torn:
            torn = self._torn.removesuffix(b"\n")
            told = {"torn_bytes": len(torn), "torn_sha256": sha256(torn).hexdigest()}
            first.append({"type": "recovery", **told})
        if self._is_new:
            first += self._beginning()
        wants_held = self._owes_held or (self._is_new and self._number > 1)
        held = self.describe_held() if wants_held else ()
        first += held or ()
        if self._missed:
            first.append({"type": "gap", "missed": self._missed})
        lines, hashes = self._sealed([*first, *records], stamp)
        start = b"" if self._is_ended else b"\n"
        text = start + b"".join(lines)
        if held and wants_held:
            self._held_at = self._size
        written = os.write(self._file, text)
        self._size += written
        if written == len(text):
            self._has_written(len(lines), hashes)
            self._torn, self._is_ended, self._missed = b"", True, 0
            self._is_new, self._owes_held = False, held is None
            return
        whole, behind = 0, len(start)
        # A record is whole also without its line break.
        while whole < len(lines) and written >= behind + len(lines[whole]) - 1:
            behind += len(lines[whole])
            whole += 1
        self._has_written(whole, hashes)
        if whole:
            self._torn = b""
        self._torn += text[behind if whole else 0 : written]
        self._is_ended = written > 0 and text[written - 1 : written] == b"\n"
        if whole >= len(first):
            self._missed = 0
            self._is_new, self._owes_held = False, held is None
        self._missed -= max(0, whole - len(first))
        raise OSError(0, f"wrote only {written} of {len(text)} bytes: is the disk full?")

    def _sealed(
        self, records: Iterable[Mapping[str, Any]], stamp: Entry
    ) -> tuple[list[bytes], list[str]]:
        lines, hashes, head = [], [], self._head
        for number, record in enumerate(records, start=self._sequence + 1):
            line, head = seal({**self._common, **record, **stamp, "seq": number}, head)
            lines.append(line)
            hashes.append(head)
        return lines, hashes

    def _has_written(self, count: int, hashes: list[str]) -> None:
        if count:
            self._sequence += count
            self._head = hashes[count - 1]

    # --- segments ----------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Makes sure that there is a segment that can be appended to. Raises OSError."""
        lost = self._lost or self._loss()
        if lost is not None:
            self._lost = lost
            self._reopen()
            self._change_segment()
        elif not self._number:
            self._change_segment()
        elif (
            self._is_full and not self._torn and self._is_ended and self.describe_held() is not None
        ):
            # What is on the disk of the next segment follows from all that is in this one. The
            # kernel tells each of its errors once: it must not get lost here.
            os.fdatasync(self._file)
            try:
                self._change_segment()
            except OSError:
                # Better a segment that is too long than none: files may be what there is no room
                # for. The next life reads the end of it only.
                if self._size >= self._held_at + self._segment_bytes // 2:
                    self._owes_held = True

    def close(self) -> None:
        """Closes its files; another one may write the record then."""
        for each in (self._file, self._marker, self._directory):
            if each >= 0:
                os.close(each)

    def _loss(self) -> str | None:
        """Returns what somebody has done to the segment since it was written; None: nothing."""
        if not segments.is_at(self.path, self._directory):
            return "its directory is gone"
        if not self._number:
            return None
        return segments.loss(self._directory, self._number, self._file, self._size)

    def _reopen(self) -> None:
        """Opens the directory, made anew if it is gone, and the marker, which may have gone, too.
        Raises OSError: then they are as before."""
        directory = self._directory
        if not segments.is_at(self.path, directory):
            self.path.mkdir(mode=0o700, exist_ok=True)
            directory = segments.locked(self.path)
        try:
            marker, marked = segments.opened_marker(directory)
        except OSError:
            if directory != self._directory:
                os.close(directory)
            raise
        os.close(self._marker)
        self._marker, self._marker_size = marker, len(marked)
        if directory != self._directory:
            os.close(self._directory)
            self._directory = directory

    def _change_segment(self) -> None:
        """Goes on to a new segment. Raises OSError: then the one before is the last still."""
        number = max([self._number, *segments.numbers(self._directory)]) + 1
        file = segments.made(self._directory, number)
        if self._number:
            os.close(self._file)
        self._before, self._number, self._file = self._number, number, file
        self._why, self._lost = self._lost, None
        self._torn, self._is_ended, self._size, self._is_new = b"", True, 0, True
        self._held_at = 0

    def _beginning(self) -> Iterable[Mapping[str, Any]]:
        """Returns what a segment begins with: what a reader needs who has no other segment."""
        if self._number > 1:
            yield {"type": "segment", "number": self._number}
        if self._why is not None:
            yield segment_lost(self._before, self._why)


def _is_cut(past: Past, marker: Any) -> bool:
    """Whether the marker tells of a later record of this boot than there is."""
    if marker is None or marker.get("boot_id") != past.boot_id:
        return False
    seq = marker.get("seq")
    return type(seq) is int and seq > past.sequence
