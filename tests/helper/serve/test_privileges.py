"""What the helper may do, as the kernel tells it and as it turns out when it is tried."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import randrange
from typing import Any

import pytest
from yaim_helper.record.chain import segment_name
from yaim_helper.serve.privileges import (
    PrivilegesError,
    User,
    die_with,
    record_directory,
    user_to_be,
    verify,
)

from tests.helper.network import INTERFACE, capturing, present, state, wait_for
from tests.helper.process import (
    ANSWER_WITHIN_S,
    OK_ABSENT,
    Helper,
    deadline_in,
    policy,
    running,
    started,
    wait_until_ready,
)
from yaim.lab.namespaces import DIES_WITH_US, Namespace

pytestmark = pytest.mark.every_set

ADDRESS = "192.0.2.10"
USER = "nobody"
UID = pwd.getpwnam(USER).pw_uid
GID = pwd.getpwnam(USER).pw_gid
ROOT = User("root", 0, 0)
NOBODY_ELSE = User("who has no other process", *[randrange(10**6, 10**9)] * 2)
"""Nor one in tests that run beside these: the kernel counts them all."""
KEPT = f"{1 << 12 | 1 << 13:016x}"
"""CAP_NET_ADMIN and CAP_NET_RAW (capabilities(7))."""
NONE = f"{0:016x}"
DROPPED = {
    "Uid": " ".join([str(UID)] * 4),
    "Gid": " ".join([str(GID)] * 4),
    "Groups": "",
    "CapInh": NONE,
    "CapPrm": KEPT,
    "CapEff": KEPT,
    "CapBnd": NONE,
    "CapAmb": NONE,
    "NoNewPrivs": "1",
}
AS_SYSTEMD = (
    "setpriv",
    f"--reuid={UID}",
    f"--regid={GID}",
    "--clear-groups",
    "--inh-caps=+net_admin,+net_raw",
    "--ambient-caps=+net_admin,+net_raw",
)
CAT = str(shutil.which("cat"))
EX_CANNOT_START = 1
EX_CONFIG = 78


@pytest.fixture
def directory() -> Iterator[Path]:
    """That every user gets to, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="yaim-") as name:
        made = Path(name)
        made.chmod(0o755)
        yield made


def status(pid: int) -> dict[str, str]:
    """The same of all its threads, when it is at work: else they would not have the same power."""
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir())
    one, *others = [(each / "status").read_text().splitlines() for each in tasks]
    whole = of(one)
    assert [of(each) for each in others] == [whole] * len(others)
    return whole


def of(lines: list[str]) -> dict[str, str]:
    whole = {name: " ".join(value.split()) for name, value in (x.split(":", 1) for x in lines)}
    return {name: whole[name] for name in DROPPED}


def limit(pid: int, name: str) -> list[str]:
    """Soft and hard."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith(name)).removeprefix(name).split()[:2]


@contextmanager
def at_work(namespace: Namespace, directory: Path, **options: Any) -> Iterator[Helper]:
    """A helper that serves: it listens before it drops its privileges, and answers after that."""
    with running(namespace, directory, **options) as helper:
        helper.greeted().__exit__()
        yield helper


def works(network: Namespace, helper: Helper) -> None:
    """It adds, announces, lists and removes."""
    with capturing(network) as capture, helper.greeted() as client:
        assert client.add(ADDRESS) == OK_ABSENT
        assert present(network) == [f"{INTERFACE} {ADDRESS}/32"]
        wait_for(lambda: ADDRESS in [str(each) for each, _ in capture.announced()], "it announces")
        assert client.remove(ADDRESS)["result"] == "ok"
    assert present(network) == []


def refusal(namespace: Namespace, directory: Path, **options: Any) -> tuple[int, str]:
    """Exit status and words of a helper that does not start."""
    with started(namespace, directory, **options) as helper:
        code = helper.process.wait(ANSWER_WITHIN_S)
        return code, helper.log.read_text()


@contextmanager
def listener_at(path: Path) -> Iterator[int]:
    """What systemd hands in."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as made:
        made.bind(str(path))
        made.listen(16)
        os.set_inheritable(made.fileno(), True)
        yield made.fileno()


def handed_in(fd: int) -> tuple[str, ...]:
    return ("bash", "-c", f'export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@" 3<&{fd}', "bash")


def record_of(directory: Path, owner: int) -> Path:
    """Made as a unit does it (LogsDirectory=)."""
    record = directory / "audit"
    record.mkdir(mode=0o700, exist_ok=True)
    os.chown(record, owner, -1)
    return record


