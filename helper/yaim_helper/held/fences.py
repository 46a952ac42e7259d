"""Which addresses answer, and until when: one fence for each owner (kernel/fence.py).

The order that makes it safe:
1. An address is admitted before it is put on an interface, and dismissed when it is off.
2. All addresses of an owner answer until the same instant, the earliest of their deadlines.
3. What is to go, or has outlived its own deadline, is muted by the same transaction that lets the
   others answer longer: no renewal revives it. A removal counts from when it is asked for, however
   long it then waits. No add mutes what is to be reset before it goes: until the next renewal the
   others answer no longer than that would.
4. What an earlier life has left stays in the tables of that life, and so answers no longer than it
   was to. Who is admitted leaves them in the same transaction.

Decides; the kernel is asked by way of the fences that it is given.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from yaim_helper.kernel.addresses import KernelError
from yaim_helper.kernel.fence import ABSENT
from yaim_helper.owners import Owner
from yaim_helper.protocol import Address


class FenceLike(Protocol):
    """kernel/fence.py says what each does. All raise KernelError."""

    def make(self, held: Iterable[Address], muted: Iterable[Address]) -> None: ...
    def admit(
        self,
        addresses: Sequence[Address],
        deadline: float,
        muting: Sequence[Address],
        earlier: Iterable[str],
    ) -> None: ...
    def renew(self, deadline: float, muting: Sequence[Address]) -> None: ...
    def dismiss(self, addresses: Sequence[Address]) -> None: ...
    def unmake(self) -> None: ...


class Tables(Protocol):
    """The fences of this network namespace."""

    def names(self) -> Collection[str]:
        """Returns the tables that there are, of this life and of earlier ones. Raises
        KernelError."""

    def named(self, table: str) -> FenceLike:
        """Returns the fence with that table."""

    def is_live(self, table: str) -> bool:
        """Returns whether something in it answers still. Raises KernelError."""

    def held(self, table: str) -> Collection[Address]:
        """Returns what is in it; nothing if it is not there. Raises KernelError."""


@dataclass(eq=False, slots=True)
class Fenced:
    """The addresses of one owner. All instants are of CLOCK_BOOTTIME."""

    owner: Owner
    table: str
    fence: FenceLike
    deadlines: dict[Address, float] = field(default_factory=dict)
    """What is in the table, and until when each may answer."""
    over: set[Address] = field(default_factory=set)
    """What is to answer no more."""
    muted: set[Address] = field(default_factory=set)
    """What the kernel surely mutes."""
    gone: set[Address] = field(default_factory=set)
    """What is on no interface any more, and could not be taken out of the table yet."""
    until: float = 0.0
    """When the others stop to answer at the earliest, if nothing comes: if the kernel has refused
    a change, it may have done it."""


class Fences:
    """The fences of all owners."""

    def __init__(
        self, tables: Tables, first: int, earlier: list[str], clock: Callable[[], float]
    ) -> None:
        """`first`: the number of the first table. `earlier`: the tables of earlier lives; what has
        gone leaves this list."""
        self._tables = tables
        self._next = first
        self._earlier = earlier
        self._clock = clock
        self._fenced: dict[Owner, Fenced] = {}
        self._by_address: dict[Address, Fenced] = {}
        self._leaving: Counter[tuple[Owner, Address, bool]] = Counter()
        """Removals that were asked for and are not done yet, and whether with a reset."""

    # --- what comes and goes -------------------------------------------------------------------

    def admit(self, owner: Owner, deadlines: Mapping[Address, float]) -> None:
        """These may be put on an interface now, and answer until their deadlines. Raises
        KernelError: then they may not."""
        fenced = self._fenced.get(owner)
        if fenced is None:
            table = f"yaim-{self._next}"
            fenced = Fenced(owner, table, self._tables.named(table))
            fenced.fence.make((), ())
            self._next += 1
            self._fenced[owner] = fenced
        new = deadlines.keys() - fenced.deadlines.keys() | fenced.gone & deadlines.keys()
        before = {a: d for a, d in fenced.deadlines.items() if a in deadlines}
        over = fenced.over & deadlines.keys()
        try:
            self._take_from_others(fenced, deadlines.keys())
            fenced.deadlines |= deadlines
            fenced.over -= deadlines.keys()
            fenced.gone -= deadlines.keys()
            for each in deadlines:
                self._by_address[each] = fenced
            to_be_reset = {
                each for whose, each, resets in self._leaving if resets and whose == owner
            }
            self._set(fenced, tuple(deadlines), to_be_reset - fenced.muted)
        except KernelError:
            # Perhaps they are in the table, and perhaps not muted any more.
            fenced.deadlines |= before
            fenced.over |= over | new & fenced.deadlines.keys()
            fenced.muted -= deadlines.keys()
            self.dismiss(new)
            raise

    def _take_from_others(self, fenced: Fenced, addresses: Collection[Address]) -> None:
        """What has gone, and stands in another owner's table still, would not answer. Raises
        KernelError."""
        for other in [each for each in self._fenced.values() if each is not fenced]:
            if other.gone.intersection(addresses):
                self._let_go(other)

    def silence(self, addresses: Mapping[Address, Owner]) -> None:
        """These are on an interface, for these owners, and no fence is known to keep them: they
        answer no more. Raises KernelError."""
        for owner in set(addresses.values()):
            its = [address for address, whose in addresses.items() if whose == owner]
            self.admit(owner, dict.fromkeys(its, 0.0))

    def renew(self, owner: Owner, deadline: float) -> frozenset[Address]:
        """All of the owner's addresses that may answer still do so until then; returns which. What
        is asked to be removed is mute, and keeps its deadline: then it is over, however long its
        removal waits. Raises KernelError: then they do so until their deadline of before, or until
        this one."""
        fenced = self._fenced.get(owner)
        if fenced is None:
            return frozenset()
        now = self._clock()
        fenced.over |= {address for address, before in fenced.deadlines.items() if before <= now}
        living = frozenset(fenced.deadlines).difference(fenced.over, self._asked_to_go(owner))
        fenced.deadlines |= dict.fromkeys(living, deadline)
        self._set(fenced)
        return living

    def draw_nearer(self, by_s: float) -> None:
        """Makes all deadlines nearer. Raises KernelError, when all was tried."""
        failed: KernelError | None = None
        for fenced in self._fenced.values():
            for address in fenced.deadlines:
                fenced.deadlines[address] -= by_s
            try:
                self._set(fenced)
            except KernelError as error:
                failed = error
        if failed is not None:
            raise failed

    def enforce(self, owner: Owner) -> None:
        """Mutes now what is to answer no more. Raises KernelError."""
        fenced = self._fenced.get(owner)
        if fenced is not None:
            self._set(fenced)

    def mute(self, address: Address) -> None:
        """An address is to go: it answers no longer than until the instant that was told last."""
        if address in self._by_address:
            self._by_address[address].over.add(address)

    def expect_removal(self, owner: Owner, address: Address, *, resets: bool = False) -> None:
        """The owner asks for the removal of an address. What is admitted meanwhile was asked for
        before."""
        self._leaving[owner, address, resets] += 1

    def end_removal(self, owner: Owner, address: Address, *, resets: bool = False) -> None:
        """A removal that was asked for is done, or has failed."""
        self._leaving[owner, address, resets] -= 1
        self._leaving += Counter()

    def dismiss(self, addresses: Iterable[Address]) -> None:
        """These are on no interface any more. A table that cannot be changed now stays stricter
        than it has to be."""
        for fenced in list(self._fenced.values()):
            fenced.gone |= fenced.deadlines.keys() & set(addresses)
            with suppress(KernelError):
                self._let_go(fenced)

    def _let_go(self, fenced: Fenced) -> None:
        """Takes out of a table what has gone. Raises KernelError: it will be tried again."""
        gone, is_last = fenced.gone, fenced.gone == fenced.deadlines.keys()
        fenced.over |= gone
        try:
            if is_last:
                fenced.fence.unmake()
            elif gone:
                fenced.fence.dismiss(list(gone))
        except KernelError as error:
            if error.errno != ABSENT:
                raise
        for each in gone:
            del fenced.deadlines[each], self._by_address[each]
        fenced.over -= gone
        fenced.muted -= gone
        fenced.gone = set()
        if is_last:
            del self._fenced[fenced.owner]

    # --- what is asked ---------------------------------------------------------------------------

    def until(self, owner: Owner) -> float | None:
        """Returns until when the owner's addresses answer if nothing comes; None: it has none."""
        fenced = self._fenced.get(owner)
        return fenced.until if fenced is not None else None

    # --- the tables ------------------------------------------------------------------------------

    def _set(
        self,
        fenced: Fenced,
        admitted: tuple[Address, ...] = (),
        spared: Collection[Address] = (),
    ) -> None:
        """Has the kernel know what may answer, and until when. `spared`: what is to go, and is not
        muted yet. Raises KernelError."""
        deadline, muted = self._answering(fenced, spared)
        # A removal that was asked for was not done.
        admitted += tuple(fenced.muted - muted - set(admitted))
        try:
            self._ask(fenced, admitted, deadline, muted)
        except KernelError as error:
            if error.errno != ABSENT:
                fenced.until = min(fenced.until, deadline)
                raise
            names = self._tables.names()
            self._earlier[:] = [each for each in self._earlier if each in names]
            fenced.fence.make(fenced.deadlines, muted)
            fenced.muted = muted
            self._ask(fenced, admitted, deadline, muted)
        fenced.muted = muted
        fenced.until = deadline

    def _ask(
        self,
        fenced: Fenced,
        admitted: tuple[Address, ...],
        deadline: float,
        muted: set[Address],
    ) -> None:
        muting = list(muted - (fenced.muted - set(admitted)))
        if admitted:
            fenced.fence.admit(admitted, deadline, muting, self._earlier)
        else:
            fenced.fence.renew(deadline, muting)

    def _asked_to_go(self, owner: Owner) -> set[Address]:
        return {address for whose, address, _ in self._leaving if whose == owner}

    def _answering(
        self, fenced: Fenced, spared: Collection[Address] = ()
    ) -> tuple[float, set[Address]]:
        """Returns until when the addresses may answer, and which not at all."""
        now = self._clock()
        # There may be thousands, and the hash of an address takes long: each is looked up only if
        # there is a reason.
        muted = {address for address, deadline in fenced.deadlines.items() if deadline <= now}
        muted |= self._asked_to_go(fenced.owner).difference(spared)
        muted |= fenced.over
        muted &= fenced.deadlines.keys()
        if not muted:
            return min(fenced.deadlines.values(), default=0.0), muted
        left = (deadline for each, deadline in fenced.deadlines.items() if each not in muted)
        return min(left, default=0.0), muted

    def affected(self, tables: Collection[str] | None) -> list[tuple[Owner, int]]:
        """Returns whose these tables are (None: any), and how many addresses are in each."""
        return [
            (owner, len(fenced.deadlines))
            for owner, fenced in self._fenced.items()
            if tables is None or fenced.table in tables
        ]

    def remake(self, tables: Collection[str] | None) -> list[tuple[Owner, int, KernelError | None]]:
        """Makes these tables anew, as somebody else has changed them (None: any may be). Returns
        whose they are, how many addresses are in each, and what went wrong."""
        made: list[tuple[Owner, int, KernelError | None]] = []
        for owner, fenced in self._fenced.items():
            if tables is not None and fenced.table not in tables:
                continue
            deadline, muted = self._answering(fenced)
            failed: KernelError | None = None
            try:
                fenced.fence.make(fenced.deadlines, muted)
                fenced.muted = muted
                fenced.fence.renew(deadline, ())
            except KernelError as error:
                failed = error
            made.append((owner, len(fenced.deadlines), failed))
        return made
