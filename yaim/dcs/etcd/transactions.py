"""What a node writes to etcd: its advertisement and its marks, as transactions (etcd API, Txn).

Every transaction has the node's advertisement as its guard, so that one that was delayed on the way
does nothing once the node has written a newer one. Each mark is put or deleted in a nested
transaction, under a condition of its own: that the address is in the pool and has no mark, or that
the mark is still the one that is meant.

More marks than one transaction takes go in several, each under the same guard, with the
advertisement in the last. If one of them fails, the answer tells nothing of those before it: the
core does not use what they may have released until a read has told of it, and learns by that read
what they have claimed. Until then it has none of these addresses on its interface.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import etcd3.etcdrpc as rpc

from yaim.core.actions import AdvertiseNode, ClaimMarks, ReleaseMarks, WithdrawNode
from yaim.core.events import (
    Event,
    MarksClaimed,
    MarksReleased,
    NodeAdvertised,
    NodeNotAdvertised,
    NodeWithdrawn,
    WriteFailed,
)
from yaim.core.model import Address, LeaseId, Mark, Node, NodeName, Revision
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.keys import Keys
from yaim.dcs.records import write_advertisement

MAX_OPS = 125
"""The most addresses in one transaction. etcd takes 128 operations, to which it counts the
conditions of the nested transaction that has the most: two; and there may be one operation more, on
the advertisement."""


class Transactions:
    """The writes of one node. Every method raises EtcdError where it is unknown what was done."""

    def __init__(self, client: EtcdClient, keys: Keys, node: NodeName) -> None:
        self._client = client
        self._keys = keys
        self._node = node

    def advertise(self, request: AdvertiseNode) -> Event:
        key = self._keys.node(self._node)
        same = _compare_mod_revision(key, request.replaces)
        *others, last = _chunks(request.release) or [()]
        if not self._delete_in_parts(same, others)[2]:
            return NodeNotAdvertised(request.request)
        put = rpc.RequestOp()
        put.request_put.key = key
        put.request_put.value = write_advertisement(request.advertisement)
        put.request_put.lease = request.lease
        # The put is in a nested transaction: etcd counts no space for what is in one, so that it
        # takes this, and claims, also when it is full.
        answer = self._transact([same], [_if([], put), *(self._deletion(mark) for mark in last)])
        if not answer.succeeded:
            return NodeNotAdvertised(request.request)
        revision = Revision(answer.header.revision)
        node = Node(self._node, request.advertisement, request.lease, revision)
        return NodeAdvertised(request.request, node)

    def withdraw(self, request: WithdrawNode) -> Event:
        key = self._keys.node(self._node)
        same = _compare_mod_revision(key, request.advertised)
        delete = rpc.RequestOp()
        delete.request_delete_range.key = key
        *others, last = _chunks(request.release) or [()]
        if self._delete_in_parts(same, others)[2]:
            answer = self._transact([same], [delete, *(self._deletion(mark) for mark in last)])
            if answer.succeeded:
                return NodeWithdrawn(request.request, Revision(answer.header.revision))
        return WriteFailed(request.request, "our advertisement was changed")

    def release(self, request: ReleaseMarks) -> Event:
        same = _compare_mod_revision(self._keys.node(self._node), request.advertised)
        addresses, revision, _ = self._delete_in_parts(same, _chunks(request.marks))
        return MarksReleased(request.request, addresses, revision)

    def claim(self, request: ClaimMarks) -> Event:
        advertised = _compare_mod_revision(self._keys.node(self._node), request.advertised)
        marks: list[Mark] = []
        revision = 0
        for addresses in _chunks(request.addresses):
            answer = self._transact(
                [advertised], [self._claiming(address, request.lease) for address in addresses]
            )
            revision = answer.header.revision
            if answer.succeeded:
                marks += [
                    Mark(address, self._node, request.lease, Revision(revision))
                    for address in _done(addresses, answer)
                ]
        lost = frozenset(request.addresses) - {mark.address for mark in marks}
        return MarksClaimed(request.request, tuple(marks), lost, Revision(revision))

    def _delete_in_parts(
        self, same: Any, parts: Iterable[Sequence[Mark]]
    ) -> tuple[frozenset[Address], Revision, bool]:
        """Returns the addresses whose marks were still the same ones and are deleted, the revision
        of the last answer, and whether the guard has held for all parts: after one for which it
        has not, nothing more is asked."""
        released: list[Mark] = []
        revision, is_ours = 0, True
        for marks in parts:
            answer = self._transact([same], [self._deletion(mark) for mark in marks])
            revision, is_ours = answer.header.revision, answer.succeeded
            if not is_ours:
                break
            released += _done(marks, answer)
        return frozenset(mark.address for mark in released), Revision(revision), is_ours

    def _claiming(self, address: Address, lease: LeaseId) -> Any:
        """Marks the address, if it is in the pool and has no mark. Nothing else ever puts a mark:
        if the mod_revision of one is not its create_revision, somebody else has put it
        (yaim/dcs/etcd/keys.py)."""
        unmarked = rpc.Compare(
            key=self._keys.mark(address),
            target=rpc.Compare.CREATE,
            result=rpc.Compare.EQUAL,
            create_revision=0,
        )
        in_pool = rpc.Compare(
            key=self._keys.pool_entry(address),
            target=rpc.Compare.CREATE,
            result=rpc.Compare.GREATER,
            create_revision=0,
        )
        put = rpc.RequestOp()
        put.request_put.key = self._keys.mark(address)
        put.request_put.value = self._node.encode()
        put.request_put.lease = lease
        return _if([unmarked, in_pool], put)

    def _deletion(self, mark: Mark) -> Any:
        """Deletes the mark, if it is still the same one, and nobody has put another over it."""
        key = self._keys.mark(mark.address)
        same = _compare_mod_revision(key, mark.revision)
        delete = rpc.RequestOp()
        delete.request_delete_range.key = key
        return _if([same], delete)

    def _transact(self, compare: Iterable[Any], operations: Iterable[Any]) -> Any:
        return self._client.transact(rpc.TxnRequest(compare=compare, success=operations))


def check_may_write(client: EtcdClient, *keys: bytes) -> None:
    """Asks whether the user may write these keys, and writes nothing: etcd looks at the permissions
    for all that a transaction might do, also on a condition that never holds. Raises
    EtcdPermissionDenied."""
    never = rpc.Compare(key=keys[0], target=rpc.Compare.VERSION, result=rpc.Compare.LESS, version=0)
    puts = []
    for key in keys:
        put = rpc.RequestOp()
        put.request_put.key = key
        puts.append(put)
    client.transact(rpc.TxnRequest(compare=[never], success=puts))


def _chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + MAX_OPS] for start in range(0, len(items), MAX_OPS)]


def _done(items: Sequence[Any], answer: Any) -> list[Any]:
    """Those items whose nested transaction, in the same order, was carried out."""
    return [
        item
        for item, response in zip(items, answer.responses, strict=True)
        if response.response_txn.succeeded
    ]


def _if(compare: Iterable[Any], operation: Any) -> Any:
    """An operation within a transaction that is carried out on a condition of its own."""
    nested = rpc.RequestOp()
    nested.request_txn.CopyFrom(rpc.TxnRequest(compare=compare, success=[operation]))
    return nested


def _compare_mod_revision(key: bytes, revision: int) -> Any:
    return rpc.Compare(
        key=key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=revision
    )
