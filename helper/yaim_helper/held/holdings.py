"""All that the helper holds on the interfaces: the one door to this folder for the server.

Keeps the promise of helper/PROTOCOL.md: an address is off the interface at most 0.2 s after its
deadline. Talks to nobody; what it does of itself is on record.

    batch.py      requests that are done together   inventory.py  what is held, and what has gone
    renewal.py    lifetimes in the kernel           leftovers.py  what an earlier life has left
    expiry.py     ends at deadlines                 removal.py    taking one address off
    refusals.py   what is refused in any case       host.py       what else is on the host
    reset.py      ending an address's connections
"""

import math
from collections.abc import Callable, Collection
from functools import partial
from itertools import islice

from yaim_helper.clock import boottime
from yaim_helper.held.batch import Batch
from yaim_helper.held.earlier import EarlierFences
from yaim_helper.held.expiry import Expiry
from yaim_helper.held.fencing import NO_FENCE, Fencing
from yaim_helper.held.holding import EXTEND_RETRY_S
from yaim_helper.held.host import Host
from yaim_helper.held.inventory import Inventory
from yaim_helper.held.leftovers import LeftOvers
from yaim_helper.held.refusals import refusal_of_add
from yaim_helper.held.renewal import Renewal
from yaim_helper.held.reset import NO_RESETTING, RESET_WITHIN_S, Resets, Resetting
from yaim_helper.held.watch import Watch
from yaim_helper.jobs import Inline, Jobs
from yaim_helper.kernel.addresses import MAX_TOGETHER, Kernel, KernelError
from yaim_helper.kernel.alarm import act_within
from yaim_helper.kernel.lifetimes import ACT_WITHIN_S, SWEEP_AGAIN_S
from yaim_helper.neighbours.announce import Announcer
from yaim_helper.neighbours.defence import Defence
from yaim_helper.owners import Owner
from yaim_helper.policy.rules import Policy
from yaim_helper.protocol import Add, Address, Refused, Remove, Reply
from yaim_helper.record.entries import Entry, fence_lost, fence_made, held
from yaim_helper.record.recorder import Recorder
from yaim_helper.stderr import tell

FLUSHED = "somebody may have changed the fence, or flushed the ruleset"
RENEWED_BEFORE_S = 0.2
"""A renewal that waits for resets is done so long before the owner's addresses are mute."""
SUMMARIZED = 16
"""How many addresses the summary tells one by one."""


