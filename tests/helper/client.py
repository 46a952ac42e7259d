"""Another host on the link, as frames: what it asks for, and what it is answered."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

from yaim_helper.protocol import Address

from tests.helper.network import INTERFACE, MAC, PEER
from yaim.lab.namespaces import Namespace

V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
OWN4, OWN6 = ip_address("192.0.2.9"), ip_address("2001:db8::9")
CLIENT4, CLIENT6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
CLIENT_MAC = bytes.fromhex("02005e000001")
OUR_MAC = bytes.fromhex(MAC.replace(":", ""))


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
        self._forget()
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

    def _forget(self) -> None:
        """What was sent before is no answer: announcements, say."""
        self._packets.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._packets.recv(1)

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


@contextmanager
def neighbour(network: Namespace) -> Iterator[Client]:
    """In the test's namespace, with a way from there to it."""
    mac = CLIENT_MAC.hex(":")
    network.run(
        *("sh", "-ec"),
        f"ip address add {OWN4}/24 dev {INTERFACE}\n"
        f"ip address add {OWN6}/64 dev {INTERFACE} nodad\n"
        f"ip neighbour add {CLIENT4} lladdr {mac} dev {INTERFACE}\n"
        f"ip neighbour add {CLIENT6} lladdr {mac} dev {INTERFACE}\n",
    )
    with network.entered():
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with packets:
        packets.bind((PEER, 3))
        client = Client(packets)
        for each in (OWN4, OWN6):
            while not all(client.is_answered_by(each)):
                pass
        yield client
