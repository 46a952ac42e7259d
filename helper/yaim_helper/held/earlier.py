"""The fences that earlier lives of the helper have left, and what they still keep from answering.

They stay as they are: what an earlier life has left answers until the instant that was told then,
and no longer. When that is over it is removed, and the tables are when nothing of theirs can be on
an interface any more.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

from yaim_helper.clock import boottime
from yaim_helper.held.fences import Tables
from yaim_helper.held.host import Host
from yaim_helper.held.leftovers import LeftOvers
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.kernel.lifetimes import SWEPT_WITHIN_S
from yaim_helper.protocol import Address

LOOK_EVERY_S = 1.0
"""The time from one look at whether they are over to the next."""
WHY = "the fence of an earlier run is over"


class EarlierFences:
    def __init__(
        self,
        tables: Tables,
        names: list[str],
        kernel: Kernel,
        left_overs: LeftOvers,
        start: Callable[[Callable[[], None]], None],
    ) -> None:
        """`names`: of the tables; what is removed leaves this list."""
        self._tables = tables
        self._names = names
        self._kernel = kernel
        self._left_overs = left_overs
        self._start = start
        now = boottime()
        self._look_at = now if names else math.inf
        self._swept_at = now + SWEPT_WITHIN_S
        self._is_sweeping = False

    def next_at(self) -> float:
        """Returns when there is something to do."""
        return self._look_at

    def do_what_is_due(self, now: float) -> None:
        """Removes what is over."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S if self._names else math.inf
        with suppress(KernelError):
            live = [each for each in self._names if self._tables.is_live(each)]
            if not live and not self._left_overs.is_empty and not self._is_sweeping:
                self._is_sweeping = True
                self._start(partial(self._sweep, WHY))
            if now >= self._swept_at:
                self._unmake([each for each in self._names if each not in live])

    def sweep_at_once(self, why: str) -> None:
        """Somebody has removed these tables: what they kept from answering is removed now."""
        self._start(partial(self._sweep, why))

    def _sweep(self, why: str) -> None:
        with suppress(KernelError):
            self._left_overs.remove_all(Host(self._kernel, ()), why)
        self._is_sweeping = False

    def _unmake(self, names: Sequence[str]) -> None:
        for each in names:
            self._tables.named(each).unmake()
            self._names.remove(each)

    def take_out(self, addresses: Iterable[Address]) -> None:
        """These are held without a fence now. Raises KernelError."""
        taken = list(addresses)
        for each in self._names:
            self._tables.named(each).dismiss(taken)
