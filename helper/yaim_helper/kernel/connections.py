"""Ending TCP connections by the address that they have on this host: sock_diag(7).

The peer gets a reset if it can be reached from that address, and the process that has the socket
ECONNABORTED. Listening sockets stay, and so does what has ended already (TIME_WAIT). What is new
meanwhile is ended, too, so that nobody is left who could not come any more.

The kernel waits for whoever works on a socket (lock_sock in tcp_abort), and cannot be interrupted:
a process that sends from a page which a file system of its own (FUSE) does not give has it wait
for as long as it likes. So a thread of its own asks, and who wants connections ended waits for it
until the time that they say, and no longer. While it hangs, all are left. A process that is killed
has ended only when that thread has: so the thread has no other file open than its socket, and what
was open in the process (the lock on the record, say) is closed all the same.
"""

import ctypes
import errno
import os
import socket
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from queue import SimpleQueue
from typing import NamedTuple

from yaim_helper import threads
from yaim_helper.clock import boottime
from yaim_helper.kernel import sock_diag
from yaim_helper.kernel.addresses import KernelError, understood
from yaim_helper.kernel.netlink import (
    NLM_F_ACK,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    error_number,
    messages,
)
from yaim_helper.kernel.sock_diag import Socket
from yaim_helper.protocol import Address
from yaim_helper.stderr import tell

TOGETHER = 128
"""Sockets that are ended in one system call: 1 to 3 ms, in which Linux before 6.8 tells nobody else
of sockets (sock_diag_mutex)."""
HANGS_AFTER_S = 0.05
"""A system call that goes on for so long after its time hangs: nobody waits for it any more."""
_RECEIVE_BYTES = 1 << 16
_LAST_SEQUENCE = 1 << 31
_NOBODY = IPv4Address("240.0.0.1")
_ENDS = (NLMSG_DONE, NLMSG_ERROR)
_SOL_NETLINK, _CAP_ACK = 270, 10
"""netlink(7)"""
_REASONS = {
    errno.ENOENT: "the kernel has no tcp_diag: load that module",
    errno.EPROTONOSUPPORT: "the kernel has no sock_diag",
    errno.EOPNOTSUPP: "the kernel cannot: it was built without CONFIG_INET_DIAG_DESTROY",
}
HANGS = "the kernel waits for a process of this host that keeps its socket locked"
_CLONE_FILES = 0x400
_libc = ctypes.CDLL(None, use_errno=True)


class Destroyed(NamedTuple):
    destroyed: int
    left: int
    """How many are still there; 1 also if it is not known how many."""


