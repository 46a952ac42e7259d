"""What a helper has left of what it was started with, as the kernel tells it."""

import os
import pwd
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from yaim_helper import privileges
from yaim_helper.privileges import KEPT, PrivilegeError, hand_over, user_named

from tests.helper.network import boottime, capturing, wait_for
from tests.helper.process import (
    OK_ABSENT,
    Client,
    Helper,
    deadline_in,
    policy,
    read_records,
    started,
    wait_until_ready,
)
from yaim.lab.namespaces import Namespace

USER = "daemon"
UID = pwd.getpwnam(USER).pw_uid
V4 = "192.0.2.10"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can reach, but only root can write to."""
    with TemporaryDirectory(prefix="yaim-helper-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@contextmanager
def dropped(network: Namespace, place: Path) -> Iterator[Helper]:
    """Started as root."""
    with started(network, place, user=USER) as helper:
        wait_until_ready(helper)
        yield helper


def status(helper: Helper) -> dict[str, str]:
    """proc_pid_status(5)"""
    lines = Path(f"/proc/{helper.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def capabilities(told: dict[str, str]) -> list[int]:
    return [int(told[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Inh", "Amb", "Bnd")]


def does_its_work(client: Client, network: Namespace) -> None:
    with capturing(network) as capture:
        assert client.add(V4) == OK_ABSENT
        assert capture.announced()
        assert client.renew(deadline_in(30)) == {"result": "ok", "missing": []}
        assert client.remove(V4)["was"] == "present"


def test_who_is_started_as_root_becomes_its_own_user_with_two_capabilities(
    network: Namespace, place: Path
) -> None:
    with dropped(network, place) as helper, helper.greeted() as client:
        does_its_work(client, network)
        told = status(helper)
        assert told["Uid"].split() == [str(UID)] * 4
        assert told["Gid"].split() == [str(pwd.getpwnam(USER).pw_gid)] * 4
        assert told["Groups"] == ""
        assert capabilities(told) == [KEPT, KEPT, 0, 0, KEPT]
        assert told["NoNewPrivs"] == "1"
    files = [place / "audit", *(place / "audit").iterdir()]
    assert {(each.stat().st_uid, stat.S_IMODE(each.stat().st_mode)) for each in files} == {
        (UID, 0o700),
        (UID, 0o600),
    }


def test_uid_0_keeps_no_more_than_the_two_capabilities(helper: Helper) -> None:
    told = status(helper)
    assert told["Uid"].split() == ["0"] * 4
    assert capabilities(told) == [KEPT, KEPT, 0, 0, KEPT]
    assert told["NoNewPrivs"] == "1"


def test_no_core_is_dumped_and_no_process_started(network: Namespace, place: Path) -> None:
    with dropped(network, place) as helper, helper.greeted() as client:
        does_its_work(client, network)
        limits = Path(f"/proc/{helper.pid}/limits").read_text().splitlines()
        told = {line[:26].strip(): line[26:].split()[:2] for line in limits}
        assert told["Max core file size"] == ["0", "0"]
        assert told["Max processes"] == ["0", "0"]
        # Of a process that is not dumpable, /proc belongs to root (proc(5)).
        assert Path(f"/proc/{helper.pid}/environ").stat().st_uid == 0
        assert [each.name for each in Path(f"/proc/{helper.pid}/task").iterdir()] == [
            str(helper.pid)
        ]
        assert Path(f"/proc/{helper.pid}/task/{helper.pid}/children").read_text() == ""


ATTEMPTS = """
import os, pwd, socket, sys
from pathlib import Path
from yaim_helper.privileges import give_up
give_up(pwd.getpwnam(sys.argv[1]))
def attempt(what, do):
    try:
        do()
    except OSError as error:
        print(what, type(error).__name__)
    else:
        print(what, "done")
