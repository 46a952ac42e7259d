"""Another holder of our address on the link: what is taken for one, and what is done about it."""

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yaim_helper.neighbours.announce import frames, internet_checksum
from yaim_helper.neighbours.conflicts import (
    MAX_READ,
    Conflicts,
    Sighting,
    advertisement_claim,
    arp_claim,
)
from yaim_helper.neighbours.defence import TOLD_FOR_S, Conflict

from tests.helper.network import INTERFACE, MAC, PEER, Capture, capturing, wait_for
from tests.helper.process import (
    OK_ABSENT,
    Client,
    Helper,
    Message,
    deadline_in,
    essence,
    policy,
    running,
)
from yaim.lab.namespaces import Namespace

V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
RIVAL = bytes.fromhex("0200000000aa")
OTHER_RIVAL = bytes.fromhex("0200000000bb")
ETHERNET = 14
"""Bytes in front of what a claim is read from."""
OURS = bytes.fromhex(MAC.replace(":", ""))
REQUEST, REPLY = frames(RIVAL, V4)
(ADVERTISEMENT,) = frames(RIVAL, V6)
CLAIMS = {REQUEST: V4, REPLY: V4, ADVERTISEMENT: V6}
ANNOUNCEMENTS = [*frames(OURS, V4), *frames(OURS, V6)]
ANSWERS = [frames(OURS, V4)[0], *frames(OURS, V6)]


def changed(frame: bytes, at: int, new: bytes) -> bytes:
    """What is behind the Ethernet header, with some bytes exchanged."""
    packet = frame[ETHERNET:]
    return packet[:at] + new + packet[at + len(new) :]


def advertisement(message: bytes, hop_limit: int = 255) -> bytes:
    """An IPv6 packet with this ICMPv6 message of an even length, whose checksum is put right."""
    ends = ADVERTISEMENT[ETHERNET:][8:40]
    unsummed = message[:2] + b"\0\0" + message[4:]
    checksum = internet_checksum(ends + struct.pack("!II", len(message), 58) + unsummed)
    header = struct.pack("!IHBB", 6 << 28, len(message), 58, hop_limit)
    return header + ends + message[:2] + struct.pack("!H", checksum) + message[4:]


MESSAGE = ADVERTISEMENT[ETHERNET + 40 :]
TARGET, OPTION = MESSAGE[:24], MESSAGE[24:]


# --- what is read ------------------------------------------------------------------------------


def test_an_arp_packet_claims_its_senders_address() -> None:
    assert arp_claim(REQUEST[ETHERNET:]) == (V4, RIVAL)
    assert arp_claim(REPLY[ETHERNET:] + bytes(18)) == (V4, RIVAL)


@pytest.mark.parametrize(
    ("at", "new"),
    [(0, b"\0\2"), (2, b"\x08\1"), (4, b"\x08"), (5, b"\x10"), (6, b"\0\3")],
    ids=["not Ethernet", "not IPv4", "long MAC", "long address", "neither request nor reply"],
)
def test_another_arp_packet_claims_nothing(at: int, new: bytes) -> None:
    assert arp_claim(changed(REQUEST, at, new)) is None


def test_an_advertisement_claims_its_target() -> None:
    assert advertisement_claim(ADVERTISEMENT[ETHERNET:]) == (V6, RIVAL)
    assert advertisement_claim(ADVERTISEMENT[ETHERNET:] + b"padding") == (V6, RIVAL)
    other_option = b"\x0e\2" + bytes(14)
    assert advertisement_claim(advertisement(TARGET + other_option + OPTION)) == (V6, RIVAL)


