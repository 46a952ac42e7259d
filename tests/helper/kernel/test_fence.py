"""What a fence lets through, as frames on the wire tell it. Only the kernel acts when it ends."""

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

import pytest
from pyroute2.nftables.main import NFTables
from yaim_helper.kernel import nftables as nft
from yaim_helper.kernel.addresses import KernelError
from yaim_helper.kernel.fence import (
    ABSENT,
    FENCE_GRACE_S,
    LEAST_MS,
    SET_WITHIN_S,
    TRIES,
    Fence,
    ForeignChanges,
    Ruleset,
    TooLate,
    probe,
    unmake,
)
from yaim_helper.kernel.netlink import NLM_F_DUMP_INTR, NLM_F_MULTI
from yaim_helper.kernel.nftables import Change, Family
from yaim_helper.protocol import Address

from tests.helper.network import INTERFACE, MAC, PEER, boottime, state, wait_for
from yaim.lab.namespaces import LabError, Namespace

V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
OWN4, OWN6 = ip_address("192.0.2.9"), ip_address("2001:db8::9")
CLIENT4, CLIENT6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
CLIENT_MAC = bytes.fromhex("02005e000001")
OUR_MAC = bytes.fromhex(MAC.replace(":", ""))
TABLE = "yaim-7"
LATE_S = SET_WITHIN_S + 0.02
"""A transaction that takes this long was not carried out in time."""


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return int(~total & 0xFFFF)


def arp_request(address: Address) -> bytes:
    """RFC 826."""
    ethernet = b"\xff" * 6 + CLIENT_MAC + b"\x08\x06"
    about = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return ethernet + about + CLIENT_MAC + CLIENT4.packed + bytes(6) + address.packed


def echo_request(address: Address) -> bytes:
    """RFC 792, RFC 4443."""
    if address.version == 6:
        return OUR_MAC + CLIENT_MAC + b"\x86\xdd" + icmp6(address, struct.pack("!HH", 7, 1), 128)
    icmp = struct.pack("!BBHHH", 8, 0, 0, 7, 1)
    return ipv4(address, 1, icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:])


def datagram(address: Address, port: int, data: bytes) -> bytes:
    """RFC 768; an even number of bytes."""
    ends = (CLIENT4 if address.version == 4 else CLIENT6).packed + address.packed
    header = struct.pack("!HHH", 9, port, 8 + len(data))
    summed = checksum(ends + struct.pack("!HH", 17, 8 + len(data)) + header + data)
    udp = header + struct.pack("!H", summed) + data
    if address.version == 4:
        return ipv4(address, 17, udp)
    return OUR_MAC + CLIENT_MAC + b"\x86\xdd" + ipv6(address, 17, udp)


def ipv4(to: Address, protocol: int, body: bytes) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0)
    header += CLIENT4.packed + to.packed
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return OUR_MAC + CLIENT_MAC + b"\x08\x00" + header + body


def ipv6(to: Address, protocol: int, body: bytes) -> bytes:
    ends = CLIENT6.packed + to.packed
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, 255) + ends + body


def solicitation(address: Address) -> bytes:
    """RFC 4861 4.3, to the address itself."""
    body = bytes(4) + address.packed + b"\x01\x01" + CLIENT_MAC
    return OUR_MAC + CLIENT_MAC + b"\x86\xdd" + icmp6(address, body, 135)


def solicitation_to_all(address: Address) -> bytes:
    """RFC 4861 4.3, to the solicited-node multicast address (RFC 4291 2.7.1)."""
    group = IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + address.packed[-3:])
    body = bytes(4) + address.packed + b"\x01\x01" + CLIENT_MAC
    ethernet = b"\x33\x33" + group.packed[-4:] + CLIENT_MAC + b"\x86\xdd"
    return ethernet + icmp6(group, body, 135)


def icmp6(to: Address, body: bytes, kind: int) -> bytes:
    message = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = CLIENT6.packed + to.packed + struct.pack("!IxxxB", len(message), 58)
    return ipv6(to, 58, struct.pack("!BBH", kind, 0, checksum(pseudo + message)) + body)


R = TypeVar("R", bound=Ruleset)


class Client:
    """Another host on the link, as frames."""

    def __init__(self, packets: socket.socket) -> None:
        packets.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._packets = packets

    def asks(self, request: bytes, address: Address, within_s: float = 0.3) -> bool:
        """Whether something is answered from the address. What has come before does not count."""
        self.forget()
        self._packets.send(request)
        return self.hears(address, within_s)

    def sends(self, frame: bytes) -> None:
        self._packets.send(frame)

    def forget(self) -> None:
        """What has come until now does not count."""
        self._packets.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._packets.recv(2048)

    def hears(self, address: Address, within_s: float) -> bool:
        """Whether a frame about the address comes."""
        return self.heard_at(address, within_s) is not None

    def heard_at(self, address: Address, within_s: float) -> float | None:
        """Returns when a frame about the address came, as the kernel tells it: an instant of
        CLOCK_BOOTTIME."""
        give_up_at = time.monotonic() + within_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            self._packets.settimeout(left_s)
            try:
                frame, ((_, _, stamp), *_), _, _ = self._packets.recvmsg(2048, 128)
            except TimeoutError:
                return None
            if frame[6:12] == OUR_MAC and address.packed in frame[14:]:
                seconds, nanoseconds = struct.unpack("=qq", stamp)
                ahead_s = time.time() - boottime()
                return float(seconds + nanoseconds / 1e9 - ahead_s)
        return None

    def is_answered_by(self, address: Address, within_s: float = 0.3) -> list[bool]:
        """Whether address resolution, and an echo, are."""
        resolve = arp_request(address) if address.version == 4 else solicitation(address)
        return [self.asks(each, address, within_s) for each in (resolve, echo_request(address))]

    def answers(self, address: Address, is_over: Callable[[], bool]) -> Iterator[float]:
        """Asks for an echo again and again, and returns when answers came."""
        while not is_over():
            self._packets.send(echo_request(address))
            if at := self.heard_at(address, 0.005):
                yield at


