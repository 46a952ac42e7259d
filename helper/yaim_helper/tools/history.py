"""When a node held which address, as the record of its helper tells it, read in order.

There are two answers to everything: *surely*, and *possibly*. The record tells when an effect was
about to come (intent) and when it was there (result); in between nobody knows. What is sure lies
within the truth, and the truth within what is possible, if the record is whole, the clock is right
and nobody else removes or adds these addresses. Reads no files.

How an interval goes on after the last that is known of it: an address has a finite lifetime in the
kernel, and is off the interface at most 0.2 s after its latest deadline (PROTOCOL.md); the next
life of the helper tells what it found (`held`), and a boot finds nothing. Presence that is proven
twice, and no word of the address having been put back, is presence in between.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from yaim_helper.record.entries import TAKEN
from yaim_helper.tools.coverage import Interval
from yaim_helper.tools.records import Marker, Micros, Record, earlier_marker
from yaim_helper.tools.verify import request_key

GRACE_US = 200_000
"""An address may outlive its deadline by so much."""
FOREVER: Micros = 2**62
Owner: TypeAlias = tuple[int, str]


@dataclass(frozen=True, slots=True)
class HeldInterval:
    """The time from when an address came to a node until it went."""

    address: str
    node: str
    possible: Interval
    """The first instant at which it may have been there, and the last."""
    sure: tuple[Interval, ...]
    """The parts of it in which it surely was there."""
    ended: str
    """How it is known to have ended."""


@dataclass(slots=True)
class _OpenInterval:
    """An interval that goes on, as far as the record is read."""

    address: str
    possible_from: Micros
    sure: list[Interval] = field(default_factory=list)
    sure_from: Micros | None = None
    """Since when it is surely there; None: at present that is not sure."""
    proven_at: Micros = 0
    """The last instant at which it surely was there, if it is sure."""
    removal_at: Micros | None = None
    """When removing it may have begun."""
    is_only_asked_for: bool = False
    """All that is known is an add, which may be refused."""
    adds: int = 0
    """Adds without results."""
    owner: Owner | None = None
    place: tuple[str, int] | None = None
    deadline: Micros | None = None
    """The latest deadline; None: it is not known."""
    is_renewed: bool = False
    """Whether this life of the helper holds it."""
    is_renewal_to_come: bool = False
    """Whether it may have been renewed, and that is not told yet."""
    policy: str = ""
    """The policy in force when it was last known to be there."""

    def prove(self, at: Micros) -> None:
        """Takes in that it was there then, or until removing it began; and before, if that was
        sure."""
        if self.removal_at is not None:
            at = min(at, self.removal_at)
        if self.sure_from is not None:
            self.proven_at = max(self.proven_at, at)

    def begin_sure(self, at: Micros) -> None:
        """Takes in that it is there from now on, whatever was before."""
        if self.sure_from is None:
            self.sure_from = self.proven_at = at
        self.proven_at = max(self.proven_at, at)

    def doubt(self) -> None:
        """Takes in that nothing is sure since it was proven the last time."""
        if self.sure_from is not None and self.proven_at > self.sure_from:
            self.sure.append((self.sure_from, self.proven_at))
        self.sure_from = None

    def is_until(self, deadline: Micros | None) -> None:
        """Takes in a deadline; a later one that is known already stays."""
        if deadline is not None and self.deadline is not None:
            self.deadline = max(self.deadline, deadline)
        else:
            self.deadline = None

    @property
    def bound(self) -> Micros:
        """The instant at which it is gone, if it is not renewed."""
        return FOREVER if self.deadline is None else self.deadline + GRACE_US


class History:
    """What one node held, from the records of its helper in order."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.intervals: list[HeldInterval] = []
        self._open: dict[str, _OpenInterval] = {}
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
            self._end(interval, interval.bound, "its deadline" if is_known else "nobody knows")

    # --- lives and boots ---------------------------------------------------------------------

    def _boot_begins(self, record: Record) -> None:
        self._life_ends(earlier_marker(record) if record.type == "start" else None)
        for interval in list(self._open.values()):
            self._end(interval, min(interval.bound, record.boot_began), "the host was started anew")
        self._boot, self._boot_began = record.boot_id, record.boot_began

    def _start(self, record: Record) -> None:
        self._life_ends(earlier_marker(record))
        self._life_began = self._summed_up_at = record.at
        self._life_ended = self._last_at
        self._listed, self._is_at_start = set(), True

    def _life_ends(self, marker: Marker | None) -> None:
        """Takes in that a life of the helper has ended, in whatever way: nobody renews from then
        on, until an address is added again."""
        self._intents.clear()
        for interval in self._open.values():
            if interval.adds:
                # Perhaps put back by one whose result was not told.
                interval.doubt()
            if interval.is_renewal_to_come:
                self._apply(interval, marker)
            interval.is_only_asked_for = False
            interval.adds = 0
            interval.is_renewed = interval.is_renewal_to_come = False

    def _apply(self, interval: _OpenInterval, marker: Marker | None) -> None:
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
        for address, interface, prefix, uid, cluster, deadline_ns in record.fields["addresses"]:
            listed.add(address)
            interval = self._told(address)
            if is_at_start:
                interval = interval or self._begin(address, None, record)
                interval.removal_at = None
                if uid is None:
                    # Another life may have put it there, one that wrote elsewhere.
                    interval.doubt()
                if interval.sure_from is None:
                    interval.begin_sure(self._life_began)
                else:
                    # It was seen some time after that, and before it is told here.
                    interval.prove(self._life_ended)
            elif interval is None:
                # All that is known where earlier segments are kept elsewhere.
                interval = self._begin(address, None, record)
                interval.begin_sure(record.at)
            interval.is_only_asked_for = False
            interval.owner = interval.owner if uid is None or cluster is None else (uid, cluster)
            interval.place, interval.policy = (interface, prefix), record.policy
            if deadline_ns is not None:
                interval.is_until(record.wall(deadline_ns))
                interval.is_renewed = interval.is_renewal_to_come = True
            elif interval.bound < record.at:
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

    # --- requests ------------------------------------------------------------------------------

    def _intent(self, record: Record) -> None:
        fields = record.fields
        self._intents.setdefault(request_key(record), deque()).append(record.at)
        interval = self._told(fields.get("address", ""))
        if fields["op"] == "add":
            deadline = record.wall(fields["deadline_ns"])
            if (
                interval is not None
                and interval.bound < record.at
                and not interval.is_renewal_to_come
            ):
                self._end(interval, interval.bound, "its deadline")
                interval = None
            if interval is None:
                interval = self._begin(fields["address"], record.at, record)
                interval.deadline, interval.owner = deadline, _owner(fields)
                interval.is_only_asked_for = True
            interval.is_until(deadline)
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
                interval.doubt()
            case "refused" if (
                interval is not None and interval.is_only_asked_for and not interval.adds
            ):
                del self._open[interval.address]

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

    def _added(self, record: Record, interval: _OpenInterval | None, asked_at: Micros) -> None:
        fields = record.fields
        was_there = fields.get("was") == "present"
        place = fields["interface"], fields["prefix"]
        if interval is None or (was_there and interval.is_only_asked_for):
            # It is from before what is on record.
            interval = self._begin(fields["address"], None, record)
        has_moved = interval.place not in (None, place)
        if was_there:
            interval.prove(asked_at if has_moved else record.at)
        if not was_there or has_moved:
            interval.doubt()
        if interval.removal_at is None:
            interval.begin_sure(record.at)
        # Else it may be gone again: results are told when all that was asked at once is done.
        deadline = record.wall(fields["deadline_ns"])
        if interval.adds:
            interval.is_until(deadline)
        else:
            interval.deadline = deadline
        interval.is_only_asked_for = False
        interval.owner, interval.place, interval.policy = _owner(fields), place, record.policy
        interval.is_renewed = interval.is_renewal_to_come = True

    def _removed(self, record: Record, interval: _OpenInterval | None) -> None:
        fields = record.fields
        was_there = fields["outcome"] == "ok" and fields.get("was") == "present"
        if was_there:
            self._is_removed(interval or self._begin(fields["address"], None, record), record)
        elif interval is None:
            return
        elif fields["outcome"] == "ok" and interval.owner in (None, _owner(fields)):
            self._is_absent(interval, record, "found to be gone")
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
        else:
            # It could not be removed, and nobody renews it any more.
            interval.removal_at = None
            interval.is_renewed = False

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

    # --- beginnings and ends -------------------------------------------------------------------

    def _told(self, address: str) -> _OpenInterval | None:
        """Returns the open interval of an address that a record is about."""
        self._touched.add(address)
        return self._open.get(address)

    def _begin(self, address: str, at: Micros | None, record: Record) -> _OpenInterval:
        """Begins an interval; `at` None: it may have been there since before what is on record of
        it."""
        since = max(self._boot_began, self._gone_at.get(address, 0)) if at is None else at
        self._open[address] = _OpenInterval(address, min(since, record.at), policy=record.policy)
        return self._open[address]

    def _is_removed(self, interval: _OpenInterval, record: Record) -> None:
        """Ends an interval: the address was there until removing it began."""
        if interval.removal_at is not None:
            interval.prove(interval.removal_at)
        self._end(interval, record.at, "removed")

    def _is_absent(self, interval: _OpenInterval, record: Record, why: str) -> None:
        """Takes in that the helper does not find an address. It knows its own, and of what an
        earlier life left that which its policy allows."""
        if interval.is_renewed or interval.policy == record.policy:
            at = record.at if interval.is_renewal_to_come else min(interval.bound, record.at)
            self._end(interval, at, why)
        else:
            interval.doubt()

    def _end(self, interval: _OpenInterval, at: Micros, ended: str) -> None:
        interval.doubt()
        del self._open[interval.address]
        at = max([at, interval.possible_from, *(until for _, until in interval.sure)])
        self._gone_at[interval.address] = at
        possible = (interval.possible_from, at)
        self.intervals.append(
            HeldInterval(interval.address, self.node, possible, tuple(interval.sure), ended)
        )


def _owner(fields: Mapping[str, Any]) -> Owner:
    return fields["peer"]["uid"], str(fields["cluster"])
