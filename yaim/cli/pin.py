"""`yaim pin`: has an address stay on a node, as long as that can hold it."""

import argparse

from yaim.cli.steering import (
    a_node,
    add_change_options,
    add_force_option,
    an_address,
    steer,
    wanted_reason,
)
from yaim.steer.requests import PinTo


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument("address", metavar="ADDRESS", type=an_address)
    parser.add_argument("node", metavar="NODE", type=a_node)
    add_force_option(parser, "also if the node cannot hold it now: the pin waits until it can")
    add_change_options(parser, ends="after this time it ends by itself: 2h, 7d; default: never")


def run(options: argparse.Namespace) -> int:
    address, node, force = options.address, options.node, options.force
    return steer(
        options,
        lambda: PinTo(address, node, wanted_reason(options), options.for_s, force),
        f"yaim unpin {address}",
    )
