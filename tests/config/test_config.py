"""The configuration: where values come from, and what is said of those that are wrong."""

import dataclasses
import re
import socket
from collections.abc import Mapping
from dataclasses import fields, replace
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from tests.certificates import make_certificates
from yaim.checks.http import SYSTEM_CA_FILE, HttpCheck
from yaim.checks.kinds import KINDS
from yaim.checks.postgres import MaxLag
from yaim.checks.tcp import TcpAddress
from yaim.checks.transport.http_codes import Codes
from yaim.config.checks import KIND_KEYS, KIND_OF, CheckConfig
from yaim.config.config import (
    KEYS,
    LOG_LEVELS,
    OWN_KEYS,
    Config,
)
from yaim.config.file import ConfigError, Issue
from yaim.config.load import Purpose, environment_warnings, load, variable
from yaim.config_keys import MASK
from yaim.core.actions import AddAddress
from yaim.core.model import Boottime
from yaim.dcs.etcd.access import EtcdAccess, EtcdError, read_secrets
from yaim.dcs.etcd.settings import EtcdSettings
from yaim.managers.helper.messages import command
from yaim.managers.helper.settings import HelperSettings
from yaim.wiring import lost_by_restart

pytestmark = pytest.mark.quick
HERE = Path(__file__)
TLS_DIRECTORY = TemporaryDirectory()
"""Lives as long as this module."""
TLS = make_certificates(Path(TLS_DIRECTORY.name))
PASSWORD_FILE = TLS.ca.with_name("password")
PASSWORD_FILE.write_text("geheim\n")
EXAMPLE = HERE.parents[2] / "yaim.yml.example"
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
GROUPS: tuple[tuple[str, Any], ...] = (
    *(("", group) for group in (Config, EtcdSettings, HelperSettings)),
    *((f"{kind}-", each.settings) for kind, each in KINDS.items()),
)
DEFAULTS = {
    prefix + each.name.replace("_", "-"): each.default
    for prefix, group in GROUPS
    for each in fields(group)
    if "key" in each.metadata and each.default is not dataclasses.MISSING
}
HTTP = CheckConfig(
    name="http",
    kind="http",
    settings=HttpCheck("http://127.0.0.1:8008/"),
    timeout=5000,
)


@pytest.fixture(autouse=True)
def no_yaim_yml_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in the current directory would be read where no file is named."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)


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


# --- defaults and the sample of the original -----------------------------------------------------


def test_with_the_least_that_is_needed_all_else_has_its_default(tmp_path: Path) -> None:
    file = file_in(tmp_path, lines(BASE))
    assert load({}, {}, file) == Config(
        dcs_clustername="yaim",
        interface="lo",
        checker_type=("http",),
        timeout=5000,
        checks=(HTTP,),
        nodename=socket.gethostname(),
        label="yaim",
        file=file,
        origins={key: f"{file}:{line}" for line, key in enumerate(BASE, 1)},
    )


ORIGINAL_SAMPLE = """\
# time (in milliseconds) after which yaim wakes up and checks if it needs to register or release ip addresses.
interval: 3000
ttl: 9000

#how often etcd or sql connections should be retried and how long to wait between retries.
retry_num: 2
retry_after: 250

# the etcd or consul directory where the ip addresses will be registered, marked and the yaim node health will be advertised
dcs-namespace: "/service/"
dcs-clustername: "yaim"

# etcd endpoint or list of endpoints.
dcs-type: etcd
dcs-endpoints:
  - http://127.0.0.1:2379
#  - http://192.168.0.48:2379
# username that can be used to access the key in etcd.
#etcd_user: "patroni"

checker-type: http

interface: lo
netmask: 32
label: yaim
#label: yaim_managed_too_long

http-url: http://127.0.0.1:2379/v2/keys/test
http-expected-code: 200
http-expected-response-contains: '"value":"foo"'

log-level: Debug
"""  # noqa: E501


def test_the_sample_of_the_go_original_loads_as_it_is(tmp_path: Path) -> None:
    """The original ignores retry_num and retry_after in the file."""
    file = file_in(tmp_path, ORIGINAL_SAMPLE)
    loaded = load({}, {}, file)
    assert replace(loaded, origins={}) == Config(
        interval=3000,
        ttl=9000,
        retry_num=2,
        retry_after=250,
        dcs_type="etcd",
        dcs_namespace="/service/",
        dcs_clustername="yaim",
        store=EtcdSettings(dcs_endpoints=("http://127.0.0.1:2379",)),
        nodename=socket.gethostname(),
        interface="lo",
        netmask=32,
        label="yaim",
        checker_type=("http",),
        timeout=9000,
        checks=(
            CheckConfig(
                name="http",
                kind="http",
                settings=HttpCheck(
                    "http://127.0.0.1:2379/v2/keys/test",
                    expected_response_contains='"value":"foo"',
                ),
                interval=3000,
                timeout=9000,
                retry_num=2,
                retry_after=250,
            ),
        ),
        log_level="Debug",
        file=file,
    )
    assert loaded.origins["retry-num"] == f"{file}:6"


def test_the_node_name_is_the_host_name_unless_it_is_given() -> None:
    assert load(BASE, {}, None).nodename == socket.gethostname()
    assert load({**BASE, "nodename": "db1"}, {}, None).nodename == "db1"


@pytest.mark.parametrize(
    ("interface", "label"),
    [("lo", "yaim"), ("enp0s31f6", "yaim"), ("enp0s31f6v", "yaim"), ("enp0s31f6v1", "")],
)
def test_the_label_is_yaim_where_that_fits_and_none_elsewhere(interface: str, label: str) -> None:
    assert load({**BASE, "interface": interface}, {}, None).label == label


def test_an_interface_name_of_15_characters_works_without_a_label() -> None:
    """As the default has it, and as it can be written down."""
    interface = {**BASE, "interface": "enx0123456789ab"}
    assert load(interface, {}, None).label == load({**interface, "label": ""}, {}, None).label == ""
    with pytest.raises(ConfigError, match="expected at most 0 characters"):
        load({**interface, "label": "x"}, {}, None)


@pytest.mark.parametrize(
    ("key", "value", "lost"),
    [
        ("nodename", "other", ["nodename"]),
        ("helper-socket", "/run/other.sock", ["helper-socket"]),
        ("dcs-clustername", "other", ["dcs-clustername"]),
        ("dcs-namespace", "other", ["dcs-namespace"]),
        ("dcs-namespace", "service", []),
        ("ttl", "9000", []),
        ("interface", "eth9", []),
    ],
)
def test_what_a_restart_cannot_carry_over(key: str, value: str, lost: list[str]) -> None:
    assert lost_by_restart(load(BASE, {}, None), load({**BASE, key: value}, {}, None)) == lost


