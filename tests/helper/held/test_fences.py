"""What may answer, and until when: with tables that are none, and a clock that the test moves."""

import errno
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

import pytest
from yaim_helper.held.fences import Fences
from yaim_helper.kernel.addresses import KernelError
from yaim_helper.owners import Owner
from yaim_helper.protocol import Address

A, B, C = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::2"), IPv4Address("192.0.2.3")
ONE, OTHER = Owner(0, "one"), Owner(0, "other")
T = 1000.0
FIRST = 7


@dataclass
class Clock:
    now: float = T

    def __call__(self) -> float:
        return self.now


@dataclass
class Table:
    held: set[Address] = field(default_factory=set)
    muted: set[Address] = field(default_factory=set)
    until: float = 0.0


@dataclass
class Kernel:
    """The tables as nf_tables would have them, and what was asked for."""

    clock: Clock
    tables: dict[str, Table] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    failures: list[tuple[str, int, bool]] = field(default_factory=list)
    """What goes wrong next: what is asked for, the errno, and whether it is done all the same."""

    def names(self) -> list[str]:
        return sorted(self.tables)

    def named(self, table: str) -> "Fence":
        return Fence(self, table)

    def held(self, table: str) -> Collection[Address]:
        raise AssertionError(table)

    def is_live(self, table: str) -> bool:
        return table in self.tables and self.clock() < self.tables[table].until

    def answers(self, address: Address) -> bool:
        """Every table has a say, and what is in none is the host's."""
        return all(
            address not in table.muted and (address not in table.held or self.clock() < table.until)
            for table in self.tables.values()
        )

    def is_fenced(self, address: Address) -> bool:
        return any(address in table.held for table in self.tables.values())

    def flush(self) -> None:
        self.tables.clear()


@dataclass
class Fence:
    kernel: Kernel
    table: str

    def _begin(self, what: str) -> bool:
        """Returns whether it is done and yet told as failed. Raises KernelError."""
        self.kernel.asked.append(what)
        for failure in self.kernel.failures:
            when, number, is_done = failure
            if when == what:
                self.kernel.failures.remove(failure)
                if is_done:
                    return True
                raise KernelError(number, "refused")
        if what in ("admit", "renew", "dismiss") and self.table not in self.kernel.tables:
            raise KernelError(errno.ENOENT, "no such table")
        return False

    def _end(self, *, is_told_as_failed: bool) -> None:
        if is_told_as_failed:
            raise KernelError(errno.ENOBUFS, "it is not known what was done")

    def make(self, held: Iterable[Address], muted: Iterable[Address]) -> None:
        fails = self._begin("make")
        silent = set(muted)
        self.kernel.tables[self.table] = Table({*held, *silent}, silent)
        self._end(is_told_as_failed=fails)

    def admit(
        self,
        addresses: Sequence[Address],
        deadline: float,
        muting: Sequence[Address] = (),
        earlier: Iterable[str] = (),
    ) -> None:
        fails = self._begin("admit" if addresses else "renew")
        table = self.kernel.tables[self.table]
        table.held |= {*addresses, *muting}
        table.muted = table.muted - set(addresses) | set(muting)
        table.until = deadline
        for each in earlier:
            self.kernel.tables[each].held -= set(addresses)
            self.kernel.tables[each].muted -= set(addresses)
        self._end(is_told_as_failed=fails)

    def renew(self, deadline: float, muting: Sequence[Address] = ()) -> None:
        self.admit((), deadline, muting)

    def dismiss(self, addresses: Sequence[Address]) -> None:
        fails = self._begin("dismiss")
        table = self.kernel.tables[self.table]
        table.held -= set(addresses)
        table.muted -= set(addresses)
        self._end(is_told_as_failed=fails)

    def unmake(self) -> None:
        fails = self._begin("unmake")
        self.kernel.tables.pop(self.table, None)
        self._end(is_told_as_failed=fails)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kernel(clock: Clock) -> Kernel:
    return Kernel(clock)


@pytest.fixture
def fences(kernel: Kernel) -> Fences:
    return Fences(kernel, FIRST, [], kernel.clock)


def answering(kernel: Kernel, *addresses: Address) -> list[bool]:
    assert all(map(kernel.is_fenced, addresses)), "none is the host's"
    return [kernel.answers(each) for each in addresses]


