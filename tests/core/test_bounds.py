"""What a node tells of itself has an end, and is read by all as it was written."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from yaim.core.bounds import (
    MOST_ADDRESSES,
    MOST_INTERFACES,
    MOST_NETWORKS,
    MOST_WHERE,
    SOMEWHERE,
    bounded,
    cut,
)
from yaim.core.elsewhere import is_told_by, where
from yaim.core.model import Advertisement, Place, frozen_mapping
from yaim.dcs.etcd.keys import Keys, KeyValue
from yaim.dcs.records import MAX_VALUE_BYTES, write_advertisement

KEYS = Keys.of("/service/", "yaim")
MANY = [ip_address("2001:db8:1111:2222:3333:4444:5555:0") + number for number in range(9000)]


def usual() -> Advertisement:
    return Advertisement(
        is_healthy=True,
        reason="HTTP 200",
        interface="eth0",
        networks=frozen_mapping({"eth0": (ip_network("192.0.2.0/24"),)}),
        refused=frozenset(MANY[:2000]),
        session="boot:1",
        version="1",
        down=frozenset({"eth1"}),
        present=frozen_mapping(dict.fromkeys(MANY[:2064], "a-long-name-000, /128")),
    )


def longest(character: str) -> Advertisement:
    """More of everything than anybody has; names, as long as may be, of this character."""
    names = [f"{character * 20}{number:04}" for number in range(600)]
    places = tuple(Place(character * 15, 128) for _ in range(9))
    return replace(
        usual(),
        is_healthy=False,
        reason=character * 9000,
        interface=character * 15,
        networks=frozen_mapping(
            {name: tuple(ip_network((int(MANY[0]) + n, 128)) for n in range(9)) for name in names}
        ),
        refused=frozenset(MANY),
        session=character * 9000,
        version=character * 9000,
        down=frozenset(names),
        missing=frozenset(names),
        waits_s=1 / 3,
        present=frozen_mapping(dict.fromkeys(MANY, where(places))),
        placement=2**62,
        schema=2**62,
    )


def as_read(told: Advertisement) -> Advertisement:
    (node,) = KEYS.view(
        {b"/service/yaim/nodes/n1": KeyValue(write_advertisement(told), 5, 1, 1)}, 1
    ).nodes.values()
    return node.advertisement


@pytest.mark.parametrize("character", ["x", '"', "\x01", "é", "\U0001f600", "\udcff"])
def test_the_longest_advertisement_is_read_as_it_is_written(character: str) -> None:
    """Red team: one of 270 kB could be read by nobody, and was written again for ever."""
    told = bounded(longest(character))
    assert len(write_advertisement(told)) <= MAX_VALUE_BYTES
    assert as_read(told) == told
    assert len(told.refused) == len(told.present) == MOST_ADDRESSES
    assert max(told.refused) == max(told.present) == MANY[MOST_ADDRESSES - 1]
    assert len(told.networks) <= MOST_INTERFACES
    assert sum(map(len, told.networks.values())) <= MOST_NETWORKS
    assert {"refused", "present", "networks"} <= cut(longest(character)).keys()


def test_what_a_node_of_a_supported_cluster_has_to_tell_is_told_whole() -> None:
    assert bounded(usual()) == usual()
    assert as_read(usual()) == usual()
    assert not cut(usual())


def test_of_too_many_networks_those_of_the_nodes_own_interface_are_told() -> None:
    many = {f"a{number}": (ip_network("10.0.0.0/8"),) * 10 for number in range(300)}
    told = bounded(replace(usual(), networks=frozen_mapping({**many, **usual().networks})))
    assert told.networks["eth0"] == usual().networks["eth0"]


def test_of_an_address_in_too_many_places_any_of_them_may_have_been_told() -> None:
    places = tuple(Place(f"interface{number:06}", 128) for number in range(20))
    assert where(places) == SOMEWHERE
    assert all(is_told_by(SOMEWHERE, place) for place in places)
    assert len(where(places[:3])) <= MOST_WHERE
    assert all(is_told_by(where(places[:3]), place) for place in places[:3])
