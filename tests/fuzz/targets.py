"""What is fuzzed, one input a call, and what must hold each time.

`parser` and `wire` need no privileges; what the whole helper needs is in session.py.
"""

import json
import struct
from ipaddress import ip_address

from yaim_helper.neighbours.announce import internet_checksum
from yaim_helper.neighbours.conflicts import advertisement_claim, arp_claim
from yaim_helper.protocol import Malformed, Refused, Request, read_request, write_reply

from tests.fuzz.oracle import meaning
from tests.fuzz.packets import Bytes, packet_from
from tests.fuzz.session import Session, new_session


def parser(data: bytes) -> None:
    """A packet is a request if, and only if, the page about the protocol says so, and says then
    what the page says; a refusal that quotes it is a reply."""
    packet = packet_from(data)
    try:
        request = read_request(packet)
    except Malformed as error:
        assert meaning(packet) is None, (packet, error)
        return
    assert said_by(request) == meaning(packet), packet
    reply = json.loads(write_reply(request.id, Refused("busy", repr(request))))
    assert reply["reason"] == repr(request)


def said_by(request: Request) -> dict[str, object]:
    fields: dict[str, object] = {"op": type(request).__name__.lower()}
    for key in request.__slots__:
        value = getattr(request, key)
        is_plain = isinstance(value, int | str)
        fields[key] = value if is_plain else "" if value is None else str(value)
    return fields


_ARP = bytes.fromhex("000108000604000102000000000ac000020a000000000000c000020a")
_NA_TARGET = ip_address("2001:db8::10").packed
_NA = b"\x88\0\0\0\x20\0\0\0" + _NA_TARGET + b"\x02\x01\x02\0\0\0\0\x0a"
_IPV6 = (
    struct.pack("!IHBB", 6 << 28, len(_NA), 58, 255) + _NA_TARGET + bytes.fromhex("ff02" + 28 * "0")
)


def wire(data: bytes) -> None:
    """What anybody on the link can write is a claim of a whole address and a whole MAC address, or
    nothing."""
    bytes_ = Bytes(data)
    kind = bytes_.byte() % 4
    if kind == 0:
        packet = bytes_.rest()
    elif kind == 1:
        packet = _overwritten(_ARP, bytes_)
    else:
        packet = _overwritten(_IPV6 + _NA, bytes_)
        if kind == 3:
            packet = _with_checksum(packet)
    for claim, version in ((arp_claim(packet), 4), (advertisement_claim(packet), 6)):
        if claim is not None:
            address, mac = claim
            assert (address.version, len(mac)) == (version, 6), packet
            assert address.packed in packet
            assert mac in packet


def _overwritten(packet: bytes, bytes_: Bytes) -> bytes:
    """Some of its bytes, the length it has left, and what follows."""
    changed = bytearray(packet)
    for _ in range(bytes_.byte() % 8):
        changed[bytes_.byte() % len(changed)] = bytes_.byte()
    cut = bytes_.byte()
    return bytes(changed[: cut if cut < len(changed) else None]) + bytes_.rest()


def _with_checksum(packet: bytes) -> bytes:
    """An ICMPv6 message whose checksum is right, so that what follows is looked at, and whose
    length is that of the packet unless its low byte was made odd."""
    if len(packet) < 44 or len(packet) % 2:
        return packet
    message = packet[40:42] + b"\0\0" + packet[44:]
    if not packet[5] & 1:
        packet = packet[:4] + struct.pack("!H", len(message)) + packet[6:]
    pseudo = packet[8:40] + struct.pack("!II", len(message), 58)
    checksum = internet_checksum(pseudo + message)
    return packet[:40] + message[:2] + struct.pack("!H", checksum) + message[4:]


def server(data: bytes) -> None:
    """What is on the interfaces is within the policy, whatever is sent; see session.py."""
    if not _session:
        _session.append(new_session())
    _session[0].run(data)


_session: list[Session] = []
