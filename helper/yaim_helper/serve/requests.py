"""What may be asked of the helper: a table of the operations, and how each is done.

Whoever adds an operation to the protocol gives it a row in the table at the end of this file. What
an operation does to addresses is held/batch.py's to say, and when it may be done is asked.py's.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, assert_never

from yaim_helper.clock import boottime
from yaim_helper.held.batch import Batch
from yaim_helper.held.holdings import Holdings
from yaim_helper.kernel.addresses import KernelError
from yaim_helper.owners import Owner, Peer
from yaim_helper.protocol import (
    VERSION,
    Add,
    Address,
    Announce,
    Clear,
    Failed,
    Hello,
    List,
    Ok,
    Refused,
    Remove,
    Renew,
    Reply,
    Request,
)
from yaim_helper.record.recorder import Recorder
from yaim_helper.record.stamps import session
from yaim_helper.serve.looks import Looks

MAX_CLUSTERS_OF_USER, MAX_CLUSTERS = 64, 1024
"""How many clusters of one user, and of all users, may hold addresses or be connected. One line of
the record, and the marker, name them all."""

R = TypeVar("R", bound=Request)


class Asker(Protocol):
    """The connection that a request came on."""

    @property
    def peer(self) -> Peer: ...
    @property
    def owner(self) -> Owner | None:
        """The owner for whom it asks; None: it has not said hello, or that was refused."""


class Context(NamedTuple):
    """Who asks for something, and the requests that it is done together with."""

    asker: Asker
    owner: Owner
    batch: Batch


class Requests:
    """Does what is asked."""

    def __init__(
        self,
        holdings: Holdings,
        recorder: Recorder,
        connections: Collection[Asker],
        looks: Looks,
    ) -> None:
        self._looks = looks
        self._holdings = holdings
        self._recorder = recorder
        self._connections = connections
        self.session = session()
        """This boot and network namespace, which the reply to hello tells."""
        self._renewals: Counter[Owner] = Counter()

    def do(self, asker: Asker, request: Request, batch: Batch) -> Reply:
        """Does one request, and returns its reply."""
        owner = asker.owner
        if owner is None:
            return Refused("not-allowed", "hello was refused")
        try:
            return operation_of(request).handler(self, Context(asker, owner, batch), request)
        except KernelError as error:
            return Failed(error.errno, error.reason)

    def take_renewals(self) -> Counter[Owner]:
        """Returns how often owners who hold anything renewed, since this was asked the last
        time."""
        found, self._renewals = self._renewals, Counter()
        return found

    # --- the operations ------------------------------------------------------------------------

    def hello(self, context: Context, hello: Hello) -> Reply:
        """Begins a connection, and tells which addresses the rules allow."""
        if hello.version != VERSION:
            return Refused("version", f"this helper speaks version {VERSION}")
        owner = context.owner
        for other in self._connections:
            if other is not context.asker and other.owner == owner:
                return Refused(
                    "busy",
                    f"process {other.peer.pid} is connected for cluster {hello.cluster} already",
                )
        others = {*self._holdings.deadlines(), *(each.owner for each in self._connections)}
        others -= {owner, None}
        of_user = sum(each is not None and each.uid == owner.uid for each in others)
        if of_user >= MAX_CLUSTERS_OF_USER or len(others) >= MAX_CLUSTERS:
            return Refused("limit", f"{of_user} clusters of its user hold addresses already")
        self._holdings.greet(owner)
        return Ok(
            {
                "version": VERSION,
                "session": self.session,
                "boottime_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
                "rules": [
                    {
                        "interface": rule.interface,
                        "networks": [str(network) for network in rule.networks],
                        "prefixes": list(rule.prefixes),
                        "reset_connections": rule.reset_connections,
                    }
                    for rule in self._holdings.policy.rules
                ],
                "fence": self._holdings.fencing.told,
                "connections": self._holdings.resets.resetting.told,
                "capacity": self._holdings.policy.max_addresses,
            }
        )

    def add(self, context: Context, add: Add) -> Reply:
        return context.batch.add(context.owner, add)

    def remove(self, context: Context, remove: Remove) -> Reply:
        return context.batch.remove(context.owner, remove.address)

    def renew(self, context: Context, renew: Renew) -> Reply:
        """Gives the owner's addresses another deadline, and tells the head of the record."""
        owner, deadline = context.owner, renew.deadline_ns / 1e9
        before, fenced = self._holdings.deadlines(), self._holdings.fenced()
        expected = {**before, owner: max(deadline, before[owner])} if owner in before else before
        if fenced is not None:
            # Who is killed in between leaves no deadline that is too early, and does not tell that
            # addresses answer longer than the kernel knows.
            live = {each: min(until, deadline) for each, until in fenced.items() if each == owner}
            self._recorder.mark(expected, {**fenced, **live})
        reply = self._holdings.renew(owner, deadline, context.batch)
        deadlines = self._holdings.deadlines()
        is_done = isinstance(reply, Ok)
        if (is_done and fenced is None) or (fenced is not None and deadlines != expected):
            self._recorder.mark(deadlines, self._holdings.fenced())
        if not isinstance(reply, Ok):
            return reply
        if owner in deadlines:
            self._renewals[owner] += 1
        head = self._recorder.head
        told = {"seq": head[0], "hash": head[1]} if head is not None else None
        return Ok({**reply.fields, "head": told, **self._wrong(owner)})

    def page(self, context: Context, request: List) -> Reply:
        page = context.batch.page(context.owner, request.after)
        return Ok({**page.fields, **self._wrong(context.owner)})

    def _wrong(self, owner: Owner) -> dict[str, Any]:
        """Returns what is wrong here and concerns the owner; what is not, has no key."""
        conflicts = self._holdings.conflicts(owner)
        told = {"conflicts": conflicts} if conflicts else {}
        return {**told, **self._looks.found(self._holdings.policy, boottime())}

    def announce(self, context: Context, announce: Announce) -> Reply:
        return context.batch.announce(context.owner, announce.address)

    def clear(self, context: Context, clear: Clear) -> Reply:
        return context.batch.clear(context.owner, clear.address)


