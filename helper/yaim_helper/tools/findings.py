"""What is wrong with records, told while they are read; and lines for whoever reads the output."""

import argparse
import sys
from collections import Counter

from yaim_helper.tools.output import discard_output
from yaim_helper.tools.records import Chain
from yaim_helper.tools.verify import Damage, Finding, Verification


class Findings:
    """Prints each finding, and remembers which kinds there were."""

    def __init__(self, is_error: bool) -> None:
        """`is_error`: findings go to standard error."""
        self.kinds: Counter[Damage] = Counter()
        self._is_error = is_error

    def add(self, finding: Finding) -> None:
        self.kinds[finding.damage] += 1
        say(str(finding), self._is_error)

    @property
    def gravest(self) -> Damage | None:
        """The gravest kind of all that was found."""
        return min(self.kinds, default=None)


def verification_of(chain: Chain, findings: Findings, options: argparse.Namespace) -> Verification:
    """Returns the verification of a record, as the arguments want it."""
    heads = None if options.heads is None else options.heads.heads
    return Verification(chain, findings.add, heads=heads, from_segment=options.from_segment)


def say(text: str, is_error: bool = False) -> None:
    """Prints a line if somebody still reads: what is found out does not depend on that."""
    try:
        print(text, file=sys.stderr if is_error else sys.stdout)
    except BrokenPipeError:
        discard_output()
