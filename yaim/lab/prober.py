"""Asks on the wire, again and again, who answers for an address; and captures the answers.

A probe goes to all nodes at once, in a frame to the broadcast MAC address: an echo request (RFC
792, RFC 4443) whose destination is the address, and in every other round, for IPv4, an ARP probe
(RFC 5227 section 2.1.1: the sender's address is 0, so no node notes anything). Each node that has
the address and is not muted answers, from its own MAC address. What is captured are the frames that
come in, in their order, by one packet socket (packet(7)); the kernel passes only answers to these
probes (classic BPF).

Each answer tells which probe it is of: an echo by the number in it; ARP by the MAC address that the
probe has as its sender, 256 in turn. The frame that bears a probe comes from the same MAC address,
so a bridge knows where the answer has to go.

What follows from answers is wire.py's.
"""

import os
import socket
import struct
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from yaim.core.model import Address

MOST_A_SECOND = 1500
"""The most probes; what they take of a processor is told in docs/testing.md."""
BURST_EVERY_S = 0.01
"""The least time between two bursts of probes."""

_BROADCAST = b"\xff" * 6
_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_ETH_P_ALL = 0x0003
_ECHO_ID = 0x7961
"""The identifier in an echo: not that of the observer's pings, which count from 0."""
_NUMBER = struct.Struct("!II")
"""What is in an echo: the process that asks, and the number of the probe."""
_RING = 1 << 14
_MACS = 256
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SIOCGIFHWADDR = 26, 33, 0x8927
_ROOM_BYTES = 1 << 23
_HOP_LIMIT = 64
_MAX_FRAME = 256

_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _LOAD_LENGTH = 0x20, 0x28, 0x30, 0x80
_JUMP_IF_EQUAL, _JUMP_IF_NOT_LESS, _RETURN = 0x15, 0x35, 0x06
"""include/uapi/linux/bpf_common.h"""
_PACKET_TYPE = 0xFFFFF004
"""Where a filter finds how a packet came: SKF_AD_OFF + SKF_AD_PKTTYPE (linux/filter.h)."""


@dataclass(frozen=True, slots=True)
class Answer:
    node: str
    address: Address
    turn: int
    """The probe's number among those of this address, from 1 on."""
    sent: int
    """CLOCK_MONOTONIC in nanoseconds, as all times here."""


class Prober:
    """Probes each address in turn, from one interface of this process's network namespace."""

    def __init__(
        self,
        interface: str,
        addresses: Sequence[Address],
        sources: Mapping[int, Address],
        mac_to_node: Callable[[], Mapping[bytes, str]],
    ) -> None:
        """`sources`: by IP version, the client's own address. `mac_to_node`: which node has a MAC
        address now; it is asked again for one that is not known."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._process = os.getpid() & 0xFFFF
        attach(self._socket, _answers_only(self._process))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM_BYTES)
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.setblocking(False)
        mac = hardware_address(self._socket, interface)
        self._mac_to_node = mac_to_node
        self._nodes: Mapping[bytes, str] = mac_to_node()
        self._addresses = list(addresses)
        self._index = {each.packed: number for number, each in enumerate(self._addresses)}
        self._frames = [
            _EchoFrame(mac, sources[each.version], each, self._process) for each in self._addresses
        ]
        self._arp = [
            each.packed if each.version == 4 and each.packed[0] != 127 else b""
            for each in self._addresses
        ]
        self._turns = [0] * len(self._addresses)
        self._next = 0
        self._number = 0
        self._sent: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)] * _RING
        """Of the latest probes: number, index of the address, turn, when it was sent."""
        self._sent_arp: dict[tuple[int, int], tuple[int, int]] = {}
        """Of the latest ARP probes: by address and MAC number, turn and when it was sent."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, count: int) -> None:
        """Sends the next `count` probes, one for each address in turn."""
        for _ in range(count):
            index = self._next
            self._next = (index + 1) % len(self._addresses)
            turn = self._turns[index] + 1
            now = time.monotonic_ns()
            if self._arp[index] and turn & 1:
                slot = turn // 2 % _MACS
                frame = _arp_probe(_mac(self._process, slot), self._arp[index])
            else:
                slot = -1
                self._number = self._number + 1 & 0xFFFFFFFF
                frame = self._frames[index].numbered(self._number)
            try:
                self._socket.send(frame)
            except OSError:
                continue  # it is no probe: the interface is down, say, or its queue full
            self._turns[index] = turn
            if slot < 0:
                self._sent[self._number % _RING] = (self._number, index, turn, now)
            else:
                self._sent_arp[index, slot] = (turn, now)

    def answers(self) -> Iterator[Answer]:
        """What has come in, in order, until there is nothing more."""
        while True:
            try:
                frame = self._socket.recv(_MAX_FRAME)
            except OSError:
                return
            probe = self._probe_of(frame)
            if probe is None:
                continue
            mac = frame[6:12]
            if mac not in self._nodes:
                self._nodes = self._mac_to_node()
            node = self._nodes.get(mac)
            if node is not None:
                index, turn, sent = probe
                yield Answer(node, self._addresses[index], turn, sent)

    def _probe_of(self, frame: bytes) -> tuple[int, int, int] | None:
        """Index of the address, turn, and when it was sent. None: it is none of the latest."""
        kind = struct.unpack_from("!H", frame, 12)[0]
        if kind == _ARP:
            index = self._index.get(frame[28:32])
            if index is None:
                return None
            found = self._sent_arp.get((index, frame[5]))
            return (index, *found) if found is not None else None
        at = 42 if kind == _IPV4 else 62
        if len(frame) < at + _NUMBER.size:
            return None
        process, number = _NUMBER.unpack_from(frame, at)
        known, index, turn, sent = self._sent[number % _RING]
        if process != self._process or known != number:
            return None
        source = frame[26:30] if kind == _IPV4 else frame[22:38]
        return (index, turn, sent) if source == self._addresses[index].packed else None


