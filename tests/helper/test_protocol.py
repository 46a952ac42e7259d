"""The helper's side of helper/PROTOCOL.md, held against helper/vectors.json."""

import json
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yaim_helper.protocol import (
    MAX_REQUEST_BYTES,
    Add,
    Announce,
    Clear,
    Failed,
    Hello,
    List,
    Malformed,
    Ok,
    Refused,
    Remove,
    Renew,
    Reply,
    Request,
    read_request,
    write_reply,
)

VECTORS: Mapping[str, list[dict[str, str]]] = json.loads(
    (Path(__file__).parents[2] / "helper" / "vectors.json").read_text()
)
ACCEPTED = {
    each["name"]: each["packet"].encode()
    for each in (*VECTORS["requests"], *VECTORS["further_requests"])
}
REPLIES = {each["name"]: each["packet"].encode() for each in VECTORS["replies"]}
V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")

REQUESTS: dict[str, Request] = {
    "hello": Hello(id=1, version=1, cluster="/service/yaim/", node="db1"),
    "add, IPv4": Add(
        id=2,
        interface="eth0",
        address=V4,
        prefix=32,
        label="yaim",
        deadline_ns=1234567890123,
    ),
    "add, IPv6, no label": Add(
        id=3,
        interface="eth0",
        address=V6,
        prefix=128,
        label="",
        deadline_ns=1234567890123,
    ),
    "remove": Remove(id=4, address=V4),
    "remove, with a reset": Remove(id=9, address=V4, connections="reset"),
    "remove, explicitly without a reset": Remove(id=9, address=V4, connections="leave"),
    "clear": Clear(id=10, address=V4),
    "renew": Renew(id=5, deadline_ns=1234567890123),
    "list from the start": List(id=6, after=None),
    "list further": List(id=7, after=V4),
    "announce": Announce(id=8, address=V4),
    "keys in another order, no spaces": Remove(id=4, address=V4),
    "the largest numbers": Renew(id=2**53, deadline_ns=2**63 - 1),
}

HEAD = {"seq": 7, "hash": "0" * 64}
CONFLICT = {
    "address": "192.0.2.10",
    "interface": "eth0",
    "mac": "02:00:5e:00:00:01",
    "since": "2026-12-01T09:30:00Z",
}
COPY = {"address": "192.0.2.10", "interface": "eth0", "prefix": 24}

SENT: dict[str, tuple[int, Reply]] = {
    "added": (2, Ok({"was": "absent"})),
    "was there already": (2, Ok({"was": "present"})),
    "not allowed": (2, Refused("not-allowed", "no rule")),
    "limit": (2, Refused("limit", "too many")),
    "foreign": (2, Refused("foreign", "is there")),
    "primary": (2, Refused("primary", "sysctl")),
    "not renewed": (5, Refused("expired", "too late")),
    "too late": (2, Refused("expired", "too late")),
    "add failed": (2, Failed(19, "no such device")),
    "removed": (4, Ok({"was": "present"})),
    "was not there": (4, Ok({"was": "absent"})),
    "removed, beside a copy of the host's own": (4, Ok({"was": "present", "copies": [COPY]})),
    "remove failed": (4, Failed(None, "unknown")),
    "removed, with all connections reset": (9, Ok({"was": "present", "reset": 12, "left": 0})),
    "removed, with some connections left": (9, Ok({"was": "present", "reset": 4000, "left": 3})),
    "removed, nothing may be reset": (9, Ok({"was": "present"})),
    "cleared": (10, Ok({"cleared": 11, "left": 0})),
    "nothing to clear": (10, Ok({"cleared": 0, "left": 0})),
    "cleared, but for some": (10, Ok({"cleared": 0, "left": 2})),
    "not cleared, no fence for IPv6": (10, Failed(None, "without a fence")),
    "not cleared, it is here": (10, Refused("foreign", "is there")),
    "not cleared, no rule": (10, Refused("not-allowed", "no rule")),
    "renewed": (5, Ok({"missing": [], "head": HEAD})),
    "renewed but for one": (5, Ok({"missing": ["192.0.2.10"], "head": HEAD})),
    "renewed, beside a copy of the host's own": (
        5,
        Ok({"missing": [], "head": HEAD, "copies": [COPY]}),
    ),
    "renewed, with all that can be wrong": (
        5,
        Ok(
            {
                "missing": [],
                "head": HEAD,
                "conflicts": [CONFLICT],
                "record": "/var/log/yaim-helper: No space left on device",
                "rules_differ": "/etc/yaim/helper.yml was changed",
            }
        ),
    ),
}


