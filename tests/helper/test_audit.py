"""The audit record: appended to, numbered without a gap that it does not tell of, and private."""

import json
import os
import re
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from yaim_helper.audit import AuditError, AuditLog, boot_id

from tests.helper.network import filled, small_disk

Line: TypeAlias = tuple[int, dict[str, Any]] | str

POLICY = "0" * 64
OWN_KEYS = {"v", "boot_id", "host", "policy", "seq", "time", "boottime_ns"}


@contextmanager
def opened(path: Path) -> Iterator[AuditLog]:
    """As in a process that ends then: the file is closed."""
    log = AuditLog(path, POLICY)
    try:
        yield log
    finally:
        end(path)


def end(path: Path) -> None:
    """Close the record in this process."""
    for link in Path("/proc/self/fd").iterdir():
        try:
            is_the_record = link.samefile(path)
        except OSError:
            continue
        if is_the_record:
            os.close(int(link.name))


def lines(path: Path) -> list[Line]:
    """Sequence number and what was recorded, or the text of a line that is no record."""
    return [read(line) for line in path.read_text().split("\n")[:-1]]


def read(line: str) -> Line:
    try:
        record = json.loads(line)
    except ValueError:
        return line
    return record["seq"], {k: v for k, v in record.items() if k not in OWN_KEYS}


def note(text: str) -> dict[str, Any]:
    return {"type": "note", "text": text}


def write(log: AuditLog, *texts: str) -> None:
    log.write([note(text) for text in texts], durable=True)


