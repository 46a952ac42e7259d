"""Nothing on the host decides a test: neither what runs there nor how it, or a user, is set up.

Everything starts from the same environment, in namespaces of its own, which are gone with the
process.
"""

import ctypes
import os
import sys
import time
from pathlib import Path

from yaim.lab.host import open_up
from yaim.lab.namespaces import LabError, enter_private_network, run

ROOT = Path(__file__).parents[1]
_CLONE_NEWNS = 0x00020000
_KEPT = ("TMPDIR", "TERM", "CI")
_KEPT_BEGINNINGS = ("YAIM_TEST_", "YAIM_SIM_", "YAIM_CHAOS_", "COVERAGE_", "PYTEST_CURRENT_TEST")
"""Variables that are meant for the tests."""
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_HIDDEN = (
    "/run",
    "/etc/keepalived",
    "/etc/network",
    "/etc/NetworkManager",
    "/etc/patroni",
    "/etc/pgbouncer",
    "/etc/systemd/network",
    "/etc/systemd/system",
    "/etc/yaim",
)
"""Directories that are empty here: what runs on the host, and how it is set up."""


def leave_the_users_settings() -> None:
    """Locale, time zone, home directory, proxies, servers that clients are told of, umask, nice."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(_KEPT_BEGINNINGS)
    }
    os.environ.clear()
    os.environ |= {**kept, "PATH": PATH, "HOME": "/nonexistent", "LANG": "C.UTF-8", "TZ": "UTC"}
    time.tzset()
    os.umask(0o022)
    if os.geteuid() == 0:
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def leave_the_host() -> None:
    """Its network, and _HIDDEN; other users can read the code, wherever it is. To be called before
    there are other threads, which would stay. Raises OSError or LabError where it is not permitted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not Path("/proc/sys/net/ipv6").is_dir():
        raise LabError("this kernel was booted with ipv6.disable=1, and tests need IPv6")
    enter_private_network()
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "cannot make a mount namespace")
    run(("mount", "--make-rprivate", "/"))
    for each in _HIDDEN:
        if Path(each).is_dir():
            run(("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", each))
    here = Path.cwd()
    open_up({ROOT, Path(sys.prefix), Path(sys.base_prefix), *map(Path, filter(None, sys.path))})
    os.chdir(here)
