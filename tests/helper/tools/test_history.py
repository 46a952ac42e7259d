"""When a node held which address, as its record tells it."""

import time
from pathlib import Path
from typing import Any

import pytest
from yaim_helper.tools.history import History
from yaim_helper.tools.intervals import FOREVER, HeldInterval
from yaim_helper.tools.records import open_chain
from yaim_helper.tools.verify import Verification

from tests.helper.chains import EPOCH_US, Writer

A, B = "192.0.2.1", "192.0.2.2"
BOOT = 0.0


def intervals_of(writer: Writer) -> list[HeldInterval]:
    verification = Verification(open_chain(writer.save()), lambda finding: None)
    history = History(writer.host)
    for record in verification.records():
        history.take(record)
    history.finish(verification.marker)
    return history.intervals


def seconds(
    interval: HeldInterval,
) -> tuple[tuple[float, float], list[tuple[float, float]]]:
    def of(interval: tuple[int, int]) -> tuple[float, float]:
        start, end = ((each - EPOCH_US) / 1e6 for each in interval)
        return start, (end if interval[1] < FOREVER // 2 else float("inf"))

    return of(interval.possible), [of(each) for each in interval.sure]


def told(writer: Writer) -> list[tuple[tuple[float, float], list[tuple[float, float]]]]:
    return [seconds(each) for each in intervals_of(writer)]


@pytest.fixture
def node(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "db1").start(1.0)


# --- one interval, and how it ends ---------------------------------------------------------------


def test_an_interval_has_four_instants(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).remove(5.0, 5.1, A)
    assert told(node) == [((2.0, 5.1), [(2.1, 5.0)])]


def test_an_address_that_was_gone_when_it_was_to_be_removed_was_sure_until_last_proven(
    node: Writer,
) -> None:
    node.add(2.0, 2.1, A, 9.0).renewals(60.0, 64.0).renewals(120.0, 124.0)
    assert told(node.remove(125.0, 125.1, A, "absent")) == [((2.0, 125.1), [(2.1, 60.0)])]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ("removed", ((2.0, 9.1), [(2.1, 9.0)])),
        ("the kernel had removed it", ((2.0, 9.1), [])),
    ],
)
def test_the_helper_ends_it_at_its_deadline(node: Writer, outcome: str, expected: Any) -> None:
    node.add(2.0, 2.1, A, 9.0).own(9.0, "expire", A, "the deadline has passed: removing")
    assert told(node.own(9.1, "expire", A, outcome)) == [expected]


def test_connections_that_are_ended_change_nothing_about_who_held_what(node: Writer) -> None:
    """What is cleared is another node's by then."""
    node.add(2.0, 2.1, A, 9.0).result(3.0, "clear", B, cleared=11, left=0)
    node.result(3.5, "clear", A, "refused", code="foreign", reason="is there")
    node.remove(5.0, 5.1, A, reset=12, left=0)
    assert told(node.result(6.0, "clear", A, cleared=1, left=0)) == [((2.0, 5.1), [(2.1, 5.0)])]


def test_what_could_not_be_removed_is_there_until_it_could(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).own(9.0, "expire", A, "the deadline has passed: removing")
    node.own(9.1, "expire", A, "cannot remove it: Device or resource busy")
    node.own(9.5, "expire", A, "the deadline has passed: removing")
    assert told(node.own(9.6, "expire", A, "removed")) == [((2.0, 9.6), [(2.1, 9.5)])]


def test_an_expiry_whose_beginning_is_not_on_record_proves_nothing(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).own(9.1, "expire", A, "removed")
    assert told(node) == [((2.0, 9.1), [])]


@pytest.mark.parametrize("outcome", ["refused", "failed"])
def test_an_add_that_was_not_done(node: Writer, outcome: str) -> None:
    node.intent(2.0, "add", A, deadline=9.0).result(2.1, "add", A, outcome, deadline=9.0)
    assert told(node) == ([] if outcome == "refused" else [((2.0, 9.2), [])])


def test_a_refused_add_of_what_is_held_changes_nothing(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).intent(3.0, "add", A, deadline=9.0)
    node.result(3.1, "add", A, "refused", deadline=9.0).remove(4.0, 4.1, A)
    assert told(node) == [((2.0, 4.1), [(2.1, 4.0)])]


