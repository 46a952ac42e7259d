"""The keys, as people and nodes write them."""

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from yaim.core.model import (
    Advertisement,
    ClusterView,
    LeaseId,
    Mark,
    Node,
    NodeName,
    PoolEntry,
    Revision,
    WrongEntry,
    frozen_mapping,
)
from yaim.etcd.schema import Keys, KeyValue, write_advertisement

KEYS = Keys.of("/service/", "yaim")
ADDRESS = ip_address("192.0.2.10")


def pair(value: bytes = b"", lease: int = 0, revision: int = 1) -> KeyValue:
    return KeyValue(value, lease, revision, revision)


def view_of(**values: bytes) -> ClusterView:
    """Of keys below /service/yaim/, with __ for a slash."""
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
    )


@pytest.mark.parametrize(
    ("namespace", "cluster"),
    [("/service/", "yaim"), ("service", "yaim"), ("/service", "/yaim/"), ("//service//", "yaim")],
)
def test_slashes_in_namespace_and_cluster_name_are_normalised(namespace: str, cluster: str) -> None:
    assert Keys.of(namespace, cluster).prefix == "/service/yaim/"


def test_the_namespace_may_be_empty() -> None:
    assert Keys.of("/", "yaim").prefix == "/yaim/"


def test_the_keys_are_those_of_the_documentation() -> None:
    assert KEYS.pool_entry(ADDRESS) == b"/service/yaim/ips/192.0.2.10"
    assert KEYS.mark(ADDRESS) == b"/service/yaim/ips/192.0.2.10/marked"
    assert KEYS.node(NodeName("db1")) == b"/service/yaim/nodes/db1"
    assert KEYS.all() == (b"/service/yaim/", b"/service/yaim0")


def test_a_whole_cluster_is_read() -> None:
    told = write_advertisement(advertisement())
    view = KEYS.view(
        {
            b"/service/yaim/ips/192.0.2.10": pair(),
            b"/service/yaim/ips/192.0.2.10/marked": KeyValue(b"db1", 5, 3, 4),
            b"/service/yaim/ips/2001:db8::10": pair(b"  \n"),
            b"/service/yaim/nodes/db1": KeyValue(told, 5, 2, 6),
            b"/service/yaim/control/pause": pair(b"yes"),
        },
        9,
    )
    v6 = ip_address("2001:db8::10")
    name = NodeName("db1")
    assert view == ClusterView(
        Revision(9),
        frozen_mapping({ADDRESS: PoolEntry(ADDRESS), v6: PoolEntry(v6)}),
        frozen_mapping({name: Node(name, advertisement(), LeaseId(5), Revision(6))}),
        frozen_mapping({ADDRESS: Mark(ADDRESS, name, LeaseId(5), Revision(3))}),
    )


def test_pool_options_are_read() -> None:
    options = b'{"interface": "eth1", "prefix": 24, "exclude": ["a", "b"], "prefer": "c"}'
    assert pool_with("192.0.2.10", options).pool == {
        ADDRESS: PoolEntry(
            ADDRESS,
            interface="eth1",
            prefix_length=24,
            exclude=frozenset({NodeName("a"), NodeName("b")}),
            prefer=frozenset({NodeName("c")}),
        )
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("banana", "'banana' is not an IPv4 or IPv6 address"),
        ("192.0.2.256", "'192.0.2.256' is not an IPv4 or IPv6 address"),
        ("192.0.2.010", "'192.0.2.010' is not an IPv4 or IPv6 address"),
        ("192.0.2.10/24", "expected ips/<address> or ips/<address>/marked"),
        (
            "2001:DB8::10",
            "'2001:DB8::10' is not written as '2001:db8::10', its canonical form",
        ),
        (
            "2001:db8:0::10",
            "'2001:db8:0::10' is not written as '2001:db8::10', its canonical form",
        ),
        (
            "::ffff:192.0.2.10",
            "'::ffff:192.0.2.10': an address with a scope, or IPv4 written as IPv6",
        ),
        ("fe80::1%eth0", "'fe80::1%eth0': an address with a scope, or IPv4 written as IPv6"),
        ("224.0.0.1", "224.0.0.1 is not the address of a host"),
        ("0.0.0.0", "0.0.0.0 is not the address of a host"),
        ("255.255.255.255", "255.255.255.255 is not the address of a host"),
        ("ff02::1", "ff02::1 is not the address of a host"),
        ("", "'' is not an IPv4 or IPv6 address"),
    ],
)
def test_an_entry_that_is_no_address_is_wrong_and_says_why(name: str, reason: str) -> None:
    assert pool_with(name) == ClusterView(Revision(7), wrong=(WrongEntry(name, reason),))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"yes", "its value is neither empty nor a JSON object"),
        (b"[]", "its value is neither empty nor a JSON object"),
        (b"\xff\xfe", "its value is neither empty nor a JSON object"),
        (b"[" * 5000, "its value is neither empty nor a JSON object"),
        (b'{"color": 1}', "unknown option 'color': expected interface, prefix, exclude, prefer"),
        (b'{"prefix": 33}', "prefix is 33, expected 1 to 32"),
        (b'{"prefix": true}', "prefix is True, expected 1 to 32"),
        (b'{"interface": 1}', "interface is 1, expected a name"),
        (b'{"exclude": [1]}', "exclude is [1], expected a node name or a list of them"),
        (b'{"prefer": {}}', "prefer is {}, expected a node name or a list of them"),
    ],
)
def test_an_entry_with_wrong_options_is_wrong_and_says_why(value: bytes, reason: str) -> None:
    assert pool_with("192.0.2.10", value).wrong == (WrongEntry("192.0.2.10", reason),)


@pytest.mark.parametrize(
    "value", [b"healthy", b"", b"{}", b"[1]", b'{"healthy": true}', b"\xff", b"[" * 5000]
)
def test_an_advertisement_that_cannot_be_read_is_that_of_an_unhealthy_node(value: bytes) -> None:
    """The Go original writes `healthy`."""
    (node,) = view_of(**{"nodes/db9": value}).nodes.values()
    assert not node.advertisement.is_healthy
    assert node.advertisement.reason == "its advertisement cannot be read"
    assert not node.can_hold(PoolEntry(ADDRESS))


def test_further_fields_of_an_advertisement_do_not_matter() -> None:
    told = write_advertisement(advertisement()).replace(b'{"healthy"', b'{"weight": 2, "healthy"')
    (node,) = view_of(**{"nodes/db1": told}).nodes.values()
    assert node.advertisement == advertisement()


def test_a_node_whose_advertisement_does_not_tell_of_a_wait_does_not_wait() -> None:
    told = json.loads(write_advertisement(advertisement()))
    del told["waits_s"]
    (node,) = view_of(**{"nodes/db1": json.dumps(told).encode()}).nodes.values()
    assert node.advertisement == replace(advertisement(), waits_s=0.0)


@pytest.mark.parametrize("wait", ["NaN", "Infinity", "-1", '"10"', "null", "1" + 400 * "0"])
def test_a_wait_that_is_no_time_makes_an_advertisement_that_cannot_be_read(wait: str) -> None:
    told = write_advertisement(advertisement()).replace(b"40.0", wait.encode())
    (node,) = view_of(**{"nodes/db1": told}).nodes.values()
    assert node.advertisement.reason == "its advertisement cannot be read"
