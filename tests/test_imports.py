"""Who may import what, read off the source: the core is pure, rooms import downward only, and the
two processes share no code.

What a program reaches by starting another one is not seen here, and may well be: yaim.lab starts
the helper.
"""

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE_MAY_IMPORT = (
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "ipaddress",
    "itertools",
    "math",
    "operator",
    "types",
    "typing",
    "yaim.core",
)
CORE_MAY_NOT_CALL = frozenset(
    {"open", "print", "input", "breakpoint", "exec", "eval", "compile", "__import__", "hash", "id"}
)
"""Built-in functions that do I/O or import, or whose result differs from one run to the next."""

ROOMS = frozenset(
    {
        *("checks", "cli", "config", "coordinator", "core", "dcs", "doctor", "host", "lab"),
        *("managers", "status", "steer", "supervisor"),
        *("__main__", "config_keys", "text", "wiring"),
    }
)
"""The folders of yaim/, and its files."""
FORBIDDEN = {
    # What all others may build upon.
    "core": ROOMS,
    "text": ROOMS,
    "config_keys": ROOMS,
    "host": ROOMS - {"core", "text"},
    # The kinds of checks, stores and managers. None knows of another, or of who chooses it.
    "checks": ROOMS - {"config_keys", "core", "host", "text"},
    "dcs": ROOMS - {"config_keys", "core", "host", "text"},
    "managers": ROOMS - {"config_keys", "core", "host", "text"},
    # What is told of a cluster, whoever asks.
    "status": ROOMS - {"core", "dcs", "text"},
    # What operators ask for comes to.
    "steer": ROOMS - {"core", "dcs", "status", "text"},
    # The configuration knows the kinds by their keys. The loop knows no kind of store or manager.
    "config": ROOMS - {"checks", "config_keys", "core", "dcs", "host", "managers"},
    "coordinator": ROOMS - {"checks", "config", "core", "host", "status"},
    "supervisor": ROOMS - {"host"},
    # Those that put parts together.
    "wiring": ROOMS
    - {"checks", "config", "config_keys", "coordinator", "core", "dcs", "host"}
    - {"managers"},
    "doctor": frozenset({"__main__", "cli", "coordinator", "lab", "managers", "supervisor"}),
    "lab": frozenset({"__main__", "cli", "coordinator", "doctor", "managers", "supervisor"}),
    "cli": frozenset({"__main__"}),
    "__main__": ROOMS - {"cli"},
}
"""Each room, and the rooms that it must not import."""
REGISTRIES = {
    "yaim.dcs.kinds": {"yaim.dcs.etcd.parts.EtcdParts"},
    "yaim.managers.kinds": {"yaim.managers.helper.client.HelperClient"},
}
"""What these import only when a part is made: at the start, and no more after that."""
_STEP = (
    "yaim.core.step",
    "yaim.core.take_in",
    "yaim.core.couplings",
    "yaim.core.upkeep",
    "yaim.core.turn",
)
WALLS = {
    "yaim.core.state": ("yaim.core.facts", "yaim.core.decide", *_STEP),
    "yaim.core.facts": ("yaim.core.events", "yaim.core.actions", "yaim.core.decide", *_STEP),
    "yaim.core.decide": ("yaim.core.events", *_STEP),
    "yaim.core.turn": ("yaim.core.events", "yaim.core.decide", *_STEP[:-1]),
}
"""Room or module of the core, and what it must not import."""


