"""Tables for terminals."""

from collections.abc import Sequence

from yaim.printable import printable


def columns(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines, as wide as each column needs."""
    if not rows:
        rows = [("(none)",) + ("",) * (len(header) - 1)]
    rows = [tuple(printable(cell, most=None) for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
