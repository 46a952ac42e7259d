"""The helper at work: the loop, who is connected, and in which order all is done.

One thread, which no disk holds up, nor what somebody passes along: recorder.py and disposal.py have
others for that. Each turn of the loop: see whether the clock jumped; read what has come, hand over
the intents; act, as far as no intent has to be on the disk first, hand over the results, reply;
then do what the clock asks for. What may be asked, and how it is done, is in requests.py and
execution.py; what is held, and until when, in held/.
"""

import math
import os
import signal
import socket
import time
from collections.abc import Mapping

from yaim_helper.clock import ClockSet, Jumps, Timer, boottime
from yaim_helper.held.fencing import NO_FENCE, Fencing
from yaim_helper.held.holdings import Holdings
from yaim_helper.held.reset import NO_RESETTING, Resetting
from yaim_helper.jobs import Inline, RoutingThread
from yaim_helper.policy.rules import Policy, PolicyError
from yaim_helper.protocol import VERSION, Malformed, Request
from yaim_helper.record.entries import hung_up, policy_read, started
from yaim_helper.record.recorder import Recorder
from yaim_helper.serve.connections import (
    MAX_BATCH,
    Connection,
    Ending,
    accepted,
    refuse_descriptors,
    why_no_room,
)
from yaim_helper.serve.disposal import Disposal
from yaim_helper.serve.execution import Execution
from yaim_helper.serve.floods import REST_S, Floods, TokenBucket
from yaim_helper.serve.looks import Looks
from yaim_helper.serve.reload import read_again, why_it_ends
from yaim_helper.serve.reports import Reports
from yaim_helper.serve.requests import Requests, operation_of
from yaim_helper.serve.sd_notify import ServiceManager
from yaim_helper.serve.sources import Sources
from yaim_helper.stderr import tell

MAX_ACCEPTED = 16
"""Connections that are accepted in one turn."""
ACCEPT_EVERY_S = 0.005
"""The time from one such turn to the next: thousands of connections do not keep the helper busy."""
HELLO_WITHIN_S = 5.0
WRITTEN_WITHIN_S = 1.0
"""What is recorded at the start and at the end is waited for, but no longer than this."""
REMADE_EVERY_S = 0.005
"""The time from making fences anew that others have changed to seeing such a change again."""
LINKS_EVERY_S = 0.02
"""The time from one look at whether the kernel has told all links to the next."""
LISTEN_EVERY_S = 0.1
"""The time from hearing of other holders to listening again: a flood of claims gets no more of the
helper's time."""


