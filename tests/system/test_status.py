"""`yaim status` and `yaim explain` in real clusters: what is wrong is told, by all that tell of a
node."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from tests.status.test_as_json import validated
from tests.system.watch import yaim, yaim_status
from yaim.core.model import NodeName
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.operate import EtcdOperations
from yaim.dcs.operate import (
    Change,
    Done,
    RemoveDrain,
    RemovePause,
    RemovePin,
    SetDrain,
    SetPause,
    SetPin,
)
from yaim.lab.cluster import Lab
from yaim.lab.node import LabNode
from yaim.lab.plan import LabPlan
from yaim.lab.wait import wait_until

WITHIN_S = 30.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three nodes that share six addresses evenly, as before and after each test."""
    with Lab(LabPlan()) as lab:
        for node in lab.nodes.values():
            node.start()
        lab.wait_until_held(counts=[2, 2, 2])
        yield lab


def told() -> Any:
    return validated(yaim_status("--json").stdout)


def problems() -> dict[str, str]:
    """The subjects of the problems, with code and text."""
    return {each["subject"]: f"{each['code']}: {each['text']}" for each in told()["problems"]}


def wait_for(is_so: Callable[[], bool], what: str, lab: Lab) -> None:
    wait_until(is_so, WITHIN_S, what, lambda: f"{yaim_status().stdout}\n{lab.logs()}")


def wait_until_well(lab: Lab) -> None:
    lab.wait_until_held(counts=[2, 2, 2])
    wait_for(lambda: told()["condition"] == "healthy", "the status to be healthy", lab)


def test_a_cluster_that_is_well_is_healthy(lab: Lab) -> None:
    wait_until_well(lab)
    done = yaim_status()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Cluster /service/yaim/ is healthy.\nRead at 20")
    assert [each["state"] for each in told()["nodes"]] == ["healthy"] * 3
    assert {each["ttl_s"] for each in told()["nodes"]} == {3}


def test_nodes_that_were_killed_or_cut_off_are_missing_until_they_are_back(lab: Lab) -> None:
    """It read `healthy`, with one node."""
    lab.nodes["n2"].kill()
    lab.nodes["n3"].cut()
    lab.wait_until_held(by=["n1"])
    done = yaim_status()
    assert done.returncode == 1
    missing = "is not there, and was not stopped: killed, frozen, cut off or without power"
    assert problems()["n2"].startswith(f"node-missing: {missing}")
    assert problems()["n3"].startswith(f"node-missing: {missing}")
    ended = r"its lease ended 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$"
    wait_for(
        lambda: all(re.search(ended, problems()[name]) for name in ("n2", "n3")),
        "the history to tell when",
        lab,
    )
    assert [each["state"] for each in told()["nodes"]] == ["healthy", "missing", "missing"]
    title = "coordinator n3 healthy 0/?, etcd silent for "
    wait_for(lambda: lab.nodes["n3"].process(title) is not None, "n3's title", lab)
    lab.nodes["n2"].start()
    lab.nodes["n3"].connect()
    wait_until_well(lab)


def test_a_node_that_was_stopped_is_told_and_is_nothing_wrong(lab: Lab) -> None:
    lab.nodes["n2"].stop()
    lab.wait_until_held(by=["n1", "n3"])
    assert yaim_status().returncode == 0
    (stopped,) = (each for each in told()["nodes"] if each["name"] == "n2")
    assert (stopped["state"], stopped["since"] is not None) == ("stopped", True)
    lab.nodes["n2"].start()
    wait_until_well(lab)


def test_a_node_whose_interface_is_down_can_hold_nothing(lab: Lab) -> None:
    down = "can hold nothing: eth0 is down"
    lab.nodes["n3"].set_carrier("down")
    wait_for(
        lambda: problems().get("n3") == f"node-can-hold-nothing: {down}",
        "n3 to be told",
        lab,
    )
    wait_for(
        lambda: lab.nodes["n3"].process(f"coordinator n3 healthy 0/6, {down}") is not None,
        "n3's title",
        lab,
    )
    (row,) = (each for each in yaim_status().stdout.splitlines() if each.startswith("n3 "))
    assert row.split(None, 3) == ["n3", "healthy", "0", down]
    lab.nodes["n3"].set_carrier("up")
    wait_until_well(lab)


