"""The helper as the coordinator meets it: a process, its socket, its interface, its record."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.helper.network import (
    INTERFACE,
    MAC,
    PEER,
    Address,
    Change,
    Watch,
    boottime,
    capturing,
    filled,
    is_readable,
    new_network,
    present,
    shown,
    state,
    wait_for,
    watching,
)
from tests.helper.process import (
    DEPRECATED,
    OK_ABSENT,
    OK_PRESENT,
    Client,
    Helper,
    Message,
    add,
    being,
    deadline_in,
    essence,
    handed_in,
    leave,
    policy,
    refused,
    running,
    started,
)
from yaim.lab.namespaces import Namespace

pytestmark = pytest.mark.every_set

V4, V6 = "192.0.2.10", "2001:db8::10"
BOTH: set[Address] = {ip_address(V4), ip_address(V6)}
ON_INTERFACE = [f"{INTERFACE} {V4}/32", f"{INTERFACE} {V6}/128"]
GRACE_S = 0.2
"""helper/PROTOCOL.md: an address is off the interface at most this long after its deadline."""
SHORT_S = 3.9
"""A deadline that is far enough away for an add, also on a machine that does nothing else for a
second, and soon over."""
LONGER_S = 8.0
"""One that outlives it. Of it the kernel gets 4 s: it is renewed in time also by who was held up
for 3 s. (Of 2.9 s it gets one: a renewal that comes 0.5 s late cannot put back what has gone.)"""
TOO_FAR_S = 3605.0
"""A deadline that is farther away than an hour, also when it gets to the helper some time later."""
EX_CONFIG = 78
VECTORS: Mapping[str, list[dict[str, str]]] = json.loads(
    (Path(__file__).parents[3] / "helper" / "vectors.json").read_text()
)
NOT_ON_RECORD: Message = {
    "result": "failed",
    "errno": None,
    "reason": "the audit record cannot be written",
}


@pytest.fixture(params=["off", "auto"])
def fence(request: pytest.FixtureRequest) -> str:
    """What is not about lifetimes in the kernel is so with a fence and without."""
    return str(request.param)


without_fence = pytest.mark.parametrize("fence", ["off"])
"""It is about lifetimes in the kernel, or what a renewal finds before anybody else sees it."""


@pytest.fixture
def watch(network: Namespace) -> Iterator[Watch]:
    with watching(network) as watch:
        yield watch


def add_both(client: Client, deadline_ns: int) -> float:
    """Seconds of CLOCK_BOOTTIME at which neither may be there any more."""
    assert [client.add(each, deadline_ns=deadline_ns) for each in (V4, V6)] == [OK_ABSENT] * 2
    return deadline_ns / 1e9 + GRACE_S


def hang_ups(helper: Helper) -> list[str]:
    """The reasons, of connections from this process."""
    records = [each for each in helper.records() if each["type"] == "hung-up"]
    peer = {"pid": os.getpid(), "uid": os.geteuid(), "gid": os.getegid()}
    assert [each["peer"] for each in records] == [peer] * len(records)
    return [each["reason"] for each in records]


def own_doings(helper: Helper) -> list[tuple[str, str, str]]:
    return [
        (each["op"], each["address"], each["outcome"])
        for each in helper.records()
        if each["type"] == "own"
    ]


def expired(helper: Helper) -> list[str]:
    """Addresses that it knows to be gone, because their deadlines were over."""
    gone = ("removed", "the kernel had removed it")
    return [address for op, address, outcome in own_doings(helper) if outcome in gone]


# --- connecting --------------------------------------------------------------------------------


def test_hello_tells_the_session_the_clock_and_the_rules(
    network: Namespace, helper: Helper, fence: str
) -> None:
    before = boottime()
    with helper.connect() as client:
        reply = client.hello()
    assert before <= reply.pop("boottime_ns") / 1e9 <= boottime()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert reply == {
        "result": "ok",
        "version": 1,
        "session": f"{boot_id}:{os.fstat(network.fd).st_ino}",
        "rules": [
            {
                "interface": INTERFACE,
                "networks": ["192.0.2.0/24", "2001:db8::/64"],
                "prefixes": [32, 128],
                "reset_connections": True,
            }
        ],
        "connections": {"can_reset": True, "reason": ""},
        "capacity": 64,
        "fence": {
            "in_force": fence == "auto",
            "reason": "" if fence == "auto" else "helper.yml says fence: off",
        },
    }


def test_another_version_is_refused_and_may_be_tried_again(helper: Helper) -> None:
    with helper.connect() as client:
        for version in (0, 2, 2**53):
            reply = client.ask("hello", version=version, cluster="test", node="db1")
            assert refused(reply) == "version"
        assert client.hello()["result"] == "ok"


def test_a_cluster_has_one_connection_at_a_time(helper: Helper) -> None:
    with helper.connect() as second:
        with helper.greeted("one"):
            assert refused(second.hello("one")) == "busy"
            assert second.hello("two")["result"] == "ok"
        with helper.connect() as third:
            wait_for(lambda: third.hello("one")["result"] == "ok", "the cluster is free again")


def test_a_refused_hello_allows_nothing(network: Namespace, helper: Helper) -> None:
    with helper.greeted("one"), helper.connect() as second:
        with helper.stopped():
            asked = [
                second.send("hello", version=1, cluster="one", node="db1"),
                second.send("add", **add(V4)),
            ]
        assert [refused(second.receive(each)) for each in asked] == ["busy", "not-allowed"]
        assert present(network) == []


def test_hello_comes_first_and_once(helper: Helper) -> None:
    others: list[tuple[str, Message]] = [
        ("add", add(V4)),
        ("remove", {"address": V4}),
        ("renew", {"deadline_ns": deadline_in(30)}),
        ("list", {"after": ""}),
        ("announce", {"address": V4}),
    ]
    for op, fields in others:
        with helper.connect() as client:
            client.send(op, **fields)
            assert client.is_hung_up()
    with helper.greeted("one") as client:
        client.send("hello", version=1, cluster="two", node="db1")
        assert client.is_hung_up()
    assert hang_ups(helper) == ["malformed: hello comes first, and once"] * 6


def test_an_id_that_does_not_grow_is_hung_up_on(helper: Helper) -> None:
    for number in (0, 1):
        with helper.greeted(f"cluster {number}") as client:
            client.socket.send(json.dumps({"op": "list", "after": "", "id": number}).encode())
            assert client.is_hung_up()
    assert hang_ups(helper) == ["malformed: its id is not larger than the one before"] * 2


def test_a_malformed_message_is_recorded_hung_up_on_and_harms_nobody_else(
    network: Namespace, helper: Helper
) -> None:
    malformed = [each["packet"].encode() for each in VECTORS["malformed"] if each["packet"]]
    malformed += [b"{}".ljust(1025), b"x" * 100_000, b"\xff", b"[" * 1024]
    with helper.greeted("good") as good:
        assert good.add(V4) == OK_ABSENT
        for packet in malformed:
            with helper.greeted("bad") as bad:
                assert bad.add(V6) in (OK_ABSENT, OK_PRESENT)
                bad.socket.send(packet)
                assert bad.is_hung_up()
        reasons = hang_ups(helper)
        assert len(reasons) == 10, "the others are summed up"
        assert [each for each in reasons if not each.startswith("malformed: ")] == []
        assert good.remove(V4) == OK_PRESENT
        assert present(network) == ON_INTERFACE[1:]


def test_what_came_before_a_malformed_message_is_done(
    network: Namespace, helper: Helper, client: Client
) -> None:
    with helper.stopped():
        asked = client.send("add", **add(V4))
        client.socket.send(b"{}")
    assert client.receive(asked) == OK_ABSENT
    assert client.is_hung_up()
    assert present(network) == ON_INTERFACE[:1]


def test_there_are_at_most_eight_connections_of_a_user(helper: Helper) -> None:
    with contextlib.ExitStack() as stack:
        eight = [stack.enter_context(helper.greeted(str(number))) for number in range(8)]
        with helper.connect() as ninth:
            assert ninth.is_hung_up()
        assert hang_ups(helper) == ["its user has 8 connections already"]
        assert [each.remove(V4) for each in eight] == [OK_ABSENT] * 8
        eight[0].__exit__()

        def is_served() -> bool:
            with helper.connect() as another:
                try:
                    another.send("hello", version=0, cluster="another", node="db1")
                except BrokenPipeError:
                    return False
                return not another.is_hung_up()

        wait_for(is_served, "there is room again")


@dataclass(frozen=True)
class Silent:
    """A connection that never says hello, and one whose hellos are refused; begun after `since`."""

    helper: Helper
    clients: tuple[Client, Client]
    since: float


@pytest.fixture(scope="module", autouse=True)
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Silent]:
    """The connections begin with the first test of this file, so that none has to wait for five
    seconds."""
    with (
        new_network() as network,
        running(network, tmp_path_factory.mktemp("silent")) as helper,
        contextlib.ExitStack() as stack,
    ):
        since = boottime()
        one, other = (stack.enter_context(helper.connect()) for _ in range(2))
        assert refused(other.ask("hello", version=7, cluster="c", node="n")) == "version"
        yield Silent(helper, (one, other), since)


def test_who_does_not_take_replies_is_hung_up_on(helper: Helper, client: Client) -> None:
    with helper.greeted("deaf") as deaf, pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(100_000):
            deaf.send("list", after="")
    assert hang_ups(helper)[0].startswith("does not take its replies: ")
    assert client.add(V4) == OK_ABSENT


def test_who_leaves_without_waiting_is_served_all_the_same(
    network: Namespace, helper: Helper
) -> None:
    with helper.greeted() as client, helper.stopped():
        client.send("add", **add(V4))
        client.__exit__()
    wait_for(lambda: present(network) == ON_INTERFACE[:1], "the address is there")
    assert hang_ups(helper) == []


@pytest.mark.parametrize(("allowed", "other"), [(0, 65534), (65534, 0)])
def test_a_user_who_is_not_in_the_policy_is_hung_up_on(
    network: Namespace, tmp_path: Path, allowed: int, other: int
) -> None:
    tmp_path.chmod(0o755)
    config = policy(tmp_path / "audit", users=[allowed])
    with running(network, tmp_path, config=config) as helper:
        helper.socket.chmod(0o666)
        with being(other, tmp_path):
            stranger = Client(Path(helper.socket.name))
        with stranger:
            assert stranger.is_hung_up()
        with being(allowed, tmp_path):
            client = Client(Path(helper.socket.name))
        with client:
            assert client.hello()["result"] == "ok"
        hung_up = [each for each in helper.records() if each["type"] == "hung-up"]
    peer = {"pid": os.getpid(), "uid": other, "gid": 0}
    assert {tuple(sorted(each["peer"].items())) for each in hung_up} == {
        tuple(sorted(peer.items()))
    }
    assert {each["reason"] for each in hung_up} == {"its user is not in the policy"}


def test_the_socket_is_for_root_and_the_group_of_the_first_user(
    network: Namespace, tmp_path: Path
) -> None:
    config = policy(tmp_path / "audit", users=[65534])
    with running(network, tmp_path, config=config) as helper:
        status = wait_for(
            lambda: (s := helper.socket.stat()).st_mode & 0o777 == 0o660 and s, "its mode"
        )
    assert status
    assert (oct(stat.S_IMODE(status.st_mode)), status.st_uid, status.st_gid) == (
        "0o660",
        0,
        65534,
    )


def test_the_first_user_is_the_first_in_the_file(network: Namespace, tmp_path: Path) -> None:
    config = policy(tmp_path / "audit", users=[65534, 0])
    with running(network, tmp_path, config=config) as helper, helper.greeted():
        assert helper.socket.stat().st_gid == 65534


# --- commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "prefix"), [(V4, 32), (V6, 128)])
def test_an_address_is_added_listed_and_removed(
    network: Namespace, client: Client, address: str, prefix: int
) -> None:
    deadline_ns = deadline_in(30)
    whole = f"{INTERFACE} {address}/{prefix}"
    listed = {
        "address": address,
        "interface": INTERFACE,
        "prefix": prefix,
        "deadline_ns": deadline_ns,
    }
    assert client.add(address, deadline_ns=deadline_ns) == OK_ABSENT
    assert present(network) == [whole]
    assert client.add(address, deadline_ns=deadline_ns) == OK_PRESENT
    assert present(network) == [whole]
    assert client.list() == {"result": "ok", "addresses": [listed], "more": False}
    assert client.remove(address) == OK_PRESENT
    assert present(network) == []
    assert client.remove(address) == OK_ABSENT
    assert client.list() == {"result": "ok", "addresses": [], "more": False}


@without_fence
def test_an_ipv4_address_bears_its_label_and_a_finite_lifetime(
    network: Namespace, client: Client
) -> None:
    assert client.add(V4, deadline_ns=deadline_in(30), label="yaim") == OK_ABSENT
    (it,) = shown(network)
    assert 20 <= it["valid_life_time"] <= 24
    assert (it["label"], it["preferred_life_time"]) == ("veth0:yaim", 0)


def test_an_address_can_change_its_prefix_length(network: Namespace, tmp_path: Path) -> None:
    config = policy(tmp_path / "audit", prefixes=(24, 32))
    promote_secondaries(network, 1)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        assert client.add(V4, prefix=32) == OK_ABSENT
        assert client.add(V4, prefix=24) == OK_PRESENT
        assert present(network) == [f"{INTERFACE} {V4}/24"]


@without_fence
def test_a_renewal_moves_every_deadline(network: Namespace, client: Client) -> None:
    add_both(client, deadline_in(10))
    assert max(each["valid_life_time"] for each in shown(network)) < 10
    deadline_ns = deadline_in(100)
    assert client.renew(deadline_ns) == {"result": "ok", "missing": []}
    assert {each["deadline_ns"] for each in client.list()["addresses"]} == {deadline_ns}
    assert all(80 < each["valid_life_time"] < 90 for each in shown(network))


@without_fence
def test_the_helper_extends_a_lifetime_by_itself_as_long_as_the_deadline_allows(
    client: Client, watch: Watch
) -> None:
    client.add(V4, deadline_ns=deadline_in(5))
    wait_for(lambda: len(watch.changes()) >= 2, "its lifetime is set anew")
    assert watch.changes()[:2] == [Change("added", ip_address(V4))] * 2


def test_replies_come_in_the_order_of_the_requests(network: Namespace, client: Client) -> None:
    addresses = [f"192.0.2.{number}" for number in range(1, 51)]
    asked = [client.send("add", **add(each)) for each in addresses]
    asked += [client.send("remove", address=each) for each in addresses]
    assert [client.receive(each) for each in asked] == [OK_ABSENT] * 50 + [OK_PRESENT] * 50
    assert present(network) == []


def test_a_long_list_comes_in_parts(network: Namespace, tmp_path: Path) -> None:
    addresses = [f"192.0.2.{number}" for number in range(1, 151)]
    addresses += [f"2001:db8::{number:x}" for number in range(1, 151)]
    config = policy(tmp_path / "audit", limit=300)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        deadline_ns = deadline_in(60)
        fields = {"interface": INTERFACE, "deadline_ns": deadline_ns}
        shuffled = random.Random(1).sample(addresses, len(addresses))
        asked = [client.send("add", **add(each, deadline_ns=deadline_ns)) for each in shuffled]
        assert [client.receive(each) for each in asked] == [OK_ABSENT] * 300
        first = client.list()
        second = client.list(after=first["addresses"][-1]["address"])
        assert (first["more"], second["more"]) == (True, False)
        assert len(first["addresses"]) == 256
        assert first["addresses"] + second["addresses"] == [
            {"address": each, "prefix": 128 if ":" in each else 32, **fields} for each in addresses
        ]


def test_an_added_address_is_announced_and_again_when_asked(
    network: Namespace, client: Client
) -> None:
    with capturing(network) as capture:
        add_both(client, deadline_in(30))
        announced = capture.announced()
        assert set(announced) == {(address, MAC) for address in BOTH}
        assert client.ask("announce", address=V6) == {"result": "ok"}
        assert (ip_address(V6), MAC) in capture.announced()
        client.remove(V4)
        client.remove(V6)
        capture.announced()
        assert refused(client.ask("announce", address=V4)) == "foreign"
        assert capture.announced() == []


def test_an_address_is_announced_at_the_mac_address_that_its_interface_has_now(
    network: Namespace, client: Client
) -> None:
    """Bonds change theirs."""
    client.add(V4)
    network.run("ip", "link", "set", INTERFACE, "address", "02:00:00:00:00:99")
    with capturing(network) as capture:
        client.ask("announce", address=V4)
        assert {mac for _, mac in capture.announced()} == {"02:00:00:00:00:99"}


@without_fence
def test_the_last_extension_comes_in_time_to_be_one(client: Client, watch: Watch) -> None:
    """It was planned for the very instant after which it is none. With the shortest ttl an address
    was gone 1 s after the last keepalive instead of 1.3 s. A busy machine may wake the helper too
    late for one, but not for all: see test_batches.py for how late that is."""

    def is_extended(number: int) -> bool:
        address = ip_address("192.0.2.0") + number
        if client.add(str(address), deadline_ns=deadline_in(2.75)) != OK_ABSENT:
            return False

        def told() -> list[str]:
            return [each.what for each in watch.changes() if each.address == address]

        wait_for(lambda: len(told()) >= 2, "its lifetime is set anew, or is over")
        return told()[1] == "added"

    assert any(is_extended(number) for number in range(10, 30))


# --- refusals ----------------------------------------------------------------------------------


def test_what_no_rule_allows_is_refused(network: Namespace, client: Client) -> None:
    client.add(V4)
    before = shown(network)
    asked = [
        add("198.51.100.1"),
        add("192.0.2.0"),
        add("192.0.2.255"),
        add("2001:db8::"),
        add("2001:db8:0:1::10"),
        add("127.0.0.1"),
        add(V4, interface=PEER),
        add(V4, interface="lo"),
        add(V4, interface="nosuch"),
        add(V4, prefix=24),
        add(V6, prefix=64),
    ]
    assert {refused(client.ask("add", **each)) for each in asked} == {"not-allowed"}
    assert [each | {"valid_life_time": 0} for each in shown(network)] == [
        each | {"valid_life_time": 0} for each in before
    ]


def test_a_prefix_length_that_ipv4_does_not_have_puts_nothing_there(
    network: Namespace, client: Client
) -> None:
    assert client.add(V4, prefix=128)["result"] in ("refused", "failed")
    assert present(network) == []


def test_an_ipv6_address_brings_no_route_to_a_network_as_large_as_a_providers(
    network: Namespace, client: Client
) -> None:
    reply = client.add(V6, prefix=32)
    assert network.run("ip", "-6", "route", "show", "2001:db8::/32") == ""
    assert refused(reply) == "not-allowed"


def test_no_more_addresses_than_the_limit_are_added(network: Namespace, tmp_path: Path) -> None:
    config = policy(tmp_path / "audit", limit=2)
    with (
        running(network, tmp_path, config=config) as helper,
        helper.greeted() as client,
        helper.greeted("other") as other,
    ):
        add_both(client, deadline_in(30))
        assert refused(client.add("192.0.2.11")) == "limit"
        assert refused(other.add("192.0.2.11")) == "limit"
        assert client.add(V4) == OK_PRESENT
        assert present(network) == ON_INTERFACE
        client.remove(V4)
        assert client.add("192.0.2.11") == OK_ABSENT


@without_fence
def test_a_deadline_that_cannot_be_kept_is_refused(network: Namespace, client: Client) -> None:
    for away_s in (-100.0, -0.001, 0.0, 1.0, 2.1, TOO_FAR_S, 1e9):
        for address in (V4, V6):
            assert refused(client.add(address, deadline_ns=deadline_in(away_s))) == "expired"
    assert refused(client.add(V4, deadline_ns=1)) == "expired"
    assert refused(client.add(V4, deadline_ns=2**63 - 1)) == "expired"
    assert client.list()["addresses"] == []
    assert present(network) == []


def test_a_renewal_to_such_a_deadline_is_refused_and_changes_nothing(
    network: Namespace, client: Client
) -> None:
    deadline_ns = deadline_in(30)
    add_both(client, deadline_ns)
    for away_s in (-100.0, -0.001, TOO_FAR_S, 1e9):
        assert refused(client.renew(deadline_in(away_s))) == "expired"
    assert {each["deadline_ns"] for each in client.list()["addresses"]} == {deadline_ns}
    assert present(network) == ON_INTERFACE


@without_fence
def test_a_command_that_waited_too_long_adds_nothing(
    network: Namespace, helper: Helper, client: Client, watch: Watch
) -> None:
    with helper.stopped():
        deadline_ns = deadline_in(0.5)
        asked = client.send("add", **add(V4, deadline_ns=deadline_in(2.5)))
        wait_for(lambda: boottime() > deadline_ns / 1e9, "0.5 s have passed")
    assert refused(client.receive(asked)) == "expired"
    assert watch.changes() == []


# --- what is not the helper's ------------------------------------------------------------------

LEASED = ("valid_lft", "900", "preferred_lft", "800")
FOREIGN = (
    (f"{V4}/32", INTERFACE),
    (f"{V4}/24", INTERFACE),
    (f"{V4}/32", PEER),
    (f"{V4}/32", "lo"),
    (f"{V4}/32", INTERFACE, *LEASED),
    (f"{V4}/32", INTERFACE, "preferred_lft", "0"),
    (f"{V4}/32", INTERFACE, *DEPRECATED),
    (f"{V4}/32", PEER, *DEPRECATED),
    (f"{V4}/24", INTERFACE, *DEPRECATED),
    (f"{V6}/128", INTERFACE, "nodad"),
    (f"{V6}/64", INTERFACE, "nodad"),
    (f"{V6}/128", "lo", "nodad"),
    (f"{V6}/128", INTERFACE, *LEASED, "nodad"),
    (f"{V6}/64", INTERFACE, *DEPRECATED, "nodad"),
    (f"{V6}/128", INTERFACE, *DEPRECATED, "nodad"),
)
"""Addresses that are not the helper's, as arguments of put_by_admin: without end, leased, or
deprecated with an end."""


def put_by_admin(network: Namespace, address: str, interface: str, *further: str) -> None:
    network.run("ip", "address", "add", address, "dev", interface, *further)


def remove_by_admin(network: Namespace, address: str, interface: str, *_: str) -> None:
    network.run("ip", "address", "delete", address, "dev", interface)


def copies(*places: tuple[str, ...]) -> Message:
    """A reply's part about copies at such places."""
    told = []
    for place, interface in places:
        address, _, prefix = place.partition("/")
        told.append({"address": address, "interface": interface, "prefix": int(prefix)})
    return {"copies": told}


