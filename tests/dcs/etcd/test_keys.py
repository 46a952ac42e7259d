"""The keys, as people and nodes write them."""

import json
from collections.abc import Mapping
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dcs.views import ADDRESS, KEYS, advertisement, pair, pool_with
from yaim.core.model import (
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
from yaim.dcs.etcd.keys import MAX_BYTES, MAX_KEYS, Keys, KeyValue, Reading
from yaim.dcs.records import write_advertisement


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
            b"/service/yaim/ips/192.0.2.10/marked": KeyValue(b"db1", 5, 4, 4),
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
        frozen_mapping({ADDRESS: Mark(ADDRESS, name, LeaseId(5), Revision(4))}),
    )


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
    first_ones, second_ones = (
        {key: pair for key, pair in pairs.items() if reading.counts(key)}
        for pairs in (first, second)
    )
    assert reading.replace(first) == bool(first_ones)
    assert reading.replace(second) == (first_ones != second_ones)
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


# --- what others put there -----------------------------------------------------------------------


def test_what_has_no_lease_is_no_nodes() -> None:
    told = write_advertisement(advertisement())
    mark_key = KEYS.mark(ADDRESS)
    view = KEYS.view(
        {
            KEYS.pool_entry(ADDRESS): pair(lease=0),
            mark_key: KeyValue(b"db1", 0, 4, 4),
            KEYS.node(NodeName("db1")): KeyValue(told, 0, 2, 6),
        },
        9,
    )
    assert ADDRESS in view.pool
    assert (view.nodes, view.marks) == ({}, {})
    (stray,) = view.stray_nodes.values()
    assert (stray.name, stray.lease, stray.revision) == ("db1", 0, 6)
    assert view.stray_marks == {ADDRESS: Mark(ADDRESS, NodeName("db1"), LeaseId(0), Revision(4))}


@pytest.mark.parametrize("lease", [0, 5, 6])
def test_a_mark_that_was_put_over_another_one_is_no_nodes_whatever_its_lease(lease: int) -> None:
    """Red team: another node took the address at once, which its holder still had."""
    told = write_advertisement(advertisement())
    node_key = KEYS.node(NodeName("db1"))
    put_over = KeyValue(b"db1", lease, 3, 4)
    view = KEYS.view({node_key: pair(told), KEYS.mark(ADDRESS): put_over}, 9)
    assert view.marks == {}
    over = Mark(ADDRESS, NodeName("db1"), LeaseId(lease), Revision(4), is_over_another=True)
    assert view.stray_marks == {ADDRESS: over}


@pytest.mark.parametrize("kind", ["node", "mark"])
def test_what_gets_a_lease_or_loses_it_is_told_once(kind: str) -> None:
    key = KEYS.node(NodeName("db1")) if kind == "node" else KEYS.mark(ADDRESS)
    reading = Reading(KEYS)
    for lease in (5, 0, 5):
        reading.put(key, pair(b"db1", lease))
        view = reading.view(1)
        assert len(view.nodes) + len(view.marks) == (lease == 5)
        assert len(view.stray_nodes) + len(view.stray_marks) == (lease == 0)
    reading.delete(key)
    assert not reading.view(1).nodes and not reading.view(1).marks


@pytest.mark.parametrize("name", ["a b", "a\nb", "x" * 201, "", "a/b", "x" * 100_000])
def test_an_advertisement_under_a_name_that_no_node_can_have_is_no_nodes(name: str) -> None:
    view = KEYS.view({f"/service/yaim/nodes/{name}".encode(): pair(b"{}")}, 1)
    assert not view.nodes
    assert len(view.stray_nodes) == 1


def test_a_holder_with_a_name_that_is_too_long_is_nobody() -> None:
    holder = KEYS.view({KEYS.mark(ADDRESS): pair(b"x" * 1_000_000)}, 1).marks[ADDRESS].holder
    assert len(holder) < 100


def test_what_is_said_of_a_wrong_entry_is_short() -> None:
    long = b"x" * 100_000
    options = (
        b'{"interface": "%b"}' % long,
        b'{"exclude": [%b1]}' % (b'"x", ' * 20_000),
        b'{"critical": "%b"}' % long,
        b'{"%b": 1}' % long,
        b"{%b}" % b", ".join(b'"x%d": 1' % number for number in range(10_000)),
    )
    for value in options:
        (wrong,) = pool_with("192.0.2.10", value).wrong
        assert len(wrong.reason) < 1000, value[:20]
    (wrong,) = pool_with("x" * 100_000).wrong
    assert len(wrong.name) < 300 and len(wrong.reason) < 300


def test_what_is_no_nodes_is_read_only_beside_a_node_to_which_it_is_one() -> None:
    """Red team: 63 of these cost 11.9 s and 961 MB in each coordinator, for nothing."""
    told = write_advertisement(advertisement())
    older = json.loads(write_advertisement(advertisement())) | {"placement": 2}
    reading = Reading(KEYS)
    stray, name = KEYS.node(NodeName("db1")), NodeName("db1")
    reading.put(stray, pair(told, lease=0))
    assert reading.view(1).stray_nodes[name].advertisement.session == ""
    reading.put(KEYS.node(NodeName("db2")), pair(json.dumps(older).encode()))
    before = reading.view(2)
    assert before.stray_nodes[name].advertisement == advertisement()
    assert reading.view(3).stray_nodes is before.stray_nodes
    reading.put(b"/service/yaim/nodes/n\xff", pair(told))
    after = reading.view(4)
    assert after.stray_nodes[NodeName("n\udcff")].advertisement == advertisement()
    assert after.stray_nodes[name] is before.stray_nodes[name]
    reading.delete(KEYS.node(NodeName("db2")))
    assert reading.view(5).stray_nodes[name].advertisement.session == ""


def test_keys_that_are_not_yaims_are_not_kept() -> None:
    reading = Reading(KEYS)
    for number in range(2 * MAX_KEYS):
        reading.put(f"/service/yaim/control/{number}".encode(), pair())
    assert not reading.is_too_much
    for number in range(MAX_KEYS + 1):
        reading.put(f"/service/yaim/ips/x{number}".encode(), pair())
    assert reading.is_too_much
    reading.delete(b"/service/yaim/ips/x1")
    assert not reading.is_too_much
    reading.put(b"/service/yaim/ips/x2", pair(b"x" * MAX_BYTES))
    assert reading.is_too_much
    reading.put(b"/service/yaim/ips/x2", pair())
    assert not reading.is_too_much
