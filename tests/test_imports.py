"""Who may import what, read off the source: the core is pure, and the two processes share no code.

What a program reaches by starting another one is not seen here, and may well be: yaim.lab starts
the helper.
"""

import ast
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
    "operator",
    "types",
    "typing",
    "yaim.core",
)
CORE_MAY_NOT_CALL = frozenset(
    {"open", "print", "input", "breakpoint", "exec", "eval", "compile", "__import__", "hash", "id"}
)
"""Built-in functions that do I/O or import, or whose result differs from one run to the next."""


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
        names = imported(modules[left[-1]], left.pop())
        found = {name for each in names for name in (each, each.rpartition(".")[0])}
        left += (new := (found & modules.keys()) - reached)
        reached |= new
    return reached


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


@pytest.mark.parametrize("module", CORE)
def test_the_core_has_no_input_output_clock_randomness_or_logging(module: str) -> None:
    assert impurities(CORE[module], module) == set()


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


def test_no_two_files_of_the_helper_import_each_other() -> None:
    circles = {
        each
        for each in HELPER
        for name in reached_from(each, HELPER) - {each}
        if each in reached_from(name, HELPER)
    }
    assert circles == set()


@pytest.mark.parametrize("module", sorted(reached_from("yaim.coordinator.loop", YAIM)))
def test_a_coordinator_at_work_loads_nothing_more_of_yaim(module: str) -> None:
    """It goes on while a package is installed, and after that if it cannot start anew: what it
    would load then is of another version."""
    assert {n for n in imported_later(YAIM[module], module) if is_in(n, ("yaim",))} == set()


def test_all_modules_of_the_coordinator_are_looked_at() -> None:
    reached = reached_from("yaim.coordinator.loop", YAIM)
    assert {"yaim.core.step", "yaim.checks.transport.libpq", "yaim.dcs.etcd.diagnose"} <= reached
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
    across = imported("def f():\n    from yaim_helper import policy", "yaim.lab.cluster")
    assert {name for name in across if is_in(name, ("yaim_helper",))} == {"yaim_helper.policy"}
    back = imported(
        "import yaim_helper.protocol\nimport yaim.core.model", "yaim_helper.serve.server"
    )
    assert {name for name in back if is_in(name, ("yaim",))} == {"yaim.core.model"}
