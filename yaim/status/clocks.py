"""Whether the clocks of the hosts differ. Pure.

Each advertisement tells the time of its host when it was written, and etcd's revisions tell in
which order they were written. So of two advertisements the later one must not have the earlier
time, and none may have been written in the future.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from yaim.core.model import Node, NodeName

ALLOWED_S = 5.0
"""No decision counts on clocks; what is told of times would lead people astray."""


@dataclass(frozen=True, slots=True)
class Differs:
    """The clock of `ahead` is ahead of that of `behind`."""

    ahead: NodeName
    behind: NodeName | None
    """None: the host that asks."""
    by_s: float
    """By so much at least."""


def differing(nodes: Iterable[Node], now: datetime) -> Iterator[Differs]:
    """The nodes whose clocks are ahead of this host's, and then those that are behind one that has
    written before them; each node once at most."""
    told = [
        (node.revision, node.name, node.written_at) for node in nodes if node.written_at is not None
    ]
    latest: tuple[float, NodeName] | None = None
    future = {name for _, name, at in told if at - now.timestamp() > ALLOWED_S}
    for _, name, at in sorted(told):
        if name in future:
            yield Differs(name, None, at - now.timestamp())
        elif latest is not None and latest[0] - at > ALLOWED_S:
            yield Differs(latest[1], name, latest[0] - at)
        elif latest is None or at > latest[0]:
            latest = at, name