def imported(source: str, module: str) -> set[str]:
    """The full names that a module imports, anywhere in its source."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names |= {each.name for each in node.names}
            case ast.ImportFrom():
                above = module.split(".")[: -node.level] if node.level else []
                origin = ".".join([*above, *([node.module] if node.module else [])])
                names |= {f"{origin}.{each.name}" for each in node.names}
    return names


def imported_later(source: str, module: str) -> set[str]:
    """What it imports within functions, so not when it is imported itself."""
    functions = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return {name for each in functions for name in imported(ast.unparse(each), module)}


def reached_from(module: str, modules: Mapping[str, str]) -> set[str]:
    """It, and what it imports, and what that imports."""
    reached = {module}
    left = [module]
    while left:
        each = left.pop()
        left += (new := files_imported(modules[each], each, modules) - reached)
        reached |= new
    return reached


def files_imported(source: str, module: str, modules: Mapping[str, str]) -> set[str]:
    """Those of the modules that a module imports, or of which it imports something."""
    names = imported(source, module)
    return {name for each in names for name in (each, each.rpartition(".")[0])} & modules.keys()


def room_of(name: str) -> str:
    """The room of yaim that a module, or a name in it, belongs to."""
    return name.split(".")[1] if "." in name else ""


def circles(imports: Mapping[str, set[str]]) -> list[set[str]]:
    """Modules that import themselves by way of each other (Tarjan's strongly connected parts)."""
    found: list[set[str]] = []
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    waiting: list[str] = []

    def visit(module: str) -> None:
        numbers[module] = lowest[module] = len(numbers)
        waiting.append(module)
        for each in imports[module]:
            if each not in numbers:
                visit(each)
                lowest[module] = min(lowest[module], lowest[each])
            elif each in waiting:
                lowest[module] = min(lowest[module], numbers[each])
        if lowest[module] == numbers[module]:
            circle = set(waiting[waiting.index(module) :])
            del waiting[waiting.index(module) :]
            if len(circle) > 1 or module in imports[module]:
                found.append(circle)

    for module in imports:
        if module not in numbers:
            visit(module)
    return found


def called(source: str) -> set[str]:
    """The names of functions that are called by their plain name."""
    return {
        node.func.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def is_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in packages)


def impurities(source: str, module: str) -> set[str]:
    """What a module of the core must not have."""
    foreign = {name for name in imported(source, module) if not is_in(name, CORE_MAY_IMPORT)}
    return foreign | (called(source) & CORE_MAY_NOT_CALL)


def modules(directory: Path, package: str) -> dict[str, str]:
    """Name and source of the modules of a package; that of a package ends in `.__init__`."""
    return {
        ".".join(file.relative_to(directory).with_suffix("").parts): file.read_text()
        for file in sorted((directory / package).rglob("*.py"))
    }


CORE = modules(ROOT, "yaim/core")
YAIM = modules(ROOT, "yaim")
HELPER = modules(ROOT / "helper", "yaim_helper")
COORDINATOR = reached_from("yaim.coordinator.loop", YAIM) | reached_from("yaim.wiring", YAIM)
"""The loop, and the parts that `yaim run` has it start."""


@pytest.mark.parametrize("module", CORE)
def test_the_core_has_no_input_output_clock_randomness_or_logging(module: str) -> None:
    assert impurities(CORE[module], module) == set()


@pytest.mark.parametrize("module", CORE)
@pytest.mark.parametrize("room", WALLS)
def test_the_rooms_of_the_core_import_downward_only(room: str, module: str) -> None:
    if is_in(module, (room,)):
        assert {n for n in imported(CORE[module], module) if is_in(n, WALLS[room])} == set()


def test_each_room_of_the_core_with_a_wall_is_there() -> None:
    assert {room for room in WALLS if not any(is_in(module, (room,)) for module in CORE)} == set()


@pytest.mark.parametrize("module", CORE)
def test_no_two_modules_of_the_core_import_each_other(module: str) -> None:
    """Nor by way of others."""
    names = imported(CORE[module], module)
    below = {name for each in names for name in (each, each.rpartition(".")[0])} & CORE.keys()
    circle = [name for name in below if module in reached_from(name, CORE)]
    assert circle == []


@pytest.mark.parametrize("module", YAIM)
def test_yaim_imports_nothing_of_the_helper(module: str) -> None:
    assert {n for n in imported(YAIM[module], module) if is_in(n, ("yaim_helper",))} == set()


@pytest.mark.parametrize("module", HELPER)
def test_the_helper_imports_nothing_of_yaim(module: str) -> None:
    assert {n for n in imported(HELPER[module], module) if is_in(n, ("yaim",))} == set()


NO_FOLDER_OF_THE_HELPER_IMPORTS = {
    "kernel": ("held", "neighbours", "policy", "record", "serve", "tools"),
    "policy": ("held", "kernel", "neighbours", "record", "serve", "tools"),
    "record": ("held", "kernel", "neighbours", "policy", "serve", "tools"),
    "neighbours": ("held", "policy", "serve", "tools"),
    "held": ("serve", "tools"),
    "serve": ("tools",),
    "tools": ("serve",),
}
"""A folder of the helper, and those of which it imports nothing: imports go downwards only."""


@pytest.mark.parametrize("folder", NO_FOLDER_OF_THE_HELPER_IMPORTS)
def test_a_folder_of_the_helper_imports_only_from_those_below_it(folder: str) -> None:
    above = tuple(f"yaim_helper.{each}" for each in NO_FOLDER_OF_THE_HELPER_IMPORTS[folder])
    files = [each for each in HELPER if is_in(each, (f"yaim_helper.{folder}",))]
    assert len(files) > 1
    found = {each: {n for n in imported(HELPER[each], each) if is_in(n, above)} for each in files}
    assert {each: names for each, names in found.items() if names} == {}


def test_all_folders_of_the_helper_are_looked_at() -> None:
    folders = {name.split(".")[1] for name in HELPER if name.count(".") > 1}
    assert folders == NO_FOLDER_OF_THE_HELPER_IMPORTS.keys()


def test_nothing_of_the_helper_imports_its_tools_but_the_choice_of_a_command() -> None:
    tools = ("yaim_helper.tools",)
    outside = [each for each in HELPER if not is_in(each, tools)]
    using = {each for each in outside if any(is_in(n, tools) for n in imported(HELPER[each], each))}
    assert using == {"yaim_helper.__main__"}
    main = HELPER["yaim_helper.__main__"]
    names = imported(main, "yaim_helper.__main__")
    later = imported_later(main, "yaim_helper.__main__")
    assert {n for n in names - later if is_in(n, ("yaim_helper",))} == set()


def test_a_helper_at_work_loads_nothing_later() -> None:
    """Its file system may be another one then, or a package that is just being installed."""
    reached = reached_from("yaim_helper.serve.start", HELPER)
    assert {"yaim_helper.serve.server", "yaim_helper.held.batch"} <= reached
    assert {each for each in reached if imported_later(HELPER[each], each)} == set()


@pytest.mark.parametrize("module", YAIM)
def test_a_room_imports_only_those_that_it_may(module: str) -> None:
    room = room_of(module)
    names = {name for name in imported(YAIM[module], module) if is_in(name, ("yaim",))}
    assert {name for name in names if room_of(name) in FORBIDDEN[room] - {room}} == set()


def test_each_room_has_its_walls() -> None:
    assert {room_of(module) for module in YAIM} - {"__init__"} == ROOMS == FORBIDDEN.keys()


@pytest.mark.parametrize("modules", [YAIM, HELPER], ids=["yaim", "helper"])
def test_no_files_import_each_other(modules: Mapping[str, str]) -> None:
    imports = {each: files_imported(source, each, modules) for each, source in modules.items()}
    assert circles(imports) == []


def test_files_that_import_each_other_are_found() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set[str](), "e": {"e"}}
    assert circles(imports) == [{"b", "c"}, {"e"}]


