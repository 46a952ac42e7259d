"""`yaim supervise`: helper and coordinator where there is no systemd.

Runs as root and does no more than: hold the helper's listening socket (as systemd would), start
both processes, start them again when they end, pass signals on, and end them in the right order.
If it is killed itself, the kernel kills both; started again, they carry on where they were.
"""

import logging
import math
import os
import pwd
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from setproctitle import setproctitle

from yaim.supervisor.error import SuperviseError
from yaim.supervisor.program import STOP_COORDINATOR_S, Program

logger = logging.getLogger(__name__)

ONE_AFTER_THE_OTHER_S = 3.0
"""The coordinator is started anew by so much later than the helper: a helper that comes back is
told at once what it had, if the coordinator is there."""
HELPER_NICE = -10
"""The same as in the helper's unit: a helper that has begun to act and gets no processor for a
tenth of a second ends itself."""
STOP_HELPER_S = 5.0
EX_CONFIG = 78
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


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
    """Runs both until SIGTERM or SIGINT, and returns the exit status. `listener` is the helper's
    socket, and `helper_user` the user that the helper becomes."""
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
    """Whether the programs get a variable of ours. They do not get those that say how Python is to
    be: with PYTHONWARNINGS=error, for one, they would not start. They get the one that says where
    its modules are, if they are not in the usual place."""
    return variable == "PYTHONPATH" or not variable.startswith("PYTHON")


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
        """Takes in the end of all processes that have ended, also of strangers: as the first
        process of a container this one inherits orphans."""
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
        """Sends SIGTERM, and SIGKILL if the program does not end in time."""
        give_up_at = time.monotonic() + within_s
        program.send(signal.SIGTERM)
        while program.pid is not None and time.monotonic() < give_up_at:
            signal.sigtimedwait(_SIGNALS, max(0.0, give_up_at - time.monotonic()))
            self._reap()
        if program.pid is not None:
            logger.error("supervisor: the %s does not end: killing it", program.name)
            program.send(signal.SIGKILL)
            os.waitpid(program.pid, 0)
