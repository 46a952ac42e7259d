"""A timeline with its verdict, as a table for people and as JSON for programs."""

import json
from collections.abc import Iterable, Iterator

from yaim_helper.tools.coverage import Interval
from yaim_helper.tools.intervals import HeldInterval
from yaim_helper.tools.records import instant, printable
from yaim_helper.tools.timeline import Times
from yaim_helper.tools.verdict import Found, seconds_of, spans


def as_table(found: Found) -> Iterator[str]:
    for row in found.rows:
        yield row.address
        for held in row.intervals:
            yield f"  {printable(held.node)}: {_interval_told(held)}"
        yield from _times("two nodes", row.overlap)
        yield from _times("no node", row.uncovered)
        if row.untold:
            yield f"  not told by all records: {seconds_of(sum(b - a for a, b in row.untold))}"
        for a, b in row.untold:
            yield f"    {instant(a)} to {instant(b)}: {seconds_of(b - a)}"
        if row.muted:
            yield (
                f"  muted on an interface beside another node:"
                f" {seconds_of(sum(b - a for a, b in row.muted))},"
                f" {seconds_of(row.longest_muted_us)} at most at a time"
            )
        for a, b in row.muted:
            yield f"    {instant(a)} to {instant(b)}: {seconds_of(b - a)}"
    for each in found.nodes:
        yield f"record of {printable(each.node)}: {spans(each.told.all) or 'tells of no time'}"
    if (longest := max(found.rows, key=lambda row: row.longest_muted_us, default=None)) and (
        longest.muted
    ):
        yield (
            f"muted on an interface beside another node for {seconds_of(longest.longest_muted_us)}"
            f" at most ({longest.address}): no breach, it answered nothing"
        )
    yield found.verdict


def _interval_told(held: HeldInterval) -> str:
    """Its instants in order: what encloses is possible, what is enclosed is sure."""
    sure = ", ".join(f"{instant(a)} to {instant(b)}" for a, b in held.sure) or "never"
    told = []
    if held.possible[0] < held.possible[1]:
        a, b = held.possible
        told.append(f"possibly {instant(a)} to {instant(b)}, surely {sure}")
    if held.muted is not None:
        a, b = held.muted
        told.append(f"muted on the interface {instant(a)} to {instant(b)}")
    return f"{', '.join(told)} ({printable(held.ended)})"


def _times(what: str, times: Times) -> Iterator[str]:
    yield (
        f"  {what}: {seconds_of(times.sure_us)} surely,"
        f" {seconds_of(times.possible_us)} more possibly"
    )
    for kind, intervals in (
        ("surely", times.sure),
        ("possibly", times.possible),
        ("within the clocks' error", times.within_error),
    ):
        for a, b in intervals:
            yield f"    {kind} {instant(a)} to {instant(b)}: {seconds_of(b - a)}"


def as_json(found: Found) -> str:
    def intervals(of: Iterable[Interval]) -> list[list[str]]:
        return [[instant(a), instant(b)] for a, b in of]

    def times(of: Times) -> dict[str, object]:
        return {
            "sure_s": of.sure_us / 1e6,
            "possible_s": of.possible_us / 1e6,
            "sure": intervals(of.sure),
            "possible": intervals(of.possible),
            "within_error": intervals(of.within_error),
        }

    rows = [
        {
            "address": row.address,
            "range": intervals([row.range])[0],
            "spells": [
                {
                    "node": held.node,
                    "possible": intervals([held.possible])[0],
                    "sure": intervals(held.sure),
                    "ended": held.ended,
                    "muted": intervals([held.muted] if held.muted is not None else []),
                }
                for held in row.intervals
            ],
            "overlap": times(row.overlap),
            "uncovered": times(row.uncovered),
            "untold": intervals(row.untold),
            "muted": {
                "longest_s": row.longest_muted_us / 1e6,
                "beside_another": intervals(row.muted),
            },
        }
        for row in found.rows
    ]
    whole = {
        "verdict": found.verdict,
        "status": found.status,
        "told": intervals(found.told),
        "records": [{"node": each.node, "told": intervals(each.told.all)} for each in found.nodes],
        "addresses": rows,
    }
    return json.dumps(whole, indent=1)