def timeless(network: Namespace) -> list[Message]:
    """What is there, of lifetimes with an end only whether they are (nearly) over."""
    found = []
    for each in shown(network):
        for key in ("valid_life_time", "preferred_life_time"):
            if 700 < each[key] <= 900:
                each[key] = 700
        found.append(each)
    return found


def test_an_address_of_the_host_is_foreign_and_stays_as_it_is(
    network: Namespace, client: Client
) -> None:
    for foreign in FOREIGN:
        put_by_admin(network, *foreign)
        before = timeless(network)
        address = foreign[0].partition("/")[0]
        assert (foreign, refused(client.add(address))) == (foreign, "foreign")
        assert client.remove(address) == OK_ABSENT | copies(foreign[:2])
        assert refused(client.ask("announce", address=address)) == "foreign"
        assert client.renew(deadline_in(30)) == {"result": "ok", "missing": []}
        assert client.list()["addresses"] == []
        assert timeless(network) == before
        remove_by_admin(network, *foreign)


def test_what_looks_like_the_helpers_but_may_not_be_there_is_not_removed(
    network: Namespace, client: Client
) -> None:
    put_by_admin(network, "198.51.100.1/32", INTERFACE, "valid_lft", "900", "preferred_lft", "0")
    there = copies(("198.51.100.1/32", INTERFACE))
    assert client.remove("198.51.100.1") == OK_ABSENT | there
    assert present(network) == [f"{INTERFACE} 198.51.100.1/32"]