_SO_TIMESTAMPNS = 35


@pytest.fixture
def addressed(network: Namespace) -> Namespace:
    """With a held address and one of the host's own of each kind, and a way to the client."""
    mac = CLIENT_MAC.hex(":")
    network.run(
        *("sh", "-ec"),
        "".join(
            f"ip address add {each} dev {INTERFACE} {'nodad' if ':' in each else ''}\n"
            for each in (f"{OWN4}/24", f"{V4}/32", f"{OWN6}/64", f"{V6}/128")
        )
        + f"ip neighbour add {CLIENT4} lladdr {mac} dev {INTERFACE}\n"
        + f"ip neighbour add {CLIENT6} lladdr {mac} dev {INTERFACE}\n",
    )
    return network


@pytest.fixture
def client(addressed: Namespace) -> Iterator[Client]:
    with addressed.entered():
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with packets:
        packets.bind((PEER, 3))
        client = Client(packets)
        for each in (V4, V6, OWN4, OWN6):
            while not all(client.is_answered_by(each)):
                pass
        yield client


class Slow(Ruleset):
    """Each transaction is carried out only after a delay: somebody holds the lock, or this process
    is stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.delays_s: deque[float] = deque()

    def change(self, changes: Sequence[Change]) -> None:
        if self.delays_s:
            time.sleep(self.delays_s.popleft())
        super().change(changes)


@contextmanager
def ruleset_in(network: Namespace, kind: Callable[[], R]) -> Iterator[R]:
    with network.entered():
        ruleset = kind()
    yield ruleset
    ruleset.close()


@pytest.fixture
def ruleset(addressed: Namespace) -> Iterator[Ruleset]:
    with ruleset_in(addressed, Ruleset) as ruleset:
        yield ruleset


@pytest.fixture
def slow(addressed: Namespace) -> Iterator[Slow]:
    with ruleset_in(addressed, Slow) as ruleset:
        yield ruleset


@pytest.fixture
def fence(ruleset: Ruleset) -> Fence:
    return Fence(ruleset, TABLE)


def answers_until(client: Client, address: Address, deadline: float) -> bool:
    """Whether it answers in the second half of its time, too, and then no more."""
    half = (boottime() + deadline) / 2
    last = max(client.answers(address, lambda: boottime() > deadline + 0.3))
    return half < last < deadline + FENCE_GRACE_S


def made(fence: Fence, held: Sequence[Address], for_s: float) -> None:
    fence.make(held, [])
    fence.renew(boottime() + for_s)


@pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])
def test_an_address_answers_until_its_time_is_over_and_then_nothing_does(
    address: Address, client: Client, fence: Fence
) -> None:
    deadline = boottime() + 1.0
    fence.make([V4, V6], [])
    fence.renew(deadline)
    assert answers_until(client, address, deadline)
    assert client.is_answered_by(address) == [False, False]
    other = OWN4 if address.version == 4 else OWN6
    assert client.is_answered_by(other) == [True, True]


def test_a_renewal_is_for_all_and_loses_no_packet(client: Client, fence: Fence) -> None:
    made(fence, [V4, V6], 5.0)
    for _ in range(50):
        fence.renew(boottime() + 5.0)
        assert client.asks(echo_request(V4), V4, 5.0)
        assert client.asks(echo_request(V6), V6, 5.0)


def test_what_has_ended_answers_again_when_it_is_renewed(client: Client, fence: Fence) -> None:
    made(fence, [V4, V6], 0.0)
    assert client.is_answered_by(V4) == client.is_answered_by(V6) == [False, False]
    fence.renew(boottime() + 60.0)
    assert client.is_answered_by(V4, 5.0) == client.is_answered_by(V6, 5.0) == [True, True]


def test_what_is_admitted_is_fenced_and_what_is_dismissed_is_not(
    client: Client, fence: Fence
) -> None:
    made(fence, [], 0.0)
    assert client.is_answered_by(V4, 5.0) == [True, True]
    fence.admit([V4, V6], boottime() + 0.0)
    assert client.is_answered_by(V4) == client.is_answered_by(V6) == [False, False]
    fence.dismiss([V4])
    assert client.is_answered_by(V4, 5.0) == [True, True]
    assert client.is_answered_by(V6) == [False, False]
    fence.dismiss([V4, V6])
    assert client.is_answered_by(V6, 5.0) == [True, True]


def sent_from(client: Client, address: Address, to: Address, addressed: Namespace) -> bool:
    """Whether a frame about the address comes when the host sends a packet from it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with addressed.entered():
        program = socket.socket(family, socket.SOCK_DGRAM)
    with program:
        program.bind((str(address), 0))
        client.forget()
        with suppress(PermissionError):
            program.sendto(b"hello", (str(to), 9))
        return client.hears(address, 0.3)


@pytest.mark.parametrize(
    ("address", "to"),
    [
        *((V4, CLIENT4), (V6, CLIENT6)),
        *((V4, ip_address("192.0.2.200")), (V6, ip_address("2001:db8::200"))),
    ],
    ids=["IPv4", "IPv6", "IPv4 to an unknown host", "IPv6 to an unknown host"],
)
def test_the_host_sends_nothing_from_an_address_whose_time_is_over(
    address: Address, to: Address, addressed: Namespace, client: Client, fence: Fence
) -> None:
    made(fence, [V4, V6], 0.0)
    assert not sent_from(client, address, to, addressed)
    fence.renew(boottime() + 60, muting=[address])
    assert not sent_from(client, address, to, addressed)
    fence.admit([address], boottime() + 60)
    assert sent_from(client, address, to, addressed)


@pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])
def test_a_program_gets_nothing_at_an_address_whose_time_is_over(
    address: Address, addressed: Namespace, client: Client, fence: Fence
) -> None:
    with addressed.entered():
        program = socket.socket(
            socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM
        )
    with program:
        program.bind((str(address), 7777))
        program.settimeout(0.3)

        def gets_something() -> bool:
            client.sends(datagram(address, 7777, b"hello!"))
            try:
                return program.recv(99) == b"hello!"
            except TimeoutError:
                return False

        made(fence, [V4, V6], 60.0)
        wait_for(gets_something, "a packet arrives")
        fence.renew(boottime())
        assert not gets_something()
        fence.renew(boottime() + 60, muting=[address])
        assert not gets_something()


def test_the_kernel_announces_no_address_whose_time_is_over(
    addressed: Namespace, client: Client, fence: Fence
) -> None:
    addressed.run(
        "sysctl",
        "-qw",
        f"net.ipv4.conf.{INTERFACE}.arp_notify=1",
        f"net.ipv6.conf.{INTERFACE}.ndisc_notify=1",
    )

    def is_announced(address: Address) -> bool:
        client.forget()
        addressed.run("ip", "link", "set", INTERFACE, "address", MAC)
        return client.hears(address, 0.3)

    made(fence, [V4, V6], 60.0)
    for each in (V4, V6):
        wait_for(partial(is_announced, each), f"{each} is announced")
    fence.renew(boottime())
    assert not is_announced(V4)
    assert not is_announced(V6)
    fence.admit([], boottime() + 60, muting=[V4, V6])
    assert not is_announced(V4)
    assert not is_announced(V6)


def test_a_solicitation_to_all_is_not_answered_from_an_address_whose_time_is_over(
    client: Client, fence: Fence
) -> None:
    made(fence, [V6], 60.0)
    assert client.asks(solicitation_to_all(V6), V6, 5.0)
    fence.renew(boottime())
    assert not client.asks(solicitation_to_all(V6), V6)


def test_the_host_itself_reaches_an_address_whose_time_is_over(
    addressed: Namespace, client: Client, fence: Fence
) -> None:
    made(fence, [V4, V6], 0.0)
    assert client.is_answered_by(V4) == [False, False]
    addressed.run("ip", "link", "set", "lo", "up")
    for each, family in ((V4, socket.AF_INET), (V6, socket.AF_INET6)):
        with addressed.entered():
            server = socket.socket(family, socket.SOCK_DGRAM)
            program = socket.socket(family, socket.SOCK_DGRAM)
        with server, program:
            server.bind((str(each), 0))
            server.settimeout(5.0)
            program.sendto(b"hello", server.getsockname())
            assert server.recv(99) == b"hello"


def test_a_renewal_to_an_earlier_deadline_ends_at_that(client: Client, fence: Fence) -> None:
    made(fence, [V4], 60.0)
    deadline = boottime() + 0.4
    fence.renew(deadline)
    assert answers_until(client, V4, deadline)


def test_what_is_muted_does_not_answer_while_others_do(client: Client, fence: Fence) -> None:
    fence.make([V4], [V6])
    fence.renew(boottime() + 60)
    assert client.is_answered_by(V4, 5.0) == [True, True]
    assert client.is_answered_by(V6) == [False, False]
    fence.renew(boottime() + 60, muting=[V4])
    assert client.is_answered_by(V4) == [False, False]
    fence.admit([V6], boottime() + 60)
    assert client.is_answered_by(V4) == [False, False]
    assert client.is_answered_by(V6, 5.0) == [True, True]
    fence.admit([V4], boottime() + 60, muting=[V6])
    assert client.is_answered_by(V4, 5.0) == [True, True]
    assert client.is_answered_by(V6) == [False, False]
    fence.dismiss([V6])
    assert client.is_answered_by(V6, 5.0) == [True, True]


def test_nothing_answers_before_a_new_fence_is_renewed(client: Client, fence: Fence) -> None:
    made(fence, [V4, V6], 60.0)
    fence.make([V4, V6], [])
    assert client.is_answered_by(V4) == client.is_answered_by(V6) == [False, False]
    fence.renew(boottime() + 60)
    assert client.is_answered_by(V4, 5.0) == client.is_answered_by(V6, 5.0) == [True, True]


def test_fences_of_several_owners_do_not_meet(client: Client, ruleset: Ruleset) -> None:
    one, other = Fence(ruleset, "yaim-1"), Fence(ruleset, "yaim-2")
    made(one, [V4], 60.0)
    made(other, [V6], 0.0)
    assert client.is_answered_by(V4, 5.0) == [True, True]
    assert client.is_answered_by(V6) == [False, False]
    other.unmake()
    assert client.is_answered_by(V6, 5.0) == [True, True]
    one.renew(boottime())
    assert client.is_answered_by(V4) == [False, False]


# --- other places than a single address on an interface -------------------------------------------


def on_a_bridge() -> str:
    return (
        f"ip address flush dev {INTERFACE}\n"
        f"ip link add br0 address {MAC} type bridge\n"
        f"ip link set {INTERFACE} master br0\n"
        "ip link set br0 addrgenmode none; ip link set br0 up\n" + addresses_on("br0", 32, 128)
    )


def renamed() -> str:
    return (
        f"ip link set {INTERFACE} down; ip link set {INTERFACE} name lan0; ip link set lan0 up\n"
        "ip address flush dev lan0\n" + addresses_on("lan0", 32, 128)
    )


def in_its_network() -> str:
    return f"ip address flush dev {INTERFACE}\n" + addresses_on(INTERFACE, 24, 64)


