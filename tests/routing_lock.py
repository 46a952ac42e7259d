"""Holding the kernel's routing lock (RTNL), for exactly as long as a test wants.

It is one for all network namespaces of the machine: whoever changes an address, a link or a route
meanwhile waits, other tests' processes too. What holds it for longer than HARMLESS_S runs alone
(tests/sets.py).

How: ethtool_link answers with the lock held (dev_ethtool() in net/ethtool/ioctl.c). The place for
the answer is a page that is not there yet, and userfaultfd(2) lets us say when it comes. Should
this process end before, the kernel goes on.
"""

import ctypes
import fcntl
import mmap
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

HARMLESS_S = 0.05
"""Half of what a helper may wait for it."""
AT_MOST_S = 15.0

_NR_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
_UFFDIO_API, _UFFDIO_REGISTER, _UFFDIO_ZEROPAGE = 0xC018AA3F, 0xC020AA00, 0xC020AA04
_UFFD_API, _REGISTER_MISSING = 0xAA, 1
_SIOCETHTOOL, _ETHTOOL_GLINK = 0x8946, 0x0A
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def routing_lock_held() -> Iterator[None]:
    """The lock is held until the end of the block, or for AT_MOST_S."""
    with ExitStack() as stack:
        fault = _libc.syscall(_NR_USERFAULTFD[os.uname().machine], os.O_CLOEXEC | os.O_NONBLOCK)
        if fault < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
        stack.callback(os.close, fault)
        fcntl.ioctl(fault, _UFFDIO_API, struct.pack("=QQQ", _UFFD_API, 0, 0))
        page = mmap.PAGESIZE
        area = mmap.mmap(-1, 2 * page)
        area[page - 4 : page] = struct.pack("=I", _ETHTOOL_GLINK)
        start = ctypes.addressof(ctypes.c_char.from_buffer(area))
        missing = struct.pack("=QQQQ", start + page, page, _REGISTER_MISSING, 0)
        fcntl.ioctl(fault, _UFFDIO_REGISTER, missing)
        any_socket = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        request = struct.pack("16sP16x", b"lo", start + page - 4)
        holder = threading.Thread(
            target=lambda: fcntl.ioctl(any_socket, _SIOCETHTOOL, request), daemon=True
        )
        holder.start()
        if not select.select([fault], [], [], AT_MOST_S)[0]:
            raise AssertionError("the lock is not to be had")
        is_over = threading.Event()

        def let_go() -> None:
            is_over.wait(AT_MOST_S)
            fcntl.ioctl(fault, _UFFDIO_ZEROPAGE, struct.pack("=QQQq", start + page, page, 0, 0))

        keeper = threading.Thread(target=let_go, daemon=True)
        keeper.start()
        try:
            yield
        finally:
            is_over.set()
            keeper.join()
            holder.join()
