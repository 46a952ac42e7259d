"""Events of the history, as values."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yaim.core.model import Address, NodeName, Revision, frozen_mapping
from yaim.dcs.history import MOST_ADDRESSES, parts_of, read_event, write_event
from yaim.dcs.operate import HistoryEvent
from yaim.dcs.records import NotUnderstood

A, B, C = (ip_address(each) for each in ("192.0.2.10", "192.0.2.11", "2001:db8::1"))
N1, N2 = NodeName("n1"), NodeName("n2")
EVENT = HistoryEvent(
    at=datetime(2026, 12, 1, 9, 30, 0, 0, UTC),
    kind="held",
    nodes=(N1,),
    addresses=(A, B, C),
    by_node=frozen_mapping({A: N2, C: N2}),
    reason="handed over by n2",
    by="",
    revision=Revision(7),
)


def test_an_event_stands_there_as_in_the_documentation() -> None:
    assert json.loads(write_event(EVENT)) == {
        "version": 1,
        "at": "2026-12-01T09:30:00Z",
        "kind": "held",
        "nodes": ["n1"],
        "addresses": {"n2": ["192.0.2.10", "2001:db8::1"], "": ["192.0.2.11"]},
        "reason": "handed over by n2",
        "by": "",
    }


@pytest.mark.parametrize("addresses", [(), (A,), (A, B, C)])
def test_what_is_written_is_read(addresses: tuple[Address, ...]) -> None:
    by_node = {each: node for each, node in EVENT.by_node.items() if each in addresses}
    event = replace(EVENT, addresses=addresses, by_node=frozen_mapping(by_node))
    assert read_event(write_event(event), Revision(7)) == event


def test_an_event_of_many_addresses_is_several_that_tell_of_each_once() -> None:
    addresses = tuple(ip_address(f"198.51.{n // 256}.{n % 256}") for n in range(2000))
    event = replace(EVENT, addresses=addresses[::-1], by_node=frozen_mapping({addresses[5]: N2}))
    parts = [read_event(write_event(part), Revision(7)) for part in parts_of(event)]
    assert len(parts) == 2000 / MOST_ADDRESSES
    assert tuple(each for part in parts for each in part.addresses) == addresses
    assert [part.by_node for part in parts if part.by_node] == [{addresses[5]: N2}]
    assert {(part.kind, part.reason, part.at) for part in parts} == {
        (EVENT.kind, EVENT.reason, EVENT.at)
    }
    assert max(len(write_event(part)) for part in parts_of(event)) < 8000


def test_words_are_short_and_do_not_steer_a_terminal() -> None:
    event = replace(EVENT, reason="\x1b[2J" + "x" * 9000, by="y" * 9000, kind="z" * 9000)
    read = read_event(write_event(event), Revision(7))
    assert read.reason.startswith("?[2Jxxx")
    assert list(map(len, (read.reason, read.by, read.kind))) == [300, 100, 40]
    told = json.loads(write_event(EVENT)) | {"kind": "\x1b[2J"}
    assert read_event(json.dumps(told).encode(), Revision(7)).kind == "?[2J"


@pytest.mark.parametrize(
    "change",
    [
        *({"version": 2}, {"version": None}, {"at": "yesterday"}, {"at": 1}),
        *({"at": "2026-99-01T09:30:00Z"}, {"nodes": 1}, {"nodes": ["a b"]}, {"nodes": [1]}),
        *({"addresses": []}, {"addresses": {"n1": ["x"]}}, {"addresses": {"a b": ["192.0.2.1"]}}),
        {"addresses": {"n1": [1]}},
    ],
)
def test_what_is_of_another_form_is_not_understood(change: dict[str, object]) -> None:
    told = json.loads(write_event(EVENT)) | change
    with pytest.raises(NotUnderstood):
        read_event(json.dumps(told).encode(), Revision(7))


@given(st.binary(max_size=100))
def test_whatever_stands_there_is_read_or_refused(value: bytes) -> None:
    with pytest.raises(NotUnderstood):
        read_event(value, Revision(7))
