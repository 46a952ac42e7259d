"""What stands in a store, as people and nodes write it."""

import json
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.dcs.views import ADDRESS, advertisement, pool_with, view_of
from yaim.core.bounds import (
    MOST_ADDRESSES,
    MOST_FENCE,
    MOST_INTERFACES,
    MOST_NETWORKS,
    MOST_WHY,
    SOMEWHERE,
    bounded,
)
from yaim.core.model import (
    Advertisement,
    Fence,
    NodeName,
    PoolEntry,
    WrongEntry,
)
from yaim.dcs.records import MAX_VALUE_BYTES, write_advertisement


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


@pytest.mark.parametrize("fence", [Fence(True), Fence(False, "why"), None])
def test_what_a_node_tells_of_its_fence_is_read_as_it_was_written(fence: Fence | None) -> None:
    written = write_advertisement(replace(advertisement(), fence=fence))
    assert node_of(written) == replace(advertisement(), fence=fence)
    assert ("fence" in json.loads(written)) == (fence is not None)


@pytest.mark.parametrize(
    "told",
    [
        *(None, True, 1, "none", [], {}, {"in_force": True}, {"in_force": 1, "reason": ""}),
        {"in_force": False, "reason": None},
    ],
)
def test_what_says_nothing_of_a_fence_is_as_good_as_not_told(told: object) -> None:
    """A newer yaim may tell it in another form: the node is as healthy as it says."""
    changed = json.loads(write_advertisement(advertisement())) | {"fence": told}
    assert node_of(json.dumps(changed).encode()) == replace(advertisement(), fence=None)


@pytest.mark.parametrize("why", ["", "the kernel cannot"])
def test_why_connections_stay_is_read_as_it_was_written(why: str) -> None:
    told = replace(advertisement(), connections_stay=why)
    written = write_advertisement(told)
    assert node_of(written) == told
    assert ("connections_stay" in json.loads(written)) == bool(why)
    long = write_advertisement(replace(told, connections_stay="x" * 100_000))
    assert node_of(long).connections_stay == "x" * MOST_WHY


def test_of_a_long_reason_why_there_is_no_fence_the_beginning_is_read() -> None:
    told = write_advertisement(replace(advertisement(), fence=Fence(False, "x" * 100_000)))
    assert node_of(told).fence == Fence(False, "x" * MOST_FENCE)


def node_of(told: bytes) -> Advertisement:
    return view_of(**{"nodes/db1": told}).nodes[NodeName("db1")].advertisement


def test_a_value_that_is_too_long_is_not_read() -> None:
    padded = b" " * MAX_VALUE_BYTES + b"{}"
    (wrong,) = pool_with("192.0.2.10", padded).wrong
    assert f"has {len(padded)} bytes, more than {MAX_VALUE_BYTES}" in wrong.reason
    told = b" " * MAX_VALUE_BYTES + write_advertisement(advertisement())
    (node,) = view_of(**{"nodes/db9": told}).nodes.values()
    assert node.advertisement.reason == "its advertisement cannot be read"


def test_of_lists_that_are_longer_than_a_node_writes_them_the_beginning_is_read() -> None:
    """Red team: 37,405 networks in each of 63 advertisements cost 11.9 s and 961 MB."""
    many = [str(ip_address("10.0.0.0") + number) for number in range(9000)]
    told = json.loads(write_advertisement(advertisement())) | {
        "networks": {f"eth{number}": many[:10] for number in range(1000)},
        "refused": many,
        "present": dict.fromkeys(many[:4200], "x" * 101),
        "down": many[:400],
        "missing": many[:400],
        "reason": "x" * 9000,
        "interface": "x" * 9000,
        "session": "x" * 9000,
        "version": "x" * 9000,
    }
    read = pool_node(json.dumps(told).encode())
    assert len(read.refused) == len(read.present) == MOST_ADDRESSES
    assert sum(map(len, read.networks.values())) == MOST_NETWORKS
    assert len(read.networks) == len(read.down) == len(read.missing) == MOST_INTERFACES
    assert list(map(len, (read.reason, read.interface, read.version))) == [1000, 127, 100]
    assert set(read.present.values()) == {SOMEWHERE}
    again = bounded(read)
    assert again == read and len(write_advertisement(again)) < MAX_VALUE_BYTES


@pytest.mark.parametrize(
    "change",
    [
        {"networks": {"eth0": [1]}},
        {"networks": {"eth0": ["fe80::1%" + "x" * 9000]}},
        {"refused": [1]},
        {"refused": ["fe80::1%" + "x" * 9000]},
    ],
)
def test_addresses_and_networks_are_text_and_short(change: dict[str, object]) -> None:
    told = json.loads(write_advertisement(advertisement())) | change
    assert pool_node(json.dumps(told).encode()).reason == "its advertisement cannot be read"


def pool_node(value: bytes) -> Advertisement:
    (node,) = view_of(**{"nodes/db9": value}).nodes.values()
    return node.advertisement
