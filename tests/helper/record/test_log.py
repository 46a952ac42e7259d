"""The audit record: appended to, chained, numbered without a gap that it does not tell of, and
private (helper/AUDIT.md)."""

import errno
import fcntl
import json
import os
import resource
import socket
import subprocess
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from yaim_helper.owners import Owner
from yaim_helper.record.chain import GENESIS, MARKER, canonical, record_hash, seal, segment_name
from yaim_helper.record.log import AuditError, AuditLog
from yaim_helper.record.stamps import boot_id, now

from tests.helper.network import filled, small_disk
from tests.helper.process import read_records
from tests.helper.record.logs import (
    POLICY,
    SEGMENT,
    A,
    X,
    assert_chained,
    fill_up,
    held,
    intent,
    lines,
    note,
    opened,
    owners,
    read_sound,
    room_for,
    write,
)

# --- what a record is --------------------------------------------------------------------------


def test_a_record_tells_when_where_and_under_which_policy(tmp_path: Path) -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with opened(tmp_path) as log:
        write(log, "one")
        head = log.head
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    text = (tmp_path / SEGMENT).read_text()
    record = json.loads(text)
    assert text.encode() == canonical(record) + b"\n"
    assert record["hash"] == record_hash(record)
    assert head == (1, record.pop("hash"))
    assert before <= record.pop("boottime_ns") <= after
    age = datetime.now(UTC) - datetime.fromisoformat(record.pop("time"))
    assert timedelta() <= age < timedelta(minutes=1)
    assert record == {
        "v": 2,
        "boot_id": boot_id(),
        "host": socket.gethostname(),
        "policy": POLICY,
        "seq": 1,
        "type": "note",
        "text": "one",
        "prev": GENESIS,
    }


def test_a_records_hash_is_as_the_documentation_says() -> None:
    """Computed here by hand, with another program."""
    line, found = seal({"b": 1, "a": "é"}, GENESIS)
    text = GENESIS + '{"a":"\\u00e9","b":1,"prev":"' + GENESIS + '"}'
    told = subprocess.run(["sha256sum"], input=text.encode(), capture_output=True, check=True)
    assert told.stdout.split()[0].decode() == found
    assert line == f'{{"a":"\\u00e9","b":1,"hash":"{found}","prev":"{GENESIS}"}}\n'.encode()


def test_the_boot_id_is_the_kernels() -> None:
    assert boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().rstrip("\n")


def test_a_record_cannot_pass_for_another(tmp_path: Path) -> None:
    """Neither line breaks nor the names of its own keys are of use to whoever is recorded."""
    with opened(tmp_path) as log:
        log.write(
            [note('\n{"seq":7}\r\0\x1b é \ud800') | {"seq": 9, "time": "never"}], durable=True
        )
        write(log, "two")
    assert (tmp_path / SEGMENT).read_bytes().isascii()
    assert lines(tmp_path) == [(1, note('\n{"seq":7}\r\0\x1b é \ud800')), (2, note("two"))]
    assert "never" not in (tmp_path / SEGMENT).read_text()


