"""The fence: nf_tables that let addresses answer only until an instant, whoever is dead or frozen.

For each owner there is a table for ARP and one for IPv4 and IPv6, of the same name. In it:
- `held`: addresses that answer only while the owner's time lasts; `held4` and `held6` likewise
- `muted`: those of them that do not answer at all; `muted4` and `muted6` likewise
- `live1` and `live2`: the protocols (ARP, IPv4, IPv6) for which the time lasts, as elements with a
  time-out, so renewing costs the same for any number of addresses
- `chosen1` and `chosen2`, without a time-out: a protocol in `live1` counts only if it is in
  `chosen1`, too; and 2 likewise

A packet to or from a held address, or ARP about it, is dropped if it is muted or its protocol is
not live. The kernel looks at the time-out when a packet comes, not by a timer (nft_rhash_cmp in
net/netfilter/nft_set_hash.c). Neighbour discovery is IPv6: an advertisement of a held address is
sent from it. What goes through `lo` passes: the host's own programs may use it.

In time or never. The kernel takes no lock of its routing code for that (RTNL), but one of the
rulesets of this network namespace (commit_mutex in net/netfilter/nf_tables_api.c). Who waits for it
cannot be interrupted, and a time-out counts from when it is set. So a renewal is two transactions.
The first sets the time-out in the `live` that is not in force, and the clock is read before and
after it: its end is later than it should be by no more than what has passed between. Only if that
was little the second chooses it. The end stands by then; so the second may come as late as it
likes, and whoever is stopped or killed between them leaves the old end in force.

Read in Linux 6.1.192 and 6.12.117 (Debian 12 and 13), tried on 6.18:
- a look-up compares the time-out with jiffies as they are then (nft_rhash_lookup)
- it counts from when its message is carried out (nft_set_elem_init), rounded down to a jiffy
  (nf_msecs_to_jiffies64); jiffies stand still while the host is suspended
- within a transaction an element has run out or not by the instant at which the transaction got the
  lock (nft_net_tstamp): so no change of it can tell whether the next one is late
- an error of one message aborts all of a transaction; each is told (nfnetlink_rcv_batch)
- what is not listed has run out (nf_tables_dump_setelem)
- a commit waits for no packet: what it frees is freed later (nf_tables_commit)

Touches no other table, and brings in no connection tracking.
"""

import errno
import os
import re
import socket
import struct
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from math import floor, inf

from yaim_helper.clock import boottime
from yaim_helper.kernel import nftables as nft
from yaim_helper.kernel.addresses import KernelError, understood
from yaim_helper.kernel.netlink import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    MalformedMessage,
    Message,
    error_number,
    messages,
)
from yaim_helper.kernel.nftables import Change, Family, Hook
from yaim_helper.protocol import Address

ABSENT = errno.ENOENT
"""The error of a table that is not there: somebody has flushed the ruleset."""
FENCE_GRACE_S = 0.05
"""By this an end may be later than it was asked for."""
SET_WITHIN_S = 0.025
"""By this a time-out may be set later than the clock was read. The rest of FENCE_GRACE_S is for the
kernel's jiffies, in which it counts time-outs: a virtual processor that keeps them and is not run
is replaced after five (MAX_STALLED_JIFFIES in kernel/time/tick-sched.c), 20 ms."""
LEAST_MS = 20
"""Less than this is nothing. Kernels before Linux 6.12, and early ones of 6.1, round a time-out
that is shorter than a jiffy to 0, and that means for ever (nf_msecs_to_jiffies64)."""
TRIES = 3
MAX_READ = 64
"""Datagrams that are read in one go: somebody may load a set of a hundred thousand addresses."""