class Server:
    def __init__(
        self,
        listener: socket.socket,
        policy: Policy,
        recorder: Recorder,
        disposal: Disposal,
        fencing: Fencing = NO_FENCE,
        routing: RoutingThread | None = None,
        resetting: Resetting = NO_RESETTING,
    ) -> None:
        """`routing`: the thread for what may wait for the kernel, where there is a fence. Raises
        KernelError if the kernel does not tell what is on the interfaces."""
        self._recorder = recorder
        self._disposal = disposal
        self._manager = ServiceManager()
        self._routing = routing
        self._jobs = routing or Inline()
        self._holdings = Holdings(
            policy, recorder, self._manager.tell_alive, fencing, self._jobs, resetting
        )
        self._at_start = self._holdings.describe()
        self._buckets = _buckets_of(policy, {})
        """How much each user may send."""
        self._connections: set[Connection] = set()
        self._floods = Floods()
        self._looks = Looks(recorder)
        self._requests = Requests(self._holdings, recorder, self._connections, self._looks)
        self._execution = Execution(
            self._requests, self._holdings, recorder, self._floods, self._jobs, self._spend
        )
        self._reports = Reports(
            self._holdings, recorder, self._requests, self._floods, self._manager, self._looks
        )
        recorder.describe_held = lambda: self._execution.describe(self._connections)
        self._is_stopping = False
        self._is_to_reload = False
        self._jumps = Jumps()
        self._timer = Timer()
        self._clock_set = ClockSet()
        refuse_descriptors(listener)
        listener.setblocking(False)
        self._listener = listener
        self._sources = Sources()
        for each in (listener, self._timer, self._clock_set):
            self._sources.add(each)
        self._sightings = self._holdings.defence.sightings
        for each in self._sightings.sockets():
            self._sources.add(each, self._sightings)
        self._links = self._holdings.defence.links
        self._sources.add(self._links.socket, self._links)
        self._sources.add(recorder, recorder)
        if routing is not None:
            self._sources.add(routing, routing)
        self._watch = self._holdings.watch
        if self._watch is not None:
            self._sources.add(self._watch.news.socket, self._watch)
        self._tables = fencing.changes
        if self._tables is not None:
            self._sources.add(self._tables.socket, self._tables)

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT. Addresses stay, until their deadlines. SIGHUP, which may
        be blocked until here, has the policy read anew."""
        wake_read, wake_write = socket.socketpair()
        for each in (wake_read, wake_write):
            each.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._note_reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))
        self._sources.add(wake_read, wake_read)
        who = os.getpid(), os.getuid(), self._requests.session
        why_not = self._holdings.fencing.why_not
        if why_not is not None and self._holdings.policy.is_fence_wanted:
            tell(f"without a fence: {why_not} (run: yaim doctor)")
        start = started(VERSION, *who, self._recorder.earlier, why_not)
        self._recorder.note([start, *self._at_start])
        self._looks.look(self._holdings.policy, boottime())
        self._recorder.drain(WRITTEN_WITHIN_S)
        self._reports.tell_head()
        self._reports.tell_manager()
        self._manager.tell_ready()
        while not self._is_stopping:
            self.turn()
            if self._is_to_reload:
                self._reload()
            self._reports.tell_manager()
        self._manager.tell_stopping()
        # A disk that hangs may keep this process from ending, and its sockets from closing.
        for connection in list(self._connections):
            self._hang_up(connection, Ending(None))
        self._reports.sum_up()
        self._recorder.note([{"type": "stop", "addresses": len(self._holdings)}])
        self._recorder.drain(WRITTEN_WITHIN_S)
        self._reports.tell_head()

    def turn(self, timeout_s: float | None = None) -> None:
        """Waits until there is something to do, or for so long, and does it."""
        self._timer.set(self._next_at())
        with self._jobs.waiting():
            ready = self._sources.ready(timeout_s)
        jump_s = self._jumps.take_s()
        if jump_s:
            # What is ready is so in the next turn too, but for the connections.
            self._make_up_for(jump_s)
            return
        # What comes next may have waited for as long as this process was stopped.
        self._holdings.end_over(boottime())
        for source, data in ready:
            if source is self._listener:
                self._accept()
            elif isinstance(data, Connection):
                # It may have ended in this turn.
                if data in self._connections:
                    self._serve(data)
                    self._holdings.do_what_is_due()
            elif data is self._recorder:
                self._recorder.take_news()
                self._resume([each for each in self._connections if each.asked])
            elif data is self._sightings:
                self._hear()
            elif self._routing is not None and data is self._routing:
                self._routing.take_done()
                self._resume([each for each in self._connections if each.asked])
            elif self._watch is not None and data is self._watch:
                self._watch.hear()
            elif self._tables is not None and data is self._tables:
                self._sources.rest(source, boottime() + REMADE_EVERY_S)
                self._holdings.see_tables()
            elif data is self._links:
                if self._holdings.waits_for_links:
                    self._sources.rest(source, boottime() + LINKS_EVERY_S)
                else:
                    self._holdings.see_links()
            elif source is self._clock_set:
                self._clock_set.take()
            elif isinstance(data, socket.socket):
                data.recv(64)
        self._do_what_is_due()
        self._reports.tell_head_of_new_segment()

    def _stop(self, _signal: int, _frame: object) -> None:
        self._is_stopping = True

    def _note_reload(self, _signal: int, _frame: object) -> None:
        self._is_to_reload = True

    def _reload(self) -> None:
        """Reads the policy anew. A file that cannot be used leaves the old one in force."""
        self._is_to_reload = False
        old = self._holdings.policy
        try:
            policy = read_again(old)
        except PolicyError as error:
            self._recorder.note([policy_read(str(error))])
            tell(f"{error}\nthe policy stays as it was")
            self._looks.look(old, boottime(), is_refused=True)
            return
        self._recorder.use_policy(policy.sha256)
        self._recorder.note([policy_read(None)])
        tell("\n".join((*policy.warnings, f"{policy.path}: read again")))
        is_same_rate = policy.commands_per_second == old.commands_per_second
        self._buckets = _buckets_of(policy, self._buckets if is_same_rate else {})
        self._holdings.obey(policy)
        self._looks.look(policy, boottime())
        for connection in list(self._connections):
            if (reason := why_it_ends(connection.peer.uid, policy, old)) is not None:
                self._hang_up(connection, Ending(reason))

    # --- connections -----------------------------------------------------------------------

    def _accept(self) -> None:
        """Accepts what has come on the listener, MAX_ACCEPTED connections at most."""
        if self._disposal.is_full:
            self._sources.rest(self._listener, boottime() + REST_S)
            return
        self._sources.rest(self._listener, boottime() + ACCEPT_EVERY_S)
        for _ in range(MAX_ACCEPTED):
            try:
                self.admit(accepted(self._listener))
            except OSError:
                # There is none, or not for want of file descriptors.
                return

    def admit(self, connection: Connection) -> None:
        """Takes in a new connection, unless there is no room for it."""
        users = self._holdings.policy.users
        reason = why_no_room(connection.peer, users, self._connections, self._disposal.waiting())
        if reason is not None:
            self._tell_of_hanging_up(connection, "hung-up", reason)
            self._disposal.hand_over(connection)
            return
        self._connections.add(connection)
        self._sources.add(connection.socket, connection)

    def _hang_up(self, connection: Connection, ending: Ending) -> None:
        """Ends a connection. Its addresses stay: the coordinator may be back before their
        deadlines."""
        self._execution.end(connection)
        if ending.reason is not None:
            self._tell_of_hanging_up(connection, ending.what, ending.reason)
        self._sources.remove(connection.socket)
        self._connections.discard(connection)
        self._disposal.hand_over(connection)

    def _tell_of_hanging_up(self, connection: Connection, what: str, reason: str) -> None:
        if self._floods.takes(connection.peer.uid, what):
            self._recorder.note([hung_up(connection.peer, reason)])

    # --- requests --------------------------------------------------------------------------

    def _serve(self, connection: Connection) -> None:
        """Takes in what has come on a connection, as much as its user may send; does what may be
        done, and replies."""
        bucket = self._buckets[connection.peer.uid]
        began = time.thread_time()
        most = min(MAX_BATCH, bucket.whole(boottime()), connection.room)
        if most <= 0:
            self._sources.rest(connection.socket, bucket.rest_until())
            return
        requests, ending = _received(connection, most)
        self._execution.take_in(connection, requests)
        if ending is not None:
            self._read_no_more(connection, ending)
        self._go_on(connection)
        # An end counts too: who comes and goes sends as much as who stays.
        bucket.spend(len(requests) + (ending is not None), time.thread_time() - began)

    def _read_no_more(self, connection: Connection, ending: Ending) -> None:
        connection.ending = connection.ending or ending
        self._sources.rest(connection.socket, math.inf)

    def _spend(self, uid: int, took_s: float, count: int) -> None:
        """A user's requests took so much time in a job."""
        if uid in self._buckets:
            self._buckets[uid].spend_more(took_s, count)

    def _resume(self, connections: list[Connection]) -> None:
        """Goes on with what waited on these connections."""
        for connection in connections:
            began = time.thread_time()
            self._execution.hand_over_deferred(connection)
            count = self._go_on(connection)
            self._buckets[connection.peer.uid].spend_more(time.thread_time() - began, count)
            self._holdings.do_what_is_due()

    def _go_on(self, connection: Connection) -> int:
        """Does what may be done of what was asked, replies, and returns how many requests that
        were."""
        count = self._execution.do_what_may_be_done(connection)
        try:
            connection.reply()
        except OSError as error:
            # A peer that has gone is not told of: only its end has not been read yet.
            reason = f"does not take its replies: {error.strerror}"
            self._read_no_more(connection, Ending(None if connection.is_gone() else reason))
        if connection.ending is not None and all(each.reply for each in connection.asked):
            self._hang_up(connection, connection.ending)
        return count

    # --- the clock -------------------------------------------------------------------------

    def _next_at(self) -> float:
        """Returns when there is something to do if nothing comes."""
        times = [self._reports.next_at(), self._holdings.next_at(), self._disposal.next_at()]
        times += self._sources.wake_at()
        times += [c.opened_at + HELLO_WITHIN_S for c in self._connections if c.cluster is None]
        times += [c.look_at for c in self._connections]
        return min(times)

    def _do_what_is_due(self) -> None:
        self._holdings.do_what_is_due()
        now = boottime()
        self._resume([each for each in self._connections if now >= each.look_at])
        self._reports.see_whether_disk_hangs(now)
        self._disposal.hurry(now)
        self._sources.wake(now)
        for connection in [c for c in self._connections if c.cluster is None]:
            if now >= connection.opened_at + HELLO_WITHIN_S:
                self._hang_up(connection, Ending("did not say hello"))
        self._reports.sum_up_if_due(now)

    def _make_up_for(self, jump_s: float) -> None:
        """Does what follows when the host may have been away for so long without any clock that
        deadlines are counted in.

        What was asked before does not know of it, and may be waiting on any connection: they are
        all ended. The coordinator comes back, and is told the deadlines as they are now.
        """
        self._recorder.note([{"type": "clock", "jump_s": round(jump_s, 6)}])
        why = f"the clock jumped by {jump_s:.3f} s: the host may have been paused"
        self._holdings.draw_deadlines_nearer(jump_s, why)
        self._execution.begin_no_more_adds()
        for connection in list(self._connections):
            self._hang_up(connection, Ending(why))

    def _hear(self) -> None:
        """Notes who else has an address that is held, and listens no more for a while."""
        for each in self._sightings.sockets():
            self._sources.rest(each, boottime() + LISTEN_EVERY_S)
        self._holdings.hear()


def _received(connection: Connection, most: int) -> tuple[list[Request], Ending | None]:
    """Returns what has come on a connection, that many requests at most, and why it ends, if it
    does. A request that is not done together with those behind it is the last."""
    requests: list[Request] = []
    while len(requests) < most:
        try:
            requests.append(connection.receive())
        except BlockingIOError:
            break
        except (EOFError, OSError):
            return requests, Ending(None)
        except Malformed as error:
            return requests, Ending(f"malformed: {error}", "malformed")
        if not operation_of(requests[-1]).may_be_batched:
            break
    return requests, None


def _buckets_of(policy: Policy, kept: Mapping[int, TokenBucket]) -> dict[int, TokenBucket]:
    """Returns how much each user of the policy may send, as it was kept if it was."""
    rate, now = policy.commands_per_second, boottime()
    return {uid: kept.get(uid) or TokenBucket(rate, rate, now) for uid in policy.users}
