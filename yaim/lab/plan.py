"""What a lab is to have: how many nodes, which addresses, which etcd."""

from dataclasses import dataclass, field
from ipaddress import ip_address

from yaim.core.model import Address
from yaim.lab.etcd import EtcdPlan
from yaim.lab.prober import MOST_A_SECOND

NAMESPACE, CLUSTER = "/service/", "yaim"
FIRST_POOL_ADDRESS = ip_address("192.0.2.11")


def pool_of(count: int) -> tuple[Address, ...]:
    """The first `count` addresses of the lab's pool."""
    return tuple(FIRST_POOL_ADDRESS + number for number in range(count))


@dataclass(frozen=True, slots=True)
class LabPlan:
    nodes: int = 3
    pool: tuple[Address, ...] = pool_of(6)
    others: tuple[Address, ...] = ()
    """Addresses that may join the pool later. They are pinged from the beginning."""
    interval_ms: int = 1000
    ttl_ms: int = 3000
    ping_every_ms: int = 10
    probe_every_ms: int | None = None
    """The time between two probes of an address on the wire; None: twice that between two pings."""
    etcd: EtcdPlan = EtcdPlan()
    settings: dict[str, object] = field(default_factory=dict)
    """Further keys for every node's yaim.yml."""
    helper_settings: dict[str, object] = field(default_factory=dict)
    """Further keys for every node's helper.yml."""

    @property
    def probed_every_s(self) -> float:
        """The time between two probes of an address, as it is when there are too many for that."""
        wanted_ms = self.probe_every_ms or 2 * self.ping_every_ms
        count = len(self.pool) + len(self.others) + self.nodes
        return max(wanted_ms / 1000, count / MOST_A_SECOND)


def even_counts(addresses: int, holders: int, nodes: int) -> list[int]:
    """How many addresses each node has, most first, when so many of them share evenly."""
    share, more = divmod(addresses, holders)
    return [share + 1] * more + [share] * (holders - more) + [0] * (nodes - holders)