def addresses_on(interface: str, of_ipv4: int, of_ipv6: int) -> str:
    mac = CLIENT_MAC.hex(":")
    return (
        f"ip address add {V4}/{of_ipv4} dev {interface}\n"
        f"ip address add {V6}/{of_ipv6} dev {interface} nodad\n"
        f"ip address add {OWN4}/24 dev {interface}\n"
        f"ip address add {OWN6}/64 dev {interface} nodad\n"
        f"ip neighbour replace {CLIENT4} lladdr {mac} dev {interface}\n"
        f"ip neighbour replace {CLIENT6} lladdr {mac} dev {interface}\n"
    )


def answers_wholly(client: Client, address: Address) -> bool:
    return all(client.is_answered_by(address))


@pytest.mark.parametrize("place", [on_a_bridge, renamed, in_its_network])
def test_an_address_is_fenced_wherever_it_is(
    place: Callable[[], str], addressed: Namespace, client: Client, fence: Fence
) -> None:
    made(fence, [V4, V6], 60.0)
    addressed.run("sh", "-ec", place())
    for each in (V4, V6):
        wait_for(partial(answers_wholly, client, each), f"{each} answers")
    fence.renew(boottime())
    assert client.is_answered_by(V4) == client.is_answered_by(V6) == [False, False]
    assert client.is_answered_by(OWN4, 5.0) == client.is_answered_by(OWN6, 5.0) == [True, True]


def test_an_address_on_lo_is_fenced(addressed: Namespace, client: Client, fence: Fence) -> None:
    """Linux answers ARP for it on all interfaces, and neighbour solicitations on none."""
    on_lo = ip_address("192.0.2.77")
    made(fence, [on_lo], 60.0)
    addressed.run("ip", "address", "add", f"{on_lo}/32", "dev", "lo")
    assert client.is_answered_by(on_lo, 5.0) == [True, True]
    fence.renew(boottime())
    assert client.is_answered_by(on_lo) == [False, False]


def test_packets_that_are_forwarded_for_others_pass(
    addressed: Namespace, client: Client, fence: Fence
) -> None:
    other4, other6 = ip_address("198.51.100.7"), ip_address("2001:db8:1::7")
    addressed.run(
        "sh",
        "-ec",
        "ip link add veth1 type veth peer name peer1\n"
        "for each in veth1 peer1; do\n"
        "    ip link set $each addrgenmode none; ip link set $each up\n"
        "done\n"
        f"ip route add {other4} dev veth1; ip -6 route add {other6} dev veth1\n"
        f"ip neighbour add {other4} lladdr 02:00:00:00:00:07 dev veth1\n"
        f"ip neighbour add {other6} lladdr 02:00:00:00:00:07 dev veth1\n"
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n",
    )
    made(fence, [V4, V6], 0.0)
    with addressed.entered():
        beyond = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with beyond:
        beyond.bind(("peer1", 3))
        beyond.settimeout(5.0)
        for each in (other4, other6):

            def has_passed(address: Address = each) -> bool:
                client.asks(echo_request(address), address, 0.0)
                return address.packed in beyond.recv(2048)

            wait_for(has_passed, f"a packet to {each} is forwarded")
    assert client.is_answered_by(V4) == client.is_answered_by(V6) == [False, False]


