"""What people write on a command line, read: addresses and ranges, durations, moments, weights.

Each function returns the value, or raises NotRead with what is wrong and what is expected. Pure.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_interface

from yaim.core.model import Address
from yaim.dcs.records import NotUnderstood, read_address

MOST_OF_A_RANGE = 256
"""The most addresses that one command names."""
MOST_REASON = 200
"""The most characters of a reason."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MOST_S = 366 * 86400


class NotRead(ValueError):
    """It is not of the form that is expected; the text says which that is."""


def addresses_of(words: Iterable[str]) -> tuple[Address, ...]:
    """All that they name, each once, in the order given."""
    found: dict[Address, None] = {}
    for word in words:
        found |= dict.fromkeys(_range_of(word))
        if len(found) > MOST_OF_A_RANGE:
            raise NotRead(f"{word}: more than {MOST_OF_A_RANGE} addresses at once")
    return tuple(found)


def _range_of(word: str) -> tuple[Address, ...]:
    first, dash, last = word.partition("-")
    if not dash:
        return (address_of(word),)
    start, end = address_of(first), address_of(last)
    if start.version != end.version:
        raise NotRead(f"{word}: one end is IPv4, the other IPv6")
    count = int(end) - int(start) + 1
    if count < 1:
        raise NotRead(f"{word}: the end is before the beginning")
    if count > MOST_OF_A_RANGE:
        raise NotRead(f"{word}: {count} addresses; at most {MOST_OF_A_RANGE} at once")
    return tuple(address_of(str(start + number)) for number in range(count))


def address_of(word: str) -> Address:
    """In canonical form only: it is the name of a key."""
    if "/" in word:
        try:
            interface = ip_interface(word)
        except ValueError:
            raise NotRead(f"{_shown(word)} is not an address") from None
        raise NotRead(
            f"{word}: an address without a prefix length: say {interface.ip}"
            f" --prefix {interface.network.prefixlen}"
        )
    try:
        return read_address(word)
    except NotUnderstood as error:
        try:
            hint = f"; say {ip_address(word)}" if str(ip_address(word)) != word else ""
        except ValueError:
            hint = ""
        raise NotRead(f"{error}{hint}") from None


def seconds_of(word: str) -> int:
    """90s, 30m, 2h, 7d, 1h30m."""
    parts = re.findall(r"(\d{1,9})([smhd])", word)
    if not parts or "".join(number + unit for number, unit in parts) != word:
        unit = f": say {word}s, or {word}m" if word.isdigit() else ""
        raise NotRead(f"{_shown(word)} is not a time such as 90s, 30m, 2h, 7d or 1h30m{unit}")
    total = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < total <= MOST_S:
        raise NotRead(f"{word}: expected 1s to {MOST_S // 86400}d")
    return total


def moment_of(word: str, now: datetime) -> datetime:
    """A time as in `2026-12-01T03:00:00Z`, also `2026-12-01 03:00` and `2026-12-01` in UTC; or how
    long ago it was: 2h."""
    try:
        return now - timedelta(seconds=seconds_of(word))
    except NotRead:
        pass
    try:
        moment = datetime.fromisoformat(word.removesuffix("Z"))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise NotRead(
            f"{_shown(word)} is not a time such as 2h (ago), 2026-12-01 or 2026-12-01T03:00:00Z"
        ) from None


def weight_of(word: str) -> int:
    """0 is read, too: there is a hint for it (requests.py)."""
    if not re.fullmatch(r"\d{1,3}", word) or int(word) > 100:
        raise NotRead(f"{_shown(word)} is not a weight: expected 1 to 100")
    return int(word)


def reason_of(word: str) -> str:
    if len(word) > MOST_REASON or not word.isprintable():
        raise NotRead(f"a reason is one line of at most {MOST_REASON} characters")
    return word.strip()


def _shown(word: str) -> str:
    return repr(word[:60])
