"""`yaim pause`: nothing moves only to be level, or by preference; what fails is still followed."""

import argparse

from yaim.cli.steering import add_change_options, steer, wanted_reason
from yaim.steer.requests import Pause


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    add_change_options(parser, ends="after this time it ends by itself; default: 1h")


def run(options: argparse.Namespace) -> int:
    return steer(options, lambda: Pause(wanted_reason(options), options.for_s), "yaim resume")