def test_records_that_are_written_together_are_numbered_and_chained(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        write(log, "one", "two")
        write(log)
        assert log.try_write([note("three")], durable=False)
        then = {"time": "2027-01-15T08:00:00.000000+00:00", "boottime_ns": 1, "policy": "1" * 64}
        assert log.try_write([note("four")], durable=False, stamp=then)
    texts = ("one", "two", "three", "four")
    assert lines(tmp_path) == [(n, note(text)) for n, text in enumerate(texts, start=1)]
    assert_chained(tmp_path)
    *_, three, four = read_records(tmp_path)
    assert three["policy"] == POLICY
    assert {key: four[key] for key in then} == then


# --- segments ----------------------------------------------------------------------------------


def test_its_files_and_its_directory_are_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "made"
    before = os.umask(0)
    try:
        with opened(path) as log:
            write(log, "one")
    finally:
        os.umask(before)
    modes = [oct(each.stat().st_mode) for each in (path / SEGMENT, path / MARKER, path)]
    assert modes == ["0o100600", "0o100600", "0o40700"]


def test_the_chain_continues_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        write(log, "one", "x" * 7000)
    with opened(tmp_path) as log:
        assert log.head[0] == 2
        write(log, "three")
    assert [line[0] for line in lines(tmp_path)] == [1, 2, 3]
    assert_chained(tmp_path)


def test_a_segment_that_is_full_is_followed_by_the_next(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=1000) as log:
        log.describe_held = lambda: [{"type": "held", "addresses": [], "more": False}]
        for number in range(6):
            write(log, f"{number}")
    names = sorted(each.name for each in tmp_path.glob("audit-*"))
    assert len(names) > 2
    assert names == [segment_name(n) for n in range(1, len(names) + 1)]
    assert_chained(tmp_path)
    for number, name in enumerate(names[1:], start=2):
        first = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert [each["type"] for each in first][:3] == ["segment", "held", "note"]
        assert first[0]["number"] == number
    with opened(tmp_path, segment_bytes=1000) as log:
        assert log.number == len(names)
        write(log, "after")
    assert_chained(tmp_path)


def test_a_segment_is_on_the_disk_before_the_next_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def sync(file: int) -> None:
        path = Path(f"/proc/self/fd/{file}").readlink()
        synced.append((path, len(list(tmp_path.glob("audit-*")))))

    with opened(tmp_path, segment_bytes=1000) as log:
        monkeypatch.setattr(os, "fdatasync", sync)
        while not (tmp_path / segment_name(2)).exists():
            log.try_write([note("more")], durable=False)
    assert synced == [(tmp_path / SEGMENT, 1)]


def test_a_segment_that_does_not_get_to_the_disk_is_not_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of that once, and whoever has written there has to know."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with opened(tmp_path, segment_bytes=1) as log:
        write(log, "one")
        monkeypatch.setattr(os, "fdatasync", fail)
        with pytest.raises(AuditError, match="Input/output error"):
            log.write([note("two")], durable=False)
        assert log.number == 1


def test_a_torn_last_line_is_ended_and_told(tmp_path: Path) -> None:
    path = tmp_path / SEGMENT
    with opened(tmp_path) as log:
        write(log, "one", "two")
    whole = path.read_text()
    torn = '{"boot_id":"e77'
    path.write_text(whole + torn)
    with opened(tmp_path, segment_bytes=1) as log:
        write(log, "three")
    assert path.read_text().startswith(whole + torn + "\n{")
    told = {"type": "recovery", "torn_bytes": len(torn)}
    told["torn_sha256"] = sha256(torn.encode()).hexdigest()
    assert lines(tmp_path) == [
        (1, note("one")),
        (2, note("two")),
        torn,
        (3, told),
        (4, note("three")),
    ]
    assert_chained(tmp_path)


def test_several_torn_lines_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / SEGMENT
    with opened(tmp_path) as log:
        write(log, "one")
    path.write_text(path.read_text() + "{\n{{\n")
    with opened(tmp_path) as log:
        write(log, "two")
    _, *torn, told, two = lines(tmp_path)
    assert torn == ["{", "{{"]
    hashed = sha256(b"{\n{{").hexdigest()
    assert told == (2, {"type": "recovery", "torn_bytes": 4, "torn_sha256": hashed})
    assert two == (3, note("two"))


def test_a_record_that_lacks_only_its_line_break_is_kept(tmp_path: Path) -> None:
    path = tmp_path / SEGMENT
    with opened(tmp_path) as log:
        write(log, "one")
    path.write_text(path.read_text().rstrip("\n"))
    with opened(tmp_path) as log:
        write(log, "two")
    assert lines(tmp_path) == [(1, note("one")), (2, note("two"))]
    assert_chained(tmp_path)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        with pytest.raises(AuditError) as caught:
            AuditLog(tmp_path, POLICY)
        write(log, "one")
    assert str(caught.value) == f"{tmp_path}: another yaim-helper is writing it"
    with opened(tmp_path) as log:
        write(log, "two")
    assert [line[0] for line in lines(tmp_path)] == [1, 2]


@pytest.mark.parametrize("name", [SEGMENT, MARKER])
def test_a_symbolic_link_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "real").touch()
    (tmp_path / name).symlink_to(tmp_path / "real")
    with pytest.raises(AuditError) as caught:
        AuditLog(tmp_path, POLICY)
    assert str(caught.value) == f"{tmp_path}/{name}: Too many levels of symbolic links"