def message(request: Request) -> dict[str, Any]:
    """The JSON object that says the same, written without the code under test."""
    match request:
        case Hello(number, version, cluster, node):
            return {
                "op": "hello",
                "id": number,
                "version": version,
                "cluster": cluster,
                "node": node,
            }
        case Add(number, interface, address, prefix, label, deadline_ns):
            return {
                "op": "add",
                "id": number,
                "interface": interface,
                "address": str(address),
                "prefix": prefix,
                "label": label,
                "deadline_ns": deadline_ns,
            }
        case Remove(number, address, connections):
            told = {} if connections == "leave" else {"connections": connections}
            return {"op": "remove", "id": number, "address": str(address), **told}
        case Clear(number, address):
            return {"op": "clear", "id": number, "address": str(address)}
        case Renew(number, deadline_ns):
            return {"op": "renew", "id": number, "deadline_ns": deadline_ns}
        case List(number, after):
            return {"op": "list", "id": number, "after": "" if after is None else str(after)}
        case Announce(number, address):
            return {"op": "announce", "id": number, "address": str(address)}


def accepted_or_none(packet: bytes) -> Request | None:
    try:
        return read_request(packet)
    except Malformed:
        return None


def said(packet: bytes) -> dict[str, Any]:
    """Without the one key that may be left out, if it says what goes without saying."""
    found = dict(json.loads(packet))
    if (found["op"], found.get("connections")) == ("remove", "leave"):
        del found["connections"]
    return found


def test_every_accepted_packet_of_the_vectors_means_what_it_should() -> None:
    assert {name: read_request(packet) for name, packet in ACCEPTED.items()} == REQUESTS


def test_an_accepted_packet_says_the_same_as_the_request() -> None:
    assert [said(packet) for packet in ACCEPTED.values()] == [
        message(REQUESTS[name]) for name in ACCEPTED
    ]


@pytest.mark.parametrize("vector", VECTORS["malformed"], ids=lambda vector: vector["name"])
def test_a_malformed_packet_of_the_vectors_is_refused(vector: dict[str, str]) -> None:
    with pytest.raises(Malformed):
        read_request(vector["packet"].encode())


@pytest.mark.parametrize(
    "packet",
    [
        b"[" * 1000,
        b"[" * 500 + b"]" * 500,
        b'{"op":' * 170,
        b'{"id": ' + b"[" * 400 + b"]" * 400 + b', "op": "remove"}',
    ],
)
def test_deep_nesting_is_malformed(packet: bytes) -> None:
    with pytest.raises(Malformed):
        read_request(packet)


@pytest.mark.parametrize(
    "packet",
    [
        b"\xff",
        ACCEPTED["remove"].replace(b"192.0.2.10", b"192.0.2.10\xff"),
        ACCEPTED["hello"].replace(b"db1", b"\xed\xa0\x80"),
        ACCEPTED["remove"].decode().encode("utf-16"),
        b"\xef\xbb\xbf" + ACCEPTED["remove"],
    ],
)
def test_what_is_not_plain_utf_8_is_malformed(packet: bytes) -> None:
    with pytest.raises(Malformed):
        read_request(packet)


def test_a_request_of_1024_bytes_is_accepted_and_one_of_1025_is_not() -> None:
    longest = ACCEPTED["remove"].ljust(MAX_REQUEST_BYTES)
    assert len(longest) == 1024
    assert read_request(longest) == REQUESTS["remove"]
    with pytest.raises(Malformed):
        read_request(longest + b" ")


