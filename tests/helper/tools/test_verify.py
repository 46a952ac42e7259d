"""yaim-helper audit verify: whatever was done to a record is found, and told for what it is."""

import hashlib
import json
import os
import random
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yaim_helper.record.chain import GENESIS, MARKER, segment_name
from yaim_helper.tools import audit
from yaim_helper.tools.records import MAX_LINE_BYTES, Chain, Segment, open_chain
from yaim_helper.tools.verify import MAX_REMEMBERED, Damage, Finding, Verification, read_heads

from tests.helper.chains import COMMAND, Writer, resealed, run

A, B = "192.0.2.1", "192.0.2.2"


def written(directory: Path) -> Writer:
    """Three segments."""
    writer = Writer(directory).start(1.0)
    writer.add(2.0, 2.1, A, 10.0).next_segment(3.0, A).add(4.0, 4.1, B, 12.0)
    writer.next_segment(5.0, A, B).remove(6.0, 6.1, A).renewals(7.0, 15.0).remove(8.0, 8.1, B)
    writer.write(9.0, "stop", addresses=0).save()
    return writer


def found(directory: Path, *files: Path, **options: Any) -> list[Finding]:
    findings: list[Finding] = []
    verification = Verification(open_chain(directory, files), findings.append, **options)
    for _ in verification.records():
        pass
    return findings


def kinds(directory: Path, **options: Any) -> list[Damage]:
    return [each.damage for each in found(directory, **options)]


def segment(directory: Path, number: int) -> Path:
    return directory / segment_name(number)


def change(file: Path, edit: Callable[[list[bytes]], list[bytes]]) -> None:
    file.write_bytes(b"".join(edit(file.read_bytes().splitlines(keepends=True))))


# --- intact --------------------------------------------------------------------------------------


def test_what_the_helper_wrote_is_intact(tmp_path: Path, capsys: Any) -> None:
    writer = written(tmp_path / "db1").mark(7.5, 15.0)
    status, out, err = run(capsys, "verify", writer.directory)
    assert (status, err) == (0, "")
    assert out == (
        f"{writer.directory}: {writer.seq} records of db1, from 2027-01-15T08:00:01.000000Z to"
        f" 2027-01-15T08:00:09.000000Z, head seq={writer.seq} hash={writer.hash}: intact\n"
    )


def test_a_record_that_was_emptied_is_not_intact(tmp_path: Path, capsys: Any) -> None:
    Writer(tmp_path / "db1").save()
    place = tmp_path / "db1"
    assert run(capsys, "verify", place)[:2] == (
        14,
        f"{place}: cannot be read: has no records\n{place}: no records: 1 finding\n",
    )


def test_heads_that_are_none_of_this_host_compare_nothing(tmp_path: Path, capsys: Any) -> None:
    writer = written(tmp_path / "db1")
    heads = tmp_path / "heads"
    heads.write_text(f"audit head host=db2 seq=1 sha256={writer.hash}\n")
    status, out, _ = run(capsys, "verify", "--heads", heads, writer.save())
    assert status == Damage.HEAD
    assert "no head of host db1 is known: nothing was compared" in out


def test_segments_may_be_named_one_by_one(tmp_path: Path, capsys: Any) -> None:
    writer = written(tmp_path / "db1")
    files = [segment(writer.directory, number) for number in (1, 3, 2, 2)]
    assert run(capsys, "verify", *files)[0] == 0
    assert run(capsys, "verify", files[0], writer.directory)[0] == 0


def test_all_directories_are_verified_and_the_gravest_damage_counts(
    tmp_path: Path, capsys: Any
) -> None:
    one, two = written(tmp_path / "db1"), written(tmp_path / "db2")
    segment(two.directory, 2).unlink()
    (tmp_path / "none").mkdir()
    status, out, _ = run(capsys, "verify", tmp_path / "none", two.directory, one.directory)
    assert status == Damage.MISSING_SEGMENT
    assert out.splitlines()[0] == (
        f"{tmp_path / 'none'}: cannot be read: has no segments of a record (audit-000001.jsonl ...)"
    )
    assert out.splitlines()[1] == f"{two.directory}: missing segment: no segment 2"
    assert out.splitlines()[2].endswith(": 1 finding")
    assert out.splitlines()[3].endswith(": intact")


