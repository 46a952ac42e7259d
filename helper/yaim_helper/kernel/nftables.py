"""nf_tables' messages, to bytes: include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h in Linux,
libnftnl as a second opinion (`nft --debug=netlink`).

A batch is one transaction: all of its messages are carried out, or none. nfnetlink_rcv_batch in
net/netfilter/nfnetlink.c takes them one after the other, remembers the error of each, and goes on;
then it commits, or aborts all if there was one error, and answers. Does no I/O, and decides
nothing: fence.py does.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from yaim_helper.kernel.netlink import MalformedMessage, messages

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
"""The group that tells of every change of a ruleset (multicast, netlink(7))."""

MAX_ELEMENTS = 1024
"""Elements in one message: the length of an attribute has 16 bits, and an element with an IPv6
address takes 28 bytes."""
PORT_AT = 12
"""Where the port of the socket that had asked for a change is in what is told of it: four bytes in
the host's order (struct nlmsghdr)."""

_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
_NLM_F_APPEND, _NLM_F_DUMP = 0x800, 0x300
_BATCH_BEGIN, _BATCH_END = 16, 17
_SUBSYSTEM = 10
"""NFNL_SUBSYS_NFTABLES, the upper byte of a message's type."""
_NESTED, _BIG_ENDIAN = 0x8000, 0x4000
_HEADER = struct.Struct("=IHHII")
_GENERAL = struct.Struct("=BBBB")
"""struct nfgenmsg: family, version; the resource is big-endian, in the last two bytes."""


class Family(IntEnum):
    INET, ARP = 1, 3


class Kind(IntEnum):
    """The lower byte of a message's type: enum nf_tables_msg_types."""

    NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
    NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
    NEWRULE, GETRULE, DELRULE = 6, 7, 8
    NEWSET, GETSET, DELSET = 9, 10, 11
    NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14
    NEWGEN = 15


class Hook(IntEnum):
    """Of the family inet: NF_INET_...; of arp: NF_ARP_..."""

    INET_PREROUTING, INET_POSTROUTING = 0, 4
    ARP_IN, ARP_OUT = 0, 1


@dataclass(frozen=True, slots=True)
class Change:
    """One message of a batch, still without its sequence number."""

    kind: Kind
    flags: int
    family: Family
    body: bytes


Expression: TypeAlias = bytes


def batch(changes: Sequence[Change], first: int) -> bytes:
    """One transaction. The sequence numbers of the changes are `first` + 1, `first` + 2, ...

    The kernel answers by NLMSG_ERROR, with the sequence number: each change that it refuses, and
    the last one in any case, after all others. An error of the batch as a whole bears `first`.
    """
    begin = _message(_BATCH_BEGIN, _NLM_F_REQUEST, first, 0, _SUBSYSTEM, b"")
    last = first + len(changes)
    inner = b"".join(
        _message(
            _SUBSYSTEM << 8 | each.kind,
            each.flags | _NLM_F_REQUEST | (_NLM_F_ACK if number == last else 0),
            number,
            each.family,
            0,
            each.body,
        )
        for number, each in enumerate(changes, first + 1)
    )
    end = _message(_BATCH_END, _NLM_F_REQUEST, last + 1, 0, _SUBSYSTEM, b"")
    return begin + inner + end


def all_tables(sequence: int) -> bytes:
    """Asks for the tables of all families; NLMSG_DONE ends the answer."""
    return _dump(Kind.GETTABLE, sequence, 0, b"")


def all_elements(sequence: int, family: Family, table: str, name: str) -> bytes:
    """Asks for what is in a set, but for elements that have run out; NLMSG_DONE ends the answer,
    or NLMSG_ERROR (ENOENT) if there is no such set."""
    return _dump(Kind.GETSETELEM, sequence, family, _text(1, table) + _text(2, name))


def _dump(kind: Kind, sequence: int, family: int, body: bytes) -> bytes:
    flags = _NLM_F_REQUEST | _NLM_F_DUMP
    return _message(_SUBSYSTEM << 8 | kind, flags, sequence, family, 0, body)


