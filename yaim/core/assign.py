"""Gives each thing a node: by shares, and where there is room for it.

Pure numbers; nothing here knows an address. Normally that is one spread (yaim/core/spread.py) over
the nodes that each thing is to be on. If these have no room for all, things may also be on nodes
that are to be spared, and then, as many as it takes, elsewhere than they are bound to be: fewer
without a node counts for more. What there is no room for even so stays where it is, whatever the
capacity says; and what is nowhere yet goes nowhere, the highest numbers first.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from yaim.core.eligibility import Nodes
from yaim.core.shares import Share, costs_of
from yaim.core.spread import Spread, are_even


@dataclass(slots=True)
class Things:
    """What is to be on some node each; by columns, as there are thousands of them."""

    eligible: list[Nodes] = field(default_factory=list)
    """The nodes that each is to be on, one at least."""
    able: list[Nodes] = field(default_factory=list)
    """These, and the nodes that it may be on if there is no room."""
    homes: list[int | None] = field(default_factory=list)
    """Where it is now, if it can stay there at all: one of those."""
    turns: list[int] = field(default_factory=list)
    """With which of equal nodes its choice begins, if it has one."""
    bound: list[int] = field(default_factory=list)
    """Those that are to be on fewer nodes than others like them."""

    def add(self, eligible: Nodes, able: Nodes, home: int | None, turn: int) -> None:
        self.eligible.append(eligible)
        self.able.append(able)
        self.homes.append(home)
        self.turns.append(turn)

    def add_fixed(self, node: int) -> None:
        self.add(1 << node, 1 << node, node, 0)

    def is_home_in(self, thing: int, nodes: Nodes) -> bool:
        home = self.homes[thing]
        return home is not None and bool(nodes >> home & 1)


def assign(things: Things, nodes: Sequence[Share], spared: Nodes) -> list[int | None]:
    """Returns the node of each thing; None: there is no room for it. `spared`: the nodes that only
    have what can be nowhere else."""
    holders = _spread(things, things.eligible, nodes, 0)
    if not _beyond(holders, nodes):
        return [*holders]
    return _Room(things, nodes, spared).made()


def _spread(
    things: Things, eligible: Sequence[Nodes], nodes: Sequence[Share], spared: Nodes
) -> list[int]:
    costs = costs_of(nodes, eligible, spared)
    at_home = [
        home
        for home, may_be in zip(things.homes, eligible, strict=True)
        if home is not None and may_be >> home & 1
    ]
    if len(at_home) == len(eligible) and are_even(at_home, len(nodes), costs):
        return at_home  # As nearly always.
    spread = Spread(len(nodes))
    for may_be, home, turn in zip(eligible, things.homes, things.turns, strict=True):
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

    things: Things
    nodes: Sequence[Share]
    spared: Nodes

    def made(self) -> list[int | None]:
        things, bound = self.things, self._bound()
        eligible = things.able.copy()
        for thing in bound:
            eligible[thing] = things.eligible[thing]
        holders = _spread(things, eligible, self.nodes, self.spared)
        beyond = _beyond(holders, self.nodes)
        at_once = beyond
        while beyond and (freed := self._on_full_nodes(bound, holders)[:at_once]):
            for thing in freed:
                eligible[thing] = things.able[thing]
            are_free = set(freed)
            bound = [thing for thing in bound if thing not in are_free]
            holders = _spread(things, eligible, self.nodes, self.spared)
            # Twice as many each time, so that a few rounds are enough for thousands.
            beyond, at_once = _beyond(holders, self.nodes), 2 * at_once
        return self._without_what_is_beyond(holders)

    def _bound(self) -> list[int]:
        """Returns what is bound, in the order in which that is given up: first what is not there
        yet, and of that the highest number."""
        things = self.things
        return sorted(
            things.bound, key=lambda each: (things.is_home_in(each, things.eligible[each]), -each)
        )

    def _on_full_nodes(self, bound: Sequence[int], holders: Sequence[int]) -> list[int]:
        """Returns what might make room elsewhere."""
        loads = Counter(holders)
        full = {
            number
            for number, each in enumerate(self.nodes)
            if each.capacity is not None and loads[number] >= each.capacity
        }
        return [
            thing
            for thing in bound
            if holders[thing] in full and self.things.able[thing] != self.things.eligible[thing]
        ]

    def _without_what_is_beyond(self, holders: Sequence[int]) -> list[int | None]:
        homes, left = self.things.homes, list[int | None](holders)
        loads, most = Counter(holders), [each.capacity for each in self.nodes]

        def is_over(number: int) -> bool:
            limit = most[number]
            return limit is not None and loads[number] > limit

        # What is elsewhere now stays there, and may leave no room for others there.
        has_changed = True
        while has_changed:
            has_changed = False
            for thing in reversed(range(len(left))):
                on, home = left[thing], homes[thing]
                if on is not None and home is not None and home != on and is_over(on):
                    left[thing] = home
                    loads.subtract((on,))
                    loads.update((home,))
                    has_changed = True
        for thing in reversed(range(len(left))):
            on = left[thing]
            if on is not None and homes[thing] is None and is_over(on):
                left[thing] = None
                loads.subtract((on,))
        return left
