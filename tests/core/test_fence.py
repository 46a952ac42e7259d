"""A helper with a fence in the kernel, and one without: which figures hold, and what happens when
the one follows the other. The argument: yaim/core/deadline.py."""

from dataclasses import replace

import pytest

from tests.core.play import (
    LEASE,
    NETWORKS,
    SESSION,
    TTL_S,
    A,
    B,
    Play,
    advertised,
    helper_ready,
    holding,
    requests,
    settings,
    started,
    writes,
)
from yaim.core.actions import (
    AddAddress,
    AdvertiseNode,
    KeepLease,
    Level,
    LookForAddresses,
    RemoveAddress,
    RenewAddresses,
)
from yaim.core.bounds import MOST_FENCE, bounded
from yaim.core.deadline import (
    ANSWERS_AGAIN_WITHIN_S,
    CLOCK_DRIFT,
    FENCE_GRACE_S,
    FENCE_SPARES_S,
    HELPER_GRACE_S,
    LEAST_KEEPALIVE_S,
    SILENCE_S,
    all_over_at,
    deadline_of,
    keepalive_every_s,
    least_life_s,
)
from yaim.core.events import (
    HAS_NO_FENCE,
    AddressOnInterface,
    ClockJumped,
    HelperLost,
    HelperReady,
    LeaseFailed,
    LeaseKept,
)
from yaim.core.model import Boottime, Fence
from yaim.core.state.lease import FENCED_RETRY_ALIVE_S, RETRY_ALIVE_S

FENCE = Fence(True)
NO_NFTABLES = Fence(False, "nf_tables is not there")
ROUNDED = 1e-9


def ready(fence: Fence, *addresses: AddressOnInterface) -> HelperReady:
    return replace(helper_ready(*addresses), fence=fence)


def now_with(fence: Fence, play: Play) -> None:
    """Another helper, which holds nothing, is there and is asked for what is missing."""
    play.settle(play.tell(HelperLost("it hung up")))
    play.settle(play.after(0.2, ready(fence)))


def fenced() -> Play:
    play = holding(A)
    now_with(FENCE, play)
    assert play.state.held == (A,)
    return play


def kept_at(play: Play, ago_s: float = 0.0) -> float:
    """A keepalive is answered that was sent then. Returns when it was sent."""
    sent_at = Boottime(play.now - ago_s)
    play.settle(play.tell(LeaseKept(LEASE, TTL_S, sent_at)))
    return sent_at


def deadline(play: Play) -> float:
    assert play.state.lease.current is not None
    return play.state.lease.current.deadline


# --- the figures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ttl_s", "interval_s", "every_s"),
    [(3, 1.0, 0.8), (3, 0.5, 0.5), (5, 1.0, 1.0), (5, 2.0, 5 / 3.75), (10, 5.0, 10 / 3.75)],
)
def test_without_a_fence_all_figures_are_what_they_were_before_there_was_any(
    ttl_s: int, interval_s: float, every_s: float
) -> None:
    assert deadline_of(Boottime(100.0), ttl_s) == 100.0 + ttl_s * 0.999 - 0.25
    assert all_over_at(Boottime(100.0), ttl_s) == 100.0 + ttl_s * 1.001 + 0.2
    assert least_life_s(is_fenced=False) == 2.5
    assert keepalive_every_s(interval_s, ttl_s, is_fenced=False) == every_s
    assert RETRY_ALIVE_S == 0.2 and HELPER_GRACE_S == 0.2
    play = started()
    play.state = replace(play.state, settings=replace(settings(), interval_s=interval_s))
    sent_at = play.now - 0.1
    play.tell(LeaseKept(LEASE, ttl_s, Boottime(sent_at)))
    assert deadline(play) == max(play.deadline(), deadline_of(Boottime(sent_at), ttl_s))
    assert play.state.lease.retry.due == sent_at + every_s