def new_table(family: Family, table: str, comment: str = "") -> Change:
    """Refused (EEXIST) if it is there. nft shows the comment, of 254 bytes at most."""
    told = comment.encode() + b"\0"
    # struct nftnl_udata: type 0 (NFTNL_UDATA_TABLE_COMMENT), length, value.
    data = _attribute(6, bytes((0, len(told))) + told) if comment else b""
    return Change(Kind.NEWTABLE, _NLM_F_CREATE | _NLM_F_EXCL, family, _text(1, table) + data)


def make_table(family: Family, table: str) -> Change:
    """Nothing if it is there."""
    return Change(Kind.NEWTABLE, _NLM_F_CREATE, family, _text(1, table))


def delete_table(family: Family, table: str) -> Change:
    """With all that is in it. Refused (ENOENT) if it is not there."""
    return Change(Kind.DELTABLE, 0, family, _text(1, table))


def new_set(
    family: Family,
    table: str,
    name: str,
    number: int,
    key_type: int,
    key_bytes: int,
    *,
    has_timeout: bool = False,
) -> Change:
    """`number` tells it from other new sets of this batch. `key_type` is what nft shows it as (its
    datatype.h); the kernel does not look at it."""
    body = _text(1, table) + _text(2, name)
    body += _number(3, _SET_TIMEOUT if has_timeout else 0)
    body += _number(4, key_type) + _number(5, key_bytes) + _number(10, number)
    return Change(Kind.NEWSET, _NLM_F_CREATE | _NLM_F_EXCL, family, body)


_SET_TIMEOUT = 0x10


def new_chain(family: Family, table: str, name: str, hook: Hook, priority: int) -> Change:
    """A base chain of type filter that lets through what no rule decides."""
    place = _number(1, hook) + _attribute(2, struct.pack(">i", priority))
    body = _text(1, table) + _text(3, name) + _nested(4, place) + _number(5, 1) + _text(7, "filter")
    return Change(Kind.NEWCHAIN, _NLM_F_CREATE | _NLM_F_EXCL, family, body)


def new_plain_chain(family: Family, table: str, name: str) -> Change:
    """A chain that packets only come to by `go_to`."""
    body = _text(1, table) + _text(3, name)
    return Change(Kind.NEWCHAIN, _NLM_F_CREATE | _NLM_F_EXCL, family, body)


def new_rule(family: Family, table: str, chain: str, expressions: Iterable[Expression]) -> Change:
    """Behind the others of its chain."""
    inner = b"".join(_nested(1, each) for each in expressions)
    body = _text(1, table) + _text(2, chain) + _nested(4, inner)
    return Change(Kind.NEWRULE, _NLM_F_CREATE | _NLM_F_APPEND, family, body)


def new_elements(
    family: Family, table: str, name: str, keys: Iterable[bytes], timeout_ms: int | None = None
) -> Change:
    """Adds them, MAX_ELEMENTS at most, to a set; what is there already stays. Before Linux 6.12 its
    time-out stays as it is, too. A time-out shorter than a jiffy (up to 10 ms) may be none."""
    return Change(Kind.NEWSETELEM, _NLM_F_CREATE, family, _elements(table, name, keys, timeout_ms))


def delete_elements(family: Family, table: str, name: str, keys: Iterable[bytes]) -> Change:
    """MAX_ELEMENTS at most. Refused (ENOENT) if one of them is not there."""
    return Change(Kind.DELSETELEM, 0, family, _elements(table, name, keys, None))


def _elements(table: str, name: str, keys: Iterable[bytes], timeout_ms: int | None) -> bytes:
    timeout = b"" if timeout_ms is None else _attribute(4, struct.pack(">Q", timeout_ms))
    inner = b"".join(_nested(1, _nested(1, _attribute(1, key)) + timeout) for key in keys)
    return _text(1, table) + _text(2, name) + _nested(3, inner)


# --- expressions: what a rule does, one after the other, by way of register 1 ---------------------

_REGISTER, _VERDICT = 1, 0
_META_PROTOCOL, _META_IIF, _META_OIF, _META_NFPROTO = 1, 4, 5, 15
_NETWORK_HEADER = 1
_DROP, _ACCEPT, _GOTO = 0, 1, 0xFFFFFFFC


def protocol() -> Expression:
    """Loads the Ethernet type, two bytes."""
    return _meta(_META_PROTOCOL)


