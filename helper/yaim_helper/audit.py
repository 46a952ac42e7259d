"""The record of everything that was asked and done: one JSON object a line, only ever appended.

An intent before each effect, made durable first; a result after it. Whoever is to have an effect
that adds power asks for the intent and goes no further if it cannot be written. Removing goes
ahead all the same, and a later `gap` record tells how many records are missing.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

VERSION = 1


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
            last_line = self._last_line()
        except BlockingIOError as error:
            raise AuditError(f"{path}: another yaim-helper is writing it") from error
        except OSError as error:
            raise AuditError(f"{path}: {error.strerror}") from error
        self._is_torn = bool(last_line) and not last_line.endswith(b"\n")
        self._sequence = _sequence_of(last_line)

    def write(self, records: Iterable[Mapping[str, Any]], *, durable: bool) -> None:
        """Append the records, all or none. Raises AuditError; then they count as missed."""
        records = list(records)
        if not records:
            return
        text = b"\n" if self._is_torn else b""
        sequence = self._sequence
        if self._missed:
            sequence += 1
            text += self._line(sequence, {"type": "gap", "missed": self._missed})
        for record in records:
            sequence += 1
            text += self._line(sequence, record)
        try:
            written = os.write(self._file, text)
            if written != len(text):
                self._is_torn = True
                raise AuditError(f"{self._path}: wrote {written} of {len(text)} bytes")
            if durable:
                os.fdatasync(self._file)
        except OSError as error:
            self._missed += len(records)
            raise AuditError(f"{self._path}: {error.strerror}") from error
        except AuditError:
            self._missed += len(records)
            raise
        self._is_torn = False
        self._missed = 0
        self._sequence = sequence

    def try_write(self, records: Iterable[Mapping[str, Any]], *, durable: bool) -> bool:
        """`write`, for what goes ahead without a record."""
        try:
            self.write(records, durable=durable)
        except AuditError:
            return False
        return True

    def _line(self, sequence: int, record: Mapping[str, Any]) -> bytes:
        whole = {
            **self._common,
            **record,
            "seq": sequence,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "boottime_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        }
        return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    def _last_line(self) -> bytes:
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, 8192, max(0, size - 8192))
        return tail[tail.rfind(b"\n", 0, len(tail) - 1) + 1 :]


def _sequence_of(line: bytes) -> int:
    try:
        sequence = json.loads(line)["seq"]
    except (ValueError, KeyError, TypeError):
        return 0
    return sequence if type(sequence) is int else 0


def boot_id() -> str:
    """Of this boot of the host (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