# --- until when --------------------------------------------------------------------------------


def test_what_is_admitted_answers_until_its_deadline(
    kernel: Kernel, fences: Fences, clock: Clock
) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 10})
    assert answering(kernel, A, B) == [True, True]
    clock.now = T + 10
    assert answering(kernel, A, B) == [False, False]
    assert (kernel.names(), kernel.asked) == ([f"yaim-{FIRST}"], ["make", "admit"])


def test_all_answer_until_the_earliest_of_their_deadlines(
    kernel: Kernel, fences: Fences, clock: Clock
) -> None:
    fences.admit(ONE, {A: T + 10})
    fences.admit(ONE, {B: T + 5, C: T + 20})
    assert fences.until(ONE) == T + 5
    clock.now = T + 5
    assert answering(kernel, A, B, C) == [False] * 3


def test_a_renewal_is_for_all_and_may_come_nearer(
    kernel: Kernel, fences: Fences, clock: Clock
) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 20})
    assert fences.renew(ONE, T + 30) == {A, B}
    assert fences.until(ONE) == T + 30
    assert fences.renew(ONE, T + 3) == {A, B}
    clock.now = T + 3
    assert answering(kernel, A, B) == [False, False]


def test_what_has_outlived_its_deadline_is_not_revived(
    kernel: Kernel, fences: Fences, clock: Clock
) -> None:
    """The others are: it is muted by what renews them."""
    fences.admit(ONE, {A: T + 10})
    fences.admit(ONE, {B: T + 5})
    clock.now = T + 5
    assert fences.renew(ONE, T + 100) == {A}
    assert answering(kernel, A, B) == [True, False]
    assert (kernel.asked[-1], fences.until(ONE)) == ("renew", T + 100)
    clock.now = T + 6
    assert fences.renew(ONE, T + 101) == {A}
    assert answering(kernel, A, B) == [True, False]


def test_what_is_over_when_another_is_admitted_is_not_revived(
    kernel: Kernel, fences: Fences, clock: Clock
) -> None:
    fences.admit(ONE, {A: T + 5})
    clock.now = T + 5
    fences.admit(ONE, {B: T + 50})
    assert answering(kernel, A, B) == [False, True]
    assert fences.renew(ONE, T + 60) == {B}


def test_what_comes_too_late_never_answers(kernel: Kernel, fences: Fences) -> None:
    fences.admit(ONE, {A: T + 50})
    fences.admit(ONE, {B: T})
    assert answering(kernel, A, B) == [True, False]
    assert fences.renew(ONE, T + 60) == {A}


def test_who_is_admitted_anew_answers_again(kernel: Kernel, fences: Fences, clock: Clock) -> None:
    fences.admit(ONE, {A: T + 5, B: T + 50})
    clock.now = T + 6
    fences.renew(ONE, T + 60)
    fences.admit(ONE, {A: T + 70})
    assert answering(kernel, A, B) == [True, True]
    assert fences.renew(ONE, T + 80) == {A, B}


def test_owners_have_fences_of_their_own(kernel: Kernel, fences: Fences, clock: Clock) -> None:
    fences.admit(ONE, {A: T + 10})
    fences.admit(OTHER, {B: T + 20})
    assert kernel.names() == [f"yaim-{FIRST}", f"yaim-{FIRST + 1}"]
    assert fences.renew(OTHER, T + 30) == {B}
    assert (fences.until(ONE), fences.until(OTHER)) == (T + 10, T + 30)
    clock.now = T + 10
    assert answering(kernel, A, B) == [False, True]
    fences.dismiss([A])
    assert kernel.names() == [f"yaim-{FIRST + 1}"]
    assert answering(kernel, B) == [True]


def test_who_has_nothing_is_asked_for_nothing(kernel: Kernel, fences: Fences) -> None:
    assert fences.renew(ONE, T + 30) == set()
    fences.enforce(ONE)
    fences.mute(A)
    fences.dismiss([A])
    assert (kernel.asked, fences.until(ONE)) == ([], None)


# --- muting ------------------------------------------------------------------------------------


