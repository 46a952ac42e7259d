"""What `yaim status` makes of a view of the cluster."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
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
from yaim.etcd.certificates import Expiry
from yaim.status import (
    AddressStatus,
    ClusterStatus,
    Condition,
    NodeStatus,
    as_json,
    as_table,
    certificates_of,
    status_of,
)

CLUSTER = "/service/yaim/"
LEASES = {"db1": 1, "db2": 2}


def node(name: str, reason: str = "HTTP 200", is_healthy: bool = True) -> Node:
    return Node(
        NodeName(name),
        Advertisement(
            is_healthy=is_healthy,
            reason=reason,
            interface="eth0",
            networks=frozen_mapping({}),
            refused=frozenset(),
            session="",
            version="1.0",
        ),
        LeaseId(LEASES[name]),
        Revision(1),
    )


def waiting(name: str) -> Node:
    return replace(node(name), advertisement=replace(node(name).advertisement, waits_s=40.0))


def mark(address: str, holder: str, lease: int | None = None) -> Mark:
    number = LeaseId(LEASES[holder] if lease is None else lease)
    return Mark(ip_address(address), NodeName(holder), number, Revision(1))


def view(
    pool: tuple[str, ...],
    nodes: tuple[Node, ...],
    marks: tuple[Mark, ...],
    wrong: tuple[WrongEntry, ...] = (),
) -> ClusterView:
    return ClusterView(
        Revision(7),
        frozen_mapping({ip_address(each): PoolEntry(ip_address(each)) for each in pool}),
        frozen_mapping({each.name: each for each in nodes}),
        frozen_mapping({each.address: each for each in marks}),
        wrong,
    )


POOL = ("192.0.2.10", "2001:db8::1", "192.0.2.9")
NODES = (node("db2"), node("db1"))
MARKS = (mark("192.0.2.9", "db1"), mark("192.0.2.10", "db2"), mark("2001:db8::1", "db1"))
WELL = view(POOL, NODES, MARKS)
UNHELD = view(POOL, NODES, MARKS[1:])
UNHEALTHY = view(POOL, (node("db1"), node("db2", "Connection refused", False)), MARKS)
WRONG = view(POOL, NODES, MARKS, (WrongEntry("192.0.2.09", "not an address"),))
STALE = view(POOL, NODES, (*MARKS[1:], mark("192.0.2.9", "db1", lease=99)))
FLAPPING = view(POOL, (node("db1"), waiting("db2")), MARKS)
OF_NOBODY = view(POOL, NODES[:1], MARKS)
EMPTY = view((), (), ())
NO_NODES = view(POOL, (), ())
NO_ADDRESSES = view((), NODES, ())


def test_a_healthy_cluster_is_told_in_order() -> None:
    assert status_of(CLUSTER, WELL) == ClusterStatus(
        CLUSTER,
        (
            AddressStatus("192.0.2.9", "db1"),
            AddressStatus("192.0.2.10", "db2"),
            AddressStatus("2001:db8::1", "db1"),
        ),
        (
            NodeStatus("db1", True, "HTTP 200", 2, "1.0"),
            NodeStatus("db2", True, "HTTP 200", 1, "1.0"),
        ),
        (),
    )


def test_a_mark_of_a_lease_that_its_holder_has_no_more_does_not_count() -> None:
    found = status_of(CLUSTER, STALE)
    assert found == status_of(CLUSTER, UNHELD)
    assert found.addresses[0] == AddressStatus(
        "192.0.2.9", None, "not allowed on eth0 by the helper: db1, db2"
    )
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
        return status_of(CLUSTER, seen).addresses[0].reason

    entry = PoolEntry(address, interface="eth1")
    assert why(entry) == "there is no node"
    assert why(entry, "db1", "db2") == "db1 may hold it and has not taken it yet"
    assert why(entry, "db2") == "unhealthy: db2"
    assert why(replace(entry, exclude=frozenset({NodeName("db1")})), "db1") == "excluded: db1"
    assert why(PoolEntry(address), "db1") == "not allowed on eth0 by the helper: db1"
    refused = replace(entry, address=ip_address("192.0.2.9"))
    assert why(refused, "db1") == "refused by the helper (its log says why): db1"


def test_a_mark_of_a_node_that_is_not_there_does_not_count() -> None:
    found = status_of(CLUSTER, OF_NOBODY)
    assert [each.holder for each in found.addresses] == [None, "db2", None]


def test_a_mark_of_an_address_that_is_not_in_the_pool_does_not_count() -> None:
    found = status_of(CLUSTER, view(POOL[:1], NODES, MARKS))
    assert found.addresses == (AddressStatus("192.0.2.10", "db2"),)
    assert [(each.name, each.address_count) for each in found.nodes] == [("db1", 0), ("db2", 1)]
    assert found.condition is Condition.HEALTHY


@pytest.mark.parametrize(
    ("seen", "condition"),
    [
        (WELL, Condition.HEALTHY),
        (NO_ADDRESSES, Condition.HEALTHY),
        (FLAPPING, Condition.HEALTHY),
        (UNHELD, Condition.DEGRADED),
        (UNHEALTHY, Condition.DEGRADED),
        (WRONG, Condition.DEGRADED),
        (STALE, Condition.DEGRADED),
        (OF_NOBODY, Condition.DEGRADED),
        (NO_NODES, Condition.DEGRADED),
        (EMPTY, Condition.DEGRADED),
    ],
    ids=[
        "healthy",
        "no addresses",
        "node waiting",
        "address unheld",
        "node unhealthy",
        "wrong entry",
        "stale mark",
        "holder gone",
        "no nodes",
        "empty",
    ],
)
def test_a_cluster_is_healthy_if_all_is_held_and_healthy_and_right(
    seen: ClusterView, condition: Condition
) -> None:
    found = status_of(CLUSTER, seen)
    assert found.condition is condition
    assert json.loads(as_json(found))["status"] == condition.name.lower()
    first_line = as_table(found).splitlines()[0]
    assert first_line == f"Cluster {CLUSTER} is {condition.name.lower()}."


def test_the_condition_is_the_exit_status() -> None:
    assert {each.name: int(each) for each in Condition} == {
        "HEALTHY": 0,
        "DEGRADED": 1,
        "UNREACHABLE": 2,
    }


def test_the_table_of_a_healthy_cluster() -> None:
    assert as_table(status_of(CLUSTER, WELL)) == (
        "Cluster /service/yaim/ is healthy.\n"
        "\n"
        "ADDRESS      HOLDER\n"
        "192.0.2.9    db1\n"
        "192.0.2.10   db2\n"
        "2001:db8::1  db1\n"
        "\n"
        "NODE  HEALTH   ADDRESSES  REASON\n"
        "db1   healthy  2          HTTP 200\n"
        "db2   healthy  1          HTTP 200"
    )


def test_the_table_of_a_cluster_where_much_is_wrong() -> None:
    seen = view(
        POOL[:2],
        (node("db2", "HTTP 503, expected 200", False), node("db1")),
        MARKS[2:],
        (WrongEntry("192.0.2.09", "not an address"), WrongEntry("x", "neither")),
    )
    assert as_table(status_of(CLUSTER, seen)) == (
        "Cluster /service/yaim/ is degraded.\n"
        "\n"
        "ADDRESS      HOLDER\n"
        "192.0.2.10   - nobody - (not allowed on eth0 by the helper: db1; unhealthy: db2)\n"
        "2001:db8::1  db1\n"
        "\n"
        "NODE  HEALTH     ADDRESSES  REASON\n"
        "db1   healthy    1          HTTP 200\n"
        "db2   unhealthy  0          HTTP 503, expected 200\n"
        "\n"
        "WRONG POOL ENTRY  REASON\n"
        "192.0.2.09        not an address\n"
        "x                 neither"
    )


def test_a_node_that_waits_because_it_flaps_is_shown_as_such() -> None:
    found = status_of(CLUSTER, view((), (node("db1"), waiting("db2")), ()))
    assert as_table(found).splitlines()[5:] == [
        "NODE  HEALTH                          ADDRESSES  REASON",
        "db1   healthy                         0          HTTP 200",
        "db2   healthy, waits 40 s (flapping)  0          HTTP 200",
    ]
    assert [each["waits_s"] for each in json.loads(as_json(found))["nodes"]] == [0.0, 40.0]


def test_an_address_that_nobody_holds_is_for_a_node_that_does_not_wait() -> None:
    networks = frozen_mapping({"eth0": (ip_network("192.0.2.0/24"),)})
    nodes = tuple(
        replace(each, advertisement=replace(each.advertisement, networks=networks))
        for each in (waiting("db1"), node("db2"))
    )
    (address,) = status_of(CLUSTER, view(POOL[:1], nodes, ())).addresses
    assert address.reason == "db2 may hold it and has not taken it yet"
    (address,) = status_of(CLUSTER, view(POOL[:1], nodes[:1], ())).addresses
    assert address.reason == "db1 may hold it and has not taken it yet"


def test_the_table_of_an_empty_cluster() -> None:
    assert as_table(status_of(CLUSTER, EMPTY)) == (
        "Cluster /service/yaim/ is degraded.\n"
        "\n"
        "ADDRESS  HOLDER\n"
        "(none)\n"
        "\n"
        "NODE    HEALTH  ADDRESSES  REASON\n"
        "(none)\n"
        "\n"
        "Nothing is there: are dcs-namespace and dcs-clustername right?"
    )


@pytest.mark.parametrize("seen", [NO_NODES, NO_ADDRESSES, WELL], ids=["pool", "nodes", "both"])
def test_where_something_is_there_no_doubt_is_cast_on_the_names(seen: ClusterView) -> None:
    assert "right?" not in as_table(status_of(CLUSTER, seen))


@pytest.mark.parametrize(
    "seen",
    [
        view((), (node("db1", "well\x1b[2J"),), ()),
        view((), (node("db1", "well\nWRONG POOL ENTRY  REASON"),), ()),
        view((), NODES, (), (WrongEntry("\x1b]0;x\x07", "not an address"),)),
    ],
    ids=["escape sequence", "line", "entry"],
)
def test_the_table_keeps_its_form_whatever_stands_in_etcd(seen: ClusterView) -> None:
    lines = as_table(status_of(CLUSTER, seen)).split("\n")
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 6 + len(seen.nodes) + (2 + len(seen.wrong) if seen.wrong else 0)


def test_what_cannot_be_printed_is_a_question_mark() -> None:
    seen = view(
        (),
        (node("db1", "well\x1b[2J\n\u202eü", False),),
        (),
        (WrongEntry("\x00\x7f", "not\x9ban\taddress"),),
    )
    assert as_table(status_of(CLUSTER, seen)).splitlines()[5:] == [
        "NODE  HEALTH     ADDRESSES  REASON",
        "db1   unhealthy  0          well?[2J??ü",
        "",
        "WRONG POOL ENTRY  REASON",
        "??                not?an?address",
    ]


def test_the_json_has_all_that_the_table_has() -> None:
    seen = view(
        POOL[:1],
        (node("db1"), node("db2", "Connection refused", False)),
        (),
        (WrongEntry("x", "not an address"),),
    )
    assert json.loads(as_json(status_of(CLUSTER, seen))) == {
        "status": "degraded",
        "cluster": "/service/yaim/",
        "addresses": [
            {
                "address": "192.0.2.10",
                "holder": None,
                "reason": "not allowed on eth0 by the helper: db1; unhealthy: db2",
            }
        ],
        "nodes": [
            {
                "name": "db1",
                "healthy": True,
                "reason": "HTTP 200",
                "addresses": 0,
                "version": "1.0",
                "waits_s": 0.0,
            },
            {
                "name": "db2",
                "healthy": False,
                "reason": "Connection refused",
                "addresses": 0,
                "version": "1.0",
                "waits_s": 0.0,
            },
        ],
        "wrong_entries": [{"entry": "x", "reason": "not an address"}],
        "certificates": [],
    }


# --- certificates --------------------------------------------------------------------------------

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def expiry(what: str, subject: str, **left: float) -> Expiry:
    return Expiry(what, subject, NOW + timedelta(**left))


def with_certificates(*expiries: Expiry) -> ClusterStatus:
    return status_of(CLUSTER, WELL, certificates_of(expiries, NOW))


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


CERTIFICATES = (
    expiry("etcd-ca-file /etc/ca.pem", "CA\n", days=400, hours=1),
    expiry("https://etcd1:2379", "etcd1", days=6, hours=1),
    expiry("https://etcd2:2379", "etcd2", hours=-1),
)


def test_certificates_are_at_the_end_of_the_table() -> None:
    assert as_table(with_certificates(*CERTIFICATES)).splitlines()[-5:] == [
        "",
        "CERTIFICATE               OF     EXPIRES     DAYS LEFT",
        "etcd-ca-file /etc/ca.pem  CA?    2027-12-27  400",
        "https://etcd1:2379        etcd1  2026-11-28  6 (renew it)",
        "https://etcd2:2379        etcd2  2026-11-22  expired (renew it)",
    ]


def test_certificates_are_in_the_json() -> None:
    told = json.loads(as_json(with_certificates(*CERTIFICATES)))
    assert (told["status"], told["certificates"][1:]) == (
        "degraded",
        [
            {
                "where": "https://etcd1:2379",
                "subject": "etcd1",
                "expires": "2026-11-28T13:00:00+00:00",
                "days_left": 6,
                "pressing": True,
            },
            {
                "where": "https://etcd2:2379",
                "subject": "etcd2",
                "expires": "2026-11-22T11:00:00+00:00",
                "days_left": -1,
                "pressing": True,
            },
        ],
    )
    assert not told["certificates"][0]["pressing"]
