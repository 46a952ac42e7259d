"""What the fence costs packets: how many go through a host with it and without.

    python -m bench.packets [--pairs 15] [--json FILE]

A source, a host and a pair of veths between them, in namespaces of their own, on one processor.

- "bare": the source sends UDP packets of 64 bytes by a packet socket (sendmmsg(2)); the host
  forwards them to an interface at whose other end they are dropped, or takes them for an address of
  its own, where nobody reads. There is no shorter way through a host, so nothing shows the fence's
  cost more.
- "TCP": a program on the source sends to one on the host, as iperf3 does.

With the fence's tables and without alternate, for BURST_S each. It is counted what came through for
each second of processor time, this process's and the softirqs' (ksoftirqd): so other programs on
the machine matter less. Printed are the medians, and of the ratio in each pair also the least and
the most. The exit status is 1 if a median ratio of TCP is below its bound.
"""

import argparse
import ctypes
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from yaim_helper.kernel.fence import Fence, Ruleset, TooLate

from bench.figures import machine
from yaim.core.model import Address
from yaim.host.boottime import boottime
from yaim.lab.links import put_address
from yaim.lab.namespaces import LabError, Namespace, run
from yaim.lab.prober import hardware_address

BURST_S = 0.3
COUNTS = (6, 1000)
AT_LEAST = 0.98
"""The share of what comes through without a fence, by TCP."""
TABLE = "yaim-1"
LIFE_S = 3600.0
MOST_TRIES = 20
PORT, TCP_PORT = 9, 5201
TOGETHER = 64
"""Packets in one system call."""
PIECE_BYTES = 1 << 17
HOST: dict[int, Address] = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
SOURCE: dict[int, Address] = {4: ip_address("192.0.2.2"), 6: ip_address("2001:db8::2")}
BEHIND: dict[int, Address] = {4: ip_address("198.51.100.2"), 6: ip_address("2001:db8:1::2")}
"""Where packets go that are forwarded."""
HELD: dict[int, Address] = {4: ip_address("10.0.0.1"), 6: ip_address("fd00::1")}
"""The first of the held addresses."""
_LENGTHS = {4: 24, 6: 64}
"""The prefix lengths of the link."""
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_libc = ctypes.CDLL(None, use_errno=True)
Pairs = list[tuple[float, float]]
"""Without the fence, with it."""


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct mmsghdr (sendmmsg(2))."""

    _fields_ = (
        *(("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32)),
        *(("iov", ctypes.POINTER(_Iovec)), ("iov_count", ctypes.c_size_t)),
        *(("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t)),
        *(("flags", ctypes.c_int), ("sent", ctypes.c_uint)),
    )


def udp_frame(to_mac: bytes, from_mac: bytes, source: Address, target: Address) -> bytes:
    """An Ethernet frame of 64 bytes (IPv6: 84), whose checksums are right."""
    data = bytes(22)
    udp = struct.pack("!HHHH", PORT, PORT, 8 + len(data), 0) + data
    pseudo = source.packed + target.packed + struct.pack("!II", len(udp), 17)
    udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp)) + udp[8:]
    if target.version == 6:
        header = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + source.packed + target.packed
        return to_mac + from_mac + b"\x86\xdd" + header + udp
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    header += source.packed + target.packed
    header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    return to_mac + from_mac + b"\x08\x00" + header + udp


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Site:
    """The two namespaces, and what can be sent and counted there."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.source = stack.enter_context(closing(Namespace.new()))
        self.host = stack.enter_context(closing(Namespace.new()))
        self._connect()
        with self.host.entered():
            for file in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"):
                Path("/proc/sys/net", file).write_text("1\n")
            # What is open stays of this namespace.
            net = Path("/proc/thread-self/net")
            self._snmp = stack.enter_context((net / "snmp").open())
            self._snmp6 = stack.enter_context((net / "snmp6").open())
            self._dev = stack.enter_context((net / "dev").open())
            for family in _FAMILIES.values():
                self._let_nobody_read(family)
            self.ruleset = Ruleset()
            stack.callback(self.ruleset.close)
            host_mac = _mac()
        with self.source.entered():
            self._macs = host_mac, _mac()
            self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            stack.callback(self._packets.close)
            self._packets.bind(("eth0", 0))

    def _connect(self) -> None:
        with self.source.entered():
            put = ("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0")
            run((*put, "netns", self.host.path), pass_fds=(self.host.fd,))
        self.host.run("ip", "link", "add", "behind", "type", "veth", "peer", "name", "nowhere")
        for interface in ("behind", "nowhere"):
            self.host.run("ip", "link", "set", interface, "up")
        for namespace, own in ((self.source, SOURCE), (self.host, HOST)):
            namespace.run("ip", "link", "set", "eth0", "up")
            for address in own.values():
                put_address(f"{address}/{_LENGTHS[address.version]}", "eth0", namespace)
        for version, address in BEHIND.items():
            whole = f"{address}/{address.max_prefixlen}"
            self.host.run("ip", "route", "add", whole, "dev", "behind")
            # To nobody's MAC address: where the packet comes out it is dropped at once.
            to_nobody = (str(address), "lladdr", "02:00:00:00:00:01", "dev", "behind")
            self.host.run("ip", "neigh", "add", *to_nobody, "nud", "permanent")
            self.source.run(
                "ip", f"-{version}", "route", "add", "default", "via", str(HOST[version])
            )

    def _let_nobody_read(self, family: socket.AddressFamily) -> None:
        unread = self._stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        if family == socket.AF_INET6:
            unread.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        unread.bind(("", PORT))

    def hold(self, count: int) -> list[Address]:
        """Puts so many addresses of each version on the host."""
        held = [first + number for first in HELD.values() for number in range(count)]
        batch = "".join(
            f"address replace {each}/{each.max_prefixlen} dev eth0"
            f"{' nodad' if each.version == 6 else ''}\n"
            for each in held
        )
        with self.host.entered():
            subprocess.run(("ip", "-batch", "-"), input=batch, text=True, check=True)
        return held

    # --- traffic: each returns how much has come through -------------------------------------

    def bare(self, target: Address) -> int:
        """Packets."""
        frame = udp_frame(*self._macs, SOURCE[target.version], target)
        data = ctypes.create_string_buffer(frame, len(frame))
        iovec = _Iovec(ctypes.addressof(data), len(frame))
        messages = (_Message * TOGETHER)()
        for each in messages:
            each.iov, each.iov_count = ctypes.pointer(iovec), 1
        before, sent = self._came_through(), 0
        until = time.monotonic() + BURST_S
        while time.monotonic() < until:
            count = _libc.sendmmsg(self._packets.fileno(), messages, TOGETHER, 0)
            if count < 0:
                raise LabError(f"cannot send: {os.strerror(ctypes.get_errno())}")
            sent += count
        came = self._came_through() - before
        if came < 0.5 * sent:
            raise LabError(f"of {sent} packets {came} came through")
        return came

    def _came_through(self) -> int:
        """Packets that were forwarded, or taken by the host for its own."""
        for file in (self._snmp, self._snmp6, self._dev):
            file.seek(0)
        names, values = (line.split() for line in self._snmp if line.startswith("Ip: "))
        taken = int(dict(zip(names, values, strict=True))["InDelivers"])
        taken += int(dict(line.split() for line in self._snmp6)["Ip6InDelivers"])
        (behind,) = (line.split() for line in self._dev if "behind:" in line)
        return taken + int(behind[10])

    def tcp(self, target: Address) -> int:
        """Bytes. Sender and receiver take turns: the processor is always busy."""
        family = _FAMILIES[target.version]
        with ExitStack() as stack:
            with self.host.entered():
                listening = stack.enter_context(
                    socket.create_server((str(target), TCP_PORT), family=family)
                )
            with self.source.entered():
                sending = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sending.settimeout(5.0)
            sending.connect((str(target), TCP_PORT))
            receiving = stack.enter_context(listening.accept()[0])
            for each in (sending, receiving):
                each.setblocking(False)
            return _pumped(sending, receiving)


