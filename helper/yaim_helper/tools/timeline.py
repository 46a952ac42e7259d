"""Who held which address when, as the records of all nodes tell it: overlaps, and what nobody held.

Two answers to everything: *surely*, and *possibly*. The record tells when an effect was about to
come (intent) and when it was there (result); in between nobody knows. What is sure lies within
the truth, and the truth within what is possible, if the records are whole, the clocks agree and
nobody else removes or adds these addresses. Only of the time that the records of all nodes tell of
(coverage.py) silence proves anything; what two nodes surely held they did at any time. Reads no
files.

How a spell goes on after the last that is known of it: an address has a finite lifetime in the
kernel, and is off the interface at most 0.2 s after its latest deadline (PROTOCOL.md); the next
life of the helper tells what it found (`held`), and a boot finds nothing. Presence that is proven
twice, and no word of it having been put back, is presence in between.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

from yaim_helper.record.entries import TAKEN
from yaim_helper.tools.coverage import Interval, Intervals, both, merged, without
from yaim_helper.tools.records import Marker, Micros, Record, earlier_marker
from yaim_helper.tools.verify import request_key

GRACE_US = 200_000
"""By how much an address may outlive its deadline."""
FOREVER: Micros = 2**62

Owner: TypeAlias = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Spell:
    """Of an address on a node. Possible from first to last; sure are the parts of it."""

    address: str
    node: str
    possible: Interval
    sure: tuple[Interval, ...]
    ended: str
    """How it is known to have ended."""


@dataclass(slots=True)
class _Spell:
    """One that goes on."""

    address: str
    possible_from: Micros
    sure: list[Interval] = field(default_factory=list)
    sure_from: Micros | None = None
    """None: at present it is not sure."""
    proven_at: Micros = 0
    """The last instant at which it surely was there, if it is sure."""
    removal_at: Micros | None = None
    """When removing it may have begun."""
    is_only_asked_for: bool = False
    """By an add, which may be refused."""
    adds: int = 0
    """Without results."""
    owner: Owner | None = None
    place: tuple[str, int] | None = None
    deadline: Micros | None = None
    """None: not known."""
    is_renewed: bool = False
    """Whether this life of the helper holds it."""
    is_renewal_to_come: bool = False
    """Whether it may have been renewed, and that is not told yet."""
    policy: str = ""
    """In force when it was last known to be there."""

    def prove(self, at: Micros) -> None:
        """It was there then, or until removing it began; before, too, if it was sure."""
        if self.removal_at is not None:
            at = min(at, self.removal_at)
        if self.sure_from is not None:
            self.proven_at = max(self.proven_at, at)

    def begin_sure(self, at: Micros) -> None:
        """It is there, whatever was before."""
        if self.sure_from is None:
            self.sure_from = self.proven_at = at
        self.proven_at = max(self.proven_at, at)

    def doubt(self) -> None:
        """Since it was last proven nothing is sure."""
        if self.sure_from is not None and self.proven_at > self.sure_from:
            self.sure.append((self.sure_from, self.proven_at))
        self.sure_from = None

    def is_until(self, deadline: Micros | None) -> None:
        """Or until later, if that is known already."""
        if deadline is not None and self.deadline is not None:
            self.deadline = max(self.deadline, deadline)
        else:
            self.deadline = None

    @property
    def bound(self) -> Micros:
        """It is gone then, if it is not renewed."""
        return FOREVER if self.deadline is None else self.deadline + GRACE_US


class History:
    """Of one node, from its records in order."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.spells: list[Spell] = []
        self._open: dict[str, _Spell] = {}
        self._gone_at: dict[str, Micros] = {}
        """When an address was surely gone, after its last spell."""
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
        """There are no more records."""
        self._life_ends(marker)
        for spell in list(self._open.values()):
            is_known = spell.deadline is not None
            self._end(spell, spell.bound, "its deadline" if is_known else "nobody knows")

    # --- lives and boots ---------------------------------------------------------------------

    def _boot_begins(self, record: Record) -> None:
        self._life_ends(earlier_marker(record) if record.type == "start" else None)
        for spell in list(self._open.values()):
            self._end(spell, min(spell.bound, record.boot_began), "the host was started anew")
        self._boot, self._boot_began = record.boot_id, record.boot_began

    def _start(self, record: Record) -> None:
        self._life_ends(earlier_marker(record))
        self._life_began = self._summed_up_at = record.at
        self._life_ended = self._last_at
        self._listed, self._is_at_start = set(), True

    def _life_ends(self, marker: Marker | None) -> None:
        """However it did: nobody renews from then on, until an address is added again."""
        self._intents.clear()
        for spell in self._open.values():
            if spell.adds:
                # Perhaps put back by one whose result was not told.
                spell.doubt()
            if spell.is_renewal_to_come:
                self._apply(spell, marker)
            spell.is_only_asked_for = False
            spell.adds = 0
            spell.is_renewed = spell.is_renewal_to_come = False

    def _apply(self, spell: _Spell, marker: Marker | None) -> None:
        """What the marker tells of this life's renewals; of another life's, that this had none."""
        if marker is None:
            spell.is_until(None)
        elif spell.owner and marker.boot_id == self._boot and spell.owner in marker.deadlines:
            spell.is_until(marker.deadlines[spell.owner])
            if len(marker.deadlines) == 1 and marker.at >= self._life_began and spell.is_renewed:
                spell.prove(marker.at)

    def _held(self, record: Record) -> None:
        """At a start, what is there; later, what this life holds."""
        is_at_start = self._is_at_start
        listed = self._listed = set() if self._listed is None else self._listed
        for address, interface, prefix, uid, cluster, deadline_ns in record.fields["addresses"]:
            listed.add(address)
            spell = self._told(address)
            if is_at_start:
                spell = spell or self._begin(address, None, record)
                spell.removal_at = None
                if uid is None:
                    # Another life may have put it there, one that wrote elsewhere.
                    spell.doubt()
                if spell.sure_from is None:
                    spell.begin_sure(self._life_began)
                else:
                    # It was seen some time after that, and before it is told here.
                    spell.prove(self._life_ended)
            elif spell is None:
                # All that is known where earlier segments are kept elsewhere.
                spell = self._begin(address, None, record)
                spell.begin_sure(record.at)
            spell.is_only_asked_for = False
            spell.owner = spell.owner if uid is None or cluster is None else (uid, cluster)
            spell.place, spell.policy = (interface, prefix), record.policy
            if deadline_ns is not None:
                spell.is_until(record.wall(deadline_ns))
                spell.is_renewed = spell.is_renewal_to_come = True
            elif spell.bound < record.at:
                # It is not true, then.
                spell.is_until(None)
        if record.fields.get("more"):
            return
        self._listed, self._is_at_start = None, False
        for spell in list(self._open.values()):
            if spell.address in listed:
                continue
            if is_at_start:
                self._is_absent(spell, record, "the next life of the helper did not find it")
            elif spell.is_renewed and not spell.adds and spell.removal_at is None:
                self._is_absent(spell, record, "the helper held it no more")

    # --- requests ------------------------------------------------------------------------------

    def _intent(self, record: Record) -> None:
        fields = record.fields
        self._intents.setdefault(request_key(record), deque()).append(record.at)
        spell = self._told(fields.get("address", ""))
        if fields["op"] == "add":
            deadline = record.wall(fields["deadline_ns"])
            if spell is not None and spell.bound < record.at and not spell.is_renewal_to_come:
                self._end(spell, spell.bound, "its deadline")
                spell = None
            if spell is None:
                spell = self._begin(fields["address"], record.at, record)
                spell.deadline, spell.owner = deadline, _owner(fields)
                spell.is_only_asked_for = True
            spell.is_until(deadline)
            spell.adds += 1
        elif fields["op"] == "remove" and spell is not None:
            spell.removal_at = record.at

    def _result(self, record: Record) -> None:
        fields = record.fields
        if fields["op"] not in ("add", "remove"):
            return
        asked_at = self._asked_at(record)
        spell = self._told(fields["address"])
        if fields["op"] == "remove":
            self._removed(record, spell)
            return
        if spell is not None and asked_at is not None:
            spell.adds = max(0, spell.adds - 1)
        match fields["outcome"]:
            case "ok":
                self._added(record, spell, record.at if asked_at is None else asked_at)
            case "failed" if spell is not None:
                spell.is_only_asked_for = False
                spell.doubt()
            case "refused" if spell is not None and spell.is_only_asked_for and not spell.adds:
                del self._open[spell.address]

    def _asked_at(self, record: Record) -> Micros | None:
        """When the intent was told. What is refused whatever is on the host has none."""
        key = request_key(record)
        asked = self._intents.get(key)
        if asked is None:
            return None
        if len(asked) == 1:
            del self._intents[key]
        return asked.popleft()

    def _added(self, record: Record, spell: _Spell | None, asked_at: Micros) -> None:
        fields = record.fields
        was_there = fields.get("was") == "present"
        place = fields["interface"], fields["prefix"]
        if spell is None or (was_there and spell.is_only_asked_for):
            # From before what is on record.
            spell = self._begin(fields["address"], None, record)
        has_moved = spell.place not in (None, place)
        if was_there:
            spell.prove(asked_at if has_moved else record.at)
        if not was_there or has_moved:
            spell.doubt()
        if spell.removal_at is None:
            spell.begin_sure(record.at)
        # Else it may be gone again: results are told when all that was asked at once is done.
        deadline = record.wall(fields["deadline_ns"])
        if spell.adds:
            spell.is_until(deadline)
        else:
            spell.deadline = deadline
        spell.is_only_asked_for = False
        spell.owner, spell.place, spell.policy = _owner(fields), place, record.policy
        spell.is_renewed = spell.is_renewal_to_come = True

    def _removed(self, record: Record, spell: _Spell | None) -> None:
        fields = record.fields
        was_there = fields["outcome"] == "ok" and fields.get("was") == "present"
        if was_there:
            self._is_removed(spell or self._begin(fields["address"], None, record), record)
        elif spell is None:
            return
        elif fields["outcome"] == "ok" and spell.owner in (None, _owner(fields)):
            self._is_absent(spell, record, "found to be gone")
        else:
            # It was refused, or is another's, or failed; then nobody renews it any more.
            spell.is_renewed = spell.is_renewed and fields["outcome"] != "failed"
            spell.removal_at = None

    # --- what the helper does of itself --------------------------------------------------------

    def _own(self, record: Record) -> None:
        fields = record.fields
        spell = self._told(fields["address"]) or self._begin(fields["address"], None, record)
        spell.is_only_asked_for = False
        outcome = fields["outcome"]
        if fields["op"] == "extend":
            spell.doubt()
            if outcome == "somebody had removed it: put back":
                spell.begin_sure(record.at)
            elif outcome == TAKEN:
                spell.is_renewed = False
        elif outcome.endswith(": removing"):
            spell.removal_at = record.at
        elif outcome == "removed":
            self._is_removed(spell, record)
        elif outcome == "the kernel had removed it":
            self._end(spell, record.at, outcome)
        else:
            # It could not be removed, and nobody renews it any more.
            spell.removal_at = None
            spell.is_renewed = False

    def _renewals(self, record: Record) -> None:
        """Of the time since they were last told."""
        owners: dict[Owner | None, Mapping[str, Any]] = {
            (each["uid"], each["cluster"]): each for each in record.fields["owners"]
        }
        for spell in self._open.values():
            each = owners.get(spell.owner)
            if spell.is_renewal_to_come and each is not None:
                spell.is_until(record.wall(each["deadline_ns"]))
                if spell.is_renewed and each["count"]:
                    # The first of them was not before that.
                    spell.prove(self._summed_up_at)
            spell.is_renewal_to_come = spell.is_renewed
        self._summed_up_at = record.at

    # --- beginnings and ends -------------------------------------------------------------------

    def _told(self, address: str) -> _Spell | None:
        """The one of which a record tells."""
        self._touched.add(address)
        return self._open.get(address)

    def _begin(self, address: str, at: Micros | None, record: Record) -> _Spell:
        """None: it may have been there since before what is on record of it."""
        since = max(self._boot_began, self._gone_at.get(address, 0)) if at is None else at
        self._open[address] = _Spell(address, min(since, record.at), policy=record.policy)
        return self._open[address]

    def _is_removed(self, spell: _Spell, record: Record) -> None:
        """It was there until removing it began."""
        if spell.removal_at is not None:
            spell.prove(spell.removal_at)
        self._end(spell, record.at, "removed")

    def _is_absent(self, spell: _Spell, record: Record, why: str) -> None:
        """The helper knows its own, and of what an earlier life left what its policy allows."""
        if spell.is_renewed or spell.policy == record.policy:
            at = record.at if spell.is_renewal_to_come else min(spell.bound, record.at)
            self._end(spell, at, why)
        else:
            spell.doubt()

    def _end(self, spell: _Spell, at: Micros, ended: str) -> None:
        spell.doubt()
        del self._open[spell.address]
        at = max([at, spell.possible_from, *(until for _, until in spell.sure)])
        self._gone_at[spell.address] = at
        possible = (spell.possible_from, at)
        self.spells.append(Spell(spell.address, self.node, possible, tuple(spell.sure), ended))


