"""The configuration: which keys there are, and what is wrong with their values together.

It reads nothing (load.py does). The keys of checks, stores and managers stand with their kinds:
yaim/checks/kinds.py, yaim/dcs/kinds.py, yaim/managers/kinds.py.
"""

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from yaim.checks.kinds import KINDS
from yaim.config.checks import KIND_KEYS, CheckConfig, CheckTiming
from yaim.config.doubts import Doubt
from yaim.config.rebalance import read_rebalance
from yaim.config_keys import (
    Applied,
    ConfigKey,
    Fault,
    InvalidValue,
    KeyGroup,
    group_within,
    key,
    keys_in,
    one_of,
    prefix_length,
    several,
    text,
    whole,
)
from yaim.core.deadline import MAX_TTL_S, MIN_TTL_S
from yaim.core.settings import Rebalance, Window
from yaim.dcs.kinds import STORES
from yaim.managers.kinds import MANAGERS

DEFAULT_TTL_MS = 5000
DEFAULT_STORE, DEFAULT_MANAGER = "etcd", "basic"
MIN_PREFIX = 8
"""The shortest prefix length that helper.yml can allow; of IPv6 more than 32."""
MOST_OF_A_LABEL = 15
"""Characters that the kernel keeps of <interface>:<label> (IFNAMSIZ, linux/if.h)."""
LOG_LEVELS: Mapping[str, int] = {
    "Trace": logging.DEBUG,
    "Debug": logging.DEBUG,
    "Info": logging.INFO,
    "Warn": logging.WARNING,
    "Warning": logging.WARNING,
    "Error": logging.ERROR,
    "Fatal": logging.CRITICAL,
    "Panic": logging.CRITICAL,
}
"""The names are those of the Go original."""

_CLUSTER = text(
    r"[!-.0-~]{1,100}", "a name of up to 100 ASCII characters without spaces or slashes"
)
_NAME = text(r"[^\s/]{1,200}", "a name without spaces or slashes")


