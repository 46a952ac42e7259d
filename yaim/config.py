"""The configuration: which keys there are, where they come from, and what is wrong with them.

A flag goes before the environment, that before the file, that before the default. Dashes and
underscores in key names are the same. Everything that is wrong is told at once.
"""

import difflib
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from yaim.core.deadline import MIN_TTL_S
from yaim.keys import (
    MASK,
    Key,
    Unfit,
    absolute_path,
    any_text,
    key,
    keys_of,
    mask_url,
    one_of,
    readable_file,
    several,
    text,
    url,
    whole,
)

DEFAULT_FILE = Path("yaim.yml")
ENVIRONMENT_PREFIX = "YAIM_"
MIN_ATTEMPT_MS = 100
LOG_LEVELS = ("Trace", "Debug", "Info", "Warn", "Warning", "Error", "Fatal", "Panic")


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong."""

    where: str
    """File and line, environment variable, or flag."""
    key: str
    given: str
    expected: str

    def __str__(self) -> str:
        given = f"got {self.given}, " if self.given else ""
        return f"{self.where}: {self.key}: {given}expected {self.expected}"


class ConfigError(Exception):
    """The configuration cannot be used."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__("\n".join(str(issue) for issue in issues))
        self.issues = tuple(issues)


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


_NAME = text(r"[^\s/]{1,200}", "a name without spaces or slashes")
_LEVELS = one_of(*LOG_LEVELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All keys; None where nothing is given and there is no default."""

    interval: int = key(
        "milliseconds from one check of the service to the next; the lease is refreshed at least as"
        " often",
        whole(100, 3_600_000),
        1000,
    )
    ttl: int = key(
        "milliseconds after which others take over from a node that has died; etcd counts whole"
        " seconds, so it is rounded up",
        whole(MIN_TTL_S * 1000, 3_600_000),
        5000,
        reloaded=False,
    )
    retry_num: int = key(
        "how often a check that got no answer is repeated before it counts", whole(0, 100), 3
    )
    retry_after: int = key("milliseconds between such tries", whole(0, 60_000), 250)
    dcs_type: str = key("where the cluster's state is kept", one_of("etcd"), "etcd", reloaded=False)
    dcs_namespace: str = key(
        "first part of the keys' prefix",
        text(r"[^\s]{0,200}", "a key prefix"),
        "/service/",
        reloaded=False,
    )
    dcs_clustername: str = key("second part of the keys' prefix", _NAME, reloaded=False)
    dcs_endpoints: tuple[str, ...] = key(
        "etcd's URLs; tried in random order", several(endpoint), ("http://127.0.0.1:2379",)
    )
    etcd_user: str | None = key("etcd user", text())
    etcd_password: str | None = key(
        "the etcd user's password", text(r"(?s).*", "text"), secret=True
    )
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
        reloaded=False,
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
        "kind of check, or a list of kinds: http", several(one_of("http"))
    )
    http_url: str | None = key("URL that is asked for with GET", url, mask=mask_url)
    http_user: str | None = key("user for HTTP basic authentication", text())
    http_password: str | None = key(
        "password for HTTP basic authentication", text(r"(?s).*", "text"), secret=True
    )
    http_password_file: Path | None = key("file with that password", readable_file)
    http_ca_file: Path | None = key(
        "CA certificates that the service's must be signed by", readable_file
    )
    http_cert_file: Path | None = key("client certificate for the service", readable_file)
    http_key_file: Path | None = key("key of the client certificate for the service", readable_file)
    http_expected_code: int = key("status code of a healthy service", whole(100, 599), 200)
    http_expected_response: str | None = key("whole body of a healthy service's answer", any_text)
    http_expected_response_contains: str | None = key(
        "text that a healthy service's answer contains", text()
    )
    log_level: str = key("how much is logged: " + ", ".join(LOG_LEVELS), _LEVELS, "Info")
    helper_socket: Path = key(
        "socket of yaim-helper",
        absolute_path,
        Path("/run/yaim-helper/helper.sock"),
        reloaded=False,
    )

    file: Path | None = None
    """The file that was read."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Key to where its value comes from; keys with their default value are missing."""

    @property
    def ttl_s(self) -> int:
        return -(-self.ttl // 1000)

    def shown(self) -> list[tuple[str, str, str]]:
        """Key, value and origin of all keys, secrets masked."""
        rows = []
        for name, each in KEYS.items():
            value = getattr(self, _attribute(name))
            rows.append((name, each.shown(value), self.origins.get(name, "default")))
        return rows


def _attribute(name: str) -> str:
    return name.replace("-", "_")


KEYS: Mapping[str, Key] = keys_of(Config)


def variable(name: str) -> str:
    """The environment variable of a key."""
    return ENVIRONMENT_PREFIX + name.replace("-", "_").upper()


# --- reading -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as it was given."""

    where: str
    value: Any


NODE_KEYS = ("dcs-clustername", "interface", "checker-type")
"""What must be given to take part in a cluster."""
CLUSTER_KEYS = ("dcs-clustername",)
"""What must be given to look at one."""
CLUSTER_PREFIXES = ("dcs-", "etcd-")
"""The keys that matter then."""


def load(
    flags: Mapping[str, str],
    environment: Mapping[str, str],
    file: Path | None,
    *,
    only_cluster: bool = False,
) -> Config:
    """The configuration from these sources; `flags` by key. Without `file`: yaim.yml in the
    current directory, if there is one. An empty variable counts as none. `only_cluster`: what is
    needed to look at a cluster, not to take part in it; the other keys are not looked at. Raises
    ConfigError with all that is wrong."""
    issues: list[Issue] = []
    given: dict[str, _Given] = {}
    if file is None and _is_there(DEFAULT_FILE):
        file = DEFAULT_FILE
    if file is not None:
        given.update(_read_file(file, issues))
    for name in KEYS:
        if environment.get(variable(name)):
            given[name] = _Given(variable(name), environment[variable(name)])
        if name in flags:
            given[name] = _Given(f"--{name}", flags[name])
    values: dict[str, Any] = {}
    if only_cluster:
        given = {name: each for name, each in given.items() if name.startswith(CLUSTER_PREFIXES)}
    for name, each in given.items():
        if each.value is None:
            continue
        try:
            values[name] = KEYS[name].read(each.value)
        except Unfit as unfit:
            # What stands before an @ may be a password.
            shown = re.sub(r"(?s)^(\W*\w*://)?.*@", rf"\g<1>{MASK}@", repr(each.value))
            shown = MASK if KEYS[name].is_secret else shown
            issues.append(Issue(each.where, name, shown, str(unfit)))
    where = str(file) if file is not None else f"no {DEFAULT_FILE} here and no --config"
    required = CLUSTER_KEYS if only_cluster else NODE_KEYS
    _Relations(given, values, issues, where).check(required)
    if issues:
        raise ConfigError(sorted(issues, key=lambda issue: _order(issue.where)))
    origins = {name: each.where for name, each in given.items() if each.value is not None}
    for prefix in ("etcd", "http"):
        if f"{prefix}-password-file" in origins:
            origins[f"{prefix}-password"] = origins[f"{prefix}-password-file"]
    attributes = {_attribute(name): value for name, value in values.items()}
    return Config(**attributes, file=file, origins=origins)


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
        f"{name}: no such key{_suggestion(name, known)}; ignored"
        for name in sorted(environment)
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known
    ]


def _suggestion(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f" (did you mean {close[0]}?)" if close else ""


def _read_file(file: Path, issues: list[Issue]) -> dict[str, _Given]:
    """Raises ConfigError if it cannot be read at all."""
    try:
        content = file.read_bytes()
        root = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
    except OSError as error:
        raise _unusable(str(file), f"to be able to read it ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _unusable(f"{file}:{line}", "UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = re.sub(r"'.*'", "...", error.problem or "unknown error", flags=re.DOTALL)
        raise _unusable(f"{file}:{line}", f"YAML ({problem})") from None
    except yaml.reader.ReaderError as error:
        line = content.decode().count("\n", 0, error.position) + 1
        raise _unusable(f"{file}:{line}", f"YAML ({error.reason})") from None
    except (ValueError, OverflowError):
        raise _unusable(str(file), "YAML (it has an escape for a character that is none)") from None
    except RecursionError:
        raise _unusable(str(file), "YAML (nested too deeply)") from None
    if root is None or _is_null(root):
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise _unusable(f"{file}:{root.start_mark.line + 1}", "lines like `key: value`")
    given: dict[str, _Given] = {}
    for key_node, value_node in root.value:
        where = f"{file}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            issues.append(Issue(where, "the key", "a list or mapping", "the name of a key"))
            continue
        name = key_node.value.replace("_", "-")
        if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name) is None:
            # It may hold the value, a secret perhaps.
            issues.append(Issue(where, "the key", "none", "the name of a key, a colon, a space"))
        elif name not in KEYS:
            suggestion = _suggestion(name, set(KEYS))
            issues.append(Issue(where, key_node.value, "", f"a known key{suggestion}"))
        elif name in given:
            issues.append(Issue(where, name, "it twice", f"it once (first: {given[name].where})"))
        else:
            given[name] = _Given(where, _plain(value_node))
    return given


def _unusable(where: str, expected: str) -> ConfigError:
    return ConfigError([Issue(where, "the file", "", expected)])


@dataclass(frozen=True, slots=True)
class _Strange:
    """A value that is neither text nor a list of texts. No key takes it."""

    def __repr__(self) -> str:
        return "something nested or tagged"


def _plain(node: yaml.Node) -> str | list[str] | _Strange | None:
    """A scalar as it is written, a list of such; numbers are made of it by those who want them.
    YAML would make 5349 of 012345, and 90 of 1:30: no good for passwords."""
    if _is_null(node):
        return None
    if _is_plain(node):
        return str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(_is_plain(item) for item in node.value):
        return [str(item.value) for item in node.value]
    return _Strange()


def _is_plain(node: yaml.Node) -> bool:
    return (
        isinstance(node, yaml.ScalarNode) and node.tag.startswith(_YAML_TAG) and not _is_null(node)
    )


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == f"{_YAML_TAG}null")


_YAML_TAG = "tag:yaml.org,2002:"


class _Relations:
    """What must hold between keys; fills in defaults and secrets that come from elsewhere."""

    def __init__(
        self,
        given: Mapping[str, _Given],
        values: dict[str, Any],
        issues: list[Issue],
        where: str,
    ) -> None:
        self._given = given
        self._values = values
        self._issues = issues
        self._where = where

    def check(self, required: Sequence[str]) -> None:
        self._values.setdefault("nodename", socket.gethostname())
        for name in required:
            self._require(name, KEYS[name].help)
        if "http" in self._values.get("checker-type", ()):
            self._require("http-url", f"for checker-type http: {KEYS['http-url'].help}")
        for prefix in ("etcd", "http"):
            self._read_password(prefix)
            self._require_both(f"{prefix}-user", f"{prefix}-password")
            self._require_both(f"{prefix}-cert-file", f"{prefix}-key-file")
        self._use_tls_files()
        self._fit_label()
        self._fit_retries()

    def _require(self, name: str, expected: str) -> None:
        if name not in self._values and not self._is_wrong_already(name):
            self._issues.append(Issue(self._where, name, "nothing", expected))

    def _is_wrong_already(self, name: str) -> bool:
        return any(issue.key == name for issue in self._issues)

    def _require_both(self, one: str, other: str) -> None:
        for name, missing in ((one, other), (other, one)):
            if name not in self._values or missing in self._values:
                continue
            if not self._is_wrong_already(missing) and not self._is_wrong_already(
                f"{missing}-file"
            ):
                given = name if name in self._given else f"{name}-file"
                expected = f"one together with {given}"
                if missing.endswith("-password"):
                    expected = f"one, or {missing}-file, together with {given}"
                where = self._given[given].where
                self._issues.append(Issue(where, missing, "nothing", expected))

    def _read_password(self, prefix: str) -> None:
        name, file_name = f"{prefix}-password", f"{prefix}-password-file"
        file = self._values.get(file_name)
        if file is None:
            return
        where = self._given[file_name].where
        if name in self._values:
            expected = f"either it or {name}, not both"
            self._issues.append(Issue(where, file_name, str(file), expected))
            return
        try:
            self._values[name] = file.read_text("utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            self._issues.append(Issue(where, file_name, str(file), f"text in UTF-8 ({error})"))

    def _use_tls_files(self) -> None:
        """They would be ignored in plaintext, and somebody thinks that they are not. Endpoints of
        both kinds are fine: so it is while a cluster of etcd is moved to TLS."""
        endpoints = self._values.get("dcs-endpoints", _default("dcs-endpoints"))
        has_tls = any(each.startswith("https://") for each in endpoints)
        if has_tls or self._is_wrong_already("dcs-endpoints"):
            return
        for name in ("etcd-ca-file", "etcd-cert-file", "etcd-key-file"):
            if name in self._values:
                expected = f"https:// in dcs-endpoints as well ({', '.join(endpoints)}: no TLS)"
                where = self._given[name].where
                self._issues.append(Issue(where, name, str(self._values[name]), expected))

    def _fit_label(self) -> None:
        interface = self._values.get("interface", "")
        label = self._values.get("label")
        room = 15 - len(f"{interface}:")
        if label is None:
            self._values["label"] = "yaim" if room >= len("yaim") else ""
        elif len(label) > room:
            self._issues.append(
                Issue(
                    self._given["label"].where,
                    "label",
                    repr(label),
                    f"at most {max(room, 0)} characters, 15 together with {interface}:",
                )
            )

    def _fit_retries(self) -> None:
        num, after, ttl = (
            self._values.get(name, _default(name)) for name in ("retry-num", "retry-after", "ttl")
        )
        if num * after + (num + 1) * MIN_ATTEMPT_MS > ttl:
            where = next(
                (self._given[n].where for n in ("retry-num", "retry-after") if n in self._given),
                self._where,
            )
            self._issues.append(
                Issue(
                    where,
                    "retry-num, retry-after",
                    f"{num} times {after} ms",
                    f"all tries of a check, of {MIN_ATTEMPT_MS} ms at least, to fit into the ttl of"
                    f" {ttl} ms: fewer, closer together, or a longer ttl",
                )
            )


def _default(name: str) -> Any:
    return next(each.default for each in fields(Config) if each.name == _attribute(name))
