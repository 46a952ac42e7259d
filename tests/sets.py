"""The whole suite with every set of libraries, several parts of it side by side.

    python -m tests.sets [SET ...]

as root; without names, all. PyPI's set is the newest that pyproject.toml permits, in the virtual
environment that this is started in. The others are Debian's own packages, its etcd among them, each
in a root file system of that suite (tests/debian/run); for these alone any Python will do.

Decides what runs with which set. Each part runs in namespaces of its own: parts see nothing of
each other, and nothing of them is left, however they end. What a part has told is printed as a
whole when it has ended. The exit status is 0 if all have passed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from yaim.lab.namespaces import DIES_WITH_US

ROOT = Path(__file__).parents[1]
PYPI = "pypi"
DEBIAN = ("trixie", "bookworm")
SYSTEM = "tests/system"
CHAOS = "tests/system/test_chaos.py"
SIMULATION = "tests/sim/test_sim.py"
HELPER = "tests/helper"
ONCE = (CHAOS, SIMULATION, "tests/system/test_model.py", "tests/bench")
"""With PyPI's set only: what is random anyway, and what is about the simulation or the benchmark
more than about yaim. (The simulation's etcd is held against the real ones with all sets.)"""
SIDE_BY_SIDE = int(os.environ.get("YAIM_TESTS_SIDE_BY_SIDE", max(2, os.cpu_count() or 1)))
"""Parts. They mostly wait; but some measure time, and a helper that gets no processor for a tenth
of a second ends itself."""
TELL_EVERY_S = 60.0
NEVER_AGAIN = ("overlap", "still_there", "present", "shown", "announced")
"""In what a failed test says: an address on two nodes, or on an interface or announced when it must
not be. That is never bad luck."""
RERUN = ("-raR", "--reruns=1", f"--only-rerun=(?s)^(?!.*({'|'.join(NEVER_AGAIN)}))")
"""Most tests with processes measure time, on a machine that has other work too: what fails is tried
once more, and listed as RERUN, but for NEVER_AGAIN and what chaos and the simulation find."""


@dataclass(frozen=True, slots=True)
class Part:
    set: str
    name: str
    command: tuple[str, ...]


def pypi(*arguments: str, module: str = "pytest") -> tuple[str, ...]:
    """pytest, or what runs it, with this Python; its temporary files are gone with its mount
    namespace, and so are libfaketime's semaphores, which have names with process ids in them. The
    shell is the first process: it leaves no zombies of orphans."""
    script = 'mount -t tmpfs -o mode=755 tmpfs "$TMPDIR"; mount -t tmpfs tmpfs /dev/shm; "$@"'
    return (
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
        *("sh", "-ec", script, "sh", sys.executable, "-m", module, *arguments),
    )


def debian(suite: str, *arguments: str) -> tuple[str, ...]:
    return ("tests/debian/run", suite, *but(*ONCE), *RERUN, *arguments)


def but(*paths: str) -> tuple[str, ...]:
    return tuple(f"--ignore={path}" for path in paths)


PARTS = (
    Part(PYPI, "system", pypi(SYSTEM, *but(CHAOS), *RERUN)),
    *(Part(suite, "system", debian(suite, SYSTEM)) for suite in DEBIAN),
    Part(PYPI, "chaos", pypi(CHAOS)),
    *(Part(suite, "all others", debian(suite, *but(SYSTEM))) for suite in DEBIAN),
    Part(PYPI, "all others", pypi(*but(SYSTEM, SIMULATION, HELPER), *RERUN)),
    Part(PYPI, "helper, covered", pypi(HELPER, *RERUN, module="tests.helper.covered")),
    Part(PYPI, "simulation", ("nice", "-n", "10", *pypi(SIMULATION))),
)
"""The longest first."""
SETS = (PYPI, *DEBIAN)


class Run:
    """A part that was started."""

    def __init__(self, part: Part, directory: Path) -> None:
        self.name = f"{part.set}, {part.name}"
        self._began = time.monotonic()
        self._output = directory / self.name
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                (*DIES_WITH_US, "env", f"TMPDIR={directory}", *part.command),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def has_passed(self) -> bool:
        return self._process.poll() == 0

    def kill(self) -> None:
        """With all that runs in its namespaces."""
        self._process.kill()
        self._process.wait()

    def told(self) -> str:
        return self._output.read_text(errors="replace")

    def summary(self) -> str:
        """With its last line, which is pytest's closing one when it has ended."""
        last = self.told().strip().rpartition("\n")[2].strip("= ")
        return f"{self.name:22} {time.monotonic() - self._began:4.0f} s  {last}"


def main(names: list[str]) -> int:
    unknown = set(names) - set(SETS)
    if unknown:
        print(f"there is no set {', '.join(sorted(unknown))}: there are {', '.join(SETS)}")
        return 2
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)  # also where it was ignored, which tests would inherit
    parts = [part for part in PARTS if part.set in (names or SETS)]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="yaim-tests-")))
        directory.chmod(0o755)
        return _run(parts, directory, stack)


def _run(parts: Iterable[Part], directory: Path, stack: ExitStack) -> int:
    """The stack ends what is running then."""
    waiting, running, ended = list(parts), list[Run](), list[Run]()
    summaries = []
    tell_at = time.monotonic() + TELL_EVERY_S
    while waiting or running:
        while waiting and len(running) < SIDE_BY_SIDE:
            run = Run(waiting.pop(0), directory)
            stack.callback(run.kill)
            running.append(run)
            print(f"{run.name}: begun", flush=True)
        time.sleep(0.2)
        for run in [each for each in running if each.has_ended()]:
            running.remove(run)
            ended.append(run)
            summaries.append(run.summary())
            print(f"\n##### {run.name}\n{run.told()}", flush=True)
        if running and time.monotonic() >= tell_at:
            tell_at += TELL_EVERY_S
            print(*(run.summary() for run in running), sep="\n", flush=True)
    print("\n".join(summaries))
    return 0 if all(run.has_passed() for run in ended) else 1


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
