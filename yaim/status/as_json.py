"""A status for programs: `yaim.status/1`, described in docs/schemas/status-1.json.

Within a version only keys are added. Every key is always there, and null where it is not known,
also when etcd cannot be reached. Keys of etcd that are not UTF-8 are told as a shell reads them.
"""

import json
from datetime import datetime

from yaim.core.model import Order
from yaim.status.explain import Explanation
from yaim.status.facts import (
    AddressStatus,
    CertificateStatus,
    ClusterStatus,
    Condition,
    NodeStatus,
)
from yaim.status.times import written
from yaim.text import parsable, shell_word

SCHEMA = "yaim.status/1"


def as_json(status: ClusterStatus, *, is_line: bool = False) -> str:
    """`is_line`: without line breaks."""
    return dumped(
        _head(status.cluster, status.condition, status.seen_at)
        | {
            "revision": status.revision,
            "error": None,
            "only": list(status.only),
            "problems": [
                {
                    "code": each.code.value,
                    "subject": each.subject,
                    "text": each.text,
                    "remedy": each.remedy,
                }
                for each in status.problems
            ],
            "notes": [{"subject": each.subject, "text": each.text} for each in status.notes],
            "paused": order(status.paused),
            "addresses": [_address(each) for each in status.addresses],
            "nodes": [_node(each) for each in status.nodes],
            "wrong_entries": [
                {"entry": name, "reason": reason} for name, reason in status.wrong_entries
            ],
            "stray_keys": [
                {"key": key if parsable(key) == key else shell_word(key), "reason": reason}
                for key, reason in status.strays
            ],
            "certificates": [_certificate(each) for each in status.certificates],
            "etcd_alarms": list(status.alarms),
        },
        is_line=is_line,
    )


def failed(
    cluster: str, condition: Condition, error: str, now: datetime, *, is_line: bool = False
) -> str:
    """The status where etcd could not be read."""
    unknown = ("revision", "only", "problems", "notes", "paused", "addresses", "nodes")
    further = ("wrong_entries", "stray_keys", "certificates", "etcd_alarms")
    told = _head(cluster, condition, now) | dict.fromkeys((*unknown, *further))
    return dumped(told | {"error": error}, is_line=is_line)


EXPLAIN_SCHEMA = "yaim.explain/1"


def explanation_as_json(cluster: str, found: Explanation, revision: int, now: datetime) -> str:
    """Described in docs/schemas/explain-1.json."""
    return dumped(
        {
            "schema": EXPLAIN_SCHEMA,
            "time": written(now),
            "revision": revision,
            "cluster": cluster,
            "error": None,
            "address": found.address,
            "holder": found.holder,
            "target": found.target,
            "reason": found.reason,
            "nodes": [
                {
                    "name": each.node,
                    "is_holder": each.is_holder,
                    "is_target": each.is_target,
                    "reason": each.reason,
                }
                for each in found.nodes
            ],
        }
    )


def unexplained(cluster: str, address: str, error: str, now: datetime) -> str:
    """Where etcd could not be read, or has no such address or node."""
    unknown = dict.fromkeys(("revision", "holder", "target", "reason", "nodes"))
    head = {"schema": EXPLAIN_SCHEMA, "time": written(now), "cluster": cluster, "error": error}
    return dumped(head | {"address": address} | unknown)


def order(given: Order | None) -> dict[str, object] | None:
    """What an operator has asked for; null: nobody has."""
    if given is None:
        return None
    return {
        "by": given.by or None,
        "reason": given.reason or None,
        "at": given.at or None,
        "until": given.until or None,
    }


def dumped(told: dict[str, object], *, is_line: bool = False) -> str:
    return json.dumps(_parsable(told), indent=None if is_line else 2)


def _head(cluster: str, condition: Condition, now: datetime) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "time": written(now),
        "cluster": cluster,
        "condition": condition.word,
    }


def _address(each: AddressStatus) -> dict[str, object]:
    return {
        "address": each.address,
        "holder": each.holder,
        "reason": each.reason,
        "present": [{"node": name, "where": where} for name, where in each.present],
        "pinned_to": each.pinned_to,
        "moving_to": each.moving_to,
    }


def _node(each: NodeStatus) -> dict[str, object]:
    is_in_force = each.fence.is_in_force if each.fence is not None else None
    return {
        "name": each.name,
        "state": each.state.word,
        "reason": each.reason,
        "address_count": each.address_count,
        "version": each.version,
        "flapping": each.is_flapping if each.is_there else None,
        "waits_s": each.waits_s,
        "takes": each.takes,
        "refused": list(each.refused),
        "fence": {
            "in_force": is_in_force,
            "reason": each.fence.reason if each.fence is not None else "",
        },
        "connections_stay": each.connections_stay,
        "capacity": each.capacity,
        "ttl_s": each.ttl_s,
        "weight": each.weight,
        "drained": order(each.drained),
        "control_revision": each.control,
        "since": each.since,
        "first_seen": each.first_seen,
    }


def _certificate(each: CertificateStatus) -> dict[str, object]:
    return {
        "where": each.what,
        "subject": each.subject,
        "expires": written(each.expires),
        "days_left": each.days_left,
        "pressing": each.is_pressing,
    }


def _parsable(value: object) -> object:
    """The value with all text in it made parsable."""
    match value:
        case str():
            return parsable(value)
        case list():
            return [_parsable(each) for each in value]
        case dict():
            return {name: _parsable(each) for name, each in value.items()}
        case _:
            return value