@pytest.mark.parametrize(
    "packet",
    [
        advertisement(MESSAGE, hop_limit=254),
        advertisement(b"\x87" + MESSAGE[1:]),
        advertisement(MESSAGE[:1] + b"\1" + MESSAGE[2:]),
        advertisement(MESSAGE[:20]),
        advertisement(TARGET),
        advertisement(TARGET + b"\1" + OPTION[1:]),
        advertisement(TARGET + OPTION + bytes(8)),
        advertisement(TARGET + b"\2\2" + OPTION[2:]),
        changed(ADVERTISEMENT, 0, b"\x40"),
        changed(ADVERTISEMENT, 6, b"\x11"),
        changed(ADVERTISEMENT, 42, b"\0\0"),
        ADVERTISEMENT[ETHERNET:-1],
    ],
    ids=[
        "from behind a router",
        "a solicitation",
        "another code",
        "too short for a target",
        "no option",
        "the option of a source",
        "an option without a length",
        "an option longer than the message",
        "not IPv6",
        "not ICMPv6",
        "a wrong checksum",
        "cut off",
    ],
)
def test_an_advertisement_that_is_not_valid_claims_nothing(packet: bytes) -> None:
    assert advertisement_claim(packet) is None


@given(st.binary(max_size=200))
def test_arbitrary_bytes_claim_something_or_nothing(packet: bytes) -> None:
    for claim in (arp_claim(packet), advertisement_claim(packet)):
        assert claim is None or len(claim[1]) == 6


@given(st.binary(max_size=200))
def test_arbitrary_options_claim_a_mac_address_or_nothing(options: bytes) -> None:
    claim = advertisement_claim(advertisement(TARGET + options[: len(options) & ~1]))
    assert claim is None or (claim[0] == V6 and len(claim[1]) == 6)


# --- what is heard -----------------------------------------------------------------------------


@pytest.fixture
def conflicts(network: Namespace) -> Conflicts:
    with network.entered():
        return Conflicts()


@contextmanager
def sending(network: Namespace, interface: str = PEER) -> Iterator[socket.socket]:
    """Frames into the network, as from another host."""
    with network.entered():
        it = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with it:
        it.bind((interface, 0))
        yield it


@pytest.fixture
def neighbour(network: Namespace) -> Iterator[socket.socket]:
    with sending(network) as it:
        yield it


def test_claims_to_the_watched_addresses_are_heard_and_no_others(
    conflicts: Conflicts, neighbour: socket.socket
) -> None:
    conflicts.watch([V4, V6])
    for number in (9, 10, 11):
        for address in (ip_address(f"192.0.2.{number}"), IPv6Address(f"2001:db8::{number}")):
            for frame in frames(RIVAL, address):
                neighbour.send(frame)
    assert conflicts.read() == [Sighting(CLAIMS[each], INTERFACE, RIVAL) for each in CLAIMS]
    assert conflicts.read() == []


def test_what_is_malformed_and_names_a_watched_address_is_dropped(
    conflicts: Conflicts, neighbour: socket.socket
) -> None:
    conflicts.watch([V4])
    neighbour.send(REQUEST[:ETHERNET] + changed(REQUEST, 6, b"\0\3"))
    neighbour.send(REQUEST)
    assert conflicts.read() == [Sighting(V4, INTERFACE, RIVAL)]


def test_what_is_not_watched_wakes_nobody(conflicts: Conflicts, neighbour: socket.socket) -> None:
    others = frames(RIVAL, ip_address("192.0.2.11")) + frames(RIVAL, ip_address("2001:db8::11"))
    rest = (b"\xff" * 6 + RIVAL + b"\x86\xdd" + advertisement(b"\x87" + MESSAGE[1:]),)
    for watched, sent in (((), CLAIMS), ((V4, V6), others + rest)):
        conflicts.watch(watched)
        for frame in sent:
            neighbour.send(frame)
        for each in conflicts.sockets():
            with pytest.raises(BlockingIOError):
                each.recv(2048)


def test_what_came_before_an_address_was_watched_is_forgotten(
    conflicts: Conflicts, neighbour: socket.socket
) -> None:
    """Its last holder may have sent it, who has removed it since."""
    conflicts.watch([V4])
    neighbour.send(REQUEST)
    conflicts.watch([V4, V4 + 1])
    assert conflicts.read() == []


