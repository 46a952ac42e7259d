"""A helper with a fence that stops itself in the middle of its work, in front of any line of it.

Run as a program: python -I stopping.py DIRECTORY DESCRIPTOR. For each byte that comes by the
descriptor, a socket, it waits for the end of the helper before, forks a process that is a helper
with DIRECTORY/helper.yml, and answers with its process id. When that takes in requests it reads
DIRECTORY/step: the kind of request, how many of them there will be, and a number. From then on
until it has recorded what came of them and waits for more, it counts the lines of serve/, held/,
jobs.py, kernel/fence.py and kernel/connections.py that it comes to for the first time, in its loop
and in its other threads. In front of the one with the number it writes to DIRECTORY/where which
line that is, and stops itself with SIGSTOP. If there are not so many it goes on as any helper.
"""

import ctypes
import linecache
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from yaim_helper.serve.start import serve

_HELPER = Path(serve.__code__.co_filename).parents[1]
STEPPED = frozenset(
    map(
        str,
        (
            *_HELPER.glob("serve/*.py"),
            *_HELPER.glob("held/*.py"),
            _HELPER / "jobs.py",
            _HELPER / "kernel/fence.py",
            _HELPER / "kernel/connections.py",
        ),
    )
)
"""The files whose lines count."""
_EXECUTION = str(_HELPER / "serve/execution.py")
_PR_SET_PDEATHSIG = 1


class Stepper:
    """A trace function for all threads (sys.settrace)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._step = 0
        self._to_come = 0
        self._lines: set[tuple[str, int]] = set()
        self._is_alarm_heeded = False

    def _heed_alarm(self) -> None:
        """From here on the helper is as it always is: held up for long it may have to end itself
        (act_within)."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        self._is_alarm_heeded = True

    def _ignore_alarm(self) -> None:
        """What holds it up otherwise are other tests."""
        if self._is_alarm_heeded and threading.current_thread() is threading.main_thread():
            self._is_alarm_heeded = False
            signal.signal(signal.SIGALRM, signal.SIG_IGN)

    def trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        file = frame.f_code.co_filename
        if event == "call":
            if file == _EXECUTION:
                self._see(frame)
            elif self._to_come <= 0 and file.endswith("/selectors.py"):
                self._step = 0
                self._ignore_alarm()
            return self.trace if file in STEPPED else None
        if event == "line" and self._step:
            self._lines.add((file, frame.f_lineno))
            if len(self._lines) == self._step:
                self._step = 0
                text = linecache.getline(file, frame.f_lineno).strip()
                where = self._directory / "where"
                where.write_text(f"{Path(file).name}:{frame.f_lineno}: {text}")
                os.kill(os.getpid(), signal.SIGSTOP)
        return self.trace

    def _see(self, frame: FrameType) -> None:
        """Begins to count when what is awaited comes, and ends when it is done."""
        if frame.f_code.co_name == "take_in" and not self._step:
            with suppress(OSError, ValueError):
                op, count, step = (self._directory / "step").read_text().split()
                if any(type(each).__name__ == op for each in frame.f_locals["requests"]):
                    (self._directory / "step").unlink()
                    self._step, self._to_come = int(step), int(count)
                    self._lines.clear()
                    self._heed_alarm()
        elif frame.f_code.co_name == "_note_results":
            self._to_come -= len(frame.f_locals["over"])


def be_helper(directory: Path) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    options = [f"--config={directory}/helper.yml", f"--socket={directory}/helper.sock"]
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    trace = Stepper(directory).trace
    threading.settrace(trace)
    sys.settrace(trace)
    os._exit(serve([*options, "--user=root"]))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[2])) as control:
        while control.recv(1):
            with suppress(ChildProcessError):
                # Until its last thread has ended it has its files open.
                os.waitpid(-1, 0)
            if (pid := os.fork()) == 0:
                be_helper(Path(sys.argv[1]))
            control.send(str(pid).encode())
