"""What the records of all nodes prove together: whether two nodes held an address, and for how
long no node did.

The verdict is about the time that the records of all nodes tell of, and says which that is. Reads
no files and prints nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address

from yaim_helper.tools.coverage import Interval, Intervals, Told, both, by_all, merged, without
from yaim_helper.tools.intervals import FOREVER, HeldInterval
from yaim_helper.tools.records import Micros, instant, printable
from yaim_helper.tools.show import Network, is_within
from yaim_helper.tools.timeline import OfAddress, of_address
from yaim_helper.tools.verify import Damage


class Verdict(IntEnum):
    """What timeline ends with; the least is the gravest."""

    OVERLAP = 20
    DAMAGED = 21
    NOT_PROVEN = 22
    UNCOVERED = 23


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody wants to know."""

    addresses: tuple[Network, ...]
    """Empty: about all addresses."""
    since: Micros | None
    until: Micros | None
    clock_error: Micros
    """How far the clocks of the nodes may be apart: what is no longer does not count."""
    max_uncovered: Micros | None
    """How long no node may hold an address, in all."""
    hosts: frozenset[str]
    """Hosts that are known to have records."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What the record of one node tells."""

    node: str
    """The name under which the output shows it."""
    host: str
    intervals: tuple[HeldInterval, ...]
    told: Told
    """The time that the record tells of."""
    last_at: Micros


@dataclass(frozen=True, slots=True)
class Found:
    """What the records prove."""

    rows: tuple[OfAddress, ...]
    limits: Interval
    nodes: tuple[NodeRecord, ...]
    told: Intervals
    """The times that the records of all nodes tell of, and which the verdict is about."""
    status: int
    verdict: str


def judged_records(
    nodes: Sequence[NodeRecord], limits: Interval, damage: Damage | None, question: Question
) -> Found:
    """Returns what the records of these nodes prove. `damage`: the gravest that was found in
    them."""
    of_addresses: dict[str, list[HeldInterval]] = {}
    for held in (held for each in nodes for held in each.intervals):
        if not question.addresses or is_within(held.address, question.addresses):
            of_addresses.setdefault(held.address, []).append(held)
    is_damaged = damage is not None and damage.is_grave
    absent = _absent(nodes, question)
    is_told = not is_damaged and not absent
    told = by_all([each.told.all for each in nodes]) if is_told else ()
    rows = []
    for address in sorted(of_addresses, key=_order):
        theirs = of_addresses[address]
        since = question.since
        first = min(each.possible[0] for each in theirs) if since is None else since
        if first < limits[1]:
            within = first, limits[1]
            its = by_all([_told_of(address, each) for each in nodes]) if is_told else ()
            rows.append(of_address(address, theirs, within, question.clock_error, its))
    since = -FOREVER if question.since is None else question.since
    asked = both([(since, limits[1])], told)
    if is_damaged:
        why = Verdict.DAMAGED, "the records are damaged: nothing is proven"
    elif absent:
        why = Verdict.NOT_PROVEN, f"not proven: no record of {absent}, whose heads are known"
    elif (missing := _not_told(rows, told, question)) is not None:
        why = Verdict.NOT_PROVEN, f"not proven: not all records tell of the time {missing}"
    elif nodes and not asked:
        why = Verdict.NOT_PROVEN, "not proven: there is no time that all records tell of"
    else:
        why = None
    by = f"by the {_records(nodes)}, {spans(asked)}"
    status, verdict = _verdict(rows, why, by, question)
    return Found(tuple(rows), limits, tuple(nodes), asked, status, printable(verdict))


def _absent(nodes: Sequence[NodeRecord], question: Question) -> str:
    """Returns the hosts that are known to have records, which are not here."""
    return ", ".join(sorted(question.hosts - {each.host for each in nodes}))


def _told_of(address: str, node: NodeRecord) -> Intervals:
    """Returns the time of which a node's record tells whether it had this address."""
    return node.told.of(each.possible for each in node.intervals if each.address == address)


def _not_told(rows: Sequence[OfAddress], told: Intervals, question: Question) -> str | None:
    """Returns the time that was asked for and that the verdict cannot be about; None: there is
    none."""
    if not told or (question.since is None and question.until is None):
        return None
    since = told[0][0] if question.since is None else question.since
    until = told[-1][1] if question.until is None else question.until
    missing = without((since, until), told)
    if rows:
        missing = both(missing, merged(part for row in rows for part in row.untold))
    return spans(missing) or None


def _records(nodes: Sequence[NodeRecord]) -> str:
    *others, last = [each.node for each in nodes] or [""]
    return f"records of {', '.join(others)} and {last}" if others else f"record of {last}"


def spans(intervals: Intervals) -> str:
    return " and ".join(f"from {instant(a)} to {instant(b)}" for a, b in intervals)


def _order(address: str) -> tuple[int, int]:
    found = ip_address(address)
    return found.version, int(found)


def _verdict(
    rows: Sequence[OfAddress],
    why_not: tuple[Verdict, str] | None,
    by: str,
    question: Question,
) -> tuple[int, str]:
    """Returns the exit status, and the verdict in words."""

    def named(is_so: Callable[[OfAddress], object]) -> str:
        return ", ".join(row.address for row in rows if is_so(row))

    unknown = [
        str(network)
        for network in question.addresses
        if not any(is_within(row.address, (network,)) for row in rows)
    ]
    most = question.max_uncovered
    twice = named(lambda row: row.overlap.sure)
    maybe_twice = named(lambda row: row.overlap.possible)
    uncovered = named(
        lambda row: most is not None and row.uncovered.sure_us + row.uncovered.possible_us > most
    )
    error = question.clock_error
    within = f", to within the clocks' error of {seconds_of(error)}" if error else ""
    if twice:
        return Verdict.OVERLAP, f"two nodes held an address: {twice}"
    if why_not is not None and why_not[0] == Verdict.DAMAGED:
        return why_not
    if unknown:
        return Verdict.NOT_PROVEN, f"nothing is on record in that time about {', '.join(unknown)}"
    if not rows:
        return Verdict.NOT_PROVEN, "no address is on record in that time: nothing is proven"
    if why_not is not None:
        return why_not
    if maybe_twice:
        return Verdict.NOT_PROVEN, f"two nodes may have held an address: {maybe_twice}"
    if uncovered:
        return (
            Verdict.UNCOVERED,
            f"never two{within}, but uncovered for too long: {uncovered}; {by}",
        )
    always = f", and none uncovered for more than {seconds_of(most)}" if most is not None else ""
    return 0, f"proven: never two{always}{within}, {by}"


def seconds_of(micros: Micros) -> str:
    return f"{micros / 1e6:.6f} s"
