"""Waits within a time limit for work that cannot be broken off."""

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Task = TypeVar("Task", bound=Hashable)
Result = TypeVar("Result")


class _Work(Generic[Result]):
    def __init__(self) -> None:
        self.has_ended = threading.Event()
        self.result: Result | None = None
        self.failure: Exception | None = None


class Pending(Generic[Task, Result]):
    """Each piece of work is done in a thread of its own, which goes on when it is no longer waited
    for: who asks for the same again waits for that one. So however often it is asked for, at most
    one of a kind is under way."""

    def __init__(self, name: str) -> None:
        """`name` is that of the threads."""
        self._name = name
        self._lock = threading.Lock()
        self._under_way: dict[Task, _Work[Result]] = {}

    def wait(self, task: Task, work: Callable[[], Result], within_s: float) -> Result | None:
        """Returns the result; None if it is not there in time. Raises what the work raises, and
        RuntimeError if there can be no more threads."""
        with self._lock:
            mine = self._under_way.get(task)
            if mine is None:
                mine = _Work()
                arguments = (task, work, mine)
                threading.Thread(
                    target=self._do, args=arguments, name=self._name, daemon=True
                ).start()
                self._under_way[task] = mine
        if not mine.has_ended.wait(within_s):
            return None
        if mine.failure is not None:
            raise mine.failure
        return mine.result

    def _do(self, task: Task, work: Callable[[], Result], mine: _Work[Result]) -> None:
        try:
            mine.result = work()
        except Exception as error:
            mine.failure = error
        with self._lock:
            if self._under_way.get(task) is mine:
                del self._under_way[task]
        mine.has_ended.set()
