"""Log lines as the journal's own entries, with fields to look for (`journalctl YAIM_CLUSTER=pg`).

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

import logging
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

JOURNAL = Path("/run/systemd/journal/socket")
_LENGTH = struct.Struct("<Q")
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)
"""Levels of logging, and the priorities of syslog(3)."""


def is_standard_error(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether standard error goes to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Sends lines to the journal. Those that the journal does not take go to standard error. A line
    that cannot be formatted costs a message, as with any handler of logging's."""

    def __init__(self, fields: Mapping[str, str], journal: Path = JOURNAL) -> None:
        super().__init__()
        self._fields = fields
        self._journal = journal
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
        except Exception:
            self.handleError(record)
            return
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(next((p for level, p in _PRIORITIES if record.levelno >= level), 7)),
            "SYSLOG_IDENTIFIER": "yaim",
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
            "LOGGER": record.name,
            **self._fields,
        }
        try:
            self._socket.sendto(
                b"".join(_field(*each) for each in fields.items()), str(self._journal)
            )
        except OSError:
            super().emit(record)


def _field(name: str, value: str) -> bytes:
    """A field with its length, because it may have several lines."""
    text = value.encode(errors="replace")
    return b"%s\n%s%s\n" % (name.encode(), _LENGTH.pack(len(text)), text)
