"""nf_tables' messages, judged by the kernel and by nft."""

import errno
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yaim_helper.kernel import nftables as nft
from yaim_helper.kernel.netlink import MalformedMessage, error_number, messages
from yaim_helper.kernel.nftables import Change, Family, Hook

from yaim.lab.namespaces import Namespace

ARP, INET = Family.ARP, Family.INET
TABLE = "yaim-test"
V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
IPV4_ADDR, IPV6_ADDR, ETHER_TYPE = 7, 8, 10
FIRST = 7
LOOPBACK = struct.pack("=I", 1)


def ask(network: Namespace, changes: Sequence[Change]) -> dict[int, int]:
    """Returns the answers: the error number for the sequence number."""
    with (
        network.entered(),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, nft.NETLINK_NETFILTER) as asked,
    ):
        asked.settimeout(5.0)
        asked.send(nft.batch(changes, FIRST))
        found: dict[int, int] = {}
        while FIRST + len(changes) not in found:
            for each in messages(asked.recv(1 << 16)):
                found[each.sequence] = error_number(each.body)
        return found


def done(changes: Sequence[Change]) -> dict[int, int]:
    """The answer when all of them are made."""
    return {FIRST + len(changes): 0}


def the_arp_table() -> list[Change]:
    held = [nft.is_in("held", 1), nft.go_to("alive")]
    return [
        nft.new_table(ARP, TABLE, "a comment"),
        nft.new_set(ARP, TABLE, "held", 1, IPV4_ADDR, 4),
        nft.new_set(ARP, TABLE, "live", 2, ETHER_TYPE, 2, has_timeout=True),
        nft.new_chain(ARP, TABLE, "in", Hook.ARP_IN, 0),
        nft.new_chain(ARP, TABLE, "out", Hook.ARP_OUT, 0),
        nft.new_plain_chain(ARP, TABLE, "alive"),
        nft.new_rule(ARP, TABLE, "alive", [nft.protocol(), nft.is_in("live", 2), nft.accept()]),
        nft.new_rule(ARP, TABLE, "alive", [nft.drop()]),
        nft.new_rule(ARP, TABLE, "in", [nft.header(24, 4), *held]),
        nft.new_rule(ARP, TABLE, "out", [nft.header(14, 4), *held]),
    ]


def the_inet_table() -> list[Change]:
    changes = [
        nft.new_table(INET, TABLE),
        nft.new_set(INET, TABLE, "held4", 3, IPV4_ADDR, 4),
        nft.new_set(INET, TABLE, "held6", 4, IPV6_ADDR, 16),
        nft.new_set(INET, TABLE, "live", 5, ETHER_TYPE, 2, has_timeout=True),
        nft.new_chain(INET, TABLE, "in", Hook.INET_PREROUTING, -310),
        nft.new_chain(INET, TABLE, "out", Hook.INET_POSTROUTING, 310),
    ]
    silent = [nft.protocol(), nft.is_in("live", 5), nft.drop()]
    for chain, interface, at4, at6 in (
        ("in", nft.incoming_interface(), 16, 24),
        ("out", nft.outgoing_interface(), 12, 8),
    ):
        local = [interface, nft.is_equal(LOOPBACK), nft.accept()]
        ipv4 = [nft.network_protocol(), nft.is_equal(bytes([socket.AF_INET]))]
        ipv6 = [nft.network_protocol(), nft.is_equal(bytes([socket.AF_INET6]))]
        ipv4 += [nft.header(at4, 4), nft.is_in("held4", 3), *silent]
        ipv6 += [nft.header(at6, 16), nft.is_in("held6", 4), *silent]
        changes += [nft.new_rule(INET, TABLE, chain, each) for each in (local, ipv4, ipv6)]
    return changes


