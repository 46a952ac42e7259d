"""Reads the configuration file: YAML, so that every value keeps its line and its spelling. Knows
only the names of the keys; which values they take, the keys themselves know."""

import difflib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from yaim.config.foreign import INSTEAD
from yaim.config_keys import why_denied
from yaim.host.ownership import what_others_can_change

NOTHING = "nothing"
"""What was given of a key that is missing."""
_YAML_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong."""

    where: str
    """The file and line, the environment variable, or the flag."""
    key: str
    given: str
    expected: str
    is_denied: bool = field(default=False, compare=False)
    """Whether it may be right: whoever looked may not read it."""

    def __str__(self) -> str:
        given = f"got {self.given}, " if self.given else ""
        if self.given == NOTHING:
            given = "is missing, "
        return f"{self.where}: {self.key}: {given}expected {self.expected}"


class ConfigError(Exception):
    """The configuration cannot be used."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__("\n".join(str(issue) for issue in issues))
        self.issues = tuple(issues)

    @property
    def is_denied(self) -> bool:
        """Whether all that is wrong is that we may not read it."""
        return all(issue.is_denied for issue in self.issues)


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was given: text, a list of texts or of sections, nothing, or what no key
    takes."""

    where: str
    value: Any
    is_cut: bool = field(default=False, compare=False)
    """Whether a comment follows on its line, which may have been meant as a part of it."""


@dataclass(frozen=True, slots=True)
class Section:
    """Keys with their values that are an item of a list."""

    where: str
    keys: Mapping[str, Given]

    def __repr__(self) -> str:
        return "keys and values"


@dataclass(frozen=True, slots=True)
class _Strange:
    """A value that is neither text nor a list of texts or sections. No key takes it."""

    def __repr__(self) -> str:
        return "something nested or tagged"


def suggestion(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    meant = close or [each for each in known if each.partition("-")[2] == name]
    return f" (did you mean {' or '.join(meant)}?)" if meant else ""


def read_file(
    file: Path,
    known: Collection[str],
    known_below: Mapping[str, Collection[str]],
    source: Path | None = None,
    *,
    is_draft: bool = False,
) -> tuple[dict[str, Given], list[Issue]]:
    """Returns the keys of the file with their values, and what is wrong with the others. `source`
    is named in the file's place, which is a copy of it. `known_below` tells which keys the
    sections of a list may have, by the key that has the list as its value. With
    `is_draft` it does not matter whose file it is. Raises ConfigError if the file cannot be read at
    all."""
    named = source or file
    root = _compose(file, named, is_draft=is_draft)
    if root is None or _is_null(root):
        return {}, []
    if not isinstance(root, yaml.MappingNode):
        raise _unusable(f"{named}:{root.start_mark.line + 1}", "lines like `key: value`")
    reader = _Reader(named, known, known_below)
    return reader.section(root, known), reader.issues


def _compose(file: Path, named: Path, *, is_draft: bool) -> yaml.Node | None:
    try:
        # What root does with it, nobody else is to decide: the current directory may be anybody's.
        if os.geteuid() == 0 and not is_draft and (fault := what_others_can_change(file)):
            expected = f"one that nobody but root can change, as root reads it ({fault})"
            raise _unusable(str(named.absolute()), f"{expected}, or another one with --config")
        content = file.read_bytes()
        root: yaml.Node | None = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
        return root
    except PermissionError:
        raise _unusable(str(named), why_denied(file), is_denied=True) from None
    except OSError as error:
        raise _unusable(str(named), f"to be able to read it ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _unusable(f"{named}:{line}", "UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _unusable(f"{named}:{line}", f"YAML ({_told(error)})") from None
    except yaml.reader.ReaderError as error:
        line = content.decode().count("\n", 0, error.position) + 1
        raise _unusable(f"{named}:{line}", f"YAML ({error.reason})") from None
    except (ValueError, OverflowError):
        raise _unusable(
            str(named), "YAML (it has an escape for a character that is none)"
        ) from None
    except RecursionError:
        raise _unusable(str(named), "YAML (nested too deeply)") from None


def _told(error: yaml.MarkedYAMLError) -> str:
    """What is wrong, without the text of the file itself: it may be a secret."""
    problem = error.problem or "unknown error"
    if r"'\t'" in problem:
        return "a tab at the beginning of a line: indent with spaces"
    if re.fullmatch(r"[^']*('<[a-z ]+>'[^']*)+", problem):
        return f"{problem}: is the line indented like those around it?"
    return re.sub(r"'.*'", "...", problem, flags=re.DOTALL)


def _unusable(where: str, expected: str, *, is_denied: bool = False) -> ConfigError:
    return ConfigError([Issue(where, "the file", "", expected, is_denied)])


class _Reader:
    def __init__(
        self, file: Path, known: Collection[str], known_below: Mapping[str, Collection[str]]
    ) -> None:
        self._file = file
        self._known = known
        self._known_below = known_below
        self.issues: list[Issue] = []

    def section(self, node: yaml.MappingNode, known: Collection[str]) -> dict[str, Given]:
        given: dict[str, Given] = {}
        for key_node, value_node in node.value:
            where = f"{self._file}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                issue = Issue(where, "the key", "a list or mapping", "the name of a key")
                self.issues.append(issue)
                continue
            name = key_node.value.replace("_", "-")
            if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name) is None:
                # It may hold the value, a secret perhaps.
                issue = Issue(where, "the key", "none", "the name of a key, a colon, a space")
                self.issues.append(issue)
            elif name not in known:
                expected = INSTEAD.get(name, f"a known key{suggestion(name, known)}")
                if name in self._known:
                    expected = "it beside the list, not in it"
                self.issues.append(Issue(where, key_node.value, "", expected))
            elif name in given:
                expected = f"it once (first: {given[name].where})"
                self.issues.append(Issue(where, name, "it twice", expected))
            else:
                given[name] = Given(where, self._value(name, value_node), _is_cut(value_node))
        return given

    def _value(self, name: str, node: yaml.Node) -> Any:
        """A scalar as it is written, or a list of scalars; a key that wants a number makes it of
        that. YAML would make 5349 of 012345, and 90 of 1:30: no good for passwords."""
        if _is_null(node):
            return None
        if _is_plain(node):
            return str(node.value)
        if not isinstance(node, yaml.SequenceNode):
            return _Strange()
        if all(_is_plain(item) for item in node.value):
            return [str(item.value) for item in node.value]
        known = self._known_below.get(name)
        if known is not None and all(isinstance(item, yaml.MappingNode) for item in node.value):
            return [
                Section(
                    f"{self._file}:{item.start_mark.line + 1}",
                    self.section(item, known),
                )
                for item in node.value
            ]
        return _Strange()


def _is_cut(node: yaml.Node) -> bool:
    """Whether a comment follows a scalar without quotes."""
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        return False
    text, at = node.end_mark.buffer, node.end_mark.pointer
    return text is not None and re.match(r"[ \t]+#", text[at : at + 80]) is not None


def _is_plain(node: yaml.Node) -> bool:
    return (
        isinstance(node, yaml.ScalarNode) and node.tag.startswith(_YAML_TAG) and not _is_null(node)
    )


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == f"{_YAML_TAG}null")
