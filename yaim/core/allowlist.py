"""What the helper tells of its allowlist, so far as prefix lengths go (helper/PROTOCOL.md, hello).

The helper refuses what it does not allow. Because the rules are known beforehand, this is reported
as soon as a netmask or the allowlist is changed, and not only when the node has to take over an
address.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from yaim.core.model import Address, Network, Place, address_order

SHOWN = 3
"""How many addresses are named in a report."""


@dataclass(frozen=True, slots=True)
class Rule:
    interface: str
    networks: tuple[Network, ...]
    prefix_lengths: frozenset[int]
    resets: bool = True
    """Whether the helper may end the connections of what the rule allows (reset-connections)."""

    def is_about(self, place: Place, address: Address) -> bool:
        return place.interface == self.interface and any(
            address in network for network in self.networks
        )

    def has_length(self, place: Place, address: Address) -> bool:
        """Whether the rule allows this length. Lengths up to 32 are meant for IPv4 alone."""
        is_for_ipv4 = place.prefix_length <= 32
        return place.prefix_length in self.prefix_lengths and is_for_ipv4 is (address.version == 4)


def forbidden(
    addresses: Iterable[Address], place_of: Callable[[Address], Place], rules: tuple[Rule, ...]
) -> Mapping[Address, Place]:
    """Returns the addresses that are allowed on their interface, but not with the prefix length
    that they are to have there, and the place of each."""
    found = {}
    for address in addresses:
        place = place_of(address)
        about = [rule for rule in rules if rule.is_about(place, address)]
        if about and not any(rule.has_length(place, address) for rule in about):
            found[address] = place
    return found


def complaint(places: Mapping[Address, Place]) -> str:
    """Returns the line for the log."""
    addresses = sorted(places, key=address_order)
    shown = ", ".join(f"{each} on {places[each]}" for each in addresses[:SHOWN])
    more = f" and {len(addresses) - SHOWN} more" if len(addresses) > SHOWN else ""
    return (
        f"the helper's allowlist has another prefix length for {shown}{more}: what is held stays as"
        " it is, the rest is left to other nodes; change prefix-lengths in helper.yml, or netmask,"
        " netmask6 or the pool entry"
    )
