"""yaim-helper audit timeline: who held what when, and what can be proven of it."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from yaim_helper.record.chain import GENESIS
from yaim_helper.tools.history import History
from yaim_helper.tools.intervals import FOREVER, HeldInterval
from yaim_helper.tools.output import write_anew
from yaim_helper.tools.records import instant, micros, open_chain
from yaim_helper.tools.svg import LEFT, MOST_TICKS, RIGHT, WIDTH
from yaim_helper.tools.timeline import of_address
from yaim_helper.tools.verdict import Verdict
from yaim_helper.tools.verify import Damage, Verification

from tests.helper.chains import EPOCH_US, Writer, run
from tests.helper.process import OK_ABSENT, OK_PRESENT, deadline_in, running
from tests.helper.tools.fenced import FencedTruth
from yaim.lab.namespaces import Namespace

A, B = "192.0.2.1", "192.0.2.2"


def intervals_of(writer: Writer) -> list[HeldInterval]:
    verification = Verification(open_chain(writer.save()), lambda finding: None)
    history = History(writer.host)
    for record in verification.records():
        history.take(record)
    history.finish(verification.marker)
    return history.intervals


def seconds(interval: HeldInterval) -> tuple[tuple[float, float], list[tuple[float, float]]]:
    def of(interval: tuple[int, int]) -> tuple[float, float]:
        start, end = ((each - EPOCH_US) / 1e6 for each in interval)
        return start, (end if interval[1] < FOREVER // 2 else float("inf"))

    return of(interval.possible), [of(each) for each in interval.sure]


def muted_of(interval: HeldInterval) -> tuple[float, float] | None:
    if interval.muted is None:
        return None
    start, end = ((each - EPOCH_US) / 1e6 for each in interval.muted)
    return start, end


def told(writer: Writer) -> list[tuple[tuple[float, float], list[tuple[float, float]]]]:
    return [seconds(each) for each in intervals_of(writer)]


@pytest.fixture
def node(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "db1").start(1.0)


# --- random histories, and what truly happened ---------------------------------------------------


class Truth:
    """A node and its helper at random, one address; what is recorded, and what is so."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1.0
        self.writer = Writer(directory).start(1.0)
        self.on_since: float | None = None
        self.off_at = 0.0
        """When the kernel removes it if nobody does anything."""
        self.deadline = 0.0
        self.was: list[tuple[float, float]] = []
        self.is_held = False
        self.is_missing_noted = True
        self.marker: Any = None
        self.is_known = True
        """Whether its record tells who put it there."""

    def pass_time(self, most: float = 0.05) -> float:
        self.now = round(self.now + self.random.uniform(0.001, most), 6)
        if self.on_since is not None and self.off_at <= self.now:
            self.turn_off(self.off_at)
        return self.now

    def turn_on(self) -> None:
        if self.on_since is None:
            self.on_since = self.now
        self.off_at = round(self.deadline + self.random.uniform(-2.0, 0.2), 6)
        self.off_at = max(self.off_at, self.now + 0.5)
        if self.off_at > self.deadline + 0.2:
            self.off_at = round(self.deadline + 0.2, 6)

    def turn_off(self, at: float) -> bool:
        was_on = self.on_since is not None
        if self.on_since is not None:
            self.was.append((self.on_since, at))
        self.on_since = None
        return was_on

    def play(self) -> None:
        self.pass_time(self.random.choice((0.1, 1.0, 5.0)))
        self.expire()
        held = (self.remove, self.renew, self.renew, self.renew, self.delete_by_hand)
        always = (self.add, self.add, self.sum_up, self.restart, self.reboot, self.next_segment)
        self.random.choice((*held, *always) if self.is_held else (*always, self.remove))()

    def expire(self) -> None:
        if self.is_held and self.now >= self.deadline:
            self.writer.own(self.now, "expire", A, "the deadline has passed: removing")
            if self.random.random() < 0.1:
                return self.restart()
            self.pass_time()
            was_on = self.turn_off(self.now)
            outcome = "removed" if was_on else "the kernel had removed it"
            self.writer.own(self.pass_time(), "expire", A, outcome)
            self.is_held = False
        return None

    def add(self) -> None:
        deadline = round(self.now + self.random.uniform(3.0, 20.0), 6)
        self.writer.intent(self.now, "add", A, deadline=deadline)
        chance = self.random.random()
        self.pass_time()
        if chance < 0.1 and not self.is_held:
            self.writer.result(self.pass_time(), "add", A, "refused", deadline=deadline)
            return None
        if chance < 0.2:
            return self.restart()
        was = "present" if self.on_since is not None else "absent"
        self.deadline = deadline
        self.turn_on()
        self.is_known = True
        if chance < 0.3:
            self.is_held = False
            self.restart()
        elif chance < 0.4 and not self.is_held:
            self.writer.result(self.pass_time(), "add", A, "failed", deadline=deadline)
        else:
            self.writer.result(self.pass_time(), "add", A, deadline=deadline, was=was)
            self.is_held = True
        return None

    def remove(self) -> None:
        self.writer.intent(self.now, "remove", A)
        chance = self.random.random()
        self.pass_time()
        if chance < 0.1:
            return self.restart()
        was = "present" if self.turn_off(self.now) else "absent"
        if chance < 0.2:
            return self.restart()
        if chance < 0.25:
            self.pass_time()
            self.writer.write(self.now, "gap", missed=1)
        else:
            self.writer.result(self.pass_time(), "remove", A, was=was)
        self.is_held = False
        return None

    def renew(self) -> None:
        was_on = self.on_since is not None
        self.deadline = round(self.now + self.random.uniform(3.0, 20.0), 6)
        self.turn_on()
        if not was_on:
            self.writer.own(self.pass_time(), "extend", A, "somebody had removed it: put back")
        self.marker = self.writer.marker(self.pass_time(), self.deadline)
        self.renewed_until = self.deadline

    renewed_until: float | None = None

    def sum_up(self) -> None:
        if self.renewed_until is not None:
            self.writer.renewals(self.now, self.renewed_until)
            self.renewed_until = None

    def delete_by_hand(self) -> None:
        self.turn_off(self.now)

    def restart(self) -> None:
        """Killed; started after a while."""
        self.is_held = False
        self.renewed_until = None
        self.pass_time(self.random.choice((0.3, 30.0)))
        self.writer.start(self.now, earlier=self.marker, more=True)
        self.pass_time(0.001)
        held = (A,) if self.on_since is not None else ()
        self.writer.held(self.now, *held, is_known=self.is_known)
        # What it finds is there when it starts: it looks before it tells.
        self.pass_time(0.01)

    def purge(self) -> None:
        """Deletes the record, with the helper stopped. It is begun anew."""
        writer = self.writer
        for file in writer.directory.glob("*"):
            file.unlink()
        writer.number, writer.seq, writer.hash, writer.lines = 1, 0, GENESIS, []
        self.marker = None
        self.is_known = False
        self.restart()

    def write_elsewhere(self) -> None:
        """Writes to another record for a life; that leaves alone what it does not know."""
        is_its_own = False
        for _ in range(self.random.randint(1, 4)):
            self.pass_time(5.0)
            if self.on_since is None:
                self.deadline = round(self.now + self.random.uniform(3.0, 20.0), 6)
                self.turn_on()
                is_its_own, self.is_known = True, False
            elif is_its_own:
                self.turn_off(self.now)
        self.restart()

    def reboot(self) -> None:
        self.pass_time(1.0)
        self.turn_off(self.now)
        self.is_held = False
        self.renewed_until = None
        self.pass_time(10.0)
        self.writer.boot += 1
        self.writer.boot_at = self.now
        self.pass_time(10.0)
        self.writer.start(self.now, earlier=self.marker)

    def next_segment(self) -> None:
        if self.is_held:
            self.writer.next_segment(self.now, A, deadline=self.deadline)
        else:
            self.writer.next_segment(self.now)

    def finish(self) -> list[tuple[float, float]]:
        if self.marker is not None:
            text = json.dumps(self.marker, sort_keys=True, separators=(",", ":"))
            (self.writer.save() / "renewed").write_text(text.ljust(512))
        if self.on_since is not None:
            self.turn_off(self.off_at)
        return self.was


