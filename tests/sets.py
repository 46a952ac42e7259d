"""What a change must pass, or all there is, with every set of libraries.

    python -m tests.sets [--all] [SET ...]

as root; without names, every set, and the package. PyPI's set is the newest that pyproject.toml
permits, in the virtual environment that this is started in. The others are Debian's own packages,
its etcd among them, each in a root file system of that suite (tests/debian/run).

Decides what runs with which set: all tests with PyPI's; with Debian's those whose outcome a library
may change (tests/groups.py), or with --all also all. Parts run in stages: those that measure time
after all others. Each is in namespaces of its own: parts see nothing of each other, and nothing of
them is left, however they end. What a part has told is printed as a whole when it has ended; how
long each took, at the end. The exit status is 0 if all have passed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from tests import groups
from tests.isolation import leave_the_users_settings
from yaim.lab.namespaces import DIES_WITH_US

ROOT = Path(__file__).parents[1]
PYPI, DEB = "pypi", "deb"
DEBIAN = ("trixie", "bookworm")
SETS = (PYPI, *DEBIAN, DEB)
SYSTEM = "tests/system"
CHAOS = "tests/system/test_chaos.py::test_no_address_is_ever_on_two_nodes_or_for_long_on_none"
MODEL = "tests/system/test_model.py"
ALONE, BESIDE_OTHERS = ("-m", "alone"), ("-m", "not alone")
"""Tests of what a node does while it has hardly a processor left, or while nobody on the machine
can change an address: with other tests beside them, those would be tested."""
ROUTING_LOCK = "tests/system/test_routing_lock.py"
"""It is about the kernel: with PyPI's set only."""
SIMULATION = "tests/sim/test_sim.py"
HELPER = "tests/helper"
CHECKS = "tests/checks"
ONCE = (SIMULATION, MODEL, "tests/bench")
"""These run without --all with PyPI's set only: they are about the simulation or the benchmark more
than about yaim. (The simulation's etcd is held against the real ones with all sets.)"""
PROXIES = ("http_proxy", "https_proxy", "no_proxy")
"""Variables, as apt knows them."""
PROCESSORS = os.cpu_count() or 1
MANY_SEEDS = 5000
"""The seeds of the simulation, with --all."""
TELL_EVERY_S = 60.0
ENDS_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Part:
    set: str
    name: str
    command: tuple[str, ...]
    has_to_tidy: bool = False
    """What it leaves is not gone with its namespaces: it is asked to end itself first."""


def pypi(*arguments: str, module: str = "pytest") -> tuple[str, ...]:
    """pytest, or what runs it, with this Python; its temporary files are gone with its mount
    namespace, and so are libfaketime's semaphores, which have names with process ids in them. The
    shell is the first process: it leaves no zombies of orphans."""
    script = 'mount -t tmpfs -o mode=755 tmpfs "$TMPDIR"; mount -t tmpfs tmpfs /dev/shm; "$@"'
    pytest = (sys.executable, "-m", module, "-p", "no:cacheprovider")
    return (
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
        *("sh", "-ec", script, "sh", *pytest, "--durations=10", *arguments),
    )


def debian(suite: str, *arguments: str) -> tuple[str, ...]:
    return ("tests/debian/run", suite, "--durations=10", f"--deselect={CHAOS}", *arguments)


def but(*paths: str) -> tuple[str, ...]:
    return tuple(f"--ignore={path}" for path in paths)


def of(group: str) -> str:
    return f"--group={group}"


@dataclass(frozen=True, slots=True)
class Stage:
    """Parts that run before those of the next one begin."""

    parts: tuple[Part, ...]
    """The longest first."""
    side_by_side: int


def make_root(suite: str) -> Part:
    """The one thing that wants the world outside, and so the user's way there."""
    proxies = [f"{name}={os.environ[name]}" for name in PROXIES if name in os.environ]
    return Part(suite, "root file systems", ("env", *proxies, "tests/debian/root", suite))


