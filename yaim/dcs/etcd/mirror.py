"""The cluster's keys in etcd as they were last read, with the changes since.

Takes over what full reads and the watch tell, and notices a watch that does not tell what a read
has told. Asks etcd nothing itself.
"""

import threading
from math import inf
from time import monotonic
from typing import Any

from yaim.core.model import ClusterView
from yaim.dcs.etcd.access import EtcdError
from yaim.dcs.etcd.client import read_pair
from yaim.dcs.etcd.connection import too_much
from yaim.dcs.etcd.keys import MAX_BYTES, MAX_KEYS, Keys, KeyValue, Reading

WATCH_LATE_S = 1.0
"""A watch that has not told this much later what a read has told is made anew, at the next
read."""


class Mirror:
    """Thread-safe."""

    def __init__(self, keys: Keys) -> None:
        self._lock = threading.Lock()
        self._reading = Reading(keys)
        self.revision = 0
        self._shown: tuple[frozenset[int], float] = frozenset(), 0.0
        """The leases in the last full read, and when that read was sent."""
        self._is_watching = False
        self._awaited = 0
        """A revision that a read has told and the watch has not; 0: there is none."""
        self._awaited_since = inf

    def replace(
        self,
        pairs: dict[bytes, KeyValue],
        revision: int,
        *,
        is_newer_than: int,
        sent_at: float,
    ) -> ClusterView:
        """Takes over a full read. `is_newer_than`: our revision before the read was sent.

        A read is linearizable: if it is older than what was known before, etcd's history has been
        replaced (data wiped or restored), and the read is the truth all the same.
        """
        with self._lock:
            self._shown = frozenset(pair.lease for pair in pairs.values()), sent_at
            if revision >= self.revision or revision < is_newer_than:
                if self._reading.replace(pairs) and not self._awaited:
                    self._awaited, self._awaited_since = revision, monotonic()
                self.revision = revision
            return self._reading.view(self.revision)

    def was_shown(self, lease: int, since: float) -> bool:
        """Whether a full read that was sent after `since` has told of a key under the lease."""
        with self._lock:
            leases, sent_at = self._shown
            return sent_at > since and lease in leases

    def watch_from(self) -> int:
        """Begins a watch. Returns the revision from which on it has to tell what happens."""
        with self._lock:
            self._is_watching, self._awaited = True, 0
            return self.revision + 1

    def watch_ended(self) -> None:
        with self._lock:
            self._is_watching = False

    @property
    def is_watch_behind(self) -> bool:
        """Whether the watch goes on, but does not tell what has been read."""
        with self._lock:
            is_late = monotonic() > self._awaited_since + WATCH_LATE_S
            return self._is_watching and self._awaited > 0 and is_late

    def view(self) -> ClusterView:
        with self._lock:
            return self._reading.view(self.revision)

    def apply(self, answer: Any) -> bool:
        """Takes over the events of a WatchResponse. Returns whether one of them counts. Raises
        EtcdError if there is too much."""
        with self._lock:
            known, is_news = self.revision, False
            if answer.header.revision >= self._awaited:
                self._awaited = 0
            for event in answer.events:
                if event.kv.mod_revision <= known:
                    continue
                is_news = is_news or self._reading.counts(event.kv.key)
                if event.type == event.DELETE:
                    self._reading.delete(event.kv.key)
                else:
                    self._reading.put(event.kv.key, read_pair(event.kv))
                self.revision = max(self.revision, event.kv.mod_revision)
            if self._reading.is_too_much:
                raise EtcdError(too_much(f"{MAX_KEYS} keys or {MAX_BYTES} bytes"))
            return is_news
