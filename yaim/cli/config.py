"""`yaim config`: checks the configuration, shows its values, and tells which keys there are."""

import argparse
import json
from datetime import UTC, datetime
from ipaddress import ip_address

from yaim.checks.targets import hosts_of
from yaim.cli.options import (
    EX_CONFIG,
    add_command,
    add_config_options,
    add_source_option,
    complain,
    load_or_exit,
)
from yaim.cli.parsers import EX_USAGE, closest
from yaim.config.checks import KIND_KEYS
from yaim.config.config import KEYS, Config
from yaim.config.doubts import Doubt
from yaim.config.file import Issue
from yaim.config.load import NEEDED, Purpose, variable
from yaim.config_keys import ConfigKey
from yaim.doctor.host import addresses_on_host
from yaim.host.interfaces import why_missing
from yaim.text import parsable


def add_options(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="check|show|keys", required=True)
    check = add_command(commands, "check", help="tell everything that is wrong with it")
    check.set_defaults(command=run_check)
    check.add_argument(
        "--draft", action="store_true", help="take a file that others than root can change, too"
    )
    add_source_option(check)
    add_config_options(check)
    show = add_command(
        commands,
        "show",
        help="show the values that a start would use, and where each comes from",
    )
    show.set_defaults(command=run_show)
    show.add_argument("--json", action="store_true", help="for programs")
    add_config_options(show)
    keys = add_command(commands, "keys", help="tell which keys there are, and what each takes")
    keys.set_defaults(command=run_keys)
    keys.add_argument("names", metavar="KEY", nargs="*", help="only these")
    keys.add_argument("--json", action="store_true", help="for programs")


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
    for warning in (*warnings, *loaded.doubts, *asked_elsewhere(loaded)):
        complain(f"warning: {warning}")
    # An interface may come later, as bonds and VLANs do.
    if why_not := why_missing(loaded.interface):
        complain(f"warning: {loaded.origins.get('interface', '')}: interface: {why_not}")
    print("the configuration is good")
    return 0


def asked_elsewhere(config: Config) -> list[Doubt]:
    """The checks that ask an address which this host does not have by itself: that of another host,
    or one of the pool. Which those are only etcd knows, and it is not asked here."""
    found = []
    for check in config.checks:
        for host in hosts_of(check.settings):
            if (why := _why_not_own(host)) is not None:
                own = (check.origins[key] for key in check.origins if key in KIND_KEYS[check.kind])
                where = next(own, str(config.file or ""))
                text = f"asks {host}, {why}: a check is to be of this host's own service"
                found.append(Doubt(where, f"check {check.name}", text))
    return found


def _why_not_own(host: str) -> str | None:
    """Why an address is not this host's own; None if it is, or nothing can be told: of names, and
    where the kernel does not tell its addresses."""
    try:
        address = ip_address(host)
        there = [each for each in addresses_on_host() if each.address == address]
    except (OSError, ValueError):
        return None
    if address.is_loopback or any(not each.is_helpers for each in there):
        return None
    if there:
        return "which yaim-helper has put here, so an address of the pool"
    return "which is not on this host (an address of the pool, and another node holds it?)"


def run_show(options: argparse.Namespace) -> int:
    """Shows what is known where something is missing, too: without a file, the defaults."""
    rows = [
        (name, value, "needed, and not given" if name in NEEDED and not value else origin)
        for name, value, origin in load_or_exit(options, Purpose.SHOW).shown()
    ]
    if options.json:
        keys = [{"key": key, "value": value, "origin": origin} for key, value, origin in rows]
        print(json.dumps({"schema": "yaim.config/1", "keys": _parsable(keys)}, indent=2))
    else:
        rows.insert(0, ("KEY", "VALUE", "FROM"))
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        for name, value, origin in rows:
            print(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")
    return 0


def run_keys(options: argparse.Namespace) -> int:
    names = [name.removeprefix("--").replace("_", "-") for name in options.names]
    for name in names:
        if name not in KEYS:
            complain(f"there is no key {name}{closest(name, KEYS)}")
            return EX_USAGE
    told = {name: KEYS[name] for name in names or KEYS}
    print(_keys_as_json(told) if options.json else "\n\n".join(map(_described, told.items())))
    return 0


def _described(key: tuple[str, ConfigKey]) -> str:
    name, each = key
    lines = [name, f"    {each.help}", f"    {each.expected}"]
    default = "none" if each.default is None else each.shown(each.default)
    lines.append(f"    default: {default}")
    lines.append(
        f"    flag --{name}, variable {variable(name)}; a change counts after {_after(each)}"
    )
    return "\n".join(lines)


def _after(key: ConfigKey) -> str:
    return f"a {key.applied.value}"


def _keys_as_json(keys: dict[str, ConfigKey]) -> str:
    told = [
        {
            "key": name,
            "help": each.help,
            "expected": each.expected,
            "default": None if each.default is None else each.shown(each.default),
            "variable": variable(name),
            "applied_by": each.applied.value,
        }
        for name, each in keys.items()
    ]
    return json.dumps({"schema": "yaim.keys/1", "keys": told}, indent=2)


def _parsable(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: parsable(text) for name, text in row.items()} for row in rows]
