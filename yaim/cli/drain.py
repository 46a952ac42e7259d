"""`yaim drain`: has nodes give up what others can hold, and take nothing, until `yaim undrain`."""

import argparse

from yaim.cli.steering import a_node, add_change_options, add_force_option, steer, wanted_reason
from yaim.steer.requests import Drain


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument("nodes", metavar="NODE", nargs="+", type=a_node)
    add_force_option(
        parser, "also if addresses can be on none but drained nodes: these stay (exit status 3)"
    )
    add_change_options(parser, ends="after this time it ends by itself: 2h, 90m; default: never")


def run(options: argparse.Namespace) -> int:
    nodes = tuple(dict.fromkeys(options.nodes))
    return steer(
        options,
        lambda: Drain(nodes, wanted_reason(options), options.for_s, options.force),
        f"yaim undrain {' '.join(nodes)}",
    )
