"""How much of whom is read, and what of it is told: without a helper process."""

import socket
from collections.abc import Iterator

import pytest
from yaim_helper.clock import boottime as now
from yaim_helper.owners import Peer
from yaim_helper.protocol import List, Ok
from yaim_helper.serve.asked import Asked
from yaim_helper.serve.connections import (
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_OF_USER,
    Connection,
    why_no_room,
)
from yaim_helper.serve.floods import MAX_USERS, REST_S, TOLD_ONE_BY_ONE, Floods, TokenBucket
from yaim_helper.serve.sources import Sources

from tests.helper.network import boottime


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield one, other


def connection(uid: int, socket_: socket.socket) -> Connection:
    return Connection(socket_, Peer(1, uid, uid), boottime())


# --- how much a user may send --------------------------------------------------------------------


def test_a_second_of_commands_may_come_at_once() -> None:
    assert TokenBucket(1000, 1000, at=5.0).whole(5.0) == 1000


def test_what_was_not_used_does_not_add_up() -> None:
    assert TokenBucket(1000, 1000, at=5.0).whole(500.0) == 1000


def test_what_is_spent_comes_back_in_a_second() -> None:
    allowance = TokenBucket(10, 10, at=5.0)
    allowance.spend(10)
    assert [allowance.whole(at) for at in (5.0, 5.05, 5.11, 5.5, 6.0, 6.5)] == [0, 0, 1, 5, 10, 10]


@pytest.mark.parametrize(
    ("count", "took_s", "left"), [(3, 0.0, 97), (3, 0.01, 97), (3, 0.1, 80), (3, 2.0, -300)]
)
def test_who_keeps_the_helper_busy_has_spent_twice_that_time(
    count: int, took_s: float, left: int
) -> None:
    allowance = TokenBucket(100, 100, at=5.0)
    allowance.spend(count, took_s)
    assert allowance.whole(5.0) == left


@pytest.mark.parametrize(
    ("per_second", "rest_s"), [(1, 1.0), (2, 0.5), (20, REST_S), (1000, REST_S)]
)
def test_who_has_nothing_left_rests_until_there_is_something(
    per_second: int, rest_s: float
) -> None:
    allowance = TokenBucket(per_second, 0, at=5.0)
    assert allowance.whole(5.0) == 0
    assert allowance.rest_until() == pytest.approx(5.0 + rest_s)
    assert allowance.whole(allowance.rest_until() + 1e-9) >= 1


# --- how many connections ------------------------------------------------------------------------


def test_who_may_connect(pair: tuple[socket.socket, socket.socket]) -> None:
    users = range(1, 20)
    of_one = [connection(1, pair[0]) for _ in range(MAX_CONNECTIONS_OF_USER)]
    of_all = [connection(uid, pair[0]) for uid in range(1, 9) for _ in range(MAX_CONNECTIONS // 8)]
    assert why_no_room(Peer(1, 1, 1), users, of_one[1:]) is None
    assert why_no_room(Peer(1, 2, 2), users, of_one) is None
    assert why_no_room(Peer(1, 0, 1), users, []) == "its user is not in the policy"
    assert why_no_room(Peer(1, 1, 1), users, of_one) == "its user has 8 connections already"
    assert why_no_room(Peer(1, 9, 9), users, of_all[1:]) is None
    assert why_no_room(Peer(1, 9, 9), users, of_all) == "there are 64 connections already"


# --- what is read --------------------------------------------------------------------------------


def test_what_rests_is_not_ready_until_it_is_woken(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sources = Sources()
    sources.add(pair[0], "one")
    pair[1].send(b"x")
    at = now()
    assert sources.ready(0) == [(pair[0], "one")]
    sources.rest(pair[0], at + 1)
    sources.rest(pair[0], at + 2)
    assert sources.wake_at() == [at + 2]
    sources.wake(at + 1.5)
    assert sources.ready(0) == []
    sources.wake(at + 2)
    assert (sources.ready(0), sources.wake_at()) == ([(pair[0], "one")], [])


def test_what_is_removed_while_it_rests_does_not_come_back(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sources = Sources()
    for each in pair:
        sources.add(each)
        each.send(b"x")
    sources.rest(pair[0], 1.0)
    for each in pair:
        sources.remove(each)
    sources.wake(2.0)
    assert sources.ready(0) == []


# --- what is replied -----------------------------------------------------------------------------


def test_who_does_not_take_a_reply_gets_no_more_and_what_was_asked_goes_on(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """An add that waits for the disk is over only when it is done, or not done."""
    at = now()
    first, second = (Asked(List(number, None), at, reply=Ok({})) for number in (1, 2))
    second.reply = None
    here = connection(1, pair[0])
    here.asked.extend((first, second))
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        here.reply()
    assert list(here.asked) == [second] and not here.takes_replies
    second.reply = Ok({})
    here.reply()
    assert not here.asked


# --- what is told --------------------------------------------------------------------------------


def test_the_first_of_each_user_and_kind_are_told_and_the_others_counted() -> None:
    floods = Floods()
    told = [
        floods.takes(uid, what)
        for what in ("refused", "hung-up")
        for uid in (1, 2)
        for _ in range(15)
    ]
    assert told == ([True] * TOLD_ONE_BY_ONE + [False] * 5) * 4
    counts = [{"uid": u, "what": w, "count": 5} for w in ("refused", "hung-up") for u in (1, 2)]
    assert floods.sum_up() == [{"type": "summary", "counts": counts}]
    assert floods.sum_up() == []
    assert floods.takes(1, "refused")


def test_very_many_users_are_counted_together() -> None:
    floods = Floods()
    for uid in range(1000):
        floods.takes(uid, "hung-up")
    untold = 1000 - MAX_USERS - TOLD_ONE_BY_ONE
    (summary,) = floods.sum_up()
    assert summary["counts"] == [{"uid": None, "what": "hung-up", "count": untold}]
