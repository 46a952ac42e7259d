"""What an answer of etcd's cannot be: whoever answers so is not believed, and another endpoint is
asked.

Pure. etcd's own promises are what is held against it: each answer has a header (etcd API, "Response
header"), a read tells keys of its range as of one revision, a watch tells them in order (etcd API
guarantees), and a lease has the TTL that it was granted.
"""

from collections.abc import Iterable
from typing import Any

from yaim.core.deadline import LONGEST_LEAST_TTL_S
from yaim.text import printable

MAX_REVISION = 2**63 - 2
"""The last revision after which there is another one to watch from."""
TOKEN_AT_MOST = 4096
"""The longest token. A signed one (JWT) has some 800 characters; gRPC takes 8192 of metadata in
all."""


def faulty_header(answer: Any) -> str | None:
    """What is wrong with an answer whose revision counts."""
    if not answer.header.cluster_id:
        return "answers without a header: this is not etcd, or it is broken"
    if not 0 < answer.header.revision <= MAX_REVISION:
        return f"answers with revision {answer.header.revision}, which no etcd has"
    return None


def faulty_lease(answer: Any, asked_s: int) -> str | None:
    """What is wrong with a lease that was granted; `asked_s`: the TTL that was asked for."""
    if answer.ID <= 0:
        return f"has granted lease {answer.ID}, which no etcd has"
    if not asked_s <= answer.TTL <= max(asked_s, LONGEST_LEAST_TTL_S):
        return f"has granted a lease of {answer.TTL} s, asked for one of {asked_s} s"
    return faulty_header(answer)


def faulty_keepalive(answer: Any, lease: int, longest_s: int) -> str | None:
    """What is wrong with the answer to a keepalive. A TTL of 0 or less says that there is none."""
    if lease != answer.ID:
        return f"answers about lease {answer.ID:x}, asked about {lease:x}"
    if longest_s < answer.TTL:
        return f"tells a TTL of {answer.TTL} s of lease {lease:x}, which can have {longest_s} s"
    return faulty_header(answer)


def faulty_read(answer: Any, start: bytes, end: bytes, most: int, revision: int) -> str | None:
    """What is wrong with a read of the first keys of a range, `most` of them, as of a revision; 0:
    the present one."""
    if complaint := faulty_header(answer):
        return complaint
    if answer.header.revision < revision:
        return f"answers as of revision {answer.header.revision}, asked for {revision}"
    if len(answer.kvs) > most:
        return f"answers with {len(answer.kvs)} keys, asked for {most}"
    if answer.more and len(answer.kvs) < most:
        return "answers a read with a part only"
    return faulty_pairs(answer.kvs, start, end, revision or answer.header.revision)


def faulty_pairs(pairs: Iterable[Any], start: bytes, end: bytes, newest: int) -> str | None:
    """What is wrong with keys of a range, as of a revision."""
    for pair in pairs:
        if not start <= pair.key < end:
            return f"tells of {_shown(pair.key)}, which it was not asked about"
        if not 0 < pair.mod_revision <= newest or pair.create_revision > pair.mod_revision:
            return (
                f"tells of {_shown(pair.key)} at revision {pair.mod_revision}, created at"
                f" {pair.create_revision}, when its own is {newest}"
            )
    return None


def faulty_transaction(answer: Any, request: Any) -> str | None:
    """What is wrong with the answer to a transaction."""
    return faulty_header(answer) or _faulty_responses(answer, request)


def _faulty_responses(answer: Any, request: Any) -> str | None:
    """The same for the answers to its operations, and to those of the transactions within it."""
    asked = tuple(request.success if answer.succeeded else request.failure)
    wanted = [each.WhichOneof("request").replace("request", "response") for each in asked]
    told = [each.WhichOneof("response") for each in answer.responses]
    if told != wanted:
        return f"answers a transaction of {len(wanted)} operations with {len(told)} of its own"
    complaints = (
        _faulty_responses(response.response_txn, each.request_txn)
        for each, response in zip(asked, answer.responses, strict=True)
        if each.HasField("request_txn")
    )
    return next((each for each in complaints if each is not None), None)


def faulty_changes(answer: Any, start: bytes, end: bytes, since: int) -> str | None:
    """What is wrong with an answer of a watch of a key range; `since`: no event can be older."""
    if not answer.events:
        return None
    if complaint := faulty_header(answer):
        return complaint
    pairs = [event.kv for event in answer.events]
    for pair in pairs:
        if pair.mod_revision < since:
            return f"tells of revision {pair.mod_revision} after {since}: its watch is out of order"
        since = pair.mod_revision
    for pair in pairs:
        # A deletion has no revision of its creation.
        if not start <= pair.key < end:
            return f"tells of {_shown(pair.key)}, which it was not asked about"
    newest = answer.header.revision
    return None if since <= newest else f"tells of revision {since}, when its own is {newest}"


def is_token(text: str) -> bool:
    """Whether gRPC could send this as a token (printable ASCII in metadata), and it is no longer
    than etcd makes any."""
    return 0 < len(text) <= TOKEN_AT_MOST and text.isascii() and text.isprintable()


def _shown(key: bytes) -> str:
    return printable(key.decode(errors="backslashreplace"), most=100)
