"""Writes a node's part of the history. Nothing waits for it, and nothing depends on it.

An event that cannot be written because etcd does not answer is tried again; of those that wait the
oldest are dropped. What etcd refuses is dropped at once.

Events stand under a lease that nobody keeps alive. A new one is taken each day, and each lasts a
day longer than an event is to be kept. The number of events is bounded, too: whoever has written
many deletes the oldest beyond the bound.
"""

import logging
import threading
from collections import deque
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import etcd3.etcdrpc as rpc

from yaim.core.actions import Kind, Note
from yaim.core.model import Revision
from yaim.dcs.etcd.access import EtcdError, EtcdUnreachable
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.connection import EtcdLeaseNotFound
from yaim.dcs.etcd.keys import Keys
from yaim.dcs.etcd.transactions import MAX_OPS, compare_absent, deletion_of, put_of
from yaim.dcs.history import parts_of, write_event
from yaim.dcs.operate import HISTORY_DAYS, HISTORY_EVENTS, HistoryEvent

DAY_S = 86400
LEASE_S = (HISTORY_DAYS + 1) * DAY_S
MOST_WAITING = 100
AGAIN_S = 5.0
"""After how long an event is tried again."""
TIDY_EVERY, TIDY_AT_MOST = 50, 1000
"""After how many events, and at the first, it is looked whether there are too many; and how many
are deleted at once."""

logger = logging.getLogger(__name__)


class Timeline:
    """Its construction starts it."""

    def __init__(self, client: EtcdClient, keys: Keys, again_s: float = AGAIN_S) -> None:
        self._client = client
        self._keys = keys
        self._again_s = again_s
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Note, datetime]] = deque(maxlen=MOST_WAITING)
        """With the number of each, and the time at which it was noted. The first is the one that
        is being written."""
        self._noted = 0
        self._is_written = True
        """Whether the last event was, so that what is wrong is told once."""
        self._lease = 0
        self._lease_until = 0.0
        """When another lease is taken, on the clock of monotonic()."""
        self._since_tidied = TIDY_EVERY
        threading.Thread(target=self._work, name="etcd-history", daemon=True).start()

    def note(self, note: Note) -> None:
        """Never blocks."""
        with self._changed:
            self._noted += 1
            self._waiting.append((self._noted, note, datetime.now(UTC)))
            self._changed.notify_all()

    def finish(self, within_s: float) -> None:
        """Waits until all is written, at most for so long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, within_s)

    def _work(self) -> None:
        while not self._client.is_closed.is_set():
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                first = self._waiting[0]
            is_done = self._try(*first)
            with self._changed:
                # It may have been dropped meanwhile.
                if is_done and self._waiting and self._waiting[0] is first:
                    self._waiting.popleft()
                    self._changed.notify_all()
            if not is_done:
                self._client.is_closed.wait(self._again_s)

    def _try(self, number: int, note: Note, at: datetime) -> bool:
        """Returns whether there is nothing more to be done about this one."""
        try:
            self._write(number, note, at)
        except EtcdUnreachable:
            return False
        except EtcdError as error:
            logger.log(
                logging.WARNING if self._is_written else logging.DEBUG,
                "the history in etcd is not written: %s",
                error,
            )
            self._is_written = False
            return True
        self._is_written = True
        self._since_tidied += 1
        if self._since_tidied >= TIDY_EVERY:
            self._since_tidied = 0
            self._tidy()
        return True

    def _write(self, number: int, note: Note, at: datetime) -> None:
        event = HistoryEvent(
            at=at,
            kind=note.kind,
            nodes=(note.node,),
            addresses=note.addresses,
            by_node=note.by_node,
            reason=note.reason,
            by="",
            revision=Revision(0),
        )
        for index, part in enumerate(parts_of(event)):
            name, value = f"{number}.{index}" if index else f"{number}", write_event(part)
            try:
                self._put(note, name, value, self._lease_in_use())
            except EtcdLeaseNotFound:
                # Revoked by hand, or etcd's data were replaced.
                self._lease_until = 0.0
                self._put(note, name, value, self._lease_in_use())

    def _put(self, note: Note, name: str, value: bytes, lease: int) -> None:
        """Puts the event, unless it is there: it may be after a try that was not answered; and of a
        node that is lost each other node tells."""
        key = (
            self._keys.lost(note.node, note.life)
            if note.kind is Kind.LOST
            else self._keys.event(lease, name)
        )
        self._client.transact(
            rpc.TxnRequest(compare=[compare_absent(key)], success=[put_of(key, value, lease)])
        )

    def _lease_in_use(self) -> int:
        now = monotonic()
        if now >= self._lease_until:
            self._lease = self._client.grant_unkept(LEASE_S)
            self._lease_until = now + DAY_S
        return self._lease

    def _tidy(self) -> None:
        """Deletes the oldest events of all nodes, if there are too many."""
        try:
            tidy(self._client, self._keys)
        except EtcdError as error:
            logger.debug("the history in etcd is not tidied: %s", error)


def tidy(client: EtcdClient, keys: Keys, most: int = HISTORY_EVENTS) -> None:
    """Deletes the oldest events beyond `most`. Raises EtcdError."""
    too_many = client.count(*keys.timeline())[0] - most
    if too_many <= 0:
        return
    oldest = client.oldest(*keys.timeline(), min(too_many, TIDY_AT_MOST))
    for start in range(0, len(oldest), MAX_OPS):
        deletions: list[Any] = [deletion_of(key) for key in oldest[start : start + MAX_OPS]]
        client.transact(rpc.TxnRequest(success=deletions))
