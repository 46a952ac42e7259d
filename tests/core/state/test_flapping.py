"""How long a node waits that becomes unhealthy again and again."""

from hypothesis import given
from hypothesis import strategies as st

from yaim.core.model import Boottime
from yaim.core.state.flapping import FIRST_WAIT_S, FORGET_S, Flaps

MAX_WAIT_S = 300.0


def after_falls(*healthy_for_s: float) -> Flaps:
    """Healthy for so long, then unhealthy for a second, and so on; in the end healthy."""
    now = 1000.0
    flaps = Flaps().after(True, Boottime(now), MAX_WAIT_S)
    for seconds in healthy_for_s:
        now += seconds
        flaps = flaps.after(False, Boottime(now), MAX_WAIT_S)
        now += 1.0
        flaps = flaps.after(True, Boottime(now), MAX_WAIT_S)
        assert flaps.recovered_at == now
    return flaps


def wait_after(*healthy_for_s: float) -> float:
    return after_falls(*healthy_for_s).wait_s(MAX_WAIT_S)


def test_the_first_recovery_is_believed_at_once_and_each_further_one_later() -> None:
    waits = [wait_after(*[5.0] * falls) for falls in range(9)]
    assert waits == [0, 0, 10, 20, 40, 80, 160, 300, 300]


def test_falls_are_forgotten_after_unbroken_health_that_begins_with_the_end_of_the_wait() -> None:
    assert wait_after(5, FORGET_S - 1) == FIRST_WAIT_S
    assert wait_after(5, FORGET_S) == 0
    assert wait_after(5, 5, FIRST_WAIT_S + FORGET_S - 1) == 2 * FIRST_WAIT_S
    assert wait_after(5, 5, FIRST_WAIT_S + FORGET_S) == 0
    assert wait_after(5, 5, FIRST_WAIT_S + FORGET_S, 5) == FIRST_WAIT_S


def test_a_start_is_no_recovery() -> None:
    started = Flaps().after(False, Boottime(1.0), MAX_WAIT_S).after(True, Boottime(2.0), MAX_WAIT_S)
    assert started.falls == 0
    once = started.after(False, Boottime(3.0), MAX_WAIT_S).after(True, Boottime(4.0), MAX_WAIT_S)
    assert once.wait_s(MAX_WAIT_S) == 0


def test_where_the_longest_wait_is_none_nobody_waits() -> None:
    assert after_falls(*[5.0] * 9).wait_s(0.0) == 0
    assert after_falls(*[5.0] * 9).waits_until(0.0) == after_falls(*[5.0] * 9).recovered_at


def test_the_longest_wait_may_be_shorter_than_the_first_one() -> None:
    assert after_falls(5, 5).wait_s(2.5) == 2.5


@given(st.integers(2, 10**9))
def test_no_wait_is_longer_than_the_longest_however_long_it_flaps(falls: int) -> None:
    flaps = Flaps(True, falls, Boottime(1e6))
    assert FIRST_WAIT_S <= flaps.wait_s(MAX_WAIT_S) <= MAX_WAIT_S
    assert flaps.after(False, Boottime(1e6 + 1), MAX_WAIT_S).falls == falls + 1
