"""One schedule from start to end, and many of them."""

import gc
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from traceback import format_exc
from typing import TypeAlias

import yaim.core.placement
import yaim.core.step
from tests.sim.check import (
    CRASHED,
    NOT_BACK,
    NOT_HANDED_OVER,
    NOT_SETTLED,
    NOT_THE_SAME,
    RESTLESS,
    STILL_WAITING,
    Broken,
    eligible,
)
from tests.sim.faults import Scenario, draw
from tests.sim.host import Host
from tests.sim.world import World
from yaim.core.model import Address, Mark, Node, NodeName, PoolEntry
from yaim.core.placement import Placement
from yaim.core.state import State
from yaim.core.step import NAME_PATIENCE_S, step

Pool: TypeAlias = Mapping[Address, PoolEntry]
Nodes: TypeAlias = Mapping[NodeName, Node]
Marks: TypeAlias = Mapping[Address, Mark]

LOOK_EVERY_S = 0.25
HANDED_OVER_WITHIN_S = 3.0
"""A check, a removal, two writes, an add that may have to wait for a keepalive."""
BACK_WITHIN_S = 2.0
"""What was held when all leases were lost: a keepalive, a read, a grant, two writes, an add."""
WAITS_END_WITHIN_S = 1.0
"""After the settings have changed: one write."""
QUIET_S = 2.0
"""When all is settled nothing moves any more; that is watched for this long."""
REPLAY_ONE_IN = 16


def settled_within_s(scenario: Scenario) -> float:
    """Faults may leave a dead node's advertisement that a new leader has just given its full TTL,
    under a name that a rebooted host waits for; it may have been refused before and be started
    anew. Then keepalives, reads, checks and moves take their time."""
    granted_s = max(scenario.ttl_s, scenario.min_ttl_s)
    return 2 * granted_s + NAME_PATIENCE_S + 10.0


@dataclass(frozen=True, slots=True)
class Run:
    world: World
    broken: Broken | None


def play(scenario: Scenario, *, is_told: bool = False, is_recorded: bool = False) -> Run:
    """Play it; what it broke, if anything."""
    world = World(scenario, is_told=is_told, is_recorded=is_recorded)
    try:
        _run(world)
    except Broken as broken:
        return Run(world, broken)
    except Exception:
        return Run(world, Broken(CRASHED, format_exc()))
    return Run(world, None)


def _run(world: World) -> None:
    timeline, scenario = world.timeline, world.scenario
    timeline.run(scenario.faults_end_at)
    world.heal()
    limit = timeline.now + settled_within_s(scenario)
    # What is under way when the faults end may yet cost a keepalive.
    timeline.run(timeline.now + world.granted_s)
    _settle(world, limit)
    _end_waits(world)
    moves = world.checker.moves
    timeline.run(timeline.now + QUIET_S)
    if world.checker.moves != moves:
        raise Broken(RESTLESS, "all was settled, and something moved")
    _lose_leases(world)
    _hand_over(world)
    if world.is_recorded:
        for host in world.hosts.values():
            replay(host)


def _settle(world: World, limit: float) -> None:
    while (why_not := world.why_not_settled()) is not None:
        if world.timeline.now >= limit:
            within_s = settled_within_s(world.scenario)
            raise Broken(NOT_SETTLED, f"after {within_s:g} s {why_not}")
        world.timeline.run(world.timeline.now + LOOK_EVERY_S)


def _end_waits(world: World) -> None:
    """Nothing went without a holder because of those that wait. Now nobody is to wait any more, and
    they get their share."""
    waiting, timeline = world.who_waits(), world.timeline
    if not waiting:
        return
    world.checker.counts["settled while some waited"] += 1
    world.checker.counts["settled while all waited"] += len(waiting) == len(world.hosts)
    for host in world.hosts.values():
        host.end_wait()
    timeline.run(timeline.now + WAITS_END_WITHIN_S)
    if world.who_waits():
        raise Broken(STILL_WAITING, f"{', '.join(world.who_waits())}")
    _settle(world, timeline.now + settled_within_s(world.scenario))


def _is_waiting_for_a_name(world: World) -> bool:
    """Whether a host that was booted still waits for the lease of its earlier life to expire; what
    is handed to it waits with it."""
    return any(
        world.hosts[name].session != node.advertisement.session
        for name, node in world.etcd.nodes.items()
    )