@pytest.mark.parametrize("first", ["add", "remove"])
def test_an_address_of_the_host_is_foreign_also_to_the_second_request_of_a_turn(
    network: Namespace, helper: Helper, client: Client, first: str
) -> None:
    harmed = []
    for foreign in FOREIGN:
        put_by_admin(network, *foreign)
        before = timeless(network)
        address = foreign[0].partition("/")[0]
        fields = add(address) if first == "add" else {"address": address}
        with helper.stopped():
            asked = client.send(first, **fields), client.send("add", **add(address))
        replies = [client.receive(each) for each in asked]
        if replies[1]["result"] != "refused" or timeless(network) != before:
            harmed.append(foreign)
        client.remove(address)
        network.run("ip", "address", "flush", "to", address)
    assert harmed == []


def test_an_add_finds_what_an_earlier_one_of_the_same_turn_has_put_there(
    helper: Helper, client: Client
) -> None:
    with helper.stopped():
        asked = [client.send("add", **add(V4)) for _ in range(2)]
    assert [client.receive(each) for each in asked] == [OK_ABSENT, OK_PRESENT]


def test_what_was_added_twice_in_a_turn_is_on_the_interface_once(
    network: Namespace, tmp_path: Path
) -> None:
    config = policy(tmp_path / "audit", prefixes=(24, 32))
    promote_secondaries(network, 1)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        with helper.stopped():
            asked = [client.send("add", **add(V4, prefix=prefix)) for prefix in (32, 24)]
        for each in asked:
            client.receive(each)
        assert present(network) == [f"{INTERFACE} {V4}/24"]
        assert client.remove(V4) == OK_PRESENT
        assert present(network) == []


@without_fence
@pytest.mark.parametrize("place", [(f"{V4}/24", INTERFACE), (f"{V4}/32", "veth1")])
@pytest.mark.parametrize("op", ["add", "renew"])
def test_the_hosts_own_copy_of_a_held_address_is_left_alone(
    network: Namespace, client: Client, place: tuple[str, str], op: str
) -> None:
    network.run("ip", "link", "add", "veth1", "type", "veth", "peer", "name", "peer1")
    client.add(V4)
    put_by_admin(network, *place)
    if op == "add":
        assert client.add(V4) == OK_PRESENT
    else:
        told = {"result": "ok", "missing": [], **copies(place)}
        assert client.renew(deadline_in(60)) == told
    address, interface = place
    assert present(network) == sorted([f"{interface} {address}", *ON_INTERFACE[:1]])


