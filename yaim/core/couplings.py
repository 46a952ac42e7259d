"""Changes that concern several parts of the state at once: each function is one such coupling.

Changes the state of the step under way; asks for nothing but End.
"""

from collections.abc import Iterable

from yaim.core.actions import (
    AdvertiseNode,
    End,
    Level,
    Outcome,
    Write,
)
from yaim.core.history import note_lost
from yaim.core.model import Address, ClusterView, Mark
from yaim.core.refusals import Refusal
from yaim.core.settings import Settings
from yaim.core.turn import Turn
from yaim.core.wording import MOST_TOLD

# --- the lease ------------------------------------------------------------------------------------


def forget_lease(turn: Turn) -> None:
    """Starts afresh: with the lease went our marks, and perhaps all of etcd's history."""
    turn.cluster = turn.cluster.after_lease_gone(turn.now)
    turn.placed = turn.placed.after_lease_gone()
    turn.lease = turn.lease.after_gone(turn.now)
    turn.advertised = turn.advertised.after_lease_gone()
    turn.writing = turn.writing.after_lease_gone()


def keep_fresher_lease(turn: Turn) -> None:
    """Makes a keepalive due now, if the lease has too little life left for an address that is to be
    added now or soon; but not if a keepalive has just failed."""
    if not turn.facts.has_life_to_add() and not turn.lease.retry.failures:
        turn.lease = turn.lease.made_due(turn.now)


# --- the view -------------------------------------------------------------------------------------


def hear(turn: Turn, view: ClusterView) -> None:
    """Takes in a view that etcd has told: nothing in it is our own reckoning."""
    see(turn, view)
    if turn.cluster.view is view:
        turn.advertised = turn.advertised.after_told(view, turn.facts.my_node())


def see(turn: Turn, view: ClusterView) -> None:
    """Takes a view for the present one, unless a newer is known."""
    facts, now, before = turn.facts, turn.now, turn.cluster.view
    if before is not None and view.revision < before.revision:
        return
    is_other_history = before is None and view.revision < turn.cluster.last_revision
    if is_other_history and turn.ending.stopping is None:
        turn.takeover = turn.takeover.after_other_history(facts.ttl_s(), now, turn.tell)
    had_node, had = facts.my_node() is not None, facts.my_addresses()
    report_wrong(turn, before, view)
    turn.cluster = turn.cluster.with_view(view)
    turn.writing = turn.writing.after_view(view)
    mine = facts.my_addresses()
    turn.past = turn.past.after_view(before, view, mine, mine - had)
    note_lost(turn, before, view)
    remember(turn, before)
    takeover = turn.takeover.noting_orphans(before, view, facts.me, now)
    turn.takeover = takeover.noting_strays(before, view, facts.ttl_s(), now, turn.tell)
    if had_node and facts.my_node() is None and not turn.lease.retry.failures:
        # Is our lease gone with our advertisement?
        turn.lease = turn.lease.made_due(now)


def remember(turn: Turn, before: ClusterView | None) -> None:
    """Notes what is ours now. `before`: the view before this one."""
    if turn.cluster.view is None:
        return
    mine: frozenset[Address] | None = None
    if turn.advertised.is_written and turn.facts.my_node() is not None:
        mine = turn.facts.my_addresses() - {mark.address for mark in turn.writing.leaving}
    turn.takeover = turn.takeover.remembering(before, turn.cluster.view, mine)


def report_wrong(turn: Turn, before: ClusterView | None, view: ClusterView) -> None:
    """Reports each wrong pool entry once."""
    if before is not None and before.wrong is view.wrong:
        return
    known = {wrong.name: wrong for wrong in before.wrong} if before is not None else {}
    new = [wrong for wrong in view.wrong if known.get(wrong.name) != wrong]
    for wrong in new[:MOST_TOLD]:
        turn.tell(Level.WARNING, f"wrong pool entry {wrong.name!r}: {wrong.reason}")
    if len(new) > MOST_TOLD:
        more = len(new) - MOST_TOLD
        turn.tell(Level.WARNING, f"and {more} more wrong pool entries: yaim status")


def leave_unsettled(turn: Turn, marks: Iterable[Mark]) -> None:
    """Uses these marks no more before a read has told whether they are there."""
    turn.writing = turn.writing.leaving_unsettled(marks)
    turn.cluster = turn.cluster.distrusted(turn.now)


# --- our name -------------------------------------------------------------------------------------


def check_name(turn: Turn) -> End | None:
    """Notes whose advertisement stands under our name, and since when if it is another host's.
    Returns End if another live host keeps the name."""
    facts, node, helper = turn.facts, turn.facts.advertised(), turn.host.helper
    lease = turn.lease.current
    if node is None and turn.cluster.view is not None:
        turn.lease = turn.lease.adopting_nothing()
    if node is None or helper is None or (lease is not None and node.lease == lease.id):
        turn.advertised = turn.advertised.name_is_ours(turn.now)
    elif node.advertisement.session == helper.session and facts.may_adopt(node):
        # Our own, of an earlier life: adopt it.
        turn.lease = turn.lease.adopting_anew()
        turn.advertised = turn.advertised.name_is_not_taken().after_withdrawn()
    elif node.advertisement.session == helper.session:
        turn.lease = turn.lease.adopting_nothing()
        turn.advertised = turn.advertised.name_is_not_taken()
    elif facts.keeps_name():
        turn.advertised = turn.advertised.name_is_not_taken()
    elif turn.advertised.name_taken_since is None:
        turn.lease = turn.lease.adopting_nothing()
        turn.tell(
            Level.WARNING,
            f"another host is advertised as {node.name}: waiting for its lease to expire",
        )
        turn.advertised = turn.advertised.name_is_taken(turn.now)
    elif turn.now >= turn.advertised.name_limit(turn.settings.ttl_s):
        return End(
            Outcome.NAME_TAKEN,
            f"another live host is advertised as {node.name}: give this one another nodename"
            f" (or, if there is no such host: etcdctl lease revoke {node.lease:x}, under which"
            f" the key nodes/{node.name} stands)",
        )
    return None


def note_overwrite(turn: Turn, write: Write) -> None:
    """Counts how often something of another host's is written over."""
    other, helper = turn.facts.others_under_our_name(), turn.host.helper
    if not isinstance(write, AdvertiseNode) or other is None:
        return
    is_foreign = helper is not None and other.advertisement.session != helper.session
    turn.advertised = turn.advertised.asked_overwrite(
        other, turn.now, turn.tell, is_foreign=is_foreign
    )


# --- the settings, and the end --------------------------------------------------------------------


def change_settings(turn: Turn, settings: Settings) -> None:
    """Applies new settings (SIGHUP): what was refused or failed is tried again."""
    turn.health = turn.health.after_settings(turn.settings, settings, turn.now)
    turn.addresses = turn.addresses.after_settings()
    turn.refusals = turn.refusals.after_settings()
    turn.settings = settings


def finish(turn: Turn, outcome: Outcome, reason: str) -> None:
    turn.ask([End(outcome, reason)])


# --- refusals -------------------------------------------------------------------------------------


def leave_to_others(turn: Turn, address: Address, refusal: Refusal, why: str) -> None:
    turn.refusals = turn.refusals.leaving_to_others(
        address, refusal, why, turn.facts.me, turn.facts.group_of, turn.addresses, turn.tell
    )
