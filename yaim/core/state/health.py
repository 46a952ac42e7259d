"""How the node's health follows from what its checks find, and how long it waits after failures.

A check changes only after so many answers in a row that say otherwise (rise, fall); its first
answer counts at once, and so does its silence. The node is healthy when all checks are, or when
any is. As long as a check that could decide has not answered yet, it is not known: that is neither
healthy nor unhealthy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from yaim.core.actions import Level, Tell
from yaim.core.events import CheckAnswered
from yaim.core.model import NEVER, Boottime, frozen_mapping
from yaim.core.settings import CheckSettings, Settings
from yaim.core.state.flapping import Flaps
from yaim.core.state.wake import soonest

OVERDUE = "has not answered in time"


@dataclass(frozen=True, slots=True)
class Health:
    is_healthy: bool
    reason: str
    checks: tuple[str, ...] = ()
    """The checks that make it so, where there are several."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of a check that has answered."""

    is_healthy: bool
    reason: str
    """The reason of the answer that made it so."""
    valid_until: Boottime
    """Without a newer answer by then it counts as failed."""
    against: int = 0
    """How many answers in a row, the latest ones, say otherwise."""


@dataclass(frozen=True, slots=True)
class HealthState:
    checks: Mapping[str, Checked] = field(default_factory=lambda: frozen_mapping({}))
    """Each check's name with what is known of it; a check that has not answered yet is not here."""
    awaited: Mapping[str, Boottime] = field(default_factory=lambda: frozen_mapping({}))
    """The names of the checks that have not answered yet, and when each counts as failed."""
    judged: Health | None = None
    """The health as the checks have it. None: they have not answered yet; keep what is held, take
    nothing."""
    flaps: Flaps = field(default_factory=Flaps)
    waits_s: float = 0.0
    """How long the present wait of a node is that becomes unhealthy again and again; 0: none."""

    def after_answer(self, event: CheckAnswered, settings: Settings, tell: Tell) -> "HealthState":
        """A late answer of a check that is no longer made does not count."""
        found = self
        for check in settings.checks:
            if check.name == event.check:
                before = found.checks.get(check.name)
                answer = event.is_healthy, event.reason, event.valid_until
                now_known = after_answer(check, before, *answer)
                found = found._with_check(check.name, now_known, settings, tell)
        return found

    def after_settings(self, before: Settings, after: Settings, now: Boottime) -> "HealthState":
        """What the present answers say stays until those that are asked for now must have come,
        which may have to wait for an attempt that is under way."""
        before_s = {check.name: check.answers_within_s for check in before.checks}
        known, awaited = {}, {}
        for check in after.checks:
            until = now + before_s.get(check.name, 0.0) + check.answers_within_s
            checked = self.checks.get(check.name)
            if checked is None:
                awaited[check.name] = Boottime(until)
            else:
                until = max(checked.valid_until, until)
                known[check.name] = replace(at(checked, now), valid_until=Boottime(until))
        return replace(self, checks=frozen_mapping(known), awaited=frozen_mapping(awaited))

    def at(self, now: Boottime, settings: Settings, tell: Tell) -> "HealthState":
        """What the checks amount to, once for all that has happened."""
        found = self._awaiting_first_answers(now, settings, tell)
        for name, checked in found.checks.items():
            if (silent := at(checked, now)) != checked:
                found = found._with_check(name, silent, settings, tell)
        before, health = found.judged, judge(settings, found.checks)
        if health is not None and (before is None or before.is_healthy != health.is_healthy):
            # Why a check has failed was told already, where there are several.
            why = ", ".join(health.checks) or health.reason
            _report("", health.is_healthy, why, tell)
        return found if health == before else replace(found, judged=health)

    def _awaiting_first_answers(
        self, now: Boottime, settings: Settings, tell: Tell
    ) -> "HealthState":
        found, awaited = self, {}
        for check in settings.checks:
            if check.name not in self.checks:
                until = Boottime(now + check.answers_within_s)
                awaited[check.name] = self.awaited.get(check.name, until)
        if awaited != self.awaited:
            found = replace(found, awaited=frozen_mapping(awaited))
        for name, until in awaited.items():
            if now >= until:
                found = found._with_check(name, Checked(False, OVERDUE, until), settings, tell)
        return found

    def _with_check(
        self, name: str, checked: Checked, settings: Settings, tell: Tell
    ) -> "HealthState":
        """A change of an only check is told as one of the node's health."""
        before = self.checks.get(name)
        is_change = before is None or before.is_healthy != checked.is_healthy
        if is_change and len(settings.checks) > 1:
            _report(f"check {name}: ", checked.is_healthy, checked.reason, tell)
        return replace(self, checks=frozen_mapping({**self.checks, name: checked}))

    def waiting(
        self, is_healthy: bool, max_wait_s: float, now: Boottime, tell: Tell
    ) -> "HealthState":
        """Whether this node waits now: it is healthy, and has not been again and again.
        `is_healthy`: as health counts now, if the checks have judged it."""
        flaps = self.flaps
        if self.judged is not None:
            flaps = flaps.after(is_healthy, now, max_wait_s)
        is_waiting = flaps.is_healthy and now < flaps.waits_until(max_wait_s)
        waits_s = flaps.wait_s(max_wait_s) if is_waiting else 0.0
        if waits_s and not self.waits_s:
            tell(
                Level.WARNING,
                f"was unhealthy {flaps.falls} times of late: waits {waits_s:g} s before it takes"
                " addresses that other nodes can hold",
            )
        elif self.waits_s and not waits_s and flaps.is_healthy:
            tell(Level.INFO, "has waited long enough: takes addresses again")
        if flaps is self.flaps and waits_s == self.waits_s:
            return self
        return replace(self, flaps=flaps, waits_s=waits_s)

    def wake_at(self, now: Boottime, max_wait_s: float) -> float:
        waits_until = self.flaps.waits_until(max_wait_s) if self.waits_s else NEVER
        valid = (checked.valid_until for checked in self.checks.values())
        return soonest(now, (waits_until, *valid, *self.awaited.values()))