def stages(is_all: bool) -> tuple[Stage, ...]:
    """What runs, and when."""
    some = (of(groups.ALL),) if is_all else (of(groups.LIBRARY), *but(*ONCE))
    simulation = pypi(SIMULATION)
    if is_all:
        simulation = ("env", f"YAIM_SIM_SEEDS={MANY_SEEDS}", *simulation)
    # Here no time counts that is shorter than some tenths of a second. Tests mostly wait: there is
    # work for twice as many parts as there are processors.
    quietly = Stage(
        (
            *(
                Part(s, "all others", debian(s, *some, *BESIDE_OTHERS, *but(SYSTEM, CHECKS)))
                for s in DEBIAN
            ),
            Part(
                PYPI,
                "helper, covered",
                pypi(*BESIDE_OTHERS, HELPER, module="tests.helper.covered"),
            ),
            Part(
                PYPI,
                "all others",
                pypi(of(groups.REST), *BESIDE_OTHERS, *but(HELPER, SYSTEM, CHECKS, SIMULATION)),
            ),
            *(Part(s, "checks", debian(s, *some, CHECKS)) for s in DEBIAN),
            Part(PYPI, "checks", pypi(of(groups.REST), CHECKS)),
            Part(PYPI, "simulation", simulation),
            Part(PYPI, "quick", pypi(of(groups.QUICK), *but(HELPER))),
        ),
        side_by_side=2 * PROCESSORS,
    )
    # So do these; each cluster leaves more than two thirds of a processor to the others.
    etcd, cluster = f"{SYSTEM}/test_etcd.py", f"{SYSTEM}/test_cluster.py"
    rest = (SYSTEM, *BESIDE_OTHERS, *but(etcd, cluster, MODEL), f"--deselect={CHAOS}")
    clusters = Stage(
        (
            Part(PYPI, "clusters", pypi(cluster)),
            Part(PYPI, "clusters, etcd fails", pypi(etcd)),
            Part(PYPI, "clusters, others", pypi(*rest)),
            *(Part(s, "clusters", debian(s, *some, *BESIDE_OTHERS, SYSTEM)) for s in DEBIAN),
            Part(PYPI, "clusters, as modelled", pypi(MODEL)),
        ),
        side_by_side=2 * PROCESSORS,
    )
    deb = Part(DEB, "package", (sys.executable, "-m", "tests.deb"), has_to_tidy=True)
    alone = Stage(
        (
            deb,
            Part(PYPI, "alone", pypi(*ALONE)),
            *(Part(s, "alone", debian(s, *some, *ALONE, *but(ROUTING_LOCK))) for s in DEBIAN),
        ),
        side_by_side=1,
    )
    chaos = Stage((Part(PYPI, "chaos", pypi(CHAOS)),), side_by_side=1)
    roots = Stage(tuple(map(make_root, DEBIAN)), side_by_side=PROCESSORS)
    return (roots, quietly, clusters, alone, *((chaos,) if is_all else ()))


class Run:
    """A part that was started."""

    def __init__(self, part: Part, directory: Path) -> None:
        self.name = f"{part.set}, {part.name}"
        self._has_to_tidy = part.has_to_tidy
        self._began = time.monotonic()
        self._took_s: float | None = None
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
        if self._process.poll() is None:
            return False
        self._took_s = self._took_s or time.monotonic() - self._began
        return True

    def has_passed(self) -> bool:
        return self._process.poll() == 0

    def end(self) -> None:
        """Ends the part with all that runs in its namespaces."""
        if self._has_to_tidy:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDS_WITHIN_S)
        self._process.kill()
        self._process.wait()

    def told(self) -> str:
        return self._output.read_text(errors="replace")

    def summary(self) -> str:
        """Returns name, time and the last line, which is pytest's closing one when it has ended."""
        last = self.told().strip().rpartition("\n")[2].strip("= ")
        took_s = self._took_s or time.monotonic() - self._began
        return f"{self.name:28} {took_s:4.0f} s  {last}"


def main(arguments: list[str]) -> int:
    is_all = "--all" in arguments
    names = [each for each in arguments if each != "--all"]
    unknown = set(names) - set(SETS)
    if unknown:
        print(f"there is no set {', '.join(sorted(unknown))}: there are {', '.join(SETS)}")
        return 2
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    signal.signal(signal.SIGINT, _end)  # also where it was ignored, which tests would inherit
    plan = stages(is_all)
    leave_the_users_settings()
    began = time.monotonic()
    runs = list[Run]()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="yaim-tests-")))
        directory.chmod(0o755)
        for stage in plan:
            parts = [each for each in stage.parts if each.set in (names or SETS)]
            runs += _run(parts, stage.side_by_side, directory, stack)
        print(*(run.summary() for run in runs), sep="\n")
    print(f"{'in all':28} {time.monotonic() - began:4.0f} s")
    return 0 if all(run.has_passed() for run in runs) else 1


def _run(
    parts: Iterable[Part], side_by_side: int, directory: Path, stack: ExitStack
) -> Iterator[Run]:
    """Each when it has ended. The stack ends what is running then."""
    waiting, running = list(parts), list[Run]()
    tell_at = time.monotonic() + TELL_EVERY_S
    while waiting or running:
        while waiting and len(running) < side_by_side:
            run = Run(waiting.pop(0), directory)
            stack.callback(run.end)
            running.append(run)
            print(f"{run.name}: begun", flush=True)
        time.sleep(0.2)
        for run in [each for each in running if each.has_ended()]:
            running.remove(run)
            print(f"\n##### {run.name}\n{run.told()}", flush=True)
            yield run
        if running and time.monotonic() >= tell_at:
            tell_at += TELL_EVERY_S
            print(*(run.summary() for run in running), sep="\n", flush=True)


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