def test_a_label_may_be_none_although_yaim_would_fit(tmp_path: Path) -> None:
    assert load(BASE, {}, file_in(tmp_path, "label: ''\n")).label == ""


@pytest.mark.parametrize(("ttl", "ttl_s"), [(3000, 3), (3001, 4), (5999, 6), (6000, 6)])
def test_the_ttl_is_rounded_up_to_whole_seconds(ttl: int, ttl_s: int) -> None:
    assert load({**BASE, "ttl": str(ttl)}, {}, None).ttl_s == ttl_s


# --- where values come from ----------------------------------------------------------------------


def test_a_flag_goes_before_the_environment_that_before_the_file_that_before_the_default(
    tmp_path: Path,
) -> None:
    file = file_in(tmp_path, "interval: 2000\n")
    environment = {"YAIM_INTERVAL": "3000"}
    flags = {**BASE, "interval": "4000"}
    found = [
        (loaded.interval, {key: origin for key, _, origin in loaded.shown()}["interval"])
        for loaded in (
            load(BASE, {}, None),
            load(BASE, {}, file),
            load(BASE, environment, file),
            load(flags, environment, file),
        )
    ]
    assert found == [
        (1000, "default"),
        (2000, f"{file}:1"),
        (3000, "YAIM_INTERVAL"),
        (4000, "--interval"),
    ]


def test_yaim_yml_in_the_current_directory_is_read_where_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(BASE, {}, None).file is None
    file_in(tmp_path, "interval: 2000\n")
    loaded = load(BASE, {}, None)
    assert (loaded.interval, loaded.file) == (2000, Path("yaim.yml"))


def test_dashes_and_underscores_in_keys_are_the_same(tmp_path: Path) -> None:
    dashes = file_in(tmp_path, "retry-num: 1\ndcs-endpoints: http://etcd1\nlog-level: Error\n")
    expected = load(BASE, {}, dashes)
    underscores = file_in(tmp_path, "retry_num: 1\ndcs_endpoints: http://etcd1\nlog_level: Error\n")
    assert load(BASE, {}, underscores) == expected
    mixed = file_in(tmp_path, "retry-num: 1\ndcs_endpoints: http://etcd1\nlog_level: Error\n")
    assert load(BASE, {}, mixed) == expected


GOOD: Mapping[str, tuple[str, object]] = {
    "interval": ("100", 100),
    "ttl": ("3600000", 3_600_000),
    "retry-num": ("0", 0),
    "retry-after": ("0", 0),
    "dcs-type": ("ETCD", "etcd"),
    "dcs-namespace": ("/a/b", "/a/b"),
    "dcs-clustername": ("pg-main", "pg-main"),
    "dcs-endpoints": ("https://etcd1, http://[::1]:79", ("https://etcd1:2379", "http://[::1]:79")),
    "etcd-user": ("root", "root"),
    "etcd-password": ("'#: {", "'#: {"),
    "etcd-password-file": (str(PASSWORD_FILE), PASSWORD_FILE),
    "etcd-ca-file": (str(HERE), HERE),
    "etcd-cert-file": (str(HERE), HERE),
    "etcd-key-file": (str(HERE), HERE),
    "nodename": ("db1.example.org", "db1.example.org"),
    "interface": ("br-lan.7", "br-lan.7"),
    "netmask": ("24", 24),
    "netmask6": ("64", 64),
    "when-all-unhealthy": ("Keep", "keep"),
    "label": ("a_b-c.1", "a_b-c.1"),
    "manager-type": ("basic", "basic"),
    "checker-type": ("http", ("http",)),
    "healthy-when": ("ANY", "any"),
    "flap-max-wait": ("0", 0),
    "timeout": ("1250", 1250),
    "rise": ("3", 3),
    "fall": ("2", 2),
    "http-url": ("https://[::1]:8008/a?b=c", "https://[::1]:8008/a?b=c"),
    "http-user": ("monitor", "monitor"),
    "http-password": ("a b", "a b"),
    "http-password-file": (str(PASSWORD_FILE), PASSWORD_FILE),
    "http-ca-file": (str(TLS.ca), TLS.ca),
    "http-cert-file": (str(TLS.leaf), TLS.leaf),
    "http-key-file": (str(TLS.key), TLS.key),
    "http-expected-code": ("2XX, 503", Codes(("2xx", "503"))),
    "http-follow": ("ANY", "any"),
    "http-expected-response": ("", ""),
    "http-expected-response-contains": ('"value":"foo"', '"value":"foo"'),
    "postgres-conn-url": ("postgresql:///?host=/run", "postgresql:///?host=/run"),
    "postgres-user": ("monitor", "monitor"),
    "postgres-password": ("a b", "a b"),
    "postgres-password-file": (str(PASSWORD_FILE), PASSWORD_FILE),
    "postgres-ca-file": (str(TLS.ca), TLS.ca),
    "postgres-cert-file": (str(TLS.leaf), TLS.leaf),
    "postgres-key-file": (str(TLS.key), TLS.key),
    "postgres-query": ("TABLE health", "TABLE health"),
    "postgres-expected-response": ("", ""),
    "postgres-role": ("Standby", "standby"),
    "postgres-max-lag": ("1 min", MaxLag(60_000, is_time=True)),
    "postgres-when-full": ("healthy", "healthy"),
    "pgbouncer-conn-url": ("host=/run port=6432", "host=/run port=6432"),
    "pgbouncer-user": ("monitor", "monitor"),
    "pgbouncer-password": ("a b", "a b"),
    "pgbouncer-password-file": (str(PASSWORD_FILE), PASSWORD_FILE),
    "pgbouncer-ca-file": (str(TLS.ca), TLS.ca),
    "pgbouncer-cert-file": (str(TLS.leaf), TLS.leaf),
    "pgbouncer-key-file": (str(TLS.key), TLS.key),
    "pgbouncer-database": ("app", "app"),
    "pgbouncer-when-paused": ("healthy", "healthy"),
    "pgbouncer-when-suspended": ("healthy", "healthy"),
    "pgbouncer-query": ("TABLE health", "TABLE health"),
    "pgbouncer-expected-response": ("t", "t"),
    "patroni-url": ("https://db1:8008/", "https://db1:8008"),
    "patroni-role": ("Primary", "primary"),
    "patroni-max-lag": ("16MB", "16MB"),
    "patroni-user": ("monitor", "monitor"),
    "patroni-password": ("a b", "a b"),
    "patroni-password-file": (str(PASSWORD_FILE), PASSWORD_FILE),
    "patroni-ca-file": (str(TLS.ca), TLS.ca),
    "patroni-cert-file": (str(TLS.leaf), TLS.leaf),
    "patroni-key-file": (str(TLS.key), TLS.key),
    "shell-command": ("test -e /run/ready", "test -e /run/ready"),
    "tcp-address": ("[::1]:5432", TcpAddress("::1", 5432)),
    "tcp-send": ("PING", "PING"),
    "tcp-expect": ("PONG", "PONG"),
    "log-level": ("trace", "Trace"),
    "helper-socket": ("/run/h.sock", Path("/run/h.sock")),
}
"""Key, a value as text, and what it means."""

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


