"""Looks at the cluster in the store, once or on and on. What is seen there is made into facts by
yaim/status/facts.py."""

import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from time import monotonic

from yaim.core.actions import Kind
from yaim.core.model import ClusterView, NodeName
from yaim.dcs.operate import HISTORY_EVENTS
from yaim.dcs.store import NotPermitted, StoreError, StoreParts, StoreSeen
from yaim.status.facts import ClusterStatus, Condition, certificates_of, status_of
from yaim.status.of_node import missing
from yaim.status.watching import Failed

LOOK_WITHIN_S = 2.0
"""How long it waits for the endpoints' certificates: an endpoint may be down."""
CERTIFICATES_EVERY_S = 60.0
AT_MOST_EVERY_S = 0.5
AGAIN_AFTER_S = 1.0
"""The pause before the next attempt where etcd has not answered."""


def condition_of(error: StoreError) -> Condition:
    is_not_permitted = isinstance(error, NotPermitted)
    return Condition.NOT_PERMITTED if is_not_permitted else Condition.UNREACHABLE


class Look:
    """Not to be used by several threads at the same time."""

    def __init__(self, parts: StoreParts) -> None:
        self._parts = parts
        self._operations = parts.operations()
        self._seen: StoreSeen | None = None
        self._looked_at = 0.0

    @property
    def prefix(self) -> str:
        return self._parts.prefix

    def status(self) -> ClusterStatus:
        """As the cluster is now. Certificates and alarms are looked at once in a while only, as
        that may take long. Raises StoreError."""
        if self._seen is None or monotonic() >= self._looked_at + CERTIFICATES_EVERY_S:
            self._seen = self._parts.look(LOOK_WITHIN_S)
            self._looked_at = monotonic()
            view = self._seen.view
        else:
            view = self._operations.look()
        now = datetime.now(UTC)
        certificates = certificates_of(self._seen.certificates, now)
        lost = self._lost(view)
        by_hand, alarms = self._parts.by_hand, self._seen.alarms
        return status_of(self.prefix, view, certificates, alarms, lost, now=now, by_hand=by_hand)

    def _lost(self, view: ClusterView) -> Mapping[NodeName, datetime]:
        """When the leases of the nodes that are missing have ended, as far as the history tells."""
        if not missing(view):
            return {}
        try:
            events = self._operations.history(None, None, HISTORY_EVENTS)
        except StoreError:
            return {}  # without the right to read it, or it is of a newer yaim
        lost: dict[NodeName, datetime] = {}
        for event in events:
            if event.kind == Kind.LOST and event.node is not None:
                lost[event.node] = event.at
        return lost

    def changes(self) -> Iterator[None]:
        """Yields when the cluster may be another one. Raises StoreError."""
        return self._operations.watch()


class Watching:
    """Looks again whenever something has changed, in a thread of its own, until the process ends:
    at most twice a second, and again and again while etcd does not answer."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._found: SimpleQueue[ClusterStatus | Failed] = SimpleQueue()
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def next(self, timeout_s: float) -> ClusterStatus | Failed | None:
        """The newest that was found since the last call; None: nothing within that time."""
        try:
            found = self._found.get(timeout=timeout_s)
            while True:
                try:
                    found = self._found.get_nowait()
                except Empty:
                    return found
        except Empty:
            return None

    def _run(self) -> None:
        pause = threading.Event()  # never set: it only waits
        while True:
            try:
                for _ in self._look.changes():
                    self._found.put(self._look.status())
                    pause.wait(AT_MOST_EVERY_S)
            except StoreError as error:
                self._found.put(Failed(error))
            pause.wait(AGAIN_AFTER_S)
