"""Decides whether a node that is to stop has done all it can; changes nothing."""

from yaim.core.actions import End, Outcome
from yaim.core.facts import Facts
from yaim.core.full_etcd import refuses_deletions


def end(facts: Facts) -> End | None:
    state, stopping = facts.state, facts.state.ending.stopping
    if stopping is None:
        return None
    if facts.now >= stopping.give_up_at and not state.addresses.look.is_pending:
        return End(
            Outcome.NOT_RELEASED,
            f"{stopping.reason}; not everything could be released: others take over when "
            "the lease expires",
        )
    if _is_refused_the_last_write(facts):
        return End(
            Outcome.NOT_RELEASED,
            f"{stopping.reason}; etcd is full and refuses deletions, too: others take over when"
            " the lease expires",
        )
    is_without_lease = state.lease.current is None and not state.lease.retry.is_pending
    if is_without_lease and not _may_have_left_something(facts) and facts.has_removed_all():
        return End(Outcome.STOPPED, stopping.reason)
    return None


def _is_refused_the_last_write(facts: Facts) -> bool:
    """Whether a full etcd does not let us withdraw, though we have removed everything."""
    writing = facts.state.writing
    if not refuses_deletions(writing.full) or writing.under_way is not None:
        return False
    return facts.has_removed_all() and facts.my_node() is not None


def _may_have_left_something(facts: Facts) -> bool:
    """Whether an earlier life may have left a lease that is ours to end, and etcd answers."""
    cluster = facts.state.cluster
    is_asked = cluster.view is not None or cluster.read.is_pending
    return facts.state.lease.may_adopt and is_asked