def test_what_this_host_sends_is_not_heard(network: Namespace, conflicts: Conflicts) -> None:
    conflicts.watch([V4, V6])
    network.run("ip", "link", "set", PEER, "down")
    with sending(network, "lo") as loopback, sending(network, INTERFACE) as own:
        network.run("ip", "link", "set", "lo", "up")
        for frame in CLAIMS:
            own.send(frame)
            loopback.send(frame)
    assert {each.interface for each in conflicts.read()} <= {"lo"}


def test_more_addresses_than_a_filter_holds_are_watched_all_the_same(
    conflicts: Conflicts, neighbour: socket.socket
) -> None:
    addresses = [V4 + 3 * number for number in range(1000)]
    conflicts.watch(addresses)
    heard = []
    for address in addresses:
        neighbour.send(frames(RIVAL, address)[0])
        heard += conflicts.read()
    assert [each.address for each in heard] == addresses


def test_only_so_many_are_read_in_one_go(conflicts: Conflicts, neighbour: socket.socket) -> None:
    conflicts.watch([V4])
    for _ in range(MAX_READ + 1):
        neighbour.send(REQUEST)
    assert [len(conflicts.read()) for _ in range(3)] == [MAX_READ, 1, 0]


# --- what the helper does ----------------------------------------------------------------------


def conflicts_of(helper: Helper) -> list[Message]:
    records = [each for each in helper.records() if each["type"] == "conflict"]
    return essence(records)


def conflict(address: object, mac: bytes = RIVAL, count: int = 1) -> Message:
    return {
        "type": "conflict",
        "address": str(address),
        "interface": INTERFACE,
        "cluster": "test",
        "mac": mac.hex(":"),
        "count": count,
    }


def hold(client: Client, *addresses: object) -> None:
    """When this is done the addresses are watched, too."""
    for each in addresses:
        assert client.add(str(each), deadline_ns=deadline_in(60)) == OK_ABSENT
    client.list()


def next_sent(capture: Capture, count: int) -> list[bytes]:
    """The next so many announcements that the helper sends, or some more; waits for them."""
    sent: list[bytes] = []

    def has_sent() -> bool:
        sent.extend(each for each in capture.frames() if each in ANNOUNCEMENTS)
        return len(sent) >= count

    wait_for(has_sent, f"{count} frames")
    return sent


def test_another_holder_is_recorded_and_answered_once_in_ten_seconds(
    helper: Helper, client: Client, neighbour: socket.socket, network: Namespace
) -> None:
    with capturing(network) as capture:
        hold(client, V4, V6)
        assert len(next_sent(capture, 12)) == 12, "the first announcements after an add"
        since = time.monotonic()
        for frame in (REQUEST, ADVERTISEMENT):
            neighbour.send(frame)
        assert sorted(next_sent(capture, 2)) == sorted(ANSWERS)
        assert conflicts_of(helper) == [conflict(V4), conflict(V6)]
        for _ in range(5):
            neighbour.send(REPLY)
        neighbour.send(frames(OTHER_RIVAL, V4)[0])
        wait_for(lambda: conflicts_of(helper)[2:], "the next record", 40.0)
        assert time.monotonic() - since > 9.9
        # An announcement is a request and a reply, an answer only the one.
        request, reply = frames(OURS, V4)
        sent: list[bytes] = []

        def has_answered() -> bool:
            sent.extend(capture.frames())
            return sent.count(request) > sent.count(reply)

        wait_for(has_answered, "the answer")
        assert (sent.count(request), ANSWERS[0]) == (sent.count(reply) + 1, request)
        assert conflicts_of(helper)[2:] == [conflict(V4, OTHER_RIVAL, 6)]


