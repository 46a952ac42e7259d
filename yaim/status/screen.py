"""Draws lines on a terminal in place: the next ones over the last ones.

Source: ECMA-48 (CUP, EL, ED, SGR). Decides nothing about what is shown.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import TextIO

_SGR = re.compile(r"(\x1b\[\d+m)")
_HOME, _TO_END_OF_LINE, _TO_END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def has_colours(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether colours may be written: on a terminal that has them, and unless NO_COLOR says no
    (no-color.org)."""
    is_wanted = not environment.get("NO_COLOR") and environment.get("TERM", "dumb") != "dumb"
    return is_wanted and stream.isatty()


def fitted(lines: Sequence[str], width: int, height: int) -> list[str]:
    """The lines, as far as there is room for them; the last one tells how many are left out."""
    shown = [_cut(line, width) for line in lines]
    if len(shown) <= height:
        return shown
    left_out = len(shown) - height + 1
    return [*shown[: height - 1], _cut(f"and {left_out} more lines", width)]


def _cut(line: str, width: int) -> str:
    """The colours of what is cut off stay: the one that ends the last is among them."""
    kept, left = "", width
    for part in _SGR.split(line):
        if _SGR.fullmatch(part):
            kept += part
        else:
            kept += part[:left]
            left -= len(part[:left])
    return kept


class Screen:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn: list[str] | None = None

    def draw(self, lines: Sequence[str]) -> None:
        """Draws nothing if the same is there already."""
        size = shutil.get_terminal_size()
        fit = fitted(lines, size.columns, max(size.lines - 1, 2))
        if fit == self._drawn:
            return
        self._drawn = fit
        text = "".join(f"{line}{_TO_END_OF_LINE}\n" for line in fit)
        self._stream.write(f"{_HOME}{text}{_TO_END_OF_SCREEN}")
        self._stream.flush()
