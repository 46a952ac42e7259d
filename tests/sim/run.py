"""One schedule from start to end, and many of them."""

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import inf
from traceback import format_exc
from typing import TypeAlias

import yaim.core.placement
import yaim.core.upkeep
from tests.sim.check import (
    COVERED,
    CRASHED,
    ELSEWHERE,
    LEVELLED,
    NOT_AGREED,
    NOT_BACK,
    NOT_GIVEN_UP,
    NOT_HANDED_OVER,
    NOT_KEPT,
    NOT_OURS,
    NOT_RESET,
    NOT_TAKEN,
    NOT_THE_SAME,
    NOT_TOLD,
    NOT_TRIED,
    RESTLESS,
    STORM,
    Broken,
    eligible,
)
from tests.sim.etcd import WITHOUT_END_S, Refuses
from tests.sim.faults import NIGHT, Scenario, cover, draw, replace_mark
from tests.sim.host import RESTARTED_AFTER_S, Host
from tests.sim.maintenance import drain_some, move_one, pause_all, pin_one, weigh_all
from tests.sim.settled import (
    HANDED_OVER_WITHIN_S,
    QUIET_S,
    TAKEN_WITHIN_S,
    TOLD_WITHIN_S,
    end_waits,
    is_waiting_for_a_name,
    one_that_another_may_hold,
    settle,
    settled_within_s,
)
from tests.sim.timeline import address
from tests.sim.world import World
from yaim.core.model import Address, Control, Mark, Node, NodeName, PoolEntry
from yaim.core.placement import Placement
from yaim.core.settings import Rebalance
from yaim.core.state.cluster import READ_EVERY_S
from yaim.core.state.state import State
from yaim.core.step import step

Pool: TypeAlias = Mapping[Address, PoolEntry]
Nodes: TypeAlias = Mapping[NodeName, Node]
Marks: TypeAlias = Mapping[Address, Mark]

BACK_WITHIN_S = 2.0
"""What was held when all leases were lost: a keepalive, a read, a grant, two writes, an add."""
UNCOVERED_WITHIN_S = 3.0
"""A pause after a read that was refused, a read, a removal."""
REFUSED_FOR_S = 15.0
TRIES_AT_MOST = 6
"""The most tries of a node in that time: after pauses of 1, 2 and then 4 s at least."""
ALL_REFUSE_WITHIN_S = 1.0
TRIED_WITHIN_S = 9.0
"""After a refusal, what no other node can hold: 8 s and a handful of writes."""
REPLAY_ONE_IN = 16
RARELY = 200_000
"""Objects that are made before the garbage collector looks at them."""


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
    limit = timeline.now + settled_within_s(scenario) + world.swept_within_s()
    # What is under way when the faults end may yet cost a keepalive.
    timeline.run(timeline.now + world.granted_s)
    settle(world, limit)
    end_waits(world)
    moves = world.checker.moves
    timeline.run(timeline.now + QUIET_S)
    if world.checker.moves != moves:
        raise Broken(RESTLESS, "all was settled, and something moved")
    for host in world.hosts.values():
        # A coordinator that was started anew does not know what an earlier one has left.
        host.kernel.connections &= host.kernel.answering.keys()
    drain_some(world)
    pause_all(world)
    move_one(world)
    pin_one(world)
    weigh_all(world)
    _put_off(world)
    _copy_node(world)
    _cover_mark(world)
    _replace_mark(world)
    _lose_lease(world)
    world.checker.check_nothing_is_left()
    _mix_versions(world)
    _break_entries(world)
    _lose_leases(world)
    _hand_over(world)
    _have_elsewhere(world)
    _refuse(world)
    world.checker.check_nothing_is_left()
    if world.is_recorded:
        for host in world.hosts.values():
            replay(host)


