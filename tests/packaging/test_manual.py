"""The man pages and the completion are whole, and programs that read them find nothing wrong.

bash, zsh and fish complete what is typed, each as a user has it.
"""

import argparse
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from yaim_helper.serve import start as helper
from yaim_helper.tools import audit as audit_tools
from yaim_helper.tools import policy as policy_tools

from yaim.cli import main as cli
from yaim.config.config import KEYS
from yaim.dcs.records import OPTIONS

ROOT = Path(__file__).parents[2]
WITHIN_S = 60.0
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
    """Returns a page as a reader sees it, in lines of any length."""
    command = ("man", "--warnings", "-E", "UTF-8", "-l", str(page))
    environment = {**os.environ, "MANWIDTH": "1000", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
    return re.sub(".\x08", "", done.stdout)


def actions(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Yields all that is listed, each with its command."""
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


def test_all_options_of_an_address_are_told(directory: Path) -> None:
    text = shown(directory / "yaim.yml.5")
    for option in (*OPTIONS, "critical"):
        assert re.search(rf'^ +"{option}": ', text, re.MULTILINE), option


def test_arguments_that_may_be_left_out_or_be_several_are_told_as_such(directory: Path) -> None:
    text = shown(directory / "yaim.1")
    assert re.search(r"^ +yaim check \[NAME ...\]$", text, re.MULTILINE), text
    text = shown(directory / "yaim-helper.8")
    assert re.search(r"^ +yaim-helper audit show \[PATH ...\]$", text, re.MULTILINE)
    assert re.search(r"^ +yaim-helper audit timeline PATH ...$", text, re.MULTILINE)


MANY_COMMANDS = """
import argparse, sys
sys.path.insert(0, sys.argv[1])
import make, programs
parser = argparse.ArgumentParser("yaim")
adding = parser.add_subparsers()
for number in range(6):
    made = adding.add_parser(f"do{number}", help=f"does {number}")
    made.add_argument("nodes", nargs="+", metavar="NODE")
    made.add_argument("--yes", action="store_true", help="do not ask")
nested = adding.add_parser("pool", help="addresses").add_subparsers()
nested.add_parser("list", help="list them").add_argument("--all", help="also others")
found = list(programs.commands("yaim", parser))
shared = make.shared_options(found)
print(*shared, *(make.told(each, shared) for each in found), sep="\\n")
"""


def test_what_many_commands_have_is_told_once_and_named_by_each() -> None:
    """As those have that change something in the cluster."""
    program = (sys.executable, "-c", MANY_COMMANDS, str(ROOT / "packaging/manual"))
    page = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert page.count("do not ask") == 1
    assert page.count("Common options: \\fB\\-\\-yes\\fR") == 6
    assert "\\fByaim do0\\fR \\fINODE\\fR ...\ndoes 0" in page
    assert "\\fByaim pool list\\fR\nlist them" in page


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
        (("yaim", ""), " ".join(sorted(cli.COMMANDS))),
        (("/usr/bin/yaim", "st"), "status"),
        (("yaim", "config", ""), "check keys show"),
        (("yaim", "config", "show", "--etcd-us"), "--etcd-user"),
        (("yaim", "--config", ""), ""),
        (("yaim", "--config", "/etc/yaim/yaim.yml", "st"), "status"),
        (("yaim", "--nodename", "lab", "su"), "supervise"),
        (("yaim", "--nodename", "=", "lab", "su"), "supervise"),
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


@pytest.mark.parametrize(
    ("command", "files"),
    [
        (("bash", "-n"), ["yaim"]),
        (("zsh", "-f", "-n"), ["_yaim", "_yaim-helper"]),
        (("fish", "--no-config", "-n"), ["yaim.fish", "yaim-helper.fish"]),
    ],
    ids=["bash", "zsh", "fish"],
)
def test_a_completion_has_no_fault_in_its_syntax(
    directory: Path, command: tuple[str, ...], files: list[str]
) -> None:
    for name in files:
        done = subprocess.run((*command, str(directory / name)), capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


# --- zsh -----------------------------------------------------------------------------------------

ZSH = """\
PS1=; unsetopt zle_bracketed_paste 2>/dev/null; fpath=({directory} $fpath)
autoload -U compinit; compinit -u -D
told() {{ print -r -- $BUFFER >{file}.new; mv {file}.new {file} }}
zle -N told; bindkey '^]' told; print is''ready
"""
TELL = "\x1d"


class Zsh:
    """A shell at a terminal, with nobody's settings."""

    def __init__(self, completions: Path, home: Path) -> None:
        self._told = home / "told"
        home.mkdir()
        environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(home)}
        self._terminal, end = pty.openpty()
        self._process = subprocess.Popen(
            ("zsh", "-f", "-i"),
            stdin=end,
            stdout=end,
            stderr=end,
            cwd=home,
            env=environment,
            start_new_session=True,
        )
        os.close(end)
        self._type(ZSH.format(directory=completions, file=self._told))
        self._read_until(lambda shown: "isready" in shown)

    def completed(self, typed: str) -> str:
        """What stands in the line when somebody types this and a tab."""
        self._type(f"{typed}\t{TELL}")
        self._read_until(lambda _: self._told.exists())
        return self._told.read_text().rstrip("\n")

    def _type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def _read_until(self, is_over: Callable[[str], bool]) -> None:
        """What it shows has to be read: it waits for that."""
        shown, give_up_at = "", time.monotonic() + WITHIN_S
        while not is_over(shown):
            assert time.monotonic() < give_up_at, shown
            if select.select([self._terminal], [], [], 0.05)[0]:
                shown += os.read(self._terminal, 65536).decode(errors="replace")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("yaim st", "yaim status "),
        ("yaim config ch", "yaim config check "),
        ("yaim config show --etcd-us", "yaim config show --etcd-user "),
        ("yaim --vers", "yaim --version "),
        ("yaim check --js", "yaim check --json "),
        ("yaim --config here.yml st", "yaim --config here.yml status "),
        ("yaim --config /et", "yaim --config /etc/"),
        ("yaim lab ke", "yaim lab ke"),
        ("yaim-helper pol", "yaim-helper policy "),
        ("yaim-helper audit ver", "yaim-helper audit verify "),
        ("yaim-helper policy explain --pre", "yaim-helper policy explain --prefix "),
        ("yaim-helper audit verify /et", "yaim-helper audit verify /etc/"),
    ],
    ids=lambda value: value.replace(" ", "_"),
)
def test_zsh_completes_what_is_typed(
    directory: Path, tmp_path: Path, typed: str, found: str
) -> None:
    with closing(Zsh(directory, tmp_path / "home")) as zsh:
        assert zsh.completed(typed) == found


