"""When a node held which address, as its record tells it."""

import time
from pathlib import Path
from typing import Any

import pytest
from yaim_helper.tools.history import FOREVER, HeldInterval, History
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
    assert told(node.remove(3.0, 3.1, A)) == [((2.0, 3.1), [(2.2, 3.0)])]


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