_ARP, _INET = Family.ARP, Family.INET
_PROTOCOLS = {_ARP: [b"\x08\x06"], _INET: [b"\x08\x00", b"\x86\xdd"]}
"""The Ethernet types that are looked up in a table."""
_LIVE, _CHOSEN = ("live1", "live2"), ("chosen1", "chosen2")
_COMMENT = "yaim: these addresses answer only while their lease lasts"
_OURS = re.compile(r"yaim-[0-9]+")
_IPV4_ADDR, _IPV6_ADDR, _ETHER_TYPE = 7, 8, 10
"""What nft shows a key as (enum nft_datatypes in its datatype.h)."""
_LOOPBACK = struct.pack("=I", 1)
"""The index of `lo` in any network namespace."""
_BEFORE_ALL, _AFTER_ALL = -310, 310
"""Before and after whatever else looks at packets (enum nf_ip_hook_priorities)."""
_RECEIVE_BYTES = 1 << 18
_ROOM_BYTES = 1 << 25
"""For a transaction of thousands of addresses, and for as many messages about others'."""
_LAST_SEQUENCE = 1 << 31
_ENDS = (NLMSG_DONE, NLMSG_ERROR)
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_ATTACH_FILTER = 32, 33, 26
_SOL_NETLINK, _ADD_MEMBERSHIP, _CAP_ACK = 270, 1, 10
"""netlink(7)"""


class Refused(KernelError):
    """Nothing of a transaction was done, because of some of its changes."""

    def __init__(self, number: int, changes: frozenset[Change]) -> None:
        super().__init__(number, f"nf_tables: {os.strerror(number)}")
        self.changes = changes


class TooLate(KernelError):
    """The kernel, or this process, was too slow TRIES times in a row. Nothing has changed."""

    def __init__(self) -> None:
        super().__init__(None, "nf_tables: changes take too long")


