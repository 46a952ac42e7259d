"""A kernel that holds its routing lock (RTNL) for seconds, in a real cluster. It is one lock for
all of the machine: this runs alone (tests/sets.py).

Who has an address meanwhile the kernel's own tables tell (fib_trie), which the lock does not guard.
"""

import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.routing_lock import routing_lock_held
from tests.system.conftest import Build
from tests.system.watch import Watch, never_two
from yaim.core.model import Address
from yaim.lab.cluster import Lab
from yaim.lab.node import LabNode
from yaim.lab.plan import LabPlan, pool_of

pytestmark = pytest.mark.alone
HELD_S = 7.0
FENCED_HELD_S = 10.0
SOON_S = 0.5
"""For so long nothing may be answered on a machine that has much to do."""
"""A helper counts as lost after 2 s, and then its deadlines are over within a ttl and the grace."""


def on(node: LabNode) -> set[str]:
    """The IPv4 addresses that are on its interfaces."""
    lines = node.namespace.run("cat", "/proc/net/fib_trie").splitlines()
    return {line.split()[-1] for line, what in pairwise(lines) if "/32 host LOCAL" in what}


def shared(build: Build, fence: str) -> Lab:
    lab = build(LabPlan(nodes=2, pool=pool_of(4), helper_settings={"fence": fence}))
    for node in lab.nodes.values():
        node.start()
    lab.wait_until_held(counts=[2, 2])
    return lab


def unmarked(lab: Lab) -> list[tuple[str, Address]]:
    """What is on a node that has not marked it."""
    marks = lab.view().marks
    return [
        (node.name, address)
        for node in lab.nodes.values()
        for address in lab.plan.pool
        if str(address) in on(node) and (address not in marks or marks[address].holder != node.name)
    ]


def looked_at(lab: Lab, seconds: float) -> Iterator[list[tuple[str, Address]]]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        # The marks last: what a node removes and releases meanwhile is no fault.
        yield unmarked(lab)
        time.sleep(0.1)


@pytest.mark.parametrize("is_broken", [False, True], ids=["healthy", "unhealthy meanwhile"])
def test_an_address_that_a_held_routing_lock_keeps_on_a_node_keeps_its_mark(
    build: Build, is_broken: bool
) -> None:
    """Without a fence. By the clock it would be gone: neither the helper nor the kernel can remove
    it."""
    lab = shared(build, "off")
    watch = Watch(lab)
    node = lab.nodes["n1"]
    before = on(node)
    with routing_lock_held():
        if is_broken:
            node.break_service()
        for wrong in looked_at(lab, HELD_S):
            assert not wrong, watch.told()
        assert on(node) == before, "the lock was not held"
    if is_broken:
        lab.wait_until_held(by=["n2"])
    else:
        lab.wait_until_held(counts=[2, 2])
    never_two(lab, watch, 2.0)
    assert "still on the interface" in watch.said(node)


def test_with_a_fence_nobody_notices_that_the_routing_lock_is_held(build: Build) -> None:
    """Renewing does without it."""
    lab = shared(build, "auto")
    assert lab.has_fences
    watch = Watch(lab)
    with routing_lock_held():
        watch.look_on(FENCED_HELD_S)
    lab.wait_until_held(counts=[2, 2])
    watch.look_on(1.0)
    assert watch.moves == 0, watch.told()
    assert watch.gap_s() < SOON_S, watch.told()
    assert lab.overlap_s(lab.plan.pool, watch.since, time.monotonic()) == 0.0


def test_with_a_fence_what_is_given_up_behind_a_held_routing_lock_answers_no_more(
    build: Build,
) -> None:
    """It lies on the interface as long as the lock is held, and counts as gone: the other node
    takes it as soon as its own kernel lets it."""
    lab = shared(build, "auto")
    watch = Watch(lab)
    node = lab.nodes["n1"]
    its = [address for address, names in lab.holders().items() if names == ["n1"]]
    others = tuple(address for address in lab.plan.pool if address not in its)
    with routing_lock_held():
        node.break_service()
        watch.look_on(FENCED_HELD_S - 3.0)
        silent_since = time.monotonic()
        watch.look_on(3.0)
        assert set(map(str, its)) <= on(node), "the lock was not held"
        assert watch.gap_s(others) < SOON_S, watch.told()
        answered = [each for each in its if lab.record.has_answered(each, silent_since)]
        assert answered == [], watch.told()
    lab.wait_until_held(by=["n2"])
    watch.look_on(2.0)
    assert lab.overlap_s(lab.plan.pool, watch.since, time.monotonic()) == 0.0, watch.told()
