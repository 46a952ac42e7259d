"""Nodes of two versions of yaim in one cluster: the code as it is, and as it was before nodes told
each other their versions.

An upgrade is what the package does: other code in the same place, then SIGUSR1 to the supervisor.
"""

import compileall
import json
import os
import signal
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import yaim
from tests.system.conftest import Build
from tests.system.watch import Watch
from yaim.core.model import NodeName
from yaim.core.placement import VERSION
from yaim.lab.cluster import Lab
from yaim.lab.node import LabNode
from yaim.lab.plan import LabPlan, pool_of
from yaim.lab.wait import wait_until

OLDER = Path(__file__).parent / "older" / "yaim.tar.xz"
PRESENT = Path(yaim.__file__).parent
HAND_OVER_S = 3.0
"""The time for an address of a healthy node: some 10 ms, and what an even busier machine takes.
What is not handed over lasts as long as a lease: 10 s."""


class Versions:
    """Which code each node of a lab runs."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._older = lab.directory / "older" / "yaim"
        with tarfile.open(OLDER) as archive:
            archive.extractall(self._older.parent)
        compileall.compile_dir(self._older, quiet=1)
        for node in lab.nodes.values():
            self._place(node).parent.mkdir(mode=0o755)

    def start(self, node: LabNode, *, is_older: bool) -> None:
        place = self._place(node)
        place.symlink_to(self._older if is_older else PRESENT)
        node.start("env", f"PYTHONPATH={place.parent}")

    def change(self, node: LabNode, *, is_older: bool) -> None:
        """An upgrade or a downgrade, which nobody may notice."""
        watch = Watch(self._lab)
        new = self._place(node).with_name("new")
        new.symlink_to(self._older if is_older else PRESENT)
        new.replace(self._place(node))
        os.kill(node.supervisor(), signal.SIGUSR1)
        told = 1 if is_older else VERSION
        wait_until(lambda: self.of(node) == told, 30.0, f"{node.name} to tell its version")
        watch.look_on(1.0)
        assert watch.is_unnoticed(), watch.told()

    def of(self, node: LabNode) -> int:
        """The version of the placement that it advertises; 1 if none."""
        pairs, _ = self._lab.etcd.read_all(*self._lab.keys.all())
        told = json.loads(pairs[self._lab.keys.node(NodeName(node.name))].value)
        version: int = told.get("placement", 1)
        return version

    def _place(self, node: LabNode) -> Path:
        """Where Python finds its code."""
        return node.directory / "code" / "yaim"


@contextmanager
def unnoticed_but_for_hand_overs(lab: Lab, at_most: int) -> Iterator[None]:
    """No address on two nodes, none away for long, and none moved that need not be: nodes of
    different versions agree who is to hold what."""
    watch = Watch(lab)
    yield
    watch.look_on(1.0)
    assert watch.overlap_s == 0.0
    assert watch.gap_s() < HAND_OVER_S, watch.told()
    assert watch.moves <= at_most, watch.told()


def fails_and_recovers(lab: Lab, node: LabNode) -> None:
    """Three of nine addresses go to the others, two more than those had, and come back."""
    with unnoticed_but_for_hand_overs(lab, 6):
        others = [name for name in lab.nodes if name != node.name]
        node.break_service()
        lab.wait_until_held(by=others, counts=[5, 4, 0])
        node.mend_service()
        lab.wait_until_held(counts=[3, 3, 3])


@pytest.mark.parametrize("is_upgrade", [True, False], ids=["upgrade", "downgrade"])
def test_one_node_after_the_other_gets_another_version_and_nothing_moves(
    build: Build, is_upgrade: bool
) -> None:
    """With both versions alive each node in turn fails and recovers."""
    lab = build(LabPlan(pool=pool_of(9), ttl_ms=10_000, settings={"flap-max-wait": 0}))
    versions = Versions(lab)
    first, second, third = lab.nodes.values()
    for node in lab.nodes.values():
        versions.start(node, is_older=is_upgrade)
    lab.wait_until_held(counts=[3, 3, 3])
    versions.change(first, is_older=not is_upgrade)
    fails_and_recovers(lab, first)
    fails_and_recovers(lab, second)
    versions.change(second, is_older=not is_upgrade)
    fails_and_recovers(lab, third)
    versions.change(third, is_older=not is_upgrade)
    fails_and_recovers(lab, third)
    assert {versions.of(node) for node in lab.nodes.values()} == {VERSION if is_upgrade else 1}
