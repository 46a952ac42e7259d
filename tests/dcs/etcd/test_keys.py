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
    Control,
    LeaseId,
    Mark,
    Member,
    Move,
    Node,
    NodeName,
    Order,
    Pin,
    PoolEntry,
    Revision,
    Weight,
    WrongEntry,
    frozen_mapping,
)
from yaim.dcs.etcd.keys import MAX_BYTES, MAX_KEYS, Keys, KeyValue, Reading
from yaim.dcs.orders import write_member, write_order, write_pin, write_weight
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
    assert KEYS.guard() == b"/service/yaim/control/guard"
    assert KEYS.control("pause") == b"/service/yaim/control/pause"
    assert KEYS.control("drain", NodeName("db1")) == b"/service/yaim/control/drain/db1"
    assert KEYS.move(ADDRESS) == b"/service/yaim/control/move/192.0.2.10"
    assert KEYS.member(NodeName("db1")) == b"/service/yaim/control/member/db1"
    assert KEYS.event(255, "3") == b"/service/yaim/timeline/ff/3"
    assert KEYS.lost(NodeName("db1"), 255) == b"/service/yaim/timeline/lost/db1/ff"
    assert KEYS.all() == (b"/service/yaim/", b"/service/yaim0")


def test_the_watch_has_all_that_is_read_and_the_history_not() -> None:
    start, end = KEYS.watched()
    assert all(start <= each[0] < each[1] <= end for each in KEYS.ranges())
    assert not start <= KEYS.event(1, "1") < end


def test_a_whole_cluster_is_read() -> None:
    told = write_advertisement(advertisement())
    view = KEYS.view(
        {
            b"/service/yaim/ips/192.0.2.10": pair(),
            b"/service/yaim/ips/192.0.2.10/marked": KeyValue(b"db1", 5, 4, 4),
            b"/service/yaim/ips/2001:db8::10": pair(b"  \n"),
            b"/service/yaim/nodes/db1": KeyValue(told, 5, 2, 6),
            b"/service/yaim/elsewhere/pause": pair(b"yes"),
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
        ("192.0.2.10/marks", "expected ips/<address> or ips/<address>/marked"),
        (
            "192.0.2.10/24",
            'a prefix length is no part of the key: put ips/192.0.2.10 with {"prefix": 24}'
            " (yaim pool add 192.0.2.10 --prefix 24)",
        ),
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
    *("ips/banana", "ips/192.0.2.10/other", "nodes/db1", "nodes/db2", "ipz/pause"),
    *("control/pause", "control/guard", "control/drain/db1", "control/drain/", "control/pin"),
    *("control/pin/192.0.2.10", "control/weight/db1", "control/other", "timeline/a/1"),
)
VALUES = (
    *(b"", b"db1", b"db2", b'{"prefix": 24}', b"{", write_advertisement(advertisement())),
    b'{"version": 1, "node": "db1", "weight": 3}',
)
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


@pytest.mark.parametrize(
    ("value", "version", "holder"),
    [
        *((b"db2 2", 2, "db2"), (b"db2 7", 7, "db2"), (b"db2 2", 3, None), (b"db2", 2, None)),
        *((b"db2 02", 2, None), (b"db2  2", 2, None), (b"db2 2 ", 2, None), (b"db2\t2", 2, None)),
    ],
)
def test_a_mark_that_says_its_keys_version_was_handed_over_and_any_other_was_put_over(
    value: bytes, version: int, holder: str | None
) -> None:
    view = KEYS.view({KEYS.mark(ADDRESS): KeyValue(value, 5, 3, 4, version)}, 9)
    if holder is not None:
        mark = Mark(ADDRESS, NodeName(holder), LeaseId(5), Revision(4), version=version)
        assert (view.marks, view.stray_marks) == ({ADDRESS: mark}, {})
    else:
        over = Mark(ADDRESS, NodeName(value.decode()), LeaseId(5), Revision(4), True)
        assert (view.marks, view.stray_marks) == ({}, {ADDRESS: over})


def test_a_mark_that_was_handed_over_and_lost_its_lease_is_no_nodes() -> None:
    view = KEYS.view({KEYS.mark(ADDRESS): KeyValue(b"db2 2", 0, 3, 4, 2)}, 9)
    assert not view.marks
    assert view.stray_marks == {
        ADDRESS: Mark(ADDRESS, NodeName("db2"), LeaseId(0), Revision(4), version=2)
    }


def test_a_mark_that_is_the_first_of_its_key_is_read_as_it_is() -> None:
    """No node has a space in its name: so this is nobody's."""
    view = KEYS.view({KEYS.mark(ADDRESS): KeyValue(b"db2 1", 5, 4, 4, 1)}, 9)
    assert view.marks[ADDRESS].holder == "db2 1"


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


# --- what operators have asked for ----------------------------------------------------------------


DB1 = NodeName("db1")


def test_all_that_operators_ask_for_is_read() -> None:
    order = Order("root@db1", "a disk", "2026-12-01T09:30:00Z", "2026-12-01T10:30:00Z", Revision(1))
    member = Member("2026-11-01T00:00:00Z", True, "2026-12-01T09:30:00Z", "0.9")
    view = KEYS.view(
        {
            KEYS.guard(): KeyValue(b"whatever", 0, 2, 8),
            KEYS.control("pause"): pair(write_order(order)),
            KEYS.control("drain", DB1): pair(write_order(order)),
            KEYS.control("pin", ADDRESS): pair(write_pin(Pin(DB1, order))),
            KEYS.control("move", ADDRESS): pair(write_pin(Move(DB1, order))),
            KEYS.control("weight", DB1): pair(write_weight(Weight(3, order))),
            KEYS.member(DB1): pair(write_member(member), lease=0),
        },
        9,
    )
    assert view.control == Control(
        revision=Revision(8),
        drains=frozen_mapping({DB1: order}),
        pause=order,
        pins=frozen_mapping({ADDRESS: Pin(DB1, order)}),
        moves=frozen_mapping({ADDRESS: Move(DB1, order)}),
        weights=frozen_mapping({DB1: Weight(3, order)}),
        members=frozen_mapping({DB1: member}),
    )
    assert not view.wrong


@pytest.mark.parametrize("value", [b"", b"yes", b"[" * 5000, b'{"version": 9}', b"x" * 1_000_000])
def test_a_drain_and_a_pause_count_whatever_their_values_say(value: bytes) -> None:
    control = KEYS.view(
        {KEYS.control("pause"): pair(value), KEYS.control("drain", DB1): pair(value)}, 9
    ).control
    order = Order(revision=Revision(1))
    assert control == Control(drains=frozen_mapping({DB1: order}), pause=order)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("pin/192.0.2.10", b"", "its value is no JSON object"),
        ("pin/192.0.2.10", b'{"version": 2, "node": "a"}', "its version is 2, this yaim knows 1"),
        ("pin/192.0.2.10", b'{"version": 1}', "its node is None, expected a name"),
        (
            "move/192.0.2.10",
            b'{"version": 1, "node": "a b"}',
            "'a b' is no name that a node can have",
        ),
        ("pin/192.0.2.010", b"", "'192.0.2.010' is not an IPv4 or IPv6 address"),
        ("weight/db1", b'{"version": 1, "weight": 0}', "its weight is 0, expected 1 to 100"),
        ("weight/db1", b'{"version": 1, "weight": 101}', "its weight is 101, expected 1 to 100"),
        ("weight/db1", b'{"version": 1, "weight": true}', "its weight is True, expected 1 to 100"),
        ("weight/db1", b'{"version": 1, "weight": 1.5}', "its weight is 1.5, expected 1 to 100"),
        ("member/db1", b'{"version": 1}', "its stopped is None, expected true or false"),
        ("drain/a b", b"", "'a b' is no name that a node can have"),
        ("drain", b"", "'' is no name that a node can have"),
        (
            "cordon/db1",
            b"",
            "this yaim does not know it;"
            " expected guard, pause, drain/, member/, move/, pin/ or weight/",
        ),
    ],
)
def test_what_operators_ask_for_and_nobody_understands_counts_for_nothing_and_is_told(
    name: str, value: bytes, reason: str
) -> None:
    view = KEYS.view({f"/service/yaim/control/{name}".encode(): pair(value)}, 9)
    assert view.control == Control(wrong=(WrongEntry(f"control/{name}", reason),))


