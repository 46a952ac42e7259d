"""The time for which a record tells all that its helper did, so that its silence means that nothing
was done. Reads no files.

That time begins with the first list of what the helper holds, which it writes when it starts and at
the beginning of each segment: who reads on from there knows what was there. It ends with the last
record, because the chain shows what is missing in between, or when somebody named that one as the
last: the marker, or a head that was told elsewhere. Nothing is known of the time before, as there
may have been a record that was removed, nor of the time after, as there may be more that was not
handed over. And of the time between the last record of one life and the first list of the next only
that is known which may have been held: a life between them may have written elsewhere.

The time in which the wall clock was wrong, as shows when it is set back, is no part of it: nothing
of that boot is where it says until then, and the same time comes twice."""

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
"""Intervals in order, of which none touches another."""
Vouched: TypeAlias = Mapping[tuple[str, int, str], Micros]
"""Host, number and hash of records, each with the instant until which it was the last."""

TOLD_WITHIN_US = 1_000_000
"""A log may tell a head so late."""
_TIME = re.compile(r"\s*(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,6})?(?:Z|[+-]\d\d:?\d\d))\s")


def read_vouched(texts: Iterable[str]) -> Vouched:
    """Reads the lines of a log that begin with a time, as those of `journalctl -o short-iso` do."""
    found: dict[tuple[str, int, str], Micros] = {}
    for text in texts:
        time = _TIME.match(text)
        for host, seq, known in HEAD.findall(text) if time is not None else ():
            at = _micros(time[1]) - TOLD_WITHIN_US if time is not None else 0
            key = host, int(seq), known
            found[key] = max(at, found.get(key, at))
    return found


def _micros(text: str) -> Micros:
    """Returns an instant; 0: the text is none after all."""
    try:
        return micros(datetime.fromisoformat(text.replace(",", ".")))
    except ValueError:
        return 0


@dataclass(frozen=True, slots=True)
class Told:
    """The time that one record tells of."""

    all: Intervals
    """The time for which it tells all that was done."""
    between: Intervals
    """The time between two lives: of addresses that may have been held then it tells all the
    same."""

    def of(self, possible: Iterable[Interval]) -> Intervals:
        """Returns the time for which it tells all about an address that may have been held then."""
        return merged([*self.all, *both(self.between, merged(possible))])


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a life."""

    last: Record
    earlier: Marker | None
    """The marker, as the next life found it."""

    def at(self, vouched: Vouched) -> Micros:
        return _last_until(self.last, self.earlier, vouched)


def _last_until(last: Record, marker: Marker | None, vouched: Vouched) -> Micros:
    """Returns until when somebody says that a record was the last."""
    until = max(last.at, vouched.get((last.host, last.seq, last.hash), last.at))
    if marker is not None and (marker.seq, marker.hash) == (last.seq, last.hash):
        until = max(until, marker.at)
    return until


class Coverage:
    """Finds the time that one record tells of, from its entries in order."""

    def __init__(self, error: Micros = 0, *, is_only: bool = False) -> None:
        """`error`: by how much the clock may be wrong. `is_only`: somebody vouches for it that no
        life wrote elsewhere."""
        self._tolerated = max(error, SET_BACK_US)
        self._is_only = is_only
        self._began: Micros | None = None
        self._last: Record | None = None
        self._before: Record | None = None
        """The last entry that was not written together with that one."""
        self._end: _End | None = None
        """The end of the life before, until it is told what the next one found."""
        self._ends: list[tuple[_End, Micros]] = []
        """Ends of lives, each with the instant at which it is told what the next one found."""
        self._boot_first_at: Micros = 0
        self._latest: Micros = 0
        self._ahead: Micros = 0
        """The wall clock was ahead of CLOCK_BOOTTIME by this at most."""
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
        """Returns the time that is told of; there are no more records."""
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
