"""What waits for the core has an end, whatever happens in etcd meanwhile."""

import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from yaim.coordinator.event_queue import EventQueue, TooManyEvents
from yaim.core.events import ClusterChanged, Event, LeaseFailed
from yaim.core.model import ClusterView, Revision


def view(revision: int) -> ClusterChanged:
    return ClusterChanged(ClusterView(Revision(revision)))


def failed(number: int) -> tuple[Event, ...]:
    return (LeaseFailed(str(number)),)


def test_of_a_hundred_thousand_views_only_the_newest_waits() -> None:
    """Red team: all of them were kept, and each was placed."""
    queue = EventQueue[str]()
    for revision in range(100_000):
        queue.put_view(view(revision))
    assert queue.waiting == 1
    assert queue.take(0.0) == [(view(99_999),)]
    assert queue.take(0.0) == []


def test_the_newest_view_is_told_after_what_happened_before_it() -> None:
    queue = EventQueue[str]()
    queue.put_view(view(1))
    queue.put(failed(1))
    queue.put_view(view(2))
    queue.put_view(view(3))
    queue.put("reload")
    assert queue.take(0.0) == [failed(1), (view(3),), "reload"]
    queue.put_view(view(4))
    assert queue.take(0.0) == [(view(4),)]


class Interrupted(SimpleQueue[Any]):
    """Before it takes anything in, another thread does this."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self.meanwhile: Callable[[], None] | None = meanwhile

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        super().put(item, block, timeout)


@pytest.mark.parametrize("is_view_waiting", [True, False])
def test_no_view_overtakes_what_was_put_before_it(is_view_waiting: bool) -> None:
    """Red team: of two views that were put about the same time as an event, the second did."""
    queue = EventQueue[str]()
    if is_view_waiting:
        queue.put_view(view(1))
    interrupted = Interrupted(lambda: queue.put_view(view(2)))
    waiting, queue._queue = queue._queue, interrupted
    while waiting.qsize():
        SimpleQueue.put(interrupted, waiting.get())
    queue.put(failed(1))
    queue.put_view(view(3))
    assert queue.take(0.0)[-2:] == [failed(1), (view(3),)]


def test_what_nobody_takes_in_has_an_end() -> None:
    queue = EventQueue[str](most=3)
    for number in range(3):
        queue.put(failed(number))
    with pytest.raises(TooManyEvents, match="3 events wait"):
        queue.put(failed(3))
    assert len(queue.take(0.0)) == 3


def test_a_signal_that_comes_while_a_view_is_put_blocks_nobody() -> None:
    """The handler runs in a thread that may have the queue's lock."""
    queue = EventQueue[str]()
    before = signal.signal(signal.SIGUSR2, lambda *_: queue.put("signal"))
    try:
        stop = threading.Event()

        def knock() -> None:
            while not stop.wait(0.0002):
                signal.raise_signal(signal.SIGUSR2)

        knocking = threading.Thread(target=knock)
        knocking.start()
        taken: list[object] = []
        for revision in range(20_000):
            queue.put_view(view(revision))
            taken += queue.take(0.0)
        stop.set()
        knocking.join()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert [each for each in taken if each != "signal"][-1] == (view(19_999),)
