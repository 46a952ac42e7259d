"""`yaim pool`: the addresses of the cluster, in place of etcdctl."""

import argparse
import re
from collections.abc import Callable

from yaim.cli.options import add_command, add_config_options
from yaim.cli.steering import (
    a_node,
    a_range,
    add_change_options,
    add_force_option,
    add_json_option,
    all_of,
    as_type,
    fail,
    now_as_text,
    open_store,
    print_json,
    show_lines,
    steer,
    usage,
)
from yaim.config.load import Purpose
from yaim.core.model import NodeName
from yaim.dcs.store import StoreError
from yaim.steer.listing import pool_as_json, pool_lines
from yaim.steer.requests import AddToPool, RemoveFromPool, SetInPool
from yaim.steer.words import NotRead

SCHEMA = "yaim.pool/1"
NOT_GIVEN = object()


def add_options(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="list|add|set|remove", required=True)
    listing = add_command(commands, "list", help="show them, with their options and holders")
    listing.set_defaults(command=run_list)
    add_json_option(listing)
    add_config_options(listing, Purpose.CLUSTER)
    _add(commands, "add", "add addresses", run_add)
    _add(commands, "set", "change options; an empty value takes one away", run_set)
    removing = add_command(commands, "remove", help="take addresses out: nobody holds them then")
    removing.set_defaults(command=run_remove)
    _add_addresses(removing)
    add_change_options(removing)


def _add(commands: object, name: str, help: str, run: Callable[[argparse.Namespace], int]) -> None:
    parser = add_command(commands, name, help=help)
    parser.set_defaults(command=run)
    _add_addresses(parser)
    group = parser.add_argument_group("options of the addresses")
    group.add_argument(
        "--interface",
        type=an_interface,
        dest="entry_interface",
        metavar="NAME",
        default=NOT_GIVEN,
        help="holders put it there, and not on their own one",
    )
    group.add_argument(
        "--prefix",
        type=a_prefix,
        metavar="LENGTH",
        default=NOT_GIVEN,
        help="the prefix length with which holders put it there",
    )
    for option, what in (
        ("--prefer", "nodes that get it as long as they can hold it"),
        ("--exclude", "nodes that never get it"),
    ):
        group.add_argument(
            option, type=some_nodes, default=NOT_GIVEN, metavar="NODE[,NODE...]", help=what
        )
    add_force_option(parser, "also if no live node may hold it")
    add_change_options(parser)


def _add_addresses(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "addresses",
        metavar="ADDRESS",
        nargs="+",
        type=a_range,
        help="or a range, such as 192.0.2.10-192.0.2.19",
    )


@as_type
def an_interface(word: str) -> str | None:
    if word and not re.fullmatch(r"[^\s/:%]{1,127}", word):
        raise NotRead(f"{word[:60]!r} is not the name of an interface")
    return word or None


@as_type
def a_prefix(word: str) -> int | None:
    if word and not (word.isdecimal() and 1 <= int(word) <= 128):
        raise NotRead(f"{word[:60]!r} is not a prefix length: expected 1 to 32, for IPv6 to 128")
    return int(word) if word else None


@as_type
def some_nodes(word: str) -> tuple[NodeName, ...] | None:
    return tuple(a_node(each) for each in word.split(",")) if word else None


def run_list(options: argparse.Namespace) -> int:
    opened = open_store(options)
    try:
        view = opened.operations.look()
    except StoreError as error:
        return fail(
            error,
            SCHEMA,
            opened.prefix,
            as_json_too=options.json,
            addresses=None,
            wrong=None,
        )
    if options.json:
        print_json(
            {
                "schema": SCHEMA,
                "time": now_as_text(),
                "cluster": opened.prefix,
                "revision": view.revision,
                **pool_as_json(view),
                "error": None,
            }
        )
    else:
        show_lines(pool_lines(view))
    return 0


def run_add(options: argparse.Namespace) -> int:
    given = {name: value for name, value in _options(options).items() if value is not None}
    request = AddToPool(all_of(options.addresses), given, options.force, options.reason)
    return steer(options, lambda: request)


def run_set(options: argparse.Namespace) -> int:
    given = _options(options)
    if not given:
        usage("say what to set: --interface, --prefix, --prefer, --exclude")
    request = SetInPool(all_of(options.addresses), given, options.force, options.reason)
    return steer(options, lambda: request)


def run_remove(options: argparse.Namespace) -> int:
    return steer(options, lambda: RemoveFromPool(all_of(options.addresses), options.reason))


def _options(options: argparse.Namespace) -> dict[str, object]:
    """Those that were given; None: it is to be taken away."""
    addresses = all_of(options.addresses)
    prefix = options.prefix
    if prefix is not NOT_GIVEN and prefix is not None:
        for address in addresses:
            if prefix > address.max_prefixlen:
                usage(f"--prefix {prefix}: {address} has {address.max_prefixlen} bits")
    given = {
        "interface": options.entry_interface,
        "prefix": prefix,
        "prefer": options.prefer,
        "exclude": options.exclude,
    }
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value is not NOT_GIVEN
    }