def test_no_connection_is_tracked(addressed: Namespace, client: Client, fence: Fence) -> None:
    def tracked() -> int:
        return int(addressed.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count"))

    try:
        before = tracked()
    except LabError:
        pytest.skip("this kernel has no connection tracking loaded")
    made(fence, [V4, V6], 60.0)
    assert client.is_answered_by(V4, 5.0) == client.is_answered_by(V6, 5.0) == [True, True]
    assert tracked() == before == 0
    addressed.run("nft", "add table ip t; add chain ip t c { type filter hook input priority 0; }")
    addressed.run("nft", "add rule ip t c ct state new accept")
    assert client.asks(echo_request(V4), V4, 5.0)
    assert tracked() > 0, "this count tells nothing"


# --- in time or never -----------------------------------------------------------------------------


def test_an_end_that_was_set_too_late_is_set_again(client: Client, slow: Slow) -> None:
    fence = Fence(slow, TABLE)
    made(fence, [V4], 0.0)
    slow.delays_s.extend([LATE_S])
    deadline = boottime() + 0.5
    fence.renew(deadline)
    assert answers_until(client, V4, deadline)


def test_a_kernel_that_is_always_late_leaves_the_old_end(client: Client, slow: Slow) -> None:
    fence = Fence(slow, TABLE)
    made(fence, [V4], 0.6)
    deadline = boottime() + 0.6
    slow.delays_s.extend([LATE_S] * TRIES)
    with pytest.raises(TooLate):
        fence.renew(boottime() + 60)
    assert answers_until(client, V4, deadline)
    fence.renew(boottime() + 60)
    assert client.is_answered_by(V4, 5.0) == [True, True]


def test_the_second_half_of_a_renewal_may_be_late(client: Client, slow: Slow) -> None:
    """The end stands from the first on."""
    fence = Fence(slow, TABLE)
    made(fence, [V4], 0.0)
    deadline = boottime() + 0.7
    slow.delays_s.extend([0.0, 0.3])
    fence.renew(deadline)
    assert answers_until(client, V4, deadline)
    slow.delays_s.extend([0.0, 0.3])
    fence.renew(boottime() + 0.2)
    assert client.is_answered_by(V4) == [False, False]


def test_an_admission_that_comes_late_lets_nothing_answer(client: Client, slow: Slow) -> None:
    """Nor what was live until then for longer."""
    fence = Fence(slow, TABLE)
    made(fence, [V4], 60.0)
    slow.delays_s.extend([0.0, 0.3])
    fence.admit([V6], boottime() + 0.2)
    assert client.is_answered_by(V4) == client.is_answered_by(V6) == [False, False]


@pytest.mark.parametrize("left_ms", [0, 1, 3, 9, LEAST_MS - 1])
def test_less_than_a_jiffy_is_not_for_ever(
    left_ms: int, addressed: Namespace, fence: Fence, ruleset: Ruleset
) -> None:
    made(fence, [V4], 60.0)
    fence.renew(boottime() + left_ms / 1000)
    assert not ruleset.is_live(TABLE)


STOPPED = """
import os, signal, struct, sys
from ipaddress import ip_address
from yaim_helper.clock import boottime
from yaim_helper.kernel.fence import Fence, Ruleset, TooLate
fence = Fence(Ruleset(), sys.argv[1])
is_told = []
signal.signal(signal.SIGUSR1, lambda *_: is_told.append(True))
while not is_told:
    deadline = boottime() + 0.15
    os.write(1, struct.pack("=d", deadline))
    try:
        fence.renew(deadline)
    except TooLate:
        pass
"""


def is_stopped(pid: int) -> bool:
    return state(pid) == "T"


def test_whenever_a_process_is_stopped_nothing_answers_after_its_deadline(
    addressed: Namespace, client: Client, fence: Fence
) -> None:
    """Neither while it is stopped nor when it goes on. It renews without a pause, so it is stopped
    anywhere in that."""
    fence.make([V4], [])
    for number in range(12):
        with (
            addressed.entered(),
            subprocess.Popen(
                [sys.executable, "-c", STOPPED, TABLE],
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            ) as process,
        ):
            told = process.stdout
            assert told is not None
            told.read(8)
            wait_for(lambda: client.asks(echo_request(V4), V4, 0.05), "it answers")
            time.sleep(number * 0.00037)
            process.send_signal(signal.SIGSTOP)
            wait_for(partial(is_stopped, process.pid), "it is stopped")
            os.set_blocking(told.fileno(), False)
            (deadline,) = struct.unpack("=d", (told.read() or b"")[-8:])
            while boottime() < deadline + FENCE_GRACE_S:
                time.sleep(0.01)
            assert not client.asks(echo_request(V4), V4, 0.05)
            process.send_signal(signal.SIGUSR1)
            process.send_signal(signal.SIGCONT)
            process.wait()
            later = told.read() or b""
            if not later:
                assert not client.asks(echo_request(V4), V4, 0.02)


def test_who_waits_for_the_lock_of_the_rulesets_renews_in_time_or_never(
    addressed: Namespace, client: Client, fence: Fence
) -> None:
    made(fence, [V4], 0.0)
    elements = ", ".join(str(IPv4Address(n * 7)) for n in range(150_000))
    big = (
        f"add table ip t; add set ip t s {{ type ipv4_addr; }}; add element ip t s {{ {elements} }}"
    )
    answers: list[float] = []
    is_over = threading.Event()
    asking = threading.Thread(target=lambda: answers.extend(client.answers(V4, is_over.is_set)))
    asking.start()
    deadlines = []
    longest_s = 0.0
    with (
        addressed.entered(),
        subprocess.Popen(["nft", "-f", "-"], stdin=subprocess.PIPE, text=True) as holder,
    ):
        assert holder.stdin is not None
        holder.stdin.write(big)
        holder.stdin.close()
        while holder.poll() is None:
            before = boottime()
            deadlines.append(before + 0.06)
            with suppress(TooLate):
                fence.renew(before + 0.06)
            longest_s = max(longest_s, boottime() - before)
    is_over.set()
    asking.join()
    assert longest_s > 0.1, "nothing was late: this test tells nothing"
    assert answers
    late = [
        at for at in answers if at > max(d for d in deadlines if d - 0.06 <= at) + FENCE_GRACE_S
    ]
    assert not late


# --- what is there --------------------------------------------------------------------------------


def test_tables_are_told_in_the_order_of_their_numbers(
    addressed: Namespace, ruleset: Ruleset
) -> None:
    assert ruleset.tables() == []
    for name in ("yaim-10", "yaim-9"):
        Fence(ruleset, name).make([], [])
    for text in ("ip yaim-1", "inet yaim-7x", "inet others", "arp yaim-2", "inet yaim-probe"):
        addressed.run("nft", f"add table {text}")
    assert ruleset.tables() == ["yaim-2", "yaim-9", "yaim-10"]


def test_what_a_table_holds_is_told(ruleset: Ruleset, fence: Fence) -> None:
    assert ruleset.held(TABLE) == frozenset()
    fence.make([V4], [V6])
    assert ruleset.held(TABLE) == {V4, V6}
    fence.admit([OWN4], boottime() + 60, muting=[V4])
    assert ruleset.held(TABLE) == {V4, V6, OWN4}
    fence.dismiss([V4, V6])
    fence.dismiss([])
    assert ruleset.held(TABLE) == {OWN4}


def test_a_table_is_live_until_its_end(ruleset: Ruleset, fence: Fence) -> None:
    assert not ruleset.is_live(TABLE)
    fence.make([V4], [])
    assert not ruleset.is_live(TABLE)
    deadline = boottime() + 0.3
    fence.renew(deadline)
    assert ruleset.is_live(TABLE)
    wait_for(lambda: not ruleset.is_live(TABLE), "it is over")
    assert deadline - 0.02 < boottime() < deadline + FENCE_GRACE_S + 0.05


def test_thousands_of_addresses_are_one_transaction(
    addressed: Namespace, ruleset: Ruleset, fence: Fence
) -> None:
    """And whoever listens for others' changes has room for theirs."""
    many = [IPv4Address(0x0A000000 + n) for n in range(2048)]
    more = [IPv6Address((0x20010DB8 << 96) + n) for n in range(2048)]
    with addressed.entered():
        changes = ForeignChanges(ruleset)
    earlier = Fence(ruleset, "yaim-1")
    earlier.make(many, more)
    fence.make([], [])
    fence.admit([*many, *more], boottime() + 60, [V4], ["yaim-1"])
    assert ruleset.held(TABLE) == {*many, *more, V4}
    assert ruleset.held("yaim-1") == frozenset()
    fence.dismiss([*many, *more])
    assert ruleset.held(TABLE) == {V4}
    assert changes.tables() == set()
    other = Fence(ruleset, "yaim-2")
    with ruleset_in(addressed, Ruleset) as another:
        Fence(another, "yaim-3").make(many, more)
    other.make([], [])
    assert changes.tables() == {"yaim-3"}
    changes.socket.close()


def test_sequence_numbers_begin_again(ruleset: Ruleset, fence: Fence) -> None:
    """A host may run for years."""
    ruleset._sequence = 2**31 - 3
    fence.make([V4], [])
    fence.renew(boottime() + 60)
    assert ruleset.is_live(TABLE)
    assert ruleset._sequence < 1000


def test_nft_reads_what_it_shows_of_a_fence(addressed: Namespace, fence: Fence) -> None:
    fence.make([V4, V6], [V4])
    shown = addressed.run("nft", "list", "ruleset")
    assert "yaim: these addresses answer only while their lease lasts" in shown
    addressed.run("nft", "flush", "ruleset")
    addressed.run("nft", shown)
    assert addressed.run("nft", "list", "ruleset") == shown
    told = json.loads(addressed.run("nft", "--json", "list", "ruleset"))["nftables"]
    assert [each["table"]["name"] for each in told if "table" in each] == [TABLE, TABLE]
    names = sorted({each["set"]["name"] for each in told if "set" in each})
    assert names == [
        *("chosen1", "chosen2", "held", "held4", "held6"),
        *("live1", "live2", "muted", "muted4", "muted6"),
    ]


def test_pyroute2_reads_the_same_of_a_fence_as_nft(addressed: Namespace, fence: Fence) -> None:
    fence.make([V4, V6], [])
    chains = {}
    timed = set()
    for family in (Family.ARP, Family.INET):
        with addressed.entered(), NFTables(nfgen_family=int(family)) as judge:
            for chain in judge.get_chains():
                if hook := chain.get_attr("NFTA_CHAIN_HOOK"):
                    place = hook.get_attr("NFTA_HOOK_HOOKNUM"), hook.get_attr("NFTA_HOOK_PRIORITY")
                    chains[family, chain.get_attr("NFTA_CHAIN_NAME")] = place
            for each in judge.get_sets():
                if each.get_attr("NFTA_SET_FLAGS"):
                    timed.add((family, each.get_attr("NFTA_SET_NAME")))
    assert chains == {
        (Family.ARP, "in"): (0, 0),
        (Family.ARP, "out"): (1, 0),
        (Family.INET, "in"): (0, -310),
        (Family.INET, "out"): (4, 310),
    }
    assert timed == {(family, name) for family in Family for name in ("live1", "live2")}


class Garbled(Ruleset):
    """A kernel that says nonsense."""

    def __init__(self) -> None:
        super().__init__()
        self.says = b""

    def _datagram(self) -> bytes:
        return self.says or super()._datagram()


def test_what_makes_no_sense_is_an_error_and_the_next_question_is_answered(
    addressed: Namespace,
) -> None:
    with ruleset_in(addressed, Garbled) as garbled:
        fence = Fence(garbled, TABLE)
        made(fence, [V4], 60.0)
        whats: list[Callable[[], object]] = [
            garbled.tables,
            lambda: garbled.held(TABLE),
            lambda: fence.dismiss([V4]),
        ]
        for what in whats:
            garbled.says = b"nonsense"
            with pytest.raises(KernelError, match="cannot make sense"):
                what()
            garbled.says = b""
            assert garbled.tables() == [TABLE]
        assert garbled.held(TABLE) == frozenset()


def test_a_list_that_was_changed_meanwhile_is_asked_for_again(addressed: Namespace) -> None:
    class Changing(Ruleset):
        changes = 3

        def _datagram(self) -> bytes:
            said = super()._datagram()
            self.changes -= 1
            interrupted = NLM_F_MULTI | NLM_F_DUMP_INTR if self.changes > 0 else NLM_F_MULTI
            return said[:6] + struct.pack("=H", interrupted) + said[8:]

    with ruleset_in(addressed, Ruleset) as ruleset:
        Fence(ruleset, TABLE).make([V4], [])
    with ruleset_in(addressed, Changing) as changing:
        assert changing.tables() == [TABLE]
        assert changing.changes <= 0


def test_a_batch_that_the_kernel_refuses_as_a_whole_is_an_error(addressed: Namespace) -> None:
    """It has no memory, for example. What it says of single changes after that is passed over."""

    class Full(Ruleset):
        is_full = True

        def _datagram(self) -> bytes:
            if not self.is_full:
                return super()._datagram()
            self.is_full = False
            first = struct.pack("=I", self._sequence - 3)
            return struct.pack("=IHH", 36, 2, 0) + first + struct.pack("=Ii", 0, -12) + bytes(16)

    with ruleset_in(addressed, Full) as full:
        with pytest.raises(KernelError) as raised:
            full.change([nft.make_table(Family.INET, TABLE)])
        assert raised.value.errno == errno.ENOMEM
        full.change([nft.delete_table(Family.INET, TABLE)])
        assert full.tables() == []


def test_a_kernel_that_takes_no_message_is_an_error_of_its_own(
    ruleset: Ruleset, fence: Fence
) -> None:
    """It takes none when its buffers are full, for example."""
    ruleset.close()
    whats: list[Callable[[], object]] = [
        ruleset.tables,
        lambda: ruleset.held(TABLE),
        lambda: fence.make([V4], []),
    ]
    for what in whats:
        with pytest.raises(KernelError) as raised:
            what()
        assert raised.value.errno == errno.EBADF


def test_a_strangers_table_of_such_a_name_holds_nothing(
    addressed: Namespace, ruleset: Ruleset
) -> None:
    addressed.run("nft", f"add table arp {TABLE}")
    addressed.run("nft", f"add set arp {TABLE} held {{ type ether_addr; }}")
    addressed.run("nft", f"add element arp {TABLE} held {{ {MAC} }}")
    assert ruleset.held(TABLE) == frozenset()
    assert not ruleset.is_live(TABLE)


# --- earlier lives --------------------------------------------------------------------------------


def test_what_is_admitted_is_taken_out_of_earlier_tables(client: Client, ruleset: Ruleset) -> None:
    for name, held, muted in (("yaim-1", [V4, OWN4], []), ("yaim-2", [], [V4, V6])):
        Fence(ruleset, name).make(held, muted)
    fence = Fence(ruleset, TABLE)
    fence.make([], [])
    assert client.is_answered_by(V4) == [False, False]
    fence.admit([V4], boottime() + 60, earlier=["yaim-1", "yaim-2"])
    assert client.is_answered_by(V4, 5.0) == [True, True]
    assert client.is_answered_by(V6) == client.is_answered_by(OWN4) == [False, False]
    assert ruleset.held("yaim-1") == {OWN4}
    assert ruleset.held("yaim-2") == {V6}


@pytest.mark.parametrize(
    "gone", [["arp", "inet"], ["arp"], ["inet"]], ids=["whole", "of arp", "of inet"]
)
def test_an_earlier_table_that_has_gone_is_passed_over(
    gone: list[str], addressed: Namespace, ruleset: Ruleset, fence: Fence
) -> None:
    for name in ("yaim-1", "yaim-2"):
        Fence(ruleset, name).make([V4], [V6])
    for family in gone:
        addressed.run("nft", "delete", "table", family, "yaim-1")
    fence.make([], [])
    fence.admit([V4, V6], boottime() + 60, earlier=["yaim-1", "yaim-2", "yaim-3"])
    assert ruleset.held("yaim-1") == ruleset.held("yaim-2") == frozenset()
    assert ruleset.held(TABLE) == {V4, V6}
    assert ruleset.is_live(TABLE)
    assert ruleset.tables() == (
        ["yaim-2", TABLE] if len(gone) == 2 else ["yaim-1", "yaim-2", TABLE]
    )


@pytest.mark.parametrize("for_s", [60.0, 0.0])
def test_the_own_table_that_has_gone_is_told_whatever_is_there_of_earlier_ones(
    for_s: float, addressed: Namespace, ruleset: Ruleset, fence: Fence
) -> None:
    Fence(ruleset, "yaim-1").make([V4], [])
    for earlier in (["yaim-1"], ["yaim-1", "yaim-2"], []):
        with pytest.raises(KernelError) as raised:
            fence.admit([V4], boottime() + for_s, earlier=earlier)
        assert raised.value.errno == ABSENT
    assert ruleset.held("yaim-1") == {V4}, "nothing was done"


# --- others ---------------------------------------------------------------------------------------


def test_who_has_flushed_the_ruleset_is_noticed_and_the_fence_made_anew(
    addressed: Namespace, client: Client, fence: Fence
) -> None:
    made(fence, [V4, V6], 60.0)
    addressed.run("nft", "flush", "ruleset")
    whats: list[Callable[[], None]] = [
        lambda: fence.renew(boottime() + 60),
        lambda: fence.admit([V4], boottime() + 60),
        lambda: fence.dismiss([V4]),
    ]
    for what in whats:
        with pytest.raises(KernelError) as raised:
            what()
        assert raised.value.errno == ABSENT
    fence.make([V4, V6], [])
    assert client.is_answered_by(V4) == [False, False]
    fence.renew(boottime() + 60)
    assert client.is_answered_by(V4, 5.0) == [True, True]
    fence.unmake()
    fence.unmake()
    assert addressed.run("nft", "list", "ruleset") == ""


def test_what_others_change_is_told_and_what_we_change_is_not(
    addressed: Namespace, ruleset: Ruleset, fence: Fence
) -> None:
    with addressed.entered():
        changes = ForeignChanges(ruleset)
    made(fence, [V4, V6], 60.0)
    fence.dismiss([V4])
    with pytest.raises(BlockingIOError):
        changes.socket.recv(1, socket.MSG_PEEK)
    assert changes.tables() == set()
    addressed.run("nft", "add table inet others")
    assert changes.tables() == {"others"}
    addressed.run("nft", f"add rule inet {TABLE} in accept")
    assert changes.tables() == {TABLE}
    addressed.run("nft", f"delete element inet {TABLE} held6 {{ {V6} }}")
    fence.renew(boottime() + 60)
    assert changes.tables() == {TABLE}
    with ruleset_in(addressed, Ruleset) as another:
        made(Fence(another, "yaim-8"), [V4], 60.0)
    assert changes.tables() == {"yaim-8"}, "another helper is another one"
    addressed.run("nft", "flush", "ruleset")
    assert changes.tables() == {TABLE, "yaim-8", "others"}
    changes.socket.close()


def test_what_a_process_says_is_not_taken_for_the_kernels_word(
    addressed: Namespace, ruleset: Ruleset, fence: Fence
) -> None:
    with addressed.entered():
        changes = ForeignChanges(ruleset)
        forger = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, nft.NETLINK_NETFILTER)
    with forger:
        said = nft.batch([nft.new_table(Family.INET, TABLE)], 0)
        forger.sendto(said, (changes.socket.getsockname()[0], 0))
        forger.sendto(said, (ruleset.port, 0))
        forger.sendto(b"nothing like a message", (ruleset.port, 0))
    assert changes.tables() == set()
    fence.make([V4], [])
    assert ruleset.held(TABLE) == {V4}
    changes.socket.close()


