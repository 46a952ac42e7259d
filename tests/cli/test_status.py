"""How `yaim status` shows what it makes of a view of the cluster: as a table and as JSON."""

import json
from dataclasses import replace
from ipaddress import ip_address
from time import process_time

import pytest

from tests.status.clusters import (
    CERTIFICATES,
    CLUSTER,
    ELSEWHERE,
    EMPTY,
    FLAPPING,
    MARKS,
    NO_ADDRESSES,
    NO_NODES,
    NODES,
    OF_NOBODY,
    POOL,
    STALE,
    UNHEALTHY,
    UNHELD,
    WELL,
    WRONG,
    fenced,
    having,
    mark,
    node,
    unhealthy,
    view,
    waiting,
    with_certificates,
)
from yaim.cli.status import as_json, as_table
from yaim.core.model import (
    ClusterView,
    Fence,
    LeaseId,
    Node,
    NodeName,
    PoolEntry,
    Revision,
    WrongEntry,
    frozen_mapping,
)
from yaim.status.facts import AddressStatus, Condition, status_of


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


def test_a_node_that_refuses_addresses_or_takes_none_for_now_is_shown_as_such() -> None:
    """Nothing told of it when others held all addresses."""
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
                "fence": {"in_force": True, "reason": ""},
                "connections_stay": "",
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
                "fence": {"in_force": True, "reason": ""},
                "connections_stay": "",
            },
        ],
        "wrong_entries": [{"entry": "x", "reason": "not an address"}],
        "certificates": [],
        "etcd_alarms": [],
        "stray_keys": [],
    }


NO_NFTABLES = Fence(False, "the kernel\x1b has no nf_tables")


def test_a_node_without_a_fence_is_marked_with_the_reason_and_the_cluster_is_healthy() -> None:
    found = status_of(CLUSTER, view(POOL, (fenced("db2", NO_NFTABLES), node("db1")), MARKS))
    assert found.condition is Condition.HEALTHY
    assert as_table(found).splitlines()[-3:] == [
        "db1   healthy  2          HTTP 200",
        "db2   healthy  1          HTTP 200",
        "no fence in the kernel of db2: the kernel? has no nf_tables",
    ]
    told = {each["name"]: each["fence"] for each in json.loads(as_json(found))["nodes"]}
    assert told == {
        "db1": {"in_force": True, "reason": ""},
        "db2": {"in_force": False, "reason": NO_NFTABLES.reason},
    }


def test_of_older_nodes_it_is_not_told_whether_they_have_a_fence() -> None:
    found = status_of(CLUSTER, view(POOL, (fenced("db2", None), fenced("db1", None)), MARKS))
    assert found.condition is Condition.HEALTHY
    silent = "not told whether there is a fence in the kernel: db1, db2"
    assert as_table(found).splitlines()[-1] == silent
    told = [each["fence"] for each in json.loads(as_json(found))["nodes"]]
    assert told == [{"in_force": None, "reason": ""}] * 2


def test_where_every_node_has_a_fence_the_table_says_nothing_of_it() -> None:
    assert "fence" not in as_table(status_of(CLUSTER, WELL))


def test_a_node_that_resets_no_connections_though_it_is_to_is_marked_with_the_reason() -> None:
    told = replace(node("db2").advertisement, connections_stay="no\x1bkernel")
    nodes = (replace(node("db2"), advertisement=told), node("db1"))
    found = status_of(CLUSTER, view(POOL, nodes, MARKS))
    assert found.condition is Condition.HEALTHY
    line = "no connections are reset by db2: no?kernel"
    assert as_table(found).splitlines()[-1] == line
    shown = {each["name"]: each["connections_stay"] for each in json.loads(as_json(found))["nodes"]}
    assert shown == {"db1": "", "db2": "no\x1bkernel"}
    assert "connections" not in as_table(status_of(CLUSTER, WELL))


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