def covers(outer: Sequence[tuple[float, float]], inner: Sequence[tuple[float, float]]) -> bool:
    merged: list[list[float]] = []
    for a, b in sorted(outer):
        if merged and a <= merged[-1][1] + 1e-6:
            merged[-1][1] = max(merged[-1][1], b)
        else:
            merged.append([a, b])
    return all(any(a - 2e-6 <= c and d <= b + 2e-6 for a, b in merged) for c, d in inner)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_the_truth_lies_between_what_is_sure_and_what_is_possible(
    tmp_path: Path, seed: int, steps: int
) -> None:
    directory = tmp_path / "db1"
    for file in directory.glob("*"):
        file.unlink()
    truth = Truth(directory, seed)
    for _ in range(steps):
        truth.play()
    was = truth.finish()
    found = told(truth.writer)
    assert covers([possible for possible, _ in found], was)
    assert covers(was, [each for _, sure in found for each in sure])


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.integers(1, 40))
@example(137731, 9)
def test_with_a_fence_too_the_truth_lies_between_what_is_sure_and_what_is_possible(
    tmp_path: Path, seed: int, steps: int
) -> None:
    """What answered; and what was on the interface answered or is told to have lain there muted."""
    directory = tmp_path / "db1"
    for file in directory.glob("*"):
        file.unlink()
    truth = FencedTruth(directory, seed)
    for _ in range(steps):
        truth.play()
    was = truth.finish()
    found = intervals_of(truth.writer)
    possible = [seconds(each)[0] for each in found]
    assert covers(possible, was)
    assert covers(was, [each for found_ in found for each in seconds(found_)[1]])
    muted = [part for each in found if (part := muted_of(each)) is not None]
    assert covers([*possible, *muted], truth.lay)
    assert not any(b - a > 2e-6 for a, b in held_by_both(muted, was))


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["n1", "n2", "n3"]),
            st.lists(st.integers(0, 40), min_size=4, max_size=4).map(sorted),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 3),
    st.lists(st.integers(0, 40), max_size=6, unique=True).map(sorted),
)
def test_overlaps_and_gaps_are_those_that_counting_each_instant_finds(
    held: list[tuple[str, list[int]]], error: int, borders: list[int]
) -> None:
    intervals = [
        HeldInterval(A, n, (a, d), ((b, c),) if b < c else (), "") for n, (a, b, c, d) in held
    ]
    told = tuple(zip(borders[::2], borders[1::2], strict=False))
    row = of_address(A, intervals, (5, 35), 0, told)

    def count(at: int, is_sure: bool) -> int:
        nodes = {n for n, (a, b, c, d) in held if (b <= at < c if is_sure else a <= at < d)}
        return len(nodes)

    is_told = [any(a <= at < b for a, b in told) for at in range(5, 35)]
    sure = [count(at, True) for at in range(5, 35)]
    possible = [count(at, False) for at in range(5, 35)]
    counts = list(zip(sure, possible, is_told, strict=True))
    assert (row.overlap.sure_us, row.overlap.possible_us) == (
        sum(each > 1 for each in sure),
        sum(t and s <= 1 < p for s, p, t in counts),
    )
    assert (row.uncovered.sure_us, row.uncovered.possible_us) == (
        sum(t and not p for _, p, t in counts),
        sum(t and p > 0 and not s for s, p, t in counts),
    )
    assert sum(b - a for a, b in row.untold) == is_told.count(False)
    tolerant = of_address(A, intervals, (5, 35), error, told)
    for strict, loose in ((row.overlap, tolerant.overlap), (row.uncovered, tolerant.uncovered)):
        left = strict.sure_us + strict.possible_us - loose.sure_us - loose.possible_us
        assert left == sum(b - a for a, b in loose.within_error)
        assert all(b - a <= error for a, b in loose.within_error)
        edges = borders[: 2 * len(told)]
        assert not any(a <= at <= b for a, b in loose.within_error for at in edges)


# --- of what not all records tell ----------------------------------------------------------------

DAY = "2027-01-15T08:00:"


def verdict(capsys: Any, *arguments: object) -> tuple[int, str]:
    status, out, err = run(capsys, "timeline", *arguments)
    assert err == ""
    return status, out.splitlines()[-1]


