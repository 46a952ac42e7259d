"""What `yaim status` and `yaim doctor` tell of a cluster: facts, made from a view of it.

Reads nothing and shows nothing: how it is shown is in yaim/status/table.py and
yaim/status/as_json.py, and yaim/cli/status.py is the command. Each thing that is to be mended is a
Problem (yaim/status/problem.py), and the cluster is degraded as long as there is one.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from sys import maxsize

from yaim.core.eligibility import Eligibility, Nodes, joined
from yaim.core.model import (
    Address,
    ClusterView,
    Fence,
    Node,
    NodeName,
    Order,
    PoolEntry,
    Revision,
    address_order,
    presence,
)
from yaim.dcs.etcd.full import NO_SPACE, remedy_for
from yaim.dcs.expiry import Expiry, ending
from yaim.status import clocks, orders, spare
from yaim.status.of_node import missing, stable, why_nothing
from yaim.status.problem import Code, Note, Problem, listed, plainly
from yaim.status.times import written
from yaim.status.unheld import REMOVE, TAKES_NOTHING, Unheld
from yaim.text import shell_word

PRESSING_WITHIN = timedelta(days=7)
_NO_LEASE = "counts as no {}, as it has no lease: delete it"
_OVER_ANOTHER = (
    "counts as no mark, as somebody has put it over another one: delete it when no node has the"
    " address"
)
_NO_NAME = "counts as no node, as no node can have this name: delete it"


class Condition(IntEnum):
    """How the cluster is; also the exit status."""

    HEALTHY = 0
    """There is no problem."""
    DEGRADED = 1
    UNREACHABLE = 69
    NOT_PERMITTED = 77
    NOTHING = 78
    """There is no key of yaim's below the prefix: it is another cluster's name, probably."""

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class AddressStatus:
    address: str
    holder: str | None
    reason: str = ""
    """Why nobody holds it; or why its holder may not hold it, but keeps it, as nobody else may hold
    it either."""
    present: tuple[tuple[str, str], ...] = ()
    """The nodes on which something other than yaim has put the address, and where."""
    pinned_to: str | None = None
    moving_to: str | None = None
    """The node that an operator has asked it to move to, as long as it has not."""


class NodeState(IntEnum):
    """In the order in which they are worst."""

    MISSING = 0
    """It was there, was not stopped, and is not there."""
    UNHEALTHY = 1
    HEALTHY = 2
    STOPPED = 3

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What is not known of a node that is not there is None."""

    name: str
    state: NodeState
    reason: str
    address_count: int
    version: str | None
    waits_s: float | None = 0.0
    """The node becomes unhealthy again and again, and waits so long after its last recovery before
    it takes addresses that others can hold; not what is left of that. The cluster is healthy all
    the same."""
    takes: bool | None = True
    """If not, the node keeps what it holds, until its checks have answered, its helper is there,
    and the kernel has told which addresses the host has."""
    refused: tuple[str, ...] = ()
    """Addresses of the pool that the node leaves to others, because its helper did not add them, or
    has no place for them. The cluster is healthy all the same, if others hold them."""
    fence: Fence | None = None
    """Whether a fence in its kernel is in force; None: not told, as by an older yaim. The cluster
    is healthy all the same."""
    connections_stay: str = ""
    """Why the node resets no connections when an address moves, though it is set to. The cluster is
    healthy all the same."""
    capacity: int | None = None
    """How many addresses its helper holds at most."""
    ttl_s: int | None = None
    weight: int = 1
    drained: Order | None = None
    control: Revision | None = None
    """The newest of the control keys' revisions that it has followed."""
    since: str | None = None
    """Of a node that is not there: since when, as far as that is known."""
    first_seen: str | None = None

    @property
    def is_there(self) -> bool:
        return self.state in (NodeState.HEALTHY, NodeState.UNHEALTHY)

    @property
    def is_flapping(self) -> bool:
        return bool(self.waits_s)


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    what: str
    """The file that the certificate is in, or the endpoint that has shown it."""
    subject: str
    expires: datetime
    days_left: int
    """It is less than 0 if the certificate has expired."""
    is_pressing: bool


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    cluster: str
    """The prefix of the cluster's keys."""
    seen_at: datetime
    revision: Revision
    condition: Condition
    addresses: tuple[AddressStatus, ...]
    nodes: tuple[NodeStatus, ...]
    """Those that are there, and those that were."""
    problems: tuple[Problem, ...] = ()
    """The gravest first."""
    notes: tuple[Note, ...] = ()
    wrong_entries: tuple[tuple[str, str], ...] = ()
    """The name of each, and what is wrong with it."""
    certificates: tuple[CertificateStatus, ...] = ()
    alarms: tuple[str, ...] = ()
    """Alarms of etcd's own: NOSPACE, CORRUPT."""
    strays: tuple[tuple[str, str], ...] = ()
    """Keys that count for nothing and are to be deleted, and why."""
    paused: Order | None = None
    only: tuple[str, ...] = ()
    """The nodes and addresses that alone are told of; empty: all."""


