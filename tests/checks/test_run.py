"""How a check is repeated, how long it may take altogether, and what is told of it when."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue

import pytest

from yaim.checks.http import HttpCheck
from yaim.checks.kinds import KINDS
from yaim.checks.run import SLACK_S, CheckPlan, CheckRunner, run_check
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy
from yaim.core.events import CheckAnswered
from yaim.core.model import Boottime
from yaim.host.boottime import boottime

PATIENT_S = 20.0
NEVER_S = 3600.0

WELL = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
ILL = b"HTTP/1.1 503 Oh no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
BROKEN = b""
"""Breaks off: cannot tell."""
SILENT = None


class Service:
    """Answers the first request with the first of these, the next with the next, and all that
    follow with the last."""

    def __init__(self, *answers: bytes | None) -> None:
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self.request_count = 0
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            answer = self._answers[min(self.request_count, len(self._answers) - 1)]
            if answer is None:
                self._open.append(connection)
            self.request_count += 1
            if answer is None:
                continue
            try:
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)
            except OSError:
                pass  # the client has gone

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.let_go()

    def let_go(self) -> None:
        """Closes the connections of those who wait for an answer in vain."""
        for each in self._open:
            each.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    """Starts services, and ends them."""
    services: list[Service] = []

    def start(*answers: bytes | None) -> Service:
        services.append(Service(*answers))
        return services[-1]

    yield start
    for each in services:
        each.close()


def plan(
    url: str,
    *,
    name: str = "service",
    interval_s: float = NEVER_S,
    within_s: float = PATIENT_S,
    retry_num: int = 0,
    retry_after_s: float = 0.0,
) -> CheckPlan:
    return CheckPlan(
        name, KINDS["http"], HttpCheck(url), interval_s, within_s, retry_num, retry_after_s
    )


def wait_until(is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENT_S
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def found(told: CheckAnswered) -> str:
    """The reason without how long it took."""
    return re.sub(r" \((\d+ tries, )?\d+ ms\)$", "", told.reason)


# --- one whole check -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("within_s", "retry_num", "retry_after_s", "attempt_s"),
    [(5.0, 3, 0.25, 1.0225), (5.0, 0, 0.25, 4.96), (9.0, 2, 0.0, 2.96), (3.0, 4, 0.625, 0.06)],
)
def test_the_attempts_share_the_time_that_the_pauses_leave(
    within_s: float, retry_num: int, retry_after_s: float, attempt_s: float
) -> None:
    planned = plan("", within_s=within_s, retry_num=retry_num, retry_after_s=retry_after_s)
    assert planned.attempt_s == pytest.approx(attempt_s)


def test_an_attempt_that_cannot_tell_is_repeated_as_often_as_asked_for_after_pauses(
    serve: Callable[..., Service],
) -> None:
    service, pauses = serve(BROKEN), list[float]()
    result = run_check(plan(service.url, retry_num=2, retry_after_s=0.25), pauses.append)
    assert (type(result.verdict), result.tries) == (CannotTell, 3)
    assert (service.request_count, pauses) == (3, [0.25, 0.25])


def test_without_retries_there_is_one_attempt(serve: Callable[..., Service]) -> None:
    service, pauses = serve(BROKEN), list[float]()
    result = run_check(plan(service.url), pauses.append)
    assert (type(result.verdict), result.tries) == (CannotTell, 1)
    assert (service.request_count, pauses) == (1, [])


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [(WELL, Healthy("HTTP 200")), (ILL, Unhealthy("HTTP 503, expected 200"))],
)
def test_a_definite_answer_is_not_asked_for_again(
    answer: bytes, verdict: Healthy | Unhealthy, serve: Callable[..., Service]
) -> None:
    service, pauses = serve(answer), list[float]()
    assert run_check(plan(service.url, retry_num=3), pauses.append).verdict == verdict
    assert (service.request_count, pauses) == (1, [])


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [(WELL, Healthy("HTTP 200")), (ILL, Unhealthy("HTTP 503, expected 200"))],
)
def test_the_first_definite_answer_is_the_verdict(
    answer: bytes, verdict: Healthy | Unhealthy, serve: Callable[..., Service]
) -> None:
    service, pauses = serve(BROKEN, BROKEN, answer, BROKEN), list[float]()
    result = run_check(plan(service.url, retry_num=5, retry_after_s=0.1), pauses.append)
    assert (result.verdict, result.tries) == (verdict, 3)
    assert (service.request_count, pauses) == (3, [0.1, 0.1])


def test_a_pause_may_say_to_give_up(serve: Callable[..., Service]) -> None:
    service, pauses = serve(BROKEN), list[float]()

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) == 2

    result = run_check(plan(service.url, retry_num=5, retry_after_s=0.25), pause)
    assert isinstance(result.verdict, CannotTell)
    assert (service.request_count, pauses) == (2, [0.25, 0.25])


def test_a_whole_check_keeps_within_its_bound(serve: Callable[..., Service]) -> None:
    """A busy machine may need several tries to be in time itself."""
    for _ in range(10):
        service = serve(SILENT)
        planned = plan(service.url, within_s=1.1, retry_num=2, retry_after_s=0.1)
        started = time.monotonic()
        result = run_check(planned, threading.Event().wait)
        took_s = time.monotonic() - started
        if result.took_s < 1.1 and took_s < 1.1 + SLACK_S:
            break
    assert took_s < 1.1 + SLACK_S
    assert result.verdict == CannotTell("no answer within 0.26 s")
    assert 0.8 < result.took_s < 1.1
    assert str(result) == f"no answer within 0.26 s (3 tries, {1000 * result.took_s:.0f} ms)"
    wait_until(lambda: service.request_count == 3)  # it may take the last one later


# --- again and again -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """What a runner has told, and when."""

    what: CheckAnswered
    at: Boottime


class Runner:
    """A CheckRunner and what it has told."""

    def __init__(self, *planned: CheckPlan) -> None:
        self._told: SimpleQueue[Told] = SimpleQueue()
        self.started_at = boottime()
        self._runner = CheckRunner(planned, self._listen)

    def _listen(self, what: CheckAnswered) -> None:
        self._told.put(Told(what, boottime()))

    def use(self, *planned: CheckPlan) -> None:
        self._runner.use(planned)

    def make_now(self) -> None:
        self._runner.make_now()

    def next(self) -> Told:
        return self._told.get(timeout=PATIENT_S)

    def is_silent(self) -> bool:
        return self._told.empty()


@pytest.fixture
def run() -> Iterator[Callable[..., Runner]]:
    """Starts runners, and ends them."""
    runners: list[Runner] = []

    def start(*planned: CheckPlan) -> Runner:
        runners.append(Runner(*planned))
        return runners[-1]

    yield start
    for each in runners:
        each.use()
    wait_until(lambda: not is_made("check "))


def is_made(beginning: str) -> bool:
    """Whether a check whose thread's name begins so is being made, or waits for the next time."""
    return any(thread.name.startswith(beginning) for thread in threading.enumerate())


