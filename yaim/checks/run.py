"""Runs the node's checks again and again and tells the core what they found."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from yaim.boottime import boottime
from yaim.checks.http import HttpCheck, check_http
from yaim.checks.verdict import CannotTell, Healthy, Verdict
from yaim.core.events import CheckAnswered
from yaim.core.model import Boottime

SLACK_S = 0.5
"""How much later than its bound an answer may come before the node counts as unhealthy."""
CHECK = "service"
"""The name of the only check."""


@dataclass(frozen=True, slots=True)
class CheckPlan:
    check: HttpCheck
    interval_s: float
    """From the start of a check to the start of the next."""
    within_s: float
    """The bound on a whole check, all tries and pauses included."""
    retry_num: int
    """How often an attempt that cannot tell is repeated."""
    retry_after_s: float

    @property
    def attempt_s(self) -> float:
        """The bound on one attempt."""
        return (self.within_s - self.retry_num * self.retry_after_s) / (self.retry_num + 1)


class CheckRunner:
    """Started by its construction."""

    def __init__(self, plan: CheckPlan, post: Callable[[CheckAnswered], None]) -> None:
        self._plan = plan
        self._post = post
        self._changed = threading.Event()
        threading.Thread(target=self._work, name="checks", daemon=True).start()

    def use(self, plan: CheckPlan) -> None:
        """From the next check on, which is made at once."""
        self._plan = plan
        self._changed.set()

    def _work(self) -> None:
        while True:
            self._changed.clear()
            plan = self._plan
            started = boottime()
            verdict = run_check(plan, self._changed.wait)
            if plan is not self._plan:
                continue
            valid_until = Boottime(started + plan.interval_s + plan.within_s + SLACK_S)
            is_healthy = isinstance(verdict, Healthy)
            self._post(CheckAnswered(CHECK, is_healthy, verdict.reason, valid_until))
            self._changed.wait(max(0.0, started + plan.interval_s - boottime()))


def run_check(plan: CheckPlan, pause: Callable[[float], bool | None]) -> Verdict:
    """One whole check: an attempt, and more as long as it cannot tell. `pause` waits so many
    seconds; it says whether to give up."""
    verdict = check_http(plan.check, plan.attempt_s)
    for _ in range(plan.retry_num):
        if not isinstance(verdict, CannotTell) or pause(plan.retry_after_s):
            break
        verdict = check_http(plan.check, plan.attempt_s)
    return verdict
