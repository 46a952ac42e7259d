"""What is to be told of a node, by all that tell of it: `yaim status`, `yaim doctor`, and the
coordinator itself to systemd and ps. Pure."""

import re
from collections import Counter
from collections.abc import Mapping

from yaim.core.model import Address, ClusterView, Member, Node, NodeName, PoolEntry, frozen_mapping

_MOST_ASKED = 20
"""For how many addresses it is told why a node cannot hold them."""
_MOST_WHYS = 3
_TOOK = re.compile(r"\s*\(\d+(\.\d+)? (ms|s)\)")


def stable(reason: str) -> str:
    """The reason without how long an attempt took: it stays the same as long as the node is as it
    is, and a number that does would seem to be the present one."""
    return _TOOK.sub("", reason)


def why_nothing(node: Node, pool: Mapping[Address, PoolEntry]) -> str:
    """Why the node can hold nothing of the pool; empty if it can hold something, or nothing that
    would be for it is there. It is not asked whether the node is healthy."""
    found: Counter[str] = Counter()
    for entry in pool.values():
        if entry.fault or node.name in entry.exclude:
            continue
        why = node.why_not(entry)
        if why is None or why == "unhealthy":
            return ""
        if sum(found.values()) < _MOST_ASKED:
            found[why] += 1
    return "; ".join(why for why, _ in found.most_common(_MOST_WHYS))


def missing(view: ClusterView) -> Mapping[NodeName, Member]:
    """The nodes that were there, were not stopped and are not there, by their names."""
    return frozen_mapping(
        {
            name: member
            for name, member in sorted(view.control.members.items())
            if not member.is_stopped and name not in view.nodes
        }
    )


def is_known(name: NodeName, view: ClusterView) -> bool:
    """Whether the node is there, or was."""
    return name in view.nodes or name in view.control.members
