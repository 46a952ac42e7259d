"""What the record tells of each thing, besides what all records bear (audit.py).

Words for the auditor: changing one changes the format (helper/AUDIT.md).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, assert_never

from yaim_helper.protocol import (
    Add,
    Address,
    Announce,
    Failed,
    Hello,
    List,
    Ok,
    Refused,
    Remove,
    Renew,
    Reply,
    Request,
)

Entry: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, as SO_PEERCRED told when it connected."""

    pid: int
    uid: int
    gid: int

    def entry(self) -> Entry:
        return {"pid": self.pid, "uid": self.uid, "gid": self.gid}


@dataclass(frozen=True, slots=True)
class Owner:
    """For whom an address is held: only connections of the same user and cluster can touch it."""

    uid: int
    cluster: str

    def __str__(self) -> str:
        return f"cluster {self.cluster} of uid {self.uid}"

    def entry(self) -> Entry:
        return {"uid": self.uid, "cluster": self.cluster}


def intent(peer: Peer, cluster: str | None, request: Request, rule: int | None) -> Entry:
    """`rule`: the number of the one that allows an add."""
    entry = {"type": "intent", **_described(peer, cluster, request)}
    if isinstance(request, Add):
        entry["rule"] = rule
    return entry


def result(peer: Peer, cluster: str | None, request: Request, reply: Reply) -> Entry:
    entry = {"type": "result", **_described(peer, cluster, request)}
    match reply:
        case Ok(fields):
            entry["outcome"] = "ok"
            if "was" in fields:
                entry["was"] = fields["was"]
        case Refused(code, reason):
            entry |= {"outcome": "refused", "code": code, "reason": reason}
        case Failed(errno, reason):
            entry |= {"outcome": "failed", "errno": errno, "reason": reason}
        case _:
            assert_never(reply)
    return entry


def _described(peer: Peer, cluster: str | None, request: Request) -> Entry:
    entry: Entry = {
        "peer": peer.entry(),
        "cluster": cluster,
        "op": type(request).__name__.lower(),
        "id": request.id,
    }
    match request:
        case Hello():
            entry |= {"cluster": request.cluster, "node": request.node}
        case Add():
            entry |= {
                "address": str(request.address),
                "interface": request.interface,
                "prefix": request.prefix,
                "label": request.label,
                "deadline_ns": request.deadline_ns,
            }
        case Remove() | Announce():
            entry["address"] = str(request.address)
        case Renew():
            entry["deadline_ns"] = request.deadline_ns
        case List():
            pass
        case _:
            assert_never(request)
    return entry


def hung_up(peer: Peer, reason: str) -> Entry:
    """A connection that the helper ended."""
    return {"type": "hung-up", "peer": peer.entry(), "reason": reason}


def summary(untold: Iterable[tuple[int | None, str, int]]) -> Entry:
    """What was too much to be told one by one: user (None: further users), what, and how often."""
    counts = [{"uid": uid, "what": what, "count": count} for uid, what, count in untold]
    return {"type": "summary", "counts": counts}


def own(op: str, address: Address, interface: str, owner: Owner, outcome: str) -> Entry:
    """What the helper does of itself."""
    return {
        "type": "own",
        "op": op,
        "address": str(address),
        "interface": interface,
        **owner.entry(),
        "outcome": outcome,
    }


def conflict(address: Address, interface: str, owner: Owner, mac: bytes, count: int) -> Entry:
    """Other holders of an address, before they are answered; the MAC address of the last."""
    return {
        "type": "conflict",
        "address": str(address),
        "interface": interface,
        **owner.entry(),
        "mac": mac.hex(":"),
        "count": count,
    }
