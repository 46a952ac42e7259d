"""yaim-helper audit: what the record tells. Needs no privileges, changes nothing.

Reads the arguments and calls the command (verify_command.py, show_command.py, timeline_command.py),
which prints and chooses the exit status. Nothing from a record reaches the terminal as it is.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from yaim_helper.tools.arguments import (
    existing_path,
    heads_file,
    instant_or_ago,
    network,
    number,
    seconds,
)
from yaim_helper.tools.findings import say
from yaim_helper.tools.output import output
from yaim_helper.tools.records import (
    TYPES,
)
from yaim_helper.tools.show_command import show
from yaim_helper.tools.timeline_command import timeline
from yaim_helper.tools.verify import Damage
from yaim_helper.tools.verify_command import verify

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
_RECORD = "/var/log/yaim-helper"
_PATHS = f"directories of a helper's record, or segments of it (helpers write {_RECORD})"
_PATHS_OR_OURS = f"directories of a helper's record, or segments of it; default: {_RECORD}"


def main(arguments: list[str], record: str = _RECORD) -> int:
    """`record`: the one that is meant where none is named."""
    reader = parser()
    options = reader.parse_args(_joined(arguments))
    if not options.paths:
        try:
            options.paths = [existing_path(record)]
        except argparse.ArgumentTypeError as error:
            reader.error(f"{error}: name the record's directory")
    status: int = 0
    try:
        with output():
            status = options.run(options)
    except OSError as error:
        say(f"yaim-helper: cannot write: {error.strerror}", True)
        return status or Damage.UNREADABLE
    return status


# --- arguments -----------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="yaim-helper audit",
        description="Reads the helper's audit record. docs/audit.md explains all of it.",
    )
    commands = parser.add_subparsers(required=True, metavar="verify | show | timeline")

    def add(
        name: str,
        run: Callable[[argparse.Namespace], int],
        help: str,
        status: str,
        paths: tuple[str, str] = ("*", _PATHS_OR_OURS),
    ) -> _Parser:
        command = commands.add_parser(
            name,
            help=help,
            description=help,
            epilog=status,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        number, told = paths
        command.add_argument("paths", nargs=number, type=existing_path, metavar="PATH", help=told)
        return command

    command = add("verify", verify, "Tells all that is wrong with a record.", VERIFY_STATUS)
    _add_trust(command)
    command = add(
        "show", show, "Shows records, a line each, those of all PATHs by time.", SHOW_STATUS
    )
    _add_range(command)
    command.add_argument("--outcome", action="append", choices=("ok", "refused", "failed"))
    command.add_argument("--type", action="append", choices=TYPES, help="of records")
    command.add_argument("--cluster", action="append")
    command.add_argument("--json", action="store_true", help="the records as they are")
    command = add(
        "timeline",
        timeline,
        "Who held which address when, from the records of all nodes.",
        TIMELINE_STATUS,
        ("+", _PATHS),
    )
    _add_trust(command)
    _add_range(command)
    command.add_argument(
        "--clock-error",
        type=seconds,
        default=0,
        metavar="S",
        help="how far the nodes' clocks may be apart: an overlap or gap no longer is not counted",
    )
    command.add_argument(
        "--max-uncovered", type=seconds, metavar="S", help="for how long, together, at most"
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
        type=heads_file,
        metavar="FILE",
        help="lines with 'audit head host=NAME seq=N sha256=HEX', told by nobody else: journalctl"
        " -o short-iso _SYSTEMD_UNIT=yaim-helper.service _UID=$(id -u yaim-helper)",
    )
    command.add_argument(
        "--from-segment",
        type=number,
        default=1,
        metavar="N",
        help="segments before this one are kept elsewhere",
    )


def _add_range(command: _Parser) -> None:
    command.add_argument(
        "--address", action="append", type=network, help="or a network; may be repeated"
    )
    ago = "ISO 8601 (UTC unless it says otherwise), or as long ago as 90s, 15m, 1h, 2d"
    command.add_argument("--since", type=instant_or_ago, help=ago)
    command.add_argument("--until", type=instant_or_ago, help="not included")


def _joined(arguments: Sequence[str]) -> list[str]:
    """Returns `--since -1h` as `--since=-1h`, which argparse does not take for an option."""
    found: list[str] = []
    for each in arguments:
        if found and found[-1] in ("--since", "--until"):
            found[-1] += f"={each}"
        else:
            found.append(each)
    return found
