"""The helper at work: who is connected, what is on the interfaces because of it, and until when.

One thread. Each turn of the loop: see whether the clock jumped; read what has come, make the
intents durable, act, record the results, reply; then do what the clock asks for. What may be done
is policy.py's to say, how it is done addresses.py's.
"""

import math
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, assert_never

from setproctitle import setproctitle

from yaim_helper.addresses import (
    ACT_WITHIN_S,
    EARLY_S,
    MAX_TOGETHER,
    Assignment,
    Found,
    Interface,
    Kernel,
    KernelError,
    act_within,
    last_extension_s,
    lifetime_s,
)
from yaim_helper.announce import Announcer
from yaim_helper.audit import AuditError, AuditLog, boot_id
from yaim_helper.clock import ClockSet, Jumps, Timer, boottime
from yaim_helper.conflicts import Conflicts
from yaim_helper.policy import Policy
from yaim_helper.protocol import (
    MAX_LISTED,
    MAX_REQUEST_BYTES,
    VERSION,
    Add,
    Address,
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
    read_request,
    write_reply,
)

MAX_SESSIONS = 8
MAX_BATCH = 64
"""Requests of one connection that are taken in one turn."""
HELLO_WITHIN_S = 5.0
MAX_DEADLINE_S = 3600.0
EXTEND_BEFORE_S = 0.5
"""How long before the kernel would remove an address its lifetime is extended, if it may be."""
WOKEN_WITHIN_S = 0.02
"""How late the clock may wake the helper for the last extension, which is over a moment after."""
EXTEND_RETRY_S = 0.1
"""An extension by less is not worth making; after a failed one it is tried again."""
SUMMARY_EVERY_S = 60.0
RETRY_REMOVAL_S = 0.5
DEFEND_INTERVAL_S = 10.0
"""From one answer to another holder of an address to the next (RFC 5227 section 2.4)."""
LISTEN_EVERY_S = 0.1
"""From hearing of other holders to listening again: whoever floods us gets no more of our time."""


@dataclass(eq=False, slots=True)
class Session:
    """A connection."""

    socket: socket.socket
    pid: int
    uid: int
    gid: int
    opened_at: float
    cluster: str | None = None
    """Set by its hello."""
    last_id: int = -1

    def peer(self) -> dict[str, int]:
        return {"pid": self.pid, "uid": self.uid, "gid": self.gid}


@dataclass(slots=True)
class Allowance:
    """How many commands a user may send without waiting (a token bucket)."""

    per_second: int
    left: float
    at: float

    def take(self, now: float) -> bool:
        self.left = min(self.per_second, self.left + (now - self.at) * self.per_second)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


@dataclass(slots=True)
class Rivals:
    """Other holders of an address, on the same link."""

    seen: int = 0
    """How often, since they were last answered."""
    mac: bytes = b""
    """Of the one that was seen last."""
    answer_at: float = 0.0
    """Not before."""


@dataclass(eq=False, slots=True)
class Holding:
    """An address that the helper has put on an interface."""

    address: Address
    interface: Interface
    prefix: int
    label: str
    cluster: str
    deadline: float
    life_s: float
    """How far away the deadline was when it was handed over."""
    created: int | None = None
    """When the kernel says it was put there; None: it has not been read back yet."""
    kernel_until: float = 0.0
    """The kernel does not remove it before; 0: not known."""
    extend_at: float = math.inf
    """When to set its lifetime anew, if no renewal comes before."""
    is_leaving: bool = False
    """To be removed; not renewed any more."""
    retry_at: float = 0.0
    rivals: Rivals = field(default_factory=Rivals)

    def assignment(self, lifetime: int) -> Assignment:
        return Assignment(self.interface, self.address, self.prefix, self.label, lifetime)

    def is_at(self, place: Found) -> bool:
        return (place.index, place.prefix) == (self.interface.index, self.prefix)

    def plan_extension(self, now: float) -> None:
        """Some time before the kernel would remove it; for the last time when a lifetime of 1 s
        is all that the deadline allows."""
        last = self.deadline - last_extension_s(self.life_s) - WOKEN_WITHIN_S
        next_at = min(last, max(self.kernel_until - EXTEND_BEFORE_S, now + EXTEND_RETRY_S))
        is_worth_it = next_at + 1 - EARLY_S >= self.kernel_until + EXTEND_RETRY_S
        self.extend_at = next_at if next_at > now and is_worth_it else math.inf


