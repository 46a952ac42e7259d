"""The commands: each has a file of its own, which is imported only where it is wanted."""

import argparse
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import yaim.cli
from yaim.cli.main import COMMANDS, parser

FILES = {
    file.stem: import_module(f"yaim.cli.{file.stem}")
    for file in sorted(Path(yaim.cli.__file__).parent.glob("*.py"))
    if "\ndef add_options(" in file.read_text()
}
LEAST = {
    "lab": "down",
    "config": "check",
    "explain": "192.0.2.11",
    "drain": "n1",
    "undrain": "n1",
    "move": "192.0.2.11 n1",
    "pin": "192.0.2.11 n1",
    "unpin": "192.0.2.11",
    "weight": "n1 2",
    "pool": "list",
    "node": "list",
}
"""What has to be given with a command."""
LOADED = """
import sys
from yaim.cli.main import parser
parser(sys.argv[1:])
loaded = sorted(each for each in sys.modules if each.startswith("yaim.cli."))
print(*(each.removeprefix("yaim.cli.") for each in loaded))
"""


def test_each_command_has_a_file() -> None:
    assert sorted(COMMANDS) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_each_file_adds_the_options_of_its_command_and_says_what_runs_it(name: str) -> None:
    file: ModuleType = FILES[name]
    made = argparse.ArgumentParser()
    file.add_options(made)
    options = made.parse_args(LEAST.get(name, "").split())
    assert options.command.__module__ == file.__name__
    assert file.__doc__ is not None and f"`yaim {name}`" in file.__doc__


@pytest.mark.parametrize(
    ("given", "loaded"),
    [
        ((), "main options parsers"),
        (("--version",), "main options parsers"),
        (("--label=status", "--interface", "eth0"), "main options parsers"),
        (("--ttl", "5000", "status"), "main options parsers status"),
        (("config", "show"), "config main options parsers"),
    ],
)
def test_only_the_files_of_commands_that_are_named_are_imported(
    given: tuple[str, ...], loaded: str
) -> None:
    command = (sys.executable, "-c", LOADED, *given)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == loaded


def test_without_a_command_it_is_run_and_the_file_of_the_start_is_read_anew() -> None:
    options = parser(()).parse_args(())
    assert (options.command, options.reload_config) == (None, None)