def _owner(fields: Mapping[str, Any]) -> Owner:
    return fields["peer"]["uid"], str(fields["cluster"])


# --- all nodes together --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Times:
    """Intervals without those that are too short to count, and these."""

    sure: tuple[Interval, ...]
    possible: tuple[Interval, ...]
    """Besides the sure ones: what cannot be excluded."""
    within_error: tuple[Interval, ...]
    """What is so short that the clocks may be at fault."""

    @property
    def sure_us(self) -> Micros:
        return _length(self.sure)

    @property
    def possible_us(self) -> Micros:
        return _length(self.possible)


@dataclass(frozen=True, slots=True)
class OfAddress:
    address: str
    range: Interval
    spells: tuple[Spell, ...]
    """Within the time that was looked at."""
    overlap: Times
    """Sure at any time, possible while it is told."""
    uncovered: Times
    """While it is told."""
    untold: Intervals
    """Of these times not all records tell."""


def of_address(
    address: str, spells: Sequence[Spell], limits: Interval, error: Micros, told: Intervals
) -> OfAddress:
    """What is no longer than the error is not counted. Of what is told the records of all nodes
    tell."""
    seen = tuple(
        shown
        for each in sorted(spells, key=lambda each: (each.possible, each.node))
        if (shown := _within(each, limits)) is not None
    )
    pieces = _pieces(seen, limits)
    of_all = [(part, s, p) for piece, s, p in pieces for part in both([piece], told)]
    return OfAddress(
        address,
        limits,
        seen,
        _times(
            [piece for piece, sure, _ in pieces if sure > 1],
            [part for part, sure, possible in of_all if sure <= 1 < possible],
            [piece for piece, sure, possible in pieces if sure <= 1 < possible],
            error,
            told,
        ),
        _times(
            [part for part, _, possible in of_all if not possible],
            [part for part, sure, possible in of_all if not sure and possible],
            [],
            error,
            told,
        ),
        without(limits, told),
    )


