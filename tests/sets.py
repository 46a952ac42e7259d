"""The whole suite with every set of libraries, side by side.

    python -m tests.sets [SET ...]

as root; without names, all. PyPI's set is the newest that pyproject.toml permits, in the virtual
environment that this is started in; the others are Debian's own packages and its etcd, each in a
root file system of that suite (tests/debian/run), for which any Python will do.

Decides what runs with which set. Each part runs in namespaces of its own, so that parts see nothing
of each other and nothing of them is left, however they end. What a part has told is printed as a
whole when it ends. The exit status is 0 if all have passed.
"""

import re
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
SIMULATION = ("tests/sim/test_sim.py",)
CHAOS = ("tests/system/test_chaos.py",)
ONCE = (*SIMULATION, *CHAOS, "tests/bench")
"""With PyPI's set only: other libraries or another etcd would show nothing new."""
DEBIAN = ("bookworm", "trixie")
NEVER_MIND_TIME = ("chrt", "--idle", "0")
"""In front of what needs much processor time, but none at any certain time: it gets what the parts
leave whose tests measure time."""
TELL_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    of: str
    """The set."""
    command: tuple[str, ...]


def on_this_machine(arguments: Iterable[str]) -> tuple[str, ...]:
    """pytest with this Python; temporary files are gone with its mount namespace. Its first process
    is a shell, which leaves no zombies of orphans."""
    script = 'mount -t tmpfs -o mode=755 tmpfs "$TMPDIR"; "$@"'
    return (
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
        *("sh", "-ec", script, "sh", sys.executable, "-m", "pytest", *arguments),
    )


def but(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"--ignore={path}" for path in paths)


PARTS = (
    Part("pypi", "pypi", on_this_machine(but((*SIMULATION, *CHAOS)))),
    *(Part(suite, suite, ("tests/debian/run", suite, *but(ONCE))) for suite in DEBIAN),
    Part("pypi: simulation", "pypi", (*NEVER_MIND_TIME, *on_this_machine(SIMULATION))),
    Part("pypi: chaos", "pypi", on_this_machine(CHAOS)),
)
SETS = tuple(dict.fromkeys(part.of for part in PARTS))


class Run:
    """A part that was started."""

    def __init__(self, part: Part, directory: Path) -> None:
        self.name = part.name
        self._began = time.monotonic()
        self._output = directory / part.name
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

    def progress(self) -> str:
        percents = re.findall(r"\[ *(\d+)%\]", self.told())
        return f"{self.name} {percents[-1] if percents else 0} %"

    def summary(self) -> str:
        """pytest's closing line, if it has come to that."""
        took_s = time.monotonic() - self._began
        last = self.told().strip().rpartition("\n")[2].strip("= ")
        return f"{self.name:18} {took_s:4.0f} s  {last}"


def main(names: list[str]) -> int:
    unknown = set(names) - set(SETS)
    if unknown:
        print(f"there is no set {', '.join(sorted(unknown))}: there are {', '.join(SETS)}")
        return 2
    signal.signal(signal.SIGTERM, _end)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="yaim-tests-")))
        directory.chmod(0o755)
        runs = []
        for part in PARTS:
            if part.of in (names or SETS):
                runs.append(Run(part, directory))
                stack.callback(runs[-1].kill)
        print("side by side:", ", ".join(run.name for run in runs), flush=True)
        summaries = _follow(runs)
    print("\n".join(("", *summaries)))
    return 0 if all(run.has_passed() for run in runs) else 1


def _follow(runs: list[Run]) -> list[str]:
    """Until all have ended."""
    summaries, running, tell_at = [], list(runs), time.monotonic() + TELL_EVERY_S
    while running:
        time.sleep(0.5)
        for run in [each for each in running if each.has_ended()]:
            running.remove(run)
            summaries.append(run.summary())
            print(f"\n##### {run.name}\n{run.told()}", flush=True)
        if running and time.monotonic() >= tell_at:
            tell_at += TELL_EVERY_S
            print(", ".join(run.progress() for run in running), flush=True)
    return summaries


def _end(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