def test_a_record_that_was_purged_and_begun_anew_proves_nothing_of_before(
    tmp_path: Path, capsys: Any
) -> None:
    """db2 had the address, too, from 3 to 5, in a record that was there."""
    one = Writer(tmp_path / "one", "db1").start(1.0).add(2.0, 2.1, A, 9.0).remove(4.0, 4.1, A)
    one.write(9.0, "stop", addresses=0).save()
    two = Writer(tmp_path / "two", "db2").start(6.0).add(7.0, 7.1, A, 20.0).remove(8.0, 8.1, A)
    two.write(9.0, "stop", addresses=0).save()
    records = one.directory, two.directory
    status, out, _ = run(capsys, "timeline", *records)
    assert status == 0
    assert out.splitlines()[3:] == [
        "  two nodes: 0.000000 s surely, 0.000000 s more possibly",
        "  no node: 1.900000 s surely, 0.200000 s more possibly",
        f"    surely {DAY}06.000000Z to {DAY}07.000000Z: 1.000000 s",
        f"    surely {DAY}08.100000Z to {DAY}09.000000Z: 0.900000 s",
        f"    possibly {DAY}07.000000Z to {DAY}07.100000Z: 0.100000 s",
        f"    possibly {DAY}08.000000Z to {DAY}08.100000Z: 0.100000 s",
        "  not told by all records: 4.000000 s",
        f"    {DAY}02.000000Z to {DAY}06.000000Z: 4.000000 s",
        f"record of db1: from {DAY}01.000000Z to {DAY}09.000000Z",
        f"record of db2: from {DAY}06.000000Z to {DAY}09.000000Z",
        f"proven: never two, by the records of db1 and db2, from {DAY}06.000000Z to"
        f" {DAY}09.000000Z",
    ]
    untold = "not proven: not all records tell of the time"
    before = f"from {DAY}02.000000Z to {DAY}06.000000Z"
    assert verdict(capsys, "--since", f"{DAY}02", *records) == (22, f"{untold} {before}")
    after = f"from {DAY}09.000000Z to {DAY}12.000000Z"
    assert verdict(capsys, "--until", f"{DAY}12", *records) == (22, f"{untold} {after}")
    asked = "--since", f"{DAY}02", "--until", f"{DAY}12"
    assert verdict(capsys, *asked, *records) == (22, f"{untold} {before} and {after}")
    nothing = "not proven: there is no time that all records tell of"
    assert verdict(capsys, "--until", f"{DAY}05", *records) == (22, nothing)
    found = json.loads(run(capsys, "timeline", "--json", *records)[1])
    told = [f"{DAY}06.000000Z", f"{DAY}09.000000Z"]
    assert found["told"] == [told]
    assert found["records"][1] == {"node": "db2", "told": [told]}
    assert found["addresses"][0]["untold"] == [[f"{DAY}02.000000Z", f"{DAY}06.000000Z"]]


def test_two_nodes_that_surely_held_an_address_did_whatever_other_records_tell(
    tmp_path: Path, capsys: Any
) -> None:
    one, two = two_nodes(tmp_path, 4.0)
    late = Writer(tmp_path / "three", "db3").start(8.0).save()
    assert verdict(capsys, one.directory, two.directory, late)[0] == 20


@pytest.mark.parametrize("options", [(), ("--clock-error", "0.2")])
def test_an_overlap_that_may_go_on_where_not_all_records_tell_is_not_too_short_to_count(
    tmp_path: Path, capsys: Any, options: tuple[str, ...]
) -> None:
    """Between 5.0 and 5.1, when db3's record begins at 5.05."""
    one, two = two_nodes(tmp_path, 4.9)
    three = Writer(tmp_path / "three", "db3").start(5.05).write(9.1, "stop", addresses=0).save()
    told = (22, "two nodes may have held an address: 192.0.2.1")
    assert verdict(capsys, *options, one.directory, two.directory, three) == told


def test_how_long_an_overlap_was_counts_also_where_not_all_records_tell(
    tmp_path: Path, capsys: Any
) -> None:
    """The overlap is from 4.8 to 5.1, surely from 4.9 to 5.0; within an error of 0.3 nothing is
    sure, and it may have been longer where others would tell more."""
    one, two = two_nodes(tmp_path, 4.8)
    for at, error, status in (
        *((1.0, 0.2, 20), (1.0, 0.3, 0)),
        *((4.95, 0.2, 20), (4.95, 0.3, 22), (5.05, 0.3, 22), (5.1, 0.3, 22)),
        *((5.2, 0.2, 20), (5.2, 0.3, 0)),
    ):
        three = Writer(tmp_path / "three", "db3").start(at).write(9.1, "stop", addresses=0).save()
        records = one.directory, two.directory, three
        assert verdict(capsys, "--clock-error", error, *records)[0] == status


def test_damaged_records_tell_of_no_gap_for_sure(tmp_path: Path, capsys: Any) -> None:
    one, two = two_nodes(tmp_path, 5.2)
    del one.lines[3]
    found = json.loads(run(capsys, "timeline", "--json", one.save(), two.directory)[1])
    assert (found["status"], found["told"]) == (21, [])
    assert found["addresses"][0]["uncovered"]["sure_s"] == 0
    assert found["addresses"][0]["untold"] == [found["addresses"][0]["range"]]


def test_a_record_that_is_not_there_is_missed_where_its_heads_are_known(
    tmp_path: Path, capsys: Any
) -> None:
    one, two = two_nodes(tmp_path, 4.0)
    heads = tmp_path / "heads"
    heads.write_text(
        "".join(f"audit head host={w.host} seq={w.seq} sha256={w.hash}\n" for w in (one, two))
    )
    told = (22, "not proven: no record of db2, whose heads are known")
    assert verdict(capsys, "--heads", heads, one.directory) == told


def head(writer: Writer, time: str) -> str:
    return f"{time} h yaim-helper[7]: audit head host={writer.host} seq={writer.seq}" + (
        f" sha256={writer.hash}\n"
    )


@pytest.mark.parametrize(
    ("time", "until"),
    [
        (f"{DAY}08Z", "07.000000Z"),
        (f"{DAY}08+0000", "07.000000Z"),
        ("2027-01-15T10:00:08.500000+02:00", "07.500000Z"),
        ("2027-01-15 08:00:08,5Z", "07.500000Z"),
        (f"{DAY}03Z", "05.100000Z"),
        (f"{DAY}08", "05.100000Z"),
        ("Jan 15 08:00:08", "05.100000Z"),
        ("2027-02-31T08:00:08Z", "05.100000Z"),
    ],
)
def test_a_head_vouches_for_a_record_in_which_nothing_was_written_since(
    tmp_path: Path, capsys: Any, time: str, until: str
) -> None:
    """It may have been told a second late. What has no time that is clear does not count."""
    one = Writer(tmp_path / "one", "db1").start(1.0).add(2.0, 2.1, A, 9.0).remove(5.0, 5.1, A)
    two = Writer(tmp_path / "two", "db2").start(1.0).add(5.2, 5.3, A, 20.0).remove(9.0, 9.1, A)
    one.save()
    two.save()
    heads = tmp_path / "heads"
    heads.write_text(head(one, f"{DAY}02Z") + head(one, time) + head(two, ""))
    status, told = verdict(capsys, "--heads", heads, one.directory, two.directory)
    assert (status, told.split()[-1]) == (0, f"{DAY}{until}")


