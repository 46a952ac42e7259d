"""Options that several commands have, and what they do with them: the configuration, the users."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from yaim.config.config import KEYS, LOG_LEVELS, Config
from yaim.config.file import ConfigError
from yaim.config.load import (
    DEFAULT_FILES,
    ENVIRONMENT_PREFIX,
    Purpose,
    environment_warnings,
    keys_for,
    load,
)
from yaim.host import logs
from yaim.text import printable_lines

EX_CANNOT_START = 1
EX_GOES_ON = 3
"""Blocked, or not done in time; what was asked for still stands."""
EX_UNREACHABLE, EX_NO_PERMISSION, EX_CONFIG = 69, 77, 78
"""The store is unreachable; somebody may not do that; the configuration is wrong (sysexits.h)."""


def add_command(commands: Any, name: str, help: str | None) -> argparse.ArgumentParser:
    """Adds a command to those of a parser; without help it is not listed."""
    listed = {} if help is None else {"help": help}
    made: argparse.ArgumentParser = commands.add_parser(name, allow_abbrev=False, **listed)
    return made


def add_config_options(parser: argparse.ArgumentParser, purpose: Purpose = Purpose.NODE) -> None:
    """Adds the file, and a flag for each key that matters for the purpose; none for a key whose
    name is that of an option which the command has already."""
    group = parser.add_argument_group(
        "configuration",
        "Each key of yaim.yml can be given as a flag, too (--ttl 3000), or in the environment"
        f" ({ENVIRONMENT_PREFIX}TTL=3000): yaim config keys lists them.",
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"default: {', or '.join(map(str, DEFAULT_FILES))} in the current directory",
    )
    for name, key in keys_for(purpose).items():
        if f"--{name}" in parser._option_string_actions:
            continue
        group.add_argument(
            f"--{name}",
            metavar="VALUE",
            default=argparse.SUPPRESS,
            help=key.help.replace("%", "%%"),
        )


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Adds the users of both processes, and the helper's file. The coordinator itself has no use
    for them."""
    parser.add_argument(
        "--user", default="yaim", help="user that the coordinator runs as; default: %(default)s"
    )
    parser.add_argument(
        "--helper-user",
        default="yaim-helper",
        help="user that the helper becomes; default: %(default)s",
    )
    parser.add_argument(
        "--helper-config",
        type=Path,
        metavar="FILE",
        default=Path("/etc/yaim/helper.yml"),
        help="the helper's allowlist; default: %(default)s",
    )


def flags(options: argparse.Namespace) -> dict[str, str]:
    """The configuration keys that are given as flags."""
    given = vars(options)
    return {name: given[name.replace("-", "_")] for name in KEYS if name.replace("-", "_") in given}


def config_file(options: argparse.Namespace) -> str | None:
    """The configuration file that is named by an option or in the environment."""
    return getattr(options, "config", None) or os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")


def load_config(options: argparse.Namespace, purpose: Purpose = Purpose.NODE) -> Config:
    """Raises ConfigError."""
    file = config_file(options)
    return load(
        flags(options),
        os.environ,
        Path(file) if file else None,
        purpose,
        is_draft=getattr(options, "draft", False),
    )


def load_or_exit(
    options: argparse.Namespace,
    purpose: Purpose = Purpose.NODE,
    *,
    when_denied: int = EX_NO_PERMISSION,
) -> Config:
    """`when_denied`: the exit status if nothing is wrong but that we may not read it."""
    for warning in environment_warnings(os.environ):
        complain(f"warning: {warning}")
    try:
        return load_config(options, purpose)
    except ConfigError as error:
        for issue in error.issues:
            complain(str(issue))
        raise SystemExit(when_denied if error.is_denied else EX_CONFIG) from None


def complain(text: str) -> None:
    print(printable_lines(f"yaim: {text}"), file=sys.stderr)


def start_logs(loaded: Config) -> None:
    names = {"YAIM_CLUSTER": loaded.dcs_clustername, "YAIM_NODE": loaded.nodename}
    fields = {name: text for name, text in names.items() if text}
    logs.start(LOG_LEVELS[loaded.log_level], fields)