class _Host:
    """The host, for some requests together: read when it is first asked for, and kept true."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._places: list[Found] | None = None
        self._interfaces: dict[str, Interface] = {}

    def places(self, address: Address | None = None) -> list[Found]:
        """Where this address is; without it, all there are."""
        if self._places is None:
            self._places = self._kernel.addresses()
        return [each for each in self._places if address in (None, each.address)]

    def has_put(self, place: Found) -> None:
        if self._places is not None:
            self._places.append(place)

    def delete(self, place: Found) -> bool:
        """Whether it was there. Raises KernelError."""
        was_there = self._kernel.delete(place.index, place.address, place.prefix)
        if self._places is not None and place in self._places:
            self._places.remove(place)
        return was_there

    def has_changed(self) -> None:
        """It is read anew when it is next asked for."""
        self._places = None

    def interface(self, name: str) -> Interface:
        """Raises KernelError if there is none."""
        if name not in self._interfaces:
            self._interfaces[name] = self._kernel.interface(name)
        return self._interfaces[name]

    def has_index(self, name: str, index: int) -> bool:
        try:
            return self.interface(name).index == index
        except KernelError:
            return False


@dataclass(frozen=True, slots=True)
class _Ending:
    """A connection is over; with a reason if that is our doing."""

    reason: str | None


@dataclass(slots=True)
class _Renewals:
    """What is summed up in the record."""

    count: int = 0
    since: float = field(default_factory=boottime)


class Server:
    def __init__(self, listener: socket.socket, policy: Policy, audit: AuditLog) -> None:
        self._policy = policy
        self._audit = audit
        self._kernel = Kernel()
        self._announcer = Announcer(self._kernel)
        self._conflicts = Conflicts()
        self._is_watching = True
        """Whether the addresses that are watched for conflicts are those that are held."""
        self._listen_at: float | None = None
        """When to listen for conflicts again; None: it listens."""
        rate = policy.commands_per_second
        self._allowances = {uid: Allowance(rate, rate, boottime()) for uid in policy.users}
        self._holdings: dict[Address, Holding] = {}
        self._expired: dict[Address, str] = {}
        """What was removed at its deadline, and the cluster that does not know it yet."""
        self._sessions: set[Session] = set()
        self._renewals = _Renewals()
        self._session_name = f"{boot_id()}:{Path('/proc/self/ns/net').stat().st_ino}"
        self._is_stopping = False
        self._jumps = Jumps()
        self._timer = Timer()
        self._clock_set = ClockSet()
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)
        self._listen()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Addresses stay, until their deadlines."""
        wake_read, wake_write = socket.socketpair()
        for each in (wake_read, wake_write):
            each.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._selector.register(wake_read, selectors.EVENT_READ)
        for timer in (self._timer, self._clock_set):
            self._selector.register(timer, selectors.EVENT_READ)
        self._record([{"type": "start", "version": VERSION, "pid": os.getpid()}])
        self._show()
        while not self._is_stopping:
            self._timer.set(self._next_at())
            ready = self._selector.select()
            jump_s = self._jumps.take_s()
            if jump_s:
                # What is ready is so in the next turn too, but for the connections.
                self._make_up_for(jump_s)
                continue
            # What comes next may have waited for as long as this process was stopped.
            self._end_over(boottime())
            for key, _ in ready:
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, Session):
                    self._serve(key.data)
                elif key.data is self._conflicts:
                    self._hear()
                elif key.fileobj is self._clock_set:
                    self._clock_set.take()
                elif key.fileobj is wake_read:
                    wake_read.recv(64)
            self._do_what_is_due()
        self._sum_up_renewals()
        self._record([{"type": "stop", "addresses": len(self._holdings)}])

    def _stop(self, _signal: int, _frame: object) -> None:
        self._is_stopping = True

    # --- connections -----------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, gid = struct.unpack("3i", credentials)
        now = boottime()
        session = Session(connection, pid, uid, gid, now)
        self._sessions.add(session)
        self._selector.register(connection, selectors.EVENT_READ, session)
        if uid not in self._policy.users:
            self._hang_up(session, "its user is not in the policy")
        elif len(self._sessions) > MAX_SESSIONS:
            self._hang_up(session, f"there are {MAX_SESSIONS} connections already")

    def _hang_up(self, session: Session, reason: str | None = None) -> None:
        """End a connection; with a reason if that is our doing. Its addresses stay: the
        coordinator may be back before their deadlines."""
        if reason is not None:
            self._record([{"type": "hung-up", "peer": session.peer(), "reason": reason}])
        self._selector.unregister(session.socket)
        self._sessions.discard(session)
        session.socket.close()

    def _serve(self, session: Session) -> None:
        """Take in what has come on a connection, act, and reply."""
        requests: list[Request] = []
        ending: _Ending | None = None
        while ending is None and len(requests) < MAX_BATCH:
            try:
                requests.append(self._receive(session))
            except BlockingIOError:
                break
            except (EOFError, OSError):
                ending = _Ending(None)
            except Malformed as error:
                ending = _Ending(f"malformed: {error}")
        try:
            for request, reply in self._handle(session, requests):
                session.socket.send(write_reply(request.id, reply))
        except OSError as error:
            ending = ending or _Ending(f"does not take its replies: {error.strerror}")
        if ending is not None:
            self._hang_up(session, ending.reason)

    def _receive(self, session: Session) -> Request:
        """Raises BlockingIOError: nothing has come; EOFError; OSError; Malformed."""
        packet, _, flags, _ = session.socket.recvmsg(MAX_REQUEST_BYTES + 1)
        if not packet:
            raise EOFError
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Malformed("too long, or with file descriptors")
        request = read_request(packet)
        if request.id <= session.last_id:
            raise Malformed("its id is not larger than the one before")
        if isinstance(request, Hello) is not (session.cluster is None):
            raise Malformed("hello comes first, and once")
        session.last_id = request.id
        if isinstance(request, Hello):
            session.cluster = request.cluster
        return request

    # --- requests --------------------------------------------------------------------------

    def _handle(self, session: Session, requests: list[Request]) -> list[tuple[Request, Reply]]:
        """Intents first, all in one durable write; then act, one after the other."""
        intents = [self._intent(session, each) for each in requests if _has_effect(each)]
        is_on_record = self._audit.try_write(intents, durable=True)
        host = _Host(self._kernel)
        allowance = self._allowances[session.uid]
        replies: list[tuple[Request, Reply]] = []
        for request in requests:
            if isinstance(request, Add | Announce) and not is_on_record:
                reply: Reply = Failed(None, "the audit record cannot be written")
            elif isinstance(request, Add | Announce) and not allowance.take(boottime()):
                reply = Refused("rate", f"more than {allowance.per_second} commands a second")
            else:
                reply = self._do(session, request, host)
            replies.append((request, reply))
        replies = self._check_added(replies)
        self._record(
            self._result(session, request, reply)
            for request, reply in replies
            if not (isinstance(request, Renew | List) and isinstance(reply, Ok))
        )
        if requests:
            self._show()
        return replies

    def _check_added(self, replies: list[tuple[Request, Reply]]) -> list[tuple[Request, Reply]]:
        """Read back what was added; an add that is not as it should be has failed."""
        added = {
            request.address: self._holdings[request.address]
            for request, reply in replies
            if isinstance(request, Add) and isinstance(reply, Ok)
            if request.address in self._holdings
        }
        wrong = self._read_back(list(added.values()))
        for holding in wrong:
            self._forget(holding)
        addresses = {holding.address for holding in wrong}
        failed = Failed(None, "the address is not on the interface as it should be")
        return [
            (
                request,
                failed if isinstance(request, Add) and request.address in addresses else reply,
            )
            for request, reply in replies
        ]

    def _do(self, session: Session, request: Request, host: "_Host") -> Reply:
        if isinstance(request, Hello):
            reply = self._hello(session, request)
            if not isinstance(reply, Ok):
                session.cluster = None
            return reply
        cluster = session.cluster
        if cluster is None:
            return Refused("not-allowed", "hello was refused")
        try:
            match request:
                case Add():
                    return self._add(cluster, request, host)
                case Remove():
                    return self._remove(cluster, request.address, host)
                case Renew():
                    host.has_changed()
                    return self._renew(cluster, request.deadline_ns / 1e9)
                case List():
                    return self._list(cluster, request.after, host)
                case Announce():
                    return self._announce(cluster, request.address)
                case _:
                    assert_never(request)
        except KernelError as error:
            return Failed(error.errno, error.reason)

    def _hello(self, session: Session, hello: Hello) -> Reply:
        if hello.version != VERSION:
            return Refused("version", f"this helper speaks version {VERSION}")
        for other in self._sessions:
            if other is not session and other.cluster == hello.cluster:
                return Refused(
                    "busy",
                    f"process {other.pid} is connected for cluster {hello.cluster} already",
                )
        self._expired = {a: c for a, c in self._expired.items() if c != hello.cluster}
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

    def _add(self, cluster: str, add: Add, host: "_Host") -> Reply:
        """Not yet read back and announced."""
        if self._policy.rule_for(add) is None:
            return Refused(
                "not-allowed", f"no rule allows {add.address}/{add.prefix} on {add.interface}"
            )
        now = boottime()
        deadline = add.deadline_ns / 1e9
        life_s = deadline - now
        if life_s > MAX_DEADLINE_S or not lifetime_s(life_s, life_s):
            return Refused("expired", f"the deadline is {life_s:.3f} s away")
        interface = host.interface(add.interface)
        if not interface.is_up:
            raise KernelError(None, f"{add.interface} is down")
        places = host.places(add.address)
        old = self._holdings.get(add.address)
        if old is not None:
            if old.cluster != cluster:
                return Refused("foreign", f"{add.address} is held for cluster {old.cluster}")
            ours = [each for each in places if old.is_at(each)]
        else:
            ours = [each for each in places if self._left_over_on(each, host)]
            if len(self._holdings) >= self._policy.max_addresses:
                return Refused("limit", f"there are {len(self._holdings)} addresses already")
        holding = Holding(add.address, interface, add.prefix, add.label, cluster, deadline, life_s)
        theirs = [each for each in places if each not in ours]
        if theirs and (old is None or any(holding.is_at(each) for each in theirs)):
            return Refused("foreign", f"{add.address} is on this host already")
        if self._would_take_others_along(add, interface, host):
            return Refused(
                "primary",
                f"{add.address}/{add.prefix} would be the first of its network on {interface.name},"
                " and removing it would remove all others: set the sysctl"
                f" net.ipv4.conf.{interface.name}.promote_secondaries to 1",
            )
        if old is not None:
            holding.created = old.created
            holding.rivals = old.rivals
        for each in ours:
            if not holding.is_at(each):
                host.delete(each)
        self._holdings[add.address] = holding
        self._is_watching = False
        self._expired.pop(add.address, None)
        failed = self._set_lifetimes([holding])
        if failed:
            self._forget(holding)
            raise failed[add.address]
        if not holding.kernel_until:
            self._forget(holding)
            raise KernelError(None, "the deadline came too near meanwhile")
        if not any(holding.is_at(each) for each in ours):
            host.has_put(Found(add.address, interface.index, add.prefix, 1, 0, 0))
        return Ok({"was": "present" if ours else "absent"})

    def _would_take_others_along(self, add: Add, interface: Interface, host: "_Host") -> bool:
        """Whether the kernel, when it removes this address, would remove all others of its network:
        it does so with the one that came first, its primary, of IPv4."""
        if add.address.version == 6 or add.prefix >= 32:
            return False
        network = ip_network((add.address, add.prefix), strict=False)
        return not self._kernel.promotes_secondaries(interface.name) and not any(
            (each.index, each.prefix) == (interface.index, add.prefix)
            and each.address in network
            and each.address != add.address
            for each in host.places()
        )

    def _remove(self, cluster: str, address: Address, host: "_Host") -> Reply:
        holding = self._holdings.get(address)
        if self._expired.get(address) == cluster:
            del self._expired[address]
        if holding is not None:
            if holding.cluster != cluster:
                return Ok({"was": "absent"})
            host.has_changed()
            was_there = self._take_off(holding)
        else:
            left = [each for each in host.places(address) if self._left_over_on(each, host)]
            was_there = len([each for each in left if host.delete(each)]) > 0
        return Ok({"was": "present" if was_there else "absent"})

    def _take_off(self, holding: Holding) -> bool:
        """Remove the address; whether it was there. If that fails it stays on record, leaving."""
        holding.is_leaving = True
        holding.rivals.seen = 0
        self._announcer.stop(holding.address)
        was_there = self._kernel.delete(holding.interface.index, holding.address, holding.prefix)
        self._forget(holding)
        return was_there

    def _forget(self, holding: Holding) -> None:
        self._announcer.stop(holding.address)
        del self._holdings[holding.address]
        self._is_watching = False

    def _renew(self, cluster: str, deadline: float) -> Reply:
        """What has outlived its deadline is ended, not renewed: if we were stopped meanwhile, the
        coordinator may long have given it up, and now mean only what it took since."""
        now = boottime()
        self._end_over(now)
        life_s = deadline - now
        holdings = [
            each
            for each in self._holdings.values()
            if each.cluster == cluster and not each.is_leaving and now < each.deadline
        ]
        is_nearer = any(deadline < each.deadline for each in holdings)
        if not 0 < life_s <= MAX_DEADLINE_S or (is_nearer and not lifetime_s(life_s, life_s)):
            return Refused("expired", f"the deadline is {life_s:.3f} s away")
        for holding in holdings:
            if deadline < holding.deadline:
                # Its lifetime in the kernel has to be shortened.
                holding.kernel_until = 0.0
            holding.deadline = deadline
            holding.life_s = life_s
        missing = self._extend(holdings)
        self._end_unlimited(holdings, "its lifetime could not be set")
        missing += [
            address
            for address, owner in self._expired.items()
            if owner == cluster and address not in missing
        ]
        self._renewals.count += 1
        return Ok({"missing": [str(address) for address in missing[:MAX_LISTED]]})

    def _list(self, cluster: str, after: Address | None, host: "_Host") -> Reply:
        """What is held for the cluster, and what an earlier life left, which is held for none."""
        listed = {
            place.address: _listed(place.address, interface, place.prefix, None)
            for place in host.places()
            if place.address not in self._holdings
            and (interface := self._left_over_on(place, host))
        }
        listed |= {
            each.address: _listed(each.address, each.interface.name, each.prefix, each.deadline)
            for each in self._holdings.values()
            if each.cluster == cluster and not each.is_leaving
        }
        further = sorted(
            (each for each in listed if after is None or _order(each) > _order(after)), key=_order
        )
        return Ok(
            {
                "addresses": [listed[each] for each in further[:MAX_LISTED]],
                "more": len(further) > MAX_LISTED,
            }
        )

    def _announce(self, cluster: str, address: Address) -> Reply:
        holding = self._holdings.get(address)
        if holding is None or holding.cluster != cluster or holding.is_leaving:
            return Refused("foreign", f"{address} is not held for this cluster")
        self._announce_now([holding])
        return Ok({})

    def _left_over_on(self, place: Found, host: "_Host") -> str | None:
        """The interface, if an earlier life of the helper put it there: it looks it, and may be
        there."""
        if not place.is_left_over:
            return None
        return next(
            (
                rule.interface
                for rule in self._policy.rules
                if rule.allows(rule.interface, place.address, place.prefix)
                and host.has_index(rule.interface, place.index)
            ),
            None,
        )

    # --- the clock -------------------------------------------------------------------------

    def _extend(self, holdings: list[Holding]) -> list[Address]:
        """Give each address the longest lifetime that its deadline allows; those where that failed.

        An address that may not be extended any more is left as it is.
        """
        failed = self._set_lifetimes(holdings)
        self._record(
            _noted("extend", holding, f"failed: {failed[holding.address].reason}")
            for holding in holdings
            if holding.address in failed
        )
        return [holding.address for holding in self._read_back(holdings)]

    def _read_back(self, holdings: list[Holding]) -> list[Holding]:
        """Those that are not on their interface with a finite lifetime, as the kernel tells it.
        Announces those that are new there."""
        places = self._kernel.addresses() if holdings else []
        there = {
            holding.address: place
            for place in places
            if (holding := self._holdings.get(place.address)) and holding.is_at(place)
        }
        missing = []
        new = []
        for holding in holdings:
            place = there.get(holding.address)
            if place is None:
                missing.append(holding)
            elif place.valid_s is None:
                # Neither the kernel nor pyroute2 should ever do this.
                self._kernel.delete(place.index, place.address, place.prefix)
                missing.append(holding)
                self._record([_noted("extend", holding, "had no lifetime: removed")])
            elif place.created != holding.created:
                if holding.created is not None:
                    self._record([_noted("extend", holding, "somebody had removed it: put back")])
                holding.created = place.created
                new.append(holding)
        self._announce_now(new)
        return missing

    def _announce_now(self, holdings: list[Holding]) -> None:
        for start in range(0, len(holdings), MAX_TOGETHER):
            with act_within(ACT_WITHIN_S):
                now = boottime()
                for holding in holdings[start : start + MAX_TOGETHER]:
                    if now < holding.deadline:
                        self._announcer.start(holding.interface.name, holding.address, now)

    def _set_lifetimes(self, holdings: list[Holding]) -> dict[Address, KernelError]:
        """In the kernel, each as long as its deadline allows; what went wrong."""
        failed: dict[Address, KernelError] = {}
        for start in range(0, len(holdings), MAX_TOGETHER):
            together = holdings[start : start + MAX_TOGETHER]
            with act_within(ACT_WITHIN_S):
                now = boottime()
                assignments = []
                for holding in together:
                    lifetime = lifetime_s(holding.deadline - now, holding.life_s)
                    if lifetime and now + lifetime - EARLY_S > holding.kernel_until:
                        assignments.append(holding.assignment(lifetime))
                failed |= self._kernel.put(assignments)
            for each in assignments:
                if each.address not in failed:
                    until = now + each.lifetime_s - EARLY_S
                    self._holdings[each.address].kernel_until = until
            for holding in together:
                holding.plan_extension(now)
        return failed

    def _next_at(self) -> float:
        """When there is something to do if nothing comes."""
        times = [self._renewals.since + SUMMARY_EVERY_S]
        announce_at = self._announcer.next_at()
        if announce_at is not None:
            times.append(announce_at)
        for holding in self._holdings.values():
            times.append(max(holding.deadline, holding.retry_at))
            if not holding.is_leaving:
                times.append(holding.extend_at)
            if holding.rivals.seen:
                times.append(holding.rivals.answer_at)
        if self._listen_at is not None:
            times.append(self._listen_at)
        times += [s.opened_at + HELLO_WITHIN_S for s in self._sessions if s.cluster is None]
        return min(times)

    def _do_what_is_due(self) -> None:
        now = boottime()
        self._end_over(now)
        self._extend(
            [
                each
                for each in self._holdings.values()
                if not each.is_leaving and now >= each.extend_at
            ]
        )
        with act_within(ACT_WITHIN_S):
            now = boottime()
            for holding in self._holdings.values():
                if now >= holding.deadline:
                    self._announcer.stop(holding.address)
            self._announcer.run(now, MAX_TOGETHER)
        self._defend()
        if self._listen_at is not None and now >= self._listen_at:
            self._listen()
        if not self._is_watching:
            self._conflicts.watch(self._holdings)
            self._is_watching = True
        for session in [s for s in self._sessions if s.cluster is None]:
            if now >= session.opened_at + HELLO_WITHIN_S:
                self._hang_up(session, "did not say hello")
        if now >= self._renewals.since + SUMMARY_EVERY_S:
            self._sum_up_renewals()

    def _end_over(self, now: float, why: str = "the deadline has passed") -> None:
        """Remove what has outlived its deadline."""
        over = [
            each
            for each in self._holdings.values()
            if now >= each.deadline and now >= each.retry_at
        ]
        for holding in over:
            self._end(holding, why)
        if over:
            self._show()

    def _make_up_for(self, jump_s: float) -> None:
        """The host may have been away for so long without any clock that deadlines are counted in.

        What was asked before does not know of it, and may be waiting on any connection: they are
        all ended. The coordinator comes back, and is told the deadlines as they are now.
        """
        self._record([{"type": "clock", "jump_s": round(jump_s, 6)}])
        why = f"the clock jumped by {jump_s:.3f} s: the host may have been paused"
        for holding in self._holdings.values():
            holding.deadline -= jump_s
            # Its lifetime in the kernel has to be shortened.
            holding.kernel_until = 0.0
        self._end_over(boottime(), why)
        left = [each for each in self._holdings.values() if not each.is_leaving]
        self._extend(left)
        self._end_unlimited(left, why)
        for session in list(self._sessions):
            self._hang_up(session, why)
        self._show()

    def _end_unlimited(self, holdings: list[Holding], why: str) -> None:
        """Those whose deadline came nearer, and whose lifetime did not: none was short enough, or
        setting it failed."""
        for holding in holdings:
            if not holding.kernel_until:
                self._end(holding, why)

    def _end(self, holding: Holding, why: str) -> None:
        self._record([_noted("expire", holding, f"{why}: removing")])
        try:
            was_there = self._take_off(holding)
        except KernelError as error:
            holding.retry_at = boottime() + RETRY_REMOVAL_S
            self._record([_noted("expire", holding, f"cannot remove it: {error.reason}")])
        else:
            self._expired[holding.address] = holding.cluster
            outcome = "removed" if was_there else "the kernel had removed it"
            self._record([_noted("expire", holding, outcome)])

    # --- other holders on the link -----------------------------------------------------------

    def _listen(self) -> None:
        for each in self._conflicts.sockets():
            self._selector.register(each, selectors.EVENT_READ, self._conflicts)
        self._listen_at = None

    def _hear(self) -> None:
        """Note who else has an address of ours on its link, and listen no more for a while."""
        if self._listen_at is None:
            for each in self._conflicts.sockets():
                self._selector.unregister(each)
        self._listen_at = boottime() + LISTEN_EVERY_S
        sightings = self._conflicts.read()
        own = self._kernel.mac_addresses() if sightings else set()
        for sighting in sightings:
            holding = self._holdings.get(sighting.address)
            if (
                holding is not None
                and not holding.is_leaving
                and holding.interface.name == sighting.interface
                and sighting.mac not in own
            ):
                holding.rivals.seen += 1
                holding.rivals.mac = sighting.mac

    def _defend(self) -> None:
        """Answer other holders for as long as an address is ours: RFC 5227 section 2.4 (c)."""
        now = boottime()
        attacked = [
            each
            for each in self._holdings.values()
            if each.rivals.seen and now >= each.rivals.answer_at
        ][:MAX_TOGETHER]
        if not attacked:
            return
        self._record(_conflict(each) for each in attacked)
        with act_within(ACT_WITHIN_S):
            now = boottime()
            for holding in attacked:
                holding.rivals.seen = 0
                holding.rivals.answer_at = now + DEFEND_INTERVAL_S
                if now < holding.deadline:
                    self._announcer.defend(holding.address)

    # --- the record ------------------------------------------------------------------------

    def _intent(self, session: Session, request: Request) -> dict[str, Any]:
        record = {"type": "intent", **_described(session, request)}
        if isinstance(request, Add):
            rule = self._policy.rule_for(request)
            record["rule"] = rule.number if rule is not None else None
        return record

    def _result(self, session: Session, request: Request, reply: Reply) -> dict[str, Any]:
        record = {"type": "result", **_described(session, request)}
        match reply:
            case Ok(fields):
                record["outcome"] = "ok"
                if "was" in fields:
                    record["was"] = fields["was"]
            case Refused(code, reason):
                record |= {"outcome": "refused", "code": code, "reason": reason}
            case Failed(errno, reason):
                record |= {"outcome": "failed", "errno": errno, "reason": reason}
            case _:
                assert_never(reply)
        return record

    def _sum_up_renewals(self) -> None:
        if self._renewals.count:
            self._record([{"type": "renewals", "count": self._renewals.count}])
        self._renewals = _Renewals()

    def _record(self, records: Iterable[dict[str, Any]]) -> None:
        """Record what has happened; it has happened all the same if that fails."""
        try:
            self._audit.write(records, durable=False)
        except AuditError as error:
            print(f"yaim-helper: {error}", file=sys.stderr, flush=True)  # noqa: T201

    def _show(self) -> None:
        count = len(self._holdings)
        setproctitle(f"yaim: helper {count} address{'' if count == 1 else 'es'}")


