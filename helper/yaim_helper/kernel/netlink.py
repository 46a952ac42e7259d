"""The kernel's messages about addresses, to bytes and from bytes: netlink(7), rtnetlink(7),
include/uapi/linux/if_addr.h.

No length that is read is believed: it is held against the bytes that there are. Does no I/O.
"""

import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, AF_UNSPEC
from typing import NamedTuple, TypeAlias

from yaim_helper.protocol import Address

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x2, 0x4, 0x10
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_DUMP, NLM_F_CREATE = 0x100, 0x200, 0x300, 0x400

_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port."""
_ABOUT = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, index of the interface."""
_ATTRIBUTE = struct.Struct("=HH")
"""struct rtattr: length, with these four bytes and without padding; type."""
_LIFETIMES = struct.Struct("=IIII")
"""struct ifa_cacheinfo: preferred and valid, in seconds; created and updated, in hundredths."""
_ERROR = struct.Struct("=i")
_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, prefix lengths of destination and source, type of service, table, protocol,
scope, type, flags."""
_RTA_DST, _RTA_OIF, _RTA_PREFSRC = 1, 4, 7
_RT_TABLE_LOCAL, _RTPROT_KERNEL, _RT_SCOPE_HOST, _RTN_LOCAL = 255, 2, 254, 2
_RTM_F_FIB_MATCH = 0x2000
"""The route itself is told, and not what comes of it."""
_LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, changed flags."""
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_EVENT = 1, 3, 44
_ELSEWHERE = frozenset(struct.pack("=I", event) for event in (3, 4))
"""IFLA_EVENT_BONDING_FAILOVER and IFLA_EVENT_NOTIFY_PEERS (include/uapi/linux/if_link.h)."""
_USABLE = 0x1 | 0x10000
"""IFF_UP and IFF_LOWER_UP: with a carrier (netdevice(7))."""
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_CACHEINFO = 1, 2, 3, 6
_IFA_F_NODAD = 0x02
_FOREVER = 0xFFFFFFFF
_FAMILIES: dict[int, tuple[int, type[IPv4Address] | type[IPv6Address]]] = {
    AF_INET: (4, IPv4Address),
    AF_INET6: (16, IPv6Address),
}
"""How many bytes an address has, and what it becomes."""


class MalformedMessage(ValueError):
    """The kernel should never send that."""


class Message(NamedTuple):
    kind: int
    flags: int
    sequence: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """An address as it is on this host; the same one may be in several places."""

    address: Address
    index: int
    """The index of the interface."""
    prefix: int
    valid_s: int | None
    """Seconds; None: for ever."""
    preferred_s: int | None
    created: int
    """When it was put there: hundredths of a second since the boot."""

    @property
    def is_like_ours(self) -> bool:
        """Whether it has lifetimes as the helper gives them. Others give such, too: a router that
        withdraws its prefix, say. Whose it is the record tells."""
        return self.valid_s is not None and self.preferred_s == 0

    @property
    def identity(self) -> "Identity":
        """Stays the same as long as the address is there; whoever puts it there anew gives it
        another one."""
        return self.address, self.index, self.prefix, self.created


