"""The audit record: appended to, chained, numbered without a gap that it does not tell of, and
private (helper/AUDIT.md)."""

import errno
import fcntl
import json
import os
import re
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yaim_helper.owners import Owner
from yaim_helper.record.chain import GENESIS, MARKER, canonical, record_hash, seal, segment_name
from yaim_helper.record.entries import TAKEN
from yaim_helper.record.log import AuditError, AuditLog
from yaim_helper.record.past import Past
from yaim_helper.record.stamps import boot_id, now, session

from tests.helper.network import filled, small_disk
from tests.helper.process import read_records

Line: TypeAlias = tuple[int, dict[str, Any]] | str

POLICY = "0" * 64
OWN_KEYS = {"v", "boot_id", "host", "policy", "seq", "time", "boottime_ns", "prev", "hash"}
SEGMENT = segment_name(1)


@contextmanager
def opened(directory: Path, segment_bytes: int = 4 << 20) -> Iterator[AuditLog]:
    """As in a process that ends then: its files are closed."""
    log = AuditLog(directory, POLICY, segment_bytes)
    try:
        yield log
    finally:
        end(log)


def end(log: AuditLog) -> None:
    """Close the record in this process."""
    for each in (log._file, log._marker, log._directory):
        if each >= 0:
            os.close(each)


def lines(directory: Path) -> list[Line]:
    """Sequence number and what was recorded, or the text of a line that is no record."""
    return [
        read(line)
        for segment in sorted(directory.glob("audit-*.jsonl"))
        for line in segment.read_text().split("\n")[:-1]
    ]


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


def assert_chained(directory: Path) -> None:
    """Each record after the one before, whatever torn lines are between them."""
    prev = GENESIS
    for segment in sorted(directory.glob("audit-*.jsonl")):
        for line in segment.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            assert record["prev"] == prev
            prev = record["hash"]


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
            assert re.search(
                r": No space left on device$|: wrote only \d+ of \d+ bytes: is the disk full\?$",
                str(error),
            )
            return 1
    raise AssertionError("the disk does not fill up")


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


# --- what an earlier life tells ----------------------------------------------------------------


def told(*records: dict[str, Any]) -> bytes:
    prev, found = GENESIS, b""
    common = {"boot_id": boot_id(), "boottime_ns": 0}
    for number, record in enumerate(records, start=1):
        line, prev = seal({**common, "seq": number, **record}, prev)
        found += line
    return found


def result(op: str, address: str, cluster: str, outcome: str = "ok") -> dict[str, Any]:
    return asked("result", op, address, cluster) | {"outcome": outcome}


def asked(kind: str, op: str, address: str, cluster: str) -> dict[str, Any]:
    fields = {"op": op, "address": address, "cluster": cluster}
    place = {"interface": "eth0", "prefix": 32} if op == "add" else {}
    return {"type": kind, "peer": {"uid": 7, "pid": 9}, "id": 5, **fields, **place}


def own(address: str, outcome: str, interface: str = "eth0") -> dict[str, Any]:
    fields = {"op": "expire", "address": address, "interface": interface}
    return {"type": "own", **fields, "outcome": outcome}


def held(*addresses: list[Any], more: bool = False) -> dict[str, Any]:
    return {"type": "held", "addresses": addresses, "more": more}


def intent(op: str, address: str, cluster: str) -> dict[str, Any]:
    return asked("intent", op, address, cluster)


def owners(log: AuditLog) -> dict[str, Owner | None]:
    """By address, of what is at one place of eth0."""
    found = {}
    for address, spots in log.past.places.items():
        for spot, owner in spots.items():
            assert spot == ("eth0", 32)
            found[address] = owner
    return found


A, B = Owner(7, "a"), Owner(7, "b")
X = "192.0.2.1"


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
        # Without what was found there then.
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


def read_sound(segment: Path) -> list[dict[str, Any]]:
    """But for lines that are no records."""
    found = [read(line) for line in segment.read_text().splitlines()]
    return [line[1] for line in found if not isinstance(line, str)]


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
