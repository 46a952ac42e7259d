"""`yaim supervise`: helper and coordinator where there is no systemd.

Runs as root and does no more than: hold the helper's listening socket (as systemd would), start
both processes, start them again when they end, pass signals on, and end them in the right order.
Should it be killed itself, the kernel kills both; started again, they carry on where they were.
"""

import ctypes
import errno
import fcntl
import logging
import math
import os
import pwd
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from yaim.host.ownership import fault_of, make_directory, what_others_can_change

logger = logging.getLogger(__name__)

RESTART_MIN_S = 0.25
RESTART_MAX_S = 10.0
"""A process that ends is started again at once, the next time after this long, doubling from the
one to the other."""
SETTLED_AFTER_S = 10.0
"""Having run this long, a process is started again at once again."""
ONE_AFTER_THE_OTHER_S = 3.0
"""By how much later the coordinator is started anew than the helper: a helper that comes back is
told at once what it had, if the coordinator is there."""
CHECK_WITHIN_S = 30.0
HELPER_NICE = -10
"""As in the unit: a helper that has begun to act and gets no processor for a tenth of a second ends
itself."""
STOP_COORDINATOR_S = 10.0
STOP_HELPER_S = 5.0
LOCKED_WITHIN_S = 5.0
"""As long a start waits for another one."""
MOST_FILES = 4096
"""Open at once, of a daemon. A unit of systemd's has 1024."""
EX_CONFIG = 78

_LEAST = (
    (resource.RLIMIT_NOFILE, 256, "open files", "ulimit -n 1024"),
    (resource.RLIMIT_FSIZE, 1 << 30, "the size of files", "ulimit -f unlimited"),
    (resource.RLIMIT_CPU, 1 << 40, "seconds of processor time", "ulimit -t unlimited"),
)
"""Of what it cannot do without."""
_MOST_OF_A_PID = 32
_FIRST_PASSED_FD = 3
_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


class SuperviseError(Exception):
    """It cannot start; the text says why and what to do."""


@dataclass(slots=True)
class Program:
    """One of the two processes."""

    name: str
    arguments: Sequence[str]
    check: Sequence[str]
    """Ends with 0 if it could use its configuration, and says why if not."""
    user: pwd.struct_passwd | None = None
    """None: starts as root."""
    checked_as: pwd.struct_passwd | None = None
    """Whom the check runs as."""
    environment: dict[str, str] = field(default_factory=dict)
    nice: int = 0
    """Other than 0: of all its processes (nice(2)), where that is permitted."""
    listener: socket.socket | None = None
    """Handed in as sd_listen_fds(3) describes."""
    held_back: frozenset[signal.Signals] = frozenset()
    """Signals that wait until it has set its handlers and lets them through."""
    leave_signal: signal.Signals = signal.SIGTERM
    """Ends it with its addresses left as they are, for the next one."""
    leave_at: float = math.inf
    kill_at: float = math.inf
    is_leaving: bool = False
    pid: int | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    wait_s: float = 0.0

    def start(self) -> None:
        self.started_at = time.monotonic()
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._become(supervisor)
            except BaseException as error:
                os.write(2, f"yaim: cannot start the {self.name}: {error}\n".encode())
            finally:
                os._exit(127)
        self.pid = pid

    def _become(self, supervisor: int) -> None:
        """In the new process."""
        # What is ignored would be so in there, too.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.held_back)
        os.setsid()
        environment = dict(self.environment)
        if self.listener is not None:
            os.dup2(self.listener.fileno(), _FIRST_PASSED_FD)
            os.set_inheritable(_FIRST_PASSED_FD, True)
            environment |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
        if self.nice:
            _go_before_others(self.nice)
        if self.user is not None:
            os.initgroups(self.user.pw_name, self.user.pw_gid)
            os.setgid(self.user.pw_gid)
            os.setuid(self.user.pw_uid)
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            # It was killed before this.
            return
        os.execve(self.arguments[0], list(self.arguments), environment)

    def has_ended(self, status: int) -> int:
        """Plan the restart; the exit status, negative for a signal."""
        now = time.monotonic()
        if self.is_leaving or now - self.started_at >= SETTLED_AFTER_S:
            self.wait_s = 0.0
        self.restart_at = now + self.wait_s
        self.wait_s = min(max(RESTART_MIN_S, 2 * self.wait_s), RESTART_MAX_S)
        self.is_leaving = False
        self.kill_at = math.inf
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def is_fit(self) -> bool:
        """Whether it could be started again with its code and its configuration as they are now."""
        whom: dict[str, Any] = {}
        if self.checked_as is not None:
            name, group = self.checked_as.pw_name, self.checked_as.pw_gid
            whom = {"user": name, "group": group, "extra_groups": os.getgrouplist(name, group)}
        try:
            done = subprocess.run(
                self.check,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                timeout=CHECK_WITHIN_S,
                **whom,
            )
        except (OSError, subprocess.SubprocessError) as error:
            logger.error("supervisor: %s", error)
            return False
        return done.returncode == 0

    def leave(self) -> None:
        """Have it end, and started again at once."""
        self.leave_at = math.inf
        self.is_leaving = self.pid is not None
        if self.is_leaving:
            self.kill_at = time.monotonic() + STOP_COORDINATOR_S
        self.send(self.leave_signal)

    def send(self, number: signal.Signals) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)