def network_protocol() -> Expression:
    """Loads NFPROTO_IPV4 or NFPROTO_IPV6, one byte."""
    return _meta(_META_NFPROTO)


def incoming_interface() -> Expression:
    """Loads its index, four bytes in the host's order."""
    return _meta(_META_IIF)


def outgoing_interface() -> Expression:
    """Loads its index, four bytes in the host's order."""
    return _meta(_META_OIF)


def header(offset: int, length: int) -> Expression:
    """Loads a part of the network header."""
    inner = _number(1, _REGISTER) + _number(2, _NETWORK_HEADER)
    return _expression("payload", inner + _number(3, offset) + _number(4, length))


def is_equal(value: bytes) -> Expression:
    """Goes on only if what was loaded is that."""
    inner = _number(1, _REGISTER) + _number(2, 0) + _nested(3, _attribute(1, value))
    return _expression("cmp", inner)


def is_in(name: str, number: int) -> Expression:
    """Goes on only if what was loaded is in that set, which is new in this batch."""
    inner = _text(1, name) + _number(2, _REGISTER) + _number(4, number)
    return _expression("lookup", inner)


def drop() -> Expression:
    return _verdict(_number(1, _DROP))


def accept() -> Expression:
    """Ends this table's part in it; others still see the packet."""
    return _verdict(_number(1, _ACCEPT))


def go_to(chain: str) -> Expression:
    """The packet goes on there, and does not come back."""
    return _verdict(_number(1, _GOTO) + _text(2, chain))


def _meta(key: int) -> Expression:
    return _expression("meta", _number(1, _REGISTER) + _number(2, key))


def _verdict(verdict: bytes) -> Expression:
    inner = _number(1, _VERDICT) + _nested(2, _nested(2, verdict))
    return _expression("immediate", inner)


def _expression(name: str, inner: bytes) -> Expression:
    return _text(1, name) + _nested(2, inner)


# --- what the kernel tells ------------------------------------------------------------------------


def tables_changed(datagram: bytes) -> Iterator[str]:
    """Returns the tables of whose changes, or of what is in them, a datagram of NFNLGRP_NFTABLES
    tells. Raises MalformedMessage."""
    for told in messages(datagram):
        if told.kind >> 8 == _SUBSYSTEM and told.kind & 0xFF != Kind.NEWGEN:
            yield table_of(told.body)


def table_of(body: bytes) -> str:
    """Returns the table that a message of any kind is about. Raises MalformedMessage."""
    for kind, value in _attributes(body[_GENERAL.size :]):
        if kind == 1:
            return value.rstrip(b"\0").decode(errors="replace")
    raise MalformedMessage("a change without a table")


def family_of(body: bytes) -> int:
    """Returns the number of the family that a message is about. Raises MalformedMessage."""
    if len(body) < _GENERAL.size:
        raise MalformedMessage(f"{len(body)} bytes, too few for a family")
    return body[0]


def keys_of(body: bytes) -> Iterator[bytes]:
    """Returns the keys of the elements in a part of the answer to `all_elements`. Raises
    MalformedMessage."""
    for list_kind, elements in _attributes(body[_GENERAL.size :]):
        if list_kind != 3:
            continue
        for _, element in _attributes(elements):
            for kind, key in _attributes(element):
                if kind == 1:
                    yield from (value for _, value in _attributes(key))


# --- attributes -----------------------------------------------------------------------------------


def _message(
    kind: int, flags: int, sequence: int, family: int, resource: int, body: bytes
) -> bytes:
    general = _GENERAL.pack(family, 0, resource >> 8, resource & 0xFF)
    length = _HEADER.size + len(general) + len(body)
    return _HEADER.pack(length, kind, flags, sequence, 0) + general + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Returns type, without flags, and value of each. Raises MalformedMessage."""
    at = 0
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if not 4 <= length <= len(body) - at:
            raise MalformedMessage(f"an attribute of {length} bytes in {len(body) - at}")
        yield kind & ~(_NESTED | _BIG_ENDIAN), body[at + 4 : at + length]
        at += (length + 3) & ~3


def _nested(kind: int, inner: bytes) -> bytes:
    return _attribute(kind | _NESTED, inner)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    """Big-endian, as all of nf_tables' numbers."""
    return _attribute(kind, struct.pack(">I", value))
