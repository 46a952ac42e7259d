"""The record of everything that was asked and done: one JSON object a line, only ever appended.

An intent before each effect, made durable first; a result after it. Whoever is to have an effect
that adds power asks for the intent and goes no further if it cannot be written. Removing goes
ahead all the same, and a later `gap` record tells how many records are missing.
"""

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

VERSION = 1
_TAIL_BYTES = 65536
"""More than the longest record, by far."""


class AuditError(Exception):
    """The record cannot be written."""


class AuditLog:
    """An open record. Not thread-safe."""

    def __init__(self, path: Path, policy_sha256: str) -> None:
        """Raises AuditError."""
        self._path = path
        self._common = {
            "v": VERSION,
            "boot_id": boot_id(),
            "host": socket.gethostname(),
            "policy": policy_sha256,
        }
        self._missed = 0
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._file = os.open(
                path,
                os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
            # Two helpers would each remove what the other renews.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tail = self._tail()
        except BlockingIOError as error:
            raise AuditError(f"{path}: another yaim-helper is writing it") from error
        except OSError as error:
            raise AuditError(f"{path}: {error.strerror}") from error
        self._is_torn = bool(tail) and not tail.endswith(b"\n")
        self._sequence = _last_sequence(tail)

    def use_policy(self, policy_sha256: str) -> None:
        """What is recorded from now on was decided by this policy."""
        self._common["policy"] = policy_sha256

    def write(self, records: Iterable[Mapping[str, Any]], *, durable: bool) -> None:
        """Append the records. Raises AuditError: not all are written, or perhaps not durably; what
        is missing counts as missed."""
        records = list(records)
        if not records:
            return
        gaps = [{"type": "gap", "missed": self._missed}] if self._missed else []
        lines = [
            self._line(number, record)
            for number, record in enumerate((*gaps, *records), start=self._sequence + 1)
        ]
        text = (b"\n" if self._is_torn else b"") + b"".join(lines)
        try:
            written = os.write(self._file, text)
        except OSError as error:
            self._missed += len(records)
            raise AuditError(f"{self._path}: {error.strerror}") from error
        whole = max(0, text[:written].count(b"\n") - self._is_torn)
        self._sequence += whole
        self._is_torn = not text[:written].endswith(b"\n")
        if whole >= len(gaps):
            self._missed = 0
        self._missed += len(records) - max(0, whole - len(gaps))
        if written != len(text):
            raise AuditError(f"{self._path}: wrote {written} of {len(text)} bytes")
        if durable:
            try:
                os.fdatasync(self._file)
            except OSError as error:
                raise AuditError(f"{self._path}: {error.strerror}") from error

    def try_write(self, records: Iterable[Mapping[str, Any]], *, durable: bool) -> bool:
        """`write`, for what goes ahead without a record."""
        try:
            self.write(records, durable=durable)
        except AuditError:
            return False
        return True

    def note(self, records: Iterable[Mapping[str, Any]]) -> None:
        """What has happened; it has happened all the same if that cannot be written."""
        try:
            self.write(records, durable=False)
        except AuditError as error:
            print(f"yaim-helper: {error}", file=sys.stderr, flush=True)  # noqa: T201

    def _line(self, sequence: int, record: Mapping[str, Any]) -> bytes:
        whole = {
            **self._common,
            **record,
            "seq": sequence,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "boottime_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        }
        return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    def _tail(self) -> bytes:
        size = os.fstat(self._file).st_size
        return os.pread(self._file, _TAIL_BYTES, max(0, size - _TAIL_BYTES))


def _last_sequence(tail: bytes) -> int:
    """Of the last record that is whole; 0: there is none."""
    for line in reversed(tail.split(b"\n")):
        try:
            sequence = json.loads(line)["seq"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if type(sequence) is int:
            return sequence
    return 0


def boot_id() -> str:
    """Of this boot of the host (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