class Ruleset:
    """The nf_tables of the network namespace that this process is in. Not for several threads."""

    def __init__(self) -> None:
        """Raises KernelError if there are none: the kernel has no nf_tables."""
        self._socket = _opened()
        # An error would bring along the message that it is about.
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        _make_room(self._socket)
        self._sequence = 0
        self._is_asked = False
        """The answer to something was not read to its end."""

        self.port = int(self._socket.getsockname()[0])
        """The kernel tells others by whom a change was made: this number is ours."""

    def close(self) -> None:
        self._socket.close()

    def change(self, changes: Sequence[Change]) -> None:
        """Makes all of these changes or none, in one transaction. Raises KernelError: Refused if
        one of them is the reason; if the errno is ENOBUFS or EAGAIN it is not known what was
        done."""
        first = self._take_numbers(len(changes) + 2)
        refused: dict[Change, int] = {}
        with understood("nf_tables"):
            for answer in self._answers(nft.batch(changes, first), first, first + len(changes)):
                number = error_number(answer.body)
                if answer.sequence == first:
                    raise _error(number)
                if number:
                    refused[changes[answer.sequence - first - 1]] = number
        if refused:
            raise Refused(next(iter(refused.values())), frozenset(refused))

    def tables(self) -> list[str]:
        """Returns the tables `yaim-<number>`, in the order of their numbers, that are there in at
        least one of the families. Raises KernelError."""
        with understood("nf_tables"):
            found = {
                nft.table_of(body)
                for body in self._dumped(nft.all_tables)
                if nft.family_of(body) in (_ARP, _INET)
            }
        return sorted(filter(_OURS.fullmatch, found), key=lambda name: (len(name), name))

    def is_live(self, table: str) -> bool:
        """Whether held addresses of this table still answer, for any protocol. Raises
        KernelError."""
        return any(
            self._elements(family, table, live) & self._elements(family, table, chosen)
            for family in (_ARP, _INET)
            for live, chosen in zip(_LIVE, _CHOSEN, strict=True)
        )

    def held(self, table: str) -> frozenset[Address]:
        """Returns the addresses that this table holds or mutes; none if it is not there. Raises
        KernelError."""
        return frozenset(
            ip_address(key)
            for family, version, names in _PLACES
            for name in names
            for key in self._elements(family, table, name)
            if len(key) == _KEY_BYTES[version]
        )

    def _elements(self, family: Family, table: str, name: str) -> set[bytes]:
        """Returns the keys in a set; none if it is not there."""

        def asked(sequence: int) -> bytes:
            return nft.all_elements(sequence, family, table, name)

        with understood("nf_tables"):
            try:
                return {key for body in self._dumped(asked) for key in nft.keys_of(body)}
            except KernelError as error:
                if error.errno != ABSENT:
                    raise
                return set()

    def _dumped(self, asked: Callable[[int], bytes]) -> list[bytes]:
        while (found := self._dump(asked)) is None:
            continue
        return found

    def _dump(self, asked: Callable[[int], bytes]) -> list[bytes] | None:
        """Returns the messages of an answer. None: there were changes meanwhile, and some may be
        missing."""
        number = self._take_numbers(1)
        found = []
        is_whole = True
        for answer in self._answers(asked(number), number, number):
            is_whole = is_whole and not answer.flags & NLM_F_DUMP_INTR
            if answer.kind not in _ENDS:
                found.append(answer.body)
            elif error := error_number(answer.body):
                raise _error(error)
        return found if is_whole else None

    def _take_numbers(self, count: int) -> int:
        """Returns the first of so many sequence numbers."""
        first = self._sequence + 1 if self._sequence < _LAST_SEQUENCE else 1
        self._sequence = first + count
        return first

    def _answers(self, request: bytes, first: int, last: int) -> Iterator[Message]:
        """Sends a request, and returns the answers with these sequence numbers, until all is
        answered or, by the first, refused. The kernel has them ready when it has taken the
        request."""
        if self._is_asked:
            # A list that was not read to its end keeps the next one from being told (EBUSY).
            with suppress(OSError):
                while True:
                    self._socket.recv(_RECEIVE_BYTES)
        self._is_asked = True
        self._socket.send(request)
        while self._is_asked:
            for each in messages(self._datagram()):
                if first <= each.sequence <= last:
                    if each.kind in _ENDS and each.sequence in (first, last):
                        self._is_asked = False
                    yield each

    def _datagram(self) -> bytes:
        """Returns what the kernel says next."""
        while True:
            datagram, (sender, _) = self._socket.recvfrom(_RECEIVE_BYTES)
            # Others than the kernel can send here, too.
            if sender == 0:
                return datagram


class ForeignChanges:
    """Tells whether somebody else has changed a table: flushed the ruleset, say. What is changed by
    way of our Ruleset does not wake who waits for the socket: the kernel filters it."""

    def __init__(self, ruleset: Ruleset) -> None:
        """Raises KernelError."""
        self.socket = _opened()
        _make_room(self.socket)
        _pass_over(self.socket, ruleset.port)
        try:
            self.socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, nft.NFNLGRP_NFTABLES)
        except OSError as error:
            self.socket.close()
            raise KernelError(error.errno, f"no news of nf_tables: {error.strerror}") from error

    def tables(self) -> set[str] | None:
        """Returns the tables, of all families, that others have changed since the last call, as
        far as MAX_READ datagrams tell; the socket stays readable if there are more. None: it is not
        known, as there were more changes than the kernel keeps for us."""
        found: set[str] = set()
        is_known = True
        for _ in range(MAX_READ):
            try:
                datagram, (sender, _) = self.socket.recvfrom(_RECEIVE_BYTES)
                # Others than the kernel can send here, too.
                found |= set(nft.tables_changed(datagram)) if sender == 0 else set()
            except BlockingIOError:
                break
            except (OSError, MalformedMessage):
                is_known = False
        return found if is_known else None


