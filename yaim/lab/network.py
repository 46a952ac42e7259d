"""The lab's networks: bridges in its own network namespace, and cables from them to the others."""

from collections.abc import Iterable
from dataclasses import dataclass

from yaim.lab import links
from yaim.lab.namespaces import LabError, Namespace


@dataclass(frozen=True, slots=True)
class Network:
    bridge: str
    interface: str
    """The name of the interface that everything on the network has to it."""
    mac: str
    """The bridge's own MAC address. A bridge without one takes the lowest of its ports' and changes
    it when that node is cut off: then the others, too, cannot reach etcd on it until ARP has found
    out."""

    def link(self, name: str) -> str:
        """The name of a cable's end at the bridge."""
        return f"{self.bridge}-{name}"

    def make(self) -> None:
        links.add_bridge(self.bridge, self.mac)

    def delete(self) -> None:
        links.delete_link(self.bridge)


LAN = Network("yaim0", "eth0", "02:00:00:00:ff:00")
MANAGEMENT = Network("yaim1", "eth1", "02:00:00:00:ff:01")
PEERS = Network("yaim2", "eth2", "02:00:00:00:ff:02")
"""The network of etcd's members among themselves."""


class Cables:
    """Cables from a namespace to networks. Their interfaces are up."""

    def __init__(self, namespace: Namespace, name: str, networks: Iterable[Network]) -> None:
        self._name = name
        self._networks = tuple(networks)
        self._cut_from: set[Network] = set()
        for network in self._networks:
            links.add_cable(network.link(name), network.bridge, network.interface, namespace)

    @property
    def is_cut(self) -> bool:
        return bool(self._cut_from)

    def cut(self, networks: Iterable[Network] | None = None) -> None:
        """Cuts it off from all networks, or from these. The carrier stays."""
        for network in self._networks if networks is None else networks:
            links.set_bridge(network.link(self._name), None)
            self._cut_from.add(network)

    def connect(self, networks: Iterable[Network] | None = None) -> None:
        for network in self._networks if networks is None else networks:
            links.set_bridge(network.link(self._name), network.bridge)
            self._cut_from.discard(network)

    def close(self) -> None:
        """Deletes the cables at once: the namespace at their other end goes when its last process
        is gone."""
        for network in self._networks:
            try:
                links.delete_link(network.link(self._name))
            except LabError:
                pass
