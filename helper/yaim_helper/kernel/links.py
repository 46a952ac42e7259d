"""The interfaces of this host: their MAC addresses; and seeing that one can be used again, is at
another MAC address, or is reached by another way (a bond that fails over, a virtual machine that
has moved): rtnetlink(7), group RTMGRP_LINK. Sees; decides nothing.

All are asked for once, and then the kernel tells of each change: what others on the wire can make
the helper ask is answered from here, and costs the same however many interfaces there are.
"""

import errno
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import NamedTuple

from yaim_helper.kernel.netlink import (
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_MULTI,
    NLMSG_DONE,
    NLMSG_ERROR,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
    Link,
    MalformedMessage,
    all_links,
    error_number,
    link,
    message,
    messages,
)

MAX_READ = 64
"""Datagrams that are read in one go."""

_RTMGRP_LINK = 1
_MAX_BYTES = 1 << 16


class Changes(NamedTuple):
    names: frozenset[str] = frozenset()
    """Names of interfaces that are usable now, and were not, or have another MAC address, or are
    reached by another way."""
    is_lost: bool = False
    """Whether the kernel had more to tell than there was room for: any may have changed."""


class Links:
    """The interfaces of the network namespace that this process is in. One that is told as changed
    before all are known counts as changed, whatever it was like before."""

    def __init__(self, asking: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """`asking`: while all links are asked for, which the kernel's routing lock may hold up."""
        self._asking = asking
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.socket.setblocking(False)
        self.socket.bind((0, _RTMGRP_LINK))
        self._known: dict[int, Link] = {}
        self._knows_all = False
        """All links are known, and kept true by what the kernel tells of each change."""
        self._is_asked = False
        """The kernel is telling all links; otherwise it is to be asked, if not all are known."""
        self._is_torn = False
        """Links have come or gone meanwhile, and some may be missing."""
        self._is_behind = False
        """Whether the kernel has lost some, and what is older was not read to its end."""
        self._ask()

    def mac_addresses(self) -> frozenset[bytes] | None:
        """Returns the MAC addresses of all interfaces, as far as was read; None: not all interfaces
        are known yet."""
        return frozenset(each.mac for each in self._known.values()) if self._knows_all else None

    @property
    def is_settled(self) -> bool:
        """Whether all links are known: then what is read next waits for nothing."""
        return self._knows_all and not self._is_asked

    def read(self, *, may_ask: bool = True) -> Changes:
        """Returns what has changed, from MAX_READ datagrams at most. `may_ask`: for all links, if
        they are not known."""
        if may_ask:
            self._ask()
        names: set[str] = set()
        for _ in range(MAX_READ):
            try:
                datagram, (sender, _) = self._receive()
            except OSError as error:
                is_lost = self._has_lost(error.errno == errno.ENOBUFS)
                if is_lost and may_ask:
                    self._ask()
                return Changes(frozenset(names), is_lost)
            # Others than the kernel can send here, too.
            if sender == 0:
                names |= self._changed(datagram)
        return Changes(frozenset(names))

    def _receive(self) -> tuple[bytes, tuple[int, int]]:
        """While all links are being told, the kernel goes on with that at each call."""
        if self.is_settled:
            return self.socket.recvfrom(_MAX_BYTES)
        with self._asking():
            return self.socket.recvfrom(_MAX_BYTES)

    def _ask(self) -> None:
        """Asks for all links, unless they are known or being told, or something older is to be
        read."""
        if self._knows_all or self._is_asked or self._is_behind:
            return
        self._is_torn = False
        with suppress(OSError), self._asking():
            self.socket.send(message(RTM_GETLINK, NLM_F_DUMP, 1, all_links()))
            self._is_asked = True

    def _has_lost(self, has_overrun: bool) -> bool:
        """Returns whether changes were lost. The kernel says first that there was no room, and then
        gives what came before that."""
        is_lost = has_overrun or self._is_behind
        self._is_behind = has_overrun
        if is_lost:
            self._known.clear()
            self._knows_all = False
            # Should they be being told just now: what is told after this may be older than it.
            self._is_torn = True
        return is_lost

    def _changed(self, datagram: bytes) -> set[str]:
        names: set[str] = set()
        try:
            for told in messages(datagram):
                self._is_torn |= told.flags & NLM_F_DUMP_INTR != 0
                if told.kind in (NLMSG_DONE, NLMSG_ERROR):
                    self._knows_all = not self._is_torn and not error_number(told.body)
                    self._is_asked = False
                elif told.kind in (RTM_NEWLINK, RTM_DELLINK):
                    names |= self._note(link(told.body), told.kind, told.flags)
        except MalformedMessage:
            # The kernel should never send that.
            return names
        return names

    def _note(self, told: Link | None, kind: int, flags: int) -> set[str]:
        if told is None:
            return set()
        before = self._known.pop(told.index, None)
        if kind == RTM_DELLINK:
            return set()
        self._known[told.index] = told
        is_change = not flags & NLM_F_MULTI and (told != before or told.is_elsewhere)
        return {told.name} if told.is_usable and is_change else set()
