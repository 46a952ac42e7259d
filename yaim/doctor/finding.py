"""What a look at a point has found, and how it is shown."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from yaim.text import parsable, shortened

MOST = 2000
"""Characters of a line."""


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


def exit_status(findings: Iterable[Finding]) -> int:
    return 1 if any(each.verdict is Verdict.PROBLEM for each in findings) else 0


def as_table(findings: Sequence[Finding]) -> str:
    verdicts = max((len(each.verdict.value) for each in findings), default=0)
    points = max((len(each.point) for each in findings), default=0)
    lines = []
    for each in findings:
        what = f"{each.verdict.value:{verdicts}}  {each.point:{points}}  "
        lines.append(what + shortened(each.text, MOST))
        if each.remedy:
            lines.append(" " * len(what) + "-> " + shortened(each.remedy, MOST))
    return "\n".join([*lines, "", _summary(findings)])


def _summary(findings: Sequence[Finding]) -> str:
    numbers = [
        (sum(each.verdict is verdict for each in findings), text)
        for verdict, text in (
            (Verdict.PROBLEM, "problems"),
            (Verdict.WARNING, "warnings"),
            (Verdict.NOT_LOOKED_AT, "not looked at"),
        )
    ]
    told = [
        f"{number} {text if number != 1 else text.removesuffix('s')}" for number, text in numbers
    ]
    return f"{', '.join(told)}."


def as_json(findings: Sequence[Finding]) -> str:
    return json.dumps(
        {
            "problems": sum(each.verdict is Verdict.PROBLEM for each in findings),
            "warnings": sum(each.verdict is Verdict.WARNING for each in findings),
            "findings": [
                {
                    "point": each.point,
                    "verdict": each.verdict.value,
                    "text": parsable(each.text),
                    "remedy": parsable(each.remedy),
                }
                for each in findings
            ],
        },
        indent=2,
    )
