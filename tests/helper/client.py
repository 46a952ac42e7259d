"""Another host on the link, as frames: what it asks for, and what it is answered."""

import socket
import struct
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from math import inf

from yaim_helper.protocol import Address

from tests.helper.network import INTERFACE, MAC, PEER, boottime
from yaim.lab.namespaces import Namespace

V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
OWN4, OWN6 = ip_address("192.0.2.9"), ip_address("2001:db8::9")
CLIENT4, CLIENT6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
CLIENT_MAC = bytes.fromhex("02005e000001")
OUR_MAC = bytes.fromhex(MAC.replace(":", ""))
ASK_EVERY_S = 0.02
PING_EVERY_S = 0.004


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


def echo_request(address: Address, number: int = 1) -> bytes:
    """RFC 792, RFC 4443."""
    if address.version == 4:
        icmp = struct.pack("!BBHHH", 8, 0, 0, 7, number)
        icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(icmp), 0, 0, 64, 1, 0)
        header += CLIENT4.packed + address.packed
        header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
        return OUR_MAC + CLIENT_MAC + b"\x08\x00" + header + icmp
    return OUR_MAC + CLIENT_MAC + b"\x86\xdd" + icmp6(address, struct.pack("!HH", 7, number), 128)


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


def frames_until(packets: socket.socket, until: float) -> Iterator[bytes]:
    """What comes until that instant of CLOCK_BOOTTIME, and all that has come when this process,
    which may have had no processor, looks after it."""
    while True:
        packets.settimeout(max(0.0, until - boottime()))
        try:
            yield packets.recv(2048)
        except (TimeoutError, BlockingIOError):
            return


class Client:
    """Another host on the link, as frames."""

    def __init__(self, packets: socket.socket) -> None:
        self._packets = packets

    def asks(self, request: bytes, address: Address, within_s: float = 0.3) -> bool:
        """Whether something is answered from the address."""
        self._forget()
        self._packets.send(request)
        return any(
            frame[6:12] == OUR_MAC and address.packed in frame[14:]
            for frame in frames_until(self._packets, boottime() + within_s)
        )

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

    def heard(self, addresses: Collection[Address], until: float) -> set[Address]:
        """Asks each of the addresses, in all ways, again and again until that instant of
        CLOCK_BOOTTIME, and returns those from which something came, asked for or not."""
        self._forget()
        found: set[Address] = set()
        while True:
            for each in addresses:
                resolve = arp_request(each) if each.version == 4 else solicitation(each)
                for request in (resolve, echo_request(each)):
                    self._packets.send(request)
            ask_again_at = min(boottime() + ASK_EVERY_S, until)
            for frame in frames_until(self._packets, ask_again_at):
                if frame[6:12] == OUR_MAC:
                    found |= {each for each in addresses if each.packed in frame[14:]}
            if boottime() >= until:
                return found

    def last_answer_s(self, address: Address, for_s: float) -> float:
        """Asks for an echo again and again, and returns when the last one came; in seconds."""
        began = last = time.monotonic()
        while time.monotonic() < began + for_s:
            if self.asks(echo_request(address), address, 0.005):
                last = time.monotonic()
        return last - began


def echoed(frame: bytes) -> tuple[bytes, int] | None:
    """Returns the sender of an echo reply, and its number."""
    if frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 0:
        return frame[26:30], int.from_bytes(frame[40:42], "big")
    if frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 129:
        return frame[22:38], int.from_bytes(frame[60:62], "big")
    return None


class Pings(threading.Thread):
    """Echo requests to addresses, again and again. The instant that counts is that at which the
    request was sent: it was read before, so no answer seems later than it is."""

    def __init__(self, network: Namespace, addresses: Collection[Address]) -> None:
        super().__init__(daemon=True)
        self._addresses = {each.packed: each for each in addresses}
        with network.entered():
            self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._packets.bind((PEER, 3))
        self._packets.settimeout(PING_EVERY_S)
        self._is_over = False
        self._sent: list[float] = []
        self.answered: dict[Address, list[float]] = {each: [] for each in addresses}
        """When the requests were sent that were answered, in seconds of CLOCK_BOOTTIME."""

    def run(self) -> None:
        sent = self._sent
        while not self._is_over:
            at = boottime()
            sent.append(at)
            for each in self._addresses.values():
                self._packets.send(echo_request(each, len(sent) % (1 << 16)))
            for frame in frames_until(self._packets, at + PING_EVERY_S):
                self._note(frame, sent)
        self._packets.close()

    def _note(self, frame: bytes, sent: list[float]) -> None:
        if frame[6:12] != OUR_MAC or (reply := echoed(frame)) is None:
            return
        address = self._addresses.get(reply[0])
        number = len(sent) - (len(sent) - reply[1]) % (1 << 16)
        if address is not None:
            self.answered[address].append(sent[number - 1])

    def end(self) -> None:
        self._is_over = True
        self.join()

    def longest_silence_s(self, address: Address, since: float, until: float) -> float:
        """Returns the longest time in which requests were sent and none was answered: that who asks
        had no processor is no silence."""
        answered = set(self.answered[address])
        assert any(since <= at <= until for at in answered), "nothing was answered at all"
        longest_s, began = 0.0, None
        for at in self._sent:
            if at in answered or not since <= at <= until:
                began = None
            else:
                began = at if began is None else began
                longest_s = max(longest_s, at + PING_EVERY_S - began)
        return longest_s

    def last(self, address: Address, until: float = inf) -> float:
        """Returns when the last answered request before that was sent; 0.0: none was."""
        return max((each for each in self.answered[address] if each < until), default=0.0)


@contextmanager
def pinging(network: Namespace, *addresses: Address) -> Iterator[Pings]:
    pings = Pings(network, addresses)
    pings.start()
    try:
        yield pings
    finally:
        pings.end()


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
