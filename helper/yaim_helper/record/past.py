"""What the last segments of the record tell about addresses that an earlier life of the helper has
put on interfaces (helper/AUDIT.md).

It is read once, at the start, and not believed further than it can be. Reads no files itself.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from yaim_helper.owners import Owner
from yaim_helper.record import entries
from yaim_helper.record.chain import GENESIS, is_sealed
from yaim_helper.record.entries import Entry

Place: TypeAlias = tuple[str, int]
"""Interface and prefix length at which an address is."""
RequestKey: TypeAlias = tuple[int, Owner, int]
"""The process that asked, for whom, and the id of its request."""


@dataclass(slots=True)
class Past:
    """What the last segments tell about addresses, read in their order."""

    boot_id: str
    session: str
    """The boot and network namespace that are asked about: what was put elsewhere is not here."""
    sequence: int = 0
    head: str = GENESIS
    """The hash of the last record."""
    places: dict[str, dict[Place, Owner | None]] = field(default_factory=dict)
    """Where addresses may be because the helper has put them there, and for whom; None: not even
    the earlier life knew for whom."""
    torn: bytes = b""
    """What stands in the last segment behind the last line that is a record."""
    is_whole: bool = False
    """Whether what was read begins with all that was there then because of the helper, so that
    earlier segments tell no more, and nothing is there that is not told."""
    last_at: float = 0.0
    """The instant of CLOCK_BOOTTIME at which the last record about this boot and namespace was
    made; 0: there is none. What was put on an interface later was put there by no life that wrote
    into this record."""
    known_until: float = 0.0
    """The same for the last record before which its life told what it found at its start. What was
    put on an interface later may have been put there by another life, which wrote elsewhere."""
    was_fenced: bool = False
    """Whether the last life had a fence for what it held."""
    is_of_another_boot: bool = False
    """Whether some records are of another boot, so that earlier segments are, too."""
    _is_here: bool = True
    """Whether the life that the records are about was in this network namespace."""
    _is_found_told: bool = False
    """Whether that life has told what it found at its start; after a `gap` that is not known."""
    _listed: dict[str, dict[Place, Owner | None]] = field(default_factory=dict)
    """What the `held` records that belong together tell, so far."""
    _unsettled: dict[str, dict[Place, Owner | None]] = field(default_factory=dict)
    """Places about which an intent was told last, and whose they were before it."""
    _awaited: dict[str, dict[RequestKey, Place]] = field(default_factory=dict)
    """Adds without results: they may be done later than anything that was told meanwhile."""

    def read(self, segment: bytes) -> None:
        """Takes in a segment. Damage is no reason to stop: finding it is what `verify` is for."""
        self.torn = b""
        bad: list[bytes] = []
        *lines, tail = segment.split(b"\n")
        for line in lines:
            if self._take(line):
                bad.clear()
            else:
                bad.append(line + b"\n")
        if not tail or not self._take(tail):
            self.torn = b"".join((*bad, tail))

    def _take(self, line: bytes) -> bool:
        """Takes in a line, and returns whether it is a record, by its own hash."""
        try:
            record = json.loads(line)
            is_ours = is_sealed(line, record["prev"], record["hash"])
            if not is_ours or type(record["seq"]) is not int:
                return False
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False
        if record["prev"] != self.head:
            # What is missing in between may have told of more.
            self.is_whole = False
        self.sequence, self.head = record["seq"], record["hash"]
        try:
            self._follow(record)
        except (KeyError, TypeError, ValueError):
            # Not one of ours, for all its hash.
            return True
        return True

    def _follow(self, record: Entry) -> None:
        """Takes in what is where after this record. Raises KeyError, TypeError, ValueError."""
        kind = record["type"]
        if record["boot_id"] != self.boot_id:
            self.is_of_another_boot, self.is_whole = True, False
            self.last_at = self.known_until = 0.0
            for each in (self.places, self._listed, self._unsettled, self._awaited):
                each.clear()
            return
        if kind == "start":
            # Those of older versions do not tell.
            self._is_here = record.get("session", self.session) == self.session
            self._awaited.clear()
            self.was_fenced = self._is_here and bool(record.get("fence", {}).get("in_force"))
        if not self._is_here:
            return
        if kind in ("start", "gap"):
            self._is_found_told = False
        if kind == "held":
            self._follow_held(record)
        self.last_at = record["boottime_ns"] / 1e9
        if self._is_found_told:
            self.known_until = self.last_at
        if kind == "held":
            return
        self._listed = {}
        if record.get("op") == "add" and kind in ("intent", "result"):
            key = _request_of(record)
            awaited = self._awaited.setdefault(record["address"], {})
            awaited.pop(key, None)
            if kind == "intent":
                awaited[key] = _place_of(record)
        match kind, record.get("op"), record.get("outcome"):
            case "intent", "add", _:
                self._follow_add(record["address"], _place_of(record), _owner_of(record))
            case "intent", "remove", _:
                self._follow_removal(record["address"], _owner_of(record))
            case "result", "add", "ok":
                self._drop(record["address"], lambda *_: True)
                self._unsettled.get(record["address"], {}).pop(_place_of(record), None)
                its_places = self.places.setdefault(record["address"], {})
                its_places[_place_of(record)] = _owner_of(record)
            case "result", "add", "refused":
                self._restore(record["address"], [_place_of(record)])
            case "result", "remove", "refused" | "failed":
                unsettled = self._unsettled.get(record["address"], {})
                held = [place for place, owner in unsettled.items() if owner is not None]
                self._restore(record["address"], held)
            case "result", "remove", "ok":
                owner = _owner_of(record)
                # What was asked before it is over, what was asked behind it may be to come.
                *asker, number = _request_of(record)
                awaited = self._awaited.get(record["address"], {})
                for key in [key for key in awaited if [*key[:2]] == asker and key[2] <= number]:
                    del awaited[key]
                self._drop(record["address"], lambda _, known: known == owner)
            case "own", _, entries.REMOVED | entries.FOUND_GONE | entries.TAKEN:
                interface = record["interface"]
                self._drop(record["address"], lambda place, _: place[0] == interface)
            case _:
                pass

    def _follow_held(self, record: Entry) -> None:
        for address, interface, prefix, uid, cluster, _ in record["addresses"]:
            owner = Owner(uid, cluster) if uid is not None else None
            self._listed.setdefault(address, {})[interface, prefix] = owner
        self.was_fenced |= any(record.get("fence", ()))
        if not record["more"]:
            self.places, self._listed = self._listed, {}
            # Nothing is awaited where that is told.
            self._unsettled.clear()
            self._awaited.clear()
            self.is_whole = self._is_found_told = True

    def _follow_add(self, address: str, place: Place, owner: Owner) -> None:
        """Takes in the intent of an add. The helper may be killed, or the record full, before the
        result; and an add that has failed may have had its effect."""
        its_places = self.places.setdefault(address, {})
        unsettled = self._unsettled.setdefault(address, {})
        if place not in its_places or (place in unsettled and its_places[place] != owner):
            unsettled[place] = its_places.get(place)
            its_places[place] = owner

    def _follow_removal(self, address: str, owner: Owner) -> None:
        for place, known in self.places.get(address, {}).items():
            if known == owner:
                self._unsettled.setdefault(address, {}).setdefault(place, owner)

    def _restore(self, address: str, its_places: Iterable[Place]) -> None:
        """Takes in that nothing was done at these places."""
        unsettled = self._unsettled.get(address, {})
        for place in [each for each in its_places if each in unsettled]:
            if (owner := self._awaited_for(address, place)) is not None:
                self.places[address][place] = owner
                continue
            before = unsettled.pop(place)
            if before is None:
                del self.places[address][place]
            else:
                self.places[address][place] = before

    def _drop(self, address: str, is_gone: Callable[[Place, Owner | None], bool]) -> None:
        its_places = self.places.get(address, {})
        for place, owner in list(its_places.items()):
            if is_gone(place, owner) and self._awaited_for(address, place) is None:
                del its_places[place]
                self._unsettled.get(address, {}).pop(place, None)

    def is_awaited(self, address: str, place: Place) -> bool:
        """Whether an add of the address at that place may have been done after the last record."""
        return self._awaited_for(address, place) is not None

    def _awaited_for(self, address: str, place: Place) -> Owner | None:
        awaited = self._awaited.get(address, {})
        return next((owner for (_, owner, _), its in awaited.items() if its == place), None)


def _place_of(record: Entry) -> Place:
    return record["interface"], record["prefix"]


def _request_of(record: Entry) -> RequestKey:
    return record["peer"]["pid"], _owner_of(record), record["id"]


def _owner_of(record: Entry) -> Owner:
    return Owner(record["peer"]["uid"], record["cluster"])