def test_what_is_to_go_answers_no_longer_than_was_told_last(kernel: Kernel, fences: Fences) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 10})
    fences.mute(B)
    assert fences.renew(ONE, T + 30) == {A}
    assert answering(kernel, A, B) == [True, False]


def test_it_can_be_muted_at_once(kernel: Kernel, fences: Fences) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 10})
    fences.mute(B)
    assert answering(kernel, A, B) == [True, True]
    fences.enforce(ONE)
    assert answering(kernel, A, B) == [True, False]
    assert fences.until(ONE) == T + 10


def test_what_is_to_go_draws_no_deadline_nearer(kernel: Kernel, fences: Fences) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 2})
    fences.mute(B)
    fences.enforce(ONE)
    assert fences.until(ONE) == T + 10


def test_what_is_muted_is_told_once(kernel: Kernel, fences: Fences) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 10})
    fences.mute(B)
    fences.enforce(ONE)
    (table,) = kernel.tables.values()
    table.muted.clear()
    fences.renew(ONE, T + 20)
    assert table.muted == set()


def test_a_removal_counts_from_when_it_is_asked_for(kernel: Kernel, fences: Fences) -> None:
    """However long it then waits."""
    fences.admit(ONE, {A: T + 10, B: T + 10})
    fences.expect_removal(ONE, B)
    fences.renew(ONE, T + 30)
    assert answering(kernel, A, B) == [True, False]


def test_what_was_asked_for_before_its_removal_does_not_answer(
    kernel: Kernel, fences: Fences
) -> None:
    """The add waits for the kernel, and is done before the removal."""
    fences.admit(ONE, {A: T + 10})
    fences.expect_removal(ONE, B)
    fences.admit(ONE, {B: T + 20})
    assert answering(kernel, A, B) == [True, False]
    fences.renew(ONE, T + 30)
    assert answering(kernel, A, B) == [True, False]
    fences.dismiss([B])
    fences.end_removal(ONE, B)
    fences.admit(ONE, {B: T + 20})
    assert answering(kernel, A, B) == [True, True]


def test_no_add_mutes_what_is_to_be_reset_before_it_goes(kernel: Kernel, fences: Fences) -> None:
    """The reset would not go out. It answers no longer than it was to, and others no longer than
    it, until the next renewal."""
    fences.admit(ONE, {A: T + 10, B: T + 10})
    fences.expect_removal(ONE, B, resets=True)
    fences.expect_removal(OTHER, A, resets=True)
    fences.admit(ONE, {C: T + 20})
    assert answering(kernel, A, B, C) == [True, True, True]
    assert fences.until(ONE) == T + 10
    assert fences.renew(ONE, T + 30) == {A, C}
    assert answering(kernel, A, B, C) == [True, False, True]
    fences.admit(ONE, {A: T + 30})
    assert answering(kernel, A, B, C) == [True, False, True], "it stays muted"
    assert fences.until(ONE) == T + 30
    fences.dismiss([B])
    fences.end_removal(ONE, B, resets=True)
    fences.admit(ONE, {B: T + 30})
    assert answering(kernel, A, B, C) == [True, True, True]


def test_what_is_muted_and_admitted_before_its_removal_stays_muted(
    kernel: Kernel, fences: Fences
) -> None:
    """A removal had failed, then it was added, and its removal was asked for again."""
    fences.admit(ONE, {A: T + 10, B: T + 10})
    fences.mute(A)
    fences.enforce(ONE)
    fences.expect_removal(ONE, A)
    fences.admit(ONE, {A: T + 20})
    assert answering(kernel, A, B) == [False, True]


def test_each_of_several_removals_counts(kernel: Kernel, fences: Fences) -> None:
    fences.expect_removal(ONE, A)
    fences.expect_removal(ONE, A)
    fences.end_removal(ONE, A)
    fences.admit(ONE, {A: T + 20})
    assert answering(kernel, A) == [False]
    fences.end_removal(ONE, A)
    fences.admit(ONE, {A: T + 20})
    assert answering(kernel, A) == [True]


def test_what_was_not_removed_after_all_answers_again(kernel: Kernel, fences: Fences) -> None:
    """Its connection ended before that was begun, say."""
    fences.admit(ONE, {A: T + 10, B: T + 10})
    fences.expect_removal(ONE, B)
    fences.renew(ONE, T + 20)
    assert answering(kernel, A, B) == [True, False]
    fences.end_removal(ONE, B)
    assert fences.renew(ONE, T + 30) == {A, B}
    assert answering(kernel, A, B) == [True, True]