class Holdings:
    """All that is held, and what is done with it."""

    def __init__(
        self,
        policy: Policy,
        recorder: Recorder,
        tell_alive: Callable[[], None],
        fencing: Fencing = NO_FENCE,
        jobs: Jobs | None = None,
        resetting: Resetting = NO_RESETTING,
    ) -> None:
        """`tell_alive` is called again and again while something takes long. `jobs`: what may wait
        for the kernel, where there is a fence. Raises KernelError if the kernel does not tell what
        is on the interfaces."""
        self._recorder = recorder
        self.fencing = fencing
        self._fences = fences = fencing.fences
        self._jobs = jobs or Inline()
        self._kernel = kernel = Kernel(self._jobs.asking)
        self._announcer = announcer = Announcer(kernel)
        self.defence = Defence(announcer, recorder, self._jobs)
        self.inventory = inventory = Inventory(policy, recorder, announcer, self.defence, fences)
        self._left_overs = left_overs = LeftOvers(kernel, recorder, inventory)
        self._renewal = renewal = Renewal(
            kernel, inventory, announcer, recorder, tell_alive, fences
        )
        self.resets = Resets(kernel, resetting, self._jobs.asking, fences)
        start = self._jobs.start
        self._expiry = Expiry(
            kernel, inventory, left_overs, renewal, recorder, self.resets, start, fences
        )
        self._earlier = (
            EarlierFences(fencing, kernel, inventory, left_overs, recorder, start)
            if fencing.tables is not None
            else None
        )
        if self._earlier is not None and recorder.past.was_fenced:
            self._earlier.sweep_unfenced()
        self.watch = (
            Watch(kernel, inventory, left_overs, renewal, fences) if fences is not None else None
        )
        self._is_sweeping = self._is_looking = False
        """Whether such a job is under way."""

    def __len__(self) -> int:
        return len(self.inventory)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.inventory.policy

    # --- for requests ------------------------------------------------------------------------

    def batch(self, addresses: Collection[Address]) -> Batch:
        """Returns a batch for requests that are done together, whose adds, removals and clears are
        about these addresses."""
        return Batch(
            self._kernel,
            self.inventory,
            self._left_overs,
            self._renewal,
            self._expiry,
            self._recorder,
            self.resets,
            addresses,
            self._fences,
            self._earlier,
        )

    def refusal(self, add: Add) -> Refused | None:
        """Returns why an add is refused whatever is on the host; None: that decides."""
        is_fenced = self._fences is not None
        return refusal_of_add(self.policy, add, boottime(), is_fenced=is_fenced)

    def renew(self, owner: Owner, deadline: float, batch: Batch) -> Reply:
        """Gives all addresses of the owner another deadline. Raises KernelError."""
        if self.watch is not None:
            return self.watch.renew(owner, deadline)
        return batch.renew(owner, deadline)

    @property
    def waits_for_kernel(self) -> bool:
        """Whether requests about addresses may wait for the kernel while others are done."""
        return self._fences is not None

    def waits_for_resets_until(self, owner: Owner, now: float) -> float:
        """Returns until when a renewal waits for resets that were asked for before it: it mutes
        what is to be removed, and a reset would not go out. 0.0: it does not, as the owner's
        addresses would have too little time left, or as resets hold up the loop anyway."""
        until = self._fences.until(owner) if self._fences is not None else None
        waits_until = now + RESET_WITHIN_S
        return waits_until if until is not None and until > waits_until + RENEWED_BEFORE_S else 0.0

    @property
    def has_left_overs(self) -> bool:
        """Whether an earlier life may have left something, for which the kernel has to be asked."""
        return not self._left_overs.is_empty

    def expect_removal(self, owner: Owner, remove: Remove) -> bool:
        """A removal is asked for, and done later: no renewal is for that address any more. Returns
        whether it has to be told when it is done."""
        if self._fences is not None:
            self._fences.expect_removal(owner, remove.address, resets=remove.resets)
        return self._fences is not None

    def leave(self, owner: Owner | None, address: Address) -> None:
        """An address of the owner is to go, and could not be removed: nothing renews it any
        more."""
        holding = self.inventory.get(address)
        if holding is not None and holding.owner == owner:
            self.inventory.leave(holding)

    def end_removal(self, owner: Owner, remove: Remove) -> None:
        """Such a removal was done, or will not be."""
        if self._fences is not None:
            self._fences.end_removal(owner, remove.address, resets=remove.resets)

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

    def fenced(self) -> dict[Owner, float] | None:
        """Returns the owners whose fences are in force, and until when they let addresses answer;
        None: there is no fence."""
        if self._fences is None:
            return None
        return {owner: self._fences.until(owner) or 0.0 for owner in self.deadlines()}

    def fenced_until(self, owner: Owner | None, address: Address) -> tuple[bool, float] | None:
        """Returns what the record tells of the fence of an address of the owner; None: nothing."""
        holding = self.inventory.get(address)
        return holding.fenced_until if holding is not None and holding.owner == owner else None

    def describe(self) -> list[Entry]:
        """Returns what is held, and what an earlier life has left, or may have, for the record.
        Raises KernelError."""
        ours = [
            (
                each.address,
                each.interface.name,
                each.prefix,
                each.owner,
                each.deadline,
                each.is_fenced or None,
            )
            for each in self.inventory
        ]
        if self._fences is not None and self._left_overs.is_empty:
            return held(ours)
        left = [
            (each.address, self._kernel.name(each.index), each.prefix, owner, None, None)
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
            if not holding.is_leaving and not self._is_sweeping:
                times.append(holding.extend_at)
        if self._earlier is not None:
            times.append(self._earlier.next_at())
        return min(times, default=math.inf)

    def do_what_is_due(self) -> None:
        """Ends, extends, announces and defends what it is time for."""
        now = boottime()
        self.end_over(now)
        if self._fences is None:
            self._extend(now)
        else:
            self._start_due(now)
        if self._earlier is not None:
            self._earlier.do_what_is_due(now)
        announce_at = self._announcer.next_at()
        # In a flood the helper comes here thousands of times a second, and whatever holds it up
        # while its alarm is set ends it: the alarm is not set for nothing.
        if announce_at is not None and now >= announce_at:
            self._announce_due()
        self.defence.answer(self.inventory)
        if self.inventory.take_change():
            self.defence.watch(self.inventory.by_address)

    def _extend(self, within: float) -> None:
        """Sets the lifetimes anew for which it is time by then."""
        due = [each for each in self.inventory if not each.is_leaving and within >= each.extend_at]
        try:
            self._renewal.extend(due, Host(self._kernel, {each.address for each in due}))
        except KernelError:
            for each in due:
                each.extend_at = boottime() + EXTEND_RETRY_S

    def _start_due(self, now: float) -> None:
        """Starts, where there is a fence, what may wait for the kernel."""
        is_due = any(now >= each.extend_at for each in self.inventory if not each.is_leaving)
        if is_due and not self._is_sweeping:
            self._is_sweeping = True
            self._jobs.start(self._sweep)
        if self.watch is not None and self.watch.is_look_due and not self._is_looking:
            self._is_looking = True
            self._jobs.start(partial(self._look, self.watch))

    def _sweep(self) -> None:
        """Those whose time comes soon have theirs set together with the others."""
        self._extend(boottime() + SWEEP_AGAIN_S / 2)
        self._is_sweeping = False

    def _look(self, watch: Watch) -> None:
        self._is_looking = False
        watch.look()

    def see_tables(self) -> None:
        """Makes the fences anew that somebody else has changed: has flushed the ruleset, say."""
        fencing = self.fencing
        if fencing.changes is None or fencing.fences is None or self._earlier is None:
            return
        changed = fencing.changes.tables()
        if changed is not None and not changed:
            return
        affected = fencing.fences.affected(changed)
        self._recorder.note([fence_lost(owner, count, FLUSHED) for owner, count in affected])
        for owner, count, error in fencing.fences.remake(changed):
            if error is None:
                self._recorder.note([fence_made(owner, count, FLUSHED)])
                tell(f"{FLUSHED}: made anew for {owner}, {count} addresses")
            else:
                tell(f"{FLUSHED}: cannot be made anew for {owner}: {error.reason}")
        self._earlier.see_changed(changed, FLUSHED)

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
        if self._fences is not None and self._earlier is not None:
            self._earlier.sweep_at_once(why)

    # --- other holders on the link -----------------------------------------------------------

    def see_links(self) -> None:
        """Tells the neighbours anew on each interface that has come back."""
        self.defence.see_links()

    @property
    def waits_for_links(self) -> bool:
        """Whether the kernel is just asked for all of them."""
        return self.defence.waits_for_links

    def hear(self) -> None:
        """Notes who else has an address that is held on its link."""
        self.defence.hear(self.inventory.by_address)

    def conflicts(self, owner: Owner) -> list[Entry]:
        """Returns who else has addresses of the owner, as a reply tells it."""
        return self.defence.told(owner, self.inventory.by_address, boottime())