@pytest.mark.parametrize(
    ("make", "reason"), [(os.mkfifo, "is not a file"), (Path.mkdir, "Is a directory")]
)
def test_what_is_not_a_file_is_refused(tmp_path: Path, make: Any, reason: str) -> None:
    path = tmp_path / SEGMENT
    make(path)
    with pytest.raises(AuditError) as caught:
        AuditLog(tmp_path, POLICY)
    assert str(caught.value) == f"{path}: {reason}"


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no" / "such"
    with pytest.raises(AuditError) as caught:
        AuditLog(path, POLICY)
    assert str(caught.value) == f"{path}: No such file or directory"


def test_a_file_instead_of_the_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    path.touch()
    with pytest.raises(AuditError) as caught:
        AuditLog(path, POLICY)
    assert str(caught.value) == f"{path}: is a file; audit-log names a directory: move it away"


# --- the marker --------------------------------------------------------------------------------


def test_the_marker_tells_the_latest_deadlines_to_the_next_life(tmp_path: Path) -> None:
    deadlines = {Owner(7, str(number)): 5.0 for number in range(100)}
    with opened(tmp_path) as log:
        assert log.earlier is None
        write(log, "one")
        log.mark(deadlines, now())
        log.mark({A: 5.5}, now())
        head = log.head
    text = (tmp_path / MARKER).read_bytes()
    assert len(text) % 512 == 0
    assert text.endswith(b" \n")
    with opened(tmp_path) as log:
        assert log.earlier is not None
        assert log.earlier["owners"] == [{"uid": 7, "cluster": "a", "deadline_ns": 5500000000}]
        assert (log.earlier["seq"], log.earlier["hash"]) == head
        assert log.earlier["boot_id"] == boot_id()


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"[" * 9000, b'{"a":NaN}', b" " * 99999])
def test_a_damaged_marker_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MARKER).write_bytes(text)
    with opened(tmp_path) as log:
        assert log.earlier is None


def test_a_marker_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        write(log, "one")
        with room_for(tmp_path / MARKER, 0):
            log.mark({}, now())
        write(log, "two")
    assert (tmp_path / MARKER).read_bytes() == b""


