"""The helper at work: who is connected, what they ask, and in which order all is done.

One thread, which no disk holds up, nor what somebody passes along: recorder.py and disposal.py have
others for that. Each turn of the loop: see
whether the clock jumped; read what has come, hand over the intents; act, as far as no intent has to
be on the disk first, hand over the results, reply; then do what the clock asks for. What may be
done when is asked.py's, what is held, and until when, holdings.py's.
"""

import math
import os
import signal
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import assert_never

from yaim_helper.clock import ClockSet, Jumps, Timer, boottime
from yaim_helper.held.holdings import Holdings, Host
from yaim_helper.kernel.addresses import KernelError
from yaim_helper.policy.rules import Policy, PolicyError, read_policy
from yaim_helper.protocol import (
    VERSION,
    Add,
    Announce,
    Failed,
    Hello,
    List,
    Malformed,
    Ok,
    Refused,
    Remove,
    Renew,
    Reply,
    Request,
)
from yaim_helper.record.entries import (
    Entry,
    Owner,
    hung_up,
    intent,
    policy_read,
    renewals,
    result,
    started,
)
from yaim_helper.record.heads import tell_head
from yaim_helper.record.log import session
from yaim_helper.record.recorder import Recorder
from yaim_helper.serve.asked import DISK_HANGS, Asked, overtaken, ready
from yaim_helper.serve.connections import (
    MAX_BATCH,
    REST_S,
    Allowance,
    Connection,
    Ending,
    accepted,
    refuse_descriptors,
    why_no_room,
)
from yaim_helper.serve.disposal import Disposal
from yaim_helper.serve.floods import Floods
from yaim_helper.serve.sd_notify import ServiceManager
from yaim_helper.serve.sources import Sources

MAX_ACCEPTED = 16
"""Connections in one turn."""
ACCEPT_EVERY_S = 0.005
"""From one such turn to the next: thousands of connections do not keep the helper busy."""
MAX_CLUSTERS_OF_USER, MAX_CLUSTERS = 64, 1024
"""That hold addresses or are connected: one line of the record, and the marker, name them all."""
HELLO_WITHIN_S = 5.0
SUMMARY_EVERY_S = 60.0
WRITTEN_WITHIN_S = 1.0
"""What is recorded at the start and at the end is waited for, but not for ever."""
LISTEN_EVERY_S = 0.1
"""From hearing of other holders to listening again: whoever floods us gets no more of our time."""


@dataclass(slots=True)
class _Renewals:
    """What is summed up in the record."""

    counts: Counter[Owner] = field(default_factory=Counter)
    """Of those who hold anything."""
    since: float = field(default_factory=boottime)


def tell(text: str) -> None:
    """Whoever runs the helper, if standard error can be written."""
    with suppress(OSError):
        for line in text.splitlines():
            print(f"yaim-helper: {line}", file=sys.stderr, flush=True)  # noqa: T201