def test_a_failed_add_of_what_is_held_leaves_doubt(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).add(3.0, 3.1, A, 10.0, "present").intent(
        4.0, "add", A, deadline=11.0
    )
    node.result(4.1, "add", A, "failed", deadline=11.0).mark(1.5, 10.0)
    assert told(node) == [((2.0, 11.2), [(2.1, 3.1)])]


def test_an_add_of_what_was_gone_begins_anew(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).add(3.0, 3.1, A, 10.0, "present").add(4.0, 4.1, A, 11.0, "absent")
    assert told(node.remove(5.0, 5.1, A)) == [((2.0, 5.1), [(2.1, 3.1), (4.1, 5.0)])]


def test_an_add_to_another_interface_is_a_moment_without(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0)
    node.intent(3.0, "add", A, deadline=9.0, interface="eth1")
    node.result(3.1, "add", A, deadline=9.0, interface="eth1", was="present")
    assert told(node.remove(5.0, 5.1, A)) == [((2.0, 5.1), [(2.1, 3.0), (3.1, 5.0)])]


def test_removing_it_failed_or_was_refused(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).intent(3.0, "remove", A).result(3.1, "remove", A, "refused")
    node.intent(4.0, "remove", A).result(4.1, "remove", A, "failed")
    assert told(node.remove(5.0, 5.1, A)) == [((2.0, 5.1), [(2.1, 5.0)])]


def test_what_another_cluster_finds_absent_is_still_there(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0)
    node.cluster = "other"
    node.remove(3.0, 3.1, A, "absent")
    node.cluster = "c"
    assert told(node.remove(5.0, 5.1, A)) == [((2.0, 5.1), [(2.1, 5.0)])]


def test_what_is_not_on_record_may_have_been_there_since_the_boot(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0, "present").remove(3.0, 3.1, B).remove(4.0, 4.1, A)
    assert told(node.remove(4.2, 4.3, B)) == [
        ((BOOT, 3.1), []),
        ((BOOT, 4.1), [(2.1, 4.0)]),
        ((3.1, 4.3), []),
    ]


def test_what_somebody_removed_and_the_helper_put_back_is_not_sure_in_between(node: Writer) -> None:
    node.add(2.0, 2.1, A, 90.0).renewals(60.0, 90.0).renewals(120.0, 125.0)
    node.own(121.0, "extend", A, "somebody had removed it: put back")
    assert told(node.remove(122.0, 122.1, A)) == [((2.0, 122.1), [(2.1, 60.0), (121.0, 122.0)])]


def test_what_the_host_has_taken_is_not_sure_and_not_renewed(node: Writer) -> None:
    """Not by renewals of what else is held, either."""
    node.add(2.0, 2.1, A, 90.0).renewals(60.0, 90.0).renewals(120.0, 150.0)
    node.own(130.0, "extend", A, "the host has it now: left alone")
    node.renewals(180.0, 210.0).renewals(240.0, 270.0).remove(300.0, 300.1, A, "absent")
    assert told(node) == [((2.0, 210.2), [(2.1, 60.0)])]


@pytest.mark.parametrize("outcome", ["failed: no", "had no lifetime: removed"])
def test_what_could_not_be_extended_is_not_sure(node: Writer, outcome: str) -> None:
    node.add(2.0, 2.1, A, 9.0).add(3.0, 3.1, A, 9.0, "present").own(4.0, "extend", A, outcome)
    assert told(node.remove(5.0, 5.1, A)) == [((2.0, 5.1), [(2.1, 3.1)])]


def test_requests_that_came_together_are_done_before_any_result_is_told(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0)
    node.intent(3.0, "add", A, deadline=9.0).intent(3.0, "remove", A)
    node.ids -= 1
    node.result(3.2, "add", A, deadline=9.0, was="present")
    node.ids += 1
    node.result(3.3, "remove", A, was="present")
    assert told(node) == [((2.0, 3.3), [(2.1, 3.0)])]


def test_two_adds_at_once_may_both_be_the_last(node: Writer) -> None:
    node.intent(2.0, "add", A, deadline=20.0).intent(2.0, "add", A, deadline=9.0)
    node.ids -= 1
    node.result(2.1, "add", A, deadline=9.0, was="absent").start(40.0, earlier=node.marker(1.0))
    assert told(node) == [((2.0, 20.2), [])]


