"""Addresses of the pool that something other than yaim has put on some host.

The rule "never two" holds for them, too, as far as a node can know it. Each node hears from its
kernel which of its addresses cannot be its helper's, and says so in its advertisement (`present`),
whether it is healthy or not. From then on, for as long as that advertisement lives:

- nobody claims such an address (placement.py), and what is claimed and not yet added is given back;
- the node that holds it by yaim keeps it: the duplicate is there already, and giving up the address
  that clients use would not mend it;
- the node that has it itself says so before it gives back a mark that its helper would not use, in
  this order, so that nobody takes the address in between.

When the address goes, `present` is withdrawn, and all is as before. After it has come, another node
may claim it until it has heard of it: some milliseconds, or as long as etcd does not answer.

A node that was restarted knows less. An address may look like the helper's by now, and only the
earlier life knew that it is not: by what the address was before, or from the helper's refusal. So
the node repeats what its earlier advertisement said until the address goes; until the kernel has
told its addresses, the node repeats all of it.

A node names the addresses of the pool, and those that its helper would be allowed to add: if one of
these joins the pool later, it is known by then. It names MOST of the latter at most, so that a host
with thousands of addresses does not fill etcd with them.
"""

from collections.abc import Mapping

from yaim.core.bounds import SOMEWHERE, where_in_short
from yaim.core.model import (
    Address,
    ClusterView,
    Network,
    NodeName,
    Place,
    Presence,
    address_order,
    frozen_mapping,
)

MOST = 64
BY_ITS_HELPER = "its helper says so"
_AND = " and "
NOTHING: Mapping[Address, str] = frozen_mapping({})


def where(places: tuple[Place, ...]) -> str:
    """Returns the places in the form `eth0, /24`."""
    return where_in_short(_AND.join(str(place) for place in places))


def still_there(
    before: Mapping[Address, str], others: Mapping[Address, tuple[Place, ...]]
) -> dict[Address, str]:
    """Returns what may still be true of what an earlier life of this node said that it has.
    `others`: the addresses on this host that look like the helper's."""
    return {
        address: said
        for address, said in before.items()
        if any(is_told_by(said, place) for place in others.get(address, ()))
    }


def is_told_by(said: str, place: Place) -> bool:
    """Whether what was said of an address may be about it in this place."""
    return said in (BY_ITS_HELPER, SOMEWHERE) or str(place) in said.split(_AND)


def to_advertise(
    own: Mapping[Address, tuple[Place, ...]],
    before: Mapping[Address, str],
    foreign: frozenset[Address],
    pool: frozenset[Address],
    networks: Mapping[str, tuple[Network, ...]],
) -> Mapping[Address, str]:
    """Returns what a node says it has. `foreign`: the addresses that its helper says are there, and
    are not the helper's for us, although they look like that: another cluster's on the same host,
    for example. `before`: what an earlier life of the node said, and has not gone since."""
    if not own and not before and not foreign:
        return NOTHING
    said = {address: where(places) for address, places in own.items() if address in pool}
    said |= {address: text for address, text in before.items() if address not in own}
    said |= {
        address: BY_ITS_HELPER for address in foreign if address not in said.keys() | own.keys()
    }
    allowed = [network for each in networks.values() for network in each]
    further = (
        address
        for address in sorted(own, key=address_order)
        if address not in pool and any(address in network for network in allowed)
    )
    said |= {address: where(own[address]) for address, _ in zip(further, range(MOST), strict=False)}
    return frozen_mapping(dict(sorted(said.items(), key=lambda item: address_order(item[0]))))


def complaints(
    view: ClusterView,
    present: Presence,
    me: NodeName,
    mine: Mapping[Address, str],
    held: frozenset[Address],
) -> dict[Address, str]:
    """Returns what to report in this node's log: what it has, and what it holds and others have.
    `present`: what the view's nodes have. `held`: what this node holds by yaim."""
    told = {}
    for address in view.pool.keys() & mine.keys():
        if address in held:
            told[address] = (
                f"a second copy of {address}, which this node holds, is here, not by yaim"
                f" ({mine[address]}): remove it, or it stays when the address moves"
            )
        else:
            told[address] = (
                f"{address} is here already, not by yaim ({mine[address]}): no node takes it until"
                " it is removed here"
            )
    for address in held & view.pool.keys() & present.keys():
        others = [each for each in present[address] if each[0] != me]
        if others:
            name, place = others[0]
            told[address] = (
                f"{address}, which this node holds, is on {name}, too, not by yaim ({place}):"
                " remove it there"
            )
    return told