@contextmanager
def room_for(path: Path, size: int) -> Iterator[None]:
    """Files of this process can grow to as much as this file has and `size` bytes more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill_up(log: AuditLog) -> int:
    """Write until there is no room even in the last page of the file; how many were refused."""
    for written in range(200):
        try:
            write(log, f"filler {written}")
        except AuditError as error:
            assert re.search(r": No space left on device$|: wrote \d+ of \d+ bytes$", str(error))
            return 1
    raise AssertionError("the disk does not fill up")


# --- what a record is --------------------------------------------------------------------------


def test_a_record_tells_when_where_and_under_which_policy(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with opened(path) as log:
        write(log, "one")
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    text = path.read_text()
    record = json.loads(text)
    assert text == json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n"
    assert before <= record.pop("boottime_ns") <= after
    age = datetime.now(UTC) - datetime.fromisoformat(record.pop("time"))
    assert timedelta() <= age < timedelta(minutes=1)
    assert record == {
        "v": 1,
        "boot_id": boot_id(),
        "host": socket.gethostname(),
        "policy": POLICY,
        "seq": 1,
        "type": "note",
        "text": "one",
    }


def test_the_boot_id_is_the_kernels() -> None:
    assert boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().rstrip("\n")


def test_a_record_cannot_pass_for_another(tmp_path: Path) -> None:
    """Neither line breaks nor the names of its own keys are of use to whoever is recorded."""
    path = tmp_path / "audit.log"
    with opened(path) as log:
        log.write(
            [note('\n{"seq":7}\r\0\x1b é \ud800') | {"seq": 9, "time": "never"}], durable=True
        )
        write(log, "two")
    assert path.read_bytes().isascii()
    assert lines(path) == [(1, note('\n{"seq":7}\r\0\x1b é \ud800')), (2, note("two"))]
    assert "never" not in path.read_text()


def test_records_that_are_written_together_are_numbered_in_order(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with opened(path) as log:
        write(log, "one", "two")
        write(log)
        assert log.try_write([note("three")], durable=False)
    assert lines(path) == [(1, note("one")), (2, note("two")), (3, note("three"))]


# --- the file ----------------------------------------------------------------------------------


def test_the_file_and_its_directory_are_roots_alone(tmp_path: Path) -> None:
    path = tmp_path / "made" / "audit.log"
    before = os.umask(0)
    try:
        with opened(path):
            pass
    finally:
        os.umask(before)
    assert [oct(each.stat().st_mode) for each in (path, path.parent)] == ["0o100600", "0o40700"]


def test_the_sequence_continues_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with opened(path) as log:
        write(log, "one", "two")
    with opened(path) as log:
        write(log, "three")
    assert lines(path) == [(1, note("one")), (2, note("two")), (3, note("three"))]


def test_the_sequence_continues_after_a_long_record(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with opened(path) as log:
        write(log, "one", "x" * 7000)
    with opened(path) as log:
        write(log, "three")
    assert [line[0] for line in lines(path)] == [1, 2, 3]


def test_a_torn_last_line_is_ended_before_the_next_record(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with opened(path) as log:
        write(log, "one", "two")
    whole = path.read_text()
    path.write_text(whole + '{"boot_id":"e77')
    with opened(path) as log:
        write(log, "three")
        write(log, "four")
    assert path.read_text().startswith(whole + '{"boot_id":"e77\n{')
    notes = [line if isinstance(line, str) else line[1] for line in lines(path)]
    assert notes == [note("one"), note("two"), '{"boot_id":"e77', note("three"), note("four")]


def test_the_sequence_continues_after_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with opened(path) as log:
        write(log, "one", "two")
    with path.open("a") as file:
        file.write('{"boot_id":"e77')
    with opened(path) as log:
        write(log, "three")
    assert lines(path)[-1] == (3, note("three"))


def test_a_record_that_lacks_only_its_line_break_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with opened(path) as log:
        write(log, "one")
    path.write_text(path.read_text().rstrip("\n"))
    with opened(path) as log:
        write(log, "two")
    assert lines(path) == [(1, note("one")), (2, note("two"))]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with opened(path) as log:
        with pytest.raises(AuditError) as caught:
            AuditLog(path, POLICY)
        write(log, "one")
    assert str(caught.value) == f"{path}: another yaim-helper is writing it"
    assert lines(path) == [(1, note("one"))]
    with opened(path) as log:
        write(log, "two")


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    path = tmp_path / "audit.log"
    path.symlink_to(tmp_path / "real")
    with pytest.raises(AuditError) as caught:
        AuditLog(path, POLICY)
    assert str(caught.value) == f"{path}: Too many levels of symbolic links"


@pytest.mark.parametrize(
    ("make", "reason"),
    [(os.mkfifo, "Illegal seek"), (Path.mkdir, "Is a directory")],
)
def test_what_is_not_a_file_is_refused(tmp_path: Path, make: Any, reason: str) -> None:
    path = tmp_path / "audit.log"
    make(path)
    with pytest.raises(AuditError) as caught:
        AuditLog(path, POLICY)
    assert str(caught.value) == f"{path}: {reason}"


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no" / "such" / "audit.log"
    with pytest.raises(AuditError) as caught:
        AuditLog(path, POLICY)
    assert str(caught.value) == f"{path}: No such file or directory"


# --- when it cannot be written -----------------------------------------------------------------


def test_a_gap_is_told_when_a_full_disk_has_room_again(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        path = disk / "audit.log"
        with opened(path) as log:
            write(log, "one")
            with filled(disk):
                missed = fill_up(log)
                with pytest.raises(AuditError, match=r"No space left on device$"):
                    write(log, "lost", "lost")
                assert not log.try_write([note("lost")], durable=True)
            write(log, "back")
            write(log, "again")
        *before, gap, back, again = [line for line in lines(path) if not isinstance(line, str)]
    assert [sequence for sequence, _ in (*before, gap, back, again)] == list(
        range(1, len(before) + 4)
    )
    assert [gap[1], back[1], again[1]] == [
        {"type": "gap", "missed": missed + 3},
        note("back"),
        note("again"),
    ]


def test_a_record_that_is_written_in_part_is_missed_and_its_line_ended(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with opened(path) as log:
        write(log, "one")
        with room_for(path, 10):
            with pytest.raises(AuditError, match=r": wrote 10 of \d+ bytes$"):
                write(log, "lost")
            with pytest.raises(AuditError, match="File too large"):
                write(log, "lost")
        write(log, "back")
    one, torn, gap, back = lines(path)
    assert (one, gap, back) == (
        (1, note("one")),
        (2, {"type": "gap", "missed": 2}),
        (3, note("back")),
    )
    assert isinstance(torn, str)
    assert len(torn) == 10


def test_a_gap_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with opened(path) as log:
        write(log, "one")
        for text in ("two", "three"):
            with room_for(path, 0):
                assert not log.try_write([note("lost")], durable=True)
            write(log, text)
    gap = {"type": "gap", "missed": 1}
    assert lines(path) == [
        (1, note("one")),
        (2, gap),
        (3, note("two")),
        (4, gap),
        (5, note("three")),
    ]


def test_no_two_records_have_the_same_number_after_a_batch_was_written_in_part(
    tmp_path: Path,
) -> None:
    path = tmp_path / "audit.log"
    with opened(path) as log:
        write(log, "one")
        size = path.stat().st_size
        with room_for(path, size + 20), pytest.raises(AuditError):
            write(log, "two", "three")
        write(log, "four")
    numbers = [line[0] for line in lines(path) if not isinstance(line, str)]
    assert numbers == sorted(set(numbers))


def test_there_is_no_record_on_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        path = disk / "audit.log"
        path.touch()
        with (
            filled(disk),
            opened(path) as log,
            pytest.raises(AuditError, match=r"No space left on device$"),
        ):
            write(log, "lost")
        assert path.read_bytes() == b""
