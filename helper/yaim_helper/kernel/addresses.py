"""Addresses on interfaces, over netlink. The only file that changes the network.

Every address is put there with a finite lifetime, which is read back. No preferred lifetime: that
keeps the host from choosing the address as a source.

What the kernel takes for the same address (seen on Linux 6.18): of IPv4 the one on the same
interface with the same prefix length, of IPv6 the one on the same interface, whatever its prefix
length, which then stays as it was. So who sets a lifetime has to have looked whose address that
is. Who puts a new one there need not: the kernel refuses if there is one.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from yaim_helper.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLMSG_ERROR,
    RTM_DELADDR,
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWROUTE,
    Found,
    MalformedMessage,
    Message,
    all_addresses,
    error_number,
    found,
    local_route,
    message,
    messages,
    new_address,
    old_address,
    route_to,
    source_of,
)
from yaim_helper.protocol import Address

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
_CONF_6 = Path("/proc/sys/net/ipv6/conf")


class KernelError(Exception):
    """The kernel refused, or did something else than it was asked."""

    def __init__(self, errno: int | None, reason: str) -> None:
        super().__init__(reason)
        self.errno = errno
        self.reason = reason


class UnansweredError(KernelError):
    """A change was asked for, and it is not known whether it was made."""


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    index: int
    mac: bytes
    is_up: bool
    has_neighbours: bool
    """Whether it is an Ethernet on which ARP and neighbour discovery are spoken."""

    def makes(self, address: Address) -> bool:
        """Whether a router's prefix has the kernel make that address of the MAC address (RFC 4291
        appendix A). If it is there already, the kernel sets its lifetime as the router says: so can
        anybody on the link (addrconf_prefix_rcv_add_addr in Linux)."""
        if address.version == 4 or not self.has_neighbours:
            return False
        universal = bytes((self.mac[0] ^ 2,))
        return address.packed[8:] == universal + self.mac[1:3] + b"\xff\xfe" + self.mac[3:]


@dataclass(frozen=True, slots=True)
class Assignment:
    """An address as it is to be on an interface."""

    interface: Interface
    address: Address
    prefix: int
    label: str
    """It stands behind the interface's name; only IPv4 addresses have one, and it may be empty."""
    lifetime_s: int
    is_there: bool = False
    """Whether it is to be there: then its lifetime is set. Else it is put there, or refused by the
    kernel because of another one that is there."""

    @property
    def flags(self) -> int:
        return NLM_F_CREATE | (NLM_F_REPLACE if self.is_there else NLM_F_EXCL)

    def body(self) -> bytes:
        """Returns the body of the request to the kernel."""
        is_labelled = self.label and self.address.version == 4
        label = f"{self.interface.name}:{self.label}" if is_labelled else ""
        return new_address(self.address, self.prefix, self.interface.index, label, self.lifetime_s)


