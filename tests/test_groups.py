"""The group in which a test lands, read off what it reaches (tests/groups.py)."""

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.lab.machine
from tests import groups
from tests.groups import ROOT, reached
from yaim.core.state.health import Health
from yaim.dcs.etcd.client import EtcdClient

SCRIPT = """
import json, sys
import pytest
from tests import groups

class Placements:
    def pytest_collection_modifyitems(self, items):
        self.found = {
            item.nodeid: (
                groups.is_quick(item),
                groups.touches_a_library(item),
                sorted(groups.reached_by(item)),
            )
            for item in items
        }

placements = Placements()
status = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "tests"], [placements])
json.dump(placements.found, open(sys.argv[1], "w"))
sys.exit(status)
"""


@dataclass(frozen=True, slots=True)
class Placement:
    is_quick: bool
    touches_a_library: bool
    reached: frozenset[str]


@pytest.fixture(scope="module")
def placements(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Placement]:
    """The groups of all tests there are."""
    file = tmp_path_factory.mktemp("groups") / "placements"
    command = (sys.executable, "-c", SCRIPT, str(file))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return {
        name: Placement(quick, library, frozenset(modules))
        for name, (quick, library, modules) in json.loads(file.read_text()).items()
    }


def those(placements: dict[str, Placement], beginning: str) -> list[Placement]:
    found = [each for name, each in placements.items() if name.startswith(beginning)]
    assert found, f"no test begins with {beginning}"
    return found


@pytest.mark.parametrize(
    "beginning",
    [
        "tests/core/test_step.py",
        "tests/core/test_placement.py",
        "tests/helper/test_protocol.py",
        "tests/helper/policy/test_read.py::test_a_wrong_file_is_refused_with_the_line",
        "tests/dcs/etcd/test_keys.py",
        "tests/dcs/test_records.py",
        "tests/status/",
        "tests/status/test_table.py",
        "tests/config/test_values.py::test_a_bad_value_is_told_with_its_line_and_what_is_expected",
    ],
)
def test_core_protocol_policy_configuration_and_wire_formats_are_quick(
    placements: dict[str, Placement], beginning: str
) -> None:
    assert all(each.is_quick for each in those(placements, beginning))


@pytest.mark.parametrize(
    "beginning",
    [
        "tests/system/",
        "tests/lab/test_lab.py",
        "tests/helper/serve/test_server.py",
        "tests/dcs/etcd/test_client.py",
        "tests/checks/test_http.py::test_the_expected_code_is_healthy",
        "tests/cli/test_cli.py",
        "tests/test_groups.py::test_core_protocol",
        "tests/sim/",
    ],
)
def test_what_has_processes_or_a_network_or_takes_long_is_not_quick(
    placements: dict[str, Placement], beginning: str
) -> None:
    assert not any(each.is_quick for each in those(placements, beginning))


@pytest.mark.parametrize(
    "beginning",
    [
        "tests/dcs/etcd/test_client.py",
        "tests/dcs/etcd/test_store.py",
        "tests/checks/test_postgres.py",
        "tests/checks/test_http.py::test_the_expected_code_is_healthy",
        "tests/checks/test_patroni.py",
        "tests/checks/test_http.py::test_an_answer_costs_little_memory",
        "tests/helper/policy/test_read.py::test_a_wrong_file_is_refused_with_the_line",
        "tests/helper/serve/test_privileges.py",
        "tests/helper/serve/test_server.py",
        "tests/helper/serve/test_start.py",
        "tests/system/test_supervisor.py",
        "tests/system/test_cluster.py::test_a_failing_service_costs_its_node",
        "tests/system/test_cluster.py::test_a_stopped_node_hands_over_at_once",
        "tests/cli/test_cli.py",
    ],
)
def test_adapters_the_program_and_a_hand_over_run_with_every_set(
    placements: dict[str, Placement], beginning: str
) -> None:
    assert all(each.touches_a_library for each in those(placements, beginning))


@pytest.mark.parametrize(
    "beginning",
    ["tests/core/", "tests/bench/", "tests/helper/test_protocol.py", "tests/dcs/etcd/test_keys.py"],
)
def test_what_is_pure_runs_once(placements: dict[str, Placement], beginning: str) -> None:
    assert not any(each.touches_a_library for each in those(placements, beginning))


def adapters() -> set[str]:
    """Modules of what is installed that import a library themselves."""
    modules = {
        ".".join((package, *file.relative_to(directory).with_suffix("").parts))
        for package, directory in groups.PRODUCT.items()
        for file in directory.rglob("*.py")
    }
    return {each for each in modules if groups.is_adapter(each)}


def test_each_module_that_uses_a_library_is_reached_by_tests_with_every_set(
    placements: dict[str, Placement],
) -> None:
    library = [each for each in placements.values() if each.touches_a_library]
    reached_there = frozenset[str]().union(*(each.reached for each in library))
    assert {
        "yaim.dcs.etcd.connection",
        "yaim.checks.http",
        "yaim_helper.policy.read",
    } <= adapters()
    assert adapters() - reached_there == set()