@pytest.mark.parametrize("module", sorted(COORDINATOR))
def test_a_coordinator_at_work_loads_nothing_more_of_yaim(module: str) -> None:
    """It goes on while a package is installed, and after that if it cannot start anew: what it
    would load then is of another version."""
    later = {n for n in imported_later(YAIM[module], module) if is_in(n, ("yaim",))}
    assert later == REGISTRIES.get(module, set())


PARTS = """
import sys
from pathlib import Path
from yaim.config.load import load
import yaim.coordinator.loop
from yaim.wiring import lost_by_restart, start_parts
keys = {"dcs-clustername": "c", "interface": "lo", "checker-type": "tcp", "tcp-address": "[::1]:1"}
config = load({**keys, "helper-socket": sys.argv[1]}, {}, None)
parts = start_parts(config, lambda *events: None)
loaded = set(sys.modules)
parts.apply(config)
lost_by_restart(config, config)
print(sorted(each for each in set(sys.modules) - loaded if each.startswith("yaim")))
"""


def test_what_the_registries_import_later_is_there_when_the_parts_have_started(
    tmp_path: Path,
) -> None:
    command = (sys.executable, "-c", PARTS, str(tmp_path / "no-helper"))
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


DEAR = ("cryptography", "pyroute2", "trustme")
"""Libraries that take a tenth of a second and some 10 MB each to load."""


