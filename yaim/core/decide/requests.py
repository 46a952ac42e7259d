"""Decides which lease requests and reads are sent to etcd; changes nothing."""

from yaim.core.actions import (
    Action,
    GrantLease,
    KeepLease,
    Level,
    ReadCluster,
    Report,
    RevokeLease,
)
from yaim.core.decide.writes import lets_lease_end
from yaim.core.facts import Facts


def lease_request(facts: Facts) -> list[Action]:
    """Returns the request that the lease needs now, if it needs one."""
    state, now = facts.state, facts.now
    lease, retry = state.lease.current, state.lease.retry
    if retry.is_pending:
        return []
    if lease is not None and facts.has_withdrawn():
        return [RevokeLease(lease.id)]
    if now < retry.due:
        return []
    if facts.life_s() <= 0 and state.cluster.read.failures:
        # Nothing is to be lost any more: it is enough that reads are tried again.
        return []
    if lets_lease_end(facts):
        return []
    return [KeepLease(lease.id)] if lease is not None else _first_lease_request(facts)


def _first_lease_request(facts: Facts) -> list[Action]:
    """Adopts the lease of this node's earlier life, or asks for a new one."""
    state, node, helper = facts.state, facts.advertised(), facts.state.host.helper
    if state.cluster.view is None or helper is None:
        return []
    is_ours = node is not None and node.advertisement.session == helper.session
    if node is None or (is_ours and not facts.may_adopt(node)):
        is_stopping = state.ending.stopping is not None
        return [] if is_stopping else [GrantLease(state.settings.ttl_s)]
    if not is_ours:
        return []
    told = f"adopts lease {node.lease:x} of this node's earlier life"
    return [Report(Level.INFO, told), KeepLease(node.lease)]


def read_request(facts: Facts) -> list[Action]:
    cluster, is_stopping = facts.state.cluster, facts.state.ending.stopping is not None
    is_needed = not is_stopping or cluster.is_stale or facts.state.lease.may_adopt
    if cluster.read.is_pending or facts.now < cluster.read.due or not is_needed:
        return []
    return [ReadCluster()]
