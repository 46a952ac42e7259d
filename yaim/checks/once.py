"""`yaim check`: the checks made once, side by side, and what they have found."""

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import assert_never

from yaim.checks.run import CheckPlan, Result, run_check
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.text import columns


@dataclass(frozen=True, slots=True)
class Found:
    name: str
    kind: str
    result: Result


def check_once(plans: Sequence[CheckPlan]) -> tuple[Found, ...]:
    """In the order of the plans. Takes as long as the slowest, which its timeout bounds."""
    pause = threading.Event().wait
    with ThreadPoolExecutor(max_workers=len(plans)) as threads:
        results = list(threads.map(lambda plan: run_check(plan, pause), plans))
    return tuple(
        Found(plan.name, plan.kind.name, result)
        for plan, result in zip(plans, results, strict=True)
    )


def is_healthy(found: Sequence[Found], is_any_enough: bool) -> bool:
    """What a node makes of it that has just started: rise and fall do not count yet."""
    every = [each.result.is_healthy for each in found]
    return any(every) if is_any_enough else all(every)


def as_table(found: Sequence[Found], is_any_enough: bool) -> str:
    rows = [
        (
            each.name,
            each.kind,
            _word(each.result.verdict),
            f"{1000 * each.result.took_s:.0f} ms",
            str(each.result.tries),
            each.result.verdict.reason,
        )
        for each in found
    ]
    lines = columns(("CHECK", "TYPE", "RESULT", "TOOK", "TRIES", "FOUND"), rows)
    if len(found) > 1:
        word = "healthy" if is_healthy(found, is_any_enough) else "unhealthy"
        needed = "any of them is enough" if is_any_enough else "all of them have to be good"
        lines += ["", f"The node is {word}: {needed} (healthy-when)."]
    return "\n".join(lines)


def as_json(found: Sequence[Found], is_any_enough: bool) -> str:
    return json.dumps(
        {
            "healthy": is_healthy(found, is_any_enough),
            "checks": [
                {
                    "name": each.name,
                    "type": each.kind,
                    "result": _word(each.result.verdict),
                    "took_s": round(each.result.took_s, 6),
                    "tries": each.result.tries,
                    "found": each.result.verdict.reason,
                }
                for each in found
            ],
        },
        indent=2,
    )


def _word(verdict: Verdict) -> str:
    match verdict:
        case Healthy():
            return "healthy"
        case Unhealthy():
            return "unhealthy"
        case CannotTell():
            return "no answer"
        case _:
            assert_never(verdict)