@without_fence
def test_a_second_copy_of_a_held_address_is_told_for_as_long_as_it_is_there(
    network: Namespace, helper: Helper, client: Client
) -> None:
    """It is told with each renewal, also to who connects anew, and when the helper's is removed."""
    nothing, second = {"result": "ok", "missing": []}, (f"{V4}/24", INTERFACE)
    add_both(client, deadline_in(30))
    assert client.renew(deadline_in(30)) == nothing
    put_by_admin(network, *second)
    for _ in range(2):
        assert client.renew(deadline_in(30)) == nothing | copies(second)
    client.socket.close()
    with helper.greeted() as again:
        assert again.renew(deadline_in(30)) == nothing | copies(second)
        remove_by_admin(network, *second)
        assert again.renew(deadline_in(30)) == nothing
        put_by_admin(network, *second)
        assert again.remove(V4) == OK_PRESENT | copies(second)
        assert again.remove(V4) == OK_ABSENT | copies(second)
        assert again.renew(deadline_in(30)) == nothing


def test_no_more_copies_are_told_than_fit_into_a_reply(network: Namespace, tmp_path: Path) -> None:
    config = policy(tmp_path / "audit", limit=200)
    addresses = [f"192.0.2.{number}" for number in range(1, 151)]
    lines = [f"address add {each}/{n} dev {INTERFACE}" for each in addresses for n in (30, 31)]
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        for each in addresses:
            client.add(each)
        network.run("sh", "-ec", "printf '%s\n' \"$@\" | ip -batch -", "sh", *lines)
        assert len(client.renew(deadline_in(30))["copies"]) == 256


TAKING = (
    (V4, "change 192.0.2.10/32"),
    (V4, "replace 192.0.2.10/32"),
    (V4, "replace 192.0.2.10/32 valid_lft 900 preferred_lft 800"),
    (V4, "delete 192.0.2.10/32", "add 192.0.2.10/32"),
    (V4, "delete 192.0.2.10/32", "add 192.0.2.10/32 valid_lft 900 preferred_lft 0"),
    (V6, "change 2001:db8::10/128"),
    (V6, "replace 2001:db8::10/64"),
    (V6, "delete 2001:db8::10/128", "add 2001:db8::10/128 nodad"),
    (V6, "delete 2001:db8::10/128", "add 2001:db8::10/64 nodad"),
    (V6, "delete 2001:db8::10/128", "add 2001:db8::10/64 nodad valid_lft 900 preferred_lft 0"),
)
"""What `ip address` makes the host's own of what the helper has put there."""


@without_fence
@pytest.mark.parametrize("op", ["renew", "add", "remove"])
def test_what_the_host_has_made_its_own_is_given_up_and_stays_as_it_is(
    network: Namespace, helper: Helper, client: Client, op: str
) -> None:
    """A renewal made it expire, since the kernel finds an IPv6 address by its interface alone."""
    for address, *commands in TAKING:
        assert client.add(address) == OK_ABSENT
        # The kernel counts in hundredths of a second when an address was put there.
        time.sleep(0.02)
        for command in commands:
            network.run("sh", "-ec", f"ip address {command} dev {INTERFACE}")
        before = timeless(network)
        (place,) = present(network)
        told = copies((place.split()[1], INTERFACE))
        if op == "renew":
            reply = client.renew(deadline_in(60))
            assert (commands, reply) == (commands, {"result": "ok", "missing": [address]} | told)
        elif op == "add":
            assert (commands, refused(client.add(address))) == (commands, "foreign")
        else:
            assert (commands, client.remove(address)) == (commands, OK_ABSENT | told)
        assert (commands, timeless(network)) == (commands, before)
        doing = "expire" if op == "remove" else "extend"
        assert own_doings(helper)[-1] == (doing, address, "the host has it now: left alone")
        assert client.list()["addresses"] == []
        assert refused(client.add(address)) == "foreign"
        assert client.remove(address) == OK_ABSENT | told
        assert timeless(network) == before
        network.run("ip", "address", "flush", "dev", INTERFACE)
        assert client.renew(deadline_in(60)) == {"result": "ok", "missing": []}


def test_a_held_address_does_not_move_to_where_the_hosts_own_copy_is(
    network: Namespace, tmp_path: Path
) -> None:
    config = policy(tmp_path / "audit", prefixes=(24, 32))
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        assert client.add(V4, prefix=32) == OK_ABSENT
        put_by_admin(network, f"{V4}/24", INTERFACE)
        before = timeless(network)[1:]
        assert refused(client.add(V4, prefix=24)) == "foreign"
        assert client.add(V4, prefix=32) == OK_PRESENT
        assert client.remove(V4) == OK_PRESENT | copies((f"{V4}/24", INTERFACE))
        assert timeless(network) == before


@pytest.mark.parametrize("lifetimes", [(), DEPRECATED])
def test_removing_finds_what_an_earlier_life_left_beside_the_hosts_own(
    network: Namespace, tmp_path: Path, lifetimes: tuple[str, ...]
) -> None:
    leave(network, tmp_path, f"{V4}/32")
    with running(network, tmp_path) as helper, helper.greeted() as client:
        put_by_admin(network, f"{V4}/24", INTERFACE, *lifetimes)
        assert client.remove(V4) == OK_PRESENT | copies((f"{V4}/24", INTERFACE))
    assert present(network) == [f"{INTERFACE} {V4}/24"]


def promote_secondaries(network: Namespace, value: int) -> None:
    for each in ("all", INTERFACE):
        network.run("sysctl", "-qw", f"net.ipv4.conf.{each}.promote_secondaries={value}")


def test_removing_an_address_leaves_all_others(network: Namespace, tmp_path: Path) -> None:
    config = policy(tmp_path / "audit", prefixes=(24,))
    promote_secondaries(network, 1)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        assert client.add("192.0.2.10", prefix=24) == OK_ABSENT
        assert client.add("192.0.2.11", prefix=24) == OK_ABSENT
        put_by_admin(network, "192.0.2.200/24", INTERFACE)
        assert client.remove("192.0.2.10") == OK_PRESENT
        assert present(network) == [f"{INTERFACE} 192.0.2.11/24", f"{INTERFACE} 192.0.2.200/24"]


def test_an_address_whose_removal_would_take_others_along_is_not_added(
    network: Namespace, tmp_path: Path
) -> None:
    """Debian 12 leaves promote_secondaries at 0."""
    config = policy(tmp_path / "audit", prefixes=(24, 32))
    promote_secondaries(network, 0)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        reply = client.add("192.0.2.10", prefix=24)
        assert refused(reply) == "primary"
        assert f"net.ipv4.conf.{INTERFACE}.promote_secondaries" in reply["reason"]
        assert client.add("192.0.2.10", prefix=32) == OK_ABSENT
        assert refused(client.add("192.0.2.10", prefix=24)) == "primary"
        put_by_admin(network, "192.0.2.200/24", INTERFACE)
        assert client.add("192.0.2.10", prefix=24) == OK_PRESENT
        assert client.add("192.0.2.11", prefix=24) == OK_ABSENT
        assert client.remove("192.0.2.10") == OK_PRESENT
        assert present(network) == [f"{INTERFACE} 192.0.2.11/24", f"{INTERFACE} 192.0.2.200/24"]


def test_another_clusters_address_is_foreign(network: Namespace, helper: Helper) -> None:
    with helper.greeted("one") as one, helper.greeted("two") as two:
        deadline_ns = deadline_in(30)
        add_both(one, deadline_ns)
        assert [refused(two.add(each)) for each in (V4, V6)] == ["foreign", "foreign"]
        assert [two.remove(each) for each in (V4, V6)] == [OK_ABSENT, OK_ABSENT]
        assert refused(two.ask("announce", address=V4)) == "foreign"
        assert two.list() == {"result": "ok", "addresses": [], "more": False}
        assert two.renew(deadline_in(60)) == {"result": "ok", "missing": []}
        assert {each["deadline_ns"] for each in one.list()["addresses"]} == {deadline_ns}
        assert present(network) == ON_INTERFACE


# --- when the network changes ------------------------------------------------------------------


@without_fence
def test_an_address_that_was_deleted_by_hand_comes_back_with_the_next_renewal(
    network: Namespace, client: Client
) -> None:
    add_both(client, deadline_in(30))
    for whole in ON_INTERFACE:
        interface, address = whole.split()
        network.run("ip", "address", "delete", address, "dev", interface)
    assert present(network) == []
    assert client.renew(deadline_in(60)) == {"result": "ok", "missing": []}
    assert present(network) == ON_INTERFACE


@without_fence
def test_an_address_that_comes_back_with_a_renewal_is_on_record(
    network: Namespace, helper: Helper, client: Client
) -> None:
    client.add(V4)
    # The kernel counts in hundredths of a second when an address was put there.
    time.sleep(0.02)
    network.run("ip", "address", "delete", f"{V4}/32", "dev", INTERFACE)
    before = len(helper.records())
    client.renew(deadline_in(60))
    assert V4 in [each.get("address") for each in helper.records()[before:]]


