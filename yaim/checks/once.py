"""Makes the checks once, side by side, for `yaim check` and `yaim doctor`."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from yaim.checks.run import CheckPlan, Result, run_check


@dataclass(frozen=True, slots=True)
class Found:
    name: str
    kind: str
    result: Result


def check_once(plans: Sequence[CheckPlan]) -> tuple[Found, ...]:
    """What the checks find, in the order of the plans. Takes as long as the slowest check, which
    its timeout bounds."""
    pause = threading.Event().wait
    with ThreadPoolExecutor(max_workers=len(plans)) as threads:
        results = list(threads.map(lambda plan: run_check(plan, pause), plans))
    return tuple(
        Found(plan.name, plan.kind.name, result)
        for plan, result in zip(plans, results, strict=True)
    )


def is_healthy(found: Sequence[Found], is_any_enough: bool) -> bool:
    """Whether a node that has just started is healthy then: rise and fall do not count yet."""
    every = [each.result.is_healthy for each in found]
    return any(every) if is_any_enough else all(every)
