"""What people write on a command line, read or refused with what is expected."""

from datetime import UTC, datetime

import pytest

from tests.steer.clusters import at
from yaim.steer.words import (
    NotRead,
    address_of,
    addresses_of,
    moment_of,
    reason_of,
    seconds_of,
    weight_of,
)

NOW = datetime(2026, 12, 1, 3, 0, tzinfo=UTC)


def test_ranges_and_single_addresses_are_read_each_once() -> None:
    assert addresses_of(["192.0.2.3", "192.0.2.2-192.0.2.4"]) == (at(3), at(2), at(4))
    assert [str(each) for each in addresses_of(["2001:db8::9-2001:db8::a"])] == [
        "2001:db8::9",
        "2001:db8::a",
    ]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("192.0.2.4-192.0.2.2", "192.0.2.4-192.0.2.2: the end is before the beginning"),
        ("192.0.2.4-2001:db8::1", "192.0.2.4-2001:db8::1: one end is IPv4, the other IPv6"),
        ("10.0.0.0-10.0.1.0", "10.0.0.0-10.0.1.0: 257 addresses; at most 256 at once"),
        (
            "192.0.2.11/24",
            "192.0.2.11/24: an address without a prefix length: say 192.0.2.11 --prefix 24",
        ),
        ("n1/24", "'n1/24' is not an address"),
        (
            "2001:DB8::1",
            "'2001:DB8::1' is not written as '2001:db8::1', its canonical form; say 2001:db8::1",
        ),
        ("192.0.2.011", "'192.0.2.011' is not an IPv4 or IPv6 address"),
        ("224.0.0.1", "224.0.0.1 is not the address of a host"),
        ("", "'' is not an IPv4 or IPv6 address"),
        ("192.0.2.1-", "'' is not an IPv4 or IPv6 address"),
    ],
)
def test_what_is_no_address_says_what_to_write(word: str, told: str) -> None:
    with pytest.raises(NotRead) as error:
        addresses_of([word])
    assert str(error.value) == told


def test_many_ranges_together_are_too_many_too() -> None:
    with pytest.raises(NotRead, match="more than 256 addresses at once"):
        addresses_of(["10.0.0.0-10.0.0.255", "10.0.1.0"])


@pytest.mark.parametrize(
    ("word", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("7d", 604800), ("1h30m", 5400)]
)
def test_times_have_a_unit(word: str, seconds: int) -> None:
    assert seconds_of(word) == seconds


@pytest.mark.parametrize("word", ["60", "", "2 h", "h", "-1h", "0s", "9999d", "1e3s", "2h!", "²s"])
def test_what_is_no_time_is_refused(word: str) -> None:
    with pytest.raises(NotRead):
        seconds_of(word)


@pytest.mark.parametrize(
    ("word", "moment"),
    [
        ("2h", datetime(2026, 12, 1, 1, 0, tzinfo=UTC)),
        ("2026-11-30", datetime(2026, 11, 30, tzinfo=UTC)),
        ("2026-11-30T23:59:58Z", datetime(2026, 11, 30, 23, 59, 58, tzinfo=UTC)),
        ("2026-11-30 23:59", datetime(2026, 11, 30, 23, 59, tzinfo=UTC)),
        ("2026-12-01T00:30:00+01:00", datetime(2026, 11, 30, 23, 30, tzinfo=UTC)),
    ],
)
def test_moments_are_utc_or_how_long_ago(word: str, moment: datetime) -> None:
    assert moment_of(word, NOW) == moment


@pytest.mark.parametrize("word", ["yesterday", "", "2026-13-01", "0001-01-01T00:00:00+23:00"])
def test_what_is_no_moment_is_refused(word: str) -> None:
    with pytest.raises(NotRead):
        moment_of(word, NOW)


def test_weights_are_read_from_0_to_100() -> None:
    assert [weight_of(each) for each in ("0", "1", "100")] == [0, 1, 100]
    for word in ("101", "-1", "1.5", "", "²", "x"):
        with pytest.raises(NotRead):
            weight_of(word)


def test_a_reason_is_one_line() -> None:
    assert reason_of(" new disk ") == "new disk"
    for word in ("a\nb", "x" * 201, "\x1b[31m"):
        with pytest.raises(NotRead):
            reason_of(word)


def test_an_address_is_one_object_for_one_text() -> None:
    assert address_of("192.0.2.1") == at(1)
