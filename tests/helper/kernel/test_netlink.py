"""The bytes that go to the kernel and come from it: held against pyroute2's, which the helper does
without, and against a kernel and whoever else writes to the helper's socket."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from yaim_helper.kernel.addresses import Assignment, Kernel, KernelError
from yaim_helper.kernel.netlink import (
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_NEWADDR,
    RTM_NEWROUTE,
    Found,
    MalformedMessage,
    all_addresses,
    error_number,
    found,
    message,
    messages,
    new_address,
    old_address,
    source_of,
)

from tests.helper.network import INTERFACE, PEER, Address, new_network, present
from yaim.lab.namespaces import Namespace

FOREVER = 0xFFFFFFFF
ADDRESS, LOCAL, LABEL, CACHEINFO = 1, 2, 3, 6
V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
ADDRESSES: st.SearchStrategy[Address] = st.one_of(
    st.integers(0x0A000001, 0x0AFFFFFE).map(IPv4Address),
    st.integers(1, 2**64 - 1).map(lambda low: IPv6Address(0x20010DB8 << 96 | low)),
)
BYTES = st.integers(0, 255)
INDEXES = st.integers(1, 2**31 - 1)
LIFETIMES = st.integers(1, FOREVER)
LABELS = st.from_regex(r"[a-z0-9_.:-]{0,15}", fullmatch=True)


@pytest.fixture
def kernel(network: Namespace) -> Iterator[Kernel]:
    with network.entered():
        yield Kernel()


def by_pyroute2(data: bytes) -> Any:
    read = ifaddrmsg(data)
    read.decode()
    return read


def written_by_pyroute2(
    kind: int, flags: int, address: Address, prefix: int, index: int, **attributes: Any
) -> Any:
    """And read by it, too."""
    it = ifaddrmsg()
    it["header"] = {"type": kind, "flags": flags | 1, "sequence_number": 7, "pid": 0, "length": 0}
    it["family"] = socket.AF_INET if address.version == 4 else socket.AF_INET6
    it["prefixlen"], it["index"] = prefix, index
    it["flags"] = 0x02 if address.version == 6 and kind == RTM_NEWADDR else 0
    it["attrs"] = [("IFA_LOCAL", str(address)), ("IFA_ADDRESS", str(address))]
    it["attrs"] += list(attributes.items())
    it.encode()
    return by_pyroute2(bytes(it.data))


def fields(it: Any) -> tuple[Any, ...]:
    """All that is in a message as pyroute2 has read it, the order of attributes apart."""
    header = [it["header"][name] for name in ("length", "type", "flags", "sequence_number", "pid")]
    plain = [it[name] for name in ("family", "prefixlen", "flags", "scope", "index")]
    names = ("IFA_LOCAL", "IFA_ADDRESS", "IFA_LABEL", "IFA_CACHEINFO")
    lifetimes = it.get_attr("IFA_CACHEINFO") or {}
    numbers = [lifetimes.get(f) for f in ("ifa_preferred", "ifa_valid", "cstamp", "tstamp")]
    texts = [it.get_attr(name) for name in names[:3]]
    assert {attribute[0] for attribute in it["attrs"]} <= set(names)
    return (*header, *plain, *texts, *numbers)


# --- what is written ---------------------------------------------------------------------------


@given(address=ADDRESSES, prefix=BYTES, index=INDEXES, label=LABELS, valid_s=LIFETIMES, flags=BYTES)
def test_an_address_is_added_in_the_same_words_as_pyroute2s(
    address: Address, prefix: int, index: int, label: str, valid_s: int, flags: int
) -> None:
    body = new_address(address, prefix, index, label, valid_s)
    lifetimes = {"ifa_preferred": 0, "ifa_valid": valid_s, "cstamp": 0, "tstamp": 0}
    attributes: dict[str, Any] = {"IFA_CACHEINFO": lifetimes}
    if label:
        attributes["IFA_LABEL"] = label
    theirs = written_by_pyroute2(RTM_NEWADDR, flags, address, prefix, index, **attributes)
    assert fields(by_pyroute2(message(RTM_NEWADDR, flags, 7, body))) == fields(theirs)


@given(address=ADDRESSES, prefix=BYTES, index=INDEXES, flags=BYTES)
def test_an_address_is_deleted_in_the_same_words_as_pyroute2s(
    address: Address, prefix: int, index: int, flags: int
) -> None:
    ours = message(RTM_DELADDR, flags, 7, old_address(address, prefix, index))
    theirs = written_by_pyroute2(RTM_DELADDR, flags, address, prefix, index)
    assert fields(by_pyroute2(ours)) == fields(theirs)


@given(address=ADDRESSES, prefix=BYTES, index=INDEXES, label=LABELS, valid_s=LIFETIMES)
def test_what_is_written_is_read_back(
    address: Address, prefix: int, index: int, label: str, valid_s: int
) -> None:
    body = new_address(address, prefix, index, label, valid_s)
    data = message(RTM_NEWADDR, 0, 7, body)
    valid = None if valid_s == FOREVER else valid_s
    assert [found(each.body) for each in messages(data + data)] == [
        Found(address, index, prefix, valid, 0, 0)
    ] * 2


# --- what the kernel says ----------------------------------------------------------------------


def dumped() -> list[bytes]:
    """All addresses of the network namespace that this thread is in, a message each."""
    told: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asker:
        asker.bind((0, 0))
        asker.send(message(RTM_GETADDR, NLM_F_DUMP, 7, all_addresses()))
        while True:
            data = asker.recv(1 << 16)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind == NLMSG_DONE:
                    return told
                told.append(data[:length])
                data = data[(length + 3) & ~3 :]


def read_by_pyroute2(data: bytes) -> Found:
    it = by_pyroute2(data)
    lifetimes = it.get_attr("IFA_CACHEINFO")
    valid, preferred = (
        None if lifetimes[f"ifa_{name}"] == FOREVER else lifetimes[f"ifa_{name}"]
        for name in ("valid", "preferred")
    )
    address = ip_address(it.get_attr("IFA_LOCAL") or it.get_attr("IFA_ADDRESS"))
    return Found(address, it["index"], it["prefixlen"], valid, preferred, lifetimes["cstamp"])


def read_by_us(data: bytes) -> Found | None:
    ((_, _, _, body),) = messages(data)
    return found(body)


ODD = (
    ("192.0.2.1", "peer", "192.0.2.2/32", "dev", INTERFACE),
    ("198.51.100.1/24", "broadcast", "+", "dev", INTERFACE, "label", f"{INTERFACE}:x"),
    ("198.51.100.2/24", "dev", INTERFACE, "noprefixroute", "metric", "7"),
    ("203.0.113.1/32", "dev", PEER, "valid_lft", "100", "preferred_lft", "50"),
    ("2001:db8:1::1", "peer", "2001:db8:1::2/128", "dev", INTERFACE),
    ("2001:db8:2::1/64", "dev", PEER, "valid_lft", "100", "preferred_lft", "0", "nodad"),
    ("fe80::1/64", "dev", INTERFACE, "scope", "link"),
    ("2001:db8:3::1/64", "dev", INTERFACE, "home", "mngtmpaddr"),
)


def test_addresses_of_all_kinds_are_read_as_pyroute2_reads_them(network: Namespace) -> None:
    for each in ODD:
        network.run("ip", "address", "add", *each)
    with network.entered():
        told = dumped()
    read = [read_by_us(each) for each in told]
    assert read == [read_by_pyroute2(each) for each in told]
    assert {ip_address(each[0].partition("/")[0]) for each in ODD} < {
        each.address for each in read if each
    }


@pytest.fixture(scope="module")
def shared() -> Iterator[Namespace]:
    with new_network() as network:
        yield network


PLACES = st.lists(
    st.tuples(ADDRESSES, st.integers(1, 32), st.integers(60, 10**6)),
    min_size=1,
    max_size=16,
    unique_by=lambda place: place[0],
)


@settings(max_examples=30)
@given(places=PLACES, part=st.integers(0, 16))
def test_any_addresses_are_read_as_pyroute2_reads_them(
    shared: Namespace, places: list[tuple[Address, int, int]], part: int
) -> None:
    with shared.entered():
        kernel = Kernel()
        interface = kernel.interface(INTERFACE)
        put = [
            Assignment(interface, address, prefix + (96 if address.version == 6 else 0), "", life)
            for address, prefix, life in places
        ]
        assert kernel.put(put) == {}
        told = dumped()
        whole, wanted = kernel.addresses(), {address for address, _, _ in places[:part]}
        some = kernel.addresses(wanted)
        for each in reversed(put):
            kernel.delete(interface.index, each.address, each.prefix)
    assert [read_by_us(each) for each in told] == [read_by_pyroute2(each) for each in told]
    assert {each.address for each in whole} >= {address for address, _, _ in places}
    single = [each for each in some if each.prefix == each.address.max_prefixlen]
    assert {each.address for each in single if each.is_like_ours} <= wanted
    assert wanted <= {each.address for each in some}


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def about(family: int, *attributes: bytes) -> bytes:
    return struct.pack("=BBBBI", family, 24, 0, 0, 5) + b"".join(attributes)


LIFE = attribute(CACHEINFO, struct.pack("=IIII", 0, 60, 1234, 5678))


def test_without_lifetimes_an_address_has_no_end() -> None:
    body = about(socket.AF_INET, attribute(ADDRESS, V4.packed))
    assert found(body) == Found(V4, 5, 24, None, None, 0)


def test_an_address_of_another_kind_is_passed_over() -> None:
    assert found(about(45, attribute(LOCAL, b"\x08"))) is None


def test_what_is_not_wanted_is_passed_over() -> None:
    body = struct.pack("=BBBBI", socket.AF_INET6, 128, 0, 0, 5) + attribute(ADDRESS, V6.packed)
    assert found(body + LIFE, {V4.packed}) is None
    assert found(body + LIFE, {V4.packed, V6.packed}) == Found(V6, 5, 128, 60, 0, 1234)


def test_what_tells_of_a_network_is_never_passed_over() -> None:
    body = about(socket.AF_INET, attribute(ADDRESS, V4.packed), LIFE)
    assert found(body, ()) == Found(V4, 5, 24, 60, 0, 1234)


def test_the_address_at_our_end_counts() -> None:
    there = attribute(ADDRESS, (V4 + 1).packed)
    for body in (
        about(socket.AF_INET, there, attribute(LOCAL, V4.packed), LIFE),
        about(socket.AF_INET, attribute(LOCAL, V4.packed), LIFE, there),
    ):
        assert found(body) == Found(V4, 5, 24, 60, 0, 1234)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        about(socket.AF_INET)[:7],
        about(socket.AF_INET),
        about(socket.AF_INET, LIFE),
        about(socket.AF_INET, attribute(LOCAL, V6.packed), LIFE),
        about(socket.AF_INET6, attribute(ADDRESS, V4.packed), LIFE),
        about(socket.AF_INET, attribute(LOCAL, V4.packed), LIFE)[:-1],
        about(socket.AF_INET, attribute(LOCAL, V4.packed), attribute(CACHEINFO, bytes(15))),
        about(socket.AF_INET, attribute(LOCAL, V4.packed), b"\0"),
        about(socket.AF_INET, attribute(LOCAL, V4.packed), b"\x04\0\x01"),
        about(socket.AF_INET, attribute(LOCAL, V4.packed), b"\x00\0\x01\0"),
        about(socket.AF_INET, attribute(LOCAL, V4.packed), b"\x03\0\x01\0"),
        about(socket.AF_INET, attribute(LOCAL, V4.packed), b"\xff\xff\x01\0"),
    ],
)
def test_an_address_that_is_cut_short_or_lies_about_its_lengths_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        found(body)


@pytest.mark.parametrize(
    "data",
    [
        bytes(15),
        message(NLMSG_DONE, 0, 7, bytes(4))[:-1],
        message(NLMSG_DONE, 0, 7, bytes(4)) + b"\0",
        struct.pack("=IHHII", 15, NLMSG_DONE, 0, 7, 0),
        struct.pack("=IHHII", 0, NLMSG_DONE, 0, 7, 0),
        struct.pack("=IHHII", FOREVER, NLMSG_DONE, 0, 7, 0),
    ],
)
def test_a_message_that_is_cut_short_or_lies_about_its_length_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        list(messages(data))


def test_an_error_number_that_is_cut_short_is_malformed() -> None:
    assert error_number(struct.pack("=i", -errno.ENODEV) + b"more") == errno.ENODEV
    with pytest.raises(MalformedMessage):
        error_number(b"\0\0\0")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A datagram of the kernel's, with some bytes changed, dropped or added."""
    bodies = (
        about(socket.AF_INET, attribute(LOCAL, V4.packed), attribute(LABEL, b"x\0"), LIFE),
        about(socket.AF_INET6, attribute(ADDRESS, V6.packed), LIFE),
    )
    data = bytearray(b"".join(message(RTM_NEWADDR, 2, 7, each) for each in bodies))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
        if not data:
            break
    return bytes(data)


