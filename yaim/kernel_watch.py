"""Watches this host's interfaces: tells the core of each address that goes, and which links are up.

Reads only, without privileges (rtnetlink(7)); decides nothing. The messages are taken apart here,
because importing a library for it would make every restart a quarter of a second longer.
"""

import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from yaim.core.events import AddressGone, Event, LinksObserved
from yaim.core.model import Address

logger = logging.getLogger(__name__)

_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR = 20, 21
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence number, port (struct nlmsghdr)."""
_LINK = struct.Struct("=BxHiII")
"""Family, type, index, flags, change (struct ifinfomsg)."""
ADDRESS = struct.Struct("=BBBBI")
"""Family, prefix length, flags, scope, index (struct ifaddrmsg)."""
_ATTRIBUTE = struct.Struct("=HH")
_IFLA_IFNAME, _IFA_ADDRESS, _IFA_LOCAL = 3, 1, 2
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
"""Together: up, and operational as RFC 2863 has it; `ip` shows NO-CARRIER for the first alone."""
_RECEIVE_BYTES = 1 << 18
RESUBSCRIBE_AFTER_S = 0.1


class KernelWatch:
    """Started by its construction, which also posts what is up."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._socket = _subscribe()
        self._links: dict[int, tuple[str, bool]] = {}
        """Index to name and whether it is up."""
        self._told: frozenset[str] | None = None
        self._has_all = False
        """All links have been told; that takes several datagrams."""
        threading.Thread(target=self._work, name="kernel", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                self._take_in(self._socket.recv(_RECEIVE_BYTES))
            except OSError as error:
                # More has happened than the socket's buffer takes, mostly. What is missing of our
                # addresses the next renewal tells.
                logger.debug("the kernel's messages were lost: %s", error)
                self._socket.close()
                time.sleep(RESUBSCRIBE_AFTER_S)
                self._links.clear()
                self._has_all = False
                self._socket = _subscribe()

    def _take_in(self, data: bytes) -> None:
        for kind, body in messages(data):
            if kind in (_RTM_NEWLINK, _RTM_DELLINK):
                self._note_link(body, is_there=kind == _RTM_NEWLINK)
            elif kind == _NLMSG_ERROR:
                raise OSError("the kernel does not tell the links")
            elif kind == _NLMSG_DONE:
                self._has_all = True
            elif kind == RTM_DELADDR:
                address = address_of(body)
                if address is not None:
                    self._post(AddressGone(address))
        up = frozenset(name for name, is_up in self._links.values() if is_up)
        if self._has_all and up != self._told:
            self._told = up
            self._post(LinksObserved(up))

    def _note_link(self, body: bytes, *, is_there: bool) -> None:
        family, _, index, flags, _ = _LINK.unpack_from(body)
        if family != socket.AF_UNSPEC:
            # Of a bridge's port, say: it comes and goes without the link.
            return
        name = attributes(body, _LINK.size).get(_IFLA_IFNAME, b"").rstrip(b"\0")
        if is_there:
            self._links[index] = (
                os.fsdecode(name),
                flags & _IFF_UP != 0 and flags & _IFF_RUNNING != 0,
            )
        else:
            self._links.pop(index, None)


def _subscribe() -> socket.socket:
    """A socket that tells of changes, and of all links first."""
    watch = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    watch.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    watch.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    length = _HEADER.size + len(body)
    watch.send(_HEADER.pack(length, _RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body)
    return watch


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message of a datagram."""
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """Type to value of the attributes (struct rtattr) behind a message's fixed part."""
    found = {}
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        found[kind] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return found


def address_of(body: bytes) -> Address | None:
    """The address that an RTM_NEWADDR or RTM_DELADDR is about: of a point-to-point link, the one at
    our end."""
    found = attributes(body, ADDRESS.size)
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    return ip_address(packed) if packed is not None else None
