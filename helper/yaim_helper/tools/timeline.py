"""Who held which address when, from the histories of all nodes: what two nodes held, and what
nobody held; and what lay muted on an interface (the fence) while another node had it.

Surely and possibly mean here what they mean in history.py. Silence proves something only for the
time that the records of all nodes tell of (coverage.py); what two nodes surely held they held
whatever others tell. Reads no files.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from yaim_helper.tools.coverage import Interval, Intervals, both, merged, without
from yaim_helper.tools.intervals import FOREVER, HeldInterval
from yaim_helper.tools.records import Micros


@dataclass(frozen=True, slots=True)
class Times:
    """Intervals without those that are too short to count, and these."""

    sure: tuple[Interval, ...]
    possible: tuple[Interval, ...]
    """Besides the sure ones: what cannot be excluded."""
    within_error: tuple[Interval, ...]
    """What is so short that the clocks may be at fault."""

    @property
    def sure_us(self) -> Micros:
        return _length(self.sure)

    @property
    def possible_us(self) -> Micros:
        return _length(self.possible)


@dataclass(frozen=True, slots=True)
class OfAddress:
    address: str
    range: Interval
    intervals: tuple[HeldInterval, ...]
    """Within the time that was looked at."""
    overlap: Times
    """Sure at any time, possible while it is told."""
    uncovered: Times
    """While it is told."""
    untold: Intervals
    """The times of which not all records tell."""
    muted: Intervals
    """When it may have been on the interface of a node, where it answered nothing, while it was
    possibly on that of another."""

    @property
    def longest_muted_us(self) -> Micros:
        return max((b - a for a, b in self.muted), default=0)


def of_address(
    address: str,
    intervals: Sequence[HeldInterval],
    limits: Interval,
    error: Micros,
    told: Intervals,
) -> OfAddress:
    """Returns what is known of one address within the limits. What is no longer than the error is
    not counted. `told`: the time of which the records of all nodes tell."""
    seen = tuple(
        shown
        for each in sorted(intervals, key=lambda each: (each.possible, each.node))
        if (shown := _within(each, limits)) is not None
    )
    pieces = _pieces(seen, limits)
    of_all = [(part, s, p) for piece, s, p in pieces for part in both([piece], told)]
    return OfAddress(
        address,
        limits,
        seen,
        _times(
            [piece for piece, sure, _ in pieces if sure > 1],
            [part for part, sure, possible in of_all if sure <= 1 < possible],
            [piece for piece, sure, possible in pieces if sure <= 1 < possible],
            error,
            told,
        ),
        _times(
            [part for part, _, possible in of_all if not possible],
            [part for part, sure, possible in of_all if not sure and possible],
            [],
            error,
            told,
        ),
        without(limits, told),
        _muted(seen),
    )


def _within(held: HeldInterval, limits: Interval) -> HeldInterval | None:
    """Returns what of it is within the limits; if it is only muted there, nothing is possible."""
    possible = _cut([held.possible], limits)
    muted = _cut([] if held.muted is None else [held.muted], limits)
    if not possible and not muted:
        return None
    return HeldInterval(
        held.address,
        held.node,
        possible[0] if possible else (limits[0], limits[0]),
        tuple(_cut(held.sure, limits)),
        held.ended,
        muted[0] if muted else None,
    )


def _muted(intervals: Sequence[HeldInterval]) -> Intervals:
    found: list[Interval] = []
    for each in intervals:
        others = [other for other in intervals if other.node != each.node]
        on = [part for other in others for part in (other.possible, other.muted) if part]
        found += both([each.muted], merged(on)) if each.muted is not None else ()
    return merged(found)


def _cut(intervals: Iterable[Interval], limits: Interval) -> list[Interval]:
    cut = ((max(a, limits[0]), min(b, limits[1])) for a, b in intervals)
    return [(a, b) for a, b in cut if a < b]


def _pieces(intervals: Iterable[HeldInterval], limits: Interval) -> list[tuple[Interval, int, int]]:
    """Returns all the time, in pieces, and how many nodes surely and possibly held the address
    in each."""
    sure: dict[str, list[Interval]] = {}
    possible: dict[str, list[Interval]] = {}
    for held in intervals:
        sure.setdefault(held.node, []).extend(held.sure)
        possible.setdefault(held.node, []).append(held.possible)
    steps = {limits[0]: (0, 0), limits[1]: (0, 0)}
    for of_nodes, (is_sure, is_possible) in ((sure, (1, 0)), (possible, (0, 1))):
        for interval in (each for node in of_nodes.values() for each in merged(node)):
            for at, sign in zip(interval, (1, -1), strict=True):
                s, p = steps.get(at, (0, 0))
                steps[at] = s + sign * is_sure, p + sign * is_possible
    found = []
    counts = (0, 0)
    instants = sorted(steps)
    for piece in pairwise(instants):
        step = steps[piece[0]]
        counts = counts[0] + step[0], counts[1] + step[1]
        found.append((piece, *counts))
    return found


def _times(
    sure: list[Interval],
    possible: list[Interval],
    untold: list[Interval],
    error: Micros,
    told: Intervals,
) -> Times:
    """Returns these intervals by kind. Sure and possible ones that touch are one, also where not
    all records tell. What is no longer than the error is not counted, if that is all of it, but
    where others may tell more nothing is left out."""
    whole = merged([*sure, *possible, *untold])
    edges = [at for each in told for at in each]

    def is_short(interval: Interval) -> bool:
        a, b = _around(interval, whole)
        return b - a <= error

    def is_within_error(interval: Interval) -> bool:
        a, b = _around(interval, whole)
        return b - a <= error and not any(a <= at <= b for at in edges)

    not_sure = [*possible, *(each for each in sure if is_short(each))]
    return Times(
        merged(each for each in sure if not is_short(each)),
        merged(each for each in not_sure if not is_within_error(each)),
        merged(each for each in (*sure, *possible) if is_within_error(each)),
    )


def _around(interval: Interval, whole: Sequence[Interval]) -> Interval:
    return whole[bisect_right(whole, (interval[0], FOREVER)) - 1]


def _length(intervals: Iterable[Interval]) -> Micros:
    return sum(b - a for a, b in intervals)
