"""Entries and settings that are changed or wrong, while addresses are held: with real helpers."""

import json
import signal

import pytest
import yaml

from tests.system.conftest import Build
from tests.system.watch import Watch, log_of, never_two, wait_for_log, yaim_status
from yaim.core.model import Address
from yaim.lab.cluster import Lab
from yaim.lab.node import LabNode
from yaim.lab.plan import LabPlan
from yaim.lab.wait import wait_until

MOMENT_S = 0.3
"""The time for what takes some milliseconds, on a busy machine, if that does not hold it up just
then."""
HAND_OVER_S = 2.0
"""The same, whatever it does. What is not handed over lasts as long as a lease: 3 s, or more."""


def put(lab: Lab, address: Address, options: str) -> None:
    lab.etcd.put(lab.keys.pool_entry(address), options.encode())


def holder_of(lab: Lab, address: Address) -> LabNode:
    (name,) = lab.holders()[address]
    return lab.nodes[name]


def places_of(lab: Lab, address: Address) -> list[str]:
    """Returns the places of an address on all nodes, as in `eth0 192.0.2.11/24`."""
    return [
        f"{link['ifname']} {each['local']}/{each['prefixlen']}"
        for node in lab.nodes.values()
        for link in json.loads(node.namespace.run("ip", "-j", "address", "show"))
        for each in link["addr_info"]
        if each["local"] == str(address)
    ]


def allow(lab: Lab, *lengths: int) -> None:
    for node in lab.nodes.values():
        file = node.directory / "helper.yml"
        keys = yaml.safe_load(file.read_text())
        for rule in keys["rules"]:
            rule["prefix-lengths"] = list(lengths)
        file.write_text(yaml.safe_dump(keys))


def test_a_typo_in_entries_costs_no_address_and_the_status_says_what_is_wrong(
    build: Build,
) -> None:
    """Also while a coordinator is started anew, which takes long on a busy machine."""
    lab = build(LabPlan(ttl_ms=10_000))
    for node in lab.nodes.values():
        node.start()
    lab.wait_until_held(counts=[2, 2, 2])
    watch = Watch(lab)
    first, second, third, *_ = lab.plan.pool
    put(lab, first, '{"prefix": 32,}')
    put(lab, second, '{"interface": "eht0"}')
    put(lab, third, '{"exlcude": ["n1"]}')
    for node in lab.nodes.values():
        wait_for_log(node, f"wrong pool entry '{first}'")
    holder_of(lab, first).signal(signal.SIGUSR1, "coordinator")
    watch.look_on(2.0)
    done = yaim_status("--config", str(lab.nodes["n1"].directory / "yaim.yml"), "--json")
    told = json.loads(done.stdout)
    reasons = {each["address"]: each["reason"] for each in told["addresses"]}
    assert done.returncode == 1
    assert len(told["addresses"]) == len(lab.plan.pool)
    assert all(each["holder"] for each in told["addresses"])
    assert "its entry is wrong" in reasons[str(first)]
    assert reasons[str(second)] == "not allowed on eht0 by the helper"
    assert [each["entry"] for each in told["wrong_entries"]] == [str(first), str(third)]
    for address in (first, second, third):
        put(lab, address, "")
    watch.look_on(1.0)
    assert watch.is_unnoticed(), watch.told()


def test_a_changed_prefix_length_is_applied_to_what_is_held(build: Build) -> None:
    lab = build(LabPlan())
    allow(lab, 24, 32, 128)
    for node in lab.nodes.values():
        node.start()
    lab.wait_until_held(counts=[2, 2, 2])
    address, *_ = lab.plan.pool
    before, watch = lab.holders(), Watch(lab)
    put(lab, address, '{"prefix": 24}')
    wait_until(lambda: places_of(lab, address) == [f"eth0 {address}/24"], 20.0, "the prefix length")
    node = holder_of(lab, address)
    wait_for_log(node, f"holds {address} on eth0, /24; it was on eth0, /32")
    node.write_config({**node.read_config(), "netmask": 24})
    node.reload()
    mine = [each for each, names in before.items() if names == [node.name]]
    for each in mine:
        wait_until(lambda each=each: places_of(lab, each) == [f"eth0 {each}/24"], 20.0, "SIGHUP")  # type: ignore[misc]
    assert lab.holders() == before
    assert watch.gap_s() < HAND_OVER_S, watch.told()
    assert min(watch.gap_s((each,)) for each in mine) < MOMENT_S, watch.told()
    never_two(lab, watch, 0.5)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("netmask", 25, "the helper's allowlist has another prefix length for"),
        ("interface", "eth9", "there is no eth9 on this host (there are "),
        ("interface", "lo", "the helper's allowlist has no lo: eth0 stays in force"),
    ],
)
def test_a_mistake_that_all_nodes_are_told_by_sighup_is_told_at_once_and_costs_nothing(
    lab: Lab, key: str, value: object, told: str
) -> None:
    watch = Watch(lab)
    for node in lab.nodes.values():
        node.write_config({**node.read_config(), key: value})
        node.reload()
    for node in lab.nodes.values():
        wait_for_log(node, told)
    watch.look_on(2.0)
    assert watch.is_unnoticed(), watch.told()
    assert set(lab.holders()) == set(lab.plan.pool)


def test_a_restart_under_another_name_hands_everything_over_first(build: Build) -> None:
    """The lease would last for a minute."""
    lab = build(LabPlan(ttl_ms=60_000))
    for node in lab.nodes.values():
        node.start()
    lab.wait_until_held(counts=[2, 2, 2])
    node, watch = lab.nodes["n1"], Watch(lab)
    node.write_config({**node.read_config(), "nodename": "another"})
    node.signal(signal.SIGUSR1, "coordinator")
    lab.wait_until_held(by=["n2", "n3"])
    assert "nodename changed, so the next process finds nothing of this one's" in log_of(node)
    lab.wait_until_held(counts=[2, 2, 2])
    assert watch.gap_s() < HAND_OVER_S, watch.told()
    never_two(lab, watch, 0.5)


def test_a_restart_with_a_wrong_file_hands_everything_over_first(build: Build) -> None:
    lab = build(LabPlan(ttl_ms=60_000))
    for node in lab.nodes.values():
        node.start()
    lab.wait_until_held(counts=[2, 2, 2])
    node, watch = lab.nodes["n1"], Watch(lab)
    node.write_config({**node.read_config(), "colour": "green"})
    node.signal(signal.SIGUSR1, "coordinator")
    lab.wait_until_held(by=["n2", "n3"])
    assert "colour: expected a known key" in log_of(node)
    assert watch.gap_s() < HAND_OVER_S, watch.told()


def test_an_interface_may_be_called_by_a_further_name(build: Build) -> None:
    """The helper's allowlist has eth0."""
    lab = build(LabPlan(ttl_ms=10_000, settings={"interface": "lan0"}))
    for node in lab.nodes.values():
        node.namespace.run("ip", "link", "property", "add", "dev", "eth0", "altname", "lan0")
        node.start()
    lab.wait_until_held(counts=[2, 2, 2])
    watch, address = Watch(lab), lab.plan.pool[0]
    put(lab, address, '{"interface": "lan0"}')
    watch.look_on(1.0)
    assert places_of(lab, address) == [f"eth0 {address}/32"]
    assert watch.is_unnoticed(), watch.told()
