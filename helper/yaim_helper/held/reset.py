"""Ending the TCP connections of addresses: before an address goes, so that its peers get a reset;
and in silence when it has gone, and another node may have it.

Who connects anew while an address goes must not come to this host once more. So nothing new may be
let in before connections are ended, and the resets have to go out all the same (Linux):
- IPv4: the address's route is taken out of table `local`, the connections are ended, and then the
  address is removed. Without the address the kernel sends nothing from it (`ip_route_output_key`).
- IPv6: the address is removed, and then the connections are ended. What is sent needs no address.

A route without its address would answer for ever. So one is made here in one case only: it was
withdrawn in this removal, and the host has made the address its own meanwhile. What could not be
removed, or was left by a helper that was killed in between, stays without; an add of it puts the
address there anew, and with it the kernel the route (batch.py).

Whether connections are to be ended at all is decided elsewhere; whether a rule and the host allow
it, here.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from yaim_helper.clock import boottime
from yaim_helper.held.fences import Fences
from yaim_helper.held.host import Host
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.kernel.connections import Connections, Destroyed
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
    withdrawn: tuple[tuple[int, IPv4Address], ...] = ()
    """The interfaces on which it has no local route any more, and the sources of those (IPv4)."""
    is_open: bool = False
    """It may be reached until it goes: a route could not be withdrawn."""

    @property
    def told(self) -> dict[str, int]:
        """Returns what replies and the record tell."""
        return {"reset": self.ended.destroyed, "left": max(self.ended.left, int(self.is_open))}


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
        helper. `host` is looked at anew afterwards; `give_back` has to follow."""
        begun: dict[Address, Reset] = {}
        for address, places in ours.items():
            with suppress(KernelError):
                if self._may_reset(address, places, host, policy):
                    begun[address] = self._let_nothing_in(address, places, host)
        ended = self._destroy(begun, until)
        if begun:
            # The host may have made an address its own meanwhile.
            host.has_changed()
        return {address: replace(begun[address], ended=each) for address, each in ended.items()}

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
            withdrawn = tuple(self._withdrawn(address, places))
            return Reset(_UNKNOWN, False, withdrawn, len(withdrawn) < len(places))
        was_there = [host.delete(each.index, address, each.prefix) for each in places]
        return Reset(_UNKNOWN, any(was_there))

    def _withdrawn(
        self, address: IPv4Address, places: Iterable[Found]
    ) -> Iterator[tuple[int, IPv4Address]]:
        """Takes the local routes of the address away, and returns which: interface and source.

        The first address of a network keeps its route: without it the kernel makes none for what is
        added to that network (fib_valid_prefsrc).
        """
        for each in places:
            # If that fails, who connects just now is left.
            with suppress(KernelError):
                if each.prefix < 32 and self._kernel.local_source(each.index, address) == address:
                    continue
                source = self._kernel.withdraw_route(each.index, address)
                if source is not None:
                    yield each.index, source

    def give_back(self, address: Address, reset: Reset | None, host: Host) -> None:
        """An address that was not removed because the host has made it its own gets back the local
        routes that it had."""
        for index, source in reset.withdrawn if reset is not None else ():
            with suppress(KernelError):
                if any(e.index == index and not e.is_like_ours for e in host.places(address)):
                    assert isinstance(address, IPv4Address)
                    self._kernel.restore_route(index, address, source)

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
