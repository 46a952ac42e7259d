"""A status for programs, as docs/schemas/status-1.json describes it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.status.clusters import (
    CERTIFICATES,
    CLUSTER,
    ELSEWHERE,
    EMPTY,
    FLAPPING,
    NOW,
    POOL,
    STALE,
    UNHEALTHY,
    UNHELD,
    WELL,
    WRONG,
    fenced,
    made,
    node,
    view,
    with_certificates,
)
from tests.status.test_problems import BY, HERE, STOPPED
from yaim.core.model import (
    Control,
    LeaseId,
    Member,
    Move,
    NodeName,
    Order,
    Pin,
    Revision,
    Weight,
    WrongEntry,
    frozen_mapping,
)
from yaim.status.as_json import as_json, failed
from yaim.status.facts import Condition, only

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "docs/schemas/status-1.json").read_text()
)
CONTROL = Control(
    Revision(6),
    drains=frozen_mapping({NodeName("db2"): BY}),
    pause=Order(),
    pins=frozen_mapping({ip_address("192.0.2.9"): Pin(NodeName("db1"), BY)}),
    moves=frozen_mapping({ip_address("192.0.2.10"): Move(NodeName("db1"), BY)}),
    weights=frozen_mapping({NodeName("db1"): Weight(5, BY)}),
    members=frozen_mapping({NodeName("db3"): HERE, NodeName("db4"): STOPPED}),
    wrong=(WrongEntry("control/pin/x", "no address"),),
)
STEERED = replace(WELL, control=CONTROL)
SEEN = (WELL, UNHELD, UNHEALTHY, WRONG, STALE, FLAPPING, ELSEWHERE, EMPTY, STEERED)


def objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All schemas of objects in a schema."""
    if "properties" in schema:
        yield schema
    for each in schema.values():
        for inner in each if isinstance(each, list) else [each]:
            if isinstance(inner, dict):
                yield from objects(inner)


