"""`yaim help`: shows the help of a command, as that command's --help does."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument(
        "words", metavar="COMMAND", nargs="*", help="such as: config show; without: all commands"
    )


def run(options: argparse.Namespace) -> int:
    """Ends in --help of the command, or in what the parser says of a command that is not there."""
    from yaim.cli.main import parser

    asked = [*options.words, "--help"]
    parser(asked).parse_args(asked)
    raise AssertionError("--help ends the program")
