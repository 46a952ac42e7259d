"""What is on the interfaces because of the helper, for whom, and until when.

Keeps the promise of helper/PROTOCOL.md: off the interface at most 0.2 s after the deadline. What
may be done is policy.py's to say, how it is done addresses.py's. Talks to nobody; what it does of
itself is on record.

Which addresses are the helper's? Lifetimes are a sign and no proof: the host may give its own the
same. What this life has put there is known by when, as the kernel says, it was put there; who puts
it there anew, or gives it lifetimes that the helper gives none, makes it the host's. What an
earlier life has left is what the record of this boot and network namespace says it has put on this
interface with this prefix length, and what looks like it at the start, unless it was put there
after the last that is on record. (An intent is on disk before its effect, so a whole record tells
of all until then.) All else is foreign: not removed, not taken over, not listed. Where the record
may have lost something, or a life may have written elsewhere, because it was put there after the
last that is on record, what looks like the helper's at the start is in doubt: left alone, too, but
a request to remove it fails until its lifetime is over, so that nobody takes for absent what an
earlier life may have left. The kernel removes that by its deadline.

What remains: in the milliseconds between a look and what is done, the host may put its own in the
place of the helper's; then that gets a lifetime, or is removed. So may it between two lives of the
helper, on the same interface, with the same prefix length and such lifetimes.
"""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import chain, islice

from yaim_helper.clock import STAMPS_LATE_S, boottime, since_stamp_s
from yaim_helper.kernel.addresses import (
    ACT_WITHIN_S,
    EARLY_S,
    MAX_TOGETHER,
    Assignment,
    Interface,
    Kernel,
    KernelError,
    act_within,
    last_extension_s,
    lateness_s,
    lifetime_s,
)
from yaim_helper.kernel.links import Links
from yaim_helper.kernel.netlink import Found, Identity
from yaim_helper.neighbours.announce import Announcer
from yaim_helper.neighbours.conflicts import Conflicts
from yaim_helper.policy.rules import Policy, edge
from yaim_helper.protocol import MAX_LISTED, Add, Address, Failed, Ok, Refused, Reply
from yaim_helper.record.entries import TAKEN, Entry, Owner, conflict, held, own
from yaim_helper.record.recorder import Recorder

MAX_DEADLINE_S = 3600.0
EXTEND_BEFORE_S = 0.5
"""How long before the kernel would remove an address its lifetime is extended, if it may be."""
WOKEN_WITHIN_S = 0.05
"""How late the clock may wake the helper for the last extension, which is over a moment after; with
the look at what is there, which comes before it."""
EXTEND_RETRY_S = 0.1
"""An extension by less is not worth making; after a failed one it is tried again."""
RETRY_REMOVAL_S = 0.5
DONE_WITHIN_S, ADDED_WITHIN_S = 0.1, 5.0
"""How long after the last record an effect may be that no record tells of yet; and after an intent
without a result."""
DEFEND_INTERVAL_S = 10.0
"""From one answer to another holder of an address to the next (RFC 5227 section 2.4)."""
REMOVED, FOUND_GONE = "removed", "the kernel had removed it"
"""Words of the record."""
SUMMARIZED = 16
"""Addresses that are told one by one."""


@dataclass(slots=True)
class Rivals:
    """Other holders of an address, on the same link."""

    seen: int = 0
    """How often, since they were last answered."""
    mac: bytes = b""
    """Of the one that was seen last."""
    answer_at: float = 0.0
    """Not before."""


