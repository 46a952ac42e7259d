"""The parts of the state, each with its verbs: what they return, and when they want to be woken."""

from dataclasses import replace

from tests.core.play import (
    LEASE,
    OTHER,
    OTHERS_LEASE,
    A,
    B,
    advertisement,
    mark,
    node,
    settings,
    view,
)
from yaim.core.actions import ClaimMarks, KeepLease, Level, ReleaseMarks, RemoveAddress
from yaim.core.deadline import HELPER_GRACE_S, all_over_at, deadline_of
from yaim.core.events import LeaseKept
from yaim.core.full_etcd import Full
from yaim.core.model import NEVER, Boottime, Node, NodeName, Place, Revision, frozen_mapping
from yaim.core.refusals import FAILED_FOR_S, Cause, Refusal
from yaim.core.state.addresses import Addresses, AddressState, Phase
from yaim.core.state.advertised import OVERWRITES_AT_MOST, OVERWRITES_OVER_S, Advertised
from yaim.core.state.cluster import READ_EVERY_S, Cluster
from yaim.core.state.host import KERNEL_PATIENCE_S, UNTOLD, Host
from yaim.core.state.lease import Lease, LeaseState
from yaim.core.state.refusals import Refusals
from yaim.core.state.retry import REPORT_EVERY_S, RETRY_MAX_S, RETRY_MIN_S, Retry
from yaim.core.state.takeover import ORPHAN_PATIENCE_S, Takeover
from yaim.core.state.wake import FOREVER, soonest
from yaim.core.state.write import Writing

NOW = Boottime(1000.0)
ETH0, ETH1 = Place("eth0", 32), Place("eth1", 32)


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[Level, str]] = []

    def tell(self, level: Level, text: str) -> None:
        self.lines.append((level, text))


def silent(level: Level, text: str) -> None:
    raise AssertionError(f"{level}: {text}")


def test_only_what_is_still_to_come_wakes() -> None:
    assert soonest(10.0, (9.0, 10.0, 12.0, 11.0)) == 11.0
    assert soonest(10.0, (NEVER, 10.0)) == FOREVER


def test_pauses_after_failures_double_and_are_shortened_by_half_at_most() -> None:
    retry, log, pauses = Retry(), Log(), []
    for _ in range(8):
        retry = retry.after_failure(NOW, NodeName("n1"), "cannot read etcd", log.tell)
        assert 0.5 * retry.pause_s <= retry.due - NOW <= retry.pause_s
        pauses.append(retry.pause_s)
    assert pauses == [RETRY_MIN_S * 2**n for n in range(5)] + [RETRY_MAX_S] * 3
    assert log.lines == [(Level.WARNING, "cannot read etcd")]


def test_a_failure_that_goes_on_is_told_each_minute_and_its_end_once() -> None:
    log = Log()
    retry = Retry().after_failure(NOW, NodeName("n1"), "no", log.tell)
    retry = retry.after_failure(Boottime(NOW + REPORT_EVERY_S), NodeName("n1"), "no", log.tell)
    retry = retry.after_answer(NOW + 61.0, "yes", log.tell)
    assert [text for _, text in log.lines] == ["no", "no (for 60 s now)", "yes"]
    assert retry == Retry(due=Boottime(NOW + 61.0))
    assert retry.after_answer(NOW, "yes", silent) == Retry(due=NOW)


def test_the_deadline_of_a_lease_counts_from_before_the_keepalive_and_never_comes_nearer() -> None:
    log = Log()
    kept = LeaseState().after_kept(LeaseKept(LEASE, 3, NOW), settings(), NOW, log.tell)
    assert kept.current == Lease(LEASE, 3, deadline_of(NOW, 3))
    assert kept.life_s(NOW) == deadline_of(NOW, 3) - NOW
    late = LeaseKept(LEASE, 3, Boottime(NOW - 1.0))
    assert kept.after_kept(late, settings(), NOW, silent).current == kept.current
    assert kept.wake_at(NOW) == kept.retry.due


def test_a_keepalive_for_a_lease_that_we_do_not_have_adopts_it() -> None:
    asked = LeaseState().asked(KeepLease(OTHERS_LEASE))
    assert (asked.retry.is_pending, asked.adopting) == (True, OTHERS_LEASE)
    own = LeaseState(current=Lease(LEASE, 3, NOW)).asked(KeepLease(LEASE))
    assert (own.retry.is_pending, own.adopting) == (True, None)


def test_a_clock_that_was_set_brings_the_deadline_nearer_and_makes_a_keepalive_due() -> None:
    before = LeaseState(current=Lease(LEASE, 3, Boottime(NOW + 2.0)))
    after = before.after_clock_jump(1.5, NOW)
    assert after.life_s(NOW) == 0.5
    assert (after.retry.due, after.distrusted_before) == (NOW, NOW)


def test_an_older_answer_to_a_read_is_that_of_another_history_of_etcd() -> None:
    asked = Cluster(view=view(7)).asked()
    assert asked.is_other_history(view(6)) and not asked.is_other_history(view(7))
    after = asked.after_read(view(6), NOW, silent)
    assert (after.view, after.last_revision) == (None, Revision(7))
    assert after.wake_at(NOW) == NOW + READ_EVERY_S


def test_what_was_to_be_released_is_in_doubt_unless_etcd_was_full() -> None:
    release = ReleaseMarks(3, (mark(A, 4),), Revision(2))
    writing, log = Writing().asked(release), Log()
    assert writing.leaving == {mark(A, 4)}
    assert writing.write_of(2) is None
    lost = writing.after_failed(release, "no", False, NodeName("n1"), NOW, log.tell)
    assert lost.under_way is None and not lost.unsettled
    assert lost.in_doubt == {mark(A, 4)}
    full = writing.after_failed(release, "no", True, NodeName("n1"), NOW, log.tell)
    assert full.unsettled == {mark(A, 4)} and not full.in_doubt
    assert full.full == Full(is_deletion_refused=True)
    assert lost.after_view(view(9)).leaving == full.after_read().leaving == frozenset()