def test_the_head_of_an_earlier_record_vouches_for_nothing(tmp_path: Path, capsys: Any) -> None:
    one = Writer(tmp_path / "one", "db1").start(1.0)
    earlier = head(one, f"{DAY}08Z")
    one.add(2.0, 2.1, A, 9.0).remove(5.0, 5.1, A).save()
    heads = tmp_path / "heads"
    heads.write_text(earlier)
    assert verdict(capsys, "--heads", heads, one.directory)[1].split()[-1] == f"{DAY}05.100000Z"


@pytest.mark.parametrize(("is_of_the_last", "until"), [(True, "08"), (False, "06")])
def test_the_marker_vouches_for_the_record_that_it_names(
    tmp_path: Path, capsys: Any, is_of_the_last: bool, until: str
) -> None:
    one = Writer(tmp_path / "one", "db1").start(1.0).add(2.0, 2.1, A, 9.0).renewals(5.0, 12.0)
    if is_of_the_last:
        one.renewals(6.0, 12.0).mark(8.0, 12.0)
    else:
        one.mark(8.0, 12.0).renewals(6.0, 12.0)
    two = Writer(tmp_path / "two", "db2").start(1.0).write(9.0, "stop", addresses=0).save()
    told = verdict(capsys, one.save(), two)[1]
    assert told.split()[-1] == f"{DAY}{until}.000000Z"


def test_of_a_record_whose_earlier_segments_are_elsewhere_what_is_listed_is_the_beginning(
    tmp_path: Path, capsys: Any
) -> None:
    one = Writer(tmp_path / "one", "db1").start(1.0).add(2.0, 2.1, A, 90.0)
    one.next_segment(4.0, A, deadline=90.0).remove(6.0, 6.1, A).save()
    (one.directory / "audit-000001.jsonl").unlink()
    status, told = verdict(capsys, "--from-segment", "2", one.directory)
    assert status == 0
    assert told.endswith(f"by the record of db1, from {DAY}04.000000Z to {DAY}06.100000Z")


def test_a_record_without_a_list_tells_of_no_time(tmp_path: Path, capsys: Any) -> None:
    """The helper was killed before it was whole."""
    one = Writer(tmp_path / "one", "db1").start(1.0, more=True).add(2.0, 2.1, A, 9.0)
    status, out, _ = run(capsys, "timeline", one.remove(5.0, 5.1, A).save())
    assert status == 22
    assert out.splitlines()[-2:] == [
        "record of db1: tells of no time",
        "not proven: there is no time that all records tell of",
    ]


def test_while_the_clock_was_ahead_a_record_tells_of_no_time(tmp_path: Path, capsys: Any) -> None:
    """It tells of no time of that boot, as nobody knows since when; what is said again after it
    comes twice."""
    one = Writer(tmp_path / "one", "db1").start(1.0).add(2.0, 2.1, A, 9.0).remove(3.0, 3.1, A)
    one.boot, one.boot_at = 2, 4.0
    one.start(5.0).add(20.0, 20.1, A, 29.0).remove(21.0, 21.1, A)
    one.boot_at -= 12.0
    one.write(10.0, "policy", outcome="ok", reason=None).add(11.0, 11.1, A, 29.0)
    one.remove(30.0, 30.1, A).write(31.0, "stop", addresses=0)
    status, out, err = run(capsys, "timeline", one.save())
    assert (status, "clock set back" in err) == (0, True)
    spans = f"from {DAY}01.000000Z to {DAY}03.100000Z and from {DAY}21.100000Z to {DAY}31.000000Z"
    assert out.splitlines()[-1] == f"proven: never two, by the record of db1, {spans}"
    # A clock that is wrong by as much is what was allowed for.
    out = run(capsys, "timeline", "--clock-error", "12", one.directory)[1]
    spans = f"from {DAY}01.000000Z to {DAY}03.100000Z and from {DAY}05.000000Z to {DAY}31.000000Z"
    assert out.splitlines()[-1].endswith(f", {spans}")


def test_what_a_boot_with_an_earlier_clock_says_comes_twice(tmp_path: Path, capsys: Any) -> None:
    one = Writer(tmp_path / "one", "db1").start(1.0).add(2.0, 2.1, A, 9.0).remove(8.0, 8.1, A)
    one.boot, one.boot_at = 2, 4.0
    one.start(5.0).add(20.0, 20.1, A, 29.0).remove(21.0, 21.1, A)
    told = verdict(capsys, one.save())[1]
    spans = f"from {DAY}01.000000Z to {DAY}05.000000Z and from {DAY}08.100000Z to {DAY}21.100000Z"
    assert told == f"proven: never two, by the record of db1, {spans}"


def restarted(tmp_path: Path, *held: str, **further: Any) -> tuple[Path, Path]:
    """Records of db1, whose helper was stopped from 6 to 8, and of db2, which had B."""
    one = Writer(tmp_path / "one", "db1").start(1.0).add(2.0, 2.1, A, 12.0)
    one.write(6.0, "stop", addresses=1).start(8.0, *held, **further)
    one.add(8.5, 8.6, A, 20.0, "present")
    two = Writer(tmp_path / "two", "db2").start(1.0).add(2.0, 2.1, B, 90.0)
    two.write(10.0, "policy", outcome="ok", reason=None)
    return one.write(10.0, "stop", addresses=0).save(), two.save()


SPANS = f"from {DAY}01.000000Z to {DAY}06.000000Z and from {DAY}08.000000Z to {DAY}10.000000Z"


def test_between_two_lives_a_record_tells_only_of_what_it_says_may_have_been_held(
    tmp_path: Path, capsys: Any
) -> None:
    """Another life may have written elsewhere, and have held B."""
    records = restarted(tmp_path, A)
    status, out, _ = run(capsys, "timeline", *records)
    assert status == 0
    assert out.splitlines()[-3] == f"record of db1: {SPANS}"
    assert out.splitlines()[-1] == f"proven: never two, by the records of db1 and db2, {SPANS}"
    found = json.loads(run(capsys, "timeline", "--json", *records)[1])
    untold = [row["untold"] for row in found["addresses"]]
    assert untold == [[], [[f"{DAY}06.000000Z", f"{DAY}08.000000Z"]]]
    (interval,) = found["addresses"][0]["spells"]
    assert interval["sure"] == [[f"{DAY}02.100000Z", f"{DAY}08.600000Z"]]
    asked = "--since", f"{DAY}03", "--until", f"{DAY}09"
    assert verdict(capsys, *asked, "--address", A, *records)[0] == 0
    missing = f"from {DAY}06.000000Z to {DAY}08.000000Z"
    for of in ((), ("--address", B)):
        assert verdict(capsys, *asked, *of, *records) == (
            22,
            f"not proven: not all records tell of the time {missing}",
        )
    assert verdict(capsys, *asked, "--no-other-record", *records)[0] == 0


