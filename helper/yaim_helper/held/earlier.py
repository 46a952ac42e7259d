"""The fences that earlier lives of the helper have left, and what they still keep from answering.

They stay as they are: what an earlier life has left answers until the instant that was told then,
and no longer. When that is over it is removed, and so is the table when a look finds nothing of it
on an interface any more. What no table keeps from answering any longer (somebody has flushed the
ruleset) is muted at once, where there is a fence, and removed.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from contextlib import suppress
from functools import partial

from yaim_helper.clock import boottime
from yaim_helper.held.fencing import Fencing
from yaim_helper.held.host import Host
from yaim_helper.held.inventory import Inventory
from yaim_helper.held.leftovers import LeftOvers
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.protocol import Address
from yaim_helper.record.entries import fence_lost
from yaim_helper.record.recorder import Recorder

LOOK_EVERY_S = 2.0
"""The time from one look at whether they are over to the next."""
OVER = "the fence of an earlier run is over"
LOST = "somebody has removed the fence of an earlier run"


class EarlierFences:
    def __init__(
        self,
        fencing: Fencing,
        kernel: Kernel,
        inventory: Inventory,
        left_overs: LeftOvers,
        recorder: Recorder,
        start: Callable[[Callable[[], None]], None],
    ) -> None:
        """`start` has done what may wait for the kernel. There are nf_tables."""
        assert fencing.tables is not None
        self._tables = fencing.tables
        self._names = fencing.earlier
        self._fences = fencing.fences
        self._kernel = kernel
        self._inventory = inventory
        self._left_overs = left_overs
        self._recorder = recorder
        self._start = start
        self._members = {each: self._held(each) for each in self._names}
        """What stood in which of them at the start; None: that is not known."""
        self._look_at = boottime() if self._names else math.inf
        self._is_looking = False

    def _held(self, name: str) -> frozenset[Address] | None:
        with suppress(KernelError):
            return frozenset(self._tables.held(name))
        return None

    def next_at(self) -> float:
        """Returns when there is something to do."""
        return self._look_at

    def do_what_is_due(self, now: float) -> None:
        """Removes what is over."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S if self._names else math.inf
        if self._is_looking:
            return
        with suppress(KernelError):
            over = [each for each in self._names if not self._tables.is_live(each)]
            if over:
                self._is_looking = True
                self._start(partial(self._clear, over))

    def _clear(self, names: Sequence[str]) -> None:
        with suppress(KernelError):
            members = {each: set(self._tables.held(each)) for each in names}
            self._remove(OVER, set().union(*members.values()))
            there = {each.address for each in self._kernel.addresses() if each.is_like_ours}
            for name, its in members.items():
                if not its & there - self._inventory.by_address.keys():
                    self._tables.named(name).unmake()
                    self._members.pop(name, None)
                    # Somebody may have flushed the ruleset while the kernel was asked (fences.py).
                    if name in self._names:
                        self._names.remove(name)
        self._is_looking = False

    def _remove(self, why: str, only: Container[Address] | None = None) -> None:
        """Raises KernelError."""
        removed = self._left_overs.remove_all(Host(self._kernel, ()), why, only)
        if self._fences is not None:
            self._fences.dismiss(removed)

    # --- what no table keeps any longer ----------------------------------------------------------

    def sweep_unfenced(self) -> None:
        """At the start: what is on record and in no table is removed."""
        with suppress(KernelError):
            kept = {address for each in self._names for address in self._tables.held(each)}
            lost = self._left_overs.owners().keys() - kept
            if lost:
                self.sweep_at_once(LOST, lost)

    def see_changed(self, names: Collection[str] | None, why: str) -> None:
        """Others have changed these tables (None: any may be): what stood in them answers no more,
        and is removed. Another helper changes its own all the time."""
        changed = [its for each, its in self._members.items() if names is None or each in names]
        if names is None or None in changed:
            if changed:
                self.sweep_at_once(why)
        elif its := frozenset().union(*filter(None, changed)):
            self.sweep_at_once(why, its)

    def sweep_at_once(self, why: str, only: Container[Address] | None = None) -> None:
        """What is left (None: all of it) answers no more, and is removed."""
        left = self._left_overs.owners()
        its = {each: owner for each, owner in left.items() if only is None or each in only}
        if not its:
            return
        for owner, count in Counter(its.values()).items():
            self._recorder.note([fence_lost(owner, count, why)])
        if self._fences is not None:
            with suppress(KernelError):
                self._fences.silence(its)
        self._start(partial(self._sweep, why, its.keys()))

    def _sweep(self, why: str, only: Container[Address]) -> None:
        with suppress(KernelError):
            self._remove(why, only)

    # --- without a fence -------------------------------------------------------------------------

    def take_out(self, addresses: Iterable[Address]) -> None:
        """These are held without a fence now. In a table that cannot be changed they stay, and are
        silent when that is over."""
        taken = list(addresses)
        for each in self._names:
            with suppress(KernelError):
                self._tables.named(each).dismiss(taken)