def _go_before_others(nice: int) -> None:
    """This process, which leads a session. Without effect where it is not permitted."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    # Where Linux shares processors out between sessions, nice counts only within one; what counts
    # between them is this (sched(7), "The autogroup feature").
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))


def user_named(name: str, role: str, flag: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise SuperviseError(
            f"there is no user {name!r} to run the {role} as: create it"
            f" (adduser --system --group {name}) or name another with {flag}"
        ) from None


def supervise(
    user: pwd.struct_passwd,
    helper_user: pwd.struct_passwd,
    helper_config: Path,
    listener: socket.socket,
    coordinator_arguments: Sequence[str],
) -> int:
    """Run both until SIGTERM or SIGINT; the exit status. `listener` is the helper's socket, and
    `helper_user` whom it becomes."""
    setproctitle("yaim: supervisor")
    # Where it is ignored, which is inherited, nobody is told of the end of a child.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    yaim = (sys.executable, "-P", "-m", "yaim")
    yaim_helper = (sys.executable, "-I", "-m", "yaim_helper")
    helper = Program(
        "helper",
        (*yaim_helper, "--config", str(helper_config), "--user", helper_user.pw_name),
        (*yaim_helper, "policy", "check", str(helper_config)),
        checked_as=helper_user,
        environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        nice=HELPER_NICE,
        listener=listener,
        held_back=frozenset({signal.SIGHUP}),
    )
    coordinator = Program(
        "coordinator",
        (*yaim, "run", *coordinator_arguments),
        (*yaim, "config", "check", *coordinator_arguments),
        user=user,
        checked_as=user,
        environment={name: value for name, value in os.environ.items() if _is_passed_on(name)},
        held_back=frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}),
        leave_signal=signal.SIGUSR1,
    )
    return _Supervisor(helper, coordinator).run()


def _is_passed_on(variable: str) -> bool:
    """Not how Python is to be: with PYTHONWARNINGS=error it would not start, for one. But where its
    modules are, if they are not where they are looked for."""
    return variable == "PYTHONPATH" or not variable.startswith("PYTHON")


class PidFile:
    """Locked from its construction on, so that a stale one does no harm; written when entered.
    Root's alone: whoever can read a file can lock it (flock(2))."""

    def __init__(self, path: Path) -> None:
        """Raises SuperviseError."""
        self._path = path
        self.file = os.fdopen(_opened(path, os.O_RDWR, 0o600, "--pid-file"), "r+", errors="replace")
        found = self.file.read(_MOST_OF_A_PID)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SuperviseError(f"{path}: process {found.strip()} is running already") from None
        if re.fullmatch(r"[0-9]*\n?", found) is None:
            raise SuperviseError(
                f"{path}: is no PID file, and stays: name another with --pid-file, or move it away"
            )
        os.fchmod(self.file.fileno(), 0o600)

    def __enter__(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.file.write(f"{os.getpid()}\n")
        self.file.flush()

    def __exit__(self, *_: object) -> None:
        """Another's stays."""
        with suppress(OSError):
            if os.path.samestat(self._path.lstat(), os.fstat(self.file.fileno())):
                self._path.unlink()


def _opened(path: Path, how: int, mode: int, flag: str) -> int:
    """A file of root's, made if it is not there; never through a link. Raises SuperviseError."""
    flags = how | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        # Who can write there can move a log away. It is no link, and it has no other name.
        is_log = bool(how & os.O_APPEND)
        if fault := what_others_can_change(path.parent, may_be_groups=is_log):
            raise SuperviseError(f"{path}: {fault}; or name another with {flag}")
        opened = os.open(path, flags, mode)
    except OSError as error:
        is_link = error.errno == errno.ELOOP and path.is_symlink()
        why = "is a link, which is not followed" if is_link else error.strerror
        raise SuperviseError(f"{path}: {why}; name another with {flag}") from None
    status = os.fstat(opened)
    # A device as /dev/null can be written by all, and be a log.
    is_device = stat.S_ISCHR(status.st_mode) and is_log
    fault = None if is_device else fault_of(path, status)
    if not is_device and not stat.S_ISREG(status.st_mode):
        fault = f"{path}: is not a regular file"
    elif not is_device and status.st_nlink != 1:
        fault = f"{path}: has other names, too, perhaps that of another's file (hard links)"
    if fault is not None:
        os.close(opened)
        raise SuperviseError(f"{fault}; or name another with {flag}")
    os.set_blocking(opened, True)
    return opened


def daemonize(pid_file: Path, log_file: Path, listener: socket.socket) -> Any:
    """A context in which this process is a daemon; to be entered. Raises SuperviseError."""
    lock = PidFile(pid_file)
    log = os.fdopen(_opened(log_file, os.O_WRONLY | os.O_APPEND, 0o644, "--log-file"), "a")
    # Before 3.0 it makes a set of all descriptors that there could be: of a thousand million, as
    # the limit is in many containers, it takes all memory (Red Hat's bug 2307635).
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not 0 <= hard <= MOST_FILES:
        soft = soft if 0 <= soft <= MOST_FILES else MOST_FILES
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, MOST_FILES))
    import daemon

    return daemon.DaemonContext(
        pidfile=lock,
        files_preserve=[lock.file, listener],
        umask=0o022,
        stdout=log,
        stderr=log,
        detach_process=True,
        signal_map={},
    )


