"""Other holders of an address on the same link: who they are, and answering them.

The helper keeps the address, and answers with one announcement each DEFEND_INTERVAL_S at most
(RFC 5227 section 2.4 (c)). Each conflict is on record, and the coordinator is told. Nothing is ever
removed because of one: anybody on the link can claim anything.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from yaim_helper.clock import boottime
from yaim_helper.jobs import Inline, Jobs
from yaim_helper.kernel.addresses import MAX_TOGETHER, Interface
from yaim_helper.kernel.alarm import act_within
from yaim_helper.kernel.lifetimes import ACT_WITHIN_S
from yaim_helper.kernel.links import Changes, Links
from yaim_helper.neighbours.announce import Announcer
from yaim_helper.neighbours.conflicts import Conflicts
from yaim_helper.owners import Owner
from yaim_helper.protocol import Address
from yaim_helper.record.entries import Entry, conflict
from yaim_helper.record.recorder import Recorder
from yaim_helper.record.stamps import now as stamp

DEFEND_INTERVAL_S = 10.0
"""The time from one answer to another holder of an address to the next (RFC 5227 section 2.4)."""

TOLD_FOR_S = 300.0
"""How long the coordinator is told of another holder who is not seen any more: neighbours ask anew
within minutes, so whoever has the address is seen again."""
MAX_TOLD = 16
"""The most conflicts that a coordinator is told of. Anybody on the link can make any number."""


class Held(Protocol):
    """An address that the helper holds, as far as it matters here."""

    @property
    def address(self) -> Address: ...
    @property
    def interface(self) -> Interface: ...
    @property
    def owner(self) -> Owner: ...
    @property
    def deadline(self) -> float: ...
    @property
    def is_leaving(self) -> bool: ...


@dataclass(slots=True)
class Conflict:
    """What was seen of other holders of one address."""

    seen: int = 0
    """How often they were seen since they were answered."""
    mac: bytes = b""
    """The MAC address of the one that was seen last."""
    answer_at: float = 0.0
    """They are not answered before this instant of CLOCK_BOOTTIME."""
    first_mac: bytes = b""
    """The MAC address of the first one since nobody was seen for TOLD_FOR_S."""
    since: str = ""
    """When that one was seen, for people: in UTC (RFC 3339)."""
    seen_at: float = -math.inf
    """When one was seen last."""

    def see(self, mac: bytes, at: float) -> None:
        """One was seen. However many there are, what the coordinator is told changes once in
        TOLD_FOR_S at most."""
        if at >= self.seen_at + TOLD_FOR_S:
            self.first_mac, self.since = mac, f"{stamp()['time'][:19]}Z"
        self.seen += 1
        self.mac, self.seen_at = mac, at


class Defence:
    """Sees other holders of the addresses that the helper holds, and answers them."""

    def __init__(self, announcer: Announcer, recorder: Recorder, jobs: Jobs | None = None) -> None:
        """`jobs`: what may wait for the kernel."""
        self._announcer = announcer
        self._recorder = recorder
        self.sightings = Conflicts()
        self._jobs = jobs or Inline()
        self.links = Links(self._jobs.asking)
        self._is_asking = False
        """Whether all interfaces are being asked for."""
        self._conflicts: dict[Address, Conflict] = {}
        """What was seen of other holders, for addresses that are held."""

    def watch(self, addresses: Collection[Address]) -> None:
        """Watches these addresses from now on, and no others."""
        self.sightings.watch(addresses)

    def see_links(self) -> None:
        """Tells the neighbours anew on each interface that has come back."""
        if self.links.is_settled:
            self._heed(self.links.read(may_ask=False))
        if not self.links.is_settled and not self._is_asking:
            self._is_asking = True
            self._jobs.start(self._ask_links)

    @property
    def waits_for_links(self) -> bool:
        """Whether nothing is to be read before the kernel has told all links."""
        return self._is_asking

    def _ask_links(self) -> None:
        self._heed(self.links.read())
        self._is_asking = False

    def _heed(self, changes: Changes) -> None:
        self._announcer.start_again(boottime(), None if changes.is_lost else changes.names)

    def hear(self, held: Mapping[Address, Held]) -> None:
        """Notes who else has an address that is held on its link.

        As long as not all interfaces of this host are known, nobody can be told from this host
        itself, and nothing is noted: another holder claims the address again.
        """
        sightings = self.sightings.read()
        if sightings:
            # The interfaces of this host may have changed: that comes first.
            self.see_links()
        ours = self.links.mac_addresses()
        if ours is None:
            return
        for sighting in sightings:
            it = held.get(sighting.address)
            if (
                it is not None
                and not it.is_leaving
                and it.interface.name == sighting.interface
                and sighting.mac not in ours
            ):
                found = self._conflicts.setdefault(it.address, Conflict())
                found.see(sighting.mac, boottime())

    def conflict(self, address: Address) -> Conflict:
        """Returns what was seen of other holders of an address."""
        return self._conflicts.get(address, Conflict())

    def told(self, owner: Owner, held: Mapping[Address, Held], now: float) -> list[Entry]:
        """Returns who else has addresses of the owner, for the owner: those that were seen first,
        MAX_TOLD at most."""
        found = sorted(
            (
                (each.since, str(address), held[address].interface.name, each.first_mac.hex(":"))
                for address, each in self._conflicts.items()
                if now < each.seen_at + TOLD_FOR_S
                and address in held
                and held[address].owner == owner
            ),
        )
        return [
            {"address": address, "interface": interface, "mac": mac, "since": since}
            for since, address, interface, mac in found[:MAX_TOLD]
        ]

    def calm(self, address: Address) -> None:
        """The address is about to be removed: its other holders are not answered any more."""
        if address in self._conflicts:
            self._conflicts[address].seen = 0

    def forget(self, address: Address) -> None:
        """The address is not held any more."""
        self._conflicts.pop(address, None)

    def next_at(self) -> list[float]:
        """Returns the instants at which there is somebody to answer."""
        return [each.answer_at for each in self._conflicts.values() if each.seen]

    def answer(self, held: Iterable[Held]) -> None:
        """Answers other holders of an address for as long as it is ours, MAX_TOGETHER at most."""
        now = boottime()
        attacked = [
            (each, found)
            for each in held
            if (found := self._conflicts.get(each.address)) is not None
            and found.seen
            and now >= found.answer_at
        ][:MAX_TOGETHER]
        if not attacked:
            return
        self._recorder.note(_entry(it, found) for it, found in attacked)
        with act_within(ACT_WITHIN_S):
            now = boottime()
            for it, found in attacked:
                found.seen = 0
                found.answer_at = now + DEFEND_INTERVAL_S
                if now < it.deadline:
                    self._announcer.defend(it.address)


def _entry(it: Held, found: Conflict) -> Entry:
    return conflict(it.address, it.interface.name, it.owner, found.mac, found.seen)
