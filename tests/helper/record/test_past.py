"""What the record tells the next life of the helper."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yaim_helper.owners import Owner
from yaim_helper.record.chain import GENESIS, MARKER, segment_name
from yaim_helper.record.entries import TAKEN
from yaim_helper.record.past import Past
from yaim_helper.record.stamps import boot_id, session

from tests.helper.record.logs import (
    SEGMENT,
    A,
    B,
    X,
    assert_chained,
    held,
    intent,
    note,
    opened,
    own,
    owners,
    read_sound,
    result,
    told,
    write,
)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([result("add", "192.0.2.1", "a")], {"192.0.2.1": A}),
        ([result("add", "192.0.2.1", "a", "refused")], {}),
        ([result("add", "192.0.2.1", "a"), result("remove", "192.0.2.1", "a")], {}),
        ([result("add", "192.0.2.1", "a"), result("remove", "192.0.2.1", "b")], {"192.0.2.1": A}),
        ([result("remove", "192.0.2.1", "b")], {}),
        ([result("add", "192.0.2.1", "a"), own("192.0.2.1", "removed")], {}),
        ([result("add", "192.0.2.1", "a"), own("192.0.2.1", "the kernel had removed it")], {}),
        ([result("add", "192.0.2.1", "a"), own("192.0.2.1", TAKEN)], {}),
        ([result("add", "192.0.2.1", "a"), own("192.0.2.1", "removed", "eth1")], {"192.0.2.1": A}),
        ([result("add", "192.0.2.1", "a"), own("192.0.2.1", "x: removing")], {"192.0.2.1": A}),
        ([held(["192.0.2.1", "eth0", 32, 7, "b", 5])], {"192.0.2.1": B}),
        ([held(["192.0.2.1", "eth0", 32, None, None, None])], {"192.0.2.1": None}),
        # What the next life found was not told: what is known holds.
        ([result("add", "192.0.2.1", "a"), {"type": "start"}], {"192.0.2.1": A}),
        ([result("add", "192.0.2.1", "a"), {"type": "start"}, held()], {}),
        ([held(["192.0.2.1"]), held(5), {"type": 5}, {"type": "result", "op": "add"}], {}),  # type: ignore[arg-type]
    ],
)
def test_who_held_what_is_told_by_the_last_segment(
    tmp_path: Path, records: list[dict[str, Any]], expected: dict[str, Owner | None]
) -> None:
    (tmp_path / SEGMENT).write_bytes(told(*records))
    with opened(tmp_path) as log:
        assert owners(log) == expected
        assert log.head[0] == len(records)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([intent("add", X, "a")], {X: A}),
        ([intent("add", X, "a"), result("add", X, "a", "refused")], {}),
        # It may be there.
        ([intent("add", X, "a"), result("add", X, "a", "failed")], {X: A}),
        (
            [intent("add", X, "a"), intent("remove", X, "a"), result("remove", X, "a", "failed")],
            {X: A},
        ),
        ([intent("add", X, "a"), result("remove", X, "a")], {}),
        ([result("add", X, "a", "refused")], {}),
        ([result("remove", X, "a", "failed")], {}),
        ([held([X, "eth0", 32, None, None, None]), intent("add", X, "a")], {X: None}),
        ([intent("add", X, "a"), result("add", X, "a"), result("add", X, "a", "refused")], {X: A}),
        ([intent("add", X, "a"), intent("add", X, "a"), result("add", X, "a", "refused")], {}),
        ([result("add", X, "a"), intent("add", X, "b")], {X: A}),
        ([result("add", X, "a"), intent("remove", X, "a")], {X: A}),
        ([result("add", X, "a"), intent("remove", X, "a"), intent("add", X, "a")], {X: A}),
        ([result("add", X, "a"), intent("remove", X, "a"), intent("add", X, "b")], {X: B}),
        (
            [result("add", X, "a"), intent("remove", X, "a"), result("remove", X, "a", "failed")],
            {X: A},
        ),
        (
            # The result of the removal could not be written, and was that it failed.
            [
                *(result("add", X, "a"), intent("remove", X, "a")),
                *(intent("add", X, "b"), result("add", X, "b", "refused")),
            ],
            {X: A},
        ),
        ([result("add", X, "a"), intent("remove", X, "b"), intent("add", X, "b")], {X: A}),
        ([intent("announce", X, "a")], {}),
    ],
)
def test_an_intent_tells_for_whom_an_address_is_until_the_result_does(
    tmp_path: Path, records: list[dict[str, Any]], expected: dict[str, Owner | None]
) -> None:
    (tmp_path / SEGMENT).write_bytes(told(*records))
    with opened(tmp_path) as log:
        assert owners(log) == expected


LATER = {"id": 6}
OTHERS = {"peer": {"uid": 7, "pid": 10}}
GONE = own(X, "the kernel had removed it")


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([result("add", X, "a"), intent("add", X, "a"), GONE], {X: A}),
        ([result("add", X, "a"), intent("add", X, "a"), GONE, {"type": "start"}, GONE], {}),
        (
            [
                intent("add", X, "a"),
                intent("add", X, "a") | LATER,
                result("add", X, "a", "refused"),
            ],
            {X: A},
        ),
        ([intent("add", X, "a"), intent("add", X, "b"), result("add", X, "b", "refused")], {X: A}),
        # It ends what was asked before it, and nothing else.
        ([intent("add", X, "a"), result("remove", X, "a") | LATER], {}),
        ([intent("add", X, "a") | LATER, result("remove", X, "a")], {X: A}),
        ([intent("add", X, "a"), result("remove", X, "a") | LATER | OTHERS], {X: A}),
        # None is awaited where that is told.
        ([intent("add", X, "a"), held([X, "eth0", 32, 7, "a", 5]), GONE], {}),
    ],
)
def test_a_place_that_an_add_without_a_result_may_fill_is_told_whatever_happens_meanwhile(
    tmp_path: Path, records: list[dict[str, Any]], expected: dict[str, Owner | None]
) -> None:
    (tmp_path / SEGMENT).write_bytes(told(*records))
    with opened(tmp_path) as log:
        assert owners(log) == expected


def test_an_address_that_may_be_in_two_places_is_told_with_both(tmp_path: Path) -> None:
    """The helper may be killed while it moves it to another prefix length."""
    moved = intent("add", X, "a") | {"prefix": 24}
    for further, spots in (
        ([], {("eth0", 32): A, ("eth0", 24): A}),
        ([moved | {"type": "result", "outcome": "ok"}], {("eth0", 24): A}),
        (
            [intent("add", X, "a") | LATER, moved | {"type": "result", "outcome": "ok"}],
            {("eth0", 32): A, ("eth0", 24): A},
        ),
        ([moved | {"type": "result", "outcome": "refused"}], {("eth0", 32): A}),
        ([intent("remove", X, "a"), result("remove", X, "a", "failed")], 2),
        ([intent("remove", X, "a"), result("remove", X, "a")], 0),
    ):
        (tmp_path / SEGMENT).write_bytes(told(result("add", X, "a"), moved, *further))
        with opened(tmp_path) as log:
            places = log.past.places[X]
            assert (places if isinstance(spots, dict) else len(places)) == spots


def test_what_another_boot_or_network_namespace_had_is_not_here(tmp_path: Path) -> None:
    row = [X, "eth0", 32, 7, "a", 5]
    elsewhere = {"type": "start", "session": "elsewhere"}
    here = {"type": "start", "session": session()}
    earlier = {"boot_id": "another"}
    for records, expected, is_whole in (
        ([held(row)], {X: A}, True),
        ([held(row) | earlier], {}, False),
        ([held(row) | earlier, {"type": "start"}], {}, False),
        ([held(row) | earlier, result("add", X, "b") | earlier, held()], {}, True),
        ([held(row) | earlier, {"type": "start"}, held(row)], {X: A}, True),
        ([elsewhere, held(row)], {}, False),
        ([held(row), elsewhere, held(), result("add", "192.0.2.2", "b")], {X: A}, True),
        ([elsewhere, held(row), here, intent("add", X, "b")], {X: B}, False),
        ([elsewhere, held(row), here, held()], {}, True),
    ):
        (tmp_path / SEGMENT).write_bytes(told(*records))
        with opened(tmp_path) as log:
            assert (owners(log), log.past.is_whole) == (expected, is_whole)


def test_until_when_a_record_tells_all_and_when_its_last_was_made(tmp_path: Path) -> None:
    """What is put on an interface after that was put there by a life that wrote elsewhere."""

    def at(second: int, record: dict[str, Any]) -> dict[str, Any]:
        return record | {"boottime_ns": second * 10**9}

    start, gap = {"type": "start", "session": session()}, {"type": "gap", "missed": 1}
    begun = [at(1, start), at(2, held())]
    added = at(3, result("add", X, "a"))
    for records, known_until, last_at in (
        ([], 0, 0),
        ([at(1, start)], 0, 1),
        (begun, 2, 2),
        ([*begun, added], 3, 3),
        # Here it is not told what was found there then.
        ([*begun, added, at(9, start), at(10, note("one"))], 3, 10),
        ([*begun, added, at(9, start), at(10, held(more=True))], 3, 10),
        ([*begun, added, at(9, start), at(10, held()), at(11, note("one"))], 11, 11),
        # A start may be among what could not be written.
        ([*begun, added, at(9, gap), at(10, note("one"))], 3, 10),
        ([*begun, added, at(9, gap), at(10, held())], 10, 10),
        ([*begun, at(9, start | {"session": "elsewhere"}), at(10, held())], 2, 2),
        ([*begun, at(9, note("one") | {"boot_id": "another"})], 0, 0),
        ([*begun, note("one") | {"boottime_ns": "9"}], 2, 2),
    ):
        (tmp_path / SEGMENT).write_bytes(told(*records))
        with opened(tmp_path) as log:
            assert (log.past.known_until, log.past.last_at) == (known_until, last_at)


def test_an_add_without_its_result_may_be_done_after_the_last_record(tmp_path: Path) -> None:
    for records, is_awaited in (
        ([intent("add", X, "a")], True),
        ([intent("add", X, "a"), result("add", X, "a")], False),
        ([], False),
    ):
        (tmp_path / SEGMENT).write_bytes(told(*records))
        with opened(tmp_path) as log:
            assert log.past.is_awaited(X, ("eth0", 32)) is is_awaited
            assert not log.past.is_awaited(X, ("eth1", 32))


def test_segments_of_another_boot_are_not_read_for_more(tmp_path: Path) -> None:
    (tmp_path / SEGMENT).write_bytes(told(held([X, "eth0", 32, 7, "a", 5])))
    (tmp_path / segment_name(2)).write_bytes(told(note("one") | {"boot_id": "another"}))
    with opened(tmp_path) as log:
        assert (owners(log), log.past.is_whole) == ({}, False)


@pytest.mark.parametrize(
    ("marker", "is_whole"),
    [
        ({"boot_id": boot_id(), "seq": 2}, True),
        ({"boot_id": boot_id(), "seq": 3}, False),
        ({"boot_id": "another", "seq": 3}, True),
        ({"boot_id": boot_id(), "seq": "3"}, True),
        ({}, True),
        ([], True),
    ],
)
def test_a_record_that_the_marker_is_ahead_of_does_not_tell_all(
    tmp_path: Path, marker: Any, is_whole: bool
) -> None:
    (tmp_path / SEGMENT).write_bytes(told(held(), note("two")))
    (tmp_path / MARKER).write_text(json.dumps(marker))
    with opened(tmp_path) as log:
        assert log.past.is_whole is is_whole


def test_what_is_held_counts_when_all_of_it_is_told(tmp_path: Path) -> None:
    one, two = ["192.0.2.1", "eth0", 32, 7, "a", 5], ["192.0.2.2", "eth0", 32, 7, "b", 5]
    for records, expected in (
        ([result("add", "192.0.2.3", "a"), held(one, more=True)], {"192.0.2.3": A}),
        ([held(one, more=True), held(two)], {"192.0.2.1": A, "192.0.2.2": B}),
        ([held(one, more=True), note("torn before"), held(two)], {"192.0.2.2": B}),
    ):
        (tmp_path / SEGMENT).write_bytes(told(*records))
        with opened(tmp_path) as log:
            assert owners(log) == expected


def test_segments_without_a_beginning_are_read_with_those_before_them(tmp_path: Path) -> None:
    """The helper may be killed, or the disk full, just when a segment is begun."""
    row = ["192.0.2.1", "eth0", 32, 7, "a", 5]
    text = told(held(), result("add", "192.0.2.1", "b"), {"type": "segment"}, held(row, more=True))
    one, two, three, four = text.splitlines(keepends=True)
    for begun in ([b"", b""], [three, b""], [three + four[:-9], b""], [three + four, b"torn"]):
        for number, segment in enumerate([one + two, *begun], start=1):
            (tmp_path / segment_name(number)).write_bytes(segment)
        with opened(tmp_path) as log:
            assert owners(log) == {"192.0.2.1": B}
            log.describe_held = lambda: [held(row)]
            write(log, "after")
            assert log.number == 3
        assert_chained(tmp_path)
        last = [each["type"] for each in read_sound(tmp_path / segment_name(3))]
        assert last[last[0] == "recovery" :] == ["segment", "held", "note"]


def test_an_earlier_segment_that_is_no_file_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / SEGMENT).mkdir()
    os.mkfifo(tmp_path / segment_name(2))
    (tmp_path / segment_name(3)).touch()
    with opened(tmp_path) as log:
        assert (log.number, log.head) == (3, (0, GENESIS))


def test_no_more_than_two_segments_worth_is_read_at_the_start(tmp_path: Path) -> None:
    (tmp_path / SEGMENT).write_bytes(told(held(), result("add", X, "a")))
    (tmp_path / segment_name(2)).write_bytes(bytes(9 << 20) + b"\n")
    with opened(tmp_path) as log:
        assert owners(log) == {}


def test_the_last_segment_is_read_quickly(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        log.write([held()], durable=False)
        while log.number == 1:
            log.write([result("add", X, "a") | {"text": "x" * 60}] * 1000, durable=False)
    (tmp_path / segment_name(2)).unlink()
    assert (tmp_path / SEGMENT).stat().st_size > 4 << 20
    began = time.process_time()
    with opened(tmp_path) as log:
        assert owners(log) == {X: A}
    assert time.process_time() - began < 0.5


@given(st.binary() | st.lists(st.sampled_from(told(held(), own("x", "y"))), max_size=80).map(bytes))
def test_arbitrary_bytes_are_a_past(segment: bytes) -> None:
    past = Past(boot_id(), session())
    past.read(segment)
    assert past.sequence == 0 or past.torn in segment


def test_records_that_only_look_like_some_are_not_believed() -> None:
    good = told(note("one"))
    for bad in (
        good.replace(b"one", b"two"),
        told({"seq": "1"}),
        b"[]\n",
        b"5\n",
        b'{"hash":1,"prev":5}\n',
        b"[" * 5000 + b"\n",
    ):
        past = Past(boot_id(), session())
        past.read(good + bad)
        assert (past.sequence, past.torn) == (1, bad)
