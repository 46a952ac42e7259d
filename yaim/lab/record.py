"""What the observer saw, and what follows from it: who held what, overlaps and gaps.

Times are seconds of CLOCK_MONOTONIC.
"""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from yaim.core.model import Address


@dataclass(frozen=True, slots=True)
class Change:
    """An address appeared on a node or disappeared from it."""

    at: float
    node: str
    address: Address
    is_there: bool


class Record:
    """Follows the observer's file as it grows."""

    def __init__(self, file: Path, addresses: frozenset[Address]) -> None:
        """Other addresses, the nodes' own, are not followed."""
        self._file = file.open()
        self._addresses = addresses
        self._rest = ""
        self._sent: list[float] = []
        self._answered: dict[Address, list[float]] = defaultdict(list)
        self._is_there: dict[tuple[str, Address], bool] = {}
        self.changes: list[Change] = []

    def update(self) -> None:
        """Read what has been written since."""
        text = self._rest + self._file.read()
        lines = text.split("\n")
        self._rest = lines.pop()
        for line in lines:
            kind, *words, nanoseconds = line.split()
            at = int(nanoseconds) / 1e9
            if kind == "t":
                self._sent.append(at)
            elif kind == "r":
                self._answered[ip_address(words[0])].append(at)
            else:
                self._note(Change(at, words[0], ip_address(words[1]), kind == "a"))

    def _note(self, change: Change) -> None:
        """A new lifetime is told like a new address; only changes count."""
        key = change.node, change.address
        if change.address not in self._addresses:
            return
        if self._is_there.get(key, False) is not change.is_there:
            self._is_there[key] = change.is_there
            self.changes.append(change)

    def holders(self) -> dict[Address, list[str]]:
        """Address to the nodes that have it on an interface now."""
        found: dict[Address, list[str]] = defaultdict(list)
        for (node, address), is_there in self._is_there.items():
            if is_there:
                found[address].append(node)
        return found

    def answering(self, addresses: tuple[Address, ...], within_s: float = 0.5) -> int:
        """How many of the addresses have answered a ping of late."""
        since = self.last_sent_at() - within_s
        return sum(
            bool(self._answered[address]) and self._answered[address][-1] >= since
            for address in addresses
        )

    def last_sent_at(self) -> float:
        return self._sent[-1] if self._sent else 0.0

    def overlap_s(self, pool: set[Address], since: float, until: float) -> float:
        """Seconds, summed over the addresses, that each was on more nodes than one."""
        total = 0.0
        holders: dict[Address, set[str]] = defaultdict(set)
        overlapping_since: dict[Address, float] = {}
        for change in self.changes:
            if change.address not in pool:
                continue
            here = holders[change.address]
            (here.add if change.is_there else here.discard)(change.node)
            if len(here) > 1:
                overlapping_since.setdefault(change.address, change.at)
            elif change.address in overlapping_since:
                start = overlapping_since.pop(change.address)
                total += max(0.0, min(change.at, until) - max(start, since))
        return total + sum(max(0.0, until - max(s, since)) for s in overlapping_since.values())

    def longest_gap_s(self, address: Address, since: float, until: float) -> float:
        """The longest time that the client got no answer: from the last ping that was answered to
        the next one, if pings in between were lost; 0 if none was. A gap counts if a ping of it
        was sent in the time asked about; without any answer at its end it lasts to the end. Of the
        very last ping the answer may be on its way: it does not count."""
        answered = sorted(self._answered[address])
        longest = 0.0
        start = bisect_left(self._sent, since)
        end = min(bisect_left(self._sent, until), len(self._sent) - 1)
        known = set(answered)
        for sent_at in self._sent[start:end]:
            if sent_at in known:
                continue
            after = bisect_left(answered, sent_at)
            gap_start = answered[after - 1] if after > 0 else since
            gap_end = answered[after] if after < len(answered) else until
            longest = max(longest, gap_end - gap_start)
        return longest

    def moves(self, pool: set[Address], since: float, until: float) -> int:
        """How many addresses appeared on a node."""
        return sum(
            change.is_there and change.address in pool and since <= change.at < until
            for change in self.changes
        )
