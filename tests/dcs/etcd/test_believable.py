"""What an answer of etcd's cannot be, where the answers have parts."""

import etcd3.etcdrpc as rpc
import pytest

from yaim.dcs.etcd.believable import faulty_transaction
from yaim.dcs.etcd.transactions import compare_absent, deletion_of, put_of, when


def answer_of(*responses: rpc.ResponseOp, succeeded: bool = True) -> rpc.TxnResponse:
    answer = rpc.TxnResponse(succeeded=succeeded, responses=responses)
    answer.header.cluster_id, answer.header.revision = 1, 7
    return answer


def put() -> rpc.ResponseOp:
    response = rpc.ResponseOp()
    response.response_put.SetInParent()
    return response


def deleted() -> rpc.ResponseOp:
    response = rpc.ResponseOp()
    response.response_delete_range.SetInParent()
    return response


def nested(*responses: rpc.ResponseOp, succeeded: bool) -> rpc.ResponseOp:
    response = rpc.ResponseOp()
    response.response_txn.succeeded = succeeded
    response.response_txn.responses.extend(responses)
    return response


HANDOVER = when([compare_absent(b"a")], put_of(b"a", b""), deletion_of(b"b"))
HANDOVER.request_txn.failure.append(when([compare_absent(b"c")], deletion_of(b"a")))
REQUEST = rpc.TxnRequest(compare=[compare_absent(b"n")], success=[HANDOVER])


@pytest.mark.parametrize(
    "answer",
    [
        answer_of(nested(put(), deleted(), succeeded=True)),
        answer_of(nested(nested(deleted(), succeeded=True), succeeded=False)),
        answer_of(nested(nested(succeeded=False), succeeded=False)),
        answer_of(succeeded=False),
    ],
)
def test_an_answer_with_a_part_for_each_operation_is_believed(answer: rpc.TxnResponse) -> None:
    assert faulty_transaction(answer, REQUEST) is None


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (answer_of(), "answers a transaction of 1 operations with 0 of its own"),
        (answer_of(put()), "answers a transaction of 1 operations with 1 of its own"),
        (
            answer_of(nested(succeeded=True)),
            "answers a transaction of 2 operations with 0 of its own",
        ),
        (
            answer_of(nested(deleted(), put(), succeeded=True)),
            "answers a transaction of 2 operations with 2 of its own",
        ),
        (
            answer_of(nested(succeeded=False)),
            "answers a transaction of 1 operations with 0 of its own",
        ),
        (
            answer_of(nested(nested(succeeded=True), succeeded=False)),
            "answers a transaction of 1 operations with 0 of its own",
        ),
        (
            answer_of(nested(succeeded=True), succeeded=False),
            "answers a transaction of 0 operations with 1 of its own",
        ),
        (
            rpc.TxnResponse(succeeded=False),
            "answers without a header: this is not etcd, or it is broken",
        ),
    ],
)
def test_an_answer_that_leaves_an_operation_out_is_not_believed(
    answer: rpc.TxnResponse, complaint: str
) -> None:
    """Whoever looks for what has become of a mark would find nothing there."""
    assert faulty_transaction(answer, REQUEST) == complaint