def test_a_helper_that_allows_nothing_of_the_pool_can_hold_nothing(lab: Lab) -> None:
    policy = lab.nodes["n2"].directory / "helper.yml"
    before = policy.read_text()
    narrow = yaml.safe_load(before)
    narrow["rules"][0]["networks"] = ["198.51.100.0/24"]
    policy.write_text(yaml.safe_dump(narrow))
    lab.nodes["n2"].reload()
    why = "node-can-hold-nothing: can hold nothing: not allowed on eth0 by the helper"
    wait_for(lambda: problems().get("n2") == why, "n2 to be told", lab)
    policy.write_text(before)
    lab.nodes["n2"].reload()
    wait_until_well(lab)


def test_an_empty_pool_is_a_problem(lab: Lab) -> None:
    for address in lab.plan.pool:
        lab.delete(address)
    wait_for(lambda: "the pool" in problems(), "the pool to be told as empty", lab)
    lab.fill_pool()
    wait_until_well(lab)


@contextmanager
def configured_otherwise(node: LabNode, **keys: object) -> Iterator[None]:
    """The node is started anew with these keys, and as before at the end."""
    before = node.read_config()
    node.stop()
    node.write_config({**before, **keys})
    node.start()
    yield
    node.stop()
    node.write_config(before)
    node.start()


def test_ttls_that_differ_are_told(lab: Lab) -> None:
    with configured_otherwise(lab.nodes["n2"], ttl=5000):
        lab.wait_until_held(counts=[2, 2, 2])
        told_is = {"ttl": "ttl-differs: is 3 s on n1, n3, and 5 s on n2"}
        wait_for(lambda: problems() == told_is, "the ttls to be told", lab)
    wait_until_well(lab)


def test_helpers_that_hold_too_few_when_one_node_is_lost_are_told(lab: Lab) -> None:
    before = {node: (node.directory / "helper.yml").read_text() for node in lab.nodes.values()}
    for node, text in before.items():
        few = {**yaml.safe_load(text), "max-addresses": 2}
        (node.directory / "helper.yml").write_text(yaml.safe_dump(few))
        node.reload()
    want = "if it is lost, the others hold 4 of 6 addresses at most (max-addresses in helper.yml)"
    wait_for(lambda: f"no-spare-capacity: {want}" in problems().values(), "the want", lab)
    lab.nodes["n3"].stop()
    full = "holds as many as its helper allows (max-addresses in helper.yml): n1, n2"
    wait_for(lambda: full in str(problems()), "the full nodes", lab)
    for node, text in before.items():
        (node.directory / "helper.yml").write_text(text)
        if node.is_running:
            node.reload()
    lab.nodes["n3"].start()
    wait_until_well(lab)


def test_a_file_that_differs_from_what_runs_is_told(lab: Lab) -> None:
    node = lab.nodes["n2"]
    before = node.read_config()
    node.write_config({**before, "rebalance": "never"})
    wait_for(lambda: "node-problem" in problems().get("n2", ""), "yaim.yml", lab)
    node.write_config(before)
    wait_until_well(lab)
    policy = node.directory / "helper.yml"
    text = policy.read_text()
    policy.write_text(f"{text}\n# changed\n")
    wait_for(lambda: "node-problem" in problems().get("n2", ""), "helper.yml", lab)
    policy.write_text(text)
    wait_until_well(lab)


def test_a_node_whose_name_another_host_has_says_so(lab: Lab) -> None:
    node = lab.nodes["n2"]
    with configured_otherwise(node, nodename="n1"):
        title = "coordinator n1 waiting: name in use"
        wait_for(lambda: node.process(title) is not None, "the title", lab)
    wait_until_well(lab)


def commit(lab: Lab, change: Change) -> None:
    """As an operator's command does it."""
    client = EtcdClient(lab.etcd_cluster.access(), 5.0)
    try:
        operations = EtcdOperations(lambda: client, lab.keys)
        done = operations.commit(change, operations.look(), "root@db1", datetime.now(UTC))
    finally:
        client.close()
    assert isinstance(done, Done)


def note_of(name: str) -> str:
    return next((each["text"] for each in told()["notes"] if each["subject"] == name), "")


