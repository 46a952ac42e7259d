"""The model helper held against a real one: the same commands at the same time get the same answers
and leave the same addresses.

Each rig has a real helper process in a network namespace, asked as yaim's helper client asks, and
a model of both, whose virtual clock follows CLOCK_BOOTTIME. All rigs are played at once, each from
a seed of its own.

Not compared: the words of a refusal besides its code, of a failure all words; and an address from
the time on when the kernel may remove it, for nobody renews it, until its deadline and the grace
have passed: how late the kernel is, within the bound of helper/PROTOCOL.md, is chance. Then it has
to be gone in both.
"""

import heapq
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from random import Random

import pytest
from yaim_helper.addresses import GRACE_S

from tests.helper.network import INTERFACE, new_network, present
from tests.helper.process import Helper, running
from tests.sim.faults import Scenario
from tests.sim.helper import HelperAction
from tests.sim.host import Host
from tests.sim.timeline import address
from tests.sim.world import World
from yaim.boottime import boottime
from yaim.core.actions import AddAddress, RemoveAddress, RenewAddresses
from yaim.core.events import (
    AddressesRenewed,
    AddressFailed,
    AddressGone,
    AddressRefused,
    Event,
    HelperReady,
)
from yaim.core.model import Address, Boottime
from yaim.helper_client import command, read_answer

RIGS = 10
OPERATIONS = 16
"""Of each rig."""
PLAYED_WITHIN_S = 60.0
ADDRESSES = tuple(address(number) for number in (10, 11, 12, 13))
LIVES_S = (-1.0, 1.0, 2.2, 2.9, 3.7, 5.2, 9.5, 30.0, 4000.0)
"""From a command to its deadline; none is so near to a change of the lifetime that a few hundredths
of a second matter."""
LOOK_EVERY_S = 0.25
A_BIT_S = 0.05
"""By what the two may be apart in time."""
EARLIER_S = 0.3
"""So much before the model's kernel the real one may remove an address: an extension that was made
a moment later, or not at all, is the reason."""
ANSWER_S = 0.006
"""Of virtual time that a command takes at most."""


class ModelHost(Host):
    """Without a coordinator: what would be told to it is kept."""

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
        """As here the real one's client, this one waits."""

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
    """Of an address that was added: in the model's time, from when on the kernel may remove it and
    by when it is gone."""

    may_go_from: float
    gone_by: float