def test_a_marker_does_not_vouch_for_a_record_that_lacks_some(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        write(log, "one")
        log.miss(1)
        log.mark({A: 5.5}, now())
        assert (tmp_path / MARKER).read_bytes() == b""
        write(log, "two")
        log.mark({A: 5.5}, now())
    assert b'"deadline_ns":5500000000' in (tmp_path / MARKER).read_bytes()


# --- when it cannot be written -----------------------------------------------------------------


def test_a_gap_is_told_when_a_full_disk_has_room_again(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        path = disk / "audit"
        with opened(path) as log:
            write(log, "one")
            with filled(disk):
                missed = fill_up(log)
                with pytest.raises(AuditError, match=r"No space left on device$"):
                    write(log, "lost", "lost")
                assert not log.try_write([note("lost")], durable=True)
            write(log, "back")
            write(log, "again")
        told = [line for line in lines(path) if not isinstance(line, str)]
        assert [number for number, _ in told] == list(range(1, len(told) + 1))
        *_, gap, back, again = [record for _, record in told]
        assert (gap, back, again) == (
            {"type": "gap", "missed": missed + 3},
            note("back"),
            note("again"),
        )
        assert_chained(path)


def test_a_record_that_is_written_in_part_is_missed_and_its_line_ended(tmp_path: Path) -> None:
    path = tmp_path / SEGMENT
    with opened(tmp_path) as log:
        write(log, "one")
        with room_for(path, 10):
            with pytest.raises(AuditError, match=r": wrote only 10 of \d+ bytes"):
                write(log, "lost")
            with pytest.raises(AuditError, match="File too large"):
                write(log, "lost")
        write(log, "back")
    one, torn, recovery, gap, back = lines(tmp_path)
    assert isinstance(torn, str)
    assert len(torn) == 10
    hashed = sha256(torn.encode()).hexdigest()
    assert [one, recovery, gap, back] == [
        (1, note("one")),
        (2, {"type": "recovery", "torn_bytes": 10, "torn_sha256": hashed}),
        (3, {"type": "gap", "missed": 2}),
        (4, note("back")),
    ]
    assert_chained(tmp_path)


@pytest.mark.parametrize("part", range(0, 1200, 7))
def test_wherever_a_write_ends_what_follows_is_numbered_chained_and_told(
    tmp_path: Path, part: int
) -> None:
    """Three records of some 350 bytes: before, inside, between and behind them."""
    path = tmp_path / SEGMENT
    with opened(tmp_path) as log:
        write(log, "one")
        with room_for(path, part):
            has_all = log.try_write([note("a"), note("b"), note("c")], durable=True)
            size = path.stat().st_size
            assert not log.try_write([note("d")], durable=True) or has_all
        assert path.stat().st_size >= size
        write(log, "back")
    found = [line for line in lines(tmp_path) if not isinstance(line, str)]
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    assert_chained(tmp_path)
    texts = [record.get("text") for _, record in found]
    missed = sum(record.get("missed", 0) for _, record in found)
    assert missed == 4 - len({"a", "b", "c", "d"} & set(texts))
    torn = [line for line in lines(tmp_path) if isinstance(line, str)]
    recoveries = [record for _, record in found if record["type"] == "recovery"]
    assert [each["torn_sha256"] for each in recoveries] == (
        [sha256("\n".join(torn).encode()).hexdigest()] if torn else []
    )


def test_a_write_that_lacks_only_the_last_line_break_lacks_nothing(tmp_path: Path) -> None:
    path = tmp_path / SEGMENT
    with opened(tmp_path) as log:
        write(log, "one")
        size = path.stat().st_size
        # Records of one form are of one size, but for the digits of what is counted.
        with room_for(path, size - 1):
            assert not log.try_write([note("two")], durable=True)
            assert log.head[0] == 2
        write(log, "six")
    assert lines(tmp_path) == [(1, note("one")), (2, note("two")), (3, note("six"))]


def test_a_gap_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / SEGMENT
    with opened(tmp_path) as log:
        write(log, "one")
        for text in ("two", "three"):
            with room_for(path, 0):
                assert not log.try_write([note("lost")], durable=True)
            write(log, text)
    gap = {"type": "gap", "missed": 1}
    assert lines(tmp_path) == [
        (1, note("one")),
        (2, gap),
        (3, note("two")),
        (4, gap),
        (5, note("three")),
    ]


def test_a_segment_whose_beginning_does_not_fit_gets_it_later(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=10) as log:
        log.describe_held = lambda: [{"type": "held", "addresses": [], "more": False}]
        write(log, "one")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
        try:
            assert not log.try_write([note("lost")], durable=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        write(log, "two")
    records = [line for line in lines(tmp_path) if not isinstance(line, str)]
    assert [record["type"] for _, record in records] == [
        *("note", "recovery", "segment", "held", "gap", "note"),
    ]
    assert_chained(tmp_path)


def test_whose_an_address_is_stays_on_record_when_there_is_no_room_for_a_further_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segment grows, and the next life reads the end of it only: another user could remove
    the address then."""
    size = 4000
    monkeypatch.setattr("yaim_helper.record.segments._MOST_READ", 2 * size)
    with small_disk(tmp_path, "nr_inodes=4") as disk:
        path = disk / "audit"
        with opened(path, segment_bytes=size) as log:
            log.describe_held = lambda: [held([X, "eth0", 32, A.uid, A.cluster, 9])]
            log.write([held([X, "eth0", 32, A.uid, A.cluster, 9])], durable=True)
            for number in range(100):
                write(log, f"filler {number}")
        assert [each.name for each in sorted(path.iterdir())] == [SEGMENT, MARKER]
        assert (path / SEGMENT).stat().st_size > 4 * size
        kinds = [record["type"] for record in read_records(path)]
        assert 3 < kinds.count("held") < 30, "not with each record"
        with opened(path, segment_bytes=size) as log:
            assert owners(log) == {X: A}
            assert log.past.is_whole


def test_there_is_no_record_on_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        path = disk / "audit"
        path.mkdir()
        (path / SEGMENT).touch()
        with (
            filled(disk),
            opened(path) as log,
            pytest.raises(AuditError, match=r"No space left on device$"),
        ):
            write(log, "lost")
        assert (path / SEGMENT).read_bytes() == b""


def test_a_record_on_a_disk_that_is_read_only_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        inside = f"mount -o remount,ro {tmp_path}"
        pid = disk.parts[2]
        subprocess.run(["nsenter", "-t", pid, "--mount", "sh", "-c", inside], check=True)
        with pytest.raises(AuditError, match="Read-only file system"):
            AuditLog(disk, POLICY)


def test_a_look_finds_that_there_is_no_room_before_anything_is_to_be_written(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path) as disk:
        path = disk / "audit"
        with opened(path) as log:
            log.look()
            assert log.failure is None
            with filled(disk):
                log.look()
                assert log.failure == f"{path}: No space left on device"
            log.look()
            assert log.failure is None


def test_a_look_finds_that_the_kernel_has_made_the_disk_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does when it finds an error there (ext4(5), errors=remount-ro)."""
    with opened(tmp_path) as log:
        is_read_only = SimpleNamespace(f_flag=os.ST_RDONLY, f_blocks=1000, f_bavail=1000)
        monkeypatch.setattr(os, "fstatvfs", lambda _: is_read_only)
        log.look()
        assert log.failure == f"{tmp_path}: Read-only file system"


def test_a_look_at_a_disk_that_fails_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that looks writes the record, too: without it nothing would be added any more."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with opened(tmp_path) as log:
        with monkeypatch.context() as failing:
            failing.setattr(os, "fstatvfs", fail)
            log.look()
            assert log.failure == f"{tmp_path}: Input/output error"
        log.look()
        assert log.failure is None


def test_a_file_system_that_counts_no_blocks_is_not_full(tmp_path: Path) -> None:
    """As a ramfs, or a tmpfs without a limit."""
    with small_disk(tmp_path, "nr_blocks=0") as disk, opened(disk / "audit") as log:
        log.look()
        assert log.failure is None


def test_what_could_not_be_written_is_told_by_a_look_when_it_can(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        write(log, "one")
        with room_for(tmp_path / SEGMENT, 0):
            log.try_write([note("lost")], durable=False)
            assert log.failure == f"{tmp_path}: File too large"
            log.look()
            assert log.failure == f"{tmp_path}: File too large"
        with room_for(tmp_path / SEGMENT, 10):
            log.look()
            assert log.failure == f"{tmp_path}: No space left on device", "cut short"
        log.look()
        assert log.failure is None
        write(log, "two")
        told = [record for _, record in whole(tmp_path) if record["type"] in ("gap", "note")]
    assert told == [note("one"), {"type": "gap", "missed": 1}, note("two")]


def whole(directory: Path) -> list[tuple[int, dict[str, Any]]]:
    return [line for line in lines(directory) if not isinstance(line, str)]


# --- when somebody lays hands on it ------------------------------------------------------------


def lost(directory: Path) -> str:
    """Why the segment before is not written any more, as the record tells it."""
    found = [json.loads(line) for line in max(directory.glob("*.jsonl")).open()]
    assert [each["type"] for each in found] == ["segment", "lost", "note"]
    return str(found[1]["why"])


def test_a_segment_that_is_removed_is_followed_by_another(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        write(log, "one")
        (tmp_path / SEGMENT).unlink()
        write(log, "two")
        assert log.head[0] == 4
    assert lost(tmp_path) == "it is gone"


def test_a_segment_that_is_replaced_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / SEGMENT
    with opened(tmp_path) as log:
        write(log, "one")
        path.rename(tmp_path / "elsewhere")
        path.write_bytes((tmp_path / "elsewhere").read_bytes())
        write(log, "two")
    assert lost(tmp_path) == "another file is in its place"
    assert path.read_bytes() == (tmp_path / "elsewhere").read_bytes()


@pytest.mark.parametrize("change", [-10, 10])
def test_a_segment_that_is_cut_or_added_to_is_left_alone(tmp_path: Path, change: int) -> None:
    path = tmp_path / SEGMENT
    with opened(tmp_path) as log:
        write(log, "one")
        size = path.stat().st_size
        os.truncate(path, size + change)
        write(log, "two")
    assert lost(tmp_path) == f"it has {size + change} bytes instead of {size}"
    assert path.stat().st_size == size + change


def test_who_reads_on_behind_a_segment_that_was_lost_does_not_know_all(tmp_path: Path) -> None:
    """What it told of may be there still."""
    with opened(tmp_path) as log:
        log.write([held()], durable=True)
        size = (tmp_path / SEGMENT).stat().st_size
        log.write([intent("add", X, "a")], durable=True)
        os.truncate(tmp_path / SEGMENT, size)
        log.describe_held = lambda: None
        write(log, "killed soon after")
        assert log.number == 2
    with opened(tmp_path) as log:
        assert (owners(log), log.past.is_whole) == ({}, False)


def test_a_directory_that_is_removed_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    with opened(path) as log:
        write(log, "one")
        path.rename(tmp_path / "elsewhere")
        write(log, "two")
        with pytest.raises(AuditError, match="another yaim-helper is writing it"):
            AuditLog(path, POLICY)
        log.mark({}, now())
    assert lost(path) == "its directory is gone"
    assert (path / MARKER).read_bytes().startswith(b"{")
    first, *others = [
        json.loads(line)
        for each in (tmp_path / "elsewhere", path)
        for line in next(iter(each.glob("*.jsonl"))).open()
    ]
    assert others[0]["prev"] == first["hash"]


def test_a_directory_whose_marker_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    with opened(path) as log:
        write(log, "one")
        path.rename(tmp_path / "elsewhere")
        (path / MARKER).mkdir(parents=True)
        before = {*Path("/proc/self/fd").iterdir()}
        for _ in range(2):
            with pytest.raises(AuditError, match="Is a directory"):
                write(log, "two")
            log.mark({}, now())
        assert {*Path("/proc/self/fd").iterdir()} == before
        (path / MARKER).rmdir()
        write(log, "three")
        log.mark({}, now())
    assert (path / MARKER).read_bytes().startswith(b"{")
    assert [each["type"] for each in read_sound(path / segment_name(2))] == [
        *("segment", "lost", "gap", "note")
    ]


def test_a_segment_and_a_marker_that_are_gone_are_made_again(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        write(log, "one")
        for name in (SEGMENT, MARKER):
            (tmp_path / name).unlink()
        (tmp_path / MARKER).mkdir()
        with pytest.raises(AuditError, match="Is a directory"):
            write(log, "two")
        (tmp_path / MARKER).rmdir()
        write(log, "three")
        log.mark({}, now())
    assert (tmp_path / MARKER).read_bytes().startswith(b"{")
    assert [each["type"] for each in read_sound(tmp_path / segment_name(2))] == [
        *("segment", "lost", "gap", "note")
    ]


def test_a_segment_whose_name_does_not_get_to_the_disk_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with opened(tmp_path) as log:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(AuditError, match="Input/output error"):
                write(log, "one")
        assert [each.name for each in tmp_path.iterdir()] == [MARKER]
        write(log, "two")
    assert lines(tmp_path) == [(1, {"type": "gap", "missed": 1}), (2, note("two"))]


def test_a_directory_that_is_removed_before_the_first_record_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    with opened(path) as log:
        path.rename(tmp_path / "elsewhere")
        write(log, "one")
    assert lines(path) == [
        (1, {"type": "lost", "segment": 0, "why": "its directory is gone"}),
        (2, note("one")),
    ]


def test_nothing_is_recorded_while_the_directory_cannot_be_made(tmp_path: Path) -> None:
    path = tmp_path / "parent" / "audit"
    path.parent.mkdir()
    with opened(path) as log:
        write(log, "one")
        path.parent.rename(tmp_path / "elsewhere")
        with pytest.raises(AuditError) as caught:
            write(log, "lost")
        path.parent.mkdir()
        path.mkdir()
        holder = os.open(path, os.O_RDONLY)
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert not log.try_write([note("lost")], durable=True)
        os.close(holder)
        write(log, "back")
    assert str(caught.value) == f"{path}: No such file or directory"
    told = [each["type"] for each in read_records(path)]
    assert told == ["segment", "lost", "gap", "note"]


def test_what_is_not_written_is_told_to_whoever_runs_the_helper(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(tmp_path) as log:
        write(log, "one")
        with room_for(tmp_path / SEGMENT, 0):
            log.try_write([note("lost")], durable=False)
            log.try_write([note("lost")], durable=False)
    assert capsys.readouterr().err == (
        f"yaim-helper: {tmp_path}: File too large: nothing is added until the record can be"
        " written; make room\n"
    )
