"""Gives each thing a node: by shares, and where there is room for it.

Pure numbers; nothing here knows an address. Normally that is one spread (yaim/core/spread.py) over
the nodes that each thing is to be on. If these have no room for all, things may also be on nodes
that are to be spared, and then, as many as it takes, elsewhere than they are bound to be: fewer
without a node counts for more. What there is no room for even so stays where it is, whatever the
capacity says; and what is nowhere yet goes nowhere, the highest numbers first.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from yaim.core.eligibility import Nodes
from yaim.core.shares import Share, costs_of
from yaim.core.spread import Spread, are_even


class Thing(NamedTuple):
    """Something that is to be on one node. (A tuple, as there are thousands of them.)"""

    eligible: Nodes
    """The nodes that it is to be on, one at least."""
    able: Nodes
    """These, and the nodes that it may be on if there is no room."""
    is_bound: bool
    """It is to be on fewer nodes than others like it."""
    home: int | None
    """Where it is now, if it can stay there at all."""
    turn: int
    """With which of equal nodes its choice begins."""


def assign(things: Sequence[Thing], nodes: Sequence[Share], spared: Nodes) -> list[int | None]:
    """Returns the node of each thing; None: there is no room for it. `spared`: the nodes that only
    have what can be nowhere else."""
    holders = _spread(things, [each.eligible for each in things], nodes, 0)
    if not _beyond(holders, nodes):
        return [*holders]
    return _Room(things, nodes, spared).made()


def _spread(
    things: Sequence[Thing], eligible: Sequence[Nodes], nodes: Sequence[Share], spared: Nodes
) -> list[int]:
    costs = costs_of(nodes, eligible, spared)
    at_home = [
        each.home
        for each, may_be in zip(things, eligible, strict=True)
        if each.home is not None and may_be >> each.home & 1
    ]
    if len(at_home) == len(things) and are_even(at_home, len(nodes), costs):
        return at_home  # As nearly always.
    spread = Spread(len(nodes))
    for (_, _, _, home, turn), may_be in zip(things, eligible, strict=True):
        spread.add(may_be, home if home is not None and may_be >> home & 1 else None, turn, 0)
    spread.complete(costs)
    return spread.holders


def _beyond(holders: Sequence[int], nodes: Sequence[Share]) -> int:
    """Returns how many things are on nodes that have no room for them."""
    if all(each.capacity is None or each.capacity >= len(holders) for each in nodes):
        return 0
    loads = Counter(holders)
    return sum(
        max(0, loads[number] - each.capacity)
        for number, each in enumerate(nodes)
        if each.capacity is not None
    )


@dataclass(frozen=True, slots=True)
class _Room:
    """How room is made."""

    things: Sequence[Thing]
    nodes: Sequence[Share]
    spared: Nodes

    def made(self) -> list[int | None]:
        eligible = [each.eligible if each.is_bound else each.able for each in self.things]
        holders = _spread(self.things, eligible, self.nodes, self.spared)
        beyond = _beyond(holders, self.nodes)
        at_once, bound = beyond, self._bound()
        while beyond and (freed := self._on_full_nodes(bound, holders)[:at_once]):
            for number in freed:
                eligible[number] = self.things[number].able
            bound = [number for number in bound if number not in set(freed)]
            holders = _spread(self.things, eligible, self.nodes, self.spared)
            # Twice as many each time, so that a few rounds are enough for thousands.
            beyond, at_once = _beyond(holders, self.nodes), 2 * at_once
        return self._without_what_is_beyond(holders)

    def _bound(self) -> list[int]:
        """Returns what is bound and might be elsewhere; first what is not there yet, and of that
        the highest number."""

        def order(number: int) -> tuple[bool, int]:
            each = self.things[number]
            return each.home is not None and bool(each.eligible >> each.home & 1), -number

        things = enumerate(self.things)
        return sorted(
            (number for number, each in things if each.is_bound and each.able != each.eligible),
            key=order,
        )

    def _on_full_nodes(self, bound: Sequence[int], holders: Sequence[int]) -> list[int]:
        loads = Counter(holders)
        full = {
            number
            for number, each in enumerate(self.nodes)
            if each.capacity is not None and loads[number] >= each.capacity
        }
        return [number for number in bound if holders[number] in full]

    def _without_what_is_beyond(self, holders: Sequence[int]) -> list[int | None]:
        left: list[int | None] = [*holders]
        loads, most = Counter(holders), [each.capacity for each in self.nodes]

        def is_over(number: int) -> bool:
            limit = most[number]
            return limit is not None and loads[number] > limit

        # What is elsewhere now stays there, and may leave no room for others there.
        has_changed = True
        while has_changed:
            has_changed = False
            for thing in reversed(range(len(self.things))):
                on, home = left[thing], self.things[thing].home
                if on is not None and home not in (None, on) and is_over(on):
                    left[thing] = home
                    loads.subtract((on,))
                    loads.update((home,))
                    has_changed = True
        for thing in reversed(range(len(self.things))):
            on = left[thing]
            if on is not None and self.things[thing].home is None and is_over(on):
                left[thing] = None
                loads.subtract((on,))
        return left
