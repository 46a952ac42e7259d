"""All that the helper holds on the interfaces: the one door to this folder for the server.

Keeps the promise of helper/PROTOCOL.md: an address is off the interface at most 0.2 s after its
deadline. Talks to nobody; what it does of itself is on record.

    batch.py      requests that are done together   inventory.py  what is held, and what has gone
    renewal.py    lifetimes in the kernel           leftovers.py  what an earlier life has left
    expiry.py     ends at deadlines                 removal.py    taking one address off
    refusals.py   what is refused in any case       host.py       what else is on the host
"""

import math
from collections.abc import Callable, Collection
from itertools import islice

from yaim_helper.clock import boottime
from yaim_helper.held.batch import Batch
from yaim_helper.held.expiry import Expiry
from yaim_helper.held.holding import EXTEND_RETRY_S
from yaim_helper.held.host import Host
from yaim_helper.held.inventory import Inventory
from yaim_helper.held.leftovers import LeftOvers
from yaim_helper.held.refusals import refusal_of_add
from yaim_helper.held.renewal import Renewal
from yaim_helper.kernel.addresses import MAX_TOGETHER, Kernel, KernelError
from yaim_helper.kernel.alarm import act_within
from yaim_helper.kernel.lifetimes import ACT_WITHIN_S
from yaim_helper.neighbours.announce import Announcer
from yaim_helper.neighbours.defence import Defence
from yaim_helper.owners import Owner
from yaim_helper.policy.rules import Policy
from yaim_helper.protocol import Add, Address, Refused
from yaim_helper.record.entries import Entry, held
from yaim_helper.record.recorder import Recorder

SUMMARIZED = 16
"""How many addresses the summary tells one by one."""


class Holdings:
    """All that is held, and what is done with it."""

    def __init__(self, policy: Policy, recorder: Recorder, tell_alive: Callable[[], None]) -> None:
        """`tell_alive` is called again and again while something takes long. Raises KernelError if
        the kernel does not tell what is on the interfaces."""
        self._recorder = recorder
        self._kernel = kernel = Kernel()
        self._announcer = announcer = Announcer(kernel)
        self.defence = Defence(announcer, recorder)
        self.inventory = inventory = Inventory(policy, recorder, announcer, self.defence)
        self._left_overs = LeftOvers(kernel, recorder, inventory)
        self._renewal = Renewal(kernel, inventory, announcer, recorder, tell_alive)
        self._expiry = Expiry(kernel, inventory, self._left_overs, self._renewal, recorder)

    def __len__(self) -> int:
        return len(self.inventory)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.inventory.policy

    # --- for requests ------------------------------------------------------------------------

    def batch(self, addresses: Collection[Address]) -> Batch:
        """Returns a batch for requests that are done together, whose adds and removals are about
        these addresses."""
        return Batch(
            self._kernel,
            self.inventory,
            self._left_overs,
            self._renewal,
            self._expiry,
            self._recorder,
            addresses,
        )

    def refusal(self, add: Add) -> Refused | None:
        """Returns why an add is refused whatever is on the host; None: that decides."""
        return refusal_of_add(self.policy, add, boottime())

    def greet(self, owner: Owner) -> None:
        """The owner begins a connection: from now on it knows which addresses it has, from
        `list`."""
        self.inventory.tell_all_gone(owner)

    def obey(self, policy: Policy) -> None:
        """Removes at once what a new policy does not allow."""
        self._expiry.obey(policy)

    # --- what is held ------------------------------------------------------------------------

    def deadlines(self) -> dict[Owner, float]:
        """Returns the latest deadline of each owner for whom anything is held."""
        return self.inventory.deadlines()

    def describe(self) -> list[Entry]:
        """Returns what is held, and what an earlier life has left, or may have, for the record.
        Raises KernelError."""
        ours = [
            (each.address, each.interface.name, each.prefix, each.owner, each.deadline)
            for each in self.inventory
        ]
        left = [
            (each.address, self._kernel.name(each.index), each.prefix, owner, None)
            for each, owner in self._left_overs.listed(Host(self._kernel, ()))
        ]
        return held([*ours, *left])

    def summary(self) -> str:
        """Returns one line for people: the first addresses that are held, and for whom."""
        first = [
            f"{each.address} on {each.interface.name} for {each.owner.cluster}"
            for each in islice(self.inventory, SUMMARIZED)
        ]
        more = [f"{len(self) - len(first)} more"] if len(self) > len(first) else []
        most = self.policy.max_addresses
        count = f"holds {len(self)} of at most {most} addresses"
        return f"{count}: {', '.join([*first, *more])}" if first else count

    # --- the clock ---------------------------------------------------------------------------

    def next_at(self) -> float:
        """Returns the instant of CLOCK_BOOTTIME at which there is something to do if nothing is
        asked."""
        times = self.defence.next_at()
        if (announce_at := self._announcer.next_at()) is not None:
            times.append(announce_at)
        for holding in self.inventory:
            times.append(max(holding.deadline, holding.retry_at))
            if not holding.is_leaving:
                times.append(holding.extend_at)
        return min(times, default=math.inf)

    def do_what_is_due(self) -> None:
        """Ends, extends, announces and defends what it is time for."""
        now = boottime()
        self.end_over(now)
        due = [each for each in self.inventory if not each.is_leaving and now >= each.extend_at]
        try:
            self._renewal.extend(due, Host(self._kernel, {each.address for each in due}))
        except KernelError:
            for each in due:
                each.extend_at = now + EXTEND_RETRY_S
        announce_at = self._announcer.next_at()
        # In a flood the helper comes here thousands of times a second, and whatever holds it up
        # while its alarm is set ends it: the alarm is not set for nothing.
        if announce_at is not None and now >= announce_at:
            self._announce_due()
        self.defence.answer(self.inventory)
        if self.inventory.take_change():
            self.defence.watch(self.inventory.by_address)

    def _announce_due(self) -> None:
        """Goes on telling the neighbours where addresses are, until their deadlines."""
        with act_within(ACT_WITHIN_S):
            now = boottime()
            for holding in self.inventory:
                if now >= holding.deadline:
                    self._announcer.stop(holding.address)
            self._announcer.run(now, MAX_TOGETHER)

    def end_over(self, now: float) -> None:
        """Removes what has outlived its deadline."""
        self._expiry.end_over(now)

    def draw_deadlines_nearer(self, jump_s: float, why: str) -> None:
        """Makes all deadlines nearer: the host was away for so long without any clock that they
        are counted in."""
        self._expiry.draw_deadlines_nearer(jump_s, why)

    # --- other holders on the link -----------------------------------------------------------

    def see_links(self) -> None:
        """Tells the neighbours anew on each interface that has come back."""
        self.defence.see_links()

    def hear(self) -> None:
        """Notes who else has an address that is held on its link."""
        self.defence.hear(self.inventory.by_address)
