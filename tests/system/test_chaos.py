"""Random faults in a lab of five nodes and three etcd members; and that its watcher sees what must
not be. YAIM_CHAOS_MINUTES says for how long, YAIM_CHAOS_SEED repeats one."""

import os
import random
import signal
import time

import pytest

from bench.chaos import run
from tests.system.conftest import Build
from yaim.core.model import Address
from yaim.lab.cluster import Lab
from yaim.lab.plan import LabPlan, pool_of
from yaim.lab.wait import wait_until

MINUTES = float(os.environ.get("YAIM_CHAOS_MINUTES", "3"))
SEED = int(os.environ.get("YAIM_CHAOS_SEED", random.SystemRandom().getrandbits(32)))


@pytest.mark.timeout(MINUTES * 60 + 240)
def test_no_two_nodes_ever_answer_for_an_address_nor_for_long_none() -> None:
    report = run(MINUTES, SEED, ttl_ms=5000)
    told = "\n".join((f"seed {SEED}", *report.lines(), *report.evidence))
    assert report.overlap_s == 0, told
    assert report.uncovered.beyond_bound_s == 0, told
    assert report.even_after_s is not None, told


@pytest.mark.parametrize(
    ("lifetimes", "is_overlap"),
    [(("valid_lft", "60", "preferred_lft", "0"), True), ((), False)],
    ids=["as yaim does", "for good"],
)
def test_an_address_added_to_a_second_node_is_an_overlap_if_it_looks_like_yaims(
    build: Build, lifetimes: tuple[str, ...], is_overlap: bool
) -> None:
    lab = build(LabPlan(nodes=2, pool=pool_of(2)))
    for node in lab.nodes.values():
        node.start()
    lab.wait_until_held(counts=[1, 1])
    since = time.monotonic()
    address, holder = next((a, names[0]) for a, names in lab.holders().items())
    second = next(node for name, node in lab.nodes.items() if name != holder)
    second.namespace.run("ip", "addr", "add", f"{address}/32", "dev", "eth0", *lifetimes)
    if is_overlap:
        # What comes and goes before who watches looks again is none to him.
        wait_until(lambda: len(lab.holders().get(address, [])) == 2, 20.0, "it to be seen on both")
        time.sleep(0.3)
    second.namespace.run("ip", "addr", "del", f"{address}/32", "dev", "eth0")
    if is_overlap:
        wait_until(lambda: lab.holders().get(address) == [holder], 20.0, "it to be seen on one")
        assert min(overlaps_s(lab, address, since)) > 0
    else:
        time.sleep(0.5)
        assert overlaps_s(lab, address, since) == (0, 0)


@pytest.mark.parametrize("is_flushed", [False, True], ids=["fenced", "flushed meanwhile"])
def test_a_frozen_node_overlaps_on_the_wire_only_if_somebody_flushes_its_fence(
    build: Build, is_flushed: bool
) -> None:
    """On its interface the address lies in both cases, until the kernel ends its lifetime."""
    lab = build(LabPlan(nodes=2, pool=pool_of(2)))
    for node in lab.nodes.values():
        node.start()
    lab.wait_until_held(counts=[1, 1])
    if not lab.has_fences:
        pytest.skip("the kernel has no nf_tables")
    since = time.monotonic()
    (address,) = (a for a, names in lab.holders().items() if names == ["n1"])
    frozen = lab.nodes["n1"]
    frozen.signal(signal.SIGSTOP, "supervisor", "coordinator", "helper")
    if is_flushed:
        frozen.namespace.run("nft", "flush", "ruleset")
    wait_until(lambda: "n2" in lab.holders().get(address, []), 20.0, "n2 to take it")
    time.sleep(1.0)
    on_the_wire_s, on_interfaces_s = overlaps_s(lab, address, since)
    assert (on_the_wire_s > 0.5) is is_flushed
    assert (on_the_wire_s > 0.0) is is_flushed
    assert on_interfaces_s > 0.5


def overlaps_s(lab: Lab, address: Address, since: float) -> tuple[float, float]:
    """On the wire and on interfaces."""
    until = time.monotonic()
    lab.wait_for_answers_until(until)
    record = lab.record
    return (
        record.wire_overlap_s({address}, since, until),
        record.overlap_s({address}, since, until),
    )
