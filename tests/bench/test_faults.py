"""When what goes wrong, as it follows from a seed."""

from collections import Counter
from itertools import pairwise

import pytest

from bench.faults import EVERY_S, KINDS, MOST_NODES, Target, plan, resources

NODES = ("n1", "n2", "n3", "n4", "n5")
SEEDS = range(5)


def test_a_seed_gives_the_same_faults_again_for_longer_or_shorter() -> None:
    long, short = plan(1, 10, NODES), plan(1, 3, NODES)
    assert long[: len(short)] == short
    assert plan(2, 3, NODES) != short


@pytest.mark.parametrize("seed", SEEDS)
def test_within_three_minutes_every_kind_comes(seed: int) -> None:
    faults = plan(seed, 3, NODES)
    assert Counter(fault.kind.text for fault in faults).keys() == {kind.text for kind in KINDS}
    steps = [later.at_s - fault.at_s for fault, later in pairwise(faults)]
    assert min(steps) >= EVERY_S[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_has_two_faults_at_a_time_and_some_nodes_none(seed: int) -> None:
    faults = plan(seed, 10, NODES)
    for fault in faults:
        now = [f for f in faults if f.at_s <= fault.at_s <= f.at_s + f.for_s]
        taken = Counter(each for f in now for each in resources(f.kind, f.node))
        assert max(taken.values()) == 1
        assert sum(f.kind.target in (Target.NODE, Target.SERVICE) for f in now) <= MOST_NODES