def test_more_changes_than_the_kernel_keeps_are_not_known(
    addressed: Namespace, ruleset: Ruleset
) -> None:
    with addressed.entered():
        changes = ForeignChanges(ruleset)
    changes.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    addressed.run("nft", "".join(f"add table inet t{number};" for number in range(200)))
    assert changes.tables() is None
    assert changes.tables() == set()
    changes.socket.close()


def test_many_changes_are_read_some_at_a_time(
    addressed: Namespace, ruleset: Ruleset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who flushes the ruleset and loads a hundred thousand addresses does it in one transaction:
    that a fence has gone is told before all of them are read."""
    with addressed.entered():
        changes = ForeignChanges(ruleset)
    for number in range(3):
        addressed.run("nft", f"add table inet t{number}")
    monkeypatch.setattr("yaim_helper.kernel.fence.MAX_READ", 1)
    assert changes.tables() == {"t0"}
    assert changes.socket.recv(1, socket.MSG_PEEK), "whoever waits for it is woken again"
    monkeypatch.undo()
    assert changes.tables() == {"t1", "t2"}
    assert changes.tables() == set()
    changes.socket.close()


# --- whether the kernel can -----------------------------------------------------------------------


class Lying(Ruleset):
    """A kernel that lets elements end otherwise than it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.says: list[bool] = []

    def is_live(self, table: str) -> bool:
        return self.says.pop(0) if len(self.says) > 1 else self.says[0]


def test_this_kernel_can_fence_and_trying_it_leaves_nothing(
    addressed: Namespace, ruleset: Ruleset
) -> None:
    addressed.run("nft", "add table inet others")
    probe(ruleset)
    assert addressed.run("nft", "list", "ruleset") == "table inet others {\n}\n"


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ([True], "the kernel cannot fence: what it tells of a table is not what was asked for"),
        ([False], "the kernel cannot fence: an element with a time-out does not last"),
        ([False, True], "the kernel cannot fence: an element lasts longer than its time-out"),
    ],
)
def test_a_kernel_that_ends_elements_otherwise_cannot_fence(
    says: list[bool], reason: str, addressed: Namespace
) -> None:
    with ruleset_in(addressed, Lying) as lying:
        lying.says = says
        with pytest.raises(KernelError) as raised:
            probe(lying)
    assert raised.value.reason == reason
    assert addressed.run("nft", "list", "ruleset") == ""


