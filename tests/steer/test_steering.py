"""The way from a request to an exit status: look, plan, ask, commit, wait."""

import argparse
from dataclasses import replace

import pytest

from tests.steer.clusters import at, cluster, control, name, node
from tests.steer.schemas import validated
from tests.steer.store import Clock, Operations
from yaim.cli.steering import Steering
from yaim.core.model import ClusterView
from yaim.dcs.operate import Change, Conflict, RemoveDrain
from yaim.dcs.store import NotPermitted, StoreError, StoreFull, Unreachable
from yaim.steer.applied import applied
from yaim.steer.outcome import End, Outcome, as_json
from yaim.steer.plan import Going, Staying
from yaim.steer.requests import Drain, MoveTo, Pause, Request, Undrain

N1, N2, N3 = name(1), name(2), name(3)
DRAIN = Drain((N1,), "new disk")


def run(
    operations: Operations,
    request: Request = DRAIN,
    *,
    is_waiting: bool = True,
    clock: Clock | None = None,
    **given: object,
) -> Outcome:
    """What it comes to, after what is shown was printed."""
    options = argparse.Namespace(**{"yes": True, "plan": False, "json": False} | given)
    options.timeout_s = 60
    steering = Steering(
        options,
        operations,
        "yaim undrain n1",
        is_waiting=is_waiting,
        clock=clock or Clock(),
    )
    outcome = steering.run(request)
    told = validated(as_json(outcome, "/service/yaim/", "2026-12-01T03:00:00Z", "alice@db9"))
    assert told["exit_status"] == outcome.end.status
    steering.show(outcome)
    return outcome


def there(view: ClusterView | None = None) -> Operations:
    return Operations(view or cluster("112233"))


def test_a_drain_is_shown_made_and_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    operations = there()
    outcome = run(operations)
    assert (outcome.end, outcome.revision) == (End.DONE, 8)
    assert [change.command for change, _ in operations.committed] == ["drain"]
    out, err = capsys.readouterr()
    assert (out.splitlines(), err) == (
        [
            "192.0.2.1        n1 -> n2",
            "192.0.2.2        n1 -> n3",
            "",
            "NODE  NOW  THEN",
            "n1    2    0     drained",
            "n2    2    3",
            "n3    2    3",
            "",
            "drain: done after 0.1 s. `yaim undrain n1` takes it back.",
        ],
        "",
    )


def test_a_plan_changes_nothing() -> None:
    operations = there()
    assert run(operations, plan=True).end is End.PLANNED
    assert operations.committed == []


def test_what_is_refused_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    operations = there()
    outcome = run(operations, MoveTo(at(1), name(9)))
    assert (outcome.end, operations.committed) == (End.REFUSED, [])
    assert capsys.readouterr().err.splitlines() == [
        "yaim: move: no node is called n9: there are n1, n2, n3",
        "yaim: nothing was changed",
    ]


def test_what_is_so_already_is_done() -> None:
    view = replace(cluster("223322"), control=control(drains=(1,)))
    view = replace(view, nodes=cluster("1", [node(n, followed=5) for n in (1, 2, 3)]).nodes)
    operations = there(view)
    assert run(operations, Drain((N1,))).end is End.ALREADY
    assert run(operations, Undrain((N2,))).end is End.ALREADY
    assert operations.committed == []


def test_a_drain_that_stands_already_is_waited_for() -> None:
    view = replace(cluster("112233"), control=control(drains=(1,)))
    outcome = run(there(view), Drain((N1,)))
    assert (outcome.end, outcome.silent) == (End.TIMEOUT, (N1, N2, N3))


def test_whoever_does_not_wait_is_told_that_it_stands() -> None:
    outcome = run(there(), is_waiting=False)
    assert (outcome.end, outcome.waited_s) == (End.ASKED, None)


def test_a_node_that_does_not_follow_is_named_at_the_end_of_the_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    outcome = run(Operations(cluster("112233"), silent=frozenset({N3})), clock=clock)
    assert (outcome.end, outcome.silent, outcome.left) == (End.TIMEOUT, (N3,), ())
    assert 60 <= clock.at - 100 < 61
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "yaim: 5 s: not followed yet by n3"
    assert err[-2:] == [
        "yaim: drain: not done after 60.0 s; it stands, and goes on. `yaim undrain n1` takes it"
        " back.",
        "yaim: not followed yet by n3: see its log",
    ]