@dataclass(eq=False, slots=True)
class Holding:
    """An address that the helper has put on an interface."""

    address: Address
    interface: Interface
    prefix: int
    label: str
    owner: Owner
    deadline: float
    life_s: float
    """How far away the deadline was when it was handed over."""
    created: int | None = None
    """When the kernel says it was put there; None: its lifetime was set, and not read back yet."""
    created_before: int | None = None
    """What that was before its lifetime was set."""
    kernel_until: float = 0.0
    """The kernel does not remove it before; 0: not known."""
    extend_at: float = math.inf
    """When to set its lifetime anew, if no renewal comes before."""
    is_leaving: bool = False
    """To be removed; not renewed any more."""
    retry_at: float = 0.0
    failure: str = ""
    """Why setting its lifetime failed, if that was so the last time."""
    rivals: Rivals = field(default_factory=Rivals)

    def own(self, op: str, outcome: str) -> Entry:
        return own(op, self.address, self.interface.name, self.owner, outcome)

    def conflict(self) -> Entry:
        rivals = self.rivals
        return conflict(self.address, self.interface.name, self.owner, rivals.mac, rivals.seen)

    def assignment(self, lifetime: int, *, is_there: bool) -> Assignment:
        place = self.interface, self.address, self.prefix
        return Assignment(*place, self.label, lifetime, is_there)

    def is_at(self, place: Found) -> bool:
        return (place.index, place.prefix) == (self.interface.index, self.prefix)

    def is_in_way(self, place: Found) -> bool:
        """Whether the kernel takes that for this."""
        is_here = place.index == self.interface.index
        return is_here and (place.prefix == self.prefix or self.address.version == 6)

    def is_it(self, place: Found) -> bool:
        """Whether that is what the helper has put there, and nobody else's since."""
        is_same = self.created in (None, place.created)
        return is_same and self.is_at(place) and place.is_like_ours

    def plan_extension(self, now: float) -> None:
        """Some time before the kernel would remove it; for the last time when a lifetime of 1 s
        is all that the deadline allows."""
        last = self.deadline - last_extension_s(self.life_s) - WOKEN_WITHIN_S
        next_at = min(last, max(self.kernel_until - EXTEND_BEFORE_S, now + EXTEND_RETRY_S))
        is_worth_it = next_at + 1 - EARLY_S >= self.kernel_until + EXTEND_RETRY_S
        self.extend_at = next_at if next_at > now and is_worth_it else math.inf


class Host:
    """The host, for some requests together: read when it is first asked for, and kept true; and
    what they add, which is put there together."""

    def __init__(
        self,
        kernel: Kernel,
        addresses: Collection[Address],
        is_helpers: Callable[[Found], bool] = lambda _: False,
    ) -> None:
        self._kernel = kernel
        self._is_helpers = is_helpers
        self._wanted: Collection[Address] | None = addresses
        """What `places` may be asked for; None: everything."""
        self._places: dict[Address, list[Found]] | None = None
        self._own: list[tuple[int, int, IPv4Network | IPv6Network]] | None = None
        """Of the addresses that are the host's: interface, prefix length, network."""
        self._interfaces: dict[str, Interface] = {}
        self._promotes: dict[str, bool] = {}
        self.waiting: dict[Address, tuple[Add, Holding, Holding | None]] = {}
        """To be put on the interfaces, before anything is done that may depend on it; with what was
        held before."""
        self.put: list[tuple[Add, Holding]] = []
        """Not yet read back."""
        self.failed: dict[int, KernelError] = {}
        """Adds that went wrong after all, by the ids of the requests."""

    def places(self, address: Address) -> list[Found]:
        """Where this address is."""
        return self._all().get(address, [])

    def all_places(self) -> Iterator[Found]:
        """Of all addresses."""
        if self._wanted is not None:
            self._wanted = None
            self.has_changed()
        return chain.from_iterable(self._all().values())

    def _all(self) -> dict[Address, list[Found]]:
        if self._places is None:
            places: dict[Address, list[Found]] = {}
            for each in self._kernel.addresses(self._wanted):
                places.setdefault(each.address, []).append(each)
            self._places = places
        return self._places

    def has_put(self, place: Found) -> None:
        self._all().setdefault(place.address, []).append(place)

    def delete(self, index: int, address: Address, prefix: int) -> bool:
        """Whether it was there. Raises KernelError."""
        was_there = self._kernel.delete(index, address, prefix)
        if self._places is not None:
            self._places[address] = [
                each
                for each in self.places(address)
                if (each.index, each.prefix) != (index, prefix)
            ]
        return was_there

    def has_changed(self) -> None:
        """It is read anew when it is next asked for."""
        self._places = None
        self._own = None

    def objection(self, address: Address, index: int) -> str | None:
        """What the address is in a network that the host has on this interface, if not a host
        there: the kernel sends to all of them what is for its broadcast address."""
        if self._own is None:
            self._own = [
                (each.index, each.prefix, ip_network((each.address, each.prefix), strict=False))
                for each in chain.from_iterable(self._all().values())
                if not self._is_helpers(each)
            ]
        return next(
            (
                f"{address} is the {what} of {network}, which the host has there"
                for its_index, prefix, network in self._own
                if its_index == index and address in network and (what := edge(address, prefix))
            ),
            None,
        )

    def interface(self, name: str) -> Interface:
        """Raises KernelError if there is none."""
        if name not in self._interfaces:
            self._interfaces[name] = self._kernel.interface(name)
        return self._interfaces[name]

    def would_take_others_along(self, address: Address, prefix: int, interface: Interface) -> bool:
        """Whether the kernel, when it removes this address, would remove all others of its network:
        it does so with the one that came first, its primary, of IPv4."""
        if address.version == 6 or prefix >= 32 or self._promotes_secondaries(interface.name):
            return False
        network = ip_network((address, prefix), strict=False)
        return not any(
            (each.index, each.prefix) == (interface.index, prefix)
            and each.address in network
            and each.address != address
            for each in self.all_places()
        )

    def _promotes_secondaries(self, name: str) -> bool:
        if name not in self._promotes:
            self._promotes[name] = self._kernel.promotes_secondaries(name)
        return self._promotes[name]