@settings(max_examples=500)
@given(data=st.one_of(st.binary(max_size=200), damaged()))
def test_whatever_comes_is_read_or_malformed(data: bytes) -> None:
    try:
        read = list(messages(data))
    except MalformedMessage:
        return
    assert sum((16 + len(each.body) + 3) & ~3 for each in read) in range(len(data), len(data) + 4)
    for each in read:
        try:
            it = found(each.body)
            error_number(each.body)
        except MalformedMessage:
            continue
        assert it is None or it.address.packed in each.body


def route(
    kind: int = 2, *attributes: bytes, family: int = socket.AF_INET, length: int = 32
) -> bytes:
    """struct rtmsg, and what is behind it."""
    return struct.pack("=8BI", family, length, 0, 0, 255, 2, 254, kind, 0) + b"".join(attributes)


def test_only_the_local_route_of_one_ipv4_address_has_a_source_here() -> None:
    source = attribute(7, V4.packed)
    assert source_of(route(2, attribute(1, b"more"), source)) == V4
    others = [
        route(2),
        route(1, source),
        route(2, source, family=socket.AF_INET6),
        route(2, source, length=24),
    ]
    assert [source_of(each) for each in others] == [None] * 4


@pytest.mark.parametrize(
    "body",
    [
        route()[:-1],
        route(2, b"\0" * 3),
        route(2, attribute(7, V4.packed)[:-1]),
        route(2, attribute(7, V4.packed[:3])),
        route(2, attribute(7, V6.packed)),
        route(2, struct.pack("=HH", 3, 7)),
    ],
)
def test_a_route_that_is_cut_short_or_lies_about_its_lengths_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        source_of(body)


