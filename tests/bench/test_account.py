"""What the accounting says of records made by hand: that it finds what must not be. Times are in
seconds; `settle_s` is 10."""

from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from bench.account import (
    UNATTRIBUTED,
    Incident,
    Uncovered,
    expected,
    is_beyond_bound,
    longest_gaps,
    uncovered,
)
from yaim.lab.record import Change, Interval
from yaim.lab.spans import Span

A, B = ip_address("192.0.2.11"), ip_address("2001:db8::11")
NODES = ("n1", "n2")
SETTLE_S = 10.0
WHOLE = (0.0, 100.0)


def down(node: str, start: float, end: float) -> Incident:
    return Incident(f"{node} down", start, end, frozenset({node}), disturbs_until=end)


def etcd_down(start: float, end: float, disturbs_until: float) -> Incident:
    return Incident("etcd", start, end, is_of_etcd=True, disturbs_until=disturbs_until)


HARMLESS = Incident("SIGHUP", 10, 90, frozenset(NODES))


@pytest.mark.parametrize(
    ("incidents", "spans"),
    [
        ([], [WHOLE]),
        ([HARMLESS], [WHOLE]),
        ([down("n1", 20, 40)], [WHOLE]),
        ([down("n1", 20, 40), down("n2", 45, 50)], [(0, 45), (50, 100)]),
        ([down("n1", 20, 40), down("n2", 55, 60)], [WHOLE]),
        ([down("n1", 20, 40), down("n1", 45, 50), down("n2", 48, 49)], [(0, 48), (59, 100)]),
        ([etcd_down(20, 40, 40)], [(0, 20), (50, 100)]),
        ([etcd_down(20, 40, 20)], [(0, 20), (30, 100)]),
        ([etcd_down(0, 5, 5), etcd_down(95, 99, 99)], [(15, 95)]),
        (
            [down("n1", 0, 60), down("n2", 40, 100), etcd_down(20, 25, 25)],
            [(0, 20), (35, 40), (70, 100)],
        ),
        ([down("n1", 0, 100), down("n2", 0, 100)], []),
    ],
)
def test_addresses_are_expected_to_be_held_when_a_node_and_etcd_have_been_well_for_long(
    incidents: Sequence[Incident], spans: list[Span]
) -> None:
    assert expected(incidents, NODES, WHOLE, SETTLE_S) == spans


@pytest.mark.parametrize(
    ("interval", "due", "found"),
    [
        (Interval(A, 20, 29), [WHOLE], Uncovered(9, 9, 0)),
        (Interval(A, 20, 45), [WHOLE], Uncovered(25, 25, 15)),
        (Interval(A, 20, 45), [], Uncovered(25, 0, 0)),
        (Interval(A, 20, 45), [(0, 25)], Uncovered(25, 5, 0)),
        (Interval(A, 20, 45), [(0, 32), (40, 100)], Uncovered(25, 17, 7)),
    ],
)
def test_an_address_without_a_holder_counts_when_it_is_so_for_too_long(
    interval: Interval, due: list[Span], found: Uncovered
) -> None:
    assert uncovered([interval], [], due, SETTLE_S) == found
    assert is_beyond_bound(interval, [], due, SETTLE_S) is (found.beyond_bound_s > 0)


@pytest.mark.parametrize(
    ("incidents", "beyond_bound_s"),
    [
        ([HARMLESS], 15),
        ([down("n1", 19, 60)], 15),
        ([down("n1", 25, 60)], 10),
        ([down("n1", 31, 60)], 15),
        ([down("n1", 25, 26), down("n1", 28, 60)], 10),
        ([down("n2", 34, 60), down("n1", 25, 26)], 1),
        ([down("n2", 36, 60), down("n1", 25, 26)], 10),
        ([etcd_down(25, 60, 60)], 15),
    ],
)
def test_it_may_be_so_for_longer_when_one_node_after_the_other_fails_meanwhile(
    incidents: Sequence[Incident], beyond_bound_s: float
) -> None:
    """Whose turn it is to take it is not known from outside."""
    interval = Interval(A, 20, 45)
    assert uncovered([interval], incidents, [WHOLE], SETTLE_S) == Uncovered(25, 25, beyond_bound_s)


def test_seconds_are_summed_over_the_addresses() -> None:
    intervals = [Interval(A, 20, 32), Interval(A, 50, 51), Interval(B, 20, 33)]
    assert uncovered(intervals, [], [WHOLE], SETTLE_S) == Uncovered(26, 26, 5)


CHANGES = [
    Change(0, "n1", A, True),
    Change(0, "n2", B, True),
    Change(50, "n1", A, False),
    Change(51, "n2", A, True),
]


def kinds(gap: Interval, *incidents: Incident) -> list[str]:
    return list(longest_gaps([gap], CHANGES, incidents, SETTLE_S, slack_s=0.5))


@pytest.mark.parametrize(
    ("gap", "incidents", "kind"),
    [
        (Interval(A, 20, 25), [down("n1", 19, 21)], "n1 down"),
        (Interval(A, 20, 25), [down("n1", 20.4, 21)], "n1 down"),
        (Interval(A, 20, 25), [down("n1", 20.6, 21)], UNATTRIBUTED),
        (Interval(A, 20, 25), [down("n1", 5, 10)], "n1 down"),
        (Interval(A, 20, 25), [down("n1", 5, 9)], UNATTRIBUTED),
        (Interval(A, 20, 25), [down("n2", 19, 21)], UNATTRIBUTED),
        (Interval(B, 20, 25), [down("n2", 19, 21)], "n2 down"),
        (Interval(A, 60, 65), [down("n1", 59, 61)], UNATTRIBUTED),
        (Interval(A, 60, 65), [down("n2", 59, 61)], "n2 down"),
        (Interval(A, 50, 65), [down("n1", 46, 47), down("n2", 48, 66)], "n2 down"),
        (Interval(A, 20, 25), [etcd_down(18, 22, 22)], "etcd"),
        (Interval(A, 20, 25), [etcd_down(18, 22, 22), down("n1", 19, 20)], "etcd"),
        (Interval(A, 20, 25), [down("n1", 19, 20), etcd_down(24, 30, 30)], "etcd"),
        (Interval(A, 20, 25), [etcd_down(14, 19, 19), down("n1", 19, 20)], "n1 down"),
        (Interval(A, 20, 25), [etcd_down(18, 22, 18), down("n1", 19, 20)], "n1 down"),
        (Interval(A, 20, 25), [down("n1", 17, 19), etcd_down(18, 22, 22)], "etcd"),
        (
            Interval(A, 20, 25),
            [Incident("by hand", 19, 22, frozenset({"n2"}), False, A)],
            "by hand",
        ),
        (
            Interval(B, 20, 25),
            [Incident("by hand", 19, 22, frozenset({"n2"}), False, A)],
            UNATTRIBUTED,
        ),
        (Interval(A, 20, 25), [], UNATTRIBUTED),
    ],
)
def test_a_gap_is_put_down_to_the_last_fault_of_a_holder_or_of_etcd(
    gap: Interval, incidents: list[Incident], kind: str
) -> None:
    assert kinds(gap, *incidents) == [kind]


def test_the_longest_gap_of_each_kind_is_told() -> None:
    short, long, other = Interval(A, 20, 21), Interval(A, 22, 25), Interval(B, 20, 29)
    found = longest_gaps([short, long, other], CHANGES, [down("n1", 19, 23)], SETTLE_S, 0.5)
    assert found == {"n1 down": long, UNATTRIBUTED: other}
