"""Random faults in virtual time: never two, and always one once the faults are over."""

import os
from collections import Counter

import pytest

from tests.sim.world import World, disturb, settle
from yaim.core.model import Address

SEEDS = range(int(os.environ.get("YAIM_SIM_SEEDS", "150")))


def play(seed: int) -> World:
    """Raises AssertionError with the end of the story."""
    world = World(seed, nodes=2 + seed % 4, addresses=1 + seed % 9, ttl_s=(3, 5, 10)[seed % 3])
    try:
        world.run(5.0)
        disturb(world, 40.0)
        settle(world, 45.0)
        assert_every_address_is_held_evenly(world)
        before = world.holders()
        world.run(world.now + 10.0)
        assert world.holders() == before, "addresses still move"
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}\n" + "\n".join(world.story[-60:])) from error
    return world


def assert_every_address_is_held_evenly(world: World) -> None:
    holders = world.holders()
    assert holders.keys() == world.pool
    counts: Counter[str] = Counter(dict.fromkeys(world.hosts, 0))
    counts.update(name for names in holders.values() for name in names)
    assert max(counts.values()) - min(counts.values()) <= 1, dict(counts)


@pytest.mark.parametrize("seed", SEEDS)
def test_never_two_always_one_and_level(seed: int) -> None:
    play(seed)


def test_the_same_seed_tells_the_same_story() -> None:
    assert play(7).story == play(7).story


def test_at_the_start_every_address_is_held_within_three_seconds() -> None:
    world = World(1, nodes=3, addresses=6, ttl_s=3)
    world.run(3.0)
    held: dict[Address, list[str]] = world.holders()
    assert held.keys() == world.pool
