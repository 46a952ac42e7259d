"""Telling the neighbours where an address is now: a burst, a second one, then a slow refresh.

IPv4: ARP announcement (RFC 5227 section 3) and the same as a reply, which some stacks heed instead.
IPv6: unsolicited neighbour advertisement with the override flag (RFC 4861 section 7.2.6).
Announces what it is told to; decides nothing.
"""

import os
import socket
import struct
from collections.abc import Container
from contextlib import suppress
from heapq import nsmallest
from ipaddress import IPv4Address, IPv6Address
from operator import itemgetter

from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.protocol import Address

BURST_S = (0.0, 0.1, 0.5, 2.0, 5.0, 10.0, 20.0)
"""When to announce after an add, and after the interface has come back. RFC 5227 wants two, 2 s
apart, RFC 4861 at most three, a second from one to the next. On purpose there are more: the first
fractions of a second are for clients that wait. The second burst, from 5 s on, is there because a
switch may not forward yet what it is sent, after a failure of its own; a neighbour that misses it
asks the former holder for half a minute."""
REFRESH_S = (40.0, 80.0)
"""After that an address is announced again and again, after a random time between these."""
MAX_FRAMES = 2
"""The most frames for one announcement of an address."""
FRAMES_PER_S = 2000
"""The most frames over all addresses, and as many at once after a second without any. Each of a
thousand is told once without delay, and none a second time before all others were told once."""
AGAIN_AFTER_S = 1.0
"""The time from one burst because of an interface to the next: it may come and go all the time."""

ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD
_BROADCAST = b"\xff" * 6
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ALL_NODES = IPv6Address("ff02::1").packed
ICMPV6 = 58
NEIGHBOUR_ADVERTISEMENT = 136
_OVERRIDE = 0x20000000
TARGET_LINK_LAYER_ADDRESS = 2


def frames(mac: bytes, address: Address) -> tuple[bytes, ...]:
    """Returns the Ethernet frames that announce an address at a MAC address (6 bytes)."""
    if isinstance(address, IPv4Address):
        return _arp(mac, address, 1, b"\0" * 6), _arp(mac, address, 2, mac)
    return (_neighbour_advertisement(mac, address),)


def _arp(mac: bytes, address: IPv4Address, operation: int, target: bytes) -> bytes:
    """Returns an ARP packet (RFC 826) whose sender and target address are the announced one."""
    ethernet = _BROADCAST + mac + struct.pack("!H", ETH_P_ARP)
    header = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return ethernet + header + mac + address.packed + target + address.packed


def _neighbour_advertisement(mac: bytes, address: IPv6Address) -> bytes:
    """Returns a neighbour advertisement (RFC 4861 section 4.4), in an IPv6 header (RFC 8200) with
    hop limit 255."""
    option = struct.pack("!BB", TARGET_LINK_LAYER_ADDRESS, 1) + mac
    body = struct.pack("!I", _OVERRIDE) + address.packed + option
    pseudo = address.packed + _ALL_NODES + struct.pack("!II", 4 + len(body), ICMPV6)
    unsummed = struct.pack("!BBH", NEIGHBOUR_ADVERTISEMENT, 0, 0) + body
    checksum = internet_checksum(pseudo + unsummed)
    icmp = struct.pack("!BBH", NEIGHBOUR_ADVERTISEMENT, 0, checksum) + body
    ip = struct.pack("!IHBB", 6 << 28, len(icmp), ICMPV6, 255) + address.packed + _ALL_NODES
    return _ALL_NODES_MAC + mac + struct.pack("!H", ETH_P_IPV6) + ip + icmp