def test_addresses_of_an_interface_that_is_gone_are_missing_and_can_be_added_anew(
    network: Namespace, helper: Helper, client: Client
) -> None:
    add_both(client, deadline_in(30))
    network.run("ip", "link", "delete", INTERFACE)
    assert client.renew(deadline_in(60)) == {"result": "ok", "missing": [V4, V6]}
    assert client.add(V4)["reason"] == f"there is no interface {INTERFACE}"
    network.run("ip", "link", "add", INTERFACE, "up", "type", "veth", "peer", "name", PEER)
    network.run("ip", "link", "set", INTERFACE, "addrgenmode", "none")
    assert client.add(V4) == OK_ABSENT
    assert f"{INTERFACE} {V4}/32" in present(network)
    assert client.remove(V4) == OK_PRESENT
    assert client.remove(V6) == OK_ABSENT
    assert ("extend", V6, "failed: No such device") in own_doings(helper)


def test_nothing_is_added_to_an_interface_that_is_down(network: Namespace, client: Client) -> None:
    network.run("ip", "link", "set", INTERFACE, "down")
    reason = f"{INTERFACE} is down"
    assert client.add(V4) == {"result": "failed", "errno": None, "reason": reason}
    assert present(network) == []


def test_an_add_that_the_kernel_refuses_leaves_nothing(network: Namespace, client: Client) -> None:
    reply = client.add(V4, label="thirteenchars")
    assert reply == {
        "result": "failed",
        "errno": 34,
        "reason": "Numerical result out of range",
    }
    assert client.list()["addresses"] == []
    assert present(network) == []


# --- the deadline ------------------------------------------------------------------------------


def test_an_address_that_is_not_renewed_is_removed_and_one_that_is_renewed_stays(
    network: Namespace, helper: Helper, watch: Watch, fence: str
) -> None:
    renewed = {ip_address(each) for each in ("192.0.2.20", "2001:db8::20")}
    with helper.greeted("leaves") as leaves:
        gone_at = add_both(leaves, deadline_in(SHORT_S))
    with helper.greeted("stays") as stays:
        deadline_ns = deadline_in(LONGER_S)
        for each in renewed:
            assert stays.add(str(each), deadline_ns=deadline_ns) == OK_ABSENT
        watch.wait_until_added(BOTH | renewed)
        its_first_is_over = deadline_ns / 1e9 + GRACE_S
        for until in (gone_at, its_first_is_over):
            while boottime() < until:
                assert stays.renew(deadline_in(LONGER_S)) == {"result": "ok", "missing": []}
                watch.still_there(BOTH | renewed, min(until, boottime() + 0.3))
            if fence == "auto":
                # It is mute in time, and off as soon as the routing lock is free.
                wait_for(lambda: watch.present() == renewed, "they are off", 4.0)
            assert watch.present() == renewed
        wait_for(lambda: len(expired(helper)) == 2, "it knows")
    assert {each.address for each in watch.changes() if each.what == "removed"} == BOTH
    done = own_doings(helper)
    outcomes = ("removed", "the kernel had removed it")
    assert [(op, address) for op, address, outcome in done if outcome in outcomes] == [
        ("expire", V4),
        ("expire", V6),
    ]
    assert ("expire", V4, "the deadline has passed: removing") in done


@without_fence
def test_an_address_is_removed_in_time_when_the_helper_is_killed(
    helper: Helper, client: Client, watch: Watch
) -> None:
    drawn_nearer = {ip_address(each) for each in ("192.0.2.20", "2001:db8::20")}
    for each in drawn_nearer:
        assert client.add(str(each), deadline_ns=deadline_in(60)) == OK_ABSENT
    deadline_ns = deadline_in(SHORT_S)
    for each in drawn_nearer:
        assert client.add(str(each), deadline_ns=deadline_ns) == OK_PRESENT
    gone_at = add_both(client, deadline_ns)
    assert helper.end(signal.SIGKILL) == -signal.SIGKILL
    watch.wait_until_added(BOTH | drawn_nearer)
    assert watch.still_there(BOTH | drawn_nearer, gone_at) == set()


@without_fence
def test_an_address_is_removed_in_time_when_the_helper_is_stopped_and_does_not_come_back(
    network: Namespace, helper: Helper, client: Client, watch: Watch
) -> None:
    """What was asked meanwhile is too late: the lease may have ended."""
    with capturing(network) as capture:
        gone_at = add_both(client, deadline_in(SHORT_S))
        with helper.stopped():
            watch.wait_until_added(BOTH)
            assert watch.still_there(BOTH, gone_at) == set()
            wait_for(lambda: boottime() > gone_at, "the deadline is over")
            before = len(watch.changes())
            capture.frames()
            announced = client.send("announce", address=V4)
            listed = client.send("list", after="")
            renewed = client.send("renew", deadline_ns=deadline_in(30))
        assert refused(client.receive(announced)) == "foreign"
        assert client.receive(listed) == {"result": "ok", "addresses": [], "more": False}
        assert client.receive(renewed)["missing"] == [V4, V6]
        assert watch.changes()[before:] == []
        assert capture.announced() == []


@without_fence
def test_a_deadline_that_was_drawn_nearer_is_kept_when_the_helper_is_killed(
    helper: Helper, client: Client, watch: Watch
) -> None:
    add_both(client, deadline_in(30))
    watch.wait_until_added(BOTH)
    deadline_ns = deadline_in(SHORT_S)
    is_renewed = client.renew(deadline_ns)["result"] == "ok"
    helper.end(signal.SIGKILL)
    assert not is_renewed or watch.still_there(BOTH, deadline_ns / 1e9 + GRACE_S) == set()


def test_a_thousand_addresses_are_renewed_to_any_deadline(
    network: Namespace, tmp_path: Path
) -> None:
    """With these deadlines, setting a lifetime may take a little more than a tenth of a second."""
    config = policy(tmp_path / "audit", networks=["192.0.0.0/16"], limit=1000, rate=10_000)
    addresses = [IPv4Address("192.0.2.0") + number for number in range(1, 1001)]
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        for start in range(0, 1000, 50):
            asked = [
                client.send("add", **add(str(each), deadline_ns=deadline_in(60)))
                for each in addresses[start : start + 50]
            ]
            assert [client.receive(each) for each in asked] == [OK_ABSENT] * len(asked)
        for lifetime, more_s in ((60, 0.003), (61, 0.01), (62, 0.03), (63, 0.1)):
            reply = client.renew(deadline_in(1.125 * lifetime + 2.5 - 0.1 + more_s))
            assert reply == {"result": "ok", "missing": []}


def test_of_many_deadlines_drawn_nearer_none_is_left_to_the_lifetime_of_before(
    network: Namespace, tmp_path: Path
) -> None:
    """For the first ones a lifetime of 1 s just fits, for the last ones not any more: these are
    removed, and told."""
    config = policy(tmp_path / "audit", networks=["192.0.0.0/16"], limit=500, rate=10_000)
    addresses = [IPv4Address("192.0.2.0") + number for number in range(1, 501)]
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        for start in range(0, 500, 50):
            asked = [
                client.send("add", **add(str(each), deadline_ns=deadline_in(60)))
                for each in addresses[start : start + 50]
            ]
            assert [client.receive(each) for each in asked] == [OK_ABSENT] * len(asked)
        reply = client.renew(deadline_in(1.125 + 1.4 - 0.1 + 0.01))
        helper.end(signal.SIGKILL)
        (shown,) = json.loads(network.run("ip", "-json", "address", "show", "dev", INTERFACE))
        left = {
            each["local"]: each["valid_life_time"]
            for each in shown["addr_info"]
            if each["local"] in {str(address) for address in addresses}
        }
        is_refused = reply["result"] == "refused"
        assert is_refused or all(seconds <= 1 for seconds in left.values())


# --- stopped at any instant --------------------------------------------------------------------

MOST_LINES = 360
"""More than the helper comes to from recording the intent of an add until it waits for more."""


@dataclass(frozen=True)
class Stepping:
    """A helper that is to be stopped in front of a line of its code (stepping.py)."""

    address: Address
    gone_at: float
    client: Client
    request_id: int
    where: Path

    def pid(self) -> int:
        credentials = self.client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[:4], sys.byteorder)

    def has_come_so_far(self) -> bool:
        """It is stopped, or it has replied without coming to its line."""
        if self.where.exists() and state(self.pid()) == "T":
            return True
        return is_readable(self.client.socket)

    def go_on(self) -> None:
        """Lets it go on until it has dealt with the request and what is due after it, or is
        dead."""
        os.kill(self.pid(), signal.SIGCONT)
        with contextlib.suppress(AssertionError, OSError):
            self.client.receive(self.request_id)
            self.client.list()


