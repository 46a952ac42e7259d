"""Virtual time: what is to happen, in order, and the story of what has happened."""

import heapq
from collections.abc import Callable
from ipaddress import IPv4Address

from yaim.core.model import Address

HEARD_WITHIN_S = 15.0
"""What stands in etcd every coordinator that takes addresses has seen after this long: it reads all
every 5 s, and the network may lose some of that."""


class Timeline:
    """Nothing happens but what was put here with `later`, and never two things at once."""

    def __init__(self, *, is_told: bool) -> None:
        self.now = 0.0
        self.is_told = is_told
        """Whether the story is written down. Making its words costs time: ask before."""
        self.story: list[tuple[float, str, str]] = []
        """When, who, what."""
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    def later(self, seconds: float, what: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + max(seconds, 0.0), self._count, what))

    def run(self, until: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, what = heapq.heappop(queue)
            what()
        self.now = until

    def tell(self, who: str, what: str) -> None:
        if self.is_told:
            self.story.append((self.now, who, what))


class _Address(IPv4Address):
    """An address that remembers its hash: that of ipaddress is made of text, each time anew."""

    __slots__ = ("_hash",)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


_ADDRESSES = tuple(_Address(f"192.0.2.{number}") for number in range(256))


def address(number: int) -> Address:
    """Always the same object for the same number."""
    return _ADDRESSES[number]
