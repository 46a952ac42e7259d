"""`yaim check --now`, as Patroni's callbacks call it."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from yaim.checks.now import NAME, WORD
from yaim.cli.check_now import DEFAULT_SOCKET

UNIT = Path(__file__).parents[2] / "packaging" / "deb" / "yaim.service"


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "s"))
        made.setblocking(False)
        yield made


def yaim(
    *arguments: str, python: tuple[str, ...] = ("-m", "yaim"), **environment: str
) -> tuple[int, str]:
    done = subprocess.run(
        (sys.executable, *python, *arguments),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "words", [(), ("on_role_change", "primary", "batman"), ("on_stop", "replica", "status")]
)
@pytest.mark.parametrize("how", ["flag", "flag before", "two words", "variable"])
def test_it_sends_the_word_whatever_patroni_appends(
    how: str, words: tuple[str, ...], listening: socket.socket
) -> None:
    path = listening.getsockname()
    given = {
        "flag": ("check", "--now", f"--check-socket={path}", *words),
        "flag before": ("check", f"--check_socket={path}", "--now", *words),
        "two words": ("check", "--now", "--check-socket", path, *words),
        "variable": ("check", "--now", *words),
    }[how]
    environment = {"YAIM_CHECK_SOCKET": path} if how == "variable" else {}
    assert yaim(*given, **environment) == (0, "")
    assert listening.recv(100) == WORD
    with pytest.raises(BlockingIOError):
        listening.recv(100)


@pytest.mark.parametrize("now", [("check", "--now"), ("check", "--now", "--json")])
def test_where_nobody_listens_it_says_what_to_do(now: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "none"
    assert yaim(*now, f"--check-socket={path}") == (
        1,
        f"yaim: nobody takes it at {path} (No such file or directory): does yaim run here, and"
        " listen there? (--check-socket=PATH, as in its yaim.yml)\n",
    )


def test_one_that_was_left_behind_is_told_likewise(listening: socket.socket) -> None:
    path = listening.getsockname()
    listening.close()
    status, told = yaim("check", "--now", YAIM_CHECK_SOCKET=path)
    assert status == 1 and "(Connection refused)" in told


def test_who_takes_nothing_is_not_waited_for_long(listening: socket.socket) -> None:
    path = listening.getsockname()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filling:
        filling.setblocking(False)
        with pytest.raises(BlockingIOError):
            for _ in range(100_000):
                filling.sendto(b"check", path)
    status, told = yaim("check", "--now", YAIM_CHECK_SOCKET=path)
    assert status == 1 and "timed out" in told


def test_the_default_is_where_the_unit_has_systemd_make_a_directory() -> None:
    (directory,) = re.findall(r"(?m)^RuntimeDirectory=(.*)$", UNIT.read_text())
    assert f"/run/{directory}/{NAME}" == DEFAULT_SOCKET


def test_it_loads_neither_the_keys_nor_the_parser() -> None:
    program = (
        "import sys; from yaim.cli.main import main; main();"
        "print([m for m in sys.modules if m.startswith('yaim.c')], file=sys.stderr)"
    )
    _, told = yaim("check", "--now", python=("-c", program), YAIM_CHECK_SOCKET="/none")
    assert told.splitlines()[-1] == "['yaim.cli', 'yaim.cli.main', 'yaim.cli.check_now']"
