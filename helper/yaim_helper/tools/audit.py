"""yaim-helper audit: what the record tells. Needs no privileges, changes nothing.

Reads the arguments, prints, and chooses the exit status; verify.py, show.py and timeline.py know
the rest. Nothing from a record reaches the terminal as it is.
"""

import argparse
import heapq
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from ipaddress import ip_address
from pathlib import Path

from yaim_helper.record.chain import MARKER, canonical, segment_number
from yaim_helper.tools import show
from yaim_helper.tools.coverage import (
    Coverage,
    Interval,
    Intervals,
    Told,
    Vouched,
    both,
    by_all,
    merged,
    read_vouched,
    without,
)
from yaim_helper.tools.output import discard_output, output, write_anew
from yaim_helper.tools.records import (
    TYPES,
    CannotRead,
    Chain,
    Micros,
    NotARecord,
    Record,
    chains,
    instant,
    lines,
    open_chain,
    printable,
    read_record,
    unreadable,
)
from yaim_helper.tools.svg import picture
from yaim_helper.tools.timeline import FOREVER, History, OfAddress, Spell, Times, of_address
from yaim_helper.tools.verify import Damage, Finding, Heads, Verification, read_heads

USAGE = 2


class Verdict(IntEnum):
    """What timeline ends with; the least is the gravest."""

    OVERLAP = 20
    DAMAGED = 21
    NOT_PROVEN = 22
    UNCOVERED = 23


VERIFY_STATUS = """exit status, that of the gravest (the least, but 0):
   0 intact
   2 wrong usage
  10 broken chain: a record was changed, inserted, doubled or moved
  11 head mismatch: the tail was cut, or all was written anew
  12 missing records: some in between were dropped
  13 missing segment
  14 something cannot be read
  15 torn tail: the last line is not ended
  16 gap: the helper says that it could not write some records
  17 recovery: the helper found a torn line and went on
  18 clock set back
  19 intent without result: the helper was killed in between, or is at it
"""
TIMELINE_STATUS = """exit status, the first that is true:
  20 two nodes surely held an address
   2 wrong usage
  21 the records are damaged: see audit verify
  22 two nodes possibly held an address, or nothing is on record, or not all records tell of the
     time that was asked for: not proven
  23 an address was, or may have been, uncovered for longer than --max-uncovered
   0 proven: never two, in the time that all records tell of, which is said
"""
SHOW_STATUS = """exit status: 0; 2 wrong usage; 14 something cannot be read
Does not verify: see audit verify.
"""
_PATHS = "directories of a helper's record (default /var/log/yaim-helper), or segments of it"


def main(arguments: list[str]) -> int:
    options = parser().parse_args(_joined(arguments))
    status: int = 0
    try:
        with output():
            status = options.run(options)
    except OSError as error:
        _say(f"yaim-helper: cannot write: {error.strerror}", True)
        return status or Damage.UNREADABLE
    return status


