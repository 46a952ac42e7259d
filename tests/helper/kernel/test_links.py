"""Interfaces that come back are announced on anew; and what a neighbour makes of announcements."""

import ctypes
import fcntl
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from yaim_helper.kernel.links import Changes, Links
from yaim_helper.kernel.netlink import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    Link,
    MalformedMessage,
    link,
    messages,
)
from yaim_helper.neighbours.announce import BURST_S

from tests.helper.network import (
    INTERFACE,
    PEER,
    add_many_links,
    capturing,
    new_network,
    wait_for,
)
from tests.helper.process import (
    OK_ABSENT,
    OK_PRESENT,
    Client,
    Helper,
    policy,
    running,
)
from yaim.lab.namespaces import Namespace
from yaim.lab.network import LAN, Cables

V4, V6 = "192.0.2.10", "2001:db8::10"
PORT = 5005
SO_RCVBUFFORCE = 33
IFLA_EVENT = 44
FEATURES, BONDING_FAILOVER, NOTIFY_PEERS, IGMP_RESEND = 2, 3, 4, 5
"""include/uapi/linux/if_link.h"""
SIOCETHTOOL, ETHTOOL_STSO = 0x8946, 0x1F


@pytest.fixture
def links(network: Namespace) -> Iterator[Links]:
    with network.entered():
        links = Links()
    yield links
    links.socket.close()


def settled(links: Links) -> None:
    """Nothing more is told of what was done before, and all links are known."""
    while links.read().names or links.mac_addresses() is None:
        time.sleep(0.01)


def known(links: Links) -> frozenset[bytes] | None:
    links.read()
    return links.mac_addresses()


def macs(network: Namespace) -> frozenset[bytes]:
    """Returns the MAC addresses as `ip` shows them."""
    shown = json.loads(network.run("ip", "-json", "link", "show"))
    return frozenset(bytes.fromhex(each["address"].replace(":", "")) for each in shown)


def wait_until_seen(links: Links, interface: str) -> None:
    """The kernel tells of carriers a moment later, and perhaps of others before."""
    wait_for(lambda: interface in links.read().names, f"{interface} is seen")


def next_about(told: socket.socket, interface: str, event: int | None = None) -> bytes:
    """What the kernel tells next of this interface, and of this event if it is not None."""
    while True:
        datagram = told.recv(1 << 16)
        (message,) = MarshalRtnl().parse(datagram)
        is_event = event is None or message.get_attr("IFLA_EVENT") == event
        if message.get_attr("IFLA_IFNAME") == interface and is_event:
            return datagram


def switch_offload(interface: str, on: bool) -> None:
    """Segmentation: what `ethtool -K` does (struct ifreq, struct ethtool_value)."""
    value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STSO, on))
    request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)


# --- seeing it ---------------------------------------------------------------------------------


def test_an_interface_that_comes_up_is_seen(network: Namespace, links: Links) -> None:
    network.run("ip", "link", "set", INTERFACE, "down")
    settled(links)
    network.run("ip", "link", "set", INTERFACE, "up")
    wait_until_seen(links, INTERFACE)


def test_a_carrier_that_comes_back_is_seen(network: Namespace, links: Links) -> None:
    """It is the other end that goes down."""
    network.run("ip", "link", "set", PEER, "down")
    settled(links)
    network.run("ip", "link", "set", PEER, "up")
    wait_until_seen(links, INTERFACE)


def test_another_mac_address_is_seen(network: Namespace, links: Links) -> None:
    network.run("ip", "link", "set", INTERFACE, "address", "02:00:00:00:00:99")
    wait_until_seen(links, INTERFACE)


def test_what_does_not_matter_is_not_seen(network: Namespace, links: Links) -> None:
    settled(links)
    network.run("ip", "link", "set", INTERFACE, "mtu", "1401")
    network.run("ip", "link", "set", PEER, "address", "02:00:00:00:00:99")
    seen: set[str] = set()

    def is_peer_seen() -> bool:
        seen.update(links.read().names)
        return PEER in seen

    wait_for(is_peer_seen, "the other end, of which something else was told later")
    assert INTERFACE not in seen