def status_of(
    cluster: str,
    view: ClusterView,
    certificates: tuple[CertificateStatus, ...] = (),
    alarms: Iterable[str] = (),
    lost: Mapping[NodeName, datetime] | None = None,
    *,
    now: datetime,
    by_hand: Callable[..., str] = plainly,
) -> ClusterStatus:
    """What a view of the cluster, read `now`, amounts to. A mark counts if it stands under the
    lease under which its holder is advertised. `lost`: when the leases of nodes have ended, as far
    as the history tells it."""
    made = _Made(cluster, view, certificates, frozenset(alarms), lost or {}, now, by_hand)
    problems = tuple(sorted(made.problems(), key=lambda each: _GRAVITY[each.code]))
    return ClusterStatus(
        cluster,
        now,
        view.revision,
        made.condition(problems),
        made.addresses(),
        made.nodes(problems),
        problems,
        tuple(orders.notes(view, now)),
        tuple((wrong.name, wrong.reason) for wrong in view.wrong),
        certificates,
        tuple(sorted(made.alarms)),
        strays_of(cluster, view),
        view.control.pause,
    )


_GRAVITY = {code: number for number, code in enumerate(Code)}


class _Made:
    """One view, and what is made from it."""

    def __init__(
        self,
        cluster: str,
        view: ClusterView,
        certificates: tuple[CertificateStatus, ...],
        alarms: frozenset[str],
        lost: Mapping[NodeName, datetime],
        now: datetime,
        by_hand: Callable[..., str],
    ) -> None:
        self.cluster, self.view, self.alarms, self._by_hand = cluster, view, alarms, by_hand
        self._certificates, self._lost, self._now = certificates, lost, now
        self.pool = sorted(view.pool.items(), key=lambda item: address_order(item[0]))
        self.missing = missing(view)
        self.holders: dict[Address, NodeName] = {}
        for mark in view.marks.values():
            node = view.nodes.get(mark.holder)
            if mark.address in view.pool and node is not None and node.lease == mark.lease:
                self.holders[mark.address] = mark.holder
        self.counts = Counter(self.holders.values())
        everywhere = presence(view.nodes)
        self.present = {
            address: tuple((str(name), where) for name, where in everywhere.get(address, ()))
            for address, _ in self.pool
        }
        unheld = Unheld(cluster, view, self.counts, is_store_full=NO_SPACE in alarms)
        self.why = {address: self._why(entry, unheld) for address, entry in self.pool}

    def _why(self, entry: PoolEntry, unheld: Unheld) -> str:
        holder = self.holders.get(entry.address)
        if holder is None:
            return unheld.why(entry)
        return self.view.nodes[holder].why_not(entry) or ""

    def condition(self, problems: tuple[Problem, ...]) -> Condition:
        view, control = self.view, self.view.control
        keys = (view.pool, view.nodes, view.marks, view.wrong, view.stray_nodes, view.stray_marks)
        orders_given = (control.drains, control.pins, control.weights, control.members)
        if not any((*keys, *orders_given, control.wrong, control.pause, control.revision)):
            return Condition.NOTHING
        return Condition.DEGRADED if problems else Condition.HEALTHY

    def addresses(self) -> tuple[AddressStatus, ...]:
        control = self.view.control
        return tuple(
            AddressStatus(
                str(address),
                self.holders.get(address),
                self.why[address],
                self.present[address],
                pin.node if (pin := control.pins.get(address)) is not None else None,
                move.node if (move := control.moves.get(address)) is not None else None,
            )
            for address, _ in self.pool
        )

    def nodes(self, problems: Iterable[Problem]) -> tuple[NodeStatus, ...]:
        told: dict[str, list[str]] = {}
        for each in problems:
            if each.code in _IN_ITS_ROW:
                told.setdefault(each.subject, []).append(each.text)
        view = self.view
        there = [self._there(node, told.get(name, [])) for name, node in view.nodes.items()]
        gone = view.control.members.keys() - view.nodes.keys()
        return tuple(
            sorted(there + [self._gone(name) for name in gone], key=lambda each: each.name)
        )

    def _there(self, node: Node, problems: list[str]) -> NodeStatus:
        told, control = node.advertisement, self.view.control
        member, weight = control.members.get(node.name), control.weights.get(node.name)
        reason = _reason(self.cluster, node)
        return NodeStatus(
            node.name,
            NodeState.HEALTHY if told.is_healthy else NodeState.UNHEALTHY,
            "; ".join([reason, *problems] if not told.is_healthy else problems or [reason]),
            self.counts[node.name],
            told.version,
            0.0 if told.is_drained else told.waits_s,
            told.takes,
            tuple(
                str(address)
                for address in sorted(told.refused, key=address_order)
                if address in self.view.pool
            ),
            told.fence,
            told.connections_stay,
            told.capacity,
            told.ttl_s or None,
            weight.weight if weight is not None else 1,
            control.drains.get(node.name),
            told.control or None,
            first_seen=member.first_seen if member is not None else None,
        )

    def _gone(self, name: NodeName) -> NodeStatus:
        control = self.view.control
        member, weight = control.members[name], control.weights.get(name)
        lost_at = self._lost.get(name)
        is_missing = name in self.missing
        at = member.at if not is_missing else written(lost_at) if lost_at is not None else None
        reason = self._why_missing(name) if is_missing else f"since {member.at}"
        return NodeStatus(
            name,
            NodeState.MISSING if is_missing else NodeState.STOPPED,
            reason,
            0,
            member.version or None,
            waits_s=None,
            takes=None,
            weight=weight.weight if weight is not None else 1,
            drained=control.drains.get(name),
            since=at,
            first_seen=member.first_seen,
        )

    def _why_missing(self, name: NodeName) -> str:
        lost_at = self._lost.get(name)
        at = f", its lease ended {written(lost_at)}" if lost_at is not None else ""
        return f"is not there, and was not stopped: killed, frozen, cut off or without power{at}"

    # --- problems ---------------------------------------------------------------------------------

    def problems(self) -> Iterator[Problem]:
        for alarm in sorted(self.alarms):
            yield Problem(Code.ALARM, "etcd", f"has raised the alarm {alarm}", remedy_for(alarm))
        yield from self._of_addresses()
        yield from self._of_nodes()
        yield from self._of_all_nodes()
        yield from orders.problems(self.cluster, self.view, self.holders, self._by_hand)
        names = {str(address) for address in self.view.pool} if self.view.wrong else set()
        for wrong in self.view.wrong:
            is_address = wrong.name in names
            delete = self._by_hand("del", f"{self.cluster}ips/{wrong.name}")
            remedy = _written_anew(wrong.name) if is_address else delete
            text = f"is a wrong pool entry: {wrong.reason}"
            yield Problem(Code.WRONG_ENTRY, wrong.name, text, remedy)
        for key, reason in strays_of(self.cluster, self.view):
            yield Problem(Code.STRAY, key, reason, self._by_hand("del", key))
        for each in self._certificates:
            if each.is_pressing:
                ends = "has expired" if each.days_left < 0 else f"ends {each.expires:%Y-%m-%d}"
                text = f"({each.subject}): the certificate {ends}"
                yield Problem(Code.CERTIFICATE, each.what, text, "renew it")

    def _of_addresses(self) -> Iterator[Problem]:
        if not self.pool:
            add = "yaim pool add ADDRESS"
            yield Problem(Code.POOL_EMPTY, "the pool", "is empty", add)
        for address, _ in self.pool:
            why, subject = self.why[address], str(address)
            for name, where in self.present[address]:
                text = f"is on {name} already, {REMOVE.format(where)}"
                yield Problem(Code.ELSEWHERE, subject, text, _remove(subject, name, where))
            if address not in self.holders and not self.present[address]:
                is_wrong = bool(self.view.pool[address].fault)
                remedy = _written_anew(subject) if is_wrong else "see the nodes, and their logs"
                yield Problem(Code.UNHELD, subject, f"is held by nobody: {why}", remedy)
            elif address in self.holders and why:
                text = f"is held by {self.holders[address]}, which may not: {why}"
                remedy = "no other node can hold it either: see its entry, and the nodes"
                yield Problem(Code.HELD_WRONGLY, subject, text, remedy)

    def _of_nodes(self) -> Iterator[Problem]:
        view = self.view
        if not view.nodes:
            yield Problem(
                Code.NO_NODE, "the cluster", "has no node", "on each: systemctl start yaim"
            )
        for name in self.missing:
            forget = f"if it is gone for good: yaim node forget {shell_word(name)}"
            remedy = f"there: systemctl restart yaim; {forget}"
            yield Problem(Code.MISSING, name, self._why_missing(name), remedy)
        nodes = [node for _, node in sorted(view.nodes.items())]
        eligibility = Eligibility(nodes)
        able: Nodes = joined(eligibility.able(entry) for entry in view.pool.values())
        shortly = dict(self.pool[:_MOST_ASKED])
        for number, node in enumerate(nodes):
            told = node.advertisement
            if not told.is_healthy:
                text = f"is unhealthy: {_reason(self.cluster, node)}"
                yield Problem(Code.UNHEALTHY, node.name, text, "there: yaim check, yaim doctor")
            elif view.pool and not able >> number & 1:
                why = why_nothing(node, shortly) or why_nothing(node, view.pool)
                if why:
                    text = f"can hold nothing: {why}"
                    yield Problem(Code.HOLDS_NOTHING, node.name, text, "there: yaim doctor")
            elif view.pool and not told.takes and not self.counts[node.name]:
                yield Problem(Code.HOLDS_NOTHING, node.name, TAKES_NOTHING, "there: yaim doctor")
            for text in told.problems:
                yield Problem(Code.NODE, node.name, stable(text), "there: yaim doctor")
        yield from self._not_understood(nodes)

    def _not_understood(self, nodes: list[Node]) -> Iterator[Problem]:
        """Entries that some nodes are too old for."""
        for schema in sorted({e.schema for e in self.view.pool.values() if not e.fault}):
            entries = [str(a) for a, entry in self.pool if entry.schema == schema]
            for node in nodes:
                told = node.advertisement
                if told.is_healthy and told.schema < schema:
                    text = (
                        f"has an older yaim ({told.version}), which does not understand the options"
                        f" of {listed(entries)}"
                    )
                    yield Problem(Code.VERSION, node.name, text, "upgrade it")

    def _of_all_nodes(self) -> Iterator[Problem]:
        view = self.view
        if (want := spare.want(view)) is not None:
            text = (
                f"if it is lost, the others hold {want.places} of {want.addresses} addresses at"
                " most (max-addresses in helper.yml)"
            )
            remedy = "raise max-addresses on the others, or add a node"
            yield Problem(Code.CAPACITY, want.lost, text, remedy)
        yield from self._ttls()
        for each in clocks.differing(view.nodes.values(), self._now):
            behind = f"{each.behind}'s" if each.behind is not None else "this host's"
            text = f"has a clock ahead of {behind} by {_some_seconds(each.by_s)} or more"
            yield Problem(Code.CLOCK, each.ahead, text, "chronyc tracking, on both")

    def _ttls(self) -> Iterator[Problem]:
        ttls: dict[int, list[str]] = {}
        for name, node in sorted(self.view.nodes.items()):
            if node.advertisement.ttl_s:
                ttls.setdefault(node.advertisement.ttl_s, []).append(name)
        if len(ttls) > 1:
            each = (f"{ttl_s} s on {listed(names)}" for ttl_s, names in sorted(ttls.items()))
            remedy = "set the same in each yaim.yml; then stop and start yaim there"
            yield Problem(Code.TTL, "ttl", f"is {', and '.join(each)}", remedy)