# --- lives and boots -----------------------------------------------------------------------------


def test_what_the_next_life_finds_goes_on(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).start(4.0, A, earlier=node.marker(3.0, 8.0))
    node.add(5.0, 5.1, A, 12.0, "present")
    assert told(node.remove(6.0, 6.1, A)) == [((2.0, 6.1), [(2.1, 6.0)])]


def test_what_the_next_life_does_not_find_ended_at_its_deadline(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).start(20.0, earlier=node.marker(3.0, 10.0))
    assert told(node) == [((2.0, 10.2), [(2.1, 3.0)])]


def test_what_the_next_life_does_not_find_ended_at_the_latest_when_that_started(
    node: Writer,
) -> None:
    node.add(2.0, 2.1, A, 9.0).start(4.0, earlier=node.marker(3.0, 10.0))
    assert told(node) == [((2.0, 4.0), [(2.1, 3.0)])]


def test_without_a_marker_nobody_knows_the_last_deadline(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).start(20.0)
    assert told(node) == [((2.0, 20.0), [])]


def test_a_new_policy_may_hide_what_is_left(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0)
    node.policy = "b" * 64
    node.start(4.0, earlier=node.marker(3.0, 10.0)).remove(5.0, 5.1, A, "absent")
    assert told(node) == [((2.0, 10.2), [(2.1, 3.0)])]
    # What was left is over when it is added anew.
    node.add(30.0, 30.1, A, 40.0).remove(31.0, 31.1, A)
    assert told(node)[1] == ((30.0, 31.1), [(30.1, 31.0)])


def test_a_boot_ends_all(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).mark(3.0, 50.0)
    earlier = node.marker(3.0, 50.0)
    node.boot, node.boot_at = 2, 30.0
    assert told(node.start(31.0, earlier=earlier)) == [((2.0, 30.0), [(2.1, 3.0)])]


def test_a_boot_without_its_first_records_ends_all_too(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0)
    node.boot, node.boot_at = 2, 30.0
    assert told(node.write(31.0, "stop", addresses=0)) == [((2.0, 30.0), [])]


def test_a_node_that_does_not_come_back_is_judged_by_its_marker(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0)
    assert told(node) == [((2.0, float("inf")), [])]
    assert told(node.mark(3.0, 10.0)) == [((2.0, 10.2), [(2.1, 3.0)])]
    assert intervals_of(node)[0].ended == "its deadline"


def test_a_marker_of_several_owners_does_not_tell_who_renewed_last(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0)
    marker = node.marker(3.0, 10.0)
    marker["owners"].append({**marker["owners"][0], "cluster": "other"})
    assert told(node.start(20.0, earlier=marker)) == [((2.0, 10.2), [])]


def test_a_removal_that_was_cut_short_is_decided_by_the_next_life(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).intent(3.0, "remove", A)
    here = Writer(node.directory, seq=node.seq, hash=node.hash, lines=list(node.lines))
    assert told(node.start(5.0, earlier=node.marker(4.0, 9.0))) == [((2.0, 5.0), [(2.1, 3.0)])]
    here.start(5.0, A, earlier=here.marker(2.5, 9.0))
    assert told(here) == [((2.0, 9.2), [(2.1, 3.0)])]


def test_an_add_that_was_cut_short_is_decided_by_the_next_life(node: Writer) -> None:
    node.intent(2.0, "add", A, deadline=9.0).intent(2.0, "add", B, deadline=9.0)
    node.start(5.0, A, earlier=node.marker(1.5))
    assert sorted(told(node)) == [((2.0, 5.0), []), ((2.0, 9.2), [])]


def test_what_is_held_against_its_deadline_is_believed(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).start(20.0, A, earlier=node.marker(1.0))
    assert told(node.start(30.0)) == [((2.0, 30.0), [])]


def test_the_list_at_a_start_may_take_several_records(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).add(2.0, 2.1, B, 9.0)
    node.start(4.0, A, earlier=node.marker(3.0, 9.0), more=True).held(4.1, B)
    assert {seconds(each)[1][-1] for each in intervals_of(node)} == {(2.1, 3.0)}


