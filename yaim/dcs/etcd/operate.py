"""What operators do with a cluster in etcd (yaim/dcs/operate.py says what that is).

A change is one transaction. Its guard is a key that every change puts: of two operators who have
seen the same, the second one changes nothing, and is told who was first. A change of the pool,
whose keys etcdctl may write, too, also wants them as they were seen. Beside the change an event of
the history is put, under a lease of its own.

Deletions work in an etcd that is full: the guard is put in a nested transaction, for which etcd
counts no space, and without a lease there is no event. What is put is counted, and refused.
"""

import json
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_never

import etcd3.etcdrpc as rpc

from yaim.core.model import (
    Address,
    ClusterView,
    Move,
    NodeName,
    Order,
    Pin,
    Revision,
    Weight,
    frozen_mapping,
)
from yaim.dcs.etcd.access import EtcdError, EtcdUnreachable
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.connection import EtcdFull, EtcdLeaseNotFound
from yaim.dcs.etcd.keys import Keys
from yaim.dcs.etcd.look import look
from yaim.dcs.etcd.refused import Refusals
from yaim.dcs.etcd.transactions import (
    compare_absent,
    compare_mod_revision,
    compare_present,
    deletion_of,
    put_of,
    when,
)
from yaim.dcs.history import parts_of, read_event, write_event
from yaim.dcs.operate import (
    HISTORY_DAYS,
    MOVE_S,
    Change,
    Conflict,
    Delete,
    Done,
    ForgetMember,
    HistoryEvent,
    Put,
    RemoveDrain,
    RemoveMove,
    RemovePause,
    RemovePin,
    RemovePoolEntry,
    RemoveWeight,
    SetDrain,
    SetMove,
    SetPause,
    SetPin,
    SetPoolEntry,
    SetWeight,
)
from yaim.dcs.orders import MOST_BY, write_order, write_pin, write_weight, written_time
from yaim.dcs.records import NotUnderstood
from yaim.text import printable

MOST_PARTS = 100
"""The most conditions or operations of the parts of a change that go in one transaction; etcd takes
128, and there are the guard and the history beside them. A change that has more goes in several."""
AT_LEAST_EVERY_S = 5.0
"""How often a watch yields when it is told nothing: one that has fallen silent tells nothing."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a change, as a transaction has it."""

    what: Put | Delete
    conditions: tuple[Any, ...]
    operations: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Leases:
    """What is put stands under these; 0: under none."""

    expiry: int
    move: int
    history: int


