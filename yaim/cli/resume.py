"""`yaim resume`: ends a pause."""

import argparse

from yaim.cli.steering import add_change_options, steer
from yaim.steer.requests import Resume


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    add_change_options(parser)


def run(options: argparse.Namespace) -> int:
    return steer(options, lambda: Resume(options.reason))