def test_what_the_next_life_does_not_find_is_told_of_until_its_deadline(
    tmp_path: Path, capsys: Any
) -> None:
    """A life that wrote elsewhere may have added it anew, and removed it."""
    one = Writer(tmp_path / "one", "db1").start(1.0).add(2.0, 2.1, A, 4.0)
    records = one.start(8.0, earlier=one.marker(3.0, 4.0)).write(9.0, "stop", addresses=0).save()
    (row,) = json.loads(run(capsys, "timeline", "--json", records)[1])["addresses"]
    assert row["untold"] == [[f"{DAY}04.200000Z", f"{DAY}08.000000Z"]]
    assert row["uncovered"]["sure"] == [[f"{DAY}08.000000Z", f"{DAY}09.000000Z"]]


def test_what_may_be_left_by_a_life_that_wrote_elsewhere_was_not_surely_there_before(
    tmp_path: Path, capsys: Any
) -> None:
    """It was found when that was over, and may have gone in between."""
    records = restarted(tmp_path, A, is_known=False)
    found = json.loads(run(capsys, "timeline", "--json", *records)[1])
    (interval,) = found["addresses"][0]["spells"]
    assert interval["sure"] == [[f"{DAY}08.000000Z", f"{DAY}08.600000Z"]]


def test_nothing_is_told_of_what_a_life_did_that_wrote_elsewhere(
    tmp_path: Path, capsys: Any
) -> None:
    """db1 had what db2 has given up, and a long time after that db2 had it again: neither that
    nobody had it is proven nor that nobody had it twice."""
    one = Writer(tmp_path / "one", "db1").start(1.0).write(4.0, "stop", addresses=0)
    one.start(22.0).write(24.0, "stop", addresses=0)
    two = Writer(tmp_path / "two", "db2").start(1.0).add(2.0, 2.1, A, 9.0).remove(5.0, 5.1, A)
    two.add(22.5, 22.6, A, 90.0).renewals(24.0, 90.0)
    status, out, _ = run(capsys, "timeline", "--json", one.save(), two.save())
    found = json.loads(out)
    (row,) = found["addresses"]
    assert status == 0
    assert row["uncovered"]["sure"] == [[f"{DAY}22.000000Z", f"{DAY}22.500000Z"]]
    assert row["untold"] == [[f"{DAY}04.000000Z", f"{DAY}22.000000Z"]]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("the marker that the next life finds", [(1.0, 7.0), (9.0, 10.0)]),
        ("a head", [(1.0, 7.5), (9.0, 10.0)]),
        ("what the next life found before it", [(1.0, 5.0), (9.0, 10.0)]),
        ("a life that told nothing in between", [(1.0, 5.0), (9.5, 10.0)]),
        ("no list of what it found", [(1.0, 5.0)]),
        ("with it, all at once", [(1.0, 5.0), (9.0, 10.0)]),
    ],
)
def test_a_life_ends_with_the_last_that_somebody_vouches_for(
    tmp_path: Path, capsys: Any, how: str, expected: Any
) -> None:
    one = Writer(tmp_path / "one", "db1").start(1.0).write(5.0, "stop", addresses=0)
    earlier = one.marker(7.0) if "marker" in how else None
    heads = tmp_path / "heads"
    heads.write_text(head(one, f"{DAY}08.5Z" if "head" in how else f"{DAY}05Z"))
    match how:
        case "what the next life found before it":
            one.write(9.0, "gap", missed=1)
        case "a life that told nothing in between":
            one.write(9.0, "start", version="1", pid=7, uid=0, earlier=None)
            one.write(9.2, "stop", addresses=0).start(9.5)
        case "with it, all at once":
            one.next_segment(9.0)
    if how == "no list of what it found":
        one.start(9.0, more=True)
    elif "told nothing" not in how:
        one.start(9.0, earlier=earlier)
    one.write(10.0, "stop", addresses=0)
    out = run(capsys, "timeline", "--json", "--heads", heads, one.save())[1]
    assert since_epoch(json.loads(out)["records"][0]["told"]) == expected


def cut_down(truth: Truth | FencedTruth, chance: random.Random) -> None:
    """What there is of its record: all; without its end; without the marker."""
    kept = chance.choice((1.0, 1.0, chance.random()))
    truth.writer.lines = truth.writer.lines[: max(2, round(kept * len(truth.writer.lines)))]
    if kept < 1 or chance.random() < 0.5:
        truth.marker = None


def held_by_both(one: list[tuple[float, float]], two: list[tuple[float, float]]) -> Any:
    pairs = ((max(a, c), min(b, d)) for a, b in one for c, d in two)
    return [(start, end) for start, end in pairs if start < end]


def since_epoch(intervals: list[list[str]]) -> list[tuple[float, float]]:
    def seconds_of(text: str) -> float:
        return (micros(datetime.fromisoformat(text)) - EPOCH_US) / 1e6

    return [(seconds_of(a), seconds_of(b)) for a, b in intervals]


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.integers(1, 25))
@pytest.mark.parametrize("model", [Truth, FencedTruth])
def test_however_little_of_the_records_is_left_nothing_is_claimed_that_is_not_so(
    tmp_path: Path, capsys: Any, model: type[Truth] | type[FencedTruth], seed: int, steps: int
) -> None:
    """Two nodes that know nothing of each other. Records are purged and begun anew, and cut, and
    lives write elsewhere."""
    chance = random.Random(seed)
    truths = []
    for name in ("db1", "db2"):
        directory = tmp_path / name
        for file in directory.glob("*"):
            file.unlink()
        truth = model(directory, chance.randrange(2**32))
        truth.writer.host = name
        for _ in range(steps):
            truth.play()
            if chance.random() < 0.1:
                truth.purge()
            if chance.random() < 0.1:
                truth.write_elsewhere()
        truths.append(truth)
    for truth in truths:
        cut_down(truth, chance)
    was = [truth.finish() for truth in truths]
    overlaps = held_by_both(*was)
    records = [truth.writer.save() for truth in truths]
    status, out, _ = run(capsys, "timeline", "--json", *records)
    found = json.loads(out)
    told = since_epoch(found["told"])
    if status == 0:
        assert all(b - a < 1e-5 for a, b in held_by_both(told, overlaps))
    for row in found["addresses"]:
        overlap = row["overlap"]
        assert covers(overlaps, since_epoch(overlap["sure"]))
        not_excluded = [*overlap["sure"], *overlap["possible"], *row["untold"]]
        within = held_by_both(since_epoch([row["range"]]), overlaps)
        assert covers(since_epoch(not_excluded), within)
        nobody = since_epoch(row["uncovered"]["sure"])
        held = [*was[0], *was[1]]
        assert all(b - a < 1e-5 for a, b in held_by_both(nobody, held))


