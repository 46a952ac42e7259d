"""Which tests are quick, and which run with every set of libraries.

Nobody lists tests for that: what a test reaches tells. It reaches the modules that its function,
its parameters, its fixtures and all functions and classes of tests/ that these use refer to by
name, or in the text of a program; of yaim's own modules also what those import themselves. So a
new test is in the right group by itself. Tests are held to it while they run: quick ones have no
effects (`deny_effects`), and what is not to touch a library executes none, where Python can tell
that at no cost (`Executed`).
"""

import ast
import dis
import functools
import importlib.util
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = {"yaim": ROOT / "yaim", "yaim_helper": ROOT / "helper" / "yaim_helper"}

EFFECTS = (
    *("subprocess", "multiprocessing", "pty", "socket", "socketserver", "select", "selectors"),
    *("http.client", "http.server", "urllib.request", "threading", "ctypes", "grpc", "etcd3"),
    *("requests", "yaim.dcs.etcd.diagnose", "yaim.dcs.etcd.probe", "yaim.doctor.commands"),
    *("yaim.lab", "bench"),
)
"""Who reaches one of these may start a process or a thread, or use the network: not quick."""

LIBRARIES = (
    *("cryptography", "daemon", "etcd3", "google.protobuf", "grpc", "psycopg", "pyroute2"),
    *("requests", "setproctitle", "urllib3", "yaml"),
    # Python's own, with wording or behaviour that differs from one version to the next.
    *("argparse", "ssl"),
)
"""Who reaches one of these has to pass with each version of it."""

HARMLESS = (
    "yaim.config.load",
    "yaim.host.addresses",
    "yaim.host.netlink",
    "yaim_helper.record.log",
    "yaim_helper.kernel.netlink",
)
"""Some of yaim's own modules: what these import of EFFECTS is used for names and forms."""

NO_PART_OF_IT = ("yaim.lab", "bench", "tests")
"""What uses a library for the tests' sake only."""

SLOW_BUT_PURE = ("tests/sim/", "tests/test_imports.py")
"""The tests without effects that take more than milliseconds: they are not quick."""

OPTION = "--group"
QUICK, REST, LIBRARY, ALL = "quick", "rest", "library", "all"
GROUPS = {
    QUICK: "without processes and network",
    REST: "that are not quick",
    LIBRARY: "whose outcome a library, or Python itself, may change",
    ALL: "all",
}


def is_of(module: str, packages: Iterable[str]) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in packages)


# --- what a test reaches --------------------------------------------------------------------------


def reached(starts: Iterable[object]) -> frozenset[str]:
    """Names of modules: those outside of tests/ that are referred to from these objects on."""
    found: set[str] = set()
    seen: set[int] = set()
    waiting = list(starts)
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            waiting += _next(each, found)
    return frozenset(found)


def _next(each: object, found: set[str]) -> Iterator[object]:
    match each:
        case ModuleType():
            found.add(each.__name__)
        case staticmethod() | classmethod() | MethodType():
            yield each.__func__
        case property():
            yield from filter(None, (each.fget, each.fset))
        case functools.partial():
            yield each.func
        case FunctionType() if _is_ours(each.__module__):
            modules, used = _used_by(each)
            found |= modules
            yield from used
        case type() if _is_ours(each.__module__):
            yield from vars(each).values()
            yield from each.__bases__
        case FunctionType() | type():
            found.add(each.__module__)
        case tuple() | list() | set() | frozenset():
            if {part for part in each if isinstance(part, str)} >= _PROGRAM:
                found.add("yaim.__main__")
            yield from each
        case dict():
            yield from each.values()
        case str():
            found |= _imported_by_text(each)
        case _:
            yield from _behind(each, found)


_PROGRAM = {"-m", "yaim"}
"""If these are in a command line, all of yaim is reached."""
_IMPORT = re.compile(r"(?:from|import) (yaim[\w.]*)")


@functools.cache
def _imported_by_text(text: str) -> frozenset[str]:
    """What a text imports, if it is a program."""
    return frozenset(_IMPORT.findall(text))


def _behind(each: object, found: set[str]) -> Iterator[object]:
    """A decorated function, or an object of some class."""
    for name in ("__wrapped__", "_fixture_function", "func"):
        if isinstance(inner := getattr(each, name, None), FunctionType):
            yield inner
    kind = type(each)
    if _is_ours(kind.__module__):
        yield kind
    elif kind.__module__ != "builtins":
        found.add(kind.__module__)


@functools.cache
def _used_by(function: FunctionType) -> tuple[frozenset[str], tuple[object, ...]]:
    """The names of modules in a function, and the objects that it refers to. Most functions are
    reached from many tests, so this is kept."""
    names, constants, imported = _names(function.__code__)
    found = {name for text in constants for name in _imported_by_text(text)} | imported
    if constants >= _PROGRAM:
        found.add("yaim.__main__")
    used: list[object] = []
    for name in names & function.__globals__.keys():
        used += _through_modules(function.__globals__[name], names)
    for cell in function.__closure__ or ():
        try:
            used.append(cell.cell_contents)
        except ValueError:
            pass
    used.append(getattr(function, "__wrapped__", None))
    used.append(getattr(getattr(function, "hypothesis", None), "inner_test", None))  # of @given
    return frozenset(found), tuple(used)


def _through_modules(each: object, names: frozenset[str]) -> Iterator[object]:
    """Itself; of a module of tests/ what is used of it."""
    if not isinstance(each, ModuleType) or not _is_ours(each.__name__):
        yield each
        return
    for name in names & vars(each).keys():
        if vars(each)[name] is not each:
            yield from _through_modules(vars(each)[name], names - {name})


_IMPORT_NAME = dis.opmap["IMPORT_NAME"]