@pytest.mark.parametrize("digits", [20, 900])
def test_a_long_number_is_malformed(digits: int) -> None:
    with pytest.raises(Malformed):
        read_request(b'{"deadline_ns": %s, "id": 5, "op": "renew"}' % (b"9" * digits))


@pytest.mark.parametrize("name", REQUESTS)
def test_every_key_of_a_request_is_needed(name: str) -> None:
    whole = message(REQUESTS[name])
    for key in whole.keys() - {"connections"}:
        with pytest.raises(Malformed):
            read_request(json.dumps({k: v for k, v in whole.items() if k != key}).encode())


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("value", [None, True, False, -1, 1.0, [], {}, "\n", "x" * 256, 2**64])
def test_a_value_of_a_wrong_kind_is_malformed_under_every_key(name: str, value: object) -> None:
    whole = message(REQUESTS[name])
    for key in whole:
        with pytest.raises(Malformed):
            read_request(json.dumps({**whole, key: value}).encode())


@pytest.mark.parametrize("interface", ["eth0\0", "\x1b[2J", "\x7f", ".", ".."])
def test_an_interface_that_cannot_be_is_malformed(interface: str) -> None:
    with pytest.raises(Malformed):
        read_request(json.dumps(message(REQUESTS["add, IPv4"]) | {"interface": interface}).encode())


@pytest.mark.parametrize(
    "address",
    [
        "",
        "192.0.2",
        "192.0.2.10/32",
        " 192.0.2.10",
        "192.0.2.10\n",
        "0x7f.1",
        "3221225994",
        "2001:db8:0::10",
        "2001:0db8::10",
        "2001:DB8::10",
        "::192.0.2.10",
        "::ffff:c000:20a",
        "fe80::1%1",
        "localhost",
        "١٩٢.0.2.10",
    ],
)
def test_an_address_in_another_form_is_malformed(address: str) -> None:
    with pytest.raises(Malformed):
        read_request(json.dumps(message(Remove(1, V4)) | {"address": address}).encode())


@given(st.binary(max_size=1200))
def test_arbitrary_bytes_are_malformed_or_a_request(packet: bytes) -> None:
    accepted_or_none(packet)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_arbitrary_json_is_malformed(value: object) -> None:
    assert accepted_or_none(json.dumps(value).encode()) is None


@given(
    request=st.sampled_from(list(REQUESTS.values())),
    changes=st.dictionaries(
        st.sampled_from(
            [
                *("op", "id", "address", "interface", "prefix", "label", "deadline_ns", "after"),
                *("connections", "x"),
            ]
        ),
        st.sampled_from(["hello", "remove", "clear", "", "fe80::1", "::", "0.0.0.0"])
        | st.sampled_from(["reset", "leave"])
        | st.text(max_size=20)
        | st.integers(min_value=-1, max_value=2**64)
        | st.ip_addresses().map(str)
        | st.none()
        | st.floats(),
        max_size=2,
    ),
)
def test_what_is_accepted_says_exactly_what_the_packet_says(
    request: Request, changes: dict[str, object]
) -> None:
    packet = json.dumps(message(request) | changes).encode()
    read = accepted_or_none(packet)
    assert read is None or message(read) == said(packet)


def test_every_reply_of_the_vectors_is_written_byte_by_byte() -> None:
    assert {name: write_reply(*sent) for name, sent in SENT.items()} == REPLIES


def test_a_list_is_written_byte_by_byte() -> None:
    held: dict[str, object] = {
        "address": "192.0.2.10",
        "interface": "eth0",
        "prefix": 32,
        "deadline_ns": 1234567890123,
    }
    left = {"address": "2001:db8::10", "interface": "eth0", "prefix": 128, "deadline_ns": None}
    (vector,) = VECTORS["lists"]
    written = write_reply(2, Ok({"addresses": [held, left], "more": False}))
    assert written == vector["packet"].encode()


@given(st.text(), st.text())
def test_a_reply_is_one_json_object_whatever_its_reason(code: str, reason: str) -> None:
    assert json.loads(write_reply(7, Refused(code, reason))) == {
        "id": 7,
        "result": "refused",
        "code": code,
        "reason": reason,
    }
