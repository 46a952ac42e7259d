"""What this process may do: work on the network and nothing else, before it serves anyone.

Started as root it becomes a user of its own and keeps two capabilities; started by systemd as that
user it has to have these two. Either way it sheds the rest, can gain nothing any more, dumps no
core and starts no process. What the kernel then tells is believed, not what it was asked for: if it
is not so, the helper does not start.

Sources: capabilities(7), capset(2), prctl(2), getrlimit(2), proc_pid_status(5).
"""

import ctypes
import fcntl
import os
import pwd
import resource
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from yaim_helper.ownership import what_others_can_change
from yaim_helper.record.chain import MARKER, segment_number

DEFAULT_USER = "yaim-helper"

KEPT = {"CAP_NET_ADMIN": 1 << 12, "CAP_NET_RAW": 1 << 13}
_KEPT_MASK = sum(KEPT.values())
_SETPCAP = 1 << 8

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_SECUREBITS = 28
_NO_ROOT, _NO_AMBIENT = 0x3, 0xC0
"""Each with its lock: uid 0 brings no capabilities; none can be made ambient."""
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_NONE_AT_ALL = (0, 0)
"""The limit of a resource: none of it, and no way to get more."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


class PrivilegesError(Exception):
    """The process has too few privileges, or cannot get rid of others; the text says what to do."""


@dataclass(frozen=True, slots=True)
class User:
    """The user that the helper works as."""

    name: str
    uid: int
    gid: int


def user_to_be(name: str) -> User:
    """Returns the user of this name if this is root, who can choose; otherwise the user that this
    process is. Raises PrivilegesError."""
    if os.geteuid() != 0:
        return User(f"uid {os.geteuid()}", os.geteuid(), os.getegid())
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise PrivilegesError(
            f"there is no user {name!r} to work as: create it (adduser --system --group {name})"
            " or name another with --user"
        ) from None
    return User(name, account.pw_uid, account.pw_gid)


@contextmanager
def record_directory(path: Path, user: User) -> Iterator[None]:
    """Makes the directory of the record and gives it to the user, if that is due. No other helper
    gets it meanwhile. Raises PrivilegesError."""
    try:
        is_new = _made(path)
        how = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        directory = os.open(path, how | os.O_NOFOLLOW if is_new else how)
    except FileExistsError as error:
        raise PrivilegesError(
            f"{path}: is a file; audit-log names a directory: move it away"
        ) from error
    except OSError as error:
        raise PrivilegesError(f"{path}: {error.strerror}{advice(error, path, user)}") from error
    try:
        _lock(path, directory)
        _give(path, directory, user, is_new=is_new)
        yield
    finally:
        os.close(directory)


def advice(error: BaseException | None, path: Path, user: User) -> str:
    """Returns what to do about a record that cannot be opened."""
    if not isinstance(error, PermissionError):
        return ""
    return (
        f": {user.name} has to write it (chown -R {user.uid}:{user.gid} {path}) and to get there"
        " (the directories above must be searchable)"
    )


def _lock(path: Path, directory: int) -> None:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PrivilegesError(f"{path}: another yaim-helper is writing it") from error


def _made(path: Path) -> bool:
    """Makes a directory, and returns whether it was not there. Raises OSError."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
        return False
    return True


def _give(path: Path, directory: int, user: User, *, is_new: bool) -> None:
    """Gives the directory and what is in it to the user: only what is root's, and only as long as
    the directory is: later its user could have put there what is not his. Raises PrivilegesError;
    OSError if it has gone."""
    status = os.fstat(directory)
    if os.geteuid() != 0 or user.uid == 0 or status.st_uid != 0:
        return
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PrivilegesError(f"{path}: can be written by others than root (chmod go-w)")
    # Else it may be another one, by a link that somebody has put on the way.
    fault = what_others_can_change(path)
    if fault and is_new and not os.listdir(directory):
        # The group of /var/log could have put there another one that is empty, at most.
        fault = what_others_can_change(path.parent, may_be_groups=True)
    if fault:
        raise PrivilegesError(
            f"{path}: is not given to {user.name} as others can exchange it: {fault}"
        )
    names = os.listdir(directory)
    for name in names:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if (
            not (segment_number(name) or name == MARKER)
            or not stat.S_ISREG(found.st_mode)
            or found.st_nlink != 1
        ):
            raise PrivilegesError(
                f"{path}: {name} does not belong to a record: audit-log must be a directory of"
                f" its own, to be given to {user.name}"
            )
    try:
        for name in names:
            os.chown(name, user.uid, user.gid, dir_fd=directory, follow_symlinks=False)
        os.fchown(directory, user.uid, user.gid)
    except OSError as error:
        raise PrivilegesError(
            f"{path}: cannot be given to {user.name}: {error.strerror}"
        ) from error