# --- a real helper -------------------------------------------------------------------------------


def test_what_a_helper_wrote_is_understood(network: Namespace, tmp_path: Path, capsys: Any) -> None:
    """One life that adds, renews, removes and is killed, and one that finds what is left."""
    before = micros(datetime.now(UTC))
    with running(network, tmp_path) as helper, helper.greeted() as client:
        for address in (A, B):
            assert client.add(address) == OK_ABSENT
        assert client.renew(deadline_in(20))["result"] == "ok"
        assert client.remove(A)["result"] == "ok"
        assert client.add(A, deadline_ns=1)["result"] == "refused"
        helper.wait_until_written()
        helper.end(signal.SIGKILL)
    with running(network, tmp_path) as helper, helper.greeted() as client:
        assert client.add(B) == OK_PRESENT
        assert client.add(A) == OK_ABSENT
        assert client.remove(B)["result"] == "ok"
        assert helper.end() == 0
    after = micros(datetime.now(UTC))
    assert run(capsys, "verify", helper.audit_log)[0] == 0
    status, out, err = run(capsys, "timeline", helper.audit_log, "--json")
    assert (status, err) == (0, "")
    found = {each["address"]: each for each in json.loads(out)["addresses"]}
    assert [len(found[each]["spells"]) for each in (A, B)] == [2, 1]
    (b,) = found[B]["spells"]
    assert b["ended"] == "removed"
    assert len(b["sure"]) == 1
    assert instant(before) < b["possible"][0] < b["sure"][0][0]
    assert b["sure"][0][1] < b["possible"][1] < instant(after)
    shown = run(capsys, "show", helper.audit_log, "--address", B)[1].splitlines()
    assert [line.split()[3] for line in shown] == [
        "intent", "result", "held", "intent", "result", "intent", "result",
    ]  # fmt: skip


# --- the command ---------------------------------------------------------------------------------


def two_nodes(tmp_path: Path, taken_over_at: float) -> tuple[Writer, Writer]:
    one, two = Writer(tmp_path / "one", "db1"), Writer(tmp_path / "two", "db2")
    one.start(1.0).add(2.0, 2.1, A, 9.0).remove(5.0, 5.1, A).write(9.1, "stop", addresses=0).save()
    two.start(1.0).add(taken_over_at, taken_over_at + 0.1, A, 20.0).remove(9.0, 9.1, A).save()
    return one, two


BOTH = (
    "by the records of db1 and db2, from 2027-01-15T08:00:01.000000Z to 2027-01-15T08:00:09.100000Z"
)
"""What is proven, and when."""


@pytest.mark.parametrize(
    ("at", "options", "status", "verdict"),
    [
        (5.2, (), 0, f"proven: never two, {BOTH}"),
        (4.0, (), 20, "two nodes held an address: 192.0.2.1"),
        (5.0, (), 22, "two nodes may have held an address: 192.0.2.1"),
        (
            5.0,
            ("--clock-error", "0.1"),
            0,
            f"proven: never two, to within the clocks' error of 0.100000 s, {BOTH}",
        ),
        (
            5.2,
            ("--max-uncovered", "0.1"),
            23,
            f"never two, but uncovered for too long: 192.0.2.1; {BOTH}",
        ),
        (
            5.2,
            ("--max-uncovered", "0.5"),
            0,
            f"proven: never two, and none uncovered for more than 0.500000 s, {BOTH}",
        ),
        (4.0, ("--address", B), 22, f"nothing is on record in that time about {B}/32"),
        (4.0, ("--address", "192.0.2.0/24"), 20, "two nodes held an address: 192.0.2.1"),
        (
            *(4.0, ("--since", "2027-01-15T08:00:06"), 0),
            "proven: never two, by the records of db1 and db2, from 2027-01-15T08:00:06.000000Z to"
            " 2027-01-15T08:00:09.100000Z",
        ),
        (
            *(4.0, ("--until", "2027-01-15T08:00:03"), 0),
            "proven: never two, by the records of db1 and db2, from 2027-01-15T08:00:01.000000Z to"
            " 2027-01-15T08:00:03.000000Z",
        ),
        (
            4.0,
            ("--until", "2027-01-15T08:00:01"),
            22,
            "no address is on record in that time: nothing is proven",
        ),
    ],
)
def test_the_verdict(
    tmp_path: Path, capsys: Any, at: float, options: tuple[str, ...], status: int, verdict: str
) -> None:
    one, two = two_nodes(tmp_path, at)
    found, out, err = run(capsys, "timeline", one.directory, two.directory, *options)
    assert (found, out.splitlines()[-1], err) == (status, verdict, "")


def test_the_table_tells_who_when_and_what_is_wrong(tmp_path: Path, capsys: Any) -> None:
    one, two = two_nodes(tmp_path, 4.9)
    out = run(capsys, "timeline", one.directory, two.directory)[1]
    day = "2027-01-15T08:00:"
    assert out.splitlines() == [
        "192.0.2.1",
        f"  db1: possibly {day}02.000000Z to {day}05.100000Z, surely {day}02.100000Z to"
        f" {day}05.000000Z (removed)",
        f"  db2: possibly {day}04.900000Z to {day}09.100000Z, surely {day}05.000000Z to"
        f" {day}09.000000Z (removed)",
        "  two nodes: 0.000000 s surely, 0.200000 s more possibly",
        f"    possibly {day}04.900000Z to {day}05.100000Z: 0.200000 s",
        "  no node: 0.000000 s surely, 0.200000 s more possibly",
        f"    possibly {day}02.000000Z to {day}02.100000Z: 0.100000 s",
        f"    possibly {day}09.000000Z to {day}09.100000Z: 0.100000 s",
        f"record of db1: from {day}01.000000Z to {day}09.100000Z",
        f"record of db2: from {day}01.000000Z to {day}09.100000Z",
        "two nodes may have held an address: 192.0.2.1",
    ]


def test_json_tells_the_same(tmp_path: Path, capsys: Any) -> None:
    one, two = two_nodes(tmp_path, 4.0)
    status, out, _ = run(capsys, "timeline", one.directory, two.directory, "--json")
    found = json.loads(out)
    assert (found["status"], found["addresses"][0]["overlap"]["sure_s"]) == (status, 0.9)
    assert [each["node"] for each in found["addresses"][0]["spells"]] == ["db1", "db2"]


