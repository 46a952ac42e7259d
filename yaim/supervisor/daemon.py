"""Makes the supervisor a daemon, and does not leave its limits to the terminal that it came
from."""

import os
import resource
import socket
from pathlib import Path
from typing import Any

from yaim.supervisor.error import SuperviseError
from yaim.supervisor.files import PidFile, opened

MOST_FILES = 4096
"""The number of files that a daemon may have open at once. A unit of systemd's has 1024."""

_LEAST = (
    (resource.RLIMIT_NOFILE, 256, "open files", "ulimit -n 1024"),
    (resource.RLIMIT_FSIZE, 1 << 30, "the size of files", "ulimit -f unlimited"),
    (resource.RLIMIT_CPU, 1 << 40, "seconds of processor time", "ulimit -t unlimited"),
)
"""The limits that must not be lower."""


def daemonize(pid_file: Path, log_file: Path, listener: socket.socket) -> Any:
    """Returns a context, to be entered, in which this process is a daemon. Raises
    SuperviseError."""
    lock = PidFile(pid_file)
    log = os.fdopen(opened(log_file, os.O_WRONLY | os.O_APPEND, 0o644, "--log-file"), "a")
    # Before 3.0 it makes a set of all descriptors that there could be: of a thousand million, as
    # the limit is in many containers, it takes all memory (Red Hat's bug 2307635).
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not 0 <= hard <= MOST_FILES:
        soft = soft if 0 <= soft <= MOST_FILES else MOST_FILES
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, MOST_FILES))
    import daemon

    return daemon.DaemonContext(
        pidfile=lock,
        files_preserve=[lock.file, listener],
        umask=0o022,
        stdout=log,
        stderr=log,
        detach_process=True,
        signal_map={},
    )


def require_room() -> None:
    """Does not leave it to the terminal that it was started from what this process and its children
    may take, and which modes their files get. Raises SuperviseError."""
    os.umask(0o022)
    for which, least, what, remedy in _LEAST:
        soft, _ = resource.getrlimit(which)
        if soft != resource.RLIM_INFINITY and soft < least:
            raise SuperviseError(f"the limit of {what} is {soft} here: raise it ({remedy})")
