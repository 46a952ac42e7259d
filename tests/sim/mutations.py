# ruff: noqa: E501 (pieces of source text, as they stand there)
"""Does the checker bite? Faults put into the code on purpose, each of which some seed has to show.

Each names the definitions that it changes, with the package that they are in; how it is put there
and looked for: tests/sim/mutating.py.
"""

from tests.sim.mutating import Change, Mutation

HELD_UP = ("routing lock held", "helper frozen", "sick", "entry changed")
"""The faults that keep an address on a host when it is to be released."""
MIDWAY = ("helper killed midway", "helper stopped midway", "both killed", "cut off")
"""The faults that leave a fence, or what it is to fence, half made."""


def _fault(
    name: str,
    *changes: tuple[str, str, str],
    only: tuple[str, ...] = (),
    seed: int = 0,
) -> Mutation:
    return Mutation(name, tuple(Change(*each) for each in changes), only, seed)


# Not in the list, because no seed of some hundreds showed them. Of the first four we know no harm:
# - what is missing at a renewal counts as absent: the kernel has told that it is gone before;
# - what an earlier helper has left is not looked at: it ends with its lifetime, within its lease;
# - claims on a view known to be stale: they are lost, and the next read follows all the same.
# - the helper renews what is past its deadline: since nothing is believed gone by the clock alone, its
#   removal is asked for before anything else is, of a helper that was stopped, too.
# These need a rarer schedule than is drawn. A coordinator that comes back is welcome while adds of the
# connection before it wait for the disk: tests/helper/record/test_disk.py holds on to that; to the others
# tests/core does:
# - no guard on a release, adding before the own advertisement is written (a request of an earlier
#   life would have to arrive late and hit a mark in use again, or just before the first one of the
#   new life, which then has to look again before it adds);
# - adopting another lease with marks under the own one (it would have to be copied there within the
#   milliseconds between the adoption and the first advertisement);
# - leaving what is handed over after a loss until others have learnt of it;
# - clearing connections of what is still on the interface, which the helper refuses, too;
# - no guard on the giver's advertisement, the heir's lease or the mark when one is handed over (a
#   transaction would have to come late by more than a read, and meet what has happened since within
#   milliseconds): tests/sim/test_handover.py has each of these;
# - believing a removal at the deadline without the grace; a mark of another lease taken for ours;
#   a keepalive sent before a pause and answered after the clock was set.
MUTATIONS: tuple[Mutation, ...] = (
    _fault(
        "the deadline counts from the answer",
        (
            "LeaseState.after_kept@yaim.core",
            "deadline_of(event.sent_at, event.ttl_s)",
            "deadline_of(now, event.ttl_s)",
        ),
        seed=5,
    ),
    _fault(
        "no margin",
        ("MARGIN_S@yaim.core", "HELPER_GRACE_S + 0.05", "0.0"),
    ),
    _fault(
        "a mark is released before the address is removed",
        (
            "_release@yaim.core",
            "mark.address in going and state.addresses.is_absent(mark.address)",
            "mark.address in going",
        ),
    ),
    _fault(
        "all counts as removed",
        ("Facts.has_removed_all@yaim.core", "return all(", "return True or all("),
        seed=6,
    ),
    _fault(
        "no guard on the advertisement for a claim",
        ("ModelEtcd._claim@tests.sim", "if not self._stands(me, action.advertised):", "if False:"),
        only=(
            "all flapping",
            "lossy",
            "all sick",
        ),
        seed=7,
    ),
    _fault(
        "no move is ever made to level",
        ("Spread.complete@yaim.core", "if not self._loads.are_even:", "if False:"),
        seed=1,
    ),
    _fault(
        "nodes may differ by two",
        (
            "_Loads.are_even@yaim.core",
            "<= self.more.ascending[0]",
            "<= 3 * self.more.ascending[0]",
        ),
    ),
    _fault(
        "who waits is placed like any other",
        ("_place@yaim.core", "eligible = able & ~waiting or", "eligible = able or"),
        only=(
            "flapping",
            "all flapping",
            "sick",
        ),
        seed=19,
    ),
    _fault(
        "who waits never holds anything",
        ("_place@yaim.core", "eligible = able & ~waiting or here", "eligible = able & ~waiting"),
        only=(
            "flapping",
            "all flapping",
            "sick",
        ),
        seed=49,
    ),
    _fault(
        "what nobody holds is not taken by those that wait",
        (
            "_place@yaim.core",
            "able & ~orders.drained or able if home is None else 1 << home",
            "0 if home is None else 1 << home",
        ),
        only=(
            "flapping",
            "all flapping",
            "sick",
        ),
        seed=49,
    ),
    _fault(
        "the placement stays although others hold what it is about",
        ("is_alike@yaim.core", "and before.marks == view.marks", "and True"),
        seed=1,
    ),
    _fault(
        "the placement stays although nodes have become healthy or unhealthy",
        ("_are_nodes_alike@yaim.core", "all(_is_node_alike(", "all(True or _is_node_alike("),
        seed=2,
    ),
    _fault(
        "newer nodes place by a version that an older one does not know",
        ("as_an_older_one_sends@tests.sim", "placement=1, schema=1", "placement=2, schema=1"),
        seed=18,
    ),
    _fault(
        "newer nodes leave to an older one what it does not understand",
        ("as_an_older_one_sends@tests.sim", "placement=1, schema=1", "placement=1, schema=2"),
        seed=3,
    ),
    _fault(
        "what an older node does not understand counts in what is placed with it",
        ("place@yaim.core.placement", "if entry.schema not in higher}", "if entry}"),
        seed=8,
    ),
    _fault(
        "a placement that was put off is not made up for",
        ("puts_placement_off@yaim.core", "if turn.placed.is_put_off or not", "if not"),
        (
            "puts_placement_off@yaim.core",
            "is_put_off=True",
            "is_put_off=True, view=turn.cluster.view",
        ),
        ("Turn.wake_at@yaim.core", "if self.placed.is_put_off:", "if False:"),
        seed=1,
    ),
    _fault(
        "a wait never ends",
        ("HealthState.waiting@yaim.core", "now < flaps.waits_until(max_wait_s)", "True"),
        (
            "HealthState.waiting@yaim.core",
            "flaps.wait_s(max_wait_s) if is_waiting",
            "flaps.wait_s(60.0) if is_waiting",
        ),
        only=(
            "flapping",
            "all flapping",
            "sick",
        ),
        seed=3,
    ),
    _fault(
        "a new helper means that nothing is there",
        (
            "Addresses.after_ready@yaim.core",
            "else replace(known, phase=Phase.UNKNOWN)",
            "else replace(known, phase=Phase.ABSENT)",
        ),
        seed=7,
    ),
    _fault(
        "a refused add means that the address is absent",
        (
            "_take_refused@yaim.core",
            "known.after_refused(turn.now, expired)",
            "AddressState(Phase.ABSENT, retry_at=Boottime(turn.now + 0.1))",
        ),
        only=(
            "address deleted",
            "helper refuses",
            "sick",
            "entry changed",
        ),
        seed=2,
    ),
    _fault(
        "a renewal does not count for what we know nothing of",
        (
            "RENEWED@yaim.core",
            "{Phase.ADDING, Phase.UP, Phase.UNKNOWN}",
            "{Phase.ADDING, Phase.UP}",
        ),
        only=(
            "address deleted",
            "slow",
            "all slow",
            "sick",
            "helper refuses",
        ),
        seed=168,
    ),
    _fault(
        "an address that has gone is absent",
        ("_take_gone@yaim.core", "known.after_gone()", "AddressState(Phase.ABSENT)"),
        seed=30,
    ),
    _fault(
        "an add that failed means that the address is absent",
        ("_take_failed@yaim.core", "adding.after_add_failed()", "AddressState(Phase.ABSENT)"),
        only=(
            "record fails",
            "address deleted",
            "sick",
        ),
        seed=10,
    ),
    _fault(
        "a removal that failed counts",
        (
            "_take_failed@yaim.core",
            "removing.after_removal_failed(reason, turn.now)",
            "AddressState(Phase.ABSENT)",
        ),
        only=(
            "network fails",
            "sick",
            "entry changed",
        ),
        seed=6,
    ),
    _fault(
        "a release in doubt is forgotten",
        (
            "Writing.after_failed@yaim.core",
            "in_doubt=self.in_doubt | marks",
            "in_doubt=self.in_doubt",
        ),
        only=(
            "entry changed",
            "slow",
            "answers cut",
            "lossy",
            "sick",
        ),
        seed=86,
    ),
    _fault(
        "a release under way is forgotten",
        ("Writing.leaving@yaim.core", "leaving.union(to_release(self.under_way))", "leaving"),
        only=(
            "entry changed",
            "slow",
            "sick",
            "flapping",
        ),
        seed=49,
    ),
    _fault(
        "what a full etcd has refused counts as not done",
        (
            "Writing.leaving_unsettled@yaim.core",
            "replace(self, unsettled=self.unsettled.union(marks))",
            "self",
        ),
        only=(
            "etcd full",
            "flapping",
        ),
        seed=299,
    ),
    _fault(
        "a full etcd leaves a node advertised that can hold nothing",
        ("next_write@yaim.core", "if takes_deletions(state.writing.full):", "if False:"),
        only=(
            "etcd full",
            "sick",
            "link down",
        ),
        seed=12,
    ),
    _fault(
        "who cannot even withdraw from a full etcd keeps its lease",
        (
            "lets_lease_end@yaim.core",
            "return refuses_deletions(facts.state.writing.full) and has_too_much(facts)",
            "return False",
        ),
        only=(
            "etcd full",
            "sick",
            "link down",
        ),
        seed=24,
    ),
    _fault(
        "who withdraws from a full etcd does not remove its addresses before",
        ("has_too_much@yaim.core", " or not facts.has_removed_all()", ""),
        only=(
            "etcd full",
            "link down",
            "helper frozen",
        ),
        seed=21,
    ),
    _fault(
        "an address is believed gone a second before its deadline",
        (
            "Addresses.after_look@yaim.core",
            "overdue_since(known.deadline) > self.look.asked_at",
            "known.deadline - 1.0 > now",
        ),
        ("Addresses.after_look@yaim.core", "or address in present", ""),
        (
            "Addresses.overdue@yaim.core",
            "now >= known.deadline + HELPER_GRACE_S",
            "now >= known.deadline - 1.0",
        ),
        only=(
            "helper killed",
            "helper frozen",
            "sick",
            "both frozen",
        ),
        seed=7,
    ),
    _fault(
        "an address is believed gone by the clock",
        ("Addresses.after_look@yaim.core", "> self.look.asked_at", "> now"),
        (
            "look@yaim.core",
            "overdue = turn.addresses.overdue(turn.now)",
            "overdue = {}\n    turn.addresses = turn.addresses.after_look(frozenset(), turn.now, turn.tell)\n    return",
        ),
        only=HELD_UP,
        seed=6,
    ),
    _fault(
        "what is seen is believed gone",
        ("Addresses.after_look@yaim.core", "or is_in_time or address in present", "or is_in_time"),
        only=HELD_UP,
        seed=46,
    ),
    _fault(
        "a look does not wait for what is under way in the kernel",
        (
            "Host._look@tests.sim",
            "\n        self.kernel.when_free(LOOK_TAKES_S, look)\n",
            "\n        self.at(self.clock() + LOOK_TAKES_S, see)\n",
        ),
        only=HELD_UP,
        seed=391,
    ),
    _fault(
        "a core that has ended goes on deciding",
        (
            "step@yaim.core",
            "    if not turn.ending.is_ended:\n        note_moves(turn)\n",
            "    if True:\n",
        ),
        (
            "step@yaim.core",
            "        if not turn.ending.is_ended:\n            take_in",
            "        if True:\n            take_in",
        ),
        seed=23,
    ),
    _fault(
        "a lease that is gone is not given up",
        (
            "take_in@yaim.core",
            "_take_loss(turn, turn.lease.current)\n            forget_lease(turn)",
            "_take_loss(turn, turn.lease.current)",
        ),
        seed=1,
    ),
    _fault(
        "after a loss of all leases others' addresses are claimed at once",
        ("_assigned@yaim.core", "if loss is None:", "if True:"),
        only=(
            "leases revoked",
            "etcd wiped",
            "coordinator frozen",
            "cut off",
        ),
        seed=2,
    ),
    _fault(
        "after a loss of all leases others are waited for only half as long",
        (
            "all_over_at@yaim.core",
            "Boottime(learnt_at + granted_ttl_s *",
            "Boottime(learnt_at + 0.5 * granted_ttl_s *",
        ),
        only=(
            "leases revoked",
            "etcd wiped",
            "coordinator frozen",
            "cut off",
        ),
        seed=2,
    ),
    _fault(
        "after a loss of all leases what was ours is not known",
        ("_assigned@yaim.core", "return frozenset(ours | {a", "return frozenset({a"),
        seed=1,
    ),
    _fault(
        "an older view replaces a newer one",
        ("see@yaim.core", "view.revision < before.revision:", "view.revision < 0:"),
        seed=7,
    ),
    _fault(
        "a wiped etcd is not believed",
        (
            "Cluster.is_other_history@yaim.core",
            "return answer.revision < self.read_after",
            "return False",
        ),
        only=(
            "etcd wiped",
            "powered off",
            "coordinator killed",
        ),
        seed=49,
    ),
    _fault(
        "an unhealthy node keeps what it has",
        ("wanted@yaim.core", "elif facts.health().is_healthy:", "elif facts.health():"),
        (
            "wanted@yaim.core",
            "chosen = _assigned(facts) | on_trial",
            "chosen = facts.my_addresses() | _assigned(facts) | on_trial",
        ),
        seed=1,
    ),
    _fault(
        "an interface that is down does not matter",
        ("Host.down@yaim.core", "return frozenset(ours - self.links_up)", "return frozenset()"),
    ),
    _fault(
        "what should be elsewhere stays where it is",
        (
            "to_add@yaim.core",
            "is_elsewhere = each.phase is Phase.UP and each.place not in (None, place)",
            "is_elsewhere = False",
        ),
        only=(
            "entry moved",
            "settings moved",
        ),
    ),
    _fault(
        "what has a wrong entry goes where the settings have it",
        ("Facts.place_for@yaim.core", "            should = here\n", "            pass\n"),
        only=(
            "entry moved",
            "settings moved",
        ),
        seed=6,
    ),
    _fault(
        "a new life does not know where an address is",
        (
            "Addresses.after_ready@yaim.core",
            "place = event.places.get(recorded.address)",
            "place = None",
        ),
        only=(
            "entry moved",
            "settings moved",
            "coordinator restarted",
        ),
        seed=2,
    ),
    _fault(
        "what no node can be given is given up",
        ("_Cluster.candidates@yaim.core", "nodes[holder].can_keep(entry):", "not nodes:"),
        seed=2,
    ),
    _fault(
        "SIGHUP does not let refused addresses be tried again",
        ("Refusals.after_settings@yaim.core", "refused=self.foreign(),", ""),
        only=(
            "helper refuses",
            "network fails",
            "record fails",
            "address foreign",
        ),
        seed=11,
    ),
    _fault(
        "what another node has for another reason does not matter",
        (
            "presence@yaim.core",
            "for name in sorted(name for name, node in nodes.items() if",
            "for name in sorted(name for name, node in () if",
        ),
        only=(
            "address foreign",
            "sick",
            "entry changed",
        ),
        seed=3,
    ),
    _fault(
        "what is claimed is added although another node has it for another reason",
        ("wanted@yaim.core", "| facts.is_elsewhere() |", "|"),
        only=(
            "address foreign",
            "sick",
            "entry changed",
            "slow",
        ),
        seed=59,
    ),
    _fault(
        "what a node has for another reason it does not say",
        ("_whole@yaim.core", "        present=state.elsewhere.present,\n", ""),
        only=(
            "address foreign",
            "sick",
        ),
        seed=2,
    ),
    _fault(
        "a restarted node forgets what it had for another reason",
        (
            "Elsewhere.knowing_before@yaim.core",
            "before = told.advertisement.present",
            "before = NOTHING",
        ),
        only=("address foreign",),
        seed=17,
    ),
    _fault(
        "what has gone before an earlier advertisement is read counts as here",
        (
            "Host.after_gone@yaim.core",
            "left = tuple(each for each in there if place not in (None, each))",
            "left = there",
        ),
        seed=1131,
    ),
    _fault(
        "what is here as the helper said is forgotten with time",
        (
            "Refusals.forgetting@yaim.core",
            "r.until <= now and r.cause is Cause.LIMIT",
            "r.until <= now",
        ),
        (
            "_take_refused@yaim.core",
            "Boottime(turn.now + REFUSED_FOR_S)",
            "Boottime(turn.now + (2.0 if event.cause is Cause.FOREIGN else REFUSED_FOR_S))",
        ),
        only=("address foreign",),
        seed=22,
    ),
    _fault(
        "what every node refuses is tried again after an hour",
        (
            "try_again@yaim.core",
            "if view is None or turn.now < refusals.trial.next_at:",
            "if True:",
        ),
        only=(
            "slow",
            "sick",
        ),
        seed=1,
    ),
    _fault(
        "what every node refuses is tried again all the time",
        (
            "try_again@yaim.core",
            "if view is None or turn.now < refusals.trial.next_at:",
            "if view is None:",
        ),
        only=(
            "slow",
            "sick",
        ),
        seed=1,
    ),
    _fault(
        "what is on trial is advertised as if it were held",
        (
            "Refusals.trying_again@yaim.core",
            "tried = on_trial(self.refused, self.too_many, unplaced - marked)\n",
            "tried = on_trial(self.refused, self.too_many, unplaced - marked)\n        found = self.without(tried)\n",
        ),
        only=(
            "slow",
            "sick",
        ),
        seed=7,
    ),
    _fault(
        "a limit that was found is forgotten",
        ("Refusals.with_limit@yaim.core", "if not too_many and not found.refused and 2", "if 2"),
        only=(
            "slow",
            "sick",
        ),
        seed=4,
    ),
    _fault(
        "that it takes nothing a node does not say",
        (
            "_whole@yaim.core",
            "return replace(whole, takes=takes or not whole.is_healthy)",
            "return whole",
        ),
        only=(
            "slow",
            "watch cut",
        ),
        seed=33,
    ),
    _fault(
        "a node that says that it takes nothing is placed like any other",
        (
            "_Cluster.candidates@yaim.core",
            "            able &= taking if holder is None else taking | 1 << holder\n",
            "",
        ),
        only=(
            "slow",
            "watch cut",
        ),
        seed=33,
    ),
    _fault(
        "a mark without a lease is nobody's at once",
        (
            "Takeover.noting_strays@yaim.core",
            "until = Boottime(all_over_at(now, ttl_s) + 2 * READ_EVERY_S)",
            "until = now",
        ),
        only=(
            "stray mark",
            "watch cut",
            "coordinator frozen",
            "slow",
        ),
        seed=11,
    ),
    _fault(
        "a mark without a lease is nobody's before every node has read",
        (
            "Takeover.noting_strays@yaim.core",
            "all_over_at(now, ttl_s) + 2 * READ_EVERY_S",
            "all_over_at(now, ttl_s)",
        ),
        only=("slow",),
        seed=8,
    ),
    _fault(
        "a mark that was put over another one is deleted after a wait",
        ("Takeover.noting_strays@yaim.core", "if not mark.is_over_another:", "if True:"),
        only=("slow",),
        seed=5,
    ),
    _fault(
        "a mark that was put over another one counts if it has a lease",
        ("ModelEtcd.put_mark@tests.sim", "if is_over_another or not lease:", "if not lease:"),
        only=("slow",),
        seed=5,
    ),
    _fault(
        "a mark without a lease counts for ever",
        ("_release@yaim.core", "and facts.now >= until", "and False"),
        only=("stray mark",),
    ),
    _fault(
        "what is advertised without a lease is given addresses",
        (
            "counted@yaim.core",
            "if not view.stray_nodes or version_of(view.nodes) >= 3:",
            "if not view.stray_nodes:",
        ),
        only=("stray node",),
    ),
    _fault(
        "whoever copies a node's advertisement makes it drop its lease",
        (
            "Facts.may_adopt@yaim.core",
            "return is_first and not self.my_marks() and node.lease",
            "return node.lease",
        ),
        only=("slow",),
        seed=7,
    ),
    _fault(
        "a lease of any TTL is adopted",
        (
            "LeaseState.after_kept@yaim.core",
            "event.lease == self.adopting and event.ttl_s > longest_s:",
            "False:",
        ),
        only=(
            "node copied",
            "coordinator killed",
        ),
        seed=11,
    ),
    _fault(
        "what stands under our name without a lease is never written over",
        ("Facts.replaced@yaim.core", "return stray.revision", "return ABSENT_KEY"),
        only=("stray node",),
    ),
    _fault(
        "what looks like another host's is never written over",
        (
            "Advertised.keeps_name_under@yaim.core",
            "return self.known_under == lease and self.overwrites < OVERWRITES_AT_MOST",
            "return False",
        ),
        only=("slow",),
        seed=19,
    ),
    _fault(
        "a clock that was set forward brings no deadline nearer",
        (
            "LeaseState.after_clock_jump@yaim.core",
            "deadline=Boottime(lease.deadline - by_s)",
            "deadline=lease.deadline",
        ),
        only=(
            "VM paused",
            "cut off",
        ),
        seed=19,
    ),
    _fault(
        "the helper adds whatever the deadline",
        ("ModelHelper._add@tests.sim", "elif not is_on_time:", "elif None:"),
        (
            "ModelHelper._set_lifetime@tests.sim",
            "lifetime = lifetime_s(holding.deadline - now, holding.life_s)",
            "lifetime = max(1, lifetime_s(holding.deadline - now, holding.life_s))",
        ),
        only=(
            "both frozen",
            "cut off",
            "coordinator frozen",
            "helper frozen",
        ),
        seed=143,
    ),
    _fault(
        "what no record tells of counts as absent",
        (
            "ModelHelper._remove@tests.sim",
            'return self._failed(remove, "it may be what an earlier life has left")',
            "return AddressRemoved(remove.request, address)",
        ),
        only=(
            "record purged",
            "sick",
            "entry changed",
            "coordinator killed",
        ),
        seed=6,
    ),
    _fault(
        "a lifetime is rounded up",
        ("lifetime_s@yaim_helper", "return max(0, floor(", "return max(0, 1 + floor("),
        seed=15,
    ),
    _fault(
        "the kernel is thought to be punctual",
        ("lateness_s@yaim_helper", "return min(max(0.4 * life_s, 1.4), 2.5)", "return 0.4"),
        seed=15,
    ),
    _fault(
        "an add that has failed for want of the disk is done when that is back",
        (
            "ModelHelper._do@tests.sim",
            "asked.event = self._failed(action, DISK_HANGS.reason)",
            "asked.event = self._failed(action, DISK_HANGS.reason)\n            self._host.late = [*getattr(self._host, 'late', []), (-1, action)]",
        ),
        (
            "ModelHelper.disk_answers@tests.sim",
            "self._stuck_at = None\n        for each in self.asked:",
            "self._stuck_at = None\n        self.inbox.extend(getattr(self._host, 'late', []))\n        self._host.late = []\n        for each in self.asked:",
        ),
        only=(
            "disk hangs",
            "sick",
            "flapping",
        ),
        seed=147,
    ),
    _fault(
        "an add is done though the removal of its address has overtaken it",
        ("overtaken@yaim_helper", "each.reply = OVERTAKEN", "pass"),
        only=(
            "disk hangs",
            "sick",
            "flapping",
        ),
        seed=1259,
    ),
    # --- the fence -----------------------------------------------------------------------------
    _fault(
        "an address is put on its interface before it is fenced",
        (
            "FencedHelper._adding@tests.sim",
            "            yield Transaction(partial(self._admit, holding))\n",
            "            yield InKernel(partial(self._put, holding), puts=add.address)\n            yield Transaction(partial(self._admit, holding))\n",
        ),
        only=MIDWAY,
    ),
    _fault(
        "an address leaves the fence before it is off its interface",
        (
            "FencedHelper._removing@tests.sim",
            "            yield InKernel(partial(self._take_off, address, resets))\n",
            "            yield Transaction(partial(self._fences.dismiss, [address]))\n            yield InKernel(partial(self._take_off, address, resets))\n",
        ),
        only=(*MIDWAY, *HELD_UP),
        seed=9,
    ),
    _fault(
        "the end of a fence is chosen whenever it was set",
        ("SET_WITHIN_S@yaim_helper", "0.025", "600.0"),
        only=MIDWAY,
    ),
    _fault(
        "the end of a fence counts from when it is chosen",
        (
            "Fence._set_live@yaim_helper",
            "            self._ruleset.change([*changes, *longer, *self._chosen_now(which)])\n",
            "            self._ruleset.change([*changes, *longer, *self._lasting(which, left_ms), *self._chosen_now(which)])\n",
        ),
        only=MIDWAY,
    ),
    _fault(
        "a renewal of a fence leaves the old end where it is",
        (
            "Fence._lasting@yaim_helper",
            "            yield nft.delete_elements(family, self._table, _LIVE[which], keys)\n",
            "",
        ),
        only=("slow",),
    ),
    _fault(
        "a renewal lets what is to go answer on, and what has outlived its deadline",
        (
            "Fences._answering@yaim_helper",
            "muted &= fenced.deadlines.keys()",
            "muted = set()",
        ),
        (
            "Fences.renew@yaim_helper",
            "frozenset(fenced.deadlines).difference(fenced.over, self._asked_to_go(owner))",
            "frozenset(fenced.deadlines)",
        ),
        only=(*HELD_UP, "cut off", "network fails"),
        seed=2,
    ),
    _fault(
        "all answer until the latest of their deadlines",
        (
            "Fences._answering@yaim_helper",
            "return min(fenced.deadlines.values(), default=0.0), muted",
            "return max(fenced.deadlines.values(), default=0.0), muted",
        ),
        only=(*MIDWAY, *HELD_UP, "coordinator killed"),
        seed=59,
    ),
    _fault(
        "who is taken over stays in the fence of an earlier life",
        ("Fences._ask@yaim_helper", "muting, self._earlier)", "muting, ())"),
        only=MIDWAY,
    ),
    _fault(
        "the fence of an earlier life is removed while what it keeps from answering is there",
        ("FencedHelper._look_at_earlier@tests.sim", "if now >= self._swept_at:", "if True:"),
        (
            "FencedHelper._sweeping@tests.sim",
            "if all(each in self.holdings for each in kernel.ours):",
            "if True:",
        ),
        (
            "FencedHelper._sweeping@tests.sim",
            "if not self._tables.is_live(each)]:",
            "if True]:",
        ),
        only=(*MIDWAY, "coordinator killed"),
        seed=14,
    ),
    _fault(
        "what an earlier life has left is not fenced anew after a flush",
        (
            "FencedHelper._secure_left_overs@tests.sim",
            "        if bare:\n",
            "        if not bare:\n",
        ),
        ("FencedHelper._secure_left_overs@tests.sim", "for each in bare:", "for each in ():"),
        only=("ruleset flushed", "both killed", "cut off"),
        seed=8,
    ),
    _fault(
        "a fence spares more than its grace is shorter",
        ("FENCE_SPARES_S@yaim.core", "HELPER_GRACE_S - FENCE_GRACE_S", "HELPER_GRACE_S + 0.05"),
        only=("slow",),
    ),
    _fault(
        "the deadline stays as it was when there is no fence any more",
        (
            "LeaseState.with_fence@yaim.core",
            "FENCE_SPARES_S if is_fenced else -FENCE_SPARES_S",
            "0.0",
        ),
        only=("fence switched", "slow"),
        seed=2,
    ),
    _fault(
        "connections are reset when the lease is not kept",
        ("_resets@yaim.core", "or facts.life_s() <= 0 ", ""),
        seed=11,
    ),
    _fault(
        "connections are reset when all leases are lost",
        ("_resets@yaim.core", "or facts.my_node() is None", ""),
        only=("leases revoked", "etcd wiped"),
    ),
    _fault(
        "connections are not reset at a stop",
        ("_resets@yaim.core", "if not is_here or", "if state.ending.stopping or not is_here or"),
        only=("coordinator stopped",),
    ),
    _fault(
        "connections are reset for a restart",
        (
            "take_in@yaim.core",
            "turn.ending = turn.ending.leaves(reason)\n                if not turn.addresses.look.is_pending:",
            "turn.ending = turn.ending.after_stop_asked(reason, turn.now)\n                if False:",
        ),
        only=("coordinator restarted",),
    ),
    _fault(
        "connections are reset although another node has the mark",
        ("_resets@yaim.core", "return address not in view.stray_marks and (", "return True or ("),
        seed=4,
    ),
    _fault(
        "connections are reset although they are to be left",
        ("Facts.can_reset@yaim.core", "return wants and", "return"),
    ),
    _fault(
        "connections are to be reset by a helper that cannot",
        ("Facts.can_reset@yaim.core", "and helper.resets.can_reset", ""),
        seed=7,
    ),
    _fault(
        "connections are cleared before another node has the mark",
        (
            "clears@yaim.core",
            "if mark is not None and mark.holder != facts.me and is_in_force(mark, view.nodes):",
            "if True:",
        ),
        seed=1,
    ),
    _fault(
        "connections are never cleared",
        ("clears@yaim.core", "if view is None or not facts.can_reset():", "if True:"),
        seed=2,
    ),
    _fault(
        "what an incomplete reset has left is not cleared",
        ("Left.after_removed@yaim.core", "event.left == 0", "event.left is not None"),
        seed=2,
    ),
    _fault(
        "what went without a reset is not cleared",
        ("Left.after_removed@yaim.core", "event.left == 0", "not event.left"),
        seed=5,
    ),
    _fault(
        "what the helper had when it was ready is not cleared",
        (
            "_take_helper@yaim.core",
            "with_here(each.address for each in event.addresses)",
            "with_here(())",
        ),
        seed=18,
    ),
    _fault(
        "nothing is put off that moves only to be level",
        (
            "_assigned@yaim.core",
            "assigned |= state.levelling.put_off(state.settings, facts.now)",
            "",
        ),
        seed=1,
    ),
    _fault(
        "a delay of levelling is over at once",
        ("Levelling.put_off@yaim.core", "or now < since + delay_s", ""),
        seed=5,
    ),
    _fault(
        "a closed window is taken for an open one",
        ("Levelling.is_allowed@yaim.core", " and self.is_window_open", ""),
        seed=6,
    ),
    _fault(
        "nobody hears that the window opens",
        (
            "Levelling.after_window@yaim.core",
            "is_window_open=is_open)",
            "is_window_open=self.is_window_open)",
        ),
        seed=41,
    ),
    _fault(
        "who puts levelling off takes no orphans",
        (
            "_assigned@yaim.core",
            "if name == me)",
            "if name == me and (state.levelling.is_allowed(state.settings) or a in facts.my_addresses()))",
        ),
        seed=1,
    ),
    _fault(
        "who puts levelling off keeps also what it may not hold",
        ("moves_to_level@yaim.core", "and node.can_hold(view.pool[a])", ""),
        seed=9,
    ),
    _fault(
        "a mark is handed over while the address is being removed",
        (
            "_release@yaim.core",
            "mark.address in going and state.addresses.is_absent(mark.address)",
            "mark.address in going and (state.addresses.is_absent(mark.address) or mark.address in state.placed.target)",
        ),
    ),
    _fault(
        "what is handed over stands under the giver's lease",
        (
            "ModelEtcd._release@tests.sim",
            "mark.address, heir.node, heir.lease, action.moved, mark.version + 1",
            "mark.address, heir.node, mark.lease, action.moved, mark.version + 1",
        ),
    ),
    _fault(
        "marks are handed over to nodes that take nothing",
        ("heirs@yaim.core", "or not node.can_take(entry)", ""),
        (
            "_Cluster.candidates@yaim.core",
            "            able &= taking if holder is None else taking | 1 << holder\n",
            "",
        ),
    ),
    _fault(
        "marks are handed over beside nodes that do not understand that",
        ("heirs@yaim.core", "if not facts.all_know_control():", "if False:"),
        only=("other version", "sick"),
        seed=23,
    ),
    _fault(
        "what was handed over stays beside nodes that do not understand that",
        ("_not_understood@yaim.core", "if mark.version > 1", "if False"),
        only=("other version", "moved", "drained"),
        seed=168,
    ),
    _fault(
        "a drained node counts as one that can hold",
        ("_place@yaim.core", "waiting = orders.drained | cluster.flapping", "waiting = 0"),
    ),
    _fault(
        "drains are not looked at",
        ("is_alike@yaim.core", "and _is_control_alike(before.control, view.control)", "and True"),
        seed=8,
    ),
    _fault(
        "a pause is not looked at",
        ("_Orders.choose@yaim.core", "if self.is_paused and", "if False and"),
        seed=6,
    ),
    _fault(
        "while all is paused orphans are left",
        (
            "_claim@yaim.core",
            "if facts.now >= orphans.get(a, NEVER)",
            "if facts.now >= orphans.get(a, NEVER) and view.control.pause is None",
        ),
        seed=2,
    ),
    _fault(
        "a pin is kept to by a node that cannot",
        (
            "_Orders.choose@yaim.core",
            "self.pins.get(entry.address, 0) & eligible",
            "self.pins.get(entry.address, 0)",
        ),
        seed=3,
    ),
    _fault(
        "a move is put off like what is moved to be level",
        ("moves_to_level@yaim.core", "and not facts.is_ordered(a, to)", ""),
        seed=9,
    ),
    _fault(
        "a move goes on when it is done",
        ("ModelEtcd._mark@tests.sim", 'self.orders.delete(("move", address))', "pass"),
        seed=9,
    ),
    _fault(
        "weights are not looked at",
        ("_weights@yaim.core", "each.weight", "1"),
        seed=5,
    ),
    _fault(
        "nodes say too early that they have done what was asked for",
        (
            "is_done@yaim.core",
            "    if state.cluster.view is None",
            "    return True\n    if state.cluster.view is None",
        ),
        ("is_at_rest@yaim.core", "    if addresses.look", "    return True\n    if addresses.look"),
    ),
    _fault(
        "nobody says that it has done what was asked for",
        ("echo@yaim.core", "    if is_done(facts, wanted):\n        return known\n", ""),
    ),
    _fault(
        "a drained node forgets that when it is started anew",
        (
            "_whole@yaim.core",
            "is_drained=is_drained,",
            "is_drained=is_drained and present is None,",
        ),
    ),
)
