"""What a look at a point has found (yaim/cli/doctor.py shows it)."""

from dataclasses import dataclass
from enum import Enum


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
