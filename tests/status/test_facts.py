"""What `yaim status` makes of a view of the cluster."""

from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address, ip_network
from random import Random
from sys import maxsize

import pytest

from tests.status.clusters import (
    MARKS,
    NO_NODES,
    NODES,
    NOW,
    OF_NOBODY,
    POOL,
    STALE,
    UNHELD,
    WELL,
    expiry,
    made,
    mark,
    node,
    view,
    waiting,
    with_certificates,
)
from yaim.core.model import (
    ClusterView,
    Fence,
    LeaseId,
    Node,
    NodeName,
    PoolEntry,
    Revision,
    frozen_mapping,
)
from yaim.dcs.expiry import Expiry
from yaim.status.facts import (
    AddressStatus,
    ClusterStatus,
    Condition,
    NodeState,
    NodeStatus,
)
from yaim.status.unheld import TAKES_NOTHING


def test_a_healthy_cluster_is_told_in_order() -> None:
    healthy = NodeState.HEALTHY
    assert made(WELL) == ClusterStatus(
        "/service/yaim/",
        NOW,
        Revision(7),
        Condition.HEALTHY,
        (
            AddressStatus("192.0.2.9", "db1"),
            AddressStatus("192.0.2.10", "db2"),
            AddressStatus("2001:db8::1", "db1"),
        ),
        (
            NodeStatus("db1", healthy, "HTTP 200", 2, "1.0", fence=Fence(True)),
            NodeStatus("db2", healthy, "HTTP 200", 1, "1.0", fence=Fence(True)),
        ),
    )


def test_a_mark_of_a_lease_that_its_holder_has_no_more_does_not_count() -> None:
    found = made(STALE)
    unheld = made(UNHELD)
    assert [each.holder for each in found.addresses] == [None, "db2", "db1"]
    assert (found.nodes, found.condition) == (unheld.nodes, unheld.condition)
    assert found.addresses[0].reason.startswith("marked by db1 under lease 63, and db1 is")
    assert [each.address_count for each in found.nodes] == [1, 1]


def test_why_nobody_holds_an_address_is_told_for_each_kind_of_node() -> None:
    address = ip_address("192.0.2.10")
    allowed = replace(
        node("db1").advertisement,
        networks=frozen_mapping({"eth1": (ip_network("192.0.2.0/24"),)}),
        refused=frozenset({ip_address("192.0.2.9")}),
    )
    nodes = {"db1": replace(node("db1"), advertisement=allowed), "db2": node("db2", "", False)}

    def why(pool: PoolEntry, *names: str) -> str:
        seen = view((), tuple(nodes[name] for name in names), ())
        seen = replace(seen, pool=frozen_mapping({pool.address: pool}))
        return made(seen).addresses[0].reason

    entry = PoolEntry(address, interface="eth1")
    assert why(entry) == "there is no node"
    assert why(entry, "db1", "db2") == "db1 may hold it and has not taken it yet"
    assert why(entry, "db2") == "unhealthy: db2"
    assert why(replace(entry, exclude=frozenset({NodeName("db1")})), "db1") == "excluded: db1"
    assert why(PoolEntry(address), "db1") == "not allowed on eth0 by the helper: db1"
    refused = replace(entry, address=ip_address("192.0.2.9"))
    assert why(refused, "db1") == "refused by the helper (its log says why): db1"


def test_a_mark_of_a_node_that_is_not_there_does_not_count() -> None:
    found = made(OF_NOBODY)
    assert [each.holder for each in found.addresses] == [None, "db2", None]


def test_a_mark_of_an_address_that_is_not_in_the_pool_does_not_count() -> None:
    found = made(view(POOL[:1], NODES, MARKS))
    assert found.addresses == (AddressStatus("192.0.2.10", "db2"),)
    assert [(each.name, each.address_count) for each in found.nodes] == [("db1", 0), ("db2", 1)]
    assert found.condition is Condition.HEALTHY


def test_the_condition_is_the_exit_status() -> None:
    assert {each.name: int(each) for each in Condition} == {
        "HEALTHY": 0,
        "DEGRADED": 1,
        "UNREACHABLE": 69,
        "NOT_PERMITTED": 77,
        "NOTHING": 78,
    }


def test_why_nobody_holds_an_address_may_be_that_etcd_is_full() -> None:
    def why(seen: ClusterView, *alarms: str) -> str:
        return made(seen, alarms=alarms).addresses[0].reason

    assert why(NO_NODES, "NOSPACE") == "there is no node; etcd is full: none can join"
    yet = "db1 may hold it and has not taken it yet"
    assert why(UNHELD, "NOSPACE") == f"{yet}; etcd is full, and may not let it"
    assert why(UNHELD, "CORRUPT") == yet


def test_an_address_that_nobody_holds_is_for_a_node_that_does_not_wait() -> None:
    networks = frozen_mapping({"eth0": (ip_network("192.0.2.0/24"),)})
    nodes = tuple(
        replace(each, advertisement=replace(each.advertisement, networks=networks))
        for each in (waiting("db1"), node("db2"))
    )
    (address,) = made(view(POOL[:1], nodes, ())).addresses
    assert address.reason == "db2 may hold it and has not taken it yet"
    (address,) = made(view(POOL[:1], nodes[:1], ())).addresses
    assert address.reason == "db1 may hold it and has not taken it yet"


def test_certificates_that_last_do_not_degrade() -> None:
    found = with_certificates(expiry("etcd-ca-file /ca", "CA", days=7))
    assert found.condition is Condition.HEALTHY


