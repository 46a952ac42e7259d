"""What the observer saw, and what follows from it: who held what, overlaps and gaps.

Times are seconds of CLOCK_MONOTONIC.
"""

from array import array
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from yaim.core.model import Address


@dataclass(frozen=True, slots=True)
class Change:
    """An address appeared on a node or disappeared from it."""

    at: float
    node: str
    address: Address
    is_there: bool


@dataclass(frozen=True, slots=True)
class Interval:
    """A time during which something was so with an address."""

    address: Address
    start: float
    end: float

    @property
    def length_s(self) -> float:
        return self.end - self.start


class Record:
    """Follows the observer's file as it grows."""

    def __init__(self, file: Path, addresses: frozenset[Address]) -> None:
        """`addresses`: those that are followed. Others, the nodes' own, are not."""
        self._file = file.open()
        self._addresses = {str(address): address for address in addresses}
        self._rest = ""
        self._sent = array("d")
        self._answered = {address: array("d") for address in addresses}
        """When the pings that were answered were sent, in order."""
        self._is_there: dict[tuple[str, Address], bool] = {}
        self.changes: list[Change] = []

    def update(self) -> None:
        """Reads what has been written since the last time."""
        text = self._rest + self._file.read()
        lines = text.split("\n")
        self._rest = lines.pop()
        for line in lines:
            kind, *words, nanoseconds = line.split()
            at = int(nanoseconds) / 1e9
            if kind == "t":
                self._sent.append(at)
            elif kind == "r":
                insort(self._answered[self._addresses[words[0]]], at)
            elif words[1] in self._addresses:
                self._note(Change(at, words[0], self._addresses[words[1]], kind == "a"))

    def _note(self, change: Change) -> None:
        """Takes in a line. A new lifetime is told like a new address; only changes count."""
        key = change.node, change.address
        if self._is_there.get(key, False) is not change.is_there:
            self._is_there[key] = change.is_there
            self.changes.append(change)

    def holders(self) -> dict[Address, list[str]]:
        """The nodes that have each address on an interface now."""
        found: dict[Address, list[str]] = defaultdict(list)
        for (node, address), is_there in self._is_there.items():
            if is_there:
                found[address].append(node)
        return found

    def answering(self, addresses: tuple[Address, ...], within_s: float = 0.5) -> int:
        """How many of the addresses have answered a recent ping."""
        since = self.last_sent_at() - within_s
        return sum(self.has_answered(address, since) for address in addresses)

    def has_answered(self, address: Address, since: float) -> bool:
        """Whether the address has answered a ping that was sent since then."""
        answered = self._answered[address]
        return bool(answered) and answered[-1] >= since

    def last_sent_at(self) -> float:
        return self._sent[-1] if self._sent else 0.0

    def silences(self, at_least_s: float, since: float, until: float) -> list[tuple[float, float]]:
        """The times when no ping was sent for so long: the machine had no time for the client
        either."""
        start, end = bisect_left(self._sent, since), bisect_left(self._sent, until)
        pairs = zip(self._sent[start:end], self._sent[start + 1 : end], strict=False)
        return [(sent, later) for sent, later in pairs if later - sent >= at_least_s]

    def overlap_s(self, pool: set[Address], since: float, until: float) -> float:
        """The seconds, summed over the addresses, that each was on more nodes than one."""
        return sum(interval.length_s for interval in self.overlaps(pool, since, until))

    def overlaps(self, pool: set[Address], since: float, until: float) -> list[Interval]:
        """The times when an address was on more nodes than one."""
        return self._intervals(pool, since, until, lambda holders: holders > 1)

    def uncovered(self, pool: set[Address], since: float, until: float) -> list[Interval]:
        """The times when an address was on no node."""
        return self._intervals(pool, since, until, lambda holders: holders == 0)

    def _intervals(
        self, pool: set[Address], since: float, until: float, is_so: Callable[[int], bool]
    ) -> list[Interval]:
        """The times when the number of an address's holders was such; parts of no length are left
        out."""
        holders: dict[Address, set[str]] = {address: set() for address in pool}
        begun = dict.fromkeys(pool, 0.0) if is_so(0) else {}
        found = []

        def note_end(address: Address, at: float) -> None:
            start, end = max(begun.pop(address), since), min(at, until)
            if start < end:
                found.append(Interval(address, start, end))

        for change in self.changes:
            if change.address not in pool:
                continue
            here = holders[change.address]
            (here.add if change.is_there else here.discard)(change.node)
            if is_so(len(here)):
                begun.setdefault(change.address, change.at)
            elif change.address in begun:
                note_end(change.address, change.at)
        for address in list(begun):
            note_end(address, until)
        return found

    def longest_gap_s(self, address: Address, since: float, until: float) -> float:
        """The longest time that the client got no answer, 0 if it always did."""
        return max((gap.length_s for gap in self.gaps(address, since, until)), default=0.0)

    def gaps(self, address: Address, since: float, until: float) -> Iterator[Interval]:
        """The times when the client got no answer: from the last ping that was answered to the next
        one, if pings in between were lost. A gap counts if a ping of it was sent in the time asked
        about; without any answer at its end it lasts to the end. The very last ping does not count:
        its answer may be on its way."""
        answered: Sequence[float] = self._answered[address]
        at = bisect_left(self._sent, since)
        end = min(bisect_left(self._sent, until), len(self._sent) - 1)
        while at < end:
            sent_at = self._sent[at]
            after = bisect_left(answered, sent_at)
            if after < len(answered) and answered[after] == sent_at:
                at += 1
                continue
            gap_start = answered[after - 1] if after > 0 else since
            gap_end = answered[after] if after < len(answered) else until
            yield Interval(address, gap_start, gap_end)
            at = bisect_left(self._sent, gap_end, at + 1)

    def moves(self, pool: set[Address], since: float, until: float) -> int:
        """How many addresses appeared on a node."""
        return sum(
            change.is_there and change.address in pool and since <= change.at < until
            for change in self.changes
        )
