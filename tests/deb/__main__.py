"""The tests of the Debian package on hosts with systemd: python -m tests.deb [pytest's arguments]

As root. Everything is in namespaces and a control group of its own, which are gone with it.
"""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from tests.deb.hosts import CGROUP, IMAGE, ROOT, SUITES, remove_cgroups
from yaim.lab.namespaces import DIES_WITH_US

CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
"""Where the unified hierarchy is; the first one on hosts that have both."""

TIMEOUT = "--timeout=600"
"""The limit of one test. The first one builds the packages and boots the hosts, and each command on
them has a limit of its own."""


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGHUP, _end)
    unified = next(each for each in CGROUPS if (each / "cgroup.controllers").exists())
    cgroup = unified / f"yaim-test-{os.getpid()}"
    stack = ExitStack()
    # Where there is a network.
    images = {IMAGE + suite: image(suite, stack) for suite in sorted({*SUITES.values()})}
    # Not a tmpfs: it has no append-only files.
    directory = tempfile.mkdtemp(prefix="yaim-test-", dir="/var/tmp")
    namespaces = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    pytest = ("-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={directory}/pytest", TIMEOUT)
    try:
        cgroup.mkdir()
        return subprocess.run(
            (
                *(*DIES_WITH_US, *namespaces, "--", sys.executable, *pytest),
                *arguments,
                *([] if any(map(is_path, arguments)) else [str(Path(__file__).parent)]),
            ),
            cwd=ROOT,
            env={**os.environ, **images, CGROUP: str(cgroup), "TMPDIR": directory},
        ).returncode
    finally:
        subprocess.run(("chattr", "-R", "-f", "-a", directory), capture_output=True)
        subprocess.run(("rm", "-rf", "--one-file-system", directory))
        remove_cgroups(cgroup)
        stack.close()


def is_path(argument: str) -> bool:
    return Path(argument.partition("::")[0]).exists()


def image(suite: str, stack: ExitStack) -> str:
    """The layers of its root file system, which are made if need be; nobody removes them until the
    stack is closed."""
    command = (str(ROOT / "tests/debian/root"), suite, "host")
    while True:
        done = subprocess.run(
            (*DIES_WITH_US, *command), stdout=subprocess.PIPE, text=True, check=True
        )
        layers = [Path(each) for each in done.stdout.strip().split(":")]
        lock = stack.enter_context((layers[0].parent / f"{suite}.lock").open())
        fcntl.flock(lock, fcntl.LOCK_SH)
        if all(each.is_dir() for each in layers):
            return ":".join(map(str, layers))


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
