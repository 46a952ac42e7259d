"""The entries of the record, each without what all have in common (log.py adds that).

These are words for the auditor: changing one changes the format (helper/AUDIT.md). Writes nothing.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, assert_never

from yaim_helper.owners import Owner, Peer
from yaim_helper.protocol import (
    Add,
    Address,
    Announce,
    Clear,
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
HeldAddress: TypeAlias = tuple[Address, str, int, Owner | None, float | None, bool | None]
"""Address, interface, prefix length, for whom and until when, as far as that is known, and whether
the fence is in force for it (None: that is not known)."""

REMOVED = "removed"
FOUND_GONE = "the kernel had removed it"
TAKEN = "the host has it now: left alone"
"""What became of an address; TAKEN: somebody else has put it there anew, or changed it."""
MAX_HELD = 200
"""Addresses in one `held` record."""
MAX_REASON = 1000
"""Characters of what is wrong in helper.yml that are on record; standard error has all of it."""
_TOLD = {"was", "reset", "left", "cleared"}
"""Keys of replies that the record has, too."""
NO_FENCE = "this version has none"


def intent(peer: Peer, cluster: str | None, request: Request, rule: int | None) -> Entry:
    """Returns that something is about to be done. `rule`: the number of the one that allows an
    add."""
    entry = {"type": "intent", **_described(peer, cluster, request)}
    if isinstance(request, Add):
        entry["rule"] = rule
    return entry


def result(
    peer: Peer,
    cluster: str | None,
    request: Request,
    reply: Reply,
    is_fenced: bool | None = None,
    deadline: float | None = None,
) -> Entry:
    """Returns what came of a request. For an add or remove that is ok: `is_fenced`, whether the
    fence is, or was, in force for the address (None: that is not told); `deadline`, the instant of
    CLOCK_BOOTTIME until which it answers, or answered, at most. That of an add may be another than
    was asked for: a renewal that passes a waiting add gives it its own."""
    entry = {"type": "result", **_described(peer, cluster, request), **_fence(is_fenced, deadline)}
    match reply:
        case Ok(fields):
            entry |= {"outcome": "ok", **{key: fields[key] for key in fields.keys() & _TOLD}}
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
        case Remove():
            told = {"connections": request.connections} if request.resets else {}
            entry |= {"address": str(request.address), **told}
        case Announce() | Clear():
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


def own(
    op: str,
    address: Address,
    interface: str,
    owner: Owner,
    outcome: str,
    is_fenced: bool | None = None,
    deadline: float | None = None,
) -> Entry:
    """Returns something that the helper does of itself. `is_fenced` and `deadline` as in a result:
    with them, what is removed late is known to have answered nothing since. `deadline` is what the
    kernel has in force before the address is muted, not a nearer one that was set just now."""
    return {
        "type": "own",
        "op": op,
        "address": str(address),
        "interface": interface,
        **_owner(owner),
        "outcome": outcome,
        **_fence(is_fenced, deadline),
    }


def fence_lost(owner: Owner, addresses: int, why: str) -> Entry:
    """Returns that the fence of an owner is not in force any more, for so many addresses: before it
    is made anew, or once more when it cannot be."""
    return _of_fence(owner, addresses, "lost", why)


def fence_made(owner: Owner, addresses: int, why: str) -> Entry:
    """Returns that the fence of an owner was made anew and is in force from now on."""
    return _of_fence(owner, addresses, "made", why)


def _of_fence(owner: Owner, addresses: int, outcome: str, why: str) -> Entry:
    # A type of its own: an `own` entry has an address, or older readers cannot read the record.
    told = {"addresses": addresses, "outcome": outcome, "reason": why}
    return {"type": "fence", **_owner(owner), **told}


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


def started(
    version: int,
    pid: int,
    uid: int,
    session: str,
    earlier: Entry | None,
    fence: str | None = NO_FENCE,
) -> Entry:
    """Returns that the helper has started. `session`: boot and network namespace. `earlier`: the
    marker that an earlier life left. `fence`: why this life has none, for people; None: it has
    one."""
    who = {"version": version, "pid": pid, "uid": uid, "session": session}
    told = {"in_force": fence is None, "reason": fence or ""}
    return {"type": "start", **who, "earlier": earlier, "fence": told}


def renewals(
    counts: Mapping[Owner, int],
    deadlines: Mapping[Owner, float],
    fenced: Collection[Owner] | None = None,
) -> Entry:
    """Returns how often owners renewed, and the latest deadlines of those that hold anything
    still. `fenced`: the owners whose fences are in force; None: that is not told."""
    return {
        "type": "renewals",
        "owners": [
            {**_owner(owner), "count": counts.get(owner, 0), **told}
            for owner, told in _deadlines(deadlines, fenced)
        ],
    }


def latest(
    deadlines: Mapping[Owner, float], fenced: Mapping[Owner, float] | None = None
) -> list[Entry]:
    """Returns the latest deadlines (instants of CLOCK_BOOTTIME) for the marker. `fenced`: the
    owners whose fences are in force, and until when they let addresses answer at least; None: that
    is not told."""
    live = {} if fenced is None else fenced
    return [
        {
            **_owner(owner),
            **told,
            **({"live_ns": _nanoseconds(live[owner])} if owner in live else {}),
        }
        for owner, told in _deadlines(deadlines, fenced)
    ]


def _deadlines(
    deadlines: Mapping[Owner, float], fenced: Collection[Owner] | None
) -> Iterable[tuple[Owner, Entry]]:
    for owner, deadline in deadlines.items():
        yield owner, _fence(None if fenced is None else owner in fenced, deadline)


def held(
    addresses: Sequence[HeldAddress | tuple[Address, str, int, Owner | None, float | None]],
) -> list[Entry]:
    """Returns what is on interfaces because of the helper (if not for whom, it may be the host's).
    There are MAX_HELD addresses in one entry, and there is one entry at least. Whether the fence is
    in force is told beside the rows, in their order: older readers know rows of six columns."""
    rows: list[list[Any]] = []
    fences: list[bool | None] = []
    for address, interface, prefix, owner, deadline, *is_fenced in addresses:
        rows.append([str(address), interface, prefix, *_known(owner), _nanoseconds(deadline)])
        fences += is_fenced or (None,)
    found = []
    for start in range(0, max(1, len(rows)), MAX_HELD):
        end = start + MAX_HELD
        entry = {"type": "held", "addresses": rows[start:end], "more": end < len(rows)}
        if any(each is not None for each in fences):
            entry["fence"] = fences[start:end]
        found.append(entry)
    return found


def _fence(is_fenced: bool | None, deadline: float | None) -> Entry:
    """Returns what is known of the fence and until when it lets an address answer."""
    told: Entry = {} if is_fenced is None else {"fence": is_fenced}
    return told if deadline is None else {**told, "deadline_ns": _nanoseconds(deadline)}


def _peer(peer: Peer) -> Entry:
    return {"pid": peer.pid, "uid": peer.uid, "gid": peer.gid}


def _owner(owner: Owner) -> Entry:
    return {"uid": owner.uid, "cluster": owner.cluster}


def _known(owner: Owner | None) -> tuple[int | None, str | None]:
    return (owner.uid, owner.cluster) if owner is not None else (None, None)


def _nanoseconds(instant: float | None) -> int | None:
    return round(instant * 1e9) if instant is not None else None