@dataclass(frozen=True)
class Aftermath:
    """What helpers did that were stopped in front of each line that an add takes them to, and
    continued when the deadline was over. By line."""

    lines: int
    late: list[str]
    """Where the address was not gone in time."""
    came_back: list[str]
    announced: list[str]


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    directory = tmp_path_factory.mktemp("stepping")
    names = [str(step) for step in range(1, MOST_LINES + 1)]
    for name in names:
        (directory / name).mkdir()
        config = policy(directory / name / "audit")
        (directory / name / "helper.yml").write_text(config)
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(new_network())
        watch = stack.enter_context(watching(network))
        capture = stack.enter_context(capturing(network))
        log = stack.enter_context((directory / "log").open("wb"))
        program = Path(__file__).parents[1] / "stepping.py"
        process = network.start((sys.executable, "-I", str(program), str(directory), *names), log)
        stack.callback(process.wait)
        stack.callback(process.kill)
        helpers = [stack.enter_context(stepping(directory / name)) for name in names]
        for each in helpers:
            wait_for(each.has_come_so_far, f"helper {each.where.parent.name} is stopped")
        stopped = [each for each in helpers if each.where.exists()]
        line = {each.address: each.where.read_text() for each in stopped}
        late = [a for each in stopped for a in watch.still_there({each.address}, each.gone_at)]
        wait_for(lambda: boottime() > max(each.gone_at for each in helpers), "all are over")
        before = len(watch.changes())
        capture.frames()
        for each in stopped:
            each.go_on()
        return Aftermath(
            len(stopped),
            sorted({line[address] for address in late}),
            sorted({line[change.address] for change in watch.changes()[before:]}),
            sorted({line[address] for address, _ in capture.announced()}),
        )


@contextlib.contextmanager
def stepping(directory: Path) -> Iterator[Stepping]:
    """An add is under way."""

    def listens() -> bool:
        try:
            Client(directory / "helper.sock").__exit__()
        except OSError:
            return False
        return True

    address = ip_address("192.0.2.0") + int(directory.name)
    wait_for(listens, "the helper listens", 60.0)
    with Client(directory / "helper.sock") as client:
        assert client.hello()["result"] == "ok"
        deadline_ns = deadline_in(SHORT_S)
        asked = client.send("add", **add(str(address), deadline_ns=deadline_ns))
        gone_at = deadline_ns / 1e9 + GRACE_S
        yield Stepping(address, gone_at, client, asked, directory / "where")


@pytest.mark.timeout(300)  # 360 helpers, beside other tests
def test_an_address_is_gone_in_time_wherever_the_helper_is_stopped(aftermath: Aftermath) -> None:
    assert 50 < aftermath.lines < MOST_LINES
    assert aftermath.late == []


def test_no_address_comes_back_wherever_the_helper_was_stopped(aftermath: Aftermath) -> None:
    assert aftermath.came_back == []


def test_nothing_is_announced_too_late_wherever_the_helper_was_stopped(
    aftermath: Aftermath,
) -> None:
    assert aftermath.announced == []


# --- restarts ----------------------------------------------------------------------------------


def test_what_an_earlier_life_left_is_taken_over_or_removed(
    network: Namespace, tmp_path: Path
) -> None:
    left = ["192.0.2.10", "192.0.2.11", "192.0.2.12", "2001:db8::10", "2001:db8::11"]
    with running(network, tmp_path) as first, first.greeted() as client:
        assert [client.add(each) for each in left] == [OK_ABSENT] * 5
        first.end(signal.SIGKILL)
    with running(network, tmp_path) as second, second.greeted() as client:
        assert len(present(network)) == 5
        assert client.renew(deadline_in(60)) == {"result": "ok", "missing": []}
        assert client.add(left[0], label="anew") == OK_PRESENT
        assert client.add(left[3]) == OK_PRESENT
        assert client.remove(left[1]) == OK_PRESENT
        assert client.remove(left[4]) == OK_PRESENT
        assert client.renew(deadline_in(60)) == {"result": "ok", "missing": []}
        assert client.remove(left[0]) == OK_PRESENT
        assert present(network) == [f"{INTERFACE} 192.0.2.12/32", f"{INTERFACE} 2001:db8::10/128"]
        ends = {each["local"]: each["valid_life_time"] for each in shown(network)}
        assert ends["192.0.2.12"] < 30 < ends["2001:db8::10"]


def test_what_an_earlier_life_left_belongs_to_whom_the_record_says(
    network: Namespace, tmp_path: Path
) -> None:
    with running(network, tmp_path) as first, first.greeted("one") as one:
        add_both(one, deadline_in(30))
        first.end(signal.SIGKILL)
    with (
        running(network, tmp_path) as second,
        second.greeted("one") as one,
        second.greeted("two") as two,
    ):
        assert two.list()["addresses"] == []
        assert two.remove(V4) == OK_ABSENT
        assert refused(two.add(V4)) == "foreign"
        assert two.renew(deadline_in(30)) == {"result": "ok", "missing": []}
        assert len(one.list()["addresses"]) == 2
        assert one.add(V4) == OK_PRESENT
        assert one.remove(V4) == OK_PRESENT
        assert two.add(V4) == OK_ABSENT
        assert one.remove(V6) == OK_PRESENT
    held = [each["addresses"] for each in second.records() if each["type"] == "held"]
    assert held == [
        [],
        [
            [V4, INTERFACE, 32, 0, "one", None],
            [V6, INTERFACE, 128, 0, "one", None],
        ],
    ]


def test_what_no_record_tells_of_is_left_alone_until_its_lifetime_is_over(
    network: Namespace, tmp_path: Path
) -> None:
    """It was the helper's, and the record was purged: nobody can tell. Until it is gone, nobody is
    told that it is absent: another node would take it."""
    with running(network, tmp_path) as first, first.greeted() as client:
        add_both(client, deadline_in(12))
        first.end(signal.SIGKILL)
    shutil.rmtree(first.audit_log)
    with running(network, tmp_path) as second, second.greeted() as client:
        assert [refused(client.add(each)) for each in (V4, V6)] == ["foreign"] * 2
        assert client.list()["addresses"] == []
        for each in (V4, V6):
            reply = client.remove(each)
            assert (reply["result"], reply["reason"]) == (
                "failed",
                f"{each} may be what an earlier life of the helper has left",
            )
        assert present(network) == ON_INTERFACE
        wait_for(lambda: not present(network), "their lifetimes are over")
        assert [client.remove(each) for each in (V4, V6)] == [OK_ABSENT] * 2
        assert [client.add(each) for each in (V4, V6)] == [OK_ABSENT] * 2
    held = [each["addresses"] for each in second.records() if each["type"] == "held"]
    nobody = [None] * 3
    assert held == [[[V4, INTERFACE, 32, *nobody], [V6, INTERFACE, 128, *nobody]]]


def test_what_nobody_was_in_doubt_of_twice_is_still_in_doubt(
    network: Namespace, tmp_path: Path
) -> None:
    """The record of the life between tells that it may be what an earlier one has left."""
    put_by_admin(network, f"{V4}/32", INTERFACE, *DEPRECATED)
    for _ in range(3):
        with running(network, tmp_path) as helper, helper.greeted() as client:
            assert client.remove(V4)["result"] == "failed"
            helper.end(signal.SIGKILL)
    assert present(network) == [f"{INTERFACE} {V4}/32"]


def test_what_outlives_its_lifetime_is_the_hosts_without_a_doubt(
    network: Namespace, tmp_path: Path
) -> None:
    """A router goes on announcing it, say."""
    short, long = ("valid_lft", "6", "preferred_lft", "0"), DEPRECATED
    for each in (f"{V4}/32", f"{V6}/128"):
        put_by_admin(network, each, INTERFACE, *short)
    with running(network, tmp_path) as helper, helper.greeted() as client:
        for each in (f"{V4}/32", f"{V6}/128"):
            network.run("ip", "address", "replace", each, "dev", INTERFACE, *long)
        assert {client.remove(each)["result"] for each in (V4, V6)} == {"failed"}
        wait_for(lambda: client.remove(V4)["result"] == "ok", "its lifetime would be over")
        assert client.remove(V6)["result"] == "ok"
        assert present(network) == ON_INTERFACE


def test_what_a_life_that_wrote_elsewhere_has_left_is_in_doubt(
    network: Namespace, tmp_path: Path
) -> None:
    """The record there was before, which the helper writes again, is whole, and knows nothing of
    it. Who is told that it is absent lets another node take it."""
    here, elsewhere = policy(tmp_path / "audit"), policy(tmp_path / "elsewhere")
    with running(network, tmp_path, config=here) as first, first.greeted() as client:
        assert client.add(V6) == OK_ABSENT
        assert client.remove(V6) == OK_PRESENT
    with running(network, tmp_path, config=elsewhere) as second, second.greeted() as client:
        add_both(client, deadline_in(60))
        second.end(signal.SIGKILL)
    for _ in range(2):
        with running(network, tmp_path, config=here) as helper, helper.greeted() as client:
            assert client.list()["addresses"] == []
            assert [refused(client.add(each)) for each in (V4, V6)] == ["foreign"] * 2
            assert [client.remove(each)["result"] for each in (V4, V6)] == ["failed"] * 2
            helper.end(signal.SIGKILL)
    assert present(network) == ON_INTERFACE


