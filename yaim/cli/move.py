"""`yaim move`: has an address go to a node, once."""

import argparse

from yaim.cli.steering import a_node, add_change_options, an_address, steer
from yaim.steer.requests import MoveTo


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument("address", metavar="ADDRESS", type=an_address)
    parser.add_argument("node", metavar="NODE", type=a_node)
    parser.add_argument(
        "--swap",
        action="store_true",
        help="if that would not be level, have others go back the other way",
    )
    add_change_options(parser)


def run(options: argparse.Namespace) -> int:
    request = MoveTo(options.address, options.node, options.reason, options.swap)
    return steer(options, lambda: request)
