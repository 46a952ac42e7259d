"""How `yaim status` shows what it makes of a view of the cluster to people."""

import json
import re
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
    made,
    mark,
    node,
    unhealthy,
    view,
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
    WrongEntry,
    frozen_mapping,
)
from yaim.status.as_json import as_json
from yaim.status.facts import AddressStatus, Condition, only
from yaim.status.table import as_table


@pytest.mark.parametrize(
    ("seen", "condition"),
    [
        (WELL, Condition.HEALTHY),
        (NO_ADDRESSES, Condition.DEGRADED),
        (FLAPPING, Condition.HEALTHY),
        (UNHELD, Condition.DEGRADED),
        (ELSEWHERE, Condition.DEGRADED),
        (UNHEALTHY, Condition.DEGRADED),
        (WRONG, Condition.DEGRADED),
        (STALE, Condition.DEGRADED),
        (OF_NOBODY, Condition.DEGRADED),
        (NO_NODES, Condition.DEGRADED),
        (EMPTY, Condition.NOTHING),
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
    found = made(seen)
    assert found.condition is condition
    assert json.loads(as_json(found))["condition"] == condition.word
    first_line = as_table(found).splitlines()[0]
    word = "not there" if condition is Condition.NOTHING else condition.word
    assert first_line.startswith(f"Cluster {CLUSTER} is {word}")
    assert bool(found.problems) is (condition is not Condition.HEALTHY)


READ = "Read at 2026-11-22T12:00:00Z, revision 7."


def test_the_table_of_a_healthy_cluster() -> None:
    assert as_table(made(WELL)) == (
        "Cluster /service/yaim/ is healthy.\n"
        f"{READ}\n"
        "\n"
        "ADDRESS      HOLDER  REASON\n"
        "192.0.2.9    db1\n"
        "192.0.2.10   db2\n"
        "2001:db8::1  db1\n"
        "\n"
        "NODE  STATE    ADDRESSES  REASON\n"
        "db1   healthy  2          HTTP 200\n"
        "db2   healthy  1          HTTP 200"
    )


def test_the_table_of_a_cluster_where_much_is_wrong() -> None:
    seen = view(
        POOL[:2],
        (node("db2", "HTTP 503, expected 200", False), node("db1")),
        MARKS[2:],
        (WrongEntry("192.0.2.09", "not an address"), WrongEntry("2001:db8::1", "odd")),
    )
    assert as_table(made(seen)) == (
        "Cluster /service/yaim/ is degraded: 4 problems.\n"
        f"{READ}\n"
        "\n"
        "- 192.0.2.10 is held by nobody: db1 may hold it and has not taken it yet\n"
        "    see the nodes, and their logs\n"
        "- db2 is unhealthy: HTTP 503, expected 200\n"
        "    there: yaim check, yaim doctor\n"
        "- 192.0.2.09 is a wrong pool entry: not an address\n"
        "    etcdctl del /service/yaim/ips/192.0.2.09\n"
        "- 2001:db8::1 is a wrong pool entry: odd\n"
        "    yaim pool set 2001:db8::1 --prefer ''\n"
        "\n"
        "ADDRESS      HOLDER      REASON\n"
        "192.0.2.10   - nobody -  db1 may hold it and has not taken it yet\n"
        "2001:db8::1  db1\n"
        "\n"
        "NODE  STATE      ADDRESSES  REASON\n"
        "db1   healthy    1          HTTP 200\n"
        "db2   unhealthy  0          HTTP 503, expected 200"
    )


def test_only_the_problems_are_shown_if_only_they_are_wanted() -> None:
    lines = as_table(made(UNHELD), problems_only=True).splitlines()
    assert lines == [
        "Cluster /service/yaim/ is degraded: 1 problem.",
        READ,
        "",
        "- 192.0.2.9 is held by nobody: db1 may hold it and has not taken it yet",
        "    see the nodes, and their logs",
    ]
    assert as_table(made(WELL), problems_only=True).splitlines() == [
        "Cluster /service/yaim/ is healthy.",
        READ,
    ]


def test_problems_of_many_addresses_that_say_the_same_are_one_line() -> None:
    pool = tuple(f"192.0.2.{number}" for number in range(1, 53))
    lines = as_table(made(view(pool, (node("db1", "down", False),), ()))).splitlines()
    also = ", ".join(pool[1:9])
    assert lines[3] == f"- {pool[0]} is held by nobody: unhealthy: db1 (also {also} and 43 more)"
    assert lines[5].startswith("- db1 is unhealthy: down")


def test_only_what_is_named_is_shown_and_counts() -> None:
    found = made(UNHEALTHY)
    assert as_table(only(found, ("db1", "192.0.2.10"))) == (
        "Cluster /service/yaim/, db1, 192.0.2.10 only, is degraded: 1 problem.\n"
        f"{READ}\n"
        "\n"
        "- 192.0.2.10 is held by db2, which may not: unhealthy\n"
        "    no other node can hold it either: see its entry, and the nodes\n"
        "\n"
        "ADDRESS      HOLDER  REASON\n"
        "192.0.2.9    db1\n"
        "192.0.2.10   db2     unhealthy\n"
        "2001:db8::1  db1\n"
        "\n"
        "NODE  STATE    ADDRESSES  REASON\n"
        "db1   healthy  2          HTTP 200"
    )
    assert only(found, ("db1",)).condition is Condition.HEALTHY
    assert only(found, ()) == found


def test_colours_stand_beside_the_words_and_change_none() -> None:
    plain, coloured = as_table(made(UNHEALTHY)), as_table(made(UNHEALTHY), is_coloured=True)
    assert "\x1b" not in plain
    assert coloured.splitlines()[0] == (
        "Cluster /service/yaim/ is \x1b[33mdegraded\x1b[0m: 2 problems."
    )
    assert "db2   \x1b[33munhealthy\x1b[0m  1          Connection refused" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain


def test_an_old_status_is_never_told_as_the_present_one() -> None:
    lines = as_table(made(WELL), age_s=72.4).splitlines()
    assert lines[0] == ("Cluster /service/yaim/: etcd is silent: what follows is 1 min 12 s old.")


def test_an_etcd_that_is_full_is_told_with_what_to_do() -> None:
    found = made(WELL, alarms=frozenset({"NOSPACE", "CORRUPT"}))
    assert found.condition is Condition.DEGRADED
    assert as_table(found).splitlines()[2:8] == [
        "",
        "- etcd has raised the alarm CORRUPT",
        "    `etcdctl alarm list`, and etcd's log",
        "- etcd has raised the alarm NOSPACE",
        "    etcd is full (`etcdctl alarm list`): delete what fills it or raise"
        " --quota-backend-bytes, then `etcdctl compact`, `etcdctl defrag`, `etcdctl alarm disarm`"
        " (docs/etcd.md, When etcd is full)",
        "While etcd is full a node without a lease cannot join, and one that cannot write there"
        " what it can hold has withdrawn: it is not listed here, or as missing.",
    ]


def test_a_node_that_refuses_addresses_or_takes_none_for_now_is_shown_as_such() -> None:
    """Nothing told of it when others held all addresses."""
    refused = frozenset(map(ip_address, ("192.0.2.10", "192.0.2.9", "198.51.100.1")))
    full = replace(node("db1").advertisement, refused=refused)
    one = replace(full, refused=frozenset({ip_address("192.0.2.9")}), takes=False)
    nodes = (replace(node("db1"), advertisement=full), replace(node("db2"), advertisement=one))
    assert as_table(made(view(POOL, nodes, MARKS[1:2]))).splitlines()[-2:] == [
        "db1   healthy, refuses 2 addresses (its log says why)                       0"
        "          HTTP 200",
        "db2   healthy, takes nothing for now, refuses 1 address (its log says why)  1"
        "          HTTP 200",
    ]


def test_a_node_that_waits_because_it_flaps_is_always_shown_as_such() -> None:
    """It read `waits 40 s (flapping)`, and the same five seconds later."""
    assert as_table(made(FLAPPING)).splitlines()[-3:] == [
        "NODE  STATE              ADDRESSES  REASON",
        "db1   healthy            2          HTTP 200",
        "db2   healthy, flapping  1          HTTP 200",
    ]


def test_an_address_that_is_on_a_node_not_by_yaim_is_told_with_the_node_and_what_to_do() -> None:
    """A pool address that keepalived still held: on both nodes, and all was said to be healthy."""
    complaint = "on db2 already, not by yaim (eth0, /24): remove it there"
    lines = as_table(made(ELSEWHERE)).splitlines()
    assert lines[3:5] == [
        f"- 192.0.2.9 is {complaint}",
        "    on db2: ip address del 192.0.2.9/24 dev eth0",
    ]
    assert lines[7] == "192.0.2.9    db1     also on db2, not by yaim (eth0, /24)"
    unheld = as_table(made(replace(ELSEWHERE, marks=frozen_mapping({})))).splitlines()
    assert any(each.startswith(f"192.0.2.9    - nobody -  {complaint}") for each in unheld)


def test_where_nothing_is_the_names_are_doubted() -> None:
    """Of a mistyped cluster it was said that it is degraded, as of a sick one."""
    assert as_table(made(EMPTY)) == (
        "Cluster /service/yaim/ is not there.\n"
        f"{READ}\n"
        "\n"
        "Nothing is there: are dcs-namespace and dcs-clustername right?"
    )


@pytest.mark.parametrize("seen", [NO_NODES, NO_ADDRESSES, WELL], ids=["pool", "nodes", "both"])
def test_where_something_is_there_no_doubt_is_cast_on_the_names(seen: ClusterView) -> None:
    assert "right?" not in as_table(made(seen))


def test_where_an_address_is_already_may_be_said_in_any_characters() -> None:
    """The table could not be printed, as that was not fit for any terminal."""
    has_it = having("db2", "192.0.2.9")
    told = replace(has_it.advertisement, present={ip_address("192.0.2.9"): "eth0\ud800\x1b[2J"})
    nodes = (replace(has_it, advertisement=told), node("db1"))
    text = as_table(made(view(POOL, nodes, MARKS)))
    assert "192.0.2.9 is on db2 already" in text
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize(
    "seen",
    [
        view((), (node("db1", "well\x1b[2J"),), ()),
        view((), (node("db1", "well\nNODE  STATE"),), ()),
        view((), NODES, (), (WrongEntry("\x1b]0;x\x07", "not an address"),)),
    ],
    ids=["escape sequence", "line", "entry"],
)
def test_the_table_keeps_its_form_whatever_stands_in_etcd(seen: ClusterView) -> None:
    lines = as_table(made(seen)).split("\n")
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 10 + len(seen.nodes) + 2 * len(seen.wrong)


def test_what_cannot_be_printed_is_a_question_mark() -> None:
    seen = view(
        POOL[:1],
        (node("db1", "well\x1b[2J\n\u202eü", False),),
        (),
        (WrongEntry("\x00\x7f", "not\x9ban\taddress"),),
    )
    lines = as_table(made(seen)).splitlines()
    assert lines[-1] == "db1   unhealthy  0          well?[2J??ü"
    assert lines[7:9] == [
        "- ?? is a wrong pool entry: not?an?address",
        "    etcdctl del $'/service/yaim/ips/\\x00\\x7f'",
    ]


NO_NFTABLES = Fence(False, "the kernel\x1b has no nf_tables")


def test_a_node_without_a_fence_is_marked_with_the_reason_and_the_cluster_is_healthy() -> None:
    found = made(view(POOL, (fenced("db2", NO_NFTABLES), node("db1")), MARKS))
    assert found.condition is Condition.HEALTHY
    assert as_table(found).splitlines()[-3:] == [
        "db1   healthy  2          HTTP 200",
        "db2   healthy  1          HTTP 200",
        "no fence in the kernel of db2: the kernel? has no nf_tables",
    ]


def test_of_older_nodes_it_is_not_told_whether_they_have_a_fence() -> None:
    found = made(view(POOL, (fenced("db2", None), fenced("db1", None)), MARKS))
    assert found.condition is Condition.HEALTHY
    silent = "not told whether there is a fence in the kernel: db1, db2"
    assert as_table(found).splitlines()[-1] == silent


def test_where_every_node_has_a_fence_the_table_says_nothing_of_it() -> None:
    assert "fence" not in as_table(made(WELL))


def test_a_node_that_resets_no_connections_though_it_is_to_is_marked_with_the_reason() -> None:
    told = replace(node("db2").advertisement, connections_stay="no\x1bkernel")
    nodes = (replace(node("db2"), advertisement=told), node("db1"))
    found = made(view(POOL, nodes, MARKS))
    assert found.condition is Condition.HEALTHY
    assert as_table(found).splitlines()[-1] == "no connections are reset by db2: no?kernel"
    assert "connections" not in as_table(made(WELL))


def test_certificates_are_at_the_end_of_the_table() -> None:
    assert as_table(with_certificates(*CERTIFICATES)).splitlines()[-5:] == [
        "",
        "CERTIFICATE               OF     EXPIRES     DAYS LEFT",
        "etcd-ca-file /etc/ca.pem  CA?    2027-12-27  400",
        "https://etcd1:2379        etcd1  2026-11-28  6 (renew it)",
        "https://etcd2:2379        etcd2  2026-11-22  expired (renew it)",
    ]


def test_a_holder_that_should_not_hold_an_address_is_told_with_the_reason() -> None:
    """Nobody else can: the entry names an interface that there is not."""
    entry = PoolEntry(ip_address(POOL[0]), interface="eth9")
    seen = replace(WELL, pool=frozen_mapping({**WELL.pool, entry.address: entry}))
    found = made(seen)
    why = "not allowed on eth9 by the helper"
    assert found.addresses[1] == AddressStatus(POOL[0], "db2", why)
    assert found.condition is Condition.DEGRADED
    assert f"192.0.2.10   db2     {why}" in as_table(found)


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
        assert len(as_table(made(seen))) < 1_000_000


def test_keys_without_a_lease_are_told_with_what_is_to_be_done() -> None:
    """Red team: they read "n1 may hold it and has not taken it yet"."""
    stray_mark = mark("192.0.2.9", "nobody", lease=0)
    seen = replace(
        WELL,
        stray_nodes={NodeName("zz"): replace(node("db1"), name=NodeName("zz"), lease=LeaseId(0))},
        stray_marks={stray_mark.address: stray_mark},
    )
    found = made(seen)
    assert found.condition is Condition.DEGRADED
    assert as_table(found).splitlines()[3:7] == [
        "- /service/yaim/nodes/zz counts as no node, as it has no lease: delete it",
        "    etcdctl del /service/yaim/nodes/zz",
        "- /service/yaim/ips/192.0.2.9/marked counts as no mark, as it has no lease: delete it",
        "    etcdctl del /service/yaim/ips/192.0.2.9/marked",
    ]


def test_where_nothing_is_but_wrong_keys_that_is_not_told_as_nothing() -> None:
    nothing = "Nothing is there"
    assert nothing in as_table(made(view((), (), ())))
    wrong = view((), (), (), (WrongEntry("x", "no address"),))
    stray = replace(view((), (), ()), stray_nodes={NodeName("db1"): node("db1")})
    for seen in (wrong, stray):
        assert nothing not in as_table(made(seen))


def test_where_it_is_held_by_another_hand_steers_no_terminal() -> None:
    told = replace(
        having("db2", "192.0.2.9").advertisement,
        present=frozen_mapping({ip_address("192.0.2.9"): "eth0\n\x1b[2J" + "x" * 100_000}),
    )
    lines = as_table(
        made(view(POOL, (node("db1"), replace(node("db2"), advertisement=told)), MARKS))
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
    status = made(seen)
    assert len(as_json(status)) < 8_000_000 and as_table(status)
    assert process_time() - began < 2.0
    assert "; for other reasons: x" in status.addresses[0].reason
