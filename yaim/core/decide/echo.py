"""Decides up to which revision of the control keys this node has done what it is asked for; changes
nothing.

Who has given an order waits for all nodes to say so (Advertisement.control). What cannot be done
now, because another node has to do something before, is not waited for: the other one says that it
has not done it, or the marks show it. But who is to be handed something over because of an order
has not followed that before it has the address on its interface: no mark shows that.
"""

from yaim.core.decide.claims import to_claim
from yaim.core.facts import Facts
from yaim.core.model import Address, Revision, is_in_force
from yaim.core.state.addresses import Phase


def echo(facts: Facts, wanted: frozenset[Address]) -> Revision:
    """Returns what our next advertisement says: the revision that we know, if nothing is left to be
    done for it, and else what is said already. No revision beyond the one that we know: etcd may
    have been wiped."""
    known, node = facts.control.revision, facts.my_node()
    if is_done(facts, wanted):
        return known
    return min(known, node.advertisement.control) if node is not None else Revision(0)


def is_done(facts: Facts, wanted: frozenset[Address]) -> bool:
    """Whether there is nothing that this node could add, remove, claim or release."""
    state, mine = facts.state, facts.my_addresses()
    if state.cluster.view is None or state.cluster.is_stale or state.writing.leaving:
        return False
    if not mine <= wanted or to_claim(facts, wanted) or awaits(facts):
        return False
    return is_at_rest(facts) and all(map(state.addresses.is_up, mine))


def awaits(facts: Facts) -> bool:
    """Whether another node is to hand something over to us because an operator wants that: such
    moves are never put off."""
    state, view, control = facts.state, facts.state.cluster.view, facts.control
    if view is None or not facts.all_know_control():
        return False
    pins = {address for address, pin in control.pins.items() if pin.node == facts.me}
    ours = pins | {address for address, move in control.moves.items() if move.node == facts.me}
    if not ours and not control.drains:
        return False
    target = state.placed.target
    return any(
        target.get(address) == facts.me != mark.holder
        and (address in ours or mark.holder in control.drains)
        and is_in_force(mark, view.nodes)
        for address, mark in view.marks.items()
    )


def is_at_rest(facts: Facts) -> bool:
    """Whether nothing is being added or removed, and nothing is unknown. What cannot be removed, as
    the helper or the kernel has told, is not waited for."""
    addresses, mine = facts.state.addresses, facts.my_addresses()
    if addresses.look.reported_at is not None:
        return True
    for address, known in addresses.known.items():
        is_up = known.phase is Phase.UP and address in mine
        has_failed = known.phase is Phase.REMOVING and known.failure
        if not is_up and known.phase is not Phase.ABSENT and not has_failed:
            return False
    return True