def _within(spell: Spell, limits: Interval) -> Spell | None:
    possible = _cut([spell.possible], limits)
    if not possible:
        return None
    sure = tuple(_cut(spell.sure, limits))
    return Spell(spell.address, spell.node, possible[0], sure, spell.ended)


def _cut(intervals: Iterable[Interval], limits: Interval) -> list[Interval]:
    cut = ((max(a, limits[0]), min(b, limits[1])) for a, b in intervals)
    return [(a, b) for a, b in cut if a < b]


def _pieces(spells: Iterable[Spell], limits: Interval) -> list[tuple[Interval, int, int]]:
    """All the time, in pieces, and how many nodes surely and possibly held it then."""
    sure: dict[str, list[Interval]] = {}
    possible: dict[str, list[Interval]] = {}
    for spell in spells:
        sure.setdefault(spell.node, []).extend(spell.sure)
        possible.setdefault(spell.node, []).append(spell.possible)
    steps = {limits[0]: (0, 0), limits[1]: (0, 0)}
    for of_nodes, (is_sure, is_possible) in ((sure, (1, 0)), (possible, (0, 1))):
        for interval in (each for node in of_nodes.values() for each in merged(node)):
            for at, sign in zip(interval, (1, -1), strict=True):
                s, p = steps.get(at, (0, 0))
                steps[at] = s + sign * is_sure, p + sign * is_possible
    found = []
    counts = (0, 0)
    instants = sorted(steps)
    for piece in pairwise(instants):
        step = steps[piece[0]]
        counts = counts[0] + step[0], counts[1] + step[1]
        found.append((piece, *counts))
    return found


def _times(
    sure: list[Interval],
    possible: list[Interval],
    untold: list[Interval],
    error: Micros,
    told: Intervals,
) -> Times:
    """Sure and possible that touch are one, also where not all records tell; what is no longer than
    the error is not counted, if that is all of it, and none is where others may tell more."""
    whole = merged([*sure, *possible, *untold])
    edges = [at for each in told for at in each]

    def is_short(interval: Interval) -> bool:
        a, b = _around(interval, whole)
        return b - a <= error

    def is_within_error(interval: Interval) -> bool:
        a, b = _around(interval, whole)
        return b - a <= error and not any(a <= at <= b for at in edges)

    not_sure = [*possible, *(each for each in sure if is_short(each))]
    return Times(
        merged(each for each in sure if not is_short(each)),
        merged(each for each in not_sure if not is_within_error(each)),
        merged(each for each in (*sure, *possible) if is_within_error(each)),
    )


def _around(interval: Interval, whole: Sequence[Interval]) -> Interval:
    return whole[bisect_right(whole, (interval[0], FOREVER)) - 1]


def _length(intervals: Iterable[Interval]) -> Micros:
    return sum(b - a for a, b in intervals)
