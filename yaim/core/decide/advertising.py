"""Decides what this node tells the other nodes about itself; changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from yaim.core.actions import AdvertiseNode
from yaim.core.bounds import bounded, cut
from yaim.core.facts import Facts
from yaim.core.links import all_names, networks_by_all_names
from yaim.core.model import SCHEMA, Advertisement, Fence, Mark, Node
from yaim.core.placement import VERSION


@dataclass(frozen=True, slots=True)
class Advertising:
    write: AdvertiseNode
    complaints: Mapping[str, str]
    """What of the advertisement others are not told, because it is too much."""


def advertising(facts: Facts) -> Advertising | None:
    """Returns the advertisement that is to be written now, with the marks that go in the same
    transaction; None: none is."""
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
    whole = _whole(facts, present)
    if whole is None:
        return None
    told = bounded(whole)
    release: tuple[Mark, ...] = ()
    replaces = facts.replaced()
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
        if not told.is_healthy and (facts.has_removed_all() or facts.is_stuck()):
            addresses = state.addresses
            release = tuple(m for m in facts.my_marks() if addresses.is_absent(m.address))
    write = AdvertiseNode(state.next_request, told, lease.id, replaces, release)
    return Advertising(write, cut(whole))


def _whole(facts: Facts, present: Node | None) -> Advertisement | None:
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
    health = facts.health()
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
        waits_s=state.health.waits_s,
        present=state.elsewhere.present,
        placement=VERSION,
        schema=SCHEMA,
        fence=fence,
        connections_stay=facts.why_connections_stay(),
    )
    if present is not None:
        told = present.advertisement
        if host.links_up is None and not state.advertised.is_written:
            whole = replace(whole, down=told.down, missing=told.missing)
        if host.helper_before is None:
            whole = replace(whole, connections_stay=told.connections_stay)
        if not is_checked:
            whole = replace(
                whole,
                is_healthy=told.is_healthy,
                reason=told.reason,
                waits_s=told.waits_s,
            )
    takes = is_checked and host.helper is not None and host.own is not None
    return replace(whole, takes=takes or not whole.is_healthy)
