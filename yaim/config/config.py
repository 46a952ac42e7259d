"""The configuration: which keys there are, where they come from, and what is wrong with them.

A flag goes before the environment, that before the file, that before the default. Dashes and
underscores in key names are the same. Everything that is wrong is told at once.
"""

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, assert_never
from urllib.parse import urlsplit

from yaim.checks.kinds import KINDS
from yaim.config.checks import (
    KIND_KEYS,
    KIND_OF,
    LISTED_KEYS,
    PACE_KEYS,
    CheckConfig,
    Pace,
    read_by_kind,
    read_listed,
)
from yaim.config.file import ConfigError, Given, Issue, read_file, suggestion
from yaim.config.values import Values, origins_of
from yaim.config_keys import (
    Fault,
    Key,
    Unfit,
    absolute_path,
    any_text,
    both_or_neither,
    key,
    keys_of,
    one_of,
    readable_file,
    several,
    text,
    url,
    whole,
)
from yaim.core.deadline import MAX_TTL_S, MIN_TTL_S

DEFAULT_FILES = (Path("/etc/yaim/yaim.yml"), Path("yaim.yml"))
"""The first of these that is there."""
ENVIRONMENT_PREFIX = "YAIM_"
DEFAULT_TTL_MS = 5000
LOG_LEVELS = ("Trace", "Debug", "Info", "Warn", "Warning", "Error", "Fatal", "Panic")


# --- the keys ------------------------------------------------------------------------------


def endpoint(value: Any) -> str:
    """A URL without a path; etcd's client port where none is given."""
    try:
        parts = urlsplit(url(value))
        has_more = parts.query or parts.fragment or "@" in parts.netloc
        if parts.path in ("", "/") and not has_more:
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            return f"{parts.scheme}://{host}:{parts.port or 2379}"
    except Unfit:
        pass
    raise Unfit(
        "URLs like http://192.0.2.1:2379 or https://etcd1:2379, without path, user or password"
    )