def test_damaged_records_prove_nothing(tmp_path: Path, capsys: Any) -> None:
    one, two = two_nodes(tmp_path, 5.2)
    one.lines[2] = one.lines[2].replace(b"db1", b"db9")
    status, out, err = run(capsys, "timeline", one.save(), two.directory)
    assert status == 21
    assert out.splitlines()[-1] == "the records are damaged: nothing is proven"
    assert err == (
        f"{one.file}:3: broken chain: was changed: its hash is not that of what it says\n"
    )
    (tmp_path / "none").mkdir()
    assert run(capsys, "timeline", tmp_path / "none")[0] == 21


def test_two_records_of_hosts_of_one_name_are_two_nodes(tmp_path: Path, capsys: Any) -> None:
    one, _ = two_nodes(tmp_path, 4.0)
    again = Writer(tmp_path / "again", "db1").start(1.0).add(4.0, 4.1, A, 9.0).remove(6.0, 6.1, A)
    status, out, _ = run(capsys, "timeline", one.directory, again.save())
    assert status == 20
    assert f"  db1 ({again.directory}): " in out


def test_a_record_without_records_proves_nothing(tmp_path: Path, capsys: Any) -> None:
    assert run(capsys, "timeline", Writer(tmp_path / "db1").save())[:2] == (
        21,
        "the records are damaged: nothing is proven\n",
    )


@pytest.mark.parametrize("name", ["audit-000001.jsonl", "renewed", "table.txt"])
def test_a_picture_is_written_over_nothing_else(tmp_path: Path, capsys: Any, name: str) -> None:
    one, two = two_nodes(tmp_path, 5.2)
    target = tmp_path / name
    target.write_text("evidence")
    assert run(capsys, "timeline", "--svg", target, one.directory, two.directory)[0] == 2
    assert target.read_text() == "evidence"