def test_what_was_added_after_a_copy_that_was_put_back_is_in_doubt(
    network: Namespace, tmp_path: Path
) -> None:
    """The copy is of the record, with its marker."""
    with running(network, tmp_path) as first:
        pass
    shutil.copytree(first.audit_log, tmp_path / "copy")
    with running(network, tmp_path) as second, second.greeted() as client:
        add_both(client, deadline_in(60))
        second.end(signal.SIGKILL)
    shutil.rmtree(first.audit_log)
    (tmp_path / "copy").rename(first.audit_log)
    with running(network, tmp_path) as third, third.greeted() as client:
        assert [client.remove(each)["result"] for each in (V4, V6)] == ["failed"] * 2


LONG_AGO = {"boottime_ns": 1}
"""The last record."""


def test_what_was_put_there_after_the_last_record_is_not_whose_the_record_says(
    network: Namespace, tmp_path: Path
) -> None:
    """A life that wrote elsewhere has put it there, for another, who must not be told that it is
    absent."""
    leave(network, tmp_path, f"{V4}/32", **LONG_AGO)
    with (
        running(network, tmp_path) as helper,
        helper.greeted() as one,
        helper.greeted("other") as other,
    ):
        assert [each.list()["addresses"] for each in (one, other)] == [[], []]
        assert [each.remove(V4)["result"] for each in (one, other)] == ["failed"] * 2
        assert present(network) == [f"{INTERFACE} {V4}/32"]


def test_an_intent_makes_nobody_the_owner_of_what_may_have_been_there_before(
    network: Namespace, tmp_path: Path
) -> None:
    """The record's beginning is not known: the add may have been refused, as the address is
    another's."""
    told = {"type": "intent", "op": "add", "address": V4, "interface": INTERFACE, "prefix": 32}
    peer = {"peer": {"pid": 1, "uid": 0, "gid": 0}, "cluster": "other", "id": 1}
    leave(network, tmp_path, f"{V4}/32", **told, **peer)
    with running(network, tmp_path) as helper, helper.greeted("other") as client:
        assert client.list()["addresses"] == []
        assert client.remove(V4)["result"] == "failed"
        assert present(network) == [f"{INTERFACE} {V4}/32"]


def test_what_was_there_before_the_last_record_and_is_not_told_is_the_hosts(
    network: Namespace, tmp_path: Path
) -> None:
    for last, result in (({}, "ok"), (LONG_AGO, "failed")):
        directory = tmp_path / result
        directory.mkdir()
        leave(network, directory, addresses=[], **last)
        if not present(network):
            put_by_admin(network, f"{V4}/32", INTERFACE, *DEPRECATED)
        with running(network, directory) as helper, helper.greeted() as client:
            assert client.remove(V4)["result"] == result


@pytest.mark.parametrize(
    "changed",
    [
        {"boot_id": "another"},
        {"addresses": [[V4, PEER, 32, 0, "test", 5]]},
        {"addresses": [[V4, INTERFACE, 24, 0, "test", 5]]},
        {"addresses": []},
    ],
)
def test_what_is_on_record_for_another_boot_or_place_is_not_taken_over(
    network: Namespace, tmp_path: Path, changed: Message
) -> None:
    leave(network, tmp_path, f"{V4}/32", **changed)
    with running(network, tmp_path) as helper, helper.greeted() as client:
        assert client.list()["addresses"] == []
        assert refused(client.add(V4)) == "foreign"
        is_surely_foreign = changed == {"addresses": []}
        assert client.remove(V4)["result"] == ("ok" if is_surely_foreign else "failed")
        assert present(network) == [f"{INTERFACE} {V4}/32"]


def test_what_an_earlier_life_left_in_two_places_is_listed_once(
    network: Namespace, tmp_path: Path
) -> None:
    leave(network, tmp_path, f"{V6}/128", f"{V4}/24", f"{V4}/32")
    with running(network, tmp_path) as helper, helper.greeted() as client:
        listed = [each["address"] for each in client.list()["addresses"]]
        assert listed == [V4, V6]
        assert client.remove(V4) == OK_PRESENT
        assert present(network) == [f"{INTERFACE} {V6}/128"]


def test_what_an_earlier_life_left_is_listed_in_parts_too(
    network: Namespace, tmp_path: Path
) -> None:
    addresses = [f"192.0.2.{number}" for number in range(1, 255)]
    addresses += [f"2001:db8::{number:x}" for number in range(1, 151)]
    leave(network, tmp_path, *(f"{a}/{128 if ':' in a else 32}" for a in addresses))
    with running(network, tmp_path) as helper, helper.greeted() as client:
        first = client.list()
        second = client.list(after=first["addresses"][-1]["address"])
    assert (first["more"], second["more"]) == (True, False)
    parts = [each["address"] for page in (first, second) for each in page["addresses"]]
    assert parts == addresses


@without_fence
def test_stopping_leaves_the_addresses_until_their_deadline(
    network: Namespace, helper: Helper, client: Client
) -> None:
    add_both(client, deadline_in(30))
    assert helper.end(signal.SIGTERM) == 0
    assert client.is_hung_up()
    assert present(network) == ON_INTERFACE
    assert all(each["valid_life_time"] <= 30 for each in shown(network))
    assert essence(helper.records())[-1] == {"type": "stop", "addresses": 2}


# --- the record --------------------------------------------------------------------------------


@without_fence
def test_every_command_is_on_record_with_its_intent_and_its_result(
    network: Namespace, helper: Helper
) -> None:
    test = {"cluster": "test"}
    add_v4 = {**test, "op": "add", "address": V4, "interface": INTERFACE, "prefix": 32, "label": ""}
    with helper.connect() as client:
        session = client.hello()["session"]
        deadlines = [deadline_in(30), deadline_in(31), deadline_in(-1)]
        client.add(V4, deadline_ns=deadlines[0])
        client.add("198.51.100.1", deadline_ns=deadlines[1])
        client.add(V4, deadline_ns=deadlines[2])
        client.ask("announce", address=V6)
        client.renew(deadline_in(30))
        renewed_to = deadline_in(30)
        client.renew(renewed_to)
        late = deadline_in(-2)
        client.renew(late)
        client.list()
        client.remove(V4)
        client.remove(V4)
        client.add(V6, deadline_ns=renewed_to)
        assert helper.end() == 0
        records = helper.records()
    reasons = iter([each["reason"] for each in records if "reason" in each])
    first = {**add_v4, "id": 2, "deadline_ns": deadlines[0]}
    second = {**add_v4, "id": 3, "deadline_ns": deadlines[1], "address": "198.51.100.1"}
    third = {**add_v4, "id": 4, "deadline_ns": deadlines[2]}
    announced = {**test, "op": "announce", "id": 5, "address": V6}
    removed = [{**test, "op": "remove", "id": number, "address": V4} for number in (10, 11)]
    hello = {**test, "op": "hello", "id": 1, "node": "db1"}
    renewed = {**test, "op": "renew", "id": 8, "deadline_ns": late}
    last = {**add_v4, "id": 12, "address": V6, "prefix": 128, "deadline_ns": renewed_to}
    intent, result, ok = {"type": "intent"}, {"type": "result"}, {"outcome": "ok"}

    def refusal(code: str) -> Message:
        return {**result, "outcome": "refused", "code": code, "reason": next(reasons)}

    assert essence(records) == [
        {
            **{"type": "start", "version": 1, "pid": helper.pid, "session": session},
            **{
                "earlier": None,
                "fence": {"in_force": False, "reason": "helper.yml says fence: off"},
            },
        },
        {"type": "held", "addresses": [], "more": False},
        hello | result | ok,
        first | intent | {"rule": 1},
        first | result | ok | {"was": "absent"},
        second | refusal("not-allowed"),
        third | refusal("expired"),
        announced | intent,
        announced | refusal("foreign"),
        renewed | refusal("expired"),
        removed[0] | intent,
        removed[0] | result | ok | {"was": "present"},
        removed[1] | intent,
        removed[1] | result | ok | {"was": "absent"},
        last | intent | {"rule": 1},
        last | result | ok | {"was": "absent"},
        {"type": "renewals", "owners": [{**test, "uid": 0, "count": 2, "deadline_ns": renewed_to}]},
        {"type": "stop", "addresses": 1},
    ]
    peer = {"pid": os.getpid(), "uid": 0, "gid": 0}
    assert [each["peer"] for each in records if each["type"] in ("intent", "result")] == [peer] * 14
    assert [each["seq"] for each in records] == list(range(1, len(records) + 1))


def test_the_label_is_on_record(helper: Helper, client: Client) -> None:
    client.add(V4, label="yaim")
    assert [each.get("label") for each in helper.records() if each.get("op") == "add"] == [
        "yaim",
        "yaim",
    ]