# --- changed -------------------------------------------------------------------------------------


def test_each_flipped_bit_is_found(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db1").start(1.0, A).remove(2.0, 2.1, A)
    whole = b"".join(writer.lines)
    assert not kinds(writer.save())
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            writer.file.write_bytes(flipped)
            assert kinds(writer.directory), (position, bit)


def test_each_cut_within_a_line_is_a_torn_tail(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db1").start(1.0, A)
    whole = b"".join(writer.lines)
    ends = {0, len(writer.lines[0]), len(whole)}
    for size in range(len(whole) + 1):
        writer.directory.mkdir(exist_ok=True)
        writer.file.write_bytes(whole[:size])
        found = [] if size in ends else [Damage.TORN]
        if size < len(writer.lines[0]) - 1:
            found.append(Damage.UNREADABLE)
        assert kinds(writer.directory) == found, size


def test_each_cut_tail_is_found_by_a_head(tmp_path: Path, capsys: Any) -> None:
    writer = Writer(tmp_path / "db1").start(1.0, A).remove(2.0, 2.1, A)
    heads = tmp_path / "heads"
    heads.write_text(
        "Jan 15 n1 yaim-helper[7]: audit head host=other seq=900 hash=" + "0" * 64 + "\n"
        f"Jan 15 n1 yaim-helper[7]: audit head host=db1 seq={writer.seq} hash={writer.hash}\n"
    )
    for left in range(1, writer.seq):
        writer.directory.mkdir(exist_ok=True)
        writer.file.write_bytes(b"".join(writer.lines[:left]))
        status, out, _ = run(capsys, "verify", "--heads", heads, writer.directory)
        assert status == Damage.HEAD
        assert out.splitlines()[-2] == (
            f"{writer.directory}: head mismatch: db1 told its head at record {writer.seq}, and the"
            f" record ends with {left} there: its tail was cut, or that line is not its helper's"
        )
    assert run(capsys, "verify", "--heads", heads, writer.save())[0] == 0


def test_a_record_written_anew_is_found_by_a_head(tmp_path: Path) -> None:
    writer = written(tmp_path / "db1")
    heads = read_heads([f"audit head host=db1 seq={writer.seq} sha256={writer.hash}"])
    assert not kinds(writer.directory, heads=heads)
    change(writer.file, lambda lines: resealed([lines[0].replace(b'"9', b'"8'), *lines[1:]]))
    change(writer.file, lambda lines: lines)
    assert Damage.HEAD in kinds(writer.directory, heads=heads)


@pytest.mark.parametrize("seed", range(40))
def test_what_was_dropped_swapped_or_doubled_is_found(tmp_path: Path, seed: int) -> None:
    writer = written(tmp_path / "db1")
    random_ = random.Random(seed)
    lines = writer.lines
    i = random_.randrange(len(lines) - 1)
    what = seed % 4
    if what == 0:
        changed, expected = lines[:i] + lines[i + 1 :], Damage.MISSING_RECORDS
    elif what == 1:
        changed, expected = (
            [*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]],
            Damage.BROKEN,
        )
    elif what == 2:
        changed, expected = [*lines[: i + 1], *lines[i:]], Damage.BROKEN
    else:
        record = json.loads(lines[i])
        edited = lines[i].replace(b'"host":"db1"', b'"host":"db9"')
        assert edited != lines[i] and record["host"] == "db1"
        changed, expected = [*lines[:i], edited, *lines[i + 1 :]], Damage.BROKEN
    writer.file.write_bytes(b"".join(changed))
    assert min(kinds(writer.directory)) == expected


def test_an_edited_record_is_told_where_it_is_and_nothing_else(tmp_path: Path) -> None:
    writer = written(tmp_path / "db1")
    change(
        writer.file,
        lambda lines: [lines[0], lines[1].replace(A.encode(), b"192.0.2.9"), *lines[2:]],
    )
    assert [str(each) for each in found(writer.directory)] == [
        f"{writer.file}:2: broken chain: was changed: its hash is not that of what it says"
    ]


def test_an_edited_record_with_a_new_hash_does_not_fit_what_follows(tmp_path: Path) -> None:
    writer = written(tmp_path / "db1")

    def edit(lines: list[bytes]) -> list[bytes]:
        record = json.loads(lines[1])
        return [lines[0], lines[0][:0] + reseal(record, host="db9"), *lines[2:]]

    change(writer.file, edit)
    assert [str(each) for each in found(writer.directory)] == [
        f"{writer.file}:3: broken chain: does not follow from the record before it"
    ]


def reseal(record: dict[str, Any], **changes: Any) -> bytes:
    """Seals one record anew, after the same one as before."""
    from yaim_helper.record.chain import seal

    prev = record.pop("prev")
    del record["hash"]
    return seal({**record, **changes}, prev)[0]


def test_an_inserted_line_is_found_and_the_chain_around_it_holds(tmp_path: Path) -> None:
    writer = written(tmp_path / "db1")
    change(writer.file, lambda lines: [*lines[:2], b"hello\n", *lines[2:]])
    assert [str(each) for each in found(writer.directory)] == [
        f"{writer.file}:3: broken chain: not JSON"
    ]


def test_dropped_records_are_counted(tmp_path: Path) -> None:
    writer = written(tmp_path / "db1")
    change(writer.file, lambda lines: [*lines[:2], *lines[4:]])
    first = json.loads(writer.lines[2])["seq"]
    assert str(found(writer.directory)[0]) == (
        f"{writer.file}:3: missing records: no {first} to {first + 1} before this record"
        f" {first + 2}"
    )


# --- segments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ([1], "no segment 1; if kept elsewhere: --from-segment 2"),
        ([1, 2], "no segments 1 to 2; if kept elsewhere: --from-segment 3"),
        ([2], "no segment 2"),
    ],
)
def test_each_missing_segment_is_found(tmp_path: Path, gone: list[int], told: str) -> None:
    directory = written(tmp_path / "db1").directory
    for number in gone:
        segment(directory, number).unlink()
    assert found(directory)[0] == Finding(Damage.MISSING_SEGMENT, str(directory), told)
    if 1 in gone:
        assert not kinds(directory, from_segment=len(gone) + 1)
        assert not kinds(directory, from_segment=9)