def test_the_table_of_good_values_is_complete() -> None:
    assert GOOD.keys() == KEYS.keys()


@pytest.mark.parametrize("key", KEYS)
def test_every_key_can_be_given_as_a_flag(key: str) -> None:
    text, value = GOOD[key]
    loaded = load({**base_for(key), key: text}, {}, None)
    assert (value_of(loaded, key), loaded.origins[key]) == (value, f"--{key}")


@pytest.mark.parametrize("key", [key for key, (text, _) in GOOD.items() if text])
def test_every_key_can_be_given_in_the_environment(key: str) -> None:
    text, value = GOOD[key]
    name = "YAIM_" + key.replace("-", "_").upper()
    loaded = load(base_for(key), {name: text}, None)
    assert (value_of(loaded, key), loaded.origins[key]) == (value, name)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_can_be_given_in_the_file(key: str, tmp_path: Path) -> None:
    text, value = GOOD[key]
    file = file_in(tmp_path, yaml.safe_dump({key.replace("-", "_"): text}))
    loaded = load(base_for(key), {}, file)
    assert (value_of(loaded, key), loaded.origins[key]) == (value, f"{file}:1")


@pytest.mark.parametrize(
    "text", ["012345", "1_000", "1:30", "0x1F", "1e3", "yes", "2026-01-01", "=", "!!int 017"]
)
def test_text_in_the_file_is_what_is_written_not_what_yaml_makes_of_it(
    text: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"http-expected-response: {text}\nhttp-url: http://a/\n")
    flags = {key: value for key, value in BASE.items() if key != "http-url"}
    found = value_of(load(flags, {}, file), "http-expected-response")
    assert found == text.removeprefix("!!int ")


@pytest.mark.parametrize("text", ["700", "0700", "'700'", '"700"', "!!str 700", ">-\n  700"])
def test_a_number_is_made_of_what_is_written(text: str, tmp_path: Path) -> None:
    assert load(BASE, {}, file_in(tmp_path, f"interval: {text}\n")).interval == 700


@pytest.mark.parametrize("level", LOG_LEVELS)
def test_log_levels_are_taken_in_any_case(level: str) -> None:
    found = [
        load({**BASE, "log-level": text}, {}, None).log_level
        for text in (level, level.lower(), level.upper())
    ]
    assert found == [level, level, level]


@pytest.mark.parametrize("null", ["", "~", "null"])
def test_a_key_without_a_value_counts_as_not_given(null: str, tmp_path: Path) -> None:
    everything = file_in(tmp_path, "".join(f"{key}: {null}\n" for key in KEYS))
    assert load(BASE, {}, everything) == replace(load(BASE, {}, None), file=everything)


def test_an_empty_variable_counts_as_not_given(tmp_path: Path) -> None:
    file = file_in(tmp_path, lines({"etcd-user": "root", "etcd-password": SECRET}))
    empty = {variable(key): "" for key in KEYS}
    assert load(BASE, empty, file) == load(BASE, {}, file)


# --- endpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("http://127.0.0.1:2379", ("http://127.0.0.1:2379",)),
        ("http://etcd1", ("http://etcd1:2379",)),
        ("https://etcd1/", ("https://etcd1:2379",)),
        ("HTTPS://etcd1:443", ("https://etcd1:443",)),
        ("http://[2001:db8::1]", ("http://[2001:db8::1]:2379",)),
        ("https://[::1]:2380", ("https://[::1]:2380",)),
        ("http://a,https://b:1 , http://c", ("http://a:2379", "https://b:1", "http://c:2379")),
        ("[http://a, 'https://b:1']", ("http://a:2379", "https://b:1")),
        ("\n  - http://a\n  - https://b:1", ("http://a:2379", "https://b:1")),
        ("\n- http://a\n- http://a:2379\n- http://a/", ("http://a:2379",)),
    ],
)
def test_endpoints_are_a_list_or_text_with_commas(
    text: str, endpoints: tuple[str, ...], tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"dcs-endpoints: {text}\n")
    assert load(BASE, {}, file).value("dcs-endpoints") == endpoints


# --- what is wrong -------------------------------------------------------------------------------

URL = "a URL that begins with http:// or https://"
CLUSTER_NAME = "a name of up to 100 ASCII characters without spaces or slashes"
ENDPOINTS = "URLs like http://192.0.2.1:2379 or https://etcd1:2379, without path, user or password"
LEVELS = "one of Trace, Debug, Info, Warn, Warning, Error, Fatal, Panic"
NOT_EMPTY = "text that is not empty"
STRANGE = "something nested or tagged"
NO_FILE = "no /etc/yaim/yaim.yml or yaim.yml, and no --config"
TOGETHER = "15 together with lo:"
CODES = "status codes from 100 to 599 or classes like 2xx: one, a list, or text with commas"
CONNINFO = "a URL or keywords as libpq takes them"
LAG = "a number of B, kB, MB, GB, ms, s or min, such as 16MB or 10s"
PATRONI_LAG = "a number of bytes, or one with kB, MB, GB or TB after it"
TCP_ADDRESS = "host:port, or [IPv6 address]:port, with a port from 1 to 65535"
COMMAND = "a command: text for /bin/sh -c, or a list of the program and its arguments"
MISSING = "a file that can be read (No such file or directory)"
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
    ("etcd-password", f"[{SECRET}]", MASK, "text"),
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
    ("netmask", "33", "'33'", "a whole number from 1 to 32"),
    ("netmask", "255.255.255.0", "'255.255.255.0'", "a whole number from 1 to 32"),
    ("netmask6", "0", "'0'", "a whole number from 1 to 128"),
    ("label", "a b", "'a b'", "letters, digits, _ . -"),
    ("label", "!eigen a", STRANGE, "letters, digits, _ . -"),
    ("when-all-unhealthy", "panic", "'panic'", "one of release, keep"),
    ("manager-type", "hetzner", "'hetzner'", "basic"),
    ("checker-type", "mysql", "'mysql'", KINDS_THERE_ARE),
    ("healthy-when", "most", "'most'", "one of all, any"),
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
    ("postgres-max-lag", "16", "'16'", LAG),
    ("postgres-max-lag", "16TB", "'16TB'", LAG),
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


def test_the_table_of_bad_values_is_complete() -> None:
    assert {key for key, *_ in BAD} == KEYS.keys()


