"""What is to be said of a lab to which much has happened, from what was seen and what was done.

Pure: records in, figures out. Times are seconds of CLOCK_MONOTONIC.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from yaim.core.model import Address
from yaim.lab.record import Change, Interval
from yaim.lab.spans import Span, both, length_s, union, without

UNATTRIBUTED = "none (unattributed)"
"""The kind of the fault of a gap that no fault explains: an address that was moved, say."""


@dataclass(frozen=True, slots=True)
class Incident:
    """A fault that has happened."""

    kind: str
    start: float
    end: float
    nodes: frozenset[str] = frozenset()
    """The nodes to which it happened."""
    is_of_etcd: bool = False
    address: Address | None = None
    """The only one that it concerns, wherever that is."""
    disturbs_until: float | None = None
    """The time until which its nodes, or etcd, cannot be expected to do their work; None: they
    can."""

    @property
    def stops_everything(self) -> bool:
        """Whether nobody can be expected to hold anything as long as it lasts."""
        return self.disturbs_until == self.end and (self.is_of_etcd or len(self.nodes) > 1)

    def concerns(self, address: Address, holders: Set[str]) -> bool:
        if self.address is not None:
            return self.address == address
        return self.is_of_etcd or bool(holders & self.nodes)


@dataclass(frozen=True, slots=True)
class Uncovered:
    """Seconds, summed over the addresses, that no node had them."""

    in_all_s: float
    while_expected_s: float
    """While some node could be expected to hold them: see `expected`."""
    beyond_bound_s: float
    """The same, without what is not `beyond`: this must not be."""


def expected(
    incidents: Sequence[Incident], nodes: Iterable[str], whole: Span, settle_s: float
) -> list[Span]:
    """When addresses could be expected to be held: some node and etcd have been undisturbed for at
    least `settle_s`."""

    def undisturbed(some: Iterable[Incident]) -> list[Span]:
        return without(
            whole,
            [(i.start, i.disturbs_until + settle_s) for i in some if i.disturbs_until is not None],
        )

    etcd = undisturbed(i for i in incidents if i.is_of_etcd)
    found: list[Span] = []
    for node in nodes:
        found += both(etcd, undisturbed(i for i in incidents if node in i.nodes))
    return union(found)


def uncovered(
    intervals: Iterable[Interval],
    incidents: Sequence[Incident],
    expected: list[Span],
    settle_s: float,
) -> Uncovered:
    """`intervals`: when each address was on no node."""
    in_all_s = while_expected_s = beyond_bound_s = 0.0
    for interval in intervals:
        in_all_s += interval.length_s
        while_expected_s += length_s(both([(interval.start, interval.end)], expected))
        beyond_bound_s += length_s(both(beyond(interval, incidents, settle_s), expected))
    return Uncovered(in_all_s, while_expected_s, beyond_bound_s)


def beyond(interval: Interval, incidents: Sequence[Incident], settle_s: float) -> list[Span]:
    """The part of an interval that comes after its first `settle_s`. A node that fails while nobody
    has the address may be the one whose turn it was to take it: then the others wait for the end of
    its lease, too, and the time begins anew, but once for each node."""
    start = interval.start + settle_s
    have_failed: set[str] = set()
    for each in sorted(incidents, key=lambda incident: incident.start):
        if each.disturbs_until is not None and interval.start < each.start < start:
            if each.nodes - have_failed:
                start = each.start + settle_s
            have_failed |= each.nodes
    return [(start, interval.end)] if start < interval.end else []


def is_beyond_bound(
    interval: Interval, incidents: Sequence[Incident], expected: list[Span], settle_s: float
) -> bool:
    return bool(both(beyond(interval, incidents, settle_s), expected))


def longest_gaps(
    gaps: Iterable[Interval],
    changes: Iterable[Change],
    incidents: Sequence[Incident],
    settle_s: float,
    slack_s: float,
) -> Mapping[str, Interval]:
    """The longest gap for each kind of fault. A gap that reaches into a fault of all is put down to
    that. Any other to a fault begun before it and not over for longer than `settle_s`, on etcd or
    on a node that had the address then or came to have it in the gap (and could not be reached): to
    the one that lasted longest in the gap, or else that began last.
    `slack_s`: how much sooner than its cause a gap may seem to begin, with its last answer."""
    history: dict[Address, list[Change]] = defaultdict(list)
    for change in changes:
        history[change.address].append(change)
    longest: dict[str, Interval] = {}
    for gap in gaps:
        kind = _kind_of(gap, history[gap.address], incidents, settle_s, slack_s)
        if kind not in longest or gap.length_s > longest[kind].length_s:
            longest[kind] = gap
    return longest


def _kind_of(
    gap: Interval,
    history: Sequence[Change],
    incidents: Iterable[Incident],
    settle_s: float,
    slack_s: float,
) -> str:
    of_all = [
        each
        for each in incidents
        if each.stops_everything and each.start < gap.end and gap.start < each.end
    ]
    if of_all:
        return max(of_all, key=lambda i: min(i.end, gap.end) - max(i.start, gap.start)).kind
    came_to_have_it = [change for change in history if change.is_there and change.at <= gap.end]
    before = [change.node for change in came_to_have_it if change.at <= gap.start][-1:]
    during = [change.node for change in came_to_have_it if change.at > gap.start]
    holders = {*before, *during}
    causes = [
        incident
        for incident in incidents
        if incident.start - slack_s <= gap.start <= incident.end + settle_s
        and incident.concerns(gap.address, holders)
    ]

    def share(cause: Incident) -> tuple[float, float]:
        until = cause.disturbs_until if cause.disturbs_until is not None else cause.start
        return max(0.0, min(until, gap.end) - max(cause.start, gap.start)), cause.start

    return max(causes, key=share).kind if causes else UNATTRIBUTED
