"""When a node held which address, as the record of its helper tells it, read in order.

There are two answers to everything: *surely*, and *possibly*. The record tells when an effect was
about to come (intent) and when it was there (result); in between nobody knows. What is sure lies
within the truth, and the truth within what is possible, if the record is whole, the clock is right
and nobody else removes or adds these addresses. Reads no files.

A node holds an address as long as it may answer for it. Without the fence that is as long as the
address is on an interface. With it, the address may lie there muted after its deadline.

How an interval goes on after the last that is known of it: with the fence an address answers
nothing later than 0.05 s after its latest deadline; without it has a finite lifetime in the kernel,
and is off the interface at most 0.2 s after that (PROTOCOL.md); the next life of the helper tells
what it found (`held`), and a boot finds nothing. Presence that is proven twice, and no word of the
address having been put back, is presence in between.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from yaim_helper.record.entries import TAKEN
from yaim_helper.tools.coverage import Interval, without
from yaim_helper.tools.intervals import (
    BROOM,
    FENCE,
    FENCE_GRACE_US,
    FOREVER,
    LIFETIME,
    Guard,
    HeldInterval,
    OpenInterval,
    Owner,
)
from yaim_helper.tools.records import Marker, Micros, Record, earlier_marker
from yaim_helper.tools.verify import request_key


class History:
    """What one node held, from the records of its helper in order."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.intervals: list[HeldInterval] = []
        self._open: dict[str, OpenInterval] = {}
        self._gone_at: dict[str, Micros] = {}
        """When each address was surely gone after its last interval."""
        self._boot = ""
        self._boot_began: Micros = 0
        self._life_began: Micros = 0
        self._life_ended: Micros = 0
        """The last that is on record of the life before."""
        self._last_at: Micros = 0
        self._summed_up_at: Micros = 0
        self._listed: set[str] | None = None
        """What the `held` records that belong together tell, so far; None: they are over."""
        self._is_at_start = False
        """Whether they are the first of a life: what it found, not what it holds."""
        self._intents: dict[tuple[object, ...], deque[Micros]] = {}
        self._is_fence_told = False
        """Whether this life is of a version that knows of the fence."""
        self._has_fence = False
        """Whether this life has put it in force."""
        self._lost: dict[Owner, Micros] = {}
        """For whom it is not in force any more, and since when."""
        self._asked_for: dict[Owner, list[tuple[Micros, Micros]]] = {}
        """The deadlines of this life's adds, each with an instant before which it was told: later
        ones behind nearer ones only."""
        self._lapses: dict[Owner | None, list[Interval]] = {}
        """When it is not sure that what is fenced for an owner answered; in order. All of it is
        mute when the deadline of one of its addresses has passed, until that is removed."""
        self._touched: set[str] = set()
        """Addresses that were told of since the last gap."""

    def take(self, record: Record) -> None:
        if record.boot_id != self._boot:
            self._boot_begins(record)
        if record.type not in ("held", "segment"):
            self._listed, self._is_at_start = None, False
        match record.type:
            case "start":
                self._start(record)
            case "held":
                self._held(record)
            case "intent":
                self._intent(record)
            case "result":
                self._result(record)
            case "own":
                self._own(record)
            case "renewals":
                self._renewals(record)
            case "fence":
                self._fence(record)
            case "gap":
                for address in self._touched & self._open.keys():
                    # It may have been removed, and a removal never waits for the record.
                    self._open[address].doubt()
                    self._open[address].is_only_asked_for = False
                self._touched.clear()
        self._last_at = record.at

    def finish(self, marker: Marker | None) -> None:
        """Ends all intervals: there are no more records."""
        self._life_ends(marker)
        for interval in list(self._open.values()):
            is_known = interval.deadline is not None
            self._end(interval, interval.off_at, "its deadline" if is_known else "nobody knows")

    # --- lives and boots ---------------------------------------------------------------------

    def _boot_begins(self, record: Record) -> None:
        self._life_ends(earlier_marker(record) if record.type == "start" else None)
        for interval in list(self._open.values()):
            at = min(interval.off_at, record.boot_began)
            self._end(interval, at, "the host was started anew")
        self._boot, self._boot_began = record.boot_id, record.boot_began
        self._is_fence_told = self._has_fence = False

    def _start(self, record: Record) -> None:
        self._life_ends(earlier_marker(record))
        self._life_began = self._summed_up_at = record.at
        self._life_ended = self._last_at
        self._listed, self._is_at_start = set(), True
        fence = record.fields.get("fence")
        self._is_fence_told = fence is not None
        self._has_fence = fence is not None and fence["in_force"]

    def _life_ends(self, marker: Marker | None) -> None:
        """Takes in that a life of the helper has ended, in whatever way: nobody renews from then
        on, until an address is added again."""
        self._intents.clear()
        last_at = max(self._last_at, marker.at) if marker is not None else self._last_at
        for owner, since in self._lost.items():
            self._lapse(owner, since, last_at)
        self._lost.clear()
        for interval in self._open.values():
            if interval.adds:
                # Perhaps put back by one whose result was not told.
                interval.doubt()
            # A renewal that passes an add which waits gives it a later deadline, with the fence.
            if not interval.is_final or (interval.adds and self._has_fence):
                self._apply(interval, marker)
        self._leave_fenced(marker)
        for interval in self._open.values():
            interval.is_only_asked_for = interval.may_be_done = False
            interval.adds = 0
            interval.is_renewed = interval.is_renewal_to_come = False

    def _leave_fenced(self, marker: Marker | None) -> None:
        """Finds out until when the fences of a life that is over let addresses answer: those of
        an owner until the nearest of their deadlines. A renewal sets them all; an add may set one
        nearer. The latest deadline, which is told of renewals, may be another address's."""
        live_until: dict[Owner | None, Micros] = {}
        for interval in self._open.values():
            if interval.guard.is_fence and interval.is_renewed:
                until = self._live_until(interval, marker)
                live_until[interval.owner] = min(until, live_until.get(interval.owner, until))
        for interval in self._open.values():
            if not interval.guard.is_fence:
                interval.live_until = None
            elif interval.is_renewed:
                interval.live_until = live_until[interval.owner]
            elif interval.live_until is None or interval.adds or interval.may_be_done:
                # Perhaps added anew, to a nearer deadline.
                interval.live_until = 0
        self._asked_for.clear()

    def _live_until(self, interval: OpenInterval, marker: Marker | None) -> Micros:
        """Returns until when an address of this life is known to answer by the fence, if no other
        one of its owner has a nearer deadline."""
        owner = interval.owner
        if marker is None or owner is None or interval.adds or interval.may_be_done:
            return 0
        since, until = 0, interval.deadline_told or 0
        if marker.boot_id == self._boot and marker.at >= self._life_began:
            if owner in marker.live:
                since, until = marker.at, marker.live[owner]
            elif owner in marker.deadlines:
                return 0
        later = (each for at, each in self._asked_for.get(owner, ()) if at >= since)
        return min([until, *later])

    def _ask(self, owner: Owner, record: Record) -> None:
        """Takes in that an address may have been added with a deadline until now, or later."""
        deadline = record.wall(record.fields["deadline_ns"])
        asked_for = self._asked_for.setdefault(owner, [])
        while asked_for and asked_for[-1][1] >= deadline:
            asked_for.pop()
        asked_for.append((record.at, deadline))

    def _apply(self, interval: OpenInterval, marker: Marker | None) -> None:
        """Takes in what the marker tells about renewals of this life; a marker of another life
        tells that this one had none."""
        if marker is None:
            interval.is_until(None)
        elif interval.owner and marker.boot_id == self._boot and interval.owner in marker.deadlines:
            interval.is_until(marker.deadlines[interval.owner])
            if len(marker.deadlines) == 1 and marker.at >= self._life_began and interval.is_renewed:
                interval.prove(marker.at)

    def _held(self, record: Record) -> None:
        """Takes in a list: at a start, what is there; later, what this life holds."""
        is_at_start = self._is_at_start
        listed = self._listed = set() if self._listed is None else self._listed
        rows = record.fields["addresses"]
        told = record.fields.get("fence")
        fences = [None] * len(rows) if told is None else told
        is_unknown_fenced = self._is_fence_told or told is not None
        for row, is_fenced in zip(rows, fences, strict=True):
            address, interface, prefix, uid, cluster, deadline_ns = row
            listed.add(address)
            interval = self._told(address)
            is_new = interval is None
            if interval is None:
                # All that is known where earlier segments are kept elsewhere.
                interval = self._begin(address, None, record)
                if is_fenced is None:
                    interval.guard = BROOM if is_unknown_fenced else LIFETIME
                else:
                    interval.guard = self._guard(None, is_fenced)
            elif is_fenced is not None:
                may_be_fenced = interval.guard.is_fence or interval.before is not None
                interval.guard = FENCE if is_fenced else BROOM if may_be_fenced else LIFETIME
            if is_at_start:
                interval.removal_at = None
                if uid is None:
                    # Another life may have put it there, one that wrote elsewhere.
                    interval.doubt()
                    if interval.guard.is_fence:
                        interval.deadline = None
                self._is_found(interval)
            elif is_new and (deadline_ns is not None or not interval.guard.is_fence):
                interval.begin_sure(record.at)
            interval.is_only_asked_for = False
            interval.owner = interval.owner if uid is None or cluster is None else (uid, cluster)
            interval.place, interval.policy = (interface, prefix), record.policy
            if deadline_ns is not None:
                if is_new and interval.guard.is_fence:
                    interval.deadline = record.wall(deadline_ns)
                interval.is_until(record.wall(deadline_ns))
                interval.deadline_told = record.wall(deadline_ns)
                interval.is_renewed = interval.is_renewal_to_come = True
            elif interval.bound < record.at and not interval.guard.is_fence:
                # It is not true, then.
                interval.is_until(None)
        if record.fields.get("more"):
            return
        self._listed, self._is_at_start = None, False
        for interval in list(self._open.values()):
            if interval.address in listed:
                continue
            if is_at_start:
                self._is_absent(interval, record, "the next life of the helper did not find it")
            elif interval.is_renewed and not interval.adds and interval.removal_at is None:
                self._is_absent(interval, record, "the helper held it no more")

    def _is_found(self, interval: OpenInterval) -> None:
        """Takes in that it was on the interface when this life began."""
        live_until = (interval.live_until or 0) if interval.guard.is_fence else FOREVER
        if interval.sure_from is not None:
            # It was seen some time after that, and before it is told here.
            interval.prove(min(self._life_ended, live_until))
        if interval.guard is BROOM or live_until < self._life_began:
            # It may lie there muted.
            interval.doubt()
        elif interval.sure_from is None:
            interval.begin_sure(self._life_began)

    # --- requests ------------------------------------------------------------------------------

    def _intent(self, record: Record) -> None:
        fields = record.fields
        self._intents.setdefault(request_key(record), deque()).append(record.at)
        interval = self._told(fields.get("address", ""))
        if fields["op"] == "add":
            guard = self._guard(_owner(fields), None)
            self._ask(_owner(fields), record)
            deadline = record.wall(fields["deadline_ns"])
            before = None
            if interval is not None and interval.bound < record.at and interval.is_final:
                if interval.guard.is_fence:
                    before = self._open.pop(interval.address)
                    guard = guard.or_(before.guard)
                else:
                    self._end(interval, interval.bound, "its deadline")
                interval = None
            if interval is None:
                interval = self._begin(fields["address"], record.at, record)
                interval.deadline, interval.owner = deadline, _owner(fields)
                interval.is_only_asked_for = True
                interval.guard, interval.before = guard, before
            else:
                interval.guard = interval.guard.or_(guard)
            interval.answered_until = None
            interval.is_until(deadline)
            interval.asked_by = _owner(fields)
            interval.asked_until = max(deadline, interval.asked_until if interval.adds else 0)
            interval.adds += 1
        elif fields["op"] == "remove" and interval is not None:
            interval.removal_at = record.at

    def _result(self, record: Record) -> None:
        fields = record.fields
        if fields["op"] not in ("add", "remove"):
            return
        asked_at = self._asked_at(record)
        interval = self._told(fields["address"])
        if fields["op"] == "remove":
            self._removed(record, interval)
            return
        if interval is not None and asked_at is not None:
            interval.adds = max(0, interval.adds - 1)
        match fields["outcome"]:
            case "ok":
                self._added(record, interval, record.at if asked_at is None else asked_at)
            case "failed" if interval is not None:
                interval.is_only_asked_for = False
                interval.may_be_done = self._has_fence
                interval.doubt()
            case "refused" if (
                interval is not None and interval.is_only_asked_for and not interval.adds
            ):
                self._is_refused(interval)

    def _is_refused(self, interval: OpenInterval) -> None:
        """Takes in that nothing was done of what was only asked for."""
        del self._open[interval.address]
        if interval.before is not None:
            self._open[interval.address] = interval.before

    def _asked_at(self, record: Record) -> Micros | None:
        """Returns when the intent was told; None: a request that is refused whatever is on the host
        has none."""
        key = request_key(record)
        asked = self._intents.get(key)
        if asked is None:
            return None
        if len(asked) == 1:
            del self._intents[key]
        return asked.popleft()

    def _added(self, record: Record, interval: OpenInterval | None, asked_at: Micros) -> None:
        fields = record.fields
        was_there = fields.get("was") == "present"
        place = fields["interface"], fields["prefix"]
        if interval is None or (
            was_there and interval.is_only_asked_for and interval.before is None
        ):
            # It is from before what is on record.
            interval = self._begin(fields["address"], None, record)
        has_moved = interval.place not in (None, place)
        # What is left from without a fence is admitted between looking at it and setting its
        # lifetime, which may end meanwhile.
        is_left = not interval.is_renewed and interval.live_until is None
        may_have_ended = self._has_fence and is_left
        proven_at = asked_at if has_moved or may_have_ended else record.at
        live_until = record.at if interval.live_until is None else interval.live_until
        if was_there:
            interval.prove(min(proven_at, live_until))
        if not was_there or has_moved or may_have_ended or live_until < record.at:
            interval.doubt()
        if interval.removal_at is None:
            interval.begin_sure(record.at)
        # Else it may be gone again: results are told when all that was asked at once is done.
        deadline = record.wall(fields["deadline_ns"])
        self._ask(_owner(fields), record)
        guard = self._guard(_owner(fields), fields.get("fence"))
        if interval.adds:
            interval.is_until(deadline)
            interval.guard = interval.guard.or_(guard)
        else:
            interval.deadline, interval.guard = deadline, guard
            interval.may_be_done = False
        interval.deadline_told, interval.live_until = deadline, None
        interval.is_only_asked_for, interval.answered_until = False, None
        interval.owner, interval.place, interval.policy = _owner(fields), place, record.policy
        interval.is_renewed = interval.is_renewal_to_come = True

    def _removed(self, record: Record, interval: OpenInterval | None) -> None:
        fields = record.fields
        was_there = fields["outcome"] == "ok" and fields.get("was") == "present"
        if interval is not None:
            self._ends_late(interval, record)
        if was_there:
            self._is_removed(interval or self._begin(fields["address"], None, record), record)
        elif interval is None:
            return
        elif fields["outcome"] == "ok" and interval.owner in (None, _owner(fields)):
            self._is_absent(interval, record, "found to be gone")
            self._go_on(interval, record)
        else:
            # It was refused, or is another's, or failed; then nobody renews it any more.
            interval.is_renewed = interval.is_renewed and fields["outcome"] != "failed"
            interval.removal_at = None

    # --- what the helper does of itself --------------------------------------------------------

    def _own(self, record: Record) -> None:
        fields = record.fields
        interval = self._told(fields["address"]) or self._begin(fields["address"], None, record)
        interval.is_only_asked_for = False
        outcome = fields["outcome"]
        if fields["op"] == "expire":
            self._ends_late(interval, record)
        if fields["op"] == "extend":
            interval.doubt()
            if outcome == "somebody had removed it: put back":
                interval.begin_sure(record.at)
            elif outcome == TAKEN:
                interval.is_renewed = False
        elif outcome.endswith(": removing"):
            interval.removal_at = record.at
        elif outcome == "removed":
            self._is_removed(interval, record)
        elif outcome == "the kernel had removed it":
            self._end(interval, record.at, outcome)
            self._go_on(interval, record)
        else:
            # It could not be removed, and nobody renews it any more.
            interval.removal_at = None
            interval.is_renewed = False

    def _fence(self, record: Record) -> None:
        """Takes in that the fence of an owner is lost, or made anew. While it is lost, addresses
        answer as long as they are on the interface; while it is made, perhaps for a moment not."""
        owner = record.fields["uid"], record.fields["cluster"]
        is_lost = record.fields["outcome"] == "lost"
        if is_lost:
            self._lost.setdefault(owner, record.at)
        else:
            self._lapse(owner, self._lost.pop(owner, record.at), record.at)
        for interval in self._open.values():
            for each in (interval, interval.before):
                if each is not None and each.owner == owner and each.guard.is_fence:
                    each.guard = BROOM if is_lost else FENCE
                    each.lost_until = record.at

    def _renewals(self, record: Record) -> None:
        """Takes in the renewals since they were told the last time."""
        owners: dict[Owner | None, Mapping[str, Any]] = {
            (each["uid"], each["cluster"]): each for each in record.fields["owners"]
        }
        for interval in self._open.values():
            each = owners.get(interval.owner)
            if interval.is_renewal_to_come and each is not None:
                interval.is_until(record.wall(each["deadline_ns"]))
                if interval.is_renewed and each["count"]:
                    # The first of them was not before that.
                    interval.prove(self._summed_up_at)
            interval.is_renewal_to_come = interval.is_renewed
        self._summed_up_at = record.at

    def _ends_late(self, interval: OpenInterval, record: Record) -> None:
        """Takes in until when an address answered that is removed. As long as that is not done, and
        its deadline has passed, nothing answers that is fenced for its owner."""
        told = interval.answered_until = _answered_until(record)
        if told is not None and told < record.at and interval.is_renewed:
            self._lapse(interval.owner, told, record.at)

    # --- beginnings and ends -------------------------------------------------------------------

    def _told(self, address: str) -> OpenInterval | None:
        """Returns the open interval of an address that a record is about."""
        self._touched.add(address)
        return self._open.get(address)

    def _guard(self, owner: Owner | None, is_fenced: bool | None) -> Guard:
        """Returns what guards an address that this life has added; `is_fenced` None: it is not
        told of this one."""
        if is_fenced:
            # Where the start of this life is not on record.
            self._has_fence = True
        if not self._has_fence:
            return LIFETIME
        is_in_force = owner not in self._lost if is_fenced is None else is_fenced
        return FENCE if is_in_force else BROOM

    def _begin(self, address: str, at: Micros | None, record: Record) -> OpenInterval:
        """Begins an interval; `at` None: it may have been there since before what is on record of
        it."""
        since = max(self._boot_began, self._gone_at.get(address, 0)) if at is None else at
        self._open[address] = OpenInterval(
            address, min(since, record.at), LIFETIME, policy=record.policy
        )
        return self._open[address]

    def _is_removed(self, interval: OpenInterval, record: Record) -> None:
        """Ends an interval: the address was there until removing it began."""
        is_told = interval.answered_until is not None or not interval.guard.is_fence
        if interval.removal_at is not None and is_told:
            interval.prove(interval.removal_at)
        self._end(interval, record.at, "removed")
        self._go_on(interval, record)

    def _go_on(self, ended: OpenInterval, record: Record) -> None:
        """Takes in that adds without results may be done after the address was gone."""
        if not ended.adds or ended.address in self._open:
            return
        interval = self._begin(ended.address, None, record)
        interval.guard, interval.owner = self._guard(ended.asked_by, None), ended.asked_by
        interval.deadline = interval.asked_until = ended.asked_until
        interval.adds, interval.asked_by = ended.adds, ended.asked_by
        interval.is_only_asked_for = True

    def _is_absent(self, interval: OpenInterval, record: Record, why: str) -> None:
        """Takes in that the helper does not find an address. It knows its own, and of what an
        earlier life left that which its policy allows."""
        if interval.is_renewed or interval.policy == record.policy:
            at = min(interval.off_at, record.at) if interval.is_final else record.at
            self._end(interval, at, why)
        else:
            interval.doubt()

    def _end(self, interval: OpenInterval, at: Micros, ended: str) -> None:
        """Ends an interval: the address is off the interface since then, and answers no more."""
        interval.doubt()
        if self._open.get(interval.address) is interval:
            del self._open[interval.address]
        if interval.before is not None:
            before = interval.before
            self._end(before, min(before.off_at, interval.possible_from), "its deadline")
        sure, answers_until = self._fenced(interval, at)
        last = max([interval.possible_from, *(until for _, until in sure)])
        at, answers_until = max(at, last), max(answers_until, last)
        self._gone_at[interval.address] = at
        self.intervals.append(
            HeldInterval(
                interval.address,
                self.node,
                (interval.possible_from, answers_until),
                tuple(sure),
                ended,
                (answers_until, at) if answers_until < at else None,
            )
        )

    def _fenced(self, interval: OpenInterval, at: Micros) -> tuple[Sequence[Interval], Micros]:
        """Returns what the fence leaves of an interval that ends then: the sure parts, and until
        when it may have answered."""
        told = interval.answered_until
        until, sure_until = at, FOREVER
        if told is not None:
            grace = interval.guard.grace if interval.guard.is_fence else FENCE_GRACE_US
            until, sure_until = max(told + grace, interval.lost_until), told
        elif interval.guard.is_fence:
            if interval.is_final:
                until = interval.bound
            if interval.live_until is not None:
                sure_until = interval.live_until
        lapses = self._lapses_of(interval.owner, interval.possible_from)
        lapses.append((sure_until, FOREVER))
        sure = [part for each in interval.sure for part in without(each, lapses)]
        return sure, min(at, until)

    # --- lapses of the fence -------------------------------------------------------------------

    def _lapse(self, owner: Owner | None, since: Micros, until: Micros) -> None:
        """Takes in that what is fenced for an owner may not have answered in that time."""
        lapses = self._lapses.setdefault(owner, [])
        while lapses and since <= lapses[-1][1]:
            before = lapses.pop()
            since, until = min(before[0], since), max(before[1], until)
        lapses.append((since, until))

    def _lapses_of(self, owner: Owner | None, since: Micros) -> list[Interval]:
        lapses = self._lapses.get(owner, [])
        found = lapses[max(0, bisect_right(lapses, (since, since)) - 1) :]
        return [*found, (self._lost[owner], FOREVER)] if owner in self._lost else [*found]


def _answered_until(record: Record) -> Micros | None:
    """Returns the deadline that was in force for an address that is removed; None: it was not
    fenced, or that is not told."""
    deadline_ns = record.fields.get("deadline_ns")
    if not record.fields.get("fence") or deadline_ns is None:
        return None
    return record.wall(deadline_ns)


def _owner(fields: Mapping[str, Any]) -> Owner:
    return fields["peer"]["uid"], str(fields["cluster"])
