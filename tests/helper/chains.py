"""Records as a helper would write them, for the tests of what reads them."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yaim_helper.record.chain import GENESIS, MARKER, canonical, seal, segment_name
from yaim_helper.tools.audit import main
from yaim_helper.tools.records import instant

EPOCH_US = 1_800_000_000_000_000
"""When the first boot of all hosts began."""
POLICY = "a" * 64


@dataclass
class Writer:
    """A helper's record, in the making. Times are seconds since EPOCH_US."""

    directory: Path
    host: str = "db1"
    boot: int = 1
    boot_at: float = 0.0
    uid: int = 990
    cluster: str = "c"
    policy: str = POLICY
    number: int = 1
    seq: int = 0
    hash: str = GENESIS
    lines: list[bytes] = field(default_factory=list)
    """The lines of the segment."""
    ids: int = 0
    is_fenced: bool = False
    """Whether the life has a fence."""

    def common(self, at: float) -> dict[str, Any]:
        return {
            "v": 2,
            "time": instant(EPOCH_US + round(at * 1e6)).replace("Z", "+00:00"),
            "boottime_ns": self.ns(at),
            "boot_id": f"boot-{self.host}-{self.boot}",
        }

    def ns(self, at: float) -> int:
        """Returns the instant on CLOCK_BOOTTIME."""
        return round((at - self.boot_at) * 1e6) * 1000

    def write(self, at: float, kind: str, **fields: Any) -> "Writer":
        record = {
            **self.common(at),
            "seq": self.seq + 1,
            "host": self.host,
            "policy": self.policy,
            "type": kind,
            **fields,
        }
        line, self.hash = seal(record, self.hash)
        self.seq += 1
        self.lines.append(line)
        return self

    def start(
        self,
        at: float,
        *held: str,
        earlier: Any = None,
        more: bool = False,
        is_known: bool = True,
        fence: bool | None = None,
        is_fenced: bool | None = None,
    ) -> "Writer":
        """`fence`: whether it is in force; None: the helper is of a version that has none.
        `is_fenced`: whether it is for these addresses."""
        told = {} if fence is None else {"fence": {"in_force": fence, "reason": ""}}
        self.is_fenced = fence is True
        self.write(at, "start", version="1", pid=7, uid=0, earlier=earlier, **told)
        return self.held(at, *held, more=more, is_known=is_known, is_fenced=is_fenced)

    def held(
        self,
        at: float,
        *addresses: str,
        more: bool = False,
        deadline: float | None = None,
        is_known: bool = True,
        is_fenced: bool | None = None,
    ) -> "Writer":
        """What is not known to be what an earlier life left may be such all the same."""
        until = None if deadline is None else self.ns(deadline)
        owner = (self.uid, self.cluster) if is_known else (None, None)
        listed = [[each, "eth0", 32, *owner, until] for each in addresses]
        told = {} if is_fenced is None else {"fence": [is_fenced] * len(listed)}
        return self.write(at, "held", addresses=listed, more=more, **told)

    def request(self, kind: str, at: float, op: str, address: str, **fields: Any) -> "Writer":
        whole = {
            "peer": {"pid": 42, "uid": self.uid, "gid": 990},
            "cluster": self.cluster,
            "op": op,
            "id": self.ids,
            "address": address,
            **fields,
        }
        return self.write(at, kind, **whole)

    def intent(self, at: float, op: str, address: str, **fields: Any) -> "Writer":
        self.ids += 1
        return self.request("intent", at, op, address, **_add(self, op, fields))

    def result(
        self, at: float, op: str, address: str, outcome: str = "ok", **fields: Any
    ) -> "Writer":
        return self.request(
            "result", at, op, address, **_add(self, op, {"outcome": outcome, **fields})
        )

    def add(
        self,
        at: float,
        done: float,
        address: str,
        deadline: float,
        was: str = "absent",
        **fields: Any,
    ) -> "Writer":
        self.intent(at, "add", address, deadline=deadline)
        return self.result(done, "add", address, deadline=deadline, was=was, **fields)

    def remove(
        self, at: float, done: float, address: str, was: str = "present", **fields: Any
    ) -> "Writer":
        self.intent(at, "remove", address)
        return self.result(done, "remove", address, was=was, **fields)

    def until(self, deadline: float) -> dict[str, Any]:
        """What is told of a fenced address that is removed."""
        return {"fence": True, "deadline_ns": self.ns(deadline)}

    def fence(self, at: float, outcome: str, count: int = 1) -> "Writer":
        told = {"addresses": count, "outcome": outcome, "reason": "somebody has flushed it"}
        return self.write(at, "fence", uid=self.uid, cluster=self.cluster, **told)

    def own(self, at: float, op: str, address: str, outcome: str, **fields: Any) -> "Writer":
        return self.write(
            at,
            "own",
            op=op,
            address=address,
            interface="eth0",
            uid=self.uid,
            cluster=self.cluster,
            outcome=outcome,
            **fields,
        )

    def renewals(self, at: float, deadline: float) -> "Writer":
        return self.write(at, "renewals", owners=[{**self.owner(deadline), "count": 3}])

    def owner(self, deadline: float) -> dict[str, Any]:
        return {"uid": self.uid, "cluster": self.cluster, "deadline_ns": self.ns(deadline)}

    def marker(self, at: float, *deadlines: float, live: float | None = None) -> dict[str, Any]:
        """`live`: until when the fence surely lets addresses answer, if not until the deadlines."""
        owners = [self.owner(each) for each in deadlines]
        for deadline, owner in zip(deadlines, owners, strict=True):
            if self.is_fenced:
                owner["live_ns"] = self.ns(deadline if live is None else live)
        return {**self.common(at), "seq": self.seq, "hash": self.hash, "owners": owners}

    def mark(self, at: float, *deadlines: float) -> "Writer":
        """Put the marker into its file."""
        self.directory.mkdir(exist_ok=True)
        text = canonical(self.marker(at, *deadlines)).ljust(512)
        (self.directory / MARKER).write_bytes(text)
        return self

    def next_segment(
        self, at: float, *held: str, deadline: float = 1e6, is_fenced: bool | None = None
    ) -> "Writer":
        self.save()
        self.number += 1
        self.lines = []
        self.write(at, "segment", number=self.number)
        return self.held(at, *held, deadline=deadline, is_fenced=is_fenced)

    def save(self) -> Path:
        self.directory.mkdir(exist_ok=True)
        self.file.write_bytes(b"".join(self.lines))
        return self.directory

    @property
    def file(self) -> Path:
        return self.directory / segment_name(self.number)


def _add(writer: Writer, op: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    whole = dict(fields)
    deadline = whole.pop("deadline", None)
    if op == "add":
        whole = {
            "interface": "eth0",
            "prefix": 32,
            "label": "yaim",
            "deadline_ns": writer.ns(deadline or 0.0),
            **whole,
        }
    return whole


def resealed(lines: list[bytes], first: int = 0) -> list[bytes]:
    """Returns the lines as if whoever changed them had made the chain fit again from there on."""
    found = lines[:first]
    hash = json.loads(lines[first - 1])["hash"] if first else GENESIS
    for line in lines[first:]:
        record = json.loads(line)
        del record["hash"], record["prev"]
        text, hash = seal(record, hash)
        found.append(text)
    return found


def run(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    """Exit status, output, errors."""
    try:
        status = main([str(each) for each in arguments])
    except SystemExit as error:
        status = int(error.code or 0)
    told = capsys.readouterr()
    return status, told.out, told.err


COMMAND = (sys.executable, "-I", "-m", "yaim_helper", "audit")
