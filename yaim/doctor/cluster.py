"""etcd, and what stands in it: who may do what, the pool, this node among the others."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from yaim.config.config import Config
from yaim.core.model import ClusterView, NodeName, address_order
from yaim.dcs.etcd.access import EtcdError, read_secrets
from yaim.dcs.etcd.certificates import expiries, faults
from yaim.dcs.etcd.connection import BREAKS_KEEPALIVES_OFF, EtcdFull, EtcdPermissionDenied
from yaim.dcs.etcd.diagnose import explain, explain_all
from yaim.dcs.etcd.full import remedy_for
from yaim.dcs.etcd.look import look
from yaim.dcs.etcd.parts import EtcdParts
from yaim.dcs.etcd.transactions import check_may_write
from yaim.dcs.expiry import warnings_of
from yaim.doctor.finding import Finding, ok, problem, warning
from yaim.status.facts import status_of
from yaim.status.problem import Code, Group, Problem, grouped, listed
from yaim.text import shell_word
from yaim.wiring import store_parts_of

ETCD, POOL, NODES = "etcd", "pool", "nodes"
LOOK_WITHIN_S = 2.0
MOST = 20
"""The most findings that tell of what is wrong in the same way."""


def look_at_etcd(config: Config) -> tuple[ClusterView | None, list[Finding]]:
    """The cluster, if it can be read. `config`: for Purpose.CLUSTER at least."""
    etcd = _etcd_of(config)
    keys, access = etcd.keys, etcd.access
    try:
        wrong = [str(each) for each in faults(access, read_secrets(access))]
    except EtcdError as error:
        wrong = [str(error)]
    if wrong:
        remedy = "put the right file there: docs/etcd.md, TLS"
        return None, [problem(ETCD, each, remedy) for each in wrong]
    client = etcd.client()
    try:
        view = look(client, keys)
        try:
            rooms = (f"{room}/doctor" for room in ("ips", "control/member", "timeline"))
            written = [f"{keys.prefix}{each}".encode() for each in rooms]
            check_may_write(client, keys.node(NodeName("doctor")), *written)
        except EtcdFull:
            pass  # its alarm says so
        alarms = client.alarms()
        complaints = client.survey()
    except EtcdPermissionDenied:
        grant = ("role", "grant-permission", "yaim", "--prefix=true", "readwrite", keys.prefix)
        what = f"user {access.user} may not read and write below {keys.prefix}"
        return None, [problem(ETCD, what, f"as etcd's root, for its role: {etcd.by_hand(*grant)}")]
    except EtcdError as error:
        told = explain_all(error, access, LOOK_WITHIN_S)
        remedy = f"see docs/etcd.md; dcs-endpoints is {', '.join(access.endpoints)}"
        return None, [problem(ETCD, told, remedy)]
    finally:
        client.close()
    found = [
        warning(ETCD, f"{endpoint}: {complaint}", "put it right before it is needed")
        for endpoint in access.endpoints
        if (complaint := explain(endpoint, access, LOOK_WITHIN_S)) is not None
    ]
    found += [
        problem(ETCD, f"{endpoint}: {complaint}", "then: systemctl reload yaim")
        for endpoint, complaint in complaints.items()
        if complaint == BREAKS_KEEPALIVES_OFF
    ]
    found += [
        problem(ETCD, f"has raised the alarm {each}", remedy_for(each)) for each in sorted(alarms)
    ]
    ours = expiries(access, read_secrets(access))
    found += [warning(ETCD, each, "renew it") for each in warnings_of(ours, datetime.now(UTC))]
    return view, found or [ok(ETCD, f"answers; {keys.prefix} can be read and written")]


def look_at_pool(config: Config, view: ClusterView) -> Iterator[Finding]:
    """What `yaim status` tells of the keys, of the pool and of its addresses."""
    etcd, prefix = _etcd_of(config), _etcd_of(config).prefix
    told = status_of(prefix, view, now=datetime.now(UTC), by_hand=etcd.by_hand).problems
    about_keys, about_addresses = _groups(told, _KEYS), _groups(told, _ADDRESSES)
    for each in about_keys[:MOST]:
        yield _finding(POOL, each, problem, _remedy(each.problem))
    if len(about_keys) > MOST:
        yield problem(POOL, f"{len(about_keys) - MOST} more keys are wrong", "yaim status")
    if not view.pool:
        # Before a cluster's first start that is no mistake yet.
        is_first = not view.nodes and not view.control.members
        empty = warning if is_first else problem
        what = f"there is no address below {prefix}ips/"
        yield empty(POOL, what, "with your address: yaim pool add 192.0.2.10")
        return
    yield ok(POOL, f"has {len(view.pool)}: {_some(view)}")
    if view.nodes:
        for each in about_addresses[:MOST]:
            is_elsewhere = each.problem.code is Code.ELSEWHERE
            yield _finding(
                POOL,
                each,
                problem if is_elsewhere else warning,
                _remedy(each.problem),
            )
        if len(about_addresses) > MOST:
            what = f"{len(about_addresses) - MOST} more addresses are not as they should be"
            yield warning(POOL, what, "yaim status")


_KEYS = (Code.WRONG_ENTRY, Code.STRAY, Code.WRONG_CONTROL)
_ADDRESSES = (Code.UNHELD, Code.ELSEWHERE, Code.HELD_WRONGLY, Code.PIN)
_NODES = (
    *(Code.MISSING, Code.UNHEALTHY, Code.HOLDS_NOTHING, Code.NODE, Code.CAPACITY, Code.VERSION),
    *(Code.DRAINED_HOLDS, Code.STALE_DRAIN, Code.TTL, Code.CLOCK),
)
_OWN = frozenset({Code.HOLDS_NOTHING, Code.NODE})
"""The problems of a node that are problems of this host, too, if it is this one."""


def _groups(problems: Iterable[Problem], codes: tuple[Code, ...]) -> list[Group]:
    """Those of these kinds, in the order of the kinds; what many addresses have in common is
    one."""
    return grouped(each for code in codes for each in problems if each.code is code)


def _finding(
    point: str, group: Group, found: Callable[[str, str, str], Finding], remedy: str
) -> Finding:
    first, *others = group.subjects
    also = f" (also {listed(others)})" if others else ""
    subject = shell_word(first) if group.problem.code is Code.STRAY else first
    return found(point, f"{subject} {group.problem.text}{also}", remedy)


def _remedy(told: Problem) -> str:
    """What to do, to be pasted."""
    is_of_nodes = told.code is Code.UNHELD and not told.remedy.startswith("yaim ")
    return "yaim status, and the logs of those nodes" if is_of_nodes else told.remedy


def _some(view: ClusterView) -> str:
    shown = [str(each) for each in sorted(view.pool, key=address_order)]
    return ", ".join(shown[:4]) + (", ..." if len(shown) > 4 else "")


def look_at_nodes(config: Config, view: ClusterView, boot_id: str) -> Iterator[Finding]:
    """What this node tells of itself. `config`: for Purpose.NODE; `boot_id`: this host's."""
    name = NodeName(config.nodename)
    node = view.nodes.get(name)
    others = ", ".join(sorted(view.nodes.keys() - {name})) or "none"
    yield from _look_at_all_nodes(config, view, name)
    if node is None:
        what = f"{name} takes no part (other nodes: {others})"
        yield warning(NODES, what, "start yaim, or see in its log why it does not come up")
        return
    advertisement = node.advertisement
    if advertisement.session and not advertisement.session.startswith(boot_id):
        what = f"the name {name} is in use by another host, or by this one before its last boot"
        yield warning(NODES, what, "give one of them another nodename, should that not pass")
        return
    if not advertisement.is_healthy:
        why = f"{name} is unhealthy: {advertisement.reason}"
        yield problem(NODES, why, "mend the service, then: yaim check")
    for interface in sorted(advertisement.down):
        is_missing = interface in advertisement.missing
        what = "is not there" if is_missing else "is down or without carrier"
        yield problem(NODES, f"{interface} {what}", f"ip link show {interface}")
    if advertisement.refused:
        refused = ", ".join(map(str, sorted(advertisement.refused, key=address_order)))
        what = f"the helper has refused {refused}"
        yield warning(NODES, what, "see its log, or yaim-helper policy explain ADDRESS INTERFACE")
    if node.is_waiting:
        what = f"{name} waits {advertisement.waits_s:g} s: it was unhealthy again and again"
        yield warning(NODES, what, "see in its log why; flap-max-wait bounds the wait")
    if advertisement.is_healthy:
        held = sum(mark.holder == name for mark in view.marks.values())
        yield ok(NODES, f"{name} is healthy and holds {held} addresses (other nodes: {others})")