def internet_checksum(data: bytes) -> int:
    """Returns the checksum of RFC 1071. `data` has an even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Announcer:
    """Knows when to announce what, and does it. Times are seconds of CLOCK_BOOTTIME."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setblocking(False)
        self._plans: dict[Address, tuple[str, float, int]] = {}
        """Interface, when next, and how many were sent."""
        self._room = float(FRAMES_PER_S)
        """Frames that may be sent without waiting (a token bucket)."""
        self._room_at = 0.0
        self._again: dict[str, float] = {}
        """Interfaces, and when to begin anew with what is on them."""
        self._not_again_before: dict[str, float] = {}

    def start(self, interface: str, address: Address, now: float) -> None:
        """Announces an address now, or as soon as the cap allows, and goes on until `stop`."""
        self._plans[address] = interface, now, 0
        if self._has_room(now):
            self._announce(address, now)

    def start_again(self, now: float, interfaces: Container[str] | None = None) -> None:
        """Begins anew with what is on these interfaces (None: on any), but no sooner than
        AGAIN_AFTER_S after the last time: neighbours may not have heard. What is planned goes on
        until then."""
        for name in {name for name, _, _ in self._plans.values()}:
            if interfaces is None or name in interfaces:
                self._again.setdefault(name, max(now, self._not_again_before.get(name, now)))

    def _begin_again(self, now: float) -> None:
        for name in [name for name, at in self._again.items() if at <= now]:
            del self._again[name]
            self._not_again_before[name] = now + AGAIN_AFTER_S
            for address, (each, _, _) in self._plans.items():
                if each == name:
                    self._plans[address] = name, now, 0

    def defend(self, address: Address) -> None:
        """Sends one single announcement (RFC 5227 section 2.4) of an address that was started,
        whatever is planned."""
        if address in self._plans:
            self._send(self._plans[address][0], address, 1)

    def stop(self, address: Address) -> None:
        self._plans.pop(address, None)

    def next_at(self) -> float | None:
        planned = (at for _, at, _ in self._plans.values())
        earliest = min((*planned, *self._again.values()), default=None)
        if earliest is None or self._room >= MAX_FRAMES:
            return earliest
        # Some more, lest rounding makes it too soon for ever.
        wait_s = (MAX_FRAMES - self._room) / FRAMES_PER_S + 0.001
        return max(earliest, self._room_at + wait_s)

    def run(self, now: float, most: int) -> None:
        """Announces what is due, but no more addresses than `most` in one go; first those that were
        announced less often."""
        self._begin_again(now)
        due = [(sent, at, a) for a, (_, at, sent) in self._plans.items() if at <= now]
        for _, _, address in nsmallest(most, due, key=itemgetter(0, 1)):
            if not self._has_room(now):
                break
            self._announce(address, now)

    def _has_room(self, now: float) -> bool:
        passed_s = max(0.0, now - self._room_at)
        self._room = min(FRAMES_PER_S, self._room + passed_s * FRAMES_PER_S)
        self._room_at = max(self._room_at, now)
        return self._room >= MAX_FRAMES

    def _announce(self, address: Address, now: float) -> None:
        name, _, sent = self._plans[address]
        self._send(name, address, MAX_FRAMES)
        sent += 1
        is_burst = sent < len(BURST_S)
        wait_s = BURST_S[sent] - BURST_S[sent - 1] if is_burst else _between(*REFRESH_S)
        self._plans[address] = name, now + wait_s, sent

    def _send(self, name: str, address: Address, most: int) -> None:
        """Sends the first frames, `most` of them, that announce an address at the MAC address that
        the interface has now: bonds change theirs."""
        try:
            interface = self._kernel.interface(name)
        except KernelError:
            # It is gone. Should it come back, the refresh makes up for it.
            return
        if interface.has_neighbours:
            for frame in frames(interface.mac, address)[:most]:
                self._send_frame(name, frame)

    def _send_frame(self, interface: str, frame: bytes) -> None:
        self._room -= 1
        # A full queue; an interface that is down, gone or too narrow: the refresh makes up for it.
        with suppress(OSError):
            self._socket.sendto(frame, (interface, 0))


def _between(least_s: float, most_s: float) -> float:
    """Returns a random time between these (at each start Python's module for that costs more)."""
    return least_s + (most_s - least_s) * int.from_bytes(os.urandom(4), "big") / 2**32
