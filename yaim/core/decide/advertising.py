"""Decides what this node tells the other nodes about itself; changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from yaim.core.actions import AdvertiseNode
from yaim.core.bounds import bounded, cut
from yaim.core.facts import Facts
from yaim.core.links import all_names, networks_by_all_names
from yaim.core.model import SCHEMA, Advertisement, Fence, Mark, Node, Revision
from yaim.core.placement import VERSION

DRAINED_WAIT_S = 86_400.0
"""How long a drained node says that it waits: so that nodes which do not know of drains leave
nothing to it, either. It waits for as long as it is drained."""


@dataclass(frozen=True, slots=True)
class Advertising:
    write: AdvertiseNode
    complaints: Mapping[str, str]
    """What of the advertisement others are not told, because it is too much."""
    is_lazy: bool = False
    """It tells people something, and other nodes nothing that they would act on: it is written
    when there is nothing else to do, so that no release and no claim waits for it."""


def advertising(facts: Facts, control: Revision) -> Advertising | None:
    """Returns the advertisement that is to be written now, with the marks that go in the same
    transaction; None: none is. `control`: for which revision of the control keys we have done all
    that we are asked for (echo.py)."""
    state, now = facts.state, facts.now
    lease, present = state.lease.current, facts.my_node()
    if lease is None or state.advertised.name_taken_since is not None:
        return None
    is_asked = state.lease.retry.is_pending or now >= state.lease.retry.due
    if present is None and state.advertised.is_written and is_asked:
        # It has gone from etcd, perhaps with the lease: the keepalive will tell.
        return None
    if state.health.judged is None and present is None:
        return None
    if not state.advertised.is_written and state.host.awaits_kernel(now):
        return None
    whole = _whole(facts, present, control)
    if whole is None:
        return None
    told = bounded(whole)
    release: tuple[Mark, ...] = ()
    replaces, is_lazy = facts.replaced(), False
    other = facts.others_under_our_name()
    if other is not None and not state.advertised.may_overwrite(now):
        return None
    if other is not None and other.lease and facts.keeps_name():
        replaces = other.revision
    if present is not None:
        replaces = present.revision
        is_told = present.advertisement == told and state.advertised.is_written
        if is_told and state.writing.full is None:
            return None
        is_well = state.advertised.is_written and state.writing.full is None
        is_lazy = is_well and _is_for_people(present.advertisement, told)
        if not told.is_healthy and (facts.has_removed_all() or facts.is_stuck()):
            addresses = state.addresses
            release = tuple(m for m in facts.my_marks() if addresses.is_absent(m.address))
    joins = state.advertised.known_under is None or facts.is_no_member()
    first_seen = facts.first_seen() if joins else ""
    write = AdvertiseNode(state.next_request, told, lease.id, replaces, release, joins, first_seen)
    return Advertising(write, cut(whole), is_lazy and not release and not joins)


def _is_for_people(before: Advertisement, told: Advertisement) -> bool:
    """Whether no node that knows of drains decides anything by what is different."""
    alike = replace(
        before, control=told.control, problems=told.problems, is_drained=told.is_drained
    )
    if before.is_drained != told.is_drained:
        alike = replace(alike, waits_s=told.waits_s)
    return alike == told


def _whole(facts: Facts, present: Node | None, control: Revision) -> Advertisement | None:
    """Returns all that there is to tell; None: too little is known. `present`: our advertisement
    in etcd, whose values stay until we know better: an earlier life knew them."""
    state, settings = facts.state, facts.state.settings
    host, is_checked = state.host, state.health.judged is not None
    if host.helper is not None:
        session = host.helper.session
        networks = networks_by_all_names(host.helper.networks, host.altnames)
        fence: Fence | None = host.helper.fence
    elif present is not None:
        session, networks = present.advertisement.session, present.advertisement.networks
        fence = present.advertisement.fence
    else:
        return None
    health, is_drained = facts.health(), facts.drain() is not None
    capacity = host.helper_before.capacity if host.helper_before is not None else None
    whole = Advertisement(
        is_healthy=health.is_healthy,
        reason=health.reason,
        interface=host.altnames.get(settings.interface, settings.interface),
        networks=networks,
        refused=facts.refused(),
        session=session,
        version=settings.version,
        down=all_names(facts.down(), host.altnames),
        missing=host.missing(settings.interface),
        waits_s=max(state.health.waits_s, DRAINED_WAIT_S if is_drained else 0.0),
        present=state.elsewhere.present,
        placement=VERSION,
        schema=SCHEMA,
        fence=fence,
        connections_stay=facts.why_connections_stay(),
        capacity=capacity,
        ttl_s=settings.ttl_s,
        is_drained=is_drained,
        control=control,
        problems=state.problems.all,
    )
    if present is not None:
        told = present.advertisement
        if host.links_up is None and not state.advertised.is_written:
            whole = replace(whole, down=told.down, missing=told.missing)
        if host.helper_before is None:
            whole = replace(whole, connections_stay=told.connections_stay, capacity=told.capacity)
        if not is_checked:
            whole = replace(
                whole,
                is_healthy=told.is_healthy,
                reason=told.reason,
                waits_s=told.waits_s if told.is_drained == is_drained else whole.waits_s,
            )
    takes = is_checked and host.helper is not None and host.own is not None
    return replace(whole, takes=takes or not whole.is_healthy)
