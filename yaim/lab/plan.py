"""What a lab is to have: how many nodes, which addresses, which etcd."""

from dataclasses import dataclass, field
from ipaddress import ip_address

from yaim.core.model import Address
from yaim.lab.etcd import EtcdPlan

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
    etcd: EtcdPlan = EtcdPlan()
    settings: dict[str, object] = field(default_factory=dict)
    """Further keys for every node's yaim.yml."""


def even_counts(addresses: int, holders: int, nodes: int) -> list[int]:
    """How many addresses each node has, most first, when so many of them share evenly."""
    share, more = divmod(addresses, holders)
    return [share + 1] * more + [share] * (holders - more) + [0] * (nodes - holders)
