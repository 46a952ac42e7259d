"""A model of a helper with a fence: what serve/ and held/ do then.

What needs the kernel's routing lock is done by a thread, one job after the other, and may wait for
the lock; the loop goes on, and renews the fence from memory (held/jobs.py, held/watch.py). What may
answer, and until when, is decided by the helper's own code (held/fences.py), on model tables.

Between any two steps of a job, and within a transaction, the helper can be stopped or killed.
"""

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING, TypeAlias, assert_never

from yaim_helper.held.expiry import RETRY_REMOVAL_S
from yaim_helper.held.fences import Fences
from yaim_helper.held.holding import Holding
from yaim_helper.held.refusals import MAX_DEADLINE_S
from yaim_helper.kernel.addresses import Interface, KernelError
from yaim_helper.protocol import Add, Ok
from yaim_helper.serve.asked import DISK_HANGS, GIVE_UP_AFTER_S, overtaken, ready

from tests.sim.fence import HELD_UP_ONE_IN, HELD_UP_S
from tests.sim.helper import (
    INTERFACES,
    LOOK_AT_EARLIER_S,
    OWNER,
    AskedOnConnection,
    ModelHelper,
    place_of,
    removed,
    request_of,
)
from tests.sim.kernel import Resets
from yaim.core.actions import AddAddress, HelperAction, RemoveAddress, RenewAddresses
from yaim.core.events import AddressAdded, AddressesRenewed, Event
from yaim.core.model import Address, Boottime, Place

if TYPE_CHECKING:
    from tests.sim.host import Host

ASKED_WITHIN_S = 0.001
"""How long what needs the kernel's routing lock takes while nobody has that."""
BETWEEN_S = 0.0005
"""From what the kernel has done to what the helper makes of it."""
KERNEL_WAITS = "the kernel does not answer: its routing lock may be held"
NOBODY_WANTS_IT = "the fence of an earlier life is over"


@dataclass(frozen=True, slots=True)
class InKernel:
    """The thread asks for something for which the kernel needs its routing lock."""

    do: Callable[[], object]
    puts: Address | None = None
    """The address that is put there."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A change of the fence: done at once, unless the helper is stopped or killed within it.
    KernelError is raised where it was asked for."""

    do: Callable[[], object]


Steps: TypeAlias = Generator[InKernel | Transaction]


@dataclass(eq=False, slots=True)
class Job:
    steps: Steps
    asked: AskedOnConnection | None = None


