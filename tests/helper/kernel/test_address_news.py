"""What the kernel tells of addresses that change."""

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yaim_helper.kernel.address_news import AddressNews, Change, _changes
from yaim_helper.kernel.netlink import RTM_NEWADDR, RTM_NEWLINK, Found

from tests.helper.network import INTERFACE, wait_for
from yaim.lab.namespaces import Namespace

V4, V6 = "192.0.2.10", "2001:db8::10"
SO_RCVBUFFORCE = 33


@pytest.fixture
def news(network: Namespace) -> Iterator[AddressNews]:
    with network.entered():
        news = AddressNews()
    yield news
    news.socket.close()


def ip(network: Namespace, *words: str) -> None:
    network.run("ip", "address", *words, "dev", INTERFACE)


def told(news: AddressNews, address: str) -> list[Change]:
    """What is told next about this address; waits for it."""
    found: list[Change] = []

    def is_told() -> bool:
        changes = news.read()
        assert changes is not None
        found.extend(each for each in changes if each.place.address == ip_address(address))
        return bool(found)

    wait_for(is_told, f"{address} is told of")
    return found


@pytest.mark.parametrize("whole", [f"{V4}/32", f"{V6}/128"])
def test_an_address_that_comes_changes_or_goes_is_told_of(
    network: Namespace, news: AddressNews, whole: str
) -> None:
    address, _, prefix = whole.partition("/")
    nodad = ("nodad",) if ":" in address else ()
    ip(network, "add", whole, "valid_lft", "900", "preferred_lft", "0", *nodad)
    (come,) = told(news, address)
    with network.entered():
        index = socket.if_nametoindex(INTERFACE)
    here = Found(ip_address(address), index, int(prefix), 900, 0, come.place.created)
    assert come == Change(here, is_there=True)
    assert come.place.is_like_ours
    ip(network, "change", whole)
    (changed,) = told(news, address)
    assert (changed.is_there, changed.place.valid_s) == (True, None)
    assert changed.place.identity == come.place.identity
    ip(network, "delete", whole)
    (gone,) = told(news, address)
    assert (gone.is_there, gone.place.identity) == (False, come.place.identity)


def test_nothing_is_told_when_nothing_changes(news: AddressNews) -> None:
    assert news.read() == []


def test_more_than_the_kernel_keeps_is_not_taken_for_nothing(
    network: Namespace, news: AddressNews
) -> None:
    room = news.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    news.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    lines = [f"address add 192.0.2.{n}/32 dev {INTERFACE}" for n in range(1, 100)]
    network.run("sh", "-ec", "printf '%s\n' \"$@\" | ip -batch -", "sh", *lines)
    news.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, room)
    assert news.read() is None
    assert news.read() != [], "what came before it"
    assert news.read() == []
    ip(network, "delete", "192.0.2.1/32")
    assert [each.is_there for each in told(news, "192.0.2.1")] == [False]


def test_much_is_read_in_several_goes(network: Namespace, news: AddressNews) -> None:
    lines = [f"address add 192.0.2.{n}/32 dev {INTERFACE}" for n in range(1, 101)]
    network.run("sh", "-ec", "printf '%s\n' \"$@\" | ip -batch -", "sh", *lines)
    counts = []
    while changes := news.read():
        counts.append(len(changes))
    assert (counts[0], sum(counts)) == (64, 100)


def test_what_others_than_the_kernel_send_is_not_believed(
    network: Namespace, news: AddressNews
) -> None:
    with network.entered(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as listens:
        listens.bind((0, 0x10))
        ip(network, "add", f"{V4}/32")
        datagram = listens.recv(1 << 16)
        assert len(told(news, V4)) == 1
        listens.sendto(datagram, (news.socket.getsockname()[0], 0))
    assert news.read() == []
    assert [each.is_there for each in _changes(datagram)] == [True]
    assert _changes(datagram[:-3]) == []
    length, kind = struct.unpack_from("=IH", datagram)
    assert kind == RTM_NEWADDR
    assert _changes(struct.pack("=IH", length, RTM_NEWLINK) + datagram[6:]) == []


@given(st.binary(max_size=80))
def test_arbitrary_bytes_tell_of_changes_or_of_nothing(datagram: bytes) -> None:
    for each in _changes(datagram):
        assert isinstance(each.place, Found)
