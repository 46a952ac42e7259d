"""Addresses on interfaces, over netlink. The only file that changes the network.

Every address is put there with a finite lifetime, which is read back. No preferred lifetime: that
keeps the host from choosing the address as a source, and, with the finite lifetime, tells an
address that the helper put there from every other, also after a restart.

pyroute2 writes and reads the messages; they go through a socket of our own. Its ready-made calls
take three times as long, one message each, and in Debian 12's version 0.7.2 they make an address
permanent when only asked for a lifetime.
"""

import errno
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from math import floor
from pathlib import Path
from typing import Any

from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
)
from pyroute2.netlink.rtnl import RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

from yaim_helper.protocol import Address

GRACE_S = 0.2
"""How long after its deadline an address may still be there (helper/PROTOCOL.md)."""
ACT_WITHIN_S = GRACE_S / 2
"""The part of the grace that is kept for the time from reading the clock to the effect."""
EARLY_S = 0.02
"""How much before its lifetime's end the kernel may remove an address
(ADDRCONF_TIMER_FUZZ_MINUS)."""
MAX_TOGETHER = 64
"""Addresses set together: the acknowledgements fit into a socket's buffer, and it is done within
a small part of ACT_WITHIN_S."""

_FOREVER = 0xFFFFFFFF
_IFA_F_NODAD = 0x02
_SIOCGIFFLAGS, _SIOCGIFHWADDR = 0x8913, 0x8927
_IFF_UP, _IFF_LOOPBACK, _IFF_NOARP = 0x1, 0x8, 0x80
_ARPHRD_ETHER = 1
_CONF = Path("/proc/sys/net/ipv4/conf")


class KernelError(Exception):
    """The kernel refused, or did something else than it was asked."""

    def __init__(self, errno: int | None, reason: str) -> None:
        super().__init__(reason)
        self.errno = errno
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    index: int
    mac: bytes
    is_up: bool
    has_neighbours: bool
    """Whether it is an Ethernet on which ARP and neighbour discovery are spoken."""


@dataclass(frozen=True, slots=True)
class Found:
    """An address as it is on this host; the same one may be in several places."""

    address: Address
    index: int
    prefix: int
    valid_s: int | None
    """None: forever."""
    preferred_s: int | None
    created: int
    """When it was put there: hundredths of a second since the boot."""

    @property
    def is_left_over(self) -> bool:
        """Whether it looks like one that the helper put there."""
        return self.valid_s is not None and self.preferred_s == 0


def lateness_s(life_s: float) -> float:
    """By how much the kernel may be late in removing an address, besides 1/8 of its lifetime;
    more generous where the deadline was farther away when it was handed over."""
    return min(max(0.4 * life_s, 1.4), 2.5)


def lifetime_s(left_s: float, life_s: float) -> int:
    """The largest lifetime after which the kernel has surely removed the address when the deadline
    and the grace have passed; 0: there is none. Seconds to the deadline, now and when it was
    handed over. The reasons are in helper/PROTOCOL.md."""
    return max(0, floor((left_s + GRACE_S - ACT_WITHIN_S - lateness_s(life_s)) / 1.125))


def last_extension_s(life_s: float) -> float:
    """The seconds to the deadline at which a lifetime of 1 s can be given for the last time."""
    return 1.125 + lateness_s(life_s) - GRACE_S + ACT_WITHIN_S


@contextmanager
def act_within(limit_s: float) -> Iterator[None]:
    """Act before `limit_s` has passed, or never: the kernel ends this process then.

    Even if the process is stopped inside and continued much later: SIGALRM, pending meanwhile, ends
    it before it runs on (signal(7): the default action). What is done depends on the time? Then
    read the clock inside.
    """
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@dataclass(frozen=True, slots=True)
class Assignment:
    """An address as it is to be on an interface."""

    interface: Interface
    address: Address
    prefix: int
    label: str
    """Of an IPv4 address, behind the interface's name; may be empty."""
    lifetime_s: int