def strict(schema: Any) -> Any:
    """The schema with no further keys allowed: what is told is to be described."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return {name: strict(each) for name, each in schema.items()} | closed


def validated(text: str) -> Any:
    told = json.loads(text)
    jsonschema.validate(told, strict(SCHEMA))
    return told


def test_every_key_of_the_schema_is_always_there() -> None:
    assert all(set(each["required"]) == each["properties"].keys() for each in objects(SCHEMA))


@pytest.mark.parametrize("seen", SEEN, ids=range(len(SEEN)))
def test_what_is_told_is_as_the_schema_says(seen: Any) -> None:
    status = made(seen)
    told = validated(as_json(status))
    assert (told["condition"], told["error"]) == (status.condition.word, None)
    assert len(told["problems"]) == len(status.problems)
    assert validated(as_json(only(status, ("db1",))))["only"] == ["db1"]
    assert len(as_json(status, is_line=True).splitlines()) == 1


@pytest.mark.parametrize("condition", [Condition.UNREACHABLE, Condition.NOT_PERMITTED])
def test_an_etcd_that_cannot_be_read_is_told_with_every_key(condition: Condition) -> None:
    """Two keys only, and other ones."""
    told = validated(failed(CLUSTER, condition, "refuses the connection", NOW))
    assert told.keys() == SCHEMA["properties"].keys()
    known = {name: value for name, value in told.items() if value is not None}
    assert known == {
        "schema": "yaim.status/1",
        "time": "2026-11-22T12:00:00Z",
        "cluster": "/service/yaim/",
        "condition": condition.word,
        "error": "refuses the connection",
    }


def test_a_whole_status_is_told() -> None:
    seen = view(
        POOL[:1],
        (node("db1"), node("db2", "Connection refused", False)),
        (),
        (WrongEntry("x", "not an address"),),
    )
    absent = {"drained": None, "since": None, "first_seen": None}
    told: dict[str, object] = {
        "address_count": 0,
        "version": "1.0",
        "flapping": False,
        "waits_s": 0.0,
        "takes": True,
        "refused": [],
        "fence": {"in_force": True, "reason": ""},
        "connections_stay": "",
        "capacity": None,
        "ttl_s": None,
        "weight": 1,
        "control_revision": None,
        **absent,
    }
    assert validated(as_json(made(seen))) == {
        "schema": "yaim.status/1",
        "time": "2026-11-22T12:00:00Z",
        "cluster": "/service/yaim/",
        "condition": "degraded",
        "revision": 7,
        "error": None,
        "only": [],
        "problems": [
            {
                "code": "address-unheld",
                "subject": "192.0.2.10",
                "text": "is held by nobody: db1 may hold it and has not taken it yet",
                "remedy": "see the nodes, and their logs",
            },
            {
                "code": "node-unhealthy",
                "subject": "db2",
                "text": "is unhealthy: Connection refused",
                "remedy": "there: yaim check, yaim doctor",
            },
            {
                "code": "wrong-pool-entry",
                "subject": "x",
                "text": "is a wrong pool entry: not an address",
                "remedy": "etcdctl del /service/yaim/ips/x",
            },
        ],
        "notes": [],
        "paused": None,
        "addresses": [
            {
                "address": "192.0.2.10",
                "holder": None,
                "reason": "db1 may hold it and has not taken it yet",
                "present": [],
                "pinned_to": None,
                "moving_to": None,
            }
        ],
        "nodes": [
            {"name": "db1", "state": "healthy", "reason": "HTTP 200", **told},
            {"name": "db2", "state": "unhealthy", "reason": "Connection refused", **told},
        ],
        "wrong_entries": [{"entry": "x", "reason": "not an address"}],
        "certificates": [],
        "etcd_alarms": [],
        "stray_keys": [],
    }


def test_what_operators_have_asked_for_is_told() -> None:
    told = validated(as_json(made(STEERED)))
    order = {
        "by": "root@db1",
        "reason": "kernel upgrade",
        "at": "2026-11-22T11:00:00Z",
        "until": "2026-11-22T13:00:00Z",
    }
    assert told["paused"] == dict.fromkeys(order)
    assert [(each["pinned_to"], each["moving_to"]) for each in told["addresses"]] == [
        ("db1", None),
        (None, "db1"),
        (None, None),
    ]
    assert [(each["name"], each["state"], each["weight"]) for each in told["nodes"]] == [
        ("db1", "healthy", 5),
        ("db2", "healthy", 1),
        ("db3", "missing", 1),
        ("db4", "stopped", 1),
    ]
    db2, db4 = told["nodes"][1], told["nodes"][3]
    assert db2["drained"] == order
    assert (db4["since"], db4["first_seen"]) == (STOPPED.at, STOPPED.first_seen)
    assert (db4["takes"], db4["fence"]) == (None, {"in_force": None, "reason": ""})


def test_of_older_nodes_it_is_not_told_whether_they_have_a_fence() -> None:
    found = made(view(POOL, (fenced("db2", None), fenced("db1", None)), ()))
    told = [each["fence"] for each in validated(as_json(found))["nodes"]]
    assert told == [{"in_force": None, "reason": ""}] * 2


def test_where_a_node_has_an_address_for_another_reason_is_told() -> None:
    told = validated(as_json(made(replace(ELSEWHERE, marks=frozen_mapping({})))))
    assert told["addresses"][0]["present"] == [{"node": "db2", "where": "eth0, /24"}]


def test_certificates_are_told() -> None:
    told = validated(as_json(with_certificates(*CERTIFICATES)))
    assert (told["condition"], told["certificates"][1:]) == (
        "degraded",
        [
            {
                "where": "https://etcd1:2379",
                "subject": "etcd1",
                "expires": "2026-11-28T13:00:00Z",
                "days_left": 6,
                "pressing": True,
            },
            {
                "where": "https://etcd2:2379",
                "subject": "etcd2",
                "expires": "2026-11-22T11:00:00Z",
                "days_left": -1,
                "pressing": True,
            },
        ],
    )
    assert not told["certificates"][0]["pressing"]


def test_alarms_and_stray_keys_are_told() -> None:
    stray = replace(node("db1"), name=NodeName("zz"), lease=LeaseId(0))
    seen = replace(WELL, stray_nodes={stray.name: stray})
    told = validated(as_json(made(seen, alarms=("NOSPACE", "CORRUPT"))))
    assert told["etcd_alarms"] == ["CORRUPT", "NOSPACE"]
    assert [each["key"] for each in told["stray_keys"]] == ["/service/yaim/nodes/zz"]


def test_what_is_not_utf8_is_json_that_any_parser_takes() -> None:
    """Red team: half of a pair of surrogates."""
    stray = replace(node("db1"), name=NodeName("n\udcff"), lease=LeaseId(0))
    odd = replace(node("db1").advertisement, reason="\ud800", version="\udfff")
    seen = replace(
        view(POOL, (replace(node("db1"), advertisement=odd),), (), (WrongEntry("x\udcff", ""),)),
        stray_nodes={stray.name: stray, NodeName("é"): replace(stray, name=NodeName("é"))},
        control=Control(members=frozen_mapping({NodeName("m\udcff"): Member("", False, "")})),
    )
    told = validated(as_json(made(seen)))
    assert json.dumps(told, ensure_ascii=False).encode()
    assert [each["key"] for each in told["stray_keys"]] == [
        "$'/service/yaim/nodes/n\\xff'",
        "/service/yaim/nodes/é",
    ]