def _has_effect(request: Request) -> bool:
    return isinstance(request, Add | Remove | Announce)


def _described(session: Session, request: Request) -> dict[str, Any]:
    """A request as the record tells it."""
    record: dict[str, Any] = {
        "peer": session.peer(),
        "cluster": session.cluster,
        "op": type(request).__name__.lower(),
        "id": request.id,
    }
    match request:
        case Hello():
            record |= {"cluster": request.cluster, "node": request.node}
        case Add():
            record |= {
                "address": str(request.address),
                "interface": request.interface,
                "prefix": request.prefix,
                "label": request.label,
                "deadline_ns": request.deadline_ns,
            }
        case Remove() | Announce():
            record["address"] = str(request.address)
        case Renew():
            record["deadline_ns"] = request.deadline_ns
        case List():
            pass
        case _:
            assert_never(request)
    return record


def _listed(
    address: Address, interface: str, prefix: int, deadline: float | None
) -> dict[str, Any]:
    """An address as the reply to `list` tells it."""
    return {
        "address": str(address),
        "interface": interface,
        "prefix": prefix,
        "deadline_ns": round(deadline * 1e9) if deadline is not None else None,
    }


def _noted(op: str, holding: Holding, outcome: str) -> dict[str, Any]:
    """What the helper does of itself."""
    return {
        "type": "own",
        "op": op,
        "address": str(holding.address),
        "interface": holding.interface.name,
        "cluster": holding.cluster,
        "outcome": outcome,
    }


def _conflict(holding: Holding) -> dict[str, Any]:
    """Other holders of an address, before they are answered."""
    return {
        "type": "conflict",
        "address": str(holding.address),
        "interface": holding.interface.name,
        "cluster": holding.cluster,
        "mac": holding.rivals.mac.hex(":"),
        "count": holding.rivals.seen,
    }


def _order(address: Address) -> tuple[int, int]:
    return address.version, int(address)
