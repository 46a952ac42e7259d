"""What operators have asked for (core.model.Control), and whether it is followed. Pure.

That a node is drained, or that nothing is levelled, is told and is nothing wrong. Wrong is what
stands there and is not followed, or has been forgotten.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from yaim.core.eligibility import Eligibility
from yaim.core.model import (
    Address,
    ClusterView,
    Node,
    NodeName,
    Order,
    PoolEntry,
    address_order,
)
from yaim.core.placement import version_of
from yaim.status.of_node import is_known
from yaim.status.problem import Code, Note, Problem, listed
from yaim.status.times import since
from yaim.text import shell_word

FOLLOWS_CONTROL = 4
"""The lowest version of the placement that knows Control (yaim/core/placement.py)."""


def told_of(order: Order, now: datetime) -> str:
    """By whom, since when, until when, and why."""
    words = [f"by {order.by}"] if order.by else []
    words += [f"since {since(order.at, now)}"] if order.at else []
    words += [f"until {order.until}"] if order.until else []
    told = " ".join(words)
    return f"{told}: {order.reason}" if order.reason else told


def notes(view: ClusterView, now: datetime) -> Iterator[Note]:
    control = view.control
    if control.pause is not None:
        told = told_of(control.pause, now)
        yield Note("", f"paused {told}".rstrip() + "; only what has failed moves (yaim resume)")
    for name, order in sorted(control.drains.items()):
        member = control.members.get(name)
        gone = ", and is stopped" if name not in view.nodes and member is not None else ""
        if name in view.nodes or (member is not None and member.is_stopped):
            yield Note(name, f"is drained {told_of(order, now)}".rstrip() + gone)
    for address, move in sorted(control.moves.items(), key=lambda item: address_order(item[0])):
        told = f"is to move to {move.node} {told_of(move.order, now)}"
        yield Note(str(address), told.rstrip())


def problems(
    cluster: str,
    view: ClusterView,
    holders: Mapping[Address, NodeName],
    by_hand: Callable[..., str],
) -> Iterator[Problem]:
    """`cluster` is the prefix of the cluster's keys. `holders`: who holds what, by marks in
    force. `by_hand`: makes a command of the store's own client."""
    yield from _not_understood(view)
    yield from _disowned(view, holders)
    yield from _pins(view, holders)
    yield from _drains(view, holders)
    for wrong in view.control.wrong:
        remedy = by_hand("del", f"{cluster}{wrong.name}")
        text = f"cannot be understood: {wrong.reason}"
        yield Problem(Code.WRONG_CONTROL, wrong.name, text, remedy)


def _not_understood(view: ClusterView) -> Iterator[Problem]:
    control = view.control
    what = [
        name
        for name, orders in (
            ("pins", control.pins),
            ("weights", control.weights),
            ("moves", control.moves),
            ("the pause", control.pause),
        )
        if orders
    ]
    if not what or version_of(view.nodes) >= FOLLOWS_CONTROL:
        return
    for name, node in sorted(view.nodes.items()):
        if node.advertisement.placement < FOLLOWS_CONTROL:
            older = f"has an older yaim ({node.advertisement.version})"
            text = f"{older}: until it is upgraded, no node follows {' and '.join(what)}"
            yield Problem(Code.VERSION, name, text, "upgrade it")


def _disowned(view: ClusterView, holders: Mapping[Address, NodeName]) -> Iterator[Problem]:
    """Marks that were handed over to a node which was then started as an older version."""
    found: dict[NodeName, list[str]] = {}
    for address, name in sorted(holders.items(), key=lambda item: address_order(item[0])):
        is_handed_over = view.marks[address].version > 1
        if is_handed_over and view.nodes[name].advertisement.placement < FOLLOWS_CONTROL:
            found.setdefault(name, []).append(str(address))
    for name, addresses in sorted(found.items()):
        version = view.nodes[name].advertisement.version
        text = f"has an older yaim ({version}), which does not take {listed(addresses)} for its own"
        yield Problem(Code.VERSION, name, text, "there: systemctl stop yaim; systemctl start yaim")


def _pins(view: ClusterView, holders: Mapping[Address, NodeName]) -> Iterator[Problem]:
    pins = view.control.pins
    for address, pin in sorted(pins.items(), key=lambda item: address_order(item[0])):
        unpin = f"yaim unpin {address}"
        entry, node = view.pool.get(address), view.nodes.get(pin.node)
        if entry is None:
            text = f"is pinned to {pin.node}, and is not in the pool"
            yield Problem(Code.PIN, str(address), text, unpin)
        elif holders.get(address) != pin.node and (
            why := _why_not_pinned(node, entry, view, pin.node)
        ):
            yield Problem(Code.PIN, str(address), f"is pinned to {pin.node}, which {why}", unpin)


def _why_not_pinned(node: Node | None, entry: PoolEntry, view: ClusterView, name: NodeName) -> str:
    """Empty if it is only a matter of time."""
    if node is None:
        return "is not there" if is_known(name, view) else "is not known"
    if why := node.why_not(entry):
        return f"cannot hold it: {why}"
    if name in view.control.drains:
        return "is drained"
    if node.is_waiting and not node.advertisement.is_drained:
        return "is flapping"
    return ""


def _drains(view: ClusterView, holders: Mapping[Address, NodeName]) -> Iterator[Problem]:
    drains = view.control.drains
    for name in sorted(drains):
        undrain = f"yaim undrain {shell_word(name)}"
        member = view.control.members.get(name)
        if name not in view.nodes and (member is None or not member.is_stopped):
            what = "is drained, and no node of that name was ever there"
            if member is not None:
                what = "is drained, and not there though it was not stopped"
            yield Problem(Code.STALE_DRAIN, name, what, undrain)
    others = [node for name, node in sorted(view.nodes.items()) if name not in drains]
    eligibility = Eligibility([node for node in others if node.advertisement.takes])
    for name in sorted(drains.keys() & view.nodes.keys()):
        kept = sorted(
            (
                address
                for address, holder in holders.items()
                if holder == name
                and (entry := view.pool.get(address)) is not None
                and not eligibility.able(entry)
            ),
            key=address_order,
        )
        if kept:
            which = listed([str(each) for each in kept])
            yield Problem(
                Code.DRAINED_HOLDS,
                name,
                f"is drained, and holds {which}, which no other node can",
                f"mend another node, or: yaim undrain {shell_word(name)}",
            )