def _pumped(sending: socket.socket, receiving: socket.socket) -> int:
    piece, room = bytes(PIECE_BYTES), bytearray(PIECE_BYTES)
    until, came = time.monotonic() + BURST_S, 0
    while time.monotonic() < until:
        try:
            sending.send(piece)
        except BlockingIOError:
            pass
        try:
            came += receiving.recv_into(room)
        except BlockingIOError:
            pass
    return came


def _mac() -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_one:
        return hardware_address(any_one, "eth0")


class Processor:
    """The only one on which this process runs from now on."""

    def __init__(self) -> None:
        number = max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {number})
        names = Path("/proc").glob("[0-9]*/comm")
        found = [each.parent for each in names if _text(each) == f"ksoftirqd/{number}"]
        self._files = [directory / "schedstat" for directory in (Path("/proc/self"), *found)]

    def used_s(self) -> float:
        """By this process, and by softirqs for which there was no time in it (schedstat: time
        spent on the processor, in nanoseconds)."""
        return sum(int(_text(file).split()[0]) for file in self._files) / 1e9


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Traffic:
    name: str
    how: Callable[[Site, Address], int]
    targets: tuple[tuple[str, Callable[[int, int], Address]], ...]
    """Where it goes; the address, by IP version and by how many are held."""


_ITS_OWN = ("to the host's own address", lambda version, _: HOST[version])
_HELD_ONE = ("to a held address", lambda version, count: HELD[version] + (count - 1))
BARE = Traffic(
    "bare",
    Site.bare,
    (("forwarded", lambda version, _: BEHIND[version]), _ITS_OWN, _HELD_ONE),
)
TCP = Traffic("TCP", Site.tcp, (_ITS_OWN, _HELD_ONE))


