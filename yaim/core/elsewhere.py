"""Addresses of the pool that are on some host for another reason than yaim.

Never two holds for them, too, as far as a node can know it. Each node hears from its kernel which
addresses it has that cannot be its helper's, and says so in its advertisement (`present`), whether
it is healthy or not. From then on, for as long as that advertisement lives:

- nobody claims such an address (placement.py), and what is claimed and not yet added is given back;
- who holds it by yaim keeps it: the duplicate is there already, and giving up the address that
  clients use would not mend it;
- the node that has it itself says so before it gives back a mark that its helper would not use, in
  this order, so that nobody takes the address in between.

When it goes, `present` is withdrawn, and all is as before. Between its coming and the news of it at
the others another node may claim it: some milliseconds, and as long as etcd does not answer.

A node that is restarted knows less: of an address that looks like the helper's by now only its
earlier life knew that it is not, by what it was before, or from the helper's refusal. So what its
earlier advertisement said stays said until the address goes; until the kernel has told what is
there, all of it does.

A node says it of what is in the pool, and of what its helper would be allowed to add: an address
that joins the pool later is known by then. Of the latter no more than MOST, so that a host with
thousands of addresses does not fill etcd with them.
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
    """As in `eth0, /24`."""
    return where_in_short(_AND.join(str(place) for place in places))


def still_there(
    before: Mapping[Address, str], others: Mapping[Address, tuple[Place, ...]]
) -> dict[Address, str]:
    """Of what an earlier life of this node said that it has, what may be that yet. `others`: what
    is on this host and looks like the helper's."""
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
    """What a node says it has. `foreign`: what its helper says is there, and is not the helper's
    for us, though it looks like that: another cluster's on the same host, say. `before`: what an
    earlier life of it said, and has not gone since."""
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
    """For this node's log: what it has, and what it holds and others have. `present`: of the view's
    nodes. `held`: by yaim."""
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
