"""What holds for all addresses at once is what Node.can_hold says of each."""

from dataclasses import fields
from random import Random

import pytest

from tests.core.clusters import V4, address, address_6, node, random_cluster
from yaim.core.eligibility import Eligibility, each_of
from yaim.core.model import Address, Advertisement, PoolEntry


@pytest.mark.parametrize("seed", range(100))
def test_who_can_hold_an_address_is_the_same_asked_one_by_one_and_at_once(seed: int) -> None:
    seen = random_cluster(Random(seed))
    nodes = list(seen.nodes.values())
    eligibility = Eligibility(nodes)
    for entry in seen.pool.values():
        one_by_one = [number for number, each in enumerate(nodes) if each.can_hold(entry)]
        assert list(each_of(eligibility.able(entry))) == one_by_one


def test_the_ends_of_a_network_are_in_it_and_their_neighbours_are_not() -> None:
    eligibility = Eligibility([node(0, (V4,))])
    within = (V4.network_address, V4.broadcast_address)
    for each in within:
        assert eligibility.able(PoolEntry(each)) == 1
    outside: tuple[Address, ...] = (within[0] - 1, within[1] + 1, address_6(1))
    for other in outside:
        assert eligibility.able(PoolEntry(other)) == 0


def test_networks_that_overlap_allow_what_any_of_them_allows() -> None:
    inner = next(V4.subnets(8))
    eligibility = Eligibility([node(0, (inner,)), node(1, (V4,)), node(2, (inner, V4))])
    assert eligibility.able(PoolEntry(address(1))) == 0b111
    assert eligibility.able(PoolEntry(inner.broadcast_address + 1)) == 0b110


def test_whatever_an_advertisement_tells_is_looked_at_or_known_to_make_no_difference() -> None:
    """A new field has to be considered in Eligibility, or to be entered here."""
    looked_at = {"is_healthy", "interface", "networks", "refused", "down", "schema"}
    of_no_matter = {
        *("missing", "reason", "session", "version"),
        *("waits_s", "present", "placement", "takes", "fence", "connections_stay"),
        *("capacity", "ttl_s", "is_drained", "control", "problems"),
    }
    assert {field.name for field in fields(Advertisement)} == looked_at | of_no_matter