def test_records_that_go_back_after_a_missing_segment_are_found(tmp_path: Path) -> None:
    directory = written(tmp_path / "db1").directory
    segment(directory, 3).rename(segment(directory, 4))
    segment(directory, 1).rename(segment(directory, 6))
    assert {Damage.BROKEN, Damage.MISSING_SEGMENT} == set(kinds(directory))


def test_a_segment_under_another_number_is_found(tmp_path: Path) -> None:
    directory = written(tmp_path / "db1").directory
    segment(directory, 3).rename(segment(directory, 4))
    assert [each.text for each in found(directory)] == [
        "no segment 3",
        "calls itself segment 3",
    ]


def test_files_that_are_no_segments_do_not_matter(tmp_path: Path, capsys: Any) -> None:
    directory = written(tmp_path / "db1").directory
    for name in ("audit-0000001.jsonl", "audit-1.jsonl", "notes"):
        (directory / name).write_text("x")
    assert run(capsys, "verify", directory)[0] == 0
    status, out, _ = run(capsys, "verify", directory / "notes")
    assert status == Damage.UNREADABLE
    assert out == (
        f"{directory / 'notes'}: cannot be read: not a segment of a record, which is named like"
        " audit-000001.jsonl\n"
    )


# --- torn ----------------------------------------------------------------------------------------