def test_a_list_that_was_cut_short_tells_nothing_of_the_rest(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).start(4.0, more=True, earlier=node.marker(3.0, 9.0))
    assert told(node.write(4.1, "clock", jump_s=1.0)) == [((2.0, 9.2), [(2.1, 3.0)])]


def test_a_further_segment_tells_what_is_held(tmp_path: Path) -> None:
    node = Writer(tmp_path / "db1").start(1.0).add(2.0, 2.1, A, 9.0).intent(3.0, "remove", B)
    node.next_segment(4.0, A, deadline=12.0).result(4.1, "remove", B, was="absent")
    node.next_segment(5.0, B, deadline=12.0)
    assert told(node.remove(6.0, 6.1, B)) == [
        ((2.0, 5.0), []),
        ((0.0, 6.1), [(5.0, 6.0)]),
    ]


def test_what_a_life_left_need_not_be_listed_in_a_further_segment(tmp_path: Path) -> None:
    node = Writer(tmp_path / "db1").start(1.0).add(2.0, 2.1, A, 9.0)
    node.start(3.0, A, earlier=node.marker(2.5, 9.0)).next_segment(4.0)
    assert told(node) == [((2.0, 9.2), [(2.1, 2.5)])]


def test_after_a_gap_nothing_is_sure_until_it_is_seen_again(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).add(3.0, 3.1, A, 9.0, "present").write(4.0, "gap", missed=2)
    node.add(5.0, 5.1, A, 9.0, "present")
    assert told(node.remove(6.0, 6.1, A)) == [((2.0, 6.1), [(2.1, 3.1), (5.1, 6.0)])]


def test_many_gaps_of_a_node_that_holds_much_take_no_longer(node: Writer) -> None:
    """A coordinator can bring about a gap with each command, on a disk that is full."""
    count = 2000
    node.held(2.0, *(f"10.0.{n // 250}.{n % 250}" for n in range(count)), deadline=1e6)
    node.write(3.0, "gap", missed=1)
    history = History(node.host)
    records = list(Verification(open_chain(node.save()), lambda finding: None).records())
    for record in records:
        history.take(record)
    began = time.process_time()
    for _ in range(20_000):
        history.take(records[-1])
    assert time.process_time() - began < 1
    history.finish(None)
    assert len(history.intervals) == count


def test_a_result_without_its_intent_is_told_of_what_it_proves(node: Writer) -> None:
    node.result(2.1, "add", A, deadline=9.0, was="absent").result(2.2, "add", B, "failed")
    node.result(2.3, "remove", B, "failed").result(2.4, "announce", A)
    assert told(node.remove(3.0, 3.1, A)) == [((0.0, 3.1), [(2.1, 3.0)])]


def test_a_refusal_that_needed_no_intent_ends_no_other_add(node: Writer) -> None:
    node.intent(2.0, "add", A, deadline=9.0).intent(2.0, "add", A, deadline=9.0)
    node.ids += 1
    node.result(2.1, "add", A, "refused", deadline=1.0)
    node.ids -= 1
    node.result(2.2, "add", A, deadline=9.0, was="absent").result(2.3, "add", B, "refused")
    assert told(node.remove(3.0, 3.1, A)) == [((2.0, 3.1), [(2.2, 3.0)]), ((3.1, 9.2), [])]


@pytest.mark.parametrize("how", ["expired", "gone", "removed", "found to be gone"])
def test_an_add_that_waits_while_the_address_goes_may_be_done_afterwards(
    node: Writer, how: str
) -> None:
    node.add(2.0, 2.1, A, 9.0).intent(3.0, "add", A, deadline=14.0)
    asked = node.ids
    if how in ("expired", "gone"):
        outcome = "removed" if how == "expired" else "the kernel had removed it"
        node.own(9.0, "expire", A, "the deadline has passed: removing")
        node.own(9.1, "expire", A, outcome)
    else:
        node.remove(9.0, 9.1, A, "present" if how == "removed" else "absent")
    assert [each for each, _ in told(node)] == [(2.0, 9.1), (9.1, 14.2)]
    node.ids = asked
    node.result(9.2, "add", A, "refused", deadline=14.0)
    assert [each for each, _ in told(node)] == [(2.0, 9.1)]


