"""Watches this host's interfaces: tells the core of each address that goes, which links are up, and
which addresses are there that are not the helper's.

Reads only, without privileges (rtnetlink(7)); decides nothing.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping

from yaim.core.events import AddressesObserved, AddressGone, Event, LinksObserved
from yaim.core.model import Address, Place, frozen_mapping
from yaim.host.addresses import HostAddresses
from yaim.host.netlink import (
    ADDRESS,
    IFLA_ALT_IFNAME,
    IFLA_IFNAME,
    IFLA_PROP_LIST,
    LINK,
    NLA_F_NESTED,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    ask_for_all,
    attributes,
    each_attribute,
    parsed,
)

logger = logging.getLogger(__name__)

_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
"""A link with both flags is up, and operational as RFC 2863 has it; for one with only the first
`ip` shows NO-CARRIER."""
_RECEIVE_BYTES = 1 << 18
_MAX_DUMPS = 5
"""If addresses change while they are told, they are asked for so often at most, one dump after the
other."""
_TOGETHER = 64
"""The most datagrams that are taken in before the core is told what they amount to."""
RESUBSCRIBE_AFTER_S = 0.1


class KernelWatch:
    """Started by its construction; posts which links are up, and then which addresses are there, as
    soon as the kernel tells. That may take long while the kernel's routing lock is held, for which
    dumps wait: nobody waits here."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._socket = _subscribed()
        self._links: dict[int, tuple[str, bool]] = {}
        """The index of each link to its name, and whether it is up."""
        self._altnames: dict[int, tuple[str, ...]] = {}
        """The index of a link to its further names."""
        self._told: LinksObserved | None = None
        self._has_all = False
        """All links have been told, which takes several datagrams."""
        self._addresses = HostAddresses()
        self._dumps = 0
        """How often all addresses were asked for."""
        self._is_interrupted = False
        self._told_own: Mapping[Address, tuple[Place, ...]] | None = None
        self._told_names: dict[int, str] = {}
        threading.Thread(target=self._work, name="kernel", daemon=True).start()

    def _work(self) -> None:
        ask_for_all(self._socket, RTM_GETLINK)
        while True:
            try:
                self._take_in(self._socket.recv(_RECEIVE_BYTES))
                for _ in range(_TOGETHER):
                    if not self._take_in_what_waits():
                        break
                self._tell_own()
            except OSError as error:
                # Mostly more has happened than the socket's buffer takes. The next renewal tells
                # which of our addresses are missing.
                logger.debug("the kernel's messages were lost: %s", error)
                self._socket.close()
                time.sleep(RESUBSCRIBE_AFTER_S)
                self._links.clear()
                self._altnames.clear()
                self._has_all = False
                self._socket = _subscribed()
                ask_for_all(self._socket, RTM_GETLINK)

    def _take_in_what_waits(self) -> bool:
        """Returns whether there was anything."""
        try:
            self._take_in(self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False
        return True

    def _take_in(self, data: bytes) -> None:
        for kind, flags, body in parsed(data):
            self._is_interrupted = self._is_interrupted or flags & NLM_F_DUMP_INTR != 0
            if kind in (RTM_NEWLINK, RTM_DELLINK):
                self._note_link(body, is_there=kind == RTM_NEWLINK)
            elif kind == NLMSG_ERROR:
                raise OSError("the kernel does not tell what is there")
            elif kind == NLMSG_DONE:
                self._end_dump()
            elif kind == RTM_NEWADDR:
                self._addresses.note(body)
            elif kind == RTM_DELADDR:
                address = self._addresses.note_gone(body)
                if address is not None:
                    self._post(AddressGone(address, self._place_of(body)))
        if self._has_all:
            links = self._links.values()
            altnames = {
                each: self._links[index][0]
                for index, names in self._altnames.items()
                for each in names
            }
            told = LinksObserved(
                frozenset(name for name, is_up in links if is_up),
                frozenset(name for name, is_up in links if not is_up),
                frozen_mapping(altnames),
            )
            if told != self._told:
                self._told = told
                self._post(told)

    def _end_dump(self) -> None:
        """Ends the dump of the links, which comes first, or that of the addresses. If addresses
        have changed meanwhile, some may have been left out, or told too late."""
        is_again = self._is_interrupted and self._dumps < _MAX_DUMPS
        if self._has_all and not is_again:
            for address in self._addresses.end():
                self._post(AddressGone(address))
            return
        self._dumps = self._dumps + 1 if self._has_all else 1
        self._has_all = True
        self._is_interrupted = False
        self._addresses.begin()
        ask_for_all(self._socket, RTM_GETADDR)

    def _tell_own(self) -> None:
        """Tells the addresses once for all that was taken in."""
        names = {index: name for index, (name, _) in self._links.items()}
        if not self._has_all or not self._addresses.is_whole:
            return
        if not self._addresses.is_changed and names == self._told_names:
            return
        self._addresses.is_changed = False
        self._told_names = names
        own = self._addresses.own(names)
        if own != self._told_own:
            self._told_own = own
            others = self._addresses.others(names)
            self._post(AddressesObserved(frozen_mapping(own), frozen_mapping(others)))

    def _place_of(self, body: bytes) -> Place | None:
        """Where the address of a message is; None if the interface has gone, too, or is not known
        yet."""
        _, prefix_length, _, _, index = ADDRESS.unpack_from(body)
        name, _ = self._links.get(index, ("", False))
        return Place(name, prefix_length) if name else None

    def _note_link(self, body: bytes, *, is_there: bool) -> None:
        family, _, index, flags, _ = LINK.unpack_from(body)
        if family != socket.AF_UNSPEC:
            # It is about a bridge's port, say, which comes and goes without the link.
            return
        found = attributes(body, LINK.size)
        name = found.get(IFLA_IFNAME, b"").rstrip(b"\0")
        self._altnames.pop(index, None)
        if is_there:
            if altnames := _altnames(found):
                self._altnames[index] = altnames
            self._links[index] = (
                os.fsdecode(name),
                flags & _IFF_UP != 0 and flags & _IFF_RUNNING != 0,
            )
        else:
            self._links.pop(index, None)


def _altnames(found: Mapping[int, bytes]) -> tuple[str, ...]:
    """The further names of a link. They stand in a list of their own, all with the same type."""
    nested = found.get(IFLA_PROP_LIST | NLA_F_NESTED, found.get(IFLA_PROP_LIST, b""))
    names = []
    for kind, value in each_attribute(nested, 0):
        if kind == IFLA_ALT_IFNAME:
            names.append(os.fsdecode(value.rstrip(b"\0")))
    return tuple(names)


def _subscribed() -> socket.socket:
    """Returns a socket that tells of changes."""
    watch = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    watch.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    watch.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
    return watch
