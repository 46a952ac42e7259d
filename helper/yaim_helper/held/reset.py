"""Ending the TCP connections of addresses: before an address goes, so that its peers get a reset;
and in silence when it has gone, and another node may have it.

Who connects anew while an address goes must not come to this host once more. So nothing new may be
let in before connections are ended, and the resets have to go out all the same (Linux):
- IPv4: the address's route is taken out of table `local`, the connections are ended, and then the
  address is removed. Without the address the kernel sends nothing from it (`ip_route_output_key`).
- IPv6: the address is removed, and then the connections are ended. What is sent needs no address.

An address that stays after all, because it could not be removed or is the host's by now, gets its
route back. Whoever is killed in between leaves one without: the next add puts it back (batch.py).

Whether connections are to be ended at all is decided elsewhere; whether a rule and the host allow
it, here.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address

from yaim_helper.clock import boottime
from yaim_helper.held.fences import Fences
from yaim_helper.held.host import Host
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.kernel.alarm import act_within
from yaim_helper.kernel.connections import Connections, Destroyed
from yaim_helper.kernel.lifetimes import ACT_WITHIN_S
from yaim_helper.kernel.netlink import Found
from yaim_helper.owners import Owner
from yaim_helper.policy.rules import Policy
from yaim_helper.protocol import Address

RESET_WITHIN_S = 0.1
"""How long the connections of addresses that are removed together may keep them, counted from the
first request to the kernel."""
_UNKNOWN = Destroyed(0, 1)


@dataclass(frozen=True, slots=True)
class Resetting:
    """What the start has found."""

    connections: Connections | None = None
    never: str = "this helper was started without"
    """Why connections cannot be ended, whatever comes; empty: they can."""

    @property
    def why_not(self) -> str:
        """Returns why connections cannot be ended now; empty: they can."""
        return self.never or (self.connections.why_not() if self.connections is not None else "")

    @property
    def told(self) -> dict[str, object]:
        """Returns what the reply to hello tells."""
        return {"can_reset": not self.why_not, "reason": self.why_not}


NO_RESETTING = Resetting()


def begin() -> Resetting:
    """Finds out whether the kernel can end connections. Raises RuntimeError if there may be no
    further thread."""
    try:
        connections = Connections()
    except KernelError as error:
        return Resetting(None, error.reason)
    return Resetting(connections, "")


@dataclass(frozen=True, slots=True)
class Reset:
    """What was done before an address goes."""

    ended: Destroyed
    is_off: bool
    """The address is off its interface already (IPv6)."""
    withdrawn: tuple[Found, ...]
    """Where it has no local route (IPv4)."""

    @property
    def told(self) -> dict[str, int]:
        """Returns what replies and the record tell."""
        return {"reset": self.ended.destroyed, "left": self.ended.left}


class Resets:
    """Ends connections."""

    def __init__(
        self,
        kernel: Kernel,
        resetting: Resetting,
        asking: Callable[[], AbstractContextManager[None]],
        fences: Fences | None,
    ) -> None:
        """`asking`: while the kernel is asked, which may take a while."""
        self._kernel = kernel
        self.resetting = resetting
        self._asking = asking
        self._fences = fences
        self._took = threading.local()

    def take_s(self) -> float:
        """Returns for how long the thread that asks has waited for connections to end since it
        asked the last time. Another one ends them, so that it is in nobody's processor time."""
        found: float = getattr(self._took, "s", 0.0)
        self._took.s = 0.0
        return found

    def _destroy(self, addresses: Collection[Address], until: float) -> dict[Address, Destroyed]:
        if self.resetting.connections is None or not addresses:
            return {}
        began = boottime()
        with self._asking():
            found = self.resetting.connections.destroy(addresses, until)
        self._took.s = getattr(self._took, "s", 0.0) + boottime() - began
        return found

    # --- before addresses go -----------------------------------------------------------------

    def reset(
        self, ours: Mapping[Address, Sequence[Found]], host: Host, policy: Policy, until: float
    ) -> dict[Address, Reset]:
        """Resets the connections of addresses that are removed next, all together and no longer
        than until that instant of CLOCK_BOOTTIME, and returns of which: those of which a rule of
        the policy allows it and the host has no copy. `ours`: where each is because of the
        helper. `conclude` has to follow."""
        begun: dict[Address, Reset] = {}
        for address, places in ours.items():
            with suppress(KernelError):
                if self._may_reset(address, places, host, policy):
                    begun[address] = self._let_nothing_in(address, places, host)
        return {
            address: replace(begun[address], ended=ended)
            for address, ended in self._destroy(begun, until).items()
        }

    def _may_reset(
        self, address: Address, places: Sequence[Found], host: Host, policy: Policy
    ) -> bool:
        if not places or len(host.places(address)) > len(places):
            return False
        return all(
            self.is_allowed(policy, self._kernel.name(each.index), address, each.prefix)
            for each in places
        )

    def is_allowed(self, policy: Policy, interface: str, address: Address, prefix: int) -> bool:
        """Whether the connections of an address may be reset when it is removed from there."""
        return not self.resetting.why_not and policy.resets(interface, address, prefix)

    def _let_nothing_in(self, address: Address, places: Sequence[Found], host: Host) -> Reset:
        """From here on nothing reaches the address any more. Raises KernelError: then it may be
        there still."""
        if isinstance(address, IPv4Address):
            for each in places:
                # If that fails, who connects just now is left.
                with suppress(KernelError):
                    self._kernel.withdraw_route(each.index, address)
            return Reset(_UNKNOWN, False, tuple(places))
        was_there = [host.delete(each.index, address, each.prefix) for each in places]
        return Reset(_UNKNOWN, any(was_there), ())

    def conclude(self, reset: Reset | None, host: Host) -> None:
        """An address was removed, or was not: then it gets its local routes back."""
        for place in reset.withdrawn if reset is not None else ():
            with suppress(KernelError):
                if _is_at(place, host):
                    host.has_changed()
                    self.restore(place.index, place.address, partial(_is_at, place, host))

    def restore(self, index: int, address: Address, is_there: Callable[[], bool]) -> None:
        """What comes to an IPv4 address on that interface reaches the host. Raises KernelError,
        also if the address has gone: it would be answered for. So it is done at once when that was
        looked at, or never; with a fence it may be late, as the address is muted."""
        with act_within(ACT_WITHIN_S) if self._fences is None else nullcontext():
            if not is_there():
                raise KernelError(None, "the address has gone meanwhile")
            assert isinstance(address, IPv4Address)
            self._kernel.restore_route(index, address)

    # --- when an address has gone --------------------------------------------------------------

    def clear(self, owner: Owner, address: Address) -> Destroyed:
        """Ends what is left of an address that is on no interface here, and sends nothing. Raises
        KernelError.

        IPv4 sends nothing from such an address, but by sockets that may use any (IP_TRANSPARENT);
        IPv6 does. So a fence mutes it meanwhile; where there is none, IPv6 is left as it is.
        """
        if self.resetting.why_not:
            raise KernelError(None, self.resetting.why_not)
        if self._fences is None and address.version == 6:
            raise KernelError(None, "without a fence resets of IPv6 connections would be sent")
        if self._fences is None:
            return self._destroy_one(address)
        self._fences.silence({address: owner})
        try:
            return self._destroy_one(address)
        finally:
            self._fences.dismiss([address])

    def _destroy_one(self, address: Address) -> Destroyed:
        until = boottime() + RESET_WITHIN_S
        return self._destroy([address], until).get(address, _UNKNOWN)


def _is_at(place: Found, host: Host) -> bool:
    """Whether the address is on that interface. Raises KernelError."""
    return any(each.index == place.index for each in host.places(place.address))