def test_the_cluster_is_on_record(helper: Helper) -> None:
    with helper.greeted("one") as one, helper.greeted("two") as two:
        one.add(V4)
        two.remove(V4)
    commands = [each for each in helper.records() if each.get("op") in ("add", "remove")]
    assert [each.get("cluster") for each in commands] == ["one", "one", "two", "two"]


def test_many_commands_of_one_turn_have_their_intents_first(helper: Helper, client: Client) -> None:
    addresses = [f"192.0.2.{number}" for number in range(1, 31)]
    with helper.stopped():
        asked = [client.send("add", **add(each)) for each in addresses]
    assert {client.receive(each)["result"] for each in asked} == {"ok"}
    told = [(r["type"], r["address"]) for r in helper.records() if r.get("op") == "add"]
    assert [address for kind, address in told if kind == "intent"] == addresses
    assert [address for kind, address in told if kind == "result"] == addresses
    for address in addresses:
        assert told.index(("intent", address)) < told.index(("result", address))


@contextlib.contextmanager
def on_small_disk(network: Namespace, tmp_path: Path) -> Iterator[tuple[Helper, Path]]:
    """A helper whose record is on a file system of its own of 64 KiB; and that one, seen from
    here."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = 'mount -t tmpfs -o size=64k,mode=755 tmpfs "$0"; exec "$@"'
    around = ("unshare", "--mount", "sh", "-ec", mounted, str(disk))
    config = policy(disk / "audit")
    with running(network, tmp_path, config=config, around=around) as helper:
        yield helper, Path(f"/proc/{helper.pid}/root{disk}")


def test_nothing_is_added_that_cannot_be_recorded_but_removing_goes_ahead(
    network: Namespace, tmp_path: Path
) -> None:
    commands = 0
    with on_small_disk(network, tmp_path) as (helper, disk), helper.greeted() as client:
        add_both(client, deadline_in(30))
        with filled(disk):
            # There may be some room left in the last page of the record.
            while client.ask("announce", address=V4) != NOT_ON_RECORD:
                commands += 1
                assert commands < 100
            assert client.add("192.0.2.11") == NOT_ON_RECORD
            assert client.add(V4) == NOT_ON_RECORD
            renewed = client.renew(deadline_in(60))
            assert renewed.pop("record").endswith("/audit: No space left on device")
            assert renewed == {"result": "ok", "missing": []}
            assert present(network) == ON_INTERFACE
            assert client.remove(V4) == OK_PRESENT
            assert present(network) == ON_INTERFACE[1:]
        assert client.remove(V6) == OK_PRESENT
        assert client.add("192.0.2.11") == OK_ABSENT
        helper.wait_until_written()
        (segment,) = (disk / "audit").glob("audit-*.jsonl")
        lines = segment.read_text().splitlines()
    records = [json.loads(line) for line in lines if line.endswith("}")]
    assert len(lines) - len(records) <= 1, "one torn line"
    gaps = [each["missed"] for each in records if each["type"] == "gap"]
    of_commands = [each for each in records if each["type"] in ("intent", "result")]
    hello, added, announced, refused_, removed = 1, 3, commands + 1, 2, 2
    assert len(of_commands) + sum(gaps) == hello + 2 * (added + announced + refused_ + removed)
    assert [each["seq"] for each in records] == list(range(1, len(records) + 1))
    assert re.search(r"audit: (No space left|wrote only \d+ of)", helper.log.read_text())


# --- starting ----------------------------------------------------------------------------------


def outcome(network: Namespace, directory: Path, **options: Any) -> tuple[int, str]:
    """Returns the exit status of a helper that is not to start, and what it says."""
    with started(network, directory, **options) as helper:
        return helper.process.wait(20), helper.log.read_text()


def test_a_policy_that_others_can_write_is_named(network: Namespace, tmp_path: Path) -> None:
    (tmp_path / "helper.yml").touch(mode=0o666)
    (tmp_path / "helper.yml").chmod(0o666)
    status, text = outcome(network, tmp_path)
    assert (status, text) == (
        EX_CONFIG,
        f"yaim-helper: {tmp_path}/helper.yml: can be written by others than root (mode 0666);"
        " use chmod go-w\n",
    )
    assert not (tmp_path / "helper.sock").exists()


def test_everything_that_is_wrong_in_the_policy_is_named(
    network: Namespace, tmp_path: Path
) -> None:
    config = "users: [no-such-user]\nrules: [\n]\nmax-addresses: 0\n"
    assert outcome(network, tmp_path, config=config) == (
        EX_CONFIG,
        f"yaim-helper: {tmp_path}/helper.yml:1: users: there is no user 'no-such-user'"
        " on this host\n"
        f"yaim-helper: {tmp_path}/helper.yml:4: max-addresses: got '0', expected a number from 1 to"
        " 2000\n",
    )


def test_a_record_that_cannot_be_opened_is_named(network: Namespace, tmp_path: Path) -> None:
    config = policy(tmp_path / "no" / "such" / "audit")
    assert outcome(network, tmp_path, config=config) == (
        1,
        f"yaim-helper: {tmp_path}/no/such/audit: No such file or directory\n",
    )


def test_a_user_id_without_an_account_is_no_crash(network: Namespace, tmp_path: Path) -> None:
    config = policy(tmp_path / "audit", users=[4242424, 0])
    with running(network, tmp_path, config=config) as helper, helper.greeted():
        assert helper.socket.stat().st_uid == 4242424


def test_a_second_helper_with_the_same_record_does_not_start(
    network: Namespace, helper: Helper, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    config = policy(helper.audit_log)
    assert outcome(network, tmp_path / "second", config=config) == (
        1,
        f"yaim-helper: {helper.audit_log}: another yaim-helper is writing it\n",
    )
    with helper.greeted() as client:
        assert client.add(V4) == OK_ABSENT


def test_a_second_helper_that_does_not_start_leaves_the_first_its_socket(
    network: Namespace, helper: Helper
) -> None:
    status, _ = outcome(network, helper.socket.parent)
    assert status == 1
    with helper.greeted() as client:
        assert client.add(V4) == OK_ABSENT


def test_a_socket_that_is_handed_in_is_used(network: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "handed-in.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        with Client(path) as client, started(network, tmp_path, **handed_in(listener)) as helper:
            assert client.hello()["result"] == "ok"
            assert client.add(V4) == OK_ABSENT
            assert not helper.socket.exists()


def test_a_socket_that_is_for_another_process_is_not_used(
    network: Namespace, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "handed-in.sock"))
        listener.listen()
        with running(network, tmp_path, **handed_in(listener, 1)) as helper, helper.greeted() as c:
            assert c.add(V4) == OK_ABSENT


# --- noise -------------------------------------------------------------------------------------


def noise(random_: random.Random, packets: list[bytes]) -> bytes:
    """Random bytes, a packet of the vectors with some bytes changed, or an add of anything."""
    kind = random_.randrange(3)
    if kind == 0:
        return random_.randbytes(random_.randrange(1, 1200))
    if kind == 1:
        packet = bytearray(random_.choice(packets))
        for _ in range(random_.randrange(4)):
            packet[random_.randrange(len(packet))] = random_.randrange(256)
        return bytes(packet)
    address = ip_address(random_.choice((random_.randbytes(4), random_.randbytes(16))))
    fields = add(
        str(address),
        interface=random_.choice((INTERFACE, PEER, "lo", "\ud800")),
        prefix=random_.randrange(1, 129),
        deadline_ns=random_.choice((1, deadline_in(30), 2**63 - 1)),
    )
    return json.dumps({"op": "add", "id": random_.randrange(2**53), **fields}).encode()


def test_noise_leaves_the_helper_alive_and_the_interface_empty(
    network: Namespace, helper: Helper, watch: Watch
) -> None:
    """None of it is of the allowed networks but the vectors' 192.0.2.10, whose interface is not
    allowed."""
    random_ = random.Random(7)
    packets = [each["packet"].encode() for kind in VECTORS for each in VECTORS[kind]]
    packets = [packet for packet in packets if packet]
    client = helper.greeted("noise")
    for _ in range(600):
        try:
            client.socket.send(noise(random_, packets))
            if random_.random() < 0.2:
                client.socket.recv(65537, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            client.__exit__()
            client = helper.connect()
            if random_.random() < 0.8:
                client.hello("noise")
    client.__exit__()
    with helper.greeted("quiet") as quiet:
        assert quiet.add(V6) == OK_ABSENT
        assert quiet.remove(V6) == OK_PRESENT
    assert {change.address for change in watch.changes()} == {ip_address(V6)}
    assert present(network) == []


def test_who_does_not_say_hello_is_hung_up_on_after_five_seconds(silent: Silent) -> None:
    """The last test, see `silent`."""
    assert [each.is_hung_up() for each in silent.clients] == [True, True]
    assert hang_ups(silent.helper) == ["did not say hello"] * 2
    at = [
        each["boottime_ns"] / 1e9 - silent.since
        for each in silent.helper.records()
        if each["type"] == "hung-up"
    ]
    assert min(at) > 4.9
    assert max(at) < 10
    with silent.helper.greeted() as client:
        assert client.list()["addresses"] == []
