"""The keys, as people and nodes write them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from yaim.etcd.schema import Keys, KeyValue, Reading, write_advertisement

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
        takes=False,
        present=frozen_mapping({ADDRESS: "eth0, /24"}),
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
        (b'{"exclude": ["a",]}', "its value is neither empty nor a JSON object"),
        (b'{"prefix": 33}', "prefix is 33, expected 1 to 32"),
        (b'{"prefix": true}', "prefix is True, expected 1 to 32"),
        (b'{"interface": 1}', "interface is 1, expected a name"),
        (b'{"interface": ""}', "interface is '', expected a name"),
        (b'{"interface": "eth0:1"}', "interface is 'eth0:1', expected a name"),
        (b'{"critical": 1}', "critical is 1, expected an option or a list of them"),
        (
            b'{"zone": 1, "critical": "zone"}',
            "'zone' is critical, and this version does not know it",
        ),
        (b'{"exclude": [1]}', "exclude is [1], expected a node name or a list of them"),
        (b'{"prefer": {}}', "prefer is {}, expected a node name or a list of them"),
    ],
)
def test_an_entry_with_wrong_options_is_wrong_and_says_why(value: bytes, reason: str) -> None:
    view = pool_with("192.0.2.10", value)
    told = f"{reason}; its holder keeps it as it is, and no other node takes it"
    schema = 3 if "does not know it" in reason else 1
    assert view.pool == {ADDRESS: PoolEntry(ADDRESS, fault=reason, schema=schema)}
    assert view.wrong == (WrongEntry("192.0.2.10", told),)


def test_options_that_are_not_known_are_ignored_and_told() -> None:
    """They may be a newer yaim's."""
    view = pool_with(
        "192.0.2.10", b'{"prefer": "c", "zone": 1, "color": 2, "critical": ["prefer"]}'
    )
    entry = PoolEntry(ADDRESS, prefer=frozenset({NodeName("c")}), schema=2)
    assert view.pool == {ADDRESS: entry}
    told = "unknown options 'color', 'zone': ignored; expected interface, prefix, exclude, prefer"
    assert view.wrong == (WrongEntry("192.0.2.10", told),)


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


@pytest.mark.parametrize("what", ["placement", "schema"])
def test_an_older_node_advertises_no_version_and_has_the_first(what: str) -> None:
    told = json.loads(write_advertisement(replace(advertisement(), placement=7, schema=8)))
    read = node_of(json.dumps(told).encode())
    assert (read.placement, read.schema) == (7, 8)
    del told[what]
    assert getattr(node_of(json.dumps(told).encode()), what) == 1


@pytest.mark.parametrize("version", ["0", "-1", "1.5", "true", '"2"', "null", "[]"])
def test_a_version_that_is_none_makes_an_advertisement_unreadable(version: str) -> None:
    told = write_advertisement(advertisement()).replace(
        b'"placement": 1', f'"placement": {version}'.encode()
    )
    assert node_of(told).reason == "its advertisement cannot be read"


def node_of(told: bytes) -> Advertisement:
    return view_of(**{"nodes/db1": told}).nodes[NodeName("db1")].advertisement


NAMES = (
    *("ips/192.0.2.10", "ips/192.0.2.10/marked", "ips/192.0.2.11", "ips/192.0.2.11/marked"),
    *("ips/banana", "ips/192.0.2.10/other", "nodes/db1", "nodes/db2", "control/pause"),
)
VALUES = (b"", b"db1", b"db2", b'{"prefix": 24}', b"{", write_advertisement(advertisement()))
CHANGES = st.lists(
    st.tuples(st.sampled_from(NAMES), st.none() | st.sampled_from(VALUES)), max_size=30
)


@given(CHANGES)
def test_a_cluster_read_key_by_key_is_the_one_that_is_read_at_once(
    changes: list[tuple[str, bytes | None]],
) -> None:
    pairs: dict[bytes, KeyValue] = {}
    reading = Reading(KEYS)
    for revision, (name, value) in enumerate(changes, 1):
        key = f"/service/yaim/{name}".encode()
        if value is None:
            pairs.pop(key, None)
            reading.delete(key)
        else:
            pairs[key] = KeyValue(value, revision % 3, revision, revision)
            reading.put(key, pairs[key])
        assert reading.view(revision) == KEYS.view(pairs, revision)


@given(CHANGES, CHANGES)
def test_a_full_read_replaces_whatever_was_read_before(
    before: list[tuple[str, bytes | None]], after: list[tuple[str, bytes | None]]
) -> None:
    def pairs_of(changes: list[tuple[str, bytes | None]]) -> Mapping[bytes, KeyValue]:
        return {
            f"/service/yaim/{name}".encode(): pair(value)
            for name, value in changes
            if value is not None
        }

    first, second = pairs_of(before), pairs_of(after)
    reading = Reading(KEYS)
    assert reading.replace(first) == bool(first)
    assert reading.replace(second) == (first != second)
    assert reading.view(9) == KEYS.view(second, 9)


def test_what_has_not_changed_is_the_same_object_in_the_next_view() -> None:
    """So whoever compares two views of a large cluster is done at once."""
    reading = Reading(KEYS)
    told = write_advertisement(advertisement())
    pairs = {
        KEYS.pool_entry(ADDRESS): pair(),
        KEYS.mark(ADDRESS): pair(b"db1"),
        KEYS.node(NodeName("db1")): pair(told),
        KEYS.node(NodeName("db2")): pair(told),
    }
    reading.replace(pairs)
    before = reading.view(1)
    reading.replace(dict(pairs))
    again = reading.view(2)
    assert again.pool is before.pool
    assert again.nodes is before.nodes
    assert again.marks is before.marks
    reading.put(KEYS.node(NodeName("db2")), pair(told, revision=3))
    after = reading.view(3)
    assert after.pool is before.pool and after.marks is before.marks
    assert after.nodes[NodeName("db1")] is before.nodes[NodeName("db1")]
    assert after.nodes[NodeName("db2")].revision == 3
