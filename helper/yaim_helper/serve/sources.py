"""What can be read from, some of it left out for a while. Reads nothing itself.

Who sends more than he may is not refused, but not read: what he sends waits in his own socket's
buffer, and then he waits.
"""

import selectors
from typing import Any, Protocol, TypeAlias


class HasFileno(Protocol):
    def fileno(self) -> int: ...


Ready: TypeAlias = list[tuple[HasFileno, Any]]
"""Sources that can be read, each with the data that it was added with."""


class Sources:
    """What the loop waits for. Instants are seconds of CLOCK_BOOTTIME."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._resting: dict[HasFileno, tuple[float, Any]] = {}
        """Sources that are left out: until when, and their data; in the order in which they were
        laid to rest."""

    def add(self, source: HasFileno, data: Any = None) -> None:
        self._selector.register(source, selectors.EVENT_READ, data)

    def remove(self, source: HasFileno) -> None:
        if self._resting.pop(source, None) is None:
            self._selector.unregister(source)

    def rest(self, source: HasFileno, until: float) -> None:
        """Leaves a source out until then, whatever has come."""
        resting = self._resting.pop(source, None)
        data = resting[1] if resting else self._selector.unregister(source).data
        self._resting[source] = until, data

    def wake(self, now: float) -> None:
        """Takes back the sources whose time has come: what was laid to rest first is ready
        first."""
        for source, (until, data) in list(self._resting.items()):
            if now >= until:
                del self._resting[source]
                self.add(source, data)

    def wake_at(self) -> list[float]:
        return [until for until, _ in self._resting.values()]

    def ready(self, timeout_s: float | None) -> Ready:
        """Waits until something can be read, or for so long, and returns what can."""
        return [(key.fileobj, key.data) for key, _ in self._selector.select(timeout_s)]  # type: ignore[misc]