# --- started as root -----------------------------------------------------------------------------


def test_started_as_root_it_is_a_user_of_its_own_with_two_capabilities(
    network: Namespace, directory: Path
) -> None:
    around = ("setpriv", "--groups=0,4", "--")
    with at_work(network, directory, user=USER, around=around) as helper:
        assert status(helper.pid) == DROPPED
        works(network, helper)
        assert status(helper.pid) == DROPPED


def test_it_dumps_no_core_and_nobody_reads_its_memory(network: Namespace, directory: Path) -> None:
    with at_work(network, directory, user=USER) as helper:
        assert limit(helper.pid, "Max core file size") == ["0", "0"]
        # It is root's where the process is not dumpable (proc(5)).
        assert Path(f"/proc/{helper.pid}/mem").stat().st_uid == 0
        os.kill(helper.pid, signal.SIGABRT)
        helper.process.wait(ANSWER_WITHIN_S)
    assert helper.process.returncode == -signal.SIGABRT


def test_it_is_one_process_for_all_its_life(network: Namespace, directory: Path) -> None:
    with at_work(network, directory, user=USER) as helper:
        assert limit(helper.pid, "Max processes") == ["0", "0"]
        works(network, helper)
        # One thread writes the record, one closes connections, one ends others' connections.
        tasks = list(Path(f"/proc/{helper.pid}/task").iterdir())
        assert [(task / "children").read_text() for task in tasks] == [""] * 4


def test_its_record_becomes_the_users_with_all_that_is_in_it(
    network: Namespace, directory: Path
) -> None:
    with at_work(network, directory) as helper, helper.greeted() as client:
        client.add(ADDRESS, deadline_ns=deadline_in(1))
    files = list(helper.audit_log.iterdir())
    assert {each.stat().st_uid for each in (helper.audit_log, *files)} == {0}
    wait_for(lambda: not present(network), "the address is gone")
    with at_work(network, directory, user=USER) as helper:
        works(network, helper)
    found = {each.name: each.stat() for each in (helper.audit_log, *helper.audit_log.iterdir())}
    assert {each.name for each in files} < found.keys()
    assert {(each.st_uid, each.st_gid) for each in found.values()} == {(UID, GID)}
    sequence = [record["seq"] for record in helper.records()]
    assert sequence == list(range(1, len(sequence) + 1))


def test_it_reads_its_policy_anew_as_the_user_that_it_is(
    network: Namespace, directory: Path
) -> None:
    config = directory / "helper.yml"
    with at_work(network, directory, user=USER) as helper:
        config.chmod(0o600)
        os.kill(helper.pid, signal.SIGHUP)
        wait_for(lambda: "the policy stays as it was" in helper.log.read_text(), "it says so")
        assert f"{config}: uid {UID} may not read it (chmod a+r" in helper.log.read_text()
        config.chmod(0o644)
        os.kill(helper.pid, signal.SIGHUP)
        wait_for(lambda: "read again" in helper.log.read_text(), "it reads it")


def test_as_root_by_choice_it_has_the_two_capabilities_and_no_more(
    network: Namespace, directory: Path
) -> None:
    root = {**DROPPED, "Uid": "0 0 0 0", "Gid": "0 0 0 0"}
    with at_work(network, directory, user="root") as helper:
        assert status(helper.pid) == root
        works(network, helper)


