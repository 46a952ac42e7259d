"""The step that is under way: the state as it becomes, and the actions decided so far, in order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import assert_never

from yaim.core.actions import (
    Action,
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    ClearConnections,
    End,
    GrantLease,
    KeepLease,
    Level,
    LookForAddresses,
    Note,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
    RenewAddresses,
    Report,
    RevokeLease,
    WithdrawNode,
    to_release,
)
from yaim.core.facts import Facts
from yaim.core.model import Address, Boottime, thawed
from yaim.core.state.addresses import AddressState
from yaim.core.state.past import Going, Origin
from yaim.core.state.state import Draft, State
from yaim.core.state.wake import FOREVER


class Turn(Draft):
    __slots__ = ("_own_known", "_own_records", "actions", "facts", "held", "now", "released")

    def __init__(self, state: State, now: Boottime) -> None:
        super().__init__(state)
        self.now = now
        self.actions: list[Action] = []
        self.facts = Facts(self, now)
        self.held: list[tuple[Address, Origin]] = []
        self.released: list[tuple[Address, Going]] = []
        """What this step has heard to be on our interfaces, and off them (yaim/core/history.py)."""
        self._own_records: dict[Address, AddressState] = {}
        self._own_known: Mapping[Address, AddressState] | None = None
        """`_own_records` as the state has them, once this step has recorded something."""

    def tell(self, level: Level, text: str) -> None:
        self.actions.append(Report(level, text))

    def record(self, address: Address, known: AddressState) -> None:
        """Records what an answer says of one address. A thousand answers of one step are recorded
        in one copy of the mapping, which is this step's own."""
        if self.addresses.known is not self._own_known:
            self._own_records = thawed(self.addresses.known)
            self._own_known = MappingProxyType(self._own_records)
            self.addresses = replace(self.addresses, known=self._own_known)
        self._own_records[address] = known

    def ask(self, actions: Sequence[Action]) -> None:
        """Adds these to the actions of the step. The state remembers what was asked for."""
        orders: list[AddAddress | RemoveAddress] = []
        for action in actions:
            self.actions.append(action)
            match action:
                case AddAddress() | RemoveAddress():
                    orders.append(action)
                    self.next_request = action.request + 1
                case RenewAddresses(deadline):
                    self.addresses = self.addresses.asked_renewal(deadline)
                case ClearConnections(address):
                    self.left = self.left.asked(address)
                case LookForAddresses():
                    self.addresses = self.addresses.asked_look(self.now)
                case AdvertiseNode() | WithdrawNode() | ClaimMarks() | ReleaseMarks():
                    self.writing = self.writing.asked(action)
                    self.takeover = self.takeover.asked_release(to_release(action))
                    self.next_request = action.request + 1
                case GrantLease() | KeepLease() | RevokeLease():
                    self.lease = self.lease.asked(action)
                case ReadCluster():
                    self.cluster = self.cluster.asked()
                case End():
                    self.ending = self.ending.ended()
                case Report() | Note():
                    pass
                case _:
                    assert_never(action)
        if orders:
            self.addresses = self.addresses.asked(orders, self.now, self.facts.ttl_s())

    def done(self) -> State:
        self.own_marks = self.facts.own_marks
        return self.state()

    def wake_at(self) -> Boottime | None:
        """Returns when the next step is due: the first time that a part of the state waits for."""
        if self.ending.is_ended:
            return None
        if self.placed.is_put_off:
            return self.now
        now, settings = self.now, self.settings
        first = min(
            self.lease.wake_at(now),
            self.cluster.wake_at(now),
            self.writing.wake_at(now),
            self.addresses.wake_at(now),
            self.advertised.wake_at(now, settings.ttl_s),
            self.takeover.wake_at(now),
            self.host.wake_at(now),
            self.refusals.wake_at(now),
            self.health.wake_at(now, settings.flap_max_wait_s),
            self.ending.wake_at(now),
            self.levelling.wake_at(now, settings),
        )
        return Boottime(first) if first < FOREVER else None