_CLUSTER = text(
    r"[!-.0-~]{1,100}", "a name of up to 100 ASCII characters without spaces or slashes"
)
_NAME = text(r"[^\s/]{1,200}", "a name without spaces or slashes")
_LEVELS = one_of(*LOG_LEVELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Pace):
    """All keys; None where nothing is given and there is no default."""

    ttl: int = key(
        "milliseconds after which others take over from a node that has died; etcd counts whole"
        " seconds, so it is rounded up",
        whole(MIN_TTL_S * 1000, MAX_TTL_S * 1000),
        DEFAULT_TTL_MS,
        reloaded=False,
    )
    dcs_type: str = key("where the cluster's state is kept", one_of("etcd"), "etcd", reloaded=False)
    dcs_namespace: str = key(
        "first part of the keys' prefix",
        text(r"[!-~]{0,100}", "a key prefix of up to 100 ASCII characters"),
        "/service/",
        reloaded=False,
    )
    dcs_clustername: str = key("second part of the keys' prefix", _CLUSTER, reloaded=False)
    dcs_endpoints: tuple[str, ...] = key(
        "etcd's URLs; tried in random order", several(endpoint), ("http://127.0.0.1:2379",)
    )
    etcd_user: str | None = key("etcd user", text())
    etcd_password: str | None = key("the etcd user's password", any_text, secret=True)
    etcd_password_file: Path | None = key("file with the etcd user's password", readable_file)
    etcd_ca_file: Path | None = key("CA certificates that etcd's must be signed by", readable_file)
    etcd_cert_file: Path | None = key("client certificate for etcd", readable_file)
    etcd_key_file: Path | None = key("key of the client certificate for etcd", readable_file)
    nodename: str = key(
        "this node's name in the cluster; default: the host name", _NAME, reloaded=False
    )
    interface: str = key(
        "network interface that the addresses are put on",
        text(r"[^\s/:%]{1,15}", "the name of a network interface, at most 15 characters"),
    )
    netmask: int = key("prefix length of IPv4 addresses", whole(1, 32), 32)
    netmask6: int = key("prefix length of IPv6 addresses", whole(1, 128), 128)
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
        "how addresses are put on interfaces", one_of("basic"), "basic", reloaded=False
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
    log_level: str = key("how much is logged: " + ", ".join(LOG_LEVELS), _LEVELS, "Info")
    helper_socket: Path = key(
        "socket of yaim-helper",
        absolute_path,
        Path("/run/yaim-helper/helper.sock"),
        reloaded=False,
    )

    checks: tuple[CheckConfig, ...] = ()
    """One of each kind in checker_type, or those of the list."""
    file: Path | None = None
    """The file that was read."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Key to where its value comes from; keys with their default value are missing."""

    @property
    def ttl_s(self) -> int:
        return -(-self.ttl // 1000)

    def faults(self) -> Iterator[Fault]:
        """Of keys that are wrong together. Those of the checks each check has itself."""
        yield from both_or_neither(self, "", "etcd-user", "etcd-password")
        yield from both_or_neither(self, "", "etcd-cert-file", "etcd-key-file")
        room = 15 - len(f"{self.interface or ''}:")
        if self.label and len(self.label) > room:
            expected = f"at most {max(room, 0)} characters, 15 together with {self.interface}:"
            yield Fault("label", expected, "interface")
        if not any(each.startswith("https://") for each in self.dcs_endpoints):
            # They would be ignored in plaintext, and somebody thinks that they are not. Endpoints
            # of both kinds are fine: so it is while a cluster of etcd is moved to TLS.
            expected = (
                f"https:// in dcs-endpoints as well ({', '.join(self.dcs_endpoints)}: no TLS)"
            )
            for name in ("etcd-ca-file", "etcd-cert-file", "etcd-key-file"):
                if getattr(self, name.replace("-", "_")) is not None:
                    yield Fault(name, expected, "dcs-endpoints")

    def shown(self) -> list[tuple[str, str, str]]:
        """Key, value and origin of all keys, secrets masked."""
        rows = [
            (name, each.shown(getattr(self, name.replace("-", "_"))), self.origins.get(name, ""))
            for name, each in OWN_KEYS.items()
        ]
        for check in self.checks:
            rows += check.shown()
        return [(name, value, origin or "default") for name, value, origin in rows]


OWN_KEYS: Mapping[str, Key] = keys_of(Config)
"""But for those of the kinds of checks."""
KEYS: Mapping[str, Key] = {
    **OWN_KEYS,
    **{name: each for keys in KIND_KEYS.values() for name, each in keys.items()},
}
"""All that a flag or a variable can set."""


def variable(name: str) -> str:
    """The environment variable of a key."""
    return ENVIRONMENT_PREFIX + name.replace("-", "_").upper()


# --- reading -------------------------------------------------------------------------------


class Purpose(Enum):
    """What the configuration is wanted for. Keys that do not matter for it are not looked at."""

    NODE = "to take part in a cluster"
    CLUSTER = "to look at one"
    CHECKS = "to check the service"


_REQUIRED = {
    Purpose.NODE: ("dcs-clustername", "interface"),
    Purpose.CLUSTER: ("dcs-clustername",),
    Purpose.CHECKS: (),
}
_CLUSTER_PREFIXES = ("dcs-", "etcd-")
_CHECKS_KEYS = frozenset(
    {"checks", "checker-type", "healthy-when", "ttl", "log-level", *PACE_KEYS, *KIND_OF}
)


def _matters(name: str, purpose: Purpose) -> bool:
    match purpose:
        case Purpose.NODE:
            return True
        case Purpose.CLUSTER:
            return name.startswith(_CLUSTER_PREFIXES)
        case Purpose.CHECKS:
            return name in _CHECKS_KEYS
        case _:
            assert_never(purpose)


def load(
    flags: Mapping[str, str],
    environment: Mapping[str, str],
    file: Path | None,
    purpose: Purpose = Purpose.NODE,
    *,
    is_draft: bool = False,
) -> Config:
    """The configuration from these sources; `flags` by key. Without `file`: the first of
    DEFAULT_FILES that is there; `is_draft`: it may be anybody's, also for root. An empty variable
    counts as none. Raises ConfigError with all that is wrong."""
    issues: list[Issue] = []
    given: dict[str, Given] = {}
    file = file or next(filter(_is_there, DEFAULT_FILES), None)
    if file is not None:
        known = (*KEYS, "checks")
        given, issues = read_file(file, known, {"checks": LISTED_KEYS}, is_draft=is_draft)
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
        str(file)
        if file is not None
        else f"no {' or '.join(map(str, DEFAULT_FILES))}, and no --config"
    )
    values = Values(OWN_KEYS, given, where, issues)
    for name in _REQUIRED[purpose]:
        values.require(name, KEYS[name].help)
    values.setdefault("nodename", socket.gethostname())
    fields = {name.replace("-", "_"): value for name, value in values.items()}
    fields.setdefault("timeout", fields.get("ttl", DEFAULT_TTL_MS))
    room = 15 - len(f"{fields.get('interface', '')}:")
    fields.setdefault("label", "yaim" if room >= len("yaim") else "")
    config = Config(**fields)
    values.refuse(config.faults())
    checks: tuple[CheckConfig, ...] = ()
    if purpose is not Purpose.CLUSTER and "checks" in given:
        checks = read_listed(config, given, issues)
    elif purpose is not Purpose.CLUSTER:
        values.require("checker-type", KEYS["checker-type"].help)
        values.refuse(Pace.faults(config))
        checks = read_by_kind(values.get("checker-type", ()), config, given, where, issues)
    if issues:
        raise ConfigError(sorted(issues, key=lambda issue: _order(issue.where)))
    return replace(config, checks=checks, file=file, origins=origins_of(given))


def _is_there(file: Path) -> bool:
    """Not in a directory that we may not look into."""
    try:
        return file.exists()
    except OSError:
        return False


def _order(where: str) -> tuple[int, int]:
    """What the file says by line; then the rest."""
    line = where.rpartition(":")[2]
    return (0, int(line)) if line.isdecimal() else (1, 0)


def environment_warnings(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like ours and are not."""
    known = {variable(name) for name in KEYS} | {ENVIRONMENT_PREFIX + "CONFIG"}
    return [
        f"{name}: no such key{suggestion(name, known)}; ignored"
        if name != variable("checks")
        else f"{name}: a list of checks can stand in the file only; ignored"
        for name in sorted(environment)
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known
    ]
