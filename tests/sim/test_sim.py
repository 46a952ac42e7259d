"""Random faults in virtual time: never two, and always one once the faults are over."""

import os

import pytest

from tests.sim.__main__ import play_many
from tests.sim.check import Broken
from tests.sim.faults import Scenario, draw
from tests.sim.run import play
from tests.sim.story import story
from tests.sim.timeline import address
from tests.sim.world import World

SEEDS = int(os.environ.get("YAIM_SIM_SEEDS", "400"))


def test_never_two_always_one_and_even() -> None:
    tally = play_many(0, SEEDS, os.cpu_count() or 1)
    assert not tally.failed, "\n".join(tally.lines())


def calm(nodes: int, addresses: int) -> Scenario:
    return Scenario(
        1,
        nodes,
        addresses,
        ttl_s=3,
        min_ttl_s=2,
        loss=0.0,
        keeps=False,
        faults=(),
        faults_end_at=3.0,
    )


@pytest.mark.parametrize("seed", [7, 9])
def test_the_same_seed_tells_the_same_story(seed: int) -> None:
    assert story(draw(seed)) == story(draw(seed))


def test_at_the_start_every_address_is_held_within_three_seconds() -> None:
    run = play(calm(nodes=3, addresses=6))
    assert run.broken is None
    world = World(calm(nodes=3, addresses=6))
    world.timeline.run(3.0)
    assert len(world.checker.holders()) == 6


def test_two_holders_are_seen_at_once() -> None:
    world = World(calm(nodes=2, addresses=1))
    first, second = world.hosts.values()
    world.timeline.run(0.0)
    first.kernel.put(address(10), 2, 3.0)
    with pytest.raises(Broken, match="never two"):
        second.kernel.put(address(10), 2, 3.0)
