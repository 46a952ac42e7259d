"""What is brought up to date before anything is decided: what changes with time, and what follows
from the view. Each function does one such thing; yaim/core/step.py has their order.
"""

from collections.abc import Mapping
from dataclasses import replace

from yaim.core.actions import Level, LookForAddresses
from yaim.core.allowlist import complaint, forbidden
from yaim.core.couplings import remember
from yaim.core.decide.levelling import moves_to_level
from yaim.core.decide.orders import renewal
from yaim.core.decide.requests import lease_request
from yaim.core.decide.wanted import refused_alone
from yaim.core.elsewhere import complaints
from yaim.core.history import note_health
from yaim.core.model import Address, Boottime, ClusterView, PoolEntry, address_order, frozen_mapping
from yaim.core.placement import VERSION, counted, counted_marks, is_alike, place, version_of
from yaim.core.state.addresses import AddressState, Phase
from yaim.core.state.placed import Placed
from yaim.core.turn import Turn
from yaim.core.wording import some

PLACEMENT_TAKES_S = 0.1
"""How long a placement takes at most, up to sizes well beyond 1000 addresses and 50 nodes
(bench/placement.py). A keepalive that is due within this time is sent before it."""
_NO_POOL: Mapping[Address, PoolEntry] = frozen_mapping({})


def forget_absent(turn: Turn) -> None:
    """Forgets what is off our interface and of no concern to us; and refusals that are over."""
    addresses = turn.addresses.forgetting(turn.facts.my_addresses(), turn.now)
    refusals = turn.refusals.forgetting(turn.now)
    if addresses is turn.addresses and refusals is turn.refusals:
        return
    gone = turn.addresses.names() - addresses.names()
    turn.addresses, turn.refusals = addresses, refusals.giving_back(gone)


def look(turn: Turn) -> None:
    """Looks for what has outlived its deadline and the helper's grace, until it is gone."""
    turn.addresses = turn.addresses.after_deadlines(turn.now, turn.tell)
    overdue = turn.addresses.overdue(turn.now)
    turn.addresses = turn.addresses.reporting_overdue(overdue, turn.now, turn.tell)
    if overdue and turn.addresses.is_look_due(turn.now):
        turn.ask([LookForAddresses()])


def judge(turn: Turn) -> None:
    """Judges the checks, and whether this node waits because it flaps."""
    turn.health = turn.health.at(turn.now, turn.settings, turn.tell)
    was_healthy = turn.health.flaps.is_healthy
    if turn.ending.stopping is None:
        is_healthy = turn.facts.health().is_healthy
        max_wait_s = turn.settings.flap_max_wait_s
        turn.health = turn.health.waiting(is_healthy, max_wait_s, turn.now, turn.tell)
        note_health(turn, was_healthy)


def end_loss(turn: Turn) -> None:
    if turn.takeover.is_loss_over(turn.now):
        turn.takeover = turn.takeover.after_loss(turn.tell)
        remember(turn, None)


def sweep(turn: Turn) -> None:
    """Treats the pool's addresses that an earlier life of the helper has left as ours, without
    knowing until when they stay. Other addresses may be another cluster's."""
    view, left_over = turn.cluster.view, turn.addresses.left_over
    if view is None or not left_over:
        return
    deadline = Boottime(turn.now + turn.facts.ttl_s())
    found = {
        address: AddressState(Phase.UNKNOWN, deadline=deadline, place=left_over[address])
        for address in sorted(left_over, key=address_order)
        if address in view.pool and address not in turn.addresses.known
    }
    turn.addresses = turn.addresses.swept(found)
    turn.left = turn.left.with_here(found)


def note_present(turn: Turn) -> None:
    """Notes which addresses something other than yaim has put on this host, and on others."""
    facts, view, helper = turn.facts, turn.cluster.view, turn.host.helper
    turn.host = turn.host.at(turn.now, turn.tell)
    elsewhere = turn.elsewhere.knowing_before(
        facts.my_node(), turn.host, is_written=turn.advertised.is_written
    )
    elsewhere = elsewhere.knowing_present(
        turn.host,
        frozenset(turn.refusals.foreign()),
        view.pool if view is not None else _NO_POOL,
        helper.networks if helper is not None else frozen_mapping({}),
    )
    if view is None:
        turn.elsewhere = elsewhere
        return
    elsewhere = elsewhere.knowing_everywhere(view.nodes)
    if not elsewhere.present and not elsewhere.everywhere and not elsewhere.told:
        turn.elsewhere = elsewhere
        return
    known = turn.addresses.known
    held_phases = (Phase.UP, Phase.REMOVING)
    held = frozenset(a for a, each in known.items() if each.phase in held_phases)
    told = complaints(view, elsewhere.everywhere, facts.me, elsewhere.present, held)
    for address, each in known.items():
        if each.phase in (Phase.ADDING, Phase.UNKNOWN):
            # Soon it is held, or it is not.
            told.pop(address, None)
            if address in elsewhere.told:
                told[address] = elsewhere.told[address]
    turn.elsewhere = elsewhere.reporting(told, turn.tell)