def test_a_removal_is_its_owners_alone(kernel: Kernel, fences: Fences) -> None:
    fences.expect_removal(OTHER, A)
    fences.admit(ONE, {A: T + 10})
    assert answering(kernel, A) == [True]


# --- when the host slept -----------------------------------------------------------------------


def test_all_deadlines_are_drawn_nearer(kernel: Kernel, fences: Fences, clock: Clock) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 20})
    fences.admit(OTHER, {C: T + 30})
    fences.draw_nearer(9)
    assert (fences.until(ONE), fences.until(OTHER)) == (T + 1, T + 21)
    clock.now = T + 1
    assert answering(kernel, A, B, C) == [False, False, True]


def test_what_is_over_then_is_muted_and_not_revived(kernel: Kernel, fences: Fences) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 20})
    fences.draw_nearer(10)
    assert answering(kernel, A, B) == [False, True]
    assert fences.until(ONE) == T + 10
    assert fences.renew(ONE, T + 30) == {B}


def test_when_one_cannot_be_drawn_nearer_the_others_are(kernel: Kernel, fences: Fences) -> None:
    fences.admit(ONE, {A: T + 10})
    fences.admit(OTHER, {C: T + 30})
    kernel.failures.append(("renew", errno.EBUSY, False))
    with pytest.raises(KernelError):
        fences.draw_nearer(9)
    assert kernel.tables["yaim-7"].until == T + 10
    # What was refused may be done all the same.
    assert (fences.until(ONE), fences.until(OTHER)) == (T + 1, T + 21)
    fences.enforce(ONE)
    assert fences.until(ONE) == T + 1


# --- what goes ---------------------------------------------------------------------------------


def test_what_goes_leaves_the_table_and_the_last_takes_it_along(
    kernel: Kernel, fences: Fences
) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 2})
    fences.dismiss([B])
    assert not kernel.is_fenced(B)
    assert answering(kernel, A) == [True]
    fences.dismiss([A])
    assert (kernel.names(), fences.until(ONE)) == ([], None)
    fences.admit(ONE, {A: T + 10})
    assert answering(kernel, A) == [True]


def test_it_does_not_count_any_more(kernel: Kernel, fences: Fences) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 2})
    fences.mute(B)
    fences.enforce(ONE)
    fences.dismiss([B])
    fences.admit(ONE, {B: T + 20})
    assert answering(kernel, A, B) == [True, True]
    assert fences.renew(ONE, T + 30) == {A, B}


@pytest.mark.parametrize("what", ["dismiss", "unmake"])
def test_what_cannot_be_taken_out_stays_muted_and_is_tried_again(
    kernel: Kernel, fences: Fences, what: str
) -> None:
    held: dict[Address, float] = {A: T + 10}
    if what == "dismiss":
        held[B] = T + 10
    fences.admit(ONE, held)
    kernel.failures.append((what, errno.EBUSY, False))
    fences.dismiss([A])
    assert kernel.is_fenced(A)
    assert fences.renew(ONE, T + 30) == held.keys() - {A}
    assert answering(kernel, A) == [False]
    fences.dismiss([C])
    assert not kernel.is_fenced(A)
    assert (fences.until(ONE) is None) == (what == "unmake")


def test_what_could_not_be_taken_out_can_be_admitted_again(kernel: Kernel, fences: Fences) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 10})
    kernel.failures.append(("dismiss", errno.EBUSY, False))
    fences.dismiss([A])
    fences.admit(ONE, {A: T + 20})
    fences.dismiss([])
    assert answering(kernel, A, B) == [True, True]


def test_what_is_gone_for_one_owner_can_be_anothers(kernel: Kernel, fences: Fences) -> None:
    """Though it stands in the first one's table still: there it would be muted."""
    fences.admit(ONE, {A: T + 10, B: T + 10})
    kernel.failures.append(("dismiss", errno.EBUSY, False))
    fences.dismiss([A])
    fences.admit(OTHER, {A: T + 20})
    assert answering(kernel, A, B) == [True, True]
    fences.mute(A)
    assert fences.renew(OTHER, T + 30) == set()
    fences.dismiss([A])
    assert not kernel.is_fenced(A)
    assert fences.renew(ONE, T + 30) == {B}


