"""What goes to the journal: a socket of the test stands where the journal's would. With a real one:
tests/deb."""

import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from yaim.host.journal import JournalHandler, is_standard_error


def fields(entry: bytes) -> dict[str, str]:
    """The fields of an entry whose values all have their length in front."""
    found = {}
    while entry:
        name, _, rest = entry.partition(b"\n")
        (length,) = struct.unpack("<Q", rest[:8])
        found[name.decode()] = rest[8 : 8 + length].decode()
        assert rest[8 + length : 9 + length] == b"\n"
        entry = rest[9 + length :]
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "journal"))
        listener.setblocking(False)
        yield listener


@pytest.fixture
def logger(tmp_path: Path) -> logging.Logger:
    """That of a node, not entered anywhere."""
    logger = logging.Logger("yaim.test")
    logger.addHandler(JournalHandler({"YAIM_NODE": "db1"}, tmp_path / "journal"))
    return logger


def test_an_entry_has_fields(logger: logging.Logger, journal: socket.socket) -> None:
    logger.warning("two\nlines %d", 1)
    found = fields(journal.recv(65536))
    assert (found["MESSAGE"], found["PRIORITY"]) == ("two\nlines 1", "4")
    assert (found["YAIM_NODE"], found["SYSLOG_IDENTIFIER"]) == ("db1", "yaim")
    assert (found["CODE_FILE"], found["LOGGER"]) == (__file__, "yaim.test")
    assert found["CODE_FUNC"] == "test_an_entry_has_fields"


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.CRITICAL, "2"),
        (logging.ERROR, "3"),
        (logging.WARNING, "4"),
        (logging.INFO, "6"),
        (logging.DEBUG, "7"),
        (1, "7"),
    ],
)
def test_each_level_has_its_priority(
    level: int, priority: str, logger: logging.Logger, journal: socket.socket
) -> None:
    logger.setLevel(1)
    logger.log(level, "so")
    assert fields(journal.recv(65536))["PRIORITY"] == priority


def test_what_the_journal_does_not_take_goes_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.Logger("yaim.test")
    logger.addHandler(JournalHandler({}, tmp_path / "none"))
    logger.error("lost?")
    assert capsys.readouterr().err == "lost?\n"


def test_what_cannot_be_formatted_raises_nothing(
    logger: logging.Logger, journal: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.error("%d %s", 1)
    assert "not enough arguments" in capsys.readouterr().err
    logger.error("on")
    assert fields(journal.recv(65536))["MESSAGE"] == "on"


def test_whether_standard_error_is_the_journal_is_what_systemd_says() -> None:
    status = os.fstat(sys.__stderr__.fileno() if sys.__stderr__ else 2)
    stream = f"{status.st_dev}:{status.st_ino}"
    assert is_standard_error({"JOURNAL_STREAM": stream})
    assert not is_standard_error({"JOURNAL_STREAM": f"{stream}0"})
    assert not is_standard_error({})
