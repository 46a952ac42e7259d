"""What is on record one by one, and what only as a number: nobody fills the disk by being refused.

Of what has no effect and needs no intent, the first few of each kind and user in a minute are told
one by one. What has an effect is never counted here. Writes nothing.
"""

from collections import Counter

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