def require_room() -> None:
    """What this process and its children may take, and which files they make, is not left to the
    terminal that it was started from. Raises SuperviseError."""
    os.umask(0o022)
    for which, least, what, remedy in _LEAST:
        soft, _ = resource.getrlimit(which)
        if soft != resource.RLIM_INFINITY and soft < least:
            raise SuperviseError(f"the limit of {what} is {soft} here: raise it ({remedy})")


def listen(path: Path, user: pwd.struct_passwd) -> socket.socket:
    """The helper's socket; open to root and to the coordinator's group, from its first moment on.
    Raises SuperviseError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if fault := make_directory(path.parent):
            raise SuperviseError(f"{path}: {fault}; or name another with --helper-socket")
        # Of two that start at once, one is second.
        with _locked(path.with_name(f"{path.name}.lock")):
            if _is_listened_at(path):
                raise SuperviseError(f"another process listens at {path}: is yaim running already?")
            remove_socket(path)
            before = os.umask(0o117)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
            os.chown(path, 0, user.pw_gid, follow_symlinks=False)
            listener.listen(16)
    except OSError as error:
        raise SuperviseError(f"cannot listen at {path}: {error.strerror or error}") from error
    return listener


def remove_socket(path: Path) -> None:
    """Nothing else. Raises SuperviseError; OSError."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SuperviseError(
            f"{path}: is there already, and is no socket: move it away, or name another place with"
            " --helper-socket"
        )
    path.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """A file of root's that nobody else can read: who can could hold its lock for ever (flock(2)).
    Raises SuperviseError."""
    with os.fdopen(_opened(path, os.O_RDWR, 0o600, "--helper-socket"), "r+") as file:
        give_up_at = time.monotonic() + LOCKED_WITHIN_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    told = f"another process holds a lock on it: end that (fuser {path} names it)"
                    raise SuperviseError(f"{path}: {told}") from None
            time.sleep(0.1)
        yield


