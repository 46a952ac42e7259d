"""Makes text that comes from outside fit to be shown: it goes to the log, to etcd and to
terminals."""

import shlex
from collections.abc import Sequence

MOST, MOST_LAST = 200, 2000
"""The most characters of a cell in a table, and of a cell in the last column, which makes no other
row wider."""


def printable(text: str, most: int | None = 160) -> str:
    """The text in one line, without anything that steers a terminal; at most so many characters of
    it."""
    text = text[:most]
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "?" for each in text)


def shortened(text: str, most: int) -> str:
    """The printable text. If it is longer, its end is left out, and dots tell so."""
    return printable(text, None) if len(text) <= most else f"{printable(text, most)}..."


def parsable(text: str) -> str:
    """The text with escapes for what is no character, such as a surrogate that stands alone:
    parsers of JSON refuse it (RFC 8259, 8.2)."""
    return text.encode(errors="backslashreplace").decode()


def printable_lines(text: str) -> str:
    """The text as printable() makes it, but with the ends of its lines."""
    return "\n".join(printable(line, None) for line in text.split("\n"))


def shell_word(text: str) -> str:
    """The text as a shell reads it, to be pasted; if something in it is not printable, in the form
    $'a\\x0ab' (bash(1), QUOTING). Surrogates stand for bytes that are not UTF-8 (PEP 383)."""
    if text.isprintable():
        return shlex.quote(text)
    plain = {byte: chr(byte) for byte in range(0x20, 0x7F) if chr(byte) not in "'\\"}
    escaped = (plain.get(byte, f"\\x{byte:02x}") for byte in text.encode(errors="surrogateescape"))
    return f"$'{''.join(escaped)}'"


def columns(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines of a table, with each column as wide as it needs."""
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
