"""A view of the cluster after a change, and who is to hold what in it.

The placement is the one that nodes compute (yaim/core/placement.py), so a plan says what they will
do, as long as nothing else happens. Pure.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from yaim.core.model import (
    Address,
    ClusterView,
    Control,
    Key,
    Mark,
    Move,
    Node,
    NodeName,
    Order,
    Pin,
    PoolEntry,
    Value,
    Weight,
    frozen_mapping,
    is_in_force,
    thawed,
)
from yaim.core.placement import Placement, counted, counted_marks, place
from yaim.dcs.operate import (
    Change,
    Delete,
    ForgetMember,
    Put,
    RemoveDrain,
    RemoveMove,
    RemovePause,
    RemovePin,
    RemovePoolEntry,
    RemoveWeight,
    SetDrain,
    SetMove,
    SetPause,
    SetPin,
    SetPoolEntry,
    SetWeight,
)
from yaim.dcs.records import read_pool_entry


def target_of(view: ClusterView) -> Placement:
    """Who is to hold what, as every node computes it."""
    return place(view.pool, counted(view), counted_marks(view), view.control)


def holders_of(view: ClusterView) -> Mapping[Address, NodeName]:
    """Who holds what: the marks in force of addresses of the pool."""
    return frozen_mapping(
        {
            address: mark.holder
            for address, mark in view.marks.items()
            if address in view.pool and is_in_force(mark, view.nodes)
        }
    )


def settled(view: ClusterView, placement: Placement) -> ClusterView:
    """The view when all is held as it is to be, and the moves asked for are made."""
    marks = {
        address: Mark(address, name, view.nodes[name].lease, view.revision)
        for address, name in placement.items()
        if name in view.nodes
    }
    control = replace(view.control, moves=frozen_mapping({}))
    return replace(view, marks=frozen_mapping(marks), control=control)


def applied(view: ClusterView, change: Change) -> ClusterView:
    """The view after the change."""
    for delete in change.deletes:
        view = _without(view, delete)
    for put in change.puts:
        view = _with(view, put)
    return view


def _with(view: ClusterView, put: Put) -> ClusterView:
    control = view.control
    match put:
        case SetDrain(node, reason):
            drains = _added(control.drains, node, Order(reason=reason))
            return _controlled(view, replace(control, drains=drains))
        case SetPause(reason):
            return _controlled(view, replace(control, pause=Order(reason=reason)))
        case SetPin(address, node, reason):
            pins = _added(control.pins, address, Pin(node, Order(reason=reason)))
            return _controlled(view, replace(control, pins=pins))
        case SetMove(address, node, reason):
            moves = _added(control.moves, address, Move(node, Order(reason=reason)))
            return _controlled(view, replace(control, moves=moves))
        case SetWeight(node, weight, reason):
            weights = _added(control.weights, node, Weight(weight, Order(reason=reason)))
            return _controlled(view, replace(control, weights=weights))
        case SetPoolEntry(address, options):
            return replace(view, pool=_added(view.pool, address, entry_of(address, options)))
        case _:
            assert_never(put)


def _without(view: ClusterView, delete: Delete) -> ClusterView:
    control = view.control
    match delete:
        case RemoveDrain(node):
            drained = replace(control, drains=_left(control.drains, node))
            return _controlled(_taking_again(view, node), drained)
        case RemovePause():
            return _controlled(view, replace(control, pause=None))
        case RemovePin(address):
            return _controlled(view, replace(control, pins=_left(control.pins, address)))
        case RemoveMove(address):
            return _controlled(view, replace(control, moves=_left(control.moves, address)))
        case RemoveWeight(node):
            return _controlled(view, replace(control, weights=_left(control.weights, node)))
        case RemovePoolEntry(address):
            return replace(view, pool=_left(view.pool, address))
        case ForgetMember(node):
            forgotten = replace(
                control,
                members=_left(control.members, node),
                drains=_left(control.drains, node),
                weights=_left(control.weights, node),
            )
            return _controlled(view, forgotten)
        case _:
            assert_never(delete)


def entry_of(address: Address, options: Mapping[str, object]) -> PoolEntry:
    """The entry with these options, as nodes read it."""
    given = {name: value for name, value in options.items() if value is not None}
    entry, _ = read_pool_entry(address, json.dumps(given).encode())
    return entry


def with_node(view: ClusterView, node: Node) -> ClusterView:
    return replace(view, nodes=_added(view.nodes, node.name, node))


def without_node(view: ClusterView, name: NodeName) -> ClusterView:
    return replace(view, nodes=_left(view.nodes, name))


def _taking_again(view: ClusterView, name: NodeName) -> ClusterView:
    """A drained node advertises that it waits, for older nodes, and takes that back as soon as it
    sees that it is drained no more. Whether it waits for another reason, too, does not show."""
    node = view.nodes.get(name)
    if node is None or not node.advertisement.is_drained:
        return view
    told = replace(node.advertisement, is_drained=False, waits_s=0.0)
    return with_node(view, replace(node, advertisement=told))


def _controlled(view: ClusterView, control: Control) -> ClusterView:
    return replace(view, control=control)


def _added(mapping: Mapping[Key, Value], key: Key, value: Value) -> Mapping[Key, Value]:
    return frozen_mapping(thawed(mapping) | {key: value})


def _left(mapping: Mapping[Key, Value], key: Key) -> Mapping[Key, Value]:
    return frozen_mapping({k: value for k, value in mapping.items() if k != key})
