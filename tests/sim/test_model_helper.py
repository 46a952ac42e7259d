"""The model helper held against a real one: the same commands at the same time get the same answers
and leave the same addresses.

Each rig has a real helper process in a network namespace, asked as yaim's helper client asks, and
a model of both, whose virtual clock follows CLOCK_BOOTTIME. All rigs are played at once, each from
a seed of its own.

Not compared: the words of a refusal besides its code, of a failure all words; and an address from
the time on when the kernel may remove it, for nobody renews it, until its deadline and the grace
have passed: how late the kernel is, within the bound of helper/PROTOCOL.md, is chance. Then it has
to be gone in both.

What the helper does depends on when it does it. A rig that the machine has held up between the two,
and where they differ, is begun anew.
"""

import heapq
import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from random import Random

import pytest
from yaim_helper.kernel.lifetimes import GRACE_S

from tests.helper.network import INTERFACE, new_network, present
from tests.helper.process import Helper, running
from tests.sim.faults import Scenario
from tests.sim.first import going_first
from tests.sim.host import Host
from tests.sim.timeline import address
from tests.sim.world import World
from yaim.core.actions import (
    AddAddress,
    ClearConnections,
    HelperAction,
    RemoveAddress,
    RenewAddresses,
)
from yaim.core.events import (
    AddressesRenewed,
    AddressFailed,
    AddressGone,
    AddressRefused,
    AddressRemoved,
    Event,
    HelperReady,
)
from yaim.core.model import Address, Boottime
from yaim.host.boottime import boottime
from yaim.managers.helper.messages import command, read_answer

RIGS = 10
OPERATIONS = 16
"""The operations of each rig."""
PLAYED_WITHIN_S = 120.0
ADDRESSES = tuple(address(number) for number in (10, 11, 12, 13))
LIVES_S = (-1.0, 1.0, 2.2, 2.9, 3.7, 5.2, 9.5, 30.0, 4000.0)
"""The times from a command to its deadline; none is so near to a change of the lifetime that a few
hundredths of a second matter."""
LOOK_EVERY_S = 0.25
A_BIT_S = 0.05
"""What the two may be apart in time."""
EARLIER_S = 0.6
"""So much before the model's kernel the real one may remove an address. The last extension of its
lifetime wins up to half a second, and a helper that is woken later than WOKEN_WITHIN_S makes none;
what was added by a command came up to HELD_UP_S later."""
HELD_UP_S = 0.1
"""The most time from a command to the model until the real one has answered it: the deadlines above
leave that much, and the times at which the two act by themselves are no further apart."""
ANSWER_S = 0.006
"""The virtual time that a command takes at most."""


class ModelHost(Host):
    """A host without a coordinator: what would be told to it is kept."""

    def __init__(self, seed: int) -> None:
        scenario = Scenario(
            seed,
            nodes=0,
            addresses=0,
            ttl_s=3,
            min_ttl_s=2,
            loss=0.0,
            keeps=False,
            faults=(),
            faults_end_at=0.0,
        )
        super().__init__(World(scenario), 1)
        self.rate = 1.0
        self.told: list[Event] = []

    def post(self, event: Event, life: int) -> None:
        if not isinstance(event, AddressGone):
            self.told.append(event)

    def _lose_helper(self, reason: str) -> None:
        """Does nothing: the model's client waits, as the real one's client does here."""

    def ask(self, action: HelperAction) -> None:
        self._command(action)

    def connect(self) -> None:
        self._connect()

    def answers(self) -> list[Event | None]:
        """What it tells within a moment."""
        self.told.clear()
        timeline = self.world.timeline
        timeline.run(timeline.now + ANSWER_S)
        return list(self.told)


@dataclass(slots=True)
class Fate:
    """The end of an address that was added: in the model's time, from when on the kernel may remove
    it and by when it is gone."""

    may_go_from: float
    gone_by: float


