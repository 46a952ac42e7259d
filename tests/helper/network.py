"""A network to try the helper in, and what the kernel, not the helper, says about it."""

import json
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from yaim.lab.namespaces import DIES_WITH_US, Namespace
from yaim.lab.wait import wait_until

Address: TypeAlias = IPv4Address | IPv6Address

INTERFACE, PEER = "veth0", "peer0"
MAC = "02:00:00:00:00:01"
_RTM_NEWADDR, _RTM_DELADDR = 20, 21
_GROUPS = 0x10 | 0x100
"""RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR (rtnetlink(7))"""
_IFA_ADDRESS = 1
_SO_RCVBUFFORCE = 33
_ETH_P_ALL = 0x0003
_MARK = b"\x02" * 6 + b"\x88\xb5"
"""The sender, and the EtherType, of these frames only."""

T = TypeVar("T")


class HasFileno(Protocol):
    def fileno(self) -> int: ...


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def is_readable(source: HasFileno, within_s: float = 0.0) -> bool:
    """Whether there is something to read, or there is in time. select(2) would do for the first
    1024 descriptors of a process only."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def wait_for(condition: Callable[[], T], what: str, within_s: float = 20.0) -> T:
    """What the condition gives as soon as that is true."""
    until = boottime() + within_s
    while not (result := condition()):
        if boottime() > until:
            raise AssertionError(f"waited {within_s} s in vain: {what}")
        time.sleep(0.005)
    return result


def add_many_links(namespace: Namespace, pairs: int, state: str = "down") -> None:
    """veth pairs. The end of a namespace with 60 bridges would hold up the kernel's routing lock,
    and thereby all other tests, for a second; with these it is some milliseconds."""
    namespace.run(
        *("sh", "-ec"),
        f"for n in $(seq {pairs}); do\n"
        "    ip link add many$n type veth peer name other$n\n"
        f"    ip link set many$n {state}; ip link set other$n {state}\n"
        "done",
    )


@contextmanager
def new_network() -> Iterator[Namespace]:
    """A network namespace with both ends of a veth pair, up, without addresses."""
    namespace = Namespace.new()
    try:
        namespace.run(
            "sh",
            "-ec",
            f"ip link add {INTERFACE} address {MAC} type veth peer name {PEER}\n"
            f"for each in {INTERFACE} {PEER}; do\n"
            "    ip link set $each addrgenmode none; ip link set $each up\n"
            "done",
        )
        wait_for(lambda: _is_up(namespace), "both ends are up")
        # The kernel does this when it has told everybody that they are.
        namespace.run("ip", "link", "set", INTERFACE, "up")
        yield namespace
    finally:
        namespace.close()


def _is_up(namespace: Namespace) -> bool:
    """The kernel finds a moment later that there is a carrier, and tells of it then."""
    links = json.loads(namespace.run("ip", "-json", "link", "show"))
    states = {each["ifname"]: each["operstate"] for each in links}
    return {states[INTERFACE], states[PEER]} == {"UP"}


def shown(namespace: Namespace) -> list[dict[str, Any]]:
    """What `ip address` shows, but for 127.0.0.1 and ::1."""
    return [
        {"interface": link["ifname"], **each}
        for link in json.loads(namespace.run("ip", "-json", "address", "show"))
        for each in link["addr_info"]
        if each["local"] not in ("127.0.0.1", "::1")
    ]


def present(namespace: Namespace) -> list[str]:
    """The addresses, as in "veth0 192.0.2.10/32"."""
    return sorted(f"{a['interface']} {a['local']}/{a['prefixlen']}" for a in shown(namespace))


@dataclass(frozen=True, slots=True)
class Change:
    what: str
    """"added" (also: its lifetime set anew) or "removed"."""
    address: Address


@dataclass(slots=True)
class Watch:
    """All changes of the addresses of a network namespace since it was made, in order.

    The kernel queues them: reading them late loses nothing, and never makes a removal seem late
    that was not.
    """

    socket: socket.socket
    _changes: list[Change] = field(default_factory=list)

    def changes(self) -> list[Change]:
        self._read()
        return list(self._changes)

    def present(self) -> set[Address]:
        """Returns those of the addresses added since that are there."""
        there = set()
        for change in self.changes():
            if change.what == "added":
                there.add(change.address)
            else:
                there.discard(change.address)
        return there

    def wait_until_added(self, addresses: set[Address]) -> None:
        """The kernel tells of a new IPv6 address a little later. They may be gone again by then."""

        def are_added() -> bool:
            return {each.address for each in self.changes() if each.what == "added"} >= addresses

        wait_for(are_added, f"{addresses} were added")

    def still_there(self, addresses: set[Address], at: float) -> set[Address]:
        """Those that are not gone at this time (of CLOCK_BOOTTIME); waits for it no longer than
        until all are gone."""
        while self.present() & addresses and (wait_s := at - boottime()) > 0:
            is_readable(self.socket, wait_s)
        return self.present() & addresses

    def _read(self) -> None:
        """netlink(7), rtnetlink(7): nlmsghdr, ifaddrmsg, attributes."""
        while True:
            try:
                messages = self.socket.recv(1 << 18)
            except BlockingIOError:
                return
            while len(messages) >= 16:
                length, kind = struct.unpack_from("=IH", messages)
                if kind in (_RTM_NEWADDR, _RTM_DELADDR):
                    what = "added" if kind == _RTM_NEWADDR else "removed"
                    self._changes.append(Change(what, _address_of(messages[16:length])))
                messages = messages[(length + 3) & ~3 :]


def _address_of(body: bytes) -> Address:
    at = 8
    while at + 4 <= len(body):
        size, attribute = struct.unpack_from("=HH", body, at)
        if attribute == _IFA_ADDRESS:
            return ip_address(body[at + 4 : at + size])
        at += (size + 3) & ~3
    raise AssertionError("an address message without an address")


@contextmanager
def watching(namespace: Namespace) -> Iterator[Watch]:
    with namespace.entered():
        watch = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with watch:
        watch.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        watch.bind((0, _GROUPS))
        watch.setblocking(False)
        yield Watch(watch)


class Capture:
    """The Ethernet frames that arrive at the peer."""

    def __init__(self, packets: socket.socket, injector: socket.socket) -> None:
        self._packets = packets
        self._injector = injector
        self._marks = 0
        self._found: list[bytes] = []
        """Not given back yet."""

    def frames(self) -> list[bytes]:
        """All that were sent since the last call; waits for nothing: a frame of our own, sent
        behind them, tells when that was all."""
        self._marks += 1
        mark = b"\xff" * 6 + _MARK + struct.pack("!I", self._marks) + bytes(46)
        self._injector.send(mark)
        while (frame := self._packets.recv(2048)) != mark:
            # One that nobody waited for may come later.
            if frame[6:14] != _MARK:
                self._found.append(frame)
        found, self._found = self._found, []
        return found

    def wait_until_open(self) -> None:
        """Waits until frames arrive; none that have arrived is lost. A busy kernel may take a
        second to let them through a link that has just come up."""
        # That it was down is told once.
        self._packets.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._packets.settimeout(0.1)
        wait_until(self._is_open, 30.0, "the link to let frames through")
        self._packets.settimeout(20)

    def _is_open(self) -> bool:
        try:
            self._found = self.frames()
        except TimeoutError:
            return False
        return True

    def announced(self) -> list[tuple[Address, str]]:
        """The addresses that were announced since the last call, and at which MAC address; an IPv4
        address twice each time, by a request and a reply."""
        found: list[tuple[Address, str]] = []
        for frame in self.frames():
            if frame[12:14] == b"\x08\x06":
                found.append((ip_address(frame[28:32]), frame[22:28].hex(":")))
            elif frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 136:
                found.append((ip_address(frame[62:78]), frame[80:86].hex(":")))
        return found


@contextmanager
def capturing(namespace: Namespace) -> Iterator[Capture]:
    with namespace.entered():
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        injector = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        with packets, injector:
            packets.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
            packets.bind((PEER, _ETH_P_ALL))
            injector.bind((INTERFACE, 0))
            capture = Capture(packets, injector)
            capture.wait_until_open()
            capture.frames()
            yield capture


@contextmanager
def small_disk(directory: Path, limits: str = "size=64k") -> Iterator[Path]:
    """A file system of 64 KiB at a directory; seen through the path that is given back only."""
    mount = f'mount -t tmpfs -o {limits},mode=755 tmpfs "$0"; echo; exec cat'
    with subprocess.Popen(
        (*DIES_WITH_US, "unshare", "--mount", "sh", "-ec", mount, str(directory)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        try:
            if holder.stdout is None or holder.stdout.read(1) != b"\n":
                raise AssertionError("cannot mount a tmpfs")
            yield Path(f"/proc/{holder.pid}/root{directory}")
        finally:
            holder.kill()


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """The file system has not a byte left."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass
        yield
    finally:
        filler.unlink()


def state(pid: int) -> str:
    """One letter (proc_pid_stat(5)); Z also if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
