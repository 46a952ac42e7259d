"""Announcements: the frames byte by byte, when they are sent, and that they arrive."""

import struct
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yaim_helper.kernel.addresses import Interface, Kernel
from yaim_helper.neighbours.announce import BURST_S, FRAMES_PER_S, REFRESH_S, Announcer, frames

from tests.helper.network import INTERFACE, MAC, PEER, Capture, capturing
from yaim.lab.namespaces import Namespace

V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
MAC_BYTES = bytes.fromhex(MAC.replace(":", ""))

ARP_REQUEST = bytes.fromhex(
    "ffffffffffff 020000000001 0806"  # to all, from the interface, ARP (RFC 826)
    "0001 0800 06 04 0001"  # Ethernet, IPv4, lengths of their addresses, request
    "020000000001 c000020a"  # sender: the interface, the announced address
    "000000000000 c000020a"  # target: nobody, the announced address (RFC 5227 section 3)
)
ARP_REPLY = bytes.fromhex(
    "ffffffffffff 020000000001 0806"
    "0001 0800 06 04 0002"  # reply
    "020000000001 c000020a"
    "020000000001 c000020a"
)
ADVERTISEMENT = bytes.fromhex(
    "333300000001 020000000001 86dd"  # to all nodes, from the interface, IPv6
    "60000000 0020 3a ff"  # version 6, 32 bytes, ICMPv6, hop limit 255 (RFC 8200)
    "20010db8000000000000000000000010"  # from the announced address
    "ff020000000000000000000000000001"  # to all nodes
    "88 00 f90c"  # neighbour advertisement (RFC 4861 section 4.4), checksum
    "20000000"  # override; not a router, not solicited
    "20010db8000000000000000000000010"  # target: the announced address
    "02 01 020000000001"  # option: target link-layer address
)


@pytest.fixture
def announcer(network: Namespace) -> Announcer:
    with network.entered():
        return Announcer(Kernel())


@pytest.fixture
def capture(network: Namespace) -> Iterator[Capture]:
    with capturing(network) as capture:
        yield capture


def interface(network: Namespace, name: str = INTERFACE) -> Interface:
    with network.entered():
        return Kernel().interface(name)


def internet_checksum(data: bytes) -> int:
    """RFC 1071, the slow way."""
    total = 0
    for high, low in zip(data[::2], data[1::2], strict=True):
        total += high << 8 | low
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


# --- the frames --------------------------------------------------------------------------------


def test_an_ipv4_address_is_announced_by_an_arp_request_and_a_reply() -> None:
    assert frames(MAC_BYTES, V4) == (ARP_REQUEST, ARP_REPLY)


def test_an_ipv6_address_is_announced_by_a_neighbour_advertisement() -> None:
    assert frames(MAC_BYTES, V6) == (ADVERTISEMENT,)


@given(
    mac=st.binary(min_size=6, max_size=6),
    address=st.builds(IPv6Address, st.integers(0, 2**128 - 1)),
)
def test_the_checksum_of_an_advertisement_is_right(mac: bytes, address: IPv6Address) -> None:
    """A receiver sums the pseudo-header and the message, its checksum in it: 0 (RFC 4443 2.3)."""
    (frame,) = frames(mac, address)
    packet = frame[14:]
    source, destination, icmp = packet[8:24], packet[24:40], packet[40:]
    pseudo_header = source + destination + struct.pack("!IxxxB", len(icmp), 58)
    assert (len(frame), source) == (86, address.packed)
    assert internet_checksum(pseudo_header + icmp) == 0


# --- when --------------------------------------------------------------------------------------