@pytest.mark.parametrize(
    ("ttl_s", "interval_s", "every_s"),
    [(3, 1.0, 0.2), (3, 0.1, 0.1), (4, 5.0, 4 / 3.75), (5, 1.0, 1.0), (5, 2.0, 5 / 3.75)],
)
def test_with_a_fence_a_deadline_is_later_and_a_short_lease_is_kept_more_often(
    ttl_s: int, interval_s: float, every_s: float
) -> None:
    assert least_life_s(is_fenced=True) == 0.3
    assert keepalive_every_s(interval_s, ttl_s, is_fenced=True) == every_s
    play = fenced()
    play.state = replace(play.state, settings=replace(settings(), interval_s=interval_s))
    sent_at = play.now + 1.0
    play.after(1.05, LeaseKept(LEASE, ttl_s, Boottime(sent_at)))
    assert deadline(play) == pytest.approx(sent_at + ttl_s * 0.999 - 0.1, abs=ROUNDED)
    assert play.state.lease.retry.due == sent_at + every_s


def test_an_address_has_ceased_to_answer_before_etcd_gives_it_to_others_with_and_without() -> None:
    for ttl_s in (3, 5, 3600):
        ends_at = ttl_s * (1 - CLOCK_DRIFT)
        without = deadline_of(Boottime(0.0), ttl_s)
        assert without + HELPER_GRACE_S <= ends_at - 0.05 + ROUNDED
        assert without + FENCE_SPARES_S + FENCE_GRACE_S <= ends_at - 0.05 + ROUNDED


@pytest.mark.parametrize("ttl_s", [3, 4, 5, 6, 10, 75])
@pytest.mark.parametrize("interval_s", [0.1, 1.0, 10.0])
def test_with_a_fence_a_silence_of_etcd_of_2_5_s_fits_in_what_is_left_of_any_lease(
    ttl_s: int, interval_s: float
) -> None:
    """Whenever it begins: just before the next keepalive would have been sent, at the worst."""
    every_s = keepalive_every_s(interval_s, ttl_s, is_fenced=True)
    life_s = deadline_of(Boottime(0.0), ttl_s) + FENCE_SPARES_S
    assert every_s >= LEAST_KEEPALIVE_S or interval_s < LEAST_KEEPALIVE_S
    assert life_s - every_s - SILENCE_S >= ANSWERS_AGAIN_WITHIN_S - 0.005


def test_with_a_fence_a_failed_keepalive_is_repeated_within_a_tenth_of_a_second() -> None:
    play = fenced()
    kept_at(play)
    while not play.state.lease.retry.is_pending:
        play.after(0.05)
    until, failed = deadline(play), 0
    while play.now < until:
        play.tell(LeaseFailed("etcdserver: no leader"))
        assert 0 < play.state.lease.retry.due - play.now <= FENCED_RETRY_ALIVE_S
        play.now = play.state.lease.retry.due
        failed += play.tell() == [KeepLease(LEASE)]
    assert failed >= (until - 1000.0) / FENCED_RETRY_ALIVE_S / 2
    play.tell(LeaseFailed("etcdserver: no leader"))
    assert play.state.lease.retry.pause_s > FENCED_RETRY_ALIVE_S


def test_with_a_fence_an_address_is_added_while_the_lease_has_little_life_left() -> None:
    play = fenced()
    play.now = deadline(play) - 0.35
    (add,) = [each for each in play.tell(*_gone()) if isinstance(each, AddAddress)]
    assert add.address == A and add.deadline == deadline(play)
    play = fenced()
    play.now = deadline(play) - 0.25
    assert AddAddress not in requests(play.tell(*_gone()))


def _gone() -> tuple[HelperLost, HelperReady]:
    return HelperLost("it hung up"), ready(FENCE)


# --- one follows the other ------------------------------------------------------------------------


def test_with_the_first_fence_the_deadline_is_what_it_would_have_been_with_one_before() -> None:
    play = holding(A)
    sent_at = kept_at(play, ago_s=0.1)
    assert deadline(play) == play.deadline()
    play.settle(play.tell(HelperLost("it hung up")))
    actions = play.after(0.3, ready(FENCE))
    expected = pytest.approx(1000.0 + TTL_S * 0.999 - 0.1, abs=ROUNDED)
    assert sent_at < 1000.0 and deadline(play) == expected
    (add,) = [each for each in actions if isinstance(each, AddAddress)]
    assert add.deadline == deadline(play)
    assert KeepLease(LEASE) in actions


