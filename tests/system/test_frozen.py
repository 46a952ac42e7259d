"""Coordinator and helper of a node, both frozen or killed at random instants: what is answered on
the wire is the judge. YAIM_FREEZE_SEED repeats one run."""

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.system.conftest import Build
from tests.system.watch import Watch
from yaim.lab.cluster import Lab
from yaim.lab.node import LabNode
from yaim.lab.plan import LabPlan, pool_of
from yaim.lab.wait import wait_until

SEED = int(os.environ.get("YAIM_FREEZE_SEED", random.SystemRandom().getrandbits(32)))
TIMES = 8
PAIR = ("coordinator", "helper")
TTL_S = 3.0


def has_both(node: LabNode) -> bool:
    return all(node.process(role) is not None for role in PAIR)


def freeze(node: LabNode, how: random.Random) -> str:
    """Stops both, one soon after the other, and has them go on, in any order; returns what was
    done."""
    pids = dict(zip(PAIR, node.processes(*PAIR), strict=True))
    first, second = how.sample(PAIR, 2)
    between_s = how.choice((0.0, how.uniform(0.0, 0.1), how.uniform(0.0, 1.0)))
    for_s = how.uniform(0.2, 2.5 * TTL_S)
    os.kill(pids[first], signal.SIGSTOP)
    time.sleep(between_s)
    os.kill(pids[second], signal.SIGSTOP)
    time.sleep(for_s)
    sooner, later = how.sample(PAIR, 2)
    again_s = how.choice((0.0, how.uniform(0.0, 0.5)))
    os.kill(pids[sooner], signal.SIGCONT)
    time.sleep(again_s)
    os.kill(pids[later], signal.SIGCONT)
    return (
        f"{node.name}: {first}, {between_s:.3f} s later {second} stopped for {for_s:.3f} s;"
        f" {sooner}, {again_s:.3f} s later {later} goes on"
    )


def kill(node: LabNode, how: random.Random) -> str:
    """Kills both, one soon after the other: the supervisor starts them again."""
    pids = dict(zip(PAIR, node.processes(*PAIR), strict=True))
    first, second = how.sample(PAIR, 2)
    between_s = how.choice((0.0, how.uniform(0.0, 0.3)))
    os.kill(pids[first], signal.SIGKILL)
    time.sleep(between_s)
    try:
        os.kill(pids[second], signal.SIGKILL)
    except ProcessLookupError:
        second += " (which had ended)"
    return f"{node.name}: {first}, {between_s:.3f} s later {second} killed"


def settle(lab: Lab) -> None:
    wait_until(lambda: all(map(has_both, lab.nodes.values())), 30.0, "all programs to run")
    lab.wait_until_held(counts=[2, 2, 2], within_s=60.0)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("what", [freeze, kill], ids=["frozen", "killed"])
def test_no_two_nodes_answer_when_both_processes_of_one_are_frozen_or_killed(
    build: Build, what: Callable[[LabNode, random.Random], str]
) -> None:
    how = random.Random(SEED)
    lab = build(LabPlan(nodes=3, pool=pool_of(6), ttl_ms=round(TTL_S * 1000)))
    for node in lab.nodes.values():
        node.start()
    settle(lab)
    assert lab.has_fences
    watch = Watch(lab)
    done = [f"seed {SEED}"]
    for _ in range(TIMES):
        time.sleep(how.uniform(0.0, 1.0))
        done.append(what(how.choice(list(lab.nodes.values())), how))
        time.sleep(how.uniform(0.0, TTL_S))
        settle(lab)
    watch.look_on(1.0)
    overlap_s = lab.overlap_s(lab.plan.pool, watch.since, time.monotonic())
    assert overlap_s == 0.0, "\n".join((*done, watch.told()))
