"""What large clusters cost: the figures of docs/operating.md.

    python -m bench.placement [--rounds 5] [--json FILE]

Processor time of the coordinator's thread: of the placement from several starts, and of whole steps
of a real core that is told of 1000 addresses. Then a lab with a real coordinator: how long it takes
from its start until all of so many addresses are held. Printed are the medians over the rounds,
with the least and the most. The exit status is 1 if a median misses its bound.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from random import Random
from time import thread_time

from bench.figures import machine
from yaim.core.actions import AddAddress, AdvertiseNode, ClaimMarks, RemoveAddress
from yaim.core.events import (
    AddressAdded,
    AddressRemoved,
    CheckAnswered,
    ClusterChanged,
    ClusterRead,
    Event,
    HelperReady,
    LeaseKept,
    MarksClaimed,
    NodeAdvertised,
)
from yaim.core.model import (
    Address,
    Advertisement,
    Boottime,
    ClusterView,
    Control,
    LeaseId,
    Mark,
    Network,
    Node,
    NodeName,
    Order,
    Pin,
    PoolEntry,
    Revision,
    Weight,
    frozen_mapping,
)
from yaim.core.placement import VERSION, place
from yaim.core.settings import Settings
from yaim.core.state.host import Host
from yaim.core.state.state import State
from yaim.core.step import Step, step
from yaim.dcs.etcd.keys import Keys, KeyValue, Reading
from yaim.lab.cluster import Lab
from yaim.lab.namespaces import LabError, enter_private_network
from yaim.lab.plan import LabPlan
from yaim.lab.wait import wait_until

SIZES = ((100, 10), (1000, 10), (1000, 50), (2000, 50))
"""Addresses and nodes. A helper holds 2000 addresses at most."""
TARGET = (1000, 50)
"""The size that bounds are for."""
PLACED_WITHIN_MS, KEPT_WITHIN_MS, STEPPED_WITHIN_MS = 50.0, 5.0, 50.0
LAB_SIZES = (100, 500, 1000)
HELD_WITHIN_S = 10.0
NETWORKS: tuple[Network, ...] = (ip_network("10.0.0.0/16"), ip_network("2001:db8::/64"))
FIRST_4, FIRST_6 = ip_address("10.0.0.1"), ip_address("2001:db8::1:0")
ME, LEASE = NodeName("n00"), LeaseId(1)
KEYS = Keys.of("service", "yaim")
Figures = defaultdict[tuple[str, str, float | None], list[float]]
"""Name, unit and bound to what was measured."""


def name(number: int) -> NodeName:
    return NodeName(f"n{number:02}")


def node(number: int, networks: tuple[Network, ...] = NETWORKS) -> Node:
    told = Advertisement(
        is_healthy=True,
        reason="",
        interface="eth0",
        networks=frozen_mapping({"eth0": networks}),
        refused=frozenset(),
        session="",
        version="",
        placement=VERSION,
    )
    return Node(name(number), told, LeaseId(number + 1), Revision(1))


def view(
    pool: Sequence[PoolEntry],
    nodes: Sequence[Node],
    holder: Callable[[int], int | None] = lambda _: None,
) -> ClusterView:
    """`holder`: of the nth address, as a node's number; one that there is not has left."""
    marks = {
        entry.address: Mark(entry.address, name(held), LeaseId(held + 1), Revision(1))
        for number, entry in enumerate(pool)
        if (held := holder(number)) is not None
    }
    return ClusterView(
        Revision(1),
        frozen_mapping({entry.address: entry for entry in pool}),
        frozen_mapping({each.name: each for each in nodes}),
        frozen_mapping(marks),
    )


