"""yaim-helper: start it, with a socket of its own or one that was handed in; or one of its tools,
which need no privileges."""

import argparse
import os
import pwd
import signal
import socket
import sys
from pathlib import Path

from yaim_helper.audit import AuditError, AuditLog
from yaim_helper.policy import Policy, PolicyError, read_policy
from yaim_helper.privileges import PrivilegeError, acting_as, give_up, hand_over, user_named
from yaim_helper.server import Server, tell

EX_CONFIG = 78
EX_CANNOT_START = 1
_FIRST_PASSED_FD = 3
"""sd_listen_fds(3)"""


def main() -> int:
    match sys.argv[1:]:
        case ["audit", *rest]:
            from yaim_helper import audit_tools

            return audit_tools.main(rest)
        case ["policy", *rest]:
            from yaim_helper import policy_tools

            return policy_tools.main(rest)
        case rest:
            return serve(rest)


def serve(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="yaim-helper",
        description="Adds and removes addresses for the yaim coordinator, within an allowlist.",
    )
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
        default="yaim-helper",
        help="whom to run as, with CAP_NET_ADMIN and CAP_NET_RAW only, if started as root;"
        " default: %(default)s",
    )
    options = parser.parse_args(arguments)
    # Until the server can heed it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
    try:
        policy = read_policy(options.config)
    except PolicyError as error:
        return _give_up(EX_CONFIG, str(error))
    tell("\n".join(policy.warnings))
    try:
        user = user_named(options.user) if os.geteuid() == 0 else None
        if user is not None:
            hand_over(policy.audit_log, user)
        # First what a second helper does not get.
        with acting_as(user):
            audit = AuditLog(policy.audit_log, policy.sha256)
        listener = _passed_socket() or _own_socket(options.socket, policy)
        give_up(user)
        server = Server(listener, policy, audit)
    except (OSError, AuditError, PrivilegeError) as error:
        return _give_up(EX_CANNOT_START, str(error))
    if not os.access(options.config, os.R_OK):
        tell(f"{options.config}: SIGHUP could not read it: its user is not allowed to (chmod a+r)")
    server.run()
    return 0


def _passed_socket() -> socket.socket | None:
    """The listening socket that systemd, or whoever does as systemd does, hands in."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=_FIRST_PASSED_FD)


def _own_socket(path: Path, policy: Policy) -> socket.socket:
    """Open to root and to the group of the first user of the policy, or to that user if it has no
    account; SO_PEERCRED decides anyway."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path.unlink(missing_ok=True)
    listener.bind(str(path))
    for uid in policy.users[:1]:
        try:
            os.chown(path, -1, pwd.getpwuid(uid).pw_gid)
        except KeyError:
            # No such account.
            os.chown(path, uid, -1)
    path.chmod(0o660)
    listener.listen(128)
    return listener


def _give_up(status: int, text: str) -> int:
    tell(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
