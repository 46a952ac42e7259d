"""What `yaim status` makes of a view of the cluster."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from random import Random
from sys import maxsize
from time import process_time

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
from yaim.dcs.etcd.expiry import Expiry
from yaim.status import (
    _TAKES_NOTHING,
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
            networks=frozen_mapping({"eth0": (ip_network("0.0.0.0/0"), ip_network("::/0"))}),
            refused=frozenset(),
            session="",
            version="1.0",
        ),
        LeaseId(LEASES[name]),
        Revision(1),
    )


def waiting(name: str) -> Node:
    return replace(node(name), advertisement=replace(node(name).advertisement, waits_s=40.0))


def having(name: str, address: str) -> Node:
    """Not by yaim."""
    present = frozen_mapping({ip_address(address): "eth0, /24"})
    return replace(node(name), advertisement=replace(node(name).advertisement, present=present))


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
ELSEWHERE = view(POOL, (node("db1"), having("db2", "192.0.2.9")), MARKS)
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
    unheld = status_of(CLUSTER, UNHELD)
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
        (ELSEWHERE, Condition.DEGRADED),
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
        "address elsewhere for another reason",
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
        "192.0.2.10   - nobody - (db1 may hold it and has not taken it yet)\n"
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


def test_an_etcd_that_is_full_is_told_with_what_to_do() -> None:
    found = status_of(CLUSTER, WELL, alarms=frozenset({"NOSPACE", "CORRUPT"}))
    assert found.condition is Condition.DEGRADED
    assert json.loads(as_json(found))["etcd_alarms"] == ["CORRUPT", "NOSPACE"]
    assert as_table(found).splitlines()[2:6] == [
        "etcd has raised the alarm CORRUPT: `etcdctl alarm list`, and etcd's log",
        "etcd has raised the alarm NOSPACE: etcd is full (`etcdctl alarm list`): delete what fills"
        " it or raise --quota-backend-bytes, then `etcdctl compact`, `etcdctl defrag`, `etcdctl"
        " alarm disarm` (docs/etcd.md, When etcd is full)",
        "While etcd is full a node without a lease cannot join, and one that cannot write there"
        " what it can hold has withdrawn: neither is listed here.",
        "",
    ]


def test_why_nobody_holds_an_address_may_be_that_etcd_is_full() -> None:
    def why(seen: ClusterView, *alarms: str) -> str:
        return status_of(CLUSTER, seen, alarms=alarms).addresses[0].reason

    assert why(NO_NODES, "NOSPACE") == "there is no node; etcd is full: none can join"
    yet = "db1 may hold it and has not taken it yet"
    assert why(UNHELD, "NOSPACE") == f"{yet}; etcd is full, and may not let it"
    assert why(UNHELD, "CORRUPT") == yet


def test_a_node_that_refuses_addresses_or_takes_none_for_now_is_shown_as_such() -> None:
    """With all addresses held by others nothing told of it."""
    refused = frozenset(map(ip_address, ("192.0.2.10", "192.0.2.9", "198.51.100.1")))
    full = replace(node("db1").advertisement, refused=refused)
    one = replace(full, refused=frozenset({ip_address("192.0.2.9")}), takes=False)
    nodes = (replace(node("db1"), advertisement=full), replace(node("db2"), advertisement=one))
    found = status_of(CLUSTER, view(POOL, nodes, ()))
    assert as_table(found).splitlines()[-2:] == [
        "db1   healthy, refuses 2 addresses (its log says why)                       0"
        "          HTTP 200",
        "db2   healthy, takes nothing for now, refuses 1 address (its log says why)  0"
        "          HTTP 200",
    ]
    told = json.loads(as_json(found))["nodes"]
    assert [each["takes"] for each in told] == [True, False]
    assert [each["refused"] for each in told] == [["192.0.2.9", "192.0.2.10"], ["192.0.2.9"]]


def test_a_node_that_waits_because_it_flaps_is_shown_as_such() -> None:
    found = status_of(CLUSTER, view((), (node("db1"), waiting("db2")), ()))
    assert as_table(found).splitlines()[5:] == [
        "NODE  HEALTH                          ADDRESSES  REASON",
        "db1   healthy                         0          HTTP 200",
        "db2   healthy, waits 40 s (flapping)  0          HTTP 200",
    ]
    assert [each["waits_s"] for each in json.loads(as_json(found))["nodes"]] == [0.0, 40.0]


def test_an_address_that_is_on_a_node_not_by_yaim_is_told_with_the_node_and_what_to_do() -> None:
    """A pool address that keepalived still held: on both nodes, and all was said to be healthy."""
    complaint = "on db2 already, not by yaim (eth0, /24): remove it there"
    lines = as_table(status_of(CLUSTER, ELSEWHERE)).splitlines()
    assert lines[3] == "192.0.2.9    db1"
    assert lines[6] == f"192.0.2.9 is {complaint}"
    unheld = status_of(CLUSTER, replace(ELSEWHERE, marks=frozen_mapping({})))
    assert as_table(unheld).splitlines()[3] == f"192.0.2.9    - nobody - ({complaint})"
    told = json.loads(as_json(unheld))["addresses"][0]
    assert told["present"] == [{"node": "db2", "where": "eth0, /24"}]


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


def test_where_an_address_is_already_may_be_said_in_any_characters() -> None:
    """The table could not be printed, as that was not fit for any terminal."""
    has_it = having("db2", "192.0.2.9")
    told = replace(has_it.advertisement, present={ip_address("192.0.2.9"): "eth0\ud800\x1b[2J"})
    nodes = (replace(has_it, advertisement=told), node("db1"))
    text = as_table(status_of(CLUSTER, view(POOL, nodes, MARKS)))
    assert "192.0.2.9 is on db2 already" in text
    assert all(line.isprintable() for line in text.split("\n"))


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
                "reason": "db1 may hold it and has not taken it yet",
                "present": [],
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
                "takes": True,
                "refused": [],
            },
            {
                "name": "db2",
                "healthy": False,
                "reason": "Connection refused",
                "addresses": 0,
                "version": "1.0",
                "waits_s": 0.0,
                "takes": True,
                "refused": [],
            },
        ],
        "wrong_entries": [{"entry": "x", "reason": "not an address"}],
        "certificates": [],
        "etcd_alarms": [],
        "stray_keys": [],
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


def test_a_holder_that_should_not_hold_an_address_is_told_with_the_reason() -> None:
    """Nobody else can: the entry names an interface that there is not."""
    entry = PoolEntry(ip_address(POOL[0]), interface="eth9")
    seen = replace(WELL, pool=frozen_mapping({**WELL.pool, entry.address: entry}))
    found = status_of(CLUSTER, seen)
    why = "not allowed on eth9 by the helper"
    assert found.addresses[1] == AddressStatus(POOL[0], "db2", why)
    assert found.condition is Condition.DEGRADED
    assert f"192.0.2.10   db2 ({why})" in as_table(found)


def test_an_address_with_a_wrong_entry_is_listed_held_or_not() -> None:
    entry = PoolEntry(ip_address(POOL[0]), fault="prefix is 33, expected 1 to 32")
    seen = replace(WELL, pool=frozen_mapping({entry.address: entry}))
    why = "its entry is wrong: prefix is 33, expected 1 to 32"
    held = status_of(CLUSTER, seen)
    assert held.addresses == (AddressStatus(POOL[0], "db2", why),)
    unheld = status_of(CLUSTER, replace(seen, marks=frozen_mapping({})))
    assert unheld.addresses == (AddressStatus(POOL[0], None, why),)
    assert held.condition is unheld.condition is Condition.DEGRADED


# --- what others put into etcd -------------------------------------------------------------------


def test_a_long_name_does_not_make_all_lines_long() -> None:
    """Red team: one name of 100 kB and 400 nodes were 40 MB."""
    told = node("db1")
    names = ["x" * 100_000, *(f"n{number}" for number in range(400))]
    nodes = tuple(replace(told, name=NodeName(name)) for name in names)
    for seen in (
        view(POOL, nodes, ()),
        view(POOL, tuple(replace(each, advertisement=unhealthy()) for each in nodes), ()),
        replace(view(POOL, nodes[1:], ()), stray_nodes={nodes[0].name: nodes[0]}),
    ):
        assert len(as_table(status_of(CLUSTER, seen))) < 1_000_000


def unhealthy() -> Advertisement:
    return replace(node("db1").advertisement, is_healthy=False, reason="x" * 100_000)


def test_keys_without_a_lease_are_told_with_what_is_to_be_done() -> None:
    """Red team: they read "n1 may hold it and has not taken it yet"."""
    stray_mark = mark("192.0.2.9", "nobody", lease=0)
    seen = replace(
        WELL,
        stray_nodes={NodeName("zz"): replace(node("db1"), name=NodeName("zz"), lease=LeaseId(0))},
        stray_marks={stray_mark.address: stray_mark},
    )
    found = status_of(CLUSTER, seen)
    assert found.condition is Condition.DEGRADED
    assert as_table(found).splitlines()[-3:] == [
        "STRAY KEY                           REASON",
        "/service/yaim/nodes/zz              counts as no node, as it has no lease: delete it",
        "/service/yaim/ips/192.0.2.9/marked  counts as no mark, as it has no lease: delete it",
    ]
    keys = [each["key"] for each in json.loads(as_json(found))["stray_keys"]]
    assert keys == ["/service/yaim/nodes/zz", "/service/yaim/ips/192.0.2.9/marked"]


def test_a_mark_that_was_put_over_another_one_is_told_with_what_is_to_be_done() -> None:
    over = replace(mark("192.0.2.9", "db2"), is_over_another=True)
    seen = replace(view(POOL, NODES, MARKS[1:]), stray_marks={over.address: over})
    found = status_of(CLUSTER, seen)
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
    found = status_of(CLUSTER, view(POOL, NODES, (elsewhere, *MARKS[1:])))
    assert (found.addresses[0], found.strays) == (AddressStatus("192.0.2.9", None, why), ())
    found = status_of(CLUSTER, view(POOL, NODES[:1], (*MARKS[1:2], elsewhere)))
    assert "marked by db1 under lease 1f, and db1 is not advertised" in found.addresses[0].reason


def test_what_is_no_advertisement_is_told_with_the_lease_to_revoke() -> None:
    told = replace(node("db1").advertisement, reason="cannot be read", schema=maxsize)
    seen = view((), (replace(node("db1"), advertisement=told, lease=LeaseId(0x1F)),), ())
    (found,) = status_of(CLUSTER, seen).nodes
    assert found.reason == (
        "cannot be read: if it is no newer yaim's, etcdctl lease revoke 1f, under which"
        " /service/yaim/nodes/db1 stands"
    )


def test_what_is_not_utf8_is_json_that_any_parser_takes() -> None:
    """Red team: half of a pair of surrogates."""
    stray = replace(node("db1"), name=NodeName("n\udcff"), lease=LeaseId(0))
    odd = replace(node("db1").advertisement, reason="\ud800", version="\udfff")
    seen = replace(
        view(POOL, (replace(node("db1"), advertisement=odd),), (), (WrongEntry("x\udcff", ""),)),
        stray_nodes={stray.name: stray, NodeName("é"): replace(stray, name=NodeName("é"))},
    )
    told = json.loads(as_json(status_of(CLUSTER, seen)))
    assert json.dumps(told, ensure_ascii=False).encode()
    assert [each["key"] for each in told["stray_keys"]] == [
        "$'/service/yaim/nodes/n\\xff'",
        "/service/yaim/nodes/é",
    ]


def test_where_nothing_is_but_wrong_keys_that_is_not_told_as_nothing() -> None:
    nothing = "Nothing is there"
    assert nothing in as_table(status_of(CLUSTER, view((), (), ())))
    wrong = view((), (), (), (WrongEntry("x", "no address"),))
    stray = replace(view((), (), ()), stray_nodes={NodeName("db1"): node("db1")})
    for seen in (wrong, stray):
        assert nothing not in as_table(status_of(CLUSTER, seen))


def test_where_it_is_held_by_another_hand_steers_no_terminal() -> None:
    told = replace(
        having("db2", "192.0.2.9").advertisement,
        present=frozen_mapping({ip_address("192.0.2.9"): "eth0\n\x1b[2J" + "x" * 100_000}),
    )
    lines = as_table(
        status_of(
            CLUSTER, view(POOL, (node("db1"), replace(node("db2"), advertisement=told)), MARKS)
        )
    )
    assert all(line.isprintable() and len(line) < 3000 for line in lines.split("\n"))


# --- many of them --------------------------------------------------------------------------------


def why_nobody(entry: PoolEntry, seen: ClusterView) -> str:
    """Each node asked by itself, those that wait last."""
    names: dict[str, list[NodeName]] = {}
    for each in sorted(seen.nodes.values(), key=lambda each: (each.is_waiting, each.name)):
        reason = each.why_not(entry) or ("" if each.advertisement.takes else _TAKES_NOTHING)
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
    found = {each.address: each.reason for each in status_of(CLUSTER, seen).addresses}
    assert found == {str(each.address): why_nobody(each, seen) for each in seen.pool.values()}


def test_thousands_of_addresses_and_of_nodes_are_told_in_a_moment() -> None:
    """Red team: 11.6 s; and 260 MB of JSON, when each had another reason."""
    addresses = [ip_address("10.0.0.1") + number for number in range(2000)]
    told = node("db1").advertisement
    kinds = (replace(told, is_healthy=False), replace(told, networks=frozen_mapping({})))
    nodes = [
        Node(NodeName(f"n{number}"), kinds[number % 2], LeaseId(1), Revision(1))
        for number in range(3960)
    ]
    nodes += [
        Node(
            NodeName(f"x{number}"),
            replace(kinds[1], interface=f"{number}"),
            LeaseId(1),
            Revision(1),
        )
        for number in range(40)
    ]
    seen = ClusterView(
        Revision(1),
        frozen_mapping({address: PoolEntry(address) for address in addresses}),
        frozen_mapping({each.name: each for each in nodes}),
    )
    began = process_time()
    status = status_of(CLUSTER, seen)
    assert len(as_json(status)) < 5_000_000 and as_table(status)
    assert process_time() - began < 2.0
    assert "; for other reasons: x" in status.addresses[0].reason
