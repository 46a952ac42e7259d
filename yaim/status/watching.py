"""What `yaim status --watch` shows, from one look to the next. Pure.

On a terminal it is drawn in place, and its age is told while etcd is silent: what was read before
is never shown as what is. Elsewhere it is written whenever something has changed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from yaim.core.model import Revision
from yaim.dcs.store import NotPermitted, StoreError
from yaim.status.facts import ClusterStatus

EVERY_S = 1.0
"""How often the age of what is shown is told anew."""
STALE_AFTER_S = 10.0
"""A watch that tells nothing for so long is taken for silent: it looks every 5 s."""


@dataclass(frozen=True, slots=True)
class Failed:
    """etcd could not be read."""

    error: StoreError


@dataclass(frozen=True, slots=True)
class Shown:
    """What the looks until now amount to."""

    status: ClusterStatus | None = None
    """The last that was read."""
    read_at: float = 0.0
    """By the clock that does not jump."""
    error: StoreError | None = None
    """Why the last look has failed."""

    def after(self, found: ClusterStatus | Failed | None, now: float) -> "Shown":
        match found:
            case ClusterStatus():
                return Shown(found, now)
            case Failed(error):
                return replace(self, error=error)
            case None:
                return self

    def age_s(self, now: float) -> float | None:
        """How old the status is; None: it is the present one."""
        age_s = now - self.read_at
        return age_s if self.error is not None or age_s > STALE_AFTER_S else None

    @property
    def is_refused(self) -> bool:
        """Whether it is of no use to go on: nothing was ever read, and nothing will be."""
        return self.status is None and isinstance(self.error, NotPermitted)


def lines_of(
    shown: Shown, now: float, table: Callable[[ClusterStatus, float | None], str]
) -> Sequence[str]:
    """`table` makes the text of a status; its second argument is the age, if it is not the present
    one."""
    why = [f"cannot read etcd: {shown.error}"] if shown.error is not None else []
    if shown.status is None:
        return why or ["reading etcd ..."]
    return [*table(shown.status, shown.age_s(now)).split("\n"), *(["", *why] if why else [])]


_NO_TIME = datetime.fromtimestamp(0, UTC)


def essence(status: ClusterStatus) -> ClusterStatus:
    """The status without what changes though nothing does."""
    return replace(status, seen_at=_NO_TIME, revision=Revision(0), notes=())
