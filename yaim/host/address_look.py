"""Looks which addresses are on this host, when nothing is under way in the kernel that could put
one there (yaim/core/overdue.py says what for).

Reads only, without privileges; decides nothing. One thread, which waits in the kernel for as long
as that holds its routing lock (RTNL, include/linux/rtnetlink.h), and cannot be woken there: nobody
else waits for it. Then there is no answer, and that is what it says.

Why what is not seen does not come back. The helper puts one address on an interface with each
system call, with RTNL held once for it (helper/yaim_helper/kernel/addresses.py). Should it wait for
the lock, its request is done when it gets it, and no other follows: its alarm has expired
meanwhile. So the question is whether it still waits. The lock is a queue
(Documentation/locking/mutex-design.rst): who lets go of it wakes the first; one who just comes may
be quicker than him once, and then it is handed to him. So the lock is taken here, too, by a request
that changes nothing and that anybody may make: is there a carrier (ETHTOOL_GLINK: dev_ethtool() in
net/ethtool/ioctl.c takes RTNL for it, in Linux 6.1 as in 6.18). If that happens TIMES in a row
without a wait, PAUSE_S apart, then all who waited when it was first taken have had it: each needs a
processor for a moment only, while the lock is free. Whoever holds it for longer in between makes us
wait, and then it counts from anew. At last all addresses are read, those too whose link is down,
which have no route (/proc/net/fib_trie does not show them)."""

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic, sleep

from yaim.core.events import AddressesSeen, Event, LookFailed
from yaim.core.model import Address
from yaim.host.addresses import HostAddresses
from yaim.host.netlink import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    RTM_GETADDR,
    RTM_NEWADDR,
    ask_for_all,
    parsed,
)

TIMES = 3
PAUSE_S = 0.04
"""The pause lets whoever waits for the lock get a processor. The helper has one within 12 ms on a
busy host."""
QUICKLY_S = 0.01
"""Whoever gets the lock within this time has not waited for one who holds it long."""

_SIOCETHTOOL, _ETHTOOL_GLINK = 0x8946, 0x0A
_LOOPBACK_INDEX = 1
"""LOOPBACK_IFINDEX (include/linux/netdevice.h)."""
_RECEIVE_BYTES = 1 << 16


class AddressLook:
    """Started by its construction."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        threading.Thread(target=self._work, name="look", daemon=True).start()

    def start(self) -> None:
        """Looks, and posts what was seen: AddressesSeen or LookFailed. Never blocks."""
        self._asked.put(None)

    def _work(self) -> None:
        while True:
            self._asked.get()
            try:
                self._wait_until_all_had_the_lock()
                seen: Event = AddressesSeen(self._addresses())
            except OSError as error:
                seen = LookFailed(str(error))
            self._post(seen)

    def _wait_until_all_had_the_lock(self) -> None:
        """Waits until all who waited for the lock when this was called have had it. Raises
        OSError."""
        times = 0
        while times < TIMES:
            if times:
                sleep(PAUSE_S)
            began = monotonic()
            take_routing_lock(self._socket)
            times = times + 1 if monotonic() - began < QUICKLY_S else 1

    def _addresses(self) -> frozenset[Address]:
        """All addresses that look like the helper's. Raises OSError."""
        while (found := self._dump()) is None:
            continue
        return found

    def _dump(self) -> frozenset[Address] | None:
        """Returns the same as _addresses(); None if they changed meanwhile, so that some may be
        missing."""
        found = HostAddresses()
        is_whole = True
        ask_for_all(self._socket, RTM_GETADDR)
        while True:
            for kind, flags, body in parsed(self._socket.recv(_RECEIVE_BYTES)):
                is_whole = is_whole and not flags & NLM_F_DUMP_INTR
                if kind == NLMSG_ERROR:
                    raise OSError("the kernel does not tell its addresses")
                if kind == NLMSG_DONE:
                    return found.like_the_helpers() if is_whole else None
                if kind == RTM_NEWADDR:
                    found.note(body)


def take_routing_lock(any_socket: socket.socket) -> None:
    """Takes the kernel's RTNL, and lets go of it, by asking whether the loopback interface has a
    carrier (struct ifreq, struct ethtool_value). Raises OSError."""
    name = os.fsencode(socket.if_indextoname(_LOOPBACK_INDEX))
    value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_GLINK, 0))
    request = struct.pack("16sP16x", name, ctypes.addressof(value))
    fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