def _report(what: str, is_healthy: bool, reason: str, tell: Tell) -> None:
    level = Level.INFO if is_healthy else Level.WARNING
    tell(level, f"{what}{'healthy' if is_healthy else 'unhealthy'}: {reason}")


def after_answer(
    check: CheckSettings, before: Checked | None, is_healthy: bool, reason: str, until: Boottime
) -> Checked:
    """Returns what is known of the check after this answer, which is valid `until`."""
    if before is None:
        return Checked(is_healthy, reason, until)
    if is_healthy == before.is_healthy:
        told = reason if before.reason == OVERDUE else before.reason
        return replace(before, reason=told, valid_until=until, against=0)
    needed = check.rise if is_healthy else check.fall
    if before.against + 1 < needed:
        return replace(before, valid_until=until, against=before.against + 1)
    return Checked(is_healthy, f"{reason}, {needed} in a row" if needed > 1 else reason, until)


def at(checked: Checked, now: Boottime) -> Checked:
    """Silence changes a check as a failure does, whatever its `fall`; and what it has said before
    is not in a row with what it says after."""
    if now < checked.valid_until:
        return checked
    reason = OVERDUE if checked.is_healthy else checked.reason
    return replace(checked, is_healthy=False, reason=reason, against=0)


def judge(settings: Settings, checked: Mapping[str, Checked]) -> Health | None:
    """Returns the node's health, as far as its checks decide it; None: not known yet."""
    names = [check.name for check in settings.checks]
    well = [name for name in names if name in checked and checked[name].is_healthy]
    ill = [name for name in names if name in checked and not checked[name].is_healthy]
    if not names:
        return None
    is_healthy = well == names or bool(well and settings.is_any_enough)
    if not is_healthy and ill != names and (not ill or settings.is_any_enough):
        return None
    if len(names) == 1:
        return Health(is_healthy, _of_an_only_check(names[0], checked))
    why_ill = "; ".join(f"{name}: {checked[name].reason}" for name in ill)
    if not is_healthy:
        return Health(False, why_ill, tuple(ill))
    reason = ", ".join(well) + (f"; failing: {why_ill}" if ill else "")
    return Health(True, reason, tuple(well))


def _of_an_only_check(name: str, checked: Mapping[str, Checked]) -> str:
    reason = checked[name].reason
    return f"check {name} {reason}" if reason == OVERDUE else reason
