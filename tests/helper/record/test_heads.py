"""The head of the record, told to a journal or a syslog that is there."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yaim_helper.record.heads import tell_head

HEAD = "ab" * 32
TEXT = f"audit head host=db1 seq=7 sha256={HEAD}"


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        yield listener


def test_the_journal_is_told_with_fields_of_its_own(tmp_path: Path) -> None:
    with listening(tmp_path / "journal") as journal, listening(tmp_path / "log") as syslog:
        assert tell_head("db1", 7, HEAD, tmp_path / "journal", tmp_path / "log")
        assert journal.recv(9999).decode().splitlines() == [
            f"MESSAGE={TEXT}",
            "PRIORITY=6",
            "SYSLOG_IDENTIFIER=yaim-helper",
            "YAIM_AUDIT_SEQ=7",
            f"YAIM_AUDIT_HASH={HEAD}",
        ]
        syslog.setblocking(False)
        try:
            assert not syslog.recv(9999)
        except BlockingIOError:
            pass


def test_without_a_journal_syslog_is_told(tmp_path: Path) -> None:
    with listening(tmp_path / "log") as syslog:
        assert tell_head("db1", 7, HEAD, tmp_path / "journal", tmp_path / "log")
        assert syslog.recv(9999).decode() == f"<30>yaim-helper: {TEXT}"


def test_without_either_nothing_happens(tmp_path: Path) -> None:
    assert not tell_head("db1", 7, HEAD, tmp_path / "journal", tmp_path / "log")


def test_a_journal_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    with listening(tmp_path / "journal"):
        told = [
            tell_head("db1", 7, HEAD, tmp_path / "journal", tmp_path / "log") for _ in range(999)
        ]
    assert told[0]
    assert not told[-1]
