"""`yaim supervise` as root where others have had their hands: nothing is deleted, opened or written
that somebody else has put in its way. What it starts: tests/system/test_supervisor.py."""

import fcntl
import os
import pwd
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from yaim.supervisor.daemon import MOST_FILES, daemonize
from yaim.supervisor.error import SuperviseError
from yaim.supervisor.files import PidFile
from yaim.supervisor.listener import listen

EX_CANNOT_START = 1
EX_CONFIG = 78
TIMEOUT_S = 60
NOBODY = pwd.getpwnam("nobody")
USERS = ("--user=nobody", "--helper-user=daemon")
KEYS = "dcs-clustername: yaim\ninterface: lo\nchecker-type: shell\nshell-command: touch done\n"
THEIRS = f"belongs to uid {NOBODY.pw_uid}, expected root (chown root)"
SECRET = "root's"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of root's that has nothing to do with yaim."""
    made = tmp_path / "victim"
    made.write_text(SECRET)
    made.chmod(0o600)
    return made


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Another user's directory."""
    made = tmp_path / "theirs"
    made.mkdir(mode=0o755)
    os.chown(made, NOBODY.pw_uid, NOBODY.pw_gid)
    return made


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """Root's, with a configuration of root's."""
    made = tmp_path / "ours"
    made.mkdir(mode=0o755)
    (made / "yaim.yml").write_text(KEYS)
    return made


def yaim(
    directory: Path, *arguments: str, through: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*through, sys.executable, "-P", "-m", "yaim", *arguments),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def refusal(directory: Path, *arguments: str, through: Sequence[str] = ()) -> str:
    """What `yaim supervise` says that does not start."""
    done = yaim(directory, "supervise", *USERS, *arguments, through=through)
    assert (done.returncode, done.stdout) == (EX_CANNOT_START, "")
    assert "Traceback" not in done.stderr
    return done.stderr.removeprefix("yaim: ").removesuffix("\n")


