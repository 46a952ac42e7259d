"""The same stories in the lab and in the simulation have the same outcome.

A story is data; two players tell it: one to real coordinators, helpers, kernels and etcd, one to
the model world, with many seeds. A node has an address as long as it answers for it: what a fence
mutes may lie on an interface. What can be compared:

- who holds how many addresses when all is settled: what the lab comes to, some seed has come to as
  well. Where all seeds agree, which they mostly do, it is that.
- from which nodes an address went: likewise.
- how often a node began to have an address: exactly, if all seeds agree; if not (after an outage of
  etcd whoever is back first may take all), between the fewest and the most, or once beyond.
- the longest time that no node had an address: as with some seed, and EARLIER_S and LATER_S.
- that no two nodes answer for an address, ever; without a fence, that it is on no two interfaces.

What cannot: which address is where (chance on both sides), how long starting a process takes (none
in the model but what is drawn here for it), how soon gRPC connects anew after a cut (at once in the
model), and a host that comes up again within its lease: the lab's hosts keep their network
namespace, so what they held is theirs again, where a reboot would end it.
"""

import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from math import inf
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.helper.network import state
from tests.sim.check import Checker
from tests.sim.faults import Scenario
from tests.sim.host import Host
from tests.sim.world import World
from tests.system.conftest import Build
from yaim.core.model import Address, NodeName, PoolEntry
from yaim.lab.cluster import Lab
from yaim.lab.network import LAN, MANAGEMENT
from yaim.lab.plan import LabPlan
from yaim.lab.record import Record
from yaim.lab.wait import wait_until

SEEDS = 30
NODES = 3
POOL: tuple[Address, ...] = tuple(ip_address("192.0.2.10") + number for number in range(6))
JOINING: Address = ip_address("192.0.2.100")
MODEL_STARTS_S = 6.0
"""The model's story begins after this long, and up to one second."""
PROCESS_START_S = (0.3, 1.5)
"""The least and the most time from the start of a process until it works."""
STOPPED_FOR_S = 1.0
"""A coordinator is started again so long after its end, as in tests/sim/host.py."""
EARLIER_S, LATER_S = 0.2, 1.0
"""How much less, or more, time an address may have been uncovered in the lab than with any seed;
more, because the machine may be busy."""
SETTLE_WITHIN_S = 6.0
"""How much later than the model the lab may be, being on a busy machine."""
EVERYTHING = ("supervisor", "coordinator", "helper")

Counts: TypeAlias = tuple[tuple[str, int], ...]
"""Node and how many addresses it has."""


@dataclass(frozen=True, slots=True)
class Story:
    name: str
    happens: tuple[tuple[float, str, str], ...]
    """When, what, on which node."""
    looks: tuple[float, ...]
    """When all is settled, and compared; the last one is the end."""
    ttl_s: int = 3


