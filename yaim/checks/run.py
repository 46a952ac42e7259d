"""Runs the node's checks again and again, each in a thread of its own, and tells the core what they
found."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from yaim.checks.kinds import CheckKind
from yaim.checks.verdict import CannotTell, Healthy, Verdict
from yaim.config_keys import KeyGroup
from yaim.core.events import CheckAnswered
from yaim.core.model import Boottime
from yaim.host.boottime import boottime
from yaim.text import printable

logger = logging.getLogger(__name__)

SLACK_S = 0.5
"""An answer may come so much later than its bound before the check counts as failed."""
END_S = 0.04
"""So much of an attempt's share of the time is for ending it: a command has to be killed."""


@dataclass(frozen=True, slots=True)
class CheckPlan:
    name: str
    kind: CheckKind
    settings: KeyGroup
    interval_s: float
    """The time from the start of a check to the start of the next."""
    timeout_s: float
    """The bound on a whole check, all tries and pauses included."""
    retry_num: int
    """An attempt that cannot tell is repeated so often."""
    retry_after_s: float

    @property
    def attempt_s(self) -> float:
        """The bound on one attempt."""
        pauses_s = self.retry_num * self.retry_after_s
        return (self.timeout_s - pauses_s) / (self.retry_num + 1) - END_S

    def attempt(self) -> Verdict:
        try:
            return self.kind.attempt(self.settings, self.attempt_s)
        except Exception as error:
            # Such as no more threads. It must not end the coordinator: it would be the next time.
            logger.debug("check %s", self.name, exc_info=True)
            return CannotTell(f"the check itself has failed: {printable(repr(error))}")


@dataclass(frozen=True, slots=True)
class Result:
    """What a whole check has found."""

    verdict: Verdict
    tries: int
    took_s: float

    @property
    def is_healthy(self) -> bool:
        return isinstance(self.verdict, Healthy)

    def __str__(self) -> str:
        """The reason with the tries, such as `connection refused (4 tries, 752 ms)`."""
        tries = f"{self.tries} tries, " if self.tries > 1 else ""
        return f"{self.verdict.reason} ({tries}{1000 * self.took_s:.0f} ms)"


class CheckRunner:
    """Started by its construction."""

    def __init__(self, plans: Sequence[CheckPlan], post: Callable[[CheckAnswered], None]) -> None:
        self._post = post
        self._running: dict[str, _Repeated] = {}
        self.use(plans)

    def use(self, plans: Sequence[CheckPlan]) -> None:
        """Makes these checks from now on. A check that has changed or is new is made at once."""
        for name in self._running.keys() - {plan.name for plan in plans}:
            self._running.pop(name).use(None)
        for plan in plans:
            if plan.name in self._running:
                self._running[plan.name].use(plan)
            else:
                self._running[plan.name] = _Repeated(plan, self._post)

    def make_now(self) -> None:
        """Makes each check at once; one that is under way ends first, as it may have looked before
        there was a reason to. Any thread may call this."""
        for each in tuple(self._running.values()):
            each.make_now()


class _Repeated:
    """A check with its thread."""

    def __init__(self, plan: CheckPlan, post: Callable[[CheckAnswered], None]) -> None:
        self._plan: CheckPlan | None = plan
        self._post = post
        self._changed = threading.Event()
        self._due = threading.Event()
        threading.Thread(target=self._work, name=f"check {plan.name}", daemon=True).start()

    def use(self, plan: CheckPlan | None) -> None:
        """Makes this check from now on; None: no more, once the present attempt has ended."""
        if plan != self._plan:
            self._plan = plan
            self._changed.set()
            self._due.set()

    def make_now(self) -> None:
        self._due.set()

    def _work(self) -> None:
        while True:
            self._changed.clear()
            self._due.clear()
            plan = self._plan
            if plan is None:
                return
            started = boottime()
            result = run_check(plan, self._changed.wait)
            if plan is not self._plan:
                continue
            valid_until = Boottime(started + plan.interval_s + plan.timeout_s + SLACK_S)
            self._post(CheckAnswered(plan.name, result.is_healthy, str(result), valid_until))
            self._due.wait(max(0.0, started + plan.interval_s - boottime()))


def run_check(plan: CheckPlan, pause: Callable[[float], bool | None]) -> Result:
    """Makes one whole check: an attempt, and more as long as it cannot tell. `pause` waits so many
    seconds, and says whether to give up."""
    started = boottime()
    verdict, tries = plan.attempt(), 1
    while isinstance(verdict, CannotTell) and tries <= plan.retry_num:
        if pause(plan.retry_after_s):
            break
        verdict, tries = plan.attempt(), tries + 1
    return Result(verdict, tries, boottime() - started)
