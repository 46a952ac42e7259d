"""A model of the helper: what serve/ and held/ do with each command, but for what is only
told (audit, announcements). Lifetimes and their extension are reckoned by the helper's own code.
"""

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_network
from math import inf
from typing import TYPE_CHECKING, assert_never

from yaim_helper.held.expiry import RETRY_REMOVAL_S
from yaim_helper.held.holding import Holding
from yaim_helper.held.refusals import MAX_DEADLINE_S
from yaim_helper.kernel.addresses import Interface, KernelError
from yaim_helper.kernel.lifetimes import EARLY_S, lifetime_s
from yaim_helper.owners import Owner
from yaim_helper.protocol import Add, Ok, Remove, Renew, Request
from yaim_helper.record.recorder import HANGS_AFTER_S, Handed
from yaim_helper.serve.asked import DISK_HANGS, Asked, overtaken, ready

from tests.sim.fence import ModelTables
from tests.sim.kernel import Resets
from yaim.core.actions import (
    AddAddress,
    ClearConnections,
    HelperAction,
    RemoveAddress,
    RenewAddresses,
)
from yaim.core.events import (
    AddressAdded,
    AddressesRenewed,
    AddressFailed,
    AddressOnInterface,
    AddressRefused,
    AddressRemoved,
    Event,
    HelperReady,
)
from yaim.core.model import Address, Boottime, Fence, Place, address_order, frozen_mapping
from yaim.core.model import Resets as CanReset
from yaim.core.refusals import Cause

if TYPE_CHECKING:
    from tests.sim.host import Host

INTERFACES = ("eth0", "eth1")
NETWORKS = tuple((name, (ip_network("192.0.2.0/24"),)) for name in INTERFACES)
OWNER = Owner(0, "sim")
LOOK_AT_EARLIER_S = 1.0
SWEPT_AFTER_S = 4.5
"""Besides 9/8 of the broom's lifetime."""


@dataclass(eq=False, slots=True, kw_only=True)
class AskedOnConnection(Asked):
    action: HelperAction
    connection: int
    event: Event | None = None

    def renew_to(self, deadline: float) -> None:
        """An add that is not done yet gets the deadline of a renewal that overtakes it."""
        self.request = replace(self.request, deadline_ns=round(deadline * 1e9))  # type: ignore[arg-type]

    def draw_nearer(self, by_s: float) -> None:
        assert isinstance(self.request, Add)
        self.renew_to(self.request.deadline_ns / 1e9 - by_s)