STORIES = (
    Story(
        "a service fails and recovers, a node is stopped and started",
        (
            (0.2, "service fails", "n1"),
            (2.7, "service recovers", "n1"),
            (5.2, "stopped and started", "n2"),
        ),
        looks=(2.6, 5.1, 11.0),
    ),
    Story(
        "processes are killed, etcd is frozen for less than the lease",
        (
            (0.2, "coordinator killed", "n1"),
            (3.2, "helper killed", "n2"),
            (6.2, "both killed", "n3"),
            (9.2, "etcd frozen", ""),
            (10.4, "etcd thawed", ""),
        ),
        looks=(13.0,),
        # Long enough for no address to expire while a process is started on a busy machine.
        ttl_s=10,
    ),
    Story(
        "a node is powered off and on",
        ((0.2, "powered off", "n1"), (6.2, "powered on", "n1")),
        looks=(6.0, 9.5),
    ),
    Story(
        "a node is frozen and thawed",
        ((0.2, "frozen", "n1"), (8.2, "thawed", "n1")),
        looks=(8.0, 10.5),
    ),
    Story(
        "a node is cut from etcd",
        ((0.2, "cut from etcd", "n1"), (8.2, "connected", "n1")),
        looks=(8.0, 11.0),
    ),
    Story(
        "hands in the kernel and in the pool",
        (
            (0.2, "address deleted", "n1"),
            (1.5, "address joins", ""),
            (3.0, "address leaves", ""),
            (4.5, "interface down", "n1"),
            (6.5, "interface up", "n1"),
        ),
        looks=(1.4, 2.9, 4.4, 6.4, 8.5),
    ),
    Story(
        "etcd is frozen for longer than the lease",
        ((0.2, "etcd frozen", ""), (6.2, "etcd thawed", "")),
        looks=(6.0, 10.0),
    ),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    looks: tuple[Counts, ...]
    losers: frozenset[str]
    """The nodes from which an address went."""
    moves: int
    """How often a node began to have an address."""
    uncovered_s: float
    """The longest that no node had an address of the pool."""
    overlap_s: float
    told: str
    """What the observer saw, for people."""


def outcome(
    record: Record, overlap_s: float, since: float, until: float, looks: Iterable[Counts]
) -> Outcome:
    """One yardstick for both worlds. In the model an address appears when it begins to answer, and
    nothing is muted."""
    changes = []
    for node in {change.node for change in record.changes}:
        for address in (*POOL, JOINING):
            for start, end in record.unmuted(node, address, since, until):
                changes += [(start, "+", node, address)] if start > since else []
                changes += [(end, "-", node, address)] if end < until else []
    unanswered = record.unanswered(set(POOL), since, until)
    return Outcome(
        tuple(looks),
        frozenset(node for _, what, node, _ in changes if what == "-"),
        sum(what == "+" for _, what, _, _ in changes),
        max((interval.length_s for interval in unanswered), default=0.0),
        overlap_s,
        "".join(
            f"\n{at - since:7.3f} {what} {node} {address}"
            for at, what, node, address in sorted(changes, key=lambda change: change[0])
        ),
    )


# --- in the model ----------------------------------------------------------------------------


class Diary(Checker):
    """Writes what the lab's observer would have seen, too: where each address answers."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.lines: list[str] = []

    def appeared(self, host: Host, address: Address) -> None:
        self._note("a", host, address)
        super().appeared(host, address)

    def disappeared(self, host: Host, address: Address) -> None:
        self._note("d", host, address)
        super().disappeared(host, address)

    def _note(self, kind: str, host: Host, address: Address) -> None:
        now = round(host.world.timeline.now * 1e9)
        self.lines.append(f"{kind} {host.name} {address} {now}\n")


def told_to_model(story: Story, seed: int, file: Path, *, has_fences: bool) -> Outcome:
    world = World(
        Scenario(
            seed,
            NODES,
            len(POOL),
            story.ttl_s,
            min_ttl_s=2,
            loss=0.0,
            keeps=False,
            faults=(),
            faults_end_at=0.0,
            fenced=frozenset(range(1, NODES + 1) if has_fences else ()),
        ),
        make_checker=Diary,
    )
    diary = world.checker
    assert isinstance(diary, Diary)
    since = MODEL_STARTS_S + world.random.random()
    world.timeline.run(since)
    for at, what, node in story.happens:
        host = world.hosts[NodeName(node or "n1")]
        world.timeline.later(at, lambda what=what, host=host: model_happens(what, host))  # type: ignore[misc]
    looks = []
    for at in story.looks:
        world.timeline.run(since + at)
        looks.append(counts(world.hosts, diary.holders().values()))
    file.write_text("".join(diary.lines))
    record, until = Record(file, frozenset({*POOL, JOINING})), since + story.looks[-1]
    record.update()
    overlap_s = record.overlap_s({*POOL, JOINING}, since, until)
    return outcome(record, overlap_s, since, until, looks)


def model_happens(what: str, host: Host) -> None:
    world = host.world
    now, etcd = world.timeline.now, world.etcd
    start_s = host.random.uniform(*PROCESS_START_S)
    match what:
        case "service fails":
            host.sick_until = inf
        case "service recovers":
            host.sick_until = now
        case "stopped and started":
            host.stop_coordinator()
        case "coordinator killed":
            host.crash_coordinator()
            host.deliver(start_s, host.start_coordinator)
        case "helper killed":
            host.crash_helper()
            host.deliver(start_s, host.start_helper)
        case "both killed":
            model_happens("coordinator killed", host)
            model_happens("helper killed", host)
        case "powered off":
            host.power_off()
        case "powered on":
            host.deliver(start_s, host.start)
        case "frozen":
            host.freeze_coordinator(inf)
            host.freeze_helper(inf)
        case "thawed":
            host.frozen_until = host.helper_frozen_until = now
            first, second = host.thaw_helper, host.thaw_coordinator
            if host.random.random() < 0.5:
                first, second = second, first
            first()
            second()
        case "cut from etcd":
            wire = host.wire
            wire.requests_cut_until = wire.answers_cut_until = wire.watch_cut_until = inf
        case "connected":
            host.wire.heal()
        case "address deleted":
            host.kernel.delete(min(host.kernel.ours))
        case "address joins":
            etcd.put_entry(PoolEntry(JOINING))
        case "address leaves":
            etcd.delete_entry(JOINING)
        case "interface down":
            host.set_link("eth0", is_up=False, is_interface_up=False)
        case "interface up":
            host.set_link("eth0", is_up=True, is_interface_up=True)
        case "etcd frozen":
            etcd.down_until = inf
        case "etcd thawed":
            etcd.down_until = now
        case _:
            raise AssertionError(what)


def counts(nodes: Iterable[str], holders: Iterable[list[NodeName]] | Iterable[list[str]]) -> Counts:
    held = [str(node) for each in holders for node in each]
    return tuple((name, held.count(name)) for name in sorted(nodes))


# --- in the lab ------------------------------------------------------------------------------


def told_to_lab(story: Story, lab: Lab, is_expected: Callable[[int, Counts], bool]) -> Outcome:
    """`is_expected`: of the look of this number. The lab may be late: then all that follows is."""
    since = start = time.monotonic()
    looks: list[Counts] = []
    plan = [(at, what, node) for at, what, node in story.happens]
    plan += [(at, "look", "") for at in story.looks]
    for at, what, node in sorted(plan):
        time.sleep(max(0.0, start + at - time.monotonic()))
        if what != "look":
            lab_happens(what, lab, node or "n1")
            continue
        due = time.monotonic()
        wait_until(
            lambda: is_expected(len(looks), lab_counts(lab)),
            SETTLE_WITHIN_S,
            f"one of the model's outcomes {at:g} s after the start of: {story.name}",
            lambda: f"it is {lab_counts(lab)}\n{lab.logs()}",
        )
        looks.append(lab_counts(lab))
        start += time.monotonic() - due
    until = time.monotonic()
    overlap_s = lab.overlap_s({*POOL, JOINING}, since, until)
    return outcome(lab.record, overlap_s, since, until, looks)


def lab_counts(lab: Lab) -> Counts:
    return counts(lab.nodes, lab.holders().values())


def lab_happens(what: str, lab: Lab, name: str) -> None:
    node = lab.nodes[name]
    run_there = node.namespace.run
    match what:
        case "service fails":
            node.break_service()
        case "service recovers":
            node.mend_service()
        case "stopped and started":
            node.stop()
            time.sleep(STOPPED_FOR_S)
            node.start()
        case "coordinator killed":
            node.signal(signal.SIGKILL, "coordinator")
        case "helper killed":
            node.signal(signal.SIGKILL, "helper")
        case "both killed":
            node.signal(signal.SIGKILL, "coordinator", "helper")
        case "powered off":
            processes = node.processes(*EVERYTHING)
            node.kill()
            # A helper that lives for a moment longer would put back what is flushed.
            wait_until(lambda: all(state(pid) == "Z" for pid in processes), 20.0, "all are dead")
            run_there("ip", "address", "flush", "dev", LAN.interface)
            node.add_own_addresses()
        case "powered on":
            node.start()
        case "frozen":
            node.signal(signal.SIGSTOP, *EVERYTHING)
        case "thawed":
            node.signal(signal.SIGCONT, *EVERYTHING)
        case "cut from etcd":
            node.cut([MANAGEMENT])
        case "connected":
            node.connect([MANAGEMENT])
        case "address deleted":
            address = min(each for each, names in lab.holders().items() if names == [name])
            run_there("ip", "address", "del", f"{address}/32", "dev", LAN.interface)
        case "address joins":
            lab.put(JOINING)
        case "address leaves":
            lab.delete(JOINING)
        case "interface down":
            run_there("ip", "link", "set", LAN.interface, "down")
        case "interface up":
            run_there("ip", "link", "set", LAN.interface, "up")
        case "etcd frozen":
            lab.members[0].freeze()
        case "etcd thawed":
            lab.members[0].thaw()
        case _:
            raise AssertionError(what)


# --- compared --------------------------------------------------------------------------------


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_it_comes_to_the_same_in_the_lab_and_in_the_model(
    build: Build, story: Story, tmp_path: Path
) -> None:
    lab = build(LabPlan(nodes=NODES, pool=POOL, others=(JOINING,), ttl_ms=1000 * story.ttl_s))
    for node in lab.nodes.values():
        node.start()
    lab.wait_until_held(counts=[2, 2, 2])
    modelled = [
        told_to_model(story, seed, tmp_path / str(seed), has_fences=lab.has_fences)
        for seed in range(SEEDS)
    ]
    expected = [{each.looks[number] for each in modelled} for number in range(len(story.looks))]
    real = told_to_lab(story, lab, lambda number, now: now in expected[number])
    try:
        compare(real, modelled)
    except AssertionError as error:
        raise AssertionError(f"{error}\nin the lab:{real.told}\n{lab.logs()}") from None


def compare(real: Outcome, modelled: list[Outcome]) -> None:
    assert real.overlap_s == 0.0 and not any(each.overlap_s for each in modelled)
    losers = {each.losers for each in modelled}
    assert real.losers in losers, f"losers {real.losers}, in the model {losers}"
    moves = {each.moves for each in modelled}
    chance = 0 if len(moves) == 1 else 1
    is_as_often = min(moves) - chance <= real.moves <= max(moves) + chance
    assert is_as_often, f"{real.moves} moves, in the model {moves}"
    uncovered = [each.uncovered_s for each in modelled]
    least, most = min(uncovered), max(uncovered)
    is_as_long = least - EARLIER_S <= real.uncovered_s <= most + LATER_S
    assert is_as_long, f"uncovered {real.uncovered_s:.3f} s, in the model {least:.3f} to {most:.3f}"
