"""What of the requests on a connection may be done while the record's disk has not answered."""

import math
from collections import deque
from ipaddress import IPv4Address

import pytest
from yaim_helper.protocol import (
    Add,
    Announce,
    Failed,
    Hello,
    List,
    Ok,
    Refused,
    Remove,
    Renew,
    Reply,
    Request,
)
from yaim_helper.record.recorder import Handed
from yaim_helper.serve.asked import (
    BEHIND_OTHERS,
    DISK_HANGS,
    GIVE_UP_AFTER_S,
    HUNG_UP,
    KERNEL_WAITS,
    NOT_WRITTEN,
    OVERTAKE_AFTER_S,
    OVERTAKEN,
    Asked,
    overtaken,
    ready,
)

A, B = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
T = 1000.0
"""When all is asked."""
SOON, LATE, TOO_LATE = T + 0.01, T + OVERTAKE_AFTER_S, T + GIVE_UP_AFTER_S
FAR, NEAR = 60 * 10**9, 30 * 10**9


def add(number: int, address: IPv4Address = A) -> Add:
    return Add(number, "eth0", address, 32, "", FAR)


def asked(*requests: Request, is_on_record: bool | None = None) -> deque[Asked]:
    """Together."""
    handed = Handed([], {}, T, is_on_record=is_on_record)
    return deque(
        Asked(each, T, None, handed if isinstance(each, Add | Remove | Announce) else None)
        for each in requests
    )


def numbers(found: list[Asked]) -> list[int]:
    return [each.request.id for each in found]


def test_all_is_done_in_order_when_the_disk_has_answered() -> None:
    requests = asked(add(1), Remove(2, A), add(3), Announce(4, A), is_on_record=True)
    found, look_at = ready(requests, SOON)
    assert (numbers(found), look_at) == ([1, 2, 3, 4], math.inf)
    assert [each.obstacle(SOON) for each in found] == [None] * 4


def test_what_comes_behind_an_add_waits_with_it_for_a_disk_that_is_well() -> None:
    requests = asked(Remove(1, B), add(2), Remove(3, A), Renew(4, FAR), List(5, None))
    found, look_at = ready(requests, SOON)
    assert (numbers(found), look_at) == ([1], LATE)


def test_removals_and_renewals_overtake_adds_when_the_disk_is_slow() -> None:
    requests = asked(add(1), Remove(2, B), Announce(3, B), Renew(4, FAR), Renew(5, FAR))
    found, look_at = ready(requests, LATE)
    assert (numbers(found), look_at) == ([2, 4], LATE), "the second renewal has a turn of its own"
    for each in found:
        each.reply = Ok({})
    found, look_at = ready(requests, LATE)
    assert (numbers(found), look_at) == ([5], TOO_LATE), "what it overtook does not wait for ever"


def test_a_list_tells_of_what_was_added_before_it() -> None:
    requests = asked(add(1), List(2, None))
    assert ready(requests, LATE) == ([], TOO_LATE)


def test_an_add_does_not_wait_for_ever() -> None:
    """And is not done later: what is over has a reply, and is not ready again."""
    requests = asked(add(1), Announce(2, A))
    assert ready(requests, TOO_LATE - 0.001) == ([], TOO_LATE)
    found, look_at = ready(requests, TOO_LATE)
    assert (numbers(found), look_at) == ([1, 2], math.inf)
    assert [each.obstacle(TOO_LATE) for each in found] == [DISK_HANGS] * 2
    for each in requests:
        each.reply = each.obstacle(TOO_LATE)
    assert requests[0].intent is not None
    requests[0].intent.is_on_record = True
    assert ready(requests, TOO_LATE) == ([], math.inf)


def test_an_add_whose_intent_is_on_the_disk_too_late_is_not_done() -> None:
    """Its coordinator waits for it no more."""
    requests = asked(add(1), Announce(2, A), Remove(3, A), is_on_record=True)
    assert [each.obstacle(TOO_LATE - 0.001) for each in requests] == [None] * 3
    assert [each.obstacle(TOO_LATE) for each in requests] == [DISK_HANGS, DISK_HANGS, None]


def test_an_add_whose_intent_could_not_be_written_is_not_done() -> None:
    requests = asked(add(1), Remove(2, A), is_on_record=False)
    found, _ = ready(requests, SOON)
    assert [each.obstacle(SOON) for each in found] == [NOT_WRITTEN, None]


