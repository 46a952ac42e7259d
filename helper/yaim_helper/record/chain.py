"""How records hang together: lines, hashes, segments (helper/AUDIT.md). Touches no file."""

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

VERSION = 2
GENESIS = "0" * 64
"""The first record of all has this as the hash of the record before it."""
MARKER = "renewed"
"""The file beside the segments that tells the latest deadlines."""

_SEGMENT = re.compile(r"audit-([0-9]{6,})\.jsonl")
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)
_BLANK = "-" * 64
"""Stands in the place of a hash that is not known yet."""


def seal(record: Mapping[str, Any], prev: str) -> tuple[bytes, str]:
    """Returns the line of a record that follows the one with hash `prev`, and its own hash. The
    record has neither `prev` nor `hash` yet."""
    text = canonical({**record, "prev": prev, "hash": _BLANK})
    # The last one: what is told of an earlier marker comes before. `prev` comes after.
    before, _, after = text.rpartition(_hash_field(_BLANK))
    found = sha256(prev.encode() + before + after).hexdigest()
    return before + _hash_field(found) + after + b"\n", found


def is_sealed(line: bytes, prev: str, hash: str) -> bool:
    """Whether a line is as it was written: the line of a record that has these two hashes."""
    before, _, after = line.rpartition(_hash_field(hash))
    return sha256(prev.encode() + before + after).hexdigest() == hash


def _hash_field(hash: str) -> bytes:
    return f'"hash":"{hash}",'.encode()


def record_hash(record: Mapping[str, Any]) -> str:
    """Returns the hash of a record: SHA-256 of `prev`, in hexadecimal, and the canonical JSON of
    the record without `hash`, `prev` included."""
    bare = {key: value for key, value in record.items() if key != "hash"}
    return sha256(bare["prev"].encode() + canonical(bare)).hexdigest()


def canonical(record: Mapping[str, Any]) -> bytes:
    """Returns a record as JSON: keys sorted, no blanks, ASCII only."""
    return _ENCODER.encode(record).encode()


def segment_name(number: int) -> str:
    return f"audit-{number:06}.jsonl"


def segment_number(name: str) -> int | None:
    """Returns the number of a segment; None: that is not the name of one."""
    match = _SEGMENT.fullmatch(name)
    return int(match[1]) if match is not None else None
