"""What a node does when etcd has no space left (its alarm NOSPACE). Decides; never acts.

etcd then refuses new leases and what it counts as new: it takes deletions, keepalives and reads.
Versions before 3.4.20 and 3.5.7 may take no transaction at all. So a node may be unable to say that
it is unhealthy, or that its link is down. It must not stay advertised for more than it can hold: no
other node would claim what it has given up. If it cannot write a better advertisement, it deletes
the one that stands; if it cannot do that either, it lets its lease end:

1. The node tries again and again to write the advertisement, also one that says nothing new: that
   is how it notices that etcd has space again.
2. A node that holds nothing, and can hold nothing of what its advertisement has others leave to it,
   withdraws: one transaction deletes the advertisement that it knows (guarded by its mod_revision,
   as every write) and all its marks.
   As ever only when all its addresses are confirmed off its interface. It keeps its lease, and
   advertises itself anew as soon as etcd takes that.
3. Refused that, too, it does not keep its lease: with that go advertisement and marks. It does not
   revoke it: nothing guards a revocation, and a late one would hit the next life of this node,
   which adopts the lease. An end by time is safe: it comes no earlier than a TTL after the last
   keepalive, and all deadlines count from that. Should the node be well again before, it keeps the
   lease again, and has lost nothing.
4. What is to move to another node, and cannot be released, stays where it is.

A write that was refused for want of space may be done all the same: a member that notices while it
applies a write carries it out, and answers so. But it is done by then, or never. So marks that it
was to release count as neither ours nor gone (`unsettled` in yaim/core/state/write.py) until the
next read, which is asked for after the answer; no longer, unlike those of a write that was not
answered.

A restart meanwhile finds in etcd either its own advertisement, whose lease it adopts, and which it
has to write anew before it adds anything; or none, and then it waits for a new lease.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from yaim.core.actions import Write, only_deletes
from yaim.core.model import Node, PoolEntry


@dataclass(frozen=True, slots=True)
class Full:
    """etcd has refused a write for want of space (its alarm NOSPACE)."""

    is_deletion_refused: bool
    """It has refused also what only deletes, as old versions do."""


def after_refusal(before: Full | None, write: Write) -> Full:
    return Full(only_deletes(write) or refuses_deletions(before))


def takes_deletions(full: Full | None) -> bool:
    """Whether etcd takes deletions and nothing else that needs space."""
    return full is not None and not full.is_deletion_refused


def refuses_deletions(full: Full | None) -> bool:
    return full is not None and full.is_deletion_refused


def can_hold_any(node: Node, pool: Iterable[PoolEntry]) -> bool:
    return any(map(node.can_hold, pool))