class EtcdOperations:
    """Thread-safe."""

    def __init__(self, make_client: Callable[[], EtcdClient], keys: Keys) -> None:
        self._make_client = make_client
        self._client = make_client()
        self._keys = keys
        self._refusals = Refusals(self._client, keys)

    def look(self) -> ClusterView:
        try:
            return look(self._client, self._keys)
        except EtcdError as error:
            raise self._refusals.of_reading(error) from error

    def commit(self, change: Change, seen: ClusterView, by: str, now: datetime) -> Done | Conflict:
        by = printable(by, MOST_BY)
        try:
            return self._commit(change, seen, by, now)
        except EtcdError as error:
            raise self._refusals.of_writing(error, is_about_pool=_is_about_pool(change)) from error

    def history(
        self, since: datetime | None, until: datetime | None, limit: int
    ) -> list[HistoryEvent]:
        try:
            pairs, _ = self._client.read_all(*self._keys.timeline())
        except EtcdError as error:
            raise self._refusals.of_reading(error) from error
        events: list[HistoryEvent] = []
        for key in sorted(pairs, key=lambda key: (pairs[key].create_revision, key)):
            pair = pairs[key]
            try:
                event = read_event(pair.value, Revision(pair.create_revision))
            except NotUnderstood:  # of a newer yaim, or nobody's
                continue
            if (since is None or event.at >= since) and (until is None or event.at <= until):
                events.append(event)
        return events[-limit:] if limit > 0 else []

    def watch(self) -> Generator[None, None, None]:
        client = self._make_client()
        news = threading.Event()
        ended: list[EtcdError] = []

        def listen(revision: int) -> None:
            try:
                for answer in client.watch(*self._keys.all(), revision):
                    if answer.events:
                        news.set()
            except EtcdError as error:
                ended.append(error)
                news.set()

        try:
            try:
                _, revision = client.count(*self._keys.all())
            except EtcdError as error:
                raise self._refusals.of_reading(error) from error
            threading.Thread(
                target=listen, args=(revision + 1,), name="etcd-look-on", daemon=True
            ).start()
            while not ended:
                yield
                news.wait(AT_LEAST_EVERY_S)
                news.clear()
            raise self._refusals.of_reading(ended[0]) from ended[0]
        finally:
            client.close()

    def close(self) -> None:
        self._client.close()

    # --- a change ----------------------------------------------------------------------------

    def _commit(self, change: Change, seen: ClusterView, by: str, now: datetime) -> Done | Conflict:
        leases = self._granted_for(change)
        parts = [
            *(self._putting(each, change.for_s, leases, seen, by, now) for each in change.puts),
            *(self._deleting(each, seen) for each in change.deletes),
        ]
        guard = seen.control.revision
        is_begun = False
        for some in _split(parts):
            events = _events_of(change, [part.what for part in some], by, now)
            request = self._transaction(
                change.command, some, guard, events, leases.history, by, now
            )
            try:
                answer = self._client.transact(request)
            except EtcdError as error:
                # After no answer it may have been made.
                if not is_begun and not isinstance(error, EtcdUnreachable):
                    self._give_back(leases)
                raise
            if not answer.succeeded:
                if not is_begun:
                    self._give_back(leases)
                return Conflict(self._why(answer, guard, is_begun=is_begun))
            guard, is_begun = Revision(answer.header.revision), True
        return Done(guard)

    def _transaction(
        self,
        command: str,
        parts: list[_Part],
        guard: Revision,
        events: list[bytes],
        history: int,
        by: str,
        now: datetime,
    ) -> Any:
        key = self._keys.guard()
        told = json.dumps({"by": by, "at": written_time(now), "command": command}).encode()
        beside = [when([], put_of(key, told))]
        if history:
            beside += [
                when([], put_of(self._keys.event(history, f"{guard}.{index}"), event, history))
                for index, event in enumerate(events)
            ]
        asked = rpc.RequestOp()
        asked.request_range.key = key
        return rpc.TxnRequest(
            compare=[
                compare_mod_revision(key, guard),
                *(condition for part in parts for condition in part.conditions),
            ],
            success=[
                *beside,
                *(operation for part in parts for operation in part.operations),
            ],
            failure=[asked],
        )

    def _why(self, answer: Any, guard: Revision, *, is_begun: bool) -> str:
        """Why a transaction has changed nothing: its failure has read the guard."""
        (found,) = answer.responses
        pairs = found.response_range.kvs
        done = "a part of it was done; " if is_begun else ""
        if (pairs[0].mod_revision if pairs else 0) == guard:
            return f"{done}the pool was changed, or a node that is to be forgotten is there again"
        return done + (_told_by(pairs[0].value) if pairs else "the guard was deleted")

    # --- leases ------------------------------------------------------------------------------

    def _granted_for(self, change: Change) -> _Leases:
        """Takes the leases that the change needs; that of the history only if it can be had."""
        expires = any(not isinstance(each, SetMove | SetPoolEntry) for each in change.puts)
        moves = any(isinstance(each, SetMove) for each in change.puts)
        expiry = move = history = 0
        if change.for_s is not None and expires:
            expiry = self._client.grant_unkept(change.for_s)
        if moves:
            move = self._client.grant_unkept(MOVE_S)
        try:
            history = self._client.grant_unkept(HISTORY_DAYS * 86400)
        except EtcdFull:
            if change.puts:
                raise
        return _Leases(expiry, move, history)

    def _give_back(self, leases: _Leases) -> None:
        """Ends leases that nothing stands under. They would end by themselves."""
        for lease in (leases.expiry, leases.move, leases.history):
            if lease:
                try:
                    self._client.revoke(lease)
                except EtcdLeaseNotFound:
                    continue
                except EtcdError:
                    return

    # --- what is put and deleted -------------------------------------------------------------

    def _putting(
        self,
        put: Put,
        for_s: int | None,
        leases: _Leases,
        seen: ClusterView,
        by: str,
        now: datetime,
    ) -> _Part:
        def order(reason: str, ends_after_s: int | None = for_s) -> Order:
            until = (
                "" if ends_after_s is None else written_time(now + timedelta(seconds=ends_after_s))
            )
            return Order(by, reason, written_time(now), until)

        def part(key: bytes, value: bytes, lease: int, *conditions: Any) -> _Part:
            return _Part(put, conditions, (put_of(key, value, lease),))

        control = self._keys.control
        match put:
            case SetDrain(node, reason):
                return part(control("drain", node), write_order(order(reason)), leases.expiry)
            case SetPause(reason):
                return part(control("pause"), write_order(order(reason)), leases.expiry)
            case SetPin(address, node, reason):
                value = write_pin(Pin(node, order(reason)))
                return part(control("pin", address), value, leases.expiry)
            case SetWeight(node, weight, reason):
                value = write_weight(Weight(weight, order(reason)))
                return part(control("weight", node), value, leases.expiry)
            case SetMove(address, node, reason):
                value = write_pin(Move(node, order(reason, MOVE_S)))
                return part(self._keys.move(address), value, leases.move)
            case SetPoolEntry(address, options):
                conditions = (
                    self._unchanged(address, seen)
                    if address in seen.pool
                    else (compare_absent(self._keys.pool_entry(address)),)
                )
                key, value = self._keys.pool_entry(address), _written_options(options)
                return part(key, value, 0, *conditions)
            case _:
                assert_never(put)

    def _deleting(self, delete: Delete, seen: ClusterView) -> _Part:
        def part(*keys: bytes, conditions: tuple[Any, ...] = ()) -> _Part:
            return _Part(delete, conditions, tuple(deletion_of(key) for key in keys))

        control = self._keys.control
        match delete:
            case RemoveDrain(node):
                return part(control("drain", node))
            case RemovePause():
                return part(control("pause"))
            case RemovePin(address):
                return part(control("pin", address))
            case RemoveWeight(node):
                return part(control("weight", node))
            case RemoveMove(address):
                return part(self._keys.move(address))
            case RemovePoolEntry(address):
                key = self._keys.pool_entry(address)
                return part(key, conditions=self._unchanged(address, seen))
            case ForgetMember(node):
                keys = (self._keys.member(node), control("drain", node), control("weight", node))
                return part(*keys, conditions=(compare_absent(self._keys.node(node)),))
            case _:
                assert_never(delete)

    def _unchanged(self, address: Address, seen: ClusterView) -> tuple[Any, ...]:
        """The conditions that an entry of the pool is there, and unchanged since."""
        key = self._keys.pool_entry(address)
        not_since = rpc.Compare(
            key=key,
            target=rpc.Compare.MOD,
            result=rpc.Compare.LESS,
            mod_revision=seen.revision + 1,
        )
        return compare_present(key), not_since