_MOST_ASKED = 200
_IN_ITS_ROW = frozenset({Code.HOLDS_NOTHING, Code.NODE, Code.VERSION, Code.CLOCK})


def _written_anew(address: str) -> str:
    """What writes a wrong entry of the pool anew. `pool set` wants an option; others that the entry
    had are to be named with it."""
    return f"yaim pool set {address} --prefer ''"


def _remove(address: str, node: str, where: str) -> str:
    """`where`: as Place writes itself, or several places in short."""
    interface, comma, length = where.partition(", /")
    if not comma or not length.isdigit():
        return f"on {node}: ip address show to {address}, and remove it"
    return f"on {node}: ip address del {address}/{length} dev {shell_word(interface)}"


def _some_seconds(seconds: float) -> str:
    """Rounded down to one digit: it is to say the same a moment later."""
    whole = int(seconds)
    unit = 10 ** (len(str(whole)) - 1)
    return f"{whole // unit * unit} s"


def _reason(cluster: str, node: Node) -> str:
    """Why a node is healthy or not. If what stands there is no advertisement, also what is to be
    done."""
    told = node.advertisement
    if told.schema < maxsize:
        return stable(told.reason)
    return (
        f"{told.reason}: if it is no newer yaim's, etcdctl lease revoke {node.lease:x}, under which"
        f" {shell_word(f'{cluster}nodes/{node.name}')} stands"
    )