def _here(told: Problem) -> str:
    """What to do about a problem of this node's, where it is looked at already."""
    _, _, act = told.text.rpartition(": ")
    return act if act.startswith("systemctl ") else "see the other points, and the log"


def _look_at_all_nodes(config: Config, view: ClusterView, own: NodeName) -> Iterator[Finding]:
    """What `yaim status` tells of the nodes. How this one is otherwise is told with more detail."""
    etcd = _etcd_of(config)
    status = status_of(etcd.prefix, view, now=datetime.now(UTC), by_hand=etcd.by_hand)
    groups = [
        each
        for each in _groups(status.problems, _NODES)
        if each.problem.code is not Code.UNHEALTHY or each.subjects != (own,)
    ]
    for each in groups[:MOST]:
        is_own = each.problem.code in _OWN and own in each.subjects
        remedy = _here(each.problem) if is_own else each.problem.remedy
        yield _finding(NODES, each, problem if is_own else warning, remedy)
    if len(groups) > MOST:
        yield warning(NODES, f"{len(groups) - MOST} more complaints of nodes", "yaim status")
    for note in status.notes[:MOST]:
        yield ok(NODES, f"{note.subject} {note.text}".strip())


def _etcd_of(config: Config) -> EtcdParts:
    """etcd is the only kind of store that is looked at here."""
    parts = store_parts_of(config)
    if not isinstance(parts, EtcdParts):
        raise TypeError(f"dcs-type {config.dcs_type} is not looked at")
    return parts
