"""A host: a clock of its own, a kernel, a helper, and a coordinator with the real core in it.

The coordinator takes in together what has happened within a moment, as the real one does, and can
be frozen or killed at any instant, also between deciding and sending.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, assert_never

from tests.sim.fenced import FencedHelper
from tests.sim.helper import INTERFACES, ModelHelper
from tests.sim.kernel import ModelKernel, Stuck
from tests.sim.timeline import HEARD_WITHIN_S
from tests.sim.versions import as_an_older_one_hears, as_an_older_one_sends
from tests.sim.wire import Wire
from yaim.core.actions import (
    Action,
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    ClearConnections,
    End,
    GrantLease,
    HelperAction,
    KeepLease,
    LookForAddresses,
    Note,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
    RenewAddresses,
    Report,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.events import (
    AddressesObserved,
    AddressesSeen,
    AddressGone,
    CheckAnswered,
    ClockJumped,
    Event,
    HelperLost,
    LinksObserved,
    RestartRequested,
    SettingsChanged,
    StopRequested,
    WindowObserved,
)
from yaim.core.model import Address, Boottime, LeaseId, Mark, NodeName, Place
from yaim.core.settings import CheckSettings, Rebalance, Settings, Window
from yaim.core.state.addresses import Phase
from yaim.core.state.lease import Lease
from yaim.core.state.state import State
from yaim.core.step import step

if TYPE_CHECKING:
    from tests.sim.world import World

DRIFT = 0.0005
"""NTP slews a clock by no more."""
ANSWER_WITHIN_S = 2.0
RECONNECT_EVERY_S = 0.1
CHECK_EVERY_S = 1.0
SLOW_CHECK = CheckSettings("slow")
"""Well, too, but it takes its time."""
SERVICE, OTHER_CHECK = "service", CheckSettings("disk")
"""The one comes and goes. The other one is always well, and is not always made."""
FOREIGN_PLACE = Place("eth0", 25)
"""Where the host's own copies of addresses are; the helper puts nothing there."""
BETWEEN_S = 0.0005
"""Between two things that happen within a process or over a socket."""
ROUNDING_S = 1e-7
NOTICED_AFTER_S = 0.002
"""The time from a change in the kernel to the event."""
DETECTED_WITHIN_S = 0.3
"""The time from the wall clock's jump after a pause until all is off that has no right to be
there."""
RESTARTED_AFTER_S = 1.0
"""A coordinator that has ended is started again by systemd."""
HELPER_RESTARTED_AFTER_S = 0.1
LOOK_TAKES_S = 0.08
"""yaim/host/address_look.py, where nobody has the routing lock."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One step of a coordinator, to be taken again."""

    life: int
    settings: Settings
    """That this life began with."""
    now: Boottime
    events: tuple[Event, ...]
    actions: tuple[Action, ...]


