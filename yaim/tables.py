"""Tables for terminals."""

from collections.abc import Sequence


def columns(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines, as wide as each column needs."""
    if not rows:
        rows = [("(none)",) + ("",) * (len(header) - 1)]
    rows = [tuple(_printable(cell) for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def _printable(text: str) -> str:
    """What comes from elsewhere may be anything, also what a terminal takes for commands."""
    return "".join(character if character.isprintable() else "?" for character in text)
