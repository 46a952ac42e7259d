"""The head of the record, told to the journal, else to syslog: a witness outside the record's own
directory (helper/AUDIT.md). Nothing waits for them, and nothing fails with them.
"""

import socket
from pathlib import Path

JOURNAL = Path("/run/systemd/journal/socket")
"""https://systemd.io/JOURNAL_NATIVE_PROTOCOL/"""
SYSLOG = Path("/dev/log")
IDENTIFIER = "yaim-helper"
_INFO = 6
_DAEMON = 3 << 3
"""Facility (RFC 3164 section 4.1.1)."""


def tell_head(
    host: str, sequence: int, head: str, journal: Path = JOURNAL, syslog: Path = SYSLOG
) -> bool:
    """Tells the head, and returns whether somebody took it."""
    text = f"audit head host={host} seq={sequence} sha256={head}"
    fields = {
        "MESSAGE": text,
        "PRIORITY": _INFO,
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "YAIM_AUDIT_SEQ": sequence,
        "YAIM_AUDIT_HASH": head,
    }
    native = "".join(f"{key}={value}\n" for key, value in fields.items())
    return _send(journal, native) or _send(syslog, f"<{_DAEMON + _INFO}>{IDENTIFIER}: {text}")


def _send(to: Path, text: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            # A host may be called anything.
            sender.sendto(text.encode(errors="replace"), str(to))
        except OSError:
            return False
    return True
