"""A timeline as a picture that needs nothing else: SVG 1.1, one row an address, one colour a node.

Surely held is a full bar, possibly held a thin one, muted on the interface a thin empty one; below
the bars of a row, what nobody held and what two held; behind them, of what not all records tell.
Draws; judges nothing.
"""

from collections.abc import Sequence
from html import escape

from yaim_helper.tools.coverage import Interval
from yaim_helper.tools.records import Micros, instant, printable
from yaim_helper.tools.timeline import OfAddress

WIDTH, LEFT, RIGHT = 1200, 330, 20
TOP, ROW, BAR, THIN = 70, 34, 14, 4
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f6000", "#777777")
"""Told apart also by those who see colours differently (Okabe and Ito); then from the start."""
OVERLAP, UNCOVERED, UNTOLD, EMPTY = "#d00000", "#000000", "#e4e4e4", "#ffffff"
MUTED = "muted on the interface"
_STEPS_S = (1e-3, 1e-2, 1e-1, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200)
_DAY_S = 86400
MOST_TICKS = 8


def picture(rows: Sequence[OfAddress], limits: Interval, verdict: str) -> str:
    nodes = sorted({held.node for row in rows for held in row.intervals})
    colours = {node: COLOURS[i % len(COLOURS)] for i, node in enumerate(nodes)}
    height = TOP + ROW * len(rows) + 40
    scale = _Scale(limits)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title desc"'
        ' font-family="sans-serif" font-size="12">',
        f'<title id="title">{_text(f"Who held which address: {verdict}")}</title>',
        f'<desc id="desc">{_text(_described(rows, limits))}</desc>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="20" font-size="14">{_text(verdict)}</text>',
        *_legend(colours),
        *_axis(scale, height),
    ]
    for number, row in enumerate(rows):
        parts += _row(row, TOP + ROW * number, scale, colours)
    return "\n".join((*parts, "</svg>", ""))


class _Scale:
    def __init__(self, limits: Interval) -> None:
        self.first, self.last = limits
        self._width = WIDTH - LEFT - RIGHT

    def x(self, at: Micros) -> float:
        return LEFT + self._width * (at - self.first) / max(1, self.last - self.first)

    def ticks(self) -> list[Micros]:
        """Returns at most MOST_TICKS round instants."""
        length_s = (self.last - self.first) / 1e6
        days = max(1, round(length_s / _DAY_S / MOST_TICKS + 0.5))
        step_s = next((s for s in _STEPS_S if length_s / s < MOST_TICKS), days * _DAY_S)
        step = round(step_s * 1e6)
        return list(range(-(-self.first // step) * step, self.last + 1, step))


def _row(row: OfAddress, top: int, scale: _Scale, colours: dict[str, str]) -> list[str]:
    parts = [f'<text x="10" y="{top + 13}">{_text(row.address)}</text>']
    parts += [
        _bar(scale, each, top - 4, ROW - 6, UNTOLD, f"not told by all records {_told(each)}")
        for each in row.untold
    ]
    for held in row.intervals:
        colour = colours[held.node]
        told = f"{held.node} possibly {_told(held.possible)}; {held.ended}"
        thin = top + (BAR - THIN) / 2
        if held.possible[0] < held.possible[1]:
            parts.append(_bar(scale, held.possible, thin, THIN, colour, told))
        parts += [
            _bar(scale, sure, top, BAR, colour, f"{held.node} {_told(sure)}") for sure in held.sure
        ]
        if held.muted is not None:
            told = f"{held.node} {MUTED} {_told(held.muted)}; {held.ended}"
            parts.append(_bar(scale, held.muted, thin, THIN, colour, told, is_empty=True))
    below = top + BAR + 2
    for colour, what, times in (
        (UNCOVERED, "nobody", row.uncovered),
        (OVERLAP, "two", row.overlap),
    ):
        for intervals, height, how in ((times.possible, 2, "possibly "), (times.sure, 8, "")):
            parts += [
                _bar(scale, each, below, height, colour, f"{how}{what} {_told(each)}")
                for each in intervals
            ]
    return parts


def _bar(
    scale: _Scale,
    interval: Interval,
    top: float,
    height: float,
    colour: str,
    told: str,
    *,
    is_empty: bool = False,
) -> str:
    """Returns a bar that is at least so wide that it can be seen."""
    x = scale.x(interval[0])
    width = max(0.5, scale.x(interval[1]) - x)
    return (
        f'<rect x="{x:.2f}" y="{top:g}" width="{width:.2f}" height="{height:g}"'
        f" {_fill(colour, is_empty=is_empty)}>"
        f"<title>{_text(told)}</title></rect>"
    )


def _fill(colour: str, *, is_empty: bool) -> str:
    return f'fill="{EMPTY}" stroke="{colour}"' if is_empty else f'fill="{colour}"'


def _legend(colours: dict[str, str]) -> list[str]:
    parts = []
    marks = {**colours, "two nodes": OVERLAP, "no node": UNCOVERED, "not told": UNTOLD}
    marks[MUTED] = UNCOVERED
    width = (WIDTH - 20) / len(marks)
    for number, (name, colour) in enumerate(marks.items()):
        x = 10 + number * width
        parts += [
            f'<rect x="{x:.1f}" y="30" width="10" height="10"'
            f" {_fill(colour, is_empty=name == MUTED)}/>",
            f'<text x="{x + 14:.1f}" y="39">{_text(name)}</text>',
        ]
    return parts


def _axis(scale: _Scale, height: int) -> list[str]:
    parts = []
    for at in scale.ticks():
        x, label = scale.x(at), instant(at)
        shown = label[5:16].replace("T", " ") if at % 60_000_000 == 0 else label[11:23]
        parts += [
            f'<line x1="{x:.2f}" y1="55" x2="{x:.2f}" y2="{height - 30}" stroke="#dddddd"/>',
            f'<text x="{x:.2f}" y="{height - 14}" text-anchor="middle">{shown}</text>',
        ]
    return parts


def _described(rows: Sequence[OfAddress], limits: Interval) -> str:
    told = [
        f"{row.address}: {len(row.intervals)} intervals,"
        f" two nodes for {row.overlap.sure_us / 1e6:.3f} s"
        f" and possibly {row.overlap.possible_us / 1e6:.3f} s more, no node for"
        f" {row.uncovered.sure_us / 1e6:.3f} s and possibly"
        f" {row.uncovered.possible_us / 1e6:.3f} s more, not told by all records"
        f" {sum(b - a for a, b in row.untold) / 1e6:.3f} s, muted on an interface beside another"
        f" node for {row.longest_muted_us / 1e6:.3f} s at most."
        for row in rows
    ]
    return " ".join((f"{_told(limits)}, UTC.", *told))


def _told(interval: Interval) -> str:
    return f"from {instant(interval[0])} to {instant(interval[1])}"


def _text(text: str) -> str:
    return escape(printable(text))
