"""What a fence lets through, as frames on the wire tell it. Only the kernel acts when it ends."""

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from yaim_helper.kernel.addresses import KernelError
from yaim_helper.kernel.fence import ABSENT, Fence, ForeignChanges, Ruleset
from yaim_helper.protocol import Address

from tests.helper.network import INTERFACE, MAC, PEER, boottime
from yaim.lab.namespaces import Namespace

V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
OWN4, OWN6 = ip_address("192.0.2.9"), ip_address("2001:db8::9")
CLIENT4, CLIENT6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
CLIENT_MAC = bytes.fromhex("02005e000001")
OUR_MAC = bytes.fromhex(MAC.replace(":", ""))
ARP, ECHO = "arp", "echo"


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
    if address.version == 4:
        icmp = struct.pack("!BBHHH", 8, 0, 0, 7, 1)
        icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(icmp), 0, 0, 64, 1, 0)
        header += CLIENT4.packed + address.packed
        header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
        return OUR_MAC + CLIENT_MAC + b"\x08\x00" + header + icmp
    return OUR_MAC + CLIENT_MAC + b"\x86\xdd" + icmp6(address, struct.pack("!HH", 7, 1), 128)


def solicitation(address: Address) -> bytes:
    """RFC 4861 4.3, to the address itself."""
    body = bytes(4) + address.packed + b"\x01\x01" + CLIENT_MAC
    return OUR_MAC + CLIENT_MAC + b"\x86\xdd" + icmp6(address, body, 135)


def icmp6(to: Address, body: bytes, kind: int) -> bytes:
    message = struct.pack("!BBH", kind, 0, 0) + body
    ends = CLIENT6.packed + to.packed
    pseudo = ends + struct.pack("!IxxxB", len(message), 58)
    summed = struct.pack("!BBH", kind, 0, checksum(pseudo + message)) + body
    return struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + ends + summed


class Client:
    """Another host on the link, as frames."""

    def __init__(self, packets: socket.socket) -> None:
        self._packets = packets

    def asks(self, request: bytes, address: Address, within_s: float = 0.3) -> bool:
        """Whether something is answered from the address."""
        self._packets.send(request)
        give_up_at = time.monotonic() + within_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            self._packets.settimeout(left_s)
            try:
                frame = self._packets.recv(2048)
            except TimeoutError:
                return False
            if frame[6:12] == OUR_MAC and address.packed in frame[14:]:
                return True
        return False

    def is_answered_by(self, address: Address, within_s: float = 0.3) -> list[bool]:
        """Whether address resolution, and an echo, are."""
        resolve = arp_request(address) if address.version == 4 else solicitation(address)
        return [self.asks(each, address, within_s) for each in (resolve, echo_request(address))]

    def last_answer_s(self, address: Address, for_s: float) -> float:
        """Asks for an echo again and again, and returns when the last one came; in seconds."""
        began = last = time.monotonic()
        while time.monotonic() < began + for_s:
            if self.asks(echo_request(address), address, 0.005):
                last = time.monotonic()
        return last - began


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


@contextmanager
def ruleset_in(network: Namespace) -> Iterator[Ruleset]:
    with network.entered():
        ruleset = Ruleset()
    yield ruleset
    ruleset.close()


@pytest.fixture
def fence(addressed: Namespace) -> Iterator[Fence]:
    with ruleset_in(addressed) as ruleset:
        yield Fence(ruleset, "yaim-test")


def made(fence: Fence, held: Sequence[Address], for_s: float) -> None:
    fence.make(held, [])
    fence.renew(boottime() + for_s)


@pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])
def test_an_address_answers_until_its_time_is_over_and_then_nothing_does(
    address: Address, client: Client, fence: Fence
) -> None:
    made(fence, [V4, V6], 0.6)
    last_s = client.last_answer_s(address, 1.0)
    assert 0.5 < last_s < 0.8
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


def test_fences_of_several_clusters_do_not_meet(addressed: Namespace, client: Client) -> None:
    with ruleset_in(addressed) as ruleset:
        one, other = Fence(ruleset, "yaim-one"), Fence(ruleset, "yaim-other")
        made(one, [V4], 60.0)
        made(other, [V6], 0.0)
        assert client.is_answered_by(V4, 5.0) == [True, True]
        assert client.is_answered_by(V6) == [False, False]
        other.unmake()
        assert client.is_answered_by(V6, 5.0) == [True, True]
        one.renew(boottime() + 0.0)
        assert client.is_answered_by(V4) == [False, False]


def test_who_has_flushed_the_ruleset_is_noticed_and_the_fence_made_anew(
    addressed: Namespace, client: Client, fence: Fence
) -> None:
    made(fence, [V4, V6], 60.0)
    addressed.run("nft", "flush", "ruleset")
    with pytest.raises(KernelError) as raised:
        fence.renew(boottime() + 60.0)
    assert raised.value.errno == ABSENT
    made(fence, [V4, V6], 0.0)
    assert client.is_answered_by(V4) == [False, False]


def test_what_others_change_is_told_and_what_we_change_is_not(addressed: Namespace) -> None:
    with ruleset_in(addressed) as ruleset:
        with addressed.entered():
            changes = ForeignChanges(ruleset)
        fence = Fence(ruleset, "yaim-test")
        made(fence, [V4, V6], 60.0)
        fence.renew(boottime() + 60.0)
        fence.dismiss([V4])
        assert changes.tables() == set()
        addressed.run("nft", "add table inet others")
        assert changes.tables() == {"others"}
        addressed.run("nft", "add rule inet yaim-test in accept")
        assert changes.tables() == {"yaim-test"}
        addressed.run("nft", f"delete element inet yaim-test held6 {{ {V6} }}")
        assert changes.tables() == {"yaim-test"}
        addressed.run("nft", "flush ruleset")
        assert changes.tables() == {"yaim-test", "others"}
        changes.socket.close()


def test_more_changes_than_the_kernel_keeps_are_not_known(addressed: Namespace) -> None:
    with ruleset_in(addressed) as ruleset:
        with addressed.entered():
            changes = ForeignChanges(ruleset)
        changes.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        addressed.run("nft", "".join(f"add table inet t{number};" for number in range(200)))
        assert changes.tables() is None
        changes.socket.close()