def test_what_is_known_at_once_waits_only_for_its_turn() -> None:
    requests = asked(add(1))
    requests.append(Asked(add(2), T, known=DISK_HANGS))
    assert ready(requests, SOON) == ([], LATE)
    assert numbers(ready(requests, LATE)[0]) == [2]


def test_an_add_is_over_when_the_removal_of_its_address_overtakes_it() -> None:
    requests = asked(add(1), add(2, B), Remove(3, A), add(4))
    first, other, removal, later = requests
    assert overtaken(requests, removal) == [first]
    assert (first.reply, other.reply, later.reply) == (OVERTAKEN, None, None)


def test_an_add_is_for_the_nearer_deadline_of_a_renewal_that_overtakes_it() -> None:
    """A farther one is none that its intent tells: the next renewal is."""
    requests = asked(add(1), Announce(2, A), Renew(3, NEAR), Renew(4, 2 * FAR), add(5, B))
    done = asked(add(0))[0]
    done.reply = Ok({"was": "absent"})
    requests.appendleft(done)
    _, first, _, nearer, farther, later = requests
    assert overtaken(requests, nearer) == overtaken(requests, farther) == []
    assert isinstance(first.request, Add)
    assert (first.request.deadline_ns, done.request, later.request) == (NEAR, add(0), add(5, B))


@pytest.mark.parametrize("reply", [NOT_WRITTEN, DISK_HANGS, OVERTAKEN, None])
def test_the_record_knows_that_nothing_was_done(reply: Failed | None) -> None:
    """The protocol's `failed` leaves it open, and a coordinator that is told `refused` would leave
    the address to others for long."""
    reason = (reply or HUNG_UP).reason
    assert Asked(add(1), T, reply=reply).on_record == Refused("record", reason)


def test_other_replies_are_on_record_as_they_are() -> None:
    for reply in (Ok({}), Refused("limit", "why"), Failed(1, "why")):
        assert Asked(add(1), T, reply=reply).on_record is reply


# --- what was begun, and may wait for the kernel -------------------------------------------------


def begun(*requests: Request, count: int = 1) -> deque[Asked]:
    """The first of them, at SOON."""
    found = asked(*requests, is_on_record=True)
    for each in list(found)[:count]:
        each.begun_at = SOON
    return found


GIVEN_UP = SOON + GIVE_UP_AFTER_S


def test_a_renewal_passes_what_waits_for_the_kernel_and_nothing_else_does() -> None:
    requests = begun(
        add(1), add(2, B), Remove(3, B), Announce(4, A), Hello(5, 1, "test", "n"), Renew(6, FAR)
    )
    assert (numbers(ready(requests, SOON)[0]), ready(requests, SOON)[1]) == ([6], GIVEN_UP)


def test_a_list_tells_of_what_was_begun_before_it() -> None:
    requests = begun(add(1), List(2, None), Renew(3, FAR))
    found, look_at = ready(requests, SOON)
    assert (numbers(found), look_at) == ([3], GIVEN_UP)


def test_what_waits_for_its_turn_behind_a_renewal_is_done_in_the_next() -> None:
    requests = begun(add(1), Renew(2, FAR), Renew(3, FAR))
    found, look_at = ready(requests, SOON)
    assert (numbers(found), look_at) == ([2], SOON)
    found[0].reply = Ok({})
    found, look_at = ready(requests, SOON)
    assert (numbers(found), look_at) == ([3], GIVEN_UP)


def test_what_was_begun_is_not_begun_again_and_the_rest_follows_it() -> None:
    requests = begun(add(1), Remove(2, B), Remove(3, A), count=2)
    assert ready(requests, SOON) == ([], GIVEN_UP)
    requests[0].reply = Ok({})
    assert ready(requests, SOON) == ([], GIVEN_UP), "the other one waits still"
    requests[1].reply = KERNEL_WAITS
    assert numbers(ready(requests, SOON)[0]) == [3], "who was told that it failed asks again"


@pytest.mark.parametrize("later", [0, 1])
def test_the_first_that_was_begun_is_given_up_first(later: int) -> None:
    requests = begun(Remove(1, A), Remove(2, B), count=2)
    requests[later].begun_at = LATE
    assert ready(requests, LATE)[1] == GIVEN_UP


def test_who_waits_for_the_disk_and_the_kernel_is_looked_at_for_both() -> None:
    """The kernel's wait began before the disk's."""
    requests = begun(Remove(1, B))
    requests += asked(add(2))
    assert ready(requests, SOON) == ([], LATE)
    requests[0].begun_at = T - 0.9
    assert ready(requests, SOON) == ([], LATE)
    assert ready(requests, LATE) == ([], T - 0.9 + GIVE_UP_AFTER_S)


