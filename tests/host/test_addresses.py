"""Which addresses cannot be the helper's, from messages as the kernel sends them."""

import socket
import struct
from ipaddress import ip_address

import pytest

from yaim.core.model import Place
from yaim.host.addresses import FOREVER, HostAddresses
from yaim.host.netlink import ADDRESS

A, B = "192.0.2.10", "2001:db8::10"
NAMES = {2: "eth0", 3: "eth1"}


def told(address: str, prefix: int, preferred_s: int, valid_s: int, index: int = 2) -> bytes:
    packed = ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = ADDRESS.pack(family, prefix, 0, 0, index)
    body += struct.pack("=HH", 4 + len(packed), 1) + packed
    return body + struct.pack("=HHIIII", 20, 6, preferred_s, valid_s, 0, 0)


def by_the_helper(address: str, valid_s: int = 3, index: int = 2) -> bytes:
    return told(address, 32 if "." in address else 128, 0, valid_s, index)


@pytest.mark.parametrize("address", [A, B])
def test_what_the_helper_adds_and_renews_is_never_the_hosts_own(address: str) -> None:
    known = HostAddresses()
    known.is_changed = False
    for valid_s in (3, 2, 100):
        known.note(by_the_helper(address, valid_s))
    assert not known.is_changed and known.own(NAMES) == {}
    assert known.note_gone(by_the_helper(address)) == ip_address(address)
    assert not known.is_changed


@pytest.mark.parametrize(
    "lifetimes", [(FOREVER, FOREVER), (0, FOREVER), (100, 200), (1, 2)], ids=str
)
def test_what_is_permanent_or_preferred_is_the_hosts_own(lifetimes: tuple[int, int]) -> None:
    known = HostAddresses()
    known.note(told(A, 24, *lifetimes))
    assert known.own(NAMES) == {ip_address(A): (Place("eth0", 24),)}
    assert known.is_changed


def test_all_places_of_an_address_are_told() -> None:
    known = HostAddresses()
    for index, prefix in ((3, 32), (2, 24), (9, 24)):
        known.note(told(A, prefix, FOREVER, FOREVER, index))
    known.note(by_the_helper(A))
    assert known.own(NAMES) == {
        ip_address(A): (Place("eth0", 24), Place("eth1", 32), Place("interface 9", 24))
    }


def test_a_second_copy_that_goes_leaves_the_helpers_alone() -> None:
    known = HostAddresses()
    known.note(by_the_helper(A))
    known.note(told(A, 24, FOREVER, FOREVER))
    known.note_gone(told(A, 24, FOREVER, FOREVER))
    assert known.own(NAMES) == {}


def test_an_address_of_the_hosts_own_stays_so_when_it_is_preferred_no_more() -> None:
    """Router advertisements can do that: then it looks like the helper's."""
    known = HostAddresses()
    for preferred_s in (10, 0):
        known.note(told(B, 64, preferred_s, 200))
    assert set(known.own(NAMES)) == {ip_address(B)}
    known.note_gone(told(B, 64, 0, 200))
    assert known.own(NAMES) == {}


def test_what_somebody_has_made_his_own_stays_so_whatever_lifetimes_he_gives_it() -> None:
    """An address that was permanent and got a lifetime was taken for the helper's, and others took
    it."""
    known = HostAddresses()
    known.note(by_the_helper(A))
    known.note(told(A, 32, FOREVER, FOREVER))
    assert set(known.own(NAMES)) == {ip_address(A)}
    known.note(by_the_helper(A))
    assert set(known.own(NAMES)) == {ip_address(A)} and known.others(NAMES) == {}
    known.note_gone(by_the_helper(A))
    known.note(by_the_helper(A))
    assert known.own(NAMES) == {} and set(known.others(NAMES)) == {ip_address(A)}


def test_what_went_while_messages_were_lost_is_told_by_the_next_dump() -> None:
    known = HostAddresses()
    known.begin()
    for address in (A, B):
        known.note(told(address, 24, FOREVER, FOREVER))
    assert not known.is_whole and known.end() == [] and known.is_whole
    known.begin()
    known.note(told(B, 24, FOREVER, FOREVER))
    known.is_changed = False
    assert known.end() == [ip_address(A)]
    assert known.is_changed and set(known.own(NAMES)) == {ip_address(B)}


def test_what_is_about_no_address_is_left_out() -> None:
    known = HostAddresses()
    known.note(ADDRESS.pack(socket.AF_INET, 24, 0, 0, 2))
    assert known.note_gone(ADDRESS.pack(socket.AF_INET, 24, 0, 0, 2)) is None
    assert known.own(NAMES) == {}
