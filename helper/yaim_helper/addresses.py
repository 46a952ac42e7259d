"""Addresses on interfaces, over netlink. The only file that changes the network.

Every address is put there with a finite lifetime, which is read back. No preferred lifetime: that
keeps the host from choosing the address as a source, and, with the finite lifetime, tells an
address that the helper put there from every other, also after a restart.
"""

import errno
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import floor
from pathlib import Path

from yaim_helper.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REPLACE,
    NLMSG_ERROR,
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_NEWADDR,
    Found,
    MalformedMessage,
    Message,
    all_addresses,
    error_number,
    found,
    message,
    messages,
    new_address,
    old_address,
)
from yaim_helper.protocol import Address

GRACE_S = 0.2
"""How long after its deadline an address may still be there (helper/PROTOCOL.md)."""
ACT_WITHIN_S = GRACE_S / 2
"""The part of the grace that is kept for the time from reading the clock to the effect."""
EARLY_S = 0.02
"""How much before its lifetime's end the kernel may remove an address
(ADDRCONF_TIMER_FUZZ_MINUS)."""
MAX_TOGETHER = 16
"""Addresses set together: done within a small part of ACT_WITHIN_S. For each IPv6 address the
kernel goes through all multicast groups of its interface (ipv6_find_idev), and each address has a
group: among 1000 one takes 0.4 ms."""

_RECEIVE_BYTES = 1 << 16
"""Twice as many as the kernel puts into one datagram (netlink_dump in net/netlink/af_netlink.c)."""
_MAX_NAME_BYTES = 15
_SIOCGIFFLAGS, _SIOCGIFHWADDR, _SIOCGIFINDEX = 0x8913, 0x8927, 0x8933
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

    def body(self) -> bytes:
        """Of the request to the kernel."""
        is_labelled = self.label and self.address.version == 4
        label = f"{self.interface.name}:{self.label}" if is_labelled else ""
        return new_address(self.address, self.prefix, self.interface.index, label, self.lifetime_s)


class Kernel:
    """The network namespace that this process is in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def interface(self, name: str) -> Interface:
        """Raises KernelError if there is none."""
        try:
            (index,) = struct.unpack_from("i", self._ask_about(name, _SIOCGIFINDEX))
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
        macs = set()
        for _, name in socket.if_nameindex():
            # Should it have gone meanwhile: so much the better.
            with suppress(KernelError):
                macs.add(self.interface(name).mac)
        return macs

    def _ask_about(self, name: str, request: int) -> bytes:
        """What netdevice(7) answers, without the name. Raises OSError."""
        it = os.fsencode(name)
        if len(it) > _MAX_NAME_BYTES:
            # The kernel would take its beginning for the name.
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return fcntl.ioctl(self._socket, request, struct.pack("16s24x", it))[16:]

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

    def addresses(self, wanted: Iterable[Address] | None = None) -> list[Found]:
        """All addresses of this host, or, of those that look like the helper's, only these. Raises
        KernelError."""
        packed = {each.packed for each in wanted} if wanted is not None else None
        while (places := self._dump(packed)) is None:
            continue
        return places

    def put(self, assignments: Sequence[Assignment]) -> dict[Address, KernelError]:
        """Add the addresses, MAX_TOGETHER at most, or set the lifetimes of those that are there;
        what went wrong. Not yet read back."""
        bodies = [each.body() for each in assignments]
        errors = self._request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, bodies)
        return {
            each.address: _error(number)
            for each, number in zip(assignments, errors, strict=True)
            if number
        }

    def delete(self, index: int, address: Address, prefix: int) -> bool:
        """Whether it was there. Raises KernelError."""
        (number,) = self._request(RTM_DELADDR, 0, [old_address(address, prefix, index)])
        if number and number not in _ABSENT:
            raise _error(number)
        return not number

    def _request(self, kind: int, flags: int, bodies: Sequence[bytes]) -> list[int]:
        """Send them together; for each its error number, 0 for none.

        The kernel has done them all, in order, when it has acknowledged the last; of the others
        it tells only the errors.
        """
        if not bodies:
            return []
        first = self._sequence + 1
        self._sequence += len(bodies)
        last = self._sequence
        packets = [message(kind, flags, first + n, body) for n, body in enumerate(bodies[:-1])]
        packets.append(message(kind, flags | NLM_F_ACK, last, bodies[-1]))
        errors = [0] * len(bodies)
        with _understood():
            self._socket.send(b"".join(packets))
            while True:
                for answer in self._receive():
                    if answer.kind == NLMSG_ERROR and first <= answer.sequence <= last:
                        errors[answer.sequence - first] = error_number(answer.body)
                    if answer.sequence == last:
                        return errors

    def _dump(self, wanted: Container[bytes] | None) -> list[Found] | None:
        """None: they changed meanwhile, and some may be missing."""
        self._sequence += 1
        places = []
        is_whole = True
        with _understood():
            self._socket.send(message(RTM_GETADDR, NLM_F_DUMP, self._sequence, all_addresses()))
            while True:
                for answer in self._receive():
                    if answer.sequence != self._sequence:
                        continue
                    is_whole = is_whole and not answer.flags & NLM_F_DUMP_INTR
                    if answer.kind == RTM_NEWADDR:
                        places.append(found(answer.body, wanted))
                    elif number := error_number(answer.body):
                        raise _error(number)
                    else:
                        return [each for each in places if each is not None] if is_whole else None

    def _receive(self) -> list[Message]:
        """What is in one datagram."""
        return list(messages(self._socket.recv(_RECEIVE_BYTES)))


_ABSENT = (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO)
"""No such address; no such interface, so no such address either."""


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except MalformedMessage as error:
        raise KernelError(None, f"cannot make sense of what the kernel says: {error}") from error
    except OSError as error:
        raise KernelError(error.errno, str(error.strerror)) from error


def _error(number: int) -> KernelError:
    return KernelError(number, os.strerror(number))