def test_a_busy_start_is_waited_for_and_then_told(addressed: Namespace, slow: Slow) -> None:
    slow.delays_s.extend([0.0, *[LATE_S] * (TRIES + 1)])
    probe(slow)
    slow.delays_s.extend([0.0, *[LATE_S] * TRIES])
    with pytest.raises(KernelError, match=r"the kernel cannot fence: .*take too long"):
        probe(slow, within_s=0.0)
    assert addressed.run("nft", "list", "ruleset") == ""


class Flushed(Ruleset):
    """Somebody flushes it whenever it has been looked at, so often."""

    times = 1

    def held(self, table: str) -> frozenset[Address]:
        if self.times:
            self.times -= 1
            unmake(self, table)
        return super().held(table)


def test_a_start_at_which_somebody_flushes_the_ruleset_tries_again(addressed: Namespace) -> None:
    with ruleset_in(addressed, Flushed) as flushed:
        probe(flushed)
        assert flushed.times == 0
        flushed.times = 1 << 30
        with pytest.raises(KernelError, match="the kernel cannot fence"):
            probe(flushed, within_s=0.1)
    assert addressed.run("nft", "list", "ruleset") == ""


def test_several_helpers_may_find_out_at_the_same_time(addressed: Namespace) -> None:
    failed: list[BaseException] = []

    def find_out() -> None:
        try:
            with ruleset_in(addressed, Ruleset) as ruleset:
                probe(ruleset)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=find_out) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []
    assert addressed.run("nft", "list", "ruleset") == ""