Identity: TypeAlias = tuple[Address, int, int, int]
"""Address, index of the interface, prefix length, and when it was put there."""


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    mac: bytes
    is_usable: bool
    """Up, and with a carrier."""
    is_elsewhere: bool = field(default=False, compare=False)
    """It is reached by another way from now on: a bond failed over, a virtual machine moved."""


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Returns a request. The lengths of all bodies here are multiples of 4."""
    length = _HEADER.size + len(body)
    return _HEADER.pack(length, kind, flags | NLM_F_REQUEST, sequence, 0) + body


def new_address(address: Address, prefix: int, index: int, label: str, valid_s: int) -> bytes:
    """Returns the body of RTM_NEWADDR: the address is never preferred, and IPv6 is not probed for.
    The label, which only IPv4 has, may be empty."""
    flags = _IFA_F_NODAD if address.version == 6 else 0
    body = _about(address, prefix, index, flags)
    body += _attribute(_IFA_CACHEINFO, _LIFETIMES.pack(0, valid_s, 0, 0))
    return body + _attribute(_IFA_LABEL, label.encode() + b"\0") if label else body


def old_address(address: Address, prefix: int, index: int) -> bytes:
    """Returns the body of RTM_DELADDR."""
    return _about(address, prefix, index, 0)


def all_addresses() -> bytes:
    """Returns the body of RTM_GETADDR, to be asked with NLM_F_DUMP."""
    return _ABOUT.pack(AF_UNSPEC, 0, 0, 0, 0)


def all_links() -> bytes:
    """Returns the body of RTM_GETLINK, to be asked with NLM_F_DUMP."""
    return _LINK.pack(AF_UNSPEC, 0, 0, 0, 0)


def local_route(address: IPv4Address, index: int, source: IPv4Address | None = None) -> bytes:
    """Returns the body of RTM_NEWROUTE and RTM_DELROUTE: the route that brings what comes to an
    address on that interface to this host, as the kernel makes it with the address (fib_add_ifaddr
    in net/ipv4/fib_frontend.c). `source`: the preferred one; None, to delete it: whatever it is."""
    about = _ROUTE.pack(
        AF_INET, 32, 0, 0, _RT_TABLE_LOCAL, _RTPROT_KERNEL, _RT_SCOPE_HOST, _RTN_LOCAL, 0
    )
    preferred = _attribute(_RTA_PREFSRC, source.packed) if source is not None else b""
    return about + _to(address, index) + preferred


def route_to(address: IPv4Address, index: int) -> bytes:
    """Returns the body of RTM_GETROUTE: which route what goes to an address over that interface
    has, in the table of its VRF if it has one (inet_rtm_getroute in net/ipv4/route.c)."""
    return _ROUTE.pack(AF_INET, 32, 0, 0, 0, 0, 0, 0, _RTM_F_FIB_MATCH) + _to(address, index)


def _to(address: IPv4Address, index: int) -> bytes:
    device = _attribute(_RTA_OIF, struct.pack("=I", index))
    return _attribute(_RTA_DST, address.packed) + device


def source_of(body: bytes) -> IPv4Address | None:
    """Returns the preferred source of what RTM_NEWROUTE tells. None: it is not the local route of
    an address; the kernel gives each a source. Raises MalformedMessage."""
    if len(body) < _ROUTE.size:
        raise MalformedMessage(f"{len(body)} bytes, too few for a route")
    family, length, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(body)
    if (family, length, kind) != (AF_INET, 32, _RTN_LOCAL):
        return None
    packed = _attributes(body, _ROUTE.size).get(_RTA_PREFSRC)
    if packed is not None and len(packed) != 4:
        raise MalformedMessage(f"an address of {len(packed)} bytes")
    return IPv4Address(packed) if packed is not None else None


def _about(address: Address, prefix: int, index: int, flags: int) -> bytes:
    family = AF_INET if address.version == 4 else AF_INET6
    local = _attribute(_IFA_LOCAL, address.packed)
    peer = _attribute(_IFA_ADDRESS, address.packed)
    return _ABOUT.pack(family, prefix, flags, 0, index) + local + peer


def link(body: bytes) -> Link | None:
    """Returns what RTM_NEWLINK and RTM_DELLINK tell. None: it is about a bridge's port, which comes
    and goes without the link. Raises MalformedMessage."""
    if len(body) < _LINK.size:
        raise MalformedMessage(f"{len(body)} bytes, too few for a link")
    family, _, index, flags, _ = _LINK.unpack_from(body)
    if family != AF_UNSPEC:
        return None
    values = _attributes(body, _LINK.size)
    name = values.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
    return Link(
        index,
        name,
        values.get(_IFLA_ADDRESS, b""),
        is_usable=flags & _USABLE == _USABLE,
        is_elsewhere=values.get(_IFLA_EVENT) in _ELSEWHERE,
    )


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def messages(datagram: bytes) -> Iterator[Message]:
    """Returns the messages in a datagram. Raises MalformedMessage."""
    at = 0
    while at < len(datagram):
        left = len(datagram) - at
        if left < _HEADER.size:
            raise MalformedMessage(f"{left} bytes, too few for a header")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, at)
        if not _HEADER.size <= length <= left:
            raise MalformedMessage(f"a message of {length} bytes in {left}")
        yield Message(kind, flags, sequence, datagram[at + _HEADER.size : at + length])
        at += (length + 3) & ~3


def error_number(body: bytes) -> int:
    """Returns the error that NLMSG_ERROR and NLMSG_DONE tell; 0: none. Raises MalformedMessage."""
    if len(body) < _ERROR.size:
        raise MalformedMessage(f"{len(body)} bytes, too few for an error number")
    (number,) = _ERROR.unpack_from(body)
    return -int(number)


def found(body: bytes, wanted: Container[bytes] | None = None) -> Found | None:
    """Returns what RTM_NEWADDR tells, and for a point-to-point link the address at this end. None:
    it is neither IPv4 nor IPv6, or a single address that looks like the helper's and is none of
    those that are wanted (packed; None: all are). Raises MalformedMessage."""
    if len(body) < _ABOUT.size:
        raise MalformedMessage(f"{len(body)} bytes, too few for an address")
    family, prefix, _, _, index = _ABOUT.unpack_from(body)
    if family not in _FAMILIES:
        return None
    values = _attributes(body, _ABOUT.size)
    packed = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS) or b""
    size, make = _FAMILIES[family]
    lifetimes = values.get(_IFA_CACHEINFO, _NO_LIFETIMES)
    if len(packed) != size or len(lifetimes) < _LIFETIMES.size:
        raise MalformedMessage(f"an address of {len(packed)}, lifetimes of {len(lifetimes)} bytes")
    preferred, valid, created, _ = _LIFETIMES.unpack_from(lifetimes)
    if (
        wanted is not None
        and packed not in wanted
        and not preferred
        and valid != _FOREVER
        and prefix == 8 * size
    ):
        return None
    return Found(make(packed), index, prefix, _finite(valid), _finite(preferred), created)


_NO_LIFETIMES = _LIFETIMES.pack(_FOREVER, _FOREVER, 0, 0)
_READ = (_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFLA_IFNAME, _IFLA_EVENT, _RTA_PREFSRC)
"""The attributes that are read, of addresses, links and routes: what one needs and another has
under the same number is ignored there."""


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    """Returns the attributes that are read here, type to value. Raises MalformedMessage."""
    values = {}
    end = len(body)
    while at < end:
        if end - at < 4:
            raise MalformedMessage(f"{end - at} bytes, too few for an attribute")
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if not 4 <= length <= end - at:
            raise MalformedMessage(f"an attribute of {length} bytes in {end - at}")
        if kind in _READ:
            values[kind] = body[at + 4 : at + length]
        at += (length + 3) & ~3
    return values


def _finite(seconds: int) -> int | None:
    return None if seconds == _FOREVER else seconds
