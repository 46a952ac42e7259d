"""The helper's listening socket, which the supervisor holds as systemd would."""

import os
import pwd
import socket
import stat
import time
from pathlib import Path

from yaim.host.ownership import make_directory
from yaim.supervisor.error import SuperviseError
from yaim.supervisor.files import locked


def listen(path: Path, user: pwd.struct_passwd) -> socket.socket:
    """Returns the helper's socket, which is open to root and to the coordinator's group, from its
    first moment on. Raises SuperviseError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if fault := make_directory(path.parent):
            raise SuperviseError(f"{path}: {fault}; or name another with --helper-socket")
        # If two start at once, one has to be the second.
        with locked(path.with_name(f"{path.name}.lock")):
            if _is_listened_at(path):
                raise SuperviseError(f"another process listens at {path}: is yaim running already?")
            remove_socket(path)
            before = os.umask(0o117)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
            os.chown(path, 0, user.pw_gid, follow_symlinks=False)
            listener.listen(16)
    except OSError as error:
        raise SuperviseError(f"cannot listen at {path}: {error.strerror or error}") from error
    return listener


def remove_socket(path: Path) -> None:
    """Removes a socket, and nothing else. Raises SuperviseError and OSError."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SuperviseError(
            f"{path}: is there already, and is no socket: move it away, or name another place with"
            " --helper-socket"
        )
    path.unlink()


def _is_listened_at(path: Path) -> bool:
    """Whether a process listens there. Waits a little for one that is just ending."""
    for wait_s in (0.1, 0.4, 0.0):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as attempt:
            if attempt.connect_ex(str(path)) != 0:
                return False
        time.sleep(wait_s)
    return True