def test_what_was_begun_is_not_overtaken() -> None:
    """It goes on, with the deadline that it began with."""
    requests = begun(add(1), Remove(2, A), Renew(3, NEAR))
    first, removal, renewal = requests
    assert overtaken(requests, removal) == overtaken(requests, renewal) == []
    assert (first.reply, first.request) == (None, add(1))


def test_what_is_not_under_way_any_more_overtakes_nothing() -> None:
    """Its connection was told that it failed, or has ended."""
    requests = asked(add(1))
    (late,) = asked(Remove(2, A))
    assert overtaken(requests, late) == []
    assert requests[0].reply is None


def test_the_record_tells_what_came_of_what_was_given_up() -> None:
    it = Asked(add(1), T, reply=KERNEL_WAITS)
    told: Reply = it.on_record
    assert told is KERNEL_WAITS, "it may be done still"
    done: Reply = Ok({"was": "absent"})
    it.outcome = done
    assert it.on_record == done


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Ok({"was": "absent"}), (True, T)),
        (Failed(1, "why"), (None, None)),
        (Refused("foreign", "why"), (None, None)),
        (HUNG_UP, (None, None)),
    ],
)
def test_the_record_tells_of_the_fence_of_what_was_done(
    outcome: Ok | Failed | Refused, told: tuple[bool | None, float | None]
) -> None:
    it = Asked(add(1), T, outcome=outcome, fenced_until=(True, T))
    assert it.fence_on_record == told
    assert Asked(add(1), T, outcome=outcome).fence_on_record == (None, None)


def test_what_was_begun_in_time_is_done_until_it_is_given_up() -> None:
    """It waited for the disk, and then behind others for the kernel."""
    (it,) = asked(add(1), is_on_record=True)
    it.begun_at = T + 0.9 * GIVE_UP_AFTER_S
    assert it.obstacle(T + 1.2 * GIVE_UP_AFTER_S) is None
    assert it.obstacle(it.given_up_at) == BEHIND_OTHERS


# --- resets ------------------------------------------------------------------------------------


def resetting(*requests: Request, until: float = T + 0.1) -> deque[Asked]:
    """With renewals that wait for resets until then."""
    made = asked(*requests, is_on_record=True)
    for each in made:
        each.waits_for_resets_until = until if isinstance(each.request, Renew) else 0.0
    return made


def test_a_renewal_waits_for_a_reset_that_was_asked_for_before_it() -> None:
    """It would mute the address, and the reset would not go out."""
    requests = resetting(Remove(1, A, "reset"), Renew(2, FAR), Remove(3, B))
    removal, renewal, _ = requests
    assert ready(requests, SOON) == ([removal], T + 0.1)
    removal.begun_at = T
    assert ready(requests, SOON) == ([], T + 0.1)
    removal.outcome = Ok({})
    found, _ = ready(requests, SOON)
    assert found == [renewal]


def test_it_waits_no_longer_than_it_may() -> None:
    requests = resetting(Remove(1, A, "reset"), Renew(2, FAR))
    removal, renewal = requests
    removal.begun_at = T
    found, look_at = ready(requests, T + 0.1)
    assert (found, look_at) == ([renewal], T + GIVE_UP_AFTER_S)


@pytest.mark.parametrize("request_", [Remove(1, A), Announce(1, A)])
def test_it_waits_for_nothing_else(request_: Request) -> None:
    requests = resetting(request_, Renew(2, FAR))
    requests[0].begun_at = T
    assert numbers(ready(requests, SOON)[0]) == [2]


def test_nor_for_a_reset_that_was_asked_for_later() -> None:
    requests = resetting(Renew(1, FAR), Remove(2, A, "reset"))
    assert numbers(ready(requests, SOON)[0]) == [1]


def test_nor_does_one_whose_addresses_have_too_little_time() -> None:
    requests = resetting(Remove(1, A, "reset"), Renew(2, FAR), until=0.0)
    assert numbers(ready(requests, SOON)[0]) == [1, 2]


def test_a_reset_that_was_given_up_is_not_waited_for() -> None:
    requests = resetting(Remove(1, A, "reset"), Renew(2, FAR))
    requests[0].begun_at, requests[0].reply = T, KERNEL_WAITS
    assert numbers(ready(requests, SOON)[0]) == [2]
