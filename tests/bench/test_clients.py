"""How the benchmark of clients reads what it has seen."""

import math

import pytest

from bench.client_traffic import APP, BUSY, IDLE, PGBENCH_C, PSQL, Session
from bench.clients import KEEPALIVED, LEAVE, RESET, Outcome, learnt_s, misses, table, unmoved

GONE = AT = 10.0
UNTIL = 20.0


def every_100_ms(*spans: tuple[float, float]) -> list[float]:
    return [
        start + number / 10 for start, end in spans for number in range(round(10 * (end - start)))
    ]


@pytest.mark.parametrize("kind", [IDLE, PSQL, PGBENCH_C])
def test_who_is_told_learns_when_it_is_told(kind: str) -> None:
    session = Session(kind, "192.0.2.11", [8.0], ended_at=10.05)
    assert learnt_s(session, GONE, AT, UNTIL) == pytest.approx(0.05)


def test_who_is_told_just_before_the_address_goes_has_not_waited() -> None:
    assert learnt_s(Session(IDLE, "192.0.2.11", [8.0], ended_at=9.999), GONE, AT, UNTIL) == 0.0


def test_who_waits_and_is_told_nothing_never_learns() -> None:
    assert learnt_s(Session(IDLE, "192.0.2.11", [8.0]), GONE, AT, UNTIL) == math.inf


@pytest.mark.parametrize("kind", [BUSY, APP, PGBENCH_C])
def test_of_those_that_ask_the_longest_silence_counts(kind: str) -> None:
    session = Session(kind, "192.0.2.11", every_100_ms((8.0, 10.0), (13.0, 20.0)))
    assert learnt_s(session, GONE, AT, UNTIL) == pytest.approx(3.1)


def test_what_was_before_does_not_count() -> None:
    session = Session(BUSY, "192.0.2.11", every_100_ms((4.0, 5.0), (8.0, 20.0)))
    assert learnt_s(session, GONE, AT, UNTIL) == pytest.approx(0.1)


def test_who_has_no_answer_in_the_end_gets_none() -> None:
    assert learnt_s(Session(BUSY, "192.0.2.11", every_100_ms((8.0, 10.0))), GONE, AT, UNTIL) == (
        math.inf
    )


def test_the_bound_is_for_those_that_wait_and_for_a_node_that_resets() -> None:
    late = Outcome({IDLE: math.inf, BUSY: 3.0}, left=(0, 0))
    good = Outcome({IDLE: 0.02, PSQL: 0.03, BUSY: 3.0}, left=(0, 0))
    assert misses({("stop", RESET): [good]}) == []
    assert misses({("stop", LEAVE): [late], ("stop", KEEPALIVED): [late]}) == []
    assert misses({("power off", RESET): [late]}) == []
    assert misses({("stop", RESET): [late]}) == ["stop: idle learns after never"]


def test_sessions_that_are_left_and_connections_that_end_without_a_move_are_misses() -> None:
    left = Outcome({IDLE: 0.02}, left=(1, 0), lost=2)
    assert misses({("stop", RESET): [left]}) == [
        "stop, reset: a connection ended whose address did not move",
        "stop: sessions are left on the old node",
    ]


def test_the_table_has_medians_and_the_most_that_was_left() -> None:
    rounds = [
        Outcome({IDLE: seconds}, left=(number, 1)) for number, seconds in ((3, 0.2), (2, 0.1))
    ]
    rounds.append(Outcome({IDLE: math.inf}, left=(1, 4)))
    *_, row = table({("stop", RESET): rounds})
    assert row.startswith("| stop | reset | 0.20 (-) | - |") and row.endswith("| 3 / 4 |")


def test_connections_whose_address_did_not_move_are_summed_over_the_rounds() -> None:
    rounds = {("helper restarted", RESET): [Outcome(kept=3, lost=1), Outcome(kept=4)]}
    assert unmoved(rounds)[2:] == ["| helper restarted | reset | 7 | 1 |"]
    assert table(rounds)[2:] == []