@pytest.mark.parametrize(("key", "text", "shown", "expected"), BAD)
def test_a_bad_value_is_told_with_its_line_and_what_is_expected(
    key: str, text: str, shown: str, expected: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"# a comment\n\n{key}: {text}\n")
    flags = base_for(key)
    issue = Issue(f"{file}:3", key, shown, expected)
    assert issues_of(file, flags) == (issue,)
    assert str(issue) == f"{file}:3: {key}: got {shown}, expected {expected}"


def test_a_bad_value_is_told_with_the_flag_or_the_variable_that_it_came_from() -> None:
    expected = "a whole number from 3000 to 3600000"
    from_flag = issues_of(None, {**BASE, "ttl": "1"})
    from_environment = issues_of(None, BASE, {"YAIM_TTL": "2s"})
    assert (*from_flag, *from_environment) == (
        Issue("--ttl", "ttl", "'1'", expected),
        Issue("YAIM_TTL", "ttl", "'2s'", expected),
    )


def together(missing: str, given: str) -> str:
    """What is expected where one of two keys is missing."""
    if missing.endswith("-password"):
        return f"one, or {missing}-file, together with {given}"
    return f"one together with {given}"


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = file_in(
        tmp_path,
        "interval: 1\n"
        "intervall: 1000\n"
        "netmask: 24\n"
        "netmask: 25\n"
        "dcs-clustername: yaim\n"
        "checker-type: [http]\n"
        "http-user: monitor\n"
        "label: toolongalabel\n",
    )
    flags = {"ttl": "1", "interface": "lo"}
    assert issues_of(file, flags, {"YAIM_LOG_LEVEL": "Loud"}) == (
        Issue(f"{file}:1", "interval", "'1'", "a whole number from 100 to 3600000"),
        Issue(f"{file}:2", "intervall", "", "a known key (did you mean interval?)"),
        Issue(f"{file}:4", "netmask", "it twice", f"it once (first: {file}:3)"),
        Issue(f"{file}:7", "http-password", "nothing", together("http-password", "http-user")),
        Issue(f"{file}:8", "label", "'toolongalabel'", f"at most 12 characters, {TOGETHER}"),
        Issue("--ttl", "ttl", "'1'", "a whole number from 3000 to 3600000"),
        Issue("YAIM_LOG_LEVEL", "log-level", "'Loud'", LEVELS),
        Issue(str(file), "http-url", "nothing", f"for checker-type http: {KEYS['http-url'].help}"),
    )


def test_what_is_wrong_in_the_file_is_told_in_the_order_of_its_lines(tmp_path: Path) -> None:
    wrong = ["ttl: 1", "foo: 1", "netmask: 99", *["#"] * 7, "interval: 1", "ttl: 2", "label: a b"]
    file = file_in(tmp_path, "\n".join(wrong))
    where = [issue.where for issue in issues_of(file, {**BASE, "retry-num": "x"})]
    assert where == [f"{file}:{line}" for line in (1, 2, 3, 11, 12, 13)] + ["--retry-num"]


def test_what_must_be_given_is_asked_for_with_an_explanation(tmp_path: Path) -> None:
    file = file_in(tmp_path, "")
    assert issues_of(file, {}) == tuple(
        Issue(str(file), key, "nothing", KEYS[key].help)
        for key in ("dcs-clustername", "interface", "checker-type")
    )


def test_where_there_is_no_file_at_all_that_is_told_too() -> None:
    assert [(issue.where, issue.key) for issue in issues_of(None, {})] == [
        (NO_FILE, key) for key in ("dcs-clustername", "interface", "checker-type")
    ]


@pytest.mark.parametrize("key", ["dcs-clustername", "interface", "checker-type"])
def test_a_required_key_that_is_wrong_is_not_told_to_be_missing_too(key: str) -> None:
    (issue,) = issues_of(None, {**BASE, key: "/ /"})
    assert (issue.where, issue.key, issue.given) == (f"--{key}", key, "'/ /'")


# --- what is needed to look at a cluster ---------------------------------------------------------


def test_to_look_at_a_cluster_its_name_is_enough() -> None:
    loaded = load({"dcs-clustername": "yaim"}, {}, None, Purpose.CLUSTER)
    assert loaded.dcs_clustername == "yaim"


def test_to_look_at_a_cluster_its_name_is_needed() -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, {}, None, Purpose.CLUSTER)
    help_ = KEYS["dcs-clustername"].help
    assert caught.value.issues == (Issue(NO_FILE, "dcs-clustername", "nothing", help_),)


def test_to_look_at_a_cluster_a_file_that_only_yaim_may_read_does_not_matter(
    tmp_path: Path,
) -> None:
    """An administrator asks for the status with the configuration of the node."""
    file = file_in(tmp_path, f"{lines(BASE)}http-key-file: /nowhere/key\n")
    assert issues_of(file, {})[0].key == "http-key-file"
    loaded = load({}, {}, file, Purpose.CLUSTER)
    assert (loaded.dcs_clustername, loaded.checks) == ("yaim", ())


@pytest.mark.parametrize(
    "key", [key for key in KEYS if not key.startswith(("dcs-", "etcd-"))], ids=str
)
def test_to_look_at_a_cluster_the_keys_of_the_node_do_not_matter(key: str, tmp_path: Path) -> None:
    file = file_in(tmp_path, f"dcs-clustername: yaim\n{key}: ' '\n")
    expected = load({}, {}, file_in(tmp_path, "dcs-clustername: yaim\n"), Purpose.CLUSTER)
    assert load({key: " "}, {variable(key): " "}, file, Purpose.CLUSTER) == expected


@pytest.mark.parametrize("key", [key for key in KEYS if key.startswith(("dcs-", "etcd-"))])
def test_to_look_at_a_cluster_the_keys_of_the_cluster_are_taken(key: str) -> None:
    text, value = GOOD[key]
    flags = {"dcs-clustername": "yaim", **COMPANIONS.get(key, {}), key: text}
    loaded = load(flags, {}, None, Purpose.CLUSTER)
    assert (loaded.value(key), loaded.origins[key]) == (value, f"--{key}")


@pytest.mark.parametrize(
    ("key", "text"), [(key, text) for key, text, *_ in BAD if key.startswith(("dcs-", "etcd-"))]
)
def test_to_look_at_a_cluster_the_keys_of_the_cluster_must_be_right(
    key: str, text: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"{key}: {text}\n")
    flags = {each: value for each, value in BASE.items() if each != key}
    with pytest.raises(ConfigError) as caught:
        load(flags, {}, file, Purpose.CLUSTER)
    assert caught.value.issues == issues_of(file, flags)


