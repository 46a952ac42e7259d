"""Tables for terminals."""

from collections.abc import Sequence

from yaim.printable import shortened

MOST, MOST_LAST = 200, 2000
"""Characters of a cell, and of one in the last column, which makes no other row wider."""


def columns(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines, as wide as each column needs."""
    if not rows:
        rows = [("(none)",) + ("",) * (len(header) - 1)]
    last = len(header) - 1
    rows = [
        tuple(
            shortened(cell, MOST if column < last else MOST_LAST) for column, cell in enumerate(row)
        )
        for row in rows
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
