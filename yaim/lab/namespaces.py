"""Network namespaces without names, and running programs in them."""

import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_is_private: list[bool] = []
"""Not empty: this process has left the network namespace that it was started in."""

DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""In front of a command: the kernel kills it when the thread that started it ends."""


_SET_UP = (
    "sh",
    "-c",
    "cd /proc/sys/net/ipv4/conf && for each in accept_local arp_announce arp_filter arp_ignore\\\n"
    "    arp_notify forwarding rp_filter; do\n"
    "    echo 0 >all/$each; echo 0 >default/$each\n"
    "done 2>/dev/null # is read-only in some containers\n"
    "exec ip link set lo up",
)
"""In a new network namespace. IPv4's settings are a copy of the host's there, which may be a router
or set up for keepalived; from here on they are what the kernel's are by default."""


class LabError(Exception):
    """The lab cannot do it; the text says why and what to do."""


def run(command: Sequence[str], **options: Any) -> str:
    """Standard output of a command. Raises LabError if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return str(done.stdout)


def enter_private_network() -> None:
    """Move this process into a new network namespace, unless it was moved before. To be called
    before there are other threads: they would stay where they are."""
    if _is_private:
        return
    _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
    _is_private.append(True)
    run(_SET_UP)


def is_in_private_network() -> bool:
    return bool(_is_private)


class Namespace:
    """A network namespace; gone when it is closed and no process is left in it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def new(cls) -> "Namespace":
        with subprocess.Popen(
            (*DIES_WITH_US, "unshare", "--net", "cat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as inside:
            if inside.stdin is None or inside.stdout is None:
                raise AssertionError
            inside.stdin.write(b"\n")
            inside.stdin.flush()
            if inside.stdout.read(1) != b"\n":
                raise LabError("cannot make a network namespace: is this root?")
            made = cls(os.open(f"/proc/{inside.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        made.run(*_SET_UP)
        return made

    @property
    def path(self) -> str:
        """For programs that are started with `pass_fds=(fd,)`."""
        return f"/proc/self/fd/{self.fd}"

    def run(self, *command: str) -> str:
        """Standard output of a command in the namespace. Raises LabError if it fails."""
        return run(("nsenter", f"--net={self.path}", "--", *command), pass_fds=(self.fd,))

    def start(
        self, command: Sequence[str], log: IO[bytes], *, pass_fds: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """A process in the namespace, which ends with this one."""
        return subprocess.Popen(
            (*DIES_WITH_US, "nsenter", f"--net={self.path}", "--", *command),
            pass_fds=(self.fd, *pass_fds),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make this thread work in the namespace: sockets that it opens stay there."""
        with Path("/proc/thread-self/ns/net").open() as before:
            _check(_libc.setns(self.fd, _CLONE_NEWNET), "enter a network namespace")
            try:
                yield
            finally:
                _check(_libc.setns(before.fileno(), _CLONE_NEWNET), "leave a network namespace")

    def close(self) -> None:
        os.close(self.fd)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise LabError(f"cannot {what}: {os.strerror(ctypes.get_errno())}")
