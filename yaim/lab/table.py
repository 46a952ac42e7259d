"""The lab as a table: the state of each node, what its kernel has, and what the client sees."""

import sys

from yaim.lab.cluster import Lab
from yaim.lab.node import LabNode


def lines(lab: Lab) -> list[str]:
    holders = lab.holders()
    rows = []
    for node in lab.nodes.values():
        held = [str(a) for a in sorted(holders, key=int) if node.name in holders[a]]
        rows.append(f"  {node.name:4} {state(node):14} {' '.join(held)}".rstrip())
    pinged = (*lab.plan.pool, *lab.plan.others)
    answering = lab.record.answering(pinged)
    rows.append(f"  client: {answering} addresses answer")
    return rows


def state(node: LabNode) -> str:
    """What has been done to a node, in two words; or how it is, as it says itself: a node that
    waits after it has failed again and again is not just running."""
    if not node.is_running:
        return "not running"
    if node.is_cut:
        return "cut off"
    if node.is_service_broken:
        return "service fails"
    return node.says() or "starting"


class Screen:
    """Draws the table again and again in the same place; without a terminal, when it changes."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._drawn: list[str] = []

    def say(self, text: str) -> None:
        """Shows a line that stays."""
        self._erase()
        print(text, flush=True)

    def draw(self, rows: list[str]) -> None:
        if rows == self._drawn:
            return
        self._erase()
        print("\n".join(rows), flush=True)
        self._drawn = rows

    def keep(self) -> None:
        """Lets what is drawn now stay, too."""
        self._drawn = []

    def _erase(self) -> None:
        if self._is_terminal and self._drawn:
            print(f"\x1b[{len(self._drawn)}F\x1b[J", end="")
        self._drawn = []