def test_a_claim_releases_nothing() -> None:
    assert Writing().asked(ClaimMarks(3, (A,), LEASE, Revision(2))).leaving == frozenset()


def test_what_looks_like_another_hosts_is_written_over_some_times_in_a_row_only() -> None:
    other = Node(NodeName("n1"), advertisement(session="boot-9:1"), OTHERS_LEASE, Revision(9))
    ours, log = Advertised(is_written=True, known_under=LEASE), Log()
    for _ in range(OVERWRITES_AT_MOST):
        assert ours.keeps_name_under(LEASE)
        ours = ours.asked_overwrite(other, NOW, log.tell, is_foreign=True)
    assert not ours.keeps_name_under(LEASE)
    assert len(log.lines) == OVERWRITES_AT_MOST
    assert not ours.name_is_ours(NOW).keeps_name_under(LEASE)
    assert ours.name_is_ours(Boottime(NOW + OVERWRITES_OVER_S)).keeps_name_under(LEASE)


def test_what_others_lose_with_their_lease_is_an_orphan_for_a_moment() -> None:
    others = node(OTHER, OTHERS_LEASE, 5)
    before = view(6, (A,), (others,), (mark(A, 6, OTHER, OTHERS_LEASE),))
    lost = Takeover().noting_orphans(before, view(7, (A,)), NodeName("n1"), NOW)
    assert lost.orphans == {A: NOW + ORPHAN_PATIENCE_S}
    released = Takeover().noting_orphans(before, view(7, (A,), (others,)), NodeName("n1"), NOW)
    assert released.orphans == {}
    assert lost.wake_at(NOW) == NOW + ORPHAN_PATIENCE_S


def test_a_lease_that_was_kept_in_time_may_be_one_of_many_that_are_lost() -> None:
    ours, lease, log = Takeover(ours=frozenset({A})), Lease(LEASE, 3, NOW), Log()
    alone = ours.after_lease_gone(lease, NOW, log.tell, is_in_time=True)
    assert (alone.ours, alone.loss) == (frozenset(), None)
    many = ours.after_lease_gone(lease, NOW, log.tell, is_in_time=False)
    assert many.loss is not None
    assert many.ours == {A} and many.loss.until == all_over_at(NOW, 3)
    assert not many.is_loss_over(NOW) and many.is_loss_over(many.loss.until)


def test_an_address_that_could_not_be_moved_stays_where_it_was() -> None:
    moving = AddressState(Phase.ADDING, 3, place=ETH0, to=ETH1)
    assert moving.after_added().place == ETH1
    stays = moving.after_move_failed(NOW)
    assert (stays.place, stays.to, stays.could_not_be_at) == (ETH0, None, ETH1)


def test_what_an_earlier_life_had_is_removed_with_the_longest_deadline_that_it_can_have() -> None:
    after = Addresses().asked([RemoveAddress(7, A)], NOW, 3)
    known = after.known[A]
    assert (known.phase, known.request, known.deadline) == (Phase.REMOVING, 7, NOW + 3)
    assert after.under_way(7, A, Phase.REMOVING) is known
    assert after.under_way(6, A, Phase.REMOVING) is None


def test_an_address_is_overdue_after_its_deadline_and_the_grace() -> None:
    up = AddressState(Phase.UP, deadline=NOW)
    addresses = Addresses(frozen_mapping({A: up, B: replace(up, phase=Phase.ABSENT)}))
    at = Boottime(NOW + HELPER_GRACE_S)
    assert addresses.wake_at(NOW) == at
    assert addresses.overdue(NOW) == {} and addresses.overdue(at) == {A: NOW}


def test_what_fails_again_soon_is_left_to_others_for_longer() -> None:
    once = Refusals().after_failing(NOW)
    assert once.failing_until == NOW + FAILED_FOR_S
    assert once.after_failing(NOW) is once
    assert once.after_failing(once.failing_until).failing_for_s == 2 * FAILED_FOR_S


def test_what_the_helper_said_is_here_already_is_known_also_to_new_settings() -> None:
    foreign = Refusal(Cause.FOREIGN, NOW, Boottime(NOW + 1.0))
    limit = replace(foreign, cause=Cause.LIMIT)
    refusals = Refusals(frozen_mapping({A: foreign, B: limit}))
    assert refusals.after_settings().refused == {A: foreign}
    assert refusals.forgetting(Boottime(NOW + 1.0)).refused == {A: foreign}


def test_a_kernel_that_tells_nothing_is_waited_for_and_told_once() -> None:
    log = Log()
    waiting = Host().at(NOW, log.tell)
    assert waiting.awaits_kernel(NOW) and waiting.wake_at(NOW) == NOW + KERNEL_PATIENCE_S
    later = Boottime(NOW + KERNEL_PATIENCE_S)
    given_up = waiting.at(later, log.tell)
    assert given_up.kernel_due == UNTOLD and not given_up.awaits_kernel(later)
    assert given_up.at(later, silent) is given_up
    assert len(log.lines) == 1


def test_an_interface_is_down_by_its_own_name_whatever_further_names_it_has() -> None:
    host = Host(links_up=frozenset({"eth0"}), links_down=frozenset({"eth1"}))
    assert host.down("eth0") == frozenset()
    assert host.down("eth1") == {"eth1"} and host.missing("eth1") == frozenset()
    assert host.missing("eth9") == {"eth9"}
    assert replace(host, altnames=frozen_mapping({"lan": "eth0"})).down("lan") == frozenset()
