"""Sees the lab from outside: pings every address as a client, and every node's address changes.

A process of its own, so that nothing else in the lab delays its clock readings; started in the
client's network namespace. It writes one line for each thing seen, with CLOCK_MONOTONIC in
nanoseconds:

    t NS                    a ping to every address was sent
    r ADDRESS NS            the ping sent at NS was answered
    a NODE ADDRESS NS       yaim's copy of the address appeared on an interface of the node
    d NODE ADDRESS NS       it disappeared, or became somebody else's

An address that somebody adds by hand is not yaim's: yaim's have a finite valid lifetime and no
preferred one.

The kernel's messages are read by our own few lines and not by pyroute2, which the rest of the lab
uses: a message takes 15 us in place of 64 us, and what waits to be read gets a late time stamp.

Started as: python -m yaim.lab.observer INTERVAL_MS NODE=FD[,NODE=FD...] ADDRESS[,ADDRESS...]
"""

import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from yaim.core.model import Address
from yaim.host.netlink import (
    ADDRESS,
    RTM_DELADDR,
    RTM_NEWADDR,
    address_of,
    attributes,
    messages,
)
from yaim.lab.namespaces import Namespace

_GROUPS = 0x10 | 0x100
"""RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR (rtnetlink(7))"""
_SO_RCVBUFFORCE = 33
_ROOM_BYTES = 1 << 25
"""The room for all that comes while this process waits for a processor: thousands of addresses."""
_IFA_CACHEINFO = 6
_FOREVER = 0xFFFFFFFF
_PAYLOAD = struct.Struct("!QI")
"""When it was sent, and the process that did: there may be other observers in this namespace."""


class Pinger:
    """Echo requests (RFC 792, RFC 4443) to all addresses at once."""

    def __init__(self, addresses: list[Address]) -> None:
        self._addresses = addresses
        self._sockets = {
            4: _raw(socket.AF_INET, socket.IPPROTO_ICMP),
            6: _raw(socket.AF_INET6, socket.IPPROTO_ICMPV6),
        }
        self._sequence = 0

    def sockets(self) -> list[socket.socket]:
        return list(self._sockets.values())

    def send(self) -> None:
        now = time.monotonic_ns()
        self._sequence = (self._sequence + 1) & 0xFFFF
        print("t", now)
        for number, address in enumerate(self._addresses):
            packet = _echo_request(address.version, number, self._sequence, now)
            try:
                self._sockets[address.version].sendto(packet, (str(address), 0))
            except OSError:
                pass  # nobody has the address: no answer will come

    def receive(self, ready: socket.socket) -> None:
        for _ in range(64):
            try:
                packet = ready.recv(256)
            except OSError:
                return
            if ready.family == socket.AF_INET:
                packet = packet[(packet[0] & 15) * 4 :]
            if packet[0] in (0, 129) and len(packet) >= 8 + _PAYLOAD.size:
                number = struct.unpack_from("!H", packet, 4)[0]
                sent_at, process = _PAYLOAD.unpack_from(packet, 8)
                if process == os.getpid():
                    print("r", self._addresses[number], sent_at)


def _raw(family: socket.AddressFamily, protocol: int) -> socket.socket:
    raw = socket.socket(family, socket.SOCK_RAW, protocol)
    raw.setblocking(False)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return raw


def _echo_request(version: int, number: int, sequence: int, now: int) -> bytes:
    """The kernel adds ICMPv6's checksum, not ICMP's."""
    body = struct.pack("!HH", number, sequence) + _PAYLOAD.pack(now, os.getpid())
    if version == 6:
        return struct.pack("!BBH", 128, 0, 0) + body
    total = sum(struct.unpack(f"!{len(body) // 2}H", body)) + 0x0800
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBH", 8, 0, ~total & 0xFFFF) + body