def puts_placement_off(turn: Turn) -> bool:
    """Whether this step does only what the lease needs. A placement takes long in a large cluster:
    so what the lease needs goes first, in a step of its own, and the next step, which follows at
    once, makes the placement. Once only: nothing puts a decision off for long."""
    if turn.placed.is_put_off or not _needs_placement(turn) or not keep_ahead(turn):
        return False
    turn.placed = replace(turn.placed, is_put_off=True)
    return True


def _needs_placement(turn: Turn) -> bool:
    """Whether the placement for the present view may be another one than before."""
    view, before = turn.cluster.view, turn.placed.view
    return view is not None and (before is None or not is_alike(before, view))


def make_placement(turn: Turn) -> None:
    view, target = turn.cluster.view, turn.placed.target
    if view is not None and _needs_placement(turn):
        _note_version(turn, turn.placed.view, view)
        target = place(view.pool, counted(view), counted_marks(view), view.control)
    turn.placed = Placed(target, view)


def note_levelling(turn: Turn) -> None:
    moves = moves_to_level(turn.facts)
    turn.levelling = turn.levelling.at(moves, turn.settings, turn.now, turn.tell)


def keep_ahead(turn: Turn) -> bool:
    """Hands on the lease's deadline, and sends the keepalive that is due soon, before something
    that takes long. Returns whether there was anything to be done."""
    if turn.lease.current is None or turn.ending.stopping is not None:
        return False
    decided = len(turn.actions)
    turn.ask(renewal(turn.facts))
    retry = turn.lease.retry
    if not retry.failures and turn.now < retry.due <= turn.now + PLACEMENT_TAKES_S:
        turn.lease = turn.lease.made_due(turn.now)
    turn.ask(lease_request(turn.facts))
    return len(turn.actions) > decided


def _note_version(turn: Turn, before: ClusterView | None, view: ClusterView) -> None:
    """Reports when nodes of another version decide how addresses are shared."""
    nodes = counted(view)
    version = version_of(nodes)
    if version == (version_of(counted(before)) if before is not None else VERSION):
        return
    older = [name for name, node in nodes.items() if node.advertisement.placement < VERSION]
    why = f"as {some(sorted(older))} know{'s' * (len(older) == 1)} no newer one"
    if not older:
        why = "as all nodes know it now"
    turn.tell(Level.INFO, f"shares addresses by version {version} of the placement, {why}")


def note_forbidden(turn: Turn) -> None:
    """Reports what our helper would refuse because of its prefix length, before it has to."""
    view, helper = turn.cluster.view, turn.host.helper
    if view is None or helper is None:
        return
    follows_from = view.pool, turn.settings, turn.host.altnames, helper.rules
    if follows_from == turn.refusals.forbidden_of:
        return
    pool = [address for address, entry in view.pool.items() if not entry.fault]
    found = forbidden(pool, turn.facts.where, helper.rules)
    if found and found != turn.refusals.forbidden:
        turn.tell(Level.ERROR, complaint(found))
    turn.refusals = replace(
        turn.refusals, forbidden=frozen_mapping(found), forbidden_of=follows_from
    )


def try_again(turn: Turn) -> None:
    """Tries again what was refused, when its time has come."""
    view, refusals = turn.cluster.view, turn.refusals
    if view is None or turn.now < refusals.trial.next_at:
        return
    if not refusals.refused and not refusals.too_many:
        return
    succeeded = {
        a: cause
        for a, cause in refusals.trial.tried.items()
        if a not in turn.placed.target and turn.addresses.is_up(a)
    }
    unplaced = refused_alone(turn.facts, view)
    turn.refusals = refusals.trying_again(
        unplaced, view.marks.keys(), succeeded, turn.facts.me, turn.now
    )


def note_limit(turn: Turn) -> None:
    """Leaves to others what our helper has no places for."""
    turn.refusals = turn.refusals.with_limit(
        turn.addresses, turn.facts.my_addresses(), turn.cluster.view
    )