def _lose_leases(world: World) -> None:
    """Now etcd loses all leases at once, or all its data but for the pool. Every node gets back
    what it had, and nothing else, also one that hears of it by its next keepalive only."""
    if world.scenario.seed % 3 != 1 or _is_waiting_for_a_name(world):
        return
    before, moves = world.checker.holders(), world.checker.moves
    late = world.host(world.scenario.seed // 6)
    late.wire.watch_cut_until = world.timeline.now + (0.0, 1.0, 5.0)[world.scenario.seed // 3 % 3]
    world.checker.all_leases_are_lost()
    if world.scenario.seed % 2:
        world.etcd.lose_leases()
    else:
        world.etcd.wipe()
    world.timeline.run(world.timeline.now + BACK_WITHIN_S)
    if world.checker.holders() != before:
        raise Broken(NOT_BACK, f"{before} became {world.checker.holders()}")
    world.timeline.run(world.timeline.now + 2 * world.granted_s)
    if world.checker.holders() != before or world.checker.moves != moves + 2 * len(before):
        raise Broken(NOT_BACK, "something moved after the leases were lost")


def _hand_over(world: World) -> None:
    """Now one node is unhealthy, or its link is down, and the others have nothing else to do."""
    if len(world.hosts) < 2 or world.scenario.seed % 3:
        return
    host = world.host(world.scenario.seed // 6)
    if _is_waiting_for_a_name(world):
        return
    if world.scenario.seed % 2:
        host.sick_until = inf
    else:
        host.set_link(is_up=False, is_interface_up=True)
    world.timeline.run(world.timeline.now + HANDED_OVER_WITHIN_S)
    holders = world.checker.holders()
    for address, names in eligible(world).items():
        others = names - {host.name}
        if not others & set(holders.get(address, ())) and others:
            raise Broken(NOT_HANDED_OVER, f"{address} is on {holders.get(address)}")


def replay(host: Host) -> None:
    """The same events at the same instants, told to a core that knows of nothing else."""
    life, state = 0, State(host.settings)
    for taken in host.taken:
        if taken.life != life:
            life, state = taken.life, State(taken.settings)
        again = step(state, taken.events, taken.now)
        state = again.state
        if again.actions != taken.actions:
            raise Broken(NOT_THE_SAME, f"{host.name} at {taken.now}: {taken.actions}")


def remember_placement() -> None:
    """Let the cores share what place() has answered to the very same mappings: it is pure, and all
    of them are told the same views."""
    real, module = yaim.core.placement.place, vars(yaim.core.step)
    known: dict[tuple[int, int, int], tuple[object, Placement]] = {}

    def place(pool: Pool, nodes: Nodes, marks: Marks) -> Placement:
        key = id(pool), id(nodes), id(marks)
        found = known.get(key)
        if found is None:
            if len(known) > 64:
                known.clear()
            # The mappings are kept, so that no other can have the same id.
            found = known[key] = (pool, nodes, marks), real(pool, nodes, marks)
        return found[1]

    module["place"] = place


@dataclass
class Tally:
    """What many schedules came to."""

    schedules: int = 0
    seconds: float = 0.0
    """Of virtual time."""
    steps: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    failed: dict[int, str] = field(default_factory=dict)
    """Seed and what was broken."""

    def add(self, other: "Tally") -> None:
        self.schedules += other.schedules
        self.seconds += other.seconds
        self.steps += other.steps
        self.faults += other.faults
        self.checked += other.checked
        self.failed |= other.failed

    def lines(self) -> list[str]:
        def listed(counts: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in counts.most_common())

        return [
            f"{self.schedules} schedules, {self.seconds / 3600:.1f} hours of virtual time,"
            f" {self.steps} steps",
            f"faults: {listed(self.faults)}",
            f"checked: {listed(self.checked)}",
            f"failed: {len(self.failed)}",
            *(f"  seed {seed}: {why}" for seed, why in sorted(self.failed.items())),
        ]


def play_all(seeds: Iterable[int]) -> Tally:
    tally = Tally()
    remember_placement()
    gc.disable()
    for seed in seeds:
        scenario = draw(seed)
        run = play(scenario, is_recorded=seed % REPLAY_ONE_IN == 0)
        world = run.world
        tally.schedules += 1
        tally.seconds += world.timeline.now
        tally.steps += world.steps
        tally.faults.update(fault.kind for fault in scenario.faults)
        tally.checked += world.checker.counts
        if run.broken is not None:
            tally.failed[seed] = str(run.broken).splitlines()[-1]
        if seed % 16 == 0:
            gc.collect()
    gc.enable()
    return tally