@pytest.mark.parametrize("command", ["verify", "timeline"])
@pytest.mark.parametrize("option", ["-I", "-u"], ids=["at the end", "with each line"])
def test_who_reads_no_further_does_not_change_the_status(
    tmp_path: Path, command: str, option: str
) -> None:
    """An example: yaim-helper audit verify ... | head -1"""
    one, _ = two_nodes(tmp_path, 4.0)
    one.file.write_bytes(one.file.read_bytes().replace(b"db1", b"dbx", 1))
    audit = (sys.executable, option, "-m", "yaim_helper", "audit", command, str(one.directory))
    ends: dict[str, int] = {}
    for name, to in (("all", "cat"), ("nothing", "true")):
        with subprocess.Popen((to,), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader:
            if to == "true":
                reader.wait()
            ends[name] = subprocess.run(audit, stdout=reader.stdin, check=False).returncode
    assert ends["all"] == ends["nothing"] != 0


@pytest.mark.parametrize("command", ["verify", "show", "timeline"])
def test_output_that_cannot_be_written_is_told(tmp_path: Path, command: str) -> None:
    one, _ = two_nodes(tmp_path, 4.0)
    audit = (sys.executable, "-m", "yaim_helper", "audit", command, str(one.directory))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(audit, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.endswith("yaim-helper: cannot write: No space left on device\n")
    closed = ("sh", "-c", 'exec "$@" >&-', "sh", *audit)
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_told(tmp_path: Path, capsys: Any) -> None:
    one, _ = two_nodes(tmp_path, 4.0)
    for arguments, told in (
        (("--clock-error", "x"), "x is not a number of seconds"),
        (("--max-uncovered", "-1"), "-1 is not a number of seconds"),
        (("--max-uncovered", "nan"), "nan is not a number of seconds"),
        (("--since", "2030-01-01"), "--since is not before"),
        (("--svg", tmp_path / "no" / "x.svg"), "No such file or directory"),
    ):
        status, _, err = run(capsys, "timeline", one.directory, *arguments)
        assert status == 2
        assert told in err


def test_no_picture_is_written_through_a_link(tmp_path: Path, capsys: Any) -> None:
    """That somebody has put into a directory where all can write, for root's pictures."""
    one, _ = two_nodes(tmp_path, 4.0)
    victim, link = tmp_path / "victim", tmp_path / "x.svg"
    victim.write_text("root's")
    link.symlink_to(victim)
    status, _, err = run(capsys, "timeline", one.directory, "--svg", link)
    told = "is a link, perhaps somebody else's: name the file that is meant"
    assert (status, err) == (2, f"yaim-helper: {link}: {told}\n")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        write_anew(link, "put there since")
    assert victim.read_text() == "root's"


def test_the_examples_of_the_documentation_are_true(tmp_path: Path, capsys: Any) -> None:
    page = (Path(__file__).parents[3] / "docs" / "audit.md").read_text()
    one, two = two_nodes(tmp_path, 5.2)
    out = run(capsys, "timeline", one.directory, two.directory)[1]
    assert f"```\n{out}```" in page
    one.lines[2] = one.lines[2].replace(b"db1", b"db9")
    out = run(capsys, "verify", one.save())[1].replace(one.hash, "HASH")
    assert f"```\n{out}```".replace(str(one.directory), "/srv/audit/db1") in page
    for status in (*Damage, *Verdict):
        assert f"| {status.value} | " in page


# --- the picture ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length_s", [0.000001, 0.05, 7.0, 3000.0, 90_000.0, 4e7])
def test_the_picture_is_whole_and_within_its_bounds(
    tmp_path: Path, capsys: Any, length_s: float
) -> None:
    one = Writer(tmp_path / "one", "<db1>&\x1b").start(1.0).add(2.0, 2.1, A, 2.05)
    two = Writer(tmp_path / "two", "db2").start(1.0).add(2.05, 2.1, A, 2.3)
    one.start(2 + length_s, B).remove(3 + length_s, 4 + length_s, B)
    file = tmp_path / "x.svg"
    run(capsys, "timeline", one.save(), two.save(), "--svg", file)
    root = ElementTree.fromstring(file.read_text())
    space = "{http://www.w3.org/2000/svg}"
    assert [root.find(f"{space}{each}") is not None for each in ("title", "desc")] == [True, True]
    height = float(root.attrib["height"])
    for rect in root.iter(f"{space}rect"):
        x, y = float(rect.get("x", 0)), float(rect.get("y", 0))
        assert x >= 0 and x + float(rect.attrib["width"]) <= WIDTH + 1
        assert y >= 0 and y + float(rect.attrib["height"]) <= height
    ticks = list(root.iter(f"{space}line"))
    assert len(ticks) <= MOST_TICKS + 1
    assert all(LEFT <= float(each.attrib["x1"]) <= WIDTH - RIGHT for each in ticks)
    assert "<db1>&\\x1b" in "".join(root.itertext())


# --- the fence -----------------------------------------------------------------------------------


def frozen(tmp_path: Path, taken_over_at: float) -> tuple[Path, Path]:
    """db1's helper is stopped before its deadline, 5.0, until 9.0; db2 takes the address over."""
    one = Writer(tmp_path / "one", "db1").start(1.0, fence=True)
    one.add(2.0, 2.1, A, 5.0, fence=True)
    for at, outcome in ((9.0, "the deadline has passed: removing"), (9.1, "removed")):
        one.own(at, "expire", A, outcome, **one.until(5.0))
    one.write(9.3, "stop", addresses=0)
    two = Writer(tmp_path / "two", "db2").start(1.0, fence=True)
    two.add(taken_over_at, taken_over_at + 0.1, A, 20.0, fence=True)
    two.remove(9.2, 9.3, A, **two.until(20.0))
    return one.save(), two.save()


def test_never_two_answered_is_proven_by_the_fence_and_what_lay_muted_is_told_beside_it(
    tmp_path: Path, capsys: Any
) -> None:
    status, out, _ = run(capsys, "timeline", *frozen(tmp_path, 5.1))
    assert status == 0
    assert out.splitlines() == [
        A,
        f"  db1: possibly {DAY}02.000000Z to {DAY}05.050000Z, surely {DAY}02.100000Z to"
        f" {DAY}05.000000Z, muted on the interface {DAY}05.050000Z to {DAY}09.100000Z (removed)",
        f"  db2: possibly {DAY}05.100000Z to {DAY}09.300000Z, surely {DAY}05.200000Z to"
        f" {DAY}09.200000Z (removed)",
        "  two nodes: 0.000000 s surely, 0.000000 s more possibly",
        "  no node: 0.050000 s surely, 0.350000 s more possibly",
        f"    surely {DAY}05.050000Z to {DAY}05.100000Z: 0.050000 s",
        f"    possibly {DAY}02.000000Z to {DAY}02.100000Z: 0.100000 s",
        f"    possibly {DAY}05.000000Z to {DAY}05.050000Z: 0.050000 s",
        f"    possibly {DAY}05.100000Z to {DAY}05.200000Z: 0.100000 s",
        f"    possibly {DAY}09.200000Z to {DAY}09.300000Z: 0.100000 s",
        "  muted on an interface beside another node: 4.000000 s, 4.000000 s at most at a time",
        f"    {DAY}05.100000Z to {DAY}09.100000Z: 4.000000 s",
        f"record of db1: from {DAY}01.000000Z to {DAY}09.300000Z",
        f"record of db2: from {DAY}01.000000Z to {DAY}09.300000Z",
        f"muted on an interface beside another node for 4.000000 s at most ({A}): no breach, it"
        " answered nothing",
        f"proven: never two, by the records of db1 and db2, from {DAY}01.000000Z to"
        f" {DAY}09.300000Z",
    ]


def test_who_answers_before_the_fence_of_another_has_ended_may_be_the_second(
    tmp_path: Path, capsys: Any
) -> None:
    assert verdict(capsys, *frozen(tmp_path, 5.04))[0] == 22
    assert verdict(capsys, *frozen(tmp_path, 4.8))[0] == 20


def test_json_and_the_picture_tell_what_answers_and_what_is_muted_apart(
    tmp_path: Path, capsys: Any
) -> None:
    records = frozen(tmp_path, 5.1)
    file = tmp_path / "x.svg"
    found = json.loads(run(capsys, "timeline", "--json", "--svg", file, *records)[1])
    (row,) = found["addresses"]
    assert [each["muted"] for each in row["spells"]] == [
        [[f"{DAY}05.050000Z", f"{DAY}09.100000Z"]],
        [],
    ]
    both = [[f"{DAY}05.100000Z", f"{DAY}09.100000Z"]]
    assert row["muted"] == {"longest_s": 4.0, "beside_another": both}
    root = ElementTree.fromstring(file.read_text())
    space = "{http://www.w3.org/2000/svg}"
    empty = [
        title.text
        for rect in root.iter(f"{space}rect")
        if rect.get("stroke") and (title := rect.find(f"{space}title")) is not None
    ]
    told = f"db1 muted on the interface from {DAY}05.050000Z to {DAY}09.100000Z; removed"
    assert empty == [told]
    assert "beside another node for 4.000 s at most." in "".join(root.itertext())


def test_what_is_only_muted_in_the_time_that_is_asked_for_is_told(
    tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "x.svg"
    asked = "--since", f"{DAY}06", "--svg", file
    out = run(capsys, "timeline", *asked, *frozen(tmp_path, 5.1))[1]
    since = f"{DAY}06.000000Z"
    assert out.splitlines()[1] == (
        f"  db1: muted on the interface {since} to {DAY}09.100000Z (removed)"
    )
    assert "db1 possibly" not in file.read_text()


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["n1", "n2", "n3"]),
            st.lists(st.integers(0, 40), min_size=3, max_size=3).map(sorted),
        ),
        max_size=6,
    )
)
def test_muted_beside_another_is_what_counting_each_instant_finds(
    held: list[tuple[str, list[int]]],
) -> None:
    intervals = [
        HeldInterval(A, n, (a, b), (), "", (b, c) if b < c else None) for n, (a, b, c) in held
    ]
    row = of_address(A, intervals, (5, 35), 0, ())
    expected = [
        at
        for at in range(5, 35)
        if any(
            b <= at < c and any(other != n and x <= at < z for other, (x, _, z) in held)
            for n, (_, b, c) in held
        )
    ]
    assert [at for a, b in row.muted for at in range(a, b)] == expected
    assert row.overlap.sure_us == 0


# --- nothing changes for the records that there are ----------------------------------------------


def test_keys_and_types_that_are_not_known_are_passed_over(tmp_path: Path, capsys: Any) -> None:
    """So did the versions before the fence: what it has brought is such to them."""
    one, two = two_nodes(tmp_path, 5.2)
    before = run(capsys, "timeline", "--json", one.directory, two.directory)[1]
    again = Writer(tmp_path / "again", "db1").start(1.0)
    again.add(2.0, 2.1, A, 9.0, new=True).write(2.2, "another", uid=1, addresses=3)
    again.remove(5.0, 5.1, A, new="x").write(9.1, "stop", addresses=0)
    assert run(capsys, "verify", again.save())[0] == 0
    assert run(capsys, "timeline", "--json", again.directory, two.directory)[1] == before