class Rig:
    def __init__(self, seed: int, stack: ExitStack, directory: Path) -> None:
        self.random = Random(seed)
        self._request = 0
        self._directory = directory
        self._network = stack.enter_context(new_network())
        self._life = stack.enter_context(ExitStack())
        """Of the real helper."""
        self._fates: dict[Address, Fate] = {}
        self.seen: set[str] = set()
        """What kinds of things have happened."""
        self._frozen: ExitStack | None = None
        """Continues the real helper."""
        self._asked: list[tuple[int, HelperAction]] = []
        """Not answered yet."""
        self._start_real()
        self._model = ModelHost(seed)
        self._model.start_helper()
        self._began = boottime()
        self._shift = self._began - self._model.clock()
        """From the model's clock to ours."""
        self.connect()

    # --- both worlds -----------------------------------------------------------------------

    def _start_real(self) -> None:
        self._helper: Helper = self._life.enter_context(running(self._network, self._directory))

    def catch_up(self) -> None:
        """The model's clock follows; what is known of the addresses with it."""
        timeline = self._model.world.timeline
        timeline.run(max(timeline.now, boottime() - self._began))
        helper = self._model.helper
        for holding in helper.holdings.values() if helper is not None else ():
            gone_by = holding.deadline + GRACE_S
            self._fates[holding.address] = Fate(holding.kernel_until, gone_by)

    def ask(self, action: HelperAction) -> None:
        self.catch_up()
        self._model.ask(action)
        answer = next(iter(self._model.answers()), None)
        told = self._told(self._send(action), action)
        self.catch_up()
        self._compare(action, answer, told)
        self.look()

    def _compare(self, action: HelperAction, answer: Event | None, told: Event | None) -> None:
        assert self._comparable(answer) == self._comparable(told), action
        self.seen.add(f"{type(action).__name__}: {type(answer).__name__}")

    def _ask_later(self, action: HelperAction) -> None:
        """Without waiting for the answer."""
        self._model.ask(action)
        self._asked.append((self._send(action), action))

    def _send(self, action: HelperAction) -> int:
        message = command(self._in_real(action), "")
        return self._client.send(message.pop("op"), **message)

    def _told(self, request_id: int, action: HelperAction) -> Event | None:
        return read_answer(self._client.socket.recv(65536), request_id, action)

    def connect(self) -> None:
        """Hello, again if there was a connection."""
        self.catch_up()
        self._model.connect()
        (ready,) = self._model.answers()
        self._client = self._life.enter_context(self._helper.greeted())
        listed = {ip_address(each["address"]): each for each in self._client.list()["addresses"]}
        assert isinstance(ready, HelperReady)
        deadlines = {each.address: each.deadline + self._shift for each in ready.addresses}
        told = {
            address: each["deadline_ns"] / 1e9
            for address, each in listed.items()
            if each["deadline_ns"] is not None
        }
        sure = self._sure()
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
        sure = self._sure()
        assert there & sure == self._model.kernel.ours.keys() & sure

    def _sure(self) -> set[Address]:
        """Those of which it is known whether they are there."""
        now = self._model.clock()
        unsure = {
            address
            for address, fate in self._fates.items()
            if fate.may_go_from - EARLIER_S < now < fate.gone_by + A_BIT_S
        }
        return set(ADDRESSES) - unsure

    def _comparable(self, event: Event | None) -> Event | None:
        match event:
            case AddressRefused() | AddressFailed():
                return replace(event, reason="")
            case AddressesRenewed(missing):
                return AddressesRenewed(missing & self._sure())
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

    # --- what happens ----------------------------------------------------------------------

    def go_on(self) -> float:
        """One more thing; the seconds until the next one."""
        if self._frozen is not None:
            self._thaw(self._frozen)
        random = self.random
        each = random.choice(ADDRESSES)
        self._request += 1
        match random.randrange(21):
            case 0 | 1 | 2 | 3 | 4 | 5:
                deadline = self._deadline()
                self.ask(AddAddress(self._request, each, "eth0", 32, deadline))
            case 6 | 7:
                self.ask(RemoveAddress(self._request, each))
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
        if each in self._sure() and each in self._model.kernel.ours:
            self._network.run("ip", "address", "del", f"{each}/32", "dev", INTERFACE)
            self._model.kernel.delete(each)
            self.seen.add("deleted by hand")
            self.look()

    def _put_by_hand(self, each: Address) -> None:
        """With another prefix length; or it is taken away again."""
        foreign = self._model.kernel.foreign
        what = "del" if each in foreign else "add"
        self._network.run("ip", "address", what, f"{each}/31", "dev", INTERFACE)
        (foreign.remove if each in foreign else foreign.add)(each)
        self.seen.add(f"{what} by hand")
        self.look()

    def _freeze(self) -> None:
        self.catch_up()
        self._frozen = self._life.enter_context(ExitStack())
        self._frozen.enter_context(self._helper.stopped())
        self._model.freeze_helper(PLAYED_WITHIN_S)

    def _thaw(self, frozen: ExitStack) -> None:
        """What was asked just before it does first, and then it looks at the clock."""
        self.catch_up()
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
        self.catch_up()
        if told[-1][1] is None:
            answers.append(None)
        for (action, real), modelled in zip(told, answers, strict=True):
            self._compare(action, modelled, real)
        self.seen.add("thawed")
        self.look()

    def _turn_interface(self) -> None:
        is_up = "eth0" not in self._model.interfaces_up
        self._network.run("ip", "link", "set", INTERFACE, "up" if is_up else "down")
        self._model.set_link("eth0", is_up=is_up, is_interface_up=is_up)
        self.seen.add("interface turned")


SEEN = {
    "AddAddress: AddressAdded",
    "AddAddress: AddressRefused",
    "AddAddress: AddressFailed",
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


@contextmanager
def rigs(directory: Path) -> Iterator[list[Rig]]:
    with ExitStack() as stack:
        made = []
        for seed in range(RIGS):
            home = directory / str(seed)
            home.mkdir()
            made.append(Rig(seed, stack, home))
        yield made


@pytest.mark.timeout(90)
def test_random_commands_are_obeyed_alike(tmp_path: Path) -> None:
    with rigs(tmp_path) as made:
        give_up_at = boottime() + PLAYED_WITHIN_S
        left = dict.fromkeys(range(RIGS), OPERATIONS)
        plan: list[tuple[float, int, bool]] = [(boottime(), seed, True) for seed in left]
        plan += [(boottime(), seed, False) for seed in left]
        heapq.heapify(plan)
        while left and boottime() < give_up_at:
            at, seed, is_look = heapq.heappop(plan)
            time.sleep(max(0.0, at - boottime()))
            try:
                if is_look:
                    made[seed].look()
                    wait_s = LOOK_EVERY_S
                else:
                    wait_s = made[seed].go_on()
                    left[seed] -= 1
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error
            if left[seed]:
                heapq.heappush(plan, (boottime() + wait_s, seed, is_look))
            else:
                del left[seed]
                plan = [each for each in plan if each[1] != seed]
                heapq.heapify(plan)
        assert not left, f"{left} operations were not made in time"
        seen = set().union(*(rig.seen for rig in made))
    assert seen >= SEEN, f"not seen: {SEEN - seen}"
