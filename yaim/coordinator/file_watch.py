"""Whether yaim.yml still says what runs. Looks every LOOK_EVERY_S, in a thread of its own.

A file that this process may read is read anew when it has changed, and compared key by key. One
that it may not (root's, of which systemd hands over a copy) is known by its status alone: there a
file that was written anew counts as changed, also if it says the same.

Applies nothing: SIGHUP does.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from yaim.config.config import Config
from yaim.config.file import ConfigError
from yaim.core.events import ProblemsObserved

SOURCE = "files"
"""The source of the problems, among those that tell some (ProblemsObserved)."""
LOOK_EVERY_S = 10.0
MOST_NAMED = 6
"""The most keys that are named."""


class FileWatch:
    def __init__(self, file: Path, running: Config, load: Callable[[], Config]) -> None:
        """`file` was read just now, and `running` made of it. `load` reads it as the next process
        would; it raises ConfigError."""
        self._file = file
        self._load = load
        self._lock = threading.Lock()
        self._running = running
        self._said: Config | ConfigError = running
        """What the file says; an error: why that is not known."""
        self._status = _status_of(file)
        """The file's, when it was read."""
        self._told: tuple[str, ...] = ()

    def start(self, post: Callable[[ProblemsObserved], None]) -> None:
        def look_on() -> None:
            never = threading.Event()
            while not never.wait(LOOK_EVERY_S):
                if (found := self.look()) is not None:
                    post(found)

        threading.Thread(target=look_on, name="file-watch", daemon=True).start()

    def note_read(self, said: Config) -> None:
        """The file was read for SIGHUP, and this is what it says."""
        with self._lock:
            self._said, self._status = said, _status_of(self._file)

    def note_running(self, running: Config) -> None:
        with self._lock:
            self._running = running

    def look(self) -> ProblemsObserved | None:
        """What there is to tell; None: the same as at the last look."""
        with self._lock:
            status = _status_of(self._file)
            if status != self._status:
                try:
                    self._said = self._load()
                except ConfigError as error:
                    self._said = error
                # One that cannot be read stays one that has changed, until SIGHUP has come.
                if not isinstance(self._said, ConfigError):
                    self._status = status
            problems = self._problems(status is not None)
        if problems == self._told:
            return None
        self._told = problems
        return ProblemsObserved(SOURCE, problems)

    def _problems(self, is_there: bool) -> tuple[str, ...]:
        if not is_there:
            return (f"{self._file} is not there any more",)
        match self._said:
            case ConfigError() as error if error.is_denied:
                return (f"{self._file} has changed since it was read: systemctl reload yaim",)
            case ConfigError() as error:
                return (f"{self._file} has become wrong: {error.issues[0]}",)
            case said:
                return tuple(self._differences(said))

    def _differences(self, said: Config) -> list[str]:
        running = self._running
        keys = said.own_keys()
        differing = [name for name in keys if running.value(name) != said.value(name)]
        differing += _differing_checks(running, said)
        by_act: dict[str, list[str]] = {}
        for name in differing:
            act = keys[name].applied.value if name in keys else "reload"
            by_act.setdefault(act, []).append(name)
        return [
            f"{self._file} differs from what runs in {_named(names)}: {_command(act)}"
            for act, names in by_act.items()
        ]


def _command(act: str) -> str:
    return "; ".join(f"systemctl {each} yaim" for each in act.split(" and "))


def _differing_checks(running: Config, said: Config) -> list[str]:
    """The checks of one that the other has not got so; the timing of those that have none of their
    own is told by the keys beside them."""
    before, after = ({each.name: each for each in one.checks} for one in (running, said))
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [
        f"check {name}"
        for name in names
        if name not in before
        or name not in after
        or after[name].is_listed
        or before[name].settings != after[name].settings
    ]


def _named(names: list[str]) -> str:
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])


def _status_of(file: Path) -> tuple[int, int, int] | None:
    """What changes when the file is written or replaced; None: it is not there, or cannot be
    seen."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
