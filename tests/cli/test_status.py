"""`yaim status` as a process, with a real etcd."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dcs.etcd.conftest import EtcdServer
from tests.status.test_as_json import validated

PREFIX = "/service/yaim/"
WITHIN_S = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.close()


def command(server: EtcdServer, *arguments: str) -> list[str]:
    where = ("--dcs-clustername=yaim", f"--dcs-endpoints={server.url}")
    return [sys.executable, "-m", "yaim", "status", *where, *arguments]


def status(server: EtcdServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(server, *arguments), capture_output=True, text=True, timeout=WITHIN_S
    )


class Watched:
    """`yaim status --watch` on a terminal."""

    def __init__(self, server: EtcdServer) -> None:
        self._terminal, inner = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
        self._process = subprocess.Popen(
            command(server, "--watch"), stdin=inner, stdout=inner, stderr=inner, env=environment
        )
        os.close(inner)
        self._shown = ""

    def wait_for(self, pattern: str) -> None:
        """Waits until this is on the screen as it was drawn last."""
        give_up_at = time.monotonic() + WITHIN_S
        while not re.search(pattern, self._shown.rpartition("\x1b[H")[2]):
            left_s = give_up_at - time.monotonic()
            assert left_s > 0, f"{pattern} is not shown:\n{self._shown}"
            if select.select([self._terminal], [], [], left_s)[0]:
                self._shown += os.read(self._terminal, 65536).decode(errors="replace")

    def interrupt(self) -> int:
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(WITHIN_S)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


@pytest.fixture
def watched(server: EtcdServer) -> Iterator[Watched]:
    watched = Watched(server)
    try:
        yield watched
    finally:
        watched.close()


def test_it_is_watched_through_changes_and_an_outage_until_ctrl_c(
    server: EtcdServer, watched: Watched
) -> None:
    """`--watch` ended with 2, which also meant that etcd is unreachable."""
    watched.wait_for("Nothing is there")
    server.ctl("put", f"{PREFIX}ips/192.0.2.10", "")
    watched.wait_for(r"192\.0\.2\.10  - nobody -")
    assert "\x1b[33mdegraded\x1b[0m" in watched._shown
    server.stop()
    watched.wait_for(r"etcd is silent: what follows is \d+ s old")
    server.start()
    watched.wait_for(r"degraded\x1b\[0m: 2 problems")
    assert watched.interrupt() == 0


def test_for_programs_each_change_is_a_line(server: EtcdServer) -> None:
    server.ctl("put", f"{PREFIX}ips/192.0.2.10", "")
    with subprocess.Popen(
        command(server, "--watch", "--json"), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            first = validated(process.stdout.readline())
            server.ctl("put", f"{PREFIX}ips/192.0.2.11", "")
            second = validated(process.stdout.readline())
            server.stop()
            third = validated(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGINT)
            status = process.wait(WITHIN_S)
    assert [len(each["addresses"]) for each in (first, second)] == [1, 2]
    assert (third["condition"], third["addresses"], status) == ("unreachable", None, 0)


def test_a_user_without_the_right_to_read_is_told_so(server: EtcdServer) -> None:
    """Red, as when sick, and with the exit status of another thing."""
    server.ctl("user", "add", "root:secret")
    server.ctl("user", "grant-role", "root", "root")
    server.ctl("user", "add", "viewer:geheim")
    server.ctl("auth", "enable")
    user = ("--etcd-user=viewer", "--etcd-password=geheim")
    done = status(server, *user)
    assert (done.returncode, done.stdout) == (77, "")
    assert "viewer" in done.stderr and PREFIX in done.stderr
    told = json.loads(status(server, "--json", *user).stdout)
    assert (told["condition"], told["nodes"]) == ("not-permitted", None)
    assert status(server, "--watch", *user).returncode == 77
