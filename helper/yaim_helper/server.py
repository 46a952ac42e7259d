"""The helper at work: who is connected, what they ask, and in which order all is done.

One thread. Each turn of the loop: see whether the clock jumped; read what has come, make the
intents durable, act, record the results, reply; then do what the clock asks for. What is held, and
until when, is holdings.py's.
"""

import os
import signal
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import assert_never

from yaim_helper.addresses import KernelError
from yaim_helper.audit import AuditLog, boot_id
from yaim_helper.clock import ClockSet, Jumps, Timer, boottime
from yaim_helper.connections import (
    MAX_BATCH,
    Allowance,
    Connection,
    accepted,
    refuse_descriptors,
    why_no_room,
)
from yaim_helper.entries import Owner, hung_up, intent, policy_read, renewals, result, started
from yaim_helper.floods import Floods
from yaim_helper.heads import tell_head
from yaim_helper.holdings import Holdings, Host
from yaim_helper.policy import Policy, PolicyError, read_policy
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
from yaim_helper.service_manager import ServiceManager
from yaim_helper.sources import Sources

MAX_ACCEPTED = 16
"""Connections in one turn."""
ACCEPT_EVERY_S = 0.005
"""From one such turn to the next: thousands of connections do not keep the helper busy."""
HELLO_WITHIN_S = 5.0
SUMMARY_EVERY_S = 60.0
LISTEN_EVERY_S = 0.1
"""From hearing of other holders to listening again: whoever floods us gets no more of our time."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """A connection is over; with a reason if that is our doing."""

    reason: str | None
    what: str = "hung-up"
    """As what it counts in a flood of such (floods.py)."""


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
    def __init__(self, listener: socket.socket, policy: Policy, audit: AuditLog) -> None:
        self._policy = policy
        self._audit = audit
        self._manager = ServiceManager()
        self._holdings = Holdings(policy, audit, self._manager.tell_alive)
        audit.describe_held = self._holdings.describe
        self._told_head = (0, 0)
        """Segment and record whose hash was told last, outside the record."""
        self._allowances = self._allowances_of(policy)
        self._connections: set[Connection] = set()
        self._renewals = _Renewals()
        self._floods = Floods()
        self._session_name = f"{boot_id()}:{Path('/proc/self/ns/net').stat().st_ino}"
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
        for ear in self._holdings.conflicts.sockets():
            self._sources.add(ear, self._holdings.conflicts)
        self._sources.add(self._holdings.links.socket, self._holdings.links)

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
        start = started(VERSION, os.getpid(), os.getuid(), self._audit.earlier)
        self._audit.note([start, *self._holdings.describe()])
        self._tell_head()
        self._tell_manager()
        self._manager.tell_ready()
        while not self._is_stopping:
            self.turn()
            if self._is_to_reload:
                self._reload()
            self._tell_manager()
        self._manager.tell_stopping()
        self._sum_up()
        self._audit.note([{"type": "stop", "addresses": len(self._holdings)}])
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
                self._serve(data)
                self._holdings.do_what_is_due()
            elif data is self._holdings.conflicts:
                self._hear()
            elif data is self._holdings.links:
                self._holdings.see_links()
            elif source is self._clock_set:
                self._clock_set.take()
            elif isinstance(data, socket.socket):
                data.recv(64)
        self._do_what_is_due()
        if self._audit.number != self._told_head[0]:
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
            self._audit.note([policy_read(str(error))])
            tell(f"{error}\nthe policy stays as it was")
            return
        self._audit.use_policy(policy.sha256)
        self._audit.note([policy_read(None)])
        tell("\n".join((*policy.warnings, f"{policy.path}: read again")))
        self._policy = policy
        self._allowances = self._allowances_of(policy, old)
        self._holdings.obey(policy)
        for connection in list(self._connections):
            if connection.peer.uid not in policy.users:
                self._hang_up(connection, _Ending("its user is not in the policy any more"))
            elif policy.rules != old.rules:
                # hello tells the new ones.
                self._hang_up(connection, _Ending("the rules have changed"))

    def _allowances_of(self, policy: Policy, old: Policy | None = None) -> dict[int, Allowance]:
        """Those of the old policy, if they are the same."""
        rate = policy.commands_per_second
        kept = self._allowances if old is not None and old.commands_per_second == rate else {}
        now = boottime()
        return {uid: kept.get(uid) or Allowance(rate, rate, now) for uid in policy.users}

    # --- connections -----------------------------------------------------------------------

    def _accept(self) -> None:
        self._sources.rest(self._listener, boottime() + ACCEPT_EVERY_S)
        for _ in range(MAX_ACCEPTED):
            try:
                self.admit(accepted(self._listener))
            except OSError:
                # There is none, or not for want of file descriptors.
                return

    def admit(self, connection: Connection) -> None:
        """A new connection, unless there is no room for it."""
        reason = why_no_room(connection.peer, self._policy.users, self._connections)
        if reason is not None:
            self._tell_of_hanging_up(connection, "hung-up", reason)
            connection.close()
            return
        self._connections.add(connection)
        self._sources.add(connection.socket, connection)

    def _hang_up(self, connection: Connection, ending: _Ending) -> None:
        """End a connection. Its addresses stay: the coordinator may be back before their
        deadlines."""
        if ending.reason is not None:
            self._tell_of_hanging_up(connection, ending.what, ending.reason)
        self._sources.remove(connection.socket)
        self._connections.discard(connection)
        connection.close()

    def _tell_of_hanging_up(self, connection: Connection, what: str, reason: str) -> None:
        if self._floods.takes(connection.peer.uid, what):
            self._audit.note([hung_up(connection.peer, reason)])

    def _serve(self, connection: Connection) -> None:
        """Take in what has come on a connection, as much as its user may send; act, and reply."""
        allowance = self._allowances[connection.peer.uid]
        began = time.process_time()
        most = min(MAX_BATCH, allowance.whole(boottime()))
        if most <= 0:
            self._sources.rest(connection.socket, allowance.rest_until())
            return
        requests: list[Request] = []
        ending: _Ending | None = None
        while ending is None and len(requests) < most:
            try:
                requests.append(connection.receive())
                if isinstance(requests[-1], Renew | List):
                    # One of these may be about all addresses.
                    break
            except BlockingIOError:
                break
            except (EOFError, OSError):
                ending = _Ending(None)
            except Malformed as error:
                ending = _Ending(f"malformed: {error}", "malformed")
        replies = self._handle(connection, requests)
        # An end counts too: who comes and goes sends as much as who stays.
        allowance.spend(len(requests) + (ending is not None), time.process_time() - began)
        try:
            for request, reply in replies:
                connection.reply(request, reply)
        except OSError as error:
            ending = ending or _Ending(f"does not take its replies: {error.strerror}")
        if ending is not None:
            self._hang_up(connection, ending)

    # --- requests --------------------------------------------------------------------------

    def _handle(
        self, connection: Connection, requests: list[Request]
    ) -> list[tuple[Request, Reply]]:
        """Intents first, all in one durable write; then act, one after the other. What is refused
        whatever is on the host has no effect, and so no intent."""
        peer, cluster = connection.peer, connection.cluster
        refusals = [
            self._holdings.refusal(each) if isinstance(each, Add) else None for each in requests
        ]
        intended = [
            isinstance(request, Add | Remove | Announce) and refusal is None
            for request, refusal in zip(requests, refusals, strict=True)
        ]
        intents = [
            intent(peer, cluster, request, self._rule_for(request))
            for request in compress(requests, intended)
        ]
        is_on_record = self._audit.try_write(intents, durable=True)
        host = self._holdings.host(
            {each.address for each in requests if isinstance(each, Add | Remove)}
        )
        replies: list[tuple[Request, Reply]] = []
        for request, refusal in zip(requests, refusals, strict=True):
            if refusal is not None:
                reply: Reply = refusal
            elif isinstance(request, Add | Announce) and not is_on_record:
                reply = Failed(None, "the audit record cannot be written")
            else:
                reply = self._do(connection, request, host)
            replies.append((request, reply))
        went_wrong = self._holdings.settle(host)
        replies = [
            (request, Failed(error.errno, error.reason))
            if (error := went_wrong.get(request.id))
            else (request, reply)
            for request, reply in replies
        ]
        self._audit.note(
            result(peer, cluster, request, reply)
            for (request, reply), has_intent in zip(replies, intended, strict=True)
            if has_intent or self._is_told(peer.uid, request, reply)
        )
        return replies

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
        self._audit.mark(deadlines)
        sequence, head = self._audit.head
        return Ok({**reply.fields, "head": {"seq": sequence, "hash": head}})

    def _hello(self, connection: Connection, hello: Hello) -> Reply:
        if hello.version != VERSION:
            return Refused("version", f"this helper speaks version {VERSION}")
        for other in self._connections:
            if other is not connection and other.owner == connection.owner:
                return Refused(
                    "busy",
                    f"process {other.peer.pid} is connected for cluster {hello.cluster} already",
                )
        self._holdings.greet(Owner(connection.peer.uid, hello.cluster))
        return Ok(
            {
                "version": VERSION,
                "session": self._session_name,
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
        times += [*self._sources.wake_at(), self._manager.next_at()]
        times += [c.opened_at + HELLO_WITHIN_S for c in self._connections if c.cluster is None]
        return min(times)

    def _do_what_is_due(self) -> None:
        self._holdings.do_what_is_due()
        now = boottime()
        self._sources.wake(now)
        for connection in [c for c in self._connections if c.cluster is None]:
            if now >= connection.opened_at + HELLO_WITHIN_S:
                self._hang_up(connection, _Ending("did not say hello"))
        if now >= self._renewals.since + SUMMARY_EVERY_S:
            self._sum_up()

    def _make_up_for(self, jump_s: float) -> None:
        """The host may have been away for so long without any clock that deadlines are counted in.

        What was asked before does not know of it, and may be waiting on any connection: they are
        all ended. The coordinator comes back, and is told the deadlines as they are now.
        """
        self._audit.note([{"type": "clock", "jump_s": round(jump_s, 6)}])
        why = f"the clock jumped by {jump_s:.3f} s: the host may have been paused"
        self._holdings.draw_deadlines_nearer(jump_s, why)
        for connection in list(self._connections):
            self._hang_up(connection, _Ending(why))

    # --- other holders on the link -----------------------------------------------------------

    def _hear(self) -> None:
        """Note who else has an address of ours on its link, and listen no more for a while."""
        for ear in self._holdings.conflicts.sockets():
            self._sources.rest(ear, boottime() + LISTEN_EVERY_S)
        self._holdings.hear()

    # --- the service manager -----------------------------------------------------------------

    def _tell_manager(self) -> None:
        self._manager.tell_alive()
        self._manager.tell_status(
            self._holdings.summary()
            if self._policy.rules
            else f"refuses every address: {self._policy.path} has no rules"
        )

    # --- the record ------------------------------------------------------------------------

    def _sum_up(self) -> None:
        self._audit.note(self._floods.sum_up())
        deadlines = self._holdings.deadlines()
        if self._renewals.counts and deadlines:
            self._audit.note([renewals(self._renewals.counts, deadlines)])
        self._renewals = _Renewals()
        self._tell_head()

    def _tell_head(self) -> None:
        """To the journal or syslog, if there is one and the head has changed."""
        sequence, head = self._audit.head
        if (self._audit.number, sequence) != self._told_head:
            tell_head(socket.gethostname(), sequence, head)
            self._told_head = self._audit.number, sequence
