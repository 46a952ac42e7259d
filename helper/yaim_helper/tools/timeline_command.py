"""yaim-helper audit timeline: who held which address when, from the records of all nodes.

Reads the records and prints; what they prove is verdict.py's to say.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from yaim_helper.record.chain import MARKER, segment_number
from yaim_helper.tools.coverage import Coverage
from yaim_helper.tools.findings import Findings, say, verification_of
from yaim_helper.tools.history import History
from yaim_helper.tools.output import write_anew
from yaim_helper.tools.records import CannotRead, Chain, chains, open_chain, printable
from yaim_helper.tools.svg import picture
from yaim_helper.tools.timeline_report import as_json, as_table
from yaim_helper.tools.verdict import NodeRecord, Question, judged_records
from yaim_helper.tools.verify import not_read

USAGE = 2


def timeline(options: argparse.Namespace) -> int:
    findings = Findings(True)
    nodes: list[NodeRecord] = []
    for directory, files in chains(options.paths):
        try:
            chain = open_chain(directory, files)
        except CannotRead as error:
            findings.add(not_read(error))
            continue
        nodes += _of_node(chain, {each.node for each in nodes}, findings, options)
    first = min((held.possible[0] for each in nodes for held in each.intervals), default=0)
    limits = (
        first if options.since is None else options.since,
        max((each.last_at for each in nodes), default=0)
        if options.until is None
        else options.until,
    )
    if options.since is not None and limits[0] >= limits[1]:
        say("yaim-helper: --since is not before --until, or the end of the records", True)
        return USAGE
    if options.svg is not None and (why := _not_for_a_picture(options.svg)):
        say(f"yaim-helper: {printable(str(options.svg))}: {why}", True)
        return USAGE
    question = Question(
        tuple(options.address or ()),
        options.since,
        options.until,
        options.clock_error,
        options.max_uncovered,
        frozenset(() if options.heads is None else (host for host, _ in options.heads.heads)),
    )
    found = judged_records(nodes, limits, findings.gravest, question)
    if options.svg is not None:
        try:
            write_anew(options.svg, picture(found.rows, found.limits, found.verdict))
        except OSError as error:
            say(f"yaim-helper: {printable(str(options.svg))}: {error.strerror}", True)
            return USAGE
    say(as_json(found) if options.json else "\n".join(as_table(found)))
    return found.status


def _of_node(
    chain: Chain, names: set[str], findings: Findings, options: argparse.Namespace
) -> Iterator[NodeRecord]:
    """Yields at most one record: what has no records tells nothing."""
    verification = verification_of(chain, findings, options)
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
        yield NodeRecord(history.node, last.host, tuple(history.intervals), told, last.at)


def _not_for_a_picture(path: Path) -> str | None:
    """Why a file is not to be written over."""
    if path.name == MARKER or segment_number(path.name) is not None:
        return "is the name of a part of a record"
    if os.path.lexists(path) and path.suffix != ".svg":
        return "is there already, and is not called .svg"
    if path.is_symlink():
        return "is a link, perhaps somebody else's: name the file that is meant"
    return None
