"""What keeps a flood of requests from filling the disk, or from keeping the helper busy.

Events that have no effect and need no intent are told one by one on record only as long as they are
few: the first of each kind and user in a minute. What has an effect is never counted here. How much
a user may send is a token bucket. Writes nothing and reads nothing.
"""

from collections import Counter
from dataclasses import dataclass

from yaim_helper.record.entries import Entry, summary

TOLD_ONE_BY_ONE = 10
"""Events of one user and kind that are told one by one, from one summary to the next."""
MAX_USERS = 64
"""Users that are counted each on its own. Further ones are counted together: somebody may have very
many user ids."""
WEIGHT = 2
"""Nobody keeps the helper busy for more than one second in WEIGHT, if others have work for it."""
REST_S = 0.05
"""A user that has sent too much is not read for at least so long: then what has come is taken in
together."""


class Floods:
    """Counts what is not told one by one."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int | None, str]] = Counter()

    def takes(self, uid: int, what: str) -> bool:
        """Returns whether one more event of that kind is to be told itself. If not, it is
        counted."""
        users = {each for each, _ in self._counts}
        user = uid if uid in users or len(users) < MAX_USERS else None
        self._counts[user, what] += 1
        return self._counts[user, what] <= TOLD_ONE_BY_ONE

    def sum_up(self) -> list[Entry]:
        """Returns what was only counted since this was called the last time."""
        untold = [
            (uid, what, count - TOLD_ONE_BY_ONE)
            for (uid, what), count in self._counts.items()
            if count > TOLD_ONE_BY_ONE
        ]
        self._counts.clear()
        return [summary(untold)] if untold else []


@dataclass(slots=True)
class TokenBucket:
    """How many packets a user may send without waiting. Instants are of CLOCK_BOOTTIME."""

    per_second: int
    left: float
    at: float

    def whole(self, now: float) -> int:
        """Returns how many packets may be read now."""
        self.left = min(self.per_second, self.left + (now - self.at) * self.per_second)
        self.at = now
        return int(self.left)

    def spend(self, count: int, took_s: float = 0.0) -> None:
        """Takes off so many packets, or as many as may be sent in WEIGHT times the processor time
        that they took, if that is more."""
        self.left -= max(count, took_s * self.per_second * WEIGHT)

    def spend_more(self, took_s: float, count: int) -> None:
        """Takes off what packets took that were read before, and so have paid for a part of it."""
        self.left -= max(0.0, took_s * self.per_second * WEIGHT - count)

    def rest_until(self) -> float:
        """Returns when there is room for a packet again, and it is worth looking."""
        return self.at + max(REST_S, (1 - self.left) / self.per_second)
