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
"""A helper counts as lost after 2 s, and then its deadlines are over within a ttl and the grace."""


def on(node: LabNode) -> set[str]:
    """The IPv4 addresses that are on its interfaces."""
    lines = node.namespace.run("cat", "/proc/net/fib_trie").splitlines()
    return {line.split()[-1] for line, what in pairwise(lines) if "/32 host LOCAL" in what}


def shared(build: Build) -> Lab:
    lab = build(LabPlan(nodes=2, pool=pool_of(4)))
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
    """By the clock it would be gone: neither the helper nor the kernel can remove it."""
    lab = shared(build)
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