def test_an_interface_that_is_deleted_is_forgotten(network: Namespace, links: Links) -> None:
    network.run("ip", "link", "set", INTERFACE, "mtu", "1400")
    settled(links)
    network.run("ip", "link", "delete", INTERFACE)

    def is_forgotten() -> bool:
        assert links.read() == Changes()
        return [each.name for each in links._known.values()] == ["lo"]

    wait_for(is_forgotten, "it is forgotten, and its other end")


def test_an_overrun_says_that_anything_may_have_changed(network: Namespace, links: Links) -> None:
    links.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for mtu in range(1400, 1450):
        network.run("ip", "link", "set", INTERFACE, "mtu", str(mtu))
    assert links.read().is_lost
    assert links.read().is_lost, "what came before it was read only now"
    assert links.read() == Changes()


def test_only_so_many_are_read_in_one_go(network: Namespace, links: Links) -> None:
    links.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
    commands = "".join(
        f"ip link set {INTERFACE} address 02:00:00:00:01:{n:02x}\n" for n in range(99)
    )
    network.run("sh", "-ec", commands)
    assert links.read() == Changes(frozenset({INTERFACE}))
    assert links.read().names == {INTERFACE}
    assert links.read() == Changes()


def test_what_others_than_the_kernel_send_is_not_believed(network: Namespace, links: Links) -> None:
    network.run("ip", "link", "set", INTERFACE, "mtu", "1400")
    with network.entered(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as told:
        told.bind((0, 1))
        network.run("ip", "link", "set", INTERFACE, "address", "02:00:00:00:00:98")
        datagram = next_about(told, INTERFACE)
        settled(links)
        links._known.clear()
        told.sendto(datagram, (links.socket.getsockname()[0], 0))
    assert links.read() == Changes()
    assert links._changed(datagram) == {INTERFACE}
    assert links._changed(datagram[:-3]) == set()
    links._known.clear()
    length, kind = struct.unpack_from("=IH", datagram)
    assert kind == RTM_NEWLINK
    assert links._changed(struct.pack("=IH", length, RTM_NEWADDR) + datagram[6:]) == set()


def test_what_was_known_before_an_overrun_is_not_relied_on(
    network: Namespace, links: Links
) -> None:
    """It goes down unseen, and comes up seen: as it was known to be."""
    network.run("ip", "link", "set", INTERFACE, "mtu", "1400")
    settled(links)
    room = links.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    links.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for mtu in range(1401, 1450):
        network.run("ip", "link", "set", INTERFACE, "mtu", str(mtu))
    network.run("ip", "link", "set", INTERFACE, "down")
    wait_for(lambda: links.read().is_lost, "the overrun")
    wait_for(lambda: links.read() == Changes(), "all is read")
    links.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, room)
    network.run("ip", "link", "set", INTERFACE, "up")
    wait_until_seen(links, INTERFACE)


