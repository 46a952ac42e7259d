"""How a command of an operator has ended: its exit status, its words, and its JSON. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

from yaim.core.model import Revision
from yaim.steer.plan import Going, Plan, Staying
from yaim.steer.show import going_as_json, plan_as_json, stays_as_json
from yaim.text import parsable


class Exit(IntEnum):
    """The exit status, of all commands (docs/steering.md)."""

    DONE = 0
    """Or it was so already."""
    NO = 1
    """It was refused."""
    USAGE = 2
    GOES_ON = 3
    """It is blocked, or not done in time; what was asked for stands."""
    UNREACHABLE = 69
    """EX_UNAVAILABLE of sysexits.h."""
    NOT_PERMITTED = 77
    """EX_NOPERM."""
    INTERRUPTED = 130


class End(Enum):
    DONE = "done", Exit.DONE
    ALREADY = "already", Exit.DONE
    PLANNED = "planned", Exit.DONE
    ASKED = "asked", Exit.DONE
    """It stands, and nobody has waited."""
    REFUSED = "refused", Exit.NO
    DECLINED = "declined", Exit.NO
    CONFLICT = "conflict", Exit.NO
    FULL = "store-full", Exit.NO
    BLOCKED = "blocked", Exit.GOES_ON
    TIMEOUT = "timeout", Exit.GOES_ON
    OVERTAKEN = "overtaken", Exit.GOES_ON
    UNREACHABLE = "unreachable", Exit.UNREACHABLE
    NOT_PERMITTED = "not-permitted", Exit.NOT_PERMITTED
    INTERRUPTED = "interrupted", Exit.INTERRUPTED

    def __init__(self, word: str, status: Exit) -> None:
        self.word = word
        self.status = status


@dataclass(frozen=True, slots=True)
class Outcome:
    command: str
    end: End
    plan: Plan | None = None
    already: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    hint: str = ""
    """What could be said to have it done all the same."""
    warnings: tuple[str, ...] = ()
    revision: Revision | None = None
    """Of the change; None: nothing was changed, or that is not known."""
    blocked: tuple[Staying, ...] = ()
    left: tuple[Going, ...] = ()
    """What has not moved, or moves later."""
    silent: Sequence[str] = ()
    """The nodes that have not followed."""
    error: str = ""
    waited_s: float | None = None


def as_json(outcome: Outcome, cluster: str, time: str, by: str) -> dict[str, object]:
    """`yaim.change/1`."""
    return {
        "schema": "yaim.change/1",
        "time": time,
        "cluster": parsable(cluster),
        "command": outcome.command,
        "outcome": outcome.end.word,
        "exit_status": int(outcome.end.status),
        "by": parsable(by),
        "revision": outcome.revision,
        "plan": plan_as_json(outcome.plan) if outcome.plan is not None else None,
        "already": list(map(parsable, outcome.already)),
        "refusals": list(map(parsable, outcome.refusals)),
        "hint": outcome.hint or None,
        "warnings": list(map(parsable, outcome.warnings)),
        "blocked": stays_as_json(outcome.blocked),
        "left": going_as_json(outcome.left),
        "silent": list(map(parsable, outcome.silent)),
        "waited_s": outcome.waited_s,
        "error": parsable(outcome.error) if outcome.error else None,
    }
