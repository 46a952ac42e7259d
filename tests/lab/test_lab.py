"""`yaim lab` as users run it, and that nothing of it is left behind."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path

import pytest

from tests.cli.test_cli import AS_NOBODY
from tests.lab.machine import Machine, machine_in
from yaim.lab import control
from yaim.lab.cluster import Lab
from yaim.lab.directory import sweep
from yaim.lab.namespaces import Namespace
from yaim.lab.plan import LabPlan
from yaim.lab.wait import wait_until

WITHIN_S = 30.0
EX_USAGE = 2
NOT_UP = (1, "", "yaim: no lab is up: `yaim lab up` starts one\n")
LAB = (sys.executable, "-P", "-m", "yaim", "lab")
TOOLS = ("mount", "nsenter", "setpriv", "unshare")
"""The programs that the lab needs, but for etcd."""


class Place:
    """A machine on which there is nothing but what the lab makes."""

    def __init__(self, machine: Machine, temporary: Path) -> None:
        self.machine = machine
        self.temporary = temporary

    def lab(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """Exit status, output and messages of `yaim lab`."""
        done = self.machine.run(*LAB, *arguments, TMPDIR=str(self.temporary), **variables)
        return done.returncode, done.stdout, done.stderr

    def up(self, *options: str) -> str:
        status, shown, message = self.lab("up", *options)
        assert status == 0, message
        return shown

    def nodes(self) -> dict[str, tuple[str, list[str]]]:
        """What `lab status` shows: node to its state and the addresses it holds."""
        rows = self.lab("status")[1].splitlines()[:-1]
        shown = [re.findall(r"^  (n\d) +(\w+(?: \w+)?)(.*)$", row)[0] for row in rows]
        return {name: (state, addresses.split()) for name, state, addresses in shown}

    def wait_for(self, **nodes: tuple[str, int]) -> None:
        """Waits until this is the nodes' state and how many addresses each holds."""

        def found() -> dict[str, tuple[str, int]]:
            return {name: (state, len(held)) for name, (state, held) in self.nodes().items()}

        self.wait_until(lambda: found() == nodes, str(nodes))

    def remains(self, *, files: bool = True) -> dict[str, list[str]]:
        """Everything there."""
        there = self.machine.remains()
        # Not by rglob, which fails if a directory goes meanwhile.
        trees = os.walk(self.temporary)
        ours = [f"{where}/{name}" for where, *names in trees for name in chain(*names)]
        all_files = [*there["files"], *ours]
        return there | {"files": all_files if files else []}

    def wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        wait_until(is_so, WITHIN_S, what, lambda: f"{self.remains()}\n{self.lab('status')}")