@functools.cache
def _names(code: CodeType) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Global names and texts in a function and in those within, and the modules that it imports
    itself."""
    names, constants = set(code.co_names), set[str]()
    for each in code.co_consts:
        if isinstance(each, CodeType):
            names_within, constants_within, _ = _names(each)
            names |= names_within
            constants |= constants_within
        elif isinstance(each, str):
            constants.add(each)
        elif isinstance(each, tuple):
            constants |= {part for part in each if isinstance(part, str)}
    imported = set[str]()
    if _IMPORT_NAME in code.co_code[::2]:  # few have it, and to take them apart is slow
        instructions = dis.get_instructions(code)
        imported = {each.argval for each in instructions if each.opcode == _IMPORT_NAME}
    return frozenset(names), frozenset(constants), frozenset(imported)


@functools.cache
def _is_ours(module: str | None) -> bool:
    """Whether it is a file of tests/."""
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return file is not None and Path(file).is_relative_to(ROOT / "tests")


@functools.cache
def imports(module: str) -> frozenset[str]:
    """What a module of yaim imports, anywhere in its source; of others nothing."""
    package, _, rest = module.partition(".")
    if package not in PRODUCT:
        return frozenset()
    place = PRODUCT[package].joinpath(*rest.split(".")) if rest else PRODUCT[package]
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())) if file.is_file() else ():
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
    return frozenset(names)


@functools.cache
def directly_reached_by(item: pytest.Function) -> frozenset[str]:
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    call: Any = getattr(item, "callspec", None)
    return reached(
        (
            item.function,
            *(each.func for several in fixtures for each in several),
            *(call.params.values() if call is not None else ()),
        )
    )


@functools.cache
def reached_by(item: pytest.Function) -> frozenset[str]:
    """Returns the modules that it reaches, with what yaim's modules among them import."""
    found = set(directly_reached_by(item))
    for each in directly_reached_by(item):
        if not is_of(each, NO_PART_OF_IT):
            found |= imports(each) - (_effects(imports(each)) if each in HARMLESS else set())
    return frozenset(found)


def _effects(names: Iterable[str]) -> set[str]:
    return {each for each in names if _has_effects(each)}


@functools.cache
def _has_effects(module: str) -> bool:
    return is_of(module, EFFECTS)


# --- the rule -------------------------------------------------------------------------------------


def is_quick(item: pytest.Function) -> bool:
    if item.nodeid.startswith(SLOW_BUT_PURE):
        return False
    is_said_to_be = item.get_closest_marker("quick") is not None
    return not _effects(directly_reached_by(item) if is_said_to_be else reached_by(item))


def touches_a_library(item: pytest.Function) -> bool:
    """Or what it reaches imports a module that does."""
    reaches = reached_by(item)
    return (
        item.get_closest_marker("every_set") is not None
        or "yaim.__main__" in reaches
        or any(_is_library(each) or is_adapter(each) for each in reaches)
    )


@functools.cache
def _is_library(module: str) -> bool:
    return is_of(module, LIBRARIES)


@functools.cache
def is_adapter(module: str) -> bool:
    """Whether it is a module of yaim that imports a library itself."""
    return not is_of(module, NO_PART_OF_IT) and any(
        is_of(each, LIBRARIES) for each in imports(module)
    )


def is_in(item: pytest.Function, group: str) -> bool:
    match group:
        case "quick":
            return is_quick(item)
        case "library":
            return touches_a_library(item)
        case "rest":
            return not is_quick(item)
        case _:
            return True


# --- quick tests are held to it -------------------------------------------------------------------

_DENIED = frozenset(
    {
        *("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"),
        *("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"),
    }
)
"""Audit events (docs.python.org, "Audit events table")."""


class HasEffects(Exception):
    """A quick test does what it should not; the text says what."""


def deny_effects() -> None:
    """From now on, and for good, whoever tries in this process gets HasEffects."""
    import psycopg  # noqa: F401 (which asks ldconfig for libpq, once)

    def look(event: str, _: object) -> None:
        if event in _DENIED:
            raise HasEffects(
                f"{event} in a quick test: what it uses for that belongs into EFFECTS"
                " (tests/groups.py)"
            )

    sys.addaudithook(look)


# --- so is the rule about libraries ---------------------------------------------------------------


class Executed:
    """The libraries whose Python code this process has executed in its main thread."""

    def __init__(self) -> None:
        self.libraries: set[str] = set()
        self._main = threading.main_thread().ident
        self._directories = {
            f"{Path(spec.origin).parent}/": name
            for name in LIBRARIES
            if name.partition(".")[0] not in sys.stdlib_module_names
            and (spec := importlib.util.find_spec(name)) is not None
            and spec.origin is not None
        }

    def watch(self) -> None:
        """Watches from now on; nothing else in this process may be monitored as number _TOOL."""
        # For mypy: Python has it from 3.12 on.
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined]
        monitoring.use_tool_id(_TOOL, "tests")
        monitoring.register_callback(
            _TOOL, monitoring.events.PY_START, functools.partial(self._look, monitoring.DISABLE)
        )
        monitoring.set_events(_TOOL, monitoring.events.PY_START)

    def _look(self, disable: object, code: CodeType, _: int) -> object:
        file = code.co_filename
        name = next((n for d, n in self._directories.items() if file.startswith(d)), None)
        if name is None:
            return disable  # not told of this function again: it costs nothing
        if threading.get_ident() == self._main:
            self.libraries.add(name)
        return None


_TOOL = 4


def may_execute_a_library(item: pytest.Function) -> bool:
    """What uses the lab does, for the test's sake."""
    return touches_a_library(item) or any(is_of(n, NO_PART_OF_IT) for n in reached_by(item))
