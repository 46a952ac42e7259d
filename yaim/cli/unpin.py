"""`yaim unpin`: lets addresses go where the others go."""

import argparse

from yaim.cli.steering import a_range, add_change_options, all_of, steer
from yaim.steer.requests import Unpin


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument("addresses", metavar="ADDRESS", nargs="+", type=a_range)
    add_change_options(parser)


def run(options: argparse.Namespace) -> int:
    return steer(options, lambda: Unpin(all_of(options.addresses), options.reason))
