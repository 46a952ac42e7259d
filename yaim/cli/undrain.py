"""`yaim undrain`: has drained nodes share in the addresses again."""

import argparse

from yaim.cli.steering import a_node, add_change_options, steer
from yaim.steer.requests import Undrain


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument("nodes", metavar="NODE", nargs="+", type=a_node)
    add_change_options(parser)


def run(options: argparse.Namespace) -> int:
    return steer(options, lambda: Undrain(tuple(dict.fromkeys(options.nodes)), options.reason))
