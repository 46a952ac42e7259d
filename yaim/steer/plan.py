"""What will move because of a change, by the placement that all nodes compute. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from yaim.core.model import Address, ClusterView, NodeName, address_order, frozen_mapping
from yaim.steer.applied import holders_of, target_of
from yaim.steer.blocked import Obstacles, counts


@dataclass(frozen=True, slots=True)
class Going:
    """An address that goes from one node to another."""

    address: Address
    source: NodeName | None
    """None: nobody holds it."""
    target: NodeName | None
    """None: nobody will."""


@dataclass(frozen=True, slots=True)
class Staying:
    """An address that stays on a node which is to give it up, or for which there is no node."""

    address: Address
    node: NodeName | None
    """None: nobody will hold it."""
    reason: str
    """Why no other node takes it."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many addresses a node has, and will have."""

    node: NodeName
    before: int
    after: int
    state: str
    """What matters of it here: `drained`, `unhealthy`, `waits`, `not there`; otherwise empty."""


@dataclass(frozen=True, slots=True)
class Plan:
    moves: tuple[Going, ...]
    shares: tuple[Share, ...]
    stays: tuple[Staying, ...]

    @property
    def targets(self) -> Mapping[Address, NodeName | None]:
        return frozen_mapping({each.address: each.target for each in self.moves})


def plan_of(before: ClusterView, after: ClusterView) -> Plan:
    """From what is held now to what will be, after a change."""
    holders, target = holders_of(before), target_of(after)
    wanted = sorted({*before.pool, *after.pool}, key=address_order)
    moves = tuple(
        Going(each, holders.get(each), target.get(each))
        for each in wanted
        if holders.get(each) != target.get(each)
    )
    had, will_have = counts(holders, before.nodes), counts(target, after.nodes)
    names = sorted({*before.nodes, *after.nodes})
    shares = tuple(Share(name, had[name], will_have[name], state_of(after, name)) for name in names)
    obstacles = Obstacles(after, target)
    stays = tuple(
        Staying(each, target.get(each), obstacles.elsewhere(each, target.get(each)))
        for each in sorted(after.pool, key=address_order)
        if target.get(each) is None or target[each] in after.control.drains
    )
    return Plan(moves, shares, stays)


def state_of(view: ClusterView, name: NodeName) -> str:
    """In a word, why a node does not share in what there is to hold; empty if it does."""
    node = view.nodes.get(name)
    if node is None:
        return "not there"
    if not node.advertisement.is_healthy:
        return "unhealthy"
    if name in view.control.drains:
        return "drained"
    if node.is_waiting:
        return "waits"
    return "" if node.advertisement.takes else "takes nothing"
