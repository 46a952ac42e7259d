"""Requests that are done together, in order: what they add is put on the interfaces together, and
read back together.

A batch keeps to itself what it has accepted and not yet put there, as immutable values. Whatever
may depend on an earlier add (a removal, a renewal, the same address once more) is done after that
was put there. `settle` tells at the end which adds went wrong after all.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from typing import NamedTuple

from yaim_helper.clock import boottime
from yaim_helper.held.earlier import EarlierFences
from yaim_helper.held.expiry import Expiry
from yaim_helper.held.fences import Fences
from yaim_helper.held.holding import Holding
from yaim_helper.held.host import Host, primary
from yaim_helper.held.inventory import Inventory
from yaim_helper.held.leftovers import LeftOvers
from yaim_helper.held.refusals import refusal_of_add, refusal_of_deadline
from yaim_helper.held.removal import take_off
from yaim_helper.held.renewal import Renewal
from yaim_helper.held.reset import RESET_WITHIN_S, Reset, Resets
from yaim_helper.kernel.addresses import Interface, Kernel, KernelError, UnansweredError
from yaim_helper.kernel.netlink import Found
from yaim_helper.owners import Owner
from yaim_helper.protocol import MAX_LISTED, Add, Address, Failed, Ok, Refused, Remove, Reply
from yaim_helper.record.entries import REMOVED, TAKEN, Entry
from yaim_helper.record.recorder import Recorder


class Addition(NamedTuple):
    """An add that was accepted."""

    request: Add
    holding: Holding
    before: Holding | None
    """What was held of the address before."""


class Batch:
    """The requests raise KernelError if the kernel refuses what they need, or does not answer."""

    def __init__(
        self,
        kernel: Kernel,
        inventory: Inventory,
        left_overs: LeftOvers,
        renewal: Renewal,
        expiry: Expiry,
        recorder: Recorder,
        resets: Resets,
        addresses: Collection[Address],
        fences: Fences | None = None,
        earlier: EarlierFences | None = None,
    ) -> None:
        """`addresses`: those that adds, removals and clears in this batch are about."""
        self._kernel = kernel
        self._inventory = inventory
        self._left_overs = left_overs
        self._renewal = renewal
        self._expiry = expiry
        self._recorder = recorder
        self._resets = resets
        self._fences = fences
        self._earlier = earlier
        self._host = Host(kernel, addresses, left_overs.is_helpers)
        self._policy, self._jumped_s = inventory.policy, inventory.jumped_s
        """What they were when the requests were begun."""
        self._waiting: dict[Address, Addition] = {}
        """What is to be put on the interfaces."""
        self._put: list[Addition] = []
        """What was put there and is not read back yet."""
        self._failed: dict[int, KernelError] = {}
        """Adds that went wrong after they were accepted, by the ids of their requests."""
        self._reset_until: float | None = None
        """Until when connections are reset in this batch."""
        self._reset: dict[Address, Reset] = {}
        """Of what is removed next."""

    # --- add ---------------------------------------------------------------------------------

    def add(self, owner: Owner, add: Add) -> Reply:
        """Checks an add and accepts it: the address is held from now on. It is put on its
        interface together with others, by `settle` at the latest."""
        now = boottime()
        is_fenced = self._fences is not None
        refused = refusal_of_add(self._inventory.policy, add, now, is_fenced=is_fenced)
        if refused is not None:
            return refused
        interface = self._host.interface(add.interface)
        if not interface.is_up:
            raise KernelError(None, f"{add.interface} is down")
        if refused := self._refusal_of_host(add, interface):
            return refused
        if add.address in self._waiting:
            self._put_waiting()
        places = self._host.places(add.address)
        before = self._inventory.get(add.address)
        if before is not None and before.owner != owner:
            return Refused("foreign", f"{add.address} is held for {before.owner}")
        if before is not None and before.is_taken(places):
            self._inventory.give_up(before)
            before = None
        ours = [each for each in places if self._is_for(owner, each, before)]
        if before is None and (refused := self._refusal_of_one_more()):
            return refused
        deadline = add.deadline_ns / 1e9
        holding = Holding(
            add.address,
            interface,
            add.prefix,
            add.label,
            owner,
            deadline,
            deadline - now,
            is_fenced=is_fenced,
        )
        theirs = [each for each in places if each not in ours]
        if theirs and (before is None or any(holding.is_in_way(each) for each in theirs)):
            where = f"{add.address}/{theirs[0].prefix} is on {self._kernel.name(theirs[0].index)}"
            return Refused("foreign", f"{where} already, and not because of the helper")
        if self._would_take_others_along(add, interface):
            return Refused("primary", primary(add.address, add.prefix, interface.name))
        self._accept(Addition(add, holding, before), ours)
        return Ok({"was": "present" if ours else "absent"})

    def _refusal_of_host(self, add: Add, interface: Interface) -> Refused | None:
        """Returns why an address is not added, because of what it is on this host."""
        if objection := self._host.objection(add.address, interface.index):
            return Refused("not-allowed", objection)
        if interface.makes(add.address):
            why = f"{add.address} is what {add.interface} makes of its MAC address: a router sets"
            return Refused("not-allowed", f"{why} its lifetime")
        return None

    def _is_for(self, owner: Owner, place: Found, held: Holding | None) -> bool:
        """Whether the address at that place is held for the owner, or was left for it."""
        if held is not None:
            return held.is_it(place)
        return self._left_overs.owner_of(place) == owner

    def _refusal_of_one_more(self) -> Refused | None:
        if self._inventory.is_full:
            # What cannot be put on its interface makes room.
            self._put_waiting()
        if self._inventory.is_full:
            return Refused("limit", f"there are {len(self._inventory)} addresses already")
        return None

    def _would_take_others_along(self, add: Add, interface: Interface) -> bool:
        """Whether the removal of the address would remove others. What waits may be the first of
        its network."""
        if add.prefix < 32:
            self._put_waiting()
        return self._host.would_take_others_along(add.address, add.prefix, interface)

    def _accept(self, addition: Addition, ours: Iterable[Found]) -> None:
        """Holds the address from now on. `ours`: where it is because of the helper."""
        holding, before = addition.holding, addition.before
        if before is not None and (before.interface.index, before.prefix) == (
            holding.interface.index,
            holding.prefix,
        ):
            holding.created = before.created
            holding.created_before = before.created_before
        for each in ours:
            if not holding.is_at(each):
                self._host.delete(each.index, each.address, each.prefix)
        self._heed_what_changed(addition)
        self._inventory.put(holding)
        self._waiting[holding.address] = addition

    def _heed_what_changed(self, addition: Addition) -> None:
        """While the kernel was asked the host may have slept, or the policy have become another:
        what is held was ended then, or its deadline drawn nearer."""
        holding, policy = addition.holding, self._inventory.policy
        holding.deadline -= self._inventory.jumped_s - self._jumped_s
        if policy is self._policy:
            return
        if policy.rule_for(addition.request) is None or holding.owner.uid not in policy.users:
            holding.deadline = min(holding.deadline, boottime())

    def _put_waiting(self) -> None:
        """Puts on the interfaces what waits for that. Raises KernelError."""
        waiting = list(self._waiting.values())
        self._waiting.clear()
        if not waiting:
            return
        holdings = [each.holding for each in waiting]
        failed = self._admit(holdings)
        if not failed:
            failed = self._delete_routeless(holdings)
            reachable = [each for each in holdings if each.address not in failed]
            failed |= self._renewal.set_lifetimes(reachable, self._host)
        for each in waiting:
            holding = each.holding
            error = failed.get(holding.address)
            if error is None and not holding.kernel_until:
                error = KernelError(None, "the deadline came too near meanwhile")
            if error is not None:
                self._failed[each.request.id] = error
                if self._fences is not None and isinstance(error, UnansweredError):
                    # It may be there, and is let go of only when it surely is not.
                    holding.deadline = min(holding.deadline, boottime())
                else:
                    self._inventory.put_back(holding, each.before)
                continue
            self._put.append(each)
            if not self._is_there(holding):
                self._host.has_put(
                    Found(holding.address, holding.interface.index, holding.prefix, 1, 0, 0)
                )

    def _is_there(self, holding: Holding) -> bool:
        """Whether the address is on its interface already. Raises KernelError."""
        return any(map(holding.is_at, self._host.places(holding.address)))

    def _delete_routeless(self, holdings: Iterable[Holding]) -> dict[Address, KernelError]:
        """Deletes what is there already and has no local route, because an earlier removal or life
        was cut short (reset.py): the kernel makes one when the address is put there. Returns what
        went wrong."""
        failed: dict[Address, KernelError] = {}
        for each in holdings:
            index, address = each.interface.index, each.address
            if not isinstance(address, IPv4Address) or not self._is_there(each):
                continue
            try:
                if self._kernel.local_source(index, address) is None:
                    self._host.delete(index, address, each.prefix)
                    each.created = each.created_before = None
            except KernelError as error:
                failed[address] = error
        return failed

    def _admit(self, holdings: Sequence[Holding]) -> dict[Address, KernelError]:
        """Has the fence know of addresses before they are on an interface, and returns what went
        wrong. All are the same owner's: those of one connection are done together."""
        if self._fences is None:
            return {}
        try:
            deadlines = {each.address: each.deadline for each in holdings}
            self._fences.admit(holdings[0].owner, deadlines)
        except KernelError as error:
            return {each.address: error for each in holdings}
        return {}

    def settle(self) -> dict[int, KernelError]:
        """Puts and reads back what was added, and returns which adds went wrong after all, by the
        ids of their requests. What is not on its interface is held no more; what cannot be read
        back is taken off."""
        self._put_waiting()
        added = {
            each.holding: each.request.id for each in self._put if self._inventory.has(each.holding)
        }
        try:
            missing = self._renewal.read_back(list(added), self._host)
        except KernelError as error:
            for holding, number in added.items():
                self._failed[number] = error
                with suppress(KernelError):
                    take_off(holding, self._inventory, self._host)
            return self._failed
        if self._fences is None and self._earlier is not None and added:
            # Until then it is silent once the fence of an earlier life is over.
            self._earlier.take_out(each.address for each in added)
        for holding in missing:
            if self._inventory.has(holding):
                self._inventory.forget(holding)
            self._failed[added[holding]] = KernelError(
                None, "the address is not on the interface as it should be"
            )
        return self._failed

    # --- remove ------------------------------------------------------------------------------

    def reset_together(self, owner: Owner, removals: Iterable[Remove]) -> None:
        """Resets the connections of what is removed next, as far as that is asked for. What has
        outlived its deadline may be another node's. Raises KernelError."""
        self._put_waiting()
        if self._reset_until is None:
            self._reset_until = boottime() + RESET_WITHIN_S
        until = self._reset_until
        ours: dict[Address, list[Found]] = {}
        for address in [each.address for each in removals if each.resets]:
            held = self._inventory.get(address)
            if held is not None and (held.owner != owner or boottime() >= held.deadline):
                continue
            with suppress(KernelError):
                places = self._host.places(address)
                ours[address] = [each for each in places if self._is_for(owner, each, held)]
            if held is not None and ours.get(address):
                self._inventory.leave(held)
                until = min(until, held.deadline)
        self._reset = self._resets.reset(ours, self._host, self._inventory.policy, until)

    def remove(self, owner: Owner, address: Address) -> Reply:
        """Removes an address of the owner, held or left over. What is not there, or not the
        owner's, is absent."""
        reset = self._reset.pop(address, None)
        try:
            reply = self._remove(owner, address, reset)
        finally:
            self._resets.give_back(address, reset, self._host)
        if reset is not None and isinstance(reply, Ok):
            return Ok({**reply.fields, **reset.told})
        return reply

    def _remove(self, owner: Owner, address: Address, reset: Reset | None) -> Reply:
        self._put_waiting()
        holding = self._inventory.get(address)
        self._inventory.tell_gone(owner, address)
        if holding is None:
            places = self._host.places(address)
            was_there = self._remove_left_over(owner, places)
            was_there |= reset is not None and reset.is_off
            if any(map(self._left_overs.is_doubtful, places)):
                return Failed(None, f"{address} may be what an earlier life of the helper has left")
        elif holding.owner != owner:
            return Ok({"was": "absent"})
        else:
            outcome = take_off(holding, self._inventory, self._host, reset)
            was_there = outcome == REMOVED
            if outcome == TAKEN:
                self._recorder.note([holding.own("expire", TAKEN)])
        was = "present" if was_there else "absent"
        return Ok({"was": was, **self._copies([address], self._host)})

    def _remove_left_over(self, owner: Owner, places: Iterable[Found]) -> bool:
        """Removes what an earlier life has left for the owner at these places, and returns whether
        it was there."""
        left = [each for each in places if self._left_overs.owner_of(each) == owner]
        gone = [self._host.delete(each.index, each.address, each.prefix) for each in left]
        return any(gone)

    def clear(self, owner: Owner, address: Address) -> Reply:
        """Ends in silence what is left of an address that has gone. Raises KernelError."""
        if not self._inventory.policy.clears(address):
            return Refused("not-allowed", f"no rule lets connections of {address} be ended")
        self._put_waiting()
        self._host.has_changed()
        if self._inventory.get(address) is not None or self._host.places(address):
            return Refused("foreign", f"{address} is on this host, or held")
        ended = self._resets.clear(owner, address)
        return Ok({"cleared": ended.destroyed, "left": ended.left})

    # --- renew -------------------------------------------------------------------------------

    def renew(self, owner: Owner, deadline: float) -> Reply:
        """Gives all addresses of the owner another deadline.

        What has outlived its deadline is ended, not renewed: if the helper was stopped meanwhile,
        the coordinator may long have given it up, and now mean only what it took since.
        """
        self._put_waiting()
        self._host.has_changed()
        now = boottime()
        self._expiry.end_over(now)
        life_s = deadline - now
        holdings = [
            each
            for each in self._inventory
            if each.owner == owner and not each.is_leaving and now < each.deadline
        ]
        is_nearer = any(deadline < each.deadline for each in holdings)
        refused = refusal_of_deadline(life_s, needs_lifetime=is_nearer)
        if refused is not None:
            return refused
        for holding in holdings:
            if deadline < holding.deadline:
                # Its lifetime in the kernel has to be shortened.
                holding.kernel_until = 0.0
            holding.deadline = deadline
            holding.life_s = life_s
        expired = self._inventory.expired(owner)
        addresses = [each.address for each in holdings]
        host = Host(self._kernel, {*expired, *addresses})
        try:
            missing = self._renewal.extend(holdings, host)
        finally:
            self._expiry.end_unlimited(holdings, "its lifetime could not be set")
        missing += [each for each in self._inventory.expired(owner) if each not in missing]
        copies = self._copies([*addresses, *expired], host)
        return Ok({"missing": [str(each) for each in missing[:MAX_LISTED]], **copies})

    # --- list and announce -------------------------------------------------------------------

    def page(self, owner: Owner, after: Address | None) -> Ok:
        """Returns what is held for the owner, and what an earlier life has left for it: the first
        MAX_LISTED addresses behind `after`."""
        self._put_waiting()
        has_left = self._fences is None or not self._left_overs.is_empty
        listed = {
            place.address: _listed(place.address, interface, place.prefix, None)
            for place in (self._host.all_places() if has_left else ())
            if self._inventory.get(place.address) is None
            and self._left_overs.owner_of(place) == owner
            and (interface := self._kernel.name(place.index))
        }
        listed |= {
            each.address: _listed(each.address, each.interface.name, each.prefix, each.deadline)
            for each in self._inventory
            if each.owner == owner and not each.is_leaving
        }
        further = sorted(
            (each for each in listed if after is None or _order(each) > _order(after)), key=_order
        )
        return Ok(
            {
                "addresses": [listed[each] for each in further[:MAX_LISTED]],
                "more": len(further) > MAX_LISTED,
            }
        )

    def announce(self, owner: Owner, address: Address) -> Reply:
        """Tells the neighbours anew where an address of the owner is."""
        self._put_waiting()
        holding = self._inventory.get(address)
        if holding is None or holding.owner != owner or holding.is_leaving:
            return Refused("foreign", f"{address} is not held for {owner}")
        self._renewal.announce([holding])
        return Ok({})

    def _copies(self, addresses: Iterable[Address], host: Host) -> dict[str, list[Entry]]:
        """Returns where on this host the addresses are, too, and not because of the helper, as a
        reply tells it."""
        copies: list[Entry] = []
        with suppress(KernelError):
            for address in addresses:
                copies += self._left_overs.copies(address, host)
        return {"copies": copies[:MAX_LISTED]} if copies else {}


def _listed(address: Address, interface: str, prefix: int, deadline: float | None) -> Entry:
    """Returns an address as the reply to `list` tells it."""
    return {
        "address": str(address),
        "interface": interface,
        "prefix": prefix,
        "deadline_ns": round(deadline * 1e9) if deadline is not None else None,
    }


def _order(address: Address) -> tuple[int, int]:
    return address.version, int(address)
