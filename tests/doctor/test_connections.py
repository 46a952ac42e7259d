"""What `yaim doctor` finds of connections that are to be reset."""

import json
import pwd
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from yaim.core.model import Resets
from yaim.doctor.connections import CONNECTIONS, look_at_connections
from yaim.doctor.finding import Finding, not_looked_at, ok, warning
from yaim.doctor.helper import read_allowlist, resets_of

ME = pwd.getpwuid(0)
FILE = Path("/etc/yaim/helper.yml")
RESTART = "systemctl restart yaim-helper"
STAY, ARE = "stay when an address moves", "are reset when an address moves from here"
LEAVE = "or set connections: leave in yaim.yml"
RULE = "take that out and reload the helper"


@pytest.mark.parametrize(
    ("are_reset", "told", "rules", "finding"),
    [
        (True, Resets(True), (True, True), ok(CONNECTIONS, ARE)),
        (True, Resets(True), (), ok(CONNECTIONS, ARE)),
        (
            *(True, Resets(True), (True, False, False)),
            ok(CONNECTIONS, f"are reset, but for 2 of 3 rules in {FILE}"),
        ),
        (
            *(True, Resets(True), (False,)),
            warning(
                CONNECTIONS, f"{STAY}: {FILE} has reset-connections: false", f"{RULE}, {LEAVE}"
            ),
        ),
        (
            *(True, Resets(False, "no such kernel"), (True,)),
            warning(CONNECTIONS, f"{STAY}: no such kernel", f"mend that, then {RESTART}; {LEAVE}"),
        ),
        (
            *(True, None, (True,)),
            warning(
                CONNECTIONS, f"{STAY}: the helper that runs is older than its program", RESTART
            ),
        ),
        (True, "it hangs up", (True,), not_looked_at(CONNECTIONS, "it hangs up")),
        (False, None, (False,), ok(CONNECTIONS, f"{STAY} (connections: leave)")),
    ],
)
def test_what_stands_in_the_way_of_a_reset_is_told_with_its_remedy(
    are_reset: bool, told: Resets | str | None, rules: tuple[bool, ...], finding: Finding
) -> None:
    assert [*look_at_connections(are_reset, told, rules, FILE, RESTART)] == [finding]


@contextmanager
def helper_that_says(answer: dict[str, object]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "helper.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.settimeout(10.0)
            listener.bind(str(path))
            listener.listen()

            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.send(json.dumps(answer).encode())

            thread = Thread(target=serve)
            thread.start()
            try:
                yield path
            finally:
                thread.join()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"result": "ok", "connections": {"can_reset": True, "reason": ""}}, Resets(True)),
        (
            {"result": "ok", "connections": {"can_reset": False, "reason": "why"}},
            Resets(False, "why"),
        ),
        ({"result": "ok"}, None),
        ({"result": "refused", "reason": "no"}, "the helper refuses to say so: no"),
    ],
)
def test_the_helper_that_runs_is_asked(
    answer: dict[str, object], told: Resets | str | None
) -> None:
    with helper_that_says(answer) as path:
        assert resets_of(path, ME) == told


def test_where_no_helper_runs_that_is_told(tmp_path: Path) -> None:
    why = "the helper does not answer: No such file or directory"
    assert resets_of(tmp_path / "none.sock", ME) == why


def test_each_rule_says_whether_connections_may_be_reset(tmp_path: Path) -> None:
    file = tmp_path / "helper.yml"
    rules = ("", "reset-connections: true", "reset-connections: false")
    file.write_text("rules:\n" + "".join(f"- interface: eth0\n  {each}\n" for each in rules))
    assert read_allowlist(file).reset_rules == (True, True, False)
