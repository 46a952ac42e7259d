"""What operators ask for in a calm world, and what has to come of it."""

from collections import Counter
from collections.abc import Set
from dataclasses import replace
from math import inf

from tests.sim.check import (
    NOT_DRAINED,
    NOT_HANDED_OVER,
    NOT_IN_SHARES,
    NOT_MOVED,
    PAUSED,
    RESTLESS,
    Broken,
    eligible,
)
from tests.sim.host import RESTARTED_AFTER_S
from tests.sim.orders import drain, move, nothing_more, pause, pin, resume, undrain, weigh
from tests.sim.settled import (
    HANDED_OVER_WITHIN_S,
    QUIET_S,
    TOLD_WITHIN_S,
    end_waits,
    is_waiting_for_a_name,
    one_that_another_may_hold,
    settle,
    settled_within_s,
)
from tests.sim.world import World
from yaim.core.model import Address, NodeName
from yaim.core.settings import Rebalance

ECHOED_WITHIN_S = 0.3
"""Everything is done, and each node says so: two writes."""
MOVED_WITHIN_S = 0.3
"""By order: a removal, a transaction, and an add that may have to wait for a keepalive."""
GAP_S = 0.06
"""How long nobody has an address at most that is handed over, where two go one after the other."""


def drain_some(world: World) -> None:
    """Now some nodes are drained together, perhaps all. What others can hold they give up, each of
    it once and by name; the rest stays. They stay drained when they are started anew."""
    seed, timeline, count = world.scenario.seed, world.timeline, len(world.hosts)
    if count < 2 or seed % 4 or is_waiting_for_a_name(world):
        return
    names = [world.host(seed // 16 + n).name for n in range(1 + seed // 4 % count)]
    before, moves = world.checker.holders(), world.checker.moves
    could, gaps = eligible(world), len(world.checker.gaps)
    going = {a for a, (name, *_) in before.items() if name in names and could[a] - {*names}}
    world.command(drain(*names))
    timeline.run(timeline.now + HANDED_OVER_WITHIN_S)
    _check_drained(world, names)
    stays = {a: on for a, on in before.items() if a not in going}
    is_plain = not any(e.exclude or e.prefer or e.schema > 1 for e in world.etcd.pool.values())
    if is_plain and any(world.checker.holders().get(a) != on for a, on in stays.items()):
        raise Broken(NOT_DRAINED, f"{before} became {world.checker.holders()}")
    if is_plain and world.checker.moves != moves + 2 * len(going):
        raise Broken(NOT_DRAINED, f"{world.checker.moves - moves} changes, for {len(going)}")
    _check_gaps(world, gaps)
    world.checker.counts["addresses drained"] += len(going)
    _check_echo(world, NOT_DRAINED)
    host = world.hosts[names[0]]
    if seed // 4 % 2:
        host.stop_coordinator()
    else:
        host.restart_coordinator()
    timeline.run(timeline.now + RESTARTED_AFTER_S + HANDED_OVER_WITHIN_S)
    _check_drained(world, names)
    world.command(undrain(*names))
    _settle_and_echo(world)


def _check_drained(world: World, names: list[NodeName]) -> None:
    holders = world.checker.holders()
    for each, could in eligible(world).items():
        on = {*holders.get(each, ())}
        if not on or (on & {*names} and could - {*names}):
            raise Broken(NOT_DRAINED, f"{each} is on {on}, and could be on {sorted(could)}")


def _check_gaps(world: World, since: int) -> None:
    long = [gap for gap in world.checker.gaps[since:] if gap > GAP_S]
    world.checker.counts["handed over in a calm world"] += len(world.checker.gaps) - since
    if long:
        raise Broken(NOT_HANDED_OVER, f"on no node for {max(long):.3f} s")


def _check_echo(world: World, what: str) -> None:
    """Every node says that it has done what it was asked for."""
    guard, control = world.etcd.orders.guard, world.etcd.view().control
    for name, node in sorted(world.etcd.nodes.items()):
        told = node.advertisement
        if told.control != guard or told.is_drained != (name in control.drains):
            raise Broken(what, f"{name} says {told.control} of {guard}, and {told.is_drained}")


def _settle_and_echo(world: World) -> None:
    settle(world, world.timeline.now + settled_within_s(world.scenario))
    end_waits(world)
    world.timeline.run(world.timeline.now + ECHOED_WITHIN_S)
    _check_echo(world, RESTLESS)


def pause_all(world: World) -> None:
    """Now all is paused, and a node dies: what it had is taken. It comes back, and gets nothing,
    until all goes on."""
    seed, timeline = world.scenario.seed, world.timeline
    if len(world.hosts) < 2 or seed % 4 != 2 or is_waiting_for_a_name(world):
        return
    world.command(pause())
    timeline.run(timeline.now + ECHOED_WITHIN_S)
    _check_echo(world, PAUSED)
    dead = world.host(seed // 4)
    dead.power_off()
    timeline.run(timeline.now + world.granted_s + HANDED_OVER_WITHIN_S)
    could = eligible(world)
    _check_held(world, {a for a in could if could[a] - {dead.name}}, {dead.name})
    moves = world.checker.moves
    dead.start()
    timeline.run(timeline.now + HANDED_OVER_WITHIN_S)
    unheld = could.keys() - world.checker.holders().keys()
    if world.checker.moves != moves and not any(could[a] == {dead.name} for a in could):
        raise Broken(PAUSED, f"{world.checker.moves - moves} changes; unheld: {len(unheld)}")
    world.checker.counts["came back while all was paused"] += 1
    world.command(resume())
    _settle_and_echo(world)


def _check_held(world: World, addresses: Set[Address], but_by: Set[NodeName]) -> None:
    holders = world.checker.holders()
    for each in sorted(addresses):
        if not {*holders.get(each, ())} - but_by:
            raise Broken(NOT_HANDED_OVER, f"{each} is on {holders.get(each)}")


def move_one(world: World) -> None:
    """Now an address is moved to another node, and one of that comes back for it; or, where none
    can, while all is paused. It is there at once, and stays there."""
    seed, timeline = world.scenario.seed, world.timeline
    if seed % 5 != 4 or (found := one_that_another_may_hold(world)) is None:
        return
    it, host = found
    could, holders, gaps = eligible(world), world.checker.holders(), len(world.checker.gaps)
    other = min(could[it] - {host.name})
    back = [a for a, on in sorted(holders.items()) if on == [other] and host.name in could[a]]
    order = move(it, other)
    if back:
        order = replace(order, puts=order.puts + move(back[0], host.name).puts)
    else:
        order = replace(order, puts=order.puts + pause().puts)
    preferring = any(world.etcd.pool[a].prefer for a in (it, *back))
    if seed // 5 % 2:
        # That puts off nothing that operators ask for.
        for each in world.hosts.values():
            each.put_off(Rebalance.NEVER)
        timeline.run(timeline.now + TOLD_WITHIN_S)
    moves = world.checker.moves
    world.command(order)
    timeline.run(timeline.now + MOVED_WITHIN_S)
    _check_gaps(world, gaps)
    expected = {**holders, it: [other]} | ({back[0]: [host.name]} if back else {})
    if preferring:
        _level_again(world)
        return
    timeline.run(timeline.now + QUIET_S)
    if world.checker.holders() != expected or world.etcd.view().control.moves:
        raise Broken(NOT_MOVED, f"{order}: {world.checker.holders()}")
    if world.checker.moves != moves + 2 * (2 if back else 1):
        raise Broken(NOT_MOVED, f"{order}: {world.checker.moves - moves} changes")
    _check_echo(world, NOT_MOVED)
    world.checker.counts["moved by order"] += len(order.puts)
    _level_again(world)


def _level_again(world: World) -> None:
    for host in world.hosts.values():
        host.put_off(Rebalance.AUTO)
    world.command(nothing_more(world.etcd.view().control))
    _settle_and_echo(world)


def pin_one(world: World) -> None:
    """Now an address is pinned to another node: it goes there, and the rest is even around it. When
    that node is unhealthy, the address is elsewhere; when it is well, it comes back."""
    seed, timeline = world.scenario.seed, world.timeline
    if seed % 7 != 3 or (found := one_that_another_may_hold(world)) is None:
        return
    it, host = found
    other = world.hosts[min(eligible(world)[it] - {host.name})]
    world.command(pin(it, other.name))
    timeline.run(timeline.now + HANDED_OVER_WITHIN_S)
    _check_is_on(world, it, {other.name})
    _settle_and_echo(world)
    able = frozenset(world.hosts) - world.etcd.pool[it].exclude - {other.name}
    other.sick_until = inf
    timeline.run(timeline.now + HANDED_OVER_WITHIN_S)
    _check_is_on(world, it, able)
    other.sick_until = 0.0
    timeline.run(timeline.now + HANDED_OVER_WITHIN_S)
    end_waits(world)
    _check_is_on(world, it, {other.name})
    world.checker.counts["pinned in a calm world"] += 1
    world.command(nothing_more(world.etcd.view().control))
    _settle_and_echo(world)


def _check_is_on(world: World, address: Address, names: Set[NodeName]) -> None:
    on = world.checker.holders().get(address, [])
    if not {*on} & names:
        raise Broken(NOT_MOVED, f"{address} is on {on}, not on {sorted(names)}")


def weigh_all(world: World) -> None:
    """Now nodes get weights: each holds what is its share, rounded down or up."""
    seed, timeline = world.scenario.seed, world.timeline
    pool = world.etcd.pool.values()
    is_plain = not any(e.exclude or e.prefer or e.schema > 1 or e.interface for e in pool)
    if len(world.hosts) < 2 or seed % 3 != 2 or not is_plain or is_waiting_for_a_name(world):
        return
    weights = {name: (1, 2, 3, 10)[(seed // 3 + n) % 4] for n, name in enumerate(world.hosts)}
    world.command(weigh(**weights))
    timeline.run(timeline.now + HANDED_OVER_WITHIN_S)
    held = Counter(name for on in world.checker.holders().values() for name in on)
    total = sum(weights.values())
    for name, weight in weights.items():
        share = len(pool) * weight / total
        if not share - 1 < held[name] < share + 1:
            raise Broken(NOT_IN_SHARES, f"{name} has {held[name]} of {len(pool)}: {weights}")
    _check_echo(world, NOT_IN_SHARES)
    world.checker.counts["weighed in a calm world"] += 1
    world.command(nothing_more(world.etcd.view().control))
    _settle_and_echo(world)
