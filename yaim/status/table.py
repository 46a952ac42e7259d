"""A status for people: lines, whatever stands in etcd fit for a terminal.

The first line is the verdict. What stands in the columns stays the same as long as the cluster
does, so that two looks can be compared.
"""

from collections.abc import Iterable, Sequence
from enum import Enum

from yaim.dcs.etcd.full import NO_SPACE
from yaim.status.facts import (
    AddressStatus,
    CertificateStatus,
    ClusterStatus,
    Condition,
    NodeState,
    NodeStatus,
)
from yaim.status.problem import grouped, listed
from yaim.status.times import span, written
from yaim.text import MOST, MOST_LAST, columns, shortened

NOTHING_IS_THERE = "Nothing is there: are dcs-namespace and dcs-clustername right?"
_NOBODY_JOINS = (
    "While etcd is full a node without a lease cannot join, and one that cannot write there what it"
    " can hold has withdrawn: it is not listed here, or as missing."
)
_MOST_PROBLEMS = 50
"""The most lines of problems."""


class Colour(Enum):
    """SGR parameters (ECMA-48, 8.3.117)."""

    GREEN = "32"
    YELLOW = "33"
    RED = "31"


def painted(text: str, colour: Colour) -> str:
    return f"\x1b[{colour.value}m{text}\x1b[0m"


def as_table(
    status: ClusterStatus,
    *,
    problems_only: bool = False,
    is_coloured: bool = False,
    age_s: float | None = None,
) -> str:
    """`is_coloured`: the verdict and the states of nodes have colours; the words are the same.
    `age_s`: how old the status is, if it is not the present one."""
    lines = [_verdict(status, is_coloured) if age_s is None else _past(status, age_s, is_coloured)]
    lines.append(f"Read at {written(status.seen_at)}, revision {status.revision}.")
    if status.condition is Condition.NOTHING:
        return "\n".join([*lines, "", NOTHING_IS_THERE])
    lines += ["", *_problems(status)] if status.problems else []
    lines += [_NOBODY_JOINS] if NO_SPACE in status.alarms else []
    notes = [f"{each.subject} {each.text}".strip() for each in status.notes]
    if problems_only:
        return "\n".join(lines)
    lines += ["", *(shortened(each, MOST_LAST) for each in notes[:_MOST_PROBLEMS])] if notes else []
    if status.addresses or not status.only:
        lines += ["", *_addresses(status.addresses)]
    if status.nodes or not status.only:
        lines += ["", *_nodes(status, is_coloured)]
    if status.certificates and not status.only:
        rows = [
            (each.what, each.subject, f"{each.expires:%Y-%m-%d}", _days_left(each))
            for each in status.certificates
        ]
        lines += ["", *columns(("CERTIFICATE", "OF", "EXPIRES", "DAYS LEFT"), rows)]
    return "\n".join(lines)


def _verdict(status: ClusterStatus, is_coloured: bool) -> str:
    count, word = len(status.problems), status.condition.word
    if status.condition is Condition.NOTHING:
        count, word = 0, "not there"
    if is_coloured:
        is_healthy = status.condition is Condition.HEALTHY
        word = painted(word, Colour.GREEN if is_healthy else Colour.YELLOW)
    what = f"Cluster {shortened(status.cluster, MOST_LAST)}"
    if status.only:
        what = f"{what}, {listed([shortened(each, 200) for each in status.only])} only,"
    many = f": {count} problem{'s' * (count > 1)}" if count else ""
    return f"{what} is {word}{many}."


def _past(status: ClusterStatus, age_s: float, is_coloured: bool) -> str:
    told = f"etcd is silent: what follows is {span(age_s)} old"
    told = painted(told, Colour.RED) if is_coloured else told
    return f"Cluster {shortened(status.cluster, MOST_LAST)}: {told}."


def _problems(status: ClusterStatus) -> list[str]:
    lines: list[str] = []
    groups = grouped(status.problems)
    for each in groups[:_MOST_PROBLEMS]:
        first, *others = (shortened(subject, MOST) for subject in each.subjects)
        also = f" (also {listed(others)})" if others else ""
        lines.append(shortened(f"- {first} {each.problem.text}{also}", MOST_LAST))
        if each.problem.remedy:
            lines.append(shortened(f"    {each.problem.remedy}", MOST_LAST))
    if len(groups) > _MOST_PROBLEMS:
        lines.append(f"and {len(groups) - _MOST_PROBLEMS} more: yaim status --json")
    return lines


def _addresses(addresses: Sequence[AddressStatus]) -> list[str]:
    return columns(
        ("ADDRESS", "HOLDER", "REASON"),
        [(each.address, each.holder or "- nobody -", _why(each)) for each in addresses],
    )


def _why(address: AddressStatus) -> str:
    words = [address.reason] if address.reason else []
    words += [f"also on {name}, not by yaim ({where})" for name, where in address.present]
    words += [f"pinned to {address.pinned_to}"] if address.pinned_to is not None else []
    words += [f"moving to {address.moving_to}"] if address.moving_to is not None else []
    return "; ".join(words)


def _nodes(status: ClusterStatus, is_coloured: bool) -> list[str]:
    rows = [
        (each.name, _state(each), str(each.address_count), each.reason) for each in status.nodes
    ]
    lines = columns(("NODE", "STATE", "ADDRESSES", "REASON"), rows)
    if is_coloured and rows:
        lines[1:] = [
            _with_state_painted(line, row[1], each.state)
            for line, row, each in zip(lines[1:], rows, status.nodes, strict=True)
        ]
    lines += _fences(status.nodes)
    lines += [
        shortened(f"no connections are reset by {each.name}: {each.connections_stay}", MOST_LAST)
        for each in status.nodes
        if each.connections_stay
    ]
    return lines


def _with_state_painted(line: str, words: str, state: NodeState) -> str:
    before, found, behind = line.partition(f"  {words}")
    colours = {
        NodeState.HEALTHY: Colour.GREEN,
        NodeState.UNHEALTHY: Colour.YELLOW,
        NodeState.MISSING: Colour.RED,
    }
    if not found or state not in colours:
        return line
    return f"{before}  {painted(words, colours[state])}{behind}"


def _state(node: NodeStatus) -> str:
    words = [node.state.word]
    words += ["drained"] if node.drained is not None else []
    words += ["flapping"] if node.is_flapping else []
    words += ["takes nothing for now"] if node.takes is False else []
    if count := len(node.refused):
        words.append(f"refuses {count} address{'es' * (count > 1)} (its log says why)")
    words += [f"weight {node.weight}"] if node.weight != 1 else []
    return ", ".join(words)


def _fences(nodes: Iterable[NodeStatus]) -> list[str]:
    """The nodes without a fence, and why; and those that do not tell of any."""
    told = [(each.name, each.fence) for each in nodes if each.is_there]
    lines = [
        f"no fence in the kernel of {name}: {fence.reason}"
        for name, fence in told
        if fence is not None and not fence.is_in_force
    ]
    if silent := [name for name, fence in told if fence is None]:
        lines.append(f"not told whether there is a fence in the kernel: {', '.join(silent)}")
    return [shortened(line, MOST_LAST) for line in lines]


def _days_left(certificate: CertificateStatus) -> str:
    days_left = str(certificate.days_left) if certificate.days_left >= 0 else "expired"
    return f"{days_left} (renew it)" if certificate.is_pressing else days_left
