"""The man pages and the completion are whole, and programs that read them find nothing wrong."""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from yaim_helper.serve import start as helper
from yaim_helper.tools import audit as audit_tools
from yaim_helper.tools import policy as policy_tools

from yaim.cli import main as cli
from yaim.config.config import KEYS

ROOT = Path(__file__).parents[2]
PAGES = ("yaim.1", "yaim-helper.8", "yaim.yml.5", "helper.yml.5")


def made(directory: Path) -> dict[str, str]:
    generator = ROOT / "packaging/manual/make.py"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run((sys.executable, str(generator), str(directory)), env=environment, check=True)
    return {file.name: file.read_text() for file in directory.iterdir()}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("manual")
    made(directory)
    return directory


def shown(page: Path) -> str:
    """As a reader sees it, in lines of any length."""
    command = ("man", "--warnings", "-E", "UTF-8", "-l", str(page))
    environment = {**os.environ, "MANWIDTH": "1000", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
    return re.sub(".\x08", "", done.stdout)


def actions(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Of all that is listed, with the command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for listed in action._choices_actions:
                yield from actions(action.choices[listed.dest])
        else:
            yield parser.prog, action


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wrong_with_a_page(directory: Path, name: str) -> None:
    environment = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"}
    command = ("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(directory / name))
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize(
    ("page", "parsers"),
    [
        ("yaim.1", [cli.parser()]),
        ("yaim-helper.8", [helper.parser(), policy_tools.parser(), audit_tools.parser()]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_all_commands_and_options_are_told(
    directory: Path, page: str, parsers: list[argparse.ArgumentParser]
) -> None:
    text = shown(directory / page)
    for parser in parsers:
        for command, action in actions(parser):
            assert command in text
            is_key = action.dest.replace("_", "-") in KEYS and command.split()[0] == "yaim"
            for option in (
                [] if is_key or action.dest in ("help", "version") else action.option_strings
            ):
                assert option in text, f"{command} {option}"


def test_all_keys_are_told(directory: Path) -> None:
    text = shown(directory / "yaim.yml.5")
    for key in KEYS:
        assert re.search(rf"^ +{key}:", text, re.MULTILINE), key
    text = shown(directory / "helper.yml.5")
    for key in yaml.safe_load((ROOT / "helper.yml.example").read_text()):
        assert re.search(rf"^ +{key}\b", text, re.MULTILINE), key


def test_a_text_that_means_something_to_roff_is_shown_as_it_is(directory: Path) -> None:
    text = shown(directory / "yaim.yml.5")
    assert 'tcp-send: "PING\\r\\n"' in text
    assert "http-expected-response: 'OK'" in text


def test_it_is_the_same_each_time(directory: Path, tmp_path: Path) -> None:
    assert made(tmp_path) == {file.name: file.read_text() for file in directory.iterdir()}


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_yaim "$1"
echo "${COMPREPLY[*]}"
"""


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (("yaim", ""), "check config doctor lab run status supervise"),
        (("/usr/bin/yaim", "st"), "status"),
        (("yaim", "config", ""), "check show"),
        (("yaim", "config", "show", "--etcd-us"), "--etcd-user"),
        (("yaim", "--config", ""), ""),
        (("yaim", "--config", "/etc/yaim/yaim.yml", "st"), "status"),
        (("yaim", "--ttl", "=", ""), ""),
        (("yaim", "doctor", "--json", "--js"), "--json"),
        (("yaim", "--vers"), "--version"),
        (("yaim-helper", ""), "audit policy"),
        (("yaim-helper", "audit", ""), "show timeline verify"),
        (("yaim-helper", "audit", "verify", "--h"), "--help --heads"),
        (("yaim-helper", "policy", "explain", "--pre"), "--prefix"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_bash_completes_what_is_typed(directory: Path, typed: tuple[str, ...], found: str) -> None:
    command = ("bash", "--norc", "-c", COMPLETE, "bash", str(directory / "yaim"), *typed)
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (found, "")
