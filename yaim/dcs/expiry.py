"""When certificates end, and whom to warn of that. Pure: no clock, no file, no log."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

WARN_WITHIN = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Expiry:
    """When a certificate ends."""

    what: str
    """The key and path of the file that it is in, or the endpoint that has shown it."""
    subject: str
    not_after: datetime
    """UTC."""

    def days_left(self, now: datetime) -> int:
        """The whole days until it ends; less than 0 once it has expired."""
        return (self.not_after - now) // timedelta(days=1)


def ending(expiries: Iterable[Expiry], now: datetime, within: timedelta) -> list[Expiry]:
    """Those that have ended, or will within that time. One that has ended is left out if the same
    place has another that lasts: an old CA beside the new one."""
    all_of_them = list(expiries)
    lasting = {each.what for each in all_of_them if each.not_after >= now + within}
    return [
        each
        for each in all_of_them
        if each.not_after < now + within and (each.not_after >= now or each.what not in lasting)
    ]


def warnings_of(expiries: Iterable[Expiry], now: datetime) -> list[str]:
    """Warnings of what ends within 30 days, as in
    `etcd-cert-file /etc/yaim/db1.pem (db1): expires in 12 days (2026-12-04)`."""
    return [
        f"{each.what} ({each.subject}): {_when(each.days_left(now))} ({each.not_after:%Y-%m-%d})"
        for each in ending(expiries, now, WARN_WITHIN)
    ]


def _when(days_left: int) -> str:
    if days_left < 0:
        return "has expired"
    if days_left == 0:
        return "expires in less than a day"
    return f"expires in {days_left} day{'s' if days_left > 1 else ''}"