def test_it_is_not_as_long_as_it_cannot_be_taken_out(kernel: Kernel, fences: Fences) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 10})
    kernel.failures += [("dismiss", errno.EBUSY, False)] * 3
    fences.dismiss([A])
    with pytest.raises(KernelError):
        fences.admit(OTHER, {A: T + 20})
    assert (kernel.names(), fences.until(OTHER)) == ([f"yaim-{FIRST}"], None)
    fences.admit(OTHER, {A: T + 20})
    assert answering(kernel, A, B) == [True, True]


def test_what_is_in_no_table_because_that_has_gone_has_left_it(
    kernel: Kernel, fences: Fences
) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 10})
    kernel.flush()
    fences.dismiss([A])
    assert fences.renew(ONE, T + 30) == {B}
    assert answering(kernel, B) == [True]
    assert not kernel.is_fenced(A)


# --- what is refused ---------------------------------------------------------------------------


def test_what_cannot_be_admitted_is_not_held(kernel: Kernel, fences: Fences) -> None:
    kernel.failures.append(("admit", errno.EBUSY, False))
    with pytest.raises(KernelError):
        fences.admit(ONE, {A: T + 10})
    assert (kernel.names(), fences.until(ONE)) == ([], None)


def test_a_fence_that_cannot_be_made_is_made_when_something_is_admitted_again(
    kernel: Kernel, fences: Fences
) -> None:
    kernel.failures.append(("make", errno.EBUSY, False))
    with pytest.raises(KernelError):
        fences.admit(ONE, {A: T + 10})
    fences.admit(ONE, {A: T + 10})
    assert answering(kernel, A) == [True]


@pytest.mark.parametrize("is_done", [False, True])
def test_an_admission_that_fails_changes_nothing_for_the_others(
    kernel: Kernel, fences: Fences, is_done: bool
) -> None:
    """It may have been done all the same."""
    fences.admit(ONE, {A: T + 10})
    kernel.failures.append(("admit", errno.ENOBUFS, is_done))
    with pytest.raises(KernelError):
        fences.admit(ONE, {A: T + 30, B: T + 5})
    assert not kernel.is_fenced(B)
    assert answering(kernel, A) == [True]
    fences.enforce(ONE)
    assert fences.until(ONE) == T + 10


@pytest.mark.parametrize("is_done", [False, True])
def test_an_admission_that_fails_revives_nothing(
    kernel: Kernel, fences: Fences, is_done: bool
) -> None:
    """Its removal had failed, say."""
    fences.admit(ONE, {A: T + 10, B: T + 10})
    fences.mute(A)
    fences.enforce(ONE)
    kernel.failures.append(("admit", errno.ENOBUFS, is_done))
    with pytest.raises(KernelError):
        fences.admit(ONE, {A: T + 10})
    assert fences.renew(ONE, T + 30) == {B}
    assert answering(kernel, A, B) == [False, True]


def test_what_could_not_be_admitted_and_not_taken_out_is_muted(
    kernel: Kernel, fences: Fences
) -> None:
    fences.admit(ONE, {A: T + 10})
    kernel.failures += [("admit", errno.ENOBUFS, True), ("dismiss", errno.ENOBUFS, False)]
    with pytest.raises(KernelError):
        fences.admit(ONE, {B: T + 10})
    assert fences.renew(ONE, T + 30) == {A}
    assert answering(kernel, A, B) == [True, False]


def test_what_could_not_be_renewed_keeps_its_deadline(
    kernel: Kernel, fences: Fences, clock: Clock
) -> None:
    fences.admit(ONE, {A: T + 10})
    kernel.failures.append(("renew", errno.EBUSY, False))
    with pytest.raises(KernelError):
        fences.renew(ONE, T + 30)
    assert fences.until(ONE) == T + 10
    clock.now = T + 10
    assert answering(kernel, A) == [False]


# --- tables that somebody has removed ----------------------------------------------------------