def _is_listened_at(path: Path) -> bool:
    """Waits a little for one that is just ending."""
    for wait_s in (0.1, 0.4, 0.0):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as attempt:
            if attempt.connect_ex(str(path)) != 0:
                return False
        time.sleep(wait_s)
    return True


class _Supervisor:
    def __init__(self, helper: Program, coordinator: Program) -> None:
        self._helper = helper
        self._coordinator = coordinator
        self._exit_status: int | None = None

    def run(self) -> int:
        for program in (self._helper, self._coordinator):
            program.start()
        while self._exit_status is None:
            self._handle(self._wait_for_signal())
            now = time.monotonic()
            for program in (self._helper, self._coordinator):
                if program.pid is None and now >= program.restart_at:
                    program.start()
                if now >= program.leave_at:
                    program.leave()
                if now >= program.kill_at:
                    logger.error("supervisor: the %s does not end: killing it", program.name)
                    program.kill_at = math.inf
                    program.send(signal.SIGKILL)
        self._stop(self._coordinator, STOP_COORDINATOR_S)
        self._stop(self._helper, STOP_HELPER_S)
        return self._exit_status

    def _wait_for_signal(self) -> signal.Signals | None:
        programs = (self._helper, self._coordinator)
        times = [
            min(p.leave_at, p.kill_at) if p.pid is not None else p.restart_at for p in programs
        ]
        timeout_s = min(3600.0, max(0.0, min(times) - time.monotonic()))
        info = signal.sigtimedwait(_SIGNALS, timeout_s)
        return signal.Signals(info.si_signo) if info is not None else None

    def _handle(self, number: signal.Signals | None) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            logger.info("supervisor: got %s", number.name)
            self._exit_status = 0
        elif number is signal.SIGHUP:
            for program in (self._helper, self._coordinator):
                program.send(number)
        elif number is signal.SIGUSR1:
            self._start_anew()
        elif number is signal.SIGCHLD:
            self._reap()

    def _start_anew(self) -> None:
        for program in (self._helper, self._coordinator):
            if not program.is_fit():
                logger.error(
                    "supervisor: the %s could not be started again: both go on as they are",
                    program.name,
                )
                return
        logger.info("supervisor: starting both anew, one after the other; addresses stay")
        self._helper.leave_at = time.monotonic()
        self._coordinator.leave_at = self._helper.leave_at + ONE_AFTER_THE_OTHER_S

    def _reap(self) -> None:
        """All processes that have ended, also strangers: as the first process of a container it
        inherits orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for program in (self._helper, self._coordinator):
                if program.pid == pid:
                    self._note_end(program, program.has_ended(status))

    def _note_end(self, program: Program, code: int) -> None:
        if self._exit_status is not None:
            return
        how = f"status {code}" if code >= 0 else signal.Signals(-code).name
        if code == EX_CONFIG:
            logger.error("supervisor: the %s cannot use its configuration: ending", program.name)
            self._exit_status = EX_CONFIG
        else:
            logger.warning(
                "supervisor: the %s has ended (%s); starting it again in %.2f s",
                program.name,
                how,
                max(0.0, program.restart_at - time.monotonic()),
            )

    def _stop(self, program: Program, within_s: float) -> None:
        """SIGTERM, and SIGKILL if it does not heed that in time."""
        give_up_at = time.monotonic() + within_s
        program.send(signal.SIGTERM)
        while program.pid is not None and time.monotonic() < give_up_at:
            signal.sigtimedwait(_SIGNALS, max(0.0, give_up_at - time.monotonic()))
            self._reap()
        if program.pid is not None:
            logger.error("supervisor: the %s does not end: killing it", program.name)
            program.send(signal.SIGKILL)
            os.waitpid(program.pid, 0)
