"""Connections of another host when an address goes, with a fence and without: what the other host
is told, and what goes over the wire."""

import errno
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.helper.network import INTERFACE, PEER, Address, boottime, present, wait_for
from tests.helper.process import (
    OK_ABSENT,
    OK_PRESENT,
    Client,
    Helper,
    Message,
    add,
    deadline_in,
    policy,
    refused,
    running,
)
from tests.helper.serve.test_reload import reload
from yaim.lab.namespaces import Namespace

V4, V6, OTHER = ip_address("192.0.2.10"), ip_address("2001:db8::10"), ip_address("192.0.2.11")
PORT, TRANSPARENT_PORT = 80, 81
AT_ONCE_S = 20.0
"""It is some milliseconds; the machine may be busy."""
SILENCE_S = 0.3
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
RESET, ABORTED, WAITS = errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT


@dataclass
class Hosts:
    """The helper's host, with a server, and another one."""

    helper: Helper
    asks: Client
    server: Namespace
    other: Namespace
    open: list[socket.socket] = field(default_factory=list)
    wire: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_UNIX))

    def kept(self, it: socket.socket) -> socket.socket:
        it.settimeout(AT_ONCE_S)
        self.open.append(it)
        return it

    def listener(self, port: int = PORT, *, is_transparent: bool = False) -> socket.socket:
        """For all addresses."""
        with self.server.entered():
            made = socket.socket(socket.AF_INET6)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if is_transparent:
            made.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        made.bind(("::", port))
        made.listen(64)
        return self.kept(made)

    def pair(self, listener: socket.socket, to: Address) -> list[socket.socket]:
        """Returns both ends of a connection: the other host's, the server's."""
        port = listener.getsockname()[1]
        with self.other.entered():
            client = socket.create_connection((str(to), port), AT_ONCE_S)
        return [self.kept(client), self.kept(listener.accept()[0])]

    def forget_wire(self) -> None:
        self.wire.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self.wire.recv(2048)

    def is_heard(self, address: Address, for_s: float = SILENCE_S) -> bool:
        """Whether something has come from the address, since that was forgotten, or comes."""
        until = boottime() + for_s
        while (left_s := until - boottime()) > 0:
            self.wire.settimeout(left_s)
            with suppress(TimeoutError):
                frame = self.wire.recv(2048)
                at = 26 if address.version == 4 else 22
                if frame[at : at + len(address.packed)] == address.packed:
                    return True
        return False


