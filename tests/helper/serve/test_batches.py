"""Requests that arrive together: put on the interface together, and yet in order."""

import json
from pathlib import Path

import pytest

from tests.helper.network import (
    INTERFACE,
    present,
)
from tests.helper.process import (
    OK_ABSENT,
    OK_PRESENT,
    Client,
    Helper,
    Message,
    add,
    deadline_in,
    leave,
    policy,
    refused,
    running,
)
from yaim.lab.namespaces import Namespace

V4, V6 = "192.0.2.10", "2001:db8::10"


def together(helper: Helper, client: Client, *requests: tuple[str, Message]) -> list[Message]:
    """The replies to what the helper finds waiting for it all at once."""
    with helper.stopped():
        asked = [client.send(op, **fields) for op, fields in requests]
    return [client.receive(each) for each in asked]


def on_interface(*addresses: str, prefix: int = 32) -> list[str]:
    return sorted(f"{INTERFACE} {each}/{128 if ':' in each else prefix}" for each in addresses)


def test_what_depends_on_each_other_is_done_in_order(
    network: Namespace, helper: Helper, client: Client
) -> None:
    far = deadline_in(60)
    replies = together(
        helper,
        client,
        ("remove", {"address": V4}),
        ("add", add(V4)),
        ("add", add(V6)),
        ("add", add(V4)),
        ("remove", {"address": V4}),
        ("announce", {"address": V6}),
        ("announce", {"address": V4}),
        ("add", add(V4)),
        ("renew", {"deadline_ns": far}),
        ("add", add("192.0.2.11", deadline_ns=far)),
        ("list", {"after": ""}),
        ("remove", {"address": V6}),
        ("list", {"after": "192.0.2.10"}),
    )
    assert replies[:4] == [OK_ABSENT, OK_ABSENT, OK_ABSENT, OK_PRESENT]
    assert replies[4:6] == [OK_PRESENT, {"result": "ok"}]
    assert refused(replies[6]) == "foreign"
    assert (replies[7], replies[8]["missing"], replies[9]) == (OK_ABSENT, [], OK_ABSENT)
    assert {each["address"]: each["deadline_ns"] for each in replies[10]["addresses"]} == {
        V4: far,
        V6: far,
        "192.0.2.11": far,
    }
    assert replies[11] == OK_PRESENT
    assert [each["address"] for each in replies[12]["addresses"]] == ["192.0.2.11"]
    assert present(network) == on_interface(V4, "192.0.2.11")


def test_of_adds_together_only_those_fail_that_the_kernel_refuses(
    network: Namespace, helper: Helper, client: Client
) -> None:
    """It is so with two for the same address, too."""
    replies = together(
        helper,
        client,
        ("add", add("192.0.2.1")),
        ("add", add("192.0.2.2", label="thirteenchars")),
        ("add", add("192.0.2.3", label="thirteenchars")),
        ("add", add("192.0.2.3")),
        ("add", add("192.0.2.4")),
    )
    failed = {"result": "failed", "errno": 34, "reason": "Numerical result out of range"}
    assert replies == [OK_ABSENT, failed, failed, OK_ABSENT, OK_ABSENT]
    there = ["192.0.2.1", "192.0.2.3", "192.0.2.4"]
    assert [each["address"] for each in client.list()["addresses"]] == there
    assert present(network) == on_interface(*there)
    results = [each for each in helper.records() if each["type"] == "result" and "address" in each]
    assert [each["outcome"] for each in results] == ["ok", "failed", "failed", "ok", "ok"]


def test_what_cannot_be_put_on_the_interface_takes_no_place(
    network: Namespace, tmp_path: Path
) -> None:
    config = policy(tmp_path / "audit", limit=2)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        replies = together(
            helper,
            client,
            ("add", add("192.0.2.1")),
            ("add", add("192.0.2.2", label="thirteenchars")),
            ("add", add("192.0.2.3")),
            ("add", add("192.0.2.4")),
        )
        assert [each["result"] for each in replies] == ["ok", "failed", "ok", "refused"]
        assert refused(replies[3]) == "limit"
        assert present(network) == on_interface("192.0.2.1", "192.0.2.3")


@pytest.mark.parametrize("is_host_there", [False, True])
def test_the_first_of_a_network_is_refused_also_among_others(
    network: Namespace, tmp_path: Path, is_host_there: bool
) -> None:
    config = policy(tmp_path / "audit", prefixes=(24,))
    for name in ("all", INTERFACE):
        network.run("sysctl", "-qw", f"net.ipv4.conf.{name}.promote_secondaries=0")
    if is_host_there:
        network.run("ip", "address", "add", "192.0.2.200/24", "dev", INTERFACE)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        first, second = together(
            helper,
            client,
            ("add", add("192.0.2.1", prefix=24)),
            ("add", add("192.0.2.2", prefix=24)),
        )
    if is_host_there:
        assert (first, second) == (OK_ABSENT, OK_ABSENT)
    else:
        assert (refused(first), refused(second)) == ("primary", "primary")


def test_what_is_gone_is_not_put_back_as_the_first_of_its_network(
    network: Namespace, tmp_path: Path
) -> None:
    """It would take all others along when it is removed."""
    config = policy(tmp_path / "audit", prefixes=(24,))
    for name in ("all", INTERFACE):
        network.run("sysctl", "-qw", f"net.ipv4.conf.{name}.promote_secondaries=0")
    hosts = ("ip", "address", "add", "192.0.2.200/24", "dev", INTERFACE)
    network.run(*hosts)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        assert client.add(V4, prefix=24) == OK_ABSENT
        assert client.add(V6) == OK_ABSENT
        # With it the kernel removes the others of its network.
        network.run("ip", "address", "delete", "192.0.2.200/24", "dev", INTERFACE)
        for _ in range(2):
            assert client.renew(deadline_in(60)) == {"result": "ok", "missing": [V4]}
        assert present(network) == on_interface(V6)
        network.run(*hosts)
        assert client.renew(deadline_in(60)) == {"result": "ok", "missing": []}
        assert present(network) == on_interface(V4, "192.0.2.200", prefix=24) + on_interface(V6)


def test_what_an_earlier_life_left_elsewhere_moves_to_where_it_is_added(
    network: Namespace, tmp_path: Path
) -> None:
    config = policy(tmp_path / "audit", prefixes=(24, 32))
    leave(network, tmp_path, f"{V4}/24", f"{V4}/32")
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        replies = together(
            helper, client, ("add", add(V4)), ("add", add(V4)), ("remove", {"address": V4})
        )
        assert replies == [OK_PRESENT] * 3
        assert present(network) == []


def test_more_adds_than_are_taken_in_one_turn_are_all_done(
    network: Namespace, tmp_path: Path
) -> None:
    config = policy(tmp_path / "audit", limit=300)
    addresses = [f"192.0.2.{n}" for n in range(1, 91)] + [f"2001:db8::{n:x}" for n in range(1, 61)]
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        asked = [client.send("add", **add(each)) for each in addresses]
        assert [client.receive(each) for each in asked] == [OK_ABSENT] * len(addresses)
        shown = json.loads(network.run("ip", "-json", "address", "show", "dev", INTERFACE))
        there = {each["local"]: each["preferred_life_time"] for each in shown[0]["addr_info"]}
        assert there == dict.fromkeys(addresses, 0)