@pytest.mark.parametrize(
    ("event", "counts"),
    [(FEATURES, False), (BONDING_FAILOVER, True), (NOTIFY_PEERS, True), (IGMP_RESEND, False)],
)
def test_another_way_to_the_same_mac_address_is_seen(
    network: Namespace, links: Links, event: int, counts: bool
) -> None:
    """A bond that fails over, a virtual machine that has moved. The message is the kernel's own
    about another event, with the number changed: there is no bond here."""
    with network.entered(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as told:
        told.bind((0, 1))
        switch_offload(INTERFACE, False)
        datagram = next_about(told, INTERFACE, FEATURES)
    attribute = struct.pack("=HHI", 8, IFLA_EVENT, FEATURES)
    assert datagram.count(attribute) == 1
    changed = datagram.replace(attribute, struct.pack("=HHI", 8, IFLA_EVENT, event))
    wait_until_seen(links, INTERFACE)
    assert links._changed(changed) == ({INTERFACE} if counts else set())
    assert links._changed(datagram) == set(), "an event is over once it was told"


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_a_link_or_malformed(body: bytes) -> None:
    try:
        assert isinstance(link(body), Link | None)
    except MalformedMessage:
        pass


def test_a_link_is_read_as_ip_shows_it(network: Namespace, links: Links) -> None:
    with network.entered(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as told:
        told.bind((0, 1))
        network.run("ip", "link", "set", INTERFACE, "mtu", "1400")
        index = socket.if_nametoindex(INTERFACE)
        expected = Link(index, INTERFACE, bytes.fromhex("020000000001"), is_usable=True)
        links_told: list[Link | None] = []
        # The kernel may still be telling that the other end has come up.
        while expected not in links_told:
            links_told += [link(each.body) for each in messages(told.recv(1 << 16))]


# --- the MAC addresses of this host --------------------------------------------------------------


def test_the_mac_addresses_of_all_interfaces_are_known_from_the_start(network: Namespace) -> None:
    many = 60
    add_many_links(network, many // 2)
    with network.entered():
        links = Links()
    assert links.mac_addresses() is None, "the kernel has been asked, and not heard yet"
    assert links.read() == Changes(), "what was there before is no change"
    assert links.mac_addresses() == macs(network) and len(macs(network)) == many + 3
    links.socket.close()


def test_mac_addresses_that_come_and_go_are_kept_true(network: Namespace, links: Links) -> None:
    settled(links)
    for command in (
        f"ip link set {INTERFACE} address 02:00:00:00:00:77",
        "ip link add br0 type bridge",
        f"ip link set {PEER} master br0",
        f"ip link set {PEER} nomaster",
        "ip link delete br0",
        f"ip link set {INTERFACE} name other",
    ):
        network.run("sh", "-ec", command)
        wait_for(lambda: known(links) == macs(network), command)


def test_after_an_overrun_the_mac_addresses_are_asked_for_anew(
    network: Namespace, links: Links
) -> None:
    settled(links)
    room = links.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    links.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for number in range(50):
        network.run("ip", "link", "set", INTERFACE, "address", f"02:00:00:00:01:{number:02x}")
    links.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, room)
    assert links.read().is_lost
    assert links.mac_addresses() is None
    assert links.read().is_lost, "what came before it"
    wait_for(lambda: known(links), "all")
    assert links.mac_addresses() == macs(network)


def dump_end(flags: int, error: int) -> bytes:
    """NLMSG_DONE."""
    return struct.pack("=IHHIIi", 20, NLMSG_DONE, flags, 1, 0, error)


@pytest.mark.parametrize(
    ("flags", "error", "is_known"),
    [(2, 0, True), (2 | NLM_F_DUMP_INTR, 0, False), (2, -12, False)],
    ids=["whole", "torn", "failed"],
)
def test_only_a_whole_answer_tells_all_mac_addresses(
    links: Links, flags: int, error: int, is_known: bool
) -> None:
    links._changed(dump_end(flags, error))
    assert (links.mac_addresses() is not None) == is_known
    settled(links)
    assert links.mac_addresses() is not None, "it was asked for again"


def test_a_kernel_that_cannot_be_asked_for_the_links_is_asked_again(links: Links) -> None:
    settled(links)
    links._knows_all = False
    readable = links.socket
    links.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    links.socket.close()
    links._ask()
    assert links.mac_addresses() is None and not links._is_asked
    links.socket = readable
    settled(links)


# --- announcing then ---------------------------------------------------------------------------


def test_an_address_is_announced_anew_when_its_interface_has_its_carrier_back(
    network: Namespace, client: Client
) -> None:
    """More often than it would have been after the add alone."""
    with capturing(network) as capture:
        began = time.monotonic()
        client.add(V4)
        frames = 0

        def announcements() -> int:
            nonlocal frames
            frames += len(capture.announced())
            return frames // 2

        def because_of_the_add() -> int:
            elapsed = time.monotonic() - began
            return sum(after <= elapsed for after in BURST_S)

        wait_for(lambda: announcements() >= 3, "the first burst")
        assert announcements() <= because_of_the_add()
        network.run("ip", "link", "set", PEER, "down")
        network.run("ip", "link", "set", PEER, "up")
        capture.wait_until_open()
        wait_for(lambda: announcements() > because_of_the_add(), "a burst more")


def test_an_interface_that_comes_and_goes_costs_one_burst_a_second(
    network: Namespace, client: Client
) -> None:
    client.add(V4)
    with capturing(network) as capture:
        began = time.monotonic()
        while time.monotonic() - began < 2.0:
            for mac in ("02:00:00:00:00:97", "02:00:00:00:00:01"):
                network.run("ip", "link", "set", INTERFACE, "address", mac)
        found = len(capture.announced())
        elapsed = time.monotonic() - began
        # One begins each second, with at most three announcements of two frames before the next.
        assert 2 * 2 <= found <= 2 * 3 * (int(elapsed) + 2)


# --- a neighbour -------------------------------------------------------------------------------


@dataclass
class Node:
    namespace: Namespace
    helper: Helper
    client: Client
    sinks: list[socket.socket]

    def got(self) -> list[bytes]:
        found = []
        for sink in self.sinks:
            try:
                while True:
                    found.append(sink.recv(100))
            except BlockingIOError:
                continue
        return found


@contextmanager
def node(number: int, directory: Path) -> Iterator[Node]:
    with ExitStack() as stack:
        namespace = Namespace.new()
        stack.callback(namespace.close)
        stack.callback(Cables(namespace, f"n{number}", (LAN,)).close)
        own = (f"192.0.2.{number}/24", f"2001:db8::{number}/64")
        for each in own:
            nodad = ("nodad",) if ":" in each else ()
            namespace.run("ip", "address", "add", each, "dev", LAN.interface, *nodad)
        place = directory / str(number)
        place.mkdir()
        config = policy(place / "audit").replace(INTERFACE, LAN.interface)
        helper = stack.enter_context(running(namespace, place, config=config))
        sinks = []
        with namespace.entered():
            for family, every in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                sink = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                if family == socket.AF_INET6:
                    sink.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sink.bind((every, PORT))
                sink.setblocking(False)
                sinks.append(sink)
        yield Node(namespace, helper, stack.enter_context(helper.greeted()), sinks)


@pytest.mark.parametrize("address", [V4, V6])
def test_a_neighbour_with_the_old_mac_address_reaches_the_new_holder_with_its_next_packet(
    tmp_path: Path, address: str
) -> None:
    LAN.make()
    with ExitStack() as stack:
        stack.callback(LAN.delete)
        old, new, neighbour = (stack.enter_context(node(n, tmp_path)) for n in (1, 2, 3))
        with neighbour.namespace.entered():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sender = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        assert old.client.add(address, interface=LAN.interface) == OK_ABSENT
        sender.sendto(b"before", (address, PORT))
        assert wait_for(old.got, "the old holder is reached") == [b"before"]
        assert old.client.remove(address) == OK_PRESENT
        assert new.client.add(address, interface=LAN.interface) == OK_ABSENT
        mac = json.loads(new.namespace.run("ip", "-json", "link", "show", LAN.interface))
        known = (*("ip", "neighbour", "show"), address)
        wait_for(lambda: mac[0]["address"] in neighbour.namespace.run(*known), "it has heard")
        sender.sendto(b"after", (address, PORT))
        assert wait_for(new.got, "the new holder is reached") == [b"after"]
        assert old.got() == []


def test_this_network_has_two_ends() -> None:
    """What the tests above rely on: one end down is the other without a carrier."""
    with new_network() as network:
        network.run("ip", "link", "set", PEER, "down")

        def shown() -> str:
            return network.run("ip", "link", "show", INTERFACE)

        wait_for(lambda: "LOWERLAYERDOWN" in shown(), "it is without a carrier")
