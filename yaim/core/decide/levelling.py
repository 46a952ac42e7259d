"""Decides which moves could be put off, because nothing has failed; changes nothing."""

from yaim.core.facts import Facts
from yaim.core.model import Address
from yaim.core.settings import Rebalance
from yaim.core.state.addresses import Phase

_GONE = frozenset({Phase.REMOVING, Phase.ABSENT})


def moves_to_level(facts: Facts) -> frozenset[Address]:
    """Returns what is here and has our mark, we could hold, and another node is to hold: to make
    the spread more even, or because the entry prefers that node. What is off our interface, or
    about to be, is not put back only to be moved later. Nothing of a node that waits or is drained,
    which leaves its addresses to others; and nothing that an operator has pinned or moved. Nothing,
    too, where no move is ever put off."""
    state, view, node = facts.state, facts.state.cluster.view, facts.my_node()
    settings, target, addresses = state.settings, state.placed.target, state.addresses
    if settings.rebalance is Rebalance.AUTO and not settings.rebalance_delay_s:
        return frozenset()
    if view is None or node is None or node.is_waiting or facts.drain() is not None:
        return frozenset()
    return frozenset(
        a
        for a in facts.my_addresses() & view.pool.keys()
        if (to := target.get(a, node.name)) != node.name
        and not facts.is_ordered(a, to)
        and addresses.phase(a) not in _GONE
        and node.can_hold(view.pool[a])
    )
