"""What is shown of the values in force."""

from pathlib import Path

import pytest

from tests.config.samples import BASE, SECRET, file_in
from yaim.config.checks import KIND_KEYS
from yaim.config.config import OWN_KEYS
from yaim.config.load import environment_warnings, load

pytestmark = pytest.mark.quick


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