def test_the_same_request_on_two_connections_is_told_apart_by_its_order(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0)
    for at in (3.0, 3.5):
        node.intent(at, "add", A, deadline=9.0, interface="eth1")
        node.ids -= 1
    node.ids += 1
    node.result(4.0, "add", A, deadline=9.0, interface="eth1", was="present")
    node.result(4.1, "add", A, deadline=9.0, interface="eth1", was="present")
    assert told(node.remove(5.0, 5.1, A)) == [((2.0, 5.1), [(2.1, 3.0), (4.0, 5.0)])]


def test_a_removal_that_renewals_outlast_goes_on_to_their_deadline(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).intent(3.0, "remove", A).result(3.1, "remove", A, "failed")
    assert told(node.renewals(60.0, 64.0).mark(61.0, 70.0)) == [((2.0, 64.2), [])]


def test_renewals_of_others_prove_nothing(node: Writer) -> None:
    node.add(2.0, 2.1, A, 9.0).renewals(60.0, 70.0)
    node.cluster = "other"
    node.renewals(120.0, 130.0).renewals(180.0, 190.0).mark(185.0, 190.0)
    assert told(node) == [((2.0, 70.2), [])]


# --- the fence -----------------------------------------------------------------------------------


def muted(writer: Writer) -> list[tuple[float, float] | None]:
    found = [each.muted for each in intervals_of(writer)]
    return [
        None if each is None else ((each[0] - EPOCH_US) / 1e6, (each[1] - EPOCH_US) / 1e6)
        for each in found
    ]


@pytest.fixture
def fenced(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "db1").start(1.0, fence=True)


def test_what_is_removed_late_has_answered_until_its_deadline_if_that_is_told(
    fenced: Writer,
) -> None:
    """The helper was stopped, from before the deadline to 20 s."""
    fenced.add(2.0, 2.1, A, 9.0, fence=True).add(2.0, 2.1, B, 9.0, fence=True)
    until = fenced.until(10.0)
    fenced.own(20.0, "expire", A, "the deadline has passed: removing", **until)
    fenced.own(20.1, "expire", A, "removed", **until).remove(20.2, 20.3, B, **until)
    assert told(fenced) == [((2.0, 10.05), [(2.1, 10.0)])] * 2
    assert muted(fenced) == [(10.05, 20.1), (10.05, 20.3)]


def test_without_the_deadline_it_is_not_known_when_it_fell_silent(fenced: Writer) -> None:
    fenced.add(2.0, 2.1, A, 9.0, fence=True).remove(20.0, 20.1, A)
    assert (told(fenced), muted(fenced)) == ([((2.0, 20.1), [])], [None])


def test_what_was_not_fenced_is_there_until_it_is_removed(fenced: Writer) -> None:
    node = fenced.start(1.5, fence=False).add(2.0, 2.1, A, 9.0, fence=False)
    node.remove(20.0, 20.1, A, fence=False, deadline_ns=node.ns(10.0))
    assert (told(node), muted(node)) == ([((2.0, 20.1), [(2.1, 20.0)])], [None])


def test_what_a_life_left_is_muted_from_its_deadline_until_it_is_added_anew(
    fenced: Writer,
) -> None:
    fenced.add(2.0, 2.1, A, 9.0, fence=True)
    fenced.start(20.0, A, earlier=fenced.marker(5.0, 12.0), fence=True, is_fenced=True)
    fenced.add(21.0, 21.1, A, 30.0, "present", fence=True)
    fenced.remove(22.0, 22.1, A, **fenced.until(30.0))
    assert told(fenced) == [((2.0, 12.05), [(2.1, 5.0)]), ((21.0, 22.1), [(21.1, 22.0)])]
    assert muted(fenced) == [(12.05, 21.0), None]


def test_what_is_added_anew_before_it_is_muted_answers_all_the_time(fenced: Writer) -> None:
    fenced.add(2.0, 2.1, A, 9.0, fence=True)
    fenced.start(6.0, A, earlier=fenced.marker(5.0, 12.0), fence=True, is_fenced=True)
    fenced.add(7.0, 7.1, A, 30.0, "present", fence=True)
    assert told(fenced.remove(8.0, 8.1, A, **fenced.until(30.0))) == [((2.0, 8.1), [(2.1, 8.0)])]