def is_untouched(file: Path) -> bool:
    status = file.lstat()
    found = (file.read_text(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    return found == (SECRET, 0o600, 0, 0)


# --- the configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["supervise", "run", "check", "status", "config show", "config check"],
)
def test_root_reads_no_configuration_that_others_can_change(
    theirs: Path, victim: Path, command: str
) -> None:
    """The one in the current directory is the default. Its helper-socket was deleted, whatever it
    was; its checks would be made, its etcd be sent what is in root's files."""
    file = theirs / "yaim.yml"
    file.write_text(f"{KEYS}helper-socket: {victim}\n")
    done = yaim(theirs, *command.split(), *(USERS if command == "supervise" else ()))
    assert (done.returncode, done.stdout, done.stderr) == (
        EX_CONFIG,
        "",
        f"yaim: {file}: the file: expected one that nobody but root can change, as root reads it"
        f" ({theirs}: {THEIRS}), or another one with --config\n",
    )
    assert is_untouched(victim)
    assert list(theirs.iterdir()) == [file]


def test_a_draft_may_be_anybodys(theirs: Path) -> None:
    """Deployment tools have drafts looked at."""
    (theirs / "draft.yml").write_text(KEYS)
    for more, status in (((), EX_CONFIG), (("--draft",), 0)):
        done = yaim(theirs, "config", "check", "--config=draft.yml", *more)
        assert done.returncode == status


def test_doctor_finds_that_others_can_change_the_configuration(theirs: Path) -> None:
    (theirs / "yaim.yml").write_text(KEYS)
    done = yaim(theirs, "doctor")
    assert f"({theirs}: {THEIRS})" in done.stdout
    assert list(theirs.iterdir()) == [theirs / "yaim.yml"]


def test_a_file_in_the_current_directory_is_read_if_it_is_roots(ours: Path) -> None:
    assert yaim(ours, "config", "check").returncode == 0
    os.chown(ours / "yaim.yml", NOBODY.pw_uid, -1)
    assert f"({ours / 'yaim.yml'}: {THEIRS})" in yaim(ours, "config", "check").stderr


def test_another_user_reads_his_own(theirs: Path) -> None:
    (theirs / "yaim.yml").write_text(KEYS)
    # He may read the program, wherever that is.
    caps = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    as_nobody = ("setpriv", f"--reuid={NOBODY.pw_uid}", "--clear-groups", *caps, "--")
    done = yaim(theirs, "config", "check", through=as_nobody)
    assert done.returncode == 0


# --- the helper's socket -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_what_is_no_socket_is_not_deleted(ours: Path, victim: Path, kind: str) -> None:
    path = ours / "helper.sock"
    match kind:
        case "file":
            victim.rename(path)
            victim = path
        case "link":
            path.symlink_to(victim)
        case _:
            path.mkdir()
    told = f"{path}: is there already, and is no socket: move it away, or name another place"
    assert refusal(ours, f"--helper-socket={path}").startswith(told)
    assert is_untouched(victim)
    assert path.is_symlink() is (kind == "link")


@pytest.mark.parametrize("name", ["helper.sock", "new/helper.sock"])
def test_no_socket_is_made_where_others_can_put_a_link(theirs: Path, name: str) -> None:
    """One that was put there before chmod opened a file of root's."""
    path = theirs / name
    (theirs.parent / "yaim.yml").write_text(KEYS)
    told = f"{path}: {theirs}: {THEIRS}; or name another with --helper-socket"
    assert refusal(theirs.parent, f"--helper-socket={path}") == told
    assert list(theirs.iterdir()) == []


LISTEN = """
import os, pwd, stat, sys
from pathlib import Path
from yaim.supervisor.listener import listen
def look(event, arguments):
    if event in ("os.chown", "os.chmod"):
        print(event, oct(stat.S_IMODE(os.lstat(sys.argv[1]).st_mode)))
sys.addaudithook(look)
os.umask(0)
listen(Path(sys.argv[1]), pwd.getpwnam("nobody"))
"""


def test_the_socket_is_not_open_to_all_for_a_moment(ours: Path) -> None:
    """Whatever the umask; nor is the directory that is made for it."""
    path = ours / "new" / "helper.sock"
    listen = (sys.executable, "-P", "-c", LISTEN, str(path))
    done = subprocess.run(listen, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert done.stdout == "os.chown 0o660\n"
    status = path.stat()
    assert (status.st_uid, status.st_gid) == (0, NOBODY.pw_gid)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o660, 0o755]


def test_nobody_else_can_take_the_lock_and_it_is_not_waited_for_in_silence(ours: Path) -> None:
    """Whoever can read a directory, or a file, can lock it."""
    path, lock = ours / "helper.sock", ours / "helper.sock.lock"
    directory = os.open(ours, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        listen(path, NOBODY).close()
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    finally:
        os.close(directory)
    with lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        told = f"{lock}: another process holds a lock on it: end that (fuser {lock} names it)"
        assert refusal(ours, f"--helper-socket={path}") == told


# --- the files of a daemon -----------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as made:
        yield made


def daemon_refusal(pid_file: Path, log_file: Path, listener: socket.socket) -> str:
    with pytest.raises(SuperviseError) as error:
        daemonize(pid_file, log_file, listener)
    return str(error.value)


@pytest.mark.parametrize("flag", ["--pid-file", "--log-file"])
@pytest.mark.parametrize(
    "kind", ["link", "dangling link", "hard link", "fifo", "theirs", "open", "directory"]
)
def test_nothing_of_others_becomes_a_daemons_file(
    ours: Path, victim: Path, listener: socket.socket, flag: str, kind: str
) -> None:
    path = ours / "yaim.file"
    why = "is a link, which is not followed; name another with"
    match kind:
        case "link":
            path.symlink_to(victim)
        case "dangling link":
            path.symlink_to(ours / "new")
        case "hard link":
            path.hardlink_to(victim)
            other = "has other names, too, perhaps that of another's file (hard links)"
            why = f"{other}; or name another with"
        case "fifo":
            os.mkfifo(path)
            why = "is not a regular file; or name another with"
            if flag == "--log-file":
                why = "No such device or address; name another with"  # it has no reader
        case "theirs":
            path.touch()
            os.chown(path, NOBODY.pw_uid, -1)
            why = f"{THEIRS}; or name another with"
        case "open":
            path.touch()
            path.chmod(0o666)
            mode = "can be written by others than root (mode 0666); use chmod go-w"
            why = f"{mode}; or name another with"
        case _:
            path.mkdir()
            why = "Is a directory; name another with"
    files = (path, ours / "log") if flag == "--pid-file" else (ours / "pid", path)
    assert daemon_refusal(*files, listener) == f"{path}: {why} {flag}"
    assert is_untouched(victim)
    assert not (ours / "new").exists()


@pytest.mark.parametrize("flag", ["--pid-file", "--log-file"])
def test_no_file_of_a_daemon_is_where_others_can_put_a_link(
    ours: Path, theirs: Path, listener: socket.socket, flag: str
) -> None:
    path = theirs / "yaim.file"
    files = (path, ours / "log") if flag == "--pid-file" else (ours / "pid", path)
    told = f"{path}: {theirs}: {THEIRS}; or name another with {flag}"
    assert daemon_refusal(*files, listener) == told
    assert list(theirs.iterdir()) == []


def test_a_log_may_be_where_a_group_can_write_and_a_pid_file_may_not(
    ours: Path, listener: socket.socket
) -> None:
    """/var/log in Ubuntu is like that."""
    shared = ours / "log"
    shared.mkdir()
    shared.chmod(0o775)
    daemonize(ours / "pid", shared / "yaim.log", listener)
    assert (shared / "yaim.log").exists()
    told = daemon_refusal(shared / "pid", shared / "yaim.log", listener)
    assert told.startswith(f"{shared / 'pid'}: {shared}: can be written by others than root")


def test_what_is_no_pid_file_is_not_truncated(ours: Path, victim: Path, listener: object) -> None:
    with pytest.raises(SuperviseError, match="is no PID file, and stays"):
        PidFile(victim)
    assert is_untouched(victim)


def test_a_pid_file_cannot_be_locked_by_others(ours: Path) -> None:
    """Whoever can read it could, and no daemon would start."""
    path = ours / "pid"
    path.write_text("1\n")
    with PidFile(path):
        assert path.read_text() == f"{os.getpid()}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_a_pid_file_that_has_become_anothers_stays(ours: Path) -> None:
    path = ours / "pid"
    with PidFile(path):
        path.rename(ours / "old")
        path.write_text("2\n")
    assert path.read_text() == "2\n"


# --- what it was started with --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("--nofile=60", "the limit of open files is 60 here: raise it (ulimit -n 1024)"),
        ("--fsize=4096", "the limit of the size of files is 4096 here: raise it (ulimit -f unl"),
        ("--cpu=50", "the limit of seconds of processor time is 50 here: raise it (ulimit -t"),
    ],
)
def test_limits_that_it_could_not_work_with_are_told(ours: Path, limit: str, told: str) -> None:
    """They are those of the terminal that it was started from; sudo keeps them."""
    path = ours / "helper.sock"
    through = ("prlimit", limit, "--")
    assert refusal(ours, f"--helper-socket={path}", through=through).startswith(told)
    assert not path.exists()


CONSIDERED = """
import resource, socket, sys
from pathlib import Path
from yaim.supervisor.daemon import daemonize
daemonize(Path(sys.argv[1]), Path(sys.argv[2]), socket.socket())
print(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
"""


def test_a_high_limit_of_open_files_costs_no_memory(ours: Path) -> None:
    """In many containers it is a thousand million; python-daemon 2 makes a set of all these."""
    command = (sys.executable, "-P", "-c", CONSIDERED, str(ours / "pid"), str(ours / "log"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert 0 < int(done.stdout) <= MOST_FILES
