"""Starting the helper: with a socket of its own or one that was handed in, as the user that it is
to be; and telling whoever runs it why it cannot start.

Ends in the server's loop (server.py). Nothing is asked of it before its privileges are dropped.
"""

import argparse
import errno
import os
import pwd
import signal
import socket
import stat
import sys
import time
from pathlib import Path

from yaim_helper import __version__
from yaim_helper.held import fencing, reset
from yaim_helper.jobs import RoutingThread
from yaim_helper.kernel.addresses import KernelError
from yaim_helper.ownership import make_directory
from yaim_helper.policy.read import read_policy
from yaim_helper.policy.rules import Policy, PolicyError
from yaim_helper.record.log import AuditError, AuditLog
from yaim_helper.record.recorder import Recorder
from yaim_helper.serve.disposal import Disposal
from yaim_helper.serve.privileges import (
    DEFAULT_USER,
    PrivilegesError,
    User,
    advice,
    drop_to,
    record_directory,
    start_nothing_more,
    user_to_be,
)
from yaim_helper.serve.sd_notify import ServiceManager
from yaim_helper.serve.server import Server
from yaim_helper.stderr import tell

EX_CONFIG = 78
EX_CANNOT_START = 1
LINGER_S = 2.0
"""How long a helper that cannot start waits before it ends: a service manager starts it again and
again in vain."""
SWITCH_WITHIN_S = 0.0005
"""How soon one of the threads lets another one run."""
_FIRST_PASSED_FD = 3
"""sd_listen_fds(3)"""


def parser() -> argparse.ArgumentParser:
    """Returns the parser for all but `policy` and `audit`, which have their own."""
    parser = argparse.ArgumentParser(
        prog="yaim-helper",
        description="Adds and removes addresses for the yaim coordinator, within an allowlist.",
        epilog="Further commands: yaim-helper policy --help: looking at an allowlist; yaim-helper"
        " audit --help: what is on record. Exit status: 0 it was stopped, 1 it cannot start,"
        " 2 wrong usage, 78 the allowlist cannot be used.",
    )
    parser.add_argument("--version", action="version", version=f"yaim-helper {__version__}")
    parser.add_argument(
        "--config", type=Path, default=Path("/etc/yaim/helper.yml"), help="default: %(default)s"
    )
    parser.add_argument(
        "--socket",
        type=Path,
        default=Path("/run/yaim-helper/helper.sock"),
        help="where to listen, unless systemd hands in a socket; default: %(default)s",
    )
    parser.add_argument(
        "--user",
        metavar="NAME",
        default=DEFAULT_USER,
        help="whom to work as if started by root, who keeps two capabilities in any case;"
        " default: %(default)s",
    )
    return parser


def serve(arguments: list[str]) -> int:
    """Starts the helper and serves until it is stopped; returns the exit status."""
    options = parser().parse_args(arguments)
    # SIGHUP waits until the server can heed it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
    try:
        policy = read_policy(options.config)
        tell("\n".join(policy.warnings))
        user = user_to_be(options.user)
        # First what a second helper does not get.
        with record_directory(policy.audit_log, user):
            listener = _passed_socket() or _own_socket(options.socket, policy)
            drop_to(user)
        # From here on all is opened as it is after SIGHUP.
        policy = read_policy(options.config)
        # Their threads have the privileges that are left, and are the last that are started. They
        # let this one go on at once: it may have begun to act, and have a tenth of a second for it.
        sys.setswitchinterval(SWITCH_WITHIN_S)
        recorder = Recorder(_opened_record(policy, user), policy.sha256)
        disposal = Disposal()
        fenced = fencing.begin(is_wanted=policy.is_fence_wanted)
        routing = RoutingThread() if fenced.fences is not None else None
        resetting = reset.begin()
        start_nothing_more()
        server = Server(listener, policy, recorder, disposal, fenced, routing, resetting)
    except PolicyError as error:
        return _give_up(EX_CONFIG, str(error))
    except (AuditError, PrivilegesError, KernelError) as error:
        return _give_up(EX_CANNOT_START, str(error))
    except RuntimeError as error:
        return _give_up(EX_CANNOT_START, f"{error}: four are needed besides the first")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _give_up(EX_CANNOT_START, f"{where}{error.strerror}")
    server.run()
    return 0


def _opened_record(policy: Policy, user: User) -> AuditLog:
    """Returns the record, open. Raises AuditError."""
    try:
        return AuditLog(policy.audit_log, policy.sha256)
    except AuditError as error:
        what_to_do = advice(error.__cause__, policy.audit_log, user)
        raise AuditError(f"{error}{what_to_do}") from error


def _passed_socket() -> socket.socket | None:
    """Returns the listening socket that systemd, or whoever does as systemd does, hands in; None:
    there is none."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=_FIRST_PASSED_FD)


def _own_socket(path: Path, policy: Policy) -> socket.socket:
    """Returns a new listening socket. It is open to root and to the group of the first user of the
    policy, or to that user if it has no account; SO_PEERCRED decides anyway. Raises OSError."""
    try:
        return _bound(path, policy)
    except OSError as error:
        raise OSError(error.errno, f"--socket {path}: {error.strerror or error}") from error


def _bound(path: Path, policy: Policy) -> socket.socket:
    """Returns the socket, which is never open to more than it is to be. Nothing in its way is
    changed but a socket."""
    # Another user than root makes it where he may.
    if fault := make_directory(path.parent) if os.geteuid() == 0 else None:
        raise OSError(errno.EPERM, fault)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _make_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    umask = os.umask(0o117)
    try:
        listener.bind(str(path))
    finally:
        os.umask(umask)
    for uid in policy.users[:1]:
        _give(path, uid)
    # Nobody can connect before.
    listener.listen(128)
    return listener


def _give(path: Path, uid: int) -> None:
    """Gives the socket to a user's group, by a descriptor and not by its path: nothing is given
    that somebody has put in its place meanwhile."""
    found = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(found).st_mode):
            raise OSError(errno.EEXIST, "is not a socket any more: others can write its directory")
        itself = f"/proc/self/fd/{found}"
        try:
            os.chown(itself, -1, pwd.getpwuid(uid).pw_gid)
        except KeyError:
            # No such account.
            os.chown(itself, uid, -1)
    finally:
        os.close(found)


def _make_way(path: Path) -> None:
    """Removes a socket that a former life has left, and nothing else. Raises OSError."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise OSError(errno.EEXIST, "is there already, and is not a socket: move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "somebody listens there already")


def _give_up(status: int, text: str) -> int:
    """Tells why the helper does not start, and returns the exit status."""
    tell(text)
    manager = ServiceManager()
    if manager.is_there:
        manager.tell_status(text)
        time.sleep(LINGER_S)
    return status
