"""Who answers for an address on the wire, and when two nodes do. Pure: what was seen in, what
follows out.

**What is seen.** A client probes each address again and again (prober.py). A probe is one frame
that reaches all nodes at once, and an answer bears the MAC address of the node that sent it. So of
each probe and each node it is known whether the node has answered it. The time at which it was sent
is taken before it is sent, and the time at which an answer was received after that: the node has
answered at some instant between the two.

**A run** is the answers of one node to probes of an address that come one after the other: a probe
in between that the node did not answer ends it. Between two answers of a run the node is taken to
have answered for the address all the time.

**Two nodes overlap** if a run of the one and a run of the other can not have been one after the
other: the last answered probe of each run was *sent* after the first answer of the other one was
*received*. This makes no false alarms. Whatever held an answer up (a queue, a client without a
processor) makes receptions later than they were, and never sendings; an answer that is lost splits
a run in two; and when an address goes to another node and comes back, each probe that the other one
answers splits the first one's runs. What it does not see is an overlap that no probe falls into:
with probes 20 ms apart, one that is shorter than that.

The length of an overlap is what is sure of it: from the later of the first receptions to the
earlier of the last sendings. One answer amid a run of another node lasts from its sending to its
reception.

Times are seconds of CLOCK_MONOTONIC.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from yaim.core.model import Address
from yaim.lab.spans import Span, union, without

FOREIGN_SLACK_S = 0.1
"""How much sooner and later than the kernel tells a copy that is not yaim's may answer."""


@dataclass(frozen=True, slots=True)
class Run:
    node: str
    address: Address
    first_received: float
    last_sent: float
    """Sooner than `first_received` if it is one answer: then it was given between the two."""


class Runs:
    """Makes runs of answers, as they come in."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, Address], tuple[int, Run]] = {}
        """The turn of the last answer of each node and address, and its run."""
        self._news: dict[tuple[str, Address, float], Run] = {}

    def note(self, node: str, address: Address, turn: int, sent: float, received: float) -> None:
        """Takes in an answer. `turn`: the probe's number among those of the address. One that is
        overtaken by the answer to a later probe counts as lost."""
        key = node, address
        last_turn, run = self._last.get(key, (0, None))
        if turn <= last_turn:
            return
        if run is None or turn > last_turn + 1:
            run = Run(node, address, received, sent)
        else:
            run = Run(node, address, run.first_received, sent)
        self._last[key] = turn, run
        self._news[node, address, run.first_received] = run

    def news(self) -> list[Run]:
        """The runs that have begun or become longer since the last time."""
        news = list(self._news.values())
        self._news.clear()
        return news


Foreign = Mapping[tuple[str, Address], Sequence[Span]]
"""When a node had a copy of an address that was not from yaim: what it answers then does not
count."""


def overlaps(runs: Iterable[Run], foreign: Foreign) -> dict[Address, list[Span]]:
    """When each address was answered for by more nodes than one; sorted and disjoint."""
    by_address: dict[Address, list[Run]] = defaultdict(list)
    for run in runs:
        by_address[run.address] += _of_yaim(run, foreign.get((run.node, run.address), ()))
    found = {address: union(_overlaps(each)) for address, each in by_address.items()}
    return {address: spans for address, spans in found.items() if spans}


def _overlaps(runs: list[Run]) -> Iterable[Span]:
    """`runs`: of one address."""
    open_runs: list[Run] = []
    for run in sorted(runs, key=_earliest):
        # What ended before this one began cannot overlap with it, nor with any later one.
        open_runs = [each for each in open_runs if _latest(each) >= _earliest(run)]
        for other in open_runs:
            if (
                other.node != run.node
                and other.last_sent >= run.first_received
                and run.last_sent >= other.first_received
            ):
                start = max(run.first_received, other.first_received)
                end = min(run.last_sent, other.last_sent)
                yield min(start, end), max(start, end)
        open_runs.append(run)


def _earliest(run: Run) -> float:
    return min(run.first_received, run.last_sent)


def _latest(run: Run) -> float:
    return max(run.first_received, run.last_sent)


def _of_yaim(run: Run, foreign: Sequence[Span]) -> list[Run]:
    """What of a run counts."""
    excused = [(start - FOREIGN_SLACK_S, end + FOREIGN_SLACK_S) for start, end in foreign]
    whole = _earliest(run), _latest(run)
    left = without(whole, excused)
    if left == [whole]:
        return [run]
    if run.first_received >= run.last_sent:
        return []  # its one answer may have been given in the part that does not count
    return [Run(run.node, run.address, start, end) for start, end in left]
