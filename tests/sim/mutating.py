"""Puts a fault into the code on purpose, and plays seeds until an invariant breaks.

A mutation changes the source text of one or more definitions: a function, a method or a constant,
named with the package that it is in, wherever in that package it is defined. The whole simulation
is imported anew on top of it, apart from the true one. A mutation under which the core only crashes
shows nothing, and does not count as caught. The mutations are in tests/sim/mutations.py.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

from tests.sim.check import CRASHED

_ANEW = ("yaim.core", "yaim_helper", "tests.sim")


@dataclass(frozen=True, slots=True)
class Change:
    definition: str
    """Its name, as in `Class.method@package`: the package has exactly one definition of it."""
    before: str
    """What stands in its source, exactly once."""
    after: str
    """What is put in its place."""


@dataclass(frozen=True, slots=True)
class Mutation:
    name: str
    changes: tuple[Change, ...]
    only: tuple[str, ...] = ()
    """The faults that could show it: it is looked for among these, to be quick."""
    seed: int = 0
    """A seed that shows it, or showed it once: it is looked for there first, to be quick. A search
    tells a better one (python -m tests.sim --mutations)."""


@dataclass(frozen=True, slots=True)
class Caught:
    mutation: str
    seed: int
    """The seed that showed it."""
    count: int
    """How many seeds were played until it was caught."""
    invariant: str | None
    """The invariant that broke; None: it was not caught."""


@dataclass(frozen=True, slots=True)
class _Definition:
    module: str
    path: str
    start: int
    """Where its source begins in the file, in bytes."""
    end: int


@cache
def _definitions(package: str) -> Mapping[str, Sequence[_Definition]]:
    """All functions, methods and constants of a package, or of a single module, by name."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(package)
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    found: dict[str, list[_Definition]] = {}
    for file in files:
        parts = file.relative_to(origin.parent).with_suffix("").parts
        inner = [part for part in parts if part != "__init__"] if len(files) > 1 else []
        source = file.read_bytes()
        starts = [0]
        for line in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        for name, node in _named(ast.parse(source), ""):
            end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
            start = starts[node.lineno - 1] + node.col_offset
            here = _Definition(".".join([package, *inner]), str(file), start, end)
            found.setdefault(name, []).append(here)
    return found


def _named(tree: ast.AST, within: str) -> Iterator[tuple[str, ast.stmt]]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield f"{within}{name}", node
                yield from _named(node, f"{within}{name}.")
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield f"{within}{name}", node


def sources(mutation: Mutation) -> Mapping[str, bytes]:
    """Module to its source with the mutation in it. Refused: a definition that there is not, or
    not only once; a piece that does not stand in it exactly once."""
    found: dict[str, bytes] = {}
    moved: dict[str, list[tuple[_Definition, Change]]] = {}
    for change in mutation.changes:
        name, _, package = change.definition.partition("@")
        definitions = _definitions(package).get(name, ())
        if len(definitions) != 1:
            raise ValueError(f"{mutation.name}: {len(definitions)} times: {change.definition}")
        moved.setdefault(definitions[0].module, []).append((definitions[0], change))
    for module, changes in moved.items():
        source = Path(changes[0][0].path).read_bytes()
        pieces: list[tuple[int, int, bytes]] = []
        for definition, change in changes:
            text, before = source[definition.start : definition.end + 1], change.before.encode()
            if text.count(before) != 1:
                raise ValueError(
                    f"{mutation.name}: {text.count(before)} times in {change.definition}:"
                    f" {change.before}"
                )
            at = definition.start + text.index(before)
            pieces.append((at, at + len(before), change.after.encode()))
        for start, end, after in sorted(pieces, reverse=True):
            source = source[:start] + after + source[end:]
        found[module] = source
    return found


class _Mutating(MetaPathFinder):
    """Finds some modules, with other source text."""

    def __init__(self, mutation: Mutation) -> None:
        self._sources = sources(mutation)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in self._sources:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None:
            raise ImportError(fullname)
        spec.loader = _Loader(fullname, spec.origin, self._sources[fullname])
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, source: bytes) -> None:
        super().__init__(fullname, path)
        self._source = source

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        """Compiles the source anew, without the cache of compiled files."""
        return compile(self._source, self.get_filename(fullname), "exec")


@contextmanager
def mutated(mutation: Mutation) -> Iterator[ModuleType]:
    """tests.sim.run, with everything that it stands on imported anew."""
    finder = _Mutating(mutation)
    before = {name: module for name, module in sys.modules.items() if name.startswith(_ANEW)}
    for name in before:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        yield importlib.import_module("tests.sim.run")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.startswith(_ANEW)]:
            del sys.modules[name]
        sys.modules.update(before)
        for name, module in before.items():
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                setattr(sys.modules[parent], child, module)


def catch(mutation: Mutation, max_seeds: int, *, is_searched: bool = False) -> Caught:
    """Play seeds until an invariant breaks: the known one, and then, or if it `is_searched` at
    once, from 0 on."""
    with mutated(mutation) as run, run.quickly():
        known = () if is_searched else (mutation.seed,)
        for count, seed in enumerate((*known, *range(max_seeds)), 1):
            broken = run.play(run.draw(seed, mutation.only)).broken
            if broken is not None and broken.invariant != CRASHED:
                return Caught(mutation.name, seed, count, broken.invariant)
    return Caught(mutation.name, max_seeds, max_seeds, None)