def watch_addresses(fd: int) -> socket.socket:
    """Opens a socket that tells the address changes of a network namespace."""
    with Namespace(fd).entered():
        watch = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        watch.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM_BYTES)
        watch.bind((0, _GROUPS))
    watch.setblocking(False)
    return watch


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy of an address on a node. The same address may be there with another prefix length or
    on another interface, too."""

    address: Address
    prefix_length: int
    interface: int


@dataclass(frozen=True, slots=True)
class AddressMessage:
    copy: Copy
    is_there: bool
    """True if the copy appeared, or is still there with a new lifetime; false if it disappeared."""
    is_of_yaim: bool


def address_messages(data: bytes) -> Iterator[AddressMessage]:
    """Yields the messages about addresses in a datagram from the kernel (rtnetlink(7))."""
    for kind, body in messages(data):
        address = address_of(body) if kind in (RTM_NEWADDR, RTM_DELADDR) else None
        if address is None:
            continue
        _, prefix_length, _, _, interface = ADDRESS.unpack_from(body)
        preferred_s, valid_s = _FOREVER, _FOREVER
        lifetimes = attributes(body, ADDRESS.size).get(_IFA_CACHEINFO)
        if lifetimes is not None:
            preferred_s, valid_s = struct.unpack_from("=II", lifetimes)
        yield AddressMessage(
            Copy(address, prefix_length, interface),
            kind == RTM_NEWADDR,
            preferred_s == 0 and valid_s != _FOREVER,
        )


class Holdings:
    """Which addresses a node has from yaim. A copy that is deleted is known by what was told of it
    before: the lifetimes that come with its end are what was left of them."""

    def __init__(self) -> None:
        self._of_yaim: set[Copy] = set()

    def note(self, message: AddressMessage) -> bool | None:
        """Takes in a message. Returns whether the node has the address from yaim now; None if that
        is as before."""
        had = self._has(message.copy.address)
        if message.is_there and message.is_of_yaim:
            self._of_yaim.add(message.copy)
        else:
            self._of_yaim.discard(message.copy)
        has = self._has(message.copy.address)
        return has if has != had else None

    def _has(self, address: Address) -> bool:
        return any(copy.address == address for copy in self._of_yaim)


@dataclass(frozen=True, slots=True)
class Watch:
    """The watch of one node's addresses."""

    node: str
    socket: socket.socket
    holdings: Holdings


def print_all_changes(watches: list[Watch], now: int) -> None:
    """Prints all changes with the same time stamp, until no socket has anything more: a removal
    never gets a later time stamp than an addition that came after it."""
    is_more = True
    while is_more:
        is_more = False
        for watch in watches:
            try:
                while True:
                    for message in address_messages(watch.socket.recv(1 << 18)):
                        has = watch.holdings.note(message)
                        if has is not None:
                            kind = "a" if has else "d"
                            print(kind, watch.node, message.copy.address, now)
                    is_more = True
            except BlockingIOError:
                pass


def main(interval_s: float, nodes: dict[str, int], addresses: list[Address]) -> None:
    selector = selectors.DefaultSelector()
    pinger = Pinger(addresses)
    watches = [Watch(name, watch_addresses(fd), Holdings()) for name, fd in nodes.items()]
    for each in (*pinger.sockets(), *(watch.socket for watch in watches)):
        selector.register(each, selectors.EVENT_READ)
    next_ping = time.monotonic()
    while True:
        sys.stdout.flush()
        selector.select(max(0.0, next_ping - time.monotonic()))
        print_all_changes(watches, time.monotonic_ns())
        for each in pinger.sockets():
            pinger.receive(each)
        if time.monotonic() >= next_ping:
            pinger.send()
            next_ping = max(next_ping + interval_s, time.monotonic())


if __name__ == "__main__":
    os.nice(-10)
    main(
        int(sys.argv[1]) / 1000,
        {name: int(fd) for name, fd in (each.split("=") for each in sys.argv[2].split(","))},
        [ip_address(text) for text in sys.argv[3].split(",")],
    )
