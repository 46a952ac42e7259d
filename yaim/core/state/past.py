"""Where addresses have come from, and why they go: for the history and the log.

Owns what is remembered of that. No decision depends on it, and a restart forgets it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from yaim.core.model import (
    Address,
    ClusterView,
    Mark,
    NodeName,
    Value,
    frozen_mapping,
    is_in_force,
    thawed,
)
from yaim.core.state.takeover import gone


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an address comes from that this node has marked."""

    node: NodeName | None
    """Who had it before; None: nobody, as far as is known."""
    reason: str


@dataclass(frozen=True, slots=True)
class Going:
    """Why an address is being removed that was here."""

    reason: str
    to: NodeName | None
    """Who is to hold it; None: nobody, or that is not known."""


NEW = Origin(None, "claimed: nobody had it")
EARLIER = Origin(None, "this node had it before it was started anew")
BACK = Origin(None, "put back")


@dataclass(frozen=True, slots=True)
class Past:
    unmarked: Mapping[Address, Origin] = field(default_factory=lambda: frozen_mapping({}))
    """The addresses of the pool whose marks have gone, and how; until they are marked again. Those
    that have left the pool since are forgotten with the next change of marks."""
    taken: Mapping[Address, Origin] = field(default_factory=lambda: frozen_mapping({}))
    """What this node has marked and not added yet."""
    going: Mapping[Address, Going] = field(default_factory=lambda: frozen_mapping({}))
    """What was here and is being removed."""

    def after_view(
        self,
        before: ClusterView | None,
        view: ClusterView,
        mine: Collection[Address],
        new: Collection[Address],
    ) -> "Past":
        """`mine`: what has our mark now; `new`: what had not in the view before."""
        if before is None:
            taken = frozen_mapping(dict.fromkeys(new, EARLIER))
            return replace(self, unmarked=frozen_mapping({}), taken=taken)
        left = gone(before, view)
        if not left and not new and not self.taken.keys() - mine:
            return self
        unmarked, taken = thawed(self.unmarked), {}
        holders = {}
        for mark in left:
            holders[mark.address] = mark
            if mark.address not in view.marks:
                unmarked[mark.address] = _origin(mark, before, view)
        for address in new:
            move, mark = before.control.moves.get(address), view.marks[address]
            origin = unmarked.get(address, NEW)
            if address in holders and mark.version > 1:
                holder = holders[address].holder
                origin = Origin(holder, f"handed over by {holder}")
            if move is not None and move.node == mark.holder:
                by = f" by {move.order.by}" if move.order.by else ""
                origin = replace(origin, reason=f"moved{by}; {origin.reason}")
            taken[address] = origin
        kept = {a: each for a, each in self.taken.items() if a in mine}
        unmarked = {
            a: each for a, each in unmarked.items() if a in view.pool and a not in view.marks
        }
        return replace(self, unmarked=frozen_mapping(unmarked), taken=frozen_mapping(kept | taken))

    def after_added(self, address: Address) -> "Past":
        if address not in self.taken and address not in self.going:
            return self
        return replace(
            self, taken=_without(self.taken, address), going=_without(self.going, address)
        )

    def asked_removals(self, leaving: Mapping[Address, Going | None]) -> "Past":
        """None: it is not known to be here now, or is asked for once more."""
        new = {address: each for address, each in leaving.items() if each is not None}
        return replace(self, going=frozen_mapping(thawed(self.going) | new)) if new else self

    def after_removed(self, address: Address) -> "Past":
        return replace(self, going=_without(self.going, address))


def _origin(mark: Mark, before: ClusterView, view: ClusterView) -> Origin:
    was_in_force = is_in_force(mark, before.nodes)
    if was_in_force and not is_in_force(mark, view.nodes):
        return Origin(mark.holder, f"taken over from {mark.holder}, whose lease has ended")
    return Origin(mark.holder, f"taken over from {mark.holder}, which has given it up")


def _without(mapping: Mapping[Address, Value], address: Address) -> Mapping[Address, Value]:
    if address not in mapping:
        return mapping
    return frozen_mapping({a: each for a, each in mapping.items() if a != address})
