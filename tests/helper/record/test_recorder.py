"""The record's own thread, with a disk that hangs for as long as a test wants."""

import json
import os
import re
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from yaim_helper.clock import boottime
from yaim_helper.owners import Owner
from yaim_helper.record import recorder as recorder_module
from yaim_helper.record.chain import MARKER, segment_name
from yaim_helper.record.entries import Entry
from yaim_helper.record.log import AuditLog
from yaim_helper.record.recorder import (
    BEHIND_AFTER_S,
    HANGS_AFTER_S,
    MAX_WAITING,
    SEALED_BYTES,
    Handed,
    Recorder,
)

from tests.helper.network import wait_for
from tests.helper.process import read_records

POLICY, OTHER = "0" * 64, "1" * 64
OWNER = Owner(7, "test")
WITHIN_S = 20.0


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator["Disk"]:
    disk = Disk()
    monkeypatch.setattr(os, "fdatasync", disk.sync)
    yield disk
    disk.answers.set()


class Disk:
    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.is_asked = threading.Event()
        self._sync = os.fdatasync

    def sync(self, fd: int) -> None:
        self.is_asked.set()
        assert self.answers.wait(WITHIN_S)
        self._sync(fd)

    @contextmanager
    def hanging(self, recorder: Recorder) -> Iterator[Handed]:
        """What it hangs with."""
        self.answers.clear()
        self.is_asked.clear()
        handed = recorder.ask([note("hangs")])
        assert self.is_asked.wait(WITHIN_S)
        try:
            yield handed
        finally:
            self.answers.set()


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(AuditLog(tmp_path, POLICY, segment_bytes=2000), POLICY)
    recorder.describe_held = lambda: [{"type": "held", "addresses": [], "more": False}]
    yield recorder
    recorder.close()


def note(text: str) -> Entry:
    return {"type": "note", "text": text}


def told(directory: Path) -> list[Any]:
    return [
        each.get("text") or each.get("missed") or each["type"] for each in read_records(directory)
    ]


def is_settled(handed: Handed) -> bool:
    return handed.is_on_record is not None


def test_what_is_asked_for_is_durable_before_it_says_so(
    recorder: Recorder, disk: Disk, tmp_path: Path
) -> None:
    with disk.hanging(recorder) as handed:
        assert told(tmp_path) == ["hangs"]
        assert handed.is_on_record is None
        assert recorder.head == (0, "0" * 64)
        time.sleep(BEHIND_AFTER_S)
        assert recorder.head is None, "it would vouch for it that nothing has happened since"
    wait_for(lambda: is_settled(handed), "it is durable")
    assert handed.is_on_record
    recorder.take_news()
    (record,) = read_records(tmp_path)
    assert (recorder.number, recorder.head) == (1, (1, record["hash"]))


def test_nothing_waits_for_a_disk_that_hangs_and_all_is_on_record_afterwards(
    recorder: Recorder, disk: Disk, tmp_path: Path
) -> None:
    """It is there in order, as of when it happened, and as decided by the policy of then."""
    with disk.hanging(recorder):
        recorder.note([note("one"), note("two")])
        recorder.note([])
        recorder.use_policy(OTHER)
        handed = recorder.ask([note("three")])
        recorder.note([note("four")])
        assert not recorder.drain(0.01)
        before = boottime()
    assert recorder.drain(WITHIN_S)
    assert handed.is_on_record
    assert told(tmp_path) == ["hangs", "one", "two", "three", "four"]
    records = read_records(tmp_path)
    assert [each["policy"] for each in records] == [POLICY] * 3 + [OTHER] * 2
    assert records[-1]["boottime_ns"] < before * 1e9


