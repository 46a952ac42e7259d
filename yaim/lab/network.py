"""The lab's networks: bridges in its own network namespace, and cables from them to the others."""

from collections.abc import Iterable
from dataclasses import dataclass

from yaim.lab.namespaces import LabError, Namespace, run


@dataclass(frozen=True, slots=True)
class Network:
    bridge: str
    interface: str
    """Of everything on it."""
    mac: str
    """The bridge's own. One without takes the lowest of its ports' and changes it when that node is
    cut off: then the others, too, cannot reach etcd on it until ARP has found out."""

    def link(self, name: str) -> str:
        """The end at the bridge of a cable."""
        return f"{self.bridge}-{name}"

    def make(self) -> None:
        bridge = ("type", "bridge", "mcast_snooping", "0")
        run(("ip", "link", "add", self.bridge, "address", self.mac, *bridge))
        run(("ip", "link", "set", self.bridge, "up"))

    def delete(self) -> None:
        run(("ip", "link", "del", self.bridge))


LAN = Network("yaim0", "eth0", "02:00:00:00:ff:00")
MANAGEMENT = Network("yaim1", "eth1", "02:00:00:00:ff:01")
PEERS = Network("yaim2", "eth2", "02:00:00:00:ff:02")
"""Of etcd's members, among themselves."""


class Cables:
    """From a namespace to networks; their interfaces are up."""

    def __init__(self, namespace: Namespace, name: str, networks: Iterable[Network]) -> None:
        self._name = name
        self._networks = tuple(networks)
        self._cut_from: set[Network] = set()
        for network in self._networks:
            link = ("link", "add", network.link(name), "type", "veth")
            peer = ("peer", "name", network.interface, "netns", namespace.path)
            run(("ip", *link, *peer), pass_fds=(namespace.fd,))
            run(("ip", "link", "set", network.link(name), "master", network.bridge, "up"))
            namespace.run("ip", "link", "set", network.interface, "up")

    @property
    def is_cut(self) -> bool:
        return bool(self._cut_from)

    def cut(self, networks: Iterable[Network] | None = None) -> None:
        """From all, or from these. The carrier stays."""
        for network in self._networks if networks is None else networks:
            run(("ip", "link", "set", network.link(self._name), "nomaster"))
            self._cut_from.add(network)

    def connect(self, networks: Iterable[Network] | None = None) -> None:
        for network in self._networks if networks is None else networks:
            run(("ip", "link", "set", network.link(self._name), "master", network.bridge))
            self._cut_from.discard(network)

    def close(self) -> None:
        """At once: the namespace at their other end goes when its last process is gone."""
        for network in self._networks:
            try:
                run(("ip", "link", "del", network.link(self._name)))
            except LabError:
                pass