class Fence:
    """The fence of one owner: nobody else changes its tables, and nobody else's are changed, but
    for the earlier ones that are named.

    Every method raises KernelError, with the errno ABSENT if the tables are not there: then `make`
    is to be called, and what was asked for then once more. Deadlines are instants of
    CLOCK_BOOTTIME, in seconds.
    """

    def __init__(self, ruleset: Ruleset, table: str, clock: Callable[[], float] = boottime) -> None:
        self._ruleset = ruleset
        self._table = table
        self._clock = clock
        self._chosen = 0
        """Which `live` is in force, if any is. The other one may be chosen as well, if it ends no
        later."""
        self._until = -inf
        """When that ends."""
        self._muted: set[Address] = set()
        """What may be muted: nothing else need be taken out of there."""

    def make(self, held: Iterable[Address], muted: Iterable[Address]) -> None:
        """Makes the tables, in the place of those that there are, with these addresses. None of
        them answers before `renew` or `admit`."""
        silent = list(muted)
        self._muted.update(silent)
        anew = [
            change
            for family in (_ARP, _INET)
            for change in (
                nft.make_table(family, self._table),
                nft.delete_table(family, self._table),
                nft.new_table(family, self._table, _COMMENT),
            )
        ]
        rules = [*_arp_rules(self._table), *_inet_rules(self._table)]
        members = [*self._put(_HELD, held), *self._put(_HELD, silent), *self._put(_MUTED, silent)]
        self._ruleset.change([*anew, *rules, *members])
        self._until = -inf
        self._muted = set(silent)

    def admit(
        self,
        addresses: Sequence[Address],
        deadline: float,
        muting: Sequence[Address] = (),
        earlier: Iterable[str] = (),
    ) -> None:
        """From now on these are held, and not muted; they, and all that were held, answer until
        the deadline, but for `muting`, which are muted. A deadline that has passed: nothing
        answers.

        In the same transaction the addresses are taken out of the tables `earlier`, which an
        earlier life has left. One of them that is not there is passed over: so the errno ABSENT is
        always about the fence's own tables. Raises TooLate, too.
        """
        own = [
            *self._put(_HELD, [*addresses, *muting]),
            *self._taken(self._table, _MUTED, self._muted.intersection(addresses)),
            *self._put(_MUTED, muting),
        ]
        self._muted.update(muting)
        others = [
            change
            for table in earlier
            for which in (_HELD, _MUTED)
            for change in self._taken(table, which, addresses)
        ]
        while True:
            try:
                self._set_live(deadline, [*own, *others])
                break
            except Refused as error:
                left = [each for each in others if each not in error.changes]
                if error.errno != ABSENT or left == others:
                    raise
                others = left
        self._muted.difference_update(set(addresses).difference(muting))

    def renew(self, deadline: float, muting: Sequence[Address] = ()) -> None:
        """All that are held answer until the deadline, but for `muting`, which are muted. Raises
        TooLate, too."""
        self.admit((), deadline, muting)

    def dismiss(self, addresses: Sequence[Address]) -> None:
        """These are neither held nor muted any more: what comes to them is the host's matter. To be
        called only when they are off the interfaces."""
        out = [
            *self._taken(self._table, _HELD, addresses),
            *self._taken(self._table, _MUTED, self._muted.intersection(addresses)),
        ]
        if out:
            self._ruleset.change(out)
            self._muted.difference_update(addresses)

    def unmake(self) -> None:
        """Removes the tables, if they are there."""
        unmake(self._ruleset, self._table)
        self._until = -inf

    def _set_live(self, deadline: float, changes: Sequence[Change]) -> None:
        """Makes the changes and has `live` end at the deadline, in the same transaction."""
        for _ in range(TRIES):
            which = 1 - self._chosen
            before = self._clock()
            left_ms = floor((deadline - before) * 1000)
            if left_ms < LEAST_MS:
                self._ruleset.change([*changes, *self._unchosen(0), *self._unchosen(1)])
                self._until = -inf
                return
            self._ruleset.change([*self._unchosen(which), *self._lasting(which, left_ms)])
            if self._clock() - before > SET_WITHIN_S:
                continue
            # The other one may stay if it ends earlier: then no packet can miss the change.
            longer = self._unchosen(self._chosen) if deadline < self._until else []
            self._ruleset.change([*changes, *longer, *self._chosen_now(which)])
            self._chosen, self._until = which, deadline
            return
        raise TooLate

    def _lasting(self, which: int, left_ms: int) -> Iterator[Change]:
        """Before Linux 6.12 the time-out of an element cannot be changed: it is put there if it is
        not, taken away, and put there anew."""
        for family, keys in _PROTOCOLS.items():
            yield nft.new_elements(family, self._table, _LIVE[which], keys, left_ms)
            yield nft.delete_elements(family, self._table, _LIVE[which], keys)
            yield nft.new_elements(family, self._table, _LIVE[which], keys, left_ms)

    def _chosen_now(self, which: int) -> Iterator[Change]:
        for family, keys in _PROTOCOLS.items():
            yield nft.new_elements(family, self._table, _CHOSEN[which], keys)

    def _unchosen(self, which: int) -> Iterator[Change]:
        """What is not there cannot be deleted: it is put there first."""
        for family, keys in _PROTOCOLS.items():
            yield nft.new_elements(family, self._table, _CHOSEN[which], keys)
            yield nft.delete_elements(family, self._table, _CHOSEN[which], keys)

    def _put(self, which: int, addresses: Iterable[Address]) -> Iterator[Change]:
        for family, name, keys in _sets(which, addresses):
            yield nft.new_elements(family, self._table, name, keys)

    def _taken(self, table: str, which: int, addresses: Iterable[Address]) -> Iterator[Change]:
        for family, name, keys in _sets(which, addresses):
            yield nft.new_elements(family, table, name, keys)
            yield nft.delete_elements(family, table, name, keys)