# --- arguments -----------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="yaim-helper audit",
        description="Reads the helper's audit record. docs/audit.md explains all of it.",
    )
    commands = parser.add_subparsers(required=True, metavar="verify | show | timeline")

    def add(name: str, run: Callable[[argparse.Namespace], int], help: str, status: str) -> _Parser:
        command = commands.add_parser(
            name,
            help=help,
            description=help,
            epilog=status,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        command.add_argument("paths", nargs="+", type=_path, metavar="PATH", help=_PATHS)
        return command

    command = add("verify", _verify, "Tells all that is wrong with a record.", VERIFY_STATUS)
    _add_trust(command)
    command = add(
        "show", _show, "Shows records, a line each, those of all PATHs by time.", SHOW_STATUS
    )
    _add_range(command)
    command.add_argument("--outcome", action="append", choices=("ok", "refused", "failed"))
    command.add_argument("--type", action="append", choices=TYPES, help="of records")
    command.add_argument("--cluster", action="append")
    command.add_argument("--json", action="store_true", help="the records as they are")
    command = add(
        "timeline",
        _timeline,
        "Who held which address when, from the records of all nodes.",
        TIMELINE_STATUS,
    )
    _add_trust(command)
    _add_range(command)
    command.add_argument(
        "--clock-error",
        type=_seconds,
        default=0,
        metavar="S",
        help="how far the nodes' clocks may be apart: an overlap or gap no longer is not counted",
    )
    command.add_argument(
        "--max-uncovered", type=_seconds, metavar="S", help="for how long, together, at most"
    )
    command.add_argument(
        "--no-other-record",
        action="store_true",
        help="you know that no helper wrote elsewhere (audit-log was never another, and no record"
        " is a copy that was put back): what they did between two lives is told, too: nothing",
    )
    command.add_argument("--json", action="store_true", help="in place of the table")
    command.add_argument("--svg", type=Path, metavar="FILE", help="draw a picture, too")
    return parser


_Parser = argparse.ArgumentParser


def _add_trust(command: _Parser) -> None:
    command.add_argument(
        "--heads",
        type=_heads,
        metavar="FILE",
        help="lines with 'audit head host=NAME seq=N sha256=HEX', told by nobody else: journalctl"
        " -o short-iso _SYSTEMD_UNIT=yaim-helper.service _UID=$(id -u yaim-helper)",
    )
    command.add_argument(
        "--from-segment",
        type=_number,
        default=1,
        metavar="N",
        help="segments before this one are kept elsewhere",
    )


def _add_range(command: _Parser) -> None:
    command.add_argument(
        "--address", action="append", type=_network, help="or a network; may be repeated"
    )
    ago = "ISO 8601 (UTC unless it says otherwise), or as long ago as -90s, -15m, -1h, -2d"
    command.add_argument("--since", type=_time, help=ago)
    command.add_argument("--until", type=_time, help="not included")


def _joined(arguments: Sequence[str]) -> list[str]:
    """--since -1h as --since=-1h, which argparse does not take for an option."""
    found: list[str] = []
    for each in arguments:
        if found and found[-1] in ("--since", "--until"):
            found[-1] += f"={each}"
        else:
            found.append(each)
    return found


def _path(text: str) -> Path:
    if "\0" in text or not os.path.lexists(text):
        raise argparse.ArgumentTypeError(f"{printable(text)} does not exist, or may not be seen")
    return Path(text)


@dataclass(frozen=True, slots=True)
class _Told:
    """Of the records, elsewhere."""

    heads: Heads
    vouched: Vouched


def _heads(text: str) -> _Told:
    try:
        with Path(text).open(errors="replace") as file:
            lines = [line for line in file if "audit head" in line]
        found = _Told(read_heads(lines), read_vouched(lines))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise argparse.ArgumentTypeError(f"{printable(text)}: {why}") from error
    if not found.heads:
        raise argparse.ArgumentTypeError(f"{printable(text)}: has no line 'audit head host=...'")
    return found


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise argparse.ArgumentTypeError(f"{printable(text)} is not the number of a segment")
    return int(text[:9])


def _network(text: str) -> show.Network:
    try:
        return show.read_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(printable(str(error))) from error


def _time(text: str) -> Micros:
    try:
        return show.read_time(text, datetime.now(UTC))
    except ValueError as error:
        raise argparse.ArgumentTypeError(printable(str(error))) from error


def _seconds(text: str) -> Micros:
    """In microseconds."""
    try:
        found = float(text)
        if 0 <= found <= 1e9:
            return round(found * 1e6)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{printable(text)} is not a number of seconds")


# --- verify --------------------------------------------------------------------------------------


class _Findings:
    """Prints each, and remembers which kinds there were."""

    def __init__(self, is_error: bool) -> None:
        self.kinds: Counter[Damage] = Counter()
        self._is_error = is_error

    def add(self, finding: Finding) -> None:
        self.kinds[finding.damage] += 1
        _say(str(finding), self._is_error)

    @property
    def gravest(self) -> Damage | None:
        return min(self.kinds, default=None)


def _verify(options: argparse.Namespace) -> int:
    findings = _Findings(False)
    for directory, files in chains(options.paths):
        before = findings.kinds.total()
        try:
            chain = open_chain(directory, files)
        except CannotRead as error:
            findings.add(_not_read(error))
            continue
        verification = _verification(chain, findings, options)
        for _ in verification.records():
            pass
        wrong = findings.kinds.total() - before
        _say(_summary(chain, verification, wrong))
    return findings.gravest or 0


def _verification(chain: Chain, findings: _Findings, options: argparse.Namespace) -> Verification:
    heads = None if options.heads is None else options.heads.heads
    return Verification(chain, findings.add, heads=heads, from_segment=options.from_segment)


def _summary(chain: Chain, verification: Verification, wrong: int) -> str:
    told = "intact" if not wrong else f"{wrong} finding{'s' if wrong > 1 else ''}"
    last = verification.last
    if last is None or verification.first_at is None:
        return f"{chain}: no records: {told}"
    return (
        f"{chain}: {verification.count} records of {printable(last.host)}, from"
        f" {instant(verification.first_at)} to {instant(last.at)}, head seq={last.seq}"
        f" hash={last.hash}: {told}"
    )


def _not_read(error: CannotRead) -> Finding:
    where, _, why = str(error).rpartition(": ")
    return Finding(Damage.UNREADABLE, where, why)


# --- show ----------------------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    findings = _Findings(True)
    wanted = show.Filter(
        tuple(options.address or ()),
        options.since,
        options.until,
        frozenset(options.outcome or ()),
        frozenset(options.type or ()),
        frozenset(options.cluster or ()),
    )
    streams = [_readable(directory, files, findings) for directory, files in chains(options.paths)]
    for record in heapq.merge(*streams, key=lambda each: each.at):
        if wanted.passes(record):
            # Who has seen enough ends this.
            print(  # noqa: T201
                canonical(record.fields).decode() if options.json else show.shown(record)
            )
    return findings.gravest or 0


def _readable(directory: Path, files: tuple[Path, ...], findings: _Findings) -> Iterator[Record]:
    try:
        for segment in open_chain(directory, files).segments:
            for line in lines(segment.file):
                try:
                    record = read_record(line)
                    problem = unreadable(record)
                except NotARecord as error:
                    problem = str(error)
                if problem is None:
                    yield record
                else:
                    findings.add(Finding(Damage.UNREADABLE, line.place, problem))
    except CannotRead as error:
        findings.add(_not_read(error))


# --- timeline ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _OfNode:
    node: str
    host: str
    spells: tuple[Spell, ...]
    told: Told
    last_at: Micros


@dataclass(frozen=True, slots=True)
class _Found:
    rows: tuple[OfAddress, ...]
    limits: Interval
    nodes: tuple[_OfNode, ...]
    told: Intervals
    """Of which the records of all nodes tell; the verdict is of these times."""
    status: int
    verdict: str


def _timeline(options: argparse.Namespace) -> int:
    findings = _Findings(True)
    nodes: list[_OfNode] = []
    for directory, files in chains(options.paths):
        try:
            chain = open_chain(directory, files)
        except CannotRead as error:
            findings.add(_not_read(error))
            continue
        nodes += _of_node(chain, {each.node for each in nodes}, findings, options)
    first = min((spell.possible[0] for each in nodes for spell in each.spells), default=0)
    limits = (
        first if options.since is None else options.since,
        max((each.last_at for each in nodes), default=0)
        if options.until is None
        else options.until,
    )
    if options.since is not None and limits[0] >= limits[1]:
        _say("yaim-helper: --since is not before --until, or the end of the records", True)
        return USAGE
    if options.svg is not None and (why := _not_for_a_picture(options.svg)):
        _say(f"yaim-helper: {printable(str(options.svg))}: {why}", True)
        return USAGE
    found = _found(nodes, limits, findings, options)
    if options.svg is not None:
        try:
            write_anew(options.svg, picture(found.rows, found.limits, found.verdict))
        except OSError as error:
            _say(f"yaim-helper: {printable(str(options.svg))}: {error.strerror}", True)
            return USAGE
    _say(_as_json(found) if options.json else "\n".join(_as_table(found)))
    return found.status


def _of_node(
    chain: Chain, names: set[str], findings: _Findings, options: argparse.Namespace
) -> Iterator[_OfNode]:
    """At most one: what has no records tells nothing."""
    verification = _verification(chain, findings, options)
    coverage = Coverage(options.clock_error, is_only=options.no_other_record)
    history = None
    last = None
    for record in verification.records():
        if history is None:
            name = record.host
            history = History(name if name not in names else f"{name} ({chain.directory})")
        history.take(record)
        coverage.take(record)
        last = record
    if history is not None and last is not None:
        history.finish(verification.marker)
        vouched = {} if options.heads is None else options.heads.vouched
        told = coverage.told(verification.marker, vouched)
        yield _OfNode(history.node, last.host, tuple(history.spells), told, last.at)


def _found(
    nodes: Sequence[_OfNode], limits: Interval, findings: _Findings, options: argparse.Namespace
) -> _Found:
    of_addresses: dict[str, list[Spell]] = {}
    for spell in (spell for each in nodes for spell in each.spells):
        if not options.address or show.is_within(spell.address, tuple(options.address)):
            of_addresses.setdefault(spell.address, []).append(spell)
    is_damaged = findings.gravest is not None and findings.gravest.is_grave
    absent = _absent(nodes, options)
    is_told = not is_damaged and not absent
    told = by_all([each.told.all for each in nodes]) if is_told else ()
    rows = []
    for address in sorted(of_addresses, key=_order):
        theirs = of_addresses[address]
        since = options.since
        first = min(each.possible[0] for each in theirs) if since is None else since
        if first < limits[1]:
            within = first, limits[1]
            its = by_all([_told_of(address, each) for each in nodes]) if is_told else ()
            rows.append(of_address(address, theirs, within, options.clock_error, its))
    since = -FOREVER if options.since is None else options.since
    asked = both([(since, limits[1])], told)
    if is_damaged:
        why = Verdict.DAMAGED, "the records are damaged: nothing is proven"
    elif absent:
        why = Verdict.NOT_PROVEN, f"not proven: no record of {absent}, whose heads are known"
    elif (missing := _not_told(rows, told, options)) is not None:
        why = Verdict.NOT_PROVEN, f"not proven: not all records tell of the time {missing}"
    elif nodes and not asked:
        why = Verdict.NOT_PROVEN, "not proven: there is no time that all records tell of"
    else:
        why = None
    by = f"by the {_records(nodes)}, {_spans(asked)}"
    status, verdict = _judged(rows, why, by, options)
    return _Found(tuple(rows), limits, tuple(nodes), asked, status, printable(verdict))


def _absent(nodes: Sequence[_OfNode], options: argparse.Namespace) -> str:
    """Hosts that are known to have records, which are not here."""
    hosts = set() if options.heads is None else {host for host, _ in options.heads.heads}
    return ", ".join(sorted(hosts - {each.host for each in nodes}))


def _told_of(address: str, node: _OfNode) -> Intervals:
    """Of which time a node's record tells whether it had this address."""
    return node.told.of(each.possible for each in node.spells if each.address == address)


def _not_told(
    rows: Sequence[OfAddress], told: Intervals, options: argparse.Namespace
) -> str | None:
    """Of what was asked for by its times, what the verdict cannot be about."""
    if not told or (options.since is None and options.until is None):
        return None
    since = told[0][0] if options.since is None else options.since
    until = told[-1][1] if options.until is None else options.until
    missing = without((since, until), told)
    if rows:
        missing = both(missing, merged(part for row in rows for part in row.untold))
    return _spans(missing) or None


def _records(nodes: Sequence[_OfNode]) -> str:
    *others, last = [each.node for each in nodes] or [""]
    return f"records of {', '.join(others)} and {last}" if others else f"record of {last}"


def _spans(intervals: Intervals) -> str:
    return " and ".join(f"from {instant(a)} to {instant(b)}" for a, b in intervals)


def _not_for_a_picture(path: Path) -> str | None:
    """Why a file is not to be written over."""
    if path.name == MARKER or segment_number(path.name) is not None:
        return "is the name of a part of a record"
    if os.path.lexists(path) and path.suffix != ".svg":
        return "is there already, and is not called .svg"
    if path.is_symlink():
        return "is a link, perhaps somebody else's: name the file that is meant"
    return None


def _order(address: str) -> tuple[int, int]:
    found = ip_address(address)
    return found.version, int(found)


def _judged(
    rows: Sequence[OfAddress],
    why_not: tuple[Verdict, str] | None,
    by: str,
    options: argparse.Namespace,
) -> tuple[int, str]:
    """The exit status and the verdict in words."""

    def named(is_so: Callable[[OfAddress], object]) -> str:
        return ", ".join(row.address for row in rows if is_so(row))

    unknown = [
        str(network)
        for network in options.address or ()
        if not any(show.is_within(row.address, (network,)) for row in rows)
    ]
    most = options.max_uncovered
    twice = named(lambda row: row.overlap.sure)
    maybe_twice = named(lambda row: row.overlap.possible)
    uncovered = named(
        lambda row: most is not None and row.uncovered.sure_us + row.uncovered.possible_us > most
    )
    error = options.clock_error
    within = f", to within the clocks' error of {_seconds_of(error)}" if error else ""
    if twice:
        return Verdict.OVERLAP, f"two nodes held an address: {twice}"
    if why_not is not None and why_not[0] == Verdict.DAMAGED:
        return why_not
    if unknown:
        return Verdict.NOT_PROVEN, f"nothing is on record in that time about {', '.join(unknown)}"
    if not rows:
        return Verdict.NOT_PROVEN, "no address is on record in that time: nothing is proven"
    if why_not is not None:
        return why_not
    if maybe_twice:
        return Verdict.NOT_PROVEN, f"two nodes may have held an address: {maybe_twice}"
    if uncovered:
        return (
            Verdict.UNCOVERED,
            f"never two{within}, but uncovered for too long: {uncovered}; {by}",
        )
    always = f", and none uncovered for more than {_seconds_of(most)}" if most is not None else ""
    return 0, f"proven: never two{always}{within}, {by}"


def _as_table(found: _Found) -> Iterator[str]:
    for row in found.rows:
        yield row.address
        for spell in row.spells:
            yield f"  {printable(spell.node)}: {_spell(spell)}"
        yield from _times("two nodes", row.overlap)
        yield from _times("no node", row.uncovered)
        if row.untold:
            yield f"  not told by all records: {_seconds_of(sum(b - a for a, b in row.untold))}"
        for a, b in row.untold:
            yield f"    {instant(a)} to {instant(b)}: {_seconds_of(b - a)}"
    for each in found.nodes:
        yield f"record of {printable(each.node)}: {_spans(each.told.all) or 'tells of no time'}"
    yield found.verdict


def _spell(spell: Spell) -> str:
    """Its instants in order: what encloses is possible, what is enclosed is sure."""
    sure = ", ".join(f"{instant(a)} to {instant(b)}" for a, b in spell.sure) or "never"
    a, b = spell.possible
    return f"possibly {instant(a)} to {instant(b)}, surely {sure} ({printable(spell.ended)})"


def _times(what: str, times: Times) -> Iterator[str]:
    yield (
        f"  {what}: {_seconds_of(times.sure_us)} surely,"
        f" {_seconds_of(times.possible_us)} more possibly"
    )
    for kind, intervals in (
        ("surely", times.sure),
        ("possibly", times.possible),
        ("within the clocks' error", times.within_error),
    ):
        for a, b in intervals:
            yield f"    {kind} {instant(a)} to {instant(b)}: {_seconds_of(b - a)}"


def _seconds_of(micros: Micros) -> str:
    return f"{micros / 1e6:.6f} s"


def _as_json(found: _Found) -> str:
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
                    "node": spell.node,
                    "possible": intervals([spell.possible])[0],
                    "sure": intervals(spell.sure),
                    "ended": spell.ended,
                }
                for spell in row.spells
            ],
            "overlap": times(row.overlap),
            "uncovered": times(row.uncovered),
            "untold": intervals(row.untold),
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


def _say(text: str, is_error: bool = False) -> None:
    """To whoever reads it still: what is found out does not depend on that."""
    try:
        print(text, file=sys.stderr if is_error else sys.stdout)
    except BrokenPipeError:
        discard_output()
