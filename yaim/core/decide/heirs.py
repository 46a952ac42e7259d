"""Decides to whom marks are handed over that are to be released; changes nothing.

Handed over, an address is off for as long as a removal, one transaction and an add take: between a
release and a claim another node would have to hear of the one before it asks for the other.

Never two (docs/decisions.md has the whole argument). The removal is confirmed before, as for any
release. The new mark stands under the heir's lease, so nobody else can claim the address before
that ends; and the heir adds only under a deadline of its own for that lease, as after a claim. A
transaction that comes late fails by the mark's revision, and by our advertisement's; one that finds
the heir without that lease hands nothing over. What else has changed at the heir does not matter:
what it does not want it gives back, as any mark of its own.
"""

from collections.abc import Iterable, Mapping

from yaim.core.actions import Heir
from yaim.core.facts import Facts
from yaim.core.model import Address, Mark, frozen_mapping

NOBODY: Mapping[Address, Heir] = frozen_mapping({})


def heirs(facts: Facts, marks: Iterable[Mark]) -> Mapping[Address, Heir]:
    """Returns the heirs of those of our marks that another node is to hold because an operator
    wants that, and can take at once. What moves only to be level is released and claimed: an older
    node understands such marks, so that without orders a change of versions moves nothing.

    A node that waits takes only what nobody else can hold: whether that is so when it hears of it,
    it decides itself. A full etcd takes deletions only (full_etcd.py). After a loss of all leases
    each node claims for itself (state/takeover.py). To a node that does not understand it, a mark
    that was handed over would be one that somebody has put over another's by hand."""
    state, view = facts.state, facts.state.cluster.view
    if view is None or state.writing.full is not None or state.takeover.loss is not None:
        return NOBODY
    if not facts.all_know_control():
        return NOBODY
    found = {}
    for mark in marks:
        name, entry = state.placed.target.get(mark.address), view.pool.get(mark.address)
        node = view.nodes.get(name) if name is not None and name != facts.me else None
        if node is None or entry is None or not node.can_take(entry):
            continue
        if facts.drain() is None and not facts.is_ordered(mark.address, node.name):
            continue
        if node.is_waiting and not node.advertisement.is_drained:
            continue
        if mark.address not in state.elsewhere.everywhere:
            found[mark.address] = Heir(node.name, node.lease)
    return frozen_mapping(found)
