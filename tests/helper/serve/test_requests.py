"""The table of what may be asked."""

from ipaddress import IPv4Address
from typing import get_args, get_type_hints

import pytest
from yaim_helper.protocol import Add, Announce, Clear, Hello, List, Remove, Renew, Request
from yaim_helper.serve.requests import address_of, operation_of

A = IPv4Address("192.0.2.1")
HELLO, ADD = Hello(1, 1, "test", "db1"), Add(2, "eth0", A, 32, "", 10**9)
REMOVE, RENEW, LIST, ANNOUNCE = Remove(3, A), Renew(4, 10**9), List(5, A), Announce(6, A)
CLEAR = Clear(7, A)
ALL: tuple[Request, ...] = (HELLO, ADD, REMOVE, RENEW, LIST, ANNOUNCE, CLEAR)


def test_all_requests_are_looked_at() -> None:
    assert {type(each) for each in ALL} == set(get_args(Request))


@pytest.mark.parametrize("request_", ALL, ids=lambda each: type(each).__name__)
def test_each_request_has_a_row_of_its_own_and_its_own_handler(request_: Request) -> None:
    handler = operation_of(request_).handler
    assert type(request_) in get_type_hints(handler).values()
    rows = [operation_of(each) for each in ALL]
    assert rows.count(operation_of(request_)) == 1


def test_what_changes_an_interface_or_tells_the_neighbours_needs_an_intent() -> None:
    assert [each for each in ALL if operation_of(each).needs_intent] == [ADD, REMOVE, ANNOUNCE]


def test_what_takes_an_address_away_or_keeps_it_does_not_wait_for_the_disk() -> None:
    assert [each for each in ALL if operation_of(each).waits_for_disk] == [ADD, ANNOUNCE]


def test_what_may_be_about_all_addresses_is_the_last_of_its_batch() -> None:
    assert [each for each in ALL if not operation_of(each).may_be_batched] == [RENEW, LIST, CLEAR]


def test_a_list_tells_what_was_added_before_it_and_a_clear_heeds_it() -> None:
    assert [each for each in ALL if not operation_of(each).may_overtake] == [LIST, CLEAR]


def test_adds_removals_and_clears_look_for_one_address() -> None:
    assert [address_of(each) for each in ALL] == [None, A, A, None, None, None, A]


def test_only_a_renewal_passes_what_waits_for_the_kernel() -> None:
    """It needs nothing of it that another could hold up."""
    assert [each for each in ALL if operation_of(each).may_pass_begun] == [RENEW]
