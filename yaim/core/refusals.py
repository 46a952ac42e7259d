"""When an address is tried again that the helper would not or could not add.

A refusal leaves the address to other nodes, by the advertisement. Each new try may move it here and
back again, and each move costs clients their connections: so where another node can hold it, it is
tried again only when the cause may have gone.

| cause | it may have gone when |
|---|---|
| foreign | the address leaves this host; who tried before would take back that it is here |
| not allowed, primary, failed | the helper has new rules, SIGHUP, its link comes up, an address |
|  | of the host's own comes or goes on that interface |
| limit | an address of ours goes, or one of others' for whom the helper works |

Where nothing tells that a cause has gone (a full disk, a sysctl), one address is tried after some
time, and the others only after that one could be added.

An address that nobody holds and no other node can hold is tried every few seconds, at instants that
differ from node to node. Meanwhile the advertisement goes on refusing it: an address on trial must
not count as held, or the placement would move other addresses to level that, there and back with
each try. So it is claimed although it is placed nowhere, and its refusal is taken back only when it
has been added.

A node takes as many addresses as the helper's limit allows, whichever they are. It opens as many
more of the pool to itself as it has places, those first that nobody holds, and refuses the rest.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from yaim.core.model import Address, Boottime, address_order, frozen_mapping

REFUSED_FOR_S = 3600.0
"""How long an address that our helper would not add is left to other nodes that can hold it, unless
its cause may have gone before."""
FAILED_FOR_S = 10.0
"""How long an address that our helper could not add is left to others the first time; then twice as
long each time."""
FAILED_FOR_AT_MOST_S = 900.0
AGAIN_FIRST_S, AGAIN_MOST_S = 2.0, 8.0
"""The pause between tries of an address that no other node can hold; it doubles from the one to the
other."""
NOT_SOONER_S = 2.0
"""The least time after a refusal, whatever has changed since: something may change all the time."""
TRIED_TOGETHER = 8


class Cause(Enum):
    """The helper's code for a refusal (helper/PROTOCOL.md), or one of ours."""

    EXPIRED = "expired"
    """The deadline had passed or was too near: that says nothing about the next try."""
    FOREIGN = "foreign"
    NOT_ALLOWED = "not-allowed"
    LIMIT = "limit"
    PRIMARY = "primary"
    OTHER = "other"
    """A code that only newer helpers know."""
    FAILED = "failed"
    """The helper did not refuse; it could not do it."""

    @classmethod
    def of(cls, code: object) -> "Cause":
        return next((each for each in cls if each.value == code), cls.OTHER)

    @property
    def is_tried(self) -> bool:
        """Whether only a try can tell if the cause has gone."""
        return self not in (Cause.FOREIGN, Cause.LIMIT)


@dataclass(frozen=True, slots=True)
class Refusal:
    cause: Cause
    at: Boottime
    until: Boottime


@dataclass(frozen=True, slots=True)
class Trial:
    """When a node tries again, and what it has tried."""

    next_at: Boottime = Boottime(0.0)
    """There is no try before."""
    pause_s: float = AGAIN_FIRST_S
    tried: Mapping[Address, Cause] = field(default_factory=lambda: frozen_mapping({}))
    """The addresses that were tried last and not refused again."""

    def after_a_refusal(self, now: Boottime, share: float) -> "Trial":
        return replace(self, next_at=max(self.next_at, Boottime(now + self.pause_s * share)))

    def of(self, tried: Mapping[Address, Cause], now: Boottime, share: float) -> "Trial":
        """Returns the trial after these are tried now."""
        pause_s = min(2 * self.pause_s, AGAIN_MOST_S)
        return Trial(Boottime(now + pause_s * share), pause_s, tried)


def on_trial(
    refused: Mapping[Address, Refusal],
    too_many: Collection[Address],
    unheld: Collection[Address],
) -> Mapping[Address, Cause]:
    """Returns what is tried now. `unheld`: what nobody holds and no other node can. Those that were
    refused longest ago come first, and one more than there were places for."""
    waiting = [a for a, refusal in refused.items() if refusal.cause.is_tried and a in unheld]
    waiting.sort(key=lambda a: _longest(refused, a))
    more = sorted((a for a in too_many if a in unheld), key=address_order)
    found = {a: refused[a].cause for a in waiting[:TRIED_TOGETHER]}
    return frozen_mapping(dict.fromkeys(more[:1], Cause.LIMIT) | found)


def next_overdue(
    refused: Mapping[Address, Refusal], unplaced: Collection[Address], now: Boottime
) -> Address | None:
    """Returns the address that has been left to others long enough, or whose cause may have gone.
    One that is `unplaced` is not returned: another node may be trying it."""
    over = [
        a
        for a, refusal in refused.items()
        if refusal.cause.is_tried and refusal.until <= now and a not in unplaced
    ]
    return min(over, key=lambda a: _longest(refused, a), default=None)


def _longest(refused: Mapping[Address, Refusal], address: Address) -> tuple[float, tuple[int, int]]:
    return refused[address].at, address_order(address)


def sooner(refusal: Refusal, now: Boottime) -> Refusal:
    """Returns the refusal with an earlier end, as its cause may have gone."""
    until = max(now, Boottime(refusal.at + NOT_SOONER_S))
    return replace(refusal, until=min(refusal.until, until))


def beyond(
    most: int,
    here: Collection[Address],
    others: Collection[Address],
    marked: Collection[Address],
    before: Collection[Address],
) -> frozenset[Address]:
    """Returns which of the other addresses of the pool are too many for a node that can hold
    `most`: rather those that were so `before` than others."""
    order = sorted(others, key=lambda a: (a in marked, a in before, address_order(a)))
    return frozenset(order[max(0, most - len(here)) :])
