"""The record's own thread: the server hands over what is to be recorded, and waits for no disk.

What both may count on, also when the disk hangs for minutes:
- All gets into the record in the order in which it was handed over, with the time of that; the
  marker as well: what it tells is never on the disk before what was handed over before it.
- What is handed over by `ask` is durable before it says so. So is all that was handed over before.
- There is an end to what waits. What is handed over beyond that is left out, and counted in a
  `gap` in its place.
- Nothing that waits survives this process: what a disk that hangs had not taken when the helper was
  killed is missing (helper/AUDIT.md says what can be proven then).
- This process ends with the thread: a helper whose record nobody writes is none.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TypeAlias

from yaim_helper import threads
from yaim_helper.clock import boottime
from yaim_helper.owners import Owner
from yaim_helper.record.entries import Entry
from yaim_helper.record.log import AuditLog
from yaim_helper.record.segments import SEGMENT_BYTES
from yaim_helper.record.stamps import now

MAX_WAITING = SEGMENT_BYTES
"""The most bytes that are handed over and not written yet. All of them may get into a segment that
was nearly full: as much as that is read back at a start."""
SEALED_BYTES = 512
"""The bytes of what all records have in common (log.py), and more than a marker needs here."""
HANGS_AFTER_S = 1.0
"""When something was handed over so long ago and is not written, the disk hangs: nothing is added
then."""
BEHIND_AFTER_S = 0.1
"""When the record is so far behind, no head is told: it would vouch for it that nothing has
happened since (tools/coverage.py)."""
DESCRIBE_EVERY_S = 1.0
"""The time from one description of what is held to the next, while a segment cannot be begun."""

Look: TypeAlias = Callable[[], None]
"""Looks at something that may wait for a disk. Raises nothing."""


@dataclass(eq=False, slots=True)
class Handed:
    """Records that were handed over together, or a marker."""

    records: list[Entry]
    stamp: Entry
    """The time of that, and the policy in force."""
    at: float
    is_to_last: bool = False
    """It is to be made durable."""
    size: int = 0
    """The size in bytes, about."""
    deadlines: Mapping[Owner, float] | None = None
    """The deadlines for the marker; they are taken away when later ones are handed over."""
    fenced: Mapping[Owner, float] | None = None
    """As in entries.latest."""
    held: list[Entry] | None = None
    """What was held then, if the record wants to know."""
    missed: int = 0
    """Records that were left out before these."""
    is_on_record: bool | None = None
    """Whether it was written; None: that is not known yet. The record's thread sets it, last of
    all."""


class Recorder:
    """What the server uses, from one thread. It is readable (select(2)) when there is news about
    what was handed over by `ask`."""

    def __init__(self, log: AuditLog, policy_sha256: str) -> None:
        """Starts a thread. Raises RuntimeError if it may not."""
        self._log = log
        self._policy_sha256 = policy_sha256
        self.earlier, self.past = log.earlier, log.past
        self.describe_held: Callable[[], list[Entry] | None] = list
        """What each further segment begins with: `held` records."""
        self._describe_at = 0.0
        self._described = self._marked = Handed([], {}, 0.0, is_on_record=True)
        """The last that was handed over with what was held, and the last with deadlines."""
        self._queue: SimpleQueue[Handed | threading.Event | Look | None] = SimpleQueue()
        self._waiting: deque[Handed] = deque()
        """What was handed over, in order; some at the front may be written."""
        self._size = 0
        """The size of all that waits."""
        self._missed = 0
        self._written = log.number, *log.head
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        log.describe_held = lambda: self._held
        self._held: list[Entry] | None = None
        """What was held, as the log may know it."""
        threads.start("record", self._work)

    def fileno(self) -> int:
        return self._news

    def take_news(self) -> None:
        os.eventfd_read(self._news)

    @property
    def head(self) -> tuple[int, str] | None:
        """The number and hash of the last record; None: others are not written yet."""
        return self._written[1:] if self.waits_s(boottime()) < BEHIND_AFTER_S else None

    @property
    def number(self) -> int:
        """The number of its segment; 0: there is none yet."""
        return self._written[0]

    def use_policy(self, policy_sha256: str) -> None:
        """From now on what is recorded was decided by this policy."""
        self._policy_sha256 = policy_sha256

    def note(self, records: Iterable[Entry]) -> None:
        """Hands over what has happened, whether that can be written or not."""
        records = list(records)
        if records:
            self._hand_over(self._stamped(records))

    def ask(self, records: list[Entry]) -> Handed:
        """Hands over what is to be made durable. `is_on_record` tells soon whether it is."""
        handed = self._stamped(records)
        handed.is_to_last = True
        self._hand_over(handed)
        return handed

    def mark(
        self, deadlines: Mapping[Owner, float], fenced: Mapping[Owner, float] | None = None
    ) -> None:
        """Hands over the latest deadlines, for the marker. Nothing depends on it. `fenced` as in
        entries.latest."""
        handed = self._stamped([])
        handed.deadlines, handed.fenced = deadlines, fenced
        # However often somebody renews, there is room for records.
        if self._hand_over(handed, MAX_WAITING // 2):
            self._marked.deadlines, self._marked = None, handed

    def waits_s(self, now: float) -> float:
        """Returns for how long the oldest that is not written has been waiting."""
        self._forget_written()
        return now - self._waiting[0].at if self._waiting else 0.0

    def does_disk_hang(self, now: float) -> bool:
        return self.waits_s(now) >= HANGS_AFTER_S

    @property
    def has_to_tell_held(self) -> bool:
        """Whether what is held has to be told before much else is."""
        self._forget_written()
        return self._log.is_too_long_with(self._size)

    def why_not(self, now: float) -> str | None:
        """Returns why nothing that is to be durable can be, so that nothing is added; None: it can,
        as far as is known."""
        if self.does_disk_hang(now):
            return f"{self._log.path}: its disk does not answer"
        return self._log.failure

    def look(self, also: Look) -> None:
        """Has the thread see whether the record can be written, and do another look."""
        self._queue.put(self._look)
        self._queue.put(also)

    def drain(self, within_s: float) -> bool:
        """Waits until all is written, for so long at most, and returns whether it is."""
        is_written = threading.Event()
        self._queue.put(is_written)
        return is_written.wait(within_s)

    def close(self) -> None:
        """The thread ends when all is written, and closes the record's files."""
        self._queue.put(None)

    def _stamped(self, records: list[Entry]) -> Handed:
        size = sum(len(repr(each)) + SEALED_BYTES for each in records) or SEALED_BYTES
        return Handed(records, {**now(), "policy": self._policy_sha256}, boottime(), size=size)

    def _hand_over(self, handed: Handed, most: int = MAX_WAITING) -> bool:
        """Hands over something, and returns whether there is room for it."""
        self._forget_written()
        if self._size + handed.size > most:
            self._missed += len(handed.records)
            handed.is_on_record = False
            return False
        handed.missed, self._missed = self._missed, 0
        if self._log.wants_held and handed.records and handed.at >= self._describe_at:
            self._describe(handed)
        self._size += handed.size
        self._waiting.append(handed)
        self._queue.put(handed)
        return True

    def _describe(self, handed: Handed) -> None:
        """Adds what is held now, unless that waits already: all of it may be much."""
        if self._described.is_on_record is None:
            return
        handed.held = self.describe_held()
        if handed.held is not None:
            self._describe_at = handed.at + DESCRIBE_EVERY_S
            self._described = handed

    def _forget_written(self) -> None:
        while self._waiting and self._waiting[0].is_on_record is not None:
            self._size -= self._waiting.popleft().size

    # --- the record's thread -------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._write_all()
        except BaseException as error:
            _end_at_once(error)

    def _write_all(self) -> None:
        while (first := self._queue.get()) is not None:
            together: list[Handed | threading.Event | Look | None] = [first]
            try:
                while together[-1] is not None:
                    together.append(self._queue.get_nowait())
            except Empty:
                pass
            self._write([each for each in together if isinstance(each, Handed)])
            for each in together:
                if isinstance(each, threading.Event):
                    each.set()
                elif callable(each):
                    each()
            if together[-1] is None:
                break
        self._log.close()
        os.close(self._news)

    def _look(self) -> None:
        # What was held when something was handed over is not what is held now.
        self._held = None
        self._log.look()

    def _write(self, together: list[Handed]) -> None:
        """Writes them one by one, makes all durable with the last that is to be, and then writes
        the last marker."""
        durable = [each for each in together if each.is_to_last]
        last = durable[-1] if durable else None
        is_written = [self._append(each, durable=each is last) for each in together]
        marks = [
            (found, each.stamp, each.fenced)
            for each in together
            if (found := each.deadlines) is not None
        ]
        for mark in marks[-1:]:
            self._log.mark(*mark)
        is_durable = last is None or is_written[together.index(last)]
        number = self.number
        self._written = self._log.number, *self._log.head
        for each, is_in in zip(together, is_written, strict=True):
            each.is_on_record = is_in and (is_durable or not each.is_to_last)
        if durable or self.number != number:
            os.eventfd_write(self._news, 1)

    def _append(self, handed: Handed, *, durable: bool) -> bool:
        self._held = handed.held
        self._log.miss(handed.missed)
        return self._log.try_write(handed.records, durable=durable, stamp=handed.stamp)


def _end_at_once(error: BaseException) -> None:
    """Ends all threads: whoever runs the helper is told, and starts it anew."""
    try:
        *_, (file, line) = _places(error.__traceback__)
        what = f"{error!r} in {file}, line {line}"
        text = f"the record's thread has failed, and this ends with it: {what}"
        print(f"yaim-helper: {text}", file=sys.stderr, flush=True)  # noqa: T201
    finally:
        os._exit(1)


def _places(at: TracebackType | None) -> Iterator[tuple[str, int]]:
    """Returns file and line of each call, the innermost last. (Python's own module for that costs
    a millisecond of every start.)"""
    while at is not None:
        yield at.tb_frame.f_code.co_filename, at.tb_lineno
        at = at.tb_next
