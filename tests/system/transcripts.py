"""Transcripts in the documentation, played again in a lab: a block of ```console, with a line
`$ command` for each command and what it has shown on a terminal below it.

    python -m tests.system.transcripts docs/steering.md      # write what is shown now into the page

Commands are `yaim ...`, run on ADMIN as the user `alice` by sudo; `yaim lab fail|heal|kill|cut|stop
|start NODE`, done to the lab; and `echo $?`, the last exit status. What somebody types at a prompt
stands behind it. Times, revisions, durations and versions may be others each time.
"""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from yaim.lab.cluster import Lab
from yaim.lab.plan import LabPlan, even_counts
from yaim.lab.wait import wait_until

ADMIN = "n3"
"""Where the commands are given: no story does anything to it."""
PROMPTS = ("reason (for those who find this later): ", "Do it? [y/N] ")
WITHIN_S = 120.0
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MAY_DIFFER = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r"(after|Read|for|since) [\d.]+ m?s\b"), r"\1 N s"),
    (re.compile(r"\(\d+ ms\)"), "(N ms)"),
    (re.compile(r"revision \d+"), "revision N"),
    (re.compile(r"\b\d+\.\d+\.\d+(\.dev\d+)?\b(?!\.\d)"), "VERSION"),
    (re.compile(r"-{3,}|={3,}"), "---"),
    (re.compile(r"[ ]{2,}"), "  "),
)


@dataclass(frozen=True)
class Step:
    command: str
    shown: tuple[str, ...]


def blocks(page: str) -> list[str]:
    return _BLOCK.findall(page)


def steps(page: str) -> Iterator[Step]:
    for block in blocks(page):
        command, shown = "", list[str]()
        for line in block.splitlines():
            if line.startswith("$ "):
                if command:
                    yield Step(command, tuple(shown))
                command, shown = line.removeprefix("$ "), []
            else:
                shown.append(line)
        if command:
            yield Step(command, tuple(shown))


def alike(lines: tuple[str, ...]) -> list[str]:
    """The lines without what may be another thing each time."""
    found = []
    for line in lines:
        for pattern, word in _MAY_DIFFER:
            line = pattern.sub(word, line)
        found.append(line.rstrip())
    while found and not found[-1]:
        found.pop()
    return found


class Stage:
    """A lab whose nodes have started one after the other, so that it is the same each time."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._status = 0
        self._programs = lab.directory / "programs"
        self._programs.mkdir(mode=0o755)
        (self._programs / "yaim").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m yaim "$@"\n')
        (self._programs / "yaim").chmod(0o755)
        count = len(lab.plan.pool)
        for number, node in enumerate(lab.nodes.values(), 1):
            node.start()
            lab.wait_until_held(counts=even_counts(count, number, len(lab.nodes)))

    def play(self, step: Step) -> tuple[str, ...]:
        """What it shows now."""
        words = step.command.split()
        if step.command == "echo $?":
            return (str(self._status),)
        if words[:2] == ["yaim", "lab"]:
            self._do(words[2], words[3])
            return ()
        answers = [
            line.removeprefix(prompt)
            for line in step.shown
            for prompt in PROMPTS
            if line.startswith(prompt)
        ]
        return self._run(step.command, answers)

    def _do(self, what: str, name: str) -> None:
        node = self._lab.nodes[name]
        acts: dict[str, Callable[[], object]] = {
            "fail": node.break_service,
            "heal": node.mend_service,
            "kill": node.kill,
            "stop": node.stop,
            "start": node.start,
        }
        acts[what]()
        is_there = what in ("heal", "start")
        wait_until(lambda: self._is_well(name) is is_there, 30.0, f"{name} after {what}")

    def _is_well(self, name: str) -> bool:
        node = self._lab.view().nodes.get(name)  # type: ignore[call-overload]
        return node is not None and node.advertisement.is_healthy

    def _run(self, command: str, answers: list[str]) -> tuple[str, ...]:
        """Runs it on a terminal."""
        node = self._lab.nodes[ADMIN]
        environment = {
            "PATH": f"{self._programs}:{os.environ.get('PATH', os.defpath)}",
            "YAIM_CONFIG": f"{node.directory}/yaim.yml",
            "SUDO_USER": "alice",
            "NO_COLOR": "1",
            "TERM": "dumb",
            "COLUMNS": "100",
        }
        settings = [f"{name}={value}" for name, value in environment.items()]
        enter = ["nsenter", f"--target={node.supervisor()}", "--all", "--", "env", *settings]
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*enter, "sh", "-c", f"exec {command}"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        try:
            shown = _talk(ours, answers)
            self._status = process.wait(10)
        finally:
            os.close(ours)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return tuple(shown.replace("\r\n", "\n").rstrip("\n").split("\n")) if shown else ()


def _talk(terminal: int, answers: list[str]) -> str:
    """Answers the prompts; returns all that was on the screen."""
    seen, deadline = b"", time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            more = os.read(terminal, 65536)
        except OSError:  # nobody has the other end any more
            break
        if not more:
            break
        seen += more
        if answers and seen.decode(errors="replace").endswith(PROMPTS):
            os.write(terminal, f"{answers.pop(0)}\n".encode())
    return seen.decode(errors="replace")


def rewritten(page: str, stage: Stage) -> str:
    """The page with what is shown now."""
    played = {}
    for block in blocks(page):
        lines = []
        for step in steps(f"```console\n{block}```\n"):
            lines += [f"$ {step.command}", *stage.play(step)]
        played[block] = "\n".join(lines) + "\n"
    return _BLOCK.sub(lambda found: f"```console\n{played[found[1]]}```", page)


def main() -> None:
    from yaim.lab.namespaces import enter_private_network

    enter_private_network()
    file = Path(sys.argv[1])
    with Lab(LabPlan()) as lab:
        file.write_text(rewritten(file.read_text(), Stage(lab)))


if __name__ == "__main__":
    main()
