"""When what the helper would not or could not add is tried again.

A refusal leaves the address to other nodes, by the advertisement. Each new try may move it here and
back again, and each move costs clients their connections: so where another node can hold it, it is
tried again only when the cause may have gone.

| cause | it may have gone when |
|---|---|
| foreign | the address leaves this host; who tried before would take back that it is here |
| not allowed, primary, failed | the helper has new rules, SIGHUP, its link comes up, an address |
|  | of the host's own comes or goes on that interface |
| limit | an address of ours goes, or one of others' for whom the helper works |

Where that is not told (a full disk, a sysctl) one address is tried after some time, and the others
only after that one could be added.

What nobody holds and no other node can is tried every few seconds, at instants that differ from
node to node. Meanwhile the advertisement goes on refusing it: what is on trial must not count as
held, or the placement would move other addresses to level that, there and back with each try. So it
is claimed though it is placed nowhere, and refused no more only when it has been added.

As many as a limit allows are taken, whichever they are: of the rest of the pool a node opens as
many to itself as it has places, those first that nobody holds, and refuses the others.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from yaim.core.model import Address, Boottime, address_order, frozen_mapping

REFUSED_FOR_S = 3600.0
"""How long an address that our helper would not add is left to other nodes that can hold it, unless
its cause may have gone before."""
FAILED_FOR_S = 10.0
"""The same for one that it could not add, the first time; then twice as long each time."""
FAILED_FOR_AT_MOST_S = 900.0
AGAIN_FIRST_S, AGAIN_MOST_S = 2.0, 8.0
"""From one try to the next where no other node can hold what is tried; it doubles from the one to
the other."""
NOT_SOONER_S = 2.0
"""After a refusal, whatever has changed since: something may be changing all the time."""
TRIED_TOGETHER = 8


class Cause(Enum):
    """The helper's code for a refusal (helper/PROTOCOL.md), or one of ours."""

    EXPIRED = "expired"
    """The deadline: says nothing about the next try."""
    FOREIGN = "foreign"
    NOT_ALLOWED = "not-allowed"
    LIMIT = "limit"
    PRIMARY = "primary"
    OTHER = "other"
    """A code of a newer helper's."""
    FAILED = "failed"
    """Not refused: it could not be done."""

    @classmethod
    def of(cls, code: object) -> "Cause":
        return next((each for each in cls if each.value == code), cls.OTHER)

    @property
    def is_tried(self) -> bool:
        """Whether only a try can tell if it has gone."""
        return self not in (Cause.FOREIGN, Cause.LIMIT)


@dataclass(frozen=True, slots=True)
class Refusal:
    cause: Cause
    at: Boottime
    until: Boottime


@dataclass(frozen=True, slots=True)
class Trial:
    """The tries of a node."""

    next_at: Boottime = Boottime(0.0)
    """Not before."""
    pause_s: float = AGAIN_FIRST_S
    tried: Mapping[Address, Cause] = field(default_factory=lambda: frozen_mapping({}))
    """What was tried last, and was not refused again."""

    def after_a_refusal(self, now: Boottime, share: float) -> "Trial":
        return replace(self, next_at=max(self.next_at, Boottime(now + self.pause_s * share)))

    def of(self, tried: Mapping[Address, Cause], now: Boottime, share: float) -> "Trial":
        """These are tried now."""
        pause_s = min(2 * self.pause_s, AGAIN_MOST_S)
        return Trial(Boottime(now + pause_s * share), pause_s, tried)


def on_trial(
    refused: Mapping[Address, Refusal],
    too_many: Collection[Address],
    unheld: Collection[Address],
) -> Mapping[Address, Cause]:
    """What is tried now of what nobody holds and no other node can: those that were refused longest
    ago, or one more than there were places for."""
    waiting = [a for a, refusal in refused.items() if refusal.cause.is_tried and a in unheld]
    waiting.sort(key=lambda a: _longest(refused, a))
    more = sorted((a for a in too_many if a in unheld), key=address_order)
    found = {a: refused[a].cause for a in waiting[:TRIED_TOGETHER]}
    return frozen_mapping(dict.fromkeys(more[:1], Cause.LIMIT) | found)


def next_overdue(
    refused: Mapping[Address, Refusal], unplaced: Collection[Address], now: Boottime
) -> Address | None:
    """What has been left to others long enough, or its cause may have gone. Not what is `unplaced`:
    another node may be trying it."""
    over = [
        a
        for a, refusal in refused.items()
        if refusal.cause.is_tried and refusal.until <= now and a not in unplaced
    ]
    return min(over, key=lambda a: _longest(refused, a), default=None)


def _longest(refused: Mapping[Address, Refusal], address: Address) -> tuple[float, tuple[int, int]]:
    return refused[address].at, address_order(address)


def sooner(refusal: Refusal, now: Boottime) -> Refusal:
    """Its cause may have gone."""
    until = max(now, Boottime(refusal.at + NOT_SOONER_S))
    return replace(refusal, until=min(refusal.until, until))


def beyond(
    most: int,
    here: Collection[Address],
    others: Collection[Address],
    marked: Collection[Address],
    before: Collection[Address],
) -> frozenset[Address]:
    """Which of the other addresses of the pool are too many for a node that can hold `most`; those
    that were so `before`, rather than others."""
    order = sorted(others, key=lambda a: (a in marked, a in before, address_order(a)))
    return frozenset(order[max(0, most - len(here)) :])