def starts(addresses: int, nodes: int) -> Iterator[tuple[str, ClusterView]]:
    pool = [PoolEntry(FIRST_4 + number) for number in range(addresses)]
    present = [node(number) for number in range(nodes)]
    chance = Random(1)

    def restricted(excluded: int) -> list[PoolEntry]:
        drawn = (chance.sample(range(nodes), excluded) for _ in pool)
        return [
            PoolEntry(entry.address, exclude=frozenset(map(name, each)))
            for entry, each in zip(pool, drawn, strict=True)
        ]

    def in_a_row(number: int) -> frozenset[NodeName]:
        """But for two neighbours: half of the addresses are the first two nodes'."""
        first = number % (nodes - 1) if number % 2 else 0
        return frozenset(map(name, range(nodes))) - {name(first), name(first + 1)}

    yield "nothing changes", view(pool, present, lambda number: number % nodes)
    yield "one node holds all", view(pool, present, lambda _: 0)
    yield "half of the nodes join", view(pool, present, lambda number: number % (nodes // 2))
    yield "one node leaves", view(pool, present, lambda number: number % nodes or nodes)
    yield "nobody holds any", view(pool, present)
    few = min(3, nodes - 2)
    yield f"each excludes {few} nodes, one holds all", view(restricted(few), present, lambda _: 0)
    half = nodes // 2
    yield (
        "each excludes half of the nodes, any holder",
        view(restricted(half), present, lambda _: chance.randrange(nodes)),
    )
    yield (
        "each excludes all but two, any holder",
        view(restricted(nodes - 2), present, lambda _: chance.randrange(nodes)),
    )
    yield (
        "two families, half of the nodes have one",
        view(
            [PoolEntry((FIRST_4, FIRST_6)[n % 2] + n) for n in range(addresses)],
            [node(number, NETWORKS[: 1 + number % 2]) for number in range(nodes)],
            lambda _: 1,
        ),
    )
    yield (
        "only between neighbours in a row",
        view(
            [PoolEntry(entry.address, exclude=in_a_row(n)) for n, entry in enumerate(pool)],
            present,
            lambda number: number % (nodes - 1) if number % 2 else 0,
        ),
    )
    yield from steered_starts(pool, present)


def steered_starts(
    pool: Sequence[PoolEntry], present: Sequence[Node]
) -> Iterator[tuple[str, ClusterView]]:
    """What operators ask for, and helpers that have no room for more."""
    chance, nodes = Random(2), len(present)
    names = [each.name for each in present]
    shares = Control(weights={each: Weight(chance.randint(1, 100)) for each in names})
    level = view(pool, present, lambda number: number % nodes)
    yield "weights 1 to 100, one node holds all", steered(view(pool, present, lambda _: 0), shares)
    yield "weights 1 to 100, nobody holds any", steered(view(pool, present), shares)
    near = [
        PoolEntry(entry.address, exclude=frozenset(names) - set(chance.sample(names, 2)))
        for entry in pool
    ]
    anywhere = view(near, present, lambda _: chance.randrange(nodes))
    yield "weights 1 to 100, each excludes all but two", steered(anywhere, shares)
    drains = Control(drains=dict.fromkeys(names[: nodes // 5], Order()))
    yield "a fifth of the nodes is drained", steered(level, drains)
    pins = {entry.address: Pin(chance.choice(names)) for entry in pool if chance.random() < 0.5}
    yield "half of the addresses are pinned", steered(level, Control(pins=pins))
    crowded = [
        limited(each, len(pool) // nodes - number % 2) for number, each in enumerate(present)
    ]
    yield "no room for all, half are pinned", steered(view(pool, crowded), Control(pins=pins))


def steered(seen: ClusterView, control: Control) -> ClusterView:
    return replace(seen, control=control)


def limited(one: Node, capacity: int) -> Node:
    return replace(one, advertisement=replace(one.advertisement, capacity=capacity))


def measure_placements(figures: Figures) -> None:
    for addresses, nodes in SIZES:
        for start, seen in starts(addresses, nodes):
            began = thread_time()
            place(seen.pool, seen.nodes, seen.marks, seen.control)
            bound = KEPT_WITHIN_MS if start == "nothing changes" else PLACED_WITHIN_MS
            is_unbound = "in a row" in start or "no room" in start
            is_bound = (addresses, nodes) == TARGET and not is_unbound
            figure = f"{addresses} on {nodes}: {start}", "ms", bound if is_bound else None
            figures[figure].append((thread_time() - began) * 1000)


class Core:
    """A node that comes into a cluster; its steps are measured."""

    def __init__(self, figures: Figures, addresses: int, others: int) -> None:
        self._figures = figures
        self._size = f"{addresses} on {others + 1}"
        self._now = 1000.0
        settings = Settings(ME, "eth0", 32, 128, 5, 1.0, "1")
        self.state = State(settings, host=Host(own=frozen_mapping({})))
        pool = [PoolEntry(FIRST_4 + number) for number in range(addresses)]
        self.view = view(pool, [node(number) for number in range(1, others + 1)])

    def join(self) -> ClaimMarks:
        self.tell("")
        ready = HelperReady("", (("eth0", NETWORKS),), ())
        self.tell("", ready, CheckAnswered("service", True, "", Boottime(1e9)))
        self.tell("", ClusterRead(self.view), LeaseKept(LEASE, 5, Boottime(self._now)))
        advertise = self.state.writing.under_way
        assert isinstance(advertise, AdvertiseNode)
        revision = Revision(self.view.revision + 1)
        mine = Node(ME, advertise.advertisement, LEASE, revision)
        self.view = self.view.with_node(mine)
        self.tell("joins, and claims", NodeAdvertised(advertise.request, mine))
        claim = self.state.writing.under_way
        assert isinstance(claim, ClaimMarks)
        return claim

    def tell(self, what: str, *events: Event) -> list[Step]:
        """The step, and the one that follows at once; what it took, if that has a name."""
        steps: list[Step] = []
        self._now += 0.001
        while not steps or steps[-1].wake_at == self._now:
            began = thread_time()
            steps.append(step(self.state, () if steps else events, Boottime(self._now)))
            if what:
                is_bound = self._size in ("1000 on 1", "1000 on 50")
                bound = STEPPED_WITHIN_MS if is_bound else None
                figure = f"step, {self._size}: {what}", "ms", bound
                self._figures[figure].append((thread_time() - began) * 1000)
            self.state = steps[-1].state
        return steps


def measure_steps_alone(figures: Figures, addresses: int) -> None:
    core = Core(figures, addresses, 0)
    claim = core.join()
    marks = tuple(Mark(each, ME, LEASE, Revision(9)) for each in claim.addresses)
    steps = core.tell(
        "its claim is settled, it adds all",
        MarksClaimed(claim.request, marks, frozenset(), Revision(9)),
    )
    adds = [each for one in steps for each in one.actions if isinstance(each, AddAddress)]
    core.tell("all are added", *(AddressAdded(each.request, each.address) for each in adds))
    core.tell("nothing has happened")
    sick = CheckAnswered("service", False, "", Boottime(1e9))
    steps = core.tell("it is unhealthy, and removes all", sick)
    removals = [each for one in steps for each in one.actions if isinstance(each, RemoveAddress)]
    core.tell("all are removed", *(AddressRemoved(e.request, e.address) for e in removals))


def measure_steps_among_others(figures: Figures, addresses: int, nodes: int) -> None:
    core = Core(figures, addresses, nodes - 1)
    mine = set(core.join().addresses)
    others = [address for address in core.view.pool if address not in mine]
    share = addresses // nodes
    views = []
    for number in range(nodes - 1):
        revision = Revision(core.view.revision + 1)
        marks = tuple(
            Mark(address, name(number + 1), LeaseId(number + 2), revision)
            for address in others[number * share : (number + 1) * share]
        )
        core.view = core.view.with_marks(marks, revision)
        views.append(ClusterChanged(core.view))
    core.tell("the claims of all others are told, each in a view", *views)
    later = Revision(core.view.revision + 1)
    core.tell("a full read tells nothing new", ClusterRead(replace(core.view, revision=later)))
    measure_reading(figures, core.view)


def measure_reading(figures: Figures, seen: ClusterView) -> None:
    """Measures the reading of keys and values, one by one, as the watch tells them."""
    reading = Reading(KEYS)
    for address in seen.pool:
        reading.put(KEYS.pool_entry(address), KeyValue(b"", 0, 1, 1))
    began = thread_time()
    for address, mark in seen.marks.items():
        reading.put(KEYS.mark(address), KeyValue(mark.holder.encode(), mark.lease, 2, 2))
        reading.view(2)
    took_ms = (thread_time() - began) * 1000
    figures[f"{len(seen.marks)} marks are read, each in a view of its own", "ms", None].append(
        took_ms
    )


def measure_lab(figures: Figures, addresses: int) -> None:
    """One node, then three."""
    pool: tuple[Address, ...] = tuple(FIRST_6 + number for number in range(addresses))
    plan = LabPlan(pool=pool, ttl_ms=5000, ping_every_ms=20_000)
    with Lab(plan) as lab:
        first, *others = lab.nodes.values()
        began = time.monotonic()
        first.start()
        wait_until(lambda: lab.is_held(pool), 60.0, "all to be held", lab.logs)
        took_s = max(change.at for change in lab.record.changes) - began
        figure = f"lab, {addresses} addresses: a node starts, all are held after"
        figures[figure, "s", HELD_WITHIN_S].append(took_s)
        for other in others:
            other.start()
        share = addresses // len(lab.nodes)
        wait_until(
            lambda: lab.is_held(pool) and min(lab.counts()) >= share, 60.0, "all to share", lab.logs
        )
        changes = lab.record.changes
        gone = min(change.at for change in changes if not change.is_there)
        took_s = max(change.at for change in changes) - gone
        figures[f"lab, {addresses} addresses: two join, moved within", "s", None].append(took_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all values to this file, too")
    parser.add_argument("--no-lab", action="store_true", help="only what needs no network")
    options = parser.parse_args()
    figures: Figures = defaultdict(list)
    if not options.no_lab:
        enter_private_network()
        for line in machine():
            print(line)
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds} ...", flush=True)
        measure_placements(figures)
        measure_steps_alone(figures, 1000)
        measure_steps_among_others(figures, *TARGET)
        for addresses in () if options.no_lab else LAB_SIZES:
            measure_lab(figures, addresses)
    width = max(len(figure) for figure, _, _ in figures)
    print(f"\n{'':{width}}  {'median':>9}  {'least':>8}  {'most':>8}  {'bound':>8}")
    is_good = True
    for (figure, unit, bound), values in figures.items():
        median = statistics.median(values)
        is_met = bound is None or median <= bound
        is_good = is_good and is_met
        row = [f"{value:.1f}" for value in (median, min(values), max(values))]
        print(
            f"{figure:{width}}  {row[0]:>6} {unit:2}  {row[1]:>8}  {row[2]:>8}"
            f"  {'' if bound is None else f'{bound:g}':>8}{'' if is_met else '  MISSED'}"
        )
    if options.json is not None:
        named = {figure: values for (figure, _, _), values in figures.items()}
        options.json.write_text(json.dumps(named, indent=2))
    return 0 if is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench: {error}")