def _node_name(value: Any) -> str:
    """Reads a name that is not the same on each node for nobody having put its own there."""
    name = _NAME(value)
    if re.search(r"\$\{?\(?\w", name):
        raise InvalidValue(
            "this node's own name: yaim.yml has no variables (without the key it is the host name;"
            " a unit or a container may set YAIM_NODENAME)"
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(CheckTiming):
    """The value of each key; None where nothing is given and there is no default."""

    ttl: int = key(
        "milliseconds after which others take over from a node that has died; etcd counts whole"
        " seconds, so it is rounded up",
        whole(MIN_TTL_S * 1000, MAX_TTL_S * 1000),
        DEFAULT_TTL_MS,
        applied=Applied.STOP,
    )
    dcs_type: str = key(
        "where the cluster's state is kept", one_of(*STORES), DEFAULT_STORE, applied=Applied.RESTART
    )
    dcs_namespace: str = key(
        "first part of the keys' prefix",
        text(r"[!-~]{0,100}", "a key prefix of up to 100 ASCII characters"),
        "/service/",
        applied=Applied.RESTART,
    )
    dcs_clustername: str = key(
        "the cluster's name, the same on all its nodes; second part of the keys' prefix",
        _CLUSTER,
        applied=Applied.RESTART,
    )
    store: KeyGroup = group_within(
        STORES[DEFAULT_STORE].settings, *(each.settings for each in STORES.values())
    )
    """The keys of the kind that dcs_type names."""
    nodename: str = key(
        "this node's name in the cluster; default: the host name",
        _node_name,
        applied=Applied.RESTART,
    )
    interface: str = key(
        "network interface that the addresses are put on, such as eth0",
        text(r"[^\s/:%]{1,15}", "the name of a network interface, at most 15 characters"),
    )
    netmask: int = key("prefix length of IPv4 addresses", prefix_length(MIN_PREFIX, 32), 32)
    netmask6: int = key("prefix length of IPv6 addresses", whole(33, 128), 128)
    when_all_unhealthy: str = key(
        "what an unhealthy node does with addresses that no other node could hold either: release"
        " them, or keep them",
        one_of("release", "keep"),
        "release",
    )
    label: str = key(
        "IPv4 addresses get the label <interface>:<label>; default: yaim, where that fits into the"
        " kernel's 15 characters",
        text(r"[A-Za-z0-9_.-]*", "letters, digits, _ . -"),
    )
    manager_type: str = key(
        "how addresses are put on interfaces",
        one_of(*MANAGERS),
        DEFAULT_MANAGER,
        applied=Applied.RESTART,
    )
    checker_type: tuple[str, ...] = key(
        f"kind of check, or a list of kinds: {', '.join(KINDS)}", several(one_of(*KINDS))
    )
    healthy_when: str = key(
        "whether all checks have to be good, or any is enough", one_of("all", "any"), "all"
    )
    flap_max_wait: int = key(
        "milliseconds that a node waits at most, after it has turned unhealthy again and again,"
        " before it takes addresses that others can hold; 0: it never waits",
        whole(0, 86_400_000),
        300_000,
    )
    connections: str = key(
        "what happens to the TCP connections of an address when it moves to another node: reset"
        " them, so that clients learn at once, or leave them to their time-outs",
        one_of("reset", "leave"),
        "reset",
    )
    rebalance: Rebalance | Window = key(
        "when addresses may move though nothing has failed, to be shared evenly: auto (at once),"
        " never, or a time of day such as 02:00-04:00 (local time)",
        read_rebalance,
        Rebalance.AUTO,
    )
    rebalance_delay: int = key(
        "milliseconds that such a move has to be due before it is made", whole(0, 86_400_000), 0
    )
    check_trigger: str = key(
        "file by which anybody on this host can ask for all checks at once (yaim check --now): its"
        " path, off, or auto: where systemd has made a directory for it, as with the package",
        text("auto|off|/.+", "auto, off, or an absolute path"),
        "auto",
        applied=Applied.RESTART,
    )
    log_level: str = key(
        "how much is logged: " + ", ".join(LOG_LEVELS), one_of(*LOG_LEVELS), "Info"
    )
    manager: KeyGroup = group_within(
        MANAGERS[DEFAULT_MANAGER].settings, *(each.settings for each in MANAGERS.values())
    )
    """The keys of the kind that manager_type names."""

    checks: tuple[CheckConfig, ...] = ()
    """One check of each kind in checker_type, or the checks of the list."""
    file: Path | None = None
    """The file that was read."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Key to the place that its value comes from; keys with their default value are missing."""
    doubts: tuple[Doubt, ...] = field(default=(), compare=False)

    @property
    def ttl_s(self) -> int:
        return -(-self.ttl // 1000)

    def value(self, name: str) -> Any:
        """The value of a key that is no check's; None if only other kinds of stores or managers
        have it."""
        attribute = name.replace("-", "_")
        for group in (self.store, self.manager, self):
            if hasattr(group, attribute):
                return getattr(group, attribute)
        return None

    def keeping(self, names: Collection[str], other: "Config") -> "Config":
        """This configuration, but with the values that the other one has for these keys."""
        kept = {name.replace("-", "_"): other.value(name) for name in names}
        store = other.store if "dcs_type" in kept else _with(self.store, kept)
        manager = other.manager if "manager_type" in kept else _with(self.manager, kept)
        new: Config = replace(_with(self, kept), store=store, manager=manager)
        return new

    def faults(self) -> Iterator[Fault]:
        """What is wrong with keys together. What is wrong with those of a check the check tells."""
        yield from self.store.faults()
        yield from self.manager.faults()
        room = MOST_OF_A_LABEL - len(f"{self.interface or ''}:")
        if self.label and len(self.label) > room:
            expected = f"at most {max(room, 0)} characters, 15 together with {self.interface}:"
            yield Fault("label", expected, "interface")

    def shown(self) -> list[tuple[str, str, str]]:
        """Key, value and origin of all keys, with secrets masked."""
        rows = [
            (name, each.shown(self.value(name)), self.origins.get(name, ""))
            for name, each in self.own_keys().items()
        ]
        for check in self.checks:
            rows += check.shown()
        return [(name, value, origin or "default") for name, value, origin in rows]

    def own_keys(self) -> Mapping[str, ConfigKey]:
        """The keys that are no check's, without those of other kinds of stores and managers."""
        return own_keys(type(self.store), type(self.manager))


def _with(group: Any, values: Mapping[str, Any]) -> Any:
    """The group with those of the values that it has fields for."""
    own = {each.name for each in fields(group)}
    return replace(group, **{name: value for name, value in values.items() if name in own})


OWN_KEYS: Mapping[str, ConfigKey] = keys_in(Config)
"""All keys but those of the checks."""
_GROUPED = frozenset(
    name
    for kinds in (STORES, MANAGERS)
    for kind in kinds.values()
    for name in keys_in(kind.settings)
)
KEYS: Mapping[str, ConfigKey] = {
    **OWN_KEYS,
    **{name: each for keys in KIND_KEYS.values() for name, each in keys.items()},
}
"""All keys that a flag or an environment variable can set."""


def own_keys(*groups: type) -> Mapping[str, ConfigKey]:
    """All keys but those of the checks, where these are the groups of the store and the manager."""
    chosen = {name: each for group in groups for name, each in keys_in(group).items()}
    return {
        name: chosen.get(name, each)
        for name, each in OWN_KEYS.items()
        if name in chosen or name not in _GROUPED
    }