def _put_off(world: World) -> None:
    """Now some nodes put off what moves only to be level. One is unhealthy: what it had is taken as
    fast as ever, and the like of what its holder may not hold any more. When it is well again, the
    others keep what they have; until the window opens, or they level at once again."""
    seed, timeline = world.scenario.seed, world.timeline
    if len(world.hosts) < 2 or seed % 4 != 1 or is_waiting_for_a_name(world):
        return
    hosts = list(world.hosts.values())
    sick = world.host(seed // 4)
    kinds = (Rebalance.NEVER, 0.0), (NIGHT, 0.0), (Rebalance.AUTO, 1000.0)
    stubborn = [host for number, host in enumerate(hosts) if (seed // 8 + number) % 4]
    for number, host in enumerate(stubborn, seed // 4):
        host.turn_window(is_open=False)
        host.put_off(*kinds[number % 3])
    timeline.run(timeline.now + TOLD_WITHIN_S)
    concerned = set(sick.kernel.ours)
    sick.sick_until = inf
    timeline.run(timeline.now + HANDED_OVER_WITHIN_S)
    _check_taken(world, concerned, sick)
    if (found := one_that_another_may_hold(world)) is not None:
        it, holder = found
        entry = world.etcd.pool[it]
        world.etcd.put_entry(replace(entry, exclude=entry.exclude | {holder.name}))
        timeline.run(timeline.now + HANDED_OVER_WITHIN_S)
        _check_taken(world, {it}, sick)
        world.etcd.put_entry(entry)
    before = world.checker.holders()
    sick.sick_until = 0.0
    timeline.run(timeline.now + HANDED_OVER_WITHIN_S)
    names = {host.name for host in stubborn}
    for each, (name, *_) in before.items():
        if name in names and world.checker.holders().get(each) != [name]:
            raise Broken(LEVELLED, f"{each} was on {name}: {world.checker.holders().get(each)}")
    world.checker.counts["levelling put off"] += world.why_not_settled() is not None
    for host in stubborn:
        host.turn_window(is_open=True)
        if host.settings.rebalance is not NIGHT:
            host.put_off(Rebalance.AUTO)
    settle(world, timeline.now + settled_within_s(world.scenario))
    end_waits(world)


def _check_taken(world: World, concerned: set[Address], sick: Host) -> None:
    """Whether these are on nodes that may hold them, if there are any but the sick one."""
    holders = world.checker.holders()
    for each, names in eligible(world).items():
        others = names - {sick.name}
        if each in concerned and others and not others & set(holders.get(each, ())):
            raise Broken(NOT_HANDED_OVER, f"{each} is on {holders.get(each)}")


def _copy_node(world: World) -> None:
    """Now somebody puts what a node advertises under another lease, or under none. It writes its
    own again, under the lease that it has, and all is as before."""
    seed, timeline, etcd = world.scenario.seed, world.timeline, world.etcd
    if seed % 4 != 3 or is_waiting_for_a_name(world):
        return
    name = world.host(seed // 4).name
    before, holders = etcd.nodes[name], world.checker.holders()
    if seed // 4 % 3 == 0:
        etcd.put_stray_node(name, before.advertisement)
    else:
        session = "elsewhere" if seed // 12 % 2 else None
        etcd.copy_node(name, (world.granted_s, WITHOUT_END_S)[seed // 4 % 3 - 1], session)
    timeline.run(timeline.now + BACK_WITHIN_S)
    after = etcd.nodes.get(name)
    if after is None or after.lease != before.lease:
        raise Broken(NOT_OURS, f"{name} has {before.lease:x} and advertises {after}")
    settle(world, timeline.now + settled_within_s(world.scenario))
    world.checker.counts["nodes copied"] += 1
    world.checker.counts["stayed where it was"] += world.checker.holders() == holders


def _cover_mark(world: World) -> None:
    """Now a node can read nothing, and keeps its lease. Somebody puts a mark over one of its, and
    lets it hold the address no more. Nobody else takes that; when the node can read again, it has
    it no more; and when the mark was deleted by hand, somebody else has it."""
    seed, timeline, etcd = world.scenario.seed, world.timeline, world.etcd
    if seed % 6 != 5 or (found := one_that_another_may_hold(world)) is None:
        return
    it, host = found
    entry = etcd.pool[it]
    other = etcd.nodes[min(eligible(world)[it] - {host.name})]
    host.blind(inf)
    if seed // 6 % 2:
        cover(world, it)
    else:
        cover(world, it, other.name, other.lease)
    etcd.put_entry(replace(entry, exclude=entry.exclude | {host.name}))
    timeline.run(timeline.now + world.granted_s + 2 * READ_EVERY_S + 2.0)
    world.checker.counts["covered, and not seen"] += it in host.kernel.ours
    host.see()
    timeline.run(timeline.now + UNCOVERED_WITHIN_S)
    if it in world.checker.holders():
        raise Broken(COVERED, f"{it} is on {world.checker.holders()[it]}")
    etcd.delete_stray_mark(it)
    timeline.run(timeline.now + TAKEN_WITHIN_S)
    if host.name in world.checker.holders().get(it, [host.name]):
        raise Broken(NOT_TAKEN, f"{it} is on {world.checker.holders().get(it, 'no node')}")
    etcd.put_entry(entry)
    settle(world, timeline.now + settled_within_s(world.scenario))
    end_waits(world)


def _replace_mark(world: World) -> None:
    """Now somebody deletes a mark, and puts one without a lease there. Its holder is told that only
    by its next read. When nobody can have the address any more, another node has it."""
    seed, timeline, etcd = world.scenario.seed, world.timeline, world.etcd
    if seed % 6 != 2 or (found := one_that_another_may_hold(world)) is None:
        return
    it, host = found
    entry = etcd.pool[it]
    host.wire.watch_cut_until = timeline.now + READ_EVERY_S
    etcd.put_entry(replace(entry, exclude=entry.exclude | {host.name}))
    replace_mark(world, it)
    timeline.run(timeline.now + world.granted_s + 2 * READ_EVERY_S + TAKEN_WITHIN_S)
    if world.checker.holders().get(it, [host.name]) == [host.name]:
        raise Broken(NOT_TAKEN, f"{it} is on {world.checker.holders().get(it, 'no node')}")
    etcd.put_entry(entry)
    settle(world, timeline.now + settled_within_s(world.scenario))
    end_waits(world)


def _lose_lease(world: World) -> None:
    """Now one node does not reach etcd until its lease has ended, and others have what it had,
    which they may share anew. When it reads again, it ends what is left of its connections; and so
    nothing is left."""
    seed, timeline = world.scenario.seed, world.timeline
    if len(world.hosts) < 2 or seed % 5 != 1 or is_waiting_for_a_name(world):
        return
    host, checker = world.host(seed // 5), world.checker
    resets, had = checker.resets[host.name], len(host.kernel.answering)
    host.wire.cut_until(timeline.now + world.granted_s + TAKEN_WITHIN_S)
    timeline.run(timeline.now + world.granted_s + TAKEN_WITHIN_S)
    if checker.resets[host.name] != resets:
        raise Broken(NOT_RESET, f"{host.name} could not keep its lease")
    checker.counts["connections on a node that lost its lease"] += had
    timeline.run(timeline.now + 2 * READ_EVERY_S)
    checker.check_nothing_is_left()
    settle(world, timeline.now + settled_within_s(world.scenario))
    end_waits(world)


def _break_entries(world: World) -> None:
    """Now all entries become wrong, or name an interface that there is not. What is held stays
    where it is; also when a coordinator is started anew, which knows only what is there, but then
    an address may end meanwhile, and come back."""
    if world.scenario.seed % 4 != 2 or is_waiting_for_a_name(world):
        return
    etcd, timeline = world.etcd, world.timeline
    before, moves = world.checker.holders(), world.checker.moves
    entries = list(etcd.pool.values())
    for number, entry in enumerate(entries, world.scenario.seed // 4):
        wrong = replace(entry, interface="eth9"), PoolEntry(entry.address, fault="a typo")
        etcd.put_entry(wrong[number % 2])
    timeline.run(timeline.now + 1.0)
    is_restarted = world.scenario.seed // 4 % 2 == 0
    if is_restarted:
        world.host(world.scenario.seed // 8).restart_coordinator()
    timeline.run(timeline.now + QUIET_S + 1.0)
    for entry in entries:
        etcd.put_entry(entry)
    timeline.run(timeline.now + QUIET_S)
    has_moved = world.checker.moves != moves and not is_restarted
    if world.checker.holders() != before or has_moved:
        raise Broken(NOT_KEPT, f"{before} became {world.checker.holders()}")
    world.checker.counts["entries broken and mended"] += len(entries)


def _mix_versions(world: World) -> None:
    """Now some nodes get an older version, and some entries options that it does not know. All is
    held and even, also while one node is unhealthy; the others take what it had."""
    seed, timeline = world.scenario.seed, world.timeline
    hosts = list(world.hosts.values())
    if len(hosts) < 2 or seed % 5 != 3 or is_waiting_for_a_name(world):
        return
    older = [host for number, host in enumerate(hosts) if seed // 5 >> number & 1]
    if len(older) == len(hosts):
        older.pop()
    older = older or hosts[:1]
    # Older ones take them for nodes.
    world.etcd.delete_stray_nodes()
    entries = list(world.etcd.pool.values())
    for number, entry in enumerate(entries, seed):
        if number % 3 == 0:
            world.etcd.put_entry(replace(entry, schema=2))
    for host in older:
        host.change_version(is_older=True)
    timeline.run(timeline.now + RESTARTED_AFTER_S + 1.0)
    _agree(world)
    sick = world.host(seed // 3)
    concerned = set(sick.kernel.ours)
    sick.sick_until = inf
    timeline.run(timeline.now + HANDED_OVER_WITHIN_S)
    holders = world.checker.holders()
    for each, names in eligible(world).items():
        others = names - {sick.name}
        if each in concerned and others and not others & set(holders.get(each, ())):
            raise Broken(NOT_AGREED, f"{each} is on {holders.get(each)}")
    sick.sick_until = 0.0
    timeline.run(timeline.now + HANDED_OVER_WITHIN_S)
    _agree(world)
    for host in older:
        host.change_version(is_older=False)
    timeline.run(timeline.now + RESTARTED_AFTER_S + 1.0)
    for entry in entries:
        world.etcd.put_entry(entry)
    _agree(world)
    end_waits(world)
    moves = world.checker.moves
    timeline.run(timeline.now + QUIET_S)
    if world.checker.moves != moves:
        raise Broken(RESTLESS, "all were of one version again, and something moved")
    world.checker.counts["versions mixed"] += len(older)


def _agree(world: World) -> None:
    try:
        settle(world, world.timeline.now + settled_within_s(world.scenario))
    except Broken as broken:
        raise Broken(NOT_AGREED, str(broken)) from None


def _lose_leases(world: World) -> None:
    """Now etcd loses all leases at once, or all its data but for the pool. Every node gets back
    what it had, and nothing else, also one that hears of it by its next keepalive only."""
    if world.scenario.seed % 3 != 1 or is_waiting_for_a_name(world):
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
    """Now one node is unhealthy, or its link is down, and the others have nothing else to do; but
    one of them may have got a check that has not answered yet."""
    if len(world.hosts) < 2 or world.scenario.seed % 3:
        return
    host = world.host(world.scenario.seed // 6)
    if is_waiting_for_a_name(world):
        return
    concerned = set(host.kernel.ours)
    slow = set()
    if len(world.hosts) > 2 and world.scenario.seed % 4 < 2:
        other = world.host(world.scenario.seed // 6 + 1)
        other.add_slow_check(inf)
        world.timeline.run(world.timeline.now + TOLD_WITHIN_S)
        slow.add(other.name)
    refuses = _fill(world)
    if world.scenario.seed % 2:
        host.sick_until = inf
    else:
        concerned = {a for a, place in host.kernel.places.items() if place.interface == "eth0"}
        host.set_link("eth0", is_up=False, is_interface_up=True)
    world.timeline.run(world.timeline.now + HANDED_OVER_WITHIN_S)
    if refuses in (Refuses.PUTS, Refuses.WRITES):
        if not world.scenario.keeps:
            _give_up(world, host, refuses, concerned)
        world.etcd.fill(0.0, Refuses.NOTHING)
        world.timeline.run(world.timeline.now + HANDED_OVER_WITHIN_S)
    holders = world.checker.holders()
    for each, names in eligible(world).items():
        others = names - {host.name} - slow
        if each not in concerned:
            continue
        if others and not (names - {host.name}) & set(holders.get(each, ())):
            raise Broken(NOT_HANDED_OVER, f"{each} is on {holders.get(each)}")


def _have_elsewhere(world: World) -> None:
    """Now somebody puts an address on a node that does not hold it; perhaps that looks like the
    helper's soon, and the coordinator there is started anew. Its holder keeps it; when that one
    cannot, nobody takes it; when it has gone, somebody does."""
    if len(world.hosts) < 2 or world.scenario.seed % 3 != 2 or is_waiting_for_a_name(world):
        return
    timeline, holders = world.timeline, world.checker.holders()
    host = world.host(world.scenario.seed // 6)
    theirs = sorted(a for a, names in holders.items() if names != [host.name])
    if not theirs:
        return
    it = theirs[world.scenario.seed % len(theirs)]
    host.kernel.add_foreign(it)
    timeline.run(timeline.now + TOLD_WITHIN_S)
    node = world.etcd.nodes.get(host.name)
    if node is None or it not in node.advertisement.present:
        raise Broken(NOT_TOLD, f"{host.name} has {it} and is {node}")
    if world.scenario.seed // 3 % 2:
        host.kernel.fade(it)
        host.crash_coordinator()
        host.start_coordinator()
        timeline.run(timeline.now + TOLD_WITHIN_S)
    if world.checker.holders() != holders:
        raise Broken(RESTLESS, f"{holders} became {world.checker.holders()}")
    holder = world.hosts[holders[it][0]]
    holder.sick_until = inf
    timeline.run(timeline.now + HANDED_OVER_WITHIN_S)
    now_on = world.checker.holders().get(it, [])
    if set(now_on) - {holder.name}:
        raise Broken(ELSEWHERE, f"{it}, which {host.name} has, is on {now_on}, too")
    host.kernel.delete_foreign(it)
    timeline.run(timeline.now + TAKEN_WITHIN_S)
    others = eligible(world)[it] - {holder.name}
    now_on = world.checker.holders().get(it, [])
    if others and not others & set(now_on):
        raise Broken(NOT_TAKEN, f"{it} is on {now_on or 'no node'}")


def _refuse(world: World) -> None:
    """Now an address joins the pool that every helper refuses. When all have, nothing moves because
    of it; when one helper adds it, without anything that would tell of that, it is taken there, and
    the others do not try any more."""
    if world.scenario.seed % 3 != 1 or is_waiting_for_a_name(world):
        return
    timeline, checker, number = world.timeline, world.checker, world.scenario.seed // 3
    code = ("not-allowed", "limit", "primary", "failed")[number % 4]
    for host in world.hosts.values():
        host.refuses_one = address(250), code
    world.etcd.put_entry(PoolEntry(address(250)))
    timeline.run(timeline.now + ALL_REFUSE_WITHIN_S)
    moves, adds, held = checker.moves, checker.counts["AddAddress"], checker.holders().keys()
    timeline.run(timeline.now + REFUSED_FOR_S)
    # What an earlier life's left-over has kept from a node until now is put there, once.
    if checker.moves - moves != len(checker.holders().keys() - held):
        raise Broken(RESTLESS, f"something moved because {address(250)} is refused")
    tries = checker.counts["AddAddress"] - adds
    if not len(world.hosts) <= tries <= TRIES_AT_MOST * len(world.hosts):
        raise Broken(STORM, f"{tries} tries by {len(world.hosts)} nodes")
    one = world.host(number // 4)
    one.refuses_one = None
    timeline.run(timeline.now + TRIED_WITHIN_S)
    moves = checker.moves
    timeline.run(timeline.now + REFUSED_FOR_S)
    if checker.holders().get(address(250)) != [one.name]:
        raise Broken(NOT_TRIED, f"{address(250)} is on {checker.holders().get(address(250))}")
    # What has failed may have failed for a while only: each other node tries it once more, later.
    tries = len(world.hosts) - 1 if code == "failed" else 0
    if checker.moves - moves > 2 * tries:
        raise Broken(RESTLESS, f"something moved because others refuse {address(250)}")


def _fill(world: World) -> Refuses | None:
    """Every other time etcd is full then."""
    number = world.scenario.seed // 6
    if number % 2:
        return None
    refuses = tuple(Refuses)[number // 2 % len(Refuses)]
    world.checker.counts[f"handed over while a full etcd refused {refuses.value}"] += 1
    world.etcd.fill(inf, refuses)
    return refuses


def _give_up(world: World, host: Host, refuses: Refuses, concerned: set[Address]) -> None:
    """Nobody can claim what this node gives up, as long as etcd is full. But of one that can hold
    nothing any more nothing stays, neither marks nor an advertisement that tells others to leave
    addresses to it."""
    timeline = world.timeline
    if refuses is Refuses.WRITES:
        timeline.run(timeline.now + world.granted_s)
    node = world.etcd.nodes.get(host.name)
    if concerned & host.kernel.ours.keys():
        raise Broken(NOT_GIVEN_UP, f"{host.name} has {', '.join(map(str, host.kernel.ours))}")
    is_well = host.sick_until != inf
    if is_well and any(each.interface == "eth1" for each in world.etcd.pool.values()):
        return
    if any(mark.holder == host.name for mark in world.etcd.marks.values()):
        raise Broken(NOT_GIVEN_UP, f"{host.name} has marks")
    if node is not None and any(map(node.can_hold, world.etcd.pool.values())):
        raise Broken(NOT_GIVEN_UP, f"{host.name} is advertised as {node.advertisement}")


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


@contextmanager
def quickly() -> Iterator[None]:
    """Many schedules one after the other: the cores share what place() has answered to the very
    same mappings (it is pure, and all of them are told the same views), and what nobody uses any
    more is collected from time to time only."""
    real, module = yaim.core.placement.place, vars(yaim.core.upkeep)
    known: dict[tuple[int, int, int, int], tuple[object, Placement]] = {}

    def place(pool: Pool, nodes: Nodes, marks: Marks, control: Control) -> Placement:
        key = id(pool), id(nodes), id(marks), id(control)
        found = known.get(key)
        if found is None:
            if len(known) > 64:
                known.clear()
            # The mappings are kept, so that no other can have the same id.
            placed = real(pool, nodes, marks, control)
            found = known[key] = (pool, nodes, marks, control), placed
        return found[1]

    thresholds = gc.get_threshold()
    gc.set_threshold(RARELY, *thresholds[1:])
    module["place"] = place
    try:
        yield
    finally:
        module["place"] = real
        gc.set_threshold(*thresholds)


@dataclass
class Tally:
    """What many schedules came to."""

    schedules: int = 0
    seconds: float = 0.0
    """The virtual time of all of them."""
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
    with quickly():
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
    return tally
