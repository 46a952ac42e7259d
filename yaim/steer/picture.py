"""`yaim history --svg`: who held what, over time. A lane for each address, with a bar for each
node that held it; with more than MOST_LANES addresses a lane for each node, with how many it held.

What the history does not tell (an event was lost, or is older than it reaches back) is not drawn.
Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.sax.saxutils import escape

from yaim.core.actions import Kind
from yaim.core.model import Address, NodeName, address_order
from yaim.dcs.operate import HistoryEvent
from yaim.steer.events import event_line
from yaim.text import printable

MOST_LANES = 50
_LABEL, _WIDTH, _LANE, _TOP = 150, 1000, 22, 40
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb5566", "#004488")
_OF_NODES = frozenset({Kind.HELD, Kind.RELEASED, Kind.HEALTHY, Kind.JOINED})
"""Kinds of events that are not marked by a line: what they say shows in the bars."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A node had an address, from one moment to another."""

    address: Address
    node: NodeName
    start: datetime
    end: datetime


def bars_of(
    events: Sequence[HistoryEvent],
    holders: Mapping[Address, NodeName],
    since: datetime,
    until: datetime,
) -> tuple[Bar, ...]:
    """`events` in order; `holders` at `until`."""
    has: dict[Address, tuple[NodeName, datetime]] = {}
    seen: set[Address] = set()
    bars: list[Bar] = []

    def end(address: Address, at: datetime) -> None:
        node, start = has.pop(address)
        if start < at:
            bars.append(Bar(address, node, start, at))

    for event in events:
        at = min(max(event.at, since), until)
        for address in event.addresses if event.kind == Kind.HELD else ():
            if address in has:
                end(address, at)
            if event.nodes:
                has[address] = event.nodes[0], at
            seen.add(address)
        for address in event.addresses if event.kind == Kind.RELEASED else ():
            if address not in seen and event.nodes:
                has[address] = event.nodes[0], since
            if address in has and event.nodes and has[address][0] == event.nodes[0]:
                end(address, at)
            seen.add(address)
        if event.kind in (Kind.LOST, Kind.STOPPED):
            for address in [a for a, (node, _) in has.items() if node in event.nodes]:
                end(address, at)
    for address, node in holders.items():
        if address not in seen:
            has[address] = node, since
    for address in list(has):
        end(address, until)
    return tuple(sorted(bars, key=lambda bar: (address_order(bar.address), bar.start)))


def picture(
    events: Sequence[HistoryEvent],
    holders: Mapping[Address, NodeName],
    since: datetime,
    until: datetime,
) -> str:
    """The SVG."""
    bars = bars_of(events, holders, since, until)
    addresses = sorted({bar.address for bar in bars}, key=address_order)
    nodes = sorted({bar.node for bar in bars})
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(nodes)}
    x = _Scale(since, until)
    if len(addresses) <= MOST_LANES:
        lanes = [str(address) for address in addresses]
        drawn = _lanes_of_addresses(bars, addresses, colours, x)
    else:
        lanes = [str(name) for name in nodes]
        drawn = _lanes_of_nodes(bars, nodes, colours, x)
    height = _TOP + _LANE * max(len(lanes), 1) + 50
    marks = [_mark(event, x, height) for event in events if event.kind not in _OF_NODES]
    labels = [
        f'<text x="{_LABEL - 8}" y="{_TOP + _LANE * n + 15}" text-anchor="end">{_safe(lane)}</text>'
        for n, lane in enumerate(lanes)
    ]
    legend = [
        f'<rect x="{_LABEL + 120 * n}" y="{height - 22}" width="12" height="12"'
        f' fill="{colours[name]}"/>'
        f'<text x="{_LABEL + 120 * n + 18}" y="{height - 12}">{_safe(name[:14])}</text>'
        for n, name in enumerate(nodes[:8])
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABEL + _WIDTH + 20}"'
            f' height="{height}" font-family="sans-serif" font-size="12">',
            f"<title>Who held what, {since:%Y-%m-%d %H:%M:%S} to {until:%Y-%m-%d %H:%M:%S} UTC"
            "</title>",
            '<rect width="100%" height="100%" fill="white"/>',
            *_axis(x, height),
            *labels,
            *drawn,
            *marks,
            *legend,
            "</svg>",
            "",
        ]
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    since: datetime
    until: datetime

    def at(self, moment: datetime) -> float:
        whole = max((self.until - self.since).total_seconds(), 1e-6)
        part = min(max((moment - self.since).total_seconds() / whole, 0.0), 1.0)
        return round(_LABEL + _WIDTH * part, 1)


