"""`yaim weight`: how large a node's share is, in proportion to the others'."""

import argparse

from yaim.cli.steering import a_node, a_weight, add_change_options, steer
from yaim.steer.requests import Weigh


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument("node", metavar="NODE", type=a_node)
    parser.add_argument(
        "weight", metavar="WEIGHT", type=a_weight, help="1 to 100; 1 is what all have by default"
    )
    add_change_options(parser, ends="after this time it is 1 again; default: never")


def run(options: argparse.Namespace) -> int:
    request = Weigh(options.node, options.weight, options.reason, options.for_s)
    return steer(options, lambda: request)
