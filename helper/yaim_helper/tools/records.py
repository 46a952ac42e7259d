"""The audit record, read: a chain of segments as lines, and lines as records (helper/AUDIT.md).

Trusts nothing that it reads, writes nothing, and needs the same memory however much there is.
What a record is worth in its chain is verify.py's to say.
"""

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from yaim_helper.record.chain import (
    MARKER,
    VERSION,
    canonical,
    record_hash,
    segment_name,
    segment_number,
)

MAX_LINE_BYTES = 1 << 20
"""Far more than the longest record."""

Micros: TypeAlias = int
"""An instant of a host's wall clock: microseconds since 1970, UTC."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HASH = re.compile(r"[0-9a-f]{64}")
_HAVE_ADDRESSES = ("add", "remove", "announce", "clear")


class CannotRead(Exception):
    """Something cannot be read; the text says what, and why."""


class NotARecord(ValueError):
    """A line is not a record; the text says why."""


def printable(text: str) -> str:
    """Returns the text with everything that a terminal would obey, or a reader could not see,
    written as an escape."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def instant(at: Micros) -> str:
    """Returns an instant as ISO 8601, in UTC; if it is beyond all calendars, their first or
    last."""
    shown = _EPOCH + timedelta(microseconds=max(_FIRST, min(at, _LAST)))
    return shown.isoformat(timespec="microseconds").replace("+00:00", "Z")


def micros(at: datetime) -> Micros:
    return (at - _EPOCH) // timedelta(microseconds=1)


TYPES = (
    *("start", "held", "segment", "intent", "result", "own", "renewals", "hung-up", "summary"),
    *("conflict", "clock", "policy", "gap", "recovery", "lost", "stop", "fence"),
)
"""The types of records (helper/AUDIT.md)."""
_FIRST = micros(datetime.min.replace(tzinfo=UTC))
_LAST = micros(datetime.max.replace(tzinfo=UTC))


# --- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Segment:
    file: Path
    number: int


@dataclass(frozen=True, slots=True)
class Chain:
    """What one helper has written."""

    directory: Path
    segments: tuple[Segment, ...]
    """The segments, in order."""
    has_all: bool
    """Whether these are all that the directory has; else they were named one by one."""

    def __str__(self) -> str:
        return printable(str(self.directory))


def chains(paths: Iterable[Path]) -> list[tuple[Path, tuple[Path, ...]]]:
    """Returns directories, each once, with the files in them that were named; none: all are
    meant."""
    found: dict[Path, list[Path]] = {}
    whole = set()
    for path in paths:
        real = Path(os.path.realpath(path))
        if real.is_dir():
            whole.add(real)
            found.setdefault(real, [])
        else:
            found.setdefault(real.parent, []).append(real)
    return [
        (directory, () if directory in whole else tuple(dict.fromkeys(files)))
        for directory, files in found.items()
    ]


def open_chain(directory: Path, files: tuple[Path, ...] = ()) -> Chain:
    """Returns the segments of a record. Raises CannotRead."""
    try:
        named = files or tuple(directory.iterdir())
    except OSError as error:
        raise CannotRead(f"{printable(str(directory))}: {error.strerror}") from error
    segments = []
    for file in named:
        number = segment_number(file.name)
        if number is not None and segment_name(number) == file.name:
            segments.append(Segment(file, number))
        elif files:
            raise CannotRead(
                f"{printable(str(file))}: not a segment of a record, which is named like"
                f" {segment_name(1)}"
            )
    if not segments:
        raise CannotRead(
            f"{printable(str(directory))}: has no segments of a record ({segment_name(1)} ...)"
        )
    return Chain(directory, tuple(sorted(segments, key=lambda each: each.number)), not files)


@dataclass(frozen=True, slots=True)
class Line:
    place: str
    """File and number."""
    text: bytes
    """The line without its end; at most MAX_LINE_BYTES of it."""
    is_ended: bool
    is_whole: bool


def lines(file: Path) -> Iterator[Line]:
    """Returns the lines of a file. Raises CannotRead."""
    name = printable(str(file))
    try:
        # A FIFO is not waited for, a link not followed.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(file, flags)
        with os.fdopen(fd, "rb") as stream:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise CannotRead(f"{name}: not a file")
            number = 0
            while text := stream.readline(MAX_LINE_BYTES):
                number += 1
                rest = text
                while not rest.endswith(b"\n") and (more := stream.readline(MAX_LINE_BYTES)):
                    rest = more
                is_ended = rest.endswith(b"\n")
                is_whole = rest is text
                yield Line(f"{name}:{number}", text.removesuffix(b"\n"), is_ended, is_whole)
    except OSError as error:
        raise CannotRead(f"{name}: {error.strerror}") from error


