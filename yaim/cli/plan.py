"""`yaim plan`: what would move if something happened. It changes nothing."""

import argparse

from yaim.cli.options import add_config_options, complain
from yaim.cli.steering import (
    a_node,
    a_range,
    a_weight,
    add_json_option,
    all_of,
    as_type,
    fail,
    now_as_text,
    open_store,
    print_json,
    show_lines,
)
from yaim.config.load import Purpose
from yaim.core.model import NodeName
from yaim.dcs.store import StoreError
from yaim.steer.outcome import Exit
from yaim.steer.show import plan_as_json, plan_lines, standing_lines
from yaim.steer.what_if import WhatIf, plan_for
from yaim.steer.words import NotRead
from yaim.text import parsable

SCHEMA = "yaim.plan/1"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    for option, type, metavar, what in (
        ("--without", a_node, "NODE", "it fails"),
        ("--with", a_node, "NODE", "it comes, or is well again; a new one is like most others"),
        ("--drain", a_node, "NODE", "it is drained"),
        ("--add", a_range, "ADDRESS", "it comes into the pool; or a range"),
        ("--remove", a_range, "ADDRESS", "it leaves the pool; or a range"),
        ("--weight", a_share, "NODE=N", "its weight is N"),
    ):
        parser.add_argument(
            option,
            dest=f"what_{option.removeprefix('--')}",
            type=type,
            metavar=metavar,
            action="append",
            default=[],
            help=f"{what}; may be given several times",
        )
    add_json_option(parser)
    add_config_options(parser, Purpose.CLUSTER)


@as_type
def a_share(word: str) -> tuple[NodeName, int]:
    name, equals, weight = word.rpartition("=")
    if not equals:
        raise NotRead(f"{word[:60]!r} is not NODE=N")
    return a_node(name), a_weight(weight)


def run(options: argparse.Namespace) -> int:
    opened = open_store(options)
    try:
        view = opened.operations.look()
    except StoreError as error:
        keys = {"plan": None, "refusals": None}
        return fail(error, SCHEMA, opened.prefix, as_json_too=options.json, **keys)
    what_if = WhatIf(
        tuple(options.what_without),
        tuple(options.what_with),
        tuple(options.what_drain),
        all_of(options.what_add),
        all_of(options.what_remove),
        dict(options.what_weight),
    )
    plan, faults = plan_for(what_if, view)
    if options.json:
        print_json(
            {
                "schema": SCHEMA,
                "time": now_as_text(),
                "cluster": opened.prefix,
                "revision": view.revision,
                "plan": None if faults else plan_as_json(plan),
                "refusals": list(map(parsable, faults)),
                "error": None,
            }
        )
    elif not faults:
        show_lines([*standing_lines(view), *plan_lines(plan)])
    for fault in faults:
        complain(fault)
    return int(Exit.NO if faults or plan.stays else Exit.DONE)
