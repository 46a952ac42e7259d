"""A "machine" for tests: its own processes, mounts and network; /run is empty. All that runs there
ends with it."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yaim.lab.namespaces import Namespace
from yaim.lab.wait import wait_until

SET_UP = """
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir /run/mount # which is mount(8)'s own
    exec env --ignore-signal=CHLD sleep infinity # leaves no zombies of orphans
"""


class Machine:
    def __init__(self, first: int) -> None:
        """`first`: its first process's id, as seen from here."""
        self._first = first
        self.root = Path(f"/proc/{first}/root")

    def command(self, *command: str) -> tuple[str, ...]:
        """How to run a command there."""
        return ("nsenter", f"--target={self._first}", "--all", "--", *command)

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        whole, env = self.command(*command), {**os.environ, **variables}
        return subprocess.run(whole, env=env, capture_output=True, text=True, timeout=90)

    def kill(self, number: signal.Signals, process: str) -> None:
        """`process`: as seen there; with a minus in front, a process group."""
        assert self.run("sh", "-c", f"kill -s {number} -- {process}").returncode == 0

    def processes(self) -> dict[str, str]:
        """Process id, as seen there, to title; zombies have none."""
        found = {}
        for directory in (self.root / "proc").glob("[0-9]*"):
            try:
                title = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # has ended
            found[directory.name] = title.strip()
        return found

    def pid(self, title: str) -> str | None:
        """The id of the process with this in its title, as seen there."""
        return next((pid for pid, each in self.processes().items() if title in each), None)

    def remains(self) -> dict[str, list[str]]:
        """Whatever something that ran there could have left; but for files anywhere else. A
        network namespace without a name is gone with its processes."""
        proc = Path(f"/proc/{self._first}")
        return {
            "processes": sorted(self.processes().values()),
            "mounts": [line.split()[1] for line in (proc / "mounts").read_text().splitlines()],
            "interfaces": re.findall(r"(\w+):", (proc / "net/dev").read_text()),
            "files": sorted(str(file) for file in (self.root / "run").rglob("*")),
        }


@contextmanager
def machine_in(namespace: Namespace) -> Iterator[Machine]:
    """A machine with this network namespace."""
    flags = ("--pid", "--mount", "--uts", "--fork", "--kill-child", "--mount-proc")
    with Path(os.devnull).open("wb") as log:
        process = namespace.start(("unshare", *flags, "--", "sh", "-ec", SET_UP), log)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        wait_until(lambda: bool(children.read_text()), 20.0, "the first process")
        machine = Machine(int(children.read_text()))
        first = {"1": "sleep infinity"}
        wait_until(lambda: machine.processes() == first, 20.0, "the machine to be set up")
        yield machine
    finally:
        process.kill()
        process.wait()
