"""Random faults in virtual time: never two, and always one once the faults are over."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from tests.sim.__main__ import play_many
from tests.sim.check import Broken
from tests.sim.faults import Scenario, draw
from tests.sim.host import Host
from tests.sim.mutating import Mutation, catch, mutated
from tests.sim.mutations import MUTATIONS
from tests.sim.orders import drain
from tests.sim.run import play, quickly
from tests.sim.story import story
from tests.sim.timeline import address
from tests.sim.world import World
from yaim.core.model import Address, Place, PoolEntry
from yaim.core.settings import Rebalance

SEEDS = int(os.environ.get("YAIM_SIM_SEEDS", "300"))
IS_LONG = SEEDS > 300
"""Whether a mutation is looked for anew, and not first where it is known to show."""


@pytest.mark.timeout(60 + SEEDS)
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


@pytest.mark.timeout(120 + SEEDS)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_checker_bites(mutation: Mutation) -> None:
    assert catch(mutation, max_seeds=400, is_searched=IS_LONG).invariant is not None


def test_a_deleted_address_is_back_within_a_tenth_of_a_second() -> None:
    world = World(calm(nodes=2, addresses=4))
    world.timeline.run(4.0)
    for host in world.hosts.values():
        for each in list(host.kernel.ours):
            host.kernel.delete(each)
    world.timeline.run(4.1)
    assert len(world.checker.holders()) == 4


def test_after_a_loss_of_all_leases_every_address_is_back_within_a_tenth_of_a_second() -> None:
    world = World(calm(nodes=3, addresses=6))
    world.timeline.run(4.0)
    before = world.checker.holders()
    world.checker.all_leases_are_lost()
    world.etcd.lose_leases()
    world.timeline.run(4.02)
    assert not world.checker.holders()
    world.timeline.run(4.1)
    assert world.checker.holders() == before


def test_what_a_dead_node_had_before_a_loss_of_all_leases_is_taken_after_the_ttl() -> None:
    world = World(calm(nodes=3, addresses=6))
    world.timeline.run(4.0)
    world.host(0).power_off()
    world.checker.all_leases_are_lost()
    world.etcd.lose_leases()
    world.timeline.run(7.0)
    assert len(world.checker.holders()) == 4
    world.timeline.run(7.5)
    assert len(world.checker.holders()) == 6


@pytest.mark.parametrize("keeps", [True, False])
def test_when_all_are_unhealthy_addresses_stay_only_if_so_configured(keeps: bool) -> None:
    world = World(replace(calm(nodes=3, addresses=4), keeps=keeps))
    world.timeline.run(4.0)
    for host in world.hosts.values():
        host.sick_until = 60.0
    world.timeline.run(30.0)
    assert len(world.checker.holders()) == (4 if keeps else 0)


def test_sighups_that_change_the_checks_move_nothing() -> None:
    world = World(calm(nodes=3, addresses=6))
    world.timeline.run(4.0)
    moves = world.checker.moves
    for has_other_check in (True, False, True):
        for host in world.hosts.values():
            host.change_settings(1.0, has_other_check=has_other_check)
        world.timeline.run(world.timeline.now + 3.0)
    assert world.checker.moves == moves


def test_a_sighup_that_adds_a_slow_check_leaves_to_others_what_a_failed_node_held() -> None:
    """A node that took nothing for as long as the check took was given its share by all."""
    world = World(calm(nodes=3, addresses=6))
    world.timeline.run(4.0)
    held = {a for a, names in world.checker.holders().items() if names == ["n1"]}
    world.host(0).add_slow_check(60.0)
    world.timeline.run(4.5)
    world.host(1).sick_until = 100.0
    world.timeline.run(6.5)
    assert len(world.checker.holders()) == 6
    on_first = {a for a, names in world.checker.holders().items() if names == ["n1"]}
    assert on_first == held
    world.timeline.run(66.0)
    on_first = {a for a, names in world.checker.holders().items() if names == ["n1"]}
    assert len(on_first) == 3


def flapping_beside_others(flap_max_wait_s: float) -> World:
    """One of three nodes, for a minute."""
    world = World(replace(calm(nodes=3, addresses=6), flap_max_wait_s=flap_max_wait_s))
    world.timeline.run(4.0)
    world.host(0).flapping_until = 64.0
    world.timeline.run(64.0)
    return world


def test_a_node_that_flaps_does_not_drag_addresses_back_and_forth() -> None:
    assert flapping_beside_others(0.0).checker.moves > 200
    waiting = flapping_beside_others(300.0)
    assert waiting.checker.moves < 40
    assert waiting.who_waits() == (waiting.host(0).name,)
    assert len(waiting.checker.holders()) == 6


def test_the_only_healthy_node_holds_all_although_it_waits() -> None:
    world = World(replace(calm(nodes=2, addresses=6), flap_max_wait_s=300.0))
    world.timeline.run(4.0)
    world.host(0).flapping_until = 14.0
    world.host(1).sick_until = 100.0
    world.timeline.run(17.0)
    assert world.who_waits() == (world.host(0).name,)
    assert len(world.checker.holders()) == 6


def test_who_keeps_its_lease_releases_nothing_that_its_kernel_keeps() -> None:
    """Where etcd answers and coordinators run, two nodes never have an address, however long
    kernels hold their routing locks, also without a fence. Long schedules: a look begins only when
    a lock has been held for longer than a lease lives."""
    counts: Counter[str] = Counter()
    kinds = ("routing lock held", "helper killed", "helper frozen", "sick", "entry changed")
    with quickly():
        for number in range(40):
            drawn = draw(10 * number + 9, kinds)
            run = play(replace(drawn, loss=0.0, ttl_s=3, fenced=frozenset[int]()))
            assert run.broken is None
            counts += run.world.checker.counts
    assert counts["LookForAddresses"] > 50
    assert not counts["overlap, held up by a kernel"] + counts["deletion, held up by a kernel"]


def test_an_address_that_a_kernel_kept_is_taken_over_soon_after_it_lets_go() -> None:
    world = World(calm(nodes=2, addresses=1))
    world.timeline.run(4.0)
    ((_, (name,)),) = world.checker.holders().items()
    host = world.hosts[name]
    host.freeze_helper(30.0)
    host.sick_until = 60.0
    host.hold_routing_lock(10.0)
    world.timeline.run(13.9)
    assert world.checker.holders() == {address(10): [name]}
    world.timeline.run(14.4)
    (holder,) = world.checker.holders()[address(10)]
    assert holder != name


def fenced(nodes: int, addresses: int) -> World:
    """All of whose hosts have a fence, when all is held."""
    scenario = replace(calm(nodes, addresses), fenced=frozenset(range(1, nodes + 1)))
    world = World(scenario)
    world.timeline.run(4.0)
    assert len(world.checker.holders()) == addresses
    return world


def test_what_is_renewed_answers_while_the_routing_lock_is_held() -> None:
    world = fenced(nodes=3, addresses=6)
    moves = world.checker.moves
    for host in world.hosts.values():
        host.hold_routing_lock(10.0)
    world.timeline.run(16.0)
    assert world.checker.moves == moves
    assert len(world.checker.holders()) == 6


def test_with_a_fence_nothing_is_answered_too_long_however_long_the_routing_lock_is_held() -> None:
    """A node behind its lock loses its lease; the others take over what lies there muted."""
    world = fenced(nodes=2, addresses=4)
    first, second = world.hosts.values()
    theirs = set(first.kernel.answering)
    first.hold_routing_lock(10.0)
    first.wire.requests_cut_until = first.wire.answers_cut_until = 20.0
    world.timeline.run(9.0)
    assert theirs and theirs <= set(second.kernel.answering)
    assert theirs <= first.kernel.ours.keys()
    counts = world.checker.counts
    assert counts["overlap of muted addresses on interfaces"] == len(theirs)
    assert not counts["overlap, held up by a kernel"] + counts["excused overlap"]


def test_what_lies_muted_is_removed_by_the_next_life_of_the_helper() -> None:
    world = fenced(nodes=2, addresses=4)
    first, second = world.hosts.values()
    theirs = set(first.kernel.answering)
    first.crash_helper()
    first.crash_coordinator()
    world.timeline.run(9.0)
    assert theirs <= first.kernel.ours.keys() and theirs <= set(second.kernel.answering)
    first.start_helper()
    world.timeline.run(9.1)
    assert not first.kernel.ours


def test_a_flushed_ruleset_is_made_good_within_20_ms() -> None:
    world = fenced(nodes=2, addresses=4)
    first, _ = world.hosts.values()
    theirs = set(first.kernel.answering)
    first.kernel.flush()
    assert not any(map(first.kernel.ruleset.is_fenced, theirs))
    world.timeline.run(4.02)
    assert all(map(first.kernel.ruleset.is_fenced, theirs))
    assert theirs == set(first.kernel.answering)


def test_a_flush_while_no_helper_lives_is_made_good_by_the_next_one() -> None:
    world = fenced(nodes=2, addresses=4)
    first, _ = world.hosts.values()
    theirs = set(first.kernel.answering)
    first.crash_coordinator()
    first.crash_helper()
    first.kernel.flush()
    world.timeline.run(5.0)
    first.start_helper()
    assert theirs and not first.kernel.answering
    world.timeline.run(5.1)
    assert not first.kernel.ours


@pytest.mark.parametrize("has_fence", [True, False])
def test_who_switches_the_fence_keeps_its_addresses(has_fence: bool) -> None:
    world = fenced(nodes=2, addresses=4)
    first, _ = world.hosts.values()
    theirs = set(first.kernel.answering)
    for now_has_fence in (not has_fence, has_fence):
        first.has_fence = now_has_fence
        first.crash_helper()
        first.start_helper()
        world.timeline.run(world.timeline.now + 6.0)
        assert set(first.kernel.answering) == theirs
        assert all(map(first.kernel.ruleset.is_fenced, theirs)) == now_has_fence


# --- connections -----------------------------------------------------------------------------


def connected(**changes: Any) -> tuple[World, Host, set[Address]]:
    """Two nodes; one of them, and what it holds."""
    world = World(replace(calm(nodes=2, addresses=4), **changes))
    world.timeline.run(4.0)
    host = world.host(0)
    assert len(host.kernel.answering) == 2
    assert host.kernel.connections >= host.kernel.answering.keys()
    world.checker.counts.clear()
    return world, host, {*host.kernel.answering}


def moved(world: World, host: Host, held: set[Address]) -> tuple[int, set[Address]]:
    """How often connections are reset from now on, and which of those that the other node has then
    have connections here."""
    resets = world.checker.counts["connections reset"]
    world.timeline.run(world.timeline.now + 10.0)
    gone = held - host.kernel.ours.keys()
    return world.checker.counts["connections reset"] - resets, host.kernel.connections & gone


@pytest.mark.parametrize("fenced", [frozenset[int](), frozenset({1, 2})])
def test_who_is_unhealthy_resets_the_connections_of_all_that_it_gives_up(
    fenced: frozenset[int],
) -> None:
    world, host, held = connected(fenced=fenced)
    host.sick_until = 100.0
    resets, left = moved(world, host, held)
    assert not host.kernel.ours
    assert resets == 2 and not left


def test_with_leave_connections_stay() -> None:
    world, host, held = connected(leaving=frozenset({1}))
    host.sick_until = 100.0
    assert moved(world, host, held) == (0, held)
    assert not world.checker.counts["connections cleared"]


def test_where_the_kernel_cannot_connections_stay() -> None:
    world, host, held = connected(without_resets=frozenset({1}))
    host.sick_until = 100.0
    assert moved(world, host, held) == (0, held)


def test_who_loses_its_lease_clears_when_it_hears_that_others_have_its_addresses() -> None:
    world, host, held = connected()
    host.sick_until = 100.0  # It gets nothing back.
    host.wire.cut_until(100.0)
    host.mute_until = 4.0
    world.timeline.run(30.0)
    resets = world.checker.counts["connections reset"]
    assert not host.kernel.ours and len(world.checker.holders()) == 4
    host.wire.cut_until(0.0)
    world.timeline.run(40.0)
    assert not host.kernel.connections
    assert world.checker.counts["connections cleared"] + resets >= len(held)


@pytest.mark.parametrize(
    "happens",
    [
        lambda world, host: host.restart_coordinator(),
        lambda world, host: host.crash_coordinator() or host.start_coordinator(),
        lambda world, host: host.crash_helper() or host.start_helper(),
        lambda world, host: host.change_version(is_older=True),
        lambda world, host: world.etcd.freeze(60.0),
        lambda world, host: world.etcd.lose_leader(2.0),
        lambda world, host: world.checker.all_leases_are_lost() or world.etcd.lose_leases(),
    ],
    ids=["restart", "crash", "helper", "other version", "etcd away", "leader lost", "leases lost"],
)
def test_nothing_is_reset_when_nobody_gives_anything_up(
    happens: Callable[[World, Host], object],
) -> None:
    world, host, _ = connected()
    before = {each.name: {*each.kernel.answering} for each in world.hosts.values()}
    happens(world, host)
    world.timeline.run(4.0 + 30.0)
    assert not world.checker.counts["connections reset"]
    assert not world.checker.counts["connections cleared"]
    for each in world.hosts.values():
        assert each.kernel.connections >= before[each.name]


def test_an_upgrade_resets_nothing_nor_does_an_older_node_beside_what_was_claimed() -> None:
    world = World(calm(nodes=2, addresses=4))
    for host in world.hosts.values():
        host.change_version(is_older=True)
    world.timeline.run(4.0)
    assert loads(world) == [2, 2]
    world.checker.counts.clear()
    first, second = world.hosts.values()
    first.change_version(is_older=False)
    world.timeline.run(14.0)
    second.change_version(is_older=False)
    world.timeline.run(24.0)
    first.change_version(is_older=True)
    world.timeline.run(34.0)
    assert loads(world) == [2, 2]
    assert not world.checker.counts["connections reset"]
    assert not world.checker.counts["connections cleared"]


def test_beside_an_older_node_what_was_handed_over_is_given_back_and_claimed_at_once() -> None:
    world, host, _ = connected()
    world.command(drain(host.name))
    world.timeline.run(8.0)
    assert any(mark.version > 1 for mark in world.etcd.marks.values())
    host.change_version(is_older=True)
    world.timeline.run(24.0)
    assert all(mark.version == 1 for mark in world.etcd.marks.values())
    assert len(world.checker.holders()) == 4


def putting_off(*rebalance: Rebalance, addresses: int = 6, older: int | None = None) -> World:
    """A cluster whose nodes have these settings, when all is held evenly; then the last one is
    switched off, until the others have what it had, and started again. `older`: the number of a
    node that has an older version from the beginning."""
    drawn = tuple((each, 0.0) for each in rebalance)
    world = World(replace(calm(len(rebalance), addresses), rebalance=drawn))
    if older is not None:
        world.host(older).change_version(is_older=True)
    for host in world.hosts.values():
        host.put_off(Rebalance.AUTO)
    world.timeline.run(4.0)
    for host, each in zip(world.hosts.values(), rebalance, strict=True):
        host.put_off(each)
    last = world.host(-1)
    last.power_off()
    world.timeline.run(9.0)
    assert len(world.checker.holders()) == addresses
    last.start()
    world.timeline.run(12.0)
    return world


def loads(world: World) -> list[int]:
    held = Counter(names[0] for names in world.checker.holders().values())
    return [held[name] for name in world.hosts]


NEVER, AUTO = Rebalance.NEVER, Rebalance.AUTO


def test_a_node_that_joins_takes_orphans_only_where_nobody_levels() -> None:
    world = putting_off(NEVER, NEVER, NEVER)
    assert loads(world) == [3, 3, 0]
    world.etcd.put_entry(PoolEntry(address(200)))
    world.timeline.run(12.2)
    assert loads(world) == [3, 3, 1]


def test_nodes_with_different_settings_each_decide_for_themselves() -> None:
    assert loads(putting_off(AUTO, AUTO, NEVER)) == [2, 2, 2]
    world = putting_off(AUTO, NEVER, NEVER)
    assert loads(world) == [2, 3, 1]
    moves = world.checker.moves
    world.timeline.run(20.0)
    assert world.checker.moves == moves


def test_a_node_that_stops_hands_all_over_at_once_where_nobody_levels() -> None:
    world = putting_off(NEVER, NEVER, NEVER)
    world.host(0).stop_coordinator()
    world.timeline.run(12.2)
    assert loads(world) == [0, 3, 3]
    # It is started again, and gets nothing back.
    world.timeline.run(20.0)
    assert loads(world) == [0, 3, 3]


def test_beside_a_node_of_an_older_version_who_never_levels_keeps_its_addresses() -> None:
    world = putting_off(NEVER, NEVER, AUTO, older=2)
    world.timeline.run(20.0)
    assert loads(world) == [3, 3, 0]
    world.host(0).change_version(is_older=True)
    world.host(0).put_off(AUTO)
    world.timeline.run(28.0)
    assert loads(world) == [2, 3, 1]


def test_who_levels_again_shares_as_if_nothing_had_been_put_off() -> None:
    world = putting_off(NEVER, NEVER, NEVER, NEVER, addresses=8)
    assert sorted(loads(world)) == [0, 2, 3, 3]
    for host in world.hosts.values():
        host.put_off(AUTO)
    world.timeline.run(14.0)
    assert loads(world) == [2, 2, 2, 2]


def test_a_failing_schedule_is_made_small_and_told() -> None:
    early_release = next(each for each in MUTATIONS if "before the address is" in each.name)
    with mutated(early_release) as run, run.quickly():
        stories = import_module("tests.sim.story")
        scenario = run.draw(0)
        smaller = stories.shrink(scenario)
        told = stories.story(smaller)
    assert len(smaller.faults) < len(scenario.faults)
    assert "releases 192.0.2." in told
    assert "BROKEN: no release before a confirmed removal" in told.splitlines()[-1]


def test_two_holders_are_seen_at_once() -> None:
    world = World(calm(nodes=2, addresses=1))
    first, second = world.hosts.values()
    world.timeline.run(0.0)
    first.kernel.put(address(10), Place("eth0", 32), 2, 3.0)
    with pytest.raises(Broken, match="never two"):
        second.kernel.put(address(10), Place("eth0", 32), 2, 3.0)
