"""What changes of this host's addresses, as the kernel tells it: rtnetlink(7), groups
RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR. Sees; decides nothing.

Our own changes are told, too: of IPv6 the kernel does not tell by whom they were asked for
(inet6_ifa_notify in net/ipv6/addrconf.c).
"""

import socket
from typing import NamedTuple

from yaim_helper.kernel.netlink import (
    RTM_DELADDR,
    RTM_NEWADDR,
    Found,
    MalformedMessage,
    found,
    messages,
)

MAX_READ = 64
"""Datagrams that are read in one go."""

_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x10, 0x100
_MAX_BYTES = 1 << 16


class Change(NamedTuple):
    place: Found
    is_there: bool
    """Otherwise it has gone."""


class AddressNews:
    """The changes in the network namespace that this process is in."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.socket.setblocking(False)
        self.socket.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))

    def read(self) -> list[Change] | None:
        """Returns what has changed, from MAX_READ datagrams at most. None: more than the kernel
        keeps for us."""
        changes: list[Change] = []
        for _ in range(MAX_READ):
            try:
                datagram, (sender, _) = self.socket.recvfrom(_MAX_BYTES)
            except BlockingIOError:
                break
            except OSError:
                return None
            # Others than the kernel can send here, too.
            if sender == 0:
                changes += _changes(datagram)
        return changes


def _changes(datagram: bytes) -> list[Change]:
    try:
        return [
            Change(place, told.kind == RTM_NEWADDR)
            for told in messages(datagram)
            if told.kind in (RTM_NEWADDR, RTM_DELADDR) and (place := found(told.body)) is not None
        ]
    except MalformedMessage:
        # The kernel should never send that.
        return []