# --- records -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """A line that has the form of a record."""

    place: str
    seq: int
    at: Micros
    boottime_ns: int
    boot_id: str
    host: str
    type: str
    policy: str
    prev: str
    hash: str
    fields: Mapping[str, Any]
    """All keys."""

    @property
    def is_sealed(self) -> bool:
        """Whether it is as it was written: its hash is that of what it says."""
        return record_hash(self.fields) == self.hash

    def wall(self, boottime_ns: int) -> Micros:
        """Returns what the wall clock shows at an instant of CLOCK_BOOTTIME, by the clocks of this
        record."""
        return self.at + (boottime_ns - self.boottime_ns) // 1000

    @property
    def boot_began(self) -> Micros:
        return self.wall(0)


def read_record(line: Line) -> Record:
    """Returns the record that a line is. Raises NotARecord."""
    if not line.is_whole:
        raise NotARecord(f"longer than {MAX_LINE_BYTES} bytes")
    fields = _object(line.text)
    _require(fields, _COMMON)
    return Record(
        line.place,
        fields["seq"],
        _time(fields["time"]),
        fields["boottime_ns"],
        fields["boot_id"],
        fields["host"],
        fields["type"],
        fields["policy"],
        fields["prev"],
        fields["hash"],
        fields,
    )


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_no_constant)
        # A key that occurs twice, too, makes a difference here.
        is_canonical = isinstance(found, dict) and canonical(found) == text
    except RecursionError:
        raise NotARecord("nested too deeply") from None
    except ValueError:
        raise NotARecord("not JSON") from None
    if not is_canonical:
        raise NotARecord("not a JSON object as the helper writes it")
    return dict(found)


def _no_constant(_: str) -> NoReturn:
    raise ValueError


def unreadable(record: Record) -> str | None:
    """Returns why a record that is in its chain cannot be understood; None: it can. A type that is
    not known is as good as any."""
    try:
        if record.fields["v"] != VERSION:
            raise NotARecord(f"of version {record.fields['v']!r}: this reads version {VERSION}")
        if record.type in ("intent", "result"):
            _require(record.fields, _REQUEST)
            _require(record.fields, _OF_OP.get((record.type, record.fields["op"]), {}))
        _require(record.fields, _OF_TYPE.get(record.type, {}))
        if record.type == "held":
            count = len(record.fields["addresses"])
            _require(record.fields, {"fence": lambda told: told is None or len(told) == count})
    except NotARecord as error:
        return printable(str(error))
    return None


@dataclass(frozen=True, slots=True)
class Marker:
    """The latest deadlines, as of the last renewal."""

    at: Micros
    boot_id: str
    seq: int
    hash: str
    """The hash of the last record then."""
    deadlines: Mapping[tuple[int, str], Micros]
    """The latest deadline of each uid and cluster."""
    live: Mapping[tuple[int, str], Micros]
    """Until when at least the fences of those that have one let addresses answer."""


def read_marker(directory: Path) -> Marker | None:
    """Returns the marker; None: there is none, or nothing was renewed yet. Raises CannotRead."""
    file = directory / MARKER
    if not os.path.lexists(file):
        return None
    try:
        line = next(lines(file), None)
        if line is None:
            return None
        fields = _object(line.text.rstrip(b" "))
        _require(fields, _MARKER)
    except NotARecord as error:
        raise CannotRead(f"{printable(str(file))}: {error}") from error
    return _marker(fields)


def earlier_marker(start: Record) -> Marker | None:
    """Returns the marker as the life before left it; None: there was none."""
    fields = start.fields.get("earlier")
    return _marker(fields) if fields is not None else None


def _marker(fields: Mapping[str, Any]) -> Marker:
    """Returns a marker whose keys are as they should be."""
    at = _time(fields["time"])

    def told(key: str) -> dict[tuple[int, str], Micros]:
        return {
            (each["uid"], each["cluster"]): at + (each[key] - fields["boottime_ns"]) // 1000
            for each in fields["owners"]
            if each.get(key) is not None
        }

    return Marker(
        at,
        fields["boot_id"],
        fields["seq"],
        fields["hash"],
        told("deadline_ns"),
        told("live_ns"),
    )


# --- keys ----------------------------------------------------------------------------------------

_Keys: TypeAlias = Mapping[str, Callable[[Any], bool]]


