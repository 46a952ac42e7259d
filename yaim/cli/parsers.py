"""The parser of a command: what it says of a word that it does not know, and what its help shows.

A wrong word costs one line, with what is close to it, and exit status 2. The help leaves out the
flags that are keys of yaim.yml, which every command has: `yaim config keys` lists them.
"""

import argparse
import difflib
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from yaim.config.config import KEYS

EX_USAGE = 2
_LIKE, _MUCH_LIKE = 0.6, 0.8
"""How much a word has to be like another one, to be suggested (difflib's ratio)."""


class Parser(argparse.ArgumentParser):
    """Those of its commands are of this class, too. Nothing is to be abbreviated: a key that comes
    later could make an abbreviation ambiguous."""

    def format_usage(self) -> str:
        return self._formatted(sections=False)

    def format_help(self) -> str:
        return self._formatted(sections=True)

    def error(self, message: str) -> NoReturn:
        self.exit(EX_USAGE, f"{self.prog}: {message} ({self.prog} --help)\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Knows all of them, or ends: the command that does not know a word says so itself."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._complaint(unknown[0]))
        return found, []

    def _complaint(self, word: str) -> str:
        if not word.startswith("-"):
            return f"{word!r} is a word too many"
        option = word.partition("=")[0]
        names = [name for each in self._actions for name in each.option_strings]
        own = [name for name in names if not _is_key(name)]
        close = closest(option, own) or closest(option, names, _MUCH_LIKE)
        return f"there is no option {option}{close}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            listed = [each.dest for each in action._choices_actions]
            told = closest(value, listed) or f": there are {', '.join(listed)}"
            raise argparse.ArgumentError(None, f"there is no command {value!r}{told}")
        super()._check_value(action, value)

    def _formatted(self, *, sections: bool) -> str:
        """As argparse does it (ArgumentParser.format_help), but for the actions that are left
        out."""
        formatter = self._get_formatter()
        actions = [each for each in self._actions if not is_folded(each)]
        formatter.add_usage(self.usage, actions, self._mutually_exclusive_groups)
        if sections:
            formatter.add_text(self.description)
            for group in self._action_groups:
                formatter.start_section(group.title)
                formatter.add_text(group.description)
                shown = [each for each in group._group_actions if not is_folded(each)]
                formatter.add_arguments(shown)
                formatter.end_section()
            formatter.add_text(self.epilog)
        return formatter.format_help()


def is_folded(action: argparse.Action) -> bool:
    """Whether it sets a key of yaim.yml, and so is not shown. An option of a command's own may have
    the name of a key; its `dest` is another one then."""
    return any(map(_is_key, action.option_strings)) and _is_key(f"--{action.dest}")


def _is_key(option: str) -> bool:
    return option.removeprefix("--").replace("_", "-") in KEYS


def closest(word: str, known: Collection[str], like: float = _LIKE) -> str:
    """What to ask whoever wrote this word; empty if nothing is like it."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=like)
    return f": did you mean {found[0]}?" if found else ""


def number_from(least: int, most: int) -> Callable[[str], int]:
    """The `type` of an option that takes a number."""

    def read(text: str) -> int:
        if text.isascii() and text.isdecimal() and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from {least} to {most}")

    return read