def strays_of(cluster: str, view: ClusterView) -> tuple[tuple[str, str], ...]:
    """Keys that count for nothing, and why."""
    nodes = tuple(
        (f"{cluster}nodes/{name}", _NO_NAME if node.lease else _NO_LEASE.format("node"))
        for name, node in sorted(view.stray_nodes.items())
    )
    marks = sorted(view.stray_marks.values(), key=lambda mark: address_order(mark.address))
    return nodes + tuple(
        (
            f"{cluster}ips/{mark.address}/marked",
            _OVER_ANOTHER if mark.is_over_another else _NO_LEASE.format("mark"),
        )
        for mark in marks
    )


def certificates_of(expiries: tuple[Expiry, ...], now: datetime) -> tuple[CertificateStatus, ...]:
    pressing = ending(expiries, now, PRESSING_WITHIN)
    return tuple(
        CertificateStatus(
            each.what, each.subject, each.not_after, each.days_left(now), each in pressing
        )
        for each in expiries
    )


# --- only some of it ------------------------------------------------------------------------------


def known(status: ClusterStatus) -> set[str]:
    """The names of the nodes and the addresses of the pool."""
    return {each.name for each in status.nodes} | {each.address for each in status.addresses}


def unknown(status: ClusterStatus, names: Iterable[str]) -> list[str]:
    """Those of the names that are no node's and no address of the pool."""
    return [name for name in names if name not in known(status)]


def only(status: ClusterStatus, names: tuple[str, ...]) -> ClusterStatus:
    """What the status tells of these nodes and addresses, and of what these nodes hold. It is
    degraded if there is a problem with one of these."""
    if not names:
        return status
    addresses = tuple(
        each for each in status.addresses if each.address in names or each.holder in names
    )
    nodes = tuple(each for each in status.nodes if each.name in names)
    subjects = {*names, *(each.address for each in addresses)}
    problems = tuple(each for each in status.problems if each.subject in subjects)
    return replace(
        status,
        condition=Condition.DEGRADED if problems else Condition.HEALTHY,
        addresses=addresses,
        nodes=nodes,
        problems=problems,
        notes=tuple(each for each in status.notes if each.subject in ("", *subjects)),
        only=names,
    )
