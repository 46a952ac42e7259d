"""Where values come from, and what is needed for what."""

import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.config.samples import (
    BAD,
    BASE,
    COMPANIONS,
    HERE,
    NO_FILE,
    PASSWORD_FILE,
    SECRET,
    TLS,
    base_for,
    file_in,
    issues_of,
    lines,
    value_of,
)
from yaim.checks.http import HttpCheck
from yaim.checks.postgres import MaxLag
from yaim.checks.tcp import TcpAddress
from yaim.checks.transport.http_codes import Codes
from yaim.config.checks import CheckConfig
from yaim.config.config import KEYS, LOG_LEVELS, Config
from yaim.config.file import ConfigError, Issue
from yaim.config.load import Purpose, load, variable
from yaim.core.settings import Window
from yaim.dcs.etcd.settings import EtcdSettings

pytestmark = pytest.mark.quick

HTTP = CheckConfig(
    name="http",
    kind="http",
    settings=HttpCheck("http://127.0.0.1:8008/"),
    timeout=5000,
)


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
    """The label is empty as the default has it, and as it can be written down."""
    interface = {**BASE, "interface": "enx0123456789ab"}
    assert load(interface, {}, None).label == load({**interface, "label": ""}, {}, None).label == ""
    with pytest.raises(ConfigError, match="expected at most 0 characters"):
        load({**interface, "label": "x"}, {}, None)


def test_a_label_may_be_none_although_yaim_would_fit(tmp_path: Path) -> None:
    assert load(BASE, {}, file_in(tmp_path, "label: ''\n")).label == ""


@pytest.mark.parametrize(("ttl", "ttl_s"), [(3000, 3), (3001, 4), (5999, 6), (6000, 6)])
def test_the_ttl_is_rounded_up_to_whole_seconds(ttl: int, ttl_s: int) -> None:
    assert load({**BASE, "ttl": str(ttl)}, {}, None).ttl_s == ttl_s


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
    "connections": ("Leave", "leave"),
    "rebalance": ("22:30-4:00", Window(22 * 60 + 30, 4 * 60)),
    "rebalance-delay": ("60000", 60_000),
    "check-trigger": ("/run/a/now", "/run/a/now"),
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