def test_a_check_is_made_at_once_and_told(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    told = run(plan(serve(WELL).url)).next()
    assert (told.what.check, told.what.is_healthy) == ("service", True)
    assert re.fullmatch(r"HTTP 200 \(\d+ ms\)", told.what.reason)


def test_a_check_is_made_again_and_again(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    runner = run(plan(serve(WELL, ILL, BROKEN, WELL).url, interval_s=0.1))
    told = [runner.next().what for _ in range(6)]
    assert [each.is_healthy for each in told] == [True, False, False, True, True, True]
    assert [found(each) for each in told[:2]] == ["HTTP 200", "HTTP 503, expected 200"]
    valid = [each.valid_until for each in told]
    assert valid == sorted(set(valid))


def test_the_next_check_is_made_after_the_interval(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    runner = run(plan(serve(WELL).url, interval_s=0.3))
    started = [runner.next().what.valid_until for _ in range(3)]
    assert all(later - earlier > 0.29 for earlier, later in pairwise(started))


def test_a_verdict_is_valid_until_the_next_one_must_have_come(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    """The next check begins an interval after the start of this one, and may take its bound."""
    runner = run(plan(serve(WELL).url, interval_s=30.0, within_s=5.0))
    told = runner.next()
    started_at = told.what.valid_until - 30.0 - 5.0 - SLACK_S
    assert runner.started_at <= started_at + 0.001
    assert started_at <= told.at + 0.001


def test_a_service_that_hangs_is_told_to_be_unhealthy_within_the_bound(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    planned = plan(serve(SILENT).url, within_s=0.9, retry_num=1, retry_after_s=0.1)
    runner = run(planned)
    told = runner.next()
    assert (told.what.is_healthy, found(told.what)) == (False, "no answer within 0.36 s")
    assert told.at - runner.started_at < 0.9 + SLACK_S


def test_a_check_that_takes_longer_than_the_interval_is_followed_by_the_next_at_once(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    runner = run(plan(serve(SILENT, WELL).url, interval_s=2.0, within_s=2.1))
    first, second = runner.next().what, runner.next().what
    assert (first.is_healthy, second.is_healthy) == (False, True)
    assert second.valid_until - first.valid_until < 2.1 + 2.0


def test_a_new_plan_takes_effect_at_once(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    runner = run(plan(serve(WELL).url))
    before = runner.next().what
    runner.use(plan(serve(ILL).url))
    after = runner.next().what
    assert (found(before), found(after)) == ("HTTP 200", "HTTP 503, expected 200")


def test_what_the_old_plan_finds_after_a_new_one_is_given_is_not_told(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    old, new = serve(SILENT), serve(WELL)
    runner = run(plan(old.url, within_s=2.0))
    wait_until(lambda: old.request_count > 0)
    runner.use(plan(new.url))
    assert found(runner.next().what) == "HTTP 200"
    assert (old.request_count, runner.is_silent()) == (1, True)


def test_a_new_plan_does_not_wait_for_the_retries_of_the_old_one(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    """On a busy machine the second try may begin before the new plan is given."""
    for _ in range(10):
        old, new = serve(SILENT), serve(WELL)
        runner = run(plan(old.url, within_s=10.0, retry_num=5))
        wait_until(lambda old=old: old.request_count > 0)  # type: ignore[misc]
        runner.use(plan(new.url))
        assert found(runner.next().what) == "HTTP 200"
        if old.request_count == 1:
            break
    assert old.request_count == 1


# --- several -------------------------------------------------------------------------------------


def test_a_check_that_hangs_does_not_delay_another(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    silent = serve(SILENT)
    hangs = plan(silent.url, name="hangs")
    answers = plan(serve(WELL).url, name="answers", interval_s=0.1)
    runner = run(hangs, answers)
    told = [runner.next().what.check for _ in range(5)]
    assert told == ["answers"] * 5
    wait_until(lambda: silent.request_count == 1)
    silent.let_go()


def test_a_check_that_is_no_more_tells_nothing_more(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    stays, goes = serve(WELL), serve(SILENT)
    keeping = plan(stays.url, name="stays", interval_s=0.1)
    runner = run(keeping, plan(goes.url, name="goes", within_s=2.0))
    runner.use(keeping)
    wait_until(lambda: not is_made("check goes"))
    told = {runner.next().what.check for _ in range(8)}
    while not runner.is_silent():
        told.add(runner.next().what.check)
    assert (told, goes.request_count <= 1) == ({"stays"}, True)


def test_a_check_that_has_not_changed_goes_on_at_its_pace(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    same, other = serve(WELL), serve(WELL)
    runner = run(plan(same.url, name="same"))
    assert runner.next().what.check == "same"
    runner.use(plan(same.url, name="same"), plan(other.url, name="other"))
    assert runner.next().what.check == "other"
    assert (same.request_count, runner.is_silent()) == (1, True)


def test_checks_that_are_asked_for_now_are_all_made_at_once(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    one, other = serve(WELL, ILL), serve(WELL)
    runner = run(plan(one.url, name="one"), plan(other.url, name="other"))
    assert {runner.next().what.check for _ in range(2)} == {"one", "other"}
    asked_at = boottime()
    runner.make_now()
    again = {told.what.check: told for told in (runner.next(), runner.next())}
    assert {name: told.what.is_healthy for name, told in again.items()} == {
        "one": False,
        "other": True,
    }
    assert all(told.at - asked_at < 1.0 for told in again.values())
    assert (one.request_count, other.request_count) == (2, 2)


def test_one_that_is_under_way_is_made_once_more_when_it_has_ended(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    """It may have looked before there was a reason to."""
    service = serve(SILENT, ILL)
    runner = run(plan(service.url, within_s=0.6))
    wait_until(lambda: service.request_count == 1)
    for _ in range(5):
        runner.make_now()
    assert found(runner.next().what) == "no answer within 0.56 s"
    assert found(runner.next().what) == "HTTP 503, expected 200"
    assert (service.request_count, runner.is_silent()) == (2, True)


def test_after_a_check_out_of_turn_the_next_comes_an_interval_later(
    serve: Callable[..., Service], run: Callable[..., Runner]
) -> None:
    runner = run(plan(serve(WELL).url, interval_s=1.0))
    runner.next()
    runner.make_now()
    started = [runner.next().what.valid_until for _ in range(2)]
    assert 0.99 < started[1] - started[0] < 1.5