# --- what is reached ------------------------------------------------------------------------------


def calls(command: str) -> None:
    subprocess.run(command)


def through_a_function() -> None:
    calls("true")


class Base:
    def act(self) -> None:
        calls("true")


class Derived(Base):
    pass


def through_a_base_class() -> None:
    Derived().act()


@contextmanager
def managed() -> Iterator[None]:
    calls("true")
    yield


def through_a_context_manager() -> None:
    with managed():
        pass


@functools.cache
def cached() -> None:
    calls("true")


def through_a_cache() -> None:
    cached()


def in_a_function_within() -> Callable[[], None]:
    return lambda: calls("true")


PARTIAL = functools.partial(calls, "true")


def through_a_partial_function() -> None:
    PARTIAL()


TABLE = {"run": (calls,)}


def through_a_table() -> None:
    TABLE["run"][0]("true")


@given(st.integers())
def through_a_test_of_hypothesis(_: int) -> None:
    calls("true")


def through_another_module() -> None:
    tests.lab.machine.machine_in(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function",
    [
        through_a_function,
        through_a_base_class,
        through_a_context_manager,
        through_a_cache,
        in_a_function_within(),
        through_a_partial_function,
        through_a_table,
        through_a_test_of_hypothesis,
        through_another_module,
    ],
)
def test_a_process_that_is_started_somewhere_below_is_reached(function: Any) -> None:
    assert "subprocess" in reached([function])


def test_what_is_not_used_is_not_reached() -> None:
    def uses_health() -> Health:
        return Health(1, 1)  # type: ignore[arg-type]

    found = reached([uses_health])
    assert "yaim.core.state.health" in found
    assert "subprocess" not in found


def test_a_command_line_that_starts_yaim_reaches_the_whole_program() -> None:
    command = (sys.executable, "-m", "yaim", "status")

    def starts(arguments: tuple[str, ...] = ()) -> tuple[str, ...]:
        return (sys.executable, "-P", "-m", "yaim", *arguments)

    assert "yaim.__main__" in reached([command])
    assert "yaim.__main__" in reached([starts])
    assert "yaim.__main__" not in reached([("python", "-m", "pytest")])


PROGRAM = "import sys\nfrom yaim.checks.kinds import KINDS\n"


def test_what_the_text_of_a_program_imports_is_reached() -> None:
    def starts() -> str:
        return f"{PROGRAM}print(KINDS)"

    def has_it_within() -> str:
        return "from yaim.etcd import schema"

    assert "yaim.checks.kinds" in reached([starts])
    assert "yaim.etcd" in reached([has_it_within])


def test_what_a_function_imports_within_is_reached() -> None:
    def imports_within() -> object:
        import yaml

        return yaml

    assert "yaml" in reached([imports_within])


def test_of_yaims_own_modules_one_step_of_imports_counts() -> None:
    assert "yaim.dcs.etcd.client" in reached([EtcdClient])
    assert "yaim.dcs.etcd.connection" in groups.imports("yaim.dcs.etcd.client")
    assert any(groups.is_of(each, ["grpc"]) for each in groups.imports("yaim.dcs.etcd.connection"))
    assert groups.imports("subprocess") == frozenset()


# --- quick tests are held to it -------------------------------------------------------------------


@pytest.mark.parametrize(
    "attempt",
    [
        "subprocess.run(['true'])",
        "os.system('true')",
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/true', ['true'])",
        "socket.create_connection(('127.0.0.1', 9))",
        "socket.create_server(('127.0.0.1', 0))",
        "socket.getaddrinfo('localhost', 80)",
    ],
)
def test_a_quick_test_that_has_an_effect_fails(attempt: str) -> None:
    script = (
        "import os, socket, subprocess\n"
        "from tests import groups\n"
        "groups.deny_effects()\n"
        f"try:\n    {attempt}\nexcept groups.HasEffects as error:\n    print(error)\n"
    )
    done = subprocess.run((sys.executable, "-c", script), cwd=ROOT, capture_output=True, text=True)
    assert "in a quick test" in done.stdout, done.stderr


def test_what_a_quick_test_may_do_is_let_through() -> None:
    script = (
        "from pathlib import Path\n"
        "from tests import groups\n"
        "groups.deny_effects()\n"
        "Path('/etc/os-release').read_text()\n"
    )
    subprocess.run((sys.executable, "-c", script), cwd=ROOT, check=True)


# --- so is the rule about libraries ---------------------------------------------------------------


@pytest.mark.every_set
@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python cannot tell before 3.12")
def test_a_library_that_is_executed_is_noticed() -> None:
    script = (
        "import json, yaml\n"
        "from tests import groups\n"
        "executed = groups.Executed()\n"
        "executed.watch()\n"
        "json.loads('{}')\n"
        "assert executed.libraries == set(), executed.libraries\n"
        "yaml.safe_load('a: 1')\n"
        "assert executed.libraries == {'yaml'}, executed.libraries\n"
    )
    subprocess.run((sys.executable, "-c", script), cwd=ROOT, check=True)