def torn(writer: Writer, part: bytes, size: int | None = None, told: bytes | None = None) -> None:
    writer.lines.append(part + b"\n")
    digest = hashlib.sha256(part if told is None else told).hexdigest()
    writer.write(
        20.0, "recovery", torn_bytes=len(part) if size is None else size, torn_sha256=digest
    )


def test_a_torn_part_that_the_helper_found_itself_is_told_as_that(tmp_path: Path) -> None:
    writer = written(tmp_path / "db1")
    torn(writer, b'{"boot_id":"e77')
    assert [str(each) for each in found(writer.save())] == [
        f"{writer.file}:{len(writer.lines)}: recovery: the helper found 15 bytes of a torn line"
        " before, and went on"
    ]


@pytest.mark.parametrize(("size", "told"), [(14, None), (None, b"another")])
def test_a_torn_part_that_is_not_the_one_recorded_is_found(
    tmp_path: Path, size: int | None, told: bytes | None
) -> None:
    writer = written(tmp_path / "db1")
    torn(writer, b'{"boot_id":"e77', size, told)
    assert kinds(writer.save()) == [Damage.BROKEN, Damage.BROKEN]


def test_a_recovery_of_nothing_is_found(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db1")
    writer.write(1.0, "recovery", torn_bytes=3, torn_sha256="0" * 64)
    assert kinds(writer.save()) == [Damage.BROKEN]


@pytest.mark.parametrize("part", [b"", b'{"a\n{"b\n{"c'])
def test_a_torn_part_may_be_several_lines_or_none(tmp_path: Path, part: bytes) -> None:
    writer = written(tmp_path / "db1")
    torn(writer, part)
    if not part:
        del writer.lines[-2]
    assert kinds(writer.save()) == [Damage.RECOVERY]


def test_many_lines_that_are_no_records_are_each_found(tmp_path: Path) -> None:
    writer = written(tmp_path / "db1")
    writer.lines += [b"x\n"] * 200
    assert kinds(writer.save()) == [Damage.BROKEN] * 200


def test_a_whole_record_without_the_end_of_its_line_is_a_torn_tail(tmp_path: Path) -> None:
    writer = written(tmp_path / "db1")
    writer.lines[-1] = writer.lines[-1][:-1]
    assert kinds(writer.save()) == [Damage.TORN]


# --- heads and markers ---------------------------------------------------------------------------


def test_a_marker_tells_of_a_cut_tail_and_of_a_record_written_anew(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db1").start(1.0).mark(2.0, 9.0)
    writer.write(3.0, "stop", addresses=0).save()
    assert not kinds(writer.directory)
    writer.file.write_bytes(writer.lines[0])
    assert [str(each) for each in found(writer.directory)] == [
        f"{writer.directory / MARKER}: head mismatch: the marker names record 2 as the last, and"
        " the record ends with 1 there: its tail was cut"
    ]
    other = Writer(tmp_path / "db1").start(1.0, A).write(3.0, "stop", addresses=0)
    other.save()
    assert [each.text for each in found(writer.directory)] == [
        "record 2 is not the one that the marker names: written anew"
    ]


def test_a_start_tells_of_a_tail_that_was_cut_before_it(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db1").start(1.0)
    earlier = writer.marker(2.0, 9.0)
    assert not kinds(writer.start(3.0, earlier=earlier).save())
    later = {**earlier, "seq": 9}
    assert [each.text for each in found(writer.start(4.0, earlier=later).save())] == [
        "the marker names record 9 as the last, and the record ends with 4 there: its tail was cut"
    ]
    other = {**earlier, "hash": "1" * 64}
    assert kinds(writer.start(5.0, earlier=other).save()) == [Damage.HEAD, Damage.HEAD]


@pytest.mark.parametrize("text", [b" ", b"{}", b"[]", b"\0" * 512, b'{"v":' * 9999])
def test_a_marker_that_is_none_cannot_be_read(tmp_path: Path, text: bytes) -> None:
    writer = written(tmp_path / "db1")
    (writer.directory / MARKER).write_bytes(text)
    assert kinds(writer.directory) == [Damage.UNREADABLE]


def test_two_heads_of_one_record_cannot_both_be_true(tmp_path: Path) -> None:
    writer = written(tmp_path / "db1")
    told = [f"audit head host=db1 seq={writer.seq} hash={each}" for each in (writer.hash, "f" * 64)]
    (wrong,) = found(writer.directory, heads=read_heads(told))
    assert (wrong.damage, wrong.text) == (
        Damage.HEAD,
        f"the heads that were told of record {writer.seq} contradict each other: one is that of"
        " this record; another was not told by its helper, or all was written anew",
    )


def test_old_heads_are_remembered_only_so_far(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db1").start(1.0)
    earlier = {**writer.marker(2.0, 9.0), "hash": "1" * 64}
    for _ in range(MAX_REMEMBERED):
        writer.write(3.0, "summary", counts=[])
    assert not kinds(writer.start(4.0, earlier=earlier).save())


# --- what the record tells of itself --------------------------------------------------------------


def test_an_intent_without_a_result_is_found_where_the_helper_was_killed(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db1").start(1.0)
    writer.intent(2.0, "add", A, deadline=9.0).intent(2.0, "remove", B)
    writer.start(3.0).intent(4.0, "announce", A).intent(4.0, "announce", A)
    writer.ids -= 1
    writer.result(4.1, "announce", A).result(4.1, "announce", B)
    assert [str(each) for each in found(writer.save())] == [
        f"{writer.file}:{line}: intent without result: {text}"
        for line, text in (
            (3, "the helper was killed before it told what came of it"),
            (4, "the helper was killed before it told what came of it"),
            (8, "the record ends before it tells what came of it"),
        )
    ]


def test_the_same_request_twice_wants_two_results(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db1").start(1.0).intent(2.0, "announce", A)
    writer.ids -= 1
    writer.intent(2.0, "announce", A).result(2.1, "announce", A)
    assert kinds(writer.save()) == [Damage.NO_RESULT]
    assert not kinds(writer.result(2.1, "announce", A).save())


def test_intents_that_wait_for_ever_are_not_all_remembered(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db1").start(1.0)
    for _ in range(MAX_REMEMBERED + 1):
        writer.intent(2.0, "remove", A)
    told = found(writer.save())
    assert len(told) == MAX_REMEMBERED + 1
    assert told[0].text == f"none came within {MAX_REMEMBERED} requests"


def test_equal_intents_that_wait_for_ever_are_not_all_remembered(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db1").start(1.0)
    for _ in range(MAX_REMEMBERED + 1):
        writer.intent(2.0, "remove", A)
        writer.ids -= 1
    told = found(writer.save())
    assert len(told) == MAX_REMEMBERED + 1
    assert told[0].text == f"none came within {MAX_REMEMBERED} requests"
    assert told[1].text == "the record ends before it tells what came of it"


def test_a_segment_that_the_helper_could_not_go_on_with_is_a_gap(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db1").start(1.0).next_segment(2.0)
    writer.write(2.0, "lost", segment=1, why="it is gone")
    assert [str(each) for each in found(writer.save())] == [
        f"{writer.file}:3: gap: the helper could not go on with segment 1: it is gone"
    ]


def test_an_empty_marker_is_none(tmp_path: Path) -> None:
    writer = written(tmp_path / "db1")
    (writer.directory / MARKER).touch()
    assert not kinds(writer.directory)


def test_a_gap_is_found(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db1").start(1.0).write(2.0, "gap", missed=3)
    assert [str(each) for each in found(writer.save())] == [
        f"{writer.file}:3: gap: 3 records could not be written before this one"
    ]


def test_a_wall_clock_that_loses_against_boottime_is_found(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db1").start(10.0)
    writer.boot_at = -0.051
    writer.start(11.0)
    assert [str(each) for each in found(writer.save())] == [
        f"{writer.file}:3: clock set back: by 0.051 s, before 2027-01-15T08:00:11.000000Z"
    ]
    writer.boot_at, writer.boot = -3.0, 2
    assert len(found(writer.start(12.0).save())) == 1


# --- whatever there is to read -------------------------------------------------------------------


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 8))
def test_no_bytes_crash_it(tmp_path: Path, text: bytes, at: int) -> None:
    writer = Writer(tmp_path / "db1").start(1.0).add(2.0, 2.1, A, 9.0)
    writer.lines.insert(min(at, len(writer.lines)), text)
    if text:
        assert kinds(writer.save())


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), _json)
def test_no_wrong_value_in_a_chain_that_fits_crashes_it(
    tmp_path: Path, data: Any, value: Any
) -> None:
    writer = written(tmp_path / "db1")
    i = data.draw(st.integers(0, len(writer.lines) - 1))
    record = json.loads(writer.lines[i])
    key = data.draw(st.sampled_from(sorted(record)))
    lines = [json.dumps({**json.loads(line)}).encode() for line in writer.lines]
    lines[i] = json.dumps({**record, "hash": "", "prev": "", key: value}).encode()
    try:
        writer.lines = resealed(lines)
    except (TypeError, KeyError):
        return
    kinds(writer.save())
    from yaim_helper.tools.audit import main

    for tool in ("verify", "show", "timeline"):
        assert main([tool, str(writer.directory)]) is not None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"x" * (3 * MAX_LINE_BYTES), f"longer than {MAX_LINE_BYTES} bytes"),
        (b"1" * 5000, "not JSON"),
        (b"NaN", "not JSON"),
        (b'{"a":NaN}', "not JSON"),
        (b"[]", "not a JSON object as the helper writes it"),
        (b'{"a":1,"a":2}', "not a JSON object as the helper writes it"),
        (b'{"a": 1}', "not a JSON object as the helper writes it"),
        (b'{"a":1}', "its v is missing or wrong"),
        (b"\xff", "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_a_line_that_is_no_record_is_told_why(tmp_path: Path, line: bytes, why: str) -> None:
    writer = Writer(tmp_path / "db1").start(1.0)
    writer.lines.append(line + b"\n")
    assert [each.text for each in found(writer.save())] == [why]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"v": 3}, "of version 3: this reads version 2"),
        ({"type": "own", "op": 7}, "its op is missing or wrong"),
        ({"type": "intent", "op": "add"}, "its peer is missing or wrong"),
        ({"type": "own", "op": "x", "address": "x"}, "its address is missing or wrong"),
        ({"type": "held", "addresses": [["192.0.2.1"]]}, "its addresses is missing or wrong"),
        ({"type": "start"}, None),
        ({"type": "start", "earlier": {"time": 7}}, "its earlier is missing or wrong"),
        ({"type": "clock", "jump_s": "x"}, "its jump_s is missing or wrong"),
        (
            {"type": "own", "op": "x", "address": "192.0.2.1", "reset": -1},
            "its reset is missing or wrong",
        ),
        ({"type": "new"}, None),
    ],
)
def test_a_record_that_is_not_understood_is_told_why(
    tmp_path: Path, fields: dict[str, Any], why: str | None
) -> None:
    writer = Writer(tmp_path / "db1").start(1.0)
    kind = fields.pop("type", "stop")
    writer.write(2.0, kind, **fields)
    expected = [] if why is None else [f"record 3: {why}"]
    assert [each.text for each in found(writer.save())] == expected


def test_what_cannot_be_opened_cannot_be_read(tmp_path: Path) -> None:
    directory = written(tmp_path / "db1").directory
    segment(directory, 2).unlink()
    os.mkfifo(segment(directory, 2))
    segment(directory, 4).symlink_to("/etc/passwd")
    segment(directory, 5).mkdir()
    assert [each.text for each in found(directory) if each.damage is Damage.UNREADABLE] == [
        "not a file",
        "Too many levels of symbolic links",
        "Is a directory",
    ]


def test_a_directory_that_may_not_be_read_cannot(capsys: Any) -> None:
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        directory = written(Path(parent, "db1")).directory
        directory.chmod(0)
        os.seteuid(65534)
        try:
            told = run(capsys, "verify", directory)
        finally:
            os.seteuid(0)
    assert told[:2] == (
        Damage.UNREADABLE,
        f"{directory}: cannot be read: Permission denied\n",
    )


def test_names_do_not_reach_the_terminal_as_they_are(tmp_path: Path, capsys: Any) -> None:
    directory = tmp_path / "a\x1b[31m\n"
    directory.mkdir()
    status, out, _ = run(capsys, "verify", directory)
    assert status == Damage.UNREADABLE
    assert "a\\x1b[31m\\n" in out


def test_memory_does_not_grow_with_the_record(tmp_path: Path) -> None:
    sizes = []
    for count in (10_000, 60_000):
        writer = Writer(tmp_path / str(count)).start(1.0)
        for _ in range(count):
            writer.write(2.0, "summary", counts=[], filler="x" * 300)
        writer.save()
        script = (
            "import pathlib,sys\nfrom yaim_helper.tools.audit import main\n"
            "assert main(sys.argv[1:]) == 0\n"
            "status = pathlib.Path('/proc/self/status').read_text()\n"
            "print(status.split('VmHWM:')[1].split()[0])"
        )
        run_ = subprocess.run(
            (COMMAND[0], "-c", script, "verify", writer.directory),
            capture_output=True,
            text=True,
            check=True,
        )
        sizes.append(int(run_.stdout.splitlines()[-1]))
    # Not 40 MB more of records.
    assert sizes[1] - sizes[0] < 8_000


# --- arguments -----------------------------------------------------------------------------------


def test_wrong_usage_is_told(tmp_path: Path, capsys: Any) -> None:
    directory = written(tmp_path / "db1").directory
    empty = tmp_path / "heads"
    empty.touch()
    for arguments, told in (
        ((), "required"),
        (("timeline",), "PATH"),
        (("verify", tmp_path / "no"), f"{tmp_path / 'no'} does not exist"),
        (("verify", "a\0"), "a\\x00 does not exist"),
        (("verify", directory, "--from-segment", "0"), "0 is not the number of a segment"),
        (("verify", directory, "--heads", tmp_path / "no"), "No such file"),
        (("verify", directory, "--heads", empty), "has no line 'audit head host=...'"),
    ):
        status, out, err = run(capsys, *arguments)
        assert (status, out) == (2, "")
        assert told in re.sub(r"\s+", " ", err)
    assert run(capsys, "verify", directory, "--from-segment", "1")[0] == 0


@pytest.mark.parametrize("command", ["verify", "show"])
def test_without_a_path_the_record_of_this_host_is_meant(
    tmp_path: Path, capsys: Any, command: str
) -> None:
    directory = written(tmp_path / "db1").directory
    assert audit.main([command, str(directory)]) == 0
    named = capsys.readouterr()
    assert named.out
    assert audit.main([command], record=str(directory)) == 0
    assert capsys.readouterr() == named
    with pytest.raises(SystemExit) as ended:
        audit.main([command], record=str(tmp_path / "no"))
    assert ended.value.code == 2
    told = f"{tmp_path / 'no'} does not exist, or may not be seen: name the record's directory"
    assert told in capsys.readouterr().err


def test_help_tells_each_exit_status(capsys: Any) -> None:
    status, out, _ = run(capsys, "verify", "--help")
    assert status == 0
    for damage in Damage:
        assert f"  {damage.value} " in out


def test_a_chain_of_no_segments_has_no_records() -> None:
    chain = Chain(Path("/"), (Segment(Path("/proc/self/cmdline"), 1),), False)
    findings: list[Finding] = []
    assert list(Verification(chain, findings.append).records()) == []
    assert GENESIS == "0" * 64