class FencedHelper(ModelHelper):
    is_fenced = True

    def __init__(self, host: "Host") -> None:
        super().__init__(host)
        self._fences = Fences(
            self._tables, host.new_table_number(), self._earlier, self._tables.pace.now
        )
        self._jobs: deque[Job] = deque()
        """The first one is under way."""
        self._done: list[tuple[Job, Exception | None]] = []
        """Whose request the kernel has done, and nothing was made of that yet."""
        self.is_in_kernel = False
        """The thread has asked for something that is not done yet."""
        self._late: Callable[[], None] | None = None
        """What the thread was about to ask for when the process was stopped."""
        self._begun: tuple[Callable[[], object], Callable[[Exception | None], object]] | None = None
        """The transaction in which the process was stopped, and what comes after it."""
        self._begun_at = 0.0
        self._is_looking = self._is_extending = self._is_sweeping = False
        self._missing: set[Address] = set()
        """As the last look has found."""
        self._leaving: Counter[Address] = Counter()
        """Removals that were asked for and are not done yet."""

    def begin(self) -> None:
        """The process has started."""
        self._secure_left_overs()

    @property
    def is_over(self) -> bool:
        """Whether it was killed, or is stopped, within what it does."""
        return self._host.helper is not self or self._host.is_helper_frozen

    # --- jobs ------------------------------------------------------------------------------

    def _start(self, steps: Steps, asked: AskedOnConnection | None = None) -> None:
        self._jobs.append(Job(steps, asked))
        if len(self._jobs) == 1:
            self._advance(self._jobs[0], None)

    def _advance(self, job: Job, error: Exception | None) -> None:
        """Makes the next step of the job, or begins the next job."""
        try:
            step = next(job.steps) if error is None else job.steps.throw(error)
        except StopIteration:
            self._jobs.popleft()
            if self._jobs:
                self._advance(self._jobs[0], None)
            return
        match step:
            case Transaction(do):
                self._transact(do, partial(self._advance, job))
            case InKernel(do, puts):
                self._ask_kernel(job, do, puts)
            case _:
                assert_never(step)

    def _ask_kernel(self, job: Job, do: Callable[[], object], puts: Address | None) -> None:
        """The kernel does it as soon as the lock is free, whatever becomes of the process; or the
        thread was stopped just before it could ask."""
        host, kernel = self._host, self._host.kernel
        under_way = kernel.under_way
        is_asked = kernel.is_held or host.random.random() < 0.5
        if host.is_midway():
            host.stop_midway()
            is_asked = kernel.is_held
        if puts is not None and is_asked:
            under_way.add(puts)
        self.is_in_kernel = True

        def run() -> None:
            if kernel.under_way is not under_way:
                return  # The host was switched off.
            if not is_asked and host.helper is not self:
                return
            if not is_asked and host.is_helper_frozen:
                self._late = run
                return
            if puts is not None:
                under_way.discard(puts)
            do()
            self.is_in_kernel = False
            self._done.append((job, None))
            host.has_left_kernel(self)

        is_held, takes_s = kernel.is_held, host.random.uniform(0.0, ASKED_WITHIN_S)
        kernel.when_free(kernel.soon_s() if is_held else takes_s, run)

    def _transact(
        self, do: Callable[[], object], then: Callable[[Exception | None], object]
    ) -> None:
        host = self._host
        if host.is_midway():
            self._begun, self._begun_at = (do, then), host.clock()
            host.stop_midway()
            return
        if host.random.randrange(HELD_UP_ONE_IN) == 0:
            self._tables.pace.was_stopped(host.random.uniform(0.0, HELD_UP_S))
        self._execute(do, then)

    def _execute(
        self, do: Callable[[], object], then: Callable[[Exception | None], object]
    ) -> None:
        error = None
        try:
            do()
        except KernelError as failed:
            error = failed
        self._tables.pace.catch_up()
        then(error)

    def resume(self) -> None:
        """The process runs on where it was stopped."""
        if self._begun is not None:
            (do, then), self._begun = self._begun, None
            self._tables.pace.was_stopped(self._host.clock() - self._begun_at)
            self._execute(do, then)
        if self._late is not None and not self.is_over:
            late, self._late = self._late, None
            self._host.kernel.when_free(self._host.kernel.soon_s(), late)
        while self._done and not self.is_over:
            self._advance(*self._done.pop(0))

    # --- commands --------------------------------------------------------------------------

    def take(self, connection: int, action: HelperAction) -> None:
        super().take(connection, action)
        if isinstance(action, RemoveAddress):
            self._fences.expect_removal(OWNER, action.address)
            self._leaving[action.address] += 1
            holding = self.holdings.get(action.address)
            if holding is not None:
                holding.is_leaving = True

    def go_on(self) -> None:
        now = self._host.clock()
        for each in [*self.asked]:
            if isinstance(each.action, RenewAddresses) and each.begun_at is None:
                each.begun_at = now
                self._renew_now(each, each.action)
                if self.is_over:
                    return
        while True:
            waiting = deque(each for each in self.asked if each.begun_at is None)
            doing, self._look_at = ready(waiting, now)
            for each in doing:
                self._begin(each)
                if self.is_over:
                    return
            if not doing:
                break
        for each in self.asked:
            overdue = each.begun_at is not None and now >= each.begun_at + GIVE_UP_AFTER_S
            action = each.action
            if overdue and each.reply is None and isinstance(action, AddAddress | RemoveAddress):
                self._answer(each, self._failed(action, KERNEL_WAITS))
        self._reply()

    def _reply(self) -> None:
        while self.asked and self.asked[0].reply is not None:
            each = self.asked.popleft()
            if each.event is not None:
                self.answers.append((each.connection, each.event))

    def _begin(self, asked: AskedOnConnection) -> None:
        action, now = asked.action, self._host.clock()
        asked.begun_at = now
        if isinstance(action, AddAddress):
            if (asked.known or asked.obstacle(now)) is not None:
                self._answer(asked, self._failed(action, DISK_HANGS.reason))
                return
            self._start(self._adding(asked, action), asked)
            return
        assert isinstance(action, RemoveAddress)
        waiting = [each for each in self.asked if each.begun_at is None or each is asked]
        for each in overtaken(waiting, asked):
            if isinstance(each.action, AddAddress):
                each.begun_at = now
                each.event = self._failed(each.action, "its removal was asked for")
        self._expired.discard(action.address)
        self._start(self._removing(action.address, asked), asked)

    def _answer(self, asked: AskedOnConnection | None, event: Event | None) -> None:
        if asked is not None and asked.reply is None:
            asked.event = event
            asked.reply = Ok({})

    # --- adding ----------------------------------------------------------------------------

    def _adding(self, asked: AskedOnConnection, add: AddAddress) -> Steps:
        host, kernel = self._host, self._host.kernel
        yield InKernel(lambda: None)
        assert isinstance(asked.request, Add)
        is_changed = asked.request != request_of(add)
        deadline = Boottime(asked.request.deadline_ns / 1e9) if is_changed else add.deadline
        if (event := self._why_not(add, deadline)) is not None:
            self._answer(asked, event)
            return
        old = self.holdings.get(add.address)
        place = Place(add.interface, add.prefix_length)
        interface = Interface(
            add.interface, INTERFACES.index(add.interface), b"", is_up=True, has_neighbours=True
        )
        life_s = deadline - host.clock()
        holding = Holding(add.address, interface, add.prefix_length, "", OWNER, deadline, life_s)
        try:
            yield Transaction(partial(self._admit, holding))
        except KernelError as error:
            self._answer(asked, self._failed(add, error.reason))
            return
        if kernel.places.get(add.address, place) != place:
            host.tell(f"the helper takes {add.address} elsewhere, to {place}")
            yield InKernel(partial(kernel.delete, add.address, is_by_helper=True))
        failure = None if host.can_change_network else "out of memory"
        if old is not None and place != place_of(old) and host.cannot_be_at(place):
            failure = "no buffer space available"
        if failure is None:
            yield InKernel(partial(self._put, holding), puts=add.address)
            if add.address not in kernel.ours:
                failure = "out of memory"
        if failure is not None:
            yield from self._give_back(holding, old)
            self._answer(asked, self._failed(add, failure))
            return
        if add.address in self._left:
            self._left.remove(add.address)
        host.world.checker.added(host, add.address)
        self._answer(asked, AddressAdded(add.request, add.address))

    def _admit(self, holding: Holding) -> None:
        self._fences.admit(OWNER, {holding.address: holding.deadline})
        holding.is_leaving = self._leaving[holding.address] > 0
        self._expired.discard(holding.address)
        self._missing.discard(holding.address)
        self.holdings[holding.address] = holding
        for each in self.holdings.values():
            self._host.world.checker.not_renewed(self._host, each.address, each.deadline)

    def _end_removal(self, address: Address) -> None:
        self._fences.end_removal(OWNER, address)
        self._leaving[address] -= 1

    def _give_back(self, holding: Holding, old: Holding | None) -> Steps:
        """It could not be put there. What is there nonetheless stays fenced."""
        address = holding.address
        if self.holdings.get(address) is not holding:
            return
        if old is not None and not old.is_leaving:
            old.deadline = holding.deadline
            self.holdings[address] = old
            self._note_change()
        elif address in self._host.kernel.ours:
            holding.deadline = min(holding.deadline, self._host.clock())
        else:
            del self.holdings[address]
            yield Transaction(partial(self._fences.dismiss, [address]))

    def _why_not(self, add: AddAddress, deadline: float) -> Event | None:
        """Why an add is refused, or has failed."""
        host, old = self._host, self.holdings.get(add.address)
        if not host.can_record:
            return self._failed(add, "the audit record cannot be written")
        if host.refuses_one is not None and host.refuses_one[0] == add.address:
            return self._refused(add, host.refuses_one[1])
        is_meant = old is None or host.refuses == "not-allowed"
        refuses = host.refuses if is_meant else None
        if refuses == "not-allowed":
            return self._refused(add, refuses)
        if not self._is_on_time(deadline):
            return self._refused(add, "expired")
        if add.interface not in host.interfaces_up:
            return self._failed(add, f"{add.interface} is down")
        if refuses is not None:
            return self._refused(add, refuses)
        if old is None and add.address in host.kernel.foreign | host.kernel.unrecorded:
            return self._refused(add, "foreign")
        return None

    def _is_on_time(self, deadline: float) -> bool:
        return 0 < deadline - self._host.clock() <= MAX_DEADLINE_S

    def _put(self, holding: Holding) -> None:
        """With the broom's lifetime."""
        host = self._host
        if not host.can_change_network:
            return
        lifetime = max(host.broom_s, int(holding.deadline - host.clock()) + 2)
        if holding.address not in host.kernel.ours:
            host.tell(f"the helper adds {holding.address}")
        host.kernel.set_lifetime(holding.address, place_of(holding), lifetime, inf, is_fenced=True)
        holding.kernel_until = host.clock() + lifetime
        holding.extend_at = holding.kernel_until - host.broom_s / 2

    # --- removing --------------------------------------------------------------------------

    def _removing(self, address: Address, asked: AskedOnConnection | None, why: str = "") -> Steps:
        """As asked for; or because its deadline has passed, or nobody has taken it over."""
        host, kernel = self._host, self._host.kernel
        yield InKernel(lambda: None)
        if asked is None and not self._is_to_go(address):
            return
        holding = self.holdings.get(address)
        if holding is not None:
            holding.is_leaving = True
            self._fences.mute(address)
        remove, resets = asked.action if asked is not None else None, None
        if isinstance(remove, RemoveAddress) and address in kernel.ours:
            resets = self.resets_of(remove)
        failure = None
        if address in kernel.unrecorded:
            failure = "it may be what an earlier life has left"
        elif address in kernel.ours and not host.can_change_network:
            failure = "out of memory"
        if failure is None:
            if address in kernel.ours:
                host.tell(f"the helper removes {address}{why}")
            yield InKernel(partial(self._take_off, address, resets))
            if address in kernel.ours:
                failure = "out of memory"
        if failure is None:
            if self.holdings.pop(address, None) is not None and asked is None:
                self._expired.add(address)
            if address in self._left:
                self._left.remove(address)
            yield Transaction(partial(self._fences.dismiss, [address]))
        elif holding is not None:
            holding.retry_at = host.clock() + RETRY_REMOVAL_S
        if asked is not None:
            self._end_removal(address)
            assert isinstance(remove, RemoveAddress)
            told = self._failed(remove, failure) if failure else removed(remove, resets)
            self._answer(asked, told)

    def _take_off(self, address: Address, resets: Resets | None) -> None:
        if self._host.can_change_network:
            self._host.kernel.delete(address, is_by_helper=True, resets=resets)

    def _is_to_go(self, address: Address) -> bool:
        """Whether that still holds, by the time that it is its turn."""
        holding = self.holdings.get(address)
        if holding is not None:
            return holding.is_leaving
        return address in self._left

    # --- renewals, and what the kernel tells -------------------------------------------------

    def _renew_now(self, asked: AskedOnConnection, renew: RenewAddresses) -> None:
        deadline = renew.deadline
        if not self._is_on_time(deadline):
            self._answer(asked, None)
            return
        for each in self.asked:
            if each is asked:
                break
            if each.begun_at is None and isinstance(each.request, Add):
                each.renew_to(deadline)
        living = [
            each
            for each in self.holdings.values()
            if not each.is_leaving and self._host.clock() < each.deadline
        ]

        def renewed(error: Exception | None) -> None:
            if error is not None:
                self._answer(asked, None)
                return
            for each in living:
                each.deadline, each.life_s = deadline, deadline - self._host.clock()
                self._host.world.checker.renewed(self._host, each.address)
            for each in self.holdings.values():
                self._host.world.checker.not_renewed(self._host, each.address, each.deadline)
            missing = {each.address for each in living} & self._missing
            if missing:
                self._note_change()
            self._answer(asked, AddressesRenewed(frozenset(missing | self._expired)))

        self._transact(partial(self._fences.renew, OWNER, deadline), renewed)

    def see_change(self) -> None:
        """The kernel tells that an address has come or gone, and it was not the helper."""
        self._note_change()

    def _note_change(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self._start(self._looking())

    def _looking(self) -> Steps:
        """Puts back what is missing."""
        kernel = self._host.kernel
        self._is_looking = False
        yield InKernel(lambda: None)
        missing = [each for each in self.holdings.values() if each.address not in kernel.ours]
        for each in missing:
            if self._is_wanted(each):
                yield InKernel(partial(self._put_back, each), puts=each.address)
        self._missing = {
            each.address for each in missing if self._is_wanted(each)
        } - kernel.ours.keys()

    def _is_wanted(self, holding: Holding) -> bool:
        is_held = self.holdings.get(holding.address) is holding
        return is_held and not holding.is_leaving and self._host.clock() < holding.deadline

    def _put_back(self, holding: Holding) -> None:
        place = self._host.kernel.places.get(holding.address, place_of(holding))
        if place == place_of(holding):
            self._put(holding)

    def _extending(self) -> Steps:
        """Sets the lifetimes anew that are half over."""
        for each in [*self.holdings.values()]:
            if self._is_wanted(each) and self._host.clock() >= each.extend_at:
                yield InKernel(partial(self._put_back, each), puts=each.address)
        self._is_extending = False

    # --- what an earlier life has left -------------------------------------------------------

    def see_flush(self) -> None:
        """Somebody has flushed the ruleset."""
        self._earlier[:] = [each for each in self._earlier if each in self._tables.names()]
        made = self._fences.remake(None)
        try:
            self._secure_left_overs()
            is_made = all(failed is None for _, _, failed in made)
        except KernelError:
            is_made = False
        if not is_made:
            self._host.deliver(BETWEEN_S, self._host.see_flush)
            return
        self._host.tell("the helper makes the fence anew")

    def _secure_left_overs(self) -> None:
        """Mutes at once, and then removes, what was put there with a fence and has none."""
        kernel = self._host.kernel
        bare = [
            each
            for each in self._left
            if each in kernel.by_fenced
            and each not in self.holdings
            and not kernel.ruleset.is_fenced(each)
        ]
        if bare:
            self._fences.admit(OWNER, dict.fromkeys(bare, 0.0))
        kernel.is_bare = False
        for each in bare:
            self._start(self._removing(each, None, ": it had no fence any more"))

    def _mute_left_overs(self) -> None:
        """Their deadlines are not known, and came nearer."""
        left = [each for each in self._left if each not in self.holdings]
        if left:
            self._fences.admit(OWNER, dict.fromkeys(left, 0.0))
            for each in left:
                self._start(self._removing(each, None, ": the clock has jumped"))

    def _look_at_earlier(self, now: float) -> None:
        """Removes what earlier tables have kept from answering since, and then the tables."""
        self._earlier_look_at = now + LOOK_AT_EARLIER_S
        live = [each for each in self._earlier if self._tables.is_live(each)]
        if self._is_sweeping:
            return
        if not live and any(each not in self.holdings for each in self._left):
            self._is_sweeping = True
            self._start(self._removing_left_overs())
        if now >= self._swept_at:
            self._is_sweeping = True
            self._start(self._sweeping())
        if not self._earlier:
            self._earlier_look_at = inf

    def _removing_left_overs(self) -> Steps:
        for each in [*self._left]:
            if each not in self._host.kernel.ours:
                self._left.remove(each)
            elif each not in self.holdings:
                yield from self._removing(each, None, f": {NOBODY_WANTS_IT}")
        self._is_sweeping = False

    def _sweeping(self) -> Steps:
        """Removes earlier tables when nothing can be on an interface that they keep muted."""
        kernel = self._host.kernel
        yield InKernel(lambda: None)
        if all(each in self.holdings for each in kernel.ours):
            for name in [each for each in self._earlier if not self._tables.is_live(each)]:
                yield Transaction(self._tables.named(name).unmake)
                if name in self._earlier:
                    self._earlier.remove(name)
        self._is_sweeping = False

    # --- the clock -------------------------------------------------------------------------

    def due_at(self) -> float:
        times = [inf, self._look_at, self._earlier_look_at]
        times += [
            each.begun_at + GIVE_UP_AFTER_S
            for each in self.asked
            if each.begun_at is not None and each.reply is None
        ]
        for holding in self.holdings.values():
            if not holding.is_leaving:
                times.append(holding.deadline)
                times.append(inf if self._is_extending else holding.extend_at)
            elif holding.retry_at:
                times.append(holding.retry_at)
        return min(times)

    def do_what_is_due(self) -> None:
        now = self._host.clock()
        self.end_over()
        if self.is_over:
            return
        wanted = [each for each in self.holdings.values() if self._is_wanted(each)]
        if not self._is_extending and any(now >= each.extend_at for each in wanted):
            self._is_extending = True
            self._start(self._extending())
        if now >= self._earlier_look_at:
            self._look_at_earlier(now)

    def end_over(self) -> None:
        now = self._host.clock()
        for holding in [*self.holdings.values()]:
            is_over = now >= holding.deadline and not holding.is_leaving
            is_retried = holding.is_leaving and 0 < holding.retry_at <= now
            if is_over or is_retried:
                holding.is_leaving = True
                holding.retry_at = 0.0
                self._fences.mute(holding.address)
                self._start(self._removing(holding.address, None, ": its deadline has passed"))
                if self.is_over:
                    return

    def make_up_for_jump(self) -> None:
        by_s, self.jump_s = self.jump_s, 0.0
        for each in self.holdings.values():
            each.deadline -= by_s
        self.inbox.clear()
        for asked in self.asked:
            if isinstance(asked.action, AddAddress):
                asked.draw_nearer(by_s)
            elif isinstance(asked.action, RemoveAddress) and asked.begun_at is None:
                self._end_removal(asked.action.address)
        self.asked.clear()
        self._fences.draw_nearer(by_s)
        self._mute_left_overs()
        self.end_over()

    # --- for the checker ---------------------------------------------------------------------

    def is_sure_to_answer(self, address: Address) -> bool:
        """Whether the fence has to let an address answer that is on the interface: it is held, is
        not to go, and its deadline is not over."""
        holding = self.holdings.get(address)
        if holding is None or holding.is_leaving or self._leaving[address]:
            return False
        return self._begun is None and self._host.clock() < holding.deadline

    def to_do(self) -> Iterable[HelperAction]:
        """What is to be done yet, in order."""
        yield from (job.asked.action for job in self._jobs if job.asked is not None)
        yield from (each.action for each in self.asked if each.begun_at is None)
        yield from (action for _, action in self.inbox)
