"""The invariants, looked at whenever something could break them.

A host is excused for a while, and told apart in the count, where yaim promises nothing: its virtual
machine was paused, somebody revoked its lease by hand, or its kernel held its routing lock until
its lease had ended. When all leases are lost at once, only an address is excused that was taken by
a node that could not know it.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from tests.sim.helper import INTERFACES
from yaim.core.actions import (
    Action,
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    ClearConnections,
    End,
    ReleaseMarks,
    RemoveAddress,
    RenewAddresses,
    Report,
    WithdrawNode,
)
from yaim.core.deadline import FENCE_GRACE_S, HELPER_GRACE_S
from yaim.core.events import AddressGone, HelperReady, RestartRequested
from yaim.core.facts import KNOWS_CONTROL, Facts
from yaim.core.model import (
    Address,
    Advertisement,
    Boottime,
    ClusterView,
    Mark,
    Node,
    NodeName,
    PoolEntry,
    present_on,
)
from yaim.core.settings import Rebalance
from yaim.core.state.addresses import Phase

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.world import World


class Broken(AssertionError):
    """An invariant is."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


NEVER_TWO = "never two"
NOT_FENCED = "fenced before it is put on the interface"
TOO_LONG = "a fence ends with the deadline and its grace"
NEEDLESSLY_MUTED = "what is held, renewed and not to go answers"
MARK_GONE = "no address without a mark"
NO_DEADLINE = "no add or renewal without a live deadline"
NO_MARK = "no add without a mark"
NO_RIGHT = "no mark for a node that does not offer to hold it"
EARLY_RELEASE = "no release before a confirmed removal"
CRASHED = "the core goes on"
NOT_THE_SAME = "replay gives the same actions"
NOT_SETTLED = "every address held and even in time"
SPINS = "a core has its rests"
AFTER_END = "nothing is decided after the end"
RESTLESS = "no move left to make"
NOT_BACK = "what was held is back where it was after all leases were lost"
STILL_WAITING = "a wait has its end"
NOT_KEPT = "what is held stays while its entry is wrong"
NOT_GIVEN_UP = "who cannot serve gives up all of it, also when etcd is full"
NOT_HANDED_OVER = "who cannot serve hands over"
ELSEWHERE = "no add of what a live node has for another reason"
NOT_TOLD = "a node says what it has for another reason"
NOT_TRIED = "what every node refused is taken when one does not any more"
STORM = "what is refused is tried every few seconds and not more often"
NOT_AGREED = "nodes of different versions come to the same answer"
NOT_OURS = "a node keeps its lease, whatever is put under its name"
COVERED = "nobody has an address whose mark was covered, until that is deleted by hand"
NOT_RESET = "connections are reset when an address goes on purpose, and else never"
NOT_CLEARED = "connections are cleared once another node holds the address, and not before"
LEVELLED = "what moves only to be level stays as long as its holder puts that off"
PAUSED = "while all is paused nothing moves that can stay"
NOT_DRAINED = "a drained node holds nothing that another could, and all nodes say so"
ECHOED = "who says that it has done what was asked for has done it"
NOT_MOVED = "what was moved or pinned is where it was to go, as long as that can hold it"
NOT_IN_SHARES = "nodes hold what their weights give them"
NOT_TAKEN = "what was elsewhere for another reason is taken when it has gone"


WINDOW_HEARD_WITHIN_S = 0.01
BARE_LOOK_S = 0.02
"""How soon it is looked again at what a flush of the ruleset has laid bare."""
MADE_ANEW_WITHIN_S = 0.002
HEARD_WITHIN_S = 10.0
"""After a new advertisement nobody hands anything over any more because of the one before: by then
a read has told of it, and what was sent before has come or never will."""
ROUNDING_S = 1e-6
MAX_STEPS = 50_000
"""The most steps in one schedule; a few hundred are usual, some thousands can be."""


