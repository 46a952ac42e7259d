"""How much a node tells the others at most, and how much is read of what others tell.

What is written is within these bounds, and so never longer than a value that is read
(MAX_VALUE_BYTES in yaim/dcs/etcd/keys.py): the node and all others compare and place the same. If
there is too much, the lowest addresses are told, whatever happened when.

What is cut makes no second holder: a node that claims an address has to find it unmarked. If
`refused` is cut, the others think that the node could hold the rest, and may leave it to the node:
then nobody holds it. If `networks` is cut, they think that the node cannot hold what is in the
rest. If `present` is cut, they do not know of the rest and may take it: so there is room for twice
the addresses that are supported, and for what else a node says of its host (MOST in elsewhere.py).

A longer value was written by an older version, or by no node. It is cut where it is read, too, and
not refused as a whole: older nodes go on with all of it, and the less differs, the more alike are
their placement and ours. Where they differ, each may leave an address to the other.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from yaim.core.model import Advertisement, Fence, Network, address_order, frozen_mapping

MOST_ADDRESSES = 4096
"""How many refused addresses a node tells, and how many that something else has put on its host."""
MOST_NETWORKS = 1000
"""How many networks a node tells, all interfaces together."""
MOST_INTERFACES = 256
MOST_REASON, MOST_VERSION, MOST_SESSION, MOST_INTERFACE = 1000, 100, 200, 127
MOST_FENCE = MOST_WHY = 200
"""How many characters are told of why there is no fence, and why connections stay."""
MOST_PROBLEMS, MOST_PROBLEM = 16, 300
"""How many problems are told, and how many characters of each."""
MOST_WHERE, MOST_NAME = 100, 127
"""How many bytes, as JSON, the place of an address and the name of an interface may have."""
SOMEWHERE = "in several places"


@lru_cache(maxsize=4096)
def is_short(text: str, most: int) -> bool:
    """Whether the text has no more bytes than this as JSON, where a character may take twelve."""
    return most >= sum(
        1 if " " <= each <= "~" and each not in '"\\' else 12 if each > "\uffff" else 6
        for each in text
    )


def where_in_short(where: str) -> str:
    """Returns the place of an address that something other than yaim has put on a host."""
    return where if is_short(where, MOST_WHERE) else SOMEWHERE


def fence_in_short(fence: Fence) -> Fence:
    return replace(fence, reason=fence.reason[:MOST_FENCE])


def bounded(told: Advertisement) -> Advertisement:
    """Returns the advertisement as it is written."""
    networks = _bounded_networks(told.networks, told.interface)
    refused, present = told.refused, told.present
    if len(refused) > MOST_ADDRESSES:
        refused = frozenset(sorted(refused, key=address_order)[:MOST_ADDRESSES])
    if len(present) > MOST_ADDRESSES:
        first = sorted(present, key=address_order)[:MOST_ADDRESSES]
        present = frozen_mapping({address: present[address] for address in first})
    return replace(
        told,
        reason=told.reason[:MOST_REASON],
        interface=told.interface[:MOST_INTERFACE],
        networks=networks,
        refused=refused,
        session=told.session[:MOST_SESSION],
        version=told.version[:MOST_VERSION],
        down=_bounded_names(told.down, networks),
        missing=_bounded_names(told.missing, networks),
        present=present,
        fence=fence_in_short(told.fence) if told.fence is not None else None,
        connections_stay=told.connections_stay[:MOST_WHY],
        problems=tuple(each[:MOST_PROBLEM] for each in told.problems[:MOST_PROBLEMS]),
    )


def cut(told: Advertisement) -> Mapping[str, str]:
    """Returns the lines for this node's log about what others are not told."""
    networks = sum(map(len, told.networks.values()))
    left = sum(map(len, _bounded_networks(told.networks, told.interface).values()))
    complaints = {}
    if len(told.refused) > MOST_ADDRESSES:
        complaints["refused"] = (
            f"this node refuses {len(told.refused)} addresses of the pool, and tells the others of"
            f" {MOST_ADDRESSES}, the lowest: what they leave to it of the rest nobody holds; put"
            " helper.yml or the entries right, or have a smaller pool"
        )
    if len(told.present) > MOST_ADDRESSES:
        complaints["present"] = (
            f"{len(told.present)} addresses are on this host, not by yaim, and the others are told"
            f" of {MOST_ADDRESSES}, the lowest: one of them may take the rest; remove them here"
        )
    if left < networks:
        complaints["networks"] = (
            f"helper.yml allows {networks} networks, counted for each name of an interface, and the"
            f" others are told of {left}: by the rest this node is given nothing; allow larger ones"
        )
    return complaints


def _bounded_networks(
    networks: Mapping[str, tuple[Network, ...]], interface: str
) -> Mapping[str, tuple[Network, ...]]:
    """Returns those that are told: the networks of the node's own interface first."""
    is_within = len(networks) <= MOST_INTERFACES and all(is_short(n, MOST_NAME) for n in networks)
    if is_within and sum(map(len, networks.values())) <= MOST_NETWORKS:
        return networks
    told: dict[str, tuple[Network, ...]] = {}
    left = MOST_NETWORKS
    names = [name for name in networks if is_short(name, MOST_NAME)]
    for name in sorted(names, key=lambda name: (name != interface, name))[:MOST_INTERFACES]:
        told[name] = networks[name][:left]
        left -= len(told[name])
    return frozen_mapping(told)


def _bounded_names(
    names: frozenset[str], networks: Mapping[str, tuple[Network, ...]]
) -> frozenset[str]:
    """Returns those that are told: interfaces first on which something is allowed."""
    short = [name for name in names if is_short(name, MOST_NAME)]
    if len(short) == len(names) <= MOST_INTERFACES:
        return names
    return frozenset(sorted(short, key=lambda n: (n not in networks, n))[:MOST_INTERFACES])
