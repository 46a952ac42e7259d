"""`yaim version`: tells which version this is."""

import argparse

from yaim import __version__


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)


def run(_options: argparse.Namespace) -> int:
    print(f"yaim {__version__}")
    return 0