attempt("read", lambda: Path(sys.argv[2]).read_bytes())
attempt("signal", lambda: os.kill(int(sys.argv[3]), 0))
attempt("fork", os.fork)
attempt("chown", lambda: os.chown(sys.argv[4], 0, 0))
attempt("mount", lambda: os.chroot("/"))
attempt("become root", lambda: os.setuid(0))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
"""


def test_what_it_has_left_is_good_for_nothing_else(place: Path) -> None:
    secret, own = place / "secret", place / "own"
    secret.write_text("")
    secret.chmod(0o600)
    own.write_text("")
    os.chown(own, UID, 0)
    command = (sys.executable, "-c", ATTEMPTS, USER, str(secret), str(os.getpid()), str(own))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "read PermissionError",
        "signal PermissionError",
        "fork BlockingIOError",
        "chown PermissionError",
        "mount PermissionError",
        "become root PermissionError",
        "packet done",
    ]


def test_a_set_user_id_program_brings_nothing_back(place: Path) -> None:
    """no_new_privs and an empty bounding set: tried by exec, the only thing that is left to try."""
    program = (
        "import os, pwd, sys; from yaim_helper.privileges import give_up\n"
        "give_up(pwd.getpwnam(sys.argv[1]))\n"
        "os.execv('/bin/su', ['su', '-c', 'id -u'])"
    )
    command = (sys.executable, "-c", program, USER)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode != 0
    assert done.stdout == ""


# --- as systemd starts it ----------------------------------------------------------------------

AMBIENT = "+net_admin,+net_raw"


@contextmanager
def by_systemd(network: Namespace, place: Path, capabilities: str = AMBIENT) -> Iterator[Helper]:
    """As a user, with ambient capabilities, a listening socket handed in, and a directory that is
    its own."""
    (place / "audit").mkdir(mode=0o700)
    os.chown(place / "audit", UID, 0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(place / "helper.sock"))
        listener.listen()
        become = (
            *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
            *(f"--inh-caps=-all,{capabilities}", f"--ambient-caps=-all,{capabilities}"),
        )
        hand_in = f'exec 3<&{listener.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
        around = (*become, "bash", "-c", hand_in, "bash")
        with started(
            network, place, around=around, pass_fds=(listener.fileno(),), user="no-such-user"
        ) as helper:
            yield helper


def test_who_is_started_with_ambient_capabilities_needs_nothing_more(
    network: Namespace, place: Path
) -> None:
    with by_systemd(network, place) as helper:
        wait_for(lambda: read_records(place / "audit"), "it starts")
        with helper.greeted() as client:
            does_its_work(client, network)
            told = status(helper)
            assert told["Uid"].split() == [str(UID)] * 4
            assert capabilities(told)[:4] == [KEPT, KEPT, 0, 0]
            assert told["NoNewPrivs"] == "1"


def test_what_it_was_given_too_much_of_is_given_up(network: Namespace, place: Path) -> None:
    with by_systemd(network, place, AMBIENT + ",+sys_admin,+setpcap") as helper:
        wait_for(lambda: read_records(place / "audit"), "it starts")
        assert capabilities(status(helper)) == [KEPT, KEPT, 0, 0, KEPT]


@pytest.mark.parametrize(
    ("given", "missing"),
    [("+net_raw", "CAP_NET_ADMIN"), ("+net_admin", "CAP_NET_RAW")],
)
def test_a_capability_that_is_missing_is_named(
    network: Namespace, place: Path, given: str, missing: str
) -> None:
    with by_systemd(network, place, given) as helper:
        assert helper.process.wait(20) == 1
    assert helper.log.read_text() == (
        f"yaim-helper: {missing} missing: start it as root, or with AmbientCapabilities="
        "CAP_NET_ADMIN CAP_NET_RAW in the unit\n"
    )


# --- its files ---------------------------------------------------------------------------------


def test_a_record_from_when_it_ran_as_root_goes_on(network: Namespace, place: Path) -> None:
    with started(network, place, user="root") as helper:
        wait_until_ready(helper)
    with dropped(network, place) as helper:
        pass
    types = [each["type"] for each in read_records(place / "audit")]
    assert types.count("start") == 2


def test_what_others_may_have_put_there_is_not_handed_over(place: Path) -> None:
    """A link to a file of root's, say."""
    user = user_named(USER)
    target = place / "target"
    target.write_text("")
    for name, mode, owner in (("others", 0o777, 0), ("users", 0o700, UID)):
        directory = place / name
        directory.mkdir()
        os.link(target, directory / "audit-000001.jsonl")
        directory.chmod(mode)
        os.chown(directory, owner, 0)
        hand_over(directory, user)
    assert target.stat().st_uid == 0
    mine = place / "mine"
    mine.mkdir(mode=0o700)
    (mine / "renewed").symlink_to(target)
    (mine / "else").touch()
    hand_over(mine, user)
    assert (target.stat().st_uid, (mine / "else").stat().st_uid) == (0, 0)
    assert mine.stat().st_uid == UID


