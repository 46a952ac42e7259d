"""Whether a record is as the helper wrote it, and all there: found out in one pass, in memory that
does not grow with it.

Passes on what is sound, and reports each damage once. Prints nothing.
"""

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import TypeAlias

from yaim_helper.record.chain import GENESIS, MARKER
from yaim_helper.tools.records import (
    CannotRead,
    Chain,
    Line,
    Marker,
    Micros,
    NotARecord,
    Record,
    Segment,
    earlier_marker,
    instant,
    lines,
    printable,
    read_marker,
    read_record,
    unreadable,
)

SET_BACK_US = 50_000
"""The wall clock may lose so much against CLOCK_BOOTTIME."""
MAX_REMEMBERED = 4096
"""The most hashes that a marker's head is compared with, and intents that wait for their
results."""
MAX_TORN = 64
"""The most lines of a torn part: there is one for each time that writing failed again."""


class Damage(IntEnum):
    """What can be wrong; the value is the exit status, the least is the gravest."""

    BROKEN = 10
    HEAD = 11
    MISSING_RECORDS = 12
    MISSING_SEGMENT = 13
    UNREADABLE = 14
    TORN = 15
    GAP = 16
    RECOVERY = 17
    CLOCK = 18
    NO_RESULT = 19

    @property
    def is_grave(self) -> bool:
        """Whether nothing can be proven with the record: it is not as the helper wrote it, or not
        all there. What is less the record tells of itself."""
        return self <= Damage.TORN

    def __str__(self) -> str:
        return _NAMES[self]


_NAMES = {
    Damage.BROKEN: "broken chain",
    Damage.HEAD: "head mismatch",
    Damage.MISSING_RECORDS: "missing records",
    Damage.MISSING_SEGMENT: "missing segment",
    Damage.UNREADABLE: "cannot be read",
    Damage.TORN: "torn tail",
    Damage.GAP: "gap",
    Damage.RECOVERY: "recovery",
    Damage.CLOCK: "clock set back",
    Damage.NO_RESULT: "intent without result",
}


@dataclass(frozen=True, slots=True)
class Finding:
    damage: Damage
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.damage}: {self.text}"


Report: TypeAlias = Callable[[Finding], None]
Heads: TypeAlias = Mapping[tuple[str, int], frozenset[str]]
"""Host and number of records, and the hashes that are known of them from elsewhere. The last number
of a host has to be on its record, too."""

HEAD = re.compile(r"audit head host=(\S+) seq=(\d{1,19}) (?:hash|sha256)=([0-9a-f]{64})\b")


def read_heads(texts: Iterable[str]) -> Heads:
    """Returns the heads that the lines of a log tell."""
    found: dict[tuple[str, int], frozenset[str]] = {}
    for text in texts:
        for host, seq, known in HEAD.findall(text):
            key = host, int(seq)
            found[key] = found.get(key, frozenset()) | {known}
    return found