def drop_to(user: User) -> None:
    """Becomes the user, with the two capabilities, which no program that this process might become
    would have. Raises PrivilegesError: then all is undefined and the process has to end."""
    before = _status()
    _require_kept(int(before["CapPrm"], 16))
    bounding = int(before["CapBnd"], 16)
    # Without CAP_SETPCAP it stays; it gives nothing to who can execute nothing with privileges.
    may_drop_bounding = bool(int(before["CapEff"], 16) & _SETPCAP)
    # A sandbox may deny it to who is that already.
    changes_user = (os.getresuid(), os.getresgid()) != ((user.uid,) * 3, (user.gid,) * 3)
    drops_groups = os.geteuid() == 0
    parent, death_signal = os.getppid(), _death_signal()
    try:
        resource.setrlimit(resource.RLIMIT_CORE, _NONE_AT_ALL)
        if may_drop_bounding:
            for bit in range(bounding.bit_length()):
                _prctl(_PR_CAPBSET_DROP, bit)
            _prctl(_PR_SET_SECUREBITS, _NO_ROOT | _NO_AMBIENT)
        _prctl(_PR_SET_KEEPCAPS, 1)
        if drops_groups and os.getgroups():
            try:
                os.setgroups([])
            except PermissionError:
                if changes_user:
                    raise
                drops_groups = False
        if changes_user:
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        _prctl(_PR_SET_KEEPCAPS, 0)
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        # A sandbox may deny it. Then those that it was started with have to be the right ones.
        with suppress(PermissionError):
            _set_capabilities(_KEPT_MASK)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        # Here, as the change of user resets it.
        _prctl(_PR_SET_DUMPABLE, 0)
    except OSError as error:
        raise PrivilegesError(
            f"cannot become {user.name} with {' and '.join(KEPT)} alone: {error}"
            " (CAP_SETUID and CAP_SETGID are needed for that, or --user root)"
        ) from error
    die_with(parent, death_signal)
    verify(user, 0 if may_drop_bounding else bounding, has_groups=not drops_groups)


def die_with(parent: int, death_signal: int) -> None:
    """Sets PR_SET_PDEATHSIG, which the change of user has reset; the parent may have ended
    meanwhile. Raises PrivilegesError; OSError if there is no such signal."""
    _prctl(_PR_SET_PDEATHSIG, death_signal)
    if death_signal and os.getppid() != parent:
        raise PrivilegesError("the process that it is to end with has ended")


def verify(user: User, bounding: int, *, has_groups: bool) -> None:
    """Asks the kernel whether all is as it should be. Raises PrivilegesError, naming what is
    not."""
    found = _status()
    kept, none = f"{_KEPT_MASK:016x}", f"{0:016x}"
    # Inheritable ones are for programs whose files have them, too, and those get none any more.
    inheritable = kept if found["CapInh"] == kept else none
    expected = {
        "Uid": " ".join([str(user.uid)] * 4),
        "Gid": " ".join([str(user.gid)] * 4),
        "Groups": found["Groups"] if has_groups else "",
        "CapInh": inheritable,
        "CapPrm": kept,
        "CapEff": kept,
        "CapBnd": f"{bounding:016x}",
        "CapAmb": none,
        "NoNewPrivs": "1",
        # What is above holds for one thread, and for those that it starts from now on.
        "Threads": "1",
        "dumpable": "0",
        "RLIMIT_CORE": str(_NONE_AT_ALL),
    }
    found = {
        **found,
        "dumpable": str(_prctl(_PR_GET_DUMPABLE)),
        "RLIMIT_CORE": str(resource.getrlimit(resource.RLIMIT_CORE)),
    }
    _require(expected, found)


def start_nothing_more() -> None:
    """From now on this process can start no process and no thread. Raises PrivilegesError."""
    resource.setrlimit(resource.RLIMIT_NPROC, _NONE_AT_ALL)
    found = resource.getrlimit(resource.RLIMIT_NPROC)
    _require({"RLIMIT_NPROC": str(_NONE_AT_ALL)}, {"RLIMIT_NPROC": str(found)})


def _require(expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    wrong = [
        f"{name} is {found.get(name)!r}, expected {value!r}"
        for name, value in expected.items()
        if found.get(name) != value
    ]
    if wrong:
        raise PrivilegesError(f"the kernel did not drop all privileges: {'; '.join(wrong)}")


def _require_kept(permitted: int) -> None:
    missing = " and ".join(name for name, bit in KEPT.items() if not permitted & bit)
    if not missing:
        return
    if os.geteuid() == 0:
        raise PrivilegesError(
            f"root has no {missing} here: add it to CapabilityBoundingSet= of the unit, or to what"
            " the container has (--cap-add)"
        )
    raise PrivilegesError(
        f"{missing} is missing: put AmbientCapabilities={' '.join(KEPT)} into the unit, and the"
        " same into its CapabilityBoundingSet= if it has one; or start it as root"
    )


def _status() -> Mapping[str, str]:
    """Returns the lines of proc_pid_status(5). Raises OSError."""
    text = Path("/proc/self/status").read_text()
    lines = (line.partition(":") for line in text.splitlines())
    return {name: " ".join(value.split()) for name, _, value in lines}


def _death_signal() -> int:
    """Returns the signal that this process gets when its parent ends; 0: none."""
    number = ctypes.c_int()
    _prctl(_PR_GET_PDEATHSIG, ctypes.addressof(number))
    return number.value


def _set_capabilities(mask: int) -> None:
    """Sets effective and permitted capabilities, and no inheritable ones. All are among the first
    32."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, struct.pack("=6I", mask, mask, 0, 0, 0, 0)))


def _prctl(option: int, argument: int = 0) -> int:
    return _checked(_libc.prctl(option, argument, 0, 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