def test_without_the_fence_what_is_added_anew_has_the_earlier_deadline_from_the_first_on() -> None:
    play = fenced()
    sent_at = kept_at(play)
    assert deadline(play) == pytest.approx(sent_at + TTL_S * 0.999 - 0.1, abs=ROUNDED)
    play.settle(play.tell(HelperLost("it hung up")))
    actions = play.after(0.1, ready(NO_NFTABLES))
    expected = pytest.approx(deadline_of(Boottime(sent_at), TTL_S), abs=ROUNDED)
    assert deadline(play) == expected
    handed_on = [e.deadline for e in actions if isinstance(e, AddAddress | RenewAddresses)]
    assert handed_on and handed_on == [deadline(play)] * len(handed_on)
    assert KeepLease(LEASE) in actions


def test_a_helper_that_has_lost_its_fence_and_still_holds_is_handed_the_earlier_deadline() -> None:
    """At once and once: the next keepalive brings a later one."""
    play = fenced()
    kept_at(play)
    handed_on = Boottime(deadline(play))
    play.tell(HelperLost("it hung up"))
    actions = play.after(0.1, ready(NO_NFTABLES, AddressOnInterface(A, handed_on)))
    assert actions == [RenewAddresses(Boottime(deadline(play))), KeepLease(LEASE)]
    assert deadline(play) == pytest.approx(handed_on - FENCE_SPARES_S, abs=ROUNDED)
    assert play.after(0.01) == []
    assert play.state.addresses.known[A].deadline == handed_on
    play.now += 0.2
    actions = play.tell(play.kept())
    assert RenewAddresses(play.deadline()) in actions and play.deadline() > handed_on


def test_a_helper_that_had_no_fence_before_is_handed_no_earlier_deadline() -> None:
    """As before there was any fence: after a jump of the clock what is held is later, too."""
    play = holding(A)
    kept_at(play)
    handed_on = play.deadline()
    play.tell(HelperLost("it hung up"))
    play.after(0.1, ClockJumped(0.3))
    actions = play.tell(ready(HAS_NO_FENCE, AddressOnInterface(A, handed_on)))
    assert deadline(play) == handed_on - 0.3
    assert RenewAddresses not in requests(actions)


def test_the_same_helper_after_a_lost_connection_changes_no_deadline() -> None:
    play = fenced()
    kept_at(play)
    before = deadline(play)
    play.tell(HelperLost("no answer within 2 s"))
    assert play.after(0.1, ready(FENCE, AddressOnInterface(A, Boottime(before)))) == []
    assert deadline(play) == before


def test_a_lease_that_is_over_gets_no_life_back_by_a_fence() -> None:
    play = holding(A)
    play.tell(HelperLost("it hung up"))
    play.now = over = deadline(play)
    play.tell(ready(FENCE))
    assert deadline(play) == over and play.state.lease.life_s(Boottime(play.now)) == 0


def test_a_keepalive_from_before_a_pause_says_nothing_with_a_fence_either() -> None:
    play = fenced()
    sent_at = kept_at(play)
    play.after(0.1, ClockJumped(5.0))
    play.tell(LeaseKept(LEASE, TTL_S, Boottime(sent_at)))
    assert play.state.lease.life_s(Boottime(play.now)) == 0


def test_without_a_lease_the_next_one_has_the_margin_of_the_fence() -> None:
    play = Play()
    play.tell()
    play.tell(ready(FENCE))
    play.tell(play.kept())
    assert deadline(play) == pytest.approx(1000.0 + TTL_S * 0.999 - 0.1, abs=ROUNDED)
    assert play.state.lease.is_fenced


def test_a_failing_keepalive_is_not_hurried_by_a_fence() -> None:
    play = holding(A)
    while not play.state.lease.retry.is_pending:
        play.after(0.1)
    play.tell(LeaseFailed("refused"), HelperLost("it hung up"))
    due = play.state.lease.retry.due
    assert due > play.now
    assert KeepLease(LEASE) not in play.tell(ready(FENCE))
    assert play.state.lease.retry.due == due


