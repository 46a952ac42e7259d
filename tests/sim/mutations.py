# ruff: noqa: E501 (pieces of source text, as they stand there)
"""Does the checker bite? Faults put into the code on purpose, each of which some seed has to show.

A mutation is a change of a module's source text. The whole simulation is imported anew on top of
it, apart from the true one, and plays its seeds until an invariant breaks.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

STEP = "yaim.core.step"
DEADLINE = "yaim.core.deadline"
PLACEMENT = "yaim.core.placement"
MODEL = "yaim.core.model"
SPREAD = "yaim.core.spread"
ADDRESSES = "yaim_helper.kernel.addresses"
ASKED = "yaim_helper.serve.asked"
MODEL_HELPER = "tests.sim.helper"
MODEL_HOST = "tests.sim.host"
MODEL_ETCD = "tests.sim.etcd"
MODEL_VERSIONS = "tests.sim.versions"
HELD_UP = ("routing lock held", "helper frozen", "sick", "entry changed")
"""With what leads to a release."""
_ANEW = ("yaim.core", "yaim_helper", "tests.sim")


@dataclass(frozen=True, slots=True)
class Mutation:
    name: str
    module: str
    changes: tuple[tuple[str, str], ...]
    """What stands there, exactly once, and what is put in its place."""
    only: tuple[str, ...] = ()
    """The faults that could show it: it is looked for among these, to be quick."""
    seed: int = 0
    """One that shows it, or showed it once: it is looked for there first, to be quick. A search
    tells a better one (python -m tests.sim --mutations)."""


@dataclass(frozen=True, slots=True)
class Caught:
    mutation: str
    seed: int
    """That showed it."""
    count: int
    """How many were played until it was."""
    invariant: str | None
    """None: it was not."""


def _in(
    module: str,
    name: str,
    *changes: tuple[str, str],
    only: tuple[str, ...] = (),
    seed: int = 0,
) -> Mutation:
    return Mutation(name, module, changes, only, seed)


# Not in the list, because no seed of some hundreds showed them. Of the first four we know no harm:
# - what is missing at a renewal counts as absent: the kernel has told that it is gone before;
# - what an earlier helper has left is not looked at: it ends with its lifetime, within its lease;
# - claims on a view known to be stale: they are lost, and the next read follows all the same.
# - the helper renews what is past its deadline: since nothing is believed gone by the clock alone, its
#   removal is asked for before anything else is, of a helper that was stopped, too.
# These need a rarer schedule than is drawn. A coordinator that comes back is welcome while adds of the
# connection before it wait for the disk: tests/helper/record/test_disk.py holds on to that; to the others
# tests/core/test_step.py does:
# - no guard on a release, adding before the own advertisement is written (a request of an earlier
#   life would have to arrive late and hit a mark in use again, or just before the first one of the
#   new life, which then has to look again before it adds);
# - adopting another lease with marks under the own one (it would have to be copied there within the
#   milliseconds between the adoption and the first advertisement);
# - leaving what is handed over after a loss until others have learnt of it;
# - believing a removal at the deadline without the grace; a mark of another lease taken for ours;
#   a keepalive sent before a pause and answered after the clock was set.
MUTATIONS: tuple[Mutation, ...] = (
    _in(
        STEP,
        "the deadline counts from the answer",
        ("deadline_of(event.sent_at, event.ttl_s)", "deadline_of(self.now, event.ttl_s)"),
        seed=1,
    ),
    _in(DEADLINE, "no margin", ("MARGIN_S = HELPER_GRACE_S + 0.05", "MARGIN_S = 0.0")),
    _in(
        STEP,
        "a mark is released before the address is removed",
        (
            "if mark.address not in wanted\n            and self._is_absent(mark.address)",
            "if mark.address not in wanted",
        ),
    ),
    _in(
        STEP,
        "all counts as removed",
        (
            "return all(local.phase is Phase.ABSENT for local in self.state.local.values()) and all(",
            "return True or all(",
        ),
        seed=11,
    ),
    _in(
        MODEL_ETCD,
        "no guard on the advertisement for a claim",
        (
            "def _claim(self, action: ClaimMarks, me: NodeName) -> Event:\n        if not self._stands(me, action.advertised):",
            "def _claim(self, action: ClaimMarks, me: NodeName) -> Event:\n        if False:",
        ),
        only=("all flapping", "lossy", "all sick"),
        seed=34,
    ),
    _in(SPREAD, "no move is ever made to level", ("if self._loads.difference > 1:", "if False:")),
    _in(
        SPREAD,
        "nodes may differ by two",
        ("if self._loads.difference > 1:", "if self._loads.difference > 2:"),
    ),
    _in(
        PLACEMENT,
        "who waits is placed like any other",
        ("eligible = able & ~waiting or", "eligible = able or"),
        only=("flapping", "all flapping", "sick"),
        seed=19,
    ),
    _in(
        PLACEMENT,
        "who waits never holds anything",
        ("or (able if home is None else 1 << home)", "or 0"),
        only=("flapping", "all flapping", "sick"),
        seed=49,
    ),
    _in(
        PLACEMENT,
        "what nobody holds is not taken by those that wait",
        ("or (able if home is None else 1 << home)", "or (0 if home is None else 1 << home)"),
        only=("flapping", "all flapping", "sick"),
        seed=49,
    ),
    _in(
        PLACEMENT,
        "the placement stays although others hold what it is about",
        ("and before.marks == view.marks", "and True"),
        seed=1,
    ),
    _in(
        PLACEMENT,
        "the placement stays although nodes have become healthy or unhealthy",
        ("all(_is_node_alike(", "all(True or _is_node_alike("),
        seed=2,
    ),
    _in(
        MODEL_VERSIONS,
        "newer nodes place by a version that an older one does not know",
        ("placement=1, schema=1", "placement=2, schema=1"),
        seed=8,
    ),
    _in(
        MODEL_VERSIONS,
        "newer nodes leave to an older one what it does not understand",
        ("placement=1, schema=1", "placement=1, schema=2"),
        seed=8,
    ),
    _in(
        PLACEMENT,
        "what an older node does not understand counts in what is placed with it",
        ("if entry.schema not in higher}", "if entry}"),
        seed=8,
    ),
    _in(
        STEP,
        "a placement that was put off is not made up for",
        ("if not self.state.is_target_put_off and self._keep_ahead():", "if self._keep_ahead():"),
        (
            "        if state.is_target_put_off:\n            return self.now\n",
            "",
        ),
        (
            "self._change(is_target_put_off=True)",
            "self._change(is_target_put_off=True, target_of=view)",
        ),
    ),
    _in(
        STEP,
        "a wait never ends",
        ("self.now < flaps.waits_until(max_wait_s)", "True"),
        ("flaps.wait_s(max_wait_s) if is_waiting", "flaps.wait_s(60.0) if is_waiting"),
        only=("flapping", "all flapping", "sick"),
    ),
    _in(
        STEP,
        "a new helper means that nothing is there",
        (
            "else replace(known, phase=Phase.UNKNOWN)\n            for",
            "else replace(known, phase=Phase.ABSENT)\n            for",
        ),
        seed=61,
    ),
    _in(
        STEP,
        "a refused add means that the address is absent",
        (
            "replace(local, phase=Phase.UNKNOWN, retry_at=retry_at, has_gone=False)",
            "Local(Phase.ABSENT, retry_at=retry_at)",
        ),
        only=("address deleted", "helper refuses", "sick", "entry changed"),
        seed=4,
    ),
    _in(
        STEP,
        "a renewal does not count for what we know nothing of",
        (
            "if local.phase in (Phase.ADDING, Phase.UP, Phase.UNKNOWN)",
            "if local.phase in (Phase.ADDING, Phase.UP)",
        ),
        only=("address deleted", "slow", "all slow", "sick", "helper refuses"),
        seed=4,
    ),
    _in(
        STEP,
        "an address that has gone is absent",
        (
            'has gone from the interface")\n            self._record(address, replace(local, phase=Phase.UNKNOWN))',
            'has gone from the interface")\n            self._record(address, Local(Phase.ABSENT))',
        ),
        seed=20,
    ),
    _in(
        STEP,
        "an add that failed means that the address is absent",
        ("replace(adding, phase=Phase.UNKNOWN)", "Local(Phase.ABSENT)"),
        only=("record fails", "address deleted", "sick"),
        seed=4,
    ),
    _in(
        STEP,
        "a removal that failed counts",
        (
            "failed = replace(removing, retry_at=retry_at, failure=event.reason)",
            "failed = Local(Phase.ABSENT)",
        ),
        only=("network fails", "sick", "entry changed"),
        seed=4,
    ),
    _in(
        STEP,
        "a release in doubt is forgotten",
        ("in_doubt=self.state.in_doubt | marks", "in_doubt=self.state.in_doubt"),
        only=("entry changed", "slow", "answers cut", "lossy", "sick"),
        seed=149,
    ),
    _in(
        STEP,
        "a release under way is forgotten",
        (
            "return leaving | (_to_release(write) if write is not None else frozenset())",
            "return leaving",
        ),
        only=("entry changed", "slow", "sick", "flapping"),
        seed=39,
    ),
    _in(
        STEP,
        "what a full etcd has refused counts as not done",
        ("self._change(unsettled=self.state.unsettled | marks)", "pass"),
        only=("etcd full", "flapping"),
        seed=56,
    ),
    _in(
        STEP,
        "a full etcd leaves a node advertised that can hold nothing",
        ("elif takes_deletions(state.full):", "elif False:"),
        only=("etcd full", "sick", "link down"),
        seed=60,
    ),
    _in(
        STEP,
        "who cannot even withdraw from a full etcd keeps its lease",
        ("return refuses_deletions(self.state.full) and self._has_too_much()", "return False"),
        only=("etcd full", "sick", "link down"),
        seed=60,
    ),
    _in(
        STEP,
        "who withdraws from a full etcd does not remove its addresses before",
        (
            "if node is None or view is None or not self._has_removed_all():",
            "if node is None or view is None:",
        ),
        only=("etcd full", "link down", "helper frozen"),
    ),
    _in(
        STEP,
        "an address is believed gone a second before its deadline",
        (
            "is_in_time = overdue_since(known.deadline) > self.state.look.asked_at",
            "is_in_time = known.deadline - 1.0 > self.now",
        ),
        ("self.now >= overdue_since(known.deadline)", "self.now >= known.deadline - 1.0"),
        ("or address in present", ""),
        only=("helper killed", "helper frozen", "sick", "both frozen"),
        seed=14,
    ),
    _in(
        STEP,
        "an address is believed gone by the clock",
        (
            "is_in_time = overdue_since(known.deadline) > self.state.look.asked_at",
            "is_in_time = overdue_since(known.deadline) > self.now",
        ),
        (
            "self._look()\n        self._judge()",
            "self._take_seen(frozenset())\n        self._judge()",
        ),
        only=HELD_UP,
        seed=11,
    ),
    _in(
        STEP,
        "what is seen is believed gone",
        ("or is_in_time or address in present", "or is_in_time"),
        only=HELD_UP,
        seed=59,
    ),
    _in(
        MODEL_HOST,
        "a look does not wait for what is under way in the kernel",
        (
            "self.kernel.when_free(LOOK_TAKES_S, look)\n\n",
            "self.at(self.clock() + LOOK_TAKES_S, see)\n\n",
        ),
        only=HELD_UP,
        seed=59,
    ),
    _in(
        STEP,
        "a lease that is gone is not given up",
        (
            "self._take_loss(self.state.lease)\n                self._forget_lease()",
            "self._take_loss(self.state.lease)",
        ),
    ),
    _in(
        STEP,
        "after a loss of all leases others' addresses are claimed at once",
        ("if loss is None:\n            return assigned", "if True:\n            return assigned"),
        only=("leases revoked", "etcd wiped", "coordinator frozen", "cut off"),
        seed=5,
    ),
    _in(
        DEADLINE,
        "after a loss of all leases others are waited for only half as long",
        ("Boottime(learnt_at + granted_ttl_s *", "Boottime(learnt_at + 0.5 * granted_ttl_s *"),
        only=("leases revoked", "etcd wiped", "coordinator frozen", "cut off"),
        seed=19,
    ),
    _in(
        STEP,
        "after a loss of all leases what was ours is not known",
        ("return ours | {a for a in assigned", "return {a for a in assigned"),
        seed=1,
    ),
    _in(
        STEP,
        "an older view replaces a newer one",
        ("view.revision < before.revision:", "view.revision < 0:"),
        seed=1,
    ),
    _in(
        STEP,
        "a wiped etcd is not believed",
        ("is_other_history = view.revision < self.state.read_after", "is_other_history = False"),
        only=("etcd wiped", "powered off", "coordinator killed"),
        seed=22,
    ),
    _in(
        STEP,
        "an unhealthy node keeps what it has",
        ("elif self._health().is_healthy:", "elif self._health():"),
        (
            "wanted = self._assigned()",
            "wanted = {mark.address for mark in self._my_marks()} | self._assigned()",
        ),
    ),
    _in(
        STEP,
        "an interface that is down does not matter",
        ("return frozenset(ours - up)", "return frozenset()"),
    ),
    _in(
        STEP,
        "what should be elsewhere stays where it is",
        (
            "is_elsewhere = local.phase is Phase.UP and local.place not in (None, place)",
            "is_elsewhere = False",
        ),
        only=("entry moved", "settings moved"),
    ),
    _in(
        STEP,
        "what has a wrong entry goes where the settings have it",
        ("            should = here\n", "            pass\n"),
        only=("entry moved", "settings moved"),
        seed=6,
    ),
    _in(
        STEP,
        "a new life does not know where an address is",
        ("place = event.places.get(on_interface.address)", "place = None"),
        only=("entry moved", "settings moved", "coordinator restarted"),
        seed=8,
    ),
    _in(
        PLACEMENT,
        "what no node can be given is given up",
        ("in_order[holder].can_keep(entry):", "not in_order:"),
        seed=2,
    ),
    _in(
        STEP,
        "SIGHUP does not let refused addresses be tried again",
        (
            "refused=self._foreign(),\n                    trial=",
            "trial=",
        ),
        only=("helper refuses", "network fails", "record fails", "address foreign"),
        seed=11,
    ),
    _in(
        MODEL,
        "what another node has for another reason does not matter",
        (
            "for name in sorted(name for name, node in nodes.items() if",
            "for name in sorted(name for name, node in () if",
        ),
        only=("address foreign", "sick", "entry changed"),
        seed=2,
    ),
    _in(
        STEP,
        "what is claimed is added although another node has it for another reason",
        ("| self._is_elsewhere() |", "|"),
        only=("address foreign", "sick", "entry changed", "slow"),
        seed=16,
    ),
    _in(
        STEP,
        "what a node has for another reason it does not say",
        ("            present=self.state.present,\n", ""),
        only=("address foreign", "sick"),
        seed=2,
    ),
    _in(
        STEP,
        "a restarted node forgets what it had for another reason",
        ("before = node.advertisement.present", "before = NOTHING"),
        only=("address foreign",),
        seed=17,
    ),
    _in(
        STEP,
        "what is here as the helper said is forgotten with time",
        ("if r.until > self.now or r.cause is not Cause.LIMIT", "if r.until > self.now"),
        (
            "Boottime(self.now + REFUSED_FOR_S)",
            "Boottime(self.now + (2.0 if event.cause is Cause.FOREIGN else REFUSED_FOR_S))",
        ),
        only=("address foreign",),
        seed=34,
    ),
    _in(
        STEP,
        "what every node refuses is tried again after an hour",
        ("if view is None or self.now < state.trial.next_at:", "if True:"),
        only=("slow", "sick"),
        seed=1,
    ),
    _in(
        STEP,
        "what every node refuses is tried again all the time",
        ("if view is None or self.now < state.trial.next_at:", "if view is None:"),
        only=("slow", "sick"),
        seed=1,
    ),
    _in(
        STEP,
        "what is on trial is advertised as if it were held",
        (
            "tried = on_trial(state.refused, state.too_many, unheld)\n",
            "tried = on_trial(state.refused, state.too_many, unheld)\n        self._refuse_no_more(tried)\n",
        ),
        only=("slow", "sick"),
        seed=7,
    ),
    _in(
        STEP,
        "a limit that was found is forgotten",
        ("            if not too_many and not state.refused and 2", "            if 2"),
        only=("slow", "sick"),
        seed=16,
    ),
    _in(
        STEP,
        "that it takes nothing a node does not say",
        ("desired = replace(desired, takes=takes or not desired.is_healthy)", "pass"),
        only=("slow", "watch cut"),
        seed=24,
    ),
    _in(
        PLACEMENT,
        "a node that says that it takes nothing is placed like any other",
        ("        able &= taking if holder is None else taking | 1 << holder\n", ""),
        only=("slow", "watch cut"),
        seed=24,
    ),
    _in(
        STEP,
        "a mark without a lease is nobody's at once",
        (
            "until = Boottime(all_over_at(self.now, self._ttl_s()) + 2 * READ_EVERY_S)",
            "until = self.now",
        ),
        only=("stray mark", "watch cut", "coordinator frozen", "slow"),
    ),
    _in(
        STEP,
        "a mark without a lease is nobody's before every node has read",
        ("self._ttl_s()) + 2 * READ_EVERY_S)", "self._ttl_s()))"),
        only=("slow",),
    ),
    _in(
        STEP,
        "a mark that was put over another one is deleted after a wait",
        ("            if not mark.is_over_another:\n", "            if True:\n"),
        only=("slow",),
        seed=5,
    ),
    _in(
        MODEL_ETCD,
        "a mark that was put over another one counts if it has a lease",
        ("if is_over_another or not lease:", "if not lease:"),
        only=("slow",),
        seed=5,
    ),
    _in(
        STEP,
        "a mark without a lease counts for ever",
        (
            "and self.now >= until\n            and self.state",
            "and False\n            and self.state",
        ),
        only=("stray mark",),
    ),
    _in(
        PLACEMENT,
        "what is advertised without a lease is given addresses",
        ("if not view.stray_nodes or version_of(view.nodes) >= 3:", "if not view.stray_nodes:"),
        only=("stray node",),
        seed=1,
    ),
    _in(
        STEP,
        "whoever copies a node's advertisement makes it drop its lease",
        (
            "return is_first and not self._my_marks() and node.lease != self.state.not_adopted",
            "return node.lease != self.state.not_adopted",
        ),
        only=("slow",),
        seed=7,
    ),
    _in(
        STEP,
        "a lease of any TTL is adopted",
        ("event.lease == self.state.adopting and event.ttl_s > longest_s:", "False:"),
        only=("node copied", "coordinator killed"),
        seed=11,
    ),
    _in(
        STEP,
        "what stands under our name without a lease is never written over",
        ("            return stray.revision\n", "            return ABSENT_KEY\n"),
        only=("stray node",),
    ),
    _in(
        STEP,
        "what looks like another host's is never written over",
        ("return is_ours and state.overwrites < OVERWRITES_AT_MOST", "return False"),
        only=("slow",),
        seed=19,
    ),
    _in(
        STEP,
        "a clock that was set forward brings no deadline nearer",
        ("deadline=Boottime(lease.deadline - by_s)", "deadline=lease.deadline"),
        only=("VM paused", "cut off"),
        seed=120,
    ),
    _in(
        MODEL_HELPER,
        "the helper adds whatever the deadline",
        (
            "elif not is_on_time:",
            "elif None:",
        ),
        (
            "lifetime = lifetime_s(holding.deadline - now, holding.life_s)",
            "lifetime = max(1, lifetime_s(holding.deadline - now, holding.life_s))",
        ),
        only=("both frozen", "cut off", "coordinator frozen", "helper frozen"),
        seed=71,
    ),
    _in(
        MODEL_HELPER,
        "what no record tells of counts as absent",
        (
            'return self._failed(remove, "it may be what an earlier life has left")',
            "return AddressRemoved(remove.request, address)",
        ),
        only=("record purged", "sick", "entry changed", "coordinator killed"),
        seed=2,
    ),
    _in(
        ADDRESSES,
        "a lifetime is rounded up",
        ("return max(0, floor(", "return max(0, 1 + floor("),
        seed=15,
    ),
    _in(
        ADDRESSES,
        "the kernel is thought to be punctual",
        ("return min(max(0.4 * life_s, 1.4), 2.5)", "return 0.4"),
        seed=15,
    ),
    _in(
        MODEL_HELPER,
        "an add that has failed for want of the disk is done when that is back",
        (
            "asked.event = self._failed(action, DISK_HANGS.reason)",
            "asked.event = self._failed(action, DISK_HANGS.reason)\n            self._host.late = [*getattr(self._host, 'late', []), (-1, action)]",
        ),
        (
            "self._stuck_at = None\n        for each in self.asked:",
            "self._stuck_at = None\n        self.inbox.extend(getattr(self._host, 'late', []))\n        self._host.late = []\n        for each in self.asked:",
        ),
        only=("disk hangs", "sick", "flapping"),
        seed=80,
    ),
    _in(
        ASKED,
        "an add is done though the removal of its address has overtaken it",
        ("each.reply = OVERTAKEN", "pass"),
        only=("disk hangs", "sick", "flapping"),
        seed=139,
    ),
)


class _Mutating(MetaPathFinder):
    """Finds one module, with other source text."""

    def __init__(self, mutation: Mutation) -> None:
        self._mutation = mutation

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != self._mutation.module:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None:
            raise ImportError(fullname)
        spec.loader = _Loader(self._mutation, spec.origin)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, mutation: Mutation, path: str) -> None:
        super().__init__(mutation.module, path)
        self._mutation = mutation

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        """Without the cache of compiled files."""
        text = self.get_source(fullname) or ""
        for before, after in self._mutation.changes:
            if text.count(before) != 1:
                raise ValueError(
                    f"{self._mutation.name}: {text.count(before)} times in {fullname}: {before}"
                )
            text = text.replace(before, after)
        return compile(text, self.get_filename(fullname), "exec")


@contextmanager
def mutated(mutation: Mutation) -> Iterator[ModuleType]:
    """tests.sim.run, with everything that it stands on imported anew."""
    before = {name: module for name, module in sys.modules.items() if name.startswith(_ANEW)}
    for name in before:
        del sys.modules[name]
    finder = _Mutating(mutation)
    sys.meta_path.insert(0, finder)
    try:
        yield importlib.import_module("tests.sim.run")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.startswith(_ANEW)]:
            del sys.modules[name]
        sys.modules.update(before)
        for name, module in before.items():
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                setattr(sys.modules[parent], child, module)


def catch(mutation: Mutation, max_seeds: int, *, is_searched: bool = False) -> Caught:
    """Play seeds until an invariant breaks: the known one, and then, or if it `is_searched` at
    once, from 0 on."""
    with mutated(mutation) as run, run.quickly():
        known = () if is_searched else (mutation.seed,)
        for count, seed in enumerate((*known, *range(max_seeds)), 1):
            broken = run.play(run.draw(seed, mutation.only)).broken
            if broken is not None:
                return Caught(mutation.name, seed, count, broken.invariant)
    return Caught(mutation.name, max_seeds, max_seeds, None)