def test_uid_0_hands_nothing_over(place: Path) -> None:
    hand_over(place / "audit", user_named("root"))
    assert (place / "audit").stat().st_uid == 0


def test_a_record_that_its_user_cannot_write_is_named(network: Namespace, place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    config = policy(closed / "audit")
    with started(network, place, user=USER, config=config) as helper:
        assert helper.process.wait(20) == 1
    assert helper.log.read_text() == f"yaim-helper: {closed}/audit: Permission denied\n"


def test_a_policy_that_its_user_cannot_read_is_told_at_the_start(
    network: Namespace, place: Path
) -> None:
    with started(network, place, user=USER, config="{}") as helper:
        helper.process.wait(20)
    (place / "helper.yml").chmod(0o600)
    text = policy(place / "audit")
    (place / "helper.yml").write_text(text)
    with started(network, place, user=USER, config=text) as helper:
        wait_until_ready(helper)
        assert "SIGHUP could not read it" in helper.log.read_text()


def test_a_user_that_is_not_there_is_named(network: Namespace, place: Path) -> None:
    with started(network, place, user="no-such-user") as helper:
        assert helper.process.wait(20) == 1
    assert helper.log.read_text() == (
        "yaim-helper: there is no user 'no-such-user' to run as: create it (adduser --system"
        " --group no-such-user), name another with --user, or stay uid 0 with --user root\n"
    )


# --- what the kernel may say -------------------------------------------------------------------


def test_what_the_kernel_refuses_is_an_error() -> None:
    with pytest.raises(PrivilegeError, match=r"^prctl 999: Invalid argument \(EINVAL\)$"):
        privileges._prctl(999, 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"uids": frozenset({0, UID})}, "uids"),
        ({"permitted": KEPT | 1}, "capabilities"),
        ({"effective": 0}, "capabilities"),
        ({"inheritable": KEPT}, "capabilities"),
        ({"ambient": KEPT}, "capabilities"),
        ({"bounding": KEPT | 1}, "bounding"),
        ({"has_no_new": False}, "no_new_privs"),
    ],
)
def test_more_than_it_should_have_is_seen(change: dict[str, object], told: str) -> None:
    user = user_named(USER)
    right = {
        "uids": frozenset({UID}),
        "permitted": KEPT,
        "effective": KEPT,
        "inheritable": 0,
        "ambient": 0,
        "bounding": KEPT,
        "has_no_new": True,
    }
    good = privileges.Privileges(**right)  # type: ignore[arg-type]
    assert privileges._wrong(good, user, had_all=True) is None
    bad = privileges.Privileges(**{**right, **change})  # type: ignore[arg-type]
    assert str(privileges._wrong(bad, user, had_all=True)).startswith(told)


def test_it_dies_with_who_started_it_also_as_another_user(network: Namespace, place: Path) -> None:
    """The kernel forgets that when the user changes."""
    with dropped(network, place) as helper:
        began = boottime()
        holder = subprocess.run(
            ["sh", "-c", f"grep -c . /proc/{helper.pid}/status"], check=True, capture_output=True
        )
        assert int(holder.stdout) > 10
    program = (
        "import ctypes, os, pwd, sys; from yaim_helper.privileges import give_up\n"
        "libc = ctypes.CDLL(None); libc.prctl(1, 9)\n"
        "give_up(pwd.getpwnam(sys.argv[1]))\n"
        "number = ctypes.c_int(); libc.prctl(2, ctypes.byref(number)); print(number.value)"
    )
    command = (sys.executable, "-c", program, USER)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "9\n"
    assert boottime() > began