class Rig:
    def __init__(self, seed: int, stack: ExitStack, directory: Path) -> None:
        self.random = Random(seed)
        self._request = 0
        self._directory = directory
        self._network = stack.enter_context(new_network())
        self._life = stack.enter_context(ExitStack())
        """The life of the real helper."""
        self._fates: dict[Address, Fate] = {}
        self.seen: set[str] = set()
        """What kinds of things have happened."""
        self._frozen: ExitStack | None = None
        """Continues the real helper."""
        self._asked: list[tuple[int, HelperAction]] = []
        """Not answered yet."""
        self._changed_at: dict[Address, float] = {}
        """When the model's helper has added or removed an address by itself; in the model's
        time."""
        self._longest_s = 0.0
        """That the real one has lagged behind the model."""
        self._start_real()
        self._model = ModelHost(seed)
        self._model.start_helper()
        self._began = boottime()
        self._shift = self._began - self._model.clock()
        """The difference from the model's clock to ours."""
        self.connect()

    # --- both worlds -----------------------------------------------------------------------

    def _start_real(self) -> None:
        self._helper: Helper = self._life.enter_context(running(self._network, self._directory))

    def catch_up(self) -> None:
        """The model's clock follows; what is known of the addresses with it."""
        timeline = self._model.world.timeline
        before = set(self._model.kernel.ours)
        timeline.run(max(timeline.now, boottime() - self._began))
        now = self._model.clock()
        self._changed_at |= dict.fromkeys(before ^ self._model.kernel.ours.keys(), now)
        helper = self._model.helper
        for holding in helper.holdings.values() if helper is not None else ():
            gone_by = holding.deadline + GRACE_S
            self._fates[holding.address] = Fate(holding.kernel_until, gone_by)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Both do something, the real one a little later."""
        self.catch_up()
        began = boottime()
        try:
            yield
        finally:
            self._longest_s = max(self._longest_s, boottime() - began)
        self.catch_up()

    def was_held_up(self) -> bool:
        """So much that the two may differ."""
        return self._longest_s > HELD_UP_S

    def ask(self, action: HelperAction) -> None:
        began = self._model.clock()
        with self._together():
            self._model.ask(action)
            answer = next(iter(self._model.answers()), None)
            told = self._told(self._send(action), action)
        self._compare(action, answer, told, began)
        self.look()

    def _compare(
        self, action: HelperAction, answer: Event | None, told: Event | None, began: float
    ) -> None:
        sure = self._sure(began)
        assert self._comparable(answer, sure) == self._comparable(told, sure), action
        self.seen.add(f"{type(action).__name__}: {type(answer).__name__}")

    def _let_deadlines_pass(self) -> None:
        """Those that are so near that one of the two may see what the other one does not."""
        self.catch_up()
        helper, until = self._model.helper, float(self._model.clock())
        deadlines = [each.deadline for each in helper.holdings.values()] if helper else []
        for each in sorted(deadlines):
            if until - A_BIT_S < each < until + HELD_UP_S + A_BIT_S:
                until = each + A_BIT_S
        time.sleep(max(0.0, until - self._model.clock()))
        self.catch_up()

    def _ask_later(self, action: HelperAction) -> None:
        """Asks without waiting for the answer."""
        self._model.ask(action)
        self._asked.append((self._send(action), action))

    def _send(self, action: HelperAction) -> int:
        message = command(self._in_real(action), "")
        return self._client.send(message.pop("op"), **message)

    def _told(self, request_id: int, action: HelperAction) -> Event | None:
        return read_answer(self._client.socket.recv(65536), request_id, action)

    def connect(self) -> None:
        """Hello, again if there was a connection."""
        self._let_deadlines_pass()
        began = self._model.clock()
        with self._together():
            self._model.connect()
            (ready,) = self._model.answers()
            self._client = self._life.enter_context(self._helper.greeted())
            listing = self._client.list()["addresses"]
        listed = {ip_address(each["address"]): each for each in listing}
        assert isinstance(ready, HelperReady)
        deadlines = {each.address: each.deadline + self._shift for each in ready.addresses}
        told = {
            address: each["deadline_ns"] / 1e9
            for address, each in listed.items()
            if each["deadline_ns"] is not None
        }
        sure = self._sure(began)
        assert deadlines.keys() & sure == told.keys() & sure
        for each in deadlines.keys() & told.keys():
            assert abs(deadlines[each] - told[each]) < 1e-6
        assert ready.left_over & sure == (listed.keys() - told.keys()) & sure
        self.seen.add("left over" if ready.left_over else "connected")

    def look(self) -> None:
        """Both have the same addresses."""
        self.catch_up()
        began = self._model.clock()
        there = {
            ip_address(text.split()[1].removesuffix("/32"))
            for text in present(self._network)
            if text.endswith("/32")
        }
        for each in there:
            assert began < self._fates[each].gone_by, f"{each} has outlived its deadline"
        self.catch_up()
        sure = self._sure(began)
        assert there & sure == self._model.kernel.ours.keys() & sure

    def _sure(self, began: float) -> set[Address]:
        """Those of which it is known whether they are there, at any time from then until now. When
        they were looked at is not known better."""
        now = self._model.clock()
        unsure = {
            address
            for address, fate in self._fates.items()
            if fate.may_go_from - EARLIER_S < now and began < fate.gone_by + A_BIT_S
        }
        just_changed = {
            address for address, at in self._changed_at.items() if began < at + HELD_UP_S + A_BIT_S
        }
        return set(ADDRESSES) - unsure - just_changed

    def _comparable(self, event: Event | None, sure: set[Address]) -> Event | None:
        match event:
            case AddressRefused() | AddressFailed():
                return replace(event, reason="")
            case AddressesRenewed(missing):
                return AddressesRenewed(missing & sure)
            case AddressRemoved():
                # In the model somebody is always connected.
                return replace(event, reset=0, left=None)
            case _:
                return event

    def _in_real(self, action: HelperAction) -> HelperAction:
        match action:
            case AddAddress():
                deadline = Boottime(action.deadline + self._shift)
                return replace(action, deadline=deadline, interface=INTERFACE)
            case RemoveAddress():
                return action
            case RenewAddresses(deadline):
                return RenewAddresses(Boottime(deadline + self._shift))
            case ClearConnections():
                return action

    # --- what happens ----------------------------------------------------------------------

    def go_on(self) -> float:
        """One more thing; the seconds until the next one."""
        if self._frozen is not None:
            self._thaw(self._frozen)
        self._let_deadlines_pass()
        random = self.random
        each = random.choice(ADDRESSES)
        self._request += 1
        match random.randrange(21):
            case 0 | 1 | 2 | 3 | 4 | 5:
                deadline = self._deadline()
                self.ask(AddAddress(self._request, each, "eth0", 32, deadline))
            case 6 | 7:
                self.ask(RemoveAddress(self._request, each, resets=self._request % 2 == 0))
                self.ask(ClearConnections(each))
            case 8 | 9 | 10 | 11 | 12:
                self.ask(RenewAddresses(self._deadline()))
            case 13:
                self._client.__exit__()
                self.connect()
            case 14:
                self._restart()
            case 15 | 16:
                self._delete_by_hand(each)
            case 17:
                self._put_by_hand(each)
            case 18:
                self._freeze()
                return random.choice((0.3, 1.0, 3.0))
            case _:
                self._turn_interface()
        return random.choice((0.0, 0.1, 0.3, 0.8, 2.0))

    def _deadline(self) -> Boottime:
        self.catch_up()
        return Boottime(self._model.clock() + self.random.choice(LIVES_S))

    def _restart(self) -> None:
        """Killed, and another one started."""
        self.catch_up()
        os.kill(self._helper.pid, signal.SIGKILL)
        self._helper.process.wait()
        self._model.crash_helper()
        self._life.close()
        self._start_real()
        self.catch_up()
        self._model.start_helper()
        self.connect()
        self.look()

    def _delete_by_hand(self, each: Address) -> None:
        self.catch_up()
        now, helper = self._model.clock(), self._model.helper
        holding = helper.holdings.get(each) if helper is not None else None
        # The helper puts it back when it extends its lifetime: before that, or after it?
        is_near = holding is not None and abs(holding.extend_at - now) < HELD_UP_S + A_BIT_S
        if each in self._sure(now) and each in self._model.kernel.ours and not is_near:
            with self._together():
                self._model.kernel.delete(each)
                self._network.run("ip", "address", "del", f"{each}/32", "dev", INTERFACE)
            self.seen.add("deleted by hand")
            self.look()

    def _put_by_hand(self, each: Address) -> None:
        """Puts an address by hand with another prefix length; or takes it away again."""
        foreign = self._model.kernel.foreign
        what = "del" if each in foreign else "add"
        with self._together():
            (foreign.remove if each in foreign else foreign.add)(each)
            self._network.run("ip", "address", what, f"{each}/31", "dev", INTERFACE)
        self.seen.add(f"{what} by hand")
        self.look()

    def _freeze(self) -> None:
        self.catch_up()
        self._frozen = self._life.enter_context(ExitStack())
        self._frozen.enter_context(self._helper.stopped())
        self._model.freeze_helper(PLAYED_WITHIN_S)

    def _thaw(self, frozen: ExitStack) -> None:
        """What was asked just before it does first, and then it looks at the clock."""
        self._let_deadlines_pass()
        began = self._model.clock()
        with self._together():
            for each in self.random.sample(ADDRESSES, 2):
                self._request += 1
                self._ask_later(AddAddress(self._request, each, "eth0", 32, self._deadline()))
            self._ask_later(RenewAddresses(self._deadline()))
            self._frozen = None
            frozen.close()
            self._model.helper_frozen_until = self._model.world.timeline.now
            self._model.thaw_helper()
            answers = self._model.answers()
            told = [(action, self._told(request_id, action)) for request_id, action in self._asked]
            self._asked.clear()
        if told[-1][1] is None:
            answers.append(None)
        for (action, real), modelled in zip(told, answers, strict=True):
            self._compare(action, modelled, real, began)
        self.seen.add("thawed")
        self.look()

    def _turn_interface(self) -> None:
        is_up = "eth0" not in self._model.interfaces_up
        with self._together():
            self._model.set_link("eth0", is_up=is_up, is_interface_up=is_up)
            self._network.run("ip", "link", "set", INTERFACE, "up" if is_up else "down")
        self.seen.add("interface turned")


SEEN = {
    "AddAddress: AddressAdded",
    "AddAddress: AddressRefused",
    "AddAddress: AddressFailed",
    "ClearConnections: NoneType",
    "RemoveAddress: AddressRemoved",
    "RenewAddresses: AddressesRenewed",
    "RenewAddresses: NoneType",
    "add by hand",
    "connected",
    "deleted by hand",
    "interface turned",
    "left over",
    "thawed",
}


class Rigs:
    """Gone when the stack is closed."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._begun = 0
        self.of: dict[int, Rig] = {}
        """Seed to the one that is played."""
        self._ends: dict[int, ExitStack] = {}

    def begin(self, seed: int) -> None:
        """Also anew."""
        if seed in self._ends:
            self._ends[seed].close()
        self._begun += 1
        home = self._directory / str(self._begun)
        home.mkdir()
        self._ends[seed] = self._stack.enter_context(ExitStack())
        self.of[seed] = Rig(seed, self._ends[seed], home)


