"""`yaim pool list` and `yaim node list`."""

from dataclasses import replace

from tests.steer.clusters import at, cluster, control, name, node
from tests.steer.schemas import validated
from yaim.core.model import PoolEntry, WrongEntry
from yaim.steer.listing import node_lines, nodes_as_json, pool_as_json, pool_lines

HEAD = {"time": "2026-12-01T03:00:00Z", "cluster": "/service/yaim/", "revision": 7, "error": None}
VIEW = replace(
    cluster(
        "120",
        (node(1, is_drained=True), node(2, is_healthy=False), node(3, waits_s=40)),
        control(
            drains=(1, 8),
            pins={1: 1},
            weights={3: 4},
            members={1: False, 2: False, 4: True, 5: False},
        ),
        {2: PoolEntry(at(2), "eth1", 24, frozenset({name(3)}), frozenset({name(1), name(2)}))},
    ),
    wrong=(WrongEntry("192.0.2.09", "not an address"),),
)


def test_the_pool_is_listed_with_holders_pins_and_options() -> None:
    assert pool_lines(VIEW) == [
        "ADDRESS    HOLDER      PINNED TO  OPTIONS",
        "192.0.2.1  n1          n1",
        "192.0.2.2  n2                     interface eth1; prefix 24; prefer n1, n2; exclude n3",
        "192.0.2.3  - nobody -",
        "",
        "WRONG POOL ENTRY  REASON",
        "192.0.2.09        not an address",
    ]
    told = validated({"schema": "yaim.pool/1", **HEAD, **pool_as_json(VIEW)})
    assert told["addresses"][1] == {
        "address": "192.0.2.2",
        "holder": "n2",
        "pinned_to": None,
        "interface": "eth1",
        "prefix": 24,
        "prefer": ["n1", "n2"],
        "exclude": ["n3"],
        "fault": None,
    }
    assert [each["holder"] for each in told["addresses"]] == ["n1", "n2", None]


def test_an_entry_that_is_wrong_is_listed_as_such() -> None:
    view = cluster("1", entries={1: PoolEntry(at(1), fault="prefix is 'x'")})
    assert pool_lines(view)[1] == "192.0.2.1  n1                 wrong: prefix is 'x'"
    assert validated({"schema": "yaim.pool/1", **HEAD, **pool_as_json(view)})["addresses"][0][
        "fault"
    ] == ("prefix is 'x'")


def test_nodes_are_listed_also_those_that_are_missing() -> None:
    assert node_lines(VIEW) == [
        "NODE  STATE                      ADDRESSES  WEIGHT  SINCE                 VERSION",
        "n1    healthy, drained           1          1       2026-11-30T00:00:00Z  1.4",
        "n2    unhealthy                  1          1       2026-11-30T00:00:00Z  1.4",
        "n3    healthy, waits (flapping)  0          4       -                     1.4",
        "n4    stopped                    0          1       2026-11-30T00:00:00Z  1.4",
        "n5    missing                    0          1       -                     1.4",
        "n8    never seen, drained        0          1       -                     -",
    ]
    told = validated({"schema": "yaim.nodes/1", **HEAD, "nodes": nodes_as_json(VIEW)})
    assert [each["state"] for each in told["nodes"]] == [
        *("healthy", "unhealthy", "healthy", "stopped", "missing", "never-seen"),
    ]
