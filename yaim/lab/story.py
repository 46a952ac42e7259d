"""`yaim lab run`: what happens to a cluster in a bad quarter of a minute, and what clients see."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from yaim.core.model import Address
from yaim.lab.cluster import Lab
from yaim.lab.namespaces import LabError
from yaim.lab.node import LabNode
from yaim.lab.plan import LabPlan, even_counts, pool_of
from yaim.lab.table import Screen, lines

SETTLE_WITHIN_S = 20.0
LOOK_AFTER_S = 1.0
"""How long the client goes on pinging before the next thing happens."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One thing that happens, and what the client saw of it."""

    text: str
    settled_s: float
    """How long it took until the addresses were where they belong."""
    moves: int
    gap_s: float | None
    """The longest time that an address did not answer; None where that means nothing."""
    overlap_s: float
    """What must not be: two nodes that answered for an address (Lab.overlap_s)."""
    muted_s: float
    """The seconds that addresses lay muted on an interface."""


class Story:
    def __init__(self, lab: Lab, screen: Screen) -> None:
        self._lab = lab
        self._screen = screen
        self._scenes: list[Scene] = []

    def play(self) -> None:
        """Plays all scenes. Raises LabError if the addresses do not get to where they belong."""
        lab = self._lab
        n1, n2, n3, *_ = lab.nodes.values()
        pool, joining = lab.plan.pool, lab.plan.others[0]
        self._screen.say(
            f"{len(lab.nodes)} nodes, {len(pool)} addresses, ttl {lab.plan.ttl_ms} ms;"
            f" a client pings each address every {lab.plan.ping_every_ms} ms"
        )

        def start_all() -> None:
            for node in lab.nodes.values():
                node.start()

        def all_but(node: LabNode) -> Collection[str]:
            return lab.nodes.keys() - {node.name}

        self._scene("all nodes start", start_all, pool, lab.nodes, gap=False)
        self._scene("n1's service fails", n1.break_service, pool, all_but(n1))
        self._scene("n1's service recovers", n1.mend_service, pool, lab.nodes)
        self._scene("n2 is killed with -9", n2.kill, pool, all_but(n2))
        self._scene("n2 is started again", n2.start, pool, lab.nodes)
        self._scene("n3 is cut off from everything", n3.cut, pool, all_but(n3))
        self._scene("n3 is connected again", n3.connect, pool, lab.nodes)
        self._scene(
            f"{joining} joins the pool",
            lambda: lab.put(joining),
            (*pool, joining),
            lab.nodes,
            gap=False,
        )
        leaving, *staying = (*pool, joining)
        self._scene(f"{leaving} leaves it", lambda: lab.delete(leaving), staying, lab.nodes)
        self._scene("n1 is stopped", n1.stop, staying, all_but(n1))

    def _scene(
        self,
        text: str,
        act: Callable[[], None],
        pool: Sequence[Address],
        holders: Collection[str],
        *,
        gap: bool = True,
    ) -> None:
        """Lets it happen, waits until exactly these nodes share these addresses, and looks on."""
        lab = self._lab
        self._screen.say(f"\n> {text}")
        since = time.monotonic()
        act()
        counts = even_counts(len(pool), len(holders), len(lab.nodes))
        while not (lab.is_held(pool, holders) and lab.counts() == counts):
            if time.monotonic() > since + SETTLE_WITHIN_S:
                raise LabError(f"after {SETTLE_WITHIN_S:g} s not everything is held\n{lab.logs()}")
            self._screen.draw(lines(lab))
            time.sleep(0.05)
        settled_s = time.monotonic() - since
        until = time.monotonic() + LOOK_AFTER_S
        while time.monotonic() < until:
            self._screen.draw(lines(lab))
            time.sleep(0.1)
        self._screen.keep()
        everything = {*lab.plan.pool, *lab.plan.others}
        overlap_s = lab.overlap_s(everything, since, until)
        self._scenes.append(
            Scene(
                text,
                settled_s,
                lab.record.moves(everything, since, until),
                max(lab.record.longest_gap_s(a, since, until) for a in pool) if gap else None,
                overlap_s,
                sum(span.length_s for span in lab.record.muted(everything, since, until)),
            )
        )

    def overlap_s(self) -> float:
        return sum(scene.overlap_s for scene in self._scenes)

    def _has_muted(self) -> bool:
        return any(scene.muted_s for scene in self._scenes)

    def table(self) -> list[str]:
        """`muted`: on an interface of a node that does not answer for it, in seconds, summed over
        the addresses; left out if nothing was."""
        head = (
            *("what happened", "settled after", "addresses moved", "longest gap", "overlap"),
            *(("muted",) if self._has_muted() else ()),
        )
        rows = [head]
        for scene in self._scenes:
            gap = "-" if scene.gap_s is None else f"{scene.gap_s * 1000:.0f} ms"
            rows.append(
                (
                    scene.text,
                    f"{scene.settled_s:.2f} s",
                    str(scene.moves),
                    gap,
                    f"{scene.overlap_s:.1f} s",
                    *((f"{scene.muted_s:.1f} s",) if self._has_muted() else ()),
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        return [
            "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]


def play(nodes: int, addresses: int) -> int:
    """Plays the story and shows it. Returns the exit status."""
    *pool, joining = pool_of(addresses + 1)
    screen = Screen()
    screen.say("building the lab: a bridge, etcd, network namespaces ...")
    with Lab(LabPlan(nodes=nodes, pool=tuple(pool), others=(joining,))) as lab:
        story = Story(lab, screen)
        story.play()
        screen.say("\nWhat the client saw:\n")
        for row in story.table():
            screen.say(f"  {row}")
        overlap_s = story.overlap_s()
        if overlap_s:
            screen.say(f"\nAddresses were on two nodes at once: overlap {overlap_s:.3f} s!")
        else:
            screen.say("\nNo two nodes answered for an address at once.")
    return 1 if overlap_s else 0