def _axis(x: _Scale, height: int) -> list[str]:
    lines = []
    for number in range(6):
        at = x.since + (x.until - x.since) * number / 5
        lines.append(
            f'<line x1="{x.at(at)}" y1="{_TOP - 6}" x2="{x.at(at)}" y2="{height - 30}"'
            ' stroke="#dddddd"/>'
            f'<text x="{x.at(at)}" y="{_TOP - 14}" text-anchor="middle">'
            f"{at.astimezone(UTC):%m-%d %H:%M:%S}</text>"
        )
    return lines


def _lanes_of_addresses(
    bars: Iterable[Bar], addresses: Sequence[Address], colours: Mapping[NodeName, str], x: _Scale
) -> list[str]:
    lane = {address: number for number, address in enumerate(addresses)}
    return [
        f'<rect x="{x.at(bar.start)}" y="{_TOP + _LANE * lane[bar.address] + 3}"'
        f' width="{max(x.at(bar.end) - x.at(bar.start), 0.5):.1f}" height="{_LANE - 6}"'
        f' fill="{colours[bar.node]}"><title>{bar.address} on {_safe(bar.node)},'
        f" {bar.start:%H:%M:%S} to {bar.end:%H:%M:%S}</title></rect>"
        for bar in bars
    ]


def _lanes_of_nodes(
    bars: Sequence[Bar], nodes: Sequence[NodeName], colours: Mapping[NodeName, str], x: _Scale
) -> list[str]:
    drawn = []
    steps = {name: _counts(bar for bar in bars if bar.node == name) for name in nodes}
    most = max((count for each in steps.values() for _, count in each), default=1) or 1
    for number, name in enumerate(nodes):
        base = _TOP + _LANE * number + _LANE - 3
        for (start, count), (end, _) in zip(steps[name], steps[name][1:], strict=False):
            high = (_LANE - 6) * count / most
            if high and end > start:
                drawn.append(
                    f'<rect x="{x.at(start)}" y="{base - high:.1f}"'
                    f' width="{max(x.at(end) - x.at(start), 0.5):.1f}" height="{high:.1f}"'
                    f' fill="{colours[name]}"><title>{_safe(name)}: {count} addresses,'
                    f" {start:%H:%M:%S} to {end:%H:%M:%S}</title></rect>"
                )
    return drawn


def _counts(bars: Iterable[Bar]) -> list[tuple[datetime, int]]:
    """How many addresses a node had from each of these moments on."""
    changes: dict[datetime, int] = {}
    for bar in bars:
        changes[bar.start] = changes.get(bar.start, 0) + 1
        changes[bar.end] = changes.get(bar.end, 0) - 1
    count, steps = 0, []
    for at in sorted(changes):
        count += changes[at]
        steps.append((at, count))
    return steps


def _mark(event: HistoryEvent, x: _Scale, height: int) -> str:
    colour = "#cc3311" if event.kind in (Kind.LOST, Kind.UNHEALTHY) else "#555555"
    at = x.at(event.at)
    return (
        f'<line x1="{at}" y1="{_TOP - 4}" x2="{at}" y2="{height - 30}" stroke="{colour}"'
        f' stroke-dasharray="3,3"><title>{_safe(event_line(event))}</title></line>'
    )


def _safe(text: str) -> str:
    return escape(printable(text, None), {'"': "&quot;"})
