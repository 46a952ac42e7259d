"""Which addresses may be claimed after a lease has ended, a mark has gone, or all leases were lost.

Owns what is remembered of marks that are gone. An address is claimed only when nobody can
have it on an interface any more: each rule below says why that is so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from yaim.core.actions import Level, Tell
from yaim.core.deadline import all_over_at
from yaim.core.model import (
    Address,
    Boottime,
    ClusterView,
    Mark,
    NodeName,
    address_order,
    frozen_mapping,
    is_in_force,
)
from yaim.core.state.cluster import READ_EVERY_S
from yaim.core.state.lease import Lease
from yaim.core.state.wake import soonest
from yaim.core.wording import some

ORPHAN_PATIENCE_S = 0.2
"""How much later than its lease's end another node's address is claimed. A lease may end before its
time: revoked by hand, or by a leader of etcd's that stood still and takes all for expired (etcd
issue 15247). Its holder learns of it by the watch and removes the address within this."""


@dataclass(frozen=True, slots=True)
class Loss:
    """etcd has lost our lease although it was kept in time, and perhaps those of all nodes: until
    they have learnt of it they have their addresses."""

    until: Boottime
    """By then all have learnt of it, or their deadlines have passed."""
    released: frozenset[Address] = frozenset()
    """The addresses that we have seen a holder with a lease release since, and nobody has marked
    again."""


@dataclass(frozen=True, slots=True)
class Takeover:
    ours: frozenset[Address] = frozenset()
    """The addresses that had our mark when our advertisement last stood in etcd, but for those that
    we were to release and those that others have marked since."""
    orphans: Mapping[Address, Boottime] = field(default_factory=lambda: frozen_mapping({}))
    """The addresses that had another node's mark until its lease ended, and until when they are not
    claimed."""
    strays: Mapping[Address, Boottime] = field(default_factory=lambda: frozen_mapping({}))
    """The addresses with a mark that has no lease and was put where none was, and until when that
    mark counts like any other."""
    loss: Loss | None = None
    """None: no lease was lost lately, or it had ended in its time."""

    # --- a loss of all leases ----------------------------------------------------------------

    def after_lease_gone(
        self, lease: Lease, now: Boottime, tell: Tell, *, is_in_time: bool
    ) -> "Takeover":
        """A lease that has ended in its time has ended for us only: what others have is marked. One
        that was kept in time was revoked, or etcd is not the one that it was: then others may have
        lost theirs in the same instant."""
        if is_in_time:
            tell(Level.WARNING, "etcd has lost our lease: giving up all addresses")
            return replace(self, ours=frozenset())
        loss = Loss(all_over_at(now, lease.ttl_s))
        tell(
            Level.WARNING,
            "etcd has lost our lease although it was kept in time (revoked by hand, or etcd's data"
            " replaced): giving up all addresses; claims again at once what was ours"
            f" ({len(self.ours)}), and what others may still have in"
            f" {loss.until - now:.1f} s",
        )
        return replace(self, loss=loss)

    def after_other_history(self, ttl_s: int, now: Boottime, tell: Tell) -> "Takeover":
        """What others have on their interfaces need not be marked any more. That counts also where
        our own lease has ended in its time: theirs may have been kept after ours."""
        if self.loss is not None:
            return self
        loss = Loss(all_over_at(now, ttl_s))
        tell(
            Level.WARNING,
            "etcd's data was replaced: claims what other nodes may still have in"
            f" {loss.until - now:.1f} s",
        )
        return replace(self, loss=loss)

    def is_loss_over(self, now: Boottime) -> bool:
        return self.loss is not None and now >= self.loss.until

    def after_loss(self, tell: Tell) -> "Takeover":
        tell(Level.INFO, "claims also what other nodes had before our lease was lost")
        return replace(self, loss=None)

    # --- after a view ------------------------------------------------------------------------

    def remembering(
        self, before: ClusterView | None, view: ClusterView, mine: frozenset[Address] | None
    ) -> "Takeover":
        """Remembers what is ours, for the case that our lease is lost, and after a loss what is
        released by those who have a lease. `mine`: what we have marked and are not releasing; None:
        our advertisement does not stand in etcd."""
        loss = self.loss
        ours: frozenset[Address] = frozenset()
        if loss is not None or mine is None:
            ours = frozenset(a for a in self.ours if a not in view.marks)
        if mine is not None:
            ours |= mine
        if loss is not None:
            released = frozenset(
                mark.address for mark in gone(before, view) if is_in_force(mark, view.nodes)
            )
            marked = view.marks.keys() | view.stray_marks.keys()
            loss = replace(loss, released=(loss.released | released) - marked)
        if loss is self.loss and ours == self.ours:
            return self
        return replace(self, ours=ours, loss=loss)

    def noting_orphans(
        self, before: ClusterView | None, view: ClusterView, me: NodeName, now: Boottime
    ) -> "Takeover":
        """An orphan is what another node has lost together with its advertisement: by the end of
        its lease. A node that releases or withdraws has removed its addresses before, and does both
        one after the other."""
        orphans = {
            address: until
            for address, until in self.orphans.items()
            if until > now and address not in view.marks
        }
        for mark in gone(before, view):
            had_lease = before is not None and is_in_force(mark, before.nodes)
            is_lost = mark.address not in view.marks and not is_in_force(mark, view.nodes)
            if had_lease and is_lost and mark.holder != me:
                orphans[mark.address] = Boottime(now + ORPHAN_PATIENCE_S)
        if orphans == self.orphans:
            return self
        return replace(self, orphans=frozen_mapping(orphans))

    def noting_strays(
        self, before: ClusterView | None, view: ClusterView, ttl_s: int, now: Boottime, tell: Tell
    ) -> "Takeover":
        """What stands in etcd without a lease is no node's: every node writes under its lease. A
        stray advertisement holds and takes nothing.

        A mark that was put over another one (is_over_another) is nobody's, also not of the node
        that it names, and whatever its lease: the holder of the other one may have the address.
        When it sees that, it removes it; but one that can neither read nor watch keeps its lease,
        and the address, for as long as that lasts, and nobody can know. So no node deletes such a
        mark, nor claims the address while it stands there: people do that, who can look.

        A mark without a lease that was put where none was is deleted by whoever is to hold its
        address. What was there before it has gone in one of these ways, and none leaves the address
        on a node. Its holder has deleted it, when it had removed the address. Or it went with its
        lease, and the address by its deadline, before that; with a lease that was revoked, or lost
        with all others, when the holder learns of it, a TTL later at the latest, for which this
        waits. Or somebody has deleted it by hand: that is outside of what yaim promises
        (docs/reliability.md), and yet the holder has time for two reads. All that counts from when
        we first see the mark as it stands, and only that one is deleted, by its mod_revision: what
        is put there later is waited for anew. Then the address is free, and claimed like any other.

        Nodes of older versions leave a mark without a lease where it is, for ever. That needs no
        version of its own: in the placement a mark counts as its holder does (counted_marks)."""
        if not view.stray_nodes and not view.stray_marks and not self.strays:
            return self
        known = before.stray_nodes if before is not None else {}
        new = sorted(view.stray_nodes.keys() - known.keys())
        if new:
            what = f"what is advertised in etcd as {some(new)} is no node's, as it has no lease"
            tell(Level.WARNING, f"{what} or no name: yaim status tells which key to delete")
        until = Boottime(all_over_at(now, ttl_s) + 2 * READ_EVERY_S)
        strays: dict[Address, Boottime] = {}
        new_marks: list[str] = []
        new_over: list[str] = []
        for address, mark in sorted(view.stray_marks.items(), key=lambda it: address_order(it[0])):
            is_same = before is not None and before.stray_marks.get(address) == mark
            if not mark.is_over_another:
                strays[address] = self.strays.get(address, until) if is_same else until
            if not is_same and address in view.pool:
                (new_over if mark.is_over_another else new_marks).append(str(address))
        if new_marks:
            tell(
                Level.WARNING,
                f"no node's, as it has no lease, is the mark of {some(new_marks)}:"
                f" whoever is to hold the address deletes it in {until - now:.1f} s",
            )
        if new_over:
            tell(
                Level.WARNING,
                f"somebody has put a mark over another one's, of {some(new_over)}: nobody takes"
                " the address until that is deleted, when no node has it: yaim status",
            )
        return replace(self, strays=frozen_mapping(strays))

    # --- when something is asked for ----------------------------------------------------------

    def asked_release(self, marks: Iterable[Mark]) -> "Takeover":
        """What we give back is not ours any more, whatever becomes of the write."""
        ours = self.ours.difference(mark.address for mark in marks)
        return replace(self, ours=ours) if ours != self.ours else self

    def wake_at(self, now: Boottime) -> float:
        loss_until = (self.loss.until,) if self.loss is not None else ()
        return soonest(now, (*self.orphans.values(), *self.strays.values(), *loss_until))


def gone(before: ClusterView | None, view: ClusterView) -> list[Mark]:
    """Returns the marks of the one view that are not in the other. More may be among them: what has
    not changed is the same object in both, and in the same order, where etcd has told both."""
    if before is None or before.marks is view.marks:
        return []
    found = []
    present = iter(view.marks.values())
    expected = next(present, None)
    for mark in before.marks.values():
        if mark is not expected:
            found.append(mark)
            if expected is None or expected.address is not mark.address:
                continue
        expected = next(present, None)
    return found
