"""The programs with their commands and options, as their parsers have them: what the man pages and
the completions are made from.

Imports the programs from this checkout, whatever is installed.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "helper")]

from yaim_helper.serve import start as helper  # noqa: E402
from yaim_helper.tools import audit as audit_tools  # noqa: E402
from yaim_helper.tools import policy as policy_tools  # noqa: E402

from yaim.cli import main as cli  # noqa: E402
from yaim.config.config import KEYS  # noqa: E402

__all__ = [
    "KEYS",
    "ROOT",
    "Command",
    "all_commands",
    "audit_tools",
    "cli",
    "commands",
    "help_of",
    "helper",
    "policy_tools",
    "sub_commands",
    "whole_helper",
]


@dataclass(frozen=True)
class Command:
    """A program or a part of one."""

    words: str
    help: str
    parser: argparse.ArgumentParser

    def options(self) -> list[argparse.Action]:
        """Returns its options without --help and the configuration keys, which are shown once."""
        return [
            each
            for each in self.parser._actions
            if not isinstance(each, argparse._SubParsersAction)
            and each.dest not in ("help", "config" if self.has_keys() else "")
            and not (each.option_strings and each.dest.replace("_", "-") in KEYS)
            and each.help != argparse.SUPPRESS
        ]

    def has_keys(self) -> bool:
        return any(each.dest == "dcs_clustername" for each in self.parser._actions)


def commands(words: str, parser: argparse.ArgumentParser, help: str = "") -> Iterator[Command]:
    """Yields the commands that can be typed, without those that the help does not list."""
    subs = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    if not subs:
        yield Command(words, help or parser.description or "", parser)
    for sub in subs:
        for listed in sub._choices_actions:
            name = listed.dest
            yield from commands(f"{words} {name}", sub.choices[name], listed.help or "")


def help_of(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    choices = ", ".join(map(str, action.choices or ())) if not action.metavar else ""
    return f"{text}: {choices}" if text and choices else text or choices


def all_commands() -> list[Command]:
    """Both programs, and every command of theirs."""
    return [
        Command("yaim", "", cli.parser()),
        *commands("yaim", cli.parser()),
        Command("yaim-helper", "", helper.parser()),
        *commands("yaim-helper policy", policy_tools.parser()),
        *commands("yaim-helper audit", audit_tools.parser()),
    ]


def sub_commands(found: list[Command]) -> dict[str, set[str]]:
    """The words that may follow a program, or a program and a command."""
    tree: dict[str, set[str]] = {}
    for command in found:
        words = command.words.split()
        for depth in range(1, len(words)):
            tree.setdefault(" ".join(words[:depth]), set()).add(words[depth])
    return tree


def whole_helper() -> argparse.ArgumentParser:
    """A parser of all that yaim-helper takes, which has three."""
    parser = helper.parser()
    tools = parser.add_subparsers()
    for name, made, what in (
        ("policy", policy_tools.parser(), "look at an allowlist"),
        ("audit", audit_tools.parser(), "tell what is on record"),
    ):
        tools.add_parser(name, help=what, parents=[made], add_help=False)
    return parser
