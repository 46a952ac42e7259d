"""Reads the configuration from all its sources, and tells everything that is wrong at once.

A flag goes before the environment, that before the file, that before the default. Dashes and
underscores in the names of keys are the same.
"""

import socket
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, assert_never

from yaim.config.checks import (
    KIND_OF,
    LISTED_KEYS,
    TIMING_KEYS,
    CheckConfig,
    CheckTiming,
    read_by_kind,
    read_listed,
)
from yaim.config.config import (
    DEFAULT_MANAGER,
    DEFAULT_STORE,
    DEFAULT_TTL_MS,
    KEYS,
    MOST_OF_A_LABEL,
    Config,
    own_keys,
)
from yaim.config.doubts import doubts_of
from yaim.config.file import ConfigError, Given, Issue, read_file, suggestion
from yaim.config.kinds import chosen_kind, foreign_keys, group_of
from yaim.config.values import Values, origins_of
from yaim.config_keys import ConfigKey, keys_in
from yaim.dcs.kinds import STORES
from yaim.managers.kinds import MANAGERS

DEFAULT_FILES = (Path("/etc/yaim/yaim.yml"), Path("yaim.yml"))
"""The first of these that is there is read where none is named."""
ENVIRONMENT_PREFIX = "YAIM_"


def variable(name: str) -> str:
    """The environment variable of a key."""
    return ENVIRONMENT_PREFIX + name.replace("-", "_").upper()


class Purpose(Enum):
    """What the configuration is wanted for. Keys that do not matter for that are not looked at."""

    NODE = "to take part in a cluster"
    CLUSTER = "to look at one"
    CHECKS = "to check the service"
    SHOW = "to show it"


NEEDED = ("dcs-clustername", "interface", "checker-type")
"""The keys without which no node takes part; `checks` may stand in the place of the last one."""
_REQUIRED = {
    Purpose.NODE: ("dcs-clustername", "interface"),
    Purpose.CLUSTER: ("dcs-clustername",),
    Purpose.CHECKS: (),
    Purpose.SHOW: (),
}
_CLUSTER_KEYS = frozenset(
    {
        *("dcs-type", "dcs-namespace", "dcs-clustername"),
        *(name for kind in STORES.values() for name in keys_in(kind.settings)),
    }
)
_CHECKS_KEYS = frozenset(
    {"checks", "checker-type", "healthy-when", "ttl", "log-level", *TIMING_KEYS, *KIND_OF}
)


def _matters(name: str, purpose: Purpose) -> bool:
    match purpose:
        case Purpose.NODE | Purpose.SHOW:
            return True
        case Purpose.CLUSTER:
            return name in _CLUSTER_KEYS
        case Purpose.CHECKS:
            return name in _CHECKS_KEYS
        case _:
            assert_never(purpose)


def keys_for(purpose: Purpose) -> Mapping[str, ConfigKey]:
    """The keys that are looked at for a purpose, and can be given as flags."""
    return {name: each for name, each in KEYS.items() if _matters(name, purpose)}


def load(
    flags: Mapping[str, str],
    environment: Mapping[str, str],
    file: Path | None,
    purpose: Purpose = Purpose.NODE,
    *,
    is_draft: bool = False,
    source: Path | None = None,
) -> Config:
    """The configuration from these sources; `flags` are by key. Without `file` the first of
    DEFAULT_FILES that is there is read; with `is_draft` the file may be anybody's, also for root.
    `source`: what the file is a copy of, which is named in its place. An empty variable counts as
    none. Raises ConfigError with all that is wrong."""
    issues: list[Issue] = []
    given: dict[str, Given] = {}
    file = file or next(filter(_is_there, DEFAULT_FILES), None)
    if file is not None:
        known = (*KEYS, "checks")
        given, issues = read_file(file, known, {"checks": LISTED_KEYS}, source, is_draft=is_draft)
    for name in KEYS:
        if environment.get(variable(name)):
            given[name] = Given(variable(name), environment[variable(name)])
        if name in flags:
            given[name] = Given(f"--{name}", flags[name])
    given = {
        name: each
        for name, each in given.items()
        if each.value is not None and _matters(name, purpose)
    }
    where = (
        str(source or file)
        if file is not None
        else f"no {' or '.join(map(str, DEFAULT_FILES))}, and no --config"
    )
    store = chosen_kind("dcs-type", STORES, given, DEFAULT_STORE)
    manager = chosen_kind("manager-type", MANAGERS, given, DEFAULT_MANAGER)
    keys = own_keys(STORES[store].settings, MANAGERS[manager].settings)
    values = Values(keys, given, where, issues)
    issues += foreign_keys("dcs-type", STORES, store, given)
    issues += foreign_keys("manager-type", MANAGERS, manager, given)
    for name in _REQUIRED[purpose]:
        values.require(name, KEYS[name].help)
    values.setdefault("nodename", socket.gethostname())
    store_group = group_of(STORES[store], values)
    manager_group = group_of(MANAGERS[manager], values)
    fields: dict[str, Any] = {name.replace("-", "_"): value for name, value in values.items()}
    fields.setdefault("timeout", fields.get("ttl", DEFAULT_TTL_MS))
    room = MOST_OF_A_LABEL - len(f"{fields.get('interface', '')}:")
    fields.setdefault("label", "yaim" if room >= len("yaim") else "")
    config = Config(store=store_group, manager=manager_group, **fields)
    values.refuse(config.faults())
    checks: tuple[CheckConfig, ...] = ()
    if purpose is not Purpose.CLUSTER and "checks" in given:
        checks = read_listed(config, given, issues)
    elif purpose is not Purpose.CLUSTER:
        if purpose is not Purpose.SHOW:
            values.require("checker-type", KEYS["checker-type"].help)
        values.refuse(CheckTiming.faults(config))
        checks = read_by_kind(values.get("checker-type", ()), config, given, where, issues)
    if issues:
        raise ConfigError(sorted(issues, key=lambda issue: _order(issue.where)))
    config = replace(config, checks=checks, file=file, origins=origins_of(given))
    return replace(config, doubts=doubts_of(config, given, where))


def _is_there(file: Path) -> bool:
    """A directory that we may not look into counts as empty."""
    try:
        return file.exists()
    except OSError:
        return False


def _order(where: str) -> tuple[int, int]:
    """Sorts what is wrong in the file by line, and puts the rest behind it."""
    line = where.rpartition(":")[2]
    return (0, int(line)) if line.isdecimal() else (1, 0)


def environment_warnings(environment: Mapping[str, str]) -> list[str]:
    """Warnings of variables that look like keys and are none."""
    known = {variable(name) for name in KEYS} | {ENVIRONMENT_PREFIX + "CONFIG"}
    return [
        f"{name}: no such key{suggestion(name, known)}; ignored"
        if name != variable("checks")
        else f"{name}: a list of checks can stand in the file only; ignored"
        for name in sorted(environment)
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known
    ]