class Checker:
    def __init__(self, world: "World") -> None:
        self._world = world
        self.counts: Counter[str] = Counter()
        self.resets: Counter[str] = Counter()
        """Host to how many of its connections were reset."""
        """How much there was of each thing that is checked, and of each that is excused."""
        self._on: dict[Address, list[Host]] = {}
        """Where each address answers."""
        self._hastily_taken: dict[Address, float] = {}
        """The addresses that a node took which did not know of a loss of leases; until when others
        may have them."""
        self._made: dict[Address, dict[NodeName, float]] = {}
        """Who has marked each address, and when last."""
        self._said: dict[tuple[NodeName, Address], float] = {}
        """What nodes say in etcd that they have for another reason, and since when."""
        self._nodes: Mapping[NodeName, Node] = {}
        self._advertised_before: dict[NodeName, list[tuple[float, Node]]] = {}
        """The advertisements that stand in etcd, and those before, with when each was replaced."""
        self._elsewhere_since: dict[tuple[NodeName, Address], float] = {}
        """Holder and address, and since when it counts on another node to hold it."""
        self.losses_until = 0.0
        """Until then a loss of all leases is not over."""
        self.gaps: list[float] = []
        """How long addresses answered nowhere before they answered again, one after the other."""
        self._gone_at: dict[Address, float] = {}
        self.moves = 0
        """How often an address has begun to answer somewhere, or has ceased to."""

    # --- in the kernel ---------------------------------------------------------------------

    def appeared(self, host: "Host", address: Address) -> None:
        self.moves += 1
        if (gone_at := self._gone_at.pop(address, None)) is not None:
            self.gaps.append(self._world.timeline.now - gone_at)
        on = self._on.setdefault(address, [])
        on.append(host)
        if len(on) > 1:
            self._check_alone(address)
        for other in self._world.hosts.values():
            if other not in on and address in other.kernel.ours:
                self.counts["overlap of muted addresses on interfaces"] += 1

    def disappeared(self, host: "Host", address: Address) -> None:
        self.moves += 1
        self._on[address].remove(host)
        if not self._on[address]:
            self._gone_at[address] = self._world.timeline.now

    def holders(self) -> dict[Address, list[NodeName]]:
        return {address: [host.name for host in on] for address, on in self._on.items() if on}

    def _check_alone(self, address: Address) -> None:
        on = self._on[address]
        if len(on) < 2:
            return
        now = self._world.timeline.now
        until = max(host.excused_until for host in on)
        until = max(until, self._hastily_taken.get(address, 0.0))
        held_up_until = max(self._held_up_until(host, address) for host in on)
        if until <= now < held_up_until:
            self.counts["overlap, held up by a kernel"] += 1
        until = max(until, held_up_until)
        if until <= now and any(host.kernel.is_bare_at(address) for host in on):
            self.counts["overlap after a flush"] += 1
            until = now + BARE_LOOK_S
        if now < self.losses_until:
            self.counts["overlap after a loss"] += 1
        if until <= now:
            where = " and ".join(host.name for host in on)
            raise Broken(NEVER_TWO, f"{address} answers on {where}")
        self.counts["excused overlap"] += 1
        if until == inf:
            # A pause without an end yet: look again, it will have one.
            until = now + 1.0
        self._world.timeline.later(until - now + 1e-6, lambda: self._check_alone(address))

    @staticmethod
    def _held_up_until(host: "Host", address: Address) -> float:
        """Until when it may answer, because the kernel can take nothing off its interface."""
        return 0.0 if host.kernel.ruleset.is_fenced(address) else host.held_up_until

    def fence_set(self, host: "Host", end: float) -> None:
        """Until then something answers, on the host's clock."""
        if end != -inf and end > host.last_deadline + FENCE_GRACE_S + ROUNDING_S:
            late_s = end - host.last_deadline
            raise Broken(TOO_LONG, f"{host.name}: {late_s:.3f} s after the last deadline")

    def not_renewed(self, host: "Host", address: Address, deadline: float) -> None:
        """The helper has renewed, and this is the address's own deadline, which was not moved if
        it is to go."""
        end = host.kernel.ruleset.ends_at(address)
        if end != inf and end > deadline + FENCE_GRACE_S + ROUNDING_S:
            raise Broken(TOO_LONG, f"{address} on {host.name}: {end - deadline:.3f} s too long")

    def put_with_fence(self, host: "Host", address: Address) -> None:
        """A helper that has a fence has put it there."""
        if not host.kernel.ruleset.is_fenced(address) and not host.kernel.is_bare:
            raise Broken(NOT_FENCED, f"{address} on {host.name}")

    def muted(self, host: "Host", address: Address) -> None:
        """It answers no more, and is on the interface. Making the fence anew takes a moment."""

        def look() -> None:
            self.renewed(host, address)

        self.counts["muted on the interface"] += 1
        host.deliver(MADE_ANEW_WITHIN_S, look)

    def added(self, host: "Host", address: Address) -> None:
        """The helper tells that it has added it."""
        self.counts["added"] += 1
        self.renewed(host, address)

    def renewed(self, host: "Host", address: Address) -> None:
        """The helper has just set until when it answers; or it was muted a moment ago."""
        helper = host.helper
        if helper is None or host.is_helper_frozen or address not in host.kernel.ours:
            return
        if helper.is_sure_to_answer(address) and not host.kernel.ruleset.answers_all(address):
            raise Broken(NEEDLESSLY_MUTED, f"{address} on {host.name}")

    # --- connections -----------------------------------------------------------------------

    def reset(self, host: "Host", address: Address) -> None:
        """Some clients here get a reset. Another node has the address only in times that are
        excused."""
        self.counts["connections reset"] += 1
        self.resets[host.name] += 1
        is_elsewhere = any(each is not host for each in self._on.get(address, ()))
        self.counts["connections reset in an overlap"] += is_elsewhere

    def _check_reset(self, host: "Host", remove: RemoveAddress) -> None:
        """Written down here once more: on purpose is what goes while its lease lives, and nobody
        else has claimed it, from where it is known to be."""
        before, state = host.before, host.state
        view, address = state.cluster.view if state else None, remove.address
        if state is None or before is None:
            return
        lease, mark = state.lease.current, view.marks.get(address) if view is not None else None
        is_live = lease is not None and host.clock() < lease.deadline
        is_others = mark is not None and (mark.holder, mark.lease) != (
            host.name,
            lease and lease.id,
        )
        is_others = is_others or (view is not None and address in view.stray_marks)
        is_looking = before.addresses.look.is_pending or before.ending.stopping is not None
        is_left = not is_looking and any(isinstance(e, RestartRequested) for e in host.events)
        node = view.nodes.get(host.name) if view is not None else None
        is_told = node is not None and lease is not None and node.lease == lease.id
        is_on_purpose = is_live and is_told and not is_others and not is_left
        is_able = state.settings.resets_connections and host.can_reset
        known = before.addresses.known.get(address)
        is_news = any(isinstance(each, HelperReady | AddressGone) for each in host.events)
        was_up = known is not None and known.phase is Phase.UP and not is_news
        is_up = was_up and address in host.kernel.answering
        self.counts["removals with reset"] += remove.resets
        if remove.resets and not (is_on_purpose and is_able):
            raise Broken(NOT_RESET, f"{host.name} resets {address}")
        if is_up and is_on_purpose and is_able and not remove.resets:
            raise Broken(NOT_RESET, f"{host.name} removes {address} without a reset")
        lives = lease is not None and self._world.timeline.now < self._world.etcd.expires_at(
            lease.id
        )
        if remove.resets and not lives and not self._is_excused(host):
            raise Broken(NOT_RESET, f"{host.name} resets {address} without a lease")

    def _check_clear(self, host: "Host", address: Address) -> None:
        if host.state is None or not host.state.settings.resets_connections or not host.can_reset:
            raise Broken(NOT_CLEARED, f"{host.name} clears {address}, and is not to")
        if (where := self._why_unsure(host, address)) is not None and not self._is_excused(host):
            raise Broken(NOT_CLEARED, f"{host.name} clears {address}, {where}")
        made = self._made.get(address, {})
        if max(made.values(), default=0.0) <= made.get(host.name, 0.0):
            raise Broken(NOT_CLEARED, f"{host.name} clears {address}, and nobody else has taken it")

    def check_nothing_is_left(self) -> None:
        """All is calm: nobody has been started anew, or could not end what it was to."""
        for host in self._world.hosts.values():
            if not host.settings.resets_connections or not host.can_reset:
                continue
            for address in sorted(host.kernel.connections - host.kernel.ours.keys()):
                self.counts["connections left"] += 1
                if self._on.get(address):
                    raise Broken(NOT_CLEARED, f"{host.name} has connections of {address}")

    # --- in etcd ---------------------------------------------------------------------------

    def mark_made(self, mark: Mark) -> None:
        """Whoever gets it is advertised as able to hold the address, under the same lease. What its
        pool entry says may have been changed in this instant. Who hands it over may not have heard
        yet that the heir is not able any more."""
        if mark.holder not in self._world.hosts:
            return
        self._made.setdefault(mark.address, {})[mark.holder] = self._world.timeline.now
        host = self._world.hosts[mark.holder]
        if self._world.timeline.now < host.hasty_until:
            self._hastily_taken[mark.address] = host.hasty_until
        elif self._world.timeline.now < self.losses_until:
            self.counts["marks after a loss"] += 1
        node = self._world.etcd.nodes.get(mark.holder)
        if node is not None and mark.address in node.advertisement.refused:
            self.counts["tried although it was refused"] += 1
            willing = replace(node.advertisement, refused=frozenset[Address]())
            node = replace(node, advertisement=willing)
        has_right = node is not None and node.lease == mark.lease
        if has_right and mark.version > 1 and not _offers(node, mark.address):
            self.counts["handed to who has just ceased to be able"] += 1
            long_ago = self._world.timeline.now - HEARD_WITHIN_S
            before = self._advertised_before.get(mark.holder, [])
            has_right = any(
                at > long_ago and each.lease == mark.lease and _offers(each, mark.address)
                for at, each in before
            )
        elif has_right:
            has_right = _offers(node, mark.address)
        if not has_right:
            raise Broken(NO_RIGHT, f"{mark.holder} gets the mark of {mark.address}: it is {node}")

    def etcd_changed(self, nodes: Mapping[NodeName, Node]) -> None:
        now = self._world.timeline.now
        for name, node in self._nodes.items():
            if nodes.get(name) is not node:
                before = self._advertised_before.setdefault(name, [])
                before[:] = [each for each in before if each[0] > now - HEARD_WITHIN_S]
                before.append((now, node))
        self._nodes = nodes
        said = [(name, a) for name, node in nodes.items() for a in node.advertisement.present]
        self._said = {each: self._said.get(each, now) for each in said}

    def mark_deleted(self, mark: Mark) -> None:
        """Whoever held the mark does not have the address any more: others may take it now."""
        host = self._world.hosts.get(mark.holder)
        if host is None:
            return
        self.counts["marks deleted"] += 1
        if mark.address not in host.kernel.answering:
            self.counts["marks deleted, muted"] += mark.address in host.kernel.ours
            return
        if self._is_excused(host):
            self.counts["excused deletion"] += 1
            return
        if host.kernel.is_bare_at(mark.address):
            self.counts["deletion after a flush"] += 1
            return
        if self._world.timeline.now < self._held_up_until(host, mark.address):
            # Its lease has ended: what it releases itself _check_release has looked at.
            self.counts["deletion, held up by a kernel"] += 1
            return
        raise Broken(MARK_GONE, f"{mark.address} answers on {host.name}, and its mark is deleted")

    def cover_gone(self) -> None:
        """What was put over a mark goes, with its lease or by hand. Whoever has not seen that his
        mark was covered may have the address, and now somebody else may take it."""
        now = self._world.timeline.now
        for host in self._world.hosts.values():
            if now < host.unmarked_until:
                host.excused_until = max(host.excused_until, host.unmarked_until)

    def _is_excused(self, host: "Host") -> bool:
        """Whether it may have what it has no mark of."""
        until = max(host.excused_until, host.bereft_until, host.unmarked_until)
        return self._world.timeline.now < until

    def all_leases_are_lost(self) -> None:
        """They go now. Until the deadline that it has, a host may think that it has its lease; a
        keepalive under way gives it no later one."""
        now = self._world.timeline.now
        until = now + self._world.granted_s + 1.0
        self.losses_until = until
        for address, known in self._hastily_taken.items():
            if now < known:
                self._hastily_taken[address] = until
        for host in self._world.hosts.values():
            host.lose_lease(until)

    # --- what the core decides --------------------------------------------------------------

    def stepped(self, host: "Host") -> None:
        self._world.steps += 1
        if self._world.steps > MAX_STEPS:
            raise Broken(SPINS, f"{host.name} takes one step after the other")
        self._note_targets(host)

    def _note_targets(self, host: "Host") -> None:
        state = host.state
        if state is None or not state.settings.rebalance_delay_s:
            return
        for address in state.addresses.known:
            it = host.name, address
            if state.placed.target.get(address, host.name) == host.name:
                self._elsewhere_since.pop(it, None)
            else:
                self._elsewhere_since.setdefault(it, self._world.timeline.now)

    def decided_all(self, host: "Host", actions: Sequence[Action]) -> None:
        """Looks at all actions of one step."""
        if any(isinstance(each, End) for each in actions[:-1]):
            raise Broken(AFTER_END, f"{host.name} ends, and then asks for {actions[-1]}")
        for action in actions:
            if isinstance(action, RemoveAddress) and self._could_stay(host, action.address):
                self._check_levelling(host, action.address)
                self._check_pause(host, action.address)

    @staticmethod
    def _could_stay(host: "Host", address: Address) -> bool:
        """Whether nothing makes a node remove what it holds but that another one is to hold it."""
        state, before = host.state, host.before
        if state is None or before is None or before.addresses.phase(address) is not Phase.UP:
            return False
        facts = Facts(state, host.clock())
        view, node = state.cluster.view, facts.my_node()
        if view is None or node is None or facts.life_s() <= 0 or state.takeover.loss is not None:
            return False
        entry, mark = view.pool.get(address), view.marks.get(address)
        return (
            state.ending.stopping is None
            and facts.health().is_healthy
            and not node.is_waiting
            and mark is not None
            and facts.is_mine(mark)
            and mark not in state.writing.leaving
            and entry is not None
            and node.can_hold(entry)
            and address not in facts.refused()
            and facts.place_for(address, facts.down()) is not None
            and not Checker._is_ordered(host, view, address)
        )

    @staticmethod
    def _is_ordered(host: "Host", view: ClusterView, address: Address) -> bool:
        """Whether an operator has it go from there: by a drain, a pin or a move."""
        control = view.control
        orders = [each[address].node for each in (control.pins, control.moves) if address in each]
        is_older = any(node.advertisement.placement < KNOWS_CONTROL for node in view.nodes.values())
        return (
            host.name in control.drains
            or any(name != host.name for name in orders)
            or (is_older and view.marks[address].version > 1)
        )

    def _check_pause(self, host: "Host", address: Address) -> None:
        view = host.state.cluster.view if host.state is not None else None
        if view is None or view.control.pause is None:
            return
        if all(node.advertisement.placement >= KNOWS_CONTROL for node in view.nodes.values()):
            raise Broken(PAUSED, f"{host.name} removes {address}")

    def _check_levelling(self, host: "Host", address: Address) -> None:
        """Also within a moment after the window has closed it is as it was."""
        settings, now = host.settings, self._world.timeline.now
        is_window = settings.rebalance not in tuple(Rebalance)
        is_closed = is_window and not host.is_window_open
        is_closed = is_closed and now > host.window_turned_at + WINDOW_HEARD_WITHIN_S
        since = self._elsewhere_since.get((host.name, address), -inf)
        is_hasty = now < since + settings.rebalance_delay_s / host.rate - ROUNDING_S
        self.counts["moved to be level where that can be put off"] += 1
        if host.state is None or host.state.settings != settings or host.is_frozen:
            return
        if settings.rebalance is Rebalance.NEVER or is_closed or is_hasty:
            raise Broken(LEVELLED, f"{host.name} removes {address}: {settings.rebalance}")

    def decided(self, host: "Host", action: Action) -> None:
        if isinstance(action, Report):
            return
        self.counts[type(action).__name__] += 1
        if isinstance(action, AddAddress):
            self._check_mark(host, action)
            self._check_nowhere_else(host, action.address)
            self._check_deadline(host, action.deadline)
        elif isinstance(action, RenewAddresses):
            self._check_deadline(host, action.deadline)
        elif isinstance(action, ReleaseMarks):
            self._check_release(host, action.marks)
        elif isinstance(action, AdvertiseNode):
            self._check_release(host, action.release)
            self._check_echo(host, action.advertisement)
        elif isinstance(action, WithdrawNode):
            self._check_release(host, action.release)
        elif isinstance(action, RemoveAddress):
            self._check_reset(host, action)
        elif isinstance(action, ClearConnections):
            self._check_clear(host, action.address)
        elif isinstance(action, ClaimMarks):
            pass

    def _check_echo(self, host: "Host", told: Advertisement) -> None:
        """Who says that it has done what operators have asked for has done it, as far as it can
        know: not of marks under the lease of an earlier life, nor of what that has left and is not
        in the pool."""
        state = host.state
        view = state.cluster.view if state is not None else None
        if state is None or view is None or not self._world.is_healed or host.is_older:
            return
        node, control = view.nodes.get(host.name), view.control
        known = node.advertisement.control if node is not None else 0
        if told.control != control.revision or told.control == known:
            return
        self.counts["echoes"] += 1
        lease = state.lease.current.id if state.lease.current is not None else None
        mine = {
            address
            for address, mark in view.marks.items()
            if (mark.holder, mark.lease) == (host.name, lease)
        }
        has = sorted(host.kernel.answering.keys() & view.pool.keys())
        going = {
            address
            for address in has
            if host.name in control.drains
            and state.placed.target.get(address, host.name) != host.name
        }
        if going or not mine <= set(state.held) or not mine >= set(has):
            raise Broken(ECHOED, f"{host.name} has {has}, and marks of {sorted(mine)}: {going}")

    def _check_mark(self, host: "Host", add: AddAddress) -> None:
        lease = host.state.lease.current if host.state is not None else None
        mark = self._world.etcd.marks.get(add.address)
        is_ours = mark is not None and lease is not None
        is_ours = is_ours and (mark.holder, mark.lease) == (host.name, lease.id)  # type: ignore[union-attr]
        if not is_ours and not self._is_excused(host):
            raise Broken(NO_MARK, f"{host.name} adds {add.address}, and its mark is {mark}")

    def _check_nowhere_else(self, host: "Host", address: Address) -> None:
        """What another node has, as this one knows, it only puts back where it had it."""
        before = host.before.addresses.known.get(address) if host.before is not None else None
        if address in host.kernel.ours or (before and before.phase is not Phase.ABSENT):
            return
        self.counts["new address"] += 1
        view = host.state.cluster.view if host.state is not None else None
        known = present_on(address, view.nodes) if view is not None else ()
        long_ago = host.knows_all_before()
        said = [who for (who, what), at in self._said.items() if what == address and at < long_ago]
        for name in (*(name for name, _ in known), *said):
            raise Broken(ELSEWHERE, f"{host.name} adds {address}, which {name} says it has")

    def _check_deadline(self, host: "Host", deadline: Boottime) -> None:
        now = self._world.timeline.now
        host.last_deadline = max(host.last_deadline, deadline)
        left_s = deadline - host.clock()
        lease = host.state.lease.current if host.state is not None else None
        if left_s <= 0 or lease is None:
            raise Broken(NO_DEADLINE, f"{host.name} hands on a deadline {left_s:.3f} s away")
        grace_s = FENCE_GRACE_S if host.is_fence_told else HELPER_GRACE_S
        gone_at = now + (left_s + grace_s) / host.rate
        expires_at = self._world.etcd.expires_at(lease.id)
        if gone_at > expires_at and not self._is_excused(host):
            raise Broken(
                NO_DEADLINE,
                f"{host.name} hands on a deadline that ends {gone_at - expires_at:.3f} s after"
                " its lease",
            )

    def _check_release(self, host: "Host", marks: Iterable[Mark]) -> None:
        """None of these is on the interface, and nothing under way could put it there."""
        for mark in marks:
            self.counts["release"] += 1
            where = self._why_unsure(host, mark.address)
            if where is not None and host.kernel.is_bare_at(mark.address):
                self.counts["release after a flush"] += 1
                continue
            if where is not None and not self._is_excused(host):
                raise Broken(EARLY_RELEASE, f"{host.name} releases {mark.address}, {where}")

    def _why_unsure(self, host: "Host", address: Address) -> str | None:
        helper, now = host.helper, host.clock()
        holding = helper.holdings.get(address) if helper is not None else None
        # What is muted for good may lie there.
        is_over = host.kernel.ruleset.is_fenced(address) and (
            holding is None or holding.deadline <= now
        )
        if address in host.kernel.answering or (address in host.kernel.ours and not is_over):
            return "which is on its interface"
        if address in host.kernel.under_way and not is_over:
            return "which a request that waits in its kernel puts there"
        if helper is None:
            return None
        could_come = holding is not None and not holding.is_leaving and holding.deadline > now
        for command in helper.to_do():
            if isinstance(command, AddAddress) and command.address == address:
                could_come = command.deadline > now
            elif isinstance(command, RemoveAddress) and command.address == address:
                could_come = False
        return "which its helper can still put there" if could_come else None


