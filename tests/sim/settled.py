"""When a world is settled, and how long what happens in a calm one may take."""

from tests.sim.check import NOT_SETTLED, STILL_WAITING, Broken, eligible
from tests.sim.faults import Scenario
from tests.sim.host import Host
from tests.sim.world import World
from yaim.core.model import Address
from yaim.core.state.advertised import NAME_PATIENCE_S

LOOK_EVERY_S = 0.25
HANDED_OVER_WITHIN_S = 3.0
"""A check, a removal, two writes, an add that may have to wait for a keepalive."""
TOLD_WITHIN_S = 0.2
"""That an address is there for another reason: a look at the kernel, a write."""
TAKEN_WITHIN_S = 1.0
"""What is there no more: a write, a claim, an add that may have to wait for a keepalive."""
WAITS_END_WITHIN_S = 1.0
"""After the settings have changed: one write."""
QUIET_S = 2.0
"""When all is settled nothing moves any more; that is watched for this long."""


def settled_within_s(scenario: Scenario) -> float:
    """Faults may leave a dead node's advertisement that a new leader has just given its full TTL,
    under a name that a rebooted host waits for; it may have been refused before and be started
    anew. Then keepalives, reads, checks and moves take their time."""
    granted_s = max(scenario.ttl_s, scenario.min_ttl_s)
    return 2 * granted_s + NAME_PATIENCE_S + 10.0


def settle(world: World, limit: float) -> None:
    while (why_not := world.why_not_settled()) is not None:
        if world.timeline.now >= limit:
            within_s = settled_within_s(world.scenario)
            raise Broken(NOT_SETTLED, f"after {within_s:g} s {why_not}")
        world.timeline.run(world.timeline.now + LOOK_EVERY_S)


def end_waits(world: World) -> None:
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
    settle(world, timeline.now + settled_within_s(world.scenario))


def one_that_another_may_hold(world: World) -> tuple[Address, Host] | None:
    """Returns an address that another node may hold, with its holder."""
    if len(world.hosts) < 2 or is_waiting_for_a_name(world):
        return None
    holders = world.checker.holders()
    found = sorted(a for a, names in holders.items() if eligible(world)[a] - {*names})
    if not found:
        return None
    it = found[world.scenario.seed // 6 % len(found)]
    return it, world.hosts[holders[it][0]]


def is_waiting_for_a_name(world: World) -> bool:
    """Whether a host that was booted still waits for the lease of its earlier life to expire; what
    is handed to it waits with it."""
    return any(
        world.hosts[name].session != node.advertisement.session
        for name, node in world.etcd.nodes.items()
    )
