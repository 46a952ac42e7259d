"""Helpers that stop themselves in the middle of their work, each in front of another line of it.

Run as a program: python -I stepping.py DIRECTORY [NAME ...]. For each name, a number, it forks a
process that is a helper with DIRECTORY/NAME/helper.yml. From where that hands over its first
intents (nothing has been done for them then) until it has recorded what came of them and waits for
more, it counts the lines of serve/ and held/ that it comes to for the first time. In front of the
NAMEth it writes to DIRECTORY/NAME/where which line that is, and stops itself with SIGSTOP; if there
are not so many it writes nothing there and goes on as any helper. One that is held up while it
starts may have to end itself (act_within); it is started again. The helper's modules are loaded
once, before the first is forked.
"""

import ctypes
import linecache
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from yaim_helper.serve.start import serve

STEPPED = {
    (room.name, file.name)
    for room in map(Path(serve.__code__.co_filename).parents[1].joinpath, ("serve", "held"))
    for file in room.glob("*.py")
}
"""Folder and name of each file whose lines count."""
_PR_SET_PDEATHSIG = 1


class Stepper:
    """A trace function (sys.settrace)."""

    def __init__(self, step: int, where: Path) -> None:
        self._step = step
        self._where = where
        self._has_begun = False
        self._is_done = False
        self._lines: set[tuple[str, int]] = set()

    def trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        *_, room, file = ("", *frame.f_code.co_filename.rsplit("/", 2))
        if event == "call":
            what = room, file, frame.f_code.co_name
            self._has_begun |= what == ("record", "recorder.py", "ask")
            if self._has_begun and what == ("serve", "execution.py", "_note_results"):
                self._is_done |= bool(frame.f_locals["over"])
            if file == "selectors.py" and self._is_done:
                sys.settrace(None)
                self._step = 0
                return None
            return self.trace if (room, file) in STEPPED else None
        if event == "line" and self._has_begun and self._step:
            self._lines.add((frame.f_code.co_filename, frame.f_lineno))
            if len(self._lines) == self._step:
                text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
                self._step = 0
                self._where.write_text(f"{frame.f_lineno}: {text}")
                os.kill(os.getpid(), signal.SIGSTOP)
        return self.trace


def be_helper(directory: Path, step: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    options = [f"--config={directory}/helper.yml", f"--socket={directory}/helper.sock"]
    sys.settrace(Stepper(step, directory / "where").trace)
    os._exit(serve([*options, "--user=root"]))


def start(directory: Path, step: int) -> None:
    """Starts a helper, and waits until it listens."""
    for _ in range(10):
        if (pid := os.fork()) == 0:
            be_helper(directory, step)
        while not (directory / "helper.sock").exists():
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                break
            time.sleep(0.001)
        else:
            return


if __name__ == "__main__":
    for name in sys.argv[2:]:
        start(Path(sys.argv[1], name), int(name))
    while True:
        signal.pause()