def test_all_of_an_owner_answers_until_what_was_added_last_has_the_nearest_deadline(
    fenced: Writer,
) -> None:
    """The latest deadline is told of renewals, and in the marker: that may be another one's."""
    fenced.add(2.0, 2.1, A, 9.0, fence=True)
    marker = fenced.marker(3.0, 20.0)
    fenced.add(4.0, 4.1, B, 8.0, fence=True).renewals(5.0, 20.0).add(6.0, 6.1, B, 12.0, "present")
    fenced.start(7.0, A, B, earlier=marker, fence=True, is_fenced=True)
    fenced.add(10.0, 10.1, A, 30.0, "present", fence=True)
    fenced.remove(11.0, 11.1, A, **fenced.until(30.0))
    assert told(fenced)[0] == ((2.0, 11.1), [(2.1, 8.0), (10.1, 11.0)])


@pytest.mark.parametrize(("live", "until"), [(7.0, 7.0), (12.0, 10.0)])
def test_the_marker_tells_until_when_an_address_surely_answers(
    fenced: Writer, live: float, until: float
) -> None:
    """It is written before the renewal is done."""
    fenced.add(2.0, 2.1, A, 9.0, fence=True)
    earlier = fenced.marker(5.0, 12.0, live=live)
    fenced.start(6.0, A, earlier=earlier, fence=True, is_fenced=True)
    fenced.add(9.9, 10.0, A, 30.0, "present", fence=True)
    fenced.remove(10.0, 10.1, A, **fenced.until(30.0))
    assert told(fenced) == [((2.0, 10.1), [(2.1, until)])]


def test_a_marker_that_does_not_tell_it_makes_nothing_sure(fenced: Writer) -> None:
    fenced.add(2.0, 2.1, A, 9.0, fence=True)
    earlier = fenced.marker(5.0, 12.0)
    del earlier["owners"][0]["live_ns"]
    fenced.start(6.0, A, earlier=earlier, fence=True, is_fenced=True)
    fenced.add(7.0, 7.1, A, 30.0, "present", fence=True)
    fenced.remove(8.0, 8.1, A, **fenced.until(30.0))
    assert told(fenced) == [((2.0, 8.1), [(2.1, 5.0), (7.1, 8.0)])]


def test_what_no_fence_keeps_may_be_gone_for_a_moment_when_one_with_a_fence_takes_it_over(
    fenced: Writer,
) -> None:
    """Its lifetime in the kernel may end between the look and the add."""
    node = fenced.start(1.5, fence=False).add(2.0, 2.1, A, 9.0, fence=False)
    node.start(5.0, A, earlier=node.marker(3.0, 9.0), fence=True, is_fenced=False)
    node.add(6.0, 6.1, A, 30.0, "present", fence=True).remove(8.0, 8.1, A, **node.until(30.0))
    assert told(node) == [((2.0, 8.1), [(2.1, 6.0), (6.1, 8.0)])]


def test_what_is_muted_while_it_is_added_anew_is_not_sure_meanwhile(fenced: Writer) -> None:
    """The add was about to be done at 11.9, and the result is told at 12.5."""
    fenced.add(2.0, 2.1, A, 9.0, fence=True)
    fenced.start(6.0, A, earlier=fenced.marker(5.0, 12.0), fence=True, is_fenced=True)
    fenced.add(11.9, 12.5, A, 30.0, "present", fence=True)
    fenced.remove(14.0, 14.1, A, **fenced.until(30.0))
    assert told(fenced) == [((2.0, 14.1), [(2.1, 12.0), (12.5, 14.0)])]


def test_an_add_that_was_refused_leaves_muted_what_was(fenced: Writer) -> None:
    fenced.add(2.0, 2.1, A, 9.0, fence=True)
    fenced.start(20.0, A, earlier=fenced.marker(5.0, 12.0), fence=True, is_fenced=True)
    fenced.intent(21.0, "add", A, deadline=30.0)
    fenced.result(21.1, "add", A, "refused", deadline=30.0)
    fenced.own(25.0, "expire", A, "left by an earlier life: removing")
    fenced.own(25.1, "expire", A, "removed")
    assert (told(fenced), muted(fenced)) == ([((2.0, 12.05), [(2.1, 5.0)])], [(12.05, 25.1)])


