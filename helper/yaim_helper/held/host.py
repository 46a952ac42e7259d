"""The addresses and interfaces of this host, read once for requests that are done together.

Reads the kernel when it is first asked, keeps what it has read, and removes an address when it is
told to. Knows nothing of what the helper holds, and decides nothing.
"""

from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import chain

from yaim_helper.kernel.addresses import Interface, Kernel
from yaim_helper.kernel.netlink import Found
from yaim_helper.policy.rules import edge
from yaim_helper.protocol import Address


class Host:
    """What is on the host. What was read stays true as long as all changes go through this."""

    def __init__(
        self,
        kernel: Kernel,
        addresses: Collection[Address],
        is_helpers: Callable[[Found], bool] = lambda _: False,
    ) -> None:
        self._kernel = kernel
        self._is_helpers = is_helpers
        self._wanted: Collection[Address] | None = addresses
        """The addresses that `places` may be asked for; None: all."""
        self._places: dict[Address, list[Found]] | None = None
        self._own: list[tuple[int, int, IPv4Network | IPv6Network]] | None = None
        """Index of the interface, prefix length and network of each address that is not the
        helper's."""
        self._interfaces: dict[str, Interface] = {}
        self._promotes: dict[str, bool] = {}

    def places(self, address: Address) -> list[Found]:
        """Returns where on the host the address is. Raises KernelError."""
        return self._all().get(address, [])

    def all_places(self) -> Iterator[Found]:
        """Returns the places of all addresses of the host. Raises KernelError."""
        if self._wanted is not None:
            self._wanted = None
            self.has_changed()
        return chain.from_iterable(self._all().values())

    def _all(self) -> dict[Address, list[Found]]:
        if self._places is None:
            places: dict[Address, list[Found]] = {}
            for each in self._kernel.addresses(self._wanted):
                places.setdefault(each.address, []).append(each)
            self._places = places
        return self._places

    def has_put(self, place: Found) -> None:
        """Notes what was put there by another way than this."""
        self._all().setdefault(place.address, []).append(place)

    def delete(self, index: int, address: Address, prefix: int) -> bool:
        """Removes an address, and returns whether it was there. Raises KernelError."""
        was_there = self._kernel.delete(index, address, prefix)
        if self._places is not None:
            self._places[address] = [
                each
                for each in self.places(address)
                if (each.index, each.prefix) != (index, prefix)
            ]
        return was_there

    def has_changed(self) -> None:
        """The addresses are read anew when they are next asked for."""
        self._places = None
        self._own = None

    def objection(self, address: Address, index: int) -> str | None:
        """Returns why the address cannot be used in a network that the host has on the interface:
        it is the network's or broadcast address there, and the kernel sends what is for a broadcast
        address to all hosts. None: it can. Raises KernelError."""
        if self._own is None:
            self._own = [
                (each.index, each.prefix, ip_network((each.address, each.prefix), strict=False))
                for each in chain.from_iterable(self._all().values())
                if not self._is_helpers(each)
            ]
        return next(
            (
                f"{address} is the {what} of {network}, which the host has there"
                for its_index, prefix, network in self._own
                if its_index == index and address in network and (what := edge(address, prefix))
            ),
            None,
        )

    def interface(self, name: str) -> Interface:
        """Returns the interface of that name. Raises KernelError if there is none."""
        if name not in self._interfaces:
            self._interfaces[name] = self._kernel.interface(name)
        return self._interfaces[name]

    def would_take_others_along(self, address: Address, prefix: int, interface: Interface) -> bool:
        """Whether the kernel would remove all other addresses of its network together with this
        one. It does so with the IPv4 address that came first, the primary. Raises KernelError."""
        if address.version == 6 or prefix >= 32 or self._promotes_secondaries(interface.name):
            return False
        network = ip_network((address, prefix), strict=False)
        return not any(
            (each.index, each.prefix) == (interface.index, prefix)
            and each.address in network
            and each.address != address
            for each in self.all_places()
        )

    def _promotes_secondaries(self, name: str) -> bool:
        if name not in self._promotes:
            self._promotes[name] = self._kernel.promotes_secondaries(name)
        return self._promotes[name]


def primary(address: Address, prefix: int, interface: str) -> str:
    """Returns why an address is refused whose removal would remove others."""
    return (
        f"{address}/{prefix} would be the first of its network on {interface}, and removing it"
        " would remove all others: set the sysctl"
        f" net.ipv4.conf.{interface}.promote_secondaries to 1"
    )