def test_what_is_said_of_a_wrong_key_below_control_is_short() -> None:
    for name, value in (("pin/192.0.2.10", b'{"version": 1, "node": "%b"}'), ("%b", b"")):
        key = f"/service/yaim/control/{name}".encode().replace(b"%b", b"x" * 10_000)
        (wrong,) = KEYS.view({key: pair(value.replace(b"%b", b"x" * 10_000))}, 9).control.wrong
        assert len(wrong.name) < 300 and len(wrong.reason) < 300


def test_what_has_not_changed_below_control_is_the_same_object_in_the_next_view() -> None:
    reading = Reading(KEYS)
    reading.put(KEYS.control("drain", DB1), pair())
    before = reading.view(1)
    reading.put(KEYS.pool_entry(ADDRESS), pair())
    assert reading.view(2).control is before.control
    reading.put(KEYS.guard(), pair(revision=3))
    after = reading.view(3)
    assert after.control.revision == 3 and after.control.drains is before.control.drains
    reading.delete(KEYS.control("drain", DB1))
    assert reading.view(4).control == Control(revision=Revision(3))


def test_when_an_advertisement_was_written_is_read_as_it_was_told() -> None:
    key = KEYS.node(DB1)
    told = write_advertisement(advertisement(), 1764581400.1234)
    for written, at in (
        *((b"1764581400.123", 1764581400.123), (b"1764581400", 1764581400.0)),
        *((each, None) for each in (b"true", b'"now"', b"-1", b"1e300", b"NaN", b"null")),
    ):
        changed = told.replace(b"1764581400.123", written)
        node = KEYS.view({key: pair(changed)}, 1).nodes[DB1]
        assert (node.advertisement, node.written_at) == (advertisement(), at)


def test_keys_that_are_not_yaims_are_not_kept() -> None:
    reading = Reading(KEYS)
    for number in range(2 * MAX_KEYS):
        reading.put(f"/service/yaim/ipz/{number}".encode(), pair())
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