# --- fish ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("yaim ", " ".join(sorted(cli.COMMANDS))),
        ("/usr/bin/yaim st", "status"),
        ("yaim config ", "check keys show"),
        ("yaim config show --etcd-us", "--etcd-user"),
        ("yaim --config /et", "/etc/"),
        ("yaim --config /etc/yaim/yaim.yml st", "status"),
        ("yaim --ttl ", ""),
        ("yaim doctor --js", "--json"),
        ("yaim --vers", "--version"),
        ("yaim lab ", "cut down exec fail heal kill run start status stop up"),
        ("yaim-helper ", "audit policy"),
        ("yaim-helper audit ", "show timeline verify"),
        ("yaim-helper audit verify --h", "--heads --help"),
        ("yaim-helper audit show --outcome ", "failed ok refused"),
        ("yaim-helper policy explain --pre", "--prefix"),
        ("yaim-helper audit verify /et", "/etc/"),
    ],
    ids=lambda value: value.replace(" ", "_"),
)
def test_fish_completes_what_is_typed(
    directory: Path, tmp_path: Path, typed: str, found: str
) -> None:
    """fish reads completions of programs that there are."""
    for program in ("yaim", "yaim-helper"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    script = f"set fish_complete_path {directory}; complete -C '{typed}'"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    command = ("fish", "--no-config", "-c", script)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stderr == ""
    assert " ".join(sorted(line.partition("\t")[0] for line in done.stdout.splitlines())) == found


def test_fish_tells_what_each_is_for(directory: Path) -> None:
    lines = (directory / "yaim.fish").read_text().splitlines()
    offers = [line for line in lines if line.startswith("complete") and not line.endswith(" -f")]
    assert len(offers) > len(KEYS)
    assert [line for line in offers if " -d '" not in line] == []
