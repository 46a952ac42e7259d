"""The first process of a lab node, in namespaces of its own: sets up the "host", becomes yaim.

Started by the lab as: python -m yaim.lab.host NAME DIRECTORY USER
"""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

HELPER_USER = "daemon"
"""The helper's user: not the coordinator's, and there on every host."""
BROKEN = "broken"
"""While this file is in its directory, the node's service fails."""


def main(name: str, directory: Path, user: str) -> None:
    socket.sethostname(name)
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    open_up(
        {Path(sys.prefix), Path(sys.base_prefix), directory, *map(Path, filter(None, sys.path))}
    )
    subprocess.Popen((sys.executable, "-P", "-m", "yaim.lab.service", str(directory / BROKEN)))
    os.execv(
        sys.executable,
        (
            sys.executable,
            "-P",
            "-m",
            "yaim",
            "supervise",
            f"--user={user}",
            f"--helper-user={HELPER_USER}",
            f"--config={directory / 'yaim.yml'}",
            f"--helper-config={directory / 'helper.yml'}",
        ),
    )


def open_up(needed: set[Path]) -> None:
    """Lets unprivileged users reach yaim's code where it is: in root's home, say. A directory on
    the way that is closed to others is covered, in this process's mount namespace only, by an empty
    one that is open, in which nothing but what is needed is mounted again."""
    present = sorted(path.resolve() for path in needed if path.is_dir())
    covered: dict[Path, list[tuple[Path, int]]] = {}
    for path in present:
        closed = next((p for p in reversed(path.parents) if not _is_open(p)), None)
        if closed is not None:
            covered.setdefault(closed, []).append((path, os.open(path, os.O_PATH)))
    for closed, paths in covered.items():
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(closed))
        for path, fd in paths:
            path.mkdir(parents=True, exist_ok=True)
            # The path is taken as it is: resolved, it would lead into what covers it.
            _mount("--no-canonicalize", "--bind", f"/proc/{os.getpid()}/fd/{fd}", str(path))
            os.close(fd)


def _is_open(directory: Path) -> bool:
    return bool(directory.stat().st_mode & stat.S_IXOTH)


def _mount(*arguments: str) -> None:
    subprocess.run(("mount", *arguments), check=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