def test_a_burst_is_followed_by_a_slow_refresh(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    assert BURST_S == (0.0, 0.1, 0.5, 2.0, 5.0, 10.0, 20.0)
    announcer.start(INTERFACE, V4, 100.0)
    times = [100.0]
    for _ in range(10):
        due = announcer.next_at()
        assert due is not None
        assert capture.frames() == [ARP_REQUEST, ARP_REPLY]
        announcer.run(due - 0.001, 64)
        assert capture.frames() == []
        announcer.run(due, 64)
        times.append(due)
    waits = [after - before for before, after in pairwise(times)]
    assert times[:7] == pytest.approx([100.0, 100.1, 100.5, 102.0, 105.0, 110.0, 120.0])
    assert all(REFRESH_S[0] <= wait <= REFRESH_S[1] for wait in waits[6:])
    assert len(set(waits[6:])) == len(waits[6:]), "the refresh is jittered"


def test_a_late_announcement_is_sent_once(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    announcer.start(INTERFACE, V4, 100.0)
    announcer.run(1000.0, 64)
    assert capture.frames() == [ARP_REQUEST, ARP_REPLY] * 2
    assert announcer.next_at() == pytest.approx(1000.4)


def test_each_address_has_its_own_time(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    announcer.start(INTERFACE, V4, 100.0)
    announcer.start(INTERFACE, V6, 100.05)
    assert capture.frames() == [ARP_REQUEST, ARP_REPLY, ADVERTISEMENT]
    assert announcer.next_at() == pytest.approx(100.1)
    announcer.run(100.12, 64)
    assert capture.frames() == [ARP_REQUEST, ARP_REPLY]
    assert announcer.next_at() == pytest.approx(100.15)


def test_what_is_stopped_is_not_announced_any_more(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    for address in (V4, V6):
        announcer.start(INTERFACE, address, 100.0)
    capture.frames()
    announcer.stop(V4)
    announcer.stop(V4)
    announcer.run(1000.0, 64)
    assert capture.frames() == [ADVERTISEMENT]
    announcer.stop(V6)
    assert announcer.next_at() is None


def test_an_address_that_is_announced_again_has_a_new_burst(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    announcer.start(INTERFACE, V4, 100.0)
    for _ in range(5):
        announcer.run(announcer.next_at() or 0.0, 64)
    capture.frames()
    announcer.start(INTERFACE, V4, 200.0)
    assert capture.frames() == [ARP_REQUEST, ARP_REPLY]
    assert announcer.next_at() == pytest.approx(200.1)


# --- where not ---------------------------------------------------------------------------------


def test_the_loopback_interface_has_no_neighbours(network: Namespace) -> None:
    loopback = interface(network, "lo")
    assert (loopback.is_up, loopback.has_neighbours) == (True, False)


def test_an_interface_that_does_not_speak_arp_is_left_alone(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    network.run("ip", "link", "set", INTERFACE, "arp", "off")
    announcer.start(INTERFACE, V4, 100.0)
    assert capture.frames() == []
    network.run("ip", "link", "set", INTERFACE, "arp", "on")
    announcer.run(101.0, 64)
    assert capture.frames() == [ARP_REQUEST, ARP_REPLY]


def test_a_point_to_point_interface_has_no_neighbours(network: Namespace) -> None:
    """A VPN has such an interface."""
    network.run("ip", "tuntap", "add", "tun0", "mode", "tun")
    assert not interface(network, "tun0").has_neighbours
    network.run("ip", "tuntap", "add", "tap0", "mode", "tap")
    assert interface(network, "tap0").has_neighbours


def test_no_more_are_announced_in_one_go_than_asked_for(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    for address in (V4, V6):
        announcer.start(INTERFACE, address, 100.0)
    capture.frames()
    announcer.run(101.0, 1)
    assert capture.frames() == [ARP_REQUEST, ARP_REPLY]
    announcer.run(101.0, 1)
    assert capture.frames() == [ADVERTISEMENT]


def test_an_interface_that_was_down_is_announced_on_when_it_is_up(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    network.run("ip", "link", "set", INTERFACE, "down")
    announcer.start(INTERFACE, V4, 100.0)
    network.run("ip", "link", "set", INTERFACE, "up")
    assert capture.frames() == []
    announcer.run(101.0, 64)
    assert capture.frames() == [ARP_REQUEST, ARP_REPLY]


def test_an_interface_that_is_too_narrow_does_no_harm(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    network.run("ip", "link", "set", INTERFACE, "mtu", "68")
    announcer.start(INTERFACE, V6, 100.0)
    announcer.start(INTERFACE, V4, 100.0)
    assert capture.frames() == [ARP_REQUEST, ARP_REPLY]


def test_what_is_not_announced_is_not_defended(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    announcer.defend(V4)
    assert capture.frames() == []
    announcer.start(INTERFACE, V4, 100.0)
    announcer.defend(V4)
    assert capture.frames() == [ARP_REQUEST, ARP_REPLY, ARP_REQUEST]


def test_an_interface_that_is_gone_does_no_harm(network: Namespace, announcer: Announcer) -> None:
    announcer.start(INTERFACE, V4, 100.0)
    network.run("ip", "link", "delete", PEER)
    announcer.run(101.0, 64)
    assert announcer.next_at() == pytest.approx(101.4)


# --- how much ----------------------------------------------------------------------------------


def test_a_thousand_addresses_are_all_told_once_before_any_is_told_twice(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    addresses = [ip_address("10.0.0.0") + number for number in range(1, 1201)]
    told = 0
    for number, address in enumerate(addresses):
        announcer.start(INTERFACE, address, 100.0)
        if number % 100 == 99:
            told += len(capture.frames())
    assert told == FRAMES_PER_S
    rest, now = set[object](), 100.0
    while told < 2 * len(addresses):
        now = announcer.next_at() or 0.0
        announcer.run(now, 64)
        found = capture.announced()
        told += len(found)
        rest |= {address for address, _ in found}
    assert rest == set(addresses[FRAMES_PER_S // 2 :])
    assert 100.0 < now <= 100.5


def test_no_more_frames_are_sent_than_the_cap_allows(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    sent, now = 0, 100.0
    for number in range(1, 2001):
        announcer.start(INTERFACE, ip_address("10.0.0.0") + number, now)
        if number % 100 == 0:
            sent += len(capture.frames())
    while now < 103.0:
        announcer.run(now, 64)
        sent += len(capture.frames())
        assert sent <= FRAMES_PER_S * (1 + now - 100.0) + 2
        now = max(now + 0.001, announcer.next_at() or 0.0)
    assert sent > FRAMES_PER_S * 2


def test_what_is_on_an_interface_that_has_come_back_is_told_anew(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    announcer.start(INTERFACE, V4, 100.0)
    announcer.run(130.0, 64)
    capture.frames()
    announcer.start_again(200.0, {"other0"})
    announcer.run(200.0, 64)
    announcer.start_again(200.0, {INTERFACE})
    announcer.run(200.0, 64)
    assert capture.frames() == [ARP_REQUEST, ARP_REPLY] * 2
    announcer.start_again(200.1)
    times = []
    while (now := announcer.next_at() or 0.0) < 201.4:
        announcer.run(now, 64)
        times.append(now)
    assert times == pytest.approx([200.1, 200.5, 201.0, 201.1])


def test_what_is_on_other_interfaces_is_not_told_anew(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    for name, address in ((INTERFACE, V4), ("lo", V6)):
        announcer.start(name, address, 100.0)
    capture.frames()
    announcer.start_again(100.05, {"lo"})
    announcer.run(100.05, 64)
    assert capture.frames() == []
    assert announcer.next_at() == pytest.approx(100.1)


def test_an_interface_that_comes_and_goes_never_puts_announcing_off_for_long(
    network: Namespace, announcer: Announcer, capture: Capture
) -> None:
    announcer.start(INTERFACE, V4, 100.0)
    capture.frames()
    told = []
    for tenths in range(1000, 1100):
        now = tenths / 10
        announcer.start_again(now, {INTERFACE})
        announcer.run(now, 64)
        told += [now] * (len(capture.frames()) // 2)
    assert len(told) == 3 * 10, "of each burst what is within a second"
    assert all(after - before < 0.6 for before, after in pairwise(told))