def unmake(ruleset: Ruleset, table: str) -> None:
    """Removes the tables of that name, if they are there. Raises KernelError."""
    ruleset.change(
        [
            change(family, table)
            for family in (_ARP, _INET)
            for change in (nft.make_table, nft.delete_table)
        ]
    )


# --- what the kernel has to be able to do ---------------------------------------------------------

PROBED_BELOW = 100_000
"""The numbers of tables for trying out are less than this, and those of fences are not. What is
left of one goes as the fences of earlier lives do."""
_PROBED_ADDRESSES: list[Address] = [IPv4Address("240.0.0.1"), IPv6Address("100::1")]
"""Nobody's: RFC 1112 section 4, RFC 6666."""
_PROBED_S = 0.03
_REASONS = {
    errno.EPERM: "not permitted: it takes CAP_NET_ADMIN in this network namespace",
    errno.EPROTONOSUPPORT: "the kernel has no nf_tables",
    errno.EOPNOTSUPP: "the kernel has no nf_tables, or not for arp and inet",
}


def probe(ruleset: Ruleset, within_s: float = 5.0) -> None:
    """Tries out, in a table of its own, whether the kernel can do all that a fence needs. Others
    may be busy with the ruleset while the host starts, or flush it: then for as long as is said.
    Other helpers may start at the same time. Raises KernelError with a reason for people."""
    give_up_at = boottime() + within_s
    try:
        while not _is_tried_out(ruleset, give_up_at):
            pass
    except KernelError as error:
        known = _REASONS.get(error.errno) if error.errno is not None else None
        raise KernelError(error.errno, known or f"the kernel cannot fence: {error}") from error


def _is_tried_out(ruleset: Ruleset, give_up_at: float) -> bool:
    """Returns False if somebody has removed the table meanwhile. Raises KernelError."""
    table = f"yaim-{1 + int.from_bytes(os.urandom(4), 'big') % (PROBED_BELOW - 1)}"
    try:
        _try_out(ruleset, table, give_up_at)
    except KernelError as error:
        is_gone = error.errno in (None, ABSENT) and table not in ruleset.tables()
        if not is_gone or boottime() > give_up_at:
            raise
        return False
    finally:
        unmake(ruleset, table)
    return True


