"""This node's advertisement in etcd: whether it is ours, and who else writes under our name.

Owns what has become of our own advertisements. What the next one says is decided in
yaim/core/decide/advertising.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from yaim.core.actions import Level, Tell
from yaim.core.model import NEVER, Boottime, ClusterView, LeaseId, Node, Revision
from yaim.core.state.wake import soonest

NAME_PATIENCE_S = 3.0
"""How much longer than two TTLs another host's advertisement may stand under our name. Two,
because a new leader of etcd's starts every lease, also a dead host's, at its full TTL."""
OVERWRITE_EVERY_S = 1.0
OVERWRITES_AT_MOST, OVERWRITES_OVER_S = 10, 10.0
"""How often what others put under our name is written over. What looks like another host's is
written over so many times in a row; the count begins anew when ours has stood for so long."""


@dataclass(frozen=True, slots=True)
class Advertised:
    is_written: bool = False
    """We have written our advertisement under this lease: writes of an earlier life fail now."""
    known_under: LeaseId | None = None
    """The lease under which we have last written an advertisement in this life: what stands under
    our name is ours as long as we have that lease. None: we have written none."""
    unconfirmed_before: Revision = Revision(0)
    """Marks of ours that are older than this, our first advertisement under this lease, are an
    earlier life's, and no view since has shown them: its last write may have deleted them just
    before. 0: all are confirmed."""
    knows_others: bool = False
    """etcd has told us what the other nodes are since we were advertised as unhealthy."""
    overwrites: int = 0
    """How often in a row we have written over what looked like another host's."""
    overwritten_at: Boottime = NEVER
    """When we have last written over anything under our name."""
    name_taken_since: Boottime | None = None
    """Since when another host's advertisement has been seen under our name; None: it is not."""
    told_cut: frozenset[str] = frozenset()
    """What of our advertisement is more than others are told, as last reported (bounds.py)."""

    def after_written(self, node: Node, before: Node | None, *, is_first: bool) -> "Advertised":
        """`before`: what stood under our name until now. `is_first`: an earlier life's marks, which
        no view has shown since, stand under the same lease."""
        was_healthy = before is None or before.advertisement.is_healthy
        return replace(
            self,
            is_written=True,
            known_under=node.lease,
            unconfirmed_before=node.revision if is_first else self.unconfirmed_before,
            knows_others=self.knows_others and not was_healthy,
        )

    def after_withdrawn(self) -> "Advertised":
        return replace(self, is_written=False)

    def after_lease_kept(self, *, is_there: bool) -> "Advertised":
        """What has gone from etcd (not `is_there`) did not go with the lease: it is to be written
        anew."""
        if self.is_written and not is_there:
            return replace(self, is_written=False)
        return self

    def after_lease_gone(self) -> "Advertised":
        return replace(self, is_written=False, unconfirmed_before=Revision(0))

    def after_other_history(self) -> "Advertised":
        return replace(self, unconfirmed_before=Revision(0))

    def after_told(self, view: ClusterView, mine: Node | None) -> "Advertised":
        """etcd has told this view: nothing in it is our own reckoning."""
        is_confirmed = view.revision >= self.unconfirmed_before > 0
        is_told_of_others = mine is not None and not mine.advertisement.is_healthy
        if not is_confirmed and (self.knows_others or not is_told_of_others):
            return self
        return replace(
            self,
            unconfirmed_before=Revision(0) if is_confirmed else self.unconfirmed_before,
            knows_others=self.knows_others or is_told_of_others,
        )

    # --- who else writes under our name ------------------------------------------------------

    def name_is_ours(self, now: Boottime) -> "Advertised":
        has_stood = now >= self.overwritten_at + OVERWRITES_OVER_S
        if self.name_taken_since is None and not (has_stood and self.overwrites):
            return self
        overwrites = 0 if has_stood else self.overwrites
        return replace(self, name_taken_since=None, overwrites=overwrites)

    def name_is_not_taken(self) -> "Advertised":
        return replace(self, name_taken_since=None) if self.name_taken_since is not None else self

    def name_is_taken(self, now: Boottime) -> "Advertised":
        return replace(self, name_taken_since=now)

    def keeps_name_under(self, lease: LeaseId) -> bool:
        """Whether another host's advertisement under our name is still written over."""
        return self.known_under == lease and self.overwrites < OVERWRITES_AT_MOST

    def name_limit(self, ttl_s: int) -> Boottime:
        """When another host's advertisement has stood under our name for too long."""
        since = self.name_taken_since or NEVER
        return Boottime(since + 2 * ttl_s + NAME_PATIENCE_S)

    def may_overwrite(self, now: Boottime) -> bool:
        return now >= self.overwritten_at + OVERWRITE_EVERY_S

    def asked_overwrite(
        self, other: Node, now: Boottime, tell: Tell, *, is_foreign: bool
    ) -> "Advertised":
        """`other`: what is to be written over. `is_foreign`: it looks like another host's."""
        overwrites = self.overwrites
        if is_foreign and other.lease:
            overwrites += 1
            tell(
                Level.WARNING,
                f"somebody has put another advertisement under our name, under lease"
                f" {other.lease:x}: writes our own again ({overwrites} of {OVERWRITES_AT_MOST})",
            )
        return replace(self, overwrites=overwrites, overwritten_at=now)

    def reporting_cut(self, complaints: Mapping[str, str], tell: Tell) -> "Advertised":
        """Reports what of the advertisement others are not told, each kind once."""
        for what in sorted(complaints.keys() - self.told_cut):
            tell(Level.ERROR, complaints[what])
        if self.told_cut == complaints.keys():
            return self
        return replace(self, told_cut=frozenset(complaints))

    def wake_at(self, now: Boottime, ttl_s: int) -> float:
        limit = self.name_limit(ttl_s) if self.name_taken_since is not None else NEVER
        return soonest(now, (self.overwritten_at + OVERWRITE_EVERY_S, limit))