def put_in_force(fence: Fence, held: Sequence[Address]) -> None:
    fence.make(held, ())
    for left in reversed(range(MOST_TRIES)):
        try:
            fence.admit(held, boottime() + LIFE_S)
            return
        except TooLate:  # other programs have the processor
            if not left:
                raise


def measure(pairs: int) -> dict[str, Pairs]:
    """What comes through in a second of processor time, for each kind of traffic."""
    found: dict[str, Pairs] = defaultdict(list)
    processor = Processor()
    for count in COUNTS:
        print(f"{count} addresses of IPv4 and {count} of IPv6 held ...", flush=True)
        with ExitStack() as stack:
            site = Site(stack)
            held = site.hold(count)
            fence = Fence(site.ruleset, TABLE)
            for traffic in (BARE, TCP):
                for where, target in traffic.targets:
                    for version in (4, 6):
                        name = f"{traffic.name}, IPv{version}, {where}, {count} held"
                        address = target(version, count)

                        def a_second() -> float:
                            before_s = processor.used_s()
                            came = traffic.how(site, address)  # noqa: B023
                            return came / (processor.used_s() - before_s)

                        a_second()
                        for _ in range(pairs):
                            without = a_second()
                            put_in_force(fence, held)
                            found[name].append((without, a_second()))
                            fence.unmake()
    return found


def report(found: dict[str, Pairs]) -> bool:
    """Prints the table. Returns whether all medians are within their bounds."""
    width = max(map(len, found))
    print(
        f"\n{'a second of processor time':{width}}  {'without':>11}  {'with':>11}"
        "  ratio   least    most   bound"
    )
    is_good = True
    for name, pairs in found.items():
        ratios = [with_it / without for without, with_it in pairs]
        median = statistics.median(ratios)
        is_tcp = name.startswith(TCP.name)
        is_met = not is_tcp or median >= AT_LEAST
        is_good = is_good and is_met
        unit, scale = ("MB", 1e6) if is_tcp else ("k", 1e3)
        shown = [
            f"{statistics.median(each) / scale:.0f} {unit}" for each in zip(*pairs, strict=True)
        ]
        print(
            f"{name:{width}}  {shown[0]:>11}  {shown[1]:>11}  {median:.3f}"
            f"  {min(ratios):6.3f}  {max(ratios):6.3f}  {f'{AT_LEAST:g}' if is_tcp else '':>6}"
            + ("" if is_met else "  MISSED")
        )
    return is_good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write all values to this file, too")
    options = parser.parse_args()
    for line in machine():
        print(line)
    found = measure(options.pairs)
    is_good = report(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2))
    return 0 if is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench: {error}")
