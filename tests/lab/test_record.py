"""What follows from what the observer saw, on records made by hand. Times are in seconds."""

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yaim.lab.record import Change, Record

A, B = ip_address("192.0.2.11"), ip_address("2001:db8::11")
POOL = {A, B}
NODES = ("n1", "n2", "n3")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record") / "observed"


def line(text: str) -> str:
    """A line as the observer writes it, in nanoseconds."""
    words, _, seconds = text.rpartition(" ")
    return f"{words} {round(float(seconds) * 1e9)}\n"


def read(file: Path, *lines: str) -> Record:
    file.write_text("".join(map(line, lines)))
    record = Record(file, frozenset(POOL))
    record.update()
    return record


def test_a_line_counts_when_it_is_complete(file: Path) -> None:
    record = read(file)
    with file.open("a") as observed:
        observed.write(line("t 1") + line(f"a n1 {A} 2")[:-7])
        observed.flush()
        record.update()
        assert (record.last_sent_at(), record.changes) == (1.0, [])
        observed.write(line(f"a n1 {A} 2")[-7:])
    record.update()
    record.update()
    assert record.changes == [Change(2.0, "n1", A, True)]


def test_a_new_lifetime_and_the_nodes_own_addresses_are_no_changes(file: Path) -> None:
    own = "a n1 192.0.2.201 1"
    record = read(file, own, f"d n1 {A} 1", f"a n1 {A} 2", f"a n1 {A} 3", f"d n1 {A} 4")
    assert record.changes == [Change(2.0, "n1", A, True), Change(4.0, "n1", A, False)]


def test_holders_are_all_that_have_an_address_now(file: Path) -> None:
    record = read(file, f"a n1 {A} 1", f"a n2 {A} 2", f"a n1 {B} 3", f"d n1 {B} 4")
    assert record.holders() == {A: ["n1", "n2"]}


def test_moves_are_what_appeared_in_that_time(file: Path) -> None:
    record = read(file, f"a n1 {A} 1", f"a n1 {B} 2", f"d n1 {A} 3", f"a n2 {A} 4", f"a n2 {B} 5")
    assert [record.moves(POOL, 2, 5), record.moves({A}, 0, 9), record.moves(POOL, 3, 4)] == [
        2,
        2,
        0,
    ]


def test_silences_are_when_no_ping_was_sent_for_long(file: Path) -> None:
    record = read(file, *(f"t {at}" for at in (1, 2, 5, 6, 9)))
    assert record.silences(2, 0, 10) == [(2, 5), (6, 9)]
    assert (record.silences(4, 0, 10), record.silences(2, 3, 9)) == ([], [])


def test_an_address_answers_if_it_did_so_shortly_before_the_last_ping(file: Path) -> None:
    record = read(file, "t 1", "t 2", "t 3", f"r {A} 2", f"r {A} 3", f"r {B} 2")
    assert [record.answering((A, B)), record.answering((A, B), within_s=1.0)] == [1, 2]
    assert read(file).answering((A, B)) == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], 0),
        ([f"a n1 {A} 1", f"d n1 {A} 3", f"a n2 {A} 3"], 0),
        ([f"a n1 {A} 1", f"a n2 {A} 3", f"d n1 {A} 4.5"], 1.5),
        ([f"a n1 {A} 0", f"a n2 {A} 1", f"d n1 {A} 4.5"], 2.5),
        ([f"a n1 {A} 1", f"a n2 {A} 3"], 5),
        ([f"a n1 {A} 0", f"a n2 {A} 1", f"d n1 {A} 2"], 0),
        ([f"a n1 {A} 1", f"a n2 {B} 3"], 0),
        ([f"a n1 {A} 1", f"a n2 {A} 2", f"a n3 {A} 3", f"d n1 {A} 4", f"d n2 {A} 6"], 4),
        ([f"a n1 {A} 1", f"a n2 {A} 2", f"d n2 {A} 3", f"a n2 {A} 5", f"d n1 {A} 9"], 4),
        ([f"a {n} {a} {at}" for at, a in ((1, A), (7, B)) for n in ("n1", "n2")], 7),
    ],
)
def test_the_overlap_is_how_long_an_address_was_on_more_nodes_than_one(
    file: Path, changes: list[str], expected: float
) -> None:
    """The overlap is that from 2 to 8."""
    assert read(file, *changes).overlap_s(POOL, 2, 8) == expected


step = st.tuples(st.booleans(), st.sampled_from(NODES), st.sampled_from((A, B)))


@given(st.lists(step, max_size=30), st.integers(0, 30), st.integers(0, 30))
def test_overlap_and_time_without_holder_are_what_looking_once_a_second_gives(
    file: Path, steps: list[tuple[bool, str, object]], since: int, length: int
) -> None:
    """One thing happens each second."""
    there: set[tuple[str, object]] = set()
    overlap_s = uncovered_s = 0
    for second in range(since + length):
        for is_there, node, address in steps[second : second + 1]:
            (there.add if is_there else there.discard)((node, address))
        if second >= since:
            counts = [sum((node, a) in there for node in NODES) for a in POOL]
            overlap_s += sum(count > 1 for count in counts)
            uncovered_s += counts.count(0)
    lines = (f"{'a' if on else 'd'} {node} {a} {at}" for at, (on, node, a) in enumerate(steps))
    record = read(file, *lines)
    assert record.overlap_s(POOL, since, since + length) == overlap_s
    intervals = record.uncovered(POOL, since, since + length)
    assert sum(interval.length_s for interval in intervals) == uncovered_s


@pytest.mark.parametrize(
    ("sent", "answered", "expected"),
    [
        ([3, 4, 5], [3, 4, 5], 0),
        ([3, 4, 5, 6], [3, 6], 3),
        ([3, 4, 5, 6], [3, 4, 5], 0),
        ([3, 4, 5, 6, 7, 8], [3, 8, 5], 3),
        (range(10), [1, 8], 7),
        (range(10), [0, 2, 3, 4, 5, 9], 4),
        (range(10), [0, 2, 3, 4, 5, 6, 9], 0),
        (range(10), [3], 4),
        ([3, 4, 5, 6, 7], [6, 7], 4),
        (range(10), [], 5),
    ],
)
def test_the_longest_gap_is_from_an_answered_ping_to_the_next(
    file: Path, sent: Sequence[float], answered: Sequence[float], expected: float
) -> None:
    """It is that of the gaps with a ping lost from 2 to 7, not the last of all; without an answer,
    it is to the end."""
    lines = [*(f"t {at}" for at in sent), *(f"r {A} {at}" for at in answered), f"r {B} 4"]
    assert read(file, *lines).longest_gap_s(A, 2, 7) == expected
