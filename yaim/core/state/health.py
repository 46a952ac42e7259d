"""How the node's health follows from what its checks find.

A check changes only after so many answers in a row that say otherwise (rise, fall); its first
answer counts at once, and so does its silence. The node is healthy when all checks are, or when
any is. As long as a check that could decide has not answered yet, it is not known: that is neither
healthy nor unhealthy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from yaim.core.model import Boottime
from yaim.core.settings import CheckSettings, Settings

OVERDUE = "has not answered in time"


@dataclass(frozen=True, slots=True)
class Health:
    is_healthy: bool
    reason: str
    checks: tuple[str, ...] = ()
    """Those that make it so, where there are several."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of a check that has answered."""

    is_healthy: bool
    reason: str
    """Of the answer that made it so."""
    valid_until: Boottime
    """Without a newer answer by then it counts as failed."""
    against: int = 0
    """The latest answers in a row that say otherwise."""


def after_answer(
    check: CheckSettings, before: Checked | None, is_healthy: bool, reason: str, until: Boottime
) -> Checked:
    """What is known of the check after this answer, which is valid `until`."""
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
    """The node's health, as far as its checks decide it; None: not known yet."""
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
