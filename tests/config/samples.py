"""Configurations and values for the tests of the configuration."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.certificates import make_certificates
from yaim.checks.kinds import KINDS
from yaim.config.checks import KIND_OF
from yaim.config.config import Config
from yaim.config.file import ConfigError, Issue
from yaim.config.load import load
from yaim.config_keys import MASK

HERE = Path(__file__)
TLS_DIRECTORY = TemporaryDirectory()
"""Lives as long as this module."""
TLS = make_certificates(Path(TLS_DIRECTORY.name))
PASSWORD_FILE = TLS.ca.with_name("password")
PASSWORD_FILE.write_text("geheim\n")
SECRET = "geheim"
BASE = {
    "dcs-clustername": "yaim",
    "interface": "lo",
    "checker-type": "http",
    "http-url": "http://127.0.0.1:8008/",
}
"""The least that is needed to take part in a cluster."""
LEAST = {
    "http": {"http-url": "http://127.0.0.1:8008/"},
    "postgres": {"postgres-conn-url": "host=/run/postgresql"},
    "shell": {"shell-command": "true"},
    "tcp": {"tcp-address": "127.0.0.1:5432"},
    "pgbouncer": {"pgbouncer-conn-url": "host=/run/postgresql port=6432"},
    "patroni": {},
}
"""The least that a check of each kind needs."""


def file_in(directory: Path, text: str | bytes) -> Path:
    file = directory / "yaim.yml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def lines(values: Mapping[str, str]) -> str:
    return "".join(f"{key}: {value}\n" for key, value in values.items())


def base_for(key: str) -> dict[str, str]:
    """The least that is needed for this key to make sense, but for the key itself."""
    flags = dict(BASE)
    if key in KIND_OF:
        flags = {"dcs-clustername": "yaim", "interface": "lo", "checker-type": KIND_OF[key]}
        flags |= LEAST[KIND_OF[key]]
    flags |= COMPANIONS.get(key, {})
    flags.pop(key, None)
    return flags


def value_of(loaded: Config, key: str) -> object:
    kind = KIND_OF.get(key)
    if kind is None:
        return loaded.value(key)
    (check,) = loaded.checks
    return getattr(check.settings, key.removeprefix(f"{kind}-").replace("-", "_"))


def issues_of(
    file: Path | None,
    flags: Mapping[str, str] = BASE,
    environment: Mapping[str, str] | None = None,
) -> tuple[Issue, ...]:
    """What is wrong, where everything that must be given is given by flags."""
    with pytest.raises(ConfigError) as caught:
        load(flags, environment or {}, file)
    assert str(caught.value) == "\n".join(str(issue) for issue in caught.value.issues)
    return caught.value.issues


def told(file: Path | None, flags: Mapping[str, str] = BASE) -> str:
    """Everything that a user could see of these sources: the errors, or the values in force."""
    try:
        return "\n".join(" ".join(row) for row in load(flags, {}, file).shown())
    except ConfigError as error:
        return str(error)


COMPANIONS = {
    "etcd-user": {"etcd-password": "x"},
    "etcd-password": {"etcd-user": "x"},
    "etcd-password-file": {"etcd-user": "x"},
    "etcd-ca-file": {"dcs-endpoints": "https://etcd1"},
    "etcd-cert-file": {"etcd-key-file": str(HERE), "dcs-endpoints": "https://etcd1"},
    "etcd-key-file": {"etcd-cert-file": str(HERE), "dcs-endpoints": "https://etcd1"},
    "http-user": {"http-password": "x"},
    "http-password": {"http-user": "x"},
    "http-password-file": {"http-user": "x"},
    "http-cert-file": {"http-key-file": str(TLS.key)},
    "http-key-file": {"http-cert-file": str(TLS.leaf)},
    "postgres-cert-file": {"postgres-key-file": str(TLS.key)},
    "postgres-key-file": {"postgres-cert-file": str(TLS.leaf)},
    "pgbouncer-cert-file": {"pgbouncer-key-file": str(TLS.key)},
    "pgbouncer-key-file": {"pgbouncer-cert-file": str(TLS.leaf)},
    "pgbouncer-expected-response": {"pgbouncer-query": "TABLE health"},
    "patroni-max-lag": {"patroni-role": "replica"},
    "patroni-user": {"patroni-password": "x"},
    "patroni-password": {"patroni-user": "x"},
    "patroni-password-file": {"patroni-user": "x"},
    "patroni-cert-file": {"patroni-key-file": str(TLS.key)},
    "patroni-key-file": {"patroni-cert-file": str(TLS.leaf)},
}
"""What must be given together with a key."""
URL = "a URL that begins with http:// or https://"
CLUSTER_NAME = "a name of up to 100 ASCII characters without spaces or slashes"
ENDPOINTS = "URLs like http://192.0.2.1:2379 or https://etcd1:2379, without path, user or password"
LEVELS = "one of Trace, Debug, Info, Warn, Warning, Error, Fatal, Panic"
NOT_EMPTY = "text that is not empty"
STRANGE = "something nested or tagged"
NO_FILE = "no /etc/yaim/yaim.yml or yaim.yml, and no --config"
CODES = "status codes from 100 to 599 or classes like 2xx: one, a list, or text with commas"
CONNINFO = "a URL or keywords as libpq takes them"
LAG = "a number of bytes, or of kB, MB, GB, TB, ms, s or min, such as 16MB or 10s"
PATRONI_LAG = "a number of bytes, or of kB, MB, GB or TB, such as 16MB"
NODE_NAME = (
    "this node's own name: yaim.yml has no variables (without the key it is the host name; a unit"
    " or a container may set YAIM_NODENAME)"
)
TCP_ADDRESS = "host:port, or [IPv6 address]:port, with a port from 1 to 65535"
COMMAND = "a command: text for /bin/sh -c, or a list of the program and its arguments"
MISSING = "a file that can be read (No such file or directory)"
CHECK_TRIGGER = "auto, off, or an absolute path"
REBALANCE = "auto, never, or a time of day with two different ends, such as 02:00-04:00"
KINDS_THERE_ARE = f"one of {', '.join(KINDS)}" if len(KINDS) > 1 else "http"
BAD = [
    ("interval", "99", "'99'", "a whole number from 100 to 3600000"),
    ("interval", "1.5", "'1.5'", "a whole number from 100 to 3600000"),
    ("interval", "true", "'true'", "a whole number from 100 to 3600000"),
    ("interval", "1_000", "'1_000'", "a whole number from 100 to 3600000"),
    ("interval", "५००", "'५००'", "a whole number from 100 to 3600000"),
    ("interval", "[500]", "['500']", "a whole number from 100 to 3600000"),
    ("interval", "1s", "'1s'", "a whole number from 100 to 3600000"),
    ("ttl", "2999", "'2999'", "a whole number from 3000 to 3600000"),
    ("retry-num", "-1", "'-1'", "a whole number from 0 to 100"),
    ("retry-after", "60001", "'60001'", "a whole number from 0 to 60000"),
    ("dcs-type", "consul", "'consul'", "etcd"),
    ("dcs-namespace", "a b", "'a b'", "a key prefix of up to 100 ASCII characters"),
    ("dcs-namespace", "/é/", "'/é/'", "a key prefix of up to 100 ASCII characters"),
    ("dcs-clustername", "a/b", "'a/b'", CLUSTER_NAME),
    ("dcs-clustername", "é", "'é'", CLUSTER_NAME),
    ("dcs-clustername", "a" * 101, repr("a" * 101), CLUSTER_NAME),
    ("dcs-endpoints", "etcd1:2379", "'etcd1:2379'", ENDPOINTS),
    ("dcs-endpoints", "http://a/b", "'http://a/b'", ENDPOINTS),
    ("dcs-endpoints", "http://a#b", "'http://a#b'", ENDPOINTS),
    ("dcs-endpoints", "http://a?b", "'http://a?b'", ENDPOINTS),
    ("dcs-endpoints", "http://a b", "'http://a b'", ENDPOINTS),
    ("dcs-endpoints", "http://a:0", "'http://a:0'", ENDPOINTS),
    ("dcs-endpoints", "http://a,", "'http://a,'", ENDPOINTS),
    ("dcs-endpoints", "http://a:70000", "'http://a:70000'", ENDPOINTS),
    ("dcs-endpoints", "http://root@a", f"'http://{MASK}@a'", ENDPOINTS),
    ("dcs-endpoints", "[http://a, 7]", "['http://a', '7']", ENDPOINTS),
    ("dcs-endpoints", f"http://root:{SECRET}@a", f"'http://{MASK}@a'", ENDPOINTS),
    ("dcs-endpoints", "[http://a, [http://b]]", STRANGE, "a list, or text with commas"),
    ("dcs-endpoints", "[]", "[]", "a list, or text with commas"),
    ("dcs-endpoints", "{a: b}", STRANGE, "a list, or text with commas"),
    ("etcd-user", "''", "''", NOT_EMPTY),
    ("etcd-password", f"[{SECRET}]", MASK, NOT_EMPTY),
    ("etcd-password", "''", MASK, NOT_EMPTY),
    ("etcd-password-file", "/nowhere/p", "'/nowhere/p'", MISSING),
    ("etcd-ca-file", "/nowhere/ca", "'/nowhere/ca'", MISSING),
    ("etcd-ca-file", "/", "'/'", "a file that can be read (Is a directory)"),
    ("etcd-cert-file", "/nowhere/cert", "'/nowhere/cert'", MISSING),
    ("etcd-key-file", "[a]", "['a']", "the path of a file"),
    ("nodename", "a b", "'a b'", "a name without spaces or slashes"),
    (
        "interface",
        "sixteen-letters-",
        "'sixteen-letters-'",
        "the name of a network interface, at most 15 characters",
    ),
    ("nodename", "${HOSTNAME}", "'${HOSTNAME}'", NODE_NAME),
    ("nodename", "db-$(hostname)", "'db-$(hostname)'", NODE_NAME),
    ("netmask", "7", "'7'", "a whole number from 8 to 32"),
    ("netmask6", "32", "'32'", "a whole number from 33 to 128"),
    ("netmask", "33", "'33'", "a whole number from 8 to 32"),
    (
        "netmask",
        "255.255.255.0",
        "'255.255.255.0'",
        "a whole number from 8 to 32 (for this mask: 24)",
    ),
    ("netmask", "255.0.255.0", "'255.0.255.0'", "a whole number from 8 to 32"),
    ("netmask6", "0", "'0'", "a whole number from 33 to 128"),
    ("label", "a b", "'a b'", "letters, digits, _ . -"),
    ("label", "!eigen a", STRANGE, "letters, digits, _ . -"),
    ("when-all-unhealthy", "panic", "'panic'", "one of release, keep"),
    ("manager-type", "hetzner", "'hetzner'", "basic"),
    ("checker-type", "mysql", "'mysql'", KINDS_THERE_ARE),
    ("healthy-when", "most", "'most'", "one of all, any"),
    ("connections", "keep", "'keep'", "one of reset, leave"),
    *(
        ("rebalance", text, f"'{text}'", REBALANCE)
        for text in ("25:00-02:00", "02:00-02:00", "2-4", "nightly", "26", "02:00", "02:60-03:00")
    ),
    ("rebalance", "'02:00-24:00'", "'02:00-24:00'", REBALANCE),
    ("check-trigger", "now", "'now'", CHECK_TRIGGER),
    ("rebalance-delay", "1s", "'1s'", "a whole number from 0 to 86400000"),
    ("flap-max-wait", "-1", "'-1'", "a whole number from 0 to 86400000"),
    ("timeout", "99", "'99'", "a whole number from 100 to 3600000"),
    ("rise", "0", "'0'", "a whole number from 1 to 100"),
    ("fall", "101", "'101'", "a whole number from 1 to 100"),
    ("http-url", "ftp://a/", "'ftp://a/'", URL),
    ("http-url", "127.0.0.1:8008", "'127.0.0.1:8008'", URL),
    ("http-url", "http://a/b c", "'http://a/b c'", URL),
    ("http-url", "'http://a/ '", "'http://a/ '", URL),
    ("http-url", '"http://a/\\n"', "'http://a/\\n'", URL),
    ("http-url", '"http://a\\tb/"', "'http://a\\tb/'", URL),
    ("http-url", "http://a:0/", "'http://a:0/'", URL),
    ("http-url", "http://", "'http://'", URL),
    ("http-url", f"ftp://root:{SECRET}@a/", f"'ftp://{MASK}@a/'", URL),
    ("http-url", "http://[::1", "'http://[::1'", URL),
    ("http-user", "[a]", "['a']", NOT_EMPTY),
    ("http-password", f"{{a: {SECRET}}}", MASK, "text"),
    ("http-password-file", "/nowhere/p", "'/nowhere/p'", MISSING),
    ("http-ca-file", "/nowhere/ca", "'/nowhere/ca'", MISSING),
    ("http-cert-file", "''", "''", "the path of a file"),
    ("http-key-file", "/nowhere/key", "'/nowhere/key'", MISSING),
    ("http-expected-code", "2OO", "'2OO'", CODES),
    ("http-expected-code", "99", "'99'", CODES),
    ("http-expected-code", "600", "'600'", CODES),
    ("http-expected-code", "6xx", "'6xx'", CODES),
    ("http-expected-code", "2x", "'2x'", CODES),
    ("http-expected-code", "[]", "[]", CODES),
    ("http-expected-code", "[200, [204]]", STRANGE, CODES),
    ("http-follow", "all", "'all'", "one of same-host, any"),
    ("http-follow", "true", "'true'", "one of same-host, any"),
    ("http-expected-response", "[OK]", "['OK']", "text"),
    ("http-expected-response-contains", "''", "''", NOT_EMPTY),
    ("postgres-conn-url", "''", "''", NOT_EMPTY),
    (
        "postgres-conn-url",
        "colour=green",
        f"'{MASK}'",
        f'{CONNINFO} (invalid connection option "colour")',
    ),
    ("postgres-user", "''", "''", NOT_EMPTY),
    ("postgres-password", f"[{SECRET}]", MASK, "text"),
    ("postgres-password-file", "/nowhere/p", "'/nowhere/p'", MISSING),
    ("postgres-ca-file", "/nowhere/ca", "'/nowhere/ca'", MISSING),
    ("postgres-cert-file", "/nowhere/cert", "'/nowhere/cert'", MISSING),
    ("postgres-key-file", "/nowhere/key", "'/nowhere/key'", MISSING),
    ("postgres-query", "''", "''", NOT_EMPTY),
    ("postgres-expected-response", "[t]", "['t']", "text"),
    ("postgres-role", "leader", "'leader'", "one of any, primary, standby"),
    ("postgres-max-lag", "16 kg", "'16 kg'", LAG),
    ("postgres-max-lag", "-1s", "'-1s'", LAG),
    ("postgres-when-full", "ignore", "'ignore'", "one of healthy, unhealthy"),
    ("shell-command", "''", "''", COMMAND),
    ("shell-command", "[]", "[]", COMMAND),
    ("shell-command", "[a, [b]]", STRANGE, COMMAND),
    ("shell-command", '"a\\0b"', "'a\\x00b'", f"{COMMAND}, without a NUL character"),
    (
        "pgbouncer-conn-url",
        "port='6432",
        f"'{MASK}'",
        f"{CONNINFO} (unterminated quoted string in connection info string)",
    ),
    ("pgbouncer-user", "''", "''", NOT_EMPTY),
    ("pgbouncer-password", f"[{SECRET}]", MASK, "text"),
    ("pgbouncer-password-file", "/nowhere/p", "'/nowhere/p'", MISSING),
    ("pgbouncer-ca-file", "/nowhere/ca", "'/nowhere/ca'", MISSING),
    ("pgbouncer-cert-file", "/nowhere/cert", "'/nowhere/cert'", MISSING),
    ("pgbouncer-key-file", "/nowhere/key", "'/nowhere/key'", MISSING),
    ("pgbouncer-database", "[a]", "['a']", NOT_EMPTY),
    ("pgbouncer-when-paused", "maybe", "'maybe'", "one of healthy, unhealthy"),
    ("pgbouncer-when-suspended", "maybe", "'maybe'", "one of healthy, unhealthy"),
    ("pgbouncer-query", "''", "''", NOT_EMPTY),
    ("pgbouncer-expected-response", "[t]", "['t']", "text"),
    ("patroni-url", "db1:8008", "'db1:8008'", URL),
    (
        "patroni-url",
        "http://db1/?a",
        "'http://db1/?a'",
        "a URL like http://127.0.0.1:8008, without ? and #",
    ),
    ("patroni-role", "leader", "'leader'", "one of any, primary, replica"),
    ("patroni-max-lag", "16 kg", "'16 kg'", PATRONI_LAG),
    ("patroni-user", "''", "''", NOT_EMPTY),
    ("patroni-password", f"[{SECRET}]", MASK, "text"),
    ("patroni-password-file", "/nowhere/p", "'/nowhere/p'", MISSING),
    ("patroni-ca-file", "/nowhere/ca", "'/nowhere/ca'", MISSING),
    ("patroni-cert-file", "/nowhere/cert", "'/nowhere/cert'", MISSING),
    ("patroni-key-file", "/nowhere/key", "'/nowhere/key'", MISSING),
    ("tcp-address", "db1", "'db1'", TCP_ADDRESS),
    ("tcp-address", "db1:0", "'db1:0'", TCP_ADDRESS),
    ("tcp-address", "db1:65536", "'db1:65536'", TCP_ADDRESS),
    ("tcp-address", "::1:5432", "'::1:5432'", TCP_ADDRESS),
    ("tcp-address", "http://db1:80", "'http://db1:80'", TCP_ADDRESS),
    ("tcp-send", "''", "''", NOT_EMPTY),
    ("tcp-expect", "[a]", "['a']", NOT_EMPTY),
    ("log-level", "Loud", "'Loud'", LEVELS),
    ("helper-socket", "helper.sock", "'helper.sock'", "an absolute path"),
]
"""Key, a value as YAML, how it is shown, and what is expected."""


def together(missing: str, given: str) -> str:
    """What is expected where one of two keys is missing."""
    if missing.endswith("-password"):
        return f"one, or {missing}-file, together with {given}"
    return f"one together with {given}"
