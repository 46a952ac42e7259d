"""What has happened, on its way from the adapters to the core.

Of the views of the cluster only the newest waits: one that nobody has taken yet is replaced. What
changes in etcd, however often, makes the queue no longer. All else in it answers what was asked, or
comes at a pace that the host sets. Should that not be enough, the process ends, and is started
anew.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from yaim.core.events import ClusterChanged, Event

MOST_WAITING = 100_000
Other = TypeVar("Other")


@dataclass(slots=True)
class _News:
    view: ClusterChanged | None
    """None: a newer view waits behind this one, or it was taken."""


class TooManyEvents(Exception):
    """More events wait than can be if the core takes them in."""


class EventQueue(Generic[Other]):
    """Any thread may call `put` and `take`, also the handler of a signal that has interrupted one
    of them. A handler must not call `put_view`."""

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._queue: SimpleQueue[Sequence[Event] | Other | _News] = SimpleQueue()
        self._lock = threading.Lock()
        """Handlers of signals do not wait for it: SimpleQueue is reentrant, a lock is not."""
        self._newest = _News(None)
        self._is_newest_last = False

    def put(self, happened: Sequence[Event] | Other) -> None:
        """Adds events that have happened together, or something else."""
        if self.waiting >= self._most:
            raise TooManyEvents(f"{self._most} events wait and are not taken in")
        self._queue.put(happened)
        # Not before: a view that comes in between is the newest then, and not the last.
        self._is_newest_last = False

    def put_view(self, view: ClusterChanged) -> None:
        """Adds a view behind all that has happened before."""
        with self._lock:
            if self._newest.view is not None and self._is_newest_last:
                self._newest.view = view
                return
            self._newest.view = None
            self._newest = _News(view)
            self._is_newest_last = True
            self._queue.put(self._newest)

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    def take(self, timeout_s: float | None) -> list[Sequence[Event] | Other]:
        """Returns all that waits, in order; nothing, if nothing has come in time. `timeout_s` None:
        it waits for ever."""
        taken: list[Sequence[Event] | Other] = []
        try:
            self._take(self._queue.get(timeout=timeout_s), taken)
            while True:
                self._take(self._queue.get_nowait(), taken)
        except Empty:
            return taken

    def _take(
        self, each: Sequence[Event] | Other | _News, taken: list[Sequence[Event] | Other]
    ) -> None:
        if not isinstance(each, _News):
            taken.append(each)
            return
        with self._lock:
            view, each.view = each.view, None
        if view is not None:
            taken.append((view,))
