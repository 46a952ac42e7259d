"""`yaim check --now`, as Patroni's callbacks call it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from yaim.checks.now import NAME
from yaim.cli.check_now import DEFAULT_FILE

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "packaging" / "deb" / "yaim.service"
COORDINATOR = """
import sys, threading
from pathlib import Path
from typing import Any
from yaim.checks.now import CheckTrigger
CheckTrigger(Path(sys.argv[1]), lambda: print("asked", flush=True))
print("ready", flush=True)
threading.Event().wait()
"""


class Coordinator:
    """In another process, as locks are those of a process."""

    def __init__(self, path: Path, before: str = "") -> None:
        self.path = str(path)
        command = (sys.executable, "-c", before + COORDINATOR, self.path)
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.says() == "ready\n"

    def says(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path / "now")
    yield made
    made.kill()


def yaim(
    *arguments: str, python: tuple[str, ...] = ("-m", "yaim"), **environment: str
) -> tuple[int, str]:
    done = subprocess.run(
        (sys.executable, *python, *arguments),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def told(path: object, why: str) -> str:
    return (
        f"yaim: nobody looks at {path} ({why}): does yaim run here, with this check-trigger?"
        " (--check-trigger=PATH, as in its yaim.yml)\n"
    )


@pytest.mark.parametrize(
    "words", [(), ("on_role_change", "primary", "batman"), ("on_stop", "replica", "status")]
)
@pytest.mark.parametrize("how", ["flag", "flag before", "two words", "variable"])
def test_it_asks_whatever_patroni_appends(
    how: str, words: tuple[str, ...], coordinator: Coordinator
) -> None:
    path = coordinator.path
    given = {
        "flag": ("check", "--now", f"--check-trigger={path}", *words),
        "flag before": ("check", f"--check_trigger={path}", "--now", *words),
        "two words": ("check", "--now", "--check-trigger", path, *words),
        "variable": ("check", "--now", *words),
    }[how]
    environment: dict[str, Any] = {"YAIM_CHECK_TRIGGER": path} if how == "variable" else {}
    assert yaim(*given, **environment) == (0, "")
    assert coordinator.says() == "asked\n"


@pytest.mark.parametrize("now", [("check", "--now"), ("check", "--now", "--json")])
def test_where_nobody_looks_it_says_what_to_do(now: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "none"
    expected = told(path, "No such file or directory")
    assert yaim(*now, f"--check-trigger={path}") == (1, expected)


def test_one_that_was_left_behind_is_told_likewise(coordinator: Coordinator) -> None:
    coordinator.kill()
    path = coordinator.path
    assert yaim("check", "--now", YAIM_CHECK_TRIGGER=path) == (1, told(path, "left behind"))


def test_a_coordinator_that_cannot_see_it_does_not_look_as_if_it_could(tmp_path: Path) -> None:
    """There is a descriptor for the file, and none for inotify."""
    limit = (
        "import os, resource, yaim.checks.now; free = os.dup(0); os.close(free);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, free + 1))\n"
    )
    made = Coordinator(tmp_path / "now", limit)
    path = made.path
    assert Path(path).exists()
    assert yaim("check", "--now", YAIM_CHECK_TRIGGER=path) == (1, told(path, "left behind"))
    made.kill()


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_who_finds_something_else_is_told_and_does_not_wait(
    kind: str, coordinator: Coordinator, tmp_path: Path
) -> None:
    path = tmp_path / "else"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(coordinator.path)
    else:
        path.mkdir()
    why = "Too many levels of symbolic links" if kind == "link" else "not a file of yaim's"
    assert yaim("check", "--now", YAIM_CHECK_TRIGGER=str(path)) == (1, told(path, why))


def test_a_lock_that_others_can_have_looks_like_nobody(coordinator: Coordinator) -> None:
    """One takes a file that can be written to have what a coordinator has."""
    coordinator.kill()
    program = (
        "import fcntl, os, sys; file = os.open(sys.argv[1], os.O_RDONLY);"
        "fcntl.flock(file, fcntl.LOCK_EX); fcntl.lockf(file, fcntl.LOCK_SH);"
        "print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        (sys.executable, "-c", program, coordinator.path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as forging:
        assert forging.stdout and forging.stdout.readline() == "locked\n"
        status, _ = yaim("check", "--now", YAIM_CHECK_TRIGGER=coordinator.path)
        forging.communicate("", timeout=60)
    assert status == 1


def test_the_default_is_where_the_unit_has_systemd_make_a_directory() -> None:
    (directory,) = re.findall(r"(?m)^RuntimeDirectory=(.*)$", UNIT.read_text())
    assert f"/run/{directory}/{NAME}" == DEFAULT_FILE


def test_it_loads_neither_the_keys_nor_the_parser() -> None:
    program = (
        "import sys; from yaim.cli.main import main; main();"
        "print([m for m in sys.modules if m.startswith('yaim.c')], file=sys.stderr)"
    )
    _, said = yaim("check", "--now", python=("-c", program), YAIM_CHECK_TRIGGER="/none")
    assert said.splitlines()[-1] == "['yaim.cli', 'yaim.cli.main', 'yaim.cli.check_now']"