# --- the table ---------------------------------------------------------------------------------


class Operation(NamedTuple, Generic[R]):
    """How requests of one kind are dealt with."""

    handler: Callable[[Requests, Context, R], Reply]
    needs_intent: bool
    """An intent is on record before it is done, and its result afterwards."""
    waits_for_disk: bool
    """It is not done before its intent is on the disk."""
    may_overtake: bool
    """It may be done before requests that came earlier and wait for the disk."""
    may_pass_begun: bool
    """Where there is a fence: it is done at once, also while earlier requests wait for the
    kernel."""
    may_be_batched: bool
    """It may be done together with those behind it. One that may be about all addresses of its
    owner, or take its time, is done last, and after it comes the turn of other connections."""


# fmt: off
#                    handler             intent?  waits for disk?  overtakes?  begun?  batched?
HELLO    = Operation(Requests.hello,     False,   False,           True,       False,  True)
ADD      = Operation(Requests.add,       True,    True,            True,       False,  True)
REMOVE   = Operation(Requests.remove,    True,    False,           True,       False,  True)
RENEW    = Operation(Requests.renew,     False,   False,           True,       True,   False)
LIST     = Operation(Requests.page,      False,   False,           False,      False,  False)
ANNOUNCE = Operation(Requests.announce,  True,    True,            True,       False,  True)
CLEAR    = Operation(Requests.clear,     False,   False,           False,      False,  False)
# fmt: on


def operation_of(request: Request) -> Operation[Any]:
    """Returns the row of a request in the table."""
    match request:
        case Hello():
            return HELLO
        case Add():
            return ADD
        case Remove():
            return REMOVE
        case Renew():
            return RENEW
        case List():
            return LIST
        case Announce():
            return ANNOUNCE
        case Clear():
            return CLEAR
        case _:
            assert_never(request)


def address_of(request: Request) -> Address | None:
    """Returns the address that is looked for on the host to do the request; None: either none is,
    or all are."""
    match request:
        case Add() | Remove() | Clear():
            return request.address
        case Hello() | Renew() | List() | Announce():
            return None
        case _:
            assert_never(request)