# --- what is wrong with the file as such ---------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("intervall", "a known key (did you mean interval?)"),
        ("http_pasword", "a known key (did you mean http-password?)"),
        ("mysql-conn-url", "a known key"),
        ("url", "a known key (did you mean http-url or patroni-url?)"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_one(
    wrong: str, expected: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"{wrong}: {SECRET}\n")
    assert issues_of(file) == (Issue(f"{file}:1", wrong, "", expected),)


@pytest.mark.parametrize(
    ("first", "second"),
    [("retry-num", "retry-num"), ("retry_num", "retry-num"), ("retry-num", "retry_num")],
)
def test_a_key_that_is_given_twice_is_told_with_both_lines(
    first: str, second: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"{first}: 2\ninterval: 500\n{second}: 2\n")
    assert issues_of(file) == (
        Issue(f"{file}:3", "retry-num", "it twice", f"it once (first: {file}:1)"),
    )


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (
            "interval: 500\n\tttl: 5000\n",
            2,
            "a tab at the beginning of a line: indent with spaces",
        ),
        (
            "interval: 500\n  ttl: 5000\n",
            2,
            "mapping values are not allowed here",
        ),
        (
            "checks:\n  - type: http\n     name: a\n",
            3,
            "mapping values are not allowed here",
        ),
        (
            "  interval: 500\n ttl: 5000\n",
            2,
            "expected '<document start>', but found '<block mapping start>': is the line indented"
            " like those around it?",
        ),
        ("interval: 500\nttl 5000\nnetmask: 32\n", 3, "could not find expected ..."),
        ("interval: 500\nhttp-url: a: b\n", 2, "mapping values are not allowed here"),
        ("interval: 500\nhttp-user: *a\n", 2, "found undefined alias ..."),
        ("interval: 500\n---\ninterval: 500\n", 2, "but found another document"),
    ],
)
def test_a_mistake_in_the_yaml_is_told_with_its_line(
    text: str, line: int, problem: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, text)
    assert issues_of(file) == (Issue(f"{file}:{line}", "the file", "", f"YAML ({problem})"),)


def test_a_file_that_does_not_exist_is_told(tmp_path: Path) -> None:
    file = tmp_path / "nowhere.yml"
    issue = Issue(str(file), "the file", "", "to be able to read it (No such file or directory)")
    assert issues_of(file) == (issue,)


@pytest.mark.parametrize("text", ["- interval\n", "interval\n"])
def test_a_file_that_is_no_mapping_is_told(text: str, tmp_path: Path) -> None:
    file = file_in(tmp_path, text)
    issue = Issue(f"{file}:1", "the file", "", "lines like `key: value`")
    assert issues_of(file) == (issue,)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n", "---\n# nothing\n", "\ufeff", "~\n"])
def test_an_empty_file_is_as_good_as_none(text: str, tmp_path: Path) -> None:
    file = file_in(tmp_path, text)
    assert load(BASE, {}, file) == replace(load(BASE, {}, None), file=file)


@pytest.mark.parametrize(
    "text",
    [
        "interval: {" * 1000,
        "interval: " + "[" * 1000,
        "a: &a [*a]\n",
        "interval: &a {b: *a}\n",
        "interval: &a [*a]\n",
        "\x00",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "? ~\n: b",
        "<<: {interval: 500}\n",
        "interval: !!python/object:os.system {}\n",
        "%YAML 9.9\n---\ninterval: 500\n",
        'label: "\\U00110000"\n',
        'label: "\\UFFFFFFFF"\n',
    ],
)
def test_whatever_the_file_holds_it_is_refused_and_nothing_crashes(
    text: str, tmp_path: Path
) -> None:
    assert issues_of(file_in(tmp_path, text))


@pytest.mark.parametrize("text", ["!!timestamp x", "!!int ''", "!!bool x"])
def test_a_value_that_is_not_what_its_yaml_tag_says_is_told(text: str, tmp_path: Path) -> None:
    file = file_in(tmp_path, f"interval: {text}\n")
    assert [issue.key for issue in issues_of(file)] == ["interval"]


def test_a_nul_byte_in_a_path_is_told(tmp_path: Path) -> None:
    file = file_in(tmp_path, 'etcd-ca-file: "a\\0b"\n')
    assert [issue.key for issue in issues_of(file)] == ["etcd-ca-file"]


def test_a_file_that_is_not_utf_8_is_told_with_the_line(tmp_path: Path) -> None:
    """An umlaut in a comment, written with an old editor."""
    file = file_in(tmp_path, "interval: 500\n\n# für\n".encode("latin-1"))
    assert issues_of(file) == (Issue(f"{file}:3", "the file", "", "UTF-8"),)


def test_a_control_character_in_the_file_is_told_with_the_line(tmp_path: Path) -> None:
    """Pasted from a terminal."""
    file = file_in(tmp_path, "interval: 500\n\nnodename: db\x1b[1\n")
    assert [issue.where for issue in issues_of(file)] == [f"{file}:3"]


@pytest.mark.parametrize("key", ["dcs-clustername", "nodename", "http-expected-response"])
def test_text_that_is_no_unicode_is_told(key: str, tmp_path: Path) -> None:
    """As from a JSON file. encode() raises: in the thread of the checks, or on the way to etcd."""
    file = file_in(tmp_path, f'{key}: "\\uD83D\\uDE00"\n')
    flags = {each: value for each, value in BASE.items() if each != key}
    assert [issue.key for issue in issues_of(file, flags)] == [key]