def test_an_add_without_its_result_may_have_the_deadline_of_a_later_renewal(
    fenced: Writer,
) -> None:
    """That passes it while it waits. It is told by the marker only, if nothing else is held."""
    fenced.intent(2.0, "add", A, deadline=9.0)
    fenced.start(20.0, earlier=fenced.marker(3.0, 12.0), fence=True)
    assert (told(fenced), muted(fenced)) == ([((2.0, 12.05), [])], [(12.05, 20.0)])


def test_an_add_that_has_failed_may_be_done_later(fenced: Writer) -> None:
    fenced.intent(2.0, "add", A, deadline=9.0).result(3.0, "add", A, "failed", deadline=9.0)
    fenced.add(14.0, 14.1, A, 20.0, fence=True).remove(15.0, 15.1, A, **fenced.until(20.0))
    assert told(fenced) == [((2.0, 15.1), [(14.1, 15.0)])]


def test_an_add_in_the_place_of_what_is_muted_is_not_found_to_answer(fenced: Writer) -> None:
    """The next life finds the address; that may be what was there muted before."""
    fenced.add(2.0, 2.1, A, 9.0, fence=True)
    fenced.start(20.0, A, earlier=fenced.marker(5.0, 12.0), fence=True, is_fenced=True)
    fenced.intent(21.0, "add", A, deadline=40.0)
    fenced.start(22.0, A, earlier=fenced.marker(5.0, 12.0), fence=True, is_fenced=True)
    assert told(fenced.remove(23.0, 23.1, A)) == [
        ((2.0, 12.05), [(2.1, 5.0)]),
        ((21.0, 23.1), []),
    ]


def test_a_node_that_does_not_come_back_is_mute_at_its_deadline(fenced: Writer) -> None:
    fenced.add(2.0, 2.1, A, 9.0, fence=True).mark(3.0, 10.0)
    assert (told(fenced), muted(fenced)) == ([((2.0, 10.05), [(2.1, 3.0)])], [(10.05, 81.5)])


def test_a_boot_ends_what_is_muted_too(fenced: Writer) -> None:
    fenced.add(2.0, 2.1, A, 9.0, fence=True)
    earlier = fenced.marker(3.0, 10.0)
    fenced.boot, fenced.boot_at = 2, 30.0
    assert told(fenced.start(31.0, earlier=earlier)) == [((2.0, 10.05), [(2.1, 3.0)])]
    assert muted(fenced) == [(10.05, 30.0)]


def test_the_rest_is_mute_while_one_whose_deadline_has_passed_is_not_removed(
    fenced: Writer,
) -> None:
    """All that is held for an owner answers until the nearest deadline."""
    fenced.add(2.0, 2.1, A, 9.0, fence=True).add(2.0, 2.1, B, 90.0, fence=True)
    fenced.own(12.0, "expire", A, "the deadline has passed: removing", **fenced.until(9.0))
    fenced.own(12.1, "expire", A, "removed", **fenced.until(9.0))
    fenced.remove(20.0, 20.1, B, **fenced.until(90.0))
    assert told(fenced) == [
        ((2.0, 9.05), [(2.1, 9.0)]),
        ((2.0, 20.1), [(2.1, 9.0), (12.1, 20.0)]),
    ]


def test_what_a_life_left_answers_until_the_nearest_deadline_of_its_owner(fenced: Writer) -> None:
    fenced.add(2.0, 2.1, A, 90.0, fence=True).add(2.0, 2.1, B, 9.0, fence=True)
    fenced.start(10.0, A, B, earlier=fenced.marker(1.5, 90.0), fence=True, is_fenced=True)
    fenced.remove(12.0, 12.1, A)
    assert ((2.0, 12.1), []) in told(fenced)


def test_a_fence_that_is_made_anew_is_a_moment_without(fenced: Writer) -> None:
    fenced.add(2.0, 2.1, A, 90.0, fence=True).fence(5.0, "lost").fence(5.1, "made")
    fenced.remove(9.0, 9.1, A, **fenced.until(90.0))
    assert told(fenced) == [((2.0, 9.1), [(2.1, 5.0), (5.1, 9.0)])]