class Kernel:
    """The network namespace that this process is in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def interface(self, name: str) -> Interface:
        """Raises KernelError if there is none."""
        try:
            index = socket.if_nametoindex(name)
            (flags,) = struct.unpack_from("H", self._ask_about(name, _SIOCGIFFLAGS))
            hardware, mac = struct.unpack_from("H6s", self._ask_about(name, _SIOCGIFHWADDR))
        except OSError as error:
            raise KernelError(error.errno, f"there is no interface {name}") from error
        return Interface(
            name,
            index,
            mac,
            is_up=bool(flags & _IFF_UP),
            has_neighbours=hardware == _ARPHRD_ETHER and not flags & (_IFF_LOOPBACK | _IFF_NOARP),
        )

    def mac_addresses(self) -> set[bytes]:
        """Of all interfaces."""
        found = set()
        for _, name in socket.if_nameindex():
            try:
                found.add(self.interface(name).mac)
            except KernelError:
                # It went away meanwhile.
                continue
        return found

    def _ask_about(self, name: str, request: int) -> bytes:
        """What netdevice(7) answers, without the name."""
        return fcntl.ioctl(self._socket, request, struct.pack("16s24x", os.fsencode(name)))[16:]

    def promotes_secondaries(self, name: str) -> bool:
        """Whether an IPv4 address that is removed leaves the others of its network there (sysctl
        promote_secondaries, for all interfaces or this one)."""
        for each in ("all", name):
            try:
                if int((_CONF / each / "promote_secondaries").read_text()):
                    return True
            except (OSError, ValueError):
                continue
        return False

    def addresses(self) -> list[Found]:
        """All addresses of this host."""
        while True:
            found = []
            is_whole = True
            for message in self._dump():
                is_whole = is_whole and not message["header"]["flags"] & NLM_F_DUMP_INTR
                address = ip_address(
                    message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                )
                lifetimes = message.get_attr("IFA_CACHEINFO") or {}
                found.append(
                    Found(
                        address,
                        message["index"],
                        message["prefixlen"],
                        _finite(lifetimes.get("ifa_valid", _FOREVER)),
                        _finite(lifetimes.get("ifa_preferred", _FOREVER)),
                        lifetimes.get("cstamp", 0),
                    )
                )
            if is_whole:
                return found

    def put(self, assignments: Sequence[Assignment]) -> dict[Address, KernelError]:
        """Add the addresses, MAX_TOGETHER at most, or set the lifetimes of those that are there;
        what went wrong. Not yet read back."""
        errors = self._request([self._new_address(each) for each in assignments])
        return {
            each.address: KernelError(error, os.strerror(error))
            for each, error in zip(assignments, errors, strict=True)
            if error
        }

    def delete(self, index: int, address: Address, prefix: int) -> bool:
        """Whether it was there. Raises KernelError."""
        message = _about(address, index, prefix)
        message["header"] = self._header(RTM_DELADDR, NLM_F_ACK)
        (error,) = self._request([message])
        if error in _ABSENT:
            return False
        if error:
            raise KernelError(error, os.strerror(error))
        return True

    def _new_address(self, assignment: Assignment) -> Any:
        message = _about(assignment.address, assignment.interface.index, assignment.prefix)
        message["header"] = self._header(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
        lifetime = {
            "ifa_preferred": 0,
            "ifa_valid": assignment.lifetime_s,
            "cstamp": 0,
            "tstamp": 0,
        }
        message["attrs"].append(("IFA_CACHEINFO", lifetime))
        if assignment.address.version == 6:
            message["flags"] = _IFA_F_NODAD
        elif assignment.label:
            label = f"{assignment.interface.name}:{assignment.label}"
            message["attrs"].append(("IFA_LABEL", label))
        return message

    def _header(self, kind: int, flags: int) -> dict[str, int]:
        self._sequence += 1
        return {
            "type": kind,
            "flags": flags | NLM_F_REQUEST,
            "sequence_number": self._sequence,
            "pid": 0,
            "length": 0,
        }

    def _request(self, messages: Sequence[Any]) -> list[int]:
        """Send the messages together; for each its error number, 0 for none."""
        if not messages:
            return []
        for message in messages:
            message.encode()
        self._socket.send(b"".join(bytes(message.data) for message in messages))
        errors: dict[int, int] = {}
        while len(errors) < len(messages):
            for kind, sequence, body in self._receive():
                if kind == NLMSG_ERROR:
                    errors[sequence] = -struct.unpack_from("=i", body, 16)[0]
        return [errors[message["header"]["sequence_number"]] for message in messages]

    def _dump(self) -> Iterator[Any]:
        request = ifaddrmsg()
        request["header"] = self._header(RTM_GETADDR, NLM_F_DUMP)
        request.encode()
        self._socket.send(request.data)
        while True:
            for kind, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", body, 16)[0]
                    raise KernelError(number, os.strerror(number))
                message = ifaddrmsg(body)
                message.decode()
                yield message

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        """The messages of one datagram: type, sequence number, all its bytes (netlink(7))."""
        data = self._socket.recv(1 << 18)
        while len(data) >= 16:
            length, kind, _, sequence = struct.unpack_from("=IHHI", data)
            yield kind, sequence, data[:length]
            data = data[(length + 3) & ~3 :]


_ABSENT = (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO)
"""No such address; no such interface, so no such address either."""


def _about(address: Address, index: int, prefix: int) -> Any:
    message = ifaddrmsg()
    message["family"] = socket.AF_INET if address.version == 4 else socket.AF_INET6
    message["prefixlen"] = prefix
    message["index"] = index
    message["attrs"] = [("IFA_LOCAL", str(address)), ("IFA_ADDRESS", str(address))]
    return message


def _finite(seconds: int) -> int | None:
    return None if seconds == _FOREVER else seconds
