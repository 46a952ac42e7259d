"""`yaim node`: the nodes of the cluster, also those that are not there now."""

import argparse

from yaim.cli.options import add_command, add_config_options
from yaim.cli.steering import (
    a_node,
    add_change_options,
    add_json_option,
    fail,
    now_as_text,
    open_store,
    print_json,
    show_lines,
    steer,
)
from yaim.config.load import Purpose
from yaim.dcs.store import StoreError
from yaim.steer.listing import node_lines, nodes_as_json
from yaim.steer.requests import Forget

SCHEMA = "yaim.nodes/1"


def add_options(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="list|forget", required=True)
    listing = add_command(commands, "list", help="show them")
    listing.set_defaults(command=run_list)
    add_json_option(listing)
    add_config_options(listing, Purpose.CLUSTER)
    forgetting = add_command(
        commands,
        "forget",
        help="a node that is gone for good is missed no more; its drain and its weight go, too",
    )
    forgetting.set_defaults(command=run_forget)
    forgetting.add_argument("node", metavar="NODE", type=a_node)
    add_change_options(forgetting)


def run_list(options: argparse.Namespace) -> int:
    opened = open_store(options)
    try:
        view = opened.operations.look()
    except StoreError as error:
        return fail(error, SCHEMA, opened.prefix, as_json_too=options.json, nodes=None)
    if options.json:
        print_json(
            {
                "schema": SCHEMA,
                "time": now_as_text(),
                "cluster": opened.prefix,
                "revision": view.revision,
                "nodes": nodes_as_json(view),
                "error": None,
            }
        )
    else:
        show_lines(node_lines(view))
    return 0


def run_forget(options: argparse.Namespace) -> int:
    return steer(options, lambda: Forget(options.node, options.reason))