def test_without_its_fence_an_address_answers_until_it_is_off_the_interface(
    fenced: Writer,
) -> None:
    fenced.add(2.0, 2.1, A, 9.0, fence=True).fence(5.0, "lost")
    assert told(fenced.mark(5.1, 10.0)) == [((2.0, 81.5), [(2.1, 5.0)])]
    fenced.start(20.0, A, earlier=fenced.marker(5.1, 10.0), fence=True, is_fenced=False)
    assert told(fenced.remove(21.0, 21.1, A)) == [((2.0, 21.1), [(2.1, 5.0)])]


def test_what_was_muted_may_have_answered_until_a_lost_fence_was_made_anew(
    fenced: Writer,
) -> None:
    """Somebody had flushed it while the helper was stopped."""
    fenced.add(2.0, 2.1, A, 9.0, fence=True).fence(20.0, "lost").fence(20.1, "made")
    fenced.own(20.2, "expire", A, "removed", **fenced.until(9.0))
    assert (told(fenced), muted(fenced)) == ([((2.0, 20.1), [])], [(20.1, 20.2)])


def test_what_is_added_without_its_fence_is_so_guarded(fenced: Writer) -> None:
    fenced.fence(1.5, "lost").intent(2.0, "add", A, deadline=9.0)
    assert told(fenced.mark(1.8, 8.0)) == [((2.0, 80.5), [])]
    fenced.result(2.1, "add", A, deadline=9.0, was="absent", fence=False)
    assert told(fenced.mark(3.0, 9.0)) == [((2.0, 80.5), [])]


def test_a_record_whose_beginning_is_elsewhere_tells_by_whom_it_is_guarded(tmp_path: Path) -> None:
    node = Writer(tmp_path / "db1", number=2, is_fenced=True).write(1.0, "segment", number=2)
    node.held(1.0, A, deadline=9.0, is_fenced=True, more=True).held(1.0, B, is_fenced=True)
    node.mark(1.1, 10.0)
    verification = Verification(open_chain(node.save()), lambda _: None, from_segment=2)
    history = History(node.host)
    for record in verification.records():
        history.take(record)
    history.finish(verification.marker)
    assert [seconds(each) for each in history.intervals] == [
        ((0.0, 10.05), [(1.0, 1.1)]),
        ((0.0, float("inf")), []),
    ]


def test_what_may_have_been_put_there_by_a_life_that_wrote_elsewhere_may_answer(
    fenced: Writer,
) -> None:
    fenced.add(2.0, 2.1, A, 9.0, fence=True)
    fenced.start(5.0, A, earlier=fenced.marker(3.0, 9.0), is_known=False, fence=True)
    assert told(fenced) == [((2.0, float("inf")), [(2.1, 3.0)])]


def test_what_is_found_and_not_known_to_be_fenced_may_be(fenced: Writer) -> None:
    assert told(fenced.start(3.0, A, fence=True).remove(5.0, 5.1, A)) == [((0.0, 5.1), [])]


def test_without_a_marker_it_is_not_known_how_long_what_is_left_has_answered(
    fenced: Writer,
) -> None:
    fenced.add(2.0, 2.1, A, 9.0, fence=True).add(2.5, 2.6, A, 9.0, "present", fence=True)
    fenced.start(5.0, A, fence=True, is_fenced=True).remove(6.0, 6.1, A)
    assert told(fenced) == [((2.0, 6.1), [])]


def test_an_add_of_what_is_left_may_have_brought_its_end_nearer(fenced: Writer) -> None:
    """Its result is not told, in the life that asked for it or in one before."""
    fenced.add(2.0, 2.1, A, 30.0, fence=True)
    fenced.start(4.0, A, earlier=fenced.marker(1.5), fence=True, is_fenced=True)
    fenced.intent(5.0, "add", A, deadline=8.0)
    fenced.start(10.0, A, earlier=fenced.marker(1.5), fence=True, is_fenced=True)
    assert told(fenced.remove(12.0, 12.1, A)) == [((2.0, 12.1), [])]
