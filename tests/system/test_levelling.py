"""What moves though nothing has failed, and when; and checks that are asked for at once."""

import subprocess
import sys

from tests.system.conftest import Build
from tests.system.watch import Watch, log_of, never_two, wait_for_log, yaim_status
from yaim.lab.cluster import Lab
from yaim.lab.node import LabNode
from yaim.lab.plan import LabPlan

LONG_MS = 3_600_000


def reload(lab: Lab, **changed: object) -> None:
    for node in lab.nodes.values():
        reloads = log_of(node).count("the configuration is reloaded")
        node.write_config({**node.read_config(), **changed})
        node.reload()
        wait_for_log(node, "the configuration is reloaded", reloads + 1)


def test_a_node_that_is_well_again_gets_nothing_back_where_nobody_levels(lab: Lab) -> None:
    reload(lab, rebalance="never")
    node, watch = lab.nodes["n1"], Watch(lab)
    node.break_service()
    lab.wait_until_held(by=["n2", "n3"])
    node.mend_service()
    wait_for_log(node, "advertised as healthy", 2)
    wait_for_log(lab.nodes["n2"], "stays here as rebalance is never")
    watch.look_on(1.5)
    assert lab.is_held(lab.plan.pool, by=["n2", "n3"])
    assert yaim_status().returncode == 0
    # What has lost its holder the idle one takes, too.
    lab.nodes["n2"].stop()
    lab.wait_until_held(by=["n1", "n3"])
    lab.nodes["n2"].start()
    lab.wait_until_started()
    reload(lab, rebalance="auto")
    lab.wait_until_held(counts=[2, 2, 2])
    never_two(lab, watch, 0.5)


def check_now(node: LabNode) -> int:
    command = (sys.executable, "-m", "yaim", "check", "--now", "on_role_change", "primary", "pg")
    flag = f"--check-trigger={node.directory / 'for-all' / 'now'}"
    return subprocess.run((*command, flag), timeout=30).returncode


def test_checks_that_are_asked_for_are_made_long_before_they_are_due(build: Build) -> None:
    lab = build(LabPlan(settings={"interval": LONG_MS, "timeout": 2000}))
    for each in lab.nodes.values():
        place = each.directory / "for-all"
        place.mkdir()
        place.chmod(0o777)
        keys = {**each.read_config(), "check-trigger": str(place / "now")}
        each.write_config(keys)
        each.start()
    lab.wait_until_held(counts=[2, 2, 2])
    node, watch = lab.nodes["n1"], Watch(lab)
    node.break_service()
    watch.look_on(1.0)
    assert len([each for names in lab.holders().values() for each in names if each == "n1"]) == 2
    assert check_now(node) == 0
    lab.wait_until_held(by=["n2", "n3"])
    node.mend_service()
    assert check_now(node) == 0
    lab.wait_until_held(counts=[2, 2, 2])
    never_two(lab, watch, 0.5)
    node.stop()
    assert check_now(node) == 1