def test_what_waits_when_it_is_closed_is_written_before_its_thread_ends(
    disk: Disk, tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    recorder = Recorder(AuditLog(tmp_path, POLICY), POLICY)
    (thread,) = set(threading.enumerate()) - before
    with disk.hanging(recorder):
        recorder.note([note("one")])
        recorder.close()
    thread.join(WITHIN_S)
    assert not thread.is_alive()
    assert told(tmp_path) == ["hangs", "one"]


def test_a_disk_hangs_when_it_has_not_answered_for_long(recorder: Recorder, disk: Disk) -> None:
    assert not recorder.does_disk_hang(boottime())
    with disk.hanging(recorder) as handed:
        recorder.note([note("one")])
        assert not recorder.does_disk_hang(handed.at + HANGS_AFTER_S - 0.001)
        assert recorder.does_disk_hang(handed.at + HANGS_AFTER_S)
    assert recorder.drain(WITHIN_S)
    assert not recorder.does_disk_hang(handed.at + 60)


def test_a_look_is_done_in_its_turn_and_tells_nothing_of_what_was_held_before(
    recorder: Recorder, disk: Disk, tmp_path: Path
) -> None:
    with disk.hanging(recorder):
        done: list[int] = []
        recorder.look(lambda: done.append(len(told(tmp_path))))
        assert done == []
        wait_for(lambda: recorder.why_not(boottime()) is not None, "it hangs")
        assert recorder.why_not(boottime()) == f"{tmp_path}: its disk does not answer"
    assert recorder.drain(WITHIN_S)
    assert done == [1]
    assert recorder.why_not(boottime()) is None


def test_what_waits_has_an_end_and_what_is_left_out_is_counted_in_its_place(
    recorder: Recorder, disk: Disk, tmp_path: Path
) -> None:
    """The bound is in bytes, as records may be long."""
    text = "x" * 100_000
    fit = MAX_WAITING // (len(text) + 2 * SEALED_BYTES)
    with disk.hanging(recorder):
        for _ in range(fit):
            recorder.note([note(text)])
        recorder.note([note("left out"), note(text)])
        assert recorder.ask([note("left out"), note(text)]).is_on_record is False
        recorder.mark({OWNER: 1.0})
        recorder.note([note("short")])
    assert recorder.drain(WITHIN_S)
    recorder.note([note("after")])
    assert recorder.drain(WITHIN_S)
    texts = [each for each in told(tmp_path) if each not in ("segment", "held")]
    assert texts == ["hangs", *[text] * fit, 4, "short", "after"]
    written = sum(each.stat().st_size for each in tmp_path.glob("audit-*"))
    assert written < MAX_WAITING


def test_of_deadlines_that_wait_the_latest_get_into_the_marker_and_no_others_are_kept(
    recorder: Recorder, disk: Disk, tmp_path: Path
) -> None:
    class Deadlines(dict[Owner, float]):
        """Whose end can be seen."""

    all_: list[weakref.ref[Deadlines]] = []

    def mark(deadline: float) -> None:
        deadlines = Deadlines({OWNER: deadline})
        all_.append(weakref.ref(deadlines))
        recorder.mark(deadlines)

    with disk.hanging(recorder):
        for n in (1, 2, 3):
            mark(n)
            assert [each() for each in all_[:-1]] == [None] * (n - 1)
    assert recorder.drain(WITHIN_S)
    assert b'"deadline_ns":3000000000' in (tmp_path / MARKER).read_bytes()


def test_the_marker_tells_whose_fence_is_in_force(recorder: Recorder, tmp_path: Path) -> None:
    other = Owner(OWNER.uid, "another")
    recorder.mark({OWNER: 1.0, other: 2.0}, {other: 1.5})
    assert recorder.drain(WITHIN_S)
    owners = json.loads((tmp_path / MARKER).read_bytes())["owners"]
    assert [each["fence"] for each in owners] == [False, True]
    recorder.mark({OWNER: 1.0})
    assert recorder.drain(WITHIN_S)
    (owner,) = json.loads((tmp_path / MARKER).read_bytes())["owners"]
    assert "fence" not in owner


def test_however_often_somebody_renews_there_is_room_for_records(
    recorder: Recorder, disk: Disk, tmp_path: Path
) -> None:
    with disk.hanging(recorder):
        for _ in range(MAX_WAITING // SEALED_BYTES):
            recorder.mark({OWNER: 1.0})
        handed = recorder.ask([note("one")])
    assert recorder.drain(WITHIN_S)
    assert handed.is_on_record
    assert told(tmp_path) == ["hangs", "one"]


def test_the_marker_is_never_ahead_of_what_was_handed_over_before(
    recorder: Recorder, disk: Disk, tmp_path: Path
) -> None:
    """Else it would prove that an address was there whose removal is not on record."""
    with disk.hanging(recorder):
        recorder.ask([note("removal")])
        recorder.mark({OWNER: 1.0})
        assert (tmp_path / MARKER).read_bytes() == b""
    assert recorder.drain(WITHIN_S)
    records = read_records(tmp_path)
    assert f'"seq":{records[-1]["seq"]}'.encode() in (tmp_path / MARKER).read_bytes()
    assert b'"deadline_ns":1000000000' in (tmp_path / MARKER).read_bytes()


def test_a_segment_begins_with_what_was_held_at_that_place(
    recorder: Recorder, disk: Disk, tmp_path: Path
) -> None:
    """However much is held by the time that it is written."""
    held: list[str] = []
    recorder.describe_held = lambda: [{"type": "held", "addresses": [*held], "more": False}]
    with disk.hanging(recorder):
        recorder.note([note("x" * 2000)])
    assert recorder.drain(WITHIN_S)
    held.append("at that place")
    with disk.hanging(recorder):
        held.append("later")
        recorder.note([note("later")])
    assert recorder.drain(WITHIN_S)
    second = [each for each in read_records(tmp_path) if each["seq"] > 2]
    assert [each["type"] for each in second] == ["segment", "held", "note", "note"]
    assert second[1]["addresses"] == ["at that place"]
    assert recorder.number == 2


def test_what_is_held_waits_once(
    recorder: Recorder, disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All of it may be much, and a disk may hang for hours."""
    monkeypatch.setattr(recorder_module, "DESCRIBE_EVERY_S", 0.0)
    held: list[str] = []

    def describe() -> list[Entry]:
        held.append(f"{len(held) + 1}")
        return [{"type": "held", "addresses": [*held], "more": False}]

    recorder.describe_held = describe
    recorder.note([note("x" * 2000)])
    assert recorder.drain(WITHIN_S)
    with disk.hanging(recorder):
        recorder.note([note("y" * 2000)])
        recorder.note([note("one")])
        assert held == ["1"]
    assert recorder.drain(WITHIN_S)
    recorder.note([note("two")])
    assert recorder.drain(WITHIN_S)
    told = [each["addresses"] for each in read_records(tmp_path) if each["type"] == "held"]
    assert told == [["1"], ["1", "2"]]


def test_what_cannot_be_told_now_is_asked_for_with_the_next_record(
    recorder: Recorder, tmp_path: Path
) -> None:
    known: list[list[Entry] | None] = [None, [{"type": "held", "addresses": [], "more": False}]]
    recorder.describe_held = lambda: known.pop(0)
    for text in ("x" * 2000, "one", "two"):
        recorder.note([note(text)])
        assert recorder.drain(WITHIN_S)
    assert told(tmp_path) == ["x" * 2000, "one", "segment", "held", "two"]


def test_a_segment_that_is_lost_is_followed_by_one_that_soon_tells_what_is_held(
    recorder: Recorder, tmp_path: Path
) -> None:
    recorder.note([note("one")])
    assert recorder.drain(WITHIN_S)
    (tmp_path / segment_name(1)).unlink()
    recorder.note([note("two")])
    assert recorder.drain(WITHIN_S)
    recorder.note([note("three")])
    recorder.note([note("four")])
    assert recorder.drain(WITHIN_S)
    assert told(tmp_path) == ["segment", "lost", "two", "held", "three", "four"]


def test_what_cannot_be_made_durable_is_not_on_record(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> NoReturn:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    handed = recorder.ask([note("one")])
    assert recorder.drain(WITHIN_S)
    assert handed.is_on_record is False


def test_a_helper_ends_when_nobody_writes_its_record(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    statuses: list[int] = []
    is_over = threading.Event()

    def end(status: int) -> None:
        statuses.append(status)
        is_over.set()

    def fail(*_: object, **__: object) -> NoReturn:
        raise MemoryError("for a test")

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(AuditLog, "try_write", fail)
    recorder.note([note("one")])
    assert is_over.wait(WITHIN_S)
    assert statuses == [1]
    (line,) = capfd.readouterr().err.splitlines()
    assert re.fullmatch(
        r"yaim-helper: the record's thread has failed, and this ends with it:"
        rf" MemoryError\('for a test'\) in {re.escape(__file__)}, line \d+",
        line,
    )


def test_a_process_that_may_have_no_further_thread_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Recorder(AuditLog(tmp_path, POLICY), POLICY)
