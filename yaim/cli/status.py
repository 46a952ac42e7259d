"""`yaim status`: looks at the cluster once and shows who holds what."""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime

from yaim.cli.options import add_config_options, complain, load_or_exit
from yaim.config.load import Purpose
from yaim.dcs.etcd.full import NO_SPACE, remedy_for
from yaim.status.facts import (
    AddressStatus,
    CertificateStatus,
    ClusterStatus,
    Condition,
    NodeStatus,
    certificates_of,
    status_of,
)
from yaim.text import MOST_LAST, columns, parsable, shell_word, shortened

LOOK_WITHIN_S = 2.0
"""How long it waits for the endpoints' certificates: an endpoint may be down."""
_NOBODY_JOINS = (
    "While etcd is full a node without a lease cannot join, and one that cannot write there what it"
    " can hold has withdrawn: neither is listed here."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument("--json", action="store_true", help="for programs")
    add_config_options(parser)


def run(options: argparse.Namespace) -> int:
    loaded = load_or_exit(options, Purpose.CLUSTER)
    from yaim.dcs.store import StoreError
    from yaim.wiring import store_parts_of

    parts = store_parts_of(loaded)
    try:
        seen = parts.look(LOOK_WITHIN_S)
    except StoreError as error:
        if options.json:
            print(json.dumps({"status": "unreachable", "error": str(error)}, indent=2))
        else:
            complain(f"cannot read etcd: {error}")
        return Condition.UNREACHABLE
    certificates = certificates_of(seen.certificates, datetime.now(UTC))
    found = status_of(parts.prefix, seen.view, certificates, seen.alarms)
    print(as_json(found) if options.json else as_table(found))
    return found.condition


def as_json(status: ClusterStatus) -> str:
    """The status for programs. Keys that are not UTF-8 are told as a shell reads them."""
    told: dict[str, object] = {
        "status": status.condition.name.lower(),
        "cluster": status.cluster,
        "addresses": [
            {
                "address": each.address,
                "holder": each.holder,
                "reason": each.reason,
                "present": [{"node": name, "where": where} for name, where in each.present],
            }
            for each in status.addresses
        ],
        "nodes": [
            {
                "name": each.name,
                "healthy": each.is_healthy,
                "reason": each.reason,
                "addresses": each.address_count,
                "version": each.version,
                "waits_s": each.waits_s,
                "takes": each.takes,
                "refused": list(each.refused),
                "fence": {
                    "in_force": each.fence.is_in_force if each.fence is not None else None,
                    "reason": each.fence.reason if each.fence is not None else "",
                },
                "connections_stay": each.connections_stay,
            }
            for each in status.nodes
        ],
        "wrong_entries": [
            {"entry": name, "reason": reason} for name, reason in status.wrong_entries
        ],
        "certificates": [
            {
                "where": each.what,
                "subject": each.subject,
                "expires": each.expires.isoformat(),
                "days_left": each.days_left,
                "pressing": each.is_pressing,
            }
            for each in status.certificates
        ],
        "etcd_alarms": list(status.alarms),
        "stray_keys": [
            {"key": key if parsable(key) == key else shell_word(key), "reason": reason}
            for key, reason in status.strays
        ],
    }
    return json.dumps(_parsable(told), indent=2)


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


def as_table(status: ClusterStatus) -> str:
    lines = [f"Cluster {status.cluster} is {status.condition.name.lower()}.", ""]
    lines += [f"etcd has raised the alarm {each}: {remedy_for(each)}" for each in status.alarms]
    lines += [_NOBODY_JOINS] if NO_SPACE in status.alarms else []
    lines += [""] if status.alarms else []
    lines += columns(
        ("ADDRESS", "HOLDER"),
        [(each.address, _holder(each)) for each in status.addresses],
    )
    lines += [
        shortened(each.complaint, MOST_LAST)
        for each in status.addresses
        if each.holder and each.present
    ]
    lines.append("")
    lines += columns(
        ("NODE", "HEALTH", "ADDRESSES", "REASON"),
        [
            (
                each.name,
                _health(each),
                str(each.address_count),
                each.reason,
            )
            for each in status.nodes
        ],
    )
    lines += _fences(status.nodes)
    lines += [
        shortened(f"no connections are reset by {each.name}: {each.connections_stay}", MOST_LAST)
        for each in status.nodes
        if each.connections_stay
    ]
    if status.wrong_entries:
        lines += ["", *columns(("WRONG POOL ENTRY", "REASON"), status.wrong_entries)]
    if status.strays:
        keys = [(shell_word(key), reason) for key, reason in status.strays]
        lines += ["", *columns(("STRAY KEY", "REASON"), keys)]
    if status.certificates:
        rows = [
            (each.what, each.subject, f"{each.expires:%Y-%m-%d}", _days_left(each))
            for each in status.certificates
        ]
        lines += ["", *columns(("CERTIFICATE", "OF", "EXPIRES", "DAYS LEFT"), rows)]
    if not any((status.addresses, status.nodes, status.wrong_entries, status.strays)):
        lines += ["", "Nothing is there: are dcs-namespace and dcs-clustername right?"]
    return "\n".join(lines)


def _holder(address: AddressStatus) -> str:
    holder = address.holder or "- nobody -"
    return f"{holder} ({address.reason})" if address.reason else holder


def _health(node: NodeStatus) -> str:
    if not node.is_healthy:
        return "unhealthy"
    words = ["healthy"]
    if node.waits_s:
        words.append(f"waits {node.waits_s:g} s (flapping)")
    if not node.takes:
        words.append("takes nothing for now")
    if count := len(node.refused):
        words.append(f"refuses {count} address{'es' * (count > 1)} (its log says why)")
    return ", ".join(words)


def _fences(nodes: Sequence[NodeStatus]) -> list[str]:
    """The nodes without a fence, and why; and those that do not tell of any."""
    told = [(each.name, each.fence) for each in nodes]
    lines = [
        f"no fence in the kernel of {name}: {fence.reason}"
        for name, fence in told
        if fence is not None and not fence.is_in_force
    ]
    if silent := [name for name, fence in told if fence is None]:
        lines.append(f"not told whether there is a fence in the kernel: {', '.join(silent)}")
    return [shortened(line, MOST_LAST) for line in lines]


def _days_left(certificate: CertificateStatus) -> str:
    days_left = str(certificate.days_left) if certificate.days_left >= 0 else "expired"
    return f"{days_left} (renew it)" if certificate.is_pressing else days_left
