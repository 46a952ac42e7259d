"""What this node writes into the history: what has happened here, and whose lease has ended.

Asks for notes only. A note delays and wakes nothing, and no decision depends on one.
"""

from collections.abc import Mapping

from yaim.core.actions import Kind, Note
from yaim.core.model import Address, ClusterView, NodeName, address_order, frozen_mapping
from yaim.core.state.past import Going, Origin
from yaim.core.turn import Turn

STOPPING = "stopping"
"""The reason of the last advertisement of a node that stops (yaim/core/decide/writes.py)."""


def note_moves(turn: Turn) -> None:
    """Notes in one line for each reason what this step has heard of."""
    held: dict[str, dict[Address, NodeName | None]] = {}
    for address, origin in turn.held:
        held.setdefault(origin.reason, {})[address] = origin.node
    released: dict[str, dict[Address, NodeName | None]] = {}
    for address, going in turn.released:
        released.setdefault(going.reason, {})[address] = going.to
    for kind, found in ((Kind.HELD, held), (Kind.RELEASED, released)):
        for reason, addresses in found.items():
            turn.ask([_note(turn, kind, addresses, reason)])


def _note(
    turn: Turn, kind: Kind, addresses: Mapping[Address, NodeName | None], reason: str
) -> Note:
    ordered = tuple(sorted(addresses, key=address_order))
    by_node = {a: name for a in ordered if (name := addresses[a]) is not None}
    return Note(kind, turn.facts.me, ordered, frozen_mapping(by_node), reason)


def note_health(turn: Turn, was_healthy: bool | None) -> None:
    """`was_healthy`: before this step; None: that was not known. A node that is healthy when it is
    started has told that it has joined."""
    is_healthy = turn.health.flaps.is_healthy
    if is_healthy is None or is_healthy == (True if was_healthy is None else was_healthy):
        return
    kind = Kind.HEALTHY if is_healthy else Kind.UNHEALTHY
    turn.ask([Note(kind, turn.facts.me, reason=turn.facts.health().reason)])


def note_joined(turn: Turn) -> None:
    turn.ask([Note(Kind.JOINED, turn.facts.me, reason=f"yaim {turn.settings.version}")])


def note_stopped(turn: Turn, reason: str) -> None:
    turn.ask([Note(Kind.STOPPED, turn.facts.me, reason=reason)])


def note_lost(turn: Turn, before: ClusterView | None, view: ClusterView) -> None:
    """Notes whose lease has ended: all nodes do, and one line of them stays. Not if ours has gone
    in the same instant: then etcd has lost them all."""
    if before is None or before.nodes is view.nodes:
        return
    lost = before.nodes.keys() - view.nodes.keys()
    if turn.facts.me in lost:
        return
    for name in sorted(lost):
        node, member = before.nodes[name], view.control.members.get(name)
        is_stopped = member is not None and member.is_stopped
        if not is_stopped and node.advertisement.reason != STOPPING:
            turn.ask([Note(Kind.LOST, name, reason="its lease has ended", life=node.lease)])


def hear_added(turn: Turn, address: Address, default: Origin) -> None:
    """`default`: where it comes from, if that is not known."""
    turn.held.append((address, turn.past.taken.get(address, default)))
    turn.past = turn.past.after_added(address)


def hear_removed(turn: Turn, address: Address) -> None:
    going: Going | None = turn.past.going.get(address)
    if going is not None:
        turn.released.append((address, going))
        turn.past = turn.past.after_removed(address)
