"""Work that may wait for the kernel's routing lock: done one after the other, beside the loop.

The lock (RTNL) is one for all network namespaces. Who asks the kernel to look at addresses or to
change them may wait for it for seconds, and cannot be interrupted. So a thread of its own asks, and
the loop goes on: it renews what is held, and answers.

Only one of the two works at a time, the one that has the floor: the other one waits for an event,
or for the kernel. So nothing changes under either of them but at such a wait: a job's, whenever it
asks the kernel.

Without a fence (held/fences.py) there is no such thread: what is late then has to end the process
(alarm.py), and a job is done as soon as it is started.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from queue import SimpleQueue
from typing import Protocol, TypeAlias

from yaim_helper import threads

Job: TypeAlias = Callable[[], None]


class Jobs(Protocol):
    @property
    def may_ask_kernel(self) -> bool:
        """Whether whoever has the floor may ask the kernel: no job is just doing that."""

    def start(self, job: Job) -> None:
        """Has it done behind those that were started before."""

    def asking(self) -> AbstractContextManager[None]:
        """The kernel is asked, and may keep whoever asks waiting."""

    def waiting(self) -> AbstractContextManager[None]:
        """The loop waits for something to do."""


class Inline:
    """Each job is done as soon as it is started."""

    may_ask_kernel = True

    def start(self, job: Job) -> None:
        job()

    def asking(self) -> AbstractContextManager[None]:
        return nullcontext()

    def waiting(self) -> AbstractContextManager[None]:
        return nullcontext()


class Floor:
    """Who has it works. Who waits for it gets it before the one that has it can have it again."""

    def __init__(self) -> None:
        self._next = threading.Lock()
        self._it = threading.Lock()

    def take(self) -> None:
        with self._next:
            self._it.acquire()

    def leave(self) -> None:
        self._it.release()

    @contextmanager
    def left(self) -> Iterator[None]:
        """The other one may have it meanwhile."""
        self.leave()
        try:
            yield
        finally:
            self.take()


class RoutingThread:
    """Jobs in a thread of their own."""

    def __init__(self) -> None:
        """Starts the thread; whoever does has the floor. Raises RuntimeError if it may not."""
        self._floor = Floor()
        self._floor.take()
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._under_way = 0
        self._done = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._failure: BaseException | None = None
        self._thread = threads.start("routing", self._work)

    def fileno(self) -> int:
        """Readable when a job is done."""
        return self._done

    @property
    def may_ask_kernel(self) -> bool:
        return not self._under_way or self._is_the_thread()

    def start(self, job: Job) -> None:
        self._under_way += 1
        self._queue.put(job)

    def close(self) -> None:
        """The thread ends when all jobs are done."""
        self._queue.put(None)

    def take_done(self) -> None:
        """Takes notice that jobs are done. Raises what a job has raised."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._done)
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The loop waits for something to do."""
        with self._floor.left():
            yield

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The kernel is asked, and may keep whoever asks waiting."""
        if self._is_the_thread():
            with self._floor.left():
                yield
        else:
            # Before there is a loop, or when no job is under way.
            yield

    def _is_the_thread(self) -> bool:
        return threading.get_ident() == self._thread.ident

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            self._floor.take()
            try:
                job()
            except BaseException as error:
                self._failure = error
            self._under_way -= 1
            os.eventfd_write(self._done, 1)
            self._floor.leave()
        os.close(self._done)