def _is_about_pool(change: Change) -> bool:
    return any(isinstance(each, SetPoolEntry) for each in change.puts) or any(
        isinstance(each, RemovePoolEntry) for each in change.deletes
    )


def _split(parts: list[_Part]) -> Iterator[list[_Part]]:
    """The parts in as few transactions as they have room in; one at least."""
    some: list[_Part] = []
    conditions = operations = 0
    for part in parts:
        conditions += len(part.conditions)
        operations += len(part.operations)
        if some and max(conditions, operations) > MOST_PARTS:
            yield some
            some, conditions, operations = [], len(part.conditions), len(part.operations)
        some.append(part)
    yield some


def _written_options(options: Mapping[str, object]) -> bytes:
    """The value of an entry of the pool; empty, if it has no options."""
    given = {name: value for name, value in options.items() if value is not None}
    return json.dumps(given, sort_keys=True).encode() if given else b""


def _events_of(change: Change, parts: list[Put | Delete], by: str, now: datetime) -> list[bytes]:
    """The events that tell of a change."""
    nodes: dict[NodeName, None] = {}
    addresses: dict[Address, None] = {}
    by_node: dict[Address, NodeName] = {}
    reasons: dict[str, None] = {change.reason: None} if change.reason else {}
    for each in parts:
        match each:
            case SetPin(address, node) | SetMove(address, node):
                by_node[address] = node
                addresses[address] = nodes[node] = None
            case SetDrain(node) | SetWeight(node) | RemoveDrain(node) | RemoveWeight(node):
                nodes[node] = None
            case ForgetMember(node):
                nodes[node] = None
            case (
                SetPoolEntry(address)
                | RemovePoolEntry(address)
                | RemovePin(address)
                | RemoveMove(address)
            ):
                addresses[address] = None
            case SetPause() | RemovePause():
                pass
            case _:
                assert_never(each)
        match each:
            case (
                SetDrain(reason=reason)
                | SetPause(reason=reason)
                | SetPin(reason=reason)
                | SetWeight(reason=reason)
                | SetMove(reason=reason)
            ) if reason:
                reasons[reason] = None
            case _:
                pass
    event = HistoryEvent(
        at=now,
        kind=change.command,
        nodes=tuple(nodes),
        addresses=tuple(addresses),
        by_node=frozen_mapping(by_node),
        reason="; ".join(reasons),
        by=by,
        revision=Revision(0),
    )
    return [write_event(part) for part in parts_of(event)]


def _told_by(guard: bytes) -> str:
    """Who has given the last command, as the guard tells it."""
    try:
        read = json.loads(guard)
        by, at, command = (printable(str(read[key]), MOST_BY) for key in ("by", "at", "command"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return "somebody has changed something meanwhile"
    return f"{by} has given the command {command} at {at}"
