"""The entries of the record, each without what all have in common (log.py adds that).

These are words for the auditor: changing one changes the format (helper/AUDIT.md). Writes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, assert_never

from yaim_helper.owners import Owner, Peer
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

REMOVED = "removed"
FOUND_GONE = "the kernel had removed it"
TAKEN = "the host has it now: left alone"
"""What became of an address; TAKEN: somebody else has put it there anew, or changed it."""
MAX_HELD = 200
"""Addresses in one `held` record."""
MAX_REASON = 1000
"""Characters of what is wrong in helper.yml that are on record; standard error has all of it."""


def intent(peer: Peer, cluster: str | None, request: Request, rule: int | None) -> Entry:
    """Returns that something is about to be done. `rule`: the number of the one that allows an
    add."""
    entry = {"type": "intent", **_described(peer, cluster, request)}
    if isinstance(request, Add):
        entry["rule"] = rule
    return entry


def result(peer: Peer, cluster: str | None, request: Request, reply: Reply) -> Entry:
    """Returns what came of a request."""
    entry = {"type": "result", **_described(peer, cluster, request)}
    match reply:
        case Ok(fields):
            entry |= {"outcome": "ok", **{key: fields[key] for key in fields.keys() & {"was"}}}
        case Refused(code, reason):
            entry |= {"outcome": "refused", "code": code, "reason": reason}
        case Failed(errno, reason):
            entry |= {"outcome": "failed", "errno": errno, "reason": reason}
        case _:
            assert_never(reply)
    return entry


def _described(peer: Peer, cluster: str | None, request: Request) -> Entry:
    entry: Entry = {
        "peer": _peer(peer),
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
    """Returns that the helper has ended a connection."""
    return {"type": "hung-up", "peer": _peer(peer), "reason": reason}


def policy_read(refusal: str | None) -> Entry:
    """Returns that helper.yml was read again, and why it was refused, shortened, if it was."""
    if refusal is None:
        return {"type": "policy", "outcome": "ok", "reason": None}
    reason = "; ".join(refusal.splitlines())
    return {"type": "policy", "outcome": "refused", "reason": reason[:MAX_REASON]}


def summary(untold: Iterable[tuple[int | None, str, int]]) -> Entry:
    """Returns what was too much to be told one by one: user (None: further users), what, and how
    often."""
    counts = [{"uid": uid, "what": what, "count": count} for uid, what, count in untold]
    return {"type": "summary", "counts": counts}


def own(op: str, address: Address, interface: str, owner: Owner, outcome: str) -> Entry:
    """Returns something that the helper does of itself."""
    return {
        "type": "own",
        "op": op,
        "address": str(address),
        "interface": interface,
        **_owner(owner),
        "outcome": outcome,
    }


def conflict(address: Address, interface: str, owner: Owner, mac: bytes, count: int) -> Entry:
    """Returns that others hold an address, before they are answered: the MAC address of the last,
    and how often they were seen."""
    return {
        "type": "conflict",
        "address": str(address),
        "interface": interface,
        **_owner(owner),
        "mac": mac.hex(":"),
        "count": count,
    }


def segment_lost(number: int, why: str) -> Entry:
    """Returns that the segment before cannot be appended to any more."""
    return {"type": "lost", "segment": number, "why": why}


def started(version: int, pid: int, uid: int, session: str, earlier: Entry | None) -> Entry:
    """Returns that the helper has started. `session`: boot and network namespace. `earlier`: the
    marker that an earlier life left."""
    who = {"version": version, "pid": pid, "uid": uid, "session": session}
    return {"type": "start", **who, "earlier": earlier}


def renewals(counts: Mapping[Owner, int], deadlines: Mapping[Owner, float]) -> Entry:
    """Returns how often owners renewed, and the latest deadlines of those that hold anything
    still."""
    return {
        "type": "renewals",
        "owners": [
            {**_owner(owner), "count": counts.get(owner, 0), "deadline_ns": round(deadline * 1e9)}
            for owner, deadline in deadlines.items()
        ],
    }


def latest(deadlines: Mapping[Owner, float]) -> list[Entry]:
    """Returns the latest deadlines (instants of CLOCK_BOOTTIME) for the marker."""
    return [
        {**_owner(owner), "deadline_ns": round(deadline * 1e9)}
        for owner, deadline in deadlines.items()
    ]


def held(addresses: Sequence[tuple[Address, str, int, Owner | None, float | None]]) -> list[Entry]:
    """Returns what is on interfaces because of the helper: address, interface, prefix length, for
    whom and until when, as far as that is known (if not for whom, it may be the host's). There are
    MAX_HELD addresses in one entry, and there is one entry at least."""
    rows = [
        [str(address), interface, prefix, *_known(owner), _nanoseconds(deadline)]
        for address, interface, prefix, owner, deadline in addresses
    ]
    return [
        {
            "type": "held",
            "addresses": rows[start : start + MAX_HELD],
            "more": start + MAX_HELD < len(rows),
        }
        for start in range(0, max(1, len(rows)), MAX_HELD)
    ]


def _peer(peer: Peer) -> Entry:
    return {"pid": peer.pid, "uid": peer.uid, "gid": peer.gid}


def _owner(owner: Owner) -> Entry:
    return {"uid": owner.uid, "cluster": owner.cluster}


def _known(owner: Owner | None) -> tuple[int | None, str | None]:
    return (owner.uid, owner.cluster) if owner is not None else (None, None)


def _nanoseconds(instant: float | None) -> int | None:
    return round(instant * 1e9) if instant is not None else None
