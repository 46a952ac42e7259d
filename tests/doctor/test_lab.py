"""`yaim doctor` on nodes of the lab, with a real helper and coordinator at work."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from yaim.core.model import PoolEntry
from yaim.lab import host
from yaim.lab.cluster import Lab
from yaim.lab.node import USER, LabNode
from yaim.lab.plan import LabPlan
from yaim.lab.wait import wait_until


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(LabPlan(nodes=1)) as lab:
        lab.nodes["n1"].start()
        lab.wait_until_held()
        yield lab


def doctor(node: LabNode) -> tuple[int, dict[str, list[str]], str]:
    """Exit status; point to verdicts and texts; and all of it, to be shown."""
    files = (f"--config={node.directory / 'yaim.yml'}",)
    helper = (f"--helper-config={node.directory / 'helper.yml'}",)
    users = (f"--user={USER}", f"--helper-user={host.HELPER_USER}")
    command = (sys.executable, "-P", "-m", "yaim", "doctor", "--json", *files, *helper, *users)
    done = subprocess.run(
        ("nsenter", f"--target={node.supervisor()}", "--all", "--", *command),
        capture_output=True,
        text=True,
    )
    found: dict[str, list[str]] = {}
    for each in json.loads(done.stdout)["findings"]:
        found.setdefault(each["point"], []).append(f"{each['verdict']}: {each['text']}")
    return done.returncode, found, done.stdout + done.stderr


def wait_until_told(lab: Lab, why: str) -> None:
    """Waits until no address is held, and etcd knows it and why: it is told last."""

    def is_told() -> bool:
        view = lab.view()
        told = [
            f"{node.why_not(PoolEntry(lab.plan.pool[0]))}: {node.advertisement.reason}"
            for node in view.nodes.values()
        ]
        return not view.marks and not lab.holders() and any(why in each for each in told)

    wait_until(is_told, 30.0, f"{why!r} to be told", lab.logs)


def test_a_healthy_node_is_told_to_be_so_and_not_disturbed(lab: Lab) -> None:
    node = lab.nodes["n1"]
    before, log = node.processes("helper", "coordinator"), (node.directory / "log").read_text()
    status, found, shown = doctor(node)
    assert status == 0, shown
    (fence,) = found.pop("fence")
    assert re.fullmatch(r"ok: in force: table yaim-\d+ \(nft list ruleset\)", fence), shown
    bad = [each for texts in found.values() for each in texts if not each.startswith("ok: ")]
    assert bad == []
    assert found["allowed here"] == ["ok: 6 of 6 addresses can be put here by the helper"]
    assert found["nodes"] == ["ok: n1 is healthy and holds 6 addresses (other nodes: none)"]
    assert found["helper"] == ["ok: answers at /run/yaim-helper/helper.sock"]
    assert node.processes("helper", "coordinator") == before
    assert "WARNING" not in (node.directory / "log").read_text().removeprefix(log)
    assert lab.is_held(lab.plan.pool)


def test_a_node_whose_service_fails_is_told_why(lab: Lab) -> None:
    node = lab.nodes["n1"]
    node.break_service()
    try:
        wait_until_told(lab, "HTTP 503, expected 200")
        status, found, shown = doctor(node)
    finally:
        node.mend_service()
    assert status == 1, shown
    assert found["checks"][0] == "problem: http: HTTP 503, expected 200"
    assert found["nodes"][0].startswith("problem: n1 is unhealthy: HTTP 503, expected 200")
    assert "held by nobody" in found["pool"][1]
    lab.wait_until_held()


def test_an_interface_that_is_down_is_told(lab: Lab) -> None:
    node = lab.nodes["n1"]
    node.set_carrier("down")
    try:
        wait_until_told(lab, "eth0 is down")
        status, found, shown = doctor(node)
    finally:
        node.set_carrier("up")
    assert status == 1, shown
    assert found["interface"] == ["problem: eth0 has no carrier"]
    assert found["nodes"][0] == "problem: n1 can hold nothing: eth0 is down"
