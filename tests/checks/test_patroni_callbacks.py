"""Real Patroni nodes whose callbacks have the checks made at once, as docs/checks.md has it."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.checks.patroni_cluster import CALLBACKS, Node, running, wait_until
from yaim.checks.kinds import KINDS
from yaim.checks.now import CheckTrigger
from yaim.checks.patroni import PatroniCheck
from yaim.checks.run import CheckPlan, CheckRunner

NEVER_S = 3600.0
ROOT = Path(__file__).parents[2]


@pytest.fixture
def files() -> Iterator[Path]:
    """A directory that PostgreSQL's user may look into."""
    with TemporaryDirectory(prefix="yaim-callbacks-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_switchover_is_found_though_no_check_was_due(files: Path) -> None:
    yaim = f"env PYTHONPATH={shlex.quote(str(ROOT))} {shlex.quote(sys.executable)} -m yaim"
    found: dict[str, list[bool]] = {"n1": [], "n2": []}
    with running(None, f"{yaim} check --now --check-trigger={files}/n{{}}") as nodes:
        runners = [_checked(node, files, found) for node in nodes]
        wait_until(lambda: found["n1"][-1:] == [True] and found["n2"][-1:] == [False])
        nodes[0].switch_over("n1", "n2")
        wait_until(lambda: found["n1"][-1:] == [False] and found["n2"][-1:] == [True])
        for each in runners:
            each.use(())


def _checked(node: Node, files: Path, found: dict[str, list[bool]]) -> CheckRunner:
    name = node.directory.name
    settings = PatroniCheck(node.url, "primary")
    plan = CheckPlan(name, KINDS["patroni"], settings, NEVER_S, 5.0, 0, 0.0)
    runner = CheckRunner([plan], lambda told: found[told.check].append(told.is_healthy))
    CheckTrigger(files / name, runner.make_now)
    return runner


def test_the_lines_in_the_documentation_are_those_that_were_tried() -> None:
    text = (ROOT / "docs" / "checks.md").read_text()
    lines = [f"        {each}: /usr/bin/yaim check --now\n" for each in CALLBACKS]
    assert "    postgresql:\n      callbacks:\n" + "".join(lines) in text