class ModelHelper:
    """A helper process without a fence. Its methods run only while it does."""

    is_fenced = False

    def __init__(self, host: "Host") -> None:
        self._host = host
        self.holdings: dict[Address, Holding] = {}
        self._expired: set[Address] = set()
        self.inbox: deque[tuple[int, HelperAction]] = deque()
        """Commands that it has not read, with the connection that they came on."""
        self.is_stuck = False
        """It waits in the kernel, and cannot be ended there."""
        self.answers: list[tuple[int, Event]] = []
        """The answers to what it has done, with the connection; told when it has done all that has
        come."""
        self._is_shortening = False
        """It has drawn deadlines nearer, and not yet done what follows."""
        self.asked: deque[AskedOnConnection] = deque()
        """What it has read and not answered yet."""
        self._look_at = inf
        self._stuck_at: float | None = None
        """Since when an intent waits for the record's disk."""
        self.jump_s = 0.0
        """The seconds that the wall clock has jumped since it last looked."""
        self._tables = ModelTables(host)
        self._earlier = [*self._tables.names()]
        """The tables that earlier lives have left, which had a fence."""
        kernel = host.kernel
        self._left = [each for each in kernel.ours if each not in kernel.unrecorded]
        """What an earlier life has left, and nobody has taken over yet."""
        now = host.clock()
        self._earlier_look_at = now if self._earlier else inf
        self._swept_at = now + host.broom_s * 1.125 + SWEPT_AFTER_S

    def begin(self) -> None:
        """The process has started."""

    # --- commands --------------------------------------------------------------------------

    def take(self, connection: int, action: HelperAction) -> None:
        if isinstance(action, ClearConnections):
            self._clear(action.address)
            return
        now = self._host.clock()
        handed = Handed([], {}, now, is_on_record=None if self._host.does_disk_hang else True)
        asked = AskedOnConnection(
            request_of(action), now, intent=handed, action=action, connection=connection
        )
        if self._host.does_disk_hang:
            self._stuck_at = now if self._stuck_at is None else self._stuck_at
            if isinstance(action, AddAddress) and now >= self._stuck_at + HANGS_AFTER_S:
                asked.known = DISK_HANGS
        self.asked.append(asked)

    def disk_answers(self) -> None:
        self._stuck_at = None
        for each in self.asked:
            if each.intent is not None:
                each.intent.is_on_record = True

    def go_on(self) -> None:
        now = self._host.clock()
        while True:
            doing, self._look_at = ready(self.asked, now)
            if not doing:
                break
            for each in doing:
                self._do(each)
        while self.asked and self.asked[0].reply is not None:
            each = self.asked.popleft()
            if each.event is not None:
                self.answers.append((each.connection, each.event))

    def _do(self, asked: AskedOnConnection) -> None:
        action = asked.action
        obstacle = asked.known or asked.obstacle(self._host.clock())
        request = asked.request
        if isinstance(action, AddAddress) and isinstance(request, Add):
            nearer = Boottime(request.deadline_ns / 1e9)
            action = action if request == request_of(action) else replace(action, deadline=nearer)
        if obstacle is not None and isinstance(action, AddAddress):
            asked.reply = DISK_HANGS
            asked.event = self._failed(action, DISK_HANGS.reason)
            return
        asked.event = self.obey(action)
        asked.reply = Ok({})
        for each in overtaken(self.asked, asked):
            if isinstance(each.action, AddAddress):
                each.event = self._failed(each.action, "its removal was asked for")

    def hello(self) -> HelperReady:
        self._expired.clear()
        held = tuple(
            AddressOnInterface(each.address, Boottime(each.deadline))
            for each in sorted(self.holdings.values(), key=lambda h: address_order(h.address))
            if not each.is_leaving
        )
        kernel = self._host.kernel
        left_over = frozenset(kernel.ours.keys() - self.holdings.keys() - kernel.unrecorded)
        places = {a: kernel.places[a] for a in left_over} | {
            each.address: Place(each.interface.name, each.prefix)
            for each in self.holdings.values()
            if not each.is_leaving
        }
        fence = Fence(self.is_fenced, "" if self.is_fenced else "helper.yml says fence: off")
        can_reset = self._host.can_reset
        resets = CanReset(can_reset, "" if can_reset else "the kernel cannot")
        return HelperReady(
            self._host.session,
            NETWORKS,
            held,
            left_over,
            frozen_mapping(places),
            fence=fence,
            resets=resets,
        )

    def obey(self, action: HelperAction) -> Event | None:
        # What it reads now may have waited for as long as it was stopped.
        self.end_over()
        match action:
            case AddAddress():
                return self._add(action)
            case RemoveAddress():
                return self._remove(action)
            case RenewAddresses():
                missing = self._renew(action.deadline)
                return AddressesRenewed(frozenset(missing)) if missing is not None else None
            case ClearConnections():
                raise AssertionError(action)
            case _:
                assert_never(action)

    def _add(self, add: AddAddress) -> Event:
        now = self._host.clock()
        life_s = add.deadline - now
        old = self.holdings.get(add.address)
        refusal = None
        if not self._host.can_record:
            return self._failed(add, "the audit record cannot be written")
        if self._host.refuses_one is not None and self._host.refuses_one[0] == add.address:
            return self._refused(add, self._host.refuses_one[1])
        # What is held may be allowed no more (the networks of the host have changed).
        is_meant = old is None or self._host.refuses == "not-allowed"
        refuses = self._host.refuses if is_meant else None
        is_on_time = 0 < life_s <= MAX_DEADLINE_S and lifetime_s(life_s, life_s)
        if refuses == "not-allowed":
            refusal = refuses
        elif not is_on_time:
            refusal = "expired"
        elif add.interface not in self._host.interfaces_up:
            return self._failed(add, f"{add.interface} is down")
        elif refuses is not None:
            refusal = refuses
        elif (
            old is None and add.address in self._host.kernel.foreign | self._host.kernel.unrecorded
        ):
            refusal = "foreign"
        if refusal is not None:
            return self._refused(add, refusal)
        if not self._host.can_change_network:
            return self._failed(add, "out of memory")
        interface = Interface(
            add.interface, INTERFACES.index(add.interface), b"", is_up=True, has_neighbours=True
        )
        holding = Holding(
            add.address, interface, add.prefix_length, "", OWNER, add.deadline, life_s
        )
        place = Place(add.interface, add.prefix_length)
        if self._host.kernel.places.get(add.address, place) != place:
            self._host.tell(f"the helper takes {add.address} elsewhere, to {place}")
            self._host.kernel.take_off(add.address)
        self._expired.discard(add.address)
        if old is not None and place != place_of(old) and self._host.cannot_be_at(place):
            return self._failed(add, "no buffer space available")
        self.holdings[add.address] = holding
        self._set_lifetime(holding)
        for table in self._earlier:
            # Until then it is silent once the fence of an earlier life is over.
            with suppress(KernelError):
                self._tables.named(table).dismiss([add.address])
        self._host.world.checker.added(self._host, add.address)
        return AddressAdded(add.request, add.address)

    def _remove(self, remove: RemoveAddress) -> Event:
        address = remove.address
        self._expired.discard(address)
        holding = self.holdings.get(address)
        if holding is not None:
            holding.is_leaving = True
        if not self._host.can_change_network and address in self._host.kernel.ours:
            return self._failed(remove, "out of memory")
        if address in self._host.kernel.unrecorded:
            return self._failed(remove, "it may be what an earlier life has left")
        resets = self.resets_of(remove)
        if self._host.kernel.take_off(address, resets):
            self._host.tell(f"the helper removes {address}")
        else:
            resets = None
        self.holdings.pop(address, None)
        return removed(remove, resets)

    def resets_of(self, remove: RemoveAddress) -> Resets | None:
        """Whether the connections end first: not where the host has a copy of the address."""
        if not remove.resets:
            return None
        is_copied = remove.address in self._host.kernel.foreign
        return None if is_copied or not self._host.can_reset else Resets()

    def _clear(self, address: Address) -> None:
        kernel = self._host.kernel
        is_here = address in kernel.ours.keys() | kernel.foreign | self.holdings.keys()
        if not is_here and self._host.can_reset:
            kernel.clear_connections(address)

    def _refused(self, add: AddAddress, code: str) -> Event:
        if code == "failed":
            return self._failed(add, "the disk is full")
        self._host.tell(f"the helper refuses {add.address}: {code}")
        return AddressRefused(add.request, add.address, code, Cause.of(code))

    def _failed(self, action: AddAddress | RemoveAddress, reason: str) -> Event:
        self._host.tell(f"the helper fails with {action.address}: {reason}")
        return AddressFailed(action.request, action.address, reason)

    def _renew(self, deadline: float) -> set[Address] | None:
        """What is missing; None: refused."""
        now = self._host.clock()
        self.end_over()
        life_s = deadline - now
        holdings = [h for h in self.holdings.values() if not h.is_leaving and now < h.deadline]
        is_nearer = any(deadline < each.deadline for each in holdings)
        if not 0 < life_s <= MAX_DEADLINE_S or (is_nearer and not lifetime_s(life_s, life_s)):
            return None
        missing = set(self._expired)
        for holding in holdings:
            if deadline < holding.deadline:
                holding.kernel_until = 0.0
            holding.deadline = deadline
            holding.life_s = life_s
            self._set_lifetime(holding)
            if holding.address not in self._host.kernel.ours:
                missing.add(holding.address)
        return missing

    # --- the clock -------------------------------------------------------------------------

    def due_at(self) -> float:
        """When it has to do something by itself, on the host's clock."""
        times = [inf, self._look_at, self._earlier_look_at]
        for holding in self.holdings.values():
            times.append(max(holding.deadline, holding.retry_at))
            if not holding.is_leaving:
                times.append(holding.extend_at)
        return min(times)

    @property
    def has_jumped(self) -> bool:
        return self.jump_s > 0 or self._is_shortening

    def make_up_for_jump(self) -> None:
        """The host may have been paused for so long. What was asked before does not count."""
        for holding in self.holdings.values():
            holding.deadline -= self.jump_s
            holding.kernel_until = 0.0
        self.jump_s = 0.0
        self._is_shortening = True
        self.inbox.clear()
        self.asked.clear()
        self.end_over()
        for holding in [each for each in self.holdings.values() if not each.is_leaving]:
            self._set_lifetime(holding)
            if not holding.kernel_until:
                self._end(holding)
        self._is_shortening = False

    def do_what_is_due(self) -> None:
        self.end_over()
        now = self._host.clock()
        for holding in self.holdings.values():
            if not holding.is_leaving and now >= holding.extend_at:
                self._set_lifetime(holding)
        if now >= self._earlier_look_at:
            self._remove_left_overs()

    def _remove_left_overs(self) -> None:
        """Removes what earlier tables have kept from answering since they were over, and then the
        tables."""
        kernel, now = self._host.kernel, self._host.clock()
        live = [each for each in self._earlier if self._tables.is_live(each)]
        for each in [*self._left]:
            if each in self.holdings or each not in kernel.ours:
                self._left.remove(each)
            elif not live and each in kernel.by_fenced and self._host.can_change_network:
                kernel.take_off(each)
                self._host.tell(f"the helper removes {each}, which nobody has taken over")
        is_clean = all(each in self.holdings for each in kernel.ours)
        if now >= self._swept_at and is_clean and not live:
            for table in self._earlier:
                with suppress(KernelError):
                    self._tables.named(table).unmake()
            self._earlier.clear()
        self._earlier_look_at = now + LOOK_AT_EARLIER_S if self._earlier or self._left else inf

    def see_flush(self) -> None:
        """Somebody has flushed the ruleset, in which there was nothing of this life."""

    def see_change(self) -> None:
        """The kernel tells that an address has come or gone. It is seen with the next renewal."""

    def resume(self) -> None:
        """The process runs on where it was stopped: nowhere in particular."""

    # --- for the checker ---------------------------------------------------------------------

    def is_sure_to_answer(self, address: Address) -> bool:
        """Whether the fence has to let an address answer that is on the interface. Not while what
        it has asked of the kernel waits there: an earlier life's fence ends meanwhile."""
        holding = self.holdings.get(address)
        return holding is not None and not holding.is_leaving and not self.is_stuck

    def to_do(self) -> Iterable[HelperAction]:
        """What is to be done yet, in order."""
        return (command for _, command in self.inbox)

    def end_over(self) -> None:
        now = self._host.clock()
        for holding in list(self.holdings.values()):
            if now >= holding.deadline and now >= holding.retry_at:
                self._end(holding)

    def _end(self, holding: Holding) -> None:
        holding.is_leaving = True
        is_there = holding.address in self._host.kernel.ours
        if is_there and not self._host.can_change_network:
            holding.retry_at = self._host.clock() + RETRY_REMOVAL_S
            return
        if self._host.kernel.take_off(holding.address):
            self._host.tell(f"the helper removes {holding.address}: its deadline has passed")
        del self.holdings[holding.address]
        self._expired.add(holding.address)

    def _set_lifetime(self, holding: Holding) -> None:
        """Sets the lifetime in the kernel, as long as the deadline allows, if that is longer than
        it is."""
        now = self._host.clock()
        lifetime = lifetime_s(holding.deadline - now, holding.life_s)
        is_longer = lifetime and now + lifetime - EARLY_S > holding.kernel_until
        if is_longer and self._host.can_change_network:
            if holding.address not in self._host.kernel.ours:
                self._host.tell(f"the helper adds {holding.address}")
            self._host.kernel.put(holding.address, place_of(holding), lifetime, holding.life_s)
            holding.kernel_until = now + lifetime - EARLY_S
        holding.plan_extension(now)


def place_of(holding: Holding) -> Place:
    return Place(holding.interface.name, holding.prefix)


def removed(remove: RemoveAddress, resets: Resets | None) -> AddressRemoved:
    if resets is None:
        return AddressRemoved(remove.request, remove.address)
    return AddressRemoved(remove.request, remove.address, resets.reset, resets.left)


def request_of(action: HelperAction) -> Request:
    match action:
        case AddAddress():
            deadline_ns = round(action.deadline * 1e9)
            return Add(0, "eth0", action.address, action.prefix_length, "", deadline_ns)
        case RemoveAddress():
            return Remove(0, action.address)
        case RenewAddresses():
            return Renew(0, round(action.deadline * 1e9))
        case ClearConnections():
            raise AssertionError(action)
        case _:
            assert_never(action)
