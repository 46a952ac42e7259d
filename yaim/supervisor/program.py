"""One of the two processes that the supervisor runs: its start, its end, its signals.

Keeps when it is to be started again, or killed; the supervisor's loop (run.py) does so.
"""

import ctypes
import logging
import math
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

RESTART_MIN_S = 0.25
RESTART_MAX_S = 10.0
"""A process that ends is started again at once; the next time after RESTART_MIN_S, and then after
twice as long each time, up to RESTART_MAX_S."""
SETTLED_AFTER_S = 10.0
"""A process that has run this long is started again at once again."""
CHECK_WITHIN_S = 30.0
STOP_COORDINATOR_S = 10.0

_FIRST_PASSED_FD = 3
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Program:
    """One of the two processes."""

    name: str
    arguments: Sequence[str]
    check: Sequence[str]
    """The command that ends with 0 if the program could use its configuration, and says why if
    not."""
    user: pwd.struct_passwd | None = None
    """The user that it starts as; None: root."""
    checked_as: pwd.struct_passwd | None = None
    """The user that the check runs as."""
    environment: dict[str, str] = field(default_factory=dict)
    nice: int = 0
    """If it is not 0, all its processes have it (nice(2)), where that is permitted."""
    listener: socket.socket | None = None
    """A socket that is handed in as sd_listen_fds(3) describes."""
    held_back: frozenset[signal.Signals] = frozenset()
    """Signals that wait until the program has set its handlers and lets them through."""
    leave_signal: signal.Signals = signal.SIGTERM
    """This signal ends it with its addresses left as they are, for the next process."""
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
        """What the new process does to become the program."""
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
        """Plans the restart, and returns the exit status, which is negative for a signal."""
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
        """Whether the program could be started again with its code and its configuration as they
        are now."""
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
        """Has it end, and be started again at once."""
        self.leave_at = math.inf
        self.is_leaving = self.pid is not None
        if self.is_leaving:
            self.kill_at = time.monotonic() + STOP_COORDINATOR_S
        self.send(self.leave_signal)

    def send(self, number: signal.Signals) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)


def _go_before_others(nice: int) -> None:
    """Gives this process, which leads a session, more of the processor. Does nothing where that is
    not permitted."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    # Where Linux shares processors out between sessions, nice counts only within one; what counts
    # between them is this (sched(7), "The autogroup feature").
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))
