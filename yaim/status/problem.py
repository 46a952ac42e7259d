"""What can be wrong with a cluster, and what is told of it without being wrong. Values only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from yaim.text import shell_word


class Code(StrEnum):
    """What kind of problem it is, for programs: these words stay. The gravest come first."""

    ALARM = "etcd-alarm"
    """etcd has raised an alarm."""
    NO_NODE = "no-node"
    POOL_EMPTY = "pool-empty"
    UNHELD = "address-unheld"
    ELSEWHERE = "address-elsewhere"
    """Something other than yaim has put an address of the pool on a host."""
    HELD_WRONGLY = "address-held-wrongly"
    """Its holder may not hold it, and keeps it, as nobody else may hold it either."""
    MISSING = "node-missing"
    """It was there, was not stopped, and is not there."""
    UNHEALTHY = "node-unhealthy"
    HOLDS_NOTHING = "node-can-hold-nothing"
    """It is healthy, and can hold no address of the pool."""
    NODE = "node-problem"
    """What a node tells of its host: a foreign machine claims an address, a file differs from what
    runs, the record cannot be written."""
    CAPACITY = "no-spare-capacity"
    """If one node is lost, the others may not hold all that it held."""
    WRONG_ENTRY = "wrong-pool-entry"
    STRAY = "stray-key"
    WRONG_CONTROL = "wrong-control-key"
    VERSION = "version-differs"
    """A node does not understand what stands in etcd: a pool entry's options, or what an operator
    has asked for."""
    PIN = "pin-not-followed"
    DRAINED_HOLDS = "drained-node-holds"
    """No other node can hold what it has."""
    STALE_DRAIN = "stale-drain"
    """The drained node is not there, and was not stopped."""
    TTL = "ttl-differs"
    CLOCK = "clock-differs"
    CERTIFICATE = "certificate-ends"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is to be mended: as long as there is one, the cluster is degraded."""

    code: Code
    subject: str
    """The node, address, key or file that it is about; empty: the whole cluster."""
    text: str
    """What is wrong with it, as it goes on behind the subject's name. It does not change from one
    moment to the next while the problem is the same one."""
    remedy: str = ""
    """What to do, the command where there is one."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that people are to know, and that is nothing wrong."""

    subject: str
    text: str


MOST_NAMED = 8


def listed(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """The names, or the first of them and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@dataclass(frozen=True, slots=True)
class Group:
    """Problems of the same kind, with the same text and remedy."""

    problem: Problem
    """The first of them."""
    subjects: tuple[str, ...]


def grouped(problems: Iterable[Problem]) -> list[Group]:
    """The problems in their order, with those that say the same told once."""
    alike: dict[tuple[Code, str, str], list[Problem]] = {}
    for each in problems:
        alike.setdefault((each.code, each.text, each.remedy), []).append(each)
    return [
        Group(several[0], tuple(each.subject for each in several)) for several in alike.values()
    ]


def plainly(*arguments: str) -> str:
    """A command of etcd's own client, for one who need not say how to get there."""
    return " ".join(map(shell_word, ("etcdctl", *arguments)))