class Kernel:
    """The addresses and interfaces of the network namespace that this process is in."""

    def __init__(self, asking: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """`asking`: while addresses are looked at or changed, which the kernel's routing lock may
        hold up."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._asking = asking
        self._sequence = 0

    def interface(self, name: str) -> Interface:
        """Returns the interface of that name. Raises KernelError if there is none."""
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

    def name(self, index: int) -> str:
        """Returns the name of an interface; its number if it has just gone."""
        try:
            return socket.if_indextoname(index)
        except OSError:
            return str(index)

    def _ask_about(self, name: str, request: int) -> bytes:
        """Returns what netdevice(7) answers, without the name. Raises OSError."""
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
        """Returns all addresses of this host; if some are wanted, no other single addresses that
        look like the helper's. Raises KernelError."""
        packed = {each.packed for each in wanted} if wanted is not None else None
        while (places := self._dump(packed)) is None:
            continue
        return places

    def put(self, assignments: Sequence[Assignment]) -> dict[Address, KernelError]:
        """Adds the addresses, MAX_TOGETHER at most, or sets the lifetimes of those that are there,
        and returns what went wrong. Nothing is read back yet."""
        errors = self._request(RTM_NEWADDR, [(each.flags, each.body()) for each in assignments])
        return {
            each.address: self._why(number, each)
            for each, number in zip(assignments, errors, strict=True)
            if number
        }

    def _why(self, number: int, assignment: Assignment) -> KernelError:
        name = assignment.interface.name
        if assignment.address.version == 6 and self._has_no_ipv6(name):
            sysctl = f"sysctl net.ipv6.conf.{name}.disable_ipv6"
            return KernelError(number, f"IPv6 is switched off on {name} ({sysctl})")
        return _error(number)

    def _has_no_ipv6(self, name: str) -> bool:
        try:
            return int((_CONF_6 / name / "disable_ipv6").read_text()) != 0
        except (OSError, ValueError):
            return False

    def delete(self, index: int, address: Address, prefix: int) -> bool:
        """Removes an address, and returns whether it was there. Raises KernelError."""
        (number,) = self._request(RTM_DELADDR, [(0, old_address(address, prefix, index))])
        if number and number not in _ABSENT:
            raise _error(number)
        return not number

    def local_source(self, index: int, address: IPv4Address) -> IPv4Address | None:
        """Returns the preferred source of the route that brings what comes to this address on that
        interface to the host: of a secondary it is the primary. None: there is no such route, or
        the interface is down. Raises KernelError."""
        self._sequence += 1
        with understood(), self._asking():
            self._socket.send(message(RTM_GETROUTE, 0, self._sequence, route_to(address, index)))
            while True:
                for answer in self._receive():
                    if answer.sequence == self._sequence:
                        return source_of(answer.body) if answer.kind == RTM_NEWROUTE else None

    def withdraw_route(self, index: int, address: IPv4Address) -> IPv4Address | None:
        """Nothing that comes to this address on that interface reaches the host any more, but what
        is sent from it goes. Returns the source of the route that was there, to restore it. None:
        there is none in table `local`; on a VRF it is in the VRF's. Raises KernelError."""
        source = self.local_source(index, address)
        if source is None:
            return None
        (number,) = self._request(RTM_DELROUTE, [(0, local_route(address, index))])
        if number == errno.ESRCH:
            return None
        if number:
            raise _error(number)
        return source

    def restore_route(self, index: int, address: IPv4Address, source: IPv4Address) -> None:
        """Puts back the route that was withdrawn; nothing if there is one. Raises KernelError, also
        if the address is not there any more: the kernel would keep the route, and answer for an
        address that others have."""
        body = local_route(address, index, source)
        (number,) = self._request(RTM_NEWROUTE, [(NLM_F_CREATE | NLM_F_EXCL, body)])
        if number == errno.EEXIST:
            return
        if number:
            raise _error(number)
        # From now on the route goes with the address.
        places = self.addresses([address])
        if not any((each.index, each.address) == (index, address) for each in places):
            self._request(RTM_DELROUTE, [(0, body)])
            raise _error(errno.EADDRNOTAVAIL)

    def _request(self, kind: int, requests: Sequence[tuple[int, bytes]]) -> list[int]:
        """Sends requests, flags and body of each, and then reads all answers. Returns the error
        number of each, 0 for none.

        The kernel has done them all, in order, when it has acknowledged the last; of the others
        it tells only the errors. Each is a system call of its own: should the kernel's routing lock
        be held, then one waits for it, and the alarm (act_within) ends this process behind it. Of
        several in one the others would be done as well, however late, each after another wait.
        """
        if not requests:
            return []
        first = self._sequence + 1
        self._sequence += len(requests)
        last = self._sequence
        packets = [
            message(kind, flags if number < last else flags | NLM_F_ACK, number, body)
            for number, (flags, body) in enumerate(requests, start=first)
        ]
        errors = [0] * len(requests)
        with understood(fault=UnansweredError), self._asking():
            for packet in packets:
                self._socket.send(packet)
            while True:
                for answer in self._receive():
                    if answer.kind == NLMSG_ERROR and first <= answer.sequence <= last:
                        errors[answer.sequence - first] = error_number(answer.body)
                    if answer.sequence == last:
                        return errors

    def _dump(self, wanted: Container[bytes] | None) -> list[Found] | None:
        """Returns the addresses that the kernel lists. None: they changed meanwhile, and some may
        be missing."""
        self._sequence += 1
        places = []
        is_whole = True
        with understood(), self._asking():
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
        """Returns the messages of one datagram."""
        return list(messages(self._socket.recv(_RECEIVE_BYTES)))


_ABSENT = (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO)
"""No such address; no such interface, so no such address either."""


@contextmanager
def understood(whom: str = "", fault: type[KernelError] = KernelError) -> Iterator[None]:
    """Raises what goes wrong with the kernel as a KernelError. `whom`: the part of the kernel that
    is asked, if it is not the one for addresses."""
    try:
        yield
    except MalformedMessage as error:
        what = whom or "what the kernel says"
        raise fault(None, f"cannot make sense of {what}: {error}") from error
    except OSError as error:
        told = str(error.strerror)
        raise fault(error.errno, f"{whom}: {told}" if whom else told) from error


def _error(number: int) -> KernelError:
    return KernelError(number, os.strerror(number))
