"""Messages of the kernel about links and addresses, taken apart (rtnetlink(7), netlink(7)).

Asks and reads; keeps nothing. We take the messages apart ourselves, because importing a library for
it would make every restart a quarter of a second longer.
"""

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

from yaim.core.model import Address

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
NLM_F_DUMP_INTR = 0x10
"""A dump has this flag if what it tells has changed meanwhile, so that it may not tell all."""
NLMSG_ERROR, NLMSG_DONE = 2, 3
IFLA_IFNAME, IFLA_PROP_LIST, IFLA_ALT_IFNAME = 3, 52, 53
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO = 1, 2, 6
NLA_F_NESTED = 0x8000
LINK = struct.Struct("=BxHiII")
"""Family, type, index, flags, change (struct ifinfomsg)."""
ADDRESS = struct.Struct("=BBBBI")
"""Family, prefix length, flags, scope, index (struct ifaddrmsg)."""

_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence number, port (struct nlmsghdr)."""
_ATTRIBUTE = struct.Struct("=HH")
"""Length, type (struct rtattr)."""


def ask_for_all(asking: socket.socket, kind: int) -> None:
    """Asks for a dump: RTM_GETLINK or RTM_GETADDR. Both requests have the length of the longer one,
    and are all zero: of any family and interface."""
    body = LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    length = _HEADER.size + len(body)
    asking.send(_HEADER.pack(length, kind, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body)


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message of a datagram."""
    for kind, _, body in parsed(data):
        yield kind, body


def parsed(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and body of each message of a datagram."""
    while len(data) >= _HEADER.size:
        length, kind, flags, _, _ = _HEADER.unpack_from(data)
        yield kind, flags, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """Type to value of the attributes behind a message's fixed part."""
    return dict(each_attribute(body, offset))


def each_attribute(body: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute from there on."""
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        yield kind, body[offset + _ATTRIBUTE.size : offset + length]
        offset += max(_ATTRIBUTE.size, (length + 3) & ~3)


def address_of(body: bytes) -> Address | None:
    """The address that an RTM_NEWADDR or RTM_DELADDR is about. On a point-to-point link it is the
    one at our end."""
    packed = packed_address(attributes(body, ADDRESS.size))
    return ip_address(packed) if packed is not None else None


def packed_address(found: dict[int, bytes]) -> bytes | None:
    """Returns the same as address_of(), from the attributes, in bytes."""
    return found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
