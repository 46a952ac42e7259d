"""Seeing that an interface can be used again, is at another MAC address, or is reached by another
way (a bond that fails over, a virtual machine that has moved): rtnetlink(7), group RTMGRP_LINK.
Sees; decides nothing.
"""

import errno
import socket
from dataclasses import dataclass

from yaim_helper.netlink import RTM_DELLINK, RTM_NEWLINK, Link, MalformedMessage, link, messages

MAX_READ = 64
"""Datagrams in one go."""

_RTMGRP_LINK = 1
_MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Changes:
    names: frozenset[str] = frozenset()
    """Of interfaces that are usable, and were not, or are at another MAC address or elsewhere."""
    is_lost: bool = False
    """Whether the kernel had more to tell than there was room for: any may have changed."""


class Links:
    """Those of the network namespace that this process is in. What one was like before its first
    change is not known: after that it counts as changed."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.socket.setblocking(False)
        self.socket.bind((0, _RTMGRP_LINK))
        self._known: dict[int, Link] = {}
        self._is_behind = False
        """Whether the kernel has lost some, and what is older was not read to its end."""

    def read(self) -> Changes:
        """What has come; no more than MAX_READ datagrams."""
        names: set[str] = set()
        for _ in range(MAX_READ):
            try:
                datagram, (sender, _) = self.socket.recvfrom(_MAX_BYTES)
            except OSError as error:
                return Changes(frozenset(names), self._has_lost(error.errno == errno.ENOBUFS))
            # Others than the kernel can send here, too.
            if sender == 0:
                names |= self._changed(datagram)
        return Changes(frozenset(names))

    def _has_lost(self, has_overrun: bool) -> bool:
        """The kernel says first that there was no room, and then gives what came before that."""
        is_lost = has_overrun or self._is_behind
        self._is_behind = has_overrun
        if is_lost:
            self._known.clear()
        return is_lost

    def _changed(self, datagram: bytes) -> set[str]:
        names: set[str] = set()
        try:
            for message in messages(datagram):
                if message.kind not in (RTM_NEWLINK, RTM_DELLINK):
                    continue
                told = link(message.body)
                before = self._known.pop(told.index, None)
                if message.kind == RTM_NEWLINK:
                    self._known[told.index] = told
                    if told.is_usable and (told != before or told.is_elsewhere):
                        names.add(told.name)
        except MalformedMessage:
            # The kernel should never send that.
            return names
        return names
