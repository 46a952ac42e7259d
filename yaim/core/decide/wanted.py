"""Decides which addresses should be on our interfaces now, and where; changes nothing."""

from collections.abc import Set
from dataclasses import replace

from yaim.core.facts import Facts
from yaim.core.full_etcd import refuses_deletions
from yaim.core.model import Address, ClusterView, Node, Place
from yaim.core.state.addresses import Phase


def wanted(facts: Facts) -> dict[Address, Place]:
    """Returns the addresses that should be on our interface now, and where."""
    state = facts.state
    if state.ending.stopping is not None or facts.life_s() <= 0:
        return {}
    on_trial = frozenset[Address]()
    chosen: Set[Address]
    if state.health.judged is None:
        chosen = facts.my_addresses()
    elif facts.health().is_healthy:
        on_trial = _on_trial(facts)
        chosen = _assigned(facts) | on_trial
    elif facts.may_keep():
        chosen = kept(facts)
    else:
        chosen = frozenset()
    down = facts.down()
    # What others cannot be told that we refuse it (bounds.py) may be given to us all the same.
    refused = facts.refused() - on_trial
    left = refused | facts.is_elsewhere() | {m.address for m in state.writing.leaving}
    left |= _not_understood(facts)
    places = {address: facts.place_for(address, down) for address in chosen - left}
    return {address: place for address, place in places.items() if place is not None}


def _assigned(facts: Facts) -> frozenset[Address]:
    """Returns what the placement gives us, and what it takes from us only to be level, as long as
    that is put off; after a loss instead of what nobody has marked only what
    was ours, whoever is to hold it, and what we have seen released."""
    state, me = facts.state, facts.me
    view, node, loss = state.cluster.view, facts.my_node(), state.takeover.loss
    assigned = frozenset(a for a, name in state.placed.target.items() if name == me)
    assigned |= state.levelling.put_off(state.settings, facts.now)
    if refuses_deletions(state.writing.full):
        assigned |= _immovable(facts)
    if loss is None:
        return assigned
    if view is None or node is None:
        return frozenset()
    ours = {a for a in state.takeover.ours & view.pool.keys() if node.can_hold(view.pool[a])}
    return frozenset(ours | {a for a in assigned if a in view.marks or a in loss.released})


def _not_understood(facts: Facts) -> frozenset[Address]:
    """Returns those of our marks that were handed over, while a node lives that takes each for one
    that somebody has put over another's: they are given back, and claimed as before. Not by a node
    that could not have them again."""
    state = facts.state
    if facts.all_know_control() or not facts.health().is_healthy or state.writing.full is not None:
        return frozenset()
    return frozenset(mark.address for mark in facts.my_marks() if mark.version > 1)


def _immovable(facts: Facts) -> frozenset[Address]:
    """Returns what we have marked and could hold. A full etcd would not let others have it."""
    view, node = facts.state.cluster.view, facts.my_node()
    if view is None or node is None:
        return frozenset()
    held = facts.my_addresses() & view.pool.keys()
    return frozenset(address for address in held if node.can_hold(view.pool[address]))


def kept(facts: Facts) -> frozenset[Address]:
    """Returns what an unhealthy node goes on holding: all, until it knows what the others are; then
    what none of them could hold. In doubt nothing goes, and nothing that goes comes back."""
    state, view, node = facts.state, facts.state.cluster.view, facts.my_node()
    if view is None or node is None:
        return frozenset()
    held = facts.my_addresses() & view.pool.keys()
    if node.advertisement.is_healthy or facts.awaits_others():
        return held
    others = [each for each in view.nodes.values() if each.name != node.name]
    present = state.elsewhere.everywhere
    going = {
        a
        for a in held
        if a not in present and any(other.can_take(view.pool[a]) for other in others)
    }
    if state.cluster.is_stale:
        gone = (Phase.REMOVING, Phase.ABSENT)
        going &= {a for a, each in state.addresses.known.items() if each.phase in gone}
    return held - going


def _on_trial(facts: Facts) -> frozenset[Address]:
    """Returns what we try to hold although we are advertised to refuse it, as no other node can."""
    state, tried = facts.state, facts.state.refusals.trial.tried
    view, node = state.cluster.view, facts.my_node()
    if not tried or view is None or node is None or state.takeover.loss is not None:
        return frozenset()
    willing = as_willing(node)
    return frozenset(
        a
        for a in tried
        if a in view.pool
        and a not in state.placed.target
        and (a not in view.marks or facts.is_mine(view.marks[a]))
        and willing.can_hold(view.pool[a])
    )


def refused_alone(facts: Facts, view: ClusterView) -> frozenset[Address]:
    """Returns what no node is to hold, and this one could, but for the refusal."""
    state, node = facts.state, facts.my_node()
    refused = state.refusals.too_many | state.refusals.refused.keys()
    if not refused or node is None:
        return frozenset()
    willing, elsewhere, down = as_willing(node), facts.is_elsewhere(), facts.down()
    return frozenset(
        address
        for address in (refused & view.pool.keys()) - state.placed.target.keys() - elsewhere
        if willing.can_hold(view.pool[address]) and facts.place_for(address, down) is not None
    )


def as_willing(node: Node) -> Node:
    """Returns the node as it would be if it refused nothing."""
    told = replace(node.advertisement, refused=frozenset[Address]())
    return replace(node, advertisement=told)
