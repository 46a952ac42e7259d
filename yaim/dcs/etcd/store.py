"""Carries out the core's actions in etcd, and reports what the watch tells.

Four threads: one for the lease, so that a keepalive never waits behind anything; one for reads
and writes, in the order given (writes: transactions.py); one for the watch; and one for the history
(timeline.py), for which nothing waits. Each result is handed to `post` as an event. Decides
nothing.
"""

import logging
import random
import threading
from collections.abc import Callable
from math import inf
from queue import SimpleQueue
from time import monotonic
from typing import TypeAlias, assert_never

from yaim.core.actions import (
    AdvertiseNode,
    ClaimMarks,
    GrantLease,
    KeepLease,
    Note,
    ReadCluster,
    ReleaseMarks,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.events import (
    ClusterChanged,
    ClusterRead,
    ClusterReadFailed,
    Event,
    LeaseFailed,
    LeaseGone,
    LeaseKept,
    LeaseRevoked,
    WriteFailed,
)
from yaim.core.model import ClusterView, LeaseId, NodeName
from yaim.dcs.etcd.access import EtcdAccess, EtcdError
from yaim.dcs.etcd.client import EtcdClient, EtcdLease
from yaim.dcs.etcd.connection import EtcdFull, EtcdLeaseNotFound
from yaim.dcs.etcd.keys import Keys
from yaim.dcs.etcd.mirror import Mirror
from yaim.dcs.etcd.survey import Survey
from yaim.dcs.etcd.timeline import Timeline
from yaim.dcs.etcd.transactions import Transactions

WATCH_PAUSE_MIN_S = 0.1
WATCH_PAUSE_MAX_S = 2.0
"""A watch that has ended is made anew after a pause, which doubles from the one to the other as
long as no watch lasts."""
WATCH_WAITS_S = 5.0
"""How long the watch, when etcd cannot be read, waits at most for some other request to succeed."""
VIEWS_AT_ONCE = 25
VIEW_EVERY_S, VIEWS_SHARE = 0.02, 0.2
"""After VIEWS_AT_ONCE changes in quick succession the next ones are taken in together: a view each
0.02 s and for a fifth of the time at most. Meanwhile etcd keeps them, and nothing waits here."""
WATCH_ANSWERS_AT_MOST = 2000
"""The most answers of a watch in one second. A watch that tells more would cost a processor: it is
left, and what is read has to do meanwhile."""
LAST_NOTES_S = 0.5
"""How long a node that has given up its lease waits for the history at most."""

logger = logging.getLogger(__name__)

LeaseAction: TypeAlias = GrantLease | KeepLease | RevokeLease
Request: TypeAlias = ReadCluster | AdvertiseNode | WithdrawNode | ClaimMarks | ReleaseMarks
EtcdAction: TypeAlias = LeaseAction | Request | Note


class EtcdStore:
    """Its construction starts it. `submit` never blocks."""

    def __init__(
        self, client: EtcdClient, keys: Keys, node: NodeName, post: Callable[[Event], None]
    ) -> None:
        self._client = client
        self._keys = keys
        self._post = post
        self._survey = Survey(client)
        client.keep_refreshed()
        self._mirror = Mirror(keys)
        self._transactions = Transactions(client, keys, node)
        self._timeline = Timeline(client, keys)
        self._has_answered = threading.Event()
        """It is set by every answer of etcd's: a watch that waits for one need not wait longer."""
        self._gone: tuple[LeaseId | None, float] = None, inf
        """The lease of which etcd has last said that it is gone, and when."""
        self._lease_actions: SimpleQueue[LeaseAction] = SimpleQueue()
        self._requests: SimpleQueue[Request] = SimpleQueue()
        for name, work in (
            ("etcd-lease", self._work_on_lease),
            ("etcd-requests", self._work_on_requests),
            ("etcd-watch", self._work_on_watch),
        ):
            threading.Thread(target=work, name=name, daemon=True).start()

    def submit(self, action: EtcdAction) -> None:
        match action:
            case GrantLease() | KeepLease() | RevokeLease():
                self._lease_actions.put(action)
            case ReadCluster() | AdvertiseNode() | WithdrawNode() | ClaimMarks() | ReleaseMarks():
                self._requests.put(action)
            case Note():
                self._timeline.note(action)
            case _:
                assert_never(action)

    def use(self, access: EtcdAccess) -> None:
        """Reaches etcd by this access from now on, if it works."""
        self._client.use(access)

    # --- the lease -------------------------------------------------------------------------

    def _work_on_lease(self) -> None:
        while True:
            self._post(self._do_with_lease(self._lease_actions.get()))

    def _do_with_lease(self, action: LeaseAction) -> Event:
        event = self._ask_about_lease(action)
        if isinstance(event, LeaseFailed):
            self._survey.soon()
        else:
            self._has_answered.set()
        return event

    def _ask_about_lease(self, action: LeaseAction) -> Event:
        try:
            match action:
                case GrantLease(ttl_s):
                    return _kept(self._client.grant(ttl_s))
                case KeepLease(lease):
                    return _kept(self._client.keep(lease))
                case RevokeLease(lease):
                    self._client.revoke(lease)
                    # It is the last thing that a node does: what it has noted is still to be told.
                    self._timeline.finish(LAST_NOTES_S)
                    return LeaseRevoked(lease)
                case _:
                    assert_never(action)
        except EtcdLeaseNotFound:
            if isinstance(action, GrantLease):
                return LeaseFailed("etcd lost the lease while granting it")
            gone, since = self._gone
            if gone == action.lease and self._mirror.was_shown(action.lease, since):
                # Asked about at once, and again and again, it would keep a processor busy.
                return LeaseFailed(
                    f"etcd says that lease {action.lease:x} is gone, and shows what stands under it"
                )
            self._gone = action.lease, monotonic()
            return LeaseGone(action.lease)
        except EtcdError as error:
            return LeaseFailed(str(error))

    # --- reads and writes ------------------------------------------------------------------

    def _work_on_requests(self) -> None:
        while True:
            request = self._requests.get()
            try:
                event = self._do(request)
                self._has_answered.set()
            except EtcdError as error:
                self._survey.soon()
                if isinstance(request, ReadCluster):
                    event = ClusterReadFailed(str(error))
                else:
                    is_full = isinstance(error, EtcdFull)
                    event = WriteFailed(request.request, str(error), is_full)
            self._post(event)

    def _do(self, request: Request) -> Event:
        match request:
            case ReadCluster():
                return ClusterRead(self._read())
            case AdvertiseNode():
                return self._transactions.advertise(request)
            case WithdrawNode():
                return self._transactions.withdraw(request)
            case ClaimMarks():
                return self._transactions.claim(request)
            case ReleaseMarks():
                return self._transactions.release(request)
            case _:
                assert_never(request)

    def _read(self) -> ClusterView:
        """Reads everything, and leaves an endpoint whose watch does not tell what happens."""
        if self._mirror.is_watch_behind:
            self._client.leave_endpoint("its watch does not tell what is read")
        known, sent_at = self._mirror.revision, monotonic()
        pairs, revision = self._client.read_ranges(*self._keys.ranges())
        return self._mirror.replace(pairs, revision, is_newer_than=known, sent_at=sent_at)

    # --- the watch -------------------------------------------------------------------------

    def _work_on_watch(self) -> None:
        """Reads everything, then follows the changes; begins again when that breaks."""
        pause_s = WATCH_PAUSE_MIN_S
        while not self._client.is_closed.is_set():
            self._has_answered.clear()
            try:
                self._post(ClusterChanged(self._read()))
            except EtcdError:
                # The core's own requests fail likewise, are reported, and go on until etcd answers.
                self._has_answered.wait(WATCH_WAITS_S)
                continue
            began = monotonic()
            error = self._watch()
            if monotonic() > began + WATCH_PAUSE_MAX_S:
                pause_s = WATCH_PAUSE_MIN_S
            self._client.is_closed.wait(pause_s * random.uniform(0.5, 1.0))
            if pause_s < WATCH_PAUSE_MAX_S <= 2 * pause_s:
                logger.warning(
                    "the watch on etcd ends again and again, changes are seen a few seconds later:"
                    " %s",
                    error,
                )
            pause_s = min(2 * pause_s, WATCH_PAUSE_MAX_S)

    def _watch(self) -> EtcdError:
        """Follows the changes until that is impossible. Returns why it is."""
        since, answers = monotonic(), 0
        try:
            next_at = monotonic()
            for answer in self._client.watch(*self._keys.watched(), self._mirror.watch_from()):
                answers += 1
                if monotonic() >= since + 1.0:
                    since, answers = monotonic(), 0
                elif answers > WATCH_ANSWERS_AT_MOST:
                    return EtcdError(
                        f"more than {WATCH_ANSWERS_AT_MOST} changes in a second below"
                        f" {self._keys.prefix}: find out who writes there"
                    )
                if not self._mirror.apply(answer):
                    continue
                began = monotonic()
                self._post(ClusterChanged(self._mirror.view()))
                took_s = monotonic() - began
                next_at = max(next_at, began - VIEWS_AT_ONCE * VIEW_EVERY_S)
                next_at += max(VIEW_EVERY_S, took_s / VIEWS_SHARE)
                self._client.is_closed.wait(max(0.0, next_at - monotonic()))
        except EtcdError as error:
            return error
        finally:
            self._mirror.watch_ended()
        raise AssertionError("a watch has no end of its own")


def _kept(lease: EtcdLease) -> LeaseKept:
    return LeaseKept(LeaseId(lease.id), lease.ttl_s, lease.sent_at)