@pytest.mark.parametrize("module", sorted(COORDINATOR))
def test_a_coordinator_imports_no_library_that_is_dear(module: str) -> None:
    assert {n for n in imported(YAIM[module], module) if is_in(n, DEAR)} == set()


def test_a_coordinator_loads_no_library_that_is_dear() -> None:
    """Through another library neither."""
    loads = (
        "import sys, yaim.cli.main, yaim.coordinator.loop, yaim.wiring, yaim.supervisor.run,"
        " yaim.dcs.etcd.parts, yaim.managers.helper.client"
    )
    command = (sys.executable, "-c", f"{loads}; print(*sys.modules)")
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {each for each in done.stdout.split() if is_in(each, DEAR)}
    assert "yaim.dcs.etcd.certificates" in done.stdout.split()
    assert loaded == set()


def test_all_modules_of_the_coordinator_are_looked_at() -> None:
    assert {
        *("yaim.core.step", "yaim.checks.transport.libpq", "yaim.dcs.etcd.diagnose"),
        "yaim.managers.helper.connection",
    } <= COORDINATOR
    assert imported_later("import yaim.a\ndef f():\n import yaim.b", "yaim.c") == {"yaim.b"}


def test_all_modules_are_looked_at() -> None:
    assert {"yaim.core.step", "yaim.core.placement", "yaim.core.__init__"} <= CORE.keys()
    assert {"yaim.cli.main", "yaim.lab.cluster", *CORE} <= YAIM.keys()
    assert {"yaim_helper.__main__", "yaim_helper.serve.server"} <= HELPER.keys()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time", {"time"}),
        ("import os.path as p", {"os.path"}),
        ("from time import monotonic", {"time.monotonic"}),
        ("from random import *", {"random.*"}),
        ("import typing, logging", {"logging"}),
        ("def f():\n    import socket", {"socket"}),
        (
            "if TYPE_CHECKING:\n    from yaim.config import Config",
            {"yaim.config.Config"},
        ),
        ("from yaim import logs", {"yaim.logs"}),
        ("from .. import logs", {"yaim.logs"}),
        ("from ..logs import start", {"yaim.logs.start"}),
        ("import yaim", {"yaim"}),
        ("import yaim.corel", {"yaim.corel"}),
        ("import enumerate_", {"enumerate_"}),
        ("__import__('os')", {"__import__"}),
        ("x = [open(n) for n in ()]", {"open"}),
        ("print(hash('a'))", {"print", "hash"}),
    ],
)
def test_what_does_not_belong_into_the_core_is_found(source: str, found: set[str]) -> None:
    assert impurities(source, "yaim.core.step") == found


@pytest.mark.parametrize(
    "source",
    [
        "from collections.abc import Mapping",
        "import typing",
        "from yaim.core.model import Address",
        "from yaim.core import model",
        "from yaim import core",
        "from . import model",
        "from .model import Address",
        "x.open()",
    ],
)
def test_what_belongs_into_the_core_is_let_through(source: str) -> None:
    assert impurities(source, "yaim.core.step") == set()


def test_an_import_across_is_found() -> None:
    across = imported("def f():\n    from yaim_helper.policy import rules", "yaim.lab.cluster")
    assert {name for name in across if is_in(name, ("yaim_helper",))} == {
        "yaim_helper.policy.rules"
    }
    back = imported(
        "import yaim_helper.protocol\nimport yaim.core.model", "yaim_helper.serve.server"
    )
    assert {name for name in back if is_in(name, ("yaim",))} == {"yaim.core.model"}
