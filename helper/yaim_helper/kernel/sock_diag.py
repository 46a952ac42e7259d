"""The kernel's messages about TCP sockets, to bytes and from bytes: sock_diag(7),
include/uapi/linux/inet_diag.h.

No length that is read is believed. Does no I/O.
"""

import struct
from collections.abc import Collection
from socket import AF_INET, AF_INET6, IPPROTO_TCP
from typing import NamedTuple

from yaim_helper.kernel.netlink import NLM_F_DUMP, MalformedMessage, message
from yaim_helper.protocol import Address

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
FAMILIES = {4: (AF_INET, AF_INET6), 6: (AF_INET6,)}
"""IP version of an address, and of which families its sockets may be."""
MAX_FILTERED = 64
"""The kernel holds each socket against one address after the other."""

_REQUEST = struct.Struct("=BBBxI")
"""struct inet_diag_req_v2, without its id: family, protocol, extensions, states."""
_ID = slice(4, 52)
"""struct inet_diag_sockid within struct inet_diag_msg: ports, addresses, interface, cookie."""
_NO_ID = bytes(48)
"""No socket has port 0, or 0 for a cookie."""
_MESSAGE_BYTES = 72
_MAPPED = bytes(10) + b"\xff\xff"
"""How an IPv4 address begins in a socket of AF_INET6."""
_ENDED_ALREADY = 3
"""The timer of what only waits for its end: TIME_WAIT, and FIN_WAIT2 without a process, which the
kernel keeps likewise."""
_STATES = sum(1 << state for state in (1, 2, 3, 4, 5, 8, 9, 11, 12))
"""All but TIME_WAIT (6), CLOSE (7) and LISTEN (10); 12 are SYN_RECV's requests
(include/net/tcp_states.h)."""
_BYTECODE = 1
_JMP, _S_COND = 1, 7
_OP = struct.Struct("=BBH")
"""struct inet_diag_bc_op: code, and by how many bytes to go on if it holds, and if not. Who comes
to the end is listed, who passes it by 4 is not."""
_CONDITION = struct.Struct("=BBxxi")
"""struct inet_diag_hostcond without its address: family, prefix length, port; -1: any."""


class Socket(NamedTuple):
    local: bytes
    """Its own address, packed; of IPv4 also if it is of AF_INET6."""
    name: bytes
    """What the kernel knows it by: family and struct inet_diag_sockid. Never another socket's."""


def all_sockets(family: int, addresses: Collection[Address], sequence: int) -> bytes:
    """Asks for the connections of a family that these addresses have, and, with more than
    MAX_FILTERED, for those of all addresses; NLMSG_DONE ends the answer."""
    body = _REQUEST.pack(family, IPPROTO_TCP, 0, _STATES) + _NO_ID
    if len(addresses) <= MAX_FILTERED:
        code = _bytecode(addresses)
        body += struct.pack("=HH", 4 + len(code), _BYTECODE) + code
    return message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, sequence, body)


def _bytecode(addresses: Collection[Address]) -> bytes:
    """One of these addresses is the socket's. (inet_diag_bc_run takes an IPv4 address for a mapped
    one, too.)"""
    code = b""
    for number, each in enumerate(addresses):
        family = AF_INET if each.version == 4 else AF_INET6
        condition = _CONDITION.pack(family, each.max_prefixlen, -1) + each.packed
        size = _OP.size + len(condition)
        # Built from the end: behind each but the last is a jump over all that follows.
        jump = _OP.pack(_JMP, _OP.size, _OP.size + len(code)) if number else b""
        code = _OP.pack(_S_COND, size, size + 4) + condition + jump + code
    return code


def destroy(name: bytes, flags: int, sequence: int) -> bytes:
    """Ends a socket. Refused (ENOENT) if it has gone."""
    return message(
        SOCK_DESTROY, flags, sequence, _REQUEST.pack(name[0], IPPROTO_TCP, 0, 0) + name[1:]
    )


NOBODY = bytes((AF_INET,)) + _NO_ID
"""The name of a socket that cannot exist."""


def socket_of(body: bytes) -> Socket | None:
    """Returns the socket that a part of the answer to `all_sockets` is about. None: it has ended
    already, and is of no more use to anybody. Raises MalformedMessage."""
    if len(body) < _MESSAGE_BYTES:
        raise MalformedMessage(f"{len(body)} bytes, too few for a socket")
    family = body[0]
    if body[2] == _ENDED_ALREADY:
        return None
    if family == AF_INET:
        local = body[8:12]
    elif family == AF_INET6:
        local = body[20:24] if body[8:20] == _MAPPED else body[8:24]
    else:
        raise MalformedMessage(f"a socket of family {family}")
    return Socket(local, body[:1] + body[_ID])
