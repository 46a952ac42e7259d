"""`yaim config`: checks the configuration, and shows the values in force."""

import argparse
from datetime import UTC, datetime

from yaim.cli.options import EX_CONFIG, add_command, add_config_options, complain, load_or_exit
from yaim.config.file import Issue
from yaim.host.interfaces import why_missing


def add_options(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="check|show", required=True)
    check = add_command(commands, "check", help="tell everything that is wrong with it")
    check.set_defaults(command=run_check)
    check.add_argument(
        "--draft", action="store_true", help="take a file that others than root can change, too"
    )
    add_config_options(check)
    show = add_command(commands, "show", help="show the values in force and where each comes from")
    show.set_defaults(command=run_show)
    add_config_options(show)


def run_check(options: argparse.Namespace) -> int:
    """Looks into the store's TLS files, too. `run` starts with files that do not belong together at
    the moment: it reads them anew whenever it connects. Warns of a missing interface."""
    loaded = load_or_exit(options)
    from yaim.dcs.store import StoreError
    from yaim.wiring import store_parts_of

    try:
        invalid, warnings = store_parts_of(loaded).look_at_files(datetime.now(UTC))
    except StoreError as error:
        complain(str(error))
        return EX_CONFIG
    for each in invalid:
        where = loaded.origins[each.key]
        complain(str(Issue(where, each.key, str(each.path), each.expected)))
    if invalid:
        return EX_CONFIG
    for warning in warnings:
        complain(f"warning: {warning}")
    # An interface may come later, as bonds and VLANs do.
    if why_not := why_missing(loaded.interface):
        complain(f"warning: {loaded.origins.get('interface', '')}: interface: {why_not}")
    print("the configuration is good")
    return 0


def run_show(options: argparse.Namespace) -> int:
    rows = load_or_exit(options).shown()
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        print(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")
    return 0