def _require(fields: Mapping[str, Any], keys: _Keys) -> None:
    for key, is_right in keys.items():
        if not is_right(fields.get(key)):
            raise NotARecord(f"its {key} is missing or wrong")


def _has(value: Any, keys: _Keys) -> bool:
    return isinstance(value, dict) and all(right(value.get(key)) for key, right in keys.items())


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    # type(), because True is an int too.
    return type(value) is int and 0 <= value < 2**63


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _is_none_or(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_right(value)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _is_address(value: Any) -> bool:
    try:
        return isinstance(value, str) and str(ip_address(value)) == value
    except ValueError:
        return False


def _time(value: Any) -> Micros:
    """Raises ValueError and TypeError."""
    return micros(datetime.fromisoformat(value))


def _is_time(value: Any) -> bool:
    try:
        _time(value)
    except (ValueError, TypeError):
        return False
    return True


def _is_one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in values


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _are(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(is_right(each) for each in value)


def _is_held(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == len(_HELD)
        and all(is_right(each) for is_right, each in zip(_HELD, value, strict=True))
    )


_HELD = (
    _is_address,
    _is_text,
    _is_count,
    _is_none_or(_is_count),
    _is_none_or(_is_text),
    _is_none_or(_is_count),
)
_PEER: _Keys = {"pid": _is_count, "uid": _is_count, "gid": _is_count}
_OWNER: _Keys = {
    "uid": _is_count,
    "cluster": _is_text,
    "deadline_ns": _is_count,
    "fence": _is_none_or(_is_truth),
    "live_ns": _is_none_or(_is_count),
}
_MARKER: _Keys = {
    "time": _is_time,
    "boottime_ns": _is_count,
    "boot_id": _is_text,
    "seq": _is_count,
    "hash": _is_hash,
    "owners": _are(lambda value: _has(value, _OWNER)),
}
_COMMON: _Keys = {
    "v": _is_count,
    "seq": _is_count,
    "time": _is_time,
    "boottime_ns": _is_count,
    "boot_id": _is_text,
    "host": _is_text,
    "type": _is_text,
    "policy": _is_text,
    "prev": _is_hash,
    "hash": _is_hash,
}
_REQUEST: _Keys = {
    "peer": lambda value: _has(value, _PEER),
    "cluster": _is_none_or(_is_text),
    "op": _is_text,
    "id": _is_count,
}
_ADD: _Keys = {
    "address": _is_address,
    "interface": _is_text,
    "prefix": _is_count,
    "deadline_ns": _is_count,
}
_OF_OP: Mapping[tuple[str, str], _Keys] = {
    (kind, op): _ADD if op == "add" else {"address": _is_address}
    for kind in ("intent", "result")
    for op in _HAVE_ADDRESSES
}
_COUNT: _Keys = {"uid": _is_none_or(_is_count), "what": _is_text, "count": _is_count}
_FENCED: _Keys = {
    "fence": _is_none_or(_is_truth),
    "deadline_ns": _is_none_or(_is_count),
}
_ENDED: _Keys = {key: _is_none_or(_is_count) for key in ("reset", "left", "cleared")}
_FENCE: _Keys = {"in_force": _is_truth, "reason": _is_text}
_OF_TYPE: Mapping[str, _Keys] = {
    "result": {"outcome": _is_one_of("ok", "refused", "failed"), **_FENCED, **_ENDED},
    "own": {
        **_FENCED,
        **_ENDED,
        "op": _is_text,
        "address": _is_address,
        "interface": _is_text,
        "uid": _is_none_or(_is_count),
        "cluster": _is_none_or(_is_text),
        "outcome": _is_text,
    },
    "start": {
        "earlier": _is_none_or(lambda value: _has(value, _MARKER)),
        "fence": _is_none_or(lambda value: _has(value, _FENCE)),
    },
    "held": {
        "addresses": _are(_is_held),
        "fence": _is_none_or(_are(_is_none_or(_is_truth))),
    },
    "fence": {
        "uid": _is_count,
        "cluster": _is_text,
        "addresses": _is_count,
        "outcome": _is_text,
        "reason": _is_text,
    },
    "segment": {"number": _is_count},
    "renewals": {"owners": _are(lambda value: _has(value, {**_OWNER, "count": _is_count}))},
    "summary": {"counts": _are(lambda value: _has(value, _COUNT))},
    "clock": {"jump_s": _is_number},
    "gap": {"missed": _is_count},
    "lost": {"segment": _is_count, "why": _is_text},
    "recovery": {"torn_bytes": _is_count, "torn_sha256": _is_hash},
}
