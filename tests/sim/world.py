"""A small world in virtual time: real cores, a model etcd, model helpers and kernels.

Everything that happens is decided by one seeded random generator, so a seed is a story that can be
told again. The helper's own arithmetic (lifetimes, extensions) is the real one.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from random import Random

from yaim_helper.addresses import EARLY_S, Interface, lateness_s, lifetime_s
from yaim_helper.server import Holding

from yaim.core.actions import (
    Action,
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    End,
    GrantLease,
    KeepLease,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
    RenewAddresses,
    Report,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.events import (
    AddressAdded,
    AddressesRenewed,
    AddressOnInterface,
    AddressRefused,
    AddressRemoved,
    ClusterChanged,
    ClusterRead,
    ClusterReadFailed,
    Event,
    HealthObserved,
    HelperLost,
    HelperReady,
    LeaseFailed,
    LeaseGone,
    LeaseKept,
    LeaseRevoked,
    MarksClaimed,
    MarksReleased,
    NodeAdvertised,
    NodeNotAdvertised,
    NodeWithdrawn,
    WriteFailed,
)
from yaim.core.model import (
    Address,
    Advertisement,
    Boottime,
    ClusterView,
    LeaseId,
    Mark,
    Node,
    NodeName,
    PoolEntry,
    Revision,
    frozen_mapping,
)
from yaim.core.settings import Settings
from yaim.core.state import State
from yaim.core.step import step

NETWORK = ip_network("192.0.2.0/24")
ETCD_TIMEOUT_S = 1.0
HELPER_TIMEOUT_S = 2.0
EXPIRY_SCAN_S = 0.5


class TwoHolders(AssertionError):
    """The first invariant is broken."""


class World:
    def __init__(self, seed: int, nodes: int, addresses: int, ttl_s: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.loss = 0.01
        """The share of requests, answers and watch events that get lost."""
        self.story: list[str] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self.ttl_s = ttl_s
        self.etcd = ModelEtcd(self)
        self.pool: set[Address] = set()
        for number in range(addresses):
            self.put(ip_address(f"192.0.2.{10 + number}"))
        self.hosts = {
            name: Host(self, NodeName(name)) for name in (f"n{i}" for i in range(1, nodes + 1))
        }
        for host in self.hosts.values():
            self.later(self.random.uniform(0, 1), host.start)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (self.now + max(seconds, 0.0), self._order, what))

    def run(self, until: float) -> None:
        while self._heap and self._heap[0][0] <= until:
            self.now, _, what = heapq.heappop(self._heap)
            what()
            self.check()
        self.now = until

    def tell(self, text: str) -> None:
        self.story.append(f"{self.now:9.4f}  {text}")

    def put(self, address: Address) -> None:
        self.pool.add(address)
        self.etcd.put_entry(address)

    def delete(self, address: Address) -> None:
        self.pool.discard(address)
        self.etcd.delete_entry(address)

    def holders(self) -> dict[Address, list[str]]:
        found: dict[Address, list[str]] = defaultdict(list)
        for host in self.hosts.values():
            for address in host.kernel:
                found[address].append(host.name)
        return found

    def check(self) -> None:
        for address, names in self.holders().items():
            if len(names) > 1:
                raise TwoHolders(f"{address} is on {names} at {self.now:.4f}")


# --- etcd ------------------------------------------------------------------------------------


@dataclass
class Key:
    value: object
    lease: int
    created: int
    modified: int


class ModelEtcd:
    def __init__(self, world: World) -> None:
        self._world = world
        self.revision = 1
        self.keys: dict[tuple[str, object], Key] = {}
        self.leases: dict[int, tuple[int, float]] = {}
        """TTL and expiry."""
        self._next_lease = 0x100
        self.frozen_until = 0.0
        self._scan()

    def _scan(self) -> None:
        if self._world.now >= self.frozen_until:
            for lease, (_, expires_at) in list(self.leases.items()):
                if expires_at <= self._world.now:
                    self._world.tell(f"etcd: lease {lease:x} expires")
                    self.drop_lease(lease)
        self._world.later(EXPIRY_SCAN_S, self._scan)

    def drop_lease(self, lease: int) -> None:
        self.leases.pop(lease, None)
        gone = [name for name, key in self.keys.items() if key.lease == lease]
        for name in gone:
            del self.keys[name]
        if gone:
            self._changed()

    def change_leader(self) -> None:
        """A new leader starts every lease at its full TTL."""
        self.leases = {
            lease: (ttl_s, self._world.now + ttl_s) for lease, (ttl_s, _) in self.leases.items()
        }

    def put_entry(self, address: Address) -> None:
        self._put(("ips", address), None, 0)
        self._changed()

    def delete_entry(self, address: Address) -> None:
        if self.keys.pop(("ips", address), None):
            self._changed()

    def _put(self, name: tuple[str, object], value: object, lease: int) -> None:
        before = self.keys.get(name)
        revision = self.revision + 1
        self.keys[name] = Key(value, lease, before.created if before else revision, revision)

    def _changed(self) -> None:
        self.revision += 1
        view = self.view()
        for host in getattr(self._world, "hosts", {}).values():
            host.watched(view)

    def view(self) -> ClusterView:
        pool, nodes, marks = {}, {}, {}
        for (kind, name), key in self.keys.items():
            if kind == "ips" and not isinstance(name, str):
                pool[name] = PoolEntry(name)  # type: ignore[arg-type]
            elif kind == "node" and isinstance(key.value, Advertisement):
                node = NodeName(str(name))
                nodes[node] = Node(node, key.value, LeaseId(key.lease), Revision(key.modified))
            elif kind == "mark":
                holder = NodeName(str(key.value))
                marks[name] = Mark(name, holder, LeaseId(key.lease), Revision(key.created))  # type: ignore[arg-type]
        return ClusterView(
            Revision(self.revision),
            frozen_mapping(pool),  # type: ignore[arg-type]
            frozen_mapping(nodes),
            frozen_mapping(marks),  # type: ignore[arg-type]
        )

    def do(self, action: Action, me: NodeName, sent_at: Boottime) -> Event:
        """Carry out a request; its answer."""
        now = self._world.now
        match action:
            case ReadCluster():
                return ClusterRead(self.view())
            case GrantLease(ttl_s):
                self._next_lease += 1
                self.leases[self._next_lease] = ttl_s, now + ttl_s
                return LeaseKept(LeaseId(self._next_lease), ttl_s, sent_at)
            case KeepLease(lease):
                if lease not in self.leases:
                    return LeaseGone(lease)
                ttl_s, _ = self.leases[lease]
                self.leases[lease] = ttl_s, now + ttl_s
                return LeaseKept(lease, ttl_s, sent_at)
            case RevokeLease(lease):
                if lease not in self.leases:
                    return LeaseGone(lease)
                self.drop_lease(lease)
                return LeaseRevoked(lease)
            case AdvertiseNode():
                if action.lease not in self.leases:
                    return WriteFailed(action.request, "lease not found")
                if self._modified(("node", me)) != action.replaces:
                    return NodeNotAdvertised(action.request)
                self._put(("node", me), action.advertisement, action.lease)
                self._delete_marks(action.release)
                self._changed()
                revision = Revision(self.revision)
                node = Node(me, action.advertisement, action.lease, revision)
                return NodeAdvertised(action.request, node)
            case WithdrawNode():
                if self._modified(("node", me)) != action.advertised:
                    return WriteFailed(action.request, "our advertisement was changed")
                self.keys.pop(("node", me), None)
                self._delete_marks(action.release)
                self._changed()
                return NodeWithdrawn(action.request)
            case ClaimMarks():
                return self._claim(action, me)
            case ReleaseMarks():
                is_same = self._modified(("node", me)) == action.advertised
                released = self._delete_marks(action.marks if is_same else ())
                if released:
                    self._changed()
                return MarksReleased(action.request, released, Revision(self.revision))
        raise AssertionError(action)

    def _claim(self, action: ClaimMarks, me: NodeName) -> Event:
        lost = frozenset(action.addresses)
        if action.lease not in self.leases:
            return WriteFailed(action.request, "lease not found")
        if self._modified(("node", me)) != action.advertised:
            return MarksClaimed(action.request, (), lost, Revision(self.revision))
        got = [
            address
            for address in action.addresses
            if ("ips", address) in self.keys and ("mark", address) not in self.keys
        ]
        for address in got:
            self._put(("mark", address), me, action.lease)
        if got:
            self._changed()
        revision = Revision(self.revision)
        marks = tuple(Mark(address, me, action.lease, revision) for address in got)
        return MarksClaimed(action.request, marks, lost - set(got), revision)

    def _modified(self, name: tuple[str, object]) -> int:
        key = self.keys.get(name)
        return key.modified if key is not None else 0

    def _delete_marks(self, marks: tuple[Mark, ...]) -> frozenset[Address]:
        same = [
            mark.address
            for mark in marks
            if (key := self.keys.get(("mark", mark.address))) and key.created == mark.revision
        ]
        for address in same:
            del self.keys["mark", address]
        return frozenset(same)


# --- a host ----------------------------------------------------------------------------------


@dataclass
class HelperLife:
    """A helper process."""

    holdings: dict[Address, Holding] = field(default_factory=dict)
    expired: set[Address] = field(default_factory=set)
    """Removed at their deadline, which the coordinator does not know yet."""
    inbox: list[tuple[int, Action]] = field(default_factory=list)
    """Commands that it has not read, with the connection that they came on."""
    is_frozen: bool = False


class Host:
    def __init__(self, world: World, name: NodeName) -> None:
        self.world = world
        self.name = name
        self.rate = 1 + world.random.uniform(-2e-4, 2e-4)
        self.offset = world.random.uniform(0, 1000)
        self.boot = 0
        self.kernel: dict[Address, int] = {}
        """Address to a number that changes with every new lifetime."""
        self._lifetimes = 0
        self.helper: HelperLife | None = None
        self.state: State | None = None
        self.life = 0
        """Of the coordinator; answers to an earlier one are lost."""
        self.is_frozen = False
        self._inbox: list[Event] = []
        self._wake = 0
        self.connection = 0
        self._waiting = 0
        """Commands that the helper has not answered."""
        self.is_cut = False
        self.is_service_healthy = True
        self.end: End | None = None
        self.actions: list[Action] = []

    def clock(self) -> Boottime:
        return Boottime(self.offset + self.world.now * self.rate)

    def _real(self, local_seconds: float) -> float:
        return local_seconds / self.rate

    # --- coordinator -----------------------------------------------------------------------

    def start(self) -> None:
        """Power on: helper and coordinator."""
        self.boot += 1
        self.start_helper()
        self.start_coordinator()

    def start_coordinator(self) -> None:
        if self.state is not None:
            return
        self.life += 1
        self.end = None
        self._inbox = []
        self.is_frozen = False
        self.state = State(Settings(self.name, "eth0", 32, 128, self.world.ttl_s, 1.0, "sim"))
        self._step(())
        self._connect()
        self._check_service()
        if not self.is_cut:
            self.watched(self.world.etcd.view())

    def crash_coordinator(self) -> None:
        self.world.tell(f"{self.name}: coordinator crashes")
        self.state = None
        self.life += 1
        self.connection += 1

    def post(self, event: Event, life: int) -> None:
        if life != self.life or self.state is None:
            return
        if self.is_frozen:
            self._inbox.append(event)
        else:
            self._step((event,))

    def thaw_coordinator(self) -> None:
        if self.is_frozen:
            self.is_frozen = False
            events, self._inbox = tuple(self._inbox), []
            if self.state is not None:
                self._step(events)

    def _step(self, events: tuple[Event, ...]) -> None:
        assert self.state is not None
        taken = step(self.state, events, self.clock())
        self.state = taken.state
        for action in taken.actions:
            self._perform(action)
        self._wake += 1
        if taken.wake_at is not None:
            wake, life = self._wake, self.life
            seconds = self._real(taken.wake_at - self.clock()) + 1e-6
            self.world.later(seconds, lambda: self._woke(wake, life))

    def _woke(self, wake: int, life: int) -> None:
        if wake == self._wake and life == self.life and self.state is not None:
            if self.is_frozen:
                self.world.later(0.05, lambda: self._woke(wake, life))
            else:
                self._step(())

    def _perform(self, action: Action) -> None:
        self.actions.append(action)
        match action:
            case Report():
                self.world.tell(f"{self.name}: {action.text}")
            case End():
                self.world.tell(f"{self.name}: ends: {action.reason}")
                self.end = action
                self.state = None
                self.world.later(1.0, self.start_coordinator)
            case AddAddress() | RemoveAddress() | RenewAddresses():
                self._command(action)
            case _:
                self._ask_etcd(action)

    def _check_service(self) -> None:
        life = self.life
        if self.state is None:
            return
        valid_until = Boottime(self.clock() + 1.0 + self.world.ttl_s + 0.5)
        self.post(HealthObserved(self.is_service_healthy, "checked", valid_until), life)
        self.world.later(1.0, lambda: self._check_service() if life == self.life else None)

    # --- to etcd ---------------------------------------------------------------------------

    def watched(self, view: ClusterView) -> None:
        if self.is_cut or self.state is None:
            return
        life = self.life
        if self.world.random.random() < self.world.loss:
            return  # lost; the periodic read finds out
        delay = self.world.random.choice((0.001, 0.002, 0.01, 0.2))
        self.world.later(delay, lambda: self.post(ClusterChanged(view), life))

    def _ask_etcd(self, action: Action) -> None:
        world, life, sent_at = self.world, self.life, self.clock()
        there, back = (
            0.7 if world.random.random() < world.loss else world.random.choice((0.001, 0.005))
            for _ in range(2)
        )
        is_lost = world.random.random() < world.loss
        is_reply_lost = world.random.random() < world.loss
        timed_out = [False]

        def give_up() -> None:
            timed_out[0] = True
            self.post(_failure(action), life)

        def arrive() -> None:
            if world.now < world.etcd.frozen_until:
                world.later(world.etcd.frozen_until - world.now, arrive)
                return
            answer = world.etcd.do(action, self.name, sent_at)
            if not (self.is_cut or is_reply_lost):
                world.later(back, lambda: self.post(answer, life) if not timed_out[0] else None)
                answered[0] = True

        answered = [False]
        if not (self.is_cut or is_lost):
            world.later(there, arrive)
        limit = ETCD_TIMEOUT_S

        def expire() -> None:
            if not answered[0] or there + back > limit:
                give_up()

        world.later(limit, expire)

    # --- to the helper ---------------------------------------------------------------------

    def start_helper(self) -> None:
        if self.helper is None:
            self.helper = HelperLife()
            if self.state is not None:
                self._connect()

    def crash_helper(self) -> None:
        self.world.tell(f"{self.name}: helper crashes")
        self.helper = None
        self._lose_helper("it hung up")

    def _lose_helper(self, reason: str) -> None:
        self.connection += 1
        self._waiting = 0
        self.post(HelperLost(reason), self.life)

    def _connect(self) -> None:
        """Connect, as soon as the helper is there and answers."""
        life, connection = self.life, self.connection

        def try_it() -> None:
            if life != self.life or connection != self.connection:
                return
            if self.helper is None or self.helper.is_frozen:
                self.world.later(0.1, try_it)
                return
            self._run_helper()
            self.helper.expired.clear()
            held = tuple(
                AddressOnInterface(each.address, Boottime(each.deadline))
                for each in self.helper.holdings.values()
                if not each.is_leaving
            )
            session = f"{self.name}-{self.boot}"
            self.post(HelperReady(session, (("eth0", (NETWORK,)),), held), life)

        self.connection += 1
        connection = self.connection
        self._waiting = 0
        self.world.later(0.01, try_it)

    def _command(self, action: Action) -> None:
        if self.helper is None:
            return
        connection, life = self.connection, self.life
        self.helper.inbox.append((connection, action))
        self._waiting += 1
        self.world.later(self.world.random.choice((0.001, 0.004)), self._run_helper)

        def overdue() -> None:
            is_waiting = connection == self.connection and life == self.life and self._waiting
            if is_waiting and self.helper is not None and self.helper.is_frozen:
                self._lose_helper("no answer")
                self._connect()

        self.world.later(HELPER_TIMEOUT_S, overdue)

    def _run_helper(self) -> None:
        """It reads what has come, also from a connection that is gone by now."""
        helper = self.helper
        if helper is None or helper.is_frozen:
            return
        while helper.inbox:
            connection, action = helper.inbox.pop(0)
            answer = self._obey(helper, action)
            if connection == self.connection:
                self._waiting -= 1
                life = self.life
                self.world.later(0.001, lambda a=answer, n=life: self.post(a, n))  # type: ignore[misc]

    def _obey(self, helper: HelperLife, action: Action) -> Event:
        now = self.clock()
        match action:
            case AddAddress():
                life_s = action.deadline - now
                if not lifetime_s(life_s, life_s):
                    return AddressRefused(action.request, action.address, "expired", False)
                holding = Holding(
                    action.address,
                    Interface("eth0", 1, b"", True, True),
                    32,
                    "",
                    "sim",
                    action.deadline,
                    life_s,
                )
                helper.holdings[action.address] = holding
                helper.expired.discard(action.address)
                self._extend(helper, holding)
                return AddressAdded(action.request, action.address)
            case RemoveAddress():
                helper.holdings.pop(action.address, None)
                helper.expired.discard(action.address)
                self.kernel.pop(action.address, None)
                return AddressRemoved(action.request, action.address)
            case RenewAddresses():
                for holding in list(helper.holdings.values()):
                    if now >= holding.deadline:
                        self._end_holding(helper, holding, holding.deadline)
                missing = set(helper.expired)
                for holding in helper.holdings.values():
                    holding.deadline = action.deadline
                    holding.life_s = action.deadline - now
                    self._extend(helper, holding)
                    if holding.address not in self.kernel:
                        missing.add(holding.address)
                return AddressesRenewed(frozenset(missing))
        raise AssertionError(action)

    def _extend(self, helper: HelperLife, holding: Holding) -> None:
        now = self.clock()
        left_s = holding.deadline - now
        lifetime = lifetime_s(left_s, holding.life_s)
        if lifetime and now + lifetime - EARLY_S > holding.kernel_until:
            holding.kernel_until = now + lifetime - EARLY_S
            late_s = lateness_s(holding.life_s) + lifetime / 8
            self._set_kernel(
                holding.address, lifetime + self.world.random.uniform(-EARLY_S, late_s)
            )
        holding.plan_extension(now)
        extend_at = holding.extend_at
        if extend_at != float("inf"):
            self.world.later(
                self._real(extend_at - now), lambda: self._extend_later(helper, holding, extend_at)
            )
        deadline = holding.deadline
        self.world.later(
            self._real(deadline - now), lambda: self._end_holding(helper, holding, deadline)
        )

    def _extend_later(self, helper: HelperLife, holding: Holding, extend_at: float) -> None:
        is_current = helper.holdings.get(holding.address) is holding
        is_running = helper is self.helper and not helper.is_frozen
        if is_running and is_current and holding.extend_at == extend_at:
            self._extend(helper, holding)

    def _end_holding(self, helper: HelperLife, holding: Holding, deadline: float) -> None:
        is_current = helper.holdings.get(holding.address) is holding
        if helper is not self.helper or not is_current or holding.deadline > deadline:
            return
        if helper.is_frozen:
            self.world.later(0.05, lambda: self._end_holding(helper, holding, deadline))
            return
        del helper.holdings[holding.address]
        helper.expired.add(holding.address)
        self.kernel.pop(holding.address, None)

    def _set_kernel(self, address: Address, seconds: float) -> None:
        self._lifetimes += 1
        number = self._lifetimes
        self.kernel[address] = number

        def end() -> None:
            if self.kernel.get(address) == number:
                del self.kernel[address]

        self.world.later(seconds, end)

    # --- faults ----------------------------------------------------------------------------

    def power_off(self) -> None:
        self.world.tell(f"{self.name}: power off")
        self.state, self.helper = None, None
        self.life += 1
        self.connection += 1
        self.kernel.clear()

    def heal(self) -> None:
        """Everything runs again."""
        self.is_cut = False
        self.is_service_healthy = True
        if self.helper is not None and self.helper.is_frozen:
            self.thaw_helper()
        self.thaw_coordinator()
        self.start_helper()
        self.start_coordinator()

    def thaw_helper(self) -> None:
        if self.helper is not None and self.helper.is_frozen:
            self.helper.is_frozen = False
            self._run_helper()
            for holding in list(self.helper.holdings.values()):
                self._end_holding(self.helper, holding, min(holding.deadline, self.clock()))


def _failure(action: Action) -> Event:
    match action:
        case ReadCluster():
            return ClusterReadFailed("no answer in time")
        case GrantLease() | KeepLease() | RevokeLease():
            return LeaseFailed("no answer in time")
        case AdvertiseNode() | WithdrawNode() | ClaimMarks() | ReleaseMarks():
            return WriteFailed(action.request, "no answer in time")
    raise AssertionError(action)


# --- a story of faults -----------------------------------------------------------------------


def disturb(world: World, seconds: float) -> None:
    """Let random faults happen for so long."""
    random = world.random
    end = world.now + seconds
    next_address = 100
    while world.now < end:
        world.run(world.now + random.choice((0.01, 0.1, 0.5, 1.0, 3.0)))
        host = random.choice(list(world.hosts.values()))
        pause = random.choice((0.1, 0.5, 1.0, 2.5, 4.0, 8.0))
        match random.randrange(13):
            case 0:
                host.crash_coordinator()
                world.later(pause, host.start_coordinator)
            case 1:
                host.crash_helper()
                world.later(pause, host.start_helper)
            case 2:
                host.crash_coordinator()
                host.crash_helper()
                world.later(pause, host.start_helper)
                world.later(pause, host.start_coordinator)
            case 3:
                world.tell(f"{host.name}: coordinator frozen for {pause}")
                host.is_frozen = True
                world.later(pause, host.thaw_coordinator)
            case 4 if host.helper is not None:
                world.tell(f"{host.name}: helper frozen for {pause}")
                host.helper.is_frozen = True
                world.later(pause, host.thaw_helper)
            case 5 if host.helper is not None:
                world.tell(f"{host.name}: both frozen for {pause}")
                host.helper.is_frozen = True
                host.is_frozen = True
                first, second = (host.thaw_helper, host.thaw_coordinator)
                if random.random() < 0.5:
                    first, second = second, first
                world.later(pause, first)
                world.later(pause + random.choice((0, 0.01, 0.5)), second)
            case 6:
                world.tell(f"{host.name}: cut off for {pause}")
                host.is_cut = True
                world.later(pause, lambda h=host: setattr(h, "is_cut", False))  # type: ignore[misc]
            case 7:
                host.is_service_healthy = not host.is_service_healthy
            case 8:
                host.power_off()
                world.later(pause, host.start)
            case 9:
                world.put(ip_address(f"192.0.2.{next_address}"))
                next_address += 1
            case 10 if world.pool:
                world.delete(random.choice(sorted(world.pool)))
            case 11:
                world.tell(f"etcd frozen for {pause}")
                world.etcd.frozen_until = world.now + pause
            case 12:
                world.tell("etcd: new leader")
                world.etcd.change_leader()


def settle(world: World, seconds: float) -> None:
    """No more faults."""
    world.tell("faults end")
    world.etcd.frozen_until = 0.0
    world.loss = 0.0
    for host in world.hosts.values():
        host.heal()
    world.run(world.now + seconds)