class _EchoFrame:
    """An echo request but for its number."""

    def __init__(self, mac: bytes, source: Address, target: Address, process: int) -> None:
        kind = 8 if target.version == 4 else 128
        icmp = struct.pack("!BBHHH", kind, 0, 0, _ECHO_ID, 0) + _NUMBER.pack(process, 0)
        if target.version == 4:
            header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(icmp), 0, 0, _HOP_LIMIT, 1, 0)
            header += source.packed + target.packed
            header = header[:10] + struct.pack("!H", ~_sum(header) & 0xFFFF) + header[12:]
            self._base = _sum(icmp)
            ether_type = _IPV4
        else:
            header = struct.pack("!IHBB", 6 << 28, len(icmp), 58, _HOP_LIMIT)
            header += source.packed + target.packed
            pseudo = source.packed + target.packed + struct.pack("!II", len(icmp), 58)
            self._base = _sum(pseudo + icmp)
            ether_type = _IPV6
        self._before = _BROADCAST + mac + struct.pack("!H", ether_type) + header + icmp[:2]
        self._between = icmp[4:12]

    def numbered(self, number: int) -> bytes:
        total = self._base + (number >> 16) + (number & 0xFFFF)
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        return b"".join(
            (
                self._before,
                (~total & 0xFFFF).to_bytes(2, "big"),
                self._between,
                number.to_bytes(4, "big"),
            )
        )


def _arp_probe(mac: bytes, target: bytes) -> bytes:
    header = _BROADCAST + mac + b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01"
    return header + mac + bytes(4) + bytes(6) + target


def _mac(process: int, slot: int) -> bytes:
    """A MAC address of an ARP probe: local, and of this process."""
    return struct.pack("!BBHBB", 0x02, 0x79, process, 0, slot)


def _sum(data: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def hardware_address(any_socket: socket.socket, interface: str) -> bytes:
    """The MAC address of an interface of the socket's network namespace (netdevice(7)). Takes no
    lock of the routing code. Raises OSError."""
    import fcntl

    request = struct.pack("16s16x", interface.encode())
    return fcntl.ioctl(any_socket.fileno(), _SIOCGIFHWADDR, request)[18:24]


# --- filters ---------------------------------------------------------------------------------

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand (struct sock_filter)."""


def attach(to: socket.socket, program: Sequence[Instruction]) -> None:
    """Sets the filter of a socket (socket(7), SO_ATTACH_FILTER: struct sock_fprog)."""
    code = array("B", b"".join(struct.pack("=HBBI", *each) for each in program))
    address, _ = code.buffer_info()
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), address))


def no_shorter_than(length: int) -> tuple[Instruction, ...]:
    """Lets pass what is at least so long."""
    return (
        (_LOAD_LENGTH, 0, 0, 0),
        (_JUMP_IF_NOT_LESS, 0, 1, length),
        (_RETURN, 0, 0, 0xFFFF),
        (_RETURN, 0, 0, 0),
    )


def _answers_only(process: int) -> list[Instruction]:
    """Lets pass what comes in and answers a probe: an ARP reply to one of its MAC addresses, an
    echo reply with its identifier."""
    mac = struct.unpack_from("!I", _mac(process, 0))[0]
    kinds = (
        (_IPV4, ((_LOAD_BYTE, 23, 1), (_LOAD_BYTE, 34, 0), (_LOAD_HALF, 38, _ECHO_ID))),
        (_IPV6, ((_LOAD_BYTE, 20, 58), (_LOAD_BYTE, 54, 129), (_LOAD_HALF, 58, _ECHO_ID))),
        (_ARP, ((_LOAD_HALF, 20, 2), (_LOAD_WORD, 0, mac))),
    )
    program: list[Instruction] = [
        (_LOAD_WORD, 0, 0, _PACKET_TYPE),
        (_JUMP_IF_EQUAL, 0, 1, socket.PACKET_OUTGOING),
        (_RETURN, 0, 0, 0),
    ]
    for ether_type, tests in kinds:
        # If it is not of this kind: over all its tests, which end with two returns.
        program.append((_LOAD_HALF, 0, 0, 12))
        program.append((_JUMP_IF_EQUAL, 0, 2 * len(tests) + 2, ether_type))
        for number, (load, offset, wanted) in enumerate(tests):
            to_the_end = 2 * (len(tests) - number - 1) + 1
            program.append((load, 0, 0, offset))
            program.append((_JUMP_IF_EQUAL, 0, to_the_end, wanted))
        program.append((_RETURN, 0, 0, _MAX_FRAME))
        program.append((_RETURN, 0, 0, 0))
    program.append((_RETURN, 0, 0, 0))
    return program
