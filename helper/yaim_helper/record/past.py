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

Spot: TypeAlias = tuple[str, int]
"""Interface and prefix length."""
RequestKey: TypeAlias = tuple[int, Owner, int]
"""Process that asked, for whom, and id."""


@dataclass(slots=True)
class Past:
    """What the last segments tell about addresses, read in their order."""

    boot_id: str
    session: str
    """The boot and network namespace that are asked about: what was put elsewhere is not here."""
    sequence: int = 0
    head: str = GENESIS
    """The hash of the last record."""
    places: dict[str, dict[Spot, Owner | None]] = field(default_factory=dict)
    """Where addresses may be, by their texts, because the helper has put them there, and for whom;
    None: as far as an earlier life knew."""
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
    is_of_another_boot: bool = False
    """Whether some of it was, so that earlier segments are, too."""
    _is_here: bool = True
    """Whether the life that is told of was in this network namespace."""
    _is_found_told: bool = False
    """Whether what the life that is told of found at its start is; not known after a `gap`."""
    _listed: dict[str, dict[Spot, Owner | None]] = field(default_factory=dict)
    """What the `held` records that belong together tell, so far."""
    _unsettled: dict[str, dict[Spot, Owner | None]] = field(default_factory=dict)
    """Places about which an intent was told last, and whose they were before it."""
    _awaited: dict[str, dict[RequestKey, Spot]] = field(default_factory=dict)
    """Adds without results: whatever is told meanwhile, they may be done yet."""

    def read(self, segment: bytes) -> None:
        """Damage is no reason to stop: `verify` is who finds it."""
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
        """Whether it is a record, by its own hash."""
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
        """What is where after this record. Raises KeyError, TypeError, ValueError."""
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
                awaited[key] = _spot_of(record)
        match kind, record.get("op"), record.get("outcome"):
            case "intent", "add", _:
                self._follow_add(record["address"], _spot_of(record), _owner_of(record))
            case "intent", "remove", _:
                self._follow_removal(record["address"], _owner_of(record))
            case "result", "add", "ok":
                self._drop(record["address"], lambda *_: True)
                self._unsettled.get(record["address"], {}).pop(_spot_of(record), None)
                spots = self.places.setdefault(record["address"], {})
                spots[_spot_of(record)] = _owner_of(record)
            case "result", "add", "refused":
                self._restore(record["address"], [_spot_of(record)])
            case "result", "remove", "refused" | "failed":
                unsettled = self._unsettled.get(record["address"], {})
                held = [spot for spot, owner in unsettled.items() if owner is not None]
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
                self._drop(record["address"], lambda spot, _: spot[0] == interface)
            case _:
                pass

    def _follow_held(self, record: Entry) -> None:
        for address, interface, prefix, uid, cluster, _ in record["addresses"]:
            owner = Owner(uid, cluster) if uid is not None else None
            self._listed.setdefault(address, {})[interface, prefix] = owner
        if not record["more"]:
            self.places, self._listed = self._listed, {}
            # Nothing is awaited where that is told.
            self._unsettled.clear()
            self._awaited.clear()
            self.is_whole = self._is_found_told = True

    def _follow_add(self, address: str, spot: Spot, owner: Owner) -> None:
        """The helper may be killed, or the record full, before the result; and of what has failed
        it may be there."""
        spots = self.places.setdefault(address, {})
        unsettled = self._unsettled.setdefault(address, {})
        if spot not in spots or (spot in unsettled and spots[spot] != owner):
            unsettled[spot] = spots.get(spot)
            spots[spot] = owner

    def _follow_removal(self, address: str, owner: Owner) -> None:
        for spot, known in self.places.get(address, {}).items():
            if known == owner:
                self._unsettled.setdefault(address, {}).setdefault(spot, owner)

    def _restore(self, address: str, spots: Iterable[Spot]) -> None:
        """Nothing was done there."""
        unsettled = self._unsettled.get(address, {})
        for spot in [each for each in spots if each in unsettled]:
            if (owner := self._awaited_for(address, spot)) is not None:
                self.places[address][spot] = owner
                continue
            before = unsettled.pop(spot)
            if before is None:
                del self.places[address][spot]
            else:
                self.places[address][spot] = before

    def _drop(self, address: str, is_gone: Callable[[Spot, Owner | None], bool]) -> None:
        spots = self.places.get(address, {})
        for spot, owner in list(spots.items()):
            if is_gone(spot, owner) and self._awaited_for(address, spot) is None:
                del spots[spot]
                self._unsettled.get(address, {}).pop(spot, None)

    def is_awaited(self, address: str, spot: Spot) -> bool:
        """Whether an add of it may have been done after the last record."""
        return self._awaited_for(address, spot) is not None

    def _awaited_for(self, address: str, spot: Spot) -> Owner | None:
        awaited = self._awaited.get(address, {})
        return next((owner for (_, owner, _), its in awaited.items() if its == spot), None)


def _spot_of(record: Entry) -> Spot:
    return record["interface"], record["prefix"]


def _request_of(record: Entry) -> RequestKey:
    return record["peer"]["pid"], _owner_of(record), record["id"]


def _owner_of(record: Entry) -> Owner:
    return Owner(record["peer"]["uid"], record["cluster"])
