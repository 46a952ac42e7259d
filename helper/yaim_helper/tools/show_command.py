"""yaim-helper audit show: shows records, a line each (show.py makes the lines)."""

import argparse
import heapq
from collections.abc import Iterator
from pathlib import Path

from yaim_helper.record.chain import canonical
from yaim_helper.tools.findings import Findings
from yaim_helper.tools.records import (
    CannotRead,
    NotARecord,
    Record,
    chains,
    lines,
    open_chain,
    read_record,
    unreadable,
)
from yaim_helper.tools.show import Filter, shown
from yaim_helper.tools.verify import Damage, Finding, not_read


def show(options: argparse.Namespace) -> int:
    findings = Findings(True)
    wanted = Filter(
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
                canonical(record.fields).decode() if options.json else shown(record)
            )
    return findings.gravest or 0


def _readable(directory: Path, files: tuple[Path, ...], findings: Findings) -> Iterator[Record]:
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
        findings.add(not_read(error))
