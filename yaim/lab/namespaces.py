"""Network namespaces without names, and running programs in them.

What is in a namespace, links and addresses, is yaim/lab/links.py's. Debian's python3-pyroute2 is
imported when the first namespace is set up.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_OWN = Path("/proc/thread-self/ns/net")
_LOOPBACK = 1
"""The index that the loopback has in every network namespace."""
_is_private: list[bool] = []
"""It has an element once this process has left the network namespace that it was started in."""

DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""What stands in front of a command: the kernel kills it when the thread that started it ends."""

_SETTINGS = (
    *("accept_local", "arp_announce", "arp_filter", "arp_ignore", "arp_notify", "forwarding"),
    "rp_filter",
)
"""IPv4's settings, which are 0 by default. In a new network namespace they are a copy of those of
the host, which may be a router or set up for keepalived."""


class LabError(Exception):
    """The lab cannot do it; the text says why and what to do."""


def run(command: Sequence[str], **options: Any) -> str:
    """Returns the standard output of a command. Raises LabError if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return str(done.stdout)


def enter_private_network() -> None:
    """Moves this process into a new network namespace, unless it was moved before. To be called
    before there are other threads: they would stay where they are."""
    if _is_private:
        return
    _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
    _is_private.append(True)
    _set_up()


def is_in_private_network() -> bool:
    return bool(_is_private)


class Namespace:
    """A network namespace. It is gone when it is closed and no process is left in it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def new(cls) -> "Namespace":
        """Makes one. Raises LabError."""
        with _OWN.open() as before:
            _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
            try:
                _set_up()
                return cls(os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC))
            finally:
                _check(_libc.setns(before.fileno(), _CLONE_NEWNET), "leave a network namespace")

    @property
    def path(self) -> str:
        """Its path for programs that are started with `pass_fds=(fd,)`."""
        return f"/proc/self/fd/{self.fd}"

    def run(self, *command: str) -> str:
        """Returns the standard output of a command in the namespace. Raises LabError if it
        fails."""
        return run(("nsenter", f"--net={self.path}", "--", *command), pass_fds=(self.fd,))

    def start(
        self, command: Sequence[str], log: IO[bytes], *, pass_fds: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """Starts a process in the namespace, which ends with this one."""
        return subprocess.Popen(
            (*DIES_WITH_US, "nsenter", f"--net={self.path}", "--", *command),
            pass_fds=(self.fd, *pass_fds),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Makes this thread work in the namespace. Sockets that it opens stay there."""
        with _OWN.open() as before:
            _check(_libc.setns(self.fd, _CLONE_NEWNET), "enter a network namespace")
            try:
                yield
            finally:
                _check(_libc.setns(before.fileno(), _CLONE_NEWNET), "leave a network namespace")

    def close(self) -> None:
        os.close(self.fd)


def _set_up() -> None:
    """Gives the network namespace of this thread the kernel's own settings, and a loopback that is
    up."""
    for name in _SETTINGS:
        for which in ("all", "default"):
            try:
                Path("/proc/sys/net/ipv4/conf", which, name).write_text("0\n")
            except OSError:
                pass  # it is read-only in some containers
    from pyroute2 import IPRoute

    with IPRoute() as kernel:
        kernel.link("set", index=_LOOPBACK, state="up")


def _check(result: int, what: str) -> None:
    if result != 0:
        raise LabError(f"cannot {what}: {os.strerror(ctypes.get_errno())}")