def eligible(world: "World") -> dict[Address, frozenset[NodeName]]:
    """Who may hold what, once everything is healed. Those that wait hold only what all others that
    may are waiting for, too, and then it stays where it is."""
    nodes = world.etcd.nodes.values()
    control = world.etcd.view().control
    waiting = {node.name for node in nodes if node.advertisement.waits_s} | control.drains.keys()
    may_hold = {}
    for address, entry in world.etcd.pool.items():
        able = frozenset(world.hosts) - entry.exclude
        able -= {node.name for node in nodes if node.advertisement.schema < entry.schema}
        mark = world.etcd.marks.get(address)
        if not able <= waiting:
            able -= waiting
        elif mark is not None and mark.holder in able:
            able = frozenset({mark.holder})
        pin = control.pins.get(address)
        may_hold[address] = frozenset({pin.node}) if pin and pin.node in able else able
    return may_hold


def why_not_even(
    holder: Mapping[Address, NodeName], eligible: Mapping[Address, frozenset[NodeName]]
) -> str | None:
    """A chain of moves that would level two nodes that differ by two or more, if there is one.
    Without one, the spread is the best (Harvey, Ladner, Lovász, Tamir, 2003)."""
    loads: Counter[NodeName] = Counter(
        dict.fromkeys((name for names in eligible.values() for name in names), 0)
    )
    loads.update(holder.values())
    for start in sorted(loads):
        came_from: dict[NodeName, NodeName] = {start: start}
        queue = deque([start])
        while queue:
            name = queue.popleft()
            if loads[name] <= loads[start] - 2:
                return f"{start} has {loads[start]}, {name} has {loads[name]}"
            for address, its_holder in holder.items():
                if its_holder == name:
                    for other in sorted(eligible[address] - came_from.keys()):
                        came_from[other] = name
                        queue.append(other)
    return None


def _offers(node: Node | None, address: Address) -> bool:
    """Whether the node is advertised as able to take the address, on one of its interfaces."""
    return (
        node is not None
        and node.advertisement.takes
        and any(node.can_hold(PoolEntry(address, interface)) for interface in INTERFACES)
    )