def test_a_table_that_has_gone_is_made_anew_and_asked_again(kernel: Kernel, fences: Fences) -> None:
    fences.admit(ONE, {A: T + 10, B: T + 10})
    fences.mute(B)
    kernel.flush()
    fences.renew(ONE, T + 30)
    assert answering(kernel, A, B) == [True, False]
    kernel.flush()
    fences.admit(ONE, {C: T + 40})
    assert answering(kernel, A, B, C) == [True, False, True]
    assert fences.until(ONE) == T + 30


def test_earlier_tables_that_have_gone_are_forgotten(kernel: Kernel, clock: Clock) -> None:
    kernel.tables |= {"yaim-1": Table({A}), "yaim-2": Table({B})}
    earlier = ["yaim-1", "yaim-2"]
    fences = Fences(kernel, FIRST, earlier, clock)
    fences.admit(ONE, {C: T + 10})
    del kernel.tables["yaim-1"], kernel.tables[f"yaim-{FIRST}"]
    fences.renew(ONE, T + 10)
    assert earlier == ["yaim-2"]


def test_what_cannot_be_made_anew_is_not_taken_for_made(kernel: Kernel, fences: Fences) -> None:
    """What was muted before is muted when it is."""
    fences.admit(ONE, {A: T + 10, B: T + 10})
    fences.mute(B)
    fences.enforce(ONE)
    kernel.flush()
    kernel.failures.append(("make", errno.EBUSY, False))
    with pytest.raises(KernelError):
        fences.renew(ONE, T + 30)
    fences.renew(ONE, T + 30)
    assert answering(kernel, A, B) == [True, False]


def test_what_was_made_anew_and_not_asked_again_knows_what_it_has_muted(
    kernel: Kernel, fences: Fences
) -> None:
    """It answered before for another reason, and is muted when it is to go again."""
    fences.admit(ONE, {A: T + 10, B: T + 10})
    fences.expect_removal(ONE, B)
    fences.enforce(ONE)
    fences.end_removal(ONE, B)
    kernel.flush()
    kernel.failures += [("admit", errno.ENOENT, False), ("admit", errno.EBUSY, False)]
    with pytest.raises(KernelError):
        fences.renew(ONE, T + 30)
    fences.mute(B)
    fences.renew(ONE, T + 30)
    assert answering(kernel, A, B) == [True, False]


def test_who_is_admitted_leaves_the_tables_of_earlier_lives(kernel: Kernel, clock: Clock) -> None:
    kernel.tables["yaim-1"] = Table({A, B}, set(), T + 1)
    fences = Fences(kernel, FIRST, ["yaim-1"], clock)
    fences.admit(ONE, {A: T + 10})
    clock.now = T + 2
    assert answering(kernel, A, B) == [True, False]


@pytest.mark.parametrize("is_told", [True, False])
def test_what_others_have_changed_is_made_anew(
    kernel: Kernel, fences: Fences, is_told: bool
) -> None:
    """And nothing else, if the kernel tells what it was."""
    fences.admit(ONE, {A: T + 10, B: T + 5})
    fences.admit(OTHER, {C: T + 10})
    fences.mute(B)
    for each in kernel.tables.values():
        each.held.clear()
    made = fences.remake({f"yaim-{FIRST}", "yaim-1"} if is_told else None)
    assert made == [(ONE, 2, None), *([] if is_told else [(OTHER, 1, None)])]
    assert answering(kernel, A, B) == [True, False]
    assert kernel.is_fenced(C) is not is_told
    assert kernel.tables[f"yaim-{FIRST}"].until == T + 10
    fences.renew(ONE, T + 20)
    assert answering(kernel, A, B) == [True, False]


@pytest.mark.parametrize("what", ["make", "renew"])
def test_what_cannot_be_made_anew_is_told_and_the_others_are(
    kernel: Kernel, fences: Fences, what: str
) -> None:
    fences.admit(ONE, {A: T + 10})
    fences.admit(OTHER, {C: T + 10})
    kernel.flush()
    kernel.failures.append((what, errno.EBUSY, False))
    (one, count, error), other = fences.remake(None)
    assert (one, count, other) == (ONE, 1, (OTHER, 1, None))
    assert error is not None and error.errno == errno.EBUSY
    assert answering(kernel, C) == [True]
    fences.renew(ONE, T + 30)
    assert answering(kernel, A) == [True]