class Holdings:
    """All of them. Public methods that change something on a request's behalf raise KernelError."""

    def __init__(self, policy: Policy, recorder: Recorder, tell_alive: Callable[[], None]) -> None:
        """What takes long tells meanwhile that it is not stuck."""
        self.policy = policy
        self._tell_alive = tell_alive
        self._recorder = recorder
        self._kernel = Kernel()
        self._announcer = Announcer(self._kernel)
        self.conflicts = Conflicts()
        self.links = Links()
        self._is_watching = True
        """Whether the addresses that are watched for conflicts are those that are held."""
        self._held: dict[Address, Holding] = {}
        self._expired: dict[Address, Owner] = {}
        """What was removed at its deadline, or is the host's now, and the owner that does not know
        it yet."""
        self._left: dict[Identity, Owner] = {}
        """What an earlier life has left, as it was found at the start, and for whom."""
        self._doubtful: dict[Identity, float] = {}
        """What may be such, and until when: then it has gone, or somebody renews it."""
        self._take_stock()

    def __len__(self) -> int:
        return len(self._held)

    def summary(self) -> str:
        """For people, in one line: the first that are held, and for whom."""
        first = [
            f"{each.address} on {each.interface.name} for {each.owner.cluster}"
            for each in islice(self._held.values(), SUMMARIZED)
        ]
        more = [f"{len(self) - len(first)} more"] if len(self) > len(first) else []
        count = f"holds {len(self)} of at most {self.policy.max_addresses} addresses"
        return f"{count}: {', '.join([*first, *more])}" if first else count

    def host(self, addresses: Collection[Address]) -> Host:
        """For requests about these addresses."""
        return Host(self._kernel, addresses, self._is_helpers)

    def _take_stock(self) -> None:
        """Once, before anything else. Raises KernelError."""
        now = boottime()
        past = self._recorder.past
        for place in self._kernel.addresses():
            if place.valid_s is None or not place.is_like_ours:
                continue
            spots = past.places.get(str(place.address), {})
            spot = self._kernel.name(place.index), place.prefix
            is_awaited = past.is_awaited(str(place.address), spot)
            # Who asked for it may have found it there, and who had it then is not told.
            owner = spots.get(spot) if past.is_whole or not is_awaited else None
            done_s = ADDED_WITHIN_S if is_awaited else DONE_WITHIN_S
            # The time in which the host was suspended since the record counts on one side only:
            # that is for more doubt.
            age_s = since_stamp_s(place.created)
            is_told = age_s - STAMPS_LATE_S > now - past.known_until
            if owner is not None and age_s + done_s >= now - past.last_at:
                self._left[place.identity] = owner
            elif spots or not past.is_whole or not is_told:
                life_s = 1 + place.valid_s * 1.125 + lateness_s(MAX_DEADLINE_S)
                self._doubtful[place.identity] = now + life_s

    def _left_to(self, place: Found) -> Owner | None:
        """For whom an earlier life has left that; None: it has not."""
        return self._left.get(place.identity) if place.is_like_ours else None

    def _is_doubtful(self, place: Found) -> bool:
        return place.is_like_ours and boottime() < self._doubtful.get(place.identity, 0.0)

    def _is_helpers(self, place: Found) -> bool:
        holding = self._held.get(place.address)
        if holding is not None and holding.is_it(place):
            return True
        return self._left_to(place) is not None

    def obey(self, policy: Policy) -> None:
        """A new policy: what it does not allow is removed at once."""
        self.policy = policy
        now = boottime()
        self.end_over(now)
        for why, is_over in (
            ("its user is not in the policy any more", self._has_no_user),
            ("no rule allows it any more", self._has_no_rule),
        ):
            for holding in self._held.values():
                if is_over(holding):
                    holding.deadline = min(holding.deadline, now)
            self.end_over(now, why)

    def _has_no_user(self, holding: Holding) -> bool:
        return holding.owner.uid not in self.policy.users

    def _has_no_rule(self, holding: Holding) -> bool:
        place = (holding.interface.name, holding.address, holding.prefix)
        return not any(rule.allows(*place) for rule in self.policy.rules)

    # --- for a request -----------------------------------------------------------------------

    def greet(self, owner: Owner) -> None:
        """From now on it knows what it has: from `list`."""
        self._expired = {a: o for a, o in self._expired.items() if o != owner}

    def refusal(self, add: Add) -> Refused | None:
        """Of an add that is not to be done whatever is on the host."""
        if self.policy.rule_for(add) is None:
            return Refused(
                "not-allowed", f"no rule allows {add.address}/{add.prefix} on {add.interface}"
            )
        life_s = add.deadline_ns / 1e9 - boottime()
        if life_s > MAX_DEADLINE_S or not lifetime_s(life_s, life_s):
            return Refused("expired", _not_within(life_s))
        return None

    def add(self, owner: Owner, add: Add, host: Host) -> Reply:
        """Checked, and held from now on; put on the interface with the others that wait for that,
        by `settle` at the latest, which tells if it went wrong after all."""
        refused = self.refusal(add)
        if refused is not None:
            return refused
        deadline = add.deadline_ns / 1e9
        life_s = deadline - boottime()
        interface = host.interface(add.interface)
        if not interface.is_up:
            raise KernelError(None, f"{add.interface} is down")
        if objection := host.objection(add.address, interface.index):
            return Refused("not-allowed", objection)
        if interface.makes(add.address):
            why = f"{add.address} is what {add.interface} makes of its MAC address: a router sets"
            return Refused("not-allowed", f"{why} its lifetime")
        if add.address in host.waiting:
            self.put_waiting(host)
        places = host.places(add.address)
        old = self._held.get(add.address)
        if old is not None and old.owner != owner:
            return Refused("foreign", f"{add.address} is held for {old.owner}")
        if old is not None and _is_taken(old, places):
            self._give_up(old)
            old = None
        if old is not None:
            ours = [each for each in places if old.is_it(each)]
        else:
            ours = [each for each in places if self._left_to(each) == owner]
            if len(self._held) >= self.policy.max_addresses:
                # What cannot be put there makes room.
                self.put_waiting(host)
            if len(self._held) >= self.policy.max_addresses:
                return Refused("limit", f"there are {len(self._held)} addresses already")
        holding = Holding(add.address, interface, add.prefix, add.label, owner, deadline, life_s)
        theirs = [each for each in places if each not in ours]
        if theirs and (old is None or any(holding.is_in_way(each) for each in theirs)):
            where = f"{add.address}/{theirs[0].prefix} is on {self._kernel.name(theirs[0].index)}"
            return Refused("foreign", f"{where} already, and not because of the helper")
        if self._would_take_others_along(add, interface, host):
            return Refused("primary", primary(add.address, add.prefix, interface.name))
        if old is not None:
            holding.rivals = old.rivals
            if (old.interface.index, old.prefix) == (interface.index, add.prefix):
                holding.created = old.created
                holding.created_before = old.created_before
        for each in ours:
            if not holding.is_at(each):
                host.delete(each.index, each.address, each.prefix)
        self._held[add.address] = holding
        self._is_watching = False
        self._expired.pop(add.address, None)
        host.waiting[add.address] = add, holding, old
        return Ok({"was": "present" if ours else "absent"})

    def put_waiting(self, host: Host) -> None:
        """Before anything that may depend on what was added before."""
        waiting = list(host.waiting.values())
        host.waiting.clear()
        failed = self._set_lifetimes([holding for _, holding, _ in waiting], host)
        for add, holding, old in waiting:
            error = failed.get(add.address)
            if error is None and not holding.kernel_until:
                error = KernelError(None, "the deadline came too near meanwhile")
            if error is not None:
                self._go_back(holding, old)
                host.failed[add.id] = error
                continue
            host.put.append((add, holding))
            if not any(holding.is_at(each) for each in host.places(add.address)):
                host.has_put(Found(add.address, holding.interface.index, add.prefix, 1, 0, 0))

    def settle(self, host: Host) -> dict[int, KernelError]:
        """Put and read back what was added: which adds went wrong after all, by the ids of their
        requests. What is not on its interface is held no more; what cannot be read back is taken
        off."""
        self.put_waiting(host)
        added = {
            holding: add.id for add, holding in host.put if self._held.get(add.address) is holding
        }
        try:
            missing = self._read_back(list(added), host)
        except KernelError as error:
            for holding, number in added.items():
                host.failed[number] = error
                with suppress(KernelError):
                    self._take_off(holding, host)
            return host.failed
        for holding in missing:
            if self._is_held(holding):
                self._forget(holding)
            host.failed[added[holding]] = KernelError(
                None, "the address is not on the interface as it should be"
            )
        return host.failed

    def _would_take_others_along(self, add: Add, interface: Interface, host: Host) -> bool:
        """What waits may be the first of its network."""
        if add.prefix < 32:
            self.put_waiting(host)
        return host.would_take_others_along(add.address, add.prefix, interface)

    def remove(self, owner: Owner, address: Address, host: Host) -> Reply:
        holding = self._held.get(address)
        if self._expired.get(address) == owner:
            del self._expired[address]
        if holding is not None:
            if holding.owner != owner:
                return Ok({"was": "absent"})
            outcome = self._take_off(holding, host)
            was_there = outcome == REMOVED
            if outcome == TAKEN:
                self._recorder.note([holding.own("expire", TAKEN)])
        else:
            places = host.places(address)
            left = [each for each in places if self._left_to(each) == owner]
            gone = [host.delete(each.index, each.address, each.prefix) for each in left]
            was_there = any(gone)
            if any(self._is_doubtful(each) for each in places):
                return Failed(None, f"{address} may be what an earlier life of the helper has left")
        was = "present" if was_there else "absent"
        return Ok({"was": was, **self._copies([address], host)})

    def _take_off(self, holding: Holding, host: Host) -> str:
        """Remove the address; what came of it, for the record. If that fails it stays on record,
        leaving."""
        holding.is_leaving = True
        holding.rivals.seen = 0
        self._announcer.stop(holding.address)
        outcome = REMOVED
        # If the kernel does not tell: it was ours when we last looked, and must not stay.
        with suppress(KernelError):
            places = host.places(holding.address)
            if not any(holding.is_it(each) for each in places):
                outcome = TAKEN if _is_taken(holding, places) else FOUND_GONE
        place = holding.interface.index, holding.address, holding.prefix
        if outcome == REMOVED and not host.delete(*place):
            outcome = FOUND_GONE
        self._forget(holding)
        return outcome

    def _give_up(self, holding: Holding) -> None:
        """Somebody else has put it there anew, or changed it: it is the host's now."""
        self._forget(holding)
        self._note_expired(holding)
        self._recorder.note([holding.own("extend", TAKEN)])

    def _is_held(self, holding: Holding) -> bool:
        return self._held.get(holding.address) is holding

    def _copies(self, addresses: Collection[Address], host: Host) -> dict[str, list[Entry]]:
        """Where on this host they are, too, and not because of the helper, as a reply tells it."""
        copies: list[Entry] = []
        with suppress(KernelError):
            for address in addresses:
                for each in host.places(address):
                    if not self._is_helpers(each):
                        name = self._kernel.name(each.index)
                        place = {"address": str(address), "interface": name}
                        copies.append({**place, "prefix": each.prefix})
        return {"copies": copies[:MAX_LISTED]} if copies else {}

    def _forget(self, holding: Holding) -> None:
        self._announcer.stop(holding.address)
        del self._held[holding.address]
        self._is_watching = False

    def _go_back(self, holding: Holding, old: Holding | None) -> None:
        """It was not set anew: what is on the interface is held until its deadline of before."""
        if old is None:
            self._forget(holding)
        else:
            self._held[old.address] = old

    def renew(self, owner: Owner, deadline: float) -> Reply:
        """What has outlived its deadline is ended, not renewed: if we were stopped meanwhile, the
        coordinator may long have given it up, and now mean only what it took since."""
        now = boottime()
        self.end_over(now)
        life_s = deadline - now
        holdings = [
            each
            for each in self._held.values()
            if each.owner == owner and not each.is_leaving and now < each.deadline
        ]
        is_nearer = any(deadline < each.deadline for each in holdings)
        if not 0 < life_s <= MAX_DEADLINE_S or (is_nearer and not lifetime_s(life_s, life_s)):
            return Refused("expired", _not_within(life_s))
        for holding in holdings:
            if deadline < holding.deadline:
                # Its lifetime in the kernel has to be shortened.
                holding.kernel_until = 0.0
            holding.deadline = deadline
            holding.life_s = life_s
        expired = [address for address, former in self._expired.items() if former == owner]
        host = self.host({*expired, *(each.address for each in holdings)})
        try:
            missing = self._extend(holdings, host)
        finally:
            self._end_unlimited(holdings, "its lifetime could not be set")
        missing += [
            address
            for address, former in self._expired.items()
            if former == owner and address not in missing
        ]
        copies = self._copies([*(each.address for each in holdings), *expired], host)
        return Ok({"missing": [str(each) for each in missing[:MAX_LISTED]], **copies})

    def page(self, owner: Owner, after: Address | None, host: Host) -> Reply:
        """What is held for the owner, and what an earlier life has left for him."""
        listed = {
            place.address: _listed(place.address, interface, place.prefix, None)
            for place in host.all_places()
            if place.address not in self._held
            and self._left_to(place) == owner
            and (interface := self._kernel.name(place.index))
        }
        listed |= {
            each.address: _listed(each.address, each.interface.name, each.prefix, each.deadline)
            for each in self._held.values()
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
        holding = self._held.get(address)
        if holding is None or holding.owner != owner or holding.is_leaving:
            return Refused("foreign", f"{address} is not held for {owner}")
        self._announce_now([holding])
        return Ok({})

    def deadlines(self) -> dict[Owner, float]:
        """The latest of each owner who holds anything."""
        found: dict[Owner, float] = {}
        for each in self._held.values():
            found[each.owner] = max(each.deadline, found.get(each.owner, 0.0))
        return found

    def describe(self) -> list[Entry]:
        """What is held, and what an earlier life has left, or may have, for the record. Raises
        KernelError."""
        ours = [
            (each.address, each.interface.name, each.prefix, each.owner, each.deadline)
            for each in self._held.values()
        ]
        left = [
            (each.address, self._kernel.name(each.index), each.prefix, owner, None)
            for each, owner in self._left_overs(self.host(()))
        ]
        return held([*ours, *left])

    def _left_overs(self, host: Host) -> list[tuple[Found, Owner | None]]:
        """What an earlier life has left and nobody has taken over, and for whom; None: it may have.
        Raises KernelError."""
        return [
            (each, self._left_to(each))
            for each in host.all_places()
            if each.address not in self._held and (self._left_to(each) or self._is_doubtful(each))
        ]

    # --- the clock -------------------------------------------------------------------------

    def _extend(self, holdings: list[Holding], host: Host) -> list[Address]:
        """Give each address the longest lifetime that its deadline allows; those where that failed.
        Raises KernelError.

        An address that may not be extended any more is left as it is, and so is one that is gone
        and would be the first of its network if it were put back. What is the host's now is given
        up.
        """
        taken = [each for each in holdings if _is_taken(each, host.places(each.address))]
        for each in taken:
            self._give_up(each)
        holdings = [each for each in holdings if each not in taken]
        left_off = self._left_off(holdings, host)
        for each in left_off:
            each.extend_at = math.inf
        holdings = [each for each in holdings if each not in left_off]
        failed = self._set_lifetimes(holdings, host)
        told = []
        for holding in holdings:
            error = failed.get(holding.address)
            failure = error.reason if error is not None else ""
            if failure and failure != holding.failure:
                told.append(holding.own("extend", f"failed: {failure}"))
            holding.failure = failure
        self._recorder.note(told)
        missing = self._read_back(holdings, host)
        return [each.address for each in (*taken, *left_off, *missing)]

    def _left_off(self, holdings: list[Holding], host: Host) -> list[Holding]:
        """Those that are not put back."""
        return [
            each
            for each in holdings
            if host.would_take_others_along(each.address, each.prefix, each.interface)
            and not any(each.is_at(place) for place in host.places(each.address))
        ]

    def _read_back(self, holdings: list[Holding], host: Host) -> list[Holding]:
        """Those that are not on their interface as the helper has put them there, as the kernel
        tells it. Announces those that are new there."""
        host.has_changed()
        missing = []
        new = []
        for holding in holdings:
            places = host.places(holding.address)
            place = next((each for each in places if holding.is_in_way(each)), None)
            if place is None:
                missing.append(holding)
            elif holding.is_it(place):
                if place.created != holding.created_before:
                    # Also what has gone since it was looked for, and was put there again.
                    if holding.created_before is not None:
                        told = holding.own("extend", "somebody had removed it: put back")
                        self._recorder.note([told])
                    new.append(holding)
                holding.created = holding.created_before = place.created
            elif holding.created_before is None and place.valid_s is None:
                # It is new, and ours. The kernel should never do this.
                host.delete(place.index, place.address, place.prefix)
                missing.append(holding)
                self._recorder.note([holding.own("extend", "had no lifetime: removed")])
            else:
                self._give_up(holding)
                missing.append(holding)
        self._announce_now(new)
        return missing

    def _announce_now(self, holdings: list[Holding]) -> None:
        for start in range(0, len(holdings), MAX_TOGETHER):
            self._tell_alive()
            with act_within(ACT_WITHIN_S):
                now = boottime()
                for holding in holdings[start : start + MAX_TOGETHER]:
                    if now < holding.deadline:
                        self._announcer.start(holding.interface.name, holding.address, now)

    def _set_lifetimes(self, holdings: list[Holding], host: Host) -> dict[Address, KernelError]:
        """In the kernel, each as long as its deadline allows; what went wrong. Raises KernelError:
        nothing was done."""
        failed: dict[Address, KernelError] = {}
        there = {
            each.address for each in holdings if any(map(each.is_at, host.places(each.address)))
        }
        for start in range(0, len(holdings), MAX_TOGETHER):
            together = holdings[start : start + MAX_TOGETHER]
            self._tell_alive()
            with act_within(ACT_WITHIN_S):
                now = boottime()
                assignments = []
                for holding in together:
                    lifetime = lifetime_s(holding.deadline - now, holding.life_s)
                    if lifetime and now + lifetime - EARLY_S > holding.kernel_until:
                        is_there = holding.address in there
                        assignments.append(holding.assignment(lifetime, is_there=is_there))
                try:
                    failed |= self._kernel.put(assignments)
                except KernelError as error:
                    failed |= {each.address: error for each in assignments}
            for each in assignments:
                if each.address in failed:
                    continue
                holding = self._held[each.address]
                holding.kernel_until = now + each.lifetime_s - EARLY_S
                holding.created = None
            for holding in together:
                holding.plan_extension(now)
        return failed

    def next_at(self) -> float:
        """When there is something to do if nothing is asked."""
        times = [self._announcer.next_at()]
        for holding in self._held.values():
            times.append(max(holding.deadline, holding.retry_at))
            if not holding.is_leaving:
                times.append(holding.extend_at)
            if holding.rivals.seen:
                times.append(holding.rivals.answer_at)
        return min((each for each in times if each is not None), default=math.inf)

    def do_what_is_due(self) -> None:
        now = boottime()
        self.end_over(now)
        due = [
            each for each in self._held.values() if not each.is_leaving and now >= each.extend_at
        ]
        try:
            self._extend(due, self.host({each.address for each in due}))
        except KernelError:
            for each in due:
                each.extend_at = now + EXTEND_RETRY_S
        announce_at = self._announcer.next_at()
        # In a flood we come here thousands of times a second, and whoever holds the helper up while
        # its alarm is set ends it: not for nothing.
        if announce_at is not None and now >= announce_at:
            self._announce_due()
        self._defend()
        if not self._is_watching:
            self.conflicts.watch(self._held)
            self._is_watching = True

    def _announce_due(self) -> None:
        with act_within(ACT_WITHIN_S):
            now = boottime()
            for holding in self._held.values():
                if now >= holding.deadline:
                    self._announcer.stop(holding.address)
            self._announcer.run(now, MAX_TOGETHER)

    def end_over(self, now: float, why: str = "the deadline has passed") -> None:
        """Remove what has outlived its deadline."""
        over = [
            each for each in self._held.values() if now >= each.deadline and now >= each.retry_at
        ]
        self._end(over, why)

    def draw_deadlines_nearer(self, jump_s: float, why: str) -> None:
        """The host was away for so long without any clock that deadlines are counted in."""
        for holding in self._held.values():
            holding.deadline -= jump_s
            # Its lifetime in the kernel has to be shortened.
            holding.kernel_until = 0.0
        self.end_over(boottime(), why)
        left = [each for each in self._held.values() if not each.is_leaving]
        with suppress(KernelError):
            self._extend(left, self.host({each.address for each in left}))
        self._end_unlimited(left, why)
        with suppress(KernelError):
            self._remove_left_overs(why)

    def _remove_left_overs(self, why: str) -> None:
        """Their deadlines came nearer, too, and nobody knows them. What is in doubt stays. Raises
        KernelError if the kernel does not tell what is there."""
        host = self.host(())
        for place, owner in self._left_overs(host):
            if owner is None:
                continue
            name = self._kernel.name(place.index)
            entry = own("expire", place.address, name, owner, f"{why}: removing")
            self._recorder.note([entry])
            try:
                was_there = host.delete(place.index, place.address, place.prefix)
            except KernelError as error:
                outcome = f"cannot remove it: {error.reason}"
            else:
                outcome = REMOVED if was_there else FOUND_GONE
            self._recorder.note([{**entry, "outcome": outcome}])

    def _end_unlimited(self, holdings: list[Holding], why: str) -> None:
        """Those whose deadline came nearer, and whose lifetime did not: none was short enough, or
        setting it failed."""
        self._end([each for each in holdings if self._is_held(each) and not each.kernel_until], why)

    def _end(self, holdings: Collection[Holding], why: str) -> None:
        host = self.host({each.address for each in holdings})
        for holding in holdings:
            self._recorder.note([holding.own("expire", f"{why}: removing")])
            try:
                outcome = self._take_off(holding, host)
            except KernelError as error:
                holding.retry_at = boottime() + RETRY_REMOVAL_S
                self._recorder.note([holding.own("expire", f"cannot remove it: {error.reason}")])
            else:
                self._note_expired(holding)
                self._recorder.note([holding.own("expire", outcome)])

    def _note_expired(self, holding: Holding) -> None:
        """For its owner, until that one knows it; as many of each user as he could hold at most."""
        uid, most = holding.owner.uid, self.policy.max_addresses
        if len(self._expired) >= most:
            of_user = [address for address, owner in self._expired.items() if owner.uid == uid]
            for address in of_user[: max(0, len(of_user) + 1 - most)]:
                del self._expired[address]
        self._expired[holding.address] = holding.owner

    # --- other holders on the link -----------------------------------------------------------

    def see_links(self) -> None:
        """An interface has come back: its neighbours are told anew."""
        changes = self.links.read()
        self._announcer.start_again(boottime(), None if changes.is_lost else changes.names)

    def hear(self) -> None:
        """Note who else has an address of ours on its link. Before all interfaces are known nobody
        can be told from this host itself, and is not: whoever it is claims it again."""
        sightings = self.conflicts.read()
        if sightings:
            # Of this host, too, changes come first.
            self.see_links()
        ours = self.links.mac_addresses()
        if ours is None:
            return
        for sighting in sightings:
            holding = self._held.get(sighting.address)
            if (
                holding is not None
                and not holding.is_leaving
                and holding.interface.name == sighting.interface
                and sighting.mac not in ours
            ):
                holding.rivals.seen += 1
                holding.rivals.mac = sighting.mac

    def _defend(self) -> None:
        """Answer other holders for as long as an address is ours: RFC 5227 section 2.4 (c)."""
        now = boottime()
        attacked = [
            each
            for each in self._held.values()
            if each.rivals.seen and now >= each.rivals.answer_at
        ][:MAX_TOGETHER]
        if not attacked:
            return
        self._recorder.note(each.conflict() for each in attacked)
        with act_within(ACT_WITHIN_S):
            now = boottime()
            for holding in attacked:
                holding.rivals.seen = 0
                holding.rivals.answer_at = now + DEFEND_INTERVAL_S
                if now < holding.deadline:
                    self._announcer.defend(holding.address)


def _is_taken(holding: Holding, places: Collection[Found]) -> bool:
    """Whether another one is in its place."""
    return any(holding.is_in_way(each) and not holding.is_it(each) for each in places)


def _listed(address: Address, interface: str, prefix: int, deadline: float | None) -> Entry:
    """An address as the reply to `list` tells it."""
    return {
        "address": str(address),
        "interface": interface,
        "prefix": prefix,
        "deadline_ns": round(deadline * 1e9) if deadline is not None else None,
    }


def _order(address: Address) -> tuple[int, int]:
    return address.version, int(address)


def primary(address: Address, prefix: int, interface: str) -> str:
    """Why an address is refused whose removal would remove others."""
    return (
        f"{address}/{prefix} would be the first of its network on {interface}, and removing it"
        " would remove all others: set the sysctl"
        f" net.ipv4.conf.{interface}.promote_secondaries to 1"
    )


def _not_within(life_s: float) -> str:
    least_s = last_extension_s(life_s)
    return (
        f"the deadline is {life_s:.3f} s away, and not from {least_s:.3f} to {MAX_DEADLINE_S:.0f} s"
    )
