"""The fence: nf_tables that let an address answer only until an instant, whoever is dead or frozen.

For each cluster there is a table for ARP and one for IPv4 and IPv6. `held` is the set of its
addresses. `live` has an element for each protocol (ARP, IPv4, IPv6) with a time-out, so renewing
costs the same for any number of addresses. A packet to or from a held address, or ARP about it, is
dropped while its protocol is not in `live`. The kernel looks at the time-out when a packet comes,
not by a timer. Neighbour discovery is IPv6: an advertisement of a held address is sent from it.
What goes through `lo` passes: the host's own programs may use the address.

The kernel takes no lock of its routing code for that (RTNL), only one of the rulesets of this
network namespace (commit_mutex in net/netfilter/nf_tables_api.c). Who waits for that one cannot be
ended, and a time-out counts from when it is set: so what sets one has to be guarded by an alarm
(alarm.py), as whatever depends on the time.

Touches no other table, and brings in no connection tracking.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from math import floor

from yaim_helper.kernel import nftables as nft
from yaim_helper.kernel.addresses import KernelError
from yaim_helper.kernel.netlink import NLMSG_ERROR, MalformedMessage, error_number, messages
from yaim_helper.kernel.nftables import Change, Family, Hook
from yaim_helper.protocol import Address

_ARP, _INET = Family.ARP, Family.INET
_LIVE = ((_ARP, b"\x08\x06"), (_INET, b"\x08\x00"), (_INET, b"\x86\xdd"))
"""The tables, and the Ethernet types that are in their `live`."""
_LONGER_MS = 24 * 3600 * 1000
"""The time-out of an element that is only there to be deleted."""
_IPV4_ADDR, _IPV6_ADDR, _ETHER_TYPE = 7, 8, 10
"""What nft shows a key as (enum nft_datatypes in its datatype.h)."""
_LOOPBACK = struct.pack("=I", 1)
"""The index of `lo` in any network namespace."""
_BEFORE_ALL, _AFTER_ALL = -310, 310
"""Before and after whatever else looks at packets (enum nf_ip_hook_priorities)."""
_RECEIVE_BYTES = 1 << 16
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
"""netlink(7)"""


class Ruleset:
    """The nf_tables of the network namespace that this process is in."""

    def __init__(self) -> None:
        """Raises KernelError if there are none: the kernel has no nf_tables, or this process may
        not ask for them."""
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, nft.NETLINK_NETFILTER
            )
            self._socket.bind((0, 0))
        except OSError as error:
            raise KernelError(error.errno, f"no nf_tables: {error.strerror}") from error
        self._sequence = 0

        self.port = int(self._socket.getsockname()[0])
        """The kernel tells others by whom a change was made: this number is ours."""

    def close(self) -> None:
        self._socket.close()

    def change(self, changes: Sequence[Change]) -> None:
        """Makes all of these changes or none, in one transaction. Raises KernelError."""
        first = self._sequence
        self._sequence += len(changes) + 2
        left = len(changes)
        failed = 0
        try:
            self._socket.send(nft.batch(changes, first))
            while left:
                for each in messages(self._socket.recv(_RECEIVE_BYTES)):
                    if each.kind != NLMSG_ERROR or each.sequence < first:
                        continue
                    number = error_number(each.body)
                    failed = failed or number
                    # An error of the batch as a whole bears its own number, and nothing follows.
                    left = 0 if number and each.sequence == first else left - 1
        except MalformedMessage as error:
            raise KernelError(None, f"cannot make sense of nf_tables: {error}") from error
        except OSError as error:
            raise KernelError(error.errno, f"nf_tables: {error.strerror}") from error
        if failed:
            raise KernelError(failed, f"nf_tables: {os.strerror(failed)}")


class ForeignChanges:
    """Tells whether somebody else has changed a table: flushed the ruleset, say."""

    def __init__(self, ruleset: Ruleset) -> None:
        """Raises KernelError."""
        self._port = ruleset.port
        try:
            self.socket = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                nft.NETLINK_NETFILTER,
            )
            self.socket.bind((0, 0))
            self.socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, nft.NFNLGRP_NFTABLES)
        except OSError as error:
            raise KernelError(error.errno, f"no news of nf_tables: {error.strerror}") from error

    def tables(self) -> set[str] | None:
        """Returns the tables that others have changed since the last call. None: it is not known,
        as there were more changes than the kernel keeps for us."""
        found: set[str] = set()
        while True:
            try:
                datagram = self.socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return found
            except OSError:
                return None
            try:
                found |= {each.table for each in nft.news(datagram) if each.port != self._port}
            except MalformedMessage:
                return None


class Fence:
    """The fence of one cluster. Every method is one transaction, and raises KernelError."""

    def __init__(self, ruleset: Ruleset, table: str) -> None:
        self._ruleset = ruleset
        self._table = table

    def make(self, held: Iterable[Address], left_s: float) -> None:
        """Makes the tables, in the place of those that there are, for these addresses. They answer
        for `left_s` seconds."""
        table = self._table
        tables = [
            change(family, table)
            for family in (_ARP, _INET)
            for change in (nft.make_table, nft.delete_table, nft.new_table)
        ]
        rules = [*_arp_rules(table), *_inet_rules(table)]
        self._ruleset.change([*tables, *rules, *self._in(held), *self._renewed(left_s)])

    def admit(self, addresses: Iterable[Address], left_s: float) -> None:
        """From now on these are held, too. All that are held answer for `left_s` seconds."""
        self._ruleset.change([*self._in(addresses), *self._renewed(left_s)])

    def renew(self, left_s: float) -> None:
        """All that are held answer for `left_s` seconds from now on."""
        self._ruleset.change(self._renewed(left_s))

    def dismiss(self, addresses: Iterable[Address]) -> None:
        """These are not held any more: what comes to them is the host's matter. To be called only
        when they are off the interfaces."""
        out = [
            nft.delete_elements(family, self._table, name, keys)
            for family, name, keys in _sets(addresses)
        ]
        if out:
            self._ruleset.change([*self._in(addresses), *out])

    def unmake(self) -> None:
        """Removes the tables, if they are there."""
        self._ruleset.change(
            [
                change(family, self._table)
                for family in (_ARP, _INET)
                for change in (nft.make_table, nft.delete_table)
            ]
        )

    def _in(self, addresses: Iterable[Address]) -> list[Change]:
        return [
            nft.new_elements(family, self._table, name, keys)
            for family, name, keys in _sets(addresses)
        ]

    def _renewed(self, left_s: float) -> list[Change]:
        """Before Linux 6.12 the time-out of an element cannot be changed: it is put there if it is
        not, taken away, and put there anew."""
        left_ms = floor(left_s * 1000)
        changes = []
        for family, key in _LIVE:
            changes.append(nft.new_elements(family, self._table, "live", [key], _LONGER_MS))
            changes.append(nft.delete_elements(family, self._table, "live", [key]))
            if left_ms > 0:
                changes.append(nft.new_elements(family, self._table, "live", [key], left_ms))
        return changes


def _sets(addresses: Iterable[Address]) -> Iterator[tuple[Family, str, list[bytes]]]:
    """Returns the sets that these addresses are in, with their keys."""
    keys: dict[int, list[bytes]] = {4: [], 6: []}
    for each in addresses:
        keys[each.version].append(each.packed)
    for family, name, version in ((_ARP, "held", 4), (_INET, "held4", 4), (_INET, "held6", 6)):
        if keys[version]:
            yield family, name, keys[version]


def _arp_rules(table: str) -> Iterator[Change]:
    """ARP about a held address: its target in what comes, its sender in what goes (RFC 826)."""
    yield nft.new_set(_ARP, table, "held", 1, _IPV4_ADDR, 4)
    yield nft.new_set(_ARP, table, "live", 2, _ETHER_TYPE, 2, has_timeout=True)
    for chain, hook, at in (("in", Hook.ARP_IN, 24), ("out", Hook.ARP_OUT, 14)):
        yield nft.new_chain(_ARP, table, chain, hook, 0)
        is_held = (nft.header(at, 4), nft.is_in("held", 1))
        yield nft.new_rule(_ARP, table, chain, (*is_held, *_unless_live(2)))


def _inet_rules(table: str) -> Iterator[Change]:
    """Packets to a held address in what comes, from it in what goes (RFC 791, RFC 8200)."""
    yield nft.new_set(_INET, table, "held4", 3, _IPV4_ADDR, 4)
    yield nft.new_set(_INET, table, "held6", 4, _IPV6_ADDR, 16)
    yield nft.new_set(_INET, table, "live", 5, _ETHER_TYPE, 2, has_timeout=True)
    for chain, hook, priority, interface, at4, at6 in (
        ("in", Hook.INET_PREROUTING, _BEFORE_ALL, nft.incoming_interface(), 16, 24),
        ("out", Hook.INET_POSTROUTING, _AFTER_ALL, nft.outgoing_interface(), 12, 8),
    ):
        yield nft.new_chain(_INET, table, chain, hook, priority)
        yield nft.new_rule(_INET, table, chain, (interface, nft.is_equal(_LOOPBACK), nft.accept()))
        for family, at, size, name, number in (
            (socket.AF_INET, at4, 4, "held4", 3),
            (socket.AF_INET6, at6, 16, "held6", 4),
        ):
            is_of = (nft.network_protocol(), nft.is_equal(bytes([family])))
            is_held = (nft.header(at, size), nft.is_in(name, number))
            yield nft.new_rule(_INET, table, chain, (*is_of, *is_held, *_unless_live(5)))


def _unless_live(number: int) -> tuple[nft.Expression, ...]:
    return nft.protocol(), nft.is_not_in("live", number), nft.drop()


ABSENT = errno.ENOENT
"""The error of a table that is not there: somebody has flushed the ruleset."""