@pytest.mark.parametrize("text", [None, "dcs-clustername: yaim\n\tinterface: lo\n"])
def test_of_a_file_that_cannot_be_read_nothing_is_told_to_be_missing(
    text: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "yaim.yml" if text is None else file_in(tmp_path, text)
    assert [issue.key for issue in issues_of(file, {})] == ["the file"]


# --- what must fit together ----------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["etcd", "http"])
def test_user_and_password_and_certificate_and_key_are_given_together(
    prefix: str, tmp_path: Path
) -> None:
    pairs = {
        "user": ("password", "x"),
        "password": ("user", "x"),
        "cert-file": ("key-file", str(HERE)),
        "key-file": ("cert-file", str(HERE)),
    }
    for one, (other, value) in pairs.items():
        file = file_in(tmp_path, f"{prefix}-{one}: {value}\ndcs-endpoints: https://etcd1\n")
        expected = together(f"{prefix}-{other}", f"{prefix}-{one}")
        assert issues_of(file) == (Issue(f"{file}:1", f"{prefix}-{other}", "nothing", expected),)


@pytest.mark.parametrize("prefix", ["etcd", "http"])
def test_a_password_from_a_file_is_given_together_with_the_user(
    prefix: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"{prefix}-password-file: {PASSWORD_FILE}\n")
    expected = together(f"{prefix}-user", f"{prefix}-password-file")
    assert issues_of(file) == (Issue(f"{file}:1", f"{prefix}-user", "nothing", expected),)


@pytest.mark.parametrize("prefix", ["etcd", "http"])
def test_a_password_file_that_cannot_be_read_is_told_once(prefix: str) -> None:
    flags = {**BASE, f"{prefix}-user": "root", f"{prefix}-password-file": "/nowhere/password"}
    assert [issue.key for issue in issues_of(None, flags)] == [f"{prefix}-password-file"]


@pytest.mark.parametrize("kind", ["http", "patroni"])
def test_tls_files_that_cannot_work_are_told_before_they_are_used(
    kind: str, tmp_path: Path
) -> None:
    encrypted, (_, other_key) = TLS.encrypted_key(), TLS.make_leaf("other")
    flags = base_for(f"{kind}-user") | LEAST[kind]
    flags.pop(f"{kind}-password")
    pem, key = "certificates in PEM", f"the key of {kind}-cert-file, without a passphrase"
    for ca, cert, key_file, wrong in (
        (TLS.ca, TLS.leaf, TLS.key, []),
        (HERE, HERE, TLS.key, [("1", "ca-file", HERE, pem), ("2", "cert-file", HERE, pem)]),
        (TLS.ca, TLS.leaf, other_key, [("3", "key-file", other_key, key)]),
        (TLS.ca, TLS.leaf, encrypted, [("3", "key-file", encrypted, key)]),
        (TLS.key, TLS.leaf, HERE, [("1", "ca-file", TLS.key, pem), ("3", "key-file", HERE, key)]),
    ):
        text = f"{kind}-ca-file: {ca}\n{kind}-cert-file: {cert}\n{kind}-key-file: {key_file}\n"
        file = file_in(tmp_path, text)
        expected = tuple(
            Issue(f"{file}:{line}", f"{kind}-{name}", repr(str(given)), said)
            for line, name, given, said in wrong
        )
        assert (issues_of(file, flags) if wrong else ()) == expected
        assert wrong or load(flags, {}, file)


@pytest.mark.parametrize("endpoints", ["", "dcs-endpoints: [http://a, http://b]\n"])
def test_tls_files_that_would_not_be_used_are_refused(endpoints: str, tmp_path: Path) -> None:
    keys = ("etcd-ca-file", "etcd-cert-file", "etcd-key-file")
    file = file_in(tmp_path, "".join(f"{key}: {HERE}\n" for key in keys) + endpoints)
    given = "http://a:2379, http://b:2379" if endpoints else "http://127.0.0.1:2379"
    expected = f"https:// in dcs-endpoints as well ({given}: no TLS)"
    assert issues_of(file) == tuple(
        Issue(f"{file}:{line}", key, repr(str(HERE)), expected) for line, key in enumerate(keys, 1)
    )


def test_a_fault_because_of_another_key_has_the_line_of_that(tmp_path: Path) -> None:
    file = file_in(tmp_path, "dcs-clustername: yaim\ninterface: lo\npatroni-max-lag: 16MB\n")
    expected = "replica, together with patroni-max-lag"
    told = (Issue(f"{file}:3", "patroni-role", "nothing", expected),)
    assert issues_of(file, {"checker-type": "patroni"}) == told


def test_tls_files_are_used_if_one_endpoint_has_tls() -> None:
    """As while etcd is moved to TLS."""
    flags = {**BASE, "etcd-ca-file": str(HERE), "dcs-endpoints": "http://a,https://b"}
    assert load(flags, {}, None).value("etcd-ca-file") == HERE


def test_of_endpoints_that_are_wrong_it_is_not_told_that_they_have_no_tls() -> None:
    flags = {**BASE, "etcd-ca-file": str(HERE), "dcs-endpoints": "etcd1:2379"}
    assert [issue.key for issue in issues_of(None, flags)] == ["dcs-endpoints"]


def test_a_password_is_sent_in_plaintext_to_those_who_want_that() -> None:
    flags = {**BASE, "etcd-user": "root", "etcd-password": "x", "dcs-endpoints": "http://etcd1"}
    assert load(flags, {}, None).value("etcd-user") == "root"


def test_the_http_check_needs_a_url() -> None:
    flags = {key: value for key, value in BASE.items() if key != "http-url"}
    expected = f"for checker-type http: {KEYS['http-url'].help}"
    issue = Issue(NO_FILE, "http-url", "nothing", expected)
    assert issues_of(None, flags) == (issue,)


@pytest.mark.parametrize(
    ("interface", "label", "most"), [("lo", "a" * 13, 12), ("enp0s31f6v1", "yaim", 3)]
)
def test_a_label_that_does_not_fit_beside_the_interface_is_told(
    interface: str, label: str, most: int
) -> None:
    expected = f"at most {most} characters, 15 together with {interface}:"
    issue = Issue("--label", "label", repr(label), expected)
    assert issues_of(None, {**BASE, "interface": interface, "label": label}) == (issue,)


def test_a_label_that_just_fits_is_taken() -> None:
    assert load({**BASE, "label": "a" * 12}, {}, None).label == "a" * 12


@pytest.mark.parametrize(
    ("interface", "label", "sent"),
    [
        ("enp0s31f6v", "yaim", "yaim"),
        ("enp0s31f6v1", "yaim", ""),
        ("lo", "a" * 12, "a" * 12),
        ("lo", "a" * 13, ""),
        ("fifteen-letters", "", ""),
    ],
)
def test_a_label_that_does_not_fit_beside_the_interface_is_not_sent_to_the_helper(
    interface: str, label: str, sent: str
) -> None:
    """SIGHUP applies a new label at once, but the interface that it was made for not at all."""
    deadline = Boottime(1.0)
    action = AddAddress(1, ip_address("192.0.2.1"), interface, 32, deadline)
    assert command(action, label)["label"] == sent


def retries(num: int, after: int, ttl: int) -> dict[str, str]:
    return {**BASE, "retry-num": str(num), "retry-after": str(after), "ttl": str(ttl)}


def unfitting(num: int, after: int, least: int, timeout: int) -> str:
    return (
        f"at least {least} ms for {num + 1} tries (retry-num) of 100 ms each and {num} pauses"
        f" (retry-after) of {after} ms; it is {timeout} ms (default: the ttl)"
    )


def test_retries_that_do_not_fit_into_the_ttl_are_told() -> None:
    expected = unfitting(4, 651, 3104, 3000)
    issue = Issue("--retry-num", "timeout", "nothing", expected)
    assert issues_of(None, retries(4, 651, 3000)) == (issue,)


def test_retries_that_do_not_fit_into_the_timeout_are_told_once(tmp_path: Path) -> None:
    flags = {each: value for each, value in BASE.items() if each != "checker-type"}
    file = file_in(tmp_path, "retry-after: 50\ntimeout: 300\nchecker-type: http\n")
    issue = Issue(f"{file}:2", "timeout", "'300'", unfitting(3, 50, 550, 300))
    assert issues_of(file, flags) == (issue,)


def test_retries_that_just_fit_into_the_ttl_are_taken() -> None:
    """4 pauses of 625 ms and 5 tries of 100 ms at least are 3000 ms."""
    assert load(retries(4, 625, 3000), {}, None).retry_after == 625


# --- secrets -------------------------------------------------------------------------------------


PASSWORDS = (
    (b"geheim\n", "geheim"),
    (b"geheim\r\n", "geheim"),
    (b"geheim", "geheim"),
    (b" a b \n", " a b "),
    (b"a\tb\r\r\n", "a\tb\r"),
    (b"a\r", "a\r"),
    ("pä€\n".encode(), "pä€"),
)
WRONG_PASSWORDS = (
    (b"", "a password in it"),
    (b"\n", "a password in it"),
    (b"\r\n", "a password in it"),
    (b"geheim\n\n", "one line, the password"),
    (b"geheim\r\nb\r\n", "one line, the password"),
    (b"\n\n", "one line, the password"),
    (b"\xef\xbb\xbfgeheim\n", "text without a byte order mark at its beginning"),
    ("geheim\n".encode("utf-16"), "text in UTF-8 (at byte 0 it is not)"),
    (b"geheim\xff", "text in UTF-8 (at byte 6 it is not)"),
    (b"geheim\0\n", "a password without a NUL character"),
)


@pytest.mark.parametrize("kind", ["etcd", "http", "postgres", "pgbouncer", "patroni"])
@pytest.mark.parametrize(("content", "password"), PASSWORDS)
def test_a_password_is_read_from_its_file_without_the_line_end(
    kind: str, content: bytes, password: str, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_bytes(content)
    name = f"{kind}-password-file"
    flags = {**base_for(name), f"{kind}-user": "root", name: str(secret)}
    assert value_of(load(flags, {}, None), f"{kind}-password") == password


@pytest.mark.parametrize(("content", "password"), PASSWORDS)
def test_etcds_password_is_the_same_when_its_file_is_read_anew(
    content: bytes, password: str, tmp_path: Path
) -> None:
    """Found in use: of a file with Windows' line end, a carriage return became part of it."""
    secret = tmp_path / "password"
    secret.write_bytes(content)
    assert read_secrets(EtcdAccess((), password_file=secret)).password == password


@pytest.mark.parametrize(("content", "expected"), WRONG_PASSWORDS)
def test_a_file_that_is_no_password_is_told_without_its_content(
    content: bytes, expected: str, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_bytes(content)
    for kind in ("etcd", "http"):
        name = f"{kind}-password-file"
        flags = {**BASE, f"{kind}-user": "root", name: str(secret)}
        (issue,) = issues_of(None, flags)
        assert issue == Issue(f"--{name}", name, str(secret), expected)
        assert SECRET not in told(None, flags)
    with pytest.raises(EtcdError) as caught:
        read_secrets(EtcdAccess((), password_file=secret))
    assert str(caught.value) == f"etcd-password-file {secret}: expected {expected}"


@pytest.mark.parametrize("prefix", ["etcd", "http"])
def test_a_password_given_both_ways_is_told(prefix: str, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(SECRET)
    flags = {
        **BASE,
        f"{prefix}-user": "root",
        f"{prefix}-password": SECRET,
        f"{prefix}-password-file": str(secret),
    }
    name = f"{prefix}-password-file"
    expected = f"either it or {prefix}-password, not both"
    assert issues_of(None, flags) == (Issue(f"--{name}", name, str(secret), expected),)


@pytest.mark.parametrize(
    "text",
    [
        f"etcd-user: root\netcd-password: {SECRET}\n",
        f"etcd-password: {SECRET}\n",
        f"etcd-password: [{SECRET}]\n",
        f"etcd-password: {SECRET}\netcd-password: {SECRET}\n",
        f"etcd-pasword: {SECRET}\n",
        f"http-password: {{{SECRET}: {SECRET}}}\n",
        f"etcd-password: {SECRET}: {SECRET}\n",
        f"etcd-password: '{SECRET}\n",
        f'etcd-password: "{SECRET}\\h"\n',
        f"etcd-password: %{SECRET}\n",
        f"etcd-password: !!int {SECRET}\n",
        f"http-url: http://root:{SECRET}@127.0.0.1/\n",
        f"http-url: http://:{SECRET}@127.0.0.1/\n",
        f"http-url: ftp://root:{SECRET}@127.0.0.1/\n",
        f"http-url: [http://root:{SECRET}@127.0.0.1/]\n",
        f"dcs-endpoints: http://root:{SECRET}@a,http://root:{SECRET}@b\n",
        f"dcs-endpoints: [http://root:{SECRET}@a, http://root:{SECRET}@b]\n",
        f"etcd-password: *{SECRET}\n",
        f"etcd-password: &{SECRET}\n",
        f"etcd-password: &{SECRET} x\netcd-user: &{SECRET} y\n",
        f"etcd-password: !{SECRET}!1\n",
        f"etcd-password: !{SECRET}\n",
        f"etcd-password: !<{SECRET}\n",
        f"etcd-password: {SECRET}\n  {SECRET}: {SECRET}\n",
        f"etcd-password: |{SECRET}\n",
        f"etcd-password: @{SECRET}\n",
        f"etcd-password: `{SECRET}\n",
        f"etcd-password: ]{SECRET}\n",
        f"etcd-password: {{{SECRET}\n",
        f"etcd-password: [{SECRET}\n",
        f"etcd-password: '{SECRET}' '{SECRET}'\n",
        f"etcd-password {SECRET}\n",
        f"http-url: http://root:a/{SECRET}@127.0.0.1/\n",
        f"http-url: http://root:a@{SECRET}@127.0.0.1/\n",
        f"http-url: http://root:a {SECRET}@127.0.0.1/\n",
        f"http-url: http://root:{SECRET}@127.0.0.1:x/\n",
        f"http-url: http://root:{SECRET}@[127.0.0.1/\n",
        f'http-url: "http://root:a\\n{SECRET}@127.0.0.1/"\n',
        f"http-url: root:{SECRET}@127.0.0.1/\n",
        f"dcs-endpoints: root:{SECRET}@a\n",
        f"{{etcd-password:{SECRET}}}\n",
        f"postgres-conn-url: postgresql://a:{SECRET}@b/\n",
        f"postgres-conn-url: host=a password={SECRET}\n",
        f"postgres-conn-url: host=a password='{SECRET}\n",
        f"postgres-conn-url: host=a pasword={SECRET}\n",
        f"postgres-conn-url: [password={SECRET}]\n",
        f"pgbouncer-conn-url: host=a password = '{SECRET} {SECRET}'\n",
    ],
)
def test_a_secret_is_never_shown(text: str, tmp_path: Path) -> None:
    key = text.partition(":")[0]
    flags = base_for(key) if key in KIND_OF else BASE
    flags = {key: value for key, value in flags.items() if not text.startswith(key)}
    assert SECRET not in told(file_in(tmp_path, text), flags)


def test_a_secret_in_a_flag_or_a_variable_is_never_shown() -> None:
    wrong = {"http-url": f"ftp://root:{SECRET}@a/", "dcs-endpoints": f"http://root:{SECRET}@a"}
    from_flags = issues_of(None, {**BASE, **wrong, "http-password": SECRET})
    flags = {key: value for key, value in BASE.items() if key not in wrong}
    variables = {variable(key): value for key, value in wrong.items()}
    from_environment = issues_of(None, flags, {**variables, "YAIM_HTTP_PASSWORD": SECRET})
    assert (len(from_flags), len(from_environment)) == (3, 3)
    assert SECRET not in f"{from_flags} {from_environment}"


def test_secrets_are_masked_and_a_url_keeps_the_rest() -> None:
    flags = {
        **BASE,
        "etcd-user": "root",
        "etcd-password": SECRET,
        "http-url": f"http://monitor:{SECRET}@127.0.0.1:8008/a",
    }
    shown = {key: value for key, value, _ in load(flags, {}, None).shown()}
    assert {key: shown[key] for key in ("etcd-user", "etcd-password", "http-url")} == {
        "etcd-user": "root",
        "etcd-password": MASK,
        "http-url": f"http://monitor:{MASK}@127.0.0.1:8008/a",
    }


def test_a_password_from_a_file_is_masked_too(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(SECRET)
    flags = {**BASE, "http-user": "monitor", "http-password-file": str(secret)}
    rows = load(flags, {}, None).shown()
    assert [row for row in rows if row[0].startswith("http-password")] == [
        ("http-password", MASK, "--http-password-file"),
        ("http-password-file", str(secret), "--http-password-file"),
    ]


@pytest.mark.parametrize("password", ["012345", "1_000", "1:30", "0x1F", "!geheim"])
def test_a_password_without_quotes_is_taken_as_it_is_written_or_refused(
    password: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"etcd-user: root\netcd-password: {password}\n")
    try:
        loaded = load(BASE, {}, file)
    except ConfigError:
        return
    assert loaded.value("etcd-password") == password


# --- what is shown -------------------------------------------------------------------------------


def test_all_keys_are_shown_with_value_and_origin(tmp_path: Path) -> None:
    file = file_in(tmp_path, "dcs-endpoints: [http://a, https://b]\nnetmask: 24\n")
    rows = load(BASE, {"YAIM_NETMASK6": "64"}, file).shown()
    assert [key for key, _, _ in rows] == [*OWN_KEYS, *KIND_KEYS["http"]]
    changed = {key: (value, origin) for key, value, origin in rows if origin != "default"}
    assert changed == {
        **{key: (value, f"--{key}") for key, value in BASE.items()},
        "dcs-endpoints": ("http://a:2379,https://b:2379", f"{file}:1"),
        "netmask": ("24", f"{file}:2"),
        "netmask6": ("64", "YAIM_NETMASK6"),
    }
    defaults = {key: value for key, value, origin in rows if origin == "default"}
    assert (defaults["ttl"], defaults["etcd-user"], defaults["helper-socket"]) == (
        "5000",
        "",
        "/run/yaim-helper/helper.sock",
    )


def test_text_that_looks_like_a_broken_url_is_shown() -> None:
    flags = {**BASE, "http-expected-response": "//["}
    shown = {key: value for key, value, _ in load(flags, {}, None).shown()}
    assert shown["http-expected-response"] == "//["


def test_a_variable_that_looks_like_ours_and_is_not_is_warned_about() -> None:
    environment = {
        "YAIM_TTL": "5000",
        "YAIM_CONFIG": "yaim.yml",
        "YAIM_ETCD_PASWORD": SECRET,
        "YAIM_FOO": "bar",
        "YAIM_CHECKS": "[]",
        "TTL": "1",
    }
    assert environment_warnings(environment) == [
        "YAIM_CHECKS: a list of checks can stand in the file only; ignored",
        "YAIM_ETCD_PASWORD: no such key (did you mean YAIM_ETCD_PASSWORD?); ignored",
        "YAIM_FOO: no such key; ignored",
    ]


# --- yaim.yml.example ----------------------------------------------------------------------------


def example_keys() -> dict[str, str]:
    """Keys of the example that are commented out, with their values as YAML."""
    return dict(re.findall(r"(?m)^#([a-z0-9-]+): (.*)$", EXAMPLE.read_text()))


def example_comment(key: str) -> str:
    """What the example says of a key."""
    (found,) = (
        paragraph
        for paragraph in EXAMPLE.read_text().split("\n\n")
        if re.search(f"(?m)^#?{key}: ", paragraph)
    )
    return found


def test_the_example_loads_as_it_is() -> None:
    assert load({}, {}, EXAMPLE).file == EXAMPLE


def test_the_example_names_every_key_once() -> None:
    named = re.findall(r"(?m)^#?([a-z0-9-]+): ", EXAMPLE.read_text())
    assert sorted(named) == sorted(KEYS)


def test_the_defaults_in_the_example_are_the_real_ones() -> None:
    commented = example_keys()
    real = {key: default for key, default in DEFAULTS.items() if default is not None}
    real["timeout"] = 5000
    for key, default in real.items():
        loaded = load(base_for(key), {}, file_in(Path(), lines({key: commented[key]})))
        assert (key, value_of(loaded, key)) == (key, default)


@pytest.mark.parametrize("key", example_keys())
def test_every_value_that_is_commented_out_in_the_example_is_good(key: str, tmp_path: Path) -> None:
    """But that the files are not there."""
    file = file_in(tmp_path, f"{key}: {example_keys()[key]}\n")
    flags = base_for(key)
    if not key.endswith("-file"):
        assert load(flags, {}, file).origins[key] == f"{file}:1"
        return
    issue = issues_of(file, flags)[0]
    assert (issue.where, issue.key, issue.expected) == (f"{file}:1", key, MISSING)


def test_the_example_marks_the_keys_that_need_a_restart() -> None:
    marked = {key: "[restart]" in example_comment(key) for key in KEYS}
    assert marked == {key: not each.is_reloaded for key, each in KEYS.items()}


def test_the_example_names_all_log_levels() -> None:
    assert all(re.search(rf"\b{level}\b", example_comment("log-level")) for level in LOG_LEVELS)


def test_the_example_names_the_certificates_that_are_used_where_none_are_given() -> None:
    assert str(SYSTEM_CA_FILE) in example_comment("http-ca-file")
