"""What was asked on a connection, in order, and what of it may be done now.

An add is never done without its intent on the disk. It waits for that, GIVE_UP_AFTER_S at most. If
the coordinator was told then that it failed, it is not done later: what has a reply is over. What
takes an address away, or keeps one, needs no disk: it waits behind adds that were asked before it
for as long as a disk that is well may take, and then overtakes them. An add is over when the
removal of its address overtakes it, and gets a nearer deadline when a renewal to one does; nothing
else that they do depends on whether it is done before the add or behind it.

Where there is a fence, what was begun may wait for the kernel in turn. A renewal, which needs the
kernel's routing lock for nothing, overtakes it at once. What has waited for GIVE_UP_AFTER_S has
failed for the coordinator, which asks again; what comes of it is on record when it is done.

Only for resets that were asked for before it a renewal waits, for a moment.

Does nothing, and decides nothing about addresses.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, TypeVar

from yaim_helper.owners import Owner
from yaim_helper.protocol import Add, Failed, Ok, Refused, Remove, Renew, Reply, Request
from yaim_helper.record.recorder import HANGS_AFTER_S, Handed
from yaim_helper.serve.requests import Operation, operation_of

OVERTAKE_AFTER_S = 0.1
GIVE_UP_AFTER_S = HANGS_AFTER_S
"""An add that has waited so long for the disk has failed. A coordinator waits 2 s for its replies,
and then no more for any."""
GIVE_UP_AT_LATEST_S = 1.5 * GIVE_UP_AFTER_S
"""What has waited for the disk, or behind others, before it waits for the kernel has failed so long
after it came."""

NOT_WRITTEN = Failed(None, "the audit record cannot be written")
DISK_HANGS = Failed(None, "the disk of the audit record does not answer")
KERNEL_WAITS = Failed(None, "the kernel does not answer yet: its routing lock (RTNL) may be held")
BEHIND_OTHERS = Failed(None, "it waited too long behind others that waited for the kernel")
OVERTAKEN = Failed(None, "its removal was asked for while it waited for the disk")
HUNG_UP = Failed(None, "its connection was ended while it waited for the disk")


@dataclass(eq=False, slots=True)
class Asked:
    """A request that was taken in. It is over as soon as it has a reply."""

    request: Request
    at: float
    known: Reply | None = None
    """The reply, if that is known before anything is done."""
    intent: Handed | None = None
    """The intent, on its way into the record, if the request needs one."""
    is_deferred: bool = False
    """The request needs an intent, which is not handed over yet."""
    expected_for: Owner | None = None
    """It is a removal, and no renewal is for that address any more."""
    waits_for_resets_until: float = 0.0
    """It is a renewal, and is not done before that as long as resets are under way that were asked
    for before it."""
    begun_at: float | None = None
    """When it was begun to be done, if that may wait for the kernel."""
    outcome: Reply | None = None
    """What has come of it, which is not told before all that is done together is done."""
    fenced_until: tuple[bool, float] | None = None
    """Of an add or removal: that the address is, or was, fenced, and its deadline."""
    reply: Reply | None = None

    @property
    def operation(self) -> Operation[Any]:
        """The row of the request in the table of operations."""
        return operation_of(self.request)

    def waits(self, now: float) -> bool:
        """Whether it waits for the disk, or for the record's next segment."""
        if not self.operation.waits_for_disk or now >= self.at + GIVE_UP_AFTER_S:
            return False
        return self.is_deferred or (self.intent is not None and self.intent.is_on_record is None)

    def obstacle(self, now: float) -> Failed | None:
        """Returns why an add or an announcement is not done, now that it does not wait any more."""
        if self.is_deferred:
            return DISK_HANGS
        if self.intent is None or not self.operation.waits_for_disk:
            return None
        if now >= self.given_up_at:
            return BEHIND_OTHERS
        is_on_record = self.intent.is_on_record
        # What was begun in time has not failed before it is given up.
        came_up_at = now if self.begun_at is None else self.begun_at
        if is_on_record and came_up_at < self.at + GIVE_UP_AFTER_S:
            return None
        return NOT_WRITTEN if is_on_record is False else DISK_HANGS

    @property
    def is_resetting(self) -> bool:
        """Whether it is a removal with a reset that is not done yet."""
        is_over = self.reply is not None or self.outcome is not None
        is_reset = isinstance(self.request, Remove) and self.request.resets
        return is_reset and not is_over

    @property
    def given_up_at(self) -> float:
        """When what was begun has waited too long for the kernel; never, if it was not."""
        if self.begun_at is None:
            return math.inf
        return min(self.begun_at + GIVE_UP_AFTER_S, self.at + GIVE_UP_AT_LATEST_S)

    @property
    def on_record(self) -> Reply:
        """The reply as the record tells it: `failed` leaves open there what was done, and is not
        told of what was surely not done."""
        reply = self.outcome or self.reply or HUNG_UP
        is_not_done = reply in (NOT_WRITTEN, DISK_HANGS, OVERTAKEN, HUNG_UP, BEHIND_OTHERS)
        return Refused("record", reply.reason) if is_not_done else reply  # type: ignore[union-attr]

    @property
    def fence_on_record(self) -> tuple[bool | None, float | None]:
        """What the record tells of the fence, of what was done."""
        is_done = isinstance(self.on_record, Ok)
        return self.fenced_until if is_done and self.fenced_until else (None, None)


A = TypeVar("A", bound=Asked)


def ready(asked: deque[A], now: float) -> tuple[list[A], float]:
    """Returns what may be done now, in this order, and when there may be more, if nothing comes
    before. After a request that may be about all addresses it is others' turn."""
    found: list[A] = []
    first: A | None = None
    given_up_at = math.inf
    is_resetting = False
    for each in asked:
        if each.reply is not None:
            continue
        if is_resetting and now < each.waits_for_resets_until:
            given_up_at = min(given_up_at, each.waits_for_resets_until)
            break
        is_resetting = is_resetting or each.is_resetting
        if each.begun_at is not None:
            given_up_at = min(given_up_at, each.given_up_at)
        elif each.known is None and each.waits(now):
            first = first or each
        elif given_up_at < math.inf and not each.operation.may_pass_begun:
            continue
        elif first is None or (now >= first.at + OVERTAKE_AFTER_S and each.operation.may_overtake):
            found.append(each)
            if not each.operation.may_be_batched:
                if each is not asked[-1]:
                    return found, now
                break
    if first is None:
        return found, given_up_at
    overtaken_at = first.at + OVERTAKE_AFTER_S
    look_at = overtaken_at if now < overtaken_at else first.at + GIVE_UP_AFTER_S
    return found, min(look_at, given_up_at)


def overtaken(asked: Iterable[A], it: A) -> list[A]:
    """Returns the adds that are over because this removal or renewal was done, and gives those that
    go on waiting the nearer deadline."""
    if it not in asked:
        return []
    over = []
    for each in takewhile(lambda each: each is not it, asked):
        is_over = each.reply or each.outcome or each.begun_at is not None
        if is_over or not isinstance(each.request, Add):
            continue
        match it.request:
            case Remove(_, address) if address == each.request.address:
                each.reply = OVERTAKEN
                over.append(each)
            case Renew(_, deadline_ns) if deadline_ns < each.request.deadline_ns:
                each.request = replace(each.request, deadline_ns=deadline_ns)
    return over
