"""What a look at a point has found (yaim/cli/doctor.py shows it)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import ip_address

MOST_ALIKE = 3
"""More findings that differ by their address only are told as one."""
MOST_NAMED = 4
"""The most addresses that such a one names."""


class Verdict(Enum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    NOT_LOOKED_AT = "not looked at"


@dataclass(frozen=True, slots=True)
class Finding:
    point: str
    verdict: Verdict
    text: str
    """What was found; why nobody looked."""
    remedy: str = ""
    """What to do, the very command where possible."""


def ok(point: str, text: str) -> Finding:
    return Finding(point, Verdict.OK, text)


def warning(point: str, text: str, remedy: str) -> Finding:
    return Finding(point, Verdict.WARNING, text, remedy)


def problem(point: str, text: str, remedy: str) -> Finding:
    return Finding(point, Verdict.PROBLEM, text, remedy)


def not_looked_at(point: str, because: str, remedy: str = "") -> Finding:
    return Finding(point, Verdict.NOT_LOOKED_AT, because, remedy)


def needs_root(point: str, what: str) -> Finding:
    return not_looked_at(point, f"only root can {what}", "run yaim doctor as root, too")


def gathered(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, of which those that differ by the first address in them only are one, at the
    place of the first: a pool of 52 addresses that cannot be put here is one problem."""
    alike: dict[object, list[tuple[str, Finding]]] = {}
    for number, each in enumerate(findings):
        address = _first_address(each.text)
        key: object = number
        if address:
            texts = (text.replace(address, "\0") for text in (each.text, each.remedy))
            key = (each.point, each.verdict, *texts)
        alike.setdefault(key, []).append((address, each))
    found: list[Finding] = []
    for several in alike.values():
        if len(several) <= MOST_ALIKE:
            found += (each for _, each in several)
        else:
            found.append(_as_one([address for address, _ in several], several[0][1]))
    return found


def _as_one(addresses: list[str], first: Finding) -> Finding:
    more = ", ..." if len(addresses) > MOST_NAMED else ""
    listed = ", ".join(addresses[:MOST_NAMED]) + more
    remedy = f"for each of them: {first.remedy}" if addresses[0] in first.remedy else first.remedy
    return replace(
        first, text=f"{len(addresses)} addresses ({listed}): {first.text}", remedy=remedy
    )


def _first_address(text: str) -> str:
    """The first IP address in a text; empty if there is none."""
    for word in re.findall(r"[0-9A-Fa-f.:]{3,}", text):
        for address in (str(word), str(word).rstrip(":.")):
            try:
                ip_address(address)
            except ValueError:
                continue
            return address
    return ""
