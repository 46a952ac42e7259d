"""yaim.yml.example names every key, with its real default."""

import dataclasses
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tests.config.samples import HERE, MISSING, base_for, file_in, issues_of, lines, value_of
from yaim.checks.http import SYSTEM_CA_FILE
from yaim.checks.kinds import KINDS
from yaim.config.config import KEYS, LOG_LEVELS, Config
from yaim.config.load import load
from yaim.dcs.etcd.settings import EtcdSettings
from yaim.managers.helper.settings import HelperSettings

pytestmark = pytest.mark.quick

EXAMPLE = HERE.parents[2] / "yaim.yml.example"
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


def test_the_example_marks_the_keys_that_need_a_restart_or_more() -> None:
    """It marked ttl with [restart], which goes on with the ttl of the lease."""
    marks = {key: re.findall(r"\[([a-z ]+)\]", example_comment(key)) for key in KEYS}
    expected = {key: [] if each.is_reloaded else [each.applied.value] for key, each in KEYS.items()}
    assert marks == expected


def test_the_example_names_all_log_levels() -> None:
    assert all(re.search(rf"\b{level}\b", example_comment("log-level")) for level in LOG_LEVELS)


def test_the_example_names_the_certificates_that_are_used_where_none_are_given() -> None:
    assert str(SYSTEM_CA_FILE) in example_comment("http-ca-file")
