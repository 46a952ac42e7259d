"""What the arguments of yaim-helper audit may be, for argparse: text to values, or why not.

Nothing of an argument reaches the terminal as it is.
"""

import argparse
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from yaim_helper.tools.coverage import Vouched, read_vouched
from yaim_helper.tools.records import Micros, printable
from yaim_helper.tools.show import Network, read_network, read_time
from yaim_helper.tools.verify import Heads, read_heads


def existing_path(text: str) -> Path:
    """Returns a path at which there is something."""
    if "\0" in text or not os.path.lexists(text):
        raise argparse.ArgumentTypeError(f"{printable(text)} does not exist, or may not be seen")
    return Path(text)


@dataclass(frozen=True, slots=True)
class KnownHeads:
    """What others than the helper know of its records: from a log that nobody else can write."""

    heads: Heads
    vouched: Vouched
    """The records that were the last for a time, as the times of the lines tell it."""


def heads_file(text: str) -> KnownHeads:
    """Returns what a file tells of heads, which has one at least."""
    try:
        with Path(text).open(errors="replace") as file:
            lines = [line for line in file if "audit head" in line]
        found = KnownHeads(read_heads(lines), read_vouched(lines))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise argparse.ArgumentTypeError(f"{printable(text)}: {why}") from error
    if not found.heads:
        raise argparse.ArgumentTypeError(f"{printable(text)}: has no line 'audit head host=...'")
    return found


def number(text: str) -> int:
    """Returns the number of a segment."""
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise argparse.ArgumentTypeError(f"{printable(text)} is not the number of a segment")
    return int(text[:9])


def network(text: str) -> Network:
    """Returns a network; an address is one of a single address."""
    try:
        return read_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(printable(str(error))) from error


def instant_or_ago(text: str) -> Micros:
    """Returns an instant; 1h, or -1h, is one hour ago."""
    try:
        return read_time(text, datetime.now(UTC))
    except ValueError as error:
        raise argparse.ArgumentTypeError(printable(str(error))) from error


def seconds(text: str) -> Micros:
    """Returns microseconds."""
    try:
        found = float(text)
        if 0 <= found <= 1e9:
            return round(found * 1e6)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{printable(text)} is not a number of seconds")