def _try_out(ruleset: Ruleset, table: str, give_up_at: float) -> None:
    fence = Fence(ruleset, table)
    fence.make(_PROBED_ADDRESSES, _PROBED_ADDRESSES[:1])
    if ruleset.held(table) != frozenset(_PROBED_ADDRESSES) or ruleset.is_live(table):
        raise KernelError(None, "what it tells of a table is not what was asked for")
    _renew_in_time(fence, 60.0, give_up_at)
    if not ruleset.is_live(table):
        raise KernelError(None, "an element with a time-out does not last")
    deadline = _renew_in_time(fence, _PROBED_S, give_up_at)
    while True:
        now = boottime()
        if not ruleset.is_live(table):
            return
        if now > deadline + FENCE_GRACE_S:
            raise KernelError(None, "an element lasts longer than its time-out")
        time.sleep(0.001)


def _renew_in_time(fence: Fence, for_s: float, give_up_at: float) -> float:
    """Returns the deadline."""
    while True:
        deadline = boottime() + for_s
        try:
            fence.renew(deadline)
            return deadline
        except TooLate:
            if boottime() > give_up_at:
                raise


# --- what stands in the tables --------------------------------------------------------------------

_HELD, _MUTED = 0, 1
_PLACES = (
    (_ARP, 4, ("held", "muted")),
    (_INET, 4, ("held4", "muted4")),
    (_INET, 6, ("held6", "muted6")),
)
"""Where an address of an IP version stands: family, version, sets."""
_KEY_BYTES = {4: 4, 6: 16}


def _sets(
    which: int, addresses: Iterable[Address]
) -> Iterator[tuple[Family, str, Sequence[bytes]]]:
    """Returns the sets that these addresses are in, with keys for one message at a time."""
    keys: dict[int, list[bytes]] = {4: [], 6: []}
    for each in addresses:
        keys[each.version].append(each.packed)
    for family, version, names in _PLACES:
        for at in range(0, len(keys[version]), nft.MAX_ELEMENTS):
            yield family, names[which], keys[version][at : at + nft.MAX_ELEMENTS]


def _arp_rules(table: str) -> Iterator[Change]:
    """ARP about a held address: its target in what comes, its sender in what goes (RFC 826)."""
    yield nft.new_set(_ARP, table, "held", 1, _IPV4_ADDR, 4)
    yield nft.new_set(_ARP, table, "muted", 2, _IPV4_ADDR, 4)
    yield from _alive(_ARP, table, 3)
    for chain, hook, at in (("in", Hook.ARP_IN, 24), ("out", Hook.ARP_OUT, 14)):
        yield nft.new_chain(_ARP, table, chain, hook, 0)
        yield from _fenced(_ARP, table, chain, (), nft.header(at, 4), ("held", 1), ("muted", 2))


def _inet_rules(table: str) -> Iterator[Change]:
    """Packets to a held address in what comes, from it in what goes (RFC 791, RFC 8200)."""
    yield nft.new_set(_INET, table, "held4", 11, _IPV4_ADDR, 4)
    yield nft.new_set(_INET, table, "muted4", 12, _IPV4_ADDR, 4)
    yield nft.new_set(_INET, table, "held6", 13, _IPV6_ADDR, 16)
    yield nft.new_set(_INET, table, "muted6", 14, _IPV6_ADDR, 16)
    yield from _alive(_INET, table, 15)
    for chain, hook, priority, interface, at4, at6 in (
        ("in", Hook.INET_PREROUTING, _BEFORE_ALL, nft.incoming_interface(), 16, 24),
        ("out", Hook.INET_POSTROUTING, _AFTER_ALL, nft.outgoing_interface(), 12, 8),
    ):
        yield nft.new_chain(_INET, table, chain, hook, priority)
        yield nft.new_rule(_INET, table, chain, (interface, nft.is_equal(_LOOPBACK), nft.accept()))
        for family, about, held, muted in (
            (socket.AF_INET, nft.header(at4, 4), ("held4", 11), ("muted4", 12)),
            (socket.AF_INET6, nft.header(at6, 16), ("held6", 13), ("muted6", 14)),
        ):
            is_of = (nft.network_protocol(), nft.is_equal(bytes([family])))
            yield from _fenced(_INET, table, chain, is_of, about, held, muted)


