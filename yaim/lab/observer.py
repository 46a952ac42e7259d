"""Sees the lab from outside: pings every address as a client, asks on the wire who answers for it,
and sees every node's address changes.

A process of its own, so that nothing else in the lab delays its clock readings; started in the
client's network namespace. It writes one line for each thing seen, with CLOCK_MONOTONIC in
nanoseconds:

    t NS                        a ping to every address was sent
    r ADDRESS NS                the ping sent at NS was answered
    a NODE ADDRESS NS           yaim's copy of the address appeared on an interface of the node
    d NODE ADDRESS NS           it disappeared, or became somebody else's
    f NODE ADDRESS NS           somebody else's copy appeared there: not before NS
    g NODE ADDRESS NS           it disappeared, or became yaim's
    w NODE ADDRESS FIRST LAST   the node answers for the address on the wire (wire.py): the first
                                answer in a row was received at FIRST, the last answered probe sent
                                at LAST; told again when it goes on
    p NS                        all answers that came until NS have been told

An address that somebody adds by hand is not yaim's: yaim's have a finite valid lifetime and no
preferred one.

The kernel's messages are read by our own few lines and not by pyroute2, which the rest of the lab
uses: a message takes 15 us in place of 64 us, and what waits to be read gets a late time stamp.

Started as: python -m yaim.lab.observer INTERVAL_MS NODE=FD[,NODE=FD...] ADDRESS[,ADDRESS...]
and, to have it ask on the wire: PROBE_MS INTERFACE SOURCE,SOURCE [ADDRESS,...]
These are the time between two probes of an address, the name that the interface has here and on
each node, the client's own addresses, and further addresses, which are probed and not pinged.
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
from yaim.lab.prober import (
    BURST_EVERY_S,
    MOST_A_SECOND,
    Prober,
    attach,
    hardware_address,
    no_shorter_than,
)
from yaim.lab.wire import Runs

_GROUPS = 0x10 | 0x100
"""RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR (rtnetlink(7))"""
_SO_RCVBUFFORCE = 33
_ROOM_BYTES = 1 << 25
"""The room for all that comes while this process waits for a processor: thousands of addresses."""
_IFA_CACHEINFO = 6
_FOREVER = 0xFFFFFFFF
_PAYLOAD = struct.Struct("!QI")
"""When it was sent, and the process that did: there may be other observers in this namespace."""
_TELL_RUNS_EVERY_S = 0.2
_TELL_AT_LEAST_EVERY_S = 1.0
"""How far it has looked, where it asks seldom."""


class Pinger:
    """Echo requests (RFC 792, RFC 4443) to all addresses at once."""

    def __init__(self, addresses: list[Address]) -> None:
        self._addresses = addresses
        self._sockets = {
            4: _raw(socket.AF_INET, socket.IPPROTO_ICMP, 20),
            6: _raw(socket.AF_INET6, socket.IPPROTO_ICMPV6, 0),
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


def _raw(family: socket.AddressFamily, protocol: int, header: int) -> socket.socket:
    """`header`: the bytes of the IP header, which IPv4's packets have. What is too short for an
    answer to a ping, as those to probes on the wire are, does not come."""
    raw = socket.socket(family, socket.SOCK_RAW, protocol)
    attach(raw, no_shorter_than(header + 8 + _PAYLOAD.size))
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
    """Which addresses a node has from yaim, and which from others. A copy that is deleted is known
    by what was told of it before: the lifetimes that come with its end are what was left of
    them."""

    def __init__(self) -> None:
        self._of_yaim: set[Copy] = set()
        self._of_others: set[Copy] = set()

    def note(self, message: AddressMessage) -> bool | None:
        """Takes in a message. Returns whether the node has the address from yaim now; None if that
        is as before."""
        return _note(self._of_yaim, message, message.is_of_yaim)

    def note_of_others(self, message: AddressMessage) -> bool | None:
        """The same, for copies that are not yaim's."""
        return _note(self._of_others, message, not message.is_of_yaim)


def _note(copies: set[Copy], message: AddressMessage, is_one: bool) -> bool | None:
    address = message.copy.address
    had = any(copy.address == address for copy in copies)
    if message.is_there and is_one:
        copies.add(message.copy)
    else:
        copies.discard(message.copy)
    has = any(copy.address == address for copy in copies)
    return has if has != had else None


@dataclass(frozen=True, slots=True)
class Watch:
    """The watch of one node's addresses."""

    node: str
    socket: socket.socket
    holdings: Holdings