class Verification:
    """Verifies one chain, once."""

    def __init__(
        self, chain: Chain, report: Report, *, heads: Heads | None = None, from_segment: int = 1
    ) -> None:
        self._chain = chain
        self._report = report
        self._heads = heads or {}
        self._from_segment = from_segment
        self.marker: Marker | None = None
        """The marker; it is known as soon as the first record was read."""
        self.last: Record | None = None
        self.first_at: Micros | None = None
        self.count = 0
        self._is_linked = True
        """Whether the record that comes next is known to follow `last`."""
        self._previous: Line | None = None
        self._unexplained: list[tuple[Line, str]] = []
        """Lines that are no records, and why; a `recovery` may explain them."""
        self._lost = 0
        """Lines since `last` that are no records."""
        self._recent: OrderedDict[int, str] = OrderedDict()
        """Numbers and hashes, for the heads that markers name."""
        self._open: OrderedDict[tuple[object, ...], deque[str]] = OrderedDict()
        """Intents without results yet, and where they are."""
        self._open_count = 0
        self._boot = ""
        self._ahead = 0
        """The microseconds by which the wall clock was ahead of CLOCK_BOOTTIME at most."""
        self._number = 0
        """The number of the segment that is read."""
        self._place = ""
        """The place of the line that was read last."""
        self._last_heads: dict[str, int] = {}
        for host, seq in self._heads:
            self._last_heads[host] = max(seq, self._last_heads.get(host, 0))
        self._hosts: set[str] = set()
        """The hosts with known heads that this record is of."""

    def records(self) -> Iterator[Record]:
        """Returns the sound records, whatever is between them."""
        self._read_marker()
        expected = self._from_segment
        for segment in self._chain.segments:
            self._come_to(segment, expected)
            expected = segment.number + 1
            try:
                for line in lines(segment.file):
                    yield from self._take(line)
            except CannotRead as error:
                self._report(not_read(error))
                self._is_linked = False
            self._give_up_unexplained()
            if self._previous is not None and not self._previous.is_ended:
                self._found(Damage.TORN, "the line is not ended: it was written, or is, in part")
            self._previous = None
        self._conclude()

    # --- segments and heads ------------------------------------------------------------------

    def _read_marker(self) -> None:
        """Reads the marker before the record, because a helper at work moves it on."""
        if self._chain.has_all:
            try:
                self.marker = read_marker(self._chain.directory)
            except CannotRead as error:
                self._report(not_read(error))

    def _come_to(self, segment: Segment, expected: int) -> None:
        if segment.number > expected:
            last = segment.number - 1
            which = f"segment {expected}" if last == expected else f"segments {expected} to {last}"
            hint = "" if self.count else f"; if kept elsewhere: --from-segment {segment.number}"
            self._say(Damage.MISSING_SEGMENT, str(self._chain), f"no {which}{hint}")
        if segment.number > expected or (not self.count and segment.number > 1):
            self._is_linked = False
        self._number = segment.number

    def _conclude(self) -> None:
        for places in self._open.values():
            for place in places:
                self._without_result(place, "the record ends before it tells what came of it")
        if self.last is None:
            self._say(Damage.UNREADABLE, str(self._chain), "has no records")
        elif self._heads and self.last.host not in self._last_heads:
            text = f"no head of host {printable(self.last.host)} is known: nothing was compared"
            self._say(Damage.HEAD, str(self._chain), text)
        last = self.last.seq if self.last is not None else 0
        if self.marker is not None:
            where = printable(str(self._chain.directory / MARKER))
            self._check_marker(self.marker, where, last)
        for host, seq in self._last_heads.items():
            if host in self._hosts and seq > last:
                text = f"{printable(host)} told its head at record {seq}, and {_cut(last)}"
                text += ", or that line is not its helper's"
                self._say(Damage.HEAD, str(self._chain), text)

    def _check_marker(self, marker: Marker, where: str, last: int) -> None:
        """Reports if the head that a marker names is not, and was not, on the chain."""
        if marker.seq > last:
            text = f"the marker names record {marker.seq} as the last, and {_cut(last)}"
            self._say(Damage.HEAD, where, text)
        elif self._recent.get(marker.seq, marker.hash) != marker.hash:
            text = f"record {marker.seq} is not the one that the marker names: written anew"
            self._say(Damage.HEAD, where, text)

    # --- lines -------------------------------------------------------------------------------

    def _take(self, line: Line) -> Iterator[Record]:
        self._previous, self._place = line, line.place
        try:
            record = read_record(line)
            if not record.is_sealed:
                raise NotARecord("was changed: its hash is not that of what it says")
        except NotARecord as error:
            if len(self._unexplained) == MAX_TORN:
                self._give_up_unexplained()
            self._unexplained.append((line, str(error)))
            return
        self._explain(record)
        self._link(record)
        problem = unreadable(record)
        if problem is not None:
            self._found(Damage.UNREADABLE, f"record {record.seq}: {problem}")
            return
        self._check(record)
        yield record

    def _explain(self, record: Record) -> None:
        """Forgets torn lines that the helper itself has found, as this record tells."""
        if record.type == "recovery":
            told = record.fields.get("torn_bytes"), record.fields.get("torn_sha256")
            torn = b"\n".join(line.text for line, _ in self._unexplained)
            # It may begin with the end of a line that lacked it.
            if any(told == (len(x), sha256(x).hexdigest()) for x in (torn, b"\n" + torn)):
                self._unexplained.clear()
                text = f"the helper found {told[0]} bytes of a torn line before, and went on"
                self._found(Damage.RECOVERY, text)
                return
            self._found(Damage.BROKEN, "what is before is not the torn line that this tells of")
        self._give_up_unexplained()

    def _give_up_unexplained(self) -> None:
        for line, why in self._unexplained:
            if line.is_ended:
                self._lost += 1
                self._say(Damage.BROKEN, line.place, why)
        self._unexplained.clear()

    def _link(self, record: Record) -> None:
        """Reports if the record does not follow the one before it."""
        last_seq, last_hash = (0, GENESIS) if self.last is None else (self.last.seq, self.last.hash)
        missing = record.seq - last_seq - 1
        if not self._is_linked:
            if record.seq <= last_seq:
                self._found(Damage.BROKEN, f"record {record.seq} comes after record {last_seq}")
        elif missing == 0:
            if record.prev != last_hash:
                self._found(Damage.BROKEN, "does not follow from the record before it")
        elif missing < 0:
            self._found(Damage.BROKEN, f"record {record.seq} comes after record {last_seq}")
        elif missing > self._lost:
            which = f"{last_seq + 1} to {record.seq - 1}" if missing > 1 else f"{last_seq + 1}"
            self._found(Damage.MISSING_RECORDS, f"no {which} before this record {record.seq}")
        self._is_linked, self._lost = True, 0
        self.last = record
        self.count += 1
        self.first_at = record.at if self.first_at is None else self.first_at
        if record.host in self._last_heads:
            self._hosts.add(record.host)
        self._recent[record.seq] = record.hash
        if len(self._recent) > MAX_REMEMBERED:
            self._recent.popitem(last=False)
        known = self._heads.get((record.host, record.seq), frozenset())
        if record.hash in known and len(known) > 1:
            text = (
                f"the heads that were told of record {record.seq} contradict each other: one is"
                " that of this record; another was not told by its helper, or all was written anew"
            )
            self._found(Damage.HEAD, text)
        elif known - {record.hash}:
            text = f"record {record.seq} is not the one whose head was told: written anew"
            self._found(Damage.HEAD, text)

    # --- what sound records tell ---------------------------------------------------------------

    def _check(self, record: Record) -> None:
        self._check_clock(record)
        match record.type:
            case "start":
                self._start(record)
            case "gap":
                missed = record.fields["missed"]
                self._found(Damage.GAP, f"{missed} records could not be written before this one")
            case "lost":
                number, why = record.fields["segment"], printable(record.fields["why"])
                self._found(Damage.GAP, f"the helper could not go on with segment {number}: {why}")
            case "intent":
                self._note_intent(record)
            case "result":
                self._note_result(record)
            case "segment":
                number = record.fields["number"]
                if number != self._number:
                    self._found(Damage.BROKEN, f"calls itself segment {number}")

    def _check_clock(self, record: Record) -> None:
        ahead = record.boot_began
        if record.boot_id != self._boot:
            self._boot, self._ahead = record.boot_id, ahead
        elif ahead < self._ahead - SET_BACK_US:
            by_s = (self._ahead - ahead) / 1e6
            self._found(Damage.CLOCK, f"by {by_s:.3f} s, before {instant(record.at)}")
            self._ahead = ahead
        self._ahead = max(ahead, self._ahead)

    def _start(self, record: Record) -> None:
        for places in self._open.values():
            for place in places:
                self._without_result(place, "the helper was killed before it told what came of it")
        self._open.clear()
        self._open_count = 0
        earlier = earlier_marker(record)
        if earlier is not None:
            self._check_marker(earlier, self._place, record.seq - 1)

    def _note_intent(self, record: Record) -> None:
        if self._open_count == MAX_REMEMBERED:
            place = self._take_intent(next(iter(self._open)))
            self._without_result(place, f"none came within {MAX_REMEMBERED} requests")
        self._open.setdefault(request_key(record), deque()).append(record.place)
        self._open_count += 1

    def _note_result(self, record: Record) -> None:
        key = request_key(record)
        if key in self._open:
            self._take_intent(key)

    def _take_intent(self, key: tuple[object, ...]) -> str:
        """Forgets the first intent with this key, and returns where it is."""
        places = self._open[key]
        place = places.popleft()
        if not places:
            del self._open[key]
        self._open_count -= 1
        return place

    def _without_result(self, place: str, text: str) -> None:
        self._say(Damage.NO_RESULT, place, text)

    def _found(self, damage: Damage, text: str) -> None:
        """Reports something at the line that was read last."""
        self._say(damage, self._place, text)

    def _say(self, damage: Damage, where: str, text: str) -> None:
        self._report(Finding(damage, where, text))


def request_key(record: Record) -> tuple[object, ...]:
    """Returns what an intent and its result have in common, and few others at the same time."""
    peer = record.fields["peer"]
    fields = record.fields
    return peer["pid"], peer["uid"], fields["op"], fields["id"], fields.get("address")


def not_read(error: CannotRead) -> Finding:
    """Returns the finding about something that cannot be read."""
    where, _, why = str(error).rpartition(": ")
    return Finding(Damage.UNREADABLE, where, why)


def _cut(last: int) -> str:
    return f"the record ends with {last} there: its tail was cut"
