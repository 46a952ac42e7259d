"""What the record says of the fence."""

from ipaddress import ip_address

from yaim_helper.owners import Owner, Peer
from yaim_helper.protocol import Add, Clear, Ok, Remove
from yaim_helper.record.entries import (
    MAX_HELD,
    Entry,
    fence_lost,
    fence_made,
    held,
    latest,
    own,
    renewals,
    result,
    started,
)

A = ip_address("192.0.2.1")
ONE, TWO = Owner(7, "a"), Owner(7, "b")
PEER = Peer(pid=9, uid=7, gid=7)
ADD = Add(5, "eth0", A, 32, "", 4_000_000_000)


def of_fence(entry: Entry) -> Entry:
    return {key: entry[key] for key in ("fence", "deadline_ns") if key in entry}


def test_a_start_tells_whether_the_fence_is_in_force_and_if_not_why() -> None:
    told = [started(1, 2, 3, "s", None, why)["fence"] for why in (None, "no nf_tables")]
    assert told == [
        {"in_force": True, "reason": ""},
        {"in_force": False, "reason": "no nf_tables"},
    ]
    assert started(1, 2, 3, "s", None)["fence"]["in_force"] is False


def test_a_result_tells_whether_the_address_is_fenced_and_until_when() -> None:
    told = result(PEER, "a", ADD, Ok({"was": "absent"}), is_fenced=True, deadline=9.5)
    assert of_fence(told) == {"fence": True, "deadline_ns": 9_500_000_000}
    assert of_fence(result(PEER, "a", ADD, Ok({}), is_fenced=False)) == {
        **{"fence": False, "deadline_ns": 4_000_000_000}
    }
    assert of_fence(result(PEER, "a", ADD, Ok({}))) == {"deadline_ns": 4_000_000_000}
    removed = result(PEER, "a", Remove(6, A), Ok({"was": "present"}), is_fenced=True, deadline=2.0)
    assert of_fence(removed) == {"fence": True, "deadline_ns": 2_000_000_000}
    assert of_fence(result(PEER, "a", Remove(6, A), Ok({}))) == {}


def test_a_result_tells_how_many_connections_were_ended() -> None:
    ended = {"was": "present", "reset": 7, "left": 2}
    told = result(PEER, "a", Remove(6, A, "reset"), Ok(ended))
    assert told.items() >= {"connections": "reset", **ended}.items()
    assert "connections" not in result(PEER, "a", Remove(6, A), Ok({"was": "present"}))
    cleared = result(PEER, "a", Clear(7, A), Ok({"cleared": 3, "left": 0}))
    assert cleared.items() >= {"op": "clear", "address": str(A), "cleared": 3, "left": 0}.items()


def test_what_the_helper_does_of_itself_tells_it_too() -> None:
    told = own("expire", A, "eth0", ONE, "removed", is_fenced=False, deadline=2.0)
    assert of_fence(told) == {"fence": False, "deadline_ns": 2_000_000_000}
    assert of_fence(own("expire", A, "eth0", ONE, "removed")) == {}


def test_of_each_owner_it_is_told_whether_its_fence_is_in_force() -> None:
    deadlines = {ONE: 2.0, TWO: 3.0}
    assert [each["fence"] for each in latest(deadlines, {ONE: 1.5})] == [True, False]
    assert [each.get("live_ns") for each in latest(deadlines, {ONE: 1.5})] == [1_500_000_000, None]
    assert [each["fence"] for each in renewals({}, deadlines, {TWO})["owners"]] == [False, True]
    assert not any("fence" in each for each in latest(deadlines))


def test_of_what_is_held_it_is_told_beside_the_rows() -> None:
    """The versions before the fence take no row for one that has not six columns."""
    addresses = [ip_address(f"10.0.{n // 250}.{n % 250 + 1}") for n in range(MAX_HELD + 1)]
    rows = [(each, "eth0", 32, ONE, 2.0, n > 0) for n, each in enumerate(addresses)]
    first, second = held(rows)
    assert {len(row) for entry in (first, second) for row in entry["addresses"]} == {6}
    assert (first["fence"], second["fence"]) == ([False, *[True] * (MAX_HELD - 1)], [True])
    mixed = held([(A, "eth0", 32, None, None), (A, "eth1", 32, ONE, 2.0, True)])
    assert mixed[0]["fence"] == [None, True]
    assert "fence" not in held([(A, "eth0", 32, ONE, 2.0)])[0]
    assert held([]) == [{"type": "held", "addresses": [], "more": False}]


def test_a_fence_that_others_have_taken_is_told_before_and_after_it_is_made_anew() -> None:
    assert [fence_lost(ONE, 3, "flushed"), fence_made(ONE, 3, "flushed")] == [
        {
            **{"type": "fence", "uid": 7, "cluster": "a"},
            **{"addresses": 3, "outcome": outcome, "reason": "flushed"},
        }
        for outcome in ("lost", "made")
    ]