@settings(max_examples=500)
@given(tail=st.binary(max_size=40), cut=st.integers(0, 60), kind=st.integers(0, 3))
def test_whatever_is_told_of_a_route_is_read_or_malformed(tail: bytes, cut: int, kind: int) -> None:
    body = (route(kind, attribute(7, V4.packed)) + tail)[:cut]
    try:
        source = source_of(body)
    except MalformedMessage:
        return
    assert source is None or (kind == 2 and source.packed in body[12:])


# --- who else writes to the socket -------------------------------------------------------------


def written_to(kernel: Kernel, data: bytes) -> None:
    """Has it written by another process that may change the network: the kernel permits it nobody
    else. It arrives before what the kernel answers next."""
    port, _ = kernel._socket.getsockname()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as stranger:
        stranger.sendto(data, (port, 0))


def next_sequence(kernel: Kernel) -> int:
    return kernel._sequence + 1


def test_what_answers_no_question_is_passed_over(network: Namespace, kernel: Kernel) -> None:
    one = Assignment(kernel.interface(INTERFACE), V4, 32, "", 60)
    failed = struct.pack("=i", -errno.EPERM)
    for sequence in (0, next_sequence(kernel) + 1000):
        written_to(kernel, message(NLMSG_ERROR, 0, sequence, failed))
    assert kernel.put([one]) == {}
    written_to(kernel, message(NLMSG_DONE, 0, 0, failed))
    assert V4 in {each.address for each in kernel.addresses()}
    assert present(network) == [f"{INTERFACE} {V4}/32"]


