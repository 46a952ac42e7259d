"""Whether there is a fence, and beginning one: at the start of the helper.

Decides nothing about addresses: fences.py does.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass, field

from yaim_helper.clock import boottime
from yaim_helper.held.fences import Fences
from yaim_helper.kernel.addresses import KernelError
from yaim_helper.kernel.fence import PROBED_BELOW, Fence, ForeignChanges, Ruleset, probe
from yaim_helper.protocol import Address

FIRST, LAST = PROBED_BELOW, 999_999
"""The numbers of tables. Two helpers in one network namespace begin with different ones."""


class FenceTables:
    """The tables of fences in the network namespace that this process is in."""

    def __init__(self, ruleset: Ruleset) -> None:
        self.ruleset = ruleset

    def names(self) -> Collection[str]:
        return self.ruleset.tables()

    def named(self, table: str) -> Fence:
        return Fence(self.ruleset, table)

    def is_live(self, table: str) -> bool:
        return self.ruleset.is_live(table)

    def held(self, table: str) -> Collection[Address]:
        return self.ruleset.held(table)


@dataclass(frozen=True, slots=True)
class Fencing:
    """What the start has found."""

    why_not: str | None = None
    """Why there is no fence; None: there is one."""
    tables: FenceTables | None = None
    """None: there are no nf_tables."""
    earlier: list[str] = field(default_factory=list)
    """The tables that earlier lives have left."""
    fences: Fences | None = None
    changes: ForeignChanges | None = None

    @property
    def told(self) -> dict[str, object]:
        """Returns what the reply to hello tells."""
        return {"in_force": self.why_not is None, "reason": self.why_not or ""}


NO_FENCE = Fencing("this helper was started without one")


def begin(*, is_wanted: bool) -> Fencing:
    """Finds out whether there can be a fence, and begins it if it is wanted."""
    # What earlier lives have left is known also where there is no fence now: what is added then has
    # to leave it.
    tables: FenceTables | None = None
    earlier: list[str] = []
    try:
        tables = FenceTables(Ruleset())
        earlier = list(tables.names())
        if not is_wanted:
            return Fencing("helper.yml says fence: off", tables, earlier)
        probe(tables.ruleset)
        changes = ForeignChanges(tables.ruleset)
    except KernelError as error:
        why = error.reason if is_wanted else "helper.yml says fence: off"
        return Fencing(why, tables, earlier)
    fences = Fences(tables, _first_number(earlier), earlier, boottime)
    return Fencing(None, tables, earlier, fences, changes)


def _first_number(taken: Collection[str]) -> int:
    """Returns a number from which on many are free."""
    while True:
        number = FIRST + int.from_bytes(os.urandom(4), "big") % (LAST - FIRST)
        if all(f"yaim-{each}" not in taken for each in range(number, number + 1000)):
            return number