class Host:
    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.name = NodeName(f"n{number}")
        self.random = Random(f"{world.scenario.seed} {number}")
        self.rate = 1 + self.random.choice((-DRIFT, DRIFT, self.random.uniform(-DRIFT, DRIFT)))
        self._offset = self.random.uniform(0, 1000)
        self.chances_of_fence = Random(f"{world.scenario.seed} {number} fence")
        """A generator of its own, so that a host without a fence draws what it always drew."""
        self.has_fence = number in world.scenario.fenced
        """Whether the next helper has one."""
        self.chances_of_connections = Random(f"{world.scenario.seed} {number} connections")
        self.can_reset = number not in world.scenario.without_resets
        """Whether its kernel ends connections."""
        self.broom_s = world.scenario.broom_s
        self.kernel = ModelKernel(self)
        self.wire = Wire(self)
        self.settings = Settings(
            self.name,
            "eth0",
            32,
            128,
            world.scenario.ttl_s,
            1.0,
            "sim",
            world.scenario.keeps,
            checks=(CheckSettings(SERVICE, rise=world.scenario.rise),),
            flap_max_wait_s=world.scenario.flap_max_wait_s,
            resets_connections=number not in world.scenario.leaving,
        )
        if world.scenario.rebalance:
            rebalance, delay_s = world.scenario.rebalance[number - 1]
            self.settings = replace(self.settings, rebalance=rebalance, rebalance_delay_s=delay_s)
        self.is_window_open = False
        self.window_turned_at = 0.0
        self._boot = 0
        # The virtual machine:
        self.paused_until = 0.0
        self._paused_s = 0.0
        self._stopped_at: float | None = None
        self._deferred: list[Callable[[], object]] = []
        self.excused_until = 0.0
        """Until then it may hold what it has no right to: it has been paused, or somebody has
        revoked its lease, and no other."""
        self.bereft_until = 0.0
        """Until then it may have addresses whose marks are gone: all leases were lost at once."""
        self.unmarked_until = 0.0
        """Until then it may have addresses whose marks somebody has covered; and yet nobody else
        may."""
        self._blind_since = 0.0
        self.held_up_until = 0.0
        """Until then it may have addresses after the end of its lease: its kernel removes nothing
        in time. What it releases itself has to be gone all the same."""
        self.hasty_until = 0.0
        """Until then it may take at once what others may have still: it does not know that they
        have lost their leases, because it had none, or has learnt of it only after its end."""
        self._lost: LeaseId | None = None
        """The lease that it does not yet know to be gone."""
        # The coordinator:
        self.state: State | None = None
        self.before: State | None = None
        """Before the last step."""
        self.events: tuple[Event, ...] = ()
        """What the last step took in."""
        self.life = 0
        """The number of the coordinator's life; what is for an earlier one is lost."""
        self.frozen_until = 0.0
        self.is_older = self._will_be_older = False
        """Whether it is of an older version: now, and from its next life on."""
        self._inbox: list[Event] = []
        self._outbox: list[Action] = []
        self._is_step_due = False
        self._wake = 0
        self._settings_at_start = self.settings
        self._known_own: set[Address] = set()
        """What the coordinator has seen to be the host's own."""
        self.taken: list[Taken] = []
        # Its service:
        self.sick_until = 0.0
        self.flapping_until = 0.0
        self.flapping_lag_s = 0.0
        """How much later than at others it comes and goes."""
        self.slow_until = 0.0
        """A check that takes its time has not answered yet."""
        self.mute_until = 0.0
        """The checks do not answer."""
        # The helper:
        self.helper: ModelHelper | None = None
        self.helper_frozen_until = 0.0
        self.refuses: str | None = None
        """The code with which the helper refuses every add."""
        self.refuses_one: tuple[Address, str] | None = None
        """The code with which it refuses this address, or "failed"."""
        self.can_change_network = True
        self.can_record = True
        self.does_disk_hang = False
        """The one of the helper's record."""
        self.links_up = self.interfaces_up = frozenset(INTERFACES)
        """Those with a carrier, and those that are set up."""
        self.fails_at = ""
        """No address can be put on this interface that was elsewhere before."""
        self._connection = 0
        self._alarm = 0
        self._is_reading_due = False
        self.last_deadline = 0.0
        """The latest one that was ever handed to a helper, on this host's clock."""
        self.is_fence_told = False
        """Whether the helper that was last heard of has told of a fence."""
        self._midway: tuple[int, float, bool] | None = None
        """After how many more steps a helper with a fence is stopped between two of them, or within
        one; for how long; whether it is killed."""
        self._tables_made = 0
        self._stuck: ModelHelper | None = None
        """A helper's process that is in the kernel; perhaps killed, and yet there."""

    def tell(self, what: str) -> None:
        self.world.timeline.tell(self.name, what)

    # --- time ------------------------------------------------------------------------------

    def clock(self) -> Boottime:
        """CLOCK_BOOTTIME; it stands still while the virtual machine is paused."""
        stopped_at = self._stopped_at
        now = self.world.timeline.now if stopped_at is None else stopped_at
        return Boottime(self._offset + now * self.rate)

    def at(self, instant: float, what: Callable[[], object]) -> None:
        """When the host's clock shows that; never before."""

        def fire() -> None:
            if self._stopped_at is not None:
                self._deferred.append(fire)
                return
            left_s = instant - self.clock()
            if left_s > 0:
                self.world.timeline.later(left_s / self.rate + ROUNDING_S, fire)
            else:
                what()

        self.world.timeline.later((instant - self.clock()) / self.rate, fire)

    def deliver(self, seconds: float, what: Callable[[], object]) -> None:
        """Something comes in over the network after so long, or when the pause is over."""

        def arrive() -> None:
            if self._stopped_at is not None:
                self._deferred.append(arrive)
            else:
                what()

        self.world.timeline.later(seconds, arrive)

    @property
    def is_paused(self) -> bool:
        return self._stopped_at is not None

    def pause(self, seconds: float) -> None:
        """The virtual machine stands still, its clocks too."""
        timeline = self.world.timeline
        self.paused_until = max(self.paused_until, timeline.now + seconds)
        if self._stopped_at is None:
            if timeline.now >= self.excused_until:
                # What an earlier pause has left is over.
                self._paused_s = 0.0
            self._stopped_at = timeline.now
            self.excused_until = float("inf")
        timeline.later(seconds, self.resume)

    def resume(self) -> None:
        timeline = self.world.timeline
        if self._stopped_at is None or timeline.now < self.paused_until:
            return
        paused_s = timeline.now - self._stopped_at
        self._paused_s += paused_s
        self._offset -= paused_s * self.rate
        self._stopped_at = None
        self.tell("runs on, as if nothing had happened")
        # An answer to a keepalive sent before the pause gives it a TTL from now on at most.
        self.excused_until = timeline.now + self.world.granted_s + 1.0
        deferred, self._deferred = self._deferred, []
        for what in deferred:
            what()

    # --- the loss of all leases ------------------------------------------------------------

    def lose_lease(self, until: float) -> None:
        """Nobody can know at once that its lease is gone. `until`: by then it is over."""
        now, state, etcd = self.world.timeline.now, self.state, self.world.etcd
        self.bereft_until = until
        if now < self.excused_until < until:
            # That was not over: what it did not see then, it may think its own now.
            self.excused_until = until
        is_advertised = state is not None and state.advertised.is_written
        lease = state.lease.current if state is not None and is_advertised else None
        if lease is not None and lease.id in etcd.leases and self.clock() < lease.deadline:
            self._lost = lease.id
        else:
            self.hasty_until = until

    def _note_loss(self, before: Lease | None, events: tuple[Event, ...]) -> None:
        """A step was taken."""
        if self._lost is None or before is None or before.id != self._lost or self.state is None:
            return
        lease = self.state.lease.current
        if lease is not None and lease.id == self._lost:
            return
        self._lost = None
        jumped_s = sum(event.by_s for event in events if isinstance(event, ClockJumped))
        if self.clock() >= before.deadline - jumped_s:
            self.hasty_until = self.bereft_until

    # --- what somebody puts into etcd, and whether it is seen -------------------------------

    def is_covered(self) -> None:
        """A mark of its is, now."""
        seen_at = max(self.world.timeline.now, self.wire.blind_until) + HEARD_WITHIN_S
        self.unmarked_until = max(self.unmarked_until, seen_at)

    def blind(self, seconds: float) -> None:
        """It can read nothing for so long."""
        now = self.world.timeline.now
        if now >= self.wire.blind_until + HEARD_WITHIN_S:
            self._blind_since = now
        self.wire.blind_until = max(self.wire.blind_until, now + seconds)
        if now < self.unmarked_until:
            self.is_covered()
            # Perhaps its mark was not covered, but deleted, and then another one put there.
            self.excused_until = max(self.excused_until, self.unmarked_until)

    def see(self) -> None:
        """It can read again."""
        self.wire.blind_until = self.unmarked_until = self.world.timeline.now
        self.is_covered()

    def knows_all_before(self) -> float:
        """When it takes something now: what was told before."""
        now = self.world.timeline.now
        is_blind = now < self.wire.blind_until + HEARD_WITHIN_S
        return (self._blind_since if is_blind else now) - HEARD_WITHIN_S

    def may_have(self, address: Address) -> bool:
        """Whether the address is here, or may come yet, as people can tell who look at the host and
        its log."""
        local = self.state.addresses.known.get(address) if self.state is not None else None
        is_known = local is not None and local.phase is not Phase.ABSENT
        return is_known or address in self.kernel.answering or address in self.kernel.under_way

    # --- the machine -----------------------------------------------------------------------

    def start(self) -> None:
        """Power on: helper and coordinator."""
        if self._boot == 0 or (self.helper is None and self.state is None):
            self._boot += 1
        self.start_helper()
        self.start_coordinator()

    def power_off(self) -> None:
        self._end_coordinator()
        self.helper = self._stuck = None
        self.kernel.clear()

    def heal(self) -> None:
        """Everything runs again, and the administrators have put right what they had done."""
        if self._stopped_at is not None:
            self.paused_until = 0.0
            self.resume()
        for interface in INTERFACES:
            self.set_link(interface, is_up=True, is_interface_up=True)
        self.fails_at = ""
        self.wire.heal()
        self.sick_until = self.flapping_until = self.mute_until = self.slow_until = 0.0
        self.refuses = self.refuses_one = None
        self.can_change_network = self.can_record = True
        self.kernel.release()
        for each in sorted(self.kernel.foreign):
            self.kernel.delete_foreign(each)
        self.settings = replace(
            self.settings,
            interval_s=1.0,
            interface="eth0",
            prefix_length_4=32,
            rebalance=Rebalance.AUTO,
            rebalance_delay_s=0.0,
        )
        self.helper_frozen_until = 0.0
        self._midway = None
        self.disk_answers()
        self.frozen_until = 0.0
        self.thaw_coordinator()
        self.start()
        self.reload()
        self.change_version(is_older=False)
        # Once more for what was refused before and is answered only now.
        self.world.timeline.later(1.0, self.reload)

    # --- the coordinator -------------------------------------------------------------------

    @property
    def session(self) -> str:
        return f"{self.name}-{self._boot}"

    @property
    def is_frozen(self) -> bool:
        return self.world.timeline.now < self.frozen_until

    def start_coordinator(self) -> None:
        if self.state is not None or self._boot == 0:
            return
        self.life += 1
        self.frozen_until = 0.0
        self.is_older = self._will_be_older
        self._inbox = []
        self._outbox = []
        self._is_step_due = False
        self.wire.forget()
        self.state = State(self.settings)
        self._settings_at_start = self.settings
        self._step()
        self._connect()
        self._tell_links()
        self._known_own = set()
        self.tell_own()
        self._tell_window()
        self._check_service()
        self.wire.watched(self.world.etcd.view())

    def crash_coordinator(self) -> None:
        self._end_coordinator()

    def stop_coordinator(self) -> None:
        self.post(StopRequested("got SIGTERM"), self.life)

    def restart_coordinator(self) -> None:
        self.post(RestartRequested("got SIGTERM, and a restart is queued"), self.life)

    def change_version(self, *, is_older: bool) -> None:
        """An upgrade or a downgrade. Before a downgrade a node is stopped, not only restarted:
        what was handed over to it an older one does not understand (docs/decisions.md)."""
        self._will_be_older = is_older
        if self.is_older is is_older:
            return
        marks = self.world.etcd.marks.values()
        if is_older and any(mark.holder == self.name and mark.version > 1 for mark in marks):
            self.stop_coordinator()
        else:
            self.restart_coordinator()

    def change_settings(self, interval_s: float, *, has_other_check: bool) -> None:
        checks = (self.settings.checks[0], *((OTHER_CHECK,) if has_other_check else ()))
        self.settings = replace(self.settings, interval_s=interval_s, checks=checks)
        self.reload()

    def add_slow_check(self, seconds: float) -> None:
        """It answers only after so long."""
        self.slow_until = self.world.timeline.now + seconds
        checks = tuple(each for each in self.settings.checks if each != SLOW_CHECK)
        self.settings = replace(self.settings, checks=(*checks, SLOW_CHECK))
        self.reload()

    def switch_connections(self) -> None:
        """Somebody changes `connections` in yaim.yml, and sends SIGHUP."""
        resets = not self.settings.resets_connections
        self.settings = replace(self.settings, resets_connections=resets)
        self.reload()

    def end_wait(self) -> None:
        """The administrators no longer want a node that flaps to wait."""
        self.settings = replace(self.settings, flap_max_wait_s=0.0)
        self.reload()

    def put_off(self, rebalance: Rebalance | Window, delay_s: float = 0.0) -> None:
        """What is moved only to be level, from now on."""
        self.settings = replace(self.settings, rebalance=rebalance, rebalance_delay_s=delay_s)
        self.reload()
        self._tell_window()

    def turn_window(self, *, is_open: bool) -> None:
        self.is_window_open = is_open
        self.window_turned_at = self.world.timeline.now
        self._tell_window()

    def _tell_window(self) -> None:
        if isinstance(self.settings.rebalance, Window):
            self.post(WindowObserved(self.is_window_open), self.life)

    def reload(self) -> None:
        self.post(SettingsChanged(self.settings), self.life)

    def _end_coordinator(self) -> None:
        self.state = None
        self.life += 1
        self._connection += 1
        self._lost = None
        # A new life remembers nothing.
        self.hasty_until = max(self.hasty_until, self.bereft_until)

    def freeze_coordinator(self, seconds: float) -> None:
        timeline = self.world.timeline
        self.frozen_until = max(self.frozen_until, timeline.now + seconds)
        self.deliver(seconds, self.thaw_coordinator)

    def thaw_coordinator(self) -> None:
        if self.is_frozen or self.state is None:
            return
        self._send_outbox()
        if self._inbox or self._is_step_due:
            self._step()

    def post_after(self, seconds: float, event: Event) -> None:
        life = self.life
        self.deliver(seconds, lambda: self.post(event, life))

    def post(self, event: Event, life: int) -> None:
        """An event for the coordinator of this life."""
        if life != self.life or self.state is None:
            return
        self._inbox.append(event)
        if not self._is_step_due:
            self._is_step_due = True
            self.at(self.clock() + BETWEEN_S, lambda: self._step_if_due(life))

    def _step_if_due(self, life: int) -> None:
        if life == self.life and self._is_step_due and not self.is_frozen:
            self._step()

    def _woke(self, wake: int, life: int) -> None:
        if wake != self._wake or life != self.life or self.state is None:
            return
        if self.is_frozen:
            self._is_step_due = True
        else:
            self._step()

    def _step(self) -> None:
        state = self.state
        if state is None:
            return
        events, self._inbox = tuple(self._inbox), []
        if self.is_older:
            events = tuple(as_an_older_one_hears(event, self.name) for event in events)
        self._is_step_due = False
        now = self.clock()
        taken = step(state, events, now)
        self.before, self.state, self.events = state, taken.state, events
        self._note_loss(state.lease.current, events)
        self.world.checker.stepped(self)
        if self.world.is_recorded:
            self.taken.append(Taken(self.life, self._settings_at_start, now, events, taken.actions))
        self._wake += 1
        if taken.wake_at is not None:
            wake, life = self._wake, self.life
            self.at(taken.wake_at, lambda: self._woke(wake, life))
        self.world.checker.decided_all(self, taken.actions)
        for action in taken.actions:
            self.world.checker.decided(self, action)
            if isinstance(action, Report):
                if self.world.timeline.is_told:
                    self.tell(f"“{action.text}”")
            elif isinstance(action, Note):
                if self.world.timeline.is_told:
                    self.tell(f"notes {action.kind}: {action.reason}")
            elif isinstance(action, End):
                self._end(action)
            else:
                self._outbox.append(as_an_older_one_sends(action) if self.is_older else action)
                if self.world.timeline.is_told:
                    self._tell_action(action)
        if self._outbox:
            life = self.life
            self.at(now + BETWEEN_S, lambda: self._send_if_alive(life))

    def _tell_action(self, action: Action) -> None:
        """Tells of an action in short, without what repeats itself."""
        match action:
            case ReadCluster() | KeepLease() | RenewAddresses() | LookForAddresses():
                pass
            case AddAddress():
                left_s = action.deadline - self.clock()
                self.tell(f"wants {action.address} added, until in {left_s:.3f} s")
            case RemoveAddress():
                how = ", its connections reset" if action.resets else ""
                self.tell(f"wants {action.address} removed{how}")
            case ClearConnections():
                self.tell(f"wants the connections of {action.address} cleared")
            case ClaimMarks():
                self.tell(f"claims {', '.join(map(str, action.addresses))}")
            case ReleaseMarks():
                heirs = ", ".join(f"{a} to {heir.node}" for a, heir in action.heirs.items())
                to = f"; hands over {heirs}" if heirs else ""
                self.tell(f"releases {_listed(action.marks)}{to}")
            case AdvertiseNode():
                word = "healthy" if action.advertisement.is_healthy else "unhealthy"
                self.tell(f"advertises itself as {word}, releases {_listed(action.release)}")
            case WithdrawNode():
                self.tell(f"withdraws, releases {_listed(action.release)}")
            case _:
                self.tell(type(action).__name__)

    def _end(self, end: End) -> None:
        if self.world.timeline.is_told:
            self.tell(f"ends: {end.outcome.value}")
        self._send_outbox()
        self._end_coordinator()
        self.at(self.clock() + RESTARTED_AFTER_S, self.start_coordinator)

    def _send_if_alive(self, life: int) -> None:
        if life == self.life and not self.is_frozen:
            self._send_outbox()

    def _send_outbox(self) -> None:
        outbox, self._outbox = self._outbox, []
        for action in outbox:
            self._send(action)

    def _send(self, action: Action) -> None:
        match action:
            case AddAddress() | RemoveAddress() | RenewAddresses() | ClearConnections():
                self._command(action)
            case LookForAddresses():
                self._look()
            case (
                ReadCluster()
                | GrantLease()
                | KeepLease()
                | RevokeLease()
                | AdvertiseNode()
                | WithdrawNode()
                | ClaimMarks()
                | ReleaseMarks()
            ):
                self.wire.ask(action)
            case Report() | End() | Note():
                raise AssertionError(action)
            case _:
                assert_never(action)

    # --- its service -----------------------------------------------------------------------

    def _check_service(self) -> None:
        life, now = self.life, self.world.timeline.now
        if self.state is None:
            return
        is_flapping = now < self.flapping_until and int((now - self.flapping_lag_s) / 0.7) % 2 == 0
        is_healthy = now >= self.sick_until and not is_flapping
        if now >= self.mute_until:
            valid_until = Boottime(self.clock() + 2 * CHECK_EVERY_S + 0.5)
            for check in self.settings.checks:
                if check == SLOW_CHECK and now < self.slow_until:
                    continue
                is_well = is_healthy or check.name != SERVICE
                self.post(CheckAnswered(check.name, is_well, "checked", valid_until), life)
        every_s = 0.35 if now < self.flapping_until else CHECK_EVERY_S

        def again() -> None:
            if life == self.life:
                self._check_service()

        self.at(self.clock() + every_s, again)

    # --- the helper ------------------------------------------------------------------------

    @property
    def is_helper_frozen(self) -> bool:
        return self.world.timeline.now < self.helper_frozen_until

    def start_helper(self) -> None:
        if self._stuck is not None and self.helper is not self._stuck:
            # Not before the one before it has ended, as the kernel lets nobody end.
            self.kernel.when_free(HELPER_RESTARTED_AFTER_S, self.start_helper)
        elif self.helper is None and self.does_disk_hang:
            # It waits for what it has to read there.
            self.deliver(0.1, self.start_helper)
        elif self.helper is None:
            self.helper = FencedHelper(self) if self.has_fence else ModelHelper(self)
            self.helper_frozen_until = 0.0
            self.helper.begin()
            if self.helper.due_at() != float("inf"):
                self.deliver(BETWEEN_S, self._read_commands)

    def new_table_number(self) -> int:
        """The first one of a helper's tables."""
        self._tables_made += 1000
        return self._tables_made

    def disk_answers(self) -> None:
        self.does_disk_hang = False
        if self.helper is not None:
            self.helper.disk_answers()
        self.thaw_helper()

    def crash_helper(self) -> None:
        helper = self.helper
        if isinstance(helper, FencedHelper) and helper.is_in_kernel and self.kernel.is_held:
            # Its thread waits for the lock, and cannot be ended there.
            self._stuck = helper
        self.helper = None
        self._lose_helper("it hung up")

    def freeze_helper(self, seconds: float) -> None:
        self.helper_frozen_until = max(self.helper_frozen_until, self.world.timeline.now + seconds)
        self.deliver(seconds, self.thaw_helper)

    def thaw_helper(self) -> None:
        """It goes on where it was, looks at the clock, and reads what has come."""
        if self.helper is not None and not self.is_helper_frozen:
            self._run_helper(self.helper)

    def end_stuck(self, helper: ModelHelper | None, *, is_alarm_over: bool) -> None:
        """What a helper has asked of the kernel is done, and it runs on, or the alarm ends it."""
        if helper is None or helper is not self._stuck:
            return
        self._stuck = None
        helper.is_stuck = False
        if helper is not self.helper:
            return
        if is_alarm_over:
            self.tell("the helper's alarm ends it")
            self.crash_helper()
            self.deliver(HELPER_RESTARTED_AFTER_S, self.start_helper)
        else:
            self.thaw_helper()

    def has_left_kernel(self, helper: FencedHelper) -> None:
        """What its thread has asked for is done."""
        if helper is self._stuck:
            self._stuck = None
        elif helper is self.helper:
            self.at(self.clock() + BETWEEN_S, self._read_commands)

    def stop_helper_midway(self, after_steps: int, seconds: float, *, is_killed: bool) -> None:
        self._midway = after_steps, seconds, is_killed

    def is_midway(self) -> bool:
        """Whether the helper is stopped in the step that it makes now."""
        if self._midway is None:
            return False
        after_steps, seconds, is_killed = self._midway
        self._midway = after_steps - 1, seconds, is_killed
        return after_steps <= 0

    def stop_midway(self) -> None:
        if self._midway is None or self.helper is None:
            return
        (_, seconds, is_killed), self._midway = self._midway, None
        if is_killed:
            self.tell("the helper is killed midway")
            self.crash_helper()
            self.deliver(seconds, self.start_helper)
        else:
            self.tell(f"the helper is stopped midway, for {seconds:g} s")
            self.freeze_helper(seconds)
            self._await_answer()

    def see_flush(self) -> None:
        if self.helper is not None and not self.is_helper_frozen:
            self.helper.see_flush()
        elif self.helper is not None:
            self.at(self.clock() + RECONNECT_EVERY_S, self.see_flush)

    def _lose_helper(self, reason: str) -> None:
        self.post(HelperLost(reason), self.life)
        self._connect()

    def _connect(self) -> None:
        """Connects as soon as the helper is there and answers."""
        self._connection += 1
        life, connection = self.life, self._connection

        def try_it() -> None:
            if life != self.life or connection != self._connection:
                return
            helper = self.helper
            if helper is not None and not self.is_helper_frozen and not self.is_frozen:
                self._run_helper(helper)
                # What waits is of an earlier connection, which is not over before.
                is_well = not helper.is_stuck and not self._is_lost_midway(helper)
                if is_well and not helper.asked:
                    self.is_fence_told = helper.is_fenced
                    self.post(helper.hello(), life)
                    return
            self.at(self.clock() + RECONNECT_EVERY_S, try_it)

        self.at(self.clock() + BETWEEN_S, try_it)

    def _command(self, action: HelperAction) -> None:
        helper = self.helper
        if helper is None:
            return
        helper.inbox.append((self._connection, action))
        if not self._is_reading_due:
            self._is_reading_due = True
            is_clear = isinstance(action, ClearConnections)
            chances = self.chances_of_connections if is_clear else self.random
            self.at(self.clock() + chances.choice((0.0005, 0.004)), self._read_commands)
        if self.is_helper_frozen or helper.is_stuck:
            self._await_answer()

    def _await_answer(self) -> None:
        """The helper does not answer now."""
        connection, life = self._connection, self.life

        def overdue() -> None:
            is_waiting = connection == self._connection and life == self.life
            is_silent = self.is_helper_frozen or (self.helper is not None and self.helper.is_stuck)
            if is_waiting and is_silent and not self.is_frozen:
                self._lose_helper("no answer")

        self.at(self.clock() + ANSWER_WITHIN_S, overdue)

    def _read_commands(self) -> None:
        self._is_reading_due = False
        if self.helper is not None and not self.is_helper_frozen:
            self._run_helper(self.helper)

    def _run_helper(self, helper: ModelHelper) -> None:
        """It looks at the clock, reads what has come, also from a connection that is gone by now,
        and does what its clock asks for; unless the kernel does not let it go."""
        if helper.is_stuck:
            return
        try:
            helper.resume()
            if not self._is_lost_midway(helper):
                self._take_turn(helper)
        except Stuck:
            helper.is_stuck = True
            self._stuck = helper
            if helper.inbox or helper.asked:
                self._await_answer()
            return
        if self._is_lost_midway(helper):
            return
        if helper.answers:
            life, answers = self.life, helper.answers
            helper.answers = []

            def answered() -> None:
                for connection, answer in answers:
                    if connection == self._connection:
                        self.post(answer, life)

            self.at(self.clock() + BETWEEN_S, answered)
        self._alarm += 1
        due_at = helper.due_at()
        if due_at != float("inf"):
            alarm = self._alarm
            # It is woken a little late.
            self.at(due_at + 1e-4, lambda: self._rang(alarm, helper))

    def _is_lost_midway(self, helper: ModelHelper) -> bool:
        """Whether it was stopped or killed within what it does."""
        return helper is not self.helper or self.is_helper_frozen

    def _take_turn(self, helper: ModelHelper) -> None:
        """What is begun and gets stuck is begun again afterwards. Raises Stuck."""
        if helper.has_jumped:
            helper.make_up_for_jump()
            self._lose_helper("it hung up: the clock jumped")
        while helper.inbox:
            helper.take(*helper.inbox.popleft())
        helper.go_on()
        if not self._is_lost_midway(helper):
            helper.do_what_is_due()

    def _rang(self, alarm: int, helper: ModelHelper) -> None:
        if alarm == self._alarm and helper is self.helper and not self.is_helper_frozen:
            self._run_helper(helper)

    # --- what the kernel tells -------------------------------------------------------------

    def hold_routing_lock(self, seconds: float) -> None:
        """Somebody removes a thousand links."""
        self.kernel.hold(seconds)
        # Without a fence an address may be put there at the end, for as long as a lease lasts.
        until = self.world.timeline.now + seconds + self.world.granted_s + 1.0
        self.held_up_until = max(self.held_up_until, until)

    def _look(self) -> None:
        """It has its turn when all have had theirs who have waited for the lock."""
        life = self.life

        def look() -> None:
            if self.kernel.is_held:
                self.kernel.when_free(LOOK_TAKES_S, look)
            else:
                see()

        def see() -> None:
            self.post(AddressesSeen(frozenset(self.kernel.ours)), life)

        self.kernel.when_free(LOOK_TAKES_S, look)

    def address_is_gone(self, address: Address, place: Place) -> None:
        """The address is gone from the interface, for whatever reason."""
        self.post_after(NOTICED_AFTER_S, AddressGone(address, place))

    def note_change(self) -> None:
        """The helper is told that somebody else has removed an address."""
        if self.helper is not None and self.is_helper_frozen:
            self.at(self.clock() + RECONNECT_EVERY_S, self.note_change)
        elif self.helper is not None:
            self.helper.see_change()

    def foreign_is_gone(self, address: Address) -> None:
        self.address_is_gone(address, FOREIGN_PLACE)

    def cannot_be_at(self, place: Place) -> bool:
        return place.interface == self.fails_at

    def set_link(self, interface: str, *, is_up: bool, is_interface_up: bool) -> None:
        one = {interface}
        self.interfaces_up = self.interfaces_up - one | (one if is_interface_up else set())
        links_up = self.links_up - one | (one if is_up else set())
        if links_up != self.links_up:
            self.links_up = links_up
            self._tell_links()

    def _tell_links(self) -> None:
        self.post_after(NOTICED_AFTER_S, LinksObserved(self.links_up | {"lo"}))

    def tell_own(self) -> None:
        """What is there and not the helper's."""
        kernel = self.kernel
        self._known_own &= kernel.foreign
        self._known_own |= kernel.foreign - kernel.faded
        own = dict.fromkeys(sorted(self._known_own), (FOREIGN_PLACE,))
        others = {address: (place,) for address, place in kernel.places.items()}
        for address in kernel.foreign - self._known_own:
            others[address] = (*others.get(address, ()), FOREIGN_PLACE)
        self.post_after(NOTICED_AFTER_S, AddressesObserved(own, others))

    def set_clock_forward(self, by_s: float) -> None:
        """The wall clock. Perhaps it makes good for a pause: then it is noticed now."""
        self.tell(f"its wall clock is set forward by {by_s:.2f} s")
        self.post_after(NOTICED_AFTER_S, ClockJumped(by_s))
        if self.helper is not None:
            self.helper.jump_s += by_s
            self.at(self.clock() + NOTICED_AFTER_S, self._read_commands)
        was_paused = self.paused_until > 0 and self._stopped_at is None
        if was_paused and by_s >= self._paused_s and self._is_running():
            now = self.world.timeline.now
            self.excused_until = min(self.excused_until, now + DETECTED_WITHIN_S)
            self._paused_s = 0.0

    def _is_running(self) -> bool:
        """Both processes, and the helper has all that is there on record."""
        is_coordinator_running = self.state is not None and not self.is_frozen
        helper = self.helper
        is_helper_running = (
            helper is not None
            and not helper.is_stuck
            and (helper.is_fenced or not self.kernel.is_held)
            and not self.is_helper_frozen
            and self.kernel.ours.keys() <= helper.holdings.keys()
        )
        return is_coordinator_running and is_helper_running and self.can_change_network


def _listed(marks: tuple[Mark, ...]) -> str:
    return ", ".join(str(mark.address) for mark in marks) or "nothing"