def print_all_changes(watches: list[Watch], looked_before: int, now: int) -> None:
    """Prints all changes with the same time stamp, until no socket has anything more: a removal
    never gets a later time stamp than an addition that came after it. `looked_before`: when nothing
    of this was there yet."""
    is_more = True
    while is_more:
        is_more = False
        for watch in watches:
            try:
                while True:
                    for message in address_messages(watch.socket.recv(1 << 18)):
                        where = watch.node, message.copy.address
                        has = watch.holdings.note(message)
                        if has is not None:
                            print("a" if has else "d", *where, now)
                        is_foreign = watch.holdings.note_of_others(message)
                        if is_foreign is not None:
                            print(
                                *("f", *where, looked_before) if is_foreign else ("g", *where, now)
                            )
                    is_more = True
            except BlockingIOError:
                pass


class Probing:
    """Probes on the wire, in bursts, and tells who answers."""

    def __init__(
        self,
        interface: str,
        every_s: float,
        addresses: list[Address],
        sources: list[Address],
        nodes: dict[str, int],
    ) -> None:
        """`every_s`: the time between two probes of an address, if there is time for so many."""
        self._interface = interface
        self._asking = {}
        for name, fd in nodes.items():
            with Namespace(fd).entered():
                self._asking[name] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        by_version: dict[int, Address] = {each.version: each for each in sources}
        self.prober = Prober(interface, addresses, by_version, self._macs)
        a_second = min(len(addresses) / every_s, MOST_A_SECOND)
        self._burst_every_s = max(BURST_EVERY_S, min(every_s, 1 / a_second))
        self._burst = max(1, round(a_second * self._burst_every_s))
        self.next_at = time.monotonic()
        self._tell_at = self.next_at
        self._runs = Runs()

    def _macs(self) -> dict[bytes, str]:
        found = {}
        for name, asking in self._asking.items():
            try:
                found[hardware_address(asking, self._interface)] = name
            except OSError:
                pass  # it has no such interface
        return found

    def receive(self) -> None:
        """Takes in all that has come, as received when there is nothing more: no sooner than it
        was."""
        while True:
            came_until = time.monotonic_ns()
            answers = list(self.prober.answers())
            if not answers:
                break
            received = time.monotonic_ns()
            for each in answers:
                self._runs.note(each.node, each.address, each.turn, each.sent, received)
        if time.monotonic() >= self._tell_at:
            for run in self._runs.news():
                print("w", run.node, run.address, run.first_received, run.last_sent)
            print("p", came_until)
            self._tell_at = time.monotonic() + _TELL_RUNS_EVERY_S

    def send(self) -> None:
        now = time.monotonic()
        if now >= self.next_at:
            self.prober.send(self._burst)
            self.next_at = max(self.next_at + self._burst_every_s, now)


def main(
    interval_s: float, nodes: dict[str, int], addresses: list[Address], probing: Probing | None
) -> None:
    selector = selectors.DefaultSelector()
    pinger = Pinger(addresses)
    watches = [Watch(name, watch_addresses(fd), Holdings()) for name, fd in nodes.items()]
    for each in (*pinger.sockets(), *(watch.socket for watch in watches)):
        selector.register(each, selectors.EVENT_READ)
    if probing is not None:
        selector.register(probing.prober, selectors.EVENT_READ)
    next_ping = time.monotonic()
    looked = time.monotonic_ns()
    while True:
        sys.stdout.flush()
        next_at = next_ping
        if probing is not None:
            next_at = min(next_ping, probing.next_at, time.monotonic() + _TELL_AT_LEAST_EVERY_S)
        selector.select(max(0.0, next_at - time.monotonic()))
        now = time.monotonic_ns()
        print_all_changes(watches, looked, now)
        looked = now
        for each in pinger.sockets():
            pinger.receive(each)
        if probing is not None:
            probing.receive()
            probing.send()
        if time.monotonic() >= next_ping:
            pinger.send()
            next_ping = max(next_ping + interval_s, time.monotonic())


def _addresses(text: str) -> list[Address]:
    return [ip_address(each) for each in text.split(",") if each]


def start(arguments: list[str]) -> None:
    interval_ms, node_fds, pinged, *of_probing = arguments
    nodes = {name: int(fd) for name, fd in (each.split("=") for each in node_fds.split(","))}
    addresses = _addresses(pinged)
    probing = None
    if of_probing:
        probe_ms, interface, sources, *further = of_probing
        probed = [*addresses, *(each for text in further for each in _addresses(text))]
        probing = Probing(interface, int(probe_ms) / 1000, probed, _addresses(sources), nodes)
    main(int(interval_ms) / 1000, nodes, addresses, probing)


if __name__ == "__main__":
    os.nice(-10)
    start(sys.argv[1:])
