"""What is on the interfaces because of the helper, for whom, and until when.

Keeps the promise of helper/PROTOCOL.md: off the interface at most 0.2 s after the deadline. What
may be done is policy.py's to say, how it is done addresses.py's. Talks to nobody; what it does of
itself is on record.
"""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import chain, islice

from yaim_helper.addresses import (
    ACT_WITHIN_S,
    EARLY_S,
    MAX_TOGETHER,
    Assignment,
    Interface,
    Kernel,
    KernelError,
    act_within,
    last_extension_s,
    lifetime_s,
)
from yaim_helper.announce import Announcer
from yaim_helper.audit import AuditLog
from yaim_helper.clock import boottime
from yaim_helper.conflicts import Conflicts
from yaim_helper.entries import Entry, Owner, conflict, held, own
from yaim_helper.links import Links
from yaim_helper.netlink import Found
from yaim_helper.policy import Policy, edge
from yaim_helper.protocol import MAX_LISTED, Add, Address, Ok, Refused, Reply

MAX_DEADLINE_S = 3600.0
EXTEND_BEFORE_S = 0.5
"""How long before the kernel would remove an address its lifetime is extended, if it may be."""
WOKEN_WITHIN_S = 0.02
"""How late the clock may wake the helper for the last extension, which is over a moment after."""
EXTEND_RETRY_S = 0.1
"""An extension by less is not worth making; after a failed one it is tried again."""
RETRY_REMOVAL_S = 0.5
DEFEND_INTERVAL_S = 10.0
"""From one answer to another holder of an address to the next (RFC 5227 section 2.4)."""
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
    """When the kernel says it was put there; None: it has not been read back yet."""
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

    def assignment(self, lifetime: int) -> Assignment:
        return Assignment(self.interface, self.address, self.prefix, self.label, lifetime)

    def is_at(self, place: Found) -> bool:
        return (place.index, place.prefix) == (self.interface.index, self.prefix)

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

    def __init__(self, kernel: Kernel, addresses: Collection[Address]) -> None:
        self._kernel = kernel
        self._wanted: Collection[Address] | None = addresses
        """What `places` may be asked for; None: everything."""
        self._places: dict[Address, list[Found]] | None = None
        self._own: list[tuple[int, int, IPv4Network | IPv6Network]] | None = None
        """Of the addresses that are not the helper's: interface, prefix length, network."""
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
            self._places = {}
            for each in self._kernel.addresses(self._wanted):
                self._places.setdefault(each.address, []).append(each)
        return self._places

    def has_put(self, place: Found) -> None:
        self._all().setdefault(place.address, []).append(place)

    def delete(self, place: Found) -> bool:
        """Whether it was there. Raises KernelError."""
        was_there = self._kernel.delete(place.index, place.address, place.prefix)
        self._all()[place.address] = [
            each
            for each in self.places(place.address)
            if (each.index, each.prefix) != (place.index, place.prefix)
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
                if not each.is_left_over
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

    def has_index(self, name: str, index: int) -> bool:
        try:
            return self.interface(name).index == index
        except KernelError:
            return False

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

    def __init__(self, policy: Policy, audit: AuditLog, tell_alive: Callable[[], None]) -> None:
        """What takes long tells meanwhile that it is not stuck."""
        self.policy = policy
        self._tell_alive = tell_alive
        self._audit = audit
        self._kernel = Kernel()
        self._announcer = Announcer(self._kernel)
        self.conflicts = Conflicts()
        self.links = Links()
        self._is_watching = True
        """Whether the addresses that are watched for conflicts are those that are held."""
        self._held: dict[Address, Holding] = {}
        self._expired: dict[Address, Owner] = {}
        """What was removed at its deadline, and the owner that does not know it yet."""
        self._earlier = audit.owners
        """For whom an earlier life held what it has left, by its text, as far as that is known."""

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
        return Host(self._kernel, addresses)

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
        if add.address in host.waiting:
            self.put_waiting(host)
        places = host.places(add.address)
        old = self._held.get(add.address)
        if old is not None:
            if old.owner != owner:
                return Refused("foreign", f"{add.address} is held for {old.owner}")
            ours = [each for each in places if old.is_at(each)]
        else:
            ours = [each for each in places if self._is_left_to(owner, each, host)]
            if len(self._held) >= self.policy.max_addresses:
                # What cannot be put there makes room.
                self.put_waiting(host)
            if len(self._held) >= self.policy.max_addresses:
                return Refused("limit", f"there are {len(self._held)} addresses already")
        holding = Holding(add.address, interface, add.prefix, add.label, owner, deadline, life_s)
        theirs = [each for each in places if each not in ours]
        if theirs and (old is None or any(holding.is_at(each) for each in theirs)):
            return Refused("foreign", f"{add.address} is on this host already")
        if self._would_take_others_along(add, interface, host):
            return Refused("primary", primary(add.address, add.prefix, interface.name))
        if old is not None:
            holding.rivals = old.rivals
            if (old.interface.index, old.prefix) == (interface.index, add.prefix):
                holding.created = old.created
        for each in ours:
            if not holding.is_at(each):
                host.delete(each)
        self._held[add.address] = holding
        self._is_watching = False
        self._expired.pop(add.address, None)
        self._earlier.pop(str(add.address), None)
        host.waiting[add.address] = add, holding, old
        return Ok({"was": "present" if ours else "absent"})

    def put_waiting(self, host: Host) -> None:
        """Before anything that may depend on what was added before."""
        waiting = list(host.waiting.values())
        host.waiting.clear()
        failed = self._set_lifetimes([holding for _, holding, _ in waiting])
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
            missing = self._read_back(list(added))
        except KernelError as error:
            for holding, number in added.items():
                host.failed[number] = error
                with suppress(KernelError):
                    self._take_off(holding)
            return host.failed
        for holding in missing:
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
            host.has_changed()
            was_there = self._take_off(holding)
        else:
            left = [each for each in host.places(address) if self._is_left_to(owner, each, host)]
            was_there = len([each for each in left if host.delete(each)]) > 0
        return Ok({"was": "present" if was_there else "absent"})

    def _take_off(self, holding: Holding) -> bool:
        """Remove the address; whether it was there. If that fails it stays on record, leaving."""
        holding.is_leaving = True
        holding.rivals.seen = 0
        self._announcer.stop(holding.address)
        was_there = self._kernel.delete(holding.interface.index, holding.address, holding.prefix)
        self._forget(holding)
        return was_there

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
        try:
            missing = self._extend(holdings)
        finally:
            self._end_unlimited(holdings, "its lifetime could not be set")
        missing += [
            address
            for address, former in self._expired.items()
            if former == owner and address not in missing
        ]
        return Ok({"missing": [str(address) for address in missing[:MAX_LISTED]]})

    def page(self, owner: Owner, after: Address | None, host: Host) -> Reply:
        """What is held for the owner, and what an earlier life left, which is held for none."""
        listed = {
            place.address: _listed(place.address, interface, place.prefix, None)
            for place in host.all_places()
            if place.address not in self._held
            and self._is_left_to(owner, place, host)
            and (interface := self._left_over_on(place, host))
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
        """What is held, and what an earlier life left, for the record."""
        ours = [
            (each.address, each.interface.name, each.prefix, each.owner, each.deadline)
            for each in self._held.values()
        ]
        left = [
            (each.address, interface, each.prefix, self._earlier.get(str(each.address)), None)
            for each, interface in self._left_overs(self.host(()))
        ]
        return held([*ours, *left])

    def _left_overs(self, host: Host) -> list[tuple[Found, str]]:
        """What an earlier life left and nobody has taken over, and on which interface; nothing if
        the kernel does not tell."""
        try:
            places = list(host.all_places())
        except KernelError:
            return []
        return [
            (each, interface)
            for each in places
            if each.address not in self._held and (interface := self._left_over_on(each, host))
        ]

    def _is_left_to(self, owner: Owner, place: Found, host: Host) -> bool:
        """Whether an earlier life put it there, and for this owner or for nobody knows whom."""
        is_his = self._earlier.get(str(place.address), owner) == owner
        return is_his and self._left_over_on(place, host) is not None

    def _left_over_on(self, place: Found, host: Host) -> str | None:
        """The interface, if an earlier life of the helper put it there: it looks it, and may be
        there."""
        if not place.is_left_over:
            return None
        return next(
            (
                rule.interface
                for rule in self.policy.rules
                if rule.allows(rule.interface, place.address, place.prefix)
                and host.has_index(rule.interface, place.index)
            ),
            None,
        )

    # --- the clock -------------------------------------------------------------------------

    def _extend(self, holdings: list[Holding]) -> list[Address]:
        """Give each address the longest lifetime that its deadline allows; those where that failed.
        Raises KernelError.

        An address that may not be extended any more is left as it is, and so is one that is gone
        and would be the first of its network if it were put back.
        """
        left_off = self._left_off(holdings)
        for each in left_off:
            each.extend_at = math.inf
        holdings = [each for each in holdings if each not in left_off]
        failed = self._set_lifetimes(holdings)
        told = []
        for holding in holdings:
            error = failed.get(holding.address)
            failure = error.reason if error is not None else ""
            if failure and failure != holding.failure:
                told.append(holding.own("extend", f"failed: {failure}"))
            holding.failure = failure
        self._audit.note(told)
        return [holding.address for holding in (*left_off, *self._read_back(holdings))]

    def _left_off(self, holdings: list[Holding]) -> list[Holding]:
        """Those that are not put back."""
        host = self.host(())
        return [
            each
            for each in holdings
            if host.would_take_others_along(each.address, each.prefix, each.interface)
            and not any(each.is_at(place) for place in host.places(each.address))
        ]

    def _read_back(self, holdings: list[Holding]) -> list[Holding]:
        """Those that are not on their interface with a finite lifetime, as the kernel tells it.
        Announces those that are new there."""
        places = self._kernel.addresses(each.address for each in holdings) if holdings else []
        there = {
            holding.address: place
            for place in places
            if (holding := self._held.get(place.address)) and holding.is_at(place)
        }
        missing = []
        new = []
        for holding in holdings:
            place = there.get(holding.address)
            if place is None:
                missing.append(holding)
            elif place.valid_s is None:
                # The kernel should never do this.
                self._kernel.delete(place.index, place.address, place.prefix)
                missing.append(holding)
                self._audit.note([holding.own("extend", "had no lifetime: removed")])
            elif place.created != holding.created:
                if holding.created is not None:
                    self._audit.note([holding.own("extend", "somebody had removed it: put back")])
                holding.created = place.created
                new.append(holding)
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

    def _set_lifetimes(self, holdings: list[Holding]) -> dict[Address, KernelError]:
        """In the kernel, each as long as its deadline allows; what went wrong."""
        failed: dict[Address, KernelError] = {}
        for start in range(0, len(holdings), MAX_TOGETHER):
            together = holdings[start : start + MAX_TOGETHER]
            self._tell_alive()
            with act_within(ACT_WITHIN_S):
                now = boottime()
                assignments = []
                for holding in together:
                    lifetime = lifetime_s(holding.deadline - now, holding.life_s)
                    if lifetime and now + lifetime - EARLY_S > holding.kernel_until:
                        assignments.append(holding.assignment(lifetime))
                try:
                    failed |= self._kernel.put(assignments)
                except KernelError as error:
                    failed |= {each.address: error for each in assignments}
            for each in assignments:
                if each.address not in failed:
                    until = now + each.lifetime_s - EARLY_S
                    self._held[each.address].kernel_until = until
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
            self._extend(due)
        except KernelError:
            for each in due:
                each.extend_at = now + EXTEND_RETRY_S
        with act_within(ACT_WITHIN_S):
            now = boottime()
            for holding in self._held.values():
                if now >= holding.deadline:
                    self._announcer.stop(holding.address)
            self._announcer.run(now, MAX_TOGETHER)
        self._defend()
        if not self._is_watching:
            self.conflicts.watch(self._held)
            self._is_watching = True

    def end_over(self, now: float, why: str = "the deadline has passed") -> None:
        """Remove what has outlived its deadline."""
        over = [
            each for each in self._held.values() if now >= each.deadline and now >= each.retry_at
        ]
        for holding in over:
            self._end(holding, why)

    def draw_deadlines_nearer(self, jump_s: float, why: str) -> None:
        """The host was away for so long without any clock that deadlines are counted in."""
        for holding in self._held.values():
            holding.deadline -= jump_s
            # Its lifetime in the kernel has to be shortened.
            holding.kernel_until = 0.0
        self.end_over(boottime(), why)
        left = [each for each in self._held.values() if not each.is_leaving]
        with suppress(KernelError):
            self._extend(left)
        self._end_unlimited(left, why)
        self._remove_left_overs(why)

    def _remove_left_overs(self, why: str) -> None:
        """Their deadlines came nearer, too, and nobody knows them."""
        host = self.host(())
        for place, interface in self._left_overs(host):
            owner = self._earlier.get(str(place.address))
            entry = own("expire", place.address, interface, owner, f"{why}: removing")
            self._audit.note([entry])
            try:
                was_there = host.delete(place)
            except KernelError as error:
                outcome = f"cannot remove it: {error.reason}"
            else:
                outcome = "removed" if was_there else "the kernel had removed it"
            self._audit.note([{**entry, "outcome": outcome}])

    def _end_unlimited(self, holdings: list[Holding], why: str) -> None:
        """Those whose deadline came nearer, and whose lifetime did not: none was short enough, or
        setting it failed."""
        for holding in holdings:
            if not holding.kernel_until:
                self._end(holding, why)

    def _end(self, holding: Holding, why: str) -> None:
        self._audit.note([holding.own("expire", f"{why}: removing")])
        try:
            was_there = self._take_off(holding)
        except KernelError as error:
            holding.retry_at = boottime() + RETRY_REMOVAL_S
            self._audit.note([holding.own("expire", f"cannot remove it: {error.reason}")])
        else:
            self._note_expired(holding)
            outcome = "removed" if was_there else "the kernel had removed it"
            self._audit.note([holding.own("expire", outcome)])

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
        """Note who else has an address of ours on its link."""
        sightings = self.conflicts.read()
        ours = self._kernel.mac_addresses() if sightings else set()
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
        self._audit.note(each.conflict() for each in attacked)
        with act_within(ACT_WITHIN_S):
            now = boottime()
            for holding in attacked:
                holding.rivals.seen = 0
                holding.rivals.answer_at = now + DEFEND_INTERVAL_S
                if now < holding.deadline:
                    self._announcer.defend(holding.address)


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
