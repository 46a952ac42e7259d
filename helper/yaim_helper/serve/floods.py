"""What is on record one by one, and what only as a number: nobody fills the disk by being refused.

Of what has no effect and needs no intent, the first few of each kind and user in a minute are told
one by one. What has an effect is never counted here. Writes nothing.
"""

from collections import Counter
from dataclasses import dataclass

from yaim_helper.record.entries import Entry, summary

TOLD_ONE_BY_ONE = 10
"""Of one user and kind, from one summary to the next."""
MAX_USERS = 64
"""Counted each on its own; further ones together: somebody may have very many user ids."""


class Floods:
    def __init__(self) -> None:
        self._counts: Counter[tuple[int | None, str]] = Counter()

    def takes(self, uid: int, what: str) -> bool:
        """Whether one more of that is to be told itself. If not, it is counted."""
        users = {each for each, _ in self._counts}
        user = uid if uid in users or len(users) < MAX_USERS else None
        self._counts[user, what] += 1
        return self._counts[user, what] <= TOLD_ONE_BY_ONE

    def sum_up(self) -> list[Entry]:
        """What was not told since the last time."""
        untold = [
            (uid, what, count - TOLD_ONE_BY_ONE)
            for (uid, what), count in self._counts.items()
            if count > TOLD_ONE_BY_ONE
        ]
        self._counts.clear()
        return [summary(untold)] if untold else []


WEIGHT = 2
"""Nobody keeps the helper busy for more than one second in so many, if others have work for it."""
REST_S = 0.05
"""Who has sent too much is not read for at least so long: then what has come is taken together."""


@dataclass(slots=True)
class TokenBucket:
    """How much a user may send without waiting (a token bucket)."""

    per_second: int
    left: float
    at: float

    def whole(self, now: float) -> int:
        """Packets that may be read now."""
        self.left = min(self.per_second, self.left + (now - self.at) * self.per_second)
        self.at = now
        return int(self.left)

    def spend(self, count: int, took_s: float = 0.0) -> None:
        """So many packets, or as many as may be sent in WEIGHT times the processor time that they
        took."""
        self.left -= max(count, took_s * self.per_second * WEIGHT)

    def spend_more(self, took_s: float, count: int) -> None:
        """For packets that were read before, and so have paid for a part of it."""
        self.left -= max(0.0, took_s * self.per_second * WEIGHT - count)

    def rest_until(self) -> float:
        """When there is a whole one again, and it is worth looking."""
        return self.at + max(REST_S, (1 - self.left) / self.per_second)
