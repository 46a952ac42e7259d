"""The floor, and the thread for what may wait for the kernel."""

import threading
import time
from collections.abc import Iterator

import pytest
from yaim_helper.jobs import Floor, Inline, RoutingThread

from tests.helper.network import is_readable, wait_for


@pytest.fixture
def routing() -> Iterator[RoutingThread]:
    """The test is the loop, and has the floor."""
    routing = RoutingThread()
    yield routing
    routing.close()


def wait_until_done(routing: RoutingThread) -> None:
    with routing.waiting():
        assert is_readable(routing, 20.0)
    routing.take_done()


def test_without_a_thread_a_job_is_done_as_soon_as_it_is_started() -> None:
    jobs = Inline()
    done: list[str] = []
    with jobs.waiting():
        jobs.start(lambda: done.append("first"))
    with jobs.asking():
        assert (done, jobs.may_ask_kernel) == (["first"], True)


def test_who_waits_for_the_floor_gets_it_before_the_other_has_it_again() -> None:
    floor = Floor()
    order: list[str] = []
    waits = threading.Event()

    def other() -> None:
        waits.set()
        floor.take()
        order.append("other")
        floor.leave()

    for number in range(100):
        floor.take()
        waits.clear()
        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        waits.wait()
        wait_for(floor._next.locked, "it waits")
        with floor.left():
            pass
        order.append("we")
        floor.leave()
        thread.join()
        assert order == ["other", "we"] * (number + 1)


def test_the_floor_is_taken_again_also_when_something_fails_meanwhile() -> None:
    floor = Floor()
    floor.take()
    with pytest.raises(KeyError), floor.left():
        raise KeyError
    assert floor._it.locked()


def test_nothing_of_a_job_is_done_while_the_loop_works(routing: RoutingThread) -> None:
    done: list[str] = []
    routing.start(lambda: done.append("it"))
    time.sleep(0.05)
    assert (done, is_readable(routing)) == ([], False)
    wait_until_done(routing)
    assert done == ["it"]


def test_the_loop_does_not_work_while_a_job_does(routing: RoutingThread) -> None:
    """Though it has something to do."""
    events: list[str] = []
    begun = threading.Event()

    def job() -> None:
        begun.set()
        time.sleep(0.05)
        events.append("the job has worked")

    routing.start(job)
    with routing.waiting():
        assert begun.wait(20.0)
    events.append("the loop works")
    assert events == ["the job has worked", "the loop works"]


def test_jobs_are_done_one_after_the_other(routing: RoutingThread) -> None:
    done: list[int] = []
    for number in range(5):
        routing.start(lambda number=number: done.append(number))  # type: ignore[misc]
    while len(done) < 5:
        wait_until_done(routing)
    assert done == [0, 1, 2, 3, 4]


def test_a_job_may_start_another(routing: RoutingThread) -> None:
    done: list[str] = []

    def first() -> None:
        routing.start(lambda: done.append("second"))
        done.append("first")

    routing.start(first)
    while len(done) < 2:
        wait_until_done(routing)
    assert done == ["first", "second"]
    assert routing.may_ask_kernel


def test_the_loop_goes_on_while_a_job_asks_the_kernel(routing: RoutingThread) -> None:
    events: list[str] = []
    asks, is_answered = threading.Event(), threading.Event()

    def job() -> None:
        assert routing.may_ask_kernel
        with routing.asking():
            asks.set()
            assert is_answered.wait(20.0)
        events.append("it was answered")

    routing.start(job)
    with routing.waiting():
        assert asks.wait(20.0)
    assert not routing.may_ask_kernel, "a job is just asking"
    is_answered.set()
    time.sleep(0.05)
    events.append("the loop works")
    wait_until_done(routing)
    assert routing.may_ask_kernel
    assert events == ["the loop works", "it was answered"]


def test_the_loop_keeps_the_floor_when_it_asks_the_kernel(routing: RoutingThread) -> None:
    """It does so before it is a loop, when there is no job."""
    done: list[str] = []
    with routing.asking():
        routing.start(lambda: done.append("it"))
        time.sleep(0.05)
        assert done == []


def test_a_job_that_raises_ends_the_loop(routing: RoutingThread) -> None:
    """Nobody knows what was done."""

    def job() -> None:
        raise KeyError("whatever")

    routing.start(job)
    with pytest.raises(KeyError, match="whatever"):
        wait_until_done(routing)


def test_there_may_be_nothing_to_take_notice_of(routing: RoutingThread) -> None:
    routing.take_done()
    assert not is_readable(routing)
