"""Whether a command is done, from one view of the cluster to the next. Pure.

Done is: each live node has followed it (Advertisement.control), what was to move has moved, and no
drained node has anything that another could hold. A mark goes only after the kernel of its holder
has let go. What cannot be done is told at once, with its reason, and not at the end of a time.
"""

from dataclasses import dataclass, field, replace
from typing import TypeAlias, assert_never

from yaim.core.model import (
    Address,
    ClusterView,
    NodeName,
    Revision,
    address_order,
)
from yaim.dcs.operate import Change, SetDrain, SetMove, SetPin
from yaim.steer.applied import holders_of, target_of
from yaim.steer.blocked import Obstacles
from yaim.steer.plan import Going, Staying
from yaim.steer.requests import CONTROLS_FROM, Goal

PUT_OFF_S = 3.0
"""If all nodes have followed and nothing has moved for so long, what is left is put off: by
`rebalance` or `rebalance-delay` of the nodes that hold it."""
BLOCKED_S = 3.0
"""So long what is blocked is not told while something else moves."""


@dataclass(frozen=True, slots=True)
class GoingOn:
    left: tuple[Going, ...]
    """What has not moved yet."""
    silent: tuple[NodeName, ...]
    """The nodes that have not followed yet."""


@dataclass(frozen=True, slots=True)
class Finished:
    later: tuple[Going, ...] = ()
    """What moves later, to be level, as its holders put that off."""


@dataclass(frozen=True, slots=True)
class Blocked:
    stays: tuple[Staying, ...]


@dataclass(frozen=True, slots=True)
class Overtaken:
    """Somebody has taken back what was asked for."""

    reason: str


Progress: TypeAlias = GoingOn | Finished | Blocked | Overtaken


@dataclass(frozen=True, slots=True)
class Wait:
    change: Change
    goal: Goal
    revision: Revision
    """What nodes advertise that have followed the change."""
    _holders: frozenset[tuple[Address, NodeName]] = frozenset()
    _since: float = 0.0
    """The monotonic time since when nothing has moved."""
    progress: Progress = field(default_factory=lambda: GoingOn((), ()))

    def after(self, view: ClusterView, now: float) -> "Wait":
        """`now`: a monotonic time in seconds."""
        held = frozenset(holders_of(view).items())
        found = _progress_of(self, view)
        is_new = self._since == 0.0 or held != self._holders or found.silent != self._silent
        since = now if is_new else self._since
        quiet_s = now - since
        return replace(
            self, _holders=held, _since=since, progress=_verdict(found, self.goal, quiet_s)
        )

    @property
    def _silent(self) -> tuple[NodeName, ...]:
        return self.progress.silent if isinstance(self.progress, GoingOn) else ()


@dataclass(frozen=True, slots=True)
class _Found:
    left: tuple[Going, ...]
    silent: tuple[NodeName, ...]
    blocked: tuple[Staying, ...]
    overtaken: str


def _progress_of(wait: Wait, view: ClusterView) -> _Found:
    goal = wait.goal
    holders, target = holders_of(view), target_of(view)
    obstacles = Obstacles(view, target)
    left: dict[Address, Going] = {}
    blocked: dict[Address, Staying] = {}
    for address in goal.moved & view.pool.keys():
        if holders.get(address) != target.get(address):
            left[address] = Going(address, holders.get(address), target.get(address))
    for address, node in goal.placed.items():
        if holders.get(address) == node:
            continue
        if address in view.pool and target.get(address) == node:
            left[address] = Going(address, holders.get(address), node)
        else:
            why = obstacles.why_not(node, address) or "what was asked for has lapsed"
            blocked[address] = Staying(address, holders.get(address), f"{node}: {why}")
    for address, name in holders.items():
        if name not in goal.drained:
            continue
        if target.get(address) == name:
            reason = obstacles.elsewhere(address, name)
            blocked[address] = Staying(address, name, reason)
        else:
            left[address] = Going(address, name, target.get(address))
    for address in goal.gone:
        mark = view.marks.get(address)
        if mark is not None and address not in view.pool:
            left[address] = Going(address, mark.holder, None)
    return _Found(
        tuple(left[each] for each in sorted(left, key=address_order)),
        tuple(
            name
            for name, node in sorted(view.nodes.items())
            if node.advertisement.placement >= CONTROLS_FROM
            and node.advertisement.control < wait.revision
        ),
        tuple(blocked[each] for each in sorted(blocked, key=address_order)),
        _overtaken(wait, view),
    )


def _overtaken(wait: Wait, view: ClusterView) -> str:
    control = view.control
    for put in wait.change.puts:
        match put:
            case SetDrain(node) if node not in control.drains:
                return f"{node} is not drained any more"
            case SetPin(address, node):
                pin = control.pins.get(address)
                if pin is None or pin.node != node:
                    return f"{address} is not pinned to {node} any more"
            case SetMove(address, node):
                move = control.moves.get(address)
                if move is not None and move.node != node:
                    return f"{address} is to go to {move.node} now"
            case _:
                pass
    return ""


def _verdict(found: _Found, goal: Goal, quiet_s: float) -> Progress:
    if found.overtaken:
        return Overtaken(found.overtaken)
    if found.blocked and (not found.left or quiet_s >= BLOCKED_S):
        return Blocked(found.blocked)
    if found.silent or found.blocked:
        return GoingOn(found.left, found.silent)
    if not found.left:
        return Finished()
    may_wait = all(
        each.source is not None
        and each.source not in goal.drained
        and each.address not in goal.placed
        and each.address not in goal.gone
        for each in found.left
    )
    if may_wait and quiet_s >= PUT_OFF_S:
        return Finished(found.left)
    return GoingOn(found.left, found.silent)


def told(progress: Progress) -> str:
    """In a line, for people."""
    match progress:
        case GoingOn(left, silent):
            words = [f"{len(left)} address{'es' * (len(left) != 1)} to move"] if left else []
            words += [f"not followed yet by {', '.join(silent[:8])}"] if silent else []
            return "; ".join(words) or "nothing seen yet"
        case Finished(later):
            return f"done; {len(later)} later" if later else "done"
        case Blocked(stays):
            return f"{len(stays)} address{'es' * (len(stays) != 1)} cannot move"
        case Overtaken(reason):
            return reason
        case _:
            assert_never(progress)
