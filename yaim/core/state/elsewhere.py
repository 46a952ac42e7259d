"""The addresses of the pool that something other than yaim has put on some host.

Owns what this node says so of its own host, and what was last reported. What follows from it, and
why, is in yaim/core/elsewhere.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from yaim.core.actions import Level, Tell
from yaim.core.elsewhere import NOTHING, is_told_by, still_there, to_advertise
from yaim.core.model import (
    Address,
    Network,
    Node,
    NodeName,
    Place,
    PoolEntry,
    Presence,
    address_order,
    frozen_mapping,
    presence,
)
from yaim.core.state.host import Host


@dataclass(frozen=True, slots=True)
class Elsewhere:
    said_before: Mapping[Address, str] | None = None
    """What an earlier life of this node said that it has, and has not gone since. None: not known
    yet."""
    present: Mapping[Address, str] = field(default_factory=lambda: frozen_mapping({}))
    """What our advertisement is to say that is on this host, and where."""
    present_of: tuple[object, ...] = ()
    """The values from which `present` follows."""
    everywhere: Presence = field(default_factory=lambda: frozen_mapping({}))
    """What the nodes of `everywhere_of` say that they have."""
    everywhere_of: Mapping[NodeName, Node] | None = None
    told: Mapping[Address, str] = field(default_factory=lambda: frozen_mapping({}))
    """What was last reported of each address of the pool."""

    def after_gone(self, address: Address, place: Place | None) -> "Elsewhere":
        """The address has left this place on our host; None: not known which."""
        before = self.said_before or {}
        said = before.get(address)
        if said is None or (place is not None and not is_told_by(said, place)):
            return self
        left = {a: s for a, s in before.items() if a != address}
        return replace(self, said_before=frozen_mapping(left))

    def knowing_before(self, told: Node | None, host: Host, *, is_written: bool) -> "Elsewhere":
        """What our earlier life said may be here yet. `told`: our advertisement in etcd.
        `is_written`: this life has written it."""
        before = self.said_before
        if before is None:
            if told is None or is_written:
                return self
            before = told.advertisement.present
        if host.own is not None:
            before = still_there(before, host.others)
        if before == self.said_before:
            return self
        return replace(self, said_before=frozen_mapping(before))

    def knowing_present(
        self,
        host: Host,
        foreign: frozenset[Address],
        pool: Mapping[Address, PoolEntry],
        networks: Mapping[str, tuple[Network, ...]],
    ) -> "Elsewhere":
        """`foreign`: the addresses that the helper says are here, and not by it."""
        before = self.said_before if self.said_before is not None else NOTHING
        present_of = (host.own, before, foreign, pool, networks)
        if present_of == self.present_of:
            return self
        present = to_advertise(host.own or {}, before, foreign, frozenset(pool), networks)
        return replace(self, present=present, present_of=present_of)

    def knowing_everywhere(self, nodes: Mapping[NodeName, Node]) -> "Elsewhere":
        if self.everywhere_of is nodes:
            return self
        return replace(self, everywhere=presence(nodes), everywhere_of=nodes)

    def reporting(self, told: Mapping[Address, str], tell: Tell) -> "Elsewhere":
        """Reports what is new. `told`: what there is to report of each address now."""
        if told == self.told:
            return self
        for address in sorted(told.keys() | self.told.keys(), key=address_order):
            if address not in told:
                tell(Level.INFO, f"{address} is on no node any more that yaim has not put it on")
            elif told[address] != self.told.get(address):
                tell(Level.WARNING, told[address])
        return replace(self, told=frozen_mapping(told))