def test_nor_is_it_taken_for_a_route(network: Namespace, kernel: Kernel) -> None:
    network.run("ip", "address", "add", f"{V4}/32", "dev", INTERFACE)
    written_to(kernel, message(RTM_NEWROUTE, 0, 99, route(2, attribute(7, b"\x7f\0\0\1"))))
    assert kernel.local_source(kernel.interface(INTERFACE).index, IPv4Address(str(V4))) == V4


def test_a_list_that_was_changed_meanwhile_is_asked_for_again(kernel: Kernel) -> None:
    before = kernel.addresses()
    stale = about(socket.AF_INET, attribute(LOCAL, V4.packed), LIFE)
    written_to(kernel, message(RTM_NEWADDR, NLM_F_DUMP_INTR, next_sequence(kernel), stale))
    assert kernel.addresses() == before


def test_a_list_that_ends_in_an_error_is_one(kernel: Kernel) -> None:
    number = struct.pack("=i", -errno.EMSGSIZE)
    written_to(kernel, message(NLMSG_DONE, 0, next_sequence(kernel), number))
    with pytest.raises(KernelError) as caught:
        kernel.addresses()
    assert (caught.value.errno, caught.value.reason) == (
        errno.EMSGSIZE,
        os.strerror(errno.EMSGSIZE),
    )
    assert kernel.addresses() == [each for each in kernel.addresses() if each.address.is_loopback]


def test_what_makes_no_sense_is_an_error_and_the_next_question_is_answered(
    kernel: Kernel,
) -> None:
    one = Assignment(kernel.interface(INTERFACE), V4, 32, "", 60)
    for ask in (kernel.addresses, lambda: kernel.put([one])):
        written_to(kernel, b"nonsense")
        with pytest.raises(KernelError, match="cannot make sense"):
            ask()
    assert V4 in {each.address for each in kernel.addresses()}