def test_when_the_lease_is_not_kept_all_is_removed_at_the_later_deadline() -> None:
    play = fenced()
    kept_at(play)
    until = deadline(play)
    while play.now < until - 0.06:
        play.after(0.05, LeaseFailed("refused"))
        assert play.state.held == (A,)
    play.now = until
    assert RemoveAddress in requests(play.tell())


# --- what is told ---------------------------------------------------------------------------------


def told(play: Play) -> list[tuple[Level, str]]:
    return [(each.level, each.text) for each in play.reports if "fence" in each.text]


def test_the_log_tells_of_the_fence_once_and_again_when_it_changes() -> None:
    play = started()
    none = "no fence in the kernel is in force: "
    old = (Level.INFO, f"{none}the helper is too old to have one")
    assert told(play) == [old]
    now_with(HAS_NO_FENCE, play)
    assert told(play) == [old]
    now_with(NO_NFTABLES, play)
    now_with(NO_NFTABLES, play)
    missing = (Level.WARNING, f"{none}nf_tables is not there")
    assert told(play) == [old, missing]
    now_with(FENCE, play)
    now_with(FENCE, play)
    assert told(play) == [old, missing, (Level.INFO, "a fence in the kernel is in force")]


def test_the_other_nodes_are_told_of_the_fence_and_of_its_absence_with_the_reason() -> None:
    play = started()
    assert advertised(play).fence == HAS_NO_FENCE
    now_with(NO_NFTABLES, play)
    assert advertised(play).fence == NO_NFTABLES
    now_with(FENCE, play)
    assert advertised(play).fence == FENCE


def test_while_the_helper_is_away_what_it_has_told_of_its_fence_stays_told() -> None:
    play = fenced()
    play.settle(play.tell(HelperLost("it hung up")))
    assert not advertised(play).takes and advertised(play).fence == FENCE


def test_of_a_long_reason_the_others_are_told_the_beginning() -> None:
    play = started()
    now_with(Fence(False, "x" * 100_000), play)
    assert advertised(play).fence == Fence(False, "x" * MOST_FENCE)
    assert bounded(replace(advertised(play), fence=None)).fence is None


def test_a_helper_that_tells_of_no_fence_has_none() -> None:
    assert HelperReady(SESSION, tuple(NETWORKS.items()), ()).fence == HAS_NO_FENCE
    assert not HAS_NO_FENCE.is_in_force
    assert not holding(A, B).state.lease.is_fenced


# --- at the deadline ------------------------------------------------------------------------------


def test_what_a_fence_keeps_is_as_good_as_gone_with_its_deadline() -> None:
    """Nobody has to look, and the kernel may keep it on the interface for a minute."""
    play = fenced()
    until = max(known.deadline for known in play.state.addresses.known.values())
    play.settle(play.tell(HelperLost("it hung up")))
    play.after(1.0)
    play.tell(LeaseKept(LEASE, TTL_S, Boottime(play.now)))
    assert play.tell(play.unhealthy()) == []
    play.now = until + HELPER_GRACE_S - 0.01
    assert writes(play.tell()) == []
    play.now = until + HELPER_GRACE_S
    (write,) = writes(play.tell())
    assert isinstance(write, AdvertiseNode)
    assert [each.address for each in write.release] == [A]


def test_a_helper_that_holds_it_without_a_fence_is_looked_after() -> None:
    play = fenced()
    known = next(iter(play.state.addresses.known.values()))
    play.settle(play.tell(HelperLost("it hung up")))
    play.settle(play.after(0.2, ready(NO_NFTABLES, AddressOnInterface(A, known.deadline))))
    until = max(known.deadline for known in play.state.addresses.known.values())
    play.settle(play.tell(HelperLost("it hung up")))
    play.tell(LeaseKept(LEASE, TTL_S, Boottime(play.now)))
    play.tell(play.unhealthy())
    play.now = until + HELPER_GRACE_S
    actions = play.tell()
    assert LookForAddresses() in actions
    assert writes(actions) == []
