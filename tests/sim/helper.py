"""A model of the helper: what server.py and holdings.py do with each command, but for what is only
told (audit, announcements). Lifetimes and their extension are reckoned by the helper's own code.
"""

from collections import deque
from ipaddress import ip_network
from math import inf
from typing import TYPE_CHECKING, TypeAlias, assert_never

from yaim_helper.addresses import EARLY_S, Interface, lifetime_s
from yaim_helper.entries import Owner
from yaim_helper.holdings import MAX_DEADLINE_S, RETRY_REMOVAL_S, Holding

from yaim.core.actions import AddAddress, RemoveAddress, RenewAddresses
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
from yaim.core.model import Address, Boottime, address_order

if TYPE_CHECKING:
    from tests.sim.host import Host

HelperAction: TypeAlias = AddAddress | RemoveAddress | RenewAddresses

_INTERFACE = Interface("eth0", 1, b"", is_up=True, has_neighbours=True)
NETWORKS = (("eth0", (ip_network("192.0.2.0/24"),)),)
_OWNER = Owner(0, "sim")
_PASSING = ("expired",)
"""As in yaim/helper_client.py."""


class ModelHelper:
    """A helper process. Its methods run only while it does."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self.holdings: dict[Address, Holding] = {}
        self._expired: set[Address] = set()
        self.inbox: deque[tuple[int, HelperAction]] = deque()
        """Commands that it has not read, with the connection that they came on."""
        self.jump_s = 0.0
        """By how much the wall clock has jumped since it last looked."""

    # --- commands --------------------------------------------------------------------------

    def hello(self) -> HelperReady:
        self._expired.clear()
        held = tuple(
            AddressOnInterface(each.address, Boottime(each.deadline))
            for each in sorted(self.holdings.values(), key=lambda h: address_order(h.address))
            if not each.is_leaving
        )
        left_over = frozenset(self._host.kernel.ours.keys() - self.holdings.keys())
        return HelperReady(self._host.session, NETWORKS, held, left_over)

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
            case _:
                assert_never(action)

    def _add(self, add: AddAddress) -> Event:
        now = self._host.clock()
        life_s = add.deadline - now
        old = self.holdings.get(add.address)
        refusal = None
        if not self._host.can_record:
            return self._failed(add, "the audit record cannot be written")
        # What is held may be allowed no more (the networks of the host have changed).
        is_meant = old is None or self._host.refuses == "not-allowed"
        refuses = self._host.refuses if is_meant else None
        is_on_time = 0 < life_s <= MAX_DEADLINE_S and lifetime_s(life_s, life_s)
        if refuses == "not-allowed":
            refusal = refuses
        elif not is_on_time:
            refusal = "expired"
        elif not self._host.is_interface_up:
            return self._failed(add, "eth0 is down")
        elif refuses is not None:
            refusal = refuses
        elif add.address in self._host.kernel.foreign and old is None:
            refusal = "foreign"
        if refusal is not None:
            self._host.tell(f"the helper refuses {add.address}: {refusal}")
            is_lasting = refusal not in _PASSING
            return AddressRefused(add.request, add.address, refusal, is_lasting)
        holding = Holding(
            add.address, _INTERFACE, add.prefix_length, "", _OWNER, add.deadline, life_s
        )
        self.holdings[add.address] = holding
        self._expired.discard(add.address)
        if not self._host.can_change_network:
            del self.holdings[add.address]
            return self._failed(add, "out of memory")
        self._set_lifetime(holding)
        return AddressAdded(add.request, add.address)

    def _remove(self, remove: RemoveAddress) -> Event:
        address = remove.address
        self._expired.discard(address)
        holding = self.holdings.get(address)
        if holding is not None:
            holding.is_leaving = True
        if not self._host.can_change_network and address in self._host.kernel.ours:
            return self._failed(remove, "out of memory")
        if self._host.kernel.delete(address):
            self._host.tell(f"the helper removes {address}")
        self.holdings.pop(address, None)
        return AddressRemoved(remove.request, address)

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
        times = [inf]
        for holding in self.holdings.values():
            times.append(max(holding.deadline, holding.retry_at))
            if not holding.is_leaving:
                times.append(holding.extend_at)
        return min(times)

    def make_up_for_jump(self) -> None:
        """The host may have been paused for so long. What was asked before does not count."""
        for holding in self.holdings.values():
            holding.deadline -= self.jump_s
            holding.kernel_until = 0.0
        self.jump_s = 0.0
        self.inbox.clear()
        self.end_over()
        for holding in [each for each in self.holdings.values() if not each.is_leaving]:
            self._set_lifetime(holding)
            if not holding.kernel_until:
                self._end(holding)

    def do_what_is_due(self) -> None:
        self.end_over()
        now = self._host.clock()
        for holding in self.holdings.values():
            if not holding.is_leaving and now >= holding.extend_at:
                self._set_lifetime(holding)

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
        if self._host.kernel.delete(holding.address):
            self._host.tell(f"the helper removes {holding.address}: its deadline has passed")
        del self.holdings[holding.address]
        self._expired.add(holding.address)

    def _set_lifetime(self, holding: Holding) -> None:
        """In the kernel, as long as the deadline allows, if that is longer than it is."""
        now = self._host.clock()
        lifetime = lifetime_s(holding.deadline - now, holding.life_s)
        is_longer = lifetime and now + lifetime - EARLY_S > holding.kernel_until
        if is_longer and self._host.can_change_network:
            if holding.address not in self._host.kernel.ours:
                self._host.tell(f"the helper adds {holding.address}")
            self._host.kernel.put(holding.address, lifetime, holding.life_s)
            holding.kernel_until = now + lifetime - EARLY_S
        holding.plan_extension(now)