def test_a_drain_and_a_pause_are_told_and_are_nothing_wrong(lab: Lab) -> None:
    n2 = NodeName("n2")
    commit(lab, Change("drain", (SetDrain(n2, "new kernel"), SetPause("careful"))))
    lab.wait_until_held(by=["n1", "n3"])
    drained = lab.nodes["n2"]
    title = "coordinator n2 drained 0/6, paused"
    wait_for(lambda: drained.process(title) is not None, "the title of n2", lab)
    assert note_of("n2").startswith("is drained by root@db1 since 20")
    assert note_of("n2").endswith(": new kernel")
    assert note_of("").startswith("paused by root@db1 since 20")
    assert yaim_status().returncode == 0
    (row,) = (each for each in yaim_status().stdout.splitlines() if each.startswith("n2  "))
    assert row.split(None, 4)[:4] == ["n2", "healthy,", "drained", "0"]
    address = lab.plan.pool[0]
    assert "is drained by root@db1 (new kernel)" in yaim("explain", str(address), "n2").stdout
    commit(lab, Change("undrain", deletes=(RemoveDrain(n2), RemovePause())))
    wait_until_well(lab)


def test_a_drained_node_that_alone_can_hold_addresses_keeps_them_and_is_told(lab: Lab) -> None:
    n1 = NodeName("n1")
    for name in ("n2", "n3"):
        lab.nodes[name].break_service()
    lab.wait_until_held(by=["n1"])
    commit(lab, Change("drain", (SetDrain(n1),)))
    wait_for(lambda: "drained-node-holds" in problems().get("n1", ""), "n1 to be told", lab)
    assert lab.is_held(lab.plan.pool, by=["n1"])
    for name in ("n2", "n3"):
        lab.nodes[name].mend_service()
    lab.wait_until_held(by=["n2", "n3"])
    commit(lab, Change("undrain", deletes=(RemoveDrain(n1),)))
    wait_until_well(lab)


def test_orders_that_cannot_be_followed_are_told(lab: Lab) -> None:
    address, n3 = lab.plan.pool[0], NodeName("n3")
    commit(lab, Change("drain", (SetDrain(NodeName("n9")), SetPin(address, n3))))
    lab.nodes["n3"].set_carrier("down")
    lab.etcd.put(f"{lab.keys.prefix}control/pin/nonsense".encode(), b"?")
    wait_for(lambda: "is pinned to n3, which" in problems().get(str(address), ""), "the pin", lab)
    found = problems()
    assert found["n9"] == "stale-drain: is drained, and no node of that name was ever there"
    assert found["control/pin/nonsense"].startswith("wrong-control-key: cannot be understood: ")
    lab.nodes["n3"].set_carrier("up")
    wait_for(lambda: lab.holders().get(address) == ["n3"], "the pin to be followed", lab)
    commit(lab, Change("unpin", deletes=(RemovePin(address), RemoveDrain(NodeName("n9")))))
    lab.etcd.delete(f"{lab.keys.prefix}control/pin/nonsense".encode())
    wait_until_well(lab)


def test_it_is_explained_why_an_address_is_where_it_is(lab: Lab) -> None:
    address = next(a for a, names in sorted(lab.holders().items()) if names == ["n2"])
    done = yaim("explain", str(address))
    assert done.returncode == 0
    assert done.stdout.startswith(
        f"{address} is held by n2, and is to stay there: its holder keeps"
    )
    one = json.loads(yaim("explain", str(address), "n1", "--json").stdout)
    assert [each["name"] for each in one["nodes"]] == ["n1"]
    for wrong, status, text in (
        (("198.51.100.1",), 1, "198.51.100.1 is not in the pool"),
        ((str(address), "n9"), 1, "there is no node n9"),
        (("x",), 2, "is not an IPv4 or IPv6 address"),
    ):
        done = yaim("explain", *wrong)
        assert (done.returncode, done.stdout, text in done.stderr) == (status, "", True)


def test_only_what_is_named_is_told(lab: Lab) -> None:
    done = yaim_status("n1")
    assert done.returncode == 0
    assert "\nn1 " in done.stdout and "\nn2 " not in done.stdout
    done = yaim_status("n33")
    text = "yaim: 'n33' is neither a node nor an address of the pool: did you mean n3?\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", text)


def test_another_clusters_name_is_told_as_that(lab: Lab) -> None:
    """It read `is degraded`, as of a sick one."""
    done = yaim_status("--dcs-clustername=yiam")
    assert done.returncode == 78
    assert done.stdout.endswith("Nothing is there: are dcs-namespace and dcs-clustername right?\n")
