"""`yaim plan`: what would move if something happened. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from yaim.core.model import (
    Address,
    ClusterView,
    LeaseId,
    Node,
    NodeName,
    Weight,
    frozen_mapping,
    thawed,
)
from yaim.dcs.operate import Change, Put, RemovePoolEntry, SetDrain, SetPoolEntry
from yaim.steer.applied import applied, with_node, without_node
from yaim.steer.plan import Plan, plan_of
from yaim.steer.requests import known_nodes


@dataclass(frozen=True, slots=True)
class WhatIf:
    without: tuple[NodeName, ...] = ()
    """These fail."""
    with_: tuple[NodeName, ...] = ()
    """These come, or are well again."""
    drained: tuple[NodeName, ...] = ()
    added: tuple[Address, ...] = ()
    removed: tuple[Address, ...] = ()
    weights: Mapping[NodeName, int] = field(default_factory=lambda: frozen_mapping({}))


def plan_for(asked: WhatIf, view: ClusterView) -> tuple[Plan, tuple[str, ...]]:
    """The plan, and what is wrong with the question: then the plan is without it."""
    faults = [
        f"no node is called {name}: there are {', '.join(sorted(known_nodes(view))) or 'none'}"
        for name in sorted({*asked.without, *asked.drained, *asked.weights} - known_nodes(view))
        if name not in asked.with_
    ]
    faults += [f"{a} is not in the pool" for a in asked.removed if a not in view.pool]
    faults += [f"{a} is in the pool already" for a in asked.added if a in view.pool]
    if asked.with_ and not view.nodes:
        faults.append("no node is there that another could be like")
    if faults:
        return plan_of(view, view), tuple(faults)
    after = view
    for name in asked.with_:
        after = with_node(after, _well(view, name))
    for name in asked.without:
        after = without_node(after, name)
    weights = thawed(view.control.weights) | {n: Weight(w) for n, w in asked.weights.items()}
    after = replace(after, control=replace(after.control, weights=frozen_mapping(weights)))
    puts: tuple[Put, ...] = (
        *(SetDrain(name) for name in asked.drained),
        *(SetPoolEntry(address) for address in asked.added),
    )
    deletes = tuple(RemovePoolEntry(address) for address in asked.removed)
    return plan_of(view, applied(after, Change("plan", puts, deletes))), ()


def _well(view: ClusterView, name: NodeName) -> Node:
    """The node as it is when it is well. One that is not there is like most of the others."""
    node = view.nodes.get(name) or _like_most(view, name)
    told = replace(
        node.advertisement,
        is_healthy=True,
        takes=True,
        refused=frozenset(),
        down=frozenset(),
        waits_s=0.0,
        is_drained=False,
    )
    return replace(node, advertisement=told)


def _like_most(view: ClusterView, name: NodeName) -> Node:
    in_order = [node for _, node in sorted(view.nodes.items())]
    kinds = Counter(map(_kind, in_order))
    (most, _), *_ = kinds.most_common(1)
    node = next(node for node in in_order if _kind(node) == most)
    told = replace(node.advertisement, present=frozen_mapping({}))
    return replace(node, name=name, lease=LeaseId(-1), advertisement=told)


def _kind(node: Node) -> tuple[object, ...]:
    told = node.advertisement
    return told.interface, tuple(sorted(told.networks.items())), told.capacity
