"""Between a host and etcd: slow, lossy, and cut one way or both.

As in yaim/dcs/etcd/store.py: lease requests on their own, reads and writes one after the other,
each given up after a time; whether it is done nonetheless, and when, is then anybody's guess.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, assert_never

from yaim.core.actions import (
    AdvertiseNode,
    ClaimMarks,
    EtcdAction,
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
    ClusterReadFailed,
    Event,
    LeaseFailed,
    WriteFailed,
)
from yaim.core.model import ClusterView

if TYPE_CHECKING:
    from tests.sim.host import Host

WAIT_S = 0.05
"""What cannot be carried out yet is tried again after this long."""
STRAY_S = (0.5, 1.2, 2.5)
"""How long a request takes that has gone astray."""
REFUSED = ClusterReadFailed("more than is read")


class Wire:
    def __init__(self, host: "Host") -> None:
        self._host = host
        self._timeline = host.world.timeline
        self._queue: deque[EtcdAction] = deque()
        self._is_busy = False
        self.requests_cut_until = 0.0
        self.answers_cut_until = 0.0
        self.watch_cut_until = 0.0
        self.blind_until = 0.0
        """Reads are refused, and so there is no watch; all else is answered."""
        self.slow_until = 0.0
        self.lossy_until = 0.0
        self._is_watch_behind = False

    def cut_until(self, until: float) -> None:
        """Nothing comes through in either direction."""
        self.requests_cut_until = self.answers_cut_until = self.watch_cut_until = until

    def heal(self) -> None:
        self.requests_cut_until = self.answers_cut_until = self.watch_cut_until = 0.0
        self.slow_until = self.lossy_until = self.blind_until = 0.0

    def forget(self) -> None:
        """The coordinator is gone; what it has sent is on its way."""
        self._queue.clear()
        self._is_busy = False

    # --- the watch -------------------------------------------------------------------------

    def watched(self, view: ClusterView) -> None:
        """etcd has changed. A watch that breaks is begun anew, with what is there then."""
        if self._is_watch_behind:
            return
        if self._is_watch_cut() or self._is_lost():
            self._is_watch_behind = True
            self._timeline.later(WAIT_S, self._catch_up)
            return
        self._host.post_after(self._delay_s(), ClusterChanged(view))

    def _catch_up(self) -> None:
        world = self._host.world
        if self._is_watch_cut() or not world.etcd.is_up or self._is_cut():
            self._timeline.later(WAIT_S, self._catch_up)
            return
        self._is_watch_behind = False
        self._host.post_after(self._delay_s(), ClusterChanged(world.etcd.view()))

    # --- requests --------------------------------------------------------------------------

    def ask(self, action: EtcdAction) -> None:
        if isinstance(action, GrantLease | KeepLease | RevokeLease):
            self._send(action, lambda: None)
            return
        self._queue.append(action)
        if not self._is_busy:
            self._next()

    def _next(self) -> None:
        self._is_busy = bool(self._queue)
        if self._queue:
            self._send(self._queue.popleft(), self._next)

    def _send(self, action: EtcdAction, done: Callable[[], None]) -> None:
        """`done` is called when the answer is there or the time is over."""
        host, etcd, timeline = self._host, self._host.world.etcd, self._timeline
        life, sent_at = host.life, host.clock()
        is_over = False

        def finish(event: Event) -> None:
            nonlocal is_over
            if is_over or life != host.life:
                return
            is_over = True
            host.post(event, life)
            done()

        def arrive() -> None:
            if not etcd.is_up:
                # Some members drop what they cannot hand on, some keep it.
                if not is_kept:
                    return
                timeline.later(WAIT_S, arrive)
                return
            is_refused = isinstance(action, ReadCluster) and timeline.now < self.blind_until
            answer = REFUSED if is_refused else etcd.do(action, host.name, sent_at)
            if answer is None:
                timeline.later(WAIT_S, arrive)
                return
            event = answer
            if timeline.now >= self.answers_cut_until and not self._is_lost():
                host.deliver(self._delay_s(), lambda: finish(event))

        is_kept = host.random.random() < 0.5
        if timeline.now >= self.requests_cut_until and not self._is_lost():
            timeline.later(self._delay_s(), arrive)
        host.at(sent_at + host.world.etcd_timeout_s, lambda: finish(unanswered(action)))

    def _is_watch_cut(self) -> bool:
        return self._timeline.now < max(self.watch_cut_until, self.blind_until)

    def _is_cut(self) -> bool:
        return self._timeline.now < max(self.requests_cut_until, self.answers_cut_until)

    def _is_lost(self) -> bool:
        share = 0.3 if self._timeline.now < self.lossy_until else self._host.world.loss
        return self._host.random.random() < share

    def _delay_s(self) -> float:
        random = self._host.random
        if self._is_lost():
            return random.choice(STRAY_S)
        if self._timeline.now < self.slow_until:
            return random.uniform(0.1, 0.8)
        return random.choice((0.0005, 0.002, 0.005))


def unanswered(action: EtcdAction) -> Event:
    reason = "no answer in time"
    match action:
        case ReadCluster():
            return ClusterReadFailed(reason)
        case GrantLease() | KeepLease() | RevokeLease():
            return LeaseFailed(reason)
        case AdvertiseNode() | WithdrawNode() | ClaimMarks() | ReleaseMarks():
            return WriteFailed(action.request, reason)
        case Note():
            raise AssertionError("nobody waits for an answer")
        case _:
            assert_never(action)