def test_a_certificate_that_ends_within_a_week_or_has_ended_degrades() -> None:
    for left in (timedelta(days=7, seconds=-1), timedelta(seconds=-1)):
        found = with_certificates(Expiry("https://etcd1:2379", "etcd1", NOW + left))
        assert found.condition is Condition.DEGRADED


def test_an_old_ca_beside_one_that_lasts_does_not_degrade() -> None:
    both = expiry("etcd-ca-file /ca", "old", days=-1), expiry("etcd-ca-file /ca", "new", days=99)
    assert with_certificates(*both).condition is Condition.HEALTHY
    assert with_certificates(both[0]).condition is Condition.DEGRADED


def test_an_address_with_a_wrong_entry_is_listed_held_or_not() -> None:
    entry = PoolEntry(ip_address(POOL[0]), fault="prefix is 33, expected 1 to 32")
    seen = replace(WELL, pool=frozen_mapping({entry.address: entry}))
    why = "its entry is wrong: prefix is 33, expected 1 to 32"
    held = made(seen)
    assert held.addresses == (AddressStatus(POOL[0], "db2", why),)
    unheld = made(replace(seen, marks=frozen_mapping({})))
    assert unheld.addresses == (AddressStatus(POOL[0], None, why),)
    assert held.condition is unheld.condition is Condition.DEGRADED


def test_a_mark_that_was_put_over_another_one_is_told_with_what_is_to_be_done() -> None:
    over = replace(mark("192.0.2.9", "db2"), is_over_another=True)
    seen = replace(view(POOL, NODES, MARKS[1:]), stray_marks={over.address: over})
    found = made(seen)
    (key,) = found.strays
    assert key == (
        "/service/yaim/ips/192.0.2.9/marked",
        "counts as no mark, as somebody has put it over another one: delete it when no node has the"
        " address",
    )
    told = AddressStatus("192.0.2.9", None, "its mark counts as none: see the stray key")
    assert found.addresses[0] == told


def test_a_mark_under_a_lease_that_is_not_its_holders_is_told_as_that() -> None:
    """Red team: it read "db1 may hold it and has not taken it yet", for ever."""
    elsewhere = mark("192.0.2.9", "db1", lease=0x1F)
    why = (
        "marked by db1 under lease 1f, and db1 is advertised under 1: should that not pass within"
        " the ttl, delete /service/yaim/ips/192.0.2.9/marked when no node has the address"
    )
    found = made(view(POOL, NODES, (elsewhere, *MARKS[1:])))
    assert (found.addresses[0], found.strays) == (AddressStatus("192.0.2.9", None, why), ())
    found = made(view(POOL, NODES[:1], (*MARKS[1:2], elsewhere)))
    assert "marked by db1 under lease 1f, and db1 is not advertised" in found.addresses[0].reason


def test_what_is_no_advertisement_is_told_with_the_lease_to_revoke() -> None:
    told = replace(node("db1").advertisement, reason="cannot be read", schema=maxsize)
    seen = view((), (replace(node("db1"), advertisement=told, lease=LeaseId(0x1F)),), ())
    (found,) = made(seen).nodes
    assert found.reason == (
        "cannot be read: if it is no newer yaim's, etcdctl lease revoke 1f, under which"
        " /service/yaim/nodes/db1 stands"
    )


# --- many of them --------------------------------------------------------------------------------


def why_nobody(entry: PoolEntry, seen: ClusterView) -> str:
    """Each node asked by itself, those that wait last."""
    names: dict[str, list[NodeName]] = {}
    for each in sorted(seen.nodes.values(), key=lambda each: (each.is_waiting, each.name)):
        reason = each.why_not(entry) or ("" if each.advertisement.takes else TAKES_NOTHING)
        if not reason:
            return f"{each.name} may hold it and has not taken it yet"
        names.setdefault(reason, []).append(each.name)
    return "; ".join(f"{reason}: {', '.join(each)}" for reason, each in names.items())


@pytest.mark.parametrize("seed", range(300))
def test_why_nobody_holds_an_address_is_what_each_node_would_say(seed: int) -> None:
    random = Random(seed)
    names = [NodeName(f"n{number}") for number in range(random.randrange(1, 9))]
    pool = [ip_address(f"192.0.2.{number}") for number in range(1, 5)]
    nodes = []
    for name in names:
        told = replace(
            node("db1").advertisement,
            is_healthy=random.random() < 0.8,
            takes=random.random() < 0.7,
            waits_s=random.choice((0.0, 0.0, 9.0)),
            down=frozenset(random.choice(((), ("eth0",)))),
            missing=frozenset(random.choice(((), ("eth0",)))),
            networks=random.choice(
                (node("db1").advertisement.networks, frozen_mapping({}), frozen_mapping({}))
            ),
            refused=frozenset(random.sample(pool, random.randrange(3))),
            schema=random.choice((1, 2)),
        )
        nodes.append(Node(name, told, LeaseId(1), Revision(1)))
    seen = ClusterView(
        Revision(1),
        frozen_mapping(
            {
                address: PoolEntry(
                    address,
                    exclude=frozenset(random.sample(names, random.randrange(len(names) + 1))),
                    schema=random.choice((1, 2)),
                )
                for address in pool
            }
        ),
        frozen_mapping({each.name: each for each in nodes}),
    )
    found = {each.address: each.reason for each in made(seen).addresses}
    assert found == {str(each.address): why_nobody(each, seen) for each in seen.pool.values()}
