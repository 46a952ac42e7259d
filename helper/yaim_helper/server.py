"""The helper at work: who is connected, what they ask, and in which order all is done.

One thread. Each turn of the loop: see whether the clock jumped; read what has come, make the
intents durable, act, record the results, reply; then do what the clock asks for. What is held, and
until when, is holdings.py's.
"""

import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from yaim_helper.addresses import KernelError
from yaim_helper.audit import AuditLog, boot_id
from yaim_helper.clock import ClockSet, Jumps, Timer, boottime
from yaim_helper.connections import MAX_BATCH, Allowance, Connection, accepted
from yaim_helper.entries import Owner, hung_up, intent, policy_read, result
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

MAX_CONNECTIONS = 8
HELLO_WITHIN_S = 5.0
SUMMARY_EVERY_S = 60.0
LISTEN_EVERY_S = 0.1
"""From hearing of other holders to listening again: whoever floods us gets no more of our time."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """A connection is over; with a reason if that is our doing."""

    reason: str | None


@dataclass(slots=True)
class _Renewals:
    """What is summed up in the record."""

    count: int = 0
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
        self._holdings = Holdings(policy, audit)
        self._listen_at: float | None = None
        """When to listen for conflicts again; None: it listens."""
        self._allowances = self._allowances_of(policy)
        self._connections: set[Connection] = set()
        self._renewals = _Renewals()
        self._session_name = f"{boot_id()}:{Path('/proc/self/ns/net').stat().st_ino}"
        self._is_stopping = False
        self._is_to_reload = False
        self._jumps = Jumps()
        self._timer = Timer()
        self._clock_set = ClockSet()
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)
        self._listen()

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
        self._selector.register(wake_read, selectors.EVENT_READ)
        for timer in (self._timer, self._clock_set):
            self._selector.register(timer, selectors.EVENT_READ)
        self._audit.note([{"type": "start", "version": VERSION, "pid": os.getpid()}])
        while not self._is_stopping:
            self._timer.set(self._next_at())
            ready = self._selector.select()
            jump_s = self._jumps.take_s()
            if jump_s:
                # What is ready is so in the next turn too, but for the connections.
                self._make_up_for(jump_s)
                continue
            # What comes next may have waited for as long as this process was stopped.
            self._holdings.end_over(boottime())
            for key, _ in ready:
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, Connection):
                    self._serve(key.data)
                elif key.data is self._holdings.conflicts:
                    self._hear()
                elif key.fileobj is self._clock_set:
                    self._clock_set.take()
                elif key.fileobj is wake_read:
                    wake_read.recv(64)
            self._do_what_is_due()
            if self._is_to_reload:
                self._reload()
        self._sum_up_renewals()
        self._audit.note([{"type": "stop", "addresses": len(self._holdings)}])

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
                self._hang_up(connection, "its user is not in the policy any more")
            elif policy.rules != old.rules:
                # hello tells the new ones.
                self._hang_up(connection, "the rules have changed")

    def _allowances_of(self, policy: Policy, old: Policy | None = None) -> dict[int, Allowance]:
        """Those of the old policy, if they are the same."""
        rate = policy.commands_per_second
        kept = self._allowances if old is not None and old.commands_per_second == rate else {}
        now = boottime()
        return {uid: kept.get(uid) or Allowance(rate, rate, now) for uid in policy.users}

    # --- connections -----------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection = accepted(self._listener)
        except OSError:
            return
        self._connections.add(connection)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        if connection.peer.uid not in self._policy.users:
            self._hang_up(connection, "its user is not in the policy")
        elif len(self._connections) > MAX_CONNECTIONS:
            self._hang_up(connection, f"there are {MAX_CONNECTIONS} connections already")

    def _hang_up(self, connection: Connection, reason: str | None = None) -> None:
        """End a connection; with a reason if that is our doing. Its addresses stay: the
        coordinator may be back before their deadlines."""
        if reason is not None:
            self._audit.note([hung_up(connection.peer, reason)])
        self._selector.unregister(connection.socket)
        self._connections.discard(connection)
        connection.socket.close()

    def _serve(self, connection: Connection) -> None:
        """Take in what has come on a connection, act, and reply."""
        requests: list[Request] = []
        ending: _Ending | None = None
        while ending is None and len(requests) < MAX_BATCH:
            try:
                requests.append(connection.receive())
            except BlockingIOError:
                break
            except (EOFError, OSError):
                ending = _Ending(None)
            except Malformed as error:
                ending = _Ending(f"malformed: {error}")
        try:
            for request, reply in self._handle(connection, requests):
                connection.reply(request, reply)
        except OSError as error:
            ending = ending or _Ending(f"does not take its replies: {error.strerror}")
        if ending is not None:
            self._hang_up(connection, ending.reason)

    # --- requests --------------------------------------------------------------------------

    def _handle(
        self, connection: Connection, requests: list[Request]
    ) -> list[tuple[Request, Reply]]:
        """Intents first, all in one durable write; then act, one after the other."""
        peer, cluster = connection.peer, connection.cluster
        intents = [
            intent(peer, cluster, each, self._rule_for(each))
            for each in requests
            if isinstance(each, Add | Remove | Announce)
        ]
        is_on_record = self._audit.try_write(intents, durable=True)
        host = self._holdings.host(
            {each.address for each in requests if isinstance(each, Add | Remove)}
        )
        allowance = self._allowances[peer.uid]
        replies: list[tuple[Request, Reply]] = []
        for request in requests:
            if isinstance(request, Add | Announce) and not is_on_record:
                reply: Reply = Failed(None, "the audit record cannot be written")
            elif isinstance(request, Add | Announce) and not allowance.take(boottime()):
                reply = Refused("rate", f"more than {allowance.per_second} commands a second")
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
            for request, reply in replies
            if not (isinstance(request, Renew | List) and isinstance(reply, Ok))
        )
        return replies

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
        if not isinstance(request, Add):
            self._holdings.put_waiting(host)
        try:
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
        if isinstance(reply, Ok):
            self._renewals.count += 1
        return reply

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
        if self._listen_at is not None:
            times.append(self._listen_at)
        times += [c.opened_at + HELLO_WITHIN_S for c in self._connections if c.cluster is None]
        return min(times)

    def _do_what_is_due(self) -> None:
        self._holdings.do_what_is_due()
        now = boottime()
        if self._listen_at is not None and now >= self._listen_at:
            self._listen()
        for connection in [c for c in self._connections if c.cluster is None]:
            if now >= connection.opened_at + HELLO_WITHIN_S:
                self._hang_up(connection, "did not say hello")
        if now >= self._renewals.since + SUMMARY_EVERY_S:
            self._sum_up_renewals()

    def _make_up_for(self, jump_s: float) -> None:
        """The host may have been away for so long without any clock that deadlines are counted in.

        What was asked before does not know of it, and may be waiting on any connection: they are
        all ended. The coordinator comes back, and is told the deadlines as they are now.
        """
        self._audit.note([{"type": "clock", "jump_s": round(jump_s, 6)}])
        why = f"the clock jumped by {jump_s:.3f} s: the host may have been paused"
        self._holdings.draw_deadlines_nearer(jump_s, why)
        for connection in list(self._connections):
            self._hang_up(connection, why)

    # --- other holders on the link -----------------------------------------------------------

    def _listen(self) -> None:
        for each in self._holdings.conflicts.sockets():
            self._selector.register(each, selectors.EVENT_READ, self._holdings.conflicts)
        self._listen_at = None

    def _hear(self) -> None:
        """Note who else has an address of ours on its link, and listen no more for a while."""
        if self._listen_at is None:
            for each in self._holdings.conflicts.sockets():
                self._selector.unregister(each)
        self._listen_at = boottime() + LISTEN_EVERY_S
        self._holdings.hear()

    # --- the record ------------------------------------------------------------------------

    def _sum_up_renewals(self) -> None:
        if self._renewals.count:
            self._audit.note([{"type": "renewals", "count": self._renewals.count}])
        self._renewals = _Renewals()
