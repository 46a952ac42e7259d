"""Decides what is asked of the helper (removals, additions, renewals); changes nothing."""

from collections.abc import Mapping
from itertools import count

from yaim.core.actions import (
    Action,
    AddAddress,
    ClearConnections,
    Level,
    RemoveAddress,
    RenewAddresses,
    Report,
)
from yaim.core.facts import Facts
from yaim.core.model import (
    Address,
    Boottime,
    NodeName,
    Order,
    Place,
    address_order,
    is_in_force,
)
from yaim.core.state.addresses import NOT_KNOWN, AddressState, Phase
from yaim.core.state.lease import Lease
from yaim.core.state.past import Going


def going(facts: Facts, wanted: frozenset[Address]) -> dict[Address, Going | None]:
    """Returns what is to be removed now, as it is not wanted here or has no mark of ours, in order,
    and why; None: it is not known to be here."""
    state, now = facts.state, facts.now
    if state.host.helper is None:
        return {}
    if state.lease.may_adopt and state.ending.stopping is None:
        return {}
    # What has our mark and is not known to us is of an earlier life.
    concerned = state.addresses.names() | facts.my_addresses()
    leaving = [
        address
        for address in concerned - (facts.my_addresses() & wanted)
        if _may_be_removed(state.addresses.known.get(address, NOT_KNOWN), now)
    ]
    return {
        address: _why_going(facts, address) if state.addresses.is_up(address) else None
        for address in sorted(leaving, key=address_order)
    }


def removals(facts: Facts, leaving: Mapping[Address, Going | None]) -> list[Report | RemoveAddress]:
    """Removes these, and tells the reasons."""
    actions: list[Report | RemoveAddress] = []
    requests = count(facts.state.next_request)
    for address, why in leaving.items():
        if why is not None:
            actions.append(Report(Level.INFO, f"removes {address}: {why.reason}"))
        resets = _resets(facts, address)
        actions.append(RemoveAddress(next(requests), address, resets))
    return actions


def _resets(facts: Facts, address: Address) -> bool:
    """Whether clients are to learn at once that an address goes from here: only if it goes on
    purpose. If our advertisement has gone, so has our lease, and perhaps all others': then the
    address may be back here at once, and its connections go on."""
    state = facts.state
    known, view = state.addresses.known.get(address, NOT_KNOWN), state.cluster.view
    is_here = known.phase is Phase.UP or (known.phase is Phase.REMOVING and known.resets)
    if not is_here or facts.life_s() <= 0 or not facts.can_reset():
        return False
    if view is None or facts.my_node() is None:
        return False
    mark = view.marks.get(address)
    return address not in view.stray_marks and (mark is None or facts.is_mine(mark))


def clears(facts: Facts) -> list[ClearConnections]:
    """Ends what is left here of the connections of addresses that another node has marked."""
    state, view = facts.state, facts.state.cluster.view
    if view is None or not facts.can_reset():
        return []
    # What is known of may be on our interface, or our mark is on it (Addresses.forgetting).
    gone = state.left.addresses - state.addresses.names() - state.elsewhere.present.keys()
    found = []
    for address in sorted(gone, key=address_order):
        mark = view.marks.get(address)
        if mark is not None and mark.holder != facts.me and is_in_force(mark, view.nodes):
            found.append(ClearConnections(address))
    return found


def _may_be_removed(known: AddressState, now: Boottime) -> bool:
    if known.phase is Phase.REMOVING:
        return now >= known.retry_at
    return known.phase is not Phase.ABSENT


def _why_going(facts: Facts, address: Address) -> Going:
    target = facts.state.placed.target.get(address)
    return Going(_why_not(facts, address), target if target != facts.me else None)


def _why_not(facts: Facts, address: Address) -> str:
    """Returns why an address is not wanted here, for the log."""
    state = facts.state
    view, host = state.cluster.view, state.host
    if state.ending.stopping is not None:
        return "stopping"
    if state.lease.current is None:
        return "there is no lease"
    if facts.life_s() <= 0:
        return "the lease is not kept"
    if not facts.health().is_healthy:
        return "unhealthy"
    if view is None or address not in view.pool:
        return "not in the pool"
    interface = (facts.is_at(address) or facts.where(address)).interface
    if interface in facts.down():
        return host.why_down(interface, state.settings.interface)
    if state.advertised.is_written and facts.my_node() is None:
        return "our advertisement has gone from etcd"
    if address in view.stray_marks:
        return "somebody has put another mark over ours"
    mark = view.marks.get(address)
    if mark is None:
        return "its mark was deleted, not by this node"
    if not facts.is_mine(mark):
        return f"its mark is not ours but {mark.holder}'s"
    target = state.placed.target.get(address)
    where = f"{target} is to hold it" if target else "this node is not eligible"
    return f"{where}{_as_ordered(facts, address, target)}"


def _as_ordered(facts: Facts, address: Address, target: NodeName | None) -> str:
    """Returns what operators have asked for that makes an address go."""
    control = facts.control
    move, pin, drain = control.moves.get(address), control.pins.get(address), facts.drain()
    if move is not None and move.node == target:
        return f" (moved{_told(move.order)})"
    if drain is not None:
        return f" (this node is drained{_told(drain)})"
    if pin is not None and pin.node == target:
        return f" (pinned there{_told(pin.order)})"
    return ""


def _told(order: Order) -> str:
    by = f" by {order.by}" if order.by else ""
    return f"{by}: {order.reason}" if order.reason else by


def to_add(facts: Facts, places: Mapping[Address, Place]) -> list[Address]:
    """Returns what has our mark and is missing from where it should be."""
    state, now = facts.state, facts.now
    if state.host.helper is None or not state.advertised.is_written:
        return []
    missing = []
    for mark in facts.my_marks():
        place = places.get(mark.address)
        if place is None or mark.revision < state.advertised.unconfirmed_before:
            continue
        each = state.addresses.known.get(mark.address, NOT_KNOWN)
        is_elsewhere = each.phase is Phase.UP and each.place not in (None, place)
        is_missing = each.phase in (Phase.UNKNOWN, Phase.ABSENT)
        if now >= each.retry_at and (is_missing or is_elsewhere):
            missing.append(mark.address)
    return missing


def adds(
    facts: Facts, missing: list[Address], places: Mapping[Address, Place], lease: Lease
) -> list[AddAddress]:
    requests = count(facts.state.next_request)
    return [
        AddAddress(
            next(requests),
            address,
            places[address].interface,
            places[address].prefix_length,
            lease.deadline,
        )
        for address in missing
    ]


def renewal(facts: Facts) -> list[Action]:
    """Hands on the lease's deadline, if there is anything on our interface without it."""
    state, lease = facts.state, facts.state.lease.current
    if lease is None or state.host.helper is None or facts.life_s() <= 0:
        return []
    if not state.addresses.needs_renewal(lease.deadline):
        return []
    return [RenewAddresses(lease.deadline)]
