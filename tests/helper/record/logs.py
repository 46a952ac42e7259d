"""A record for a test: opened, written, and read back line by line."""

import json
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from yaim_helper.owners import Owner
from yaim_helper.record.chain import GENESIS, seal, segment_name
from yaim_helper.record.log import AuditError, AuditLog
from yaim_helper.record.stamps import boot_id

Line: TypeAlias = tuple[int, dict[str, Any]] | str

POLICY = "0" * 64
OWN_KEYS = {"v", "boot_id", "host", "policy", "seq", "time", "boottime_ns", "prev", "hash"}
SEGMENT = segment_name(1)


@contextmanager
def opened(directory: Path, segment_bytes: int = 4 << 20) -> Iterator[AuditLog]:
    """Opens a log as in a process that ends then: its files are closed."""
    log = AuditLog(directory, POLICY, segment_bytes)
    try:
        yield log
    finally:
        end(log)


def end(log: AuditLog) -> None:
    """Close the record in this process."""
    for each in (log._file, log._marker, log._directory):
        if each >= 0:
            os.close(each)


def lines(directory: Path) -> list[Line]:
    """Sequence number and what was recorded, or the text of a line that is no record."""
    return [
        read(line)
        for segment in sorted(directory.glob("audit-*.jsonl"))
        for line in segment.read_text().split("\n")[:-1]
    ]


def read(line: str) -> Line:
    try:
        record = json.loads(line)
    except ValueError:
        return line
    return record["seq"], {k: v for k, v in record.items() if k not in OWN_KEYS}


def note(text: str) -> dict[str, Any]:
    return {"type": "note", "text": text}


def write(log: AuditLog, *texts: str) -> None:
    log.write([note(text) for text in texts], durable=True)


def assert_chained(directory: Path) -> None:
    """Each record after the one before, whatever torn lines are between them."""
    prev = GENESIS
    for segment in sorted(directory.glob("audit-*.jsonl")):
        for line in segment.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            assert record["prev"] == prev
            prev = record["hash"]


@contextmanager
def room_for(path: Path, size: int) -> Iterator[None]:
    """Files of this process can grow to as much as this file has and `size` bytes more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill_up(log: AuditLog) -> int:
    """Write until there is no room even in the last page of the file; how many were refused."""
    for written in range(200):
        try:
            write(log, f"filler {written}")
        except AuditError as error:
            assert re.search(
                r": No space left on device$|: wrote only \d+ of \d+ bytes: is the disk full\?$",
                str(error),
            )
            return 1
    raise AssertionError("the disk does not fill up")


def told(*records: dict[str, Any]) -> bytes:
    prev, found = GENESIS, b""
    common = {"boot_id": boot_id(), "boottime_ns": 0}
    for number, record in enumerate(records, start=1):
        line, prev = seal({**common, "seq": number, **record}, prev)
        found += line
    return found


def result(op: str, address: str, cluster: str, outcome: str = "ok") -> dict[str, Any]:
    return asked("result", op, address, cluster) | {"outcome": outcome}


def asked(kind: str, op: str, address: str, cluster: str) -> dict[str, Any]:
    fields = {"op": op, "address": address, "cluster": cluster}
    place = {"interface": "eth0", "prefix": 32} if op == "add" else {}
    return {"type": kind, "peer": {"uid": 7, "pid": 9}, "id": 5, **fields, **place}


def own(address: str, outcome: str, interface: str = "eth0") -> dict[str, Any]:
    fields = {"op": "expire", "address": address, "interface": interface}
    return {"type": "own", **fields, "outcome": outcome}


def held(*addresses: list[Any], more: bool = False) -> dict[str, Any]:
    return {"type": "held", "addresses": addresses, "more": more}


def intent(op: str, address: str, cluster: str) -> dict[str, Any]:
    return asked("intent", op, address, cluster)


def owners(log: AuditLog) -> dict[str, Owner | None]:
    """Returns by address whose it is, for what is at one place of eth0."""
    found = {}
    for address, spots in log.past.places.items():
        for spot, owner in spots.items():
            assert spot == ("eth0", 32)
            found[address] = owner
    return found


A, B = Owner(7, "a"), Owner(7, "b")


X = "192.0.2.1"


def read_sound(segment: Path) -> list[dict[str, Any]]:
    """But for lines that are no records."""
    found = [read(line) for line in segment.read_text().splitlines()]
    return [line[1] for line in found if not isinstance(line, str)]
