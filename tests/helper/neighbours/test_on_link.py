"""What anybody on the link can send, where the kernel listens to routers: router advertisements
and frames of all sorts."""

import random
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest
from yaim_helper.kernel.addresses import Interface
from yaim_helper.neighbours.announce import internet_checksum

from tests.helper.neighbours.test_conflicts import (
    ADVERTISEMENT,
    REPLY,
    REQUEST,
    conflicts_of,
    sending,
)
from tests.helper.network import INTERFACE, boottime, shown, wait_for, watching
from tests.helper.process import OK_ABSENT, Client, Helper, deadline_in, refused
from tests.helper.record.test_disk import took_s
from tests.helper.test_attack import rss_kib
from tests.helper.test_owners import verified
from yaim.lab.namespaces import Namespace

V4, V6 = "192.0.2.10", "2001:db8::10"
MADE = "2001:db8::ff:fe00:1"
"""The address that is made of the MAC address 02:00:00:00:00:01 (network.py)."""
FOR_EVER = 0xFFFFFFFF
GRACE_S = 0.2


def advertisement(
    valid_s: int = FOR_EVER,
    preferred_s: int = FOR_EVER,
    prefix: str = "2001:db8::",
    length: int = 64,
    router_s: int = 1800,
) -> bytes:
    """RFC 4861 sections 4.2 and 4.6.2: on link, and for addresses."""
    network = IPv6Address(prefix).packed
    option = struct.pack("!BBBBIII16s", 3, 4, length, 0xC0, valid_s, preferred_s, 0, network)
    message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, router_s, 0, 0) + option
    ends = IPv6Address("fe80::99").packed + IPv6Address("ff02::1").packed
    checksum = internet_checksum(ends + struct.pack("!II", len(message), 58) + message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), 58, 255)
    return bytes.fromhex("33330000000102000000009986dd") + header + ends + message


def lives(network: Namespace) -> dict[str, tuple[int, int]]:
    return {
        each["local"]: (each["valid_life_time"], each["preferred_life_time"])
        for each in shown(network)
    }


@contextmanager
def listening_to_routers(network: Namespace) -> Iterator[socket.socket]:
    """What is sent there reaches the interface."""
    network.run(
        *("sh", "-ec"),
        f"sysctl -qw net.ipv6.conf.{INTERFACE}.accept_ra=2 net.ipv6.conf.{INTERFACE}.autoconf=1\n"
        f"ip link set {INTERFACE} addrgenmode eui64\n"
        f"ip link set {INTERFACE} down; ip link set {INTERFACE} up",
    )
    wait_for(lambda: any(each["local"].startswith("fe80") for each in shown(network)), "it has one")
    with sending(network) as router:

        def is_heard() -> bool:
            router.send(advertisement(prefix="2001:db8:1::"))
            return "2001:db8:1::ff:fe00:1" in lives(network)

        wait_for(is_heard, "the kernel makes an address")
        yield router


def test_an_address_that_a_router_could_keep_alive_is_not_added(
    network: Namespace, helper: Helper, client: Client
) -> None:
    """It was permanent after one packet, and off the host never."""
    with listening_to_routers(network) as router:
        reply = client.add(MADE)
        assert (
            reply["reason"]
            == f"{MADE} is what veth0 makes of its MAC address: a router sets its lifetime"
        )
        assert refused(reply) == "not-allowed"
        assert client.add(V6) == OK_ABSENT
        router.send(advertisement())
        wait_for(lambda: MADE in lives(network), "the host has made it")
        assert client.remove(MADE)["was"] == "absent"
        assert lives(network)[MADE] == (FOR_EVER, FOR_EVER), "it is the host's"


@pytest.mark.parametrize(
    ("interface", "address", "is_made"),
    [
        (Interface("a", 1, bytes.fromhex("020000000001"), True, True), MADE, True),
        (Interface("a", 1, bytes.fromhex("020000000001"), True, True), "fe80::ff:fe00:1", True),
        (Interface("a", 1, bytes.fromhex("020000000002"), True, True), MADE, False),
        (Interface("a", 1, bytes.fromhex("020000000001"), True, False), MADE, False),
        (Interface("a", 1, bytes(6), True, True), "192.0.2.1", False),
    ],
)
def test_which_address_an_interface_makes(
    interface: Interface, address: str, is_made: bool
) -> None:
    assert interface.makes(ip_address(address)) is is_made


def test_router_advertisements_change_no_deadline(
    network: Namespace, helper: Helper, client: Client
) -> None:
    with listening_to_routers(network) as router, watching(network) as watch:
        deadline_ns = deadline_in(6)
        assert client.add(V6, deadline_ns=deadline_ns) == OK_ABSENT
        watch.wait_until_added({ip_address(V6)})
        for frame in (
            advertisement(),
            advertisement(7200, 0),
            advertisement(0, 0),
            advertisement(prefix=V6, length=128),
            advertisement(prefix=V6, length=64),
            advertisement(prefix="::", length=0),
            advertisement(router_s=0),
        ):
            router.send(frame)
            valid_s, preferred_s = lives(network)[V6]
            assert valid_s <= 6 and preferred_s == 0
            assert client.renew(deadline_ns) == {"result": "ok", "missing": []}
        assert not watch.still_there({ip_address(V6)}, deadline_ns / 1e9 + GRACE_S)


def mutated(frame: bytes, chance: random.Random) -> bytes:
    """Cut, made longer, with other bytes; about a held address still, where that is left."""
    found = bytearray(frame)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(12, len(found))
        found[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    match chance.randrange(4):
        case 0:
            del found[chance.randrange(14, len(found)) :]
        case 1:
            found += chance.randbytes(chance.choice((1, 7, 8, 100, 1400)))
        case 2:
            # A tag of a VLAN, or two.
            found[12:12] = bytes.fromhex("81000001") * chance.choice((1, 2))
        case _:
            pass
    return bytes(found[:1514]).ljust(14, b"\0")


def test_frames_of_all_sorts_about_a_held_address_leave_nothing_and_delay_nobody(
    network: Namespace, helper: Helper, client: Client, tmp_path: Path
) -> None:
    chance = random.Random(18)
    with listening_to_routers(network) as neighbour:
        for each in (V4, V6):
            assert client.add(each, deadline_ns=deadline_in(60)) == OK_ABSENT
        sent = (REQUEST, REPLY, ADVERTISEMENT, advertisement(), advertisement(prefix=V6))
        rss_before = rss_kib(helper)
        slowest_s = []
        for _ in range(50):
            for _frame in range(200):
                neighbour.send(mutated(chance.choice(sent), chance))
            began = boottime()
            reply = client.renew(deadline_in(60))
            assert len(reply.pop("conflicts", [])) <= 2
            assert reply == {"result": "ok", "missing": []}
            slowest_s.append(took_s(began))
            time.sleep(0.002)
        assert sorted(slowest_s)[len(slowest_s) // 2] < GRACE_S
        assert rss_kib(helper) < rss_before + 1024
        told = conflicts_of(helper)
        assert {each["address"] for each in told} <= {V4, V6}
        assert len(told) <= 2, "once in ten seconds for each"
        assert lives(network)[V6][1] == 0
        assert helper.end() == 0
        assert verified(helper.audit_log) == []
