"""The kernel's messages about sockets: held against pyroute2's, which the helper does without. What
a kernel makes of the filter is tried in test_connections.py."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.diag import inet_diag_msg, inet_diag_req
from yaim_helper.kernel.netlink import NLM_F_ACK, MalformedMessage
from yaim_helper.kernel.sock_diag import (
    MAX_FILTERED,
    NOBODY,
    SOCK_DESTROY,
    SOCK_DIAG_BY_FAMILY,
    Socket,
    all_sockets,
    destroy,
    socket_of,
)

from tests.helper.network import Address

V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
LISTEN, TIME_WAIT, CLOSE = 10, 6, 7
ADDRESSES: st.SearchStrategy[Address] = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(2**48, 2**128 - 1).map(IPv6Address)
)
PORTS = st.integers(0, 65535)
NUMBERS = st.integers(0, 2**32 - 1)


def of_pyroute2(family: int, packed: bytes, numbers: dict[str, int]) -> bytes:
    """struct inet_diag_msg, as pyroute2 writes it."""
    it = inet_diag_msg()
    it["idiag_family"] = family
    words = packed.ljust(16, b"\0")
    address = tuple(int.from_bytes(words[at : at + 4], "big") for at in (0, 4, 8, 12))
    it["idiag_src"], it["idiag_dst"] = address, (1, 2, 3, 4)
    for name, value in numbers.items():
        it[name] = value
    it.encode()
    return bytes(it.data[16:])


def read_by_pyroute2(data: bytes) -> Any:
    read = inet_diag_req(data)
    read.decode()
    return read


@given(address=ADDRESSES, sport=PORTS, dport=PORTS, index=NUMBERS, cookie=st.integers(0, 2**64 - 1))
def test_a_socket_that_the_kernel_lists_is_destroyed_by_what_the_list_says_of_it(
    address: Address, sport: int, dport: int, index: int, cookie: int
) -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    numbers = {"idiag_sport": sport, "idiag_dport": dport, "idiag_if": index}
    it = socket_of(of_pyroute2(family, address.packed, {**numbers, "idiag_cookie": cookie}))
    assert it is not None
    assert it.local == address.packed
    read = read_by_pyroute2(destroy(it.name, NLM_F_ACK, 7))
    assert read["header"]["type"] == SOCK_DESTROY
    assert (read["header"]["flags"], read["header"]["sequence_number"]) == (1 | NLM_F_ACK, 7)
    assert (read["sdiag_family"], read["sdiag_protocol"]) == (family, socket.IPPROTO_TCP)
    assert ip_address(read["idiag_src"]) == address
    assert {name: read[name] for name in numbers} == numbers
    assert read["idiag_cookie"] == cookie


def test_an_ipv4_address_is_known_in_a_socket_of_ipv6() -> None:
    packed = ip_address(f"::ffff:{V4}").packed
    it = socket_of(of_pyroute2(socket.AF_INET6, packed, {}))
    assert it is not None
    assert it.local == V4.packed
    assert it.name[0] == socket.AF_INET6


def test_what_only_waits_for_its_end_is_no_connection_any_more() -> None:
    assert socket_of(of_pyroute2(socket.AF_INET, V4.packed, {"idiag_timer": 3})) is None


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_all_are_asked_for_but_what_listens_or_has_ended(family: socket.AddressFamily) -> None:
    read = read_by_pyroute2(all_sockets(family, [V4], 9))
    assert read["header"]["type"] == SOCK_DIAG_BY_FAMILY
    assert (read["header"]["flags"], read["header"]["sequence_number"]) == (0x301, 9)
    assert (read["sdiag_family"], read["sdiag_protocol"]) == (family, socket.IPPROTO_TCP)
    states = {number for number in range(1, 13) if read["idiag_states"] >> number & 1}
    assert states == set(range(1, 13)) - {LISTEN, TIME_WAIT, CLOSE}
    assert not any(read[f"idiag_{name}"] for name in ("ext", "sport", "dport", "if", "cookie"))


def test_with_many_addresses_the_kernel_is_asked_for_the_sockets_of_all() -> None:
    many = [V4 + number for number in range(MAX_FILTERED + 1)]
    assert len(all_sockets(socket.AF_INET, many, 1)) == 72
    assert len(all_sockets(socket.AF_INET, many[1:], 1)) == 76 + MAX_FILTERED * 20 - 4


def test_the_socket_that_cannot_exist_has_neither_address_nor_port_nor_cookie() -> None:
    assert socket_of(NOBODY[:1] + bytes(3) + NOBODY[1:] + bytes(20)) == Socket(bytes(4), NOBODY)
    assert not any(NOBODY[1:])


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_a_socket_or_malformed(body: bytes) -> None:
    try:
        it = socket_of(body)
    except MalformedMessage:
        assert len(body) < 72 or body[0] not in (socket.AF_INET, socket.AF_INET6)
        return
    assert it is None or (it.local in body and it.name == body[:1] + body[4:52])


@pytest.mark.parametrize("body", [b"", bytes(71), bytes((socket.AF_UNIX,)) + bytes(71)])
def test_what_the_kernel_should_never_say_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        socket_of(body)