def _fenced(
    family: Family,
    table: str,
    chain: str,
    is_of: Sequence[nft.Expression],
    about: nft.Expression,
    held: tuple[str, int],
    muted: tuple[str, int],
) -> Iterator[Change]:
    """What is about no held address passes after one look-up. `held` and `muted` are sets: name,
    number."""
    inner = f"{chain}-{held[0]}"
    yield nft.new_plain_chain(family, table, inner)
    yield nft.new_rule(family, table, inner, (*is_of, about, nft.is_in(*muted), nft.drop()))
    yield nft.new_rule(family, table, inner, (nft.go_to("alive"),))
    yield nft.new_rule(family, table, chain, (*is_of, about, nft.is_in(*held), nft.go_to(inner)))


def _alive(family: Family, table: str, number: int) -> Iterator[Change]:
    """What is live passes; all else is dropped. `number` is of the first of four new sets."""
    chosen = [(name, at) for at, name in enumerate(_CHOSEN, number)]
    live = [(name, at) for at, name in enumerate(_LIVE, number + 2)]
    for each in chosen:
        yield nft.new_set(family, table, *each, _ETHER_TYPE, 2)
    for each in live:
        yield nft.new_set(family, table, *each, _ETHER_TYPE, 2, has_timeout=True)
    yield nft.new_plain_chain(family, table, "alive")
    for one, other in zip(chosen, live, strict=True):
        in_both = (nft.protocol(), nft.is_in(*one), nft.is_in(*other))
        yield nft.new_rule(family, table, "alive", (*in_both, nft.accept()))
    yield nft.new_rule(family, table, "alive", (nft.drop(),))


# --- sockets --------------------------------------------------------------------------------------


def _opened() -> socket.socket:
    """Raises KernelError."""
    try:
        opened = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            nft.NETLINK_NETFILTER,
        )
        opened.bind((0, 0))
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"no nf_tables: {error.strerror}")
        raise KernelError(error.errno, reason) from error
    return opened


def _make_room(to: socket.socket) -> None:
    """The limits of the host count for who has no CAP_NET_ADMIN."""
    for option, forced in (
        (socket.SO_SNDBUF, _SO_SNDBUFFORCE),
        (socket.SO_RCVBUF, _SO_RCVBUFFORCE),
    ):
        to.setsockopt(socket.SOL_SOCKET, option, _ROOM_BYTES)
        with suppress(OSError):
            to.setsockopt(socket.SOL_SOCKET, forced, _ROOM_BYTES)


def _pass_over(to: socket.socket, port: int) -> None:
    """Drops what was asked for by that port (socket(7), SO_ATTACH_FILTER; its loads are
    big-endian)."""
    word = int.from_bytes(struct.pack("=I", port), "big")
    program = (
        (0x20, 0, 0, nft.PORT_AT),  # load four bytes
        (0x15, 0, 1, word),  # if they are equal go on, else over one
        (0x06, 0, 0, 0),  # nothing of it
        (0x06, 0, 0, 0xFFFFFFFF),  # all of it
    )
    code = array("B", b"".join(struct.pack("=HBBI", *each) for each in program))
    address, _ = code.buffer_info()
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), address))


def _error(number: int) -> KernelError:
    return KernelError(number, f"nf_tables: {os.strerror(number)}")
