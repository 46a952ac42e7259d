"""What the observer saw, and what follows from it: who held what, overlaps and gaps.

An address may lie on an interface and be *muted*: the node does not answer for it, although it
answers for its own address. Times are seconds of CLOCK_MONOTONIC.
"""

from array import array
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from yaim.core.model import Address
from yaim.lab import wire
from yaim.lab.spans import Span, both, union, without
from yaim.lab.wire import Run

QUIET_S = 0.25
"""An address is muted if its node does not answer for it for so long at least."""
QUIET_PROBES = 4
"""And to so many probes in a row."""


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

    def __init__(
        self,
        file: Path,
        addresses: frozenset[Address],
        own_addresses: Mapping[str, Address] | None = None,
        probed_every_s: float = 0.0,
    ) -> None:
        """`addresses`: those that are followed. Others are not; but of the nodes' own it follows
        whether they answer on the wire. None: nobody asks on the wire. `probed_every_s`: the time
        between two probes of an address."""
        self._file = file.open()
        self._own = own_addresses or {}
        self._quiet_s = max(QUIET_S, QUIET_PROBES * probed_every_s)
        self._runs: dict[tuple[str, Address], dict[float, Run]] = defaultdict(dict)
        """Of each node and address the runs, by their beginning."""
        self._came_at: dict[tuple[str, Address], float] = {}
        self._foreign: dict[tuple[str, Address], list[Span]] = defaultdict(list)
        """The last one lasts for ever until its end is told."""
        self.answers_told_until = 0.0
        """All answers on the wire that came until then have been read."""
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
            elif kind == "p":
                self.answers_told_until = at
            elif kind == "w":
                self._note_run(words[0], words[1], int(words[2]) / 1e9, at)
            elif kind == "r":
                insort(self._answered[self._addresses[words[0]]], at)
            elif words[1] not in self._addresses:
                pass
            elif kind in ("f", "g"):
                self._note_foreign(words[0], self._addresses[words[1]], at, kind == "f")
            else:
                self._note(Change(at, words[0], self._addresses[words[1]], kind == "a"))

    def _note(self, change: Change) -> None:
        """Takes in a line. A new lifetime is told like a new address; only changes count."""
        key = change.node, change.address
        if self._is_there.get(key, False) is not change.is_there:
            self._is_there[key] = change.is_there
            self._came_at[key] = change.at
            self.changes.append(change)

    def _note_run(self, node: str, text: str, first_received: float, last_sent: float) -> None:
        address = self._addresses.get(text)
        own = self._own.get(node)
        if address is None and own is not None and text == str(own):
            address = own
        if address is not None:
            run = Run(node, address, first_received, last_sent)
            self._runs[node, address][first_received] = run

    def _note_foreign(self, node: str, address: Address, at: float, is_there: bool) -> None:
        spans = self._foreign[node, address]
        if is_there:
            spans.append((at, float("inf")))
        elif spans:
            spans[-1] = spans[-1][0], at

    def holders(self) -> dict[Address, list[str]]:
        """The nodes that have each address on an interface now."""
        found: dict[Address, list[str]] = defaultdict(list)
        for (node, address), is_there in self._is_there.items():
            if is_there:
                found[address].append(node)
        return found

    def answering_holders(self) -> dict[Address, list[str]]:
        """The same, without nodes on which it is muted now."""
        found = {
            address: [node for node in nodes if not self._is_muted(node, address)]
            for address, nodes in self.holders().items()
        }
        return {address: nodes for address, nodes in found.items() if nodes}

    def _is_muted(self, node: str, address: Address) -> bool:
        """Whether it has not answered to the latest probes, while the node's own has."""
        quiet_since = self.answers_told_until - self._quiet_s
        own = self._own.get(node)
        return (
            own is not None
            and self._came_at[node, address] < quiet_since
            and self._last_answered(node, own) > quiet_since
            and self._last_answered(node, address) <= quiet_since
        )

    def _last_answered(self, node: str, address: Address) -> float:
        """When the last probe was sent that the node has answered; 0: it has answered none."""
        runs = self._runs.get((node, address), {})
        return next(reversed(runs.values())).last_sent if runs else 0.0

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

    def wire_overlap_s(self, pool: set[Address], since: float, until: float) -> float:
        """The seconds, summed over the addresses, that each was answered for by more nodes than
        one: see wire.py."""
        return sum(interval.length_s for interval in self.wire_overlaps(pool, since, until))

    def wire_overlaps(self, pool: set[Address], since: float, until: float) -> list[Interval]:
        """The times when more nodes than one answered for an address."""
        runs = [run for (_, a), each in self._runs.items() if a in pool for run in each.values()]
        found = wire.overlaps(runs, self._foreign)
        return [
            Interval(address, max(start, since), min(end, until))
            for address, spans in found.items()
            for start, end in spans
            if start < until and end > since
        ]

    def muted(self, pool: set[Address], since: float, until: float) -> list[Interval]:
        """The times when an address lay muted on a node: it was on an interface, and did not answer
        for QUIET_S at least, while the node's own address did. Two nodes count twice."""
        return [
            Interval(address, start, end)
            for address in sorted(pool, key=str)
            for node in self._own
            for start, end in self._muted(node, address, (since, until))
        ]

    def unanswered(self, pool: set[Address], since: float, until: float) -> list[Interval]:
        """The times when no node had an address, or it was muted where it was. What a node has that
        is cut off from the client is not muted: that cannot be seen."""
        found = []
        for address in sorted(pool, key=str):
            had: list[Span] = []
            for node in {change.node for change in self.changes}:
                had += self.unmuted(node, address, since, until)
            found += [Interval(address, *span) for span in without((since, until), had)]
        return found

    def unmuted(self, node: str, address: Address, since: float, until: float) -> list[Span]:
        """The times when the node had the address and it was not muted there, in order. What
        cannot be reached from the client counts as not muted."""
        whole = since, until
        muted = self._muted(node, address, whole)
        had = both(self._on_interface(node, address, until), [whole])
        return [part for span in had for part in without(span, muted)]

    def _muted(self, node: str, address: Address, whole: Span) -> list[Span]:
        own = self._own.get(node)
        if own is None:
            return []
        until = min(whole[1], self.answers_told_until)
        reached = union(self._answered_spans(node, own), bridging_s=self._quiet_s)
        might_answer = both(both(self._on_interface(node, address, until), reached), [whole])
        answered = self._answered_spans(node, address)
        silent = [part for span in might_answer for part in without(span, answered)]
        return [(start, end) for start, end in silent if end - start >= self._quiet_s]

    def _answered_spans(self, node: str, address: Address) -> list[Span]:
        runs = self._runs.get((node, address), {}).values()
        pairs = ((run.first_received, run.last_sent) for run in runs)
        return union((min(pair), max(pair)) for pair in pairs)

    def _on_interface(self, node: str, address: Address, until: float) -> list[Span]:
        """When the node had the address on an interface; what is there still, until then."""
        spans: list[Span] = []
        came_at: float | None = None
        for change in self.changes:
            if (change.node, change.address) != (node, address):
                continue
            if change.is_there:
                came_at = change.at
            elif came_at is not None:
                spans.append((came_at, change.at))
                came_at = None
        if came_at is not None and came_at < until:
            spans.append((came_at, until))
        return spans

    def overlap_s(self, pool: set[Address], since: float, until: float) -> float:
        """The seconds, summed over the addresses, that each was on interfaces of more nodes than
        one, muted or not."""
        return sum(interval.length_s for interval in self.overlaps(pool, since, until))

    def overlaps(self, pool: set[Address], since: float, until: float) -> list[Interval]:
        """The times when an address was on interfaces of more nodes than one."""
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