def test_what_does_not_move_is_named() -> None:
    outcome = run(Operations(cluster("112233"), is_moving=False))
    assert outcome.end is End.TIMEOUT
    assert Going(at(1), N1, N2) in outcome.left


def test_what_is_blocked_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    view = cluster("12", (node(1), node(2, is_healthy=False)))
    clock = Clock()
    outcome = run(there(view), Drain((N1,), is_forced=True), clock=clock)
    assert (outcome.end, clock.at - 100 < 1) == (End.BLOCKED, True)
    assert outcome.blocked == tuple(Staying(at(n), N1, "unhealthy: n2") for n in (1, 2))
    assert (
        "yaim: 192.0.2.1, 192.0.2.2 stay on n1: unhealthy: n2"
        in capsys.readouterr().err.splitlines()
    )


def test_a_drain_that_another_operator_takes_back_is_overtaken() -> None:
    def undrain(store: Operations) -> None:
        if store.committed:
            store.view = applied(store.view, Change("undrain", deletes=(RemoveDrain(N1),)))

    operations = Operations(cluster("112233"), before_look=[undrain, undrain])
    outcome = run(operations)
    assert (outcome.end, outcome.error) == (End.OVERTAKEN, "n1 is not drained any more")


# --- two operators at once -----------------------------------------------------------------------

FASTER = Conflict("bob@db2 has changed something (pause)")


def test_if_another_operator_was_faster_it_is_planned_anew() -> None:
    operations = Operations(cluster("112233"), answers=[FASTER, FASTER])
    assert run(operations).end is End.DONE


def test_after_three_such_times_it_gives_up() -> None:
    operations = Operations(cluster("112233"), answers=[FASTER] * 3)
    outcome = run(operations)
    assert (outcome.end, outcome.error) == (End.CONFLICT, FASTER.reason)
    assert operations.committed == []


# --- a store that does not ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (NotPermitted("no right"), End.NOT_PERMITTED),
        (StoreFull("full"), End.FULL),
        (Unreachable("nobody answers"), End.UNREACHABLE),
        (StoreError("a file is missing"), End.UNREACHABLE),
    ],
)
def test_a_store_that_refuses_is_told(error: StoreError, end: End) -> None:
    outcome = run(Operations(cluster("112233"), answers=[error]))
    assert (outcome.end, outcome.revision) == (end, None)
    assert str(error) in outcome.error
    assert outcome.plan is not None


def test_a_commit_without_an_answer_may_have_been_made() -> None:
    outcome = run(Operations(cluster("112233"), answers=[Unreachable("no answer")]))
    assert outcome.error == (
        "no answer; whether it was done is not known: the same command again is harmless"
    )


def test_a_store_that_cannot_be_read_at_first_is_told_with_every_key() -> None:
    def fail(_: Operations) -> None:
        raise Unreachable("nobody answers")

    outcome = run(Operations(cluster("112233"), before_look=[fail]))
    assert outcome == Outcome("drain", End.UNREACHABLE, error="nobody answers")


def test_an_outage_while_it_waits_is_waited_out() -> None:
    def fail(_: Operations) -> None:
        raise Unreachable("nobody answers")

    def well(_: Operations) -> None:
        pass

    operations = Operations(cluster("112233"), before_look=[well, fail, fail])
    assert run(operations).end is End.DONE


def test_an_outage_to_the_end_of_the_time_is_not_taken_for_done() -> None:
    def fail(_: Operations) -> None:
        raise Unreachable("nobody answers")

    operations = Operations(cluster("112233"), before_look=[lambda _: None, *[fail] * 1000])
    outcome = run(operations)
    assert (outcome.end, outcome.error) == (End.TIMEOUT, "nobody answers")


def test_a_pause_is_done_when_all_have_followed() -> None:
    assert run(there(), Pause("vacuum")).end is End.DONE