@contextmanager
def new_place(temporary: Path) -> Iterator[Place]:
    with closing(Namespace.new()) as network, machine_in(network) as machine:
        yield Place(machine, temporary)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with new_place(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def place_of_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with new_place(tmp_path_factory.mktemp("lab")) as made:
        made.up()
        yield made


@pytest.fixture
def up(place_of_lab: Place) -> Place:
    """Where a lab is up, whose nodes are well and share the addresses."""
    place_of_lab.wait_for(n1=("healthy", 2), n2=("healthy", 2), n3=("healthy", 2))
    return place_of_lab


def test_status_shows_who_holds_what_and_what_the_client_sees(up: Place) -> None:
    held = [address for _, addresses in up.nodes().values() for address in addresses]
    assert sorted(held) == [f"192.0.2.{number}" for number in range(11, 17)]
    answering = "  client: 6 addresses answer\n"
    up.wait_until(lambda: up.lab("status")[1].endswith(answering), "all to answer")


@pytest.mark.parametrize(
    ("command", "node", "text", "state"),
    [
        ("fail", "n1", "its service answers 503", "service fails"),
        ("kill", "n2", "all its processes are killed with -9", "not running"),
        ("cut", "n3", "it is cut off from etcd, the other nodes and the client", "cut off"),
    ],
)
def test_the_others_take_over_until_the_node_is_healed(
    up: Place, command: str, node: str, text: str, state: str
) -> None:
    assert up.lab(command, node) == (0, f"{node}: {text}\n", "")
    others = dict.fromkeys(("n1", "n2", "n3"), ("healthy", 3))
    up.wait_for(**{**others, node: (state, 0)})
    healed = "its service answers, it is connected and running"
    assert up.lab("heal", node) == (0, f"{node}: {healed}\n", "")
    up.wait_for(n1=("healthy", 2), n2=("healthy", 2), n3=("healthy", 2))


def test_a_node_is_stopped_and_started(up: Place) -> None:
    """docs/steering.md has both in a maintenance."""
    stopped = "it is stopped, its addresses are handed over"
    assert up.lab("stop", "n1") == (0, f"n1: {stopped}\n", "")
    up.wait_for(n1=("not running", 0), n2=("healthy", 3), n3=("healthy", 3))
    assert "stopped" in up.lab("exec", "n2", "yaim", "status")[1]
    assert up.lab("start", "n1") == (0, "n1: it is running\n", "")
    up.wait_for(n1=("healthy", 2), n2=("healthy", 2), n3=("healthy", 2))


def test_exec_runs_a_program_as_if_on_the_node(up: Place) -> None:

    def shown() -> list[str]:
        status, told, error = up.lab("exec", "n1", "ip", "-brief", "address", "show", "eth0")
        assert (status, error) == (0, "")
        return sorted(re.findall(r"(192\.0\.2\.\d+)/32", told))

    # The one is asked after the other, and addresses may go and come back on a busy machine.
    up.wait_until(lambda: len(shown()) == 2 and shown() == up.nodes()["n1"][1], "its addresses")
    assert "yaim: supervisor" in up.lab("exec", "n2", "cat", "/proc/1/cmdline")[1]
    assert up.lab("exec", "n3", "sh", "-c", "hostname; exit 7") == (7, "n3\n", "")


def test_exec_runs_yaim_of_a_node(up: Place) -> None:
    """It was not found, and knew neither the node's files nor its users."""
    status, told, error = up.lab("exec", "n1", "yaim", "status")
    assert (status, error) == (0, "") and "192.0.2.16" in told
    status, told, error = up.lab("exec", "n2", "yaim", "doctor")
    assert (status, error) == (0, ""), told
    assert "n2/helper.yml can be used" in told


@pytest.mark.parametrize(("command", "node"), [("fail", "n9"), ("heal", ""), ("exec", "N1")])
def test_a_node_that_is_not_there_is_refused(up: Place, command: str, node: str) -> None:
    message = f"yaim: there is no node {node!r}: there are n1, n2, n3\n"
    assert up.lab(command, node) == (1, "", message)


def test_a_second_lab_is_refused(up: Place) -> None:
    assert up.lab("up") == (1, "", "yaim: a lab is up already: `yaim lab down` ends it\n")


def test_a_command_that_is_broken_off_does_not_end_the_lab(up: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(str(up.machine.root / control.SOCKET.relative_to("/")))
        connection.send(b'{"do": "status"}')
    assert up.lab("status")[0] == 0


def test_nothing_is_left_when_a_lab_is_down(place: Place) -> None:
    before = place.remains()
    shown = place.up("--nodes=2", "--addresses=3")
    assert len(re.findall(r"192\S+", shown)) == 3
    while_up = place.remains()
    assert min(len(while_up[each]) - len(before[each]) for each in ("processes", "files")) > 10
    assert place.lab("down") == (0, "the lab is down\n", "")
    place.wait_until(lambda: place.remains() == before, "all to be gone")
    assert place.lab("down") == NOT_UP
    assert place.remains() == before


def test_a_lab_whose_keeper_is_killed_is_gone_and_another_one_can_come(place: Place) -> None:
    before = place.remains()
    without_files = {**before, "files": []}
    for number in (signal.SIGTERM, signal.SIGKILL):
        place.up("--nodes=1", "--addresses=1")
        place.machine.kill(number, place.machine.pid("yaim lab keep") or "")
        place.wait_until(lambda: place.remains(files=False) == without_files, "all to be gone")
        assert place.lab("status") == NOT_UP
        assert place.remains() == before


def test_a_node_that_was_killed_has_nothing_to_run_programs_in(place: Place) -> None:
    place.up("--nodes=2", "--addresses=2")
    place.lab("kill", "n2")
    assert place.lab("exec", "n2", "true") == (1, "", "yaim: n2 is not running\n")
    assert place.lab("status")[0] == 0


def test_a_start_that_is_broken_off_leaves_nothing(place: Place) -> None:
    before = place.remains()
    command = place.machine.command("env", f"TMPDIR={place.temporary}", "setsid", *LAB, "up")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as starting:
        try:
            place.wait_until(lambda: bool(place.machine.pid("yaim lab keep")), "it to begin")
            place.machine.kill(signal.SIGINT, f"-{place.machine.pid('yaim lab up')}")
            _, message = starting.communicate(timeout=WITHIN_S)
        finally:
            starting.kill()
    assert (starting.returncode, message) == (128 + signal.SIGINT, "")
    place.wait_until(lambda: place.remains() == before, "all to be gone")


@pytest.mark.parametrize("command", ["run", "up", "status", "down"])
def test_the_lab_wants_root(place: Place, command: str) -> None:
    done = place.machine.run(*AS_NOBODY, *LAB, command)
    message = "yaim: the lab needs root: it makes network namespaces\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


def test_a_directory_for_temporary_files_that_each_node_covers_is_refused(place: Place) -> None:
    done = place.machine.run(*LAB, "up", TMPDIR="/run")
    assert done.returncode == 1
    assert "TMPDIR is below /run" in done.stderr
    assert not list((place.machine.root / "run").glob("yaim*"))


def test_nothing_is_left_when_the_story_is_broken_off(place: Place) -> None:
    """Ctrl-C breaks it off, which all processes of the terminal get."""
    before = place.remains()
    with subprocess.Popen(
        place.machine.command("env", f"TMPDIR={place.temporary}", "setsid", *LAB, "run"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as story:
        try:
            assert story.stdout is not None
            told = next(line for line in story.stdout if line == "> n1's service fails\n")
            place.machine.kill(signal.SIGINT, f"-{place.machine.pid('yaim lab run')}")
            told += story.stdout.read()
            story.wait(WITHIN_S)
        finally:
            story.kill()
    assert story.returncode == 128 + signal.SIGINT
    assert "Traceback" not in told
    place.wait_until(lambda: place.remains() == before, "all to be gone")


def test_a_lab_that_is_just_being_made_is_not_taken_for_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one that begins might take it so."""
    make = tempfile.mkdtemp

    def make_and_sweep(prefix: str) -> str:
        made = make(prefix=prefix)
        sweep()
        return made

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "mkdtemp", make_and_sweep)
    with Lab(LabPlan(nodes=1)) as lab:
        sweep()
        assert list(tmp_path.iterdir()) == [lab.directory]
    assert list(tmp_path.iterdir()) == []


def test_a_lab_that_is_not_up_is_told(place: Place) -> None:
    for arguments in (("status",), ("fail", "n1"), ("exec", "n1", "true"), ("down",)):
        assert place.lab(*arguments) == NOT_UP


@pytest.mark.parametrize("command", ["run", "up"])
def test_a_missing_etcd_is_told(place: Place, command: str) -> None:
    for tool in TOOLS:
        (place.temporary / tool).symlink_to(shutil.which(tool) or "")
    before = place.remains()
    status, _, message = place.lab(command, PATH=str(place.temporary))
    told = "yaim: there is no etcd on this machine: apt-get install etcd-server"
    assert (status, message.strip().splitlines()[-1]) == (1, told)
    place.wait_until(lambda: place.remains() == before, "all to be gone")


@pytest.mark.parametrize("option", ["--nodes=0", "--nodes=21", "--addresses=0"])
def test_a_lab_has_its_bounds(place: Place, option: str) -> None:
    status, shown, message = place.lab("up", option)
    assert (status, shown) == (EX_USAGE, "")
    assert f"argument {option.partition('=')[0]}: got " in message