@pytest.fixture(params=["auto", "off"])
def fence(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hosts(network: Namespace, tmp_path: Path, fence: str) -> Iterator[Hosts]:
    with ExitStack() as stack:
        other = Namespace.new()
        stack.callback(other.close)
        there = f"/proc/{os.getpid()}/fd/{other.fd}"
        network.run("ip", "link", "set", PEER, "netns", there)
        other.run(
            *("sh", "-ec"),
            f"ip address add 192.0.2.1/24 dev {PEER}\n"
            f"ip address add 2001:db8::1/64 dev {PEER} nodad\n"
            f"ip link set {PEER} up",
        )
        network.run(
            *("sh", "-ec"),
            f"ip address add 192.0.2.2/24 dev {INTERFACE}\n"
            f"ip address add 2001:db8::2/64 dev {INTERFACE} nodad\n",
        )
        wait_for(lambda: "state UP" in other.run("ip", "link", "show", PEER), "it is up")
        helper = stack.enter_context(running(network, tmp_path, config=config(tmp_path, fence)))
        asks = stack.enter_context(helper.greeted())
        hosts = Hosts(helper, asks, network, other)
        with other.entered():
            hosts.wire = hosts.kept(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        hosts.wire.bind((PEER, 3))
        for each in (V4, V6, OTHER):
            assert asks.add(str(each)) == OK_ABSENT
        yield hosts
        for it in hosts.open:
            it.close()


def config(directory: Path, fence: str, **changed: object) -> str:
    return policy(directory / "audit", fence=fence, **changed)  # type: ignore[arg-type]


def fate(it: socket.socket, within_s: float = AT_ONCE_S) -> int:
    """What a socket says that waits for something."""
    it.settimeout(within_s)
    try:
        while it.recv(1 << 16):
            pass
        return 0
    except TimeoutError:
        return WAITS
    except OSError as error:
        return error.errno or 0


def is_open(pair: list[socket.socket]) -> bool:
    client, server = pair
    client.send(b"x")
    return server.recv(1) == b"x"


def own_places() -> list[str]:
    return sorted([f"{INTERFACE} 192.0.2.2/24", f"{INTERFACE} 2001:db8::2/64"])


# --- removals ------------------------------------------------------------------------------------


def test_the_other_host_learns_that_an_address_goes_and_nobody_else(hosts: Hosts) -> None:
    listener = hosts.listener()
    going = [hosts.pair(listener, each) for each in (V4, V4, V4, V6)]
    staying = [hosts.pair(listener, each) for each in (OTHER, ip_address("192.0.2.2"))]
    assert hosts.asks.remove_with_reset(str(V4)) == {**OK_PRESENT, "reset": 3, "left": 0}
    assert hosts.asks.remove_with_reset(str(V6)) == {**OK_PRESENT, "reset": 1, "left": 0}
    assert [[fate(each) for each in pair] for pair in going] == [[RESET, ABORTED]] * 4
    assert all(map(is_open, staying))
    assert present(hosts.server) == sorted([*own_places(), f"{INTERFACE} {OTHER}/32"])
    told = [each for each in hosts.helper.records() if each.get("op") == "remove"]
    assert [(e["type"], e["connections"], e.get("reset"), e.get("left")) for e in told] == [
        ("intent", "reset", None, None),
        ("result", "reset", 3, 0),
        ("intent", "reset", None, None),
        ("result", "reset", 1, 0),
    ]


def test_so_it_does_while_others_are_added_and_renewed(hosts: Hosts) -> None:
    """A fence mutes with a renewal what is to go."""
    listener = hosts.listener()
    going = [hosts.pair(listener, each) for each in (V4, V6)]
    with hosts.helper.stopped():
        asked = [
            hosts.asks.send("add", **add("192.0.2.12")),
            hosts.asks.send("remove", address=str(V4), connections="reset"),
            hosts.asks.send("remove", address=str(V6), connections="reset"),
            hosts.asks.send("add", **add("192.0.2.13")),
            hosts.asks.send("renew", deadline_ns=deadline_in(30)),
        ]
    replies = [hosts.asks.receive(each) for each in asked]
    reset = {**OK_PRESENT, "reset": 1, "left": 0}
    assert replies[:4] == [OK_ABSENT, reset, reset, OK_ABSENT]
    assert (replies[4]["result"], replies[4]["missing"]) == ("ok", [])
    assert [[fate(each) for each in pair] for pair in going] == [[RESET, ABORTED]] * 2


def test_without_being_asked_for_it_nobody_is_told(hosts: Hosts) -> None:
    listener = hosts.listener()
    pairs = [hosts.pair(listener, each) for each in (V4, V6)]
    assert hosts.asks.ask("remove", address=str(V4), connections="leave") == OK_PRESENT
    assert hosts.asks.remove(str(V6)) == OK_PRESENT
    assert {fate(each, SILENCE_S) for pair in pairs for each in pair} == {WAITS}


def test_what_is_anothers_keeps_its_connections(hosts: Hosts) -> None:
    listener = hosts.listener()
    pair = hosts.pair(listener, V4)
    with hosts.helper.greeted("another") as another:
        assert another.remove_with_reset(str(V4)) == OK_ABSENT
        assert refused(another.clear(str(V4))) == "foreign"
    assert refused(hosts.asks.clear("192.0.2.2")) == "foreign"
    assert refused(hosts.asks.clear("198.51.100.1")) == "not-allowed"
    assert is_open(pair)


def test_at_its_deadline_an_address_goes_without_a_word(hosts: Hosts) -> None:
    listener = hosts.listener()
    pairs = [hosts.pair(listener, each) for each in (V4, V6)]
    hosts.asks.renew(deadline_in(2.6))
    wait_for(lambda: present(hosts.server) == own_places(), "they are gone")
    assert {fate(each, SILENCE_S) for pair in pairs for each in pair} == {WAITS}


def test_nor_does_the_end_of_the_helper_end_connections(hosts: Hosts) -> None:
    listener = hosts.listener()
    pairs = [hosts.pair(listener, each) for each in (V4, V6)]
    assert hosts.helper.end(signal.SIGTERM) == 0
    assert all(map(is_open, pairs))


def test_what_the_policy_does_not_allow_any_more_is_reset(
    hosts: Hosts, tmp_path: Path, fence: str
) -> None:
    listener = hosts.listener()
    going = [hosts.pair(listener, each) for each in (V4, V6)]
    reload(hosts.helper, config(tmp_path, fence, networks=[f"{OTHER}/32"]))
    assert [[fate(each) for each in pair] for pair in going] == [[RESET, ABORTED]] * 2
    wait_for(lambda: len(removals(hosts)) == 2, "they are removed")
    assert present(hosts.server) == sorted([*own_places(), f"{INTERFACE} {OTHER}/32"])
    assert [(each["reset"], each["left"]) for each in removals(hosts)] == [(1, 0)] * 2


def removals(hosts: Hosts) -> list[Message]:
    return [each for each in hosts.helper.records() if each.get("outcome") == "removed"]


def test_a_rule_can_forbid_it(hosts: Hosts, tmp_path: Path, fence: str) -> None:
    reload(hosts.helper, config(tmp_path, fence, resets=False))
    listener = hosts.listener()
    pair = hosts.pair(listener, V4)
    with hosts.helper.connect() as asks:
        (rule,) = asks.hello()["rules"]
        assert rule["reset_connections"] is False
        assert asks.remove_with_reset(str(V4)) == OK_PRESENT
        assert refused(asks.clear(str(V4))) == "not-allowed"
    assert {fate(each, SILENCE_S) for each in pair} == {WAITS}


def test_an_address_that_lost_its_route_is_reached_when_it_is_added(hosts: Hosts) -> None:
    """A helper was killed while it reset connections."""
    hosts.server.run(*("ip", "route", "del", "local", str(V4), "dev", INTERFACE, "table", "local"))
    assert hosts.asks.add(str(V4)) == OK_PRESENT
    assert is_open(hosts.pair(hosts.listener(), V4))


# --- what is left when an address has gone -------------------------------------------------------


@pytest.mark.parametrize("address", [V4, V6])
def test_what_is_left_of_an_address_that_has_gone_is_ended_without_a_word(
    hosts: Hosts, fence: str, address: Address
) -> None:
    """Without a fence IPv6 would say one."""
    listener = hosts.listener()
    client, server = hosts.pair(listener, address)
    other = hosts.pair(listener, OTHER)
    assert hosts.asks.remove(str(address)) == OK_PRESENT
    hosts.forget_wire()
    can_clear = address == V4 or fence == "auto"
    reply = hosts.asks.clear(str(address))
    if can_clear:
        assert reply == {"result": "ok", "cleared": 1, "left": 0}
    else:
        assert (reply["result"], reply["reason"][:15]) == ("failed", "without a fence")
    assert fate(server, AT_ONCE_S if can_clear else SILENCE_S) == (ABORTED if can_clear else WAITS)
    assert not hosts.is_heard(address)
    assert fate(client, 0.01) == WAITS
    assert is_open(other)
    entries = [each for each in hosts.helper.records() if each.get("op") == "clear"]
    told = {(each["outcome"], each.get("cleared"), each.get("left")) for each in entries}
    assert told == {("ok", 1, 0) if can_clear else ("failed", None, None)}
    assert hosts.asks.add(str(address)) == OK_ABSENT
    assert is_open(hosts.pair(listener, address))


@pytest.mark.parametrize("fence", ["auto"])
def test_nor_do_sockets_that_may_use_any_address_say_one(hosts: Hosts) -> None:
    listener = hosts.listener(TRANSPARENT_PORT, is_transparent=True)
    _, server = hosts.pair(listener, V4)
    assert hosts.asks.remove(str(V4)) == OK_PRESENT
    hosts.forget_wire()
    assert hosts.asks.clear(str(V4)) == {"result": "ok", "cleared": 1, "left": 0}
    assert fate(server) == ABORTED
    assert not hosts.is_heard(V4)


def test_where_nothing_is_left_nothing_is_on_record(hosts: Hosts) -> None:
    hosts.asks.remove(str(V4))
    assert hosts.asks.clear(str(V4)) == {"result": "ok", "cleared": 0, "left": 0}
    assert [each for each in hosts.helper.records() if each.get("op") == "clear"] == []
