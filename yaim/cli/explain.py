"""`yaim explain`: why an address is where it is, and why not on another node."""

import argparse
from datetime import UTC, datetime

from yaim.cli.options import EX_CANNOT_START, add_config_options, complain, load_or_exit
from yaim.cli.parsers import EX_USAGE
from yaim.config.load import Purpose
from yaim.core.model import Address, NodeName
from yaim.dcs.records import NotUnderstood, read_address
from yaim.status.explain import Explanation, Unknown, explain, in_words
from yaim.text import MOST_LAST, columns, shortened


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument("address", metavar="ADDRESS", help="of the pool")
    parser.add_argument("node", nargs="?", metavar="NODE", help="tell of this node only")
    parser.add_argument(
        "--json", action="store_true", help="for programs: docs/schemas/explain-1.json"
    )
    add_config_options(parser, Purpose.CLUSTER)


def run(options: argparse.Namespace) -> int:
    try:
        address = read_address(options.address)
    except NotUnderstood as error:
        complain(str(error))
        return EX_USAGE
    loaded = load_or_exit(options, Purpose.CLUSTER)
    from yaim.dcs.store import StoreError
    from yaim.status.look import condition_of
    from yaim.wiring import store_parts_of

    parts = store_parts_of(loaded)
    try:
        view = parts.operations().look()
        node = NodeName(options.node) if options.node is not None else None
        found = explain(view, address, node)
    except StoreError as error:
        return _fail(
            options, parts.prefix, address, f"cannot read etcd: {error}", condition_of(error)
        )
    except Unknown as error:
        return _fail(options, parts.prefix, address, str(error), EX_CANNOT_START)
    if options.json:
        from yaim.status.as_json import explanation_as_json

        print(explanation_as_json(parts.prefix, found, view.revision, datetime.now(UTC)))
    else:
        print(as_table(found))
    return 0


def _fail(
    options: argparse.Namespace, prefix: str, address: Address, error: str, status: int
) -> int:
    if options.json:
        from yaim.status.as_json import unexplained

        print(unexplained(prefix, str(address), error, datetime.now(UTC)))
    else:
        complain(error)
    return status


def as_table(found: Explanation) -> str:
    rows = [(each.node, _here(each.is_holder, each.is_target), each.reason) for each in found.nodes]
    first = shortened(f"{in_words(found)}.", MOST_LAST)
    return "\n".join([first, "", *columns(("NODE", "ADDRESS", "REASON"), rows)])


def _here(is_holder: bool, is_target: bool) -> str:
    if is_holder:
        return "stays" if is_target else "goes"
    return "comes" if is_target else "-"