class Server:
    def __init__(
        self, listener: socket.socket, policy: Policy, recorder: Recorder, disposal: Disposal
    ) -> None:
        self._policy = policy
        self._recorder = recorder
        self._disposal = disposal
        self._manager = ServiceManager()
        self._holdings = Holdings(policy, recorder, self._manager.tell_alive)
        recorder.describe_held = self._describe
        self._at_start = self._holdings.describe()
        self._told_head = (0, 0)
        """Segment and record whose hash was told last, outside the record."""
        self._allowances = self._allowances_of(policy)
        self._connections: set[Connection] = set()
        self._renewals = _Renewals()
        self._floods = Floods()
        self._session = session()
        self._is_stopping = False
        self._is_to_reload = False
        self._does_disk_hang = False
        """The record's, when that was last looked at."""
        self._jumps = Jumps()
        self._timer = Timer()
        self._clock_set = ClockSet()
        refuse_descriptors(listener)
        listener.setblocking(False)
        self._listener = listener
        self._sources = Sources()
        for each in (listener, self._timer, self._clock_set):
            self._sources.add(each)
        for ear in self._holdings.conflicts.sockets():
            self._sources.add(ear, self._holdings.conflicts)
        self._sources.add(self._holdings.links.socket, self._holdings.links)
        self._sources.add(recorder, recorder)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Addresses stay, until their deadlines. SIGHUP, which may
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
        who = os.getpid(), os.getuid(), self._session
        start = started(VERSION, *who, self._recorder.earlier)
        self._recorder.note([start, *self._at_start])
        self._recorder.drain(WRITTEN_WITHIN_S)
        self._tell_head()
        self._tell_manager()
        self._manager.tell_ready()
        while not self._is_stopping:
            self.turn()
            if self._is_to_reload:
                self._reload()
            self._tell_manager()
        self._manager.tell_stopping()
        # A disk that hangs may keep this process from ending, and its sockets from closing.
        for connection in list(self._connections):
            self._hang_up(connection, Ending(None))
        self._sum_up()
        self._recorder.note([{"type": "stop", "addresses": len(self._holdings)}])
        self._recorder.drain(WRITTEN_WITHIN_S)
        self._tell_head()

    def turn(self, timeout_s: float | None = None) -> None:
        """Wait until there is something to do, or for so long, and do it."""
        self._timer.set(self._next_at())
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
            elif data is self._holdings.conflicts:
                self._hear()
            elif data is self._holdings.links:
                self._holdings.see_links()
            elif source is self._clock_set:
                self._clock_set.take()
            elif isinstance(data, socket.socket):
                data.recv(64)
        self._do_what_is_due()
        if self._recorder.number != self._told_head[0]:
            self._tell_head()

    def _stop(self, _signal: int, _frame: object) -> None:
        self._is_stopping = True

    def _note_reload(self, _signal: int, _frame: object) -> None:
        self._is_to_reload = True

    # --- the policy ------------------------------------------------------------------------

    def _reload(self) -> None:
        """Read the policy anew; a wrong one leaves the old one in force."""
        self._is_to_reload = False
        old = self._policy
        try:
            policy = read_policy(old.path)
            if policy.audit_log != old.audit_log:
                raise PolicyError(
                    f"{old.path}: audit-log: is {old.audit_log} until the helper is started anew;"
                    " restart it, or put that back"
                )
        except PolicyError as error:
            self._recorder.note([policy_read(str(error))])
            tell(f"{error}\nthe policy stays as it was")
            return
        self._recorder.use_policy(policy.sha256)
        self._recorder.note([policy_read(None)])
        tell("\n".join((*policy.warnings, f"{policy.path}: read again")))
        self._policy = policy
        self._allowances = self._allowances_of(policy, old)
        self._holdings.obey(policy)
        for connection in list(self._connections):
            if connection.peer.uid not in policy.users:
                self._hang_up(connection, Ending("its user is not in the policy any more"))
            elif policy.rules != old.rules:
                # hello tells the new ones.
                self._hang_up(connection, Ending("the rules have changed"))

    def _allowances_of(self, policy: Policy, old: Policy | None = None) -> dict[int, Allowance]:
        """Those of the old policy, if they are the same."""
        rate = policy.commands_per_second
        kept = self._allowances if old is not None and old.commands_per_second == rate else {}
        now = boottime()
        return {uid: kept.get(uid) or Allowance(rate, rate, now) for uid in policy.users}

    # --- connections -----------------------------------------------------------------------

    def _accept(self) -> None:
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
        """A new connection, unless there is no room for it."""
        reason = why_no_room(
            connection.peer, self._policy.users, self._connections, self._disposal.waiting()
        )
        if reason is not None:
            self._tell_of_hanging_up(connection, "hung-up", reason)
            self._disposal.hand_over(connection)
            return
        self._connections.add(connection)
        self._sources.add(connection.socket, connection)

    def _hang_up(self, connection: Connection, ending: Ending) -> None:
        """End a connection. Its addresses stay: the coordinator may be back before their
        deadlines."""
        over = [each for each in connection.asked if each.intent and each.reply is None]
        self._note_results(connection, over)
        if ending.reason is not None:
            self._tell_of_hanging_up(connection, ending.what, ending.reason)
        self._sources.remove(connection.socket)
        self._connections.discard(connection)
        self._disposal.hand_over(connection)

    def _tell_of_hanging_up(self, connection: Connection, what: str, reason: str) -> None:
        if self._floods.takes(connection.peer.uid, what):
            self._recorder.note([hung_up(connection.peer, reason)])

    def _serve(self, connection: Connection) -> None:
        """Take in what has come on a connection, as much as its user may send; do what may be done,
        and reply."""
        allowance = self._allowances[connection.peer.uid]
        began = time.thread_time()
        most = min(MAX_BATCH, allowance.whole(boottime()), connection.room)
        if most <= 0:
            self._sources.rest(connection.socket, allowance.rest_until())
            return
        requests: list[Request] = []
        ending: Ending | None = None
        while ending is None and len(requests) < most:
            try:
                requests.append(connection.receive())
                if isinstance(requests[-1], Renew | List):
                    # One of these may be about all addresses.
                    break
            except BlockingIOError:
                break
            except (EOFError, OSError):
                ending = Ending(None)
            except Malformed as error:
                ending = Ending(f"malformed: {error}", "malformed")
        self._take(connection, requests)
        if ending is not None:
            self._read_no_more(connection, ending)
        self._go_on(connection)
        # An end counts too: who comes and goes sends as much as who stays.
        allowance.spend(len(requests) + (ending is not None), time.thread_time() - began)

    def _read_no_more(self, connection: Connection, ending: Ending) -> None:
        connection.ending = connection.ending or ending
        self._sources.rest(connection.socket, math.inf)

    # --- requests --------------------------------------------------------------------------

    def _take(self, connection: Connection, requests: list[Request]) -> None:
        """What is refused whatever is on the host has no effect, and so no intent."""
        now = boottime()
        does_hang = self._recorder.does_disk_hang(now)
        asked = [Asked(each, now, self._known(each, does_hang)) for each in requests]
        self._intend(
            connection,
            [
                each
                for each in asked
                if each.known is None and isinstance(each.request, Add | Remove | Announce)
            ],
        )
        connection.asked.extend(asked)

    def _intend(self, connection: Connection, asked: list[Asked]) -> None:
        """Hand over the intents, together. Those of adds wait while the record has to tell what is
        held: it cannot as long as one is under way, and one always could be."""
        has_to_tell = self._recorder.has_to_tell_held
        for each in asked:
            each.is_deferred = has_to_tell and isinstance(each.request, Add)
        intended = [each for each in asked if not each.is_deferred]
        if intended:
            handed = self._recorder.ask(
                [
                    intent(connection.peer, connection.cluster, request, self._rule_for(request))
                    for request in (each.request for each in intended)
                ]
            )
            for each in intended:
                each.intent = handed

    def _known(self, request: Request, does_hang: bool) -> Reply | None:
        refusal = self._holdings.refusal(request) if isinstance(request, Add) else None
        if refusal is None and does_hang and isinstance(request, Add | Announce):
            return DISK_HANGS
        return refusal

    def _resume(self, connections: list[Connection]) -> None:
        """With what waited."""
        for connection in connections:
            began = time.thread_time()
            deferred = [each for each in connection.asked if each.is_deferred and not each.reply]
            self._intend(connection, deferred)
            count = self._go_on(connection)
            allowance = self._allowances[connection.peer.uid]
            allowance.spend_more(time.thread_time() - began, count)
            self._holdings.do_what_is_due()

    def _go_on(self, connection: Connection) -> int:
        """Do what may be done of what was asked, together, and reply; how much that was."""
        doing, connection.look_at = ready(connection.asked, boottime())
        self._do_together(connection, doing)
        try:
            connection.reply()
        except OSError as error:
            # Who has gone is not told of: only its end has not been read yet.
            reason = f"does not take its replies: {error.strerror}"
            self._read_no_more(connection, Ending(None if connection.is_gone() else reason))
        if connection.ending is not None and all(each.reply for each in connection.asked):
            self._hang_up(connection, connection.ending)
        return len(doing)

    def _do_together(self, connection: Connection, doing: list[Asked]) -> None:
        host = self._holdings.host(
            {each.request.address for each in doing if isinstance(each.request, Add | Remove)}
        )
        over: list[Asked] = []
        for each in doing:
            each.reply = (
                each.known or each.obstacle(boottime()) or self._do(connection, each.request, host)
            )
            if isinstance(each.reply, Ok):
                over += overtaken(connection.asked, each)
        went_wrong = self._holdings.settle(host)
        for each in doing:
            if (error := went_wrong.get(each.request.id)) is not None:
                each.reply = Failed(error.errno, error.reason)
        self._note_results(connection, [*over, *doing])

    def _note_results(self, connection: Connection, over: list[Asked]) -> None:
        peer, cluster = connection.peer, connection.cluster
        self._recorder.note(
            result(peer, cluster, each.request, each.on_record)
            for each in over
            if each.intent or self._is_told(peer.uid, each.request, each.on_record)
        )

    def _is_told(self, uid: int, request: Request, reply: Reply) -> bool:
        """Whether the record tells the result of what needed no intent."""
        match reply:
            case Ok():
                return isinstance(request, Hello) and self._floods.takes(uid, "hello")
            case Refused():
                return self._floods.takes(uid, "refused")
            case Failed():
                return self._floods.takes(uid, "failed")
            case _:
                assert_never(reply)

    def _describe(self) -> list[Entry] | None:
        """What is held; None: the kernel does not tell, or an add may come behind it whose intent
        comes before it."""
        asked = (each for connection in self._connections for each in connection.asked)
        if any(a.intent and a.reply is None and isinstance(a.request, Add) for a in asked):
            return None
        try:
            return self._holdings.describe()
        except KernelError:
            return None

    def _rule_for(self, request: Request) -> int | None:
        rule = self._policy.rule_for(request) if isinstance(request, Add) else None
        return rule.number if rule is not None else None

    def _do(self, connection: Connection, request: Request, host: Host) -> Reply:
        if isinstance(request, Hello):
            reply = self._hello(connection, request)
            if not isinstance(reply, Ok):
                connection.cluster = None
            return reply
        owner = connection.owner
        if owner is None:
            return Refused("not-allowed", "hello was refused")
        try:
            if not isinstance(request, Add):
                self._holdings.put_waiting(host)
            match request:
                case Add():
                    return self._holdings.add(owner, request, host)
                case Remove():
                    return self._holdings.remove(owner, request.address, host)
                case Renew():
                    host.has_changed()
                    return self._renew(owner, request)
                case List():
                    return self._holdings.page(owner, request.after, host)
                case Announce():
                    return self._holdings.announce(owner, request.address)
                case _:
                    assert_never(request)
        except KernelError as error:
            return Failed(error.errno, error.reason)

    def _renew(self, owner: Owner, renew: Renew) -> Reply:
        reply = self._holdings.renew(owner, renew.deadline_ns / 1e9)
        if not isinstance(reply, Ok):
            return reply
        deadlines = self._holdings.deadlines()
        if owner in deadlines:
            self._renewals.counts[owner] += 1
        self._recorder.mark(deadlines)
        head = self._recorder.head
        told = {"seq": head[0], "hash": head[1]} if head is not None else None
        return Ok({**reply.fields, "head": told})

    def _hello(self, connection: Connection, hello: Hello) -> Reply:
        if hello.version != VERSION:
            return Refused("version", f"this helper speaks version {VERSION}")
        for other in self._connections:
            if other is not connection and other.owner == connection.owner:
                return Refused(
                    "busy",
                    f"process {other.peer.pid} is connected for cluster {hello.cluster} already",
                )
        owner = Owner(connection.peer.uid, hello.cluster)
        others = {*self._holdings.deadlines(), *(each.owner for each in self._connections)}
        others -= {owner, None}
        of_user = sum(each is not None and each.uid == owner.uid for each in others)
        if of_user >= MAX_CLUSTERS_OF_USER or len(others) >= MAX_CLUSTERS:
            return Refused("limit", f"{of_user} clusters of its user hold addresses already")
        self._holdings.greet(owner)
        return Ok(
            {
                "version": VERSION,
                "session": self._session,
                "boottime_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
                "rules": [
                    {
                        "interface": rule.interface,
                        "networks": [str(network) for network in rule.networks],
                        "prefixes": list(rule.prefixes),
                    }
                    for rule in self._policy.rules
                ],
            }
        )

    # --- the clock -------------------------------------------------------------------------

    def _next_at(self) -> float:
        """When there is something to do if nothing comes."""
        times = [self._renewals.since + SUMMARY_EVERY_S, self._holdings.next_at()]
        times += [*self._sources.wake_at(), self._manager.next_at(), self._disposal.next_at()]
        times += [c.opened_at + HELLO_WITHIN_S for c in self._connections if c.cluster is None]
        times += [c.look_at for c in self._connections]
        return min(times)

    def _do_what_is_due(self) -> None:
        self._holdings.do_what_is_due()
        now = boottime()
        self._resume([each for each in self._connections if now >= each.look_at])
        self._see_whether_disk_hangs(now)
        self._disposal.hurry(now)
        self._sources.wake(now)
        for connection in [c for c in self._connections if c.cluster is None]:
            if now >= connection.opened_at + HELLO_WITHIN_S:
                self._hang_up(connection, Ending("did not say hello"))
        if now >= self._renewals.since + SUMMARY_EVERY_S:
            self._sum_up()

    def _make_up_for(self, jump_s: float) -> None:
        """The host may have been away for so long without any clock that deadlines are counted in.

        What was asked before does not know of it, and may be waiting on any connection: they are
        all ended. The coordinator comes back, and is told the deadlines as they are now.
        """
        self._recorder.note([{"type": "clock", "jump_s": round(jump_s, 6)}])
        why = f"the clock jumped by {jump_s:.3f} s: the host may have been paused"
        self._holdings.draw_deadlines_nearer(jump_s, why)
        for connection in list(self._connections):
            self._hang_up(connection, Ending(why))

    # --- other holders on the link -----------------------------------------------------------

    def _hear(self) -> None:
        """Note who else has an address of ours on its link, and listen no more for a while."""
        for ear in self._holdings.conflicts.sockets():
            self._sources.rest(ear, boottime() + LISTEN_EVERY_S)
        self._holdings.hear()

    # --- the service manager -----------------------------------------------------------------

    def _tell_manager(self) -> None:
        self._manager.tell_alive()
        if self._does_disk_hang:
            self._manager.tell_status(self._hangs)
        elif self._policy.rules:
            self._manager.tell_status(self._holdings.summary())
        else:
            self._manager.tell_status(f"refuses every address: {self._policy.path} has no rules")

    def _see_whether_disk_hangs(self, now: float) -> None:
        does_hang = self._recorder.does_disk_hang(now)
        if does_hang is not self._does_disk_hang:
            self._does_disk_hang = does_hang
            tell(self._hangs if does_hang else f"{self._policy.audit_log}: can be written again")

    @property
    def _hangs(self) -> str:
        return (
            f"{self._policy.audit_log}: its disk does not answer: nothing is added until it does;"
            " what is held is renewed and removed"
        )

    # --- the record ------------------------------------------------------------------------

    def _sum_up(self) -> None:
        self._recorder.note(self._floods.sum_up())
        deadlines = self._holdings.deadlines()
        if self._renewals.counts and deadlines:
            self._recorder.note([renewals(self._renewals.counts, deadlines)])
        self._renewals = _Renewals()
        self._tell_head()

    def _tell_head(self) -> None:
        """To the journal or syslog, if there is one and the head has changed."""
        head = self._recorder.head
        if head is not None and (self._recorder.number, head[0]) != self._told_head:
            tell_head(socket.gethostname(), *head)
            self._told_head = self._recorder.number, head[0]