def test_a_coordinator_is_told_who_else_has_its_addresses_and_no_other_is(
    helper: Helper, client: Client, neighbour: socket.socket
) -> None:
    hold(client, V4, V6)
    assert "conflicts" not in client.ask("renew", deadline_ns=deadline_in(60))
    for frame in (REQUEST, ADVERTISEMENT):
        neighbour.send(frame)
    wait_for(lambda: len(conflicts_of(helper)) == 2, "both are seen")
    neighbour.send(frames(OTHER_RIVAL, V4)[0])
    for told in (client.ask("renew", deadline_ns=deadline_in(60)), client.list()):
        for each in told["conflicts"]:
            since = datetime.fromisoformat(each.pop("since"))
            assert abs(since.timestamp() - time.time()) < 60
        both = [
            {"address": str(each), "interface": INTERFACE, "mac": RIVAL.hex(":")}
            for each in (V4, V6)
        ]
        assert sorted(told["conflicts"], key=str) == sorted(both, key=str)
    with helper.greeted("another") as other:
        assert "conflicts" not in other.list()
    client.remove(str(V4))
    assert [each["address"] for each in client.list()["conflicts"]] == [str(V6)]


def test_what_is_told_of_other_holders_changes_seldom_and_is_little() -> None:
    """However many claims somebody on the link makes, and for whomever."""
    it = Conflict()
    for mac, at in ((RIVAL, 100.0), (OTHER_RIVAL, 101.0), (OTHER_RIVAL, 400.9)):
        it.see(mac, at)
        assert (it.first_mac, it.mac, it.seen_at) == (RIVAL, mac, at)
    it.see(OTHER_RIVAL, 400.9 + TOLD_FOR_S)
    assert it.first_mac == OTHER_RIVAL


def test_an_address_that_we_gave_up_is_not_defended(
    helper: Helper, client: Client, neighbour: socket.socket, network: Namespace
) -> None:
    hold(client, V4, V6)
    client.remove(str(V4))
    with capturing(network) as capture:
        neighbour.send(REQUEST)
        neighbour.send(ADVERTISEMENT)
        wait_for(lambda: conflicts_of(helper), "the one that is held")
        assert (V4, MAC) not in capture.announced()
    assert conflicts_of(helper) == [conflict(V6)]


def test_our_own_claim_is_no_conflict_also_by_another_interface_of_this_host(
    helper: Helper, client: Client, neighbour: socket.socket, network: Namespace
) -> None:
    (peer,) = json.loads(network.run("ip", "-json", "link", "show", PEER))
    hold(client, V4, V6)
    for mac in (MAC, peer["address"]):
        neighbour.send(frames(bytes.fromhex(mac.replace(":", "")), V4)[0])
    neighbour.send(ADVERTISEMENT)
    wait_for(lambda: conflicts_of(helper), "the one of another")
    assert conflicts_of(helper) == [conflict(V6)]


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize("flood", [frames(RIVAL, V4 + 1)[0], REQUEST], ids=["others", "ours"])
def test_a_flood_of_arp_costs_little_and_delays_nobody(
    network: Namespace, tmp_path: Path, flood: bytes
) -> None:
    """Two thousand packets a second, for two seconds, about others' addresses or about ours."""
    config = policy(tmp_path / "audit")
    with (
        running(network, tmp_path, config=config) as helper,
        helper.greeted() as client,
        sending(network) as neighbour,
    ):
        hold(client, V4)
        for _ in range(10):
            before = cpu_s(helper.pid)
            slowest = 0.0
            start = time.monotonic()
            for number in range(200):
                time.sleep(max(0.0, start + number / 100 - time.monotonic()))
                for _ in range(20):
                    neighbour.send(flood)
                if number % 20 == 0:
                    asked = time.monotonic()
                    assert client.renew(deadline_in(60))["result"] == "ok"
                    slowest = max(slowest, time.monotonic() - asked)
            assert cpu_s(helper.pid) - before < 0.4
            if slowest < 1.0:
                break  # a busy machine may delay some
        assert slowest < 1.0
        assert len(conflicts_of(helper)) <= 1