@pytest.mark.timeout(240)
def test_random_commands_are_obeyed_alike(tmp_path: Path) -> None:
    with going_first(), ExitStack() as stack:
        rigs = Rigs(tmp_path, stack)
        for seed in range(RIGS):
            rigs.begin(seed)
        give_up_at = boottime() + PLAYED_WITHIN_S
        left = dict.fromkeys(range(RIGS), OPERATIONS)
        plan: list[tuple[float, int, bool]] = [(boottime(), seed, True) for seed in left]
        plan += [(boottime(), seed, False) for seed in left]
        heapq.heapify(plan)
        differed: dict[int, Exception] = {}
        while left and boottime() < give_up_at:
            at, seed, is_look = heapq.heappop(plan)
            time.sleep(max(0.0, at - boottime()))
            rig = rigs.of[seed]
            try:
                if is_look:
                    rig.look()
                    wait_s = LOOK_EVERY_S
                else:
                    wait_s = rig.go_on()
                    left[seed] -= 1
            except (AssertionError, OSError) as error:
                if not rig.was_held_up():
                    raise AssertionError(f"seed {seed}: {error}") from error
                warnings.warn(f"seed {seed} is begun anew: {error}", stacklevel=1)
                differed[seed] = error
                rigs.begin(seed)
                left[seed] = OPERATIONS
                wait_s = 0.0
            if left[seed]:
                heapq.heappush(plan, (boottime() + wait_s, seed, is_look))
            else:
                del left[seed]
                plan = [each for each in plan if each[1] != seed]
                heapq.heapify(plan)
        assert not left, f"{left} operations were not made in time; held up: {differed}"
        seen = set().union(*(rig.seen for rig in rigs.of.values()))
    assert seen >= SEEN, f"not seen: {SEEN - seen}"