def test_it_ends_with_its_parent_also_after_the_change_of_user(
    network: Namespace, directory: Path
) -> None:
    (directory / "helper.yml").write_text(policy(directory / "audit"))
    files = (f"--config={directory / 'helper.yml'}", f"--socket={directory / 'helper.sock'}")
    command = (sys.executable, "-I", "-m", "yaim_helper", *files, f"--user={USER}")
    inside = (*DIES_WITH_US, "nsenter", f"--net={network.path}", "--")
    script = '"$@" & echo $!; wait'
    parent = subprocess.Popen(
        (*inside, "sh", "-c", script, "sh", *DIES_WITH_US, *command),
        pass_fds=(network.fd,),
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_for((directory / "helper.sock").exists, "it has its socket")
        wait_for(lambda: status(pid) == DROPPED, "it has dropped its privileges")
        wait_for(lambda: state(pid) == "S", "it waits")
        parent.kill()
        wait_for(lambda: state(pid) == "Z", "it ends")


# --- started by systemd ---------------------------------------------------------------------------


def test_started_as_systemd_does_it_needs_nothing_more(network: Namespace, directory: Path) -> None:
    record_of(directory, UID)
    with listener_at(directory / "helper.sock") as fd:
        around = (*handed_in(fd), *AS_SYSTEMD, "--bounding-set=-all,+net_admin,+net_raw")
        with at_work(network, directory, around=around, pass_fds=(fd,)) as helper:
            assert status(helper.pid) == {**DROPPED, "CapBnd": KEPT}
            assert limit(helper.pid, "Max processes") == ["0", "0"]
            works(network, helper)
    assert {each.stat().st_uid for each in helper.audit_log.iterdir()} == {UID}


def test_as_a_user_it_makes_its_socket_where_that_user_may(
    network: Namespace, directory: Path
) -> None:
    """It makes the directory for it, too. It is asked of root only that what is there is root's."""
    record = record_of(directory, UID)
    theirs = directory / "theirs"
    theirs.mkdir()
    os.chown(theirs, UID, -1)
    config, path = directory / "helper.yml", theirs / "new" / "helper.sock"
    config.write_text(f"users: [{USER}]\nrules: []\naudit-log: {record}\n")
    files = (f"--config={config}", f"--socket={path}")
    with (directory / "log").open("wb") as log:
        command = (*AS_SYSTEMD, "--", sys.executable, "-I", "-m", "yaim_helper", *files)
        process = network.start(command, log)
        try:
            wait_until_ready(Helper(process, path, record, directory / "log"))
            assert path.stat().st_uid == UID
            assert path.stat().st_mode & 0o777 == 0o660
        finally:
            process.terminate()
            process.wait(ANSWER_WITHIN_S)


IN_A_SANDBOX = """
import ctypes, os, struct, sys
calls = {
    "x86_64": (0xC000003E, [105, 106, 113, 114, 116, 117, 119, 126]),
    "aarch64": (0xC00000B7, [143, 144, 145, 146, 147, 149, 159, 91]),
}
machine, denied = calls[os.uname().machine]
load, jump, give = 0x20, 0x15, 0x06
allow, refuse = 0x7FFF0000, 0x00050000 | 1
lines = [(load, 0, 0, 4), (jump, 1, 0, machine), (give, 0, 0, refuse), (load, 0, 0, 0)]
lines += [(jump, len(denied) - n, 0, call) for n, call in enumerate(denied)]
lines += [(give, 0, 0, allow), (give, 0, 0, refuse)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
filter = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(program))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, filter, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execv(sys.argv[1], sys.argv[1:])
"""
"""setuid(2), setgid(2), all of their kind and capset(2) fail with EPERM, as with systemd's
SystemCallFilter=~@setuid @privileged (seccomp(2))."""


def test_it_starts_where_nothing_of_a_processs_identity_can_be_changed(
    network: Namespace, directory: Path
) -> None:
    record_of(directory, UID)
    with listener_at(directory / "helper.sock") as fd:
        sandbox = (sys.executable, "-I", "-c", IN_A_SANDBOX)
        around = (*handed_in(fd), *AS_SYSTEMD, "--bounding-set=-all,+net_admin,+net_raw", *sandbox)
        with at_work(network, directory, around=around, pass_fds=(fd,)) as helper:
            assert status(helper.pid) == {**DROPPED, "CapInh": KEPT, "CapBnd": KEPT}
            works(network, helper)


def test_capabilities_that_it_does_not_need_are_shed(network: Namespace, directory: Path) -> None:
    record_of(directory, UID)
    more = ("--inh-caps=+kill,+setpcap", "--ambient-caps=+kill,+setpcap")
    with listener_at(directory / "helper.sock") as fd:
        around = (*handed_in(fd), *AS_SYSTEMD[:4], *_joined(AS_SYSTEMD[4:], more))
        with at_work(network, directory, around=around, pass_fds=(fd,)) as helper:
            assert status(helper.pid) == DROPPED
            works(network, helper)


def _joined(ours: Sequence[str], more: Sequence[str]) -> list[str]:
    return [f"{one},{other.partition('=')[2]}" for one, other in zip(ours, more, strict=True)]


@pytest.mark.parametrize(
    ("capabilities", "missing"),
    [
        (("net_admin",), "CAP_NET_RAW is"),
        (("net_raw",), "CAP_NET_ADMIN is"),
        ((), "CAP_NET_ADMIN and CAP_NET_RAW is"),
    ],
)
def test_a_user_without_the_capabilities_is_told_which_and_what_to_do(
    network: Namespace, directory: Path, capabilities: Sequence[str], missing: str
) -> None:
    record_of(directory, UID)
    had = ",".join(f"+{name}" for name in capabilities) or "-all"
    ambient = (f"--inh-caps={had}", f"--ambient-caps={had}")
    with listener_at(directory / "helper.sock") as fd:
        around = (*handed_in(fd), *AS_SYSTEMD[:4], *ambient)
        told = refusal(network, directory, around=around, pass_fds=(fd,))
    assert told == (
        EX_CANNOT_START,
        f"yaim-helper: {missing} missing: put AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW into"
        " the unit, and the same into its CapabilityBoundingSet= if it has one; or start it as"
        " root\n",
    )


# --- it does not start ----------------------------------------------------------------------------


def test_a_user_that_does_not_exist_is_named(network: Namespace, directory: Path) -> None:
    assert refusal(network, directory, user="no-such-user") == (
        EX_CANNOT_START,
        "yaim-helper: there is no user 'no-such-user' to work as: create it"
        " (adduser --system --group no-such-user) or name another with --user\n",
    )
    assert not (directory / "helper.sock").exists()


def test_root_without_the_capabilities_is_told_where_to_add_them(
    network: Namespace, directory: Path
) -> None:
    around = ("setpriv", "--bounding-set=-net_raw")
    assert refusal(network, directory, user=USER, around=around) == (
        EX_CANNOT_START,
        "yaim-helper: root has no CAP_NET_RAW here: add it to CapabilityBoundingSet= of the unit,"
        " or to what the container has (--cap-add)\n",
    )


@pytest.mark.parametrize("lacks", ["setuid", "setgid"])
def test_root_that_cannot_change_its_user_does_not_go_on_as_root(
    network: Namespace, directory: Path, lacks: str
) -> None:
    around = ("setpriv", "--groups=0,4", f"--bounding-set=-{lacks}")
    assert refusal(network, directory, user=USER, around=around) == (
        EX_CANNOT_START,
        f"yaim-helper: cannot become {USER} with CAP_NET_ADMIN and CAP_NET_RAW alone: [Errno 1]"
        " Operation not permitted (CAP_SETUID and CAP_SETGID are needed for that, or --user"
        " root)\n",
    )


def test_root_with_nothing_but_the_two_capabilities_can_work_as_root(
    network: Namespace, directory: Path
) -> None:
    """A container that is given no others. Its groups stay, where it may not drop them."""
    around = ("setpriv", "--groups=0,4", "--bounding-set=-all,+net_admin,+net_raw")
    root = {**DROPPED, "Uid": "0 0 0 0", "Gid": "0 0 0 0", "Groups": "0 4", "CapBnd": KEPT}
    with at_work(network, directory, around=around) as helper:
        assert status(helper.pid) == root
        works(network, helper)


def test_root_that_stays_root_drops_its_groups(network: Namespace, directory: Path) -> None:
    around = ("setpriv", "--groups=0,4", "--")
    with at_work(network, directory, around=around) as helper:
        assert status(helper.pid)["Groups"] == ""


@pytest.mark.parametrize(
    ("closed", "mode", "what"),
    [("helper.yml", 0o600, "read it (chmod a+r"), ("", 0o700, "enter {} (chmod a+x")],
)
def test_a_policy_that_the_user_cannot_read_anew_is_named(
    network: Namespace, directory: Path, closed: str, mode: int, what: str
) -> None:
    (directory / "helper.yml").touch()
    (directory / closed).chmod(mode)
    code, told = refusal(network, directory, user=USER)
    assert code == EX_CONFIG
    assert told == (
        f"yaim-helper: {directory}/helper.yml: uid {UID} may not {what.format(directory)};"
        " there are no secrets in the file)\n"
    )


def test_a_record_of_somebody_else_is_left_alone(network: Namespace, directory: Path) -> None:
    record = record_of(directory, UID - 1)
    assert refusal(network, directory, user=USER) == (
        EX_CANNOT_START,
        f"yaim-helper: {record}: Permission denied: {USER} has to write it (chown -R {UID}:{GID}"
        f" {record}) and to get there (the directories above must be searchable)\n",
    )
    assert record.stat().st_uid == UID - 1


def test_a_user_who_does_not_get_to_the_record_is_told(network: Namespace, directory: Path) -> None:
    record = record_of(directory, 0)
    with listener_at(directory / "helper.sock") as fd:
        around = (*handed_in(fd), *AS_SYSTEMD)
        assert refusal(network, directory, around=around, pass_fds=(fd,)) == (
            EX_CANNOT_START,
            f"yaim-helper: {record}: Permission denied: uid {UID} has to write it (chown -R"
            f" {UID}:{GID} {record}) and to get there (the directories above must be searchable)\n",
        )


def test_a_second_helper_is_refused_before_it_takes_the_socket(
    network: Namespace, directory: Path
) -> None:
    with at_work(network, directory, user=USER) as helper:
        assert refusal(network, directory, user=USER) == (
            EX_CANNOT_START,
            f"yaim-helper: {helper.audit_log}: another yaim-helper is writing it\n",
        )
        works(network, helper)


# --- the record's directory -----------------------------------------------------------------------


def nobody() -> User:
    return user_to_be(USER)


@pytest.mark.parametrize("kind", ["file", "link", "hard link", "directory"])
def test_a_directory_with_other_things_in_it_is_not_given_away(directory: Path, kind: str) -> None:
    """/var/log, say; or what somebody wants to be given."""
    record = record_of(directory, 0)
    other = directory / "other"
    other.touch()
    name = segment_name(1)
    match kind:
        case "file":
            name = "syslog"
            (record / name).touch()
        case "link":
            (record / name).symlink_to(other)
        case "hard link":
            (record / name).hardlink_to(other)
        case _:
            (record / name).mkdir()
    with pytest.raises(PrivilegesError) as error, record_directory(record, nobody()):
        pass
    assert str(error.value) == (
        f"{record}: {name} does not belong to a record: audit-log must be a directory of its own,"
        f" to be given to {USER}"
    )
    assert {each.lstat().st_uid for each in (record, record / name, other)} == {0}


def test_a_directory_that_others_can_write_is_not_given_away(directory: Path) -> None:
    record = record_of(directory, 0)
    record.chmod(0o770)
    with pytest.raises(PrivilegesError) as error, record_directory(record, nobody()):
        pass
    assert str(error.value) == f"{record}: can be written by others than root (chmod go-w)"


def test_a_directory_that_others_can_exchange_is_not_given_away(directory: Path) -> None:
    """They can exchange it by a link, for one that is root's and empty."""
    theirs = directory / "theirs"
    theirs.mkdir()
    os.chown(theirs, UID, -1)
    roots = record_of(directory, 0)
    (theirs / "audit").symlink_to(roots)
    with (
        pytest.raises(PrivilegesError) as error,
        record_directory(theirs / "audit", nobody()),
    ):
        pass
    assert str(error.value) == (
        f"{theirs / 'audit'}: is not given to {USER} as others can exchange it:"
        f" {theirs}: belongs to uid {UID}, expected root (chown root)"
    )
    assert roots.stat().st_uid == 0


def test_a_record_may_be_made_where_a_group_can_write(directory: Path) -> None:
    """It is so with /var/log in Ubuntu; but what is there is not given away: it may be any of
    root's."""
    shared = directory / "log"
    shared.mkdir()
    shared.chmod(0o775)
    for _ in range(2):
        with record_directory(shared / "audit", nobody()):
            pass
        assert (shared / "audit").stat().st_uid == UID
    roots = shared / "other"
    roots.mkdir()
    (shared / "link").symlink_to(directory)
    for each in (roots, shared / "link" / "log" / "other"):
        fault = pytest.raises(PrivilegesError, match="others can exchange it")
        with fault, record_directory(each, nobody()):
            pass
    assert roots.stat().st_uid == 0


def test_what_is_in_a_directory_of_the_user_is_not_given_to_him(directory: Path) -> None:
    """He could have put there what is not his."""
    record = record_of(directory, UID)
    (record / segment_name(1)).touch()
    with record_directory(record, nobody()):
        pass
    assert (record / segment_name(1)).stat().st_uid == 0


def test_a_segment_that_the_user_cannot_write_is_named(network: Namespace, directory: Path) -> None:
    record = record_of(directory, UID)
    segment = record / segment_name(1)
    segment.touch(mode=0o600)
    code, told = refusal(network, directory, user=USER)
    assert code == EX_CANNOT_START
    assert told.startswith(f"yaim-helper: {segment}: Permission denied: {USER} has to write it (")


def test_a_record_directory_that_cannot_be_made_is_an_error(directory: Path) -> None:
    record = directory / "not-there" / "audit"
    with pytest.raises(PrivilegesError) as error, record_directory(record, nobody()):
        pass
    assert str(error.value) == f"{record}: No such file or directory"


def test_a_record_directory_that_is_a_file_is_an_error(directory: Path) -> None:
    record = directory / "audit"
    record.write_text("mine")
    with pytest.raises(PrivilegesError) as error, record_directory(record, nobody()):
        pass
    expected = f"{record}: is a file; audit-log names a directory: move it away"
    assert (str(error.value), record.read_text()) == (expected, "mine")


def test_root_that_may_not_give_away_files_says_so(network: Namespace, directory: Path) -> None:
    around = ("setpriv", "--bounding-set=-chown")
    record = directory / "audit"
    assert refusal(network, directory, user=USER, around=around) == (
        EX_CANNOT_START,
        f"yaim-helper: {record}: cannot be given to {USER}: Operation not permitted\n",
    )


def test_where_it_may_have_no_second_thread_it_says_so(network: Namespace, directory: Path) -> None:
    assert refusal(network, directory, user=USER, around=("prlimit", "--nproc=0")) == (
        EX_CANNOT_START,
        "yaim-helper: can't start new thread: four are needed besides the first\n",
    )


# --- what it could do if it were taken over -------------------------------------------------------


TRIED = """
import os, resource, socket, sys
from yaim_helper.serve.privileges import User, drop_to, start_nothing_more
drop_to(User("user", int(sys.argv[1]), int(sys.argv[2])))
start_nothing_more()
try:
    eval(sys.argv[3])
    told = "done"
except OSError as error:
    told = type(error).__name__
os.write(1, told.encode())
os._exit(0)
"""


def tried(attempt: str, user: User | None = None) -> str:
    """What comes of it in a process with the helper's privileges: the error's name, or `done`; what
    it tells if it becomes another."""
    user = user or nobody()
    command = [sys.executable, "-c", TRIED, str(user.uid), str(user.gid), attempt]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_it_does_what_it_is_there_for() -> None:
    assert tried("socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)") == "done"


def test_it_cannot_read_what_is_roots_alone(directory: Path) -> None:
    (directory / "shadow").touch(mode=0o600)
    assert tried(f"open('{directory}/shadow')") == "PermissionError"


def test_it_cannot_signal_a_process_of_roots() -> None:
    assert tried("os.kill(os.getppid(), 0)") == "PermissionError"


def test_it_cannot_fork() -> None:
    assert tried("os.fork()") == "BlockingIOError"


@pytest.mark.parametrize("user", [NOBODY_ELSE, ROOT], ids=lambda user: user.name)
def test_another_program_in_its_place_would_have_no_capabilities(user: User) -> None:
    """Where there is another process of the user, the kernel would not even start it."""
    status = tried(f"os.execv('{CAT}', ['{CAT}', '/proc/self/status'])", user)
    assert set(re.findall(r"Cap\w+:\t(\w+)", status)) == {NONE}


def test_it_cannot_get_back_what_it_has_shed() -> None:
    assert tried("os.setuid(0)") == "PermissionError"
    assert tried("os.setgroups([0])") == "PermissionError"
    # setrlimit(2) fails with EPERM; Python tells that by a ValueError of its own.
    assert tried("resource.prlimit(0, resource.RLIMIT_NPROC, (9, 9))") == "PermissionError"


# --- the kernel is asked --------------------------------------------------------------------------


def test_what_the_kernel_has_not_done_is_named() -> None:
    """This process, which has dropped nothing."""
    with pytest.raises(PrivilegesError) as error:
        verify(nobody(), 0, has_groups=False)
    told = str(error.value)
    assert told.startswith("the kernel did not drop all privileges: ")
    assert f"Uid is '0 0 0 0', expected '{UID} {UID} {UID} {UID}'" in told
    assert f"expected '{KEPT}'" in told
    assert "NoNewPrivs is '0', expected '1'" in told


def test_a_parent_that_has_ended_meanwhile_ends_it_too() -> None:
    program = """
import os, signal
from yaim_helper.serve.privileges import PrivilegesError, die_with
try:
    die_with(-1, 0)
    die_with(os.getppid(), signal.SIGKILL)
    die_with(-1, signal.SIGKILL)
except PrivilegesError as error:
    os.write(1, str(error).encode())
os._exit(0)
"""
    done = subprocess.run((sys.executable, "-c", program), stdout=subprocess.PIPE, text=True)
    assert done.stdout == "the process that it is to end with has ended"


def test_what_the_kernel_refuses_is_an_error() -> None:
    no_signal = 999
    with pytest.raises(OSError, match="Invalid argument"):
        die_with(os.getppid(), no_signal)
