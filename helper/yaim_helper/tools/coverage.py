"""For which time a record tells all that its helper did, so that its silence means that nothing was
done. Reads no files.

From the first list of what the helper holds on, which it writes when it starts and at the beginning
of each segment: who reads on from there knows what was there. Until the last record, because the
chain shows what is missing in between, or until somebody named that one as the last: the marker, or
a head that was told elsewhere. Nothing is known of before, as there may have been a record that was
removed, nor of after, as there may be more that was not handed over. Nor is anything known, but
that what it tells may have been held, of the time between the last record of one life and the first
list of the next: a life between them may have written elsewhere.

Not while the wall clock was wrong, as shows when it is set back: nothing of that boot is where it
says until then, and the same time comes twice.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import TypeAlias

from yaim_helper.tools.records import Marker, Micros, Record, earlier_marker, micros
from yaim_helper.tools.verify import HEAD, SET_BACK_US

Interval: TypeAlias = tuple[Micros, Micros]
Intervals: TypeAlias = tuple[Interval, ...]
"""In order; none touches another."""
Vouched: TypeAlias = Mapping[tuple[str, int, str], Micros]
"""Until when a record was the last: of a host, its number and its hash."""

TOLD_WITHIN_US = 1_000_000
"""A log may be as late with a head."""
_TIME = re.compile(r"\s*(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,6})?(?:Z|[+-]\d\d:?\d\d))\s")


def read_vouched(texts: Iterable[str]) -> Vouched:
    """From the lines of a log that begin with a time, as those of `journalctl -o short-iso` do."""
    found: dict[tuple[str, int, str], Micros] = {}
    for text in texts:
        time = _TIME.match(text)
        for host, seq, known in HEAD.findall(text) if time is not None else ():
            at = _micros(time[1]) - TOLD_WITHIN_US if time is not None else 0
            key = host, int(seq), known
            found[key] = max(at, found.get(key, at))
    return found


def _micros(text: str) -> Micros:
    """0 for what is none after all."""
    try:
        return micros(datetime.fromisoformat(text.replace(",", ".")))
    except ValueError:
        return 0


@dataclass(frozen=True, slots=True)
class Told:
    """Of which time one record tells."""

    all: Intervals
    """All that was done."""
    between: Intervals
    """Between two lives: of those addresses that it tells may have been held then, all the same."""

    def of(self, possible: Iterable[Interval]) -> Intervals:
        """Of an address that it tells may have been held then."""
        return merged([*self.all, *both(self.between, merged(possible))])


@dataclass(frozen=True, slots=True)
class _End:
    """Of a life."""

    last: Record
    earlier: Marker | None
    """As the next life found it."""

    def at(self, vouched: Vouched) -> Micros:
        return _last_until(self.last, self.earlier, vouched)


def _last_until(last: Record, marker: Marker | None, vouched: Vouched) -> Micros:
    """Until when somebody says that it was the last."""
    until = max(last.at, vouched.get((last.host, last.seq, last.hash), last.at))
    if marker is not None and (marker.seq, marker.hash) == (last.seq, last.hash):
        until = max(until, marker.at)
    return until


class Coverage:
    """Of one record, from its records in order."""

    def __init__(self, error: Micros = 0, *, is_only: bool = False) -> None:
        """By how much the clock may be wrong, and whether somebody vouches for it that no life
        wrote elsewhere."""
        self._tolerated = max(error, SET_BACK_US)
        self._is_only = is_only
        self._began: Micros | None = None
        self._last: Record | None = None
        self._before: Record | None = None
        """The last that was not written together with that one."""
        self._end: _End | None = None
        """Of the life before, until what the next one found is told."""
        self._ends: list[tuple[_End, Micros]] = []
        """And when that is told."""
        self._boot_first_at: Micros = 0
        self._latest: Micros = 0
        self._ahead: Micros = 0
        """By how much the wall clock was ahead of CLOCK_BOOTTIME at most."""
        self._wrong: list[Interval] = []

    def take(self, record: Record) -> None:
        if self._last is None or record.boot_id != self._last.boot_id:
            self._boot_first_at, self._ahead = record.at, record.boot_began
        lost = max(self._ahead - record.boot_began, self._latest - record.at)
        if lost > self._tolerated:
            first = min(self._boot_first_at, record.at)
            self._wrong.append((first, max(self._latest, record.at)))
            self._ahead = record.boot_began
        self._ahead = max(self._ahead, record.boot_began)
        self._latest = max(self._latest, record.at)
        self._follow_lives(record)
        if record.type == "held" and not record.fields.get("more") and self._began is None:
            self._began = record.at
        self._last = record

    def _follow_lives(self, record: Record) -> None:
        if self._last is not None and _stamp(self._last) != _stamp(record):
            self._before = self._last
        if record.type == "start":
            # What stands before it may be of this life, too: that it found a torn line, say.
            if self._before is not None and self._end is None and not self._is_only:
                self._end = _End(self._before, earlier_marker(record))
        elif record.type == "held" and not record.fields.get("more") and self._end is not None:
            self._ends.append((self._end, record.at))
            self._end = None

    def told(self, marker: Marker | None, vouched: Vouched) -> Told:
        """There are no more records."""
        if self._last is None or self._began is None:
            return Told((), ())
        until = _last_until(self._last, marker, vouched)
        ends = [(end.at(vouched), at) for end, at in self._ends]
        if self._end is not None:
            ends.append((self._end.at(vouched), until))
        between = merged((a, b) for a, b in ends if a < b)
        return Told(
            without((self._began, until), [*self._wrong, *between]),
            tuple(
                part
                for each in both(between, [(self._began, until)])
                for part in without(each, self._wrong)
            ),
        )


def _stamp(record: Record) -> tuple[str, int]:
    return record.boot_id, record.boottime_ns


def merged(intervals: Iterable[Interval]) -> Intervals:
    found: list[Interval] = []
    for a, b in sorted(intervals):
        if found and a <= found[-1][1]:
            found[-1] = found[-1][0], max(b, found[-1][1])
        else:
            found.append((a, b))
    return tuple(found)


def by_all(each_tells: Sequence[Intervals]) -> Intervals:
    return reduce(both, each_tells) if each_tells else ()


def both(one: Iterable[Interval], other: Iterable[Interval]) -> Intervals:
    other = tuple(other)
    common = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return tuple((start, end) for start, end in common if start < end)


def without(whole: Interval, parts: Iterable[Interval]) -> Intervals:
    """What is left of it."""
    left = [whole] if whole[0] < whole[1] else []
    for a, b in parts:
        left = [each for c, d in left for each in ((c, min(a, d)), (max(b, c), d))]
        left = [(start, end) for start, end in left if start < end]
    return tuple(left)
