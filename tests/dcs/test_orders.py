"""What operators have asked for, as values."""

import json
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from yaim.core.model import Member, Move, NodeName, Order, Pin, Revision, Weight
from yaim.dcs.orders import (
    MOST_BY,
    MOST_REASON,
    read_member,
    read_move,
    read_order,
    read_pin,
    read_weight,
    write_member,
    write_order,
    write_pin,
    write_weight,
    written_time,
)
from yaim.dcs.records import NotUnderstood

NOW = "2026-12-01T09:30:00Z"
DB1, REVISION = NodeName("db1"), Revision(7)


def test_a_drain_stands_there_as_in_the_documentation() -> None:
    assert json.loads(write_order(Order("root@db1", "a disk", NOW, "", REVISION))) == {
        "version": 1,
        "by": "root@db1",
        "reason": "a disk",
        "at": NOW,
        "until": "",
    }


def test_a_member_stands_there_as_in_the_documentation() -> None:
    assert json.loads(write_member(Member(NOW, False, NOW, "0.9"))) == {
        "version": 1,
        "first_seen": NOW,
        "stopped": False,
        "at": NOW,
        "yaim": "0.9",
    }


def test_a_time_is_told_in_utc_and_with_seconds() -> None:
    at = datetime(2026, 12, 1, 9, 30, 0, 999_999, UTC)
    assert written_time(at) == NOW
    assert written_time(at.astimezone(timezone(timedelta(hours=2)))) == NOW


def test_what_is_for_people_only_is_left_out_where_it_is_of_another_form() -> None:
    value = {"version": 1, "by": 1, "reason": None, "at": "yesterday", "until": ["now"]}
    assert read_order(json.dumps(value).encode(), REVISION) == Order(revision=REVISION)


def test_words_are_short_and_do_not_steer_a_terminal() -> None:
    order = Order("x" * 1000, "\x1b[2J" + "y" * 1000, NOW, NOW, REVISION)
    read = read_order(write_order(order), REVISION)
    assert read == Order("x" * MOST_BY, "?[2J" + "y" * (MOST_REASON - 4), NOW, NOW, REVISION)
    raw = json.dumps({"version": 1, "by": "\x1b[2J", "reason": "z" * 9000}).encode()
    assert read_order(raw, REVISION) == Order("?[2J", "z" * MOST_REASON, revision=REVISION)


WORDS = st.text("abcXYZ019 -_.:,äß€漢字😀", max_size=50)
ORDERS = st.builds(Order, WORDS, WORDS, st.sampled_from(["", NOW]), st.just(""), st.just(REVISION))


@given(ORDERS, st.integers(1, 100), st.booleans())
def test_what_is_written_is_read(order: Order, weight: int, is_stopped: bool) -> None:
    assert read_order(write_order(order), REVISION) == order
    assert read_pin(write_pin(Pin(DB1, order)), REVISION) == Pin(DB1, order)
    assert read_move(write_pin(Move(DB1, order)), REVISION) == Move(DB1, order)
    assert read_weight(write_weight(Weight(weight, order)), REVISION) == Weight(weight, order)
    member = Member(order.at, is_stopped, order.at, "0.9")
    assert read_member(write_member(member), REVISION) == member


@given(
    st.binary(max_size=100)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
        lambda each: (
            st.lists(each, max_size=3)
            | st.dictionaries(
                st.sampled_from(["version", "node", "weight", "by", "at", "stopped", "first_seen"]),
                each,
            )
        ),
        max_leaves=9,
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_stands_there_is_read_or_refused(value: bytes) -> None:
    assert isinstance(read_order(value, REVISION), Order)
    for read in (read_pin, read_move, read_weight, read_member):
        try:
            read(value, REVISION)
        except NotUnderstood as error:
            assert str(error)
