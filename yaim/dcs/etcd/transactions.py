"""What a node writes to etcd: its advertisement and its marks, as transactions (etcd API, Txn).

Every transaction has the node's advertisement as its guard, so that one that was delayed on the way
does nothing once the node has written a newer one. Each mark is put or deleted in a nested
transaction, under a condition of its own: that the address is in the pool and has no mark, or that
the mark is still the one that is meant. With it goes an order to move the address, if that is done.

A mark is handed over by one put over it, as etcd takes no deletion and put of one key in one
transaction. It is put under the heir's lease, if the heir's advertisement stands under this lease:
so the lease is there, and it is the heir's. What the advertisement says is not compared: it changes
also for reasons that have nothing to do with the address.

More marks than one transaction takes go in several, each under the same guard, with the
advertisement in the last. If one of them fails, the answer tells nothing of those before it: the
core does not use what they may have released until a read has told of it, and learns by that read
what they have claimed. Until then it has none of these addresses on its interface.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import time
from typing import Any

import etcd3.etcdrpc as rpc

from yaim.core.actions import AdvertiseNode, ClaimMarks, Heir, ReleaseMarks, WithdrawNode
from yaim.core.events import (
    Event,
    MarksClaimed,
    MarksReleased,
    NodeAdvertised,
    NodeNotAdvertised,
    NodeWithdrawn,
    WriteFailed,
)
from yaim.core.model import (
    Address,
    LeaseId,
    Mark,
    Member,
    Node,
    NodeName,
    Revision,
    frozen_mapping,
)
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.keys import Keys, written_holder
from yaim.dcs.orders import write_member, written_time
from yaim.dcs.records import write_advertisement

MAX_OPS = 125
"""The most addresses in one transaction. etcd takes 128 operations, to which it counts the
conditions of nested transactions: two of one that hands a mark over, and one of the transaction
within it. Beside marks that are deleted there may be two operations more, on the advertisement and
on the member, and each deletion has one condition."""
NO_HEIRS: Mapping[Address, Heir] = frozen_mapping({})


@dataclass(frozen=True, slots=True)
class _Released:
    """What has become of marks that were to be released."""

    addresses: frozenset[Address]
    """Those whose marks were still the same ones."""
    handed: tuple[Mark, ...]
    """The marks of those among them that were handed over."""
    revision: Revision
    """Of the last answer."""
    is_ours: bool
    """Whether the guard has held for all parts: after one for which it has not, nothing more was
    asked."""


class Transactions:
    """The writes of one node. Every method raises EtcdError where it is unknown what was done."""

    def __init__(self, client: EtcdClient, keys: Keys, node: NodeName) -> None:
        self._client = client
        self._keys = keys
        self._node = node
        self._version = ""
        """The version of yaim that was advertised last."""

    def advertise(self, request: AdvertiseNode) -> Event:
        key = self._keys.node(self._node)
        same = compare_mod_revision(key, request.replaces)
        *others, last = _chunks(request.release) or [()]
        if not self._release_in_parts(same, others).is_ours:
            return NodeNotAdvertised(request.request)
        written_at = round(time(), 3)
        told = write_advertisement(request.advertisement, written_at)
        # The puts are in nested transactions: etcd counts no space for what is in one, so that it
        # takes them, and claims, also when it is full.
        puts = [when([], put_of(key, told, request.lease))]
        if request.joins:
            version = request.advertisement.version
            puts.append(self._noting_member(request.first_seen, version, is_stopped=False))
        answer = self._transact([same], [*puts, *(self._deletion(mark) for mark in last)])
        if not answer.succeeded:
            return NodeNotAdvertised(request.request)
        revision = Revision(answer.header.revision)
        node = Node(self._node, request.advertisement, request.lease, revision, written_at)
        self._version = request.advertisement.version
        return NodeAdvertised(request.request, node)

    def withdraw(self, request: WithdrawNode) -> Event:
        key = self._keys.node(self._node)
        same = compare_mod_revision(key, request.advertised)
        own = [deletion_of(key)]
        if request.is_stopped:
            own.append(self._noting_member(request.first_seen, self._version, is_stopped=True))
        *others, last = _chunks(request.release) or [()]
        if self._release_in_parts(same, others).is_ours:
            answer = self._transact([same], [*own, *(self._deletion(mark) for mark in last)])
            if answer.succeeded:
                return NodeWithdrawn(request.request, Revision(answer.header.revision))
        return WriteFailed(request.request, "our advertisement was changed")

    def release(self, request: ReleaseMarks) -> Event:
        same = compare_mod_revision(self._keys.node(self._node), request.advertised)
        done = self._release_in_parts(same, _chunks(request.marks), request.heirs, request.moved)
        return MarksReleased(request.request, done.addresses, done.revision, done.handed)

    def claim(self, request: ClaimMarks) -> Event:
        advertised = compare_mod_revision(self._keys.node(self._node), request.advertised)
        marks: list[Mark] = []
        revision = 0
        for addresses in _chunks(request.addresses):
            answer = self._transact(
                [advertised],
                [
                    self._claiming(address, request.lease, is_moved=address in request.moved)
                    for address in addresses
                ],
            )
            revision = answer.header.revision
            if answer.succeeded:
                marks += [
                    Mark(address, self._node, request.lease, Revision(revision))
                    for address in _done(addresses, answer)
                ]
        lost = frozenset(request.addresses) - {mark.address for mark in marks}
        return MarksClaimed(request.request, tuple(marks), lost, Revision(revision))

    def _release_in_parts(
        self,
        same: Any,
        parts: Iterable[Sequence[Mark]],
        heirs: Mapping[Address, Heir] = NO_HEIRS,
        moved: Collection[Address] = (),
    ) -> _Released:
        released: set[Address] = set()
        handed: list[Mark] = []
        revision, is_ours = Revision(0), True
        for marks in parts:
            answer = self._transact(
                [same],
                [
                    self._handover(mark, heirs[mark.address], is_moved=mark.address in moved)
                    if mark.address in heirs
                    else self._deletion(mark)
                    for mark in marks
                ],
            )
            revision, is_ours = Revision(answer.header.revision), answer.succeeded
            if not is_ours:
                break
            for mark, response in zip(marks, answer.responses, strict=True):
                done, heir = response.response_txn, heirs.get(mark.address)
                if heir is not None and done.succeeded:
                    now = Mark(
                        mark.address, heir.node, heir.lease, revision, version=mark.version + 1
                    )
                    handed.append(now)
                elif heir is not None:
                    done = done.responses[0].response_txn
                if done.succeeded:
                    released.add(mark.address)
        return _Released(frozenset(released), tuple(handed), revision, is_ours)

    def _claiming(self, address: Address, lease: LeaseId, *, is_moved: bool) -> Any:
        """Marks the address, if it is in the pool and has no mark. A mark is put here only, and by
        a handover: if the mod_revision of one is not its create_revision, and its value does not
        say which version it is, somebody else has put it (yaim/dcs/etcd/keys.py)."""
        unmarked = compare_absent(self._keys.mark(address))
        in_pool = compare_present(self._keys.pool_entry(address))
        put = put_of(self._keys.mark(address), written_holder(self._node, 1), lease)
        return when([unmarked, in_pool], put, *self._end_of_move(address, is_moved=is_moved))

    def _deletion(self, mark: Mark) -> Any:
        """Deletes the mark, if it is still the same one, and nobody has put another over it."""
        key = self._keys.mark(mark.address)
        return when([compare_mod_revision(key, mark.revision)], deletion_of(key))

    def _handover(self, mark: Mark, heir: Heir, *, is_moved: bool) -> Any:
        """Makes the mark the heir's, if it is still the same one, and the heir still has its lease;
        otherwise deletes it, if it is the same one. (An advertisement that is not there has no
        lease.)"""
        key, node = self._keys.mark(mark.address), self._keys.node(heir.node)
        lease = rpc.Compare(
            key=node, target=rpc.Compare.LEASE, result=rpc.Compare.EQUAL, lease=heir.lease
        )
        same = compare_mod_revision(key, mark.revision)
        value = written_holder(heir.node, mark.version + 1)
        nested = rpc.RequestOp()
        nested.request_txn.CopyFrom(
            rpc.TxnRequest(
                compare=[same, lease],
                success=[
                    put_of(key, value, heir.lease),
                    *self._end_of_move(mark.address, is_moved=is_moved),
                ],
                failure=[self._deletion(mark)],
            )
        )
        return nested

    def _end_of_move(self, address: Address, *, is_moved: bool) -> tuple[Any, ...]:
        return (deletion_of(self._keys.move(address)),) if is_moved else ()

    def _noting_member(self, first_seen: str, version: str, *, is_stopped: bool) -> Any:
        """Notes this node as one that has been there: under no lease, so that it stays known."""
        now = written_time(datetime.now(UTC))
        member = Member(first_seen or now, is_stopped, now, version)
        return when([], put_of(self._keys.member(self._node), write_member(member)))

    def _transact(self, compare: Iterable[Any], operations: Iterable[Any]) -> Any:
        return self._client.transact(rpc.TxnRequest(compare=compare, success=operations))


def check_may_write(client: EtcdClient, *keys: bytes) -> None:
    """Asks whether the user may write these keys, and writes nothing: etcd looks at the permissions
    for all that a transaction might do, also on a condition that never holds. Raises
    EtcdPermissionDenied."""
    never = rpc.Compare(key=keys[0], target=rpc.Compare.VERSION, result=rpc.Compare.LESS, version=0)
    puts = [put_of(key, b"") for key in keys]
    client.transact(rpc.TxnRequest(compare=[never], success=puts))


# --- parts of transactions -----------------------------------------------------------------------


def put_of(key: bytes, value: bytes, lease: int = 0) -> Any:
    """Puts a key; under no lease if `lease` is 0."""
    put = rpc.RequestOp()
    put.request_put.key = key
    put.request_put.value = value
    put.request_put.lease = lease
    return put


def deletion_of(key: bytes) -> Any:
    delete = rpc.RequestOp()
    delete.request_delete_range.key = key
    return delete


def compare_absent(key: bytes) -> Any:
    return rpc.Compare(
        key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0
    )


def compare_present(key: bytes) -> Any:
    return rpc.Compare(
        key=key, target=rpc.Compare.CREATE, result=rpc.Compare.GREATER, create_revision=0
    )


def compare_mod_revision(key: bytes, revision: int) -> Any:
    """Whether a key has had no change since this one; 0: whether it is not there."""
    return rpc.Compare(
        key=key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=revision
    )


def when(compare: Iterable[Any], *operations: Any) -> Any:
    """Operations within a transaction that are carried out on a condition of their own."""
    nested = rpc.RequestOp()
    nested.request_txn.CopyFrom(rpc.TxnRequest(compare=compare, success=operations))
    return nested


def _chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + MAX_OPS] for start in range(0, len(items), MAX_OPS)]


def _done(items: Sequence[Any], answer: Any) -> list[Any]:
    """Those items whose nested transaction, in the same order, was carried out."""
    return [
        item
        for item, response in zip(items, answer.responses, strict=True)
        if response.response_txn.succeeded
    ]
