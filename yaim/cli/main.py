"""The command `yaim`: which commands there are, and which of them is meant.

Each command has a file of its own here, with two functions: one adds its options to a parser, and
one runs it. The file is imported only if the command's name is among the arguments: every start
would take longer otherwise.
"""

import argparse
import os
import sys
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from itertools import pairwise

from yaim import __version__

COMMANDS = {
    "run": "take part in the cluster, until SIGTERM or SIGINT",
    "supervise": "without systemd: run helper and coordinator, and keep them running",
    "status": "show who holds what, and what is wrong; exit status 0: healthy, 1: degraded,"
    " 69: etcd is unreachable",
    "explain": "tell why an address is where it is, and why not on another node",
    "drain": "have nodes give up what others can hold, for maintenance, and wait for that",
    "undrain": "have drained nodes share in the addresses again",
    "move": "have an address go to a node, once",
    "pin": "have an address stay on a node, as long as that can hold it",
    "unpin": "let pinned addresses go where the others go",
    "weight": "give a node a larger share than others",
    "pause": "for a while nothing moves only to be level; failures are followed all the same",
    "resume": "end a pause",
    "plan": "tell what would move if something happened; changes nothing",
    "history": "tell what has happened in the last days, and who asked for it",
    "pool": "list, add, change and remove the addresses of the cluster",
    "node": "list the nodes, also those that are missing; forget one",
    "check": "make the checks once and tell what they find; exit status 0: healthy, 1: not",
    "doctor": "tell what is missing on this node or wrong with it, and what to do; changes nothing;"
    " exit status 0: nothing is wrong, 1: there are problems",
    "lab": "a cluster on this machine, to see what yaim does",
    "config": "look at the configuration, and at the keys that there are",
    "version": "tell which version this is",
    "help": "show the help of a command",
}
"""The names of the commands, which are those of their files, and what each is for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    open_standard_streams()
    given = _with_dashes(sys.argv[1:] if arguments is None else arguments)
    if given[:2] == ["check", "--now"]:
        from yaim.cli.check_now import quickly

        if (status := quickly(given)) is not None:
            return status
    options = parser(given).parse_args(given)
    if options.command is None:
        from yaim.cli.run import run

        return run(options)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def open_standard_streams() -> None:
    """Makes the standard streams that were closed before this process began lead nowhere. Otherwise
    what is opened next, such as the helper's socket, would get the number, and all that is
    printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _with_dashes(arguments: Sequence[str]) -> list[str]:
    """Makes --retry-num=2 of --retry_num=2; but `yaim lab exec` passes on what comes behind it."""
    words = list(pairwise(["", *arguments]))
    ours = words.index(("lab", "exec")) if ("lab", "exec") in words else len(arguments)
    changed = []
    for argument in arguments[:ours]:
        name, equals, value = argument.partition("=")
        changed.append(
            name.replace("_", "-") + equals + value if name.startswith("--") else argument
        )
    return [*changed, *arguments[ours:]]


def parser(given: Collection[str] | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, with the options of those commands that are among the given
    arguments; with those of all commands if nothing is given."""
    from yaim.cli.options import add_command, add_config_options
    from yaim.cli.parsers import Parser

    parser = Parser(
        prog="yaim",
        allow_abbrev=False,
        description="Keeps a pool of virtual IP addresses on a set of nodes. Default command: run.",
    )
    parser.add_argument("--version", action="version", version=f"yaim {__version__}")
    # If no command is named, run is the default one, and its own options have not been added.
    parser.set_defaults(command=None, reload_config=None, config_source=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, help in COMMANDS.items():
        command = add_command(commands, name, help)
        if given is None or name in given:
            import_module(f"yaim.cli.{name}").add_options(command)
    add_config_options(parser)
    return parser