@contextmanager
def without_privileges() -> Iterator[None]:
    """Only in this thread: the C library would change all of the process."""
    setresuid = 117
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(setresuid, -1, 65534, -1)
    try:
        assert os.geteuid() == 65534
        yield
    finally:
        libc.syscall(setresuid, -1, 0, -1)


def test_who_may_not_is_told_so(addressed: Namespace, ruleset: Ruleset) -> None:
    with addressed.entered():
        another = Ruleset()
    with without_privileges():
        with pytest.raises(KernelError) as raised:
            probe(another)
        with pytest.raises(KernelError, match="no news of nf_tables"):
            ForeignChanges(another)
        with pytest.raises(KernelError):
            ruleset.held(TABLE)
    assert raised.value.errno == errno.EPERM
    assert raised.value.reason == (
        "not permitted: it takes CAP_NET_ADMIN in this network namespace"
    )
    another.close()


def test_no_socket_is_told_as_such(network: Namespace) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with network.entered():
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            with pytest.raises(KernelError) as raised:
                Ruleset()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert raised.value.errno == errno.EMFILE
    assert raised.value.reason == "no nf_tables: Too many open files"


def test_what_was_left_by_name_is_removed(addressed: Namespace, ruleset: Ruleset) -> None:
    Fence(ruleset, "yaim-1").make([V4], [])
    unmake(ruleset, "yaim-1")
    unmake(ruleset, "yaim-2")
    assert ruleset.tables() == []
