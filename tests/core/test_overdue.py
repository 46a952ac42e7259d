"""What a kernel keeps after its deadline: it is looked for, and its lease and mark are kept."""

from ipaddress import ip_address

import pytest

from tests.core.play import (
    LEASE,
    TTL_S,
    A,
    B,
    Play,
    helper_ready,
    holding,
    mark,
    requests,
    writes,
)
from yaim.core.actions import (
    Action,
    AdvertiseNode,
    End,
    KeepLease,
    Level,
    LookForAddresses,
    Outcome,
)
from yaim.core.deadline import HELPER_GRACE_S
from yaim.core.events import (
    AddressesSeen,
    AddressOnInterface,
    Event,
    HelperLost,
    LeaseKept,
    LookFailed,
    RestartRequested,
    StopRequested,
)
from yaim.core.model import (
    Boottime,
)
from yaim.core.overdue import LOOK_AGAIN_S, REPORT_AFTER_S
from yaim.core.state.addresses import Phase


def test_what_is_not_seen_when_deadline_and_grace_are_over_is_believed_gone() -> None:
    play = holding(A)
    deadline = play.deadline()
    play.settle(play.tell(HelperLost("it hung up")))
    play.after(1.0)
    play.tell(LeaseKept(LEASE, TTL_S, Boottime(play.now)))
    assert play.tell(play.unhealthy()) == []
    play.now = deadline + HELPER_GRACE_S - 0.01
    assert LookForAddresses() not in play.tell()
    play.now = deadline + HELPER_GRACE_S
    assert requests(play.tell()) == [LookForAddresses]
    (write,) = play.after(0.1, AddressesSeen(frozenset({B})))
    assert isinstance(write, AdvertiseNode)
    assert write.release == (mark(A, 4),)


def overdue() -> Play:
    """An unhealthy node without a helper, which keeps its lease. It has just asked to look for A
    and B, whose deadlines are over."""
    play = holding(A, B)
    deadline = play.deadline()
    play.tell(HelperLost("no answer within 2 s"), play.unhealthy())
    play.after(1.0, play.kept())
    play.after(1.0, play.kept())
    play.now = deadline + HELPER_GRACE_S
    assert play.tell() == [LookForAddresses()]
    return play


def test_an_address_that_a_kernel_keeps_after_its_deadline_keeps_its_mark_and_lease() -> None:
    """It holds its routing lock: neither the helper nor the kernel itself can remove it."""
    play = overdue()
    for _ in range(20):
        actions = play.after(0.1, play.kept(), AddressesSeen(frozenset({A, B})))
        assert not writes(actions)
        assert LookForAddresses() in play.after(LOOK_AGAIN_S)
    assert play.state.lease.current is not None and play.state.lease.current.deadline > play.now
    assert play.state.addresses.known[A].phase is Phase.UP
    (write,) = writes(play.tell(AddressesSeen(frozenset())))
    assert isinstance(write, AdvertiseNode)
    assert {each.address for each in write.release} == {A, B}


def test_what_is_gone_does_not_wait_for_long_for_what_a_kernel_keeps() -> None:
    """Found in a review: one address that could not be removed kept all others on nobody."""
    play = overdue()
    asked: list[Action] = []
    for _ in range(20):
        asked += play.after(0.1, play.kept(), AddressesSeen(frozenset({A})))
        asked += play.after(LOOK_AGAIN_S)
    (write,) = writes(asked)
    assert play.now >= play.state.addresses.known[A].deadline + HELPER_GRACE_S + REPORT_AFTER_S
    assert isinstance(write, AdvertiseNode)
    assert not write.advertisement.is_healthy
    assert [each.address for each in write.release] == [B]


def test_what_a_kernel_keeps_after_the_deadline_is_told_once_and_again_each_minute() -> None:
    play = overdue()
    play.tell(AddressesSeen(frozenset({A})))
    told = play.said(Level.WARNING)
    for second in range(70):
        play.now += 1.0
        play.settle(play.tell(AddressesSeen(frozenset({A}))) and [])
        said = play.said(Level.WARNING)[len(told) :]
        assert len(said) == (1 if second < 60 else 2)
    assert said[0].startswith("still on the interface 1 s after the deadline: 192.0.2.10; neither")
    assert said[1].startswith("still on the interface 61 s after the deadline")
    play.tell(AddressesSeen(frozenset()))
    assert play.said(Level.INFO)[-1] == "nothing is on the interface after its deadline any more"


