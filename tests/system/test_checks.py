"""What checks do to a cluster: several of them on a node, and a node that flaps."""

import json

from tests.system.conftest import Build
from tests.system.watch import Watch, log_of, never_two, wait_for_log, yaim_status
from yaim.lab import service
from yaim.lab.cluster import Lab
from yaim.lab.node import LabNode
from yaim.lab.plan import LabPlan
from yaim.lab.wait import wait_until

URL = f"http://127.0.0.1:{service.PORT}/"
WEB: dict[str, object] = {"name": "web", "type": "http", "http-url": URL}
FLAG = "unfit"
DISK: dict[str, object] = {
    "name": "disk",
    "type": "shell",
    "shell-command": f"test ! -e {FLAG}",
    "interval": 500,
}


def listed(*checks: dict[str, object], **more: object) -> dict[str, object]:
    """Keys with these checks instead of the lab's usual one."""
    return {"checker-type": None, "http-url": None, "checks": list(checks), **more}


def disk_of(node: LabNode) -> dict[str, object]:
    return {
        **DISK,
        "shell-command": f"! test -e {node.directory / FLAG} || {{ echo full; false; }}",
    }


def start_with(lab: Lab, **more: object) -> None:
    """All nodes, with both checks."""
    for node in lab.nodes.values():
        node.write_config({**node.read_config(), **listed(WEB, disk_of(node)), **more})
        node.start()
    lab.wait_until_held(counts=[2, 2, 2])


def spoil_disk(node: LabNode) -> None:
    (node.directory / FLAG).touch()


def mend_disk(node: LabNode) -> None:
    (node.directory / FLAG).unlink()


# --- several checks on a node --------------------------------------------------------------------


def test_where_all_checks_have_to_be_good_any_that_fails_costs_the_addresses(build: Build) -> None:
    lab = build(LabPlan())
    start_with(lab)
    node = lab.nodes["n1"]
    watch = Watch(lab)
    spoil_disk(node)
    lab.wait_until_held(by=["n2", "n3"])
    watch.wait_until_said("advertised as unhealthy", by=[node])
    said = watch.said(node)
    assert said.count("check disk: unhealthy: exit status 1") == 1
    assert said.count(" unhealthy: disk\n") == 1
    assert "check web" not in said
    mend_disk(node)
    lab.wait_until_held(counts=[2, 2, 2])
    never_two(lab, watch, 0.5)


def test_where_any_check_is_enough_all_have_to_fail(build: Build) -> None:
    lab = build(LabPlan(ttl_ms=10_000))
    start_with(lab, **{"healthy-when": "any"})
    node = lab.nodes["n1"]
    watch = Watch(lab)
    spoil_disk(node)
    watch.wait_until_said("check disk: unhealthy", by=[node])
    watch.look_on(1.5)
    assert (watch.moves, watch.gap_s()) == (0, 0.0)
    node.break_service()
    lab.wait_until_held(by=["n2", "n3"])


def test_a_check_that_sighup_adds_or_takes_away_costs_no_address(build: Build) -> None:
    lab = build(LabPlan(ttl_ms=10_000))
    start_with(lab)
    node = lab.nodes["n1"]
    watch = Watch(lab)
    more = {"name": "more", "type": "tcp", "tcp-address": f"127.0.0.1:{service.PORT}"}
    for checks in ((WEB, disk_of(node), more), (WEB, more), (more,)):
        reloads = log_of(node).count("the configuration is reloaded")
        node.write_config({**node.read_config(), **listed(*checks)})
        node.reload()
        wait_for_log(node, "the configuration is reloaded", reloads + 1)
        watch.look_on(1.5)
    assert (watch.moves, watch.gap_s()) == (0, 0.0)
    assert "check more has changed or is new" in watch.said(node)
    assert "check disk is no more" in watch.said(node)


def test_a_shell_check_that_hangs_costs_the_addresses_and_nothing_else(build: Build) -> None:
    """The other checks and the coordinator go on; no process of it stays behind."""
    lab = build(LabPlan())
    node = lab.nodes["n1"]
    hangs = f"test ! -e {node.directory / FLAG} || {{ sleep 1234 & sleep 1234; }}"
    hanging = {**DISK, "shell-command": hangs, "timeout": 600, "retry-num": 0}
    for each in lab.nodes.values():
        checks = (WEB, hanging if each is node else disk_of(each))
        each.write_config({**each.read_config(), **listed(*checks)})
        each.start()
    lab.wait_until_held(counts=[2, 2, 2])
    watch = Watch(lab)
    spoil_disk(node)
    wait_until(lambda: node.processes_like("sleep 1234") != [], 20.0, "it to hang", lab.logs)
    lab.wait_until_held(by=["n2", "n3"])
    assert "check disk: unhealthy: no end within 0.56 s" in watch.said(node)
    mend_disk(node)
    lab.wait_until_held(counts=[2, 2, 2])
    assert node.processes_like("sleep 1234") == []
    never_two(lab, watch, 0.5)


# --- flapping ------------------------------------------------------------------------------------


def flap(lab: Lab, node: LabNode) -> None:
    """Its service fails and recovers, both noticed."""
    falls = log_of(node).count("advertised as unhealthy")
    node.break_service()
    wait_for_log(node, "advertised as unhealthy", falls + 1)
    rises = log_of(node).count("advertised as healthy")
    node.mend_service()
    wait_for_log(node, "advertised as healthy", rises + 1)


def test_a_node_that_flaps_waits_before_it_takes_addresses(build: Build) -> None:
    lab = build(LabPlan(settings={"flap-max-wait": 9000}))
    for each in lab.nodes.values():
        each.start()
    lab.wait_until_held(counts=[2, 2, 2])
    node, watch = lab.nodes["n1"], Watch(lab)
    flap(lab, node)
    lab.wait_until_held(counts=[2, 2, 2])
    flap(lab, node)
    watch.look_on(1.5)
    assert lab.is_held(lab.plan.pool, by=["n2", "n3"])
    told = json.loads(yaim_status("--json").stdout)
    (shown,) = (each for each in told["nodes"] if each["name"] == "n1")
    assert (shown["state"], shown["flapping"], shown["waits_s"]) == ("healthy", True, 9)
    lab.wait_until_held(counts=[2, 2, 2])
    never_two(lab, watch, 0.5)


def test_a_node_that_waits_takes_what_no_other_node_can_hold(build: Build) -> None:
    lab = build(LabPlan())
    for each in lab.nodes.values():
        each.start()
    lab.wait_until_held(counts=[2, 2, 2])
    node, watch = lab.nodes["n1"], Watch(lab)
    flap(lab, node)
    lab.wait_until_held(counts=[2, 2, 2])
    flap(lab, node)
    lab.wait_until_held(by=["n2", "n3"])
    watch.look_on(1.0)
    assert lab.is_held(lab.plan.pool, by=["n2", "n3"])
    for name in ("n2", "n3"):
        lab.nodes[name].break_service()
    lab.wait_until_held(by=["n1"])
    lab.nodes["n2"].mend_service()
    lab.wait_until_held(by=["n2"])
    never_two(lab, watch, 0.5)
