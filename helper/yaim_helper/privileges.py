"""What the helper gives up before it listens to anybody: all but CAP_NET_ADMIN and CAP_NET_RAW.

Started as root it becomes its own user; started with ambient capabilities, as by systemd, it has
nothing to change but what it has too much of. Either way what is left is read back from the kernel,
and the helper does not start with more. capabilities(7), prctl(2), capset(2).
"""

import ctypes
import errno
import os
import pwd
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from yaim_helper.chain import MARKER, segment_number

CAP_SETPCAP, CAP_NET_ADMIN, CAP_NET_RAW = 8, 12, 13
KEPT = 1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW
NAMES = {CAP_NET_ADMIN: "CAP_NET_ADMIN", CAP_NET_RAW: "CAP_NET_RAW"}

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 4, 8
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS = 28, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_NO_ROOT, _NO_AMBIENT = 0x3, 0xC0
"""Securebits, each with its lock: uid 0 brings no capabilities; none can be made ambient."""
_KEEP_CAPS = 0x10
_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


class PrivilegeError(Exception):
    """What the helper has is not what it needs; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Privileges:
    """As proc_pid_status(5) tells them."""

    uids: frozenset[int]
    permitted: int
    effective: int
    inheritable: int
    ambient: int
    bounding: int
    has_no_new: bool


def present() -> Privileges:
    lines = Path("/proc/self/status").read_text().splitlines()
    told = dict(line.split(":", 1) for line in lines)
    permitted, effective, inheritable, ambient, bounding = (
        int(told[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Inh", "Amb", "Bnd")
    )
    uids = frozenset(map(int, told["Uid"].split()))
    has_no_new = told["NoNewPrivs"].strip() == "1"
    return Privileges(uids, permitted, effective, inheritable, ambient, bounding, has_no_new)


def user_named(name: str) -> pwd.struct_passwd:
    """Raises PrivilegeError."""
    try:
        return pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise PrivilegeError(
            f"there is no user {name!r} to run as: create it (adduser --system --group {name}),"
            " name another with --user, or stay uid 0 with --user root"
        ) from None


def hand_over(directory: Path, user: pwd.struct_passwd) -> None:
    """Make the record's directory the user's, and what is in it: of a directory that is root's
    alone only, because elsewhere others may have put links to anything. Raises OSError."""
    directory.mkdir(mode=0o700, exist_ok=True)
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(opened)
        if status.st_uid != 0 or status.st_mode & 0o022 or user.pw_uid == 0:
            return
        for name in os.listdir(opened):  # noqa: PTH208
            if name == MARKER or segment_number(name) is not None:
                os.chown(name, user.pw_uid, user.pw_gid, dir_fd=opened, follow_symlinks=False)
        os.fchown(opened, user.pw_uid, user.pw_gid)
    finally:
        os.close(opened)


@contextmanager
def acting_as(user: pwd.struct_passwd | None) -> Iterator[None]:
    """What is opened is opened with no more rights than it will have."""
    if user is None:
        yield
        return
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def give_up(user: pwd.struct_passwd | None) -> None:
    """All but what is KEPT; become this user, if that is not None. Raises PrivilegeError."""
    before = present()
    missing = [name for number, name in NAMES.items() if not before.permitted >> number & 1]
    if missing:
        raise PrivilegeError(
            f"{' and '.join(missing)} missing: start it as root, or with AmbientCapabilities="
            "CAP_NET_ADMIN CAP_NET_RAW in the unit"
        )
    parent, dies_with_it = os.getppid(), _death_signal()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if before.effective >> CAP_SETPCAP & 1:
        _shrink_bounding_set()
        _prctl(_PR_SET_SECUREBITS, _NO_ROOT | _NO_AMBIENT | _KEEP_CAPS)
    if user is not None:
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    _set_capabilities(KEPT)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    # No further process; this one is there already.
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    # The kernel has forgotten it with the user.
    _prctl(_PR_SET_PDEATHSIG, dies_with_it)
    if dies_with_it and os.getppid() != parent:
        raise PrivilegeError("whoever started it has ended")
    wrong = _wrong(present(), user, had_all=before.effective >> CAP_SETPCAP & 1 == 1)
    if wrong:
        raise PrivilegeError(f"the kernel has not taken away what it should: {wrong}")


def _wrong(now: Privileges, user: pwd.struct_passwd | None, *, had_all: bool) -> str | None:
    if user is not None and now.uids != {user.pw_uid}:
        return f"uids {sorted(now.uids)}"
    if (now.permitted, now.effective, now.inheritable, now.ambient) != (KEPT, KEPT, 0, 0):
        return f"capabilities {now.permitted:x} {now.effective:x} {now.inheritable:x}"
    if had_all and now.bounding & ~KEPT:
        return f"bounding set {now.bounding:x}"
    return None if now.has_no_new else "no_new_privs is not set"


def _shrink_bounding_set() -> None:
    number = 0
    while (is_there := _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:
        if is_there and not KEPT >> number & 1:
            _prctl(_PR_CAPBSET_DROP, number)
        number += 1


def _set_capabilities(wanted: int) -> None:
    """Permitted and effective; none inheritable. For 64 of them, in two halves."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if _libc.capset(header, data) < 0:
        raise _error("capset")


def _death_signal() -> int:
    number = ctypes.c_int()
    _prctl(_PR_GET_PDEATHSIG, ctypes.addressof(number))
    return number.value


def _prctl(option: int, argument: int) -> None:
    unused = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(argument), unused, unused, unused) < 0:
        raise _error(f"prctl {option}")


def _error(what: str) -> PrivilegeError:
    number = ctypes.get_errno()
    return PrivilegeError(f"{what}: {os.strerror(number)} ({errno.errorcode.get(number)})")
