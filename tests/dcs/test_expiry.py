"""Which certificates people are warned of."""

from datetime import UTC, datetime, timedelta

import pytest

from yaim.dcs.expiry import Expiry, ending, warnings_of

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def at(what: str, **left: float) -> Expiry:
    return Expiry(what, "db1", NOW + timedelta(**left))


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (timedelta(days=12, hours=23), "expires in 12 days (2026-12-05)"),
        (timedelta(days=29, hours=23), "expires in 29 days (2026-12-22)"),
        (timedelta(days=1), "expires in 1 day (2026-11-23)"),
        (timedelta(hours=23), "expires in less than a day (2026-11-23)"),
        (timedelta(0), "expires in less than a day (2026-11-22)"),
        (timedelta(seconds=-1), "has expired (2026-11-22)"),
        (timedelta(days=-400), "has expired (2025-10-18)"),
    ],
)
def test_what_ends_within_30_days_is_warned_of(left: timedelta, text: str) -> None:
    found = Expiry("etcd-cert-file /etc/db1.pem", "db1", NOW + left)
    assert warnings_of([found], NOW) == [f"etcd-cert-file /etc/db1.pem (db1): {text}"]


def test_what_lasts_is_not_warned_of() -> None:
    assert warnings_of([at("x", days=30)], NOW) == []


def test_an_old_ca_beside_one_that_lasts_is_not_warned_of() -> None:
    old, new, soon = at("ca", days=-1), at("ca", days=99), at("ca", days=3)
    within = timedelta(days=7)
    assert ending([old, new], NOW, within) == []
    assert ending([old, at("cert", days=99)], NOW, within) == [old]
    assert ending([old, soon], NOW, within) == [old, soon]
    assert ending([soon, new], NOW, within) == [soon]