def test_a_node_that_was_stopped_itself_looks_before_it_says_that_an_address_is_still_there() -> (
    None
):
    """It said that neither helper nor kernel had removed what was long gone."""
    play = holding(A, B)
    deadline = play.deadline()
    play.tell(HelperLost("it hung up"))
    play.now = deadline + HELPER_GRACE_S + 4.0
    assert LookForAddresses() in play.tell()
    play.after(0.1, AddressesSeen(frozenset()))
    assert not [each for each in play.said(Level.WARNING) if "still on the interface" in each]


def test_a_kernel_that_does_not_tell_its_addresses_changes_nothing_and_is_told() -> None:
    play = overdue()
    assert not writes(play.after(0.5, play.kept()))
    assert "RTNL" not in " ".join(play.said(Level.WARNING))
    assert play.wake_at is not None and play.wake_at <= play.now + REPORT_AFTER_S
    for _ in range(30):
        actions = play.after(1.0, play.kept())
        assert not writes(actions) and LookForAddresses() not in actions
    assert play.state.addresses.known[A].phase is Phase.UP
    (said,) = [text for text in play.said(Level.WARNING) if "RTNL" in text]
    assert said.startswith(
        "still on the interface 2 s after the deadline: 192.0.2.10, 192.0.2.11; perhaps"
    )


def test_a_look_that_fails_says_nothing_and_is_made_again() -> None:
    play = overdue()
    assert not writes(play.tell(LookFailed("No buffer space available")))
    assert play.state.addresses.known[A].phase is Phase.UP
    assert play.wake_at == play.now + LOOK_AGAIN_S
    assert LookForAddresses() in play.after(LOOK_AGAIN_S, play.kept())
    play.tell(LookFailed("No buffer space available"))
    play.after(REPORT_AFTER_S)
    assert "No buffer space available" in play.said(Level.WARNING)[-1]


def test_a_look_does_not_count_for_what_was_granted_since_it_was_asked_for() -> None:
    """The helper is back and may have added it anew: perhaps just after the look."""
    play = overdue()
    assert play.state.lease.current is not None
    deadline = play.state.lease.current.deadline
    play.tell(helper_ready(AddressOnInterface(A, deadline)))
    play.now = deadline + HELPER_GRACE_S
    play.tell(AddressesSeen(frozenset()))
    assert play.state.addresses.known[B].phase is Phase.ABSENT
    assert play.state.addresses.known[A].phase is not Phase.ABSENT


def test_while_a_look_is_under_way_no_other_is_asked_for() -> None:
    play = overdue()
    actions = [each for _ in range(20) for each in play.after(0.1, play.kept())]
    assert LookForAddresses() not in actions


def test_many_overdue_addresses_are_told_in_a_short_line() -> None:
    pool = tuple(ip_address(f"192.0.2.{number}") for number in range(10, 110))
    play = holding(*pool)
    play.tell(HelperLost("it hung up"))
    play.after(TTL_S)
    play.after(REPORT_AFTER_S, AddressesSeen(frozenset(pool)))
    said = play.said(Level.WARNING)[-1]
    assert "192.0.2.10, 192.0.2.11, 192.0.2.12, 192.0.2.13 and 96 more" in said


@pytest.mark.parametrize(
    ("asked", "outcome"),
    [
        (RestartRequested("got SIGUSR1"), Outcome.LEFT),
        (StopRequested("got SIGTERM"), Outcome.NOT_RELEASED),
    ],
)
def test_while_a_look_is_under_way_the_lease_is_kept_also_by_who_is_to_end(
    asked: Event, outcome: Outcome
) -> None:
    """Its process cannot end before, as it waits in the kernel."""
    play = overdue()
    actions = play.tell(asked)
    for _ in range(12):
        actions += play.after(1.0, play.kept())
    assert not any(isinstance(each, End) for each in actions) and not writes(actions)
    assert actions.count(KeepLease(LEASE)) > 10
    actions = play.after(0.5, AddressesSeen(frozenset({A, B})))
    (end,) = [each for each in actions if isinstance(each, End)]
    assert end.outcome is outcome


def test_a_node_that_stops_releases_nothing_that_a_kernel_keeps() -> None:
    play = overdue()
    play.tell(StopRequested("got SIGTERM"))
    actions = [
        each
        for _ in range(60)
        for each in play.after(0.1, play.kept(), AddressesSeen(frozenset({A})))
    ]
    assert not writes(actions)
    (end,) = [each for each in actions if isinstance(each, End)]
    assert end.outcome is Outcome.NOT_RELEASED