class Connections:
    """The TCP connections in the network namespace of the thread that makes this."""

    def __init__(self) -> None:
        """Raises KernelError if the kernel tells nothing of sockets; RuntimeError if there may be
        no further thread."""
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                sock_diag.NETLINK_SOCK_DIAG,
            )
            self._socket.bind((0, 0))
            # An error would bring along the message that it is about.
            self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, f"sockets: {error.strerror}")
            raise KernelError(error.errno, reason) from error
        self._sequence = 0
        self._why_not = self._tried()
        self._batches: SimpleQueue[_Batch] = SimpleQueue()
        self._under_way: _Batch | None = None
        threads.start("connections", self._work)

    def why_not(self) -> str:
        """Returns why the kernel cannot end connections now; empty if it can."""
        return self._why_not or (HANGS if self._hangs() else "")

    def destroy(self, addresses: Collection[Address], until: float) -> dict[Address, Destroyed]:
        """Ends the connections of these addresses, those that come meanwhile included, but goes on
        no longer than `until` (CLOCK_BOOTTIME). Of TOGETHER that are under way then some may still
        end when the kernel goes on. Never raises for what the kernel refuses: that is left."""
        batch = _Batch(addresses, until)
        wait_s = max(0.0, until - boottime())
        if not self.why_not():
            self._batches.put(batch)
            batch.is_done.wait(wait_s)
        return batch.result()

    def _hangs(self) -> bool:
        before = self._under_way
        return before is not None and boottime() >= before.until + HANGS_AFTER_S

    def _tried(self) -> str:
        """An address that is nobody's connects to nothing, so nothing is found; and a socket that
        cannot exist is not found by a kernel that could end it. Without tcp_diag it is not found,
        either: so the first question is needed."""
        try:
            list(self._all(socket.AF_INET, (_NOBODY,)))
            error = self._end([sock_diag.NOBODY]).get(0)
            if error is None:
                return "sock_diag: a socket that cannot exist was ended"
            if error != errno.ENOENT:
                raise _error(error)
        except KernelError as why:
            return _REASONS.get(why.errno or 0, why.reason)
        return ""

    # --- its thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        self._keep_one_file()
        while True:
            self._under_way = batch = self._batches.get()
            # What it has not come to is left.
            try:
                self._do(batch)
            except KernelError:
                pass
            except Exception as error:
                tell(f"connections are not ended: {error!r}")
            self._under_way = None
            batch.is_done.set()

    def _keep_one_file(self) -> None:
        """From here on this thread has its own table of open files: unshare(2)."""
        if _libc.unshare(_CLONE_FILES) == 0:
            mine = self._socket.fileno()
            os.closerange(3, mine)
            os.closerange(mine + 1, os.sysconf("SC_OPEN_MAX"))

    def _do(self, batch: "_Batch") -> None:
        """Goes on until nothing is found that was not tried. Raises KernelError."""
        tried: set[bytes] = set()
        while boottime() < batch.until:
            found = [
                each
                for family, addresses in batch.by_family()
                for each in self._all(family, addresses)
                if each.local in batch.addresses
            ]
            batch.are_there(found)
            new = [each for each in found if each.name not in tried]
            if not new:
                return
            for at in range(0, len(new), TOGETHER):
                if boottime() >= batch.until:
                    return
                some = new[at : at + TOGETHER]
                batch.are_gone(some, self._end([each.name for each in some]))
            tried.update(each.name for each in new)

    def _all(self, family: int, addresses: Collection[Address]) -> Iterator[Socket]:
        """Returns the connections of these addresses, and maybe others. Raises KernelError."""
        number = self._take_numbers(1)
        request = sock_diag.all_sockets(family, addresses, number)
        with understood("sock_diag"):
            for answer in self._answers(request, number, number):
                if answer.kind not in _ENDS:
                    if (found := sock_diag.socket_of(answer.body)) is not None:
                        yield found
                elif error := error_number(answer.body):
                    raise _error(error)

    def _end(self, names: Sequence[bytes]) -> dict[int, int]:
        """Ends these sockets. Returns the error numbers of those that it did not end, by their
        place. Raises KernelError."""
        first = self._take_numbers(len(names))
        last = first + len(names) - 1
        request = b"".join(
            sock_diag.destroy(name, NLM_F_ACK if number == last else 0, number)
            for number, name in enumerate(names, first)
        )
        with understood("sock_diag"):
            return {
                answer.sequence - first: error
                for answer in self._answers(request, first, last)
                if (error := error_number(answer.body))
            }

    def _take_numbers(self, count: int) -> int:
        """Returns the first of so many sequence numbers."""
        first = self._sequence + 1 if self._sequence < _LAST_SEQUENCE else 1
        self._sequence = first + count
        return first

    def _answers(self, request: bytes, first: int, last: int) -> Iterator[Message]:
        """Sends a request, and returns the answers with these sequence numbers until the last one
        is answered. The kernel has them ready when it has taken the request, and more of a list
        whenever a part of it is read."""
        # A list that was not read to its end keeps the next one from being told (EBUSY).
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(_RECEIVE_BYTES)
        self._socket.send(request)
        while True:
            datagram, (sender, _) = self._socket.recvfrom(_RECEIVE_BYTES)
            # Others than the kernel can send here, too.
            for each in messages(datagram) if sender == 0 else ():
                if first <= each.sequence <= last:
                    yield each
                    if each.kind in _ENDS and each.sequence == last:
                        return


class _Batch:
    """What is asked of the thread at once, and what it has done: both threads use it."""

    def __init__(self, addresses: Collection[Address], until: float) -> None:
        self.addresses = {each.packed: each for each in addresses}
        self.until = until
        self.is_done = threading.Event()
        self._lock = threading.Lock()
        self._there: dict[bytes, bytes] | None = None
        """Sockets, name to local address. None: it is not known."""
        self._ended: dict[bytes, bytes] = {}

    def by_family(self) -> Iterator[tuple[int, list[Address]]]:
        """Returns the families of sockets, and the addresses that such may have."""
        for family in (socket.AF_INET, socket.AF_INET6):
            some = [a for a in self.addresses.values() if family in sock_diag.FAMILIES[a.version]]
            if some:
                yield family, some

    def are_there(self, found: Collection[Socket]) -> None:
        """That is all. An old kernel says that it has ended a socket without a process, and has not
        (SOCK_DEAD in tcp_abort)."""
        with self._lock:
            self._there = {each.name: each.local for each in found}
            for name in self._there:
                self._ended.pop(name, None)

    def are_gone(self, sockets: Sequence[Socket], errors: Mapping[int, int]) -> None:
        """These were ended, but for those that have an error, by their place."""
        with self._lock:
            for place, each in enumerate(sockets):
                error = errors.get(place)
                if error in (None, errno.ENOENT) and self._there is not None:
                    self._there.pop(each.name, None)
                if error is None:
                    self._ended[each.name] = each.local

    def result(self) -> dict[Address, Destroyed]:
        with self._lock:
            ended = Counter(self._ended.values())
            there = Counter(list(self.addresses if self._there is None else self._there.values()))
        return {
            address: Destroyed(ended[packed], there[packed])
            for packed, address in self.addresses.items()
        }


def _error(number: int) -> KernelError:
    return KernelError(number, f"sock_diag: {os.strerror(number)}")
