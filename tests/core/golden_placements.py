"""Placements as earlier code made them: what each version of the placement answers for ever.

`golden_placements.txt` has a line for each cluster and version: the name, the version, a checksum
of the cluster, and the holders of its addresses in order, each as a letter; "." is nobody.

    python -m tests.core.golden_placements VERSION >> tests/core/golden_placements.txt

adds those of a version: once, before the first release that has it.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from string import ascii_letters
from zlib import crc32

from tests.core.clusters import entries, excluding, node, random_cluster, view, windows
from yaim.core.model import (
    NO_CONTROL,
    ClusterView,
    Control,
    LeaseId,
    Move,
    Order,
    Pin,
    Weight,
    address_order,
)
from yaim.core.placement import place

FILE = Path(__file__).with_name("golden_placements.txt")


def clusters() -> Iterator[tuple[str, ClusterView]]:
    for seed in range(80):
        yield f"random-{seed}", random_cluster(Random(seed))
    for seed in range(60):
        yield f"odd-{seed}", odd(Random(seed))
    for seed in range(40):
        yield f"windows-{seed}", windows(seed, 3 + seed % 10, 40)
    for seed in range(3):
        yield f"large-windows-{seed}", windows(seed, 20, 300)
    nodes = [node(number) for number in range(20)]
    yield "one-holds-all", view(entries(200), nodes, lambda n: 0)
    yield "half-join", view(entries(200), nodes, lambda n: n % 10)
    yield "nobody-holds-any", view(entries(203), nodes)
    yield "each-excludes-three", view(excluding(200, 20, 3), nodes, lambda n: 0)
    yield "each-excludes-all-but-two", view(excluding(200, 20, 18), nodes, lambda n: 0)


def odd(chance: Random) -> ClusterView:
    """What random_cluster leaves out: what is present elsewhere, who takes nothing, marks of
    earlier lives, wrong entries, and entries that not all nodes understand."""
    seen = random_cluster(chance)
    present = {a: "eth9, /24" for a in seen.pool if chance.random() < 0.05}
    nodes = {
        name: replace(
            each,
            advertisement=replace(
                each.advertisement,
                present=present if chance.random() < 0.3 else {},
                takes=chance.random() > 0.2,
                schema=chance.choice((1, 2, 2)),
            ),
        )
        for name, each in seen.nodes.items()
    }
    pool = {
        a: replace(
            entry,
            fault="wrong" if chance.random() < 0.1 else "",
            schema=chance.choice((1, 1, 1, 2)),
        )
        for a, entry in seen.pool.items()
    }
    marks = {
        a: replace(mark, lease=LeaseId(99)) if chance.random() < 0.1 else mark
        for a, mark in seen.marks.items()
    }
    return replace(seen, pool=pool, nodes=nodes, marks=marks)


def of_version(seen: ClusterView, version: int) -> ClusterView:
    """The first node knows no later version than this."""
    name = min(seen.nodes)
    told = replace(seen.nodes[name].advertisement, placement=version)
    return replace(seen, nodes={**seen.nodes, name: replace(seen.nodes[name], advertisement=told)})


def steered(seen: ClusterView, chance: Random) -> ClusterView:
    """With what operators ask for, and helpers that have no room for more."""
    names = sorted(seen.nodes)
    is_asked, share = chance.random() < 0.7, len(seen.pool) // len(names)
    pinned = [a for a in sorted(seen.pool, key=address_order) if chance.random() < 0.2]
    control = Control(
        drains={name: Order() for name in names if chance.random() < 0.15},
        pause=Order() if chance.random() < 0.15 else None,
        pins={a: Pin(chance.choice(names)) for a in pinned},
        moves={a: Move(chance.choice(names)) for a in pinned[::7]},
        weights={name: Weight(chance.choice((1, 1, 2, 5, 100))) for name in names},
    )
    nodes = {
        name: replace(
            each,
            advertisement=replace(
                each.advertisement, capacity=chance.choice((None, None, share + 1, 2 * share))
            ),
        )
        for name, each in sorted(seen.nodes.items())
    }
    return replace(seen, nodes=nodes, control=control) if is_asked else seen


def line(name: str, seen: ClusterView, version: int) -> str:
    seen = of_version(seen, version)
    if version > 3:
        seen = steered(seen, Random(name))
    letters = dict(zip(sorted(seen.nodes), ascii_letters, strict=False))
    placed = place(seen.pool, seen.nodes, seen.marks, seen.control)
    holders = "".join(
        letters[placed[each]] if each in placed else "."
        for each in sorted(seen.pool, key=address_order)
    )
    return f"{name} {version} {checksum(seen):08x} {holders}"


def checksum(seen: ClusterView) -> int:
    """Of all that a placement looks at, so that another cluster is not taken for a wrong answer."""
    parts: list[object] = []
    for a, entry in sorted(seen.pool.items(), key=lambda each: address_order(each[0])):
        options = entry.interface, sorted(entry.exclude), sorted(entry.prefer), entry.fault
        mark = seen.marks.get(a)
        parts.append((str(a), options, entry.schema, mark and (mark.holder, mark.lease)))
    for name, each in sorted(seen.nodes.items()):
        told = each.advertisement
        networks = [(on, [str(n) for n in each]) for on, each in sorted(told.networks.items())]
        refused = sorted(map(str, told.refused))
        flags = told.is_healthy, told.interface, sorted(told.down), told.waits_s, told.takes
        present = sorted(map(str, told.present))
        parts.append((name, each.lease, networks, refused, flags, present, told.schema))
        parts += [] if told.capacity is None else [told.capacity]
    if seen.control is not NO_CONTROL:
        control = seen.control
        parts += [sorted(control.drains), control.pause is None]
        parts.append(sorted((str(a), each.node) for a, each in control.pins.items()))
        parts.append(sorted((str(a), each.node) for a, each in control.moves.items()))
        parts += [(name, each.weight) for name, each in sorted(control.weights.items())]
    return crc32(repr(parts).encode())


def main() -> None:
    for name, seen in clusters():
        sys.stdout.write(f"{line(name, seen, int(sys.argv[1]))}\n")


if __name__ == "__main__":
    main()
