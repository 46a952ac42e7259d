"""`yaim history`: events chosen, shown as lines, for programs and as a picture."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from tests.steer.clusters import at, name
from tests.steer.schemas import validated
from yaim.core.model import Address, NodeName, Revision, frozen_mapping
from yaim.dcs.operate import HistoryEvent
from yaim.steer.events import Chosen, event_as_json, event_line
from yaim.steer.picture import Bar, bars_of, picture

N1, N2, N3 = name(1), name(2), name(3)
START = datetime(2026, 12, 1, 3, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def event(
    seconds: float,
    kind: str,
    node: NodeName | None,
    *addresses: Address,
    others: Mapping[Address, NodeName] | None = None,
    reason: str = "",
    by: str = "",
) -> HistoryEvent:
    return HistoryEvent(
        after(seconds),
        kind,
        (node,) if node is not None else (),
        addresses,
        frozen_mapping(others or {}),
        reason,
        by,
        Revision(int(seconds) + 1),
    )


DRAIN = event(10, "drain", N1, reason="new disk", by="alice@db9")
RELEASED = event(11, "released", N1, at(2), at(1), others={at(1): N2}, reason="drained")
HELD = event(12, "held", N2, at(1), others={at(1): N1}, reason="handed over by n1")
LOST = event(20, "lost", N3, reason="its lease has ended")
ALL = [DRAIN, RELEASED, HELD, LOST]


def test_an_event_is_a_line() -> None:
    assert [event_line(each) for each in ALL] == [
        "2026-12-01T03:00:10Z  n1          drain        new disk (by alice@db9)",
        "2026-12-01T03:00:11Z  n1          released     192.0.2.1 (to n2), 192.0.2.2: drained",
        "2026-12-01T03:00:12Z  n2          held         192.0.2.1 (from n1): handed over by n1",
        "2026-12-01T03:00:20Z  n3          lost         its lease has ended",
    ]


def test_many_addresses_are_told_in_short() -> None:
    line = event_line(event(0, "held", N1, *(at(n) for n in range(1, 100))))
    assert line.endswith("192.0.2.8, 91 more")


def test_an_event_of_a_command_without_a_node_is_a_line_too() -> None:
    line = event_line(event(0, "pause", None, reason="vacuum", by="alice@db9"))
    assert line == "2026-12-01T03:00:00Z  -           pause        vacuum (by alice@db9)"


def test_events_are_chosen_by_node_address_and_kind() -> None:
    def chosen(**by: frozenset[object]) -> list[HistoryEvent]:
        return [each for each in ALL if Chosen(**by).has(each)]  # type: ignore[arg-type]

    assert chosen() == ALL
    assert chosen(nodes=frozenset({N2})) == [RELEASED, HELD]
    assert chosen(addresses=frozenset({at(2)})) == [RELEASED]
    assert chosen(kinds=frozenset({"lost", "drain"})) == [DRAIN, LOST]
    assert chosen(nodes=frozenset({N3}), kinds=frozenset({"held"})) == []


def test_events_are_told_for_programs() -> None:
    told = validated(
        {
            "schema": "yaim.history/1",
            "time": "2026-12-01T03:01:00Z",
            "cluster": "/service/yaim/",
            "revision": 12,
            "events": list(map(event_as_json, ALL)),
            "error": None,
        }
    )
    assert told["events"][1] == {
        "time": "2026-12-01T03:00:11Z",
        "revision": 12,
        "kind": "released",
        "nodes": ["n1"],
        "addresses": [
            {"address": "192.0.2.1", "other": "n2"},
            {"address": "192.0.2.2", "other": None},
        ],
        "reason": "drained",
        "by": None,
    }


# --- the picture ---------------------------------------------------------------------------------


def test_bars_are_from_held_to_released() -> None:
    bars = bars_of(ALL, {at(1): N2, at(3): N3}, START, after(60))
    assert bars == (
        Bar(at(1), N1, START, after(11)),
        Bar(at(1), N2, after(12), after(60)),
        Bar(at(2), N1, START, after(11)),
        Bar(at(3), N3, START, after(60)),
    )


def test_a_node_that_is_lost_has_nothing_any_more() -> None:
    events = [event(1, "held", N3, at(1)), LOST, event(25, "held", N2, at(1))]
    assert bars_of(events, {at(1): N2}, START, after(60)) == (
        Bar(at(1), N3, after(1), after(20)),
        Bar(at(1), N2, after(25), after(60)),
    )


def test_a_release_that_was_not_told_ends_with_the_next_holder() -> None:
    events = [event(1, "held", N1, at(1)), event(5, "held", N2, at(1))]
    assert bars_of(events, {}, START, after(60))[0] == Bar(at(1), N1, after(1), after(5))


def test_what_was_before_the_time_begins_with_it() -> None:
    events = [event(1, "held", N1, at(1)), event(40, "released", N1, at(1))]
    assert bars_of(events, {}, after(30), after(60)) == (Bar(at(1), N1, after(30), after(40)),)


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).iter() if each.text]


def test_the_picture_has_a_lane_for_each_address_and_names_nothing_unsafe() -> None:
    evil = event(30, "drain", N1, reason='<script>"&', by="a")
    svg = picture([*ALL, evil], {at(1): N2}, START, after(60))
    told = texts(svg)
    assert "192.0.2.1" in told
    assert any("<script>" in each for each in told)
    assert "<script>" not in svg
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')


def test_with_many_addresses_there_is_a_lane_for_each_node() -> None:
    events = [event(1, "held", N1, *(at(n) for n in range(1, 60)))]
    told = texts(picture(events, {}, START, after(60)))
    assert "n1" in told
    assert "192.0.2.1" not in told
    assert any(each.startswith("n1: 59 addresses") for each in told)


def test_a_history_with_nothing_in_it_is_a_picture_too() -> None:
    assert ElementTree.fromstring(picture([], {}, START, after(60))).tag.endswith("svg")