def test_nft_shows_the_tables_that_were_asked_for(network: Namespace) -> None:
    changes = [*the_arp_table(), *the_inet_table()]
    changes.append(nft.new_elements(ARP, TABLE, "held", [V4.packed]))
    changes.append(nft.new_elements(INET, TABLE, "held6", [V6.packed]))
    changes.append(nft.new_elements(INET, TABLE, "live", [b"\x08\x00"], 3_600_000))
    assert ask(network, changes) == done(changes)
    shown = " ".join(network.run("nft", "list", "ruleset").split())
    for text in (
        f'table arp {TABLE} {{ comment "a comment"'
        f" set held {{ type ipv4_addr elements = {{ {V4} }} }}",
        "set live { type ether_type flags timeout }",
        "type filter hook input priority filter; policy accept; arp daddr ip @held goto alive",
        "type filter hook output priority filter; policy accept; arp saddr ip @held goto alive",
        "chain alive { meta protocol @live accept drop }",
        f"set held6 {{ type ipv6_addr elements = {{ {V6} }} }}",
        "elements = { ip timeout 1h expires",
        'type filter hook prerouting priority raw - 10; policy accept; iif "lo" accept'
        " ip daddr @held4 meta protocol @live drop"
        " ip6 daddr @held6 meta protocol @live drop",
        'type filter hook postrouting priority 310; policy accept; oif "lo" accept'
        " ip saddr @held4 meta protocol @live drop"
        " ip6 saddr @held6 meta protocol @live drop",
    ):
        assert text in shown, shown


def test_a_batch_is_carried_out_wholly_or_not_at_all(network: Namespace) -> None:
    """Each change that is refused is told, and the last one in any case."""
    wrong = nft.delete_elements(ARP, TABLE, "held", [V4.packed])
    changes = [*the_arp_table(), wrong, wrong, nft.new_elements(ARP, TABLE, "held", [V4.packed])]
    last = FIRST + len(changes)
    assert ask(network, changes) == {last - 2: errno.ENOENT, last - 1: errno.ENOENT, last: 0}
    assert network.run("nft", "list", "ruleset") == ""


def test_an_element_is_replaced_by_one_with_another_time_out(network: Namespace) -> None:
    """By one transaction, also where the kernel changes no time-out: before Linux 6.12."""
    key = [b"\x08\x06"]
    first = [*the_arp_table(), nft.new_elements(ARP, TABLE, "live", key, 10_000)]
    assert ask(network, first) == done(first)
    again = [
        nft.new_elements(ARP, TABLE, "live", key, 10_000),
        nft.delete_elements(ARP, TABLE, "live", key),
        nft.new_elements(ARP, TABLE, "live", key, 7_200_000),
    ]
    assert ask(network, again) == done(again)
    assert "arp timeout 2h expires" in network.run("nft", "list", "ruleset")


def test_a_table_is_made_anew_with_all_that_is_in_it(network: Namespace) -> None:
    assert ask(network, the_arp_table()) == done(the_arp_table())
    assert ask(network, [nft.new_table(ARP, TABLE)]) == {FIRST + 1: errno.EEXIST}
    anew = [nft.make_table(ARP, TABLE), nft.delete_table(ARP, TABLE), *the_arp_table()]
    assert ask(network, anew) == done(anew)
    assert network.run("nft", "list", "tables") == f"table arp {TABLE}\n"


def test_a_message_takes_the_most_elements_with_the_longest_keys(network: Namespace) -> None:
    keys = [IPv6Address(n).packed for n in range(nft.MAX_ELEMENTS)]
    changes = [
        nft.new_table(INET, TABLE),
        nft.new_set(INET, TABLE, "held6", 1, IPV6_ADDR, 16),
        nft.new_elements(INET, TABLE, "held6", keys),
        nft.delete_elements(INET, TABLE, "held6", keys[1:]),
    ]
    assert ask(network, changes) == done(changes)
    assert "elements = { :: }" in network.run("nft", "list", "ruleset")


@given(st.binary(max_size=60), st.integers(0, 15))
def test_arbitrary_bytes_are_understood_or_malformed(body: bytes, kind: int) -> None:
    told = struct.pack("=IHHII", 16 + len(body), 10 << 8 | kind, 0, 0, 0) + body
    for read in (
        lambda: list(nft.tables_changed(told)),
        lambda: list(nft.keys_of(body)),
        lambda: nft.table_of(body),
        lambda: nft.family_of(body),
    ):
        with suppress(MalformedMessage):
            read()


def test_a_message_without_what_it_is_about_is_malformed() -> None:
    general = bytes(4)
    other = struct.pack("=HHI", 8, 2, 0)
    for body in (general, general + other, general + struct.pack("=HH", 5, 1)):
        with pytest.raises(MalformedMessage):
            nft.table_of(body)
    with pytest.raises(MalformedMessage):
        nft.family_of(b"abc")
    assert nft.table_of(general + other + struct.pack("=HH", 6, 1) + b"t\0") == "t"
