"""Seeing that somebody else on the link has an address too: by their ARP (RFC 5227 section 2.4)
and their neighbour advertisements (RFC 4861). Sees; decides nothing.

Anybody on the link can write what arrives here. The kernel passes on only what names a watched
address (classic BPF), and what is not well-formed is dropped without a word.
"""

import socket
import struct
from array import array
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, TypeAlias

from yaim_helper.neighbours.announce import (
    ETH_P_ARP,
    ETH_P_IPV6,
    ICMPV6,
    NEIGHBOUR_ADVERTISEMENT,
    TARGET_LINK_LAYER_ADDRESS,
    internet_checksum,
)
from yaim_helper.protocol import Address

MAX_READ = 64
"""Packets of each kind that are read in one go."""

_MAX_BYTES = 1500
_SO_ATTACH_FILTER = 26
_LOAD_BYTE, _LOAD_WORD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x20, 0x54, 0x15, 0x06
"""include/uapi/linux/bpf_common.h"""
_MAX_WORDS = 255
"""How far a conditional jump reaches."""
_WHOLE_WORD = 0xFFFFFFFF

Claim: TypeAlias = tuple[Address, bytes]
"""An address, and the MAC address that somebody says it is at."""
Instruction: TypeAlias = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand (struct sock_filter)."""


class Sighting(NamedTuple):
    address: Address
    interface: str
    mac: bytes


def arp_claim(packet: bytes) -> Claim | None:
    """Returns what the sender of an ARP request or reply (RFC 826) claims. The packet begins behind
    the Ethernet header."""
    if len(packet) < 28:
        return None
    *header, operation = struct.unpack_from("!HHBBH", packet)
    if header != [1, 0x0800, 6, 4] or operation not in (1, 2):
        return None
    return IPv4Address(packet[14:18]), packet[8:14]


def advertisement_claim(packet: bytes) -> Claim | None:
    """Returns what a neighbour advertisement (RFC 4861 section 4.4) claims that is valid by section
    7.1.2. The packet begins with the IPv6 header."""
    if len(packet) < 40:
        return None
    version, length, next_header, hop_limit = struct.unpack_from("!B3xHBB", packet)
    message = packet[40 : 40 + length]
    if (version >> 4, next_header, hop_limit) != (6, ICMPV6, 255):
        return None
    if not 24 <= length == len(message) or length % 8:
        return None
    if struct.unpack_from("!BB", message) != (NEIGHBOUR_ADVERTISEMENT, 0):
        return None
    pseudo = packet[8:40] + struct.pack("!II", length, ICMPV6)
    if internet_checksum(pseudo + message) != 0:
        return None
    mac = _target_link_layer_address(message[24:])
    return (IPv6Address(message[8:24]), mac) if mac is not None else None


def _target_link_layer_address(options: bytes) -> bytes | None:
    """Returns the MAC address; None: there is none, or the length of an option is 0 or too
    great."""
    found = None
    while options:
        kind, length = options[0], options[1] * 8
        if not 0 < length <= len(options):
            return None
        if kind == TARGET_LINK_LAYER_ADDRESS and found is None:
            found = options[2:8]
        options = options[length:]
    return found


class Conflicts:
    """Sees all claims to the watched addresses, but for those in frames that this host sends."""

    def __init__(self) -> None:
        self._sockets = (
            _PacketSocket(4, ETH_P_ARP, (), 14, arp_claim),
            _PacketSocket(
                6,
                ETH_P_IPV6,
                (*_only_if(6, ICMPV6), *_only_if(40, NEIGHBOUR_ADVERTISEMENT)),
                60,
                advertisement_claim,
            ),
        )

    def sockets(self) -> tuple[socket.socket, ...]:
        return tuple(each.socket for each in self._sockets)

    def watch(self, addresses: Collection[Address]) -> None:
        """Watches these addresses from now on, and no others. What came before may be forgotten: it
        may be from the former holder of an address that is new here."""
        for each in self._sockets:
            each.watch(addresses)

    def read(self) -> list[Sighting]:
        """Returns what has come, MAX_READ packets of each kind at most."""
        return [sighting for each in self._sockets for sighting in each.read()]


class _PacketSocket:
    """A packet socket (packet(7)), which gives packets from the header of their protocol on."""

    def __init__(
        self,
        version: int,
        protocol: int,
        prelude: Sequence[Instruction],
        last_word_at: int,
        claim: Callable[[bytes], Claim | None],
    ) -> None:
        """`last_word_at`: where the last four bytes of the claimed address are."""
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(protocol))
        self.socket.setblocking(False)
        self._version = version
        self._prelude = prelude
        self._last_word_at = last_word_at
        self._claim = claim
        self._words: set[int] | None = None
        self.watch(())

    def watch(self, addresses: Collection[Address]) -> None:
        words = {int(each) & _WHOLE_WORD for each in addresses if each.version == self._version}
        if words == self._words:
            return
        self._words = words
        _attach(self.socket, _NOTHING)
        while self._receive() is not None:
            pass
        if words:
            ending = _if_any_of(self._last_word_at, words)
            _attach(self.socket, (*self._prelude, *ending))

    def read(self) -> list[Sighting]:
        sightings = []
        for _ in range(MAX_READ):
            received = self._receive()
            if received is None:
                break
            packet, interface, kind = received
            claim = self._claim(packet)
            if claim is not None and kind != socket.PACKET_OUTGOING:
                address, mac = claim
                sightings.append(Sighting(address, interface, mac))
        return sightings

    def _receive(self) -> tuple[bytes, str, int] | None:
        """Returns a packet, the interface that it came by, and how; None: there is no further
        one."""
        try:
            packet, (interface, _, kind, *_) = self.socket.recvfrom(_MAX_BYTES)
        except OSError:
            return None
        return packet, interface, kind


_NOTHING: tuple[Instruction, ...] = ((_RETURN, 0, 0, 0),)


def _only_if(offset: int, byte: int) -> tuple[Instruction, ...]:
    """Returns instructions that go on only if that byte is this one."""
    return (_LOAD_BYTE, 0, 0, offset), (_JUMP_IF_EQUAL, 1, 0, byte), *_NOTHING


def _if_any_of(offset: int, words: set[int]) -> list[Instruction]:
    """Returns instructions that let a packet pass if the four bytes there are one of these words.
    If there are more words than fit, a packet passes whose bytes begin like one of them."""
    mask = _WHOLE_WORD
    while len(beginnings := sorted({each & mask for each in words})) > _MAX_WORDS:
        mask = mask << 1 & _WHOLE_WORD
    count = len(beginnings)
    return [
        (_LOAD_WORD, 0, 0, offset),
        (_AND, 0, 0, mask),
        *((_JUMP_IF_EQUAL, count - n, 0, word) for n, word in enumerate(beginnings)),
        *_NOTHING,
        (_RETURN, 0, 0, _MAX_BYTES),
    ]


def _attach(to: socket.socket, program: Sequence[Instruction]) -> None:
    """Sets the filter of a socket (socket(7), SO_ATTACH_FILTER: struct sock_fprog)."""
    code = array("B", b"".join(struct.pack("=HBBI", *each) for each in program))
    address, _ = code.buffer_info()
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), address))
