"""A cluster for tests, as its keys and values tell it."""

from ipaddress import ip_address, ip_network

from yaim.core.model import (
    Advertisement,
    ClusterView,
    Fence,
    frozen_mapping,
)
from yaim.dcs.etcd.keys import Keys, KeyValue

KEYS = Keys.of("/service/", "yaim")
ADDRESS = ip_address("192.0.2.10")


def pair(value: bytes = b"", lease: int = 5, revision: int = 1) -> KeyValue:
    return KeyValue(value, lease, revision, revision)


def view_of(**values: bytes) -> ClusterView:
    """Returns the view of keys below /service/yaim/, with __ for a slash."""
    return KEYS.view(
        {f"/service/yaim/{key}".encode(): pair(value) for key, value in values.items()}, 7
    )


def pool_with(name: str, value: bytes = b"") -> ClusterView:
    return view_of(**{f"ips/{name}": value})


def advertisement() -> Advertisement:
    return Advertisement(
        is_healthy=True,
        reason="HTTP 200",
        interface="eth0",
        networks=frozen_mapping(
            {"eth0": (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64"))}
        ),
        refused=frozenset({ADDRESS}),
        session="boot:1",
        version="0.1.0",
        down=frozenset({"eth1"}),
        waits_s=40.0,
        takes=False,
        present=frozen_mapping({ADDRESS: "eth0, /24"}),
        fence=Fence(False, "the kernel has no nf_tables"),
    )
